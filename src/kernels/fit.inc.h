/*
 * Fitted grids (fit_calls.h) in the vocabulary of an instruction set: a lane is a group. The same operations
 * in the same order as fit_ref.c, no product fused with a sum (-std=c11 says so to gcc): equal bits.
 */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "kernels/kernels.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

struct fit {
    vf y[KV_FIT_MAX]; /* x − x̄ */
    vf mean, lo, hi, variance, levels;
    int n;
};

/* Thresholds: codes are (y − lo) · inverse, rounded. */
struct grid {
    vf lo, inverse;
};

struct sums {
    vf c, cc, yc;
};

/* Elements [i, i + LANES) of groups [first, first + LANES), of which n_groups exist:
 * the others are the first. */
static void read_turned(const struct kv_fit_groups *g, int first, int i, vf out[LANES])
{
    vi x[LANES];
    for (int l = 0; l < LANES; l++)
        x[l] = vi_load(g->x + i + (size_t)(first + l < g->n_groups ? first + l : 0) * g->side);
    vi_transpose(x);
    for (int l = 0; l < LANES; l++) out[l] = vf_of_bits(x[l]);
}

static vf read_lanes(const struct kv_fit_groups *g, int first, int i)
{
    const float *x = g->x + (size_t)i * g->next;
    if (g->side == 1 && first + LANES <= g->n_groups) return vf_load(x + first);
    float lanes[LANES];
    for (int l = 0; l < LANES; l++) lanes[l] = x[(size_t)(first + l < g->n_groups ? first + l : 0) * g->side];
    return vf_load(lanes);
}

static void read_groups(struct fit *f, const struct kv_fit_groups *g, int first)
{
    vf sum = vf_zero(), rest = vf_zero(), n = vf_set((float)g->n);
    f->n = g->n;
    f->y[0] = sum; /* a group has elements, but gcc does not know it */
    f->levels = vf_set((float)((1 << g->bits) - 1));
    int i = 0;
    if (g->next == 1)
        for (; i + LANES <= g->n; i += LANES) read_turned(g, first, i, f->y + i);
    for (; i < g->n; i++) f->y[i] = read_lanes(g, first, i);
    for (i = 0; i < g->n; i++) sum = vf_add(sum, f->y[i]);
    f->mean = vf_div(sum, n);
    for (i = 0; i < g->n; i++) {
        f->y[i] = vf_sub(f->y[i], f->mean);
        rest = vf_add(rest, f->y[i]);
    }
    /* What rounding left of the mean of numbers far from 0. */
    rest = vf_div(rest, n);
    f->mean = vf_add(f->mean, rest);
    f->variance = vf_zero();
    f->lo = f->hi = vf_sub(f->y[0], rest);
    for (i = 0; i < g->n; i++) {
        vf y = f->y[i] = vf_sub(f->y[i], rest);
        f->lo = vf_min(y, f->lo);
        f->hi = vf_max(y, f->hi);
        f->variance = vf_add(f->variance, vf_mul(y, y));
    }
}

/* The code as a float: adding 1.5·2^23 rounds to an integer. */
KV_INLINE vf code_of(vf y, const struct grid *grid, vf levels)
{
    const vf magic = vf_set(0x1.8p23f);
    vf t = vf_mul(vf_sub(y, grid->lo), grid->inverse);
    t = vf_min(vf_max(t, vf_zero()), levels);
    return vf_sub(vf_add(t, magic), magic);
}

/* Keeps `grid` in the lanes where its ρ² is larger. */
static void keep_better(const struct fit *f, const struct grid *grid, struct grid *best,
                        struct sums *best_sums, vf *best_fit)
{
    struct sums s = { vf_zero(), vf_zero(), vf_zero() };
    struct grid own = *grid;
    for (int i = 0; i < f->n; i++) {
        vf y = f->y[i], c = code_of(y, &own, f->levels);
        s.c = vf_add(s.c, c);
        s.cc = vf_add(s.cc, vf_mul(c, c));
        s.yc = vf_add(s.yc, vf_mul(y, c));
    }
    /* integers: 0 or at least 1/2 */
    vf var = vf_sub(s.cc, vf_div(vf_mul(s.c, s.c), vf_set((float)f->n)));
    vf fit = vf_div(vf_mul(s.yc, s.yc), var);
    fit = vf_where_larger(var, vf_set(0.25f), vf_where_larger(s.yc, vf_zero(), fit, vf_zero()), vf_zero());
    vf was = *best_fit;
    *best_fit = vf_where_larger(fit, was, fit, was);
    best->lo = vf_where_larger(fit, was, own.lo, best->lo);
    best->inverse = vf_where_larger(fit, was, own.inverse, best->inverse);
    best_sums->c = vf_where_larger(fit, was, s.c, best_sums->c);
    best_sums->cc = vf_where_larger(fit, was, s.cc, best_sums->cc);
    best_sums->yc = vf_where_larger(fit, was, s.yc, best_sums->yc);
}

static void search(const struct fit *f, struct grid *best, struct sums *sums)
{
    static const float parts[] = { 1.0f, 0.85f, 0.7f, 0.55f };
    vf fit = vf_zero(), none = vf_zero(), half = vf_set(0.5f);
    struct grid grid;
    *best = (struct grid){ none, none };
    *sums = (struct sums){ none, none, none };
    for (int k = 0; k < 4; k++) {
        vf range = vf_mul(vf_set(parts[k]), vf_sub(f->hi, f->lo));
        grid.lo = vf_mul(half, vf_sub(vf_add(f->lo, f->hi), range));
        grid.inverse = vf_where_larger(range, none, vf_div(f->levels, range), none);
        keep_better(f, &grid, best, sums, &fit);
    }
    vf mean = vf_div(sums->c, vf_set((float)f->n)), var = vf_sub(sums->cc, vf_mul(sums->c, mean));
    vf step = vf_where_larger(fit, none, vf_div(sums->yc, var), none);
    grid.lo = vf_mul(vf_sub(none, step), mean);
    grid.inverse = vf_where_larger(step, none, vf_div(vf_set(1.0f), step), none);
    keep_better(f, &grid, best, sums, &fit);
}

/* Rounds the scale and min of groups [first, …) to f16: scale 0 where too little would be left of them. */
static void round_grids(const struct fit *f, const struct sums *s, const struct kv_fit_groups *g, int first)
{
    float yc[LANES], variance[LANES], c[LANES], center[LANES];
    vf_store(yc, s->yc);
    vf_store(variance, f->variance);
    vf_store(c, s->c);
    vf_store(center, f->mean);
    for (int l = 0; l < LANES && first + l < g->n_groups; l++) {
        uint16_t *scale_f16 = &g->scale[first + l], *min_f16 = &g->min[first + l];
        float scale = variance[l] / yc[l], mean = c[l] / (float)f->n;
        *scale_f16 = kv_f32_to_f16(scale);
        *min_f16 = kv_f32_to_f16(center[l] - kv_f16_to_f32(*scale_f16) * mean);
        /* f16 has 2^-11 of a number at most between it and the next float, of numbers from 2^-14 on */
        float min = fabsf(kv_f16_to_f32(*min_f16));
        if (!(yc[l] > 0.0f && scale >= 0x1p-14f && min * 0x1p-11f <= scale * 0.0625f)) *scale_f16 = 0;
    }
}

static void write_codes(const struct fit *f, const struct grid *grid, const struct kv_fit_groups *g,
                        int first)
{
    struct grid own = *grid;
    int i = 0;
    if (g->codes_next == 1) /* elements of a group side by side */
        for (; i + LANES <= f->n; i += LANES) {
            vi c[LANES];
            for (int l = 0; l < LANES; l++)
                c[l] = vi_to_digits(code_of(f->y[i + l], &own, f->levels), vf_set(1.0f));
            vi_transpose(c);
            for (int l = 0; l < LANES && first + l < g->n_groups; l++)
                if (g->scale[first + l])
                    vi_store_bytes((int8_t *)g->codes + i + (size_t)(first + l) * g->codes_side, c[l]);
        }
    for (; i < f->n; i++) {
        int8_t c[LANES];
        uint8_t *codes = g->codes + (size_t)i * g->codes_next;
        vi_store_bytes(c, vi_to_digits(code_of(f->y[i], &own, f->levels), vf_set(1.0f)));
        for (int l = 0; l < LANES && first + l < g->n_groups; l++)
            if (g->scale[first + l]) codes[(size_t)(first + l) * g->codes_side] = (uint8_t)c[l];
    }
}

static void fit_groups(const struct kv_fit_groups *g)
{
    for (int first = 0; first < g->n_groups; first += LANES) {
        struct fit f;
        struct grid grid;
        struct sums sums;
        read_groups(&f, g, first);
        search(&f, &grid, &sums);
        round_grids(&f, &sums, g, first);
        write_codes(&f, &grid, g, first);
    }
}
