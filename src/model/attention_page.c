/*
 * A block of queries meets one page: scores from the codes of the keys, probabilities onto the codes of the
 * values. kernels/attention_calls.h has the formulas.
 *
 *            keys per channel: fold per page      per token: fold once          16 bits
 *   scores   Σ over classes of qk_codes           qk_codes, scaled per score    qk_half
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

struct kv_page_scratch kv_page_scratch_place(struct kv_carve *c, size_t n_rows, size_t head_dim)
{
    struct kv_page_scratch s;
    size_t n_groups = head_dim < 32 ? 1 : head_dim / 32;
    s.q = kv_carve(c, n_rows * head_dim, sizeof *s.q);
    for (int half = 0; half < 2; half++) {
        s.digits[half] = kv_carve(c, n_rows * head_dim, 2);
        s.delta[half] = kv_carve(c, KV_N_CLASSES * n_rows, sizeof *s.delta[half]);
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

/* ------------------------------------------------------------------------------------------------ keys -- */

/* The classes of the stored channels; keys that are not mixed are one. */
struct key_class {
    int first, n, bits;
    size_t codes; /* byte of the side */
};

static int key_classes(const struct kv_attn_block *b, struct key_class out[KV_N_CLASSES])
{
    if (!b->recipe->key_mixed) {
        out[0] = (struct key_class){ 0, b->call->head_dim, b->recipe->key_bits, 0 };
        return 1;
    }
    const struct kv_channels *channels = &b->plan->channels[i_head(b)];
    int n = 0, first = 0;
    size_t codes = 0;
    for (int i = 0; i < KV_N_CLASSES; i++) {
        int count = channels->count[i];
        if (!count) continue;
        out[n++] = (struct key_class){ first, count, kv_class_bits[i], codes };
        first += count;
        codes += (size_t)(count * 8 * kv_class_bits[i]);
    }
    return n;
}

static struct kv_fold fold_of(const struct kv_attn_block *b, const struct key_class *class, int i_class, int half)
{
    const struct kv_page_scratch *s = &b->worker->page;
    size_t head_dim = (size_t)b->call->head_dim;
    return (struct kv_fold){
        .q = s->q + class->first,
        .q_stride = head_dim,
        .n_rows = b->n_rows,
        .n_channels = class->n,
        .bits = class->bits,
        .digits = s->digits[half] + 2 * class->first,
        .digits_stride = 2 * head_dim,
        .delta = s->delta[half] + i_class * b->n_rows,
        .bias = s->bias[half],
    };
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
    if (r->key_centered) {
        float mean[KV_HEAD_DIM_MAX];
        size_t half = (size_t)head_dim / 2;
        b->kernels->f16_to_f32(b->plan->center + i_head(b) * (size_t)head_dim, head_dim, mean);
        for (int row = 0; row < b->n_rows; row++)
            s->still[row] = kv_centers_project(b->codec->centers, b->codec->rope, mean, b->worker->q + row * head_dim,
                                               s->cos_part + (size_t)row * half, s->sin_part + (size_t)row * half);
    }
    if (r->key_bits == 16 || r->key_scheme != KV_KEY_TOKEN) return;
    const struct key_class all = { 0, head_dim, r->key_bits, 0 };
    struct kv_fold fold = fold_of(b, &all, 0, 0);
    fold.sum = s->sum;
    memset(s->bias[0], 0, (size_t)b->n_rows * sizeof *s->bias[0]);
    b->kernels->attn_fold(&fold);
}

/* Rows [row, n_rows) against the keys of a page. */
static void scores_per_channel(const struct kv_attn_block *b, const uint8_t *page, int row)
{
    const struct kv_page_scratch *s = &b->worker->page;
    const struct kv_side_layout *side = &b->codec->layout->key[i_head(b)];
    const uint16_t *scale = (const uint16_t *)(const void *)(page + side->scale),
                   *min = (const uint16_t *)(const void *)(page + side->min);
    int head_dim = b->call->head_dim, n_halves = b->recipe->key_scheme == KV_KEY_C32 ? 2 : 1;
    struct key_class classes[KV_N_CLASSES];
    int n_classes = key_classes(b, classes);
    for (int half = 0; half < n_halves; half++) {
        memset(s->bias[half], 0, (size_t)b->n_rows * sizeof *s->bias[half]);
        for (int i = 0; i < n_classes; i++) {
            struct kv_fold fold = fold_of(b, &classes[i], i, half);
            fold.scale = scale + half * head_dim + classes[i].first;
            fold.min = min + half * head_dim + classes[i].first;
            fold.q += (size_t)row * fold.q_stride;
            fold.digits = (char *)fold.digits + (size_t)row * fold.digits_stride;
            fold.delta += row;
            fold.bias += row;
            fold.n_rows -= row;
            b->kernels->attn_fold(&fold);
        }
    }
    for (int i = 0; i < n_classes; i++) {
        int high = n_halves - 1; /* the digits of the page's second half */
        if (classes[i].bits == 0 && i > 0) continue; /* only a bias, which the first class brought */
        size_t at = (size_t)row * 2 * (size_t)head_dim + 2 * (size_t)classes[i].first;
        const struct kv_qk_codes qk = {
            .codes = page + side->codes + classes[i].codes,
            .bits = classes[i].bits ? classes[i].bits : 2,
            .n_channels = classes[i].bits ? classes[i].n : 0,
            .digits = { s->digits[0] + at, s->digits[high] + at },
            .digits_stride = 2 * (size_t)head_dim,
            .delta = { s->delta[0] + i * b->n_rows + row, s->delta[high] + i * b->n_rows + row },
            .bias = { i == 0 ? s->bias[0] + row : NULL, i == 0 ? s->bias[high] + row : NULL },
            .n_rows = b->n_rows - row,
            .score = b->worker->score + row * KV_TILE,
        };
        b->kernels->qk_codes(&qk);
    }
}

static void scores_per_token(const struct kv_attn_block *b, const uint8_t *page, int row)
{
    const struct kv_page_scratch *s = &b->worker->page;
    const struct kv_side_layout *side = &b->codec->layout->key[i_head(b)];
    size_t stride = 2 * (size_t)b->call->head_dim;
    const char *digits = s->digits[0] + (size_t)row * stride;
    const struct kv_qk_codes qk = {
        .codes = page + side->codes,
        .bits = b->recipe->key_bits,
        .n_channels = b->call->head_dim,
        .digits = { digits, digits },
        .digits_stride = stride,
        .delta = { s->delta[0] + row, s->delta[0] + row },
        .bias = { s->bias[0] + row, s->bias[0] + row },
        .scale = (const uint16_t *)(const void *)(page + side->scale),
        .min = (const uint16_t *)(const void *)(page + side->min),
        .sum = s->sum + row,
        .n_rows = b->n_rows - row,
        .score = b->worker->score + row * KV_TILE,
    };
    b->kernels->qk_codes(&qk);
}

static void scores_half(const struct kv_attn_block *b, const uint8_t *page, int row)
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
    };
    b->kernels->qk_half(&qk);
}

static void add_center_scores(const struct kv_attn_block *b, int64_t i_page, int row)
{
    const struct kv_page_scratch *s = &b->worker->page;
    const struct kv_centers *centers = b->codec->centers;
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
        .n_fast = centers->n_fast,
        .fast = centers->fast,
        .slow = centers->slow,
        .polynomials = centers->polynomials,
        .n_rows = b->n_rows - row,
        .score = b->worker->score + row * KV_TILE,
    };
    b->kernels->qk_center(&call);
}

/* ---------------------------------------------------------------------------------------------- values -- */

static void add_values(const struct kv_attn_block *b, const uint8_t *page, int row, int n_tokens,
                       const struct kv_partial *state)
{
    const struct kv_page_scratch *s = &b->worker->page;
    const struct kv_side_layout *side = &b->codec->layout->value[i_head(b)];
    int bits = b->recipe->value_bits, head_dim = b->call->head_dim, n_rows = b->n_rows - row;
    const float *p = b->worker->score + row * KV_TILE;
    if (bits == 16) {
        b->kernels->pv_half(&(struct kv_pv_half){ (const uint16_t *)(const void *)(page + side->codes), head_dim, head_dim,
                                                  n_tokens, n_rows, p, s->keep, state->out + row * head_dim });
        return;
    }
    int n_groups = b->recipe->value_group ? head_dim / b->recipe->value_group : 1;
    const struct kv_weigh weigh = {
        .p = p,
        .n_rows = n_rows,
        .n_groups = n_groups,
        .bits = bits,
        .n_tokens = n_tokens,
        .scale = (const uint16_t *)(const void *)(page + side->scale),
        .min = (const uint16_t *)(const void *)(page + side->min),
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
    };
    b->kernels->pv_codes(&pv);
}

/* -------------------------------------------------------------------------------------------- a page -- */

void kv_block_attend_page(const struct kv_attn_block *b, int64_t i_page, int n, const struct kv_partial *state)
{
    const struct kv_attn_worker *w = b->worker;
    const uint8_t *page = b->view.pages[i_page];
    int64_t begin = i_page * KV_PAGE_TOKENS;
    int blind = 0; /* query tokens that see nothing of the page */
    while (b->sealed[blind] <= begin) blind++;
    for (int i = blind; i < b->n_tokens; i++)
        kv_block_set_visible(b, i, 0, b->sealed[i] - begin < n ? b->sealed[i] - begin : n);
    int row = blind * b->group, n_rows = b->n_rows - row;
    if (b->recipe->key_bits == 16) scores_half(b, page, row);
    else if (b->recipe->key_scheme == KV_KEY_TOKEN) scores_per_token(b, page, row);
    else scores_per_channel(b, page, row);
    if (b->recipe->key_centered) {
        add_center_scores(b, i_page, row);
    }
    b->kernels->attn_soften(&(struct kv_soften){ w->score + row * KV_TILE, n_rows, w->first + row, w->last + row,
                                                 state->max + row, state->sum + row, w->page.keep });
    add_values(b, page, row, n, state);
}
