/* Intra-layer pruning: the paper's table, sets that are not the standard one, ties, and the definition. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "tune/prune.h"

static void expect_set(const double *error, const char *expected)
{
    kv_pair_set set;
    int n_ties;
    struct kvant_error err = { 0 };
    if (kv_prune(kv_pairs_paper, 9, error, &set, NULL, &n_ties, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    char text[128];
    kv_pair_set_print(set, kv_pairs_paper, 9, text, sizeof text);
    assert_string_equal(text, expected);
    assert_int_equal(n_ties, 0);
}

/* Errors in the order KV8 K8V4 K8V2 K4V8 KV4 K4V2 K2V8 K2V4 KV2. The first row is the paper's table 3
 * (Llama-3.1-8B-Instruct, per token, mean over layers). */
static void the_published_sets_appear(void **state)
{
    (void)state;
    static const struct {
        double error[9];
        const char *set;
    } cases[] = {
        { { .014, .100, .401, .168, .207, .453, .882, .892, .962 }, "{KV8, K8V4, KV4, K4V2, KV2}" },
        /* values matter more: K4V8 before K8V4, K2V4 before K4V2 */
        { { .014, .168, .882, .100, .207, .453, .401, .892, .962 }, "{KV8, K4V8, KV4, K4V2, KV2}" },
        { { .014, .168, .882, .100, .207, .892, .401, .453, .962 }, "{KV8, K4V8, KV4, K2V4, KV2}" },
        /* S4: 8-bit keys with 2-bit values beat KV4, and KV4 still beats K4V2: six pairs */
        { { .01, .10, .30, .50, .52, .60, .90, .91, .95 }, "{KV8, K8V4, K8V2, KV4, K4V2, KV2}" },
        /* S3: as before, but K4V2 has no larger error than KV4: more bits, more error */
        { { .01, .10, .30, .50, .52, .51, .90, .91, .95 }, "{KV8, K8V4, K8V2, K4V2, KV2}" },
        { { .01, .10, .30, .50, .51, .51, .90, .91, .95 }, "{KV8, K8V4, K8V2, K4V2, KV2}" },
        /* nothing helps but the fewest bits */
        { { .9, .9, .9, .9, .9, .9, .9, .9, .5 }, "{KV2}" },
        { { 0, 0, 0, 0, 0, 0, 0, 0, 0 }, "{KV2}" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) expect_set(cases[i].error, cases[i].set);
}

static void a_tie_keeps_the_pair_with_more_key_bits_and_is_reported(void **state)
{
    (void)state;
    double error[9] = { .014, .1, .401, .1, .207, .453, .882, .453, .962 };
    kv_pair_set set;
    struct kv_prune_tie ties[8];
    int n_ties;
    assert_int_equal(kv_prune(kv_pairs_paper, 9, error, &set, ties, &n_ties, NULL), KVANT_OK);
    char text[128];
    kv_pair_set_print(set, kv_pairs_paper, 9, text, sizeof text);
    assert_string_equal(text, "{KV8, K8V4, KV4, K4V2, KV2}");
    assert_int_equal(n_ties, 2);
    assert_true(ties[0].kept.key_bits == 8 && ties[0].kept.value_bits == 4);
    assert_true(ties[0].dropped.key_bits == 4 && ties[0].dropped.value_bits == 8);
    assert_true(ties[1].kept.key_bits == 4 && ties[1].dropped.key_bits == 2);

    error[4] = .05; /* KV4 beats both of the first tie: they were never candidates */
    assert_int_equal(kv_prune(kv_pairs_paper, 9, error, &set, ties, &n_ties, NULL), KVANT_OK);
    assert_int_equal(n_ties, 1);
    assert_int_equal(ties[0].kept.key_bits, 4);
}

static void three_pairs_may_tie(void **state)
{
    (void)state;
    const struct kv_pair pairs[] = { { 2, 4 }, { 3, 3 }, { 4, 2 } };
    const double error[] = { .5, .5, .5 };
    kv_pair_set set;
    struct kv_prune_tie ties[2];
    int n_ties;
    assert_int_equal(kv_prune(pairs, 3, error, &set, ties, &n_ties, NULL), KVANT_OK);
    assert_int_equal(set, 1 << 2);
    assert_int_equal(n_ties, 2);
    assert_true(ties[0].kept.key_bits == 4 && ties[0].dropped.key_bits == 2);
    assert_true(ties[1].kept.key_bits == 4 && ties[1].dropped.key_bits == 3);
}

/* Both lists of pairs, errors on a grid so that ties occur. */
static void what_stays_is_what_the_definition_says(void **state)
{
    (void)state;
    struct kv_random r;
    kv_random_seed(&r, 5);
    for (int round = 0; round < 400; round++) {
        const struct kv_pair *pairs = round % 2 ? kv_pairs_paper : kv_pairs_fine;
        int n_pairs = round % 2 ? 9 : 16, n_ties;
        double error[16];
        for (int i = 0; i < n_pairs; i++) error[i] = kv_random_below(&r, 12) / 16.0;
        kv_pair_set set;
        struct kv_prune_tie ties[15];
        assert_int_equal(kv_prune(pairs, n_pairs, error, &set, ties, &n_ties, NULL), KVANT_OK);
        int n_tied = 0;
        for (int i = 0; i < n_pairs; i++) {
            bool dominated = false, tied = false;
            for (int j = 0; j < n_pairs; j++) {
                int bits_i = pairs[i].key_bits + pairs[i].value_bits,
                    bits_j = pairs[j].key_bits + pairs[j].value_bits;
                dominated |= bits_j <= bits_i && error[j] <= error[i] &&
                             (bits_j < bits_i || error[j] < error[i]);
                tied |= bits_j == bits_i && error[j] == error[i] && pairs[j].key_bits > pairs[i].key_bits;
            }
            assert_int_equal(set >> i & 1, !dominated && !tied);
            n_tied += tied && !dominated;
        }
        assert_int_equal(n_ties, n_tied);
    }
}

static void errors_that_are_no_numbers_are_refused(void **state)
{
    (void)state;
    static const double bad[] = { NAN, INFINITY, -0.1 };
    for (int i = 0; i < 3; i++) {
        double error[9] = { 0 };
        error[5] = bad[i];
        kv_pair_set set;
        int n_ties;
        struct kvant_error err = { 0 };
        assert_int_equal(kv_prune(kv_pairs_paper, 9, error, &set, NULL, &n_ties, &err), KVANT_ERR_NUMERIC);
        assert_non_null(strstr(err.message, "K4V2"));
    }
}

static void expect_refused(const struct kv_pair *pairs, int n, const char *message)
{
    const double error[KV_PAIRS_MAX + 1] = { 0 };
    kv_pair_set set;
    int n_ties;
    struct kvant_error err = { 0 };
    assert_int_equal(kv_prune(pairs, n, error, &set, NULL, &n_ties, &err), KVANT_ERR_ARGUMENT);
    if (!strstr(err.message, message)) fail_msg("'%s' does not say '%s'", err.message, message);
}

static void lists_of_pairs_are_checked(void **state)
{
    (void)state;
    const struct kv_pair twice[] = { { 4, 2 }, { 8, 8 }, { 4, 2 } }, none[] = { { 4, 0 } },
                         many[] = { { 17, 4 } };
    struct kv_pair long_list[KV_PAIRS_MAX + 1];
    for (int i = 0; i <= KV_PAIRS_MAX; i++)
        long_list[i] = (struct kv_pair){ (uint8_t)(1 + i % 16), (uint8_t)(1 + i / 16) };
    expect_refused(twice, 3, "pairs 0 and 2 are both K4V2");
    expect_refused(none, 1, "0 value bits");
    expect_refused(many, 1, "17 key bits");
    expect_refused(many, 0, "0 precision pairs");
    expect_refused(long_list, KV_PAIRS_MAX + 1, "33 precision pairs");
}

static void names_and_lists(void **state)
{
    (void)state;
    char name[KV_PAIR_NAME_CAP], text[64];
    kv_pair_name((struct kv_pair){ 16, 16 }, name);
    assert_string_equal(name, "KV16");
    kv_pair_name((struct kv_pair){ 16, 2 }, name);
    assert_string_equal(name, "K16V2");
    int list[16];
    kv_pair_set_list(0xffff, kv_pairs_fine, 16, list);
    for (int i = 1; i < 16; i++) { /* bits fall; within equal bits key bits fall */
        struct kv_pair a = kv_pairs_fine[list[i - 1]], b = kv_pairs_fine[list[i]];
        int bits_a = a.key_bits + a.value_bits, bits_b = b.key_bits + b.value_bits;
        assert_true(bits_a > bits_b || (bits_a == bits_b && a.key_bits > b.key_bits));
    }
    kv_pair_set_print(0, kv_pairs_paper, 9, text, sizeof text);
    assert_string_equal(text, "{}");
    kv_pair_set_print(0x1ff, kv_pairs_paper, 9, text, 12); /* is cut off, not overrun */
    assert_int_equal(strlen(text), 11);
    assert_memory_equal(text, "{KV8, K8V4,", 11);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_sets_appear),
        cmocka_unit_test(a_tie_keeps_the_pair_with_more_key_bits_and_is_reported),
        cmocka_unit_test(three_pairs_may_tie),
        cmocka_unit_test(what_stays_is_what_the_definition_says),
        cmocka_unit_test(errors_that_are_no_numbers_are_refused),
        cmocka_unit_test(lists_of_pairs_are_checked),
        cmocka_unit_test(names_and_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
