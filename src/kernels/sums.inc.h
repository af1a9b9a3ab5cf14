/*
 * Sums over codes, in C that compilers turn into vectors of whatever width the including file is built for. Sums
 * of floats run in SUM_LANES lanes at every level, so all levels give the same bits.
 */
#include <string.h>

#include "base/half.h"
#include "kernels/code_layout.h"

#define SUM_LANES 16

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

/* Σ x_j y_j over 64. */
static float sum_product(const float *restrict x, const float *restrict y)
{
    float acc[SUM_LANES] = { 0.0f };
    for (int j = 0; j < KV_TILE; j += SUM_LANES)
        for (int l = 0; l < SUM_LANES; l++) acc[l] += x[j + l] * y[j + l];
    for (int n = SUM_LANES / 2; n > 0; n /= 2)
        for (int l = 0; l < n; l++) acc[l] += acc[l + n];
    return acc[0];
}

/* ------------------------------------------------------------------------------------------------- keys -- */

/* The 64 codes of channel c of a unit, as floats. */
static void sum_channel(const uint8_t *planes, int c, float *restrict x)
{
    const uint8_t *from = planes + c / 4 * 4 * KV_LINE + c % 4;
    for (int t = 0; t < KV_TILE; t++) x[t] = (float)from[4 * t];
}

/* Weights of one channel within [first, last) of the tokens. */
static void sum_weights(const struct kv_sum_keys *a, const float *weight, int first, int last, float *restrict w)
{
    if (first < a->first) first = a->first;
    if (last > a->last) last = a->last;
    for (int j = 0; j < KV_TILE; j++) w[j] = j >= first && j < last ? (weight ? weight[j] : 1.0f) : 0.0f;
}

static float sum_key_channel(const struct kv_sum_keys *a, const float *x, int channel)
{
    static const float ones[KV_TILE] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                         1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                         1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    const float *weight = a->weight ? a->weight[channel] : NULL;
    float w[KV_TILE], sum = 0.0f;
    int n_groups = a->group ? KV_TILE / a->group : 1, length = KV_TILE / n_groups;
    for (int g = 0; g < n_groups; g++) {
        sum_weights(a, weight, g * length, (g + 1) * length, w);
        int at = g * a->n_channels + channel;
        if (a->group) {
            float scale = kv_f16_to_f32(a->scale[at]), min = kv_f16_to_f32(a->min[at]);
            sum += scale * (x ? sum_product(w, x) : 0.0f) + min * sum_product(w, ones);
            continue;
        }
        float s[KV_TILE], m[KV_TILE];
        for (int j = 0; j < KV_TILE; j++) {
            s[j] = kv_f16_to_f32(a->scale[j]) * w[j];
            m[j] = j >= a->first && j < a->last ? kv_f16_to_f32(a->min[j]) : 0.0f;
        }
        sum += (x ? sum_product(s, x) : 0.0f) + sum_product(w, m);
    }
    return sum;
}

static void sum_keys(const struct kv_sum_keys *a)
{
    uint8_t planes[KV_PLANES * KV_LINE];
    const uint8_t *unit = a->codes;
    for (int k = 0, channel = 0; k < a->n_classes; k++) {
        int bits = a->classes[k].bits;
        for (int u = 0; u < a->classes[k].n_channels / KV_KEY_UNIT; u++, unit += bits * KV_LINE) {
            if (bits) sum_unit(unit, bits, KV_LINE, planes);
            for (int c = 0; c < KV_KEY_UNIT; c++, channel++) {
                float x[KV_TILE];
                if (bits) sum_channel(planes, c, x);
                a->out[channel] = sum_key_channel(a, bits ? x : NULL, channel);
            }
        }
    }
}

/* ----------------------------------------------------------------------------------------------- values -- */

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

static void fill_sums(struct kv_kernels *table)
{
    table->sum_keys = sum_keys;
    table->sum_values = sum_values;
}
