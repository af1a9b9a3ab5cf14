/*
 * Vocabularies of a few tokens as GGUF files in memory, of both kinds, for tests and the fuzz target. Change
 * the lists before opening to make a wrong one.
 */
#ifndef TESTS_SUPPORT_TINY_TOKENIZER_H
#define TESTS_SUPPORT_TINY_TOKENIZER_H

#include "text/tokenizer.h"

#define TINY_TOKENS_MAX 512

struct tiny_tokenizer {
    const char *model, *pre; /* NULL: key left out        */
    const char *tokens[TINY_TOKENS_MAX];
    int32_t types[TINY_TOKENS_MAX];
    float scores[TINY_TOKENS_MAX];
    const char *merges[TINY_TOKENS_MAX];
    size_t n_tokens, n_types, n_scores, n_merges;
    int64_t bos, eos;        /* -1: key left out          */
    int add_bos, add_space;  /* -1: key left out          */
    const char *name;        /* general.name, or NULL     */
    char alphabet[256][3];   /* texts of the byte tokens  */
    char bytes[256][8];
};

/* 256 byte tokens (id = byte), pre-tokenizer gpt-2, no merges. */
void tiny_bpe(struct tiny_tokenizer *v);
/* <unk>, <s>, </s>, <0x00> ... <0xFF> (id = byte + 3). */
void tiny_spm(struct tiny_tokenizer *v);
/* Appends a token, gives its id. */
int32_t tiny_token(struct tiny_tokenizer *v, const char *text, int32_t type, float score);
/* Appends the merge "left right" and, where it is new, the token that it makes (`merged`). */
void tiny_merge(struct tiny_tokenizer *v, const char *merge, const char *merged);

/* Through a GGUF in memory. */
kvant_status tiny_tokenizer_open(struct kv_tokenizer **out, const struct tiny_tokenizer *v,
                                 struct kvant_error *err);

#endif
