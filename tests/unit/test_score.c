/*
 * Chain-of-Embedding, ranking and confidence against values worked out by hand; scores of a sequence against
 * the same formulas on what kvant_sequence_read gives.
 */
#include "kvant.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/scratch.h"
#include "support/tiny_gguf.h"

#define PI 3.14159265358979323846

static void assert_near(double got, double expected, double bound)
{
    if (!(fabs(got - expected) <= bound)) fail_msg("%.12g, not %.12g", got, expected);
}

/* ------------------------------------------------------------------------------------------------ CoE -- */

static struct kvant_coe coe_of(const float *points, size_t n, size_t dim)
{
    struct kvant_coe c;
    assert_int_equal(kvant_coe_points(points, n, dim, &c, NULL), KVANT_OK);
    return c;
}

/* (1, 0), (1, 1), (0, 2): steps of length 1 and sqrt 2, angles of 45 degrees each; end to end sqrt 5 and
 * 90 degrees. Mag = 1/sqrt 5, sqrt(2/5); Ang = 1/2, 1/2; the angle in C is the normalised one, 1/2 radian. */
static void coe_by_hand(void **state)
{
    (void)state;
    const float points[] = { 1, 0, 1, 1, 0, 2 };
    struct kvant_coe c = coe_of(points, 3, 2);
    double mag = (1 / sqrt(5.0) + sqrt(2.0 / 5)) / 2;
    assert_true(c.is_defined);
    assert_int_equal(c.n_steps, 2);
    assert_near(c.mag, mag, 1e-12);
    assert_near(c.mag, 0.539834564, 1e-9);
    assert_near(c.ang, 0.5, 1e-12);
    assert_near(c.r, mag - 0.5, 1e-12);
    assert_near(c.c, mag, 1e-12); /* equal angles: |mean Mag e^{i/2}| is the mean Mag */
}

/* The same in three dimensions with unlike angles: x, y, z axes and back to (1, 1, 0) / 1. Angles 90, 90,
 * 60 degrees; end to end 45 degrees, distance 1. Mag = sqrt 2, sqrt 2, sqrt 2; Ang = 2, 2, 4/3. */
static void coe_with_unlike_angles(void **state)
{
    (void)state;
    const float points[] = { 1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0 };
    struct kvant_coe c = coe_of(points, 4, 3);
    /* the last step: (0, 0, 1) to (1, 1, 0) is of length sqrt 3 at 90 degrees */
    double m[3] = { sqrt(2.0), sqrt(2.0), sqrt(3.0) }, a[3] = { 2, 2, 2 }, x = 0, y = 0;
    for (int i = 0; i < 3; i++) {
        x += m[i] * cos(a[i]) / 3;
        y += m[i] * sin(a[i]) / 3;
    }
    assert_near(c.mag, (2 * sqrt(2.0) + sqrt(3.0)) / 3, 1e-12);
    assert_near(c.ang, 2, 1e-9);
    assert_near(c.r, (2 * sqrt(2.0) + sqrt(3.0)) / 3 - 2, 1e-9);
    assert_near(c.c, sqrt(x * x + y * y), 1e-9);
}

/* A path of many random vectors against the formulas in long double, written down once more. */
static void coe_of_a_long_path(void **state)
{
    (void)state;
    enum { N = 40, DIM = 7 };
    float points[N * DIM];
    uint32_t s = 1;
    for (int i = 0; i < N * DIM; i++)
        points[i] = (float)((s = s * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.3f;
    long double length[N], angle[N];
    for (int i = 0; i < N; i++) { /* of the step to point i; of 0: end to end */
        const float *a = points + (i ? (i - 1) * DIM : 0), *b = points + (i ? i : N - 1) * DIM;
        long double d = 0, ab = 0, aa = 0, bb = 0;
        for (int c = 0; c < DIM; c++) {
            long double x = (long double)a[c], y = (long double)b[c];
            d += (y - x) * (y - x);
            ab += x * y;
            aa += x * x;
            bb += y * y;
        }
        length[i] = sqrtl(d);
        angle[i] = acosl(ab / sqrtl(aa * bb));
    }
    long double mag = 0, ang = 0, re = 0, im = 0;
    for (int i = 1; i < N; i++) {
        long double m = length[i] / length[0], a = angle[i] / angle[0];
        mag += m / (N - 1);
        ang += a / (N - 1);
        re += m * cosl(a) / (N - 1);
        im += m * sinl(a) / (N - 1);
    }
    struct kvant_coe c = coe_of(points, N, DIM);
    assert_near(c.r, (double)(mag - ang), 1e-9);
    assert_near(c.c, (double)sqrtl(re * re + im * im), 1e-9);
}

static void coe_is_undefined_without_a_way(void **state)
{
    (void)state;
    const float one[] = { 1, 2 }, same[] = { 1, 2, 3, 4, 1, 2 }, straight[] = { 1, 2, 2, 4 },
                zero[] = { 0, 0, 0, 0 };
    assert_false(coe_of(one, 1, 2).is_defined);
    assert_false(coe_of(one, 0, 2).is_defined);
    assert_false(coe_of(same, 3, 2).is_defined);     /* back where it began: no distance end to end */
    assert_false(coe_of(straight, 2, 2).is_defined); /* no angle end to end                          */
    assert_false(coe_of(zero, 2, 2).is_defined);
    assert_true(isnan(coe_of(same, 3, 2).r));
    const float opposite[] = { 3, 0, -3, 0 }; /* cosine −1, clamped: half a turn */
    struct kvant_coe c = coe_of(opposite, 2, 2);
    assert_true(c.is_defined);
    assert_near(c.ang * PI, PI, 1e-9);
    assert_near(c.r, 0, 1e-12);
    assert_near(c.c, 1, 1e-12);
    struct kvant_coe none;
    assert_int_equal(kvant_coe_points(one, 2, 0, &none, NULL), KVANT_ERR_ARGUMENT);
}

/* -------------------------------------------------------------------------------------------- ranking -- */

static struct kvant_ranking rank(const double *scores, const bool *right, size_t n, const int *groups)
{
    struct kvant_ranking r;
    assert_int_equal(kvant_ranking_set(&r, scores, right, groups, n, 0, 1, NULL), KVANT_OK);
    return r;
}

static void rankings_by_hand(void **state)
{
    (void)state;
    const bool right[] = { true, true, false, false };
    const double perfect[] = { 4, 3, 2, 1 }, equal[] = { 1, 1, 1, 1 }, reversed[] = { 1, 2, 3, 4 };
    struct kvant_ranking r = rank(perfect, right, 4, NULL);
    assert_near(r.auroc, 1, 0);
    assert_near(r.fpr95, 0, 0);
    assert_near(r.aupr, 1, 0);
    assert_int_equal(r.n_right, 2);
    assert_int_equal(r.n_wrong, 2);
    r = rank(equal, right, 4, NULL);
    assert_near(r.auroc, 0.5, 1e-12);
    assert_near(r.fpr95, 0.95, 1e-12);
    assert_near(r.aupr, 0.75, 1e-12); /* from (0, 1) to (1, 1/2) */
    r = rank(reversed, right, 4, NULL);
    assert_near(r.auroc, 0, 0);
    assert_near(r.fpr95, 1, 1e-12);
}

/* Scores 3+ 2+ 2- 1- 1+ 0-: of 9 pairs, 3 beats 3; 2 beats two and ties one; 1 beats one and ties one: 7
 * of 9. ROC: (0, 1/3), (1/3, 2/3), (2/3, 1), (1, 1): TPR .95 lies .85 of the way to (2/3, 1). PR: (0, 1),
 * (1/3, 1), (2/3, 2/3), (1, 3/5). */
static void ranking_with_ties_by_hand(void **state)
{
    (void)state;
    const double scores[] = { 2, 1, 3, 2, 0, 1 };
    const bool right[] = { true, false, true, false, false, true };
    struct kvant_ranking r = rank(scores, right, 6, NULL);
    assert_near(r.auroc, 7.0 / 9, 1e-12);
    assert_near(r.fpr95, 1.0 / 3 + 0.85 / 3, 1e-12);
    assert_near(r.aupr, 1.0 / 3 + (1 + 2.0 / 3) / 6 + (2.0 / 3 + 3.0 / 5) / 6, 1e-12);
}

static void rankings_within_groups(void **state)
{
    (void)state;
    /* Between the groups the score says everything, inside them it is against the truth or a tie. */
    const double scores[] = { 9, 8, 8, 1, 2, 2 };
    const bool right[] = { true, true, true, false, false, false },
               mixed[] = { false, true, true, false, true, false };
    const int groups[] = { 1, 1, 1, 0, 0, 0 };
    assert_true(isnan(rank(scores, right, 6, groups).auroc)); /* no pair */
    struct kvant_ranking r = rank(scores, mixed, 6, groups);
    /* group 1: wrong 9 before right 8, 8: 0 of 2 pairs; group 0: right 2 against wrong 1 and 2: 1.5 of 2 */
    assert_near(r.auroc, 1.5 / 4, 1e-12);
    assert_true(isnan(r.fpr95) && isnan(r.aupr));
}

static void undefined_rankings_are_not_one_half(void **state)
{
    (void)state;
    const double scores[] = { 1, 2, NAN, INFINITY };
    const bool all[] = { true, true, true, true }, some[] = { true, false, true, false };
    struct kvant_ranking r = rank(scores, all, 4, NULL);
    assert_true(isnan(r.auroc) && isnan(r.fpr95) && isnan(r.aupr));
    r = rank(scores, some, 4, NULL);
    assert_int_equal(r.n_undefined, 2);
    assert_near(r.auroc, 0, 0);
    assert_true(isnan(rank(scores, all, 0, NULL).auroc));
}

static void intervals_hold_the_area_and_repeat(void **state)
{
    (void)state;
    enum { N = 200 };
    double scores[N];
    bool right[N];
    uint32_t s = 5;
    for (int i = 0; i < N; i++) {
        right[i] = i % 3 == 0;
        scores[i] = (double)((s = s * 1664525u + 1013904223u) >> 8) * 0x1p-24 + (right[i] ? 0.3 : 0);
    }
    struct kvant_ranking a, b;
    assert_int_equal(kvant_ranking_set(&a, scores, right, NULL, N, 500, 3, NULL), KVANT_OK);
    assert_int_equal(kvant_ranking_set(&b, scores, right, NULL, N, 500, 3, NULL), KVANT_OK);
    assert_memory_equal(&a, &b, sizeof a);
    assert_true(a.auroc_low < a.auroc && a.auroc < a.auroc_high);
    /* Hanley and McNeil's standard error of such an area is about .035 */
    assert_true(a.auroc_high - a.auroc_low > 0.07 && a.auroc_high - a.auroc_low < 0.2);
}

/* ----------------------------------------------------------------------------------------- a sequence -- */

#define N_PROMPT 37
#define N_TOKENS 171

struct fixture {
    struct kvant_model *model;
    struct kvant_model_info info;
    kvant_token tokens[N_TOKENS];
};

static int setup(void **state)
{
    struct tiny_gguf_options opt = { .arch = "qwen2",
                                     .weight_type = TINY_Q8_0,
                                     .n_layer = 3,
                                     .n_embd = 128,
                                     .n_head = 4,
                                     .n_head_kv = 2,
                                     .head_dim = 32,
                                     .seed = 11 };
    struct kvant_model_options options = KVANT_MODEL_OPTIONS_INIT;
    char path[SCRATCH_CAP];
    struct fixture *f = calloc(1, sizeof *f);
    options.n_threads = 2;
    if (!f || tiny_gguf_write(scratch_path(path, "test_score.gguf"), &opt, NULL) != KVANT_OK ||
        kvant_model_open(&f->model, path, &options, NULL) != KVANT_OK)
        return -1;
    kvant_model_get_info(f->model, &f->info);
    uint32_t x = 99;
    for (int i = 0; i < N_TOKENS; i++)
        f->tokens[i] = (kvant_token)(((x = x * 1664525u + 1013904223u) >> 16) % 250u);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    kvant_model_close(f->model);
    free(f);
    return 0;
}

/* kv (n_layer, 2, n, row) to points over tokens (n, 2 row) and over layers (n_layer, 2 row). */
static void points_of(const float *kv, int n_layer, int64_t n, int row, float *tokens, float *layers)
{
    for (int64_t t = 0; t < n; t++)
        for (int i = 0; i < 2 * row; i++) {
            double sum = 0;
            for (int l = 0; l < n_layer; l++) sum += (double)kv[((l * 2 + i / row) * n + t) * row + i % row];
            tokens[t * 2 * row + i] = (float)(sum / n_layer);
        }
    for (int l = 0; l < n_layer; l++)
        for (int i = 0; i < 2 * row; i++) {
            double sum = 0;
            for (int64_t t = 0; t < n; t++) sum += (double)kv[((l * 2 + i / row) * n + t) * row + i % row];
            layers[l * 2 * row + i] = (float)(sum / (double)n);
        }
}

static void a_sequence_scores_as_its_keys_and_values(void **state)
{
    static const char *const specs[] = { "f16", "k4c64v4h", "k3c32v2g32h;sinks=0;tail=0" };
    struct fixture *f = *state;
    int row = f->info.n_head_kv * f->info.head_dim, n_layer = f->info.n_layer;
    int64_t n = N_TOKENS - N_PROMPT;
    size_t n_kv = (size_t)(2 * n_layer * row) * (size_t)n, n_out;
    float *kv = malloc(n_kv * sizeof *kv), *tokens = malloc((size_t)(n * 2 * row) * sizeof *tokens),
          *layers = malloc((size_t)(n_layer * 2 * row) * sizeof *layers);
    for (int s = 0; s < 3; s++) {
        struct kvant_session *session;
        struct kvant_plan *plan;
        struct kvant_answer_score score;
        struct kvant_coe over_tokens, over_layers;
        struct kvant_batch_entry entries[N_TOKENS];
        int seq;
        assert_int_equal(kvant_plan_open(&plan, f->model, specs[s], NULL), KVANT_OK);
        assert_int_equal(kvant_session_open(&session, f->model, NULL, NULL), KVANT_OK);
        assert_int_equal(kvant_score_answer(session, plan, f->tokens, N_TOKENS, N_PROMPT, NULL, &score, NULL),
                         KVANT_OK);

        /* the same positions in a sequence of their own: the last token never enters */
        assert_int_equal(kvant_sequence_open(session, plan, N_TOKENS, &seq, NULL), KVANT_OK);
        for (int i = 0; i < N_TOKENS - 1; i++)
            entries[i] = (struct kvant_batch_entry){ seq, f->tokens[i], false };
        assert_int_equal(kvant_session_step(session, entries, N_TOKENS - 1, NULL), KVANT_OK);
        assert_int_equal(
            kvant_score_sequence(session, seq, N_PROMPT - 1, 0, NULL, &over_tokens, &over_layers, NULL),
            KVANT_OK);
        assert_int_equal(kvant_sequence_read(session, seq, N_PROMPT - 1, 0, false, kv, n_kv, &n_out, NULL),
                         KVANT_OK);
        assert_int_equal(n_out, n_kv);
        points_of(kv, n_layer, n, row, tokens, layers);
        struct kvant_coe by_tokens = coe_of(tokens, (size_t)n, (size_t)(2 * row)),
                         by_layers = coe_of(layers, (size_t)n_layer, (size_t)(2 * row));
        assert_near(over_tokens.r, by_tokens.r, 1e-5);
        assert_near(over_tokens.c, by_tokens.c, 1e-5);
        assert_near(over_layers.r, by_layers.r, 1e-5);
        assert_near(over_layers.c, by_layers.c, 1e-5);
        /* steps of other lengths: near, as sums of attention fold in another order */
        assert_near(score.kv_tokens.r, over_tokens.r, 5e-3);
        assert_near(score.kv_layers.c, over_layers.c, 5e-3);
        assert_true(score.hidden_tokens.is_defined && score.hidden_layers.is_defined &&
                    score.hidden_layers_bos.is_defined);
        assert_int_equal(score.hidden_layers.n_steps, n_layer); /* the embedding and each block */
        assert_int_equal(score.confidence.n, n);
        assert_true(score.hidden_layers.r != score.hidden_layers_bos.r);
        kvant_session_close(session);
        kvant_plan_close(plan);
    }
    free(kv);
    free(tokens);
    free(layers);
}

/* Probabilities 1/2, 1/4, 1/8, 1/8 and a vocabulary of others that have none: 1.75 bits. */
static void confidence_by_hand(void **state)
{
    struct fixture *f = *state;
    float *logits = malloc((size_t)f->info.n_vocab * sizeof *logits);
    struct kvant_confidence c = { 0 }, mean;
    for (int i = 0; i < f->info.n_vocab; i++) logits[i] = -INFINITY;
    logits[5] = 3.0f + (float)log(4.0);
    logits[70] = 3.0f + (float)log(2.0);
    logits[f->info.n_vocab - 1] = logits[64] = 3.0f;
    kvant_confidence_add(f->model, &c, logits, 70);
    assert_near(c.max_prob, 0.5, 1e-6);
    assert_near(c.log_max_prob, log(0.5), 1e-6);
    assert_near(c.entropy, 1.75, 1e-6);
    assert_near(c.log_prob, log(0.25), 1e-6);
    for (int i = 0; i < f->info.n_vocab; i++) logits[i] = -7; /* even */
    kvant_confidence_add(f->model, &c, logits, 0);
    kvant_confidence_mean(&c, &mean);
    assert_int_equal(mean.n, 2);
    assert_near(mean.entropy, (1.75 + log2(f->info.n_vocab)) / 2, 1e-5);
    assert_near(mean.max_prob, (0.5 + 1.0 / f->info.n_vocab) / 2, 1e-6);
    struct kvant_confidence none = { 0 };
    kvant_confidence_mean(&none, &none);
    assert_true(isnan(none.max_prob));
    free(logits);
}

/* What is refused, with a message that names it. */
static void refusals(void **state)
{
    struct fixture *f = *state;
    struct kvant_session *session;
    struct kvant_plan *plan;
    struct kvant_error err;
    struct kvant_embed_options opt = KVANT_EMBED_OPTIONS_INIT;
    struct kvant_coe a, b;
    float out[2048];
    size_t n;
    int seq;
    assert_int_equal(kvant_plan_open(&plan, f->model, "f16", NULL), KVANT_OK);
    assert_int_equal(kvant_session_open(&session, f->model, NULL, NULL), KVANT_OK);
    assert_int_equal(kvant_sequence_open(session, plan, N_TOKENS, &seq, NULL), KVANT_OK);
    assert_int_equal(kvant_embed_sequence(session, seq, NULL, out, 2048, &n, &err),
                     KVANT_ERR_ARGUMENT); /* empty */
    assert_int_equal(kvant_embed_sequence(session, seq + 1, NULL, out, 2048, &n, &err), KVANT_ERR_ARGUMENT);
    struct kvant_batch_entry entries[8];
    for (int i = 0; i < 8; i++) entries[i] = (struct kvant_batch_entry){ seq, f->tokens[i], false };
    assert_int_equal(kvant_session_step(session, entries, 8, NULL), KVANT_OK);
    assert_int_equal(kvant_embed_sequence(session, seq, NULL, out, 3, &n, &err), KVANT_ERR_SPACE);
    assert_int_equal(n, 2 * f->info.n_head_kv * f->info.head_dim);
    assert_int_equal(kvant_embed_sequence(session, seq, NULL, out, 2048, &n, &err), KVANT_OK);
    opt.token_first = 8;
    assert_int_equal(kvant_embed_sequence(session, seq, &opt, out, 2048, &n, &err), KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "the sequence has 8"));
    opt.token_first = -100; /* a window longer than the text: all of it */
    assert_int_equal(kvant_embed_sequence(session, seq, &opt, out, 2048, &n, &err), KVANT_OK);
    opt.layer_last = f->info.n_layer + 1;
    assert_int_equal(kvant_embed_sequence(session, seq, &opt, out, 2048, &n, &err), KVANT_ERR_ARGUMENT);
    opt.layer_last = 0;
    opt.layer_first = -f->info.n_layer - 1;
    assert_int_equal(kvant_embed_dim(f->model, &opt, &n, &err), KVANT_ERR_ARGUMENT);
    opt.layer_first = 0;
    opt.source = KVANT_EMBED_HIDDEN;
    assert_int_equal(kvant_embed_sequence(session, seq, &opt, out, 2048, &n, &err), KVANT_ERR_ARGUMENT);
    opt.source = (kvant_embed_source)7;
    assert_int_equal(kvant_embed_dim(f->model, &opt, &n, &err), KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "source"));
    opt.size = 3;
    assert_int_equal(kvant_embed_dim(f->model, &opt, &n, &err), KVANT_ERR_ARGUMENT);
    assert_int_equal(kvant_score_sequence(session, seq, 8, 0, NULL, &a, &b, &err), KVANT_ERR_ARGUMENT);
    struct kvant_answer_score score;
    assert_int_equal(kvant_score_answer(session, plan, f->tokens, 5, 5, NULL, &score, &err),
                     KVANT_ERR_ARGUMENT);
    assert_int_equal(kvant_score_answer(session, plan, f->tokens, 5, 0, NULL, &score, &err),
                     KVANT_ERR_ARGUMENT);
    struct kvant_prompt prompts[2] = { { f->tokens, 5 }, { f->tokens, 0 } };
    assert_int_equal(kvant_embed_prompts(session, plan, prompts, 2, NULL, out, 2048, &n, &err),
                     KVANT_ERR_ARGUMENT);
    assert_int_equal(err.position, 1);
    kvant_token beyond = f->info.n_vocab;
    prompts[1] = (struct kvant_prompt){ &beyond, 1 };
    assert_int_equal(kvant_embed_prompts(session, plan, prompts, 2, NULL, out, 2048, &n, &err),
                     KVANT_ERR_ARGUMENT);
    assert_int_equal(err.position, 1);
    kvant_session_close(session);
    kvant_plan_close(plan);
}

/* What a generation has left in its cache embeds as a text of its own: no second pass is needed. */
static void a_sequence_embeds_as_its_text(void **state)
{
    struct fixture *f = *state;
    struct kvant_session *session;
    struct kvant_plan *plan;
    float out[2][128];
    size_t n;
    int seq;
    assert_int_equal(kvant_plan_open(&plan, f->model, "k4c64v4h", NULL), KVANT_OK);
    assert_int_equal(kvant_session_open(&session, f->model, NULL, NULL), KVANT_OK);
    assert_int_equal(kvant_sequence_open(session, plan, N_TOKENS, &seq, NULL), KVANT_OK);
    struct kvant_batch_entry entries[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++) entries[i] = (struct kvant_batch_entry){ seq, f->tokens[i], false };
    assert_int_equal(kvant_session_step(session, entries, N_TOKENS, NULL), KVANT_OK);
    assert_int_equal(kvant_embed_sequence(session, seq, NULL, out[0], 128, &n, NULL), KVANT_OK);
    const struct kvant_prompt prompt = { f->tokens, N_TOKENS };
    assert_int_equal(kvant_embed_prompts(session, plan, &prompt, 1, NULL, out[1], 128, &n, NULL), KVANT_OK);
    assert_memory_equal(out[0], out[1], n * sizeof(float));
    struct kvant_sequence_stats stats;
    assert_int_equal(kvant_sequence_get_stats(session, seq, &stats), KVANT_OK);
    assert_int_equal(stats.n_tokens, N_TOKENS); /* left as it was */
    kvant_session_close(session);
    kvant_plan_close(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coe_by_hand),
        cmocka_unit_test(coe_with_unlike_angles),
        cmocka_unit_test(coe_of_a_long_path),
        cmocka_unit_test(coe_is_undefined_without_a_way),
        cmocka_unit_test(rankings_by_hand),
        cmocka_unit_test(ranking_with_ties_by_hand),
        cmocka_unit_test(rankings_within_groups),
        cmocka_unit_test(undefined_rankings_are_not_one_half),
        cmocka_unit_test(intervals_hold_the_area_and_repeat),
        cmocka_unit_test(a_sequence_scores_as_its_keys_and_values),
        cmocka_unit_test(confidence_by_hand),
        cmocka_unit_test(refusals),
        cmocka_unit_test(a_sequence_embeds_as_its_text),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
