/* End to end: every sequence reads a prompt of its own, then all generate, one token of each in a step. */
#include "bench_end_to_end.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_feed.h"
#include "json.h"
#include "progress.h"

struct measured {
    double prompt_s[REPETITIONS_CAP], generation_s[REPETITIONS_CAP];
    size_t cache_bytes; /* of all sequences at the end */
};

struct end_to_end {
    const struct end_to_end_flags *flags;
    struct kvant_model *model;
    struct kvant_model_info info;
    struct feeder feeder;
    struct kvant_plan *plans[OPTION_LIST_CAP];
    char names[OPTION_LIST_CAP][256];
    struct measured *measured; /* (n_plans) */
    int n_plans;
    struct progress progress;
    int64_t n_done, n_total; /* tokens, for the progress line */
    size_t peak_bytes;       /* 0: this system does not tell */
    double read_gb_per_s;
};

/* Medians, and the rates that follow from them: NaN for a part that was left out. */
struct rates {
    double prompt_s, generation_s, prompt_tokens_per_s, generation_tokens_per_s, tokens_per_s;
};

static struct rates rates_of(const struct end_to_end *e, int plan)
{
    const struct end_to_end_flags *f = e->flags;
    struct measured *m = &e->measured[plan];
    double n_prompt = (double)(f->n_batch * f->n_prompt), n_generate = (double)(f->n_batch * f->n_generate);
    struct rates r = { .prompt_s = median(m->prompt_s, f->n_repetitions),
                       .generation_s = median(m->generation_s, f->n_repetitions) };
    r.prompt_tokens_per_s = n_prompt > 0 ? n_prompt / r.prompt_s : NAN;
    r.generation_tokens_per_s = n_generate > 0 ? n_generate / r.generation_s : NAN;
    r.tokens_per_s = (n_prompt + n_generate) / (r.prompt_s + r.generation_s);
    return r;
}

/* The kernel's own count for this program. getrusage has one as well, but that begins with the peak of the
 * process that started this one. */
static size_t peak_memory_bytes(void)
{
    char line[256];
    unsigned long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && kib == 0 && fgets(line, sizeof line, file)) sscanf(line, "VmHWM: %lu kB", &kib);
    if (file) fclose(file);
    return (size_t)kib * 1024;
}

static bool show(struct end_to_end *e, int64_t n_tokens)
{
    e->n_done += n_tokens;
    return progress_update(&e->progress, "bench", e->n_done, e->n_total);
}

static int time_prompts(struct end_to_end *e, const int *seqs, double *seconds)
{
    struct kvant_error err;
    int64_t n_each = e->flags->n_prompt, n_all = e->flags->n_batch * n_each;
    double started_s = clock_s();
    for (int64_t i = 0, n; i < n_all; i += n) {
        n = n_all - i < PASS_TOKENS ? n_all - i : PASS_TOKENS;
        if (feed_prompts(&e->feeder, seqs, n_each, i, n, &err) != KVANT_OK) return fail(&err);
        if (!show(e, n)) return fail_text("interrupted");
    }
    *seconds = clock_s() - started_s;
    return EXIT_OK;
}

static int time_generation(struct end_to_end *e, const int *seqs, double *seconds)
{
    struct kvant_error err;
    double started_s = clock_s();
    for (int64_t i = 0; i < e->flags->n_generate; i++) {
        if (feed_each(&e->feeder, seqs, (int)e->flags->n_batch, &err) != KVANT_OK) return fail(&err);
        if (!show(e, e->flags->n_batch)) return fail_text("interrupted");
    }
    *seconds = clock_s() - started_s;
    return EXIT_OK;
}

static int measure(struct end_to_end *e, int plan, int64_t repetition)
{
    struct kvant_error err;
    struct measured *m = &e->measured[plan];
    const struct end_to_end_flags *f = e->flags;
    int seqs[BATCH_CAP], n_open = 0, code = EXIT_OK;
    while (code == EXIT_OK && n_open < f->n_batch) {
        kvant_status status = kvant_sequence_open(e->feeder.session, e->plans[plan],
                                                  f->n_prompt + f->n_generate, &seqs[n_open], &err);
        if (status == KVANT_OK)
            n_open++;
        else
            code = fail(&err);
    }
    if (code == EXIT_OK) code = time_prompts(e, seqs, &m->prompt_s[repetition]);
    if (code == EXIT_OK) code = time_generation(e, seqs, &m->generation_s[repetition]);
    m->cache_bytes = 0;
    while (n_open > 0) {
        struct kvant_sequence_stats stats;
        if (kvant_sequence_get_stats(e->feeder.session, seqs[--n_open], &stats) == KVANT_OK)
            m->cache_bytes += stats.cache_bytes;
        kvant_sequence_close(e->feeder.session, seqs[n_open]);
    }
    return code;
}

/* Plans take turns, so that whatever else the machine does meets all of them. */
static int measure_all(struct end_to_end *e)
{
    struct kvant_error err;
    const struct end_to_end_flags *f = e->flags;
    struct kvant_session_options options = KVANT_SESSION_OPTIONS_INIT;
    options.n_sequences = (int)f->n_batch;
    options.n_logits = (int)f->n_batch;
    if (kvant_session_open(&e->feeder.session, e->model, &options, &err) != KVANT_OK) return fail(&err);
    e->n_total = e->n_plans * f->n_repetitions * f->n_batch * (f->n_prompt + f->n_generate);
    int code = feed_warm_up(&e->feeder, e->model);
    progress_begin(&e->progress);
    for (int64_t i = 0; i < f->n_repetitions; i++)
        for (int j = 0; j < e->n_plans && code == EXIT_OK; j++) code = measure(e, j, i);
    progress_end(&e->progress);
    return code;
}

/* A user's request beyond the context would be refused, so there is no such speed. */
static int check_context(const struct end_to_end *e)
{
    int64_t n_prompt = e->flags->n_prompt, n_generate = e->flags->n_generate;
    if (n_prompt + n_generate <= e->info.n_ctx_train) return EXIT_OK;
    return fail_text("%s: -p %lld and -n %lld are %lld tokens, more than the %d of the model's context; "
                     "choose fewer",
                     e->info.path, (long long)n_prompt, (long long)n_generate,
                     (long long)(n_prompt + n_generate), e->info.n_ctx_train);
}

static int report_json(const struct end_to_end *e)
{
    const struct end_to_end_flags *f = e->flags;
    json_t *results = json_array();
    for (int i = 0; i < e->n_plans; i++) {
        struct rates r = rates_of(e, i);
        json_array_append_new(
            results,
            json_pack("{s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:I, s:I}", "kv", e->names[i],
                      "batch", (json_int_t)f->n_batch, "n_prompt", (json_int_t)f->n_prompt, "n_gen",
                      (json_int_t)f->n_generate, "prompt_s", json_number(r.prompt_s), "generation_s",
                      json_number(r.generation_s), "tokens_per_s", json_number(r.tokens_per_s),
                      "prompt_tokens_per_s", json_number(r.prompt_tokens_per_s), "generation_tokens_per_s",
                      json_number(r.generation_tokens_per_s), "cache_bytes",
                      (json_int_t)e->measured[i].cache_bytes, "n", (json_int_t)f->n_repetitions));
    }
    return json_finish(json_pack("{s:{s:i, s:o, s:s, s:s}, s:s, s:I, s:o}", "machine", "threads",
                                 e->info.n_threads, "read_gb_per_s", json_number(e->read_gb_per_s), "cpu",
                                 e->info.cpu, "act", kvant_act_name(e->info.act), "model", f->model->path,
                                 "peak_bytes", (json_int_t)e->peak_bytes, "results", results));
}

static const char *rate_text(char text[32], double tokens_per_s)
{
    snprintf(text, 32, isfinite(tokens_per_s) ? "%.2f" : "-", tokens_per_s);
    return text;
}

static int report_text(const struct end_to_end *e)
{
    static const char dashes[] = "------------------------";
    const struct end_to_end_flags *f = e->flags;
    char bytes[32], prompt[32], generation[32];
    printf("%s %s, %d threads, %s, read bandwidth %.1f GB/s\n", e->info.architecture, e->info.quantization,
           e->info.n_threads, e->info.cpu, e->read_gb_per_s);
    printf("%lld sequence%s, each of %lld tokens of prompt and %lld generated\n\n", (long long)f->n_batch,
           f->n_batch == 1 ? "" : "s", (long long)f->n_prompt, (long long)f->n_generate);
    printf("| %-24s | %9s | %12s | %10s | %12s | %12s | %9s |\n", "kv", "prompt s", "generation s",
           "tokens/s", "prompt t/s", "generated t/s", "cache");
    printf("| %.24s | %.8s: | %.11s: | %.9s: | %.11s: | %.12s: | %.8s: |\n", dashes, dashes, dashes, dashes,
           dashes, dashes, dashes);
    for (int i = 0; i < e->n_plans; i++) {
        struct rates r = rates_of(e, i);
        printf("| %-24s | %9.3f | %12.3f | %10.2f | %12s | %13s | %9s |\n", e->names[i], r.prompt_s,
               r.generation_s, r.tokens_per_s, rate_text(prompt, r.prompt_tokens_per_s),
               rate_text(generation, r.generation_tokens_per_s),
               bytes_text(bytes, (double)e->measured[i].cache_bytes));
    }
    if (e->peak_bytes > 0)
        printf("\npeak memory of the process %s\n", bytes_text(bytes, (double)e->peak_bytes));
    return finish_output();
}

int bench_end_to_end(const struct end_to_end_flags *flags)
{
    struct end_to_end e = { .flags = flags, .feeder = { .random = 1 } };
    int code = setup_model(&e.model, flags->model, false);
    if (code != EXIT_OK) return code;
    kvant_model_get_info(e.model, &e.info);
    e.feeder.n_vocab = e.info.n_vocab;
    code = check_context(&e);
    interrupt_catch();
    if (code == EXIT_OK)
        code = setup_plans_listed(e.plans, e.names, &e.n_plans, e.model, flags->kv, flags->plan);
    e.measured = allocate((size_t)e.n_plans, sizeof *e.measured);
    if (code == EXIT_OK) code = measure_all(&e);
    /* In this order: the bandwidth takes a large buffer. */
    e.peak_bytes = peak_memory_bytes();
    if (code == EXIT_OK) e.read_gb_per_s = kvant_machine_read_gb_per_s(e.model);
    if (code == EXIT_OK) code = flags->model->json ? report_json(&e) : report_text(&e);
    kvant_session_close(e.feeder.session);
    for (int i = 0; i < e.n_plans; i++) kvant_plan_close(e.plans[i]);
    kvant_model_close(e.model);
    free(e.measured);
    return code;
}
