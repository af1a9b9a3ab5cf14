/*
 * Scores of an answer from what its positions left in the cache, from hidden states, and from the logits.
 *
 * Positions: an answer of T tokens after a prompt of P is made by the T positions P − 1 .. P + T − 2, the
 * last one of the prompt and all of the answer but its last. These are in the cache when the answer is
 * complete, and their logits chose its tokens; so one range serves the trajectories and the probabilities.
 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/model.h"
#include "read/coe.h"
#include "read/pool.h"

#define LEAST          -104.0f /* below the largest logit: e^-104 is no float, 0 times infinity no number */
#define SPREAD_ROWS    16
#define ROWS_AT_A_TIME 128 /* tokens whose pooled rows are held */

static const struct kvant_embed_options defaults = KVANT_EMBED_OPTIONS_INIT;

/* ------------------------------------------------------------------------------------------ the cache -- */

static kvant_status coe_over_tokens(const struct kv_pooling *p, const struct kvant_session *session, int seq,
                                    int64_t first, int64_t last, struct kvant_coe *out,
                                    struct kvant_error *err)
{
    struct kv_coe_path path;
    KV_TRY(kv_coe_open(&path, (size_t)p->layer_dim, err));
    float *rows = kv_alloc((size_t)p->layer_dim * ROWS_AT_A_TIME, sizeof *rows);
    kvant_status status = rows ? KVANT_OK
                               : kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for pooled tokens");
    for (int64_t t = first; t < last && status == KVANT_OK; t += ROWS_AT_A_TIME) {
        int64_t end = last - t < ROWS_AT_A_TIME ? last : t + ROWS_AT_A_TIME;
        status = kv_pooling_rows(p, session, seq, t, end, rows, err);
        for (int64_t i = t; i < end && status == KVANT_OK; i++)
            status = kv_coe_add(&path, rows + (i - t) * p->layer_dim, err);
    }
    if (status == KVANT_OK) kv_coe_finish(&path, out);
    kv_free(rows);
    kv_coe_close(&path);
    return status;
}

/* The mean vector of each layer, from sums over n tokens. */
static kvant_status coe_of_sums(const double *sums, int n_layers, size_t dim, int64_t n,
                                struct kvant_coe *out, struct kvant_error *err)
{
    struct kv_coe_path path;
    KV_TRY(kv_coe_open(&path, dim, err));
    float *mean = kv_alloc(dim, sizeof *mean);
    kvant_status status = mean ? KVANT_OK
                               : kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for a layer's mean");
    for (int l = 0; l < n_layers && status == KVANT_OK; l++) {
        for (size_t i = 0; i < dim; i++) mean[i] = (float)(sums[(size_t)l * dim + i] / (double)n);
        status = kv_coe_add(&path, mean, err);
    }
    if (status == KVANT_OK) kv_coe_finish(&path, out);
    kv_free(mean);
    kv_coe_close(&path);
    return status;
}

static kvant_status coe_over_layers(const struct kv_pooling *p, const struct kvant_session *session, int seq,
                                    int64_t first, int64_t last, struct kvant_coe *out,
                                    struct kvant_error *err)
{
    double *sums = kv_alloc((size_t)p->n_layers * (size_t)p->layer_dim, sizeof *sums);
    if (!sums) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the sums of %d layers", p->n_layers);
    kvant_status status = kv_pooling_sum(p, session, seq, first, last, sums, err);
    if (status == KVANT_OK)
        status = coe_of_sums(sums, p->n_layers, (size_t)p->layer_dim, last - first, out, err);
    kv_free(sums);
    return status;
}

kvant_status kvant_score_sequence(struct kvant_session *session, int seq, int64_t token_first,
                                  int64_t token_last, const struct kvant_embed_options *opt,
                                  struct kvant_coe *over_tokens, struct kvant_coe *over_layers,
                                  struct kvant_error *err)
{
    struct kv_pooling p;
    struct kv_seq *held;
    if (!opt) opt = &defaults;
    if (opt->size != sizeof *opt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_embed_options.size is not set; use KVANT_EMBED_OPTIONS_INIT");
    KV_TRY(kv_pooling_set(&p, kv_session_model(session), opt, err));
    KV_TRY(kv_session_sequence(session, seq, &held, err));
    KV_TRY(kv_pooling_tokens(&token_first, &token_last, kv_seq_n_tokens(held), err));
    KV_TRY(coe_over_tokens(&p, session, seq, token_first, token_last, over_tokens, err));
    return coe_over_layers(&p, session, seq, token_first, token_last, over_layers, err);
}

/* ------------------------------------------------------------------------------------------ the logits -- */

/* log Σ exp(x_i − max) and Σ p_i (x_i − max), through the kernel of softmax, which takes rows of 64. */
static void spread_of(const struct kv_kernels *kernels, const float *logits, int n, float max,
                      double *log_sum, double *mean_below)
{
    double total = 0, product = 0;
    for (int i = 0; i < n; i += SPREAD_ROWS * KV_TILE) {
        float tile[SPREAD_ROWS * KV_TILE], below[SPREAD_ROWS * KV_TILE], part[8] = { 0 };
        float sum[SPREAD_ROWS] = { 0 }, keep[SPREAD_ROWS], top[SPREAD_ROWS];
        int first[SPREAD_ROWS] = { 0 }, last[SPREAD_ROWS];
        int held = n - i < SPREAD_ROWS * KV_TILE ? n - i : SPREAD_ROWS * KV_TILE;
        int n_rows = (held + KV_TILE - 1) / KV_TILE;
        memcpy(tile, logits + i, (size_t)held * sizeof *tile);
        for (int j = held; j < n_rows * KV_TILE; j++) tile[j] = -INFINITY;
        for (int j = 0; j < n_rows * KV_TILE; j++) { /* no fmaxf, which is a call each */
            float x = tile[j] - max;
            below[j] = x > LEAST ? x : LEAST;
        }
        for (int r = 0; r < n_rows; r++) {
            top[r] = max;
            last[r] = held - r * KV_TILE < KV_TILE ? held - r * KV_TILE : KV_TILE;
        }
        kernels->attn_soften(&(struct kv_soften){ tile, n_rows, first, last, top, sum, keep });
        for (int j = 0; j < n_rows * KV_TILE; j += 8)
            for (int l = 0; l < 8; l++) part[l] += tile[j + l] * below[j + l];
        for (int l = 0; l < 8; l++) product += (double)part[l];
        for (int r = 0; r < n_rows; r++) total += (double)sum[r];
    }
    *log_sum = log(total);
    *mean_below = product / total;
}

/* In lanes, which the compiler keeps in vectors: one after the other takes as long as all the rest. */
static float largest(const float *x, int n)
{
    float lane[16], max = -INFINITY;
    int i = 0;
    for (int l = 0; l < 16; l++) lane[l] = -INFINITY;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int l = 0; l < 16; l++) max = lane[l] > max ? lane[l] : max;
    return max;
}

void kvant_confidence_add(const struct kvant_model *model, struct kvant_confidence *c, const float *logits,
                          kvant_token chosen)
{
    int n = model->n_vocab;
    float max = largest(logits, n);
    double log_sum, mean_below;
    spread_of(&model->kernels, logits, n, max, &log_sum, &mean_below);
    /* p_max = e^0 / Σ; entropy −Σ p ln p with ln p = x − max − log Σ */
    c->max_prob += exp(-log_sum);
    c->log_max_prob += -log_sum;
    c->entropy += (log_sum - mean_below) / log(2.0);
    if (chosen >= 0 && chosen < n) c->log_prob += (double)(logits[chosen] - max) - log_sum;
    c->n++;
}

void kvant_confidence_mean(const struct kvant_confidence *sums, struct kvant_confidence *out)
{
    double n = sums->n > 0 ? (double)sums->n : NAN;
    *out = (struct kvant_confidence){ sums->max_prob / n, sums->log_max_prob / n, sums->entropy / n,
                                      sums->log_prob / n, sums->n };
}

/* ------------------------------------------------------------------------------------- a whole answer -- */

struct answer_job {
    struct kvant_session *session;
    const kvant_token *tokens;
    int64_t n_prompt, n_answer;
    int seq, n_embd, n_layer;
    double *layer_sums;  /* (n_layer + 1, n_embd) over the answer's positions, or NULL */
    double *layer_first; /* the same, with position 0 for the first of them            */
    float *token_means;  /* (n_answer, n_embd) over the layers                         */
};

static void keep_hidden(void *user, int layer, int seq, int64_t position, const float *x)
{
    struct answer_job *j = user;
    int64_t i = position - (j->n_prompt - 1);
    if (seq != j->seq || i >= j->n_answer || (i < 0 && position != 0)) return;
    size_t n = (size_t)j->n_embd, at = (size_t)layer * n;
    if (position == 0 || i > 0)
        for (size_t c = 0; c < n; c++) j->layer_first[at + c] += (double)x[c];
    if (i < 0) return;
    float share = 1.0f / (float)(j->n_layer + 1);
    for (size_t c = 0; c < n; c++) {
        j->layer_sums[at + c] += (double)x[c];
        j->token_means[(size_t)i * n + c] += share * x[c];
    }
}

static kvant_status step(struct answer_job *j, struct kvant_batch_entry *entries, int64_t first, int64_t last,
                         bool logits, struct kvant_error *err)
{
    for (int64_t i = first; i < last; i++)
        entries[i - first] = (struct kvant_batch_entry){ j->seq, j->tokens[i], logits };
    return kvant_session_step(j->session, entries, (size_t)(last - first), err);
}

/* The prompt but for its last token, then the positions that made the answer, as many as there are rows of
 * logits. */
static kvant_status run_answer(struct answer_job *j, struct kvant_answer_score *out, struct kvant_error *err)
{
    const struct kvant_model *m = kv_session_model(j->session);
    int64_t begin = j->n_prompt - 1, end = begin + j->n_answer, rows = kv_session_n_logits(j->session);
    if (rows > kv_session_n_batch(j->session)) rows = kv_session_n_batch(j->session);
    int64_t most = begin > rows ? begin : rows;
    struct kvant_batch_entry *entries = kv_alloc((size_t)most, sizeof *entries);
    if (!entries) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %lld tokens", (long long)most);
    kvant_status status = begin > 0 ? step(j, entries, 0, begin, false, err) : KVANT_OK;
    for (int64_t i = begin; i < end && status == KVANT_OK; i += rows) {
        int64_t last = end - i < rows ? end : i + rows;
        status = step(j, entries, i, last, true, err);
        for (int64_t k = i; k < last && status == KVANT_OK; k++)
            kvant_confidence_add(m, &out->confidence, kvant_session_logits(j->session, (int)(k - i)),
                                 j->tokens[k + 1]);
    }
    kv_free(entries);
    return status;
}

static kvant_status hidden_scores(const struct answer_job *j, struct kvant_answer_score *out,
                                  struct kvant_error *err)
{
    size_t n = (size_t)j->n_embd;
    KV_TRY(kvant_coe_points(j->token_means, (size_t)j->n_answer, n, &out->hidden_tokens, err));
    KV_TRY(coe_of_sums(j->layer_sums, j->n_layer + 1, n, j->n_answer, &out->hidden_layers, err));
    return coe_of_sums(j->layer_first, j->n_layer + 1, n, j->n_answer, &out->hidden_layers_bos, err);
}

static kvant_status score_answer(struct answer_job *j, const struct kvant_embed_options *opt,
                                 struct kvant_answer_score *out, struct kvant_error *err)
{
    struct kv_hidden_capture capture = { keep_hidden, j };
    kv_session_set_hidden(j->session, &capture);
    kvant_status status = run_answer(j, out, err);
    kv_session_set_hidden(j->session, NULL);
    if (status == KVANT_OK)
        status = kvant_score_sequence(j->session, j->seq, j->n_prompt - 1, 0, opt, &out->kv_tokens,
                                      &out->kv_layers, err);
    return status == KVANT_OK ? hidden_scores(j, out, err) : status;
}

kvant_status kvant_score_answer(struct kvant_session *session, const struct kvant_plan *plan,
                                const kvant_token *tokens, size_t n_tokens, size_t n_prompt,
                                const struct kvant_embed_options *opt, struct kvant_answer_score *out,
                                struct kvant_error *err)
{
    const struct kvant_model *m = kv_session_model(session);
    *out = (struct kvant_answer_score){ 0 };
    if (n_prompt == 0 || n_tokens <= n_prompt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "%zu tokens of which %zu are the prompt: both it and the answer need one", n_tokens,
                n_prompt);
    struct answer_job j = { .session = session,
                            .tokens = tokens,
                            .n_prompt = (int64_t)n_prompt,
                            .n_answer = (int64_t)(n_tokens - n_prompt),
                            .seq = -1,
                            .n_embd = m->hp.n_embd,
                            .n_layer = m->hp.n_layer };
    size_t n = (size_t)j.n_embd, n_layers = (size_t)j.n_layer + 1;
    j.layer_sums = kv_alloc(n * n_layers, sizeof *j.layer_sums);
    j.layer_first = kv_alloc(n * n_layers, sizeof *j.layer_first);
    j.token_means = kv_alloc(n * (size_t)j.n_answer, sizeof *j.token_means);
    kvant_status status = KVANT_OK;
    if (!j.layer_sums || !j.layer_first || !j.token_means)
        status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for the hidden states of %zu tokens",
                              n_tokens - n_prompt);
    if (status == KVANT_OK) status = kvant_sequence_open(session, plan, (int64_t)n_tokens, &j.seq, err);
    if (status == KVANT_OK) status = score_answer(&j, opt, out, err);
    if (j.seq >= 0) kvant_sequence_close(session, j.seq);
    kv_free(j.layer_sums);
    kv_free(j.layer_first);
    kv_free(j.token_means);
    return status;
}
