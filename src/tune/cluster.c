#include "tune/cluster.h"

#include <math.h>

#include "base/memory.h"

struct clustering {
    int n_layer, n_pairs, min_points;
    const kv_pair_set *candidates;
    const double *error;
    double eps;
    bool *core;
    int *label; /* -1, or the layer by which the cluster is known */
    int *queue;
};

/* +infinity between layers of different parts. */
static double distance(const struct clustering *c, int a, int b)
{
    if (c->candidates[a] != c->candidates[b]) return INFINITY;
    const double *x = c->error + (size_t)a * (size_t)c->n_pairs,
                 *y = c->error + (size_t)b * (size_t)c->n_pairs;
    double square = 0.0;
    for (int i = 0; i < c->n_pairs; i++)
        if (c->candidates[a] >> i & 1) square += (x[i] - y[i]) * (x[i] - y[i]);
    return sqrt(square);
}

static void find_cores(struct clustering *c)
{
    for (int a = 0; a < c->n_layer; a++) {
        int n = 0;
        for (int b = 0; b < c->n_layer; b++) n += distance(c, a, b) <= c->eps;
        c->core[a] = n >= c->min_points;
    }
}

/* Labels the component of core points around `first`. */
static void flood(struct clustering *c, int first)
{
    int n_queued = 0;
    c->label[first] = first;
    c->queue[n_queued++] = first;
    for (int i = 0; i < n_queued; i++) {
        for (int b = 0; b < c->n_layer; b++) {
            if (!c->core[b] || c->label[b] >= 0 || distance(c, c->queue[i], b) > c->eps) continue;
            c->label[b] = first;
            c->queue[n_queued++] = b;
        }
    }
}

/* A point that is no core: its nearest core point's cluster, or its own. */
static void attach(struct clustering *c, int a)
{
    double nearest = INFINITY;
    c->label[a] = a;
    for (int b = 0; b < c->n_layer; b++) {
        double d = c->core[b] ? distance(c, a, b) : INFINITY;
        if (d > c->eps || d >= nearest) continue;
        nearest = d;
        c->label[a] = c->label[b];
    }
}

static kvant_status collect(const struct clustering *c, struct kv_groups *out, struct kvant_error *err)
{
    int n_groups = 0, n = 0;
    for (int a = 0; a < c->n_layer; a++) n_groups += c->label[a] == a;
    KV_TRY(kv_groups_alloc(out, n_groups, c->n_layer, err));
    bool *taken = c->core; /* no longer needed as it was */
    for (int a = 0; a < c->n_layer; a++) taken[a] = false;
    for (int a = 0, g = 0; a < c->n_layer; a++) {
        if (taken[a]) continue;
        for (int b = a; b < c->n_layer; b++) {
            if (c->label[b] != c->label[a]) continue;
            out->layer[n++] = b;
            taken[b] = true;
        }
        out->begin[++g] = n;
    }
    return KVANT_OK;
}

kvant_status kv_cluster(struct kv_groups *out, int n_layer, int n_pairs, const kv_pair_set *candidates,
                        const double *error, double eps, int min_points, struct kvant_error *err)
{
    *out = (struct kv_groups){ 0 };
    if (n_layer < 1 || !(eps >= 0.0) || !isfinite(eps) || min_points < 1)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "clustering %d layers with eps %g and min_points %d", n_layer,
                eps, min_points);
    size_t n = (size_t)n_layer;
    struct clustering c = { n_layer,
                            n_pairs,
                            min_points,
                            candidates,
                            error,
                            eps,
                            kv_alloc(n, sizeof *c.core),
                            kv_alloc(n, sizeof *c.label),
                            kv_alloc(n, sizeof *c.queue) };
    kvant_status status = KVANT_OK;
    if (!c.core || !c.label || !c.queue)
        status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for clustering %d layers", n_layer);
    if (status == KVANT_OK) {
        find_cores(&c);
        for (int a = 0; a < n_layer; a++) c.label[a] = -1;
        for (int a = 0; a < n_layer; a++)
            if (c.core[a] && c.label[a] < 0) flood(&c, a);
        for (int a = 0; a < n_layer; a++)
            if (!c.core[a]) attach(&c, a);
        status = collect(&c, out, err);
    }
    kv_free(c.core);
    kv_free(c.label);
    kv_free(c.queue);
    return status;
}
