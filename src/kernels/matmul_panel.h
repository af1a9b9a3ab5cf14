/*
 * What the levels of matmul_rows share: the scratch of one thread, in its two uses.
 *
 *   row    (plain C, and float activations at every level): codes, scales, minima and float32 of one row
 *   panel  (integer activations, SIMD): a slab of up to 576 columns of 2 · LANES rows (matmul_panel.inc.h)
 */
#ifndef KV_KERNELS_MATMUL_PANEL_H
#define KV_KERNELS_MATMUL_PANEL_H

#include "base/memory.h"
#include "kernels/kernels.h"

#define KV_ACT_TINY 0x1p-100f /* a block of activations with no larger element counts as zero */

/* The least max|x|² of a block of a mixed row that has two digits. Every level adds in this order; one sum
 * alone would wait for itself 18 to 150 times a row. */
static inline float kv_act_threshold(const float *max, int64_t n_blocks)
{
    float sum[4] = { 0.0f };
    int64_t b = 0;
    for (; b + 4 <= n_blocks; b += 4)
        for (int i = 0; i < 4; i++) sum[i] += max[b + i] * max[b + i];
    for (; b < n_blocks; b++) sum[b % 4] += max[b] * max[b];
    return KV_ACT_KEEP * (((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)n_blocks);
}

struct kv_row_scratch {
    uint8_t *code;      /* (k)      */
    float *scale, *min; /* (k / 16) */
    float *w;           /* (k)      */
};

static inline struct kv_row_scratch kv_row_scratch_carve(struct kv_carve *c, int64_t k)
{
    size_t n = (size_t)k, n_groups = (n + KV_WEIGHT_GROUP - 1) / KV_WEIGHT_GROUP;
    struct kv_row_scratch s;
    s.code = kv_carve(c, n, 1);
    s.scale = kv_carve(c, n_groups, sizeof *s.scale);
    s.min = kv_carve(c, n_groups, sizeof *s.min);
    s.w = kv_carve(c, n, sizeof *s.w);
    return s;
}

static inline struct kv_row_scratch kv_row_scratch_place(void *scratch, int64_t k)
{
    struct kv_carve c = { .base = scratch };
    return kv_row_scratch_carve(&c, k);
}

/* 576 columns × 32 rows (AVX-512) of codes with their scales and minima just fit the 48 KB of first-level
 * cache that current cores have. A multiple of 64: two blocks of any 32-column format, whose bytes are whole
 * words. */
#define KV_SLAB 576
#define KV_PANEL_SCRATCH_BYTES ((size_t)64 << 10)

#endif
