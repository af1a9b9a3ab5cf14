/*
 * Memory: checked allocation, and "measure and place": one layout function that answers the size when its
 * base is NULL and places the arrays when it is not, so that estimate and allocation cannot disagree.
 */
#ifndef KV_BASE_MEMORY_H
#define KV_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#define KV_ALIGN 64 /* cache line, and the width of an AVX-512 register */

/* n × size zeroed bytes, aligned to KV_ALIGN; NULL when memory is short or the product overflows. n × size ==
 * 0 gives a valid pointer. Free with kv_free. */
void *kv_alloc(size_t n, size_t size);
/* Grows an array made by kv_alloc from n_old to n_new elements, new ones zeroed; NULL leaves the old one
 * valid. */
void *kv_realloc(void *p, size_t n_old, size_t n_new, size_t size);
void kv_free(void *p);
char *kv_strdup(const char *s);
char *kv_strndup(const char *s, size_t n);

/* Pages of zeroed memory straight from the system, for large buffers that may stay partly untouched (they
 * cost nothing until written). Huge pages are asked for. */
void *kv_pages_alloc(size_t n_bytes);
void kv_pages_free(void *p, size_t n_bytes);

/* a × b in *out; false on overflow. */
bool kv_mul_size(size_t a, size_t b, size_t *out);
bool kv_add_size(size_t a, size_t b, size_t *out);

struct kv_carve {
    char *base;    /* NULL: measure only                     */
    size_t used;   /* bytes so far                           */
    bool overflow; /* a size did not fit: `used` is worthless */
};
/* The next n × size bytes, aligned; NULL while measuring. */
void *kv_carve(struct kv_carve *c, size_t n, size_t size);

#endif
