/*
 * kvant run --best-of N: N answers to one prompt, written side by side from one cache of it, and the one of
 * the highest score.
 */
#ifndef BEST_OF_H
#define BEST_OF_H

#include "generate.h"
#include "scores.h"

#define BEST_OF_MAX 64

struct best_of {
    struct answer answers[BEST_OF_MAX];
    double scores[BEST_OF_MAX][SCORES];
    int n, best;
    double prompt_s, generation_s;
    size_t n_prompt, n_steps, n_tokens; /* tokens: of all answers */
};

/* best_by: the score's place. The first answer has the seed that one answer alone would have. Prints what
 * fails. */
int best_of_run(struct best_of *out, const struct kvant_model *model, const struct kvant_plan *plan,
                const struct sampling_flags *flags, int n, int best_by, const kvant_token *prompt,
                size_t n_prompt, int64_t n_ctx);
void best_of_close(struct best_of *b);

#endif
