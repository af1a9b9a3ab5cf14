/*
 * KVTuner's published groups and configurations: which of them are sound, and the numbers printed beside
 * them, computed from the plans themselves.
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

#include "cache/plan.h"
#include "support/kvtuner_data.h"
#include "tune/kvtuner.h"

static void published_groups_are_partitions_and_wrong_ones_are_named(void **state)
{
    (void)state;
    struct kvtuner_data *data = kvtuner_data_read("groups.txt");
    int n_sound = 0, n_wrong = 0;
    for (int i = 0; i < data->n; i++) {
        const struct kvtuner_case *c = &data->cases[i];
        struct kvant_error err = { 0 };
        kvant_status status = kv_groups_check(&c->groups, c->n_layer, c->candidates, kv_pairs_paper, 9, &err);
        if (c->wrong[0]) {
            n_wrong++;
            if (status != KVANT_ERR_ARGUMENT || !strstr(err.message, c->wrong))
                fail_msg("%s: '%s' does not say '%s'", c->title, err.message, c->wrong);
        } else {
            n_sound++;
            if (status != KVANT_OK) fail_msg("%s: %s", c->title, err.message);
        }
        if (kv_groups_space(&c->groups, c->candidates) != c->space)
            fail_msg("%s: a space of %.0f plans", c->title, kv_groups_space(&c->groups, c->candidates));
    }
    assert_int_equal(n_sound, 7);
    assert_int_equal(n_wrong, 2);
    free(data);
}

/* Mistral's groups are an exact partition; what is wrong is their candidates. */
static void the_fault_of_a_partition_lies_in_its_candidates(void **state)
{
    (void)state;
    struct kvtuner_data *data = kvtuner_data_read("groups.txt");
    int n = 0;
    for (int i = 0; i < data->n; i++) {
        const struct kvtuner_case *c = &data->cases[i];
        if (!c->wrong[0]) continue;
        bool mistral = strstr(c->title, "Mistral") != NULL;
        n += mistral;
        kvant_status status = kv_groups_check(&c->groups, c->n_layer, NULL, NULL, 0, NULL);
        assert_int_equal(status, mistral ? KVANT_OK : KVANT_ERR_ARGUMENT);
    }
    assert_int_equal(n, 1);
    free(data);
}

static bool printed_as(double x, double printed, double digits)
{
    return fabs(x - printed) <= 0.5 * digits + 1e-12;
}

static struct kvant_plan *plan_of(const struct kvtuner_case *c, enum kv_preset_mode mode)
{
    struct kv_plan_dims dims = { "", "", NULL, c->n_layer, 2, 64 };
    uint8_t assignment[KVTUNER_LAYERS_MAX];
    struct kvant_plan *plan;
    assert_int_equal(kv_plan_open(&plan, &dims, "f16;sinks=0", NULL), KVANT_OK);
    kvtuner_assignment(c, assignment);
    for (int layer = 0; layer < c->n_layer; layer++) {
        struct kv_pair pair = kv_pairs_paper[assignment[layer]];
        for (int head = 0; head < 2; head++)
            plan->recipe[2 * layer + head] = kv_preset_recipe(mode, pair.key_bits, pair.value_bits);
    }
    kv_plan_settle(plan);
    assert_int_equal(kv_plan_check(plan, NULL), KVANT_OK);
    return plan;
}

/* The equivalent bits by the plan's own account, the means by its recipes, and the sum by the assignment. */
static void configurations_have_the_bits_printed(void **state)
{
    (void)state;
    struct kvtuner_data *data = kvtuner_data_read("configurations.txt");
    assert_int_equal(data->n, 13);
    for (int i = 0; i < data->n; i++) {
        const struct kvtuner_case *c = &data->cases[i];
        struct kvant_plan *plan = plan_of(c, strstr(c->title, "KIVI") ? KV_PRESET_KIVI : KV_PRESET_PERTOKEN);
        struct kvant_plan_memory memory;
        kvant_plan_get_memory(plan, 0, &memory);
        double key = 0.0, value = 0.0;
        for (int layer = 0; layer < c->n_layer; layer++) {
            key += kv_recipe_key_bits(kv_plan_recipe_at(plan, layer, 0)) / c->n_layer;
            value += kv_plan_recipe_at(plan, layer, 0)->value_bits / (double)c->n_layer;
        }
        if (!printed_as(memory.code_bits, c->bits, 1e-4) || !printed_as(key, c->key_bits, 1e-4) ||
            !printed_as(value, c->value_bits, 1e-4))
            fail_msg("%s: %.5f bits, keys %.5f, values %.5f", c->title, memory.code_bits, key, value);
        uint8_t assignment[KVTUNER_LAYERS_MAX];
        kvtuner_assignment(c, assignment);
        int sum = kv_assignment_bit_sum(assignment, c->n_layer, kv_pairs_paper);
        assert_true(fabs(memory.code_bits - sum / (2.0 * c->n_layer)) < 1e-12);
        kvant_plan_close(plan);
    }
    free(data);
}

/* A run of the method over nothing but one configuration: its name comes from the bits that it reaches. */
static kvant_status measure(void *user, const uint8_t *assignment, int n, double *error,
                            struct kvant_error *err)
{
    (void)user;
    (void)assignment;
    (void)err;
    for (int i = 0; i < n; i++) error[i] = 0.25;
    return KVANT_OK;
}

static void names_come_from_the_bits_reached(void **state)
{
    (void)state;
    struct kvtuner_data *data = kvtuner_data_read("configurations.txt");
    for (int i = 0; i < data->n; i++) {
        const struct kvtuner_case *c = &data->cases[i];
        int begin[KVTUNER_LAYERS_MAX + 1], layer[KVTUNER_LAYERS_MAX];
        for (int l = 0; l < c->n_layer; l++) begin[l + 1] = (layer[l] = l) + 1;
        begin[0] = 0;
        struct kv_groups singletons = { c->n_layer, begin, layer };
        struct kv_kvtuner_options opt = {
            .n_layer = c->n_layer, .candidates = c->candidates, .groups = &singletons, .evaluate = measure
        };
        struct kv_kvtuner k;
        struct kv_kvtuner_choice choices[2];
        assert_int_equal(kv_kvtuner_run(&k, &opt, NULL), KVANT_OK);
        assert_true(k.n_space == 1.0);
        assert_int_equal(k.n_singletons, c->n_layer);
        assert_int_equal(kv_kvtuner_select(&k, choices), 1); /* within 6 bits, or within both: once */
        assert_string_equal(choices[0].name, c->name);
        kv_kvtuner_close(&k);
    }
    free(data);
}

/* Each configuration gives the layers of a published group one pair, out of their candidates. */
static void configurations_belong_to_their_groups(void **state)
{
    (void)state;
    struct kvtuner_data *groups = kvtuner_data_read("groups.txt"),
                        *configurations = kvtuner_data_read("configurations.txt");
    int n_checked = 0;
    for (int i = 0; i < configurations->n; i++) {
        const struct kvtuner_case *c = &configurations->cases[i];
        uint8_t assignment[KVTUNER_LAYERS_MAX];
        kvtuner_assignment(c, assignment);
        for (int j = 0; j < groups->n; j++) {
            const struct kvtuner_case *g = &groups->cases[j];
            if (strncmp(c->title, g->title, strlen(g->title)) != 0) continue;
            n_checked++;
            for (int m = 0; m < g->groups.n_groups; m++) {
                int first = g->layer[g->begin[m]];
                for (int l = g->begin[m]; l < g->begin[m + 1]; l++) {
                    int layer = g->layer[l];
                    if (assignment[layer] != assignment[first] ||
                        !(g->candidates[layer] >> assignment[layer] & 1))
                        fail_msg("%s: layer %d", c->title, layer);
                }
            }
        }
    }
    assert_int_equal(n_checked, 13);
    free(groups);
    free(configurations);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_groups_are_partitions_and_wrong_ones_are_named),
        cmocka_unit_test(the_fault_of_a_partition_lies_in_its_candidates),
        cmocka_unit_test(configurations_have_the_bits_printed),
        cmocka_unit_test(names_come_from_the_bits_reached),
        cmocka_unit_test(configurations_belong_to_their_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
