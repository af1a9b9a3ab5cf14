#include "oracle/oracle_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------- quantized cache -- */

/* Distance of float16 numbers around x: 2^(e-10) in [2^e, 2^(e+1)), e >= -14. */
static float half_step(float x)
{
    int e = x == 0.0f ? -14 : ilogbf(x);
    return ldexpf(1.0f, (e < -14 ? -14 : e) - 10);
}

/* The float16 nearest to x (ties to even), as a float. */
static float to_half(float x)
{
    return fabsf(x) >= 65520.0f ? copysignf(INFINITY, x) : rintf(x / half_step(x)) * half_step(x);
}

/* Walsh-Hadamard over blocks of the largest power of two that divides n; orthonormal, so its own inverse. */
static void hadamard(float *x, int n)
{
    int block = n & -n;
    float norm = 1.0f / sqrtf((float)block);
    for (int half = 1; half < block; half *= 2) {
        for (int i = 0; i < n; i++) {
            if (i & half) continue;
            float a = x[i], b = x[i + half];
            x[i] = a + b;
            x[i + half] = a - b;
        }
    }
    for (int i = 0; i < n; i++) x[i] *= norm;
}

/* The number with 3 bits of mantissa nearest to x > 0, or the least one that is not below it. */
static float three_bits(float x, bool up)
{
    int exponent;
    frexpf(x, &exponent);
    float unit = ldexpf(1.0f,
                        exponent - 4 < -17 ? -17 : exponent - 4); /* below 2^-14 float16 has a fixed step */
    return (up ? ceilf(x / unit) : floorf(x / unit + 0.5f)) * unit;
}

/* A grid as a short one stores it. True if codes are to be chosen for it. */
static bool shorten(float *scale, float *min, int bits, bool fitted)
{
    float width = (float)(1 << bits), levels = width - 1, middle = *min + levels / 2 * *scale;
    bool constant = *scale == 0.0f;
    float stored = constant ? 0.0f : bits == 8 ? three_bits(*scale * levels / (levels - width / 16),
                                                            true) : three_bits(*scale, false);
    /* 127 parts of 64 a width: all that a byte has */
    float least = fabsf(middle) * 64 / (127 * width - (constant ? 32 * levels : 0));
    bool wider = least > stored;
    if (wider) stored = three_bits(least, true);
    if (constant) middle += levels / 2 * stored;
    float part = stored > 0.0f ? fminf(fmaxf(rintf(middle / stored * (64 / width)), -127), 127) : 0.0f;
    *scale = stored;
    *min = to_half(stored * (part * width - 32 * levels) / 64);
    return !fitted || wider;
}

/* x[0], x[step], ... (n of them) through codes of `bits` and back: min + code · scale, both float16. min is
 * the largest one not above all x, so that no code is below 0; a group without spread, or without bits, is
 * one float16 number. */
static void through_codes(float *x, int n, int step, int bits, bool is_short)
{
    float low = INFINITY, high = -INFINITY, levels = (float)((1 << bits) - 1), scale = 0.0f;
    double sum = 0;
    for (int i = 0; i < n; i++) {
        low = fminf(low, x[i * step]);
        high = fmaxf(high, x[i * step]);
        sum += (double)x[i * step];
    }
    float min = to_half(bits ? low : (float)(sum / n));
    if (bits && high > low) {
        min = floorf(low / half_step(low)) * half_step(low);
        scale = to_half((high - min) / levels);
    }
    if (is_short) shorten(&scale, &min, bits, false);
    for (int i = 0; i < n; i++) {
        float code = scale > 0.0f ? rintf((x[i * step] - min) / scale) : 0.0f;
        x[i * step] = min + scale * fminf(fmaxf(code, 0.0f), levels);
    }
}

struct fitted {
    double low, step;               /* thresholds: codes are (y - low) / step, rounded */
    double codes, squares, product; /* Σ c, Σ c², Σ y c                                */
    double fit;                     /* Σ y c squared, over n var c: n var y · ρ²       */
};

static double fitted_code(double y, const struct fitted *f, double levels)
{
    return rint(fmin(fmax((y - f->low) / f->step, 0.0), levels));
}

static void try_fitted(struct fitted *best, double low, double step, const double *y, int n, double levels)
{
    struct fitted f = { .low = low, .step = step };
    if (!(step > 0.0)) return;
    for (int i = 0; i < n; i++) {
        double c = fitted_code(y[i], &f, levels);
        f.codes += c;
        f.squares += c * c;
        f.product += y[i] * c;
    }
    double var = f.squares - f.codes * f.codes / n;
    f.fit = var > 0.25 && f.product > 0.0 ? f.product * f.product / var : 0.0;
    if (f.fit > best->fit) *best = f;
}

/* The same with the grid of our own recipes up to 3 bits: thresholds of the largest correlation among four
 * parts of the range and what least squares makes of the best; then scale and minimum such that the error has
 * no mean and is not along x. False, and nothing done, where float16 is too coarse for that. */
static bool through_fitted_codes(float *x, int n, int step, int bits, bool is_short)
{
    static const double parts[] = { 1.0, 0.85, 0.7, 0.55 };
    double y[256], mean = 0, low = INFINITY, high = -INFINITY, variance = 0, levels = (1 << bits) - 1;
    struct fitted best = { 0 };
    for (int i = 0; i < n; i++) mean += (double)x[i * step] / n;
    for (int i = 0; i < n; i++) {
        y[i] = (double)x[i * step] - mean;
        low = fmin(low, y[i]);
        high = fmax(high, y[i]);
        variance += y[i] * y[i];
    }
    for (int k = 0; k < 4; k++) {
        double range = parts[k] * (high - low);
        try_fitted(&best, (low + high - range) / 2, range / levels, y, n, levels);
    }
    if (!(best.product > 0.0)) return false;
    double mean_code = best.codes / n, least = best.product / (best.squares - best.codes * mean_code);
    try_fitted(&best, -least * mean_code, least, y, n, levels);
    mean_code = best.codes / n;
    double scale = variance / best.product;
    float scale16 = to_half((float)scale), min16 = to_half((float)(mean - (double)scale16 * mean_code));
    if (scale < 0x1p-14 || fabs((double)min16) * 0x1p-11 > scale / 16) return false;
    bool recode = is_short && shorten(&scale16, &min16, bits, true);
    for (int i = 0; i < n; i++) {
        float code = recode ? fminf(fmaxf(rintf((x[i * step] - min16) / scale16), 0.0f), (float)levels)
                            : (float)fitted_code(y[i], &best, levels);
        x[i * step] = min16 + scale16 * code;
    }
    return true;
}

void oracle_quantize(float *x, int n, int step, int bits, bool fitted, bool is_short)
{
    if (!fitted || bits < 2 || bits > 3 || !through_fitted_codes(x, n, step, bits, is_short))
        through_codes(x, n, step, bits, is_short);
}

static void rotary(const struct oracle *o, int position, float *x /* (head_dim) */)
{
    for (int i = 0; i < o->n_rot / 2; i++) {
        float *a = x + (o->interleaved ? 2 * i : i), *b = a + (o->interleaved ? 1 : o->n_rot / 2);
        double angle = position * o->inv_freq[i], c = cos(angle), s = sin(angle);
        double a0 = (double)*a, b0 = (double)*b;
        *a = (float)(a0 * c - b0 * s);
        *b = (float)(a0 * s + b0 * c);
    }
}

static int sealed_tokens(const struct oracle_cache *c, int n)
{
    int free_tokens = n - c->sinks - c->tail;
    return free_tokens < c->granule ? 0 : free_tokens / c->granule * c->granule;
}

/* Quantizes the rows of one head that are ever read from a page: k, v (n, stride) in place. */
static void quantize_head(const struct oracle *o, const struct oracle_cache *c, int layer, int head, int n,
                          int stride, float *k, float *v)
{
    int dim = o->dims.head_dim, at = layer * o->dims.n_head_kv + head;
    const struct oracle_recipe *r = &c->recipe[c->uniform ? 0 : at];
    const uint8_t *bits = r->key_mixed ? c->channel_bits + (size_t)at * (size_t)dim : NULL; /* (head_dim) */
    int first = c->sinks, end = c->sinks + sealed_tokens(c, n);
    bool fitted = r->key_group == 64 || r->key_mixed || r->key_centered || r->key_rotated;
    float *center = oracle_take((size_t)dim, sizeof *center);
    for (int t = first; t < end && r->key_centered; t++) {
        memcpy(center, c->center + (size_t)at * (size_t)dim, (size_t)dim * sizeof *center);
        rotary(o, t, center);
        for (int d = 0; d < dim; d++) k[t * stride + d] -= center[d];
    }
    for (int t = first; t < end; t++) {
        if (r->key_rotated) hadamard(k + t * stride, dim);
        if (r->key_bits < 16 && !r->key_group)
            oracle_quantize(k + t * stride, dim, 1, r->key_bits, fitted, r->key_short);
    }
    for (int t = first; t < end && r->key_group; t += r->key_group) {
        for (int d = 0; d < dim; d++) {
            oracle_quantize(k + t * stride + d, r->key_group, stride, bits ? bits[d] : r->key_bits, fitted,
                            r->key_short);
        }
    }
    for (int t = first; t < end; t++) {
        if (r->key_rotated) hadamard(k + t * stride, dim);
        if (!r->key_centered) continue;
        memcpy(center, c->center + (size_t)at * (size_t)dim, (size_t)dim * sizeof *center);
        rotary(o, t, center);
        for (int d = 0; d < dim; d++) k[t * stride + d] += center[d];
    }
    for (int t = first; t < end && r->value_bits < 16; t++) {
        int group = r->value_group ? r->value_group : dim;
        if (r->value_rotated) hadamard(v + t * stride, dim);
        for (int d = 0; d < dim; d += group)
            oracle_quantize(v + t * stride + d, group, 1, r->value_bits, r->value_rotated, r->value_short);
        if (r->value_rotated) hadamard(v + t * stride, dim);
    }
    free(center);
}

/* --------------------------------------------------------------------------------------------- forward -- */

/* y (n, rows) = x (n, k) · wᵀ + bias */
static void product(const struct tensor *w, const struct tensor *bias, const float *x, int n, float *y)
{
    enum { LANES = 16 }; /* independent sums are closer to exact than one running sum, and faster */
    int64_t k = w->dims[0], rows = w->dims[1];
    float *row = oracle_take((size_t)k, sizeof *row), *b = oracle_take((size_t)rows, sizeof *b);
    if (bias) oracle_read_row(bias, 0, b);
    for (int64_t r = 0; r < rows; r++) {
        oracle_read_row(w, r, row);
        for (int i = 0; i < n; i++) {
            const float *xi = x + i * k;
            float lane[LANES] = { 0 };
            double sum = (double)b[r];
            int64_t j = 0;
            for (; j + LANES <= k; j += LANES) {
                for (int l = 0; l < LANES; l++) lane[l] += row[j + l] * xi[j + l];
            }
            for (; j < k; j++) sum += (double)row[j] * (double)xi[j];
            for (int l = 0; l < LANES; l++) sum += (double)lane[l];
            y[i * rows + r] = (float)sum;
        }
    }
    free(row);
    free(b);
}

/* y = x / sqrt(mean(x²) + ε) · weight, for n rows; y may be x */
static void rms_norm(const struct oracle *o, const struct tensor *weight, const float *x, int64_t n, float *y)
{
    int64_t k = weight->dims[0];
    float *w = oracle_take((size_t)k, sizeof *w);
    oracle_read_row(weight, 0, w);
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int64_t j = 0; j < k; j++) sum += (double)x[i * k + j] * (double)x[i * k + j];
        double inverse = 1.0 / sqrt(sum / (double)k + o->epsilon);
        for (int64_t j = 0; j < k; j++) y[i * k + j] = (float)((double)x[i * k + j] * inverse) * w[j];
    }
    free(w);
}

/* out (n, n_head, head_dim) of causal attention. Query s reads position t from k_sealed and v_sealed if t is
 * sealed once s + 1 tokens are there, its own included, else from k and v; all (n, n_head_kv, head_dim). */
static void attend(const struct oracle *o, const struct oracle_cache *cache, int n, const float *q,
                   const float *k, const float *v, const float *k_sealed, const float *v_sealed, float *out)
{
    int dim = o->dims.head_dim, n_head = o->dims.n_head, kv_width = o->dims.n_head_kv * dim;
    double *p = oracle_take((size_t)n, sizeof *p), *sum = oracle_take((size_t)dim, sizeof *sum);
    for (int s = 0; s < n; s++) {
        int sealed_first = cache ? cache->sinks : 0;
        int sealed_end = cache ? cache->sinks + sealed_tokens(cache, s + 1) : 0;
        for (int h = 0; h < n_head; h++) {
            const float *qh = q + (s * n_head + h) * dim;
            int head_at = h / (n_head / o->dims.n_head_kv) * dim;
            double max = -INFINITY, total = 0;
            for (int t = 0; t <= s; t++) {
                bool sealed = t >= sealed_first && t < sealed_end;
                const float *kt = (sealed ? k_sealed : k) + t * kv_width + head_at;
                p[t] = 0;
                for (int d = 0; d < dim; d++) p[t] += (double)qh[d] * (double)kt[d];
                p[t] /= sqrt((double)dim);
                max = fmax(max, p[t]);
            }
            for (int d = 0; d < dim; d++) sum[d] = 0;
            for (int t = 0; t <= s; t++) {
                bool sealed = t >= sealed_first && t < sealed_end;
                const float *vt = (sealed ? v_sealed : v) + t * kv_width + head_at;
                double e = exp(p[t] - max);
                total += e;
                for (int d = 0; d < dim; d++) sum[d] += e * (double)vt[d];
            }
            for (int d = 0; d < dim; d++) out[(s * n_head + h) * dim + d] = (float)(sum[d] / total);
        }
    }
    free(p);
    free(sum);
}

/* x += attention(norm(x)) */
static void attention_block(const struct oracle *o, int l, int n, const struct oracle_cache *cache,
                            const struct oracle_trace *trace, const float *normed, float *x)
{
    const struct layer *y = &o->layers[l];
    int dim = o->dims.head_dim, n_head = o->dims.n_head, n_head_kv = o->dims.n_head_kv;
    size_t q_size = (size_t)n * (size_t)(n_head * dim), kv_size = (size_t)n * (size_t)(n_head_kv * dim);
    float *q = oracle_take(q_size, sizeof *q), *out = oracle_take(q_size, sizeof *out);
    float *k = oracle_take(kv_size, sizeof *k), *v = oracle_take(kv_size, sizeof *v);
    float *k_sealed = oracle_take(kv_size, sizeof *k), *v_sealed = oracle_take(kv_size, sizeof *v);
    float *delta = oracle_take((size_t)n * (size_t)o->dims.n_embd, sizeof *delta);

    product(y->q, y->q_bias, normed, n, q);
    product(y->k, y->k_bias, normed, n, k);
    product(y->v, y->v_bias, normed, n, v);
    if (y->q_norm) rms_norm(o, y->q_norm, q, (int64_t)n * n_head, q);
    if (y->k_norm) rms_norm(o, y->k_norm, k, (int64_t)n * n_head_kv, k);
    if (trace && trace->k_raw) memcpy(trace->k_raw + (size_t)l * kv_size, k, kv_size * sizeof *k);
    for (int t = 0; t < n; t++) {
        for (int h = 0; h < n_head; h++) rotary(o, t, q + (t * n_head + h) * dim);
        for (int h = 0; h < n_head_kv; h++) rotary(o, t, k + (t * n_head_kv + h) * dim);
    }
    if (trace && trace->k) memcpy(trace->k + (size_t)l * kv_size, k, kv_size * sizeof *k);
    if (trace && trace->v) memcpy(trace->v + (size_t)l * kv_size, v, kv_size * sizeof *v);
    if (cache) {
        for (size_t i = 0; i < kv_size; i++) {
            k_sealed[i] = k[i] = to_half(k[i]);
            v_sealed[i] = v[i] = to_half(v[i]);
        }
        for (int h = 0; h < n_head_kv; h++) {
            quantize_head(o, cache, l, h, n, n_head_kv * dim, k_sealed + h * dim, v_sealed + h * dim);
        }
    }
    attend(o, cache, n, q, k, v, k_sealed, v_sealed, out);
    product(y->out, NULL, out, n, delta);
    for (int64_t i = 0; i < (int64_t)n * o->dims.n_embd; i++) x[i] += delta[i];
    free(q), free(out), free(k), free(v), free(k_sealed), free(v_sealed), free(delta);
}

/* x += down(silu(gate(normed)) · up(normed)) */
static void feed_forward_block(const struct oracle *o, int l, int n, const float *normed, float *x)
{
    const struct layer *y = &o->layers[l];
    size_t size = (size_t)n * (size_t)o->dims.n_ff, x_size = (size_t)n * (size_t)o->dims.n_embd;
    float *gate = oracle_take(size, sizeof *gate), *up = oracle_take(size, sizeof *up);
    float *delta = oracle_take(x_size, sizeof *delta);
    product(y->gate, NULL, normed, n, gate);
    product(y->up, NULL, normed, n, up);
    for (size_t i = 0; i < size; i++) {
        double g = (double)gate[i];
        gate[i] = (float)(g / (1.0 + exp(-g)) * (double)up[i]);
    }
    product(y->down, NULL, gate, n, delta);
    for (size_t i = 0; i < x_size; i++) x[i] += delta[i];
    free(gate), free(up), free(delta);
}

bool oracle_forward(const struct oracle *o, const int32_t *tokens, int n, int row_first,
                    const struct oracle_cache *cache, float *logits, const struct oracle_trace *trace,
                    char *message, size_t cap)
{
    int64_t width = o->dims.n_embd;
    float *x = oracle_take((size_t)(n * width), sizeof *x);
    float *normed = oracle_take((size_t)(n * width), sizeof *normed);
    bool ok = row_first >= 0 && row_first <= n;
    for (int i = 0; i < n && ok; i++) {
        ok = tokens[i] >= 0 && tokens[i] < o->dims.n_vocab;
        if (ok) oracle_read_row(o->embedding, tokens[i], x + i * width);
    }
    for (int l = 0; l < o->dims.n_layer && ok; l++) {
        rms_norm(o, o->layers[l].attn_norm, x, n, normed);
        attention_block(o, l, n, cache, trace, normed, x);
        rms_norm(o, o->layers[l].ffn_norm, x, n, normed);
        feed_forward_block(o, l, n, normed, x);
    }
    if (ok) {
        rms_norm(o, o->output_norm, x, n, normed);
        product(o->output, NULL, normed + row_first * width, n - row_first, logits);
    } else {
        snprintf(message, cap, "a token outside the vocabulary, or rows outside the text");
    }
    free(x);
    free(normed);
    return ok;
}

/* ----------------------------------------------------------------------------------------- comparisons -- */

double oracle_cosine(const float *a, const float *b, int n)
{
    double ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

double oracle_max_difference(const float *a, const float *b, int n)
{
    double max = 0;
    for (int i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= max)) max = d; /* a NaN stays */
    }
    return max;
}

int oracle_top(const float *logits, int n)
{
    int top = 0;
    for (int i = 1; i < n; i++) {
        if (logits[i] > logits[top]) top = i;
    }
    return top;
}

double oracle_logsumexp(const float *logits, int n)
{
    double max = (double)logits[oracle_top(logits, n)], sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - max);
    return max + log(sum);
}

double oracle_kld(const float *base, const float *other, int n)
{
    double lse_base = oracle_logsumexp(base, n), lse_other = oracle_logsumexp(other, n), sum = 0;
    for (int i = 0; i < n; i++) {
        double p = (double)base[i] - lse_base, q = (double)other[i] - lse_other;
        sum += exp(p) * (p - q);
    }
    return sum;
}
