/* The pool: every worker and every item exactly once, late workers not waited for, sleep, callers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/os.h"
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
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

/* Work taken from a counter. `result` is plain memory: a run that ends too early is a data race that a race
 * detector sees, and n_inside shows it without one. */
#define N_TAKES 7
struct shared_work {
    atomic_int next, n_inside;
    atomic_int per_thread[8];
    int result[N_TAKES];
};

static void take_some(void *user, int i_thread, int n_threads)
{
    struct shared_work *w = user;
    (void)n_threads;
    atomic_fetch_add(&w->n_inside, 1);
    atomic_fetch_add(&w->per_thread[i_thread], 1);
    for (int i; (i = atomic_fetch_add(&w->next, 1)) < N_TAKES;) w->result[i] = i + 1;
    atomic_fetch_sub(&w->n_inside, 1);
}

static int share_once(struct kv_pool *pool)
{
    struct shared_work w;
    int n_wrong = 0, n_workers = 0;
    memset(&w, 0, sizeof w);
    kv_pool_share(pool, take_some, &w);
    n_wrong += w.n_inside != 0 || w.per_thread[0] != 1;
    for (int i = 0; i < N_TAKES; i++) n_wrong += w.result[i] != i + 1;
    for (int i = 1; i < 8; i++) {
        n_wrong += w.per_thread[i] > (i < kv_pool_size(pool));
        n_workers += w.per_thread[i];
    }
    memset(&w, 0xff, sizeof w); /* a worker that is still there now takes nothing and counts wrongly */
    assert_int_equal(n_wrong, 0);
    return n_workers;
}

static void shared_runs_end_when_all_is_done(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n++) {
        struct kv_pool *pool;
        assert_int_equal(kv_pool_open(&pool, n, NULL), KVANT_OK);
        for (int run = 0; run < 5000; run++) share_once(pool);
        kv_pool_close(pool);
    }
}

/* A share whose caller stays for a while or until a worker came: one that is inside is waited for. */
struct meeting {
    atomic_int arrived, left;
};

static void meet(void *user, int i_thread, int n_threads)
{
    struct meeting *m = user;
    (void)n_threads;
    if (i_thread == 0) {
        double end = kv_clock_s() + 0.05;
        while (!atomic_load(&m->arrived) && kv_clock_s() < end) sched_yield();
        return;
    }
    atomic_fetch_add(&m->arrived, 1);
    nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    atomic_fetch_add(&m->left, 1);
}

static void shared_runs_wait_for_who_is_inside(void **state)
{
    (void)state;
    struct kv_pool *pool;
    assert_int_equal(kv_pool_open(&pool, 3, NULL), KVANT_OK);
    int n_arrived = 0;
    for (int run = 0; run < 20; run++) {
        struct meeting m = { 0, 0 };
        if (run % 2) nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL); /* asleep or spinning */
        kv_pool_share(pool, meet, &m);
        assert_int_equal(m.left, m.arrived);
        n_arrived += m.arrived;
    }
    assert_true(n_arrived >= 1);
    kv_pool_close(pool);
}

struct bully {
    atomic_bool stop;
    size_t cpu;
};

static void pin(size_t cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void *compete(void *user)
{
    struct bully *b = user;
    pin(b->cpu);
    while (!atomic_load(&b->stop)) continue;
    return NULL;
}

/* The worker gets only what the competitor on its core leaves over: next to nothing, or half if refused. */
static void make_worker_weak(void *user, int i_thread, int n_threads)
{
    (void)n_threads;
    if (i_thread == 0) return;
    pin(((const struct bully *)user)->cpu);
    sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 });
}

static void late_workers_are_not_waited_for(void **state)
{
    (void)state;
    struct bully bully = { .cpu = 0 };
    cpu_set_t mine;
    pthread_t thread;
    struct kv_pool *pool;
    assert_int_equal(sched_getaffinity(0, sizeof mine, &mine), 0);
    for (size_t i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &mine)) bully.cpu = i; /* the last that we may use */

    assert_int_equal(kv_pool_open(&pool, 2, NULL), KVANT_OK);
    kv_pool_run(pool, make_worker_weak, &bully);
    assert_int_equal(pthread_create(&thread, NULL, compete, &bully), 0);
    /* The competitor may take a while to get its core; a pool that waits for the worker attends every run,
     * however many. */
    int n_attended = 0, n_runs = 0;
    for (double until_s = kv_clock_s() + 20.0;
         n_runs < 3000 || (n_attended == n_runs && kv_clock_s() < until_s); n_runs++)
        n_attended += share_once(pool);
    atomic_store(&bully.stop, true);
    pthread_join(thread, NULL);

    assert_true(n_attended < n_runs);
    struct tally t;
    memset(&t, 0, sizeof t);
    kv_pool_run(pool, count_thread, &t); /* it is late, not lost */
    assert_int_equal(t.per_thread[1], 1);
    kv_pool_close(pool);
}

static void do_nothing(void *user, int i_thread, int n_threads)
{
    (void)user;
    (void)i_thread;
    (void)n_threads;
}

/* Workers that wake for the short run get into the next one by its open door, then are woken for it again. */
static void late_workers_run_the_next_once(void **state)
{
    (void)state;
    struct tally t;
    struct kv_pool *pool;
    memset(&t, 0, sizeof t);
    assert_int_equal(kv_pool_open(&pool, 4, NULL), KVANT_OK);
    for (int run = 0; run < 5000; run++) {
        kv_pool_share(pool, do_nothing, NULL);
        kv_pool_run(pool, count_thread, &t);
    }
    for (int i = 0; i < 4; i++) assert_int_equal(t.per_thread[i], 5000);
    kv_pool_close(pool);
}

static void *call_mixed(void *user)
{
    struct caller *c = user;
    for (int run = 0; run < 1000; run++) {
        kv_pool_run(c->pool, count_thread, &c->tally);
        for (int i = 0; i < run % 4; i++) share_once(c->pool);
        kv_pool_for(c->pool, 9, count_item, &c->tally);
    }
    return NULL;
}

static void all_kinds_of_runs_mix(void **state)
{
    (void)state;
    for (int n_callers = 1; n_callers <= 3; n_callers++) {
        struct caller callers[3];
        pthread_t threads[3];
        struct kv_pool *pool;
        memset(callers, 0, sizeof callers);
        assert_int_equal(kv_pool_open(&pool, 3, NULL), KVANT_OK);
        for (int i = 0; i < n_callers; i++) {
            callers[i].pool = pool;
            assert_int_equal(pthread_create(&threads[i], NULL, call_mixed, &callers[i]), 0);
        }
        for (int i = 0; i < n_callers; i++) pthread_join(threads[i], NULL);
        for (int i = 0; i < n_callers; i++) {
            const struct tally *t = &callers[i].tally;
            int calls = 0;
            for (int k = 0; k < 3; k++) {
                assert_true(t->per_thread[k] >= 1000);
                calls += t->per_thread[k];
            }
            assert_int_equal(calls, 3 * 1000 + 9 * 1000);
            for (int k = 0; k < 9; k++) assert_int_equal(t->per_item[k], 1000);
        }
        kv_pool_close(pool);
    }
}

/* Waiting ends in sleep: a pool without work uses no processor time. */
static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void idle_pools_use_no_processor(void **state)
{
    (void)state;
    struct kv_pool *pool;
    assert_int_equal(kv_pool_open(&pool, 3, NULL), KVANT_OK);
    share_once(pool);
    nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    double before = cpu_seconds();
    nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL);
    assert_true(cpu_seconds() - before < 0.02); /* one spinning worker alone would take 0.2 */
    kv_pool_close(pool);
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
        cmocka_unit_test(every_worker_runs_once),
        cmocka_unit_test(every_item_is_done_once),
        cmocka_unit_test(shared_runs_end_when_all_is_done),
        cmocka_unit_test(shared_runs_wait_for_who_is_inside),
        cmocka_unit_test(late_workers_are_not_waited_for),
        cmocka_unit_test(late_workers_run_the_next_once),
        cmocka_unit_test(all_kinds_of_runs_mix),
        cmocka_unit_test(sleepers_wake_up),
        cmocka_unit_test(idle_pools_use_no_processor),
        cmocka_unit_test(callers_on_several_threads),
        cmocka_unit_test(wrong_counts_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
