/* Tuning and evaluation on SmolLM2, small settings; and the whole of tuning on a tiny model. */
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

#include "kvant.h"
#include "support/scratch.h"
#include "support/tiny_gguf.h"

#define TINY_FILE "test_model_tune.gguf"

static struct kvant_model *open_tiny(void)
{
    char path[SCRATCH_CAP];
    struct kvant_error err = { 0 };
    struct tiny_gguf_options opt = { .arch = "qwen2", .seed = 4, .key_bias_outlier = 30 };
    struct kvant_model *model;
    if (tiny_gguf_write(scratch_path(path, TINY_FILE), &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    if (kvant_model_open(&model, path, NULL, &err) != KVANT_OK) fail_msg("%s", err.message);
    unlink(path);
    return model;
}

static struct kvant_model *open_smollm2(kvant_act act)
{
    const char *models = getenv("KVANT_MODELS");
    char path[512];
    snprintf(path, sizeof path, "%s/SmolLM2-135M-Instruct.Q4_1.gguf", models ? models : "models");
    if (access(path, R_OK) != 0) return NULL;
    struct kvant_error err = { 0 };
    struct kvant_model_options opt = KVANT_MODEL_OPTIONS_INIT;
    opt.act = act;
    struct kvant_model *model;
    if (kvant_model_open(&model, path, &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    return model;
}

struct watch {
    int64_t last, total;
    int n_calls, stop_after;
};
static bool watch_progress(void *user, const char *what, int64_t done, int64_t total)
{
    struct watch *w = user;
    assert_non_null(what);
    assert_true(done >= w->last && done <= total); /* forwards only */
    assert_true(w->total == 0 || w->total == total); /* known from the start */
    w->last = done;
    w->total = total;
    return ++w->n_calls != w->stop_after;
}

static void random_tokens(kvant_token *tokens, int n)
{
    uint64_t seed = 77;
    for (int i = 0; i < n; i++) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        tokens[i] = (kvant_token)((seed >> 33) % 250);
    }
}

static void tuning_ends_with_a_menu(void **state)
{
    (void)state;
    struct kvant_model *model = open_tiny();
    struct kvant_error err = { 0 };
    kvant_token tokens[400];
    random_tokens(tokens, 400);
    for (int no_mix = 0; no_mix < 2; no_mix++) {
        struct watch watch = { 0, 0, 0, 0 };
        struct kvant_tune_options opt = KVANT_TUNE_OPTIONS_INIT;
        const double budgets[] = { 3, 4, 8 };
        opt.budgets = budgets;
        opt.n_budgets = 3;
        opt.n_tokens = 128;
        opt.no_mix = no_mix;
        opt.progress = watch_progress;
        opt.user = &watch;
        struct kvant_tune_point points[32];
        size_t n;
        assert_int_equal(kvant_tune_run(model, tokens, 400, &opt, points, 3, &n, &err), KVANT_ERR_SPACE);
        assert_int_equal(n, 19);
        if (kvant_tune_run(model, tokens, 400, &opt, points, 32, &n, &err) != KVANT_OK) fail_msg("%s", err.message);
        assert_true(n >= 5 && n <= 19);
        int n_tuned = 0;
        double best = INFINITY;
        for (size_t i = 0; i < n; i++) {
            const struct kvant_tune_point *p = &points[i];
            assert_false(kvant_plan_needs_calibration(p->plan));
            assert_true(isfinite(p->measured.kld_mean) && p->measured.n_scored == 271);
            if (i) assert_true(p->measured.true_bits >= points[i - 1].measured.true_bits);
            assert_true(p->dominated == (i > 0 && p->measured.kld_mean >= best));
            best = fmin(best, p->measured.kld_mean);
            if (!p->uniform) assert_true(isfinite(p->kld_predicted) && p->measured.page_bits <= 8);
            n_tuned += isfinite(p->kld_predicted);
            kvant_plan_close(points[i].plan);
        }
        assert_true(n_tuned >= 1);
        assert_true(watch.n_calls > 0 && watch.total > 0);

        watch = (struct watch){ 0, 0, 0, 3 };
        assert_int_equal(kvant_tune_run(model, tokens, 400, &opt, points, 32, &n, &err), KVANT_ERR_CANCELLED);
        assert_int_equal(n, 0);
    }
    struct kvant_tune_point points[32];
    size_t n;
    assert_int_equal(kvant_tune_run(model, tokens, 60, NULL, points, 32, &n, &err), KVANT_ERR_ARGUMENT);
    kvant_model_close(model);
}

static void evaluation_does_not_depend_on_its_company(void **state)
{
    (void)state;
    struct kvant_model *model = open_tiny();
    struct kvant_error err = { 0 };
    kvant_token tokens[300];
    random_tokens(tokens, 300);
    struct kvant_plan *plans[3];
    assert_int_equal(kvant_plan_open(&plans[0], model, "f16", &err), KVANT_OK);
    assert_int_equal(kvant_plan_open(&plans[1], model, "k2tv2;sinks=0;tail=0", &err), KVANT_OK);
    assert_int_equal(kvant_plan_open(&plans[2], model, "k4c64v4h", &err), KVANT_OK);
    struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    opt.n_ctx = 128; /* chunks of 128, 128 and 44 */
    struct kvant_eval_result all[3], one, base;
    if (kvant_eval_run(model, (const struct kvant_plan *const *)plans, 3, tokens, 300, &opt, all, &base, &err) !=
        KVANT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(base.n_scored, 297);
    assert_true(all[0].kld_max == 0.0 && all[0].same_top_p == 100.0 && all[0].ppl == base.ppl);
    assert_true(all[1].kld_mean > all[2].kld_mean && all[2].kld_mean > 0.0);
    for (int i = 0; i < 3; i++) {
        const struct kvant_plan *plan = plans[i];
        assert_int_equal(kvant_eval_run(model, &plan, 1, tokens, 300, &opt, &one, NULL, &err), KVANT_OK);
        assert_memory_equal(&one, &all[i], sizeof one);
    }
    opt.n_chunks = 1;
    assert_int_equal(kvant_eval_run(model, NULL, 0, tokens, 300, &opt, NULL, &base, &err), KVANT_OK);
    assert_int_equal(base.n_scored, 127);
    tokens[5] = 100000;
    assert_int_equal(kvant_eval_run(model, NULL, 0, tokens, 300, &opt, NULL, &base, &err), KVANT_ERR_ARGUMENT);
    for (int i = 0; i < 3; i++) kvant_plan_close(plans[i]);
    kvant_model_close(model);
}

static void own_text_is_deterministic_and_has_the_wanted_length(void **state)
{
    (void)state;
    struct kvant_model *model = open_smollm2(KVANT_ACT_INT8);
    if (!model) skip();
    struct kvant_error err = { 0 };
    kvant_token a[300], b[300];
    size_t n_a, n_b;
    assert_int_equal(kvant_tune_text(model, 300, a, 200, &n_a, NULL, NULL, &err), KVANT_ERR_SPACE);
    assert_int_equal(n_a, 300);
    if (kvant_tune_text(model, 300, a, 300, &n_a, NULL, NULL, &err) != KVANT_OK) fail_msg("%s", err.message);
    assert_int_equal(kvant_tune_text(model, 300, b, 300, &n_b, NULL, NULL, &err), KVANT_OK);
    assert_int_equal(n_a, 300);
    assert_int_equal(n_b, 300);
    assert_memory_equal(a, b, sizeof a);
    kvant_model_close(model);
}

/* The order and the size of what was measured in simulation: KLD on text, 16-bit other side, sinks 4 and tail 32. */
static void caches_of_smollm2_are_as_far_as_simulated(void **state)
{
    (void)state;
    struct kvant_model *model = open_smollm2(KVANT_ACT_INT16);
    if (!model) skip();
    struct kvant_error err = { 0 };
    kvant_token own[256], tokens[384];
    size_t n_own, n;
    if (kvant_tune_text(model, 384, tokens, 384, &n, NULL, NULL, &err) != KVANT_OK) fail_msg("%s", err.message);
    memcpy(own, tokens, sizeof own);
    n_own = 256;
    static const struct { const char *spec; double low, high; } rows[] = {
        { "k16v16", 0, 1e-12 },       { "k16v4h", .0001, .0012 },      { "k16v2h", .004, .04 },
        { "k4c64v16", .0005, .0082 }, { "k3c64xm v16", .0003, .0106 }, { "k2c64xm v16", .002, .052 },
    };
    enum { N = sizeof rows / sizeof rows[0] };
    struct kvant_plan *plans[N];
    struct kvant_eval_result r[N];
    for (int i = 0; i < N; i++) {
        assert_int_equal(kvant_plan_open(&plans[i], model, rows[i].spec, &err), KVANT_OK);
        assert_int_equal(kvant_plan_calibrate(plans[i], model, own, n_own, NULL, NULL, &err), KVANT_OK);
    }
    if (kvant_eval_run(model, (const struct kvant_plan *const *)plans, N, tokens, n, NULL, r, NULL, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < N; i++) {
        if (!(r[i].kld_mean >= rows[i].low && r[i].kld_mean <= rows[i].high))
            fail_msg("%s: KLD %g", rows[i].spec, r[i].kld_mean);
        kvant_plan_close(plans[i]);
    }
    assert_true(r[1].kld_mean < r[2].kld_mean && r[4].kld_mean < r[5].kld_mean);
    kvant_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tuning_ends_with_a_menu),
        cmocka_unit_test(evaluation_does_not_depend_on_its_company),
        cmocka_unit_test(own_text_is_deterministic_and_has_the_wanted_length),
        cmocka_unit_test(caches_of_smollm2_are_as_far_as_simulated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
