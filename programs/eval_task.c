#include "eval_task.h"

#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "progress.h"
#include "questions.h"

#define SHOTS_DEFAULT 4
#define PREDICT_DEFAULT 256

/* The model goes on with a question of its own after an answer: that is where the answer ends. */
static const char *const stops[] = {"Question:"};

struct task {
    const struct task_flags *flags;
    struct kvant_model *model;
    struct kvant_plan *plans[OPTION_LIST_CAP];
    char names[OPTION_LIST_CAP][256];
    int n_plans;
    size_t n_shots;
    struct question_file data, shots; /* shots.items NULL: they are the first of data */
    struct question_prompts prompts;
    struct kvant_accuracy_result results[OPTION_LIST_CAP], base;
    /* of the run; both callbacks get the whole task */
    struct progress progress;
    struct output_file answers;
};

bool task_flags_given(const struct task_flags *f)
{
    return f->data_path || f->shots_path || f->answers_path || f->n_shots >= 0 || f->n_limit >= 0 ||
           f->n_predict >= 0 || f->n_sequences >= 0;
}

static int read_questions(struct task *t)
{
    const struct task_flags *f = t->flags;
    t->n_shots = f->n_shots < 0 ? SHOTS_DEFAULT : (size_t)f->n_shots;
    const enum question_kind kind = strcmp(f->name, "mcq") == 0 ? QUESTION_CHOICE : QUESTION_WORKED;
    int code = questions_read(&t->data, kind, f->data_path);
    if (code == EXIT_OK && f->shots_path) code = questions_read(&t->shots, kind, f->shots_path);
    if (code == EXIT_OK)
        code = questions_prompts(&t->prompts, t->model, &t->data, f->shots_path ? &t->shots : &t->data,
                                 t->n_shots, f->n_limit > 0 ? (size_t)f->n_limit : 0);
    return code;
}

static bool watch(void *user, const char *what, int64_t done, int64_t total)
{
    struct task *t = user;
    return progress_update(&t->progress, what, done, total);
}

static void keep_answer(void *user, int plan, size_t question, const struct kvant_answer *answer)
{
    struct task *t = user;
    const struct question *q = &t->prompts.asked[question];
    json_t *value = json_pack("{s:s, s:I, s:o, s:s, s:b, s:i, s:o}", "kv", plan < 0 ? "f16" : t->names[plan],
                              "line", (json_int_t)q->line, "right", json_text(q->final, strlen(q->final)),
                              "found", answer->extracted, "correct", (int)answer->is_correct, "tokens",
                              answer->n_tokens, "text", json_text(answer->text, answer->n_bytes));
    if (value) json_dumpf(value, t->answers.stream, JSON_COMPACT);
    fputc('\n', t->answers.stream);
    json_decref(value);
}

static int answer_all(struct task *t)
{
    struct kvant_error err;
    const struct task_flags *f = t->flags;
    struct kvant_accuracy_options options = KVANT_ACCURACY_OPTIONS_INIT;
    if (t->data.kind == QUESTION_CHOICE) options.kind = KVANT_ANSWER_LETTER;
    options.n_predict = f->n_predict > 0 ? (int)f->n_predict : PREDICT_DEFAULT;
    options.n_sequences = f->n_sequences > 0 ? (int)f->n_sequences : 0;
    options.stops = stops;
    options.n_stops = sizeof stops / sizeof *stops;
    options.progress = watch;
    options.user = t;
    if (f->answers_path) {
        if (!output_open(&t->answers, f->answers_path)) return EXIT_FAILED;
        options.on_answer = keep_answer;
    }
    interrupt_catch();
    progress_begin(&t->progress);
    kvant_status status = kvant_accuracy_run(t->model, (const struct kvant_plan *const *)t->plans, t->n_plans,
                                             t->prompts.items, t->prompts.n, &options, t->results, &t->base,
                                             &err);
    progress_end(&t->progress);
    int code = EXIT_OK;
    if (status == KVANT_ERR_ARGUMENT && err.position >= 0 && (size_t)err.position < t->prompts.n)
        code = fail_text("%s: line %zu: %s", f->data_path, t->prompts.asked[err.position].line, err.message);
    else if (status != KVANT_OK) code = fail(&err);
    if (f->answers_path && (code != EXIT_OK || !output_commit(&t->answers))) {
        output_discard(&t->answers);
        code = EXIT_FAILED;
    }
    return code;
}

static double page_bits(const struct kvant_plan *plan)
{
    struct kvant_plan_memory memory;
    kvant_plan_get_memory(plan, 1, &memory);
    return memory.page_bits;
}

static json_t *result_json(const char *name, double bits, const struct kvant_accuracy_result *r)
{
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I}", "kv", name, "page_bits",
                     json_number(bits), "accuracy", json_number(r->accuracy), "low", json_number(r->low),
                     "high", json_number(r->high), "n", (json_int_t)r->n, "correct", (json_int_t)r->n_correct,
                     "unanswered", (json_int_t)r->n_unanswered, "failed", (json_int_t)r->n_failed, "tokens",
                     (json_int_t)r->n_tokens);
}

/* The same beside the 16-bit cache. */
static json_t *plan_json(const struct task *t, int i)
{
    const struct kvant_accuracy_result *r = &t->results[i];
    json_t *value = result_json(t->names[i], page_bits(t->plans[i]), r);
    json_object_set_new(value, "lost", json_integer((json_int_t)r->n_lost));
    json_object_set_new(value, "won", json_integer((json_int_t)r->n_won));
    json_object_set_new(value, "p", json_number(r->p_value));
    return value;
}

static int report_json(const struct task *t, const char *model_path)
{
    const struct task_flags *f = t->flags;
    json_t *results = json_array();
    for (int i = 0; i < t->n_plans; i++)
        json_array_append_new(results, plan_json(t, i));
    return json_finish(json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:I, s:o, s:o}", "model", model_path,
                                 "task", f->name, "data", f->data_path, "questions",
                                 (json_int_t)t->prompts.n, "shots", (json_int_t)t->n_shots, "shots_from",
                                 f->shots_path ? f->shots_path : f->data_path, "prompts", t->prompts.hash,
                                 "predict", (json_int_t)(f->n_predict > 0 ? f->n_predict : PREDICT_DEFAULT),
                                 "base", result_json("f16", 16.0, &t->base), "results", results));
}

static void print_row(const char *name, double bits, const struct kvant_accuracy_result *r, bool is_base)
{
    char interval[32], pairs[32] = "", p[32] = "";
    snprintf(interval, sizeof interval, "%.1f to %.1f", r->low, r->high);
    if (!is_base) {
        snprintf(pairs, sizeof pairs, "-%lld +%lld", (long long)r->n_lost, (long long)r->n_won);
        snprintf(p, sizeof p, "%.3f", r->p_value);
    }
    printf("%-24s %9.3f %8.1f%% %14s %6lld %9s %7s %9.1f\n", name, bits, r->accuracy, interval,
           (long long)r->n_correct, pairs, p, (double)r->n_tokens / (double)r->n);
}

static int report_text(const struct task *t)
{
    const struct task_flags *f = t->flags;
    printf("%s: %zu question%s of %s, %zu example%s of %s, %s\nprompts %s\n\n", f->name, t->prompts.n,
           t->prompts.n == 1 ? "" : "s", f->data_path, t->n_shots, t->n_shots == 1 ? "" : "s",
           f->shots_path ? f->shots_path : f->data_path,
           t->data.kind == QUESTION_CHOICE ? "the likeliest letter" : "greedy", t->prompts.hash);
    printf("%-24s %9s %9s %14s %6s %9s %7s %9s\n", "kv", "page bits", "accuracy", "95 % interval", "right",
           "lost won", "p", "tokens");
    print_row("f16", 16.0, &t->base, true);
    for (int i = 0; i < t->n_plans; i++)
        print_row(t->names[i], page_bits(t->plans[i]), &t->results[i], false);
    for (int i = 0; i < t->n_plans; i++)
        if (t->results[i].n_failed > 0)
            printf("%s: numbers that are not finite in %lld answers\n", t->names[i],
                   (long long)t->results[i].n_failed);
    puts("\nlost, won: right with 16 bits alone, with the plan alone; p: how likely so uneven a split is by "
         "chance");
    return finish_output();
}

int eval_task(const struct task_flags *flags, const struct option_list *list, const struct plan_flags *plan,
              const struct model_flags *model)
{
    if (flags->answers_path && !output_check(flags->answers_path)) return EXIT_FAILED;
    struct task *t = allocate(1, sizeof *t);
    t->flags = flags;
    int code = setup_model(&t->model, model, false);
    if (code == EXIT_OK) code = read_questions(t);
    if (code == EXIT_OK) code = setup_plans_listed(t->plans, t->names, &t->n_plans, t->model, list, plan);
    if (code == EXIT_OK) code = answer_all(t);
    if (code == EXIT_OK) code = model->json ? report_json(t, model->path) : report_text(t);
    for (int i = 0; i < OPTION_LIST_CAP; i++) kvant_plan_close(t->plans[i]);
    questions_prompts_close(&t->prompts);
    questions_close(&t->data);
    questions_close(&t->shots);
    kvant_model_close(t->model);
    free(t);
    return code;
}
