/*
 * kvant_tune_text: calibration text without a data set. The model goes on from short beginnings in different
 * styles, because keys and queries on prose, code, lists and dialogue differ; what it writes is by
 * construction text that it knows.
 */
#include <string.h>

#include "base/memory.h"
#include "model/model.h"
#include "tune/generate.h"

/* Long enough for queries that look back beyond the exact tail. With 128 tokens a text, what a query looks
 * for is mostly still exact, and plans come out 2.5 times worse on other text than they are predicted
 * (SmolLM2). */
#define TOKENS_PER_SEQUENCE 512
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
    kvant_token *tokens[N_BEGINNINGS]; /* (BEGINNING_CAP + n_wanted): one text may have to write everything */
};

static void writer_close(struct writer *w)
{
    for (int i = 0; i < N_BEGINNINGS; i++) {
        kvant_sampler_close(w->texts[i].sampler);
        kv_free(w->tokens[i]);
    }
    kvant_plan_close(w->f16);
}

static kvant_status open_text(struct writer *w, int i, size_t n_wanted, struct kvant_error *err)
{
    struct kv_generation *text = &w->texts[i];
    struct kvant_sampler_options sampling = KVANT_SAMPLER_OPTIONS_INIT;
    sampling.temperature = 0.8f;
    sampling.top_k = 64; /* also spares the sampler from sorting the whole vocabulary */
    sampling.top_p = 0.95f;
    sampling.repeat_penalty = 1.1f; /* small models fall into loops, which say nothing about other text */
    sampling.seed = SEED + (uint64_t)i;
    KV_TRY(kvant_sampler_open(&text->sampler, w->model->n_vocab, &sampling, err));
    kvant_token *tokens = w->tokens[i] = kv_alloc(BEGINNING_CAP + n_wanted, sizeof *tokens);
    if (!tokens) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %zu tokens of calibration text", n_wanted);
    KV_TRY(kvant_tokenize(w->model, beginnings[i], strlen(beginnings[i]), KVANT_TOKENIZE_BOS, tokens,
                          BEGINNING_CAP, &text->n_prompt, err));
    if (text->n_prompt == 0)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1,
                "the tokenizer makes nothing of a seed text; give calibration text instead");
    text->plan = w->f16;
    text->prompt = tokens;
    text->tokens = tokens + text->n_prompt;
    text->n_predict = n_wanted;
    return KVANT_OK;
}

/* Texts [first, first + n) at once, until they have n_wanted tokens together or have all ended. */
static kvant_status write_texts(struct writer *w, int first, int n, size_t n_wanted,
                                kvant_progress_fn progress, void *user, struct kvant_error *err)
{
    const struct kv_generate_options opt = {
        .n_sequences = N_BEGINNINGS,
        .n_enough = n_wanted,
        .what = "writing calibration text",
        .progress = progress,
        .user = user,
    };
    for (int i = first; i < first + n; i++) KV_TRY(open_text(w, i, n_wanted, err));
    return kv_generate(w->model, w->texts + first, (size_t)n, &opt, err);
}

kvant_status kvant_tune_text(const struct kvant_model *model, size_t n_wanted, kvant_token *tokens,
                             size_t cap, size_t *n_out, kvant_progress_fn progress, void *user,
                             struct kvant_error *err)
{
    *n_out = n_wanted;
    if (n_wanted < 1 || n_wanted > 1u << 20)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%zu tokens wanted: 1 to %u", n_wanted, 1u << 20);
    if (cap < n_wanted) KV_FAIL(err, KVANT_ERR_SPACE, -1, "%zu tokens wanted, room for %zu", n_wanted, cap);
    struct writer w = { .model = model };
    kvant_status status = kvant_plan_open(&w.f16, model, "f16", err);
    *n_out = 0;
    for (int first = 0; status == KVANT_OK && *n_out < n_wanted && first < N_BEGINNINGS;) {
        size_t rest = n_wanted - *n_out, n_texts = (rest + TOKENS_PER_SEQUENCE - 1) / TOKENS_PER_SEQUENCE;
        int n = n_texts < (size_t)(N_BEGINNINGS - first) ? (int)n_texts : N_BEGINNINGS - first;
        status = write_texts(&w, first, n, rest, progress, user, err);
        for (int i = first; status == KVANT_OK && i < first + n; i++) {
            size_t n_text = w.texts[i].n_cached;
            if (n_text > n_wanted - *n_out) n_text = n_wanted - *n_out;
            memcpy(tokens + *n_out, w.tokens[i], n_text * sizeof *tokens);
            *n_out += n_text;
        }
        first += n; /* a text that ended early makes room for the next beginning */
    }
    writer_close(&w);
    return status;
}
