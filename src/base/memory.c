#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

bool kv_mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

bool kv_add_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

void *kv_alloc(size_t n, size_t size)
{
    size_t bytes, rounded;
    if (!kv_mul_size(n, size, &bytes) || !kv_add_size(bytes, KV_ALIGN - 1, &rounded)) return NULL;
    rounded &= ~(size_t)(KV_ALIGN - 1);
    if (rounded == 0) rounded = KV_ALIGN;
    void *p = aligned_alloc(KV_ALIGN, rounded);
    if (p) memset(p, 0, rounded);
    return p;
}

void *kv_realloc(void *p, size_t n_old, size_t n_new, size_t size)
{
    void *q = kv_alloc(n_new, size);
    if (!q) return NULL;
    if (p) memcpy(q, p, (n_old < n_new ? n_old : n_new) * size);
    kv_free(p);
    return q;
}

void kv_free(void *p)
{
    free(p);
}

char *kv_strndup(const char *s, size_t n)
{
    if (n == SIZE_MAX) return NULL;
    char *t = kv_alloc(n + 1, 1);
    if (t) memcpy(t, s, n);
    return t;
}

char *kv_strdup(const char *s)
{
    return kv_strndup(s, strlen(s));
}

void *kv_pages_alloc(size_t n_bytes)
{
    if (n_bytes == 0) n_bytes = 1;
    void *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    madvise(p, n_bytes, MADV_HUGEPAGE); /* a refusal costs speed only */
    return p;
}

void kv_pages_free(void *p, size_t n_bytes)
{
    if (p) munmap(p, n_bytes ? n_bytes : 1);
}

void *kv_carve(struct kv_carve *c, size_t n, size_t size)
{
    size_t bytes, end;
    if (!kv_mul_size(n, size, &bytes) || !kv_add_size(c->used, bytes, &end) || end > SIZE_MAX - KV_ALIGN) {
        c->overflow = true;
        return NULL;
    }
    void *p = c->base ? c->base + c->used : NULL;
    c->used = (end + KV_ALIGN - 1) & ~(size_t)(KV_ALIGN - 1);
    return p;
}
