/*
 * float16 and bfloat16 by bits, round to nearest even. The definition; SIMD levels use instructions with
 * equal results.
 */
#ifndef KV_BASE_HALF_H
#define KV_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t kv_f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float kv_bits_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float kv_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ffu;
    if (exponent == 0) { /* zero or subnormal: mantissa × 2^-24 is exact in float */
        float f = (float)mantissa * 0x1p-24f;
        return kv_bits_f32(sign | kv_f32_bits(f));
    }
    if (exponent == 31) return kv_bits_f32(sign | 0x7f800000u | (mantissa << 13));
    return kv_bits_f32(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

static inline uint16_t kv_f32_to_f16(float f)
{
    uint32_t u = kv_f32_bits(f), sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);  /* NaN */
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds to 65536 or more: infinity */
    if (u < 0x38800000u) {                                   /* subnormal: let the adder round at 2^-24 */
        float shifted = kv_bits_f32(u) + 0x1p-1f;            /* ulp of [0.5, 1) is 2^-24 */
        return (uint16_t)(sign | (kv_f32_bits(shifted) - 0x3f000000u));
    }
    uint32_t odd = (u >> 13) & 1;
    return (uint16_t)(sign | ((u - 0x38000000u + 0xfffu + odd) >> 13));
}

static inline float kv_bf16_to_f32(uint16_t h)
{
    return kv_bits_f32((uint32_t)h << 16);
}

#endif
