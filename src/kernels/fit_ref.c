/*
 * Fitted grids (fit_calls.h) in plain C: the definition. Other levels have the same operations in the same
 * order, no product fused with a sum (which -std=c11 says to gcc), and so the same bits.
 */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "kernels/kernels.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#define SIDE KV_FIT_SIDE

/* One number per group. */
typedef float side[SIDE];

struct fit {
    float y[KV_FIT_MAX][SIDE]; /* x − x̄ */
    side mean, lo, hi, variance;    /* lo, hi of y; variance: Σ y² */
    int n;
    float levels;
};

/* Thresholds: codes are (y − lo) · inverse, rounded. */
struct grid {
    side lo, inverse;
};

struct sums {
    side c, cc, yc;
};

static void read_groups(struct fit *f, const struct kv_fit_groups *g)
{
    side sum = { 0 }, rest = { 0 };
    f->n = g->n;
    f->levels = (float)((1 << g->bits) - 1);
    for (int i = 0; i < g->n; i++)
        for (int l = 0; l < SIDE; l++) /* lanes beyond the groups repeat the first */
            sum[l] += f->y[i][l] = g->x[(size_t)i * g->next + (l < g->n_groups ? (size_t)l * g->side : 0)];
    for (int l = 0; l < SIDE; l++) f->mean[l] = sum[l] / (float)g->n;
    for (int i = 0; i < g->n; i++)
        for (int l = 0; l < SIDE; l++) rest[l] += f->y[i][l] -= f->mean[l];
    /* What rounding left of the mean of numbers far from 0. */
    for (int l = 0; l < SIDE; l++) {
        rest[l] /= (float)g->n;
        f->mean[l] += rest[l];
        f->variance[l] = 0.0f;
        f->lo[l] = f->hi[l] = f->y[0][l] - rest[l];
    }
    for (int i = 0; i < g->n; i++)
        for (int l = 0; l < SIDE; l++) {
            float y = f->y[i][l] -= rest[l];
            f->lo[l] = y < f->lo[l] ? y : f->lo[l];
            f->hi[l] = y > f->hi[l] ? y : f->hi[l];
            f->variance[l] += y * y;
        }
}

/* The code as a float: adding 1.5·2^23 rounds to an integer. */
static inline float code_of(float y, float lo, float inverse, float levels)
{
    float t = (y - lo) * inverse;
    t = t > 0.0f ? t : 0.0f;
    t = t < levels ? t : levels;
    return (t + 0x1.8p23f) - 0x1.8p23f;
}

static void add_up(const struct fit *f, const struct grid *grid, struct sums *out)
{
    struct sums s = { 0 };
    for (int i = 0; i < f->n; i++)
        for (int l = 0; l < SIDE; l++) {
            float y = f->y[i][l], c = code_of(y, grid->lo[l], grid->inverse[l], f->levels);
            s.c[l] += c;
            s.cc[l] += c * c;
            s.yc[l] += y * c;
        }
    *out = s;
}

/* Keeps `grid` in the lanes where its ρ² is larger. */
static void keep_better(const struct fit *f, const struct grid *grid, struct grid *best,
                        struct sums *best_sums, side best_fit)
{
    struct sums s;
    add_up(f, grid, &s);
    for (int l = 0; l < SIDE; l++) {
        float var = s.cc[l] - s.c[l] * s.c[l] / (float)f->n; /* integers: 0 or at least 1/2 */
        float fit = var > 0.25f && s.yc[l] > 0.0f ? s.yc[l] * s.yc[l] / var : 0.0f;
        bool better = fit > best_fit[l];
        best_fit[l] = better ? fit : best_fit[l];
        best->lo[l] = better ? grid->lo[l] : best->lo[l];
        best->inverse[l] = better ? grid->inverse[l] : best->inverse[l];
        best_sums->c[l] = better ? s.c[l] : best_sums->c[l];
        best_sums->cc[l] = better ? s.cc[l] : best_sums->cc[l];
        best_sums->yc[l] = better ? s.yc[l] : best_sums->yc[l];
    }
}

/* The range of the group, parts of it, and the thresholds that least squares makes of the best: within 5 % of
 * a search of 48 grids for Gaussian, uniform, heavy-tailed and two-peaked groups. */
static void search(const struct fit *f, struct grid *best, struct sums *sums)
{
    static const float parts[] = { 1.0f, 0.85f, 0.7f, 0.55f };
    side fit = { 0 };
    struct grid grid;
    memset(best, 0, sizeof *best);
    memset(sums, 0, sizeof *sums);
    for (int k = 0; k < 4; k++) {
        for (int l = 0; l < SIDE; l++) {
            float range = parts[k] * (f->hi[l] - f->lo[l]);
            grid.lo[l] = 0.5f * (f->lo[l] + f->hi[l] - range);
            grid.inverse[l] = range > 0.0f ? f->levels / range : 0.0f;
        }
        keep_better(f, &grid, best, sums, fit);
    }
    for (int l = 0; l < SIDE; l++) {
        float mean = sums->c[l] / (float)f->n, var = sums->cc[l] - sums->c[l] * mean;
        float step = fit[l] > 0.0f ? sums->yc[l] / var : 0.0f;
        grid.lo[l] = -step * mean;
        grid.inverse[l] = step > 0.0f ? 1.0f / step : 0.0f;
    }
    keep_better(f, &grid, best, sums, fit);
}

/* Rounds a group's scale and min to f16: false where too little would be left of them. */
static bool round_grid(const struct fit *f, const struct sums *s, int l, uint16_t *scale_f16,
                       uint16_t *min_f16)
{
    if (!(s->yc[l] > 0.0f)) return false;
    float scale = f->variance[l] / s->yc[l], mean = s->c[l] / (float)f->n;
    *scale_f16 = kv_f32_to_f16(scale);
    *min_f16 = kv_f32_to_f16(f->mean[l] - kv_f16_to_f32(*scale_f16) * mean);
    /* f16 has 2^-11 of a number at most between it and the next float, of numbers from 2^-14 on */
    float min = fabsf(kv_f16_to_f32(*min_f16));
    return scale >= 0x1p-14f && min * 0x1p-11f <= scale * 0.0625f;
}

static void fit_groups_ref(const struct kv_fit_groups *g)
{
    struct fit f;
    struct grid grid;
    struct sums sums;
    read_groups(&f, g);
    search(&f, &grid, &sums);
    for (int l = 0; l < g->n_groups; l++)
        if (!round_grid(&f, &sums, l, &g->scale[l], &g->min[l])) g->scale[l] = 0;
    for (int i = 0; i < g->n; i++) {
        uint8_t *codes = g->codes + (size_t)i * g->codes_next;
        side c;
        for (int l = 0; l < SIDE; l++) c[l] = code_of(f.y[i][l], grid.lo[l], grid.inverse[l], f.levels);
        for (int l = 0; l < g->n_groups; l++)
            if (g->scale[l]) codes[(size_t)l * g->codes_side] = (uint8_t)c[l];
    }
}

void kv_fill_fit_ref(struct kv_kernels *table)
{
    table->fit_groups = fit_groups_ref;
}
