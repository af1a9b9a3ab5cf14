/*
 * The pool. Two gates carry all traffic: `start` opens when work is published, `done` when the last worker finished.
 *
 *     caller   fn, user := work   start.advance ──┐            work(0)     done.wait ◄──┐
 *     worker   start.wait ◄───────────────────────┘            work(i)     last one: done.advance
 *
 * A token takes some 200 runs with a few microseconds between them, so a waiter first spins: waking a sleeper costs
 * 5 to 50 µs, more than most runs take. It spins no longer than SPIN_S, so that an idle pool costs nothing.
 */
#include "base/threads.h"

#include "base/memory.h"
#include "base/os.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#define POOL_THREADS_MAX 256
#define SPIN_S 50e-6        /* about the dearest wake-up: spinning longer can't win                          */
#define SPINS_PER_CLOCK 64  /* the clock costs as much as a few pauses: ask it rarely                        */

/* A counter that threads can wait on. Sleepers announce themselves before they look at the counter for the last time,
 * and the one that advances it looks for sleepers afterwards; both sequentially consistent, so no wake-up is lost. */
struct gate {
    _Alignas(KV_ALIGN) atomic_uint count;
    atomic_int n_sleeping;
    pthread_mutex_t mutex;
    pthread_cond_t moved;
};

struct worker {
    struct kv_pool *pool;
    pthread_t thread;
    int index;
};

struct kv_pool {
    struct gate start, done;
    _Alignas(KV_ALIGN) atomic_int n_running;
    int n_threads;
    bool stop;                /* written before start advances, read after: ordered by the gate              */
    void (*fn)(void *user, int i_thread, int n_threads);
    void *user;
    pthread_mutex_t turn;     /* sessions on several threads share a model and so its pool: they take turns  */
    struct worker worker[];   /* (n_threads − 1)                                                             */
};

static inline void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static void gate_open(struct gate *g)
{
    atomic_init(&g->count, 0);
    atomic_init(&g->n_sleeping, 0);
    pthread_mutex_init(&g->mutex, NULL); /* cannot fail on Linux for default attributes */
    pthread_cond_init(&g->moved, NULL);
}

static void gate_close(struct gate *g)
{
    pthread_cond_destroy(&g->moved);
    pthread_mutex_destroy(&g->mutex);
}

static void gate_advance(struct gate *g)
{
    atomic_fetch_add(&g->count, 1);
    if (atomic_load(&g->n_sleeping) == 0) return;
    pthread_mutex_lock(&g->mutex);
    pthread_cond_broadcast(&g->moved);
    pthread_mutex_unlock(&g->mutex);
}

/* Returns once the count differs from `seen`. */
static void gate_wait(struct gate *g, unsigned seen)
{
    double deadline = 0.0;
    for (unsigned i = 1;; i++) {
        if (atomic_load_explicit(&g->count, memory_order_acquire) != seen) return;
        pause_cpu();
        if (i % SPINS_PER_CLOCK) continue;
        double now = kv_clock_s();
        if (deadline == 0.0) deadline = now + SPIN_S;
        if (now >= deadline) break;
    }
    pthread_mutex_lock(&g->mutex);
    atomic_fetch_add(&g->n_sleeping, 1);
    while (atomic_load(&g->count) == seen) pthread_cond_wait(&g->moved, &g->mutex);
    atomic_fetch_sub(&g->n_sleeping, 1);
    pthread_mutex_unlock(&g->mutex);
}

static void *worker_main(void *argument)
{
    struct worker *w = argument;
    struct kv_pool *pool = w->pool;
    for (unsigned seen = 0;; seen++) {
        gate_wait(&pool->start, seen);
        if (pool->stop) return NULL;
        pool->fn(pool->user, w->index, pool->n_threads);
        if (atomic_fetch_sub(&pool->n_running, 1) == 1) gate_advance(&pool->done);
    }
}

/* Stops and joins the first n_started workers, and frees everything. */
static void pool_destroy(struct kv_pool *pool, int n_started)
{
    pool->stop = true;
    gate_advance(&pool->start);
    for (int i = 0; i < n_started; i++) pthread_join(pool->worker[i].thread, NULL);
    gate_close(&pool->start);
    gate_close(&pool->done);
    pthread_mutex_destroy(&pool->turn);
    kv_free(pool);
}

kvant_status kv_pool_open(struct kv_pool **out, int n_threads, struct kvant_error *err)
{
    *out = NULL;
    if (n_threads < 1 || n_threads > POOL_THREADS_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "threads: %d; give 1 to %d", n_threads, POOL_THREADS_MAX);

    size_t n_workers = (size_t)n_threads - 1;
    struct kv_pool *pool = kv_alloc(1, sizeof *pool + n_workers * sizeof pool->worker[0]);
    if (!pool) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a pool of %d threads", n_threads);
    pool->n_threads = n_threads;
    gate_open(&pool->start);
    gate_open(&pool->done);
    pthread_mutex_init(&pool->turn, NULL);

    /* Workers inherit the mask: signals are the program's business and go to its own threads. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int n_started = 0, failure = 0;
    for (; n_started < n_threads - 1 && !failure; n_started += !failure) {
        struct worker *w = &pool->worker[n_started];
        *w = (struct worker){ .pool = pool, .index = n_started + 1 };
        failure = pthread_create(&w->thread, NULL, worker_main, w);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);

    if (failure) {
        pool_destroy(pool, n_started);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "cannot start thread %d of %d: %s; ask for fewer threads", n_started + 2,
                n_threads, strerror(failure));
    }
    *out = pool;
    return KVANT_OK;
}

void kv_pool_close(struct kv_pool *pool)
{
    if (pool) pool_destroy(pool, pool->n_threads - 1);
}

int kv_pool_size(const struct kv_pool *pool)
{
    return pool->n_threads;
}

void kv_pool_run(struct kv_pool *pool, void (*fn)(void *user, int i_thread, int n_threads), void *user)
{
    pthread_mutex_lock(&pool->turn);
    if (pool->n_threads > 1) {
        pool->fn = fn;
        pool->user = user;
        unsigned seen = atomic_load(&pool->done.count);
        atomic_store(&pool->n_running, pool->n_threads - 1);
        gate_advance(&pool->start);
        fn(user, 0, pool->n_threads);
        gate_wait(&pool->done, seen);
    } else {
        fn(user, 0, 1);
    }
    pthread_mutex_unlock(&pool->turn);
}

struct for_job {
    atomic_llong next;
    int64_t n_items;
    void (*fn)(void *user, int64_t i_item, int i_thread);
    void *user;
};

static void for_worker(void *user, int i_thread, int n_threads)
{
    (void)n_threads;
    struct for_job *job = user;
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (i >= job->n_items) return;
        job->fn(job->user, i, i_thread);
    }
}

void kv_pool_for(struct kv_pool *pool, int64_t n_items, void (*fn)(void *user, int64_t i_item, int i_thread),
                 void *user)
{
    struct for_job job = { .n_items = n_items, .fn = fn, .user = user };
    atomic_init(&job.next, 0);
    if (n_items == 1) fn(user, 0, 0);
    else if (n_items > 1) kv_pool_run(pool, for_worker, &job);
}
