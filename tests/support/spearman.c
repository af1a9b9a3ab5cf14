#include "support/spearman.h"

#include <math.h>

static double rank(const double *x, int n, int i)
{
    double rank = 0;
    for (int j = 0; j < n; j++) rank += x[j] < x[i] ? 1 : x[j] == x[i] ? .5 : 0;
    return rank;
}

double check_spearman(const double *x, const double *y, int n)
{
    double mean = n / 2.0, ab = 0, aa = 0, bb = 0; /* the ranks of n numbers, each counted half itself */
    for (int i = 0; i < n; i++) {
        double a = rank(x, n, i) - mean, b = rank(y, n, i) - mean;
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    return ab / sqrt(aa * bb);
}
