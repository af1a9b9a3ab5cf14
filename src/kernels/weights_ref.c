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

/* NaN when an element is not finite: that must not vanish here, the row's unit carries it on to where
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

/* Sums of 16 elements from `at` on, and of 32. steps: of q in the row's step, 1 or 128. */
static void sum_elements(struct kv_act_int *x, int s, int64_t at, int32_t times, int steps, bool both)
{
    int n = KV_WEIGHT_GROUP << s, high = 0, low = 0;
    for (int64_t i = at; i < at + n; i++) {
        high += x->high[i];
        if (both) low += x->low[i];
    }
    struct kv_act_sums *sums = &x->sums[s];
    int q = steps == 1 ? high : high * KV_ACT_DIGIT + low;
    sums->minus_q[at / n] = x->two ? -high : -q;
    if (x->two && both) sums->minus_low[at / n] = -low;
    sums->x[at / n] = (float)(times * q) * (x->two ? 1.0f / KV_ACT_DIGIT : 1.0f);
}

/* both: digits */
static void quantize_block(const float *x, bool both, float step, struct kv_act_int *out, int64_t b)
{
    int64_t first = b * KV_ACT_BLOCK;
    float inverse = step > 0.0f ? 1.0f / step : 0.0f; /* neither for 0 nor NaN */
    for (int i = 0; i < KV_ACT_BLOCK; i++) {
        int q = inverse > 0.0f ? (int)rintf(x[i] * (both ? inverse * KV_ACT_DIGIT : inverse)) : 0;
        int high = both ? (q + KV_ACT_DIGIT / 2) >> 7 : q; /* leaves low in -64 .. 63 */
        out->high[first + i] = (int8_t)high;
        if (both) out->low[first + i] = (int8_t)(q - high * KV_ACT_DIGIT);
    }
    int steps = out->low ? KV_ACT_DIGIT : 1;
    for (int half = 0; half < 2; half++)
        sum_elements(out, 0, first + half * KV_WEIGHT_GROUP, out->times[b], steps, both);
    sum_elements(out, 1, first, out->times[b], steps, both);
}

void kv_act_list_low(struct kv_act_int *x, int64_t n)
{
    int64_t n_blocks = x->k / KV_ACT_BLOCK;
    int32_t *first = x->low_first;
    for (int64_t b = 0; b <= n_blocks; b++) first[b] = 0;
    for (int64_t row = 0; row < n; row++)
        for (int64_t b = 0; b < n_blocks; b++) first[b] += x->two[row * n_blocks + b];
    int32_t end = 0;
    /* each block's end; filled from behind */
    for (int64_t b = 0; b <= n_blocks; b++) first[b] = end += first[b];
    for (int64_t row = n; row-- > 0;)
        for (int64_t b = 0; b < n_blocks; b++)
            if (x->two[row * n_blocks + b]) x->low_row[--first[b]] = (int32_t)row;
}

static void act_quantize_ref(const float *x, int64_t n, struct kv_act_int *out)
{
    int64_t row_blocks = out->k / KV_ACT_BLOCK;
    for (int64_t row = 0; row < n; row++) {
        int64_t first = row * row_blocks;
        float *max = out->largest + first, row_max = 0.0f;
        for (int64_t b = 0; b < row_blocks; b++) {
            max[b] = block_max(x + (first + b) * KV_ACT_BLOCK);
            row_max = isnan(max[b]) || max[b] > row_max ? max[b] : row_max;
            if (isnan(row_max)) break;
        }
        struct kv_act_units units = kv_act_units_of(row_max);
        float threshold = out->two ? kv_act_threshold(max, row_blocks) : 0.0f;
        out->unit[row] = out->low && !out->two ? units.unit * (1.0f / KV_ACT_DIGIT) : units.unit;
        for (int64_t b = 0; b < row_blocks; b++) {
            float times = units.per_unit > 0.0f ? rintf(max[b] * units.per_unit + 0.5f) : 0.0f;
            times = times < KV_ACT_TIMES ? times : KV_ACT_TIMES;
            if (units.per_unit > 0.0f && times < 1.0f) times = 1.0f;
            out->times[first + b] = (int32_t)times;
            bool both = out->two ? times > 0.0f && max[b] * max[b] >= threshold : out->low != NULL;
            if (out->two) out->two[first + b] = both;
            quantize_block(x + (first + b) * KV_ACT_BLOCK, both, units.unit * times, out, first + b);
        }
    }
}

/* One row, unpacked, times n activations. */
static void row_times_int(const struct kv_matmul *mm, int64_t row, const uint8_t *code, const float *scale,
                         const float *min)
{
    int64_t n_groups = mm->k / KV_WEIGHT_GROUP;
    for (int64_t j = 0; j < mm->n; j++) {
        struct kv_act_int x = kv_act_rows(mm->x_int, j);
        float y = 0.0f;
        for (int64_t g = 0; g < n_groups; g++) {
            bool both = x.two ? x.two[g / 2] : x.low != NULL;
            int32_t dot = 0;
            for (int64_t i = g * KV_WEIGHT_GROUP; i < (g + 1) * KV_WEIGHT_GROUP; i++)
                dot += code[i] * (both ? x.high[i] * KV_ACT_DIGIT + x.low[i] : x.high[i]);
            float step = both && x.two ? 1.0f / KV_ACT_DIGIT : 1.0f;
            y += scale[g] * ((float)x.times[g / 2] * step) * (float)dot;
            y += min[g] * x.sums[0].x[g];
        }
        y *= x.unit[0];
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
