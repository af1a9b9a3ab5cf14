/*
 * Any bytes as the body of a request: the first says of which endpoint, the rest is the body. What is
 * accepted is answered by the engine itself, on a tiny model, in this thread; the answer must be whole JSON
 * (or a whole stream of it), and no slot may stay busy.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "programs/serve.h"
#include "support/tiny_gguf.h"

static const char chat_template[] =
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}\n{% endfor %}<assistant>"
    "{% if enable_thinking %}<think>{% endif %}";

#define need(ok) need_((ok), #ok, __LINE__)
static void need_(bool ok, const char *text, int line)
{
    if (ok) return;
    fprintf(stderr, "line %d: %s\n", line, text);
    abort();
}

static struct server *open_server(void)
{
    struct server *s = calloc(1, sizeof *s);
    char path[] = "/tmp/kvant-fuzz-XXXXXX";
    struct tiny_gguf_options tiny = { .arch = "llama", .seed = 1, .weight_type = TINY_F32 };
    struct kvant_model_options options = KVANT_MODEL_OPTIONS_INIT;
    int fd = mkstemp(path);
    need(s && fd >= 0);
    close(fd);
    options.n_threads = 1;
    need(tiny_gguf_write(path, &tiny, NULL) == KVANT_OK);
    need(kvant_model_open(&s->model, path, &options, NULL) == KVANT_OK);
    unlink(path);
    kvant_model_get_info(s->model, &s->info);
    s->options = (struct serve_options){ .n_parallel = 2,
                                         .n_batch = 32,
                                         .prompt_chunk = 16,
                                         .cache_mib = 1,
                                         .n_queue = 4,
                                         .n_predict = 4,
                                         .think = THINK_FLAGS_DEFAULT };
    s->n_ctx = 96;
    need(kvant_template_open(&s->chat, s->model, chat_template, NULL) == KVANT_OK);
    need(kvant_plan_open(&s->plans[0].plan, s->model, "k4c64v4h", NULL) == KVANT_OK);
    need(kvant_plan_open(&s->plans[1].plan, s->model, "f16", NULL) == KVANT_OK);
    strcpy(s->plans[0].name, "default");
    strcpy(s->plans[1].name, "exact");
    strcpy(s->name, "tiny");
    s->n_plans = 2;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    s->queue_end = &s->queue;
    s->slots = calloc(2, sizeof *s->slots);
    need(s->slots && engine_open(s) == 0);
    return s;
}

static void check_json(const char *text, size_t n)
{
    json_t *value = json_loadb(text, n, JSON_ALLOW_NUL, NULL);
    need(json_is_object(value));
    json_decref(value);
}

static void check_answer(const struct job *job)
{
    const char *at = job->out, *end = at + job->n_out;
    need(job->finished && job->n_out > 0);
    if (!job->request.stream) {
        check_json(at, job->n_out);
        return;
    }
    while (at < end) {
        const char *stop = memmem(at, (size_t)(end - at), "\n\n", 2);
        need(stop && stop - at > 6 && memcmp(at, "data: ", 6) == 0);
        if (stop - at != 12 || memcmp(at, "data: [DONE]", 12) != 0)
            check_json(at + 6, (size_t)(stop - at) - 6);
        at = stop + 2;
    }
}

static void check_request(const struct server *s, const struct request *r)
{
    need(r->n_prompts > 0 && r->plan < s->n_plans);
    for (int i = 0; i < r->n_prompts; i++) {
        need(r->prompt_lengths[i] > 0 && r->prompt_lengths[i] <= (size_t)s->n_ctx);
        for (size_t k = 0; k < r->prompt_lengths[i]; k++)
            need(r->prompts[i][k] >= 0 && r->prompts[i][k] < s->info.n_vocab);
    }
}

/* The engine runs until nothing is left, as it does when a server stops. */
static void answer(struct server *s, enum api_kind kind, const json_t *body)
{
    struct api_error e = { 0 };
    struct job *job = job_open(JOB_ANSWER);
    need(job != NULL);
    if (request_read(s, kind, body, &job->request, &e)) {
        check_request(s, &job->request);
        if (job->request.n_predict > 4) job->request.n_predict = 4;
        if (job->request.n_prompts > 8) job->request.n_prompts = 8;
        s->stopping = false;
        need(server_submit(s, job));
        s->stopping = true;
        engine_run(s);
        check_answer(job);
        need(s->metrics.n_processing == 0 && !s->queue && !s->slots[0].busy && !s->slots[1].busy);
    } else {
        need(e.status >= 400 && e.message[0]);
        job_release(job);
    }
    job_release(job);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct server *s; /* opened once; it stays reachable until the end */
    struct api_error e = { 0 };
    json_t *out = NULL;
    if (!s) s = open_server();
    if (size < 2 || size > 1 << 16) return 0;
    json_t *body = api_parse((const char *)data + 1, size - 1, &e);
    if (!body) {
        need(e.status == 400);
        return 0;
    }
    bool ok = true, told = true;
    switch (data[0] % 8) {
    case 4: ok = api_tokenize(s, body, &out, &e); break;
    case 5: ok = api_detokenize(s, body, &out, &e); break;
    case 6: ok = api_apply_template(s, body, &out, &e); break;
    case 7: {
        const char *name = api_file_name(body, &e);
        need(name ? !strchr(name, '/') && name[0] != '.' : e.status == 400);
        told = false;
        break;
    }
    default: answer(s, (enum api_kind)(data[0] % 8), body); told = false;
    }
    if (told) need(ok ? json_is_object(out) : e.status >= 400);
    json_decref(out);
    json_decref(body);
    return 0;
}
