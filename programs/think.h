/*
 * An answer whose mode a router chooses: once, at the prompt's end, or also while it is written. Everything
 * happens in one sequence: a turn appends its tokens to the cache as it is, and nothing is read again.
 */
#ifndef THINK_H
#define THINK_H

#include <jansson.h>

#include "generate.h"
#include "modes.h"

struct think_flags {
    const char *router_path, *modes;
    double threshold, margin;
    int64_t every;  /* tokens between two looks; 0: only at the prompt's end */
    int64_t most[MODES]; /* tokens of a part in this mode */
};
#define THINK_FLAGS_DEFAULT                                                                                  \
    {                                                                                                        \
        .modes = "steps", .threshold = 50, .margin = 20, .every = 1, .most = { 2048, 8192 }                  \
    }

#define THINK_OPTIONS(f)                                                                                     \
    {"--modes", OPTION_NAME, "NAME", &(f)->modes,                                                            \
     "think (<think> tags), steps (default), or a file with both\ntemplates", 0, 0},                         \
    {"--think-threshold", OPTION_NUMBER, "D", &(f)->threshold, "slow above this difficulty; default 50",     \
     -1e6, 1e6},                                                                                             \
    {"--think-margin", OPTION_NUMBER, "D", &(f)->margin,                                                     \
     "a running answer turns only this far beyond; default 20", 0, 1e6},                                     \
    {"--think-every", OPTION_INT, "N", &(f)->every,                                                          \
     "look again after so many tokens, for at most one turn;\n0 = decide once; default 1", 0, 1e6}

/* The router of the flags, and the modes that it was trained with: it chooses between no others. Prints what
 * fails. */
int think_router_open(struct kvant_router **router, struct modes *modes, const struct kvant_model *model,
                      const struct think_flags *flags);

/* The mode for a difficulty at the prompt's end; the one that an answer in `mode` turns to at a later one,
 * -1: none. */
int think_first(const struct think_flags *flags, double d);
int think_turn(const struct think_flags *flags, int mode, double d);

/* Every token, where it went. answer = kept + forced + second; generated = kept + discarded + second. */
struct think_account {
    int first, last;          /* modes */
    bool turned;
    double d_first, d_turn;   /* difficulty at the prompt's end, and where the answer turned */
    int64_t n_window;         /* tokens that d_first was read from                           */
    int64_t n_prefix;         /* of the mode's beginning, not sampled                        */
    int64_t n_kept, n_discarded, n_forced, n_second, n_reprefill, n_checks, n_steps;
    bool truncated;           /* a cap was met before the end                                 */
    double check_s;           /* of reading and deciding                                      */
};

/* Its counts, n_prefix to truncated, as fields of an object. */
void think_put_counts(json_t *object, const struct think_account *account);

/* ids and text as of generator_answer, the forced tokens between included. Prints what fails. */
int think_answer(struct generator *g, const struct kvant_router *router, const struct modes *modes,
                 const struct think_flags *flags, const kvant_token *prompt, size_t n_prompt,
                 int64_t n_predict, FILE *out, struct answer *answer, struct think_account *account);

#endif
