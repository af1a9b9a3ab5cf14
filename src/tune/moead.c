/*
 * MOEA/D: the front is cut into `population` scalar problems, one for each weight vector (w, 1 - w). A
 * problem's value is the weighted Chebyshev distance from the ideal point, plus a penalty for bits beyond the
 * limit. Parents are the best solutions of neighbouring problems.
 *
 * Where it differs from the original, which replaces one neighbour after each evaluation: a generation (one
 * child for each problem) is measured as a batch, and then each problem takes the best of all trials. That is
 * possible since every trial is kept, and it lets the scale follow the front: objectives are measured in
 * widths of the present front.
 */
#include <math.h>

#include "base/memory.h"
#include "tune/evolve_search.h"

#define NEIGHBOURS_FRACTION 5    /* a fifth of the problems, at least 2: 10 of 50              */
#define FROM_NEIGHBOURS     0.9  /* parents from anywhere otherwise, as in MOEA/D-DE           */
#define WEIGHT_MIN          1e-4 /* so that the ends of the front are not weakly dominated     */
#define PENALTY             10.0 /* for each width of the front beyond the limit               */

struct moead {
    struct kv_scored *trials; /* (n_target) scratch            */
    int *best;                /* (population) problem -> trial */
    int at;                   /* problem that is bred for      */
    double ideal[2], width[2];
};

/* Ideal point and widths of the front within the limit; of all trials as long as none is within it. */
static void set_scale(struct moead *m, const struct kv_search *s)
{
    int n = 0;
    for (int pass = 0; pass < 2 && n == 0; pass++) {
        for (int t = 0; t < s->n_done; t++) {
            struct kv_scored trial = kv_search_scored(s, t);
            if (isfinite(trial.error) && (pass || trial.violation <= 0.0)) m->trials[n++] = trial;
        }
    }
    n = kv_front_keep(m->trials, n);
    m->ideal[0] = n ? m->trials[n - 1].error : 0.0;
    m->ideal[1] = n ? m->trials[0].bits : 0.0;
    m->width[0] = n ? m->trials[0].error - m->ideal[0] : 0.0;
    m->width[1] = n ? m->trials[n - 1].bits - m->ideal[1] : 0.0;
    for (int i = 0; i < 2; i++)
        if (!(m->width[i] > 0.0)) m->width[i] = 1.0;
}

static double value(const struct moead *m, const struct kv_scored *trial, double w)
{
    double error = fmax(trial->error - m->ideal[0], 0.0) / m->width[0],
           bits = fmax(trial->bits - m->ideal[1], 0.0) / m->width[1];
    return fmax(fmax(w, WEIGHT_MIN) * error, fmax(1.0 - w, WEIGHT_MIN) * bits) +
           PENALTY * fmax(trial->violation, 0.0) / m->width[1];
}

static void assign(struct moead *m, const struct kv_search *s)
{
    set_scale(m, s);
    for (int t = 0; t < s->n_done; t++) m->trials[t] = kv_search_scored(s, t);
    for (int i = 0; i < s->population; i++) {
        double w = s->population > 1 ? (double)i / (s->population - 1) : 0.5, least = INFINITY;
        m->best[i] = 0;
        for (int t = 0; t < s->n_done; t++) {
            double v = value(m, &m->trials[t], w);
            if (v < least) least = v, m->best[i] = t;
        }
    }
}

static void choose_parents(void *user, struct kv_search *s, int *a, int *b)
{
    const struct moead *m = user;
    int n = s->population / NEIGHBOURS_FRACTION, first = 0;
    if (n < 2) n = 2;
    if (n > s->population || kv_random_unit(&s->random) >= FROM_NEIGHBOURS)
        n = s->population;
    else
        first = m->at - n / 2;
    if (first < 0) first = 0;
    if (first > s->population - n) first = s->population - n;
    *a = m->best[first + kv_random_below(&s->random, n)];
    *b = m->best[first + kv_random_below(&s->random, n)];
}

static kvant_status evolve(struct kv_search *s, struct moead *m, struct kvant_error *err)
{
    for (int n_batch; (n_batch = kv_search_batch(s)) > 0;) {
        bool initial = s->n_done == 0;
        for (int i = 0; i < n_batch; i++) {
            /* a last generation that is not full still covers the whole front */
            m->at = (int)((int64_t)i * s->population / n_batch);
            if (initial)
                kv_search_propose_random(s);
            else
                kv_search_propose_child(s, choose_parents, m);
        }
        KV_TRY(kv_search_measure(s, err));
        assign(m, s);
    }
    return KVANT_OK;
}

kvant_status kv_moead_run(struct kv_search *s, struct kvant_error *err)
{
    struct moead m = { .trials = kv_alloc((size_t)s->n_target, sizeof *m.trials),
                       .best = kv_alloc((size_t)s->population, sizeof *m.best) };
    kvant_status status = m.trials && m.best
                              ? evolve(s, &m, err)
                              : kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for %d scalar problems",
                                             s->population);
    kv_free(m.trials);
    kv_free(m.best);
    return status;
}
