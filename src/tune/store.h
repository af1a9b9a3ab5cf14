/*
 * The trial store: what the tuner has measured, in one SQLite file (docs/format-trials.md).
 *
 * A search is a function of its settings and of what it measures. So a search is resumed by running it again
 * and answering its measurements from the store: kill -9 costs the batch that was being measured, and the
 * front is the same.
 *
 *   file ── one model
 *     ├── study      conditions: all else that a measurement depends on (text, arithmetic, ...)
 *     │     ├── trial    (objective, plan) -> struct kvant_eval_result
 *     │     └── vector   (kind, key)       -> any other numbers
 *     └── run        what was asked for, when, and how it ended: for people, never read back
 *
 * One run uses a store at a time; another one is refused (the lock ends with the process, however it ends).
 * Rows are written by batches: after kv_trials_add a batch is on the disk as a whole, before it is not there.
 * A store that is damaged in any place is refused when it is opened, and left as it is. One thread at a time;
 * not to be used across fork().
 */
#ifndef KV_TUNE_STORE_H
#define KV_TUNE_STORE_H

#include "base/error.h"

struct kv_trials;

#define KV_TRIALS_TEXT_MAX   (1 << 20) /* bytes of a plan, an objective, a kind, a key, a study's texts */
#define KV_TRIALS_VALUES_MAX (1 << 20) /* doubles of a vector                                         */

/* Texts of at least 1 and at most KV_TRIALS_TEXT_MAX bytes. `conditions` is everything else that changes a
 * measured number, in one canonical text: hashes of the tokens, arithmetic, version of the measuring code.
 * What the search makes of the numbers does not belong there: with other budgets or another method, what was
 * measured is used again. */
struct kv_study {
    const char *model;      /* fingerprint                                       */
    const char *conditions; /* see above                                         */
    const char *settings;   /* of the search; recorded with the run, not compared */
    const char *tool;       /* "kvant 0.1.0"; recorded                           */
};

/* Opens the store and begins a run in it. path: created when there is no such file or an empty one; NULL = a
 * private store in memory, which is gone after close. A store that holds measurements is continued only with
 * `resume`, so that a wrong name does no harm. study: texts are copied.
 * Errors: ARGUMENT (measurements, but no resume; texts of the study), MISMATCH (measurements of another
 * model), FORMAT (damaged, no SQLite file, or another application's), UNSUPPORTED (a newer format), IO
 * (another process uses it; read-only; disk full; no regular file). None of them changes the file, but for
 * undoing the half-written batch of a run that was killed. */
kvant_status kv_trials_open(struct kv_trials **out, const char *path, const struct kv_study *study,
                            bool resume, struct kvant_error *err);
/* Records how the run ended: "done", "cancelled", "failed". A run that is closed or dies without it is marked
 * "interrupted" when the store is next opened. Errors: IO. */
kvant_status kv_trials_finish(struct kv_trials *t, const char *outcome, struct kvant_error *err);
void kv_trials_close(struct kv_trials *t);

/* Measurements of this study: for a message about what is being resumed. Errors: IO, FORMAT. */
kvant_status kv_trials_count(struct kv_trials *t, int64_t *n_trials, int64_t *n_vectors,
                             struct kvant_error *err);

/* -- plans measured as a whole -- */

struct kv_trial {
    const char *plan;      /* canonical text, with a hash of the plan's tables                      */
    const char *objective; /* what was measured: "kld", "accuracy", ...                             */
    struct kvant_eval_result result; /* none below 0 (NaN and infinity are kept), same_top_p at most 100 */
    uint64_t seed;    /* of the search                                                         */
    double seconds;   /* that the measurement took; finite, not negative                       */
    int64_t time_s;   /* since 1970; set by the store                                          */
    const char *tool; /* set by the store                                                      */
};

/* Errors: IO; FORMAT when the row was damaged after the store was opened. */
kvant_status kv_trials_find(struct kv_trials *t, const char *plan, const char *objective,
                            struct kvant_eval_result *out, bool *found, struct kvant_error *err);
/* All (n) or none, durable on return. What is there already under the same plan and objective stays.
 * Errors: ARGUMENT (a field out of the range above), IO (disk full, ...); the store remains usable. */
kvant_status kv_trials_add(struct kv_trials *t, const struct kv_trial *trials, size_t n,
                           struct kvant_error *err);
/* Calls fn for each trial of this study, in the order in which they were added; its strings are borrowed for
 * the call, and it must not use `t`. fn returns false to stop: CANCELLED. */
kvant_status kv_trials_each(struct kv_trials *t, bool (*fn)(void *user, const struct kv_trial *trial),
                            void *user, struct kvant_error *err);

/* -- everything else: sensitivities, tables of errors, the tokens of a text -- */

struct kv_trial_vector {
    const char *kind;     /* "probe", "e_o", "text", ...                     */
    const char *key;      /* which one of the kind                           */
    const double *values; /* (n), any bit patterns                           */
    size_t n;             /* 0 .. KV_TRIALS_VALUES_MAX                       */
    double seconds;       /* that it took; finite, not negative              */
};

/* *values: (n) owned by the caller, kv_free; NULL when not found. Errors as of kv_trials_find. */
kvant_status kv_trials_find_values(struct kv_trials *t, const char *kind, const char *key, double **values,
                                   size_t *n, bool *found, struct kvant_error *err);
/* As kv_trials_add. */
kvant_status kv_trials_add_values(struct kv_trials *t, const struct kv_trial_vector *vectors, size_t n,
                                  struct kvant_error *err);

#endif
