/*
 * bench_codes [LEVEL]: the kernels of attention over codes, one page of one KV head in the first-level cache.
 * Nanoseconds per page and query row, and the bytes of codes per nanosecond that a group of rows is worked
 * on with: compare them with what memory delivers to one core.
 */
#include "base/memory.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 96

struct page {
    uint8_t *codes;            /* (8 · bits · head_dim)                     */
    uint16_t *scale, *min;     /* f16 (256)                                 */
    float *q, *out, *score, *delta, *bias, *sum, *keep, *max;
    int *first, *last;
    void *digits;
    float *angles, *turning; /* of centres: (2, 128), (128, 2, 32) */
    uint8_t listed[128];
    int head_dim, n_rows, bits;
};

static void run_fold(const struct kv_kernels *k, const struct page *p)
{
    const struct kv_key_class all = { p->bits, p->head_dim, 0 };
    k->attn_fold(&(struct kv_fold){ .q = p->q, .q_stride = (size_t)p->head_dim, .n_rows = p->n_rows,
                                    .n_classes = 1, .classes = &all, .middle = p->q, .largest = p->codes,
                                    .scale = p->scale, .min = p->min, .digits = p->digits,
                                    .digits_stride = 2 * (size_t)p->head_dim, .delta = { p->delta },
                                    .bias = p->bias });
}

static void run_qk(const struct kv_kernels *k, const struct page *p)
{
    const struct kv_key_class all = { p->bits, p->head_dim, 0 };
    k->qk_codes(&(struct kv_qk_codes){ .codes = p->codes, .n_classes = 1, .classes = &all,
                                       .digits = { p->digits, p->digits },
                                       .digits_stride = 2 * (size_t)p->head_dim,
                                       .delta = { { p->delta }, { p->delta } }, .bias = { p->bias, p->bias },
                                       .n_rows = p->n_rows, .score = p->score });
}

/* Eleven of 32 pairs, as calibration leaves to keys per channel. */
static void run_center(const struct kv_kernels *k, const struct page *p)
{
    int n_pairs = p->head_dim / 2;
    k->qk_center(&(struct kv_qk_center){ .cos_part = p->q, .sin_part = p->q + n_pairs,
                                         .stride = (size_t)p->head_dim, .still = p->bias, .cos_t0 = p->angles,
                                         .sin_t0 = p->angles + n_pairs, .n_pairs = n_pairs,
                                         .n_listed = n_pairs * 11 / 32, .listed = p->listed,
                                         .turning = p->turning, .n_rows = p->n_rows, .score = p->score });
}

static void run_soften(const struct kv_kernels *k, const struct page *p)
{
    k->attn_soften(&(struct kv_soften){ p->score, p->n_rows, p->first, p->last, p->max, p->sum, p->keep });
}

static void run_weigh(const struct kv_kernels *k, const struct page *p)
{
    k->attn_weigh(&(struct kv_weigh){ p->score, p->n_rows, 1, p->bits, KV_TILE, p->scale, p->min, p->digits,
                                      p->delta, p->bias });
}

static void run_pv(const struct kv_kernels *k, const struct page *p)
{
    k->pv_codes(&(struct kv_pv_codes){ .codes = p->codes, .bits = p->bits, .head_dim = p->head_dim,
                                       .n_groups = 1, .n_tokens = KV_TILE, .digits = p->digits,
                                       .delta = p->delta, .bias = p->bias, .keep = p->keep,
                                       .n_rows = p->n_rows, .out = p->out });
}

static void run_qk_half(const struct kv_kernels *k, const struct page *p)
{
    k->qk_half(&(struct kv_qk_half){ .k = (const uint16_t *)(const void *)p->codes, .head_dim = p->head_dim,
                                     .n_tokens = KV_TILE, .n_rows = p->n_rows, .q = p->q,
                                     .score = p->score });
}

static void run_pv_half(const struct kv_kernels *k, const struct page *p)
{
    k->pv_half(&(struct kv_pv_half){ .v = (const uint16_t *)(const void *)p->codes, .stride = p->head_dim,
                                     .head_dim = p->head_dim, .n_tokens = KV_TILE, .n_rows = p->n_rows,
                                     .p = p->score, .keep = p->keep, .out = p->out });
}

/* The page's values encoded: groups of a whole head. */
static void run_fit(const struct kv_kernels *k, const struct page *p)
{
    uint16_t scale[KV_FIT_SIDE], min[KV_FIT_SIDE];
    for (int row = 0; row < p->n_rows; row += KV_FIT_SIDE) {
        int n_groups = p->n_rows - row < KV_FIT_SIDE ? p->n_rows - row : KV_FIT_SIDE;
        k->fit_groups(&(struct kv_fit_groups){ .x = p->q + row * p->head_dim, .next = 1,
                                               .side = (size_t)p->head_dim, .n = p->head_dim,
                                               .n_groups = n_groups, .bits = p->bits, .codes = p->codes,
                                               .codes_next = 1, .codes_side = (size_t)p->head_dim,
                                               .scale = scale, .min = min });
    }
}

/* Sums know no query rows: one call a page, whatever the column says. */
static void run_sum_keys(const struct kv_kernels *k, const struct page *p)
{
    const struct kv_key_class all = { p->bits, p->head_dim, 0 };
    k->sum_keys(&(struct kv_sum_keys){ .codes = p->codes, .n_classes = 1, .classes = &all, .scale = p->scale,
                                       .min = p->min, .group = KV_TILE, .first = 0, .last = KV_TILE,
                                       .n_channels = p->head_dim, .out = p->out });
}

/* With a row of weights for each channel, as keys before RoPE are read (twice: cosines and sines). */
static void run_sum_weighted(const struct kv_kernels *k, const struct page *p)
{
    const struct kv_key_class all = { p->bits, p->head_dim, 0 };
    const float *weight[KV_HEAD_DIM_MAX];
    for (int c = 0; c < p->head_dim; c++) weight[c] = p->q + c % (p->head_dim / 2) * KV_TILE;
    k->sum_keys(&(struct kv_sum_keys){ .codes = p->codes, .n_classes = 1, .classes = &all, .scale = p->scale,
                                       .min = p->min, .group = KV_TILE, .first = 0, .last = KV_TILE,
                                       .n_channels = p->head_dim, .weight = weight, .out = p->out });
}

static void run_sum_values(const struct kv_kernels *k, const struct page *p)
{
    k->sum_values(&(struct kv_sum_values){ .codes = p->codes, .scale = p->scale, .min = p->min,
                                           .bits = p->bits, .head_dim = p->head_dim, .n_groups = 1,
                                           .first = 0, .last = KV_TILE, .out = p->out });
}

static const struct row {
    const char *name;
    void (*run)(const struct kv_kernels *k, const struct page *p);
    bool half, codes, once; /* once: the number of bits makes no difference */
} rows[] = {
    { "attn_fold", run_fold, false, false, false },
    { "qk_codes", run_qk, false, true, false },
    { "qk_center", run_center, false, false, true },
    { "attn_soften", run_soften, false, false, true },
    { "attn_weigh", run_weigh, false, false, false },
    { "pv_codes", run_pv, false, true, false },
    { "qk_half", run_qk_half, true, true, false },
    { "pv_half", run_pv_half, true, true, false },
    { "fit_groups", run_fit, false, false, true },
    { "sum_keys", run_sum_keys, false, true, false },
    { "sum_weighted", run_sum_weighted, false, true, false },
    { "sum_values", run_sum_values, false, true, false },
};

static double time_once(const struct kv_kernels *k, const struct page *p, const struct row *row)
{
    double best = 1e9;
    for (int round = 0; round < 15; round++) {
        int n = k->level == KV_CPU_SCALAR ? 2 : 400 / p->n_rows + 1;
        double start = kv_clock_s();
        for (int i = 0; i < n; i++) row->run(k, p);
        double ns = (kv_clock_s() - start) * 1e9 / n;
        best = ns < best ? ns : best;
    }
    return best;
}

static void bench_row(const struct kv_kernels *k, struct page *p, const struct row *row)
{
    static const int all_bits[] = { 2, 3, 4, 8, 16 }, counts[] = { 1, 3, 4, 7, 96 };
    for (size_t b = 0; b < 5; b++) {
        p->bits = all_bits[b];
        if ((p->bits == 16) != row->half || (row->once && b > 0)) continue;
        printf("%-12s %-7s %3d %2d", row->name, kv_cpu_level_name(k->level), p->head_dim, p->bits);
        for (size_t i = 0; i < 5; i++) {
            p->n_rows = counts[i];
            double ns = time_once(k, p, row);
            printf("  %8.1f", ns / p->n_rows);
            if (row->codes) printf(" %5.1f", p->head_dim * 8.0 * p->bits / ns);
        }
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    struct page p = { 0 };
    p.codes = kv_alloc(256 * 64, 2);
    p.scale = kv_alloc(256, 2);
    p.min = kv_alloc(256, 2);
    p.q = kv_alloc(ROWS_MAX * 256, 4);
    p.out = kv_alloc(ROWS_MAX * 256, 4);
    p.score = kv_alloc(ROWS_MAX * 64, 4);
    p.digits = kv_alloc(ROWS_MAX * 256, 2);
    p.angles = kv_alloc(256, 4);
    p.turning = kv_alloc(128 * 64, 4);
    for (int i = 0; i < 128; i++) p.listed[i] = (uint8_t)i;
    float **each[] = { &p.delta, &p.bias, &p.sum, &p.keep, &p.max };
    for (size_t i = 0; i < 5; i++) *each[i] = kv_alloc(ROWS_MAX, 4);
    p.first = kv_alloc(ROWS_MAX, sizeof(int));
    p.last = kv_alloc(ROWS_MAX, sizeof(int));
    for (int i = 0; i < ROWS_MAX; i++) p.last[i] = KV_TILE;
    for (int i = 0; i < 256; i++) p.scale[i] = p.min[i] = 0x2e66;
    for (int i = 0; i < 256 * 128; i++) p.codes[i] = (uint8_t)((i * 37 % 61) & 0x3b);
    for (int i = 0; i < ROWS_MAX * 256; i++)
        p.q[i] = (float)((unsigned)i * 2654435761u % 1000) * 0.002f - 1.0f;
    printf("ns per row (and bytes/ns) of 1, 3, 4, 7 and 96 rows\n");
    for (int l = 0; l <= (int)kv_cpu_detect(); l++) {
        struct kv_kernels k;
        kv_kernels_select(&k, (enum kv_cpu_level)l);
        if (argc > 1 ? strcmp(argv[1], kv_cpu_level_name(k.level)) : l == 0) continue;
        for (p.head_dim = 64; p.head_dim <= 128; p.head_dim += 64)
            for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) bench_row(&k, &p, &rows[i]);
    }
    return 0;
}
