/*
 * The calls of the kernels that add up a page's tokens, channel by channel, over its codes: what reading a
 * cache (pooling) is made of. code_layout.h has the order of the codes.
 *
 *     keys per channel    Σ_j w_j x_j = scale · Σ_j w_j code_j + min · Σ_j w_j      per group of tokens
 *     keys per token      Σ_j w_j x_j = Σ_j (w_j scale_j) code_j + Σ_j w_j min_j
 *     values              the same, with scales per token and group of channels
 *
 * Without weights the sums of keys per channel are exact integers until the one product with the scale.
 */
#ifndef KV_KERNELS_SUM_CALLS_H
#define KV_KERNELS_SUM_CALLS_H

#include "kernels/attention_calls.h"

struct kv_sum_keys {
    const uint8_t *codes;        /* units of all classes                                                    */
    int n_classes;
    const struct kv_key_class *classes;
    const uint16_t *scale, *min; /* f16; per token: (64); per channel: (64 / group, n_channels)             */
    int group;                   /* 0 = per token; 32 or 64                                                 */
    int first, last;             /* tokens [first, last) of the page                                        */
    int n_channels;              /* of all classes: at most KV_HEAD_DIM_MAX                                 */
    const float *const *weight;  /* (n_channels) rows of 64 weights, of stored channels; NULL: all 1        */
    float *out;                  /* (n_channels) in stored order, written                                   */
};

struct kv_sum_values {
    const uint8_t *codes;
    const uint16_t *scale, *min; /* f16 (n_groups, 64)                                                      */
    int bits, head_dim, n_groups;
    int first, last;
    float *out;                  /* (head_dim), written                                                     */
};

#endif
