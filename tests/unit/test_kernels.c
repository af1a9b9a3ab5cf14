/*
 * Weight and vector kernels: every row of kernel_list.h but the attention rows, at every level of this CPU,
 * plain C included, against arithmetic in double with the bounds that the kernels state; bit by bit where
 * they promise it. Inputs end (or begin) at inaccessible pages.
 */
#include "support/kernel_weights.h"

#include "base/half.h"
#include "base/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define EPS     0x1p-24
#define N_OF(a) (int)(sizeof(a) / sizeof((a)[0]))

/* --- the list itself --- */

static const char *const checked_here[] = { "act_quantize", "matmul_rows", "turn_rows",  "rms_norm",
                                            "silu_mul",     "add",         "f32_to_f16", "f16_to_f32",
                                            "hadamard",     "log_sum_exp" };
static const char *const checked_with_attention[] = {
    /* test_kernels_attention.c */
    "attn_tile", "key_tile_from_rows", "value_tile_from_rows", "key_tile_expand", "value_tile_expand",
    "key_tile_hadamard",
    /* test_kernels_codes.c */
    "attn_fold", "qk_codes", "qk_center", "attn_soften", "attn_weigh", "pv_codes", "qk_half", "pv_half",
    "fit_groups",             /* test_kernels_fit.c  */
    "sum_keys", "sum_values", /* test_kernels_sums.c */
    "widen_grids" };          /* test_kv_short.c     */

static void every_kernel_has_a_check(void **state)
{
    (void)state;
    static const char *const rows[] = {
#define X(name, ret, params) #name,
#include "kernels/kernel_list.h"
#undef X
    };
    assert_int_equal(N_OF(rows), N_OF(checked_here) + N_OF(checked_with_attention));
    for (int i = 0; i < N_OF(rows); i++) {
        bool found = false;
        for (int j = 0; j < N_OF(checked_here); j++) found = found || !strcmp(rows[i], checked_here[j]);
        for (int j = 0; j < N_OF(checked_with_attention); j++)
            found = found || !strcmp(rows[i], checked_with_attention[j]);
        if (!found) fail_msg("kernel %s has no check", rows[i]);
    }
}

/* A level that the CPU has but the build left out must not pass with nothing checked. */
static void every_level_of_this_cpu_is_built(void **state)
{
    (void)state;
    struct kv_kernels table;
    kv_kernels_select(&table, KV_CPU_SCALAR);
#if defined(__aarch64__)
#define X(area) if (!kv_fill_##area##_neon(&table)) fail_msg("no NEON: " #area);
#else
#define X(area)                                                                                              \
    if (kv_cpu_detect() >= KV_CPU_AVX2 && !kv_fill_##area##_avx2(&table)) fail_msg("no AVX2: " #area);       \
    if (kv_cpu_detect() >= KV_CPU_AVX512 && !kv_fill_##area##_avx512(&table)) fail_msg("no AVX-512: " #area);
#endif
    KV_KERNEL_AREAS(X)
#undef X
    kv_kernels_select(&table, kv_cpu_detect());
    assert_int_equal(table.level, kv_cpu_detect());
}

/* --- activations --- */

#define MIXED 3 /* digits: two, or one where the block is small beside its row */

static struct kv_act_int act_alloc(int64_t n, int64_t k, int n_digits)
{
    size_t n_blocks = (size_t)(n * k / KV_ACT_BLOCK), n_groups = (size_t)(n * k / KV_WEIGHT_GROUP);
    bool mixed = n_digits == MIXED;
    return (struct kv_act_int){ .high = kv_alloc((size_t)(n * k), 1),
                                .low = n_digits > 1 ? kv_alloc((size_t)(n * k), 1) : NULL,
                                .scale = kv_alloc(n_blocks, sizeof(float)),
                                .sum = kv_alloc(n_groups, sizeof(float)),
                                .sum_q = kv_alloc(n_groups, sizeof(int32_t)),
                                .k = k,
                                .two = mixed ? kv_alloc(n_blocks, 1) : NULL,
                                .sum_low = mixed ? kv_alloc(n_groups, sizeof(int32_t)) : NULL,
                                .low_first = mixed ? kv_alloc((size_t)(k / KV_ACT_BLOCK + 1), sizeof(int32_t))
                                                   : NULL,
                                .low_row = mixed ? kv_alloc(n_blocks, sizeof(int32_t)) : NULL };
}

static int act_value(const struct kv_act_int *a, int64_t i)
{
    return a->low ? a->high[i] * KV_ACT_DIGIT + a->low[i] : a->high[i];
}

/* of q */
static float act_scale(const struct kv_act_int *a, int64_t b)
{
    return a->two ? a->scale[b] / KV_ACT_DIGIT : a->scale[b];
}

static void act_free(struct kv_act_int *a)
{
    kv_free(a->high);
    kv_free(a->low);
    kv_free(a->scale);
    kv_free(a->sum);
    kv_free(a->sum_q);
    kv_free(a->sum_low);
    kv_free(a->two);
    kv_free(a->low_first);
    kv_free(a->low_row);
}

static void check_quantized(const struct check_random *r, const float *x, int64_t n,
                            const struct kv_act_int *a)
{
    for (int64_t b = 0; b < n * a->k / KV_ACT_BLOCK; b++) {
        bool one = a->two && !a->two[b];
        int largest = !a->low ? KV_ACT_MAX1 : one ? KV_ACT_MAX1 * KV_ACT_DIGIT : KV_ACT_MAX2;
        double max = 0.0, step = one ? KV_ACT_DIGIT : 1.0;
        int sum[2] = {0, 0}, sum_high[2] = {0, 0};
        for (int i = 0; i < KV_ACT_BLOCK; i++) {
            int64_t at = b * KV_ACT_BLOCK + i;
            max = fmax(max, fabs((double)x[at]));
            int q = act_value(a, at);
            sum[i / 16] += q;
            sum_high[i / 16] += a->high[at];
            /* beside the half step: q·EPS for the rounding of x·inverse and of scale */
            double error = fabs((double)act_scale(a, b) * q - (double)x[at]);
            CHECK(error <= (double)act_scale(a, b) * (step * (0.5 + 1e-4) + 4.0 * EPS * largest) + 0x1p-100,
                  r, "element %d: %g is %d", i, (double)x[at], q);
            CHECK(q <= largest && q >= -largest && a->high[at] >= -127, r, "code %d", q);
            if (one) CHECK(a->low[at] == 0, r, "low digit %d of a block with one", a->low[at]);
            if (a->low) CHECK(a->low[at] >= -64 && a->low[at] <= 63, r, "low digit %d", a->low[at]);
        }
        CHECK(fabs((double)act_scale(a, b) - max / largest) <= max * EPS, r, "scale %g", (double)a->scale[b]);
        for (int h = 0; h < 2; h++)
            CHECK(a->sum[2 * b + h] == act_scale(a, b) * (float)sum[h], r, "sum of half %d", h);
        for (int h = 0; h < 2; h++) {
            CHECK(a->sum_q[2 * b + h] == (a->two ? sum_high[h] : sum[h]), r, "integer sum of half %d", h);
            if (!a->two) continue;
            CHECK(a->sum_low[2 * b + h] == sum[h] - sum_high[h] * KV_ACT_DIGIT, r, "low sum of half %d", h);
        }
    }
}

/* Which blocks of a mixed row have one digit; the sum of squares is rounded, and may overflow or vanish. */
static void check_mixed(const struct check_random *r, const float *x, int64_t n, const struct kv_act_int *a)
{
    int64_t row_blocks = a->k / KV_ACT_BLOCK;
    for (int64_t row = 0; row < n; row++) {
        double sum = 0.0, square[64];
        assert_true(row_blocks <= 64);
        for (int64_t b = 0; b < row_blocks; b++) {
            square[b] = 0.0;
            for (int i = 0; i < KV_ACT_BLOCK; i++) {
                double v = (double)x[(row * row_blocks + b) * KV_ACT_BLOCK + i];
                square[b] = fmax(square[b], v * v);
            }
            sum += square[b];
        }
        double threshold = (double)KV_ACT_KEEP * sum / (double)row_blocks;
        if (threshold > 1e38 || threshold < 1e-30) continue;
        for (int64_t b = 0; b < row_blocks; b++) {
            if (fabs(square[b] - threshold) < 1e-5 * threshold) continue;
            CHECK(a->two[row * row_blocks + b] == (square[b] >= threshold), r,
                  "block %d of %d: %d digits, %g to %g", (int)b, (int)row_blocks,
                  1 + a->two[row * row_blocks + b], square[b], threshold);
        }
    }
}

static void quantized_activations(void **state)
{
    (void)state;
    struct kv_kernels tables[3];
    struct check_random r = check_random_open();
    int n_levels = check_levels(tables);
    for (int round = 0; round < 18; round++) {
        int64_t n = 1 + check_random_below(&r, 4), k = 32 * (1 + check_random_below(&r, 20));
        struct check_buffer x = check_buffer_open((size_t)(n * k) * sizeof(float), round & 1);
        check_fill(&r, (enum check_data)(round % CHECK_DATA_COUNT), round & 2 ? 1e30f : 3e-29f, x.p, n * k);
        int n_digits = 1 + round / 6;
        struct kv_act_int ref = act_alloc(n, k, n_digits), got = act_alloc(n, k, n_digits);
        tables[0].act_quantize(x.p, n, &ref);
        check_quantized(&r, x.p, n, &ref);
        if (ref.two) check_mixed(&r, x.p, n, &ref);
        for (int l = 1; l < n_levels; l++) {
            tables[l].act_quantize(x.p, n, &got);
            assert_memory_equal(got.high, ref.high, (size_t)(n * k));
            if (n_digits == MIXED) assert_memory_equal(got.two, ref.two, (size_t)(n * k / KV_ACT_BLOCK));
            if (n_digits > 1) assert_memory_equal(got.low, ref.low, (size_t)(n * k));
            assert_memory_equal(got.scale, ref.scale, (size_t)(n * k / KV_ACT_BLOCK) * sizeof(float));
            assert_memory_equal(got.sum, ref.sum, (size_t)(n * k / KV_WEIGHT_GROUP) * sizeof(float));
            assert_memory_equal(got.sum_q, ref.sum_q, (size_t)(n * k / KV_WEIGHT_GROUP) * sizeof(int32_t));
            if (n_digits == MIXED)
                assert_memory_equal(got.sum_low, ref.sum_low,
                                    (size_t)(n * k / KV_WEIGHT_GROUP) * sizeof(int32_t));
        }
        act_free(&ref);
        act_free(&got);
        check_buffer_close(&x);
    }
}

static void non_finite_activations_stay_so(void **state)
{
    (void)state;
    struct kv_kernels tables[3];
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    int n_levels = check_levels(tables);
    for (int l = 0; l < n_levels; l++)
        for (int i = 0; i < N_OF(bad) * KV_ACT_BLOCK; i++) {
            float x[2 * KV_ACT_BLOCK] = {0.0f};
            x[i / N_OF(bad)] = bad[i % N_OF(bad)];
            struct kv_act_int a = act_alloc(1, 2 * KV_ACT_BLOCK, 1 + i % 3);
            tables[l].act_quantize(x, 1, &a);
            assert_true(isnan(a.scale[0]) && isnan(a.sum[0]) && isnan(a.sum[1]));
            assert_true(a.scale[1] == 0.0f && a.sum[2] == 0.0f);
            act_free(&a);
        }
}

/* --- matrix products --- */

struct product {
    struct check_random *r;
    const struct kv_weight_type *type;
    struct kv_matmul mm;
    struct check_buffer weights, x, scratch;
    struct kv_act_int act[3]; /* of one digit, of two, mixed */
    float *y, *bias;
    bool at_begin; /* of a page: the end that is not guarded */
};

static void product_open(struct product *p, struct check_random *r, const struct kv_kernels *ref,
                         const struct kv_weight_type *type, int64_t k, int64_t n_rows, int64_t n,
                         enum check_data kind, bool at_begin)
{
    size_t row_bytes = (size_t)(k / type->block) * (size_t)type->block_bytes;
    *p = (struct product){.r = r, .type = type, .at_begin = at_begin};
    p->weights = check_buffer_open(row_bytes * (size_t)n_rows, at_begin);
    check_weights_fill(r, type, kind, p->weights.p, p->weights.n_bytes);
    p->x = check_buffer_open((size_t)(n * k) * sizeof(float), at_begin);
    check_fill(r, kind, 100.0f, p->x.p, n * k);
    p->scratch = check_buffer_open((kv_matmul_scratch_bytes(k) + 63) & ~(size_t)63, false);
    p->bias = kv_alloc((size_t)n_rows, sizeof(float));
    check_fill(r, CHECK_PLAIN, 0.0f, p->bias, n_rows);
    int64_t ldy = n_rows + 3;
    p->y = kv_alloc((size_t)(n * ldy), sizeof(float));
    p->mm = (struct kv_matmul){.weights = p->weights.p,
                               .row_bytes = row_bytes,
                               .code_format = type->code_format,
                               .float_format = type->float_format,
                               .k = k,
                               .n_rows = n_rows,
                               .x_f32 = p->x.p,
                               .n = n,
                               .y = p->y,
                               .ldy = ldy};
    if (k % KV_ACT_BLOCK) return;
    for (int d = 0; d < 3; d++) {
        p->act[d] = act_alloc(n, k, d + 1);
        ref->act_quantize(p->x.p, n, &p->act[d]);
        if (d + 1 == MIXED) kv_act_list_low(&p->act[d], n);
    }
}

static void product_close(struct product *p)
{
    check_buffer_close(&p->weights);
    check_buffer_close(&p->x);
    check_buffer_close(&p->scratch);
    for (int d = 0; d < 3; d++) act_free(&p->act[d]);
    kv_free(p->y);
    kv_free(p->bias);
}

/* One output in double, and how far float32 may be from it. */
static double exact_output(const struct product *p, const struct kv_kernels *ref, int64_t row, int64_t j,
                           double *bound)
{
    static uint8_t code[8192];
    static float scale[8192], min[8192], w[8192];
    const struct kv_matmul *mm = &p->mm;
    const uint8_t *data = mm->weights + (size_t)row * mm->row_bytes;
    double y = 0.0, size = 0.0;
    assert_true(mm->k <= 8192);
    if (!mm->x_int) {
        kv_weight_row_to_f32(ref, p->type, data, mm->k, w, p->scratch.p);
        for (int64_t i = 0; i < mm->k; i++) {
            double term = (double)w[i] * (double)mm->x_f32[j * mm->k + i];
            y += term;
            size += fabs(term);
        }
        *bound = ((double)mm->k / 16.0 + 8.0) * EPS * size;
    } else {
        int64_t n_groups = mm->k / KV_WEIGHT_GROUP;
        ref->unpack[mm->code_format](data, mm->k, code, scale, min);
        for (int64_t g = 0; g < n_groups; g++) {
            int dot = 0;
            for (int64_t i = g * 16; i < g * 16 + 16; i++)
                dot += code[i] * act_value(mm->x_int, j * mm->k + i);
            double a = (double)scale[g] * (double)act_scale(mm->x_int, (j * n_groups + g) / 2) * dot;
            double b = (double)min[g] * (double)mm->x_int->sum[j * n_groups + g];
            y += a + b;
            size += fabs(a) + fabs(b);
        }
        /* each level's half of the bound in weights_ref.c */
        *bound = 2.0 * (double)(n_groups + 3) * EPS * size;
    }
    if (!mm->bias) return y;
    *bound += EPS * fabs(y + (double)mm->bias[row]);
    return y + (double)mm->bias[row];
}

static void check_product(struct product *p, const struct kv_kernels *table, const struct kv_kernels *ref)
{
    struct kv_matmul *mm = &p->mm;
    int64_t begin = check_random_below(p->r, mm->n_rows),
            end = begin + 1 + check_random_below(p->r, mm->n_rows - begin);
    const char *level = kv_cpu_level_name(table->level);
    size_t n_y = (size_t)(mm->n * mm->ldy);
    for (size_t i = 0; i < n_y; i++) p->y[i] = -12345.0f;
    table->matmul_rows(table, mm, begin, end, p->scratch.p);
    for (int64_t j = 0; j < mm->n; j++)
        for (int64_t row = 0; row < mm->ldy; row++) {
            float y = mm->y[j * mm->ldy + row];
            if (row < begin || row >= end) {
                CHECK(y == -12345.0f, p->r, "%s %s: row %d outside [%d, %d) was written", level,
                      p->type->name, (int)row, (int)begin, (int)end);
                continue;
            }
            /* double is slow; every lane and activation slot is met over the rounds */
            if ((j + row) % 3) continue;
            double bound, exact = exact_output(p, ref, row, j, &bound);
            CHECK(fabs((double)y - exact) <= bound, p->r,
                  "%s %s%s k %d n %d rows [%d, %d): y[%d, %d] = %.9g, exact %.9g, bound %.3g", level,
                  p->type->name,
                  !mm->x_int ? " f32" : mm->x_int->two ? " mixed" : mm->x_int->low ? " two digits" : "",
                  (int)mm->k, (int)mm->n, (int)begin, (int)end, (int)j, (int)row, (double)y, exact, bound);
        }

    /* the same pairs, each activation alone, from another first row: bit-equal */
    int64_t one_row = begin + check_random_below(p->r, end - begin);
    for (int64_t j = 0; j < mm->n; j++) {
        float single[256];
        int32_t low_first[8192 / KV_ACT_BLOCK + 1], low_row[8192 / KV_ACT_BLOCK];
        struct kv_act_int act;
        struct kv_matmul one = *mm;
        if (mm->x_int) {
            act = *mm->x_int;
            act.high += j * mm->k;
            if (act.low) act.low += j * mm->k;
            if (act.two) {
                act.two += j * (mm->k / KV_ACT_BLOCK);
                act.sum_low += j * (mm->k / KV_WEIGHT_GROUP);
                act.low_first = low_first;
                act.low_row = low_row;
                kv_act_list_low(&act, 1);
            }
            act.scale += j * (mm->k / KV_ACT_BLOCK);
            act.sum += j * (mm->k / KV_WEIGHT_GROUP);
            act.sum_q += j * (mm->k / KV_WEIGHT_GROUP);
            one.x_int = &act;
        } else {
            one.x_f32 += j * mm->k;
        }
        one.n = 1;
        one.y = single;
        table->matmul_rows(table, &one, one_row, end, p->scratch.p);
        for (int64_t row = one_row; row < end; row++)
            CHECK(!memcmp(&single[row], &mm->y[j * mm->ldy + row], sizeof(float)), p->r,
                  "%s %s k %d: output (%d, %d) of n = %d is %.9g, alone %.9g", level, p->type->name,
                  (int)mm->k, (int)j, (int)row, (int)mm->n, (double)mm->y[j * mm->ldy + row],
                  (double)single[row]);
    }
}

/* Turned weights, by the plain definition, give the same bits;
 * they end (or begin) at an inaccessible page. */
static void check_turned(struct product *p, const struct kv_kernels *table, const struct kv_kernels *ref)
{
    struct kv_matmul mm = p->mm;
    int lanes = table->lanes;
    size_t panel_bytes = kv_turned_row_bytes(mm.row_bytes) * (size_t)lanes,
           n_panels = kv_turned_panels(mm.n_rows, lanes);
    struct check_buffer turned = check_buffer_open(n_panels * panel_bytes, p->at_begin);
    for (size_t i = 0; i < n_panels; i++) {
        int64_t row = (int64_t)i * lanes, left = mm.n_rows - row;
        ref->turn_rows(mm.weights + (size_t)row * mm.row_bytes, mm.row_bytes,
                       (int)(left < lanes ? left : lanes), lanes, (uint8_t *)turned.p + i * panel_bytes);
    }
    size_t n_y = (size_t)(mm.n * mm.ldy);
    float *y = kv_alloc(n_y, sizeof *y);
    int64_t begin = check_random_below(p->r, (int64_t)n_panels) * lanes,
            end = begin + 1 + check_random_below(p->r, mm.n_rows - begin);
    for (size_t i = 0; i < n_y; i++) y[i] = p->y[i] = -12345.0f;
    table->matmul_rows(table, &mm, begin, end, p->scratch.p);
    mm.turned = turned.p;
    mm.weights = NULL;
    mm.y = y;
    table->matmul_rows(table, &mm, begin, end, p->scratch.p);
    for (size_t i = 0; i < n_y; i++)
        CHECK(!memcmp(&y[i], &p->y[i], sizeof y[i]), p->r,
              "%s %s k %d n %d rows [%d, %d): turned %.9g, else %.9g at %d", kv_cpu_level_name(table->level),
              p->type->name, (int)mm.k, (int)mm.n, (int)begin, (int)end, (double)y[i], (double)p->y[i],
              (int)i);
    kv_free(y);
    check_buffer_close(&turned);
}

static void turned_rows(void **state)
{
    (void)state;
    struct kv_kernels tables[3];
    struct check_random r = check_random_open();
    int n_levels = check_levels(tables);
    for (int round = 0; round < 300; round++)
        for (int l = 1; l < n_levels; l++) {
            int lanes = tables[l].lanes, n_rows = 1 + (int)check_random_below(&r, lanes);
            size_t row_bytes = 2 * (1 + (size_t)check_random_below(&r, 200));
            size_t n_bytes = kv_turned_row_bytes(row_bytes) * (size_t)lanes;
            struct check_buffer rows = check_buffer_open(row_bytes * (size_t)n_rows, round & 1),
                                got = check_buffer_open(n_bytes, round & 2);
            uint8_t *expected = kv_alloc(n_bytes, 1);
            for (size_t i = 0; i < rows.n_bytes; i++)
                ((uint8_t *)rows.p)[i] = (uint8_t)check_random_below(&r, 256);
            tables[0].turn_rows(rows.p, row_bytes, n_rows, lanes, expected);
            tables[l].turn_rows(rows.p, row_bytes, n_rows, lanes, got.p);
            for (size_t i = 0; i < n_bytes; i++) { /* the definition, once more */
                int row = (int)(i / 4 % (size_t)lanes), real = row < n_rows ? row : n_rows - 1;
                size_t byte = i / (4 * (size_t)lanes) * 4 + i % 4;
                int want = byte < row_bytes ? ((uint8_t *)rows.p)[(size_t)real * row_bytes + byte] : 0;
                CHECK(expected[i] == want, &r, "plain C: byte %d of %d rows of %d bytes", (int)i, n_rows,
                      (int)row_bytes);
            }
            CHECK(!memcmp(got.p, expected, n_bytes), &r, "%s: %d rows of %d bytes",
                  kv_cpu_level_name(tables[l].level), n_rows, (int)row_bytes);
            kv_free(expected);
            check_buffer_close(&rows);
            check_buffer_close(&got);
        }
}

static void matrix_products(void **state)
{
    (void)state;
    static const int64_t blocks_of_32[] = {1, 2, 3, 15, 16, 17, 18, 33}, blocks_of_256[] = {1, 2, 3, 5};
    static const int64_t counts[] = {1, 2, 5, 6, 7, 13, 37};
    struct kv_kernels tables[3];
    struct check_random r = check_random_open();
    int n_levels = check_levels(tables);
    for (int t = 0; t < kv_weight_type_count(); t++) {
        const struct kv_weight_type *type = kv_weight_type_at(t);
        for (int round = 0; round < 16; round++) {
            int64_t k = type->block == 256  ? 256 * blocks_of_256[round % N_OF(blocks_of_256)]
                        : type->block == 32 ? 32 * blocks_of_32[round % N_OF(blocks_of_32)]
                                            : 1 + check_random_below(&r, 700);
            int64_t n_rows = 1 + check_random_below(&r, round & 1 ? 70 : 20);
            struct product p;
            product_open(&p, &r, &tables[0], type, k, n_rows, counts[round % N_OF(counts)],
                         (enum check_data)(round / 2 % CHECK_DATA_COUNT), round & 1);
            for (int l = 0; l < n_levels; l++)
                for (int digits = 0; digits <= (type->code_format < 0 ? 0 : 3); digits++) { /* 0: float */
                    p.mm.x_int = digits ? &p.act[digits - 1] : NULL;
                    p.mm.x_f32 = digits ? NULL : p.x.p;
                    p.mm.bias = round & 4 ? p.bias : NULL;
                    check_product(&p, &tables[l], &tables[0]);
                    if (digits && tables[l].lanes) check_turned(&p, &tables[l], &tables[0]);
                }
            product_close(&p);
        }
    }
}

/* --- vectors --- */

static const int64_t lengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 576, 1000, 4099};

static void norms(void **state)
{
    (void)state;
    struct kv_kernels tables[3];
    struct check_random r = check_random_open();
    int n_levels = check_levels(tables);
    for (int i = 0; i < N_OF(lengths) * CHECK_DATA_COUNT; i++) {
        int64_t n = lengths[i / CHECK_DATA_COUNT];
        size_t bytes = (size_t)n * sizeof(float);
        struct check_buffer x = check_buffer_open(bytes, false), w = check_buffer_open(bytes, true),
                            y = check_buffer_open(bytes, false);
        check_fill(&r, (enum check_data)(i % CHECK_DATA_COUNT), 1e4f, x.p, n);
        check_fill(&r, CHECK_PLAIN, 0.0f, w.p, n);
        const float *xs = x.p, *ws = w.p, *ys = y.p;
        double squares = 0.0;
        for (int64_t j = 0; j < n; j++) squares += (double)xs[j] * (double)xs[j];
        for (int l = 0; l < n_levels; l++) {
            tables[l].rms_norm(x.p, w.p, n, 1e-5f, y.p);
            for (int64_t j = 0; j < n; j++) {
                double exact = (double)xs[j] / sqrt(squares / (double)n + 1e-5) * (double)ws[j];
                double bound = ((double)n / 32.0 + 8.0) * EPS * fabs(exact);
                CHECK(fabs((double)ys[j] - exact) <= bound, &r, "%s n %d: %g, exact %g",
                      kv_cpu_level_name(tables[l].level), (int)n, (double)ys[j], exact);
            }
        }
        check_buffer_close(&x);
        check_buffer_close(&w);
        check_buffer_close(&y);
    }
}

static void check_silu(const struct check_random *r, const struct kv_kernels *table, const float *a,
                       const float *b, int64_t n, float *y)
{
    table->silu_mul(a, b, n, y);
    for (int64_t i = 0; i < n; i++) {
        double exact = (double)a[i] / (1.0 + exp(-(double)a[i])) * (double)b[i];
        /* below −88.7 the exponential overflows: the result is zero instead of
         * at most 88.8 / FLT_MAX = 22.2 FLT_MIN */
        double bound = 8.0 * EPS * fabs(exact) + (double)FLT_MIN * (1.0 + 23.0 * fabs((double)b[i]));
        CHECK(fabs((double)y[i] - exact) <= bound, r, "%s silu(%.9g)·%.9g = %.9g, exact %.9g",
              kv_cpu_level_name(table->level), (double)a[i], (double)b[i], (double)y[i], exact);
    }
}

static void gates(void **state)
{
    (void)state;
    struct kv_kernels tables[3];
    struct check_random r = check_random_open();
    int n_levels = check_levels(tables);
    for (int i = 0; i < N_OF(lengths) * 2; i++) {
        int64_t n = lengths[i / 2];
        size_t bytes = (size_t)n * sizeof(float);
        struct check_buffer a = check_buffer_open(bytes, false), b = check_buffer_open(bytes, true),
                            y = check_buffer_open(bytes, false);
        float *as = a.p;
        for (int64_t j = 0; j < n; j++)
            as[j] = check_random_float(&r, i & 1 ? -130.0f : -8.0f, i & 1 ? 130.0f : 8.0f);
        if (i & 1) as[0] = check_random_next(&r) & 1 ? 1e30f : -1e30f;
        check_fill(&r, CHECK_PLAIN, 0.0f, b.p, n);
        for (int l = 0; l < n_levels; l++) check_silu(&r, &tables[l], a.p, b.p, n, y.p);
        check_buffer_close(&a);
        check_buffer_close(&b);
        check_buffer_close(&y);
    }
    for (int l = 0; l < n_levels; l++) { /* a NaN is not swallowed by the bounds of the exponential */
        float a[17], b[17], y[17];
        for (int i = 0; i < 17; i++) a[i] = NAN, b[i] = 1.0f;
        tables[l].silu_mul(a, b, 17, y);
        for (int i = 0; i < 17; i++) assert_true(isnan(y[i]));
    }
}

/* add and the conversions, bit by bit */
static void exact_vectors(void **state)
{
    (void)state;
    struct kv_kernels tables[3];
    struct check_random r = check_random_open();
    int n_levels = check_levels(tables);
    for (int i = 0; i < N_OF(lengths) * CHECK_DATA_COUNT; i++) {
        int64_t n = lengths[i / CHECK_DATA_COUNT];
        size_t bytes = (size_t)n * sizeof(float);
        struct check_buffer x = check_buffer_open(bytes, i & 1), y = check_buffer_open(bytes, i & 1),
                            h = check_buffer_open(bytes / 2, i & 1);
        float *first = kv_alloc((size_t)n, sizeof(float));
        check_fill(&r, (enum check_data)(i % CHECK_DATA_COUNT), 1e6f, first, n);
        check_fill(&r, CHECK_PLAIN, 0.0f, y.p, n);
        for (int l = 0; l < n_levels; l++) {
            const float *ys = y.p, *xs = x.p;
            const uint16_t *hs = h.p;
            memcpy(x.p, first, bytes);
            tables[l].f32_to_f16(x.p, n, h.p);
            for (int64_t j = 0; j < n; j++) assert_int_equal(hs[j], kv_f32_to_f16(first[j]));
            tables[l].add(x.p, y.p, n);
            for (int64_t j = 0; j < n; j++)
                assert_int_equal(kv_f32_bits(xs[j]), kv_f32_bits(first[j] + ys[j]));
            tables[l].f16_to_f32(h.p, n, x.p);
            for (int64_t j = 0; j < n; j++)
                assert_int_equal(kv_f32_bits(xs[j]), kv_f32_bits(kv_f16_to_f32(hs[j])));
        }
        kv_free(first);
        check_buffer_close(&x);
        check_buffer_close(&y);
        check_buffer_close(&h);
    }
}

/* Every half; and every float that lies on, or next to, a border between two halves. */
static void every_half(void **state)
{
    (void)state;
    enum { N = 65536 };
    struct kv_kernels tables[3];
    int n_levels = check_levels(tables);
    uint16_t *h = kv_alloc(N, sizeof *h), *back = kv_alloc(N, sizeof *back);
    float *f = kv_alloc(N, sizeof *f);
    for (int i = 0; i < N; i++) h[i] = (uint16_t)i;
    for (int l = 0; l < n_levels; l++) {
        tables[l].f16_to_f32(h, N, f);
        for (int i = 0; i < N; i++) {
            float exact = kv_f16_to_f32(h[i]);
            assert_true(isnan(exact) ? isnan(f[i]) : kv_f32_bits(f[i]) == kv_f32_bits(exact));
        }
        for (int step = -1; step <= 1; step++) {
            for (int i = 0; i < N; i++) {
                float low = kv_f16_to_f32((uint16_t)i), high = kv_f16_to_f32((uint16_t)(i + 1));
                f[i] = isfinite(low) && isfinite(high)
                           ? kv_bits_f32(kv_f32_bits((low + high) / 2.0f) + (uint32_t)step)
                           : low;
            }
            tables[l].f32_to_f16(f, N, back);
            for (int i = 0; i < N; i++) {
                bool nan = isnan(f[i]);
                assert_true(nan ? (back[i] & 0x7fff) > 0x7c00 : back[i] == kv_f32_to_f16(f[i]));
            }
        }
    }
    kv_free(h);
    kv_free(back);
    kv_free(f);
}

static void transforms(void **state)
{
    (void)state;
    static const int dims[] = {1, 2, 4, 8, 12, 16, 32, 48, 64, 80, 96, 128, 192, 256};
    struct kv_kernels tables[3];
    struct check_random r = check_random_open();
    int n_levels = check_levels(tables);
    for (int i = 0; i < N_OF(dims) * 3; i++) {
        int dim = dims[i / 3], n_rows = 1 + i % 3 * 2, n = dim * n_rows, block = dim & -dim;
        struct check_buffer x = check_buffer_open((size_t)n * sizeof(float), i & 1);
        float first[2048], *xs = x.p, *plain = kv_alloc((size_t)n, sizeof(float));
        check_fill(&r, i % 3 == 2 ? CHECK_OUTLIER : CHECK_PLAIN, 1e4f, first, n);
        for (int l = 0; l < n_levels; l++) {
            memcpy(xs, first, (size_t)n * sizeof(float));
            tables[l].hadamard(xs, n_rows, dim);
            if (l == 0) memcpy(plain, xs, (size_t)n * sizeof(float));
            assert_memory_equal(xs, plain, (size_t)n * sizeof(float));
            for (int j = 0; j < n; j++) { /* H[a][b] = (−1)^popcount(a & b) / sqrt(block) */
                double exact = 0.0, size = 0.0;
                for (int b = 0; b < block; b++) {
                    double term = (double)first[j - j % block + b];
                    exact += __builtin_popcount((unsigned)(j % block & b)) & 1 ? -term : term;
                    size += fabs(term);
                }
                double bound = 12.0 * EPS * size / sqrt(block);
                CHECK(fabs((double)xs[j] - exact / sqrt(block)) <= bound, &r,
                      "head_dim %d element %d", dim, j);
            }
        }
        kv_free(plain);
        check_buffer_close(&x);
    }
}

static void log_sums(void **state)
{
    (void)state;
    struct kv_kernels tables[3];
    struct check_random r = check_random_open();
    int n_levels = check_levels(tables);
    for (int i = 0; i < N_OF(lengths) * 3; i++) {
        int64_t n = lengths[i / 3];
        struct check_buffer x = check_buffer_open((size_t)n * sizeof(float), i & 1);
        float *xs = x.p, width = i % 3 == 0 ? 1.0f : 60.0f;
        for (int64_t j = 0; j < n; j++)
            xs[j] = check_random_float(&r, -width, width) + (i % 3 == 2 ? 5000.0f : 0.0f);
        if (n > 2) xs[n / 2] = -INFINITY;
        double max = -INFINITY, sum = 0.0;
        for (int64_t j = 0; j < n; j++) max = fmax(max, (double)xs[j]);
        for (int64_t j = 0; j < n; j++) sum += exp((double)xs[j] - max);
        double exact = max + log(sum), bound = (5.0 + log((double)n)) * EPS + 1e-15 * fabs(exact);
        for (int l = 0; l < n_levels; l++) {
            double got = tables[l].log_sum_exp(xs, n);
            CHECK(fabs(got - exact) <= bound, &r, "%s n %d: %.12g, exact %.12g",
                  kv_cpu_level_name(tables[l].level), (int)n, got, exact);
        }
        check_buffer_close(&x);
    }
    for (int l = 0; l < n_levels; l++) {
        float x[40];
        for (int i = 0; i < 40; i++) x[i] = -INFINITY;
        assert_true(tables[l].log_sum_exp(x, 0) == -INFINITY);
        assert_true(tables[l].log_sum_exp(x, 40) == -INFINITY);
        x[3] = 1.0f;
        assert_true(tables[l].log_sum_exp(x, 40) == 1.0);
        x[20] = NAN;
        assert_true(isnan(tables[l].log_sum_exp(x, 40)));
        x[20] = INFINITY;
        assert_true(tables[l].log_sum_exp(x, 40) == INFINITY);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_has_a_check),
        cmocka_unit_test(every_level_of_this_cpu_is_built),
        cmocka_unit_test(quantized_activations),
        cmocka_unit_test(non_finite_activations_stay_so),
        cmocka_unit_test(turned_rows),
        cmocka_unit_test(matrix_products),
        cmocka_unit_test(norms),
        cmocka_unit_test(gates),
        cmocka_unit_test(exact_vectors),
        cmocka_unit_test(every_half),
        cmocka_unit_test(transforms),
        cmocka_unit_test(log_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
