#include "tune/measure.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"
#include "cache/plan.h"
#include "tune/eval.h"

/* Of the arithmetic: to be raised when a change of kernels, codec or evaluation changes KLDs. */
#define MEASURE_VERSION 2

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
                    size_t n_tokens, int64_t n_ctx, bool of_likely, struct kv_trials *trials,
                    struct kv_tune_progress *progress)
{
    struct kv_hash hash;
    char digest[KV_HASH_TEXT_CAP];
    *m = (struct kv_measure){ .model = model, .tokens = tokens, .n_tokens = n_tokens, .n_ctx = n_ctx,
                              .of_likely = of_likely, .trials = trials, .progress = progress };
    kv_hash_begin(&hash);
    if (n_tokens) kv_hash_add(&hash, tokens, n_tokens * sizeof *tokens);
    kv_hash_end(&hash, digest);
    snprintf(m->objective, sizeof m->objective, "kld%s in chunks of %lld of %s",
             of_likely ? " of likely tokens" : "", (long long)n_ctx, digest);
}

int64_t kv_measure_tokens(const struct kv_measure *m, int n)
{
    int n_batches = (n + KV_MEASURE_BATCH - 1) / KV_MEASURE_BATCH;
    return (int64_t)m->n_tokens * (n + n_batches);
}

kvant_status kv_measure_set_questions(struct kv_measure *m, const struct kvant_question *questions,
                                      size_t n_questions, const struct kvant_accuracy_options *asking,
                                      struct kvant_error *err)
{
    struct kv_hash hash;
    char digest[KV_HASH_TEXT_CAP];
    kv_hash_begin(&hash);
    m->n_tokens = 0;
    for (size_t i = 0; i < n_questions; i++) {
        const struct kvant_question *q = &questions[i];
        if (!q->answer || !q->tokens || !q->n_tokens)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, (int64_t)i, "question %zu is empty", i);
        kv_hash_add(&hash, q->tokens, q->n_tokens * sizeof *q->tokens);
        kv_hash_add(&hash, q->answer, strlen(q->answer) + 1);
        if (q->n_choices) kv_hash_add(&hash, q->choices, q->n_choices * sizeof *q->choices);
        m->n_tokens += q->n_tokens + (q->n_choices ? 1 : (size_t)asking->n_predict);
    }
    for (int i = 0; i < asking->n_stops; i++)
        kv_hash_add(&hash, asking->stops[i], strlen(asking->stops[i]) + 1);
    kv_hash_end(&hash, digest);
    m->questions = questions;
    m->n_questions = n_questions;
    m->asking = asking;
    snprintf(m->objective, sizeof m->objective, "accuracy in %d tokens with %s", asking->n_predict, digest);
    return KVANT_OK;
}

/* -------------------------------------------------------------------------------------------- a batch -- */

static kvant_status answer_batch(struct kv_measure *m, const struct kvant_plan *const *plans, int n,
                                 struct kvant_eval_result *results, struct kvant_error *err)
{
    struct kvant_accuracy_result answers[KV_MEASURE_BATCH];
    struct kvant_accuracy_options opt = *m->asking;
    opt.no_base = true;
    opt.on_answer = NULL;
    opt.progress = kv_tune_progress_step;
    opt.user = m->progress;
    m->progress->scale = 1;
    KV_TRY(kvant_accuracy_run(m->model, plans, n, m->questions, m->n_questions, &opt, answers, NULL, err));
    for (int i = 0; i < n; i++)
        results[i] = (struct kvant_eval_result){ NAN, NAN, NAN, NAN,
                                                 NAN, NAN, NAN, answers[i].accuracy,
                                                 NAN, NAN, NAN, answers[i].n };
    return KVANT_OK;
}

static kvant_status score_batch(struct kv_measure *m, const struct kvant_plan *const *plans, int n,
                                struct kvant_eval_result *results, struct kvant_error *err)
{
    struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    opt.n_ctx = m->n_ctx;
    opt.progress = kv_tune_progress_step;
    opt.user = m->progress;
    m->progress->scale = n + 1;
    return kv_eval_run(m->model, plans, n, m->tokens, m->n_tokens, &opt, m->of_likely, results, NULL, err);
}

/* What is known of a plan, in a form that can be summed over processes: all but one have zeros. */
#define ROW 14
struct measured {
    struct kvant_eval_result result;
    double seconds;
    bool known;
};

static void pack(const struct measured *m, double row[ROW])
{
    const struct kvant_eval_result *r = &m->result;
    const double values[ROW] = { r->ppl,       r->ppl_ratio, r->kld_mean,        r->kld_median,
                                 r->kld_p99,   r->kld_p999,  r->kld_max,         r->same_top_p,
                                 r->page_bits, r->true_bits, r->bytes_per_token, (double)r->n_scored,
                                 m->seconds,   1.0 };
    memcpy(row, values, sizeof values);
}

static void unpack(const double row[ROW], struct measured *m)
{
    m->known = row[13] != 0.0;
    if (!m->known) return;
    m->result = (struct kvant_eval_result){ row[0], row[1], row[2], row[3], row[4],  row[5],
                                            row[6], row[7], row[8], row[9], row[10], (int64_t)row[11] };
    m->seconds = row[12];
}

/* -------------------------------------------------------------------------------------------- a chunk -- */

struct chunk { /* as many plans as all processes measure in a batch each */
    struct kv_measure *m;
    struct kvant_plan *const *plans; /* (n)          */
    int n;
    char **keys;               /* (n) owned    */
    struct measured *measured; /* (n)          */
    double *rows;              /* (n · ROW + 1) */
    int *unknown;              /* (n_unknown)  */
    int n_unknown;
};

/* What the first process's store knows. */
static kvant_status look_up(struct chunk *c, struct kvant_error *err)
{
    struct kv_measure *m = c->m;
    kvant_status status = KVANT_OK;
    for (int i = 0; status == KVANT_OK && i < c->n; i++) {
        status = kv_plan_key(c->plans[i], &c->keys[i], err);
        if (status == KVANT_OK && m->trials && m->ranks.rank == 0)
            status = kv_trials_find(m->trials, c->keys[i], m->objective, &c->measured[i].result,
                                    &c->measured[i].known, err);
        if (c->measured[i].known) pack(&c->measured[i], c->rows + i * ROW);
    }
    KV_TRY(kv_ranks_sum(&m->ranks, c->rows, (size_t)c->n * ROW, status, err));
    for (int i = 0; i < c->n; i++) {
        if (kv_ranks_count(&m->ranks) > 1) unpack(c->rows + i * ROW, &c->measured[i]);
        if (!c->measured[i].known) c->unknown[c->n_unknown++] = i;
    }
    m->n_known += c->n - c->n_unknown;
    m->progress->done += (int64_t)m->n_tokens * (c->n - c->n_unknown);
    return KVANT_OK;
}

static kvant_status keep(const struct chunk *c, int first, int end, struct kvant_error *err)
{
    struct kv_trial trials[KV_MEASURE_BATCH];
    int n = 0;
    for (int k = first; k < end; k++) {
        const struct measured *m = &c->measured[c->unknown[k]];
        trials[n++] = (struct kv_trial){ .plan = c->keys[c->unknown[k]],
                                         .objective = c->m->objective,
                                         .result = m->result,
                                         .seconds = m->seconds };
        if (n < KV_MEASURE_BATCH && k + 1 < end) continue;
        if (c->m->trials) KV_TRY(kv_trials_add(c->m->trials, trials, (size_t)n, err));
        n = 0;
    }
    return KVANT_OK;
}

/* Unknown plans [first, end), at most a batch. */
static kvant_status measure_batch(struct chunk *c, int first, int end, struct kvant_error *err)
{
    struct kv_measure *m = c->m;
    const struct kvant_plan *plans[KV_MEASURE_BATCH];
    struct kvant_eval_result results[KV_MEASURE_BATCH];
    int n = end - first;
    double started_s = kv_clock_s();
    for (int i = 0; i < n; i++) plans[i] = c->plans[c->unknown[first + i]];
    KV_TRY(m->questions ? answer_batch(m, plans, n, results, err) : score_batch(m, plans, n, results, err));
    double seconds = (kv_clock_s() - started_s) / n;
    for (int i = 0; i < n; i++) {
        struct measured *measured = &c->measured[c->unknown[first + i]];
        *measured = (struct measured){ results[i], seconds > 0 ? seconds : 0, true };
    }
    m->progress->done += (int64_t)m->n_tokens * (n + 1);
    return KVANT_OK;
}

/* This process's part of the unknown plans, then everyone's numbers. Alone, each batch is kept at once. */
static kvant_status measure_unknown(struct chunk *c, struct kvant_error *err)
{
    struct kv_measure *m = c->m;
    int n_ranks = kv_ranks_count(&m->ranks), first = c->n_unknown * m->ranks.rank / n_ranks,
        end = c->n_unknown * (m->ranks.rank + 1) / n_ranks;
    int64_t done = m->progress->done + kv_measure_tokens(m, c->n_unknown);
    kvant_status status = KVANT_OK;
    for (int at = first; status == KVANT_OK && at < end; at += KV_MEASURE_BATCH) {
        int stop = end - at < KV_MEASURE_BATCH ? end : at + KV_MEASURE_BATCH;
        status = measure_batch(c, at, stop, err);
        if (status == KVANT_OK && n_ranks == 1) status = keep(c, at, stop, err);
    }
    if (n_ranks > 1) {
        memset(c->rows, 0, (size_t)c->n * ROW * sizeof *c->rows);
        for (int k = first; status == KVANT_OK && k < end; k++)
            pack(&c->measured[c->unknown[k]], c->rows + c->unknown[k] * ROW);
        KV_TRY(kv_ranks_sum(&m->ranks, c->rows, (size_t)c->n * ROW, status, err));
        for (int k = 0; k < c->n_unknown; k++)
            unpack(c->rows + c->unknown[k] * ROW, &c->measured[c->unknown[k]]);
        if (m->ranks.rank == 0) status = keep(c, 0, c->n_unknown, err);
        status = kv_ranks_meet(&m->ranks, status, err);
    }
    m->n_measured += c->n_unknown;
    if (status == KVANT_OK) m->progress->done = done;
    return status;
}

static kvant_status measure_chunk(struct kv_measure *m, struct kvant_plan *const *plans, int n,
                                  struct kvant_eval_result *results, struct kvant_error *err)
{
    struct chunk c = { .m = m, .plans = plans, .n = n };
    c.keys = kv_alloc((size_t)n, sizeof *c.keys);
    c.measured = kv_alloc((size_t)n, sizeof *c.measured);
    c.rows = kv_alloc((size_t)n * ROW + 1, sizeof *c.rows);
    c.unknown = kv_alloc((size_t)n, sizeof *c.unknown);
    kvant_status status = c.keys && c.measured && c.rows && c.unknown
                              ? KVANT_OK
                              : kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for measuring %d plans",
                                             n);
    if (status == KVANT_OK) status = look_up(&c, err);
    if (status == KVANT_OK && c.n_unknown) status = measure_unknown(&c, err);
    for (int i = 0; c.keys && i < n; i++) {
        if (status == KVANT_OK) results[i] = c.measured[i].result;
        kv_free(c.keys[i]);
    }
    kv_free(c.keys);
    kv_free(c.measured);
    kv_free(c.rows);
    kv_free(c.unknown);
    return status;
}

/* Plans of a chunk: a batch for each process. */
static int chunk_size(const struct kv_measure *m, int n_left)
{
    int most = KV_MEASURE_BATCH * kv_ranks_count(&m->ranks);
    return n_left < most ? n_left : most;
}

kvant_status kv_measure_plans(struct kv_measure *m, struct kvant_plan *const *plans, int n,
                              struct kvant_eval_result *results, struct kvant_error *err)
{
    for (int first = 0; first < n;) {
        int n_chunk = chunk_size(m, n - first);
        KV_TRY(measure_chunk(m, plans + first, n_chunk, results + first, err));
        first += n_chunk;
    }
    return KVANT_OK;
}

kvant_status kv_measure_made(struct kv_measure *m, kv_measure_make_fn make, void *user, int n,
                             struct kvant_eval_result *results, struct kvant_error *err)
{
    struct kvant_plan **plans = kv_alloc((size_t)chunk_size(m, n), sizeof *plans);
    if (n && !plans) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for measuring %d plans", n);
    kvant_status status = KVANT_OK;
    for (int first = 0; status == KVANT_OK && first < n;) {
        int n_chunk = chunk_size(m, n - first);
        for (int i = 0; status == KVANT_OK && i < n_chunk; i++)
            status = make(user, first + i, &plans[i], err);
        if (status == KVANT_OK) status = kv_measure_plans(m, plans, n_chunk, results + first, err);
        for (int i = 0; i < n_chunk; i++) {
            kvant_plan_close(plans[i]);
            plans[i] = NULL;
        }
        first += n_chunk;
    }
    kv_free(plans);
    return status;
}
