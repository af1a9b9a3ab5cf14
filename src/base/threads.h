/*
 * A fixed pool of threads. The caller is worker 0. One run at a time; runs follow each other with a short
 * spin and sleep when idle. Work must not depend on which worker does it, so that results are the same for
 * any pool size.
 */
#ifndef KV_BASE_THREADS_H
#define KV_BASE_THREADS_H

#include "base/error.h"

struct kv_pool;

kvant_status kv_pool_open(struct kv_pool **out, int n_threads, struct kvant_error *err);
void kv_pool_close(struct kv_pool *pool);
int kv_pool_size(const struct kv_pool *pool);

/* Calls fn(user, i_thread, n_threads) on every worker and waits for all. For what each worker must do itself;
 * one whose core is taken by another program holds up the run. */
void kv_pool_run(struct kv_pool *pool, void (*fn)(void *user, int i_thread, int n_threads), void *user);

/* Calls fn(user, i_thread, n_threads) on the caller and, at most once, on each worker that arrives before the
 * caller's own call returns (perhaps on none); waits for those and for no one else. For work taken from a
 * shared counter: a call returns when nothing is left to take, so the end of a run means that all is done, by
 * however few. */
void kv_pool_share(struct kv_pool *pool, void (*fn)(void *user, int i_thread, int n_threads), void *user);

/* Calls fn(user, i_item, i_thread) for each item, items taken in order by whoever is free; waits for all. */
void kv_pool_for(struct kv_pool *pool, int64_t n_items, void (*fn)(void *user, int64_t i_item, int i_thread),
                 void *user);

#endif
