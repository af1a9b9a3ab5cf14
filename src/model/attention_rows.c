/*
 * A block of queries meets tiles: the exact rows of a sequence (sinks, tail, this step's own), and pages that
 * are expanded to float32 where that is asked for.
 *
 * Few query rows, as in decoding, take 16-bit rows as they are; many share a tile in float32, whose keys are
 * turned so that lanes are tokens.
 */
#include "model/attention_block.h"

static void attend_tile(const struct kv_attn_block *b, const struct kv_partial *state, int n_tokens)
{
    const struct kv_attn_worker *w = b->worker;
    const struct kv_attn_tile tile = {
        .q = w->q,
        .kt = w->kt,
        .v = w->v,
        .n_q = b->n_rows,
        .head_dim = b->call->head_dim,
        .n_tokens = n_tokens,
        .first = w->first,
        .last = w->last,
        .max = state->max,
        .sum = state->sum,
        .out = state->out,
        .score = w->score,
    };
    b->kernels->attn_tile(&tile);
}

void kv_block_attend_tile_page(const struct kv_attn_block *b, int64_t i_page, int n,
                               const struct kv_partial *state)
{
    int64_t begin = i_page * KV_PAGE_TOKENS;
    for (int i = 0; i < b->n_tokens; i++) kv_block_set_visible(b, i, 0, kv_clamp(b->sealed[i] - begin, 0, n));
    const float *cos_t0 = b->view.page_angles ? b->view.page_angles + i_page * b->call->head_dim : NULL;
    kv_codec_expand_keys_turned(b->codec, b->view.pages[i_page], b->call->layer, b->head_kv, n, cos_t0,
                                cos_t0 ? cos_t0 + b->call->head_dim / 2 : NULL, b->worker->kt);
    kv_codec_expand_values(b->codec, b->view.pages[i_page], b->call->layer, b->head_kv, n, b->worker->v);
    attend_tile(b, state, n);
}

/* 16-bit rows as they are. */
static void attend_few(const struct kv_attn_block *b, const uint16_t *k, const uint16_t *v, int64_t stride,
                       int n, const struct kv_partial *state)
{
    const struct kv_attn_worker *w = b->worker;
    int head_dim = b->call->head_dim;
    b->kernels->qk_half(&(struct kv_qk_half){ .k = k, .stride = stride, .head_dim = head_dim, .n_tokens = n,
                                              .n_rows = b->n_rows,
                                              .q = w->q, .score = w->score });
    b->kernels->attn_soften(
        &(struct kv_soften){ w->score, b->n_rows, w->first, w->last, state->max, state->sum, w->page.keep });
    b->kernels->pv_half(&(struct kv_pv_half){ .v = v, .stride = stride, .head_dim = head_dim, .n_tokens = n,
                                              .n_rows = b->n_rows,
                                              .p = w->score, .keep = w->page.keep, .out = state->out });
}

/* Exact rows of a segment at positions [from, to), which lie on one side of the end of the sinks. */
static void attend_rows(const struct kv_attn_block *b, const struct kv_exact_segment *s, int64_t from,
                        int64_t to, const struct kv_partial *state)
{
    const struct kv_attn_call *call = b->call;
    int64_t sinks = b->plan->sinks, own = b->run->n_before + b->token;
    bool are_sinks = from < sinks;
    /* no query sees what lies before */
    if (!are_sinks && from < sinks + b->sealed[0]) from = sinks + b->sealed[0];
    if (to > own + b->n_tokens) to = own + b->n_tokens;
    for (int64_t p = from; p < to; p += KV_TILE) {
        int64_t n = kv_clamp(to - p, 0, KV_TILE);
        bool seen = false;
        for (int i = 0; i < b->n_tokens; i++) {
            int64_t first = are_sinks ? 0 : kv_clamp(sinks + b->sealed[i] - p, 0, n),
                    last = kv_clamp(own + i + 1 - p, 0, n);
            kv_block_set_visible(b, i, first, last);
            seen |= first < last;
        }
        if (!seen) continue;
        int64_t row = (p - s->position) * s->row_stride;
        if (b->n_rows <= KV_FEW_ROWS) {
            attend_few(b, s->k + row, s->v + row, s->row_stride, (int)n, state);
            continue;
        }
        b->kernels->key_tile_from_rows(s->k + row, s->row_stride, (int)n, call->head_dim, b->worker->kt);
        b->kernels->value_tile_from_rows(s->v + row, s->row_stride, (int)n, call->head_dim,
                                              b->worker->v);
        attend_tile(b, state, (int)n);
    }
}

void kv_block_attend_exact(const struct kv_attn_block *b, const struct kv_partial *state)
{
    for (int i = 0; i < 3; i++) {
        const struct kv_exact_segment *s = &b->view.exact[i];
        int64_t end = s->position + s->n, border = kv_clamp(b->plan->sinks, s->position, end);
        attend_rows(b, s, s->position, border, state);
        attend_rows(b, s, border, end, state);
    }
}

