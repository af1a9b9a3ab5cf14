/* The allocation over layers against every combination. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tune/allocate.h"

enum { LAYERS = 5, OPTIONS = 6 };

static uint64_t rng_state = 11;
static unsigned below(unsigned n)
{
    rng_state = rng_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(rng_state >> 33) % n;
}

/* Least error within the budget by trying all 6^5 choices; infinite when none fits. */
static double brute_force(struct kv_option options[LAYERS][OPTIONS], int64_t budget)
{
    double best = INFINITY;
    for (int code = 0; code < 7776; code++) {
        int64_t cost = 0;
        double error = 0.0;
        for (int layer = 0, rest = code; layer < LAYERS; layer++, rest /= OPTIONS) {
            cost += options[layer][rest % OPTIONS].cost;
            error += options[layer][rest % OPTIONS].error;
        }
        if (cost <= budget) best = fmin(best, error);
    }
    return best;
}

static void every_budget_gets_the_best_choice(void **state)
{
    (void)state;
    for (int trial = 0; trial < 30; trial++) {
        struct kv_option options[LAYERS][OPTIONS];
        int64_t unit = 1 + below(4);
        for (int layer = 0; layer < LAYERS; layer++)
            for (int o = 0; o < OPTIONS; o++)
                options[layer][o] = (struct kv_option){ unit * (3 + below(20)), (double)below(1000) * 1e-4 };
        struct kv_allocation a;
        struct kvant_error err = { 0 };
        assert_int_equal(kv_allocation_open(&a, &options[0][0], LAYERS, OPTIONS, 60 * unit, &err), KVANT_OK);
        for (int64_t budget = 0; budget <= 70 * unit; budget += 1 + below(3)) {
            int choice[LAYERS];
            double found, best = brute_force(options, budget < 60 * unit ? budget : 60 * unit);
            if (!kv_allocation_choose(&a, budget, choice, &found)) {
                assert_true(isinf(best));
                continue;
            }
            assert_true(fabs(found - best) < 1e-12);
            int64_t cost = 0;
            double error = 0.0;
            for (int layer = 0; layer < LAYERS; layer++) {
                cost += options[layer][choice[layer]].cost;
                error += options[layer][choice[layer]].error;
            }
            assert_true(cost <= budget);
            assert_true(fabs(error - found) < 1e-12);
        }
        kv_allocation_close(&a);
    }
}

static void a_budget_below_everything_has_no_choice(void **state)
{
    (void)state;
    struct kv_option options[2] = { { 10, 1.0 }, { 20, 0.5 } };
    struct kv_allocation a;
    struct kvant_error err = { 0 };
    int choice[2];
    double error;
    assert_int_equal(kv_allocation_open(&a, options, 1, 2, 100, &err), KVANT_OK);
    assert_int_equal(a.unit, 10);
    assert_false(kv_allocation_choose(&a, 9, choice, &error));
    assert_true(kv_allocation_choose(&a, 19, choice, &error) && choice[0] == 0);
    assert_true(kv_allocation_choose(&a, 20, choice, &error) && choice[0] == 1 && error == 0.5);
    assert_true(kv_allocation_choose(&a, 1000, choice, &error) && choice[0] == 1);
    kv_allocation_close(&a);
    assert_int_equal(kv_allocation_open(&a, options, 1, 2, INT64_MAX, &err), KVANT_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_budget_gets_the_best_choice),
        cmocka_unit_test(a_budget_below_everything_has_no_choice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
