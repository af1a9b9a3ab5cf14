/*
 * Activations to int8, bit-equal to the plain C definition: the maximum is exact, scale and codes come from the same
 * two divisions and one rounding, the sums are integers.
 */
#define BLOCK_VECTORS (KV_ACT_BLOCK / LANES)

static void act_quantize(const float *x, int64_t n, struct kv_act_i8 *out)
{
    int64_t n_blocks = n * out->k / KV_ACT_BLOCK;
    for (int64_t b = 0; b < n_blocks; b++, x += KV_ACT_BLOCK) {
        vf v[BLOCK_VECTORS], largest = vf_zero(), not_finite = vf_zero();
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            v[i] = vf_load(x + i * LANES);
            largest = vf_max(vf_abs(v[i]), largest);
            not_finite = vf_fma(v[i], vf_zero(), not_finite); /* 0, or NaN once any element is NaN or infinite */
        }
        float max = vf_largest(largest), nan = vf_sum(not_finite), scale = nan, inverse = 0.0f;
        if (nan == 0.0f && max >= KV_ACT_TINY) {
            scale = max / 127.0f;
            inverse = 127.0f / max;
        }
        int8_t *q = out->q + b * KV_ACT_BLOCK;
        int sum[2] = { 0, 0 };
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            vi code = nan == 0.0f ? vf_to_int(vf_mul(v[i], vf_set(inverse))) : vi_zero();
            vi_store_bytes(q + i * LANES, code);
            sum[i * LANES / KV_WEIGHT_GROUP] += vi_sum(code);
        }
        out->scale[b] = scale;
        out->sum[2 * b] = scale * (float)sum[0];
        out->sum[2 * b + 1] = scale * (float)sum[1];
    }
}
