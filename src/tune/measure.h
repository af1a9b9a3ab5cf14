/*
 * Measuring plans on a text, many at a time: every KLD that the tuner reads comes through here, and is written
 * to the trial store or answered from it.
 */
#ifndef KV_TUNE_MEASURE_H
#define KV_TUNE_MEASURE_H

#include "base/hash.h"
#include "model/model.h"
#include "tune/store.h"

/* Progress of a long call that consists of several: units are forward tokens. */
struct kv_tune_progress {
    kvant_progress_fn fn; /* or NULL */
    void *user;
    int64_t done, total;  /* done: before the current part */
    int64_t scale;        /* units per step of the current part */
    const char *what;     /* NULL: what the part itself says    */
};
/* A kvant_progress_fn over struct kv_tune_progress. */
bool kv_tune_progress_step(void *progress, const char *what, int64_t done, int64_t total);

struct kv_measure {
    const struct kvant_model *model;    /* with the arithmetic to be used        */
    const kvant_token *tokens;          /* (n_tokens)                            */
    size_t n_tokens;
    int64_t n_ctx;                      /* tokens per chunk                      */
    struct kv_tune_progress *progress;
    struct kv_trials *trials;
    char objective[KV_HASH_TEXT_CAP + 64]; /* in the store: names the text        */
    int64_t n_measured, n_known;        /* plans so far; known: from the store   */
};

/* Everything is borrowed. */
void kv_measure_set(struct kv_measure *m, const struct kvant_model *model, const kvant_token *tokens,
                    size_t n_tokens, int64_t n_ctx, struct kv_trials *trials, struct kv_tune_progress *progress);

/* What a KLD depends on beside the plan, the text and the model, for struct kv_study. */
#define KV_MEASURE_CONDITIONS_CAP 96
void kv_measure_conditions(const struct kvant_model *model, char text[KV_MEASURE_CONDITIONS_CAP]);

/* Plans that share a pass over the weights, beside the 16-bit cache. */
#define KV_MEASURE_BATCH 15

/* results: (n), of the plans in order. Plans that begin with the same layers cost less side by side. */
kvant_status kv_measure_plans(struct kv_measure *m, struct kvant_plan *const *plans, int n,
                              struct kvant_eval_result *results, struct kvant_error *err);

/* Tokens of progress that measuring n plans counts for. */
int64_t kv_measure_tokens(const struct kv_measure *m, int n);

#endif
