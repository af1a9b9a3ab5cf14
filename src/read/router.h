/*
 * The router in memory and as a file: a small network on a pooled window of a prompt's cache.
 * docs/format-router.md specifies the file.
 *
 *     d = w2 · max(0, W1 x' + b1) + b2     x' = (x − mean) · inverse, per input     d in 0 .. 100, unclamped
 */
#ifndef KV_READ_ROUTER_H
#define KV_READ_ROUTER_H

#include "base/hash.h"
#include "base/error.h"

#define KV_ROUTER_INPUT_MAX 65536
#define KV_ROUTER_HIDDEN_MAX 8192
#define KV_ROUTER_WINDOW_MAX 65536
#define KV_ROUTER_LAYERS_MAX 4096
#define KV_ROUTER_MODES_CAP 32

struct kvant_router {
    int n_input, n_hidden, window;
    int layer_first, n_layers;             /* of the model, as a range               */
    int model_layers, n_head_kv, head_dim; /* of the model that it was trained for   */
    int part, heads;                       /* of the public enumerations             */
    bool before_rope, by_side, hidden;     /* hidden: trained on hidden states       */
    char fingerprint[KV_HASH_TEXT_CAP], modes[KV_ROUTER_MODES_CAP];
    float *mean, *inverse;                 /* (n_input)                              */
    float *w1, *b1, *w2;                   /* (n_hidden, n_input), (n_hidden), (n_hidden) */
    float b2;
};

/* A router with room for its sizes, all weights 0. MEMORY. */
kvant_status kv_router_alloc(struct kvant_router **out, int n_input, int n_hidden, struct kvant_error *err);
/* From untrusted bytes. FORMAT with the position. */
kvant_status kv_router_parse(struct kvant_router **out, const uint8_t *data, size_t n_bytes,
                             struct kvant_error *err);
/* *data: kv_free. */
kvant_status kv_router_write(const struct kvant_router *r, uint8_t **data, size_t *n_bytes,
                             struct kvant_error *err);

#endif
