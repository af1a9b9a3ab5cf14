/*
 * Several products over the same activations are one list of rows, cut into units of UNIT_ROWS rows that
 * workers take from a shared counter: long stretches first, which memory delivers best, single units at the
 * end, so that all end together. With equal takes of two of 18 units one of two threads has a tenth of the
 * run to wait. Taking beats a fixed split as soon as one core is busy elsewhere, and since no result depends
 * on the split, nothing else changes.
 */
#include "model/matmul.h"

#include "base/memory.h"

#include <stdatomic.h>

#define UNIT_ROWS 32         /* rows that kernels unpack together                                          */
#define TAKE_SHARE 3         /* a take is a third of one thread's part of what is left                     */
#define FEW 8                /* activations, for which memory is the limit: shorter takes cost more there  */
#define LEAST_SHARE 8        /* than waiting, so that none is below an eighth of a thread's part           */

static size_t place_digits(struct kv_activations *a, void *memory, int n_digits)
{
    struct kv_carve c = { .base = memory };
    size_t n = (size_t)a->n, k = (size_t)a->k;
    a->i.k = a->k;
    a->i.high = kv_carve(&c, n * k, sizeof *a->i.high);
    bool mixed = n_digits == KV_DIGITS_MIXED;
    a->i.two = mixed ? kv_carve(&c, n * (k / KV_ACT_BLOCK), sizeof *a->i.two) : NULL;
    a->i.low_first = mixed ? kv_carve(&c, k / KV_ACT_BLOCK + 1, sizeof *a->i.low_first) : NULL;
    a->i.low_row = mixed ? kv_carve(&c, n * (k / KV_ACT_BLOCK), sizeof *a->i.low_row) : NULL;
    a->i.low = n_digits > 1 ? kv_carve(&c, n * k, sizeof *a->i.low) : NULL;
    a->i.scale = kv_carve(&c, n * (k / KV_ACT_BLOCK), sizeof *a->i.scale);
    a->i.sum = kv_carve(&c, n * (k / KV_WEIGHT_GROUP), sizeof *a->i.sum);
    a->i.sum_q = kv_carve(&c, n * (k / KV_WEIGHT_GROUP), sizeof *a->i.sum_q);
    a->i.sum_low = mixed ? kv_carve(&c, n * (k / KV_WEIGHT_GROUP), sizeof *a->i.sum_low) : NULL;
    return c.used;
}

size_t kv_activations_bytes(int64_t n, int64_t k)
{
    struct kv_activations a = { .n = n, .k = k };
    return place_digits(&a, NULL, KV_DIGITS_MIXED);
}

void kv_activations_place(struct kv_activations *a, const float *x, int64_t n, int64_t k, void *int_memory,
                          int n_digits)
{
    *a = (struct kv_activations){ .f32 = x, .n = n, .k = k };
    if (int_memory) place_digits(a, int_memory, n_digits);
}

void kv_activations_quantize(const struct kv_activations *a, const struct kv_kernels *kernels, int64_t first,
                             int64_t n_rows)
{
    int64_t n_blocks = a->k / KV_ACT_BLOCK, n_groups = a->k / KV_WEIGHT_GROUP;
    if (!a->i.high) return;
    struct kv_act_int part = {
        .high = a->i.high + first * a->k,
        .low = a->i.low ? a->i.low + first * a->k : NULL,
        .scale = a->i.scale + first * n_blocks,
        .sum = a->i.sum + first * n_groups,
        .sum_q = a->i.sum_q + first * n_groups,
        .sum_low = a->i.sum_low ? a->i.sum_low + first * n_groups : NULL,
        .k = a->k,
        .two = a->i.two ? a->i.two + first * n_blocks : NULL,
    };
    kernels->act_quantize(a->f32 + first * a->k, n_rows, &part);
}

void kv_activations_finish(struct kv_activations *a)
{
    if (a->i.two) kv_act_list_low(&a->i, a->n);
}

struct products_job {
    const struct kv_kernels *kernels;
    const struct kv_activations *a;
    const struct kv_product *products;
    int64_t n_units;         /* of all products                     */
    int64_t least;           /* units of a take, but for the last   */
    char *scratch;
    size_t scratch_stride;
    atomic_llong next;       /* the first unit that nobody has */
};

static int64_t units_of(const struct kv_product *p)
{
    return (p->w->dims[1] + UNIT_ROWS - 1) / UNIT_ROWS;
}

/* Returns the first of *n units, *n = 0 at the end. */
static long long take(struct products_job *job, int n_threads, int64_t *n)
{
    long long next = atomic_load_explicit(&job->next, memory_order_relaxed);
    do {
        int64_t left = job->n_units - next;
        *n = (left + TAKE_SHARE * n_threads - 1) / (TAKE_SHARE * n_threads);
        if (*n < job->least) *n = left < job->least ? left : job->least;
    } while (*n && !atomic_compare_exchange_weak_explicit(&job->next, &next, next + *n, memory_order_relaxed,
                                                          memory_order_relaxed));
    return next;
}

static void multiply(const struct products_job *job, const struct kv_product *p, int64_t row_begin,
                     int64_t row_end, void *scratch)
{
    const struct kv_gguf_tensor *w = p->w;
    bool integers = job->a->i.high && w->type->code_format >= 0;
    struct kv_matmul mm = {
        .weights = w->data,
        .turned = integers ? p->turned : NULL,
        .row_bytes = w->row_bytes,
        .code_format = w->type->code_format,
        .float_format = w->type->float_format,
        .k = job->a->k,
        .n_rows = w->dims[1],
        .x_int = integers ? &job->a->i : NULL,
        .x_f32 = integers ? NULL : job->a->f32,
        .n = job->a->n,
        .bias = p->bias,
        .y = p->y,
        .ldy = p->ldy,
    };
    job->kernels->matmul_rows(job->kernels, &mm, row_begin, row_end, scratch);
}

static void products_worker(void *user, int i_thread, int n_threads)
{
    struct products_job *job = user;
    void *scratch = job->scratch + (size_t)i_thread * job->scratch_stride;
    int64_t n, first = 0; /* the first unit of product i */
    int i = 0;
    for (int64_t unit = take(job, n_threads, &n); n > 0; unit = take(job, n_threads, &n)) {
        while (n > 0) { /* a take may reach into the next product */
            const struct kv_product *p = &job->products[i];
            int64_t n_rows = p->w->dims[1], end = first + units_of(p);
            if (unit >= end) {
                first = end;
                i++;
                continue;
            }
            int64_t own = end - unit < n ? end - unit : n, last = (unit - first + own) * UNIT_ROWS;
            multiply(job, p, (unit - first) * UNIT_ROWS, last < n_rows ? last : n_rows, scratch);
            unit += own;
            n -= own;
        }
    }
}

void kv_products(struct kv_pool *pool, const struct kv_kernels *kernels, const struct kv_activations *a,
                 const struct kv_product *products, int n_products, void *scratch, size_t scratch_stride)
{
    struct products_job job = {
        .kernels = kernels,
        .a = a,
        .products = products,
        .scratch = scratch,
        .scratch_stride = scratch_stride,
    };
    for (int i = 0; i < n_products; i++) job.n_units += units_of(&products[i]);
    job.least = a->n < FEW ? 1 + job.n_units / (LEAST_SHARE * kv_pool_size(pool)) : 1;
    atomic_init(&job.next, 0);
    kv_pool_share(pool, products_worker, &job);
}
