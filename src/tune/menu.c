#include "tune/menu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static bool same_plan(const struct kvant_plan *a, const struct kvant_plan *b)
{
    if (a->sinks != b->sinks || a->tail != b->tail) return false;
    for (size_t i = 0; i < (size_t)a->n_layer * (size_t)a->n_head_kv; i++)
        if (!kv_recipe_equal(&a->recipe[i], &b->recipe[i])) return false;
    return true;
}

static kvant_status grow(struct kv_menu *menu, struct kvant_error *err)
{
    if (menu->n < menu->cap) return KVANT_OK;
    size_t cap = menu->cap ? 2 * menu->cap : 32;
    struct kvant_tune_point *points = kv_alloc(cap, sizeof *points);
    if (!points) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a menu of %zu plans", cap);
    if (menu->n) memcpy(points, menu->points, menu->n * sizeof *points);
    kv_free(menu->points);
    menu->points = points;
    menu->cap = cap;
    return KVANT_OK;
}

kvant_status kv_menu_add(struct kv_menu *menu, struct kvant_plan *plan, const struct kvant_tune_point *like,
                         struct kvant_error *err)
{
    for (size_t i = 0; i < menu->n; i++) {
        if (!same_plan(menu->points[i].plan, plan)) continue;
        kvant_plan_close(plan);
        return KVANT_OK;
    }
    kvant_status status = grow(menu, err);
    if (status != KVANT_OK) {
        kvant_plan_close(plan);
        return status;
    }
    struct kvant_tune_point *point = &menu->points[menu->n++];
    *point = *like;
    point->plan = plan;
    return KVANT_OK;
}

static void record(struct kvant_tune_point *point, int64_t n_ctx, bool own_text, size_t n_tokens)
{
    struct kvant_plan *plan = point->plan;
    struct kvant_plan_memory memory;
    kvant_plan_get_memory(plan, n_ctx, &memory);
    point->measured.page_bits = memory.page_bits;
    point->measured.true_bits = memory.true_bits;
    point->measured.bytes_per_token = memory.bytes_per_token;
    const struct kvant_eval_result *r = &point->measured;
    plan->measured = (struct kv_plan_measured){ r->page_bits, r->true_bits, (double)n_ctx,
                                                r->kld_mean,  r->kld_p999,  r->same_top_p,
                                                r->ppl_ratio, "",           "kvant " KVANT_VERSION };
    snprintf(plan->measured.text, sizeof plan->measured.text, "%s, %zu tokens",
             own_text ? "the model's own" : "given", n_tokens);
}

kvant_status kv_menu_measure(struct kv_menu *menu, size_t first, struct kv_measure *measure, int64_t n_ctx,
                             bool own_text, struct kvant_error *err)
{
    const size_t most = (size_t)KV_MEASURE_BATCH; /* what is measured stays when a later batch is cancelled */
    while (first < menu->n) {
        struct kvant_plan *plans[KV_MEASURE_BATCH];
        struct kvant_eval_result results[KV_MEASURE_BATCH];
        int n = (int)(menu->n - first < most ? menu->n - first : most);
        for (int i = 0; i < n; i++) plans[i] = menu->points[first + (size_t)i].plan;
        KV_TRY(kv_measure_plans(measure, plans, n, results, err));
        for (int i = 0; i < n; i++, first++) {
            menu->points[first].measured = results[i];
            record(&menu->points[first], n_ctx, own_text, measure->n_tokens);
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

void kv_menu_finish(struct kv_menu *menu)
{
    size_t n = 0;
    for (size_t i = 0; i < menu->n; i++) {
        if (menu->points[i].measured.n_scored) menu->points[n++] = menu->points[i];
        else kvant_plan_close(menu->points[i].plan);
    }
    menu->n = n;
    if (n) qsort(menu->points, n, sizeof *menu->points, compare_points);
    /* In ascending order of size a point is dominated when one before it is no worse. */
    double best = INFINITY;
    for (size_t i = 0; i < n; i++) {
        menu->points[i].dominated = i > 0 && menu->points[i].measured.kld_mean >= best;
        best = fmin(best, menu->points[i].measured.kld_mean);
    }
}

#define GATE_PROMPTS 3
#define GATE_PROMPT_TOKENS 120 /* longer than what is exact in any case */
#define GATE_PREDICT 32

static void judge(struct kvant_tune_point *point, const struct kvant_trajectory_result *trajectory)
{
    kvant_gate_judge(NULL, &point->measured, trajectory, &point->verdict);
    kvant_plan_set_verdict(point->plan, &point->verdict);
}

kvant_status kv_menu_judge(struct kv_menu *menu, struct kv_measure *measure, struct kvant_error *err)
{
    struct kvant_prompt prompts[GATE_PROMPTS];
    struct kvant_trajectory_options opt = KVANT_TRAJECTORY_OPTIONS_INIT;
    size_t n_prompts;
    for (size_t i = 0; i < menu->n; i++) judge(&menu->points[i], NULL);
    if (!measure) return KVANT_OK;
    kvant_trajectory_prompts(measure->tokens, measure->n_tokens, GATE_PROMPT_TOKENS, prompts, GATE_PROMPTS,
                             &n_prompts);
    opt.n_predict = GATE_PREDICT;
    opt.progress = kv_tune_progress_step;
    opt.user = measure->progress;
    measure->progress->scale = 0;
    for (size_t first = 0; n_prompts && first < menu->n;) {
        const struct kvant_plan *plans[KV_MEASURE_BATCH];
        struct kvant_tune_point *points[KV_MEASURE_BATCH];
        struct kvant_trajectory_result results[KV_MEASURE_BATCH];
        int n = 0;
        for (; first < menu->n && n < KV_MEASURE_BATCH; first++) {
            if (menu->points[first].dominated) continue;
            plans[n] = menu->points[first].plan;
            points[n++] = &menu->points[first];
        }
        if (!n) break;
        KV_TRY(kvant_trajectory_run(measure->model, plans, n, prompts, n_prompts, &opt, results, NULL, err));
        for (int i = 0; i < n; i++) judge(points[i], &results[i]);
    }
    return KVANT_OK;
}

void kv_menu_close(struct kv_menu *menu)
{
    for (size_t i = 0; i < menu->n; i++) kvant_plan_close(menu->points[i].plan);
    kv_free(menu->points);
    menu->points = NULL;
    menu->n = menu->cap = 0;
}
