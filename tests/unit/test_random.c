/* The generator: reference values, its range, its evenness, and that seeds matter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"

/* splitmix64 of seeds 0 and 1 as its author publishes it: the first outputs of his generator. */
static void the_seed_is_hashed_by_splitmix64(void **state)
{
    (void)state;
    struct kv_random r;
    kv_random_seed(&r, 0);
    assert_true(r.state == 0xe220a8397b1dcdafu);
    kv_random_seed(&r, 1234567);
    assert_true(r.state == 6457827717110365317u);
}

static void equal_seeds_give_equal_sequences_and_others_do_not(void **state)
{
    (void)state;
    struct kv_random a, b, c;
    kv_random_seed(&a, 7);
    kv_random_seed(&b, 7);
    kv_random_seed(&c, 8);
    int n_same = 0;
    for (int i = 0; i < 1000; i++) {
        int x = kv_random_below(&a, 1 << 20);
        assert_int_equal(x, kv_random_below(&b, 1 << 20));
        n_same += x == kv_random_below(&c, 1 << 20);
    }
    assert_true(n_same < 5);
}

/* The generator takes every seed, and the zero state, which would stay zero, is never reached: the hash of
 * this seed is 0. */
static void the_zero_state_is_avoided(void **state)
{
    (void)state;
    struct kv_random r;
    kv_random_seed(&r, 0 - 0x9e3779b97f4a7c15u);
    assert_true(r.state != 0);
    double first = kv_random_unit(&r);
    assert_true(first >= 0.0 && first < 1.0 && kv_random_unit(&r) != first);
}

static void numbers_are_in_range_and_even(void **state)
{
    (void)state;
    enum { CELLS = 7, DRAWS = 70000 };
    int count[CELLS] = { 0 };
    struct kv_random r;
    kv_random_seed(&r, 3);
    for (int i = 0; i < DRAWS; i++) {
        int x = kv_random_below(&r, CELLS);
        assert_in_range(x, 0, CELLS - 1);
        count[x]++;
    }
    /* standard deviation of a cell: sqrt(70000 · 1/7 · 6/7) = 93; 5 of them */
    for (int i = 0; i < CELLS; i++) assert_in_range(count[i], DRAWS / CELLS - 463, DRAWS / CELLS + 463);
    for (int i = 0; i < 100; i++) assert_int_equal(kv_random_below(&r, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_seed_is_hashed_by_splitmix64),
        cmocka_unit_test(equal_seeds_give_equal_sequences_and_others_do_not),
        cmocka_unit_test(the_zero_state_is_avoided),
        cmocka_unit_test(numbers_are_in_range_and_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
