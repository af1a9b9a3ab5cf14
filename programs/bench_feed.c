#include "bench_feed.h"

#include <stdlib.h>

static kvant_token next_token(struct feeder *f)
{
    f->random = f->random * 1664525u + 1013904223u;
    return (kvant_token)((f->random >> 8) % (uint32_t)f->n_vocab);
}

kvant_status feed_prompts(struct feeder *f, const int *seqs, int64_t n_each, int64_t from, int64_t n,
                          struct kvant_error *err)
{
    struct kvant_batch_entry entries[PASS_TOKENS];
    for (int64_t i = 0; i < n; i++)
        entries[i] = (struct kvant_batch_entry){ seqs[(from + i) / n_each], next_token(f),
                                                 (from + i + 1) % n_each == 0 };
    return kvant_session_step(f->session, entries, (size_t)n, err);
}

kvant_status feed_each(struct feeder *f, const int *seqs, int n_seqs, struct kvant_error *err)
{
    struct kvant_batch_entry entries[BATCH_CAP];
    for (int i = 0; i < n_seqs; i++) entries[i] = (struct kvant_batch_entry){ seqs[i], next_token(f), true };
    return kvant_session_step(f->session, entries, (size_t)n_seqs, err);
}

int feed_warm_up(struct feeder *f, const struct kvant_model *model)
{
    struct kvant_error err;
    struct kvant_plan *plan = NULL;
    int seq;
    kvant_status status = kvant_plan_open(&plan, model, "f16", &err);
    if (status == KVANT_OK) status = kvant_sequence_open(f->session, plan, 64, &seq, &err);
    if (status == KVANT_OK) {
        status = feed_prompts(f, &seq, 32, 0, 32, &err);
        kvant_sequence_close(f->session, seq);
    }
    kvant_plan_close(plan);
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}
