/*
 * Tokens per second and memory of plans at long contexts, predicted from times measured on this machine, so
 * that a menu can show them without filling a cache of 32768 tokens per plan.
 *
 *     seconds(n) = token at depth 0 (weights)  +  sum over layers ( attention(n) - attention(short) )
 *
 * The first term is generation with the model itself. Attention is measured by kvant_bench_attention with the
 * model's heads, once per distinct key part and once per distinct value part, and composed:
 *
 *     attention(k, v) = attention(k, base v) + attention(base k, v) - attention(base k, base v)
 *
 * since keys and values are two kernels, one after the other. The base is k4c64 v4h. Where KV heads of a
 * layer have different recipes, the layer takes their mean. docs/benchmarking.md has it for users.
 */
#ifndef PREDICT_H
#define PREDICT_H

#include "kvant.h"
#include "recipe_text.h"

#define PREDICT_CONTEXTS_CAP 4
#define PREDICT_PARTS_CAP    96 /* distinct key and value parts of all plans together */

/* 4096, 16384, 32768 as far as the model was trained for them, and its own limit where that lies below 32768.
 * Returns how many. */
int predict_contexts(int n_ctx_train, int64_t contexts[PREDICT_CONTEXTS_CAP]);

struct prediction {
    int64_t context;     /* tokens in the cache                                     */
    double tokens_per_s; /* generation of one sequence                              */
    size_t memory_bytes; /* of the cache: total and tables of struct kvant_plan_memory */
};

/* What predictions are made of. */
struct predict_times {
    double token_s;       /* a token at depth 0, 16-bit cache           */
    double read_gb_per_s; /* of the machine, from the same seconds      */
    int n_contexts;
    int64_t contexts[PREDICT_CONTEXTS_CAP];
    int n_rows; /* one layer's attention */
    struct predict_row {
        char key[RECIPE_PART_CAP], value[RECIPE_PART_CAP];
        double short_s, context_s[PREDICT_CONTEXTS_CAP];
    } rows[PREDICT_PARTS_CAP];
};

/* Measures whatever the plans need; about 20 seconds. contexts: (n_contexts), ascending, at most
 * PREDICT_CONTEXTS_CAP. `progress` may be NULL. Errors: ARGUMENT (more parts than PREDICT_PARTS_CAP), those
 * of kvant_bench_attention and of a session. */
kvant_status predict_measure(struct predict_times *times, const struct kvant_model *model,
                             const struct kvant_plan *const *plans, int n_plans, const int64_t *contexts,
                             int n_contexts, kvant_progress_fn progress, void *user, struct kvant_error *err);

/* One plan at each context: out (times->n_contexts). tokens_per_s is NaN for a plan that was not measured. */
void predict_plan(const struct predict_times *times, const struct kvant_model *model,
                  const struct kvant_plan *plan, struct prediction *out);

/* Seconds of one layer's attention at context i, or at the short one (-1). NaN: a part was not measured. */
double predict_attention_s(const struct predict_times *times, const char *key, const char *value, int i);

#endif
