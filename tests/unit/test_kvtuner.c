/*
 * KVTuner as a whole on a made-up model of 16 layers in 4 kinds: what comes out against an independent
 * calculation, the rule of selection, given candidates and groups, and everything that may fail.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "support/allocation_hooks.h"
#include "tune/front.h"
#include "tune/kvtuner.h"

enum { LAYERS = 16, PAIRS = 9, CALLS_MAX = 64 };

/* KV8 K8V4 K8V2 K4V8 KV4 K4V2 K2V8 K2V4 KV2 */
static const double kinds[4][PAIRS] = {
    { .014, .100, .401, .168, .207, .453, .882, .892, .962 }, /* the paper's table 3: S0   */
    { .01, .10, .30, .50, .52, .60, .90, .91, .95 },          /* S4: six candidates        */
    { .014, .168, .882, .100, .207, .892, .401, .453, .962 }, /* S2: values matter         */
    { .3, .4, .7, .4, .5, .8, .9, .9, .97 },                  /* ties; far from the others */
};
static const int kind_of[LAYERS] = { 2, 0, 0, 1, 0, 0, 3, 0, 0, 1, 0, 0, 0, 3, 0, 1 };

struct model {
    double error[LAYERS * PAIRS];
    uint8_t asked[CALLS_MAX * 50][LAYERS];
    int n_asked, n_calls, fail_at;
    kvant_status failure;
};

static void make_model(struct model *m)
{
    memset(m, 0, sizeof *m);
    m->fail_at = -1;
    for (int layer = 0; layer < LAYERS; layer++)
        for (int p = 0; p < PAIRS; p++) /* .01 apart: near for clustering */
            m->error[layer * PAIRS + p] = kinds[kind_of[layer]][p] +
                                          .01 * (kind_of[layer] == 0 ? layer % 3 : 0);
}

/* Error of a plan: sensitive layers count more. */
static double quality(const struct model *m, const uint8_t *assignment)
{
    double sum = 0.0;
    for (int layer = 0; layer < LAYERS; layer++)
        sum += m->error[layer * PAIRS + assignment[layer]] * (1 + layer % 5);
    return sum;
}

static kvant_status measure(void *user, const uint8_t *assignment, int n, double *error,
                            struct kvant_error *err)
{
    struct model *m = user;
    if (m->n_calls++ == m->fail_at) KV_FAIL(err, m->failure, -1, "as asked");
    for (int i = 0; i < n; i++) {
        memcpy(m->asked[m->n_asked++], assignment + i * LAYERS, LAYERS);
        error[i] = quality(m, assignment + i * LAYERS);
    }
    return KVANT_OK;
}

static struct kv_kvtuner_options options(struct model *m)
{
    return (struct kv_kvtuner_options){
        .n_layer = LAYERS, .error = m->error, .seed = 1, .evaluate = measure, .user = m
    };
}

static void run(struct kv_kvtuner *k, const struct kv_kvtuner_options *opt)
{
    struct kvant_error err = { 0 };
    if (kv_kvtuner_run(k, opt, &err) != KVANT_OK) fail_msg("%s", err.message);
}

static double bits_of(const uint8_t *assignment)
{
    int sum = 0;
    for (int layer = 0; layer < LAYERS; layer++)
        sum += kv_pairs_paper[assignment[layer]].key_bits + kv_pairs_paper[assignment[layer]].value_bits;
    return sum / (2.0 * LAYERS);
}

static void candidates_groups_and_ties_are_those_of_the_layers(void **state)
{
    (void)state;
    static struct model m;
    struct kv_kvtuner k;
    make_model(&m);
    struct kv_kvtuner_options opt = options(&m);
    run(&k, &opt);
    static const char *const sets[] = { "{KV8, K8V4, KV4, K4V2, KV2}", "{KV8, K8V4, K8V2, KV4, K4V2, KV2}",
                                        "{KV8, K4V8, KV4, K2V4, KV2}", "{KV8, K8V4, KV4, K4V2, KV2}" };
    for (int layer = 0; layer < LAYERS; layer++) {
        char text[128];
        kv_pair_set_print(k.candidates[layer], k.pairs, k.n_pairs, text, sizeof text);
        assert_string_equal(text, sets[kind_of[layer]]);
    }
    assert_int_equal(k.groups.n_groups, 4); /* kind 3 has the set of kind 0, but lies far from it */
    for (int g = 0; g < 4; g++)
        for (int i = k.groups.begin[g]; i < k.groups.begin[g + 1]; i++)
            assert_int_equal(kind_of[k.groups.layer[i]], kind_of[k.groups.layer[k.groups.begin[g]]]);
    assert_int_equal(k.n_singletons, 1);
    assert_true(k.n_space == 5.0 * 5 * 5 * 6);
    assert_int_equal(k.n_ties, 2); /* K8V4 and K4V8 on both layers of kind 3 */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(k.ties[i].layer, i ? 13 : 6);
        assert_true(k.ties[i].pairs.kept.key_bits == 8 && k.ties[i].pairs.dropped.key_bits == 4);
    }
    kv_kvtuner_close(&k);
}

static void plans_trials_and_front_agree_with_what_was_asked(void **state)
{
    (void)state;
    for (int method = 0; method < 2; method++) {
        static struct model m;
        struct kv_kvtuner k;
        make_model(&m);
        struct kv_kvtuner_options opt = options(&m);
        opt.method = (enum kv_evolve_method)method;
        run(&k, &opt);
        assert_int_equal(k.n_plans, m.n_asked);
        assert_int_equal(k.n_trials, 2 * KV_EVOLVE_TRIALS);
        assert_true(k.n_plans < k.n_trials); /* plans that both runs try are asked for once */
        for (int i = 0; i < k.n_plans; i++) {
            const struct kv_kvtuner_plan *p = &k.plans[i];
            assert_memory_equal(p->assignment, m.asked[i], LAYERS);
            assert_true(p->error == quality(&m, p->assignment) && p->bits == bits_of(p->assignment));
            assert_true(p->bit_sum == p->bits * 2 * LAYERS);
            for (int layer = 0; layer < LAYERS; layer++)
                assert_true(k.candidates[layer] >> p->assignment[layer] & 1);
            for (int j = 0; j < i; j++) assert_memory_not_equal(p->assignment, k.plans[j].assignment, LAYERS);
        }
        for (int t = 0; t < k.n_trials; t++) {
            assert_int_equal(k.trials[t].run, t >= KV_EVOLVE_TRIALS);
            assert_in_range(k.trials[t].plan, 0, k.n_plans - 1);
        }
        assert_true(k.n_front > 10);
        for (int f = 0; f < k.n_front; f++) {
            const struct kv_kvtuner_plan *p = &k.plans[k.front[f]];
            if (f)
                assert_true(p->bits > k.plans[k.front[f - 1]].bits &&
                            p->error < k.plans[k.front[f - 1]].error);
            for (int i = 0; i < k.n_plans; i++)
                assert_false(k.plans[i].error <= p->error && k.plans[i].bits <= p->bits &&
                             (k.plans[i].error < p->error || k.plans[i].bits < p->bits));
        }
        kv_kvtuner_close(&k);
    }
}

static void the_best_within_each_limit_is_selected(void **state)
{
    (void)state;
    static struct model m;
    struct kv_kvtuner k;
    struct kv_kvtuner_choice choices[2];
    make_model(&m);
    struct kv_kvtuner_options opt = options(&m);
    run(&k, &opt);
    assert_int_equal(kv_kvtuner_select(&k, choices), 2);
    for (int c = 0; c < 2; c++) {
        const struct kv_kvtuner_plan *chosen = &k.plans[choices[c].plan];
        char name[KV_KVTUNER_NAME_CAP];
        assert_true(choices[c].limit == (c ? 6.0 : 4.0) && chosen->bits <= choices[c].limit);
        for (int i = 0; i < k.n_plans; i++)
            assert_false(k.plans[i].bits <= choices[c].limit && k.plans[i].error < chosen->error);
        snprintf(name, sizeof name, "KVTuner-C%.2f", chosen->bits + 1e-9);
        assert_string_equal(choices[c].name, name);
    }
    kv_kvtuner_close(&k);
}

/* Accuracy does not rise beyond 4 bits: one plan for both limits, listed once, and the one with fewer
 * bits. */
static kvant_status measure_flat(void *user, const uint8_t *assignment, int n, double *error,
                                 struct kvant_error *err)
{
    kvant_status status = measure(user, assignment, n, error, err);
    for (int i = 0; i < n; i++) error[i] = bits_of(assignment + i * LAYERS) >= 3.5 ? .25 : .75;
    return status;
}

static void duplicates_collapse(void **state)
{
    (void)state;
    static struct model m;
    struct kv_kvtuner k;
    struct kv_kvtuner_choice choices[2];
    make_model(&m);
    struct kv_kvtuner_options opt = options(&m);
    opt.evaluate = measure_flat;
    run(&k, &opt);
    assert_int_equal(kv_kvtuner_select(&k, choices), 1);
    assert_true(choices[0].limit == 6.0);
    const struct kv_kvtuner_plan *chosen = &k.plans[choices[0].plan];
    assert_true(chosen->error == .25);
    for (int i = 0; i < k.n_plans; i++) assert_true(k.plans[i].bits < 3.5 || k.plans[i].bits >= chosen->bits);
    kv_kvtuner_close(&k);
}

static kvant_status measure_nothing(void *user, const uint8_t *assignment, int n, double *error,
                                    struct kvant_error *err)
{
    (void)err;
    (void)user;
    (void)assignment;
    for (int i = 0; i < n; i += 2) error[i] = INFINITY; /* the others are left out */
    return KVANT_OK;
}

static void when_everything_collapses_there_is_no_front(void **state)
{
    (void)state;
    static struct model m;
    struct kv_kvtuner k;
    struct kv_kvtuner_choice choices[2];
    make_model(&m);
    struct kv_kvtuner_options opt = options(&m);
    opt.evaluate = measure_nothing;
    run(&k, &opt);
    assert_true(k.n_plans > 0);
    assert_int_equal(k.n_front, 0);
    assert_int_equal(kv_kvtuner_select(&k, choices), 0);
    kv_kvtuner_close(&k);
}

static void same_seed_same_trials(void **state)
{
    (void)state;
    for (int method = 0; method < 2; method++) {
        static struct model m[3];
        struct kv_kvtuner k[3];
        for (int i = 0; i < 3; i++) {
            make_model(&m[i]);
            struct kv_kvtuner_options opt = options(&m[i]);
            opt.method = (enum kv_evolve_method)method;
            opt.seed = i == 2 ? 2 : 1;
            run(&k[i], &opt);
        }
        assert_int_equal(m[0].n_asked, m[1].n_asked);
        assert_memory_equal(m[0].asked, m[1].asked, sizeof m[0].asked);
        assert_memory_equal(k[0].trials, k[1].trials, (size_t)k[0].n_trials * sizeof *k[0].trials);
        assert_memory_not_equal(m[0].asked, m[2].asked, 50 * LAYERS);
        /* the second run is not the first once more */
        assert_memory_not_equal(k[0].plans[k[0].trials[0].plan].assignment,
                                k[0].plans[k[0].trials[KV_EVOLVE_TRIALS].plan].assignment, LAYERS);
        for (int i = 0; i < 3; i++) kv_kvtuner_close(&k[i]);
    }
}

/* All pairs of {2, 3, 4, 8}, one limit, few trials. */
static void other_pairs_and_limits(void **state)
{
    (void)state;
    static struct model m;
    static double error[LAYERS * 16];
    struct kv_kvtuner k;
    make_model(&m);
    for (int layer = 0; layer < LAYERS; layer++)
        for (int p = 0; p < 16; p++)
            error[layer * 16 + p] = pow(2.0, -kv_pairs_fine[p].key_bits) +
                                    pow(2.5, -kv_pairs_fine[p].value_bits);
    const double limit = 3.0;
    struct kv_kvtuner_options opt = options(&m);
    opt.pairs = kv_pairs_fine, opt.n_pairs = 16, opt.error = error;
    opt.limits = &limit, opt.n_limits = 1, opt.n_trials = 60, opt.population = 20;
    opt.evaluate = measure_nothing;
    run(&k, &opt);
    char text[128];
    kv_pair_set_print(k.candidates[7], k.pairs, k.n_pairs, text, sizeof text);
    /* 8 + 3 bits beat 4 + 8, 4 + 3 beat 3 + 4 and so on: by arithmetic on the two powers */
    assert_string_equal(text, "{KV8, K8V4, K8V3, KV4, K4V3, KV3, K3V2, KV2}");
    assert_int_equal(k.groups.n_groups, 1);
    assert_int_equal(k.n_trials, 8); /* one group of eight candidates: the whole space */
    kv_kvtuner_close(&k);
}

static void given_candidates_and_groups_are_used(void **state)
{
    (void)state;
    static struct model m;
    struct kv_kvtuner k;
    make_model(&m);
    kv_pair_set candidates[LAYERS];
    for (int layer = 0; layer < LAYERS; layer++) candidates[layer] = layer < 8 ? 0x111 : 0x003;
    int begin[] = { 0, 8, 16 }, layer[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    const struct kv_groups groups = { 2, begin, layer };
    struct kv_kvtuner_options opt = options(&m);
    opt.error = NULL, opt.candidates = candidates, opt.groups = &groups;
    run(&k, &opt);
    assert_int_equal(k.n_plans, 6);
    assert_int_equal(k.n_ties, 0);
    for (int i = 0; i < k.n_plans; i++)
        for (int l = 0; l < LAYERS; l++)
            assert_int_equal(k.plans[i].assignment[l], k.plans[i].assignment[l & 8]);
    kv_kvtuner_close(&k);

    opt.candidates = NULL; /* pruned, but there are no errors */
    struct kvant_error err = { 0 };
    assert_int_equal(kv_kvtuner_run(&k, &opt, &err), KVANT_ERR_ARGUMENT);
    kv_kvtuner_close(&k);
    opt.error = m.error; /* the layers' own candidates do not fit these groups */
    assert_int_equal(kv_kvtuner_run(&k, &opt, &err), KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "group 0 joins layer 0"));
    kv_kvtuner_close(&k);
    candidates[5] = 0x200; /* there are 9 pairs */
    opt.candidates = candidates;
    assert_int_equal(kv_kvtuner_run(&k, &opt, &err), KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "layer 5"));
    kv_kvtuner_close(&k);
}

static void expect_refused(const struct kv_kvtuner_options *opt, kvant_status status, const char *message)
{
    struct kv_kvtuner k;
    struct kvant_error err = { 0 };
    assert_int_equal(kv_kvtuner_run(&k, opt, &err), status);
    if (!strstr(err.message, message)) fail_msg("'%s' does not say '%s'", err.message, message);
    assert_int_equal(k.n_trials, 0);
    kv_kvtuner_close(&k);
}

static void options_out_of_range_are_refused(void **state)
{
    (void)state;
    static struct model m;
    make_model(&m);
    const struct kv_kvtuner_options good = options(&m);
    static const double falling[] = { 6, 4 }, negative[] = { -1 }, nan[] = { NAN };
    struct kv_kvtuner_options opt = good;
    opt.n_layer = 0;
    expect_refused(&opt, KVANT_ERR_ARGUMENT, "0 layers");
    opt = good, opt.limits = falling, opt.n_limits = 2;
    expect_refused(&opt, KVANT_ERR_ARGUMENT, "must ascend");
    opt = good, opt.limits = negative, opt.n_limits = 1;
    expect_refused(&opt, KVANT_ERR_ARGUMENT, "a limit of -1");
    opt = good, opt.limits = nan, opt.n_limits = 1;
    expect_refused(&opt, KVANT_ERR_ARGUMENT, "a limit of nan");
    opt = good, opt.n_limits = KV_KVTUNER_LIMITS_MAX + 1;
    expect_refused(&opt, KVANT_ERR_ARGUMENT, "9 limits");
    opt = good, opt.pairs = kv_pairs_paper; /* n_pairs 0 */
    expect_refused(&opt, KVANT_ERR_ARGUMENT, "0 precision pairs");
    opt = good, opt.n_trials = KV_EVOLVE_TRIALS_MAX + 1;
    expect_refused(&opt, KVANT_ERR_ARGUMENT, "trials");
    opt = good, opt.eps = -1;
    expect_refused(&opt, KVANT_ERR_ARGUMENT, "eps -1");
    opt = good, opt.method = (enum kv_evolve_method)5;
    expect_refused(&opt, KVANT_ERR_ARGUMENT, "method 5");
    m.error[3 * PAIRS + 4] = NAN;
    expect_refused(&good, KVANT_ERR_NUMERIC, "layer 3: KV4");
}

static void a_callback_that_fails_leaves_what_was_measured(void **state)
{
    (void)state;
    for (int at = 0; at < 7; at++) {
        static struct model m;
        struct kv_kvtuner k;
        struct kvant_error err = { 0 };
        make_model(&m);
        m.fail_at = at;
        m.failure = at % 2 ? KVANT_ERR_CANCELLED : KVANT_ERR_IO;
        struct kv_kvtuner_options opt = options(&m);
        assert_int_equal(kv_kvtuner_run(&k, &opt, &err), m.failure);
        assert_string_equal(err.message, "as asked");
        assert_int_equal(k.n_plans, m.n_asked);
        assert_int_equal(k.n_trials, 50 * at); /* whole generations */
        assert_int_equal(k.n_front > 0, at > 0);
        kv_kvtuner_close(&k);
    }
}

static void each_refused_allocation_is_an_error_without_a_leak(void **state)
{
    (void)state;
    static struct model m;
    int before = hooks.n_live, n_refused = 0;
    for (long i = 0;; i++, n_refused++) {
        struct kv_kvtuner k;
        struct kvant_error err = { 0 };
        make_model(&m);
        hooks.n_calls = 0;
        hooks.fail_at = i;
        struct kv_kvtuner_options opt = options(&m);
        kvant_status status = kv_kvtuner_run(&k, &opt, &err);
        hooks.fail_at = -1;
        bool refused = hooks.n_calls > i;
        kv_kvtuner_close(&k);
        assert_int_equal(hooks.n_live, before);
        assert_int_equal(status, refused ? KVANT_ERR_MEMORY : KVANT_OK);
        if (!refused) break;
        assert_int_equal(err.status, KVANT_ERR_MEMORY);
    }
    assert_true(n_refused >= 25);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(candidates_groups_and_ties_are_those_of_the_layers),
        cmocka_unit_test(plans_trials_and_front_agree_with_what_was_asked),
        cmocka_unit_test(the_best_within_each_limit_is_selected),
        cmocka_unit_test(duplicates_collapse),
        cmocka_unit_test(when_everything_collapses_there_is_no_front),
        cmocka_unit_test(same_seed_same_trials),
        cmocka_unit_test(other_pairs_and_limits),
        cmocka_unit_test(given_candidates_and_groups_are_used),
        cmocka_unit_test(options_out_of_range_are_refused),
        cmocka_unit_test(a_callback_that_fails_leaves_what_was_measured),
        cmocka_unit_test(each_refused_allocation_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
