#include "text/vocab.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Multiply-and-fold over 8 bytes at a time: tokens are short, and the index is probed about ten times per
 * word. */
static uint32_t text_hash(const char *s, size_t n)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ n;
    for (; n >= 8; s += 8, n -= 8) {
        uint64_t x;
        memcpy(&x, s, 8);
        h = (h ^ x) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    uint64_t x = 0;
    memcpy(&x, s, n);
    h = (h ^ x) * 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(h ^ h >> 32);
}

struct kv_str kv_vocab_text(const struct kv_vocab *v, int32_t id)
{
    return (struct kv_str){ v->texts + v->offsets[id], v->offsets[id + 1] - v->offsets[id] };
}

int32_t kv_vocab_find(const struct kv_vocab *v, const char *text, size_t n_bytes)
{
    if (n_bytes == 0 || n_bytes > v->n_bytes_max) return -1;
    for (uint32_t i = text_hash(text, n_bytes) & v->index_mask; v->index[i] != 0;
         i = (i + 1) & v->index_mask) {
        int32_t id = (int32_t)v->index[i] - 1;
        struct kv_str s = kv_vocab_text(v, id);
        if (s.n_bytes == n_bytes && memcmp(s.data, text, n_bytes) == 0) return id;
    }
    return -1;
}

static void index_build(struct kv_vocab *v)
{
    for (int32_t id = 0; id < v->n; id++) {
        struct kv_str s = kv_vocab_text(v, id);
        if (s.n_bytes == 0 || kv_vocab_find(v, s.data, s.n_bytes) >= 0) continue;
        uint32_t i = text_hash(s.data, s.n_bytes) & v->index_mask;
        while (v->index[i] != 0) i = (i + 1) & v->index_mask;
        v->index[i] = (uint32_t)id + 1;
    }
}

static bool is_special(const struct kv_vocab *v, int32_t id, bool control)
{
    uint8_t type = v->types[id];
    return type == KV_TOKEN_USER_DEFINED ||
           (control && (type == KV_TOKEN_CONTROL || type == KV_TOKEN_UNKNOWN));
}

struct special_entry {
    uint8_t first;
    bool user_defined;
    uint32_t n_bytes;
};

static int special_order(const void *a, const void *b)
{
    const struct special_entry *x = a, *y = b;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    if (x->n_bytes != y->n_bytes) return x->n_bytes > y->n_bytes ? -1 : 1;
    return 0;
}

static kvant_status special_build(struct kv_vocab *v, struct kvant_error *err)
{
    size_t n = 0, n_distinct = 0;
    for (int32_t id = 0; id < v->n; id++) n += is_special(v, id, true) && kv_vocab_text(v, id).n_bytes > 0;
    struct special_entry *entries = kv_alloc(n, sizeof *entries);
    v->special = kv_alloc(n, sizeof *v->special);
    if (!entries || !v->special) {
        kv_free(entries);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %zu special tokens", n);
    }
    n = 0;
    for (int32_t id = 0; id < v->n; id++) {
        struct kv_str s = kv_vocab_text(v, id);
        if (!is_special(v, id, true) || s.n_bytes == 0) continue;
        entries[n++] = (struct special_entry){ (uint8_t)s.data[0], is_special(v, id, false),
                                               (uint32_t)s.n_bytes };
    }
    qsort(entries, n, sizeof *entries, special_order);
    size_t i = 0;
    for (unsigned b = 0; b < 256; b++) {
        v->special_first[b] = (uint32_t)n_distinct;
        for (; i < n && entries[i].first == b; i++) {
            bool repeats = i > 0 && special_order(&entries[i - 1], &entries[i]) == 0;
            if (!repeats) v->special[n_distinct++] = (struct kv_special_length){ entries[i].n_bytes, false };
            v->special[n_distinct - 1].user_defined |= entries[i].user_defined;
        }
    }
    v->special_first[256] = (uint32_t)n_distinct;
    kv_free(entries);
    return KVANT_OK;
}

int32_t kv_vocab_find_special(const struct kv_vocab *v, const char *text, size_t n_bytes, size_t from,
                              bool control, size_t *start)
{
    for (size_t i = from; i < n_bytes; i++) {
        unsigned b = (uint8_t)text[i];
        for (uint32_t j = v->special_first[b]; j < v->special_first[b + 1]; j++) {
            const struct kv_special_length *length = &v->special[j];
            if (length->n_bytes > n_bytes - i || (!control && !length->user_defined)) continue;
            int32_t id = kv_vocab_find(v, text + i, length->n_bytes);
            if (id < 0 || !is_special(v, id, control)) continue;
            *start = i;
            return id;
        }
    }
    return -1;
}

/* --------------------------------------------------------------------------------------------- reading -- */

static kvant_status read_texts(struct kv_vocab *v, const struct kv_gguf *g, struct kvant_error *err)
{
    struct kv_gguf_array tokens;
    bool found = false;
    KV_TRY(kv_gguf_get_array(g, "tokenizer.ggml.tokens", KV_GGUF_STRING, &tokens, &found, err));
    if (!found || tokens.n == 0)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1,
                "tokenizer.ggml.tokens: %s: convert the model again with its tokenizer",
                found ? "empty" : "missing");
    /* 2^28 keeps ids, the index and the sums below within 32 bits; the largest vocabularies have 2^18. */
    if (tokens.n > 1u << 28)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "tokenizer.ggml.tokens: %llu tokens, at most 268435456",
                (unsigned long long)tokens.n);
    size_t n_text = 0;
    for (uint64_t i = 0; i < tokens.n; i++)
        if (!kv_add_size(n_text, tokens.strings[i].n_bytes, &n_text) || n_text > UINT32_MAX)
            KV_FAIL(err, KVANT_ERR_FORMAT, -1, "tokenizer.ggml.tokens: more than 4 GiB of text");
    v->n = (int32_t)tokens.n;
    uint32_t n_index = 16;
    while (n_index < 2 * (uint32_t)v->n) n_index *= 2;
    v->index_mask = n_index - 1;
    v->texts = kv_alloc(n_text, 1);
    v->offsets = kv_alloc((size_t)v->n + 1, sizeof *v->offsets);
    v->index = kv_alloc(n_index, sizeof *v->index);
    if (!v->texts || !v->offsets || !v->index)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a vocabulary of %d tokens", v->n);
    uint32_t at = 0;
    for (int32_t id = 0; id < v->n; id++) {
        const struct kv_str *s = &tokens.strings[id];
        v->offsets[id] = at;
        if (s->n_bytes > 0) memcpy(v->texts + at, s->data, s->n_bytes);
        at += (uint32_t)s->n_bytes;
        if (s->n_bytes > v->n_bytes_max) v->n_bytes_max = (uint32_t)s->n_bytes;
    }
    v->offsets[v->n] = at;
    return KVANT_OK;
}

static kvant_status check_length(const struct kv_vocab *v, const char *key, uint64_t n,
                                 struct kvant_error *err)
{
    if (n == (uint64_t)v->n) return KVANT_OK;
    KV_FAIL(err, KVANT_ERR_FORMAT, -1, "%s: %llu entries for %d tokens: convert the model again", key,
            (unsigned long long)n, v->n);
}

static kvant_status read_types_and_scores(struct kv_vocab *v, const struct kv_gguf *g,
                                          struct kvant_error *err)
{
    v->types = kv_alloc((size_t)v->n, sizeof *v->types);
    v->is_end = kv_alloc((size_t)v->n, sizeof *v->is_end);
    v->scores = kv_alloc((size_t)v->n, sizeof *v->scores);
    if (!v->types || !v->is_end || !v->scores)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a vocabulary of %d tokens", v->n);
    memset(v->types, KV_TOKEN_NORMAL, (size_t)v->n);

    struct kv_gguf_array a;
    bool found = false;
    KV_TRY(kv_gguf_get_array(g, "tokenizer.ggml.token_type", KV_GGUF_I32, &a, &found, err));
    if (found) {
        KV_TRY(check_length(v, "tokenizer.ggml.token_type", a.n, err));
        for (int32_t id = 0; id < v->n; id++) {
            int64_t type = kv_gguf_array_i64(&a, (uint64_t)id);
            if (type < 0 || type >= KV_TOKEN_TYPE_COUNT)
                KV_FAIL(err, KVANT_ERR_FORMAT, -1,
                        "tokenizer.ggml.token_type[%d]: %lld is no token type (0 to 6)", id, (long long)type);
            v->types[id] = (uint8_t)type;
        }
    }
    found = false;
    KV_TRY(kv_gguf_get_array(g, "tokenizer.ggml.scores", KV_GGUF_F32, &a, &found, err));
    if (found) {
        KV_TRY(check_length(v, "tokenizer.ggml.scores", a.n, err));
        for (int32_t id = 0; id < v->n; id++) {
            v->scores[id] = (float)kv_gguf_array_f64(&a, (uint64_t)id);
            if (isnan(v->scores[id]))
                KV_FAIL(err, KVANT_ERR_FORMAT, -1, "tokenizer.ggml.scores[%d]: not a number", id);
        }
    }
    return KVANT_OK;
}

/* Files do not always type their end tokens as control, nor name more than one of them; so they are known by
 * text. */
static void mark_ends(struct kv_vocab *v)
{
    static const char *const names[] = {
        "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>",
        "<|endoftext|>", "</s>", "<|end_of_text|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<end_of_utterance>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int32_t id = kv_vocab_find(v, names[i], strlen(names[i]));
        if (id < 0) continue;
        v->is_end[id] = true;
        v->types[id] = KV_TOKEN_CONTROL;
    }
}

static kvant_status vocab_read(struct kv_vocab *v, const struct kv_gguf *g, struct kvant_error *err)
{
    KV_TRY(read_texts(v, g, err));
    index_build(v);
    KV_TRY(read_types_and_scores(v, g, err));
    mark_ends(v);
    return special_build(v, err);
}

kvant_status kv_vocab_open(struct kv_vocab *v, const struct kv_gguf *g, struct kvant_error *err)
{
    *v = (struct kv_vocab){ 0 };
    kvant_status status = vocab_read(v, g, err);
    if (status != KVANT_OK) kv_vocab_close(v);
    return status;
}

void kv_vocab_close(struct kv_vocab *v)
{
    kv_free(v->texts);
    kv_free(v->offsets);
    kv_free(v->types);
    kv_free(v->is_end);
    kv_free(v->scores);
    kv_free(v->index);
    kv_free(v->special);
    *v = (struct kv_vocab){ 0 };
}
