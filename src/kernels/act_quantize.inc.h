/*
 * Activations to integers, bit-equal to the plain C definition: the maximum is exact, scale and codes come
 * from the same two divisions and one rounding, the sums are integers.
 *
 * A row at a time, in passes that leave no long chain across the lanes to every block: maxima of four blocks
 * at once, codes, sums as dot products of the codes with ones.
 */
#include "kernels/row_blocks.h"
#include "kernels/rows4.h"

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

/* max|x| of each block, or NaN when an element is not finite */
static void row_maxima(const float *x, int64_t n_blocks, float *max)
{
    vf not_finite = vf_zero();
    int64_t b = 0;
    for (; b + 4 <= n_blocks; b += 4) {
        vf largest[4];
        for (int i = 0; i < 4; i++) largest[i] = block_largest(x + (b + i) * KV_ACT_BLOCK, &not_finite);
        v4_store(max + b, four_largest(largest[0], largest[1], largest[2], largest[3]));
    }
    for (; b < n_blocks; b++) max[b] = vf_largest(block_largest(x + b * KV_ACT_BLOCK, &not_finite));
    if (vf_sum(not_finite) == 0.0f) return;
    for (b = 0; b < n_blocks; b++) {
        vf bad = vf_zero();
        block_largest(x + b * KV_ACT_BLOCK, &bad);
        float nan = vf_sum(bad);
        if (nan != 0.0f) max[b] = nan;
    }
}

/* digits: that the block has; n_digits: of the row. Constants. */
KV_INLINE void quantize_block(const float *x, float max, int n_digits, int digits, struct kv_act_int *out,
                              int64_t b)
{
    float largest = digits == 2 ? KV_ACT_MAX2 : KV_ACT_MAX1, inverse = 0.0f;
    int unit = digits < n_digits ? KV_ACT_DIGIT : 1; /* what a step of q counts */
    float scale = max == max ? 0.0f : max;
    if (max >= KV_ACT_TINY) {
        scale = max / (largest * (float)unit);
        inverse = largest / max;
    }
    for (int i = 0; i < BLOCK_VECTORS; i++) {
        vi q = max == max ? vf_to_int(vf_mul(vf_load(x + i * LANES), vf_set(inverse))) : vi_zero();
        vi high = digits == 2 ? vi_high_digit(q) : q;
        int64_t at = b * KV_ACT_BLOCK + i * LANES;
        vi_store_bytes(out->high + at, high);
        if (n_digits == 2) vi_store_bytes(out->low + at, digits == 2 ? vi_low_digit(q, high) : vi_zero());
    }
    out->scale[b] = out->two ? scale * KV_ACT_DIGIT : scale;
}

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

#define CHUNK_GROUPS 64 /* whose low digits' sums are at hand where nobody wants to keep them */

/* Σq and Σ scale·q of each group. Where a block of a mixed row has one digit, its low ones are 0 and the sum
 * is the same bits as scale · Σ high: the factors are powers of two. */
static void row_sums(struct kv_act_int *out, int64_t row)
{
    int64_t at = row * out->k, first = at / KV_WEIGHT_GROUP, n_groups = out->k / KV_WEIGHT_GROUP;
    const float *scale = out->scale + at / KV_ACT_BLOCK;
    float *sum = out->sum + first;
    int32_t *sum_q = out->sum_q + first;
    digit_sums(out->high + at, out->k, sum_q);
    if (!out->low) {
        for (int64_t g = 0; g < n_groups; g++) sum[g] = scale[g / 2] * (float)sum_q[g];
    } else if (out->two) {
        int32_t *low = out->sum_low + first;
        digit_sums(out->low + at, out->k, low);
        for (int64_t g = 0; g < n_groups; g++)
            sum[g] = scale[g / 2] * (1.0f / KV_ACT_DIGIT) * (float)(sum_q[g] * KV_ACT_DIGIT + low[g]);
    } else {
        for (int64_t g0 = 0; g0 < n_groups; g0 += CHUNK_GROUPS) {
            int32_t low[CHUNK_GROUPS];
            int64_t n = n_groups - g0 < CHUNK_GROUPS ? n_groups - g0 : CHUNK_GROUPS;
            digit_sums(out->low + at + g0 * KV_WEIGHT_GROUP, n * KV_WEIGHT_GROUP, low);
            for (int64_t g = g0; g < g0 + n; g++) {
                sum_q[g] = sum_q[g] * KV_ACT_DIGIT + low[g - g0];
                sum[g] = scale[g / 2] * (float)sum_q[g];
            }
        }
    }
}

static void act_quantize(const float *x, int64_t n, struct kv_act_int *out)
{
    int64_t row_blocks = out->k / KV_ACT_BLOCK;
    for (int64_t row = 0; row < n; row++, x += out->k) {
        int64_t first = row * row_blocks;
        float *max = out->scale + first; /* the scales take their places */
        row_maxima(x, row_blocks, max);
        float threshold = out->two ? kv_act_threshold(max, row_blocks) : 0.0f;
        for (int64_t b = 0; b < row_blocks; b++) {
            const float *block = x + b * KV_ACT_BLOCK;
            bool both = out->low && (!out->two || max[b] * max[b] >= threshold);
            if (out->two) out->two[first + b] = both;
            if (both) quantize_block(block, max[b], 2, 2, out, first + b);
            else if (out->low) quantize_block(block, max[b], 2, 1, out, first + b);
            else quantize_block(block, max[b], 1, 1, out, first + b);
        }
    }
    /* Only now: digits that have just been stored in quarters of a vector can't be loaded whole before they
     * have left the queue of stores. */
    for (int64_t row = 0; row < n; row++) row_sums(out, row);
}
