/*
 * kvant_eval_run, and the same for probes.
 */
#ifndef KV_TUNE_EVAL_H
#define KV_TUNE_EVAL_H

#include "model/model.h"

/* of_likely: every number over the likely tokens alone (tune/likely.h), which spares plans the output head;
 * not with opt->on_logits. */
kvant_status kv_eval_run(const struct kvant_model *model, const struct kvant_plan *const *plans, int n_plans,
                         const kvant_token *tokens, size_t n_tokens, const struct kvant_eval_options *opt,
                         bool of_likely, struct kvant_eval_result *results, struct kvant_eval_result *base,
                         struct kvant_error *err);

#endif
