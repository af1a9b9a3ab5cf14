/*
 * KVTuner's published presets: each is read, and its mean bits are those of the paper's tables.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/os.h"
#include "cache/plan.h"

static const struct kv_plan_dims llama = { "Llama", "llama", NULL, 32, 8, 128 },
                                 qwen = { "Qwen", "qwen2", NULL, 28, 4, 128 };

/* sums over layers of key and value bits; -1 = the paper prints no average for this file */
static const struct { const char *file; bool kivi; int key_sum, value_sum; } presets[] = {
    { "Meta-Llama-3.1-8B-Instruct_pertoken_KVTuner4_0.yaml", false, 128, 102 },
    { "Meta-Llama-3.1-8B-Instruct_pertoken_KVTuner4_1.yaml", false, -1, -1 },
    { "Meta-Llama-3.1-8B-Instruct_pertoken_KVTuner6_0.yaml", false, -1, -1 },
    { "Meta-Llama-3.1-8B-Instruct_pertoken_KVTuner6_1.yaml", false, 220, 128 },
    { "Meta-Llama-3.1-8B-Instruct_kivi_KVTuner4_0.yaml", true, -1, -1 },
    { "Meta-Llama-3.1-8B-Instruct_kivi_KVTuner4_1.yaml", true, 128, 80 },
    { "Meta-Llama-3.1-8B-Instruct_kivi_KVTuner6_0.yaml", true, -1, -1 },
    { "Meta-Llama-3.1-8B-Instruct_kivi_KVTuner6_1.yaml", true, 198, 116 },
    { "Qwen2.5-7B-Instruct_pertoken_KVTuner4_0.yaml", false, -1, -1 },
    { "Qwen2.5-7B-Instruct_pertoken_KVTuner4_1.yaml", false, -1, -1 },
    { "Qwen2.5-7B-Instruct_pertoken_KVTuner6_0.yaml", false, -1, -1 },
    { "Qwen2.5-7B-Instruct_pertoken_KVTuner6_1.yaml", false, -1, -1 },
    { "Qwen2.5-7B-Instruct_kivi_KVTuner4_0.yaml", true, -1, -1 },
    { "Qwen2.5-7B-Instruct_kivi_KVTuner4_1.yaml", true, -1, -1 },
    { "Qwen2.5-7B-Instruct_kivi_KVTuner6_0.yaml", true, -1, -1 },
    { "Qwen2.5-7B-Instruct_kivi_KVTuner6_1.yaml", true, -1, -1 },
};

static void path_of(char *out, size_t cap, const char *file)
{
    const char *data = getenv("KVANT_DATA");
    snprintf(out, cap, "%s/kvtuner-presets/%s", data ? data : "../shared/data", file);
}

static void sum_bits(const struct kvant_plan *plan, int *key, int *value)
{
    *key = *value = 0;
    for (int layer = 0; layer < plan->n_layer; layer++) {
        *key += kv_plan_recipe_at(plan, layer, 0)->key_bits;
        *value += kv_plan_recipe_at(plan, layer, 0)->value_bits;
    }
}

static void every_preset_is_read(void **state)
{
    (void)state;
    char path[512];
    path_of(path, sizeof path, presets[0].file);
    if (!kv_file_exists(path)) skip();
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++) {
        struct kvant_error err = { 0 };
        struct kvant_plan *plan;
        path_of(path, sizeof path, presets[i].file);
        const struct kv_plan_dims *dims = presets[i].file[0] == 'Q' ? &qwen : &llama;
        if (kv_plan_open(&plan, dims, path, &err) != KVANT_OK) fail_msg("%s", err.message);
        const struct kv_recipe *r = kv_plan_recipe_at(plan, 3, 1);
        assert_int_equal(r->key_scheme, presets[i].kivi ? KV_KEY_C32 : KV_KEY_TOKEN);
        assert_int_equal(r->value_group, presets[i].kivi ? 32 : 0);
        assert_false(r->value_rotated);
        assert_int_equal(plan->sinks, 0);
        assert_int_equal(plan->tail, presets[i].kivi ? 32 : 0);
        assert_int_equal(plan->granule, presets[i].kivi ? 32 : 1);
        int key, value;
        sum_bits(plan, &key, &value);
        if (presets[i].key_sum >= 0 && (key != presets[i].key_sum || value != presets[i].value_sum))
            fail_msg("%s: %d and %d bits over all layers", path, key, value);
        kvant_plan_close(plan);
    }
}

/* The averages that the paper names by (keys, values) alone: some file of the family has them. */
static void the_published_averages_appear(void **state)
{
    (void)state;
    static const struct { const char *family; int key_sum, value_sum; } published[] = {
        { "Qwen2.5-7B-Instruct_pertoken_KVTuner4", 128, 96 },  /* C4.00: 4.5714, 3.4286 */
        { "Qwen2.5-7B-Instruct_pertoken_KVTuner6", 176, 104 }, /* C5.00: 6.2857, 3.7143 */
        { "Qwen2.5-7B-Instruct_kivi_KVTuner4", 110, 110 },     /* C3.92: 3.9286, 3.9286 */
        { "Qwen2.5-7B-Instruct_kivi_KVTuner6", 182, 152 },     /* C5.96: 6.5000, 5.4286 */
        { "Meta-Llama-3.1-8B-Instruct_kivi_KVTuner4", 128, 80 },
        { "Meta-Llama-3.1-8B-Instruct_kivi_KVTuner6", 198, 116 },
    };
    char path[512], file[128];
    path_of(path, sizeof path, presets[0].file);
    if (!kv_file_exists(path)) skip();
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        int found = 0;
        for (int n = 0; n < 2; n++) {
            struct kvant_error err = { 0 };
            struct kvant_plan *plan;
            snprintf(file, sizeof file, "%s_%d.yaml", published[i].family, n);
            path_of(path, sizeof path, file);
            if (kv_plan_open(&plan, file[0] == 'Q' ? &qwen : &llama, path, &err) != KVANT_OK)
                fail_msg("%s", err.message);
            int key, value;
            sum_bits(plan, &key, &value);
            found += key == published[i].key_sum && value == published[i].value_sum;
            kvant_plan_close(plan);
        }
        if (!found) fail_msg("no file of %s has the published average", published[i].family);
    }
}

static void the_mode_can_be_set_and_a_preset_of_another_model_is_refused(void **state)
{
    (void)state;
    char path[512], spec[600];
    path_of(path, sizeof path, presets[0].file);
    if (!kv_file_exists(path)) skip();
    struct kvant_error err = { 0 };
    struct kvant_plan *plan;
    snprintf(spec, sizeof spec, "%s;preset=kivi;sinks=4", path);
    assert_int_equal(kv_plan_open(&plan, &llama, spec, &err), KVANT_OK);
    assert_int_equal(kv_plan_recipe_at(plan, 0, 0)->key_scheme, KV_KEY_C32);
    assert_int_equal(plan->sinks, 4);
    assert_int_equal(plan->tail, 32);
    kvant_plan_close(plan);
    assert_int_equal(kv_plan_open(&plan, &qwen, path, &err),
                     KVANT_ERR_MISMATCH); /* 32 layers for a model of 28 */
    path_of(path, sizeof path, "Qwen2.5-7B-Instruct_kivi_KVTuner4_0.yaml");
    assert_int_equal(kv_plan_open(&plan, &llama, path, &err), KVANT_ERR_FORMAT); /* 28 for 32 */
    assert_non_null(strstr(err.message, "layers 28 to 31"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_preset_is_read),
        cmocka_unit_test(the_published_averages_appear),
        cmocka_unit_test(the_mode_can_be_set_and_a_preset_of_another_model_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
