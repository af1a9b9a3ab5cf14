/* What both searches share: the trials of one run, breeding, and measuring a generation. Internal to
 * evolve.c, nsga2.c and moead.c. */
#ifndef KV_TUNE_EVOLVE_SEARCH_H
#define KV_TUNE_EVOLVE_SEARCH_H

#include "base/random.h"
#include "tune/evolve.h"
#include "tune/front.h"

struct kv_search {
    const struct kv_evolve_options *opt;
    struct kv_archive *archive;
    struct kv_random random;
    int n_target;           /* trials that will be made: opt->n_trials, or all genomes there are  */
    int population;         /* at most n_target                                                   */
    struct kv_genomes seen; /* this run's: row t is trial t; from n_done on proposed, not measured */
    int n_done;
    int *trials;                  /* (n_trials) trial -> archive */
    uint8_t *child;               /* (n_genes)                   */
    uint8_t *request;             /* (population, n_genes)       */
    struct kv_objectives *answer; /* (population)            */
};

/* Objectives of a measured trial; its tag is the trial. */
struct kv_scored kv_search_scored(const struct kv_search *s, int trial);

/* Chooses two parents among the trials. */
typedef void (*kv_parents_fn)(void *user, struct kv_search *s, int *a, int *b);

/* How many genomes the next generation has: 0 at the end. */
int kv_search_batch(const struct kv_search *s);
/* Proposes one genome that this run has not had; there must be one. */
void kv_search_propose_random(struct kv_search *s);
void kv_search_propose_child(struct kv_search *s, kv_parents_fn parents, void *user);
/* Measures what was proposed. */
kvant_status kv_search_measure(struct kv_search *s, struct kvant_error *err);

kvant_status kv_nsga2_run(struct kv_search *s, struct kvant_error *err);
kvant_status kv_moead_run(struct kv_search *s, struct kvant_error *err);

#endif
