#include "tune/errors_answers.h"

#include <string.h>

#include "base/memory.h"

#define SEQUENCES_MAX 16

bool kv_tune_progress_advance(struct kv_tune_progress *progress, const char *what, int64_t n)
{
    progress->done += n;
    return !progress->fn || progress->fn(progress->user, what, progress->done, progress->total);
}

/* Prompts [first, first + n) being answered together. */
struct writer {
    const struct kvant_model *model;
    const struct kvant_plan *f16;
    struct kvant_sampler *greedy;
    struct kvant_session *session;
    struct kv_answered *items; /* (n) */
    int n, n_predict;
    int seq[SEQUENCES_MAX];
    bool done[SEQUENCES_MAX];
    struct kvant_batch_entry *entries;
};

static kvant_status check_tokens(const struct kvant_model *model, const struct kvant_prompt *prompts, int n,
                                 struct kvant_error *err)
{
    for (int i = 0; i < n; i++) {
        if (prompts[i].n_tokens < 1 || prompts[i].n_tokens > INT32_MAX)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, i, "prompt %d has %zu tokens; at least 1 is needed", i,
                    prompts[i].n_tokens);
        for (size_t t = 0; t < prompts[i].n_tokens; t++)
            if (prompts[i].tokens[t] < 0 || prompts[i].tokens[t] >= model->n_vocab)
                KV_FAIL(err, KVANT_ERR_ARGUMENT, i,
                        "prompt %d: token %zu is %d, outside the vocabulary of %d", i, t,
                        prompts[i].tokens[t], model->n_vocab);
    }
    return KVANT_OK;
}

/* The token that follows text i, from row `row` of the logits. */
static void choose(struct writer *w, int i, int row)
{
    struct kv_answered *a = &w->items[i];
    kvant_token next = kvant_sampler_next(w->greedy, kvant_session_logits(w->session, row), NULL);
    w->done[i] = a->n_tokens >= a->n_prompt + w->n_predict || kvant_token_is_end(w->model, next);
    if (!w->done[i]) a->tokens[a->n_tokens++] = next;
}

static kvant_status begin(struct writer *w, int i, struct kvant_error *err)
{
    struct kv_answered *a = &w->items[i];
    KV_TRY(kvant_sequence_open(w->session, w->f16, a->n_prompt + w->n_predict, &w->seq[i], err));
    for (int64_t t = 0; t < a->n_prompt; t++)
        w->entries[t] = (struct kvant_batch_entry){ w->seq[i], a->tokens[t], t + 1 == a->n_prompt };
    KV_TRY(kvant_session_step(w->session, w->entries, (size_t)a->n_prompt, err));
    choose(w, i, 0);
    return KVANT_OK;
}

/* One more token of each answer that goes on. The last token of an answer is never read here: nothing would
 * be chosen after it. */
static kvant_status extend(struct writer *w, bool *any, struct kvant_error *err)
{
    size_t n = 0;
    for (int i = 0; i < w->n; i++) {
        const struct kv_answered *a = &w->items[i];
        w->done[i] |= a->n_tokens >= a->n_prompt + w->n_predict;
        if (!w->done[i])
            w->entries[n++] = (struct kvant_batch_entry){ w->seq[i], a->tokens[a->n_tokens - 1], true };
    }
    *any = n > 0;
    KV_TRY(kvant_session_step(w->session, w->entries, n, err));
    for (int i = 0, row = 0; i < w->n; i++)
        if (!w->done[i]) choose(w, i, row++);
    return KVANT_OK;
}

static kvant_status answer_group(struct writer *w, struct kv_tune_progress *progress, struct kvant_error *err)
{
    static const char what[] = "answering prompts";
    for (int i = 0; i < w->n; i++) {
        KV_TRY(begin(w, i, err));
        if (!kv_tune_progress_advance(progress, what, w->items[i].n_prompt))
            KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "stopped while answering prompts");
    }
    bool any = true;
    for (int step = 0; step < w->n_predict; step++) {
        if (any) KV_TRY(extend(w, &any, err));
        if (!kv_tune_progress_advance(progress, what, w->n))
            KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "stopped while answering prompts");
    }
    return KVANT_OK;
}

/* Answers items [first, first + n) in a session of their own. */
static kvant_status run_group(struct writer *w, int64_t n_longest, struct kv_tune_progress *progress,
                              struct kvant_error *err)
{
    struct kvant_session_options opt = KVANT_SESSION_OPTIONS_INIT;
    opt.n_sequences = opt.n_logits = w->n;
    w->entries = kv_alloc((size_t)n_longest + SEQUENCES_MAX, sizeof *w->entries);
    kvant_status status = w->entries
                              ? kvant_session_open(&w->session, w->model, &opt, err)
                              : kv_error_set(err, KVANT_ERR_MEMORY, -1,
                                             "no memory for prompts of %lld tokens", (long long)n_longest);
    if (status == KVANT_OK) status = answer_group(w, progress, err);
    kvant_session_close(w->session);
    kv_free(w->entries);
    w->session = NULL;
    w->entries = NULL;
    return status;
}

static kvant_status copy_prompts(struct kv_answers *a, const struct kvant_prompt *prompts, int n,
                                 int n_predict, struct kvant_error *err)
{
    a->items = kv_alloc((size_t)n, sizeof *a->items);
    if (!a->items) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %d prompts", n);
    a->n = n;
    for (int i = 0; i < n; i++) {
        struct kv_answered *item = &a->items[i];
        item->n_prompt = item->n_tokens = (int64_t)prompts[i].n_tokens;
        item->tokens = kv_alloc(prompts[i].n_tokens + (size_t)n_predict, sizeof *item->tokens);
        if (!item->tokens)
            KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a prompt of %zu tokens", prompts[i].n_tokens);
        memcpy(item->tokens, prompts[i].tokens, prompts[i].n_tokens * sizeof *item->tokens);
    }
    return KVANT_OK;
}

static kvant_status answer_all(struct writer *w, struct kv_answers *a, size_t cache_bytes,
                               struct kv_tune_progress *progress, struct kvant_error *err)
{
    for (int first = 0; first < a->n; first += w->n) {
        size_t held_bytes = 0;
        int64_t n_longest = 0;
        w->items = a->items + first;
        for (w->n = 0; w->n < SEQUENCES_MAX && first + w->n < a->n; w->n++) {
            struct kvant_plan_memory memory;
            const struct kv_answered *item = &w->items[w->n];
            kvant_plan_get_memory(w->f16, item->n_prompt + w->n_predict, &memory);
            if (w->n && (memory.total_bytes > cache_bytes || held_bytes > cache_bytes - memory.total_bytes))
                break;
            held_bytes += memory.total_bytes;
            n_longest = item->n_prompt > n_longest ? item->n_prompt : n_longest;
        }
        KV_TRY(run_group(w, n_longest, progress, err));
    }
    return KVANT_OK;
}

kvant_status kv_answers_open(struct kv_answers *out, const struct kvant_model *model,
                             const struct kvant_prompt *prompts, int n, int n_predict, size_t cache_bytes,
                             struct kv_tune_progress *progress, struct kvant_error *err)
{
    *out = (struct kv_answers){ 0 };
    struct writer w = { .model = model, .n_predict = n_predict };
    struct kvant_plan *f16 = NULL;
    kvant_status status = check_tokens(model, prompts, n, err);
    if (status == KVANT_OK) status = copy_prompts(out, prompts, n, n_predict, err);
    if (status == KVANT_OK) status = kvant_plan_open(&f16, model, "f16", err);
    if (status == KVANT_OK) status = kvant_sampler_open(&w.greedy, model->n_vocab, NULL, err);
    w.f16 = f16;
    if (status == KVANT_OK) status = answer_all(&w, out, cache_bytes, progress, err);
    kvant_sampler_close(w.greedy);
    kvant_plan_close(f16);
    if (status != KVANT_OK) kv_answers_close(out);
    return status;
}

void kv_answers_close(struct kv_answers *a)
{
    for (int i = 0; i < a->n; i++) kv_free(a->items[i].tokens);
    kv_free(a->items);
    *a = (struct kv_answers){ 0 };
}
