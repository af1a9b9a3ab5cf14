/*
 * Several processes that search together: here threads with a model each, and a sum over a barrier. The same
 * result as alone, the store of the first, and an end for all when one cannot go on.
 */
#include <math.h>
#include <pthread.h>
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

#define N_TOKENS  400
#define RANKS_CAP 4

struct crowd { /* a sum over threads */
    pthread_mutex_t lock;
    pthread_cond_t all_here;
    int n, n_here, round;
    double sum[4096], total[4096];
    int n_calls, fail_at; /* call of the sum that fails; 0: none */
};

static bool crowd_sum(void *user, double *values, size_t n)
{
    struct crowd *c = user;
    assert_true(n <= 4096);
    pthread_mutex_lock(&c->lock);
    if (c->n_here == 0) memset(c->sum, 0, sizeof c->sum);
    for (size_t i = 0; i < n; i++) c->sum[i] += values[i];
    int round = c->round;
    if (++c->n_here == c->n) {
        memcpy(c->total, c->sum, sizeof c->total);
        c->n_here = 0;
        c->round++;
        c->n_calls++;
        pthread_cond_broadcast(&c->all_here);
    }
    while (c->round == round) pthread_cond_wait(&c->all_here, &c->lock);
    memcpy(values, c->total, n * sizeof *values); /* it stays until all have come again */
    bool failed = c->fail_at && c->n_calls >= c->fail_at;
    pthread_mutex_unlock(&c->lock);
    return !failed;
}

struct searcher {
    struct kvant_tune_options opt;
    struct crowd *crowd;
    const kvant_token *tokens;
    struct kvant_tune_result *result;
    kvant_status status;
    struct kvant_error err;
    int n_calls, stop_after; /* of progress; 0: never */
    pthread_t thread;
};

static bool watch(void *user, const char *what, int64_t done, int64_t total)
{
    struct searcher *s = user;
    assert_true(done >= 0 && done <= total && what);
    return ++s->n_calls != s->stop_after;
}

static struct kvant_model *open_tiny(int rank)
{
    char path[SCRATCH_CAP], name[64];
    struct tiny_gguf_options opt = { .arch = "qwen2", .seed = 4, .key_bias_outlier = 30 };
    struct kvant_model_options one = KVANT_MODEL_OPTIONS_INIT;
    struct kvant_model *model;
    one.n_threads = 1;
    snprintf(name, sizeof name, "test_tune_ranks-%d.gguf", rank);
    assert_int_equal(tiny_gguf_write(scratch_path(path, name), &opt, NULL), KVANT_OK);
    assert_int_equal(kvant_model_open(&model, path, &one, NULL), KVANT_OK);
    unlink(path);
    return model;
}

static void *search(void *user)
{
    struct searcher *s = user;
    struct kvant_model *model = open_tiny(s->opt.rank);
    s->opt.progress = watch;
    s->opt.user = s;
    s->status = kvant_tune_run(model, s->tokens, N_TOKENS, &s->opt, &s->result, &s->err);
    kvant_model_close(model);
    return NULL;
}

/* All ranks of one search, like `opt`. */
static void search_all(struct searcher *all, int n, const struct kvant_tune_options *opt,
                       const kvant_token *tokens, struct crowd *crowd)
{
    crowd->n = n;
    crowd->n_here = crowd->n_calls = 0;
    for (int i = 0; i < n; i++) {
        int stop_after = all[i].stop_after;
        all[i] = (struct searcher){ .opt = *opt, .crowd = crowd, .tokens = tokens, .stop_after = stop_after };
        all[i].opt.rank = i;
        all[i].opt.n_ranks = n;
        all[i].opt.sum = crowd_sum;
        all[i].opt.sum_user = crowd;
        assert_int_equal(pthread_create(&all[i].thread, NULL, search, &all[i]), 0);
    }
    for (int i = 0; i < n; i++) assert_int_equal(pthread_join(all[i].thread, NULL), 0);
}

static void assert_same_result(const struct kvant_tune_result *a, const struct kvant_tune_result *b)
{
    assert_int_equal(a->n_points, b->n_points);
    for (size_t i = 0; i < a->n_points; i++) {
        const struct kvant_tune_point *p = &a->points[i], *q = &b->points[i];
        assert_memory_equal(&p->measured, &q->measured, sizeof p->measured);
        assert_true(p->source == q->source && p->dominated == q->dominated);
        assert_true(p->accuracy == q->accuracy || (isnan(p->accuracy) && isnan(q->accuracy)));
    }
    if (a->keys.kld)
        assert_memory_equal(a->keys.kld, b->keys.kld,
                            (size_t)(a->keys.n_layer * a->keys.n_head_kv * a->keys.n_choices) *
                                sizeof *a->keys.kld);
}

struct fixture {
    kvant_token tokens[N_TOKENS];
    struct kvant_question questions[6];
    struct kvant_accuracy_options asking;
    struct crowd crowd;
    char store[SCRATCH_CAP];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    uint64_t seed = 77;
    for (int i = 0; i < N_TOKENS; i++) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        f->tokens[i] = (kvant_token)((seed >> 33) % 250);
    }
    for (int i = 0; i < 6; i++) /* answers are single digits of random text */
        f->questions[i] = (struct kvant_question){ f->tokens + 40 * i, 70 + (size_t)i, i % 2 ? "A" : "B",
                                                   f->tokens + 3, 0 };
    f->asking = (struct kvant_accuracy_options)KVANT_ACCURACY_OPTIONS_INIT;
    f->asking.kind = KVANT_ANSWER_LETTER;
    f->asking.n_predict = 12;
    pthread_mutex_init(&f->crowd.lock, NULL);
    pthread_cond_init(&f->crowd.all_here, NULL);
    scratch_path(f->store, "test_tune_ranks.store");
    unlink(f->store);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    unlink(f->store);
    free(f);
    return 0;
}

static struct kvant_tune_options settings(const struct fixture *f, int variant)
{
    static const double budgets[] = { 4.5, 6 };
    struct kvant_tune_options opt = KVANT_TUNE_OPTIONS_INIT;
    opt.n_ctx = 4096;
    opt.n_tokens = 128;
    if (variant < 2) {
        opt.budgets = budgets;
        opt.n_budgets = 2;
        opt.refine = variant == 1;
        opt.max_kld = variant == 0 ? .01 : 0;
        return opt;
    }
    opt.method = KVANT_TUNE_KVTUNER;
    opt.n_trials = 7;
    if (variant == 2) return opt;
    opt.questions = f->questions;
    opt.n_questions = 6;
    opt.asking = &f->asking;
    return opt;
}

static void the_result_does_not_depend_on_the_number_of_processes(void **state)
{
    struct fixture *f = *state;
    for (int variant = 0; variant < 4; variant++) {
        struct kvant_tune_options opt = settings(f, variant);
        struct searcher alone = { .opt = opt, .tokens = f->tokens };
        search(&alone);
        if (alone.status != KVANT_OK) fail_msg("%s", alone.err.message);
        assert_true(alone.result->n_points > 4);
        for (int n = 2; n <= RANKS_CAP; n++) {
            struct searcher all[RANKS_CAP] = { { .stop_after = 0 } };
            opt.store = f->store;
            search_all(all, n, &opt, f->tokens, &f->crowd);
            for (int i = 0; i < n; i++) {
                if (all[i].status != KVANT_OK) fail_msg("rank %d of %d: %s", i, n, all[i].err.message);
                assert_same_result(all[i].result, alone.result);
                kvant_tune_close(all[i].result);
            }
            opt.resume = true; /* what the first one stored is known to all */
            search_all(all, n, &opt, f->tokens, &f->crowd);
            for (int i = 0; i < n; i++) {
                assert_int_equal(all[i].status, KVANT_OK);
                assert_same_result(all[i].result, alone.result);
                assert_true(all[i].result->n_measured == 0 && all[i].result->n_known > 4);
                kvant_tune_close(all[i].result);
            }
            opt.resume = false;
            unlink(f->store);
        }
        kvant_tune_close(alone.result);
    }
}

/* Wherever one stops, or cannot be reached: all come to an end, and a store is whole. */
static void all_end_when_one_does(void **state)
{
    struct fixture *f = *state;
    struct kvant_tune_options opt = settings(f, 1);
    int n_menus = 0, n_nothing = 0;
    for (int stop = 1; stop < 400; stop += 1 + stop / 2) {
        opt = settings(f, stop % 2 ? 1 : 2);
        opt.store = f->store;
        opt.resume = true;
        struct searcher all[3] = { { .stop_after = 0 }, { .stop_after = stop }, { .stop_after = 0 } };
        unlink(f->store);
        search_all(all, 3, &opt, f->tokens, &f->crowd);
        bool has_stopped = all[1].n_calls >= stop;
        for (int i = 0; i < 3; i++) {
            if (all[i].status == KVANT_OK) {
                n_menus += all[i].result->interrupted;
                assert_true(has_stopped || !all[i].result->interrupted);
                kvant_tune_close(all[i].result);
            } else {
                assert_int_equal(all[i].status, KVANT_ERR_CANCELLED);
                n_nothing++;
            }
        }
    }
    assert_true(n_menus > 0 && n_nothing > 0);
    for (int fail = 1; fail < 40; fail += 1 + fail / 2) {
        struct searcher all[2] = { { .stop_after = 0 }, { .stop_after = 0 } };
        unlink(f->store);
        f->crowd.fail_at = fail;
        search_all(all, 2, &opt, f->tokens, &f->crowd);
        for (int i = 0; i < 2; i++) {
            if (f->crowd.n_calls >= fail) assert_int_equal(all[i].status, KVANT_ERR_IO);
            kvant_tune_close(all[i].result);
        }
    }
    f->crowd.fail_at = 0;
}

/* A process with other numbers (here: another text) is noticed before anything is measured. */
static void processes_that_differ_are_refused(void **state)
{
    struct fixture *f = *state;
    struct kvant_tune_options opt = settings(f, 0);
    static kvant_token other[N_TOKENS];
    struct searcher all[2];
    memcpy(other, f->tokens, sizeof other);
    other[30] ^= 1;
    f->crowd.n = 2;
    f->crowd.n_here = f->crowd.n_calls = 0;
    for (int i = 0; i < 2; i++) {
        all[i] = (struct searcher){ .opt = opt, .crowd = &f->crowd, .tokens = i ? other : f->tokens };
        all[i].opt.rank = i;
        all[i].opt.n_ranks = 2;
        all[i].opt.sum = crowd_sum;
        all[i].opt.sum_user = &f->crowd;
        assert_int_equal(pthread_create(&all[i].thread, NULL, search, &all[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(all[i].thread, NULL), 0);
        assert_int_equal(all[i].status, KVANT_ERR_MISMATCH);
        assert_non_null(strstr(all[i].err.message, "compute different numbers"));
    }

    struct searcher odd = { .opt = opt, .tokens = f->tokens };
    odd.opt.n_ranks = 2; /* without a sum */
    search(&odd);
    assert_int_equal(odd.status, KVANT_ERR_ARGUMENT);
    odd.opt.sum = crowd_sum;
    odd.opt.rank = 2;
    search(&odd);
    assert_int_equal(odd.status, KVANT_ERR_ARGUMENT);
    odd.opt = settings(f, 3);
    odd.opt.method = KVANT_TUNE_KVANT;
    search(&odd);
    assert_int_equal(odd.status, KVANT_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_result_does_not_depend_on_the_number_of_processes),
        cmocka_unit_test(all_end_when_one_does),
        cmocka_unit_test(processes_that_differ_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
