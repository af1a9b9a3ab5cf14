#include "cache/kv_read.h"

#include <string.h>

#include "base/memory.h"
#include "cache/kv_classes.h"
#include "cache/kv_sequence.h"
#include "cache/kv_short.h"

/* ------------------------------------------------------------------------------------------- constants -- */

kvant_status kv_reader_open(struct kv_reader *out, const struct kv_rope *rope, struct kvant_error *err)
{
    int n_pairs = rope->n_rot / 2;
    float cos_i[KV_HEAD_DIM_MAX / 2], sin_i[KV_HEAD_DIM_MAX / 2];
    out->rope = rope;
    out->turn = kv_alloc(2 * (size_t)n_pairs * KV_PAGE_TOKENS, sizeof *out->turn);
    if (!out->turn) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the angles of a page");
    for (int i = 0; i < KV_PAGE_TOKENS; i++) {
        kv_rope_angles(rope, i, cos_i, sin_i);
        for (int p = 0; p < n_pairs; p++) {
            out->turn[p * KV_PAGE_TOKENS + i] = cos_i[p];
            out->turn[(n_pairs + p) * KV_PAGE_TOKENS + i] = sin_i[p];
        }
    }
    return KVANT_OK;
}

void kv_reader_close(struct kv_reader *r)
{
    kv_free(r->turn);
    r->turn = NULL;
}

/* --------------------------------------------------------------------------------------------- scratch -- */

struct scratch {
    float *tile;         /* (64, head_dim), or transposed */
    float *row, *second; /* (head_dim)                    */
};

static size_t carve(struct scratch *s, void *base, int head_dim)
{
    struct kv_carve c = { base, 0, false };
    s->tile = kv_carve(&c, (size_t)head_dim * KV_PAGE_TOKENS, sizeof *s->tile);
    s->row = kv_carve(&c, (size_t)head_dim, sizeof *s->row);
    s->second = kv_carve(&c, (size_t)head_dim, sizeof *s->second);
    return c.used;
}

size_t kv_read_scratch_bytes(int head_dim)
{
    struct scratch s;
    return carve(&s, NULL, head_dim);
}

/* -------------------------------------------------------------------------------------- what a call is -- */

struct job {
    const struct kv_read_call *call;
    const struct kv_codec *codec;
    const struct kv_recipe *recipe;
    struct kv_seq_view view;
    struct scratch scratch;
    int i_head, head_dim, sinks;
    bool turns; /* rows are turned back */
};

static struct job job_open(const struct kv_read_call *call, void *memory)
{
    const struct kv_codec *codec = kv_seq_codec(call->seq);
    struct job j = { .call = call, .codec = codec };
    j.recipe = kv_plan_recipe_at(codec->plan, call->layer, call->head_kv);
    j.head_dim = codec->plan->head_dim;
    j.i_head = call->layer * codec->plan->n_head_kv + call->head_kv;
    j.sinks = codec->plan->sinks;
    j.turns = call->side == KV_READ_KEYS && call->before_rope;
    kv_seq_get_view(call->seq, call->layer, call->head_kv, NULL, NULL, 0, &j.view);
    carve(&j.scratch, memory, j.head_dim);
    return j;
}

/* R_{−position}, in place. */
static void turn_back(const struct job *j, int64_t position, float *row)
{
    float cos_t[KV_HEAD_DIM_MAX / 2], sin_t[KV_HEAD_DIM_MAX / 2];
    kv_rope_angles(j->call->reader->rope, position, cos_t, sin_t);
    for (int p = 0; p < j->call->reader->rope->n_rot / 2; p++) sin_t[p] = -sin_t[p];
    kv_rope_apply(j->call->reader->rope, cos_t, sin_t, row, 1);
}

/* R_{−i} with i < 64, from the table. */
static void turn_within(const struct job *j, int i, float *row)
{
    const struct kv_reader *reader = j->call->reader;
    const struct kv_rope *r = reader->rope;
    int half = r->n_rot / 2, near = kv_rope_near(r), far = kv_rope_far(r);
    const float *cosines = reader->turn + i, *sines = cosines + half * KV_PAGE_TOKENS;
    for (int p = 0; p < half; p++) {
        float *a = row + near * p, *b = a + far, a0 = *a, b0 = *b;
        *a = a0 * cosines[p * KV_PAGE_TOKENS] + b0 * sines[p * KV_PAGE_TOKENS];
        *b = b0 * cosines[p * KV_PAGE_TOKENS] - a0 * sines[p * KV_PAGE_TOKENS];
    }
}

/* Tokens [first, last) of page i that the call wants, as rows of the page. */
static void page_range(const struct job *j, int64_t i_page, int *first, int *last)
{
    int64_t begin = j->sinks + i_page * KV_PAGE_TOKENS, sealed_end = j->sinks + j->view.n_pages_sealed_tokens;
    int64_t from = j->call->first > begin ? j->call->first : begin;
    int64_t to = j->call->last < begin + KV_PAGE_TOKENS ? j->call->last : begin + KV_PAGE_TOKENS;
    if (to > sealed_end) to = sealed_end;
    *first = (int)(from - begin);
    *last = to > from ? (int)(to - begin) : *first;
}

static int64_t page_count(const struct job *j)
{
    return (j->view.n_pages_sealed_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

/* -------------------------------------------------------------------------------------- rows of a page -- */

/* Rows [first, last) of a page in the plain domain. */
static void page_rows(const struct job *j, int64_t i_page, int first, int last, float *out, int64_t stride)
{
    const struct kv_page page = j->view.pages[i_page];
    int64_t begin = j->sinks + i_page * KV_PAGE_TOKENS;
    float *tile = j->scratch.tile;
    if (j->call->side == KV_READ_VALUES) {
        kv_codec_expand_values(j->codec, page, j->call->layer, j->call->head_kv, last, tile);
        if (j->recipe->value_rotated)
            j->codec->kernels->hadamard(tile + first * j->head_dim, last - first, j->head_dim);
        for (int i = first; i < last; i++)
            memcpy(out + (i - first) * stride, tile + i * j->head_dim, (size_t)j->head_dim * sizeof *out);
        return;
    }
    kv_codec_expand_keys(j->codec, page, j->call->layer, j->call->head_kv, last, begin, tile);
    for (int i = first; i < last; i++) {
        float *row = out + (i - first) * stride;
        for (int c = 0; c < j->head_dim; c++) row[c] = tile[c * KV_PAGE_TOKENS + i];
        if (j->turns) turn_back(j, begin + i, row);
    }
}

static void exact_row(const struct job *j, const struct kv_exact_segment *s, int64_t position, float *row)
{
    const uint16_t *from = (j->call->side == KV_READ_KEYS ? s->k : s->v) +
                           (position - s->position) * s->row_stride;
    j->codec->kernels->f16_to_f32(from, j->head_dim, row);
}

static void exact_range(const struct job *j, const struct kv_exact_segment *s, int64_t *first, int64_t *last)
{
    *first = j->call->first > s->position ? j->call->first : s->position;
    *last = j->call->last < s->position + s->n ? j->call->last : s->position + s->n;
}

void kv_read_rows(const struct kv_read_call *call, void *memory, float *out, int64_t stride)
{
    struct job j = job_open(call, memory);
    for (int s = 0; s < 2; s++) {
        int64_t first, last;
        exact_range(&j, &j.view.exact[s], &first, &last);
        for (int64_t t = first; t < last; t++) {
            float *row = out + (t - call->first) * stride;
            exact_row(&j, &j.view.exact[s], t, row);
            if (j.turns) turn_back(&j, t, row);
        }
    }
    for (int64_t p = 0; p < page_count(&j); p++) {
        int first, last;
        page_range(&j, p, &first, &last);
        if (first < last)
            page_rows(&j, p, first, last, out + (j.sinks + p * KV_PAGE_TOKENS + first - call->first) * stride,
                      stride);
    }
}

/* ---------------------------------------------------------------------------------------- sums of keys -- */

static const struct kv_channels *channels_of(const struct job *j)
{
    return j->recipe->key_mixed ? &j->codec->plan->channels[j->i_head] : NULL;
}

/* Of 16-bit keys, which lie channel by channel. */
static void sum_half_keys(const struct job *j, const uint16_t *halves, int first, int last,
                          const float *const *weight, float *out)
{
    float x[KV_PAGE_TOKENS];
    for (int c = 0; c < j->head_dim; c++) {
        double sum = 0;
        j->codec->kernels->f16_to_f32(halves + c * KV_PAGE_TOKENS, KV_PAGE_TOKENS, x);
        for (int i = first; i < last; i++) sum += (double)(weight ? weight[c][i] * x[i] : x[i]);
        out[c] = (float)sum;
    }
}

/* Σ weight · stored key over tokens [first, last) of a page; weight: rows of 64 by stored channel, or NULL.
 * out: in the head's order. */
static void sum_stored_keys(const struct job *j, const uint8_t *page, int first, int last,
                            const float *const *weight, float *out)
{
    const struct kv_side_layout *side = &j->codec->layout->key[j->i_head];
    const struct kv_channels *channels = channels_of(j);
    if (j->recipe->key_bits == 16) {
        sum_half_keys(j, (const uint16_t *)(const void *)(page + side->codes), first, last, weight, out);
        return;
    }
    struct kv_key_class classes[KV_CLASSES_MAX];
    float stored[KV_HEAD_DIM_MAX];
    uint16_t scale[KV_GRIDS_MAX], min[KV_GRIDS_MAX];
    struct kv_grids grids = kv_key_grids(j->codec, (size_t)j->i_head, page, scale, min);
    j->codec->kernels->sum_keys(&(struct kv_sum_keys){
        .codes = page + side->codes,
        .n_classes = kv_key_classes(j->recipe, channels, j->head_dim, classes),
        .classes = classes,
        .scale = grids.scale,
        .min = grids.min,
        .group = j->recipe->key_scheme,
        .first = first,
        .last = last,
        .n_channels = j->head_dim,
        .weight = weight,
        .out = channels ? stored : out,
    });
    for (int s = 0; channels && s < j->head_dim; s++) out[channels->order[s]] = stored[s];
}

/* A pair's two channels: i and far[i]; which pair a channel is in, or −1. */
static int pair_of(const struct kv_rope *r, int channel)
{
    if (channel >= r->n_rot) return -1;
    return r->neox ? channel % (r->n_rot / 2) : channel / 2;
}

/* Rows of weights by stored channel; channels that do not turn have the weight 1 (of cosines) or 0. */
static void turn_weights(const struct job *j, bool sines, const float *still, const float **weight)
{
    const struct kv_reader *reader = j->call->reader;
    const struct kv_channels *channels = channels_of(j);
    const float *table = reader->turn + (sines ? (size_t)(reader->rope->n_rot / 2) * KV_PAGE_TOKENS : 0);
    for (int s = 0; s < j->head_dim; s++) {
        int pair = pair_of(reader->rope, channels ? channels->order[s] : s);
        weight[s] = pair < 0 ? still : table + (size_t)pair * KV_PAGE_TOKENS;
    }
}

/* Σ_i R_{−i} x_i with i the row in the page: out = R_{−i} applied by the two weighted sums. */
static void sum_turned_keys(const struct job *j, const uint8_t *page, int first, int last, float *out)
{
    const struct kv_rope *r = j->call->reader->rope;
    const float *weight[KV_HEAD_DIM_MAX];
    float still[KV_PAGE_TOKENS];
    float *by_cos = out, *by_sin = j->scratch.second;
    for (int i = 0; i < KV_PAGE_TOKENS; i++) still[i] = 1.0f;
    turn_weights(j, false, still, weight);
    sum_stored_keys(j, page, first, last, weight, by_cos);
    turn_weights(j, true, still, weight);
    sum_stored_keys(j, page, first, last, weight, by_sin);
    int half = r->n_rot / 2, near = kv_rope_near(r), far = kv_rope_far(r);
    for (int p = 0; p < half; p++) { /* R_{−i}: (a, b) -> (a cos + b sin, b cos − a sin) */
        int a = near * p, b = a + far;
        float turned_a = by_cos[a] + by_sin[b];
        by_cos[b] = by_cos[b] - by_sin[a];
        by_cos[a] = turned_a;
    }
}

static void add_centers(const struct job *j, int64_t i_page, int first, int last, double *out)
{
    float mean[KV_HEAD_DIM_MAX], turned[KV_HEAD_DIM_MAX];
    j->codec->kernels->f16_to_f32(j->codec->plan->center + (size_t)j->i_head * (size_t)j->head_dim,
                                  j->head_dim, mean);
    if (j->turns) { /* R_{−t} R_t μ = μ */
        for (int c = 0; c < j->head_dim; c++) out[c] += (double)(last - first) * (double)mean[c];
        return;
    }
    const float *angles = j->view.page_angles + i_page * j->head_dim;
    for (int i = first; i < last; i++) {
        kv_centers_turned(j->codec->centers, j->codec->rope, mean, angles, angles + j->head_dim / 2, i,
                          turned);
        for (int c = 0; c < j->head_dim; c++) out[c] += (double)turned[c];
    }
}

/* Rotated keys before RoPE: row by row from the expanded tile. */
static void sum_expanded_keys(const struct job *j, int64_t i_page, int first, int last, double *out)
{
    int64_t begin = j->sinks + i_page * KV_PAGE_TOKENS;
    float *tile = j->scratch.tile, *row = j->scratch.row, *sum = j->scratch.second;
    kv_codec_expand_keys(j->codec, j->view.pages[i_page], j->call->layer, j->call->head_kv, last, begin,
                         tile);
    memset(sum, 0, (size_t)j->head_dim * sizeof *sum);
    for (int i = first; i < last; i++) {
        for (int c = 0; c < j->head_dim; c++) row[c] = tile[c * KV_PAGE_TOKENS + i];
        turn_within(j, i, row);
        for (int c = 0; c < j->head_dim; c++) sum[c] += row[c];
    }
    turn_back(j, begin, sum);
    for (int c = 0; c < j->head_dim; c++) out[c] += (double)sum[c];
}

static void sum_page_keys(const struct job *j, int64_t i_page, int first, int last, double *out)
{
    const uint8_t *page = kv_page_base(j->codec->layout, j->view.pages[i_page], (size_t)j->i_head);
    float *sum = j->scratch.row;
    if (j->turns && j->recipe->key_rotated) {
        sum_expanded_keys(j, i_page, first, last, out);
        return;
    }
    if (j->turns) {
        sum_turned_keys(j, page, first, last, sum);
        turn_back(j, j->sinks + i_page * KV_PAGE_TOKENS, sum);
    } else {
        sum_stored_keys(j, page, first, last, NULL, sum);
        if (j->recipe->key_rotated) j->codec->kernels->hadamard(sum, 1, j->head_dim);
    }
    for (int c = 0; c < j->head_dim; c++) out[c] += (double)sum[c];
    if (j->recipe->key_centered) add_centers(j, i_page, first, last, out);
}

/* -------------------------------------------------------------------------------------- sums of values -- */

static void sum_page_values(const struct job *j, int64_t i_page, int first, int last, double *out)
{
    const uint8_t *page = kv_page_base(j->codec->layout, j->view.pages[i_page], (size_t)j->i_head);
    const struct kv_side_layout *side = &j->codec->layout->value[j->i_head];
    float *sum = j->scratch.row;
    if (j->recipe->value_bits == 16) {
        const uint16_t *halves = (const uint16_t *)(const void *)(page + side->codes);
        float *row = j->scratch.second;
        memset(sum, 0, (size_t)j->head_dim * sizeof *sum);
        for (int i = first; i < last; i++) {
            j->codec->kernels->f16_to_f32(halves + i * j->head_dim, j->head_dim, row);
            for (int c = 0; c < j->head_dim; c++) sum[c] += row[c];
        }
    } else {
        uint16_t scale[KV_GRIDS_MAX], min[KV_GRIDS_MAX];
        struct kv_grids grids = kv_value_grids(j->codec, (size_t)j->i_head, page, scale, min);
        j->codec->kernels->sum_values(&(struct kv_sum_values){
            .codes = page + side->codes,
            .scale = grids.scale,
            .min = grids.min,
            .bits = j->recipe->value_bits,
            .head_dim = j->head_dim,
            .n_groups = j->recipe->value_group ? j->head_dim / j->recipe->value_group : 1,
            .first = first,
            .last = last,
            .out = sum,
        });
    }
    if (j->recipe->value_rotated) j->codec->kernels->hadamard(sum, 1, j->head_dim);
    for (int c = 0; c < j->head_dim; c++) out[c] += (double)sum[c];
}

/* ------------------------------------------------------------------------------------------------ sums -- */

/* Turned back in pieces of a page's length: angles of one position cost more than a row's sum. */
static void sum_exact(const struct job *j, const struct kv_exact_segment *s, double *out)
{
    float *row = j->scratch.row, *sum = j->scratch.second;
    int64_t first, last;
    exact_range(j, s, &first, &last);
    for (int64_t begin = first; begin < last; begin += KV_PAGE_TOKENS) {
        int n = last - begin < KV_PAGE_TOKENS ? (int)(last - begin) : KV_PAGE_TOKENS;
        memset(sum, 0, (size_t)j->head_dim * sizeof *sum);
        for (int i = 0; i < n; i++) {
            exact_row(j, s, begin + i, row);
            if (j->turns) turn_within(j, i, row);
            for (int c = 0; c < j->head_dim; c++) sum[c] += row[c];
        }
        if (j->turns) turn_back(j, begin, sum);
        for (int c = 0; c < j->head_dim; c++) out[c] += (double)sum[c];
    }
}

void kv_read_sum(const struct kv_read_call *call, void *memory, double *out)
{
    struct job j = job_open(call, memory);
    for (int c = 0; c < j.head_dim; c++) out[c] = 0;
    sum_exact(&j, &j.view.exact[0], out);
    for (int64_t p = 0; p < page_count(&j); p++) {
        int first, last;
        page_range(&j, p, &first, &last);
        if (first >= last) continue;
        if (call->side == KV_READ_KEYS)
            sum_page_keys(&j, p, first, last, out);
        else
            sum_page_values(&j, p, first, last, out);
    }
    sum_exact(&j, &j.view.exact[1], out);
}
