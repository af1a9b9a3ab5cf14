#include "tune/generate.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/model.h"
#include "run/session.h"
#include "tune/metrics.h"

#define PIECE_TOKENS 128 /* of a prompt in one step: others go on beside it                            */
#define BATCH_ROWS 512   /* of a step: the token of each text that is written, and pieces of prompts   */
#define SEQUENCES_MAX 256
#define SHARED_MIN 64    /* a page: a shorter common beginning saves less than a fork costs            */

struct slot {
    struct kv_generation *text; /* NULL: free                            */
    int seq;
    size_t at;                  /* tokens that the cache holds           */
    int row;                    /* its logits in the step; −1 = none yet */
};

struct generate {
    const struct kvant_model *model;
    const struct kv_generate_options *opt;
    struct kv_generation *texts; /* (n_texts)                                                */
    size_t n_texts, next;        /* next: the first that has no slot yet                     */
    struct kvant_session *session;
    struct slot *slots;          /* (n_slots)                                                */
    int n_slots;
    struct kvant_batch_entry *entries; /* (BATCH_ROWS)                                       */
    size_t group_end;            /* texts before it share their plan and n_shared tokens     */
    size_t n_shared;             /* 0: nothing                                               */
    int shared;                  /* the sequence that holds them; −1: none                   */
    size_t n_cached;             /* tokens that went through the model, for all texts        */
    int64_t done, total;         /* for progress: tokens of prompts and of answers           */
};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ----------------------------------------------------------------------------------- begin, end a text -- */

static void group_close(struct generate *g)
{
    if (g->shared >= 0) kvant_sequence_close(g->session, g->shared);
    g->shared = -1;
    g->n_shared = 0;
}

/* Tokens that all prompts of texts [first, end) begin with; of each prompt at least one is left. */
static size_t common_tokens(const struct kv_generation *texts, size_t first, size_t end)
{
    size_t n = texts[first].n_prompt - 1;
    for (size_t i = first + 1; i < end; i++) {
        size_t most = smaller(n, texts[i].n_prompt - 1);
        for (n = 0; n < most && texts[i].prompt[n] == texts[first].prompt[n];) n++;
    }
    return n;
}

/* The texts from `next` on that have the same plan; their common beginning is read once. A cache that fails
 * there fails again in each text, which then says so. */
static kvant_status group_open(struct generate *g, struct kvant_error *err)
{
    const struct kv_generation *first = &g->texts[g->next];
    struct kvant_error failure;
    size_t room = 0;
    group_close(g);
    for (g->group_end = g->next; g->group_end < g->n_texts && g->texts[g->group_end].plan == first->plan;) {
        const struct kv_generation *text = &g->texts[g->group_end++];
        if (text->n_prompt + text->n_predict > room) room = text->n_prompt + text->n_predict;
    }
    size_t n = g->group_end - g->next > 1 ? common_tokens(g->texts, g->next, g->group_end) : 0;
    if (n < SHARED_MIN) return KVANT_OK;

    KV_TRY(kvant_sequence_open(g->session, first->plan, (int64_t)room, &g->shared, err));
    while (g->n_shared < n) {
        size_t piece = smaller(PIECE_TOKENS, n - g->n_shared);
        for (size_t i = 0; i < piece; i++)
            g->entries[i] = (struct kvant_batch_entry){ g->shared, first->prompt[g->n_shared + i], false };
        kvant_status status = kvant_session_step(g->session, g->entries, piece, &failure);
        if (status == KVANT_ERR_NUMERIC) {
            group_close(g);
            return KVANT_OK;
        }
        if (status != KVANT_OK) {
            if (err) *err = failure;
            return status;
        }
        g->n_shared += piece;
    }
    return KVANT_OK;
}

/* Gives the next text a slot. */
static kvant_status begin(struct generate *g, struct slot *slot, struct kvant_error *err)
{
    if (g->next >= g->group_end) KV_TRY(group_open(g, err));
    struct kv_generation *text = &g->texts[g->next];
    int seq;
    if (g->n_shared > 0) KV_TRY(kvant_sequence_fork(g->session, g->shared, &seq, err));
    else
        KV_TRY(kvant_sequence_open(g->session, text->plan, (int64_t)(text->n_prompt + text->n_predict), &seq,
                                   err));
    *slot = (struct slot){ text, seq, g->n_shared, -1 };
    text->n_cached = g->n_shared;
    g->done += (int64_t)g->n_shared;
    if (++g->next == g->group_end) group_close(g);
    return KVANT_OK;
}

static void end(struct generate *g, struct slot *slot, enum kv_generation_end why)
{
    struct kv_generation *text = slot->text;
    text->end = why;
    g->done += (int64_t)(text->n_prompt + text->n_predict - text->n_cached);
    kvant_sequence_close(g->session, slot->seq);
    slot->text = NULL;
}

/* ----------------------------------------------------------------------------------------------- steps -- */

/* The last token of each text that is being written, then pieces of prompts while they fit whole: a piece
 * that were cut here would make its text depend on the others. */
static size_t gather(struct generate *g)
{
    size_t n = 0;
    int n_logits = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < g->n_slots; i++) {
            struct slot *slot = &g->slots[i];
            const struct kv_generation *text = slot->text;
            if (!text || (slot->at >= text->n_prompt) != (pass == 0)) continue;
            slot->row = -1;
            if (pass == 0) {
                g->entries[n++] = (struct kvant_batch_entry){ slot->seq, text->tokens[text->n - 1], true };
                slot->at++;
                slot->row = n_logits++;
                continue;
            }
            size_t piece = smaller(PIECE_TOKENS, text->n_prompt - slot->at);
            if (n + piece > BATCH_ROWS) continue;
            for (size_t k = 0; k < piece; k++)
                g->entries[n++] = (struct kvant_batch_entry){ slot->seq, text->prompt[slot->at + k], false };
            slot->at += piece;
            if (slot->at < text->n_prompt) continue;
            g->entries[n - 1].want_logits = true;
            slot->row = n_logits++;
        }
    }
    return n;
}

/* The token after a row of logits, −1 when they are not finite. */
static kvant_token choose(const struct generate *g, const struct kv_generation *text, const float *logits)
{
    int n_vocab = g->model->n_vocab;
    if (!isfinite(g->model->kernels.log_sum_exp(logits, n_vocab))) return -1;
    size_t n = 0;
    const kvant_token *among = g->opt->among ? g->opt->among(g->opt->hook_user, (size_t)(text - g->texts), &n)
                                             : NULL;
    if (among) {
        kvant_token best = among[0];
        for (size_t i = 1; i < n; i++)
            if (logits[among[i]] > logits[best]) best = among[i];
        return best;
    }
    if (text->sampler) return kvant_sampler_next(text->sampler, logits, NULL);
    return (kvant_token)kv_logits_top(logits, n_vocab);
}

static void extend(struct generate *g, struct slot *slot)
{
    struct kv_generation *text = slot->text;
    if (kv_session_sequence_failed(g->session, slot->seq)) {
        end(g, slot, KV_GENERATION_FAILED);
        return;
    }
    g->n_cached += slot->at - text->n_cached;
    g->done += (int64_t)(slot->at - text->n_cached);
    text->n_cached = slot->at;
    if (slot->row < 0) return;

    kvant_token id = choose(g, text, kvant_session_logits(g->session, slot->row));
    if (id < 0) {
        end(g, slot, KV_GENERATION_FAILED);
        return;
    }
    if (kvant_token_is_end(g->model, id)) {
        end(g, slot, KV_GENERATION_ENDED);
        return;
    }
    text->tokens[text->n++] = id;
    if (g->opt->stop && g->opt->stop(g->opt->hook_user, (size_t)(text - g->texts), text))
        end(g, slot, KV_GENERATION_STOPPED);
    else if (text->n == text->n_predict) end(g, slot, KV_GENERATION_CUT);
}

static kvant_status step(struct generate *g, struct kvant_error *err)
{
    struct kvant_error failure;
    kvant_status status = kvant_session_step(g->session, g->entries, gather(g), &failure);
    bool has_failed = false;
    for (int i = 0; status == KVANT_ERR_NUMERIC && i < g->n_slots; i++)
        has_failed |= g->slots[i].text && kv_session_sequence_failed(g->session, g->slots[i].seq);
    if (status != KVANT_OK && !has_failed) {
        if (err) *err = failure;
        return status;
    }
    /* One forward pass, so all others are complete, and their logits are there. */
    for (int i = 0; i < g->n_slots; i++)
        if (g->slots[i].text) extend(g, &g->slots[i]);
    return KVANT_OK;
}

static kvant_status report(const struct generate *g, struct kvant_error *err)
{
    if (!g->opt->progress) return KVANT_OK;
    int64_t total = g->opt->n_enough ? (int64_t)g->opt->n_enough : g->total,
            done = g->opt->n_enough ? (int64_t)smaller(g->n_cached, g->opt->n_enough) : g->done;
    if (!g->opt->progress(g->opt->user, g->opt->what, done, total))
        KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "stopped while %s", g->opt->what);
    return KVANT_OK;
}

static kvant_status run(struct generate *g, struct kvant_error *err)
{
    for (;;) {
        bool any = false;
        for (int i = 0; i < g->n_slots; i++) {
            if (!g->slots[i].text && g->next < g->n_texts) KV_TRY(begin(g, &g->slots[i], err));
            any |= g->slots[i].text != NULL;
        }
        if (!any) return KVANT_OK;
        KV_TRY(step(g, err));
        KV_TRY(report(g, err));
        if (g->opt->n_enough && g->n_cached >= g->opt->n_enough) return KVANT_OK;
    }
}

static kvant_status check(const struct kv_generation *texts, size_t n_texts,
                          const struct kv_generate_options *opt, struct kvant_error *err)
{
    if (opt->n_sequences < 0 || opt->n_sequences > SEQUENCES_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d sequences at once: 1 to %d, or 0", opt->n_sequences,
                SEQUENCES_MAX);
    for (size_t i = 0; i < n_texts; i++)
        if (texts[i].n_prompt == 0 || texts[i].n_predict == 0)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, (int64_t)i,
                    "text %zu: a prompt of %zu tokens, %zu to be written; each at least 1", i,
                    texts[i].n_prompt, texts[i].n_predict);
    return KVANT_OK;
}

kvant_status kv_generate(const struct kvant_model *model, struct kv_generation *texts, size_t n_texts,
                         const struct kv_generate_options *opt, struct kvant_error *err)
{
    KV_TRY(check(texts, n_texts, opt, err));
    struct generate g = { .model = model, .opt = opt, .texts = texts, .n_texts = n_texts, .shared = -1 };
    for (size_t i = 0; i < n_texts; i++) {
        texts[i].n = texts[i].n_cached = 0;
        texts[i].end = KV_GENERATION_CUT;
        g.total += (int64_t)(texts[i].n_prompt + texts[i].n_predict);
    }
    g.n_slots = (int)smaller(opt->n_sequences ? (size_t)opt->n_sequences : KV_GENERATE_SEQUENCES, n_texts);
    struct kvant_session_options session = KVANT_SESSION_OPTIONS_INIT;
    session.n_batch = BATCH_ROWS;
    session.n_sequences = g.n_slots + 1; /* the shared beginning */
    kvant_status status = kvant_session_open(&g.session, model, &session, err);
    g.slots = kv_alloc((size_t)g.n_slots, sizeof *g.slots);
    g.entries = kv_alloc(BATCH_ROWS, sizeof *g.entries);
    if (status == KVANT_OK && (!g.slots || !g.entries))
        status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for writing %d texts at once", g.n_slots);
    if (status == KVANT_OK) status = run(&g, err);
    kv_free(g.slots);
    kv_free(g.entries);
    kvant_session_close(g.session);
    return status;
}

/* ----------------------------------------------------------------------- every prompt under every plan -- */

static kvant_status place_texts(struct kv_plan_texts *t, const struct kvant_plan *const *plans,
                                const struct kvant_prompt *prompts, size_t n_predict, struct kvant_error *err)
{
    size_t n_texts, n_tokens;
    if (!kv_mul_size((size_t)t->n_rows, t->n_prompts, &n_texts) ||
        !kv_mul_size(n_texts, n_predict, &n_tokens))
        n_texts = n_tokens = SIZE_MAX;
    t->texts = kv_alloc(n_texts, sizeof *t->texts);
    t->tokens = kv_alloc(n_tokens, sizeof *t->tokens);
    if (!t->texts || !t->tokens)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for texts of %zu tokens after %zu prompts", n_predict,
                t->n_prompts);
    for (size_t i = 0; i < n_texts; i++) {
        const struct kvant_prompt *prompt = &prompts[i % t->n_prompts];
        size_t row = i / t->n_prompts;
        t->texts[i] = (struct kv_generation){
            .plan = t->f16 && row == 0 ? t->f16 : plans[row - (t->f16 != NULL)],
            .prompt = prompt->tokens,
            .n_prompt = prompt->n_tokens,
            .n_predict = n_predict,
            .tokens = t->tokens + i * n_predict,
        };
    }
    return KVANT_OK;
}

kvant_status kv_plan_texts_open(struct kv_plan_texts *t, const struct kvant_model *model, bool with_base,
                                const struct kvant_plan *const *plans, int n_plans,
                                const struct kvant_prompt *prompts, size_t n_prompts, size_t n_predict,
                                const struct kv_generate_options *opt, struct kvant_error *err)
{
    *t = (struct kv_plan_texts){ .n_prompts = n_prompts, .n_rows = n_plans + with_base };
    kvant_status status = with_base ? kvant_plan_open(&t->f16, model, "f16", err) : KVANT_OK;
    if (status == KVANT_OK) status = place_texts(t, plans, prompts, n_predict, err);
    if (status == KVANT_OK)
        status = kv_generate(model, t->texts, (size_t)t->n_rows * n_prompts, opt, err);
    for (size_t i = 0; status == KVANT_OK && with_base && i < n_prompts; i++)
        if (t->texts[i].end == KV_GENERATION_FAILED)
            status = kv_error_set(err, KVANT_ERR_NUMERIC, (int64_t)i,
                                  "prompt %zu: the 16-bit cache itself gives numbers that are not finite", i);
    if (status != KVANT_OK) kv_plan_texts_close(t);
    return status;
}

void kv_plan_texts_close(struct kv_plan_texts *t)
{
    kv_free(t->texts);
    kv_free(t->tokens);
    kvant_plan_close(t->f16);
    *t = (struct kv_plan_texts){ 0 };
}
