/*
 * Memory of a session: steps allocate nothing, and every allocation may fail without a leak or a broken
 * session.
 */
#include "kvant.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "support/allocation_hooks.h"
#include "support/tiny_gguf.h"

#define N_TOKENS 200

static const char *model_path(void)
{
    static char path[512];
    const char *folder = getenv("KVANT_BUILD");
    snprintf(path, sizeof path, "%s/test_session_memory.gguf", folder ? folder : "build");
    return path;
}

static int setup(void **state)
{
    struct tiny_gguf_options tiny = { .arch = "llama", .weight_type = TINY_Q4_1, .n_layer = 2, .seed = 3 };
    struct kvant_model_options opt = KVANT_MODEL_OPTIONS_INIT;
    struct kvant_error err = { .message = "" };
    struct kvant_model *model;
    opt.n_threads = 1; /* the hooks know one thread */
    if (tiny_gguf_write(model_path(), &tiny, &err) || kvant_model_open(&model, model_path(), &opt, &err)) {
        print_error("%s\n", err.message);
        return -1;
    }
    *state = model;
    return 0;
}

static int teardown(void **state)
{
    kvant_model_close(*state);
    return 0;
}

static kvant_status append(struct kvant_session *s, int seq, int n, struct kvant_error *err)
{
    struct kvant_batch_entry entries[N_TOKENS];
    for (int i = 0; i < n; i++) entries[i] = (struct kvant_batch_entry){ seq, 10 + i % 50, i == n - 1 };
    return kvant_session_step(s, entries, (size_t)n, err);
}

static void steps_allocate_nothing(void **state)
{
    struct kvant_plan *plan;
    struct kvant_session *s;
    int seq, forked;
    assert_int_equal(kvant_plan_open(&plan, *state, "k3c64 v3h", NULL), KVANT_OK);
    assert_int_equal(kvant_session_open(&s, *state, NULL, NULL), KVANT_OK);
    assert_int_equal(kvant_sequence_open(s, plan, 4 * N_TOKENS, &seq, NULL), KVANT_OK);
    assert_int_equal(append(s, seq, 70, NULL), KVANT_OK);
    assert_int_equal(kvant_sequence_fork(s, seq, &forked, NULL), KVANT_OK);
    long before = hooks.n_calls;
    assert_int_equal(append(s, seq, N_TOKENS, NULL), KVANT_OK); /* a prompt */
    for (int i = 0; i < 300; i++) {                             /* decoding, over several pages, one of them
                                                                 * shared */
        assert_int_equal(append(s, seq, 1, NULL), KVANT_OK);
        assert_int_equal(append(s, forked, 1, NULL), KVANT_OK);
    }
    assert_int_equal(hooks.n_calls, before);
    kvant_session_close(s);
    kvant_plan_close(plan);
}

/* Opens everything and uses it; on failure leaves what was opened to the caller. */
static kvant_status use(struct kvant_model *model, struct kvant_plan **plan, struct kvant_session **s,
                        struct kvant_error *err)
{
    int seq = -1, forked = -1;
    kvant_status status = kvant_plan_open(plan, model, "0:k4c32 v4h,1:k8t v8", err);
    if (status == KVANT_OK) status = kvant_session_open(s, model, NULL, err);
    if (status == KVANT_OK) status = kvant_sequence_open(*s, *plan, N_TOKENS, &seq, err);
    if (status == KVANT_OK) status = append(*s, seq, 100, err);
    if (status == KVANT_OK) {
        status = kvant_sequence_fork(*s, seq, &forked, err);
        /* after a refused fork the sequence goes on */
        assert_int_equal(append(*s, seq, 20, NULL), KVANT_OK);
    }
    if (status == KVANT_OK) status = append(*s, forked, 50, err);
    return status;
}

static void every_allocation_may_fail(void **state)
{
    long n_failed = 0;
    kvant_status status = KVANT_ERR_MEMORY;
    for (long at = 0; status != KVANT_OK; at++) {
        struct kvant_plan *plan = NULL;
        struct kvant_session *s = NULL;
        struct kvant_error err = { .message = "" };
        int n_live = hooks.n_live;
        size_t live_bytes = hooks.live_bytes;
        hooks.n_calls = 0;
        hooks.fail_at = at;
        status = use(*state, &plan, &s, &err);
        bool refused = hooks.n_calls > at;
        hooks.fail_at = -1;
        if (refused) {
            assert_int_equal(status, KVANT_ERR_MEMORY);
            assert_true(strlen(err.message) > 10);
            n_failed++;
        } else {
            assert_int_equal(status, KVANT_OK);
        }
        kvant_session_close(s);
        kvant_plan_close(plan);
        assert_int_equal(hooks.n_live, n_live);
        assert_int_equal(hooks.live_bytes, live_bytes);
    }
    assert_true(n_failed > 10);
}

/* Opening a model: the repacked weights among the rest. */
static void every_allocation_of_a_model_may_fail(void **state)
{
    (void)state;
    long n_failed = 0;
    kvant_status status = KVANT_ERR_MEMORY;
    for (long at = 0; status != KVANT_OK; at++) {
        struct kvant_model_options opt = KVANT_MODEL_OPTIONS_INIT;
        struct kvant_error err = { .message = "" };
        struct kvant_model *model = NULL;
        int n_live = hooks.n_live;
        size_t live_bytes = hooks.live_bytes;
        opt.n_threads = 1;
        hooks.n_calls = 0;
        hooks.fail_at = at;
        status = kvant_model_open(&model, model_path(), &opt, &err);
        bool refused = hooks.n_calls > at;
        hooks.fail_at = -1;
        assert_int_equal(status == KVANT_OK, !refused);
        assert_int_equal(model != NULL, status == KVANT_OK);
        if (refused) assert_true(strlen(err.message) > 10);
        n_failed += refused;
        kvant_model_close(model);
        assert_int_equal(hooks.n_live, n_live);
        assert_int_equal(hooks.live_bytes, live_bytes);
    }
    assert_true(n_failed > 10);
}

/* What info says that repacking takes is what it takes. */
static void repacking_takes_what_is_stated(void **state)
{
    (void)state;
    size_t live[2];
    struct kvant_model_info info[2];
    for (int i = 0; i < 2; i++) {
        struct kvant_model_options opt = KVANT_MODEL_OPTIONS_INIT;
        struct kvant_model *model;
        size_t before = hooks.live_bytes;
        opt.n_threads = 1;
        opt.no_repack = i == 0;
        assert_int_equal(kvant_model_open(&model, model_path(), &opt, NULL), KVANT_OK);
        live[i] = hooks.live_bytes - before;
        kvant_model_get_info(model, &info[i]);
        kvant_model_close(model);
    }
    size_t index_bytes = ((size_t)info[0].n_tensors * sizeof(void *) + 63) & ~(size_t)63;
    if (info[0].repacked_bytes == 0) { /* plain C */
        assert_int_equal(live[0], live[1]);
        return;
    }
    assert_int_equal(info[0].repacked_bytes, info[1].repacked_bytes);
    assert_false(info[0].repacked);
    assert_true(info[1].repacked);
    assert_int_equal(live[1], live[0] + info[1].repacked_bytes + index_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(every_allocation_of_a_model_may_fail),
        cmocka_unit_test(repacking_takes_what_is_stated),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
