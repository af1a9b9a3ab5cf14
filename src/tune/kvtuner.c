#include "tune/kvtuner.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tune/front.h"

static const double limits_default[] = { 4.0, 6.0 };

struct search {
    struct kv_kvtuner *k;
    const struct kv_kvtuner_options *opt;
    int (*list)[KV_PAIRS_MAX]; /* (n_groups) candidates of the group, as a gene counts them */
    int *n_choices;            /* (n_groups) */
    struct kv_archive archive;
    int *trials;              /* (n_trials) of the present run */
    uint8_t *assignment;      /* (population, n_layer) request */
    double *error;            /* (population)                  */
    struct kv_scored *scored; /* (n_limits · n_trials) scratch for the front */
};

/* ----------------------------------------------------------------------------------- candidates, groups
 * -- */

static kvant_status check_options(const struct kv_kvtuner_options *opt, struct kvant_error *err)
{
    if (opt->n_layer < 1) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d layers", opt->n_layer);
    if (opt->pairs) KV_TRY(kv_pairs_check(opt->pairs, opt->n_pairs, err));
    if (!opt->error && !(opt->candidates && opt->groups))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "without errors e_o both candidates and groups must be given");
    if (opt->n_limits < 0 || opt->n_limits > KV_KVTUNER_LIMITS_MAX || (opt->n_limits && !opt->limits))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d limits: 1 to %d, or none for 4 and 6 bits", opt->n_limits,
                KV_KVTUNER_LIMITS_MAX);
    for (int i = 0; i < opt->n_limits; i++) {
        if (!(opt->limits[i] > 0.0) || isinf(opt->limits[i]))
            KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "a limit of %g bits", opt->limits[i]);
        if (i && !(opt->limits[i] > opt->limits[i - 1]))
            KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "limits must ascend: %g follows %g", opt->limits[i],
                    opt->limits[i - 1]);
    }
    if (opt->n_trials < 0 || opt->n_trials > KV_EVOLVE_TRIALS_MAX || opt->population < 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d trials (at most %d) in generations of %d", opt->n_trials,
                KV_EVOLVE_TRIALS_MAX, opt->population);
    return KVANT_OK;
}

static void set_options(struct kv_kvtuner *k, const struct kv_kvtuner_options *opt)
{
    k->n_layer = opt->n_layer;
    k->n_pairs = opt->pairs ? opt->n_pairs : (int)(sizeof kv_pairs_paper / sizeof kv_pairs_paper[0]);
    memcpy(k->pairs, opt->pairs ? opt->pairs : kv_pairs_paper, (size_t)k->n_pairs * sizeof *k->pairs);
    k->n_limits = opt->n_limits ? opt->n_limits : 2;
    memcpy(k->limits, opt->n_limits ? opt->limits : limits_default, (size_t)k->n_limits * sizeof *k->limits);
    k->eps = opt->eps != 0.0 ? opt->eps : KV_CLUSTER_EPS;
    k->min_points = opt->min_points ? opt->min_points : KV_CLUSTER_MIN_POINTS;
    k->method = opt->method;
    k->seed = opt->seed;
    k->n_trials_run = opt->n_trials ? opt->n_trials : KV_EVOLVE_TRIALS;
    k->population = opt->population ? opt->population : KV_EVOLVE_POPULATION;
    if (k->population > k->n_trials_run) k->population = k->n_trials_run;
}

/* What does not depend on the groups. */
static kvant_status alloc_result(struct search *s, struct kvant_error *err)
{
    struct kv_kvtuner *k = s->k;
    size_t n_layer = (size_t)k->n_layer, cap = (size_t)k->n_limits * (size_t)k->n_trials_run;
    k->candidates = kv_alloc(n_layer, sizeof *k->candidates);
    k->ties = kv_alloc(n_layer * (size_t)(k->n_pairs - 1), sizeof *k->ties);
    k->plans = kv_alloc(cap, sizeof *k->plans);
    k->trials = kv_alloc(cap, sizeof *k->trials);
    k->front = kv_alloc(cap, sizeof *k->front);
    k->assignments = kv_alloc(cap, n_layer);
    s->trials = kv_alloc((size_t)k->n_trials_run, sizeof *s->trials);
    s->assignment = kv_alloc((size_t)k->population, n_layer);
    s->error = kv_alloc((size_t)k->population, sizeof *s->error);
    s->scored = kv_alloc(cap, sizeof *s->scored);
    if (!k->candidates || !k->ties || !k->plans || !k->trials || !k->front || !k->assignments || !s->trials ||
        !s->assignment || !s->error || !s->scored)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %zu trials over %d layers", cap, k->n_layer);
    return KVANT_OK;
}

static kvant_status set_candidates(struct search *s, struct kvant_error *err)
{
    struct kv_kvtuner *k = s->k;
    kv_pair_set all = (kv_pair_set)(((uint64_t)1 << k->n_pairs) - 1);
    for (int layer = 0; layer < k->n_layer; layer++) {
        if (s->opt->candidates) {
            k->candidates[layer] = s->opt->candidates[layer];
            if (!k->candidates[layer] || k->candidates[layer] & ~all)
                KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "layer %d: no candidates, or more than the %d pairs",
                        layer, k->n_pairs);
            continue;
        }
        struct kv_prune_tie ties[KV_PAIRS_MAX];
        int n_ties;
        const double *error = s->opt->error + (size_t)layer * (size_t)k->n_pairs;
        kvant_status status = kv_prune(k->pairs, k->n_pairs, error, &k->candidates[layer], ties, &n_ties,
                                       err);
        if (status != KVANT_OK) return kv_error_prefix(err, status, "layer %d", layer);
        for (int i = 0; i < n_ties; i++) k->ties[k->n_ties++] = (struct kv_kvtuner_tie){ layer, ties[i] };
    }
    return KVANT_OK;
}

static kvant_status copy_groups(struct kv_groups *out, const struct kv_groups *groups,
                                struct kvant_error *err)
{
    int n_layers = groups->begin[groups->n_groups];
    KV_TRY(kv_groups_alloc(out, groups->n_groups, n_layers, err));
    memcpy(out->begin, groups->begin, ((size_t)groups->n_groups + 1) * sizeof *out->begin);
    memcpy(out->layer, groups->layer, (size_t)n_layers * sizeof *out->layer);
    return KVANT_OK;
}

static kvant_status set_groups(struct search *s, struct kvant_error *err)
{
    struct kv_kvtuner *k = s->k;
    if (s->opt->groups) {
        KV_TRY(kv_groups_check(s->opt->groups, k->n_layer, k->candidates, k->pairs, k->n_pairs, err));
        KV_TRY(copy_groups(&k->groups, s->opt->groups, err));
    } else {
        KV_TRY(kv_cluster(&k->groups, k->n_layer, k->n_pairs, k->candidates, s->opt->error, k->eps,
                          k->min_points, err));
    }
    k->n_singletons = kv_groups_singletons(&k->groups);
    k->n_space = kv_groups_space(&k->groups, k->candidates);

    size_t n_groups = (size_t)k->groups.n_groups;
    s->list = kv_alloc(n_groups, sizeof *s->list);
    s->n_choices = kv_alloc(n_groups, sizeof *s->n_choices);
    if (!s->list || !s->n_choices)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the candidates of %zu groups", n_groups);
    for (int g = 0; g < k->groups.n_groups; g++) {
        kv_pair_set set = k->candidates[k->groups.layer[k->groups.begin[g]]];
        s->n_choices[g] = kv_pair_set_count(set);
        kv_pair_set_list(set, k->pairs, k->n_pairs, s->list[g]);
    }
    return KVANT_OK;
}

/* ---------------------------------------------------------------------------------------------- search -- */

static void expand(const struct search *s, const uint8_t *genome, uint8_t *assignment)
{
    const struct kv_groups *groups = &s->k->groups;
    for (int g = 0; g < groups->n_groups; g++)
        for (int i = groups->begin[g]; i < groups->begin[g + 1]; i++)
            assignment[groups->layer[i]] = (uint8_t)s->list[g][genome[g]];
}

static double bits_of(const struct kv_kvtuner *k, int bit_sum)
{
    return (double)bit_sum / (2.0 * k->n_layer);
}

static kvant_status evaluate(void *user, const uint8_t *genomes, int n, struct kv_objectives *out,
                             struct kvant_error *err)
{
    struct search *s = user;
    const struct kv_kvtuner *k = s->k;
    for (int i = 0; i < n; i++) {
        uint8_t *assignment = s->assignment + (size_t)i * (size_t)k->n_layer;
        expand(s, genomes + (size_t)i * (size_t)k->groups.n_groups, assignment);
        out[i].bits = bits_of(k, kv_assignment_bit_sum(assignment, k->n_layer, k->pairs));
        s->error[i] = NAN; /* an answer that is left out is no good plan */
    }
    KV_TRY(s->opt->evaluate(s->opt->user, s->assignment, n, s->error, err));
    for (int i = 0; i < n; i++) out[i].error = s->error[i];
    return KVANT_OK;
}

static kvant_status run_limits(struct search *s, struct kvant_error *err)
{
    struct kv_kvtuner *k = s->k;
    KV_TRY(kv_archive_open(&s->archive, k->groups.n_groups, k->n_limits * k->n_trials_run, err));
    kvant_status status = KVANT_OK;
    for (int run = 0; status == KVANT_OK && run < k->n_limits; run++) {
        struct kv_evolve_options opt = { .method = k->method,
                                         .n_genes = k->groups.n_groups,
                                         .n_choices = s->n_choices,
                                         .bits_limit = k->limits[run],
                                         .n_trials = k->n_trials_run,
                                         .population = k->population,
                                         .seed = k->seed + (uint64_t)run * 0x9e3779b97f4a7c15u,
                                         .evaluate = evaluate,
                                         .user = s };
        int n;
        status = kv_evolve_run(&s->archive, &opt, s->trials, &n, err);
        for (int i = 0; i < n; i++) k->trials[k->n_trials++] = (struct kv_kvtuner_trial){ run, s->trials[i] };
    }
    return status;
}

static void collect(struct search *s)
{
    struct kv_kvtuner *k = s->k;
    int n_finite = 0;
    k->n_plans = s->archive.genomes.n;
    for (int i = 0; i < k->n_plans; i++) {
        uint8_t *assignment = k->assignments + (size_t)i * (size_t)k->n_layer;
        expand(s, kv_genomes_at(&s->archive.genomes, i), assignment);
        int bit_sum = kv_assignment_bit_sum(assignment, k->n_layer, k->pairs);
        k->plans[i] = (struct kv_kvtuner_plan){ assignment, s->archive.objectives[i].error,
                                                bits_of(k, bit_sum), bit_sum };
        if (isfinite(k->plans[i].error))
            s->scored[n_finite++] = (struct kv_scored){ .error = k->plans[i].error,
                                                        .bits = k->plans[i].bits,
                                                        .tag = i };
    }
    k->n_front = kv_front_keep(s->scored, n_finite);
    for (int i = 0; i < k->n_front; i++) k->front[i] = s->scored[i].tag;
}

kvant_status kv_kvtuner_run(struct kv_kvtuner *out, const struct kv_kvtuner_options *opt,
                            struct kvant_error *err)
{
    *out = (struct kv_kvtuner){ 0 };
    KV_TRY(check_options(opt, err));
    struct search s = { .k = out, .opt = opt };
    set_options(out, opt);
    kvant_status status = alloc_result(&s, err);
    if (status == KVANT_OK) status = set_candidates(&s, err);
    if (status == KVANT_OK) status = set_groups(&s, err);
    if (status == KVANT_OK) status = run_limits(&s, err);
    collect(&s);
    kv_archive_close(&s.archive);
    kv_free(s.list);
    kv_free(s.n_choices);
    kv_free(s.trials);
    kv_free(s.assignment);
    kv_free(s.error);
    kv_free(s.scored);
    return status;
}

void kv_kvtuner_close(struct kv_kvtuner *k)
{
    kv_free(k->candidates);
    kv_free(k->ties);
    kv_groups_close(&k->groups);
    kv_free(k->plans);
    kv_free(k->trials);
    kv_free(k->front);
    kv_free(k->assignments);
    *k = (struct kv_kvtuner){ 0 };
}

/* ------------------------------------------------------------------------------------------- selection -- */

/* Two decimals of bit_sum / (2 · n_layer), halves up; in integers, so that no locale and no rounding
 * interferes. */
static void set_name(const struct kv_kvtuner *k, struct kv_kvtuner_choice *choice)
{
    int64_t hundredths = (100 * (int64_t)k->plans[choice->plan].bit_sum + k->n_layer) /
                         (2 * (int64_t)k->n_layer);
    snprintf(choice->name, sizeof choice->name, "KVTuner-C%lld.%02lld", (long long)(hundredths / 100),
             (long long)(hundredths % 100));
}

/* Along the front bits ascend and errors fall, so the best within a limit is the last within it. */
int kv_kvtuner_select(const struct kv_kvtuner *k, struct kv_kvtuner_choice *choices)
{
    int n = 0;
    for (int i = 0; i < k->n_limits; i++) {
        int best = -1;
        for (int f = 0; f < k->n_front && k->plans[k->front[f]].bits <= k->limits[i]; f++) best = k->front[f];
        if (best < 0) continue;
        if (n && choices[n - 1].plan == best) {
            choices[n - 1].limit = k->limits[i];
            continue;
        }
        choices[n] = (struct kv_kvtuner_choice){ .plan = best, .limit = k->limits[i] };
        set_name(k, &choices[n++]);
    }
    return n;
}
