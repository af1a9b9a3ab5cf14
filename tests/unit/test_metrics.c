/* Metrics at the logits, against values worked out by hand or in long double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tune/metrics.h"

static struct kv_kernels kernels;

static struct kv_scores one_score(float *kld, float *nll, bool *same, int64_t n)
{
    return (struct kv_scores){ kld, nll, same, n };
}

static void kld_of_two_tokens_by_hand(void **state)
{
    (void)state;
    /* P = (3/4, 1/4), Q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812 */
    const float p[] = { 1.0986123f + 5.0f, 5.0f }, q[] = { -7.0f, -7.0f };
    float prob[2], kld, nll;
    bool same;
    struct kv_base_row base;
    struct kv_scores s = one_score(&kld, &nll, &same, 1);
    kv_base_row_set(&base, &kernels, p, 2, prob);
    assert_true(fabs((double)prob[0] - 0.75) < 1e-6);
    kv_scores_set(&s, 0, &kernels, &base, q, 2, 1);
    assert_true(fabs((double)kld - 0.130812035941137) < 1e-6);
    assert_true(fabs((double)nll - log(2.0)) < 1e-6);
    assert_true(same); /* equal logits: the lowest id, as in the base */
    kv_scores_set_base(&s, 0, &base, 0);
    assert_true(kld == 0.0f && fabs((double)nll - log(4.0 / 3.0)) < 1e-6);
}

static void kld_of_a_vocabulary_against_long_double(void **state)
{
    (void)state;
    enum { N = 50001 };
    float *p = malloc(N * sizeof *p), *q = malloc(N * sizeof *q), *prob = malloc(N * sizeof *prob);
    assert_true(p && q && prob);
    uint64_t seed = 3;
    for (int trial = 0; trial < 4; trial++) {
        float noise = trial == 0 ? 0.0f : trial == 1 ? 0.01f : trial == 2 ? 0.5f : 4.0f;
        for (int i = 0; i < N; i++) {
            seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
            float u = (float)(seed >> 40) / 16777216.0f;
            seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
            p[i] = 20.0f * u * u * u - 10.0f;
            q[i] = p[i] + noise * ((float)(seed >> 40) / 8388608.0f - 1.0f) +
                   3.0f; /* a common shift changes nothing */
        }
        long double zp = 0, zq = 0, kl = 0;
        for (int i = 0; i < N; i++) zp += expl((long double)p[i]), zq += expl((long double)q[i]);
        for (int i = 0; i < N; i++)
            kl += expl((long double)p[i]) / zp *
                  ((long double)p[i] - logl(zp) - (long double)q[i] + logl(zq));
        float kld, nll;
        bool same;
        struct kv_base_row base;
        struct kv_scores s = one_score(&kld, &nll, &same, 1);
        kv_base_row_set(&base, &kernels, p, N, prob);
        kv_scores_set(&s, 0, &kernels, &base, q, N, 7);
        assert_true(fabs((double)kld - (double)kl) < 2e-6 + 1e-5 * (double)kl);
        assert_true(fabs((double)nll - (double)(logl(zq) - (long double)q[7])) < 1e-5);
        if (trial == 0) assert_true(same);
    }
    free(p), free(q), free(prob);
}

static void a_collapsed_row_is_infinite_not_an_error(void **state)
{
    (void)state;
    const float p[] = { 1, 2, 3 };
    const float bad[][3] = { { NAN, 1, 2 },
                             { 1, NAN, 2 },
                             { INFINITY, 1, 2 },
                             { NAN, NAN, NAN },
                             { -INFINITY, -INFINITY, -INFINITY } };
    float prob[3], kld, nll;
    bool same;
    struct kv_base_row base;
    struct kv_scores s = one_score(&kld, &nll, &same, 1);
    kv_base_row_set(&base, &kernels, p, 3, prob);
    for (size_t i = 0; i < 5; i++) {
        kv_scores_set(&s, 0, &kernels, &base, bad[i], 3, 0);
        assert_true(kld == INFINITY && nll == INFINITY && !same);
    }
    const float unlikely[] = { 1, 2, -INFINITY }; /* a token that the base likes has probability 0 */
    kv_scores_set(&s, 0, &kernels, &base, unlikely, 3, 0);
    assert_true(kld == INFINITY && isfinite(nll));
    kv_base_row_set(&base, &kernels, bad[0], 3, prob);
    assert_true(!isfinite(base.log_sum));
}

static void quantiles_interpolate_between_order_statistics(void **state)
{
    (void)state;
    const float x[] = { 1, 2, 3, 4, INFINITY };
    assert_true(kv_quantile(x, 4, 0.5) == 2.5);
    assert_true(kv_quantile(x, 3, 0.5) == 2.0);
    assert_true(kv_quantile(x, 4, 0.0) == 1.0);
    assert_true(kv_quantile(x, 4, 1.0) == 4.0);
    assert_true(fabs(kv_quantile(x, 4, 0.99) - 3.97) < 1e-12);
    assert_true(kv_quantile(x, 1, 0.999) == 1.0);
    assert_true(kv_quantile(x, 5, 0.75) == 4.0);
    assert_true(isinf(kv_quantile(x, 5, 0.99)));
    assert_true(isnan(kv_quantile(x, 0, 0.5)));
}

static void numbers_of_a_text(void **state)
{
    (void)state;
    float kld[] = { 0.3f, 0.0f, 0.1f, 0.2f }, nll[] = { 1, 2, 3, 4 }, base_kld[4] = { 0 },
          base_nll[] = { 1, 1, 3, 3 };
    bool same[] = { true, true, true, false }, base_same[] = { true, true, true, true };
    struct kv_scores s = one_score(kld, nll, same, 4), base = one_score(base_kld, base_nll, base_same, 4);
    struct kvant_eval_result r = { .page_bits = 4.5 };
    kv_scores_reduce(&s, &base, &r);
    assert_int_equal(r.n_scored, 4);
    assert_true(fabs(r.ppl - exp(2.5)) < 1e-9 && fabs(r.ppl_ratio - exp(0.5)) < 1e-9);
    assert_true(fabs(r.kld_mean - 0.15) < 1e-7 && fabs(r.kld_median - 0.15) < 1e-7 &&
                fabs(r.kld_max - 0.3) < 1e-7);
    assert_true(r.same_top_p == 75.0 && r.page_bits == 4.5);

    struct kvant_eval_result b;
    kv_scores_reduce(&base, &base, &b);
    assert_true(b.ppl_ratio == 1.0 && b.kld_max == 0.0 && b.same_top_p == 100.0);
}

int main(void)
{
    kv_kernels_select(&kernels, kv_cpu_detect());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kld_of_two_tokens_by_hand),
        cmocka_unit_test(kld_of_a_vocabulary_against_long_double),
        cmocka_unit_test(a_collapsed_row_is_infinite_not_an_error),
        cmocka_unit_test(quantiles_interpolate_between_order_statistics),
        cmocka_unit_test(numbers_of_a_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
