/* Sequences: any split gives the same cache, sealed bytes stay, forks are independent, truncation, refusals,
 * allocation failures. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "support/allocation_hooks.h"
#include "support/cache_rig.h"

#include "base/half.h"
#include "cache/kv_pages.h"

#define N_LAYER 2
#define N_HEAD 2

static const char *const plans[] = {
    "k16 v16",                                  /* granule 64 */
    "k4t v4h",                                  /* granule 1  */
    "k8tmh v3g32,k2t v2,k16 v8",                /* granule 1  */
    "k3c32 v3h,k4t v2",                         /* granule 32 */
    "k4c64m v3h,k2c32 v2g32h,k3c64x v4,k16 v16", /* granule 64 */
    "k2.5c32xm v2h",                            /* granule 32 */
};
#define N_PLANS ((int)(sizeof plans / sizeof plans[0]))

struct fixture {
    struct cache_rig rig;
    struct kv_store *store;
};

static void open_fixture(struct fixture *f, const char *recipes, int sinks, int tail)
{
    rig_open(&f->rig, recipes, N_LAYER, N_HEAD, 64, sinks, tail);
    assert_int_equal(kv_store_open(&f->store, &f->rig.kernels, &f->rig.rope, NULL), KVANT_OK);
}

static void close_fixture(struct fixture *f)
{
    kv_store_close(f->store);
    rig_close(&f->rig);
}

static struct kv_seq *open_seq(struct fixture *f, int64_t n_tokens_max)
{
    struct kv_seq *seq;
    assert_int_equal(kv_seq_open(&seq, f->store, f->rig.plan, n_tokens_max, NULL), KVANT_OK);
    return seq;
}

static struct kv_seq *fork_of(struct kv_seq *seq)
{
    struct kv_seq *forked;
    assert_int_equal(kv_seq_fork(&forked, seq, NULL), KVANT_OK);
    return forked;
}

static void append(struct fixture *f, struct kv_seq *seq, int salt, int64_t n)
{
    assert_int_equal(rig_append(&f->rig, seq, salt, n, NULL), KVANT_OK);
}

static struct kvant_sequence_stats stats_of(const struct kv_seq *seq)
{
    struct kvant_sequence_stats stats;
    kv_seq_get_stats(seq, &stats);
    return stats;
}

/* ---------------------------------------------------------------------------------------- comparisons -- */

static void assert_same_segment(const struct kv_exact_segment *a, const struct kv_exact_segment *b)
{
    assert_int_equal(a->position, b->position);
    assert_int_equal(a->n, b->n);
    for (int64_t i = 0; i < a->n; i++) {
        assert_memory_equal(a->k + i * a->row_stride, b->k + i * b->row_stride, 64 * sizeof(uint16_t));
        assert_memory_equal(a->v + i * a->row_stride, b->v + i * b->row_stride, 64 * sizeof(uint16_t));
    }
}

/* A copy of a page, alone: its bytes in the order of the layout. */
static uint8_t *flat(const struct kv_seq *seq, struct kv_page page)
{
    const struct kv_layout *layout = kv_seq_codec(seq)->layout;
    uint8_t *bytes = calloc(1, layout->page_bytes);
    assert_non_null(bytes);
    kv_page_copy(layout, (struct kv_page){ bytes, 0, 1 }, page);
    return bytes;
}

static void assert_same_page(const struct kv_seq *a, struct kv_page of_a, const struct kv_seq *b,
                             struct kv_page of_b)
{
    uint8_t *x = flat(a, of_a), *y = flat(b, of_b);
    assert_memory_equal(x, y, kv_seq_codec(a)->layout->page_bytes);
    free(x);
    free(y);
}

/* What every query would read is the same; with `bytes`, so is each byte of the pages. */
static void assert_same_cache(const struct kv_seq *a, const struct kv_seq *b, bool bytes)
{
    static float x[64 * 64], y[64 * 64];
    assert_int_equal(kv_seq_n_tokens(a), kv_seq_n_tokens(b));
    for (int i = 0; i < N_LAYER * N_HEAD; i++) {
        struct kv_seq_view va, vb;
        int layer = i / N_HEAD, head = i % N_HEAD;
        kv_seq_get_view(a, layer, head, NULL, NULL, 0, &va);
        kv_seq_get_view(b, layer, head, NULL, NULL, 0, &vb);
        assert_same_segment(&va.exact[0], &vb.exact[0]);
        assert_same_segment(&va.exact[1], &vb.exact[1]);
        assert_int_equal(va.n_pages_sealed_tokens, vb.n_pages_sealed_tokens);
        for (int64_t t = 0; t < va.n_pages_sealed_tokens; t += 64) {
            int n = va.n_pages_sealed_tokens - t < 64 ? (int)(va.n_pages_sealed_tokens - t) : 64;
            int64_t position = kv_seq_plan(a)->sinks + t;
            if (bytes) assert_same_page(a, va.pages[t / 64], b, vb.pages[t / 64]);
            kv_codec_expand_keys(kv_seq_codec(a), va.pages[t / 64], layer, head, n, position, x);
            kv_codec_expand_keys(kv_seq_codec(b), vb.pages[t / 64], layer, head, n, position, y);
            assert_memory_equal(x, y, sizeof x);
            kv_codec_expand_values(kv_seq_codec(a), va.pages[t / 64], layer, head, n, x);
            kv_codec_expand_values(kv_seq_codec(b), vb.pages[t / 64], layer, head, n, y);
            assert_memory_equal(x, y, sizeof x);
        }
    }
}

/* The exact rows are the rows that were appended. */
static void assert_exact_rows(const struct cache_rig *rig, const struct kv_seq *seq, int salt)
{
    uint16_t row[64];
    for (int i = 0; i < N_LAYER * N_HEAD; i++) {
        struct kv_seq_view view;
        kv_seq_get_view(seq, i / N_HEAD, i % N_HEAD, NULL, NULL, 0, &view);
        for (int s = 0; s < 2; s++) {
            const struct kv_exact_segment *e = &view.exact[s];
            for (int64_t j = 0; j < e->n; j++) {
                rig_row(rig, salt, i / N_HEAD, i % N_HEAD, 0, e->position + j, row);
                assert_memory_equal(row, e->k + j * e->row_stride, sizeof row);
                rig_row(rig, salt, i / N_HEAD, i % N_HEAD, 1, e->position + j, row);
                assert_memory_equal(row, e->v + j * e->row_stride, sizeof row);
            }
        }
        assert_int_equal(view.exact[0].n + view.n_pages_sealed_tokens + view.exact[1].n,
                         kv_seq_n_tokens(seq));
    }
}

/* ------------------------------------------------------------------------------------------- appending -- */

static void test_lengths(void **state)
{
    (void)state;
    static const int64_t lengths[] = { 1, 31, 32, 33, 63, 64, 100, 132, 133, 300 };
    static const int tails[] = { 0, 32, 33 };
    for (int p = 0; p < N_PLANS; p++) {
        for (int i = 0; i < 3 * 10; i++) {
            struct fixture f;
            int sinks = i % 2 ? 4 : 0;
            int64_t n = lengths[i / 3];
            open_fixture(&f, plans[p], sinks, tails[i % 3]);
            struct kv_seq *seq = open_seq(&f, n);
            append(&f, seq, 1, n);
            struct kvant_sequence_stats stats = stats_of(seq);
            int64_t granule = f.rig.plan->granule, sealed = 0;
            while (n - sinks - (sealed + granule) >= tails[i % 3]) sealed += granule;
            assert_int_equal(stats.n_sealed, sealed);
            assert_int_equal(stats.n_exact, n - sealed);
            assert_int_equal(stats.n_pages, (sealed + 63) / 64);
            assert_int_equal(stats.n_inexact_tail, 0);
            assert_exact_rows(&f.rig, seq, 1);
            kv_seq_close(seq);
            close_fixture(&f);
        }
    }
}

static void test_any_split_gives_the_same_cache(void **state)
{
    (void)state;
    static const int64_t splits[][8] = {{1},     {3, 61, 1, 64}, {32},
                                        {33, 7}, {100, 1, 1, 1}, {250, 20}}; /* repeated to the end */
    for (int p = 0; p < N_PLANS; p++) {
        for (int tail = 0; tail <= 40; tail += 20) {
            struct fixture f;
            open_fixture(&f, plans[p], 4, tail);
            struct kv_seq *whole = open_seq(&f, 400);
            append(&f, whole, 1, 330);
            for (size_t s = 0; s < sizeof splits / sizeof splits[0]; s++) {
                struct kv_seq *seq = open_seq(&f, 400);
                for (int i = 0; kv_seq_n_tokens(seq) < 330; i++) {
                    if (i == 8 || splits[s][i] == 0) i = 0;
                    int64_t left = 330 - kv_seq_n_tokens(seq);
                    append(&f, seq, 1, splits[s][i] < left ? splits[s][i] : left);
                }
                assert_same_cache(whole, seq, true);
                assert_exact_rows(&f.rig, seq, 1);
                kv_seq_close(seq);
            }
            kv_seq_close(whole);
            close_fixture(&f);
        }
    }
}

static void test_sealed_bytes_never_change(void **state)
{
    (void)state;
    static const int64_t more[] = { 1, 100, 1000 };
    for (int p = 0; p < N_PLANS; p++) {
        struct fixture f;
        open_fixture(&f, plans[p], 4, 32);
        struct kv_seq *seq = open_seq(&f, 2000);
        append(&f, seq, 1, 300);
        struct kv_seq_view view;
        kv_seq_get_view(seq, 0, 0, NULL, NULL, 0, &view);
        size_t n_full = (size_t)view.n_pages_sealed_tokens / 64;
        uint8_t **before = calloc(n_full + 1, sizeof *before);
        assert_non_null(before);
        static float x[64 * 64], y[64 * 64]; /* and the rows of the page that is being filled */
        int n_part = (int)(view.n_pages_sealed_tokens % 64);
        int64_t position = 4 + (int64_t)n_full * 64;
        for (size_t i = 0; i < n_full; i++) before[i] = flat(seq, view.pages[i]);
        if (n_part) kv_codec_expand_keys(kv_seq_codec(seq), view.pages[n_full], 1, 1, n_part, position, x);
        for (int m = 0; m < 3; m++) {
            append(&f, seq, 1, more[m]);
            kv_seq_get_view(seq, 0, 0, NULL, NULL, 0, &view);
            for (size_t i = 0; i < n_full; i++)
                assert_same_page(seq, (struct kv_page){ before[i], 0, 1 }, seq, view.pages[i]);
            if (n_part)
                kv_codec_expand_keys(kv_seq_codec(seq), view.pages[n_full], 1, 1, n_part, position, y);
            if (n_part) assert_memory_equal(x, y, sizeof x);
        }
        for (size_t i = 0; i < n_full; i++) free(before[i]);
        free(before);
        kv_seq_close(seq);
        close_fixture(&f);
    }
}

/* Inside a step, between write and commit_head: sealed rows are readable in both forms, all positions are
 * covered. */
static void test_view_inside_a_step(void **state)
{
    (void)state;
    for (int p = 0; p < N_PLANS; p++) {
        struct fixture f;
        open_fixture(&f, plans[p], 4, 32);
        struct kv_seq *seq = open_seq(&f, 400);
        append(&f, seq, 1, 150);
        int64_t sealed = kv_sealed_tokens(f.rig.plan, 150);
        static uint16_t k[130 * 64], v[130 * 64];
        void *scratch = aligned_alloc(64, kv_seq_scratch_bytes(64));
        for (int64_t i = 0; i < 130; i++) {
            rig_row(&f.rig, 1, 1, 0, 0, 150 + i, k + i * 64);
            rig_row(&f.rig, 1, 1, 0, 1, 150 + i, v + i * 64);
        }
        assert_int_equal(kv_seq_begin(seq, 130, NULL), KVANT_OK);
        assert_int_equal(kv_seq_write(seq, 1, 0, k, v, 64, scratch, NULL), KVANT_OK);
        struct kv_seq_view view;
        kv_seq_get_view(seq, 1, 0, k, v, 64, &view);
        assert_int_equal(view.n_pages_sealed_tokens, kv_sealed_tokens(f.rig.plan, 280));
        assert_int_equal(view.exact[0].position, 0);
        assert_int_equal(view.exact[0].n, 4);
        assert_int_equal(view.exact[1].position, 4 + sealed);
        assert_int_equal(view.exact[1].n, 150 - 4 - sealed);
        assert_int_equal(view.exact[2].position, 150);
        assert_int_equal(view.exact[2].n, 130);
        assert_ptr_equal(view.exact[2].k, k);
        uint16_t row[64];
        for (int64_t i = 0; i < view.exact[1].n; i++) { /* the rows that have just been sealed are still
                                                         * there */
            rig_row(&f.rig, 1, 1, 0, 0, view.exact[1].position + i, row);
            assert_memory_equal(row, view.exact[1].k + i * view.exact[1].row_stride, sizeof row);
        }
        kv_seq_fail(seq);
        kv_seq_close(seq);
        free(scratch);
        close_fixture(&f);
    }
}

/* ---------------------------------------------------------------------------------------- fork and cut -- */

static void test_forks_are_independent(void **state)
{
    (void)state;
    for (int p = 0; p < N_PLANS; p++) {
        struct fixture f;
        open_fixture(&f, plans[p], 4, 32);
        struct kv_seq *a = open_seq(&f, 500);
        append(&f, a, 1, 140); /* with granule 32 and 1 the last page is partly sealed */
        struct kv_seq *b = fork_of(a), *c = fork_of(b);
        assert_same_cache(a, c, true);
        struct kvant_sequence_stats stats = stats_of(a);
        assert_int_equal(stats.n_pages_shared, stats.n_pages);
        append(&f, a, 1, 200);
        append(&f, b, 2, 200);
        append(&f, c, 1, 99);
        append(&f, c, 1, 101);
        struct kv_seq *fresh = open_seq(&f, 500);
        append(&f, fresh, 1, 340);
        assert_same_cache(fresh, a, true);
        assert_same_cache(fresh, c, true);
        struct kv_seq *other = open_seq(&f, 500);
        append(&f, other, 1, 140);
        append(&f, other, 2, 200);
        assert_same_cache(other, b, true);
        /* only whole pages are still shared */
        assert_int_equal(stats_of(b).n_pages_shared, stats.n_sealed / 64);
        kv_seq_close(a); /* the pages' first owner goes first */
        assert_same_cache(other, b, true);
        kv_seq_close(c);
        assert_int_equal(stats_of(b).n_pages_shared, 0);
        append(&f, b, 2, 160);
        append(&f, other, 2, 160);
        assert_same_cache(other, b, true);
        kv_seq_close(other);
        kv_seq_close(fresh);
        kv_seq_close(b);
        close_fixture(&f);
    }
}

static void test_store_may_close_before_its_sequences(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, plans[4], 4, 32);
    size_t before = hooks.live_bytes;
    struct kv_seq *a = open_seq(&f, 300), *b;
    append(&f, a, 1, 200);
    b = fork_of(a);
    kv_store_close(f.store);
    kv_seq_close(a);
    append(&f, b, 1, 100);
    kv_seq_close(b);
    assert_true(hooks.live_bytes < before); /* the store itself went with the last */
    kv_seq_close(NULL);
    kv_store_close(NULL);
    rig_close(&f.rig);
}

/* A page that another sequence has used before gives the same bytes, unsealed rows and padding included. */
static void test_recycled_pages_are_clean(void **state)
{
    (void)state;
    for (int p = 0; p < N_PLANS; p++) {
        struct fixture f;
        open_fixture(&f, plans[p], 4, 32);
        struct kv_seq *seq = open_seq(&f, 300), *fresh = open_seq(&f, 300);
        append(&f, seq, 2, 300);
        assert_int_equal(kv_seq_truncate(seq, 0, NULL), KVANT_OK);
        append(&f, seq, 1, 135);
        append(&f, fresh, 1, 135);
        assert_same_cache(fresh, seq, true);
        kv_seq_close(seq);
        kv_seq_close(fresh);
        close_fixture(&f);
    }
}

/* Many sequences come, fork, are cut and go; the pool's promise holds and all memory comes back. */
static void test_random_lives(void **state)
{
    (void)state;
    for (int p = 0; p < N_PLANS; p++) {
        struct fixture f;
        open_fixture(&f, plans[p], 4, 16);
        size_t before = hooks.live_bytes;
        struct kv_seq *seqs[6] = { NULL };
        uint64_t random = 42 + (uint64_t)p;
        for (int i = 0; i < 250; i++) {
            int slot = (int)(fabsf(rig_noise(&random)) * 5.99f),
                action = (int)(fabsf(rig_noise(&random)) * 9.99f);
            float share = fabsf(rig_noise(&random));
            struct kv_seq **seq = &seqs[slot];
            if (!*seq) {
                if (action < 5 && seqs[(slot + 1) % 6]) *seq = fork_of(seqs[(slot + 1) % 6]);
                else *seq = open_seq(&f, 200 + (int64_t)(share * 200));
                continue;
            }
            int64_t n = kv_seq_n_tokens(*seq), room = kv_seq_n_tokens_max(*seq) - n;
            if (action < 5) append(&f, *seq, slot, (int64_t)((float)room * share));
            else if (action < 8)
                assert_int_equal(kv_seq_truncate(*seq, (int64_t)((float)n * share), NULL), KVANT_OK);
            else {
                kv_seq_close(*seq);
                *seq = NULL;
            }
        }
        for (int i = 0; i < 6; i++) kv_seq_close(seqs[i]);
        assert_int_equal(hooks.live_bytes, before);
        close_fixture(&f);
    }
}

/* Where no sealed row must come back, truncate and append give what a fresh sequence has. */
static void test_exact_truncation(void **state)
{
    (void)state;
    for (int p = 0; p < N_PLANS; p++) {
        for (int tail = 0; tail <= 32; tail += 32) {
            struct fixture f;
            open_fixture(&f, plans[p], 4, tail);
            int n_exact_cuts = 0;
            for (int64_t cut = 0; cut <= 230; cut += (cut + 1) % 3 + 1) {
                int64_t sealed = kv_sealed_tokens(f.rig.plan, 230), others = cut > 4 ? cut - 4 : 0;
                int64_t n_back = (others < sealed ? others : sealed) - kv_sealed_tokens(f.rig.plan, cut);
                struct kv_seq *seq = open_seq(&f, 500), *fresh = open_seq(&f, 500);
                append(&f, seq, 1, 230);
                assert_int_equal(kv_seq_truncate(seq, cut, NULL), KVANT_OK);
                assert_int_equal(stats_of(seq).n_inexact_tail,
                                 p == 0 ? 0 : n_back); /* 16 bits come back as they were */
                append(&f, fresh, 1, cut);
                if (n_back == 0 || p == 0) {
                    assert_same_cache(fresh, seq, false);
                    append(&f, seq, 2, 220);
                    append(&f, fresh, 2, 220);
                    assert_same_cache(fresh, seq, false);
                    n_exact_cuts++;
                }
                kv_seq_close(seq);
                kv_seq_close(fresh);
            }
            assert_true(n_exact_cuts >= 4); /* granule 1, tail 32: 0, 2, 3 inside the sinks, and 230 itself */
            close_fixture(&f);
        }
    }
}

/* A cut inside a page: the rows come back as the page had them, in the plain domain, and the rest is
 * untouched. */
static void test_inexact_truncation(void **state)
{
    (void)state;
    for (int p = 1; p < N_PLANS; p++) {
        struct fixture f;
        open_fixture(&f, plans[p], 4, 32);
        struct kv_seq *seq = open_seq(&f, 500);
        append(&f, seq, 1, 300);
        struct kv_seq *whole = fork_of(seq);
        assert_int_equal(kv_seq_truncate(seq, 150, NULL), KVANT_OK);
        int64_t sealed = kv_sealed_tokens(f.rig.plan, 150);
        assert_int_equal(stats_of(seq).n_sealed, sealed);
        assert_int_equal(stats_of(seq).n_inexact_tail, 150 - 4 - sealed);
        for (int h = 0; h < N_LAYER * N_HEAD; h++) {
            struct kv_seq_view cut, old;
            static float tile[64 * 64];
            const struct kv_codec *codec = kv_seq_codec(seq);
            int layer = h / N_HEAD, head = h % N_HEAD;
            bool rotated = kv_plan_recipe_at(f.rig.plan, layer, head)->value_rotated;
            kv_seq_get_view(seq, layer, head, NULL, NULL, 0, &cut);
            kv_seq_get_view(whole, layer, head, NULL, NULL, 0, &old);
            assert_int_equal(cut.exact[1].position, 4 + sealed);
            for (int64_t i = 0; i < cut.exact[1].n; i++) {
                int64_t s = sealed + i;
                kv_codec_expand_keys(codec, old.pages[s / 64], layer, head, 64, 4 + s / 64 * 64, tile);
                for (int c = 0; c < 64; c++)
                    assert_int_equal(cut.exact[1].k[i * 64 + c], kv_f32_to_f16(tile[c * 64 + s % 64]));
                kv_codec_expand_values(codec, old.pages[s / 64], layer, head, 64, tile);
                if (rotated) f.rig.kernels.hadamard(tile, 64, 64);
                for (int c = 0; c < 64; c++)
                    assert_int_equal(cut.exact[1].v[i * 64 + c], kv_f32_to_f16(tile[s % 64 * 64 + c]));
            }
        }
        /* inexact rows leave the count when they are sealed again, and when they are cut off */
        append(&f, seq, 2, 1);
        assert_int_equal(stats_of(seq).n_inexact_tail, 150 - 4 - kv_sealed_tokens(f.rig.plan, 151));
        int64_t cut = 4 + kv_sealed_tokens(f.rig.plan, 151) + 3,
                left = cut - 4 - kv_sealed_tokens(f.rig.plan, cut + 20);
        assert_int_equal(kv_seq_truncate(seq, cut, NULL), KVANT_OK);
        append(&f, seq, 2, 20);
        assert_int_equal(stats_of(seq).n_inexact_tail, left > 0 ? left : 0);
        append(&f, seq, 2, 200);
        assert_int_equal(stats_of(seq).n_inexact_tail, 0);
        struct kv_seq *fresh = open_seq(&f, 500);
        append(&f, fresh, 1, 300);
        assert_same_cache(fresh, whole, true); /* the fork saw nothing of it */
        kv_seq_close(fresh);
        kv_seq_close(seq);
        kv_seq_close(whole);
        close_fixture(&f);
    }
}

/* -------------------------------------------------------------------------------------------- refusals -- */

static void test_refusals(void **state)
{
    (void)state;
    struct fixture f;
    struct kvant_error err;
    struct kv_seq *seq, *other;
    open_fixture(&f, "k4c64m v3h", 4, 32);
    assert_int_equal(kv_seq_open(&seq, f.store, f.rig.plan, 0, &err), KVANT_ERR_ARGUMENT);
    assert_null(seq);
    uint16_t *center = f.rig.plan->center;
    f.rig.plan->center = NULL;
    assert_int_equal(kv_seq_open(&seq, f.store, f.rig.plan, 100, &err), KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "calibrate"));
    f.rig.plan->center = center;
    size_t before = hooks.live_bytes;
    assert_int_equal(kv_seq_open(&seq, f.store, f.rig.plan, INT64_MAX, &err), KVANT_ERR_MEMORY);
    assert_int_equal(kv_seq_open(&seq, f.store, f.rig.plan, (int64_t)1 << 40, &err), KVANT_ERR_MEMORY);
    assert_non_null(strstr(err.message, "1099511627776 tokens"));
    assert_non_null(strstr(err.message, "of memory"));
    assert_int_equal(hooks.live_bytes, before);

    seq = open_seq(&f, 100);
    append(&f, seq, 1, 60);
    assert_int_equal(kv_seq_begin(seq, 41, &err), KVANT_ERR_FULL);
    assert_int_equal(kv_seq_begin(seq, INT64_MAX, &err), KVANT_ERR_FULL);
    assert_int_equal(kv_seq_begin(seq, -1, &err), KVANT_ERR_ARGUMENT);
    append(&f, seq, 1, 40); /* a refusal changes nothing */
    append(&f, seq, 1, 0);
    assert_int_equal(kv_seq_begin(seq, 1, &err), KVANT_ERR_FULL);
    assert_int_equal(kv_seq_truncate(seq, 101, &err), KVANT_ERR_ARGUMENT);
    assert_int_equal(kv_seq_truncate(seq, -1, &err), KVANT_ERR_ARGUMENT);
    assert_int_equal(kv_seq_truncate(seq, 0, &err), KVANT_OK);

    assert_int_equal(kv_seq_begin(seq, 10, &err), KVANT_OK); /* inside a step */
    assert_int_equal(kv_seq_begin(seq, 1, &err), KVANT_ERR_ARGUMENT);
    assert_int_equal(kv_seq_fork(&other, seq, &err), KVANT_ERR_ARGUMENT);
    assert_null(other);
    assert_int_equal(kv_seq_truncate(seq, 0, &err), KVANT_ERR_ARGUMENT);
    kv_seq_fail(seq);
    assert_true(kv_seq_failed(seq));
    assert_int_equal(kv_seq_begin(seq, 1, &err), KVANT_ERR_ARGUMENT);
    assert_int_equal(kv_seq_fork(&other, seq, &err), KVANT_ERR_ARGUMENT);
    assert_int_equal(kv_seq_truncate(seq, 0, &err), KVANT_ERR_ARGUMENT);
    kv_seq_close(seq);
    close_fixture(&f);
}

static void test_not_a_number_is_refused_when_it_is_sealed(void **state)
{
    (void)state;
    struct fixture f;
    struct kvant_error err;
    open_fixture(&f, "k4c64 v3h", 0, 0);
    struct kv_seq *seq = open_seq(&f, 100);
    static uint16_t k[64 * 64], v[64 * 64];
    void *scratch = aligned_alloc(64, kv_seq_scratch_bytes(64));
    k[20 * 64 + 5] = 0x7e00; /* NaN */
    assert_int_equal(kv_seq_begin(seq, 64, NULL), KVANT_OK);
    assert_int_equal(kv_seq_write(seq, 1, 1, k, v, 64, scratch, &err), KVANT_ERR_NUMERIC);
    assert_non_null(strstr(err.message, "layer 1, KV head 1, position 20: key channel 5 is NaN"));
    kv_seq_fail(seq);
    kv_seq_close(seq);
    free(scratch);
    close_fixture(&f);
}

/* ------------------------------------------------------------------------------------------ allocation -- */

static void test_steps_allocate_nothing(void **state)
{
    (void)state;
    static uint16_t rows[64];
    for (int p = 0; p < N_PLANS; p++) {
        struct fixture f;
        open_fixture(&f, plans[p], 4, 32);
        struct kv_seq *seq = open_seq(&f, 700), *forked;
        append(&f, seq, 1, 150);
        forked = fork_of(seq); /* so that the first sealing copies a page */
        void *scratch = aligned_alloc(64, kv_seq_scratch_bytes(64));
        long calls = hooks.n_calls;
        for (int t = 0; t < 500; t++) {
            assert_int_equal(kv_seq_begin(seq, 1, NULL), KVANT_OK);
            for (int i = 0; i < N_LAYER * N_HEAD; i++) {
                assert_int_equal(kv_seq_write(seq, i / N_HEAD, i % N_HEAD, rows, rows, 64, scratch, NULL),
                                 KVANT_OK);
                kv_seq_commit_head(seq, i / N_HEAD, i % N_HEAD, rows, rows, 64);
            }
            kv_seq_commit(seq);
        }
        assert_int_equal(hooks.n_calls, calls);
        free(scratch);
        kv_seq_close(seq);
        kv_seq_close(forked);
        close_fixture(&f);
    }
}

/* Opens, appends, forks, cuts; with every allocation refused in turn. */
static kvant_status life(struct fixture *f, struct kvant_error *err)
{
    struct kv_seq *a = NULL, *b = NULL;
    kvant_status status = kv_store_open(&f->store, &f->rig.kernels, &f->rig.rope, err);
    if (status != KVANT_OK) return status;
    status = kv_seq_open(&a, f->store, f->rig.plan, 400, err);
    if (status == KVANT_OK) {
        append(f, a, 1, 250);
        status = kv_seq_fork(&b, a, err);
        if (status == KVANT_OK) status = kv_seq_truncate(b, 170, err);
        assert_int_equal(kv_seq_n_tokens(a), 250);
        append(f, a, 1, 100); /* whatever failed, it is still usable */
        if (b) append(f, b, 1, 100);
    }
    kv_seq_close(b);
    kv_seq_close(a);
    kv_store_close(f->store);
    return status;
}

static void test_each_refused_allocation_is_an_error_without_a_leak(void **state)
{
    (void)state;
    for (int p = 0; p < N_PLANS; p++) {
        struct fixture f;
        rig_open(&f.rig, plans[p], N_LAYER, N_HEAD, 64, 4, 32);
        int before = hooks.n_live, n_refused = 0;
        for (long i = 0;; i++) {
            struct kvant_error err = { 0 };
            hooks.n_calls = 0;
            hooks.fail_at = i;
            kvant_status status = life(&f, &err);
            bool refused = hooks.n_calls > i;
            hooks.fail_at = -1;
            assert_int_equal(hooks.n_live, before);
            if (!refused) {
                assert_int_equal(status, KVANT_OK);
                break;
            }
            assert_int_equal(status, KVANT_ERR_MEMORY);
            assert_int_equal(err.status, KVANT_ERR_MEMORY);
            n_refused++;
        }
        assert_true(n_refused >= 8);
        rig_close(&f.rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_any_split_gives_the_same_cache),
        cmocka_unit_test(test_sealed_bytes_never_change),
        cmocka_unit_test(test_view_inside_a_step),
        cmocka_unit_test(test_forks_are_independent),
        cmocka_unit_test(test_store_may_close_before_its_sequences),
        cmocka_unit_test(test_recycled_pages_are_clean),
        cmocka_unit_test(test_random_lives),
        cmocka_unit_test(test_exact_truncation),
        cmocka_unit_test(test_inexact_truncation),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_not_a_number_is_refused_when_it_is_sealed),
        cmocka_unit_test(test_steps_allocate_nothing),
        cmocka_unit_test(test_each_refused_allocation_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
