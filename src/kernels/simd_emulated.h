/*
 * AVX-512 for a CPU without it, for tests alone (config=emulated): SIMDe's portable intrinsics under Intel's
 * names, and here what its version 0.7.4 lacks, element by element as Intel's manual defines it. Nothing here
 * is meant to be fast. What neither has does not compile ("target specific option mismatch"): add it below,
 * and its name to the list. Approximations (rcp14, rsqrt14) stay out: only the instruction has their bits.
 */
#ifndef KV_KERNELS_SIMD_EMULATED_H
#define KV_KERNELS_SIMD_EMULATED_H

/* For intrinsics that are macros where nothing is inlined. */
#ifndef __OPTIMIZE__
#error "config=emulated needs optimization"
#endif

#include <math.h>
#include <simde/x86/avx512.h>
#include <stdint.h>
#include <string.h>

/* SIMDe's own names for these take one operand too many, or too few. */
#undef _mm512_madd_epi16
#undef _mm512_maskz_madd_epi16
#undef _mm512_maskz_maddubs_epi16
#undef _mm512_mask_cmpge_epi8_mask
#undef _mm512_mask_cmpge_epu8_mask
#undef _mm512_mask_cmpge_epi16_mask
#undef _mm512_mask_cmpge_epu16_mask
#undef _mm512_mask_cmpge_epi32_mask
#undef _mm512_mask_cmpge_epu32_mask
#undef _mm512_mask_cmple_epi8_mask
#undef _mm512_mask_cmple_epu8_mask
#undef _mm512_mask_cmple_epi16_mask
#undef _mm512_mask_cmple_epu16_mask
#undef _mm512_mask_cmple_epi32_mask
#undef _mm512_mask_cmple_epu32_mask
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#define _mm512_maskz_madd_epi16(k, a, b) simde_mm512_maskz_madd_epi16(k, a, b)
#define _mm512_maskz_maddubs_epi16(k, a, b) simde_mm512_maskz_maddubs_epi16(k, a, b)
#define _mm512_mask_cmpge_epi8_mask(k, a, b) simde_mm512_mask_cmpge_epi8_mask(k, a, b)
#define _mm512_mask_cmpge_epu8_mask(k, a, b) simde_mm512_mask_cmpge_epu8_mask(k, a, b)
#define _mm512_mask_cmpge_epi16_mask(k, a, b) simde_mm512_mask_cmpge_epi16_mask(k, a, b)
#define _mm512_mask_cmpge_epu16_mask(k, a, b) simde_mm512_mask_cmpge_epu16_mask(k, a, b)
#define _mm512_mask_cmpge_epi32_mask(k, a, b) simde_mm512_mask_cmpge_epi32_mask(k, a, b)
#define _mm512_mask_cmpge_epu32_mask(k, a, b) simde_mm512_mask_cmpge_epu32_mask(k, a, b)
#define _mm512_mask_cmple_epi8_mask(k, a, b) simde_mm512_mask_cmple_epi8_mask(k, a, b)
#define _mm512_mask_cmple_epu8_mask(k, a, b) simde_mm512_mask_cmple_epu8_mask(k, a, b)
#define _mm512_mask_cmple_epi16_mask(k, a, b) simde_mm512_mask_cmple_epi16_mask(k, a, b)
#define _mm512_mask_cmple_epu16_mask(k, a, b) simde_mm512_mask_cmple_epu16_mask(k, a, b)
#define _mm512_mask_cmple_epi32_mask(k, a, b) simde_mm512_mask_cmple_epi32_mask(k, a, b)
#define _mm512_mask_cmple_epu32_mask(k, a, b) simde_mm512_mask_cmple_epu32_mask(k, a, b)

/* The compiler declares every intrinsic, to refuse it when it is called; so Intel's name leads to another.
 * Where SIMDe has the intrinsic too: its abs leaves -0 as it is, multishift shifts by 64, scalef drops
 * subnormal numbers, dpbf16 neither fuses nor drops them. */
#undef _kand_mask16
#undef _mm512_abs_ps
#undef _mm512_multishift_epi64_epi8
#undef _mm512_scalef_ps
#undef _mm512_dpbf16_ps
#ifdef __clang__ /* has many of them as macros */
#pragma clang diagnostic ignored "-Wmacro-redefined"
#endif
#define EMULATED(name) emulated##name
/* memory under a mask */
#define _mm512_maskz_loadu_epi8 EMULATED(_mm512_maskz_loadu_epi8)
#define _mm512_maskz_loadu_epi16 EMULATED(_mm512_maskz_loadu_epi16)
#define _mm512_maskz_loadu_epi32 EMULATED(_mm512_maskz_loadu_epi32)
#define _mm512_maskz_loadu_ps EMULATED(_mm512_maskz_loadu_ps)
#define _mm512_maskz_loadu_pd EMULATED(_mm512_maskz_loadu_pd)
#define _mm512_mask_loadu_epi8 EMULATED(_mm512_mask_loadu_epi8)
#define _mm512_mask_loadu_epi16 EMULATED(_mm512_mask_loadu_epi16)
#define _mm512_mask_loadu_epi32 EMULATED(_mm512_mask_loadu_epi32)
#define _mm512_mask_loadu_ps EMULATED(_mm512_mask_loadu_ps)
#define _mm512_mask_loadu_pd EMULATED(_mm512_mask_loadu_pd)
#define _mm512_mask_storeu_epi8 EMULATED(_mm512_mask_storeu_epi8)
#define _mm512_mask_storeu_epi16 EMULATED(_mm512_mask_storeu_epi16)
#define _mm512_mask_storeu_epi32 EMULATED(_mm512_mask_storeu_epi32)
#define _mm512_mask_storeu_ps EMULATED(_mm512_mask_storeu_ps)
#define _mm512_mask_storeu_pd EMULATED(_mm512_mask_storeu_pd)
#define _mm256_maskz_loadu_epi8 EMULATED(_mm256_maskz_loadu_epi8)
#define _mm256_maskz_loadu_epi16 EMULATED(_mm256_maskz_loadu_epi16)
#define _mm256_maskz_loadu_epi32 EMULATED(_mm256_maskz_loadu_epi32)
#define _mm256_maskz_loadu_ps EMULATED(_mm256_maskz_loadu_ps)
#define _mm256_mask_loadu_epi8 EMULATED(_mm256_mask_loadu_epi8)
#define _mm256_mask_loadu_epi16 EMULATED(_mm256_mask_loadu_epi16)
#define _mm256_mask_loadu_epi32 EMULATED(_mm256_mask_loadu_epi32)
#define _mm256_mask_loadu_ps EMULATED(_mm256_mask_loadu_ps)
#define _mm256_mask_storeu_epi8 EMULATED(_mm256_mask_storeu_epi8)
#define _mm256_mask_storeu_epi16 EMULATED(_mm256_mask_storeu_epi16)
#define _mm256_mask_storeu_epi32 EMULATED(_mm256_mask_storeu_epi32)
#define _mm256_mask_storeu_ps EMULATED(_mm256_mask_storeu_ps)
#define _mm_maskz_loadu_epi8 EMULATED(_mm_maskz_loadu_epi8)
#define _mm_maskz_loadu_epi16 EMULATED(_mm_maskz_loadu_epi16)
#define _mm_maskz_loadu_epi32 EMULATED(_mm_maskz_loadu_epi32)
#define _mm_mask_loadu_epi8 EMULATED(_mm_mask_loadu_epi8)
#define _mm_mask_loadu_epi16 EMULATED(_mm_mask_loadu_epi16)
#define _mm_mask_loadu_epi32 EMULATED(_mm_mask_loadu_epi32)
#define _mm_mask_storeu_epi8 EMULATED(_mm_mask_storeu_epi8)
#define _mm_mask_storeu_epi16 EMULATED(_mm_mask_storeu_epi16)
#define _mm_mask_storeu_epi32 EMULATED(_mm_mask_storeu_epi32)
#define _mm512_stream_ps EMULATED(_mm512_stream_ps)
/* from one element type to another */
#define _mm512_cvtepu8_epi16 EMULATED(_mm512_cvtepu8_epi16)
#define _mm512_cvtepu8_epi32 EMULATED(_mm512_cvtepu8_epi32)
#define _mm512_cvtepi8_epi32 EMULATED(_mm512_cvtepi8_epi32)
#define _mm512_cvtepu16_epi32 EMULATED(_mm512_cvtepu16_epi32)
#define _mm512_cvtepi16_epi32 EMULATED(_mm512_cvtepi16_epi32)
#define _mm512_cvtepi32_epi16 EMULATED(_mm512_cvtepi32_epi16)
#define _mm512_cvtepi32_epi8 EMULATED(_mm512_cvtepi32_epi8)
#define _mm512_cvtusepi16_epi8 EMULATED(_mm512_cvtusepi16_epi8)
#define _mm512_cvtusepi32_epi8 EMULATED(_mm512_cvtusepi32_epi8)
#define _mm512_cvtusepi32_epi16 EMULATED(_mm512_cvtusepi32_epi16)
#define _mm256_cvtepi16_epi8 EMULATED(_mm256_cvtepi16_epi8)
#define _mm256_cvtepi32_epi8 EMULATED(_mm256_cvtepi32_epi8)
#define _mm256_cvtepi32_epi16 EMULATED(_mm256_cvtepi32_epi16)
#define _mm512_cvtepi32_ps EMULATED(_mm512_cvtepi32_ps)
#define _mm512_cvtepu32_ps EMULATED(_mm512_cvtepu32_ps)
#define _mm512_cvtps_epi32 EMULATED(_mm512_cvtps_epi32)
#define _mm512_cvttps_epi32 EMULATED(_mm512_cvttps_epi32)
#define _mm512_cvtps_pd EMULATED(_mm512_cvtps_pd)
#define _mm512_cvtpd_ps EMULATED(_mm512_cvtpd_ps)
#define _mm512_cvtph_ps EMULATED(_mm512_cvtph_ps)
#define _mm512_maskz_cvtph_ps EMULATED(_mm512_maskz_cvtph_ps)
#define _mm512_cvtps_ph EMULATED(_mm512_cvtps_ph)
#define _mm512_cvtneps_pbh EMULATED(_mm512_cvtneps_pbh)
#define _mm512_cvtne2ps_pbh EMULATED(_mm512_cvtne2ps_pbh)
#define _mm512_cvtpbh_ps EMULATED(_mm512_cvtpbh_ps)
#define _mm512_cvtss_f32 EMULATED(_mm512_cvtss_f32)
#define _mm512_cvtsi512_si32 EMULATED(_mm512_cvtsi512_si32)
/* from one place to another */
#define _mm512_permute_ps EMULATED(_mm512_permute_ps)
#define _mm512_permutevar_ps EMULATED(_mm512_permutevar_ps)
#define _mm512_permutex_epi64 EMULATED(_mm512_permutex_epi64)
#define _mm512_shuffle_epi32 EMULATED(_mm512_shuffle_epi32)
#define _mm512_shufflelo_epi16 EMULATED(_mm512_shufflelo_epi16)
#define _mm512_shufflehi_epi16 EMULATED(_mm512_shufflehi_epi16)
#define _mm512_shuffle_f32x4 EMULATED(_mm512_shuffle_f32x4)
#define _mm512_shuffle_i64x2 EMULATED(_mm512_shuffle_i64x2)
#define _mm512_moveldup_ps EMULATED(_mm512_moveldup_ps)
#define _mm512_movehdup_ps EMULATED(_mm512_movehdup_ps)
#define _mm512_bslli_epi128 EMULATED(_mm512_bslli_epi128)
#define _mm512_bsrli_epi128 EMULATED(_mm512_bsrli_epi128)
#define _mm512_alignr_epi8 EMULATED(_mm512_alignr_epi8)
#define _mm512_alignr_epi32 EMULATED(_mm512_alignr_epi32)
#define _mm512_maskz_expand_epi32 EMULATED(_mm512_maskz_expand_epi32)
#define _mm512_i32gather_epi32 EMULATED(_mm512_i32gather_epi32)
#define _mm512_i32gather_ps EMULATED(_mm512_i32gather_ps)
#define _mm512_extractf32x8_ps EMULATED(_mm512_extractf32x8_ps)
#define _mm512_extracti32x8_epi32 EMULATED(_mm512_extracti32x8_epi32)
#define _mm512_broadcast_i32x8 EMULATED(_mm512_broadcast_i32x8)
#define _mm512_broadcast_i64x2 EMULATED(_mm512_broadcast_i64x2)
#define _mm512_broadcast_i32x2 EMULATED(_mm512_broadcast_i32x2)
#define _mm512_zextsi256_si512 EMULATED(_mm512_zextsi256_si512)
#define _mm512_zextsi128_si512 EMULATED(_mm512_zextsi128_si512)
#define _mm512_zextps256_ps512 EMULATED(_mm512_zextps256_ps512)
#define _mm512_undefined_ps EMULATED(_mm512_undefined_ps)
#define _mm512_undefined_epi32 EMULATED(_mm512_undefined_epi32)
/* comparisons */
#define _mm512_cmp_epi32_mask EMULATED(_mm512_cmp_epi32_mask)
#define _mm512_cmp_epu32_mask EMULATED(_mm512_cmp_epu32_mask)
#define _mm512_cmp_epu8_mask EMULATED(_mm512_cmp_epu8_mask)
#define _mm512_cmplt_epi32_mask EMULATED(_mm512_cmplt_epi32_mask)
#define _mm512_cmpneq_epi32_mask EMULATED(_mm512_cmpneq_epi32_mask)
#define _mm512_mask_cmp_epi32_mask EMULATED(_mm512_mask_cmp_epi32_mask)
#define _mm512_mask_cmplt_epi32_mask EMULATED(_mm512_mask_cmplt_epi32_mask)
#define _mm512_mask_cmp_ps_mask EMULATED(_mm512_mask_cmp_ps_mask)
#define _mm512_testn_epi8_mask EMULATED(_mm512_testn_epi8_mask)
#define _cvtu32_mask16 EMULATED(_cvtu32_mask16)
#define _kand_mask16 EMULATED(_kand_mask16)
/* arithmetic */
#define _mm512_abs_ps EMULATED(_mm512_abs_ps)
#define _mm512_srai_epi32 EMULATED(_mm512_srai_epi32)
#define _mm512_srav_epi32 EMULATED(_mm512_srav_epi32)
#define _mm512_mulhi_epu16 EMULATED(_mm512_mulhi_epu16)
#define _mm512_multishift_epi64_epi8 EMULATED(_mm512_multishift_epi64_epi8)
#define _mm512_scalef_ps EMULATED(_mm512_scalef_ps)
#define _mm512_dpbf16_ps EMULATED(_mm512_dpbf16_ps)
#define _mm512_reduce_add_ps EMULATED(_mm512_reduce_add_ps)
#define _mm512_reduce_max_ps EMULATED(_mm512_reduce_max_ps)
#define _mm512_reduce_min_ps EMULATED(_mm512_reduce_min_ps)
#define _mm512_reduce_add_pd EMULATED(_mm512_reduce_add_pd)
#define _mm512_reduce_add_epi32 EMULATED(_mm512_reduce_add_epi32)
#define _mm512_reduce_max_epi32 EMULATED(_mm512_reduce_max_epi32)
#define _mm512_reduce_min_epi32 EMULATED(_mm512_reduce_min_epi32)

/* A vector and its elements */
#define ELEMENTS(bytes)                                                                              \
    int8_t i8[bytes]; uint8_t u8[bytes]; int16_t i16[(bytes) / 2]; uint16_t u16[(bytes) / 2];         \
    int32_t i32[(bytes) / 4]; uint32_t u32[(bytes) / 4]; int64_t i64[(bytes) / 8];                    \
    uint64_t u64[(bytes) / 8]; float ps[(bytes) / 4]; double pd[(bytes) / 8];
union xmm { ELEMENTS(16) __m128i i; __m128 f; };
union ymm { ELEMENTS(32) __m256i i; __m256 f; __m256bh bf; };
union zmm { ELEMENTS(64) __m512i i; __m512 f; __m512d d; __m512bh bf; };
#define EMULATE static inline __attribute__((always_inline, unused))

/* --- memory under a mask: elements whose bit is clear are not touched, even on an inaccessible page --- */

#define MASKED_MEMORY(prefix, suffix, type, member, mask, reg, field, element)                         \
    EMULATE type prefix##_mask_loadu_##suffix(type source, mask k, const void *p)                      \
    {                                                                                                 \
        union reg r = { .field = source };                                                            \
        for (unsigned i = 0; i < sizeof r.member / sizeof r.member[0]; i++)                            \
            if (k >> i & 1) memcpy(&r.member[i], (const char *)p + i * sizeof(element), sizeof(element)); \
        return r.field;                                                                               \
    }                                                                                                 \
    EMULATE type prefix##_maskz_loadu_##suffix(mask k, const void *p)                                  \
    {                                                                                                 \
        return prefix##_mask_loadu_##suffix((type){ 0 }, k, p);                                        \
    }                                                                                                 \
    EMULATE void prefix##_mask_storeu_##suffix(void *p, mask k, type x)                                \
    {                                                                                                 \
        union reg r = { .field = x };                                                                 \
        for (unsigned i = 0; i < sizeof r.member / sizeof r.member[0]; i++)                            \
            if (k >> i & 1) memcpy((char *)p + i * sizeof(element), &r.member[i], sizeof(element));    \
    }
MASKED_MEMORY(_mm512, epi8, __m512i, u8, __mmask64, zmm, i, uint8_t)
MASKED_MEMORY(_mm512, epi16, __m512i, u16, __mmask32, zmm, i, uint16_t)
MASKED_MEMORY(_mm512, epi32, __m512i, u32, __mmask16, zmm, i, uint32_t)
MASKED_MEMORY(_mm512, ps, __m512, ps, __mmask16, zmm, f, float)
MASKED_MEMORY(_mm512, pd, __m512d, pd, __mmask8, zmm, d, double)
MASKED_MEMORY(_mm256, epi8, __m256i, u8, __mmask32, ymm, i, uint8_t)
MASKED_MEMORY(_mm256, epi16, __m256i, u16, __mmask16, ymm, i, uint16_t)
MASKED_MEMORY(_mm256, epi32, __m256i, u32, __mmask8, ymm, i, uint32_t)
MASKED_MEMORY(_mm256, ps, __m256, ps, __mmask8, ymm, f, float)
MASKED_MEMORY(_mm, epi8, __m128i, u8, __mmask16, xmm, i, uint8_t)
MASKED_MEMORY(_mm, epi16, __m128i, u16, __mmask8, xmm, i, uint16_t)
MASKED_MEMORY(_mm, epi32, __m128i, u32, __mmask8, xmm, i, uint32_t)

EMULATE void _mm512_stream_ps(void *p, __m512 x) { _mm512_store_ps(p, x); }

/* --- from one element type to another --- */

EMULATE uint32_t saturate(uint32_t x, uint32_t most) { return x < most ? x : most; }

EMULATE uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

EMULATE float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The rounding is a constant of the instruction. */
EMULATE uint16_t half_of(float x, int rounding)
{
    switch (rounding & 7) {
    case 0: return _cvtss_sh(x, 0);
    case 1: return _cvtss_sh(x, 1);
    case 2: return _cvtss_sh(x, 2);
    case 3: return _cvtss_sh(x, 3);
    default: return _cvtss_sh(x, 4);
    }
}

/* Subnormal numbers count as zero in every bfloat16 instruction, whatever MXCSR says. */
EMULATE float no_subnormal(float x) { return fpclassify(x) == FP_SUBNORMAL ? copysignf(0.0f, x) : x; }

/* To nearest even; NaN stays one and becomes quiet. */
EMULATE uint16_t bfloat_of(float x)
{
    uint32_t bits = bits_of(no_subnormal(x));
    if (isnan(x)) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* `value` of each element x; elements beyond those converted are zero. */
#define CONVERT(name, to, to_reg, to_field, to_member, from, from_reg, from_field, from_member, n, value) \
    EMULATE to name(from a)                                                                            \
    {                                                                                                 \
        union from_reg in = { .from_field = a };                                                      \
        union to_reg out;                                                                             \
        memset(&out, 0, sizeof out);                                                                  \
        for (int i = 0; i < (n); i++) {                                                               \
            __typeof__(in.from_member[0]) x = in.from_member[i];                                      \
            out.to_member[i] = (__typeof__(out.to_member[0]))(value);                                 \
        }                                                                                             \
        return out.to_field;                                                                          \
    }
CONVERT(_mm512_cvtepu8_epi16, __m512i, zmm, i, i16, __m256i, ymm, i, u8, 32, x)
CONVERT(_mm512_cvtepu8_epi32, __m512i, zmm, i, i32, __m128i, xmm, i, u8, 16, x)
CONVERT(_mm512_cvtepi8_epi32, __m512i, zmm, i, i32, __m128i, xmm, i, i8, 16, x)
CONVERT(_mm512_cvtepu16_epi32, __m512i, zmm, i, i32, __m256i, ymm, i, u16, 16, x)
CONVERT(_mm512_cvtepi16_epi32, __m512i, zmm, i, i32, __m256i, ymm, i, i16, 16, x)
CONVERT(_mm512_cvtepi32_epi16, __m256i, ymm, i, u16, __m512i, zmm, i, u32, 16, x)
CONVERT(_mm512_cvtepi32_epi8, __m128i, xmm, i, u8, __m512i, zmm, i, u32, 16, x)
CONVERT(_mm512_cvtusepi16_epi8, __m256i, ymm, i, u8, __m512i, zmm, i, u16, 32, saturate(x, UINT8_MAX))
CONVERT(_mm512_cvtusepi32_epi8, __m128i, xmm, i, u8, __m512i, zmm, i, u32, 16, saturate(x, UINT8_MAX))
CONVERT(_mm512_cvtusepi32_epi16, __m256i, ymm, i, u16, __m512i, zmm, i, u32, 16, saturate(x, UINT16_MAX))
CONVERT(_mm256_cvtepi16_epi8, __m128i, xmm, i, u8, __m256i, ymm, i, u16, 16, x)
CONVERT(_mm256_cvtepi32_epi8, __m128i, xmm, i, u8, __m256i, ymm, i, u32, 8, x)
CONVERT(_mm256_cvtepi32_epi16, __m128i, xmm, i, u16, __m256i, ymm, i, u32, 8, x)
CONVERT(_mm512_cvtepi32_ps, __m512, zmm, f, ps, __m512i, zmm, i, i32, 16, x)
CONVERT(_mm512_cvtepu32_ps, __m512, zmm, f, ps, __m512i, zmm, i, u32, 16, x)
/* The scalar instructions: what is out of range becomes 0x80000000, and MXCSR rounds. */
CONVERT(_mm512_cvtps_epi32, __m512i, zmm, i, i32, __m512, zmm, f, ps, 16, _mm_cvtss_si32(_mm_set_ss(x)))
CONVERT(_mm512_cvttps_epi32, __m512i, zmm, i, i32, __m512, zmm, f, ps, 16, _mm_cvttss_si32(_mm_set_ss(x)))
CONVERT(_mm512_cvtps_pd, __m512d, zmm, d, pd, __m256, ymm, f, ps, 8, x)
CONVERT(_mm512_cvtpd_ps, __m256, ymm, f, ps, __m512d, zmm, d, pd, 8, x)
CONVERT(_mm512_cvtph_ps, __m512, zmm, f, ps, __m256i, ymm, i, u16, 16, _cvtsh_ss(x))
CONVERT(_mm512_cvtneps_pbh, __m256bh, ymm, bf, u16, __m512, zmm, f, ps, 16, bfloat_of(x))
CONVERT(_mm512_cvtpbh_ps, __m512, zmm, f, u32, __m256bh, ymm, bf, u16, 16, (uint32_t)x << 16)

EMULATE __m512 _mm512_maskz_cvtph_ps(__mmask16 k, __m256i a)
{
    return _mm512_maskz_mov_ps(k, _mm512_cvtph_ps(a));
}

EMULATE __m256i _mm512_cvtps_ph(__m512 a, int rounding)
{
    union zmm in = { .f = a };
    union ymm out;
    for (int i = 0; i < 16; i++) out.u16[i] = half_of(in.ps[i], rounding);
    return out.i;
}

/* b becomes the lower half. */
EMULATE __m512bh _mm512_cvtne2ps_pbh(__m512 a, __m512 b)
{
    union zmm upper = { .f = a }, lower = { .f = b }, out;
    for (int i = 0; i < 16; i++) {
        out.u16[i] = bfloat_of(lower.ps[i]);
        out.u16[16 + i] = bfloat_of(upper.ps[i]);
    }
    return out.bf;
}

EMULATE float _mm512_cvtss_f32(__m512 a) { return a[0]; }
EMULATE int _mm512_cvtsi512_si32(__m512i a) { return (union zmm){ .i = a }.i32[0]; }

/* --- from one place to another --- */

/* Element i of the result is element `from` of `member`. */
#define MOVE(name, type, field, member, params, from)                                                 \
    EMULATE type name params                                                                          \
    {                                                                                                 \
        union zmm in = { .field = a }, out;                                                           \
        for (int i = 0; i < (int)(sizeof in.member / sizeof in.member[0]); i++)                        \
            out.member[i] = in.member[from];                                                          \
        return out.field;                                                                             \
    }
/* within quarters of 128 bits, or for 64-bit elements halves of 256 */
MOVE(_mm512_permute_ps, __m512, f, u32, (__m512 a, int imm), i / 4 * 4 + (imm >> 2 * (i % 4) & 3))
MOVE(_mm512_shuffle_epi32, __m512i, i, u32, (__m512i a, int imm), i / 4 * 4 + (imm >> 2 * (i % 4) & 3))
MOVE(_mm512_permutex_epi64, __m512i, i, u64, (__m512i a, int imm), i / 4 * 4 + (imm >> 2 * (i % 4) & 3))
MOVE(_mm512_shufflelo_epi16, __m512i, i, u16, (__m512i a, int imm),
     i % 8 < 4 ? i / 8 * 8 + (imm >> 2 * (i % 4) & 3) : i)
MOVE(_mm512_shufflehi_epi16, __m512i, i, u16, (__m512i a, int imm),
     i % 8 < 4 ? i : i / 8 * 8 + 4 + (imm >> 2 * (i % 4) & 3))
MOVE(_mm512_moveldup_ps, __m512, f, u32, (__m512 a), i & ~1)
MOVE(_mm512_movehdup_ps, __m512, f, u32, (__m512 a), i | 1)
MOVE(_mm512_permutevar_ps, __m512, f, u32, (__m512 a, __m512i index),
     i / 4 * 4 + ((union zmm){ .i = index }.i32[i] & 3))

EMULATE __m512i _mm512_shuffle_i64x2(__m512i a, __m512i b, int imm)
{
    union zmm x = { .i = a }, y = { .i = b }, out;
    for (int i = 0; i < 8; i++) {
        int quarter = imm >> 2 * (i / 2) & 3;
        out.u64[i] = (i < 4 ? x : y).u64[2 * quarter + i % 2];
    }
    return out.i;
}
EMULATE __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int imm)
{
    return _mm512_castsi512_ps(_mm512_shuffle_i64x2(_mm512_castps_si512(a), _mm512_castps_si512(b), imm));
}

/* In each quarter: bytes imm .. imm + 15 of b and then a, zeros beyond. */
EMULATE __m512i _mm512_alignr_epi8(__m512i a, __m512i b, int imm)
{
    union zmm upper = { .i = a }, lower = { .i = b }, out;
    for (int i = 0; i < 64; i++) {
        int from = i % 16 + (imm & 255), quarter = i / 16 * 16;
        out.u8[i] = from < 16   ? lower.u8[quarter + from]
                    : from < 32 ? upper.u8[quarter + from - 16]
                                : 0;
    }
    return out.i;
}
EMULATE __m512i _mm512_bsrli_epi128(__m512i a, int n)
{
    return _mm512_alignr_epi8(_mm512_setzero_si512(), a, n);
}
EMULATE __m512i _mm512_bslli_epi128(__m512i a, int n)
{
    union zmm in = { .i = a }, out;
    for (int i = 0; i < 64; i++) out.u8[i] = i % 16 >= (n & 255) ? in.u8[i - (n & 255)] : 0;
    return out.i;
}
EMULATE __m512i _mm512_alignr_epi32(__m512i a, __m512i b, int imm)
{
    union zmm upper = { .i = a }, lower = { .i = b }, out;
    for (int i = 0; i < 16; i++) {
        int from = i + (imm & 15);
        out.u32[i] = from < 16 ? lower.u32[from] : upper.u32[from - 16];
    }
    return out.i;
}

EMULATE __m512i _mm512_maskz_expand_epi32(__mmask16 k, __m512i a)
{
    union zmm in = { .i = a }, out = { .i = { 0 } };
    for (int i = 0, n = 0; i < 16; i++)
        if (k >> i & 1) out.u32[i] = in.u32[n++];
    return out.i;
}

EMULATE __m512i _mm512_i32gather_epi32(__m512i index, const void *p, int scale)
{
    union zmm at = { .i = index }, out;
    for (int i = 0; i < 16; i++) memcpy(&out.u32[i], (const char *)p + (int64_t)at.i32[i] * scale, 4);
    return out.i;
}
EMULATE __m512 _mm512_i32gather_ps(__m512i index, const void *p, int scale)
{
    return _mm512_castsi512_ps(_mm512_i32gather_epi32(index, p, scale));
}

EMULATE __m256i _mm512_extracti32x8_epi32(__m512i a, int half)
{
    __m256i out;
    memcpy(&out, (const char *)&a + 32 * (half & 1), sizeof out);
    return out;
}
EMULATE __m256 _mm512_extractf32x8_ps(__m512 a, int half)
{
    __m256 out;
    memcpy(&out, (const char *)&a + 32 * (half & 1), sizeof out);
    return out;
}

/* A short vector, again and again; or once, and zeros. */
EMULATE __m512i repeat(const void *p, size_t n_bytes, int times)
{
    __m512i out = { 0 };
    for (int i = 0; i < times; i++) memcpy((char *)&out + (size_t)i * n_bytes, p, n_bytes);
    return out;
}
EMULATE __m512i _mm512_broadcast_i32x8(__m256i a) { return repeat(&a, 32, 2); }
EMULATE __m512i _mm512_broadcast_i64x2(__m128i a) { return repeat(&a, 16, 4); }
EMULATE __m512i _mm512_broadcast_i32x2(__m128i a) { return repeat(&a, 8, 8); }
EMULATE __m512i _mm512_zextsi256_si512(__m256i a) { return repeat(&a, 32, 1); }
EMULATE __m512i _mm512_zextsi128_si512(__m128i a) { return repeat(&a, 16, 1); }
EMULATE __m512 _mm512_zextps256_ps512(__m256 a) { return _mm512_castsi512_ps(repeat(&a, 32, 1)); }

/* Undefined may be anything. That nothing relies on it shows best with a NaN. */
EMULATE __m512i _mm512_undefined_epi32(void) { return _mm512_set1_epi32(0x7fc0dead); }
EMULATE __m512 _mm512_undefined_ps(void) { return _mm512_castsi512_ps(_mm512_undefined_epi32()); }

/* --- comparisons --- */

/* _MM_CMPINT_ENUM: equal, less, less or equal, never, and the opposites */
EMULATE int holds(int64_t x, int64_t y, int op)
{
    int yes = (op & 3) == 0 ? x == y : (op & 3) == 1 ? x < y : (op & 3) == 2 ? x <= y : 0;
    return op & 4 ? !yes : yes;
}
#define COMPARE(name, mask, member)                                                                   \
    EMULATE mask name(__m512i a, __m512i b, int op)                                                   \
    {                                                                                                 \
        union zmm x = { .i = a }, y = { .i = b };                                                     \
        mask k = 0;                                                                                   \
        for (int i = 0; i < (int)(sizeof x.member / sizeof x.member[0]); i++)                          \
            k |= (mask)((mask)holds(x.member[i], y.member[i], op) << i);                              \
        return k;                                                                                     \
    }
COMPARE(_mm512_cmp_epi32_mask, __mmask16, i32)
COMPARE(_mm512_cmp_epu32_mask, __mmask16, u32)
COMPARE(_mm512_cmp_epu8_mask, __mmask64, u8)
EMULATE __mmask16 _mm512_cmplt_epi32_mask(__m512i a, __m512i b) { return _mm512_cmp_epi32_mask(a, b, 1); }
EMULATE __mmask16 _mm512_cmpneq_epi32_mask(__m512i a, __m512i b) { return _mm512_cmp_epi32_mask(a, b, 4); }
EMULATE __mmask16 _mm512_mask_cmp_epi32_mask(__mmask16 k, __m512i a, __m512i b, int op)
{
    return k & _mm512_cmp_epi32_mask(a, b, op);
}
EMULATE __mmask16 _mm512_mask_cmplt_epi32_mask(__mmask16 k, __m512i a, __m512i b)
{
    return k & _mm512_cmp_epi32_mask(a, b, 1);
}
#define emulated_mm512_mask_cmp_ps_mask(k, a, b, op) ((__mmask16)((k) & _mm512_cmp_ps_mask(a, b, op)))
EMULATE __mmask64 _mm512_testn_epi8_mask(__m512i a, __m512i b)
{
    return _mm512_cmp_epu8_mask(_mm512_and_si512(a, b), _mm512_setzero_si512(), 0);
}
EMULATE __mmask16 _cvtu32_mask16(unsigned k) { return (__mmask16)k; }
EMULATE __mmask16 _kand_mask16(__mmask16 a, __mmask16 b) { return a & b; }

/* --- arithmetic --- */

EMULATE __m512 _mm512_abs_ps(__m512 a)
{
    union zmm x = { .f = a };
    for (int i = 0; i < 16; i++) x.u32[i] &= 0x7fffffff;
    return x.f;
}

/* Shifts by more than 31 leave the sign alone. */
EMULATE __m512i _mm512_srai_epi32(__m512i a, unsigned n)
{
    union zmm x = { .i = a };
    for (int i = 0; i < 16; i++) x.i32[i] >>= n < 31 ? n : 31;
    return x.i;
}
EMULATE __m512i _mm512_srav_epi32(__m512i a, __m512i n)
{
    union zmm x = { .i = a }, by = { .i = n };
    for (int i = 0; i < 16; i++) x.i32[i] >>= by.u32[i] < 31 ? by.u32[i] : 31;
    return x.i;
}

EMULATE __m512i _mm512_mulhi_epu16(__m512i a, __m512i b)
{
    union zmm x = { .i = a }, y = { .i = b };
    for (int i = 0; i < 32; i++) x.u16[i] = (uint16_t)((uint32_t)x.u16[i] * y.u16[i] >> 16);
    return x.i;
}

/* Byte i: 8 bits of its quadword of b, from bit (byte i of a) mod 64 on, turning round at 64. */
EMULATE __m512i _mm512_multishift_epi64_epi8(__m512i a, __m512i b)
{
    union zmm at = { .i = a }, in = { .i = b }, out;
    for (int i = 0; i < 64; i++) {
        int n = at.u8[i] & 63;
        uint64_t q = in.u64[i / 8];
        out.u8[i] = (uint8_t)(n ? q >> n | q << (64 - n) : q);
    }
    return out.i;
}

/* a · 2^floor(b). In double the product is exact, so that it is rounded once. Beyond ±400 it is 0 or infinity
 * for every a but those two. */
EMULATE float scale_by(float a, float b)
{
    if (isnan(a)) return isinf(b) && (bits_of(a) & 0x400000) ? (b > 0.0f ? INFINITY : 0.0f) : a + a;
    if (isnan(b)) return b + b;
    if ((a == 0.0f && b == INFINITY) || (isinf(a) && b == -INFINITY)) return -NAN;
    float n = floorf(b);
    return (float)ldexp((double)a, n < -400.0f ? -400 : n > 400.0f ? 400 : (int)n);
}
EMULATE __m512 _mm512_scalef_ps(__m512 a, __m512 b)
{
    union zmm x = { .f = a }, y = { .f = b };
    for (int i = 0; i < 16; i++) x.ps[i] = scale_by(x.ps[i], y.ps[i]);
    return x.f;
}

/* The odd product first, then the even one; fused, to nearest, and without subnormal numbers anywhere. */
EMULATE __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b)
{
    union zmm s = { .f = sum }, x = { .bf = a }, y = { .bf = b };
    for (int i = 0; i < 16; i++)
        for (int j = 2 * i + 1; j >= 2 * i; j--) {
            float p = no_subnormal(float_of((uint32_t)x.u16[j] << 16));
            float q = no_subnormal(float_of((uint32_t)y.u16[j] << 16));
            s.ps[i] = no_subnormal(fmaf(p, q, no_subnormal(s.ps[i])));
        }
    return s.f;
}

/* Not instructions: the order of gcc's headers, halves onto each other. max and min return
 * their second operand where one is NaN, as the instructions do: the lower half, but from
 * 4 elements down the upper one. */
#define REDUCE(name, result, type, field, member, value)                                              \
    EMULATE result name(type a)                                                                       \
    {                                                                                                 \
        union zmm v = { .field = a };                                                                 \
        for (int n = (int)(sizeof v.member / sizeof v.member[0]) / 2; n > 0; n /= 2)                   \
            for (int i = 0; i < n; i++) {                                                             \
                __typeof__(v.member[0]) lower = v.member[i], upper = v.member[i + n];                 \
                __typeof__(v.member[0]) x = n >= 4 ? upper : lower, y = n >= 4 ? lower : upper;       \
                v.member[i] = (value);                                                                \
            }                                                                                         \
        return v.member[0];                                                                           \
    }
REDUCE(_mm512_reduce_add_ps, float, __m512, f, ps, x + y)
REDUCE(_mm512_reduce_max_ps, float, __m512, f, ps, x > y ? x : y)
REDUCE(_mm512_reduce_min_ps, float, __m512, f, ps, x < y ? x : y)
REDUCE(_mm512_reduce_add_pd, double, __m512d, d, pd, x + y)
REDUCE(_mm512_reduce_max_epi32, int, __m512i, i, i32, x > y ? x : y)
REDUCE(_mm512_reduce_min_epi32, int, __m512i, i, i32, x < y ? x : y)
EMULATE int _mm512_reduce_add_epi32(__m512i a)
{
    union zmm v = { .i = a };
    for (int i = 1; i < 16; i++) v.u32[0] += v.u32[i];
    return v.i32[0];
}

#undef ELEMENTS
#undef EMULATE
#undef MASKED_MEMORY
#undef CONVERT
#undef MOVE
#undef COMPARE
#undef REDUCE

#endif
