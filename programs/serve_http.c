/*
 * HTTP on libmicrohttpd: a table of routes, bodies of bounded size, keys, and the two kinds of answers: a
 * text, or a stream that the engine fills. What the client sends is only ever read as JSON; a slot's file
 * name is the one thing that reaches the file system, and it is a name without a slash.
 */
#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "json.h"
#include "serve.h"
#include "utf8.h"

/* --------------------------------------------------------------------------------------------- exchanges -- */

struct route;

/* One request of a connection. */
struct exchange {
    const struct route *route;
    char *body;
    size_t n_body, cap_body;
    bool too_large, slow;
    struct job *job;
    double started_s;
    int slot;
    int status;
    char method[8], path[128];
    char name[256]; /* {id} of a model                     */
    char allow[32]; /* methods of the path                 */
};

/* Connections in the order in which they were opened, to find those that send too slowly. */
struct client {
    struct client *next, *before;
    int fd;
    double deadline_s; /* for the whole request; 0: none is arriving */
};

struct http {
    struct server *server;
    pthread_mutex_t lock; /* guards the list of clients and their deadlines */
    struct client *clients;
};

static struct http http;

typedef enum MHD_Result handler(struct server *s, struct MHD_Connection *c, struct exchange *x);

struct route {
    const char *method, *path;
    handler *handle;
    bool is_open; /* needs no key */
    int argument;
};

static void log_line(struct server *s, const struct exchange *x, int status)
{
    if (s->options.model.json) return;
    fprintf(stderr, "%s %s %d %.0f ms\n", x->method, x->path, status, 1e3 * (clock_s() - x->started_s));
}

static void add_headers(struct server *s, struct MHD_Response *response)
{
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (s->options.cors) {
        MHD_add_response_header(response, "Access-Control-Allow-Origin", s->options.cors);
        MHD_add_response_header(response, "Access-Control-Allow-Headers",
                                "authorization, content-type, x-api-key");
        MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    }
}

static enum MHD_Result send_bytes(struct server *s, struct MHD_Connection *c, struct exchange *x, int status,
                                  const char *type, const char *bytes, size_t n)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(n, (void *)bytes, MHD_RESPMEM_MUST_COPY);
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "Content-Type", type);
    if (status == 401) MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (x->allow[0]) MHD_add_response_header(response, "Allow", x->allow);
    if (status == 503) MHD_add_response_header(response, "Retry-After", "1");
    add_headers(s, response);
    enum MHD_Result result = MHD_queue_response(c, (unsigned)status, response);
    MHD_destroy_response(response);
    x->status = status;
    return result;
}

static enum MHD_Result send_json(struct server *s, struct MHD_Connection *c, struct exchange *x, int status,
                                 json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(value);
    if (!text) return MHD_NO;
    enum MHD_Result result = send_bytes(s, c, x, status, "application/json; charset=utf-8", text,
                                        strlen(text));
    free(text);
    return result;
}

static void count_error(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    s->metrics.n_errors++;
    pthread_mutex_unlock(&s->lock);
}

static enum MHD_Result send_error(struct server *s, struct MHD_Connection *c, struct exchange *x,
                                  const struct api_error *e)
{
    count_error(s);
    return send_json(s, c, x, e->status, api_error_json(e));
}

static json_t *parse_body(const struct exchange *x, struct api_error *e)
{
    return api_parse(x->body ? x->body : "", x->n_body, e);
}

/* --------------------------------------------------------------------------------------------- streaming -- */

/* Called by libmicrohttpd for more bytes of a stream. */
static ssize_t read_stream(void *cls, uint64_t position, char *buffer, size_t max)
{
    struct job *job = cls;
    ssize_t n = 0;
    (void)position;
    pthread_mutex_lock(&job->lock);
    size_t left = job->n_out - job->n_taken;
    if (left > 0) {
        n = (ssize_t)(left < max ? left : max);
        memcpy(buffer, job->out + job->n_taken, (size_t)n);
        job->n_taken += (size_t)n;
    } else if (job->finished || job->cancelled) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (job->connection) {
        job->suspended = true;
        MHD_suspend_connection(job->connection);
    }
    pthread_mutex_unlock(&job->lock);
    return n;
}

static enum MHD_Result start_stream(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_stream,
                                                                      x->job, NULL);
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "Content-Type", "text/event-stream; charset=utf-8");
    MHD_add_response_header(response, "Cache-Control", "no-cache");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    add_headers(s, response);
    enum MHD_Result result = MHD_queue_response(c, 200, response);
    MHD_destroy_response(response);
    x->status = 200;
    return result;
}

/* A job for the engine: the connection sleeps until there is something to send. */
static enum MHD_Result submit(struct server *s, struct MHD_Connection *c, struct exchange *x, struct job *job)
{
    struct api_error e;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    bool stream = job->kind == JOB_ANSWER && job->request.stream;
    job->connection = c;
    job->fd = info ? info->connect_fd : -1;
    x->job = job;
    if (!stream) {
        job->suspended = true;
        MHD_suspend_connection(c);
    }
    if (!server_submit(s, job)) {
        if (!stream) {
            pthread_mutex_lock(&job->lock);
            if (job->suspended) MHD_resume_connection(c);
            job->suspended = false;
            pthread_mutex_unlock(&job->lock);
        }
        job_release(job); /* the engine's share */
        api_fail(&e, 503, "unavailable_error", NULL,
                 s->stopping ? "the server is stopping" : "too many requests are waiting");
        if (stream) return send_error(s, c, x, &e);
        count_error(s);
        job_finish_error(job, &e);
        return MHD_YES;
    }
    return stream ? start_stream(s, c, x) : MHD_YES;
}

/* ------------------------------------------------------------------------------------------------ routes -- */

static enum MHD_Result on_answer(struct server *s, struct MHD_Connection *c, struct exchange *x)
{
    struct api_error e;
    json_t *body = parse_body(x, &e);
    struct job *job = body ? job_open(JOB_ANSWER) : NULL;
    bool ok = job && request_read(s, (enum api_kind)x->route->argument, body, &job->request, &e);
    if (body && s->options.verbose_prompts && job && job->request.prompt_text)
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
    add_headers(s, r);
    enum MHD_Result result = MHD_queue_response(c, 200, r);
    MHD_destroy_response(r);
    x->status = 200;
    return result;
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
        if (ok && asprintf(&job->path, "%s/%s", s->options.slot_path, name) < 0) job->path = NULL;
        if (ok) job->name = strdup(name);
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

/* Sets the route, or says what is wrong. */
static bool find_route(struct exchange *x, const char *url, const char *method, struct api_error *e)
{
    const char *path = url;
    bool known = false;
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

/* Compares in a time that does not depend on where the texts differ. */
static bool same_key(const char *given, const char *key)
{
    size_t n_given = strlen(given), n = strlen(key);
    unsigned difference = n_given != n;
    for (size_t i = 0; i < n; i++)
        difference |= (unsigned char)key[i] ^ (unsigned char)given[i < n_given ? i : 0];
    return difference == 0;
}

static bool has_key(const struct server *s, struct MHD_Connection *c)
{
    const char *given = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization");
    bool found = false;
    if (s->n_keys == 0) return true;
    if (given && strncasecmp(given, "Bearer ", 7) == 0)
        given += 7;
    else
        given = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "X-Api-Key");
    for (int i = 0; i < s->n_keys && given; i++) found |= same_key(given, s->keys[i]);
    return found;
}

/* ------------------------------------------------------------------------------------------- connections -- */

static void set_deadline(struct MHD_Connection *c, double seconds)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct client *client = info ? info->socket_context : NULL;
    if (!client) return;
    pthread_mutex_lock(&http.lock);
    client->deadline_s = seconds > 0 ? clock_s() + seconds : 0;
    pthread_mutex_unlock(&http.lock);
}

/* First call for a request: its line and headers are there. */
static enum MHD_Result begin(struct server *s, struct MHD_Connection *c, const char *url, const char *method,
                             void **context)
{
    struct api_error e;
    struct exchange *x = calloc(1, sizeof *x);
    if (!x) return MHD_NO;
    x->started_s = clock_s();
    snprintf(x->method, sizeof x->method, "%s", method);
    snprintf(x->path, sizeof x->path, "%s", url);
    for (char *p = x->path; *p; p++) /* log lines stay lines */
        if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e) *p = '?';
    *context = x;
    const char *length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
    bool found = find_route(x, url, method, &e);
    if (!found && x->allow[0] &&
        strcmp(method, "OPTIONS") == 0) /* its methods; with --cors-origins, who may ask */
        return send_bytes(s, c, x, 204, "text/plain", "", 0);
    if (!found) return send_error(s, c, x, &e);
    if (!x->route->is_open && !has_key(s, c)) {
        api_fail(&e, 401, "authentication_error", NULL, "the API key is missing or wrong");
        return send_error(s, c, x, &e);
    }
    const char *encoding = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Encoding");
    if (encoding && strcasecmp(encoding, "identity") != 0) {
        api_fail(&e, 415, "invalid_request_error", NULL,
                 "Content-Encoding %.40s is not read; send the body as it is", encoding);
        return send_error(s, c, x, &e);
    }
    /* What is a little too large is read and dropped, so that the client reads why. */
    if (length && strtoull(length, NULL, 10) > (unsigned long long)s->options.body_mib << 24) {
        api_fail(&e, 413, "invalid_request_error", NULL, "the body is larger than %lld MiB",
                 (long long)s->options.body_mib);
        return send_error(s, c, x, &e);
    }
    return MHD_YES;
}

static void take_body(struct server *s, struct exchange *x, const char *bytes, size_t n)
{
    size_t limit = (size_t)s->options.body_mib << 20;
    if (x->too_large || n > limit - x->n_body) {
        x->too_large = true;
        return;
    }
    if (n > x->cap_body - x->n_body) {
        size_t cap = 2 * x->cap_body + n + 1024;
        char *body = realloc(x->body, cap);
        if (!body) {
            x->too_large = true;
            return;
        }
        x->body = body;
        x->cap_body = cap;
    }
    memcpy(x->body + x->n_body, bytes, n);
    x->n_body += n;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *upload, size_t *n_upload, void **context)
{
    struct server *s = cls;
    struct exchange *x = *context;
    struct api_error e;
    (void)version;
    if (!x) return begin(s, c, url, method, context);
    if (*n_upload > 0) {
        take_body(s, x, upload, *n_upload);
        *n_upload = 0;
        return MHD_YES;
    }
    if (x->job) { /* woken up: the answer is there */
        struct job *job = x->job;
        pthread_mutex_lock(&job->lock);
        bool finished = job->finished;
        int status = job->status;
        if (!finished) {
            job->suspended = true;
            MHD_suspend_connection(c);
        }
        pthread_mutex_unlock(&job->lock);
        if (!finished) return MHD_YES;
        return send_bytes(s, c, x, status == 499 ? 500 : status, "application/json; charset=utf-8",
                          job->out ? job->out : "", job->n_out);
    }
    set_deadline(c, 0);
    if (!x->route) return MHD_NO;
    if (x->too_large) {
        api_fail(&e, 413, "invalid_request_error", NULL, "the body is larger than %lld MiB",
                 (long long)s->options.body_mib);
        return send_error(s, c, x, &e);
    }
    return x->route->handle(s, c, x);
}

static void on_completed(void *cls, struct MHD_Connection *c, void **context,
                         enum MHD_RequestTerminationCode code)
{
    struct server *s = cls;
    struct exchange *x = *context;
    *context = NULL;
    set_deadline(c, (double)s->options.timeout_s);
    if (!x) return;
    if (x->job) {
        struct job *job = x->job;
        pthread_mutex_lock(&job->lock);
        job->connection = NULL;
        job->fd = -1;
        job->suspended = false;
        job->cancelled = true; /* nobody reads on, whether it is finished or not */
        pthread_mutex_unlock(&job->lock);
        job_release(job);
    }
    log_line(s, x, code == MHD_REQUEST_TERMINATED_COMPLETED_OK ? x->status : 499);
    free(x->body);
    free(x);
}

static void on_connection(void *cls, struct MHD_Connection *c, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct server *s = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        struct client *client = calloc(1, sizeof *client);
        if (!client) return;
        client->fd = info ? info->connect_fd : -1;
        client->deadline_s = clock_s() + (double)s->options.timeout_s;
        pthread_mutex_lock(&http.lock);
        client->next = http.clients;
        if (http.clients) http.clients->before = client;
        http.clients = client;
        pthread_mutex_unlock(&http.lock);
        *context = client;
    } else {
        struct client *client = *context;
        if (!client) return;
        pthread_mutex_lock(&http.lock);
        if (client->next) client->next->before = client->before;
        if (client->before)
            client->before->next = client->next;
        else
            http.clients = client->next;
        pthread_mutex_unlock(&http.lock);
        free(client);
    }
}

void http_watch(struct server *s)
{
    double now = clock_s();
    pthread_mutex_lock(&http.lock);
    for (struct client *client = http.clients; client; client = client->next)
        if (client->deadline_s > 0 && now > client->deadline_s && client->fd >= 0) {
            shutdown(client->fd, SHUT_RDWR);
            client->deadline_s = 0;
        }
    pthread_mutex_unlock(&http.lock);
    pthread_mutex_lock(&s->lock);
    for (struct job *job = s->queue; job; job = job->next) job_client_gone(job);
    pthread_mutex_unlock(&s->lock);
}

/* libmicrohttpd decodes %00 and the like itself; its own messages go to the log. */
static void on_log(void *cls, const char *format, va_list args)
{
    const struct server *s = cls;
    if (s->options.verbose_prompts) vfprintf(stderr, format, args);
}

struct MHD_Daemon *http_open(struct server *s)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)s->options.port) };
    const char *host = strcmp(s->options.host, "localhost") == 0 ? "127.0.0.1" : s->options.host;
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        fail_text("--host %s: an IPv4 address is needed, such as 127.0.0.1 or 0.0.0.0", s->options.host);
        return NULL;
    }
    http.server = s;
    pthread_mutex_init(&http.lock, NULL);
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_AUTO_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG,
        (uint16_t)s->options.port, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, s,
        MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)s->options.timeout_s, MHD_OPTION_CONNECTION_LIMIT, 512u, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)65536, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)s->options.n_http,
        MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
    if (!daemon)
        fail_text("port %lld of %s cannot be opened; is it in use?", (long long)s->options.port,
                  s->options.host);
    return daemon;
}

void http_close(struct MHD_Daemon *daemon)
{
    if (daemon) MHD_stop_daemon(daemon);
    pthread_mutex_destroy(&http.lock);
}
