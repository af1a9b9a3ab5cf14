/* Channel classes: sums, order, and optimality against every assignment of small heads. And calibration of
 * tiny models: importance against the definition, in double precision from captured queries and keys. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/half.h"
#include "cache/plan_text.h"
#include "run/session.h"
#include "support/scratch.h"
#include "support/tiny_gguf.h"
#include "tune/calibrate.h"

static const double class_error[KV_N_CLASSES] = { .00003, .0085, .039, .135, 1.0 };

static uint64_t rng_state = 5;
static double uniform(void)
{
    rng_state = rng_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (double)(rng_state >> 40) / 16777216.0;
}

static double error_of(const struct kv_channels *c, const double *w, int *bits)
{
    double error = 0.0;
    int at = 0;
    *bits = 0;
    for (int k = 0; k < KV_N_CLASSES; k++) {
        *bits += c->count[k] * kv_class_bits[k];
        for (int i = 0; i < c->count[k]; i++) error += class_error[k] * w[c->order[at++]];
    }
    return error;
}

static void classes_keep_their_average_and_their_order(void **state)
{
    (void)state;
    for (int trial = 0; trial < 300; trial++) {
        int head_dim = 8 * (1 + (int)(uniform() * 32)), quarters = 4 + (int)(uniform() * 29), bits, at = 0;
        double w[KV_HEAD_DIM_MAX];
        for (int i = 0; i < head_dim; i++)
            w[i] = trial % 10 == 0 ? 0.0 : trial % 10 == 1 ? 1.0 : exp(12.0 * uniform());
        struct kv_channels c;
        kv_channels_allocate(&c, w, head_dim, quarters);
        assert_null(kv_channels_problem(&c, head_dim));
        (void)error_of(&c, w, &bits);
        assert_true(4 * bits <= quarters * head_dim);
        /* What is left could not have been used: 4 bits would raise any unit to the next class, 2 any but
         * those of 4 bits, 1 those of 2 and 3 bits. */
        int left = (quarters * (head_dim / 8)) / 4 - bits / 8;
        if (left >= 4) assert_int_equal(c.count[0], head_dim);
        if (left >= 2) assert_int_equal(c.count[0] + c.count[1], head_dim);
        if (left >= 1) assert_int_equal(c.count[2] + c.count[3], 0);
        double least = INFINITY;
        for (int k = 0; k < KV_N_CLASSES; k++) { /* more bits go to the more important channels */
            double largest = 0.0, smallest = INFINITY;
            for (int i = 0; i < c.count[k]; i++, at++) {
                largest = fmax(largest, w[c.order[at]]);
                smallest = fmin(smallest, w[c.order[at]]);
            }
            if (c.count[k]) assert_true(largest <= least);
            if (c.count[k]) least = smallest;
        }
    }
}

static void the_average_is_reached_exactly_where_it_helps(void **state)
{
    (void)state;
    double w[64];
    for (int i = 0; i < 64; i++) w[i] = exp(4.0 * uniform());
    for (int quarters = 8; quarters <= 16; quarters++) {
        struct kv_channels c;
        int bits;
        kv_channels_allocate(&c, w, 64, quarters);
        (void)error_of(&c, w, &bits);
        assert_int_equal(4 * bits, quarters * 64);
    }
    struct kv_channels c;
    kv_channels_allocate(&c, w, 64, 32);
    assert_int_equal(c.count[0], 64);
}

static void no_other_assignment_is_better(void **state)
{
    (void)state;
    for (int trial = 0; trial < 60; trial++) {
        enum { UNITS = 5, DIM = 8 * UNITS };
        double w[DIM];
        for (int i = 0; i < DIM; i++) w[i] = exp(10.0 * uniform());
        int quarters = 4 + (int)(uniform() * 29), bits;
        struct kv_channels c;
        kv_channels_allocate(&c, w, DIM, quarters);
        double found = error_of(&c, w, &bits);

        /* units are the channels in order of importance, eight at a time */
        double sorted[DIM], weight[UNITS] = { 0 };
        memcpy(sorted, w, sizeof w);
        for (int i = 0; i < DIM; i++)
            for (int j = i + 1; j < DIM; j++)
                if (sorted[j] > sorted[i]) {
                    double t = sorted[i];
                    sorted[i] = sorted[j];
                    sorted[j] = t;
                }
        for (int i = 0; i < DIM; i++) weight[i / 8] += sorted[i];
        double best = INFINITY;
        for (int code = 0; code < 3125; code++) {
            double error = 0.0;
            int sum = 0;
            for (int u = 0, rest = code; u < UNITS; u++, rest /= 5) {
                error += class_error[rest % 5] * weight[u];
                sum += kv_class_bits[rest % 5];
            }
            if (4 * sum <= quarters * UNITS) best = fmin(best, error);
        }
        assert_true(fabs(found - best) <= 1e-9 * best);
    }
}

/* ---------------------------------------------------------------------------------------- tiny models -- */

#define TINY_FILE "test_calibrate.gguf"
#define BLOCK 64

static void a_plan_is_calibrated_and_the_mean_is_the_bias(void **state)
{
    (void)state;
    /* key biases of ±50 on weights of unit scale: the mean key before RoPE must be near the bias in those
     * channels */
    struct kvant_error err = { 0 };
    struct tiny_gguf_options opt = { .arch = "qwen2", .seed = 9, .key_bias_outlier = 50 };
    char path[SCRATCH_CAP];
    if (tiny_gguf_write(scratch_path(path, TINY_FILE), &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    struct kvant_model *model;
    if (kvant_model_open(&model, path, NULL, &err) != KVANT_OK) fail_msg("%s", err.message);
    kvant_token tokens[400];
    for (int i = 0; i < 400; i++) tokens[i] = (kvant_token)(uniform() * 250);

    struct kvant_plan *plan, *again;
    assert_int_equal(kvant_plan_open(&plan, model, "k4tm v4h", &err), KVANT_OK);
    assert_true(kvant_plan_needs_calibration(plan));
    assert_int_equal(kvant_plan_calibrate(plan, model, tokens, 50, NULL, NULL, &err), KVANT_ERR_ARGUMENT);
    if (kvant_plan_calibrate(plan, model, tokens, 400, NULL, NULL, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    assert_false(kvant_plan_needs_calibration(plan));
    assert_non_null(plan->center);
    const float *bias = model->layers[0].bk;
    int n_large = 0;
    for (int i = 0; i < plan->n_head_kv * plan->head_dim; i++) {
        float mean = kv_f16_to_f32(plan->center[i]);
        if (fabsf(bias[i]) > 20.0f) {
            n_large++;
            assert_true(fabsf(mean - bias[i]) < 5.0f);
        } else {
            assert_true(fabsf(mean) < 10.0f);
        }
    }
    assert_true(n_large > 0);

    /* Keys per channel: the same mean or none; none where a pair of channels hardly turns in 64 tokens. */
    size_t n_heads = (size_t)plan->n_layer * (size_t)plan->n_head_kv;
    size_t n = n_heads * (size_t)plan->head_dim, n_kept = 0;
    assert_int_equal(kvant_plan_open(&again, model, "k3c64xm v4h", &err), KVANT_OK);
    assert_int_equal(kvant_plan_calibrate(again, model, tokens, 400, NULL, NULL, &err), KVANT_OK);
    for (size_t i = 0; i < n; i++) {
        bool still = BLOCK * model->rope.inv_freq[i % (size_t)(plan->head_dim / 2)] < 0.02f;
        assert_true(again->center[i] == plan->center[i] || again->center[i] == 0);
        assert_false(still && again->center[i]);
        n_kept += again->center[i] != 0;
    }
    assert_true(n_kept > 0 && n_kept < n / 2);
    kvant_plan_close(plan);
    plan = again;
    assert_non_null(plan->channels);

    /* the same again, bit for bit; and what is there is kept */
    assert_int_equal(kvant_plan_open(&again, model, "k3c64xm v4h", &err), KVANT_OK);
    assert_int_equal(kvant_plan_calibrate(again, model, tokens, 400, NULL, NULL, &err), KVANT_OK);
    assert_memory_equal(plan->center, again->center, n_heads * (size_t)plan->head_dim * sizeof *plan->center);
    assert_memory_equal(plan->channels, again->channels, n_heads * sizeof *plan->channels);
    kvant_plan_close(again);

    assert_int_equal(kvant_plan_open(&again, model, "k4c64 v4h", &err), KVANT_OK);
    assert_int_equal(kvant_plan_calibrate(again, model, NULL, 0, NULL, NULL, &err),
                     KVANT_OK); /* nothing to do, nothing written */
    assert_null(again->center);
    kvant_plan_close(again);
    kvant_plan_close(plan);
    kvant_model_close(model);
    unlink(path);
}

/* ---------------------------------------------------------------------------------------- importance -- */

enum { N = 400, LAYERS = 2, HEADS = 4, KV_HEADS = 2, DIM = 16, SINKS = 4 };

struct rows {
    double q[LAYERS][N][HEADS][DIM], k[LAYERS][N][KV_HEADS][DIM];
};

static void keep_rows(void *user, int layer, int seq, int64_t position, const float *q, const float *k_raw,
                      const float *k, const float *v)
{
    (void)seq, (void)k_raw, (void)v;
    struct rows *r = user;
    for (int i = 0; i < HEADS * DIM; i++) r->q[layer][position][i / DIM][i % DIM] = (double)q[i];
    for (int i = 0; i < KV_HEADS * DIM; i++) r->k[layer][position][i / DIM][i % DIM] = (double)k[i];
}

/* Queries and keys of the whole text, straight from a session. */
static void read_rows(struct rows *r, const struct kvant_model *model, const kvant_token *tokens)
{
    struct kvant_plan *f16;
    struct kvant_session *session;
    struct kvant_batch_entry entries[N];
    struct kv_capture capture = { keep_rows, r };
    int seq;
    assert_int_equal(kvant_plan_open(&f16, model, "f16", NULL), KVANT_OK);
    assert_int_equal(kvant_session_open(&session, model, NULL, NULL), KVANT_OK);
    kv_session_set_capture(session, &capture);
    assert_int_equal(kvant_sequence_open(session, f16, N, &seq, NULL), KVANT_OK);
    for (int i = 0; i < N; i++) entries[i] = (struct kvant_batch_entry){ seq, tokens[i], false };
    assert_int_equal(kvant_session_step(session, entries, N, NULL), KVANT_OK);
    kvant_session_close(session);
    kvant_plan_close(f16);
}

/* Channel i of R_t center. */
static double turned(const struct kvant_model *model, const float *center, int t, int i)
{
    int half = DIM / 2, p = i % half;
    double angle = t * (double)model->rope.inv_freq[p], a = (double)center[p], b = (double)center[p + half];
    return i < half ? a * cos(angle) - b * sin(angle) : a * sin(angle) + b * cos(angle);
}

/* A short grid is at least half as wide as it lies from 0. */
static double square_range_of(const struct rows *r, const struct kvant_model *model, int layer, int head_kv,
                              const float *center, int t0, int group, bool is_short, int i)
{
    double low = INFINITY, high = -INFINITY;
    for (int t = t0; t < t0 + group; t++) {
        double x = r->k[layer][t][head_kv][i] - turned(model, center, t, i);
        low = fmin(low, x), high = fmax(high, x);
    }
    double range = high - low;
    if (is_short && range < fabs(high + low) / 4.0) range = fabs(high + low) / 4.0;
    return range * range;
}

/* By the definition: for each query and each block, in the order that the formula has. */
static void expected_importance(const struct rows *r, const struct kvant_model *model, int layer, int head_kv,
                                const float *center, int group, bool is_short, double *out)
{
    double total = 0.0, plain_q[DIM] = { 0 }, plain_range[DIM] = { 0 };
    int n_blocks = (N - SINKS) / group;
    memset(out, 0, DIM * sizeof *out);
    for (int i = 0; i < DIM; i++) {
        for (int s = SINKS; s < N; s++)
            for (int head = head_kv * HEADS / KV_HEADS; head < (head_kv + 1) * HEADS / KV_HEADS; head++)
                plain_q[i] += r->q[layer][s][head][i] * r->q[layer][s][head][i] * KV_HEADS / HEADS /
                              (N - SINKS);
        for (int block = 0; block < n_blocks; block++)
            plain_range[i] += square_range_of(r, model, layer, head_kv, center, SINKS + block * group, group,
                                              is_short, i) / n_blocks;
    }
    for (int s = 0; s < N; s += 2)
        for (int head = head_kv * HEADS / KV_HEADS; head < (head_kv + 1) * HEADS / KV_HEADS; head++) {
            double p[N], sum = 0.0;
            for (int t = 0; t <= s; t++) {
                double score = 0.0;
                for (int i = 0; i < DIM; i++) score += r->q[layer][s][head][i] * r->k[layer][t][head_kv][i];
                sum += p[t] = exp(score / 4.0); /* sqrt(DIM) */
            }
            for (int t0 = SINKS; t0 + group <= N; t0 += group) {
                double w = 0.0;
                for (int t = t0; t < t0 + group; t++) /* by 32 tokens: those that end 64 before the query */
                    if (t0 + ((t - t0) / 32 + 1) * 32 + 64 <= s) w += p[t] / sum * (1.0 - p[t] / sum);
                total += w;
                for (int i = 0; w > 0.0 && i < DIM; i++) {
                    double q = r->q[layer][s][head][i];
                    out[i] += w * q * q *
                              square_range_of(r, model, layer, head_kv, center, t0, group, is_short, i);
                }
            }
        }
    for (int i = 0; i < DIM; i++) out[i] = sqrt(out[i] / total * plain_q[i] * plain_range[i]);
}

static void importance_is_what_the_definition_says(void **state)
{
    (void)state;
    struct kvant_error err = { 0 };
    struct tiny_gguf_options opt = { .arch = "qwen2", .seed = 21, .n_layer = LAYERS, .n_head = HEADS,
                                     .n_head_kv = KV_HEADS, .head_dim = DIM };
    struct kvant_model_options exact = KVANT_MODEL_OPTIONS_INIT;
    char path[SCRATCH_CAP];
    struct kvant_model *model;
    struct kv_calibration c;
    static struct rows rows;
    kvant_token tokens[N];
    exact.act = KVANT_ACT_F32;
    if (tiny_gguf_write(scratch_path(path, TINY_FILE), &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    if (kvant_model_open(&model, path, &exact, &err) != KVANT_OK) fail_msg("%s", err.message);
    unlink(path);
    for (int i = 0; i < N; i++) tokens[i] = (kvant_token)(uniform() * 250);
    if (kv_calibration_open(&c, model, tokens, N, SINKS, NULL, NULL, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(c.chunk_tokens, N);
    read_rows(&rows, model, tokens);
    for (int layer = 0; layer < LAYERS; layer++)
        for (int head = 0; head < KV_HEADS; head++)
            for (int kind = 0; kind < 6; kind++) {
                int group = kind % 2 ? 32 : 64;
                bool is_short = kind >= 2;
                float center[DIM];
                double found[KV_HEAD_DIM_MAX], expected[DIM];
                kv_calibration_center(&c, layer, head, false, center);
                if (kind >= 4) /* a middle far from 0 */
                    for (int i = 0; i < DIM; i++) center[i] += 30.0f;
                kv_calibration_importance(&c, layer, head, center, group, is_short, found);
                expected_importance(&rows, model, layer, head, center, group, is_short, expected);
                for (int i = 0; i < DIM; i++)
                    assert_true(fabs(found[i] - expected[i]) <= 1e-4 * expected[i]);
            }
    kv_calibration_close(&c);

    /* no query looks beyond the tail: all count alike */
    assert_int_equal(kv_calibration_open(&c, model, tokens, 90, SINKS, NULL, NULL, &err), KVANT_OK);
    double found[KV_HEAD_DIM_MAX];
    kv_calibration_importance(&c, 0, 0, NULL, 64, false, found);
    for (int i = 0; i < DIM; i++) {
        double low = INFINITY, high = -INFINITY, square = 0.0;
        for (int t = SINKS; t < SINKS + 64; t++)
            low = fmin(low, rows.k[0][t][0][i]), high = fmax(high, rows.k[0][t][0][i]);
        for (int s = SINKS; s < 90; s++)
            for (int head = 0; head < HEADS / KV_HEADS; head++)
                square += rows.q[0][s][head][i] * rows.q[0][s][head][i] / (HEADS / KV_HEADS) / (90 - SINKS);
        double expected = square * (high - low) * (high - low);
        assert_true(fabs(found[i] - expected) <= 1e-4 * expected);
    }
    kv_calibration_close(&c);
    kvant_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_keep_their_average_and_their_order),
        cmocka_unit_test(the_average_is_reached_exactly_where_it_helps),
        cmocka_unit_test(no_other_assignment_is_better),
        cmocka_unit_test(a_plan_is_calibrated_and_the_mean_is_the_bias),
        cmocka_unit_test(importance_is_what_the_definition_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
