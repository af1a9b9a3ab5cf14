/*
 * What the KVTuner paper found, on the real models and on questions of GSM8K's train split: key bits matter
 * more than value bits, heads with concentrated attention are robust, and layers rank alike whatever the
 * prompts. Where a finding does not hold here, docs/sensitivity.md says so, with numbers.
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

#include "support/spearman.h"
#include <jansson.h>

#include "kvant.h"

#define PROMPTS_MAX 8
#define HEADS_MAX 16
#define LAYERS_MAX 32
enum { K2, K3, K4, K8 };

struct questions {
    kvant_token tokens[PROMPTS_MAX][512];
    struct kvant_prompt prompts[PROMPTS_MAX];
    int n;
};

static struct kvant_model *open_model(const char *file)
{
    const char *folder = getenv("KVANT_MODELS");
    char path[512];
    struct kvant_error err = { 0 };
    struct kvant_model *model;
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "models", file);
    if (access(path, R_OK) != 0) return NULL;
    if (kvant_model_open(&model, path, NULL, &err) != KVANT_OK) fail_msg("%s", err.message);
    return model;
}

/* Questions [first, first + n) in the model's chat format; false when the data set is not there. */
static bool read_questions(struct questions *out, const struct kvant_model *model, int first, int n)
{
    const char *folder = getenv("KVANT_DATA");
    char path[512];
    snprintf(path, sizeof path, "%s/gsm8k/train.jsonl", folder ? folder : "../shared/data");
    FILE *file = fopen(path, "r");
    if (!file) return false;
    char line[8192], text[8192];
    out->n = 0;
    for (int i = 0; out->n < n && fgets(line, sizeof line, file); i++) {
        if (i < first) continue;
        json_t *object = json_loads(line, 0, NULL);
        struct kvant_message message = { "user", json_string_value(json_object_get(object, "question")) };
        size_t n_bytes, n_ids;
        assert_non_null(message.content);
        assert_int_equal(kvant_chat_render(model, &message, 1, true, text, sizeof text, &n_bytes, NULL),
                         KVANT_OK);
        assert_int_equal(kvant_tokenize(model, text, n_bytes, KVANT_TOKENIZE_BOS | KVANT_TOKENIZE_SPECIAL,
                                        out->tokens[out->n], 512, &n_ids, NULL),
                         KVANT_OK);
        out->prompts[out->n] = (struct kvant_prompt){ out->tokens[out->n], n_ids };
        out->n++;
        json_decref(object);
    }
    fclose(file);
    assert_int_equal(out->n, n);
    return true;
}

/* -------------------------------------------------------------------------------------------- findings -- */

static double mean_e_o(const struct kvant_sensitivity *s, int mode, int key, int value)
{
    double sum = 0;
    for (int layer = 0; layer < s->n_layer; layer++) sum += s->errors[mode][layer].e_o[key][value];
    return sum / s->n_layer;
}

static double mean_e_v(const struct kvant_sensitivity *s, int mode, int value)
{
    double sum = 0;
    for (int layer = 0; layer < s->n_layer; layer++) sum += s->errors[mode][layer].e_v[value];
    return sum / s->n_layer;
}

static void key_bits_matter_more(const struct kvant_sensitivity *s)
{
    for (int mode = 0; mode < KVANT_SENSITIVITY_MODES; mode++) {
        const char *name = kvant_sensitivity_mode_name((kvant_sensitivity_mode)mode);
        double k4v8 = mean_e_o(s, mode, K4, K8), k8v4 = mean_e_o(s, mode, K8, K4),
               k2v4 = mean_e_o(s, mode, K2, K4), k4v2 = mean_e_o(s, mode, K4, K2);
        print_message("%s: e_o K4V8 %.4f K8V4 %.4f, K2V4 %.4f K4V2 %.4f\n", name, k4v8, k8v4, k2v4, k4v2);
        assert_true(k4v8 > k8v4 && k2v4 > k4v2);
        for (int layer = 0; layer < s->n_layer; layer++) { /* more bits are never worse, in any layer */
            const struct kvant_sensitivity_errors *e = &s->errors[mode][layer];
            assert_true(e->e_o[K2][K8] > e->e_o[K4][K8] && e->e_o[K4][K8] > e->e_o[K8][K8]);
            assert_true(e->e_o[K8][K2] > e->e_o[K8][K4] && e->e_o[K8][K4] > e->e_o[K8][K8]);
            assert_int_equal(e->n_skipped, 0);
        }
    }
}

/* The published e_v per token of an 8B model with heads of 128 is .00787, .1269, .6079. These heads have 64
 * channels: their groups are half as wide, so errors are a little smaller. The L1 ratio of Gaussian and
 * Laplace values in groups of 128 brackets the published numbers: .0064 to .0093, .108 to .157, .541 to
 * .652. */
static void value_errors_are_the_published_ones(const struct kvant_sensitivity *s)
{
    double e8 = mean_e_v(s, KVANT_SENSITIVITY_PER_TOKEN, K8),
           e4 = mean_e_v(s, KVANT_SENSITIVITY_PER_TOKEN, K4),
           e2 = mean_e_v(s, KVANT_SENSITIVITY_PER_TOKEN, K2);
    print_message("e_v per token: %.5f %.4f %.4f\n", e8, e4, e2);
    assert_true(e8 > .0064 && e8 < .0093);
    assert_true(e4 > .108 && e4 < .157);
    assert_true(e2 > .541 && e2 < .652);
}

/* Over the heads of a layer, then the mean over layers. */
static double within_layers(const struct kvant_sensitivity *s, int mode, int key, bool by_entropy)
{
    double sum = 0;
    for (int layer = 0; layer < s->n_layer; layer++) {
        double x[HEADS_MAX], y[HEADS_MAX];
        for (int h = 0; h < s->n_head; h++) {
            const struct kvant_sensitivity_head *head = &s->heads[layer * s->n_head + h];
            x[h] = by_entropy ? head->entropy_relative : head->top8;
            y[h] = s->head_errors[mode][layer * s->n_head + h].e_o[key][K8];
        }
        sum += check_spearman(x, y, s->n_head);
    }
    return sum / s->n_layer;
}

/* Measured over 6 or 4 prompts: entropy .17 to .31, top 8 -.17 to -.35, with a standard error of .06. It
 * holds where the first tokens are exact; where they are quantized (the paper's two modes) it does not:
 * docs/sensitivity.md. */
static void concentrated_heads_are_robust(const struct kvant_sensitivity *s)
{
    for (int key = K2; key <= K4; key += K4 - K2) {
        double entropy = within_layers(s, KVANT_SENSITIVITY_KVANT, key, true),
               top8 = within_layers(s, KVANT_SENSITIVITY_KVANT, key, false);
        print_message("kvant, %d-bit keys: Spearman of e_o with entropy %.3f, with top 8 %.3f\n",
                      key == K2 ? 2 : 4, entropy, top8);
        assert_true(entropy > .1 && top8 < -.1);
    }
}

static double rank_agreement(const struct kvant_sensitivity *a, const struct kvant_sensitivity *b, int mode,
                             int key, int value)
{
    double x[LAYERS_MAX], y[LAYERS_MAX];
    for (int layer = 0; layer < a->n_layer; layer++) {
        x[layer] = a->errors[mode][layer].e_o[key][value];
        y[layer] = b->errors[mode][layer].e_o[key][value];
    }
    return check_spearman(x, y, a->n_layer);
}

/* Measured: per token .96 to .98, kivi .97 to .98, kvant .80 to .96 (a third of what its queries read is
 * quantized). */
static void layers_rank_alike(const struct kvant_sensitivity *a, const struct kvant_sensitivity *b)
{
    static const double least[KVANT_SENSITIVITY_MODES] = { .9, .9, .7 };
    for (int mode = 0; mode < KVANT_SENSITIVITY_MODES; mode++) {
        double k4v4 = rank_agreement(a, b, mode, K4, K4), k2v2 = rank_agreement(a, b, mode, K2, K2);
        print_message("%s: layers of two prompt sets, Spearman K4V4 %.3f K2V2 %.3f\n",
                      kvant_sensitivity_mode_name((kvant_sensitivity_mode)mode), k4v4, k2v2);
        assert_true(k4v4 > least[mode] && k2v2 > least[mode]);
    }
}

static void check_findings(const char *file, int n_prompts, int n_predict)
{
    struct kvant_model *model = open_model(file);
    static struct questions questions[2];
    if (!model || !read_questions(&questions[0], model, 0, n_prompts) ||
        !read_questions(&questions[1], model, n_prompts, n_prompts)) {
        print_message("skipped: needs models/%s and gsm8k/train.jsonl of the data sets\n", file);
        kvant_model_close(model);
        skip();
    }
    struct kvant_sensitivity_options opt = KVANT_SENSITIVITY_OPTIONS_INIT;
    struct kvant_sensitivity *s[2];
    struct kvant_error err = { 0 };
    opt.n_predict = n_predict;
    for (int i = 0; i < 2; i++)
        if (kvant_sensitivity_run(&s[i], model, questions[i].prompts, (size_t)n_prompts, &opt, &err) !=
            KVANT_OK)
            fail_msg("%s", err.message);
    for (int i = 0; i < 2; i++) {
        key_bits_matter_more(s[i]);
        value_errors_are_the_published_ones(s[i]);
        concentrated_heads_are_robust(s[i]);
    }
    layers_rank_alike(s[0], s[1]);
    kvant_sensitivity_close(s[0]);
    kvant_sensitivity_close(s[1]);
    kvant_model_close(model);
}

static void the_papers_findings_on_smollm2(void **state)
{
    (void)state;
    check_findings("SmolLM2-135M-Instruct.Q4_1.gguf", 6, 32);
}

static void the_papers_findings_on_qwen(void **state)
{
    (void)state;
    check_findings("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", 4, 24);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_papers_findings_on_smollm2),
        cmocka_unit_test(the_papers_findings_on_qwen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
