/* kvant score: how well confidence tells right answers from wrong ones, on a file of them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "embed_flags.h"
#include "json.h"
#include "progress.h"
#include "prompt.h"
#include "score_rows.h"
#include "scores.h"
#include "setup.h"

#define LENGTH_BINS 4
#define DRAWS_DEFAULT 1000
#define LOGITS_AT_A_TIME 32
#define ROC_POINTS 200

struct score_flags {
    struct model_flags model;
    struct plan_flags plan;
    struct embed_flags embed;
    const char *path, *rows_path;
    int64_t n_ctx, n_most, n_draws, seed;
};

struct work {
    const struct score_flags *flags;
    struct kvant_embed_options options;
    struct kvant_model *model;
    struct kvant_plan *plan;
    struct kvant_session *session;
    char kv[256];
    struct score_rows rows;
    double (*scores)[SCORES]; /* (rows.n)              */
    int *bins;                /* (rows.n) of length    */
    bool *right;              /* (rows.n)              */
    struct kvant_ranking ranking[SCORES], within[SCORES];
};

/* Prompt and answer as tokens. An answer that does not fit loses its end, which is said. */
static int row_tokens(const struct work *w, size_t i, kvant_token **ids, size_t *n_ids, size_t *n_prompt)
{
    struct kvant_error err;
    const struct score_row *row = &w->rows.items[i];
    kvant_token *answer = NULL;
    size_t n_answer = 0;
    int64_t n_ctx = setup_context(w->model, w->flags->n_ctx);
    int code = prompt_tokens(w->model, NULL, NULL, row->prompt, strlen(row->prompt), row->is_raw, ids,
                             n_prompt);
    if (code != EXIT_OK) return code;
    if (tokens_of_text(w->model, row->answer, strlen(row->answer), 0, &answer, &n_answer, &err) != KVANT_OK)
        return fail(&err);
    if ((int64_t)*n_prompt >= n_ctx) {
        free(answer);
        return fail_text("%s: line %zu: the prompt has %zu tokens and the context %lld; raise it with -c",
                         w->rows.path, row->line, *n_prompt, (long long)n_ctx);
    }
    if ((int64_t)(*n_prompt + n_answer) > n_ctx) {
        fprintf(
            stderr,
            "kvant: %s: line %zu: prompt and answer have %zu tokens and the context %lld: the answer's first "
            "%lld are used (-c for more)\n",
            w->rows.path, row->line, *n_prompt + n_answer, (long long)n_ctx,
            (long long)(n_ctx - (int64_t)*n_prompt));
        n_answer = (size_t)(n_ctx - (int64_t)*n_prompt);
    }
    *n_ids = *n_prompt + n_answer;
    *ids = reallocate(*ids, *n_ids, sizeof **ids);
    memcpy(*ids + *n_prompt, answer, n_answer * sizeof **ids);
    free(answer);
    return EXIT_OK;
}

static int score_row(struct work *w, size_t i)
{
    struct kvant_error err;
    struct kvant_answer_score score;
    kvant_token *ids = NULL;
    size_t n_ids = 0, n_prompt = 0;
    int code = row_tokens(w, i, &ids, &n_ids, &n_prompt);
    if (code == EXIT_OK &&
        kvant_score_answer(w->session, w->plan, ids, n_ids, n_prompt, &w->options, &score, &err) != KVANT_OK)
        code = fail_text("%s: line %zu: %s", w->rows.path, w->rows.items[i].line, err.message);
    free(ids);
    if (code == EXIT_OK) scores_of(&score, w->scores[i]);
    return code;
}

static int score_all(struct work *w)
{
    struct progress progress;
    int code = EXIT_OK;
    w->scores = allocate(w->rows.n, sizeof *w->scores);
    interrupt_catch();
    progress_begin(&progress);
    for (size_t i = 0; i < w->rows.n && code == EXIT_OK; i++) {
        code = score_row(w, i);
        if (code == EXIT_OK && !progress_update(&progress, "answers", (int64_t)i + 1, (int64_t)w->rows.n))
            code = fail_text("stopped after %zu of %zu answers", i + 1, w->rows.n);
    }
    progress_end(&progress);
    return code;
}

static int by_number(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Quarters of the answers by length; equal lengths share a bin. */
static void set_bins(struct work *w)
{
    double *lengths = allocate(w->rows.n, sizeof *lengths), edges[LENGTH_BINS];
    w->bins = allocate(w->rows.n, sizeof *w->bins);
    w->right = allocate(w->rows.n, sizeof *w->right);
    for (size_t i = 0; i < w->rows.n; i++) lengths[i] = -w->scores[i][SCORE_LENGTH];
    qsort(lengths, w->rows.n, sizeof *lengths, by_number);
    for (int b = 0; b < LENGTH_BINS; b++) edges[b] = lengths[(size_t)b * w->rows.n / LENGTH_BINS];
    for (size_t i = 0; i < w->rows.n; i++) {
        w->bins[i] = 0;
        for (int b = 1; b < LENGTH_BINS; b++) w->bins[i] += -w->scores[i][SCORE_LENGTH] >= edges[b];
        w->right[i] = w->rows.items[i].is_correct;
    }
    free(lengths);
}

static int rank_all(struct work *w)
{
    struct kvant_error err;
    double *column = allocate(w->rows.n, sizeof *column);
    kvant_status status = KVANT_OK;
    for (int s = 0; s < SCORES && status == KVANT_OK; s++) {
        for (size_t i = 0; i < w->rows.n; i++) column[i] = w->scores[i][s];
        status = kvant_ranking_set(&w->ranking[s], column, w->right, NULL, w->rows.n, (int)w->flags->n_draws,
                                   (uint64_t)w->flags->seed, &err);
        if (status == KVANT_OK)
            status = kvant_ranking_set(&w->within[s], column, w->right, w->bins, w->rows.n,
                                       (int)w->flags->n_draws, (uint64_t)w->flags->seed, &err);
    }
    free(column);
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

/* One kind of answers alone has no ranking: said, as all that follows is dashes. */
static void note_one_kind(const struct work *w)
{
    size_t n_right = 0;
    for (size_t i = 0; i < w->rows.n; i++) n_right += w->right[i];
    if (n_right == 0 || n_right == w->rows.n)
        fprintf(stderr, "kvant: %s: no answer is %s: there is nothing to tell apart\n", w->rows.path,
                n_right ? "wrong" : "right");
}

static int write_rows(const struct work *w)
{
    struct output_file out;
    if (!output_open(&out, w->flags->rows_path)) return EXIT_FAILED;
    for (size_t i = 0; i < w->rows.n; i++) {
        json_t *value = json_pack("{s:I, s:b, s:I, s:i, s:o}", "line", (json_int_t)w->rows.items[i].line,
                                  "correct", (int)w->right[i], "tokens",
                                  (json_int_t)-w->scores[i][SCORE_LENGTH], "length_bin", w->bins[i], "scores",
                                  scores_json(w->scores[i], SCORES));
        if (value) json_dumpf(value, out.stream, JSON_COMPACT | JSON_REAL_PRECISION(9));
        fputc('\n', out.stream);
        json_decref(value);
    }
    if (output_commit(&out)) return EXIT_OK;
    output_discard(&out);
    return EXIT_FAILED;
}

struct mark {
    double score;
    bool is_right;
};

static int descending(const void *a, const void *b)
{
    double x = ((const struct mark *)a)->score, y = ((const struct mark *)b)->score;
    return x > y ? -1 : x < y;
}

/* [share of wrong answers that pass, share of right ones] from (0, 0) to (1, 1), a threshold each (ties
 * are one), thinned to some 200. NULL where there is one kind of answers only. */
static json_t *roc_json(const struct work *w, int s)
{
    struct mark *marks = allocate(w->rows.n, sizeof *marks);
    size_t n = 0, n_right = 0, right = 0, last = 0;
    for (size_t i = 0; i < w->rows.n; i++) {
        if (isnan(w->scores[i][s])) continue;
        marks[n++] = (struct mark){w->scores[i][s], w->right[i]};
        n_right += w->right[i];
    }
    qsort(marks, n, sizeof *marks, descending);
    json_t *curve = n_right > 0 && n_right < n ? json_pack("[[i, i]]", 0, 0) : json_null();
    for (size_t i = 0; i < n && json_is_array(curve); i++) {
        right += marks[i].is_right;
        if (i + 1 < n && (marks[i].score == marks[i + 1].score || i + 1 - last < n / ROC_POINTS)) continue;
        last = i + 1;
        json_array_append_new(curve, json_pack("[f, f]", (double)(i + 1 - right) / (double)(n - n_right),
                                               (double)right / (double)n_right));
    }
    free(marks);
    return curve;
}

static json_t *ranking_json(const struct work *w, int s)
{
    const struct kvant_ranking *r = &w->ranking[s], *b = &w->within[s];
    return json_pack("{s:s, s:o, s:[o, o], s:o, s:[o, o], s:o, s:[o, o], s:o, s:[o, o], s:I, s:o}", "score",
                     score_names[s], "auroc", json_number(r->auroc), "auroc_95", json_number(r->auroc_low),
                     json_number(r->auroc_high), "fpr95", json_number(r->fpr95), "fpr95_95",
                     json_number(r->fpr95_low), json_number(r->fpr95_high), "aupr", json_number(r->aupr),
                     "aupr_95", json_number(r->aupr_low), json_number(r->aupr_high), "auroc_in_length_bins",
                     json_number(b->auroc), "auroc_in_length_bins_95", json_number(b->auroc_low),
                     json_number(b->auroc_high), "undefined", (json_int_t)r->n_undefined, "roc",
                     roc_json(w, s));
}

static int print_json(const struct work *w)
{
    struct kvant_model_info info;
    kvant_model_get_info(w->model, &info);
    json_t *list = json_array();
    size_t n_right = 0;
    for (size_t i = 0; i < w->rows.n; i++) n_right += w->right[i];
    for (int s = 0; s < SCORES; s++) json_array_append_new(list, ranking_json(w, s));
    return json_finish(json_pack("{s:s, s:s, s:I, s:I, s:I, s:i, s:o, s:o}", "file", w->rows.path, "kv",
                                 w->kv, "answers", (json_int_t)w->rows.n, "correct", (json_int_t)n_right,
                                 "draws", (json_int_t)w->flags->n_draws, "length_bins", LENGTH_BINS,
                                 "pooling", embed_options_json(&w->options, &info, w->kv), "scores", list));
}

static void print_number(double x, int width)
{
    if (isnan(x)) printf("%*s", width, "-");
    else printf("%*.3f", width, x);
}

static int print_table(const struct work *w)
{
    size_t n_right = 0;
    for (size_t i = 0; i < w->rows.n; i++) n_right += w->right[i];
    printf("%s: %zu answers, %zu right; cache %s\n\n", w->rows.path, w->rows.n, n_right, w->kv);
    printf("%-24s %7s %15s %7s %7s %12s %15s\n", "score", "AUROC", "95 %", "FPR95", "AUPR", "same length",
           "95 %");
    for (int s = 0; s < SCORES; s++) {
        const struct kvant_ranking *r = &w->ranking[s], *b = &w->within[s];
        printf("%-24s", score_names[s]);
        print_number(r->auroc, 8);
        print_number(r->auroc_low, 9);
        print_number(r->auroc_high, 7);
        print_number(r->fpr95, 8);
        print_number(r->aupr, 8);
        print_number(b->auroc, 13);
        print_number(b->auroc_low, 9);
        print_number(b->auroc_high, 7);
        if (r->n_undefined) printf("  %lld undefined", (long long)r->n_undefined);
        putchar('\n');
    }
    printf("\nsame length: AUROC over pairs of answers from one of %d bins of length; intervals: %lld "
           "bootstrap draws\n",
           LENGTH_BINS, (long long)w->flags->n_draws);
    return finish_output();
}

static int open_all(struct work *w)
{
    struct kvant_error err;
    struct kvant_session_options options = KVANT_SESSION_OPTIONS_INIT;
    const struct score_flags *f = w->flags;
    options.n_sequences = 1;
    options.n_logits = LOGITS_AT_A_TIME;
    int code = score_rows_read(&w->rows, f->path, f->n_most);
    if (code == EXIT_OK && f->rows_path && !output_check(f->rows_path)) code = EXIT_FAILED;
    if (code == EXIT_OK) code = setup_model(&w->model, &f->model, false);
    if (code == EXIT_OK) code = setup_plan(&w->plan, w->model, &f->plan, w->kv);
    if (code == EXIT_OK && kvant_session_open(&w->session, w->model, &options, &err) != KVANT_OK)
        code = fail(&err);
    return code;
}

static int execute(const struct score_flags *flags, const struct kvant_embed_options *options)
{
    struct work w = {.flags = flags, .options = *options};
    int code = open_all(&w);
    if (code == EXIT_OK) code = score_all(&w);
    if (code == EXIT_OK) set_bins(&w);
    if (code == EXIT_OK) note_one_kind(&w);
    if (code == EXIT_OK) code = rank_all(&w);
    if (code == EXIT_OK && flags->rows_path) code = write_rows(&w);
    if (code == EXIT_OK) code = flags->model.json ? print_json(&w) : print_table(&w);
    kvant_session_close(w.session);
    kvant_plan_close(w.plan);
    kvant_model_close(w.model);
    score_rows_free(&w.rows);
    free(w.scores);
    free(w.bins);
    free(w.right);
    return code;
}

static int run(int argc, char **argv)
{
    struct score_flags f = {.n_draws = DRAWS_DEFAULT, .seed = 1};
    const struct option options[] = {
        MODEL_OPTIONS(&f.model),
        {"-f, --file", OPTION_NAME, "FILE.jsonl", &f.path,
         "an answer a line: {\"prompt\", \"answer\", \"correct\"}; - is\nstandard input", 0, 0},
        {"--limit", OPTION_INT, "N", &f.n_most, "most answers; 0 = all (default)", 0, 1e9},
        {"-c, --ctx-size", OPTION_INT, "N", &f.n_ctx,
         "context; 0 = the smaller of 8192 and the model's (default)", 0, 1e9},
        {"--rows", OPTION_NAME, "FILE.jsonl", &f.rows_path, "keep every score of every answer", 0, 0},
        {"--draws", OPTION_INT, "N", &f.n_draws, "bootstrap draws for the intervals; default 1000", 0, 1e6},
        {"-s, --seed", OPTION_INT, "N", &f.seed, "of the draws; default 1", 0, 9e15},
        POOL_OPTIONS(&f.embed),
        PLAN_OPTIONS(&f.plan),
    };
    struct command_line line = {
        .command = "score",
        .arguments = "MODEL",
        .about = "Reads answers that are known to be right or wrong, and measures how well each score tells "
                 "them apart:\n"
                 "Chain-of-Embedding over tokens and over layers, from the cache (kv-coe) and from hidden "
                 "states, and the\n"
                 "probabilities of the tokens. AUROC, FPR95 (lower is better) and AUPR, with intervals.",
        .examples = "  kvant score model.gguf --file answers.jsonl\n"
                    "  kvant score model.gguf --file answers.jsonl --kv k3c64v3h --rows scores.jsonl --json",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    struct kvant_embed_options embed_options;
    int code;
    if (!embed_command_begin(&line, argc, argv, &f.model, &f.embed, &embed_options, &code)) return code;
    if (!f.path) return fail_usage("score", "give the answers: --file FILE.jsonl");
    return execute(&f, &embed_options);
}

const struct command command_score = {"score", "how well confidence tells right answers from wrong", run};
