/*
 * bench_pool: what a run of the pool costs that does nothing, in nanoseconds; medians.
 *
 *   share  kv_pool_share, back to back: publish the work, close the door, wait for who is inside
 *   run    kv_pool_run, back to back: every worker takes part, so a barrier of all
 *   wake   kv_pool_run after a pause of 2 ms, beyond the time that workers spin: sleepers are woken
 *   clock  two readings of the clock, which every figure above contains
 *
 * A token of a 30-layer model takes some 300 runs.
 */
#include "base/os.h"
#include "base/threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ROUNDS      2001
#define WAKE_ROUNDS 201

static void nothing(void *user, int i_thread, int n_threads)
{
    (void)user;
    (void)i_thread;
    (void)n_threads;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

typedef void run_fn(struct kv_pool *pool, void (*fn)(void *user, int i_thread, int n_threads), void *user);

/* NULL: nothing between the readings */
static double median_ns(struct kv_pool *pool, run_fn *run, int rounds, bool rests)
{
    static double ns[ROUNDS];
    for (int i = 0; i < rounds; i++) {
        struct timespec pause = { 0, 2000000 };
        if (rests) nanosleep(&pause, NULL);
        double begin = kv_clock_s();
        if (run) run(pool, nothing, NULL);
        ns[i] = (kv_clock_s() - begin) * 1e9;
    }
    qsort(ns, (size_t)rounds, sizeof ns[0], by_value);
    return ns[rounds / 2];
}

int main(void)
{
    int n_cores = kv_cpu_count();
    printf("%d cores\n%8s %10s %10s %10s %10s\n", n_cores, "threads", "share ns", "run ns", "wake ns",
           "clock ns");
    for (int n = 1; n <= n_cores; n = n < n_cores && 2 * n > n_cores ? n_cores : 2 * n) {
        struct kvant_error err;
        struct kv_pool *pool;
        if (kv_pool_open(&pool, n, &err) != KVANT_OK) {
            fprintf(stderr, "bench_pool: %s\n", err.message);
            return 1;
        }
        median_ns(pool, kv_pool_run, ROUNDS, false); /* threads start */
        printf("%8d %10.0f %10.0f %10.0f %10.0f\n", n, median_ns(pool, kv_pool_share, ROUNDS, false),
               median_ns(pool, kv_pool_run, ROUNDS, false), median_ns(pool, kv_pool_run, WAKE_ROUNDS, true),
               median_ns(pool, NULL, ROUNDS, false));
        kv_pool_close(pool);
    }
    return 0;
}
