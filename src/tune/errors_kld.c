/*
 * The KLD of single layers, for chosen recipes: one plan per (layer, recipe), many of them in one batch.
 */
#include "base/memory.h"
#include "tune/errors.h"

#define PLANS_PER_BATCH 15 /* and the 16-bit cache: 16 sequences share each reading of the weights */

int64_t kv_errors_kld_sequences(int n_layer, int n_recipes)
{
    int64_t n = (int64_t)n_layer * n_recipes;
    return n + (n + PLANS_PER_BATCH - 1) / PLANS_PER_BATCH;
}

static kvant_status open_plan(struct kvant_plan **out, const struct kvant_model *model,
                              const struct kv_calibration *calibration, int layer,
                              const struct kv_recipe *recipe, struct kvant_error *err)
{
    KV_TRY(kvant_plan_open(out, model, "f16", err));
    struct kvant_plan *plan = *out;
    plan->sinks = calibration->sinks;
    for (int head = 0; head < plan->n_head_kv; head++)
        plan->recipe[(size_t)layer * (size_t)plan->n_head_kv + (size_t)head] = *recipe;
    kv_plan_settle(plan);
    return kv_calibration_apply(calibration, plan, err);
}

kvant_status kv_errors_kld(const struct kvant_model *model, const struct kv_calibration *calibration,
                           const struct kv_recipe *recipes, int n_recipes, const kvant_token *tokens,
                           size_t n_tokens, struct kv_tune_progress *progress, double *out,
                           struct kvant_error *err)
{
    int n = model->hp.n_layer * n_recipes;
    kvant_status status = KVANT_OK;
    progress->what = "measuring layers";
    for (int first = 0; status == KVANT_OK && first < n; first += PLANS_PER_BATCH) {
        int n_batch = n - first < PLANS_PER_BATCH ? n - first : PLANS_PER_BATCH;
        struct kvant_plan *plans[PLANS_PER_BATCH] = { NULL };
        struct kvant_eval_result results[PLANS_PER_BATCH];
        struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
        opt.n_ctx = (int64_t)n_tokens;
        opt.progress = kv_tune_progress_step;
        opt.user = progress;
        progress->scale = n_batch + 1;
        for (int i = 0; status == KVANT_OK && i < n_batch; i++)
            status = open_plan(&plans[i], model, calibration, (first + i) / n_recipes,
                               &recipes[(first + i) % n_recipes], err);
        if (status == KVANT_OK)
            status = kvant_eval_run(model, (const struct kvant_plan *const *)plans, n_batch, tokens, n_tokens,
                                    &opt, results, NULL, err);
        for (int i = 0; i < n_batch; i++) {
            if (status == KVANT_OK) out[first + i] = results[i].kld_mean;
            kvant_plan_close(plans[i]);
        }
        progress->done += (int64_t)n_tokens * (n_batch + 1);
    }
    progress->scale = 1;
    progress->what = NULL;
    return status;
}
