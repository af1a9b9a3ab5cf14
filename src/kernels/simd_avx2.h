/*
 * The vocabulary of the templates (*.inc.h) in AVX2 with FMA and F16C: vf is 8 floats, vi 32 bytes or 8
 * int32. simd_avx512.h has the same names for 16 floats and 64 bytes.
 */
#ifndef KV_KERNELS_SIMD_AVX2_H
#define KV_KERNELS_SIMD_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#define KV_INLINE static inline __attribute__((always_inline))
#define LANES 8
#define ACTS_MAX 2 /* times 2 panels: 4 sums in int32 and 4 in float leave 8 of 16 registers for operands */

typedef __m256 vf;
typedef __m256i vi;

KV_INLINE __m256i lanes_below(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* floats; the _n forms touch only the first n < LANES lanes in memory, the others read as zero */
KV_INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
KV_INLINE vf vf_set(float x) { return _mm256_set1_ps(x); }
KV_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
KV_INLINE vf vf_load_n(const float *p, int64_t n) { return _mm256_maskload_ps(p, lanes_below(n)); }
KV_INLINE void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
KV_INLINE void vf_store_n(float *p, vf x, int64_t n) { _mm256_maskstore_ps(p, lanes_below(n), x); }
KV_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
KV_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
KV_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
KV_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
KV_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
KV_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a·b */
KV_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
KV_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
KV_INLINE vf vf_round(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
KV_INLINE vf vf_abs(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
/* of four vectors: the sum, and the largest, of the lanes of each */
typedef __m128 v4;
#define KV_ACROSS(f, a, b, c, d)                                                                            \
    vf t0 = _mm256_##f##_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)),                            \
       t1 = _mm256_##f##_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));                            \
    __m256d u0 = _mm256_castps_pd(t0), u1 = _mm256_castps_pd(t1);                                           \
    vf u = _mm256_##f##_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(u0, u1)),                                    \
                           _mm256_castpd_ps(_mm256_unpackhi_pd(u0, u1)));                                   \
    return _mm_##f##_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps(u, 1))
KV_INLINE v4 four_sums(vf a, vf b, vf c, vf d) { KV_ACROSS(add, a, b, c, d); }
KV_INLINE v4 four_largest(vf a, vf b, vf c, vf d) { KV_ACROSS(max, a, b, c, d); }
/* The same of four times 16 floats, in an order that all levels share: within each 4 neighbours
 * (0 + 2) + (1 + 3), then these four sums likewise. */
KV_INLINE vf block_sums(vf x[4][2], int i)
{
    vf t0 = vf_add(_mm256_unpacklo_ps(x[0][i], x[1][i]), _mm256_unpackhi_ps(x[0][i], x[1][i])),
       t1 = vf_add(_mm256_unpacklo_ps(x[2][i], x[3][i]), _mm256_unpackhi_ps(x[2][i], x[3][i]));
    __m256d u0 = _mm256_castps_pd(t0), u1 = _mm256_castps_pd(t1);
    return vf_add(_mm256_castpd_ps(_mm256_unpacklo_pd(u0, u1)), _mm256_castpd_ps(_mm256_unpackhi_pd(u0, u1)));
}
KV_INLINE v4 four_sums_of_16(vf x[4][2])
{
    vf u = vf_add(block_sums(x, 0), block_sums(x, 1));
    return _mm_add_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps(u, 1));
}
KV_INLINE v4 v4_of(vf x) { return _mm256_castps256_ps128(x); }
KV_INLINE vf vf_of(v4 x) { return _mm256_set_m128(x, x); } /* twice */
KV_INLINE vf vf_from_int(vi x) { return _mm256_cvtepi32_ps(x); }
KV_INLINE vi vf_to_int(vf x) { return _mm256_cvtps_epi32(x); }
/* x · 2^n, n integral. In two steps, so that |n| up to 252 overflows to infinity or underflows as it
 * should. */
KV_INLINE vf vf_scale2(vf x, vf n)
{
    __m256i both = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(both, 1), bias = _mm256_set1_epi32(127);
    __m256i rest = _mm256_sub_epi32(both, half);
    vf a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vf b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(x, a), b);
}
KV_INLINE float vf_sum(vf x)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
KV_INLINE float vf_largest(vf x)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* a > b ? x : y; a NaN is not larger */
KV_INLINE vf vf_where_larger(vf a, vf b, vf x, vf y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
KV_INLINE vf vf_of_bits(vi x) { return _mm256_castsi256_ps(x); }

/* lane i gets x[i ^ h] */
KV_INLINE vf vf_swap(vf x, int h)
{
    if (h == 1) return _mm256_permute_ps(x, 0xb1);
    return h == 2 ? _mm256_permute_ps(x, 0x4e) : _mm256_permute2f128_ps(x, x, 1);
}

KV_INLINE vf vf_reverse(vf x)
{
    return _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

/* lane i of x where first <= base + i < last, else `other` */
KV_INLINE vf vf_in_range(vf x, int base, int first, int last, float other)
{
    vi i = _mm256_add_epi32(_mm256_set1_epi32(base), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    vi in = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), i),
                                _mm256_cmpgt_epi32(_mm256_set1_epi32(last), i));
    return _mm256_blendv_ps(_mm256_set1_ps(other), x, _mm256_castsi256_ps(in));
}

/* halves */
KV_INLINE vf vf_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
KV_INLINE vf vf_load_f16_n(const uint16_t *p, int64_t n)
{
    uint16_t h[LANES] = { 0 };
    __builtin_memcpy(h, p, (size_t)n * sizeof h[0]);
    return vf_load_f16(h);
}
KV_INLINE void vf_store_f16(uint16_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
KV_INLINE void vf_store_f16_n(uint16_t *p, vf x, int64_t n)
{
    uint16_t h[LANES];
    vf_store_f16(h, x);
    __builtin_memcpy(p, h, (size_t)n * sizeof h[0]);
}
KV_INLINE vf vf_load_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
KV_INLINE vi vi_load_codes(const uint8_t *p) /* 8 unsigned bytes */
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}
KV_INLINE vf vf_load_codes(const uint8_t *p) { return vf_from_int(vi_load_codes(p)); }

/* Σ of the lanes in double, added to acc[0..3] */
typedef __m256d vd;
KV_INLINE vd vd_zero(void) { return _mm256_setzero_pd(); }
KV_INLINE vd vd_add_lanes(vd acc, vf x)
{
    __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(x)),
            high = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
    return _mm256_add_pd(acc, _mm256_add_pd(low, high));
}
KV_INLINE double vd_sum(vd x)
{
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}

/* integers */
KV_INLINE vi vi_zero(void) { return _mm256_setzero_si256(); }
KV_INLINE vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
KV_INLINE void vi_store(void *p, vi x) { _mm256_storeu_si256((__m256i *)p, x); }
KV_INLINE vi vi_set(int x) { return _mm256_set1_epi32(x); }
KV_INLINE vi vi_set4(const int8_t *p) /* 4 bytes to every lane */
{
    int32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return _mm256_set1_epi32(word);
}
/* acc + Σ of 4 products (unsigned code × signed x) per lane, exact. wide: codes above 127 occur. maddubs
 * saturates pair sums at 32767: 2 · 127 · 127 fits, and so does 2 · 128 · 127, so wide codes are taken as
 * their low 7 bits and the top one. */
KV_INLINE vi vi_dot4(vi acc, vi code, vi x, int wide)
{
    vi one = _mm256_set1_epi16(1), top = _mm256_set1_epi8(-128);
    vi low = wide ? _mm256_andnot_si256(top, code) : code;
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(low, x), one));
    if (!wide) return acc;
    vi high = _mm256_and_si256(top, code);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(high, x), one));
}
/* q = 128·high + low with low in -64 .. 63, and 128·x */
KV_INLINE vi vi_high_digit(vi q) { return _mm256_srai_epi32(_mm256_add_epi32(q, _mm256_set1_epi32(64)), 7); }
KV_INLINE vi vi_shift_digit(vi x) { return _mm256_slli_epi32(x, 7); }
KV_INLINE vi vi_low_digit(vi q, vi high) { return _mm256_sub_epi32(q, vi_shift_digit(high)); }
KV_INLINE vf vf_low_half(vi x) /* f16 in bits 0..15 of each lane */
{
    vi words = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
    __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    return _mm256_cvtph_ps(packed);
}
KV_INLINE void vi_store_bytes(int8_t *p, vi x)
{
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(words, words));
}
KV_INLINE int vi_sum(vi x)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
KV_INLINE vf vf_high_half(vi x) { return vf_low_half(_mm256_srli_epi32(x, 16)); }

/* 8 × 8 words: out[i] lane j = in[j] lane i */
KV_INLINE void vi_transpose(vi v[LANES])
{
    vi t[LANES];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        v[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* v[4a + i], half b: word 4b + i of rows 4a .. 4a + 3 */
        t[i] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x20);
        t[i + 4] = _mm256_permute2x128_si256(v[i], v[i + 4], 0x31);
    }
    for (int i = 0; i < 8; i++) v[i] = t[i];
}

/* the first n bytes, zero beyond; nothing beyond is touched */
KV_INLINE vi vi_load_bytes(const void *p, size_t n)
{
    uint8_t bytes[32] = { 0 };
    if (n >= 32) return _mm256_loadu_si256(p);
    __builtin_memcpy(bytes, p, n);
    return _mm256_loadu_si256((const __m256i *)bytes);
}
KV_INLINE vi vi_set_bytes(int x) { return _mm256_set1_epi8((char)x); }
KV_INLINE vi vi_and(vi a, vi b) { return _mm256_and_si256(a, b); }
KV_INLINE vi vi_or(vi a, vi b) { return _mm256_or_si256(a, b); }
KV_INLINE vi vi_xor(vi a, vi b) { return _mm256_xor_si256(a, b); }
KV_INLINE vi vi_right(vi x, int n) { return _mm256_srli_epi32(x, n); }
KV_INLINE vi vi_left(vi x, int n) { return _mm256_slli_epi32(x, n); }
KV_INLINE vi vi_right_signed(vi x, int n) { return _mm256_srai_epi32(x, n); }
/* per lane: the high half of a, then the low half of b */
KV_INLINE vi vi_straddle(vi a, vi b)
{
    const vi swap = _mm256_broadcastsi128_si256(
        _mm_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2));
    return _mm256_shuffle_epi8(_mm256_blend_epi16(a, b, 0x55), swap);
}
/* byte j of each lane: 16 where bit 4·i + j of the lane of x is set, else 0 */
KV_INLINE vi vi_fifth_bits(vi x, int i)
{
    const vi byte = _mm256_set_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0, 0x0c0c0c0c, 0x08080808,
                                     0x04040404, 0);
    const vi bit = i & 1 ? _mm256_set1_epi32((int)0x80402010) : _mm256_set1_epi32(0x08040201);
    vi spread = _mm256_shuffle_epi8(x, _mm256_add_epi8(byte, _mm256_set1_epi8((char)(i / 2))));
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit), _mm256_set1_epi8(16));
}
/* table[code] for codes below 16 */
KV_INLINE vi vi_lookup(const uint8_t table[16], vi code)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table)), code);
}

/* p · 2^n for e^x, x >= EXP_LOWEST or the result is 0 */
#define EXP_LOWEST -0x1.5d589ep+6f /* -126 · ln2: below it 2^n is no normal number */
KV_INLINE vf exp_scale(vf p, vf n, vf x)
{
    vi exponent = _mm256_slli_epi32(_mm256_add_epi32(vf_to_int(n), _mm256_set1_epi32(127)), 23);
    vf e = vf_mul(p, _mm256_castsi256_ps(exponent));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, vf_set(EXP_LOWEST), _CMP_LT_OQ), e);
}

/* p · 2^n, with n in the low bits of t = n + 1.5·2^23; the result must be normal */
#define EXP_LOWEST_NORMAL EXP_LOWEST
KV_INLINE vf vf_add_exponent(vf p, vf t)
{
    vi n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n));
}

/* What codes.inc.h needs. A line of 64 bytes is two vectors. Products of narrow digits are added in 16 bits:
 * 32767 / (2 · 255 · 15) = 4 dot products fit for 4 bits, 9 for 3, 21 for 2; then they must be widened. */
#define PARTS 2
/* GROUPS of tokens and COLUMNS of channels side by side: times 4 rows, 8 of 16 registers are sums */
#define GROUPS 2
#define COLUMNS 2
#define CENTER_WIDE 1 /* times 4 rows and 2 kinds of functions: again 8 */
#define KEY_SPAN(bits) ((bits) == 3 ? 18 : 43) /* |Q| <= 127 */
#define VALUE_SPAN(bits) ((bits) == 4 ? 4 : (bits) == 3 ? 8 : 16)
KV_INLINE vi vi_load_line(const uint8_t *p, bool half)
{
    (void)half;
    return vi_load(p);
}
KV_INLINE vi vi_set_words(int x) { return _mm256_set1_epi16((short)x); }
KV_INLINE vi vi_shift16(vi x, int n) { return _mm256_srli_epi16(x, n); }
KV_INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
/* In assembly, because with intrinsics gcc 12 moves the loads of a whole unit together
 * and spills the sums. */
KV_INLINE vi vi_dot_narrow(vi acc, vi u, vi s)
{
    vi product;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(u), "x"(s));
    return acc;
}
KV_INLINE vi vi_widen(vi acc) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(1)); }
KV_INLINE vi vi_dot_wide(vi acc, vi a, vi b)
{
    vi product;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(a), "x"(b));
    return acc;
}
KV_INLINE vi vi_to_digits(vf x, vf per_unit) { return vf_to_int(vf_mul(x, per_unit)); }
KV_INLINE void vi_store_wide(int16_t *p, vi x) /* 16-bit words in the order of kv_wide_place */
{
    vi y = _mm256_shuffle_epi32(x, 0xd8);
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    _mm_storeu_si128((__m128i *)(void *)p, words);
}
/* The lower half; the upper one is 0. */
KV_INLINE vi vi_load_low_half(const void *p)
{
    return _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i *)p));
}
KV_INLINE void vi_store_low_half(void *p, vi x) { _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(x)); }
/* Four vectors of integers as bytes, in their order. */
KV_INLINE vi vi_in_order(vi bytes) /* half i has four of each */
{
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
KV_INLINE vi vi_pack_bytes(const vi x[4]) /* of −128 .. 127 */
{
    return vi_in_order(_mm256_packs_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3])));
}
KV_INLINE vi vi_pack_ubytes(const vi x[4]) /* of 0 .. 255 */
{
    return vi_in_order(_mm256_packus_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3])));
}

#include "kernels/whole_parts.h"

#endif
