/*
 * The router: a network by hand, training that generalizes, files that come back bit by bit and are refused
 * when a byte is wrong, and a window that follows a sequence as a direct sum does.
 */
#include "read/router.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "support/scratch.h"
#include "support/tiny_gguf.h"

struct fixture {
    struct kvant_model *model, *other;
    struct kvant_model_info info;
};

static struct kvant_model *open_model(const char *name, uint64_t seed)
{
    struct tiny_gguf_options opt = {
        .arch = "qwen2", .weight_type = TINY_F32, .seed = seed, .n_head_kv = 1, .head_dim = 8, .n_layer = 3
    };
    struct kvant_model *model = NULL;
    char path[SCRATCH_CAP];
    if (tiny_gguf_write(scratch_path(path, name), &opt, NULL) != KVANT_OK) return NULL;
    return kvant_model_open(&model, path, NULL, NULL) == KVANT_OK ? model : NULL;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->model = open_model("test_router.gguf", 3);
    f->other = open_model("test_router_other.gguf", 4);
    if (!f->model || !f->other) return -1;
    kvant_model_get_info(f->model, &f->info);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kvant_model_close(f->model);
    kvant_model_close(f->other);
    free(f);
    return 0;
}

/* Two inputs, two hidden units: x' = (x − (1, 2)) · (2, 1/2); h = relu((1, 2; −1, 1) x' + (1, −1));
 * d = (10, 4) h + 30.
 * x = (2, 4): x' = (2, 1): h = relu(5, −2) = (5, 0): d = 80. x = (0, 8): x' = (−2, 3): h = (5, 4): d = 96. */
static void a_network_by_hand(void **state)
{
    (void)state;
    struct kvant_router *r;
    assert_int_equal(kv_router_alloc(&r, 2, 2, NULL), KVANT_OK);
    memcpy(r->mean, (float[]){ 1, 2 }, 8);
    memcpy(r->inverse, (float[]){ 2, 0.5f }, 8);
    memcpy(r->w1, (float[]){ 1, 2, -1, 1 }, 16);
    memcpy(r->b1, (float[]){ 1, -1 }, 8);
    memcpy(r->w2, (float[]){ 10, 4 }, 8);
    r->b2 = 30;
    assert_true(fabs(kvant_router_score(r, (float[]){ 2, 4 }) - 80) < 1e-9);
    assert_true(fabs(kvant_router_score(r, (float[]){ 0, 8 }) - 96) < 1e-9);
    assert_true(isnan(kvant_router_score(r, (float[]){ NAN, 8 })));
    r->b2 = 500; /* far outside 0 .. 100: not clamped */
    assert_true(kvant_router_score(r, (float[]){ 2, 4 }) > 500);
    kvant_router_close(r);
}

enum { N = 600, DIM = 16 };

struct data {
    float x[N * DIM], label[N];
    uint8_t split[N];
};

/* Label 100 inside a ring of two inputs, else 0: no line tells them apart. The rest is noise. */
static void make_data(struct data *d)
{
    uint32_t s = 17;
    for (int i = 0; i < N; i++) {
        for (int c = 0; c < DIM; c++)
            d->x[i * DIM + c] = 100.0f * (float)c +
                                (float)((s = s * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
        float a = d->x[i * DIM + 2] - 200.0f, b = d->x[i * DIM + 5] - 500.0f;
        d->label[i] = a * a + b * b < 0.64f ? 100.0f : 0.0f;
        d->split[i] = i % 10 == 0  ? KVANT_ROUTER_VALIDATION
                      : i % 10 < 3 ? KVANT_ROUTER_TEST
                                   : KVANT_ROUTER_TRAIN;
    }
}

static struct kvant_router *train(const struct fixture *f, const struct data *d)
{
    struct kvant_router_options opt = KVANT_ROUTER_OPTIONS_INIT;
    struct kvant_router_training report;
    struct kvant_router *r;
    struct kvant_error err = { .message = "" };
    opt.window = 5;
    opt.n_hidden = 64;
    opt.pooling.layer_first = -2;
    opt.modes = "steps";
    kvant_status status = kvant_router_train(&r, f->model, d->x, d->label, d->split, N, &opt, &report, &err);
    if (status != KVANT_OK) fail_msg("%s", err.message);
    assert_true(report.best_epoch > 0 && report.n_epochs >= report.best_epoch);
    assert_true(report.validation_error < report.validation_error_of_mean);
    double mean = 0, error = 0; /* by hand: the training split's mean label, on the validation split */
    int n[2] = { 0 };
    for (int i = 0; i < N; i++)
        if (d->split[i] == KVANT_ROUTER_TRAIN) mean += (double)d->label[i], n[0]++;
    mean /= n[0];
    for (int i = 0; i < N; i++)
        if (d->split[i] == KVANT_ROUTER_VALIDATION)
            error += ((double)d->label[i] - mean) * ((double)d->label[i] - mean), n[1]++;
    assert_true(fabs(report.validation_error_of_mean - error / n[1]) < 1e-6 * error);
    return r;
}

static void training_generalizes_and_repeats(void **state)
{
    struct fixture *f = *state;
    struct data *d = malloc(sizeof *d);
    make_data(d);
    assert_int_equal(2 * f->info.n_head_kv * f->info.head_dim, DIM);
    struct kvant_router *r = train(f, d), *again = train(f, d);
    int n = 0, right = 0;
    for (int i = 0; i < N; i++) {
        double score = kvant_router_score(r, d->x + i * DIM);
        assert_true(score == kvant_router_score(again, d->x + i * DIM));
        if (d->split[i] != KVANT_ROUTER_TEST) continue;
        n++;
        right += (score > 50) == (d->label[i] > 50);
    }
    assert_true(right >= n * 85 / 100); /* half of them are of either kind */
    struct kvant_router_info info;
    kvant_router_get_info(r, &info);
    assert_int_equal(info.layer_first, 1);
    assert_int_equal(info.n_layers, 2);
    assert_string_equal(info.modes, "steps");
    kvant_router_close(r);
    kvant_router_close(again);
    free(d);
}

/* Few questions, many inputs, and labels that follow from nothing: training begins with the mean label
 * itself, so what is kept cannot be worse. (It began with random outputs once, and few questions never made
 * up for them.) */
static void noise_is_never_worse_than_the_mean(void **state)
{
    struct fixture *f = *state;
    struct data *d = malloc(sizeof *d);
    struct kvant_router_options opt = KVANT_ROUTER_OPTIONS_INIT;
    struct kvant_router_training report;
    struct kvant_router *r;
    struct kvant_error err = { .message = "" };
    make_data(d);
    for (int i = 0; i < N; i++) d->label[i] = (float)(i * 7919 % 101);
    opt.window = 5;
    opt.pooling.layer_first = -2;
    kvant_status status = kvant_router_train(&r, f->model, d->x, d->label, d->split, 40, &opt, &report, &err);
    if (status != KVANT_OK) fail_msg("%s", err.message);
    assert_true(report.validation_error <= report.validation_error_of_mean * (1 + 1e-5));
    double d0 = kvant_router_score(r, d->x);
    kvant_router_add(r, -12.5);
    assert_true(fabs(kvant_router_score(r, d->x) - (d0 - 12.5)) < 1e-4);
    kvant_router_close(r);
    free(d);
}

/* The standardized inputs of the questions that a line learns from, divided by sqrt(DIM), in double; their
 * labels less the mean. */
struct line {
    double z[N][DIM], y[N], mean;
    int n;
};

static void make_line(struct line *l, const struct data *d, int n)
{
    int rows[N];
    *l = (struct line){ .n = 0 };
    for (int i = 0; i < n; i++)
        if (d->split[i] != KVANT_ROUTER_TEST) rows[l->n++] = i;
    for (int i = 0; i < l->n; i++) l->mean += (double)d->label[rows[i]] / l->n;
    for (int i = 0; i < l->n; i++) l->y[i] = (double)d->label[rows[i]] - l->mean;
    for (int c = 0; c < DIM; c++) {
        double mean = 0, square = 0;
        for (int i = 0; i < l->n; i++) mean += (double)d->x[rows[i] * DIM + c] / l->n;
        for (int i = 0; i < l->n; i++) square += pow((double)d->x[rows[i] * DIM + c] - mean, 2) / l->n;
        for (int i = 0; i < l->n; i++)
            l->z[i][c] = ((double)d->x[rows[i] * DIM + c] - mean) / sqrt(square * DIM);
    }
}

/* (Z'Z + s) b = Z'y without question `without` (-1: with all), the intercept free: by elimination in DIM +
 * 1 unknowns. */
static void fit_line(const struct line *l, double s, int without, double b[DIM + 1])
{
    double a[DIM + 1][DIM + 2] = { { 0 } };
    for (int i = 0; i < l->n; i++) {
        if (i == without) continue;
        for (int c = 0; c <= DIM; c++) {
            double x = c < DIM ? l->z[i][c] : 1;
            for (int k = 0; k <= DIM; k++) a[c][k] += x * (k < DIM ? l->z[i][k] : 1);
            a[c][DIM + 1] += x * l->y[i];
        }
    }
    for (int c = 0; c < DIM; c++) a[c][c] += s;
    for (int c = 0; c <= DIM; c++)
        for (int r = 0; r <= DIM; r++) {
            if (r == c) continue;
            double f = a[r][c] / a[c][c];
            for (int k = c; k <= DIM + 1; k++) a[r][k] -= f * a[c][k];
        }
    for (int c = 0; c <= DIM; c++) b[c] = a[c][DIM + 1] / a[c][c];
}

/* Of n questions, more or fewer than inputs: the penalty, both errors and each d, computed once more,
 * question by question. */
static void check_line(const struct fixture *f, const struct data *d, int n)
{
    static const double penalties[] = { 0.1, 0.316, 1, 3.16, 10, 31.6, 100 };
    struct kvant_router_options opt = KVANT_ROUTER_OPTIONS_INIT;
    struct kvant_router_training report;
    struct kvant_router *r;
    struct kvant_error err = { .message = "" };
    struct line *l = malloc(sizeof *l);
    double b[DIM + 1], least = INFINITY, penalty = 0, mean_alone = 0;
    make_line(l, d, n);
    opt.pooling.layer_first = -2;
    opt.method = KVANT_ROUTER_RIDGE;
    kvant_status status = kvant_router_train(&r, f->model, d->x, d->label, d->split, (size_t)n, &opt, &report,
                                             &err);
    if (status != KVANT_OK) fail_msg("%s", err.message);
    for (size_t p = 0; p < sizeof penalties / sizeof *penalties; p++) {
        double error = 0;
        for (int i = 0; i < l->n; i++) {
            fit_line(l, penalties[p], i, b);
            double e = l->y[i] - b[DIM];
            for (int c = 0; c < DIM; c++) e -= l->z[i][c] * b[c];
            error += e * e / l->n;
        }
        if (error < least) least = error, penalty = penalties[p];
    }
    assert_true(report.penalty == penalty);
    assert_true(fabs(report.validation_error - least) < 1e-5 * least);
    double error = 0;
    fit_line(l, penalty, -1, b);
    for (int i = 0, k = 0; i < n; i++) {
        if (d->split[i] == KVANT_ROUTER_TEST) continue;
        double y = l->mean + b[DIM];
        for (int c = 0; c < DIM; c++) y += l->z[k][c] * b[c];
        if (!(fabs(kvant_router_score(r, d->x + i * DIM) - y) < 2e-3))
            fail_msg("question %d: %g, not %g", i, kvant_router_score(r, d->x + i * DIM), y);
        error += pow(y - (double)d->label[i], 2) / l->n;
        mean_alone += pow(l->y[k++] * l->n / (l->n - 1), 2) / l->n;
    }
    assert_true(fabs(report.train_error - error) < 1e-5 * error);
    assert_true(fabs(report.validation_error_of_mean - mean_alone) < 1e-9 * mean_alone);
    kvant_router_close(r);
    free(l);
}

static void a_line_is_what_it_says(void **state)
{
    struct data *d = malloc(sizeof *d);
    make_data(d);
    for (int i = 0; i < N * DIM; i++)
        d->x[i] -= 100.0f * (float)(i % DIM); /* means near 0, so that float32 holds them */
    for (int i = 0; i < N; i++) /* something to learn, and noise */
        d->label[i] = 50 + 20 * d->x[i * DIM + 2] + 10 * d->x[i * DIM + 9] + (float)(i * 7919 % 41 - 20);
    check_line(*state, d, 200);
    check_line(*state, d, 18); /* 14 questions, 16 inputs */
    free(d);
}

static void training_refuses(void **state)
{
    struct fixture *f = *state;
    struct data *d = malloc(sizeof *d);
    struct kvant_router_options opt = KVANT_ROUTER_OPTIONS_INIT;
    struct kvant_router_training report;
    struct kvant_router *r;
    struct kvant_error err;
    make_data(d);
    d->x[7 * DIM + 3] = NAN;
    assert_int_equal(kvant_router_train(&r, f->model, d->x, d->label, d->split, N, &opt, &report, &err),
                     KVANT_ERR_NUMERIC);
    assert_int_equal(err.position, 7);
    assert_string_equal(err.message, "feature 3 of question 8 is not a finite number");
    assert_null(r);
    d->x[0] = NAN; /* without options the defaults' */
    assert_int_equal(kvant_router_train(&r, f->model, d->x, d->label, d->split, N, NULL, &report, &err),
                     KVANT_ERR_NUMERIC);
    assert_int_equal(err.position, 0);
    make_data(d);
    d->label[9] = 101;
    assert_int_equal(kvant_router_train(&r, f->model, d->x, d->label, d->split, N, &opt, &report, &err),
                     KVANT_ERR_ARGUMENT);
    assert_int_equal(err.position, 9);
    make_data(d);
    opt.window = 0;
    assert_int_equal(kvant_router_train(&r, f->model, d->x, d->label, d->split, N, &opt, &report, &err),
                     KVANT_ERR_ARGUMENT);
    opt.window = 5;
    opt.modes = "two words";
    assert_int_equal(kvant_router_train(&r, f->model, d->x, d->label, d->split, N, &opt, &report, &err),
                     KVANT_ERR_ARGUMENT);
    opt.modes = NULL;
    opt.method = (kvant_router_method)2;
    assert_int_equal(kvant_router_train(&r, f->model, d->x, d->label, d->split, N, &opt, &report, &err),
                     KVANT_ERR_ARGUMENT);
    opt.method = KVANT_ROUTER_NETWORK;
    assert_int_equal(kvant_router_train(&r, f->model, d->x, d->label, d->split, 8, &opt, &report, &err),
                     KVANT_ERR_ARGUMENT);
    free(d);
}

static void write_file(const char *path, const uint8_t *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    fclose(file);
}

/* Every byte of a file counts; a file that is cut anywhere is refused; and so is another model. */
static void files_come_back_or_are_refused(void **state)
{
    struct fixture *f = *state;
    struct data *d = malloc(sizeof *d);
    char path[SCRATCH_CAP];
    struct kvant_error err;
    make_data(d);
    struct kvant_router *r = train(f, d), *again;
    assert_int_equal(kvant_router_save(r, scratch_path(path, "test_router.kvrouter"), NULL), KVANT_OK);
    assert_int_equal(kvant_router_open(&again, f->model, path, NULL), KVANT_OK);
    for (int i = 0; i < N; i++)
        assert_true(kvant_router_score(r, d->x + i * DIM) == kvant_router_score(again, d->x + i * DIM));
    kvant_router_close(again);
    assert_int_equal(kvant_router_open(&again, f->other, path, &err), KVANT_ERR_MISMATCH);
    assert_null(again);
    assert_non_null(strstr(err.message, "another model"));

    uint8_t *data;
    size_t n;
    assert_int_equal(kv_router_write(r, &data, &n, NULL), KVANT_OK);
    for (size_t i = 0; i < n; i += i < 200 ? 1 : 37) {
        data[i] ^= 0x40;
        assert_true(kv_router_parse(&again, data, n, &err) != KVANT_OK);
        assert_null(again);
        data[i] ^= 0x40;
    }
    for (size_t i = 0; i < n; i += i < 200 ? 1 : 101)
        assert_true(kv_router_parse(&again, data, i, &err) != KVANT_OK);
    assert_int_equal(kv_router_parse(&again, data, n, NULL), KVANT_OK);
    kvant_router_close(again);
    data[0] = 'K';
    write_file(path, data, n);
    assert_int_equal(kvant_router_open(&again, f->model, path, &err), KVANT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "test_router.kvrouter: router: not a router file"));
    kv_free(data);
    kvant_router_close(r);
    free(d);
}

static kvant_status reopened(struct fixture *f, struct kvant_router *r, struct kvant_error *err)
{
    char path[SCRATCH_CAP];
    struct kvant_router *again;
    assert_int_equal(kvant_router_save(r, scratch_path(path, "test_router_poked.kvrouter"), NULL), KVANT_OK);
    kvant_status status = kvant_router_open(&again, f->model, path, err);
    kvant_router_close(again);
    return status;
}

/* Files whose checksum is right and whose content is not: numbers that are none, and the layers of another
 * model under this one's fingerprint. */
static void sound_files_of_nonsense_are_refused(void **state)
{
    struct fixture *f = *state;
    struct data *d = malloc(sizeof *d);
    struct kvant_error err;
    make_data(d);
    struct kvant_router *r = train(f, d);
    float *const numbers[] = { r->mean, r->inverse, r->w1 + DIM + 3, r->b1 + 63, r->w2, &r->b2 };
    static const char *const names[] = { "mean",       "scale",         "first weight",
                                         "first bias", "second weight", "second bias" };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        float kept = *numbers[i];
        *numbers[i] = i % 2 ? INFINITY : NAN;
        assert_int_equal(reopened(f, r, &err), KVANT_ERR_FORMAT);
        if (!strstr(err.message, names[i])) fail_msg("no %s in: %s", names[i], err.message);
        *numbers[i] = kept;
        assert_int_equal(reopened(f, r, &err), KVANT_OK);
    }
    r->model_layers++;
    assert_int_equal(reopened(f, r, &err), KVANT_ERR_MISMATCH);
    assert_non_null(strstr(err.message, "4 layers of 1 KV heads; this one is"));
    r->model_layers--;
    r->layer_first = 2; /* two layers from the third of three on */
    assert_int_equal(reopened(f, r, &err), KVANT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "number of layers is 2"));
    kvant_router_close(r);
    free(d);
}

/* The window after each token, in steps of any length and after truncation, against kvant_embed_sequence. */
static void a_window_follows_its_sequence(void **state)
{
    struct fixture *f = *state;
    struct data *d = malloc(sizeof *d);
    make_data(d);
    struct kvant_router *r = train(f, d);
    struct kvant_session *session;
    struct kvant_plan *plan;
    struct kvant_router_watch *watch;
    struct kvant_embed_options opt;
    int seq;
    kvant_router_get_embed_options(r, &opt);
    assert_int_equal(kvant_plan_open(&plan, f->model, "f16", NULL), KVANT_OK);
    assert_int_equal(kvant_session_open(&session, f->model, NULL, NULL), KVANT_OK);
    assert_int_equal(kvant_sequence_open(session, plan, 200, &seq, NULL), KVANT_OK);
    assert_int_equal(kvant_router_watch_open(&watch, r, session, seq, NULL), KVANT_OK);
    double score;
    int64_t n_window, n = 0;
    assert_int_equal(kvant_router_watch_next(watch, &score, &n_window, NULL), KVANT_ERR_ARGUMENT);
    static const int steps[] = { 1, 1, 3, 1, 20, 1, -4, 1, 1, -12, 2, 100, -50, 1, 1, 1, 1, 1, 1 };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct kvant_batch_entry entries[100];
        for (int k = 0; k < steps[i]; k++)
            entries[k] = (struct kvant_batch_entry){ seq, (kvant_token)((n + k) * 7 % 250), false };
        if (steps[i] < 0)
            assert_int_equal(kvant_sequence_truncate(session, seq, n + steps[i], NULL), KVANT_OK);
        else assert_int_equal(kvant_session_step(session, entries, (size_t)steps[i], NULL), KVANT_OK);
        n += steps[i];
        float x[DIM];
        size_t n_out;
        assert_int_equal(kvant_router_watch_next(watch, &score, &n_window, NULL), KVANT_OK);
        assert_int_equal(n_window, n < 5 ? n : 5);
        assert_int_equal(kvant_embed_sequence(session, seq, &opt, x, DIM, &n_out, NULL), KVANT_OK);
        double direct = kvant_router_score(r, x);
        if (!(fabs(score - direct) <= 1e-3 * (fabs(direct) + 1)))
            fail_msg("after step %zu: %.9g, not %.9g", i, score, direct);
    }
    kvant_router_watch_close(watch);
    kvant_session_close(session);
    kvant_plan_close(plan);
    kvant_router_close(r);
    free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_network_by_hand),
        cmocka_unit_test(training_generalizes_and_repeats),
        cmocka_unit_test(noise_is_never_worse_than_the_mean),
        cmocka_unit_test(a_line_is_what_it_says),
        cmocka_unit_test(training_refuses),
        cmocka_unit_test(files_come_back_or_are_refused),
        cmocka_unit_test(sound_files_of_nonsense_are_refused),
        cmocka_unit_test(a_window_follows_its_sequence),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
