/*
 * Weight formats to codes, in plain C: what fills table->unpack[] and so defines each format.
 *
 * Each reads whole blocks for k elements of a row and writes w[i] = scale[i / 16] · code[i] + min[i / 16].
 * Signed formats become unsigned codes with a shifted minimum (Q4_0: code − 8, hence min = −8 · scale), which
 * int8 dot products with an unsigned operand need anyway. Sub-scales are folded into `scale` and `min`; each
 * product is exact in float (24 bits of mantissa hold the 11 of an f16 times a sub-scale times a code, which
 * have at most 13 together: 7 and 6 in Q6_K, 5 and 8 in IQ4_XS), so one rounding remains: that of the final
 * sum.
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

/* F32, F16 or BF16 (enum kv_float_format) to float32. w: (k). row needs no alignment. */
void kv_unpack_float(int float_format, const uint8_t *row, int64_t k, float *w);

/* The non-uniform levels of IQ4_NL and IQ4_XS, plus 128: codes of 8 bits. */
extern const uint8_t kv_iq4_codes[16];

#endif
