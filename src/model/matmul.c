/*
 * Several products over the same activations are one list of rows, cut into units of UNIT_ROWS rows that
 * workers take from a shared counter. A taker always gets about the same bytes of weights: units of wide rows
 * are handed out one by one, units of narrow rows several at a time. Taking beats a fixed split as soon as
 * one core is busy elsewhere, and since no result depends on the split, nothing else changes.
 */
#include "model/matmul.h"

#include "base/memory.h"

#include <stdatomic.h>

#define UNIT_ROWS 32         /* rows that kernels unpack together                                          */
#define TAKES_PER_THREAD 8   /* enough to even out the ends of a run, few enough to keep the counter quiet */
#define QUANTIZE_ELEMENTS 32768 /* a few µs of work: fewer are quantized by the caller alone               */

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

struct quantize_job {
    const struct kv_activations *a;
    const struct kv_kernels *kernels;
    int64_t rows_per_item;
};

static void quantize_item(void *user, int64_t i_item, int i_thread)
{
    (void)i_thread;
    const struct quantize_job *job = user;
    const struct kv_activations *a = job->a;
    int64_t first = i_item * job->rows_per_item, left = a->n - first;
    struct kv_act_int part = {
        .high = a->i.high + first * a->k,
        .low = a->i.low ? a->i.low + first * a->k : NULL,
        .scale = a->i.scale + first * (a->k / KV_ACT_BLOCK),
        .sum = a->i.sum + first * (a->k / KV_WEIGHT_GROUP),
        .sum_q = a->i.sum_q + first * (a->k / KV_WEIGHT_GROUP),
        .sum_low = a->i.sum_low ? a->i.sum_low + first * (a->k / KV_WEIGHT_GROUP) : NULL,
        .k = a->k,
        .two = a->i.two ? a->i.two + first * (a->k / KV_ACT_BLOCK) : NULL,
    };
    job->kernels->act_quantize(a->f32 + first * a->k, left < job->rows_per_item ? left : job->rows_per_item,
                               &part);
}

void kv_activations_set(struct kv_activations *a, struct kv_pool *pool, const struct kv_kernels *kernels,
                        const float *x, int64_t n, int64_t k, void *int_memory, int n_digits)
{
    *a = (struct kv_activations){ .f32 = x, .n = n, .k = k };
    if (!int_memory) return;
    place_digits(a, int_memory, n_digits);
    struct quantize_job job = { a, kernels, 1 + QUANTIZE_ELEMENTS / k };
    kv_pool_for(pool, (n + job.rows_per_item - 1) / job.rows_per_item, quantize_item, &job);
    if (a->i.two) kv_act_list_low(&a->i, n);
}

struct products_job {
    const struct kv_kernels *kernels;
    const struct kv_activations *a;
    const struct kv_product *products;
    int n_products;
    size_t take_bytes;       /* weights handed out at a time, rounded up to units */
    char *scratch;
    size_t scratch_stride;
    atomic_llong next;       /* the first take that nobody has */
};

static int64_t take_rows(const struct products_job *job, const struct kv_gguf_tensor *w)
{
    size_t unit_bytes = w->row_bytes * UNIT_ROWS;
    return UNIT_ROWS * (int64_t)(1 + job->take_bytes / unit_bytes);
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
    (void)n_threads;
    struct products_job *job = user;
    void *scratch = job->scratch + (size_t)i_thread * job->scratch_stride;
    int64_t first = 0; /* the first take of product i */
    int64_t take = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
    for (int i = 0; i < job->n_products; i++) {
        const struct kv_product *p = &job->products[i];
        int64_t n_rows = p->w->dims[1], step = take_rows(job, p->w), n_takes = (n_rows + step - 1) / step;
        while (take < first + n_takes) {
            int64_t row = (take - first) * step;
            multiply(job, p, row, row + step < n_rows ? row + step : n_rows, scratch);
            take = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        }
        first += n_takes;
    }
}

void kv_products(struct kv_pool *pool, const struct kv_kernels *kernels, const struct kv_activations *a,
                 const struct kv_product *products, int n_products, void *scratch, size_t scratch_stride)
{
    size_t bytes = 0;
    for (int i = 0; i < n_products; i++) bytes += products[i].w->row_bytes * (size_t)products[i].w->dims[1];
    struct products_job job = {
        .kernels = kernels,
        .a = a,
        .products = products,
        .n_products = n_products,
        .take_bytes = bytes / (size_t)(kv_pool_size(pool) * TAKES_PER_THREAD),
        .scratch = scratch,
        .scratch_stride = scratch_stride,
    };
    atomic_init(&job.next, 0);
    kv_pool_share(pool, products_worker, &job);
}
