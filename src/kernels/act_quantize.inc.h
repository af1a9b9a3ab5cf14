/*
 * Activations to integers, bit-equal to the plain C definition: the maximum is exact, scale and codes come
 * from the same two divisions and one rounding, the sums are integers.
 */
#define BLOCK_VECTORS (KV_ACT_BLOCK / LANES)

static void act_quantize(const float *x, int64_t n, struct kv_act_int *out)
{
    int64_t n_blocks = n * out->k / KV_ACT_BLOCK;
    float largest_q = out->low ? KV_ACT_MAX2 : KV_ACT_MAX1;
    for (int64_t b = 0; b < n_blocks; b++, x += KV_ACT_BLOCK) {
        vf v[BLOCK_VECTORS], largest = vf_zero(), not_finite = vf_zero();
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            v[i] = vf_load(x + i * LANES);
            largest = vf_max(vf_abs(v[i]), largest);
            /* 0, or NaN once any element is NaN or infinite */
            not_finite = vf_fma(v[i], vf_zero(), not_finite);
        }
        float max = vf_largest(largest), nan = vf_sum(not_finite), scale = nan, inverse = 0.0f;
        if (nan == 0.0f && max >= KV_ACT_TINY) {
            scale = max / largest_q;
            inverse = largest_q / max;
        }
        int sum[2] = { 0, 0 };
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            vi q = nan == 0.0f ? vf_to_int(vf_mul(v[i], vf_set(inverse))) : vi_zero();
            vi high = out->low ? vi_high_digit(q) : q;
            int64_t at = b * KV_ACT_BLOCK + i * LANES;
            vi_store_bytes(out->high + at, high);
            if (out->low) vi_store_bytes(out->low + at, vi_low_digit(q, high));
            sum[i * LANES / KV_WEIGHT_GROUP] += vi_sum(q);
        }
        out->scale[b] = scale;
        out->sum[2 * b] = scale * (float)sum[0];
        out->sum[2 * b + 1] = scale * (float)sum[1];
    }
}
