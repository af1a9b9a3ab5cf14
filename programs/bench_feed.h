/*
 * What the modes of kvant bench that run a model share: random tokens into sequences, and medians.
 */
#ifndef BENCH_FEED_H
#define BENCH_FEED_H

#include "program.h"

#define PASS_TOKENS     512 /* of prompts in one step, as the session takes them by default */
#define BATCH_CAP       256
#define REPETITIONS_CAP 100

struct feeder {
    struct kvant_session *session;
    int n_vocab;
    uint32_t random; /* state of the tokens; any do: speed does not depend on them (as llama-bench) */
};

/* Prompts of n_each tokens, one after another, are one row of tokens: appends tokens from .. from + n of that
 * row to the sequences they belong to, n at most PASS_TOKENS. Logits for the last token of each prompt. */
kvant_status feed_prompts(struct feeder *f, const int *seqs, int64_t n_each, int64_t from, int64_t n,
                          struct kvant_error *err);

/* One token for every sequence, in one step. */
kvant_status feed_each(struct feeder *f, const int *seqs, int n_seqs, struct kvant_error *err);

/* The first pass reads the weights from the disk and wakes the threads: it is not timed. An exit code. */
int feed_warm_up(struct feeder *f, const struct kvant_model *model);

/* Sorts the values. */
double median(double *values, int64_t n);

#endif
