/*
 * Activations to integers, bit-equal to the plain C definition: the maximum is exact, scale and codes come
 * from the same two divisions and one rounding, the sums are integers.
 */
#define BLOCK_VECTORS (KV_ACT_BLOCK / LANES)

/* max|x|, or NaN when an element is not finite */
KV_INLINE float block_max(const float *x)
{
    vf largest = vf_zero(), not_finite = vf_zero();
    for (int i = 0; i < BLOCK_VECTORS; i++) {
        vf v = vf_load(x + i * LANES);
        largest = vf_max(vf_abs(v), largest);
        not_finite = vf_fma(v, vf_zero(), not_finite); /* 0, or NaN once any element is NaN or infinite */
    }
    float nan = vf_sum(not_finite);
    return nan == 0.0f ? vf_largest(largest) : nan;
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
    vi sum[2] = { vi_zero(), vi_zero() }, sum_high[2] = { vi_zero(), vi_zero() };
    for (int i = 0; i < BLOCK_VECTORS; i++) {
        vi q = max == max ? vf_to_int(vf_mul(vf_load(x + i * LANES), vf_set(inverse))) : vi_zero();
        vi high = digits == 2 ? vi_high_digit(q) : q;
        int64_t at = b * KV_ACT_BLOCK + i * LANES;
        int half = i * LANES / KV_WEIGHT_GROUP;
        vi_store_bytes(out->high + at, high);
        if (n_digits == 2) vi_store_bytes(out->low + at, digits == 2 ? vi_low_digit(q, high) : vi_zero());
        sum[half] = vi_add(sum[half], q);
        sum_high[half] = vi_add(sum_high[half], high);
    }
    out->scale[b] = out->two ? scale * KV_ACT_DIGIT : scale;
    for (int half = 0; half < 2; half++) {
        int all = vi_sum(sum[half]), high = digits == 2 && out->two ? vi_sum(sum_high[half]) : all;
        out->sum[2 * b + half] = scale * (float)(all * unit);
        out->sum_q[2 * b + half] = out->two ? high : all;
        if (out->two) out->sum_low[2 * b + half] = all * unit - high * KV_ACT_DIGIT;
    }
}

static void quantize_mixed(const float *x, int64_t n, struct kv_act_int *out)
{
    int64_t row_blocks = out->k / KV_ACT_BLOCK;
    for (int64_t row = 0; row < n; row++) {
        int64_t first = row * row_blocks;
        float *max = out->scale + first; /* the scales take their places */
        for (int64_t b = 0; b < row_blocks; b++) max[b] = block_max(x + (first + b) * KV_ACT_BLOCK);
        float threshold = kv_act_threshold(max, row_blocks);
        for (int64_t b = 0; b < row_blocks; b++) {
            bool both = max[b] * max[b] >= threshold;
            const float *block = x + (first + b) * KV_ACT_BLOCK;
            out->two[first + b] = both;
            if (both) quantize_block(block, max[b], 2, 2, out, first + b);
            else quantize_block(block, max[b], 2, 1, out, first + b);
        }
    }
}

static void act_quantize(const float *x, int64_t n, struct kv_act_int *out)
{
    if (out->two) {
        quantize_mixed(x, n, out);
        return;
    }
    int64_t n_blocks = n * out->k / KV_ACT_BLOCK;
    for (int64_t b = 0; b < n_blocks; b++, x += KV_ACT_BLOCK) {
        float max = block_max(x);
        if (out->low) quantize_block(x, max, 2, 2, out, b);
        else quantize_block(x, max, 1, 1, out, b);
    }
}
