/*
 * A block of queries meets one page: scores from the codes of the keys, probabilities onto the codes of the
 * values. kernels/attention_calls.h has the formulas.
 *
 *            keys per channel: fold per page      per token: fold once          16 bits
 *   scores   qk_codes                            qk_codes, scaled per score    qk_half
 *            └──────────────┬─────────────────────────────┴──────────────────────┘
 *                  + q·R_t μ (centred keys), soften, weigh
 *            ┌──────────────┴───────────────┐
 *   out      pv_codes                       pv_half
 *
 * Query rows that see nothing of the page come first, since queries are in order of position: they are left
 * out.
 */
#include "model/attention_block.h"

#include <string.h>

#include "cache/kv_short.h"
#include "kernels/code_layout.h"

struct kv_page_scratch kv_page_scratch_place(struct kv_carve *c, size_t n_rows, size_t head_dim)
{
    struct kv_page_scratch s;
    size_t n_groups = head_dim < 32 ? 1 : head_dim / 32;
    s.q = kv_carve(c, n_rows * head_dim, sizeof *s.q);
    s.middle = kv_carve(c, head_dim, sizeof *s.middle);
    s.scale = kv_carve(c, KV_GRIDS_MAX, sizeof *s.scale);
    s.min = kv_carve(c, KV_GRIDS_MAX, sizeof *s.min);
    for (int half = 0; half < 2; half++) {
        s.digits[half] = kv_carve(c, n_rows * head_dim, 2);
        for (int w = 0; w < KV_WIDTHS; w++) s.delta[half][w] = kv_carve(c, n_rows, sizeof *s.delta[half][w]);
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

static size_t i_head(const struct kv_attn_block *b)
{
    return (size_t)b->call->layer * (size_t)b->call->n_head_kv + (size_t)b->head_kv;
}

/* Lines [from, to) sixteenths of the head's keys and values in the next page. A page's time is as long as its lines
 * take from memory, if they are asked for evenly; the queue of outstanding loads holds about 24 of some 50 to 500. */
static struct kv_ahead ahead_of(const struct kv_attn_block *b, const struct kv_page *next, size_t from, size_t to)
{
    if (!next) return (struct kv_ahead){ NULL, NULL };
    const struct kv_head_layout *head = &b->codec->layout->head[i_head(b)];
    const uint8_t *begin = kv_page_base(b->codec->layout, *next, i_head(b)) + head->first;
    return (struct kv_ahead){ begin + head->n_bytes / KV_LINE * from / 16 * KV_LINE,
                              begin + head->n_bytes / KV_LINE * to / 16 * KV_LINE };
}

static void ask_for(struct kv_ahead a)
{
    for (; a.at < a.end; a.at += KV_LINE) __builtin_prefetch(a.at, 0, 3);
}

void kv_block_ask_for_page(const struct kv_attn_block *b, int64_t i_page)
{
    ask_for(ahead_of(b, &b->view.pages[i_page], 0, 16));
}

/* ------------------------------------------------------------------------------------------------ keys -- */

static int key_classes(const struct kv_attn_block *b, struct kv_key_class out[KV_CLASSES_MAX])
{
    if (!b->recipe->key_mixed) {
        out[0] = (struct kv_key_class){ b->recipe->key_bits, b->call->head_dim };
        return 1;
    }
    const struct kv_channels *channels = &b->plan->channels[i_head(b)];
    int n = 0;
    for (int i = 0; i < KV_N_CLASSES; i++)
        if (channels->count[i]) out[n++] = (struct kv_key_class){ kv_class_bits[i], channels->count[i] };
    return n;
}

/* Rows [row, n_rows); half: of a page, whose scales are given. */
static struct kv_fold fold_of(const struct kv_attn_block *b, const struct kv_key_class *classes, int n_classes, int row,
                              int half)
{
    const struct kv_page_scratch *s = &b->worker->page;
    size_t head_dim = (size_t)b->call->head_dim, first = (size_t)row;
    return (struct kv_fold){
        .q = s->q + first * head_dim,
        .q_stride = head_dim,
        .n_rows = b->n_rows - row,
        .n_classes = n_classes,
        .classes = classes,
        .middle = s->middle,
        .digits = s->digits[half] + first * 2 * head_dim,
        .digits_stride = 2 * head_dim,
        .delta = { s->delta[half][KV_NARROW] + row, s->delta[half][KV_WIDE] + row },
        .bias = s->bias[half] + row,
    };
}

/* A head may have no pair that gains from centring. */
static bool has_center(const struct kv_attn_block *b)
{
    if (!b->recipe->key_centered) return false;
    const struct kv_center_list *list = &b->codec->centers->head[i_head(b)];
    return list->n_listed || list->polynomials || list->still;
}

void kv_block_prepare_pages(const struct kv_attn_block *b)
{
    const struct kv_page_scratch *s = &b->worker->page;
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
            s->still[row] = kv_centers_project(b->codec->centers, b->codec->rope, mean, b->worker->q + row * head_dim,
                                               s->cos_part + (size_t)row * half, s->sin_part + (size_t)row * half);
    }
    if (r->key_bits == 16) return;
    struct kv_key_class classes[KV_CLASSES_MAX];
    int n_classes = key_classes(b, classes);
    for (int k = 0, c = 0; k < n_classes; k++)
        for (int i = 0; i < classes[k].n_channels; i++)
            s->middle[c++] = classes[k].bits ? kv_codes_middle(classes[k].bits) : 0.0f;
    if (r->key_scheme != KV_KEY_TOKEN) return;
    struct kv_fold fold = fold_of(b, classes, n_classes, 0, 0);
    fold.sum = s->sum;
    b->kernels->attn_fold(&fold);
}

/* Rows [row, n_rows) against the keys of a page; high: where the digits of its second half are. */
static struct kv_qk_codes qk_of(const struct kv_attn_block *b, const uint8_t *page, const struct kv_key_class *classes,
                                int n_classes, int row, int high)
{
    const struct kv_page_scratch *s = &b->worker->page;
    size_t stride = 2 * (size_t)b->call->head_dim, at = (size_t)row * stride;
    return (struct kv_qk_codes){
        .codes = page + b->codec->layout->key[i_head(b)].codes,
        .n_classes = n_classes,
        .classes = classes,
        .digits = { s->digits[0] + at, s->digits[high] + at },
        .digits_stride = stride,
        .delta = { { s->delta[0][KV_NARROW] + row, s->delta[0][KV_WIDE] + row },
                   { s->delta[high][KV_NARROW] + row, s->delta[high][KV_WIDE] + row } },
        .bias = { s->bias[0] + row, s->bias[high] + row },
        .n_rows = b->n_rows - row,
        .score = b->worker->score + row * KV_TILE,
    };
}

static struct kv_grids key_grids(const struct kv_attn_block *b, const uint8_t *page)
{
    const struct kv_page_scratch *s = &b->worker->page;
    return kv_key_grids(b->codec, i_head(b), page, s->scale, s->min);
}

static void scores_per_channel(const struct kv_attn_block *b, const uint8_t *page, int row, struct kv_ahead ahead)
{
    struct kv_grids grids = key_grids(b, page);
    int high = b->recipe->key_scheme == KV_KEY_C32 ? 1 : 0;
    struct kv_key_class classes[KV_CLASSES_MAX];
    int n_classes = key_classes(b, classes);
    for (int half = 0; half <= high; half++) {
        struct kv_fold fold = fold_of(b, classes, n_classes, row, half);
        fold.scale = grids.scale + half * b->call->head_dim;
        fold.min = grids.min + half * b->call->head_dim;
        b->kernels->attn_fold(&fold);
    }
    struct kv_qk_codes qk = qk_of(b, page, classes, n_classes, row, high);
    qk.ahead = ahead;
    b->kernels->qk_codes(&qk);
}

static void scores_per_token(const struct kv_attn_block *b, const uint8_t *page, int row, struct kv_ahead ahead)
{
    struct kv_grids grids = key_grids(b, page);
    const struct kv_key_class all = { b->recipe->key_bits, b->call->head_dim };
    struct kv_qk_codes qk = qk_of(b, page, &all, 1, row, 0);
    qk.scale = grids.scale;
    qk.min = grids.min;
    qk.sum = b->worker->page.sum + row;
    qk.ahead = ahead;
    b->kernels->qk_codes(&qk);
}

static void scores_half(const struct kv_attn_block *b, const uint8_t *page, int row, struct kv_ahead ahead)
{
    int head_dim = b->call->head_dim;
    const struct kv_qk_half qk = {
        .k = (const uint16_t *)(const void *)(page + b->codec->layout->key[i_head(b)].codes),
        .stride = 0,
        .head_dim = head_dim,
        .n_tokens = KV_TILE,
        .n_rows = b->n_rows - row,
        .q = b->worker->page.q + row * head_dim,
        .score = b->worker->score + row * KV_TILE,
        .ahead = ahead,
    };
    b->kernels->qk_half(&qk);
}

static void add_center_scores(const struct kv_attn_block *b, int64_t i_page, int row)
{
    const struct kv_page_scratch *s = &b->worker->page;
    const struct kv_centers *centers = b->codec->centers;
    const struct kv_center_list *list = &centers->head[i_head(b)];
    size_t stride = (size_t)b->call->head_dim / 2, first = (size_t)row * stride;
    const float *angles = b->view.page_angles + i_page * b->call->head_dim;
    const struct kv_qk_center call = {
        .cos_part = s->cos_part + first,
        .sin_part = s->sin_part + first,
        .stride = stride,
        .still = s->still + row,
        .cos_t0 = angles,
        .sin_t0 = angles + stride,
        .n_pairs = centers->n_pairs,
        .n_listed = list->n_listed,
        .listed = list->listed,
        .turning = centers->turning,
        .slow = list->polynomials ? centers->slow : NULL,
        .polynomials = centers->polynomials,
        .n_rows = b->n_rows - row,
        .score = b->worker->score + row * KV_TILE,
    };
    b->kernels->qk_center(&call);
}

/* ---------------------------------------------------------------------------------------------- values -- */

static void add_values(const struct kv_attn_block *b, const uint8_t *page, int row, int n_tokens, struct kv_ahead ahead,
                       const struct kv_partial *state)
{
    const struct kv_page_scratch *s = &b->worker->page;
    const struct kv_side_layout *side = &b->codec->layout->value[i_head(b)];
    int bits = b->recipe->value_bits, head_dim = b->call->head_dim, n_rows = b->n_rows - row;
    const float *p = b->worker->score + row * KV_TILE;
    if (bits == 16) {
        b->kernels->pv_half(&(struct kv_pv_half){ (const uint16_t *)(const void *)(page + side->codes), head_dim, head_dim,
                                                  n_tokens, n_rows, p, s->keep, state->out + row * head_dim, ahead });
        return;
    }
    int n_groups = b->recipe->value_group ? head_dim / b->recipe->value_group : 1;
    struct kv_grids grids = kv_value_grids(b->codec, i_head(b), page, s->scale, s->min);
    const struct kv_weigh weigh = {
        .p = p,
        .n_rows = n_rows,
        .n_groups = n_groups,
        .bits = bits,
        .n_tokens = n_tokens,
        .scale = grids.scale,
        .min = grids.min,
        .digits = s->p_digits,
        .delta = s->p_delta,
        .bias = s->p_bias,
    };
    b->kernels->attn_weigh(&weigh);
    const struct kv_pv_codes pv = {
        .codes = page + side->codes,
        .bits = bits,
        .head_dim = head_dim,
        .n_groups = n_groups,
        .n_tokens = n_tokens,
        .digits = s->p_digits,
        .delta = s->p_delta,
        .bias = s->p_bias,
        .keep = s->keep,
        .n_rows = n_rows,
        .out = state->out + row * head_dim,
        .ahead = ahead,
    };
    b->kernels->pv_codes(&pv);
}

/* -------------------------------------------------------------------------------------------- a page -- */

void kv_block_attend_page(const struct kv_attn_block *b, int64_t i_page, int n, const struct kv_page *next,
                          const struct kv_partial *state)
{
    const struct kv_attn_worker *w = b->worker;
    const struct kv_layout *layout = b->codec->layout;
    const uint8_t *page = kv_page_base(layout, b->view.pages[i_page], i_head(b));
    int64_t begin = i_page * KV_PAGE_TOKENS;
    int blind = 0; /* query tokens that see nothing of the page */
    while (b->sealed[blind] <= begin) blind++;
    for (int i = blind; i < b->n_tokens; i++)
        kv_block_set_visible(b, i, 0, kv_clamp(b->sealed[i] - begin, 0, n));
    int row = blind * b->group, n_rows = b->n_rows - row;
    if (b->recipe->key_bits == 16) {
        scores_half(b, page, row, ahead_of(b, next, 0, 7));
    } else if (b->recipe->key_scheme == KV_KEY_TOKEN) {
        scores_per_token(b, page, row, ahead_of(b, next, 0, 7));
    } else {
        ask_for(ahead_of(b, next, 0, 2));
        scores_per_channel(b, page, row, ahead_of(b, next, 2, 7));
    }
    if (has_center(b)) add_center_scores(b, i_page, row);
    ask_for(ahead_of(b, next, 7, 9));
    b->kernels->attn_soften(&(struct kv_soften){ w->score + row * KV_TILE, n_rows, w->first + row, w->last + row,
                                                 state->max + row, state->sum + row, w->page.keep });
    ask_for(ahead_of(b, next, 9, 11));
    add_values(b, page, row, n, ahead_of(b, next, 11, 16), state);
}
