/*
 * kvant_eval_run: plans against the 16-bit cache on the same tokens.
 *
 * One sequence with the 16-bit cache and one per plan are stepped together, a few tokens of each in one
 * batch, so that the weights are read once for all of them. Every position of a plan reads its own quantized
 * past: errors accumulate as in use. A plan whose rows are no longer finite numbers has collapsed: it sits
 * out the rest of the chunk, with infinite scores, and the others go on.
 *
 *   rows of a step:  base: t … t+r−1 | plan 0: t … t+r−1 | plan 1: …        r is what LOGITS_BYTES allows
 *
 * Sums differ in their last bits with r, and a quantized cache makes 1e-4 of a KLD of that. So r is the same
 * for up to COMPANY sequences: what is measured of a plan does not depend on the plans beside it. It is the
 * same over likely tokens alone, where plans have no logits to hold.
 *
 * Plans that begin with the same layers (tables included) share the work of these layers: a plan enters the
 * pass at its first layer of its own, from the rows of the plan it shares most layers with. The numbers are
 * the same bit by bit. Single-layer probes cost half a pass in this way.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/threads.h"
#include "model/model.h"
#include "run/session.h"
#include "tune/eval.h"
#include "tune/likely.h"
#include "tune/metrics.h"

#define LOGITS_BYTES ((size_t)192 << 20) /* of one step: all memory stays below 500 MB */
#define BATCH_ROWS 512
#define COMPANY       16
#define N_CTX_DEFAULT 2048

struct eval {
    const struct kvant_model *model;
    const struct kvant_eval_options *opt;
    const kvant_token *tokens; /* (n_tokens)                                              */
    int64_t n_tokens, n_ctx;
    const struct kvant_plan *const *plans; /* (n_plans)                                   */
    int n_plans;
    int n_rows;                /* most tokens of each sequence in one step                 */
    struct kvant_plan *f16;
    struct kvant_session *session;
    struct kv_pool *pool;
    int *seq;                  /* (1 + n_plans): base first                                */
    int *shared, *source;      /* (1 + n_plans): layers that `source` (a lower index) does for it; 0: none */
    bool share;
    bool source_failed;        /* a plan that others relied on has collapsed               */
    struct kvant_batch_entry *entries;
    float *prob;               /* (n_threads, n_vocab)                                     */
    struct kv_scores *scores;  /* (1 + n_plans)                                            */
    int64_t n_scored;          /* so far                                                   */
    /* the step being scored */
    const kvant_token *next;   /* (rows): the token after each row                         */
    int *first_row;            /* (1 + n_plans) of its logits; -1: collapsed in this chunk */
    struct kv_base_row *bases; /* (n_rows) only log_sum is used after scoring              */
    bool of_likely;            /* the session has logits of the base alone, and there are: */
    struct kv_likely *likely;  /* (n_threads)                                              */
    float *normed;             /* (n_rows, 1 + n_plans, n_embd) what the output head reads */
    int64_t position;          /* in its sequence, of the step's first row                 */
};

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The plan of sequence i. */
static const struct kvant_plan *plan_at(const struct eval *e, int i)
{
    return i ? e->plans[i - 1] : e->f16;
}

static void eval_close(struct eval *e)
{
    for (int i = 0; e->scores && i <= e->n_plans; i++) {
        kv_free(e->scores[i].kld);
        kv_free(e->scores[i].nll);
        kv_free(e->scores[i].same);
    }
    kv_free(e->scores);
    kv_free(e->seq);
    kv_free(e->shared);
    kv_free(e->source);
    kv_free(e->first_row);
    kv_free(e->entries);
    kv_free(e->prob);
    kv_free(e->bases);
    kv_free(e->normed);
    for (int i = 0; e->likely && i < e->model->n_threads; i++) kv_likely_close(&e->likely[i]);
    kv_free(e->likely);
    kv_pool_close(e->pool);
    kvant_session_close(e->session);
    kvant_plan_close(e->f16);
}

static kvant_status open_scores(struct eval *e, int64_t n_positions, struct kvant_error *err)
{
    e->scores = kv_alloc((size_t)e->n_plans + 1, sizeof *e->scores);
    for (int i = 0; e->scores && i <= e->n_plans; i++) {
        struct kv_scores *s = &e->scores[i];
        s->kld = kv_alloc((size_t)n_positions, sizeof *s->kld);
        s->nll = kv_alloc((size_t)n_positions, sizeof *s->nll);
        s->same = kv_alloc((size_t)n_positions, sizeof *s->same);
        if (!s->kld || !s->nll || !s->same) break;
        s->n = n_positions;
    }
    if (!e->scores || e->scores[e->n_plans].n != n_positions)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the scores of %lld positions",
                (long long)n_positions);
    return KVANT_OK;
}

/* Layers that both plans store in the same way. Sinks, tail and granule decide where rows are read from. */
static int shared_layers(const struct kvant_plan *a, const struct kvant_plan *b)
{
    size_t n_head = (size_t)a->n_head_kv, row = n_head * (size_t)a->head_dim;
    if (a->sinks != b->sinks || a->tail != b->tail || a->granule != b->granule) return 0;
    for (int layer = 0; layer < a->n_layer; layer++) {
        for (size_t i = (size_t)layer * n_head; i < (size_t)(layer + 1) * n_head; i++) {
            const struct kv_recipe *r = &a->recipe[i];
            if (!kv_recipe_equal(r, &b->recipe[i])) return layer;
            if (r->key_mixed && memcmp(&a->channels[i], &b->channels[i], sizeof *a->channels) != 0)
                return layer;
            if (r->key_centered && memcmp(a->center + (size_t)layer * row, b->center + (size_t)layer * row,
                                          row * sizeof *a->center) != 0)
                return layer;
        }
    }
    return a->n_layer - 1; /* equal plans: something must be left to compute */
}

/* The source's own entry must be lower; if it is not, its source shares as many layers. */
static void find_sources(struct eval *e)
{
    for (int i = 1; i <= e->n_plans; i++) {
        e->shared[i] = e->source[i] = 0;
        for (int j = 0; j < i; j++) {
            int n = shared_layers(plan_at(e, i), plan_at(e, j));
            if (n > e->shared[i]) e->shared[i] = n, e->source[i] = j;
        }
        while (e->shared[i] && e->shared[e->source[i]] >= e->shared[i])
            e->source[i] = e->source[e->source[i]];
    }
}

static kvant_status open_sequence(struct eval *e, int i, struct kvant_error *err)
{
    KV_TRY(kvant_sequence_open(e->session, plan_at(e, i), e->n_ctx, &e->seq[i], err));
    if (e->shared[i]) kv_session_set_entry(e->session, e->seq[i], e->shared[i], e->seq[e->source[i]]);
    return KVANT_OK;
}

/* What the output head reads of every sequence. */
static void keep_normed(void *user, int layer, int seq, int64_t position, const float *x)
{
    const struct eval *e = user;
    const struct kvant_model *m = e->model;
    if (layer < m->hp.n_layer) return;
    int i = 0;
    while (e->seq[i] != seq) i++;
    size_t at = (size_t)(position - e->position) * ((size_t)e->n_plans + 1) + (size_t)i;
    m->kernels.rms_norm(x, m->output_norm, m->hp.n_embd, m->hp.norm_eps,
                        e->normed + at * (size_t)m->hp.n_embd);
}

static kvant_status open_likely(struct eval *e, struct kvant_error *err)
{
    const struct kvant_model *m = e->model;
    const struct kv_hidden_capture hidden = { keep_normed, e };
    size_t n_rows = (size_t)e->n_rows * ((size_t)e->n_plans + 1);
    e->likely = kv_alloc((size_t)m->n_threads, sizeof *e->likely);
    e->normed = kv_alloc(n_rows * (size_t)m->hp.n_embd, sizeof *e->normed);
    if (!e->likely || !e->normed)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for evaluating %d plans", e->n_plans);
    for (int i = 0; i < m->n_threads; i++)
        KV_TRY(kv_likely_open(&e->likely[i], m, e->n_plans + 1, err));
    kv_session_set_hidden(e->session, &hidden);
    return KVANT_OK;
}

static kvant_status eval_open(struct eval *e, int64_t n_positions, struct kvant_error *err)
{
    size_t n_seqs = (size_t)e->n_plans + 1, n_vocab = (size_t)e->model->n_vocab;
    size_t company = n_seqs < COMPANY ? COMPANY : n_seqs,
           fit = LOGITS_BYTES / (n_vocab * sizeof(float) * company);
    if (fit > BATCH_ROWS / company) fit = BATCH_ROWS / company;
    e->n_rows = fit < 1 ? 1 : (int)smaller((int64_t)fit, e->n_ctx);

    struct kvant_session_options opt = KVANT_SESSION_OPTIONS_INIT;
    opt.n_sequences = (int)n_seqs;
    opt.n_batch = (int)n_seqs * e->n_rows;
    opt.n_logits = e->of_likely ? e->n_rows : opt.n_batch;
    KV_TRY(open_scores(e, n_positions, err));
    KV_TRY(kvant_plan_open(&e->f16, e->model, "f16", err));
    KV_TRY(kvant_session_open(&e->session, e->model, &opt, err));
    KV_TRY(kv_pool_open(&e->pool, e->model->n_threads, err));
    e->seq = kv_alloc(n_seqs, sizeof *e->seq);
    e->entries = kv_alloc(n_seqs * (size_t)e->n_rows, sizeof *e->entries);
    e->prob = kv_alloc((size_t)e->model->n_threads * n_vocab, sizeof *e->prob);
    e->bases = kv_alloc((size_t)e->n_rows, sizeof *e->bases);
    e->first_row = kv_alloc(n_seqs, sizeof *e->first_row);
    e->shared = kv_alloc(n_seqs, sizeof *e->shared);
    e->source = kv_alloc(n_seqs, sizeof *e->source);
    if (!e->shared || !e->source || !e->seq || !e->first_row || !e->entries || !e->prob || !e->bases)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for evaluating %d plans", e->n_plans);
    if (e->of_likely) KV_TRY(open_likely(e, err));
    if (e->share) find_sources(e);
    for (int i = 0; i <= e->n_plans; i++) KV_TRY(open_sequence(e, i, err));
    return KVANT_OK;
}

/* Logits of sequence i; l: of likely tokens, or NULL. */
static const float *logits_of(const struct eval *e, const struct kv_likely *l, int i, int64_t row)
{
    return l ? l->logits + (size_t)i * (size_t)l->n
             : kvant_session_logits(e->session, e->first_row[i] + (int)row);
}

/* Position `row` of the step: the base's softmax once, then every plan against it. */
static void score_row(void *user, int64_t row, int i_thread)
{
    struct eval *e = user;
    const struct kvant_model *m = e->model;
    struct kv_likely *l = e->of_likely ? &e->likely[i_thread] : NULL;
    struct kv_base_row *base = &e->bases[row];
    int64_t at = e->n_scored + row;
    if (l) {
        size_t n_seqs = (size_t)e->n_plans + 1;
        kv_likely_set(l, m, kvant_session_logits(e->session, (int)row), e->next[row],
                      e->normed + (size_t)row * n_seqs * (size_t)m->hp.n_embd, (int)n_seqs);
    }
    int n = l ? l->n : m->n_vocab;
    kvant_token next = l ? l->next : e->next[row];
    kv_base_row_set(base, &m->kernels, logits_of(e, l, 0, row), n,
                    e->prob + (size_t)i_thread * (size_t)m->n_vocab);
    kv_scores_set_base(&e->scores[0], at, base, next);
    for (int i = 1; i <= e->n_plans; i++) {
        if (e->first_row[i] < 0) kv_scores_set_collapsed(&e->scores[i], at);
        else kv_scores_set(&e->scores[i], at, &m->kernels, base, logits_of(e, l, i, row), n, next);
    }
}

/* One forward pass for every sequence that has not collapsed. A plan that collapses here is marked; the base
 * must not, nor the plan whose logits are asked for. */
static kvant_status forward(struct eval *e, int64_t first, int n, struct kvant_error *err)
{
    struct kvant_error failure;
    int n_entries = 0;
    for (int i = 0; i <= e->n_plans; i++) {
        if (e->first_row[i] < 0) continue;
        e->first_row[i] = n_entries;
        for (int row = 0; row < n; row++)
            e->entries[n_entries++] = (struct kvant_batch_entry){ e->seq[i], e->tokens[first + row],
                                                                  i == 0 || !e->of_likely };
    }
    kvant_status status = kvant_session_step(e->session, e->entries, (size_t)n_entries, &failure);
    bool hopeless = status != KVANT_ERR_NUMERIC || kv_session_sequence_failed(e->session, e->seq[0]) ||
                    (e->opt->on_logits && e->n_plans && kv_session_sequence_failed(e->session, e->seq[1]));
    if (status != KVANT_OK && hopeless) {
        if (err) *err = failure;
        return status;
    }
    for (int i = 1; i <= e->n_plans; i++)
        if (kv_session_sequence_failed(e->session, e->seq[i])) e->first_row[i] = -1;
    for (int i = 1; i <= e->n_plans; i++)
        e->source_failed |= e->shared[i] && e->first_row[i] >= 0 && e->first_row[e->source[i]] < 0;
    return KVANT_OK;
}

/* Tokens [first, first + n) of every sequence; n_scored of the rows have a following token in the chunk. */
static kvant_status eval_step(struct eval *e, int64_t first, int n, int n_scored, struct kvant_error *err)
{
    KV_TRY(forward(e, first, n, err));
    e->next = e->tokens + first + 1;
    kv_pool_for(e->pool, n_scored, score_row, e);
    for (int row = 0; row < n_scored; row++)
        if (!isfinite(e->bases[row].log_sum))
            KV_FAIL(err, KVANT_ERR_NUMERIC, first + row,
                    "the 16-bit cache itself gives logits that are not finite at token %lld",
                    (long long)(first + row));
    e->n_scored += n_scored;

    if (e->opt->on_logits &&
        !e->opt->on_logits(e->opt->user, kvant_session_logits(e->session, e->first_row[e->n_plans > 0]), n,
                           e->model->n_vocab))
        KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "stopped by the reader of the logits");
    if (e->opt->progress && !e->opt->progress(e->opt->user, "evaluating", first + n, e->n_tokens))
        KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "stopped after %lld of %lld tokens", (long long)(first + n),
                (long long)e->n_tokens);
    return KVANT_OK;
}

/* Empty sequences again; one that collapsed is opened anew. */
static kvant_status restart(struct eval *e, struct kvant_error *err)
{
    for (int i = 0; i <= e->n_plans; i++) {
        if (e->first_row[i] >= 0) {
            KV_TRY(kvant_sequence_truncate(e->session, e->seq[i], 0, err));
            continue;
        }
        kvant_sequence_close(e->session, e->seq[i]);
        KV_TRY(open_sequence(e, i, err));
        e->first_row[i] = 0;
    }
    return KVANT_OK;
}

static kvant_status eval_chunks(struct eval *e, struct kvant_error *err)
{
    for (int64_t chunk = 0; chunk < e->n_tokens; chunk += e->n_ctx) {
        int64_t end = smaller(chunk + e->n_ctx, e->n_tokens);
        if (chunk > 0) KV_TRY(restart(e, err));
        for (int64_t first = chunk; first < end; first += e->n_rows) {
            int n = (int)smaller(e->n_rows, end - first);
            e->position = first - chunk;
            KV_TRY(eval_step(e, first, n, first + n == end ? n - 1 : n, err));
            if (e->source_failed) return KVANT_OK;
        }
    }
    return KVANT_OK;
}

/* Again from the start, nothing shared. */
static kvant_status eval_alone(struct eval *e, int64_t n_positions, struct kvant_error *err)
{
    struct eval alone = { .model = e->model, .opt = e->opt, .tokens = e->tokens, .n_tokens = e->n_tokens,
                          .n_ctx = e->n_ctx, .plans = e->plans, .n_plans = e->n_plans,
                          .of_likely = e->of_likely };
    eval_close(e);
    *e = alone;
    KV_TRY(eval_open(e, n_positions, err));
    return eval_chunks(e, err);
}

static void add_memory(struct kvant_eval_result *r, const struct kvant_plan *plan, int64_t n_ctx)
{
    struct kvant_plan_memory memory;
    kvant_plan_get_memory(plan, n_ctx, &memory);
    r->page_bits = memory.page_bits;
    r->true_bits = memory.true_bits;
    r->bytes_per_token = memory.bytes_per_token;
}

static kvant_status check_arguments(const struct kvant_model *model, int n_plans, const kvant_token *tokens,
                                    size_t n_tokens, const struct kvant_eval_options *opt,
                                    struct kvant_error *err)
{
    if (opt->size != sizeof *opt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_eval_options.size is not set; use KVANT_EVAL_OPTIONS_INIT");
    if (n_plans < 0 || n_plans > BATCH_ROWS - 1)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d plans: 0 to %d", n_plans, BATCH_ROWS - 1);
    if (opt->n_ctx < 0 || opt->n_ctx == 1 || opt->n_ctx > INT32_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_ctx %lld: at least 2 tokens a chunk, or 0",
                (long long)opt->n_ctx);
    if (opt->n_chunks < 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_chunks %lld: 0 (all) or more", (long long)opt->n_chunks);
    if (n_tokens < 2 || n_tokens > INT64_MAX / 2)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%zu tokens: the text needs at least 2", n_tokens);
    for (size_t i = 0; i < n_tokens; i++)
        if (tokens[i] < 0 || tokens[i] >= model->n_vocab)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, (int64_t)i, "token %zu is %d, outside the vocabulary of %d", i,
                    tokens[i], model->n_vocab);
    return KVANT_OK;
}

kvant_status kv_eval_run(const struct kvant_model *model, const struct kvant_plan *const *plans, int n_plans,
                         const kvant_token *tokens, size_t n_tokens, const struct kvant_eval_options *opt,
                         bool of_likely, struct kvant_eval_result *results, struct kvant_eval_result *base,
                         struct kvant_error *err)
{
    assert(!of_likely || !opt->on_logits);
    KV_TRY(check_arguments(model, n_plans, tokens, n_tokens, opt, err));

    struct eval e = { .model = model, .opt = opt, .tokens = tokens, .plans = plans, .n_plans = n_plans,
                      .of_likely = of_likely };
    e.share = !opt->on_logits; /* whose reader must get each row once */
    e.n_ctx = opt->n_ctx ? opt->n_ctx : smaller(N_CTX_DEFAULT, model->hp.n_ctx_train);
    e.n_tokens = (int64_t)n_tokens;
    if (opt->n_chunks && opt->n_chunks < (e.n_tokens + e.n_ctx - 1) / e.n_ctx)
        e.n_tokens = opt->n_chunks * e.n_ctx;
    int64_t n_chunks = (e.n_tokens + e.n_ctx - 1) / e.n_ctx;
    int64_t n_ctx_bits = e.n_ctx;
    e.n_ctx = smaller(e.n_ctx, e.n_tokens);

    kvant_status status = eval_open(&e, e.n_tokens - n_chunks, err);
    if (status == KVANT_OK) status = eval_chunks(&e, err);
    if (status == KVANT_OK && e.source_failed) status = eval_alone(&e, e.n_tokens - n_chunks, err);
    for (int i = 0; status == KVANT_OK && i <= n_plans; i++) {
        struct kvant_eval_result *out = i ? &results[i - 1] : base;
        if (!out) continue;
        *out = (struct kvant_eval_result){ 0 };
        kv_scores_reduce(&e.scores[i], &e.scores[0], out);
        add_memory(out, plan_at(&e, i), n_ctx_bits);
    }
    eval_close(&e);
    return status;
}

kvant_status kvant_eval_run(const struct kvant_model *model, const struct kvant_plan *const *plans,
                            int n_plans, const kvant_token *tokens, size_t n_tokens,
                            const struct kvant_eval_options *options, struct kvant_eval_result *results,
                            struct kvant_eval_result *base, struct kvant_error *err)
{
    static const struct kvant_eval_options defaults = KVANT_EVAL_OPTIONS_INIT;
    return kv_eval_run(model, plans, n_plans, tokens, n_tokens, options ? options : &defaults, false, results,
                       base, err);
}
