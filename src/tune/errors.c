/*
 * kvant_sensitivity_run: from prompts to the errors of every layer.
 *
 *   prompts ── greedy answers ─┬─ calibration on all of them: centres, importance ── KLD of single layers
 *                              └─ one prompt at a time: capture ── each (layer, mode) measured ── sums
 *
 * Only one prompt's queries, keys and values are held; what remains of a prompt is a mean per unit.
 */
#include "tune/errors.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/memory.h"
#include "base/threads.h"
#include "tune/errors_measure.h"

#define PROMPTS_DEFAULT 20
#define PROMPTS_MAX 1024
#define PREDICT_DEFAULT 64
#define PREDICT_MAX 4096
#define KLD_RECIPES_MAX 8
#define OWN_PROMPT_TOKENS 96             /* of the model's own text                                         */
#define ANSWER_CACHE_BYTES ((size_t)256 << 20)
#define CALIBRATION_TOKENS 512           /* as kvant_plan_calibrate takes by itself                         */
#define KLD_TOKENS 512
#define SINKS 4                          /* as plans have them by default                                   */
#define MEASURE_WEIGHT 3                 /* forward tokens' time that measuring one token takes, about      */
#define IMPORTANCE_GROUP 64

/* Prompts that had a unit of each kind. */
struct counts {
    int k, v, o;
};

struct run {
    const struct kvant_model *model;     /* a view of the caller's, never with 8-bit activations            */
    const struct kvant_sensitivity_options *opt;
    struct kvant_sensitivity *result;
    struct kvant_sensitivity_errors *errors[KVANT_SENSITIVITY_MODES]; /* the result's, writable             */
    struct kvant_sensitivity_head_errors *head_errors[KVANT_SENSITIVITY_MODES];
    struct kvant_sensitivity_head *heads;
    struct kvant_sensitivity_prompt *prompts;
    struct kv_answers answers;
    kvant_token *joined;                 /* (n_joined) the first tokens of all prompts and answers          */
    size_t n_joined;
    struct kv_calibration calibration;
    bool calibrated;
    struct kv_error_mode modes[KVANT_SENSITIVITY_MODES];
    int n_modes;
    struct kv_capturer capturer;
    struct kv_pool *pool;
    struct kv_error_scratch *scratch;    /* (n_threads)                                                     */
    void **scratch_memory;               /* (n_threads)                                                     */
    int n_threads;
    /* of one prompt, by layer and mode: (n_layer, n_modes) */
    struct kv_layer_errors *layer_errors;
    struct kv_head_errors *prompt_heads; /* (n_layer, n_modes, n_head)                                      */
    struct kvant_sensitivity_head *attention; /* (n_layer, n_head)                                          */
    struct kvant_error *item_errors;
    kvant_status *item_status;
    struct counts (*counts)[KVANT_SENSITIVITY_MODES]; /* (n_layer)                                          */
    int *relative_counts;                /* (n_layer, n_head) prompts with a relative entropy               */
    int (*head_counts)[KVANT_SENSITIVITY_MODES]; /* (n_layer * n_head)                                      */
    int n_measured;                      /* prompts with an answer                                          */
    struct kv_tune_progress progress;
};

/* --------------------------------------------------------------------------------------------- options -- */

static kvant_status check_options(const struct kvant_model *model, const struct kvant_prompt *prompts,
                                  size_t n_prompts, const struct kvant_sensitivity_options *opt,
                                  struct kvant_error *err)
{
    if (opt->size != sizeof *opt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_sensitivity_options.size is not set; use KVANT_SENSITIVITY_OPTIONS_INIT");
    if (model->vocab_only)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "the model was opened for its vocabulary only; it cannot be measured");
    if (opt->modes >> KVANT_SENSITIVITY_MODES)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "modes %#x: bits 0 to %d name modes", opt->modes,
                KVANT_SENSITIVITY_MODES - 1);
    if (opt->n_prompts < 0 || opt->n_prompts > PROMPTS_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_prompts %d: 1 to %d, or 0", opt->n_prompts, PROMPTS_MAX);
    if (opt->n_predict < 0 || opt->n_predict > PREDICT_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_predict %d: 1 to %d, or 0", opt->n_predict, PREDICT_MAX);
    if (opt->n_kld_recipes < 0 || opt->n_kld_recipes > KLD_RECIPES_MAX ||
        (opt->n_kld_recipes && !opt->kld_recipes))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d recipes to measure: at most %d", opt->n_kld_recipes,
                KLD_RECIPES_MAX);
    if (prompts && n_prompts == 0) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "no prompts; at least one is needed");
    return KVANT_OK;
}

static bool needs_calibration(const struct run *r)
{
    return r->opt->channels || r->opt->n_kld_recipes ||
           !r->opt->modes || r->opt->modes & 1u << KVANT_SENSITIVITY_KVANT;
}

static kvant_status parse_recipes(const struct kvant_sensitivity_options *opt, struct kv_recipe *recipes,
                                  struct kvant_error *err)
{
    for (int i = 0; i < opt->n_kld_recipes; i++) {
        kvant_status status = kv_recipe_parse(&recipes[i], opt->kld_recipes[i], strlen(opt->kld_recipes[i]),
                                              err);
        if (status != KVANT_OK) return kv_error_prefix(err, status, "recipe '%s'", opt->kld_recipes[i]);
    }
    return KVANT_OK;
}

/* --------------------------------------------------------------------------------------------- prompts -- */

/* All units before the first is done; answers that end early only make the end come sooner. */
static void plan_progress(struct run *r, const struct kvant_prompt *prompts, int n)
{
    int64_t n_predict = r->result->n_predict, n_tokens = n * n_predict, n_layer = r->model->hp.n_layer;
    for (int i = 0; i < n; i++) n_tokens += prompts ? (int64_t)prompts[i].n_tokens : OWN_PROMPT_TOKENS;
    r->progress.total = (prompts ? 0 : (int64_t)n * OWN_PROMPT_TOKENS) + (1 + MEASURE_WEIGHT) * n_tokens +
                        (needs_calibration(r) ? CALIBRATION_TOKENS : 0) +
                        KLD_TOKENS * kv_errors_kld_sequences((int)n_layer, r->opt->n_kld_recipes);
}

/* The model's own text, cut into prompts. *text and *prompts are to be freed. */
static kvant_status write_prompts(struct run *r, int *n, kvant_token **text, struct kvant_prompt **prompts,
                                  struct kvant_error *err)
{
    size_t n_wanted = (size_t)*n * OWN_PROMPT_TOKENS, n_tokens;
    *text = kv_alloc(n_wanted, sizeof **text);
    *prompts = kv_alloc((size_t)*n, sizeof **prompts);
    if (!*text || !*prompts) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %zu tokens of text", n_wanted);
    KV_TRY(kvant_tune_text(r->model, n_wanted, *text, n_wanted, &n_tokens, kv_tune_progress_step,
                           &r->progress, err));
    r->progress.done += (int64_t)n_wanted;
    if (n_tokens == 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "the model writes no text of its own; give prompts instead");
    if (n_tokens < n_wanted) *n = (int)((n_tokens + OWN_PROMPT_TOKENS - 1) / OWN_PROMPT_TOKENS);
    for (int i = 0; i < *n; i++) {
        size_t first = (size_t)i * OWN_PROMPT_TOKENS, left = n_tokens - first;
        (*prompts)[i] = (struct kvant_prompt){ *text + first,
                                               left < OWN_PROMPT_TOKENS ? left : OWN_PROMPT_TOKENS };
    }
    return KVANT_OK;
}

/* The head of everything that the model read, for calibration. */
static kvant_status join_answers(struct run *r, struct kvant_error *err)
{
    r->joined = kv_alloc(CALIBRATION_TOKENS, sizeof *r->joined);
    if (!r->joined) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %d tokens", CALIBRATION_TOKENS);
    for (int i = 0; i < r->answers.n && r->n_joined < CALIBRATION_TOKENS; i++) {
        const struct kv_answered *a = &r->answers.items[i];
        size_t left = CALIBRATION_TOKENS - r->n_joined,
               n = (size_t)a->n_tokens < left ? (size_t)a->n_tokens : left;
        memcpy(r->joined + r->n_joined, a->tokens, n * sizeof *a->tokens);
        r->n_joined += n;
    }
    return KVANT_OK;
}

static kvant_status answer(struct run *r, const struct kvant_prompt *prompts, size_t n_prompts,
                           struct kvant_error *err)
{
    size_t n_most = r->opt->n_prompts ? (size_t)r->opt->n_prompts : PROMPTS_DEFAULT;
    int n = (int)(prompts && n_prompts < n_most ? n_prompts : n_most);
    kvant_token *text = NULL;
    struct kvant_prompt *own = NULL;
    plan_progress(r, prompts, n);
    kvant_status status = prompts ? KVANT_OK : write_prompts(r, &n, &text, &own, err);
    if (status == KVANT_OK)
        status = kv_answers_open(&r->answers, r->model, prompts ? prompts : own, n, r->result->n_predict,
                                 ANSWER_CACHE_BYTES, &r->progress, err);
    kv_free(text);
    kv_free(own);
    KV_TRY(status);
    r->result->own_text = !prompts;
    r->result->n_prompts = n;
    r->result->prompts = r->prompts = kv_alloc((size_t)n, sizeof *r->prompts);
    if (!r->prompts) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %d prompts", n);
    for (int i = 0; i < n; i++) {
        const struct kv_answered *a = &r->answers.items[i];
        r->prompts[i] = (struct kvant_sensitivity_prompt){ a->n_prompt, a->n_tokens - a->n_prompt };
        if (a->n_tokens == a->n_prompt) continue;
        r->result->n_tokens += a->n_tokens;
        r->result->n_queries += a->n_tokens - a->n_prompt;
    }
    if (r->result->n_queries == 0)
        KV_FAIL(
            err, KVANT_ERR_ARGUMENT, -1,
            "the model ends every answer before its first token: no queries to measure; give other prompts");
    return join_answers(r, err);
}

/* -------------------------------------------------------------------------------------------- channels -- */

static kvant_status calibrate(struct run *r, struct kvant_error *err)
{
    if (!needs_calibration(r)) return KVANT_OK;
    if (r->n_joined < kv_calibration_tokens_min(SINKS))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "prompts and answers have %zu tokens; mode kvant, channels and KLDs need at least %zu: give "
                "more prompts",
                r->n_joined, kv_calibration_tokens_min(SINKS));
    KV_TRY(kv_calibration_open(&r->calibration, r->model, r->joined, r->n_joined, SINKS,
                               kv_tune_progress_step, &r->progress, err));
    r->calibrated = true;
    r->progress.done += CALIBRATION_TOKENS;
    if (!r->opt->channels) return KVANT_OK;

    const struct kv_calibration *c = &r->calibration;
    size_t n_heads = (size_t)c->n_layer * (size_t)c->n_head_kv, head_dim = (size_t)c->head_dim;
    double *importance = kv_alloc(n_heads * head_dim, sizeof *importance);
    if (!importance) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the importance of channels");
    r->result->importance = importance;
    for (size_t i = 0; i < n_heads; i++) {
        float center[KV_HEAD_DIM_MAX];
        for (size_t k = 0; k < head_dim; k++) center[k] = (float)c->mean[i * head_dim + k];
        kv_calibration_importance(c, (int)i / c->n_head_kv, (int)i % c->n_head_kv, center, IMPORTANCE_GROUP,
                                  false, importance + i * head_dim);
    }
    return KVANT_OK;
}

static kvant_status measure_kld(struct run *r, const struct kv_recipe *recipes, struct kvant_error *err)
{
    int n_recipes = r->opt->n_kld_recipes;
    if (!n_recipes) return KVANT_OK;
    size_t n_tokens = r->n_joined < KLD_TOKENS ? r->n_joined : KLD_TOKENS;
    double *kld = kv_alloc((size_t)r->model->hp.n_layer * (size_t)n_recipes, sizeof *kld);
    if (!kld) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the KLDs of layers");
    r->result->kld = kld;
    r->result->n_kld = n_recipes;
    r->result->n_kld_tokens = (int64_t)n_tokens;
    return kv_errors_kld(r->model, &r->calibration, recipes, n_recipes, r->joined, n_tokens, &r->progress,
                         kld, err);
}

/* --------------------------------------------------------------------------------------------- measure -- */

static kvant_status open_modes(struct run *r, struct kvant_error *err)
{
    for (int mode = 0; mode < KVANT_SENSITIVITY_MODES; mode++) {
        if (r->opt->modes && !(r->opt->modes & 1u << mode)) continue;
        KV_TRY(kv_error_mode_open(&r->modes[r->n_modes], r->model, (kvant_sensitivity_mode)mode,
                                  &r->calibration, err));
        r->n_modes++;
    }
    return KVANT_OK;
}

static kvant_status open_tables(struct run *r, struct kvant_error *err)
{
    size_t n_layer = (size_t)r->model->hp.n_layer, n_heads = n_layer * (size_t)r->model->hp.n_head,
           n_items = n_layer * (size_t)r->n_modes;
    r->layer_errors = kv_alloc(n_items, sizeof *r->layer_errors);
    r->prompt_heads = kv_alloc(n_heads * (size_t)r->n_modes, sizeof *r->prompt_heads);
    r->attention = kv_alloc(n_heads, sizeof *r->attention);
    r->item_errors = kv_alloc(n_items, sizeof *r->item_errors);
    r->item_status = kv_alloc(n_items, sizeof *r->item_status);
    r->counts = kv_alloc(n_layer, sizeof *r->counts);
    r->relative_counts = kv_alloc(n_heads, sizeof *r->relative_counts);
    r->head_counts = kv_alloc(n_heads, sizeof *r->head_counts);
    r->result->heads = r->heads = kv_alloc(n_heads, sizeof *r->heads);
    bool ok = r->layer_errors && r->prompt_heads && r->attention && r->item_errors && r->item_status &&
              r->counts && r->relative_counts && r->head_counts && r->heads;
    for (int i = 0; i < r->n_modes; i++) {
        kvant_sensitivity_mode mode = r->modes[i].mode;
        r->result->errors[mode] = r->errors[mode] = kv_alloc(n_layer, sizeof *r->errors[mode]);
        r->result->head_errors[mode] = r->head_errors[mode] = kv_alloc(n_heads, sizeof *r->head_errors[mode]);
        ok = ok && r->errors[mode] && r->head_errors[mode];
    }
    if (!ok) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the tables of %zu layers", n_layer);
    return KVANT_OK;
}

static kvant_status open_scratch(struct run *r, struct kvant_error *err)
{
    const struct kv_captured *c = &r->capturer.rows;
    size_t page_bytes = 0;
    for (int i = 0; i < r->n_modes; i++)
        if (kv_error_mode_page_bytes(&r->modes[i]) > page_bytes)
            page_bytes = kv_error_mode_page_bytes(&r->modes[i]);
    int n_items = r->model->hp.n_layer * r->n_modes;
    KV_TRY(kv_pool_open(&r->pool, r->model->n_threads < n_items ? r->model->n_threads : n_items, err));
    int n_threads = kv_pool_size(r->pool);
    r->scratch = kv_alloc((size_t)n_threads, sizeof *r->scratch);
    r->scratch_memory = kv_alloc((size_t)n_threads, sizeof *r->scratch_memory);
    if (!r->scratch || !r->scratch_memory)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %d threads", n_threads);
    r->n_threads = n_threads;
    for (int i = 0; i < n_threads; i++) {
        size_t n_bytes = kv_error_scratch_place(&r->scratch[i], NULL, c->head_dim, c->n_tokens_cap,
                                                c->n_queries_cap);
        size_t all_bytes;
        if (kv_add_size(n_bytes, page_bytes, &all_bytes)) r->scratch_memory[i] = kv_alloc(1, all_bytes);
        if (!r->scratch_memory[i])
            KV_FAIL(err, KVANT_ERR_MEMORY, -1,
                    "no memory to measure a prompt of %lld tokens on %d threads; use shorter prompts or "
                    "fewer threads",
                    (long long)c->n_tokens_cap, n_threads);
        kv_error_scratch_place(&r->scratch[i], r->scratch_memory[i], c->head_dim, c->n_tokens_cap,
                               c->n_queries_cap);
        r->scratch[i].page = (uint8_t *)r->scratch_memory[i] + n_bytes;
    }
    return KVANT_OK;
}

/* Item: one (layer, mode). The first mode also looks at the attention itself. */
static void measure_item(void *user, int64_t item, int i_thread)
{
    struct run *r = user;
    int layer = (int)(item / r->n_modes), i_mode = (int)(item % r->n_modes);
    size_t n_head = (size_t)r->model->hp.n_head;
    r->item_status[item] =
        kv_errors_measure(&r->modes[i_mode], &r->capturer.rows, layer, &r->scratch[i_thread],
                          &r->layer_errors[item], r->prompt_heads + (size_t)item * n_head,
                          i_mode == 0 ? r->attention + (size_t)layer * n_head : NULL, &r->item_errors[item]);
}

static bool add(double *sum, const double *x, int n)
{
    if (isnan(x[0])) return false; /* no unit in this prompt */
    for (int i = 0; i < n; i++) sum[i] += x[i];
    return true;
}

static void add_layer(struct run *r, int layer, int i_mode)
{
    kvant_sensitivity_mode mode = r->modes[i_mode].mode;
    const struct kv_layer_errors *from = &r->layer_errors[layer * r->n_modes + i_mode];
    struct kvant_sensitivity_errors *to = &r->errors[mode][layer];
    struct counts *count = &r->counts[layer][mode];
    count->k += add(to->e_k, from->e_k, KV_ERROR_BITS);
    count->v += add(to->e_v, from->e_v, KV_ERROR_BITS);
    count->o += add(&to->e_o[0][0], from->e_o, KV_ERROR_PAIRS);
    add(to->e_a, from->e_a, KV_ERROR_BITS);
    to->n_skipped += from->n_skipped;
    int n_head = r->model->hp.n_head;
    for (int head = 0; head < n_head; head++) {
        const struct kv_head_errors *h = &r->prompt_heads[(layer * r->n_modes + i_mode) * n_head + head];
        struct kvant_sensitivity_head_errors *sum = &r->head_errors[mode][layer * n_head + head];
        r->head_counts[layer * n_head + head][mode] += add(&sum->e_o[0][0], h->e_o, KV_ERROR_PAIRS);
        add(sum->e_a, h->e_a, KV_ERROR_BITS);
    }
}

static void add_attention(struct run *r)
{
    for (int i = 0; i < r->model->hp.n_layer * r->model->hp.n_head; i++) {
        const struct kvant_sensitivity_head *from = &r->attention[i];
        r->heads[i].entropy += from->entropy;
        r->heads[i].top8 += from->top8;
        r->relative_counts[i] += add(&r->heads[i].entropy_relative, &from->entropy_relative, 1);
    }
}

/* Shares of what the prompt's queries read, onto the sums over prompts. */
static void add_shares(struct run *r, const struct kv_answered *a)
{
    double n_queries = (double)(a->n_tokens - a->n_prompt);
    for (int i = 0; i < r->n_modes; i++) {
        int sinks = kv_error_mode_sinks(&r->modes[i]);
        kvant_sensitivity_mode mode = r->modes[i].mode;
        for (int64_t p = a->n_prompt; p < a->n_tokens; p++) {
            int64_t key_end, value_end;
            kv_error_mode_ends(&r->modes[i], p, &key_end, &value_end);
            double n_read = (double)(p + 1) * n_queries;
            r->result->quantized_keys[mode] += (double)(key_end - sinks) / n_read;
            r->result->quantized_values[mode] += (double)(value_end - sinks) / n_read;
        }
    }
}

static kvant_status measure_prompt(struct run *r, const struct kv_answered *a, struct kvant_error *err)
{
    int64_t n_items = (int64_t)r->model->hp.n_layer * r->n_modes;
    if (a->n_tokens > a->n_prompt) {
        KV_TRY(kv_capturer_run(&r->capturer, a, err));
        kv_pool_for(r->pool, n_items, measure_item, r);
        for (int64_t i = 0; i < n_items; i++) {
            if (r->item_status[i] == KVANT_OK) continue;
            if (err) *err = r->item_errors[i];
            return r->item_status[i];
        }
        for (int i = 0; i < n_items; i++) add_layer(r, i / r->n_modes, i % r->n_modes);
        add_attention(r);
        add_shares(r, a);
        r->n_measured++;
    }
    if (!kv_tune_progress_advance(&r->progress, "measuring attention",
                                  MEASURE_WEIGHT * (a->n_prompt + r->result->n_predict)))
        KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "stopped while measuring attention");
    return KVANT_OK;
}

/* Sums over prompts to means; NaN where there is nothing. */
static void divide(double *sum, int n, int count)
{
    for (int i = 0; i < n; i++) sum[i] = count ? sum[i] / count : NAN;
}

static void finish_means(struct run *r)
{
    int n_layer = r->model->hp.n_layer, n_heads = n_layer * r->model->hp.n_head;
    for (int i = 0; i < r->n_modes; i++) {
        kvant_sensitivity_mode mode = r->modes[i].mode;
        divide(&r->result->quantized_keys[mode], 1, r->n_measured);
        divide(&r->result->quantized_values[mode], 1, r->n_measured);
        for (int layer = 0; layer < n_layer; layer++) {
            struct kvant_sensitivity_errors *e = &r->errors[mode][layer];
            const struct counts *count = &r->counts[layer][mode];
            divide(e->e_k, KV_ERROR_BITS, count->k);
            divide(e->e_v, KV_ERROR_BITS, count->v);
            divide(e->e_a, KV_ERROR_BITS, r->n_measured);
            divide(&e->e_o[0][0], KV_ERROR_PAIRS, count->o);
        }
        for (int h = 0; h < n_heads; h++) {
            divide(r->head_errors[mode][h].e_a, KV_ERROR_BITS, r->n_measured);
            divide(&r->head_errors[mode][h].e_o[0][0], KV_ERROR_PAIRS, r->head_counts[h][mode]);
        }
    }
    for (int h = 0; h < n_heads; h++) {
        divide(&r->heads[h].entropy, 1, r->n_measured);
        divide(&r->heads[h].top8, 1, r->n_measured);
        divide(&r->heads[h].entropy_relative, 1, r->relative_counts[h]);
    }
}

static kvant_status measure(struct run *r, struct kvant_error *err)
{
    KV_TRY(open_modes(r, err));
    KV_TRY(open_tables(r, err));
    KV_TRY(kv_capturer_open(&r->capturer, r->model, &r->answers, err));
    KV_TRY(open_scratch(r, err));
    for (int i = 0; i < r->answers.n; i++) KV_TRY(measure_prompt(r, &r->answers.items[i], err));
    finish_means(r);
    return KVANT_OK;
}

/* ------------------------------------------------------------------------------------------------- run -- */

static void run_close(struct run *r)
{
    for (int i = 0; i < r->n_threads; i++) kv_free(r->scratch_memory[i]);
    kv_free(r->scratch_memory);
    kv_free(r->scratch);
    kv_free(r->layer_errors);
    kv_free(r->prompt_heads);
    kv_free(r->attention);
    kv_free(r->item_errors);
    kv_free(r->item_status);
    kv_free(r->counts);
    kv_free(r->relative_counts);
    kv_free(r->head_counts);
    kv_free(r->joined);
    kv_pool_close(r->pool);
    kv_capturer_close(&r->capturer);
    for (int i = 0; i < r->n_modes; i++) kv_error_mode_close(&r->modes[i]);
    if (r->calibrated) kv_calibration_close(&r->calibration);
    kv_answers_close(&r->answers);
}

static kvant_status run(struct run *r, const struct kvant_prompt *prompts, size_t n_prompts,
                        struct kvant_error *err)
{
    struct kv_recipe recipes[KLD_RECIPES_MAX];
    KV_TRY(parse_recipes(r->opt, recipes, err));
    KV_TRY(answer(r, prompts, n_prompts, err));
    KV_TRY(calibrate(r, err));
    KV_TRY(measure(r, err));
    return measure_kld(r, recipes, err);
}

kvant_status kvant_sensitivity_run(struct kvant_sensitivity **out, const struct kvant_model *model,
                                   const struct kvant_prompt *prompts, size_t n_prompts,
                                   const struct kvant_sensitivity_options *options, struct kvant_error *err)
{
    static const struct kvant_sensitivity_options defaults = KVANT_SENSITIVITY_OPTIONS_INIT;
    const struct kvant_sensitivity_options *opt = options ? options : &defaults;
    *out = NULL;
    KV_TRY(check_options(model, prompts, n_prompts, opt, err));
    struct kvant_model exact = *model; /* borrows everything */
    if (exact.act != KVANT_ACT_F32) exact.act = KVANT_ACT_INT16;
    struct kvant_sensitivity *result = kv_alloc(1, sizeof *result);
    if (!result) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a result");
    result->n_layer = model->hp.n_layer;
    result->n_head = model->hp.n_head;
    result->n_head_kv = model->hp.n_head_kv;
    result->head_dim = model->hp.head_dim;
    result->n_predict = opt->n_predict ? opt->n_predict : PREDICT_DEFAULT;
    struct run r = { .model = &exact, .opt = opt, .result = result };
    r.progress = (struct kv_tune_progress){ opt->progress, opt->user, 0, 0, 1, NULL };
    kvant_status status = run(&r, prompts, n_prompts, err);
    run_close(&r);
    if (status != KVANT_OK) kvant_sensitivity_close(result);
    else *out = result;
    return status;
}

void kvant_sensitivity_close(struct kvant_sensitivity *s)
{
    if (!s) return;
    for (int mode = 0; mode < KVANT_SENSITIVITY_MODES; mode++) {
        kv_free((void *)s->errors[mode]);
        kv_free((void *)s->head_errors[mode]);
    }
    kv_free((void *)s->prompts);
    kv_free((void *)s->heads);
    kv_free((void *)s->importance);
    kv_free((void *)s->kld);
    kv_free(s);
}

static int index_of_bits(int bits)
{
    for (int i = 0; i < KV_ERROR_BITS; i++)
        if (kv_error_bits[i] == bits) return i;
    return -1;
}

kvant_status kv_errors_output_table(const struct kvant_sensitivity *s, kvant_sensitivity_mode mode,
                                    const int *bits, int n_bits, double *out, struct kvant_error *err)
{
    if (!s->errors[mode])
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "sensitivities were not measured in mode %s",
                kvant_sensitivity_mode_name(mode));
    for (int i = 0; i < n_bits; i++)
        if (index_of_bits(bits[i]) < 0)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, i, "no sensitivities of %d bits: 2, 3, 4 or 8", bits[i]);
    for (int layer = 0; layer < s->n_layer; layer++)
        for (int k = 0; k < n_bits; k++)
            for (int v = 0; v < n_bits; v++)
                *out++ = s->errors[mode][layer].e_o[index_of_bits(bits[k])][index_of_bits(bits[v])];
    return KVANT_OK;
}
