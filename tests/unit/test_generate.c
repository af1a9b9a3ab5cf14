/*
 * Batched generation: the same text as alone, whatever joins and leaves beside it; ends, stops and failures;
 * trajectories and accuracy on top of it. Tiny models.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "cache/plan.h"
#include "support/scratch.h"
#include "support/tiny_gguf.h"
#include "tune/generate.h"

#define N_PROMPTS 7
#define PREDICT 24
#define TOKENS_CAP 400

struct fixture {
    struct kvant_model *model;
    struct kvant_plan *f16, *k3, *k2, *broken;
    kvant_token tokens[N_PROMPTS][TOKENS_CAP];
    struct kvant_prompt prompts[N_PROMPTS];
};

static struct kvant_plan *open_plan(const struct kvant_model *model, const char *spec)
{
    struct kvant_error err = { 0 };
    struct kvant_plan *plan;
    if (kvant_plan_open(&plan, model, spec, &err) != KVANT_OK) fail_msg("%s", err.message);
    return plan;
}

/* Centres of the largest float16: minus one of them, turned by RoPE, a key is beyond float16. */
static struct kvant_plan *open_broken(const struct kvant_model *model)
{
    struct kvant_plan *plan = open_plan(model, "k4c64mv4");
    size_t n = (size_t)plan->n_layer * (size_t)plan->n_head_kv * (size_t)plan->head_dim;
    plan->center = kv_alloc(n, sizeof *plan->center);
    assert_non_null(plan->center);
    for (size_t i = 0; i < n; i++) plan->center[i] = 0x7bff;
    return plan;
}

static void random_tokens(kvant_token *tokens, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        tokens[i] = (kvant_token)((seed >> 33) % 250);
    }
}

static int setup(void **state)
{
    /* lengths: one token, a piece of a prompt (128) and around it, several pieces */
    static const size_t lengths[N_PROMPTS] = { 150, 1, 128, 129, 300, 127, 40 };
    struct tiny_gguf_options opt = { .arch = "qwen2", .weight_type = TINY_Q8_0, .n_head = 4, .n_head_kv = 2,
                                     .head_dim = 32, .seed = 21 };
    char path[SCRATCH_CAP];
    struct fixture *f = calloc(1, sizeof *f);
    assert_int_equal(tiny_gguf_write(scratch_path(path, "test_generate.gguf"), &opt, NULL), KVANT_OK);
    assert_int_equal(kvant_model_open(&f->model, path, NULL, NULL), KVANT_OK);
    unlink(path);
    f->f16 = open_plan(f->model, "f16");
    f->k3 = open_plan(f->model, "k3c32v3h;sinks=2;tail=8");
    f->k2 = open_plan(f->model, "k2tv2;sinks=0;tail=0");
    f->broken = open_broken(f->model);
    for (int i = 0; i < N_PROMPTS; i++) {
        random_tokens(f->tokens[i], lengths[i], (uint64_t)i + 5);
        f->prompts[i] = (struct kvant_prompt){ f->tokens[i], lengths[i] };
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kvant_plan_close(f->f16);
    kvant_plan_close(f->k3);
    kvant_plan_close(f->k2);
    kvant_plan_close(f->broken);
    kvant_model_close(f->model);
    free(f);
    return 0;
}

/* What a session and the greedy sampler make of a prompt: the whole prompt in one step, then token by
 * token. */
static size_t write_alone(const struct fixture *f, const struct kvant_plan *plan,
                          const struct kvant_prompt *prompt, kvant_token *out)
{
    struct kvant_session *s;
    struct kvant_sampler *sampler;
    struct kvant_model_info info;
    struct kvant_batch_entry entries[TOKENS_CAP];
    int seq;
    size_t n = 0;
    kvant_model_get_info(f->model, &info);
    assert_int_equal(kvant_session_open(&s, f->model, NULL, NULL), KVANT_OK);
    assert_int_equal(kvant_sampler_open(&sampler, info.n_vocab, NULL, NULL), KVANT_OK);
    assert_int_equal(kvant_sequence_open(s, plan, (int64_t)prompt->n_tokens + PREDICT, &seq, NULL), KVANT_OK);
    for (size_t i = 0; i < prompt->n_tokens; i++)
        entries[i] = (struct kvant_batch_entry){ seq, prompt->tokens[i], i + 1 == prompt->n_tokens };
    assert_int_equal(kvant_session_step(s, entries, prompt->n_tokens, NULL), KVANT_OK);
    while (n < PREDICT) {
        kvant_token next = kvant_sampler_next(sampler, kvant_session_logits(s, 0), NULL);
        if (kvant_token_is_end(f->model, next)) break;
        out[n++] = next;
        entries[0] = (struct kvant_batch_entry){ seq, next, true };
        if (n < PREDICT) assert_int_equal(kvant_session_step(s, entries, 1, NULL), KVANT_OK);
    }
    kvant_sampler_close(sampler);
    kvant_session_close(s);
    return n;
}

static void a_text_is_the_same_in_any_company(void **state)
{
    const struct fixture *f = *state;
    const struct kvant_plan *plans[] = { f->f16, f->k3, f->k2 };
    for (int n_sequences = 1; n_sequences <= 5; n_sequences += 2) {
        struct kv_plan_texts t;
        const struct kv_generate_options opt = { .n_sequences = n_sequences, .what = "writing" };
        assert_int_equal(
            kv_plan_texts_open(&t, f->model, false, plans, 3, f->prompts, N_PROMPTS, PREDICT, &opt, NULL),
            KVANT_OK);
        assert_int_equal(t.n_rows, 3);
        for (size_t i = 0; i < 3 * N_PROMPTS; i++) {
            kvant_token alone[PREDICT];
            const struct kv_generation *text = &t.texts[i];
            size_t n = write_alone(f, plans[i / N_PROMPTS], &f->prompts[i % N_PROMPTS], alone);
            assert_int_equal(text->n, n);
            assert_memory_equal(text->tokens, alone, n * sizeof *alone);
            assert_true(text->end == (n < PREDICT ? KV_GENERATION_ENDED : KV_GENERATION_CUT));
        }
        kv_plan_texts_close(&t);
    }
}

/* Prompts with the same first 200 tokens, one plan: read once. The same prompts with another plan between
 * each two: read each. */
static void a_common_beginning_changes_nothing(void **state)
{
    const struct fixture *f = *state;
    enum { N = 5 };
    kvant_token prompts[N][260], shared[N][PREDICT], apart[2 * N][PREDICT];
    struct kv_generation a[N] = { 0 }, b[2 * N] = { 0 };
    for (int i = 0; i < N; i++) {
        random_tokens(prompts[i], 200, 1);
        random_tokens(prompts[i] + 200, 60, (uint64_t)i + 100);
        a[i] = (struct kv_generation){ .plan = f->k3, .prompt = prompts[i], .n_prompt = 210 + 10 * (size_t)i,
                                       .n_predict = PREDICT, .tokens = shared[i] };
        b[2 * i] = a[i];
        b[2 * i].tokens = apart[2 * i];
        b[2 * i + 1] = b[2 * i];
        b[2 * i + 1].plan = f->f16;
        b[2 * i + 1].tokens = apart[2 * i + 1];
    }
    const struct kv_generate_options opt = { .n_sequences = 2, .what = "writing" };
    assert_int_equal(kv_generate(f->model, a, N, &opt, NULL), KVANT_OK);
    assert_int_equal(kv_generate(f->model, b, 2 * N, &opt, NULL), KVANT_OK);
    for (int i = 0; i < N; i++) {
        assert_int_equal(a[i].n, b[2 * i].n);
        assert_memory_equal(shared[i], apart[2 * i], a[i].n * sizeof(kvant_token));
        assert_true(a[i].n_cached >= a[i].n_prompt);
    }
    /* one prompt twice: the last token of each is read anyway, for its logits */
    a[1] = a[0];
    a[1].tokens = shared[1];
    assert_int_equal(kv_generate(f->model, a, 2, &opt, NULL), KVANT_OK);
    assert_int_equal(a[1].n, b[0].n);
    assert_memory_equal(shared[0], apart[0], a[0].n * sizeof(kvant_token));
    assert_memory_equal(shared[1], apart[0], a[1].n * sizeof(kvant_token));
}

struct stopper {
    size_t after;
    int n_calls;
};
static bool stop_after(void *user, size_t i, const struct kv_generation *text)
{
    struct stopper *s = user;
    s->n_calls++;
    return i == 2 && text->n == s->after;
}

static void texts_end_in_each_way(void **state)
{
    const struct fixture *f = *state;
    enum { N = 4, LONG = 300 };
    static kvant_token tokens[N][LONG];
    struct kv_generation texts[N] = { 0 };
    struct kvant_sampler *sampler[N];
    struct kvant_model_info info;
    kvant_model_get_info(f->model, &info);
    struct kvant_sampler_options hot = KVANT_SAMPLER_OPTIONS_INIT;
    hot.temperature = 50; /* nearly every token as likely: one of the three ends comes within some 90 */
    for (int i = 0; i < N; i++) {
        hot.seed = (uint64_t)i + 1;
        assert_int_equal(kvant_sampler_open(&sampler[i], info.n_vocab, &hot, NULL), KVANT_OK);
        texts[i] = (struct kv_generation){ .plan = i == 3 ? f->broken : f->f16, .prompt = f->tokens[0],
                                           .n_prompt = i == 3 ? 150 : 40,
                                           .sampler = sampler[i], .n_predict = i == 1 ? 2 : LONG,
                                           .tokens = tokens[i] };
    }
    struct stopper stopper = { .after = 3 };
    const struct kv_generate_options opt = { .what = "writing", .stop = stop_after, .hook_user = &stopper };
    assert_int_equal(kv_generate(f->model, texts, N, &opt, NULL), KVANT_OK);
    assert_int_equal(texts[0].end, KV_GENERATION_ENDED);
    assert_true(texts[0].n < LONG && texts[0].n_cached == 40 + texts[0].n);
    for (size_t i = 0; i < texts[0].n; i++) assert_false(kvant_token_is_end(f->model, tokens[0][i]));
    assert_int_equal(texts[1].end, KV_GENERATION_CUT);
    assert_int_equal(texts[1].n, 2);
    assert_int_equal(texts[1].n_cached, 41); /* the last token is chosen, not read */
    assert_int_equal(texts[2].end, KV_GENERATION_STOPPED);
    assert_int_equal(texts[2].n, 3);
    assert_int_equal(texts[3].end, KV_GENERATION_FAILED);
    assert_true(stopper.n_calls >= 5);
    for (int i = 0; i < N; i++) kvant_sampler_close(sampler[i]);
}

static bool count_progress(void *user, const char *what, int64_t done, int64_t total)
{
    int64_t *last = user; /* done, total, calls left before it is stopped */
    assert_non_null(what);
    assert_true(done >= last[0] && done <= total && (last[1] == 0 || last[1] == total));
    last[0] = done;
    last[1] = total;
    return --last[2] != 0;
}

static void work_can_be_enough_or_cancelled(void **state)
{
    const struct fixture *f = *state;
    const struct kvant_plan *plans[] = { f->f16 };
    struct kv_plan_texts t;
    struct kvant_error err = { 0 };
    int64_t last[3] = { 0, 0, -1 };
    struct kv_generate_options opt = { .n_sequences = 3, .what = "writing", .progress = count_progress,
                                       .user = last };
    assert_int_equal(
        kv_plan_texts_open(&t, f->model, true, plans, 1, f->prompts, N_PROMPTS, PREDICT, &opt, NULL),
        KVANT_OK);
    assert_true(last[0] == last[1]); /* all done at the end */
    kv_plan_texts_close(&t);

    memcpy(last, (int64_t[3]){ 0, 0, 4 }, sizeof last);
    assert_int_equal(
        kv_plan_texts_open(&t, f->model, true, plans, 1, f->prompts, N_PROMPTS, PREDICT, &opt, &err),
        KVANT_ERR_CANCELLED);
    assert_null(t.texts);

    memcpy(last, (int64_t[3]){ 0, 0, -1 }, sizeof last);
    opt.n_enough = 320;
    assert_int_equal(
        kv_plan_texts_open(&t, f->model, false, plans, 1, f->prompts, N_PROMPTS, PREDICT, &opt, NULL),
        KVANT_OK);
    size_t n = 0;
    for (size_t i = 0; i < N_PROMPTS; i++) n += t.texts[i].n_cached;
    assert_true(n >= 320 && n < 320 + 3 * 128 && last[0] == 320 && last[1] == 320);
    kv_plan_texts_close(&t);

    opt.n_sequences = 257;
    assert_int_equal(kv_plan_texts_open(&t, f->model, false, plans, 1, f->prompts, 1, 1, &opt, &err),
                     KVANT_ERR_ARGUMENT);
    opt.n_sequences = 1;
    assert_int_equal(kv_plan_texts_open(&t, f->model, false, plans, 1, f->prompts, 1, 0, &opt, &err),
                     KVANT_ERR_ARGUMENT);
}

/* ---------------------------------------------------------------------------------------- trajectories -- */

static void prompts_lie_evenly_in_the_text(void **state)
{
    (void)state;
    static const kvant_token text[103];
    struct kvant_prompt p[8];
    size_t n;
    kvant_trajectory_prompts(text, 103, 20, p, 4, &n);
    assert_int_equal(n, 4);
    for (size_t i = 0; i < 4; i++)
        assert_true(p[i].n_tokens == 20 && p[i].tokens >= text && p[i].tokens + 20 <= text + 103 &&
                    (i == 0 || p[i].tokens >= p[i - 1].tokens + 20));
    assert_true(p[0].tokens == text && p[3].tokens == text + 3 * 27);
    kvant_trajectory_prompts(text, 103, 20, p, 8, &n);
    assert_int_equal(n, 5);
    kvant_trajectory_prompts(text, 103, 103, p, 8, &n);
    assert_true(n == 1 && p[0].tokens == text);
    kvant_trajectory_prompts(text, 103, 104, p, 8, &n);
    assert_int_equal(n, 0);
    kvant_trajectory_prompts(text, 103, 0, p, 8, &n);
    assert_int_equal(n, 0);
    kvant_trajectory_prompts(text, 103, 20, NULL, 0, &n);
    assert_int_equal(n, 0);
}

static void trajectories_are_compared_token_by_token(void **state)
{
    const struct fixture *f = *state;
    const struct kvant_plan *plans[] = { f->f16, f->k3, f->k2 };
    struct kvant_trajectory_options opt = KVANT_TRAJECTORY_OPTIONS_INIT;
    struct kvant_trajectory_result r[3], one;
    struct kvant_error err = { 0 };
    int first[3 * N_PROMPTS], first_one[N_PROMPTS];
    opt.n_predict = PREDICT;
    opt.n_sequences = 4;
    if (kvant_trajectory_run(f->model, plans, 3, f->prompts, N_PROMPTS, &opt, r, first, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    assert_true(r[0].agreement == 100 && r[0].identical == 100 && r[0].n_failed == 0);
    for (int plan = 0; plan < 3; plan++) {
        double share = 0;
        int n_identical = 0;
        int64_t n_tokens = 0;
        for (int i = 0; i < N_PROMPTS; i++) {
            kvant_token base[PREDICT], own[PREDICT];
            size_t n_base = write_alone(f, f->f16, &f->prompts[i], base),
                   n_own = write_alone(f, plans[plan], &f->prompts[i], own), n = 0;
            size_t length = n_base < PREDICT ? n_base + 1 : n_base; /* its end is a token */
            while (n < n_base && n < n_own && base[n] == own[n]) n++;
            if (n == n_base && n == n_own) n = length;
            assert_int_equal(first[plan * N_PROMPTS + i], n);
            share += 100.0 * (double)n / (double)length / N_PROMPTS;
            n_identical += n == length;
            n_tokens += (int64_t)length;
        }
        assert_true(fabs(r[plan].agreement - share) < 1e-9);
        assert_true(fabs(r[plan].identical - 100.0 * n_identical / N_PROMPTS) < 1e-9);
        assert_int_equal(r[plan].n_tokens, n_tokens);
        assert_int_equal(r[plan].n_prompts, N_PROMPTS);
        assert_int_equal(kvant_trajectory_run(f->model, plans + plan, 1, f->prompts, N_PROMPTS, &opt, &one,
                                              first_one, &err),
                         KVANT_OK);
        assert_memory_equal(&one, &r[plan], sizeof one);
        assert_memory_equal(first_one, first + plan * N_PROMPTS, sizeof first_one);
    }
    assert_true(r[2].agreement < r[0].agreement);
}

static void a_plan_that_fails_parts_where_it_fails(void **state)
{
    const struct fixture *f = *state;
    const struct kvant_plan *plans[] = { f->broken, f->f16 };
    struct kvant_trajectory_result r[2];
    struct kvant_error err = { .message = "untouched" };
    assert_int_equal(kvant_trajectory_run(f->model, plans, 2, f->prompts, N_PROMPTS, NULL, r, NULL, &err),
                     KVANT_OK);
    assert_string_equal(err.message, "untouched");
    assert_true(r[0].n_failed >= 1 && r[0].agreement < 100);
    assert_true(r[1].n_failed == 0 && r[1].agreement == 100);

    struct kvant_trajectory_options opt = KVANT_TRAJECTORY_OPTIONS_INIT;
    opt.n_predict = -1;
    assert_int_equal(kvant_trajectory_run(f->model, plans, 1, f->prompts, 1, &opt, r, NULL, &err),
                     KVANT_ERR_ARGUMENT);
    opt = (struct kvant_trajectory_options){ 0 };
    assert_int_equal(kvant_trajectory_run(f->model, plans, 1, f->prompts, 1, &opt, r, NULL, &err),
                     KVANT_ERR_ARGUMENT);
    assert_int_equal(kvant_trajectory_run(f->model, plans, 1, f->prompts, 0, NULL, r, NULL, &err),
                     KVANT_ERR_ARGUMENT);
    const struct kvant_prompt empty = { f->tokens[0], 0 };
    assert_int_equal(kvant_trajectory_run(f->model, plans, 1, &empty, 1, NULL, r, NULL, &err),
                     KVANT_ERR_ARGUMENT);
    const kvant_token unknown = 1 << 20;
    const struct kvant_prompt odd = { &unknown, 1 };
    assert_int_equal(kvant_trajectory_run(f->model, plans, 1, &odd, 1, NULL, r, NULL, &err),
                     KVANT_ERR_ARGUMENT);
}

/* -------------------------------------------------------------------------------------------- accuracy -- */

struct answers {
    char found[4][N_PROMPTS][64]; /* of the base, then of each plan */
    bool correct[4][N_PROMPTS];
    char text[4][N_PROMPTS][512];
    int n;
};
static void keep_answer(void *user, int plan, size_t question, const struct kvant_answer *answer)
{
    struct answers *a = user;
    assert_int_equal(a->n++, (plan + 1) * N_PROMPTS + (int)question); /* in order */
    assert_int_equal(strlen(answer->text), answer->n_bytes); /* random bytes, but no zero among these */
    snprintf(a->found[plan + 1][question], 64, "%s", answer->extracted);
    snprintf(a->text[plan + 1][question], 512, "%s", answer->text);
    a->correct[plan + 1][question] = answer->is_correct;
}

static void answers_are_counted_in_pairs(void **state)
{
    const struct fixture *f = *state;
    const struct kvant_plan *plans[] = { f->f16, f->k3, f->k2 };
    struct kvant_question questions[N_PROMPTS];
    struct kvant_accuracy_options opt = KVANT_ACCURACY_OPTIONS_INIT;
    struct kvant_accuracy_result r[3], base, one;
    static struct answers a, b;
    struct kvant_error err = { 0 };
    opt.n_predict = 60;
    opt.on_answer = keep_answer;
    opt.user = &a;
    memset(&a, 0, sizeof a);
    for (int i = 0; i < N_PROMPTS; i++)
        questions[i] = (struct kvant_question){ f->prompts[i].tokens, f->prompts[i].n_tokens, "1", NULL, 0 };
    if (kvant_accuracy_run(f->model, plans, 3, questions, N_PROMPTS, &opt, r, &base, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    int n_answered = 0;
    for (int i = 0; i < N_PROMPTS; i++) n_answered += a.found[0][i][0] != 0;
    assert_true(n_answered >= 2); /* or the rest tests nothing: choose another seed */

    /* what the base says is right, but for one question */
    bool has_wrong = false;
    for (int i = 0; i < N_PROMPTS; i++) {
        questions[i].answer = a.found[0][i][0] ? a.found[0][i] : "1";
        if (!has_wrong && a.found[0][i][0]) {
            questions[i].answer = strcmp(a.found[0][i], "1") == 0 ? "2" : "1";
            has_wrong = true;
        }
    }
    memset(&b, 0, sizeof b);
    opt.user = &b;
    assert_int_equal(kvant_accuracy_run(f->model, plans, 3, questions, N_PROMPTS, &opt, r, &base, &err),
                     KVANT_OK);
    assert_int_equal(base.n, N_PROMPTS);
    assert_int_equal(base.n_correct, n_answered - 1);
    assert_int_equal(base.n_unanswered, N_PROMPTS - n_answered);
    assert_true(fabs(base.accuracy - 100.0 * (n_answered - 1) / N_PROMPTS) < 1e-9);
    assert_true(base.low <= base.accuracy && base.accuracy <= base.high);
    for (int plan = 0; plan < 3; plan++) {
        int n_correct = 0, n_lost = 0, n_won = 0;
        for (int i = 0; i < N_PROMPTS; i++) {
            assert_true(b.correct[plan + 1][i] == (strcmp(b.found[plan + 1][i], questions[i].answer) == 0));
            n_correct += b.correct[plan + 1][i];
            n_lost += b.correct[0][i] && !b.correct[plan + 1][i];
            n_won += !b.correct[0][i] && b.correct[plan + 1][i];
        }
        assert_true(r[plan].n_correct == n_correct && r[plan].n_lost == n_lost && r[plan].n_won == n_won);
        assert_true(r[plan].n_correct - base.n_correct == n_won - n_lost);
        opt.on_answer = NULL;
        opt.no_base = true;
        assert_int_equal(
            kvant_accuracy_run(f->model, plans + plan, 1, questions, N_PROMPTS, &opt, &one, NULL, &err),
            KVANT_OK);
        assert_true(one.n_correct == n_correct && one.n_tokens == r[plan].n_tokens && isnan(one.p_value));
    }
    assert_true(r[0].n_correct == base.n_correct && r[0].n_lost == 0 && r[0].p_value == 1.0);
}

static void an_answer_ends_before_its_stop(void **state)
{
    const struct fixture *f = *state;
    struct kvant_question questions[N_PROMPTS];
    struct kvant_accuracy_options opt = KVANT_ACCURACY_OPTIONS_INIT;
    struct kvant_accuracy_result whole, cut;
    static struct answers a, b;
    struct kvant_error err = { 0 };
    char stop[4] = "";
    opt.n_predict = 60;
    opt.on_answer = keep_answer;
    opt.user = &a;
    memset(&a, 0, sizeof a);
    for (int i = 0; i < N_PROMPTS; i++)
        questions[i] = (struct kvant_question){ f->prompts[i].tokens, f->prompts[i].n_tokens, "#### 1", NULL,
                                                0 };
    assert_int_equal(kvant_accuracy_run(f->model, NULL, 0, questions, N_PROMPTS, &opt, NULL, &whole, &err),
                     KVANT_OK);
    assert_true(strlen(a.text[0][0]) > 20);
    memcpy(stop, a.text[0][0] + 10, 3); /* three bytes out of the first answer */
    const char *const stops[] = { "never to be seen", stop };
    opt.stops = stops;
    opt.n_stops = 2;
    opt.user = &b;
    memset(&b, 0, sizeof b);
    assert_int_equal(kvant_accuracy_run(f->model, NULL, 0, questions, N_PROMPTS, &opt, NULL, &cut, &err),
                     KVANT_OK);
    assert_true(strlen(b.text[0][0]) <= 10);
    for (int i = 0; i < N_PROMPTS; i++) {
        const char *at = strstr(a.text[0][i], stop);
        size_t n = at ? (size_t)(at - a.text[0][i]) : strlen(a.text[0][i]);
        assert_int_equal(strlen(b.text[0][i]), n);
        assert_memory_equal(b.text[0][i], a.text[0][i], n);
    }
    assert_true(cut.n_tokens < whole.n_tokens); /* it ended there, it was not only cut afterwards */

    static const char *const empty[] = { "" };
    opt.stops = empty;
    opt.n_stops = 1;
    assert_int_equal(kvant_accuracy_run(f->model, NULL, 0, questions, 1, &opt, NULL, NULL, &err),
                     KVANT_ERR_ARGUMENT);
    opt.n_stops = 0;
    questions[3].answer = "none";
    assert_int_equal(kvant_accuracy_run(f->model, NULL, 0, questions, N_PROMPTS, &opt, NULL, NULL, &err),
                     KVANT_ERR_ARGUMENT);
    assert_int_equal(err.position, 3);
    assert_non_null(strstr(err.message, "'none' holds no number"));
    assert_int_equal(kvant_accuracy_run(f->model, NULL, 0, questions, 0, &opt, NULL, NULL, &err),
                     KVANT_ERR_ARGUMENT);
    opt.size = 0;
    assert_int_equal(kvant_accuracy_run(f->model, NULL, 0, questions, 1, &opt, NULL, NULL, &err),
                     KVANT_ERR_ARGUMENT);
}

static void answers_of_a_plan_that_fails_are_wrong(void **state)
{
    const struct fixture *f = *state;
    const struct kvant_plan *plans[] = { f->broken };
    const struct kvant_question q = { f->prompts[0].tokens, f->prompts[0].n_tokens, "1", NULL, 0 };
    struct kvant_accuracy_result r;
    assert_int_equal(kvant_accuracy_run(f->model, plans, 1, &q, 1, NULL, &r, NULL, NULL), KVANT_OK);
    assert_true(r.n_failed == 1 && r.n_correct == 0 && r.n == 1);
}

/* The likeliest of the choices, from logits of a session of its own. */
static char likeliest(const struct kvant_model *model, const struct kvant_plan *plan,
                      const struct kvant_prompt *prompt, const kvant_token *choices, int n)
{
    struct kvant_session_options opt = KVANT_SESSION_OPTIONS_INIT;
    struct kvant_session *session;
    struct kvant_batch_entry entries[TOKENS_CAP];
    struct kvant_error err = { 0 };
    int seq, best = 0;
    opt.n_batch = TOKENS_CAP;
    if (kvant_session_open(&session, model, &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    assert_int_equal(kvant_sequence_open(session, plan, TOKENS_CAP, &seq, &err), KVANT_OK);
    /* in pieces of 128 tokens, as a quantized cache reads what is before a piece */
    for (size_t at = 0; at < prompt->n_tokens;) {
        size_t n_piece = prompt->n_tokens - at < 128 ? prompt->n_tokens - at : 128;
        for (size_t i = 0; i < n_piece; i++)
            entries[i] = (struct kvant_batch_entry){ seq, prompt->tokens[at + i],
                                                     at + i + 1 == prompt->n_tokens };
        assert_int_equal(kvant_session_step(session, entries, n_piece, &err), KVANT_OK);
        at += n_piece;
    }
    const float *logits = kvant_session_logits(session, 0);
    for (int i = 1; i < n; i++)
        if (logits[choices[i]] > logits[choices[best]]) best = i;
    kvant_session_close(session);
    return (char)('A' + best);
}

static void a_choice_is_the_likeliest_of_its_tokens(void **state)
{
    const struct fixture *f = *state;
    const struct kvant_plan *plans[] = { f->k3, f->k2 };
    struct kvant_question questions[N_PROMPTS];
    struct kvant_accuracy_options opt = KVANT_ACCURACY_OPTIONS_INIT;
    struct kvant_accuracy_result r[2], base;
    struct kvant_error err = { 0 };
    static struct answers a;
    kvant_token letters[5];
    size_t n;
    bool differs = false;
    for (int i = 0; i < 5; i++) {
        char text[2] = { (char)('A' + i), 0 };
        assert_int_equal(kvant_tokenize(f->model, text, 1, 0, &letters[i], 1, &n, &err), KVANT_OK);
        assert_int_equal(n, 1);
    }
    for (int i = 0; i < N_PROMPTS; i++)
        questions[i] = (struct kvant_question){ f->prompts[i].tokens, f->prompts[i].n_tokens, "C", letters,
                                                i == 3 ? 3 : 5 };
    memset(&a, 0, sizeof a);
    opt.kind = KVANT_ANSWER_LETTER;
    opt.on_answer = keep_answer;
    opt.user = &a;
    if (kvant_accuracy_run(f->model, plans, 2, questions, N_PROMPTS, &opt, r, &base, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    assert_true(base.n_tokens == N_PROMPTS && base.n_unanswered == 0);
    for (int plan = 0; plan < 3; plan++)
        for (int i = 0; i < N_PROMPTS; i++) {
            char right[2] = { likeliest(f->model, plan ? plans[plan - 1] : f->f16, &f->prompts[i], letters,
                                        i == 3 ? 3 : 5),
                              0 };
            assert_string_equal(a.found[plan][i], right);
            assert_true(a.correct[plan][i] == (right[0] == 'C'));
            differs |= strcmp(a.found[plan][i], a.found[plan][0]) != 0;
        }
    assert_true(differs); /* or nothing was tested */

    const kvant_token unknown[] = { letters[0], 1 << 20 };
    questions[2].choices = unknown;
    questions[2].n_choices = 2;
    assert_int_equal(kvant_accuracy_run(f->model, plans, 2, questions, N_PROMPTS, &opt, r, &base, &err),
                     KVANT_ERR_ARGUMENT);
    assert_true(err.position == 2 && strstr(err.message, "choice 1 is token 1048576"));
}

/* ------------------------------------------------------------------------------------------------ gate -- */

static void the_gate_gives_its_reason(void **state)
{
    (void)state;
    const struct kvant_eval_result good = { .kld_mean = .01, .same_top_p = 95 },
                                   weak = { .kld_mean = .9, .same_top_p = 62.55 },
                                   infinite = { .kld_mean = INFINITY, .same_top_p = 95 },
                                   nan = { .kld_mean = NAN, .same_top_p = 0 };
    const struct kvant_trajectory_result near = { .agreement = 30, .n_prompts = 8 },
                                         far = { .agreement = .9, .n_prompts = 8 },
                                         failed = { .agreement = 30, .n_prompts = 8, .n_failed = 2 };
    static const struct kvant_gate strict = { sizeof strict, 96, 0 }, lax = { sizeof lax, 50, .5 },
                                   faithful = { sizeof faithful, 0, 31 };
    const struct {
        const struct kvant_gate *gate;
        const struct kvant_eval_result *measured;
        const struct kvant_trajectory_result *trajectory;
        const char *says; /* NULL: passed */
    } rows[] = {
        { NULL, &good, NULL, NULL },      { NULL, &good, &near, NULL },
        { NULL, &weak, NULL, "62.5" },    { NULL, &weak, &near, "80 % are the least" },
        { NULL, &infinite, &near, "not finite" }, { NULL, &nan, NULL, "not finite" },
        { NULL, &good, &far, "0.9 %" },   { NULL, &good, &failed, "2 of 8 prompts" },
        { &strict, &good, &near, "96 % are the least" }, { &lax, &weak, &far, NULL },
        { &faithful, &good, &near, "31 % are the least" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kvant_verdict v;
        kvant_gate_judge(rows[i].gate, rows[i].measured, rows[i].trajectory, &v);
        if (v.collapsed != (rows[i].says != NULL) || (v.reason[0] != 0) != v.collapsed ||
            (rows[i].says && !strstr(v.reason, rows[i].says)))
            fail_msg("row %zu: %d '%s'", i, v.collapsed, v.reason);
        assert_true(v.same_top_p == rows[i].measured->same_top_p);
        assert_true(rows[i].trajectory ? v.agreement == rows[i].trajectory->agreement : isnan(v.agreement));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_is_the_same_in_any_company),
        cmocka_unit_test(a_common_beginning_changes_nothing),
        cmocka_unit_test(texts_end_in_each_way),
        cmocka_unit_test(work_can_be_enough_or_cancelled),
        cmocka_unit_test(prompts_lie_evenly_in_the_text),
        cmocka_unit_test(trajectories_are_compared_token_by_token),
        cmocka_unit_test(a_plan_that_fails_parts_where_it_fails),
        cmocka_unit_test(answers_are_counted_in_pairs),
        cmocka_unit_test(an_answer_ends_before_its_stop),
        cmocka_unit_test(answers_of_a_plan_that_fails_are_wrong),
        cmocka_unit_test(a_choice_is_the_likeliest_of_its_tokens),
        cmocka_unit_test(the_gate_gives_its_reason),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
