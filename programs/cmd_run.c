/* kvant run: answers one prompt; --compare answers it with the 16-bit cache as well. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "generate.h"
#include "json.h"
#include "prompt.h"

struct run_flags {
    struct model_flags model;
    struct plan_flags plan;
    struct sampling_flags sampling;
    const char *prompt, *prompt_path, *system, *chat_template;
    int64_t n_ctx;
    bool raw, compare;
};

/* What one pass over the prompt needs and leaves behind. */
struct pass {
    const struct kvant_plan *plan;
    const char *kv;
    bool has_notes; /* says what may surprise */
    struct answer answer;
    struct cache_report cache;
};

static int pass_run(struct pass *pass, const struct kvant_model *model, const struct run_flags *flags,
                    const kvant_token *prompt, size_t n_prompt, FILE *out)
{
    int64_t n_ctx = setup_context(model, flags->n_ctx), n_predict = flags->sampling.n_predict;
    if ((int64_t)n_prompt > n_ctx)
        return fail_text("the prompt has %zu tokens and the context %lld; raise it with -c", n_prompt,
                         (long long)n_ctx);
    /* The last token of an answer is not evaluated, but room for it does no harm. */
    if (n_predict >= 0 && (int64_t)n_prompt + n_predict < n_ctx) n_ctx = (int64_t)n_prompt + n_predict + 1;

    struct generator generator;
    int code = generator_open(&generator, model, pass->plan, &flags->sampling, n_ctx);
    if (code != EXIT_OK) return code;
    if (pass->has_notes) setup_context_note(model, flags->n_ctx);
    code = generator_answer(&generator, prompt, n_prompt, n_predict, out, &pass->answer);
    if (code == EXIT_OK) code = generator_cache(&generator, pass->plan, &pass->cache);
    generator_close(&generator);
    return code;
}

static json_t *pass_json(const struct pass *p)
{
    const struct answer *a = &p->answer;
    return json_pack(
        "{s:s, s:o, s:I, s:o, s:s, s:{s:I, s:o, s:o, s:o, s:o}, s:{s:I, s:I, s:o, s:o}}", "kv", p->kv, "text",
        json_text(a->text, a->n_bytes), "tokens", (json_int_t)a->n_ids, "token_ids",
        json_tokens(a->ids, a->n_ids), "finish_reason", a->finish_reason, "timings", "prompt_tokens",
        (json_int_t)a->n_prompt, "prompt_s", json_number(a->prompt_s), "generation_s",
        json_number(a->generation_s), "prompt_tokens_per_s", json_number(answer_prompt_rate(a)),
        "tokens_per_s", json_number(answer_generation_rate(a)), "cache", "bytes", (json_int_t)p->cache.bytes,
        "f16_bytes", (json_int_t)p->cache.f16_bytes, "page_bits", json_number(p->cache.memory.page_bits),
        "true_bits", json_number(p->cache.memory.true_bits));
}

static void print_phase(const char *name, size_t n_tokens, double seconds, double rate)
{
    fprintf(stderr, "%s %zu token%s in %.2f s", name, n_tokens, n_tokens == 1 ? "" : "s", seconds);
    if (rate > 0) fprintf(stderr, ", %.1f tokens/s", rate);
    fputc('\n', stderr);
}

static void print_stats(const struct pass *p)
{
    const struct answer *a = &p->answer;
    char bytes[32], bytes_f16[32];
    fputc('\n', stderr);
    print_phase("prompt:", a->n_prompt, a->prompt_s, answer_prompt_rate(a));
    print_phase(strcmp(a->finish_reason, "interrupted") == 0 ? "answer: (interrupted)" : "answer:", a->n_ids,
                a->generation_s, answer_generation_rate(a));
    fprintf(stderr, "cache:  %s in %s", bytes_text(bytes, (double)p->cache.bytes), p->kv);
    if (p->cache.bytes < p->cache.f16_bytes)
        fprintf(stderr, ", %s in f16 (%.2f times)", bytes_text(bytes_f16, (double)p->cache.f16_bytes),
                (double)p->cache.f16_bytes / (double)p->cache.bytes);
    else if (p->cache.memory.page_bits < 16)
        fputs(" (so short a text is all sinks and tail, which stay exact)", stderr);
    fputc('\n', stderr);
}

static int answer_once(struct pass *pass, const struct kvant_model *model, const struct run_flags *flags,
                       const char *text, size_t n_bytes, const kvant_token *ids, size_t n_ids)
{
    int code = pass_run(pass, model, flags, ids, n_ids, flags->model.json ? NULL : stdout);
    if (code != EXIT_OK) return code;
    if (flags->model.json) {
        json_t *value = json_pack("{s:o}", "prompt", json_text(text, n_bytes)), *rest = pass_json(pass);
        if (json_object_update(value, rest) != 0) return fail_text("out of memory");
        json_decref(rest);
        return json_finish(value);
    }
    putchar('\n');
    code = finish_output();
    if (code == EXIT_OK) print_stats(pass);
    return code;
}

/* What --compare shows: the answer with 16 bits, and the plan's. */
struct comparison {
    struct pass f16, plan;
    size_t n_same;  /* tokens of the 16-bit answer that are the plan's first choice after the same text */
    size_t n_alike; /* tokens before the two answers differ                                           */
};

static size_t tokens_alike(const struct answer *a, const struct answer *b)
{
    size_t n = 0;
    while (n < a->n_ids && n < b->n_ids && a->ids[n] == b->ids[n]) n++;
    return n;
}

/* Two greedy answers of a small model part at the first near-tie; what a cache is worth shows when both read
 * the same text. So the plan reads the 16-bit answer, and its first choices are counted. */
static int count_same(struct comparison *c, const struct kvant_model *model, const struct run_flags *greedy,
                      const kvant_token *prompt, size_t n_prompt)
{
    struct generator g;
    const struct answer *a = &c->f16.answer;
    int code = generator_open(&g, model, c->plan.plan, &greedy->sampling, (int64_t)(n_prompt + a->n_ids + 1));
    if (code != EXIT_OK) return code;
    code = generator_agreement(&g, prompt, n_prompt, a->ids, a->n_ids, &c->n_same);
    generator_close(&g);
    c->n_alike = tokens_alike(a, &c->plan.answer);
    return code;
}

/* A plan file's name without its folder; a grammar as it is. */
static const char *short_name(const char *kv)
{
    const char *slash = strrchr(kv, '/');
    return slash ? slash + 1 : kv;
}

static int print_comparison(const struct comparison *c)
{
    char a[32], b[32];
    const struct answer *f16 = &c->f16.answer, *plan = &c->plan.answer;
    const struct cache_report *of_f16 = &c->f16.cache, *of_plan = &c->plan.cache;
    printf("\n%-26s %14s %14.40s\n", "", "f16", short_name(c->plan.kv));
    printf("%-26s %14s %14s\n", "cache", bytes_text(a, (double)of_f16->bytes),
           bytes_text(b, (double)of_plan->bytes));
    printf("%-26s %14.2f %14.2f\n", "bits per element", of_f16->memory.true_bits, of_plan->memory.true_bits);
    printf("%-26s %14.2f %14.2f\n", "  in full pages", of_f16->memory.page_bits, of_plan->memory.page_bits);
    printf("%-26s %14.1f %14.1f\n", "prompt tokens/s", answer_prompt_rate(f16), answer_prompt_rate(plan));
    printf("%-26s %14.1f %14.1f\n", "generated tokens/s", answer_generation_rate(f16),
           answer_generation_rate(plan));
    printf("%-26s %14zu %14zu\n", "generated tokens", f16->n_ids, plan->n_ids);
    printf("\nAfter the same text, the plan's first choice is that of 16 bits for %zu of %zu tokens.\n",
           c->n_same, f16->n_ids);
    if (c->n_alike == f16->n_ids && c->n_alike == plan->n_ids) printf("The two answers are the same.\n");
    else
        printf("Left to themselves, the answers agree for %zu token%s.\n", c->n_alike,
               c->n_alike == 1 ? "" : "s");
    return finish_output();
}

static int compare(struct pass *pass, const struct kvant_model *model, const struct run_flags *flags,
                   const char *text, size_t n_bytes, const kvant_token *ids, size_t n_ids)
{
    struct kvant_error err;
    struct kvant_plan *f16;
    struct run_flags greedy = *flags;
    greedy.sampling.temperature = 0;
    if (kvant_plan_open(&f16, model, "f16", &err) != KVANT_OK) return fail(&err);
    struct comparison c = {.f16 = {.plan = f16, .kv = "f16"}, .plan = *pass};
    struct pass *passes[2] = {&c.f16, &c.plan};
    int code = EXIT_OK;
    for (int i = 0; i < 2 && code == EXIT_OK && !interrupted(); i++) {
        if (!flags->model.json) printf("--- cache: %s\n", short_name(passes[i]->kv));
        code = pass_run(passes[i], model, &greedy, ids, n_ids, flags->model.json ? NULL : stdout);
        if (!flags->model.json) putchar('\n');
    }
    if (code == EXIT_OK && !interrupted()) code = count_same(&c, model, &greedy, ids, n_ids);
    if (code == EXIT_OK && !flags->model.json && !interrupted()) code = print_comparison(&c);
    if (code == EXIT_OK && flags->model.json)
        code = json_finish(json_pack("{s:o, s:I, s:I, s:o, s:o}", "prompt", json_text(text, n_bytes),
                                     "tokens_same", (json_int_t)c.n_same, "tokens_alike",
                                     (json_int_t)c.n_alike, "f16", pass_json(&c.f16), "plan",
                                     pass_json(&c.plan)));
    answer_close(&c.f16.answer);
    pass->answer = c.plan.answer;
    kvant_plan_close(f16);
    return code;
}

static int execute(const struct run_flags *flags)
{
    size_t n_bytes = flags->prompt ? strlen(flags->prompt) : 0, n_ids = 0;
    char *content = flags->prompt ? NULL : file_read(flags->prompt_path, &n_bytes), name[256];
    const char *text = content ? content : flags->prompt;
    if (!text) return EXIT_FAILED;
    struct kvant_model *model = NULL;
    struct kvant_plan *plan = NULL;
    kvant_token *ids = NULL;
    struct pass pass = {0};

    int code = setup_model(&model, &flags->model, false);
    if (code == EXIT_OK)
        code = prompt_tokens(model, flags->chat_template, flags->system, text, n_bytes, flags->raw, &ids, &n_ids);
    if (code == EXIT_OK) code = setup_plan_sound(&plan, model, &flags->plan, name);
    if (code == EXIT_OK) {
        interrupt_catch();
        pass.plan = plan;
        pass.kv = name;
        pass.has_notes = true;
        code = (flags->compare ? compare : answer_once)(&pass, model, flags, text, n_bytes, ids, n_ids);
    }
    answer_close(&pass.answer);
    kvant_plan_close(plan);
    kvant_model_close(model);
    free(ids);
    free(content);
    return code;
}

static int run(int argc, char **argv)
{
    struct run_flags f = {.sampling = SAMPLING_FLAGS_DEFAULT};
    const struct option options[] = {
        MODEL_OPTIONS(&f.model),
        {"-p, --prompt", OPTION_TEXT, "TEXT", &f.prompt, "the prompt", 0, 0},
        {"-f, --file", OPTION_NAME, "FILE", &f.prompt_path, "the prompt from a file; - is standard input", 0,
         0},
        {"-sys, --system-prompt", OPTION_TEXT, "TEXT", &f.system, "system message", 0, 0},
        CHAT_TEMPLATE_OPTION(&f.chat_template),
        {"--raw", OPTION_FLAG, NULL, &f.raw, "the prompt as it is, without the model's chat format", 0, 0},
        {"-c, --ctx-size", OPTION_INT, "N", &f.n_ctx,
         "context; 0 = the smaller of 8192 and the model's (default)", 0, 1e9},
        SAMPLING_OPTIONS(&f.sampling),
        PLAN_OPTIONS(&f.plan),
        FORCE_OPTION(&f.plan),
        {"--compare", OPTION_FLAG, NULL, &f.compare,
         "answer greedily with a 16-bit cache, then with the plan", 0, 0},
    };
    struct command_line line = {
        .command = "run",
        .arguments = "MODEL",
        .about =
            "Answers a prompt. Text goes to standard output as it comes, speed and bytes of the cache to\n"
            "standard error. Ctrl-C ends the answer.",
        .examples = "  kvant run model.gguf -p 'Why is the sky blue?'\n"
                    "  kvant run model.gguf -f question.txt -n 200 --temp 0 --kv k3c64v2h\n"
                    "  kvant run model.gguf -p 'Once upon a time' --raw --compare",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    int code = setup_model_path(&line, &f.model, 0);
    if (code != EXIT_OK) return code;
    if (!f.prompt == !f.prompt_path) return fail_usage("run", "give either -p TEXT or -f FILE");
    return execute(&f);
}

const struct command command_run = {"run", "answer a prompt", run};
