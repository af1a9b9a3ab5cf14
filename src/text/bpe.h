/*
 * Byte-level BPE ("gpt2"): a word is its bytes, each a token of the byte alphabet, merged by rank.
 *
 *     pairs   open addressing: (left id, right id) -> rank, merged id.
 *             Ids instead of texts: one probe of 16 bytes per candidate pair, no string is built.
 */
#ifndef KV_TEXT_BPE_H
#define KV_TEXT_BPE_H

#include "text/merge.h"
#include "text/split.h"
#include "text/token_sink.h"
#include "text/vocab.h"

struct kv_bpe_pair {
    int32_t left, right; /* left -1: empty slot */
    int32_t merged;
    uint32_t rank;
};

struct kv_bpe {
    const struct kv_vocab *vocab;
    const struct kv_split_row *row;
    struct kv_split *split;
    struct kv_bpe_pair *pairs; /* (pairs_mask + 1)                              */
    uint32_t pairs_mask;
    int32_t byte_ids[256];     /* -1: the vocabulary cannot express this byte   */
};

/* Reads tokenizer.ggml.merges; vocab is borrowed. Errors: FORMAT (a merge that names an unknown token),
 * MEMORY. */
kvant_status kv_bpe_open(struct kv_bpe *b, const struct kv_vocab *vocab, const struct kv_split_row *row,
                         const struct kv_gguf *g, struct kvant_error *err);
void kv_bpe_close(struct kv_bpe *b);

/* Appends the tokens of plain text. m: scratch. Bytes without a token are left out. Errors: MEMORY. */
kvant_status kv_bpe_encode(const struct kv_bpe *b, struct kv_merge *m, const char *text, size_t n_bytes,
                           struct kv_token_sink *sink, struct kvant_error *err);

#endif
