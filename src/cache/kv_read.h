/*
 * Reading a cache as a representation: sums over tokens and single rows of one (layer, KV head), from sinks,
 * pages and tail. Between steps only.
 *
 * Sums run over the codes of a page (kernels/sum_calls.h): nothing is unpacked, and what the plan does to
 * rows is undone once per sum, since it is linear:
 *
 *     rotated (h)     Σ x = H Σ Hx
 *     centred (m)     Σ k = Σ (k − R_t μ) + Σ R_t μ
 *     before RoPE     Σ R_{−t} k = R_{−t0} Σ_i R_{−i} k_{t0+i}:  cosines and sines of a page's 64 positions
 *                     are the weights of two sums. Not for rotated keys, whose channels mix: those are
 *                     expanded, a page of one head at a time.
 */
#ifndef KV_CACHE_KV_READ_H
#define KV_CACHE_KV_READ_H

#include "cache/kv_store.h"

enum kv_read_side { KV_READ_KEYS, KV_READ_VALUES };

struct kv_reader { /* constants, of one model; immutable */
    const struct kv_rope *rope;
    float *turn;   /* (2, n_rot / 2, 64): cos and sin of θ_p i */
};
kvant_status kv_reader_open(struct kv_reader *out, const struct kv_rope *rope, struct kvant_error *err);
void kv_reader_close(struct kv_reader *r);

struct kv_read_call {
    const struct kv_reader *reader;
    const struct kv_seq *seq; /* not inside a step, not failed                                              */
    int layer, head_kv;
    enum kv_read_side side;
    bool before_rope;         /* of keys: turned back to position 0                                         */
    int64_t first, last;      /* tokens [first, last) of the sequence                                       */
};
size_t kv_read_scratch_bytes(int head_dim);
/* Their sum. out: (head_dim); scratch: kv_read_scratch_bytes, aligned. Thread-safe for different scratch. */
void kv_read_sum(const struct kv_read_call *call, void *scratch, double *out);
/* The rows themselves, row i at out + i · stride. */
void kv_read_rows(const struct kv_read_call *call, void *scratch, float *out, int64_t stride);

#endif
