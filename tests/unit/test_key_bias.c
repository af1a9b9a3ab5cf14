/* The static detector on tiny models: outlier key biases, and plans that cannot store them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvant.h"
#include "support/scratch.h"
#include "support/tiny_gguf.h"

static struct kvant_model *open_tiny(const char *arch, float outlier, bool vocab_only)
{
    char path[SCRATCH_CAP];
    struct kvant_error err = { 0 };
    struct tiny_gguf_options opt = { .arch = arch, .seed = 11, .n_layer = 5, .key_bias_outlier = outlier };
    struct kvant_model_options how = KVANT_MODEL_OPTIONS_INIT;
    struct kvant_model *model;
    how.vocab_only = vocab_only;
    if (tiny_gguf_write(scratch_path(path, "test_key_bias.gguf"), &opt, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    if (kvant_model_open(&model, path, &how, &err) != KVANT_OK) fail_msg("%s", err.message);
    unlink(path);
    return model;
}

static void an_outlier_layer_is_found(void **state)
{
    (void)state;
    struct kvant_model *model = open_tiny("qwen2", 100, false);
    struct kvant_key_bias b, head[2];
    /* biases are normal with deviation .3; the largest of 32 channels lies between .3 and 1.5 */
    assert_true(kvant_model_key_bias_median(model) > .3f && kvant_model_key_bias_median(model) < 1.5f);
    for (int layer = 0; layer < 5; layer++) {
        assert_true(kvant_model_key_bias(model, layer, -1, &b));
        assert_true(b.is_outlier == (layer == 0));
        assert_true(layer == 0 ? fabsf(b.max - 100) < 2 : b.max < 2);
        double square = 0;
        for (int h = 0; h < 2; h++) {
            assert_true(kvant_model_key_bias(model, layer, h, &head[h]));
            assert_true(head[h].is_outlier == (layer == 0));
            square += (double)head[h].norm * (double)head[h].norm;
        }
        assert_true(b.max == fmaxf(head[0].max, head[1].max));
        assert_true(fabs(square - (double)b.norm * (double)b.norm) < 1e-5 * square);
    }
    /* ±100 in a quarter of 32 channels */
    kvant_model_key_bias(model, 0, -1, &b);
    assert_true(fabs((double)b.norm - 100 * sqrt(8)) < 10);
    static const int outside[][2] = { { -1, 0 }, { 5, 0 }, { 0, 2 }, { 0, -2 } };
    for (size_t i = 0; i < 4; i++) {
        b.max = 7;
        assert_false(kvant_model_key_bias(model, outside[i][0], outside[i][1], &b));
        assert_true(b.max == 0 && b.norm == 0 && !b.is_outlier);
    }
    kvant_model_close(model);
}

static void ordinary_biases_and_none(void **state)
{
    (void)state;
    struct kvant_key_bias b;
    struct kvant_model *model = open_tiny("qwen2", 0, false);
    for (int layer = 0; layer < 5; layer++)
        assert_true(kvant_model_key_bias(model, layer, -1, &b) && b.max > 0 && !b.is_outlier);
    kvant_model_close(model);
    static const char *const archs[] = { "llama", "qwen3" };
    for (int i = 0; i < 2; i++) {
        model = open_tiny(archs[i], 0, false);
        assert_false(kvant_model_key_bias(model, 0, -1, &b));
        assert_true(kvant_model_key_bias_median(model) == 0);
        kvant_model_close(model);
    }
    model = open_tiny("qwen2", 100, true);
    assert_false(kvant_model_key_bias(model, 0, -1, &b));
    assert_true(kvant_model_key_bias_median(model) == 0);
    kvant_model_close(model);
}

static void plans_that_cannot_store_them_are_named(void **state)
{
    (void)state;
    struct kvant_model *model = open_tiny("qwen2", 100, false), *plain = open_tiny("llama", 0, false);
    static const struct { const char *spec; bool at_risk; } rows[] = {
        { "default", false },          { "f16", false },
        { "k4tv4", true },             { "k2tv2", true },
        { "k3thv4", true }, /* rotation spreads the outlier over all channels */
        { "k4tmv4", false },           { "k4tmhv4", false },
        { "k8tv8", false },            { "k4c32v4", false },
        { "k2c64xmv2", false },        { "0:k8v8,1-4:k4tv4", false },
        { "0-1:k4tv4,2-4:f16", true }, { "0:[k4tv4, k8v8],1-4:f16", true },
        { "0:[k8v8, k4tv4],1-4:f16", true },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kvant_error err = { 0 };
        struct kvant_plan *plan, *other;
        char layers[16] = "untouched";
        if (kvant_plan_open(&plan, model, rows[i].spec, &err) != KVANT_OK) fail_msg("%s", err.message);
        bool at_risk = kvant_plan_keys_at_risk(plan, model, layers, sizeof layers);
        if (at_risk != rows[i].at_risk || strcmp(layers, at_risk ? "0" : "") != 0)
            fail_msg("%s: %d '%s'", rows[i].spec, at_risk, layers);
        assert_true(kvant_plan_keys_at_risk(plan, model, NULL, 0) == at_risk);
        assert_int_equal(kvant_plan_open(&other, plain, rows[i].spec, &err), KVANT_OK);
        assert_false(kvant_plan_keys_at_risk(other, plain, layers, sizeof layers));
        kvant_plan_close(plan);
        kvant_plan_close(other);
    }
    kvant_model_close(model);
    kvant_model_close(plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_outlier_layer_is_found),
        cmocka_unit_test(ordinary_biases_and_none),
        cmocka_unit_test(plans_that_cannot_store_them_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
