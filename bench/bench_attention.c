/*
 * Attention of one layer for one new token: milliseconds, bytes of cache read per second, and time against a 16-bit
 * cache, at 4096 and 32768 tokens. 8 KV heads, 4 query heads each. The plans take turns; the best of several rounds counts.
 *
 * usage: bench_attention [threads [level]]      level: scalar | avx2 | avx512
 */
#include "base/half.h"
#include "base/memory.h"
#include "model/attention.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N_HEAD_KV = 8, GROUP = 4, N_HEAD = N_HEAD_KV * GROUP, STEP = 512, N_ROUNDS = 7 };

static const char *const specs[] = { "f16", "k8tv8", "k4c64v4h", "k3c64v3h", "k2c32v2h" };
enum { N_SPECS = sizeof specs / sizeof *specs };

struct sequence {
    struct kvant_plan *plan;
    struct kv_seq *seq;
    double best_s;
};

struct bench {
    struct kv_kernels kernels;
    struct kv_pool *pool;
    struct kv_store *store;
    struct kv_attn_scratch *scratch;
    int head_dim;
    int64_t stride;    /* of rows: N_HEAD_KV · head_dim                  */
    uint16_t *rows;    /* (STEP, N_HEAD_KV, head_dim), for keys and values */
    float *q, *out;    /* (N_HEAD, head_dim)                             */
    void *write_scratch;
};

static void must(kvant_status status, const struct kvant_error *err)
{
    if (status == KVANT_OK) return;
    fprintf(stderr, "bench_attention: %s\n", err->message);
    exit(1);
}

static void *must_alloc(size_t n, size_t size)
{
    void *p = kv_alloc(n, size);
    if (!p) {
        fprintf(stderr, "bench_attention: out of memory\n");
        exit(1);
    }
    return p;
}

static void begin(const struct bench *b, struct kv_seq *seq, int64_t n)
{
    struct kvant_error err;
    must(kv_seq_begin(seq, n, &err), &err);
    for (int h = 0; h < N_HEAD_KV; h++) {
        const uint16_t *own = b->rows + h * b->head_dim;
        must(kv_seq_write(seq, 0, h, own, own, b->stride, b->write_scratch, &err), &err);
    }
}

static void fill(const struct bench *b, struct kv_seq *seq, int64_t n_tokens)
{
    for (int64_t n = 0; n < n_tokens; n += STEP) {
        begin(b, seq, STEP);
        for (int h = 0; h < N_HEAD_KV; h++) {
            const uint16_t *own = b->rows + h * b->head_dim;
            kv_seq_commit_head(seq, 0, h, own, own, b->stride);
        }
        kv_seq_commit(seq);
    }
}

static double time_once(const struct bench *b, const struct sequence *s, int64_t n_tokens)
{
    const struct kv_attn_run run = { s->seq, n_tokens, 0, 1 };
    const struct kv_attn_call call = { &run, 1, 0, N_HEAD, N_HEAD_KV, b->head_dim, 1.0f / sqrtf((float)b->head_dim),
                                       b->q, b->rows, b->rows, b->out };
    double start = kv_clock_s();
    kv_attention(b->pool, &b->kernels, &call, b->scratch);
    return kv_clock_s() - start;
}

static void measure(struct bench *b, int64_t n_tokens)
{
    struct sequence s[N_SPECS];
    struct kvant_error err;
    const struct kv_plan_dims dims = { "bench", "llama", "none", 1, N_HEAD_KV, b->head_dim };
    for (int i = 0; i < N_SPECS; i++) {
        s[i].best_s = INFINITY;
        must(kv_plan_open(&s[i].plan, &dims, specs[i], &err), &err);
        must(kv_seq_open(&s[i].seq, b->store, s[i].plan, n_tokens + 1, &err), &err);
        fill(b, s[i].seq, n_tokens);
        begin(b, s[i].seq, 1); /* stays open: every call reads the same step */
    }
    for (int round = 0; round < N_ROUNDS; round++)
        for (int i = 0; i < N_SPECS; i++) {
            double t = time_once(b, &s[i], n_tokens);
            if (t < s[i].best_s) s[i].best_s = t;
        }
    for (int i = 0; i < N_SPECS; i++) {
        struct kvant_plan_memory memory;
        kv_plan_memory(s[i].plan, n_tokens, &memory);
        printf("%8d %7lld %-10s %9.3f %8.2f %8.2f\n", b->head_dim, (long long)n_tokens, specs[i], 1e3 * s[i].best_s,
               (double)memory.bytes_per_token * (double)n_tokens / s[i].best_s / 1e9, s[i].best_s / s[0].best_s);
        kv_seq_close(s[i].seq);
        kvant_plan_close(s[i].plan);
    }
}

static void bench_head_size(struct bench *b, int head_dim, int n_threads)
{
    struct kvant_error err;
    float inv_freq[KV_HEAD_DIM_MAX / 2];
    const struct kv_rope rope = { head_dim, head_dim, true, inv_freq };
    for (int p = 0; p < head_dim / 2; p++) inv_freq[p] = (float)pow(10000.0, -2.0 * p / head_dim);
    b->head_dim = head_dim;
    b->stride = N_HEAD_KV * head_dim;
    size_t n = STEP * (size_t)b->stride, n_q = (size_t)(N_HEAD * head_dim);
    b->rows = must_alloc(n, sizeof *b->rows);
    b->q = must_alloc(n_q, sizeof *b->q);
    b->out = must_alloc(n_q, sizeof *b->out);
    b->write_scratch = must_alloc(1, kv_seq_scratch_bytes(head_dim));
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) b->rows[i] = kv_f32_to_f16((float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f);
    for (size_t i = 0; i < n_q; i++) b->q[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1.0f;
    must(kv_store_open(&b->store, &b->kernels, &rope, &err), &err);
    must(kv_attn_scratch_open(&b->scratch, n_threads, 1, 1, N_HEAD, N_HEAD_KV, head_dim, &err), &err);
    measure(b, 4096);
    measure(b, 32768);
    kv_attn_scratch_close(b->scratch);
    kv_store_close(b->store);
    kv_free(b->rows);
    kv_free(b->q);
    kv_free(b->out);
    kv_free(b->write_scratch);
}

int main(int argc, char **argv)
{
    struct bench b;
    struct kvant_error err;
    int n_threads = argc > 1 ? atoi(argv[1]) : kv_cpu_count();
    int level = argc > 2 ? kv_cpu_level_parse(argv[2]) : (int)kv_cpu_detect();
    if (n_threads < 1 || n_threads > 256 || level < 0 || level > (int)kv_cpu_detect()) {
        fprintf(stderr, "usage: bench_attention [threads 1..256 [scalar | avx2 | avx512, as far as this CPU goes]]\n");
        return 2;
    }
    kv_kernels_select(&b.kernels, (enum kv_cpu_level)level);
    must(kv_pool_open(&b.pool, n_threads, &err), &err);
    printf("%d threads, %s; %d KV heads, %d query heads each\n", n_threads, kv_cpu_level_name((enum kv_cpu_level)level), N_HEAD_KV, GROUP);
    printf("%8s %7s %-10s %9s %8s %8s\n", "head_dim", "tokens", "plan", "ms", "GB/s", "to f16");
    bench_head_size(&b, 64, n_threads);
    bench_head_size(&b, 128, n_threads);
    kv_pool_close(b.pool);
    return 0;
}
