/*
 * Prompt in, text out: what run and chat share. The text is handed on as it comes, in whole characters.
 */
#ifndef GENERATE_H
#define GENERATE_H

#include "setup.h"

struct sampling_flags {
    double temperature, top_p, min_p, repeat_penalty;
    int64_t top_k, seed, n_predict;
    bool ignore_eos;
};
#define SAMPLING_FLAGS_DEFAULT                                                                               \
    {.temperature = 0.8, .top_p = 0.95, .min_p = 0.05, .repeat_penalty = 1.0, .top_k = 40, .seed = -1,       \
     .n_predict = -1}

#define SAMPLING_OPTIONS(f)                                                                                  \
    {"-n, --predict, --n-predict", OPTION_INT, "N", &(f)->n_predict,                                         \
     "most tokens to generate; -1 = until the end (default)", -1, 1e9},                                      \
    {"--temp", OPTION_NUMBER, "T", &(f)->temperature, "temperature; 0 = greedy, default 0.8", 0, 100},       \
    {"--top-k", OPTION_INT, "N", &(f)->top_k, "from the N likeliest; 0 = off, default 40", 0, 1e9},          \
    {"--top-p", OPTION_NUMBER, "P", &(f)->top_p, "from the likeliest that sum to P; 1 = off, default 0.95",  \
     0, 1},                                                                                                  \
    {"--min-p", OPTION_NUMBER, "P", &(f)->min_p,                                                             \
     "not less likely than P times the likeliest; 0 = off,\ndefault 0.05", 0, 1},                            \
    {"--repeat-penalty", OPTION_NUMBER, "X", &(f)->repeat_penalty,                                           \
     "divides the odds of the last 64 tokens; default 1, off", 1, 10},                                       \
    {"-s, --seed", OPTION_INT, "N", &(f)->seed, "the same seed, the same text; -1 = random (default)", -1,   \
     9e15},                                                                                                  \
    {"--ignore-eos", OPTION_FLAG, NULL, &(f)->ignore_eos, "go on where the model would end", 0, 0}

struct generator {
    const struct kvant_model *model;
    struct kvant_session *session;
    struct kvant_sampler *sampler;
    int seq;               /* -1 while no sequence is open                          */
    int64_t n_ctx;         /* room of the sequence in tokens                        */
    int64_t n_tokens;      /* of it, used                                           */
    float *logits;         /* (n_vocab), a copy with end tokens barred; NULL unless ignore_eos */
    kvant_token *ends;     /* end tokens, when they are barred                      */
    size_t n_ends;
    int n_vocab;
    struct kvant_confidence *confidence; /* sums over the answer's tokens, or NULL */
};

/* The flags as the library takes them; seed -1 stays to be chosen. */
struct kvant_sampler_options generator_sampler_options(const struct sampling_flags *flags);
int64_t generator_seed(void); /* at random */

struct answer {
    kvant_token *ids; /* without the end token */
    size_t n_ids;
    char *text; /* terminated */
    size_t n_bytes;
    double prompt_s, generation_s;
    size_t n_prompt;
    size_t n_steps;            /* forward passes that generation_s holds */
    const char *finish_reason; /* "stop", "length", "interrupted" */
};

/* A session with one sequence of n_ctx tokens under `plan`. Prints what fails. */
int generator_open(struct generator *g, const struct kvant_model *model, const struct kvant_plan *plan,
                   const struct sampling_flags *flags, int64_t n_ctx);
void generator_close(struct generator *g);

/* Appends the prompt to the sequence and generates after it. The bytes go to `out` as whole characters (NULL:
 * nowhere). Prints what fails. The answer is released by answer_close in any case. */
int generator_answer(struct generator *g, const kvant_token *prompt, size_t n_prompt, int64_t n_predict,
                     FILE *out, struct answer *answer);
void answer_close(struct answer *answer);

/* The pieces of it. evaluate: with logits of the last token; CANCELLED after Ctrl-C, with the tokens so far
 * in the cache. choose: the next token from those logits. text_add: a token and its bytes to the answer, and
 * to `out` what is whole; text_end: the rest. Begin with {.out = ...}. */
struct generator_text {
    FILE *out;
    size_t cap_ids, cap_text, n_shown;
};
kvant_status generator_evaluate(struct generator *g, const kvant_token *ids, size_t n_ids,
                                struct kvant_error *err);
kvant_token generator_choose(struct generator *g);
kvant_status generator_text_add(const struct generator *g, struct generator_text *text, struct answer *answer,
                                kvant_token id, struct kvant_error *err);
void generator_text_end(struct generator_text *text, const struct answer *answer);

/* How many of the ids are the greedy choice after the prompt and the ids before them, in *n_same. Prints what
 * fails. */
int generator_agreement(struct generator *g, const kvant_token *prompt, size_t n_prompt,
                        const kvant_token *ids, size_t n_ids, size_t *n_same);

/* Tokens per second of either phase; 0 when it was too short to tell. */
double answer_prompt_rate(const struct answer *answer);
double answer_generation_rate(const struct answer *answer);

/* Bytes of the cache now, tables included, and what 16 bits would take for the same tokens. */
struct cache_report {
    size_t bytes, f16_bytes;
    struct kvant_plan_memory memory; /* at the length of the sequence */
};
int generator_cache(const struct generator *g, const struct kvant_plan *plan, struct cache_report *report);

#endif
