/*
 * A block of queries meets the pages of a chunk: scores from the codes of the keys, probabilities onto the
 * codes of the values. kernels/attention_calls.h has the formulas.
 *
 *            keys per channel: fold per page      per token: fold once          16 bits
 *   scores   qk_codes                            qk_codes, scaled per score    qk_half
 *            └──────────────┬─────────────────────────────┴──────────────────────┘
 *                  + q·R_t μ (centred keys), soften, weigh
 *            ┌──────────────┴───────────────┐
 *   out      pv_codes                       pv_half
 *
 * What a page's calls have in common with the next one's, all but a few pointers, is written once.
 *
 * Query rows that see nothing of the page come first, since queries are in order of position: they are left
 * out.
 */
#include "model/attention_block.h"

#include <string.h>

#include "cache/kv_classes.h"
#include "cache/kv_short.h"
#include "kernels/code_layout.h"

struct kv_page_scratch kv_page_scratch_place(struct kv_carve *c, size_t n_rows, size_t head_dim)
{
    struct kv_page_scratch s = { 0 };
    size_t n_groups = head_dim < 32 ? 1 : head_dim / 32;
    s.q = kv_carve(c, n_rows * head_dim, sizeof *s.q);
    s.middle = kv_carve(c, head_dim, sizeof *s.middle);
    s.largest = kv_carve(c, head_dim, sizeof *s.largest);
    s.scale = kv_carve(c, KV_GRIDS_MAX, sizeof *s.scale);
    s.min = kv_carve(c, KV_GRIDS_MAX, sizeof *s.min);
    for (int half = 0; half < 2; half++) {
        s.digits[half] = kv_carve(c, n_rows * head_dim, 2);
        for (int i = 0; i < KV_SPANS_MAX; i++)
            s.delta[half][i] = kv_carve(c, n_rows, sizeof *s.delta[half][i]);
        s.bias[half] = kv_carve(c, n_rows, sizeof *s.bias[half]);
    }
    s.sum = kv_carve(c, n_rows, sizeof *s.sum);
    s.keep = kv_carve(c, n_rows, sizeof *s.keep);
    s.cos_part = kv_carve(c, n_rows * head_dim / 2, sizeof *s.cos_part);
    s.sin_part = kv_carve(c, n_rows * head_dim / 2, sizeof *s.sin_part);
    s.still = kv_carve(c, n_rows, sizeof *s.still);
    s.p_digits = kv_carve(c, n_rows * n_groups * KV_TILE, 2);
    s.p_delta = kv_carve(c, n_rows * n_groups, sizeof *s.p_delta);
    s.p_bias = kv_carve(c, n_rows * n_groups, sizeof *s.p_bias);
    return s;
}

static size_t i_of(const struct kv_attn_block *b, int head_kv)
{
    return (size_t)b->call->layer * (size_t)b->call->n_head_kv + (size_t)head_kv;
}

static size_t i_head(const struct kv_attn_block *b) { return i_of(b, b->head_kv); }

static const uint8_t *page_at(const struct kv_attn_block *b, int64_t i_page, size_t i_head)
{
    return kv_page_base(b->codec->layout, b->view.pages[i_page], i_head);
}

/* Where a head's keys and values lie in a page. */
struct kv_next {
    const uint8_t *at; /* NULL: no page */
    size_t n_lines;
};
static struct kv_next next_at(const struct kv_attn_block *b, int64_t i_page, int head_kv)
{
    size_t i = i_of(b, head_kv);
    const struct kv_head_layout *head = &b->codec->layout->head[i];
    return (struct kv_next){ page_at(b, i_page, i) + head->first, head->n_bytes / KV_LINE };
}

/* What follows page i of a chunk that ends before `end`. */
static struct kv_next next_of(const struct kv_attn_block *b, int64_t i_page, int64_t end)
{
    if (i_page + 1 < end) return next_at(b, i_page + 1, b->head_kv);
    return b->after_page < 0 ? (struct kv_next){ NULL, 0 } : next_at(b, b->after_page, b->after_head);
}

/* Lines [from, to) sixteenths of it. A page's time is as long as its lines take from memory, if they are
 * asked for evenly; the queue of outstanding loads holds about 24 of some 50 to 500. Not two pages ahead, nor
 * steps of two pages in turns: with 16 bits that is more than the first-level cache holds. */
static struct kv_ahead ahead_of(const struct kv_next *next, size_t from, size_t to)
{
    if (!next->at) return (struct kv_ahead){ NULL, NULL };
    return (struct kv_ahead){ next->at + next->n_lines * from / 16 * KV_LINE,
                              next->at + next->n_lines * to / 16 * KV_LINE };
}

static void ask_for(struct kv_ahead a)
{
    for (; a.at < a.end; a.at += KV_LINE) __builtin_prefetch(a.at, 0, 3);
}

void kv_block_ask_for_page(const struct kv_attn_block *b, int64_t i_page)
{
    struct kv_next page = next_at(b, i_page, b->head_kv);
    ask_for(ahead_of(&page, 0, 16));
}

/* The first query row that sees something of the page. */
static int first_row(const struct kv_attn_block *b, int64_t i_page)
{
    int blind = 0;
    while (b->sealed[blind] <= i_page * KV_PAGE_TOKENS) blind++;
    return blind * b->group;
}

/* ------------------------------------------------------------------------------------------------ keys -- */

/* A head may have no pair that gains from centring. */
static bool has_center(const struct kv_attn_block *b)
{
    if (!b->recipe->key_centered) return false;
    const struct kv_center_list *list = &b->codec->centers->head[i_head(b)];
    return list->n_listed || list->polynomials || list->still;
}

static struct kv_fold fold_of(const struct kv_attn_block *b, int row, int half)
{
    const struct kv_page_scratch *s = &b->worker->page;
    size_t head_dim = (size_t)b->call->head_dim, first = (size_t)row;
    struct kv_fold f = {
        .q = s->q + first * head_dim,
        .q_stride = head_dim,
        .n_rows = b->n_rows - row,
        .n_classes = b->n_classes,
        .classes = b->classes,
        .middle = s->middle,
        .largest = s->largest,
        .digits = s->digits[half] + first * 2 * head_dim,
        .digits_stride = 2 * head_dim,
        .bias = s->bias[half] + row,
        .sum = s->sum + row,
    };
    for (int i = 0; i < KV_SPANS_MAX; i++) f.delta[i] = s->delta[half][i] + row;
    return f;
}

/* high: where the digits for the second half of a page are. */
static struct kv_qk_codes qk_of(const struct kv_attn_block *b, int row, int high)
{
    const struct kv_page_scratch *s = &b->worker->page;
    size_t stride = 2 * (size_t)b->call->head_dim, at = (size_t)row * stride;
    struct kv_qk_codes qk = {
        .n_classes = b->n_classes,
        .classes = b->classes,
        .digits = { s->digits[0] + at, s->digits[high] + at },
        .digits_stride = stride,
        .bias = { s->bias[0] + row, s->bias[high] + row },
        .sum = s->sum + row,
        .n_rows = b->n_rows - row,
        .score = b->worker->score + row * KV_TILE,
    };
    for (int i = 0; i < KV_SPANS_MAX; i++) {
        qk.delta[0][i] = s->delta[0][i] + row;
        qk.delta[1][i] = s->delta[high][i] + row;
    }
    return qk;
}

static struct kv_qk_center center_of(const struct kv_attn_block *b, int row)
{
    const struct kv_page_scratch *s = &b->worker->page;
    const struct kv_centers *centers = b->codec->centers;
    const struct kv_center_list *list = &centers->head[i_head(b)];
    size_t stride = (size_t)b->call->head_dim / 2, first = (size_t)row * stride;
    return (struct kv_qk_center){
        .cos_part = s->cos_part + first,
        .sin_part = s->sin_part + first,
        .stride = stride,
        .still = s->still + row,
        .n_pairs = centers->n_pairs,
        .n_listed = list->n_listed,
        .listed = list->listed,
        .turning = centers->turning,
        .slow = list->polynomials ? centers->slow : NULL,
        .polynomials = centers->polynomials,
        .n_rows = b->n_rows - row,
        .score = b->worker->score + row * KV_TILE,
    };
}

void kv_block_prepare_pages(struct kv_attn_block *b)
{
    struct kv_page_scratch *s = &b->worker->page;
    const struct kv_recipe *r = b->recipe;
    int head_dim = b->call->head_dim;
    size_t n = (size_t)(b->n_rows * head_dim);
    if (r->key_mixed) {
        const uint8_t *order = b->plan->channels[i_head(b)].order;
        for (int row = 0; row < b->n_rows; row++)
            for (int c = 0; c < head_dim; c++)
                s->q[row * head_dim + c] = b->worker->q[row * head_dim + order[c]];
    } else {
        memcpy(s->q, b->worker->q, n * sizeof *s->q);
    }
    if (r->key_rotated) b->kernels->hadamard(s->q, b->n_rows, head_dim);
    if (has_center(b)) {
        float mean[KV_HEAD_DIM_MAX];
        size_t half = (size_t)head_dim / 2;
        b->kernels->f16_to_f32(b->plan->center + i_head(b) * (size_t)head_dim, head_dim, mean);
        for (int row = 0; row < b->n_rows; row++)
            s->still[row] = kv_centers_project(
                b->codec->centers, b->codec->rope, mean, b->worker->q + row * head_dim,
                s->cos_part + (size_t)row * half, s->sin_part + (size_t)row * half);
    }
    if (r->key_bits == 16) return;
    b->n_classes = kv_key_classes(r, r->key_mixed ? &b->plan->channels[i_head(b)] : NULL, head_dim,
                                  b->classes);
    for (int k = 0, c = 0; k < b->n_classes; k++)
        for (int i = 0; i < b->classes[k].n_channels; i++, c++) {
            s->largest[c] = (uint8_t)((1 << b->classes[k].bits) - 1);
            s->middle[c] = kv_codes_middle(b->classes[k].bits);
        }
    if (r->key_scheme != KV_KEY_TOKEN) return;
    struct kv_fold fold = fold_of(b, 0, 0); /* for all pages */
    b->kernels->attn_fold(&fold);
}

static struct kv_grids key_grids(const struct kv_attn_block *b, int64_t i_page)
{
    const struct kv_page_scratch *s = &b->worker->page;
    return kv_key_grids(b->codec, i_head(b), page_at(b, i_page, i_head(b)), s->scale, s->min);
}

/* The queries as digits for the page. */
static void fold_page(const struct kv_attn_block *b, int64_t i_page)
{
    struct kv_page_scratch *s = &b->worker->page;
    if (b->recipe->key_bits == 16 || b->recipe->key_scheme == KV_KEY_TOKEN) return;
    struct kv_grids grids = key_grids(b, i_page);
    int n_halves = b->recipe->key_scheme == KV_KEY_C32 ? 2 : 1;
    for (int half = 0; half < n_halves; half++) {
        s->fold[half].scale = grids.scale + half * b->call->head_dim;
        s->fold[half].min = grids.min + half * b->call->head_dim;
        b->kernels->attn_fold(&s->fold[half]);
    }
}

static void scores_half(const struct kv_attn_block *b, const uint8_t *codes, struct kv_ahead ahead)
{
    const struct kv_page_scratch *s = &b->worker->page;
    int head_dim = b->call->head_dim;
    const struct kv_qk_half qk = {
        .k = (const uint16_t *)(const void *)codes,
        .stride = 0,
        .head_dim = head_dim,
        .n_tokens = KV_TILE,
        .n_rows = b->n_rows - s->row,
        .q = s->q + s->row * head_dim,
        .score = s->soften.score,
        .ahead = ahead,
    };
    b->kernels->qk_half(&qk);
}

static void score_page(const struct kv_attn_block *b, int64_t i_page, struct kv_ahead ahead)
{
    struct kv_page_scratch *s = &b->worker->page;
    const uint8_t *codes = page_at(b, i_page, i_head(b)) + b->codec->layout->key[i_head(b)].codes;
    if (b->recipe->key_bits == 16) {
        scores_half(b, codes, ahead);
    } else {
        if (b->recipe->key_scheme == KV_KEY_TOKEN) {
            struct kv_grids grids = key_grids(b, i_page);
            s->qk.scale = grids.scale;
            s->qk.min = grids.min;
        }
        s->qk.codes = codes;
        s->qk.ahead = ahead;
        b->kernels->qk_codes(&s->qk);
    }
    if (!has_center(b)) return;
    s->center.cos_t0 = b->view.page_angles + i_page * b->call->head_dim;
    s->center.sin_t0 = s->center.cos_t0 + b->call->head_dim / 2;
    b->kernels->qk_center(&s->center);
}

/* ---------------------------------------------------------------------------------------------- values -- */

static void soften_page(const struct kv_attn_block *b, int64_t i_page)
{
    const struct kv_page_scratch *s = &b->worker->page;
    for (int i = s->row / b->group; i < b->n_tokens; i++)
        kv_block_set_visible(b, i, 0, kv_clamp(b->sealed[i] - i_page * KV_PAGE_TOKENS, 0, KV_PAGE_TOKENS));
    b->kernels->attn_soften(&s->soften);
}

/* n: tokens of the page that the last query sees. */
static void weigh_page(const struct kv_attn_block *b, int64_t i_page, int n)
{
    struct kv_page_scratch *s = &b->worker->page;
    if (b->recipe->value_bits == 16) return;
    const uint8_t *page = page_at(b, i_page, i_head(b));
    struct kv_grids grids = kv_value_grids(b->codec, i_head(b), page, s->scale, s->min);
    s->weigh.n_tokens = n;
    s->weigh.scale = grids.scale;
    s->weigh.min = grids.min;
    b->kernels->attn_weigh(&s->weigh);
}

static void add_page(const struct kv_attn_block *b, int64_t i_page, int n, struct kv_ahead ahead)
{
    struct kv_page_scratch *s = &b->worker->page;
    const uint8_t *codes = page_at(b, i_page, i_head(b)) + b->codec->layout->value[i_head(b)].codes;
    if (b->recipe->value_bits == 16) {
        int head_dim = b->call->head_dim;
        const uint16_t *v = (const uint16_t *)(const void *)codes;
        b->kernels->pv_half(&(struct kv_pv_half){ v, head_dim, head_dim, n, s->pv.n_rows, s->soften.score,
                                                  s->keep, s->pv.out, ahead });
        return;
    }
    s->pv.codes = codes;
    s->pv.n_tokens = n;
    s->pv.ahead = ahead;
    b->kernels->pv_codes(&s->pv);
}

/* ----------------------------------------------------------------------------------------------- pages -- */

/* All calls from query row `row` on. */
static void make_calls(const struct kv_attn_block *b, int row, const struct kv_partial *state)
{
    struct kv_page_scratch *s = &b->worker->page;
    int head_dim = b->call->head_dim, bits = b->recipe->value_bits, n_rows = b->n_rows - row;
    int n_groups = b->recipe->value_group ? head_dim / b->recipe->value_group : 1;
    float *score = b->worker->score + row * KV_TILE;
    s->row = row;
    if (b->recipe->key_bits != 16) {
        for (int half = 0; half < 2; half++) s->fold[half] = fold_of(b, row, half);
        s->qk = qk_of(b, row, b->recipe->key_scheme == KV_KEY_C32 ? 1 : 0);
    }
    if (has_center(b)) s->center = center_of(b, row);
    s->soften = (struct kv_soften){ .score = score, .n_rows = n_rows, .first = b->worker->first + row,
                                    .last = b->worker->last + row, .max = state->max + row,
                                    .sum = state->sum + row, .keep = s->keep };
    s->weigh = (struct kv_weigh){ .p = score, .n_rows = n_rows, .n_groups = n_groups, .bits = bits,
                                  .digits = s->p_digits, .delta = s->p_delta, .bias = s->p_bias };
    s->pv = (struct kv_pv_codes){ .bits = bits, .head_dim = head_dim, .n_groups = n_groups,
                                  .digits = s->p_digits, .delta = s->p_delta, .bias = s->p_bias,
                                  .keep = s->keep, .n_rows = n_rows, .out = state->out + row * head_dim };
}

void kv_block_attend_pages(const struct kv_attn_block *b, int64_t begin, int64_t end,
                           const struct kv_partial *state)
{
    struct kv_page_scratch *s = &b->worker->page;
    int64_t sealed = b->sealed[b->n_tokens - 1];
    s->row = -1;
    for (int64_t p = begin; p < end; p++) {
        int n = (int)kv_clamp(sealed - p * KV_PAGE_TOKENS, 0, KV_PAGE_TOKENS), row = first_row(b, p);
        struct kv_next next = next_of(b, p, end);
        if (s->row != row) make_calls(b, row, state);
        ask_for(ahead_of(&next, 0, 2));
        fold_page(b, p);
        score_page(b, p, ahead_of(&next, 2, 7));
        ask_for(ahead_of(&next, 7, 9));
        soften_page(b, p);
        ask_for(ahead_of(&next, 9, 11));
        weigh_page(b, p, n);
        add_page(b, p, n, ahead_of(&next, 11, 16));
    }
}
