/*
 * Prompts with the model's greedy answers: what sensitivities are measured on.
 */
#ifndef KV_TUNE_ERRORS_ANSWERS_H
#define KV_TUNE_ERRORS_ANSWERS_H

#include "model/model.h"
#include "tune/sensitivity.h"

/* One prompt and its answer: tokens [0, n_prompt) and [n_prompt, n_tokens). */
struct kv_answered {
    kvant_token *tokens; /* (n_prompt + n_predict) */
    int64_t n_prompt, n_tokens;
};

struct kv_answers {
    struct kv_answered *items; /* (n) */
    int n;
};

/* Answers with the 16-bit cache, at most n_predict tokens each; a token that ends the answer is not part of
 * it. Steps several prompts together, as many as `cache_bytes` of 16-bit caches hold, at least one. Progress:
 * one unit per token of prompt and n_predict. Errors: ARGUMENT (a token outside the vocabulary), those of a
 * session, CANCELLED, MEMORY. */
kvant_status kv_answers_open(struct kv_answers *out, const struct kvant_model *model,
                             const struct kvant_prompt *prompts, int n, int n_predict, size_t cache_bytes,
                             struct kv_tune_progress *progress, struct kvant_error *err);
void kv_answers_close(struct kv_answers *a);

/* Tells how far a long call is; false: it shall stop. */
bool kv_tune_progress_advance(struct kv_tune_progress *progress, const char *what, int64_t n);

#endif
