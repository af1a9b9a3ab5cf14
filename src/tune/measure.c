#include "tune/measure.h"

#include <stdio.h>

#include "base/memory.h"
#include "base/os.h"
#include "cache/plan.h"

/* Of the arithmetic: to be raised when a change of kernels, codec or evaluation changes KLDs. */
#define MEASURE_VERSION 1

bool kv_tune_progress_step(void *progress, const char *what, int64_t done, int64_t total)
{
    struct kv_tune_progress *p = progress;
    (void)total;
    return !p->fn || p->fn(p->user, p->what ? p->what : what, p->done + done * p->scale, p->total);
}

void kv_measure_conditions(const struct kvant_model *model, char text[KV_MEASURE_CONDITIONS_CAP])
{
    snprintf(text, KV_MEASURE_CONDITIONS_CAP, "measure %d; act %s; attn %s", MEASURE_VERSION,
             kvant_act_name(model->act), model->attn == KVANT_ATTN_F32 ? "f32" : "codes");
}

void kv_measure_set(struct kv_measure *m, const struct kvant_model *model, const kvant_token *tokens,
                    size_t n_tokens, int64_t n_ctx, struct kv_trials *trials, struct kv_tune_progress *progress)
{
    struct kv_hash hash;
    char digest[KV_HASH_TEXT_CAP];
    *m = (struct kv_measure){ .model = model, .tokens = tokens, .n_tokens = n_tokens, .n_ctx = n_ctx,
                              .trials = trials, .progress = progress };
    kv_hash_begin(&hash);
    kv_hash_add(&hash, tokens, n_tokens * sizeof *tokens);
    kv_hash_end(&hash, digest);
    snprintf(m->objective, sizeof m->objective, "kld in chunks of %lld of %s", (long long)n_ctx, digest);
}

int64_t kv_measure_tokens(const struct kv_measure *m, int n)
{
    int n_batches = (n + KV_MEASURE_BATCH - 1) / KV_MEASURE_BATCH;
    return (int64_t)m->n_tokens * (n + n_batches);
}

/* Plans that the store does not know, and where their results go. */
struct unknown {
    struct kvant_plan *plan[KV_MEASURE_BATCH];
    char *key[KV_MEASURE_BATCH]; /* owned */
    struct kvant_eval_result *result[KV_MEASURE_BATCH];
    int n;
};

static kvant_status measure_unknown(struct kv_measure *m, struct unknown *u, struct kvant_error *err)
{
    struct kvant_eval_result results[KV_MEASURE_BATCH];
    struct kv_trial trials[KV_MEASURE_BATCH];
    struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    opt.n_ctx = m->n_ctx;
    opt.progress = kv_tune_progress_step;
    opt.user = m->progress;
    m->progress->scale = u->n + 1;
    double started_s = kv_clock_s();
    KV_TRY(kvant_eval_run(m->model, (const struct kvant_plan *const *)u->plan, u->n, m->tokens, m->n_tokens, &opt,
                          results, NULL, err));
    double seconds = (kv_clock_s() - started_s) / u->n;
    for (int i = 0; i < u->n; i++) {
        *u->result[i] = results[i];
        trials[i] = (struct kv_trial){ .plan = u->key[i], .objective = m->objective, .result = results[i],
                                       .seconds = seconds > 0 ? seconds : 0 };
    }
    m->progress->done += (int64_t)m->n_tokens * (u->n + 1);
    m->n_measured += u->n;
    return m->trials ? kv_trials_add(m->trials, trials, (size_t)u->n, err) : KVANT_OK;
}

static kvant_status flush(struct kv_measure *m, struct unknown *u, struct kvant_error *err)
{
    kvant_status status = u->n ? measure_unknown(m, u, err) : KVANT_OK;
    for (int i = 0; i < u->n; i++) kv_free(u->key[i]);
    u->n = 0;
    return status;
}

kvant_status kv_measure_plans(struct kv_measure *m, struct kvant_plan *const *plans, int n,
                              struct kvant_eval_result *results, struct kvant_error *err)
{
    struct unknown u = { .n = 0 };
    kvant_status status = KVANT_OK;
    for (int i = 0; status == KVANT_OK && i < n; i++) {
        bool known = false;
        char *key = NULL;
        status = kv_plan_key(plans[i], &key, err);
        if (status == KVANT_OK && m->trials)
            status = kv_trials_find(m->trials, key, m->objective, &results[i], &known, err);
        if (status != KVANT_OK || known) {
            kv_free(key);
            m->n_known += known;
            m->progress->done += known ? (int64_t)m->n_tokens : 0;
            continue;
        }
        u.plan[u.n] = plans[i];
        u.key[u.n] = key;
        u.result[u.n++] = &results[i];
        if (u.n == KV_MEASURE_BATCH) status = flush(m, &u, err);
    }
    if (status == KVANT_OK) return flush(m, &u, err);
    for (int i = 0; i < u.n; i++) kv_free(u.key[i]);
    return status;
}
