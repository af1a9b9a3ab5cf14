/*
 * Sequences and their memory: sinks, pages from a pool per plan, exact tail. Owns nothing of the model.
 *
 *   kv_store_open ─ kv_seq_open ─ [ kv_seq_begin ─ per layer: write, attention ─ kv_seq_commit ]* ─ close
 *
 * Memory is taken when a sequence is opened or forked (pages for its longest length; untouched pages cost
 * nothing) and never between begin and commit.
 */
#ifndef KV_CACHE_KV_STORE_H
#define KV_CACHE_KV_STORE_H

#include "cache/kv_codec.h"

struct kv_store;
struct kv_seq;

kvant_status kv_store_open(struct kv_store **out, const struct kv_kernels *kernels,
                           const struct kv_rope *rope, struct kvant_error *err);
void kv_store_close(struct kv_store *store);

/* plan is borrowed until the last of its sequences is closed. ARGUMENT when the plan needs calibration,
 * MEMORY with the bytes. */
kvant_status kv_seq_open(struct kv_seq **out, struct kv_store *store, const struct kvant_plan *plan,
                         int64_t n_tokens_max, struct kvant_error *err);
void kv_seq_close(struct kv_seq *seq);
kvant_status kv_seq_fork(struct kv_seq **out, struct kv_seq *seq, struct kvant_error *err);
kvant_status kv_seq_truncate(struct kv_seq *seq, int64_t n_tokens, struct kvant_error *err);
void kv_seq_get_stats(const struct kv_seq *seq, struct kvant_sequence_stats *out);

const struct kv_codec *kv_seq_codec(const struct kv_seq *seq);
const struct kvant_plan *kv_seq_plan(const struct kv_seq *seq);
int64_t kv_seq_n_tokens(const struct kv_seq *seq);
int64_t kv_seq_n_tokens_max(const struct kv_seq *seq);

/* Makes room for n more tokens: takes the pages that they will seal into (a shared, partly sealed page is
 * copied). FULL. */
kvant_status kv_seq_begin(struct kv_seq *seq, int64_t n, struct kvant_error *err);

/* Gives layer `layer`, KV head `head_kv` its n new rows (as begin's n), f16 after RoPE, row i at k +
 * i·row_stride: seals what becomes sealed once all n are appended. The rows are needed until
 * kv_seq_commit_head. Thread-safe for different (layer, head). scratch: kv_seq_scratch_bytes. NUMERIC. */
kvant_status kv_seq_write(struct kv_seq *seq, int layer, int head_kv, const uint16_t *k, const uint16_t *v,
                          int64_t row_stride, void *scratch, struct kvant_error *err);
size_t kv_seq_scratch_bytes(int head_dim);

/* What a query of the current step reads: valid between kv_seq_write and kv_seq_commit_head of that layer and
 * head. Exact rows are in three segments; the query of the n-th token reads pages for [sinks, sinks +
 * kv_sealed_tokens(n)) and exact rows for the rest up to its own. */
struct kv_exact_segment {
    const uint16_t *k, *v;   /* f16 rows, head_dim each                             */
    int64_t row_stride;      /* in elements                                         */
    int64_t position, n;     /* tokens [position, position + n)                     */
};
struct kv_seq_view {
    struct kv_exact_segment exact[3]; /* sinks, tail, this step's rows; n may be 0   */
    const struct kv_page *pages;      /* page i holds tokens [sinks + 64 i, ...)     */
    const float *page_angles;         /* (n pages, 2, head_dim / 2) for kv_codec_expand_keys_turned; NULL: no
                                       * centres */
    int64_t n_pages_sealed_tokens;    /* tokens sealed in pages, this step included  */
};
void kv_seq_get_view(const struct kv_seq *seq, int layer, int head_kv, const uint16_t *k, const uint16_t *v,
                     int64_t row_stride, struct kv_seq_view *out);

/* After the layer's attention: moves the step's rows that stay exact into sinks and tail. */
void kv_seq_commit_head(struct kv_seq *seq, int layer, int head_kv, const uint16_t *k, const uint16_t *v,
                        int64_t row_stride);
/* After the last layer: the sequence is n tokens longer. Without it (a failed step) the sequence is unusable:
 * kv_seq_fail. */
void kv_seq_commit(struct kv_seq *seq);
void kv_seq_fail(struct kv_seq *seq);
bool kv_seq_failed(const struct kv_seq *seq);

#endif
