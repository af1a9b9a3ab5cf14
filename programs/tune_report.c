#include "tune_report.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "program.h"

static json_t *predictions(const struct kvant_model *model, const struct kvant_plan *plan,
                           const struct predict_times *times)
{
    json_t *list = json_array();
    struct prediction p[PREDICT_CONTEXTS_CAP];
    if (!times) return list;
    predict_plan(times, model, plan, p);
    for (int i = 0; i < times->n_contexts; i++)
        json_array_append_new(list, json_pack("{s:I, s:o, s:I}", "context", (json_int_t)p[i].context,
                                              "tokens_per_s", json_number(p[i].tokens_per_s), "memory_bytes",
                                              (json_int_t)p[i].memory_bytes));
    return list;
}

/* One text for a layer whose heads are alike, else one for each KV head. */
static json_t *layers(const struct kvant_plan *plan, const struct kvant_model_info *info)
{
    json_t *list = json_array();
    for (int layer = 0; layer < info->n_layer; layer++) {
        json_t *heads = json_array();
        bool alike = true;
        for (int head = 0; head < info->n_head_kv; head++) {
            char recipe[64] = "";
            kvant_plan_recipe(plan, layer, head, recipe, sizeof recipe, NULL);
            json_array_append_new(heads, json_string(recipe));
            alike &= json_equal(json_array_get(heads, 0), json_array_get(heads, (size_t)head));
        }
        json_array_append(list, alike ? json_array_get(heads, 0) : heads);
        json_decref(heads);
    }
    return list;
}

static json_t *point(const struct kvant_model *model, const struct kvant_model_info *info,
                     const struct kvant_tune_result *found, size_t i, const struct predict_times *times,
                     int chosen)
{
    static const char *const sources[] = { "uniform", "kvant", "kvtuner" };
    const struct kvant_tune_point *p = &found->points[i];
    const struct kvant_eval_result *m = &p->measured;
    struct kvant_plan_memory memory;
    kvant_plan_get_memory(p->plan, found->n_ctx, &memory);
    json_t *out = json_pack(
        "{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:b, s:o, s:o}", "source",
        sources[p->source], "name", p->source == KVANT_TUNE_FROM_KVANT ? "tuned" : kvant_plan_name(p->plan),
        "page_bits", json_number(m->page_bits), "true_bits", json_number(m->true_bits), "equivalent_bits",
        json_number(memory.code_bits), "bytes_per_token", json_number(m->bytes_per_token), "kld_mean",
        json_number(m->kld_mean), "kld_p999", json_number(m->kld_p999), "same_top_p",
        json_number(m->same_top_p), "ppl_ratio", json_number(m->ppl_ratio), "kld_predicted",
        json_number(p->kld_predicted), "dominated", (int)p->dominated, "chosen", (int)((int)i == chosen),
        "layers", layers(p->plan, info), "predicted", predictions(model, p->plan, times));
    json_t *gate = json_pack("{s:s, s:s}", "verdict", p->verdict.collapsed ? "collapsed" : "pass", "reason",
                             p->verdict.reason);
    if (isfinite(p->verdict.agreement))
        json_object_set_new(gate, "agreement", json_number(p->verdict.agreement / 100));
    json_object_set_new(out, "gate", gate);
    if (p->source == KVANT_TUNE_FROM_UNIFORM)
        json_object_set_new(out, "spec", json_string(kvant_plan_name(p->plan)));
    return out;
}

static json_t *choices(const struct kvant_tune_heads *heads)
{
    json_t *list = json_array();
    for (int i = 0; i < heads->n_choices; i++) json_array_append_new(list, json_string(heads->choices[i]));
    return list;
}

static json_t *head_klds(const struct kvant_tune_heads *heads)
{
    json_t *list = json_array();
    for (int layer = 0; layer < heads->n_layer; layer++) {
        json_t *row = json_array();
        for (int head = 0; head < heads->n_head_kv; head++) {
            json_t *cell = json_array();
            for (int i = 0; i < heads->n_choices; i++)
                json_array_append_new(
                    cell, json_number(heads->kld[((size_t)layer * (size_t)heads->n_head_kv + (size_t)head) *
                                                     (size_t)heads->n_choices +
                                                 (size_t)i]));
            json_array_append_new(row, cell);
        }
        json_array_append_new(list, row);
    }
    return list;
}

/* Layers whose key biases are outliers. */
static json_t *outliers(const struct kvant_model *model, int n_layer)
{
    json_t *list = json_array();
    struct kvant_key_bias bias;
    for (int layer = 0; layer < n_layer; layer++)
        if (kvant_model_key_bias(model, layer, -1, &bias) && bias.is_outlier)
            json_array_append_new(
                list, json_pack("{s:i, s:o, s:o}", "layer", layer, "max_bias", json_number((double)bias.max),
                                "ratio",
                                json_number((double)bias.max / (double)kvant_model_key_bias_median(model))));
    return list;
}

static json_t *baseline(const struct kvant_model *model, const struct kvant_tune_result *found,
                        const struct predict_times *times)
{
    struct kvant_plan *f16;
    struct kvant_plan_memory memory;
    if (kvant_plan_open(&f16, model, "f16", NULL) != KVANT_OK) return json_null();
    kvant_plan_get_memory(f16, found->n_ctx, &memory);
    json_t *out = json_pack("{s:o, s:o, s:o, s:o, s:o}", "true_bits", json_number(memory.true_bits),
                            "page_bits", json_number(memory.page_bits), "equivalent_bits",
                            json_number(memory.code_bits), "bytes_per_token",
                            json_number(memory.bytes_per_token), "predicted", predictions(model, f16, times));
    kvant_plan_close(f16);
    return out;
}

json_t *tune_report(const struct kvant_model *model, const struct kvant_tune_result *found,
                    const struct predict_times *times, const struct tune_account *account)
{
    struct kvant_model_info info;
    char made[32] = "";
    time_t now = time(NULL);
    struct tm utc;
    kvant_model_get_info(model, &info);
    if (gmtime_r(&now, &utc)) strftime(made, sizeof made, "%Y-%m-%dT%H:%M:%SZ", &utc);

    json_t *points = json_array(), *budgets = json_array();
    for (size_t i = 0; i < found->n_points; i++)
        json_array_append_new(points, point(model, &info, found, i, times, account->chosen));
    for (int i = 0; i < account->n_budgets; i++)
        json_array_append_new(budgets, json_number(account->budgets[i]));

    json_t *report = json_pack(
        "{s:s, s:i, s:s, s:s, s:o, s:o}", "format", "kvant-tune-report", "version", 1, "tool",
        "kvant " KVANT_VERSION, "made", made, "points", points, "baseline", baseline(model, found, times));
    json_object_set_new(report, "model",
                        json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:I}", "name",
                                  info.name[0] ? info.name : info.path, "architecture", info.architecture,
                                  "quantization", info.quantization, "fingerprint", info.fingerprint,
                                  "n_layer", info.n_layer, "n_head_kv", info.n_head_kv, "n_head", info.n_head,
                                  "head_dim", info.head_dim, "n_ctx_train", info.n_ctx_train, "file_bytes",
                                  (json_int_t)info.file_bytes));
    json_object_set_new(report, "machine",
                        json_pack("{s:s, s:i}", "cpu", info.cpu, "n_threads", info.n_threads));
    if (times)
        json_object_set_new(json_object_get(report, "machine"), "read_gb_per_s",
                            json_number(times->read_gb_per_s));
    json_object_set_new(report, "settings",
                        json_pack("{s:s, s:s, s:b, s:s, s:s, s:o, s:I, s:I, s:I, s:I}", "method",
                                  account->kvtuner ? "kvtuner" : "kvant", "granularity",
                                  account->by_layer ? "layer" : "head", "mix", (int)account->mix, "text",
                                  account->text, "command", account->command, "budgets", budgets, "context",
                                  (json_int_t)found->n_ctx, "n_tokens_tuning", (json_int_t)found->n_tokens,
                                  "n_tokens_verify", (json_int_t)found->n_tokens_verify, "seed",
                                  (json_int_t)account->seed));
    json_t *sensitivity = json_pack("{s:o}", "outliers", outliers(model, info.n_layer));
    json_object_set_new(report, "sensitivity", sensitivity);
    if (found->keys.kld && found->values.kld)
        json_object_set_new(sensitivity, "kld",
                            json_pack("{s:o, s:o, s:o, s:o}", "key_choices", choices(&found->keys),
                                      "value_choices", choices(&found->values), "key",
                                      head_klds(&found->keys), "value", head_klds(&found->values)));
    json_object_set_new(report, "cost",
                        json_pack("{s:o, s:I, s:I}", "seconds", json_number(account->seconds), "n_measured",
                                  (json_int_t)(found->n_measured), "n_from_store",
                                  (json_int_t)found->n_known));
    return report;
}
