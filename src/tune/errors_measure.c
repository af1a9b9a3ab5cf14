/*
 * Values that are exact for the first queries and quantized for later ones (the tail moves) appear twice in
 * the inner product: V̂ at their own index, V behind all tokens; each query's weights stand at one of the
 * two.
 *
 *     values      | V̂ of tokens 0 … T−1 (V where nothing is quantized) | V of tokens moving, moving + 1, … |
 *     weight_hat  | â, 0 for moving tokens that this query reads exact | â of those, 0 for the others      |
 */
#include "tune/errors_measure.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

/* Most tokens that may be exact for one query and quantized for a later one: as many as there are queries, to
 * a whole granule. */
static int64_t moving_cap(int64_t n_queries)
{
    return n_queries + KV_PAGE_TOKENS;
}

size_t kv_error_scratch_place(struct kv_error_scratch *out, void *base, int head_dim, int64_t n_tokens,
                              int64_t n_queries)
{
    struct kv_carve c = { base, 0, false };
    size_t d = (size_t)head_dim, t = (size_t)n_tokens, n = (size_t)n_queries,
           inner = t + (size_t)moving_cap(n_queries), bits = KV_ERROR_BITS;
    size_t largest; /* of one array's elements, so that no product below wraps */
    if (!kv_mul_size(inner, (1 + bits) * (d + n), &largest)) return SIZE_MAX;
    out->k = kv_carve(&c, t * d, sizeof *out->k);
    out->v = kv_carve(&c, t * d, sizeof *out->v);
    out->k_hat = kv_carve(&c, bits * t * d, sizeof *out->k_hat);
    out->v_hat = kv_carve(&c, bits * t * d, sizeof *out->v_hat);
    out->values = kv_carve(&c, (1 + bits) * d * inner, sizeof *out->values);
    out->score = kv_carve(&c, n * t, sizeof *out->score);
    out->score_hat = kv_carve(&c, n * t, sizeof *out->score_hat);
    out->weight = kv_carve(&c, n * t, sizeof *out->weight);
    out->weight_hat = kv_carve(&c, bits * n * inner, sizeof *out->weight_hat);
    out->out = kv_carve(&c, n * d, sizeof *out->out);
    out->out_hat = kv_carve(&c, KV_ERROR_PAIRS * n * d, sizeof *out->out_hat);
    out->row = kv_carve(&c, t, sizeof *out->row);
    out->tile = kv_carve(&c, KV_PAGE_TOKENS * d, sizeof *out->tile);
    out->sum_a = kv_carve(&c, n * bits, sizeof *out->sum_a);
    out->sum_o = kv_carve(&c, n * KV_ERROR_PAIRS, sizeof *out->sum_o);
    out->sum_k = kv_carve(&c, t * bits, sizeof *out->sum_k);
    out->sum_v = kv_carve(&c, t * bits, sizeof *out->sum_v);
    out->n_o = kv_carve(&c, n, sizeof *out->n_o);
    out->n_k = kv_carve(&c, t, sizeof *out->n_k);
    out->n_v = kv_carve(&c, t, sizeof *out->n_v);
    out->codec = kv_carve(&c, 1, kv_codec_scratch_bytes(head_dim));
    out->matmul = kv_carve(&c, 1,
                           kv_matmul_scratch_bytes((int64_t)inner > head_dim ? (int64_t)inner : head_dim));
    return c.overflow ? SIZE_MAX : c.used;
}

/* One (layer, mode) while it is measured. */
struct job {
    const struct kv_error_mode *mode;
    const struct kv_captured *c;
    const struct kv_kernels *kernels;
    const struct kv_error_scratch *s;
    int layer;
    int64_t n_tokens, n_queries, n_prompt, n_inner;
    int64_t moving, moving_end; /* values that are exact for some queries and quantized for others */
};

static double l1(const float *x, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += fabs((double)x[i]);
    return sum;
}

static double l1_distance(const float *x, const float *y, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += fabs((double)x[i] - (double)y[i]);
    return sum;
}

/* y[j * ldy + r] = w[r]·x[j]: w (n_rows, n_inner), x (n, n_inner) */
static void multiply(const struct job *j, const float *w, int64_t n_rows, int64_t n_inner, const float *x,
                     int64_t n, float *y, int64_t ldy)
{
    const struct kv_matmul mm = {
        .weights = (const uint8_t *)w,
        .row_bytes = (size_t)n_inner * sizeof *w,
        .code_format = -1,
        .float_format = KV_FLOAT_F32,
        .k = n_inner,
        .n_rows = n_rows,
        .x_f32 = x,
        .n = n,
        .y = y,
        .ldy = ldy,
    };
    j->kernels->matmul_rows(j->kernels, &mm, 0, n_rows, j->s->matmul);
}

/* ------------------------------------------------------------------------------------- keys and values -- */

/* Ratios of the quantized rows [sinks, end), added over heads. */
static int64_t add_row_errors(const struct job *j, const float *x, const float *x_hat, int64_t end,
                              double *sum, int *count)
{
    int head_dim = j->c->head_dim;
    int64_t n_skipped = 0;
    for (int64_t t = kv_error_mode_sinks(j->mode); t < end; t++) {
        double size = l1(x + t * head_dim, head_dim);
        if (size == 0.0) {
            n_skipped++;
            continue;
        }
        for (int i = 0; i < KV_ERROR_BITS; i++)
            sum[t * KV_ERROR_BITS + i] +=
                l1_distance(x + t * head_dim, x_hat + (i * j->n_tokens + t) * head_dim, head_dim) / size;
        count[t]++;
    }
    return n_skipped;
}

/* Exact and quantized rows of one KV head, with their errors. */
static kvant_status round_head(const struct job *j, int head_kv, int64_t *n_skipped, struct kvant_error *err)
{
    const struct kv_error_scratch *s = j->s;
    int64_t n = j->n_tokens * j->c->head_dim, key_end, value_end;
    size_t at = kv_captured_at(j->c, j->layer, head_kv);
    j->kernels->f16_to_f32(j->c->k + at, n, s->k);
    j->kernels->f16_to_f32(j->c->v + at, n, s->v);
    for (int i = 0; i < KV_ERROR_BITS; i++)
        KV_TRY(kv_error_mode_round(j->mode, i, j->layer, head_kv, j->n_tokens, s->k, s->v, s->k_hat + i * n,
                                   s->v_hat + i * n, s->page, s->tile, s->codec, err));
    kv_error_mode_sealed(j->mode, j->n_tokens, &key_end, &value_end);
    *n_skipped += add_row_errors(j, s->k, s->k_hat, key_end, s->sum_k, s->n_k);
    *n_skipped += add_row_errors(j, s->v, s->v_hat, value_end, s->sum_v, s->n_v);
    return KVANT_OK;
}

/* values: V (head_dim, n_tokens), then V̂ | V of the moving tokens (head_dim, n_inner) for each number of
 * bits */
static void transpose_values(const struct job *j)
{
    const struct kv_error_scratch *s = j->s;
    int head_dim = j->c->head_dim;
    for (int c = 0; c < head_dim; c++)
        for (int64_t t = 0; t < j->n_tokens; t++) s->values[c * j->n_tokens + t] = s->v[t * head_dim + c];
    float *out = s->values + (int64_t)head_dim * j->n_tokens;
    for (int i = 0; i < KV_ERROR_BITS; i++) {
        const float *v_hat = s->v_hat + i * j->n_tokens * head_dim;
        for (int c = 0; c < head_dim; c++, out += j->n_inner) {
            for (int64_t t = 0; t < j->n_tokens; t++) out[t] = v_hat[t * head_dim + c];
            for (int64_t t = j->moving; t < j->moving_end; t++)
                out[j->n_tokens + t - j->moving] = s->v[t * head_dim + c];
        }
    }
}

/* ------------------------------------------------------------------------------------------- attention -- */

/* softmax(score · scale); the sum of exp(x − max) and of its product with x − max tell the entropy. */
static double soften(const float *score, int64_t n, float scale, float *weight)
{
    float max = -INFINITY;
    for (int64_t t = 0; t < n; t++) max = score[t] > max ? score[t] : max;
    double sum = 0.0, moment = 0.0;
    for (int64_t t = 0; t < n; t++) {
        float x = (score[t] - max) * scale;
        weight[t] = expf(x);
        sum += (double)weight[t];
        moment += (double)weight[t] * (double)x;
    }
    float inverse = (float)(1.0 / sum);
    for (int64_t t = 0; t < n; t++) weight[t] *= inverse;
    return log(sum) - moment / sum; /* −Σ a log a, because log a = x − max − log Σ */
}

/* Sum of the KV_ERROR_TOP largest. */
static double top_mass(const float *weight, int64_t n)
{
    float top[KV_ERROR_TOP] = { 0 }; /* descending */
    for (int64_t t = 0; t < n; t++) {
        if (weight[t] <= top[KV_ERROR_TOP - 1]) continue;
        int i = KV_ERROR_TOP - 1;
        for (; i > 0 && top[i - 1] < weight[t]; i--) top[i] = top[i - 1];
        top[i] = weight[t];
    }
    double sum = 0.0;
    for (int i = 0; i < KV_ERROR_TOP; i++) sum += (double)top[i];
    return sum;
}

static float score_scale(const struct job *j)
{
    return (float)(1.0 / sqrt((double)j->c->head_dim));
}

/* score, weight and out of the exact cache. attention may be NULL. */
static void attend_exactly(const struct job *j, const float *q, struct kvant_sensitivity_head *attention)
{
    const struct kv_error_scratch *s = j->s;
    double entropy = 0.0, relative = 0.0, top = 0.0;
    int64_t n_relative = 0;
    multiply(j, s->k, j->n_tokens, j->c->head_dim, q, j->n_queries, s->score, j->n_tokens);
    for (int64_t i = 0; i < j->n_queries; i++) {
        int64_t n_seen = j->n_prompt + i + 1;
        float *weight = s->weight + i * j->n_tokens;
        double h = soften(s->score + i * j->n_tokens, n_seen, score_scale(j), weight);
        memset(weight + n_seen, 0, (size_t)(j->n_tokens - n_seen) * sizeof *weight);
        if (!attention) continue;
        entropy += h;
        top += top_mass(weight, n_seen);
        if (n_seen == 1) continue; /* log 1 = 0 */
        relative += h / log((double)n_seen);
        n_relative++;
    }
    multiply(j, s->values, j->c->head_dim, j->n_tokens, s->weight, j->n_queries, s->out, j->c->head_dim);
    if (!attention) return;
    double n = (double)j->n_queries;
    attention->entropy = entropy / n;
    attention->entropy_relative = n_relative ? relative / (double)n_relative : NAN;
    attention->top8 = top / n;
}

/* Query i's weights over what it reads of the keys with bits [b]: errors against `weight`, and the split that
 * the values need. */
static double attend_to_hat(const struct job *j, int64_t i, const float *score_hat, float *weight_hat)
{
    const struct kv_error_scratch *s = j->s;
    int64_t position = j->n_prompt + i, n_seen = position + 1, key_end, value_end;
    kv_error_mode_ends(j->mode, position, &key_end, &value_end);
    memcpy(s->row, score_hat, (size_t)n_seen * sizeof *s->row);
    for (int64_t t = key_end; t < n_seen; t++)
        s->row[t] = s->score[i * j->n_tokens + t]; /* exact from there on */
    memset(weight_hat, 0, (size_t)j->n_inner * sizeof *weight_hat);
    soften(s->row, n_seen, score_scale(j), weight_hat);

    const float *weight = s->weight + i * j->n_tokens;
    double distance = 0.0;
    for (int64_t t = 0; t < n_seen; t++) distance += fabs((double)weight[t] - (double)weight_hat[t]);
    int64_t exact = value_end > j->moving ? value_end : j->moving;
    for (int64_t t = exact; t < j->moving_end && t < n_seen; t++) {
        weight_hat[j->n_tokens + t - j->moving] = weight_hat[t];
        weight_hat[t] = 0.0f;
    }
    return distance / (double)n_seen;
}

/* All pairs of one query head; adds to the sums over heads. Returns the units without a ratio. */
static int64_t measure_head(const struct job *j, int head, struct kv_head_errors *out,
                            struct kvant_sensitivity_head *attention)
{
    const struct kv_error_scratch *s = j->s;
    int64_t head_dim = j->c->head_dim, n_counted = 0;
    const float *q = kv_captured_q(j->c, j->layer, head);
    *out = (struct kv_head_errors){ 0 };
    attend_exactly(j, q, attention);
    for (int b = 0; b < KV_ERROR_BITS; b++) {
        multiply(j, s->k_hat + b * j->n_tokens * head_dim, j->n_tokens, head_dim, q, j->n_queries,
                 s->score_hat, j->n_tokens);
        for (int64_t i = 0; i < j->n_queries; i++) {
            double e = attend_to_hat(j, i, s->score_hat + i * j->n_tokens,
                                     s->weight_hat + (b * j->n_queries + i) * j->n_inner);
            s->sum_a[i * KV_ERROR_BITS + b] += e;
            out->e_a[b] += e / (double)j->n_queries;
        }
    }
    multiply(j, s->values + head_dim * j->n_tokens, KV_ERROR_BITS * head_dim, j->n_inner, s->weight_hat,
             KV_ERROR_BITS * j->n_queries, s->out_hat, KV_ERROR_BITS * head_dim);
    for (int64_t i = 0; i < j->n_queries; i++) {
        const float *o = s->out + i * head_dim;
        double size = l1(o, (int)head_dim);
        if (size == 0.0) continue;
        n_counted++;
        s->n_o[i]++;
        for (int pair = 0; pair < KV_ERROR_PAIRS; pair++) {
            int64_t row = pair / KV_ERROR_BITS * j->n_queries + i;
            const float *o_hat = s->out_hat + (row * KV_ERROR_BITS + pair % KV_ERROR_BITS) * head_dim;
            double e = l1_distance(o, o_hat, (int)head_dim) / size;
            s->sum_o[i * KV_ERROR_PAIRS + pair] += e;
            out->e_o[pair] += e;
        }
    }
    for (int pair = 0; pair < KV_ERROR_PAIRS; pair++)
        out->e_o[pair] = n_counted ? out->e_o[pair] / (double)n_counted : NAN;
    return j->n_queries - n_counted;
}

/* ----------------------------------------------------------------------------------------------- means -- */

/* Of tokens: each the mean over the heads that count there. sum: (n, width), count: (n). */
static void mean_over_tokens(const double *sum, const int *count, int64_t n, int width, double *mean)
{
    int64_t n_counted = 0;
    for (int i = 0; i < width; i++) mean[i] = 0.0;
    for (int64_t t = 0; t < n; t++) {
        if (!count[t]) continue;
        n_counted++;
        for (int i = 0; i < width; i++) mean[i] += sum[t * width + i] / count[t];
    }
    for (int i = 0; i < width; i++) mean[i] = n_counted ? mean[i] / (double)n_counted : NAN;
}

/* Between the first query's end of quantized values and that of the rounded rows. */
static void set_moving(struct job *j)
{
    int64_t key_end;
    kv_error_mode_ends(j->mode, j->n_prompt, &key_end, &j->moving);
    kv_error_mode_sealed(j->mode, j->n_tokens, &key_end, &j->moving_end);
    if (j->mode->mode == KVANT_SENSITIVITY_PER_TOKEN) j->moving_end = j->moving; /* nothing is ever exact */
    j->n_inner = j->n_tokens + j->moving_end - j->moving;
}

static void clear_sums(const struct job *j)
{
    const struct kv_error_scratch *s = j->s;
    size_t n = (size_t)j->n_queries, t = (size_t)j->n_tokens;
    memset(s->sum_a, 0, n * KV_ERROR_BITS * sizeof *s->sum_a);
    memset(s->sum_o, 0, n * KV_ERROR_PAIRS * sizeof *s->sum_o);
    memset(s->sum_k, 0, t * KV_ERROR_BITS * sizeof *s->sum_k);
    memset(s->sum_v, 0, t * KV_ERROR_BITS * sizeof *s->sum_v);
    memset(s->n_o, 0, n * sizeof *s->n_o);
    memset(s->n_k, 0, t * sizeof *s->n_k);
    memset(s->n_v, 0, t * sizeof *s->n_v);
}

static void finish_means(const struct job *j, struct kv_layer_errors *out)
{
    const struct kv_error_scratch *s = j->s;
    mean_over_tokens(s->sum_k, s->n_k, j->n_tokens, KV_ERROR_BITS, out->e_k);
    mean_over_tokens(s->sum_v, s->n_v, j->n_tokens, KV_ERROR_BITS, out->e_v);
    mean_over_tokens(s->sum_o, s->n_o, j->n_queries, KV_ERROR_PAIRS, out->e_o);
    for (int b = 0; b < KV_ERROR_BITS; b++) { /* every head counts: the denominator is a number of tokens */
        double sum = 0.0;
        for (int64_t i = 0; i < j->n_queries; i++) sum += s->sum_a[i * KV_ERROR_BITS + b];
        out->e_a[b] = sum / ((double)j->n_queries * j->c->n_head);
    }
}

kvant_status kv_errors_measure(const struct kv_error_mode *m, const struct kv_captured *c, int layer,
                               const struct kv_error_scratch *scratch, struct kv_layer_errors *out,
                               struct kv_head_errors *heads, struct kvant_sensitivity_head *attention,
                               struct kvant_error *err)
{
    struct job j = {
        .mode = m,
        .c = c,
        .kernels = m->codec[0].kernels,
        .s = scratch,
        .layer = layer,
        .n_tokens = c->n_tokens,
        .n_queries = kv_captured_queries(c),
        .n_prompt = c->n_prompt,
    };
    set_moving(&j);
    clear_sums(&j);
    *out = (struct kv_layer_errors){ 0 };
    int group = c->n_head / c->n_head_kv;
    for (int head = 0; head < c->n_head; head++) {
        if (head % group == 0) {
            KV_TRY(round_head(&j, head / group, &out->n_skipped, err));
            transpose_values(&j);
        }
        out->n_skipped += measure_head(&j, head, &heads[head], attention ? &attention[head] : NULL);
    }
    finish_means(&j, out);
    for (int b = 0; b < KV_ERROR_BITS; b++)
        if (!isfinite(out->e_a[b]))
            KV_FAIL(err, KVANT_ERR_NUMERIC, -1,
                    "layer %d: attention is not finite (queries of the text overflow); the model's "
                    "arithmetic failed",
                    layer);
    return KVANT_OK;
}
