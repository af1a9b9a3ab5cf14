/*
 * Greedy pair merging, which BPE and SPM share: of all neighbouring pairs that form a token the best is
 * merged (the lowest key, the leftmost among equals) until none is left. BPE's key is the merge's rank, SPM's
 * the negated score.
 *
 *     symbols   a linked list over one array: |h|e|l|l|o|  ->  |he|.|ll|.|o|  ->  |he|.|llo|.|.|
 *     queue     binary heap of candidate pairs; a pair is stale when its symbols no longer span what they did
 *
 * n symbols cost O(n log n), however long the word. The rejected alternative, rescanning for the best pair,
 * is as fast on words of a few letters and quadratic on a megabyte without spaces.
 *
 * A kv_merge is scratch memory of one call: zero it, add symbols, run, read, clear, and free it at the end.
 */
#ifndef KV_TEXT_MERGE_H
#define KV_TEXT_MERGE_H

#include "base/error.h"

struct kv_merge_symbol {
    uint32_t start, n_bytes; /* in the word; n_bytes 0: merged into a symbol to its left */
    int32_t id;              /* token, or -1: not in the vocabulary                      */
    int32_t prev, next;      /* -1 at the ends                                           */
};

struct kv_merge_pair {
    double key;        /* lower is merged first; ranks below 2^53 and float scores are exact */
    int32_t left, right;
    uint32_t n_bytes;  /* of both when the pair was found: tells a stale one                 */
    int32_t id;        /* the merged token                                                   */
};

struct kv_merge {
    struct kv_merge_symbol *symbols;
    struct kv_merge_pair *queue;
    size_t n_symbols, n_queue, symbols_cap;
};

/* Fills key and id when `left` and `right`, neighbours in `word`, form a token. */
typedef bool (*kv_merge_lookup)(const void *user, const char *word, const struct kv_merge_symbol *left,
                                const struct kv_merge_symbol *right, struct kv_merge_pair *pair);

/* Room for n symbols in all, and for every pair that merging them can queue. Errors: MEMORY. */
kvant_status kv_merge_reserve(struct kv_merge *m, size_t n, struct kvant_error *err);
/* Appends a symbol; room must have been reserved. */
void kv_merge_add(struct kv_merge *m, uint32_t start, uint32_t n_bytes, int32_t id);
/* Merges all symbols added since clear. The result is the list from symbol 0 along `next`. */
void kv_merge_run(struct kv_merge *m, const char *word, kv_merge_lookup lookup, const void *user);
void kv_merge_clear(struct kv_merge *m);
void kv_merge_free(struct kv_merge *m);

#endif
