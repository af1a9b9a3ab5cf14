/* kvant info: what a model is, and the exact memory that it takes under several plans. */
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "setup.h"

struct memory_row {
    const char *name;
    struct kvant_plan_memory memory;
};

struct report {
    struct kvant_model_info info;
    const struct kvant_model *model;
    int64_t n_ctx;
    size_t held_bytes; /* weights in memory when the model runs: copied, or read from the map */
    size_t scratch_bytes;
    char plan_name[256];
    const char *plan_source;
    struct memory_row rows[4];
    int n_rows;
};

static int add_plan(struct report *r, const char *spec, const char *name)
{
    struct kvant_plan *plan;
    if (setup_plan_open(&plan, r->model, spec) != EXIT_OK) return EXIT_FAILED;
    if (strcmp(name, "plan") == 0) snprintf(r->plan_name, sizeof r->plan_name, "%s", kvant_plan_name(plan));
    struct memory_row *row = &r->rows[r->n_rows++];
    row->name = name;
    kvant_plan_get_memory(plan, r->n_ctx, &row->memory);
    kvant_plan_close(plan);
    return EXIT_OK;
}

static json_t *memory_json(const struct report *r)
{
    json_t *list = json_array();
    for (int i = 0; i < r->n_rows; i++) {
        const struct kvant_plan_memory *m = &r->rows[i].memory;
        size_t cache = m->total_bytes + m->tables_bytes;
        json_array_append_new(
            list, json_pack("{s:s, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "kv", r->rows[i].name,
                            "weights_bytes", (json_int_t)r->held_bytes, "cache_bytes",
                            (json_int_t)cache, "scratch_bytes", (json_int_t)r->scratch_bytes, "total_bytes",
                            (json_int_t)(r->held_bytes + cache + r->scratch_bytes), "page_bits",
                            json_number(m->page_bits), "true_bits", json_number(m->true_bits),
                            "bytes_per_token", json_number(m->bytes_per_token)));
    }
    return list;
}

static json_t *weights_json(const struct kvant_model *model)
{
    json_t *list = json_array();
    const char *name;
    int64_t n;
    size_t bytes;
    for (int i = 0; kvant_model_weight_type(model, i, &name, &n, &bytes); i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "type", name, "tensors", (json_int_t)n,
                                              "bytes", (json_int_t)bytes));
    return list;
}

static bool is_outlier(const struct report *r, int layer, int head_kv, struct kvant_key_bias *bias)
{
    return kvant_model_key_bias(r->model, layer, head_kv, bias) && bias->is_outlier;
}

static json_t *outliers_json(const struct report *r)
{
    json_t *list = json_array();
    for (int i = 0; i < r->info.n_layer; i++) {
        struct kvant_key_bias bias, of_head;
        if (!is_outlier(r, i, -1, &bias)) continue;
        json_t *heads = json_array();
        for (int head = 0; head < r->info.n_head_kv; head++)
            if (is_outlier(r, i, head, &of_head)) json_array_append_new(heads, json_integer(head));
        json_array_append_new(list, json_pack("{s:i, s:o, s:o, s:o}", "layer", i, "max",
                                              json_number((double)bias.max), "norm",
                                              json_number((double)bias.norm), "kv_heads", heads));
    }
    return list;
}

static int report_json(const struct report *r)
{
    const struct kvant_model_info *m = &r->info;
    return json_finish(json_pack(
        "{s:s, s:o, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, "
        "s:I, s:I, s:I, s:I, s:I,"
        " s:o, s:o, s:o, s:s, s:I, s:o}",
        "path", m->path, "name", json_text(m->name, strlen(m->name)), "architecture", m->architecture,
        "fingerprint", m->fingerprint, "tokenizer", m->tokenizer, "pre_tokenizer", m->pre_tokenizer,
        "chat_format", m->chat_format, "cpu", m->cpu, "quantization", m->quantization, "layers", m->n_layer,
        "heads", m->n_head, "kv_heads", m->n_head_kv, "head_dim", m->head_dim, "embedding", m->n_embd,
        "feed_forward", m->n_ff, "vocabulary", m->n_vocab, "context_trained", m->n_ctx_train, "threads",
        m->n_threads, "parameters", (json_int_t)m->n_params, "tensors", (json_int_t)m->n_tensors,
        "weights_bytes", (json_int_t)m->weights_bytes, "file_bytes", (json_int_t)m->file_bytes,
        "repacked_bytes", (json_int_t)m->repacked_bytes, "mapped_bytes", (json_int_t)m->mapped_bytes,
        "weights", weights_json(r->model), "key_bias_median",
        json_number((double)kvant_model_key_bias_median(r->model)), "key_bias_outliers", outliers_json(r),
        "plan", r->plan_name, "context", (json_int_t)r->n_ctx, "memory", memory_json(r)));
}

/* Nothing for a model whose keys have no biases. */
static void print_outliers(const struct report *r)
{
    int n_biased = 0, n_outliers = 0;
    float max = 0.0f;
    struct kvant_key_bias bias;
    for (int first = 0, last; first < r->info.n_layer; first = last + 1) {
        last = first;
        if (!kvant_model_key_bias(r->model, first, -1, &bias)) continue;
        n_biased++;
        if (bias.max > max) max = bias.max;
        if (!bias.is_outlier) continue;
        while (is_outlier(r, last + 1, -1, &bias)) {
            last++;
            if (bias.max > max) max = bias.max;
        }
        printf("%s%d", n_outliers++ ? ", " : "key biases      outliers in layers ", first);
        if (last > first) printf("-%d", last);
    }
    if (n_biased == 0) return;
    printf("%s (largest %.0f, median layer %.1f)%s\n", n_outliers ? "" : "key biases      no outliers",
           (double)max, (double)kvant_model_key_bias_median(r->model), n_outliers ? ":" : "");
    if (n_outliers)
        puts("                keys per token in 4 bits or fewer would collapse unless centred (m)");
}

static int report_text(const struct report *r)
{
    const struct kvant_model_info *m = &r->info;
    char a[32], b[32], c[32], d[32];
    printf("file            %s, %s, %lld tensors\n", m->path, bytes_text(a, (double)m->file_bytes),
           (long long)m->n_tensors);
    printf("name            %s\n", m->name[0] ? m->name : "(none)");
    printf("architecture    %s, %.1f M parameters\n", m->architecture, (double)m->n_params / 1e6);
    printf("dimensions      %d layers, %d heads, %d KV heads of %d, embedding %d, feed-forward %d\n",
           m->n_layer, m->n_head, m->n_head_kv, m->head_dim, m->n_embd, m->n_ff);
    printf("context         %d tokens trained\n", m->n_ctx_train);
    printf("tokenizer       %s%s%s, %d tokens; chat format %s\n", m->tokenizer,
           m->pre_tokenizer[0] ? " / " : "", m->pre_tokenizer, m->n_vocab, m->chat_format);
    const char *name;
    int64_t n;
    size_t bytes;
    for (int i = 0; kvant_model_weight_type(r->model, i, &name, &n, &bytes); i++)
        printf("%-16s%-7s %5lld tensors %12s\n", i == 0 ? "weights" : "", name, (long long)n,
               bytes_text(a, (double)bytes));
    if (r->held_bytes == m->weights_bytes)
        puts("                read from the mapped file");
    else
        printf("                %s repacked into memory, %s read from the mapped file\n",
               bytes_text(a, (double)m->repacked_bytes), bytes_text(b, (double)m->mapped_bytes));
    printf("fingerprint     %s\n", m->fingerprint);
    printf("processor       %s, %d threads, %s activations, attention %s%s\n", m->cpu, m->n_threads,
           kvant_act_name(m->act), m->attn == KVANT_ATTN_F32 ? "in float32 (slow)" : "over codes",
           strcmp(m->cpu, "scalar") == 0 ? "; plain C (slow): no kernel for this processor is used" : "");
    print_outliers(r);
    printf("cache plan      %s, %s\n", r->plan_name, r->plan_source);

    printf("\nmemory of one sequence of %lld tokens\n", (long long)r->n_ctx);
    printf("  %-8s %10s %12s %12s %12s %12s %10s %10s\n", "plan", "page bits", "true bits", "weights",
           "cache", "scratch", "total", "per token");
    for (int i = 0; i < r->n_rows; i++) {
        const struct kvant_plan_memory *p = &r->rows[i].memory;
        char per_token[32];
        size_t cache = p->total_bytes + p->tables_bytes;
        printf("  %-8s %10.3f %12.3f %12s %12s %12s %10s %10s\n", r->rows[i].name, p->page_bits, p->true_bits,
               bytes_text(a, (double)r->held_bytes), bytes_text(b, (double)cache),
               bytes_text(c, (double)r->scratch_bytes),
               bytes_text(d, (double)(r->held_bytes + cache + r->scratch_bytes)),
               bytes_text(per_token, p->bytes_per_token));
    }
    puts("page bits: of an element of the cache, with scales and minima; true bits: with the exact sinks and "
         "tail, too");
    return finish_output();
}

static const char *plan_source(const struct plan_flags *flags, const char *spec)
{
    if (flags->kv) return "from --kv";
    if (flags->type_k || flags->type_v) return "from -ctk and -ctv";
    if (flags->kv_plan) return "from --kv-plan";
    return strcmp(spec, "default") == 0 ? "the safe default" : "the plan file beside the model";
}

static int run(int argc, char **argv)
{
    struct model_flags flags = {0};
    struct plan_flags plan_flags = {0};
    int64_t n_ctx = 0;
    const struct option options[] = {
        MODEL_OPTIONS(&flags),
        {"-c, --ctx-size", OPTION_INT, "N", &n_ctx,
         "context that memory is stated for; 0 = the smaller of\n8192 and the model's (default)", 0, 1e9},
        PLAN_OPTIONS(&plan_flags),
    };
    struct command_line line = {
        .command = "info",
        .arguments = "MODEL",
        .about =
            "Shows what a model is, and the exact memory of weights, cache and scratch for a 16-bit cache,\n"
            "8/8, 4/4 and the plan that would be used.",
        .examples = "  kvant info model.gguf\n  kvant info model.gguf --kv k3c64v2h -c 32768 --json",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    int code = setup_model_path(&line, &flags, 0);
    if (code != EXIT_OK) return code;

    struct kvant_model *model = NULL;
    bool repacks = !flags.no_repack;
    flags.no_repack = true; /* nothing is run here: the copy is counted, not made */
    code = setup_model(&model, &flags, false);
    if (code != EXIT_OK) return code;
    struct report report = {.model = model, .n_ctx = setup_context(model, n_ctx)};
    struct kvant_session_options session = KVANT_SESSION_OPTIONS_INIT;
    session.n_sequences = 1;
    kvant_model_get_info(model, &report.info);
    repacks = repacks && report.info.repacked_bytes > 0;
    report.held_bytes =
        repacks ? report.info.repacked_bytes + report.info.mapped_bytes : report.info.weights_bytes;
    report.scratch_bytes = kvant_session_scratch_bytes(model, &session);

    char spec[4096];
    code = setup_plan_choose(model, &plan_flags, spec);
    report.plan_source = plan_source(&plan_flags, spec);
    if (code == EXIT_OK) code = add_plan(&report, "f16", "f16");
    if (code == EXIT_OK) code = add_plan(&report, "k8v8", "k8v8");
    if (code == EXIT_OK) code = add_plan(&report, "k4v4", "k4v4");
    if (code == EXIT_OK) code = add_plan(&report, spec, "plan");
    if (code == EXIT_OK) code = flags.json ? report_json(&report) : report_text(&report);
    kvant_model_close(model);
    return code;
}

const struct command command_info = {"info", "what a model is, and the memory it takes", run};
