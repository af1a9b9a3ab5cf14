/*
 * Attention alone, measured: one layer's cache under each plan, as the store keeps it, and the calls that a
 * forward pass makes.
 *
 *   for each length:  fill ── [ empty caches ── attention ] × plans × rounds        prefill: 512 queries
 *                     append ── [ empty caches ── attention ] × plans × rounds      decode: 1 query
 *
 * Plans take turns, so that whatever else the machine does meets all of them; medians count. What empties the
 * caches is the pass that measures the read bandwidth: both come from the same seconds.
 */
#include "base/half.h"
#include "base/memory.h"
#include "cache/kv_layout.h"
#include "model/attention.h"
#include "run/machine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP 512            /* rows of a step, as a session's */
#define LENGTH_MAX ((int64_t)1 << 30)
#define ROUNDS_MAX 100
#define DECODE_ROUNDS_MIN 5 /* whatever the budget: 10 ms each */
/* Pairs of channels that calibration centres in keys per channel: 11.0 and 10.6 of 32 on SmolLM2 and Qwen. */
#define TURNING_OF_32 11
#define CLASS_UNIT 8 /* channels that share their bits */

struct subject {
    struct kvant_plan *plan;
    struct kv_seq *seq;
    double seconds[ROUNDS_MAX];
};

struct bench {
    const char *const *specs;
    int n_specs, n_threads, n_head, n_head_kv, head_dim, n_rounds;
    const int64_t *lengths;
    int n_lengths;
    const struct kvant_attention_options *opt;

    struct kv_kernels kernels;
    struct kv_pool *pool;
    struct kv_read_buffer buffer;
    struct kv_store *store;
    struct kv_attn_scratch *scratch;
    struct subject *subjects;  /* (n_specs)                                          */
    float *inv_freq;           /* (head_dim / 2)                                     */
    uint16_t *rows;            /* f16 (STEP, n_head_kv, head_dim): keys and values   */
    float *q, *out;            /* (STEP, n_head, head_dim)                           */
    char *write_scratch;       /* (n_threads, write_stride)                          */
    size_t write_stride;
    struct kvant_error *head_errors; /* (n_head_kv)                                  */

    uint32_t random;
    double started_s, read_gb_per_s;
    int64_t n_done, n_total;   /* fills and measurements                             */
};

/* In [-1, 1). */
static float next_random(struct bench *b)
{
    b->random = b->random * 1664525u + 1013904223u;
    return (float)(b->random >> 8) * 0x1p-23f - 1.0f;
}

/* --------------------------------------------------------------------------------------------- options -- */

static kvant_status read_options(struct bench *b, const struct kvant_attention_options *opt,
                                 struct kvant_error *err)
{
    static const int64_t lengths[] = { 4096, 32768 };
    b->opt = opt;
    if (opt->size != sizeof *opt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_attention_options.size is not set; use KVANT_ATTENTION_OPTIONS_INIT");
    if (opt->n_threads < 0 || opt->n_threads > 256)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_threads is %d, outside [0, 256]", opt->n_threads);
    if (opt->n_rounds < 0 || opt->n_rounds > ROUNDS_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_rounds is %d, outside [0, %d]", opt->n_rounds, ROUNDS_MAX);
    b->n_threads = opt->n_threads ? opt->n_threads : kv_cpu_count();
    b->n_rounds = opt->n_rounds ? opt->n_rounds : 7;
    b->n_head = opt->n_head ? opt->n_head : 32;
    b->n_head_kv = opt->n_head_kv ? opt->n_head_kv : 8;
    b->head_dim = opt->head_dim ? opt->head_dim : 128;
    b->lengths = opt->n_tokens ? opt->n_tokens : lengths;
    b->n_lengths = opt->n_tokens ? opt->n_lengths : 2;
    if (b->head_dim < 8 || b->head_dim > KV_HEAD_DIM_MAX || b->head_dim % 8)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "head size %d: use a multiple of 8, at most %d", b->head_dim,
                KV_HEAD_DIM_MAX);
    if (b->n_head_kv < 1 || b->n_head < b->n_head_kv || b->n_head > 1024 || b->n_head % b->n_head_kv)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d heads over %d KV heads: use a multiple, at most 1024 heads",
                b->n_head, b->n_head_kv);
    for (int i = 0; i < b->n_lengths; i++)
        if (b->lengths[i] < 1 || b->lengths[i] > LENGTH_MAX)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "a cache of %lld tokens: use 1 .. %lld",
                    (long long)b->lengths[i], (long long)LENGTH_MAX);
    return kv_kernels_open(&b->kernels, opt->cpu, err);
}

/* ----------------------------------------------------------------------------------------------- plans -- */

/* Spends the recipe's bits where they lower the error most, on units whose importance falls 1000-fold; the
 * order is scattered, as it is in real heads. */
static void synthetic_classes(struct kv_channels *out, const struct kv_recipe *recipe, int head_dim)
{
    int class_of[KV_HEAD_DIM_MAX / CLASS_UNIT], n_units = head_dim / CLASS_UNIT;
    int bits_left = recipe->key_quarters * n_units / 4;
    for (int u = 0; u < n_units; u++) class_of[u] = KV_N_CLASSES - 1;
    for (;;) {
        int best = -1, best_cost = 0;
        double best_gain = 0.0;
        for (int u = 0; u < n_units; u++) {
            int k = class_of[u];
            if (k == 0) continue;
            int cost = kv_class_bits[k - 1] - kv_class_bits[k];
            double gain = pow(1e-3, (double)u / n_units) * (kv_class_error[k] - kv_class_error[k - 1]) / cost;
            if (cost <= bits_left && gain > best_gain) best = u, best_cost = cost, best_gain = gain;
        }
        if (best < 0) break;
        class_of[best]--;
        bits_left -= best_cost;
    }
    int n = 0;
    memset(out, 0, sizeof *out);
    for (int k = 0; k < KV_N_CLASSES; k++)
        for (int u = 0; u < n_units; u++)
            for (int i = 0; class_of[u] == k && i < CLASS_UNIT; i++, out->count[k]++)
                out->order[n++] = (uint8_t)((u * CLASS_UNIT + i) * 37 % head_dim); /* 37 divides no size */
}

static kvant_status open_plan(struct bench *b, struct subject *s, const char *spec, struct kvant_error *err)
{
    const struct kv_plan_dims dims = { "bench", "llama", "none", 1, b->n_head_kv, b->head_dim };
    size_t n_heads = (size_t)b->n_head_kv;
    KV_TRY(kv_plan_open(&s->plan, &dims, spec, err));
    bool mixed = false;
    for (int h = 0; h < b->n_head_kv; h++) mixed |= kv_plan_recipe_at(s->plan, 0, h)->key_mixed;
    if (kv_plan_centers_keys(s->plan) && !s->plan->center) {
        size_t n = n_heads * (size_t)b->head_dim;
        s->plan->center = kv_alloc(n, sizeof *s->plan->center);
        if (!s->plan->center) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for centres");
        for (size_t i = 0; i < n; i++) {
            size_t head = i / (size_t)b->head_dim, pair = i % ((size_t)b->head_dim / 2);
            bool without = kv_plan_recipe_at(s->plan, 0, (int)head)->key_scheme != KV_KEY_TOKEN &&
                           pair >= (size_t)b->head_dim / 2 * TURNING_OF_32 / 32;
            s->plan->center[i] = without ? 0 : kv_f32_to_f16(next_random(b));
        }
    }
    if (mixed && !s->plan->channels) {
        s->plan->channels = kv_alloc(n_heads, sizeof *s->plan->channels);
        if (!s->plan->channels) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for channel classes");
        for (int h = 0; h < b->n_head_kv; h++) {
            const struct kv_recipe *recipe = kv_plan_recipe_at(s->plan, 0, h);
            if (recipe->key_mixed) synthetic_classes(&s->plan->channels[h], recipe, b->head_dim);
        }
    }
    return kv_plan_check(s->plan, err);
}

/* What a step must read at least once when the cache is n tokens long. */
static size_t cache_bytes(const struct bench *b, const struct kvant_plan *plan, int64_t n)
{
    struct kvant_plan_memory memory;
    int64_t n_sealed = kv_sealed_tokens(plan, n);
    kv_plan_memory(plan, n, &memory);
    size_t row_bytes = 2 * sizeof(uint16_t) * (size_t)b->n_head_kv * (size_t)b->head_dim;
    return (size_t)(memory.bytes_per_token * (double)n_sealed) + (size_t)(n - n_sealed) * row_bytes;
}

/* --------------------------------------------------------------------------------------------- filling -- */

struct head_job {
    struct bench *b;
    struct kv_seq *seq;
};

static void write_head(void *user, int64_t head, int i_thread)
{
    const struct head_job *job = user;
    const struct bench *b = job->b;
    const uint16_t *own = b->rows + head * b->head_dim;
    kv_seq_write(job->seq, 0, (int)head, own, own, (int64_t)b->n_head_kv * b->head_dim,
                 b->write_scratch + (size_t)i_thread * b->write_stride, &b->head_errors[head]);
}

static void commit_head(void *user, int64_t head, int i_thread)
{
    (void)i_thread;
    const struct head_job *job = user;
    const uint16_t *own = job->b->rows + head * job->b->head_dim;
    kv_seq_commit_head(job->seq, 0, (int)head, own, own, (int64_t)job->b->n_head_kv * job->b->head_dim);
}

/* A step up to where attention reads it. */
static kvant_status begin(struct bench *b, struct kv_seq *seq, int64_t n, struct kvant_error *err)
{
    struct head_job job = { b, seq };
    KV_TRY(kv_seq_begin(seq, n, err));
    memset(b->head_errors, 0, (size_t)b->n_head_kv * sizeof *b->head_errors);
    kv_pool_for(b->pool, b->n_head_kv, write_head, &job);
    for (int h = 0; h < b->n_head_kv; h++)
        if (b->head_errors[h].status != KVANT_OK)
            KV_FAIL(err, b->head_errors[h].status, -1, "%s", b->head_errors[h].message);
    return KVANT_OK;
}

static void commit(struct bench *b, struct kv_seq *seq)
{
    struct head_job job = { b, seq };
    kv_pool_for(b->pool, b->n_head_kv, commit_head, &job);
    kv_seq_commit(seq);
}

static kvant_status fill(struct bench *b, struct kv_seq *seq, int64_t n_tokens, struct kvant_error *err)
{
    for (int64_t i = 0; i < n_tokens; i += STEP) {
        KV_TRY(begin(b, seq, n_tokens - i < STEP ? n_tokens - i : STEP, err));
        commit(b, seq);
    }
    return KVANT_OK;
}

/* ------------------------------------------------------------------------------------------- measuring -- */

static kvant_status show(struct bench *b, int i_spec, struct kvant_error *err)
{
    char what[64];
    snprintf(what, sizeof what, "attention %.40s", b->specs[i_spec]);
    if (b->opt->progress && !b->opt->progress(b->opt->user, what, b->n_done, b->n_total))
        KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "stopped while measuring attention");
    b->n_done++;
    return KVANT_OK;
}

static double time_once(struct bench *b, struct kv_seq *seq, int n_queries)
{
    double rate = kv_read_buffer_pass(&b->buffer, b->pool);
    if (rate > b->read_gb_per_s) b->read_gb_per_s = rate;
    const struct kv_attn_run run = { seq, kv_seq_n_tokens(seq), 0, n_queries };
    const struct kv_attn_call call = { .runs = &run, .n_runs = 1, .layer = 0,
                                       .n_head = b->n_head, .n_head_kv = b->n_head_kv,
                                       .head_dim = b->head_dim, .scale = 1.0f / sqrtf((float)b->head_dim),
                                       .q = b->q, .k = b->rows, .v = b->rows, .out = b->out };
    double start = kv_clock_s();
    kv_attention(b->pool, &b->kernels, &call, b->scratch);
    return kv_clock_s() - start;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

/* Rounds over all plans, whose steps are open, until there are enough or time is up. */
static kvant_status measure(struct bench *b, int64_t n_tokens, int64_t n_after, int n_queries, double until_s,
                            struct kvant_attention_row *rows, struct kvant_error *err)
{
    int n = 0;
    double round_s = 0.0;
    while (n < b->n_rounds) {
        double start = kv_clock_s();
        /* A thread that is woken late costs milliseconds, more than the attention of one token: never the
         * only round. */
        int n_least = n_queries == 1 ? DECODE_ROUNDS_MIN : 1;
        if (n >= n_least && b->opt->budget_s > 0.0 && start + round_s > until_s) break;
        for (int i = 0; i < b->n_specs; i++) {
            KV_TRY(show(b, i, err));
            b->subjects[i].seconds[n] = time_once(b, b->subjects[i].seq, n_queries);
        }
        round_s = kv_clock_s() - start;
        n++;
    }
    b->n_done += (int64_t)(b->n_rounds - n) * b->n_specs;
    for (int i = 0; i < b->n_specs; i++) {
        double seconds = median(b->subjects[i].seconds, n);
        rows[i] = (struct kvant_attention_row){ .plan = i, .n_queries = n_queries, .n_tokens = n_tokens,
                                                .n_rounds = n, .ms = 1e3 * seconds,
                                                .bytes = cache_bytes(b, b->subjects[i].plan, n_after) };
        rows[i].gb_per_s = 1e-9 * (double)rows[i].bytes / seconds;
    }
    return KVANT_OK;
}

static int n_modes(const struct bench *b)
{
    return b->opt->decode_only ? 1 : 2;
}

/* The modes at one length: n_specs rows of prefill, if that is wanted, and n_specs of decode. */
static kvant_status measure_length(struct bench *b, int64_t n_tokens, double until_s,
                                   struct kvant_attention_row *rows, struct kvant_error *err)
{
    int n_step = n_tokens < STEP ? (int)n_tokens : STEP;
    for (int i = 0; i < b->n_specs; i++) {
        struct subject *s = &b->subjects[i];
        KV_TRY(show(b, i, err));
        KV_TRY(kv_seq_open(&s->seq, b->store, s->plan, n_tokens + 1, err));
        KV_TRY(fill(b, s->seq, n_tokens - n_step, err));
        KV_TRY(begin(b, s->seq, n_step, err));
    }
    if (!b->opt->decode_only) {
        double now = kv_clock_s();
        KV_TRY(measure(b, n_tokens, n_tokens, n_step, now + 0.6 * (until_s - now), rows, err));
        for (int i = 0; i < b->n_specs; i++) rows[i].prefill = true;
        rows += b->n_specs;
    }
    for (int i = 0; i < b->n_specs; i++) {
        commit(b, b->subjects[i].seq);
        KV_TRY(begin(b, b->subjects[i].seq, 1, err));
    }
    KV_TRY(measure(b, n_tokens, n_tokens + 1, 1, until_s, rows, err));
    for (int i = 0; i < b->n_specs; i++) {
        kv_seq_close(b->subjects[i].seq);
        b->subjects[i].seq = NULL;
    }
    return KVANT_OK;
}

/* ------------------------------------------------------------------------------------------------- all -- */

static kvant_status open_all(struct bench *b, struct kvant_error *err)
{
    size_t n_row = (size_t)b->n_head_kv * (size_t)b->head_dim;
    size_t n_q = STEP * (size_t)b->n_head * (size_t)b->head_dim;
    b->write_stride = kv_seq_scratch_bytes(b->head_dim);
    b->subjects = kv_alloc((size_t)b->n_specs, sizeof *b->subjects);
    b->inv_freq = kv_alloc((size_t)b->head_dim / 2, sizeof *b->inv_freq);
    b->rows = kv_alloc(STEP * n_row, sizeof *b->rows);
    b->q = kv_alloc(n_q, sizeof *b->q);
    b->out = kv_alloc(n_q, sizeof *b->out);
    b->write_scratch = kv_alloc((size_t)b->n_threads, b->write_stride);
    b->head_errors = kv_alloc((size_t)b->n_head_kv, sizeof *b->head_errors);
    if (!b->subjects || !b->inv_freq || !b->rows || !b->q || !b->out || !b->write_scratch || !b->head_errors)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for rows of %d heads of %d", b->n_head, b->head_dim);
    for (int i = 0; i < b->head_dim / 2; i++)
        b->inv_freq[i] = (float)pow(10000.0, -2.0 * i / b->head_dim);
    for (size_t i = 0; i < STEP * n_row; i++) b->rows[i] = kv_f32_to_f16(next_random(b));
    for (size_t i = 0; i < n_q; i++) b->q[i] = next_random(b);
    for (int i = 0; i < b->n_specs; i++) {
        kvant_status status = open_plan(b, &b->subjects[i], b->specs[i], err);
        if (status != KVANT_OK) return kv_error_prefix(err, status, "plan '%s'", b->specs[i]);
    }
    const struct kv_rope rope = { b->head_dim, b->head_dim, true, b->inv_freq };
    KV_TRY(kv_store_open(&b->store, &b->kernels, &rope, err));
    KV_TRY(kv_attn_scratch_open(&b->scratch, b->n_threads, STEP, 1, b->n_head, b->n_head_kv, b->head_dim,
                                err));
    KV_TRY(kv_pool_open(&b->pool, b->n_threads, err));
    return kv_read_buffer_open(&b->buffer, b->pool, err);
}

static void close_all(struct bench *b)
{
    for (int i = 0; b->subjects && i < b->n_specs; i++) {
        if (b->subjects[i].seq) kv_seq_close(b->subjects[i].seq);
        kvant_plan_close(b->subjects[i].plan);
    }
    kv_read_buffer_close(&b->buffer);
    if (b->scratch) kv_attn_scratch_close(b->scratch);
    if (b->store) kv_store_close(b->store);
    if (b->pool) kv_pool_close(b->pool);
    kv_free(b->subjects);
    kv_free(b->inv_freq);
    kv_free(b->rows);
    kv_free(b->q);
    kv_free(b->out);
    kv_free(b->write_scratch);
    kv_free(b->head_errors);
}

static kvant_status measure_all(struct bench *b, struct kvant_attention_row *rows, struct kvant_error *err)
{
    double n_sum = 0.0, n_so_far = 0.0;
    size_t n_rows = (size_t)n_modes(b) * (size_t)b->n_specs;
    for (int i = 0; i < b->n_lengths; i++) n_sum += (double)b->lengths[i];
    b->n_total = (int64_t)b->n_lengths * b->n_specs * (1 + n_modes(b) * b->n_rounds);
    for (int i = 0; i < b->n_lengths; i++) {
        n_so_far += (double)b->lengths[i]; /* each length's part of the budget grows with the length */
        double until_s = b->started_s + b->opt->budget_s * n_so_far / n_sum;
        KV_TRY(measure_length(b, b->lengths[i], until_s, rows + (size_t)i * n_rows, err));
    }
    for (size_t i = 0; i < n_rows * (size_t)b->n_lengths; i++)
        rows[i].of_read_bandwidth = rows[i].gb_per_s / b->read_gb_per_s;
    return KVANT_OK;
}

kvant_status kvant_bench_attention(const char *const *specs, int n_specs,
                                   const struct kvant_attention_options *opt,
                                   struct kvant_attention_row *rows, size_t cap, size_t *n_out,
                                   struct kvant_attention_machine *machine,
                                   struct kvant_error *err)
{
    static const struct kvant_attention_options defaults = KVANT_ATTENTION_OPTIONS_INIT;
    struct bench b = { .specs = specs, .n_specs = n_specs, .random = 1, .started_s = kv_clock_s() };
    *n_out = 0;
    if (n_specs < 1 || n_specs > 256)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d plans; give 1 to 256", n_specs);
    KV_TRY(read_options(&b, opt ? opt : &defaults, err));
    *n_out = (size_t)n_modes(&b) * (size_t)n_specs * (size_t)b.n_lengths;
    if (cap < *n_out)
        KV_FAIL(err, KVANT_ERR_SPACE, -1, "%zu rows are needed, there is room for %zu", *n_out, cap);
    kvant_status status = open_all(&b, err);
    if (status == KVANT_OK) status = measure_all(&b, rows, err);
    if (status == KVANT_OK)
        *machine = (struct kvant_attention_machine){ b.n_threads, b.n_head, b.n_head_kv, b.head_dim,
                                                     kv_cpu_level_name(b.kernels.level), b.read_gb_per_s };
    close_all(&b);
    return status;
}
