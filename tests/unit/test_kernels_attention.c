/*
 * The attention kernels: plain C against their definitions in double, every level of this CPU against
 * plain C. Inputs end at a page that must not be touched; outputs have a sentinel on both sides.
 */
#include "base/half.h"
#include "base/memory.h"
#include "kernels/code_layout.h"
#include "kernels/kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define PI 3.14159265358979323846

static const int head_dims[] = { 8, 64, 80, 96, 128, 256 };
#define N_OF(a) ((int)(sizeof(a) / sizeof *(a)))

/* -------------------------------------------------------------------------------------------- support -- */

static uint64_t state = 0x9e3779b97f4a7c15u;

static uint32_t next_random(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}
static float uniform(float lo, float hi)
{
    return lo + (hi - lo) * (float)(next_random() % 65536) / 65536.0f;
}
static int below(int n) { return (int)(next_random() % (uint32_t)n); }

/* n bytes that end where an unreadable page begins. */
struct guarded {
    uint8_t *data, *map;
    size_t map_bytes;
};

static struct guarded guarded_open(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (n + page - 1) / page * page;
    struct guarded g = { NULL, NULL, body + 2 * page };
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    assert_int_equal(mprotect(g.map, page, PROT_NONE), 0);
    assert_int_equal(mprotect(g.map + page + body, page, PROT_NONE), 0);
    g.data = g.map + page + body - n;
    return g;
}

static void guarded_close(struct guarded *g)
{
    assert_int_equal(munmap(g->map, g->map_bytes), 0);
}

/* Finite f16 values, the largest and subnormal ones among them. */
static struct guarded random_halves(size_t n)
{
    struct guarded g = guarded_open(2 * n);
    uint16_t *h = (uint16_t *)(void *)g.data;
    for (size_t i = 0; i < n; i++) {
        uint16_t bits = (uint16_t)next_random();
        h[i] = (bits & 0x7c00u) == 0x7c00u ? (uint16_t)(bits & 0x83ffu) : bits;
        if (next_random() % 64 == 0) h[i] = 0x7bff;
    }
    return g;
}

static struct guarded random_floats(size_t n, float scale)
{
    struct guarded g = guarded_open(n * sizeof(float));
    for (size_t i = 0; i < n; i++) ((float *)(void *)g.data)[i] = uniform(-scale, scale);
    return g;
}

static float *floats(struct guarded *g) { return (float *)(void *)g->data; }
static uint16_t *halves(struct guarded *g) { return (uint16_t *)(void *)g->data; }

/* Levels of this CPU above plain C; each table holds plain C where the level has nothing of its own. */
static struct kv_kernels ref, level_table[2];
static const char *level_name[2];
static int n_levels;

static int setup(void **unused)
{
    (void)unused;
    memset(&ref, 0, sizeof ref);
    kv_fill_attention_ref(&ref);
    enum kv_cpu_level best = kv_cpu_detect();
    for (int i = 0; i < 2; i++) level_table[i] = ref;
    n_levels = (int)best; /* that each of them is built, test_kernels demands */
    for (int i = 0; i < n_levels; i++) {
        kv_kernels_select(&level_table[i], (enum kv_cpu_level)(i + 1));
        level_name[i] = kv_cpu_level_name((enum kv_cpu_level)(i + 1));
    }
    return 0;
}

/* ------------------------------------------------------------------------------------ tiles from codes -- */

/* Codes put one by one come back as code·scale + min, in every layout. */
static void test_expand_definition(void **unused)
{
    (void)unused;
    static const int all_bits[] = { 2, 3, 4, 8 };
    enum { D = 72 }; /* the last column of values is half as wide */
    static float tile[D * KV_TILE];
    for (int b = 0; b < N_OF(all_bits); b++) {
        int bits = all_bits[b];
        uint8_t keys[D * KV_TILE], values[D * KV_TILE], plain[D * KV_TILE]; /* plain: (64, D) */
        uint16_t scale[2 * D + KV_TILE], min[2 * D + KV_TILE];
        memset(keys, 0xff, sizeof keys);
        memset(values, 0xff, sizeof values);
        for (int i = 0; i < D * KV_TILE; i++) {
            int c = i % D, t = i / D;
            plain[i] = (uint8_t)below(1 << bits);
            kv_code_put(keys, bits, kv_key_place(bits, c, t), plain[i]);
            kv_code_put(values, bits, kv_value_place(bits, D, c, t), plain[i]);
        }
        for (int i = 0; i < N_OF(scale); i++) {
            scale[i] = kv_f32_to_f16(uniform(0.01f, 2.0f));
            min[i] = kv_f32_to_f16(uniform(-5.0f, 5.0f));
        }
        for (int group = 0; group <= 64; group += 32) {
            ref.key_tile_expand(&(struct kv_key_tile){ .codes = keys, .scale = scale, .min = min,
                                                       .head_dim = D, .bits = bits, .group = group,
                                                       .n_tokens = KV_TILE, .n_channels = D },
                                tile);
            for (int i = 0; i < D * KV_TILE; i++) {
                int c = i / KV_TILE, t = i % KV_TILE, g = group == 0 ? t : group == 32 ? t / 32 * D + c : c;
                assert_true(tile[i] ==
                            (float)plain[t * D + c] * kv_f16_to_f32(scale[g]) + kv_f16_to_f32(min[g]));
            }
        }
        /* groups of 32 do not divide this head: any divisor will do */
        for (int group = 24; group <= D; group += 48) {
            ref.value_tile_expand(&(struct kv_value_tile){ .codes = values, .scale = scale, .min = min,
                                                           .head_dim = D, .bits = bits, .group = group,
                                                           .n_tokens = KV_TILE },
                                  tile);
            for (int i = 0; i < D * KV_TILE; i++) {
                int g = i % D / group * KV_TILE + i / D;
                assert_true(tile[i] == (float)plain[i] * kv_f16_to_f32(scale[g]) + kv_f16_to_f32(min[g]));
            }
        }
    }
}

/* Every bit of a page belongs to one code. */
static void test_code_layout(void **unused)
{
    (void)unused;
    static const int all_bits[] = { 2, 3, 4, 8 };
    for (int b = 0; b < N_OF(all_bits); b++)
        for (int d = 0; d < N_OF(head_dims); d++) {
            int bits = all_bits[b], head_dim = head_dims[d], n = head_dim * KV_TILE;
            static uint8_t keys[KV_HEAD_DIM_MAX * KV_TILE], values[KV_HEAD_DIM_MAX * KV_TILE];
            for (int ones = 0; ones < 2; ones++) {
                memset(keys, ones ? 0 : 0xff, sizeof keys);
                memset(values, ones ? 0 : 0xff, sizeof values);
                for (int i = 0; i < n; i++) {
                    unsigned code = ones ? (1u << bits) - 1 : 0;
                    kv_code_put(keys, bits, kv_key_place(bits, i / KV_TILE, i % KV_TILE), code);
                    kv_code_put(values, bits, kv_value_place(bits, head_dim, i / KV_TILE, i % KV_TILE), code);
                    assert_int_equal(kv_code_get(keys, bits, kv_key_place(bits, i / KV_TILE, i % KV_TILE)),
                                     code);
                }
                for (int i = 0; i < n; i++) {
                    uint8_t expected = (i < n * bits / 8) == (ones == 1) ? 0xff : 0;
                    assert_int_equal(keys[i], expected);
                    assert_int_equal(values[i], expected);
                }
            }
        }
}

/* ------------------------------------------------------------------------------------- tiles from rows -- */

static void test_rows(void **unused)
{
    (void)unused;
    static float kt[KV_HEAD_DIM_MAX * KV_TILE], v[KV_HEAD_DIM_MAX * KV_TILE];
    for (int d = 0; d < N_OF(head_dims); d++)
        for (int n = 0; n <= KV_TILE; n++) {
            int head_dim = head_dims[d], stride = head_dim + (n % 3) * 8;
            struct guarded rows = random_halves(n ? (size_t)((n - 1) * stride + head_dim) : 1);
            size_t bytes = (size_t)head_dim * KV_TILE * sizeof(float);
            ref.key_tile_from_rows(halves(&rows), stride, n, head_dim, kt);
            ref.value_tile_from_rows(halves(&rows), stride, n, head_dim, v);
            for (int t = 0; t < KV_TILE; t++)
                for (int c = 0; c < head_dim; c++) {
                    float x = t < n ? kv_f16_to_f32(halves(&rows)[t * stride + c]) : 0.0f;
                    assert_true(kt[c * KV_TILE + t] == x && v[t * head_dim + c] == x);
                }
            for (int l = 0; l < n_levels; l++) {
                struct guarded out = guarded_open(bytes);
                level_table[l].key_tile_from_rows(halves(&rows), stride, n, head_dim, floats(&out));
                assert_memory_equal(out.data, kt, bytes);
                memset(out.data, 0xa5, bytes);
                level_table[l].value_tile_from_rows(halves(&rows), stride, n, head_dim, floats(&out));
                assert_memory_equal(out.data, v, bytes);
                guarded_close(&out);
            }
            guarded_close(&rows);
        }
}

/* ---------------------------------------------------------------------------- transforms of a key tile -- */

static void test_hadamard(void **unused)
{
    (void)unused;
    static float out[KV_HEAD_DIM_MAX * KV_TILE];
    for (int d = 0; d < N_OF(head_dims); d++) {
        int head_dim = head_dims[d], block = head_dim & -head_dim;
        size_t bytes = (size_t)head_dim * KV_TILE * sizeof(float);
        struct guarded in = random_floats((size_t)head_dim * KV_TILE, 3.0f);
        memcpy(out, in.data, bytes);
        ref.key_tile_hadamard(out, head_dim);
        for (int c = 0; c < head_dim; c++)
            for (int t = 0; t < KV_TILE; t++) {
                double x = 0; /* H[i][j] = (−1)^|i & j| / √block */
                for (int j = 0; j < block; j++)
                    x += (__builtin_popcount((unsigned)(c % block & j)) % 2 ? -1.0 : 1.0) *
                         (double)floats(&in)[(c / block * block + j) * KV_TILE + t];
                assert_true(fabs(x / sqrt(block) - (double)out[c * KV_TILE + t]) < 1e-5);
            }
        for (int l = 0; l < n_levels; l++) {
            struct guarded copy = guarded_open(bytes);
            memcpy(copy.data, in.data, bytes);
            level_table[l].key_tile_hadamard(floats(&copy), head_dim);
            assert_memory_equal(copy.data, out, bytes);
            guarded_close(&copy);
        }
        guarded_close(&in);
    }
}

/* ------------------------------------------------------------------------------------------ attn_tile -- */

/* A few tiles with a range of visible tokens for each query, and all that attn_tile works on. */
struct attention {
    int n_q, head_dim, n_tiles;
    struct guarded q, kt, v, max, sum, out, score, first, last; /* kt, v, first, last: of all tiles */
};

static struct attention attention_open(int n_q, int head_dim, int n_tiles, float q_scale)
{
    size_t rows = (size_t)n_q, d = (size_t)head_dim, tile = d * KV_TILE, tiles = (size_t)n_tiles;
    struct attention a = { n_q, head_dim, n_tiles, random_floats(rows * d, q_scale),
                           random_floats(tiles * tile, 1.0f), random_floats(tiles * tile, 1.0f),
                           guarded_open(rows * 4), guarded_open(rows * 4), guarded_open(rows * d * 4),
                           guarded_open(rows * KV_TILE * 4), guarded_open(tiles * rows * 4),
                           guarded_open(tiles * rows * 4) };
    memset(a.score.data, 0xff, rows * KV_TILE * 4); /* NaN: scratch may hold anything */
    for (int i = 0; i < n_tiles * n_q; i++) {
        int lo = below(KV_TILE + 1), hi = below(KV_TILE + 1);
        bool whole = below(3) == 0; /* else: empty in half of the cases */
        ((int *)(void *)a.first.data)[i] = whole ? 0 : lo;
        ((int *)(void *)a.last.data)[i] = whole ? KV_TILE : hi;
    }
    return a;
}

static void attention_close(struct attention *a)
{
    struct guarded *all[] = {
        &a->q, &a->kt, &a->v, &a->max, &a->sum, &a->out, &a->score, &a->first, &a->last
    };
    for (int i = 0; i < N_OF(all); i++) guarded_close(all[i]);
}

static void attention_reset(struct attention *a)
{
    for (int i = 0; i < a->n_q; i++) {
        floats(&a->max)[i] = -INFINITY;
        floats(&a->sum)[i] = 0.0f;
    }
    memset(a->out.data, 0, (size_t)(a->n_q * a->head_dim) * sizeof(float));
}

/* Queries [begin, end) over all tiles. */
static void attention_run(const struct kv_kernels *table, struct attention *a, int begin, int end)
{
    for (int t = 0; t < a->n_tiles; t++) {
        size_t tile = (size_t)t * (size_t)a->head_dim * KV_TILE;
        struct kv_attn_tile call = {
            .q = floats(&a->q) + begin * a->head_dim, .kt = floats(&a->kt) + tile, .v = floats(&a->v) + tile,
            .n_q = end - begin, .head_dim = a->head_dim, .n_tokens = KV_TILE,
            .first = (int *)(void *)a->first.data + t * a->n_q + begin,
            .last = (int *)(void *)a->last.data + t * a->n_q + begin,
            .max = floats(&a->max) + begin, .sum = floats(&a->sum) + begin,
            .out = floats(&a->out) + begin * a->head_dim, .score = floats(&a->score) + begin * KV_TILE,
        };
        table->attn_tile(&call);
    }
}

/* One query in double over all tiles; false if it sees nothing. */
static bool attend_double(struct attention *a, int i, double *max, double *sum, double *out)
{
    static double score[16 * KV_TILE];
    const int *first = (int *)(void *)a->first.data, *last = (int *)(void *)a->last.data;
    *max = -(double)INFINITY;
    *sum = 0;
    memset(out, 0, (size_t)a->head_dim * sizeof *out);
    for (int pass = 0; pass < 2; pass++)
        for (int t = 0; t < a->n_tiles; t++)
            for (int j = first[t * a->n_q + i]; j < last[t * a->n_q + i]; j++) {
                const float *kt = floats(&a->kt) + t * a->head_dim * KV_TILE,
                            *v = floats(&a->v) + t * a->head_dim * KV_TILE;
                double *s = &score[t * KV_TILE + j];
                if (pass == 0) {
                    *s = 0;
                    for (int c = 0; c < a->head_dim; c++)
                        *s += (double)floats(&a->q)[i * a->head_dim + c] * (double)kt[c * KV_TILE + j];
                    *max = fmax(*max, *s);
                } else {
                    double p = exp(*s - *max);
                    *sum += p;
                    for (int c = 0; c < a->head_dim; c++) out[c] += p * (double)v[j * a->head_dim + c];
                }
            }
    return *sum > 0;
}

/* The scores' error is what counts: head_dim roundings of 2^-24 of partial sums, which q_scale keeps below 8.
 * Then |e^ds − 1| · |v| <= 8 · head_dim · 2^-24; measured: a tenth of it. */
static void check_against_double(const struct kv_kernels *table, const char *name, struct attention *a)
{
    double tolerance = 8.0 * a->head_dim * 0x1p-24 + 1e-6;
    attention_reset(a);
    attention_run(table, a, 0, a->n_q);
    for (int i = 0; i < a->n_q; i++) {
        double max, sum, out[KV_HEAD_DIM_MAX];
        const float *got = floats(&a->out) + i * a->head_dim;
        if (!attend_double(a, i, &max, &sum, out)) {
            assert_true(floats(&a->max)[i] == -INFINITY && floats(&a->sum)[i] == 0.0f && got[0] == 0.0f);
            continue;
        }
        assert_true(fabs((double)floats(&a->max)[i] - max) < tolerance);
        assert_true(fabs((double)floats(&a->sum)[i] / sum - 1) < tolerance);
        for (int c = 0; c < a->head_dim; c++) {
            double error = fabs((double)(got[c] / floats(&a->sum)[i]) - out[c] / sum);
            if (!(error < tolerance))
                fail_msg("%s: head %d, query %d of %d, channel %d: off by %g", name, a->head_dim, i, a->n_q,
                         c, error);
        }
    }
}

static void test_attn_tile(void **unused)
{
    (void)unused;
    static const int n_queries[] = { 1, 2, 3, 5, 6, 7, 13, 32 };
    for (int d = 0; d < N_OF(head_dims); d++)
        for (int n = 0; n < N_OF(n_queries); n++) {
            struct attention a = attention_open(n_queries[n], head_dims[d], 5,
                                                8.0f / sqrtf((float)head_dims[d]));
            check_against_double(&ref, "scalar", &a);
            for (int l = 0; l < n_levels; l++) check_against_double(&level_table[l], level_name[l], &a);
            attention_close(&a);
        }
}

/* A query's result has the same bits in any block of queries; batches of any composition then agree. */
static void test_attn_tile_blocks(void **unused)
{
    (void)unused;
    for (int d = 0; d < N_OF(head_dims); d++) {
        struct attention a = attention_open(23, head_dims[d], 3, 1.0f);
        for (int l = 0; l < n_levels; l++) {
            size_t n = (size_t)(a.n_q * a.head_dim);
            attention_reset(&a);
            attention_run(&level_table[l], &a, 0, a.n_q);
            float *together = kv_alloc(n, sizeof(float));
            assert_non_null(together);
            memcpy(together, a.out.data, n * sizeof(float));
            attention_reset(&a);
            for (int i = 0; i < a.n_q; i++) attention_run(&level_table[l], &a, i, i + 1);
            for (size_t i = 0; i < n; i++) assert_true(together[i] == floats(&a.out)[i]);
            kv_free(together);
        }
        attention_close(&a);
    }
}

/* Scores of ±∞ (not NaN), of 1e30, and a NaN query beside sound ones. */
static void test_attn_tile_extremes(void **unused)
{
    (void)unused;
    for (int l = -1; l < n_levels; l++) {
        const struct kv_kernels *table = l < 0 ? &ref : &level_table[l];
        struct attention a = attention_open(4, 64, 2, 1.0f);
        int *first = (int *)(void *)a.first.data, *last = (int *)(void *)a.last.data;
        for (int i = 0; i < 8; i++) first[i] = 0, last[i] = KV_TILE;
        float *q = floats(&a.q), *kt = floats(&a.kt);
        memset(q, 0, 4 * 64 * sizeof(float));
        q[0] = 1.0f;           /* query 0: scores −∞ in tile 0, finite in tile 1     */
        q[64 + 1] = 1e30f;     /* query 1: one score of 1e30 above all others         */
        q[2 * 64 + 2] = NAN;   /* query 2                                             */
        q[3 * 64 + 3] = -1.0f; /* query 3: sees nothing in tile 1                     */
        for (int t = 0; t < KV_TILE; t++) kt[t] = -INFINITY;
        /* 0 · −∞ would be NaN: keep channel 0 finite for them */
        for (int i = 1; i < 4; i++) q[i * 64] = 0.0f;
        attention_reset(&a);
        struct attention one = { 1, 64, 1, a.q, a.kt, a.v, a.max, a.sum, a.out, a.score, a.first, a.last };
        attention_run(table, &one, 0, 1);
        assert_true(floats(&a.max)[0] == -INFINITY && floats(&a.sum)[0] == 0.0f && floats(&a.out)[0] == 0.0f);
        for (int t = 0; t < KV_TILE; t++) kt[t] = 0.0f;
        kt[KV_TILE + 7] = 2.0f;
        first[4 + 3] = last[4 + 3] = 9;
        attention_reset(&a);
        attention_run(table, &a, 0, 4);
        assert_true(floats(&a.sum)[1] == 1.0f && floats(&a.out)[64] == floats(&a.v)[7 * 64]);
        assert_true(isnan(floats(&a.out)[2 * 64]) && isnan(floats(&a.sum)[2]));
        for (int c = 0; c < 64; c++)
            assert_true(isfinite(floats(&a.out)[c]) && isfinite(floats(&a.out)[64 + c]) &&
                        isfinite(floats(&a.out)[3 * 64 + c]));
        attention_close(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expand_definition), cmocka_unit_test(test_code_layout),
        cmocka_unit_test(test_rows), cmocka_unit_test(test_hadamard),
        cmocka_unit_test(test_attn_tile), cmocka_unit_test(test_attn_tile_blocks),
        cmocka_unit_test(test_attn_tile_extremes),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
