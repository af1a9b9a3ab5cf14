/*
 * Pareto fronts of two objectives that are both minimised: error and bits. A third number, the violation of a
 * soft limit, takes part in ranking alone.
 *
 * Everything works inside the caller's array, which is reordered; `tag` says which element was which. Equal
 * arrays give equal results whatever their order: `tag` is the last criterion everywhere.
 */
#ifndef KV_TUNE_FRONT_H
#define KV_TUNE_FRONT_H

#include "base/error.h"

struct kv_scored {
    double error;     /* +infinity: collapsed; never NaN                     */
    double bits;      /* finite                                              */
    double violation; /* <= 0: within the limit; finite                      */
    int tag;          /* the caller's, unique                                */
    int rank;         /* set by kv_front_sort: 0 = dominated by none         */
    double crowding;  /* set by kv_front_sort: larger = lonelier in its rank */
};

/* a no worse than b in both objectives, and better in one. Violations are not looked at. */
bool kv_scored_dominates(const struct kv_scored *a, const struct kv_scored *b);

/* Order for survival, as in NSGA-II: by rank, then the lonelier first, then by tag. Ranks under
 * constrained dominance: elements within the limit by non-dominated sorting of the objectives; those
 * beyond it after all of them, by violation, each different violation a rank of its own. */
void kv_front_sort(struct kv_scored *s, int n);
/* What comes first in that order, for tournaments: both sorted. */
bool kv_scored_before(const struct kv_scored *a, const struct kv_scored *b);

/* Keeps the elements that none dominates, by ascending bits (so by falling error); of elements equal in both
 * objectives the lowest tag. Violations are not looked at. Returns how many; the rest is left behind them. */
int kv_front_keep(struct kv_scored *s, int n);

/* Area that is dominated and lies below the reference point. */
double kv_front_hypervolume(struct kv_scored *s, int n, double error_reference, double bits_reference);

#endif
