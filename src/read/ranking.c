/*
 * How well scores tell right answers from wrong ones.
 *
 *     ROC      by score, descending; equal scores are one threshold; points (FP/N, TP/P) from (0, 0)
 *     AUROC    its area by the trapezoid rule
 *     FPR95    FP/N where TP/P first reaches .95, between points by linear interpolation
 *     AUPR     area under precision against recall by the trapezoid rule, from (recall 0, precision 1)
 *
 * Within groups (of length, say) only pairs of one group count: AUROC is then the share of those pairs, one
 * right and one wrong, that the score puts in order, ties half. Of one group of all this is the area above.
 */
#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"

struct ranked {
    double score;
    int group;
    bool is_right;
};

static int by_group_and_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->group != y->group) return x->group < y->group ? -1 : 1;
    return x->score > y->score ? -1 : x->score < y->score ? 1 : 0;
}

struct area {
    double auroc, fpr95, aupr;
};

/* Of items in one group, sorted; n_right and n_wrong above 0. */
static struct area areas_of(const struct ranked *items, size_t n, double n_right, double n_wrong)
{
    struct area a = { 0, NAN, 0 };
    double tp = 0, fp = 0, precision = 1;
    for (size_t i = 0; i < n;) {
        double tp_before = tp, fp_before = fp, precision_before = precision;
        double score = items[i].score;
        for (; i < n && items[i].score == score; i++) *(items[i].is_right ? &tp : &fp) += 1;
        double tpr = tp / n_right, tpr_before = tp_before / n_right;
        a.auroc += (fp - fp_before) / n_wrong * (tpr + tpr_before) / 2;
        precision = tp / (tp + fp);
        a.aupr += (tpr - tpr_before) * (precision + precision_before) / 2;
        if (isnan(a.fpr95) && tpr >= 0.95) {
            double part = (0.95 - tpr_before) / (tpr - tpr_before);
            a.fpr95 = (fp_before + part * (fp - fp_before)) / n_wrong;
        }
    }
    return a;
}

/* Sorts items. */
static struct area areas_within(struct ranked *items, size_t n, bool grouped)
{
    struct area all = { NAN, NAN, NAN };
    double pairs = 0, in_order = 0;
    qsort(items, n, sizeof *items, by_group_and_score);
    for (size_t begin = 0, end; begin < n; begin = end) {
        double n_right = 0;
        for (end = begin; end < n && items[end].group == items[begin].group; end++)
            n_right += items[end].is_right;
        double n_wrong = (double)(end - begin) - n_right;
        if (n_right == 0 || n_wrong == 0) continue;
        struct area a = areas_of(items + begin, end - begin, n_right, n_wrong);
        if (!grouped) all = a;
        pairs += n_right * n_wrong;
        in_order += a.auroc * n_right * n_wrong;
    }
    if (grouped && pairs > 0) all.auroc = in_order / pairs;
    return all;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The middle 95 % of n draws; NaN when none was defined. */
static void interval(double *draws, size_t n, double *low, double *high)
{
    *low = *high = NAN;
    if (n == 0) return;
    qsort(draws, n, sizeof *draws, ascending);
    *low = draws[(size_t)(0.025 * (double)(n - 1) + 0.5)];
    *high = draws[(size_t)(0.975 * (double)(n - 1) + 0.5)];
}

struct bootstrap {
    struct ranked *drawn;
    double *draws[3]; /* (n_draws) of auroc, fpr95, aupr */
    size_t n[3];
};

static void draw_all(const struct ranked *items, size_t n, bool grouped, int n_draws, uint64_t seed,
                     struct bootstrap *b)
{
    struct kv_random random;
    kv_random_seed(&random, seed);
    for (int d = 0; d < n_draws; d++) {
        for (size_t i = 0; i < n; i++) b->drawn[i] = items[kv_random_below(&random, (int)n)];
        struct area a = areas_within(b->drawn, n, grouped);
        const double values[3] = { a.auroc, a.fpr95, a.aupr };
        for (int k = 0; k < 3; k++)
            if (!isnan(values[k])) b->draws[k][b->n[k]++] = values[k];
    }
}

static kvant_status set_intervals(const struct ranked *items, size_t n, bool grouped, int n_draws,
                                  uint64_t seed, struct kvant_ranking *out, struct kvant_error *err)
{
    struct bootstrap b = { .drawn = kv_alloc(n, sizeof *b.drawn) };
    double *draws = kv_alloc(3 * (size_t)n_draws, sizeof *draws);
    kvant_status status = KVANT_OK;
    if (!b.drawn || !draws) {
        status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for %d draws of %zu scores", n_draws, n);
    } else {
        for (int k = 0; k < 3; k++) b.draws[k] = draws + (size_t)k * (size_t)n_draws;
        draw_all(items, n, grouped, n_draws, seed, &b);
        interval(b.draws[0], b.n[0], &out->auroc_low, &out->auroc_high);
        interval(b.draws[1], b.n[1], &out->fpr95_low, &out->fpr95_high);
        interval(b.draws[2], b.n[2], &out->aupr_low, &out->aupr_high);
    }
    kv_free(b.drawn);
    kv_free(draws);
    return status;
}

kvant_status kvant_ranking_set(struct kvant_ranking *out, const double *scores, const bool *right,
                               const int *groups, size_t n, int n_draws, uint64_t seed,
                               struct kvant_error *err)
{
    *out = (struct kvant_ranking){ NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, 0, 0, 0 };
    if (n > INT32_MAX || n_draws < 0 || n_draws > 1000000)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%zu scores and %d draws: too many", n, n_draws);
    struct ranked *items = kv_alloc(n, sizeof *items);
    if (!items) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory to rank %zu scores", n);
    size_t n_items = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(scores[i])) {
            out->n_undefined++;
            continue;
        }
        items[n_items++] = (struct ranked){ scores[i], groups ? groups[i] : 0, right[i] };
        *(right[i] ? &out->n_right : &out->n_wrong) += 1;
    }
    struct area a = areas_within(items, n_items, groups != NULL);
    out->auroc = a.auroc;
    out->fpr95 = a.fpr95;
    out->aupr = a.aupr;
    kvant_status status = KVANT_OK;
    if (n_draws > 0 && !isnan(a.auroc))
        status = set_intervals(items, n_items, groups != NULL, n_draws, seed, out, err);
    kv_free(items);
    return status;
}
