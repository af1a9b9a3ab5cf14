/*
 * Attention over float tiles and over rows of 16 bits in plain C: the definition.
 *
 * One tile is a page of 64 tokens. Keys are met channel by channel, values token by token, so the float
 * tiles are
 *
 *     kt (head_dim, 64)              v (64, head_dim)
 *        token →                        channel →
 *     c  k k k k ...                 t  v v v v ...
 *     ↓  k k k k ...                 ↓  v v v v ...
 *
 * and both products of attention, S = q·kt and out += P·v, are sums of rows that are loaded whole.
 *
 * Codes are expanded as code·scale + min. The product is exact in float (8 bits times the 11 of an f16), so
 * there is one rounding, with or without FMA, and every level gives equal bits.
 */
#include "base/half.h"
#include "kernels/code_layout.h"
#include "kernels/kernels.h"

#include <math.h>

static void key_tile_from_rows_ref(const uint16_t *rows, int64_t row_stride, int n_tokens, int head_dim,
                                   float *kt)
{
    for (int c = 0; c < head_dim; c++)
        for (int t = 0; t < KV_TILE; t++)
            kt[c * KV_TILE + t] = t < n_tokens ? kv_f16_to_f32(rows[t * row_stride + c]) : 0.0f;
}

static void value_tile_from_rows_ref(const uint16_t *rows, int64_t row_stride, int n_tokens, int head_dim,
                                     float *v)
{
    for (int t = 0; t < KV_TILE; t++)
        for (int c = 0; c < head_dim; c++)
            v[t * head_dim + c] = t < n_tokens ? kv_f16_to_f32(rows[t * row_stride + c]) : 0.0f;
}

static void key_tile_expand_ref(const struct kv_key_tile *in, float *kt)
{
    for (int i = 0; i < in->n_channels; i++) {
        int stored = in->channel_first + i, c = in->order ? in->order[stored] : stored;
        for (int t = 0; t < KV_TILE; t++) {
            float x = 0.0f;
            if (t < in->n_tokens) {
                int g = in->group == 0 ? t : t / in->group * in->head_dim + stored;
                unsigned code = in->bits ? kv_code_get(in->codes, in->bits, kv_key_place(in->bits, i, t)) : 0;
                x = (float)code * kv_f16_to_f32(in->scale[g]) + kv_f16_to_f32(in->min[g]);
            }
            kt[c * KV_TILE + t] = x;
        }
    }
}

static void value_tile_expand_ref(const struct kv_value_tile *in, float *v)
{
    for (int t = 0; t < KV_TILE; t++) {
        for (int c = 0; c < in->head_dim; c++) {
            float x = 0.0f;
            if (t < in->n_tokens) {
                int g = c / in->group * KV_TILE + t;
                unsigned code = kv_code_get(in->codes, in->bits,
                                            kv_value_place(in->bits, in->head_dim, c, t));
                x = (float)code * kv_f16_to_f32(in->scale[g]) + kv_f16_to_f32(in->min[g]);
            }
            v[t * in->head_dim + c] = x;
        }
    }
}

static void qk_half_ref(const struct kv_qk_half *a)
{
    for (int row = 0; row < a->n_rows; row++) {
        const float *q = a->q + row * a->head_dim;
        for (int j = 0; j < a->n_tokens; j++) {
            float s = 0.0f;
            for (int c = 0; c < a->head_dim; c++)
                s += q[c] * kv_f16_to_f32(a->stride ? a->k[j * a->stride + c] : a->k[c * KV_TILE + j]);
            a->score[row * KV_TILE + j] = s;
        }
    }
}

static void pv_half_ref(const struct kv_pv_half *a)
{
    for (int row = 0; row < a->n_rows; row++) {
        float *out = a->out + row * a->head_dim;
        for (int c = 0; c < a->head_dim; c++) out[c] *= a->keep[row];
        for (int j = 0; j < a->n_tokens; j++)
            for (int c = 0; c < a->head_dim; c++)
                out[c] += a->p[row * KV_TILE + j] * kv_f16_to_f32(a->v[j * a->stride + c]);
    }
}

static void key_tile_hadamard_ref(float *kt, int head_dim)
{
    int block = head_dim & -head_dim; /* the largest power of two that divides it */
    float norm = 1.0f / sqrtf((float)block);
    for (int t = 0; t < KV_TILE; t++) {
        for (int h = 1; h < block; h *= 2)
            for (int c = 0; c < head_dim; c++)
                if (!(c & h)) { /* c and c + h lie in one block, since h < block and block divides head_dim */
                    float a = kt[c * KV_TILE + t], b = kt[(c + h) * KV_TILE + t];
                    kt[c * KV_TILE + t] = a + b;
                    kt[(c + h) * KV_TILE + t] = a - b;
                }
        for (int c = 0; c < head_dim; c++) kt[c * KV_TILE + t] *= norm;
    }
}

/* One query of attn_tile. With m' = max(m, max s): out' = e^(m − m') out + Σ e^(s_j − m') v_j, the sum
 * likewise. While m' is −∞ nothing was seen (or every score is −∞): 0 stands for it, so that no ∞ − ∞
 * arises. */
static void attend_one(const struct kv_attn_tile *a, int i)
{
    const float *q = a->q + (size_t)i * (size_t)a->head_dim;
    float *out = a->out + (size_t)i * (size_t)a->head_dim, *score = a->score + (size_t)i * KV_TILE;
    float max = a->max[i];
    for (int t = a->first[i]; t < a->last[i]; t++) {
        score[t] = 0.0f;
        for (int c = 0; c < a->head_dim; c++) score[t] += q[c] * a->kt[c * KV_TILE + t];
        if (score[t] > max) max = score[t];
    }
    float origin = max == -INFINITY ? 0.0f : max;
    float keep = expf(a->max[i] - origin);
    a->max[i] = max;
    a->sum[i] *= keep;
    for (int c = 0; c < a->head_dim; c++) out[c] *= keep;
    for (int t = a->first[i]; t < a->last[i]; t++) {
        float p = expf(score[t] - origin);
        a->sum[i] += p;
        for (int c = 0; c < a->head_dim; c++) out[c] += p * a->v[t * a->head_dim + c];
    }
}

static void attn_tile_ref(const struct kv_attn_tile *tile)
{
    for (int i = 0; i < tile->n_q; i++)
        if (tile->first[i] < tile->last[i]) attend_one(tile, i);
}

void kv_fill_attention_ref(struct kv_kernels *table)
{
    table->qk_half = qk_half_ref;
    table->pv_half = pv_half_ref;
    table->attn_tile = attn_tile_ref;
    table->key_tile_from_rows = key_tile_from_rows_ref;
    table->value_tile_from_rows = value_tile_from_rows_ref;
    table->key_tile_expand = key_tile_expand_ref;
    table->value_tile_expand = value_tile_expand_ref;
    table->key_tile_hadamard = key_tile_hadamard_ref;
}
