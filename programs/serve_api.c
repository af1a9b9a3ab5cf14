/*
 * From the bodies of requests to what the engine needs. Every field is checked for its type and range;
 * unknown fields are passed over, as clients send many. Runs on HTTP threads: model, template and plans
 * are immutable.
 */
#include "serve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "json.h"

/* ---------------------------------------------------------------------------------------------- fields -- */

/* Absent and null are the same to clients. */
static const json_t *get(const json_t *body, const char *name)
{
    const json_t *v = json_object_get(body, name);
    return v && !json_is_null(v) ? v : NULL;
}

static bool is_text(const json_t *v, const char *text)
{
    return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

static bool get_number(const json_t *body, const char *name, double min, double max, double *out,
                       struct api_error *e)
{
    const json_t *v = get(body, name);
    if (!v) return true;
    if (!json_is_number(v)) return API_BAD(e, name, "%s must be a number", name);
    double x = json_number_value(v);
    if (!(x >= min && x <= max))
        return API_BAD(e, name, "%s is %g; it must be from %g to %g", name, x, min, max);
    *out = x;
    return true;
}

static bool get_int(const json_t *body, const char *name, int64_t min, int64_t max, int64_t *out,
                    struct api_error *e)
{
    double x = (double)*out;
    const json_t *v = get(body, name);
    if (!v) return true;
    if (!get_number(body, name, (double)min, (double)max, &x, e)) return false;
    if (x != floor(x)) return API_BAD(e, name, "%s must be a whole number", name);
    *out = json_is_integer(v) ? json_integer_value(v) : (int64_t)x;
    return true;
}

static bool get_flag(const json_t *body, const char *name, bool *out, struct api_error *e)
{
    const json_t *v = get(body, name);
    if (!v) return true;
    if (!json_is_boolean(v)) return API_BAD(e, name, "%s must be true or false", name);
    *out = json_is_true(v);
    return true;
}

static bool get_text(const json_t *body, const char *name, const char **out, struct api_error *e)
{
    const json_t *v = get(body, name);
    if (!v) return true;
    if (!json_is_string(v)) return API_BAD(e, name, "%s must be text", name);
    *out = json_string_value(v);
    return true;
}

json_t *api_parse(const char *bytes, size_t n, struct api_error *e)
{
    json_error_t error;
    json_t *body = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &error);
    if (!body)
        API_BAD(e, NULL, "the body is not JSON: line %d, column %d: %s", error.line, error.column,
                error.text);
    return body;
}

const char *api_file_name(const json_t *body, struct api_error *e)
{
    const char *name = json_string_value(json_object_get(body, "filename"));
    size_t n = name ? strlen(name) : 0;
    bool plain = n > 0 && n <= 200 && name[0] != '.';
    for (size_t i = 0; plain && i < n; i++) {
        unsigned char c = (unsigned char)name[i];
        plain = c >= 0x20 && c != 0x7f && c != '/' && c != '\\' && c != ':';
    }
    if (plain) return name;
    API_BAD(e, "filename", "filename must be a plain name without folders");
    return NULL;
}

/* -------------------------------------------------------------------------------------------- sampling -- */

static bool read_stops(const json_t *body, struct request *r, struct api_error *e)
{
    const json_t *v = get(body, "stop");
    if (!v) return true;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > SERVE_STOPS_MAX) return API_BAD(e, "stop", "stop: at most %d texts", SERVE_STOPS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(item) || json_string_length(item) > 1024)
            return API_BAD(e, "stop", "stop must be a text of at most 1024 bytes, or a list of such");
        if (json_string_length(item) == 0) continue;
        r->stops[r->n_stops++] = text_copy(json_string_value(item));
    }
    return true;
}

static bool read_bias(const struct server *s, const json_t *body, struct request *r, struct api_error *e)
{
    const json_t *v = get(body, "logit_bias"), *item;
    const char *key;
    if (!v) return true;
    if (!json_is_object(v))
        return API_BAD(e, "logit_bias", "logit_bias must be an object of token ids and numbers");
    json_object_foreach((json_t *)v, key, item)
    {
        char *end;
        long id = strtol(key, &end, 10);
        if (*end || end == key || id < 0 || id >= s->info.n_vocab)
            return API_BAD(e, "logit_bias", "logit_bias: '%.40s' is no token of this model (0 to %d)", key,
                           s->info.n_vocab - 1);
        if (!json_is_number(item) || fabs(json_number_value(item)) > 100.0)
            return API_BAD(e, "logit_bias", "logit_bias of %ld must be a number from -100 to 100", id);
        if (r->n_bias == SERVE_BIAS_MAX)
            return API_BAD(e, "logit_bias", "logit_bias: at most %d tokens", SERVE_BIAS_MAX);
        double x = json_number_value(item);
        r->bias[r->n_bias].token = (kvant_token)id;
        r->bias[r->n_bias++].bias = x <= -100.0 ? -INFINITY : (float)x;
    }
    return true;
}

static bool read_sampling(const struct server *s, const json_t *body, struct request *r, struct api_error *e)
{
    double temperature = 0.8, top_p = 0.95, min_p = 0.05, penalty = 1.0, presence = 0.0, frequency = 0.0;
    int64_t top_k = 40, seed = -1;
    if (!get_number(body, "temperature", 0, 100, &temperature, e) ||
        !get_number(body, "top_p", 0, 1, &top_p, e) || !get_number(body, "min_p", 0, 1, &min_p, e) ||
        !get_number(body, "repeat_penalty", 0, 10, &penalty, e) ||
        !get_number(body, "repetition_penalty", 0, 10, &penalty, e) ||
        !get_number(body, "presence_penalty", -2, 2, &presence, e) ||
        !get_number(body, "frequency_penalty", -2, 2, &frequency, e) ||
        !get_int(body, "top_k", -1, INT32_MAX, &top_k, e) ||
        !get_int(body, "seed", -((int64_t)1 << 62), (int64_t)1 << 62, &seed, e) ||
        !get_flag(body, "ignore_eos", &r->ignore_eos, e))
        return false;
    r->sampler = (struct kvant_sampler_options)KVANT_SAMPLER_OPTIONS_INIT;
    r->sampler.temperature = (float)temperature;
    r->sampler.top_p = (float)top_p;
    r->sampler.min_p = (float)min_p;
    r->sampler.repeat_penalty = (float)penalty;
    r->sampler.top_k = top_k < 0 ? 0 : (int)top_k;
    r->presence_penalty = (float)presence;
    r->frequency_penalty = (float)frequency;
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) random = (uint64_t)time(NULL);
    r->sampler.seed = seed == -1 ? random : (uint64_t)seed; /* -1: llama-server's word for a random one */
    return read_stops(body, r, e) && read_bias(s, body, r, e);
}

static bool read_logprobs(const json_t *body, struct request *r, struct api_error *e)
{
    int64_t n_top = 0;
    if (r->kind == API_CHAT) {
        if (!get_flag(body, "logprobs", &r->logprobs, e) ||
            !get_int(body, "top_logprobs", 0, SERVE_TOP_MAX, &n_top, e))
            return false;
        if (n_top && !r->logprobs) return API_BAD(e, "top_logprobs", "top_logprobs needs logprobs: true");
    } else {
        const char *name = r->kind == API_TEXT ? "logprobs" : "n_probs";
        const json_t *v = get(body, name);
        if (json_is_boolean(v))
            r->logprobs = json_is_true(v);
        else if (!get_int(body, name, 0, SERVE_TOP_MAX, &n_top, e))
            return false;
        else
            r->logprobs = r->kind == API_TEXT ? v != NULL : n_top > 0;
    }
    r->n_top = (int)n_top;
    return true;
}

/* What is asked for and not there is said, instead of being passed over. */
static bool refuse_unsupported(const json_t *body, struct request *r, struct api_error *e)
{
    static const char *const names[] = { "grammar",       "json_schema", "audio",      "functions",
                                         "function_call", "suffix",      "moderation", "web_search_options" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (get(body, names[i])) return API_BAD(e, names[i], "%s is not supported by this server", names[i]);
    const json_t *format = get(body, "response_format");
    const char *type = json_string_value(json_object_get(format, "type"));
    const json_t *choice = get(body, "tool_choice"), *modality;
    size_t i_modality;
    if (choice && !is_text(choice, "auto") && !is_text(choice, "none"))
        return API_BAD(e, "tool_choice", "tool_choice: only \"auto\" and \"none\" are supported");
    json_array_foreach(get(body, "modalities"), i_modality, modality)
    {
        if (!is_text(modality, "text"))
            return API_BAD(e, "modalities", "modalities: only [\"text\"] is supported");
    }
    r->wants_json = r->kind == API_CHAT && type && strcmp(type, "json_object") == 0;
    if (format && !r->wants_json && (!type || strcmp(type, "text") != 0))
        return API_BAD(e, "response_format",
                       "response_format: only the types text and, for chat, json_object are supported");
    if (r->wants_json && get(format, "schema"))
        return API_BAD(e, "response_format", "response_format: a schema is not supported");
    return true;
}

static bool read_plan(const struct server *s, const json_t *body, struct request *r, struct api_error *e)
{
    const char *name = NULL;
    if (!get_text(body, "kv_plan", &name, e)) return false;
    if (!name) return true;
    for (r->plan = 0; r->plan < s->n_plans; r->plan++)
        if (strcmp(s->plans[r->plan].name, name) == 0) return true;
    return API_BAD(e, "kv_plan", "kv_plan: there is no plan '%.64s'; /props lists those of this server",
                   name);
}

static bool read_common(struct server *s, const json_t *body, struct request *r, struct api_error *e)
{
    int64_t n = 1, best_of = 0, n_predict = s->options.n_predict;
    const char *model = NULL;
    bool several_calls = true;
    r->cache_prompt = true;
    if (!json_is_object(body)) return API_BAD(e, NULL, "the body must be a JSON object");
    if (!get_text(body, "model", &model, e) || !refuse_unsupported(body, r, e) ||
        !read_sampling(s, body, r, e) || !read_logprobs(body, r, e) || !read_plan(s, body, r, e) ||
        !get_flag(body, "stream", &r->stream, e) || !get_flag(body, "cache_prompt", &r->cache_prompt, e) ||
        !get_int(body, "n", 1, SERVE_CHOICES_MAX, &n, e) ||
        !get_int(body, "best_of", 1, SERVE_CHOICES_MAX, &best_of, e) ||
        !get_flag(body, "confidence", &r->wants_confidence, e) || !get_flag(body, "echo", &r->echo, e) ||
        !get_flag(body, "return_tokens", &r->return_tokens, e) ||
        !get_int(body, "n_predict", -1, 1 << 30, &n_predict, e) ||
        !get_flag(body, "parallel_tool_calls", &several_calls, e) ||
        !get_int(body, "max_tokens", -1, 1 << 30, &n_predict, e) || /* -1: llama-server's "no limit" */
        !get_int(body, "max_completion_tokens", 1, 1 << 30, &n_predict, e))
        return false;
    if (r->kind == API_CHAT && n_predict == 0)
        return API_BAD(e, "max_tokens", "max_tokens is 0; an answer has at least one token");
    if (r->kind == API_NATIVE && n != 1) return API_BAD(e, "n", "n is for the OpenAI endpoints");
    if (best_of > n) return API_BAD(e, "best_of", "best_of: all answers are given; ask for them with n");
    if (r->kind == API_TEXT && r->echo && r->logprobs)
        return API_BAD(e, "logprobs", "logprobs with echo: there are none of the prompt's own tokens");
    r->one_call = !several_calls;
    const json_t *options = get(body, "stream_options");
    if (options && !json_is_object(options))
        return API_BAD(e, "stream_options", "stream_options must be an object");
    if (options && !get_flag(options, "include_usage", &r->include_usage, e)) return false;
    r->n_choices = (int)n;
    r->n_predict = n_predict;
    r->created = (int64_t)time(NULL);
    unsigned char random[12] = { 0 };
    if (getrandom(random, sizeof random, 0) < 0) memcpy(random, &r->sampler.seed, 8);
    int at = snprintf(r->id, sizeof r->id, r->kind == API_CHAT ? "chatcmpl-" : "cmpl-");
    for (size_t i = 0; i < sizeof random; i++)
        at += snprintf(r->id + at, sizeof r->id - (size_t)at, "%02x", random[i]);
    return true;
}

/* --------------------------------------------------------------------------------------------- prompts -- */

/* Adds a prompt; ids are owned by the request then. */
static bool add_prompt(struct server *s, struct request *r, kvant_token *ids, size_t n, struct api_error *e)
{
    bool embed = r->kind == API_EMBED;
    if (n == 0) {
        free(ids);
        return API_BAD(e, embed ? "input" : "prompt", "the %s is empty", embed ? "input" : "prompt");
    }
    const struct mode_tokens *begin = s->modes.begin;
    size_t n_mode = r->route == ROUTE_NONE ? 0 : begin[0].n > begin[1].n ? begin[0].n : begin[1].n;
    if ((int64_t)(n + n_mode) >= s->n_ctx + embed) { /* an answer needs room for a token */
        free(ids);
        api_fail(e, 400, "exceed_context_size_error", embed ? "input" : "messages",
                 "the %s has %zu tokens, and the context of this server %lld; shorten it, or start the "
                 "server with a "
                 "larger -c",
                 embed ? "input" : "prompt", n, (long long)s->n_ctx);
        e->n_prompt_tokens = (int64_t)n;
        e->n_ctx = s->n_ctx;
        return false;
    }
    r->prompts = reallocate(r->prompts, (size_t)r->n_prompts + 1, sizeof *r->prompts);
    r->prompt_lengths = reallocate(r->prompt_lengths, (size_t)r->n_prompts + 1, sizeof *r->prompt_lengths);
    r->prompts[r->n_prompts] = ids;
    r->prompt_lengths[r->n_prompts++] = n;
    return true;
}

static bool tokens_of(struct server *s, const char *text, size_t n_bytes, int flags, kvant_token **ids,
                      size_t *n, struct api_error *e)
{
    struct kvant_error err;
    if (tokens_of_text(s->model, text, n_bytes, flags, ids, n, &err) == KVANT_OK) return true;
    return api_fail_library(e, &err);
}

static bool token_of(const struct server *s, const json_t *v, kvant_token *out, struct api_error *e)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= s->info.n_vocab)
        return API_BAD(e, "prompt", "a prompt's token must be a whole number from 0 to %d",
                       s->info.n_vocab - 1);
    *out = (kvant_token)json_integer_value(v);
    return true;
}

/* What echo shows of the prompt that was read last. */
static bool keep_echo(const struct server *s, const json_t *v, struct request *r, struct api_error *e)
{
    int i = r->n_prompts - 1;
    size_t n = 0;
    struct kvant_error err;
    if (!r->echo || r->kind != API_TEXT) return true;
    if (json_is_string(v)) {
        r->echoes[i] = text_copy(json_string_value(v));
        return true;
    }
    kvant_detokenize(s->model, r->prompts[i], r->prompt_lengths[i], true, NULL, 0, &n, NULL);
    r->echoes[i] = allocate(n + 1, 1);
    r->echoes[i][n] = '\0';
    return kvant_detokenize(s->model, r->prompts[i], r->prompt_lengths[i], true, r->echoes[i], n, &n, &err) ==
               KVANT_OK ||
           api_fail_library(e, &err);
}

/* A text, or a list of tokens and texts. */
static bool read_prompt(struct server *s, const json_t *v, struct request *r, struct api_error *e)
{
    kvant_token *ids = NULL, *part;
    size_t n = 0, n_part, i;
    const json_t *item;
    int flags = KVANT_TOKENIZE_SPECIAL | KVANT_TOKENIZE_BOS;
    if (json_is_string(v)) {
        if (!tokens_of(s, json_string_value(v), json_string_length(v), flags, &ids, &n, e)) return false;
        if (!r->prompt_text) r->prompt_text = text_copy(json_string_value(v));
        return add_prompt(s, r, ids, n, e) && keep_echo(s, v, r, e);
    }
    json_array_foreach(v, i, item)
    {
        if (json_is_string(item)) {
            if (!tokens_of(s, json_string_value(item), json_string_length(item),
                           i ? KVANT_TOKENIZE_SPECIAL : flags, &part, &n_part, e))
                return free(ids), false;
        } else {
            part = allocate(n_part = 1, sizeof *part);
            if (!token_of(s, item, part, e)) return free(ids), free(part), false;
        }
        ids = reallocate(ids, n + n_part + 1, sizeof *ids);
        memcpy(ids + n, part, n_part * sizeof *ids);
        free(part);
        n += n_part;
    }
    return add_prompt(s, r, ids, n, e) && keep_echo(s, v, r, e);
}

static bool read_prompts(struct server *s, const json_t *body, struct request *r, struct api_error *e)
{
    const json_t *v = get(body, "prompt"), *item;
    size_t i;
    if (!v) return API_BAD(e, "prompt", "prompt is missing");
    if (!json_is_string(v) && !json_is_array(v)) return API_BAD(e, "prompt", "prompt must be text or a list");
    const json_t *first = json_array_get(v, 0);
    bool several = json_is_array(first) || (r->kind == API_TEXT && json_is_string(first));
    if (!several) return read_prompt(s, v, r, e);
    if (r->kind == API_NATIVE) return API_BAD(e, "prompt", "several prompts are for /v1/completions");
    if (json_array_size(v) * (size_t)r->n_choices > SERVE_CHOICES_MAX)
        return API_BAD(e, "prompt", "at most %d answers in one request", SERVE_CHOICES_MAX);
    json_array_foreach(v, i, item)
    {
        if (!json_is_string(item) && !json_is_array(item))
            return API_BAD(e, "prompt", "prompt[%zu] must be text or a list", i);
        if (!read_prompt(s, item, r, e)) return false;
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------ chat -- */

/* Content as one text; NULL after a failure. */
static json_t *content_text(const json_t *content, size_t i_message, struct api_error *e)
{
    size_t i, n = 0;
    const json_t *part;
    if (json_is_string(content)) return json_incref((json_t *)content);
    if (!json_is_array(content)) {
        API_BAD(e, "messages", "messages[%zu].content must be text or a list of parts", i_message);
        return NULL;
    }
    char *text = allocate(1, 1);
    json_array_foreach(content, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *v = json_object_get(part, "text");
        if (!type || strcmp(type, "text") != 0 || !json_is_string(v)) {
            API_BAD(e, "messages", "messages[%zu].content[%zu]: only parts of type text are supported",
                    i_message, i);
            free(text);
            return NULL;
        }
        size_t n_part = json_string_length(v);
        text = reallocate(text, n + n_part + 2, 1);
        if (i) text[n++] = '\n';
        memcpy(text + n, json_string_value(v), n_part);
        n += n_part;
    }
    json_t *out = json_stringn(text, n);
    free(text);
    return out;
}

/* Templates that write arguments as JSON want an object; clients send its text. */
static void parse_arguments(json_t *message)
{
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(message, "tool_calls"), i, call)
    {
        json_t *function = json_object_get(call, "function");
        const char *text = json_string_value(json_object_get(function, "arguments"));
        json_t *parsed = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
        if (json_is_object(parsed))
            json_object_set_new(function, "arguments", parsed);
        else
            json_decref(parsed);
    }
}

/* What a template without tool calls shows of them: as models write them in tags. */
static json_t *calls_text(const json_t *calls)
{
    size_t i, n = 0;
    json_t *call, *out = NULL;
    char *text = NULL;
    FILE *file = open_memstream(&text, &n);
    json_array_foreach((json_t *)calls, i, call)
    {
        const json_t *function = json_object_get(call, "function");
        const char *name = json_string_value(json_object_get(function, "name")),
                   *arguments = json_string_value(json_object_get(function, "arguments"));
        json_t *v = json_string(name ? name : "");
        char *quoted = json_dumps(v, JSON_ENCODE_ANY);
        if (file && quoted)
            fprintf(file, "%s<tool_call>\n{\"name\": %s, \"arguments\": %s}\n</tool_call>", i ? "\n" : "",
                    quoted, arguments ? arguments : "{}");
        free(quoted);
        json_decref(v);
    }
    if (file && fclose(file) == 0) out = json_stringn(text, n);
    free(text);
    return out;
}

static json_t *read_messages(struct server *s, const json_t *list, struct api_error *e)
{
    static const char *const roles[] = { "system", "developer", "user", "assistant", "tool" };
    const char *source = kvant_template_source(s->chat);
    bool arguments = strstr(source, "arguments | tojson") || strstr(source, "arguments|tojson");
    json_t *out = json_array();
    size_t i;
    const json_t *item;
    if (!json_is_array(list) || json_array_size(list) == 0) {
        API_BAD(e, "messages", "messages must be a list of at least one message");
        return json_decref(out), NULL;
    }
    json_array_foreach(list, i, item)
    {
        const char *role = json_string_value(json_object_get(item, "role"));
        const json_t *content = get(item, "content");
        bool known = false;
        for (size_t k = 0; role && k < sizeof roles / sizeof roles[0]; k++)
            known |= strcmp(role, roles[k]) == 0;
        if (!known) {
            API_BAD(e, "messages", "messages[%zu].role must be system, developer, user, assistant or tool",
                    i);
            return json_decref(out), NULL;
        }
        json_t *message = json_deep_copy(item), *text = NULL;
        if (strcmp(role, "developer") == 0) json_object_set_new(message, "role", json_string("system"));
        if (content)
            text = content_text(content, i, e);
        else if (get(item, "tool_calls"))
            text = strstr(source, "tool_calls") ? json_null() : calls_text(get(item, "tool_calls"));
        else
            API_BAD(e, "messages", "messages[%zu].content is missing", i);
        if (!text) return json_decref(message), json_decref(out), NULL;
        json_object_set_new(message, "content", text);
        if (arguments) parse_arguments(message);
        json_array_append_new(out, message);
    }
    return out;
}

/* Who decides about thinking: what the request says of it, else the server's defaults, else the template. The
 * word "auto" is for the router, and no template sees it. */
static bool read_thinking(const struct server *s, json_t *variables, bool has_effort, const json_t *asked,
                          struct request *r, struct api_error *e)
{
    const json_t *effort = json_object_get(variables, "reasoning_effort"),
                 *thinking = json_object_get(variables, "enable_thinking");
    bool none = is_text(effort, "none"), automatic = is_text(effort, "auto");
    if (asked || !has_effort) automatic = is_text(thinking, "auto") || (automatic && !asked);
    if (effort && !json_is_null(effort) && !json_is_string(effort))
        return API_BAD(e, "reasoning_effort", "reasoning_effort must be text, such as none, low or auto");
    if (automatic && !s->router)
        return API_BAD(e, "reasoning_effort",
                       "reasoning_effort auto needs a router: start the server with --router FILE");
    if (is_text(effort, "auto")) json_object_del(variables, "reasoning_effort");
    if (is_text(thinking, "auto") || automatic) json_object_del(variables, "enable_thinking");
    if (none && !asked) json_object_set_new(variables, "enable_thinking", json_false());
    thinking = json_object_get(variables, "enable_thinking");
    r->think_mode = automatic                 ? "auto"
                    : json_is_true(thinking)  ? "on"
                    : json_is_false(thinking) ? "off"
                                              : "template";
    bool plain = s->router && strcmp(s->modes.name, "think") != 0;
    if (r->wants_json && plain) return true; /* what such modes begin with is no JSON */
    if (automatic)
        r->route = ROUTE_AUTO;
    else if (s->router && json_is_boolean(thinking) && !kvant_template_uses(s->chat, "enable_thinking"))
        r->route = json_is_true(thinking) ? ROUTE_SLOW : ROUTE_FAST;
    return true;
}

/* The variables of the template. *prefill: what the answer begins with, or NULL: borrowed from the
 * messages. */
static json_t *template_variables(struct server *s, const json_t *body, struct request *r, json_t **prefill,
                                  struct api_error *e)
{
    const json_t *tools = get(body, "tools"), *kwargs = get(body, "chat_template_kwargs"),
                 *effort = get(body, "reasoning_effort");
    *prefill = NULL;
    if (tools && (!json_is_array(tools) || json_array_size(tools) > 256))
        return API_BAD(e, "tools", "tools must be a list of at most 256"), NULL;
    if (kwargs && !json_is_object(kwargs))
        return API_BAD(e, "chat_template_kwargs", "chat_template_kwargs must be an object"), NULL;
    json_t *messages = read_messages(s, json_object_get(body, "messages"), e);
    if (!messages) return NULL;
    if (is_text(get(body, "tool_choice"), "none")) tools = NULL;
    r->has_tools = tools && json_array_size(tools) > 0;
    json_t *variables = json_object();
    size_t last = json_array_size(messages) - 1;
    json_t *message = json_array_get(messages, last);
    if (strcmp(json_string_value(json_object_get(message, "role")), "assistant") == 0 &&
        !get(message, "tool_calls")) {
        *prefill = json_incref(json_object_get(message, "content"));
        json_array_remove(messages, last);
    }
    json_object_set_new(variables, "messages", messages);
    if (r->has_tools) json_object_set(variables, "tools", (json_t *)tools);
    json_object_set_new(variables, "add_generation_prompt", json_true());
    if (s->kwargs) json_object_update(variables, s->kwargs);
    if (effort) json_object_set(variables, "reasoning_effort", (json_t *)effort);
    if (kwargs) json_object_update(variables, (json_t *)kwargs);
    if (!read_thinking(s, variables, effort || get(kwargs, "reasoning_effort"),
                       get(kwargs, "enable_thinking"), r, e))
        return json_decref(variables), NULL;
    return variables;
}

/* The conversation as text; free(). NULL after a failure. */
static char *render(struct server *s, const json_t *variables, size_t *n, struct api_error *e)
{
    struct kvant_error err;
    char *json = json_dumps(variables, JSON_COMPACT), *text = NULL;
    if (!json) return api_fail(e, 500, "server_error", NULL, "out of memory"), NULL;
    size_t n_json = strlen(json), cap = n_json + 4096;
    kvant_status status = KVANT_ERR_SPACE;
    for (int i = 0; i < 2 && status == KVANT_ERR_SPACE; i++, cap = *n + 1) {
        text = reallocate(text, cap + 1, 1);
        status = kvant_template_render(s->chat, json, n_json, text, cap, n, &err);
    }
    free(json);
    if (status == KVANT_OK) {
        text[*n] = '\0';
        return text;
    }
    api_fail_library(e, &err);
    free(text);
    return NULL;
}

static bool ends_with(const char *text, size_t n, const char *end)
{
    while (n > 0 && strchr(" \n\t\r", text[n - 1])) n--;
    size_t n_end = strlen(end);
    return n >= n_end && memcmp(text + n - n_end, end, n_end) == 0;
}

static char *render_chat(struct server *s, const json_t *body, struct request *r, size_t *n,
                         struct api_error *e)
{
    json_t *prefill, *variables = template_variables(s, body, r, &prefill, e);
    if (!variables) return NULL;
    char *text = render(s, variables, n, e);
    json_decref(variables);
    if (text && json_is_string(prefill) && r->wants_json) {
        API_BAD(e, "messages", "with response_format json_object the last message cannot be the assistant's");
        free(text);
        text = NULL;
    }
    if (text && json_is_string(prefill)) {
        r->route = ROUTE_NONE; /* the answer has begun */
        size_t n_more = json_string_length(prefill);
        text = reallocate(text, *n + n_more + 1, 1);
        memcpy(text + *n, json_string_value(prefill), n_more + 1);
        *n += n_more;
    }
    json_decref(prefill);
    return text;
}

static bool read_chat(struct server *s, const json_t *body, struct request *r, struct api_error *e)
{
    kvant_token *ids;
    size_t n, n_ids;
    const char *format = "auto";
    if (!get_text(body, "reasoning_format", &format, e)) return false;
    char *text = render_chat(s, body, r, &n, e);
    if (!text) return false;
    r->prompt_text = text;
    r->thinking = ends_with(text, n, "<think>");
    r->split_thinking = strcmp(format, "none") != 0;
    return tokens_of(s, text, n, KVANT_TOKENIZE_SPECIAL | KVANT_TOKENIZE_BOS, &ids, &n_ids, e) &&
           add_prompt(s, r, ids, n_ids, e);
}

/* ----------------------------------------------------------------------------------------------- embed -- */

/* A text as kvant embed takes it, or a list of tokens as they are. */
static bool read_input(struct server *s, const json_t *v, size_t i_text, struct request *r,
                       struct api_error *e)
{
    const json_t *item;
    size_t n = 0, i;
    kvant_token *ids;
    if (json_is_string(v)) {
        if (json_string_length(v) == 0) return API_BAD(e, "input", "input %zu is empty", i_text);
        return tokens_of(s, json_string_value(v), json_string_length(v),
                         KVANT_TOKENIZE_SPECIAL | KVANT_TOKENIZE_BOS, &ids, &n, e) &&
               add_prompt(s, r, ids, n, e);
    }
    if (!json_is_array(v))
        return API_BAD(e, "input", "input %zu must be a text or a list of tokens, as all of them are",
                       i_text);
    ids = allocate(json_array_size(v) + 1, sizeof *ids);
    json_array_foreach(v, i, item)
    {
        if (!json_is_integer(item) || json_integer_value(item) < 0 ||
            json_integer_value(item) >= s->info.n_vocab) {
            free(ids);
            return API_BAD(e, "input", "input %zu: a token must be a whole number from 0 to %d", i_text,
                           s->info.n_vocab - 1);
        }
        ids[n++] = (kvant_token)json_integer_value(item);
    }
    return add_prompt(s, r, ids, n, e);
}

static bool read_embed(struct server *s, const json_t *body, struct request *r, struct api_error *e)
{
    const json_t *v = get(body, "input"), *item;
    const char *format = "float", *model = NULL, *user = NULL;
    size_t i;
    if (!json_is_object(body)) return API_BAD(e, NULL, "the body must be a JSON object");
    if (!get_text(body, "encoding_format", &format, e) || !get_text(body, "model", &model, e) ||
        !get_text(body, "user", &user, e) || !read_plan(s, body, r, e))
        return false;
    r->as_base64 = strcmp(format, "base64") == 0;
    if (!r->as_base64 && strcmp(format, "float") != 0)
        return API_BAD(e, "encoding_format", "encoding_format must be float or base64");
    if (get(body, "dimensions"))
        return API_BAD(e, "dimensions", "dimensions: the vectors of this model have one size; leave it out");
    if (!v) return API_BAD(e, "input", "input is missing");
    const json_t *first = json_array_get(v, 0);
    r->n_choices = 1;
    r->created = (int64_t)time(NULL);
    snprintf(r->id, sizeof r->id, "embd-%llx", (unsigned long long)(1e6 * clock_s()));
    if (json_is_string(v) || json_is_integer(first)) return read_input(s, v, 0, r, e);
    if (!json_is_array(v)) return API_BAD(e, "input", "input must be a text, a list of texts, or tokens");
    if (!first) return API_BAD(e, "input", "the input is empty");
    if (json_array_size(v) > SERVE_TEXTS_MAX)
        return API_BAD(e, "input", "at most %d inputs in one request", SERVE_TEXTS_MAX);
    json_array_foreach(v, i, item)
    {
        if (!read_input(s, item, i, r, e)) return false;
    }
    return true;
}

bool request_read(struct server *s, enum api_kind kind, const json_t *body, struct request *r,
                  struct api_error *e)
{
    *r = (struct request){ .kind = kind };
    if (kind == API_EMBED) return read_embed(s, body, r, e);
    if (!read_common(s, body, r, e)) return false;
    bool ok = kind == API_CHAT ? read_chat(s, body, r, e) : read_prompts(s, body, r, e);
    if (ok && r->n_prompts * r->n_choices > SERVE_CHOICES_MAX)
        return API_BAD(e, "n", "at most %d answers in one request", SERVE_CHOICES_MAX);
    return ok;
}

bool api_apply_template(struct server *s, const json_t *body, json_t **out, struct api_error *e)
{
    struct request r = { 0 };
    size_t n;
    if (!json_is_object(body)) return API_BAD(e, NULL, "the body must be a JSON object");
    char *text = render_chat(s, body, &r, &n, e);
    if (!text) return false;
    *out = json_pack("{s:o}", "prompt", json_text(text, n));
    free(text);
    return true;
}

/* ---------------------------------------------------------------------------------------------- tokens -- */

static json_t *piece_json(const struct server *s, kvant_token id)
{
    char text[1024];
    size_t n = 0;
    if (kvant_detokenize(s->model, &id, 1, true, text, sizeof text, &n, NULL) != KVANT_OK) return json_null();
    json_t *value = json_stringn(text, n); /* NULL: not UTF-8 */
    if (value) return value;
    value = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(value, json_integer((unsigned char)text[i]));
    return value;
}

bool api_tokenize(struct server *s, const json_t *body, json_t **out, struct api_error *e)
{
    bool add = false, special = true, pieces = false;
    const json_t *content = json_object_get(body, "content");
    kvant_token *ids;
    size_t n;
    if (!json_is_string(content)) return API_BAD(e, "content", "content must be text");
    if (!get_flag(body, "add_special", &add, e) || !get_flag(body, "parse_special", &special, e) ||
        !get_flag(body, "with_pieces", &pieces, e))
        return false;
    int flags = (add ? KVANT_TOKENIZE_BOS : 0) | (special ? KVANT_TOKENIZE_SPECIAL : 0);
    if (!tokens_of(s, json_string_value(content), json_string_length(content), flags, &ids, &n, e))
        return false;
    json_t *list = pieces ? json_array() : json_tokens(ids, n);
    for (size_t i = 0; pieces && i < n; i++)
        json_array_append_new(list, json_pack("{s:i, s:o}", "id", ids[i], "piece", piece_json(s, ids[i])));
    free(ids);
    *out = json_pack("{s:o}", "tokens", list);
    return true;
}

bool api_detokenize(struct server *s, const json_t *body, json_t **out, struct api_error *e)
{
    const json_t *list = json_object_get(body, "tokens"), *item;
    size_t i, n = 0;
    struct kvant_error err;
    if (!json_is_array(list)) return API_BAD(e, "tokens", "tokens must be a list of token ids");
    kvant_token *ids = allocate(json_array_size(list) + 1, sizeof *ids);
    json_array_foreach(list, i, item)
    {
        if (!token_of(s, item, &ids[i], e)) return free(ids), false;
    }
    char *text = NULL;
    kvant_status status = kvant_detokenize(s->model, ids, i, true, NULL, 0, &n, &err);
    if (status == KVANT_ERR_SPACE) {
        text = allocate(n + 1, 1);
        status = kvant_detokenize(s->model, ids, i, true, text, n, &n, &err);
    }
    free(ids);
    if (status == KVANT_OK) *out = json_pack("{s:o}", "content", json_text(text ? text : "", n));
    free(text);
    return status == KVANT_OK || api_fail_library(e, &err);
}
