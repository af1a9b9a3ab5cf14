/*
 * The pool. A run is open while work is left, and a worker that comes too late is not waited for: when
 * another program holds its core, it arrives a scheduling slice later, some hundred times the length of a
 * run.
 *
 *   caller  fn, user := work   door: open   start.advance   work(0)   door: close   inside > 0: done.wait
 *   worker  start.wait ◄───────────────────────┘   door: in   work(i)   door: out   last out: done.advance
 *
 * `door` is one word, the bit CLOSED and the number of workers inside:
 *   - Only an open door is entered (compare and swap), so nobody but those who work is ever inside, and a
 *     worker held up in front of the door holds up no one.
 *   - The caller writes the work only when the door is closed and nobody is inside, and a worker reads it
 *     only inside. Entering reads what opening wrote, and the caller sees "nobody inside" from the chain of
 *     read-modify-writes that every leaver is part of: the work is complete for the workers, and their
 *     results for the caller.
 *   - The caller closes the door when its own part is done, notes done.count, then looks inside, then waits
 *     for another count. Whoever leaves last after that sees CLOSED and advances `done`, so no end is missed.
 *     If the caller already saw the empty room, that advance comes late, into some later run: a count says
 *     "look again", never "finished", and each wait is a loop.
 *   - A worker notes start.count before it tries the door, and the door is opened before `start` advances:
 *     who finds it closed, or works on one run while the next is published, doesn't sleep through that one.
 *     Who woke for one run and got into the next is woken again for that same run; it remembers the number of
 *     the run that it worked on last and turns round, so each runs at most once.
 *   - A run of all (kv_pool_run) keeps its door open until n_missing, counted down inside, is 0.
 *
 * A worker that loses its core while it is inside must be waited for. Where that happens in every other
 * slice, help costs more than it brings: after such a stall the caller works alone for REST_PER_STALL times
 * as long, and for twice the time at each next one, until a spell of work in company outlasts the rest before
 * it.
 *
 * A token takes some 200 runs with a few microseconds between them, so a waiter first spins: waking a sleeper
 * costs 5 to 50 µs, more than most runs take. It spins no longer than SPIN_S, so that an idle pool costs
 * nothing.
 */
#include "base/threads.h"

#include "base/memory.h"
#include "base/os.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define POOL_THREADS_MAX 256
#define CLOSED 0x80000000u
#define REST_PER_STALL 4.0
#define REST_MAX_S 0.25     /* until a core that became free is noticed                                     */
#define SPIN_S 50e-6        /* about the dearest wake-up: spinning longer can't win                         */
#define SPINS_PER_CLOCK 64  /* the clock costs as much as a few pauses: ask it rarely                       */

/* A counter that threads can wait on. A sleeper raises the flag before it looks at the counter for the last
 * time, and the one that advances it looks at the flag afterwards; both sequentially consistent, so no
 * wake-up is lost. There is no lock that a sleeper could hold while its core is taken away: the kernel
 * compares. */
struct gate {
    _Alignas(KV_ALIGN) atomic_uint count;
    atomic_bool sleeping;
};

struct worker {
    struct kv_pool *pool;
    pthread_t thread;
    int index;
};

struct kv_pool {
    struct gate start, done;
    _Alignas(KV_ALIGN) atomic_uint door;
    atomic_int n_missing;     /* workers that have not done the present run yet                             */
    atomic_bool stop;
    int n_threads;
    uint64_t i_run;           /* this and the work: written behind a closed door, read inside               */
    void (*fn)(void *user, int i_thread, int n_threads);
    void *user;
    double rest_s, alone_until; /* of the caller whose turn it is                                           */
    pthread_mutex_t turn;     /* sessions on several threads share a model and so its pool: they take turns */
    struct worker worker[];   /* (n_threads − 1)                                                            */
};

static inline void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static void gate_advance(struct gate *g)
{
    atomic_fetch_add(&g->count, 1);
    if (atomic_load(&g->sleeping) && atomic_exchange(&g->sleeping, false))
        syscall(SYS_futex, &g->count, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* True as soon as the count differs from `seen`, false after SPIN_S. */
static bool gate_spin(struct gate *g, unsigned seen)
{
    double deadline = 0.0;
    for (unsigned i = 1;; i++) {
        if (atomic_load_explicit(&g->count, memory_order_acquire) != seen) return true;
        pause_cpu();
        if (i % SPINS_PER_CLOCK) continue;
        double now = kv_clock_s();
        if (deadline == 0.0) deadline = now + SPIN_S;
        if (now >= deadline) return false;
    }
}

/* Returns once the count differs from `seen`. A flag that stays up costs one needless call of the kernel. */
static void gate_sleep(struct gate *g, unsigned seen)
{
    for (;;) {
        atomic_store(&g->sleeping, true);
        if (atomic_load(&g->count) != seen) return;
        syscall(SYS_futex, &g->count, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    }
}

static void gate_wait(struct gate *g, unsigned seen)
{
    if (!gate_spin(g, seen)) gate_sleep(g, seen);
}

static bool door_enter(struct kv_pool *pool)
{
    unsigned door = atomic_load(&pool->door);
    while (!(door & CLOSED))
        if (atomic_compare_exchange_weak(&pool->door, &door, door + 1)) return true;
    return false;
}

static void door_leave(struct kv_pool *pool)
{
    if (atomic_fetch_sub(&pool->door, 1) == (CLOSED | 1)) gate_advance(&pool->done);
}

static void *worker_main(void *argument)
{
    struct worker *w = argument;
    struct kv_pool *pool = w->pool;
    uint64_t last_run = 0;
    for (unsigned seen = 0;;) {
        gate_wait(&pool->start, seen);
        seen = atomic_load(&pool->start.count);
        if (atomic_load(&pool->stop)) return NULL;
        if (!door_enter(pool)) continue;
        if (pool->i_run != last_run) {
            last_run = pool->i_run;
            pool->fn(pool->user, w->index, pool->n_threads);
            if (atomic_fetch_sub(&pool->n_missing, 1) == 1) gate_advance(&pool->done);
        }
        door_leave(pool);
    }
}

/* Stops and joins the first n_started workers, and frees everything. */
static void pool_destroy(struct kv_pool *pool, int n_started)
{
    atomic_store(&pool->stop, true);
    gate_advance(&pool->start);
    for (int i = 0; i < n_started; i++) pthread_join(pool->worker[i].thread, NULL);
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
    pool->i_run = 0;
    pool->rest_s = pool->alone_until = 0.0;
    atomic_init(&pool->start.count, 0);
    atomic_init(&pool->start.sleeping, false);
    atomic_init(&pool->done.count, 0);
    atomic_init(&pool->done.sleeping, false);
    atomic_init(&pool->door, CLOSED);
    atomic_init(&pool->n_missing, 0);
    atomic_init(&pool->stop, false);
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
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "cannot start thread %d of %d: %s; ask for fewer threads",
                n_started + 2, n_threads, strerror(failure));
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

static void run_open(struct kv_pool *pool, void (*fn)(void *user, int i_thread, int n_threads), void *user)
{
    pool->i_run++;
    pool->fn = fn;
    pool->user = user;
    atomic_store(&pool->n_missing, pool->n_threads - 1);
    atomic_fetch_and(&pool->door, ~CLOSED);
    gate_advance(&pool->start);
    fn(user, 0, pool->n_threads);
}

/* Processor time of all threads of the program. */
static double cpu_clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Returns the seconds lost because a worker inside did not get to run; a long piece of work is no loss. */
static double run_close(struct kv_pool *pool)
{
    double wall = 0.0, cpu = 0.0;
    atomic_fetch_or(&pool->door, CLOSED);
    for (;;) {
        unsigned seen = atomic_load(&pool->done.count);
        if (atomic_load(&pool->door) == CLOSED) break;
        if (gate_spin(&pool->done, seen)) continue;
        if (wall == 0.0) {
            wall = kv_clock_s();
            cpu = cpu_clock_s();
        }
        gate_sleep(&pool->done, seen);
    }
    if (wall == 0.0) return 0.0;
    wall = kv_clock_s() - wall;
    return cpu_clock_s() - cpu < 0.5 * wall ? wall : 0.0;
}

static bool is_resting(const struct kv_pool *pool)
{
    return pool->alone_until > 0.0 && kv_clock_s() < pool->alone_until;
}

static void rest(struct kv_pool *pool, double stall_s)
{
    double now = kv_clock_s();
    bool again = now - pool->alone_until < pool->rest_s;
    pool->rest_s = again ? 2.0 * pool->rest_s : REST_PER_STALL * stall_s;
    if (pool->rest_s > REST_MAX_S) pool->rest_s = REST_MAX_S;
    pool->alone_until = now + pool->rest_s;
}

static void await_missing(struct kv_pool *pool)
{
    for (;;) {
        unsigned seen = atomic_load(&pool->done.count);
        if (atomic_load(&pool->n_missing) == 0) return;
        gate_wait(&pool->done, seen);
    }
}

void kv_pool_run(struct kv_pool *pool, void (*fn)(void *user, int i_thread, int n_threads), void *user)
{
    pthread_mutex_lock(&pool->turn);
    if (pool->n_threads > 1) {
        run_open(pool, fn, user);
        await_missing(pool);
        run_close(pool);
    } else {
        fn(user, 0, 1);
    }
    pthread_mutex_unlock(&pool->turn);
}

void kv_pool_share(struct kv_pool *pool, void (*fn)(void *user, int i_thread, int n_threads), void *user)
{
    pthread_mutex_lock(&pool->turn);
    if (pool->n_threads > 1 && !is_resting(pool)) {
        double begin = kv_clock_s();
        run_open(pool, fn, user);
        double own = kv_clock_s() - begin, stall = run_close(pool);
        if (stall > own) rest(pool, stall); /* a shorter one was worth the help */
    } else {
        fn(user, 0, pool->n_threads);
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
    else if (n_items > 1) kv_pool_share(pool, for_worker, &job);
}
