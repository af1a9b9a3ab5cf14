/*
 * Local search by measured swaps: one item of the plan gets a smaller choice, another a larger one, at no
 * more cost. The allocation takes errors to add up and probes to be exact; where that is wrong, a swap finds
 * it.
 */
#ifndef KV_TUNE_REFINE_H
#define KV_TUNE_REFINE_H

#include "tune/search.h"

#define KV_REFINE_ROUNDS 3

/* Improves choice (n_items) on the measure's text while rounds find something. *kld: the plan's, measured. */
kvant_status kv_refine(const struct kv_search *s, struct kv_measure *measure, int *choice, double *kld,
                       struct kvant_error *err);

/* Most plans that kv_refine measures. */
int kv_refine_plans(void);

#endif
