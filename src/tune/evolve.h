/*
 * Evolutionary search of two minimised objectives, error and bits, over integer genomes: NSGA-II (Deb et al.
 * 2002) and MOEA/D (Zhang and Li 2007), with a soft limit of the bits.
 *
 *   random population ── measure ─┬─ parents ── crossover, mutation ── new genomes ── measure ─┐
 *                                 └──────────────────────────────────────────────────────────┘
 *
 * A generation is measured in one call, so that many plans share each pass over the weights. No genome is
 * measured twice: a child that its run has had already is bred again, and after some attempts replaced by a
 * random new genome, so a run of n_trials has n_trials different ones, or all there are. What an earlier run
 * over the same archive has measured is looked up; it counts as a trial of the later run too, whose path
 * depends on it.
 *
 * Same options, same answers: same trials in the same order. So a search is resumed by running it again with
 * a callback that answers from a log what the log holds.
 */
#ifndef KV_TUNE_EVOLVE_H
#define KV_TUNE_EVOLVE_H

#include "tune/genomes.h"

struct kv_objectives {
    double error; /* NaN counts as +infinity, a collapsed plan */
    double bits;
};

/* Measures n genomes (n, n_genes) into out (n). Any status but OK ends the search with it. */
typedef kvant_status (*kv_evolve_fn)(void *user, const uint8_t *genomes, int n, struct kv_objectives *out,
                                     struct kvant_error *err);

enum kv_evolve_method { KV_EVOLVE_MOEAD = 0, KV_EVOLVE_NSGA2 };
const char *kv_evolve_method_name(enum kv_evolve_method method); /* "moead", "nsga2" */

#define KV_EVOLVE_TRIALS     200 /* the paper's number for a run                       */
#define KV_EVOLVE_POPULATION 50  /* Optuna's default, with which the released code ran */
#define KV_EVOLVE_TRIALS_MAX 10000

struct kv_evolve_options {
    enum kv_evolve_method method;
    int n_genes;
    const int *n_choices; /* (n_genes) gene i is 0 .. n_choices[i] - 1; 1 to 256  */
    double bits_limit;    /* soft: plans beyond it are measured, but lose; INFINITY = none */
    int n_trials;         /* 0 = KV_EVOLVE_TRIALS                                */
    int population;       /* genomes of a generation; 0 = KV_EVOLVE_POPULATION   */
    uint64_t seed;
    kv_evolve_fn evaluate;
    void *user;
};

/* Everything that was measured. */
struct kv_archive {
    struct kv_genomes genomes;
    struct kv_objectives *objectives; /* (genomes.cap) */
};
/* cap: of all runs together, at most n_runs · n_trials. Errors: MEMORY. */
kvant_status kv_archive_open(struct kv_archive *out, int n_genes, int cap, struct kvant_error *err);
void kv_archive_close(struct kv_archive *archive);

/* One run. trials: (n_trials) indices into the archive, in the order of the search; *n_out of them, fewer
 * than n_trials when there are fewer genomes. On an error the archive and trials hold what was measured
 * before it. Errors: ARGUMENT, MEMORY, NUMERIC (bits that are not finite), those of the callback. */
kvant_status kv_evolve_run(struct kv_archive *archive, const struct kv_evolve_options *opt, int *trials,
                           int *n_out, struct kvant_error *err);

#endif
