/* kvant eval: plans against the 16-bit cache, on the same text. */
#include <stdlib.h>
#include <string.h>

#include "eval_task.h"
#include "json.h"
#include "npy.h"
#include "progress.h"
#include "setup.h"

/* Of --gate: prompts out of the text, longer than what a cache keeps exact. */
#define GATE_PROMPTS 8
#define GATE_PROMPT_TOKENS 192

struct eval_flags {
    struct model_flags model;
    struct plan_flags plan; /* all but --kv, which is a list here */
    struct option_list kv;
    const char *text_path, *logits_path;
    int64_t n_ctx, n_chunks;
    bool gate;
    struct task_flags task;
};

struct evaluation {
    struct kvant_model *model;
    struct kvant_plan *plans[OPTION_LIST_CAP];
    char names[OPTION_LIST_CAP][256];
    int n_plans;
    int64_t n_evaluated; /* tokens of all chunks: the first of each is evaluated, but not scored */
    kvant_token *ids;
    size_t n_ids;
    struct kvant_eval_result results[OPTION_LIST_CAP], base;
    struct kvant_trajectory_result trajectories[OPTION_LIST_CAP]; /* with --gate */
    struct kvant_verdict verdicts[OPTION_LIST_CAP];
};

/* Both callbacks of an evaluation get the same pointer. */
struct observer {
    struct progress progress;
    struct npy_file npy;
    bool has_failed; /* the file could not be written, and that was said */
};

static bool observe_progress(void *user, const char *what, int64_t done, int64_t total)
{
    struct observer *observer = user;
    return progress_update(&observer->progress, what, done, total);
}

static bool observe_logits(void *user, const float *logits, int n_rows, int n_vocab)
{
    struct observer *observer = user;
    observer->has_failed = !npy_append(&observer->npy, logits, n_rows, n_vocab);
    return !observer->has_failed;
}

static int read_text(struct evaluation *e, const struct eval_flags *flags)
{
    struct kvant_error err;
    size_t n_bytes;
    char *text = file_read(flags->text_path, &n_bytes);
    if (!text) return EXIT_FAILED;
    kvant_status status = tokens_of_text(e->model, text, n_bytes, KVANT_TOKENIZE_BOS, &e->ids, &e->n_ids,
                                         &err);
    free(text);
    if (status != KVANT_OK) return fail(&err);
    if (e->n_ids < 2) return fail_text("%s: a text of at least two tokens is needed", flags->text_path);
    return EXIT_OK;
}

static int64_t tokens_evaluated(const struct evaluation *e, const struct eval_flags *flags)
{
    struct kvant_model_info info;
    kvant_model_get_info(e->model, &info);
    int64_t n_ctx = flags->n_ctx ? flags->n_ctx : info.n_ctx_train < 2048 ? info.n_ctx_train : 2048;
    return e->base.n_scored + (e->base.n_scored + n_ctx - 2) / (n_ctx - 1);
}

static int measure(struct evaluation *e, const struct eval_flags *flags)
{
    struct kvant_error err;
    struct observer observer = {0};
    struct kvant_eval_options options = KVANT_EVAL_OPTIONS_INIT;
    options.n_ctx = flags->n_ctx;
    options.n_chunks = flags->n_chunks;
    options.progress = observe_progress;
    options.user = &observer;
    if (flags->logits_path) {
        options.on_logits = observe_logits;
        if (!npy_open(&observer.npy, flags->logits_path)) {
            npy_discard(&observer.npy);
            return EXIT_FAILED;
        }
    }
    interrupt_catch();
    progress_begin(&observer.progress);
    kvant_status status = kvant_eval_run(e->model, (const struct kvant_plan *const *)e->plans, e->n_plans,
                                         e->ids, e->n_ids, &options, e->results, &e->base, &err);
    progress_end(&observer.progress);
    int code = status == KVANT_OK ? EXIT_OK : observer.has_failed ? EXIT_FAILED : fail(&err);
    if (code == EXIT_OK) e->n_evaluated = tokens_evaluated(e, flags);
    if (flags->logits_path && (code != EXIT_OK || !npy_commit(&observer.npy))) {
        npy_discard(&observer.npy);
        code = EXIT_FAILED;
    }
    return code;
}

/* Without --gate: by the likeliest tokens alone. */
static int judge(struct evaluation *e, bool with_trajectories)
{
    struct kvant_error err;
    struct progress progress;
    struct kvant_prompt prompts[GATE_PROMPTS];
    struct kvant_trajectory_options options = KVANT_TRAJECTORY_OPTIONS_INIT;
    size_t n = e->n_ids < 2 * GATE_PROMPT_TOKENS ? (e->n_ids + 1) / 2 : GATE_PROMPT_TOKENS, n_prompts;
    options.progress = progress_update;
    options.user = &progress;
    if (with_trajectories) {
        kvant_trajectory_prompts(e->ids, e->n_ids, n, prompts, GATE_PROMPTS, &n_prompts);
        progress_begin(&progress);
        kvant_status status = kvant_trajectory_run(e->model, (const struct kvant_plan *const *)e->plans,
                                                   e->n_plans, prompts, n_prompts, &options, e->trajectories,
                                                   NULL, &err);
        progress_end(&progress);
        if (status != KVANT_OK) return fail(&err);
    }
    for (int i = 0; i < e->n_plans; i++)
        kvant_gate_judge(NULL, &e->results[i], with_trajectories ? &e->trajectories[i] : NULL,
                         &e->verdicts[i]);
    return EXIT_OK;
}

static json_t *gate_json(const struct evaluation *e, int i, bool with_trajectories)
{
    const struct kvant_verdict *v = &e->verdicts[i];
    return json_pack("{s:s, s:s, s:o, s:o}", "verdict", v->collapsed ? "collapsed" : "passed", "reason",
                     v->reason, "agreement", json_number(v->agreement), "identical",
                     with_trajectories ? json_number(e->trajectories[i].identical) : json_null());
}

static int report_json(const struct evaluation *e, const char *path, bool with_trajectories)
{
    json_t *results = json_array();
    for (int i = 0; i < e->n_plans; i++) {
        const struct kvant_eval_result *r = &e->results[i];
        json_array_append_new(
            results,
            json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "kv", e->names[i], "ppl",
                      json_number(r->ppl), "ppl_ratio", json_number(r->ppl_ratio), "kld_mean",
                      json_number(r->kld_mean), "kld_median", json_number(r->kld_median), "kld_p999",
                      json_number(r->kld_p999), "same_top_p", json_number(r->same_top_p), "page_bits",
                      json_number(r->page_bits), "true_bits", json_number(r->true_bits), "bytes_per_token",
                      json_number(r->bytes_per_token), "gate", gate_json(e, i, with_trajectories)));
    }
    return json_finish(json_pack("{s:s, s:I, s:o}", "model", path, "tokens", (json_int_t)e->n_evaluated,
                                 "results", results));
}

static void print_verdicts(const struct evaluation *e, bool with_trajectories)
{
    if (with_trajectories)
        printf("\n%-24s %9s %9s %9s  %s\n", "kv", "agreement", "identical", "first", "gate");
    for (int i = 0; with_trajectories && i < e->n_plans; i++) {
        const struct kvant_trajectory_result *t = &e->trajectories[i];
        printf("%-24s %8.1f%% %8.1f%% %9.1f  %s\n", e->names[i], t->agreement, t->identical, t->first_median,
               e->verdicts[i].collapsed ? "collapsed" : "passed");
    }
    for (int i = 0, n = 0; i < e->n_plans; i++)
        if (e->verdicts[i].collapsed)
            printf("%s%s has collapsed: %s\n", n++ ? "" : "\n", e->names[i], e->verdicts[i].reason);
    if (with_trajectories)
        printf("\nagreement: the part of a greedy text before the first token that 16 bits would not write;\n"
               "%lld prompts out of the text\n",
               (long long)(e->n_plans ? e->trajectories[0].n_prompts : 0));
}

static int report_text(const struct evaluation *e, bool with_trajectories)
{
    printf("%lld tokens, %lld positions scored; 16-bit cache: ppl %.4f\n\n", (long long)e->n_evaluated,
           (long long)e->base.n_scored, e->base.ppl);
    printf("%-24s %9s %9s %9s %9s %9s %8s %9s %9s %9s\n", "kv", "ppl", "ratio", "KLD mean", "median", "p99.9",
           "same top", "page bits", "true bits", "B/token");
    for (int i = 0; i < e->n_plans; i++) {
        const struct kvant_eval_result *r = &e->results[i];
        printf("%-24s %9.4f %9.4f %9.6f %9.6f %9.5f %7.2f%% %9.3f %9.3f %9.1f\n", e->names[i], r->ppl,
               r->ppl_ratio, r->kld_mean, r->kld_median, r->kld_p999, r->same_top_p, r->page_bits,
               r->true_bits, r->bytes_per_token);
    }
    print_verdicts(e, with_trajectories);
    return finish_output();
}

static int execute(const struct eval_flags *flags)
{
    struct evaluation *e = allocate(1, sizeof *e);
    int code = setup_model(&e->model, &flags->model, false);
    if (code == EXIT_OK) code = read_text(e, flags);
    if (code == EXIT_OK)
        code = setup_plans_listed(e->plans, e->names, &e->n_plans, e->model, &flags->kv, &flags->plan);
    if (code == EXIT_OK) setup_context_note(e->model, flags->n_ctx);
    if (code == EXIT_OK) code = measure(e, flags);
    if (code == EXIT_OK) code = judge(e, flags->gate);
    if (code == EXIT_OK)
        code = flags->model.json ? report_json(e, flags->model.path, flags->gate)
                                 : report_text(e, flags->gate);
    for (int i = 0; i < OPTION_LIST_CAP; i++) kvant_plan_close(e->plans[i]);
    kvant_model_close(e->model);
    free(e->ids);
    free(e);
    return code;
}

static int run(int argc, char **argv)
{
    struct eval_flags f = {.task = TASK_FLAGS_DEFAULT};
    const struct option options[] = {
        MODEL_OPTIONS(&f.model),
        {"--text, -f, --file", OPTION_NAME, "FILE", &f.text_path, "the text; - is standard input", 0, 0},
        {"-c, --ctx-size", OPTION_INT, "N", &f.n_ctx,
         "tokens per chunk; 0 = the smaller of 2048 and the\nmodel's context (default)", 0, 1e9},
        {"--chunks", OPTION_INT, "N", &f.n_chunks, "most chunks; 0 = the whole text (default)", 0, 1e9},
        PLAN_LIST_OPTIONS(&f.kv, &f.plan),
        {"--logits", OPTION_NAME, "FILE.npy", &f.logits_path,
         "write the logits of the first plan, float32 (tokens,\nvocabulary)", 0, 0},
        {"--gate", OPTION_FLAG, NULL, &f.gate,
         "generate after 8 prompts out of the text, too, and say\nwhether a plan has collapsed", 0, 0},
        TASK_OPTIONS(&f.task),
    };
    struct command_line line = {
        .command = "eval",
        .arguments = "MODEL --text FILE|--task gsm8k|mcq --data FILE",
        .about =
            "Compares plans with the 16-bit cache on the same tokens; every position reads the "
            "quantized cache\n"
            "of the positions before it. KLD: KL(16 bits || plan) over the vocabulary, in nats.\n"
            "Products are taken in int16 unless --act says otherwise.\n\n"
            "--task gsm8k answers questions greedily after worked examples, as lm-evaluation-harness does\n"
            "(flexible-extract); --task mcq takes the likeliest letter of multiple choices. Both compare\n"
            "accuracy question by question.",
        .examples =
            "  kvant eval model.gguf --text wiki.txt --kv k8v8 --kv k4v4 --kv model.kvplan.yaml\n"
            "  kvant eval model.gguf --text wiki.txt -c 512 --chunks 2 --kv f16 --logits logits.npy\n"
            "  kvant eval model.gguf --text wiki.txt --gate --kv k3c64v2h --kv k2tv2\n"
            "  kvant eval model.gguf --task gsm8k --data test.jsonl --shots-from train.jsonl --limit 200\n"
            "  kvant eval model.gguf --task mcq --data commonsenseqa.jsonl --kv k3c64v2h",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    int code = setup_model_path(&line, &f.model, 0);
    if (code != EXIT_OK) return code;
    if (!f.model.act) f.model.act = "int16"; /* the noise of 8 bits is larger than what good plans cost */
    if (f.task.name) {
        if (f.text_path || f.logits_path || f.gate || f.n_ctx || f.n_chunks)
            return fail_usage("eval",
                              "--text, --logits, --gate, -c and --chunks have no meaning with --task");
        if (!f.task.data_path) return fail_usage("eval", "--task needs questions: --data FILE.jsonl");
        return eval_task(&f.task, &f.kv, &f.plan, &f.model);
    }
    if (task_flags_given(&f.task))
        return fail_usage("eval", "--data, --shots, --shots-from, --limit, -n, --sequences and --answers "
                                  "need --task");
    if (f.n_ctx == 1) return fail_usage("eval", "-c 1 leaves nothing to score; give at least 2");
    if (!f.text_path) return fail_usage("eval", "no text: name a file with --text FILE");
    return execute(&f);
}

const struct command command_eval = {"eval", "compare plans with the 16-bit cache on a text", run};
