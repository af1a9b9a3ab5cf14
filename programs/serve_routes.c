/*
 * The endpoints: a table of routes, and what each of them does with a request whose body is there. A slot's
 * file name is the one thing of a client that reaches the file system, and it is a name without a slash.
 */
#include <stdlib.h>
#include <string.h>

#include "serve_http.h"

static json_t *parse_body(const struct exchange *x, struct api_error *e)
{
    return api_parse(x->body ? x->body : "", x->n_body, e);
}

static enum MHD_Result on_answer(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    struct api_error e;
    json_t *body = parse_body(x, &e);
    struct job *job = body ? job_open(JOB_ANSWER) : NULL;
    if (body && !job) api_fail(&e, 500, "server_error", NULL, "out of memory");
    bool ok = job && request_read(s, (enum api_kind)x->route->argument, body, &job->request, &e);
    if (job && s->options.verbose_prompts && job->request.prompt_text)
        fprintf(stderr, "%s: %s\n", job->request.id, job->request.prompt_text);
    json_decref(body);
    if (ok) return submit(s, c, x, job);
    if (job) {
        job_release(job);
        job_release(job);
    }
    return send_error(s, c, x, &e);
}

static enum MHD_Result on_health(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    return send_json(s, c, x, 200, json_pack("{s:s}", "status", "ok"));
}

static enum MHD_Result on_models(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    return send_json(s, c, x, 200, api_models(s));
}

static enum MHD_Result on_model(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    struct api_error e;
    json_t *model = api_model(s, x->name);
    if (model) return send_json(s, c, x, 200, model);
    api_fail(&e, 404, "not_found_error", "model", "there is no model '%.100s'; this server has %.200s",
             x->name, s->name);
    return send_error(s, c, x, &e);
}

static enum MHD_Result on_props(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    return send_json(s, c, x, 200, api_props(s));
}

static enum MHD_Result on_slots(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    struct api_error e;
    if (s->options.no_slots) {
        api_fail(&e, 501, "not_supported_error", NULL, "/slots is switched off (--no-slots)");
        return send_error(s, c, x, &e);
    }
    const char *fail_full = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, "fail_on_no_slot");
    json_t *slots = api_slots(s), *slot;
    size_t i, n_free = 0;
    json_array_foreach(slots, i, slot) n_free += !json_is_true(json_object_get(slot, "is_processing"));
    if (fail_full && n_free == 0) {
        json_decref(slots);
        api_fail(&e, 503, "unavailable_error", NULL, "no slot is free");
        return send_error(s, c, x, &e);
    }
    return send_json(s, c, x, 200, slots);
}

static enum MHD_Result on_metrics(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    struct api_error e;
    if (!s->options.metrics) {
        api_fail(&e, 501, "not_supported_error", NULL,
                 "/metrics is switched off; start the server with --metrics");
        return send_error(s, c, x, &e);
    }
    char *text = api_metrics(s);
    enum MHD_Result result = text ? send_bytes(s, c, x, 200, "text/plain; version=0.0.4", text, strlen(text))
                                  : MHD_NO;
    free(text);
    return result;
}

static enum MHD_Result on_page(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(strlen(serve_page), (void *)serve_page,
                                                             MHD_RESPMEM_PERSISTENT);
    if (!r) return MHD_NO;
    MHD_add_response_header(r, "Content-Type", "text/html; charset=utf-8");
    MHD_add_response_header(r, "Content-Security-Policy",
                            "default-src 'none'; style-src 'unsafe-inline'; "
                            "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
                            "form-action 'none'; frame-ancestors 'none'");
    return send_response(s, c, x, 200, r);
}

enum { CALL_TOKENIZE, CALL_DETOKENIZE, CALL_TEMPLATE };

static enum MHD_Result on_call(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    static bool (*const calls[])(struct server *, const json_t *, json_t **,
                                 struct api_error *) = { [CALL_TOKENIZE] = api_tokenize,
                                                         [CALL_DETOKENIZE] = api_detokenize,
                                                         [CALL_TEMPLATE] = api_apply_template };
    struct api_error e;
    json_t *out = NULL, *body = parse_body(x, &e);
    bool ok = body && calls[x->route->argument](s, body, &out, &e);
    json_decref(body);
    return ok ? send_json(s, c, x, 200, out) : send_error(s, c, x, &e);
}

static enum MHD_Result on_missing(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    struct api_error e;
    api_fail(&e, 501, "not_supported_error", NULL, "%s is not there; /v1/embeddings is", x->path);
    return send_error(s, c, x, &e);
}

static enum MHD_Result slot_job(struct server *s, struct MHD_Connection *c, struct exchange *x,
                                const char *action, struct api_error *e)
{
    enum job_kind kind = strcmp(action, "save") == 0      ? JOB_SLOT_SAVE
                         : strcmp(action, "restore") == 0 ? JOB_SLOT_RESTORE
                                                          : JOB_SLOT_ERASE;
    if (kind == JOB_SLOT_ERASE && strcmp(action, "erase") != 0)
        return API_BAD(e, "action", "action must be save, restore or erase"), MHD_NO;
    struct job *job = job_open(kind);
    if (!job) return api_fail(e, 500, "server_error", NULL, "out of memory"), MHD_NO;
    job->slot = x->slot;
    if (kind != JOB_SLOT_ERASE) {
        json_t *body = parse_body(x, e);
        const char *name = body ? api_file_name(body, e) : NULL;
        bool ok = name != NULL;
        if (ok) {
            size_t n_path = strlen(s->options.slot_path) + strlen(name) + 2;
            job->name = text_copy(name);
            job->path = allocate(n_path, 1);
            snprintf(job->path, n_path, "%s/%s", s->options.slot_path, name);
        }
        json_decref(body);
        if (!ok) {
            job_release(job);
            job_release(job);
            return MHD_NO;
        }
    }
    return submit(s, c, x, job);
}

static enum MHD_Result on_slot(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    struct api_error e = { 0 };
    const char *action = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, "action");
    enum MHD_Result result = MHD_NO;
    if (x->slot < 0 || x->slot >= s->options.n_parallel)
        api_fail(&e, 404, "not_found_error", NULL, "there is no such slot");
    else if (!action)
        API_BAD(&e, "action", "action is missing: ?action=save, restore or erase");
    else if (!s->options.slot_path && strcmp(action, "erase") != 0)
        api_fail(&e, 501, "not_supported_error", NULL,
                 "start the server with --slot-save-path to save and restore slots");
    else
        result = slot_job(s, c, x, action, &e);
    return e.status ? send_error(s, c, x, &e) : result;
}

static const struct route routes[] = {
    { "GET", "/", on_page, true, 0 },
    { "GET", "/health", on_health, true, 0 },
    { "GET", "/v1/health", on_health, true, 0 },
    { "GET", "/v1/models", on_models, true, 0 },
    { "GET", "/models", on_models, true, 0 },
    { "GET", "/v1/models/{id}", on_model, true, 0 },
    { "GET", "/props", on_props, false, 0 },
    { "GET", "/slots", on_slots, false, 0 },
    { "GET", "/metrics", on_metrics, false, 0 },
    { "POST", "/v1/chat/completions", on_answer, false, API_CHAT },
    { "POST", "/chat/completions", on_answer, false, API_CHAT },
    { "POST", "/v1/completions", on_answer, false, API_TEXT },
    { "POST", "/completion", on_answer, false, API_NATIVE },
    { "POST", "/completions", on_answer, false, API_NATIVE },
    { "POST", "/tokenize", on_call, false, CALL_TOKENIZE },
    { "POST", "/detokenize", on_call, false, CALL_DETOKENIZE },
    { "POST", "/apply-template", on_call, false, CALL_TEMPLATE },
    { "POST", "/v1/embeddings", on_answer, false, API_EMBED },
    { "POST", "/embedding", on_missing, false, 0 },
    { "POST", "/embeddings", on_missing, false, 0 },
    { "POST", "/slots/{id}", on_slot, false, 0 },
};

/* The path of a URL; of "http://host/path", which servers have to take too, what follows the host. */
static const char *path_of(const char *url)
{
    size_t n = strncmp(url, "http://", 7) == 0 ? 7 : strncmp(url, "https://", 8) == 0 ? 8 : 0;
    if (n == 0) return url;
    const char *path = strchr(url + n, '/');
    return path ? path : "/";
}

bool route_find(struct exchange *x, const char *url, const char *method, struct api_error *e)
{
    bool known = false;
    url = path_of(url);
    const char *path = url;
    if (strncmp(url, "/slots/", 7) == 0) {
        char *end;
        long slot = strtol(url + 7, &end, 10);
        if (end > url + 7 && *end == '\0' && slot >= 0 && slot < 65536) {
            x->slot = (int)slot;
            path = "/slots/{id}";
        }
    }
    if (strncmp(url, "/v1/models/", 11) == 0 && url[11] && strlen(url + 11) < sizeof x->name) {
        strcpy(x->name, url + 11);
        path = "/v1/models/{id}";
    }
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (strcmp(routes[i].path, path) != 0) continue;
        known = true;
        snprintf(x->allow, sizeof x->allow, "%s, OPTIONS",
                 strcmp(routes[i].method, "GET") == 0 ? "GET, HEAD" : "POST");
        bool head = strcmp(method, "HEAD") == 0 && strcmp(routes[i].method, "GET") == 0;
        if (strcmp(routes[i].method, method) != 0 && !head) continue;
        x->route = &routes[i];
        x->allow[0] = '\0';
        return true;
    }
    if (known) return api_fail(e, 405, "invalid_request_error", NULL, "%s does not take %.8s", path, method);
    return api_fail(e, 404, "not_found_error", NULL, "there is no %.100s", url);
}

