#include "generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "progress.h"
#include "utf8.h"

/* Tokens of a long prompt that are evaluated between two looks at Ctrl-C. */
#define PROMPT_CHUNK 512

static uint64_t random_seed(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) seed = (uint64_t)time(NULL);
    return seed;
}

int64_t generator_seed(void)
{
    return (int64_t)(random_seed() >> 2);
}

struct kvant_sampler_options generator_sampler_options(const struct sampling_flags *flags)
{
    struct kvant_sampler_options sampler = KVANT_SAMPLER_OPTIONS_INIT;
    sampler.temperature = (float)flags->temperature;
    sampler.top_k = flags->top_k > INT32_MAX ? 0 : (int)flags->top_k;
    sampler.top_p = (float)flags->top_p;
    sampler.min_p = (float)flags->min_p;
    sampler.repeat_penalty = (float)flags->repeat_penalty;
    sampler.seed = flags->seed < 0 ? random_seed() : (uint64_t)flags->seed;
    return sampler;
}

static void bar_ends(struct generator *g)
{
    g->logits = allocate((size_t)g->n_vocab, sizeof *g->logits);
    g->ends = allocate((size_t)g->n_vocab, sizeof *g->ends);
    for (kvant_token id = 0; id < g->n_vocab; id++)
        if (kvant_token_is_end(g->model, id)) g->ends[g->n_ends++] = id;
}

int generator_open(struct generator *g, const struct kvant_model *model, const struct kvant_plan *plan,
                   const struct sampling_flags *flags, int64_t n_ctx)
{
    struct kvant_error err;
    struct kvant_model_info info;
    kvant_model_get_info(model, &info);
    *g = (struct generator){.model = model, .seq = -1, .n_ctx = n_ctx, .n_vocab = info.n_vocab};

    struct kvant_session_options session = KVANT_SESSION_OPTIONS_INIT;
    session.n_batch = PROMPT_CHUNK;
    session.n_sequences = 1;
    struct kvant_sampler_options sampler = generator_sampler_options(flags);
    kvant_status status = kvant_session_open(&g->session, model, &session, &err);
    if (status == KVANT_OK) status = kvant_sampler_open(&g->sampler, info.n_vocab, &sampler, &err);
    if (status == KVANT_OK) status = kvant_sequence_open(g->session, plan, n_ctx, &g->seq, &err);
    if (status != KVANT_OK) {
        generator_close(g);
        return fail(&err);
    }
    if (flags->ignore_eos) bar_ends(g);
    return EXIT_OK;
}

void generator_close(struct generator *g)
{
    if (g->session && g->seq >= 0) kvant_sequence_close(g->session, g->seq);
    kvant_session_close(g->session);
    kvant_sampler_close(g->sampler);
    free(g->logits);
    free(g->ends);
    *g = (struct generator){.seq = -1};
}

kvant_status generator_evaluate(struct generator *g, const kvant_token *ids, size_t n_ids,
                                struct kvant_error *err)
{
    struct kvant_batch_entry entries[PROMPT_CHUNK];
    for (size_t i = 0; i < n_ids;) {
        size_t n = n_ids - i < PROMPT_CHUNK ? n_ids - i : PROMPT_CHUNK;
        for (size_t j = 0; j < n; j++)
            entries[j] = (struct kvant_batch_entry){g->seq, ids[i + j], i + j + 1 == n_ids};
        kvant_status status = kvant_session_step(g->session, entries, n, err);
        if (status != KVANT_OK) return status;
        g->n_tokens += (int64_t)n;
        i += n;
        if (i < n_ids && interrupted()) return KVANT_ERR_CANCELLED;
    }
    return KVANT_OK;
}

kvant_token generator_choose(struct generator *g)
{
    const float *logits = kvant_session_logits(g->session, 0);
    if (g->n_ends > 0) {
        memcpy(g->logits, logits, (size_t)g->n_vocab * sizeof *logits);
        for (size_t i = 0; i < g->n_ends; i++) g->logits[g->ends[i]] = -INFINITY;
        logits = g->logits;
    }
    kvant_token id = kvant_sampler_next(g->sampler, logits, NULL);
    if (g->confidence) kvant_confidence_add(g->model, g->confidence, kvant_session_logits(g->session, 0), id);
    return id;
}

/* Adds the bytes of one token to the answer. */
static kvant_status append_piece(const struct generator *g, struct answer *a, size_t *cap, kvant_token id,
                                 struct kvant_error *err)
{
    for (;;) {
        size_t n = 0;
        if (*cap == 0) a->text = reallocate(a->text, *cap = 4096, 1);
        kvant_status status =
            kvant_detokenize(g->model, &id, 1, false, a->text + a->n_bytes, *cap - a->n_bytes - 1, &n, err);
        if (status == KVANT_OK) a->n_bytes += n;
        if (status == KVANT_OK) a->text[a->n_bytes] = '\0';
        if (status != KVANT_ERR_SPACE) return status;
        *cap = 2 * *cap + n;
        a->text = reallocate(a->text, *cap, 1);
    }
}

static void show(FILE *out, const char *text, size_t *n_shown, size_t n)
{
    if (!out || n <= *n_shown) return;
    fwrite(text + *n_shown, 1, n - *n_shown, out);
    fflush(out);
    *n_shown = n;
}

kvant_status generator_text_add(const struct generator *g, struct generator_text *t, struct answer *a,
                                kvant_token id, struct kvant_error *err)
{
    if (a->n_ids == t->cap_ids)
        a->ids = reallocate(a->ids, t->cap_ids = 2 * t->cap_ids + 256, sizeof *a->ids);
    a->ids[a->n_ids++] = id;
    kvant_status status = append_piece(g, a, &t->cap_text, id, err);
    if (status == KVANT_OK) show(t->out, a->text, &t->n_shown, utf8_showable(a->text, a->n_bytes));
    return status;
}

void generator_text_end(struct generator_text *t, const struct answer *a)
{
    show(t->out, a->text, &t->n_shown, a->n_bytes);
}

static kvant_status generate(struct generator *g, int64_t n_predict, FILE *out, struct answer *a,
                             struct kvant_error *err)
{
    struct generator_text text = {.out = out};
    a->finish_reason = "length";
    while (n_predict < 0 || (int64_t)a->n_ids < n_predict) {
        kvant_token id = generator_choose(g);
        if (kvant_token_is_end(g->model, id)) {
            a->finish_reason = "stop";
            break;
        }
        kvant_status status = generator_text_add(g, &text, a, id, err);
        if (status != KVANT_OK) return status;
        if (interrupted() || (out && ferror(out))) {
            a->finish_reason = "interrupted";
            break;
        }
        if (g->n_tokens == g->n_ctx || (int64_t)a->n_ids == n_predict) break;
        status = generator_evaluate(g, &id, 1, err);
        if (status != KVANT_OK) return status;
        a->n_steps++;
    }
    generator_text_end(&text, a);
    return KVANT_OK;
}

int generator_answer(struct generator *g, const kvant_token *prompt, size_t n_prompt, int64_t n_predict,
                     FILE *out, struct answer *a)
{
    struct kvant_error err;
    *a = (struct answer){.n_prompt = n_prompt, .finish_reason = "length", .text = allocate(1, 1)};
    if (n_prompt == 0) return fail_text("the prompt is empty: there is nothing to continue; give -p TEXT");
    if ((int64_t)n_prompt > g->n_ctx - g->n_tokens)
        return fail_text("the prompt has %zu tokens and the context has room for %lld; raise it with -c",
                         n_prompt, (long long)(g->n_ctx - g->n_tokens));
    double started_s = clock_s();
    kvant_status status = generator_evaluate(g, prompt, n_prompt, &err);
    a->prompt_s = clock_s() - started_s;
    if (status == KVANT_ERR_CANCELLED) {
        a->finish_reason = "interrupted";
        return EXIT_OK;
    }
    if (status == KVANT_OK) {
        started_s = clock_s();
        status = generate(g, n_predict, out, a, &err);
        a->generation_s = clock_s() - started_s;
    }
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

int generator_agreement(struct generator *g, const kvant_token *prompt, size_t n_prompt,
                        const kvant_token *ids, size_t n_ids, size_t *n_same)
{
    struct kvant_error err;
    *n_same = 0;
    kvant_status status = generator_evaluate(g, prompt, n_prompt, &err);
    for (size_t i = 0; i < n_ids && status == KVANT_OK && !interrupted(); i++) {
        *n_same += generator_choose(g) == ids[i];
        if (i + 1 < n_ids) status = generator_evaluate(g, &ids[i], 1, &err);
    }
    return status == KVANT_OK || status == KVANT_ERR_CANCELLED ? EXIT_OK : fail(&err);
}

void answer_close(struct answer *a)
{
    free(a->ids);
    free(a->text);
    *a = (struct answer){0};
}

double answer_prompt_rate(const struct answer *a)
{
    return a->prompt_s > 0 ? (double)a->n_prompt / a->prompt_s : 0.0;
}

double answer_generation_rate(const struct answer *a)
{
    return a->generation_s > 0 && a->n_steps > 0 ? (double)a->n_steps / a->generation_s : 0.0;
}

int generator_cache(const struct generator *g, const struct kvant_plan *plan, struct cache_report *report)
{
    struct kvant_error err;
    struct kvant_plan *f16;
    struct kvant_plan_memory memory;
    if (kvant_plan_open(&f16, g->model, "f16", &err) != KVANT_OK) return fail(&err);
    kvant_plan_get_memory(f16, g->n_tokens, &memory);
    kvant_plan_close(f16);
    kvant_plan_get_memory(plan, g->n_tokens, &report->memory);
    report->f16_bytes = memory.total_bytes + memory.tables_bytes;
    report->bytes = report->memory.total_bytes + report->memory.tables_bytes;
    return EXIT_OK;
}
