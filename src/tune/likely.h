/*
 * The output head over likely tokens alone. Plans that are probed beside a 16-bit cache differ from it by
 * little, so nearly all of their KL divergence lies in the tokens that the cache finds likely: in the median
 * 383 of 152,000 (Qwen2.5-Coder-0.5B, own text) or 2865 of 49,000 (SmolLM2). So such a plan need not
 * multiply the largest matrix of a small model.
 */
#ifndef KV_TUNE_LIKELY_H
#define KV_TUNE_LIKELY_H

#include "model/model.h"

/* Logits of several rows for the likely tokens of one position; one per thread. */
struct kv_likely {
    int n;         /* tokens                                  */
    int next;      /* place in the list of the text's next one */
    int *token;    /* (n) ascending                           */
    float *logits; /* (n_rows, n)                             */
    void *scratch;
};
#define KV_LIKELY_MAX 16384

kvant_status kv_likely_open(struct kv_likely *l, const struct kvant_model *model, int n_rows,
                            struct kvant_error *err);
void kv_likely_close(struct kv_likely *l);

/* The likely tokens of logits (n_vocab), `next` among them (it alone when the logits are not finite); then
 * their logits in each of the n_rows rows of x (n_rows, n_embd), which are normed. Of more than
 * KV_LIKELY_MAX the likeliest are taken: those above the least power of two times the usual bound that leaves
 * few enough. */
void kv_likely_set(struct kv_likely *l, const struct kvant_model *model, const float *logits,
                   kvant_token next, const float *x, int n_rows);

#endif
