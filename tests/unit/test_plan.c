/*
 * Plans as text: the grammar, every refusal with its place, and print -> parse = identity.
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

#include "base/memory.h"
#include "cache/plan_text.h"
#include "support/scratch.h"

static const struct kv_plan_dims dims = { "Tiny \"2\"", "qwen2", "sha256:0123", 6, 2, 64 };

/* --------------------------------------------------------------------------------------------- recipes -- */

static void recipes_are_read_as_specified(void **state)
{
    (void)state;
    static const struct { const char *text, *canonical; } rows[] = {
        { "k4c64v3h", "k4c64 v3h" },
        { "k4c64 v3h", "k4c64 v3h" },
        { "  k8t  v8 ", "k8t v8" },
        { "k2.5c64xmv2h", "k2.5c64xm v2h" },
        { "k1c32x v4g32h", "k1c32x v4g32h" },
        { "k2.25c64x v2", "k2.25c64x v2" },
        { "k7.75c64x v2", "k7.75c64x v2" },
        { "k8c64x v16", "k8c64x v16" },
        { "k4tmh v16", "k4tmh v16" },
        { "k3c32mhv3g32", "k3c32mh v3g32" },
        /* bits alone: the recommended recipe of those bits */
        { "k8v8", "k8tm v8" },
        { "k4v4", "k4c64 v4h" },
        { "k3v3", "k3c64 v3h" },
        { "k2v2", "k2c32 v2h" },
        { "k16v16", "k16 v16" },
        { "k16v4", "k16 v4h" },
        { "k4v16", "k4c64 v16" },
        { "k8v2", "k8tm v2h" },
        /* one letter makes the rest literal, but never a key weak by silence */
        { "k4tv4", "k4t v4" },
        { "k4c64 v4", "k4c64 v4" },
        { "k4mv4", "k4tm v4" },
        { "k4v4h", "k4c64 v4h" },
        { "k4v4g32", "k4c64 v4g32" },
        { "k16tv4", "k16t v4" },
        { "k16t v16", "k16 v16" },
        /* llama.cpp's names */
        { "f16", "k16 v16" },
        { "q8_0", "k8tm v8" },
        { "q4_0", "k4c64 v4h" },
        { "q4_1", "k4c64 v4h" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kvant_error err = { 0 };
        struct kv_recipe r;
        if (kv_recipe_parse(&r, rows[i].text, strlen(rows[i].text), &err) != KVANT_OK)
            fail_msg("'%s': %s", rows[i].text, err.message);
        char text[32];
        kv_recipe_print(&r, text, sizeof text);
        assert_string_equal(text, rows[i].canonical);
        struct kv_recipe again;
        assert_int_equal(kv_recipe_parse(&again, text, strlen(text), &err), KVANT_OK);
        assert_true(kv_recipe_equal(&r, &again));
    }
}

struct refusal {
    const char *text;
    int64_t position; /* column in the grammar, line in a file */
    const char *says; /* part of the message                   */
};

static void bad_recipes_are_refused_at_their_column(void **state)
{
    (void)state;
    static const struct refusal rows[] = {
        { "", 1, "not a recipe" },
        { "v4", 1, "not a recipe" },
        { "kv4", 2, "key bits" },
        { "k5v4", 2, "key bits" },
        { "k2.5v4", 2, "k2.5c64x" },
        { "k2.3c64xv4", 2, "key bits" },
        { "k99999999999v4", 2, "key bits" },
        { "k0.75c64xv4", 2, "average 1 to 8" },
        { "k8.25c64xv4", 2, "average 1 to 8" },
        { "k4xv4", 3, "c32x or c64x" },
        { "k4txv4", 3, "c32x or c64x" },
        { "k4c64xhv4", 3, "cannot be rotated" },
        { "k4c16v4", 3, "expected v" },
        { "k4hmv4", 4, "order" },
        { "k4c64", 6, "missing" },
        { "k16c64v4", 4, "stored as they are" },
        { "k16mv4", 4, "stored as they are" },
        { "k4tv5", 5, "value bits" },
        { "k4tv2.5", 5, "value bits" },
        { "k4tv16h", 7, "stored as they are" },
        { "k4tv4hg32", 7, "order" },
        { "k4tv4 k4tv4", 7, "nothing may follow" },
        { "K4tv4", 1, "not a recipe" },
        { "q5_0", 1, "no 5-bit" },
        { "q5_1", 1, "no 5-bit" },
        { "f32", 1, "f16" },
        { "bf16", 1, "f16" },
        { "iq4_nl", 1, "k4v4" },
        { "q9", 1, "not a recipe" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kvant_error err = { 0 };
        struct kv_recipe r;
        if (kv_recipe_parse(&r, rows[i].text, strlen(rows[i].text), &err) != KVANT_ERR_FORMAT)
            fail_msg("'%s' was not refused", rows[i].text);
        if (err.position != rows[i].position || !strstr(err.message, rows[i].says))
            fail_msg("'%s': position %lld, %s", rows[i].text, (long long)err.position, err.message);
    }
}

/* -------------------------------------------------------------------------------------- specifications -- */

static void specifications_are_read_as_specified(void **state)
{
    (void)state;
    static const struct { const char *spec, *name; int sinks, tail, granule; } rows[] = {
        { NULL, "k4c64v4h", 4, 32, 64 },
        { "", "k4c64v4h", 4, 32, 64 },
        { "default", "k4c64v4h", 4, 32, 64 },
        { "default; tail = 128", "k4c64v4h;tail=128", 4, 128, 64 },
        { ";sinks=0", "k4c64v4h;sinks=0", 0, 32, 64 },
        { "f16", "k16v16", 4, 32, 64 },
        { "k4c32v3h", "k4c32v3h", 4, 32, 32 },
        { "k4tv4;sinks=0;tail=0", "k4tv4;sinks=0;tail=0", 0, 0, 1 },
        { "k16 v4h", "k16v4h", 4, 32, 1 },
        { "0:k8tv8,1-5:k4c64v2h", "0:k8tv8,1-5:k4c64v2h", 4, 32, 64 },
        { "3-5:k4tv4 , 0-2: k4tv4", "k4tv4", 4, 32, 1 },
        { "0-5:[k4c64 v3h, k2c32 v2h]", "[k4c64v3h,k2c32v2h]", 4, 32, 64 },
        { "[k4t v4, k4t v4]", "k4tv4", 4, 32, 1 },
        { "0:[k4c64 v3h, k4t v2h],1-5:f16", "0:[k4c64v3h,k4tv2h],1-5:k16v16", 4, 32, 64 },
        { "0:q8_0,1-5:q4_0", "0:k8tmv8,1-5:k4c64v4h", 4, 32, 64 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kvant_error err = { 0 };
        struct kvant_plan *plan, *again;
        if (kv_plan_open(&plan, &dims, rows[i].spec, &err) != KVANT_OK)
            fail_msg("'%s': %s", rows[i].spec, err.message);
        assert_string_equal(kvant_plan_name(plan), rows[i].name);
        assert_int_equal(plan->sinks, rows[i].sinks);
        assert_int_equal(plan->tail, rows[i].tail);
        assert_int_equal(plan->granule, rows[i].granule);
        /* a name is a specification of the same plan */
        assert_int_equal(kv_plan_open(&again, &dims, kvant_plan_name(plan), &err), KVANT_OK);
        assert_string_equal(kvant_plan_name(again), rows[i].name);
        kvant_plan_close(again);
        kvant_plan_close(plan);
    }
}

static void bad_specifications_are_refused_at_their_column(void **state)
{
    (void)state;
    static const struct refusal rows[] = {
        { "k4tv4,k4tv4", 6, "for several write ranges" },
        { "k4tv4x", 6, "nothing may follow" },
        { "0:k4tv4,0-5:k4tv4", 9, "already has a recipe" },
        { "0-2:k4tv4,4-5:k4tv4", 20, "layers 3 to 3" },
        { "1-5:k4tv4", 10, "layers 0 to 0" },
        { "0-6:k4tv4", 1, "layer 6" },
        { "5-0:k4tv4", 1, "above the last" },
        { "0-:k4tv4", 1, "a range such as" },
        { "0 1:k4tv4", 1, "a range such as" },
        { "0-5:k4tv4,", 11, "layers and a colon" },
        { "0-5:", 5, "not a recipe" },
        { "0-5:k4tv5", 9, "value bits" },
        { "0-5:[k4tv4", 5, "not closed" },
        { "0-5:[k4tv4]", 5, "1 recipes for 2" },
        { "0-5:[k4tv4,k4tv4,k4tv4]", 18, "more recipes" },
        { "0-5:[k4tv4,k4tv4]k", 18, "after ]" },
        { "0-5:[k4tv4,k4cv4]", 14, "expected v" },
        { "k4tv4;", 7, "a setting is written" },
        { "k4tv4;sink=3", 7, "unknown setting" },
        { "k4tv4;sinks=65", 13, "0 to 64" },
        { "k4tv4;tail=-1", 12, "0 to 4096" },
        { "k4tv4;tail=4097", 12, "0 to 4096" },
        { "k4tv4;tail=", 12, "0 to 4096" },
        { "k4tv4;tail=1;tail=2", 14, "twice" },
        { "k4tv4;preset=kivi", 7, "preset files" },
        { "k4tv4;preset=none", 14, "kivi or pertoken" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kvant_error err = { 0 };
        struct kvant_plan *plan;
        if (kv_plan_open(&plan, &dims, rows[i].text, &err) != KVANT_ERR_FORMAT)
            fail_msg("'%s' was not refused", rows[i].text);
        assert_null(plan);
        if (err.position != rows[i].position || !strstr(err.message, rows[i].says))
            fail_msg("'%s': position %lld, %s", rows[i].text, (long long)err.position, err.message);
    }
    struct kvant_error err = { 0 };
    struct kvant_plan *plan;
    assert_int_equal(kv_plan_open(&plan, &dims, "nowhere/plan.yaml", &err), KVANT_ERR_IO);
    assert_non_null(strstr(err.message, "nowhere/plan.yaml"));
    assert_int_equal(kv_plan_open(&plan, &dims, "hello", &err), KVANT_ERR_IO);

    struct kv_plan_dims odd = dims;
    odd.head_dim = 40;
    assert_int_equal(kv_plan_open(&plan, &odd, "k4tv4g32", &err), KVANT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "multiple of 32"));
    odd.head_dim = 12;
    assert_int_equal(kv_plan_open(&plan, &odd, "f16", &err), KVANT_ERR_UNSUPPORTED);
    odd.head_dim = 264;
    assert_int_equal(kv_plan_open(&plan, &odd, "f16", &err), KVANT_ERR_UNSUPPORTED);
}

/* ------------------------------------------------------------------------------------------------ YAML -- */

static kvant_status read_yaml(struct kvant_plan **plan, const char *text, struct kvant_error *err)
{
    return kv_plan_read_yaml(plan, &dims, text, strlen(text), "plan.yaml", KV_PRESET_AUTO, NULL, err);
}

static void a_plan_written_by_hand_is_read(void **state)
{
    (void)state;
    struct kvant_error err = { 0 };
    struct kvant_plan *plan;
    const char *text = "# mine\n"
                       "kvplan: 1\n"
                       "tail: 64\n"
                       "layers:\n"
                       "  0:    k8t v4h     # careful\n"
                       "  1-3:  [k4c64 v3h, \"k2c64 v2h\"]\n"
                       "  4-5:\n"
                       "    - k3v3\n"
                       "    - f16\n"
                       "measured: {kld_mean: 1.5e-3, text: 'own text'}\n";
    if (read_yaml(&plan, text, &err) != KVANT_OK) fail_msg("%s", err.message);
    assert_int_equal(plan->sinks, 4);
    assert_int_equal(plan->tail, 64);
    assert_int_equal(plan->granule, 64);
    char recipe[32];
    assert_int_equal(kvant_plan_recipe(plan, 2, 1, recipe, sizeof recipe, &err), KVANT_OK);
    assert_string_equal(recipe, "k2c64 v2h");
    assert_int_equal(kvant_plan_recipe(plan, 4, 0, recipe, sizeof recipe, &err), KVANT_OK);
    assert_string_equal(recipe, "k3c64 v3h");
    assert_int_equal(kvant_plan_recipe(plan, 6, 0, recipe, sizeof recipe, &err), KVANT_ERR_ARGUMENT);
    assert_int_equal(kvant_plan_recipe(plan, 0, 2, recipe, sizeof recipe, &err), KVANT_ERR_ARGUMENT);
    assert_int_equal(kvant_plan_recipe(plan, 0, 0, recipe, 4, &err), KVANT_ERR_SPACE);
    assert_true(plan->measured.kld_mean == 1.5e-3);
    assert_string_equal(plan->measured.text, "own text");
    assert_false(kvant_plan_needs_calibration(plan));
    kvant_plan_close(plan);
}

static void a_verdict_is_kept_and_asked_for(void **state)
{
    (void)state;
    struct kvant_error err = { 0 };
    struct kvant_plan *plan, *copy;
    struct kvant_verdict v = { .reason = "untouched" };
    char why[128];
    assert_int_equal(read_yaml(&plan, "kvplan: 1\nlayers: {0-5: f16}\n", &err), KVANT_OK);
    assert_false(kvant_plan_get_verdict(plan, &v));
    assert_string_equal(v.reason, "untouched");
    assert_false(kvant_plan_is_refused(plan, why, sizeof why));
    assert_string_equal(why, "");

    v = (struct kvant_verdict){ false, 97.5, NAN, "" };
    kvant_plan_set_verdict(plan, &v);
    assert_true(kvant_plan_get_verdict(plan, &v) && !v.collapsed && v.same_top_p == 97.5 &&
                isnan(v.agreement));
    assert_false(kvant_plan_is_refused(plan, NULL, 0));

    v = (struct kvant_verdict){ true, INFINITY, .875, "line\nbreak" };
    kvant_plan_set_verdict(plan, &v);
    assert_int_equal(kv_plan_clone(&copy, plan, &err), KVANT_OK);
    kvant_plan_set_verdict(plan, NULL);
    assert_false(kvant_plan_get_verdict(plan, &v));
    assert_true(kvant_plan_get_verdict(copy, &v) && v.collapsed && isnan(v.same_top_p) &&
                v.agreement == .875);
    assert_string_equal(v.reason, "line?break");
    assert_true(kvant_plan_is_refused(copy, why, sizeof why));
    assert_string_equal(why, "line?break");
    assert_true(kvant_plan_is_refused(copy, why, 5));
    assert_string_equal(why, "line");
    assert_true(kvant_plan_is_refused(copy, NULL, 0));
    kvant_plan_close(plan);
    kvant_plan_close(copy);

    static const struct { const char *gate, *why; } rows[] = {
        { "{verdict: collapsed, same_top_p: 62.55, agreement: .8, reason: \"too far\"}", "too far" },
        { "{verdict: collapsed, same_top_p: 62.55, agreement: .8}",
          "same likeliest token at 62.55 %, trajectories agree for 0.8 %" },
        { "{same_top_p: 62.55, verdict: collapsed}", "same likeliest token at 62.55 %" },
        { "{agreement: 0.0, verdict: \"collapsed\"}", "trajectories agree for 0 %" },
        { "{verdict: collapsed}", "no numbers are stated" },
        { "{verdict: passed, reason: none}", NULL },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "kvplan: 1\nlayers: {0-5: f16}\ngate: %s\n", rows[i].gate);
        if (read_yaml(&plan, text, &err) != KVANT_OK) fail_msg("%s: %s", rows[i].gate, err.message);
        assert_true(kvant_plan_is_refused(plan, why, sizeof why) == (rows[i].why != NULL));
        assert_string_equal(why, rows[i].why ? rows[i].why : "");
        kvant_plan_close(plan);
    }
}

static void settings_over_a_file_drop_what_passed(void **state)
{
    (void)state;
    static const char *const verdicts[] = { "passed", "collapsed" };
    static const struct { const char *settings; bool is_same; } rows[] = {
        { "", true }, { ";sinks=4", true }, { ";tail=64", true }, { ";sinks=0", false },
        { ";tail=32", false },
    };
    char path[SCRATCH_CAP], spec[SCRATCH_CAP + 32];
    scratch_path(path, "test_plan_gate.yaml");
    for (int collapsed = 0; collapsed < 2; collapsed++) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fprintf(file, "kvplan: 1\ntail: 64\nlayers: {0-5: f16}\ngate: {verdict: %s}\n", verdicts[collapsed]);
        fclose(file);
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            struct kvant_error err = { 0 };
            struct kvant_plan *plan;
            struct kvant_verdict v;
            snprintf(spec, sizeof spec, "%s%s", path, rows[i].settings);
            if (kv_plan_open(&plan, &dims, spec, &err) != KVANT_OK) fail_msg("%s", err.message);
            assert_true(kvant_plan_get_verdict(plan, &v) == (collapsed || rows[i].is_same));
            assert_true(kvant_plan_is_refused(plan, NULL, 0) == (collapsed == 1));
            kvant_plan_close(plan);
        }
    }
    unlink(path);
}

static void bad_files_are_refused_at_their_line(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        kvant_status status;
        int64_t line;
        const char *says;
    } rows[] = {
        { "", KVANT_ERR_FORMAT, 1, "no plan" },
        { "hello\n", KVANT_ERR_FORMAT, 1, "kvplan: 1" },
        { "{}\n", KVANT_ERR_FORMAT, 1, "kvplan: 1" },
        { "sinks: 4\nkvplan: 1\n", KVANT_ERR_FORMAT, 1, "kvplan: 1" },
        { "kvplan: 2\n", KVANT_ERR_UNSUPPORTED, 1, "version 2" },
        { "kvplan: one\n", KVANT_ERR_FORMAT, 1, "whole number" },
        { "kvplan: 1\n", KVANT_ERR_FORMAT, 2, "no layers" },
        { "kvplan: 1\ncolour: red\n", KVANT_ERR_FORMAT, 2, "unknown key 'colour'" },
        { "kvplan: 1\ntail: 1\ntail: 2\n", KVANT_ERR_FORMAT, 3, "twice" },
        { "kvplan: 1\nkvplan: 1\n", KVANT_ERR_FORMAT, 2, "twice" },
        { "kvplan: 1\nsinks: 65\n", KVANT_ERR_FORMAT, 2, "0 to 64" },
        { "kvplan: 1\ntail: -1\n", KVANT_ERR_FORMAT, 2, "0 to 4096" },
        { "kvplan: 1\ntail: [1]\n", KVANT_ERR_FORMAT, 2, "single value" },
        { "kvplan: 1\nlayers:\n  0-4: f16\n", KVANT_ERR_FORMAT, 3, "layers 5 to 5" },
        { "kvplan: 1\nlayers:\n  0-5: f16\n  6: f16\n", KVANT_ERR_FORMAT, 4, "layer 6" },
        { "kvplan: 1\nlayers:\n  0-5: f16\n  3: f16\n", KVANT_ERR_FORMAT, 4, "already" },
        { "kvplan: 1\nlayers:\n  0-5: k4c64 v5h\n", KVANT_ERR_FORMAT, 3, "line 3, column 15" },
        { "kvplan: 1\nlayers:\n  0-5: \"k4c64 v5h\"\n", KVANT_ERR_FORMAT, 3, "line 3, column 16" },
        { "kvplan: 1\nlayers:\n  0-5: [f16]\n", KVANT_ERR_FORMAT, 3, "1 recipes for 2" },
        { "kvplan: 1\nlayers:\n  0-5: [f16, f16, f16]\n", KVANT_ERR_FORMAT, 3, "more recipes" },
        { "kvplan: 1\nlayers:\n  0-5: [[f16]]\n", KVANT_ERR_FORMAT, 3, "a recipe is expected" },
        { "kvplan: 1\nlayers:\n  0-5: {a: b}\n", KVANT_ERR_FORMAT, 3, "a recipe or a list" },
        { "kvplan: 1\nlayers: f16\n", KVANT_ERR_FORMAT, 2, "mapping" },
        { "kvplan: 1\nlayers:\n  [0]: f16\n", KVANT_ERR_FORMAT, 3, "key must be" },
        { "kvplan: 1\nlayers:\n  0-5: &a f16\n", KVANT_ERR_FORMAT, 3, "anchors" },
        { "kvplan: 1\nlayers:\n  0-5: *a\n", KVANT_ERR_FORMAT, 3, "aliases" },
        { "kvplan: 1\nlayers: !!map\n  0-5: f16\n", KVANT_ERR_FORMAT, 2, "tags" },
        { "%TAG ! tag:x,2000:\n---\nkvplan: 1\nlayers: {0-5: f16}\n", KVANT_ERR_FORMAT, 1, "tag directives" },
        { "kvplan: 1\nlayers: {0-5: f16}\n---\nkvplan: 1\n", KVANT_ERR_FORMAT, 3, "second" },
        { "kvplan: 1\nlayers: {0-5: f16\n", KVANT_ERR_FORMAT, 3, "not YAML" },
        { "kvplan: 1\nlayers: {0-5: f16}\nmodel: {size: 3}\n", KVANT_ERR_FORMAT, 3, "unknown key 'size'" },
        { "kvplan: 1\nmodel: {fingerprint: sha256:ffff}\n", KVANT_ERR_MISMATCH, 2, "another model" },
        { "kvplan: 1\nmodel: {architecture: llama}\n", KVANT_ERR_MISMATCH, 2,
          "'llama', this model has 'qwen2'" },
        { "kvplan: 1\nmodel: {layers: 7}\n", KVANT_ERR_MISMATCH, 2, "layers" },
        { "kvplan: 1\nmodel: {kv_heads: 3}\n", KVANT_ERR_MISMATCH, 2, "kv_heads" },
        { "kvplan: 1\nmodel: {head_dim: 128}\n", KVANT_ERR_MISMATCH, 2, "head_dim" },
        { "kvplan: 1\nmeasured: {kld_mean: nan}\n", KVANT_ERR_FORMAT, 2, "finite" },
        { "kvplan: 1\nmeasured: {kld_mean: 1e999}\n", KVANT_ERR_FORMAT, 2, "finite" },
        { "kvplan: 1\nmeasured: {kld_mean: 0x10}\n", KVANT_ERR_FORMAT, 2, "finite" },
        { "kvplan: 1\nmeasured: {speed: 1}\n", KVANT_ERR_FORMAT, 2, "unknown key" },
        { "kvplan: 1\nmeasured: {text: 0123456789012345678901234567890123456789012345678901234567890123}\n",
          KVANT_ERR_FORMAT, 2, "at most 63" },
        { "kvplan: 1\ngate: passed\n", KVANT_ERR_FORMAT, 2, "mapping" },
        { "kvplan: 1\ngate: {}\n", KVANT_ERR_FORMAT, 2, "verdict is missing" },
        { "kvplan: 1\ngate:\n  reason: why\n  same_top_p: 3\nlayers: {0-5: f16}\n", KVANT_ERR_FORMAT, 5,
          "verdict is missing" },
        { "kvplan: 1\ngate: {verdict: Passed}\n", KVANT_ERR_FORMAT, 2, "passed or collapsed" },
        { "kvplan: 1\ngate: {verdict: ''}\n", KVANT_ERR_FORMAT, 2, "passed or collapsed" },
        { "kvplan: 1\ngate: {verdict: [passed]}\n", KVANT_ERR_FORMAT, 2, "single value" },
        { "kvplan: 1\ngate: {verdict: passed, verdict: passed}\n", KVANT_ERR_FORMAT, 2, "twice" },
        { "kvplan: 1\ngate: {verdict: passed, kld: 1}\n", KVANT_ERR_FORMAT, 2, "unknown key 'kld'" },
        { "kvplan: 1\ngate: {verdict: passed, same_top_p: .inf}\n", KVANT_ERR_FORMAT, 2, "finite" },
        { "kvplan: 1\ngate: {verdict: passed, agreement: nan}\n", KVANT_ERR_FORMAT, 2, "finite" },
        { "kvplan: 1\ngate: {verdict: passed}\ngate: {verdict: passed}\n", KVANT_ERR_FORMAT, 3, "twice" },
        { "kvplan: 1\ngate: {verdict: collapsed, reason: "
          "01234567890123456789012345678901234567890123456789012345678901230123456789012345678901234567890123"
          "456789"
          "012345678901234567890123}\n",
          KVANT_ERR_FORMAT, 2, "at most 127" },
        { "kvplan: 1\ncenter: |\n  AAAA\n  A!AA\n", KVANT_ERR_FORMAT, 4, "not base64" },
        { "kvplan: 1\ncenter: |\n  AAAA\n", KVANT_ERR_FORMAT, 4, "3 bytes, but this model's table has 1536" },
        { "kvplan: 1\ncenter: AA=A\n", KVANT_ERR_FORMAT, 2, "after its padding" },
        { "kvplan: 1\nchannels: AAAA\n", KVANT_ERR_FORMAT, 2, "has 828" },
        { "0:\n  nbits_key: 5\n  nbits_value: 4\n", KVANT_ERR_FORMAT, 2, "2, 3, 4, 8 or 16" },
        { "0:\n  nbits_key: 4\n", KVANT_ERR_FORMAT, 3, "nbits_value is missing" },
        { "0: {nbits_key: 4, nbits_value: 4, k: 1}\n", KVANT_ERR_FORMAT, 1, "unknown key" },
        { "0: {nbits_key: 4, nbits_value: 4}\n0: {nbits_key: 4, nbits_value: 4}\n", KVANT_ERR_FORMAT, 2,
          "already" },
        { "0: {nbits_key: 4, nbits_value: 4}\n", KVANT_ERR_FORMAT, 1, "layers 1 to 5" },
        { "0: {nbits_key: 4, nbits_value: 4}\n6: {nbits_key: 4, nbits_value: 4}\n", KVANT_ERR_MISMATCH, 2,
          "another model" },
        { "0: {nbits_key: 4, nbits_value: 4}\nall: {nbits_key: 4, nbits_value: 4}\n", KVANT_ERR_FORMAT, 2,
          "layer numbers" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kvant_error err = { 0 };
        struct kvant_plan *plan;
        kvant_status status = read_yaml(&plan, rows[i].text, &err);
        assert_null(plan);
        if (status != rows[i].status || err.position != rows[i].line || !strstr(err.message, rows[i].says))
            fail_msg("%s\n-> %s, position %lld: %s", rows[i].text, kvant_status_name(status),
                     (long long)err.position, err.message);
    }

    struct kvant_error err = { 0 };
    struct kvant_plan *plan;
    assert_int_equal(read_yaml(&plan, "kvplan: 1\nmodel: {name: \xff}\n", &err), KVANT_ERR_FORMAT);
    assert_non_null(strstr(err.message, "UTF-8"));
    assert_int_equal(read_yaml(&plan, "kvplan: 1\nlayers: {0-5: \"f16\\0\"}\n", &err), KVANT_ERR_FORMAT);

    /* depth does not grow the stack: refused at the second bracket */
    size_t n = 1 << 20;
    char *deep = kv_alloc(n + 16, 1);
    assert_non_null(deep);
    memcpy(deep, "kvplan: 1\ntail: ", 16);
    memset(deep + 16, '[', n);
    assert_int_equal(kv_plan_read_yaml(&plan, &dims, deep, n + 16, "", KV_PRESET_AUTO, NULL, &err),
                     KVANT_ERR_FORMAT);
    kv_free(deep);

    char *large = kv_alloc(KV_PLAN_FILE_BYTES_MAX + 1, 1);
    assert_non_null(large);
    memset(large, '#', KV_PLAN_FILE_BYTES_MAX + 1);
    assert_int_equal(
        kv_plan_read_yaml(&plan, &dims, large, KV_PLAN_FILE_BYTES_MAX + 1, "", KV_PRESET_AUTO, NULL, &err),
        KVANT_ERR_FORMAT);
    kv_free(large);
}

static void a_model_without_fingerprint_skips_that_check(void **state)
{
    (void)state;
    struct kv_plan_dims anonymous = { NULL, NULL, NULL, 6, 2, 64 };
    struct kvant_error err = { 0 };
    struct kvant_plan *plan;
    const char *text =
        "kvplan: 1\nmodel: {name: x, architecture: llama, fingerprint: sha256:ffff}\nlayers: {0-5: f16}\n";
    assert_int_equal(kv_plan_read_yaml(&plan, &anonymous, text, strlen(text), "", KV_PRESET_AUTO, NULL, &err),
                     KVANT_OK);
    kvant_plan_close(plan);
}

/* ---------------------------------------------------------------------------------------- random plans -- */

static uint64_t rng_state;
static unsigned below(unsigned n)
{
    rng_state = rng_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(rng_state >> 33) % n;
}

static struct kv_recipe random_recipe(int head_dim)
{
    static const uint8_t bits[] = { 2, 3, 4, 8, 16 }, schemes[] = { KV_KEY_TOKEN, KV_KEY_C32, KV_KEY_C64 };
    struct kv_recipe r = { 0 };
    r.key_bits = bits[below(5)];
    if (r.key_bits < 16) {
        r.key_scheme = schemes[below(3)];
        r.key_centered = below(2);
        r.key_mixed = r.key_scheme && below(2);
        if (r.key_mixed) r.key_bits = 0, r.key_quarters = (uint8_t)(4 + below(29));
        else r.key_rotated = below(2);
        r.key_short = below(2);
    }
    r.value_bits = bits[below(5)];
    if (r.value_bits < 16) {
        r.value_group = head_dim % 32 == 0 && below(2) ? 32 : 0;
        r.value_rotated = below(2);
        r.value_short = below(2);
    }
    return r;
}

/* Classes that keep the recipe's average: bits are raised one unit after another while they fit. */
static void random_channels(struct kv_channels *c, const struct kv_recipe *r, int head_dim)
{
    for (int i = 0; i < head_dim; i++) c->order[i] = (uint8_t)i;
    for (int i = head_dim - 1; i > 0; i--) {
        int j = (int)below((unsigned)i + 1);
        uint8_t t = c->order[i];
        c->order[i] = c->order[j];
        c->order[j] = t;
    }
    int left = r->key_quarters * head_dim / 4;
    for (int unit = 0; unit < head_dim / 8; unit++) {
        int k = (int)below(KV_N_CLASSES);
        while (kv_class_bits[k] * 8 > left) k++;
        left -= kv_class_bits[k] * 8;
        c->count[k] = (uint16_t)(c->count[k] + 8);
    }
}

static struct kvant_plan *random_plan(void)
{
    static const int head_dims[] = { 8, 64, 80, 128, 256 };
    static const char *const names[] = { "plain",    "q\"u\\o te", "t\tab\nline", "\xc3\xa9\xe2\x82\xac",
                                         "\xff\xfe", "",           " x: # " };
    struct kv_plan_dims d = { names[below(7)],   "llama",           below(2) ? "sha256:00ff" : NULL,
                              1 + (int)below(9), 1 + (int)below(4), head_dims[below(5)] };
    struct kvant_plan *p;
    assert_int_equal(kv_plan_alloc(&p, &d, NULL), KVANT_OK);
    p->sinks = (int)below(65);
    p->tail = (int)below(4097);
    size_t n = (size_t)p->n_layer * (size_t)p->n_head_kv;
    if (below(2)) p->center = kv_alloc(n * (size_t)d.head_dim, sizeof *p->center);
    if (below(2)) p->channels = kv_alloc(n, sizeof *p->channels);
    for (size_t i = 0; i < n; i++) {
        p->recipe[i] = i && below(2) ? p->recipe[i - 1] : random_recipe(d.head_dim);
        for (int c = 0; p->center && c < d.head_dim; c++)
            p->center[i * (size_t)d.head_dim + (size_t)c] = (uint16_t)(below(0x7c00) | below(2) << 15);
        if (p->channels && p->recipe[i].key_mixed)
            random_channels(&p->channels[i], &p->recipe[i], d.head_dim);
    }
    if (below(2)) p->measured.kld_mean = below(1000000) * 1.1e-9;
    if (below(2)) p->measured.page_bits = 1.0 / (1 + below(1000));
    if (below(2)) snprintf(p->measured.text, sizeof p->measured.text, "%s", names[below(7)]);
    if (below(2)) {
        struct kvant_verdict v = { below(2), below(2) ? below(1000) * .1 : NAN,
                                   below(2) ? below(1000) * 1e-5 : NAN, "" };
        snprintf(v.reason, sizeof v.reason, "%s", names[below(7)]);
        kvant_plan_set_verdict(p, &v);
    }
    kv_plan_settle(p);
    return p;
}

static void assert_same_plan(const struct kvant_plan *a, const struct kvant_plan *b)
{
    size_t n = (size_t)a->n_layer * (size_t)a->n_head_kv;
    assert_int_equal(a->sinks, b->sinks);
    assert_int_equal(a->tail, b->tail);
    assert_int_equal(a->granule, b->granule);
    for (size_t i = 0; i < n; i++) assert_true(kv_recipe_equal(&a->recipe[i], &b->recipe[i]));
    assert_int_equal(a->center != NULL, b->center != NULL);
    assert_int_equal(a->channels != NULL, b->channels != NULL);
    if (a->center) assert_memory_equal(a->center, b->center, n * (size_t)a->head_dim * sizeof *a->center);
    if (a->channels) assert_memory_equal(a->channels, b->channels, n * sizeof *a->channels);
    assert_memory_equal(&a->measured.kld_mean, &b->measured.kld_mean, sizeof(double));
    assert_memory_equal(&a->measured.page_bits, &b->measured.page_bits, sizeof(double));
    struct kvant_verdict v = { 0 }, w = { 0 };
    assert_true(kvant_plan_get_verdict(a, &v) == kvant_plan_get_verdict(b, &w));
    assert_true(v.collapsed == w.collapsed && strcmp(v.reason, w.reason) == 0);
    assert_true(v.same_top_p == w.same_top_p || (isnan(v.same_top_p) && isnan(w.same_top_p)));
    assert_true(v.agreement == w.agreement || (isnan(v.agreement) && isnan(w.agreement)));
}

static char *print(const struct kvant_plan *plan)
{
    size_t n, again;
    struct kvant_error err;
    assert_int_equal(kvant_plan_print(plan, NULL, 0, &n, &err), KVANT_ERR_SPACE);
    char *text = malloc(n);
    assert_non_null(text);
    assert_int_equal(kvant_plan_print(plan, text, n, &again, &err), KVANT_OK);
    assert_int_equal(n, again);
    assert_int_equal(strlen(text) + 1, n);
    return text;
}

static void what_is_printed_is_read_back(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 500; seed++) {
        rng_state = seed;
        struct kvant_plan *plan = random_plan(), *again, *copy;
        struct kv_plan_dims d = { plan->model_name, plan->architecture, plan->fingerprint,
                                  plan->n_layer,    plan->n_head_kv,    plan->head_dim };
        struct kvant_error err = { 0 };
        char *text = print(plan);
        if (kv_plan_read_yaml(&again, &d, text, strlen(text), "", KV_PRESET_AUTO, NULL, &err) != KVANT_OK)
            fail_msg("seed %u: %s\n%s", seed, err.message, text);
        assert_same_plan(plan, again);
        char *text_again = print(again);
        assert_string_equal(text, text_again);
        assert_int_equal(kv_plan_clone(&copy, plan, &err), KVANT_OK);
        assert_same_plan(plan, copy);
        free(text);
        free(text_again);
        kvant_plan_close(plan);
        kvant_plan_close(again);
        kvant_plan_close(copy);
    }
}

static void damaged_tables_are_refused(void **state)
{
    (void)state;
    struct kvant_error err = { 0 };
    struct kvant_plan *plan;
    assert_int_equal(kv_plan_open(&plan, &dims, "k3c64xm v4h", &err), KVANT_OK);
    assert_true(kvant_plan_needs_calibration(plan));
    plan->center = kv_alloc(12 * 64, sizeof *plan->center);
    plan->channels = kv_alloc(12, sizeof *plan->channels);
    rng_state = 7;
    for (int i = 0; i < 12; i++) random_channels(&plan->channels[i], &plan->recipe[i], 64);
    assert_false(kvant_plan_needs_calibration(plan));
    assert_int_equal(kv_plan_check(plan, &err), KVANT_OK);

    struct {
        int what;
        const char *says;
    } damage[] = { { 0, "not finite" },      { 1, "names a channel twice" },
                   { 2, "beyond the head" }, { 3, "do not add up" },
                   { 4, "average" },         { 5, "no classes" } };
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        struct kvant_plan *bad, *out;
        assert_int_equal(kv_plan_clone(&bad, plan, &err), KVANT_OK);
        struct kv_channels *c = &bad->channels[5];
        switch (damage[i].what) {
        case 0: bad->center[700] = 0x7c00; break;
        case 1: c->order[3] = c->order[4]; break;
        case 2: c->order[3] = 64; break;
        case 3: c->count[4] = (uint16_t)(c->count[4] + 8); break;
        case 4: memset(c->count, 0, sizeof c->count), c->count[1] = 64; break;
        default: memset(c, 0, sizeof *c); break;
        }
        assert_int_equal(kv_plan_check(bad, &err), KVANT_ERR_FORMAT);
        assert_non_null(strstr(err.message, damage[i].says));
        assert_non_null(strstr(err.message, damage[i].what ? "layer 2, KV head 1" : "layer 5, KV head 0"));
        char *text = print(bad); /* the same through a file */
        assert_int_equal(read_yaml(&out, text, &err), KVANT_ERR_FORMAT);
        assert_non_null(strstr(err.message, damage[i].says));
        free(text);
        kvant_plan_close(bad);
    }
    kvant_plan_close(plan);
}

static void a_saved_plan_is_opened_by_its_name(void **state)
{
    (void)state;
    char path[] = "/tmp/kvant-plan-XXXXXX.yaml", spec[80];
    int fd = mkstemps(path, 5);
    assert_true(fd >= 0);
    close(fd);
    struct kvant_error err = { 0 };
    struct kvant_plan *plan, *again;
    assert_int_equal(kv_plan_open(&plan, &dims, "0:k8tv8,1-5:k4c64v2h;tail=96", &err), KVANT_OK);
    assert_int_equal(kvant_plan_save(plan, path, &err), KVANT_OK);
    assert_int_equal(kv_plan_open(&again, &dims, path, &err), KVANT_OK);
    assert_same_plan(plan, again);
    assert_string_equal(kvant_plan_name(again), strrchr(path, '/') + 1);
    kvant_plan_close(again);

    snprintf(spec, sizeof spec, "%s;sinks=1", path);
    assert_int_equal(kv_plan_open(&again, &dims, spec, &err), KVANT_OK);
    assert_int_equal(again->sinks, 1);
    kvant_plan_close(again);
    snprintf(spec, sizeof spec, "%s;preset=kivi", path);
    assert_int_equal(kv_plan_open(&again, &dims, spec, &err), KVANT_ERR_FORMAT);

    struct kv_plan_dims other = dims;
    other.fingerprint = "sha256:ffff";
    assert_int_equal(kv_plan_open(&again, &other, path, &err), KVANT_ERR_MISMATCH);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(kvant_plan_save(plan, "/nowhere/at/all.yaml", &err), KVANT_ERR_IO);
    kvant_plan_close(plan);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipes_are_read_as_specified),
        cmocka_unit_test(bad_recipes_are_refused_at_their_column),
        cmocka_unit_test(specifications_are_read_as_specified),
        cmocka_unit_test(bad_specifications_are_refused_at_their_column),
        cmocka_unit_test(a_plan_written_by_hand_is_read),
        cmocka_unit_test(a_verdict_is_kept_and_asked_for),
        cmocka_unit_test(settings_over_a_file_drop_what_passed),
        cmocka_unit_test(bad_files_are_refused_at_their_line),
        cmocka_unit_test(a_model_without_fingerprint_skips_that_check),
        cmocka_unit_test(what_is_printed_is_read_back),
        cmocka_unit_test(damaged_tables_are_refused),
        cmocka_unit_test(a_saved_plan_is_opened_by_its_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
