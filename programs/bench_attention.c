/* Attention alone: the table or the JSON of what kvant_bench_attention measures. */
#include "bench_attention.h"

#include <stdlib.h>

#include "json.h"
#include "progress.h"

#define LENGTHS_CAP 16
#define QUICK_BUDGET_S 25.0 /* one round over everything and --quick's 40 s leave room for a slow machine */

static const char *const default_plans[] = {"f16", "k8v8", "k4v4", "k3c64xv3h", "k2v2"};

struct measured {
    const char *const *specs;
    struct kvant_attention_row *rows;
    size_t n_rows;
    struct kvant_attention_machine machine;
};

static const char *mode_name(const struct kvant_attention_row *row)
{
    return row->prefill ? "prefill" : "decode";
}

static int report_json(const struct measured *m)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < m->n_rows; i++) {
        const struct kvant_attention_row *r = &m->rows[i];
        json_array_append_new(
            rows, json_pack("{s:s, s:s, s:i, s:i, s:i, s:I, s:i, s:o, s:I, s:o, s:o, s:i}", "mode",
                            mode_name(r), "kv", m->specs[r->plan], "head_dim", m->machine.head_dim, "heads",
                            m->machine.n_head, "kv_heads", m->machine.n_head_kv, "tokens",
                            (json_int_t)r->n_tokens, "queries", r->n_queries, "ms", json_number(r->ms),
                            "bytes", (json_int_t)r->bytes, "gb_per_s", json_number(r->gb_per_s),
                            "of_read_bandwidth", json_number(r->of_read_bandwidth), "n", r->n_rounds));
    }
    return json_finish(json_pack("{s:{s:i, s:o, s:s}, s:o}", "machine", "threads", m->machine.n_threads,
                                 "read_gb_per_s", json_number(m->machine.read_gb_per_s), "cpu",
                                 m->machine.cpu, "results", rows));
}

static int report_text(const struct measured *m)
{
    static const char dashes[] = "----------------";
    printf("one layer, %d heads over %d KV heads of %d, %d threads, %s, read bandwidth %.1f GB/s\n\n",
           m->machine.n_head, m->machine.n_head_kv, m->machine.head_dim, m->machine.n_threads, m->machine.cpu,
           m->machine.read_gb_per_s);
    printf("| %-16s | %-7s | %9s | %9s | %9s | %7s | %12s |\n", "kv", "mode", "tokens", "ms", "bytes", "GB/s",
           "of bandwidth");
    printf("| %.16s | %.7s | %.8s: | %.8s: | %.8s: | %.6s: | %.11s: |\n", dashes, dashes, dashes, dashes,
           dashes, dashes, dashes);
    for (size_t i = 0; i < m->n_rows; i++) {
        const struct kvant_attention_row *r = &m->rows[i];
        char bytes[32], share[32];
        snprintf(share, sizeof share, "%.1f %%", 100.0 * r->of_read_bandwidth);
        printf("| %-16s | %-7s | %9lld | %9.3f | %9s | %7.2f | %12s |\n", m->specs[r->plan], mode_name(r),
               (long long)r->n_tokens, r->ms, bytes_text(bytes, (double)r->bytes), r->gb_per_s, share);
    }
    return finish_output();
}

int bench_attention(const struct attention_flags *flags)
{
    struct kvant_error err;
    struct progress progress;
    struct kvant_attention_options options = KVANT_ATTENTION_OPTIONS_INIT;
    const char *text = flags->tokens_text ? flags->tokens_text : "4096,32768";
    double numbers[LENGTHS_CAP];
    int64_t lengths[LENGTHS_CAP];
    int n_lengths = numbers_parse(text, 1, 1 << 30, numbers, LENGTHS_CAP);
    if (n_lengths < 0)
        return fail_usage("bench", "--tokens: '%s' is not a list of at most %d lengths such as 4096,32768",
                          text, LENGTHS_CAP);
    for (int i = 0; i < n_lengths; i++) lengths[i] = (int64_t)numbers[i];
    options.n_threads = (int)flags->model->n_threads;
    options.cpu = flags->model->cpu;
    options.n_head = (int)flags->n_heads;
    options.n_head_kv = (int)flags->n_kv_heads;
    options.head_dim = (int)flags->head_dim;
    options.n_tokens = lengths;
    options.n_lengths = n_lengths;
    options.n_rounds = (int)flags->n_rounds;
    options.budget_s = flags->quick ? QUICK_BUDGET_S : 0.0;
    options.progress = progress_update;
    options.user = &progress;

    struct measured m = {.specs = flags->kv->n ? flags->kv->items : default_plans};
    int n_specs = flags->kv->n ? flags->kv->n : (int)(sizeof default_plans / sizeof *default_plans);
    size_t cap = 2 * (size_t)n_specs * (size_t)n_lengths;
    m.rows = allocate(cap, sizeof *m.rows);
    interrupt_catch();
    progress_begin(&progress);
    kvant_status status = kvant_bench_attention(m.specs, n_specs, &options, m.rows, cap, &m.n_rows,
                                                &m.machine, &err);
    progress_end(&progress);
    int code = status != KVANT_OK ? fail(&err) : flags->model->json ? report_json(&m) : report_text(&m);
    free(m.rows);
    return code;
}
