/*
 * Measuring plans on a text or with questions, many at a time: every number that a search reads comes through
 * here, and is written to the trial store or answered from it. With several processes each measures its part.
 */
#ifndef KV_TUNE_MEASURE_H
#define KV_TUNE_MEASURE_H

#include "base/hash.h"
#include "model/model.h"
#include "tune/ranks.h"
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
    bool of_likely;                     /* KLDs over likely tokens (tune/eval.h) */
    struct kv_tune_progress *progress;
    struct kv_trials *trials;             /* with several processes: the first one's counts */
    struct kv_ranks ranks;
    const struct kvant_question *questions; /* (n_questions): accuracy instead of a KLD     */
    size_t n_questions;
    const struct kvant_accuracy_options *asking;
    char objective[KV_HASH_TEXT_CAP + 80]; /* in the store: names the text        */
    int64_t n_measured, n_known;        /* plans so far; known: from the store   */
};

/* Everything is borrowed. `ranks` and questions are zero. */
void kv_measure_set(struct kv_measure *m, const struct kvant_model *model, const kvant_token *tokens,
                    size_t n_tokens, int64_t n_ctx, bool of_likely, struct kv_trials *trials,
                    struct kv_tune_progress *progress);

/* From now on: the accuracy with these questions. It is same_top_p of a result, with n_scored questions; the
 * KLDs are NaN. */
kvant_status kv_measure_set_questions(struct kv_measure *m, const struct kvant_question *questions,
                                      size_t n_questions, const struct kvant_accuracy_options *asking,
                                      struct kvant_error *err);

/* What a KLD depends on beside the plan, the text and the model, for struct kv_study. */
#define KV_MEASURE_CONDITIONS_CAP 96
void kv_measure_conditions(const struct kvant_model *model, char text[KV_MEASURE_CONDITIONS_CAP]);

/* Plans that share a pass over the weights, beside the 16-bit cache. */
#define KV_MEASURE_BATCH 15

/* results: (n), of the plans in order. Plans that begin with the same layers cost less side by side. */
kvant_status kv_measure_plans(struct kv_measure *m, struct kvant_plan *const *plans, int n,
                              struct kvant_eval_result *results, struct kvant_error *err);

/* The same of plans that are made for it, few at a time: make(user, i, ...) opens plan i of n. */
typedef kvant_status (*kv_measure_make_fn)(void *user, int i, struct kvant_plan **out,
                                           struct kvant_error *err);
kvant_status kv_measure_made(struct kv_measure *m, kv_measure_make_fn make, void *user, int n,
                             struct kvant_eval_result *results, struct kvant_error *err);

/* Tokens of progress that measuring n plans counts for. */
int64_t kv_measure_tokens(const struct kv_measure *m, int n);

#endif
