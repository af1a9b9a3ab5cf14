/*
 * Matrix products of the model: rows of a weight tensor, partitioned over the pool.
 */
#ifndef KV_MODEL_MATMUL_H
#define KV_MODEL_MATMUL_H

#include "base/threads.h"
#include "format/gguf.h"

/* The inputs of one or several products over the same activations. */
struct kv_activations {
    const float *f32;          /* (n, k)                                                       */
    struct kv_act_int i;       /* quantized once for all products; high NULL = float only      */
    int64_t n, k;
};
#define KV_DIGITS_MIXED 3 /* two, the low one only where it matters (kernels.h) */
/* Bytes that n rows of k need as integers, however many digits (a multiple of 64). */
size_t kv_activations_bytes(int64_t n, int64_t k);
/* Points at x and, if int_memory is not NULL, lays out 1 or 2 digits or KV_DIGITS_MIXED there. Then rows are
 * quantized, in any order, by any thread, best by the one that has just made them; then finish. */
void kv_activations_place(struct kv_activations *a, const float *x, int64_t n, int64_t k, void *int_memory,
                          int n_digits);
void kv_activations_quantize(const struct kv_activations *a, const struct kv_kernels *kernels, int64_t first,
                             int64_t n_rows);
void kv_activations_finish(struct kv_activations *a);

struct kv_product {
    const struct kv_gguf_tensor *w; /* (n_rows, k)                       */
    const float *bias;              /* (n_rows) or NULL                  */
    float *y;                       /* (n, ldy)                          */
    int64_t ldy;
    const uint8_t *turned;          /* w as panels (kernels.h), or NULL  */
};
/* All products in one run of the pool (QKV, gate and up): rows are split over threads by bytes. The result of
 * one output does not depend on the number of threads. scratch: n_threads × kv_matmul_scratch_bytes(k). Float
 * weights use the float activations. */
void kv_products(struct kv_pool *pool, const struct kv_kernels *kernels, const struct kv_activations *a,
                 const struct kv_product *products, int n_products, void *scratch, size_t scratch_stride);

#endif
