/* The pool: every worker and every item exactly once, sleep and wake-up, several pools and callers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/os.h"
#include "base/threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define N_ITEMS 1000

struct tally {
    atomic_int per_thread[8];
    atomic_int per_item[N_ITEMS];
    atomic_int n_wrong;
};

static void count_thread(void *user, int i_thread, int n_threads)
{
    struct tally *t = user;
    if (i_thread < 0 || i_thread >= n_threads) atomic_fetch_add(&t->n_wrong, 1);
    atomic_fetch_add(&t->per_thread[i_thread], 1);
}

static void count_item(void *user, int64_t i_item, int i_thread)
{
    struct tally *t = user;
    atomic_fetch_add(&t->per_thread[i_thread], 1);
    atomic_fetch_add(&t->per_item[i_item], 1);
}

static void every_worker_runs_once(void **state)
{
    (void)state;
    for (int n = 1; n <= 5; n++) {
        struct tally t;
        struct kv_pool *pool;
        memset(&t, 0, sizeof t);
        assert_int_equal(kv_pool_open(&pool, n, NULL), KVANT_OK);
        assert_int_equal(kv_pool_size(pool), n);
        for (int run = 0; run < 500; run++) kv_pool_run(pool, count_thread, &t);
        for (int i = 0; i < 8; i++) assert_int_equal(t.per_thread[i], i < n ? 500 : 0);
        assert_int_equal(t.n_wrong, 0);
        kv_pool_close(pool);
    }
}

static void every_item_is_done_once(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n++) {
        struct kv_pool *pool;
        assert_int_equal(kv_pool_open(&pool, n, NULL), KVANT_OK);
        for (int64_t n_items = 0; n_items <= N_ITEMS; n_items = n_items * 3 + 1) {
            struct tally t;
            memset(&t, 0, sizeof t);
            kv_pool_for(pool, n_items, count_item, &t);
            for (int64_t i = 0; i < N_ITEMS; i++) assert_int_equal(t.per_item[i], i < n_items);
        }
        kv_pool_close(pool);
    }
}

static void sleepers_wake_up(void **state)
{
    (void)state;
    struct tally t;
    struct kv_pool *pool;
    memset(&t, 0, sizeof t);
    assert_int_equal(kv_pool_open(&pool, 3, NULL), KVANT_OK);
    for (int run = 0; run < 20; run++) {
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL); /* far beyond the spin */
        kv_pool_run(pool, count_thread, &t);
    }
    for (int i = 0; i < 3; i++) assert_int_equal(t.per_thread[i], 20);
    kv_pool_close(pool);
}

struct caller {
    struct kv_pool *pool;
    struct tally tally;
};

static void *call_often(void *user)
{
    struct caller *c = user;
    for (int run = 0; run < 300; run++) kv_pool_run(c->pool, count_thread, &c->tally);
    return NULL;
}

/* Callers that share a pool take turns; callers with pools of their own don't notice each other. */
static void callers_on_several_threads(void **state)
{
    (void)state;
    for (int shared = 0; shared <= 1; shared++) {
        struct caller callers[3];
        struct kv_pool *pools[3];
        pthread_t threads[3];
        memset(callers, 0, sizeof callers);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(kv_pool_open(&pools[i], 2, NULL), KVANT_OK);
            callers[i].pool = pools[shared ? 0 : i];
            assert_int_equal(pthread_create(&threads[i], NULL, call_often, &callers[i]), 0);
        }
        for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(callers[i].tally.per_thread[0], 300);
            assert_int_equal(callers[i].tally.per_thread[1], 300);
            kv_pool_close(pools[i]);
        }
    }
}

static void wrong_counts_are_refused(void **state)
{
    (void)state;
    static const int wrong[] = { 0, -1, 257 };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct kvant_error err;
        struct kv_pool *pool = (struct kv_pool *)&err;
        assert_int_equal(kv_pool_open(&pool, wrong[i], &err), KVANT_ERR_ARGUMENT);
        assert_null(pool);
        assert_non_null(strstr(err.message, "256"));
    }
    kv_pool_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_worker_runs_once),     cmocka_unit_test(every_item_is_done_once),
        cmocka_unit_test(sleepers_wake_up),           cmocka_unit_test(callers_on_several_threads),
        cmocka_unit_test(wrong_counts_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
