/*
 * A sequence as a file: docs/format-kvcache.md. What is read may be damaged or made up: every size follows
 * from the plan and the number of tokens, and must be the file's; every section has a checksum.
 */
#ifndef KV_CACHE_KV_FILE_H
#define KV_CACHE_KV_FILE_H

#include "cache/kv_store.h"

/* The whole file in a block of *n_bytes: kv_free. tokens: (n_tokens), exactly those of the sequence.
 * Errors: ARGUMENT (another number of tokens, a sequence inside a step or failed), MEMORY. */
kvant_status kv_file_pack(const struct kv_seq *seq, const char *fingerprint, const kvant_token *tokens,
                          size_t n_tokens, uint8_t **out, size_t *n_bytes, struct kvant_error *err);

struct kv_file_source {
    const uint8_t *data;
    size_t n_bytes;
    const char *fingerprint; /* of the model that the sequence is for */
    int n_vocab;
};

/* Opens a sequence of room n_tokens_max with what the file holds. tokens: capacity cap. Errors: FORMAT
 * (position: the byte), UNSUPPORTED (a version), MISMATCH (of another model or plan), SPACE (cap or
 * n_tokens_max too small; *n_tokens is the number needed), and those of kv_seq_open. On failure *out is
 * NULL. */
kvant_status kv_file_unpack(struct kv_seq **out, struct kv_store *store, const struct kvant_plan *plan,
                            int64_t n_tokens_max, const struct kv_file_source *file, kvant_token *tokens,
                            size_t cap, size_t *n_tokens, struct kvant_error *err);

#endif
