/*
 * Attention of one layer over quantized pages and exact rows, for any set of sequences with different plans.
 */
#ifndef KV_MODEL_ATTENTION_H
#define KV_MODEL_ATTENTION_H

#include "base/threads.h"
#include "cache/kv_store.h"

/* A run of consecutive tokens of one sequence inside a batch. */
struct kv_attn_run {
    struct kv_seq *seq;
    int64_t n_before;        /* tokens in the sequence before this step                                    */
    int64_t row, n;          /* rows [row, row + n) of the batch                                           */
};

struct kv_attn_call {
    const struct kv_attn_run *runs;
    int n_runs, layer;
    int n_head, n_head_kv, head_dim;
    bool in_float;         /* pages in float32, expanded, instead of over their codes: the reference        */
    float scale;           /* 1 / sqrt(head_dim)                                                            */
    const float *q;        /* (n_rows, n_head, head_dim) after RoPE                                         */
    const uint16_t *k, *v; /* f16 (n_rows, n_head_kv, head_dim) of this step, already given to kv_seq_write */
    float *out;            /* (n_rows, n_head, head_dim)                                                    */
};

struct kv_attn_scratch;      /* buffers for a largest call; laid out once */
kvant_status kv_attn_scratch_open(struct kv_attn_scratch **out, int n_threads, int64_t n_rows_max,
                                  int n_runs_max, int n_head, int n_head_kv, int head_dim,
                                  struct kvant_error *err);
void kv_attn_scratch_close(struct kv_attn_scratch *s);
size_t kv_attn_scratch_bytes(int n_threads, int64_t n_rows_max, int n_runs_max, int n_head, int n_head_kv,
                             int head_dim);

/* The result does not depend on the number of threads: the chunks in which a long sequence is split, and the
 * order in which their partial results are merged, follow from positions alone. */
void kv_attention(struct kv_pool *pool, const struct kv_kernels *kernels, const struct kv_attn_call *call,
                  struct kv_attn_scratch *scratch);

#endif
