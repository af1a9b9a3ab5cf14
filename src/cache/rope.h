/*
 * Rotary position embedding, as the cache needs it: keys are stored after RoPE, key centres are defined
 * before it.
 */
#ifndef KV_CACHE_ROPE_H
#define KV_CACHE_ROPE_H

#include "base/error.h"

struct kv_rope {
    int head_dim, n_rot;        /* channels 0 .. n_rot-1 turn                                 */
    bool neox;                  /* channel c pairs with c + n_rot/2; otherwise 2i with 2i+1   */
    const float *inv_freq;      /* (n_rot / 2), scaling (linear, llama-3) folded in; borrowed */
};

/* Pair p is the channels near · p and near · p + far. */
static inline int kv_rope_near(const struct kv_rope *r)
{
    return r->neox ? 1 : 2;
}
static inline int kv_rope_far(const struct kv_rope *r)
{
    return r->neox ? r->n_rot / 2 : 1;
}

/* cos and sin of position · inv_freq, each (n_rot / 2), computed in double. */
void kv_rope_angles(const struct kv_rope *r, int64_t position, float *cos_out, float *sin_out);
/* Turns n_heads rows of head_dim in place. */
void kv_rope_apply(const struct kv_rope *r, const float *cos_t, const float *sin_t,
                   float *x /* (n_heads, head_dim) */, int n_heads);

#endif
