#include "tune/measure.h"

bool kv_tune_progress_step(void *progress, const char *what, int64_t done, int64_t total)
{
    struct kv_tune_progress *p = progress;
    (void)total;
    return !p->fn || p->fn(p->user, p->what ? p->what : what, p->done + done * p->scale, p->total);
}

int64_t kv_measure_tokens(const struct kv_measure *m, int n)
{
    int n_batches = (n + KV_MEASURE_BATCH - 1) / KV_MEASURE_BATCH;
    return (int64_t)m->n_tokens * (n + n_batches);
}

kvant_status kv_measure_plans(struct kv_measure *m, struct kvant_plan *const *plans, int n,
                              struct kvant_eval_result *results, struct kvant_error *err)
{
    struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    opt.n_ctx = m->n_ctx;
    opt.progress = kv_tune_progress_step;
    opt.user = m->progress;
    for (int first = 0; first < n; first += KV_MEASURE_BATCH) {
        int n_batch = n - first < KV_MEASURE_BATCH ? n - first : KV_MEASURE_BATCH;
        m->progress->scale = n_batch + 1;
        KV_TRY(kvant_eval_run(m->model, (const struct kvant_plan *const *)(plans + first), n_batch, m->tokens,
                              m->n_tokens, &opt, results + first, NULL, err));
        m->progress->done += (int64_t)m->n_tokens * (n_batch + 1);
        m->n_measured += n_batch;
    }
    return KVANT_OK;
}
