/*
 * kvant run: answers one prompt; --compare answers it with the 16-bit cache as well; --best-of answers it
 * several times; what its cache says is read on the way out.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "best_of.h"
#include "embed_flags.h"
#include "generate.h"
#include "json.h"
#include "npy.h"
#include "prompt.h"
#include "think.h"

struct run_flags {
    struct model_flags model;
    struct plan_flags plan;
    struct sampling_flags sampling;
    const char *prompt, *prompt_path, *system, *chat_template;
    int64_t n_ctx;
    bool raw, compare, confidence;
    const char *embed_path, *embed_of, *best_by;
    int64_t best_of;
    struct embed_flags embed;
    struct kvant_embed_options embed_options;
    const char *think_mode;
    struct think_flags think;
    const struct kvant_router *router; /* with --think auto */
    const struct modes *modes;
};

/* What one pass over the prompt needs and leaves behind. */
struct pass {
    const struct kvant_plan *plan;
    const char *kv;
    bool has_notes; /* says what may surprise */
    struct answer answer;
    struct cache_report cache;
    double scores[SCORES]; /* of --confidence */
    struct think_account think;
};

/* What is read from a cache that a pass has filled, without another pass. */
static int pass_read(struct pass *pass, const struct generator *g, const struct run_flags *flags)
{
    struct kvant_error err;
    struct kvant_answer_score score = {0};
    int64_t first = (int64_t)pass->answer.n_prompt - 1;
    if (flags->confidence) {
        score.confidence = *g->confidence;
        if (kvant_score_sequence(g->session, g->seq, first, 0, NULL, &score.kv_tokens, &score.kv_layers,
                                 &err) != KVANT_OK)
            return fail(&err);
        scores_of(&score, pass->scores);
    }
    if (!flags->embed_path) return EXIT_OK;
    struct kvant_embed_options options = flags->embed_options;
    bool of_all = flags->embed_of && strcmp(flags->embed_of, "all") == 0;
    bool of_answer = flags->embed_of && strcmp(flags->embed_of, "answer") == 0;
    if (of_answer) options.token_first = first + 1;
    else if (!of_all) options.token_last = first + 1;
    if (of_answer && g->n_tokens == first + 1)
        return fail_text(
            "--embed-of answer: the cache holds no token of the answer (its last one never enters)");
    size_t dim;
    if (kvant_embed_dim(g->model, &options, &dim, &err) != KVANT_OK) return fail(&err);
    float *row = allocate(dim, sizeof *row);
    struct npy_file npy;
    int code = kvant_embed_sequence(g->session, g->seq, &options, row, dim, &dim, &err) == KVANT_OK
                   ? EXIT_OK
                   : fail(&err);
    if (code == EXIT_OK && !npy_write(&npy, flags->embed_path, row, (const int64_t[]){ 1, (int64_t)dim }, 2))
        code = EXIT_FAILED;
    free(row);
    return code;
}

static int pass_run(struct pass *pass, const struct kvant_model *model, const struct run_flags *flags,
                    const kvant_token *prompt, size_t n_prompt, FILE *out)
{
    int64_t n_ctx = setup_context(model, flags->n_ctx), n_predict = flags->sampling.n_predict;
    if ((int64_t)n_prompt > n_ctx)
        return fail_text("the prompt has %zu tokens and the context %lld; raise it with -c", n_prompt,
                         (long long)n_ctx);
    /* The last token of an answer is not evaluated, but room for it does no harm. */
    int64_t n_room = n_predict + (flags->router ? modes_tokens(flags->modes) : 0);
    if (n_predict >= 0 && (int64_t)n_prompt + n_room < n_ctx) n_ctx = (int64_t)n_prompt + n_room + 1;

    struct generator generator;
    int code = generator_open(&generator, model, pass->plan, &flags->sampling, n_ctx);
    if (code != EXIT_OK) return code;
    struct kvant_confidence sums = {0};
    if (flags->confidence) generator.confidence = &sums;
    if (pass->has_notes) setup_context_note(model, flags->n_ctx);
    if (flags->router)
        code = think_answer(&generator, flags->router, flags->modes, &flags->think, prompt, n_prompt,
                            n_predict, out, &pass->answer, &pass->think);
    else code = generator_answer(&generator, prompt, n_prompt, n_predict, out, &pass->answer);
    if (code == EXIT_OK) code = generator_cache(&generator, pass->plan, &pass->cache);
    if (code == EXIT_OK && generator.n_tokens >= (int64_t)n_prompt) code = pass_read(pass, &generator, flags);
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

static json_t *think_json(const struct think_account *a)
{
    json_t *think = json_pack("{s:s, s:s, s:o, s:o, s:I}", "first", mode_names[a->first], "last",
                              mode_names[a->last], "difficulty", json_number(a->d_first),
                              "difficulty_at_turn", a->turned ? json_number(a->d_turn) : json_null(),
                              "window", (json_int_t)a->n_window);
    think_put_counts(think, a);
    return think;
}

static void print_think(const struct think_account *a)
{
    fprintf(stderr, "think:  difficulty %.1f, %s", a->d_first, mode_names[a->first]);
    if (a->turned)
        fprintf(stderr, "; %s after %lld tokens, at %.1f", mode_names[a->last], (long long)a->n_kept,
                a->d_turn);
    fprintf(stderr,
            "; tokens: %lld kept, %lld forced, %lld after the turn, 0 discarded; %lld looks in %.4f s\n",
            (long long)a->n_kept, (long long)a->n_forced, (long long)a->n_second, (long long)a->n_checks,
            a->check_s);
}

static void print_confidence(const double scores[SCORES])
{
    fprintf(stderr,
            "confidence: maxprob %.4f, entropy %.3f bits, ppl %.4f; kv-coe over tokens r %.4f c %.4f, over "
            "layers r %.4f c %.4f\n",
            scores[SCORE_MAX_PROB], -scores[SCORE_ENTROPY], -scores[SCORE_PPL], scores[SCORE_KV_TOKENS_R],
            scores[SCORE_KV_TOKENS_C], scores[SCORE_KV_LAYERS_R], scores[SCORE_KV_LAYERS_C]);
}

static int answer_once(struct pass *pass, const struct kvant_model *model, const struct run_flags *flags,
                       const char *text, size_t n_bytes, const kvant_token *ids, size_t n_ids)
{
    int code = pass_run(pass, model, flags, ids, n_ids, flags->model.json ? NULL : stdout);
    if (code != EXIT_OK) return code;
    if (flags->model.json) {
        json_t *value = json_pack("{s:o}", "prompt", json_text(text, n_bytes)), *rest = pass_json(pass);
        if (flags->router) json_object_set_new(rest, "think", think_json(&pass->think));
        if (flags->confidence)
            json_object_set_new(rest, "confidence", scores_json(pass->scores, SCORES_OF_CACHE));
        if (json_object_update(value, rest) != 0) return fail_text("out of memory");
        json_decref(rest);
        return json_finish(value);
    }
    putchar('\n');
    code = finish_output();
    if (code == EXIT_OK) print_stats(pass);
    if (code == EXIT_OK && flags->router) print_think(&pass->think);
    if (code == EXIT_OK && flags->confidence) print_confidence(pass->scores);
    return code;
}

static json_t *best_json(const struct best_of *b, const struct pass *pass, int best_by)
{
    json_t *answers = json_array();
    for (int i = 0; i < b->n; i++)
        json_array_append_new(answers, json_pack("{s:o, s:I, s:s, s:o}", "text",
                                                 json_text(b->answers[i].text, b->answers[i].n_bytes),
                                                 "tokens", (json_int_t)b->answers[i].n_ids, "finish_reason",
                                                 b->answers[i].finish_reason, "confidence",
                                                 scores_json(b->scores[i], SCORES_OF_CACHE)));
    return json_pack("{s:s, s:o, s:i, s:s, s:o, s:{s:I, s:o, s:I, s:o}}", "kv", pass->kv, "text",
                     json_text(b->answers[b->best].text, b->answers[b->best].n_bytes), "best", b->best,
                     "best_by", score_names[best_by], "answers", answers, "timings", "prompt_tokens",
                     (json_int_t)b->n_prompt, "prompt_s", json_number(b->prompt_s), "tokens",
                     (json_int_t)b->n_tokens, "generation_s", json_number(b->generation_s));
}

static void print_best(const struct best_of *b, int best_by)
{
    fprintf(stderr, "\n%d answers from one prompt: %zu tokens in %.2f s\n", b->n, b->n_tokens,
            b->prompt_s + b->generation_s);
    for (int i = 0; i < b->n; i++)
        fprintf(stderr, "%c %2d  %s %8.5f  %5zu tokens%s\n", i == b->best ? '*' : ' ', i + 1,
                score_names[best_by], b->scores[i][best_by], b->answers[i].n_ids,
                strcmp(b->answers[i].finish_reason, "length") == 0 ? ", cut" : "");
}

static int best_of(struct pass *pass, const struct kvant_model *model, const struct run_flags *flags,
                   const char *text, size_t n_bytes, const kvant_token *ids, size_t n_ids)
{
    (void)n_bytes;
    (void)text;
    int64_t n_ctx = setup_context(model, flags->n_ctx), n_predict = flags->sampling.n_predict;
    int best_by = flags->best_by ? score_find(flags->best_by) : SCORE_BEST_DEFAULT;
    if ((int64_t)n_ids > n_ctx)
        return fail_text("the prompt has %zu tokens and the context %lld; raise it with -c", n_ids,
                         (long long)n_ctx);
    if (n_ids == 0) return fail_text("the prompt is empty: there is nothing to continue; give -p TEXT");
    setup_context_note(model, flags->n_ctx);
    if (n_predict >= 0 && (int64_t)n_ids + n_predict < n_ctx) n_ctx = (int64_t)n_ids + n_predict + 1;
    struct best_of *b = allocate(1, sizeof *b);
    int code = best_of_run(b, model, pass->plan, &flags->sampling, (int)flags->best_of, best_by, ids, n_ids,
                           n_ctx);
    if (code == EXIT_OK && flags->model.json) code = json_finish(best_json(b, pass, best_by));
    else if (code == EXIT_OK) {
        fwrite(b->answers[b->best].text, 1, b->answers[b->best].n_bytes, stdout);
        putchar('\n');
        code = finish_output();
        if (code == EXIT_OK) print_best(b, best_by);
    }
    best_of_close(b);
    free(b);
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
    if (n_bytes == 0 && flags->think.router_path) { /* the chat format alone has tokens, but no question */
        free(content);
        return fail_text("the prompt is empty: there is nothing to decide on; give -p TEXT");
    }
    if (flags->embed_path && !output_check(flags->embed_path)) {
        free(content);
        return EXIT_FAILED;
    }
    struct kvant_model *model = NULL;
    struct kvant_plan *plan = NULL;
    kvant_token *ids = NULL;
    struct pass pass = {0};

    int code = setup_model(&model, &flags->model, false);
    if (code == EXIT_OK)
        code = prompt_tokens(model, flags->chat_template, flags->system, text, n_bytes, flags->raw, &ids,
                             &n_ids);
    if (code == EXIT_OK) code = setup_plan_sound(&plan, model, &flags->plan, name);
    struct kvant_router *router = NULL;
    struct modes modes = {0};
    struct run_flags own = *flags;
    if (code == EXIT_OK && flags->think.router_path)
        code = think_router_open(&router, &modes, model, &flags->think);
    own.router = router;
    own.modes = &modes;
    if (code == EXIT_OK) {
        interrupt_catch();
        flags = &own;
        pass.plan = plan;
        pass.kv = name;
        pass.has_notes = true;
        code = (flags->compare   ? compare
                : flags->best_of ? best_of
                                 : answer_once)(&pass, model, flags, text, n_bytes, ids, n_ids);
    }
    answer_close(&pass.answer);
    kvant_router_close(router);
    modes_close(&modes);
    kvant_plan_close(plan);
    kvant_model_close(model);
    free(ids);
    free(content);
    return code;
}

static int run(int argc, char **argv)
{
    struct run_flags f = {.sampling = SAMPLING_FLAGS_DEFAULT, .think = THINK_FLAGS_DEFAULT};
    const struct option options[] = {
        MODEL_OPTIONS(&f.model),
        { "-p, --prompt", OPTION_TEXT, "TEXT", &f.prompt, "the prompt", 0, 0 },
        { "-f, --file", OPTION_NAME, "FILE", &f.prompt_path, "the prompt from a file; - is standard input", 0,
          0 },
        { "-sys, --system-prompt", OPTION_TEXT, "TEXT", &f.system, "system message", 0, 0 },
        CHAT_TEMPLATE_OPTION(&f.chat_template),
        { "--raw", OPTION_FLAG, NULL, &f.raw, "the prompt as it is, without the model's chat format", 0, 0 },
        { "-c, --ctx-size", OPTION_INT, "N", &f.n_ctx,
          "context; 0 = the smaller of 8192 and the model's (default)", 0, 1e9 },
        SAMPLING_OPTIONS(&f.sampling),
        PLAN_OPTIONS(&f.plan),
        FORCE_OPTION(&f.plan),
        { "--compare", OPTION_FLAG, NULL, &f.compare,
          "answer greedily with a 16-bit cache, then with the plan", 0, 0 },
        { "--confidence", OPTION_FLAG, NULL, &f.confidence,
          "say how sure the answer is, from logits and cache", 0, 0 },
        { "--best-of", OPTION_INT, "N", &f.best_of,
          "write N answers at once and keep the one of the highest\nscore; needs a temperature", 2,
          BEST_OF_MAX },
        { "--best-by", OPTION_CHOICE, SCORE_CHOICES, &f.best_by, "which score; default logprob", 0, 0 },
        { "--embed-out", OPTION_NAME, "FILE.npy", &f.embed_path,
          "the text's embedding, from the cache, without another pass;\nkvant embed --help has what follows",
          0, 0 },
        { "--embed-of", OPTION_CHOICE, "prompt|answer|all", &f.embed_of, "of which text; default prompt", 0,
          0 },
        EMBED_OPTIONS(&f.embed),
        { "--think", OPTION_CHOICE, "auto|off", &f.think_mode,
          "let a router choose between answering at once and thinking\nfirst; needs --router", 0, 0 },
        { "--router", OPTION_NAME, "FILE", &f.think.router_path, "what kvant router train wrote", 0, 0 },
        THINK_OPTIONS(&f.think),
    };
    struct command_line line = {
        .command = "run",
        .arguments = "MODEL",
        .about =
            "Answers a prompt. Text goes to standard output as it comes, speed and bytes of the cache to\n"
            "standard error. Ctrl-C ends the answer.",
        .examples = "  kvant run model.gguf -p 'Why is the sky blue?'\n"
                    "  kvant run model.gguf -f question.txt -n 200 --temp 0 --kv k3c64v2h\n"
                    "  kvant run model.gguf -p 'Once upon a time' --raw --compare\n"
                    "  kvant run model.gguf -p 'What is 17 * 3?' --confidence --embed-out prompt.npy\n"
                    "  kvant run model.gguf -p 'What is 17 * 3?' --best-of 4\n"
                    "  kvant run model.gguf -p 'What is 17 * 3?' --think auto --router steps.kvrouter",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    int code = setup_model_path(&line, &f.model, 0);
    if (code != EXIT_OK) return code;
    if (!f.prompt == !f.prompt_path) return fail_usage("run", "give either -p TEXT or -f FILE");
    if (f.best_by && !f.best_of)
        return fail_usage("run", "--best-by chooses among answers; give --best-of N too");
    if (f.best_of && (f.compare || f.embed_path || f.confidence || f.sampling.ignore_eos))
        return fail_usage(
            "run", "--best-of goes with none of --compare, --confidence, --embed-out and --ignore-eos");
    if (f.best_of && f.sampling.temperature <= 0)
        return fail_usage("run", "--best-of needs a temperature: greedy answers are all the same");
    if (f.compare && (f.embed_path || f.confidence))
        return fail_usage("run", "--compare writes two answers; --confidence and --embed-out are about one");
    if (f.embed_of && !f.embed_path)
        return fail_usage("run", "--embed-of says of what; give --embed-out FILE too");
    if (f.think_mode && strcmp(f.think_mode, "auto") == 0 && !f.think.router_path)
        return fail_usage("run", "--think auto needs a router: --router FILE");
    if (f.think.router_path && (!f.think_mode || strcmp(f.think_mode, "auto") != 0))
        return fail_usage("run", "--router chooses with --think auto; give it too");
    if (f.think.router_path && (f.compare || f.best_of || f.raw || f.confidence))
        return fail_usage("run",
                          "--think auto goes with none of --compare, --best-of, --confidence and --raw");
    code = embed_flags_set(&f.embed, "run", &f.embed_options);
    if (code != EXIT_OK) return code;
    return execute(&f);
}

const struct command command_run = {"run", "answer a prompt", run};
