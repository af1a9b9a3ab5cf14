/*
 * kvant serve: what its files share.
 *
 *   HTTP threads (libmicrohttpd)                       engine thread (owns session, sequences, samplers)
 *   serve_http: connection, route
 *     serve_api: JSON -> struct request  --- queue --> serve_engine: lanes, one step after the other
 *                                                        serve_answer: text -> JSON
 *   serve_http: bytes to the client  <- struct job ----- under the job's own lock
 *
 * A job belongs to two: its connection and the engine; whoever lets go last frees it. The engine never waits
 * for a client: a connection with nothing to send is suspended, and resumed when there is something.
 */
#ifndef SERVE_H
#define SERVE_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#include "setup.h"
#include "think.h"

#define SERVE_STOPS_MAX   16
#define SERVE_CHOICES_MAX 128 /* answers of one request, all prompts together; OpenAI's limit of n */
#define SERVE_TOP_MAX     20
#define SERVE_BIAS_MAX    512
#define SERVE_PLANS_MAX   16
#define SERVE_TEXTS_MAX   2048 /* to embed, in one request; OpenAI's limit */

/* ---------------------------------------------------------------------------------------------- errors -- */

struct api_error {
    int status;            /* of HTTP                                                   */
    const char *type;      /* "invalid_request_error", ...: static                      */
    const char *parameter; /* the field that is wrong, or NULL: static                  */
    char message[768];
    int64_t n_prompt_tokens, n_ctx; /* of exceed_context_size_error, else 0              */
};
/* Fills *e and returns false, so that it can stand in a return statement. */
bool api_fail(struct api_error *e, int status, const char *type, const char *parameter, const char *format,
              ...) __attribute__((format(printf, 5, 6)));
#define API_BAD(e, parameter, ...) api_fail((e), 400, "invalid_request_error", (parameter), __VA_ARGS__)
/* From an error of the library: arguments and formats are the client's fault. */
bool api_fail_library(struct api_error *e, const struct kvant_error *err);
/* {"error": {...}}; owned by the caller. */
json_t *api_error_json(const struct api_error *e);

/* -------------------------------------------------------------------------------------------- requests -- */

enum api_kind { API_CHAT, API_TEXT, API_NATIVE, API_EMBED };

/* How an answer begins: as the template has it, as the router decides, or in a mode of the router's that was
 * asked for. */
enum think_route { ROUTE_NONE, ROUTE_AUTO, ROUTE_FAST, ROUTE_SLOW };

struct request {
    enum api_kind kind;
    char id[48];
    int64_t created;
    bool stream, include_usage, echo, logprobs, ignore_eos, wants_confidence, cache_prompt, return_tokens;
    int n_top;     /* alternatives per token                                     */
    int n_choices; /* per prompt                                                 */
    int n_prompts;
    kvant_token **prompts; /* (n_prompts), each of prompt_lengths[i] tokens              */
    size_t *prompt_lengths;
    char *prompt_text;               /* of the first, for the native answer                        */
    char *echoes[SERVE_CHOICES_MAX]; /* (n_prompts) their texts, with echo                    */
    int64_t n_predict; /* -1: until the context is full                              */
    struct kvant_sampler_options sampler;
    float presence_penalty, frequency_penalty;
    struct {
        kvant_token token;
        float bias;
    } bias[SERVE_BIAS_MAX];
    int n_bias;
    char *stops[SERVE_STOPS_MAX];
    int n_stops;
    int plan;               /* index into the server's plans                              */
    bool thinking;          /* the answer begins inside of <think>                        */
    bool split_thinking;    /* thoughts go to reasoning_content                           */
    const char *think_mode; /* "on", "off", "auto", "template": for think_decision; static */
    enum think_route route;
    bool wants_json;          /* the content is a JSON object                              */
    bool has_tools, one_call; /* at most one call of a tool                                */
    bool as_base64; /* vectors, instead of numbers                               */
};
void request_close(struct request *r);

/* ------------------------------------------------------------------------------------------------ jobs -- */

enum job_kind { JOB_ANSWER, JOB_SLOT_SAVE, JOB_SLOT_RESTORE, JOB_SLOT_ERASE };

struct job {
    struct job *next; /* in the queue: under the server's lock                      */
    enum job_kind kind;
    struct request request; /* of JOB_ANSWER                                              */
    int slot;               /* of the others                                              */
    char *path, *name;      /* file to save to, restore from                              */
    double arrived_s;

    struct {             /* of the engine alone                                        */
        int n_left;      /* answers that are not finished                              */
        json_t *choices; /* finished ones, when the answer is not streamed             */
        int64_t n_prompt, n_cached, n_predicted, n_thought;
        double started_s;
        int n_begun; /* of answers, or of texts to embed                           */
        char **rows; /* (n_prompts) their vectors as JSON, NULL: not there yet      */
    } state;

    pthread_mutex_t lock;              /* guards what follows                                        */
    int n_holders;                     /* 2, then 1                                                  */
    struct MHD_Connection *connection; /* NULL after the client is gone                           */
    int fd;
    bool suspended, finished;
    atomic_bool cancelled;
    int status; /* of the answer that is not streamed                         */
    double sent_s; /* last bytes for the client */
    char *out;
    size_t n_out, n_taken, cap_out;
};

struct job *job_open(enum job_kind kind);
/* One holder lets go. */
void job_release(struct job *job);
/* From the engine: bytes for the client, and that no more will come. Wakes the connection. */
void job_put(struct job *job, const char *bytes, size_t n_bytes);
void job_finish(struct job *job, int status);
/* A stream that has been silent for so long gets a comment, so that nobody in between takes it for dead. */
void job_ping(struct job *job, double silence_s);
/* Answers with JSON and finishes; the value is released. */
void job_finish_json(struct job *job, int status, json_t *value);
void job_finish_error(struct job *job, const struct api_error *e);

/* ---------------------------------------------------------------------------------------------- server -- */

struct serve_options {
    const char *host, *alias, *slot_path, *api_key, *api_key_file, *chat_template, *chat_template_file, *cors,
        *kwargs;
    int64_t port, n_ctx, n_parallel, n_batch, prompt_chunk, cache_mib, timeout_s, n_http, body_mib, n_queue,
        n_predict;
    bool no_slots, metrics, verbose_prompts;
    struct option_list plans; /* NAME=SPEC */
    struct model_flags model;
    struct plan_flags plan;
    struct think_flags think; /* with router_path */
};

struct slot_view { /* what /slots tells, written by the engine between steps */
    bool busy;
    char id[48];
    int64_t n_prompt, n_cached, n_done, n_decoded, n_remain, n_held;
    const char *plan;
    double true_bits;
    int64_t bytes;
};

struct metrics { /* under the server's lock */
    int64_t n_requests, n_errors, n_cancelled, prompt_tokens, cached_tokens, predicted_tokens, n_steps,
        busy_slot_steps;
    int64_t n_tokens_max, cache_bytes, n_prefixes;
    double prompt_s, predicted_s;
    int n_processing, n_deferred;
};

struct server {
    struct serve_options options;
    struct kvant_model *model;
    struct kvant_model_info info;
    struct kvant_template *chat;
    struct kvant_router *router; /* NULL: none is there                                       */
    struct modes modes;          /* of the router                                             */
    json_t *kwargs; /* defaults of chat_template_kwargs, or NULL                 */
    struct {
        char name[64];
        struct kvant_plan *plan;
    } plans[SERVE_PLANS_MAX];
    int n_plans;
    char name[256]; /* of the model, in the API                                  */
    char keys[16][128];
    int n_keys;
    int64_t n_ctx, started_s;

    pthread_mutex_t lock; /* guards the queue, `stopping`, metrics and slots           */
    pthread_cond_t wake;
    struct job *queue, **queue_end;
    int n_queued;
    bool stopping;
    struct metrics metrics;
    struct slot_view *slots; /* (n_parallel)                                              */
    struct engine *engine;
    pthread_t thread;
    struct http *http; /* NULL: not open */
};

/* Puts a job into the queue. False: the queue is full or the server is stopping. */
bool server_submit(struct server *s, struct job *job);

/* serve_engine.c */
int engine_open(struct server *s);
void engine_close(struct server *s); /* after the thread has ended */
void *engine_run(void *server);      /* until `stopping` and nothing is left to do */

/* serve_api.c: from bodies to requests, and the endpoints that need no engine. */
json_t *api_parse(const char *bytes, size_t n, struct api_error *e); /* NULL after a failure */
/* The name of a slot's file, borrowed: a plain one, nothing that could leave the folder. NULL after a
 * failure. */
const char *api_file_name(const json_t *body, struct api_error *e);
bool request_read(struct server *s, enum api_kind kind, const json_t *body, struct request *r,
                  struct api_error *e);
json_t *api_props(struct server *s);
json_t *api_models(struct server *s);
json_t *api_model(struct server *s, const char *name); /* NULL: there is none of this name */
json_t *api_slots(struct server *s);
char *api_metrics(struct server *s); /* free() */
bool api_tokenize(struct server *s, const json_t *body, json_t **out, struct api_error *e);
bool api_detokenize(struct server *s, const json_t *body, json_t **out, struct api_error *e);
bool api_apply_template(struct server *s, const json_t *body, json_t **out, struct api_error *e);

/* serve_http.c */
bool http_open(struct server *s); /* false after a message on stderr */
unsigned http_port(const struct server *s);
/* Closes connections whose request has been arriving for too long, and cancels jobs whose client is gone. */
void http_watch(struct server *s);
void http_quiesce(struct server *s); /* no new connections; those that are there go on */
void http_close(struct server *s);
bool job_client_gone(struct job *job);

/* serve_page.c */
extern const char serve_page[];

#endif
