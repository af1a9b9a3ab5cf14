/*
 * Activations to integers, bit-equal to the plain C definition: maxima are exact, multiples and codes come
 * from the same divisions and roundings, the sums are integers.
 *
 * A row at a time, in passes that leave no long chain across the lanes to every block: maxima of four blocks
 * at once, multiples and inverse steps of LANES blocks, codes, sums as dot products of the codes with ones.
 */
#include "kernels/row_blocks.h"
#include "kernels/rows4.h"

#include <string.h>

#define BLOCK_VECTORS (KV_ACT_BLOCK / LANES)

KV_INLINE vf block_largest(const float *x, vf *not_finite)
{
    vf largest = vf_zero();
    for (int i = 0; i < BLOCK_VECTORS; i++) {
        vf v = vf_load(x + i * LANES);
        largest = vf_max(vf_abs(v), largest);
        *not_finite = vf_fma(v, vf_zero(), *not_finite); /* 0, or NaN once any element is NaN or infinite */
    }
    return largest;
}

/* max|x| of each block; returns the row's, or NaN when an element is not finite */
static float row_maxima(const float *x, int64_t n_blocks, float *max)
{
    vf not_finite = vf_zero(), row = vf_zero();
    int64_t b = 0;
    for (; b + 4 <= n_blocks; b += 4) {
        vf largest[4];
        for (int i = 0; i < 4; i++) largest[i] = block_largest(x + (b + i) * KV_ACT_BLOCK, &not_finite);
        v4_store(max + b, four_largest(largest[0], largest[1], largest[2], largest[3]));
        for (int i = 0; i < 4; i++) row = vf_max(row, largest[i]);
    }
    for (; b < n_blocks; b++) {
        vf largest = block_largest(x + b * KV_ACT_BLOCK, &not_finite);
        max[b] = vf_largest(largest);
        row = vf_max(row, largest);
    }
    float bad = vf_sum(not_finite);
    return bad == 0.0f ? vf_largest(row) : bad;
}

/* Multiples of `n` <= LANES blocks, and by what their elements become codes of one digit */
KV_INLINE void block_steps(const float *max, int n, struct kv_act_units units, int32_t *times, float *inverse)
{
    vf m = n == LANES ? vf_load(max) : vf_load_n(max, n);
    vf t = vf_round(vf_add(vf_mul(m, vf_set(units.per_unit)), vf_set(0.5f)));
    t = vf_max(vf_min(t, vf_set((float)KV_ACT_TIMES)), vf_set(1.0f));
    int32_t whole[LANES];
    vi_store(whole, vf_to_int(t));
    memcpy(times, whole, (size_t)n * sizeof *times);
    vf_store(inverse, vf_div(vf_set(1.0f), vf_mul(vf_set(units.unit), t)));
}

/* digits: that the block has, a constant */
KV_INLINE void quantize_block(const float *x, float inverse, int digits, int8_t *high, int8_t *low)
{
    vf per_step = vf_set(digits == 2 ? inverse * KV_ACT_DIGIT : inverse);
    for (int i = 0; i < KV_ACT_BLOCK; i += LANES) {
        vi q = vf_to_int(vf_mul(vf_load(x + i), per_step));
        vi top = digits == 2 ? vi_high_digit(q) : q;
        vi_store_bytes(high + i, top);
        if (digits == 2) vi_store_bytes(low + i, vi_low_digit(q, top));
    }
}

#define CHUNK_GROUPS 64 /* whose low digits' sums are at hand where nobody wants to keep them */

/* Σ of each 16 of k digits */
KV_INLINE void digit_sums(const int8_t *digit, int64_t k, int32_t *sum)
{
    for (int64_t at = 0; at < k; at += (int64_t)sizeof(vi)) {
        int64_t n = k - at < (int64_t)sizeof(vi) ? k - at : (int64_t)sizeof(vi);
        int32_t four[LANES];
        vi_store(four, vi_dot4(vi_zero(), vi_set_bytes(1), vi_load_bytes(digit + at, (size_t)n), false));
        for (int64_t i = 0; i < n / KV_WEIGHT_GROUP; i++, sum++)
            *sum = four[4 * i] + four[4 * i + 1] + four[4 * i + 2] + four[4 * i + 3];
    }
}

/* The low digits' sums of mixed rows, where blocks have them, else 0 */
static void low_sums(const struct kv_act_int *x)
{
    int32_t *half = x->sums[0].minus_low, *whole = x->sums[1].minus_low;
    for (int64_t b = 0; b < x->k / KV_ACT_BLOCK; b++, half += 2, whole++) {
        half[0] = half[1] = whole[0] = 0;
        if (!x->two[b]) continue;
        digit_sums(x->low + b * KV_ACT_BLOCK, KV_ACT_BLOCK, half);
        half[0] = -half[0];
        half[1] = -half[1];
        whole[0] = half[0] + half[1];
    }
}

/* What follows from −Σq of 16: that of 32, and both times the multiples. No two pointers meet in an array, so gcc
 * makes vectors of it. */
KV_INLINE void sums_times(int32_t *restrict minus_q, float *restrict half_x, int32_t *restrict minus_whole,
                          float *restrict whole_x, const int32_t *restrict minus_low,
                          const int32_t *restrict whole_low, const int32_t *restrict times, int64_t n_blocks,
                          bool mixed)
{
    int digit = mixed ? KV_ACT_DIGIT : 1;
    float step = mixed ? 1.0f / KV_ACT_DIGIT : 1.0f;
    for (int64_t b = 0; b < n_blocks; b++) {
        int32_t first = minus_q[2 * b], second = minus_q[2 * b + 1], both = first + second;
        half_x[2 * b] = (float)(-times[b] * (first * digit + (mixed ? minus_low[2 * b] : 0))) * step;
        half_x[2 * b + 1] = (float)(-times[b] * (second * digit + (mixed ? minus_low[2 * b + 1] : 0))) * step;
        whole_x[b] = (float)(-times[b] * (both * digit + (mixed ? whole_low[b] : 0))) * step;
        minus_whole[b] = both;
    }
}

/* −Σq of 16 and 32, and the multiples times Σq */
static void row_sums(struct kv_act_int *x)
{
    struct kv_act_sums half = x->sums[0], whole = x->sums[1];
    int64_t n_blocks = x->k / KV_ACT_BLOCK, n_groups = 2 * n_blocks;
    digit_sums(x->high, x->k, half.minus_q);
    if (x->low && !x->two) {
        for (int64_t g0 = 0; g0 < n_groups; g0 += CHUNK_GROUPS) {
            int32_t low[CHUNK_GROUPS];
            int64_t n = n_groups - g0 < CHUNK_GROUPS ? n_groups - g0 : CHUNK_GROUPS;
            digit_sums(x->low + g0 * KV_WEIGHT_GROUP, n * KV_WEIGHT_GROUP, low);
            int32_t *q = half.minus_q + g0; /* still of the high digits, and positive */
            for (int64_t g = 0; g < n; g++) q[g] = q[g] * KV_ACT_DIGIT + low[g];
        }
    }
    for (int64_t g = 0; g < n_groups; g++) half.minus_q[g] = -half.minus_q[g];
    if (x->two) {
        low_sums(x);
        sums_times(half.minus_q, half.x, whole.minus_q, whole.x, half.minus_low, whole.minus_low, x->times,
                   n_blocks, true);
    } else {
        sums_times(half.minus_q, half.x, whole.minus_q, whole.x, NULL, NULL, x->times, n_blocks, false);
    }
}

/* A row whose elements are all 0, or of which one is not finite: the unit says which. */
static void quantize_nothing(struct kv_act_int *x)
{
    int64_t n_blocks = x->k / KV_ACT_BLOCK;
    memset(x->high, 0, (size_t)x->k);
    if (x->low) memset(x->low, 0, (size_t)x->k);
    if (x->two) memset(x->two, 0, (size_t)n_blocks);
    memset(x->times, 0, (size_t)n_blocks * sizeof *x->times);
}

static void quantize_row(const float *x, struct kv_act_int *out)
{
    int64_t n_blocks = out->k / KV_ACT_BLOCK;
    struct kv_act_units units = kv_act_units_of(row_maxima(x, n_blocks, out->largest));
    out->unit[0] = out->low && !out->two ? units.unit * (1.0f / KV_ACT_DIGIT) : units.unit;
    if (units.per_unit == 0.0f) {
        quantize_nothing(out);
        return;
    }
    float threshold = out->two ? kv_act_threshold(out->largest, n_blocks) : 0.0f, inverse[LANES];
    for (int64_t b = 0; b < n_blocks; b++, x += KV_ACT_BLOCK) {
        int64_t at = b * KV_ACT_BLOCK, left = n_blocks - b;
        if (b % LANES == 0)
            block_steps(out->largest + b, left < LANES ? (int)left : LANES, units, out->times + b, inverse);
        float max = out->largest[b];
        bool both = out->two ? max * max >= threshold : out->low != NULL;
        if (out->two) out->two[b] = both;
        if (both) quantize_block(x, inverse[b % LANES], 2, out->high + at, out->low + at);
        else quantize_block(x, inverse[b % LANES], 1, out->high + at, NULL);
    }
}

static void act_quantize(const float *x, int64_t n, struct kv_act_int *out)
{
    for (int64_t row = 0; row < n; row++) {
        struct kv_act_int one = kv_act_rows(out, row);
        quantize_row(x + row * out->k, &one);
    }
    /* Only now: digits that have just been stored in quarters of a vector can't be loaded whole before they
     * have left the queue of stores. */
    for (int64_t row = 0; row < n; row++) {
        struct kv_act_int one = kv_act_rows(out, row);
        row_sums(&one);
    }
}
