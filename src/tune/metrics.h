/*
 * How far a cache is from the 16-bit one, measured at the logits: KL(base || plan) over the whole vocabulary,
 * perplexity and agreement of the most probable token. One position at a time; positions are independent, so
 * threads may share them out.
 */
#ifndef KV_TUNE_METRICS_H
#define KV_TUNE_METRICS_H

#include "base/error.h"
#include "kernels/kernels.h"

/* The largest of n logits, the lowest id among equals; -1 when all are NaN. */
int kv_logits_top(const float *logits, int n);

/* What a position's plans are compared with. */
struct kv_base_row {
    const float *logits; /* (n_vocab), borrowed                              */
    const float *prob;   /* (n_vocab) softmax of them                        */
    double log_sum;      /* log Σ exp(logits); not finite: the row is useless */
    int top;             /* the largest logit, the lowest id among equals    */
};
/* prob: (n_vocab), written and borrowed. */
void kv_base_row_set(struct kv_base_row *out, const struct kv_kernels *kernels, const float *logits,
                     int n_vocab, float *prob);

/* One plan's scores, each (n). A collapsed row (NaN or infinite logits) has KLD and NLL +infinity. */
struct kv_scores {
    float *kld;  /* nats                                    */
    float *nll;  /* −log p(next token)                      */
    bool *same;  /* the most probable token is the base's   */
    int64_t n;
};
/* Fills entry i; next: the token that follows. */
void kv_scores_set(struct kv_scores *s, int64_t i, const struct kv_kernels *kernels,
                   const struct kv_base_row *base, const float *logits, int n_vocab, kvant_token next);
/* The same for a plan that has no logits there. */
void kv_scores_set_collapsed(struct kv_scores *s, int64_t i);
/* The same for the base itself: KLD 0. */
void kv_scores_set_base(struct kv_scores *s, int64_t i, const struct kv_base_row *base, kvant_token next);

/* The numbers of all n positions; base: the 16-bit cache's scores of the same positions. Sorts s->kld. Leaves
 * the fields about bits alone. */
void kv_scores_reduce(struct kv_scores *s, const struct kv_scores *base, struct kvant_eval_result *out);

/* Quantile of ascending values by linear interpolation between order statistics: at q·(n − 1). */
double kv_quantile(const float *sorted, int64_t n, double q);

#endif
