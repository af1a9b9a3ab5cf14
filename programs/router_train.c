/* kvant router train and decide. */
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
                           const struct kvant_prompt *prompts, float *rows, size_t n_rows, int *window_short)
{
    struct kvant_error err;
    struct kvant_session *session;
    struct kvant_session_options options = KVANT_SESSION_OPTIONS_INIT;
    struct kvant_embed_options opt = *pooling;
    struct progress progress;
    size_t n_out;
    *window_short = 0;
    for (size_t i = 0; i < w->data.n; i++) *window_short += (int64_t)prompts[i].n_tokens < -opt.token_first;
    options.n_logits = 1;
    if (kvant_session_open(&session, w->model, &options, &err) != KVANT_OK) return fail(&err);
    opt.progress = progress_update;
    opt.user = &progress;
    interrupt_catch();
    progress_begin(&progress);
    kvant_status status = kvant_embed_prompts(session, w->plan, prompts, w->data.n, &opt, rows, n_rows,
                                              &n_out, &err);
    progress_end(&progress);
    kvant_session_close(session);
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

void router_note_window(const struct router_work *w)
{
    if (w->n_short)
        fprintf(stderr, "%d of %zu prompts are shorter than the window: all of each is used\n", w->n_short,
                w->data.n);
}

int router_features(struct router_work *w, const struct kvant_embed_options *pooling, float **features,
                    size_t *dim)
{
    struct kvant_error err;
    if (kvant_embed_dim(w->model, pooling, dim, &err) != KVANT_OK) return fail(&err);
    struct kvant_prompt *prompts = allocate(w->data.n, sizeof *prompts);
    *features = allocate(w->data.n * *dim, sizeof **features);
    int code = EXIT_OK, n_short = 0;
    size_t n = 0;
    for (; n < w->data.n && code == EXIT_OK; n++) {
        kvant_token *ids = NULL;
        const char *question = w->data.items[n].question;
        code = prompt_tokens(w->model, NULL, NULL, question, strlen(question), false, &ids, &prompts[n].n_tokens);
        prompts[n].tokens = ids;
    }
    if (code == EXIT_OK) code = embed_questions(w, pooling, prompts, *features, w->data.n * *dim, &n_short);
    w->n_short = n_short;
    for (size_t i = 0; i < n; i++) free((void *)(uintptr_t)prompts[i].tokens);
    free(prompts);
    return code;
}

static void print_splits(const struct collected *c, const uint8_t *split)
{
    static const char *const names[] = {"train", "validation", "test"};
    static const float labels[] = {0, 25, 75, 100};
    for (int s = 0; s < 3; s++) {
        printf("%-10s", names[s]);
        for (int l = 0; l < 4; l++) {
            size_t n = 0;
            for (size_t i = 0; i < c->n; i++) n += split[i] == s && c->items[i].label == labels[l];
            printf("  label %3.0f: %4zu", (double)labels[l], n);
        }
        putchar('\n');
    }
}

static int train(struct router_work *w, const struct kvant_embed_options *pooling, const float *features)
{
    const struct router_flags *f = w->flags;
    struct kvant_error err;
    struct kvant_router *router = NULL;
    struct kvant_router_training report;
    struct kvant_router_options options = KVANT_ROUTER_OPTIONS_INIT;
    struct progress progress;
    float *labels = allocate(w->data.n, sizeof *labels);
    uint8_t *split = allocate(w->data.n, 1);
    for (size_t i = 0; i < w->data.n; i++) {
        labels[i] = w->data.items[i].label;
        split[i] = (uint8_t)collected_split(w->data.items[i].question);
    }
    options.pooling = *pooling;
    options.window = (int)f->window;
    options.n_hidden = (int)f->n_hidden;
    options.n_epochs = (int)f->n_epochs;
    options.seed = (uint64_t)f->seed;
    options.modes = w->modes.name;
    options.progress = progress_update;
    options.user = &progress;
    progress_begin(&progress);
    kvant_status status = kvant_router_train(&router, w->model, features, labels, split, w->data.n, &options,
                                             &report, &err);
    progress_end(&progress);
    if (status == KVANT_OK) status = kvant_router_save(router, f->out_path, &err);
    int code = status == KVANT_OK ? EXIT_OK : fail(&err);
    if (code == EXIT_OK) {
        print_splits(&w->data, split);
        printf("best of %d epochs: %d; mean squared error: train %.1f, validation %.1f "
               "(of the mean label: %.1f)\n%s written\n",
               report.n_epochs, report.best_epoch, report.train_error, report.validation_error,
               report.validation_error_of_mean, f->out_path);
        if (!(report.validation_error < report.validation_error_of_mean))
            fprintf(stderr, "kvant: this router is no better than the mean label: collect more questions\n");
        code = finish_output();
    }
    kvant_router_close(router);
    free(labels);
    free(split);
    return code;
}

int router_train(struct router_work *w, const struct kvant_embed_options *pooling)
{
    const struct router_flags *f = w->flags;
    struct kvant_embed_options opt = *pooling;
    float *features = NULL;
    size_t dim;
    if (!output_check(f->out_path)) return EXIT_FAILED;
    int code = collected_read(&w->data, f->data_path, false);
    if (code != EXIT_OK) return code;
    if (strcmp(w->data.modes, w->modes.name) != 0)
        return fail_text("%s holds answers with the modes %s; give --modes %s", f->data_path, w->data.modes,
                         w->data.modes);
    size_t dropped = collected_label(&w->data, f->limit);
    if (dropped) fprintf(stderr, "%zu questions have an answer in one mode only and are left out\n", dropped);
    if (w->data.n == 0) return fail_text("%s: no question has an answer in both modes", f->data_path);
    opt.token_first = -f->window;
    opt.not_normalized = true;
    code = router_features(w, &opt, &features, &dim);
    if (code == EXIT_OK) code = train(w, &opt, features);
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
    int code = router_features(w, &opt, &x, &dim);
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
