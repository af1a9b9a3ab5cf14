/* Where the router's d divides, by hand. */
#include "../../programs/router_threshold.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* gain ~ −.1 + .04 d: what the line says is lost adds up to −.1, .2, .9, 2.0 of 4 questions. */
static void a_line_by_hand(void **state)
{
    (void)state;
    const double d[] = { 20, 0, 30, 10 }, gain[] = { 1, 0, 1, 0 };
    assert_true(fabs(router_threshold(d, gain, 4, 0) - 5) < 1e-12);
    assert_true(fabs(router_threshold(d, gain, 4, .06) - 15) < 1e-12);
    assert_true(fabs(router_threshold(d, gain, 4, .22) - 15) < 1e-12);
    assert_true(fabs(router_threshold(d, gain, 4, .23) - 25) < 1e-12);
    assert_true(fabs(router_threshold(d, gain, 4, .6) - 31) < 1e-12); /* all are fast */
}

/* A line that would fall is flat: each question is expected to lose .5, whatever its d. */
static void what_falls_tells_nothing(void **state)
{
    (void)state;
    const double d[] = { 0, 10, 20, 30 }, gain[] = { 1, 1, 0, 0 }, same[] = { 7, 7, 7, 7 };
    assert_true(router_threshold(d, gain, 4, .1) == -1); /* all are slow */
    assert_true(router_threshold(d, gain, 4, .3) == 15);
    assert_true(router_threshold(same, gain, 4, .1) == 6);
    assert_true(router_threshold(d, gain, 0, .1) == 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_by_hand),
        cmocka_unit_test(what_falls_tells_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
