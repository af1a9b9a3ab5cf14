/*
 * Weight formats to codes. Each function draws its block; d and m are float16, a nibble byte holds two
 * elements that stand half a block apart, so that both halves are contiguous runs and the loops below
 * vectorize without a shuffle.
 *
 * The layouts are those of the GGUF specification's quantization types; the K formats are blocks of 256 in
 * groups of 16 or 32 with 4- or 6-bit sub-scales.
 */
#include "kernels/unpack.h"

#include "base/half.h"
#include "kernels/kernels.h"

#define NIBBLES_LOW 0x0f0f0f0f0f0f0f0full

static inline float load_f16(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return kv_f16_to_f32(h);
}

static inline uint64_t load_u64(const uint8_t *p)
{
    uint64_t u;
    memcpy(&u, p, sizeof u);
    return u;
}

/* n equal groups of 16 from one scale and minimum. */
static inline void fill_groups(float *scale, float *min, int n, float s, float m)
{
    for (int i = 0; i < n; i++) {
        scale[i] = s;
        min[i] = m;
    }
}

/* 16 bytes of nibbles: the low ones are elements 0..15, the high ones 16..31. */
static inline void nibbles_32(const uint8_t *restrict q, uint8_t *restrict code)
{
    for (int i = 0; i < 16; i++) {
        code[i] = q[i] & 15;
        code[i + 16] = q[i] >> 4;
    }
}

/* | d | q: 32 × int8 | */
void kv_unpack_q8_0(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                    float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 32; i++, row += 34, code += 32, scale += 2, min += 2) {
        for (int j = 0; j < 32; j++) code[j] = row[2 + j] ^ 0x80; /* two's complement + 128 */
        float d = load_f16(row);
        fill_groups(scale, min, 2, d, -128.0f * d);
    }
}

/* | d | nibbles: 16 | */
void kv_unpack_q4_0(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                    float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 32; i++, row += 18, code += 32, scale += 2, min += 2) {
        nibbles_32(row + 2, code);
        float d = load_f16(row);
        fill_groups(scale, min, 2, d, -8.0f * d);
    }
}

/* | d | m | nibbles: 16 | */
void kv_unpack_q4_1(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                    float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 32; i++, row += 20, code += 32, scale += 2, min += 2) {
        nibbles_32(row + 4, code);
        fill_groups(scale, min, 2, load_f16(row), load_f16(row + 2));
    }
}

/* Bit i of b to bit 4 of byte i: the byte is repeated, each copy keeps its own bit, and adding 0x7f carries
 * any bit that is set into the top one without reaching the next byte. */
static inline uint64_t spread_to_bit4(uint8_t b)
{
    uint64_t one_bit_each = (b * 0x0101010101010101ull) & 0x8040201008040201ull;
    return ((one_bit_each + 0x7f7f7f7f7f7f7f7full) & 0x8080808080808080ull) >> 3;
}

/* Nibbles with a fifth bit: bit i of the 32 in `high` belongs to element i. */
static inline void five_bits_32(const uint8_t *high, const uint8_t *q, uint8_t *code)
{
    for (int i = 0; i < 4; i++) {
        uint64_t nibbles = (load_u64(q + 8 * (i & 1)) >> (i < 2 ? 0 : 4)) & NIBBLES_LOW;
        uint64_t eight = nibbles | spread_to_bit4(high[i]);
        memcpy(code + 8 * i, &eight, sizeof eight);
    }
}

/* | d | high bits: 4 | nibbles: 16 | */
void kv_unpack_q5_0(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                    float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 32; i++, row += 22, code += 32, scale += 2, min += 2) {
        five_bits_32(row + 2, row + 6, code);
        float d = load_f16(row);
        fill_groups(scale, min, 2, d, -16.0f * d);
    }
}

/* | d | m | high bits: 4 | nibbles: 16 | */
void kv_unpack_q5_1(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                    float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 32; i++, row += 24, code += 32, scale += 2, min += 2) {
        five_bits_32(row + 4, row + 8, code);
        fill_groups(scale, min, 2, load_f16(row), load_f16(row + 2));
    }
}

/* | sub-scale and sub-minimum nibbles: 16 | 2-bit codes: 64 | d | m |
 * 32 bytes of codes hold 128 elements: bits 0-1 the first 32 of them, bits 2-3 the next, ... */
void kv_unpack_q2_k(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                    float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 256; i++, row += 84, code += 256, scale += 16, min += 16) {
        for (int run = 0; run < 8; run++) {
            const uint8_t *q = row + 16 + 32 * (run / 4);
            int shift = 2 * (run % 4);
            for (int j = 0; j < 32; j++) code[32 * run + j] = (uint8_t)((q[j] >> shift) & 3);
        }
        float d = load_f16(row + 80), m = load_f16(row + 82);
        for (int g = 0; g < 16; g++) {
            scale[g] = d * (float)(row[g] & 15);
            min[g] = -m * (float)(row[g] >> 4);
        }
    }
}

/* | high bits: 32 | 2-bit codes: 64 | 16 six-bit sub-scales: 12 | d |
 * Codes run as in Q2_K; bit r of high byte j is the third bit of element 32·r + j. Sub-scale g has its low
 * nibble in byte g % 8 (low half for g < 8) and its upper two bits in byte 8 + g % 4 at 2·(g / 4); 32 is
 * subtracted. */
void kv_unpack_q3_k(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                    float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 256; i++, row += 110, code += 256, scale += 16, min += 16) {
        for (int run = 0; run < 8; run++) {
            const uint8_t *q = row + 32 + 32 * (run / 4);
            int shift = 2 * (run % 4);
            for (int j = 0; j < 32; j++)
                code[32 * run + j] = (uint8_t)(((q[j] >> shift) & 3) | (((row[j] >> run) & 1) << 2));
        }
        const uint8_t *s = row + 96;
        float d = load_f16(row + 108);
        for (int g = 0; g < 16; g++) {
            int low = (s[g % 8] >> (g < 8 ? 0 : 4)) & 15, high = (s[8 + g % 4] >> (2 * (g / 4))) & 3;
            scale[g] = d * (float)((low | high << 4) - 32);
            min[g] = -4.0f * scale[g];
        }
    }
}

/* The 8 sub-scales and 8 sub-minima of Q4_K and Q5_K, 6 bits each in 12 bytes: the first four of each kind in
 * the low six bits of bytes 0..3 and 4..7; the last four as nibbles of bytes 8..11 with their upper two bits
 * on top of the first. */
static inline void sub_scales_k(const uint8_t *s, float d, float m, float *scale, float *min)
{
    for (int g = 0; g < 4; g++) {
        fill_groups(scale + 2 * g, min + 2 * g, 2, d * (float)(s[g] & 63), -m * (float)(s[g + 4] & 63));
        int sc = (s[g + 8] & 15) | (s[g] >> 6) << 4, mn = (s[g + 8] >> 4) | (s[g + 4] >> 6) << 4;
        fill_groups(scale + 8 + 2 * g, min + 8 + 2 * g, 2, d * (float)sc, -m * (float)mn);
    }
}

/* | d | m | sub-scales and sub-minima: 12 | nibbles: 4 × 32 | */
void kv_unpack_q4_k(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                    float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 256; i++, row += 144, code += 256, scale += 16, min += 16) {
        for (int run = 0; run < 4; run++) {
            const uint8_t *q = row + 16 + 32 * run;
            for (int j = 0; j < 32; j++) code[64 * run + j] = q[j] & 15;
            for (int j = 0; j < 32; j++) code[64 * run + 32 + j] = q[j] >> 4;
        }
        sub_scales_k(row + 4, load_f16(row), load_f16(row + 2), scale, min);
    }
}

/* | d | m | sub-scales and sub-minima: 12 | high bits: 32 | nibbles: 4 × 32 |
 * Bit r of high byte j is the fifth bit of element 32·r + j. */
void kv_unpack_q5_k(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                    float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 256; i++, row += 176, code += 256, scale += 16, min += 16) {
        const uint8_t *high = row + 16;
        for (int run = 0; run < 4; run++) {
            const uint8_t *q = row + 48 + 32 * run;
            uint8_t *c = code + 64 * run;
            for (int j = 0; j < 32; j++) c[j] = (uint8_t)((q[j] & 15) | ((high[j] >> (2 * run)) & 1) << 4);
            for (int j = 0; j < 32; j++)
                c[32 + j] = (uint8_t)((q[j] >> 4) | ((high[j] >> (2 * run + 1)) & 1) << 4);
        }
        sub_scales_k(row + 4, load_f16(row), load_f16(row + 2), scale, min);
    }
}

/* | nibbles: 2 × 64 | upper 2 bits: 2 × 32 | sub-scales: 16 × int8 | d |
 * Each half of 128 elements is four runs of 32: low nibbles of bytes 0..31, of 32..63, then the high nibbles
 * of the same; run r takes its upper bits from bits 2r of the 32 bytes. */
void kv_unpack_q6_k(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                    float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 256; i++, row += 210, code += 256, scale += 16, min += 16) {
        for (int run = 0; run < 8; run++) {
            const uint8_t *q = row + 64 * (run / 4) + 32 * (run % 2), *high = row + 128 + 32 * (run / 4);
            int nibble = run % 4 < 2 ? 0 : 4, shift = 2 * (run % 4);
            for (int j = 0; j < 32; j++)
                code[32 * run + j] = (uint8_t)(((q[j] >> nibble) & 15) | ((high[j] >> shift) & 3) << 4);
        }
        float d = load_f16(row + 208);
        for (int g = 0; g < 16; g++) {
            int sub = row[192 + g] ^ 0x80; /* int8 + 128 */
            scale[g] = d * (float)(sub - 128);
            min[g] = -32.0f * scale[g];
        }
    }
}

const uint8_t kv_iq4_codes[16] = { 1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241 };

static inline void iq4_nibbles_32(const uint8_t *restrict q, uint8_t *restrict code)
{
    for (int i = 0; i < 16; i++) {
        code[i] = kv_iq4_codes[q[i] & 15];
        code[i + 16] = kv_iq4_codes[q[i] >> 4];
    }
}

/* | d | nibbles: 16 | */
void kv_unpack_iq4_nl(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                      float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 32; i++, row += 18, code += 32, scale += 2, min += 2) {
        iq4_nibbles_32(row + 2, code);
        float d = load_f16(row);
        fill_groups(scale, min, 2, d, -128.0f * d);
    }
}

/* | d | upper 2 bits of 8 sub-scales: 2 | their low nibbles: 4 | nibbles: 8 × 16 |
 * 32 is subtracted from a sub-scale. */
void kv_unpack_iq4_xs(const uint8_t *restrict row, int64_t k, uint8_t *restrict code,
                      float *restrict scale, float *restrict min)
{
    for (int64_t i = 0; i < k / 256; i++, row += 136, code += 256, scale += 16, min += 16) {
        float d = load_f16(row);
        int high = row[2] | row[3] << 8;
        for (int g = 0; g < 8; g++) {
            iq4_nibbles_32(row + 8 + 16 * g, code + 32 * g);
            int sub = ((row[4 + g / 2] >> (4 * (g % 2))) & 15) | ((high >> (2 * g)) & 3) << 4;
            float s = d * (float)(sub - 32);
            fill_groups(scale + 2 * g, min + 2 * g, 2, s, -128.0f * s);
        }
    }
}

void kv_unpack_float(int float_format, const uint8_t *row, int64_t k, float *w)
{
    if (float_format == KV_FLOAT_F32) {
        memcpy(w, row, (size_t)k * sizeof *w);
        return;
    }
    for (int64_t i = 0; i < k; i++) {
        uint16_t h;
        memcpy(&h, row + 2 * i, sizeof h);
        w[i] = float_format == KV_FLOAT_F16 ? kv_f16_to_f32(h) : kv_bf16_to_f32(h);
    }
}
