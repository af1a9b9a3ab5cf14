/*
 * An opened model: the mapped file, its tokenizer, dimensions, tensors by role. Immutable after open.
 *
 *   struct kvant_model ── gguf (owns the map) ── tensors point into it
 *                      ├─ tokenizer
 *                      ├─ layers[n_layer]: matrices as tensors,
 *                      │                   vectors (norms, biases) as float32 in `vectors`
 *                      └─ rope.inv_freq
 */
#ifndef KV_MODEL_MODEL_H
#define KV_MODEL_MODEL_H

#include "base/hash.h"
#include "cache/plan.h"
#include "cache/rope.h"
#include "model/arch.h"
#include "model/repack.h"
#include "text/chat.h"

/* Shapes are (n_rows, n_columns); every vector may be NULL where the architecture has none. */
struct kv_layer {
    const struct kv_gguf_tensor *wq, *wk, *wv;      /* (n_head·head_dim | n_head_kv·head_dim, n_embd) */
    const struct kv_gguf_tensor *wo;                /* (n_embd, n_head·head_dim)                      */
    const struct kv_gguf_tensor *gate, *up;         /* (n_ff, n_embd)                                 */
    const struct kv_gguf_tensor *down;              /* (n_embd, n_ff)                                 */
    const float *attn_norm, *ffn_norm;              /* (n_embd)                                       */
    const float *bq, *bk, *bv, *bo;                 /* biases of the products above                   */
    const float *b_gate, *b_up, *b_down;
    const float *q_norm, *k_norm;                   /* (head_dim)                                     */
};

struct kv_weight_share { /* one weight type in this file */
    const struct kv_weight_type *type;
    int64_t n_tensors;
    size_t n_bytes;
};

struct kvant_model {
    struct kv_gguf *gguf;
    struct kv_tokenizer *tokenizer;
    struct kv_kernels kernels;
    struct kv_hparams hp;
    struct kv_rope rope;
    float *inv_freq;                                /* (n_rot / 2), owned                             */
    struct kv_layer *layers;                        /* (n_layer); NULL when vocab_only                */
    const struct kv_gguf_tensor *token_embd;        /* (n_vocab, n_embd)                              */
    const struct kv_gguf_tensor *output;            /* (n_vocab, n_embd); token_embd when tied        */
    const float *output_norm;                       /* (n_embd)                                       */
    struct kv_repacked repacked;                    /* matrices as the kernels read them fastest, owned */
    float *vectors;                                 /* all norms and biases, owned                    */
    float key_bias_median;                          /* over layers, of the largest |bias|             */
    int n_vocab, n_threads;
    int n_threads_batch;                            /* of steps with more than one token              */
    kvant_act act;
    kvant_attn attn;
    bool vocab_only, no_repack;
    const char *chat_format;                        /* static                                         */
    struct kvant_template *chat;                    /* NULL: chat_error says why                      */
    struct kvant_error chat_error;
    char *name;                                     /* general.name or ""                             */
    char fingerprint[KV_HASH_TEXT_CAP];
    struct kv_weight_share *shares;                 /* (n_shares), by first appearance                */
    int n_shares;
};

struct kv_plan_dims kv_model_plan_dims(const struct kvant_model *model);

#endif
