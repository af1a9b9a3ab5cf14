/*
 * Any bytes as a saved sequence. The last bytes choose whether the checksums are made right first, so that
 * what lies behind them is reached as well. What is accepted must save to the same bytes and take more
 * tokens.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "cache/kv_file.h"
#include "support/cache_rig.h"

#define MARK "sha256:0123"
#define ROOM 300

static void sign(uint8_t *out, const uint8_t *a, size_t n_a, const uint8_t *b, size_t n_b)
{
    struct kv_hash h;
    kv_hash_begin(&h);
    kv_hash_add(&h, a, n_a);
    kv_hash_add(&h, b, n_b);
    kv_hash_bytes(&h, out);
}

/* Checksums as the header's own numbers place them, as far as the bytes reach. */
static void make_right(uint8_t *data, size_t n)
{
    uint64_t n_tokens, page_bytes, n_pages;
    if (n < 256 + 32) return;
    memcpy(&n_tokens, data + 160, 8);
    memcpy(&page_bytes, data + 176, 8);
    memcpy(&n_pages, data + 184, 8);
    if (n_tokens > 4096 || page_bytes > 65536 || n_pages > 64) return;
    size_t at = 256 + 4 * (size_t)n_tokens;
    if (at > n) return;
    sign(data + 224, data, 224, data + 256, at - 256);
    for (uint64_t i = 0; i < n_pages && at + page_bytes + 32 <= n; i++, at += page_bytes + 32)
        sign(data + at + page_bytes, data + at, page_bytes, NULL, 0);
    if (at + 32 <= n) sign(data + n - 32, data + at, n - 32 - at, NULL, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct cache_rig rig; /* opened once; it stays reachable until the end */
    static struct kv_store *store;
    if (!store) {
        rig_open(&rig, "k4c64 v4h", 1, 1, 16, 2, 4);
        if (kv_store_open(&store, &rig.kernels, &rig.rope, NULL) != KVANT_OK) abort();
    }
    if (size == 0 || size > 1 << 20) return 0;
    bool right = data[--size] & 1;
    uint8_t *copy = malloc(size ? size : 1), *again;
    if (!copy) abort();
    memcpy(copy, data, size);
    if (right) make_right(copy, size);
    struct kv_file_source file = { copy, size, MARK, 1000 };
    struct kv_seq *seq;
    kvant_token tokens[ROOM];
    size_t n, n_again;
    struct kvant_error err;
    if (kv_file_unpack(&seq, store, rig.plan, ROOM, &file, tokens, ROOM, &n, &err) == KVANT_OK) {
        if (kv_file_pack(seq, MARK, tokens, n, &again, &n_again, NULL) != KVANT_OK) abort();
        if (n_again != size || memcmp(again, copy, size) != 0) abort();
        kv_free(again);
        int64_t more = ROOM - (int64_t)n < 70 ? ROOM - (int64_t)n : 70;
        if (more > 0 && rig_append(&rig, seq, 1, more, &err) != KVANT_OK) abort();
        kv_seq_close(seq);
    } else if (seq)
        abort();
    free(copy);
    return 0;
}
