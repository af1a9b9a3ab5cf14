/*
 * What the two bytes of a short grid say (cache/kv_short.h): its definition.
 */
#ifndef KV_KERNELS_SHORT_GRID_H
#define KV_KERNELS_SHORT_GRID_H

#include "base/half.h"

/* The byte is an f16 without its sign and its last 7 bits. */
static inline uint16_t kv_short_scale_f16(uint8_t scale) { return (uint16_t)(scale << 7); }

/* The middle of the grid lies (centre − 128) / 64 of its 2^bits steps from 0. All exact but the last
 * rounding: 4 bits of mantissa times 17. */
static inline uint16_t kv_short_min_f16(uint8_t scale, uint8_t centre, int bits)
{
    int steps = (centre - 128) * (1 << bits) - 32 * ((1 << bits) - 1); /* of 1/64 of the scale */
    return kv_f32_to_f16(kv_f16_to_f32(kv_short_scale_f16(scale)) * (float)steps * 0x1p-6f);
}

#endif
