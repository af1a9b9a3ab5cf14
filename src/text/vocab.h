/*
 * A vocabulary: the texts, types and scores of tokens, found by text, and found in running text where they
 * are special. Immutable after open. Texts lie end to end in one buffer:
 *
 *     texts    |!|"|#| ... |<|endoftext|>|      offsets[id] .. offsets[id + 1]
 *     index    open addressing, id + 1 or 0     first id of a text; an empty text is not found
 *     special  distinct (first byte, length) of special tokens, longest first: what to try at a place
 */
#ifndef KV_TEXT_VOCAB_H
#define KV_TEXT_VOCAB_H

#include "format/gguf.h"

/* As tokenizer.ggml.token_type has them. */
enum kv_token_type {
    KV_TOKEN_UNDEFINED,
    KV_TOKEN_NORMAL,
    KV_TOKEN_UNKNOWN,
    KV_TOKEN_CONTROL,
    KV_TOKEN_USER_DEFINED,
    KV_TOKEN_UNUSED,
    KV_TOKEN_BYTE,
    KV_TOKEN_TYPE_COUNT
};

struct kv_special_length {
    uint32_t n_bytes;
    bool user_defined; /* some token of this first byte and length is user-defined */
};

struct kv_vocab {
    int32_t n;
    char *texts;
    uint32_t *offsets;     /* (n + 1)                                             */
    uint8_t *types;        /* (n), enum kv_token_type                             */
    bool *is_end;          /* (n), ends an answer: by its text; the tokenizer adds eos, eot and eom */
    float *scores;         /* (n), 0 where the file has none                      */
    uint32_t *index;       /* (index_mask + 1)                                    */
    uint32_t index_mask;
    uint32_t n_bytes_max;  /* of the longest text                                 */
    struct kv_special_length *special;
    uint32_t special_first[257]; /* special[special_first[b] .. special_first[b + 1]) begin with byte b */
};

/* Reads tokenizer.ggml.tokens, .token_type and .scores. Errors: FORMAT, MEMORY. On failure nothing is left to
 * close. */
kvant_status kv_vocab_open(struct kv_vocab *v, const struct kv_gguf *g, struct kvant_error *err);
void kv_vocab_close(struct kv_vocab *v);

struct kv_str kv_vocab_text(const struct kv_vocab *v, int32_t id);
/* The lowest id with this text, or -1. */
int32_t kv_vocab_find(const struct kv_vocab *v, const char *text, size_t n_bytes);

/* The leftmost special token at or after `from`, the longest there: its id, and its place in *start; -1 when
 * there is none. User-defined tokens count always; control and unknown tokens when `control`. */
int32_t kv_vocab_find_special(const struct kv_vocab *v, const char *text, size_t n_bytes, size_t from,
                              bool control, size_t *start);

#endif
