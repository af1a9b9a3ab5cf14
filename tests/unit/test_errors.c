/*
 * Sensitivities: the formulas on rows made by hand and against a recomputation in double from the definitions
 * (docs/sensitivity.md), the edges of the modes, and whole runs on tiny models.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/half.h"
#include "oracle/oracle.h"
#include "base/memory.h"
#include "run/session.h"
#include "support/scratch.h"
#include "support/tiny_gguf.h"
#include "tune/errors.h"
#include "tune/errors_measure.h"

#define TINY_FILE "test_errors.gguf"
#define BITS KV_ERROR_BITS

static uint64_t rng_state;
static double uniform(void)
{
    rng_state = rng_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (double)(rng_state >> 40) / 16777216.0;
}

static struct kvant_model *open_tiny(const struct tiny_gguf_options *tiny, int n_threads)
{
    char path[SCRATCH_CAP];
    struct kvant_error err = { 0 };
    struct kvant_model *model;
    struct kvant_model_options opt = KVANT_MODEL_OPTIONS_INIT;
    opt.n_threads = n_threads;
    if (tiny_gguf_write(scratch_path(path, TINY_FILE), tiny, &err) != KVANT_OK) fail_msg("%s", err.message);
    if (kvant_model_open(&model, path, &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    unlink(path);
    return model;
}

/* --------------------------------------------------------------------------------------- rows by hand -- */

/* One layer, rows to be filled in. */
struct bench {
    struct kvant_model *model;
    struct kv_calibration calibration;
    struct kv_error_mode mode;
    struct kv_captured rows;
    struct kv_error_scratch scratch;
    void *memory;
    struct kv_layer_errors layer;
    struct kv_head_errors *heads;           /* (n_head) */
    struct kvant_sensitivity_head *attention; /* (n_head) */
};

static void bench_open(struct bench *b, kvant_sensitivity_mode mode, int n_head, int n_head_kv, int head_dim,
                       int64_t n_prompt, int64_t n_tokens)
{
    struct kvant_error err = { 0 };
    struct tiny_gguf_options tiny = { .arch = "qwen2", .seed = 11, .n_layer = 1, .n_head = n_head,
                                      .n_head_kv = n_head_kv, .head_dim = head_dim, .key_bias_outlier = 20 };
    memset(b, 0, sizeof *b);
    b->model = open_tiny(&tiny, 1);
    if (mode == KVANT_SENSITIVITY_KVANT) {
        kvant_token tokens[200];
        for (int i = 0; i < 200; i++) tokens[i] = (kvant_token)(uniform() * 250);
        if (kv_calibration_open(&b->calibration, b->model, tokens, 200, 4, NULL, NULL, &err) != KVANT_OK)
            fail_msg("%s", err.message);
    }
    if (kv_error_mode_open(&b->mode, b->model, mode, &b->calibration, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    b->rows = (struct kv_captured){ .n_layer = 1, .n_head = n_head, .n_head_kv = n_head_kv,
                                    .head_dim = head_dim, .n_prompt = n_prompt, .n_tokens = n_tokens };
    size_t d = (size_t)head_dim, n_queries = (size_t)(n_tokens - n_prompt);
    b->rows.q = kv_alloc((size_t)n_head * n_queries * d, sizeof(float));
    b->rows.k = kv_alloc((size_t)n_head_kv * (size_t)n_tokens * d, sizeof(uint16_t));
    b->rows.v = kv_alloc((size_t)n_head_kv * (size_t)n_tokens * d, sizeof(uint16_t));
    size_t n_bytes = kv_error_scratch_place(&b->scratch, NULL, head_dim, n_tokens, (int64_t)n_queries);
    b->memory = kv_alloc(1, n_bytes);
    kv_error_scratch_place(&b->scratch, b->memory, head_dim, n_tokens, (int64_t)n_queries);
    b->scratch.page = kv_alloc(1, kv_error_mode_page_bytes(&b->mode));
    b->heads = kv_alloc((size_t)n_head, sizeof *b->heads);
    b->attention = kv_alloc((size_t)n_head, sizeof *b->attention);
    assert_true(b->rows.q && b->rows.k && b->rows.v && b->memory && b->scratch.page && b->heads &&
                b->attention);
}

static void bench_close(struct bench *b)
{
    kv_free(b->rows.q);
    kv_free(b->rows.k);
    kv_free(b->rows.v);
    kv_free(b->memory);
    kv_free(b->scratch.page);
    kv_free(b->heads);
    kv_free(b->attention);
    kv_error_mode_close(&b->mode);
    kv_calibration_close(&b->calibration);
    kvant_model_close(b->model);
}

static void measure(struct bench *b)
{
    struct kvant_error err = { 0 };
    if (kv_errors_measure(&b->mode, &b->rows, 0, &b->scratch, &b->layer, b->heads, b->attention, &err) !=
        KVANT_OK)
        fail_msg("%s", err.message);
}

static void put_row(uint16_t *rows, int64_t i, int head_dim, const double *x)
{
    for (int c = 0; c < head_dim; c++) rows[i * head_dim + c] = kv_f32_to_f16((float)x[c]);
}

static void assert_near(double found, double expected, double relative, const char *what)
{
    if (!(fabs(found - expected) <= relative * fabs(expected) + 1e-9))
        fail_msg("%s: %.9g, expected %.9g", what, found, expected);
}

static void two_tokens_by_hand(void **state)
{
    (void)state;
    /* 2 bits per token: the row {0, 3, 1.4, 0, …} has the grid 0 1 2 3, so 1.4 becomes 1: .4 of 4.4. The
     * other rows lie on their grids. 1.4 in float16 is 1.400390625. */
    struct bench b;
    double x = kv_f16_to_f32(kv_f32_to_f16(1.4f));
    bench_open(&b, KVANT_SENSITIVITY_PER_TOKEN, 2, 1, 8, 1, 2);
    put_row(b.rows.k, 0, 8, (double[8]){ 0, 3, 1.4 });
    put_row(b.rows.k, 1, 8, (double[8]){ 0 }); /* constant, and without a ratio */
    put_row(b.rows.v, 0, 8, (double[8]){ 0, 3, 1.4 });
    put_row(b.rows.v, 1, 8, (double[8]){ 0, 3, 0 });
    /* Head 0 asks for nothing: half of its weight on each token, whatever the keys. Head 1 has
     * q·k0 / √8 = x ln 3 exactly and ln 3 after quantization, q·k1 = 0. */
    for (int i = 0; i < 16; i++) b.rows.q[i] = 0;
    b.rows.q[8 + 2] = (float)(sqrt(8) * log(3));
    measure(&b);

    assert_near(b.layer.e_k[0], (x - 1) / (3 + x), 1e-6, "e_k: one unit of two");
    assert_near(b.layer.e_v[0], (x - 1) / (3 + x) / 2, 1e-6, "e_v: the other unit is exact");
    assert_int_equal(b.layer.n_skipped, 1);

    double a = pow(3, x) / (1 + pow(3, x)); /* weight of token 0 */
    assert_near(b.heads[0].e_a[0], 0, 0, "e_a of uniform weights");
    assert_near(b.heads[1].e_a[0], fabs(a - .75), 1e-5, "e_a");
    assert_near(b.layer.e_a[0], fabs(a - .75) / 2, 1e-5, "e_a over heads");

    /* head 0: o = (0, 3, x/2), ô = (0, 3, 1/2); with 8-bit keys and 2-bit values the same */
    assert_near(b.heads[0].e_o[0], (x - 1) / 2 / (3 + x / 2), 1e-6, "e_o k2v2, uniform");
    assert_near(b.heads[0].e_o[3 * BITS + 0], (x - 1) / 2 / (3 + x / 2), 1e-6, "e_o k8v2, uniform");
    /* head 1: o = (0, 3, a x), ô = (0, 3, .75) with both in 2 bits */
    assert_near(b.heads[1].e_o[0], fabs(a * x - .75) / (3 + a * x), 1e-5, "e_o k2v2");
    assert_near(b.layer.e_o[0], (b.heads[0].e_o[0] + b.heads[1].e_o[0]) / 2, 1e-6, "e_o over heads");

    assert_near(b.attention[0].entropy, log(2), 1e-6, "entropy of two equal weights");
    assert_near(b.attention[0].entropy_relative, 1, 1e-6, "which is all there can be");
    assert_near(b.attention[1].entropy, -a * log(a) - (1 - a) * log(1 - a), 1e-5, "entropy");
    assert_near(b.attention[1].top8, 1, 1e-6, "two tokens are the top eight");
    bench_close(&b);
}

static void rows_without_a_ratio_are_counted(void **state)
{
    (void)state;
    struct bench b;
    bench_open(&b, KVANT_SENSITIVITY_PER_TOKEN, 2, 1, 8, 2, 5);
    for (int i = 0; i < 3 * 2 * 8; i++) b.rows.q[i] = 1; /* keys and values are all 0 */
    measure(&b);
    for (int i = 0; i < BITS; i++) {
        assert_true(isnan(b.layer.e_k[i]) && isnan(b.layer.e_v[i]));
        assert_true(b.layer.e_a[i] == 0.0);
    }
    for (int i = 0; i < KV_ERROR_PAIRS; i++) assert_true(isnan(b.layer.e_o[i]) && isnan(b.heads[1].e_o[i]));
    assert_int_equal(b.layer.n_skipped, 5 + 5 + 2 * 3);

    /* Constant rows are kept as they are, to float16. */
    double ones[8] = { 600, 600, 600, 600, 600, 600, 600, 600 };
    for (int t = 0; t < 5; t++) {
        put_row(b.rows.k, t, 8, ones);
        put_row(b.rows.v, t, 8, ones);
    }
    measure(&b);
    for (int i = 0; i < BITS; i++) assert_true(b.layer.e_k[i] == 0.0 && b.layer.e_v[i] == 0.0);
    for (int i = 0; i < KV_ERROR_PAIRS; i++) assert_near(b.layer.e_o[i], 0, 0, "e_o of constants");
    assert_int_equal(b.layer.n_skipped, 0);

    b.rows.q[3] = NAN;
    struct kvant_error err = { 0 };
    assert_int_equal(kv_errors_measure(&b.mode, &b.rows, 0, &b.scratch, &b.layer, b.heads, NULL, &err),
                     KVANT_ERR_NUMERIC);
    b.rows.q[3] = 0;
    b.rows.v[9] = 0x7c00; /* infinity */
    assert_int_equal(kv_errors_measure(&b.mode, &b.rows, 0, &b.scratch, &b.layer, b.heads, NULL, &err),
                     KVANT_ERR_NUMERIC);
    bench_close(&b);
}

/* -------------------------------------------------------------------------------- recomputed in double -- */

/* x, n of them `stride` apart, on the float-minimum grid: min rounded down and scale rounded to float16. */
static void quantize_by_definition(double *x, int n, int stride, int bits)
{
    double lo = x[0], hi = x[0], levels = (1 << bits) - 1;
    for (int i = 1; i < n; i++) {
        lo = fmin(lo, x[i * stride]);
        hi = fmax(hi, x[i * stride]);
    }
    if (lo == hi) {
        for (int i = 0; i < n; i++) x[i * stride] = kv_f16_to_f32(kv_f32_to_f16((float)lo));
        return;
    }
    uint16_t h = kv_f32_to_f16((float)lo);
    if ((double)kv_f16_to_f32(h) > lo) h = (uint16_t)(h & 0x8000 ? h + 1 : h - 1);
    double min = kv_f16_to_f32(h), scale = kv_f16_to_f32(kv_f32_to_f16((float)((hi - min) / levels)));
    for (int i = 0; i < n; i++)
        x[i * stride] = min + scale * fmin(rint((x[i * stride] - min) / scale), levels);
}

/* The same on the grid that our own recipes have up to 3 bits: as the oracle has it. */
static void quantize_as_ours(double *x, int n, int stride, int bits)
{
    float group[64];
    if (bits > 3) {
        quantize_by_definition(x, n, stride, bits);
        return;
    }
    for (int i = 0; i < n; i++) group[i] = (float)x[i * stride];
    oracle_quantize(group, n, 1, bits, true, false);
    for (int i = 0; i < n; i++) x[i * stride] = group[i];
}

static void hadamard_by_definition(double *x, int n)
{
    double y[64];
    assert_true(n == 64);
    for (int i = 0; i < n; i++) {
        y[i] = 0;
        for (int j = 0; j < n; j++)
            y[i] += (__builtin_popcount((unsigned)(i & j)) & 1 ? -1.0 : 1.0) * x[j] / sqrt(n);
    }
    memcpy(x, y, sizeof y);
}

/* sign · R_t μ onto a key */
static void center_by_definition(const struct bench *b, int head_kv, int64_t position, double sign, double *x)
{
    const uint16_t *mean = b->mode.plan[0]->center + head_kv * 64;
    for (int i = 0; i < 32; i++) { /* qwen2: channel i turns with i + 32 */
        double angle = (double)position * pow(10000.0, -2.0 * i / 64), m0 = kv_f16_to_f32(mean[i]),
               m1 = kv_f16_to_f32(mean[i + 32]);
        x[i] += sign * (m0 * cos(angle) - m1 * sin(angle));
        x[i + 32] += sign * (m0 * sin(angle) + m1 * cos(angle));
    }
}

struct expected {
    int64_t key_end, value_end; /* after the last token          */
    int sinks;
    double *k, *v;              /* (n_tokens, 64) exact          */
    double *k_hat, *v_hat;      /* (bits, n_tokens, 64)          */
};

/* What the modes quantize after n tokens, from the text of the specification. */
static void sealed_by_definition(kvant_sensitivity_mode mode, int64_t n, int64_t *key_end, int64_t *value_end)
{
    *key_end = *value_end = n;
    if (mode == KVANT_SENSITIVITY_KIVI) {
        *key_end = n / 32 * 32;
        *value_end = n > 32 ? n - 32 : 0;
    }
    if (mode == KVANT_SENSITIVITY_KVANT) *key_end = *value_end = 4 + (n > 36 ? (n - 36) / 64 * 64 : 0);
}

static void round_by_definition(const struct bench *b, int head_kv, struct expected *e)
{
    int64_t n = b->rows.n_tokens, at = head_kv * n * 64;
    kvant_sensitivity_mode mode = b->mode.mode;
    e->sinks = mode == KVANT_SENSITIVITY_KVANT ? 4 : 0;
    sealed_by_definition(mode, n, &e->key_end, &e->value_end);
    for (int64_t i = 0; i < n * 64; i++) {
        e->k[i] = kv_f16_to_f32(b->rows.k[at + i]);
        e->v[i] = kv_f16_to_f32(b->rows.v[at + i]);
    }
    for (int i = 0; i < BITS; i++) {
        double *k = e->k_hat + i * n * 64, *v = e->v_hat + i * n * 64;
        memcpy(k, e->k, (size_t)n * 64 * sizeof *k);
        memcpy(v, e->v, (size_t)n * 64 * sizeof *v);
        int group = mode == KVANT_SENSITIVITY_KVANT ? 64 : 32;
        for (int64_t t = e->sinks; t < e->key_end; t++) {
            if (mode == KVANT_SENSITIVITY_PER_TOKEN)
                quantize_by_definition(k + t * 64, 64, 1, kv_error_bits[i]);
            if (mode == KVANT_SENSITIVITY_KVANT) center_by_definition(b, head_kv, t, -1, k + t * 64);
        }
        for (int64_t t = e->sinks; mode != KVANT_SENSITIVITY_PER_TOKEN && t < e->key_end; t += group)
            for (int c = 0; c < 64; c++)
                (mode == KVANT_SENSITIVITY_KVANT ? quantize_as_ours : quantize_by_definition)(
                    k + t * 64 + c, group, 64, kv_error_bits[i]);
        for (int64_t t = e->sinks; mode == KVANT_SENSITIVITY_KVANT && t < e->key_end; t++)
            center_by_definition(b, head_kv, t, 1, k + t * 64);
        for (int64_t t = e->sinks; t < e->value_end; t++) {
            double *row = v + t * 64;
            if (mode == KVANT_SENSITIVITY_KVANT) hadamard_by_definition(row, 64);
            int width = mode == KVANT_SENSITIVITY_KIVI ? 32 : 64;
            for (int c = 0; c < 64; c += width)
                (mode == KVANT_SENSITIVITY_KVANT ? quantize_as_ours : quantize_by_definition)(
                    row + c, width, 1, kv_error_bits[i]);
            if (mode == KVANT_SENSITIVITY_KVANT) hadamard_by_definition(row, 64);
        }
    }
}

static double ratio(const double *x, const double *y, int n)
{
    double distance = 0, size = 0;
    for (int i = 0; i < n; i++) {
        distance += fabs(x[i] - y[i]);
        size += fabs(x[i]);
    }
    return size > 0 ? distance / size : NAN;
}

/* Weights of query q at `position`: keys below key_end from k_hat. */
static void weights_by_definition(const float *q, const double *k, const double *k_hat, int64_t sinks,
                                  int64_t key_end, int64_t position, double *weight)
{
    double sum = 0, max = -INFINITY;
    for (int64_t t = 0; t <= position; t++) {
        const double *row = (t >= sinks && t < key_end ? k_hat : k) + t * 64;
        double s = 0;
        for (int c = 0; c < 64; c++) s += (double)q[c] * row[c];
        weight[t] = s / 8;
        max = fmax(max, weight[t]);
    }
    for (int64_t t = 0; t <= position; t++) sum += weight[t] = exp(weight[t] - max);
    for (int64_t t = 0; t <= position; t++) weight[t] /= sum;
}

static void output_by_definition(const double *weight, const double *v, const double *v_hat, int64_t sinks,
                                 int64_t value_end, int64_t position, double *out)
{
    for (int c = 0; c < 64; c++) out[c] = 0;
    for (int64_t t = 0; t <= position; t++)
        for (int c = 0; c < 64; c++)
            out[c] += weight[t] * (t >= sinks && t < value_end ? v_hat : v)[t * 64 + c];
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Means that heads come before tokens in: (n_tokens) sums and counts. */
struct means {
    double sum[160];
    int count[160];
};
static void means_add(struct means *m, int64_t token, double x)
{
    if (isnan(x)) return;
    m->sum[token] += x;
    m->count[token]++;
}
static double means_value(const struct means *m)
{
    double sum = 0;
    int n = 0;
    for (int t = 0; t < 160; t++)
        if (m->count[t]) sum += m->sum[t] / m->count[t], n++;
    return n ? sum / n : NAN;
}

static void compare_with_the_definition(kvant_sensitivity_mode mode, int64_t n_prompt, int64_t n_tokens)
{
    enum { N_HEAD = 4, N_KV = 2, D = 64 };
    struct bench b;
    rng_state = 100; /* of ten seeds one (99) has a value between two codes, where float32 and double part */
    bench_open(&b, mode, N_HEAD, N_KV, D, n_prompt, n_tokens);
    int64_t n_queries = n_tokens - n_prompt;
    for (int64_t i = 0; i < N_KV * n_tokens * D; i++) {
        int c = (int)(i % D);
        double wide = c % 5 == 1 ? 3.0 : 0.7;
        b.rows.k[i] = kv_f32_to_f16((float)(wide * (uniform() + uniform() - 1) + (c == 6 ? -20 : 0)));
        b.rows.v[i] = kv_f32_to_f16((float)((c % 9 == 4 ? 4.0 : 0.5) * (uniform() + uniform() - 1)));
    }
    for (int64_t i = 0; i < N_HEAD * n_queries * D; i++) b.rows.q[i] = (float)(2 * uniform() - 1);
    memset(b.rows.v + 3 * D, 0, D * sizeof *b.rows.v);              /* token 3 of KV head 0: no ratio */
    memset(b.rows.k + (n_tokens + 9) * D, 0, D * sizeof *b.rows.k); /* token 9 of KV head 1           */
    measure(&b);

    struct expected e;
    e.k = kv_alloc((size_t)(n_tokens * D), sizeof(double));
    e.v = kv_alloc((size_t)(n_tokens * D), sizeof(double));
    e.k_hat = kv_alloc((size_t)(BITS * n_tokens * D), sizeof(double));
    e.v_hat = kv_alloc((size_t)(BITS * n_tokens * D), sizeof(double));
    static struct means of_k[BITS], of_v[BITS], of_a[BITS], of_o[KV_ERROR_PAIRS];
    memset(of_k, 0, sizeof of_k);
    memset(of_v, 0, sizeof of_v);
    memset(of_a, 0, sizeof of_a);
    memset(of_o, 0, sizeof of_o);
    for (int head = 0; head < N_HEAD; head++) {
        if (head % (N_HEAD / N_KV) == 0) {
            round_by_definition(&b, head / 2, &e);
            for (int i = 0; i < BITS; i++) {
                for (int64_t t = e.sinks; t < e.key_end; t++)
                    means_add(&of_k[i], t, ratio(e.k + t * D, e.k_hat + (i * n_tokens + t) * D, D));
                for (int64_t t = e.sinks; t < e.value_end; t++)
                    means_add(&of_v[i], t, ratio(e.v + t * D, e.v_hat + (i * n_tokens + t) * D, D));
            }
        }
        double head_o[KV_ERROR_PAIRS] = { 0 }, head_a[BITS] = { 0 }, entropy = 0, relative = 0, top = 0;
        for (int64_t p = n_prompt; p < n_tokens; p++) {
            const float *q = b.rows.q + (head * n_queries + p - n_prompt) * D;
            double a[160], a_hat[160], o[D], o_hat[D];
            int64_t key_end, value_end;
            /* KIVI flushes after the attention of a step; the others count the query's own token */
            sealed_by_definition(mode, mode == KVANT_SENSITIVITY_KIVI ? p : p + 1, &key_end, &value_end);
            weights_by_definition(q, e.k, e.k, 0, 0, p, a);
            output_by_definition(a, e.v, e.v, 0, 0, p, o);
            for (int i = 0; i < BITS; i++) {
                weights_by_definition(q, e.k, e.k_hat + i * n_tokens * D, e.sinks, key_end, p, a_hat);
                double distance = 0;
                for (int64_t t = 0; t <= p; t++) distance += fabs(a[t] - a_hat[t]) / (double)(p + 1);
                means_add(&of_a[i], p, distance);
                head_a[i] += distance / (double)n_queries;
                for (int j = 0; j < BITS; j++) {
                    output_by_definition(a_hat, e.v, e.v_hat + j * n_tokens * D, e.sinks, value_end, p,
                                         o_hat);
                    means_add(&of_o[i * BITS + j], p, ratio(o, o_hat, D));
                    head_o[i * BITS + j] += ratio(o, o_hat, D) / (double)n_queries;
                }
            }
            double h = 0;
            for (int64_t t = 0; t <= p; t++) h -= a[t] > 0 ? a[t] * log(a[t]) : 0;
            entropy += h / (double)n_queries;
            relative += h / log((double)(p + 1)) / (double)n_queries;
            qsort(a, (size_t)(p + 1), sizeof *a, descending);
            for (int t = 0; t < 8 && t <= p; t++) top += a[t] / (double)n_queries;
        }
        for (int i = 0; i < BITS; i++) assert_near(b.heads[head].e_a[i], head_a[i], 1e-3, "e_a of a head");
        for (int i = 0; i < KV_ERROR_PAIRS; i++)
            assert_near(b.heads[head].e_o[i], head_o[i], 1e-3, "e_o of a head");
        assert_near(b.attention[head].entropy, entropy, 1e-5, "entropy");
        assert_near(b.attention[head].entropy_relative, relative, 1e-5, "relative entropy");
        assert_near(b.attention[head].top8, top, 1e-5, "top 8");
    }
    for (int i = 0; i < BITS; i++) {
        if (e.key_end <= e.sinks) assert_true(isnan(b.layer.e_k[i]));
        else assert_near(b.layer.e_k[i], means_value(&of_k[i]), 1e-4, "e_k");
        if (e.value_end <= e.sinks) assert_true(isnan(b.layer.e_v[i]));
        else assert_near(b.layer.e_v[i], means_value(&of_v[i]), 1e-4, "e_v");
        assert_near(b.layer.e_a[i], means_value(&of_a[i]), 1e-3, "e_a");
    }
    for (int i = 0; i < KV_ERROR_PAIRS; i++) assert_near(b.layer.e_o[i], means_value(&of_o[i]), 1e-3, "e_o");
    int64_t skipped = (e.value_end > 3 && e.sinks <= 3) + (e.key_end > 9);
    assert_int_equal(b.layer.n_skipped, skipped);
    kv_free(e.k);
    kv_free(e.v);
    kv_free(e.k_hat);
    kv_free(e.v_hat);
    bench_close(&b);
}

static void errors_follow_their_definition(void **state)
{
    (void)state;
    compare_with_the_definition(KVANT_SENSITIVITY_PER_TOKEN, 70, 150);
    compare_with_the_definition(KVANT_SENSITIVITY_KIVI, 70, 150);
    /* from nothing quantized to two blocks of keys, and nothing at all */
    compare_with_the_definition(KVANT_SENSITIVITY_KIVI, 27, 66);
    compare_with_the_definition(KVANT_SENSITIVITY_KIVI, 1, 31);
    compare_with_the_definition(KVANT_SENSITIVITY_KVANT, 70, 150);
    compare_with_the_definition(KVANT_SENSITIVITY_KVANT, 120, 133); /* the second block seals at 164 */
    compare_with_the_definition(KVANT_SENSITIVITY_KVANT, 2, 99);
}

static void kivi_ends_are_the_closed_forms(void **state)
{
    (void)state;
    /* the table of KIVI's residual of 32 (reference, section 3.3):
     * tokens, keys quantized, values quantized */
    static const int64_t table[][3] = {
        { 31, 0, 0 }, { 32, 32, 0 }, { 33, 32, 1 }, { 64, 64, 32 }, { 100, 96, 68 }
    };
    struct bench b;
    int64_t key_end, value_end, later;
    bench_open(&b, KVANT_SENSITIVITY_KIVI, 2, 1, 32, 1, 2);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        kv_error_mode_sealed(&b.mode, table[i][0], &key_end, &value_end);
        assert_true(key_end == table[i][1] && value_end == table[i][2]);
        kv_error_mode_ends(&b.mode, table[i][0], &key_end, &later); /* read by the query that comes next */
        assert_true(key_end == table[i][1] && later == value_end);
    }
    bench_close(&b);
}

/* ------------------------------------------------------------------------------------------------ runs -- */

static void make_prompts(kvant_token *tokens, struct kvant_prompt *prompts, int n, int n_tokens)
{
    rng_state = 17;
    for (int i = 0; i < n * n_tokens; i++) tokens[i] = (kvant_token)(uniform() * 250);
    for (int i = 0; i < n; i++)
        prompts[i] = (struct kvant_prompt){ tokens + i * n_tokens, (size_t)(n_tokens - 3 * i) };
}

/* Bits of everything that was measured. */
static void assert_same(const struct kvant_sensitivity *a, const struct kvant_sensitivity *b)
{
    assert_true(a->n_queries == b->n_queries && a->n_tokens == b->n_tokens && a->n_prompts == b->n_prompts);
    size_t n_layer = (size_t)a->n_layer, n_heads = n_layer * (size_t)a->n_head;
    for (int mode = 0; mode < KVANT_SENSITIVITY_MODES; mode++) {
        assert_true(!a->errors[mode] == !b->errors[mode]);
        if (!a->errors[mode]) continue;
        assert_memory_equal(a->errors[mode], b->errors[mode], n_layer * sizeof *a->errors[mode]);
        assert_memory_equal(a->head_errors[mode], b->head_errors[mode],
                            n_heads * sizeof *a->head_errors[mode]);
    }
    assert_memory_equal(a->heads, b->heads, n_heads * sizeof *a->heads);
}

static void threads_and_company_change_nothing(void **state)
{
    (void)state;
    struct kvant_error err = { 0 };
    struct tiny_gguf_options tiny = {
        .arch = "qwen2", .seed = 4, .n_layer = 3, .head_dim = 32, .key_bias_outlier = 30
    };
    struct kvant_sensitivity_options opt = KVANT_SENSITIVITY_OPTIONS_INIT;
    kvant_token tokens[19 * 90];
    struct kvant_prompt prompts[19];
    make_prompts(tokens, prompts, 19, 90); /* more than are answered together */
    opt.n_predict = 20;
    struct kvant_sensitivity *one, *four, *part;
    struct kvant_model *model = open_tiny(&tiny, 1);
    if (kvant_sensitivity_run(&one, model, prompts, 19, &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    assert_int_equal(one->n_prompts, 19);
    assert_false(one->own_text);
    assert_true(one->n_queries > 0 && one->n_queries <= 19 * 20);
    for (int i = 0; i < 19; i++) {
        assert_int_equal(one->prompts[i].n_prompt, prompts[i].n_tokens);
        assert_true(one->prompts[i].n_queries <= 20);
    }
    for (int mode = 0; mode < 3; mode++)
        for (int layer = 0; layer < 3; layer++) { /* random models, but fewer bits cannot be better by far */
            const struct kvant_sensitivity_errors *e = &one->errors[mode][layer];
            assert_true(e->e_k[0] > e->e_k[1] && e->e_k[1] > e->e_k[2] && e->e_k[2] > e->e_k[3] &&
                        e->e_k[3] > 0);
            assert_true(e->e_v[0] > e->e_v[1] && e->e_v[1] > e->e_v[2] && e->e_v[2] > e->e_v[3] &&
                        e->e_v[3] > 0);
            assert_true(e->e_o[0][0] > e->e_o[3][3] && e->e_o[3][3] > 0 && e->e_a[0] > e->e_a[3]);
        }
    kvant_model_close(model);

    model = open_tiny(&tiny, 4);
    if (kvant_sensitivity_run(&four, model, prompts, 19, &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    assert_same(one, four);
    kvant_sensitivity_close(four);

    /* Two modes without calibration: a run over two prompts is the mean of the runs over each. */
    opt.modes = 1u << KVANT_SENSITIVITY_PER_TOKEN | 1u << KVANT_SENSITIVITY_KIVI;
    struct kvant_sensitivity *both, *first;
    if (kvant_sensitivity_run(&both, model, prompts, 2, &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    if (kvant_sensitivity_run(&first, model, prompts, 1, &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    if (kvant_sensitivity_run(&part, model, prompts + 1, 1, &opt, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    assert_null(both->errors[KVANT_SENSITIVITY_KVANT]);
    for (int layer = 0; layer < 3; layer++)
        for (int i = 0; i < BITS * BITS; i++) {
            double a = first->errors[1][layer].e_o[i / BITS][i % BITS],
                   b = part->errors[1][layer].e_o[i / BITS][i % BITS];
            assert_near(both->errors[1][layer].e_o[i / BITS][i % BITS], (a + b) / 2, 1e-12,
                        "mean over prompts");
        }
    kvant_sensitivity_close(first);
    kvant_sensitivity_close(part);

    /* The table for a search over {2, 4, 8}. */
    static const int bits[] = { 2, 4, 8 };
    double table[3 * 9];
    assert_int_equal(kv_errors_output_table(both, KVANT_SENSITIVITY_KIVI, bits, 3, table, &err), KVANT_OK);
    assert_true(table[2 * 9 + 1 * 3 + 2] == both->errors[KVANT_SENSITIVITY_KIVI][2].e_o[2][3]);
    assert_int_equal(kv_errors_output_table(both, KVANT_SENSITIVITY_KVANT, bits, 3, table, &err),
                     KVANT_ERR_ARGUMENT);
    static const int others[] = { 2, 5 };
    assert_int_equal(kv_errors_output_table(both, KVANT_SENSITIVITY_KIVI, others, 2, table, &err),
                     KVANT_ERR_ARGUMENT);
    kvant_sensitivity_close(both);
    kvant_sensitivity_close(one);
    kvant_model_close(model);
}

/* Rows of a session that is stepped token by token. */
struct stepped {
    float q[64][4][16];
    float k[64][2][16], v[64][2][16];
};
static void keep_row(void *user, int layer, int seq, int64_t position, const float *q, const float *k_raw,
                     const float *k, const float *v)
{
    (void)seq, (void)k_raw;
    struct stepped *s = user;
    if (layer != 1) return;
    memcpy(s->q[position], q, sizeof s->q[position]);
    memcpy(s->k[position], k, sizeof s->k[position]);
    memcpy(s->v[position], v, sizeof s->v[position]);
}

static void capture_is_that_of_generation(void **state)
{
    (void)state;
    struct kvant_error err = { 0 };
    struct tiny_gguf_options tiny = { .arch = "qwen2", .seed = 8 };
    struct kvant_model *model = open_tiny(&tiny, 2);
    kvant_token tokens[40];
    struct kvant_prompt prompt;
    make_prompts(tokens, &prompt, 1, 40);
    struct kv_answers answers;
    struct kv_tune_progress progress = { NULL, NULL, 0, 0, 1, NULL };
    if (kv_answers_open(&answers, model, &prompt, 1, 12, 1 << 20, &progress, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    const struct kv_answered *a = &answers.items[0];
    assert_true(a->n_prompt == 40 && a->n_tokens > 40 && a->n_tokens <= 52);
    assert_int_equal(progress.done, 52);

    struct kv_capturer capturer;
    assert_int_equal(kv_capturer_open(&capturer, model, &answers, &err), KVANT_OK);
    assert_int_equal(kv_capturer_run(&capturer, a, &err), KVANT_OK);

    /* The same by hand: greedy, one token at a time. */
    static struct stepped stepped;
    struct kv_capture capture = { keep_row, &stepped };
    struct kvant_session *session;
    struct kvant_plan *f16;
    int seq;
    assert_int_equal(kvant_session_open(&session, model, NULL, &err), KVANT_OK);
    assert_int_equal(kvant_plan_open(&f16, model, "f16", &err), KVANT_OK);
    assert_int_equal(kvant_sequence_open(session, f16, 64, &seq, &err), KVANT_OK);
    kv_session_set_capture(session, &capture);
    for (int64_t t = 0; t < a->n_tokens; t++) {
        struct kvant_batch_entry entry = { seq, a->tokens[t], true };
        assert_int_equal(kvant_session_step(session, &entry, 1, &err), KVANT_OK);
        const float *logits = kvant_session_logits(session, 0);
        int best = 0;
        for (int i = 1; i < model->n_vocab; i++)
            if (logits[i] > logits[best]) best = i;
        if (t + 1 >= a->n_prompt && t + 1 < a->n_tokens) assert_int_equal(best, a->tokens[t + 1]);
    }
    const struct kv_captured *c = &capturer.rows;
    for (int head = 0; head < 4; head++) {
        const float *q = kv_captured_q(c, 1, head);
        for (int64_t i = 0; i < kv_captured_queries(c); i++)
            for (int k = 0; k < 16; k++)
                assert_true(fabsf(q[i * 16 + k] - stepped.q[40 + i][head][k]) <= 1e-4f);
    }
    for (int head = 0; head < 2; head++)
        for (int64_t t = 0; t < c->n_tokens; t++)
            for (int k = 0; k < 16; k++) {
                size_t at = kv_captured_at(c, 1, head) + (size_t)t * 16 + (size_t)k;
                assert_true(fabsf(kv_f16_to_f32(c->k[at]) - stepped.k[t][head][k]) <=
                            1e-4f + 0x1p-11f * fabsf(stepped.k[t][head][k]));
                assert_true(fabsf(kv_f16_to_f32(c->v[at]) - stepped.v[t][head][k]) <=
                            1e-4f + 0x1p-11f * fabsf(stepped.v[t][head][k]));
            }
    kvant_session_close(session);
    kvant_plan_close(f16);
    kv_capturer_close(&capturer);
    kv_answers_close(&answers);
    kvant_model_close(model);
}

struct watch {
    int64_t last, total;
    int n_calls, stop_after;
};
static bool watch_progress(void *user, const char *what, int64_t done, int64_t total)
{
    struct watch *w = user;
    assert_non_null(what);
    assert_true(done >= w->last && done <= total);
    assert_true(w->total == 0 || w->total == total);
    w->last = done;
    w->total = total;
    return ++w->n_calls != w->stop_after;
}

static void everything_at_once_on_its_own_text(void **state)
{
    (void)state;
    struct kvant_error err = { 0 };
    struct tiny_gguf_options tiny = { .arch = "llama", .seed = 21 };
    struct kvant_model *model = open_tiny(&tiny, 2);
    struct watch watch = { 0, 0, 0, 0 };
    const char *recipes[] = { "k2c64m v16", "k16 v2h" };
    struct kvant_sensitivity_options opt = KVANT_SENSITIVITY_OPTIONS_INIT;
    opt.n_prompts = 3;
    opt.n_predict = 10;
    opt.channels = true;
    opt.kld_recipes = recipes;
    opt.n_kld_recipes = 2;
    opt.progress = watch_progress;
    opt.user = &watch;
    struct kvant_sensitivity *s;
    if (kvant_sensitivity_run(&s, model, NULL, 0, &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    assert_true(s->own_text && s->n_prompts <= 3 && s->n_kld == 2 && s->n_kld_tokens > 68);
    for (int i = 0; i < s->n_layer * 2; i++) assert_true(isfinite(s->kld[i]) && s->kld[i] > 0);
    for (int i = 0; i < s->n_layer * s->n_head_kv * s->head_dim; i++)
        assert_true(isfinite(s->importance[i]) && s->importance[i] > 0);
    for (int i = 0; i < s->n_layer * s->n_head; i++) {
        const struct kvant_sensitivity_head *h = &s->heads[i];
        assert_true(h->entropy > 0 && h->entropy_relative > 0 && h->entropy_relative <= 1);
        assert_true(h->top8 > 0 && h->top8 <= 1 + 1e-6);
    }
    int n_calls = watch.n_calls;
    kvant_sensitivity_close(s);

    for (int stop = 1; stop <= n_calls; stop += 1 + n_calls / 12) { /* wherever it is */
        watch = (struct watch){ 0, 0, 0, stop };
        assert_int_equal(kvant_sensitivity_run(&s, model, NULL, 0, &opt, &err), KVANT_ERR_CANCELLED);
        assert_null(s);
    }
    kvant_model_close(model);
}

static void what_is_refused(void **state)
{
    (void)state;
    struct kvant_error err = { 0 };
    struct tiny_gguf_options tiny = { .arch = "llama", .seed = 2 };
    struct kvant_model *model = open_tiny(&tiny, 1);
    kvant_token tokens[40];
    struct kvant_prompt prompt, empty = { tokens, 0 };
    make_prompts(tokens, &prompt, 1, 40);
    struct kvant_sensitivity *s;
    const char *bad = "k5 v4", *good = "k4 v4";
#define REFUSED(status, prompts, n, ...)                                                                     \
    do {                                                                                                     \
        struct kvant_sensitivity_options opt = KVANT_SENSITIVITY_OPTIONS_INIT;                               \
        __VA_ARGS__;                                                                                         \
        err.message[0] = 0;                                                                                  \
        assert_int_equal(kvant_sensitivity_run(&s, model, prompts, n, &opt, &err), status);                  \
        assert_null(s);                                                                                      \
        assert_true(err.message[0] != 0);                                                                    \
    } while (0)
    REFUSED(KVANT_ERR_ARGUMENT, &prompt, 1, opt.size = 0);
    REFUSED(KVANT_ERR_ARGUMENT, &prompt, 1, opt.modes = 8);
    REFUSED(KVANT_ERR_ARGUMENT, &prompt, 1, opt.n_prompts = -1);
    REFUSED(KVANT_ERR_ARGUMENT, &prompt, 1, opt.n_prompts = 1025);
    REFUSED(KVANT_ERR_ARGUMENT, &prompt, 1, opt.n_predict = -1);
    REFUSED(KVANT_ERR_ARGUMENT, &prompt, 1, opt.n_predict = 4097);
    REFUSED(KVANT_ERR_ARGUMENT, &prompt, 1, opt.n_kld_recipes = 1);
    REFUSED(KVANT_ERR_ARGUMENT, &prompt, 1, opt.n_kld_recipes = 9, opt.kld_recipes = &good);
    REFUSED(KVANT_ERR_FORMAT, &prompt, 1, opt.n_kld_recipes = 1, opt.kld_recipes = &bad);
    assert_non_null(strstr(err.message, "k5 v4"));
    REFUSED(KVANT_ERR_ARGUMENT, &prompt, 0, (void)opt);
    REFUSED(KVANT_ERR_ARGUMENT, &empty, 1, (void)opt);
    /* 40 tokens and 10 more do not calibrate, but measure where nothing is calibrated */
    REFUSED(KVANT_ERR_ARGUMENT, &prompt, 1, opt.n_predict = 10);
    struct kvant_sensitivity_options fine = KVANT_SENSITIVITY_OPTIONS_INIT;
    fine.n_predict = 10;
    fine.modes = 1u << KVANT_SENSITIVITY_PER_TOKEN;
    assert_int_equal(kvant_sensitivity_run(&s, model, &prompt, 1, &fine, &err), KVANT_OK);
    kvant_sensitivity_close(s);
    tokens[5] = 100000;
    REFUSED(KVANT_ERR_ARGUMENT, &prompt, 1, (void)opt);
    assert_non_null(strstr(err.message, "100000"));
    assert_string_equal(kvant_sensitivity_mode_name((kvant_sensitivity_mode)7), "unknown");
    kvant_sensitivity_close(NULL);
    kvant_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_tokens_by_hand),
        cmocka_unit_test(rows_without_a_ratio_are_counted),
        cmocka_unit_test(errors_follow_their_definition),
        cmocka_unit_test(kivi_ends_are_the_closed_forms),
        cmocka_unit_test(threads_and_company_change_nothing),
        cmocka_unit_test(capture_is_that_of_generation),
        cmocka_unit_test(everything_at_once_on_its_own_text),
        cmocka_unit_test(what_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
