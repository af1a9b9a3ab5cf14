/*
 * Pre-tokenizers of byte-level BPE: regular expressions that cut text into the words inside which merging
 * happens. A file names one in tokenizer.ggml.pre; split.c has one row for each family.
 *
 * With several expressions each one works on the pieces that the one before it left, every piece on its own
 * (so that a lookahead ends with the piece). Matches and what lies between them are both pieces: no byte is
 * ever lost.
 */
#ifndef KV_TEXT_SPLIT_H
#define KV_TEXT_SPLIT_H

#include "base/error.h"

#define KV_SPLIT_EXPRESSIONS_MAX 6

struct kv_split_row {
    const char *names;          /* the family's in tokenizer.ggml.pre, separated and enclosed by spaces */
    bool ignore_merges;         /* a whole word that is a token is taken as it is, whatever the merges say */
    bool add_bos;               /* when the file does not say */
    const char *expressions[KV_SPLIT_EXPRESSIONS_MAX];
};

struct kv_split; /* compiled expressions; immutable, any thread */

/* The row of a pre-tokenizer name ("" and NULL: the default one); NULL when this build has none. */
const struct kv_split_row *kv_split_find(const char *name);
int kv_split_row_count(void);
const struct kv_split_row *kv_split_row_at(int i);

/* Errors: MEMORY. */
kvant_status kv_split_open(struct kv_split **out, const struct kv_split_row *row, struct kvant_error *err);
void kv_split_close(struct kv_split *split);

/* Calls word(user, s, n) for each word of the text, in order; stops at the first failure and passes it on.
 * Bytes that are not UTF-8 come as words of their own. Errors: MEMORY (also when an expression exceeds its
 * match limit). */
typedef kvant_status (*kv_split_word)(void *user, const char *s, size_t n, struct kvant_error *err);
kvant_status kv_split_run(const struct kv_split *split, const char *text, size_t n_bytes, kv_split_word word,
                          void *user, struct kvant_error *err);

#endif
