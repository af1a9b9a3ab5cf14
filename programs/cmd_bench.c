/* kvant bench: tokens per second at several depths of the cache, for one or many sequences at once, beside
 * the read bandwidth of the machine. */
#include <stdlib.h>
#include <string.h>

#include "bench_attention.h"
#include "bench_end_to_end.h"
#include "bench_feed.h"
#include "bench_predict.h"
#include "bench_readers.h"
#include "json.h"
#include "progress.h"
#include "setup.h"

#define DEPTHS_CAP 16

struct bench_flags {
    struct model_flags model;
    struct plan_flags plan;
    struct option_list kv;
    const char *depths_text;
    double depths[DEPTHS_CAP];
    int n_depths;
    int64_t n_prompt, n_generate, n_repetitions, n_batch; /* -1: not given */
    bool attention_alone, end_to_end, predict, readers;
    struct attention_flags attention;
};

struct result {
    char kv[256], test[32];
    int64_t depth;
    double tokens_per_s;  /* of all sequences together */
    size_t cache_bytes;   /* of all sequences, each `depth` tokens long */
    double read_gb_per_s; /* weights once, each cache once per step; 0 for prompts */
};

struct bench {
    struct kvant_model *model;
    struct kvant_model_info info;
    struct feeder feeder;
    struct result *results;
    int n_results;
    double read_gb_per_s;
    int n_batch; /* sequences */
    struct progress progress;
    int64_t n_done, n_total; /* timed passes and fills, for the progress line */
};

static kvant_status feed(struct bench *b, int seq, int64_t n, struct kvant_error *err)
{
    kvant_status status = KVANT_OK;
    for (int64_t i = 0; i < n && status == KVANT_OK; i += PASS_TOKENS)
        status = feed_prompts(&b->feeder, &seq, n, i, n - i < PASS_TOKENS ? n - i : PASS_TOKENS, err);
    return status;
}

/* Seconds for n tokens after what each of the sequences holds: prompt after prompt, or one token of each at a
 * time. The sequences themselves stay as they are. */
static kvant_status time_pass(struct bench *b, const int *seqs, int64_t n, bool one_by_one, double *seconds,
                              struct kvant_error *err)
{
    int forked[BATCH_CAP], n_forked = 0;
    kvant_status status = KVANT_OK;
    while (status == KVANT_OK && n_forked < b->n_batch) {
        status = kvant_sequence_fork(b->feeder.session, seqs[n_forked], &forked[n_forked], err);
        n_forked += status == KVANT_OK;
    }
    double started_s = clock_s();
    for (int64_t i = 0; status == KVANT_OK && i < (one_by_one ? n : b->n_batch); i++)
        status = one_by_one ? feed_each(&b->feeder, forked, b->n_batch, err) : feed(b, forked[i], n, err);
    *seconds = clock_s() - started_s;
    while (n_forked > 0) kvant_sequence_close(b->feeder.session, forked[--n_forked]);
    return status;
}

static bool show_step(struct bench *b, const char *kv)
{
    char what[80];
    snprintf(what, sizeof what, "bench %.60s", kv);
    return progress_update(&b->progress, what, b->n_done++, b->n_total);
}

static int measure(struct bench *b, const struct bench_flags *flags, const struct kvant_plan *plan,
                   const char *kv, const int *seqs, int64_t depth, bool generating)
{
    struct kvant_error err;
    double seconds[REPETITIONS_CAP];
    int64_t n = generating ? flags->n_generate : flags->n_prompt;
    if (n == 0) return EXIT_OK;
    for (int64_t i = 0; i < flags->n_repetitions; i++) {
        if (!show_step(b, kv)) return fail_text("interrupted");
        if (time_pass(b, seqs, n, generating, &seconds[i], &err) != KVANT_OK) return fail(&err);
    }
    struct result *r = &b->results[b->n_results++];
    *r = (struct result){.depth = depth};
    r->tokens_per_s = (double)(n * b->n_batch) / median(seconds, flags->n_repetitions);
    for (int i = 0; i < b->n_batch; i++) {
        struct kvant_sequence_stats stats;
        if (kvant_sequence_get_stats(b->feeder.session, seqs[i], &stats) == KVANT_OK)
            r->cache_bytes += stats.cache_bytes;
    }
    snprintf(r->kv, sizeof r->kv, "%.255s", kv);
    snprintf(r->test, sizeof r->test, "%s%lld", generating ? "tg" : "pp", (long long)n);
    if (generating) {
        struct kvant_plan_memory memory;
        kvant_plan_get_memory(plan, depth + n / 2, &memory);
        double step_bytes = (double)b->info.weights_bytes + b->n_batch * (double)memory.total_bytes;
        r->read_gb_per_s = 1e-9 * r->tokens_per_s / b->n_batch * step_bytes;
    }
    return EXIT_OK;
}

/* A sequence that has read `depth` tokens of its own: no page is shared, so memory is what users take. */
static int open_filled(struct bench *b, const struct kvant_plan *plan, const char *kv, int64_t depth,
                       int64_t n_more, int *seq)
{
    struct kvant_error err;
    if (!show_step(b, kv)) return fail_text("interrupted");
    kvant_status status = kvant_sequence_open(b->feeder.session, plan, depth + n_more, seq, &err);
    if (status != KVANT_OK) return fail(&err);
    if (feed(b, *seq, depth, &err) == KVANT_OK) return EXIT_OK;
    kvant_sequence_close(b->feeder.session, *seq);
    return fail(&err);
}

static int bench_plan(struct bench *b, const struct bench_flags *flags, const struct kvant_plan *plan,
                      const char *kv)
{
    int64_t n_more = flags->n_prompt > flags->n_generate ? flags->n_prompt : flags->n_generate;
    int code = EXIT_OK;
    for (int i = 0; code == EXIT_OK && i < flags->n_depths; i++) {
        int seqs[BATCH_CAP], n_open = 0;
        int64_t depth = (int64_t)flags->depths[i];
        while (code == EXIT_OK && n_open < b->n_batch) {
            code = open_filled(b, plan, kv, depth, n_more, &seqs[n_open]);
            n_open += code == EXIT_OK;
        }
        if (code == EXIT_OK) code = measure(b, flags, plan, kv, seqs, depth, false);
        if (code == EXIT_OK) code = measure(b, flags, plan, kv, seqs, depth, true);
        while (n_open > 0) kvant_sequence_close(b->feeder.session, seqs[--n_open]);
    }
    return code;
}

static int report_json(const struct bench *b, const struct bench_flags *flags)
{
    json_t *results = json_array();
    for (int i = 0; i < b->n_results; i++) {
        const struct result *r = &b->results[i];
        json_array_append_new(results,
                              json_pack("{s:s, s:s, s:I, s:i, s:o, s:I, s:I}", "kv", r->kv, "test", r->test,
                                        "depth", (json_int_t)r->depth, "batch", b->n_batch, "tokens_per_s",
                                        json_number(r->tokens_per_s), "cache_bytes",
                                        (json_int_t)r->cache_bytes, "n", (json_int_t)flags->n_repetitions));
    }
    return json_finish(json_pack("{s:{s:i, s:o, s:s, s:s}, s:s, s:o}", "machine", "threads",
                                 b->info.n_threads, "read_gb_per_s", json_number(b->read_gb_per_s), "cpu",
                                 b->info.cpu, "act", kvant_act_name(b->info.act), "model", flags->model.path,
                                 "results", results));
}

static int report_text(const struct bench *b)
{
    printf("%s %s, %d threads, %s, read bandwidth %.1f GB/s\n\n", b->info.architecture, b->info.quantization,
           b->info.n_threads, b->info.cpu, b->read_gb_per_s);
    printf("| %-24s | %-16s | %12s | %12s |\n", "kv", "test", "tokens/s", "of bandwidth");
    printf("| %.24s | %.16s | %.11s: | %.11s: |\n", "------------------------", "----------------",
           "------------", "------------");
    for (int i = 0; i < b->n_results; i++) {
        const struct result *r = &b->results[i];
        char test[96], depth[32] = "", share[32] = "", batch[16] = "";
        if (b->n_batch > 1) snprintf(batch, sizeof batch, " x%d", b->n_batch);
        if (r->depth > 0) snprintf(depth, sizeof depth, " @ d%lld", (long long)r->depth);
        snprintf(test, sizeof test, "%s%s%s", r->test, batch, depth);
        if (r->read_gb_per_s > 0 && b->read_gb_per_s > 0)
            snprintf(share, sizeof share, "%.0f %%", 100.0 * r->read_gb_per_s / b->read_gb_per_s);
        printf("| %-24s | %-16s | %12.2f | %12s |\n", r->kv, test, r->tokens_per_s, share);
    }
    return finish_output();
}

static int bench_all(struct bench *b, const struct bench_flags *flags)
{
    struct kvant_error err;
    struct kvant_plan *plans[OPTION_LIST_CAP];
    char names[OPTION_LIST_CAP][256];
    struct kvant_session_options options = KVANT_SESSION_OPTIONS_INIT;
    options.n_sequences = 2 * b->n_batch; /* each one filled, and its fork that is measured */
    options.n_logits = b->n_batch;
    if (kvant_session_open(&b->feeder.session, b->model, &options, &err) != KVANT_OK) return fail(&err);
    int n_plans;
    int code = setup_plans_listed(plans, names, &n_plans, b->model, &flags->kv, &flags->plan);
    if (code == EXIT_OK) code = feed_warm_up(&b->feeder, b->model);
    int n_tests = (flags->n_prompt > 0) + (flags->n_generate > 0);
    b->n_total = n_plans * flags->n_depths * (b->n_batch + flags->n_repetitions * n_tests);
    b->results = allocate((size_t)(2 * n_plans * flags->n_depths), sizeof *b->results);
    for (int i = 0; i < n_plans && code == EXIT_OK; i++) code = bench_plan(b, flags, plans[i], names[i]);
    for (int i = 0; i < n_plans; i++) kvant_plan_close(plans[i]);
    return code;
}

static int execute(const struct bench_flags *flags)
{
    struct bench b = {.feeder = {.random = 1}, .n_batch = (int)flags->n_batch};
    int code = setup_model(&b.model, &flags->model, false);
    if (code != EXIT_OK) return code;
    kvant_model_get_info(b.model, &b.info);
    b.feeder.n_vocab = b.info.n_vocab;
    b.read_gb_per_s = kvant_machine_read_gb_per_s(b.model);
    interrupt_catch();
    progress_begin(&b.progress);
    code = bench_all(&b, flags);
    progress_end(&b.progress);
    if (code == EXIT_OK) code = flags->model.json ? report_json(&b, flags) : report_text(&b);
    kvant_session_close(b.feeder.session);
    kvant_model_close(b.model);
    free(b.results);
    return code;
}

/* Flags of the other mode would be ignored: they are refused instead. */
static int run_attention(struct bench_flags *f, bool has_arguments)
{
    if (has_arguments || f->model.path) return fail_usage("bench", "--attention needs no model");
    if (f->n_prompt >= 0 || f->n_generate >= 0 || f->n_batch >= 0 || f->depths_text || f->plan.kv_plan ||
        f->model.act)
        return fail_usage("bench",
                          "-p, -n, -d, --batch, --kv-plan and --act have no meaning with --attention");
    f->attention.kv = &f->kv;
    f->attention.model = &f->model;
    f->attention.n_rounds = f->n_repetitions > 0 ? f->n_repetitions : 0;
    return bench_attention(&f->attention);
}

static int run_end_to_end(const struct bench_flags *f)
{
    const struct end_to_end_flags flags = {.n_batch = f->n_batch,
                                           .n_prompt = f->n_prompt,
                                           .n_generate = f->n_generate,
                                           .n_repetitions = f->n_repetitions,
                                           .kv = &f->kv,
                                           .plan = &f->plan,
                                           .model = &f->model};
    return bench_end_to_end(&flags);
}

static int run_predict(const struct bench_flags *f)
{
    const struct predict_flags flags = {.depths_text = f->depths_text,
                                        .kv = &f->kv,
                                        .plan = &f->plan,
                                        .model = &f->model};
    if (f->n_prompt >= 0 || f->n_generate >= 0 || f->n_batch >= 0 || f->n_repetitions >= 0)
        return fail_usage("bench", "-p, -n, -r and --batch have no meaning with --predict");
    return bench_predict(&flags);
}

static int run_readers(struct bench_flags *f)
{
    if (f->depths_text) f->n_depths = numbers_parse(f->depths_text, 0, 1e7, f->depths, DEPTHS_CAP);
    const struct readers_flags flags = {.n_generate = f->n_generate > 0 ? f->n_generate : 128,
                                        .depth = f->n_depths == 1 ? (int64_t)f->depths[0] : 1024,
                                        .kv = &f->kv,
                                        .plan = &f->plan,
                                        .model = &f->model};
    if (f->n_prompt >= 0 || f->n_batch >= 0 || f->n_repetitions >= 0)
        return fail_usage("bench", "-p, -r and --batch have no meaning with --readers");
    if (f->depths_text && (f->n_depths != 1 || f->depths[0] < 1))
        return fail_usage("bench", "--readers takes one depth of at least 1, such as -d 1024");
    return bench_readers(&flags);
}

/* -p, -n, -d, --batch and -r of the plain measurement and of --end-to-end. */
static int run_measured(struct bench_flags *f)
{
    if (f->n_prompt < 0) f->n_prompt = 512;
    if (f->n_generate < 0) f->n_generate = 32;
    if (f->n_repetitions < 0) f->n_repetitions = f->end_to_end ? 1 : 3;
    if (f->n_batch < 0) f->n_batch = 1;
    if (f->end_to_end && f->depths_text)
        return fail_usage("bench", "-d has no meaning with --end-to-end, which begins with empty caches");
    if (!f->depths_text) f->depths_text = "0,4096";
    f->n_depths = numbers_parse(f->depths_text, 0, 1e7, f->depths, DEPTHS_CAP);
    if (f->n_depths < 0)
        return fail_usage("bench", "-d: '%s' is not a list of at most %d depths such as 0,4096",
                          f->depths_text, DEPTHS_CAP);
    if (f->n_prompt == 0 && f->n_generate == 0)
        return fail_usage("bench", "-p 0 -n 0 leaves nothing to measure");
    return f->end_to_end ? run_end_to_end(f) : execute(f);
}

static int run_mode(struct bench_flags *f, struct command_line *line)
{
    const struct attention_flags *a = &f->attention;
    if (f->attention_alone + f->end_to_end + f->predict + f->readers > 1)
        return fail_usage("bench",
                          "--attention, --end-to-end, --predict and --readers are modes; give one of them");
    if (f->attention_alone) return run_attention(f, line->positional.n > 0);
    if (a->n_heads || a->n_kv_heads || a->head_dim || a->tokens_text || a->quick)
        return fail_usage("bench", "--heads, --kv-heads, --head-dim, --tokens and --quick need --attention");
    int code = setup_model_path(line, &f->model, 0);
    if (code != EXIT_OK) return code;
    if (f->predict) return run_predict(f);
    return f->readers ? run_readers(f) : run_measured(f);
}

static int run(int argc, char **argv)
{
    struct bench_flags f = {.n_prompt = -1, .n_generate = -1, .n_repetitions = -1, .n_batch = -1};
    const struct option options[] = {
        MODEL_OPTIONS(&f.model),
        { "-p, --n-prompt", OPTION_INT, "N", &f.n_prompt, "tokens of the prompt test; 0 = none, default 512",
          0, 1e6 },
        { "-n, --n-gen", OPTION_INT, "N", &f.n_generate,
          "tokens of the generation test; 0 = none, default 32", 0, 1e6 },
        { "-d, --n-depth", OPTION_TEXT, "N,...", &f.depths_text,
          "tokens that are in the cache before; default 0,4096", 0, 0 },
        { "-b, --batch", OPTION_INT, "N", &f.n_batch,
          "sequences at once, each with a prompt of its own;\ndefault 1", 1, BATCH_CAP },
        { "-r, --repetitions", OPTION_INT, "N", &f.n_repetitions,
          "of each test, the median counts; default 3, with\n--attention 7, with --end-to-end 1", 1,
          REPETITIONS_CAP },
        PLAN_LIST_OPTIONS(&f.kv, &f.plan),
        { "--end-to-end", OPTION_FLAG, NULL, &f.end_to_end,
          "from empty caches: each sequence reads -p tokens, then\nall generate -n; no -d", 0, 0 },
        { "--predict", OPTION_FLAG, NULL, &f.predict,
          "no filled caches: generation at each depth of -d,\ndefault 4096,16384,32768, from times of its "
          "parts",
          0, 0 },
        { "--readers", OPTION_FLAG, NULL, &f.readers,
          "what router, confidence and embedding add to a generated\ntoken; -d one depth, default 1024, -n "
          "128",
          0, 0 },
        { "--attention", OPTION_FLAG, NULL, &f.attention_alone, "one layer's attention alone; no MODEL", 0,
          0 },
        { "--heads", OPTION_INT, "N", &f.attention.n_heads, "with --attention: query heads, default 32", 1,
          1024 },
        { "--kv-heads", OPTION_INT, "N", &f.attention.n_kv_heads, "likewise: KV heads, default 8", 1, 1024 },
        { "--head-dim", OPTION_INT, "N", &f.attention.head_dim, "likewise: channels of a head, default 128",
          8, 256 },
        { "--tokens", OPTION_TEXT, "N,...", &f.attention.tokens_text,
          "likewise: lengths of the cache, default 4096,32768", 0, 0 },
        { "--quick", OPTION_FLAG, NULL, &f.attention.quick, "likewise: fewer rounds, so that it ends in 40 s",
          0, 0 },
    };
    struct command_line line = {
        .command = "bench",
        .arguments = "MODEL|--attention",
        .about =
            "Measures tokens per second for prompts (pp) and generation (tg) at several depths of the\n"
            "cache, as llama-bench does. `of bandwidth`: weights and cache read once per generated token,\n"
            "as a part of what this machine can read, measured in the same run.\n\n"
            "--batch: tokens per second of N sequences together. Each reads a prompt of its own first (not\n"
            "timed): forks of one prompt would share its pages, and so take and read the memory of one.\n\n"
            "--end-to-end: N users from the first token to the last, with the encoding of their caches.\n"
            "Tokens per second are those of all prompts and answers, over the seconds of both.\n\n"
            "--predict: half a minute for any number of plans and depths; a token at depth 0, and attention\n"
            "of each width alone, are measured and added up.\n\n"
            "--readers: two copies of a sequence generate in turns, token by token, one of them read after\n"
            "each token or once at the end; medians.\n\n"
            "--attention: milliseconds of one layer's attention over random rows, for one token (decode)\n"
            "and for the last 512 tokens of a prompt (prefill). `bytes`: of the cache, each read once.",
        .examples = "  kvant bench model.gguf --kv f16 --kv k8v8 --kv k3c64v2h\n"
                    "  kvant bench model.gguf -p 0 -n 64 -d 4096,16384 -r 5 --json\n"
                    "  kvant bench model.gguf -p 0 --batch 4 -d 1024 --kv k8v8 --kv k3c64v2h\n"
                    "  kvant bench model.gguf --end-to-end --batch 8 -p 256 -n 32 --kv k8v8 --kv k4v4\n"
                    "  kvant bench model.gguf --predict --kv f16 --kv k3c64v2h\n"
                    "  kvant bench model.gguf --readers -d 1024 --kv f16 --kv k3c64v2h\n"
                    "  kvant bench --attention --tokens 4096 --kv f16 --kv k4v4",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    return run_mode(&f, &line);
}

const struct command command_bench = {"bench", "measure tokens per second at several depths", run};
