/*
 * Generation of many texts at once, under one plan or several: what self-made calibration text, trajectories
 * and answers to questions have in common.
 *
 *   generations in order ──> slots (n_sequences caches in memory) ──> one step for all of them
 *                             a text that ends leaves its slot to the next one
 *
 * Prompts that begin alike, under the same plan and one after the other, are read once: their beginning is a
 * sequence of its own that the others are forked from (the shots before a question are four fifths of its
 * tokens).
 */
#ifndef KV_TUNE_GENERATE_H
#define KV_TUNE_GENERATE_H

#include "base/error.h"

enum kv_generation_end {
    KV_GENERATION_CUT = 0, /* n_predict tokens were chosen, or the whole work was done before */
    KV_GENERATION_ENDED,   /* the model chose an end token                                    */
    KV_GENERATION_STOPPED, /* options.stop said so                                            */
    KV_GENERATION_FAILED   /* the cache could not hold a row, or the logits were not finite   */
};

struct kv_generation {
    const struct kvant_plan *plan;  /* calibrated; borrowed                                  */
    const kvant_token *prompt;      /* (n_prompt), borrowed                                  */
    size_t n_prompt;                /* at least 1                                            */
    struct kvant_sampler *sampler;  /* borrowed; NULL = greedy, the lowest id among equals   */
    size_t n_predict;               /* at least 1                                            */
    kvant_token *tokens;            /* (n_predict), the caller's; filled                     */
    size_t n;                       /* tokens chosen; an end token is not among them         */
    size_t n_cached;                /* tokens of prompt and answer that went through the model */
    enum kv_generation_end end;
};

struct kv_generate_options {
    int n_sequences; /* texts at once; 0 = KV_GENERATE_SEQUENCES                                       */
    size_t n_enough; /* all ends once so many tokens went through the model; 0 = when all texts have ended */
    const char *what; /* for progress                                                                   */
    kvant_progress_fn progress;
    void *user;
    /* Asked after each token: has text i ended? May be NULL. */
    bool (*stop)(void *hook_user, size_t i, const struct kv_generation *text);
    /* The (*n) tokens, at least 1, that text i is chosen from; NULL = from all. May be NULL. */
    const kvant_token *(*among)(void *hook_user, size_t i, size_t *n);
    void *hook_user; /* of both */
};
#define KV_GENERATE_SEQUENCES 16

/* What a text says does not depend on the others, nor on n_sequences: products and attention sum in an order
 * of their own, and each prompt is cut into pieces that only its own length and its shared beginning decide.
 * A text that fails is marked and the others go on. Errors: those of a session, CANCELLED. */
kvant_status kv_generate(const struct kvant_model *model, struct kv_generation *texts, size_t n_texts,
                         const struct kv_generate_options *opt, struct kvant_error *err);

/* ----------------------------------------------------------------------- every prompt under every plan -- */

/* Greedy texts of the 16-bit cache and of plans: texts[(with_base + plan) · n_prompts + prompt], the base's
 * first. */
struct kv_plan_texts {
    struct kvant_plan *f16;      /* NULL without the base        */
    struct kv_generation *texts; /* (n_rows · n_prompts)         */
    kvant_token *tokens;         /* where they point to          */
    size_t n_prompts;
    int n_rows;                  /* plans, and the base          */
};

/* plans: (n_plans). */
kvant_status kv_plan_texts_open(struct kv_plan_texts *out, const struct kvant_model *model, bool with_base,
                                const struct kvant_plan *const *plans, int n_plans,
                                const struct kvant_prompt *prompts, size_t n_prompts, size_t n_predict,
                                const struct kv_generate_options *opt, struct kvant_error *err);
void kv_plan_texts_close(struct kv_plan_texts *t);

#endif
