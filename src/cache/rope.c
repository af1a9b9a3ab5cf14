#include "cache/rope.h"

#include <math.h>

void kv_rope_angles(const struct kv_rope *r, int64_t position, float *cos_out, float *sin_out)
{
    for (int i = 0; i < r->n_rot / 2; i++) {
        double angle = (double)position * (double)r->inv_freq[i];
        cos_out[i] = (float)cos(angle);
        sin_out[i] = (float)sin(angle);
    }
}

void kv_rope_apply(const struct kv_rope *r, const float *cos_t, const float *sin_t, float *x, int n_heads)
{
    int half = r->n_rot / 2;
    int near = kv_rope_near(r), far = kv_rope_far(r);
    for (int h = 0; h < n_heads; h++, x += r->head_dim) {
        for (int i = 0; i < half; i++) {
            float *a = x + near * i, *b = a + far;
            float a0 = *a, b0 = *b;
            *a = a0 * cos_t[i] - b0 * sin_t[i];
            *b = a0 * sin_t[i] + b0 * cos_t[i];
        }
    }
}
