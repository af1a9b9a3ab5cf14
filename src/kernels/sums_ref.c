/*
 * Sums over codes in plain C: their definition. Sums of floats run in SUM_LANES lanes, token by token modulo
 * 16, which are then added as a tree: sums_keys.inc.h does the same in vectors, and all levels give the same
 * bits.
 */
#include "kernels/kernels.h"

#include "kernels/sums.inc.h"

#define SUM_LANES 16

/* Σ x_j y_j over 64. */
static float sum_product(const float *restrict x, const float *restrict y)
{
    float acc[SUM_LANES] = { 0.0f }, sum[4];
    for (int j = 0; j < KV_TILE; j += SUM_LANES)
        for (int l = 0; l < SUM_LANES; l++) acc[l] += x[j + l] * y[j + l];
    for (int b = 0; b < 4; b++) sum[b] = (acc[4 * b] + acc[4 * b + 2]) + (acc[4 * b + 1] + acc[4 * b + 3]);
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* ------------------------------------------------------------------------------------------------- keys --
 */

/* The 64 codes of channel c of a unit, as floats. */
static void sum_channel(const uint8_t *planes, int c, float *restrict x)
{
    const uint8_t *from = planes + c / 4 * 4 * KV_LINE + c % 4;
    for (int t = 0; t < KV_TILE; t++) x[t] = (float)from[4 * t];
}

/* Weights of one channel within [first, last) of the tokens. */
static void sum_weights(const struct kv_sum_keys *a, const float *weight, int first, int last,
                        float *restrict w)
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

void kv_fill_sums_ref(struct kv_kernels *table)
{
    table->sum_keys = sum_keys;
    table->sum_values = sum_values;
}
