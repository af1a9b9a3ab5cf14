/* Attention without a model: shapes and plans that must run, arguments that must not, memory that fails. */
#include "support/allocation_hooks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "kvant.h"

enum { ROWS_CAP = 32 };

static struct kvant_attention_options small(const int64_t *lengths, int n_lengths)
{
    struct kvant_attention_options opt = KVANT_ATTENTION_OPTIONS_INIT;
    opt.n_threads = 1;
    opt.n_head = 4;
    opt.n_head_kv = 2;
    opt.head_dim = 64;
    opt.n_tokens = lengths;
    opt.n_lengths = n_lengths;
    opt.n_rounds = 1;
    return opt;
}

static kvant_status run(const char *const *specs, int n, const struct kvant_attention_options *opt,
                        size_t cap, struct kvant_attention_row *rows, size_t *n_out, struct kvant_error *err)
{
    struct kvant_attention_machine machine;
    return kvant_bench_attention(specs, n, opt, rows, cap, n_out, &machine, err);
}

/* Head sizes that are no power of two, one token, a step's edge; every table that a plan may need. */
static void odd_shapes_and_plans_run(void **state)
{
    (void)state;
    static const char *const specs[] = { "f16", "k3.5c64xmv3h", "k1c32xv2", "k4tmhv8",
                                         "k8tv4;sinks=0;tail=0" };
    static const int64_t lengths[] = { 1, 512, 577 };
    static const int head_dims[] = { 80, 256 };
    for (int i = 0; i < 2; i++) {
        struct kvant_attention_row rows[ROWS_CAP];
        struct kvant_error err = { 0 };
        size_t n;
        struct kvant_attention_options opt = small(lengths, 3);
        opt.head_dim = head_dims[i];
        if (run(specs, 5, &opt, ROWS_CAP, rows, &n, &err) != KVANT_OK) fail_msg("%s", err.message);
        assert_int_equal(n, 30);
        for (size_t r = 0; r < n; r++) {
            assert_int_equal(rows[r].plan, (int)(r % 5));
            assert_int_equal(rows[r].prefill, r / 5 % 2 == 0);
            assert_true(rows[r].ms > 0.0 && rows[r].bytes > 0 && rows[r].of_read_bandwidth > 0.0);
        }
    }
    assert_int_equal(hooks.n_live, 0);
}

static void decode_alone_is_half_the_rows(void **state)
{
    (void)state;
    static const char *const specs[] = { "f16", "k3c64xmv3h" };
    static const int64_t lengths[] = { 1, 700 };
    struct kvant_attention_options opt = small(lengths, 2);
    struct kvant_attention_row both[ROWS_CAP], rows[ROWS_CAP];
    struct kvant_error err = { 0 };
    size_t n;
    if (run(specs, 2, &opt, ROWS_CAP, both, &n, &err) != KVANT_OK) fail_msg("%s", err.message);
    assert_int_equal(n, 8);
    opt.decode_only = true;
    assert_int_equal(run(specs, 2, &opt, 3, rows, &n, &err), KVANT_ERR_SPACE);
    if (run(specs, 2, &opt, 4, rows, &n, &err) != KVANT_OK) fail_msg("%s", err.message);
    assert_int_equal(n, 4);
    for (size_t i = 0; i < n; i++) {
        const struct kvant_attention_row *same = &both[i / 2 * 4 + 2 + i % 2];
        assert_false(rows[i].prefill);
        assert_int_equal(rows[i].plan, (int)(i % 2));
        assert_int_equal(rows[i].n_queries, 1);
        assert_int_equal(rows[i].n_tokens, lengths[i / 2]);
        assert_int_equal(rows[i].bytes, same->bytes);
        assert_true(rows[i].ms > 0.0);
    }
    assert_int_equal(hooks.n_live, 0);
}

static void refused(const char *spec, struct kvant_attention_options opt, size_t cap, kvant_status expected,
                    const char *words)
{
    struct kvant_attention_row rows[ROWS_CAP];
    struct kvant_error err = { 0 };
    size_t n;
    assert_int_equal(run(&spec, 1, &opt, cap, rows, &n, &err), expected);
    assert_int_equal(err.status, expected);
    if (!strstr(err.message, words)) fail_msg("'%s' does not say '%s'", err.message, words);
    assert_int_equal(hooks.n_live, 0);
}

static bool stop_at_once(void *user, const char *what, int64_t done, int64_t total)
{
    (void)what;
    assert_true(done < total);
    return --*(int *)user > 0;
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    static const int64_t lengths[] = { 64, 0 };
    const struct kvant_attention_options good = small(lengths, 1);
    struct kvant_attention_options opt;
#define REFUSED(change, spec, cap, status, words)   \
    opt = good, change;                             \
    refused(spec, opt, cap, status, words)
    REFUSED(opt.size = 0, "f16", ROWS_CAP, KVANT_ERR_ARGUMENT, "INIT");
    REFUSED(opt.n_threads = 257, "f16", ROWS_CAP, KVANT_ERR_ARGUMENT, "257");
    REFUSED(opt.head_dim = 60, "f16", ROWS_CAP, KVANT_ERR_ARGUMENT, "60");
    REFUSED(opt.n_head = 5, "f16", ROWS_CAP, KVANT_ERR_ARGUMENT, "5 heads");
    REFUSED(opt.n_lengths = 2, "f16", ROWS_CAP, KVANT_ERR_ARGUMENT, "0 tokens");
    REFUSED(opt.cpu = "avx3", "f16", ROWS_CAP, KVANT_ERR_ARGUMENT, "avx3");
    REFUSED(opt.n_rounds = 101, "f16", ROWS_CAP, KVANT_ERR_ARGUMENT, "101");
    REFUSED(opt.n_rounds = 1, "f16", 1, KVANT_ERR_SPACE, "2 rows");
    REFUSED(opt.n_rounds = 1, "k5v4", ROWS_CAP, KVANT_ERR_FORMAT, "plan 'k5v4'");
    for (int calls = 1; calls <= 3; calls++) { /* before filling, before prefill, before decode */
        int n_left = calls;
        REFUSED((opt.progress = stop_at_once, opt.user = &n_left), "f16", ROWS_CAP, KVANT_ERR_CANCELLED,
                "stopped");
    }
#undef REFUSED
}

static void each_failed_allocation_is_an_error(void **state)
{
    (void)state;
    static const char *const specs[] = { "k3c64xmv3h" };
    static const int64_t lengths[] = { 200 };
    struct kvant_attention_options opt = small(lengths, 1);
    struct kvant_attention_row rows[ROWS_CAP];
    size_t n;
    kvant_status status = KVANT_ERR_MEMORY;
    long n_failed = 0;
    for (; status != KVANT_OK && n_failed < 200; n_failed++) {
        struct kvant_error err = { 0 };
        hooks.n_calls = 0;
        hooks.fail_at = n_failed;
        status = run(specs, 1, &opt, ROWS_CAP, rows, &n, &err);
        if (status != KVANT_OK && status != KVANT_ERR_MEMORY) fail_msg("%ld: %s", n_failed, err.message);
        if (hooks.n_live != 0) fail_msg("allocation %ld failed: %d are left", n_failed, hooks.n_live);
    }
    hooks.fail_at = -1;
    assert_int_equal(status, KVANT_OK);
    assert_true(n_failed > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(odd_shapes_and_plans_run),
        cmocka_unit_test(decode_alone_is_half_the_rows),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(each_failed_allocation_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
