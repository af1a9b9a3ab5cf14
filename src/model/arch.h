/*
 * Architectures as descriptor rows: what the forward pass needs to know, so that it has no branch per model
 * family.
 */
#ifndef KV_MODEL_ARCH_H
#define KV_MODEL_ARCH_H

#include "format/gguf.h"

struct kv_arch {
    const char *name;     /* general.architecture */
    bool rope_neox;       /* channel c pairs with c + n_rot/2 (Hugging Face order);
                           * otherwise 2i with 2i+1: the converter permuted the rows of wq and wk */
    bool qkv_bias;        /* attn_{q,k,v}.bias must be there; where false they may be */
    bool qk_norm;         /* RMS norm of each query and key head before RoPE (qwen3)  */
};

/* NULL for an architecture that this build does not know. */
const struct kv_arch *kv_arch_find(const char *name, size_t n_bytes);
/* "llama, mistral, ..." for messages. */
const char *kv_arch_list(void);

/* Dimensions and constants of a model, read from the metadata and checked against each other. */
struct kv_hparams {
    const struct kv_arch *arch;
    int n_layer, n_head, n_head_kv, head_dim, n_embd, n_ff, n_ctx_train, n_rot;
    float norm_eps, rope_freq_base, rope_scale; /* rope_scale: linear scaling factor, 1 = none */
};
/* Errors: FORMAT (missing or impossible keys), UNSUPPORTED (architecture, RoPE scaling, experts; named). */
kvant_status kv_hparams_read(struct kv_hparams *out, const struct kv_gguf *g, struct kvant_error *err);

#endif
