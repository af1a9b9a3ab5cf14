/*
 * KLDs over likely tokens: which tokens those are, their logits against the weights in double, and plans
 * against the same evaluation over all tokens.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "support/scratch.h"
#include "support/tiny_gguf.h"
#include "tune/eval.h"
#include "tune/likely.h"

#define N_TOKENS 300
#define MANY 40000 /* more than KV_LIKELY_MAX */

static struct kvant_model *open_tiny(int weight_type, int n_vocab)
{
    struct tiny_gguf_options opt = { .arch = "llama", .seed = 9, .weight_type = weight_type,
                                     .n_vocab = n_vocab };
    char path[SCRATCH_CAP];
    struct kvant_model *model;
    assert_int_equal(tiny_gguf_write(scratch_path(path, "test_likely.gguf"), &opt, NULL), KVANT_OK);
    assert_int_equal(kvant_model_open(&model, path, NULL, NULL), KVANT_OK);
    return model;
}

/* |logit − Σ w x| over Σ |w x|, at most. */
static double worst_error(const struct kvant_model *m, const struct kv_likely *l, const float *x, int n_rows)
{
    int k = m->hp.n_embd;
    float *w = calloc((size_t)k, sizeof *w);
    void *scratch = kv_alloc(kv_matmul_scratch_bytes(k), 1);
    double worst = 0.0;
    for (int i = 0; i < l->n; i++) {
        kv_weight_row_to_f32(&m->kernels, m->output->type,
                             m->output->data + (size_t)l->token[i] * m->output->row_bytes, k, w, scratch);
        for (int row = 0; row < n_rows; row++) {
            double sum = 0.0, size = 0.0;
            for (int j = 0; j < k; j++) {
                sum += (double)w[j] * (double)x[row * k + j];
                size += fabs((double)w[j] * (double)x[row * k + j]);
            }
            worst = fmax(worst, fabs((double)l->logits[row * l->n + i] - sum) / size);
        }
    }
    free(w);
    kv_free(scratch);
    return worst;
}

static void fill(float *x, int n)
{
    for (int i = 0; i < n; i++) x[i] = sinf((float)(i * i));
}

static void likely_tokens_and_the_next_one_are_listed(void **state)
{
    (void)state;
    static const int types[] = { TINY_F32, TINY_F16, TINY_Q8_0, TINY_Q4_1 };
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        struct kvant_model *m = open_tiny(types[t], 0);
        struct kv_likely l = { 0 };
        float logits[TINY_VOCAB_MIN], x[3 * 64];
        assert_int_equal(kv_likely_open(&l, m, 3, NULL), KVANT_OK);
        fill(x, 3 * 64);
        for (int i = 0; i < TINY_VOCAB_MIN; i++) logits[i] = -40.0f;
        logits[5] = 0.0f;
        logits[7] = -13.7f; /* 1.1e-6 */
        logits[9] = -14.0f; /* 8e-7   */
        kv_likely_set(&l, m, logits, 20, x, 3);
        assert_int_equal(l.n, 3);
        assert_int_equal(l.next, 2);
        assert_true(l.token[0] == 5 && l.token[1] == 7 && l.token[2] == 20);
        assert_true(worst_error(m, &l, x, 3) < 64 * 0x1p-24);
        kv_likely_set(&l, m, logits, 5, x, 3);
        assert_true(l.n == 2 && l.next == 0);
        logits[0] = NAN;
        kv_likely_set(&l, m, logits, 5, x, 3);
        assert_true(l.n == 1 && l.token[0] == 5);
        kv_likely_close(&l);
        kvant_model_close(m);
    }
}

static void of_too_many_the_likeliest_are_taken(void **state)
{
    (void)state;
    struct kvant_model *m = open_tiny(TINY_Q8_0, MANY);
    struct kv_likely l = { 0 };
    float *logits = calloc(MANY, sizeof *logits), x[64];
    assert_int_equal(kv_likely_open(&l, m, 1, NULL), KVANT_OK);
    fill(x, 64);
    for (int i = 0; i < MANY; i++) logits[i] = -1e-4f * (float)i; /* all have at least 1.8e-6 */
    kv_likely_set(&l, m, logits, MANY - 1, x, 1);
    assert_in_range(l.n, KV_LIKELY_MAX / 2, KV_LIKELY_MAX);
    assert_int_equal(l.next, l.n - 1);
    assert_int_equal(l.token[l.next], MANY - 1);
    for (int i = 0; i < l.next; i++) assert_int_equal(l.token[i], i);
    kv_likely_close(&l);
    kvant_model_close(m);
    free(logits);
}

/* All tokens of a tiny model are likely, so nothing is left out. */
static void plans_have_the_numbers_of_all_tokens(void **state)
{
    (void)state;
    struct kvant_model *model = open_tiny(TINY_Q8_0, 0);
    struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    struct kvant_plan *plans[3];
    struct kvant_eval_result full[3], likely[3], alone, base[2];
    kvant_token tokens[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++) tokens[i] = (kvant_token)(i * i * 37 % 251);
    static const char *const specs[] = { "f16", "0:k16v16,1:k2c64v2h", "k3c64v4h" };
    for (int i = 0; i < 3; i++)
        assert_int_equal(kvant_plan_open(&plans[i], model, specs[i], NULL), KVANT_OK);
    const struct kvant_plan *const *list = (const struct kvant_plan *const *)plans;
    opt.n_ctx = 130; /* three chunks */
    for (int likely_only = 0; likely_only < 2; likely_only++)
        assert_int_equal(kv_eval_run(model, list, 3, tokens, N_TOKENS, &opt, likely_only,
                                     likely_only ? likely : full, &base[likely_only], NULL),
                         KVANT_OK);
    assert_true(likely[0].kld_max == 0.0 && full[1].kld_mean > 1e-4 && full[2].kld_mean > 1e-4);
    assert_float_equal(base[1].ppl, base[0].ppl, 1e-4f * (float)base[0].ppl);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(likely[i].n_scored, full[i].n_scored);
        assert_float_equal(likely[i].kld_mean, full[i].kld_mean, 1e-3f * (float)full[i].kld_mean);
        assert_float_equal(likely[i].kld_max, full[i].kld_max, 1e-2f * (float)full[i].kld_max);
        assert_float_equal(likely[i].ppl_ratio, full[i].ppl_ratio, 1e-4);
        assert_float_equal(likely[i].same_top_p, full[i].same_top_p, 1.0);
        assert_true(likely[i].true_bits == full[i].true_bits);
        assert_int_equal(kv_eval_run(model, list + i, 1, tokens, N_TOKENS, &opt, true, &alone, NULL, NULL),
                         KVANT_OK);
        assert_memory_equal(&alone, &likely[i], sizeof alone);
        kvant_plan_close(plans[i]);
    }
    kvant_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(likely_tokens_and_the_next_one_are_listed),
        cmocka_unit_test(of_too_many_the_likeliest_are_taken),
        cmocka_unit_test(plans_have_the_numbers_of_all_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
