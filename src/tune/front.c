#include "tune/front.h"

#include <math.h>
#include <stdlib.h>

bool kv_scored_dominates(const struct kv_scored *a, const struct kv_scored *b)
{
    return a->error <= b->error && a->bits <= b->bits && (a->error < b->error || a->bits < b->bits);
}

/* ---------------------------------------------------------------------------------------------- orders -- */

static int compare_doubles(double a, double b)
{
    return (a > b) - (a < b);
}

static int compare_ints(int a, int b)
{
    return (a > b) - (a < b);
}

static int by_bits(const void *x, const void *y)
{
    const struct kv_scored *a = x, *b = y;
    int order = compare_doubles(a->bits, b->bits);
    if (!order) order = compare_doubles(a->error, b->error);
    return order ? order : compare_ints(a->tag, b->tag);
}

static int by_error(const void *x, const void *y)
{
    const struct kv_scored *a = x, *b = y;
    int order = compare_doubles(a->error, b->error);
    return order ? order : by_bits(x, y);
}

/* Those within the limit first, by bits; the others by violation. */
static int by_feasibility(const void *x, const void *y)
{
    const struct kv_scored *a = x, *b = y;
    int order = compare_doubles(fmax(a->violation, 0.0), fmax(b->violation, 0.0));
    return order ? order : by_bits(x, y);
}

static int by_rank(const void *x, const void *y)
{
    const struct kv_scored *a = x, *b = y;
    return compare_ints(a->rank, b->rank);
}

static int by_rank_bits(const void *x, const void *y)
{
    int order = by_rank(x, y);
    return order ? order : by_bits(x, y);
}

static int by_survival(const void *x, const void *y)
{
    const struct kv_scored *a = x, *b = y;
    int order = by_rank(x, y);
    if (!order) order = compare_doubles(b->crowding, a->crowding);
    return order ? order : compare_ints(a->tag, b->tag);
}

bool kv_scored_before(const struct kv_scored *a, const struct kv_scored *b)
{
    return by_survival(a, b) < 0;
}

static void sort(struct kv_scored *s, int n, int (*order)(const void *, const void *))
{
    if (n > 1) qsort(s, (size_t)n, sizeof *s, order);
}

/* ----------------------------------------------------------------------------------------------- ranks -- */

/* Non-dominated sorting of s[0, n), which are in order of bits, then error: peels off one front after
 * another. With two objectives an element of such a list is dominated by a later one never, and by an
 * earlier one exactly when its error is not below theirs, unless it equals them in both. O(n · fronts).
 * Returns the number of ranks. */
static int rank_feasible(struct kv_scored *s, int n)
{
    int rank = 0;
    for (int n_left = n; n_left > 0; rank++) {
        const struct kv_scored *last = NULL; /* of this front: the least error so far */
        for (int i = 0; i < n; i++) {
            if (s[i].rank >= 0) continue;
            bool equal = last && last->error == s[i].error && last->bits == s[i].bits;
            if (last && !equal && s[i].error >= last->error) continue;
            s[i].rank = rank;
            last = &s[i];
            n_left--;
        }
    }
    return rank;
}

static void set_ranks(struct kv_scored *s, int n)
{
    sort(s, n, by_feasibility);
    int n_feasible = 0;
    for (int i = 0; i < n; i++) {
        s[i].rank = -1;
        s[i].crowding = 0.0;
        n_feasible += !(s[i].violation > 0.0);
    }
    int rank = rank_feasible(s, n_feasible);
    for (int i = n_feasible; i < n; i++)
        s[i].rank = rank += i > n_feasible && s[i].violation > s[i - 1].violation;
}

static double error_of(const struct kv_scored *s)
{
    return s->error;
}

static double bits_of(const struct kv_scored *s)
{
    return s->bits;
}

/* Distance between both neighbours in one objective, over the width of the front; the ends are infinitely
 * lonely. s: one front, in order of that objective. Infinite errors count as the largest finite one. */
static void add_crowding(struct kv_scored *s, int n, double (*objective)(const struct kv_scored *))
{
    int n_finite = n;
    while (n_finite > 0 && isinf(objective(&s[n_finite - 1]))) n_finite--;
    double low = objective(&s[0]), high = n_finite ? objective(&s[n_finite - 1]) : low;
    for (int i = 1; i + 1 < n && high > low; i++)
        s[i].crowding += (fmin(objective(&s[i + 1]), high) - fmin(objective(&s[i - 1]), high)) / (high - low);
    s[0].crowding = s[n - 1].crowding = INFINITY;
}

void kv_front_sort(struct kv_scored *s, int n)
{
    set_ranks(s, n);
    sort(s, n, by_rank_bits);
    for (int first = 0, end; first < n; first = end) {
        for (end = first + 1; end < n && s[end].rank == s[first].rank;) end++;
        add_crowding(s + first, end - first, bits_of);
        sort(s + first, end - first, by_error);
        add_crowding(s + first, end - first, error_of);
    }
    sort(s, n, by_survival);
}

/* ----------------------------------------------------------------------------------------------- front -- */

int kv_front_keep(struct kv_scored *s, int n)
{
    sort(s, n, by_bits);
    int n_kept = 0;
    for (int i = 0; i < n; i++) {
        if (n_kept && s[i].error >= s[n_kept - 1].error) continue;
        struct kv_scored kept = s[i];
        s[i] = s[n_kept];
        s[n_kept++] = kept;
    }
    return n_kept;
}

double kv_front_hypervolume(struct kv_scored *s, int n, double error_reference, double bits_reference)
{
    sort(s, n, by_bits);
    double area = 0.0, least_error = error_reference;
    for (int i = 0; i < n && s[i].bits < bits_reference; i++) {
        if (s[i].error >= least_error) continue;
        area += (bits_reference - s[i].bits) * (least_error - s[i].error);
        least_error = s[i].error;
    }
    return area;
}
