/*
 * Encode and expand: every recipe's error against its own grid, element by element, in the domain in which it
 * is stored. The transforms are recomputed here in double from their definitions.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/memory.h"
#include "support/cache_rig.h"

#define ROWS KV_PAGE_TOKENS
#define N_LAYER 2
#define N_HEAD 2

struct bench {
    struct cache_rig rig;
    struct kv_layout layout;
    struct kv_centers centers;
    struct kv_codec codec;
    uint8_t *page;
    void *scratch;
    float *k, *v, *tile; /* (64, head_dim) */
};

static void bench_open(struct bench *b, const char *recipes, int head_dim)
{
    rig_open(&b->rig, recipes, N_LAYER, N_HEAD, head_dim, 4, 32);
    assert_int_equal(kv_layout_open(&b->layout, b->rig.plan, NULL), KVANT_OK);
    assert_int_equal(kv_centers_open(&b->centers, b->rig.plan, &b->rig.rope, NULL), KVANT_OK);
    b->codec = (struct kv_codec){ &b->rig.kernels, b->rig.plan, &b->layout, &b->centers, &b->rig.rope };
    b->page = kv_alloc(1, b->layout.page_bytes);
    b->scratch = kv_alloc(1, kv_codec_scratch_bytes(head_dim));
    b->k = kv_alloc((size_t)head_dim * ROWS, sizeof(float));
    b->v = kv_alloc((size_t)head_dim * ROWS, sizeof(float));
    b->tile = kv_alloc((size_t)head_dim * ROWS, sizeof(float));
    assert_true(b->page && b->scratch && b->k && b->v && b->tile);
    uint64_t state = 3;
    for (int i = 0; i < head_dim * ROWS;
         i++) { /* uneven channels, one of them with a large offset, as key biases make it */
        int c = i % head_dim;
        b->k[i] = kv_f16_to_f32(
            kv_f32_to_f16(rig_noise(&state) * (c % 5 == 1 ? 20.0f : 1.0f) + (c == 6 ? -211.0f : 0.0f)));
        b->v[i] = kv_f16_to_f32(kv_f32_to_f16(rig_noise(&state) * (c % 9 == 4 ? 8.0f : 0.5f)));
    }
}

static void bench_close(struct bench *b)
{
    kv_free(b->page);
    kv_free(b->scratch);
    kv_free(b->k);
    kv_free(b->v);
    kv_free(b->tile);
    kv_centers_close(&b->centers);
    kv_layout_close(&b->layout);
    rig_close(&b->rig);
}

static struct kv_page alone(uint8_t *page)
{
    return (struct kv_page){ page, 0, 1 };
}

static kvant_status encode(struct bench *b, int layer, int head_kv, int row, int n, int64_t page_position,
                           struct kvant_error *err)
{
    size_t first = (size_t)row * (size_t)b->rig.plan->head_dim;
    return kv_codec_encode(&b->codec, alone(b->page), layer, head_kv, row, n, page_position + row,
                           b->k + first, b->v + first, b->scratch, err);
}

static float f16_at(const uint8_t *page, size_t offset, int i)
{
    uint16_t h;
    memcpy(&h, page + offset + 2 * (size_t)i, sizeof h);
    return kv_f16_to_f32(h);
}

/* H x by the definition: H[i][j] = (-1)^popcount(i & j) / sqrt(n), in blocks. */
static void hadamard_by_definition(double *x, int head_dim)
{
    int block = head_dim & -head_dim;
    double y[KV_HEAD_DIM_MAX];
    for (int i = 0; i < head_dim; i++) {
        int first = i / block * block;
        y[i] = 0;
        for (int j = 0; j < block; j++)
            y[i] += (__builtin_popcount((unsigned)((i - first) & j)) & 1 ? -1.0 : 1.0) * x[first + j];
        y[i] /= sqrt(block);
    }
    memcpy(x, y, (size_t)head_dim * sizeof *x);
}

/* x -= R_t μ, turned by the whole angle at once. */
static void center_by_definition(const struct bench *b, int layer, int head_kv, int64_t position, double *x)
{
    const struct kvant_plan *plan = b->rig.plan;
    const uint16_t *mean = plan->center + (layer * N_HEAD + head_kv) * plan->head_dim;
    int half = plan->head_dim / 2;
    for (int i = 0; i < half; i++) {
        double angle = (double)position * (double)b->rig.inv_freq[i];
        double m0 = kv_f16_to_f32(mean[i]), m1 = kv_f16_to_f32(mean[i + half]);
        x[i] -= m0 * cos(angle) - m1 * sin(angle);
        x[i + half] -= m0 * sin(angle) + m1 * cos(angle);
    }
}

static void to_stored_domain(const struct bench *b, int layer, int head_kv, int64_t position, bool keys,
                             double *x)
{
    const struct kv_recipe *r = kv_plan_recipe_at(b->rig.plan, layer, head_kv);
    if (keys && r->key_centered) center_by_definition(b, layer, head_kv, position, x);
    if (keys ? r->key_rotated : r->value_rotated) hadamard_by_definition(x, b->rig.plan->head_dim);
}

/* Recipes of our own are stored up to 3 bits on grids that follow the distribution (kernels/fit_calls.h): an
 * outlier may be clipped, and what holds is that errors cancel (below). */
static bool keys_are_fitted(const struct kv_recipe *r)
{
    bool published = r->key_scheme != KV_KEY_C64 && !r->key_mixed && !r->key_centered && !r->key_rotated;
    return !published && (r->key_mixed || r->key_bits <= 3);
}

static bool values_are_fitted(const struct kv_recipe *r)
{
    return r->value_rotated && r->value_bits <= 3;
}

/* Scale i of a side. */
static double scale_at(const struct bench *b, const struct kv_side_layout *side, bool is_short, int i)
{
    return is_short ? (double)kv_f16_to_f32((uint16_t)(b->page[side->scale + (size_t)i] << 7))
                    : (double)f16_at(b->page, side->scale, i);
}

/* Between minimum and maximum half a step; of short scales, which are rounded by up to a sixteenth of 15
 * steps, with a centre that is off by up to an eighth of one, 1.2 (of 8 bits: rounded up, off by two). */
static double steps_of(bool is_short, int bits) { return !is_short ? 0.5 : bits == 8 ? 2.5 : 1.2; }

/* Half a step, of the grid that element (row, channel) was stored on; of a fitted grid (of mixed keys: a grid
 * of 2 or 3 bits among others) all of it. */
static double key_bound(const struct bench *b, int layer, int head_kv, int row, int channel, double x)
{
    const struct kvant_plan *plan = b->rig.plan;
    const struct kv_recipe *r = kv_plan_recipe_at(plan, layer, head_kv);
    const struct kv_side_layout *side = &b->layout.key[layer * N_HEAD + head_kv];
    if (r->key_bits == 16) return fabs(x) * 0x1p-11 + 0x1p-25;
    int stored = channel;
    if (r->key_mixed) {
        const struct kv_channels *ch = &plan->channels[layer * N_HEAD + head_kv];
        for (stored = 0; ch->order[stored] != channel; stored++) {}
    }
    int i = r->key_scheme ? row / r->key_scheme * plan->head_dim + stored : row;
    double scale = scale_at(b, side, r->key_short, i);
    if (keys_are_fitted(r)) return scale * (r->key_mixed ? 7.0 : (1 << r->key_bits) - 1) + fabs(x) * 0x1p-11;
    return scale > 0.0 ? scale * steps_of(r->key_short, r->key_bits) : fabs(x) * 0x1p-11;
}

static double value_bound(const struct bench *b, int layer, int head_kv, int row, int channel, double x)
{
    const struct kv_recipe *r = kv_plan_recipe_at(b->rig.plan, layer, head_kv);
    if (r->value_bits == 16) return fabs(x) * 0x1p-11 + 0x1p-25;
    int head_dim = b->rig.plan->head_dim, group = r->value_group ? r->value_group : head_dim;
    double scale = scale_at(b, &b->layout.value[layer * N_HEAD + head_kv], r->value_short,
                            channel / group * ROWS + row);
    return values_are_fitted(r) ? scale * ((1 << r->value_bits) - 1)
                                : scale * steps_of(r->value_short, r->value_bits);
}

/* Float arithmetic of the transforms: a few roundings at the size of the largest term (centres up to 100,
 * keys to
 * 211). */
#define TRANSFORM_ROUNDING 2e-4
#define PLAIN_ROUNDING 2e-5

static void check_bounds(struct bench *b, int layer, int head_kv, int n, int64_t page_position)
{
    const struct kvant_plan *plan = b->rig.plan;
    const struct kv_recipe *r = kv_plan_recipe_at(plan, layer, head_kv);
    int head_dim = plan->head_dim;
    const struct kv_channels *ch = r->key_mixed ? &plan->channels[layer * N_HEAD + head_kv] : NULL;
    bool is_mean[KV_HEAD_DIM_MAX] = { false };
    for (int s = ch ? head_dim - ch->count[KV_N_CLASSES - 1] : head_dim; s < head_dim; s++)
        is_mean[ch->order[s]] = true;
    double key_rounding = r->key_centered || r->key_rotated ? TRANSFORM_ROUNDING : PLAIN_ROUNDING;

    kv_codec_expand_keys(&b->codec, alone(b->page), layer, head_kv, n, page_position, b->tile);
    for (int row = 0; row < ROWS; row++) {
        double x[KV_HEAD_DIM_MAX], y[KV_HEAD_DIM_MAX];
        for (int c = 0; c < head_dim; c++) {
            x[c] = b->k[row * head_dim + c];
            y[c] = b->tile[c * ROWS + row];
            if (row >= n) assert_true(y[c] == 0.0);
        }
        if (row >= n) continue;
        to_stored_domain(b, layer, head_kv, page_position + row, true, x);
        to_stored_domain(b, layer, head_kv, page_position + row, true, y);
        for (int c = 0; c < head_dim; c++) {
            if (!is_mean[c])
                assert_true(fabs(x[c] - y[c]) <=
                            key_bound(b, layer, head_kv, row, c, x[c]) * 1.00001 + key_rounding);
        }
    }
    kv_codec_expand_values(&b->codec, alone(b->page), layer, head_kv, n, b->tile); /* stays rotated */
    for (int row = 0; row < n; row++) {
        double x[KV_HEAD_DIM_MAX];
        for (int c = 0; c < head_dim; c++) x[c] = b->v[row * head_dim + c];
        to_stored_domain(b, layer, head_kv, page_position + row, false, x);
        for (int c = 0; c < head_dim; c++) {
            double bound = value_bound(b, layer, head_kv, row, c, x[c]) * 1.00001 + PLAIN_ROUNDING;
            assert_true(fabs(x[c] - (double)b->tile[row * head_dim + c]) <= bound);
        }
    }
}

/* Fitted rows of values: no offset and no shrinking, up to the rounding of scale and minimum to f16; and the
 * error is not larger than that of a grid between minimum and maximum would be on average (s² / 12). */
static void check_fitted_values(struct bench *b, int head_kv)
{
    const struct kv_recipe *r = kv_plan_recipe_at(b->rig.plan, 0, head_kv);
    int head_dim = b->rig.plan->head_dim, levels = (1 << r->value_bits) - 1;
    double sum_fitted = 0.0, sum_plain = 0.0;
    kv_codec_expand_values(&b->codec, alone(b->page), 0, head_kv, ROWS, b->tile);
    for (int row = 0; row < ROWS; row++) {
        double x[KV_HEAD_DIM_MAX], mean = 0.0, offset = 0.0, along = 0.0, variance = 0.0, low = INFINITY,
                                   high = -INFINITY;
        for (int c = 0; c < head_dim; c++) x[c] = b->v[row * head_dim + c];
        to_stored_domain(b, 0, head_kv, row, false, x);
        for (int c = 0; c < head_dim; c++) mean += x[c] / head_dim;
        for (int c = 0; c < head_dim; c++) {
            double error = (double)b->tile[row * head_dim + c] - x[c];
            offset += error / head_dim;
            along += error * (x[c] - mean);
            variance += (x[c] - mean) * (x[c] - mean);
            low = fmin(low, x[c]), high = fmax(high, x[c]);
            sum_fitted += error * error;
        }
        double scale = f16_at(b->page, b->layout.value[head_kv].scale, row),
               rounding = (fabs(mean) + levels * scale) * 0x1p-10;
        assert_true(fabs(offset) <= rounding);
        assert_true(fabs(along) <= 2e-3 * variance);
        sum_plain += head_dim * (high - low) * (high - low) / (levels * levels) / 12.0;
    }
    assert_true(sum_fitted < sum_plain);
}

static void test_fitted_values_are_neither_shifted_nor_shrunk(void **state)
{
    (void)state;
    static const char *const recipes[] = { "k16 v2h", "k16 v3h" };
    for (int i = 0; i < 2; i++) {
        struct bench b;
        bench_open(&b, recipes[i], 64);
        for (int head = 0; head < N_HEAD; head++) {
            assert_int_equal(encode(&b, 0, head, 0, ROWS, 0, NULL), KVANT_OK);
            check_fitted_values(&b, head);
        }
        bench_close(&b);
    }
}

static void check_recipe(const char *recipe, int head_dim)
{
    struct bench b;
    bench_open(&b, recipe, head_dim);
    const struct kv_recipe *r = &b.rig.plan->recipe[0];
    for (int i = 0; i < N_LAYER * N_HEAD; i++) {
        int64_t position = 4 + 64 * (i * i * 37);
        assert_int_equal(encode(&b, i / N_HEAD, i % N_HEAD, 0, ROWS, position, NULL), KVANT_OK);
        check_bounds(&b, i / N_HEAD, i % N_HEAD, ROWS, position);
        check_bounds(&b, i / N_HEAD, i % N_HEAD, r->key_scheme == KV_KEY_C64 ? ROWS : 32, position);
    }
    bench_close(&b);
}

static void test_every_uniform_recipe_is_within_half_a_step(void **state)
{
    (void)state;
    static const char *const schemes[] = { "t", "c32", "c64" }, *const transforms[] = { "", "m", "h", "mh" };
    static const char *const groups[] = { "", "g32", "h", "g32h" };
    static const int bits[] = { 2, 3, 4, 8 }, head_dims[] = { 8, 64, 96, 128 };
    char recipe[64];
    int n = 0;
    for (int s = 0; s < 3; s++) {
        for (int t = 0; t < 4; t++) {
            for (int i = 0; i < 4; i++) {
                for (int g = 0; g < 4; g++, n++) {
                    int head_dim = head_dims[(n + i) % 4];
                    if (head_dim % 32 && g % 2) head_dim = 64;
                    for (int is_short = 0; is_short < 4; is_short++) {
                        snprintf(recipe, sizeof recipe, "k%d%s%s%s v%d%s%s", bits[i], schemes[s],
                                 transforms[t], is_short & 1 ? "s" : "", bits[(i + g) % 4], groups[g],
                                 is_short & 2 ? "s" : "");
                        check_recipe(recipe, head_dim);
                    }
                }
            }
        }
    }
    check_recipe("k16 v16", 64);
    check_recipe("k16 v3h", 128);
    check_recipe("k3c64 v16", 256);
}

static void test_every_mixed_recipe_is_within_half_a_step(void **state)
{
    (void)state;
    static const char *const recipes[] = { "k3c64x v3h", "k3c64xm v2",   "k2.5c32x v4g32",
                                           "k4c32xm v8", "k3c64xs v3hs", "k4c32xms v8s" };
    static const int head_dims[] = { 8, 64, 96, 256 };
    for (int i = 0; i < (int)(sizeof recipes / sizeof *recipes); i++) {
        for (int d = 0; d < 4; d++) {
            if (head_dims[d] == 8 && i == 2) continue; /* g32 */
            check_recipe(recipes[i], head_dims[d]);
        }
    }
}

/* Channels of 0 bits: the mean of their group, scale 0. */
static void test_zero_bit_channels_hold_their_mean(void **state)
{
    (void)state;
    struct bench b;
    bench_open(&b, "k3c32x v3h", 96);
    assert_int_equal(encode(&b, 1, 1, 0, ROWS, 4, NULL), KVANT_OK);
    kv_codec_expand_keys(&b.codec, alone(b.page), 1, 1, ROWS, 4, b.tile);
    const struct kv_channels *ch = &b.rig.plan->channels[3];
    assert_true(ch->count[4] > 0);
    for (int s = 96 - ch->count[4]; s < 96; s++) {
        int c = ch->order[s];
        for (int group = 0; group < 2; group++) {
            double sum = 0;
            for (int i = 0; i < 32; i++) sum += b.k[(group * 32 + i) * 96 + c];
            double mean = sum / 32, stored = b.tile[c * ROWS + group * 32];
            assert_true(fabs(stored - mean) <= fabs(mean) * 0x1p-11 + 1e-5);
            for (int i = 0; i < 32; i++) assert_true(b.tile[c * ROWS + group * 32 + i] == (float)stored);
            assert_true(f16_at(b.page, b.layout.key[3].scale, group * 96 + s) == 0.0f);
        }
    }
    bench_close(&b);
}

static void test_constant_groups(void **state)
{
    (void)state;
    static const float constants[] = { 0.0f, 1.0f, 600.0f, -0.25f, -600.0f };
    static const char *const recipes[] = { "k2t v2", "k3c32 v3g32", "k4c64 v4", "k8c64 v8g32", "k3c64x v2" };
    for (int r = 0; r < 5; r++) {
        for (int i = 0; i < 5; i++) {
            struct bench b;
            bench_open(&b, recipes[r], 64);
            memset(b.page, 0xff, b.layout.page_bytes);
            for (int j = 0; j < 64 * ROWS; j++) b.k[j] = b.v[j] = constants[i];
            assert_int_equal(encode(&b, 0, 1, 0, ROWS, 4, NULL), KVANT_OK);
            kv_codec_expand_keys(&b.codec, alone(b.page), 0, 1, ROWS, 4, b.tile);
            for (int j = 0; j < 64 * ROWS; j++) assert_true(b.tile[j] == constants[i]);
            kv_codec_expand_values(&b.codec, alone(b.page), 0, 1, ROWS, b.tile);
            for (int j = 0; j < 64 * ROWS; j++) assert_true(b.tile[j] == constants[i]);
            assert_true(f16_at(b.page, b.layout.key[1].scale, 0) == 0.0f &&
                        f16_at(b.page, b.layout.value[1].scale, 0) == 0.0f);
            const uint8_t *codes = b.page + b.layout.value[1].codes;
            for (size_t j = 0; j < b.layout.value[1].scale - b.layout.value[1].codes; j++)
                assert_int_equal(codes[j], 0);
            bench_close(&b);
        }
    }
}

/* A narrow group far from zero: f16 steps of 0.125 around 211, a range of 0.3. Rounding the minimum to
 * nearest would clip. */
static void test_narrow_groups_far_from_zero(void **state)
{
    (void)state;
    struct bench b;
    bench_open(&b, "k4c64 v4", 64);
    uint64_t noise = 5;
    for (int j = 0; j < 64 * ROWS; j++)
        b.k[j] = b.v[j] = (j % 2 ? 211.06f : -211.06f) + 0.15f * rig_noise(&noise);
    assert_int_equal(encode(&b, 0, 0, 0, ROWS, 4, NULL), KVANT_OK);
    check_bounds(&b, 0, 0, ROWS, 4);
    kv_codec_expand_keys(&b.codec, alone(b.page), 0, 0, ROWS, 4, b.tile);
    for (int c = 0; c < 64; c++) { /* the grid grows by one f16 step at most: 0.125 + 0.3 in 15 levels */
        for (int t = 0; t < ROWS; t++)
            assert_true(fabsf(b.tile[c * ROWS + t] - b.k[t * 64 + c]) <= 0.5f * 0.43f / 15 + 2e-5f);
    }
    bench_close(&b);
}

/* Scales below 2^-14 are subnormal in f16 and round by up to half of themselves: 1.49 · 2^-24 must not become
 * 2^-24.
 * */
static void test_tiny_ranges(void **state)
{
    (void)state;
    struct bench b;
    bench_open(&b, "k8c64 v8", 64);
    for (float steps = 0.1f; steps < 20.0f; steps += 0.13f) {
        float range = steps * 255.0f * 0x1p-24f;
        for (int j = 0; j < 64 * ROWS; j++) b.k[j] = b.v[j] = range * (float)(j % 64 + j / 64) / 126.0f;
        assert_int_equal(encode(&b, 0, 0, 0, ROWS, 4, NULL), KVANT_OK);
        kv_codec_expand_keys(&b.codec, alone(b.page), 0, 0, ROWS, 4, b.tile);
        for (int c = 0; c < 64; c++) {
            float half_step = f16_at(b.page, b.layout.key[0].scale, c) / 2;
            for (int t = 0; t < ROWS; t++)
                assert_true(fabsf(b.tile[c * ROWS + t] - b.k[t * 64 + c]) <= half_step * 1.0001f);
        }
    }
    bench_close(&b);
}

static void expect_numeric(struct bench *b, float *at, float x, const char *place)
{
    struct kvant_error err;
    float old = *at;
    *at = x;
    assert_int_equal(encode(b, 1, 0, 32, 32, 4 + 640, &err), KVANT_ERR_NUMERIC);
    *at = old;
    if (!strstr(err.message, place)) print_message("message: %s\n", err.message);
    assert_non_null(strstr(err.message, place));
    assert_int_equal(encode(b, 1, 0, 32, 32, 4 + 640, &err), KVANT_OK);
}

static void test_numbers_that_are_none_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const recipes[] = { "k4c32 v3h", "k4tmh v3", "k16 v16", "k3c32x v2" };
    for (int i = 0; i < 4; i++) {
        struct bench b;
        bench_open(&b, recipes[i], 64);
        expect_numeric(&b, &b.k[40 * 64 + 17], NAN,
                       "layer 1, KV head 0, position 684: key channel 17 is NaN");
        expect_numeric(&b, &b.k[32 * 64], INFINITY,
                       "layer 1, KV head 0, position 676: key channel 0 is infinite");
        expect_numeric(&b, &b.v[63 * 64 + 63], -INFINITY,
                       "layer 1, KV head 0, position 707: value channel 63 is infinite");
        expect_numeric(&b, &b.v[33 * 64 + 5], -NAN,
                       "layer 1, KV head 0, position 677: value channel 5 is NaN");
        bench_close(&b);
    }
    struct bench b; /* finite, but beyond what a scale or minimum can hold */
    bench_open(&b, "k4c64 v3,k4c64 v3,k4c32 v3", 64);
    expect_numeric(&b, &b.k[40 * 64 + 17], -3e6f,
                   "layer 1, KV head 0, position 676: keys are too large for float16");
    expect_numeric(&b, &b.v[40 * 64 + 17], 3e6f,
                   "layer 1, KV head 0, position 684: values are too large for float16");
    bench_close(&b);
}

/* A spike in one channel changes no other channel's bytes, in per-channel keys: no group straddles
 * channels. */
static void test_a_spike_stays_in_its_channel(void **state)
{
    (void)state;
    static const char *const recipes[] = { "k2c32 v2", "k3c32 v3",  "k4c64 v4",
                                           "k8c64 v8", "k3c64x v3", "k2.5c32x v3" };
    for (int r = 0; r < 6; r++) {
        struct bench b;
        bench_open(&b, recipes[r], 64);
        assert_int_equal(encode(&b, 0, 0, 0, ROWS, 4, NULL), KVANT_OK);
        float *before = kv_alloc(64 * ROWS, sizeof *before);
        kv_codec_expand_keys(&b.codec, alone(b.page), 0, 0, ROWS, 4, before);
        for (int spike = 0; spike < 64; spike += 9) {
            float old = b.k[10 * 64 + spike];
            b.k[10 * 64 + spike] = 5000.0f;
            assert_int_equal(encode(&b, 0, 0, 0, ROWS, 4, NULL), KVANT_OK);
            kv_codec_expand_keys(&b.codec, alone(b.page), 0, 0, ROWS, 4, b.tile);
            b.k[10 * 64 + spike] = old;
            int group = b.rig.plan->recipe[0].key_scheme;
            for (int c = 0; c < 64; c++) {
                for (int t = 0; t < ROWS; t++) {
                    if (c != spike || t / group != 10 / group)
                        assert_true(b.tile[c * ROWS + t] == before[c * ROWS + t]);
                }
            }
            assert_true(b.tile[spike * ROWS + 10] != before[spike * ROWS + 10]);
        }
        kv_free(before);
        bench_close(&b);
    }
}

/* What was expanded lies on the grid, so encoding it again gives the same page. */
static void test_encoding_an_expanded_page_changes_nothing(void **state)
{
    (void)state;
    static const char *const recipes[] = { "k2t v2",   "k3t v3g32",    "k4t v4",   "k8t v8",
                                           "k2c32 v2", "k3c32 v3",     "k4c64 v4", "k8c64 v8",
                                           "k16 v16",  "k3c64x v4g32", "k2c32x v3" };
    for (size_t r = 0; r < sizeof recipes / sizeof recipes[0]; r++) {
        struct bench b;
        bench_open(&b, recipes[r], 64);
        for (int i = 6; i < 64 * ROWS; i += 64)
            b.k[i] += 211.0f; /* without the offset: its f16 step is wider than 8-bit grids */
        assert_int_equal(encode(&b, 0, 0, 0, ROWS, 4, NULL), KVANT_OK);
        uint8_t *page = kv_alloc(1, b.layout.page_bytes);
        memcpy(page, b.page, b.layout.page_bytes);
        kv_codec_expand_keys(&b.codec, alone(b.page), 0, 0, ROWS, 4, b.tile);
        for (int c = 0; c < 64; c++) {
            for (int t = 0; t < ROWS; t++) b.k[t * 64 + c] = b.tile[c * ROWS + t];
        }
        kv_codec_expand_values(&b.codec, alone(b.page), 0, 0, ROWS, b.v);
        assert_int_equal(encode(&b, 0, 0, 0, ROWS, 4, NULL), KVANT_OK);
        if (memcmp(page, b.page, b.layout.page_bytes)) print_message("recipe %s\n", recipes[r]);
        assert_memory_equal(page, b.page, b.layout.page_bytes);
        kv_free(page);
        bench_close(&b);
    }
}

/* Rows in any pieces give the page that all at once give, over whatever the page held before. */
static void test_rows_in_pieces(void **state)
{
    (void)state;
    static const char *const recipes[] = {"k2t v2h", "k3tmh v3", "k4th v4",   "k8tm v8",  "k3t v16",
                                          "k16 v3",  "k16 v16",  "k3c32m v3", "k3c32x v2"};
    for (size_t r = 0; r < sizeof recipes / sizeof recipes[0]; r++) {
        struct bench b;
        bench_open(&b, recipes[r], 40);
        bool any = b.rig.plan->recipe[0].key_scheme == KV_KEY_TOKEN;
        assert_int_equal(encode(&b, 0, 1, 0, ROWS, 4, NULL), KVANT_OK);
        uint8_t *whole = b.page;
        b.page = kv_alloc(1, b.layout.page_bytes);
        for (int first = 0; first < (any ? 63 : 2); first++) {
            int cuts[] = { 0, any ? first : 0, any ? first + 1 : 32, ROWS };
            memset(b.page, 0xa5, b.layout.page_bytes);
            for (int i = 3; i-- > 0;) { /* back to front: earlier rows must leave later ones alone */
                if (cuts[i] == cuts[i + 1]) continue;
                assert_int_equal(encode(&b, 0, 1, cuts[i], cuts[i + 1] - cuts[i], 4, NULL), KVANT_OK);
            }
            float *expected = kv_alloc(40 * ROWS, sizeof(float));
            kv_codec_expand_keys(&b.codec, alone(whole), 0, 1, ROWS, 4, expected);
            kv_codec_expand_keys(&b.codec, alone(b.page), 0, 1, ROWS, 4, b.tile);
            assert_memory_equal(expected, b.tile, 40 * ROWS * sizeof(float));
            kv_codec_expand_values(&b.codec, alone(whole), 0, 1, ROWS, expected);
            kv_codec_expand_values(&b.codec, alone(b.page), 0, 1, ROWS, b.tile);
            assert_memory_equal(expected, b.tile, 40 * ROWS * sizeof(float));
            kv_free(expected);
        }
        kv_free(whole);
        bench_close(&b);
    }
}

/* Where the side that begins at `begin` ends: at the next one. */
static size_t side_end(const struct kv_layout *layout, size_t begin)
{
    size_t end = layout->page_bytes;
    for (int i = 0; i < N_LAYER * N_HEAD; i++) {
        if (layout->key[i].codes > begin && layout->key[i].codes < end) end = layout->key[i].codes;
        if (layout->value[i].codes > begin && layout->value[i].codes < end) end = layout->value[i].codes;
    }
    return end;
}

/* Encoding one head writes inside its two sides only. */
static void test_other_heads_keep_their_bytes(void **state)
{
    (void)state;
    struct bench b;
    bench_open(&b, "k3c32 v3g32,k2c32x v2h,k4t v4,k16 v16", 64);
    for (int i = 0; i < N_LAYER * N_HEAD; i++) {
        memset(b.page, 0x5a, b.layout.page_bytes);
        assert_int_equal(encode(&b, i / N_HEAD, i % N_HEAD, 0, ROWS, 4, NULL), KVANT_OK);
        size_t key = b.layout.key[i].codes, value = b.layout.value[i].codes;
        size_t key_end = side_end(&b.layout, key), value_end = side_end(&b.layout, value);
        for (size_t at = 0; at < b.layout.page_bytes; at++) {
            if ((at < key || at >= key_end) && (at < value || at >= value_end))
                assert_int_equal(b.page[at], 0x5a);
        }
    }
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_uniform_recipe_is_within_half_a_step),
        cmocka_unit_test(test_every_mixed_recipe_is_within_half_a_step),
        cmocka_unit_test(test_fitted_values_are_neither_shifted_nor_shrunk),
        cmocka_unit_test(test_zero_bit_channels_hold_their_mean),
        cmocka_unit_test(test_constant_groups),
        cmocka_unit_test(test_narrow_groups_far_from_zero),
        cmocka_unit_test(test_tiny_ranges),
        cmocka_unit_test(test_numbers_that_are_none_are_refused_by_name),
        cmocka_unit_test(test_a_spike_stays_in_its_channel),
        cmocka_unit_test(test_encoding_an_expanded_page_changes_nothing),
        cmocka_unit_test(test_rows_in_pieces),
        cmocka_unit_test(test_other_heads_keep_their_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
