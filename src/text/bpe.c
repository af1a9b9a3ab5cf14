#include "text/bpe.h"

#include <string.h>

#include "base/memory.h"
#include "text/byte_map.h"

static uint32_t pair_hash(int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(h >> 32 ^ h >> 15);
}

/* The pair's slot, or the empty slot where it would go. */
static struct kv_bpe_pair *pair_slot(const struct kv_bpe *b, int32_t left, int32_t right)
{
    uint32_t i = pair_hash(left, right) & b->pairs_mask;
    while (b->pairs[i].left >= 0 && (b->pairs[i].left != left || b->pairs[i].right != right))
        i = (i + 1) & b->pairs_mask;
    return &b->pairs[i];
}

static kvant_status merge_part(const struct kv_bpe *b, uint64_t i_merge, const char *text, size_t n_bytes,
                               int32_t *id, struct kvant_error *err)
{
    *id = kv_vocab_find(b->vocab, text, n_bytes);
    if (*id >= 0) return KVANT_OK;
    KV_FAIL(err, KVANT_ERR_FORMAT, -1,
            "tokenizer.ggml.merges[%llu]: \"%.*s\" is no token: convert the model again",
            (unsigned long long)i_merge, (int)(n_bytes < 64 ? n_bytes : 64), text);
}

/* "left right" with one space between; a token may begin with a space in old files, so it is looked for from
 * 1 on. */
static kvant_status read_merge(struct kv_bpe *b, uint64_t i, const struct kv_str *s, char *joined,
                               struct kvant_error *err)
{
    const char *space = s->n_bytes > 2 ? memchr(s->data + 1, ' ', s->n_bytes - 2) : NULL;
    size_t n_left = space ? (size_t)(space - s->data) : 0, n_right = s->n_bytes - n_left - 1;
    if (!space || n_left > b->vocab->n_bytes_max || n_right > b->vocab->n_bytes_max)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "tokenizer.ggml.merges[%llu]: not two tokens with a space between",
                (unsigned long long)i);
    int32_t left, right, merged;
    KV_TRY(merge_part(b, i, s->data, n_left, &left, err));
    KV_TRY(merge_part(b, i, space + 1, n_right, &right, err));
    memcpy(joined, s->data, n_left);
    memcpy(joined + n_left, space + 1, n_right);
    KV_TRY(merge_part(b, i, joined, n_left + n_right, &merged, err));
    struct kv_bpe_pair *slot = pair_slot(b, left, right);
    if (slot->left < 0) *slot = (struct kv_bpe_pair){ left, right, merged, (uint32_t)i };
    return KVANT_OK;
}

static kvant_status read_merges(struct kv_bpe *b, const struct kv_gguf *g, struct kvant_error *err)
{
    struct kv_gguf_array merges;
    bool found = false;
    KV_TRY(kv_gguf_get_array(g, "tokenizer.ggml.merges", KV_GGUF_STRING, &merges, &found, err));
    if (!found)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1,
                "tokenizer.ggml.merges: missing, and a gpt2 tokenizer needs them: convert the model again");
    if (merges.n > 1u << 28)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "tokenizer.ggml.merges: %llu merges, at most 268435456",
                (unsigned long long)merges.n);
    uint32_t n_slots = 16;
    while (n_slots < 2 * merges.n) n_slots *= 2;
    b->pairs_mask = n_slots - 1;
    b->pairs = kv_alloc(n_slots, sizeof *b->pairs);
    char *joined = kv_alloc(2 * (size_t)b->vocab->n_bytes_max, 1);
    if (!b->pairs || !joined) {
        kv_free(joined);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %llu merges", (unsigned long long)merges.n);
    }
    for (uint32_t i = 0; i < n_slots; i++) b->pairs[i].left = -1;
    kvant_status status = KVANT_OK;
    for (uint64_t i = 0; i < merges.n && status == KVANT_OK; i++)
        status = read_merge(b, i, &merges.strings[i], joined, err);
    kv_free(joined);
    return status;
}

kvant_status kv_bpe_open(struct kv_bpe *b, const struct kv_vocab *vocab, const struct kv_split_row *row,
                         const struct kv_gguf *g, struct kvant_error *err)
{
    *b = (struct kv_bpe){ .vocab = vocab, .row = row };
    for (int byte = 0; byte < 256; byte++) {
        char c[2];
        size_t n = kv_byte_to_char((uint8_t)byte, c);
        b->byte_ids[byte] = kv_vocab_find(vocab, c, n);
    }
    kvant_status status = read_merges(b, g, err);
    if (status == KVANT_OK) status = kv_split_open(&b->split, row, err);
    if (status != KVANT_OK) kv_bpe_close(b);
    return status;
}

void kv_bpe_close(struct kv_bpe *b)
{
    kv_split_close(b->split);
    kv_free(b->pairs);
    *b = (struct kv_bpe){ 0 };
}

/* -------------------------------------------------------------------------------------------- encoding -- */

struct bpe_job {
    const struct kv_bpe *bpe;
    struct kv_merge *merge;
    struct kv_token_sink *sink;
};

static bool bpe_lookup(const void *user, const char *word, const struct kv_merge_symbol *left,
                       const struct kv_merge_symbol *right, struct kv_merge_pair *pair)
{
    (void)word;
    if (left->id < 0 || right->id < 0) return false;
    const struct kv_bpe_pair *found = pair_slot(user, left->id, right->id);
    if (found->left < 0) return false;
    pair->key = found->rank;
    pair->id = found->merged;
    return true;
}

/* The token whose text is the whole word in the byte alphabet, or -1. */
static int32_t whole_word(const struct kv_vocab *v, const char *s, size_t n)
{
    char text[256]; /* longer words are no tokens in practice and are merged as usual */
    size_t n_text = 0;
    if (2 * n > sizeof text) return -1;
    for (size_t i = 0; i < n; i++) n_text += kv_byte_to_char((uint8_t)s[i], text + n_text);
    return kv_vocab_find(v, text, n_text);
}

static kvant_status bpe_word(void *user, const char *s, size_t n, struct kvant_error *err)
{
    const struct bpe_job *job = user;
    const struct kv_bpe *b = job->bpe;
    if (b->row->ignore_merges) {
        int32_t id = whole_word(b->vocab, s, n);
        if (id >= 0) {
            kv_token_put(job->sink, id);
            return KVANT_OK;
        }
    }
    struct kv_merge *m = job->merge;
    kv_merge_clear(m);
    KV_TRY(kv_merge_reserve(m, n, err));
    for (size_t i = 0; i < n; i++) kv_merge_add(m, (uint32_t)i, 1, b->byte_ids[(uint8_t)s[i]]);
    kv_merge_run(m, s, bpe_lookup, b);
    for (int32_t i = 0; i >= 0; i = m->symbols[i].next)
        if (m->symbols[i].id >= 0) kv_token_put(job->sink, m->symbols[i].id);
    return KVANT_OK;
}

kvant_status kv_bpe_encode(const struct kv_bpe *b, struct kv_merge *m, const char *text, size_t n_bytes,
                           struct kv_token_sink *sink, struct kvant_error *err)
{
    struct bpe_job job = { b, m, sink };
    return kv_split_run(b->split, text, n_bytes, bpe_word, &job, err);
}
