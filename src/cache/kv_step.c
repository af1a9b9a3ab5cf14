/*
 * One step of a sequence: begin decides what will be sealed and takes the pages, write encodes it head by
 * head, attention reads, commit_head moves the rows that stay exact, commit makes the sequence longer.
 *
 * Between write and commit_head the rows that were just sealed are still in the tail too: queries early in
 * the step read them exactly, later ones from the page. What each query reads follows from its own position
 * alone.
 */
#include <string.h>

#include "base/memory.h"
#include "cache/kv_sequence.h"

/* ---------------------------------------------------------------------------------------------- begin -- */

static struct kv_seq_step plan_step(const struct kv_seq *seq, int64_t n)
{
    const struct kvant_plan *plan = seq->cache->plan;
    int64_t sealed = kv_seq_n_sealed(seq), n_tail = seq->n_tokens - kv_seq_tail_position(seq);
    struct kv_seq_step step = { .active = true,
                                .n = n,
                                .sealed_after = kv_sealed_tokens(plan, seq->n_tokens + n) };
    int64_t n_newly_sealed = step.sealed_after - sealed;
    step.n_tail_drop = (int)(n_newly_sealed < n_tail ? n_newly_sealed : n_tail);
    step.n_tail_keep = (int)n_tail - step.n_tail_drop;

    int64_t n_after = seq->n_tokens + n - plan->sinks -
                      step.sealed_after; /* rows of the tail after the step */
    int64_t first = seq->tail_first + step.n_tail_drop;
    bool fits = step.n_tail_keep > 0 && first + n_after <= seq->n_tail_rows;
    step.tail_first_after = fits ? (int)first : 0;
    return step;
}

kvant_status kv_seq_begin(struct kv_seq *seq, int64_t n, struct kvant_error *err)
{
    struct kv_page_pool *pool = &seq->cache->pool;
    if (seq->failed) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "sequence: a step after a failed step; close it");
    if (seq->step.active)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "sequence: a step inside a step; commit the first");
    if (n < 0) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "sequence: a step of %lld tokens", (long long)n);
    if (n > seq->n_tokens_max - seq->n_tokens) {
        KV_FAIL(err, KVANT_ERR_FULL, -1,
                "sequence: no room for %lld more tokens, it has %lld of at most %lld", (long long)n,
                (long long)seq->n_tokens, (long long)seq->n_tokens_max);
    }
    struct kv_seq_step step = plan_step(seq, n);
    int64_t sealed = kv_seq_n_sealed(seq);
    size_t n_pages = kv_seq_page_count(seq->cache->plan, seq->n_tokens + n);
    if (step.sealed_after > sealed && sealed % KV_PAGE_TOKENS) {
        struct kv_page *last = &seq->pages[sealed / KV_PAGE_TOKENS], copy;
        if (kv_page_is_shared(pool, *last)) {
            if (!kv_page_take(pool, &copy))
                KV_FAIL(err, KVANT_ERR_MEMORY, -1,
                        "cache: the page pool has no page left"); /* promised, so unreachable */
            kv_page_copy(pool->layout, copy, *last);
            kv_page_drop(pool, *last);
            *last = copy;
        }
    }
    while (seq->n_pages < n_pages) {
        struct kv_page page;
        if (!kv_page_take(pool, &page))
            KV_FAIL(err, KVANT_ERR_MEMORY, -1,
                    "cache: the page pool has no page left"); /* promised, so unreachable */
        seq->pages[seq->n_pages++] = page;
    }
    seq->step = step;
    return KVANT_OK;
}

/* ---------------------------------------------------------------------------------------------- write -- */

struct write_scratch {
    float *k, *v; /* (64, head_dim) */
    void *codec;
};

static size_t carve_write_scratch(struct write_scratch *s, void *base, int head_dim)
{
    struct kv_carve c = { base, 0, false };
    s->k = kv_carve(&c, (size_t)head_dim * KV_PAGE_TOKENS, sizeof *s->k);
    s->v = kv_carve(&c, (size_t)head_dim * KV_PAGE_TOKENS, sizeof *s->v);
    s->codec = kv_carve(&c, 1, kv_codec_scratch_bytes(head_dim));
    return c.used;
}

size_t kv_seq_scratch_bytes(int head_dim)
{
    struct write_scratch s;
    return carve_write_scratch(&s, NULL, head_dim);
}

/* Rows at positions [position, position + n) in float32, from the tail and from the step's own rows. */
static void gather(const struct kv_seq *seq, const uint16_t *tail, const uint16_t *rows, int64_t row_stride,
                   int64_t position, int n, float *out)
{
    const struct kv_kernels *kernels = seq->cache->codec.kernels;
    int head_dim = seq->cache->plan->head_dim;
    int64_t tail_position = kv_seq_tail_position(seq);
    for (int i = 0; i < n; i++) {
        int64_t p = position + i;
        const uint16_t *row = p < seq->n_tokens ? tail + (seq->tail_first + p - tail_position) * head_dim
                                                : rows + (p - seq->n_tokens) * row_stride;
        kernels->f16_to_f32(row, head_dim, out + i * head_dim);
    }
}

kvant_status kv_seq_write(struct kv_seq *seq, int layer, int head_kv, const uint16_t *k, const uint16_t *v,
                          int64_t row_stride, void *scratch, struct kvant_error *err)
{
    const struct kv_codec *codec = &seq->cache->codec;
    size_t tail = kv_seq_rows_first(seq, layer, head_kv, seq->n_tail_rows);
    struct write_scratch s;
    carve_write_scratch(&s, scratch, codec->plan->head_dim);
    for (int64_t sealed = kv_seq_n_sealed(seq); sealed < seq->step.sealed_after;) {
        int row = (int)(sealed % KV_PAGE_TOKENS);
        int64_t left = seq->step.sealed_after - sealed, position = codec->plan->sinks + sealed;
        int n = left < KV_PAGE_TOKENS - row ? (int)left : KV_PAGE_TOKENS - row;
        gather(seq, seq->tail_k + tail, k, row_stride, position, n, s.k);
        gather(seq, seq->tail_v + tail, v, row_stride, position, n, s.v);
        KV_TRY(kv_codec_encode(codec, seq->pages[sealed / KV_PAGE_TOKENS], layer, head_kv, row, n, position,
                               s.k, s.v, s.codec, err));
        sealed += n;
    }
    return KVANT_OK;
}

void kv_seq_get_view(const struct kv_seq *seq, int layer, int head_kv, const uint16_t *k, const uint16_t *v,
                     int64_t row_stride, struct kv_seq_view *out)
{
    int head_dim = seq->cache->plan->head_dim;
    size_t sinks = kv_seq_rows_first(seq, layer, head_kv, seq->n_sink_rows);
    size_t tail = kv_seq_rows_first(seq, layer, head_kv, seq->n_tail_rows) +
                  (size_t)seq->tail_first * (size_t)head_dim;
    int64_t tail_position = kv_seq_tail_position(seq);
    bool active = seq->step.active;
    out->exact[0] = (struct kv_exact_segment){seq->sink_k + sinks, seq->sink_v + sinks, head_dim, 0,
                                              kv_seq_n_sinks(seq)};
    out->exact[1] = (struct kv_exact_segment){ seq->tail_k + tail, seq->tail_v + tail, head_dim,
                                               tail_position, seq->n_tokens - tail_position };
    out->exact[2] = (struct kv_exact_segment){ k, v, row_stride, seq->n_tokens, active ? seq->step.n : 0 };
    out->pages = seq->pages;
    out->page_angles = seq->page_angles;
    out->n_pages_sealed_tokens = active ? seq->step.sealed_after : kv_seq_n_sealed(seq);
}

/* --------------------------------------------------------------------------------------------- commit -- */

static void commit_rows(const struct kv_seq *seq, uint16_t *sinks, uint16_t *tail, const uint16_t *rows,
                        int64_t row_stride)
{
    const struct kvant_plan *plan = seq->cache->plan;
    const struct kv_seq_step *step = &seq->step;
    size_t head_dim = (size_t)plan->head_dim, row_bytes = head_dim * sizeof *rows;
    int kept_from = seq->tail_first + step->n_tail_drop;
    if (step->tail_first_after != kept_from) {
        memmove(tail + (size_t)step->tail_first_after * head_dim, tail + (size_t)kept_from * head_dim,
                (size_t)step->n_tail_keep * row_bytes);
    }
    int64_t end = seq->n_tokens + step->n, p = seq->n_tokens;
    for (; p < end && p < plan->sinks; p++)
        memcpy(sinks + p * plan->head_dim, rows + (p - seq->n_tokens) * row_stride, row_bytes);

    int64_t tail_position = plan->sinks +
                            step->sealed_after; /* of the tail after the step; rows before it are in pages */
    if (p < tail_position) p = tail_position;
    uint16_t *to = tail + (step->tail_first_after + (p - tail_position)) * plan->head_dim;
    for (; p < end; p++, to += head_dim) memcpy(to, rows + (p - seq->n_tokens) * row_stride, row_bytes);
}

void kv_seq_commit_head(struct kv_seq *seq, int layer, int head_kv, const uint16_t *k, const uint16_t *v,
                        int64_t row_stride)
{
    size_t sinks = kv_seq_rows_first(seq, layer, head_kv, seq->n_sink_rows);
    size_t tail = kv_seq_rows_first(seq, layer, head_kv, seq->n_tail_rows);
    commit_rows(seq, seq->sink_k + sinks, seq->tail_k + tail, k, row_stride);
    commit_rows(seq, seq->sink_v + sinks, seq->tail_v + tail, v, row_stride);
}

void kv_seq_commit(struct kv_seq *seq)
{
    seq->tail_first = seq->step.tail_first_after;
    seq->n_tokens += seq->step.n;
    seq->step.active = false;
}

void kv_seq_fail(struct kv_seq *seq)
{
    seq->failed = true;
    seq->step.active = false;
}
