/*
 * A linear router: ridge regression of the labels on the standardized inputs. Some hundred questions do not
 * determine the 512 · n_input weights of a network; a penalized line they do, and it leaves nothing to early
 * stopping or to a seed.
 *
 *     Z (n, D): standardized inputs / sqrt(D), columns of mean 0   y: labels less their mean   s: the penalty
 *     n >= D:  A = Z'Z + s I (D, D)    b = A⁻¹ Z'y        h_i = z_i' A⁻¹ z_i
 *     n <  D:  A = ZZ' + s I (n, n)    b = Z' A⁻¹ y       h_i = 1 − s (A⁻¹)_ii
 *
 * Either way the error of question i by the line fitted without it is (y_i − z_i b) / (1 − 1/n − h_i),
 * exactly, for this Z and s: the penalty of least such error is taken. As a network:
 * d = relu(w x') − relu(−w x') + b2, w = b / sqrt(D).
 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "read/router_train.h"

#define SIZE_MAX_OF_A 4096 /* a factor takes m³/3 multiplications: some ten seconds */
#define N_PENALTIES   7

/* Z has n questions of mean square 1, so that .1 is next to nothing and 100 next to the mean label alone. */
static const double penalties[N_PENALTIES] = { 0.1, 0.316, 1, 3.16, 10, 31.6, 100 };

struct ridge {
    size_t n, dim, m; /* m = the lesser of both */
    bool dual;        /* n < dim                */
    size_t *rows;     /* (n) questions          */
    float *z;         /* (n, dim)               */
    double *y;        /* (n)                    */
    double *gram;     /* (m, m) lower triangle  */
    double *factor;   /* (m, m) L, A = LL'      */
    double *v;        /* (m)                    */
    double *b, *best; /* (dim)                  */
    double mean;      /* of labels              */
};

static double dot_ff(const float *a, const float *b, size_t n)
{
    double acc[8] = { 0 }, sum = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t l = 0; l < 8; l++) acc[l] += (double)a[i + l] * (double)b[i + l];
    for (; i < n; i++) sum += (double)a[i] * (double)b[i];
    for (int l = 0; l < 8; l++) sum += acc[l];
    return sum;
}

static double dot_dd(const double *a, const double *b, size_t n)
{
    double acc[8] = { 0 }, sum = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t l = 0; l < 8; l++) acc[l] += a[i + l] * b[i + l];
    for (; i < n; i++) sum += a[i] * b[i];
    for (int l = 0; l < 8; l++) sum += acc[l];
    return sum;
}

static double dot_fd(const float *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

static void make_gram(struct ridge *g)
{
    if (g->dual) {
        for (size_t i = 0; i < g->n; i++)
            for (size_t k = 0; k <= i; k++)
                g->gram[i * g->m + k] = dot_ff(g->z + i * g->dim, g->z + k * g->dim, g->dim);
        return;
    }
    for (size_t i = 0; i < g->n; i++) {
        const float *z = g->z + i * g->dim;
        for (size_t c = 0; c < g->dim; c++)
            for (size_t k = 0; k <= c; k++) g->gram[c * g->m + k] += (double)z[c] * (double)z[k];
    }
}

/* L of gram + s I. The penalty keeps it positive: the gram matrix has no negative eigenvalue but by rounding,
 * 1e-13 of its trace. */
static void factorize(struct ridge *g, double s)
{
    for (size_t i = 0; i < g->m; i++) {
        double *row = g->factor + i * g->m;
        for (size_t k = 0; k < i; k++) {
            const double *above = g->factor + k * g->m;
            row[k] = (g->gram[i * g->m + k] - dot_dd(row, above, k)) / above[k];
        }
        row[i] = sqrt(g->gram[i * g->m + i] + s - dot_dd(row, row, i));
    }
}

/* v = L⁻¹ v, whose first `first` numbers are 0 */
static void forward(struct ridge *g, size_t first)
{
    for (size_t i = first; i < g->m; i++) {
        const double *row = g->factor + i * g->m;
        g->v[i] = (g->v[i] - dot_dd(row + first, g->v + first, i - first)) / row[i];
    }
}

/* v = L'⁻¹ v */
static void backward(struct ridge *g)
{
    for (size_t i = g->m; i-- > 0;) {
        const double *row = g->factor + i * g->m;
        g->v[i] /= row[i];
        for (size_t k = 0; k < i; k++) g->v[k] -= g->v[i] * row[k];
    }
}

/* b for the factor at hand */
static void solve(struct ridge *g)
{
    memset(g->b, 0, g->dim * sizeof *g->b);
    if (!g->dual)
        for (size_t i = 0; i < g->n; i++)
            for (size_t c = 0; c < g->dim; c++) g->b[c] += g->y[i] * (double)g->z[i * g->dim + c];
    memcpy(g->v, g->dual ? g->y : g->b, g->m * sizeof *g->v);
    forward(g, 0);
    backward(g);
    if (!g->dual) {
        memcpy(g->b, g->v, g->dim * sizeof *g->b);
        return;
    }
    for (size_t i = 0; i < g->n; i++)
        for (size_t c = 0; c < g->dim; c++) g->b[c] += g->v[i] * (double)g->z[i * g->dim + c];
}

/* Mean squared error of each question by the line without it; *error_of_all: by the line that knows all. */
static double left_out(struct ridge *g, double s, double *error_of_all)
{
    double sum = 0;
    *error_of_all = 0;
    for (size_t i = 0; i < g->n; i++) {
        const float *z = g->z + i * g->dim;
        double e = g->y[i] - dot_fd(z, g->b, g->dim);
        memset(g->v, 0, g->m * sizeof *g->v);
        if (g->dual)
            g->v[i] = 1;
        else
            for (size_t c = 0; c < g->dim; c++) g->v[c] = (double)z[c];
        forward(g, g->dual ? i : 0);
        double h = dot_dd(g->v, g->v, g->m);
        if (g->dual) h = 1 - s * h;
        double alone = e / (1 - 1 / (double)g->n - h);
        sum += alone * alone / (double)g->n;
        *error_of_all += e * e / (double)g->n;
    }
    return sum;
}

static kvant_status ridge_open(struct ridge *g, struct kvant_router *r, const struct kv_router_data *data,
                               struct kvant_error *err)
{
    g->dim = (size_t)r->n_input;
    for (size_t i = 0; i < data->n; i++) g->n += data->split[i] != KVANT_ROUTER_TEST;
    g->dual = g->n < g->dim;
    g->m = g->dual ? g->n : g->dim;
    if (g->m > SIZE_MAX_OF_A)
        KV_FAIL(
            err, KVANT_ERR_ARGUMENT, -1,
            "ridge regression of %zu inputs on %zu questions: one of both may be at most %d; train a network",
            g->dim, g->n, SIZE_MAX_OF_A);
    g->rows = kv_alloc(g->n, sizeof *g->rows);
    g->z = kv_alloc(g->n * g->dim, sizeof *g->z);
    g->y = kv_alloc(g->n, sizeof *g->y);
    g->gram = kv_alloc(g->m * g->m, sizeof *g->gram);
    g->factor = kv_alloc(g->m * g->m, sizeof *g->factor);
    g->v = kv_alloc(g->m, sizeof *g->v);
    g->b = kv_alloc(g->dim, sizeof *g->b);
    g->best = kv_alloc(g->dim, sizeof *g->best);
    if (!g->rows || !g->z || !g->y || !g->gram || !g->factor || !g->v || !g->b || !g->best)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory to train on %zu questions", g->n);
    for (size_t i = 0, n = 0; i < data->n; i++)
        if (data->split[i] != KVANT_ROUTER_TEST) g->rows[n++] = i;
    kv_router_standardize(r, data, g->rows, g->n);
    for (size_t i = 0; i < g->n; i++) g->mean += (double)data->labels[g->rows[i]] / (double)g->n;
    float root = 1 / sqrtf((float)g->dim);
    for (size_t i = 0; i < g->n; i++) {
        float *z = g->z + i * g->dim;
        kv_router_standardized(r, data->features + g->rows[i] * g->dim, z);
        for (size_t c = 0; c < g->dim; c++) z[c] *= root;
        g->y[i] = (double)data->labels[g->rows[i]] - g->mean;
    }
    return KVANT_OK;
}

static void ridge_close(struct ridge *g)
{
    kv_free(g->rows);
    kv_free(g->z);
    kv_free(g->y);
    kv_free(g->gram);
    kv_free(g->factor);
    kv_free(g->v);
    kv_free(g->b);
    kv_free(g->best);
}

static kvant_status search(struct ridge *g, const struct kvant_router_options *opt,
                           struct kvant_router_training *report, struct kvant_error *err)
{
    make_gram(g);
    report->validation_error = INFINITY;
    for (int p = 0; p < N_PENALTIES; p++) {
        double error_of_all;
        factorize(g, penalties[p]);
        solve(g);
        double error = left_out(g, penalties[p], &error_of_all);
        if (error < report->validation_error) {
            report->validation_error = error;
            report->train_error = error_of_all;
            report->penalty = penalties[p];
            memcpy(g->best, g->b, g->dim * sizeof *g->b);
        }
        if (opt->progress && !opt->progress(opt->user, "train", p + 1, N_PENALTIES))
            KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "training stopped at penalty %d of %d", p + 1, N_PENALTIES);
    }
    if (!isfinite(report->validation_error))
        KV_FAIL(err, KVANT_ERR_NUMERIC, -1, "the training error is not finite");
    double n = (double)g->n, alone = n / (n - 1);
    for (size_t i = 0; i < g->n; i++)
        report->validation_error_of_mean += alone * alone * g->y[i] * g->y[i] / n;
    return KVANT_OK;
}

kvant_status kv_router_ridge(struct kvant_router *r, const struct kv_router_data *data,
                             const struct kvant_router_options *opt, struct kvant_router_training *report,
                             struct kvant_error *err)
{
    struct ridge g = { 0 };
    kvant_status status = ridge_open(&g, r, data, err);
    if (status == KVANT_OK) status = search(&g, opt, report, err);
    if (status == KVANT_OK) {
        double root = sqrt((double)g.dim);
        for (size_t c = 0; c < g.dim; c++) {
            r->w1[c] = (float)(g.best[c] / root);
            r->w1[g.dim + c] = -r->w1[c];
        }
        r->w2[0] = 1;
        r->w2[1] = -1;
        r->b2 = (float)g.mean;
    }
    ridge_close(&g);
    return status;
}
