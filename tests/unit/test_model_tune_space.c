/*
 * A model small enough to enumerate: every plan of the tuner's own choices, one recipe a layer, is measured,
 * and the front that the search finds from single heads is held against the front of all of them.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "support/scratch.h"
#include "support/spearman.h"
#include "support/tiny_gguf.h"
#include "tune/front.h"
#include "tune/search.h"

#define N_TOKENS 256
#define SINKS 4

struct space {
    struct kvant_model *model;
    kvant_token tokens[N_TOKENS];
    struct kv_calibration calibration;
    struct kv_trials *trials;
    struct kv_measure measure;
    struct kv_tune_progress progress;
    struct kv_sensitivity sensitivity;
    struct kv_search search;
    int n_keys, n_values, n_plans;
    double *kld, *predicted, *bits; /* (n_plans) */
};

static void check(kvant_status status, const struct kvant_error *err)
{
    if (status != KVANT_OK) fail_msg("%s", err->message);
}

static void open_space(struct space *s, bool mixed, uint64_t seed)
{
    char path[SCRATCH_CAP];
    struct kvant_error err = { 0 };
    struct tiny_gguf_options opt = { .arch = "qwen2", .seed = seed, .key_bias_outlier = 30 };
    memset(s, 0, sizeof *s);
    check(tiny_gguf_write(scratch_path(path, "test_model_tune_space.gguf"), &opt, &err), &err);
    check(kvant_model_open(&s->model, path, NULL, &err), &err);
    unlink(path);
    for (int i = 0; i < N_TOKENS; i++) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        s->tokens[i] = (kvant_token)((seed >> 33) % 250);
    }
    const struct kv_study study = { "tiny", "test", "test", "test" };
    check(kv_trials_open(&s->trials, NULL, &study, false, &err), &err);
    check(kv_calibration_open(&s->calibration, s->model, s->tokens, N_TOKENS, SINKS, NULL, NULL, &err), &err);
    kv_measure_set(&s->measure, s->model, s->tokens, N_TOKENS, N_TOKENS, false, s->trials, &s->progress);
    check(kv_sensitivity_open(&s->sensitivity, &s->measure, &s->calibration, mixed, false, &err), &err);
    check(kv_search_open(&s->search, s->model, &s->calibration, &s->sensitivity, true, 32, 16.0, &err), &err);
}

static void close_space(struct space *s)
{
    kv_search_close(&s->search);
    kv_sensitivity_close(&s->sensitivity);
    kv_calibration_close(&s->calibration);
    kv_trials_close(s->trials);
    kvant_model_close(s->model);
    free(s->kld);
    free(s->predicted);
    free(s->bits);
}

/* Choices of plan i: items are (layer, side), keys first. */
static void choices_of(const struct space *s, int i, int *choice)
{
    for (int item = 0; item < s->search.n_items; item++) {
        int n = item % 2 ? s->n_values : s->n_keys;
        choice[item] = i % n;
        i /= n;
    }
}

static double predicted_of(const struct space *s, const int *choice)
{
    double sum = 0.0;
    for (int item = 0; item < s->search.n_items; item++)
        for (int head = 0; head < s->search.n_head_kv; head++) {
            int side = item % 2 ? KV_SIDE_VALUE : KV_SIDE_KEY;
            sum += kv_sensitivity_at(&s->sensitivity, side, item / 2, head)[choice[item]];
        }
    return sum;
}

static void measure_all(struct space *s)
{
    struct kvant_error err = { 0 };
    s->n_keys = s->sensitivity.n_choices[KV_SIDE_KEY];
    s->n_values = s->sensitivity.n_choices[KV_SIDE_VALUE];
    assert_int_equal(s->search.n_items, 4);
    s->n_plans = s->n_keys * s->n_values * s->n_keys * s->n_values;
    size_t n = (size_t)s->n_plans;
    s->kld = calloc(n, sizeof *s->kld);
    s->predicted = calloc(n, sizeof *s->predicted);
    s->bits = calloc(n, sizeof *s->bits);
    assert_true(s->kld && s->predicted && s->bits);
    for (int first = 0; first < s->n_plans; first += KV_MEASURE_BATCH) {
        struct kvant_plan *plans[KV_MEASURE_BATCH];
        struct kvant_eval_result results[KV_MEASURE_BATCH];
        int n_batch = s->n_plans - first < KV_MEASURE_BATCH ? s->n_plans - first : KV_MEASURE_BATCH;
        int choice[4];
        for (int i = 0; i < n_batch; i++) {
            choices_of(s, first + i, choice);
            check(kv_search_plan(&s->search, choice, &plans[i], &err), &err);
            s->predicted[first + i] = predicted_of(s, choice);
        }
        check(kv_measure_plans(&s->measure, plans, n_batch, results, &err), &err);
        for (int i = 0; i < n_batch; i++) {
            s->kld[first + i] = results[i].kld_mean;
            s->bits[first + i] = results[i].page_bits;
            kvant_plan_close(plans[i]);
        }
    }
}

/* Plans that the search chooses at some budget, by number: how many. */
static int choose_all(const struct space *s, int found[256])
{
    int n = 0, choice[4];
    double predicted;
    for (double budget = 1.0; budget < 9.0 && n < 256; budget += 1.0 / 32) {
        if (!kv_search_choose(&s->search, budget, choice, &predicted)) continue;
        int i = 0;
        for (int item = s->search.n_items - 1; item >= 0; item--)
            i = i * (item % 2 ? s->n_values : s->n_keys) + choice[item];
        if (n == 0 || found[n - 1] != i) found[n++] = i;
    }
    return n;
}

/* Of n plans (NULL: of all), to the worst KLD and the most bits. in_log: of log KLD. */
static double hypervolume(const struct space *s, const int *plans, int n, bool in_log)
{
    struct kv_scored *scored = calloc((size_t)n, sizeof *scored);
    double worst_kld = 0.0, worst_bits = 0.0;
    assert_non_null(scored);
    for (int i = 0; i < s->n_plans; i++) {
        worst_kld = fmax(worst_kld, s->kld[i]);
        worst_bits = fmax(worst_bits, s->bits[i]);
    }
    for (int i = 0; i < n; i++) {
        int plan = plans ? plans[i] : i;
        scored[i] = (struct kv_scored){ .error = in_log ? log(s->kld[plan]) : s->kld[plan],
                                        .bits = s->bits[plan], .tag = i };
    }
    double volume = kv_front_hypervolume(scored, n, in_log ? log(worst_kld) : worst_kld, worst_bits);
    free(scored);
    return volume;
}

static void the_search_finds_the_front_of_all_plans(void **state)
{
    (void)state;
    for (int mixed = 0; mixed < 2; mixed++) {
        struct space s;
        open_space(&s, mixed, 4 + (uint64_t)mixed);
        measure_all(&s);
        int found[256], n_found = choose_all(&s, found);
        double part = hypervolume(&s, found, n_found, false) / hypervolume(&s, NULL, s.n_plans, false);
        double log_part = hypervolume(&s, found, n_found, true) / hypervolume(&s, NULL, s.n_plans, true);
        double correlation = check_spearman(s.predicted, s.kld, s.n_plans);
        print_message("%s: %d plans, %d chosen, hypervolume %.4f of all (of log KLD %.4f), "
                      "rank correlation %.4f\n",
                      mixed ? "mixed" : "unmixed", s.n_plans, n_found, part, log_part, correlation);
        assert_true(part >= 0.99 && log_part >= 0.95);
        assert_true(correlation >= 0.9);
        close_space(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(the_search_finds_the_front_of_all_plans) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
