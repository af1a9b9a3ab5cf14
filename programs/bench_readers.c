/*
 * Readers beside generation: two forks of one filled sequence take turns, token by token, one of them read
 * after each of its tokens. So whatever else the machine does meets both, and the medians' ratio is what
 * reading costs.
 */
#include "bench_readers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_feed.h"
#include "json.h"
#include "progress.h"

#define WINDOW     32 /* of the router: the setting of docs/router.md */
#define LAYERS     8
#define MADE_UP    16 /* questions; what a router answers does not change its cost */
#define TOKENS_CAP 4096

enum { READER_ROUTER, READER_CONFIDENCE, READER_SCORE, READER_EMBED, READERS };
static const char *const reader_names[READERS] = { "router, each token", "confidence, each token",
                                                   "kv-coe, once at the end", "embedding, once at the end" };

struct cost {
    double plain_s, read_s; /* medians of a token without, and with what is read after it */
    double alone_s;         /* of the reading itself: a token's median, or the one call at the end */
    size_t bytes;           /* that the reader holds meanwhile */
    bool once;
};

struct readers_bench {
    const struct readers_flags *flags;
    struct kvant_model *model;
    struct kvant_model_info info;
    struct kvant_router *router;
    struct feeder feeder;
    int filled; /* sequence */
    struct cost costs[READERS];
    size_t cache_bytes;
    double *plain, *with, *alone; /* (n_generate) seconds */
    struct progress progress;
    int64_t n_done, n_total;
};

/* A router of the usual size on made-up features. */
static kvant_status make_router(struct readers_bench *b, struct kvant_error *err)
{
    struct kvant_router_options options = KVANT_ROUTER_OPTIONS_INIT;
    struct kvant_router_training report;
    float labels[MADE_UP];
    uint8_t split[MADE_UP];
    size_t dim;
    options.window = WINDOW;
    options.n_epochs = 1;
    options.pooling.layer_first = b->info.n_layer > LAYERS ? b->info.n_layer - LAYERS : 0;
    kvant_status status = kvant_embed_dim(b->model, &options.pooling, &dim, err);
    if (status != KVANT_OK) return status;
    float *features = allocate(MADE_UP * dim, sizeof *features);
    for (size_t i = 0; i < MADE_UP * dim; i++) features[i] = (float)(i * 2654435761u % 1000) * 0.002f - 1.0f;
    for (int i = 0; i < MADE_UP; i++) {
        labels[i] = i % 2 ? 100.0f : 0.0f;
        split[i] = (uint8_t)(i % 4 == 3 ? KVANT_ROUTER_VALIDATION : KVANT_ROUTER_TRAIN);
    }
    status = kvant_router_train(&b->router, b->model, features, labels, split, MADE_UP, &options, &report,
                                err);
    free(features);
    return status;
}

static kvant_status read_once(struct readers_bench *b, int reader, int seq, double *seconds,
                              struct kvant_error *err)
{
    struct kvant_coe over_tokens, over_layers;
    kvant_status status;
    double started_s = clock_s();
    if (reader == READER_SCORE) {
        status = kvant_score_sequence(b->feeder.session, seq, -b->flags->n_generate, 0, NULL, &over_tokens,
                                      &over_layers, err);
    } else {
        size_t dim, n_out;
        status = kvant_embed_dim(b->model, NULL, &dim, err);
        if (status != KVANT_OK) return status;
        float *row = allocate(dim, sizeof *row);
        started_s = clock_s();
        status = kvant_embed_sequence(b->feeder.session, seq, NULL, row, dim, &n_out, err);
        free(row);
    }
    *seconds = clock_s() - started_s;
    return status;
}

static kvant_status read_token(struct readers_bench *b, int reader, struct kvant_router_watch *watch,
                               struct kvant_confidence *sums, struct kvant_error *err)
{
    double d;
    int64_t n_window;
    if (reader == READER_ROUTER) return kvant_router_watch_next(watch, &d, &n_window, err);
    if (reader == READER_CONFIDENCE)
        kvant_confidence_add(b->model, sums, kvant_session_logits(b->feeder.session, 0), 1);
    return KVANT_OK;
}

/* n tokens of both forks in turns. */
static kvant_status take_turns(struct readers_bench *b, int reader, int plain, int with,
                               struct kvant_router_watch *watch, struct kvant_error *err)
{
    struct kvant_confidence sums = { 0 };
    kvant_status status = KVANT_OK;
    for (int64_t i = 0; i < b->flags->n_generate && status == KVANT_OK; i++) {
        for (int turn = 0; turn < 2 && status == KVANT_OK; turn++) {
            bool reads = (turn + i) % 2; /* neither always comes first */
            double started_s = clock_s();
            status = feed_each(&b->feeder, reads ? &with : &plain, 1, err);
            double stepped_s = clock_s();
            if (reads && status == KVANT_OK) status = read_token(b, reader, watch, &sums, err);
            double done_s = clock_s();
            if (reads) b->alone[i] = done_s - stepped_s;
            (reads ? b->with : b->plain)[i] = done_s - started_s;
        }
        progress_update(&b->progress, "bench readers", ++b->n_done, b->n_total);
        if (interrupted()) return KVANT_ERR_CANCELLED;
    }
    return status;
}

static kvant_status measure(struct readers_bench *b, int reader, struct kvant_error *err)
{
    struct kvant_router_watch *watch = NULL;
    struct cost *cost = &b->costs[reader];
    int64_t n = b->flags->n_generate;
    int plain = -1, with = -1;
    kvant_status status = kvant_sequence_fork(b->feeder.session, b->filled, &plain, err);
    if (status == KVANT_OK) status = kvant_sequence_fork(b->feeder.session, b->filled, &with, err);
    if (status == KVANT_OK && reader == READER_ROUTER) {
        double d;
        int64_t n_window;
        struct kvant_router_info info;
        status = kvant_router_watch_open(&watch, b->router, b->feeder.session, with, err);
        if (status == KVANT_OK)
            status = kvant_router_watch_next(watch, &d, &n_window, err); /* the prompt's window */
        kvant_router_get_info(b->router, &info);
        cost->bytes = info.bytes + info.watch_bytes;
    }
    cost->once = reader == READER_SCORE || reader == READER_EMBED;
    if (status == KVANT_OK) status = take_turns(b, reader, plain, with, watch, err);
    if (status == KVANT_OK) {
        cost->plain_s = median(b->plain, n);
        cost->read_s = median(b->with, n);
        cost->alone_s = median(b->alone, n);
        if (cost->once) status = read_once(b, reader, with, &cost->alone_s, err);
        if (cost->once) cost->read_s = cost->plain_s + cost->alone_s / (double)n;
    }
    kvant_router_watch_close(watch);
    if (plain >= 0) kvant_sequence_close(b->feeder.session, plain);
    if (with >= 0) kvant_sequence_close(b->feeder.session, with);
    return status;
}

static json_t *plan_json(const struct readers_bench *b, const char *kv)
{
    json_t *rows = json_array();
    for (int r = 0; r < READERS; r++) {
        const struct cost *c = &b->costs[r];
        json_array_append_new(
            rows, json_pack("{s:s, s:b, s:o, s:o, s:o, s:o, s:I}", "reader", reader_names[r], "once",
                            (int)c->once, "token_ms", json_number(1e3 * c->plain_s), "token_read_ms",
                            json_number(1e3 * c->read_s), "reading_ms", json_number(1e3 * c->alone_s),
                            "added", json_number(c->read_s / c->plain_s - 1), "bytes", (json_int_t)c->bytes));
    }
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:o}", "kv", kv, "depth", (json_int_t)b->flags->depth,
                     "tokens", (json_int_t)b->flags->n_generate, "cache_bytes", (json_int_t)b->cache_bytes,
                     "weights_bytes", (json_int_t)b->info.weights_bytes, "readers", rows);
}

static void print_plan(const struct readers_bench *b, const char *kv)
{
    printf("cache %s, %lld tokens of %.1f MB, answers of %lld tokens\n\n", kv, (long long)b->flags->depth,
           1e-6 * (double)b->cache_bytes, (long long)b->flags->n_generate);
    printf("| %-26s | %8s | %9s | %10s | %8s | %13s |\n", "reader", "token ms", "with ms", "reading us",
           "adds", "memory adds");
    printf("| %.26s | %.7s: | %.8s: | %.9s: | %.7s: | %.12s: |\n", "--------------------------", "--------",
           "--------", "----------", "--------", "-------------");
    for (int r = 0; r < READERS; r++) {
        const struct cost *c = &b->costs[r];
        printf("| %-26s | %8.3f | %9.3f | %10.1f | %6.2f %% | %11.3f %% |\n", reader_names[r],
               1e3 * c->plain_s, 1e3 * c->read_s, 1e6 * c->alone_s, 100 * (c->read_s / c->plain_s - 1),
               100 * (double)c->bytes / (double)(b->cache_bytes + b->info.weights_bytes));
    }
    putchar('\n');
}

static kvant_status fill(struct readers_bench *b, const struct kvant_plan *plan, struct kvant_error *err)
{
    struct kvant_sequence_stats stats;
    int64_t n = b->flags->depth;
    kvant_status status = kvant_sequence_open(b->feeder.session, plan, n + b->flags->n_generate, &b->filled,
                                              err);
    for (int64_t i = 0; i < n && status == KVANT_OK; i += PASS_TOKENS)
        status = feed_prompts(&b->feeder, &b->filled, n, i, n - i < PASS_TOKENS ? n - i : PASS_TOKENS, err);
    if (status == KVANT_OK && kvant_sequence_get_stats(b->feeder.session, b->filled, &stats) == KVANT_OK)
        b->cache_bytes = stats.cache_bytes;
    return status;
}

static int bench_plan(struct readers_bench *b, const struct kvant_plan *plan, const char *name, json_t *list)
{
    struct kvant_error err;
    b->filled = -1;
    kvant_status status = fill(b, plan, &err);
    for (int r = 0; r < READERS && status == KVANT_OK; r++) status = measure(b, r, &err);
    if (b->filled >= 0) kvant_sequence_close(b->feeder.session, b->filled);
    if (status == KVANT_ERR_CANCELLED) return fail_text("interrupted");
    if (status != KVANT_OK) return fail(&err);
    if (list)
        json_array_append_new(list, plan_json(b, name));
    else
        print_plan(b, name);
    return EXIT_OK;
}

static int bench_plans(struct readers_bench *b)
{
    struct kvant_error err;
    struct kvant_plan *plans[OPTION_LIST_CAP];
    char names[OPTION_LIST_CAP][256];
    struct kvant_session_options options = KVANT_SESSION_OPTIONS_INIT;
    json_t *list = b->flags->model->json ? json_array() : NULL;
    int n_plans = 0, code = EXIT_OK;
    options.n_sequences = 3; /* the filled one and its two forks */
    options.n_logits = 1;
    if (kvant_session_open(&b->feeder.session, b->model, &options, &err) != KVANT_OK ||
        make_router(b, &err) != KVANT_OK)
        code = fail(&err);
    if (code == EXIT_OK)
        code = setup_plans_listed(plans, names, &n_plans, b->model, b->flags->kv, b->flags->plan);
    if (code == EXIT_OK) code = feed_warm_up(&b->feeder, b->model);
    b->n_total = n_plans * READERS * b->flags->n_generate;
    progress_begin(&b->progress);
    for (int i = 0; i < n_plans && code == EXIT_OK; i++) code = bench_plan(b, plans[i], names[i], list);
    progress_end(&b->progress);
    for (int i = 0; i < n_plans; i++) kvant_plan_close(plans[i]);
    if (code != EXIT_OK) {
        json_decref(list);
        return code;
    }
    if (list)
        return json_finish(json_pack("{s:s, s:i, s:s, s:o}", "model", b->flags->model->path, "threads",
                                     b->info.n_threads, "cpu", b->info.cpu, "results", list));
    return finish_output();
}

int bench_readers(const struct readers_flags *flags)
{
    struct readers_bench b = { .flags = flags, .feeder = { .random = 1 } };
    if (flags->n_generate > TOKENS_CAP) return fail_usage("bench", "--readers: -n is at most %d", TOKENS_CAP);
    int code = setup_model(&b.model, flags->model, false);
    if (code != EXIT_OK) return code;
    kvant_model_get_info(b.model, &b.info);
    b.feeder.n_vocab = b.info.n_vocab;
    size_t n = (size_t)flags->n_generate;
    b.plain = allocate(n, sizeof *b.plain);
    b.with = allocate(n, sizeof *b.with);
    b.alone = allocate(n, sizeof *b.alone);
    interrupt_catch();
    code = bench_plans(&b);
    kvant_router_close(b.router);
    kvant_session_close(b.feeder.session);
    kvant_model_close(b.model);
    free(b.plain);
    free(b.with);
    free(b.alone);
    return code;
}
