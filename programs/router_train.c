/* kvant router train and decide. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "progress.h"
#include "prompt.h"
#include "router_cross.h"

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
        fprintf(stderr, "%d prompt%s shorter than the window: all of %s is used\n", w->n_short,
                w->n_short == 1 ? " is" : "s are", w->n_short == 1 ? "it" : "each");
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

/* What always slow and the threshold do, over the questions that have a d. */
static void print_division(const struct training *t, kvant_router_method method, double threshold)
{
    double n = 0, n_slow = 0, right = 0, right_slow = 0, tokens = 0, tokens_slow = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (t->fold[i] >= FOLDS) continue;
        const struct collected_answer *a = t->w->data.items[i].answers;
        int mode = t->d[method][i] > threshold ? MODE_SLOW : MODE_FAST;
        n++;
        n_slow += mode == MODE_SLOW;
        right += a[mode].is_correct;
        right_slow += a[MODE_SLOW].is_correct;
        tokens += (double)a[mode].n_tokens;
        tokens_slow += (double)a[MODE_SLOW].n_tokens;
    }
    printf("%.0f questions that their router had not seen (%d-fold): %.0f %% slow; accuracy %.1f %% of "
           "always slow's %.1f %%, tokens %.1f of %.1f\n",
           n, FOLDS, 100 * n_slow / n, 100 * right / n, 100 * right_slow / n, tokens / n, tokens_slow / n);
}

static const char *const method_names[METHODS] = {"network", "ridge"};

static void print_report(const struct training *t, kvant_router_method method,
                         const struct kvant_router_training *r)
{
    print_splits(&t->w->data, t->split);
    if (t->has[KVANT_ROUTER_NETWORK] && t->has[KVANT_ROUTER_RIDGE])
        printf("mean squared error on questions that were not seen: network %.1f, ridge %.1f: the %s is "
               "kept\n",
               training_error(t, KVANT_ROUTER_NETWORK, -1), training_error(t, KVANT_ROUTER_RIDGE, -1),
               method_names[method]);
    if (method == KVANT_ROUTER_NETWORK)
        printf("best of %d epochs: %d; mean squared error: train %.1f, validation %.1f (of the mean label: "
               "%.1f)\n",
               r->n_epochs, r->best_epoch, r->train_error, r->validation_error, r->validation_error_of_mean);
    else
        printf("penalty %g; mean squared error: train %.1f, left out one by one %.1f (of the mean label: "
               "%.1f)\n",
               r->penalty, r->train_error, r->validation_error, r->validation_error_of_mean);
    if (!(r->validation_error < r->validation_error_of_mean))
        fprintf(stderr, "kvant: this router is no better than the mean label: collect more questions\n");
}

static int train(struct router_work *w, const struct kvant_embed_options *pooling, const float *features,
                 size_t dim)
{
    struct kvant_error err;
    struct kvant_router *router = NULL;
    struct kvant_router_training report;
    struct training t;
    training_open(&t, w, pooling, features, dim, false);
    interrupt_catch();
    progress_begin(&t.progress);
    int code = training_cross(&t);
    kvant_router_method method = code == EXIT_OK ? training_best(&t, -1) : KVANT_ROUTER_RIDGE;
    if (code == EXIT_OK) code = training_one(&t, method, t.split, &router, &report);
    progress_end(&t.progress);
    if (code == EXIT_OK) {
        double threshold = training_threshold(&t, method, -1);
        print_report(&t, method, &report);
        print_division(&t, method, threshold);
        kvant_router_add(router, w->flags->think.threshold - threshold);
    }
    if (code == EXIT_OK && kvant_router_save(router, w->flags->out_path, &err) != KVANT_OK) code = fail(&err);
    if (code == EXIT_OK) printf("%s written\n", w->flags->out_path);
    kvant_router_close(router);
    training_close(&t);
    return code == EXIT_OK ? finish_output() : code;
}

void router_pooling(const struct router_flags *f, const struct kvant_embed_options *pooling,
                    struct kvant_embed_options *out)
{
    *out = *pooling;
    out->token_first = -f->window;
    out->not_normalized = true;
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
    router_pooling(f, pooling, &opt);
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
    if (!isfinite(d)) return fail_text("%s: its decision is not a finite number", f->router_path);
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
