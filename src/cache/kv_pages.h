/*
 * The pages of one plan, with a reference count each, in groups (kv_layout.h) that follow each other in
 * slabs.
 *
 * Whoever will hold pages first promises the most that it ever holds at once; the pool maps a slab for what
 * the promises exceed its capacity by. However pages are shared and returned afterwards, the distinct pages
 * in use never outnumber the promises, so kv_page_take cannot fail and costs no system call. Slabs without a
 * page in use go back to the system as soon as the remaining promises fit without them. Untouched pages cost
 * address space only.
 *
 * One thread at a time.
 */
#ifndef KV_CACHE_KV_PAGES_H
#define KV_CACHE_KV_PAGES_H

#include "base/error.h"
#include "cache/kv_layout.h"

struct kv_page_slab;

struct kv_page_pool {
    const struct kv_layout *layout;
    struct kv_page_slab *slabs;
    size_t n_promised, n_capacity; /* pages; n_promised <= n_capacity */
};

/* MEMORY: nothing is promised then. */
kvant_status kv_page_pool_promise(struct kv_page_pool *pool, size_t n_pages, struct kvant_error *err);
/* Ends a promise, after its pages were dropped. */
void kv_page_pool_release(struct kv_page_pool *pool, size_t n_pages);

/* A zeroed page with one reference; false: none is left, against the promise. */
bool kv_page_take(struct kv_page_pool *pool, struct kv_page *out);
void kv_page_share(struct kv_page_pool *pool, struct kv_page page);
void kv_page_drop(struct kv_page_pool *pool, struct kv_page page);
bool kv_page_is_shared(const struct kv_page_pool *pool, struct kv_page page);
void kv_page_copy(const struct kv_layout *layout, struct kv_page to, struct kv_page from);

/* Bytes beside the pages themselves that a promise of n_pages takes: reference counts and free list. */
size_t kv_page_table_bytes(size_t n_pages);

#endif
