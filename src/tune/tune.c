/*
 * kvant_tune_run: from a model and some text to a menu of plans.
 *
 *   text ── tuning part ──── means, channel importance ── KLD of each (layer, KV head, side, choice) alone
 *        │                       └─ exact allocation for each budget (errors add up) ── measured swaps
 *        └─ held-back part ── first the strong uniform recipes, last every plan, measured as a whole
 *
 * Never with 8-bit activations: with them the KLD between two nearly equal caches has a floor of .002 to .003
 * (SmolLM2; 16-bit activations and float32: .0006 for k16v4h), above what most single layers cost.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tune/menu.h"
#include "tune/published.h"
#include "tune/refine.h"

/* For calibration and sensitivities. Every plan leans on the numbers of single heads, and on each the more
 * the fewer there are: twice 1024 tokens are worth 7 % of the KLD on Qwen2.5-Coder-0.5B (48 KV heads),
 * nothing on SmolLM2 (90). Measuring them takes tokens times heads. */
#define TOKENS_LEAST 1024
#define TOKENS_MOST  4096
#define TOKENS_STEP 512
#define TOKENS_HEADS 98304
#define TOKENS_PUBLISHED 1024 /* KVTUNER: of the KLDs of whole plans                          */
#define TOKENS_VERIFY 1024 /* held back, in one sequence: a tail is judged too well by a short one */
#define TOKENS_VERIFY_LEAST 512 /* of a text that is short: what tuning leaves                     */
#define N_CTX_DEFAULT 8192 /* at which true bits are stated                                 */
#define BUDGETS_MAX 32
#define RANKS_MAX      4096
#define SINKS 4

static const double budgets_default[] = { 2.5, 2.75, 3, 3.25, 3.5, 4, 5 };
#define N_BUDGETS_DEFAULT ((int)(sizeof budgets_default / sizeof budgets_default[0]))

static const char *const uniform_mixed[] = { "k2c64xms v2hs", "k2.5c64xms v2hs", "k3c64xms v2hs",
                                             "k3c64xms v3hs", "k4c64 v4h",       "k4c64xms v4hs",
                                             "k8tm v8",       NULL };
static const char *const uniform_unmixed[] = { "k2c32ms v2hs", "k3c64ms v2hs", "k4c64ms v3hs", "k4c64 v4h",
                                               "k4c64ms v4hs", "k8tm v8", NULL };

struct result { /* what kvant_tune_close frees */
    struct kvant_tune_result view;
    struct kv_menu menu;
    struct kv_sensitivity sensitivity;
    const char *names[KV_SIDES][KV_CHOICES_MAX];
};

struct tune {
    const struct kvant_model *model; /* a view of the caller's, never with 8-bit activations               */
    const struct kvant_tune_options *opt;
    const kvant_token *tokens;       /* tuning part first                                                  */
    size_t n_tuning, n_verify;
    double budgets[BUDGETS_MAX];
    int n_budgets;
    int64_t n_ctx;
    struct kv_calibration calibration;
    struct kv_search search;
    struct kv_measure tuning, verify, answers; /* answers: with questions */
    struct kv_menu uniform;                    /* measured first, for a search that is stopped      */
    struct kv_ranks ranks;
    struct kv_tune_progress progress;
    struct kv_trials *trials;
    struct result *result;
};

/* Exact last tokens. What they cost is the less the longer the context. Tuned plans of 2.86 true bits at 8192
 * tokens: 32 of them .0060 / .0071 (SmolLM2, GSM8K / WikiText) and .0133 (Qwen, WikiText), 64 .0043 / .0062
 * and .0121, 128 .0032 / .0059 and .0114. At 2048 tokens 64 is better on one text, worse on the other. */
static int tail_of(const struct kvant_tune_options *opt, int64_t n_ctx)
{
    if (opt->tail >= 0) return opt->tail;
    return n_ctx >= 8192 ? 128 : n_ctx >= 4096 ? 64 : 32;
}

static const char *const *uniform_of(const struct kvant_tune_options *opt)
{
    return opt->no_mix ? uniform_unmixed : uniform_mixed;
}

/* ----------------------------------------------------------------------------------------------- plans -- */

static double true_bits(const struct kvant_plan *plan, int64_t n_ctx)
{
    struct kvant_plan_memory memory;
    kvant_plan_get_memory(plan, n_ctx, &memory);
    return memory.true_bits;
}

/* The best plan within so many true bits, NULL if there is none. Sinks, tail, tables and the alignment of
 * pages have their price: the page budget is lowered until the whole fits, each time below the plan that did
 * not. */
static kvant_status plan_within(const struct tune *t, double bits, int *choice, struct kvant_tune_point *like,
                                struct kvant_plan **out, struct kvant_error *err)
{
    double page_bits = bits;
    *out = NULL;
    while (kv_search_choose(&t->search, page_bits, choice, &like->kld_predicted)) {
        struct kvant_plan_memory memory;
        KV_TRY(kv_search_plan(&t->search, choice, out, err));
        kvant_plan_get_memory(*out, t->n_ctx, &memory);
        double over = memory.true_bits - bits;
        if (over <= 0) return KVANT_OK;
        page_bits = fmin(page_bits - over, memory.page_bits - 1.0 / (double)t->search.bits_per_page_bit);
        kvant_plan_close(*out);
        *out = NULL;
    }
    return KVANT_OK;
}

static kvant_status add_named(struct kv_menu *menu, struct kvant_plan *plan,
                              const struct kvant_tune_point *like, struct kvant_error *err)
{
    kvant_status status = kv_plan_set_name(plan, NULL, err);
    if (status == KVANT_OK) return kv_menu_add(menu, plan, like, err);
    kvant_plan_close(plan);
    return status;
}

static kvant_status smallest_plan(const struct tune *t, double *bits, struct kvant_error *err)
{
    struct kvant_plan *plan;
    const struct kv_search shape = kv_search_shape(t->model, &t->calibration, !t->opt->no_mix,
                                                   t->opt->by_layer, tail_of(t->opt, t->n_ctx));
    int *choice = kv_alloc((size_t)shape.n_items, sizeof *choice); /* all at the first and smallest */
    if (!choice) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a plan");
    kvant_status status = kv_search_plan(&shape, choice, &plan, err);
    kv_free(choice);
    if (status != KVANT_OK) return status;
    *bits = true_bits(plan, t->n_ctx);
    kvant_plan_close(plan);
    return KVANT_OK;
}

static kvant_status add_budget(struct tune *t, double bits, int *choice, struct kvant_error *err)
{
    struct kvant_plan *plan;
    struct kvant_tune_point like = {
        .budget = bits, .kld_tuning = NAN, .accuracy = NAN, .source = KVANT_TUNE_FROM_KVANT
    };
    KV_TRY(plan_within(t, bits, choice, &like, &plan, err));
    return plan ? add_named(&t->result->menu, plan, &like, err) : KVANT_OK;
}

/* The plan of a budget again, with the swaps that lower the KLD on the tuning text. */
static kvant_status add_refined(struct tune *t, double bits, int *choice, struct kv_menu *refined,
                                struct kvant_error *err)
{
    struct kvant_plan *plan;
    struct kvant_tune_point like = { .budget = bits, .accuracy = NAN, .source = KVANT_TUNE_FROM_KVANT };
    KV_TRY(plan_within(t, bits, choice, &like, &plan, err));
    if (!plan) return KVANT_OK;
    kvant_plan_close(plan);
    KV_TRY(kv_refine(&t->search, &t->tuning, choice, &like.kld_tuning, err));
    KV_TRY(kv_search_plan(&t->search, choice, &plan, err));
    return add_named(refined, plan, &like, err);
}

/* Allocated plans make room for refined ones of the same budget: those are better on the tuning text. */
static void replace_refined(struct kv_menu *menu, struct kv_menu *refined)
{
    for (size_t k = 0; k < refined->n; k++)
        for (size_t i = 0; i < menu->n; i++) {
            struct kvant_tune_point *point = &menu->points[i];
            if (point->source != KVANT_TUNE_FROM_KVANT || point->budget != refined->points[k].budget)
                continue;
            struct kvant_tune_point allocated = *point;
            *point = refined->points[k];
            refined->points[k] = allocated; /* closed with its menu */
            break;
        }
}

static kvant_status refine_budgets(struct tune *t, int *choice, struct kvant_error *err)
{
    struct kv_menu refined = { 0 };
    kvant_status status = KVANT_OK;
    t->progress.what = "refining plans";
    int64_t done = t->progress.done, each = kv_measure_tokens(&t->tuning, kv_refine_plans());
    for (int i = 0; status == KVANT_OK && i < t->n_budgets; i++) {
        status = add_refined(t, t->budgets[i], choice, &refined, err);
        t->progress.done = done += each; /* a search that ends early was counted whole */
    }
    t->progress.what = "verifying plans";
    if (status == KVANT_OK)
        status = kv_menu_measure(&refined, 0, &t->verify, t->n_ctx, t->result->view.own_text, err);
    if (status == KVANT_OK) replace_refined(&t->result->menu, &refined);
    kv_menu_close(&refined);
    return status;
}

static kvant_status measure_uniform(struct tune *t, struct kvant_error *err)
{
    for (const char *const *spec = uniform_of(t->opt); *spec; spec++) {
        struct kvant_plan *plan;
        struct kvant_tune_point like = { .budget = NAN,
                                         .kld_predicted = NAN,
                                         .kld_tuning = NAN,
                                         .accuracy = NAN,
                                         .source = KVANT_TUNE_FROM_UNIFORM };
        char text[64];
        snprintf(text, sizeof text, "%s;tail=%d", *spec, tail_of(t->opt, t->n_ctx));
        KV_TRY(kvant_plan_open(&plan, t->model, text, err));
        kvant_status status = kv_calibration_apply(&t->calibration, plan, err);
        if (status != KVANT_OK) {
            kvant_plan_close(plan);
            return status;
        }
        KV_TRY(kv_menu_add(&t->uniform, plan, &like, err));
    }
    t->progress.what = "measuring uniform recipes";
    return kv_menu_measure(&t->uniform, 0, &t->verify, t->n_ctx, t->result->view.own_text, err);
}

/* The strong uniform recipes join the plans that were found; one that was found as well is that one's. */
static kvant_status join_uniform(struct tune *t, struct kvant_error *err)
{
    kvant_status status = KVANT_OK;
    for (size_t i = 0; status == KVANT_OK && i < t->uniform.n; i++) {
        struct kvant_tune_point point = t->uniform.points[i];
        t->uniform.points[i].plan = NULL;
        status = kv_menu_add(&t->result->menu, point.plan, &point, err);
    }
    kv_menu_close(&t->uniform);
    return status;
}

/* ---------------------------------------------------------------------------------------------- bounds -- */

#define BOUND_GRID KV_MEASURE_BATCH

/* The cheapest plan with at most max_kld on the held-back text: two rounds of a grid over budgets, the second
 * between the last that is too far and the first that is close enough. */
static kvant_status add_bound(struct tune *t, int *choice, struct kvant_error *err)
{
    double low = t->result->view.smallest_bits, high = 16.0;
    kvant_status status = KVANT_OK;
    t->progress.what = "finding the cheapest plan";
    for (int round = 0; status == KVANT_OK && round < 2; round++) {
        struct kv_menu grid = { 0 };
        double step = (high - low) / (BOUND_GRID - 1), first = low;
        for (int i = 0; status == KVANT_OK && i < BOUND_GRID; i++) {
            struct kvant_plan *plan;
            struct kvant_tune_point like = { .budget = first + step * i,
                                             .kld_tuning = NAN,
                                             .accuracy = NAN,
                                             .source = KVANT_TUNE_FROM_KVANT };
            status = plan_within(t, like.budget, choice, &like, &plan, err);
            if (status == KVANT_OK && plan) status = add_named(&grid, plan, &like, err);
        }
        if (status == KVANT_OK)
            status = kv_menu_measure(&grid, 0, &t->verify, t->n_ctx, t->result->view.own_text, err);
        for (size_t i = 0; status == KVANT_OK && i < grid.n; i++) {
            if (grid.points[i].measured.kld_mean > t->opt->max_kld) {
                low = grid.points[i].budget;
                continue;
            }
            high = grid.points[i].budget;
            if (round == 1) {
                struct kvant_tune_point point = grid.points[i];
                grid.points[i].plan = NULL;
                status = kv_menu_add(&t->result->menu, point.plan, &point, err);
            }
            break;
        }
        kv_menu_close(&grid);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------------- run -- */

static size_t tuning_tokens(const struct kvant_model *model, const struct kvant_tune_options *opt)
{
    if (opt->n_tokens) return (size_t)opt->n_tokens;
    if (opt->method == KVANT_TUNE_KVTUNER) return TOKENS_PUBLISHED;
    int n = TOKENS_HEADS / (model->hp.n_layer * model->hp.n_head_kv) / TOKENS_STEP * TOKENS_STEP;
    return (size_t)(n < TOKENS_LEAST ? TOKENS_LEAST : n > TOKENS_MOST ? TOKENS_MOST : n);
}

/* Of a text that is too short for both, tuning gets half, or all but what the other part needs. */
static void split_text(struct tune *t, size_t n_tokens, size_t n_tuning)
{
    size_t most = n_tokens / 2;
    if (n_tokens > most + TOKENS_VERIFY_LEAST) most = n_tokens - TOKENS_VERIFY_LEAST;
    t->n_tuning = most < n_tuning ? most : n_tuning;
    t->n_verify = n_tokens - t->n_tuning < TOKENS_VERIFY ? n_tokens - t->n_tuning : TOKENS_VERIFY;
}

static struct kv_published_options published_options(const struct kvant_tune_options *opt)
{
    return (struct kv_published_options){ opt->kivi ? KV_PRESET_KIVI : KV_PRESET_PERTOKEN,
                                          opt->nsga2 ? KV_EVOLVE_NSGA2 : KV_EVOLVE_MOEAD, opt->n_trials,
                                          opt->seed };
}

/* All forward tokens, before the first one is run. */
static int64_t planned_tokens(const struct tune *t)
{
    int n_uniform = 0;
    for (const char *const *spec = uniform_of(t->opt); *spec; spec++) n_uniform++;
    if (t->opt->method == KVANT_TUNE_KVTUNER) {
        const struct kv_measure tuning = { .n_tokens = t->opt->questions ? t->answers.n_tokens
                                                                         : t->n_tuning },
                                verify = { .n_tokens = t->n_verify };
        const struct kv_published_options opt = published_options(t->opt);
        return 2 * (int64_t)t->n_tuning + kv_measure_tokens(&tuning, kv_published_plans(&opt)) +
               kv_measure_tokens(&verify, n_uniform) + kv_measure_tokens(&verify, 4 * KV_MEASURE_BATCH);
    }
    int n_probes = kv_sensitivity_probes(t->model->hp.n_layer, t->model->hp.n_head_kv, !t->opt->no_mix,
                                         t->opt->by_layer);
    const struct kv_measure tuning = { .n_tokens = t->n_tuning }, verify = { .n_tokens = t->n_verify };
    return (int64_t)t->n_tuning + kv_measure_tokens(&tuning, n_probes) +
           (t->opt->refine ? t->n_budgets * kv_measure_tokens(&tuning, kv_refine_plans()) +
                                 kv_measure_tokens(&verify, t->n_budgets)
                           : 0) +
           (t->opt->max_kld > 0 ? kv_measure_tokens(&verify, 2 * BOUND_GRID) : 0) +
           kv_measure_tokens(&verify, n_uniform) + kv_measure_tokens(&verify, t->n_budgets);
}

/* Splits the text, or lets the model write one. *own is to be freed. */
static kvant_status prepare_text(struct tune *t, const kvant_token *tokens, size_t n_tokens,
                                 kvant_token **own, struct kvant_error *err)
{
    size_t n_tuning = tuning_tokens(t->model, t->opt), n_wanted = n_tuning + TOKENS_VERIFY;
    size_t n_least = 2 * kv_calibration_tokens_min(SINKS);
    if (tokens && n_tokens < n_least)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "the text has %zu tokens; tuning needs at least %zu, better %zu",
                n_tokens, n_least, n_wanted);
    t->tokens = tokens;
    split_text(t, tokens ? n_tokens : n_wanted, n_tuning);
    t->progress.total = (tokens ? 0 : (int64_t)n_wanted) + planned_tokens(t);
    if (tokens) return KVANT_OK;

    t->tokens = *own = kv_alloc(n_wanted, sizeof **own);
    t->result->view.own_text = true;
    if (!*own) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %zu tokens of text", n_wanted);
    KV_TRY(kvant_tune_text(t->model, n_wanted, *own, n_wanted, &n_tokens, kv_tune_progress_step, &t->progress,
                           err));
    if (n_tokens < n_least)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "the model stopped after %zu tokens of its own text; give a text of at least %zu tokens",
                n_tokens, n_least);
    split_text(t, n_tokens, n_tuning);
    t->progress.done += (int64_t)n_wanted;
    return KVANT_OK;
}

static kvant_status prepare_questions(struct tune *t, struct kvant_error *err)
{
    const struct kvant_tune_options *opt = t->opt;
    if (!opt->questions) return KVANT_OK;
    kv_measure_set(&t->answers, t->model, NULL, 0, 0, false, t->trials, &t->progress);
    return kv_measure_set_questions(&t->answers, opt->questions, opt->n_questions, opt->asking, err);
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
            KV_FAIL(err, KVANT_ERR_ARGUMENT, i, "a budget of %g true bits: 1 to 32", opt->budgets[i]);
        if (i && !(opt->budgets[i] > opt->budgets[i - 1]))
            KV_FAIL(err, KVANT_ERR_ARGUMENT, i, "budgets must ascend");
    }
    if (opt->n_tokens < 0 || opt->n_tokens > 65536 ||
        (opt->n_tokens && (size_t)opt->n_tokens < kv_calibration_tokens_min(SINKS)))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_tokens %lld: %zu to 65536, or 0", (long long)opt->n_tokens,
                kv_calibration_tokens_min(SINKS));
    if (opt->tail < -1 || opt->tail > KVANT_TUNE_TAIL_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "a tail of %d tokens: 0 to %d, or -1", opt->tail,
                KVANT_TUNE_TAIL_MAX);
    if (opt->n_ctx < 0) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_ctx %lld: 0 or more", (long long)opt->n_ctx);
    if (opt->method != KVANT_TUNE_KVANT && opt->method != KVANT_TUNE_KVTUNER)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "there is no tuning method %d", (int)opt->method);
    if (opt->n_trials < 0 || opt->n_trials > KV_EVOLVE_TRIALS_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_trials %d: 1 to %d, or 0", opt->n_trials,
                KV_EVOLVE_TRIALS_MAX);
    if (opt->n_ranks < 0 || opt->n_ranks > RANKS_MAX || (opt->n_ranks > 1 && !opt->sum) || opt->rank < 0 ||
        opt->rank >= (opt->n_ranks > 1 ? opt->n_ranks : 1))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "process %d of %d: 0 to %d of at most %d, with a sum", opt->rank,
                opt->n_ranks, opt->n_ranks - 1, RANKS_MAX);
    if (opt->questions && (opt->method != KVANT_TUNE_KVTUNER || !opt->n_questions || !opt->asking ||
                           opt->asking->n_predict < 1))
        KV_FAIL(
            err, KVANT_ERR_ARGUMENT, -1,
            "questions are for KVANT_TUNE_KVTUNER, at least one of them, with `asking` and its n_predict");
    if (!(opt->max_kld >= 0)) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "max_kld %g: 0 or more", opt->max_kld);
    return KVANT_OK;
}

/* The budgets asked for must be possible; of the default ones those that are count. */
static kvant_status settle_budgets(struct tune *t, struct kvant_error *err)
{
    double smallest = 0.0;
    KV_TRY(smallest_plan(t, &smallest, err));
    t->result->view.smallest_bits = smallest;
    if (t->opt->n_budgets && t->budgets[0] < smallest)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, 0,
                "a budget of %g true bits at %lld tokens: the smallest plan has %.3f (sinks, tail and tables "
                "included)",
                t->budgets[0], (long long)t->n_ctx, smallest);
    int n = 0;
    for (int i = 0; i < t->n_budgets; i++)
        if (t->budgets[i] >= smallest) t->budgets[n++] = t->budgets[i];
    t->n_budgets = n;
    return KVANT_OK;
}

/* Plans first as they are allocated, so that a search that is stopped while refining has a menu. */
static kvant_status make_menu(struct tune *t, int *choice, struct kvant_error *err)
{
    for (int i = 0; i < t->n_budgets; i++) KV_TRY(add_budget(t, t->budgets[i], choice, err));
    t->progress.what = "verifying plans";
    KV_TRY(kv_menu_measure(&t->result->menu, 0, &t->verify, t->n_ctx, t->result->view.own_text, err));
    KV_TRY(join_uniform(t, err));
    if (t->opt->max_kld > 0) KV_TRY(add_bound(t, choice, err));
    return t->opt->refine ? refine_budgets(t, choice, err) : KVANT_OK;
}

static kvant_status judge(struct tune *t, struct kvant_error *err)
{
    kv_menu_finish(&t->result->menu);
    t->progress.what = "the gate";
    return kv_menu_judge(&t->result->menu, &t->verify, err);
}

static kvant_status find_published(struct tune *t, struct kvant_error *err)
{
    const struct kv_published_options opt = published_options(t->opt);
    kvant_status status = kv_published_run(&t->result->menu, t->opt->questions ? &t->answers : &t->tuning,
                                           &opt, err);
    if (status != KVANT_OK && status != KVANT_ERR_CANCELLED) return status;
    t->progress.what = "verifying plans";
    bool stopped = status != KVANT_OK; /* what it had found by then is shown all the same */
    if (stopped) t->progress.fn = NULL;
    KV_TRY(kv_menu_measure(&t->result->menu, 0, &t->verify, t->n_ctx, t->result->view.own_text, err));
    KV_TRY(join_uniform(t, err));
    return stopped ? status : judge(t, err);
}

/* Do all processes compute the same? Text, means and channel orders hang on every product of the model. */
static kvant_status agree(const struct tune *t, kvant_status status, struct kvant_error *err)
{
    struct kvant_plan *plan = NULL;
    char *key = NULL;
    if (kv_ranks_count(&t->ranks) == 1) return status;
    if (status == KVANT_OK) status = kvant_plan_open(&plan, t->model, uniform_mixed[0], err);
    if (status == KVANT_OK) status = kv_calibration_apply(&t->calibration, plan, err);
    if (status == KVANT_OK) status = kv_plan_key(plan, &key, err);
    status = kv_ranks_agree(&t->ranks, key ? key : "", status, err);
    kv_free(key);
    kvant_plan_close(plan);
    return status;
}

static kvant_status calibrate(struct tune *t, struct kvant_error *err)
{
    t->progress.scale = 1;
    KV_TRY(kv_calibration_open(&t->calibration, t->model, t->tokens, t->n_tuning, SINKS,
                               kv_tune_progress_step, &t->progress, err));
    t->progress.done += (int64_t)t->n_tuning;
    return KVANT_OK;
}

static kvant_status find_plans(struct tune *t, struct kvant_error *err)
{
    kv_measure_set(&t->tuning, t->model, t->tokens, t->n_tuning, t->calibration.chunk_tokens, true,
                   t->trials, &t->progress);
    kv_measure_set(&t->verify, t->model, t->tokens + t->n_tuning, t->n_verify, (int64_t)t->n_verify, false,
                   t->trials, &t->progress);
    t->tuning.ranks = t->verify.ranks = t->answers.ranks = t->ranks;
    if (t->opt->method == KVANT_TUNE_KVANT) KV_TRY(settle_budgets(t, err));
    KV_TRY(measure_uniform(t, err));
    if (t->opt->method == KVANT_TUNE_KVTUNER) return find_published(t, err);
    KV_TRY(kv_sensitivity_open(&t->result->sensitivity, &t->tuning, &t->calibration, !t->opt->no_mix,
                               t->opt->by_layer, err));
    KV_TRY(kv_search_open(&t->search, t->model, &t->calibration, &t->result->sensitivity, t->opt->by_layer,
                          tail_of(t->opt, t->n_ctx), 16.0, err));
    int *choice = kv_alloc((size_t)t->search.n_items, sizeof *choice);
    if (!choice) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a plan");
    kvant_status status = make_menu(t, choice, err);
    kv_free(choice);
    return status == KVANT_OK ? judge(t, err) : status;
}

/* What was found when the search was stopped: measured on the held-back text, or there is nothing to show. */
static kvant_status stop_early(struct tune *t, kvant_status status)
{
    size_t n = 0;
    if (status == KVANT_ERR_CANCELLED) status = join_uniform(t, NULL) == KVANT_OK ? status : KVANT_ERR_MEMORY;
    for (size_t i = 0; i < t->result->menu.n; i++) n += t->result->menu.points[i].measured.n_scored > 0;
    if (status != KVANT_ERR_CANCELLED || n == 0) return status;
    t->result->view.interrupted = true;
    kv_menu_finish(&t->result->menu);
    return kv_menu_judge(&t->result->menu, NULL, NULL);
}

static struct kvant_tune_heads heads_of(struct result *r, enum kv_side side)
{
    const struct kv_choice_list *list = kv_choices(r->sensitivity.mixed, side);
    if (!r->sensitivity.kld[side]) return (struct kvant_tune_heads){ 0 };
    for (int i = 0; i < list->n; i++) r->names[side][i] = list->choice[i].text;
    return (struct kvant_tune_heads){ r->sensitivity.n_layer, r->sensitivity.n_head_kv, list->n,
                                      r->names[side], r->sensitivity.kld[side] };
}

static void set_view(struct tune *t)
{
    struct result *r = t->result;
    r->view.points = r->menu.points;
    r->view.n_points = r->menu.n;
    r->view.keys = heads_of(r, KV_SIDE_KEY);
    r->view.values = heads_of(r, KV_SIDE_VALUE);
    r->view.n_ctx = t->n_ctx;
    r->view.n_tokens = (int64_t)t->n_tuning;
    r->view.n_tokens_verify = (int64_t)t->n_verify;
    r->view.n_measured = t->tuning.n_measured + t->verify.n_measured + t->answers.n_measured;
    r->view.n_known = t->tuning.n_known + t->verify.n_known + t->answers.n_known;
}

void kvant_tune_close(struct kvant_tune_result *result)
{
    struct result *r = (struct result *)result; /* its first member */
    if (!r) return;
    kv_menu_close(&r->menu);
    kv_sensitivity_close(&r->sensitivity);
    kv_free(r);
}

static kvant_status open_store(struct tune *t, struct kvant_error *err)
{
    char conditions[KV_MEASURE_CONDITIONS_CAP], settings[160];
    struct kvant_model_info info;
    kvant_model_get_info(t->model, &info);
    kv_measure_conditions(t->model, conditions);
    const struct kvant_tune_options *opt = t->opt;
    snprintf(settings, sizeof settings,
             "method %s; n_budgets %d; n_ctx %lld; n_tokens %lld; max_kld %g%s%s%s",
             opt->method == KVANT_TUNE_KVTUNER ? "kvtuner" : "kvant", t->n_budgets, (long long)t->n_ctx,
             (long long)opt->n_tokens, opt->max_kld, opt->no_mix ? "; no mix" : "",
             opt->by_layer ? "; by layer" : "",
             opt->refine      ? "; refine"
             : opt->questions ? "; accuracy"
                              : "");
    const struct kv_study study = { info.fingerprint, conditions, settings, "kvant " KVANT_VERSION };
    bool first = t->ranks.rank == 0;
    return kv_trials_open(&t->trials, first ? opt->store : NULL, &study, first && opt->resume, err);
}

/* How the run ended, for people who look into the store. A failure to write that is not worth losing a
 * result. */
static void close_store(struct tune *t, kvant_status status)
{
    bool cancelled = status == KVANT_ERR_CANCELLED || (status == KVANT_OK && t->result->view.interrupted);
    if (t->trials)
        kv_trials_finish(t->trials, cancelled ? "cancelled" : status == KVANT_OK ? "done" : "failed", NULL);
    kv_trials_close(t->trials);
}

kvant_status kvant_tune_run(const struct kvant_model *model, const kvant_token *tokens, size_t n_tokens,
                            const struct kvant_tune_options *options, struct kvant_tune_result **out,
                            struct kvant_error *err)
{
    static const struct kvant_tune_options defaults = KVANT_TUNE_OPTIONS_INIT;
    const struct kvant_tune_options *opt = options ? options : &defaults;
    *out = NULL;
    KV_TRY(check_options(opt, err));
    if (model->vocab_only)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "the model was opened for its vocabulary only; it cannot be tuned");
    struct kvant_model exact = *model; /* borrows everything */
    if (exact.act != KVANT_ACT_F32) exact.act = KVANT_ACT_INT16;
    struct tune t = { .model = &exact, .opt = opt };
    t.n_budgets = opt->n_budgets ? opt->n_budgets : N_BUDGETS_DEFAULT;
    memcpy(t.budgets, opt->n_budgets ? opt->budgets : budgets_default,
           (size_t)t.n_budgets * sizeof t.budgets[0]);
    t.n_ctx = opt->n_ctx                              ? opt->n_ctx
              : N_CTX_DEFAULT < model->hp.n_ctx_train ? N_CTX_DEFAULT
                                                      : model->hp.n_ctx_train;
    t.ranks = (struct kv_ranks){ opt->rank, opt->n_ranks, opt->sum, opt->sum_user };
    t.progress = (struct kv_tune_progress){ opt->progress, opt->user, 0, 0, 1, NULL };
    t.result = kv_alloc(1, sizeof *t.result);
    if (!t.result) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a search");

    kvant_token *own = NULL;
    kvant_status status = kv_ranks_meet(&t.ranks, open_store(&t, err), err);
    if (status == KVANT_OK) {
        status = prepare_questions(&t, err);
        if (status == KVANT_OK) status = prepare_text(&t, tokens, n_tokens, &own, err);
        if (status == KVANT_OK) status = calibrate(&t, err);
        status = agree(&t, status, err);
    }
    if (status == KVANT_OK) status = stop_early(&t, find_plans(&t, err));
    close_store(&t, status);
    if (status == KVANT_OK) {
        set_view(&t);
        *out = &t.result->view;
    } else {
        kvant_tune_close(&t.result->view);
    }
    kv_menu_close(&t.uniform);
    kv_search_close(&t.search);
    kv_calibration_close(&t.calibration);
    kv_free(own);
    return status;
}
