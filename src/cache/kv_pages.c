#include "cache/kv_pages.h"

#include <string.h>

#include "base/memory.h"

struct kv_page_slab {
    struct kv_page_slab *next;
    uint8_t *pages;       /* (n_pages, page_bytes)                                               */
    size_t n_pages;
    size_t n_touched;     /* pages [0, n_touched) were in use before; the rest is fresh and zero */
    size_t n_free;        /* of those                                                            */
    uint32_t *references; /* (n_pages)                                                           */
    uint32_t *free;       /* (n_pages) stack of n_free page numbers                              */
};

/* The slab's description is one block; base NULL measures. */
static size_t carve_slab(struct kv_page_slab *s, void *base, size_t n_pages)
{
    struct kv_carve c = { base, 0, false };
    kv_carve(&c, 1, sizeof *s);
    s->references = kv_carve(&c, n_pages, sizeof *s->references);
    s->free = kv_carve(&c, n_pages, sizeof *s->free);
    return c.overflow ? SIZE_MAX : c.used;
}

size_t kv_page_table_bytes(size_t n_pages)
{
    struct kv_page_slab s;
    return n_pages ? carve_slab(&s, NULL, n_pages) : 0;
}

kvant_status kv_page_pool_promise(struct kv_page_pool *pool, size_t n_pages, struct kvant_error *err)
{
    size_t spare = pool->n_capacity - pool->n_promised, n_new = n_pages > spare ? n_pages - spare : 0;
    if (n_new) {
        size_t bytes;
        if (n_new > UINT32_MAX || !kv_mul_size(n_new, pool->page_bytes, &bytes)) {
            KV_FAIL(err, KVANT_ERR_MEMORY, -1,
                    "cache: %zu pages of %zu bytes are more than memory can be addressed", n_new,
                    pool->page_bytes);
        }
        struct kv_page_slab *s = kv_alloc(1, kv_page_table_bytes(n_new));
        uint8_t *pages = s ? kv_pages_alloc(bytes) : NULL;
        if (!pages) {
            kv_free(s);
            KV_FAIL(err, KVANT_ERR_MEMORY, -1,
                    "cache: no memory for %zu bytes (%zu pages of %zu); use fewer tokens or fewer bits",
                    bytes, n_new, pool->page_bytes);
        }
        carve_slab(s, s, n_new);
        s->pages = pages;
        s->n_pages = n_new;
        s->next = pool->slabs;
        pool->slabs = s;
        pool->n_capacity += n_new;
    }
    pool->n_promised += n_pages;
    return KVANT_OK;
}

void kv_page_pool_release(struct kv_page_pool *pool, size_t n_pages)
{
    pool->n_promised -= n_pages;
    for (struct kv_page_slab **link = &pool->slabs; *link;) {
        struct kv_page_slab *s = *link;
        bool idle = s->n_free == s->n_touched;
        if (!idle || pool->n_capacity - s->n_pages < pool->n_promised) {
            link = &s->next;
            continue;
        }
        *link = s->next;
        pool->n_capacity -= s->n_pages;
        kv_pages_free(s->pages, s->n_pages * pool->page_bytes);
        kv_free(s);
    }
}

uint8_t *kv_page_take(struct kv_page_pool *pool)
{
    for (struct kv_page_slab *s = pool->slabs; s; s = s->next) {
        bool used_before = s->n_free > 0;
        if (!used_before && s->n_touched == s->n_pages) continue;
        size_t i = used_before ? s->free[--s->n_free] : s->n_touched++;
        uint8_t *page = s->pages + i * pool->page_bytes;
        if (used_before) memset(page, 0, pool->page_bytes); /* equal contents make equal pages */
        s->references[i] = 1;
        return page;
    }
    return NULL; /* a broken promise */
}

/* The slab of a page, and its number there. There are about as many slabs as open sequences. */
static struct kv_page_slab *find_slab(const struct kv_page_pool *pool, const uint8_t *page, size_t *i_page)
{
    struct kv_page_slab *s = pool->slabs;
    while ((uintptr_t)page - (uintptr_t)s->pages >= s->n_pages * pool->page_bytes) s = s->next;
    *i_page = (size_t)(page - s->pages) / pool->page_bytes;
    return s;
}

void kv_page_share(struct kv_page_pool *pool, const uint8_t *page)
{
    size_t i;
    struct kv_page_slab *s = find_slab(pool, page, &i);
    s->references[i]++;
}

void kv_page_drop(struct kv_page_pool *pool, const uint8_t *page)
{
    size_t i;
    struct kv_page_slab *s = find_slab(pool, page, &i);
    if (--s->references[i] == 0) s->free[s->n_free++] = (uint32_t)i;
}

bool kv_page_is_shared(const struct kv_page_pool *pool, const uint8_t *page)
{
    size_t i;
    return find_slab(pool, page, &i)->references[i] > 1;
}
