#include "predict.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_feed.h"

#define BASE_KEY     "k4c64"
#define BASE_VALUE   "v4h"
#define SHORT_TOKENS 16  /* what the cache holds, on average, while token_s is measured */
#define TOKENS_MAX   256 /* timed, unless TOKENS_S are over; the median counts          */
#define TOKENS_MIN   4
#define TOKENS_WARM  2
#define TOKENS_S     5.0
#define ROUNDS       25   /* of attention, while the budget lasts                        */
#define ATTENTION_S  18.0 /* leaves room for filling, the token and a slow machine in 30 */

int predict_contexts(int n_ctx_train, int64_t contexts[PREDICT_CONTEXTS_CAP])
{
    static const int64_t usual[] = { 4096, 16384, 32768 };
    int n = 0;
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (usual[i] <= n_ctx_train) contexts[n++] = usual[i];
    bool has_limit = n > 0 && contexts[n - 1] == n_ctx_train;
    if (n_ctx_train > 0 && n_ctx_train < usual[2] && !has_limit) contexts[n++] = n_ctx_train;
    return n;
}

/* ------------------------------------------------------------------------------------------- composing -- */

static const struct predict_row *row_find(const struct predict_times *times, const char *key,
                                          const char *value)
{
    for (int i = 0; i < times->n_rows; i++)
        if (strcmp(times->rows[i].key, key) == 0 && strcmp(times->rows[i].value, value) == 0)
            return &times->rows[i];
    return NULL;
}

static double row_s(const struct predict_row *row, int i)
{
    return i < 0 ? row->short_s : row->context_s[i];
}

double predict_attention_s(const struct predict_times *times, const char *key, const char *value, int i)
{
    const struct predict_row *both = row_find(times, key, value);
    if (both) return row_s(both, i);
    const struct predict_row *of_key = row_find(times, key, BASE_VALUE);
    const struct predict_row *of_value = row_find(times, BASE_KEY, value);
    const struct predict_row *base = row_find(times, BASE_KEY, BASE_VALUE);
    if (!of_key || !of_value || !base) return NAN;
    return row_s(of_key, i) + row_s(of_value, i) - row_s(base, i);
}

/* Of all layers, the mean over the heads of each. */
static double plan_attention_s(const struct predict_times *times, const struct kvant_model_info *info,
                               const struct kvant_plan *plan, int i_context)
{
    double seconds = 0.0;
    for (int layer = 0; layer < info->n_layer; layer++)
        for (int head = 0; head < info->n_head_kv; head++) {
            struct recipe_text recipe;
            char text[64];
            if (kvant_plan_recipe(plan, layer, head, text, sizeof text, NULL) != KVANT_OK ||
                !recipe_text_parse(text, &recipe))
                return NAN;
            seconds += predict_attention_s(times, recipe.key, recipe.value, i_context) / info->n_head_kv;
        }
    return seconds;
}

void predict_plan(const struct predict_times *times, const struct kvant_model *model,
                  const struct kvant_plan *plan, struct prediction *out)
{
    struct kvant_model_info info;
    kvant_model_get_info(model, &info);
    double short_s = plan_attention_s(times, &info, plan, -1);
    for (int i = 0; i < times->n_contexts; i++) {
        struct kvant_plan_memory memory;
        kvant_plan_get_memory(plan, times->contexts[i], &memory);
        double more_s = plan_attention_s(times, &info, plan, i) - short_s;
        out[i] = (struct prediction){ .context = times->contexts[i],
                                      .tokens_per_s = 1.0 / (times->token_s + fmax(more_s, 0.0)),
                                      .memory_bytes = memory.total_bytes + memory.tables_bytes };
        if (isnan(more_s)) out[i].tokens_per_s = NAN;
    }
}

/* ------------------------------------------------------------------------------------------- measuring -- */

static kvant_status row_want(struct predict_times *times, const char *key, const char *value,
                             struct kvant_error *err)
{
    if (row_find(times, key, value)) return KVANT_OK;
    if (times->n_rows == PREDICT_PARTS_CAP) {
        if (err) {
            *err = (struct kvant_error){ .status = KVANT_ERR_ARGUMENT, .position = -1 };
            snprintf(err->message, sizeof err->message,
                     "the plans have more than %d different keys and values; predict fewer plans at once",
                     PREDICT_PARTS_CAP);
        }
        return KVANT_ERR_ARGUMENT;
    }
    struct predict_row *row = &times->rows[times->n_rows++];
    snprintf(row->key, sizeof row->key, "%s", key);
    snprintf(row->value, sizeof row->value, "%s", value);
    return KVANT_OK;
}

/* 16 bits on both sides is what all else is compared with: measured as it is. */
static kvant_status rows_collect(struct predict_times *times, const struct kvant_model_info *info,
                                 const struct kvant_plan *const *plans, int n_plans, struct kvant_error *err)
{
    kvant_status status = row_want(times, BASE_KEY, BASE_VALUE, err);
    if (status == KVANT_OK) status = row_want(times, "k16", "v16", err);
    for (int i = 0; i < n_plans; i++)
        for (int j = 0; j < info->n_layer * info->n_head_kv && status == KVANT_OK; j++) {
            struct recipe_text recipe;
            char text[64];
            status = kvant_plan_recipe(plans[i], j / info->n_head_kv, j % info->n_head_kv, text, sizeof text,
                                       err);
            if (status != KVANT_OK || !recipe_text_parse(text, &recipe)) continue;
            if (row_find(times, recipe.key, recipe.value)) continue;
            status = row_want(times, recipe.key, BASE_VALUE, err);
            if (status == KVANT_OK) status = row_want(times, BASE_KEY, recipe.value, err);
        }
    return status;
}

static kvant_status attention_measure(struct predict_times *times, const struct kvant_model_info *info,
                                      kvant_progress_fn progress, void *user, struct kvant_error *err)
{
    struct kvant_attention_options options = KVANT_ATTENTION_OPTIONS_INIT;
    struct kvant_attention_machine machine;
    int64_t lengths[1 + PREDICT_CONTEXTS_CAP] = { SHORT_TOKENS };
    int n_lengths = 1 + times->n_contexts;
    for (int i = 0; i < times->n_contexts; i++) lengths[1 + i] = times->contexts[i];
    options.n_threads = info->n_threads;
    options.cpu = info->cpu;
    options.n_head = info->n_head;
    options.n_head_kv = info->n_head_kv;
    options.head_dim = info->head_dim;
    options.n_tokens = lengths;
    options.n_lengths = n_lengths;
    options.n_rounds = ROUNDS;
    options.budget_s = ATTENTION_S;
    options.progress = progress;
    options.user = user;
    options.decode_only = true;

    char texts[PREDICT_PARTS_CAP][2 * RECIPE_PART_CAP];
    const char *specs[PREDICT_PARTS_CAP];
    for (int i = 0; i < times->n_rows; i++) {
        snprintf(texts[i], sizeof texts[i], "%s %s", times->rows[i].key, times->rows[i].value);
        specs[i] = texts[i];
    }
    size_t n, cap = (size_t)times->n_rows * (size_t)n_lengths;
    struct kvant_attention_row *rows = allocate(cap, sizeof *rows);
    kvant_status status = kvant_bench_attention(specs, times->n_rows, &options, rows, cap, &n, &machine, err);
    for (size_t i = 0; status == KVANT_OK && i < n; i++) {
        struct predict_row *row = &times->rows[rows[i].plan];
        size_t i_length = i / (size_t)times->n_rows;
        *(i_length == 0 ? &row->short_s : &row->context_s[i_length - 1]) = 1e-3 * rows[i].ms;
    }
    if (status == KVANT_OK) times->read_gb_per_s = machine.read_gb_per_s;
    free(rows);
    return status;
}

static kvant_status stopped(struct kvant_error *err)
{
    if (err) *err = (struct kvant_error){ KVANT_ERR_CANCELLED, -1, "stopped while predicting" };
    return KVANT_ERR_CANCELLED;
}

/* Tokens one by one into caches of at most 2 * SHORT_TOKENS; the first few wake the threads. */
static kvant_status token_loop(struct predict_times *times, struct feeder *feeder,
                               const struct kvant_plan *plan, kvant_progress_fn progress, void *user,
                               struct kvant_error *err)
{
    double *seconds = allocate(TOKENS_MAX, sizeof *seconds), begun_s = clock_s();
    int n = -TOKENS_WARM, seq = -1;
    kvant_status status = KVANT_OK;
    while (status == KVANT_OK && n < TOKENS_MAX && (n < TOKENS_MIN || clock_s() - begun_s < TOKENS_S)) {
        int n_held = (n + TOKENS_WARM) % (2 * SHORT_TOKENS);
        if (progress && !progress(user, "generating", n + TOKENS_WARM, TOKENS_MAX + TOKENS_WARM))
            status = stopped(err);
        if (status == KVANT_OK && n_held == 0) {
            if (seq >= 0) kvant_sequence_close(feeder->session, seq);
            status = kvant_sequence_open(feeder->session, plan, 2 * SHORT_TOKENS, &seq, err);
        }
        double started_s = clock_s();
        if (status == KVANT_OK) status = feed_each(feeder, &seq, 1, err);
        if (n >= 0) seconds[n] = clock_s() - started_s;
        n++;
    }
    if (status == KVANT_OK) times->token_s = median(seconds, n);
    if (seq >= 0) kvant_sequence_close(feeder->session, seq);
    free(seconds);
    return status;
}

static kvant_status token_measure(struct predict_times *times, const struct kvant_model *model, int n_vocab,
                                  kvant_progress_fn progress, void *user, struct kvant_error *err)
{
    struct feeder feeder = { .n_vocab = n_vocab, .random = 1 };
    struct kvant_session_options options = KVANT_SESSION_OPTIONS_INIT;
    struct kvant_plan *plan = NULL;
    options.n_batch = 1;
    options.n_sequences = 1;
    kvant_status status = kvant_plan_open(&plan, model, "f16", err);
    if (status == KVANT_OK) status = kvant_session_open(&feeder.session, model, &options, err);
    if (status == KVANT_OK) status = token_loop(times, &feeder, plan, progress, user, err);
    kvant_session_close(feeder.session);
    kvant_plan_close(plan);
    return status;
}

kvant_status predict_measure(struct predict_times *times, const struct kvant_model *model,
                             const struct kvant_plan *const *plans, int n_plans, const int64_t *contexts,
                             int n_contexts, kvant_progress_fn progress, void *user, struct kvant_error *err)
{
    struct kvant_model_info info;
    kvant_model_get_info(model, &info);
    memset(times, 0, sizeof *times);
    times->n_contexts = n_contexts;
    memcpy(times->contexts, contexts, (size_t)n_contexts * sizeof *contexts);
    kvant_status status = rows_collect(times, &info, plans, n_plans, err);
    if (status == KVANT_OK) status = token_measure(times, model, info.n_vocab, progress, user, err);
    if (status == KVANT_OK) status = attention_measure(times, &info, progress, user, err);
    return status;
}
