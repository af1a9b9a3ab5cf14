/*
 * A plan whose cache cannot hold a sequence's rows: the step names the sequence, the others of the batch go
 * on, and an evaluation counts the plan as collapsed.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "cache/plan.h"
#include "support/scratch.h"
#include "support/tiny_gguf.h"
#include "tune/eval.h"

#define N_TOKENS 300
#define N_CTX 150 /* two chunks: the plan collapses in each of them anew */

struct fixture {
    struct kvant_model *model;
    struct kvant_plan *sound, *broken;
    kvant_token tokens[N_TOKENS];
};

/* Centres of the largest float16: minus one of them, turned by RoPE, a key is beyond float16. */
static struct kvant_plan *open_broken(const struct kvant_model *model)
{
    struct kvant_plan *plan;
    assert_int_equal(kvant_plan_open(&plan, model, "k4c64mv4", NULL), KVANT_OK);
    size_t n = (size_t)plan->n_layer * (size_t)plan->n_head_kv * (size_t)plan->head_dim;
    plan->center = kv_alloc(n, sizeof *plan->center);
    assert_non_null(plan->center);
    for (size_t i = 0; i < n; i++) plan->center[i] = 0x7bff;
    return plan;
}

static int setup(void **state)
{
    struct tiny_gguf_options opt = { .arch = "llama", .weight_type = TINY_Q8_0, .n_layer = 2, .n_embd = 64,
                                     .n_head = 2, .n_head_kv = 1, .head_dim = 32, .seed = 3 };
    char path[SCRATCH_CAP];
    struct fixture *f = calloc(1, sizeof *f);
    assert_int_equal(tiny_gguf_write(scratch_path(path, "test_collapse.gguf"), &opt, NULL), KVANT_OK);
    assert_int_equal(kvant_model_open(&f->model, path, NULL, NULL), KVANT_OK);
    assert_int_equal(kvant_plan_open(&f->sound, f->model, "k4c64v4", NULL), KVANT_OK);
    f->broken = open_broken(f->model);
    for (int i = 0; i < N_TOKENS; i++) f->tokens[i] = (kvant_token)(i * 37 % 250);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kvant_plan_close(f->sound);
    kvant_plan_close(f->broken);
    kvant_model_close(f->model);
    free(f);
    return 0;
}

static void a_step_names_the_sequence_that_fails(void **state)
{
    struct fixture *f = *state;
    struct kvant_session *s;
    struct kvant_error err = { .message = "" };
    struct kvant_batch_entry entries[2 * N_CTX];
    int seq[2];
    assert_int_equal(kvant_session_open(&s, f->model, NULL, NULL), KVANT_OK);
    assert_int_equal(kvant_sequence_open(s, f->sound, N_TOKENS, &seq[0], NULL), KVANT_OK);
    assert_int_equal(kvant_sequence_open(s, f->broken, N_TOKENS, &seq[1], NULL), KVANT_OK);
    for (int i = 0; i < 2 * N_CTX; i++)
        entries[i] = (struct kvant_batch_entry){ seq[i % 2], f->tokens[i / 2], false };
    assert_int_equal(kvant_session_step(s, entries, 2 * N_CTX, &err), KVANT_ERR_NUMERIC);
    assert_memory_equal(err.message, "sequence 1: layer 0, ", strlen("sequence 1: layer 0, "));

    struct kvant_sequence_stats stats;
    assert_int_equal(kvant_sequence_get_stats(s, seq[0], &stats), KVANT_OK);
    assert_int_equal(stats.n_tokens, N_CTX);
    entries[0].want_logits = true;
    assert_int_equal(kvant_session_step(s, entries, 1, &err), KVANT_OK);
    assert_true(isfinite(kvant_session_logits(s, 0)[0]));
    assert_int_equal(kvant_session_step(s, entries + 1, 1, &err), KVANT_ERR_ARGUMENT);
    kvant_session_close(s);
}

static bool ignore_logits(void *user, const float *logits, int n_rows, int n_vocab)
{
    (void)user, (void)logits, (void)n_rows, (void)n_vocab;
    return true;
}

static void an_evaluation_counts_it_as_collapsed(void **state)
{
    struct fixture *f = *state;
    const struct kvant_plan *plans[] = { f->sound, f->broken, f->sound };
    struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    struct kvant_eval_result all[3], alone;
    struct kvant_error err = { .message = "untouched" };
    opt.n_ctx = N_CTX;
    assert_int_equal(kvant_eval_run(f->model, plans, 3, f->tokens, N_TOKENS, &opt, all, NULL, &err),
                     KVANT_OK);
    assert_string_equal(err.message, "untouched");
    assert_int_equal(kvant_eval_run(f->model, plans, 1, f->tokens, N_TOKENS, &opt, &alone, NULL, &err),
                     KVANT_OK);
    assert_true(isinf(all[1].kld_mean) && isinf(all[1].ppl) && all[1].same_top_p < 100.0);
    assert_int_equal(all[1].n_scored, N_TOKENS - 2);
    struct kvant_verdict verdict;
    char why[128];
    kvant_gate_judge(NULL, &all[1], NULL, &verdict);
    assert_true(verdict.collapsed);
    assert_string_equal(verdict.reason, "its logits are not finite");
    kvant_plan_set_verdict(f->broken, &verdict);
    assert_true(kvant_plan_is_refused(f->broken, why, sizeof why));
    all[1].kld_mean = NAN;
    kvant_gate_judge(NULL, &all[1], NULL, &verdict);
    assert_true(verdict.collapsed);
    for (int i = 0; i < 3; i += 2) {
        assert_true(isfinite(all[i].kld_mean));
        assert_float_equal(all[i].kld_mean, alone.kld_mean, 1e-3f * (float)alone.kld_mean);
        assert_float_equal(all[i].same_top_p, alone.same_top_p, 1.0);
    }

    /* logits of a collapsed plan are asked for: there are none */
    opt.on_logits = ignore_logits;
    assert_int_equal(kvant_eval_run(f->model, plans + 1, 1, f->tokens, N_TOKENS, &opt, all, NULL, &err),
                     KVANT_ERR_NUMERIC);
    assert_non_null(strstr(err.message, "sequence 1: layer 0"));
}

static void so_does_one_of_likely_tokens(void **state)
{
    struct fixture *f = *state;
    const struct kvant_plan *plans[] = { f->broken, f->sound };
    struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    struct kvant_eval_result both[2], alone;
    opt.n_ctx = N_CTX;
    assert_int_equal(kv_eval_run(f->model, plans, 2, f->tokens, N_TOKENS, &opt, true, both, NULL, NULL),
                     KVANT_OK);
    assert_int_equal(kv_eval_run(f->model, plans + 1, 1, f->tokens, N_TOKENS, &opt, true, &alone, NULL, NULL),
                     KVANT_OK);
    assert_true(isinf(both[0].kld_mean) && both[0].n_scored == N_TOKENS - 2);
    assert_memory_equal(&both[1], &alone, sizeof alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_names_the_sequence_that_fails),
        cmocka_unit_test(an_evaluation_counts_it_as_collapsed),
        cmocka_unit_test(so_does_one_of_likely_tokens),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
