/* Clusters of layers: against textbook DBSCAN, in any order of the layers; and what a list of groups must
 * be. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "support/allocation_hooks.h"
#include "tune/cluster.h"

enum { LAYERS = 40, PAIRS = 4 };

struct layers {
    int n;
    kv_pair_set candidates[LAYERS];
    double error[LAYERS][PAIRS];
};

static void cluster(struct kv_groups *out, const struct layers *l, double eps, int min_points)
{
    struct kvant_error err = { 0 };
    if (kv_cluster(out, l->n, PAIRS, l->candidates, &l->error[0][0], eps, min_points, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    assert_int_equal(kv_groups_check(out, l->n, l->candidates, kv_pairs_paper, PAIRS, &err), KVANT_OK);
    for (int g = 0; g < out->n_groups; g++) { /* in their promised order */
        if (g) assert_true(out->layer[out->begin[g]] > out->layer[out->begin[g - 1]]);
        for (int i = out->begin[g] + 1; i < out->begin[g + 1]; i++)
            assert_true(out->layer[i] > out->layer[i - 1]);
    }
}

/* "0,2;1;3" */
static void expect_groups(const struct layers *l, double eps, int min_points, const char *expected)
{
    struct kv_groups groups;
    cluster(&groups, l, eps, min_points);
    char text[256] = "";
    size_t at = 0;
    for (int g = 0; g < groups.n_groups; g++)
        for (int i = groups.begin[g]; i < groups.begin[g + 1]; i++)
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%d",
                                   i > groups.begin[g] ? ","
                                   : g                 ? ";"
                                                       : "",
                                   groups.layer[i]);
    assert_string_equal(text, expected);
    kv_groups_close(&groups);
}

static void chains_join_and_noise_stays_alone(void **state)
{
    (void)state;
    /* on a line: 0 and 1 near each other, 3 near 1, so far from 0; 2 and 4 alone */
    struct layers l = { 5, { 3, 3, 3, 3, 3 }, { { 0 }, { .04 }, { .5 }, { .08 }, { .9 } } };
    expect_groups(&l, KV_CLUSTER_EPS, KV_CLUSTER_MIN_POINTS, "0,1,3;2;4");
    expect_groups(&l, 0.03, 2, "0;1;2;3;4");
    expect_groups(&l, 1.0, 2, "0,1,2,3,4");
    expect_groups(&l, 0.0, 2, "0;1;2;3;4");
    expect_groups(&l, 0.0, 1, "0;1;2;3;4");
}

static void layers_with_other_candidates_are_never_joined(void **state)
{
    (void)state;
    struct layers l = { 4,
                        { 3, 5, 3, 5 },
                        { { .1, .2, .9 }, { .1, .2, .9 }, { .1, .2, .1 }, { .1, .9, .9 } } };
    /* each pair differs only in a pair that is no candidate there */
    expect_groups(&l, KV_CLUSTER_EPS, 2, "0,2;1,3");
}

static void the_distance_is_euclidean_and_eps_belongs_to_it(void **state)
{
    (void)state;
    struct layers l = { 2, { 3, 3 }, { { 0, 0 }, { 3, 4 } } };
    expect_groups(&l, 5.0, 2, "0,1");
    expect_groups(&l, 4.9999, 2, "0;1");
}

/* Two clusters of four on a line and a point between them that reaches one core of each. */
static void a_border_point_goes_to_its_nearest_core(void **state)
{
    (void)state;
    struct layers l = { 9,
                        { 1, 1, 1, 1, 1, 1, 1, 1, 1 },
                        { { 0 }, { .25 }, { .5 }, { 1 }, { 2.0625 }, { 3 }, { 3.25 }, { 3.5 }, { 3.75 } } };
    expect_groups(&l, 1.0625, 4, "0,1,2,3;4,5,6,7,8");
    l.error[4][0] = 1.9375;
    expect_groups(&l, 1.0625, 4, "0,1,2,3,4;5,6,7,8");
    l.error[4][0] = 2.0; /* equally near: to the lower layer */
    expect_groups(&l, 1.0625, 4, "0,1,2,3,4;5,6,7,8");
    expect_groups(&l, 1.0625, 3, "0,1,2,3,4,5,6,7,8"); /* now it is a core itself, and joins them */
    expect_groups(&l, 0.875, 4, "0,1,2,3;4;5,6,7,8");
}

static void fill(struct layers *l, struct kv_random *r, double width)
{
    l->n = 2 + kv_random_below(r, LAYERS - 1);
    for (int i = 0; i < l->n; i++) {
        l->candidates[i] = kv_random_below(r, 3) ? 15 : 7;
        for (int p = 0; p < PAIRS; p++) l->error[i][p] = width * kv_random_unit(r);
    }
}

static double distance(const struct layers *l, int a, int b)
{
    if (l->candidates[a] != l->candidates[b]) return INFINITY;
    double sum = 0.0;
    for (int p = 0; p < PAIRS; p++)
        if (l->candidates[a] >> p & 1) sum += pow(l->error[a][p] - l->error[b][p], 2);
    return sqrt(sum);
}

static int neighbours(const struct layers *l, int a, double eps, int *out)
{
    int n = 0;
    for (int b = 0; b < l->n; b++)
        if (distance(l, a, b) <= eps) out[n++] = b;
    return n;
}

/* Ester et al. 1996, as printed: clusters grow from unvisited points in the order given. Noise is -1. */
static void textbook_dbscan(const struct layers *l, double eps, int min_points, const int *order, int *label)
{
    bool visited[LAYERS] = { false };
    for (int i = 0; i < l->n; i++) label[i] = -1;
    for (int o = 0; o < l->n; o++) {
        int seeds[LAYERS * LAYERS], first = order[o];
        if (visited[first]) continue;
        visited[first] = true;
        int n = neighbours(l, first, eps, seeds);
        if (n < min_points) continue;
        label[first] = first;
        for (int i = 0; i < n; i++) {
            int q = seeds[i];
            if (!visited[q]) {
                visited[q] = true;
                int more[LAYERS], m = neighbours(l, q, eps, more);
                if (m >= min_points)
                    for (int j = 0; j < m; j++) seeds[n++] = more[j];
            }
            if (label[q] < 0) label[q] = first;
        }
    }
}

static void shuffle(int *order, int n, struct kv_random *r)
{
    for (int i = 0; i < n; i++) order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = kv_random_below(r, i + 1), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

static void group_of_layers(const struct kv_groups *groups, int *group)
{
    for (int g = 0; g < groups->n_groups; g++)
        for (int i = groups->begin[g]; i < groups->begin[g + 1]; i++) group[groups->layer[i]] = g;
}

/* min_points 2, as the method has it: the textbook's clusters in every order, its noise one by one. */
static void it_is_dbscan_in_any_order(void **state)
{
    (void)state;
    struct kv_random r;
    kv_random_seed(&r, 6);
    int n_joined = 0, n_noise = 0;
    for (int round = 0; round < 100; round++) {
        struct layers l;
        fill(&l, &r, 0.15);
        struct kv_groups groups;
        cluster(&groups, &l, KV_CLUSTER_EPS, KV_CLUSTER_MIN_POINTS);
        int group[LAYERS], label[LAYERS], order[LAYERS];
        group_of_layers(&groups, group);
        shuffle(order, l.n, &r);
        textbook_dbscan(&l, KV_CLUSTER_EPS, KV_CLUSTER_MIN_POINTS, order, label);
        for (int a = 0; a < l.n; a++) {
            n_noise += label[a] < 0;
            for (int b = 0; b < a; b++) {
                bool together = label[a] >= 0 && label[a] == label[b];
                assert_int_equal(group[a] == group[b], together);
                n_joined += together;
            }
        }
        kv_groups_close(&groups);
    }
    assert_true(n_joined > 100 && n_noise > 100); /* the data had both */
}

/* The same layers under other numbers: the same partition, for any min_points. */
static void the_numbering_of_layers_does_not_matter(void **state)
{
    (void)state;
    struct kv_random r;
    kv_random_seed(&r, 7);
    for (int round = 0; round < 200; round++) {
        struct layers l, shuffled;
        int order[LAYERS], group[LAYERS], other[LAYERS], min_points = 1 + round % 4;
        fill(&l, &r, 0.12);
        shuffle(order, l.n, &r);
        shuffled.n = l.n;
        for (int i = 0; i < l.n; i++) {
            shuffled.candidates[i] = l.candidates[order[i]];
            memcpy(shuffled.error[i], l.error[order[i]], sizeof l.error[0]);
        }
        struct kv_groups a, b;
        cluster(&a, &l, KV_CLUSTER_EPS, min_points);
        cluster(&b, &shuffled, KV_CLUSTER_EPS, min_points);
        assert_int_equal(a.n_groups, b.n_groups);
        assert_int_equal(kv_groups_singletons(&a), kv_groups_singletons(&b));
        assert_true(kv_groups_space(&a, l.candidates) == kv_groups_space(&b, shuffled.candidates));
        group_of_layers(&a, group);
        group_of_layers(&b, other);
        for (int i = 0; i < l.n; i++)
            for (int j = 0; j < i; j++)
                assert_int_equal(group[order[i]] == group[order[j]], other[i] == other[j]);
        kv_groups_close(&a);
        kv_groups_close(&b);
    }
}

static void singletons_and_space_by_hand(void **state)
{
    (void)state;
    int begin[] = { 0, 1, 3, 4 }, layer[] = { 2, 0, 3, 1 };
    struct kv_groups groups = { 3, begin, layer };
    const kv_pair_set candidates[] = { 7, 15, 31, 7 };
    assert_int_equal(kv_groups_singletons(&groups), 2);
    assert_true(kv_groups_space(&groups, candidates) == 5.0 * 3 * 4);
}

static void expect_refused(int n_groups, int *begin, int *layer, const char *message)
{
    struct kv_groups groups = { n_groups, begin, layer };
    const kv_pair_set candidates[] = { 3, 3, 5, 3 };
    struct kvant_error err = { 0 };
    assert_int_equal(kv_groups_check(&groups, 4, candidates, kv_pairs_paper, 9, &err), KVANT_ERR_ARGUMENT);
    if (!strstr(err.message, message)) fail_msg("'%s' does not say '%s'", err.message, message);
}

static void wrong_groups_are_refused_by_layer(void **state)
{
    (void)state;
    int begin[] = { 0, 2, 4 }, three[] = { 0, 3, 4, 5 }, hollow[] = { 0, 3, 3, 4 };
    expect_refused(2, begin, (int[]){ 0, 1, 2, 4 }, "group 1 holds layer 4; there are layers 0 to 3");
    expect_refused(2, begin, (int[]){ 0, -1, 2, 3 }, "group 0 holds layer -1");
    expect_refused(2, begin, (int[]){ 0, 1, 2, 1 }, "layer 1 is in groups 0 and 1");
    expect_refused(2, begin, (int[]){ 0, 0, 2, 1 }, "layer 0 is listed twice in group 0");
    expect_refused(3, three, (int[]){ 0, 1, 3, 2, 3 }, "layer 3 is in groups 0 and 2");
    expect_refused(1, three, (int[]){ 0, 1, 3 }, "layer 2 is in no group");
    expect_refused(3, hollow, (int[]){ 0, 1, 3, 2 }, "group 1 holds no layer");
    expect_refused(2, begin, (int[]){ 0, 1, 2, 3 },
                   "group 1 joins layer 2 with candidates {KV8, K8V2} and layer 3 with {KV8, K8V4}");
}

static void options_out_of_range_are_refused(void **state)
{
    (void)state;
    struct layers l = { 2, { 3, 3 }, { { 0 } } };
    struct kv_groups groups;
    assert_int_equal(kv_cluster(&groups, 0, PAIRS, l.candidates, l.error[0], .05, 2, NULL),
                     KVANT_ERR_ARGUMENT);
    assert_int_equal(kv_cluster(&groups, 2, PAIRS, l.candidates, l.error[0], -.05, 2, NULL),
                     KVANT_ERR_ARGUMENT);
    assert_int_equal(kv_cluster(&groups, 2, PAIRS, l.candidates, l.error[0], NAN, 2, NULL),
                     KVANT_ERR_ARGUMENT);
    assert_int_equal(kv_cluster(&groups, 2, PAIRS, l.candidates, l.error[0], .05, 0, NULL),
                     KVANT_ERR_ARGUMENT);
}

static void each_refused_allocation_is_an_error_without_a_leak(void **state)
{
    (void)state;
    struct layers l = { 5, { 3, 3, 3, 3, 3 }, { { 0 }, { .04 }, { .5 }, { .08 }, { .9 } } };
    int before = hooks.n_live, n_refused = 0;
    for (long i = 0;; i++, n_refused++) {
        struct kv_groups groups;
        struct kvant_error err = { 0 };
        hooks.n_calls = 0;
        hooks.fail_at = i;
        kvant_status status = kv_cluster(&groups, l.n, PAIRS, l.candidates, l.error[0], .05, 2, &err);
        if (status == KVANT_OK) status = kv_groups_check(&groups, l.n, NULL, NULL, 0, &err);
        hooks.fail_at = -1;
        bool refused = hooks.n_calls > i;
        kv_groups_close(&groups);
        assert_int_equal(hooks.n_live, before);
        assert_int_equal(status, refused ? KVANT_ERR_MEMORY : KVANT_OK);
        if (!refused) break;
    }
    assert_true(n_refused >= 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains_join_and_noise_stays_alone),
        cmocka_unit_test(layers_with_other_candidates_are_never_joined),
        cmocka_unit_test(the_distance_is_euclidean_and_eps_belongs_to_it),
        cmocka_unit_test(a_border_point_goes_to_its_nearest_core),
        cmocka_unit_test(it_is_dbscan_in_any_order),
        cmocka_unit_test(the_numbering_of_layers_does_not_matter),
        cmocka_unit_test(singletons_and_space_by_hand),
        cmocka_unit_test(wrong_groups_are_refused_by_layer),
        cmocka_unit_test(options_out_of_range_are_refused),
        cmocka_unit_test(each_refused_allocation_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
