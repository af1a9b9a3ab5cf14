/*
 * NSGA-II and MOEA/D on problems small enough to enumerate, and the promises of a search: each genome
 * measured once, the same trials from the same seed, the limit kept, errors passed on.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "support/allocation_hooks.h"
#include "tune/evolve.h"
#include "tune/front.h"

enum { GENES = 5, CHOICES = 5, SPACE = 3125, TRIALS_CAP = 600, LOG_CAP = 64 };

static const enum kv_evolve_method methods[] = { KV_EVOLVE_MOEAD, KV_EVOLVE_NSGA2 };
static const int n_choices[GENES] = { CHOICES, CHOICES, CHOICES, CHOICES, CHOICES };

/* Groups of layers that differ in size and sensitivity; choices KV8 K8V4 KV4 K4V2 KV2, errors of b bits 1
 * / (2^b - 1)^2 times a sensitivity, added up. */
struct problem {
    int layers[GENES], n_layer;
    double key[GENES], value[GENES];
    /* what is seen and done during a search */
    int n_calls, batch[LOG_CAP], fail_at; /* call fail_at fails; -1 = none */
    kvant_status failure;
    double collapse_below; /* plans of fewer bits collapse: error NaN */
};

static void make_problem(struct problem *p, uint64_t seed)
{
    struct kv_random r;
    kv_random_seed(&r, seed);
    *p = (struct problem){ .fail_at = -1 };
    for (int i = 0; i < GENES; i++) {
        p->layers[i] = 1 + kv_random_below(&r, 10);
        p->n_layer += p->layers[i];
        p->value[i] = exp(3.0 * kv_random_unit(&r));
        p->key[i] = p->value[i] * exp(3.0 * kv_random_unit(&r));
    }
}

static double code_error(int bits)
{
    double steps = (1 << bits) - 1;
    return 1.0 / (steps * steps);
}

static struct kv_objectives score(const struct problem *p, const uint8_t *genome)
{
    static const int key_bits[CHOICES] = { 8, 8, 4, 4, 2 }, value_bits[CHOICES] = { 8, 4, 4, 2, 2 };
    struct kv_objectives o = { 0, 0 };
    for (int i = 0; i < GENES; i++) {
        int k = key_bits[genome[i]], v = value_bits[genome[i]];
        o.error += p->layers[i] * (p->key[i] * code_error(k) + p->value[i] * code_error(v));
        o.bits += p->layers[i] * (k + v) / (2.0 * p->n_layer);
    }
    return o;
}

static kvant_status evaluate(void *user, const uint8_t *genomes, int n, struct kv_objectives *out,
                             struct kvant_error *err)
{
    struct problem *p = user;
    if (p->n_calls == p->fail_at) KV_FAIL(err, p->failure, -1, "as asked");
    if (p->n_calls < LOG_CAP) p->batch[p->n_calls] = n;
    p->n_calls++;
    for (int i = 0; i < n; i++) {
        out[i] = score(p, genomes + i * GENES);
        if (out[i].bits < p->collapse_below) out[i].error = NAN;
    }
    return KVANT_OK;
}

static struct kv_evolve_options options(struct problem *p, enum kv_evolve_method method)
{
    return (struct kv_evolve_options){ .method = method,
                                       .n_genes = GENES,
                                       .n_choices = n_choices,
                                       .bits_limit = INFINITY,
                                       .seed = 1,
                                       .evaluate = evaluate,
                                       .user = p };
}

static void open_archive(struct kv_archive *archive)
{
    assert_int_equal(kv_archive_open(archive, GENES, TRIALS_CAP, NULL), KVANT_OK);
}

static int run(struct kv_archive *archive, const struct kv_evolve_options *opt, int *trials)
{
    int n;
    struct kvant_error err = { 0 };
    if (kv_evolve_run(archive, opt, trials, &n, &err) != KVANT_OK) fail_msg("%s", err.message);
    return n;
}

static struct kv_scored scored(struct kv_objectives o, int tag)
{
    return (struct kv_scored){ .error = o.error, .bits = o.bits, .tag = tag };
}

static double exhaustive_hypervolume(const struct problem *p, double error_reference, double bits_reference)
{
    struct kv_scored *all = malloc(SPACE * sizeof *all);
    for (int code = 0; code < SPACE; code++) {
        uint8_t genome[GENES];
        for (int i = 0, rest = code; i < GENES; i++, rest /= CHOICES) genome[i] = (uint8_t)(rest % CHOICES);
        all[code] = scored(score(p, genome), code);
        if (all[code].bits < p->collapse_below) all[code].error = INFINITY;
    }
    double area = kv_front_hypervolume(all, SPACE, error_reference, bits_reference);
    free(all);
    return area;
}

static double archive_hypervolume(const struct kv_archive *a, double error_reference, double bits_reference)
{
    struct kv_scored all[TRIALS_CAP];
    for (int i = 0; i < a->genomes.n; i++) all[i] = scored(a->objectives[i], i);
    return kv_front_hypervolume(all, a->genomes.n, error_reference, bits_reference);
}

/* -------------------------------------------------------------------------------------------- quality -- */

/* Two runs of 200 trials with limits of 4 and 6 bits, over 20 problems: the share of the exhaustive
 * front's hypervolume below 6 bits and the error of the cheapest plan. As many random plans, measured
 * beside it, are the yardstick. */
static void two_runs_find_the_front_of_a_small_space(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        double mean = 0.0, mean_random = 0.0;
        for (int i = 0; i < 20; i++) {
            struct problem p;
            struct kv_archive archive, random;
            int trials[200];
            make_problem(&p, 100 + (uint64_t)i);
            static const uint8_t cheapest[GENES] = { 4, 4, 4, 4, 4 };
            double reference = score(&p, cheapest).error, all = exhaustive_hypervolume(&p, reference, 6.0);
            open_archive(&archive);
            open_archive(&random);
            struct kv_evolve_options opt = options(&p, methods[m]);
            for (int limit = 4; limit <= 6; limit += 2) {
                opt.bits_limit = limit;
                opt.seed = (uint64_t)(10 * i + limit);
                opt.population = 0;
                assert_int_equal(run(&archive, &opt, trials), 200);
                opt.population = 200; /* one generation: nothing but random plans */
                assert_int_equal(run(&random, &opt, trials), 200);
            }
            mean += archive_hypervolume(&archive, reference, 6.0) / all / 20;
            mean_random += archive_hypervolume(&random, reference, 6.0) / all / 20;
            kv_archive_close(&archive);
            kv_archive_close(&random);
        }
        print_message("%s: hypervolume %.4f of the exhaustive front's, random plans %.4f\n",
                      kv_evolve_method_name(methods[m]), mean, mean_random);
        assert_true(mean >= 0.95);
        assert_true(1.0 - mean < 0.5 * (1.0 - mean_random));
    }
}

/* Of 50 random plans next to none is within 3 bits; of the last 50 several times as many. */
static void limits_draw_the_search_below_them(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        struct problem p;
        struct kv_archive archive;
        int trials[200], within_first = 0, within_last = 0;
        make_problem(&p, 7);
        open_archive(&archive);
        struct kv_evolve_options opt = options(&p, methods[m]);
        opt.bits_limit = 3.0;
        assert_int_equal(run(&archive, &opt, trials), 200);
        for (int t = 0; t < 50; t++) {
            within_first += archive.objectives[trials[t]].bits <= 3.0;
            within_last += archive.objectives[trials[150 + t]].bits <= 3.0;
        }
        print_message("%s: %d of the first 50 within the limit, %d of the last\n",
                      kv_evolve_method_name(methods[m]), within_first, within_last);
        assert_true(within_last >= 10 && within_last >= 5 * within_first);
        assert_true(within_last < 50); /* soft: plans beyond it are still measured */
        kv_archive_close(&archive);
    }
}

/* With a limit that no plan keeps, the plans that come nearest to it are sought. */
static void an_impossible_limit_is_approached(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        struct problem p;
        struct kv_archive archive;
        int trials[200];
        make_problem(&p, 8);
        open_archive(&archive);
        struct kv_evolve_options opt = options(&p, methods[m]);
        opt.bits_limit = 1.0;
        assert_int_equal(run(&archive, &opt, trials), 200);
        double least = INFINITY;
        for (int t = 0; t < 200; t++) least = fmin(least, archive.objectives[trials[t]].bits);
        assert_true(least == 2.0);
        kv_archive_close(&archive);
    }
}

/* ------------------------------------------------------------------------------------------- promises -- */

static void every_genome_is_measured_once_in_batches(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        struct problem p;
        struct kv_archive archive;
        int trials[230];
        make_problem(&p, 9);
        open_archive(&archive);
        struct kv_evolve_options opt = options(&p, methods[m]);
        opt.n_trials = 230;
        assert_int_equal(run(&archive, &opt, trials), 230);
        assert_int_equal(archive.genomes.n, 230);
        static const int batches[] = { 50, 50, 50, 50, 30 };
        assert_int_equal(p.n_calls, 5);
        assert_memory_equal(p.batch, batches, sizeof batches);
        for (int i = 0; i < 230; i++) {
            const uint8_t *genome = kv_genomes_at(&archive.genomes, i);
            assert_int_equal(trials[i], i);
            for (int j = 0; j < i; j++)
                assert_memory_not_equal(genome, kv_genomes_at(&archive.genomes, j), GENES);
            struct kv_objectives o = score(&p, genome);
            assert_true(o.error == archive.objectives[i].error && o.bits == archive.objectives[i].bits);
        }
        kv_archive_close(&archive);
    }
}

static void a_small_space_is_searched_to_its_end(void **state)
{
    (void)state;
    static const int few[GENES] = { 2, 1, 3, 1, 2 };
    for (int m = 0; m < 2; m++) {
        for (int population = 1; population <= 20; population += 4) {
            struct problem p;
            struct kv_archive archive;
            int trials[200];
            make_problem(&p, 10);
            open_archive(&archive);
            struct kv_evolve_options opt = options(&p, methods[m]);
            opt.n_choices = few;
            opt.population = population;
            assert_int_equal(run(&archive, &opt, trials), 12);
            assert_int_equal(archive.genomes.n, 12);
            for (int i = 0; i < 12; i++)
                for (int g = 0; g < GENES; g++) assert_true(kv_genomes_at(&archive.genomes, i)[g] < few[g]);
            kv_archive_close(&archive);
        }
    }
}

static void expect_same_trials(const struct kv_archive *a, const int *x, const struct kv_archive *b,
                               const int *y, int n, bool same)
{
    bool equal = true;
    for (int i = 0; i < n; i++)
        equal &= !memcmp(kv_genomes_at(&a->genomes, x[i]), kv_genomes_at(&b->genomes, y[i]), GENES);
    assert_int_equal(equal, same);
}

static void the_seed_decides_the_trials(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        struct problem p;
        struct kv_archive a, b, c;
        int trials[3][200];
        make_problem(&p, 11);
        open_archive(&a);
        open_archive(&b);
        open_archive(&c);
        struct kv_evolve_options opt = options(&p, methods[m]);
        run(&a, &opt, trials[0]);
        run(&b, &opt, trials[1]);
        opt.seed = 2;
        run(&c, &opt, trials[2]);
        expect_same_trials(&a, trials[0], &b, trials[1], 200, true);
        expect_same_trials(&a, trials[0], &c, trials[2], 50, false);
        kv_archive_close(&a);
        kv_archive_close(&b);
        kv_archive_close(&c);
    }
}

/* A second run over the same archive measures only what is new, and takes the path it would take alone. */
static void what_an_earlier_run_measured_is_looked_up(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        struct problem p;
        struct kv_archive shared, alone;
        int first[200], second[200], expected[200];
        make_problem(&p, 12);
        open_archive(&shared);
        open_archive(&alone);
        struct kv_evolve_options opt = options(&p, methods[m]);
        run(&shared, &opt, first);
        int n_calls = p.n_calls;
        assert_int_equal(run(&shared, &opt, second), 200); /* all of it known */
        assert_int_equal(p.n_calls, n_calls);
        assert_int_equal(shared.genomes.n, 200);
        assert_memory_equal(first, second, sizeof first);

        opt.bits_limit = 4.0;
        opt.seed = 3;
        run(&shared, &opt, second);
        run(&alone, &opt, expected);
        assert_true(shared.genomes.n < 400); /* some were known, given so many good plans */
        expect_same_trials(&shared, second, &alone, expected, 200, true);
        kv_archive_close(&shared);
        kv_archive_close(&alone);
    }
}

/* Everything below 4 bits collapses: what is left of the front is found all the same. */
static void collapsed_plans_do_no_harm(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        struct problem p;
        struct kv_archive archive;
        int trials[300], n_collapsed = 0;
        static const uint8_t cheapest[GENES] = { 4, 4, 4, 4, 4 };
        make_problem(&p, 13);
        double reference = score(&p, cheapest).error;
        p.collapse_below = 4.0;
        open_archive(&archive);
        struct kv_evolve_options opt = options(&p, methods[m]);
        opt.n_trials = 300;
        run(&archive, &opt, trials);
        for (int t = 0; t < 300; t++) {
            assert_true(!isnan(archive.objectives[trials[t]].error));
            n_collapsed += isinf(archive.objectives[trials[t]].error) != 0;
        }
        assert_true(n_collapsed > 0);
        double share = archive_hypervolume(&archive, reference, 8.0) /
                       exhaustive_hypervolume(&p, reference, 8.0);
        print_message("%s: hypervolume %.4f\n", kv_evolve_method_name(methods[m]), share);
        assert_true(share >= 0.95);
        kv_archive_close(&archive);
    }
}

static void a_callback_that_fails_ends_the_search(void **state)
{
    (void)state;
    static const kvant_status failures[] = { KVANT_ERR_CANCELLED, KVANT_ERR_MEMORY, KVANT_ERR_IO };
    for (int m = 0; m < 2; m++) {
        for (int f = 0; f < 3; f++) {
            struct problem p;
            struct kv_archive archive;
            int trials[200], n = -1;
            struct kvant_error err = { 0 };
            make_problem(&p, 14);
            p.fail_at = f;
            p.failure = failures[f];
            open_archive(&archive);
            struct kv_evolve_options opt = options(&p, methods[m]);
            assert_int_equal(kv_evolve_run(&archive, &opt, trials, &n, &err), failures[f]);
            assert_string_equal(err.message, "as asked");
            assert_int_equal(n, 50 * f); /* whole generations, measured before */
            assert_int_equal(archive.genomes.n, 50 * f);

            int again[200];
            struct kv_archive whole; /* running again with the log goes on where it ended */
            open_archive(&whole);
            p.fail_at = -1;
            run(&whole, &opt, again);
            assert_int_equal(run(&archive, &opt, trials), 200);
            expect_same_trials(&whole, again, &archive, trials, 200, true);
            kv_archive_close(&whole);
            kv_archive_close(&archive);
        }
    }
}

static kvant_status endless_bits(void *user, const uint8_t *genomes, int n, struct kv_objectives *out,
                                 struct kvant_error *err)
{
    kvant_status status = evaluate(user, genomes, n, out, err);
    out[n - 1].bits = INFINITY;
    return status;
}

static void expect_refused(const struct kv_archive *archive, const struct kv_evolve_options *opt,
                           kvant_status status, const char *message)
{
    struct kv_archive copy = *archive;
    struct kvant_error err = { 0 };
    int trials[200], n = -1;
    assert_int_equal(kv_evolve_run(&copy, opt, trials, &n, &err), status);
    assert_int_equal(n, 0);
    if (!strstr(err.message, message)) fail_msg("'%s' does not say '%s'", err.message, message);
}

static void options_out_of_range_are_refused(void **state)
{
    (void)state;
    struct problem p;
    struct kv_archive archive;
    make_problem(&p, 15);
    open_archive(&archive);
    static const int none[GENES] = { 5, 5, 0, 5, 5 }, many[GENES] = { 5, 5, 5, 5, 257 };
    const struct kv_evolve_options good = options(&p, KV_EVOLVE_NSGA2);
    struct kv_evolve_options opt = good;
    opt.method = (enum kv_evolve_method)7;
    expect_refused(&archive, &opt, KVANT_ERR_ARGUMENT, "method 7");
    opt = good, opt.n_genes = 4;
    expect_refused(&archive, &opt, KVANT_ERR_ARGUMENT, "4 genes, the archive has 5");
    opt = good, opt.n_choices = none;
    expect_refused(&archive, &opt, KVANT_ERR_ARGUMENT, "gene 2 has 0 choices");
    opt = good, opt.n_choices = many;
    expect_refused(&archive, &opt, KVANT_ERR_ARGUMENT, "gene 4 has 257 choices");
    opt = good, opt.bits_limit = NAN;
    expect_refused(&archive, &opt, KVANT_ERR_ARGUMENT, "bits_limit");
    opt = good, opt.n_trials = -1;
    expect_refused(&archive, &opt, KVANT_ERR_ARGUMENT, "n_trials -1");
    opt = good, opt.population = -1;
    expect_refused(&archive, &opt, KVANT_ERR_ARGUMENT, "population -1");
    opt = good, opt.n_trials = TRIALS_CAP + 1;
    expect_refused(&archive, &opt, KVANT_ERR_ARGUMENT, "room for 600 trials");
    opt = good, opt.evaluate = endless_bits;
    expect_refused(&archive, &opt, KVANT_ERR_NUMERIC, "inf bits");
    kv_archive_close(&archive);
}

static void each_refused_allocation_is_an_error_without_a_leak(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        struct problem p;
        make_problem(&p, 16);
        int before = hooks.n_live, n_refused = 0;
        for (long i = 0;; i++, n_refused++) {
            struct kv_archive archive;
            struct kvant_error err = { 0 };
            int trials[200], n = 0;
            hooks.n_calls = 0;
            hooks.fail_at = i;
            struct kv_evolve_options opt = options(&p, methods[m]);
            kvant_status status = kv_archive_open(&archive, GENES, TRIALS_CAP, &err);
            if (status == KVANT_OK) status = kv_evolve_run(&archive, &opt, trials, &n, &err);
            hooks.fail_at = -1;
            bool refused = hooks.n_calls > i;
            kv_archive_close(&archive);
            assert_int_equal(hooks.n_live, before);
            assert_int_equal(status, refused ? KVANT_ERR_MEMORY : KVANT_OK);
            if (!refused) break;
            assert_int_equal(err.status, KVANT_ERR_MEMORY);
        }
        assert_true(n_refused >= 9);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_runs_find_the_front_of_a_small_space),
        cmocka_unit_test(limits_draw_the_search_below_them),
        cmocka_unit_test(an_impossible_limit_is_approached),
        cmocka_unit_test(every_genome_is_measured_once_in_batches),
        cmocka_unit_test(a_small_space_is_searched_to_its_end),
        cmocka_unit_test(the_seed_decides_the_trials),
        cmocka_unit_test(what_an_earlier_run_measured_is_looked_up),
        cmocka_unit_test(collapsed_plans_do_no_harm),
        cmocka_unit_test(a_callback_that_fails_ends_the_search),
        cmocka_unit_test(options_out_of_range_are_refused),
        cmocka_unit_test(each_refused_allocation_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
