/*
 * The vocabulary of the templates (*.inc.h) in the NEON of every AArch64 processor: vf is 4 floats, vi 16
 * bytes or 4 int32. simd_avx2.h has the same names for 8 floats and 32 bytes, and says what they mean.
 *
 * Tested under emulation only: written to be right and to compile for all of them, not measured. Processors
 * with dot product instructions would take a quarter of the steps of vi_dot4.
 */
#ifndef KV_KERNELS_SIMD_NEON_H
#define KV_KERNELS_SIMD_NEON_H

#include <arm_neon.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#define KV_INLINE static inline __attribute__((always_inline))
#define LANES 4
#define ACTS_MAX 4 /* times 2 panels: 8 sums in int32 and 8 in float leave 16 of 32 registers for operands */

typedef float32x4_t vf;
typedef int32x4_t vi;

#define AS_U8(x) vreinterpretq_u8_s32(x)
#define AS_S8(x) vreinterpretq_s8_s32(x)
#define AS_S16(x) vreinterpretq_s16_s32(x)
#define AS_U16(x) vreinterpretq_u16_s32(x)
#define AS_U32(x) vreinterpretq_u32_s32(x)
#define FROM_U8(x) vreinterpretq_s32_u8(x)
#define FROM_U16(x) vreinterpretq_s32_u16(x)
#define FROM_U32(x) vreinterpretq_s32_u32(x)

/* floats; the _n forms touch only the first n < LANES lanes in memory, the others read as zero */
KV_INLINE vf vf_zero(void) { return vdupq_n_f32(0.0f); }
KV_INLINE vf vf_set(float x) { return vdupq_n_f32(x); }
KV_INLINE vf vf_load(const float *p) { return vld1q_f32(p); }
KV_INLINE vf vf_load_n(const float *p, int64_t n)
{
    float x[LANES] = { 0 };
    for (int64_t i = 0; i < n; i++) x[i] = p[i];
    return vld1q_f32(x);
}
KV_INLINE void vf_store(float *p, vf x) { vst1q_f32(p, x); }
KV_INLINE void vf_store_n(float *p, vf x, int64_t n)
{
    float y[LANES];
    vst1q_f32(y, x);
    for (int64_t i = 0; i < n; i++) p[i] = y[i];
}
KV_INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
KV_INLINE vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
KV_INLINE vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
KV_INLINE vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
KV_INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
KV_INLINE vf vf_fnma(vf a, vf b, vf c) { return vfmsq_f32(c, a, b); } /* c - a·b */
/* as x86: the second operand when one is a NaN */
KV_INLINE vf vf_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
KV_INLINE vf vf_min(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
KV_INLINE vf vf_round(vf x) { return vrndnq_f32(x); }
KV_INLINE vf vf_abs(vf x) { return vabsq_f32(x); }
KV_INLINE vf vf_from_int(vi x) { return vcvtq_f32_s32(x); }
KV_INLINE vi vf_to_int(vf x) { return vcvtnq_s32_f32(x); }
KV_INLINE vf vf_of_bits(vi x) { return vreinterpretq_f32_s32(x); }
/* x · 2^n, n integral. In two steps, so that |n| up to 252 overflows to infinity or
 * underflows as it should. */
KV_INLINE vf vf_scale2(vf x, vf n)
{
    vi both = vf_to_int(n), half = vshrq_n_s32(both, 1), rest = vsubq_s32(both, half),
       bias = vdupq_n_s32(127);
    vf a = vf_of_bits(vshlq_n_s32(vaddq_s32(half, bias), 23)),
       b = vf_of_bits(vshlq_n_s32(vaddq_s32(rest, bias), 23));
    return vf_mul(vf_mul(x, a), b);
}
KV_INLINE float vf_sum(vf x) { return vaddvq_f32(x); }
KV_INLINE float vf_largest(vf x)
{
    vf y = vf_max(x, vextq_f32(x, x, 2));
    return vgetq_lane_f32(vf_max(y, vextq_f32(y, y, 1)), 0);
}
KV_INLINE vf vf_where_larger(vf a, vf b, vf x, vf y) { return vbslq_f32(vcgtq_f32(a, b), x, y); }

/* lane i gets x[i ^ h] */
KV_INLINE vf vf_swap(vf x, int h) { return h == 1 ? vrev64q_f32(x) : vextq_f32(x, x, 2); }
KV_INLINE vf vf_reverse(vf x)
{
    vf y = vrev64q_f32(x);
    return vextq_f32(y, y, 2);
}

/* lane i of x where first <= base + i < last, else `other` */
KV_INLINE vf vf_in_range(vf x, int base, int first, int last, float other)
{
    static const int32_t lane[LANES] = { 0, 1, 2, 3 };
    vi i = vaddq_s32(vdupq_n_s32(base), vld1q_s32(lane));
    uint32x4_t in = vandq_u32(vcgeq_s32(i, vdupq_n_s32(first)), vcltq_s32(i, vdupq_n_s32(last)));
    return vbslq_f32(in, x, vdupq_n_f32(other));
}

/* What there is one number of for each of four rows (rows4.h) */
#define KV_V4
typedef float32x4_t v4;
KV_INLINE v4 four_sums(vf a, vf b, vf c, vf d) { return vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)); }
KV_INLINE v4 four_largest(vf a, vf b, vf c, vf d)
{
    vf ab = vf_max(vuzp1q_f32(a, b), vuzp2q_f32(a, b)), cd = vf_max(vuzp1q_f32(c, d), vuzp2q_f32(c, d));
    return vf_max(vuzp1q_f32(ab, cd), vuzp2q_f32(ab, cd));
}
KV_INLINE v4 v4_of(vf x) { return x; }
KV_INLINE vf vf_of(v4 x) { return x; }
KV_INLINE v4 v4_zero(void) { return vf_zero(); }
KV_INLINE v4 v4_set(float x) { return vf_set(x); }
KV_INLINE void v4_store(float *p, v4 x) { vf_store(p, x); }
KV_INLINE v4 v4_add(v4 a, v4 b) { return vf_add(a, b); }
KV_INLINE v4 v4_sub(v4 a, v4 b) { return vf_sub(a, b); }
KV_INLINE v4 v4_mul(v4 a, v4 b) { return vf_mul(a, b); }
KV_INLINE v4 v4_div(v4 a, v4 b) { return vf_div(a, b); }
KV_INLINE v4 v4_fma(v4 a, v4 b, v4 c) { return vf_fma(a, b, c); }
KV_INLINE v4 v4_fnma(v4 a, v4 b, v4 c) { return vf_fnma(a, b, c); }
KV_INLINE v4 v4_load_n(const float *p, int n) { return vf_load_n(p, n); }
KV_INLINE void v4_store_n(float *p, v4 x, int n) { vf_store_n(p, x, n); }
/* 0 for −∞; a NaN stays */
KV_INLINE v4 v4_or_zero(v4 x) { return vbslq_f32(vceqq_f32(x, vf_set(-INFINITY)), vf_zero(), x); }
KV_INLINE v4 v4_where_larger(v4 a, v4 b, v4 x) { return vbslq_f32(vcgtq_f32(a, b), x, vf_zero()); }

/* halves */
KV_INLINE vf vf_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
KV_INLINE vf vf_load_f16_n(const uint16_t *p, int64_t n)
{
    uint16_t h[LANES] = { 0 };
    for (int64_t i = 0; i < n; i++) h[i] = p[i];
    return vf_load_f16(h);
}
KV_INLINE void vf_store_f16(uint16_t *p, vf x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
KV_INLINE void vf_store_f16_n(uint16_t *p, vf x, int64_t n)
{
    uint16_t h[LANES];
    vf_store_f16(h, x);
    for (int64_t i = 0; i < n; i++) p[i] = h[i];
}
KV_INLINE vf vf_load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
KV_INLINE vi vi_load_codes(const uint8_t *p) /* 4 unsigned bytes */
{
    const int32_t x[LANES] = { p[0], p[1], p[2], p[3] };
    return vld1q_s32(x);
}
KV_INLINE vf vf_load_codes(const uint8_t *p) { return vf_from_int(vi_load_codes(p)); }

/* Σ of the lanes in double */
typedef float64x2_t vd;
KV_INLINE vd vd_zero(void) { return vdupq_n_f64(0.0); }
KV_INLINE vd vd_add_lanes(vd acc, vf x)
{
    return vaddq_f64(acc, vaddq_f64(vcvt_f64_f32(vget_low_f32(x)), vcvt_high_f64_f32(x)));
}
KV_INLINE double vd_sum(vd x) { return vaddvq_f64(x); }

/* integers */
KV_INLINE vi vi_zero(void) { return vdupq_n_s32(0); }
KV_INLINE vi vi_load(const void *p) { return FROM_U8(vld1q_u8(p)); }
KV_INLINE void vi_store(void *p, vi x) { vst1q_u8(p, AS_U8(x)); }
KV_INLINE vi vi_set(int x) { return vdupq_n_s32(x); }
KV_INLINE vi vi_set4(const int8_t *p) /* 4 bytes to every lane */
{
    int32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return vdupq_n_s32(word);
}
/* The same of 8 bytes and their products' pair sums: 2 · 127 · 128 fits in 16 bits. */
KV_INLINE vi dot_signed(vi acc, int8x16_t a, int8x16_t b)
{
    int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
    return vpadalq_s16(acc, vpaddq_s16(low, high));
}
/* acc + Σ of 4 products (unsigned code × signed x) per lane, exact. wide: codes above 127 occur, which are
 * taken as their low 7 bits and the top one. */
KV_INLINE vi vi_dot4(vi acc, vi code, vi x, int wide)
{
    if (!wide) return dot_signed(acc, AS_S8(code), AS_S8(x));
    acc = dot_signed(acc, vreinterpretq_s8_u8(vandq_u8(AS_U8(code), vdupq_n_u8(127))), AS_S8(x));
    int8x16_t topped = vandq_s8(AS_S8(x), vshrq_n_s8(AS_S8(code), 7)); /* x where the top bit is set */
    return vpadalq_s16(acc, vshlq_n_s16(vpaddlq_s8(topped), 7));       /* 2 · 127 · 128 fits                */
}
/* q = 128·high + low with low in -64 .. 63, and 128·x */
KV_INLINE vi vi_high_digit(vi q) { return vshrq_n_s32(vaddq_s32(q, vdupq_n_s32(64)), 7); }
KV_INLINE vi vi_shift_digit(vi x) { return vshlq_n_s32(x, 7); }
KV_INLINE vi vi_low_digit(vi q, vi high) { return vsubq_s32(q, vi_shift_digit(high)); }
KV_INLINE vf vf_low_half(vi x) { return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(AS_U32(x)))); }
KV_INLINE vf vf_high_half(vi x) { return vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(AS_U32(x), 16))); }
KV_INLINE void vi_store_bytes(int8_t *p, vi x) /* the low byte of each lane */
{
    int16x4_t words = vmovn_s32(x);
    int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
    int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
    __builtin_memcpy(p, &four, sizeof four);
}
KV_INLINE int vi_sum(vi x) { return vaddvq_s32(x); }

/* 4 × 4 words: out[i] lane j = in[j] lane i */
KV_INLINE void vi_transpose(vi v[LANES])
{
    vi a = vtrn1q_s32(v[0], v[1]), b = vtrn2q_s32(v[0], v[1]), c = vtrn1q_s32(v[2], v[3]),
       d = vtrn2q_s32(v[2], v[3]);
    v[0] = vcombine_s32(vget_low_s32(a), vget_low_s32(c));
    v[1] = vcombine_s32(vget_low_s32(b), vget_low_s32(d));
    v[2] = vcombine_s32(vget_high_s32(a), vget_high_s32(c));
    v[3] = vcombine_s32(vget_high_s32(b), vget_high_s32(d));
}

/* the first n bytes, zero beyond; nothing beyond is touched */
KV_INLINE vi vi_load_bytes(const void *p, size_t n)
{
    uint8_t bytes[16] = { 0 };
    if (n >= 16) return vi_load(p);
    __builtin_memcpy(bytes, p, n);
    return vi_load(bytes);
}
KV_INLINE vi vi_set_bytes(int x) { return FROM_U8(vdupq_n_u8((uint8_t)x)); }
KV_INLINE vi vi_and(vi a, vi b) { return vandq_s32(a, b); }
KV_INLINE vi vi_or(vi a, vi b) { return vorrq_s32(a, b); }
KV_INLINE vi vi_xor(vi a, vi b) { return veorq_s32(a, b); }
KV_INLINE vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
KV_INLINE vi vi_right(vi x, int n) { return FROM_U32(vshlq_u32(AS_U32(x), vdupq_n_s32(-n))); }
KV_INLINE vi vi_left(vi x, int n) { return vshlq_s32(x, vdupq_n_s32(n)); }
KV_INLINE vi vi_right_signed(vi x, int n) { return vshlq_s32(x, vdupq_n_s32(-n)); }
/* per lane: the high half of a, then the low half of b */
KV_INLINE vi vi_straddle(vi a, vi b) { return vorrq_s32(vi_right(a, 16), vshlq_n_s32(b, 16)); }
/* byte j of each lane: 16 where bit 4·i + j of the lane of x is set, else 0 */
KV_INLINE vi vi_fifth_bits(vi x, int i)
{
    vi four = vandq_s32(vi_right(x, 4 * i), vdupq_n_s32(15)),
       spread = vmulq_s32(four, vdupq_n_s32(0x01010101));
    uint8x16_t set = vtstq_u8(AS_U8(spread), AS_U8(vdupq_n_s32(0x08040201)));
    return FROM_U8(vandq_u8(set, vdupq_n_u8(16)));
}
/* table[code] for codes below 16 */
KV_INLINE vi vi_lookup(const uint8_t table[16], vi code)
{
    return FROM_U8(vqtbl1q_u8(vld1q_u8(table), AS_U8(code)));
}

/* p · 2^n for e^x, x >= EXP_LOWEST or the result is 0 */
#define EXP_LOWEST -0x1.5d589ep+6f /* -126 · ln2: below it 2^n is no normal number */
KV_INLINE vf exp_scale(vf p, vf n, vf x)
{
    vi exponent = vshlq_n_s32(vaddq_s32(vf_to_int(n), vdupq_n_s32(127)), 23);
    return vbslq_f32(vcltq_f32(x, vf_set(EXP_LOWEST)), vf_zero(), vf_mul(p, vf_of_bits(exponent)));
}
/* p · 2^n, with n in the low bits of t = n + 1.5·2^23; the result must be normal */
#define EXP_LOWEST_NORMAL EXP_LOWEST
KV_INLINE vf vf_add_exponent(vf p, vf t)
{
    vi n = vshlq_n_s32(vreinterpretq_s32_f32(t), 23);
    return vf_of_bits(vaddq_s32(vreinterpretq_s32_f32(p), n));
}

/* What codes.inc.h needs. A line of 64 bytes is four vectors; dot products are added in 32 bits. */
#define PARTS 4
/* GROUPS of tokens and COLUMNS of channels side by side: times 4 rows, 8 of 32 registers are sums */
#define GROUPS 2
#define COLUMNS 2
#define CENTER_WIDE 1
#define KEY_SPAN(bits) (1 << 20)
#define VALUE_SPAN(bits) 16
KV_INLINE vi vi_load_line(const uint8_t *p, bool half)
{
    (void)half;
    return vi_load(p);
}
KV_INLINE vi vi_set_words(int x) { return FROM_U16(vdupq_n_u16((uint16_t)x)); }
KV_INLINE vi vi_shift16(vi x, int n) { return FROM_U16(vshlq_u16(AS_U16(x), vdupq_n_s16((int16_t)-n))); }
KV_INLINE vi vi_dot_narrow(vi acc, vi u, vi s) { return vi_dot4(acc, u, s, 1); } /* probabilities reach 255 */
KV_INLINE vi vi_widen(vi acc) { return acc; }
KV_INLINE vi vi_dot_wide(vi acc, vi a, vi b)
{
    int32x4_t low = vmull_s16(vget_low_s16(AS_S16(a)), vget_low_s16(AS_S16(b)));
    return vaddq_s32(acc, vpaddq_s32(low, vmull_high_s16(AS_S16(a), AS_S16(b))));
}
KV_INLINE vi vi_to_digits(vf x, vf per_unit) { return vf_to_int(vf_mul(x, per_unit)); }
KV_INLINE void vi_store_wide(int16_t *p, vi x) /* 16-bit words in the order of kv_wide_place */
{
    int16_t words[LANES];
    vst1_s16(words, vmovn_s32(x));
    p[0] = words[0];
    p[1] = words[2];
    p[2] = words[1];
    p[3] = words[3];
}
/* The lower half; the upper one is 0. */
KV_INLINE vi vi_load_low_half(const void *p)
{
    return vreinterpretq_s32_s8(vcombine_s8(vld1_s8(p), vdup_n_s8(0)));
}
KV_INLINE void vi_store_low_half(void *p, vi x) { vst1_s8(p, vget_low_s8(vreinterpretq_s8_s32(x))); }
/* Four vectors of integers as bytes, in their order. */
KV_INLINE vi vi_pack_bytes(const vi x[4]) /* of −128 .. 127 */
{
    int16x8_t low = vcombine_s16(vmovn_s32(x[0]), vmovn_s32(x[1])),
              high = vcombine_s16(vmovn_s32(x[2]), vmovn_s32(x[3]));
    return vreinterpretq_s32_s8(vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
KV_INLINE vi vi_pack_ubytes(const vi x[4]) { return vi_pack_bytes(x); } /* of 0 .. 255 */

#include "kernels/whole_parts.h"

#endif
