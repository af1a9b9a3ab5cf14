/*
 * Weight formats to codes, in plain C: what fills table->unpack[] and so defines each format.
 *
 * Each reads whole blocks for k elements of a row and writes w[i] = scale[i / 16] · code[i] + min[i / 16].
 * Signed formats become unsigned codes with a shifted minimum (Q4_0: code − 8, hence min = −8 · scale), which int8
 * dot products with an unsigned operand need anyway. Sub-scales are folded into `scale` and `min`; each product is
 * exact in float (a 24-bit mantissa holds 11 bits of f16 times 6 of a sub-scale times 8 of a code), so one rounding
 * remains: that of the final sum.
 */
#ifndef KV_KERNELS_UNPACK_H
#define KV_KERNELS_UNPACK_H

#include <stdint.h>

#define KV_UNPACK_FORMATS(X) \
    X(q8_0) X(q4_0) X(q4_1) X(q5_0) X(q5_1) X(q2_k) X(q3_k) X(q4_k) X(q5_k) X(q6_k) X(iq4_nl) X(iq4_xs)

/* code: (k); scale, min: (k / 16). row needs no alignment. */
#define X(format) \
    void kv_unpack_##format(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,          \
                            float *restrict scale, float *restrict min);
KV_UNPACK_FORMATS(X)
#undef X

#endif
