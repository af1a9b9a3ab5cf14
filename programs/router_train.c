/* kvant router train and decide. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "progress.h"
#include "prompt.h"
#include "router_parts.h"

int router_work_open(struct router_work *w, const struct router_flags *flags)
{
    *w = (struct router_work){.flags = flags};
    int code = setup_model(&w->model, &flags->model, false);
    if (code == EXIT_OK) code = modes_open(&w->modes, w->model, flags->think.modes);
    if (code == EXIT_OK) code = setup_plan(&w->plan, w->model, &flags->plan, w->kv);
    return code;
}

void router_work_close(struct router_work *w)
{
    collected_close(&w->data);
    modes_close(&w->modes);
    kvant_plan_close(w->plan);
    kvant_model_close(w->model);
}

static int embed_questions(const struct router_work *w, const struct kvant_embed_options *pooling,
                           const struct kvant_prompt *prompts, size_t n, float *rows, size_t n_rows,
                           int *window_short)
{
    struct kvant_error err;
    struct kvant_session *session;
    struct kvant_session_options options = KVANT_SESSION_OPTIONS_INIT;
    struct kvant_embed_options opt = *pooling;
    struct progress progress;
    size_t n_out;
    *window_short = 0;
    for (size_t i = 0; i < n; i++) *window_short += (int64_t)prompts[i].n_tokens < -opt.token_first;
    options.n_logits = 1;
    if (kvant_session_open(&session, w->model, &options, &err) != KVANT_OK) return fail(&err);
    opt.progress = progress_update;
    opt.user = &progress;
    interrupt_catch();
    progress_begin(&progress);
    kvant_status status = kvant_embed_prompts(session, w->plan, prompts, n, &opt, rows, n_rows, &n_out, &err);
    progress_end(&progress);
    kvant_session_close(session);
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

void router_note_window(const struct router_work *w)
{
    if (w->n_short)
        fprintf(stderr, "%d prompts are shorter than the window: all of each is used\n", w->n_short);
}

int router_features(struct router_work *w, const struct kvant_embed_options *pooling, const size_t *places,
                    size_t n, float **features, size_t *dim)
{
    struct kvant_error err;
    if (kvant_embed_dim(w->model, pooling, dim, &err) != KVANT_OK) return fail(&err);
    struct kvant_prompt *prompts = allocate(n, sizeof *prompts);
    *features = allocate(n * *dim, sizeof **features);
    int code = EXIT_OK, n_short = 0;
    size_t n_read = 0;
    for (; n_read < n && code == EXIT_OK; n_read++) {
        kvant_token *ids = NULL;
        const char *question = w->data.items[places ? places[n_read] : n_read].question;
        code = prompt_tokens(w->model, NULL, NULL, question, strlen(question), false, &ids,
                             &prompts[n_read].n_tokens);
        prompts[n_read].tokens = ids;
    }
    if (code == EXIT_OK) code = embed_questions(w, pooling, prompts, n, *features, n * *dim, &n_short);
    w->n_short = n_short;
    for (size_t i = 0; i < n_read; i++) free((void *)(uintptr_t)prompts[i].tokens);
    free(prompts);
    return code;
}

static void print_splits(const struct collected *c, const uint8_t *split)
{
    static const char *const names[] = {"train", "validation", "test"};
    static const float labels[] = {0, 25, 50, 75, 100};
    for (int s = 0; s < 3; s++) {
        printf("%-10s", names[s]);
        for (int l = 0; l < 5; l++) {
            size_t n = 0;
            for (size_t i = 0; i < c->n; i++) n += split[i] == s && c->items[i].label == labels[l];
            printf("  label %3.0f: %4zu", (double)labels[l], n);
        }
        putchar('\n');
    }
}

/* ----------------------------------------------------------------------------------------------- train -- */

#define FOLDS 5

struct training {
    struct router_work *w;
    const float *features; /* (n, dim) */
    float *labels;         /* (n)      */
    uint8_t *split, *fold; /* (n)      */
    double *d;             /* (n) of routers that did not learn from the question; NaN of test questions */
    size_t n, dim;
    struct kvant_router_options options;
    struct progress progress;
};

static int train_one(struct training *t, const uint8_t *split, struct kvant_router **router,
                     struct kvant_router_training *report)
{
    struct kvant_error err;
    return kvant_router_train(router, t->w->model, t->features, t->labels, split, t->n, &t->options, report,
                              &err) == KVANT_OK
               ? EXIT_OK
               : fail(&err);
}

/* d of each question that is no test question, by a router that has not seen it: questions in fives by
 * another hash. */
static int cross_validate(struct training *t)
{
    uint8_t *split = allocate(t->n, 1);
    int code = EXIT_OK;
    for (int f = 0; f < FOLDS && code == EXIT_OK; f++) {
        struct kvant_router *router = NULL;
        struct kvant_router_training report;
        for (size_t i = 0; i < t->n; i++)
            split[i] = t->split[i] == KVANT_ROUTER_TEST || t->fold[i] == f ? KVANT_ROUTER_TEST
                       : t->fold[i] == (f + 1) % FOLDS                     ? KVANT_ROUTER_VALIDATION
                                                                           : KVANT_ROUTER_TRAIN;
        code = train_one(t, split, &router, &report);
        for (size_t i = 0; i < t->n && code == EXIT_OK; i++)
            if (t->fold[i] == f) t->d[i] = kvant_router_score(router, t->features + i * t->dim);
        kvant_router_close(router);
    }
    free(split);
    return code;
}

struct place {
    double d;
    size_t i; /* question */
};

static int by_d(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->d != y->d ? (x->d < y->d ? -1 : 1) : (x->i > y->i) - (x->i < y->i);
}

struct division { /* of the questions that took part */
    double threshold, slow_share, accuracy, accuracy_slow, tokens, tokens_slow; /* shares of 1, means */
    size_t n;
};

/* Where d divides: as many questions to fast as lose no more than --max-loss points against always slow.
 * Without the questions of one fold (-1: all that have a d). */
static struct division find_threshold(const struct training *t, int without)
{
    struct place *order = allocate(t->n, sizeof *order);
    struct division v = {0};
    size_t n = 0, n_fast = 0;
    for (size_t i = 0; i < t->n; i++)
        if (t->split[i] != KVANT_ROUTER_TEST && t->fold[i] != without)
            order[n++] = (struct place){t->d[i], i};
    qsort(order, n, sizeof *order, by_d);
    double lost = 0, may_lose = t->w->flags->max_loss / 100 * (double)n;
    for (size_t i = 0; i < n; i++) {
        const struct collected_answer *a = t->w->data.items[order[i].i].answers;
        lost += (double)a[MODE_SLOW].is_correct - (double)a[MODE_FAST].is_correct;
        if (lost <= may_lose) n_fast = i + 1;
    }
    for (size_t i = 0; i < n; i++) {
        const struct collected_answer *a = t->w->data.items[order[i].i].answers;
        int mode = i < n_fast ? MODE_FAST : MODE_SLOW;
        v.tokens_slow += (double)a[MODE_SLOW].n_tokens / (double)n;
        v.tokens += (double)a[mode].n_tokens / (double)n;
        v.accuracy_slow += (double)a[MODE_SLOW].is_correct / (double)n;
        v.accuracy += (double)a[mode].is_correct / (double)n;
    }
    v.n = n;
    v.slow_share = n ? (double)(n - n_fast) / (double)n : 1;
    v.threshold = n == 0        ? 50
                  : n_fast == 0 ? order[0].d - 1
                  : n_fast == n ? order[n - 1].d + 1
                                : 0.5 * (order[n_fast - 1].d + order[n_fast].d);
    free(order);
    return v;
}

/* all: no question is kept for a test, each is in a fold. */
static void prepare(struct training *t, bool all)
{
    const struct router_flags *f = t->w->flags;
    t->labels = allocate(t->n, sizeof *t->labels);
    t->split = allocate(t->n, 1);
    t->fold = allocate(t->n, 1);
    t->d = allocate(t->n, sizeof *t->d);
    for (size_t i = 0, n = 0; i < t->n; i++) {
        t->labels[i] = t->w->data.items[i].label;
        t->split[i] = (uint8_t)(all ? KVANT_ROUTER_TRAIN : collected_split(t->w->data.items[i].question));
        t->fold[i] = t->split[i] == KVANT_ROUTER_TEST ? FOLDS : (uint8_t)(n++ % FOLDS);
        t->d[i] = NAN;
    }
    t->options.window = (int)f->window;
    t->options.n_hidden = (int)f->n_hidden;
    t->options.n_epochs = (int)f->n_epochs;
    t->options.seed = (uint64_t)f->seed;
    t->options.modes = t->w->modes.name;
    t->options.progress = progress_update;
    t->options.user = &t->progress;
}

static void training_close(struct training *t)
{
    free(t->labels);
    free(t->split);
    free(t->fold);
    free(t->d);
}

static int report(const struct training *t, const struct kvant_router_training *r)
{
    print_splits(&t->w->data, t->split);
    printf(
        "best of %d epochs: %d; mean squared error: train %.1f, validation %.1f (of the mean label: %.1f)\n",
        r->n_epochs, r->best_epoch, r->train_error, r->validation_error, r->validation_error_of_mean);
    if (!(r->validation_error < r->validation_error_of_mean))
        fprintf(stderr, "kvant: this router is no better than the mean label: collect more questions\n");
    return finish_output();
}

static int train(struct router_work *w, const struct kvant_embed_options *pooling, const float *features,
                 size_t dim)
{
    struct kvant_error err;
    struct kvant_router *router = NULL;
    struct kvant_router_training result;
    struct training t = {.w = w, .features = features, .n = w->data.n, .dim = dim};
    t.options = (struct kvant_router_options)KVANT_ROUTER_OPTIONS_INIT;
    t.options.pooling = *pooling;
    prepare(&t, false);
    interrupt_catch();
    progress_begin(&t.progress);
    int code = train_one(&t, t.split, &router, &result);
    if (code == EXIT_OK) code = cross_validate(&t);
    progress_end(&t.progress);
    if (code == EXIT_OK) code = report(&t, &result);
    if (code == EXIT_OK) {
        struct division v = find_threshold(&t, -1);
        printf("%zu questions that their router had not seen (%d-fold): %.0f %% slow; accuracy %.1f %% of "
               "always slow's %.1f %%, "
               "tokens %.1f of %.1f\n",
               v.n, FOLDS, 100 * v.slow_share, 100 * v.accuracy, 100 * v.accuracy_slow, v.tokens,
               v.tokens_slow);
        kvant_router_add(router, w->flags->think.threshold - v.threshold);
    }
    if (code == EXIT_OK && kvant_router_save(router, w->flags->out_path, &err) != KVANT_OK) code = fail(&err);
    if (code == EXIT_OK) printf("%s written\n", w->flags->out_path);
    kvant_router_close(router);
    training_close(&t);
    return code == EXIT_OK ? finish_output() : code;
}

static void pooling_of(const struct router_flags *f, const struct kvant_embed_options *pooling,
                       struct kvant_embed_options *out)
{
    *out = *pooling;
    out->token_first = -f->window;
    out->not_normalized = true;
}

int router_cross(struct router_work *w, const struct kvant_embed_options *pooling, double *d)
{
    struct training t = {.w = w, .n = w->data.n};
    float *features = NULL;
    t.options = (struct kvant_router_options)KVANT_ROUTER_OPTIONS_INIT;
    pooling_of(w->flags, pooling, &t.options.pooling);
    int code = router_features(w, &t.options.pooling, NULL, t.n, &features, &t.dim);
    if (code == EXIT_OK) {
        t.features = features;
        prepare(&t, true);
        progress_begin(&t.progress);
        code = cross_validate(&t);
        progress_end(&t.progress);
    }
    double thresholds[FOLDS];
    for (int f = 0; f < FOLDS && code == EXIT_OK; f++) thresholds[f] = find_threshold(&t, f).threshold;
    for (size_t i = 0; i < t.n && code == EXIT_OK; i++)
        d[i] = t.d[i] - thresholds[t.fold[i]] + w->flags->think.threshold;
    free(features);
    training_close(&t);
    return code;
}

enum labels router_labels(const struct router_flags *f)
{
    return f->labels && strcmp(f->labels, "net") == 0 ? LABELS_NET : LABELS_PAPER;
}

int router_train(struct router_work *w, const struct kvant_embed_options *pooling)
{
    const struct router_flags *f = w->flags;
    struct kvant_embed_options opt;
    float *features = NULL;
    size_t dim;
    if (!output_check(f->out_path)) return EXIT_FAILED;
    int code = collected_read(&w->data, f->data_path, false);
    if (code != EXIT_OK) return code;
    if (strcmp(w->data.modes, w->modes.name) != 0)
        return fail_text("%s holds answers with the modes %s; give --modes %s", f->data_path, w->data.modes,
                         w->data.modes);
    size_t dropped = collected_label(&w->data, f->limit, router_labels(f));
    if (dropped) fprintf(stderr, "%zu questions have an answer in one mode only and are left out\n", dropped);
    if (w->data.n == 0) return fail_text("%s: no question has an answer in both modes", f->data_path);
    pooling_of(f, pooling, &opt);
    code = router_features(w, &opt, NULL, w->data.n, &features, &dim);
    if (code == EXIT_OK) code = train(w, &opt, features, dim);
    if (code == EXIT_OK) router_note_window(w);
    free(features);
    return code;
}

/* ---------------------------------------------------------------------------------------------- decide -- */

static int decide(struct router_work *w, const struct kvant_router *router)
{
    const struct router_flags *f = w->flags;
    struct kvant_router_info info;
    struct kvant_embed_options opt;
    float *x = NULL;
    size_t dim;
    kvant_router_get_info(router, &info);
    kvant_router_get_embed_options(router, &opt);
    collected_find(&w->data, f->text, "");
    int code = router_features(w, &opt, NULL, 1, &x, &dim);
    double d = code == EXIT_OK ? kvant_router_score(router, x) : 0;
    free(x);
    if (code != EXIT_OK) return code;
    router_note_window(w);
    const char *mode = mode_names[d > f->think.threshold ? MODE_SLOW : MODE_FAST];
    if (f->model.json)
        return json_finish(json_pack("{s:o, s:s, s:s, s:i}", "difficulty", json_number(d), "mode", mode,
                                     "modes", info.modes, "window", info.window));
    printf("difficulty %.1f of 100: %s\n", d, mode);
    return finish_output();
}

int router_decide(struct router_work *w)
{
    struct kvant_error err;
    struct kvant_router *router;
    if (!*w->flags->text)
        return fail_text("the prompt is empty: there is nothing to decide on; give -p TEXT");
    if (kvant_router_open(&router, w->model, w->flags->router_path, &err) != KVANT_OK) return fail(&err);
    int code = decide(w, router);
    kvant_router_close(router);
    return code;
}
