/*
 * Every allocation of a public call is refused once: the call says MEMORY with a message, leaves nothing
 * behind, and what it was called on still works. Files, readers, router, text, evaluation and tuning; models,
 * sessions, forks and truncation are in test_session_memory.c and test_kv_store.c, the trial store in
 * test_trials.c.
 */
#include "kvant.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "support/allocation_hooks.h"
#include "support/scratch.h"
#include "support/tiny_gguf.h"

enum { N_TOKENS = 150, N_ANSWER = 20, N_QUESTIONS = 24, N_INPUT_MAX = 256 };

struct fixture {
    struct kvant_model *model;
    struct kvant_plan *plan;
    struct kvant_session *session;
    struct kvant_router *router;
    int seq;
    kvant_token tokens[4 * N_TOKENS];
    float features[N_QUESTIONS * N_INPUT_MAX], labels[N_QUESTIONS];
    uint8_t split[N_QUESTIONS];
    size_t n_input;
    char saved[SCRATCH_CAP], router_path[SCRATCH_CAP];
};

/* ----------------------------------------------------------------------------------------------- setup -- */

static kvant_status train(const struct fixture *f, kvant_router_method method, struct kvant_router **out,
                          struct kvant_error *err)
{
    struct kvant_router_options opt = KVANT_ROUTER_OPTIONS_INIT;
    struct kvant_router_training report;
    opt.window = 8;
    opt.n_hidden = 4;
    opt.n_epochs = 3;
    opt.method = method;
    return kvant_router_train(out, f->model, f->features, f->labels, f->split, N_QUESTIONS, &opt, &report,
                              err);
}

static kvant_status fill(struct fixture *f, struct kvant_error *err)
{
    struct kvant_batch_entry entries[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++) entries[i] = (struct kvant_batch_entry){ f->seq, f->tokens[i], false };
    return kvant_session_step(f->session, entries, N_TOKENS, err);
}

static kvant_status prepare(struct fixture *f, struct kvant_error *err)
{
    struct tiny_gguf_options tiny = { .arch = "qwen2", .weight_type = TINY_Q8_0, .n_layer = 2, .seed = 5 };
    struct kvant_model_options opt = KVANT_MODEL_OPTIONS_INIT;
    struct kvant_session_options session = KVANT_SESSION_OPTIONS_INIT;
    char path[SCRATCH_CAP];
    uint32_t x = 1;
    opt.n_threads = 1; /* the hooks know one thread */
    session.n_batch = 64;
    session.n_sequences = 4;
    for (int i = 0; i < 4 * N_TOKENS; i++)
        f->tokens[i] = (kvant_token)((x = x * 1664525u + 1013904223u) >> 24);
    kvant_status status = tiny_gguf_write(scratch_path(path, "test_faults.gguf"), &tiny, err);
    if (status == KVANT_OK) status = kvant_model_open(&f->model, path, &opt, err);
    if (status == KVANT_OK) status = kvant_plan_open(&f->plan, f->model, "k4c32v4h", err);
    if (status == KVANT_OK) status = kvant_session_open(&f->session, f->model, &session, err);
    if (status == KVANT_OK) status = kvant_sequence_open(f->session, f->plan, 2 * N_TOKENS, &f->seq, err);
    if (status == KVANT_OK) status = fill(f, err);
    if (status == KVANT_OK) status = kvant_embed_dim(f->model, NULL, &f->n_input, err);
    if (status != KVANT_OK || f->n_input > N_INPUT_MAX) return KVANT_ERR_ARGUMENT;
    for (size_t i = 0; i < N_QUESTIONS; i++) {
        f->labels[i] = i % 2 ? 100.0f : 0.0f;
        f->split[i] = i % 4 == 3 ? KVANT_ROUTER_VALIDATION : KVANT_ROUTER_TRAIN;
        for (size_t c = 0; c < f->n_input; c++)
            f->features[i * f->n_input + c] = (float)((x = x * 1664525u + 1013904223u) >> 8) * 0x1p-24f;
    }
    scratch_path(f->saved, "test_faults.kvseq");
    scratch_path(f->router_path, "test_faults.kvrouter");
    status = kvant_sequence_save(f->session, f->seq, f->tokens, N_TOKENS, f->saved, NULL, err);
    if (status == KVANT_OK) status = train(f, KVANT_ROUTER_NETWORK, &f->router, err);
    if (status == KVANT_OK) status = kvant_router_save(f->router, f->router_path, err);
    return status;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kvant_router_close(f->router);
    kvant_session_close(f->session);
    kvant_plan_close(f->plan);
    kvant_model_close(f->model);
    free(f);
    return 0;
}

static int setup(void **state)
{
    struct kvant_error err = { .message = "" };
    struct fixture *f = *state = calloc(1, sizeof *f);
    if (f && prepare(f, &err) == KVANT_OK) return 0;
    print_error("%s\n", err.message);
    return -1;
}

/* ----------------------------------------------------------------------------------------------- calls -- */
/* Each cleans up after itself, whatever it returns. */

typedef kvant_status (*call_fn)(struct fixture *f, struct kvant_error *err);

static kvant_status save(struct fixture *f, struct kvant_error *err)
{
    char path[SCRATCH_CAP];
    return kvant_sequence_save(f->session, f->seq, f->tokens, N_TOKENS, scratch_path(path, "again.kvseq"),
                               NULL, err);
}

static kvant_status restore(struct fixture *f, struct kvant_error *err)
{
    kvant_token tokens[N_TOKENS];
    size_t n;
    int seq;
    kvant_status status = kvant_sequence_restore(f->session, f->plan, 2 * N_TOKENS, f->saved, &seq, tokens,
                                                 N_TOKENS, &n, NULL, err);
    assert_true((status == KVANT_OK) == (seq >= 0));
    if (seq >= 0) kvant_sequence_close(f->session, seq);
    return status;
}

static kvant_status embed(struct fixture *f, struct kvant_error *err)
{
    float out[2 * N_INPUT_MAX];
    size_t n;
    const struct kvant_prompt prompts[] = { { f->tokens, 20 }, { f->tokens + 20, 90 } };
    kvant_status status = kvant_embed_sequence(f->session, f->seq, NULL, out, N_INPUT_MAX, &n, err);
    if (status == KVANT_OK)
        status = kvant_embed_prompts(f->session, f->plan, prompts, 2, NULL, out, sizeof out / sizeof *out, &n,
                                     err);
    return status;
}

static kvant_status read_rows(struct fixture *f, struct kvant_error *err)
{
    struct kvant_model_info info;
    size_t n, cap;
    kvant_model_get_info(f->model, &info);
    cap = 2u * 10u * (size_t)(info.n_layer * info.n_head_kv * info.head_dim);
    float *out = calloc(cap, sizeof *out);
    kvant_status status = kvant_sequence_read(f->session, f->seq, 5, 15, false, out, cap, &n, err);
    free(out);
    return status;
}

static kvant_status score(struct fixture *f, struct kvant_error *err)
{
    struct kvant_answer_score out;
    return kvant_score_answer(f->session, f->plan, f->tokens, N_TOKENS, N_TOKENS - N_ANSWER, NULL, &out, err);
}

static kvant_status rank(struct fixture *f, struct kvant_error *err)
{
    double scores[N_QUESTIONS];
    bool right[N_QUESTIONS];
    struct kvant_ranking out;
    for (int i = 0; i < N_QUESTIONS; i++) {
        scores[i] = (double)f->features[i];
        right[i] = i % 3 == 0;
    }
    return kvant_ranking_set(&out, scores, right, NULL, N_QUESTIONS, 10, 1, err);
}

static kvant_status train_network(struct fixture *f, struct kvant_error *err)
{
    struct kvant_router *r;
    kvant_status status = train(f, KVANT_ROUTER_NETWORK, &r, err);
    kvant_router_close(r);
    return status;
}

static kvant_status train_ridge(struct fixture *f, struct kvant_error *err)
{
    struct kvant_router *r;
    kvant_status status = train(f, KVANT_ROUTER_RIDGE, &r, err);
    kvant_router_close(r);
    return status;
}

static kvant_status route(struct fixture *f, struct kvant_error *err)
{
    struct kvant_router *r;
    struct kvant_router_watch *watch = NULL;
    double d;
    int64_t n;
    char path[SCRATCH_CAP];
    kvant_status status = kvant_router_open(&r, f->model, f->router_path, err);
    if (status == KVANT_OK) status = kvant_router_watch_open(&watch, r, f->session, f->seq, err);
    if (status == KVANT_OK) status = kvant_router_watch_next(watch, &d, &n, err);
    if (status == KVANT_OK) status = kvant_router_save(r, scratch_path(path, "again.kvrouter"), err);
    kvant_router_watch_close(watch);
    kvant_router_close(r);
    return status;
}

static kvant_status chat(struct fixture *f, struct kvant_error *err)
{
    const char *json = "{\"messages\": [{\"role\": \"user\", \"content\": \"What is 6 * 7?\"}]}";
    struct kvant_template *t;
    char text[512];
    kvant_token ids[512];
    size_t n, n_ids;
    kvant_status status = kvant_template_open(&t, f->model, NULL, err);
    if (status == KVANT_OK) status = kvant_template_render(t, json, strlen(json), text, sizeof text, &n, err);
    if (status == KVANT_OK)
        status = kvant_tokenize(f->model, text, n, KVANT_TOKENIZE_BOS | KVANT_TOKENIZE_SPECIAL, ids, 512,
                                &n_ids, err);
    if (status == KVANT_OK) status = kvant_detokenize(f->model, ids, n_ids, true, text, sizeof text, &n, err);
    kvant_template_close(t);
    return status;
}

static kvant_status sample(struct fixture *f, struct kvant_error *err)
{
    struct kvant_sampler_options opt = KVANT_SAMPLER_OPTIONS_INIT;
    struct kvant_sampler *s;
    (void)f;
    opt.temperature = 1;
    opt.top_k = 4;
    opt.repeat_penalty = 1.1f;
    kvant_status status = kvant_sampler_open(&s, N_INPUT_MAX, &opt, err);
    kvant_sampler_close(s);
    return status;
}

static kvant_status calibrate(struct fixture *f, struct kvant_error *err)
{
    struct kvant_plan *plan;
    kvant_status status = kvant_plan_open(&plan, f->model, "k3c64xmv2h", err);
    if (status == KVANT_OK)
        status = kvant_plan_calibrate(plan, f->model, f->tokens, N_TOKENS, NULL, NULL, err);
    if (status == KVANT_OK) {
        char path[SCRATCH_CAP];
        status = kvant_plan_save(plan, scratch_path(path, "test_faults.yaml"), err);
        kvant_plan_close(plan);
        plan = NULL;
        if (status == KVANT_OK) status = kvant_plan_open(&plan, f->model, path, err);
    }
    kvant_plan_close(plan);
    return status;
}

static kvant_status evaluate(struct fixture *f, struct kvant_error *err)
{
    struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    struct kvant_eval_result result, base;
    const struct kvant_plan *plans[] = { f->plan };
    opt.n_ctx = 100;
    return kvant_eval_run(f->model, plans, 1, f->tokens, N_TOKENS, &opt, &result, &base, err);
}

static kvant_status compare(struct fixture *f, struct kvant_error *err)
{
    struct kvant_trajectory_options opt = KVANT_TRAJECTORY_OPTIONS_INIT;
    struct kvant_trajectory_result result;
    const struct kvant_plan *plans[] = { f->plan };
    const struct kvant_prompt prompts[] = { { f->tokens, 50 }, { f->tokens + 50, 60 } };
    opt.n_predict = 4;
    return kvant_trajectory_run(f->model, plans, 1, prompts, 2, &opt, &result, NULL, err);
}

static kvant_status answer(struct fixture *f, struct kvant_error *err)
{
    struct kvant_accuracy_options opt = KVANT_ACCURACY_OPTIONS_INIT;
    struct kvant_accuracy_result result;
    const struct kvant_plan *plans[] = { f->plan };
    const struct kvant_question questions[] = { { f->tokens, 40, "7", NULL, 0 },
                                                { f->tokens, 60, "8", NULL, 0 } };
    opt.n_predict = 4;
    return kvant_accuracy_run(f->model, plans, 1, questions, 2, &opt, &result, NULL, err);
}

static kvant_status tune(struct fixture *f, struct kvant_error *err)
{
    const double budget = 8;
    struct kvant_tune_options opt = KVANT_TUNE_OPTIONS_INIT;
    struct kvant_tune_result *result;
    opt.budgets = &budget;
    opt.n_budgets = 1;
    opt.n_tokens = 68;
    opt.n_ctx = 512;
    opt.tail = 32;
    opt.no_mix = opt.by_layer = true;
    kvant_status status = kvant_tune_run(f->model, f->tokens, 2 * N_TOKENS, &opt, &result, err);
    kvant_tune_close(result);
    return status;
}

/* ----------------------------------------------------------------------------------------------- tests -- */

/* Refuses allocation 0, 1, 2, ... until none is left; with `growth`, in steps that grow by 1 / growth of the
 * place, for calls that take long. After each refusal the same call must work: nothing is broken. */
static void refuse_each(struct fixture *f, call_fn call, long growth, int n_least)
{
    int n_refused = 0;
    for (long at = 0;; at += 1 + (growth ? at / growth : 0)) {
        struct kvant_error err = { .message = "" };
        int n_live = hooks.n_live;
        size_t live_bytes = hooks.live_bytes;
        hooks.n_calls = 0;
        hooks.fail_at = at;
        kvant_status status = call(f, &err);
        bool refused = hooks.n_calls > at;
        hooks.fail_at = -1;
        if (hooks.n_live != n_live || hooks.live_bytes != live_bytes)
            fail_msg("allocation %ld refused: %d pieces, %zd bytes left", at, hooks.n_live - n_live,
                     (ssize_t)(hooks.live_bytes - live_bytes));
        if (!refused) {
            if (status != KVANT_OK) fail_msg("nothing refused: %s", err.message);
            break;
        }
        if (status != KVANT_ERR_MEMORY || strlen(err.message) < 10)
            fail_msg("allocation %ld refused: status %s, '%s'", at, kvant_status_name(status), err.message);
        n_refused++;
    }
    if (n_refused < n_least) fail_msg("only %d allocations", n_refused);
}

#define REFUSED(name, growth, n_least)                                                                       \
    static void refused_##name(void **state)                                                                 \
    {                                                                                                        \
        refuse_each(*state, name, growth, n_least);                                                          \
    }
REFUSED(save, 0, 1)
REFUSED(restore, 0, 3)
REFUSED(embed, 0, 5)
REFUSED(read_rows, 0, 1)
REFUSED(score, 0, 5)
REFUSED(rank, 0, 3)
REFUSED(train_network, 0, 10)
REFUSED(train_ridge, 0, 5)
REFUSED(route, 0, 8)
REFUSED(chat, 0, 5)
REFUSED(sample, 0, 1)
REFUSED(calibrate, 0, 10)
REFUSED(evaluate, 0, 10)
REFUSED(compare, 0, 10)
REFUSED(answer, 0, 10)
REFUSED(tune, 20, 40)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_save),          cmocka_unit_test(refused_restore),
        cmocka_unit_test(refused_embed),         cmocka_unit_test(refused_read_rows),
        cmocka_unit_test(refused_score),         cmocka_unit_test(refused_rank),
        cmocka_unit_test(refused_train_network), cmocka_unit_test(refused_train_ridge),
        cmocka_unit_test(refused_route),         cmocka_unit_test(refused_chat),
        cmocka_unit_test(refused_sample),        cmocka_unit_test(refused_calibrate),
        cmocka_unit_test(refused_evaluate),      cmocka_unit_test(refused_compare),
        cmocka_unit_test(refused_answer),        cmocka_unit_test(refused_tune),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
