/*
 * HTTP on libmicrohttpd: connections and their deadlines, bodies of bounded size, keys, who may ask from
 * other pages, and the two kinds of answers: a text, or a stream that the engine fills.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve_http.h"

/* Connections in the order in which they were opened, to find those that send too slowly. */
struct client {
    struct client *next, *before;
    int fd;
    double deadline_s; /* for the whole request; 0: none is arriving */
};

struct http {
    struct MHD_Daemon *daemon;
    pthread_mutex_t lock; /* guards the list of clients and their deadlines */
    struct client *clients;
};

/* ------------------------------------------------------------------------------------------- answering -- */

static void log_line(const struct server *s, const struct exchange *x, int status)
{
    if (s->options.model.json) return;
    fprintf(stderr, "%s %s %d %.0f ms\n", x->method, x->path, status, 1e3 * (clock_s() - x->started_s));
}

/* Whether an origin stands in the list of --cors-origins: "*", or origins with commas between. */
static bool may_ask(const char *list, const char *origin)
{
    size_t n = strlen(origin);
    for (const char *at = list; *at;) {
        while (*at == ' ' || *at == ',') at++;
        size_t length = strcspn(at, ", ");
        if ((length == 1 && *at == '*') || (length == n && strncmp(at, origin, n) == 0)) return true;
        at += length;
    }
    return false;
}

/* What a page of another origin needs to ask and to read the answer. The headers that it may send are those
 * that it names: OpenAI's client for JavaScript sends a dozen of its own. */
static void add_cors(const struct server *s, struct MHD_Connection *c, struct MHD_Response *response)
{
    const char *origin = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Origin"),
               *asked = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Access-Control-Request-Headers");
    if (!s->options.cors) return;
    MHD_add_response_header(response, "Vary", "Origin");
    if (!origin || !may_ask(s->options.cors, origin)) return;
    MHD_add_response_header(response, "Access-Control-Allow-Origin", origin);
    MHD_add_response_header(response, "Access-Control-Expose-Headers", "x-request-id, retry-after");
    if (!MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Access-Control-Request-Method")) return;
    MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    if (asked) MHD_add_response_header(response, "Access-Control-Allow-Headers", asked);
    MHD_add_response_header(response, "Access-Control-Max-Age", "600");
}

enum MHD_Result send_response(struct server *s, struct MHD_Connection *c, struct exchange *x, int status,
                              struct MHD_Response *response)
{
    if (!response) return MHD_NO;
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (status == 401) MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (status == 503) MHD_add_response_header(response, "Retry-After", "1");
    if (x->allow[0]) MHD_add_response_header(response, "Allow", x->allow);
    if (x->job && x->job->request.id[0])
        MHD_add_response_header(response, "X-Request-Id", x->job->request.id);
    add_cors(s, c, response);
    enum MHD_Result result = MHD_queue_response(c, (unsigned)status, response);
    MHD_destroy_response(response);
    x->status = status;
    return result;
}

enum MHD_Result send_bytes(struct server *s, struct MHD_Connection *c, struct exchange *x, int status,
                           const char *type, const char *bytes, size_t n)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(n, (void *)bytes, MHD_RESPMEM_MUST_COPY);
    if (response && n > 0) MHD_add_response_header(response, "Content-Type", type);
    return send_response(s, c, x, status, response);
}

enum MHD_Result send_json(struct server *s, struct MHD_Connection *c, struct exchange *x, int status,
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

enum MHD_Result send_error(struct server *s, struct MHD_Connection *c, struct exchange *x,
                           const struct api_error *e)
{
    count_error(s);
    return send_json(s, c, x, e->status, api_error_json(e));
}

/* ------------------------------------------------------------------------------------------- streaming -- */

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
    return send_response(s, c, x, 200, response);
}

enum MHD_Result submit(struct server *s, struct MHD_Connection *c, struct exchange *x, struct job *job)
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

/* ----------------------------------------------------------------------------------------- connections -- */

static void set_deadline(struct server *s, struct MHD_Connection *c, double seconds)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct client *client = info ? info->socket_context : NULL;
    if (!client) return;
    pthread_mutex_lock(&s->http->lock);
    client->deadline_s = seconds > 0 ? clock_s() + seconds : 0;
    pthread_mutex_unlock(&s->http->lock);
}

struct framing {
    int n_lengths;
    bool encoded, chunked;
};

static enum MHD_Result count_framing(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct framing *f = cls;
    (void)kind;
    f->n_lengths += strcasecmp(name, "Content-Length") == 0;
    if (strcasecmp(name, "Transfer-Encoding") == 0) {
        f->chunked = !f->encoded && value && strcasecmp(value, "chunked") == 0;
        f->encoded = true;
    }
    return MHD_YES;
}

/* Where a body ends must be said once: a proxy before this server might read it the other way, and take what
 * follows for another request. */
static bool check_framing(struct MHD_Connection *c, struct api_error *e)
{
    struct framing f = { 0 };
    MHD_get_connection_values(c, MHD_HEADER_KIND, count_framing, &f);
    if (f.n_lengths > 1 || (f.encoded && (f.n_lengths > 0 || !f.chunked)))
        return API_BAD(e, NULL,
                       "one Content-Length, or Transfer-Encoding: chunked, must say where the body ends");
    return true;
}

/* Whether a request may go on to its endpoint; x->route is there then. */
static bool check_request(struct server *s, struct MHD_Connection *c, struct exchange *x, const char *url,
                          const char *method, struct api_error *e)
{
    const char *encoding = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Encoding");
    if (!route_find(x, url, method, e)) return false;
    if (!x->route->is_open && !has_key(s, c))
        return api_fail(e, 401, "authentication_error", NULL, "the API key is missing or wrong");
    if (encoding && strcasecmp(encoding, "identity") != 0)
        return api_fail(e, 415, "invalid_request_error", NULL,
                        "Content-Encoding %.40s is not read; send the body as it is", encoding);
    return true;
}

static bool fail_too_large(const struct server *s, struct api_error *e)
{
    return api_fail(e, 413, "invalid_request_error", NULL, "the body is larger than %lld MiB",
                    (long long)s->options.body_mib);
}

/* First call for a request: its line and headers are there. What is refused is told at once where its body
 * would not be worth reading; the connection is closed then. Else the body is read and dropped, so that a
 * client that writes before it reads finds the answer, and the connection lasts. */
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
    if (!check_framing(c, &e)) return send_error(s, c, x, &e);
    const char *length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
    if (length && strtoull(length, NULL, 10) > (unsigned long long)s->options.body_mib << 24) {
        fail_too_large(s, &e);
        return send_error(s, c, x, &e);
    }
    if (check_request(s, c, x, url, method, &x->refusal)) return MHD_YES;
    x->route = NULL;
    bool waits = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Expect") != NULL; /* for a word to go on */
    return waits ? send_error(s, c, x, &x->refusal) : MHD_YES;
}

static void take_body(struct server *s, struct exchange *x, const char *bytes, size_t n)
{
    size_t limit = (size_t)s->options.body_mib << 20;
    if (!x->route) return;
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
    set_deadline(s, c, 0);
    if (!x->route && x->allow[0] && strcmp(method, "OPTIONS") == 0)
        return send_bytes(s, c, x, 204, "", "", 0);
    if (!x->route) return send_error(s, c, x, &x->refusal);
    if (x->too_large) {
        fail_too_large(s, &e);
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
    set_deadline(s, c, (double)s->options.timeout_s);
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
        pthread_mutex_lock(&s->http->lock);
        client->next = s->http->clients;
        if (s->http->clients) s->http->clients->before = client;
        s->http->clients = client;
        pthread_mutex_unlock(&s->http->lock);
        *context = client;
    } else {
        struct client *client = *context;
        if (!client) return;
        pthread_mutex_lock(&s->http->lock);
        if (client->next) client->next->before = client->before;
        if (client->before)
            client->before->next = client->next;
        else
            s->http->clients = client->next;
        pthread_mutex_unlock(&s->http->lock);
        free(client);
    }
}

void http_watch(struct server *s)
{
    double now = clock_s();
    pthread_mutex_lock(&s->http->lock);
    for (struct client *client = s->http->clients; client; client = client->next)
        if (client->deadline_s > 0 && now > client->deadline_s && client->fd >= 0) {
            shutdown(client->fd, SHUT_RDWR);
            client->deadline_s = 0;
        }
    pthread_mutex_unlock(&s->http->lock);
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

/* An address to listen on: IPv4, or IPv6 with or without brackets; "::" is all of both. */
static bool read_address(const struct server *s, struct sockaddr_storage *out, unsigned *flags)
{
    char host[64];
    const char *given = strcmp(s->options.host, "localhost") == 0 ? "127.0.0.1" : s->options.host;
    size_t n = strlen(given), in = given[0] == '[' && given[n - 1] == ']' ? 1 : 0;
    snprintf(host, sizeof host, "%.*s", (int)(n - 2 * in), given + in);
    struct sockaddr_in *four = (struct sockaddr_in *)out;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof *out);
    if (n < sizeof host && inet_pton(AF_INET, host, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)s->options.port);
        return true;
    }
    memset(out, 0, sizeof *out);
    if (n >= sizeof host || inet_pton(AF_INET6, host, &six->sin6_addr) != 1) return false;
    six->sin6_family = AF_INET6;
    six->sin6_port = htons((uint16_t)s->options.port);
    *flags = strcmp(host, "::") == 0 ? MHD_USE_DUAL_STACK : MHD_USE_IPv6;
    return true;
}

bool http_open(struct server *s)
{
    struct sockaddr_storage address;
    unsigned flags = MHD_USE_AUTO_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC |
                     MHD_USE_ERROR_LOG,
             family = 0;
    if (!read_address(s, &address, &family)) {
        fail_text("--host %s: an address is needed, such as 127.0.0.1, 0.0.0.0 or ::1", s->options.host);
        return false;
    }
    s->http = allocate(1, sizeof *s->http);
    *s->http = (struct http){ 0 };
    pthread_mutex_init(&s->http->lock, NULL);
    s->http->daemon = MHD_start_daemon(
        flags | family, (uint16_t)s->options.port, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER,
        on_log, s, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)s->options.timeout_s, MHD_OPTION_CONNECTION_LIMIT, 512u, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)65536, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)s->options.n_http,
        MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
    if (s->http->daemon) return true;
    fail_text("port %lld of %s cannot be opened; is it in use?", (long long)s->options.port, s->options.host);
    http_close(s);
    return false;
}

unsigned http_port(const struct server *s)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->http->daemon, MHD_DAEMON_INFO_BIND_PORT);
    return info ? info->port : (unsigned)s->options.port;
}

void http_quiesce(struct server *s)
{
    MHD_socket listening = MHD_quiesce_daemon(s->http->daemon);
    if (listening != MHD_INVALID_SOCKET) close(listening);
}

void http_close(struct server *s)
{
    if (!s->http) return;
    if (s->http->daemon) MHD_stop_daemon(s->http->daemon);
    pthread_mutex_destroy(&s->http->lock);
    free(s->http);
    s->http = NULL;
}
