/*
 * Tokenizers: byte-level BPE (pre-tokenizer regexes through PCRE2) and SentencePiece (SPM) with byte
 * fallback. Immutable after open; any number of threads may use one (match data is per call).
 */
#ifndef KV_TEXT_TOKENIZER_H
#define KV_TEXT_TOKENIZER_H

#include "format/gguf.h"

struct kv_tokenizer;

/* Reads the tokenizer.ggml.* keys. Copies what it needs: the gguf may be closed afterwards. Errors: FORMAT
 * (no tokens, bad ids, merges that name unknown tokens...), UNSUPPORTED (model or pre-tokenizer named),
 * MEMORY. */
kvant_status kv_tokenizer_open(struct kv_tokenizer **out, const struct kv_gguf *g, struct kvant_error *err);
void kv_tokenizer_close(struct kv_tokenizer *t);

/* flags: KVANT_TOKENIZE_*. As kvant_tokenize. */
kvant_status kv_tokenizer_encode(const struct kv_tokenizer *t, const char *text, size_t n_bytes, int flags,
                                 kvant_token *ids, size_t cap, size_t *n_out, struct kvant_error *err);
/* As kvant_detokenize. Decoding is per token, so that a stream can be decoded piece by piece: decode(a b) is
 * decode(a) decode(b). One exception: when ids begin with BOS, the space that an SPM tokenizer put before the
 * first word is taken off again. */
kvant_status kv_tokenizer_decode(const struct kv_tokenizer *t, const kvant_token *ids, size_t n_ids,
                                 bool special, char *text, size_t cap, size_t *n_out,
                                 struct kvant_error *err);

int kv_tokenizer_n_vocab(const struct kv_tokenizer *t);
const char *kv_tokenizer_model_name(const struct kv_tokenizer *t); /* "gpt2", "llama"               */
const char *kv_tokenizer_pre_name(const struct kv_tokenizer *t);   /* tokenizer.ggml.pre, or ""     */
bool kv_tokenizer_is_end(const struct kv_tokenizer *t, kvant_token id);
bool kv_tokenizer_is_control(const struct kv_tokenizer *t, kvant_token id);
/* -1 when the file names none */
kvant_token kv_tokenizer_bos(const struct kv_tokenizer *t);
kvant_token kv_tokenizer_eos(const struct kv_tokenizer *t);
/* The first control token that parsing the text as special could find, or -1. Unknown tokens (<unk>) don't
 * count. */
kvant_token kv_tokenizer_find_control(const struct kv_tokenizer *t, const char *text, size_t n_bytes);
/* The text of a token as the vocabulary has it; id must be valid. Borrowed. */
struct kv_str kv_tokenizer_text(const struct kv_tokenizer *t, kvant_token id);
/* The id of a token by its exact text in the vocabulary (control tokens too), or -1. */
kvant_token kv_tokenizer_find(const struct kv_tokenizer *t, const char *text, size_t n_bytes);

#endif
