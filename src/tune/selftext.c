/*
 * kvant_tune_text: calibration text without a data set. The model goes on from short beginnings in different
 * styles, because keys and queries on prose, code, lists and dialogue differ; what it writes is by
 * construction text that it knows.
 */
#include <string.h>

#include "base/memory.h"
#include "model/model.h"
#include "tune/generate.h"

/* Of one text, its beginning included. Long enough for queries that look back beyond the exact tail: with 128
 * tokens, what a query looks for is mostly still exact, and plans come out 2.5 times worse on other text than
 * they are predicted (SmolLM2). And no longer: where others had ended, one text went on for 1100 tokens, in a
 * loop, and a plan tuned on it was no better on other text than a uniform one (Qwen2.5-Coder-0.5B). */
#define TOKENS_PER_TEXT 512
#define LOOP_TOKENS 32 /* a text that says so many tokens again has nothing new to say */
#define SEED 20260101u
#define BEGINNING_CAP 256 /* tokens; a beginning is shorter, and has fewer bytes where a token is a byte */

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
#define N_BEGINNINGS ((int)(sizeof beginnings / sizeof beginnings[0]))

/* One text per beginning: beginning and continuation in one array, as they are read at the end. */
struct writer {
    const struct kvant_model *model;
    struct kvant_plan *f16;
    struct kv_generation texts[N_BEGINNINGS];
    kvant_token *tokens[N_BEGINNINGS]; /* (BEGINNING_CAP + TOKENS_PER_TEXT) */
    size_t n_out, n_wanted;            /* of all rounds */
    kvant_progress_fn progress;
    void *user;
};

/* The texts of one round. */
static void close_texts(struct writer *w)
{
    for (int i = 0; i < N_BEGINNINGS; i++) {
        kvant_sampler_close(w->texts[i].sampler);
        kv_free(w->tokens[i]);
        w->texts[i] = (struct kv_generation){ 0 };
        w->tokens[i] = NULL;
    }
}

static kvant_status open_text(struct writer *w, int i, int round, struct kvant_error *err)
{
    struct kv_generation *text = &w->texts[i];
    struct kvant_sampler_options sampling = KVANT_SAMPLER_OPTIONS_INIT;
    sampling.temperature = 0.8f;
    sampling.top_k = 64; /* also spares the sampler from sorting the whole vocabulary */
    sampling.top_p = 0.95f;
    sampling.repeat_penalty = 1.1f; /* small models fall into loops, which say nothing about other text */
    sampling.seed = SEED + (uint64_t)(round * N_BEGINNINGS + i);
    KV_TRY(kvant_sampler_open(&text->sampler, w->model->n_vocab, &sampling, err));
    kvant_token *tokens = w->tokens[i] = kv_alloc(BEGINNING_CAP + TOKENS_PER_TEXT, sizeof *tokens);
    if (!tokens) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for calibration text");
    KV_TRY(kvant_tokenize(w->model, beginnings[i], strlen(beginnings[i]), KVANT_TOKENIZE_BOS, tokens,
                          BEGINNING_CAP, &text->n_prompt, err));
    if (text->n_prompt == 0)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1,
                "the tokenizer makes nothing of a seed text; give calibration text instead");
    text->plan = w->f16;
    text->prompt = tokens;
    text->tokens = tokens + text->n_prompt;
    text->n_predict = TOKENS_PER_TEXT - text->n_prompt + 1; /* the last one is chosen, but not read */
    return KVANT_OK;
}

/* Do the last LOOP_TOKENS stand in the text before? */
static bool loops(void *user, size_t i, const struct kv_generation *text)
{
    (void)user, (void)i;
    const size_t n = LOOP_TOKENS;
    if (text->n <= n) return false;
    const kvant_token *last = text->tokens + text->n - n;
    for (const kvant_token *at = text->tokens; at < last; at++)
        if (memcmp(at, last, n * sizeof *at) == 0) return true;
    return false;
}

static bool relay_progress(void *user, const char *what, int64_t done, int64_t total)
{
    const struct writer *w = user;
    (void)total;
    return w->progress(w->user, what, (int64_t)w->n_out + done, (int64_t)w->n_wanted);
}

/* A text from each beginning, as many at once as it takes, until there are enough tokens or all have ended.
 * *n_written: without the beginnings. */
static kvant_status write_round(struct writer *w, int round, kvant_token *out, size_t *n_written,
                                size_t *n_given, struct kvant_error *err)
{
    size_t rest = w->n_wanted - w->n_out, n_texts = (rest + TOKENS_PER_TEXT - 1) / TOKENS_PER_TEXT;
    const struct kv_generate_options opt = {
        .n_sequences = n_texts < N_BEGINNINGS ? (int)n_texts : N_BEGINNINGS,
        .n_enough = rest,
        .what = "writing calibration text",
        .progress = w->progress ? relay_progress : NULL,
        .user = w,
        .stop = loops,
    };
    for (int i = 0; i < N_BEGINNINGS; i++) KV_TRY(open_text(w, i, round, err));
    KV_TRY(kv_generate(w->model, w->texts, N_BEGINNINGS, &opt, err));
    *n_written = *n_given = 0;
    for (int i = 0; i < N_BEGINNINGS; i++) {
        const struct kv_generation *text = &w->texts[i];
        size_t n = text->n_cached < w->n_wanted - w->n_out ? text->n_cached : w->n_wanted - w->n_out;
        if (text->end == KV_GENERATION_ENDED && text->n == 0) n = 0; /* nothing that the model wrote */
        memcpy(out + w->n_out, w->tokens[i], n * sizeof *out);
        w->n_out += n;
        *n_written += text->n;
        *n_given += text->n_prompt;
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
    struct writer w = { .model = model, .n_wanted = n_wanted, .progress = progress, .user = user };
    kvant_status status = kvant_plan_open(&w.f16, model, "f16", err);
    size_t n_written = 1, n_given = 0; /* a model that adds less than it was given says the same next time */
    for (int round = 0; status == KVANT_OK && w.n_out < n_wanted && n_written > n_given; round++) {
        status = write_round(&w, round, tokens, &n_written, &n_given, err);
        close_texts(&w);
    }
    kvant_plan_close(w.f16);
    *n_out = w.n_out;
    return status;
}
