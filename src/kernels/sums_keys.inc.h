/*
 * Sums over codes of keys in the vocabulary of an instruction set: the same operations in the same order as
 * sums_ref.c.
 *
 * A plane holds 16 tokens of 4 channels, a token's 4 codes in one lane of 32 bits. So a shift and a mask give
 * 16 tokens of one channel as integers in their lanes, which meet the channel's row of weights; the sums of
 * four channels are then added across their lanes at once.
 */
#include "kernels/code_plane.inc.h"

#define PART (16 / LANES) /* vectors of 16 floats */

static const float sum_ones[KV_TILE] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                         1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                         1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };

/* Of 4 channels: Σ w · code and Σ w, or, with a scale per token, Σ (w · scale) · code and Σ w · min. */
struct sum_four {
    vf product[4][PART], weight[4][PART];
};

/* LANES tokens from `at` on, of which those in [first, last) count; codes: of 4 channels each. */
KV_INLINE void sum_four_add(struct sum_four *f, const struct kv_sum_keys *a, vi codes,
                            const float *const w[4], int i, int at, int first, int last)
{
    bool whole = first <= at && at + LANES <= last;
    vi low_byte = vi_right(vi_set_bytes(-1), 24);
    vf scale = vf_zero(), min = vf_zero();
    if (!a->group) {
        scale = vf_load_f16(a->scale + at);
        min = vf_load_f16(a->min + at);
        if (!whole) min = vf_in_range(min, at, first, last, 0.0f);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        vf weight = vf_load(w[c] + at), x = vf_from_int(vi_and(vi_right(codes, 8 * c), low_byte));
        if (!whole) weight = vf_in_range(weight, at, first, last, 0.0f);
        f->product[c][i] = vf_add(f->product[c][i], vf_mul(a->group ? weight : vf_mul(scale, weight), x));
        f->weight[c][i] = vf_add(f->weight[c][i], a->group ? weight : vf_mul(weight, min));
    }
}

KV_INLINE void sum_four_keys(const struct kv_sum_keys *a, int bits, const uint8_t *unit, int half,
                             int channel)
{
    int n_groups = a->group ? KV_TILE / a->group : 1, n_planes = KV_TILE / 16 / n_groups;
    const float *w[4];
    v4 sum = v4_of(vf_zero());
    for (int c = 0; c < 4; c++) w[c] = a->weight ? a->weight[channel + c] : sum_ones;
    for (int g = 0; g < n_groups; g++) {
        struct sum_four f;
        int begin = g * n_planes * 16, end = begin + n_planes * 16;
        int first = a->first > begin ? a->first : begin, last = a->last < end ? a->last : end;
        for (int c = 0; c < 4; c++)
            for (int i = 0; i < PART; i++) f.product[c][i] = f.weight[c][i] = vf_zero();
#pragma GCC unroll 4
        for (int plane = 0; plane < KV_TILE / 16; plane++) {
            if (plane < g * n_planes || plane >= (g + 1) * n_planes) continue;
            for (int i = 0; i < PART; i++) {
                vi codes = bits ? unit_plane(bits, unit + i * 4 * LANES, KV_LINE, false, 4 * half + plane)
                                : vi_zero();
                sum_four_add(&f, a, codes, w, i, 16 * plane + i * LANES, first, last);
            }
        }
        v4 product = four_sums_of_16(f.product), weight = four_sums_of_16(f.weight);
        if (a->group) {
            int at = g * a->n_channels + channel;
            product = _mm_mul_ps(v4_of(vf_load_f16_n(a->scale + at, 4)), product);
            weight = _mm_mul_ps(v4_of(vf_load_f16_n(a->min + at, 4)), weight);
        }
        sum = _mm_add_ps(sum, _mm_add_ps(product, weight));
    }
    _mm_storeu_ps(a->out + channel, sum);
}

KV_INLINE void sum_key_units(const struct kv_sum_keys *a, int bits, const uint8_t *unit, int n_units,
                             int channel)
{
    for (int u = 0; u < n_units; u++, unit += bits * KV_LINE, channel += KV_KEY_UNIT) {
        sum_four_keys(a, bits, unit, 0, channel);
        sum_four_keys(a, bits, unit, 1, channel + 4);
    }
}

static void sum_keys(const struct kv_sum_keys *a)
{
    const uint8_t *unit = a->codes;
    for (int k = 0, channel = 0; k < a->n_classes; k++) {
        int bits = a->classes[k].bits, n_units = a->classes[k].n_channels / KV_KEY_UNIT;
        switch (bits) {
        case 0: sum_key_units(a, 0, unit, n_units, channel); break;
        case 2: sum_key_units(a, 2, unit, n_units, channel); break;
        case 3: sum_key_units(a, 3, unit, n_units, channel); break;
        case 4: sum_key_units(a, 4, unit, n_units, channel); break;
        default: sum_key_units(a, 8, unit, n_units, channel);
        }
        unit += bits * n_units * KV_LINE;
        channel += n_units * KV_KEY_UNIT;
    }
}

static void fill_sums(struct kv_kernels *table)
{
    table->sum_keys = sum_keys;
    table->sum_values = sum_values;
}
