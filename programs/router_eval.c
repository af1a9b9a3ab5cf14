/* kvant router eval: accuracy against tokens, every token counted, beside what is simpler. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "progress.h"
#include "prompt.h"
#include "router_parts.h"

struct outcome { /* of one way to answer, over the test questions */
    const char *name;
    double accuracy, low, high, tokens, slow_share, truncated, turned; /* shares of 1, mean tokens */
    double loss, loss_low, loss_high; /* of accuracy against always slow, over the same questions */
    double kept, discarded, forced, second, checks;                    /* means; online only       */
};

struct evaluation {
    struct router_work *w;
    struct kvant_router *router, *hidden;
    size_t *test; /* (n) places in the data */
    size_t n;
    double *d, *d_hidden, *length; /* (n) */
    double *part[3];               /* (n) without a router: router_cross */
    struct outcome rows[11];
    int n_rows, i_slow, i_oracle; /* rows; which are these */
};

static void wilson(double k, double n, double *low, double *high)
{
    double z = 1.959964, p = k / n, middle = (p + z * z / (2 * n)) / (1 + z * z / n);
    double half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n));
    *low = middle - half;
    *high = middle + half;
}

/* From the sums of what each question loses, and of its square; 95 % as if means were normal. */
static void set_loss(struct outcome *o, double sum, double square, double n)
{
    double mean = sum / n, variance = square / n - mean * mean;
    double half = n > 1 && variance > 0 ? 1.959964 * sqrt(variance / (n - 1)) : 0;
    o->loss = mean;
    o->loss_low = mean - half;
    o->loss_high = mean + half;
}

/* part[i]: how much of question i goes to slow, 0 to 1. */
static void add_outcome(struct evaluation *e, const char *name, const double *part)
{
    struct outcome o = {.name = name};
    double n = (double)e->n, right = 0, lost = 0, square = 0;
    for (size_t i = 0; i < e->n; i++) {
        const struct collected_answer *a = e->w->data.items[e->test[i]].answers;
        double gain = (double)a[MODE_SLOW].is_correct - (double)a[MODE_FAST].is_correct;
        double loss = (1 - part[i]) * gain;
        lost += loss;
        square += loss * loss;
        for (int m = 0; m < MODES; m++) {
            double share = m == MODE_SLOW ? part[i] : 1 - part[i];
            right += share * a[m].is_correct;
            o.tokens += share * (double)a[m].n_tokens / n;
            o.truncated += share * a[m].is_truncated / n;
        }
        o.slow_share += part[i] / n;
    }
    o.accuracy = right / n;
    wilson(right, n, &o.low, &o.high);
    set_loss(&o, lost, square, n);
    o.kept = o.tokens;
    e->rows[e->n_rows++] = o;
}

static void add_threshold(struct evaluation *e, const char *name, const double *x, double threshold)
{
    double *part = allocate(e->n, sizeof *part);
    for (size_t i = 0; i < e->n; i++) part[i] = x[i] > threshold;
    add_outcome(e, name, part);
    free(part);
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x > y ? -1 : x < y;
}

/* The share of the questions with the largest values; those of equal values share what is left over. */
static void add_largest(struct evaluation *e, const char *name, const double *x, double share)
{
    double *sorted = allocate(e->n, sizeof *sorted), *part = allocate(e->n, sizeof *part),
           left = share * (double)e->n;
    memcpy(sorted, x, e->n * sizeof *sorted);
    qsort(sorted, e->n, sizeof *sorted, descending);
    for (size_t i = 0; i < e->n && left > 0;) {
        double value = sorted[i], n_equal = 0;
        for (; i < e->n && sorted[i] == value; i++) n_equal++;
        double each = left < n_equal ? left / n_equal : 1;
        for (size_t k = 0; k < e->n; k++)
            if (x[k] == value) part[k] = each;
        left -= n_equal;
    }
    add_outcome(e, name, part);
    free(sorted);
    free(part);
}

/* The answer that is right for the fewest tokens; of two wrong ones the shorter. */
static void add_oracle(struct evaluation *e)
{
    double *part = allocate(e->n, sizeof *part);
    for (size_t i = 0; i < e->n; i++) {
        const struct collected_answer *a = e->w->data.items[e->test[i]].answers;
        bool slow_shorter = a[MODE_SLOW].n_tokens < a[MODE_FAST].n_tokens;
        part[i] = a[MODE_FAST].is_correct == a[MODE_SLOW].is_correct ? slow_shorter : a[MODE_SLOW].is_correct;
    }
    add_outcome(e, "oracle", part);
    free(part);
}

static int score_test(const struct evaluation *e, const struct kvant_router *router, double *d)
{
    struct kvant_embed_options opt;
    float *features = NULL;
    size_t dim;
    kvant_router_get_embed_options(router, &opt);
    int code = router_features(e->w, &opt, e->test, e->n, &features, &dim);
    for (size_t i = 0; code == EXIT_OK && i < e->n; i++) {
        d[i] = kvant_router_score(router, features + i * dim);
        if (!isfinite(d[i]))
            code = fail_text("the router's decision on question %zu is not a finite number", e->test[i] + 1);
    }
    free(features);
    return code;
}

static int prompt_lengths(struct evaluation *e)
{
    for (size_t i = 0; i < e->n; i++) {
        kvant_token *ids = NULL;
        size_t n = 0;
        const char *question = e->w->data.items[e->test[i]].question;
        int code = prompt_tokens(e->w->model, NULL, NULL, question, strlen(question), false, &ids, &n);
        free(ids);
        if (code != EXIT_OK) return code;
        e->length[i] = (double)n;
    }
    return EXIT_OK;
}

/* ---------------------------------------------------------------------------------------------- online -- */

struct online {
    double right, lost, lost_square, tokens, kept, discarded, forced, second, slow, turned, truncated, checks;
    double check_s, total_s;
    FILE *rows;
};

static void online_sum(struct online *sum, const struct collected_question *q, const struct think_account *a,
                       bool right, double generation_s)
{
    double loss = (double)q->answers[MODE_SLOW].is_correct - (double)right;
    sum->right += right;
    sum->lost += loss;
    sum->lost_square += loss * loss;
    sum->tokens += (double)(a->n_kept + a->n_discarded + a->n_second);
    sum->kept += (double)a->n_kept;
    sum->discarded += (double)a->n_discarded;
    sum->forced += (double)a->n_forced;
    sum->second += (double)a->n_second;
    sum->slow += a->first == MODE_SLOW;
    sum->turned += a->turned;
    sum->truncated += a->truncated;
    sum->checks += (double)a->n_checks;
    sum->check_s += a->check_s;
    sum->total_s += generation_s;
}

static void write_row(FILE *out, json_t *row)
{
    if (row) json_dumpf(row, out, JSON_COMPACT);
    fputc('\n', out);
    json_decref(row);
}

static json_t *online_json(const struct collected_question *q, const struct think_account *a,
                           const struct answer *answer, bool right)
{
    json_t *row = json_pack("{s:s, s:s, s:b, s:s, s:s, s:o, s:o}", "question", q->question, "right", q->final,
                            "correct", (int)right, "first", mode_names[a->first], "last", mode_names[a->last],
                            "d_first", json_number(a->d_first), "d_turn",
                            a->turned ? json_number(a->d_turn) : json_null());
    think_put_counts(row, a);
    json_object_set_new(row, "answer", json_text(answer->text, answer->n_bytes));
    return row;
}

static int answer_online(struct evaluation *e, size_t i, struct online *sum)
{
    const struct collected_question *q = &e->w->data.items[e->test[i]];
    struct sampling_flags greedy = SAMPLING_FLAGS_DEFAULT;
    struct generator g;
    struct answer answer = {0};
    struct think_account a;
    kvant_token *ids = NULL;
    size_t n = 0;
    greedy.temperature = 0;
    int code = prompt_tokens(e->w->model, NULL, NULL, q->question, strlen(q->question), false, &ids, &n);
    int64_t most = e->w->flags->think.most[0] + e->w->flags->think.most[1];
    if (code == EXIT_OK)
        code = generator_open(&g, e->w->model, e->w->plan, &greedy,
                              (int64_t)n + most + modes_tokens(&e->w->modes));
    if (code == EXIT_OK) {
        code = think_answer(&g, e->router, &e->w->modes, &e->w->flags->think, ids, n, -1, NULL, &answer, &a);
        generator_close(&g);
    }
    free(ids);
    if (code == EXIT_OK) {
        bool right = modes_answer_check(&e->w->modes, a.first, answer.text, answer.n_bytes, q->final, NULL);
        online_sum(sum, q, &a, right, answer.generation_s);
        if (sum->rows) write_row(sum->rows, online_json(q, &a, &answer, right));
    }
    answer_close(&answer);
    return code;
}

static int add_online(struct evaluation *e)
{
    struct online sum = {0};
    struct output_file rows = {0};
    struct progress progress;
    const char *path = e->w->flags->rows_path;
    if (path && !output_open(&rows, path)) return EXIT_FAILED;
    sum.rows = path ? rows.stream : NULL;
    int code = EXIT_OK;
    interrupt_catch();
    progress_begin(&progress);
    for (size_t i = 0; i < e->n && code == EXIT_OK; i++) {
        code = answer_online(e, i, &sum);
        if (code == EXIT_OK && !progress_update(&progress, "online", (int64_t)i + 1, (int64_t)e->n))
            code = fail_text("stopped after %zu of %zu questions", i + 1, e->n);
    }
    progress_end(&progress);
    if (path && (code != EXIT_OK || !output_commit(&rows))) {
        output_discard(&rows);
        return EXIT_FAILED;
    }
    double n = (double)e->n;
    struct outcome o = {.name = "two-step router, online",
                        .accuracy = sum.right / n,
                        .tokens = sum.tokens / n,
                        .slow_share = sum.slow / n,
                        .truncated = sum.truncated / n,
                        .turned = sum.turned / n,
                        .kept = sum.kept / n,
                        .discarded = sum.discarded / n,
                        .forced = sum.forced / n,
                        .second = sum.second / n,
                        .checks = sum.checks / n};
    wilson(sum.right, n, &o.low, &o.high);
    set_loss(&o, sum.lost, sum.lost_square, n);
    e->rows[e->n_rows++] = o;
    fprintf(stderr, "online: %.0f checks took %.3f s of %.2f s (%.2f %%)\n", sum.checks, sum.check_s,
            sum.total_s, 100 * sum.check_s / sum.total_s);
    return code;
}

/* What the router decides of each question, and what became of the answer of that mode. */
static int write_decisions(const struct evaluation *e)
{
    struct output_file out;
    if (!output_open(&out, e->w->flags->rows_path)) return EXIT_FAILED;
    for (size_t i = 0; i < e->n; i++) {
        const struct collected_question *q = &e->w->data.items[e->test[i]];
        int mode = e->d[i] > e->w->flags->think.threshold ? MODE_SLOW : MODE_FAST;
        const struct collected_answer *a = &q->answers[mode];
        write_row(out.stream, json_pack("{s:s, s:s, s:o, s:s, s:b, s:I, s:b}", "question", q->question,
                                        "right", q->final, "difficulty", json_number(e->d[i]), "mode",
                                        mode_names[mode], "correct", (int)a->is_correct, "tokens",
                                        (json_int_t)a->n_tokens, "truncated", (int)a->is_truncated));
    }
    if (output_commit(&out)) return EXIT_OK;
    output_discard(&out);
    return EXIT_FAILED;
}

/* ----------------------------------------------------------------------------------------------- table -- */

/* Of what the oracle saves against always slow: 1 = all of it. NaN where there is nothing to save. */
static double oracle_share(const struct evaluation *e, const struct outcome *o)
{
    const struct outcome *slow = &e->rows[e->i_slow], *oracle = &e->rows[e->i_oracle];
    double saved = slow->tokens - oracle->tokens;
    return saved > 0 ? (slow->tokens - o->tokens) / saved : NAN;
}

static int print_table(const struct evaluation *e)
{
    printf("%zu %squestions of %s; threshold %g; cache %s\n\n", e->n, e->router ? "test " : "",
           e->w->flags->data_path, e->w->flags->think.threshold, e->w->kv);
    printf("%-28s %8s %15s %8s %7s %6s %7s %6s %7s %9s %6s %7s\n", "", "accuracy", "95 %", "tokens", "saving",
           "slow", "turned", "cut", "kept", "discarded", "forced", "second");
    for (int i = 0; i < e->n_rows; i++) {
        const struct outcome *o = &e->rows[i];
        double share = oracle_share(e, o);
        printf("%-28s %7.1f%% %5.1f to %4.1f %% %8.1f ", o->name, 100 * o->accuracy, 100 * o->low,
               100 * o->high, o->tokens);
        if (isnan(share)) printf("%7s", "-");
        else printf("%5.0f %%", 100 * share);
        printf(" %5.0f%% %6.0f%% %5.0f%% %7.1f %9.1f %6.1f %7.1f\n", 100 * o->slow_share, 100 * o->turned,
               100 * o->truncated, o->kept, o->discarded, o->forced, o->second);
    }
    puts("\ntokens: all that were generated, kept + discarded + second; none is discarded, as an answer "
         "turns where it is\n"
         "looked at. saving: of the oracle's, against always slow. slow: share that begins slow. cut: a cap "
         "was met. random,\n"
         "length: expected, at the router's share");
    return finish_output();
}

static json_t *outcome_json(const struct outcome *o, double share)
{
    return json_pack(
        "{s:s, s:o, s:[o, o], s:o, s:[o, o], s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name",
        o->name, "accuracy", json_number(o->accuracy), "accuracy_95", json_number(o->low),
        json_number(o->high), "loss", json_number(o->loss), "loss_95", json_number(o->loss_low),
        json_number(o->loss_high), "tokens", json_number(o->tokens), "oracle_saving", json_number(share),
        "slow_share", json_number(o->slow_share), "turned", json_number(o->turned), "truncated",
        json_number(o->truncated), "kept", json_number(o->kept), "discarded", json_number(o->discarded),
        "forced", json_number(o->forced), "second", json_number(o->second), "checks", json_number(o->checks));
}

static int print_json(const struct evaluation *e)
{
    json_t *rows = json_array();
    for (int i = 0; i < e->n_rows; i++) {
        const struct outcome *o = &e->rows[i];
        json_array_append_new(rows, outcome_json(o, oracle_share(e, o)));
    }
    return json_finish(json_pack("{s:s, s:I, s:o, s:s, s:o}", "data", e->w->flags->data_path, "questions",
                                 (json_int_t)e->n, "threshold", json_number(e->w->flags->think.threshold),
                                 "kv", e->w->kv, "rows", rows));
}

static int compare(struct evaluation *e, const struct kvant_embed_options *pooling)
{
    double threshold = e->w->flags->think.threshold;
    double *part = allocate(e->n, sizeof *part);
    int code = e->router ? score_test(e, e->router, e->d) : router_cross(e->w, pooling, e->part);
    if (code == EXIT_OK && e->hidden) code = score_test(e, e->hidden, e->d_hidden);
    if (code == EXIT_OK) code = prompt_lengths(e);
    if (code == EXIT_OK) {
        add_outcome(e, "always fast", part); /* allocate gives zeros */
        for (size_t i = 0; i < e->n; i++) part[i] = 1;
        add_outcome(e, "always slow", part);
        e->i_slow = e->n_rows - 1;
        if (e->router) add_threshold(e, "one-step router", e->d, threshold);
        else add_outcome(e, "one-step router", e->part[2]);
        double share = e->rows[e->n_rows - 1].slow_share;
        if (!e->router && !e->w->flags->method) {
            add_outcome(e, "always a network", e->part[KVANT_ROUTER_NETWORK]);
            add_outcome(e, "always a line (ridge)", e->part[KVANT_ROUTER_RIDGE]);
        }
        for (size_t i = 0; i < e->n; i++) part[i] = share;
        add_outcome(e, "random, same share", part);
        add_largest(e, "prompt length, same share", e->length, share);
        if (e->hidden) add_threshold(e, "hidden states, one-step", e->d_hidden, threshold);
        add_oracle(e);
        e->i_oracle = e->n_rows - 1;
    }
    free(part);
    if (code == EXIT_OK && e->w->flags->online) code = add_online(e);
    else if (code == EXIT_OK && e->w->flags->rows_path) code = write_decisions(e);
    if (code != EXIT_OK) return code;
    return e->w->flags->model.json ? print_json(e) : print_table(e);
}

static int open_routers(struct evaluation *e)
{
    struct kvant_error err;
    struct kvant_router_info info;
    const struct router_flags *f = e->w->flags;
    if (kvant_router_open(&e->router, e->w->model, f->router_path, &err) != KVANT_OK) return fail(&err);
    kvant_router_get_info(e->router, &info);
    if (info.hidden)
        return fail_text("%s was trained on hidden states; name it with --hidden-router", f->router_path);
    if (strcmp(info.modes, e->w->modes.name) != 0 || strcmp(info.modes, e->w->data.modes) != 0)
        return fail_text("%s was trained with the modes %s; the answers have %s, and --modes is %s",
                         f->router_path, info.modes, e->w->data.modes, e->w->modes.name);
    if (!f->hidden_path) return EXIT_OK;
    return kvant_router_open(&e->hidden, e->w->model, f->hidden_path, &err) == KVANT_OK ? EXIT_OK
                                                                                        : fail(&err);
}

int router_eval(struct router_work *w, const struct kvant_embed_options *pooling)
{
    struct evaluation e = {.w = w};
    int code = collected_read(&w->data, w->flags->data_path, false);
    if (code != EXIT_OK) return code;
    collected_label(&w->data, w->flags->limit, router_labels(w->flags));
    size_t cap = w->data.n ? w->data.n : 1;
    e.test = allocate(cap, sizeof *e.test);
    e.d = allocate(cap, sizeof *e.d);
    e.d_hidden = allocate(cap, sizeof *e.d_hidden);
    e.length = allocate(cap, sizeof *e.length);
    for (int i = 0; i < 3; i++) e.part[i] = allocate(cap, sizeof *e.part[i]);
    for (size_t i = 0; i < w->data.n; i++)
        if (!w->flags->router_path || collected_split(w->data.items[i].question) == KVANT_ROUTER_TEST)
            e.test[e.n++] = i;
    if (e.n == 0)
        code = fail_text("%s: no question of the test split has an answer in both modes",
                         w->flags->data_path);
    if (code == EXIT_OK && !w->flags->router_path && strcmp(w->data.modes, w->modes.name) != 0)
        code = fail_text("%s holds answers with the modes %s; give --modes %s", w->flags->data_path,
                         w->data.modes, w->data.modes);
    if (code == EXIT_OK && w->flags->router_path) code = open_routers(&e);
    if (code == EXIT_OK) code = compare(&e, pooling);
    kvant_router_close(e.router);
    kvant_router_close(e.hidden);
    free(e.test);
    free(e.d);
    free(e.d_hidden);
    free(e.length);
    for (int i = 0; i < 3; i++) free(e.part[i]);
    return code;
}
