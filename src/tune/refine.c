/*
 * A round: the plan itself (first round only), swaps with the largest expected improvement, no item in two of
 * them, and all swaps together that the round before found to be better. One batch over the weights.
 *
 *   predicted change of a swap  d = error gained − error saved,  >= 0 as the allocation is optimal
 *   its uncertainty             σ = SPREAD · (error gained + error saved)   a probe is good for a factor 1.5
 *   expected improvement        σ · (φ(z) − z · (1 − Φ(z))),  z = d / σ
 */
#include "tune/refine.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

#define SPREAD 0.5
#define SWAPS (KV_MEASURE_BATCH - 1)

struct swap {
    int down, down_choice, up, up_choice; /* items and their new choices */
    double expected;
};

int kv_refine_plans(void)
{
    return KV_REFINE_ROUNDS * KV_MEASURE_BATCH;
}

static double expected_improvement(double d, double sigma)
{
    double z = d / sigma;
    return sigma * (exp(-z * z / 2) * 0.3989422804014327 - z * 0.5 * erfc(z * 0.7071067811865476));
}

static const struct kv_option *option(const struct kv_search *s, int item, int choice)
{
    return &s->options[item * KV_CHOICES_MAX + choice];
}

static bool tried(const struct swap *list, int n, const struct swap *swap)
{
    for (int i = 0; i < n; i++)
        if (list[i].down == swap->down && list[i].down_choice == swap->down_choice &&
            list[i].up == swap->up && list[i].up_choice == swap->up_choice)
            return true;
    return false;
}

/* The best swap that takes `down` a step down, among items that are free. */
static void best_partner(const struct kv_search *s, const int *choice, const bool *used, int64_t slack,
                         int down, int down_choice, const struct swap *old, int n_old, struct swap *best)
{
    const struct kv_option *from = option(s, down, choice[down]), *to = option(s, down, down_choice);
    int64_t room = from->cost - to->cost + slack;
    double loss = to->error - from->error;
    for (int up = 0; up < s->n_items; up++) {
        if (up == down || used[up]) continue;
        const struct kv_option *now = option(s, up, choice[up]);
        for (int c = 0; c < KV_CHOICES_MAX; c++) {
            const struct kv_option *then = option(s, up, c);
            if (!(then->error < now->error) || then->cost <= now->cost || then->cost - now->cost > room)
                continue;
            double gain = now->error - then->error;
            struct swap swap = { down, down_choice, up, c,
                                 expected_improvement(loss - gain, SPREAD * (loss + gain)) };
            if (swap.expected > best->expected && !tried(old, n_old, &swap)) *best = swap;
        }
    }
}

/* Up to n swaps of distinct items. old: those that were measured before. */
static int propose(const struct kv_search *s, const int *choice, int64_t slack, const struct swap *old,
                   int n_old, bool *used, struct swap *out, int n)
{
    int found = 0;
    for (int i = 0; i < s->n_items; i++) used[i] = false;
    for (; found < n; found++) {
        struct swap best = { .expected = 0.0 };
        for (int down = 0; down < s->n_items; down++) {
            const struct kv_option *now = option(s, down, choice[down]);
            for (int c = 0; c < KV_CHOICES_MAX && !used[down]; c++) {
                const struct kv_option *then = option(s, down, c);
                if (isfinite(then->error) && then->cost < now->cost)
                    best_partner(s, choice, used, slack, down, c, old, n_old, &best);
            }
        }
        if (!(best.expected > 0.0)) break;
        out[found] = best;
        used[best.down] = used[best.up] = true;
    }
    return found;
}

static void apply(const struct swap *swap, int *choice)
{
    choice[swap->down] = swap->down_choice;
    choice[swap->up] = swap->up_choice;
}

static int64_t slack_of(const struct kv_search *s, const int *choice, int64_t budget)
{
    for (int i = 0; i < s->n_items; i++) budget -= option(s, i, choice[i])->cost;
    return budget;
}

struct round {
    const struct kv_search *s;
    struct kv_measure *measure;
    int *choices;      /* (KV_MEASURE_BATCH, n_items) */
    int n;
};

static int *add_candidate(struct round *r, const int *choice)
{
    int *own = r->choices + (size_t)r->n++ * (size_t)r->s->n_items;
    memcpy(own, choice, (size_t)r->s->n_items * sizeof *own);
    return own;
}

static kvant_status open_candidate(void *user, int i, struct kvant_plan **out, struct kvant_error *err)
{
    const struct round *r = user;
    return kv_search_plan(r->s, r->choices + (size_t)i * (size_t)r->s->n_items, out, err);
}

static kvant_status measure_round(struct round *r, double *kld, struct kvant_error *err)
{
    struct kvant_eval_result results[KV_MEASURE_BATCH];
    KV_TRY(kv_measure_made(r->measure, open_candidate, r, r->n, results, err));
    for (int i = 0; i < r->n; i++) kld[i] = results[i].kld_mean;
    return KVANT_OK;
}

struct refine_memory {
    int *choices;
    bool *used;
};

static kvant_status refine(const struct kv_search *s, struct kv_measure *measure, struct refine_memory *m,
                           int *choice, double *best, struct kvant_error *err)
{
    struct swap old[KV_REFINE_ROUNDS * SWAPS];
    struct swap good[SWAPS];
    int n_old = 0, n_good = 0;
    int64_t budget = 0;
    for (int i = 0; i < s->n_items; i++) budget += option(s, i, choice[i])->cost;
    for (int k = 0; k < KV_REFINE_ROUNDS; k++) {
        struct round r = { s, measure, m->choices, 0 };
        double kld[KV_MEASURE_BATCH] = { 0 };
        bool together = n_good > 1, itself = k == 0;
        if (itself) add_candidate(&r, choice);
        if (together) {
            int *all = add_candidate(&r, choice);
            for (int i = 0; i < n_good; i++) {
                struct swap back = { good[i].down, all[good[i].down], good[i].up, all[good[i].up], 0.0 };
                apply(&good[i], all);
                if (slack_of(s, all, budget) < 0) apply(&back, all);
            }
        }
        int first = r.n, n = propose(s, choice, slack_of(s, choice, budget), old, n_old, m->used, old + n_old,
                                     SWAPS - together);
        for (int i = 0; i < n; i++) apply(&old[n_old + i], add_candidate(&r, choice));
        if (!r.n) break;
        KV_TRY(measure_round(&r, kld, err));
        if (itself) *best = kld[0];

        int winner = -1;
        n_good = 0;
        double before = *best;
        for (int i = 0; i < r.n; i++) {
            if (i >= first && kld[i] < before) good[n_good++] = old[n_old + i - first];
            if (kld[i] < *best) *best = kld[i], winner = i;
        }
        n_old += n;
        if (winner >= 0)
            memcpy(choice, r.choices + (size_t)winner * (size_t)s->n_items,
                   (size_t)s->n_items * sizeof *choice);
        else if (!together) break;
    }
    return KVANT_OK;
}

kvant_status kv_refine(const struct kv_search *s, struct kv_measure *measure, int *choice, double *kld,
                       struct kvant_error *err)
{
    struct refine_memory m = { kv_alloc((size_t)s->n_items * KV_MEASURE_BATCH, sizeof *m.choices),
                               kv_alloc((size_t)s->n_items, sizeof *m.used) };
    kvant_status status = m.choices && m.used
                              ? refine(s, measure, &m, choice, kld, err)
                              : kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for refining");
    kv_free(m.choices);
    kv_free(m.used);
    return status;
}
