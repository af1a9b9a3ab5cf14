/*
 * KVTuner's released presets against the published configurations: layer by layer where the paper prints the
 * layers, by the equivalent bits where it prints no more than those.
 */
#include <math.h>
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
#include "support/kvtuner_data.h"

/* Skips the test when there is no such file. */
static struct kvant_plan *open_preset(const char *file, int n_layer)
{
    const char *data = getenv("KVANT_DATA");
    struct kv_plan_dims dims = { "", "", NULL, n_layer, 4, 128 };
    struct kvant_plan *plan;
    struct kvant_error err = { 0 };
    char path[512];
    snprintf(path, sizeof path, "%s/kvtuner-presets/%s", data ? data : "../shared/data", file);
    if (!kv_file_exists(path)) skip();
    if (kv_plan_open(&plan, &dims, path, &err) != KVANT_OK) fail_msg("%s", err.message);
    return plan;
}

static bool same_layers(const struct kvant_plan *plan, const uint8_t *assignment)
{
    for (int layer = 0; layer < plan->n_layer; layer++) {
        const struct kv_recipe *r = kv_plan_recipe_at(plan, layer, 0);
        struct kv_pair pair = kv_pairs_paper[assignment[layer]];
        if (r->key_bits != pair.key_bits || r->value_bits != pair.value_bits) return false;
    }
    return true;
}

static double equivalent_bits(const struct kvant_plan *plan)
{
    struct kvant_plan_memory memory;
    kvant_plan_get_memory(plan, 0, &memory);
    return memory.code_bits;
}

static void presets_are_the_published_configurations(void **state)
{
    (void)state;
    struct kvant_plan *probe = open_preset("Meta-Llama-3.1-8B-Instruct_pertoken_KVTuner4_0.yaml", 32);
    kvant_plan_close(probe);
    struct kvtuner_data *data = kvtuner_data_read("configurations.txt");
    int n_presets = 0;
    for (int i = 0; i < data->n; i++) {
        struct kvtuner_case *c = &data->cases[i];
        if (!c->preset[0]) continue;
        char *unknown = strchr(c->preset, '?');
        uint8_t assignment[KVTUNER_LAYERS_MAX];
        kvtuner_assignment(c, assignment);
        int n_same = 0;
        for (int n = 0; n < (unknown ? 2 : 1); n++) {
            if (unknown) *unknown = (char)('0' + n);
            struct kvant_plan *plan = open_preset(c->preset, c->n_layer);
            if (same_layers(plan, assignment)) {
                n_same++;
                assert_true(fabs(equivalent_bits(plan) - c->bits) <= 0.5e-4);
            }
            kvant_plan_close(plan);
        }
        if (n_same != 1) fail_msg("%s: %d presets have its layers", c->title, n_same);
        n_presets++;
    }
    assert_int_equal(n_presets, 8);
    free(data);
}

/* Presets that the paper knows by their bits alone. */
static void further_presets_have_the_bits_printed(void **state)
{
    (void)state;
    static const struct {
        const char *family;
        double bits;
    } printed[] = { { "Qwen2.5-7B-Instruct_pertoken_KVTuner4", 3.93 },
                    { "Qwen2.5-7B-Instruct_pertoken_KVTuner6", 5.79 } };
    for (size_t i = 0; i < sizeof printed / sizeof printed[0]; i++) {
        int n_found = 0;
        for (int n = 0; n < 2; n++) {
            char file[128];
            snprintf(file, sizeof file, "%s_%d.yaml", printed[i].family, n);
            struct kvant_plan *plan = open_preset(file, 28);
            n_found += fabs(equivalent_bits(plan) - printed[i].bits) <= 0.005;
            kvant_plan_close(plan);
        }
        assert_int_equal(n_found, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_are_the_published_configurations),
        cmocka_unit_test(further_presets_have_the_bits_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
