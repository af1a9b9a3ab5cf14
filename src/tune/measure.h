/*
 * Measuring plans on a text, many at a time: every number that the tuner reads from a forward pass comes
 * through here.
 */
#ifndef KV_TUNE_MEASURE_H
#define KV_TUNE_MEASURE_H

#include "model/model.h"

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
    int64_t n_measured;                 /* plans so far                          */
};

/* Plans that share a pass over the weights, beside the 16-bit cache. */
#define KV_MEASURE_BATCH 15

/* results: (n), of the plans in order. Plans that begin with the same layers cost less side by side. */
kvant_status kv_measure_plans(struct kv_measure *m, struct kvant_plan *const *plans, int n,
                              struct kvant_eval_result *results, struct kvant_error *err);

/* Tokens of progress that measuring n plans counts for. */
int64_t kv_measure_tokens(const struct kv_measure *m, int n);

#endif
