/*
 * Attention of one layer over pages and exact rows.
 *
 * A query at position s reads, of its sequence,
 *
 *     | sinks | pages: [sinks, sinks + sealed(s)) in chunks of 16 ... | exact: [sinks + sealed(s), s] |
 *
 * and sealed(s) is a function of s alone, so the queries of one batch see different borders. Softmax is
 * folded from partial states (maximum, sum, Σ e^(s − max)·v), one of each chunk and one of everything exact,
 * in the order of positions:
 *
 *     chunk 0 ─┐
 *     chunk 1 ─┴ fold ─ ... ─ fold ─ turn back (rotated values) ─┐
 *     sinks, tail, this step's rows ─────────────────────────────┴ fold ─ divide by the sum
 *
 * A chunk's state starts empty whether chunks are worked on side by side (few queries, as in decoding) or one
 * after the other (prompts), and the folds are the same, so both ways, and any number of threads, give equal
 * bits.
 *
 * Queries come in blocks of up to 32 tokens times the query heads of a group, which share every expanded
 * tile. Memory is taken once and bounded: states of chunks wait for each other only within PART_ROWS query
 * rows a head; a call with more works through its chunks in sequence.
 */
#include "model/attention_block.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* 1024 tokens: tens of microseconds of work, against well below one for handing it out */
#define CHUNK_PAGES 16
/* (query tokens × parts) of a head that may wait: 2 M tokens of cache in all decoding */
#define PART_ROWS 2048

/* What a run of the call asks for. */
struct run_work {
    int64_t first_item;
    int64_t n_blocks;  /* of queries, per KV head                              */
    int64_t n_parts;   /* chunks of the last query's pages, and the exact part */
    int64_t part_row;  /* its states in `parts`, if split                      */
    bool split;        /* parts are items of their own                         */
};

struct kv_attn_scratch {
    size_t n_bytes;
    int n_threads, n_runs_max, n_head, n_head_kv, head_dim;
    struct kv_attn_worker *workers;   /* (n_threads)                                    */
    struct run_work *runs;    /* (n_runs_max)                                   */
    _Atomic int64_t *left;    /* (n_runs_max, n_head_kv): parts not yet done    */
    struct kv_partial parts;     /* (PART_ROWS · n_head)                           */
};

static struct kv_partial place_partial(struct kv_carve *c, size_t n, size_t head_dim)
{
    struct kv_partial p;
    p.max = kv_carve(c, n, sizeof *p.max);
    p.sum = kv_carve(c, n, sizeof *p.sum);
    p.out = kv_carve(c, n * head_dim, sizeof *p.out);
    return p;
}

static struct kv_attn_worker place_worker(struct kv_carve *c, size_t n, size_t head_dim)
{
    struct kv_attn_worker w;
    w.q = kv_carve(c, n * head_dim, sizeof *w.q);
    w.kt = kv_carve(c, head_dim * KV_TILE, sizeof *w.kt);
    w.v = kv_carve(c, head_dim * KV_TILE, sizeof *w.v);
    w.score = kv_carve(c, n * KV_TILE, sizeof *w.score);
    w.first = kv_carve(c, n, sizeof *w.first);
    w.last = kv_carve(c, n, sizeof *w.last);
    w.page = kv_page_scratch_place(c, n, head_dim);
    w.total = place_partial(c, n, head_dim);
    w.part = place_partial(c, n, head_dim);
    return w;
}

/* Measures (c->base NULL: gives NULL) or places all of it.
 * Products stay far below 2^63: head_dim is at most 256. */
static struct kv_attn_scratch *place_scratch(struct kv_carve *c, int n_threads, int64_t n_rows_max,
                                             int n_runs_max, int n_head, int n_head_kv, int head_dim)
{
    size_t d = (size_t)head_dim,
           n_tokens = (size_t)(n_rows_max < KV_BLOCK_TOKENS ? n_rows_max : KV_BLOCK_TOKENS);
    size_t n_block = n_tokens * (size_t)(n_head / n_head_kv);
    struct kv_attn_scratch *s = kv_carve(c, 1, sizeof *s);
    struct kv_attn_worker *workers = kv_carve(c, (size_t)n_threads, sizeof *workers);
    struct run_work *runs = kv_carve(c, (size_t)n_runs_max, sizeof *runs);
    _Atomic int64_t *left = kv_carve(c, (size_t)n_runs_max * (size_t)n_head_kv, sizeof *left);
    for (int i = 0; i < n_threads; i++) {
        struct kv_attn_worker w = place_worker(c, n_block, d);
        if (workers) workers[i] = w;
    }
    struct kv_partial parts = place_partial(c, PART_ROWS * (size_t)n_head, d);
    if (s)
        *s = (struct kv_attn_scratch){ .n_threads = n_threads, .n_runs_max = n_runs_max, .n_head = n_head,
                                       .n_head_kv = n_head_kv, .head_dim = head_dim, .workers = workers,
                                       .runs = runs, .left = left, .parts = parts };
    return s;
}

static bool dims_are_sound(int n_threads, int64_t n_rows_max, int n_runs_max, int n_head, int n_head_kv,
                           int head_dim)
{
    return n_threads > 0 && n_rows_max > 0 && n_runs_max > 0 && n_head_kv > 0 && n_head >= n_head_kv &&
           n_head % n_head_kv == 0 && head_dim > 0 && head_dim <= KV_HEAD_DIM_MAX && head_dim % 8 == 0;
}

size_t kv_attn_scratch_bytes(int n_threads, int64_t n_rows_max, int n_runs_max, int n_head, int n_head_kv,
                             int head_dim)
{
    if (!dims_are_sound(n_threads, n_rows_max, n_runs_max, n_head, n_head_kv, head_dim)) return 0;
    struct kv_carve c = { NULL, 0, false };
    place_scratch(&c, n_threads, n_rows_max, n_runs_max, n_head, n_head_kv, head_dim);
    return c.overflow ? SIZE_MAX : c.used;
}

kvant_status kv_attn_scratch_open(struct kv_attn_scratch **out, int n_threads, int64_t n_rows_max,
                                  int n_runs_max, int n_head, int n_head_kv, int head_dim,
                                  struct kvant_error *err)
{
    *out = NULL;
    if (!dims_are_sound(n_threads, n_rows_max, n_runs_max, n_head, n_head_kv, head_dim))
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1,
                "attention: %d query heads over %d KV heads of size %d: heads must divide evenly, their size "
                "be a "
                "multiple of 8 up to %d",
                n_head, n_head_kv, head_dim, KV_HEAD_DIM_MAX);
    size_t n_bytes = kv_attn_scratch_bytes(n_threads, n_rows_max, n_runs_max, n_head, n_head_kv, head_dim);
    /* Pages: states of parts that no call ever needs cost no memory. */
    struct kv_carve c = { n_bytes < SIZE_MAX ? kv_pages_alloc(n_bytes) : NULL, 0, false };
    if (!c.base)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "attention: no memory for %zu bytes of scratch; use fewer threads",
                n_bytes);
    *out = place_scratch(&c, n_threads, n_rows_max, n_runs_max, n_head, n_head_kv, head_dim);
    (*out)->n_bytes = n_bytes;
    return KVANT_OK;
}

void kv_attn_scratch_close(struct kv_attn_scratch *s)
{
    if (s) kv_pages_free(s, s->n_bytes);
}

/* --------------------------------------------------------------------------------- softmax states -- */

static void partial_clear(const struct kv_partial *p, int n, int head_dim)
{
    for (int i = 0; i < n; i++) {
        p->max[i] = -INFINITY;
        p->sum[i] = 0.0f;
    }
    memset(p->out, 0, (size_t)n * (size_t)head_dim * sizeof *p->out);
}

/* into += from, at the larger maximum. Two empty states (−∞ both) stay empty: 0 stands for their maximum. */
static void partial_fold(const struct kv_partial *into, const struct kv_partial *from, int n, int head_dim)
{
    for (int i = 0; i < n; i++) {
        float max = into->max[i] > from->max[i] ? into->max[i] : from->max[i];
        float origin = max == -INFINITY ? 0.0f : max;
        float a = expf(into->max[i] - origin), b = expf(from->max[i] - origin);
        float *x = into->out + (size_t)i * (size_t)head_dim;
        const float *y = from->out + (size_t)i * (size_t)head_dim;
        into->max[i] = max;
        into->sum[i] = a * into->sum[i] + b * from->sum[i];
        for (int c = 0; c < head_dim; c++) x[c] = a * x[c] + b * y[c];
    }
}

static struct kv_partial partial_from(const struct kv_partial *p, size_t row, int head_dim)
{
    return (struct kv_partial){ p->max + row, p->sum + row, p->out + row * (size_t)head_dim };
}

/* -------------------------------------------------------------------------------- one block of queries -- */

struct job {
    const struct kv_kernels *kernels;
    const struct kv_attn_call *call;
    struct kv_attn_scratch *scratch;
};

static void block_open(struct kv_attn_block *b, const struct job *job, int i_run, int head_kv, int64_t token,
                       struct kv_attn_worker *worker)
{
    const struct kv_attn_call *call = job->call;
    const struct kv_attn_run *run = &call->runs[i_run];
    int64_t stride = (int64_t)call->n_head_kv * call->head_dim;
    int64_t own = run->row * stride + (int64_t)head_kv * call->head_dim;
    int group = call->n_head / call->n_head_kv;
    b->kernels = job->kernels;
    b->call = call;
    b->run = run;
    b->worker = worker;
    b->codec = kv_seq_codec(run->seq);
    b->plan = kv_seq_plan(run->seq);
    b->recipe = kv_plan_recipe_at(b->plan, call->layer, head_kv);
    kv_seq_get_view(run->seq, call->layer, head_kv, call->k + own, call->v + own, stride, &b->view);
    b->token = token;
    b->n_tokens = (int)kv_clamp(run->n - token, 0, KV_BLOCK_TOKENS);
    b->group = group;
    b->n_rows = b->n_tokens * group;
    b->head_kv = head_kv;
    b->after_page = -1;
    size_t n = (size_t)group * (size_t)call->head_dim; /* query heads of a group lie side by side */
    size_t q_stride = (size_t)call->n_head * (size_t)call->head_dim;
    for (int i = 0; i < b->n_tokens; i++) {
        b->sealed[i] = kv_sealed_tokens(b->plan, run->n_before + token + i + 1);
        const float *q = call->q + (size_t)(run->row + token + i) * q_stride + (size_t)head_kv * n;
        for (size_t c = 0; c < n; c++) worker->q[(size_t)i * n + c] = call->scale * q[c];
    }
    assert(b->sealed[b->n_tokens - 1] <= b->view.n_pages_sealed_tokens);
}

/* Pages of 16 bits are float tiles for many rows: prompts are read 1.1 times as fast as by
 * converting for every block of rows. */
static bool in_tiles(const struct kv_attn_block *b)
{
    return b->call->in_float ||
           (b->recipe->key_bits == 16 && b->recipe->value_bits == 16 && b->n_rows > KV_FEW_ROWS);
}

static void attend_chunk(const struct kv_attn_block *b, int64_t chunk, const struct kv_partial *state)
{
    int64_t sealed = b->sealed[b->n_tokens - 1], end = (sealed + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    if (end > (chunk + 1) * CHUNK_PAGES) end = (chunk + 1) * CHUNK_PAGES;
    int64_t begin = chunk * CHUNK_PAGES;
    if (!in_tiles(b)) {
        kv_block_attend_pages(b, begin, end, state);
        return;
    }
    for (int64_t p = begin; p < end; p++)
        kv_block_attend_tile_page(b, p, (int)kv_clamp(sealed - p * KV_PAGE_TOKENS, 0, KV_PAGE_TOKENS), state);
}

/* total: the folded chunks. */
static void finish(const struct kv_attn_block *b, const struct kv_partial *total,
                   const struct kv_partial *exact)
{
    const struct kv_attn_call *call = b->call;
    int head_dim = call->head_dim;
    bool turned = b->sealed[b->n_tokens - 1] > 0 && b->recipe->value_rotated;
    if (turned) b->kernels->hadamard(total->out, b->n_rows, head_dim);
    partial_fold(total, exact, b->n_rows, head_dim);
    for (int r = 0; r < b->n_rows; r++) {
        size_t token = (size_t)(b->run->row + b->token + r / b->group);
        size_t head = (size_t)(b->head_kv * b->group + r % b->group);
        float *out = call->out + (token * (size_t)call->n_head + head) * (size_t)head_dim;
        float inverse = 1.0f / total->sum[r];
        const float *x = total->out + (size_t)r * (size_t)head_dim;
        for (int c = 0; c < head_dim; c++) out[c] = inverse * x[c];
    }
}

/* ------------------------------------------------------------------------------------------ the call -- */

static int64_t chunks_of(int64_t n_sealed)
{
    int64_t n = CHUNK_PAGES * KV_PAGE_TOKENS;
    return (n_sealed + n - 1) / n;
}

/* Lays out the items of a call; their number. Depends on the runs alone. */
static int64_t plan_items(const struct kv_attn_call *call, struct kv_attn_scratch *s)
{
    int64_t n_items = 0, part_rows = 0; /* part_rows: per KV head and query of its group */
    for (int i = 0; i < call->n_runs; i++) {
        const struct kv_attn_run *run = &call->runs[i];
        struct run_work *w = &s->runs[i];
        int64_t n_tokens = run->n_before + run->n; /* what the last query sees, its own token included */
        int64_t n_chunks = run->n > 0 ? chunks_of(kv_sealed_tokens(kv_seq_plan(run->seq), n_tokens)) : 0;
        w->first_item = n_items;
        w->n_blocks = (run->n + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
        w->n_parts = n_chunks + 1;
        w->split = w->n_blocks == 1 && n_chunks > 0 && w->n_parts <= (PART_ROWS - part_rows) / run->n;
        w->part_row = part_rows * call->n_head;
        if (w->split) part_rows += w->n_parts * run->n;
        n_items += call->n_head_kv * (w->split ? w->n_parts : w->n_blocks);
        for (int h = 0; h < call->n_head_kv; h++) /* the pool orders this before any item */
            atomic_store_explicit(&s->left[i * call->n_head_kv + h], w->n_parts, memory_order_relaxed);
    }
    return n_items;
}

static int run_of_item(const struct run_work *runs, int n_runs, int64_t item)
{
    /* the last run that begins at or before item; empty runs share their successor's start */
    int lo = 0, hi = n_runs;
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (runs[mid].first_item <= item) lo = mid;
        else hi = mid;
    }
    return lo;
}

/* All parts of a block, one after the other. */
static void attend_in_sequence(struct kv_attn_block *b)
{
    const struct kv_attn_worker *w = b->worker;
    int head_dim = b->call->head_dim;
    int64_t n_chunks = chunks_of(b->sealed[b->n_tokens - 1]);
    if (n_chunks > 0 && !in_tiles(b)) kv_block_prepare_pages(b);
    partial_clear(&w->total, b->n_rows, head_dim);
    for (int64_t chunk = 0; chunk < n_chunks; chunk++) {
        partial_clear(&w->part, b->n_rows, head_dim);
        attend_chunk(b, chunk, &w->part);
        partial_fold(&w->total, &w->part, b->n_rows, head_dim);
    }
    partial_clear(&w->part, b->n_rows, head_dim);
    kv_block_attend_exact(b, &w->part);
    finish(b, &w->total, &w->part);
}

/* One part of a split run; whoever does the last one folds them all. */
static void attend_part(struct kv_attn_block *b, const struct kv_partial *all, const struct run_work *w,
                        int64_t part, _Atomic int64_t *left)
{
    int head_dim = b->call->head_dim;
    const struct kv_partial *total = &b->worker->total;
    size_t first = (size_t)w->part_row + (size_t)(b->head_kv * w->n_parts) * (size_t)b->n_rows;
    struct kv_partial own = partial_from(all, first + (size_t)part * (size_t)b->n_rows, head_dim);
    partial_clear(&own, b->n_rows, head_dim);
    if (part < w->n_parts - 1) {
        kv_block_ask_for_page(b, part * CHUNK_PAGES);
        if (!in_tiles(b)) kv_block_prepare_pages(b);
        attend_chunk(b, part, &own);
    } else {
        kv_block_attend_exact(b, &own);
    }
    if (atomic_fetch_sub_explicit(left, 1, memory_order_acq_rel) > 1) return;

    partial_clear(total, b->n_rows, head_dim);
    for (int64_t i = 0; i < w->n_parts - 1; i++) {
        struct kv_partial p = partial_from(all, first + (size_t)i * (size_t)b->n_rows, head_dim);
        partial_fold(total, &p, b->n_rows, head_dim);
    }
    struct kv_partial exact = partial_from(all, first + (size_t)(w->n_parts - 1) * (size_t)b->n_rows,
                                           head_dim);
    finish(b, total, &exact);
}

static void attend_item(void *user, int64_t item, int i_thread)
{
    const struct job *job = user;
    struct kv_attn_scratch *s = job->scratch;
    int n_head_kv = job->call->n_head_kv, i_run = run_of_item(s->runs, job->call->n_runs, item);
    const struct run_work *w = &s->runs[i_run];
    int head_kv = (int)((item - w->first_item) % n_head_kv);
    int64_t i = (item - w->first_item) / n_head_kv;
    struct kv_attn_block b;
    if (w->split) {
        block_open(&b, job, i_run, head_kv, 0, &s->workers[i_thread]);
        int64_t after = item - w->first_item + s->n_threads; /* threads take items in turns, as a rule */
        if (after / n_head_kv < w->n_parts - 1) {
            b.after_page = after / n_head_kv * CHUNK_PAGES;
            b.after_head = (int)(after % n_head_kv);
        }
        attend_part(&b, &s->parts, w, i, &s->left[i_run * n_head_kv + head_kv]);
    } else { /* the last block sees most: it goes first, so that threads end together */
        block_open(&b, job, i_run, head_kv, (w->n_blocks - 1 - i) * KV_BLOCK_TOKENS, &s->workers[i_thread]);
        attend_in_sequence(&b);
    }
}

void kv_attention(struct kv_pool *pool, const struct kv_kernels *kernels, const struct kv_attn_call *call,
                  struct kv_attn_scratch *scratch)
{
    assert(call->n_runs <= scratch->n_runs_max && kv_pool_size(pool) <= scratch->n_threads);
    assert(call->head_dim == scratch->head_dim && call->n_head == scratch->n_head);
    struct job job = { kernels, call, scratch };
    kv_pool_for(pool, plan_items(call, scratch), attend_item, &job);
}
