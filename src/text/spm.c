#include "text/spm.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "text/utf8.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

int kv_spm_byte_of(struct kv_str text)
{
    if (text.n_bytes != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') return -1;
    int high = hex_digit(text.data[3]), low = hex_digit(text.data[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static bool is_space_at(const char *s, size_t n)
{
    return n >= 3 && memcmp(s, KV_SPM_SPACE, 3) == 0;
}

/* True when U+2581 follows some other character in the text. */
static bool has_inner_space(struct kv_str text)
{
    for (size_t i = 3; i + 3 <= text.n_bytes; i++)
        if (is_space_at(text.data + i, 3) && !is_space_at(text.data + i - 3, 3)) return true;
    /* A shorter character before it: one or two bytes in. */
    return (text.n_bytes > 3 && is_space_at(text.data + 1, text.n_bytes - 1)) ||
           (text.n_bytes > 4 && is_space_at(text.data + 2, text.n_bytes - 2));
}

void kv_spm_open(struct kv_spm *s, const struct kv_vocab *vocab, int32_t unknown_id)
{
    s->vocab = vocab;
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8], raw = (char)byte;
        snprintf(name, sizeof name, "<0x%02X>", byte);
        int32_t id = kv_vocab_find(vocab, name, 6);
        if (id < 0) id = kv_vocab_find(vocab, &raw, 1);
        s->byte_ids[byte] = id >= 0 ? id : unknown_id;
    }
    s->splits_at_space = true;
    for (int32_t id = 0; id < vocab->n && s->splits_at_space; id++)
        s->splits_at_space = !has_inner_space(kv_vocab_text(vocab, id));
}

static bool spm_lookup(const void *user, const char *word, const struct kv_merge_symbol *left,
                       const struct kv_merge_symbol *right, struct kv_merge_pair *pair)
{
    const struct kv_vocab *v = user;
    pair->id = kv_vocab_find(v, word + left->start, left->n_bytes + right->n_bytes);
    if (pair->id < 0) return false;
    pair->key = -(double)v->scores[pair->id];
    return true;
}

static kvant_status spm_word(const struct kv_spm *s, struct kv_merge *m, const char *word, size_t n,
                             struct kv_token_sink *sink, struct kvant_error *err)
{
    kv_merge_clear(m);
    KV_TRY(kv_merge_reserve(m, n, err));
    for (size_t i = 0; i < n;) {
        size_t n_char = kv_utf8_length(word + i, n - i);
        /* A stray byte is a symbol of its own and falls back to its byte token. */
        if (n_char == 0) n_char = 1;
        kv_merge_add(m, (uint32_t)i, (uint32_t)n_char, kv_vocab_find(s->vocab, word + i, n_char));
        i += n_char;
    }
    kv_merge_run(m, word, spm_lookup, s->vocab);
    for (int32_t i = 0; i >= 0; i = m->symbols[i].next) {
        const struct kv_merge_symbol *symbol = &m->symbols[i];
        if (symbol->id >= 0) {
            kv_token_put(sink, symbol->id);
            continue;
        }
        for (uint32_t j = 0; j < symbol->n_bytes; j++) {
            int32_t id = s->byte_ids[(uint8_t)word[symbol->start + j]];
            if (id >= 0) kv_token_put(sink, id);
        }
    }
    return KVANT_OK;
}

static kvant_status spm_escaped(const struct kv_spm *s, struct kv_merge *m, const char *text, size_t n,
                                struct kv_token_sink *sink, struct kvant_error *err)
{
    if (!s->splits_at_space) return n > 0 ? spm_word(s, m, text, n, sink, err) : KVANT_OK;
    for (size_t i = 0; i < n;) {
        size_t start = i;
        while (is_space_at(text + i, n - i)) i += 3;
        while (i < n && !is_space_at(text + i, n - i)) i++;
        KV_TRY(spm_word(s, m, text + start, i - start, sink, err));
    }
    return KVANT_OK;
}

kvant_status kv_spm_encode(const struct kv_spm *s, struct kv_merge *m, const char *text, size_t n_bytes,
                           bool space_prefix, struct kv_token_sink *sink, struct kvant_error *err)
{
    size_t n = n_bytes + (space_prefix ? 3 : 0);
    for (size_t i = 0; i < n_bytes; i++) n += text[i] == ' ' ? 2 : 0;
    char *escaped = kv_alloc(n, 1);
    if (!escaped)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory to tokenize %zu bytes: split the text", n_bytes);
    char *p = escaped;
    if (space_prefix) {
        memcpy(p, KV_SPM_SPACE, 3);
        p += 3;
    }
    for (size_t i = 0; i < n_bytes; i++) {
        if (text[i] == ' ') {
            memcpy(p, KV_SPM_SPACE, 3);
            p += 3;
        } else {
            *p++ = text[i];
        }
    }
    kvant_status status = spm_escaped(s, m, escaped, n, sink, err);
    kv_free(escaped);
    return status;
}
