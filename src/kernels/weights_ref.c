/*
 * Matrix products in plain C: the definition (kernels.h has the formula).
 *
 * Every level forms the exact int32 sums of code·q and scales and adds them in float32, in an order of its
 * own that is the same for every n and row range. Two levels differ, with G groups of 16 in a row, by at most
 *     4 · (G + 3) · 2^-24 · Σ_g ( |scale·xs·Σ code·q| + |min·sum| ):
 * one rounding for each of the additions (two a group here, the terms' own roundings on both sides, that of
 * the integer sum, which two digits may carry beyond 2^24, among them).
 */
#include "base/memory.h"
#include "kernels/matmul_panel.h"
#include "kernels/unpack.h"

#include <math.h>

/* NaN when an element is not finite: that must not vanish here, the block's scale carries it on to where
 * results are checked. */
static float block_max(const float *x)
{
    float max = 0.0f;
    for (int i = 0; i < KV_ACT_BLOCK; i++) {
        if (!isfinite(x[i])) return NAN;
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    }
    return max;
}

/* digits: that the block has; n_digits: of the row */
static void quantize_block(const float *x, float max, int n_digits, int digits, struct kv_act_int *out,
                           int64_t b)
{
    float largest = digits == 2 ? KV_ACT_MAX2 : KV_ACT_MAX1, inverse = 0.0f;
    int unit = digits < n_digits ? KV_ACT_DIGIT : 1; /* what a step of q counts */
    float scale = isnan(max) ? max : 0.0f;
    if (max >= KV_ACT_TINY) {
        scale = max / (largest * (float)unit);
        inverse = largest / max;
    }
    for (int half = 0; half < 2; half++) {
        int sum = 0, sum_high = 0;
        for (int i = half * 16; i < half * 16 + 16; i++) {
            int q = isnan(max) ? 0 : (int)rintf(x[i] * inverse);
            int high = digits == 2 ? (q + KV_ACT_DIGIT / 2) >> 7 : q; /* leaves low in -64 .. 63 */
            out->high[b * KV_ACT_BLOCK + i] = (int8_t)high;
            if (out->low)
                out->low[b * KV_ACT_BLOCK + i] = (int8_t)(digits == 2 ? q - high * KV_ACT_DIGIT : 0);
            sum += q * unit;
            sum_high += high;
        }
        out->sum[2 * b + half] = scale * (float)sum;
        out->sum_q[2 * b + half] = out->two ? sum_high : sum;
        if (out->two) out->sum_low[2 * b + half] = sum - sum_high * KV_ACT_DIGIT;
    }
    out->scale[b] = out->two ? scale * KV_ACT_DIGIT : scale;
}

void kv_act_list_low(struct kv_act_int *x, int64_t n)
{
    int64_t n_blocks = x->k / KV_ACT_BLOCK;
    int32_t *first = x->low_first;
    for (int64_t b = 0; b <= n_blocks; b++) first[b] = 0;
    for (int64_t row = 0; row < n; row++)
        for (int64_t b = 0; b < n_blocks; b++) first[b] += x->two[row * n_blocks + b];
    int32_t end = 0;
    /* each block's end, filled from behind */
    for (int64_t b = 0; b <= n_blocks; b++) first[b] = end += first[b];
    for (int64_t row = n; row-- > 0;)
        for (int64_t b = 0; b < n_blocks; b++)
            if (x->two[row * n_blocks + b]) x->low_row[--first[b]] = (int32_t)row;
}

static void act_quantize_ref(const float *x, int64_t n, struct kv_act_int *out)
{
    int64_t row_blocks = out->k / KV_ACT_BLOCK;
    int n_digits = out->low ? 2 : 1;
    for (int64_t row = 0; row < n; row++) {
        int64_t first = row * row_blocks;
        float *max = out->scale + first, threshold = 0.0f; /* the scales take their places */
        for (int64_t b = 0; b < row_blocks; b++) max[b] = block_max(x + (first + b) * KV_ACT_BLOCK);
        if (out->two) threshold = kv_act_threshold(max, row_blocks);
        for (int64_t b = 0; b < row_blocks; b++) {
            bool both = !out->two || max[b] * max[b] >= threshold;
            if (out->two) out->two[first + b] = both;
            quantize_block(x + (first + b) * KV_ACT_BLOCK, max[b], n_digits, both ? n_digits : 1, out,
                           first + b);
        }
    }
}

/* One row, unpacked, times n activations. */
static void row_times_int(const struct kv_matmul *mm, int64_t row, const uint8_t *code, const float *scale,
                         const float *min)
{
    const struct kv_act_int *x = mm->x_int;
    int64_t n_groups = mm->k / KV_WEIGHT_GROUP;
    for (int64_t j = 0; j < mm->n; j++) {
        const int8_t *high = x->high + j * mm->k, *low = x->low ? x->low + j * mm->k : NULL;
        const float *xs = x->scale + j * (mm->k / KV_ACT_BLOCK), *sum = x->sum + j * n_groups;
        float y = 0.0f, unit = x->two ? 1.0f / KV_ACT_DIGIT : 1.0f;
        for (int64_t g = 0; g < n_groups; g++) {
            int32_t dot = 0;
            for (int64_t i = g * KV_WEIGHT_GROUP; i < (g + 1) * KV_WEIGHT_GROUP; i++)
                dot += code[i] * (low ? high[i] * KV_ACT_DIGIT + low[i] : high[i]);
            y += scale[g] * (xs[g / 2] * unit) * (float)dot;
            y += min[g] * sum[g];
        }
        mm->y[j * mm->ldy + row] = mm->bias ? y + mm->bias[row] : y;
    }
}

static void row_times_f32(const struct kv_matmul *mm, int64_t row, const float *w)
{
    for (int64_t j = 0; j < mm->n; j++) {
        const float *x = mm->x_f32 + j * mm->k;
        double y = 0.0;
        for (int64_t i = 0; i < mm->k; i++) y += (double)w[i] * (double)x[i];
        mm->y[j * mm->ldy + row] = mm->bias ? (float)y + mm->bias[row] : (float)y;
    }
}

static void matmul_rows_ref(const struct kv_kernels *table, const struct kv_matmul *mm, int64_t row_begin,
                            int64_t row_end, void *scratch)
{
    struct kv_row_scratch s = kv_row_scratch_place(scratch, mm->k);
    for (int64_t r = row_begin; r < row_end; r++) {
        const uint8_t *row = mm->weights + (size_t)r * mm->row_bytes;
        if (mm->code_format >= 0) table->unpack[mm->code_format](row, mm->k, s.code, s.scale, s.min);
        if (mm->x_int) {
            row_times_int(mm, r, s.code, s.scale, s.min);
            continue;
        }
        if (mm->code_format < 0)
            kv_unpack_float(mm->float_format, row, mm->k, s.w);
        else
            for (int64_t i = 0; i < mm->k; i++)
                s.w[i] = s.scale[i / KV_WEIGHT_GROUP] * (float)s.code[i] + s.min[i / KV_WEIGHT_GROUP];
        row_times_f32(mm, r, s.w);
    }
}

static void turn_rows_ref(const uint8_t *rows, size_t row_bytes, int n_rows, int lanes, uint8_t *panel)
{
    for (size_t i = 0; i < kv_turned_row_bytes(row_bytes); i++)
        for (int r = 0; r < lanes; r++) {
            const uint8_t *row = rows + (size_t)(r < n_rows ? r : n_rows - 1) * row_bytes;
            panel[(i / 4 * (size_t)lanes + (size_t)r) * 4 + i % 4] = i < row_bytes ? row[i] : 0;
        }
}

size_t kv_matmul_scratch_bytes(int64_t k)
{
    struct kv_carve c = { 0 };
    kv_row_scratch_carve(&c, k);
    return c.used > KV_PANEL_SCRATCH_BYTES ? c.used : KV_PANEL_SCRATCH_BYTES;
}

void kv_fill_weights_ref(struct kv_kernels *table)
{
    table->act_quantize = act_quantize_ref;
    table->matmul_rows = matmul_rows_ref;
    table->turn_rows = turn_rows_ref;
    table->lanes = 0;
    table->unpack[KV_CODES_Q8_0] = kv_unpack_q8_0;
    table->unpack[KV_CODES_Q4_0] = kv_unpack_q4_0;
    table->unpack[KV_CODES_Q4_1] = kv_unpack_q4_1;
    table->unpack[KV_CODES_Q5_0] = kv_unpack_q5_0;
    table->unpack[KV_CODES_Q5_1] = kv_unpack_q5_1;
    table->unpack[KV_CODES_Q2_K] = kv_unpack_q2_k;
    table->unpack[KV_CODES_Q3_K] = kv_unpack_q3_k;
    table->unpack[KV_CODES_Q4_K] = kv_unpack_q4_k;
    table->unpack[KV_CODES_Q5_K] = kv_unpack_q5_k;
    table->unpack[KV_CODES_Q6_K] = kv_unpack_q6_k;
    table->unpack[KV_CODES_IQ4_NL] = kv_unpack_iq4_nl;
    table->unpack[KV_CODES_IQ4_XS] = kv_unpack_iq4_xs;
}
