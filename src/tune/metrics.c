#include "tune/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"

/* Independent sums and maxima, so that the compiler may use vectors without reordering anything. */
#define LANES 16

/* e^x for x <= 0, 0 below −87; relative error below 2e-7 (Taylor to r^6, |r| <= ln 2 / 2, r^7/7! < 1.3e-7).
 * In plain arithmetic, so that the loop below becomes vector code: a softmax over 152k tokens is taken at
 * every position. */
static inline float exp_negative(float x)
{
    const float shift = 0x1.8p23f; /* adding it rounds to an integer */
    float clamped = x > -87.0f ? x : -87.0f;
    float n = (clamped * 1.44269504f + shift) - shift;
    float r = (clamped - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    float scaled = p * kv_bits_f32((uint32_t)((int32_t)n + 127) << 23);
    return x > -87.0f ? scaled : 0.0f;
}

int kv_logits_top(const float *x, int n)
{
    float lane[LANES], max = -INFINITY;
    for (int j = 0; j < LANES; j++) lane[j] = -INFINITY;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int j = 0; j < LANES; j++) max = lane[j] > max ? lane[j] : max;
    for (i = 0; i < n; i++)
        if (x[i] == max) return i;
    return -1; /* all NaN */
}

void kv_base_row_set(struct kv_base_row *out, const struct kv_kernels *kernels, const float *logits,
                     int n_vocab, float *prob)
{
    out->logits = logits;
    out->prob = prob;
    out->log_sum = kernels->log_sum_exp(logits, n_vocab);
    out->top = kv_logits_top(logits, n_vocab);
    float shift = (float)out->log_sum;
    for (int i = 0; i < n_vocab; i++) prob[i] = exp_negative(logits[i] - shift);
}

/* Σ p (b − x + c) with partial sums in float over 1024 elements and in double above: p sums to 1 and the
 * differences are small, so the error stays below 1e-6 of the largest difference. */
static double weighted_difference(const float *p, const float *b, const float *x, float c, int n)
{
    double total = 0.0;
    for (int first = 0; first < n; first += 1024) {
        int end = n - first < 1024 ? n : first + 1024, i = first;
        float lane[LANES] = { 0 };
        for (; i + LANES <= end; i += LANES)
            for (int j = 0; j < LANES; j++) lane[j] += p[i + j] * (b[i + j] - x[i + j] + c);
        for (; i < end; i++) lane[0] += p[i] * (b[i] - x[i] + c);
        for (int j = 0; j < LANES; j++) total += (double)lane[j];
    }
    return total;
}

void kv_scores_set_collapsed(struct kv_scores *s, int64_t i)
{
    s->kld[i] = s->nll[i] = INFINITY;
    s->same[i] = false;
}

void kv_scores_set(struct kv_scores *s, int64_t i, const struct kv_kernels *kernels,
                   const struct kv_base_row *base, const float *logits, int n_vocab, kvant_token next)
{
    double log_sum = kernels->log_sum_exp(logits, n_vocab);
    kv_scores_set_collapsed(s, i);
    if (!isfinite(log_sum)) return;
    /* Σ P (log P − log Q), log P = b − log_sum(b): the constants are merged first, they nearly cancel */
    double kld = weighted_difference(base->prob, base->logits, logits, (float)(log_sum - base->log_sum),
                                     n_vocab);
    if (isnan(kld)) return;
    s->kld[i] = kld > 0.0 ? (float)kld : 0.0f; /* rounding may leave −1e-9 for equal rows */
    s->nll[i] = (float)(log_sum - (double)logits[next]);
    s->same[i] = kv_logits_top(logits, n_vocab) == base->top;
}

void kv_scores_set_base(struct kv_scores *s, int64_t i, const struct kv_base_row *base, kvant_token next)
{
    s->kld[i] = 0.0f;
    s->nll[i] = (float)(base->log_sum - (double)base->logits[next]);
    s->same[i] = true;
}

static int compare_floats(const void *a, const void *b)
{
    float x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

double kv_quantile(const float *sorted, int64_t n, double q)
{
    if (n == 0) return NAN;
    double place = q * (double)(n - 1);
    int64_t low = (int64_t)place;
    double fraction = place - (double)low, value = (double)sorted[low];
    if (fraction > 0.0 && low + 1 < n && sorted[low + 1] > sorted[low])
        value += fraction * ((double)sorted[low + 1] - value);
    return value;
}

static double mean(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i];
    return sum / (double)n;
}

void kv_scores_reduce(struct kv_scores *s, const struct kv_scores *base, struct kvant_eval_result *out)
{
    int64_t n_same = 0;
    for (int64_t i = 0; i < s->n; i++) n_same += s->same[i];
    double nll = mean(s->nll, s->n);
    out->n_scored = s->n;
    out->ppl = exp(nll);
    out->ppl_ratio = exp(nll - mean(base->nll, base->n));
    out->kld_mean = mean(s->kld, s->n);
    out->same_top_p = 100.0 * (double)n_same / (double)s->n;
    qsort(s->kld, (size_t)s->n, sizeof *s->kld, compare_floats);
    out->kld_median = kv_quantile(s->kld, s->n, 0.5);
    out->kld_p99 = kv_quantile(s->kld, s->n, 0.99);
    out->kld_p999 = kv_quantile(s->kld, s->n, 0.999);
    out->kld_max = (double)s->kld[s->n - 1];
}
