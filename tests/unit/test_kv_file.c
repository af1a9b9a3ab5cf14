/*
 * Saved sequences: what is restored goes on bit by bit as what was saved, for every scheme and at every
 * length around the borders of pages and granules; everything that is damaged, or of another model or
 * plan, is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/os.h"
#include "cache/kv_file.h"
#include "kvant.h"
#include "support/cache_rig.h"
#include "support/scratch.h"
#include "support/tiny_gguf.h"

#define MODEL_MARK "sha256:0123"
#define N_VOCAB    1000
#define ROOM       400

static struct cache_rig rig;
static struct kv_store *store;
static kvant_token tokens[ROOM], back[ROOM];

static void open_rig(const char *recipes)
{
    rig_open(&rig, recipes, 2, 2, 64, 4, 32);
    assert_int_equal(kv_store_open(&store, &rig.kernels, &rig.rope, NULL), KVANT_OK);
    for (int i = 0; i < ROOM; i++) tokens[i] = (i * 37) % N_VOCAB;
}

static void close_rig(void)
{
    kv_store_close(store);
    rig_close(&rig);
}

static uint8_t *save(struct kv_seq *seq, size_t n, size_t *n_bytes)
{
    uint8_t *data;
    struct kvant_error err;
    if (kv_file_pack(seq, MODEL_MARK, tokens, n, &data, n_bytes, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    return data;
}

static kvant_status load(struct kv_seq **out, const uint8_t *data, size_t n_bytes, size_t *n,
                         struct kvant_error *err)
{
    struct kv_file_source file = { data, n_bytes, MODEL_MARK, N_VOCAB };
    return kv_file_unpack(out, store, rig.plan, ROOM, &file, back, ROOM, n, err);
}

static struct kv_seq *fill(int64_t n)
{
    struct kv_seq *seq;
    struct kvant_error err;
    assert_int_equal(kv_seq_open(&seq, store, rig.plan, ROOM, NULL), KVANT_OK);
    for (int64_t done = 0; done < n;) { /* uneven steps, so that the tail's window wanders */
        int64_t step = n - done < 7 ? n - done : 7;
        if (rig_append(&rig, seq, 1, step, &err) != KVANT_OK) fail_msg("%s", err.message);
        done += step;
    }
    return seq;
}

static void test_goes_on(void **state)
{
    (void)state;
    static const char *const recipes[] = { "k4c64 v4h", "k3c32m v2h,k16 v16", "k2.5c64xm v3h", "k8t v8",
                                           "k4th v4g32" };
    static const int lengths[] = { 1, 3, 4, 5, 35, 36, 67, 68, 99, 100, 101, 131, 132, 200, 300 };
    for (size_t r = 0; r < sizeof recipes / sizeof recipes[0]; r++) {
        open_rig(recipes[r]);
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            struct kv_seq *seq = fill(lengths[i]), *again;
            size_t n_bytes, n_more, n, n_same;
            struct kvant_error err;
            uint8_t *data = save(seq, (size_t)lengths[i], &n_bytes);
            if (load(&again, data, n_bytes, &n, &err) != KVANT_OK)
                fail_msg("%s, %d: %s", recipes[r], lengths[i], err.message);
            assert_int_equal(n, lengths[i]);
            assert_memory_equal(back, tokens, n * sizeof *tokens);
            uint8_t *same = save(again, n, &n_same);
            assert_int_equal(n_same, n_bytes);
            assert_memory_equal(same, data, n_bytes);
            /* both go on alike, over the next sealing */
            assert_int_equal(rig_append(&rig, seq, 1, 70, NULL), KVANT_OK);
            assert_int_equal(rig_append(&rig, again, 1, 70, NULL), KVANT_OK);
            uint8_t *a = save(seq, n + 70, &n_more), *b = save(again, n + 70, &n_same);
            assert_int_equal(n_more, n_same);
            assert_memory_equal(a, b, n_more);
            kv_free(a);
            kv_free(b);
            kv_free(same);
            kv_free(data);
            kv_seq_close(seq);
            kv_seq_close(again);
        }
        close_rig();
    }
}

/* Recomputes the checksum of header and tokens after a change that is to be found otherwise. */
static void sign(uint8_t *data, size_t n_tokens)
{
    struct kv_hash h;
    kv_hash_begin(&h);
    kv_hash_add(&h, data, 224);
    kv_hash_add(&h, data + 256, 4 * n_tokens);
    kv_hash_bytes(&h, data + 224);
}

static void expect_refused(uint8_t *data, size_t n_bytes, kvant_status status, const char *part)
{
    struct kv_seq *seq = (struct kv_seq *)1;
    size_t n;
    struct kvant_error err = { 0 };
    kvant_status got = load(&seq, data, n_bytes, &n, &err);
    if (got != status || !strstr(err.message, part))
        fail_msg("%d, not %d: '%s' lacks '%s'", got, status, err.message, part);
    assert_null(seq);
}

static void test_refused(void **state)
{
    (void)state;
    open_rig("k4c64 v4h");
    struct kv_seq *seq = fill(200), *other;
    size_t n_bytes, n;
    struct kvant_error err;
    uint8_t *data = save(seq, 200, &n_bytes), *copy = malloc(n_bytes + 1);
    assert_non_null(copy);
    static const struct {
        size_t at;
        uint8_t value;
        bool sign;
        kvant_status status;
        const char *part;
    } changes[] = {
        { 0, 'X', false, KVANT_ERR_FORMAT, "not a saved sequence" },
        { 8, 2, false, KVANT_ERR_UNSUPPORTED, "version 2" },
        { 12, 1, false, KVANT_ERR_FORMAT, "header" },
        { 20, 'f', false, KVANT_ERR_MISMATCH, "another model" },
        { 100, 'z', false, KVANT_ERR_MISMATCH, "another plan" },
        { 160, 0, false, KVANT_ERR_FORMAT, "tokens" },
        { 167, 0x80, false, KVANT_ERR_FORMAT, "tokens" },
        { 161, 1, true, KVANT_ERR_FORMAT, "as long as" },
        { 168, 201, true, KVANT_ERR_FORMAT, "inexact" },
        { 177, 1, true, KVANT_ERR_FORMAT, "sizes" },
        { 184, 9, true, KVANT_ERR_FORMAT, "sizes" },
        { 192, 3, true, KVANT_ERR_FORMAT, "sizes" },
        { 196, 3, true, KVANT_ERR_FORMAT, "sizes" },
        { 200, 3, true, KVANT_ERR_FORMAT, "sizes" },
        { 204, 3, true, KVANT_ERR_FORMAT, "sizes" },
        { 208, 3, true, KVANT_ERR_FORMAT, "sizes" },
        { 216, 3, true, KVANT_ERR_FORMAT, "as long as" },
        { 224, 0, false, KVANT_ERR_FORMAT, "header or tokens" },
        { 256, 9, false, KVANT_ERR_FORMAT, "header or tokens" },
        { 259, 0x7f, true, KVANT_ERR_FORMAT, "vocabulary" },
        { 256 + 800, 0xff, false, KVANT_ERR_FORMAT, "page" },
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        memcpy(copy, data, n_bytes);
        copy[changes[i].at] = copy[changes[i].at] == changes[i].value ? changes[i].value ^ 1
                                                                      : changes[i].value;
        if (changes[i].sign) sign(copy, 200);
        expect_refused(copy, n_bytes, changes[i].status, changes[i].part);
    }
    memcpy(copy, data, n_bytes);
    copy[n_bytes - 40] ^= 4;
    expect_refused(copy, n_bytes, KVANT_ERR_FORMAT, "exact rows");
    memcpy(copy, data, n_bytes); /* a row that is not finite, with the right checksum */
    size_t exact = n_bytes - 32, first = exact - (200 - 128) * 2 * 2 * 2 * 64 * 2;
    copy[first] = 0;
    copy[first + 1] = 0x7c;
    struct kv_hash h;
    kv_hash_begin(&h);
    kv_hash_add(&h, copy + first, exact - first);
    kv_hash_bytes(&h, copy + exact);
    expect_refused(copy, n_bytes, KVANT_ERR_FORMAT, "not finite");
    for (size_t cut = 0; cut < n_bytes;
         cut += cut < 300 ? 1 : 1009) { /* in a block of its size: a sanitizer sees more */
        uint8_t *cut_off = malloc(cut ? cut : 1);
        assert_non_null(cut_off);
        memcpy(cut_off, data, cut);
        expect_refused(cut_off, cut, KVANT_ERR_FORMAT, "");
        free(cut_off);
    }
    memcpy(copy, data, n_bytes);
    expect_refused(copy, n_bytes + 1, KVANT_ERR_FORMAT, "as long as");
    struct kv_file_source file = { data, n_bytes, MODEL_MARK, N_VOCAB };
    assert_int_equal(kv_file_unpack(&other, store, rig.plan, ROOM, &file, back, 199, &n, &err),
                     KVANT_ERR_SPACE);
    assert_int_equal(n, 200);
    assert_int_equal(kv_file_unpack(&other, store, rig.plan, 199, &file, back, ROOM, &n, &err),
                     KVANT_ERR_SPACE);
    uint8_t *none;
    assert_int_equal(kv_file_pack(seq, MODEL_MARK, tokens, 199, &none, &n, &err), KVANT_ERR_ARGUMENT);
    assert_null(none);
    free(copy);
    kv_free(data);
    kv_seq_close(seq);
    close_rig();
}

/* Through the public interface: the same logits after a restart, whatever the plan. */
static void test_session(void **state)
{
    (void)state;
    struct tiny_gguf_options opt = { .arch = "llama",
                                     .weight_type = TINY_Q8_0,
                                     .n_embd = 128,
                                     .head_dim = 64,
                                     .n_head = 2,
                                     .n_head_kv = 1,
                                     .seed = 3 };
    char model_path[SCRATCH_CAP], path[SCRATCH_CAP];
    struct kvant_error err;
    struct kvant_model *model;
    struct kvant_session *sessions[2];
    assert_int_equal(tiny_gguf_write(scratch_path(model_path, "test_kv_file.gguf"), &opt, &err), KVANT_OK);
    assert_int_equal(kvant_model_open(&model, model_path, NULL, &err), KVANT_OK);
    struct kvant_model_info info;
    kvant_model_get_info(model, &info);
    static const char *const specs[] = { "f16", "k4c64v4h", "k3c64v2h", "k4tv4;sinks=0;tail=0" };
    scratch_path(path, "test_kv_file.kvseq");
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        struct kvant_plan *plan;
        int seq[2];
        size_t n, n_bytes, n_read;
        struct kvant_batch_entry entries[150];
        assert_int_equal(kvant_plan_open(&plan, model, specs[i], &err), KVANT_OK);
        for (int k = 0; k < 2; k++)
            assert_int_equal(kvant_session_open(&sessions[k], model, NULL, &err), KVANT_OK);
        assert_int_equal(kvant_sequence_open(sessions[0], plan, 256, &seq[0], &err), KVANT_OK);
        for (int t = 0; t < 150; t++) {
            tokens[t] = (t * 11) % 270;
            entries[t] = (struct kvant_batch_entry){ seq[0], tokens[t], false };
        }
        assert_int_equal(kvant_session_step(sessions[0], entries, 150, &err), KVANT_OK);
        assert_int_equal(kvant_sequence_save(sessions[0], seq[0], tokens, 150, path, &n_bytes, &err),
                         KVANT_OK);
        if (kvant_sequence_restore(sessions[1], plan, 256, path, &seq[1], back, ROOM, &n, &n_read, &err) !=
            KVANT_OK)
            fail_msg("%s", err.message);
        assert_int_equal(n, 150);
        assert_int_equal(n_read, n_bytes);
        for (int t = 0; t < 40; t++) {
            for (int k = 0; k < 2; k++) {
                struct kvant_batch_entry entry = { seq[k], (t * 7) % 270, true };
                assert_int_equal(kvant_session_step(sessions[k], &entry, 1, &err), KVANT_OK);
            }
            assert_memory_equal(kvant_session_logits(sessions[0], 0), kvant_session_logits(sessions[1], 0),
                                (size_t)info.n_vocab * sizeof(float));
        }
        struct kvant_plan *other;
        assert_int_equal(kvant_plan_open(&other, model, "k8tv8", &err), KVANT_OK);
        assert_int_equal(
            kvant_sequence_restore(sessions[1], other, 256, path, &seq[1], back, ROOM, &n, NULL, &err),
            KVANT_ERR_MISMATCH);
        assert_int_equal(seq[1], -1);
        assert_non_null(strstr(err.message, path));
        for (int k = 0; k < 2; k++) kvant_session_close(sessions[k]);
        kvant_plan_close(plan);
        kvant_plan_close(other);
    }
    kvant_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
