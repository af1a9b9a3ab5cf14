/*
 * What the store's files share: a sequence in memory, and the plan's part that its sequences have in common.
 *
 *   store ── plan cache (layout, centres, codec, pages) ── sequences of that plan
 *
 * A plan cache lives from the first to the last of its sequences, the store until it is closed and has none
 * left.
 *
 * The tail is one contiguous window [tail_first, tail_first + n) of its rows, so that attention reads it as
 * one segment. Sealing moves the window's start; the window is moved to the front when its end meets the end
 * of the rows. With a granule of 32 or 64 tokens the rows that a granule brings pay for that. Plans that seal
 * token by token get tail / 4 rows more: about four rows are then moved per token, not the whole tail.
 */
#ifndef KV_CACHE_KV_SEQUENCE_H
#define KV_CACHE_KV_SEQUENCE_H

#include "cache/kv_pages.h"
#include "cache/kv_store.h"

struct kv_plan_cache {
    struct kv_plan_cache *next;
    struct kv_store *store;
    const struct kvant_plan *plan;
    struct kv_layout layout;
    struct kv_centers centers;
    struct kv_codec codec;
    struct kv_page_pool pool;
    size_t n_sequences;
};

/* A step between kv_seq_begin and kv_seq_commit: everything that follows from positions, decided once. */
struct kv_seq_step {
    bool active;
    int64_t n;             /* tokens                                                            */
    int64_t sealed_after;
    int n_tail_drop;       /* oldest tail rows that seal                                        */
    int n_tail_keep;       /* tail rows that stay                                               */
    int tail_first_after;
};

struct kv_seq {
    struct kv_plan_cache *cache;
    int64_t n_tokens, n_tokens_max;
    int64_t inexact_end;   /* tail rows at positions below it were expanded from codes          */
    bool failed;
    struct kv_seq_step step;

    struct kv_page *pages; /* (n_pages_max), the first n_pages are held                         */
    size_t n_pages, n_pages_max;

    uint16_t *sink_k, *sink_v; /* f16 (n_layer, n_head_kv, n_sink_rows, head_dim)               */
    uint16_t *tail_k, *tail_v; /* f16 (n_layer, n_head_kv, n_tail_rows, head_dim)               */
    float *page_angles;    /* (n_pages_max, 2, head_dim / 2) cos, sin of each page's first position; NULL: no
                            * centres */
    int n_sink_rows, n_tail_rows;
    int tail_first;
};

/* Bytes of one sequence without its pages: sinks, tail, table of pages. SIZE_MAX when they do not fit. */
size_t kv_seq_block_bytes(const struct kvant_plan *plan, int64_t n_tokens_max);
/* Pages that a sequence holds when it is n_tokens long. */
size_t kv_seq_page_count(const struct kvant_plan *plan, int64_t n_tokens);

/* What follows from the length. */
static inline int64_t kv_seq_n_sinks(const struct kv_seq *s)
{
    return s->n_tokens < s->cache->plan->sinks ? s->n_tokens : s->cache->plan->sinks;
}

static inline int64_t kv_seq_n_sealed(const struct kv_seq *s)
{
    return kv_sealed_tokens(s->cache->plan, s->n_tokens);
}

static inline int64_t kv_seq_tail_position(const struct kv_seq *s)
{
    return kv_seq_n_sinks(s) + kv_seq_n_sealed(s);
}

/* Element of (layer, KV head) in sinks or tail. */
static inline size_t kv_seq_rows_first(const struct kv_seq *s, int layer, int head_kv, int n_rows)
{
    const struct kvant_plan *p = s->cache->plan;
    return ((size_t)layer * (size_t)p->n_head_kv + (size_t)head_kv) * (size_t)n_rows * (size_t)p->head_dim;
}

#endif
