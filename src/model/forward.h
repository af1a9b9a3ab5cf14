/*
 * The forward pass over one batch of rows (tokens) of any sequences. It reads top to bottom; it allocates
 * nothing.
 */
#ifndef KV_MODEL_FORWARD_H
#define KV_MODEL_FORWARD_H

#include "base/memory.h"
#include "model/attention.h"
#include "model/matmul.h"
#include "model/model.h"

/* Scratch of one session, placed by kv_forward_layout. n = n_batch rows. */
struct kv_forward_buffers {
    float *x;                      /* (n, n_embd) residual stream                                    */
    float *normed;                 /* (n, max(n_embd, n_head·head_dim))                              */
    float *q, *k, *v;              /* (n, n_head | n_head_kv | n_head_kv, head_dim)                  */
    float *k_raw;                  /* (n, n_head_kv, head_dim) keys before RoPE, for capture         */
    uint16_t *k16, *v16;           /* (n, n_head_kv, head_dim) what the cache gets                   */
    float *mixed;                  /* (n, n_head, head_dim) attention output                         */
    float *gate, *up;              /* (n, n_ff)                                                      */
    float *cos_t, *sin_t;          /* (n, n_rot / 2)                                                 */
    void *int_memory;              /* activations of the widest product                              */
    void *matmul_scratch;          /* (n_threads, matmul_stride)                                     */
    size_t matmul_stride;
    void *kv_scratch;              /* (n_threads, kv_stride)                                         */
    size_t kv_stride;
    struct kvant_error *run_errors; /* (n_runs_max, n_head_kv)                                       */
};
void kv_forward_layout(struct kv_forward_buffers *b, struct kv_carve *c, const struct kvant_model *m,
                       int n_batch, int n_runs_max, int n_threads);

/* Where a run joins the pass: its rows enter layer `layer` as copies of those of another run of the batch,
 * which has the same tokens at the same positions and the same cache below that layer. */
struct kv_run_entry {
    int layer;  /* 0: at the embedding, of its own tokens                                     */
    int source; /* run to copy from, with an entry below `layer`; not read when layer is 0     */
};

struct kv_forward_call {
    const struct kvant_model *model;
    struct kv_pool *pool;
    struct kv_forward_buffers *buffers;
    struct kv_attn_scratch *attn_scratch;
    const struct kv_attn_run *runs; /* (n_runs): every row belongs to one run, in order               */
    int n_runs, n_rows;
    const struct kv_run_entry *entries; /* (n_runs) ascending in layer; NULL: all at 0                */
    const kvant_token *tokens;      /* (n_rows)                                                       */
    const int *logits_rows;         /* (n_logits) rows whose logits are wanted                        */
    int n_logits;
    float *logits;                  /* (n_logits, n_vocab)                                            */
    /* After RoPE of a layer; or NULL */
    void (*capture)(void *user, int layer, int run, int row, int64_t position);
    void *capture_user;
    /* Rows of the residual stream: layer 0 the embedding, layer i the output of block i - 1; or NULL */
    void (*hidden)(void *user, int layer, int run, int row, int64_t position);
    void *hidden_user;
};
/* Runs the batch. kv_seq_begin was called for each run; commits or, after NUMERIC, fails each sequence: the
 * others are complete. */
kvant_status kv_forward(const struct kv_forward_call *call, struct kvant_error *err);

#endif
