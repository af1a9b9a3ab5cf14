/*
 * Vector kernels in the vocabulary of an instruction set. Bit-equal to plain C: add, conversions (but for the
 * payload of a NaN), hadamard. Bounds for the others, relative, ε = 2^-24:
 *   silu_mul     8 ε; from a = −88.7 down, where e^−a overflows, zero
 *   rms_norm     (n / LANES / 4 + 8) ε: the squares are added in 4 · LANES float sums
 *   log_sum_exp  absolute (5 + ln n) ε: differences and exponentials are float, the sum is double. A term
 *                e^−d has the error d·ε of its difference; beyond d = ln n the terms shrink faster than their
 *                errors grow
 */

/* e^x with relative error below 3 ε. x = n·ln 2 + r, |r| ≤ ln 2 / 2; n·LN2_HIGH is exact for |n| < 2^9 (15
 * bits of mantissa); the Taylor series to r^7 is off by r^8/8! < 6e-9. Beyond ±104 it is already infinite or
 * zero in float. */
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f

KV_INLINE vf vf_exp(vf x)
{
    /* min and max return their second operand if one is NaN: x must be that operand */
    vf bounded = vf_max(vf_set(-110.0f), vf_min(vf_set(110.0f), x));
    vf n = vf_round(vf_mul(bounded, vf_set(0x1.715476p+0f)));
    vf r = vf_fma(n, vf_set(-LN2_HIGH), bounded);
    r = vf_fma(n, vf_set(-LN2_LOW), r);
    vf p = vf_set(1.0f / 5040.0f);
    p = vf_fma(p, r, vf_set(1.0f / 720.0f));
    p = vf_fma(p, r, vf_set(1.0f / 120.0f));
    p = vf_fma(p, r, vf_set(1.0f / 24.0f));
    p = vf_fma(p, r, vf_set(1.0f / 6.0f));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_fma(p, r, vf_set(1.0f));
    p = vf_fma(p, r, vf_set(1.0f));
    return vf_scale2(p, n);
}

KV_INLINE vf sum4(const vf v[4])
{
    return vf_add(vf_add(v[0], v[1]), vf_add(v[2], v[3]));
}

static void rms_norm(const float *x, const float *weight, int64_t n, float eps, float *y)
{
    vf squares[4] = { vf_zero(), vf_zero(), vf_zero(), vf_zero() };
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int j = 0; j < 4; j++) {
            vf v = vf_load(x + i + j * LANES);
            squares[j] = vf_fma(v, v, squares[j]);
        }
    for (; i < n; i += LANES) {
        vf v = i + LANES <= n ? vf_load(x + i) : vf_load_n(x + i, n - i);
        squares[0] = vf_fma(v, v, squares[0]);
    }
    double mean = vd_sum(vd_add_lanes(vd_zero(), sum4(squares))) / (double)n;
    vf scale = vf_set((float)(1.0 / sqrt(mean + (double)eps)));
    for (i = 0; i + LANES <= n; i += LANES)
        vf_store(y + i, vf_mul(vf_mul(vf_load(x + i), scale), vf_load(weight + i)));
    if (i < n)
        vf_store_n(y + i, vf_mul(vf_mul(vf_load_n(x + i, n - i), scale), vf_load_n(weight + i, n - i)),
                   n - i);
}

KV_INLINE vf silu(vf a, vf b)
{
    vf e = vf_exp(vf_sub(vf_zero(), a));
    return vf_mul(vf_div(a, vf_add(vf_set(1.0f), e)), b);
}

static void silu_mul(const float *a, const float *b, int64_t n, float *y)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vf_store(y + i, silu(vf_load(a + i), vf_load(b + i)));
    if (i < n) vf_store_n(y + i, silu(vf_load_n(a + i, n - i), vf_load_n(b + i, n - i)), n - i);
}

static void add(float *x, const float *y, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vf_store(x + i, vf_add(vf_load(x + i), vf_load(y + i)));
    if (i < n) vf_store_n(x + i, vf_add(vf_load_n(x + i, n - i), vf_load_n(y + i, n - i)), n - i);
}

static void f32_to_f16(const float *x, int64_t n, uint16_t *y)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vf_store_f16(y + i, vf_load(x + i));
    if (i < n) vf_store_f16_n(y + i, vf_load_n(x + i, n - i), n - i);
}

static void f16_to_f32(const uint16_t *x, int64_t n, float *y)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vf_store(y + i, vf_load_f16(x + i));
    if (i < n) vf_store_n(y + i, vf_load_f16_n(x + i, n - i), n - i);
}

/* A short scale's bits, shifted by 20, are a float whose exponent is 112 too small. */
static void widen_grids(const uint8_t *scale, const uint8_t *centre, int n, int bits, uint16_t *scale_f16,
                        uint16_t *min_f16)
{
    float width = (float)(1 << bits);
    vf step = vf_set(width * 0x1p-6f), first = vf_set((32.0f - 160.0f * width) * 0x1p-6f);
    for (int i = 0; i < n; i += LANES) {
        vf s = vf_mul(vf_of_bits(vi_left(vi_load_codes(scale + i), 20)), vf_set(0x1p112f));
        vf u = vf_load_codes(centre + i);
        vf_store_f16(scale_f16 + i, s);
        vf_store_f16(min_f16 + i, vf_mul(s, vf_fma(u, step, first)));
    }
}

/* Stages h < LANES of the butterfly: lane i becomes x[i] + x[i + h], lane i + h becomes x[i] − x[i + h], that
 * is x[i ^ h] ± x[i]; the product with ±1 is exact, so the fma rounds as the plain addition does. */
KV_INLINE vf butterfly(vf x)
{
    float sign[LANES];
    for (int h = 1; h < LANES; h *= 2) {
        for (int i = 0; i < LANES; i++) sign[i] = i & h ? -1.0f : 1.0f;
        x = vf_fma(x, vf_load(sign), vf_swap(x, h));
    }
    return x;
}

/* Head sizes with a power of two below a vector are rare: theirs is the transform in plain C. */
static void hadamard_small(float *x, int n_rows, int head_dim)
{
    struct kv_kernels plain;
    kv_fill_vectors_ref(&plain);
    plain.hadamard(x, n_rows, head_dim);
}

static void hadamard(float *x, int n_rows, int head_dim)
{
    int block = head_dim & -head_dim;
    if (block < LANES) {
        hadamard_small(x, n_rows, head_dim);
        return;
    }
    vf scale = vf_set(1.0f / sqrtf((float)block));
    float *end = x + (int64_t)n_rows * head_dim;
    for (; x < end; x += block) {
        for (int i = 0; i < block; i += LANES) vf_store(x + i, butterfly(vf_load(x + i)));
        for (int h = LANES; h < block; h *= 2)
            for (int i = 0; i < block; i += LANES) {
                if (i & h) continue;
                vf low = vf_load(x + i), high = vf_load(x + i + h);
                vf_store(x + i, vf_add(low, high));
                vf_store(x + i + h, vf_sub(low, high));
            }
        for (int i = 0; i < block; i += LANES) vf_store(x + i, vf_mul(vf_load(x + i), scale));
    }
}

static double log_sum_exp(const float *x, int64_t n)
{
    float max = -INFINITY;
    vf largest = vf_set(max);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) largest = vf_max(vf_load(x + i), largest);
    max = vf_largest(largest);
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    if (isinf(max)) return (double)max;

    vd sum[2] = { vd_zero(), vd_zero() };
    vf shift = vf_set(max);
    for (i = 0; i + 2 * LANES <= n; i += 2 * LANES)
        for (int j = 0; j < 2; j++)
            sum[j] = vd_add_lanes(sum[j], vf_exp(vf_sub(vf_load(x + i + j * LANES), shift)));
    double rest = 0.0;
    for (; i < n; i++) rest += exp((double)x[i] - (double)max);
    return (double)max + log(vd_sum(sum[0]) + vd_sum(sum[1]) + rest);
}

static void fill_vectors(struct kv_kernels *table)
{
    table->rms_norm = rms_norm;
    table->silu_mul = silu_mul;
    table->add = add;
    table->f32_to_f16 = f32_to_f16;
    table->f16_to_f32 = f16_to_f32;
    table->hadamard = hadamard;
    table->widen_grids = widen_grids;
    table->log_sum_exp = log_sum_exp;
}
