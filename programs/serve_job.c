/* Jobs: what the engine and a connection share. */
#include <errno.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "json.h"
#include "serve.h"

bool api_fail(struct api_error *e, int status, const char *type, const char *parameter, const char *format,
              ...)
{
    va_list args;
    *e = (struct api_error){ .status = status, .type = type, .parameter = parameter };
    va_start(args, format);
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    return false;
}

bool api_fail_library(struct api_error *e, const struct kvant_error *err)
{
    switch (err->status) {
    case KVANT_ERR_ARGUMENT:
    case KVANT_ERR_FORMAT:
    case KVANT_ERR_MISMATCH: return api_fail(e, 400, "invalid_request_error", NULL, "%s", err->message);
    case KVANT_ERR_UNSUPPORTED: return api_fail(e, 501, "not_supported_error", NULL, "%s", err->message);
    case KVANT_ERR_FULL: return api_fail(e, 503, "unavailable_error", NULL, "%s", err->message);
    default: return api_fail(e, 500, "server_error", NULL, "%s", err->message);
    }
}

json_t *api_error_json(const struct api_error *e)
{
    json_t *body = json_pack("{s:i, s:o, s:s, s:s?}", "code", e->status, "message",
                             json_text(e->message, strlen(e->message)), "type", e->type, "param",
                             e->parameter);
    if (body && e->n_ctx) {
        json_object_set_new(body, "n_prompt_tokens", json_integer(e->n_prompt_tokens));
        json_object_set_new(body, "n_ctx", json_integer(e->n_ctx));
    }
    return json_pack("{s:o}", "error", body);
}

void request_close(struct request *r)
{
    for (int i = 0; i < r->n_prompts; i++) free(r->prompts[i]);
    free(r->prompts);
    free(r->prompt_lengths);
    free(r->prompt_text);
    for (int i = 0; i < SERVE_CHOICES_MAX; i++) free(r->echoes[i]);
    for (int i = 0; i < r->n_stops; i++) free(r->stops[i]);
    *r = (struct request){ 0 };
}

struct job *job_open(enum job_kind kind)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job) return NULL;
    job->kind = kind;
    job->n_holders = 2;
    job->fd = -1;
    job->arrived_s = job->sent_s = clock_s();
    pthread_mutex_init(&job->lock, NULL);
    return job;
}

void job_release(struct job *job)
{
    pthread_mutex_lock(&job->lock);
    bool last = --job->n_holders == 0;
    pthread_mutex_unlock(&job->lock);
    if (!last) return;
    pthread_mutex_destroy(&job->lock);
    for (int i = 0; job->state.rows && i < job->request.n_prompts; i++) free(job->state.rows[i]);
    free(job->state.rows);
    request_close(&job->request);
    json_decref(job->state.choices);
    free(job->path);
    free(job->name);
    free(job->out);
    free(job);
}

/* The caller holds the lock. */
static void wake(struct job *job)
{
    if (!job->suspended) return;
    job->suspended = false;
    if (job->connection) MHD_resume_connection(job->connection);
}

void job_put(struct job *job, const char *bytes, size_t n_bytes)
{
    pthread_mutex_lock(&job->lock);
    job->sent_s = clock_s();
    if (job->n_taken == job->n_out) job->n_taken = job->n_out = 0;
    if (n_bytes > job->cap_out - job->n_out) {
        size_t cap = 2 * job->cap_out + n_bytes + 4096;
        char *out = realloc(job->out, cap);
        if (!out)
            job->cancelled = true;
        else {
            job->out = out;
            job->cap_out = cap;
        }
    }
    if (n_bytes <= job->cap_out - job->n_out) {
        memcpy(job->out + job->n_out, bytes, n_bytes);
        job->n_out += n_bytes;
    }
    if (job->kind == JOB_ANSWER && job->request.stream) wake(job); /* others wait for the whole */
    pthread_mutex_unlock(&job->lock);
}

void job_ping(struct job *job, double silence_s)
{
    pthread_mutex_lock(&job->lock);
    bool silent = job->request.stream && clock_s() - job->sent_s > silence_s;
    pthread_mutex_unlock(&job->lock);
    if (silent) job_put(job, ": ping\n\n", 8);
}

void job_finish(struct job *job, int status)
{
    pthread_mutex_lock(&job->lock);
    job->finished = true;
    job->status = status;
    wake(job);
    pthread_mutex_unlock(&job->lock);
}

void job_finish_json(struct job *job, int status, json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(value);
    if (!text) {
        static const char failed[] =
            "{\"error\":{\"code\":500,\"message\":\"out of memory\",\"type\":\"server_error\"}}";
        job_put(job, failed, sizeof failed - 1);
        job_finish(job, 500);
        return;
    }
    job_put(job, text, strlen(text));
    free(text);
    job_finish(job, status);
}

void job_finish_error(struct job *job, const struct api_error *e)
{
    if (job->kind != JOB_ANSWER || !job->request.stream) {
        job_finish_json(job, e->status, api_error_json(e));
        return;
    }
    json_t *value = api_error_json(e); /* the status went out already: an event, and the end */
    char *text = json_dumps(value, JSON_COMPACT);
    json_decref(value);
    if (text) {
        job_put(job, "data: ", 6);
        job_put(job, text, strlen(text));
        job_put(job, "\n\n", 2);
    }
    free(text);
    job_finish(job, e->status);
}

/* A suspended connection is not watched by the HTTP threads: ask its socket. */
bool job_client_gone(struct job *job)
{
    char byte;
    bool gone = job->cancelled;
    pthread_mutex_lock(&job->lock);
    if (!gone && job->suspended && job->fd >= 0) {
        ssize_t n = recv(job->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        gone = n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
        if (gone) {
            job->cancelled = true;
            wake(job);
        }
    }
    pthread_mutex_unlock(&job->lock);
    return gone;
}
