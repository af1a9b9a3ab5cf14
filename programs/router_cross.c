#include "router_cross.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "router_threshold.h"

void training_divide(struct training *t, bool all, int round)
{
    size_t *order = allocate(t->n, sizeof *order), n = 0;
    uint64_t state = 0x9e3779b97f4a7c15u * (uint64_t)round;
    for (size_t i = 0; i < t->n; i++) {
        t->split[i] = (uint8_t)(all ? KVANT_ROUTER_TRAIN : collected_split(t->w->data.items[i].question));
        t->fold[i] = FOLDS;
        if (t->split[i] != KVANT_ROUTER_TEST) order[n++] = i;
    }
    for (size_t i = n; round > 0 && i > 1; i--) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        size_t k = (size_t)((state >> 33) % i), kept = order[i - 1];
        order[i - 1] = order[k];
        order[k] = kept;
    }
    for (size_t i = 0; i < n; i++) t->fold[order[i]] = (uint8_t)(i % FOLDS);
    free(order);
}

/* A training that stops early has no known end: the routers are counted. */
static bool watch(void *user, const char *what, int64_t done, int64_t total)
{
    struct training *t = user;
    return progress_update(&t->progress, what, 100 * t->n_trained + 100 * done / total,
                           100 * (int64_t)t->n_to_train);
}

void training_open(struct training *t, struct router_work *w, const struct kvant_embed_options *pooling,
                   const float *features, size_t dim, bool all)
{
    const struct router_flags *f = w->flags;
    *t = (struct training){ .w = w, .features = features, .n = w->data.n, .dim = dim };
    t->options = (struct kvant_router_options)KVANT_ROUTER_OPTIONS_INIT;
    t->options.pooling = *pooling;
    t->options.window = (int)f->window;
    t->options.n_hidden = (int)f->n_hidden;
    t->options.n_epochs = (int)f->n_epochs;
    t->options.seed = (uint64_t)f->seed;
    t->options.modes = w->modes.name;
    t->options.progress = watch;
    t->options.user = t;
    t->has[KVANT_ROUTER_NETWORK] = !f->method || strcmp(f->method, "ridge") != 0;
    t->has[KVANT_ROUTER_RIDGE] = !f->method || strcmp(f->method, "network") != 0;
    t->n_to_train = FOLDS * (t->has[0] + t->has[1]) * (all ? (int)f->n_rounds : 1) + !all;
    t->labels = allocate(t->n, sizeof *t->labels);
    t->gain = allocate(t->n, sizeof *t->gain);
    t->split = allocate(t->n, 1);
    t->fold = allocate(t->n, 1);
    for (int m = 0; m < METHODS; m++) t->d[m] = allocate(t->n, sizeof *t->d[m]);
    for (size_t i = 0; i < t->n; i++) {
        const struct collected_question *q = &w->data.items[i];
        t->labels[i] = q->label;
        t->gain[i] = (double)q->answers[MODE_SLOW].is_correct - (double)q->answers[MODE_FAST].is_correct;
        for (int m = 0; m < METHODS; m++) t->d[m][i] = NAN;
    }
    training_divide(t, all, 0);
}

void training_close(struct training *t)
{
    free(t->labels);
    free(t->gain);
    free(t->split);
    free(t->fold);
    for (int m = 0; m < METHODS; m++) free(t->d[m]);
}

int training_one(struct training *t, kvant_router_method method, const uint8_t *split,
                 struct kvant_router **router, struct kvant_router_training *report)
{
    struct kvant_error err;
    t->options.method = method;
    kvant_status status = kvant_router_train(router, t->w->model, t->features, t->labels, split, t->n,
                                             &t->options, report, &err);
    t->n_trained++;
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

int training_cross(struct training *t)
{
    uint8_t *split = allocate(t->n, 1);
    int code = EXIT_OK;
    for (int f = 0; f < FOLDS * METHODS && code == EXIT_OK; f++) {
        struct kvant_router *router = NULL;
        struct kvant_router_training report;
        int fold = f / METHODS, m = f % METHODS;
        if (!t->has[m]) continue;
        for (size_t i = 0; i < t->n; i++)
            split[i] = (uint8_t)(t->split[i] == KVANT_ROUTER_TEST || t->fold[i] == fold ? KVANT_ROUTER_TEST
                                 : t->fold[i] == (fold + 1) % FOLDS ? KVANT_ROUTER_VALIDATION
                                                                    : KVANT_ROUTER_TRAIN);
        code = training_one(t, (kvant_router_method)m, split, &router, &report);
        for (size_t i = 0; i < t->n && code == EXIT_OK; i++)
            if (t->fold[i] == fold) t->d[m][i] = kvant_router_score(router, t->features + i * t->dim);
        kvant_router_close(router);
    }
    free(split);
    return code;
}

static bool takes_part(const struct training *t, size_t i, int without)
{
    return t->fold[i] < FOLDS && t->fold[i] != without;
}

double training_error(const struct training *t, kvant_router_method method, int without)
{
    double sum = 0, n = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (!takes_part(t, i, without)) continue;
        double e = t->d[method][i] - (double)t->labels[i];
        sum += e * e;
        n++;
    }
    return sum / n;
}

kvant_router_method training_best(const struct training *t, int without)
{
    if (!t->has[KVANT_ROUTER_NETWORK]) return KVANT_ROUTER_RIDGE;
    if (!t->has[KVANT_ROUTER_RIDGE]) return KVANT_ROUTER_NETWORK;
    return training_error(t, KVANT_ROUTER_RIDGE, without) <= training_error(t, KVANT_ROUTER_NETWORK, without)
               ? KVANT_ROUTER_RIDGE
               : KVANT_ROUTER_NETWORK;
}

double training_threshold(const struct training *t, kvant_router_method method, int without)
{
    double *d = allocate(t->n, sizeof *d), *gain = allocate(t->n, sizeof *gain);
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (!takes_part(t, i, without)) continue;
        d[n] = t->d[method][i];
        gain[n++] = t->gain[i];
    }
    double threshold = router_threshold(d, gain, n, t->w->flags->max_loss / 100);
    free(d);
    free(gain);
    return threshold;
}

/* part: by each method, then by the better one. */
int router_cross(struct router_work *w, const struct kvant_embed_options *pooling, double *const part[3])
{
    struct training t = { 0 };
    struct kvant_embed_options opt;
    float *features = NULL;
    size_t dim;
    int n_rounds = (int)w->flags->n_rounds;
    router_pooling(w->flags, pooling, &opt);
    int code = router_features(w, &opt, NULL, w->data.n, &features, &dim);
    if (code != EXIT_OK) {
        free(features);
        return code;
    }
    training_open(&t, w, &opt, features, dim, true);
    interrupt_catch();
    progress_begin(&t.progress);
    for (int round = 0; round < n_rounds && code == EXIT_OK; round++) {
        training_divide(&t, true, round);
        code = training_cross(&t);
        for (int f = 0; f < FOLDS && code == EXIT_OK; f++)
            for (int m = 0; m <= METHODS; m++) {
                kvant_router_method method = m < METHODS ? (kvant_router_method)m : training_best(&t, f);
                if (!t.has[method]) continue;
                double threshold = training_threshold(&t, method, f);
                for (size_t i = 0; i < t.n; i++)
                    if (t.fold[i] == f) part[m][i] += (t.d[method][i] > threshold) / (double)n_rounds;
            }
    }
    progress_end(&t.progress);
    free(features);
    training_close(&t);
    return code;
}
