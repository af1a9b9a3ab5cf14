/*
 * The vocabulary of the templates (*.inc.h) in AVX-512: vf is 16 floats, vi 64 bytes or 16 int32.
 * simd_avx2.h has the same names for 8 floats and 32 bytes.
 */
#ifndef KV_KERNELS_SIMD_AVX512_H
#define KV_KERNELS_SIMD_AVX512_H

#ifdef KV_EMULATE_AVX512
#include "kernels/simd_emulated.h"
#else
#include <immintrin.h>
#endif
#include <stdbool.h>
#include <stdint.h>

/* Without optimization gcc's own intrinsics are macros that convert their masks loudly. */
#if defined(__GNUC__) && !defined(__OPTIMIZE__)
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif

#ifdef KV_EMULATE_AVX512
/* each intrinsic is a loop: inlined they compile for minutes */
#define KV_INLINE static __attribute__((noinline, unused))
#else
#define KV_INLINE static inline __attribute__((always_inline))
#endif
#define LANES 16
#define ACTS_MAX 6 /* times 2 panels: 12 sums in int32 and 12 in float leave 8 of 32 registers for operands */

typedef __m512 vf;
typedef __m512i vi;

KV_INLINE __mmask16 lanes_below(int64_t n) { return (__mmask16)((1u << n) - 1); }

/* floats; the _n forms touch only the first n < LANES lanes in memory, the others read as zero */
KV_INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
KV_INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
KV_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
KV_INLINE vf vf_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(lanes_below(n), p); }
KV_INLINE void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
KV_INLINE void vf_store_n(float *p, vf x, int64_t n) { _mm512_mask_storeu_ps(p, lanes_below(n), x); }
KV_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
KV_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
KV_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
KV_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
KV_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
KV_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a·b */
KV_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
KV_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
KV_INLINE vf vf_round(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
KV_INLINE vf vf_abs(vf x) { return _mm512_abs_ps(x); }
KV_INLINE vf vf_scale2(vf x, vf n) { return _mm512_scalef_ps(x, n); } /* x · 2^n, n integral */
KV_INLINE float vf_sum(vf x) { return _mm512_reduce_add_ps(x); }
KV_INLINE float vf_largest(vf x) { return _mm512_reduce_max_ps(x); }
/* of four vectors: the sum, and the largest, of the lanes of each */
typedef __m128 v4;
#define KV_ACROSS(f, a, b, c, d)                                                                            \
    vf t0 = _mm512_##f##_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)),                            \
       t1 = _mm512_##f##_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));                            \
    __m512d u0 = _mm512_castps_pd(t0), u1 = _mm512_castps_pd(t1);                                           \
    vf u = _mm512_##f##_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(u0, u1)),                                    \
                           _mm512_castpd_ps(_mm512_unpackhi_pd(u0, u1)));                                   \
    __m256 h = _mm256_##f##_ps(_mm512_castps512_ps256(u), _mm512_extractf32x8_ps(u, 1));                    \
    return _mm_##f##_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1))
KV_INLINE v4 four_sums(vf a, vf b, vf c, vf d) { KV_ACROSS(add, a, b, c, d); }
KV_INLINE v4 four_largest(vf a, vf b, vf c, vf d) { KV_ACROSS(max, a, b, c, d); }
/* The same of four times 16 floats, in an order that all levels share: within each 4 neighbours
 * (0 + 2) + (1 + 3), then these four sums likewise. */
KV_INLINE v4 four_sums_of_16(vf x[4][1]) { return four_sums(x[0][0], x[1][0], x[2][0], x[3][0]); }
KV_INLINE v4 v4_of(vf x) { return _mm512_castps512_ps128(x); }
KV_INLINE vf vf_of(v4 x) { return _mm512_broadcast_f32x4(x); } /* four times */
KV_INLINE vf vf_from_int(vi x) { return _mm512_cvtepi32_ps(x); }
KV_INLINE vi vf_to_int(vf x) { return _mm512_cvtps_epi32(x); }

/* a > b ? x : y; a NaN is not larger */
KV_INLINE vf vf_where_larger(vf a, vf b, vf x, vf y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}
KV_INLINE vf vf_of_bits(vi x) { return _mm512_castsi512_ps(x); }

/* lane i gets x[i ^ h] */
KV_INLINE vf vf_swap(vf x, int h)
{
    if (h == 1) return _mm512_permute_ps(x, 0xb1);
    if (h == 2) return _mm512_permute_ps(x, 0x4e);
    return h == 4 ? _mm512_shuffle_f32x4(x, x, 0xb1) : _mm512_shuffle_f32x4(x, x, 0x4e);
}

KV_INLINE vf vf_reverse(vf x)
{
    return _mm512_permutexvar_ps(_mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), x);
}

/* lane i of x where first <= base + i < last, else `other` */
KV_INLINE vf vf_in_range(vf x, int base, int first, int last, float other)
{
    const vi lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    vi i = _mm512_add_epi32(_mm512_set1_epi32(base), lane);
    __mmask16 in = _mm512_cmpge_epi32_mask(i, _mm512_set1_epi32(first));
    return _mm512_mask_mov_ps(_mm512_set1_ps(other),
                              _mm512_mask_cmplt_epi32_mask(in, i, _mm512_set1_epi32(last)), x);
}

/* halves */
KV_INLINE vf vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
KV_INLINE vf vf_load_f16_n(const uint16_t *p, int64_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_below(n), p));
}
KV_INLINE __m256i f16_from(vf x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
KV_INLINE void vf_store_f16(uint16_t *p, vf x) { _mm256_storeu_si256((__m256i *)p, f16_from(x)); }
KV_INLINE void vf_store_f16_n(uint16_t *p, vf x, int64_t n)
{
    _mm256_mask_storeu_epi16(p, lanes_below(n), f16_from(x));
}
KV_INLINE vf vf_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
KV_INLINE vi vi_load_codes(const uint8_t *p) /* 16 unsigned bytes */
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}
KV_INLINE vf vf_load_codes(const uint8_t *p) { return vf_from_int(vi_load_codes(p)); }

/* Σ of the lanes in double, added to acc[0..7] */
typedef __m512d vd;
KV_INLINE vd vd_zero(void) { return _mm512_setzero_pd(); }
KV_INLINE vd vd_add_lanes(vd acc, vf x)
{
    __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
    __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
    return _mm512_add_pd(acc, _mm512_add_pd(low, high));
}
KV_INLINE double vd_sum(vd x) { return _mm512_reduce_add_pd(x); }

/* integers */
KV_INLINE vi vi_zero(void) { return _mm512_setzero_si512(); }
KV_INLINE vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
KV_INLINE void vi_store(void *p, vi x) { _mm512_storeu_si512(p, x); }
KV_INLINE vi vi_set(int x) { return _mm512_set1_epi32(x); }
KV_INLINE vi vi_set4(const int8_t *p) /* 4 bytes to every lane */
{
    int32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return _mm512_set1_epi32(word);
}
/* acc + Σ of 4 products (unsigned code × signed x) per lane, exact. wide: codes above 127 occur. In assembly,
 * because with the intrinsic gcc 12 copies every accumulator twice per step: 250 instead of 320 GMAC/s. */
KV_INLINE vi vi_dot4(vi acc, vi code, vi x, int wide)
{
    (void)wide;
#ifdef KV_EMULATE_AVX512
    acc = _mm512_dpbusd_epi32(acc, code, x);
#else
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(code), "v"(x));
#endif
    return acc;
}
/* q = 128·high + low with low in -64 .. 63, and 128·x */
KV_INLINE vi vi_high_digit(vi q) { return _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(64)), 7); }
KV_INLINE vi vi_shift_digit(vi x) { return _mm512_slli_epi32(x, 7); }
KV_INLINE vi vi_low_digit(vi q, vi high) { return _mm512_sub_epi32(q, vi_shift_digit(high)); }
/* the float16 in bits 0..15, and 16..31, of each lane */
KV_INLINE vf vf_low_half(vi x) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)); }
KV_INLINE void vi_store_bytes(int8_t *p, vi x) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(x)); }
KV_INLINE int vi_sum(vi x) { return _mm512_reduce_add_epi32(x); }
KV_INLINE vf vf_high_half(vi x) { return vf_low_half(_mm512_srli_epi32(x, 16)); }

/* 16 × 16 words: out[i] lane j = in[j] lane i */
KV_INLINE void vi_transpose(vi v[LANES])
{
    vi t[LANES];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* v[4a + i], quarter b: word 4b + i of rows 4a .. 4a + 3 */
        vi low01 = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x44),
           high01 = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xee);
        vi low23 = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x44);
        vi high23 = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xee);
        t[i] = _mm512_shuffle_i32x4(low01, low23, 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(high01, high23, 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
    }
    for (int i = 0; i < 16; i++) v[i] = t[i];
}

/* the first n bytes, zero beyond; nothing beyond is touched */
KV_INLINE vi vi_load_bytes(const void *p, size_t n)
{
    return _mm512_maskz_loadu_epi8(n >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1, p);
}
KV_INLINE vi vi_set_bytes(int x) { return _mm512_set1_epi8((char)x); }
KV_INLINE vi vi_and(vi a, vi b) { return _mm512_and_si512(a, b); }
KV_INLINE vi vi_or(vi a, vi b) { return _mm512_or_si512(a, b); }
KV_INLINE vi vi_xor(vi a, vi b) { return _mm512_xor_si512(a, b); }
KV_INLINE vi vi_right(vi x, int n) { return _mm512_srli_epi32(x, (unsigned)n); }
KV_INLINE vi vi_left(vi x, int n) { return _mm512_slli_epi32(x, (unsigned)n); }
KV_INLINE vi vi_right_signed(vi x, int n) { return _mm512_srai_epi32(x, (unsigned)n); }
/* per lane: the high half of a, then the low half of b */
KV_INLINE vi vi_straddle(vi a, vi b)
{
    return _mm512_rol_epi32(_mm512_mask_blend_epi16(0x55555555, a, b), 16);
}
/* byte j of each lane: 16 where bit 4·i + j of the lane of x is set, else 0 */
KV_INLINE vi vi_fifth_bits(vi x, int i)
{
    /* byte j begins at bit 4·i + j − 4 of its own half; bit numbers turn round at 64 */
    const __m512i byte = _mm512_set1_epi64(0x1f1e1d1c3f3e3d3c);
    vi at = _mm512_add_epi8(byte, _mm512_set1_epi8((char)(4 * i)));
    return _mm512_and_si512(_mm512_multishift_epi64_epi8(at, x), _mm512_set1_epi8(16));
}
/* table[code] for codes below 16 */
KV_INLINE vi vi_lookup(const uint8_t table[16], vi code)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), code);
}

/* A whole vector or 8 of it: n is LANES or 8. Not with a mask: one that reaches over into memory that nobody
 * has touched yet takes a hundred cycles, though no lane is there. */
KV_INLINE vf vf_load_part(const float *p, int n)
{
    return n == LANES ? vf_load(p) : _mm512_zextps256_ps512(_mm256_loadu_ps(p));
}
KV_INLINE void vf_store_part(float *p, vf x, int n)
{
    if (n == LANES) vf_store(p, x);
    else _mm256_storeu_ps(p, _mm512_castps512_ps256(x));
}
KV_INLINE vf vf_load_f16_part(const uint16_t *p, int n)
{
    if (n == LANES) return vf_load_f16(p);
    return _mm512_zextps256_ps512(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

/* p · 2^n for e^x, x >= EXP_LOWEST or the result is 0 */
#define EXP_LOWEST -128.0f /* e^-128 is 0 in float; keeps infinity out of the remainder */
KV_INLINE vf exp_scale(vf p, vf n, vf x)
{
    (void)x;
    return vf_scale2(p, n);
}

/* p · 2^n, with n in the low bits of t = n + 1.5·2^23; the result must be normal */
#define EXP_LOWEST_NORMAL -0x1.5d589ep+6f /* -126 · ln2 */
KV_INLINE vf vf_add_exponent(vf p, vf t)
{
    vi n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n));
}

/* What codes.inc.h needs. A line is one vector; dot products are added in 32 bits. */
#define PARTS 1
/* GROUPS of tokens and COLUMNS of channels side by side: times 4 rows, 16 of 32 registers are sums */
#define GROUPS 4
#define COLUMNS 4
#define CENTER_WIDE 2 /* times 4 rows and 2 kinds of functions: again 16 */
#define KEY_SPAN(bits) (1 << 20)
#define VALUE_SPAN(bits) 16
KV_INLINE vi vi_load_line(const uint8_t *p, bool half)
{
    return half ? _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)p)) : vi_load(p);
}
KV_INLINE vi vi_set_words(int x) { return _mm512_set1_epi16((short)x); }
KV_INLINE vi vi_shift16(vi x, int n) { return _mm512_srli_epi16(x, n); }
KV_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
KV_INLINE vi vi_dot_narrow(vi acc, vi u, vi s) { return vi_dot4(acc, u, s, 0); }
KV_INLINE vi vi_widen(vi acc) { return acc; }
KV_INLINE vi vi_dot_wide(vi acc, vi a, vi b)
{
#ifdef KV_EMULATE_AVX512
    acc = _mm512_dpwssd_epi32(acc, a, b);
#else
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b)); /* in assembly as vi_dot4 */
#endif
    return acc;
}
KV_INLINE vi vi_to_digits(vf x, vf per_unit) { return vf_to_int(vf_mul(x, per_unit)); }
KV_INLINE void vi_store_wide(int16_t *p, vi x) /* 16-bit words in the order of kv_wide_place */
{
    _mm256_storeu_si256((__m256i *)(void *)p,
                        _mm512_cvtepi32_epi16(_mm512_shuffle_epi32(x, (_MM_PERM_ENUM)0xd8)));
}
KV_INLINE void vi_store_bytes_part(int8_t *p, vi x, int n)
{
    if (n == LANES) vi_store_bytes(p, x);
    else _mm_storel_epi64((__m128i *)(void *)p, _mm512_cvtepi32_epi8(x));
}
/* The lower half; the upper one is 0. */
KV_INLINE vi vi_load_low_half(const void *p)
{
    return _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)p));
}
KV_INLINE void vi_store_low_half(void *p, vi x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(x));
}
/* Four vectors of integers as bytes, in their order. */
KV_INLINE vi vi_in_order(vi bytes) /* quarter i has four of each */
{
    vi order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, bytes);
}
KV_INLINE vi vi_pack_bytes(const vi x[4]) /* of −128 .. 127 */
{
    return vi_in_order(_mm512_packs_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3])));
}
KV_INLINE vi vi_pack_ubytes(const vi x[4]) /* of 0 .. 255 */
{
    return vi_in_order(_mm512_packus_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3])));
}
KV_INLINE void vi_store_wide_part(int16_t *p, vi x, int n)
{
    if (n == LANES) {
        vi_store_wide(p, x);
        return;
    }
    __m256i words = _mm512_cvtepi32_epi16(_mm512_shuffle_epi32(x, (_MM_PERM_ENUM)0xd8));
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(words));
}

#endif
