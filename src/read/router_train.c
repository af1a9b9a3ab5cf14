/*
 * Training of a router, and its network: mean squared error on labels 0 .. 100, Adam, shuffled batches,
 * early stopping on the validation split. A few seconds for some thousand questions, so plain loops do;
 * deterministic for a seed.
 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "model/model.h"
#include "read/pool.h"
#include "read/router_train.h"

#define HIDDEN_DEFAULT 512
#define EPOCHS_DEFAULT 500
#define PATIENCE       150 /* epochs without a better validation error */
#define BATCH          64
#define RATE           2e-4
#define DECAY          1.0 /* of weights, decoupled: times the rate     */
#define LABEL_SCALE    100.0f

/* One array of parameters with Adam's two moments. */
struct parameters {
    float *w, *g, *m, *v, *best;
    size_t n;
    bool decays;
};

struct trainer {
    struct kvant_router *router;
    struct kv_router_data data;
    float *x;               /* (n, n_input) standardized  */
    float *hidden, *delta;  /* (n_hidden)                 */
    struct parameters p[4]; /* w1, b1, w2, b2             */
    float b2;
    int64_t step;
    size_t *order, n_train;
};

static kvant_status check(const struct kvant_router_options *opt, const float *features, const float *labels,
                          const uint8_t *split, size_t n, size_t dim, struct kvant_error *err)
{
    size_t n_train = 0, n_validation = 0;
    for (size_t i = 0; i < n; i++) {
        n_train += split[i] == KVANT_ROUTER_TRAIN;
        n_validation += split[i] == KVANT_ROUTER_VALIDATION;
        if (!(labels[i] >= 0 && labels[i] <= 100))
            KV_FAIL(err, KVANT_ERR_ARGUMENT, (int64_t)i,
                    "question %zu has the label %g; 0 to 100 are possible", i + 1, (double)labels[i]);
        for (size_t c = 0; c < dim; c++)
            if (!isfinite(features[i * dim + c]))
                KV_FAIL(err, KVANT_ERR_NUMERIC, (int64_t)i,
                        "feature %zu of question %zu is not a finite number", c, i + 1);
    }
    if (n_train < 8 || n_validation < 2)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "%zu questions to train on and %zu to validate: 8 and 2 are the least", n_train,
                n_validation);
    if (opt->window < 1 || opt->window > KV_ROUTER_WINDOW_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "kvant_router_options.window is %d; 1 to %d are possible",
                opt->window, KV_ROUTER_WINDOW_MAX);
    if (opt->n_hidden < 0 || opt->n_hidden > KV_ROUTER_HIDDEN_MAX || opt->n_epochs < 0 ||
        opt->n_epochs > 100000)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_router_options: n_hidden %d, n_epochs %d are out of range", opt->n_hidden,
                opt->n_epochs);
    if (opt->method != KVANT_ROUTER_NETWORK && opt->method != KVANT_ROUTER_RIDGE)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "kvant_router_options.method is %d, which is none",
                (int)opt->method);
    if (opt->modes && (strlen(opt->modes) >= KV_ROUTER_MODES_CAP || strpbrk(opt->modes, " \t\r\n")))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_router_options.modes: a name of at most %d characters is needed",
                KV_ROUTER_MODES_CAP - 1);
    return KVANT_OK;
}

void kv_router_standardize(struct kvant_router *r, const struct kv_router_data *data, const size_t *rows,
                           size_t n_rows)
{
    size_t dim = (size_t)r->n_input;
    for (size_t c = 0; c < dim; c++) {
        double sum = 0, square = 0;
        for (size_t i = 0; i < n_rows; i++) sum += (double)data->features[rows[i] * dim + c];
        double mean = sum / (double)n_rows;
        for (size_t i = 0; i < n_rows; i++) {
            double x = (double)data->features[rows[i] * dim + c] - mean;
            square += x * x;
        }
        double deviation = sqrt(square / (double)n_rows);
        r->mean[c] = (float)mean;
        r->inverse[c] = deviation > 1e-6 * (fabs(mean) + 1e-6) ? (float)(1.0 / deviation) : 0.0f;
    }
}

void kv_router_standardized(const struct kvant_router *r, const float *features, float *out)
{
    for (size_t c = 0; c < (size_t)r->n_input; c++) out[c] = (features[c] - r->mean[c]) * r->inverse[c];
}

static float forward(struct trainer *t, const float *x)
{
    const struct kvant_router *r = t->router;
    size_t dim = (size_t)r->n_input;
    float y = t->b2;
    for (int h = 0; h < r->n_hidden; h++) {
        const float *w = r->w1 + (size_t)h * dim;
        float acc[8] = { 0 }, sum = r->b1[h];
        size_t c = 0;
        for (; c + 8 <= dim; c += 8)
            for (size_t l = 0; l < 8; l++) acc[l] += w[c + l] * x[c + l];
        for (; c < dim; c++) acc[0] += w[c] * x[c];
        for (int l = 0; l < 8; l++) sum += acc[l];
        t->hidden[h] = sum > 0 ? sum : 0;
        y += r->w2[h] * t->hidden[h];
    }
    return y;
}

/* Adds the gradient of (y − label)² of one question. */
static void backward(struct trainer *t, size_t i, float share)
{
    struct kvant_router *r = t->router;
    size_t dim = (size_t)r->n_input;
    const float *x = t->x + i * dim;
    float g = 2 * share * (forward(t, x) - t->data.labels[i] / LABEL_SCALE);
    t->p[3].g[0] += g;
    for (int h = 0; h < r->n_hidden; h++) {
        if (t->hidden[h] <= 0) continue;
        t->p[2].g[h] += g * t->hidden[h];
        float d = g * r->w2[h], *row = t->p[0].g + (size_t)h * dim;
        t->p[1].g[h] += d;
        for (size_t c = 0; c < dim; c++) row[c] += d * x[c];
    }
}

static void adam(struct trainer *t)
{
    double a = 1 - pow(0.9, (double)++t->step), b = 1 - pow(0.999, (double)t->step);
    float rate = (float)(RATE / a), root = (float)(1 / sqrt(b));
    for (int k = 0; k < 4; k++) {
        struct parameters *p = &t->p[k];
        float decay = p->decays ? (float)(RATE * DECAY) : 0.0f;
        for (size_t i = 0; i < p->n; i++) {
            p->m[i] = 0.9f * p->m[i] + 0.1f * p->g[i];
            p->v[i] = 0.999f * p->v[i] + 0.001f * p->g[i] * p->g[i];
            p->w[i] -= rate * p->m[i] / (sqrtf(p->v[i]) * root + 1e-8f) + decay * p->w[i];
            p->g[i] = 0;
        }
    }
}

static double error_of(struct trainer *t, uint8_t split)
{
    double sum = 0, n = 0;
    for (size_t i = 0; i < t->data.n; i++) {
        if (t->data.split[i] != split) continue;
        float y = forward(t, t->x + i * (size_t)t->router->n_input);
        double e = (double)(LABEL_SCALE * y - t->data.labels[i]);
        sum += e * e;
        n++;
    }
    return n > 0 ? sum / n : NAN;
}

/* What the mean label of the training split would do on the validation split. */
static double error_of_mean(const struct trainer *t)
{
    double mean = 0, sum = 0, n = 0;
    for (size_t i = 0; i < t->n_train; i++) mean += (double)t->data.labels[t->order[i]] / (double)t->n_train;
    for (size_t i = 0; i < t->data.n; i++) {
        if (t->data.split[i] != KVANT_ROUTER_VALIDATION) continue;
        sum += ((double)t->data.labels[i] - mean) * ((double)t->data.labels[i] - mean);
        n++;
    }
    return sum / n;
}

static void epoch(struct trainer *t, struct kv_random *random)
{
    for (size_t i = t->n_train; i > 1; i--) {
        size_t j = (size_t)kv_random_below(random, (int)i), kept = t->order[i - 1];
        t->order[i - 1] = t->order[j];
        t->order[j] = kept;
    }
    for (size_t begin = 0; begin < t->n_train; begin += BATCH) {
        size_t end = begin + BATCH < t->n_train ? begin + BATCH : t->n_train;
        for (size_t i = begin; i < end; i++) backward(t, t->order[i], 1.0f / (float)(end - begin));
        adam(t);
    }
}

static void keep(struct trainer *t, bool back)
{
    for (int k = 0; k < 4; k++)
        memcpy(back ? t->p[k].w : t->p[k].best, back ? t->p[k].best : t->p[k].w,
               t->p[k].n * sizeof *t->p[k].w);
}

static kvant_status trainer_open(struct trainer *t, struct kvant_error *err)
{
    struct kvant_router *r = t->router;
    size_t in = (size_t)r->n_input, mid = (size_t)r->n_hidden;
    float *w[4] = { r->w1, r->b1, r->w2, &t->b2 };
    const size_t n[4] = { in * mid, mid, mid, 1 };
    bool ok = true;
    t->x = kv_alloc(t->data.n * in, sizeof *t->x);
    t->hidden = kv_alloc(mid, sizeof *t->hidden);
    t->order = kv_alloc(t->data.n, sizeof *t->order);
    for (int k = 0; k < 4; k++) {
        struct parameters *p = &t->p[k];
        *p = (struct parameters){ .w = w[k], .n = n[k], .decays = k % 2 == 0 };
        p->g = kv_alloc(n[k], sizeof *p->g);
        p->m = kv_alloc(n[k], sizeof *p->m);
        p->v = kv_alloc(n[k], sizeof *p->v);
        p->best = kv_alloc(n[k], sizeof *p->best);
        ok = ok && p->g && p->m && p->v && p->best;
    }
    if (!ok || !t->x || !t->hidden || !t->order)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory to train on %zu questions", t->data.n);
    for (size_t i = 0; i < t->data.n; i++)
        if (t->data.split[i] == KVANT_ROUTER_TRAIN) t->order[t->n_train++] = i;
    return KVANT_OK;
}

static void trainer_close(struct trainer *t)
{
    kv_free(t->x);
    kv_free(t->hidden);
    kv_free(t->order);
    for (int k = 0; k < 4; k++) {
        kv_free(t->p[k].g);
        kv_free(t->p[k].m);
        kv_free(t->p[k].v);
        kv_free(t->p[k].best);
    }
}

/* The mean label to begin with, exactly: what is random lies behind a w2 of 0. (A random w2 makes the first
 * error several times that of the mean, and early stopping ends before it is unlearned.) W1: uniform within
 * ±1/sqrt(inputs). */
static void initialize(struct trainer *t, struct kv_random *random)
{
    struct kvant_router *r = t->router;
    double a = 1 / sqrt((double)r->n_input), sum = 0;
    for (size_t i = 0; i < t->p[0].n; i++) r->w1[i] = (float)(a * (2 * kv_random_unit(random) - 1));
    for (size_t i = 0; i < t->n_train; i++) sum += (double)t->data.labels[t->order[i]];
    t->b2 = (float)(sum / (double)t->n_train / (double)LABEL_SCALE);
}

static kvant_status train_network(struct trainer *t, const struct kvant_router_options *opt,
                          struct kvant_router_training *out, struct kvant_error *err)
{
    struct kv_random random;
    int n_epochs = opt->n_epochs ? opt->n_epochs : EPOCHS_DEFAULT;
    KV_TRY(trainer_open(t, err));
    kv_random_seed(&random, opt->seed);
    kv_router_standardize(t->router, &t->data, t->order, t->n_train);
    for (size_t i = 0, in = (size_t)t->router->n_input; i < t->data.n; i++)
        kv_router_standardized(t->router, t->data.features + i * in, t->x + i * in);
    initialize(t, &random);
    out->validation_error = error_of(t, KVANT_ROUTER_VALIDATION);
    out->validation_error_of_mean = error_of_mean(t);
    keep(t, false);
    for (int e = 1; e <= n_epochs && e - out->best_epoch <= PATIENCE; e++) {
        epoch(t, &random);
        double error = error_of(t, KVANT_ROUTER_VALIDATION);
        out->n_epochs = e;
        if (error < out->validation_error) {
            out->validation_error = error;
            out->best_epoch = e;
            keep(t, false);
        }
        if (opt->progress && !opt->progress(opt->user, "train", e, n_epochs))
            KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "training stopped after %d epochs", e);
    }
    keep(t, true);
    out->train_error = error_of(t, KVANT_ROUTER_TRAIN);
    /* labels of 0 .. 1 to 0 .. 100 */
    for (size_t i = 0; i < t->p[2].n; i++) t->router->w2[i] *= LABEL_SCALE;
    t->router->b2 = t->b2 * LABEL_SCALE;
    return isfinite(out->train_error)
               ? KVANT_OK
               : kv_error_set(err, KVANT_ERR_NUMERIC, -1, "the training error is not finite");
}

kvant_status kvant_router_train(struct kvant_router **out, const struct kvant_model *model,
                                const float *features, const float *labels, const uint8_t *split, size_t n,
                                const struct kvant_router_options *opt, struct kvant_router_training *report,
                                struct kvant_error *err)
{
    static const struct kvant_router_options defaults = KVANT_ROUTER_OPTIONS_INIT;
    if (!opt) opt = &defaults;
    struct kvant_embed_options embed = opt->pooling;
    struct kv_pooling pooling;
    *out = NULL;
    *report = (struct kvant_router_training){ .best_epoch = 0 };
    if (opt->size != sizeof *opt || embed.size != sizeof embed)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_router_options.size is not set; use KVANT_ROUTER_OPTIONS_INIT");
    KV_TRY(kv_pooling_set(&pooling, model, &embed, err));
    bool hidden = embed.source == KVANT_EMBED_HIDDEN;
    int n_input = hidden ? model->hp.n_embd : pooling.layer_dim;
    KV_TRY(check(opt, features, labels, split, n, (size_t)n_input, err));
    bool ridge = opt->method == KVANT_ROUTER_RIDGE;
    struct trainer t = { .data = { features, labels, split, n } };
    KV_TRY(kv_router_alloc(&t.router, n_input,
                           ridge           ? 2
                           : opt->n_hidden ? opt->n_hidden
                                           : HIDDEN_DEFAULT,
                           err));
    struct kvant_router *r = t.router;
    r->window = opt->window;
    r->layer_first = pooling.layer_first;
    r->n_layers = pooling.n_layers;
    r->model_layers = model->hp.n_layer;
    r->n_head_kv = model->hp.n_head_kv;
    r->head_dim = model->hp.head_dim;
    r->part = (int)embed.part;
    r->heads = (int)embed.heads;
    r->before_rope = embed.before_rope;
    r->by_side = embed.by_side;
    r->hidden = hidden;
    memcpy(r->fingerprint, model->fingerprint, sizeof r->fingerprint);
    strncpy(r->modes, opt->modes ? opt->modes : "-", sizeof r->modes - 1);
    kvant_status status = ridge ? kv_router_ridge(r, &t.data, opt, report, err)
                                : train_network(&t, opt, report, err);
    trainer_close(&t);
    if (status != KVANT_OK)
        kvant_router_close(r);
    else
        *out = r;
    return status;
}
