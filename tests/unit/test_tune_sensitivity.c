/* What is read off between measured choices, and the choices themselves. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tune/sensitivity.h"

static void between_measured_choices_lies_a_straight_line(void **state)
{
    (void)state;
    static const struct kv_choice_list list = {
        5, { { "a", 0, false }, { "b", 0, true }, { "c", 0, false }, { "d", 0, true }, { "e", 0, false } }
    };
    const double error[] = { 1000, 100, 10, 1, 0.01 };
    double kld[] = { 0, 1e-2, 0, 1e-6, 0 };
    kv_sensitivity_derive(&list, error, kld);
    assert_true(fabs(log10(kld[2]) - -4.0) < 1e-9); /* halfway, in logarithms, between 1e-2 and 1e-6 */
    assert_true(kld[1] == 1e-2 && kld[3] == 1e-6);
    /* beyond: one slope for all, a little above 1 */
    double slope = log10(kld[0] / kld[1]);
    assert_true(slope >= 1.0 && slope <= 1.5);
    assert_true(fabs(log10(kld[3] / kld[4]) - 2 * slope) < 1e-9);
}

static void kinds_do_not_mix(void **state)
{
    (void)state;
    static const struct kv_choice_list list = {
        4, { { "a", 0, true }, { "b", 1, true }, { "c", 0, false }, { "d", 1, false } }
    };
    const double error[] = { 4, 4, 1, 1 };
    double kld[] = { 1e-3, 1e-5, 0, 0 };
    kv_sensitivity_derive(&list, error, kld);
    assert_true(kld[2] < 1e-3 && kld[2] > 1e-5);
    assert_true(fabs(kld[3] / kld[2] - 1e-2) < 1e-9);
}

static void nothing_measured_is_not_nothing(void **state)
{
    (void)state;
    static const struct kv_choice_list list = { 2, { { "a", 0, true }, { "b", 0, false } } };
    const double error[] = { 1, 1e-3 };
    double kld[] = { 0.0, 0 };
    kv_sensitivity_derive(&list, error, kld);
    assert_true(kld[0] > 0 && kld[0] < 1e-9 && kld[1] > 0 && kld[1] < kld[0]);
}

/* Bits that a token takes follow from the grammar:
 * codes, and 32 bits of scale and minimum per 64 elements. */
static void choices_cost_what_the_grammar_says(void **state)
{
    (void)state;
    struct kvant_error err = { 0 };
    for (int mixed = 0; mixed < 2; mixed++)
        for (int side = 0; side < KV_SIDES; side++) {
            const struct kv_choice_list *list = kv_choices(mixed, (enum kv_side)side);
            int64_t before = 0;
            for (int i = 0; i < list->n; i++) {
                struct kv_recipe r;
                int64_t cost;
                bool key = side == KV_SIDE_KEY;
                assert_int_equal(kv_choice_recipe(mixed, key ? i : -1, key ? -1 : i, &r, &err), KVANT_OK);
                assert_int_equal(kv_choice_cost(mixed, (enum kv_side)side, i, 64, &cost, &err), KVANT_OK);
                double bits = key ? kv_recipe_key_bits(&r) : r.value_bits;
                double overhead = key && r.key_scheme == KV_KEY_C32 ? 1.0 : 0.5;
                if (key ? r.key_short : r.value_short) overhead /= 2;
                assert_true(cost == llround(64 * (bits + overhead)));
                assert_true(cost >= before);
                before = cost;
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(between_measured_choices_lies_a_straight_line),
        cmocka_unit_test(kinds_do_not_mix),
        cmocka_unit_test(nothing_measured_is_not_nothing),
        cmocka_unit_test(choices_cost_what_the_grammar_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
