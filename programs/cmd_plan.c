/* kvant plan: show, check and convert plan files. */
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "setup.h"

static json_t *recipes_json(const struct kvant_plan *plan, const struct kvant_model_info *info)
{
    json_t *layers = json_array();
    for (int i = 0; i < info->n_layer; i++) {
        json_t *heads = json_array();
        for (int j = 0; j < info->n_head_kv; j++) {
            char recipe[64] = "";
            kvant_plan_recipe(plan, i, j, recipe, sizeof recipe, NULL);
            json_array_append_new(heads, json_string(recipe));
        }
        json_array_append_new(layers, heads);
    }
    return layers;
}

static json_t *verdict_json(const struct kvant_plan *plan)
{
    struct kvant_verdict v;
    if (!kvant_plan_get_verdict(plan, &v)) return json_null();
    return json_pack("{s:s, s:o, s:o, s:s}", "verdict", v.collapsed ? "collapsed" : "passed", "same_top_p",
                     json_number(v.same_top_p), "agreement", json_number(v.agreement), "reason", v.reason);
}

static int plan_json(const struct kvant_plan *plan, const struct kvant_model *model)
{
    struct kvant_model_info info;
    struct kvant_plan_memory memory;
    kvant_model_get_info(model, &info);
    int64_t n_ctx = setup_context(model, 0);
    kvant_plan_get_memory(plan, n_ctx, &memory);
    return json_finish(json_pack(
        "{s:s, s:b, s:o, s:o, s:o, s:I, s:o, s:o, s:b}", "name", kvant_plan_name(plan), "needs_calibration",
        (int)kvant_plan_needs_calibration(plan), "page_bits", json_number(memory.page_bits), "true_bits",
        json_number(memory.true_bits), "code_bits", json_number(memory.code_bits), "context",
        (json_int_t)n_ctx, "layers", recipes_json(plan, &info), "gate", verdict_json(plan), "keys_at_risk",
        (int)kvant_plan_keys_at_risk(plan, model, NULL, 0)));
}

/* Lines about what the gate and the static detector found; nothing when they found nothing. */
static void print_findings(const struct kvant_plan *plan, const struct kvant_model *model, FILE *out)
{
    char why[256], layers[256];
    if (kvant_plan_is_refused(plan, why, sizeof why))
        fprintf(out, "gate: collapsed: %s; run and chat refuse it without --force\n", why);
    if (kvant_plan_keys_at_risk(plan, model, layers, sizeof layers))
        fprintf(out,
                "key biases: those of layers %s are outliers, and the plan stores their keys per token in 4\n"
                "            bits or fewer, not centred: it will collapse\n",
                layers);
}

static int plan_yaml(const struct kvant_plan *plan, const struct kvant_model *model)
{
    struct kvant_error err;
    size_t n = 0;
    kvant_status status = kvant_plan_print(plan, NULL, 0, &n, &err);
    char *text = allocate(n + 1, 1);
    if (status == KVANT_ERR_SPACE) status = kvant_plan_print(plan, text, n, &n, &err);
    if (status == KVANT_OK) fputs(text, stdout);
    free(text);
    if (status != KVANT_OK) return fail(&err);
    print_findings(plan, model, stderr);
    return finish_output();
}

static int plan_check(const struct kvant_plan *plan, const struct kvant_model *model, const char *path)
{
    struct kvant_model_info info;
    struct kvant_plan_memory memory;
    kvant_model_get_info(model, &info);
    kvant_plan_get_memory(plan, setup_context(model, 0), &memory);
    printf("%s: fits %s: %d layers, %.3f page bits%s\n", path, info.name[0] ? info.name : info.path,
           info.n_layer, memory.page_bits,
           kvant_plan_needs_calibration(plan) ? "; calibrated when it is used" : "");
    struct kvant_verdict verdict;
    if (kvant_plan_get_verdict(plan, &verdict) && !verdict.collapsed) puts("gate: passed");
    print_findings(plan, model, stdout);
    return finish_output();
}

static int plan_kept(const struct kvant_plan *plan, const struct kvant_model *model, const char *path,
                     bool json)
{
    struct kvant_plan_memory memory;
    if (json) return plan_json(plan, model);
    kvant_plan_get_memory(plan, setup_context(model, 0), &memory);
    fprintf(stderr, "%s: %.3f page bits%s\n", path, memory.page_bits,
            kvant_plan_needs_calibration(plan) ? "; calibrated when it is used (--calibrate does it now)"
                                               : "");
    return EXIT_OK;
}

static int execute(const char *verb, const char *input, const char *output, bool calibrate,
                   const struct model_flags *flags)
{
    struct kvant_error err;
    struct kvant_model *model = NULL;
    struct kvant_plan *plan = NULL;
    struct own_text text = {0};
    int code = output && !output_check(output) ? EXIT_FAILED : setup_model(&model, flags, false);
    if (code == EXIT_OK && calibrate)
        code = setup_plan_spec(&plan, model, input, &text);
    else if (code == EXIT_OK)
        code = setup_plan_open(&plan, model, input);
    if (code == EXIT_OK) {
        if (strcmp(verb, "convert") == 0)
            code = kvant_plan_save(plan, output, &err) == KVANT_OK
                       ? plan_kept(plan, model, output, flags->json)
                       : fail(&err);
        else if (flags->json)
            code = plan_json(plan, model);
        else
            code = strcmp(verb, "check") == 0 ? plan_check(plan, model, input) : plan_yaml(plan, model);
    }
    own_text_close(&text);
    kvant_plan_close(plan);
    kvant_model_close(model);
    return code;
}

static int run(int argc, char **argv)
{
    struct model_flags flags = {0};
    const char *output = NULL;
    bool calibrate = false;
    const struct option options[] = {
        {"-m, --model", OPTION_NAME, "FILE", &flags.path, "the model that the plan is for: a GGUF file", 0,
         0},
        {"-o, --output", OPTION_NAME, "FILE", &output, "convert: the plan file to write", 0, 0},
        {"--calibrate", OPTION_FLAG, NULL, &calibrate,
         "measure key means and channel classes first, where the\nplan asks for them", 0, 0},
        {"--json", OPTION_FLAG, NULL, &flags.json, "print JSON for machines", 0, 0},
    };
    struct command_line line = {
        .command = "plan",
        .arguments = "show|check|convert PLAN -m MODEL",
        .about = "show      prints a specification or plan file as the plan that it stands for\n"
                 "check     says whether a plan fits a model\n"
                 "convert   writes a specification, or a preset of KVTuner, as a plan file\n\n"
                 "PLAN is a file, a grammar such as k4c64v3h or 0:k8v4,1-29:k4v2, or default.",
        .examples = "  kvant plan show k3c64v2h -m model.gguf\n"
                    "  kvant plan check model.kvplan.yaml -m model.gguf\n"
                    "  kvant plan convert preset.yaml -m model.gguf -o model.kvplan.yaml",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    static const char *const verbs[] = {"show", "check", "convert"};
    const char *verb = line.positional.n > 0 ? line.positional.items[0] : "";
    bool known = false;
    for (int i = 0; i < 3; i++) known = known || strcmp(verb, verbs[i]) == 0;
    if (!known) return fail_usage("plan", "'%s' is not one of show, check, convert", verb);
    if (line.positional.n < 2) return fail_usage("plan", "%s needs a plan", verb);
    if (line.positional.n > 2)
        return fail_usage("plan", "'%s' is one argument too many", line.positional.items[2]);
    if (!*line.positional.items[1]) return fail_usage("plan", "the plan is empty; default is the safe plan");
    if (!flags.path) return fail_usage("plan", "no model: name a GGUF file with -m FILE");
    if (strcmp(verb, "convert") == 0 && !output) return fail_usage("plan", "convert needs -o FILE");
    return execute(verb, line.positional.items[1], output, calibrate, &flags);
}

const struct command command_plan = {"plan", "show, check and convert plans", run};
