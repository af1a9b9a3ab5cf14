#include "tune/published.h"

#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "tune/errors.h"

#define PROMPT_TOKENS 96 /* the tuning text as prompts for the errors of layers */
#define PROMPTS_MAX 20   /* the paper's number */
#define N_LIMITS 2       /* 4 and 6 bits */

struct published {
    struct kv_measure *measure;
    const struct kv_published_options *opt;
    const struct kv_pair *pairs;
    int n_pairs;
};

int kv_published_plans(const struct kv_published_options *opt)
{
    return N_LIMITS * (opt->n_trials ? opt->n_trials : KV_EVOLVE_TRIALS);
}

static kvant_status open_plan(const struct published *p, const uint8_t *assignment, struct kvant_plan **out,
                              struct kvant_error *err)
{
    KV_TRY(kvant_plan_open(out, p->measure->model, "f16", err));
    struct kvant_plan *plan = *out;
    plan->sinks = 0;
    plan->tail = p->opt->mode == KV_PRESET_KIVI ? KV_PRESET_KIVI_TAIL : 0;
    for (int i = 0; i < plan->n_layer * plan->n_head_kv; i++) {
        const struct kv_pair *pair = &p->pairs[assignment[i / plan->n_head_kv]];
        plan->recipe[i] = kv_preset_recipe(p->opt->mode, pair->key_bits, pair->value_bits);
    }
    kv_plan_settle(plan);
    return kv_plan_check(plan, err);
}

struct assignments {
    const struct published *p;
    const uint8_t *rows; /* (n, n_layer) */
};

static kvant_status open_assigned(void *user, int i, struct kvant_plan **out, struct kvant_error *err)
{
    const struct assignments *a = user;
    return open_plan(a->p, a->rows + (size_t)i * (size_t)a->p->measure->model->hp.n_layer, out, err);
}

static kvant_status evaluate(void *user, const uint8_t *rows, int n, double *error, struct kvant_error *err)
{
    const struct published *p = user;
    struct assignments assignments = { p, rows };
    struct kvant_eval_result *results = kv_alloc((size_t)n, sizeof *results);
    if (!results) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for measuring %d plans", n);
    kvant_status status = kv_measure_made(p->measure, open_assigned, &assignments, n, results, err);
    for (int i = 0; status == KVANT_OK && i < n; i++)
        error[i] = p->measure->questions ? 1.0 - results[i].same_top_p / 100.0 : results[i].kld_mean;
    kv_free(results);
    return status;
}

/* What the errors of layers are measured on: the questions, or pieces of the text. */
static size_t list_prompts(const struct published *p, struct kvant_prompt *prompts)
{
    const struct kv_measure *m = p->measure;
    size_t n = 0;
    for (size_t i = 0; i < m->n_questions && n < PROMPTS_MAX; i++)
        prompts[n++] = (struct kvant_prompt){ m->questions[i].tokens, m->questions[i].n_tokens };
    for (size_t at = 0; !m->questions && at < m->n_tokens && n < PROMPTS_MAX; at += PROMPT_TOKENS)
        prompts[n++] = (struct kvant_prompt){ m->tokens + at, m->n_tokens - at < PROMPT_TOKENS
                                                                  ? m->n_tokens - at
                                                                  : PROMPT_TOKENS };
    return n;
}

/* e_o of each layer and pair, as in the paper: queries of greedy answers, no error handed on between
 * layers. */
static kvant_status layer_errors(const struct published *p, double *error, struct kvant_error *err)
{
    static const int bits[] = { 2, 4, 8 };
    const struct kv_measure *m = p->measure;
    struct kvant_prompt prompts[PROMPTS_MAX];
    struct kvant_sensitivity_options opt = KVANT_SENSITIVITY_OPTIONS_INIT;
    struct kvant_sensitivity *s;
    kvant_sensitivity_mode mode = p->opt->mode == KV_PRESET_KIVI ? KVANT_SENSITIVITY_KIVI
                                                                 : KVANT_SENSITIVITY_PER_TOKEN;
    opt.progress = kv_tune_progress_step;
    opt.user = m->progress;
    m->progress->scale = 0;
    double *table = kv_alloc((size_t)m->model->hp.n_layer * 9, sizeof *table); /* by key bits, value bits */
    if (!table) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the errors of layers");
    size_t n_prompts = list_prompts(p, prompts);
    opt.modes = 1u << mode;
    kvant_status status = kvant_sensitivity_run(&s, m->model, prompts, n_prompts, &opt, err);
    if (status == KVANT_OK) {
        status = kv_errors_output_table(s, mode, bits, 3, table, err);
        kvant_sensitivity_close(s);
    }
    for (int layer = 0; status == KVANT_OK && layer < m->model->hp.n_layer; layer++)
        for (int i = 0; i < p->n_pairs; i++) {
            int key = p->pairs[i].key_bits / 4, value = p->pairs[i].value_bits / 4; /* 2 4 8: 0 1 2 */
            error[layer * p->n_pairs + i] = table[layer * 9 + key * 3 + value];
        }
    kv_free(table);
    return status;
}

static kvant_status add_front(const struct published *p, struct kv_menu *menu, const struct kv_kvtuner *found,
                              struct kvant_error *err)
{
    for (int i = 0; i < found->n_front; i++) {
        const struct kv_kvtuner_plan *best = &found->plans[found->front[i]];
        struct kvant_tune_point like = { .budget = NAN,
                                         .kld_predicted = NAN,
                                         .kld_tuning = p->measure->questions ? NAN : best->error,
                                         .accuracy = p->measure->questions ? 100.0 * (1.0 - best->error)
                                                                           : NAN,
                                         .source = KVANT_TUNE_FROM_KVTUNER };
        struct kvant_plan *plan;
        char name[KV_KVTUNER_NAME_CAP];
        snprintf(name, sizeof name, "KVTuner-C%.2f", best->bits);
        KV_TRY(open_plan(p, best->assignment, &plan, err));
        kvant_status status = kv_plan_set_name(plan, name, err);
        if (status != KVANT_OK) {
            kvant_plan_close(plan);
            return status;
        }
        KV_TRY(kv_menu_add(menu, plan, &like, err));
    }
    return KVANT_OK;
}

kvant_status kv_published_run(struct kv_menu *menu, struct kv_measure *measure,
                              const struct kv_published_options *opt, struct kvant_error *err)
{
    struct published p = { .measure = measure, .opt = opt, .pairs = kv_pairs_paper, .n_pairs = 9 };
    int n_layer = measure->model->hp.n_layer;
    double *error = kv_alloc((size_t)n_layer * (size_t)p.n_pairs, sizeof *error);
    if (!error) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the errors of %d layers", n_layer);
    kvant_status status = kv_ranks_meet(&measure->ranks, layer_errors(&p, error, err), err);
    if (status == KVANT_OK) {
        struct kv_kvtuner found;
        const struct kv_kvtuner_options search = { .n_layer = n_layer, .error = error, .method = opt->search,
                                                   .n_trials = opt->n_trials, .seed = opt->seed,
                                                   .evaluate = evaluate, .user = &p };
        measure->progress->what = "searching";
        status = kv_kvtuner_run(&found, &search, err);
        measure->progress->what = NULL;
        if (status == KVANT_OK || status == KVANT_ERR_CANCELLED) {
            kvant_status added = add_front(&p, menu, &found, status == KVANT_OK ? err : NULL);
            if (status == KVANT_OK) status = added;
        }
        kv_kvtuner_close(&found);
    }
    kv_free(error);
    return status;
}
