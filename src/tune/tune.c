/*
 * kvant_tune_run: from a model and some text to a menu of plans.
 *
 *   text ── calibration part ── means, channel importance ── KLD of each (layer, side, choice) alone
 *        │                                                       └─ exact allocation for each budget (errors add up)
 *        └─ held-back part ──── every plan of the menu and the strong uniform recipes measured as a whole
 *
 * Never with 8-bit activations: with them the KLD between two nearly equal caches has a floor of .002 to .003
 * (SmolLM2; 16-bit activations and float32: .0006 for k16v4h), above what most single layers cost.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tune/allocate.h"
#include "tune/sensitivity.h"

#define TOKENS_DEFAULT 512 /* for calibration and sensitivities                             */
#define TOKENS_VERIFY 512  /* held back                                                     */
#define N_CTX_DEFAULT 8192 /* at which true bits are stated                                 */
#define UNIFORM_MAX 16
#define BUDGETS_MAX 64
#define VERIFY_PER_BATCH 15
#define N_OPTIONS (KV_SIDE_CHOICES * KV_SIDE_CHOICES)

static const double budgets_default[] = { 2.5, 2.75, 3, 3.25, 3.5, 4, 5 };

static const char *const uniform_mixed[] = { "k2c64xm v2h", "k2.5c64xm v2h", "k3c64xm v2h", "k3c64xm v3h",
                                             "k4c64 v4h",   "k4c64xm v4h",   "k8tm v8",     NULL };
static const char *const uniform_unmixed[] = { "k2c32m v2h", "k3c64m v2h", "k4c64m v3h", "k4c64 v4h",
                                               "k4c64m v4h", "k8tm v8",    NULL };

static const char *const *uniform_of(const struct kvant_tune_options *opt)
{
    return opt->no_mix ? uniform_unmixed : uniform_mixed;
}

struct tune {
    const struct kvant_model *model; /* a view of the caller's, never with 8-bit activations               */
    const struct kvant_tune_options *opt;
    const kvant_token *tokens;       /* calibration part first                                              */
    size_t n_calibration, n_verify;
    bool own_text;
    struct kv_calibration calibration;
    struct kv_sensitivity sensitivity;
    struct kv_option *options;       /* (n_layer, N_OPTIONS): key choice × values */
    struct kv_tune_progress progress;
    int64_t n_ctx;
    struct kvant_tune_point *points;
    size_t n_points;
};

/* ----------------------------------------------------------------------------------------------- plans -- */

/* Bits that a token takes in one KV head under a recipe, from the one place that knows sizes. */
static kvant_status recipe_cost(const struct tune *t, const struct kv_recipe *recipe, int64_t *cost,
                                struct kvant_error *err)
{
    struct kv_plan_dims dims = kv_model_plan_dims(t->model);
    struct kvant_plan *plan;
    struct kvant_plan_memory memory;
    KV_TRY(kv_plan_uniform(&plan, &dims, recipe, 0, 0, err));
    kvant_plan_get_memory(plan, 64, &memory);
    kvant_plan_close(plan);
    *cost = llround(memory.page_bits * 2.0 * dims.head_dim);
    return KVANT_OK;
}

static kvant_status set_options(struct tune *t, struct kvant_error *err)
{
    int n_layer = t->model->hp.n_layer;
    t->options = kv_alloc((size_t)n_layer * N_OPTIONS, sizeof *t->options);
    if (!t->options) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the options of %d layers", n_layer);
    for (int key = 0; key < KV_SIDE_CHOICES; key++) {
        for (int value = 0; value < KV_SIDE_CHOICES; value++) {
            struct kv_recipe recipe;
            int64_t cost;
            KV_TRY(kv_sensitivity_recipe(!t->opt->no_mix, key, value, &recipe, err));
            KV_TRY(recipe_cost(t, &recipe, &cost, err));
            for (int layer = 0; layer < n_layer; layer++)
                t->options[layer * N_OPTIONS + key * KV_SIDE_CHOICES + value] = (struct kv_option){
                    cost, t->sensitivity.key[layer][key] + t->sensitivity.value[layer][value]
                };
        }
    }
    return KVANT_OK;
}

static bool same_plan(const struct kvant_plan *a, const struct kvant_plan *b)
{
    for (size_t i = 0; i < (size_t)a->n_layer * (size_t)a->n_head_kv; i++)
        if (!kv_recipe_equal(&a->recipe[i], &b->recipe[i])) return false;
    return true;
}

/* Calibrates the plan and puts it on the menu, unless it is there already. Owns `plan` from here on. */
static kvant_status add_point(struct tune *t, struct kvant_plan *plan, double kld_predicted, bool uniform,
                              struct kvant_error *err)
{
    for (size_t i = 0; i < t->n_points; i++) {
        if (!same_plan(t->points[i].plan, plan)) continue;
        t->points[i].uniform |= uniform;
        kvant_plan_close(plan);
        return KVANT_OK;
    }
    t->points[t->n_points++] = (struct kvant_tune_point){ .plan = plan,
                                                          .kld_predicted = kld_predicted,
                                                          .uniform = uniform };
    return kv_calibration_apply(&t->calibration, plan, err);
}

static kvant_status add_tuned(struct tune *t, const double *budgets, int n_budgets, struct kvant_error *err)
{
    int n_layer = t->model->hp.n_layer, n_head = t->model->hp.n_head_kv;
    double bits_per_page_bit = 2.0 * t->model->hp.head_dim *
                               n_layer; /* a token's bits in one KV head of all layers */
    struct kv_allocation allocation;
    KV_TRY(kv_allocation_open(&allocation, t->options, n_layer, N_OPTIONS,
                              (int64_t)(budgets[n_budgets - 1] * bits_per_page_bit), err));
    int *choice = kv_alloc((size_t)n_layer, sizeof *choice);
    kvant_status status = choice ? KVANT_OK : kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for a plan");
    for (int i = 0; status == KVANT_OK && i < n_budgets; i++) {
        double kld;
        struct kvant_plan *plan;
        if (!kv_allocation_choose(&allocation, (int64_t)(budgets[i] * bits_per_page_bit), choice, &kld))
            continue;
        status = kvant_plan_open(&plan, t->model, "f16", err);
        for (int layer = 0; status == KVANT_OK && layer < n_layer; layer++) {
            struct kv_recipe recipe;
            status = kv_sensitivity_recipe(!t->opt->no_mix, choice[layer] / KV_SIDE_CHOICES,
                                           choice[layer] % KV_SIDE_CHOICES, &recipe, err);
            for (int head = 0; head < n_head; head++) plan->recipe[layer * n_head + head] = recipe;
        }
        if (status != KVANT_OK) {
            kvant_plan_close(plan);
            break;
        }
        kv_plan_settle(plan);
        status = add_point(t, plan, kld, false, err);
        if (status == KVANT_OK) status = kv_plan_set_name(t->points[t->n_points - 1].plan, NULL, err);
    }
    kv_free(choice);
    kv_allocation_close(&allocation);
    return status;
}

static kvant_status add_uniform(struct tune *t, struct kvant_error *err)
{
    for (const char *const *spec = uniform_of(t->opt); *spec; spec++) {
        struct kvant_plan *plan;
        KV_TRY(kvant_plan_open(&plan, t->model, *spec, err));
        KV_TRY(add_point(t, plan, NAN, true, err));
    }
    return KVANT_OK;
}

/* ---------------------------------------------------------------------------------------------- verify -- */

static void record(const struct tune *t, struct kvant_tune_point *point)
{
    struct kvant_plan *plan = point->plan;
    struct kvant_plan_memory memory;
    kvant_plan_get_memory(plan, t->n_ctx, &memory);
    point->measured.page_bits = memory.page_bits;
    point->measured.true_bits = memory.true_bits;
    point->measured.bytes_per_token = memory.bytes_per_token;
    const struct kvant_eval_result *r = &point->measured;
    plan->measured = (struct kv_plan_measured){ r->page_bits, r->true_bits, (double)t->n_ctx,
                                                r->kld_mean,  r->kld_p999,  r->same_top_p,
                                                r->ppl_ratio, "",           "kvant " KVANT_VERSION };
    snprintf(plan->measured.text, sizeof plan->measured.text, "%s, %zu tokens",
             t->own_text ? "the model's own" : "given", t->n_verify);
}

static kvant_status verify(struct tune *t, struct kvant_error *err)
{
    const struct kvant_plan *plans[VERIFY_PER_BATCH];
    struct kvant_eval_result results[VERIFY_PER_BATCH];
    struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    opt.n_ctx = (int64_t)t->n_verify;
    opt.progress = kv_tune_progress_step;
    opt.user = &t->progress;
    t->progress.what = "verifying plans";
    for (size_t first = 0; first < t->n_points; first += VERIFY_PER_BATCH) {
        int n = t->n_points - first < VERIFY_PER_BATCH ? (int)(t->n_points - first) : VERIFY_PER_BATCH;
        for (int i = 0; i < n; i++) plans[i] = t->points[first + (size_t)i].plan;
        t->progress.scale = n + 1;
        KV_TRY(kvant_eval_run(t->model, plans, n, t->tokens + t->n_calibration, t->n_verify, &opt, results,
                              NULL, err));
        t->progress.done += (int64_t)t->n_verify * (n + 1);
        for (int i = 0; i < n; i++) {
            t->points[first + (size_t)i].measured = results[i];
            record(t, &t->points[first + (size_t)i]);
        }
    }
    return KVANT_OK;
}

static int compare_points(const void *a, const void *b)
{
    const struct kvant_tune_point *p = a, *q = b;
    if (p->measured.true_bits != q->measured.true_bits)
        return p->measured.true_bits < q->measured.true_bits ? -1 : 1;
    return (p->measured.kld_mean > q->measured.kld_mean) - (p->measured.kld_mean < q->measured.kld_mean);
}

/* In ascending order of size a point is dominated when one before it is no worse. */
static void mark_dominated(struct kvant_tune_point *points, size_t n)
{
    double best = INFINITY;
    for (size_t i = 0; i < n; i++) {
        points[i].dominated = i > 0 && points[i].measured.kld_mean >= best;
        best = fmin(best, points[i].measured.kld_mean);
    }
}

/* ------------------------------------------------------------------------------------------------- run -- */

/* The calibration part is at most half of the text. */
static void split_text(struct tune *t, size_t n_tokens, size_t n_calibration)
{
    t->n_calibration = n_tokens >= 2 * n_calibration ? n_calibration : n_tokens / 2;
    t->n_verify = n_tokens - t->n_calibration < TOKENS_VERIFY ? n_tokens - t->n_calibration : TOKENS_VERIFY;
}

/* All forward tokens, before the first one is run. Uniform recipes that the search finds too are counted
 * twice. */
static int64_t planned_tokens(const struct tune *t, int n_budgets)
{
    int64_t n_uniform = 0;
    for (const char *const *spec = uniform_of(t->opt); *spec; spec++) n_uniform++;
    return (int64_t)t->n_calibration * (1 + kv_sensitivity_sequences(t->model->hp.n_layer)) +
           (int64_t)t->n_verify * (n_budgets + n_uniform + 1);
}

/* Splits the text, or lets the model write one. *own is to be freed. */
static kvant_status prepare_text(struct tune *t, const kvant_token *tokens, size_t n_tokens, int n_budgets,
                                 kvant_token **own, struct kvant_error *err)
{
    size_t n_calibration = t->opt->n_tokens ? (size_t)t->opt->n_tokens : TOKENS_DEFAULT,
           n_wanted = n_calibration + TOKENS_VERIFY;
    size_t n_least = 2 * kv_calibration_tokens_min(4);
    if (tokens && n_tokens < n_least)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "the text has %zu tokens; tuning needs at least %zu, better %zu",
                n_tokens, n_least, n_wanted);
    t->tokens = tokens;
    split_text(t, tokens ? n_tokens : n_wanted, n_calibration);
    t->progress.total = (tokens ? 0 : (int64_t)n_wanted) + planned_tokens(t, n_budgets);
    if (tokens) return KVANT_OK;

    t->tokens = *own = kv_alloc(n_wanted, sizeof **own);
    t->own_text = true;
    if (!*own) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %zu tokens of text", n_wanted);
    KV_TRY(kvant_tune_text(t->model, n_wanted, *own, n_wanted, &n_tokens, kv_tune_progress_step, &t->progress,
                           err));
    if (n_tokens < n_least)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "the model stopped after %zu tokens of its own text; give a text of at least %zu tokens",
                n_tokens, n_least);
    split_text(t, n_tokens, n_calibration);
    t->progress.done += (int64_t)n_wanted;
    return KVANT_OK;
}

static kvant_status check_options(const struct kvant_tune_options *opt, struct kvant_error *err)
{
    if (opt->size != sizeof *opt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_tune_options.size is not set; use KVANT_TUNE_OPTIONS_INIT");
    if (opt->n_budgets < 0 || opt->n_budgets > BUDGETS_MAX || (opt->n_budgets > 0 && !opt->budgets))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d budgets: 1 to %d, or none for the default", opt->n_budgets,
                BUDGETS_MAX);
    for (int i = 0; i < opt->n_budgets; i++) {
        if (!(opt->budgets[i] >= 1.0 && opt->budgets[i] <= 32.0))
            KV_FAIL(err, KVANT_ERR_ARGUMENT, i, "a budget of %g page bits: 1 to 32", opt->budgets[i]);
        if (i && !(opt->budgets[i] > opt->budgets[i - 1]))
            KV_FAIL(err, KVANT_ERR_ARGUMENT, i, "budgets must ascend");
    }
    if (opt->n_tokens < 0 || opt->n_tokens > 65536 ||
        (opt->n_tokens && (size_t)opt->n_tokens < kv_calibration_tokens_min(4)))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_tokens %lld: %zu to 65536, or 0", (long long)opt->n_tokens,
                kv_calibration_tokens_min(4));
    if (opt->n_ctx < 0) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_ctx %lld: 0 or more", (long long)opt->n_ctx);
    return KVANT_OK;
}

static kvant_status run(struct tune *t, const double *budgets, int n_budgets, struct kvant_error *err)
{
    t->progress.scale = 1;
    KV_TRY(kv_calibration_open(&t->calibration, t->model, t->tokens, t->n_calibration, 4,
                               kv_tune_progress_step, &t->progress, err));
    t->progress.done += (int64_t)t->n_calibration;
    KV_TRY(kv_sensitivity_open(&t->sensitivity, t->model, &t->calibration, !t->opt->no_mix, t->tokens,
                               t->n_calibration, &t->progress, err));
    KV_TRY(set_options(t, err));
    KV_TRY(add_tuned(t, budgets, n_budgets, err));
    KV_TRY(add_uniform(t, err));
    KV_TRY(verify(t, err));
    qsort(t->points, t->n_points, sizeof *t->points, compare_points);
    mark_dominated(t->points, t->n_points);
    return KVANT_OK;
}

kvant_status kvant_tune_run(const struct kvant_model *model, const kvant_token *tokens, size_t n_tokens,
                            const struct kvant_tune_options *options, struct kvant_tune_point *points,
                            size_t cap, size_t *n_out, struct kvant_error *err)
{
    static const struct kvant_tune_options defaults = KVANT_TUNE_OPTIONS_INIT;
    const struct kvant_tune_options *opt = options ? options : &defaults;
    *n_out = 0;
    KV_TRY(check_options(opt, err));
    if (model->vocab_only)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "the model was opened for its vocabulary only; it cannot be tuned");
    const double *budgets = opt->n_budgets ? opt->budgets : budgets_default;
    int n_budgets = opt->n_budgets ? opt->n_budgets
                                   : (int)(sizeof budgets_default / sizeof budgets_default[0]);
    if (cap < (size_t)n_budgets + UNIFORM_MAX) {
        *n_out = (size_t)n_budgets + UNIFORM_MAX;
        KV_FAIL(err, KVANT_ERR_SPACE, -1, "up to %zu plans are made, there is room for %zu", *n_out, cap);
    }

    struct kvant_model exact = *model; /* borrows everything */
    if (exact.act == KVANT_ACT_INT8) exact.act = KVANT_ACT_INT16;
    struct tune t = { .model = &exact, .opt = opt, .points = points };
    t.n_ctx = opt->n_ctx                              ? opt->n_ctx
              : N_CTX_DEFAULT < model->hp.n_ctx_train ? N_CTX_DEFAULT
                                                      : model->hp.n_ctx_train;
    t.progress = (struct kv_tune_progress){ opt->progress, opt->user, 0, 0, 1, NULL };

    kvant_token *own = NULL;
    kvant_status status = prepare_text(&t, tokens, n_tokens, n_budgets, &own, err);
    if (status == KVANT_OK) status = run(&t, budgets, n_budgets, err);
    for (size_t i = 0; status != KVANT_OK && i < t.n_points; i++) kvant_plan_close(points[i].plan);
    if (status == KVANT_OK) *n_out = t.n_points;
    kv_calibration_close(&t.calibration);
    kv_sensitivity_close(&t.sensitivity);
    kv_free(t.options);
    kv_free(own);
    return status;
}
