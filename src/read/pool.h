/*
 * What one pooled vector is made of, with every choice settled: which layers, heads, tokens and parts, and
 * where each piece lies in the vector.
 */
#ifndef KV_READ_POOL_H
#define KV_READ_POOL_H

#include "run/session.h"

/* Pooling of keys and values. */
struct kv_pooling {
    int n_layer, n_head_kv, head_dim;
    int layer_first, n_layers; /* of the model, those that are read                  */
    int n_parts;               /* 1 or 2                                             */
    enum kv_read_side part[2];
    bool heads_mean, by_side, before_rope;
    int layer_dim;             /* of one layer: n_parts x heads x head_dim           */
};

/* Heads and parts of the public options, over layers [first, last) as there. ARGUMENT names the field. */
kvant_status kv_pooling_set(struct kv_pooling *out, const struct kvant_model *model,
                            const struct kvant_embed_options *opt, struct kvant_error *err);
/* Layers [first, last) of n as the options name them. */
kvant_status kv_pooling_layers(int first, int last, int n, int *layer_first, int *n_layers,
                               struct kvant_error *err);
/* Tokens [first, last) of n as the options name them. ARGUMENT when there is none. */
kvant_status kv_pooling_tokens(int64_t *first, int64_t *last, int64_t n, struct kvant_error *err);

/* Element at which channel 0 of (head, part) of one layer lies; part: 0 or 1 of `part`. */
static inline int kv_pooling_at(const struct kv_pooling *p, int head_kv, int part)
{
    int n_heads = p->heads_mean ? 1 : p->n_head_kv, head = p->heads_mean ? 0 : head_kv;
    return (p->by_side ? part * n_heads + head : head * p->n_parts + part) * p->head_dim;
}

/* Sums over tokens [first, last) of one sequence, of each layer: out (n_layers, layer_dim), with heads
 * already averaged where they are. Threads share the (layer, head) pairs; the sums do not depend on how. */
kvant_status kv_pooling_sum(const struct kv_pooling *p, const struct kvant_session *session, int seq,
                            int64_t first, int64_t last, double *out, struct kvant_error *err);

/* Single tokens: out (last - first, layer_dim), each the mean over the layers. What a trajectory over
 * tokens and a sliding window are made of. */
kvant_status kv_pooling_rows(const struct kv_pooling *p, const struct kvant_session *session, int seq,
                             int64_t first, int64_t last, float *out, struct kvant_error *err);

/* x / |x|. NUMERIC when x has no length, or none that is finite. */
kvant_status kv_normalize(float *x, size_t n, struct kvant_error *err);

#endif
