#include "cache/kv_codec.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/memory.h"
#include "cache/kv_pack.h"
#include "cache/kv_short.h"
#include "kernels/short_grid.h"

/* ------------------------------------------------------------------------------------------------ grid -- */

/* The grid of one group as it is stored, and as the encoder divides by it. */
struct grid {
    uint16_t scale_f16, min_f16;
    float scale, min; /* scale is infinite for a constant group, so that every code is 0 */
};

static bool f16_finite(uint16_t h)
{
    return (h & 0x7c00u) != 0x7c00u;
}

/* The largest f16 that is not above x. Zeros compare equal, and a negative x never rounds to +0. */
static uint16_t f16_floor(float x)
{
    uint16_t h = kv_f32_to_f16(x);
    if (kv_f16_to_f32(h) <= x) return h;
    return (uint16_t)(h & 0x8000u ? h + 1 : h - 1);
}

static struct grid grid_constant(float x)
{
    struct grid g = { 0, kv_f32_to_f16(x), INFINITY, 0.0f };
    g.min = kv_f16_to_f32(g.min_f16);
    return g;
}

static struct grid grid_make(float lo, float hi, int bits)
{
    if (bits == 0 || lo >= hi) return grid_constant(lo);
    struct grid g;
    float levels = (float)((1 << bits) - 1);
    g.min_f16 = f16_floor(lo);
    g.min = kv_f16_to_f32(g.min_f16);
    float range = hi - g.min;
    g.scale_f16 = kv_f32_to_f16(range / levels);
    if (g.scale_f16 == 0) g.scale_f16 = 1; /* 2^-24 */
    g.scale = kv_f16_to_f32(g.scale_f16);
    if (g.scale * (levels + 0.5f) < range)
        g.scale = kv_f16_to_f32(++g.scale_f16); /* subnormal scales round coarsely */
    return g;
}

static bool grid_finite(const struct grid *g)
{
    return f16_finite(g->scale_f16) && f16_finite(g->min_f16);
}

/* rintf((x - min) / scale) inside 0 .. levels. Adding 1.5·2^23 leaves the integer, rounded to nearest even,
 * in the low bits of the sum: the same as rintf, but the compiler can vectorize it for every x86-64. */
static inline uint8_t grid_code(float x, float min, float scale, float levels)
{
    float t = (x - min) / scale;
    t = t > 0.0f ? t : 0.0f;
    t = t < levels ? t : levels;
    return (uint8_t)kv_f32_bits(t + 0x1.8p23f);
}

/* -------------------------------------------------------------------------------------------- scratch -- */

struct scratch {
    float *rows;    /* (64, head_dim) after centring and rotation        */
    float *ordered; /* (64, head_dim) the same in stored channel order   */
    uint8_t *codes; /* (64, head_dim)                                    */
    uint16_t *scale, *min; /* (KV_GRIDS_MAX) of short grids              */
    bool *fitted;          /* likewise                                   */
};

static size_t carve_scratch(struct scratch *s, void *base, int head_dim)
{
    struct kv_carve c = { base, 0, false };
    size_t n = (size_t)head_dim * KV_PAGE_TOKENS;
    s->rows = kv_carve(&c, n, sizeof *s->rows);
    s->ordered = kv_carve(&c, n, sizeof *s->ordered);
    s->codes = kv_carve(&c, n, sizeof *s->codes);
    s->scale = kv_carve(&c, KV_GRIDS_MAX, sizeof *s->scale);
    s->min = kv_carve(&c, KV_GRIDS_MAX, sizeof *s->min);
    s->fitted = kv_carve(&c, KV_GRIDS_MAX, sizeof *s->fitted);
    return c.used;
}

size_t kv_codec_scratch_bytes(int head_dim)
{
    struct scratch s;
    return carve_scratch(&s, NULL, head_dim);
}

/* ---------------------------------------------------------------------------------------------- rows -- */

/* One (layer, KV head) while it is encoded. */
struct job {
    const struct kv_codec *codec;
    const struct kv_recipe *recipe;
    const struct kv_channels *channels; /* NULL unless the keys are mixed */
    uint8_t *page; /* kv_page_base */
    int layer, head_kv, head_dim;
    int row, n;
    int64_t position; /* of `row` */
    struct scratch scratch;
    struct kvant_error *err;
};

static kvant_status check_finite(const struct job *j, const float *x, const char *what)
{
    int count = j->n * j->head_dim;
    uint32_t infinite = 0;
    for (int i = 0; i < count; i++) infinite |= (kv_f32_bits(x[i]) & 0x7fffffffu) >= 0x7f800000u;
    if (!infinite) return KVANT_OK;
    int i = 0;
    while (isfinite(x[i])) i++;
    KV_FAIL(j->err, KVANT_ERR_NUMERIC, -1,
            "layer %d, KV head %d, position %lld: %s channel %d is %s; the model's arithmetic failed",
            j->layer, j->head_kv, (long long)(j->position + i / j->head_dim), what, i % j->head_dim,
            isnan(x[i]) ? "NaN" : "infinite");
}

static kvant_status fail_range(const struct job *j, int row, const char *what)
{
    KV_FAIL(j->err, KVANT_ERR_NUMERIC, -1,
            "layer %d, KV head %d, position %lld: %s are too large for float16 after the plan's transforms; "
            "use a "
            "recipe without m and h",
            j->layer, j->head_kv, (long long)(j->position + row), what);
}

static void head_mean(const struct kv_codec *c, int layer, int head_kv, float *mean)
{
    size_t first = ((size_t)layer * (size_t)c->plan->n_head_kv + (size_t)head_kv) * (size_t)c->plan->head_dim;
    c->kernels->f16_to_f32(c->plan->center + first, c->plan->head_dim, mean);
}

/* rows -= R_t μ. */
static void subtract_centers(const struct job *j, float *rows /* (n, head_dim) */)
{
    float cos_t0[KV_HEAD_DIM_MAX / 2], sin_t0[KV_HEAD_DIM_MAX / 2], mean[KV_HEAD_DIM_MAX],
        center[KV_HEAD_DIM_MAX];
    head_mean(j->codec, j->layer, j->head_kv, mean);
    kv_rope_angles(j->codec->rope, j->position - j->row, cos_t0, sin_t0);
    for (int i = 0; i < j->n; i++, rows += j->head_dim) {
        kv_centers_turned(j->codec->centers, j->codec->rope, mean, cos_t0, sin_t0, j->row + i, center);
        for (int c = 0; c < j->head_dim; c++) rows[c] -= center[c];
    }
}

/* ------------------------------------------------------------------------------------------- encoding -- */

static void min_max(const float *x, int n, float *lo, float *hi)
{
    float lo8[8], hi8[8]; /* eight running pairs: a plain reduction is not vectorized, and n is a multiple of
                           * 8 */
    for (int l = 0; l < 8; l++) lo8[l] = hi8[l] = x[l];
    for (int i = 8; i < n; i += 8) {
        for (int l = 0; l < 8; l++) {
            lo8[l] = x[i + l] < lo8[l] ? x[i + l] : lo8[l];
            hi8[l] = x[i + l] > hi8[l] ? x[i + l] : hi8[l];
        }
    }
    *lo = lo8[0];
    *hi = hi8[0];
    for (int l = 1; l < 8; l++) {
        *lo = lo8[l] < *lo ? lo8[l] : *lo;
        *hi = hi8[l] > *hi ? hi8[l] : *hi;
    }
}

/* The recipes as published (keys per token or c32, values as they are) keep the grid between minimum and
 * maximum; all others have the one of kernels/fit_calls.h up to FIT_BITS, where it pays. */
#define FIT_BITS 3

static bool fits_keys(const struct kv_recipe *r)
{
    return r->key_scheme == KV_KEY_C64 || r->key_mixed || r->key_centered || r->key_rotated;
}

/* Where scales and minima go: into the page, or, of short grids, to where they are rounded first. */
struct grids_at {
    uint16_t *scale, *min;
    bool *fitted;                        /* NULL unless short */
    uint8_t *short_scale, *short_centre; /* in the page       */
};

static struct grids_at grids_at(const struct job *j, const struct kv_side_layout *side, size_t first,
                                bool is_short)
{
    if (is_short)
        return (struct grids_at){ j->scratch.scale + first, j->scratch.min + first, j->scratch.fitted + first,
                                  j->page + side->scale + first, j->page + side->min + first };
    return (struct grids_at){ (uint16_t *)(void *)(j->page + side->scale) + first,
                              (uint16_t *)(void *)(j->page + side->min) + first, NULL, NULL, NULL };
}

/* A group's elements and their codes, `next` and `codes_next` apart. */
struct group {
    const float *x;
    uint8_t *codes;
    size_t next, codes_next;
    int n, bits;
};

/* Grid i of `at` in short form; codes follow where they must. */
static bool shorten(const struct grids_at *at, int i, const struct group *g)
{
    struct kv_short_grid s;
    bool recode;
    float scale = kv_f16_to_f32(at->scale[i]), min = kv_f16_to_f32(at->min[i]);
    if (!kv_short_make(scale, min, g->bits, at->fitted[i], &s, &recode)) return false;
    at->short_scale[i] = s.scale;
    at->short_centre[i] = s.centre;
    if (!recode || g->bits == 0) return true;
    scale = s.scale ? kv_f16_to_f32(kv_short_scale_f16(s.scale)) : INFINITY;
    min = kv_f16_to_f32(kv_short_min_f16(s.scale, s.centre, g->bits));
    for (int k = 0; k < g->n; k++)
        g->codes[(size_t)k * g->codes_next] =
            grid_code(g->x[(size_t)k * g->next], min, scale, (float)((1 << g->bits) - 1));
    return true;
}

/* Where of a side's scales and minima those of group i are, counted along rows from the first. */
static int row_grid(int i, int n_groups)
{
    return i % n_groups * KV_PAGE_TOKENS + i / n_groups;
}

/* Replaces what quantize_rows did where a fitted grid is possible. */
static void fit_rows(const struct job *j, const float *rows, int bits, int group, const struct grids_at *at)
{
    int n_groups = j->head_dim / group, n = j->n * n_groups;
    for (int i = 0; i < n; i += KV_FIT_SIDE) {
        uint16_t fit_scale[KV_FIT_SIDE], fit_min[KV_FIT_SIDE];
        struct kv_fit_groups g = {
            .x = rows + i * group,
            .next = 1,
            .side = (size_t)group,
            .n = group,
            .n_groups = n - i < KV_FIT_SIDE ? n - i : KV_FIT_SIDE,
            .bits = bits,
            .codes = j->scratch.codes + i * group,
            .codes_next = 1,
            .codes_side = (size_t)group,
            .scale = fit_scale,
            .min = fit_min,
        };
        j->codec->kernels->fit_groups(&g);
        for (int l = 0; l < g.n_groups; l++) {
            if (fit_scale[l] == 0) continue;
            int place = row_grid(i + l, n_groups);
            at->scale[place] = fit_scale[l];
            at->min[place] = fit_min[l];
            if (at->fitted) at->fitted[place] = true;
        }
    }
}

/* Grids over `group` consecutive channels of each row, and the rows' codes. scale, min: (head_dim / group,
 * 64), at the first row. */
static kvant_status quantize_rows(const struct job *j, const float *rows, int bits, int group, bool fitted,
                                  const struct grids_at *at, const char *what)
{
    float levels = (float)((1 << bits) - 1);
    int n_groups = j->head_dim / group;
    for (int i = 0; i < j->n * n_groups; i++) {
        const float *x = rows + i * group;
        uint8_t *codes = j->scratch.codes + i * group;
        float lo, hi;
        min_max(x, group, &lo, &hi);
        struct grid g = grid_make(lo, hi, bits);
        if (!grid_finite(&g)) return fail_range(j, i / n_groups, what);
        for (int c = 0; c < group; c++) codes[c] = grid_code(x[c], g.min, g.scale, levels);
        int place = row_grid(i, n_groups);
        at->scale[place] = g.scale_f16;
        at->min[place] = g.min_f16;
        if (at->fitted) at->fitted[place] = false;
    }
    if (fitted && bits <= FIT_BITS) fit_rows(j, rows, bits, group, at);
    for (int i = 0; at->fitted && i < j->n * n_groups; i++) {
        const struct group g = { rows + i * group, j->scratch.codes + i * group, 1, 1, group, bits };
        if (!shorten(at, row_grid(i, n_groups), &g)) return fail_range(j, i / n_groups, what);
    }
    return KVANT_OK;
}

/* A range of stored channels of one bit width, over one group of tokens. */
struct block {
    const float *x;       /* (n, head_dim), at the range's first channel */
    uint8_t *codes;       /* the range's first byte in the page          */
    struct grids_at at;   /* (n_channels)                                */
    int n_channels, bits;
    int row, n;
};

static void block_grids(const struct block *b, int head_dim, struct grid *grids)
{
    float lo[KV_HEAD_DIM_MAX], hi[KV_HEAD_DIM_MAX], sum[KV_HEAD_DIM_MAX];
    for (int c = 0; c < b->n_channels; c++) lo[c] = hi[c] = sum[c] = b->x[c];
    for (int i = 1; i < b->n; i++) {
        const float *x = b->x + i * head_dim;
        for (int c = 0; c < b->n_channels; c++) {
            lo[c] = x[c] < lo[c] ? x[c] : lo[c];
            hi[c] = x[c] > hi[c] ? x[c] : hi[c];
            sum[c] += x[c];
        }
    }
    for (int c = 0; c < b->n_channels; c++) {
        bool mean = b->bits == 0 && lo[c] < hi[c]; /* a constant is kept as it is, not as its rounded sum */
        grids[c] = mean ? grid_constant(sum[c] / (float)b->n) : grid_make(lo[c], hi[c], b->bits);
    }
}

/* Replaces what quantize_block did where a fitted grid is possible. */
static void fit_block(const struct job *j, const struct block *b)
{
    for (int c = 0; c < b->n_channels; c += KV_FIT_SIDE) {
        uint16_t scale[KV_FIT_SIDE], min[KV_FIT_SIDE];
        struct kv_fit_groups g = {
            .x = b->x + c,
            .next = (size_t)j->head_dim,
            .side = 1,
            .n = b->n,
            .n_groups = b->n_channels - c < KV_FIT_SIDE ? b->n_channels - c : KV_FIT_SIDE,
            .bits = b->bits,
            .codes = j->scratch.codes + c,
            .codes_next = (size_t)b->n_channels,
            .codes_side = 1,
            .scale = scale,
            .min = min,
        };
        j->codec->kernels->fit_groups(&g);
        for (int l = 0; l < g.n_groups; l++) {
            if (scale[l] == 0) continue;
            b->at.scale[c + l] = scale[l];
            b->at.min[c + l] = min[l];
            if (b->at.fitted) b->at.fitted[c + l] = true;
        }
    }
}

static kvant_status shorten_block(const struct job *j, const struct block *b)
{
    for (int c = 0; b->at.fitted && c < b->n_channels; c++) {
        const struct group g = {
            b->x + c, j->scratch.codes + c, (size_t)j->head_dim, (size_t)b->n_channels, b->n, b->bits
        };
        if (!shorten(&b->at, c, &g)) return fail_range(j, b->row - j->row, "keys");
    }
    return KVANT_OK;
}

static kvant_status quantize_block(const struct job *j, const struct block *b)
{
    struct grid grids[KV_HEAD_DIM_MAX];
    float min[KV_HEAD_DIM_MAX], scale[KV_HEAD_DIM_MAX];
    block_grids(b, j->head_dim, grids);
    for (int c = 0; c < b->n_channels; c++) {
        if (!grid_finite(&grids[c])) return fail_range(j, b->row - j->row, "keys");
        b->at.scale[c] = grids[c].scale_f16;
        b->at.min[c] = grids[c].min_f16;
        if (b->at.fitted) b->at.fitted[c] = false;
        scale[c] = grids[c].scale;
        min[c] = grids[c].min;
    }
    if (b->bits == 0) return shorten_block(j, b);
    float levels = (float)((1 << b->bits) - 1);
    for (int i = 0; i < b->n; i++) {
        const float *x = b->x + i * j->head_dim;
        uint8_t *codes = j->scratch.codes + i * b->n_channels;
        for (int c = 0; c < b->n_channels; c++) codes[c] = grid_code(x[c], min[c], scale[c], levels);
    }
    if (fits_keys(j->recipe) && b->bits <= FIT_BITS) fit_block(j, b);
    KV_TRY(shorten_block(j, b));
    kv_pack_keys(b->codes, b->bits, b->n_channels, b->row, b->n, j->scratch.codes);
    return KVANT_OK;
}

static const float *stored_order(const struct job *j, const float *rows)
{
    if (!j->channels) return rows;
    for (int i = 0; i < j->n; i++) {
        const float *x = rows + i * j->head_dim;
        float *y = j->scratch.ordered + i * j->head_dim;
        for (int s = 0; s < j->head_dim; s++) y[s] = x[j->channels->order[s]];
    }
    return j->scratch.ordered;
}

static kvant_status encode_keys_per_channel(const struct job *j, const float *rows,
                                            const struct kv_side_layout *side)
{
    int group = j->recipe->key_scheme;
    const float *x = stored_order(j, rows);
    int n_classes = j->channels ? KV_N_CLASSES : 1;
    for (int i = 0; i < j->n; i += group) {
        size_t scales_first = (size_t)((j->row + i) / group * j->head_dim);
        uint8_t *codes = j->page + side->codes;
        for (int class = 0, first = 0; class < n_classes; class++) {
            struct block b = {
                .x = x + i * j->head_dim + first,
                .codes = codes,
                .at = grids_at(j, side, scales_first + (size_t)first, j->recipe->key_short),
                .n_channels = j->channels ? j->channels->count[class] : j->head_dim,
                .bits = j->channels ? kv_class_bits[class] : j->recipe->key_bits,
                .row = j->row + i,
                .n = group,
            };
            if (b.n_channels == 0) continue;
            KV_TRY(quantize_block(j, &b));
            codes += b.n_channels * 8 * b.bits;
            first += b.n_channels;
        }
    }
    return KVANT_OK;
}

static kvant_status encode_keys_per_token(const struct job *j, const float *rows,
                                          const struct kv_side_layout *side)
{
    int bits = j->recipe->key_bits;
    struct grids_at at = grids_at(j, side, (size_t)j->row, j->recipe->key_short);
    KV_TRY(quantize_rows(j, rows, bits, j->head_dim, fits_keys(j->recipe), &at, "keys"));
    kv_pack_keys(j->page + side->codes, bits, j->head_dim, j->row, j->n, j->scratch.codes);
    return KVANT_OK;
}

/* Rows to halves, all of them finite. */
static kvant_status to_halves(const struct job *j, const float *rows, uint16_t *halves, const char *what)
{
    int n = j->n * j->head_dim;
    j->codec->kernels->f32_to_f16(rows, n, halves);
    uint32_t infinite = 0;
    for (int i = 0; i < n; i++) infinite |= (halves[i] & 0x7fffu) >= 0x7c00u;
    if (!infinite) return KVANT_OK;
    int i = 0;
    while (f16_finite(halves[i])) i++;
    return fail_range(j, i / j->head_dim, what);
}

static kvant_status encode_keys_f16(const struct job *j, const float *rows, const struct kv_side_layout *side)
{
    uint16_t *codes = (uint16_t *)(void *)(j->page + side->codes) + j->row; /* (head_dim, 64) */
    uint16_t *halves = (uint16_t *)(void *)j->scratch.ordered;
    KV_TRY(to_halves(j, rows, halves, "keys"));
    for (int c = 0; c < j->head_dim; c++)
        for (int i = 0; i < j->n; i++) codes[c * KV_PAGE_TOKENS + i] = halves[i * j->head_dim + c];
    return KVANT_OK;
}

static kvant_status encode_keys(const struct job *j, const float *k)
{
    size_t i_head = (size_t)(j->layer * j->codec->plan->n_head_kv + j->head_kv);
    const struct kv_side_layout *side = &j->codec->layout->key[i_head];
    const struct kv_recipe *r = j->recipe;
    const float *rows = k;
    if (r->key_centered || r->key_rotated) {
        memcpy(j->scratch.rows, k, (size_t)(j->n * j->head_dim) * sizeof *k);
        if (r->key_centered) subtract_centers(j, j->scratch.rows);
        if (r->key_rotated) j->codec->kernels->hadamard(j->scratch.rows, j->n, j->head_dim);
        rows = j->scratch.rows;
    }
    if (r->key_bits == 16) return encode_keys_f16(j, rows, side);
    if (r->key_scheme == KV_KEY_TOKEN) return encode_keys_per_token(j, rows, side);
    return encode_keys_per_channel(j, rows, side);
}

static kvant_status encode_values(const struct job *j, const float *v)
{
    size_t i_head = (size_t)(j->layer * j->codec->plan->n_head_kv + j->head_kv);
    const struct kv_side_layout *side = &j->codec->layout->value[i_head];
    int bits = j->recipe->value_bits, group = j->recipe->value_group ? j->recipe->value_group : j->head_dim;
    uint8_t *codes = j->page + side->codes;
    const float *rows = v;
    if (j->recipe->value_rotated) {
        memcpy(j->scratch.rows, v, (size_t)(j->n * j->head_dim) * sizeof *v);
        j->codec->kernels->hadamard(j->scratch.rows, j->n, j->head_dim);
        rows = j->scratch.rows;
    }
    if (bits == 16) return to_halves(j, rows, (uint16_t *)(void *)codes + j->row * j->head_dim, "values");
    struct grids_at at = grids_at(j, side, (size_t)j->row, j->recipe->value_short);
    KV_TRY(quantize_rows(j, rows, bits, group, j->recipe->value_rotated, &at, "values"));
    kv_pack_values(codes, bits, j->head_dim, j->row, j->n, j->scratch.codes);
    return KVANT_OK;
}

kvant_status kv_codec_encode(const struct kv_codec *c, struct kv_page page, int layer, int head_kv, int row,
                             int n, int64_t position, const float *k, const float *v, void *scratch,
                             struct kvant_error *err)
{
    const struct kvant_plan *plan = c->plan;
    struct job j = {
        .codec = c,
        .recipe = kv_plan_recipe_at(plan, layer, head_kv),
        .page = kv_page_base(c->layout, page, (size_t)(layer * plan->n_head_kv + head_kv)),
        .layer = layer,
        .head_kv = head_kv,
        .head_dim = plan->head_dim,
        .row = row,
        .n = n,
        .position = position,
        .err = err,
    };
    if (j.recipe->key_mixed) j.channels = &plan->channels[layer * plan->n_head_kv + head_kv];
    carve_scratch(&j.scratch, scratch, plan->head_dim);
    KV_TRY(check_finite(&j, k, "key"));
    KV_TRY(check_finite(&j, v, "value"));
    KV_TRY(encode_keys(&j, k));
    return encode_values(&j, v);
}

/* ------------------------------------------------------------------------------------------ expanding -- */

static void expand_half_keys(const struct kv_kernels *kernels, const uint16_t *halves, int head_dim,
                             int n_tokens, float *kt)
{
    kernels->f16_to_f32(halves, (int64_t)head_dim * KV_PAGE_TOKENS, kt);
    if (n_tokens == KV_PAGE_TOKENS) return;
    for (int c = 0; c < head_dim; c++)
        memset(kt + c * KV_PAGE_TOKENS + n_tokens, 0, (size_t)(KV_PAGE_TOKENS - n_tokens) * sizeof *kt);
}

static void expand_classes(const struct kv_kernels *kernels, const struct kv_channels *channels,
                           struct kv_key_tile tile, float *kt)
{
    tile.order = channels->order;
    tile.channel_first = 0;
    for (int class = 0; class < KV_N_CLASSES; class++) {
        tile.n_channels = channels->count[class];
        tile.bits = kv_class_bits[class];
        if (tile.n_channels == 0) continue;
        kernels->key_tile_expand(&tile, kt); /* 0 bits: the group's mean */
        tile.codes += tile.n_channels * 8 * tile.bits;
        tile.channel_first += tile.n_channels;
    }
}

static void add_centers(const struct kv_codec *c, int layer, int head_kv, int n_tokens, const float *cos_t0,
                        const float *sin_t0, float *kt)
{
    float mean[KV_HEAD_DIM_MAX], center[KV_HEAD_DIM_MAX];
    head_mean(c, layer, head_kv, mean);
    for (int i = 0; i < n_tokens; i++) {
        kv_centers_turned(c->centers, c->rope, mean, cos_t0, sin_t0, i, center);
        for (int d = 0; d < c->plan->head_dim; d++) kt[d * KV_PAGE_TOKENS + i] += center[d];
    }
}

void kv_codec_expand_keys(const struct kv_codec *c, struct kv_page page, int layer, int head_kv, int n_tokens,
                          int64_t position, float *kt)
{
    float cos_t0[KV_HEAD_DIM_MAX / 2], sin_t0[KV_HEAD_DIM_MAX / 2];
    if (kv_plan_recipe_at(c->plan, layer, head_kv)->key_centered)
        kv_rope_angles(c->rope, position, cos_t0, sin_t0);
    kv_codec_expand_keys_turned(c, page, layer, head_kv, n_tokens, cos_t0, sin_t0, kt);
}

void kv_codec_expand_keys_turned(const struct kv_codec *c, struct kv_page page, int layer, int head_kv,
                                 int n_tokens, const float *cos_t0, const float *sin_t0, float *kt)
{
    int i_head = layer * c->plan->n_head_kv + head_kv, head_dim = c->plan->head_dim;
    const struct kv_recipe *r = &c->plan->recipe[i_head];
    const struct kv_side_layout *side = &c->layout->key[i_head];
    const uint8_t *base = kv_page_base(c->layout, page, (size_t)i_head);
    uint16_t scale[KV_GRIDS_MAX], min[KV_GRIDS_MAX];
    struct kv_grids grids = kv_key_grids(c, (size_t)i_head, base, scale, min);
    struct kv_key_tile tile = {
        .codes = base + side->codes,
        .scale = grids.scale,
        .min = grids.min,
        .head_dim = head_dim,
        .bits = r->key_bits,
        .group = r->key_scheme,
        .n_tokens = n_tokens,
        .channel_first = 0,
        .n_channels = head_dim,
        .order = NULL,
    };
    if (r->key_bits == 16)
        expand_half_keys(c->kernels, (const uint16_t *)(const void *)tile.codes, head_dim, n_tokens, kt);
    else if (r->key_mixed) expand_classes(c->kernels, &c->plan->channels[i_head], tile, kt);
    else c->kernels->key_tile_expand(&tile, kt);
    if (r->key_rotated) c->kernels->key_tile_hadamard(kt, head_dim);
    if (r->key_centered)
        add_centers(c, layer, head_kv, n_tokens, cos_t0, sin_t0, kt);
}

void kv_codec_expand_values(const struct kv_codec *c, struct kv_page page, int layer, int head_kv,
                            int n_tokens, float *v)
{
    int i_head = layer * c->plan->n_head_kv + head_kv, head_dim = c->plan->head_dim;
    const struct kv_recipe *r = &c->plan->recipe[i_head];
    const struct kv_side_layout *side = &c->layout->value[i_head];
    const uint8_t *base = kv_page_base(c->layout, page, (size_t)i_head);
    uint16_t scale[KV_GRIDS_MAX], min[KV_GRIDS_MAX];
    struct kv_grids grids = kv_value_grids(c, (size_t)i_head, base, scale, min);
    struct kv_value_tile tile = {
        .codes = base + side->codes,
        .scale = grids.scale,
        .min = grids.min,
        .head_dim = head_dim,
        .bits = r->value_bits,
        .group = r->value_group ? r->value_group : head_dim,
        .n_tokens = n_tokens,
    };
    if (r->value_bits == 16)
        c->kernels->value_tile_from_rows((const uint16_t *)(const void *)tile.codes, head_dim, n_tokens,
                                         head_dim, v);
    else c->kernels->value_tile_expand(&tile, v);
}
