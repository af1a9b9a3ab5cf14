#include "cache/kv_pages.h"

#include <string.h>

#include "base/memory.h"

struct kv_page_slab {
    struct kv_page_slab *next;
    uint8_t *pages;       /* groups of KV_GROUP_PAGES, the last one of the rest                  */
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
        if (n_new > UINT32_MAX || !kv_mul_size(n_new, pool->layout->page_bytes, &bytes)) {
            KV_FAIL(err, KVANT_ERR_MEMORY, -1,
                    "cache: %zu pages of %zu bytes are more than memory can be addressed", n_new,
                    pool->layout->page_bytes);
        }
        struct kv_page_slab *s = kv_alloc(1, kv_page_table_bytes(n_new));
        uint8_t *pages = s ? kv_pages_alloc(bytes) : NULL;
        if (!pages) {
            kv_free(s);
            KV_FAIL(err, KVANT_ERR_MEMORY, -1,
                    "cache: no memory for %zu bytes (%zu pages of %zu); use fewer tokens or fewer bits",
                    bytes, n_new, pool->layout->page_bytes);
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
        kv_pages_free(s->pages, s->n_pages * pool->layout->page_bytes);
        kv_free(s);
    }
}

static struct kv_page page_of(const struct kv_page_slab *s, size_t i, size_t page_bytes)
{
    size_t first = i - i % KV_GROUP_PAGES, left = s->n_pages - first;
    return (struct kv_page){ s->pages + first * page_bytes, (uint32_t)(i - first),
                             (uint32_t)(left < KV_GROUP_PAGES ? left : KV_GROUP_PAGES) };
}

bool kv_page_take(struct kv_page_pool *pool, struct kv_page *out)
{
    const struct kv_layout *l = pool->layout;
    for (struct kv_page_slab *s = pool->slabs; s; s = s->next) {
        bool used_before = s->n_free > 0;
        if (!used_before && s->n_touched == s->n_pages) continue;
        size_t i = used_before ? s->free[--s->n_free] : s->n_touched++,
               n = (size_t)l->n_layer * (size_t)l->n_head_kv;
        *out = page_of(s, i, l->page_bytes);
        for (size_t h = 0; used_before && h < n; h++) /* equal contents make equal pages */
            memset(kv_page_base(l, *out, h) + l->head[h].first, 0, l->head[h].n_bytes);
        s->references[i] = 1;
        return true;
    }
    return false;
}

void kv_page_copy(const struct kv_layout *l, struct kv_page to, struct kv_page from)
{
    size_t n = (size_t)l->n_layer * (size_t)l->n_head_kv;
    for (size_t h = 0; h < n; h++)
        memcpy(kv_page_base(l, to, h) + l->head[h].first, kv_page_base(l, from, h) + l->head[h].first,
               l->head[h].n_bytes);
}

/* The slab of a page, and its number there. There are about as many slabs as open sequences. */
static struct kv_page_slab *find_slab(const struct kv_page_pool *pool, struct kv_page page, size_t *i_page)
{
    size_t page_bytes = pool->layout->page_bytes;
    struct kv_page_slab *s = pool->slabs;
    while ((uintptr_t)page.group - (uintptr_t)s->pages >= s->n_pages * page_bytes) s = s->next;
    *i_page = (size_t)(page.group - s->pages) / page_bytes + page.slot;
    return s;
}

void kv_page_share(struct kv_page_pool *pool, struct kv_page page)
{
    size_t i;
    struct kv_page_slab *s = find_slab(pool, page, &i);
    s->references[i]++;
}

void kv_page_drop(struct kv_page_pool *pool, struct kv_page page)
{
    size_t i;
    struct kv_page_slab *s = find_slab(pool, page, &i);
    if (--s->references[i] == 0) s->free[s->n_free++] = (uint32_t)i;
}

bool kv_page_is_shared(const struct kv_page_pool *pool, struct kv_page page)
{
    size_t i;
    return find_slab(pool, page, &i)->references[i] > 1;
}
