/*
 * The sampler against the same filters written plainly over a fully sorted vocabulary, and its options one by
 * one.
 */
#include "kvant.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_VOCAB 5000 /* many times what the sampler sorts at first */
#define N_DRAWS 400

static float logits[N_VOCAB];
static uint32_t random_state = 1;

static float next_random(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (float)(random_state >> 8) * 0x1p-24f;
}

/* spread: the larger, the fewer tokens matter. Values on a grid, so that there are ties. */
static void fill_logits(float spread)
{
    for (int i = 0; i < N_VOCAB; i++) logits[i] = floorf(64.0f * spread * next_random()) / 64.0f;
}

static struct kvant_sampler *open_sampler(const struct kvant_sampler_options *opt)
{
    struct kvant_sampler *s;
    assert_int_equal(kvant_sampler_open(&s, N_VOCAB, opt, NULL), KVANT_OK);
    return s;
}

static int by_logit(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    if (logits[x] != logits[y]) return logits[x] > logits[y] ? -1 : 1;
    return x - y;
}

/* How many of the sorted ids the filters keep: top-k, then top-p of what is left, then min-p. */
static int kept_plainly(const struct kvant_sampler_options *opt, const int *sorted)
{
    int n = opt->top_k > 0 && opt->top_k < N_VOCAB ? opt->top_k : N_VOCAB;
    double largest = (double)logits[sorted[0]], total = 0.0, sum = 0.0;
    if (opt->top_p > 0.0f && opt->top_p < 1.0f) {
        int kept = 0;
        for (int i = 0; i < n; i++) total += exp((double)logits[sorted[i]] - largest);
        while (kept < n && sum < (double)opt->top_p * total)
            sum += exp((double)logits[sorted[kept++]] - largest);
        n = kept;
    }
    if (opt->min_p > 0.0f)
        while (n > 1 && (double)logits[sorted[n - 1]] < largest + log((double)opt->min_p)) n--;
    return n;
}

/* Every token drawn is one that the filters keep, and the kept ones are drawn as often as they should be
 * (within five standard deviations). */
static void check_filters(struct kvant_sampler_options opt)
{
    static int sorted[N_VOCAB], rank[N_VOCAB], drawn[N_VOCAB];
    for (int i = 0; i < N_VOCAB; i++) sorted[i] = i;
    qsort(sorted, N_VOCAB, sizeof *sorted, by_logit);
    for (int i = 0; i < N_VOCAB; i++) rank[sorted[i]] = i;
    memset(drawn, 0, sizeof drawn);
    int n = kept_plainly(&opt, sorted), deepest = 0;
    double total = 0.0, t = (double)opt.temperature, largest = (double)logits[sorted[0]];
    for (int i = 0; i < n; i++) total += exp(((double)logits[sorted[i]] - largest) / t);

    struct kvant_sampler *s = open_sampler(&opt);
    for (int i = 0; i < N_DRAWS; i++) {
        kvant_token id = kvant_sampler_next(s, logits, NULL);
        assert_in_range(id, 0, N_VOCAB - 1);
        drawn[id]++;
        if (rank[id] > deepest) deepest = rank[id];
    }
    kvant_sampler_close(s);
    assert_true(deepest < n);
    for (int i = 0; i < n; i++) {
        double p = exp(((double)logits[sorted[i]] - largest) / t) / total;
        double sigma = sqrt(N_DRAWS * p * (1.0 - p));
        if (p > 0.02) assert_true(fabs(drawn[sorted[i]] - N_DRAWS * p) < 5.0 * sigma + 1.0);
    }

    double p_upper = 0.0; /* the likelier half of the kept tokens gets its share, however flat they are */
    int drawn_upper = 0;
    for (int i = 0; i < (n + 1) / 2; i++) {
        p_upper += exp(((double)logits[sorted[i]] - largest) / t) / total;
        drawn_upper += drawn[sorted[i]];
    }
    assert_true(fabs(drawn_upper - N_DRAWS * p_upper) <
                5.0 * sqrt(N_DRAWS * p_upper * (1.0 - p_upper)) + 1.0);
}

static void filters_keep_what_they_say(void **state)
{
    (void)state;
    static const float spreads[] = { 0.5f, 4.0f, 40.0f };
    static const struct { int k; float p, min; } filters[] = {
        { 0, 0.0f, 0.0f },  { 7, 0.0f, 0.0f },    { 1000, 0.0f, 0.0f },  { 0, 0.9f, 0.0f },
        { 0, 0.1f, 0.0f },  { 0, 0.999f, 0.0f },  { 0, 0.0f, 0.05f },    { 0, 0.0f, 0.7f },
        { 0, 0.9f, 0.05f }, { 300, 0.9f, 0.05f }, { 9000, 0.95f, 0.3f }, { 0, 1.0f, 1.0f },
    };
    for (size_t i = 0; i < sizeof spreads / sizeof spreads[0]; i++) {
        fill_logits(spreads[i]);
        for (size_t j = 0; j < sizeof filters / sizeof filters[0]; j++) {
            struct kvant_sampler_options opt = KVANT_SAMPLER_OPTIONS_INIT;
            opt.temperature = 0.8f;
            opt.top_k = filters[j].k;
            opt.top_p = filters[j].p;
            opt.min_p = filters[j].min;
            opt.seed = 100 * i + j;
            check_filters(opt);
        }
    }
}

static void greedy_takes_the_lowest_of_equal_ids(void **state)
{
    (void)state;
    fill_logits(1.0f);
    logits[4321] = logits[77] = 9.0f;
    struct kvant_sampler *s = open_sampler(NULL);
    float logprob;
    assert_int_equal(kvant_sampler_next(s, logits, &logprob), 77);
    double sum = 0.0;
    for (int i = 0; i < N_VOCAB; i++) sum += exp((double)logits[i] - 9.0);
    assert_float_equal(logprob, -log(sum), 1e-5);
    logits[5] = NAN;
    assert_int_equal(kvant_sampler_next(s, logits, NULL), 77);
    kvant_sampler_close(s);
}

static void a_penalty_makes_room_for_others(void **state)
{
    (void)state;
    struct kvant_sampler_options opt = KVANT_SAMPLER_OPTIONS_INIT;
    opt.repeat_penalty = 2.0f;
    for (int i = 0; i < N_VOCAB; i++) logits[i] = -1.0f;
    logits[10] = 3.0f;
    logits[20] = 2.0f;
    logits[30] = 1.8f;
    struct kvant_sampler *s = open_sampler(&opt);
    static const kvant_token wanted[] = { 10, 20, 30, 10,
                                          10 }; /* then 1.5, 1.0, 0.9: penalised once, not twice */
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        assert_int_equal(kvant_sampler_next(s, logits, NULL), wanted[i]);
    kvant_sampler_close(s);
}

static void seeds_repeat(void **state)
{
    (void)state;
    struct kvant_sampler_options opt = KVANT_SAMPLER_OPTIONS_INIT;
    opt.temperature = 1.0f;
    opt.top_p = 0.95f;
    fill_logits(3.0f);
    int n_other = 0;
    struct kvant_sampler *a = open_sampler(&opt), *b = open_sampler(&opt);
    opt.seed = 1;
    struct kvant_sampler *c = open_sampler(&opt);
    for (int i = 0; i < 50; i++) {
        kvant_token id = kvant_sampler_next(a, logits, NULL);
        assert_int_equal(id, kvant_sampler_next(b, logits, NULL));
        n_other += id != kvant_sampler_next(c, logits, NULL);
    }
    assert_true(n_other > 25);
    kvant_sampler_close(a);
    kvant_sampler_close(b);
    kvant_sampler_close(c);
}

static void options_out_of_range_are_refused(void **state)
{
    (void)state;
    struct kvant_sampler *s;
    struct kvant_sampler_options bad[7];
    for (int i = 0; i < 7; i++) bad[i] = (struct kvant_sampler_options)KVANT_SAMPLER_OPTIONS_INIT;
    bad[0].size = 0;
    bad[1].temperature = -0.1f;
    bad[2].temperature = NAN;
    bad[3].top_p = 1.1f;
    bad[4].min_p = -0.1f;
    bad[5].repeat_penalty = INFINITY;
    bad[6].top_k = -1;
    for (int i = 0; i < 7; i++) {
        struct kvant_error err = { .message = "" };
        assert_int_equal(kvant_sampler_open(&s, N_VOCAB, &bad[i], &err), KVANT_ERR_ARGUMENT);
        assert_null(s);
        assert_true(err.message[0] != '\0');
    }
    assert_int_equal(kvant_sampler_open(&s, 0, NULL, NULL), KVANT_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(filters_keep_what_they_say),
        cmocka_unit_test(greedy_takes_the_lowest_of_equal_ids),
        cmocka_unit_test(a_penalty_makes_room_for_others),
        cmocka_unit_test(seeds_repeat),
        cmocka_unit_test(options_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
