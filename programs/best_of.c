#include "best_of.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct writer {
    struct best_of *out;
    const struct kvant_model *model;
    const struct sampling_flags *flags;
    struct kvant_session *session;
    struct kvant_sampler *samplers[BEST_OF_MAX];
    struct kvant_confidence sums[BEST_OF_MAX];
    int seqs[BEST_OF_MAX], row[BEST_OF_MAX]; /* row of logits; -1: the answer has ended */
    int64_t n_ctx;
};

static kvant_status open_all(struct writer *w, const struct kvant_plan *plan, struct kvant_error *err)
{
    struct kvant_model_info info;
    struct kvant_session_options options = KVANT_SESSION_OPTIONS_INIT;
    kvant_model_get_info(w->model, &info);
    options.n_sequences = w->out->n;
    kvant_status status = kvant_session_open(&w->session, w->model, &options, err);
    struct sampling_flags flags = *w->flags;
    if (flags.seed < 0) flags.seed = generator_seed();
    for (int i = 0; i < w->out->n && status == KVANT_OK; i++) {
        struct kvant_sampler_options sampler = generator_sampler_options(&flags);
        sampler.seed += (uint64_t)i;
        w->seqs[i] = -1;
        status = kvant_sampler_open(&w->samplers[i], info.n_vocab, &sampler, err);
    }
    if (status == KVANT_OK) status = kvant_sequence_open(w->session, plan, w->n_ctx, &w->seqs[0], err);
    return status;
}

static kvant_status read_prompt(struct writer *w, const kvant_token *prompt, size_t n,
                                struct kvant_error *err)
{
    struct kvant_batch_entry *entries = allocate(n, sizeof *entries);
    for (size_t i = 0; i < n; i++) entries[i] = (struct kvant_batch_entry){w->seqs[0], prompt[i], i + 1 == n};
    kvant_status status = kvant_session_step(w->session, entries, n, err);
    free(entries);
    for (int i = 1; i < w->out->n && status == KVANT_OK; i++)
        status = kvant_sequence_fork(w->session, w->seqs[0], &w->seqs[i], err);
    return status;
}

/* The next token of answer i from its row; true when it goes on. */
static bool choose(struct writer *w, int i)
{
    struct answer *a = &w->out->answers[i];
    const float *logits = kvant_session_logits(w->session, w->row[i]);
    kvant_token id = kvant_sampler_next(w->samplers[i], logits, NULL);
    kvant_confidence_add(w->model, &w->sums[i], logits, id);
    if (kvant_token_is_end(w->model, id)) {
        a->finish_reason = "stop";
        return false;
    }
    if ((a->n_ids & (a->n_ids - 1)) == 0)
        a->ids = reallocate(a->ids, a->n_ids ? 2 * a->n_ids : 1, sizeof *a->ids);
    a->ids[a->n_ids++] = id;
    w->out->n_tokens++;
    int64_t n_predict = w->flags->n_predict;
    return (n_predict < 0 || (int64_t)a->n_ids < n_predict) &&
           (int64_t)(w->out->n_prompt + a->n_ids) < w->n_ctx;
}

static kvant_status write_answers(struct writer *w, struct kvant_error *err)
{
    struct kvant_batch_entry entries[BEST_OF_MAX];
    for (int i = 0; i < w->out->n; i++) w->row[i] = 0; /* all from the prompt's last row */
    for (;;) {
        size_t n = 0;
        for (int i = 0; i < w->out->n; i++) {
            if (w->row[i] < 0) continue;
            bool more = w->flags->n_predict != 0 && choose(w, i) && !interrupted();
            w->row[i] = more ? (int)n : -1;
            if (more)
                entries[n++] = (struct kvant_batch_entry){
                    w->seqs[i], w->out->answers[i].ids[w->out->answers[i].n_ids - 1], true};
        }
        if (n == 0) return KVANT_OK;
        kvant_status status = kvant_session_step(w->session, entries, n, err);
        if (status != KVANT_OK) return status;
        w->out->n_steps++;
    }
}

static kvant_status finish_answer(struct writer *w, int i, struct kvant_error *err)
{
    struct best_of *b = w->out;
    struct answer *a = &b->answers[i];
    struct kvant_answer_score score = {.confidence = w->sums[i]};
    size_t n = 0;
    kvant_detokenize(w->model, a->ids, a->n_ids, false, NULL, 0, &n, NULL);
    a->text = allocate(n + 1, 1);
    kvant_status status = kvant_detokenize(w->model, a->ids, a->n_ids, false, a->text, n, &a->n_bytes, err);
    a->text[status == KVANT_OK ? a->n_bytes : 0] = '\0';
    if (status == KVANT_OK)
        status = kvant_score_sequence(w->session, w->seqs[i], (int64_t)b->n_prompt - 1, 0, NULL,
                                      &score.kv_tokens, &score.kv_layers, err);
    scores_of(&score, b->scores[i]);
    return status;
}

/* An answer without a score (of one token, say) stands behind all that have one. */
static int highest(const struct best_of *b, int score)
{
    int best = 0;
    for (int i = 1; i < b->n; i++)
        if (b->scores[i][score] > b->scores[best][score] ||
            (isnan(b->scores[best][score]) && !isnan(b->scores[i][score])))
            best = i;
    return best;
}

int best_of_run(struct best_of *b, const struct kvant_model *model, const struct kvant_plan *plan,
                const struct sampling_flags *flags, int n, int best_by, const kvant_token *prompt,
                size_t n_prompt, int64_t n_ctx)
{
    struct kvant_error err;
    *b = (struct best_of){.n = n, .n_prompt = n_prompt};
    struct writer w = {.out = b, .model = model, .flags = flags, .n_ctx = n_ctx};
    for (int i = 0; i < n; i++)
        b->answers[i] = (struct answer){.finish_reason = "length", .n_prompt = n_prompt};
    kvant_status status = open_all(&w, plan, &err);
    double started_s = clock_s();
    if (status == KVANT_OK) status = read_prompt(&w, prompt, n_prompt, &err);
    b->prompt_s = clock_s() - started_s;
    started_s = clock_s();
    if (status == KVANT_OK) status = write_answers(&w, &err);
    for (int i = 0; i < n && status == KVANT_OK; i++) status = finish_answer(&w, i, &err);
    b->generation_s = clock_s() - started_s;
    b->best = highest(b, best_by);
    for (int i = 0; i < n; i++) kvant_sampler_close(w.samplers[i]);
    kvant_session_close(w.session);
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

void best_of_close(struct best_of *b)
{
    for (int i = 0; i < b->n; i++) answer_close(&b->answers[i]);
}
