/*
 * KVTuner (arXiv 2502.04420): one pair of key and value bits for each layer, found offline. The method alone,
 * without a model: it is given the layers' errors e_o and a callback that measures plans. docs/kvtuner.md
 * says how it differs from the paper and from the released code.
 *
 *   e_o (layer, pair) ── prune ── candidates of each layer ── cluster ── groups ─┐
 *                                                                                ├─ search ── trials ── front
 *   callback: plans ── error objective ──────────────────────────────────────────┘  one run for each limit
 */
#ifndef KV_TUNE_KVTUNER_H
#define KV_TUNE_KVTUNER_H

#include "tune/cluster.h"
#include "tune/evolve.h"
#include "tune/prune.h"

/* Measures n plans. assignment: (n, n_layer) indices of pairs; error: (n) what is to be minimised, such as
 * 1 - accuracy or a mean KLD; +infinity or NaN for a plan that collapsed. No plan is asked for twice. Any
 * status but OK ends the search with it. */
typedef kvant_status (*kv_kvtuner_fn)(void *user, const uint8_t *assignment, int n, double *error,
                                      struct kvant_error *err);

#define KV_KVTUNER_LIMITS_MAX 8

struct kv_kvtuner_options {
    int n_layer;
    const struct kv_pair *pairs; /* (n_pairs); NULL = kv_pairs_paper */
    int n_pairs;
    const double *error;            /* (n_layer, n_pairs) e_o; may be NULL when both of the next are given */
    const kv_pair_set *candidates;  /* (n_layer), or NULL: pruned from the errors                        */
    const struct kv_groups *groups; /* or NULL: clustered by the errors                                  */
    double eps;                     /* 0 = KV_CLUSTER_EPS        */
    int min_points;                 /* 0 = KV_CLUSTER_MIN_POINTS */
    const double *limits; /* (n_limits) equivalent bits, ascending, a run for each; NULL = 4 and 6 */
    int n_limits;
    enum kv_evolve_method method;
    int n_trials, population; /* of each run; 0 = the defaults of evolve.h */
    uint64_t seed;            /* one sequence for each (seed, run)         */
    kv_kvtuner_fn evaluate;
    void *user;
};

struct kv_kvtuner_tie {
    int layer;
    struct kv_prune_tie pairs;
};

/* A plan that was measured. */
struct kv_kvtuner_plan {
    const uint8_t *assignment; /* (n_layer) indices of pairs                        */
    double error;              /* +infinity: collapsed                              */
    double bits;               /* equivalent bits: the mean over layers, both sides */
    int bit_sum;               /* exact: bits = bit_sum / (2 · n_layer)             */
};

struct kv_kvtuner_trial {
    int run;  /* index of its limit       */
    int plan; /* index among the plans    */
};

struct kv_kvtuner {
    /* the options as they were used, defaults filled in: for the log */
    int n_layer, n_pairs, n_limits;
    struct kv_pair pairs[KV_PAIRS_MAX];
    double limits[KV_KVTUNER_LIMITS_MAX];
    double eps;
    int min_points;
    enum kv_evolve_method method;
    int n_trials_run, population; /* of each run */
    uint64_t seed;

    kv_pair_set *candidates;     /* (n_layer) */
    struct kv_kvtuner_tie *ties; /* (n_ties) by layer: pairs dropped for one of equal bits and error */
    int n_ties;
    struct kv_groups groups;
    int n_singletons;              /* groups of one layer */
    double n_space;                /* plans that the search chooses from; may be +infinity */
    struct kv_kvtuner_plan *plans; /* (n_plans) different ones, in the order in which they were measured */
    int n_plans;
    struct kv_kvtuner_trial *trials; /* (n_trials) of all runs, in order */
    int n_trials;
    int *front; /* (n_front) plans that none dominates, collapsed ones left out: bits ascend, errors fall */
    int n_front;
    uint8_t *assignments; /* owns what plans point to */
};

/* Runs the method. *out is to be closed whatever is returned: when the callback fails or cancels it holds
 * what was measured before, with its front. Deterministic: same options and answers, same result. Errors:
 * ARGUMENT (options; groups that are no partition or join different candidate sets), NUMERIC (names layer
 * and pair), MEMORY, those of the callback. */
kvant_status kv_kvtuner_run(struct kv_kvtuner *out, const struct kv_kvtuner_options *opt,
                            struct kvant_error *err);
void kv_kvtuner_close(struct kv_kvtuner *k);

/* ------------------------------------------------------------------------------------------- selection -- */

#define KV_KVTUNER_NAME_CAP 32
struct kv_kvtuner_choice {
    int plan;
    double limit; /* the largest for which it was chosen                                       */
    char name[KV_KVTUNER_NAME_CAP]; /* "KVTuner-C3.25": from the bits reached, two decimals, rounded */
};
/* The paper's rule: for each limit the plan of least error within it, of equal errors the one with fewer
 * bits. A plan that is the best for several limits is listed once. choices: room for n_limits. Returns how
 * many: 0 when no plan is within any limit. */
int kv_kvtuner_select(const struct kv_kvtuner *k, struct kv_kvtuner_choice *choices);

#endif
