#include "bench_predict.h"

#include <stdlib.h>

#include "json.h"
#include "predict.h"
#include "progress.h"

struct predicted {
    struct kvant_model *model;
    struct kvant_model_info info;
    int64_t contexts[PREDICT_CONTEXTS_CAP];
    int n_contexts, n_plans;
    struct kvant_plan *plans[OPTION_LIST_CAP];
    char names[OPTION_LIST_CAP][256];
    struct predict_times times;
};

static int report_json(const struct predicted *p, const char *path)
{
    json_t *results = json_array();
    for (int i = 0; i < p->n_plans; i++) {
        struct prediction predictions[PREDICT_CONTEXTS_CAP];
        predict_plan(&p->times, p->model, p->plans[i], predictions);
        for (int j = 0; j < p->n_contexts; j++)
            json_array_append_new(results, json_pack("{s:s, s:I, s:o, s:I}", "kv", p->names[i], "depth",
                                                     (json_int_t)predictions[j].context, "tokens_per_s",
                                                     json_number(predictions[j].tokens_per_s), "cache_bytes",
                                                     (json_int_t)predictions[j].memory_bytes));
    }
    return json_finish(json_pack("{s:{s:i, s:o, s:s, s:s}, s:s, s:o, s:o}", "machine", "threads",
                                 p->info.n_threads, "read_gb_per_s", json_number(p->times.read_gb_per_s),
                                 "cpu", p->info.cpu, "act", kvant_act_name(p->info.act), "model", path,
                                 "token_s", json_number(p->times.token_s), "results", results));
}

static int report_text(const struct predicted *p)
{
    static const char dashes[] = "------------------------";
    printf("%s %s, %d threads, %s, read bandwidth %.1f GB/s; at depth 0 a token takes %.2f ms\n\n",
           p->info.architecture, p->info.quantization, p->info.n_threads, p->info.cpu, p->times.read_gb_per_s,
           1e3 * p->times.token_s);
    printf("| %-24s | %9s | %12s | %9s |\n", "kv", "depth", "tokens/s", "cache");
    printf("| %.24s | %.8s: | %.11s: | %.8s: |\n", dashes, dashes, dashes, dashes);
    for (int i = 0; i < p->n_plans; i++) {
        struct prediction predictions[PREDICT_CONTEXTS_CAP];
        predict_plan(&p->times, p->model, p->plans[i], predictions);
        for (int j = 0; j < p->n_contexts; j++) {
            char bytes[32];
            printf("| %-24s | %9lld | %12.2f | %9s |\n", p->names[i], (long long)predictions[j].context,
                   predictions[j].tokens_per_s, bytes_text(bytes, (double)predictions[j].memory_bytes));
        }
    }
    return finish_output();
}

static int measure(struct predicted *p, const struct predict_flags *flags)
{
    struct kvant_error err;
    struct progress progress;
    int code = setup_plans_listed(p->plans, p->names, &p->n_plans, p->model, flags->kv, flags->plan);
    if (code != EXIT_OK) return code;
    interrupt_catch();
    progress_begin(&progress);
    kvant_status status = predict_measure(&p->times, p->model, (const struct kvant_plan *const *)p->plans,
                                          p->n_plans, p->contexts, p->n_contexts, progress_update, &progress,
                                          &err);
    progress_end(&progress);
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

int bench_predict(const struct predict_flags *flags)
{
    struct predicted *p = allocate(1, sizeof *p);
    double depths[PREDICT_CONTEXTS_CAP];
    if (flags->depths_text) {
        p->n_contexts = numbers_parse(flags->depths_text, 1, 1e7, depths, PREDICT_CONTEXTS_CAP);
        for (int i = 0; i < p->n_contexts; i++) p->contexts[i] = (int64_t)depths[i];
    }
    if (p->n_contexts < 0) {
        free(p);
        return fail_usage("bench", "-d: '%s' is not a list of at most %d depths from 1 such as 4096,32768",
                          flags->depths_text, PREDICT_CONTEXTS_CAP);
    }
    int code = setup_model(&p->model, flags->model, false);
    if (code == EXIT_OK) kvant_model_get_info(p->model, &p->info);
    if (code == EXIT_OK && p->n_contexts == 0)
        p->n_contexts = predict_contexts(p->info.n_ctx_train, p->contexts);
    if (code == EXIT_OK) code = measure(p, flags);
    if (code == EXIT_OK) code = flags->model->json ? report_json(p, flags->model->path) : report_text(p);
    for (int i = 0; i < p->n_plans; i++) kvant_plan_close(p->plans[i]);
    kvant_model_close(p->model);
    free(p);
    return code;
}
