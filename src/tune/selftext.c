/*
 * kvant_tune_text: calibration text without a data set. The model goes on from short beginnings in different
 * styles, because keys and queries on prose, code, lists and dialogue differ; what it writes is by
 * construction text that it knows.
 */
#include <string.h>

#include "base/memory.h"
#include "model/model.h"

/* Long enough for queries that look back beyond the exact tail. With 128 tokens a text, what a query looks for is
 * mostly still exact, and plans come out 2.5 times worse on other text than they are predicted (SmolLM2). */
#define TOKENS_PER_SEQUENCE 512
#define SEED 20260101u

static const char *const beginnings[] = {
    "The history of the printing press begins in the fifteenth century, when",
    "# A small library for reading configuration files\nimport os\nimport re\n\nclass ConfigReader:\n    def "
    "__init__(self, path):\n",
    "Question: A farmer has 24 apples and gives a third of them to his neighbour. How many are left, and "
    "why?\nAnswer:",
    "Here are ten things to check before a long journey by car:\n1.",
    "Dear Dr. Whitfield,\n\nThank you for your letter of the 14th. With regard to the measurements that you "
    "asked "
    "about,",
    "In mathematics, a group is a set together with an operation that",
    "\"Are you sure that this is the right door?\" she asked.\n\"No,\" he said, \"but",
    "{\"order\": 1842, \"customer\": {\"name\": \"Ana Ruiz\", \"city\": \"Valencia\"}, \"items\": [{\"sku\":",
    "Recipe: lentil soup for four people.\nIngredients:\n-",
    "#include <stdio.h>\n#include <string.h>\n\n/* Counts the words of a text. */\nint count_words(const "
    "char "
    "*text)\n{\n",
    "Breaking news: the city council voted on Tuesday night to",
    "El clima de la costa mediterránea se caracteriza por",
};
#define N_BEGINNINGS (sizeof beginnings / sizeof beginnings[0])

struct writer {
    const struct kvant_model *model;
    struct kvant_session *session;
    struct kvant_plan *f16;
    struct kvant_sampler *sampler[N_BEGINNINGS];
    kvant_token *text[N_BEGINNINGS]; /* (cap)                                     */
    size_t n[N_BEGINNINGS], cap;
    int seq[N_BEGINNINGS];
    bool done[N_BEGINNINGS];
    int n_sequences;
    struct kvant_batch_entry *entries;
};

static void writer_close(struct writer *w)
{
    for (size_t i = 0; i < N_BEGINNINGS; i++) {
        kvant_sampler_close(w->sampler[i]);
        kv_free(w->text[i]);
    }
    kv_free(w->entries);
    kvant_session_close(w->session);
    kvant_plan_close(w->f16);
}

static kvant_status writer_open(struct writer *w, const struct kvant_model *model, size_t n_wanted,
                                struct kvant_error *err)
{
    size_t n = (n_wanted + TOKENS_PER_SEQUENCE - 1) / TOKENS_PER_SEQUENCE;
    w->model = model;
    w->n_sequences = (int)(n < 1 ? 1 : n > N_BEGINNINGS ? N_BEGINNINGS : n);
    w->cap = n_wanted + 256; /* one sequence may have to write everything; a beginning is shorter than 256 tokens */
    KV_TRY(kvant_plan_open(&w->f16, model, "f16", err));
    struct kvant_session_options opt = KVANT_SESSION_OPTIONS_INIT;
    opt.n_sequences = w->n_sequences;
    KV_TRY(kvant_session_open(&w->session, model, &opt, err));
    w->entries = kv_alloc(w->cap > N_BEGINNINGS ? w->cap : N_BEGINNINGS, sizeof *w->entries);
    if (!w->entries) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for making calibration text");
    for (int i = 0; i < w->n_sequences; i++) {
        struct kvant_sampler_options sampling = KVANT_SAMPLER_OPTIONS_INIT;
        sampling.temperature = 0.8f;
        sampling.top_k = 64; /* also spares the sampler from sorting the whole vocabulary */
        sampling.top_p = 0.95f;
        sampling.repeat_penalty = 1.1f; /* small models fall into loops, which say nothing about other text */
        sampling.seed = SEED + (uint64_t)i;
        KV_TRY(kvant_sampler_open(&w->sampler[i], model->n_vocab, &sampling, err));
        w->text[i] = kv_alloc(w->cap, sizeof *w->text[i]);
        if (!w->text[i])
            KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %zu tokens of calibration text", w->cap);
        KV_TRY(kvant_sequence_open(w->session, w->f16, (int64_t)w->cap, &w->seq[i], err));
    }
    return KVANT_OK;
}

/* The beginning, and the model's first token after it. */
static kvant_status begin_text(struct writer *w, int i, struct kvant_error *err)
{
    size_t n;
    KV_TRY(kvant_tokenize(w->model, beginnings[i], strlen(beginnings[i]), KVANT_TOKENIZE_BOS, w->text[i], 256,
                          &n, err));
    if (n == 0)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1,
                "the tokenizer makes nothing of a seed text; give calibration text instead");
    for (size_t k = 0; k < n; k++)
        w->entries[k] = (struct kvant_batch_entry){ w->seq[i], w->text[i][k], k + 1 == n };
    KV_TRY(kvant_session_step(w->session, w->entries, n, err));
    w->text[i][n] = kvant_sampler_next(w->sampler[i], kvant_session_logits(w->session, 0), NULL);
    w->n[i] = n;
    w->done[i] = kvant_token_is_end(w->model, w->text[i][n]);
    return KVANT_OK;
}

/* One more token for each text that goes on: text[n] was chosen and is now appended. */
static kvant_status extend_texts(struct writer *w, bool *any, struct kvant_error *err)
{
    size_t n = 0;
    for (int i = 0; i < w->n_sequences; i++)
        if (!w->done[i]) w->entries[n++] = (struct kvant_batch_entry){ w->seq[i], w->text[i][w->n[i]], true };
    *any = n > 0;
    KV_TRY(kvant_session_step(w->session, w->entries, n, err));
    for (int i = 0, row = 0; i < w->n_sequences; i++) {
        if (w->done[i]) continue;
        kvant_token next = kvant_sampler_next(w->sampler[i], kvant_session_logits(w->session, row++), NULL);
        w->n[i]++;
        w->done[i] = w->n[i] + 1 >= w->cap || kvant_token_is_end(w->model, next);
        if (!w->done[i]) w->text[i][w->n[i]] = next;
    }
    return KVANT_OK;
}

static size_t total_tokens(const struct writer *w)
{
    size_t total = 0;
    for (int i = 0; i < w->n_sequences; i++) total += w->n[i];
    return total;
}

static kvant_status write_texts(struct writer *w, size_t n_wanted, kvant_progress_fn progress, void *user,
                                struct kvant_error *err)
{
    for (int i = 0; i < w->n_sequences; i++) KV_TRY(begin_text(w, i, err));
    for (bool any = true; any && total_tokens(w) < n_wanted;) {
        KV_TRY(extend_texts(w, &any, err));
        size_t done = total_tokens(w);
        if (progress && !progress(user, "writing calibration text",
                                  (int64_t)(done < n_wanted ? done : n_wanted), (int64_t)n_wanted))
            KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "stopped while writing calibration text");
    }
    return KVANT_OK;
}

kvant_status kvant_tune_text(const struct kvant_model *model, size_t n_wanted, kvant_token *tokens,
                             size_t cap, size_t *n_out, kvant_progress_fn progress, void *user,
                             struct kvant_error *err)
{
    *n_out = n_wanted;
    if (n_wanted < 1 || n_wanted > 1u << 20)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%zu tokens wanted: 1 to %u", n_wanted, 1u << 20);
    if (cap < n_wanted) KV_FAIL(err, KVANT_ERR_SPACE, -1, "%zu tokens wanted, room for %zu", n_wanted, cap);
    struct writer w = { 0 };
    kvant_status status = writer_open(&w, model, n_wanted, err);
    if (status == KVANT_OK) status = write_texts(&w, n_wanted, progress, user, err);
    *n_out = 0;
    for (int i = 0; status == KVANT_OK && i < w.n_sequences; i++) {
        size_t n = w.n[i] < n_wanted - *n_out ? w.n[i] : n_wanted - *n_out;
        memcpy(tokens + *n_out, w.text[i], n * sizeof *tokens);
        *n_out += n;
    }
    writer_close(&w);
    return status;
}
