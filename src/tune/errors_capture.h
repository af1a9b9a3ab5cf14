/*
 * What attention of one prompt and its answer is made of: queries of the answer's tokens, keys and values of
 * all.
 *
 * The answer's tokens are known by now, so prompt and answer go through the model in one step: the same
 * queries, keys and values as token by token (a result does not depend on the batch), and the rows of one
 * prompt are all that is held.
 */
#ifndef KV_TUNE_ERRORS_CAPTURE_H
#define KV_TUNE_ERRORS_CAPTURE_H

#include "tune/errors_answers.h"

struct kv_captured {
    int n_layer, n_head, n_head_kv, head_dim;
    int64_t n_prompt, n_tokens; /* query i is at position n_prompt + i */
    int64_t n_tokens_cap, n_queries_cap;
    float *q;                   /* (n_layer, n_head, n_queries, head_dim) after RoPE, unscaled         */
    uint16_t *k, *v;            /* f16 (n_layer, n_head_kv, n_tokens, head_dim), keys after RoPE: what a
                                 * 16-bit cache holds */
};

struct kv_capturer {
    struct kvant_session *session;
    struct kvant_plan *f16;
    struct kvant_batch_entry *entries; /* (n_tokens_cap) */
    struct kv_captured rows;
    const struct kv_kernels *kernels;
};

/* Room for the longest of the answers. */
kvant_status kv_capturer_open(struct kv_capturer *out, const struct kvant_model *model,
                              const struct kv_answers *answers, struct kvant_error *err);
void kv_capturer_close(struct kv_capturer *c);
/* Fills c->rows. */
kvant_status kv_capturer_run(struct kv_capturer *c, const struct kv_answered *item, struct kvant_error *err);

static inline int64_t kv_captured_queries(const struct kv_captured *c)
{
    return c->n_tokens - c->n_prompt;
}

/* (n_queries, head_dim) of one query head */
static inline const float *kv_captured_q(const struct kv_captured *c, int layer, int head)
{
    return c->q + ((size_t)layer * (size_t)c->n_head + (size_t)head) * (size_t)kv_captured_queries(c) *
                      (size_t)c->head_dim;
}

/* Where the rows of one KV head begin in k and v. */
static inline size_t kv_captured_at(const struct kv_captured *c, int layer, int head_kv)
{
    return ((size_t)layer * (size_t)c->n_head_kv + (size_t)head_kv) * (size_t)c->n_tokens *
           (size_t)c->head_dim;
}

#endif
