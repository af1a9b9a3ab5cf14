/* kvant serve: opens model, plans and template, starts the engine and HTTP, and waits for a signal. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "serve.h"

bool server_submit(struct server *s, struct job *job)
{
    pthread_mutex_lock(&s->lock);
    bool ok = !s->stopping && s->n_queued < s->options.n_queue;
    if (ok) {
        job->next = NULL;
        *s->queue_end = job;
        s->queue_end = &job->next;
        s->n_queued++;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    return ok;
}

/* ----------------------------------------------------------------------------------------------- setup -- */

/* Name of the model in the API: the alias, or the file without folder and extension. */
static void name_model(struct server *s)
{
    const char *path = s->info.path, *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    if (s->options.alias) {
        snprintf(s->name, sizeof s->name, "%.*s", (int)strcspn(s->options.alias, ","), s->options.alias);
        return;
    }
    size_t n = strlen(file);
    if (n > 5 && strcmp(file + n - 5, ".gguf") == 0) n -= 5;
    snprintf(s->name, sizeof s->name, "%.*s", (int)n, file);
}

static int add_key(struct server *s, const char *key, size_t n)
{
    while (n > 0 && strchr(" \t\r\n", key[n - 1])) n--;
    if (n == 0 || key[0] == '#') return EXIT_OK;
    if (n >= sizeof s->keys[0] || s->n_keys == (int)(sizeof s->keys / sizeof s->keys[0]))
        return fail_text("--api-key: at most %zu keys of at most %zu bytes",
                         sizeof s->keys / sizeof s->keys[0], sizeof s->keys[0] - 1);
    memcpy(s->keys[s->n_keys++], key, n);
    return EXIT_OK;
}

/* KEY[,KEY] of the flag or the environment, and lines of a file. */
static int read_keys(struct server *s)
{
    const char *given = s->options.api_key ? s->options.api_key : getenv("LLAMA_API_KEY");
    int code = EXIT_OK;
    for (const char *at = given; at && *at && code == EXIT_OK;) {
        size_t n = strcspn(at, ",");
        code = add_key(s, at, n);
        at += n + (at[n] == ',');
    }
    if (!s->options.api_key_file || code != EXIT_OK) return code;
    size_t n_bytes;
    char *text = file_read(s->options.api_key_file, &n_bytes);
    if (!text) return EXIT_FAILED;
    for (const char *at = text; *at && code == EXIT_OK;) {
        size_t n = strcspn(at, "\n");
        code = add_key(s, at, n);
        at += n + (at[n] == '\n');
    }
    free(text);
    if (code == EXIT_OK && s->n_keys == 0) return fail_text("%s: holds no key", s->options.api_key_file);
    return code;
}

static int open_template(struct server *s)
{
    struct kvant_error err;
    char *text = NULL;
    const char *source = s->options.chat_template;
    if (s->options.chat_template_file) {
        size_t n;
        source = text = file_read(s->options.chat_template_file, &n);
        if (!text) return EXIT_FAILED;
    }
    kvant_status status = kvant_template_open(&s->chat, s->model, source, &err);
    free(text);
    if (status == KVANT_OK) return EXIT_OK;
    if (source) return fail(&err);
    return fail_text(
        "the model's own %s; --chat-template chatml (or llama3, mistral, gemma, ...) uses another",
        err.message);
}

static int read_kwargs(struct server *s)
{
    json_error_t error;
    if (!s->options.kwargs) return EXIT_OK;
    s->kwargs = json_loads(s->options.kwargs, JSON_REJECT_DUPLICATES, &error);
    if (json_is_object(s->kwargs)) return EXIT_OK;
    return fail_text("--chat-template-kwargs: a JSON object is needed, such as {\"enable_thinking\": false}");
}

/* The default plan, and those of --plan NAME=SPEC. */
static int open_plans(struct server *s)
{
    char name[256];
    int code = setup_plan_sound(&s->plans[0].plan, s->model, &s->options.plan, name);
    if (code != EXIT_OK) return code;
    snprintf(s->plans[0].name, sizeof s->plans[0].name, "default");
    s->n_plans = 1;
    for (int i = 0; i < s->options.plans.n && code == EXIT_OK; i++) {
        const char *item = s->options.plans.items[i], *equals = strchr(item, '=');
        if (!equals || equals == item || (size_t)(equals - item) >= sizeof s->plans[0].name ||
            s->n_plans == SERVE_PLANS_MAX) {
            code = fail_text("--plan %s: NAME=SPEC is needed, at most %d of them", item, SERVE_PLANS_MAX - 1);
            break;
        }
        struct plan_flags flags = { .kv = equals + 1, .force = s->options.plan.force };
        snprintf(s->plans[s->n_plans].name, sizeof s->plans[0].name, "%.*s", (int)(equals - item), item);
        code = setup_plan_sound(&s->plans[s->n_plans].plan, s->model, &flags, name);
        s->n_plans += code == EXIT_OK;
    }
    return code;
}

static int check_slot_path(const struct server *s)
{
    struct stat st;
    const char *path = s->options.slot_path;
    if (!path || (stat(path, &st) == 0 && S_ISDIR(st.st_mode) && access(path, W_OK) == 0)) return EXIT_OK;
    return fail_text("--slot-save-path %s: a folder that can be written is needed", path);
}

static int open_server(struct server *s)
{
    int code = read_keys(s);
    if (code == EXIT_OK) code = check_slot_path(s);
    if (code == EXIT_OK) code = read_kwargs(s);
    if (code == EXIT_OK) code = setup_model(&s->model, &s->options.model, false);
    if (code != EXIT_OK) return code;
    kvant_model_get_info(s->model, &s->info);
    name_model(s);
    s->n_ctx = setup_context(s->model, s->options.n_ctx);
    setup_context_note(s->model, s->options.n_ctx);
    s->started_s = (int64_t)time(NULL);
    if (s->options.n_batch < s->options.n_parallel) s->options.n_batch = s->options.n_parallel;
    code = open_template(s);
    if (code == EXIT_OK) code = open_plans(s);
    if (code == EXIT_OK && s->options.think.router_path)
        code = think_router_open(&s->router, &s->modes, s->model, &s->options.think);
    if (code == EXIT_OK) code = engine_open(s);
    s->slots = allocate((size_t)s->options.n_parallel, sizeof *s->slots);
    memset(s->slots, 0, (size_t)s->options.n_parallel * sizeof *s->slots);
    return code;
}

static void close_server(struct server *s)
{
    engine_close(s);
    for (int i = 0; i < s->n_plans; i++) kvant_plan_close(s->plans[i].plan);
    kvant_template_close(s->chat);
    kvant_router_close(s->router);
    modes_close(&s->modes);
    kvant_model_close(s->model);
    json_decref(s->kwargs);
    free(s->slots);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
}

/* ------------------------------------------------------------------------------------------------- run -- */

static int wait_for_signal(struct server *s, const sigset_t *signals)
{
    for (;;) {
        const struct timespec second = { .tv_sec = 1 };
        int number = sigtimedwait(signals, NULL, &second);
        if (number > 0) return number;
        http_watch(s);
    }
}

static int run_server(struct server *s)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread: they inherit it */
    signal(SIGPIPE, SIG_IGN);
    if (pthread_create(&s->thread, NULL, engine_run, s) != 0) return fail_text("no thread for the engine");
    bool open = http_open(s);
    if (open) {
        bool six = strchr(s->options.host, ':') && s->options.host[0] != '[';
        fprintf(stderr, "kvant: %s on http://%s%s%s:%u, %lld slots of %lld tokens, cache %s\n", s->name,
                six ? "[" : "", s->options.host, six ? "]" : "", http_port(s),
                (long long)s->options.n_parallel, (long long)s->n_ctx, kvant_plan_name(s->plans[0].plan));
        wait_for_signal(s, &signals);
        fputs("kvant: stopping; answers that are being written are finished\n", stderr);
        http_quiesce(s);
    }
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    /* A second signal ends at once. But timeout(1) sends its own twice, to the process and to its group. */
    const struct timespec twice = { .tv_nsec = 200000000 };
    while (sigtimedwait(&signals, NULL, &twice) > 0) continue;
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    pthread_join(s->thread, NULL);
    if (open) {
        const struct timespec moment = { .tv_nsec = 200000000 }; /* last bytes leave */
        nanosleep(&moment, NULL);
    }
    http_close(s);
    return open ? EXIT_OK : EXIT_FAILED;
}

static const struct serve_options defaults = { .host = "127.0.0.1",
                                               .port = 8080,
                                               .n_parallel = 4,
                                               .n_batch = 512,
                                               .prompt_chunk = 128,
                                               .cache_mib = 2048,
                                               .timeout_s = 60,
                                               .n_http = 4,
                                               .body_mib = 8,
                                               .n_queue = 256,
                                               .n_predict = -1,
                                               .think = THINK_FLAGS_DEFAULT };

static enum options_result parse(struct serve_options *o, int argc, char **argv, int *code)
{
    const struct option options[] = {
        MODEL_OPTIONS(&o->model),
        { "--host", OPTION_NAME, "IP", &o->host,
          "address to listen on, IPv4 or IPv6; default 127.0.0.1, this machine alone", 0, 0 },
        { "--port", OPTION_INT, "N", &o->port, "port; 0 = any free one; default 8080", 0, 65535 },
        { "-c, --ctx-size", OPTION_INT, "N", &o->n_ctx,
          "context of each slot; 0 = the smaller of 8192 and the model's (default)", 0, 1e9 },
        { "-np, --parallel", OPTION_INT, "N", &o->n_parallel,
          "answers that are written at the same time; default 4", 1, 256 },
        { "-b, --batch-size", OPTION_INT, "N", &o->n_batch, "most tokens of one step; default 512", 1,
          65536 },
        { "--prompt-chunk", OPTION_INT, "N", &o->prompt_chunk,
          "most prompt tokens of a step while answers are being written;\nbounds how long they stand still; "
          "default 128",
          1, 65536 },
        { "-cram, --cache-ram", OPTION_INT, "MiB", &o->cache_mib,
          "memory for the beginnings of earlier requests; 0 = off,\n-1 = no limit; default 2048", -1, 1e9 },
        { "-n, --predict, --n-predict", OPTION_INT, "N", &o->n_predict,
          "most tokens of an answer that asks for no number;\n-1 = until the context is full (default)", -1,
          1e9 },
        { "-a, --alias", OPTION_NAME, "NAME", &o->alias, "name of the model in the API; default: its file's",
          0, 0 },
        { "--plan", OPTION_LIST, "NAME=SPEC", &o->plans,
          "another plan, that a request chooses by \"kv_plan\": \"NAME\"", 0, 0 },
        { "--api-key", OPTION_NAME, "KEY[,KEY]", &o->api_key,
          "keys that clients must send; also LLAMA_API_KEY", 0, 0 },
        { "--api-key-file", OPTION_NAME, "FILE", &o->api_key_file, "a key per line; # begins a comment", 0,
          0 },
        CHAT_TEMPLATE_OPTION(&o->chat_template),
        { "--chat-template-file", OPTION_NAME, "FILE", &o->chat_template_file, "a Jinja template", 0, 0 },
        { "--chat-template-kwargs", OPTION_NAME, "JSON", &o->kwargs,
          "variables for the template, unless a request sets them", 0, 0 },
        { "--router", OPTION_NAME, "FILE", &o->think.router_path,
          "what kvant router train wrote: it decides about thinking for\nrequests with \"reasoning_effort\": "
          "\"auto\"",
          0, 0 },
        THINK_OPTIONS(&o->think),
        { "--slot-save-path", OPTION_NAME, "DIR", &o->slot_path,
          "folder of saved slots; without it they cannot be saved", 0, 0 },
        { "--metrics", OPTION_FLAG, NULL, &o->metrics, "serve /metrics for Prometheus", 0, 0 },
        { "--no-slots", OPTION_FLAG, NULL, &o->no_slots, "do not serve /slots", 0, 0 },
        { "--cors-origins", OPTION_NAME, "ORIGIN[,ORIGIN]", &o->cors,
          "allow pages of these origins (or *) to ask; default: none", 0, 0 },
        { "-to, --timeout", OPTION_INT, "S", &o->timeout_s,
          "seconds that a client may take to send a request; default 60", 1, 86400 },
        { "--threads-http", OPTION_INT, "N", &o->n_http, "threads for HTTP; default 4", 1, 64 },
        { "--max-body", OPTION_INT, "MiB", &o->body_mib, "largest body of a request; default 8", 1, 1024 },
        { "--max-queue", OPTION_INT, "N", &o->n_queue, "requests that may wait for a slot; default 256", 1,
          65536 },
        { "--log-prompts", OPTION_FLAG, NULL, &o->verbose_prompts, "write prompts to the log", 0, 0 },
        PLAN_OPTIONS(&o->plan),
        FORCE_OPTION(&o->plan),
    };
    struct command_line line = {
        .command = "serve",
        .arguments = "MODEL",
        .about = "Answers over HTTP as the OpenAI API does, with a page at / for people: docs/server.md. "
                 "Requests share the\n"
                 "model in one batch, and the beginnings that they have in common. SIGTERM finishes what is "
                 "being written.",
        .examples = "  kvant serve model.gguf --port 8080 -np 8\n"
                    "  kvant serve model.gguf --kv-plan model.kvplan.yaml --plan exact=f16 --api-key SECRET",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    *code = result == OPTIONS_RUN ? setup_model_path(&line, &o->model, 0) : EXIT_USAGE;
    return result;
}

static int run(int argc, char **argv)
{
    struct server *s = allocate(1, sizeof *s);
    *s = (struct server){ .options = defaults, .queue_end = &s->queue };
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    int code;
    enum options_result result = parse(&s->options, argc, argv, &code);
    if (result == OPTIONS_HELP) {
        code = finish_output();
    } else if (code == EXIT_OK) {
        code = open_server(s);
        if (code == EXIT_OK) code = run_server(s);
    }
    close_server(s);
    free(s);
    return code;
}

const struct command command_serve = { "serve", "answer over HTTP, as the OpenAI API does", run };
