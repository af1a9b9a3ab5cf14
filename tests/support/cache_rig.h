/*
 * A cache without a model: plans from recipe texts with made-up centres and channel classes, and rows that
 * follow from (salt, layer, head, position) alone.
 */
#ifndef CACHE_RIG_H
#define CACHE_RIG_H

#include "cache/kv_store.h"

struct cache_rig {
    struct kv_kernels kernels; /* plain C */
    struct kv_rope rope;
    float inv_freq[KV_HEAD_DIM_MAX / 2];
    struct kvant_plan *plan;
};

/* recipes: one, or several joined by commas that are given to the (layer, head)s in turn. Aborts on a bad
 * recipe. */
void rig_open(struct cache_rig *rig, const char *recipes, int n_layer, int n_head_kv, int head_dim, int sinks,
              int tail);
void rig_close(struct cache_rig *rig);

/* One row (head_dim) of f16; side 0 = key, 1 = value. */
void rig_row(const struct cache_rig *rig, int salt, int layer, int head_kv, int side, int64_t position,
             uint16_t *row);

/* A whole step of n tokens, as a session does it. Stops at the first error; NUMERIC marks the sequence as
 * failed. */
kvant_status rig_append(const struct cache_rig *rig, struct kv_seq *seq, int salt, int64_t n,
                        struct kvant_error *err);

/* Pseudo-random in [-1, 1). */
float rig_noise(uint64_t *state);

#endif
