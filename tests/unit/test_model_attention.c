/*
 * Attention over codes on both real models: what rounding queries and probabilities changes, against what the
 * plan itself changes. KLD of the logits at the last positions of a WikiText passage.
 *
 *     own    = KL(16 bits in float32 || plan in float32)
 *     change = KL(plan in float32 || plan over codes), on the same codes: one sequence is filled in float32,
 *              and each scored token is also given to a fork of it, over codes
 *
 * Left to itself a sequence over codes gets other codes: any change, however small, moves some keys over the
 * edge between two codes. That changes the logits more, and is no worse against 16 bits (docs/attention.md).
 * For the same reason the plans here have a tail: without one a query's own token is read from codes that
 * this step makes.
 */
#include "model/model.h"
#include "support/reference.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_TOKENS = 560, N_SCORED = 48 };

static const char *const specs[] = {
    "f16", "k8v8", "k4v4", "k3c64v3h", "k2c32v2h", "k4tmhv4h", "k2.5c64xmv2h", "k16v4h", /* both models */
    "k8tv8", "k4c64v4", "k3c64xmv3h", "k2.5c64xmsv2hs", "k4tv4", "k4tmv4", "k4c64v16", "k8c64v4g32",
    "k4c64hv2g32h", /* the small one */
};

static double kld(const float *p, const float *q, int n)
{
    double p_max = -INFINITY, q_max = -INFINITY, p_sum = 0, q_sum = 0, sum = 0;
    for (int i = 0; i < n; i++) {
        p_max = fmax(p_max, (double)p[i]);
        q_max = fmax(q_max, (double)q[i]);
    }
    for (int i = 0; i < n; i++) {
        p_sum += exp((double)p[i] - p_max);
        q_sum += exp((double)q[i] - q_max);
    }
    double shift = q_max + log(q_sum) - p_max - log(p_sum);
    for (int i = 0; i < n; i++)
        sum += exp((double)p[i] - p_max) / p_sum * ((double)p[i] - (double)q[i] + shift);
    return sum;
}

static double mean_kld(const float *p, const float *q, int n_vocab)
{
    double sum = 0;
    for (size_t i = 0; i < N_SCORED; i++)
        sum += kld(p + i * (size_t)n_vocab, q + i * (size_t)n_vocab, n_vocab);
    return sum / N_SCORED;
}

/* Skips where there is none, before anything is opened. */
static FILE *open_passage(void)
{
    const char *folder = getenv("KVANT_DATA");
    char path[4096];
    snprintf(path, sizeof path, "%s/wikitext-2/valid.txt", folder && *folder ? folder : "../shared/data");
    FILE *f = fopen(path, "rb");
    if (!f) {
        print_message("%s is missing\n", path);
        skip();
    }
    return f;
}

static kvant_token *passage(const struct kvant_model *model, FILE *f)
{
    char text[8192];
    size_t n = fread(text, 1, sizeof text, f), n_tokens;
    fclose(f);
    kvant_token *tokens = calloc(sizeof text, sizeof *tokens);
    assert_non_null(tokens);
    assert_int_equal(kvant_tokenize(model, text, n, KVANT_TOKENIZE_BOS, tokens, sizeof text, &n_tokens, NULL),
                     KVANT_OK);
    assert_true(n_tokens >= N_TOKENS);
    return tokens;
}

/* Logits of the last N_SCORED tokens, one by one, in float32 and by a fork over codes. */
static void both_ways(struct kvant_model *model, const struct kvant_plan *plan, const kvant_token *tokens,
                      size_t n_vocab, float *plain, float *fast)
{
    struct kvant_session_options opt = KVANT_SESSION_OPTIONS_INIT;
    struct kvant_session *session;
    struct kvant_batch_entry entries[N_TOKENS];
    struct kvant_error err;
    int seq, fork;
    opt.n_sequences = 2;
    opt.n_logits = 1;
    model->attn = KVANT_ATTN_F32;
    if (kvant_session_open(&session, model, &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    assert_int_equal(kvant_sequence_open(session, plan, N_TOKENS, &seq, NULL), KVANT_OK);
    for (int i = 0; i < N_TOKENS; i++)
        entries[i] = (struct kvant_batch_entry){ seq, tokens[i], i >= N_TOKENS - N_SCORED };
    assert_int_equal(kvant_session_step(session, entries, N_TOKENS - N_SCORED, NULL), KVANT_OK);
    for (int i = N_TOKENS - N_SCORED; i < N_TOKENS; i++, plain += n_vocab, fast += n_vocab) {
        assert_int_equal(kvant_sequence_fork(session, seq, &fork, NULL), KVANT_OK);
        model->attn = KVANT_ATTN_CODES;
        struct kvant_batch_entry own = { fork, tokens[i], true };
        assert_int_equal(kvant_session_step(session, &own, 1, NULL), KVANT_OK);
        memcpy(fast, kvant_session_logits(session, 0), n_vocab * sizeof *fast);
        kvant_sequence_close(session, fork);
        model->attn = KVANT_ATTN_F32;
        assert_int_equal(kvant_session_step(session, &entries[i], 1, NULL), KVANT_OK);
        memcpy(plain, kvant_session_logits(session, 0), n_vocab * sizeof *plain);
    }
    kvant_session_close(session);
}

static void check_model(const char *file, size_t n_specs)
{
    char path[4096];
    if (!reference_find_model(file, path, sizeof path)) skip();
    FILE *text = open_passage();
    struct kvant_model *model = reference_open_model(path, KVANT_ACT_INT16, KVANT_ATTN_F32);
    struct kvant_model_info info;
    kvant_model_get_info(model, &info);
    kvant_token *tokens = passage(model, text);
    size_t n = (size_t)N_SCORED * (size_t)info.n_vocab;
    float *base = malloc(n * sizeof *base), *plain = malloc(n * sizeof *plain),
          *fast = malloc(n * sizeof *fast);
    assert_true(base && plain && fast);
    struct kvant_plan *f16 = reference_open_plan(model, "f16");
    both_ways(model, f16, tokens, (size_t)info.n_vocab, base, fast);
    int n_missed = 0;
    for (size_t i = 0; i < n_specs; i++) {
        struct kvant_plan *plan = reference_open_plan(model, specs[i]);
        if (kvant_plan_needs_calibration(plan))
            assert_int_equal(kvant_plan_calibrate(plan, model, tokens, 512, NULL, NULL, NULL), KVANT_OK);
        both_ways(model, plan, tokens, (size_t)info.n_vocab, plain, fast);
        double own = mean_kld(base, plain, info.n_vocab), change = mean_kld(plain, fast, info.n_vocab);
        bool missed = i == 0 ? change > 1e-5 || own > 1e-5 : change > 0.02 * own;
        print_message("%-22s own %.2e  change %.1e = %5.2f %%%s\n", specs[i], own, change,
                      own > 1e-12 ? 100 * change / own : 0.0, missed ? "  MISSED" : "");
        n_missed += missed;
        kvant_plan_close(plan);
    }
    kvant_plan_close(f16);
    free(tokens);
    free(base);
    free(plain);
    free(fast);
    kvant_model_close(model);
    assert_int_equal(n_missed, 0);
}

static void smollm2(void **state)
{
    (void)state;
    check_model("SmolLM2-135M-Instruct.Q4_1.gguf", sizeof specs / sizeof *specs);
}

static void qwen(void **state)
{
    (void)state;
    check_model("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(smollm2), cmocka_unit_test(qwen) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
