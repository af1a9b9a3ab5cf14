/*
 * Vector kernels in plain C: the definition. Those that only move, round or add in a fixed order (add,
 * conversions, hadamard) are bit-equal at every level; the others differ by the bounds that vectors.inc.h
 * states.
 */
#include "base/half.h"
#include "kernels/kernels.h"
#include "kernels/short_grid.h"

#include <math.h>

static void rms_norm_ref(const float *x, const float *weight, int64_t n, float eps, float *y)
{
    double squares = 0.0;
    for (int64_t i = 0; i < n; i++) squares += (double)x[i] * (double)x[i];
    float scale = (float)(1.0 / sqrt(squares / (double)n + (double)eps));
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale * weight[i];
}

static void silu_mul_ref(const float *a, const float *b, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i++) y[i] = a[i] / (1.0f + expf(-a[i])) * b[i];
}

static void add_ref(float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

static void f32_to_f16_ref(const float *x, int64_t n, uint16_t *y)
{
    for (int64_t i = 0; i < n; i++) y[i] = kv_f32_to_f16(x[i]);
}

static void f16_to_f32_ref(const uint16_t *x, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i++) y[i] = kv_f16_to_f32(x[i]);
}

static void hadamard_ref(float *x, int n_rows, int head_dim)
{
    int block = head_dim & -head_dim;
    float scale = 1.0f / sqrtf((float)block);
    float *end = x + (int64_t)n_rows * head_dim;
    for (; x < end; x += block) {
        for (int h = 1; h < block; h *= 2)
            for (int i = 0; i < block; i++) {
                if (i & h) continue;
                float low = x[i], high = x[i + h];
                x[i] = low + high;
                x[i + h] = low - high;
            }
        for (int i = 0; i < block; i++) x[i] *= scale;
    }
}

static void widen_grids_ref(const uint8_t *scale, const uint8_t *centre, int n, int bits, uint16_t *scale_f16,
                            uint16_t *min_f16)
{
    for (int i = 0; i < n; i++) {
        scale_f16[i] = kv_short_scale_f16(scale[i]);
        min_f16[i] = kv_short_min_f16(scale[i], centre[i], bits);
    }
}

static double log_sum_exp_ref(const float *x, int64_t n)
{
    float max = -INFINITY;
    for (int64_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
    if (isinf(max)) return (double)max; /* nothing but −∞, or a +∞: their differences would be NaN */
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)expf(x[i] - max);
    return (double)max + log(sum);
}

void kv_fill_vectors_ref(struct kv_kernels *table)
{
    table->rms_norm = rms_norm_ref;
    table->silu_mul = silu_mul_ref;
    table->add = add_ref;
    table->f32_to_f16 = f32_to_f16_ref;
    table->f16_to_f32 = f16_to_f32_ref;
    table->hadamard = hadamard_ref;
    table->widen_grids = widen_grids_ref;
    table->log_sum_exp = log_sum_exp_ref;
}
