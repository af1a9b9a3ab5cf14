/*
 * What tuner and readers may ask of a session beyond the public interface.
 */
#ifndef KV_RUN_SESSION_H
#define KV_RUN_SESSION_H

#include "base/error.h"
#include "base/threads.h"
#include "cache/kv_read.h"

/* Called for every (layer, token) of a step, in order, from the calling thread. Shapes: q (n_head, head_dim)
 * and k (n_head_kv, head_dim) after RoPE, unscaled; k_raw (n_head_kv, head_dim) before RoPE (after bias and
 * norm); v (n_head_kv, head_dim). Valid during the call. */
struct kv_capture {
    void (*fn)(void *user, int layer, int seq, int64_t position, const float *q, const float *k_raw,
               const float *k, const float *v);
    void *user;
};
/* NULL: off. */
void kv_session_set_capture(struct kvant_session *session, const struct kv_capture *capture);

/* Called for every token of a step with its row of the residual stream, x (n_embd), before any norm: layer 0
 * is the embedding, layer i the output of block i - 1. In order of layers, from the calling thread; valid
 * during the call. */
struct kv_hidden_capture {
    void (*fn)(void *user, int layer, int seq, int64_t position, const float *x);
    void *user;
};
/* NULL: off. */
void kv_session_set_hidden(struct kvant_session *session, const struct kv_hidden_capture *capture);

/* For readers of the cache, between steps. */
const struct kvant_model *kv_session_model(const struct kvant_session *session);
struct kv_pool *kv_session_pool(const struct kvant_session *session);
const struct kv_reader *kv_session_reader(const struct kvant_session *session);
int kv_session_n_batch(const struct kvant_session *session);
int kv_session_n_logits(const struct kvant_session *session);
int kv_session_n_sequences(const struct kvant_session *session); /* slots */
int kv_session_n_free(const struct kvant_session *session);      /* of them, without a sequence */
/* ARGUMENT when there is no such sequence, or one that failed. */
kvant_status kv_session_sequence(const struct kvant_session *session, int seq, struct kv_seq **out,
                                 struct kvant_error *err);

/* Sequences that share the plan of their first layers, and all tokens, share the work of those layers too:
 * `seq` takes part from first_layer on and starts there from the rows of `source` (whose own first layer must
 * be below). Both must be in every step from the first on, with the same tokens, and a step must fit n_batch.
 * The result is the same bit by bit, as no row's result depends on its batch. The layers below hold nothing
 * in this cache. first_layer 0: off. */
void kv_session_set_entry(struct kvant_session *session, int seq, int first_layer, int source);

/* True after a step ended with NUMERIC because of this sequence. The other sequences of that step are
 * complete up to the forward pass that failed, that pass included, and its logits can be read. */
bool kv_session_sequence_failed(const struct kvant_session *session, int seq);

#endif
