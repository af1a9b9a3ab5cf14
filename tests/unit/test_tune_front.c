/* Ranks, crowding, fronts and hypervolume against their definitions. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "tune/front.h"

enum { N = 40 };

/* On a small grid, so that equal objectives and equal violations occur; some errors infinite. */
static void fill(struct kv_scored *s, int n, struct kv_random *r)
{
    for (int i = 0; i < n; i++) {
        s[i] = (struct kv_scored){ .error = kv_random_below(r, 8), .bits = kv_random_below(r, 8), .tag = i };
        s[i].violation = kv_random_below(r, 3) ? -1.0 : kv_random_below(r, 4);
        if (kv_random_below(r, 10) == 0) s[i].error = INFINITY;
    }
}

static bool constrained_dominates(const struct kv_scored *a, const struct kv_scored *b)
{
    bool a_within = a->violation <= 0, b_within = b->violation <= 0;
    if (a_within && b_within) return kv_scored_dominates(a, b);
    if (a_within != b_within) return a_within;
    return a->violation < b->violation;
}

/* Rank by the definition: one more than the largest rank among those that dominate it. */
static void ranks_by_definition(const struct kv_scored *s, int n, int *rank)
{
    for (int i = 0; i < n; i++) rank[i] = 0;
    for (bool changed = true; changed;) {
        changed = false;
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < n; j++) {
                if (!constrained_dominates(&s[j], &s[i]) || rank[i] > rank[j]) continue;
                rank[i] = rank[j] + 1;
                changed = true;
            }
        }
    }
}

static void ranks_are_those_of_the_definition(void **state)
{
    (void)state;
    struct kv_random r;
    kv_random_seed(&r, 1);
    for (int round = 0; round < 200; round++) {
        struct kv_scored s[N], given[N];
        int rank[N], n = 1 + kv_random_below(&r, N);
        fill(s, n, &r);
        memcpy(given, s, sizeof s);
        ranks_by_definition(given, n, rank);
        kv_front_sort(s, n);
        for (int i = 0; i < n; i++) {
            assert_int_equal(s[i].rank, rank[s[i].tag]);
            assert_true(s[i].error == given[s[i].tag].error && s[i].bits == given[s[i].tag].bits);
            if (i) assert_true(kv_scored_before(&s[i - 1], &s[i]) && !kv_scored_before(&s[i], &s[i - 1]));
        }
    }
}

static void the_order_does_not_depend_on_the_order_given(void **state)
{
    (void)state;
    struct kv_random r;
    kv_random_seed(&r, 2);
    struct kv_scored s[N], t[N];
    fill(s, N, &r);
    memcpy(t, s, sizeof s);
    for (int i = N - 1; i > 0; i--) {
        int j = kv_random_below(&r, i + 1);
        struct kv_scored swap = t[i];
        t[i] = t[j];
        t[j] = swap;
    }
    kv_front_sort(s, N);
    kv_front_sort(t, N);
    for (int i = 0; i < N; i++) {
        assert_int_equal(s[i].tag, t[i].tag);
        assert_true(s[i].crowding == t[i].crowding);
    }
}

/* One front of four: (bits, error) (2, 9) (3, 5) (6, 4) (8, 1). Inner points: (6 - 2) / 6 + (9 - 4) / 8 and
 * (8 - 3) / 6 + (5 - 1) / 8; the ends are infinite. */
static void crowding_by_hand(void **state)
{
    (void)state;
    struct kv_scored s[] = { { .error = 4, .bits = 6, .tag = 0 },
                             { .error = 9, .bits = 2, .tag = 1 },
                             { .error = 1, .bits = 8, .tag = 2 },
                             { .error = 5, .bits = 3, .tag = 3 } };
    kv_front_sort(s, 4);
    double expected[] = { 5.0 / 6 + 4.0 / 8, INFINITY, INFINITY, 4.0 / 6 + 5.0 / 8 };
    for (int i = 0; i < 4; i++) {
        assert_int_equal(s[i].rank, 0);
        double want = expected[s[i].tag];
        assert_true(isinf(want) ? isinf(s[i].crowding) : fabs(s[i].crowding - want) < 1e-12);
    }
    assert_int_equal(s[2].tag, 0); /* 1.333 before 1.292 */
    assert_int_equal(s[3].tag, 3);
}

/* The collapsed end of a front counts as the largest finite error, so that no distance is NaN. */
static void crowding_with_a_collapsed_end(void **state)
{
    (void)state;
    struct kv_scored s[] = { { .error = INFINITY, .bits = 2, .tag = 0 },
                             { .error = 3, .bits = 4, .tag = 1 },
                             { .error = 2, .bits = 5, .tag = 2 },
                             { .error = 1, .bits = 6, .tag = 3 } };
    kv_front_sort(s, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(s[i].rank, 0);
        if (s[i].tag == 1) assert_true(fabs(s[i].crowding - (3.0 / 4 + 1.0 / 2)) < 1e-12);
        if (s[i].tag == 2) assert_true(fabs(s[i].crowding - (2.0 / 4 + 2.0 / 2)) < 1e-12);
    }
}

static void the_front_is_what_none_dominates(void **state)
{
    (void)state;
    struct kv_random r;
    kv_random_seed(&r, 3);
    for (int round = 0; round < 200; round++) {
        struct kv_scored s[N], given[N];
        fill(s, N, &r);
        memcpy(given, s, sizeof s);
        int n = kv_front_keep(s, N);
        bool kept[N] = { false };
        for (int i = 0; i < n; i++) {
            kept[s[i].tag] = true;
            if (i) assert_true(s[i].bits > s[i - 1].bits && s[i].error < s[i - 1].error);
        }
        for (int i = 0; i < N; i++) {
            bool best = true;
            for (int j = 0; j < N; j++) {
                bool twin = given[j].error == given[i].error && given[j].bits == given[i].bits && j < i;
                best &= !kv_scored_dominates(&given[j], &given[i]) && !twin;
            }
            assert_int_equal(kept[i], best);
        }
        bool seen[N] = { false }; /* nothing is lost */
        for (int i = 0; i < N; i++) seen[s[i].tag] = true;
        for (int i = 0; i < N; i++) assert_true(seen[i]);
    }
}

/* On a grid of whole numbers the area is the number of unit cells whose lower corner some point reaches. */
static void the_hypervolume_counts_dominated_cells(void **state)
{
    (void)state;
    struct kv_random r;
    kv_random_seed(&r, 4);
    for (int round = 0; round < 200; round++) {
        struct kv_scored s[N];
        int n = kv_random_below(&r, 12), cells = 0;
        fill(s, n, &r);
        for (int x = 0; x < 7; x++) {
            for (int y = 0; y < 6; y++) {
                bool reached = false;
                for (int i = 0; i < n; i++) reached |= s[i].error <= x && s[i].bits <= y;
                cells += reached;
            }
        }
        assert_true(kv_front_hypervolume(s, n, 7.0, 6.0) == (double)cells);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_are_those_of_the_definition),
        cmocka_unit_test(the_order_does_not_depend_on_the_order_given),
        cmocka_unit_test(crowding_by_hand),
        cmocka_unit_test(crowding_with_a_collapsed_end),
        cmocka_unit_test(the_front_is_what_none_dominates),
        cmocka_unit_test(the_hypervolume_counts_dominated_cells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
