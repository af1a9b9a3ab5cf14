/*
 * kvant_trajectory_run: greedy generation under plans against greedy generation with the 16-bit cache. What a
 * teacher-forced comparison cannot show: whether a plan's own text stays with the model's.
 *
 * Where two greedy texts part says little about one prompt (a near-tie decides), much about many: with the
 * same likeliest token at a share s of positions, s^t of the prompts are together after t tokens.
 */
#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "tune/generate.h"

#define PREDICT_DEFAULT 64
#define PREDICT_MAX (1 << 20)

/* Tokens of a trajectory; the end is one of them. */
static size_t length(const struct kv_generation *text)
{
    return text->n + (text->end == KV_GENERATION_ENDED);
}

/* Position of the first difference; the length of the base when there is none. */
static size_t first_difference(const struct kv_generation *base, const struct kv_generation *text)
{
    size_t n = 0;
    while (n < base->n && n < text->n && base->tokens[n] == text->tokens[n]) n++;
    bool both_end = n == base->n && n == text->n && base->end == text->end;
    return both_end ? length(base) : n;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One plan's row of texts against the base's. positions: (n_prompts), overwritten. */
static void compare(const struct kv_generation *base, const struct kv_generation *row, size_t n_prompts,
                    double *positions, struct kvant_trajectory_result *out, int *first)
{
    double share = 0.0;
    int64_t n_identical = 0;
    *out = (struct kvant_trajectory_result){ .n_prompts = (int64_t)n_prompts };
    for (size_t i = 0; i < n_prompts; i++) {
        size_t n = first_difference(&base[i], &row[i]);
        out->n_tokens += (int64_t)length(&base[i]);
        out->n_failed += row[i].end == KV_GENERATION_FAILED;
        n_identical += n == length(&base[i]);
        share += (double)n / (double)length(&base[i]);
        positions[i] = (double)n;
        if (first) first[i] = (int)n;
    }
    qsort(positions, n_prompts, sizeof *positions, compare_doubles);
    out->agreement = 100.0 * share / (double)n_prompts;
    out->identical = 100.0 * (double)n_identical / (double)n_prompts;
    out->first_median = 0.5 * (positions[(n_prompts - 1) / 2] + positions[n_prompts / 2]);
}

void kvant_trajectory_prompts(const kvant_token *tokens, size_t n_tokens, size_t n_each,
                              struct kvant_prompt *prompts, size_t cap, size_t *n_out)
{
    size_t n = n_each ? n_tokens / n_each : 0;
    *n_out = n < cap ? n : cap;
    /* begins of *n_out pieces that lie evenly in the text, the last one at its end */
    for (size_t i = 0; i < *n_out; i++) {
        size_t room = n_tokens - *n_out * n_each;
        size_t gap = *n_out > 1 ? room / (*n_out - 1) : 0;
        prompts[i] = (struct kvant_prompt){ tokens + i * (n_each + gap), n_each };
    }
}

static kvant_status check_options(const struct kvant_trajectory_options *opt, int n_plans, size_t n_prompts,
                                  struct kvant_error *err)
{
    if (opt->size != sizeof *opt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_trajectory_options.size is not set; use KVANT_TRAJECTORY_OPTIONS_INIT");
    if (opt->n_predict < 0 || opt->n_predict > PREDICT_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_predict %d: 1 to %d, or 0", opt->n_predict, PREDICT_MAX);
    if (n_plans < 0 || n_prompts == 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d plans, %zu prompts: at least one prompt is needed", n_plans,
                n_prompts);
    return KVANT_OK;
}

kvant_status kvant_trajectory_run(const struct kvant_model *model, const struct kvant_plan *const *plans,
                                  int n_plans, const struct kvant_prompt *prompts, size_t n_prompts,
                                  const struct kvant_trajectory_options *options,
                                  struct kvant_trajectory_result *results, int *first,
                                  struct kvant_error *err)
{
    static const struct kvant_trajectory_options defaults = KVANT_TRAJECTORY_OPTIONS_INIT;
    const struct kvant_trajectory_options *opt = options ? options : &defaults;
    KV_TRY(check_options(opt, n_plans, n_prompts, err));
    const struct kv_generate_options generate = {
        .n_sequences = opt->n_sequences,
        .what = "comparing trajectories",
        .progress = opt->progress,
        .user = opt->user,
    };
    struct kv_plan_texts t;
    double *positions = kv_alloc(n_prompts, sizeof *positions);
    if (!positions) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %zu trajectories", n_prompts);
    kvant_status status = kv_plan_texts_open(&t, model, true, plans, n_plans, prompts, n_prompts,
                                             opt->n_predict ? (size_t)opt->n_predict : PREDICT_DEFAULT,
                                             &generate, err);
    for (int i = 0; status == KVANT_OK && i < n_plans; i++)
        compare(t.texts, t.texts + (size_t)(i + 1) * n_prompts, n_prompts, positions, &results[i],
                first ? first + (size_t)i * n_prompts : NULL);
    if (status == KVANT_OK) kv_plan_texts_close(&t);
    kv_free(positions);
    return status;
}
