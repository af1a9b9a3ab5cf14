/* Products over the pool: every row once, the same bits for any number of threads, biases and strides in
 * place. */
#include "support/kernel_weights.h"

#include "base/memory.h"
#include "model/matmul.h"

#include <string.h>

#define K          544 /* 17 blocks of 32: the pairs of the panels don't come out even */
#define N          9
#define N_PRODUCTS 4

static const int64_t row_counts[N_PRODUCTS] = {1, 77, 200, 333};
static const uint32_t type_ids[N_PRODUCTS] = {3, 8, 6, 1}; /* Q4_1 Q8_0 Q5_0 F16 */

struct matrices {
    struct kv_gguf_tensor w[N_PRODUCTS];
    uint8_t *data[N_PRODUCTS];
    float *bias, *x;
};

static void matrices_open(struct matrices *m)
{
    struct check_random r = check_random_open();
    for (int i = 0; i < N_PRODUCTS; i++) {
        const struct kv_weight_type *type = kv_weight_type_find(type_ids[i]);
        size_t row_bytes = (size_t)(K / type->block) * (size_t)type->block_bytes,
               n_bytes = row_bytes * (size_t)row_counts[i];
        m->data[i] = kv_alloc(n_bytes, 1);
        check_weights_fill(&r, type, CHECK_PLAIN, m->data[i], n_bytes);
        m->w[i] = (struct kv_gguf_tensor){.type = type,
                                          .n_dims = 2,
                                          .dims = {K, row_counts[i], 1, 1},
                                          .data = m->data[i],
                                          .n_bytes = n_bytes,
                                          .row_bytes = row_bytes};
    }
    m->bias = kv_alloc(512, sizeof(float));
    m->x = kv_alloc(N * K, sizeof(float));
    check_fill(&r, CHECK_PLAIN, 0.0f, m->bias, 512);
    check_fill(&r, CHECK_OUTLIER, 50.0f, m->x, N * K);
}

static void matrices_close(struct matrices *m)
{
    for (int i = 0; i < N_PRODUCTS; i++) kv_free(m->data[i]);
    kv_free(m->bias);
    kv_free(m->x);
}

/* Panels of all matrices; all NULL where the level has none. */
static void turn_all(const struct matrices *m, const struct kv_kernels *kernels, uint8_t *turned[N_PRODUCTS])
{
    int lanes = kernels->lanes;
    for (int i = 0; i < N_PRODUCTS; i++) {
        turned[i] = NULL;
        if (!lanes || m->w[i].type->code_format < 0) continue;
        size_t row_bytes = m->w[i].row_bytes, panel_bytes = kv_turned_row_bytes(row_bytes) * (size_t)lanes;
        turned[i] = kv_alloc(kv_turned_panels(row_counts[i], lanes), panel_bytes);
        for (int64_t row = 0; row < row_counts[i]; row += lanes)
            kernels->turn_rows(m->data[i] + (size_t)row * row_bytes, row_bytes,
                               (int)(row_counts[i] - row < lanes ? row_counts[i] - row : lanes), lanes,
                               turned[i] + (size_t)(row / lanes) * panel_bytes);
    }
}

/* All products with n_threads; turned: panels, or NULL; y: N_PRODUCTS arrays of (N, rows + 5), one after the
 * other. */
static void run(const struct matrices *m, const struct kv_kernels *kernels, int n_threads, int n_digits,
                uint8_t *const *turned, float *y, size_t y_floats)
{
    struct kv_pool *pool;
    assert_int_equal(kv_pool_open(&pool, n_threads, NULL), KVANT_OK);
    size_t stride = (kv_matmul_scratch_bytes(K) + 63) & ~(size_t)63;
    void *scratch = kv_alloc((size_t)n_threads, stride),
         *memory = n_digits ? kv_alloc(kv_activations_bytes(N, K), 1) : NULL;
    struct kv_activations a;
    kv_activations_place(&a, m->x, N, K, memory, n_digits);
    kv_activations_quantize(&a, kernels, 0, N);
    kv_activations_finish(&a);
    struct kv_product products[N_PRODUCTS];
    for (size_t i = 0; i < y_floats; i++) y[i] = -1e9f;
    for (int i = 0; i < N_PRODUCTS; i++) {
        products[i] = (struct kv_product){&m->w[i], i & 1 ? m->bias : NULL, y, row_counts[i] + 5,
                                           turned ? turned[i] : NULL};
        y += N * (row_counts[i] + 5);
    }
    kv_products(pool, kernels, &a, products, N_PRODUCTS, scratch, stride);
    kv_free(scratch);
    kv_free(memory);
    kv_pool_close(pool);
}

static void products_do_not_depend_on_threads(void **state)
{
    (void)state;
    struct matrices m;
    struct kv_kernels tables[3];
    int n_levels = check_levels(tables);
    size_t y_floats = 0;
    matrices_open(&m);
    for (int i = 0; i < N_PRODUCTS; i++) y_floats += (size_t)(N * (row_counts[i] + 5));
    float *one = kv_alloc(y_floats, sizeof(float)), *many = kv_alloc(y_floats, sizeof(float));
    for (int l = 0; l < n_levels; l++)
        for (int n_digits = 0; n_digits <= KV_DIGITS_MIXED; n_digits++) {
            uint8_t *turned[N_PRODUCTS];
            turn_all(&m, &tables[l], turned);
            run(&m, &tables[l], 1, n_digits, NULL, one, y_floats);
            const float *y = one;
            for (int i = 0; i < N_PRODUCTS; i++)
                for (int64_t j = 0; j < N * (row_counts[i] + 5); j++, y++)
                    assert_int_equal(*y == -1e9f, j % (row_counts[i] + 5) >= row_counts[i]);
            for (int n_threads = 2; n_threads <= 5; n_threads++) {
                run(&m, &tables[l], n_threads, n_digits, n_threads & 1 ? turned : NULL, many, y_floats);
                assert_memory_equal(many, one, y_floats * sizeof(float));
            }
            for (int i = 0; i < N_PRODUCTS; i++) kv_free(turned[i]);
        }
    kv_free(one);
    kv_free(many);
    matrices_close(&m);
}

/* Rows are quantized where they are made, in blocks and in any order: as all at once. */
static void quantization_does_not_depend_on_the_order(void **state)
{
    (void)state;
    enum { ROWS = 301 };
    struct kv_kernels tables[3];
    struct check_random r = check_random_open();
    const struct kv_kernels *kernels = &tables[check_levels(tables) - 1];
    size_t n_bytes = kv_activations_bytes(ROWS, K);
    assert_int_equal(n_bytes % 64, 0);
    float *x = kv_alloc(ROWS * K, sizeof(float));
    void *whole = kv_alloc(n_bytes, 1), *parts = kv_alloc(n_bytes, 1);
    check_fill(&r, CHECK_PLAIN, 0.0f, x, ROWS * K);
    for (int rows = 301; rows > 0; rows = rows == 301 ? 8 : rows - 7) { /* all, 8, 1 */
        struct kv_activations a;
        kv_activations_place(&a, x, ROWS, K, rows == ROWS ? whole : parts, KV_DIGITS_MIXED);
        for (int first = (ROWS - 1) / rows * rows; first >= 0; first -= rows)
            kv_activations_quantize(&a, kernels, first, ROWS - first < rows ? ROWS - first : rows);
        kv_activations_finish(&a);
        if (rows < ROWS) assert_memory_equal(parts, whole, n_bytes);
        memset(parts, 0, n_bytes);
    }
    kv_free(x);
    kv_free(whole);
    kv_free(parts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_do_not_depend_on_threads),
        cmocka_unit_test(quantization_does_not_depend_on_the_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
