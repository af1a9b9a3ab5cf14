/*
 * kvant_accuracy_run: questions with known answers, under plans and the 16-bit cache. Both read the same
 * prompts, so each question is a pair, and McNemar's test sees differences that two intervals hide.
 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/model.h"
#include "tune/answer.h"
#include "tune/generate.h"

#define PREDICT_DEFAULT 256
#define PREDICT_MAX (1 << 20)
#define STOP_TOKENS 64 /* in which a stop string that has just been completed lies */
#define STOP_BYTES_MAX 32
#define TEXT_BYTES 1024 /* room for an answer to begin with */

struct accuracy {
    const struct kvant_model *model;
    const struct kvant_accuracy_options *opt;
    const struct kvant_question *questions; /* (n_questions)                                     */
    size_t n_questions;
    struct kvant_prompt *prompts;           /* (n_questions) what they are asked with            */
    bool *base_correct;                     /* (n_questions)                                     */
    char *text;                             /* (text_cap) of one answer                          */
    size_t text_cap;
    kvant_status stop_status;               /* of the stop hook, which cannot fail by itself     */
};

/* The text of tokens in a->text, terminated. */
static kvant_status detokenize(struct accuracy *a, const kvant_token *tokens, size_t n, size_t *n_bytes,
                               struct kvant_error *err)
{
    for (*n_bytes = TEXT_BYTES;;) {
        if (a->text_cap <= *n_bytes) {
            char *text = kv_realloc(a->text, a->text_cap, *n_bytes + 1, 1);
            if (!text) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for an answer of %zu bytes", *n_bytes);
            a->text = text;
            a->text_cap = *n_bytes + 1;
        }
        kvant_status status = kvant_detokenize(a->model, tokens, n, false, a->text, a->text_cap - 1, n_bytes,
                                               err);
        if (status == KVANT_OK) a->text[*n_bytes] = '\0';
        if (status != KVANT_ERR_SPACE) return status;
    }
}

/* Texts are questions, over and over. */
static const struct kvant_question *question_of(const struct accuracy *a, size_t text)
{
    return &a->questions[text % a->n_questions];
}

static const kvant_token *among(void *user, size_t i, size_t *n)
{
    const struct kvant_question *q = question_of(user, i);
    *n = q->n_choices;
    return q->n_choices ? q->choices : NULL;
}

/* Has the last token completed a stop string? A choice is one token. */
static bool stop(void *user, size_t i, const struct kv_generation *text)
{
    struct accuracy *a = user;
    if (question_of(a, i)->n_choices) return true;
    if (!a->opt->n_stops) return false;
    size_t n = text->n < STOP_TOKENS ? text->n : STOP_TOKENS, n_bytes;
    kvant_status status = detokenize(a, text->tokens + text->n - n, n, &n_bytes, NULL);
    if (status != KVANT_OK) a->stop_status = status;
    return status != KVANT_OK || kv_answer_stop(a->text, n_bytes, a->opt->stops, a->opt->n_stops) < n_bytes;
}

static kvant_status check_options(const struct kvant_accuracy_options *opt, int n_plans, size_t n_questions,
                                  struct kvant_error *err)
{
    if (opt->size != sizeof *opt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_accuracy_options.size is not set; use KVANT_ACCURACY_OPTIONS_INIT");
    if ((int)opt->kind < KVANT_ANSWER_NUMBER || opt->kind > KVANT_ANSWER_AUTO)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "kind %d is no kind of answer", (int)opt->kind);
    if (opt->n_predict < 0 || opt->n_predict > PREDICT_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_predict %d: 1 to %d, or 0", opt->n_predict, PREDICT_MAX);
    if (n_plans < 0 || n_questions == 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d plans, %zu questions: at least one question is needed",
                n_plans, n_questions);
    for (int i = 0; i < opt->n_stops; i++) {
        size_t n = strlen(opt->stops[i]);
        if (n == 0 || n > STOP_BYTES_MAX)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, i, "stop string %d has %zu bytes: 1 to %d", i, n,
                    STOP_BYTES_MAX);
    }
    return KVANT_OK;
}

static kvant_status prepare(struct accuracy *a, struct kvant_error *err)
{
    a->prompts = kv_alloc(a->n_questions, sizeof *a->prompts);
    a->base_correct = kv_alloc(a->n_questions, sizeof *a->base_correct);
    if (!a->prompts || !a->base_correct)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %zu questions", a->n_questions);
    for (size_t i = 0; i < a->n_questions; i++) {
        const struct kvant_question *q = &a->questions[i];
        a->prompts[i] = (struct kvant_prompt){ q->tokens, q->n_tokens };
        for (size_t k = 0; k < q->n_choices; k++)
            if (q->choices[k] < 0 || q->choices[k] >= a->model->n_vocab)
                KV_FAIL(err, KVANT_ERR_ARGUMENT, (int64_t)i, "question %zu: choice %zu is token %d of %d", i,
                        k, (int)q->choices[k], a->model->n_vocab);
        kvant_answer_kind kind = kv_answer_kind_of(a->opt->kind, q->answer);
        if (!kvant_answer_check(kind == KVANT_ANSWER_NUMBER ? kind : KVANT_ANSWER_LETTER, q->answer,
                                strlen(q->answer), q->answer, NULL))
            KV_FAIL(err, KVANT_ERR_ARGUMENT, (int64_t)i, "question %zu: its answer '%.40s' holds no %s", i,
                    q->answer, kind == KVANT_ANSWER_NUMBER ? "number" : "single capital letter");
    }
    return KVANT_OK;
}

/* One answer: extracted, compared, counted and handed on. plan: -1 for the 16-bit cache. */
static kvant_status mark(struct accuracy *a, int plan, size_t question, const struct kv_generation *text,
                         struct kvant_accuracy_result *r, struct kvant_error *err)
{
    char found[KV_ANSWER_CAP];
    const char *answer = a->questions[question].answer;
    size_t n_bytes;
    KV_TRY(detokenize(a, text->tokens, text->n, &n_bytes, err));
    n_bytes = kv_answer_stop(a->text, n_bytes, a->opt->stops, a->opt->n_stops);
    a->text[n_bytes] = '\0';
    bool has_failed = text->end == KV_GENERATION_FAILED;
    bool is_correct = kvant_answer_check(a->opt->kind, a->text, n_bytes, answer, found) && !has_failed;
    bool is_answered = found[0] != '\0';
    r->n++;
    r->n_correct += is_correct;
    r->n_unanswered += !is_answered;
    r->n_failed += has_failed;
    r->n_tokens += (int64_t)text->n;
    if (plan < 0) a->base_correct[question] = is_correct;
    else if (!a->opt->no_base) {
        r->n_lost += a->base_correct[question] && !is_correct;
        r->n_won += !a->base_correct[question] && is_correct;
    }
    const struct kvant_answer out = { a->text, n_bytes, found, is_correct, (int)text->n };
    if (a->opt->on_answer) a->opt->on_answer(a->opt->user, plan, question, &out);
    return KVANT_OK;
}

static kvant_status mark_row(struct accuracy *a, int plan, const struct kv_generation *row,
                             struct kvant_accuracy_result *r, struct kvant_error *err)
{
    *r = (struct kvant_accuracy_result){ 0 };
    for (size_t i = 0; i < a->n_questions; i++) KV_TRY(mark(a, plan, i, &row[i], r, err));
    r->accuracy = 100.0 * (double)r->n_correct / (double)r->n;
    kv_wilson(r->n_correct, r->n, &r->low, &r->high);
    r->p_value = a->opt->no_base ? NAN : kv_mcnemar(r->n_lost, r->n_won);
    return KVANT_OK;
}

static kvant_status run(struct accuracy *a, const struct kvant_plan *const *plans, int n_plans,
                        struct kvant_accuracy_result *results, struct kvant_accuracy_result *base,
                        struct kvant_error *err)
{
    const struct kv_generate_options generate = {
        .n_sequences = a->opt->n_sequences,
        .what = "answering questions",
        .progress = a->opt->progress,
        .user = a->opt->user,
        .stop = stop,
        .among = among,
        .hook_user = a,
    };
    struct kvant_accuracy_result own;
    struct kv_plan_texts t;
    KV_TRY(prepare(a, err));
    KV_TRY(kv_plan_texts_open(&t, a->model, !a->opt->no_base, plans, n_plans, a->prompts, a->n_questions,
                              a->opt->n_predict ? (size_t)a->opt->n_predict : PREDICT_DEFAULT, &generate,
                              err));
    kvant_status status = a->stop_status;
    if (status != KVANT_OK) kv_error_set(err, status, -1, "no memory for the text of an answer");
    const struct kv_generation *row = t.texts;
    if (status == KVANT_OK && !a->opt->no_base) {
        status = mark_row(a, -1, row, base ? base : &own, err);
        row += a->n_questions;
    }
    for (int i = 0; status == KVANT_OK && i < n_plans; i++)
        status = mark_row(a, i, row + (size_t)i * a->n_questions, &results[i], err);
    kv_plan_texts_close(&t);
    return status;
}

kvant_status kvant_accuracy_run(const struct kvant_model *model, const struct kvant_plan *const *plans,
                                int n_plans, const struct kvant_question *questions, size_t n_questions,
                                const struct kvant_accuracy_options *options,
                                struct kvant_accuracy_result *results, struct kvant_accuracy_result *base,
                                struct kvant_error *err)
{
    static const struct kvant_accuracy_options defaults = KVANT_ACCURACY_OPTIONS_INIT;
    const struct kvant_accuracy_options *opt = options ? options : &defaults;
    KV_TRY(check_options(opt, n_plans, n_questions, err));
    struct accuracy a = { .model = model, .opt = opt, .questions = questions, .n_questions = n_questions };
    kvant_status status = run(&a, plans, n_plans, results, base, err);
    kv_free(a.prompts);
    kv_free(a.base_correct);
    kv_free(a.text);
    return status;
}
