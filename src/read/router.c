/*
 * Deciding with a router, and the window that follows a generation: a ring of the last W tokens' pooled rows
 * and their sum, so that a token costs the reading of one row.
 */
#include "read/router.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/model.h"
#include "read/pool.h"

#define INPUTS_AT_ONCE 512
#define READ_AT_ONCE  64   /* tokens                                            */
#define REBUILD_EVERY 1024 /* tokens: then the sum is made anew, so that its rounding does not grow */

struct kvant_router_watch {
    const struct kvant_router *router;
    struct kvant_session *session;
    int seq;
    struct kv_pooling pooling;
    float *ring;    /* (window, n_input): row of token t at t % window */
    float *rows;    /* (READ_AT_ONCE, n_input)                          */
    float *mean;    /* (n_input)                                        */
    double *sum;    /* (n_input)                                        */
    int64_t n_read; /* tokens of the sequence that the ring has seen     */
    int64_t n_since_rebuild;
};

static float dot(const float *w, const float *x, size_t n)
{
    float acc[8] = { 0 };
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t l = 0; l < 8; l++) acc[l] += w[i + l] * x[i + l];
    for (; i < n; i++) acc[0] += w[i] * x[i];
    return ((acc[0] + acc[4]) + (acc[1] + acc[5])) + ((acc[2] + acc[6]) + (acc[3] + acc[7]));
}

/* Inputs are standardized once, not for each hidden unit, and some at a time, so that no memory is needed. */
double kvant_router_score(const struct kvant_router *r, const float *x)
{
    float sum[KV_ROUTER_HIDDEN_MAX], z[INPUTS_AT_ONCE];
    size_t n = (size_t)r->n_input;
    double d = (double)r->b2;
    memset(sum, 0, (size_t)r->n_hidden * sizeof *sum);
    for (size_t begin = 0; begin < n; begin += INPUTS_AT_ONCE) {
        size_t n_part = n - begin < INPUTS_AT_ONCE ? n - begin : INPUTS_AT_ONCE;
        for (size_t i = 0; i < n_part; i++)
            z[i] = (x[begin + i] - r->mean[begin + i]) * r->inverse[begin + i];
        for (int h = 0; h < r->n_hidden; h++) sum[h] += dot(r->w1 + (size_t)h * n + begin, z, n_part);
    }
    for (int h = 0; h < r->n_hidden; h++) {
        float unit = sum[h] + r->b1[h];
        if (isnan(unit)) return NAN;
        if (unit > 0) d += (double)r->w2[h] * (double)unit;
    }
    return d;
}

void kvant_router_add(struct kvant_router *r, double by)
{
    r->b2 = (float)((double)r->b2 + by);
}

void kvant_router_get_info(const struct kvant_router *r, struct kvant_router_info *out)
{
    size_t n = (size_t)r->n_input, m = (size_t)r->n_hidden;
    *out = (struct kvant_router_info){
        .n_input = r->n_input,
        .n_hidden = r->n_hidden,
        .window = r->window,
        .layer_first = r->layer_first,
        .n_layers = r->n_layers,
        .modes = r->modes,
        .fingerprint = r->fingerprint,
        .hidden = r->hidden,
        .bytes = sizeof *r + (2 * n + m * n + 2 * m) * sizeof(float),
        .watch_bytes = sizeof(struct kvant_router_watch) + n * sizeof(double) +
                       ((size_t)r->window + READ_AT_ONCE + 1) * n * sizeof(float),
    };
}

void kvant_router_get_embed_options(const struct kvant_router *r, struct kvant_embed_options *out)
{
    *out = (struct kvant_embed_options)KVANT_EMBED_OPTIONS_INIT;
    out->source = r->hidden ? KVANT_EMBED_HIDDEN : KVANT_EMBED_KV;
    out->part = (kvant_embed_part)r->part;
    out->heads = (kvant_embed_heads)r->heads;
    out->layer_first = r->layer_first;
    out->layer_last = r->layer_first + r->n_layers;
    out->token_first = -r->window;
    out->before_rope = r->before_rope;
    out->by_side = r->by_side;
    out->not_normalized = true;
}

/* ------------------------------------------------------------------------------------ following a text -- */

kvant_status kvant_router_watch_open(struct kvant_router_watch **out, const struct kvant_router *router,
                                     struct kvant_session *session, int seq, struct kvant_error *err)
{
    struct kvant_embed_options opt;
    *out = NULL;
    if (router->hidden)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "this router was trained on hidden states, which no cache holds");
    struct kvant_router_watch *w = kv_alloc(1, sizeof *w);
    if (!w) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a router's window");
    size_t n = (size_t)router->n_input;
    w->router = router;
    w->session = session;
    w->seq = seq;
    w->ring = kv_alloc((size_t)router->window * n, sizeof *w->ring);
    w->rows = kv_alloc(READ_AT_ONCE * n, sizeof *w->rows);
    w->mean = kv_alloc(n, sizeof *w->mean);
    w->sum = kv_alloc(n, sizeof *w->sum);
    kvant_router_get_embed_options(router, &opt);
    kvant_status status = kv_pooling_set(&w->pooling, kv_session_model(session), &opt, err);
    if (!w->ring || !w->rows || !w->mean || !w->sum)
        status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for a window of %d tokens",
                              router->window);
    if (status == KVANT_OK && w->pooling.layer_dim != router->n_input)
        status = kv_error_set(err, KVANT_ERR_MISMATCH, -1,
                              "the router has %d inputs, this model's pooling gives %d", router->n_input,
                              w->pooling.layer_dim);
    if (status != KVANT_OK)
        kvant_router_watch_close(w);
    else
        *out = w;
    return status;
}

void kvant_router_watch_close(struct kvant_router_watch *w)
{
    if (!w) return;
    kv_free(w->ring);
    kv_free(w->rows);
    kv_free(w->mean);
    kv_free(w->sum);
    kv_free(w);
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void rebuild(struct kvant_router_watch *w)
{
    int64_t held = smaller(w->n_read, w->router->window);
    size_t n = (size_t)w->router->n_input;
    memset(w->sum, 0, n * sizeof *w->sum);
    for (int64_t i = 0; i < held; i++)
        for (size_t c = 0; c < n; c++) w->sum[c] += (double)w->ring[(size_t)i * n + c];
    w->n_since_rebuild = 0;
}

static void push(struct kvant_router_watch *w, const float *row)
{
    size_t n = (size_t)w->router->n_input;
    float *slot = w->ring + (size_t)(w->n_read % w->router->window) * n;
    bool full = w->n_read >= w->router->window;
    for (size_t c = 0; c < n; c++) {
        w->sum[c] += (double)row[c] - (full ? (double)slot[c] : 0.0);
        slot[c] = row[c];
    }
    w->n_read++;
    if (++w->n_since_rebuild >= REBUILD_EVERY) rebuild(w);
}

/* Tokens that left the sequence leave the ring; those that it still holds are kept only if the window is. */
static void drop_to(struct kvant_router_watch *w, int64_t n_tokens)
{
    if (n_tokens >= w->n_read) return;
    w->n_read = n_tokens - w->router->window; /* read the window again */
    if (w->n_read < 0) w->n_read = 0;
    memset(w->sum, 0, (size_t)w->router->n_input * sizeof *w->sum);
    memset(w->ring, 0, (size_t)w->router->window * (size_t)w->router->n_input * sizeof *w->ring);
    w->n_since_rebuild = 0;
}

kvant_status kvant_router_watch_next(struct kvant_router_watch *w, double *d, int64_t *n_window,
                                     struct kvant_error *err)
{
    struct kv_seq *seq;
    size_t n = (size_t)w->router->n_input;
    KV_TRY(kv_session_sequence(w->session, w->seq, &seq, err));
    int64_t n_tokens = kv_seq_n_tokens(seq);
    if (n_tokens == 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "an empty sequence: there is nothing to decide on");
    drop_to(w, n_tokens);
    if (n_tokens - w->n_read > w->router->window) { /* what would leave the window at once is not read */
        w->n_read = n_tokens - w->router->window;
        memset(w->sum, 0, n * sizeof *w->sum);
        memset(w->ring, 0, (size_t)w->router->window * n * sizeof *w->ring);
    }
    while (w->n_read < n_tokens) {
        int64_t first = w->n_read, last = first + smaller(READ_AT_ONCE, n_tokens - first);
        KV_TRY(kv_pooling_rows(&w->pooling, w->session, w->seq, first, last, w->rows, err));
        for (int64_t t = first; t < last; t++) push(w, w->rows + (size_t)(t - first) * n);
    }
    int64_t held = smaller(n_tokens, w->router->window);
    for (size_t c = 0; c < n; c++) w->mean[c] = (float)(w->sum[c] / (double)held);
    *d = kvant_router_score(w->router, w->mean);
    *n_window = held;
    if (!isfinite(*d)) KV_FAIL(err, KVANT_ERR_NUMERIC, -1, "the router's decision is not a finite number");
    return KVANT_OK;
}
