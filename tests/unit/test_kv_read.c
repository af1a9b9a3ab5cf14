/*
 * Reading a cache: sums over codes against the sum of rows, rows against what was appended (exact where the
 * plan is), keys turned back against the turn in double.
 */
#include "cache/kv_read.h"

#include "base/half.h"
#include "base/memory.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/cache_rig.h"

#define N_LAYER 2
#define N_HEAD_KV 2
#define HEAD_DIM 64
#define N_TOKENS 230
#define SALT 3

static const char *const recipes[] = {
    "k16v16",     "k8tv8",    "k4tmhv4h", "k4c64v4h", "k3c32mv3g32",   "k3c64xmv2h",
    "k2.5c64xv2", "k4c64hv4", "k16v4h",   "k4tv16",   "k2c64mhv2g32h",
};
#define N_RECIPES (int)(sizeof recipes / sizeof recipes[0])

struct fixture {
    struct cache_rig rig;
    struct kv_store *store;
    struct kv_seq *seq;
    struct kv_reader reader;
    void *scratch;
};

static void open_fixture(struct fixture *f, const char *recipe, int sinks, int tail, int n_tokens)
{
    rig_open(&f->rig, recipe, N_LAYER, N_HEAD_KV, HEAD_DIM, sinks, tail);
    assert_int_equal(kv_store_open(&f->store, &f->rig.kernels, &f->rig.rope, NULL), KVANT_OK);
    assert_int_equal(kv_seq_open(&f->seq, f->store, f->rig.plan, n_tokens, NULL), KVANT_OK);
    for (int at = 0; at < n_tokens; at += 50)
        assert_int_equal(rig_append(&f->rig, f->seq, SALT, n_tokens - at < 50 ? n_tokens - at : 50, NULL),
                         KVANT_OK);
    assert_int_equal(kv_reader_open(&f->reader, &f->rig.rope, NULL), KVANT_OK);
    f->scratch = kv_alloc(1, kv_read_scratch_bytes(HEAD_DIM));
}

static void close_fixture(struct fixture *f)
{
    kv_free(f->scratch);
    kv_reader_close(&f->reader);
    kv_seq_close(f->seq);
    kv_store_close(f->store);
    rig_close(&f->rig);
}

/* Σ of rows in double, and of their absolute values. */
static void sum_rows(const float *rows, int64_t n, double *sum, double *size)
{
    for (int c = 0; c < HEAD_DIM; c++) {
        sum[c] = size[c] = 0;
        for (int64_t t = 0; t < n; t++) {
            sum[c] += (double)rows[t * HEAD_DIM + c];
            size[c] += fabs((double)rows[t * HEAD_DIM + c]);
        }
    }
}

static void sums_are_those_of_the_rows(void **state)
{
    (void)state;
    static const int64_t ranges[][2] = { { 0, N_TOKENS }, { 0, 1 },    { 3, 4 },     { 2, 70 },
                                         { 68, 69 },      { 50, 180 }, { 229, 230 }, { 198, 230 } };
    float *rows = malloc(sizeof *rows * N_TOKENS * HEAD_DIM);
    for (int r = 0; r < N_RECIPES; r++) {
        struct fixture f;
        open_fixture(&f, recipes[r], 4, 32, N_TOKENS);
        for (int i = 0; i < 8 * 2 * 2 * N_LAYER * N_HEAD_KV; i++) {
            double got[HEAD_DIM], sum[HEAD_DIM], size[HEAD_DIM];
            struct kv_read_call call = { &f.reader,
                                         f.seq,
                                         i / 32 % N_LAYER,
                                         i / 64 % N_HEAD_KV,
                                         i / 8 % 2 ? KV_READ_VALUES : KV_READ_KEYS,
                                         i / 16 % 2,
                                         ranges[i % 8][0],
                                         ranges[i % 8][1] };
            kv_read_sum(&call, f.scratch, got);
            kv_read_rows(&call, f.scratch, rows, HEAD_DIM);
            sum_rows(rows, call.last - call.first, sum, size);
            double all = 0; /* transforms mix channels: rounding is relative to all of them */
            for (int c = 0; c < HEAD_DIM; c++) all += size[c];
            for (int c = 0; c < HEAD_DIM; c++)
                if (!(fabs(got[c] - sum[c]) <= 1e-6 * all + 1e-6))
                    fail_msg("%s, side %d, turned %d, tokens %d to %d, channel %d: %.9g, not %.9g",
                             recipes[r], (int)call.side, call.before_rope, (int)call.first, (int)call.last, c,
                             got[c], sum[c]);
        }
        close_fixture(&f);
    }
    free(rows);
}

/* What was appended, from the rig. */
static void original(const struct fixture *f, int layer, int head, int side, int64_t position, float *row)
{
    uint16_t halves[HEAD_DIM];
    rig_row(&f->rig, SALT, layer, head, side, position, halves);
    for (int c = 0; c < HEAD_DIM; c++) row[c] = kv_f16_to_f32(halves[c]);
}

static void rows_of_16_bits_are_what_was_appended(void **state)
{
    (void)state;
    struct fixture f;
    float rows[N_TOKENS * HEAD_DIM], row[HEAD_DIM];
    open_fixture(&f, "f16", 4, 32, N_TOKENS);
    for (int side = 0; side < 2; side++) {
        struct kv_read_call call = {
            &f.reader, f.seq, 1, 1, side ? KV_READ_VALUES : KV_READ_KEYS, false, 0, N_TOKENS
        };
        kv_read_rows(&call, f.scratch, rows, HEAD_DIM);
        for (int t = 0; t < N_TOKENS; t++) {
            original(&f, 1, 1, side, t, row);
            assert_memory_equal(rows + t * HEAD_DIM, row, sizeof row);
        }
    }
    close_fixture(&f);
}

/* R_{-t} by the definition, in double. */
static void keys_are_turned_back(void **state)
{
    (void)state;
    struct fixture f;
    float rows[N_TOKENS * HEAD_DIM], row[HEAD_DIM];
    open_fixture(&f, "f16", 4, 32, N_TOKENS);
    struct kv_read_call call = { &f.reader, f.seq, 0, 1, KV_READ_KEYS, true, 0, N_TOKENS };
    kv_read_rows(&call, f.scratch, rows, HEAD_DIM);
    const struct kv_rope *r = &f.rig.rope;
    for (int t = 0; t < N_TOKENS; t++) {
        original(&f, 0, 1, 0, t, row);
        for (int p = 0; p < r->n_rot / 2; p++) {
            int a = r->neox ? p : 2 * p, b = r->neox ? p + r->n_rot / 2 : 2 * p + 1;
            double angle = -(double)t * (double)r->inv_freq[p], x = (double)row[a], y = (double)row[b];
            assert_true(fabs((double)rows[t * HEAD_DIM + a] - (x * cos(angle) - y * sin(angle))) < 1e-5);
            assert_true(fabs((double)rows[t * HEAD_DIM + b] - (x * sin(angle) + y * cos(angle))) < 1e-5);
        }
    }
    close_fixture(&f);
}

/* A quantized row is near what was appended, and the exact ones are equal: no page is taken for another. */
static void rows_are_near_what_was_appended(void **state)
{
    (void)state;
    float rows[N_TOKENS * HEAD_DIM], row[HEAD_DIM];
    for (int sinks = 0; sinks <= 4; sinks += 4) {
        struct fixture f;
        open_fixture(&f, "k8c64v8h", sinks, 32, N_TOKENS);
        int64_t sealed_end = sinks + kv_sealed_tokens(f.rig.plan, N_TOKENS);
        assert_true(sealed_end > 64);
        for (int i = 0; i < 2 * N_LAYER * N_HEAD_KV; i++) {
            int side = i % 2, layer = i / 2 % N_LAYER, head = i / 4;
            struct kv_read_call call = {
                &f.reader, f.seq, layer, head, side ? KV_READ_VALUES : KV_READ_KEYS, false, 0, N_TOKENS
            };
            /* A step of 8 bits is at most 2 of 255 parts of it, before the rotation spreads it. */
            double largest = 0;
            kv_read_rows(&call, f.scratch, rows, HEAD_DIM);
            for (int t = 0; t < N_TOKENS * HEAD_DIM; t++) largest = fmax(largest, fabs((double)rows[t]));
            for (int t = 0; t < N_TOKENS; t++) {
                bool exact = t < sinks || t >= sealed_end;
                original(&f, layer, head, side, t, row);
                for (int c = 0; c < HEAD_DIM; c++) {
                    double error = fabs((double)(rows[t * HEAD_DIM + c] - row[c]));
                    if (!(exact ? error == 0 : error <= 0.01 * largest))
                        fail_msg("token %d, channel %d: off by %g", t, c, error);
                }
            }
        }
        close_fixture(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_of_the_rows),
        cmocka_unit_test(rows_of_16_bits_are_what_was_appended),
        cmocka_unit_test(keys_are_turned_back),
        cmocka_unit_test(rows_are_near_what_was_appended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
