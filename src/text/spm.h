/*
 * SentencePiece ("llama"): spaces become U+2581, characters merge by the score of the token they form, and
 * what forms no token falls back to byte tokens <0x00> ... <0xFF>, or to the unknown token.
 */
#ifndef KV_TEXT_SPM_H
#define KV_TEXT_SPM_H

#include "text/merge.h"
#include "text/token_sink.h"
#include "text/vocab.h"

#define KV_SPM_SPACE "\xe2\x96\x81" /* U+2581 */

struct kv_spm {
    const struct kv_vocab *vocab;
    int32_t byte_ids[256]; /* the unknown token where the vocabulary has no byte token; -1: neither */
    bool splits_at_space;  /* no token has U+2581 after another character: words merge independently */
};

/* vocab is borrowed; unknown_id may be -1. Needs no closing. */
void kv_spm_open(struct kv_spm *s, const struct kv_vocab *vocab, int32_t unknown_id);

/* Appends the tokens of plain text, with a space put before it when `space_prefix`. Errors: MEMORY. */
kvant_status kv_spm_encode(const struct kv_spm *s, struct kv_merge *m, const char *text, size_t n_bytes,
                           bool space_prefix, struct kv_token_sink *sink, struct kvant_error *err);

/* The byte of a byte token's text "<0x0A>", or -1. */
int kv_spm_byte_of(struct kv_str text);

#endif
