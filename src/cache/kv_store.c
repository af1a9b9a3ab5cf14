#include "cache/kv_store.h"

#include <string.h>

#include "base/host_memory.h"
#include "base/memory.h"
#include "cache/kv_sequence.h"

struct kv_store {
    const struct kv_kernels *kernels;
    struct kv_rope rope;
    struct kv_plan_cache *caches;
    bool closed; /* freed with the last plan cache */
};

/* ---------------------------------------------------------------------------------------------- store -- */

kvant_status kv_store_open(struct kv_store **out, const struct kv_kernels *kernels,
                           const struct kv_rope *rope, struct kvant_error *err)
{
    *out = kv_alloc(1, sizeof **out);
    if (!*out) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "cache: no memory for its store");
    (*out)->kernels = kernels;
    (*out)->rope = *rope;
    return KVANT_OK;
}

void kv_store_close(struct kv_store *store)
{
    if (!store) return;
    store->closed = true;
    if (!store->caches) kv_free(store);
}

static void plan_cache_close(struct kv_plan_cache *c)
{
    kv_centers_close(&c->centers);
    kv_layout_close(&c->layout);
    kv_free(c);
}

static kvant_status plan_cache_open(struct kv_plan_cache **out, struct kv_store *store,
                                    const struct kvant_plan *plan, struct kvant_error *err)
{
    struct kv_plan_cache *c = kv_alloc(1, sizeof *c);
    if (!c) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "cache: no memory for a plan's tables");
    kvant_status status = kv_layout_open(&c->layout, plan, err);
    if (status == KVANT_OK) status = kv_centers_open(&c->centers, plan, &store->rope, err);
    if (status != KVANT_OK) {
        plan_cache_close(c);
        return status;
    }
    c->store = store;
    c->plan = plan;
    c->pool.layout = &c->layout;
    c->codec = (struct kv_codec){ store->kernels, plan, &c->layout, &c->centers, &store->rope };
    c->next = store->caches;
    store->caches = c;
    *out = c;
    return KVANT_OK;
}

static kvant_status plan_cache_get(struct kv_plan_cache **out, struct kv_store *store,
                                   const struct kvant_plan *plan, struct kvant_error *err)
{
    for (*out = store->caches; *out; *out = (*out)->next) {
        if ((*out)->plan == plan) return KVANT_OK;
    }
    return plan_cache_open(out, store, plan, err);
}

/* Closes a plan cache without sequences, and a closed store without plan caches. */
static void plan_cache_put(struct kv_plan_cache *c)
{
    if (c->n_sequences) return;
    struct kv_store *store = c->store;
    struct kv_plan_cache **link = &store->caches;
    while (*link != c) link = &(*link)->next;
    *link = c->next;
    plan_cache_close(c);
    if (store->closed && !store->caches) kv_free(store);
}

/* ------------------------------------------------------------------------------------------- sequence -- */

size_t kv_seq_page_count(const struct kvant_plan *plan, int64_t n_tokens)
{
    int64_t sealed = kv_sealed_tokens(plan, n_tokens);
    return (size_t)(sealed / KV_PAGE_TOKENS + (sealed % KV_PAGE_TOKENS != 0));
}

static int smaller(int64_t rows, int64_t n_tokens)
{
    return (int)(rows < n_tokens ? rows : n_tokens);
}

/* Sizes of a sequence of up to n_tokens_max tokens, and its arrays behind itself in one block; base NULL
 * measures. */
static size_t carve_seq(struct kv_seq *s, void *base, const struct kvant_plan *plan, int64_t n_tokens_max)
{
    struct kv_carve c = { base, 0, false };
    int slack = plan->granule == 1 ? plan->tail / 4 : 0;
    s->n_tokens_max = n_tokens_max;
    s->n_pages_max = kv_seq_page_count(plan, n_tokens_max);
    s->n_sink_rows = smaller(plan->sinks, n_tokens_max);
    s->n_tail_rows = smaller(kv_tail_cap(plan) + slack, n_tokens_max - s->n_sink_rows);
    size_t row_elements = (size_t)plan->n_layer * (size_t)plan->n_head_kv * (size_t)plan->head_dim;
    size_t sink_elements = row_elements * (size_t)s->n_sink_rows,
           tail_elements = row_elements * (size_t)s->n_tail_rows;
    kv_carve(&c, 1, sizeof *s);
    s->page_angles = kv_plan_centers_keys(plan)
                         ? kv_carve(&c, s->n_pages_max * (size_t)plan->head_dim, sizeof(float))
                         : NULL;
    s->pages = kv_carve(&c, s->n_pages_max, sizeof *s->pages);
    s->sink_k = kv_carve(&c, sink_elements, sizeof *s->sink_k);
    s->sink_v = kv_carve(&c, sink_elements, sizeof *s->sink_v);
    s->tail_k = kv_carve(&c, tail_elements, sizeof *s->tail_k);
    s->tail_v = kv_carve(&c, tail_elements, sizeof *s->tail_v);
    return c.overflow ? SIZE_MAX : c.used;
}

size_t kv_seq_block_bytes(const struct kvant_plan *plan, int64_t n_tokens_max)
{
    struct kv_seq s;
    return carve_seq(&s, NULL, plan, n_tokens_max);
}

/* Refuses what can never fit before anything is taken: mapping alone would succeed, and the kernel would end
 * the process later. */
static kvant_status check_size(const struct kvant_plan *plan, int64_t n_tokens_max, struct kvant_error *err)
{
    struct kvant_plan_memory memory;
    kv_plan_memory(plan, n_tokens_max, &memory);
    size_t host_bytes = kv_host_memory_bytes();
    if (memory.total_bytes <= host_bytes && memory.total_bytes < SIZE_MAX) return KVANT_OK;
    KV_FAIL(err, KVANT_ERR_MEMORY, -1,
            "cache: %lld tokens under plan %s take %.1f MB (%.0f bytes per token), but this machine has %.1f "
            "MB of "
            "memory; "
            "use fewer tokens or a plan of fewer bits",
            (long long)n_tokens_max, plan->name ? plan->name : "(unnamed)", (double)memory.total_bytes / 1e6,
            memory.bytes_per_token, (double)host_bytes / 1e6);
}

static void fill_page_angles(struct kv_seq *s, const struct kv_rope *rope, const struct kvant_plan *plan)
{
    if (!s->page_angles) return;
    for (size_t i = 0; i < s->n_pages_max; i++) {
        float *cos_t0 = s->page_angles + i * (size_t)plan->head_dim;
        kv_rope_angles(rope, plan->sinks + (int64_t)i * KV_PAGE_TOKENS, cos_t0, cos_t0 + plan->head_dim / 2);
    }
}

/* An empty sequence of a plan cache. On failure nothing is taken. */
static kvant_status seq_open(struct kv_seq **out, struct kv_plan_cache *cache, int64_t n_tokens_max,
                             struct kvant_error *err)
{
    size_t bytes = kv_seq_block_bytes(cache->plan, n_tokens_max);
    struct kv_seq *s = kv_alloc(1, bytes);
    if (!s)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "cache: no memory for %zu bytes of sinks and tail of %lld tokens",
                bytes, (long long)n_tokens_max);
    carve_seq(s, s, cache->plan, n_tokens_max);
    fill_page_angles(s, &cache->store->rope, cache->plan);
    kvant_status status = kv_page_pool_promise(&cache->pool, s->n_pages_max, err);
    if (status != KVANT_OK) {
        kv_free(s);
        return status;
    }
    s->cache = cache;
    cache->n_sequences++;
    *out = s;
    return KVANT_OK;
}

kvant_status kv_seq_open(struct kv_seq **out, struct kv_store *store, const struct kvant_plan *plan,
                         int64_t n_tokens_max, struct kvant_error *err)
{
    *out = NULL;
    if (n_tokens_max < 1)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "cache: a sequence of %lld tokens; at least 1 is needed",
                (long long)n_tokens_max);
    if (kvant_plan_needs_calibration(plan)) {
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "plan %s: centres keys or mixes channels without its tables; calibrate it first",
                plan->name ? plan->name : "(unnamed)");
    }
    if (store->rope.head_dim != plan->head_dim) {
        KV_FAIL(err, KVANT_ERR_MISMATCH, -1, "plan %s: head size %d, but the model's is %d",
                plan->name ? plan->name : "(unnamed)", plan->head_dim, store->rope.head_dim);
    }
    struct kv_plan_cache *cache;
    KV_TRY(plan_cache_get(&cache, store, plan, err));
    kvant_status status = check_size(plan, n_tokens_max, err);
    if (status == KVANT_OK) status = seq_open(out, cache, n_tokens_max, err);
    plan_cache_put(cache);
    return status;
}

void kv_seq_close(struct kv_seq *seq)
{
    if (!seq) return;
    struct kv_plan_cache *cache = seq->cache;
    for (size_t i = 0; i < seq->n_pages; i++) kv_page_drop(&cache->pool, seq->pages[i]);
    kv_page_pool_release(&cache->pool, seq->n_pages_max);
    cache->n_sequences--;
    kv_free(seq);
    plan_cache_put(cache);
}

static kvant_status check_idle(const struct kv_seq *seq, const char *what, struct kvant_error *err)
{
    if (seq->failed) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "sequence: %s after a failed step; close it", what);
    if (seq->step.active)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "sequence: %s inside a step; commit the step first", what);
    return KVANT_OK;
}

kvant_status kv_seq_fork(struct kv_seq **out, struct kv_seq *seq, struct kvant_error *err)
{
    *out = NULL;
    KV_TRY(check_idle(seq, "fork", err));
    struct kv_plan_cache *cache = seq->cache;
    struct kv_seq *s;
    KV_TRY(seq_open(&s, cache, seq->n_tokens_max, err));
    s->n_tokens = seq->n_tokens;
    s->inexact_end = seq->inexact_end;
    s->tail_first = seq->tail_first;
    s->n_pages = seq->n_pages;
    for (size_t i = 0; i < seq->n_pages; i++) {
        s->pages[i] = seq->pages[i];
        kv_page_share(&cache->pool, seq->pages[i]);
    }
    const struct kvant_plan *plan = cache->plan;
    size_t row_bytes = (size_t)plan->n_layer * (size_t)plan->n_head_kv * (size_t)plan->head_dim *
                       sizeof(uint16_t);
    memcpy(s->sink_k, seq->sink_k, (size_t)seq->n_sink_rows * row_bytes);
    memcpy(s->sink_v, seq->sink_v, (size_t)seq->n_sink_rows * row_bytes);
    memcpy(s->tail_k, seq->tail_k, (size_t)seq->n_tail_rows * row_bytes);
    memcpy(s->tail_v, seq->tail_v, (size_t)seq->n_tail_rows * row_bytes);
    *out = s;
    return KVANT_OK;
}

/* ------------------------------------------------------------------------------------------- truncate -- */

/* What a cut does to the tail: n_back rows of pages come back before the n_keep rows of the old tail that
 * stay. */
struct cut {
    int64_t sealed_after;
    int64_t n_back, n_keep;
};

static struct cut plan_cut(const struct kv_seq *seq, int64_t n_tokens)
{
    const struct kvant_plan *plan = seq->cache->plan;
    int64_t sinks = n_tokens < plan->sinks ? n_tokens : plan->sinks;
    int64_t sealed_before = kv_seq_n_sealed(seq), rest = n_tokens - sinks; /* tokens after the sinks */
    struct cut cut = { kv_sealed_tokens(plan, n_tokens), 0, 0 };
    cut.n_back = (rest < sealed_before ? rest : sealed_before) - cut.sealed_after;
    cut.n_keep = rest > sealed_before ? rest - sealed_before : 0;
    return cut;
}

/* Rows [sealed_after, sealed_after + n_back) of the pages, to the front of one head's tail. They lie in at
 * most tail / 64 + 2 pages, each expanded as a whole. */
static void bring_back(struct kv_seq *seq, int layer, int head_kv, const struct cut *cut, float *tile)
{
    const struct kv_codec *codec = &seq->cache->codec;
    int head_dim = codec->plan->head_dim;
    size_t first = kv_seq_rows_first(seq, layer, head_kv, seq->n_tail_rows);
    uint16_t *k = seq->tail_k + first, *v = seq->tail_v + first; /* (n_tail_rows, head_dim) */
    for (int64_t done = 0; done < cut->n_back;) {
        int64_t sealed = cut->sealed_after + done, i_page = sealed / KV_PAGE_TOKENS;
        int row = (int)(sealed % KV_PAGE_TOKENS), n = smaller(KV_PAGE_TOKENS - row, cut->n_back - done);
        kv_codec_expand_keys(codec, seq->pages[i_page], layer, head_kv, row + n,
                             codec->plan->sinks + i_page * KV_PAGE_TOKENS, tile);
        float column[KV_HEAD_DIM_MAX];
        for (int i = 0; i < n; i++) {
            for (int c = 0; c < head_dim; c++) column[c] = tile[c * KV_PAGE_TOKENS + row + i];
            codec->kernels->f32_to_f16(column, head_dim, k + (done + i) * head_dim);
        }
        kv_codec_expand_values(codec, seq->pages[i_page], layer, head_kv, row + n, tile);
        float *rows = tile + row * head_dim;
        if (kv_plan_recipe_at(codec->plan, layer, head_kv)->value_rotated)
            codec->kernels->hadamard(rows, n, head_dim);
        codec->kernels->f32_to_f16(rows, (int64_t)n * head_dim, v + done * head_dim);
        done += n;
    }
}

static bool recipe_is_exact(const struct kv_recipe *r)
{
    return r->key_bits == 16 && r->value_bits == 16 && !r->key_centered && !r->key_rotated &&
           !r->value_rotated;
}

static bool plan_is_exact(const struct kvant_plan *plan)
{
    size_t n_heads = (size_t)plan->n_layer * (size_t)plan->n_head_kv;
    for (size_t i = 0; i < n_heads; i++) {
        if (!recipe_is_exact(&plan->recipe[i])) return false;
    }
    return true;
}

static void cut_tail(struct kv_seq *seq, const struct cut *cut, float *tile)
{
    const struct kvant_plan *plan = seq->cache->plan;
    size_t head_dim = (size_t)plan->head_dim;
    for (int layer = 0; layer < plan->n_layer; layer++) {
        for (int h = 0; h < plan->n_head_kv; h++) {
            size_t first = kv_seq_rows_first(seq, layer, h, seq->n_tail_rows);
            size_t to = first + (size_t)cut->n_back * head_dim,
                   from = first + (size_t)seq->tail_first * head_dim;
            size_t keep_bytes = (size_t)cut->n_keep * head_dim * sizeof(uint16_t);
            memmove(seq->tail_k + to, seq->tail_k + from, keep_bytes);
            memmove(seq->tail_v + to, seq->tail_v + from, keep_bytes);
            bring_back(seq, layer, h, cut, tile);
        }
    }
    seq->tail_first = 0;
}

kvant_status kv_seq_truncate(struct kv_seq *seq, int64_t n_tokens, struct kvant_error *err)
{
    KV_TRY(check_idle(seq, "truncate", err));
    if (n_tokens < 0 || n_tokens > seq->n_tokens) {
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "sequence: truncate to %lld of %lld tokens; only shorter is possible", (long long)n_tokens,
                (long long)seq->n_tokens);
    }
    struct kv_plan_cache *cache = seq->cache;
    struct cut cut = plan_cut(seq, n_tokens);
    int64_t from_pages_end = cache->plan->sinks + cut.sealed_after + cut.n_back;
    if (cut.n_back > 0) {
        float *tile = kv_alloc((size_t)cache->plan->head_dim * KV_PAGE_TOKENS, sizeof *tile);
        if (!tile) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "truncate: no memory for one page in float32");
        cut_tail(seq, &cut, tile);
        kv_free(tile);
        if (!plan_is_exact(cache->plan) && seq->inexact_end < from_pages_end)
            seq->inexact_end = from_pages_end;
    } else if (cut.n_keep == 0) {
        seq->tail_first = 0;
    }
    size_t n_pages = kv_seq_page_count(cache->plan, n_tokens);
    while (seq->n_pages > n_pages) kv_page_drop(&cache->pool, seq->pages[--seq->n_pages]);
    if (seq->inexact_end > n_tokens) seq->inexact_end = n_tokens;
    seq->n_tokens = n_tokens;
    return KVANT_OK;
}

/* ---------------------------------------------------------------------------------------------- facts -- */

void kv_seq_get_stats(const struct kv_seq *seq, struct kvant_sequence_stats *out)
{
    const struct kv_plan_cache *cache = seq->cache;
    int64_t sealed = kv_seq_n_sealed(seq), inexact = seq->inexact_end - kv_seq_tail_position(seq);
    *out = (struct kvant_sequence_stats){
        .n_tokens = seq->n_tokens,
        .n_tokens_max = seq->n_tokens_max,
        .n_sealed = sealed,
        .n_exact = seq->n_tokens - sealed,
        .n_inexact_tail = inexact > 0 ? inexact : 0,
        .n_pages = (int64_t)seq->n_pages,
        .cache_bytes = seq->n_pages * cache->layout.page_bytes +
                       kv_seq_block_bytes(cache->plan, seq->n_tokens_max) +
                       kv_page_table_bytes(seq->n_pages_max),
        .failed = seq->failed,
    };
    for (size_t i = 0; i < seq->n_pages; i++)
        out->n_pages_shared += kv_page_is_shared(&cache->pool, seq->pages[i]);
}

const struct kv_codec *kv_seq_codec(const struct kv_seq *seq)
{
    return &seq->cache->codec;
}

const struct kvant_plan *kv_seq_plan(const struct kv_seq *seq)
{
    return seq->cache->plan;
}

int64_t kv_seq_n_tokens(const struct kv_seq *seq)
{
    return seq->n_tokens;
}

int64_t kv_seq_n_tokens_max(const struct kv_seq *seq)
{
    return seq->n_tokens_max;
}

bool kv_seq_failed(const struct kv_seq *seq)
{
    return seq->failed;
}
