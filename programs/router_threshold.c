#include "router_threshold.h"

#include <stdlib.h>
#include <string.h>

#include "program.h"

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* gain ≈ at + slope · d by least squares, slope >= 0 */
static void fit(const double *d, const double *gain, size_t n, double *at, double *slope)
{
    double mean_d = 0, mean_gain = 0, product = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        mean_d += d[i] / (double)n;
        mean_gain += gain[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        product += (d[i] - mean_d) * (gain[i] - mean_gain);
        square += (d[i] - mean_d) * (d[i] - mean_d);
    }
    *slope = square > 0 && product > 0 ? product / square : 0;
    *at = mean_gain - *slope * mean_d;
}

double router_threshold(const double *d, const double *gain, size_t n, double max_loss)
{
    double at, slope, lost = 0, threshold;
    size_t n_fast = 0;
    if (n == 0) return 50;
    fit(d, gain, n, &at, &slope);
    double *sorted = memcpy(allocate(n, sizeof *sorted), d, n * sizeof *d);
    qsort(sorted, n, sizeof *sorted, ascending);
    for (size_t i = 0; i < n; i++) {
        lost += at + slope * sorted[i];
        if (lost <= max_loss * (double)n) n_fast = i + 1;
    }
    threshold = n_fast == 0   ? sorted[0] - 1
                : n_fast == n ? sorted[n - 1] + 1
                              : 0.5 * (sorted[n_fast - 1] + sorted[n_fast]);
    free(sorted);
    return threshold;
}
