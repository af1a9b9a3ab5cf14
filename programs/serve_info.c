/* What the server tells about itself: /v1/models, /props, /slots, /metrics. */
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "serve.h"

static json_t *model_json(const struct server *s)
{
    const struct kvant_model_info *m = &s->info;
    json_t *meta = json_pack("{s:s, s:i, s:i, s:i, s:I, s:I}", "vocab_type", m->tokenizer, "n_vocab",
                             m->n_vocab, "n_ctx_train", m->n_ctx_train, "n_embd", m->n_embd, "n_params",
                             (json_int_t)m->n_params, "size", (json_int_t)m->weights_bytes);
    return json_pack("{s:s, s:s, s:I, s:s, s:I, s:o}", "id", s->name, "object", "model", "created",
                     (json_int_t)s->started_s, "owned_by", "kvant", "max_model_len", (json_int_t)s->n_ctx,
                     "meta", meta);
}

json_t *api_models(struct server *s)
{
    return json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(s));
}

json_t *api_model(struct server *s, const char *name)
{
    return strcmp(name, s->name) == 0 ? model_json(s) : NULL;
}

/* Layers × bits of a plan, for the page. */
static json_t *plan_json(const struct server *s, int i)
{
    const struct kvant_plan *plan = s->plans[i].plan;
    const struct kvant_model_info *m = &s->info;
    struct kvant_plan_memory memory;
    kvant_plan_get_memory(plan, s->n_ctx, &memory);
    json_t *layers = json_array();
    for (int layer = 0; layer < m->n_layer; layer++) {
        json_t *heads = json_array();
        for (int head = 0; head < m->n_head_kv; head++) {
            char recipe[48];
            if (kvant_plan_recipe(plan, layer, head, recipe, sizeof recipe, NULL) == KVANT_OK)
                json_array_append_new(heads, json_string(recipe));
        }
        json_array_append_new(layers, heads);
    }
    return json_pack("{s:s, s:s, s:f, s:f, s:f, s:I, s:I, s:o}", "name", s->plans[i].name, "plan",
                     kvant_plan_name(plan), "page_bits", memory.page_bits, "true_bits", memory.true_bits,
                     "bytes_per_token", memory.bytes_per_token, "bytes_full", (json_int_t)memory.total_bytes,
                     "tables_bytes", (json_int_t)memory.tables_bytes, "layers", layers);
}

static json_t *router_json(const struct server *s)
{
    struct kvant_router_info info;
    const struct think_flags *f = &s->options.think;
    if (!s->router) return json_null();
    kvant_router_get_info(s->router, &info);
    return json_pack("{s:s, s:f, s:f, s:I, s:i, s:[i, i]}", "modes", info.modes, "threshold", f->threshold,
                     "margin", f->margin, "every", (json_int_t)f->every, "window", info.window, "layers",
                     info.layer_first, info.layer_first + info.n_layers - 1);
}

json_t *api_props(struct server *s)
{
    const struct kvant_model_info *m = &s->info;
    struct kvant_plan_memory f16;
    struct kvant_plan *plan = NULL;
    json_t *plans = json_array();
    for (int i = 0; i < s->n_plans; i++) json_array_append_new(plans, plan_json(s, i));
    bool has_f16 = kvant_plan_open(&plan, s->model, "f16", NULL) == KVANT_OK;
    if (has_f16) kvant_plan_get_memory(plan, s->n_ctx, &f16);
    kvant_plan_close(plan);
    json_t *kv = json_pack("{s:o, s:f, s:s, s:s, s:i}", "plans", plans, "f16_bytes_per_token",
                           has_f16 ? f16.bytes_per_token : 0.0, "kernels", m->cpu, "attention",
                           m->attn == KVANT_ATTN_CODES ? "codes" : "f32", "threads", m->n_threads);
    json_t *caps = json_pack("{s:b, s:b, s:b}", "supports_tools", (int)kvant_template_uses(s->chat, "tools"),
                             "supports_thinking", (int)kvant_template_uses(s->chat, "enable_thinking"),
                             "supports_reasoning_content",
                             (int)kvant_template_uses(s->chat, "reasoning_content"));
    const char *file = strrchr(m->path, '/'); /* folders are nobody's business */
    json_t *out = json_pack(
        "{s:{s:I, s:{s:f, s:i, s:f, s:f, s:f, s:I}}, s:I, s:s, s:s, s:s, s:o}", "default_generation_settings",
        "n_ctx", (json_int_t)s->n_ctx, "params", "temperature", 0.8, "top_k", 40, "top_p", 0.95, "min_p",
        0.05, "repeat_penalty", 1.0, "n_predict", (json_int_t)s->options.n_predict, "total_slots",
        (json_int_t)s->options.n_parallel, "model_path", file ? file + 1 : m->path, "model_alias", s->name,
        "chat_template", kvant_template_source(s->chat), "chat_template_caps", caps);
    json_object_set_new(out, "modalities", json_pack("{s:b, s:b}", "vision", 0, "audio", 0));
    json_object_set_new(out, "build_info", json_string("kvant " KVANT_VERSION));
    json_object_set_new(out, "is_sleeping", json_false());
    json_object_set_new(out, "kv", kv);
    json_object_set_new(out, "router", router_json(s));
    json_object_set_new(out, "model",
                        json_pack("{s:s, s:s, s:i, s:i, s:i, s:s, s:s}", "architecture", m->architecture,
                                  "quantization", m->quantization, "n_layer", m->n_layer, "n_head_kv",
                                  m->n_head_kv, "head_dim", m->head_dim, "fingerprint", m->fingerprint,
                                  "chat_format", m->chat_format));
    return out;
}

json_t *api_slots(struct server *s)
{
    json_t *list = json_array();
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < s->options.n_parallel; i++) {
        const struct slot_view *v = &s->slots[i];
        json_t *next = json_pack("{s:b, s:I, s:I}", "has_next_token", (int)v->busy, "n_remain",
                                 (json_int_t)v->n_remain, "n_decoded", (json_int_t)v->n_decoded);
        json_array_append_new(
            list,
            json_pack("{s:i, s:s, s:I, s:b, s:b, s:o, s:{s:I, s:I, s:I, s:I, s:s?, s:I}}", "id", i, "id_task",
                      v->id, "n_ctx", (json_int_t)s->n_ctx, "speculative", 0, "is_processing", (int)v->busy,
                      "next_token", next, "kv", "n_prompt", (json_int_t)v->n_prompt, "n_cached",
                      (json_int_t)v->n_cached, "n_tokens", (json_int_t)v->n_done, "n_held",
                      (json_int_t)v->n_held, "plan", v->plan, "bytes", (json_int_t)v->bytes));
    }
    pthread_mutex_unlock(&s->lock);
    return list;
}

char *api_metrics(struct server *s)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out) return NULL;
    pthread_mutex_lock(&s->lock);
    struct metrics m = s->metrics;
    pthread_mutex_unlock(&s->lock);
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        { "llamacpp:prompt_tokens_total", "counter", "Prompt tokens read.", (double)m.prompt_tokens },
        { "llamacpp:prompt_seconds_total", "counter", "Seconds spent on them.", m.prompt_s },
        { "llamacpp:tokens_predicted_total", "counter", "Tokens generated.", (double)m.predicted_tokens },
        { "llamacpp:tokens_predicted_seconds_total", "counter",
          "Seconds of answers, from their first token on.", m.predicted_s },
        { "llamacpp:n_decode_total", "counter", "Forward passes.", (double)m.n_steps },
        { "llamacpp:n_tokens_max", "counter", "Longest sequence seen.", (double)m.n_tokens_max },
        { "llamacpp:prompt_tokens_seconds", "gauge", "Prompt tokens per second.",
          m.prompt_s > 0 ? (double)m.prompt_tokens / m.prompt_s : 0.0 },
        { "llamacpp:predicted_tokens_seconds", "gauge", "Generated tokens per second of an answer.",
          m.predicted_s > 0 ? (double)m.predicted_tokens / m.predicted_s : 0.0 },
        { "llamacpp:requests_processing", "gauge", "Requests in slots.", (double)m.n_processing },
        { "llamacpp:requests_deferred", "gauge", "Requests that wait for a slot.", (double)m.n_deferred },
        { "llamacpp:n_busy_slots_per_decode", "gauge", "Mean of busy slots per forward pass.",
          m.n_steps > 0 ? (double)m.busy_slot_steps / (double)m.n_steps : 0.0 },
        { "kvant:requests_total", "counter", "Requests taken up.", (double)m.n_requests },
        { "kvant:errors_total", "counter", "Requests answered with an error.", (double)m.n_errors },
        { "kvant:cancelled_total", "counter", "Requests whose client went away.", (double)m.n_cancelled },
        { "kvant:cached_prompt_tokens_total", "counter", "Prompt tokens taken over from earlier requests.",
          (double)m.cached_tokens },
        { "kvant:kv_bytes", "gauge", "Bytes of the caches of slots and prefixes.", (double)m.cache_bytes },
        { "kvant:kv_prefixes", "gauge", "Sequences kept for requests that begin alike.",
          (double)m.n_prefixes },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        fprintf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", rows[i].name, rows[i].help, rows[i].name,
                rows[i].type, rows[i].name, rows[i].value);
    fclose(out);
    return text;
}
