/*
 * kv_attention on real sequences against a softmax in double over the rows that each query may read: pages
 * expanded by the plain C kernels up to the query's own border, exact rows from the test's own copy of
 * everything it appended.
 */
#include "base/half.h"
#include "base/memory.h"
#include "model/attention.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_LAYER = 2, N_HEAD_KV = 2, MAX_RUNS = 32 };

static uint64_t state;

static float uniform(float lo, float hi)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return lo + (hi - lo) * (float)(state >> 40) * 0x1p-24f;
}

/* ---------------------------------------------------------------------------------------------- world -- */

/* A store over one head size. */
struct world {
    struct kv_kernels kernels, scalar;
    struct kv_rope rope;
    struct kv_store *store;
    float inv_freq[KV_HEAD_DIM_MAX / 2];
    int head_dim, group;
    void *write_scratch;
};

static void world_open(struct world *w, int head_dim, int group)
{
    memset(w, 0, sizeof *w);
    kv_kernels_select(&w->kernels, kv_cpu_detect());
    kv_kernels_select(&w->scalar, KV_CPU_SCALAR);
    w->head_dim = head_dim;
    w->group = group;
    for (int p = 0; p < head_dim / 2; p++) w->inv_freq[p] = (float)pow(10000.0, -2.0 * p / head_dim);
    w->rope = (struct kv_rope){ head_dim, head_dim, true, w->inv_freq };
    w->write_scratch = kv_alloc(1, kv_seq_scratch_bytes(head_dim));
    assert_non_null(w->write_scratch);
    assert_int_equal(kv_store_open(&w->store, &w->kernels, &w->rope, NULL), KVANT_OK);
}

static void world_close(struct world *w)
{
    kv_store_close(w->store);
    kv_free(w->write_scratch);
}

/* A plan with made-up centres and channel classes where its recipes ask for them. */
static struct kvant_plan *make_plan(const struct world *w, const char *spec)
{
    const struct kv_plan_dims dims = { "test", "llama", "sha256:0", N_LAYER, N_HEAD_KV, w->head_dim };
    struct kvant_plan *plan;
    struct kvant_error err;
    if (kv_plan_open(&plan, &dims, spec, &err) != KVANT_OK) fail_msg("%s: %s", spec, err.message);
    size_t n = N_LAYER * N_HEAD_KV, d = (size_t)w->head_dim;
    bool centered = false, mixed = false;
    for (size_t i = 0; i < n; i++) {
        centered |= plan->recipe[i].key_centered;
        mixed |= plan->recipe[i].key_mixed;
    }
    if (centered) {
        plan->center = kv_alloc(n * d, sizeof *plan->center);
        for (size_t i = 0; i < n * d; i++) plan->center[i] = kv_f32_to_f16(uniform(-3.0f, 3.0f));
    }
    if (mixed) {
        plan->channels = kv_alloc(n, sizeof *plan->channels);
        for (size_t i = 0; i < n; i++) {
            struct kv_channels *ch = &plan->channels[i];
            for (size_t c = 0; c < d; c++)
                ch->order[c] = (uint8_t)((c * 37 + i) % d); /* a permutation: 37 is prime to d */
            /* of 8 4 3 2 0 bits: 2.5 on average */
            static const size_t eighths[KV_N_CLASSES] = { 1, 1, 2, 1, 3 };
            for (int k = 0; k < KV_N_CLASSES; k++) ch->count[k] = (uint16_t)(d / 8 * eighths[k]);
        }
    }
    if (kv_plan_check(plan, &err) != KVANT_OK) fail_msg("%s: %s", spec, err.message);
    return plan;
}

/* A sequence and all that was ever appended to it, the same in every layer. */
struct stream {
    struct kv_seq *seq;
    struct kvant_plan *plan;
    uint16_t *k, *v; /* (n_max, N_HEAD_KV, head_dim)       */
    float *q;        /* (n_max, N_HEAD_KV · group, head_dim) */
    int64_t n_max, n;
};

static void stream_open(struct stream *s, struct world *w, const char *spec, int64_t n_max, uint64_t seed)
{
    size_t row = (size_t)(N_HEAD_KV * w->head_dim), n = (size_t)n_max * row, nq = n * (size_t)w->group;
    state = seed;
    *s = (struct stream){
        NULL, make_plan(w, spec), kv_alloc(n, 2), kv_alloc(n, 2), kv_alloc(nq, 4), n_max, 0
    };
    assert_true(s->k && s->v && s->q);
    float bias[N_HEAD_KV * KV_HEAD_DIM_MAX];
    for (size_t c = 0; c < row; c++) bias[c] = uniform(-2.0f, 2.0f);
    for (size_t i = 0; i < n; i++) {
        s->k[i] = kv_f32_to_f16(bias[i % row] + uniform(-2.0f, 2.0f));
        s->v[i] = kv_f32_to_f16(uniform(-1.0f, 1.0f));
    }
    for (size_t i = 0; i < nq; i++) s->q[i] = uniform(-2.0f, 2.0f);
    struct kvant_error err;
    if (kv_seq_open(&s->seq, w->store, s->plan, n_max, &err) != KVANT_OK)
        fail_msg("%s: %s", spec, err.message);
}

static void stream_close(struct stream *s)
{
    kv_seq_close(s->seq);
    kvant_plan_close(s->plan);
    kv_free(s->k);
    kv_free(s->v);
    kv_free(s->q);
}

/* Softmax in double of one query over what it may read; out: (head_dim). The step is still open. */
static void attend_double(const struct world *w, const struct stream *s, int layer, int head_kv,
                          const struct kv_seq_view *view, int64_t position, const float *q, double *out)
{
    int d = w->head_dim;
    int64_t sinks = s->plan->sinks, sealed = kv_sealed_tokens(s->plan, position + 1), n = position + 1;
    struct kv_codec codec = *kv_seq_codec(s->seq);
    codec.kernels = &w->scalar;
    double *score = kv_alloc((size_t)n, sizeof *score), top = -1e300, sum = 0;
    float *v = kv_alloc((size_t)(n + KV_TILE) * (size_t)d, sizeof *v), kt[KV_HEAD_DIM_MAX * KV_TILE];
    assert_true(score && v);
    for (int64_t t = 0; t < n; t++) {
        size_t row = (size_t)(t * N_HEAD_KV + head_kv) * (size_t)d;
        bool quantized = t >= sinks && t < sinks + sealed;
        int64_t i = (t - sinks) % KV_TILE, page = (t - sinks) / KV_TILE;
        if (quantized && i == 0) {
            int64_t left = sealed - page * KV_TILE;
            int n_tokens = left < KV_TILE ? (int)left : KV_TILE;
            kv_codec_expand_keys(&codec, view->pages[page], layer, head_kv, n_tokens, t, kt);
            kv_codec_expand_values(&codec, view->pages[page], layer, head_kv, n_tokens, v + t * d);
            if (kv_plan_recipe_at(s->plan, layer, head_kv)->value_rotated)
                w->scalar.hadamard(v + t * d, n_tokens, d);
        }
        score[t] = 0;
        for (int c = 0; c < d; c++) {
            if (!quantized) v[t * d + c] = kv_f16_to_f32(s->v[row + (size_t)c]);
            double key = (double)(quantized ? kt[c * KV_TILE + i] : kv_f16_to_f32(s->k[row + (size_t)c]));
            score[t] += (double)q[c] * key / sqrt(d);
        }
        top = fmax(top, score[t]);
    }
    memset(out, 0, (size_t)d * sizeof *out);
    for (int64_t t = 0; t < n; t++) {
        double p = exp(score[t] - top);
        sum += p;
        for (int c = 0; c < d; c++) out[c] += p * (double)v[t * d + c];
    }
    for (int c = 0; c < d; c++) out[c] /= sum;
    kv_free(score);
    kv_free(v);
}

/* Scores are a few units and values below 1: 2^-24 of either, times some √head_dim, with room. */
#define TOLERANCE 5e-6
/* Over codes, queries and probabilities are rounded. With int8 the largest of head_dim products is half a
 * digit of 127 off: at 64 channels of 4 bits here .006 of a score of a few units, and probabilities and so
 * outputs by as much of 1: that is the deviation, and among some 10^5 outputs the largest is 4 of it
 * (measured: .011). With 15 bits it is 1/128 of that. */
#define TOLERANCE_NARROW 2e-2
#define TOLERANCE_WIDE 1e-4

static double tolerance_of(const struct stream *s, const struct kv_attn_call *call, int head_kv)
{
    const struct kv_recipe *r = kv_plan_recipe_at(s->plan, call->layer, head_kv);
    if (call->in_float || (r->key_bits == 16 && r->value_bits == 16)) return TOLERANCE;
    return r->key_bits >= 8 && r->value_bits >= 8 ? TOLERANCE_WIDE : TOLERANCE_NARROW;
}

static void check_run(const struct world *w, const struct stream *s, const struct kv_attn_call *call,
                      const struct kv_attn_run *run)
{
    int64_t stride = N_HEAD_KV * w->head_dim;
    for (int h = 0; h < call->n_head; h++) {
        int head_kv = h / w->group;
        if (h % w->group > 0 && h % w->group < w->group - 1)
            continue; /* the first and last of a group stand for it */
        struct kv_seq_view view;
        size_t own = (size_t)(run->row * stride + head_kv * w->head_dim);
        kv_seq_get_view(run->seq, call->layer, head_kv, call->k + own, call->v + own, stride, &view);
        /* long runs: the borders of blocks, and some between */
        for (int64_t i = 0; i < run->n; i += run->n > 64 ? (i % 32 == 31 ? 1 : 31) : 1) {
            size_t row = (size_t)((run->row + i) * call->n_head + h) * (size_t)w->head_dim;
            double expected[KV_HEAD_DIM_MAX];
            attend_double(w, s, call->layer, head_kv, &view, run->n_before + i, call->q + row, expected);
            for (int c = 0; c < w->head_dim; c++) {
                double error = fabs(expected[c] - (double)call->out[row + (size_t)c]);
                if (!(error < tolerance_of(s, call, head_kv)))
                    fail_msg("%s%s: position %lld, head %d, channel %d: off by %g", kvant_plan_name(s->plan),
                             call->in_float ? " in float32" : "", (long long)(run->n_before + i), h, c,
                             error);
            }
        }
    }
}

/* One step: stream i appends n[i] tokens, in one batch. The outputs of both layers, (N_LAYER, rows, heads,
 * head_dim), go to *out if it is not NULL (owned by the caller). Threads: each size in turn must give the
 * same bits. */
static void step(struct world *w, struct stream *const *streams, const int64_t *n, int n_streams,
                 int max_threads, bool check, float **out)
{
    struct kv_attn_run runs[MAX_RUNS];
    int64_t n_rows = 0;
    for (int i = 0; i < n_streams; i++) {
        runs[i] = (struct kv_attn_run){ streams[i]->seq, streams[i]->n, n_rows, n[i] };
        n_rows += n[i];
        assert_int_equal(kv_seq_begin(streams[i]->seq, n[i], NULL), KVANT_OK);
    }
    size_t row = (size_t)(N_HEAD_KV * w->head_dim), q_row = row * (size_t)w->group,
           n_out = (size_t)n_rows * q_row;
    uint16_t *k = kv_alloc((size_t)n_rows * row, 2), *v = kv_alloc((size_t)n_rows * row, 2);
    float *q = kv_alloc(n_out, 4), *result = kv_alloc(2 * N_LAYER * n_out, 4);
    assert_true(k && v && q && result);
    for (int i = 0; i < n_streams; i++) {
        const struct stream *s = streams[i];
        size_t from = (size_t)s->n, to = (size_t)runs[i].row, count = (size_t)n[i];
        memcpy(k + to * row, s->k + from * row, count * row * 2);
        memcpy(v + to * row, s->v + from * row, count * row * 2);
        memcpy(q + to * q_row, s->q + from * q_row, count * q_row * 4);
    }
    for (int layer = 0; layer < N_LAYER; layer++) {
        float *first = result + (size_t)layer * n_out, *again = result + N_LAYER * n_out;
        struct kv_attn_call call = { runs, n_streams, layer, N_HEAD_KV * w->group, N_HEAD_KV, w->head_dim,
                                     false, 1.0f / sqrtf((float)w->head_dim), q, k, v, first };
        for (int i = 0; i < n_streams * N_HEAD_KV; i++) {
            size_t own = (size_t)runs[i / N_HEAD_KV].row * row + (size_t)(i % N_HEAD_KV * w->head_dim);
            assert_int_equal(kv_seq_write(runs[i / N_HEAD_KV].seq, layer, i % N_HEAD_KV, k + own, v + own,
                                          (int64_t)row, w->write_scratch, NULL),
                             KVANT_OK);
        }
        for (int n_threads = 1; n_threads <= max_threads; n_threads++) {
            struct kv_pool *pool;
            struct kv_attn_scratch *scratch;
            assert_int_equal(kv_pool_open(&pool, n_threads, NULL), KVANT_OK);
            assert_int_equal(kv_attn_scratch_open(&scratch, n_threads, n_rows, n_streams, call.n_head,
                                                  N_HEAD_KV, w->head_dim, NULL),
                             KVANT_OK);
            call.out = n_threads == 1 ? first : again;
            kv_attention(pool, &w->kernels, &call, scratch);
            if (n_threads > 1) assert_memory_equal(first, again, n_out * sizeof(float));
            if (n_threads == 1 && check) { /* the reference over the same cache */
                call.out = again;
                call.in_float = true;
                kv_attention(pool, &w->kernels, &call, scratch);
                for (int i = 0; i < n_streams; i++) check_run(w, streams[i], &call, &runs[i]);
                call.in_float = false;
            }
            kv_attn_scratch_close(scratch);
            kv_pool_close(pool);
        }
        call.out = first;
        for (int i = 0; check && i < n_streams; i++) check_run(w, streams[i], &call, &runs[i]);
        for (int i = 0; i < n_streams * N_HEAD_KV; i++) {
            size_t own = (size_t)runs[i / N_HEAD_KV].row * row + (size_t)(i % N_HEAD_KV * w->head_dim);
            kv_seq_commit_head(runs[i / N_HEAD_KV].seq, layer, i % N_HEAD_KV, k + own, v + own, (int64_t)row);
        }
    }
    for (int i = 0; i < n_streams; i++) {
        kv_seq_commit(streams[i]->seq);
        streams[i]->n += n[i];
    }
    kv_free(k);
    kv_free(v);
    kv_free(q);
    if (out) *out = result;
    else kv_free(result);
}

/* ---------------------------------------------------------------------------------------------- tests -- */

static const char *const specs[] = {
    "f16",
    "k8tv8",
    "k4tv4;sinks=0;tail=0",
    "k4c32v4h",
    "k3c64v3h",
    "k2c32v2g32h",
    "k4tmhv4",
    "k4c64mv2h;sinks=64;tail=5",
    "k2.5c64xv3h",
    "k2.5c64xmsv3hs",
    "k2.5c32xsv2g32s",
    "k4tmhsv4hs",
    "k2.5c32xmv4g32",
    "k4c64v16",
    "k16v4h",
    "0:k3c32mv3,1:k4tv8h",
    "k8c64hv8;sinks=0;tail=300",
};
enum { N_SPECS = sizeof specs / sizeof *specs };

/* Every plan alone: a prompt, single tokens over the border of a page, a long step, single tokens again. */
static void check_plan(int head_dim, int group, const char *spec)
{
    struct world w;
    struct stream s, *streams[] = { &s };
    world_open(&w, head_dim, group);
    stream_open(&s, &w, spec, 400, 17);
    for (int64_t n = 3; s.n < 300; n = s.n < 4 ? 90 : s.n < 103 ? 1 : s.n < 104 ? 150 : s.n < 254 ? 1 : 41)
        step(&w, streams, &n, 1, 1, true, NULL);
    stream_close(&s);
    world_close(&w);
}

static void test_plans(void **unused)
{
    (void)unused;
    for (int i = 0; i < N_SPECS; i++) check_plan(64, i % 3 == 0 ? 1 : i % 3 == 1 ? 3 : 7, specs[i]);
}

static void test_head_sizes(void **unused)
{
    (void)unused;
    check_plan(128, 3, "k4c64v4h");
    check_plan(128, 1, "k2.5c64xmv3g32h");
    check_plan(96, 2, "k3c32mv3g32h");
    check_plan(80, 1, "k4tmhv3h");
    check_plan(256, 1, "k2c64v2h");
}

/* Sequences of different plans and lengths in one batch, some of several chunks, decoding beside prompts. */
static void test_batches(void **unused)
{
    (void)unused;
    struct world w;
    struct stream s[5], *streams[] = { &s[0], &s[1], &s[2], &s[3], &s[4] };
    static const char *const plans[] = { "k4c64v3h", "f16", "k2.5c64xmv2h", "k4tmv4;sinks=0;tail=0", "k8v8" };
    world_open(&w, 64, 3);
    for (int i = 0; i < 5; i++) stream_open(&s[i], &w, plans[i], 2500, 100 + (uint64_t)i);
    static const int64_t steps[][5] = {
        { 1100, 300, 64, 700, 1 }, { 1, 800, 1, 400, 33 }, { 1100, 1, 32, 1, 7 },
        { 1, 1, 1, 1, 1 },         { 7, 40, 1, 33, 1 },
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) step(&w, streams, steps[i], 5, 3, i > 1, NULL);
    for (int i = 0; i < 5; i++) stream_close(&s[i]);
    world_close(&w);
}

/* Forks of one sequence get the same rows in one call that asks for more waiting states than there may be:
 * the first ones are split in parts, the last ones are not, and all have the same bits. */
static void test_split_equals_sequence(void **unused)
{
    (void)unused;
    struct world w;
    struct stream s, forks[MAX_RUNS], *streams[MAX_RUNS] = { &s };
    world_open(&w, 64, 1);
    stream_open(&s, &w, "k3c32v2h", 2300, 5);
    int64_t n = 2200, counts[MAX_RUNS];
    step(&w, streams, &n, 1, 1, false, NULL);
    for (int i = 0; i < MAX_RUNS; i++) {
        counts[i] = 32;
        streams[i] = &forks[i];
        forks[i] = s;
        assert_int_equal(kv_seq_fork(&forks[i].seq, s.seq, NULL), KVANT_OK);
    }
    float *out;
    step(&w, streams, counts, MAX_RUNS, 2, false,
         &out); /* 32 runs × 32 rows × 4 parts = 4096 states of a head, of at most 2048 */
    size_t n_run = (size_t)(32 * N_HEAD_KV * w.head_dim);
    for (size_t i = 1; i < MAX_RUNS; i++) assert_memory_equal(out, out + i * n_run, n_run * sizeof(float));
    kv_free(out);
    for (int i = 0; i < MAX_RUNS; i++) kv_seq_close(forks[i].seq);
    stream_close(&s);
    world_close(&w);
}

/* A prompt in one batch and token by token: the same reads, in other tiles. */
static void test_batch_equals_single(void **unused)
{
    (void)unused;
    for (int i = 0; i < N_SPECS; i++) {
        struct world w;
        struct stream a, b, *streams[] = { &a, &b };
        world_open(&w, 64, 2);
        stream_open(&a, &w, specs[i], 256, 23);
        stream_open(&b, &w, specs[i], 256, 23);
        int64_t n = 230, one = 1;
        float *whole;
        step(&w, streams, &n, 1, 1, false, &whole);
        size_t row = (size_t)(N_HEAD_KV * w.group * w.head_dim);
        for (size_t t = 0; t < (size_t)n; t++) {
            float *single;
            step(&w, streams + 1, &one, 1, 1, false, &single);
            for (size_t layer = 0; layer < N_LAYER; layer++) {
                double error = 0, norm = 0;
                for (size_t c = 0; c < row; c++) {
                    double x = (double)whole[(layer * (size_t)n + t) * row + c],
                           y = (double)single[layer * row + c];
                    error += (x - y) * (x - y);
                    norm += x * x;
                }
                if (!(sqrt(error) <= 1e-5 * sqrt(norm)))
                    fail_msg("%s: position %zu: off by %g", specs[i], t, sqrt(error / norm));
            }
            kv_free(single);
        }
        kv_free(whole);
        stream_close(&a);
        stream_close(&b);
        world_close(&w);
    }
}

static void test_scratch(void **unused)
{
    (void)unused;
    struct kv_attn_scratch *s;
    struct kvant_error err;
    assert_int_equal(kv_attn_scratch_open(&s, 2, 512, 16, 9, 3, 72, NULL), KVANT_OK);
    kv_attn_scratch_close(s);
    kv_attn_scratch_close(NULL);
    assert_true(kv_attn_scratch_bytes(2, 512, 16, 9, 3, 64) < kv_attn_scratch_bytes(3, 512, 16, 9, 3, 64));
    assert_int_equal(kv_attn_scratch_open(&s, 2, 512, 16, 10, 3, 64, &err), KVANT_ERR_UNSUPPORTED);
    assert_null(s);
    assert_int_equal(kv_attn_scratch_open(&s, 2, 512, 16, 9, 3, 68, &err), KVANT_ERR_UNSUPPORTED);
    assert_int_equal(kv_attn_scratch_open(&s, 2, 512, 16, 9, 3, 264, &err), KVANT_ERR_UNSUPPORTED);
    assert_int_equal(kv_attn_scratch_open(&s, 256, 512, INT32_MAX, 1 << 30, 1, 256, &err), KVANT_ERR_MEMORY);
    assert_non_null(strstr(err.message, "bytes"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plans),
        cmocka_unit_test(test_head_sizes),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_split_equals_sequence),
        cmocka_unit_test(test_batch_equals_single),
        cmocka_unit_test(test_scratch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
