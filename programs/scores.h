/*
 * The scores of an answer by name: one table for run, best-of and kvant score. Each is turned so that higher
 * means more likely right.
 */
#ifndef SCORES_H
#define SCORES_H

#include <jansson.h>

#include "program.h"

enum {
    SCORE_KV_TOKENS_R,
    SCORE_KV_TOKENS_C,
    SCORE_KV_LAYERS_R,
    SCORE_KV_LAYERS_C,
    SCORE_MAX_PROB,
    SCORE_PPL,
    SCORE_ENTROPY,
    SCORE_LOG_PROB,
    SCORE_LENGTH,
    SCORES_OF_CACHE, /* so many need no hidden states */
    SCORE_HIDDEN_TOKENS_R = SCORES_OF_CACHE,
    SCORE_HIDDEN_TOKENS_C,
    SCORE_HIDDEN_LAYERS_R,
    SCORE_HIDDEN_LAYERS_C,
    SCORE_HIDDEN_BOS_R,
    SCORE_HIDDEN_BOS_C,
    SCORES
};
#define SCORE_BEST_DEFAULT SCORE_LOG_PROB
extern const char *const score_names[SCORES];
#define SCORE_CHOICES                                                                                        \
    "kv-coe-tokens-r|kv-coe-tokens-c|kv-coe-layers-r|kv-coe-layers-c|maxprob|ppl|entropy|logprob"

/* By place, NaN where undefined. The answer's confidence is sums, as kvant_score_answer gives it. */
void scores_of(const struct kvant_answer_score *answer, double scores[SCORES]);
int score_find(const char *name); /* -1: there is none */

/* The cache's scores and the logits' as an object of numbers. */
json_t *scores_json(const double scores[SCORES], int n);

#endif
