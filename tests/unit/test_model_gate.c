/*
 * The gate and the static detector on real models: per-token keys of 4 bits collapse on Qwen2.5-Coder-0.5B,
 * whose key biases say so beforehand; the default recipe passes on both.
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

#include "kvant.h"

#define SMOLLM2 "SmolLM2-135M-Instruct.Q4_1.gguf"
#define QWEN "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"

static const char text[] =
    "A lighthouse is a tower that carries a strong lamp, so that ships can find their way at night. "
    "The first ones were open fires on hills. Later the fire was put on a platform, because a higher "
    "light is seen from farther away; and where there was no hill, a tower was built. The most famous "
    "tower of the ancient world stood before the harbour of Alexandria. It was about one hundred "
    "metres high, and it was used for more than a thousand years, until earthquakes brought it "
    "down.\n\nIn the eighteenth century engineers learned to build on rocks that the sea covers at "
    "high tide. John Smeaton shaped the stones of his tower so that each one held its neighbours, and "
    "gave it a wide foot like that of an oak. He tried many kinds of lime until he found one that "
    "hardens under water. When the rock below it began to crack, the upper part was taken down and "
    "built up again on the shore, where it can still be visited.\n\nThe lamp itself changed as well. "
    "Wood and coal gave way to oil, oil to gas, and gas to electricity. A Frenchman, Augustin Fresnel, "
    "cut the lens into rings, which made it thin enough to be carried up the stairs, and strong enough "
    "to send the light of one flame over twenty miles of water. Each lighthouse got a rhythm of its "
    "own, so that a sailor could tell by counting seconds which coast lay ahead. Today most ships find "
    "their way by satellites, and the keepers have gone home; but the towers are still lit.";

static struct kvant_model *open_model(const char *name)
{
    const char *models = getenv("KVANT_MODELS");
    char path[512];
    snprintf(path, sizeof path, "%s/%s", models ? models : "models", name);
    if (access(path, R_OK) != 0) return NULL;
    struct kvant_error err = { 0 };
    struct kvant_model_options opt = KVANT_MODEL_OPTIONS_INIT;
    opt.act = KVANT_ACT_INT8; /* twice as fast; what it adds, a KLD of .003, is nothing beside a collapse */
    struct kvant_model *model;
    if (kvant_model_open(&model, path, &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
    return model;
}

#define PLANS 2
static void judge(const struct kvant_model *model, const char *const specs[PLANS],
                  struct kvant_verdict verdicts[PLANS], struct kvant_plan *plans[PLANS])
{
    struct kvant_error err = { 0 };
    struct kvant_eval_result measured[PLANS];
    struct kvant_trajectory_result trajectories[PLANS];
    struct kvant_eval_options eval = KVANT_EVAL_OPTIONS_INIT;
    struct kvant_trajectory_options trajectory = KVANT_TRAJECTORY_OPTIONS_INIT;
    struct kvant_prompt prompts[2];
    kvant_token tokens[512];
    size_t n, n_prompts;
    if (kvant_tokenize(model, text, strlen(text), KVANT_TOKENIZE_BOS, tokens, 512, &n, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < PLANS; i++)
        if (kvant_plan_open(&plans[i], model, specs[i], &err) != KVANT_OK) fail_msg("%s", err.message);
    const struct kvant_plan *const *list = (const struct kvant_plan *const *)plans;
    eval.n_ctx = 200;
    eval.n_chunks = 1;
    trajectory.n_predict = 24;
    kvant_trajectory_prompts(tokens, n, 140, prompts, 2, &n_prompts);
    assert_int_equal(n_prompts, 2);
    if (kvant_eval_run(model, list, PLANS, tokens, n, &eval, measured, NULL, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    if (kvant_trajectory_run(model, list, PLANS, prompts, 2, &trajectory, trajectories, NULL, &err) !=
        KVANT_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < PLANS; i++) {
        kvant_gate_judge(NULL, &measured[i], &trajectories[i], &verdicts[i]);
        print_message("%s: same likeliest token %.1f %%, KLD %.4f, trajectories agree for %.1f %%: %s\n",
                      specs[i], measured[i].same_top_p, measured[i].kld_mean, trajectories[i].agreement,
                      verdicts[i].collapsed ? verdicts[i].reason : "passed");
    }
}

static void close_plans(struct kvant_plan *plans[PLANS])
{
    for (int i = 0; i < PLANS; i++) kvant_plan_close(plans[i]);
}

static void a_collapse_of_qwen_is_marked_and_foreseen(void **state)
{
    (void)state;
    struct kvant_model *model = open_model(QWEN);
    if (!model) skip();
    static const char *const specs[PLANS] = { "default", "k4tv4;sinks=0;tail=0" };
    struct kvant_verdict v[PLANS];
    struct kvant_plan *plans[PLANS];
    char layers[64], why[128];
    judge(model, specs, v, plans);
    assert_false(v[0].collapsed);
    assert_true(v[0].same_top_p > 95);
    assert_true(v[1].collapsed);
    assert_true(isfinite(v[1].same_top_p) && v[1].same_top_p < 75); /* far below the floor, and not by NaN */
    assert_non_null(strstr(v[1].reason, "likeliest token"));
    kvant_plan_set_verdict(plans[1], &v[1]);
    assert_true(kvant_plan_is_refused(plans[1], why, sizeof why));
    assert_string_equal(why, v[1].reason);

    assert_false(kvant_plan_keys_at_risk(plans[0], model, layers, sizeof layers));
    assert_true(kvant_plan_keys_at_risk(plans[1], model, layers, sizeof layers));
    assert_string_equal(layers, "0-2, 4, 8");
    struct kvant_key_bias b;
    assert_true(kvant_model_key_bias(model, 8, -1, &b) && b.max == 211);
    assert_true(kvant_model_key_bias(model, 8, 0, &b) && b.is_outlier);
    assert_true(kvant_model_key_bias(model, 8, 1, &b) && !b.is_outlier); /* one head of the layer only */
    close_plans(plans);
    kvant_model_close(model);
}

static void the_default_of_smollm2_passes(void **state)
{
    (void)state;
    struct kvant_model *model = open_model(SMOLLM2);
    if (!model) skip();
    static const char *const specs[PLANS] = { "default", "k2tv2;sinks=0;tail=0" };
    struct kvant_verdict v[PLANS];
    struct kvant_plan *plans[PLANS];
    judge(model, specs, v, plans);
    assert_false(v[0].collapsed);
    assert_true(v[1].collapsed);
    assert_false(kvant_plan_keys_at_risk(plans[1], model, NULL, 0)); /* not for its key biases: it has none */
    close_plans(plans);
    kvant_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_collapse_of_qwen_is_marked_and_foreseen),
        cmocka_unit_test(the_default_of_smollm2_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
