/*
 * bench_kernels [LEVEL [TYPE]]: matrix products per weight type and CPU level; LEVEL "all" for every one.
 *
 *   n = 1    decoding: GB/s of weights through all threads, and the share of the machine's read bandwidth
 *   n = 512  prefill: 1e9 multiply-adds per second, and the ratio to plain C
 *
 * The matrices are much larger than the caches. Medians of several runs; look at the ratios when the machine
 * is busy.
 */
#include "base/memory.h"
#include "model/matmul.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define K            2304 /* 9 blocks of 256: slabs of 576 columns, K formats: 512 and a rest */
#define DECODE_BYTES ((size_t)192 << 20)
#define PREFILL_ROWS 2048
#define PREFILL_N    512
#define REPEATS      7

struct bench {
    struct kv_pool *pool;
    struct kv_kernels tables[3];
    float *x, *y;
    void *int_memory, *scratch;
    size_t scratch_stride;
    uint8_t *weights;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median seconds of one product. */
static double time_product(struct bench *b, const struct kv_kernels *table, const struct kv_weight_type *type,
                           int64_t n_rows, int64_t n, bool float_act, int repeats)
{
    struct kv_gguf_tensor w = {
        .type = type,
        .n_dims = 2,
        .dims = { K, n_rows, 1, 1 },
        .data = b->weights,
        .row_bytes = (size_t)(K / type->block) * (size_t)type->block_bytes,
    };
    struct kv_activations a;
    kv_activations_place(&a, b->x, n, K, float_act ? NULL : b->int_memory, KV_DIGITS_MIXED);
    kv_activations_quantize(&a, table, 0, n);
    kv_activations_finish(&a);
    struct kv_product p = { .w = &w, .y = b->y, .ldy = n_rows };
    double seconds[REPEATS];
    for (int i = 0; i < repeats; i++) {
        double start = kv_clock_s();
        kv_products(b->pool, table, &a, &p, 1, b->scratch, b->scratch_stride);
        seconds[i] = kv_clock_s() - start;
    }
    qsort(seconds, (size_t)repeats, sizeof seconds[0], by_value);
    return seconds[repeats / 2];
}

static void bench_type(struct bench *b, const struct kv_weight_type *type, const char *only_level,
                       double read_gb_per_s)
{
    double row_bytes = (double)K / type->block * type->block_bytes;
    int64_t decode_rows = (int64_t)((double)DECODE_BYTES / row_bytes);
    bool float_act = type->code_format < 0;
    double plain = 0.0;
    for (int l = 0; l <= (int)kv_cpu_detect(); l++) {
        const struct kv_kernels *table = &b->tables[l];
        const char *level = kv_cpu_level_name((enum kv_cpu_level)l);
        if (only_level && strcmp(only_level, level) && strcmp(only_level, "all")) continue;
        int64_t rows1 = l ? decode_rows : decode_rows / 8, rows512 = l ? PREFILL_ROWS : PREFILL_ROWS / 32;
        double s1 = time_product(b, table, type, rows1, 1, float_act, l ? REPEATS : 3);
        double s512 = time_product(b, table, type, rows512, PREFILL_N, float_act, l ? REPEATS : 3);
        double gb = (double)rows1 * row_bytes / s1 * 1e-9;
        double gop = (double)rows512 * K * PREFILL_N / s512 * 1e-9;
        if (l == 0) plain = gop;
        printf("%-7s %-7s %8.2f %6.0f%% %10.1f", type->name, level, gb, 100.0 * gb / read_gb_per_s, gop);
        if (plain > 0.0) printf(" %8.1fx", gop / plain);
        printf("\n");
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    struct bench b = { 0 };
    struct kvant_error err;
    int n_threads = kv_cpu_count();
    if (kv_pool_open(&b.pool, n_threads, &err) != KVANT_OK) {
        fprintf(stderr, "bench_kernels: %s\n", err.message);
        return 1;
    }
    for (int l = 0; l <= (int)kv_cpu_detect(); l++) kv_kernels_select(&b.tables[l], (enum kv_cpu_level)l);
    /* The densest type has 84 bytes for 256 columns: fewer rows than this. */
    size_t y_floats = DECODE_BYTES / 64;
    b.scratch_stride = kv_matmul_scratch_bytes(K);
    b.x = kv_alloc((size_t)PREFILL_N * K, sizeof(float));
    b.y = kv_alloc(y_floats, sizeof(float));
    b.int_memory = kv_alloc(kv_activations_bytes(PREFILL_N, K), 1);
    b.scratch = kv_alloc((size_t)n_threads, b.scratch_stride);
    b.weights = kv_pages_alloc(DECODE_BYTES + (size_t)PREFILL_ROWS * K * sizeof(float));
    if (!b.x || !b.y || !b.int_memory || !b.scratch || !b.weights) {
        fprintf(stderr, "bench_kernels: needs 250 MB of memory\n");
        return 1;
    }
    for (size_t i = 0; i < (size_t)PREFILL_N * K; i++)
        b.x[i] = (float)(i * 2654435761u % 1000) * 0.002f - 1.0f;
    /* 0x15..0x18 in every byte: scales of a small normal float16 whatever the type */
    for (size_t i = 0; i < DECODE_BYTES; i++) b.weights[i] = (uint8_t)(0x15 + (i >> 3) % 4);

    struct kvant_model machine = { .n_threads = n_threads };
    double read_gb_per_s = kvant_machine_read_gb_per_s(&machine);
    printf("%d threads, read bandwidth %.1f GB/s\n", n_threads, read_gb_per_s);
    printf("%-7s %-7s %8s %7s %10s %9s\n", "type", "level", "GB/s n=1", "of read", "GMAC/s 512", "to scalar");
    for (int t = 0; t < kv_weight_type_count(); t++) {
        const struct kv_weight_type *type = kv_weight_type_at(t);
        if (argc > 2 && strcmp(argv[2], type->name)) continue;
        bench_type(&b, type, argc > 1 ? argv[1] : NULL, read_gb_per_s);
    }
    kv_pool_close(b.pool);
    kv_free(b.x);
    kv_free(b.y);
    kv_free(b.int_memory);
    kv_free(b.scratch);
    kv_pages_free(b.weights, DECODE_BYTES + (size_t)PREFILL_ROWS * K * sizeof(float));
    return 0;
}
