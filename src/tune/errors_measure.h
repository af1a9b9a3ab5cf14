/*
 * The errors of one layer in one mode on one prompt: the formulas.
 *
 *   e_k, e_v   Σ|x − x̂| / Σ|x| of a quantized token row of one KV head
 *   e_a        Σ|a − â| / (p + 1) of a query at position p;   a = softmax(q·K / √d), â with K̂
 *   e_o        Σ|o − ô| / Σ|o|;   o = a·V, ô = â·V̂
 *
 * K̂ and V̂ are what the query reads: exact outside of what errors_modes.h draws. Units are averaged over
 * heads, then over tokens; a unit whose denominator is 0 is left out and counted.
 */
#ifndef KV_TUNE_ERRORS_MEASURE_H
#define KV_TUNE_ERRORS_MEASURE_H

#include "tune/errors_capture.h"
#include "tune/errors_modes.h"

#define KV_ERROR_PAIRS (KV_ERROR_BITS * KV_ERROR_BITS)
#define KV_ERROR_TOP 8 /* positions whose attention is the concentration */

/* Scratch of one thread. */
struct kv_error_scratch {
    float *k, *v;         /* (n_tokens, head_dim) exact                                                     */
    float *k_hat, *v_hat; /* (KV_ERROR_BITS, n_tokens, head_dim)                                            */
    float *values;        /* (1 + KV_ERROR_BITS, head_dim, n_inner): V, and V̂ beside V, transposed         */
    float *score, *score_hat; /* (n_queries, n_tokens)                                                      */
    float *weight;        /* (n_queries, n_tokens) a                                                        */
    float *weight_hat;    /* (KV_ERROR_BITS, n_queries, n_inner) â, split as `values` is                    */
    float *out;           /* (n_queries, head_dim) o                                                        */
    float *out_hat;       /* (KV_ERROR_BITS, n_queries, KV_ERROR_BITS, head_dim) ô of key bits, value bits  */
    float *row;           /* (n_tokens)                                                                     */
    float *tile;          /* (64, head_dim)                                                                 */
    double *sum_a, *sum_o; /* (n_queries, bits | pairs) over heads                                          */
    double *sum_k, *sum_v; /* (n_tokens, bits) over heads                                                   */
    int *n_o, *n_k, *n_v;  /* heads that count, of each query or token                                      */
    void *codec, *matmul;
    uint8_t *page;
};
/* Bytes for prompts of at most n_tokens with n_queries; places when base is not NULL. SIZE_MAX: too many. */
size_t kv_error_scratch_place(struct kv_error_scratch *out, void *base, int head_dim, int64_t n_tokens,
                              int64_t n_queries);

/* Means over one prompt; NaN: no unit. */
struct kv_layer_errors {
    double e_k[KV_ERROR_BITS], e_v[KV_ERROR_BITS], e_a[KV_ERROR_BITS], e_o[KV_ERROR_PAIRS];
    int64_t n_skipped;
};
struct kv_head_errors {
    double e_a[KV_ERROR_BITS], e_o[KV_ERROR_PAIRS];
};

/* heads: (n_head). attention: (n_head), or NULL where not wanted. NUMERIC: keys or values that the codec
 * cannot hold, or errors that are not finite. */
kvant_status kv_errors_measure(const struct kv_error_mode *m, const struct kv_captured *c, int layer,
                               const struct kv_error_scratch *scratch, struct kv_layer_errors *out,
                               struct kv_head_errors *heads, struct kvant_sensitivity_head *attention,
                               struct kvant_error *err);

#endif
