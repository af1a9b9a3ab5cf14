/*
 * Sums over codes of values, in C that compilers turn into vectors of whatever width the including file is
 * built for: a lane is a channel, so all levels give the same bits.
 */
#include <string.h>

#include "base/half.h"
#include "kernels/code_layout.h"

/* Plane i of a unit, a code a byte. bits and line are constants at every call. */
static inline __attribute__((always_inline)) void sum_plane(const uint8_t *unit, int bits, int line, int i,
                                                            uint8_t *restrict plane)
{
    struct kv_plane_bits b = kv_plane_bits(bits, i);
    const uint8_t *low = unit + b.first * line;
    uint8_t mask = (uint8_t)((1u << b.n) - 1);
    if (b.top_shift < 0) {
        for (int k = 0; k < line; k++) plane[k] = (uint8_t)(low[k] >> b.shift & mask);
        return;
    }
    const uint8_t *top = unit + line;
    for (int k = 0; k < line; k++)
        plane[k] = (uint8_t)((low[k] >> b.shift & mask) | (top[k] >> b.top_shift & 1) << 2);
}

static inline __attribute__((always_inline)) void sum_unit_of(const uint8_t *unit, int bits, int line,
                                                              uint8_t *restrict planes)
{
    for (int i = 0; i < KV_PLANES; i++) sum_plane(unit, bits, line, i, planes + i * KV_LINE);
}

/* A unit to planes of KV_LINE bytes, a code a byte. */
static void sum_unit(const uint8_t *unit, int bits, int line, uint8_t *restrict planes)
{
    bool whole = line == KV_LINE;
    switch (bits) {
    case 2: whole ? sum_unit_of(unit, 2, KV_LINE, planes) : sum_unit_of(unit, 2, KV_LINE / 2, planes); break;
    case 3: whole ? sum_unit_of(unit, 3, KV_LINE, planes) : sum_unit_of(unit, 3, KV_LINE / 2, planes); break;
    case 4: whole ? sum_unit_of(unit, 4, KV_LINE, planes) : sum_unit_of(unit, 4, KV_LINE / 2, planes); break;
    default: whole ? sum_unit_of(unit, 8, KV_LINE, planes) : sum_unit_of(unit, 8, KV_LINE / 2, planes);
    }
}

/* ---------------------------------------------------------------------------------------------- values -- */

/* scale (n_groups, 64) of the tokens in range, 0 of the others; minima: (n_groups) their sums. */
static void sum_value_scales(const struct kv_sum_values *a, float *restrict scale, float *restrict minima)
{
    for (int g = 0; g < a->n_groups; g++) {
        minima[g] = 0.0f;
        for (int j = 0; j < KV_TILE; j++) {
            bool in = j >= a->first && j < a->last;
            scale[g * KV_TILE + j] = in ? kv_f16_to_f32(a->scale[g * KV_TILE + j]) : 0.0f;
            if (in) minima[g] += kv_f16_to_f32(a->min[g * KV_TILE + j]);
        }
    }
}

/* acc[byte] += scale of the byte's token · code, over the planes of one unit of 32 tokens. */
static void sum_value_unit(const uint8_t *planes, int line, const float *scale, float *restrict acc)
{
    for (int i = 0; i < KV_PLANES; i++) {
        float s[KV_LINE];
        for (int k = 0; k < KV_LINE; k++) s[k] = scale[4 * i + k % 4];
        for (int k = 0; k < line; k++) acc[k] += s[k] * (float)planes[i * KV_LINE + k];
    }
}

static void sum_values(const struct kv_sum_values *a)
{
    float scale[KV_HEAD_DIM_MAX / 32 * KV_TILE], minima[KV_HEAD_DIM_MAX / 32];
    uint8_t planes[KV_PLANES * KV_LINE];
    sum_value_scales(a, scale, minima);
    const uint8_t *unit = a->codes;
    for (int column = 0; column < a->head_dim; column += KV_COLUMN) {
        int n = a->head_dim - column < KV_COLUMN ? a->head_dim - column : KV_COLUMN, line = 4 * n;
        int group = column / (a->head_dim / a->n_groups);
        float acc[KV_LINE] = { 0.0f };
        for (int half = 0; half < 2; half++, unit += a->bits * line) {
            int begin = half * KV_VALUE_UNIT;
            if (a->last <= begin || a->first >= begin + KV_VALUE_UNIT) continue;
            sum_unit(unit, a->bits, line, planes);
            sum_value_unit(planes, line, scale + group * KV_TILE + begin, acc);
        }
        for (int c = 0; c < n; c++)
            a->out[column + c] =
                ((acc[4 * c] + acc[4 * c + 1]) + (acc[4 * c + 2] + acc[4 * c + 3])) + minima[group];
    }
}
