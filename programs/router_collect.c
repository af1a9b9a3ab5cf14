/* kvant router collect: each question in both modes, many at once; what is written stays when it is
 * stopped. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "progress.h"
#include "prompt.h"
#include "questions.h"
#include "router_parts.h"

#define BATCH_PER_SEQUENCE 4 /* questions: so that places of answers that end early are filled again */

struct collecting {
    struct router_work *w;
    const struct question *const *asked; /* (n) of the batch */
    struct kvant_question *prompts;      /* (n)              */
    size_t n, n_bos; /* tokens that the model wants before any text */
    int mode;
    FILE *out;
    bool failed;
    struct progress progress;
};

static bool watch(void *user, const char *what, int64_t done, int64_t total)
{
    struct collecting *c = user;
    return progress_update(&c->progress, what, done, total);
}

static void keep_answer(void *user, int plan, size_t i, const struct kvant_answer *answer)
{
    (void)plan;
    struct collecting *c = user;
    const struct question *q = c->asked[i];
    struct kvant_error err;
    size_t n = 0;
    char found[KVANT_ANSWER_CAP];
    bool is_right = modes_answer_check(&c->w->modes, c->mode, answer->text, answer->n_bytes, q->final, found);
    const kvant_token *ids = c->prompts[i].tokens + c->n_bos; /* tokenizing the text again puts it back */
    size_t n_ids = c->prompts[i].n_tokens - c->n_bos;
    kvant_detokenize(c->w->model, ids, n_ids, true, NULL, 0, &n, &err);
    char *prompt = allocate(n + 1, 1);
    if (kvant_detokenize(c->w->model, ids, n_ids, true, prompt, n, &n, &err) != KVANT_OK)
        n = 0;
    json_t *row = json_pack("{s:s, s:s, s:s, s:s, s:o, s:b, s:o, s:s, s:b, s:I, s:b, s:s}", "question",
                            q->question, "right", q->final, "mode", mode_names[c->mode], "modes",
                            c->w->modes.name, "prompt", json_text(prompt, n), "raw", 1, "answer",
                            json_text(answer->text, answer->n_bytes), "found", found, "correct",
                            (int)is_right, "tokens", (json_int_t)answer->n_tokens, "truncated",
                            (int)(answer->n_tokens >= c->w->flags->think.most[c->mode]), "kv", c->w->kv);
    free(prompt);
    c->failed |= !row || json_dumpf(row, c->out, JSON_COMPACT) != 0 || fputc('\n', c->out) == EOF;
    json_decref(row);
}

/* The questions of one batch that have no answer in this mode yet, asked. */
static int run_mode(struct collecting *c)
{
    struct kvant_error err;
    struct kvant_accuracy_result result;
    struct kvant_accuracy_options options = KVANT_ACCURACY_OPTIONS_INIT;
    options.n_predict = (int)c->w->flags->think.most[c->mode];
    options.n_sequences = (int)c->w->flags->n_sequences;
    options.kind = KVANT_ANSWER_AUTO;
    options.no_base = true;
    options.progress = watch;
    options.user = c;
    options.on_answer = keep_answer;
    const struct kvant_plan *plans[1] = {c->w->plan};
    kvant_status status = kvant_accuracy_run(c->w->model, plans, 1, c->prompts, c->n, &options, &result, NULL,
                                             &err);
    if (status != KVANT_OK) return fail(&err);
    if (c->failed || fflush(c->out) != 0) return fail_text("%s: %s", c->w->flags->out_path, strerror(errno));
    return EXIT_OK;
}

static int make_prompt(struct collecting *c, const struct question *q)
{
    const struct mode_tokens *begin = &c->w->modes.begin[c->mode];
    kvant_token *ids = NULL;
    size_t n = 0;
    int code = prompt_tokens(c->w->model, NULL, NULL, q->question, strlen(q->question), false, &ids, &n);
    if (code != EXIT_OK) return code;
    ids = reallocate(ids, n + begin->n, sizeof *ids);
    memcpy(ids + n, begin->ids, begin->n * sizeof *ids);
    c->prompts[c->n++] = (struct kvant_question){ids, n + begin->n, q->final, NULL, 0};
    return EXIT_OK;
}

static int run_batch(struct collecting *c, const struct question_file *file, size_t begin, size_t end)
{
    const struct question **asked = allocate(end - begin, sizeof *asked);
    c->asked = asked;
    int code = EXIT_OK;
    for (c->mode = 0; c->mode < MODES && code == EXIT_OK; c->mode++) {
        c->n = 0;
        c->prompts = allocate(end - begin, sizeof *c->prompts);
        for (size_t i = begin; i < end && code == EXIT_OK; i++) {
            size_t known = c->w->data.n,
                   at = collected_find(&c->w->data, file->items[i].question, file->items[i].final);
            if (at < known && c->w->data.items[at].answers[c->mode].is_there) continue;
            asked[c->n] = &file->items[i];
            code = make_prompt(c, &file->items[i]);
        }
        if (code == EXIT_OK && c->n > 0) code = run_mode(c);
        for (size_t i = 0; i < c->n; i++) free((void *)(uintptr_t)c->prompts[i].tokens);
        free(c->prompts);
    }
    free(asked);
    return code;
}

/* Opened to go on behind its last whole line. */
static FILE *open_to_continue(const char *path)
{
    FILE *file = fopen(path, "r+");
    if (!file) return fopen(path, "w");
    long whole = 0;
    for (int c; (c = getc(file)) != EOF;)
        if (c == '\n') whole = ftell(file);
    if (fseek(file, whole, SEEK_SET) == 0 && ftruncate(fileno(file), whole) == 0) return file;
    fclose(file);
    return NULL;
}

int router_collect(struct router_work *w)
{
    struct question_file file = {0};
    struct collecting c = {.w = w};
    const struct router_flags *f = w->flags;
    int code = questions_read(&file, QUESTION_WORKED, f->data_path);
    if (code == EXIT_OK) code = collected_read(&w->data, f->out_path, true);
    if (code == EXIT_OK && *w->data.modes && strcmp(w->data.modes, w->modes.name) != 0)
        code = fail_text("%s holds answers with the modes %s; name another file", f->out_path, w->data.modes);
    if (code == EXIT_OK && !(c.out = open_to_continue(f->out_path)))
        code = fail_text("%s: %s", f->out_path, strerror(errno));
    kvant_token *bos = NULL;
    struct kvant_error err;
    if (code == EXIT_OK &&
        tokens_of_text(w->model, "", 0, KVANT_TOKENIZE_BOS, &bos, &c.n_bos, &err) != KVANT_OK)
        code = fail(&err);
    free(bos);
    size_t n = f->n_most > 0 && (size_t)f->n_most < file.n ? (size_t)f->n_most : file.n,
           step = BATCH_PER_SEQUENCE * (size_t)f->n_sequences;
    interrupt_catch();
    progress_begin(&c.progress);
    for (size_t i = 0; i < n && code == EXIT_OK; i += step) {
        code = run_batch(&c, &file, i, i + step < n ? i + step : n);
        if (code == EXIT_OK && interrupted()) code = fail_text("stopped; the same command goes on from here");
    }
    progress_end(&c.progress);
    if (c.out && fclose(c.out) != 0 && code == EXIT_OK)
        code = fail_text("%s: %s", f->out_path, strerror(errno));
    questions_close(&file);
    if (code != EXIT_OK) return code;
    collected_close(&w->data);
    code = collected_read(&w->data, f->out_path, false);
    if (code != EXIT_OK) return code;
    size_t counts[4] = {0}, dropped = collected_label(&w->data, f->limit, LABELS_PAPER);
    for (size_t i = 0; i < w->data.n; i++)
        counts[w->data.items[i].label < 50   ? w->data.items[i].label > 0
               : w->data.items[i].label > 80 ? 3
                                             : 2]++;
    fprintf(stderr,
            "%s: %zu questions in both modes, %zu in one; labels 0: %zu, 25: %zu, 75: %zu, 100: %zu\n",
            f->out_path, w->data.n, dropped, counts[0], counts[1], counts[2], counts[3]);
    return EXIT_OK;
}
