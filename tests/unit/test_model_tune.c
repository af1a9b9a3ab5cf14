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
#include "tune/eval.h"

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

static struct kvant_tune_result *tune(const struct kvant_model *model, const kvant_token *tokens, size_t n,
                                      const struct kvant_tune_options *opt)
{
    struct kvant_error err = { 0 };
    struct kvant_tune_result *result;
    if (kvant_tune_run(model, tokens, n, opt, &result, &err) != KVANT_OK) fail_msg("%s", err.message);
    return result;
}

static void tuning_ends_with_a_menu(void **state)
{
    (void)state;
    struct kvant_model *model = open_tiny();
    struct kvant_error err = { 0 };
    kvant_token tokens[400];
    random_tokens(tokens, 400);
    struct kvant_tune_result *r;
    for (int variant = 0; variant < 4; variant++) {
        struct watch watch = { 0, 0, 0, 0 };
        struct kvant_tune_options opt = KVANT_TUNE_OPTIONS_INIT;
        const double budgets[] = { 4.5, 5.5, 8 };
        opt.budgets = budgets;
        opt.n_budgets = 3;
        opt.n_ctx = 4096;
        opt.n_tokens = 128;
        opt.no_mix = variant == 1;
        opt.by_layer = variant == 2;
        opt.refine = variant != 3;
        if (variant == 1) opt.tail = 16;
        opt.progress = watch_progress;
        opt.user = &watch;
        r = tune(model, tokens, 400, &opt);
        assert_true(r->n_points >= 6 && r->n_points <= 10);
        int n_tuned = 0;
        double best = INFINITY;
        for (size_t i = 0; i < r->n_points; i++) {
            const struct kvant_tune_point *p = &r->points[i];
            assert_false(kvant_plan_needs_calibration(p->plan));
            assert_true(isfinite(p->measured.kld_mean) && p->measured.n_scored == 271);
            if (i) assert_true(p->measured.true_bits >= r->points[i - 1].measured.true_bits);
            assert_true(p->dominated == (i > 0 && p->measured.kld_mean >= best));
            best = fmin(best, p->measured.kld_mean);
            char spec[4096];
            size_t n_spec;
            assert_int_equal(kvant_plan_print(p->plan, spec, sizeof spec, &n_spec, NULL), KVANT_OK);
            /* of uniform ones, too */
            assert_non_null(strstr(spec, variant == 1 ? "tail: 16\n" : "tail: 64\n"));
            if (p->source == KVANT_TUNE_FROM_UNIFORM) continue;
            n_tuned++;
            assert_true(isfinite(p->kld_predicted) && p->measured.true_bits <= p->budget);
            assert_true(p->measured.true_bits > p->budget - 0.5);
            assert_true(opt.refine == !isnan(p->kld_tuning));
            struct kvant_plan_memory memory;
            kvant_plan_get_memory(p->plan, 4096, &memory);
            assert_true(memory.true_bits == p->measured.true_bits);
        }
        assert_int_equal(n_tuned, 3);
        assert_int_equal(r->keys.n_layer, 2);
        for (int i = 0; i < 4 * r->keys.n_choices; i++)
            assert_true(r->keys.kld[i] > 0 && isfinite(r->keys.kld[i]));
        for (int layer = 0; layer < 2; layer++) { /* choice 1 is measured, with mixing and without */
            const double *first = r->keys.kld + 2 * layer * r->keys.n_choices;
            assert_true((first[1] == first[r->keys.n_choices + 1]) == opt.by_layer); /* both at once */
        }
        assert_true(watch.n_calls > 0 && watch.total > 0);
        kvant_tune_close(r);

        watch = (struct watch){ 0, 0, 0, 3 };
        assert_int_equal(kvant_tune_run(model, tokens, 400, &opt, &r, &err), KVANT_ERR_CANCELLED);
        assert_null(r);
    }
    assert_int_equal(kvant_tune_run(model, tokens, 60, NULL, &r, &err), KVANT_ERR_ARGUMENT);
    struct kvant_tune_options low = KVANT_TUNE_OPTIONS_INIT;
    low.budgets = (const double[]){ 1.2 };
    low.n_budgets = 1;
    assert_int_equal(kvant_tune_run(model, tokens, 400, &low, &r, &err), KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "the smallest plan has"));
    kvant_model_close(model);
}

/* The sum over heads of a choice is the KLD of a plan with all of them, measured here for itself. */
static void heads_add_up_to_what_they_cost_together(void **state)
{
    (void)state;
    struct kvant_model *model = open_tiny();
    struct kvant_error err = { 0 };
    kvant_token tokens[400];
    random_tokens(tokens, 400);
    struct kvant_tune_options opt = KVANT_TUNE_OPTIONS_INIT;
    opt.n_ctx = 4096;
    opt.n_tokens = 128;
    struct kvant_tune_result *r = tune(model, tokens, 400, &opt);
    static const struct {
        const char *choice, *spec;
        bool key;
    } rows[] = {
        { "k2c64xms", "k2c64xms v16", true },
        { "k3c64xms", "k3c64xms v16", true },
        { "v2hs", "k16 v2hs", false },
        { "v3hs", "k16 v3hs", false },
        { "k1.75c64xms", "k1.75c64xms v16", true },
        { "v4hs", "k16 v4hs", false }, /* read off, not measured alone */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct kvant_tune_heads *heads = rows[i].key ? &r->keys : &r->values;
        struct kvant_eval_options eval = KVANT_EVAL_OPTIONS_INIT;
        struct kvant_eval_result joint;
        struct kvant_plan *plan;
        int choice = 0;
        double sum = 0;
        while (choice < heads->n_choices && strcmp(heads->choices[choice], rows[i].choice) != 0) choice++;
        assert_true(choice < heads->n_choices);
        for (int head = 0; head < heads->n_layer * heads->n_head_kv; head++)
            sum += heads->kld[head * heads->n_choices + choice];
        assert_int_equal(kvant_plan_open(&plan, model, rows[i].spec, &err), KVANT_OK);
        assert_int_equal(kvant_plan_calibrate(plan, model, tokens, 128, NULL, NULL, &err), KVANT_OK);
        eval.n_ctx = 128;
        assert_int_equal(kv_eval_run(model, (const struct kvant_plan *const *)&plan, 1, tokens, 128, &eval,
                                     true, &joint, NULL, &err),
                         KVANT_OK);
        if (!(fabs(sum / joint.kld_mean - 1) < 1e-9))
            fail_msg("%s: %g, together %g", rows[i].spec, sum, joint.kld_mean);
        kvant_plan_close(plan);
    }
    kvant_tune_close(r);
    kvant_model_close(model);
}

/* How much of a given text is tuned on and how much measured on, as the header says. */
static void a_text_is_divided(void **state)
{
    (void)state;
    static const struct { size_t n; kvant_tune_method method; int64_t asked, tuning, verify; } rows[] = {
        { 400, KVANT_TUNE_KVANT, 0, 200, 200 },    { 1400, KVANT_TUNE_KVANT, 0, 888, 512 },
        { 1400, KVANT_TUNE_KVANT, 300, 300, 1024 }, { 4700, KVANT_TUNE_KVANT, 0, 4096, 604 },
        { 2300, KVANT_TUNE_KVTUNER, 0, 1024, 1024 },
    };
    struct kvant_model *model = open_tiny(); /* 2 layers of 2 heads */
    kvant_token *tokens = calloc(4700, sizeof *tokens);
    random_tokens(tokens, 4700);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const double budget = 8;
        struct kvant_tune_options opt = KVANT_TUNE_OPTIONS_INIT;
        opt.method = rows[i].method;
        opt.budgets = &budget;
        opt.n_budgets = opt.n_trials = 1;
        opt.n_tokens = rows[i].asked;
        opt.by_layer = true;
        struct kvant_tune_result *r = tune(model, tokens, rows[i].n, &opt);
        assert_int_equal(r->n_tokens, rows[i].tuning);
        assert_int_equal(r->n_tokens_verify, rows[i].verify);
        kvant_tune_close(r);
    }
    free(tokens);
    kvant_model_close(model);
}

/* Stopped at any call of progress: nothing, or a menu of measured plans. */
static void a_search_that_is_stopped_shows_what_it_has(void **state)
{
    (void)state;
    struct kvant_model *model = open_tiny();
    kvant_token tokens[300];
    random_tokens(tokens, 300);
    struct kvant_tune_options opt = KVANT_TUNE_OPTIONS_INIT;
    opt.budgets = (const double[]){ 4.5, 6 };
    opt.n_budgets = 2;
    opt.refine = true;
    opt.n_ctx = 4096;
    opt.n_tokens = 128;
    opt.progress = watch_progress;
    int n_menus = 0, n_nothing = 0;
    for (int stop = 1;; stop += 1 + stop / 4) {
        struct watch watch = { 0, 0, 0, stop };
        struct kvant_tune_result *r;
        struct kvant_error err = { 0 };
        opt.user = &watch;
        kvant_status status = kvant_tune_run(model, tokens, 300, &opt, &r, &err);
        if (status == KVANT_OK && !r->interrupted) {
            kvant_tune_close(r);
            break;
        }
        if (status == KVANT_OK) {
            n_menus++;
            assert_true(r->n_points >= 2);
            for (size_t i = 0; i < r->n_points; i++) assert_true(r->points[i].measured.n_scored > 0);
            kvant_tune_close(r);
        } else {
            n_nothing++;
            assert_int_equal(status, KVANT_ERR_CANCELLED);
            assert_null(r);
        }
    }
    assert_true(n_menus > 0 && n_nothing > 0);
    kvant_model_close(model);
}

static void a_bound_on_the_kld_is_kept(void **state)
{
    (void)state;
    struct kvant_model *model = open_tiny();
    kvant_token tokens[400];
    random_tokens(tokens, 400);
    struct kvant_tune_options opt = KVANT_TUNE_OPTIONS_INIT;
    opt.n_ctx = 4096;
    opt.n_tokens = 128;
    struct kvant_tune_result *r = tune(model, tokens, 400, &opt);
    double middle = r->points[r->n_points / 2].measured.kld_mean;
    kvant_tune_close(r);
    int n_found = 0; /* a plan that is on the menu anyway is not listed twice */
    for (int k = 0; k < 4; k++) {
        opt.max_kld = middle * (const double[]){ .4, .8, 1.25, 2.5 }[k];
        r = tune(model, tokens, 400, &opt);
        double bits = INFINITY, found = INFINITY;
        for (size_t i = 0; i < r->n_points; i++) {
            const struct kvant_tune_point *p = &r->points[i];
            if (p->source != KVANT_TUNE_FROM_KVANT || p->measured.kld_mean > opt.max_kld) continue;
            bool is_budget = fabs(p->budget * 4 - round(p->budget * 4)) < 1e-9;
            if (is_budget)
                bits = fmin(bits, p->measured.true_bits);
            else
                found = fmin(found, p->measured.true_bits);
        }
        n_found += isfinite(found);
        assert_true(isinf(found) || found <= bits); /* cheaper than what the budgets give */
        kvant_tune_close(r);
    }
    assert_true(n_found >= 2);
    kvant_model_close(model);
}

static bool take_logits(void *user, const float *logits, int n_rows, int n_vocab)
{
    (void)user, (void)logits, (void)n_rows, (void)n_vocab;
    return true;
}

/* Plans that share layers share their work; a reader of logits switches that off, and the numbers stay. */
static void sharing_layers_changes_no_number(void **state)
{
    (void)state;
    struct kvant_model *model = open_tiny();
    struct kvant_error err = { 0 };
    kvant_token tokens[300];
    random_tokens(tokens, 300);
    static const char *const specs[] = { "0:k16v16,1:k2c64v2h", "0:k3c64v4h,1:k2c64v2h",
                                         "0:k3c64v4h,1:k4c64v3h", "0:k3c64v4h,1:k4c64v3h", "f16",
                                         "0:k3c32v4h,1:k4c64v3h" };
    enum { N = sizeof specs / sizeof specs[0] };
    struct kvant_plan *plans[N];
    struct kvant_eval_result shared[N], apart[N];
    for (int i = 0; i < N; i++)
        if (kvant_plan_open(&plans[i], model, specs[i], &err) != KVANT_OK) fail_msg("%s", err.message);
    struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    opt.n_ctx = 130;
    const struct kvant_plan *const *list = (const struct kvant_plan *const *)plans;
    assert_int_equal(kvant_eval_run(model, list, N, tokens, 300, &opt, shared, NULL, &err), KVANT_OK);
    opt.on_logits = take_logits;
    assert_int_equal(kvant_eval_run(model, list, N, tokens, 300, &opt, apart, NULL, &err), KVANT_OK);
    for (int i = 0; i < N; i++) {
        assert_memory_equal(&shared[i], &apart[i], sizeof shared[i]);
        kvant_plan_close(plans[i]);
    }
    assert_true(shared[0].kld_mean > 0 && shared[4].kld_mean == 0);
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
    if (kvant_eval_run(model, (const struct kvant_plan *const *)plans, 3, tokens, 300, &opt, all, &base,
                       &err) != KVANT_OK)
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
    assert_int_equal(kvant_eval_run(model, NULL, 0, tokens, 300, &opt, NULL, &base, &err),
                     KVANT_ERR_ARGUMENT);
    for (int i = 0; i < 3; i++) kvant_plan_close(plans[i]);
    kvant_model_close(model);
}

static void a_model_that_ends_at_once_needs_a_text(void **state)
{
    (void)state;
    struct kvant_error err = { 0 };
    struct tiny_gguf_options opt = { .seed = 4, .ends_at_once = true };
    char path[SCRATCH_CAP];
    struct kvant_model *model;
    struct kvant_plan *plan;
    struct kvant_tune_result *found;
    kvant_token tokens[300];
    size_t n = 1;
    if (tiny_gguf_write(scratch_path(path, TINY_FILE), &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    if (kvant_model_open(&model, path, NULL, &err) != KVANT_OK) fail_msg("%s", err.message);
    unlink(path);
    assert_int_equal(kvant_tune_text(model, 300, tokens, 300, &n, NULL, NULL, &err), KVANT_OK);
    assert_int_equal(n, 0); /* beginnings are not what it wrote */
    assert_int_equal(kvant_tune_run(model, NULL, 0, NULL, &found, &err), KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "the model stopped after 0 tokens of its own text; give a text"));
    assert_null(found);
    assert_int_equal(kvant_plan_open(&plan, model, "k3c64xm v2h", &err), KVANT_OK);
    assert_int_equal(kvant_plan_calibrate(plan, model, NULL, 0, NULL, NULL, &err), KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "0 tokens of calibration text"));

    for (int i = 0; i < 300; i++) tokens[i] = (kvant_token)(i * 37 % 250);
    if (kvant_plan_calibrate(plan, model, tokens, 300, NULL, NULL, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    kvant_plan_close(plan);
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

/* The order and the size of what was measured in simulation:
 * KLD on text, 16-bit other side, sinks 4 and tail 32. */
static void caches_of_smollm2_are_as_far_as_simulated(void **state)
{
    (void)state;
    struct kvant_model *model = open_smollm2(KVANT_ACT_INT16);
    if (!model) skip();
    struct kvant_error err = { 0 };
    kvant_token own[256], tokens[384];
    size_t n_own, n;
    if (kvant_tune_text(model, 384, tokens, 384, &n, NULL, NULL, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    memcpy(own, tokens, sizeof own);
    n_own = 256;
    static const struct { const char *spec; double low, high; } rows[] = {
        { "k16v16", 0, 1e-12 },       { "k16v4h", .0001, .0012 },      { "k16v2h", .004, .04 },
        { "k4c64v16", .0005, .0082 }, { "k3c64xm v16", .0003, .0106 }, { "k2c64xm v16", .002, .052 },
    };
    enum { N = sizeof rows / sizeof rows[0] };
    struct kvant_plan *plans[N];
    struct kvant_eval_result r[N], likely[N];
    for (int i = 0; i < N; i++) {
        assert_int_equal(kvant_plan_open(&plans[i], model, rows[i].spec, &err), KVANT_OK);
        assert_int_equal(kvant_plan_calibrate(plans[i], model, own, n_own, NULL, NULL, &err), KVANT_OK);
    }
    if (kvant_eval_run(model, (const struct kvant_plan *const *)plans, N, tokens, n, NULL, r, NULL, &err) !=
        KVANT_OK)
        fail_msg("%s", err.message);
    const struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    if (kv_eval_run(model, (const struct kvant_plan *const *)plans, N, tokens, n, &opt, true, likely, NULL,
                    &err) != KVANT_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < N; i++) {
        if (fabs(likely[i].kld_mean - r[i].kld_mean) > .02 * r[i].kld_mean)
            fail_msg("%s: KLD %g of likely tokens, %g of all", rows[i].spec, likely[i].kld_mean,
                     r[i].kld_mean);
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
        cmocka_unit_test(heads_add_up_to_what_they_cost_together),
        cmocka_unit_test(a_text_is_divided),
        cmocka_unit_test(a_search_that_is_stopped_shows_what_it_has),
        cmocka_unit_test(a_bound_on_the_kld_is_kept),
        cmocka_unit_test(sharing_layers_changes_no_number),
        cmocka_unit_test(evaluation_does_not_depend_on_its_company),
        cmocka_unit_test(a_model_that_ends_at_once_needs_a_text),
        cmocka_unit_test(own_text_is_deterministic_and_has_the_wanted_length),
        cmocka_unit_test(caches_of_smollm2_are_as_far_as_simulated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
