/*
 * Attention over codes in plain C: its definition. attention_calls.h has the formulas, code_layout.h the
 * order of the codes.
 *
 * At every level delta is the same bits, and so are the digits: a maximum and one product are exact or
 * rounded once. Sums in float differ by their order.
 */
#include "base/half.h"
#include "kernels/code_layout.h"
#include "kernels/kernels.h"

#include <math.h>

/* Rounds to nearest even within ±largest; what is no number becomes −largest (its row's bias is NaN). */
static int round_within(float x, int largest)
{
    if (!(x > (float)-largest)) return -largest;
    return x < (float)largest ? (int)rintf(x) : largest;
}

static void put_digit(void *row, bool wide, bool is_signed, int i, int q)
{
    if (wide) ((int16_t *)row)[kv_wide_place(i)] = (int16_t)q;
    else if (is_signed) ((int8_t *)row)[i] = (int8_t)q;
    else ((uint8_t *)row)[i] = (uint8_t)q;
}

static int get_digit(const void *row, bool wide, bool is_signed, int i)
{
    if (wide) return ((const int16_t *)row)[kv_wide_place(i)];
    return is_signed ? ((const int8_t *)row)[i] : ((const uint8_t *)row)[i];
}

static void fold_row(const struct kv_fold *f, int row)
{
    const float *q = f->q + (size_t)row * f->q_stride;
    char *digits = (char *)f->digits + (size_t)row * f->digits_stride;
    float a[KV_HEAD_DIM_MAX], max[KV_SPANS_MAX] = { 0.0f }, bias = 0.0f, sum = 0.0f;
    for (int k = 0, c = 0; k < f->n_classes; k++) {
        const struct kv_key_class *class = &f->classes[k];
        for (int end = c + class->n_channels; c < end; c++) {
            a[c] = f->scale ? q[c] * kv_f16_to_f32(f->scale[c]) : q[c];
            if (class->bits && fabsf(a[c]) > max[class->span]) max[class->span] = fabsf(a[c]);
            if (f->min) bias += q[c] * kv_f16_to_f32(f->min[c]);
            sum += q[c];
        }
    }
    for (int k = 0, c = 0; k < f->n_classes; k++) {
        const struct kv_key_class *class = &f->classes[k];
        if (!class->bits) break;
        bool wide = kv_keys_are_wide(class->bits);
        int largest = wide ? KV_Q_WIDE : KV_Q_NARROW;
        float delta = max[class->span] / (float)largest,
              inverse = kv_digits_per_unit(largest, max[class->span]);
        for (int i = 0; i < class->n_channels; i++, c++) {
            int digit = round_within(a[c] * inverse, largest);
            put_digit(digits, wide, true, i, digit);
            bias += f->middle[c] * (a[c] - delta * (float)digit);
        }
        f->delta[class->span][row] = delta;
        digits += kv_class_digits_bytes(class);
    }
    f->bias[row] = bias;
    if (f->sum) f->sum[row] = sum;
}

static void attn_fold_ref(const struct kv_fold *f)
{
    for (int row = 0; row < f->n_rows; row++) fold_row(f, row);
}

static float score_of(const struct kv_qk_codes *a, int row, int j)
{
    const char *digits = (const char *)a->digits[j / 32] + (size_t)row * a->digits_stride;
    const uint8_t *codes = a->codes;
    float s = a->bias[j / 32][row];
    for (int k = 0; k < a->n_classes && a->classes[k].bits;) {
        int span = a->classes[k].span;
        int32_t dot = 0;
        for (; k < a->n_classes && a->classes[k].bits && a->classes[k].span == span; k++) {
            const struct kv_key_class *class = &a->classes[k];
            for (int c = 0; c < class->n_channels; c++)
                dot += get_digit(digits, kv_keys_are_wide(class->bits), true, c) *
                       (int)kv_code_get(codes, class->bits, kv_key_place(class->bits, c, j));
            digits += kv_class_digits_bytes(class);
            codes += class->n_channels * 8 * class->bits;
        }
        s += a->delta[j / 32][span][row] * (float)dot;
    }
    return s;
}

static void qk_codes_ref(const struct kv_qk_codes *a)
{
    for (int row = 0; row < a->n_rows; row++) {
        for (int j = 0; j < KV_TILE; j++) {
            float s = score_of(a, row, j);
            if (a->scale) s = kv_f16_to_f32(a->scale[j]) * s + kv_f16_to_f32(a->min[j]) * a->sum[row];
            a->score[row * KV_TILE + j] = s;
        }
    }
}

#define HALF_PAGE (KV_TILE / 2)

static void center_row(const struct kv_qk_center *a, int row)
{
    const float *c = a->cos_part + (size_t)row * a->stride, *s = a->sin_part + (size_t)row * a->stride;
    float x[KV_HEAD_DIM_MAX / 2], y[KV_HEAD_DIM_MAX / 2], term[KV_CENTER_TERMS] = { 0.0f };
    for (int p = 0; p < a->n_pairs; p++) {
        x[p] = c[p] * a->cos_t0[p] + s[p] * a->sin_t0[p];
        y[p] = s[p] * a->cos_t0[p] - c[p] * a->sin_t0[p];
    }
    for (int m = 0; a->slow && m < KV_CENTER_TERMS; m++)
        for (int p = 0; p < a->n_pairs; p++) term[m] += (m % 2 ? y : x)[p] * a->slow[m * a->n_pairs + p];
    for (int j = 0; j < HALF_PAGE; j++) {
        float even = a->still[row], odd = 0.0f, *score = a->score + row * KV_TILE + HALF_PAGE;
        for (int m = 0; m < KV_CENTER_TERMS; m++)
            *(m % 2 ? &odd : &even) += term[m] * a->polynomials[m * HALF_PAGE + j];
        for (int i = 0; i < a->n_listed; i++) {
            int p = a->listed[i];
            even += x[p] * a->turning[2 * p * HALF_PAGE + j];
            odd += y[p] * a->turning[(2 * p + 1) * HALF_PAGE + j];
        }
        score[j] += even + odd;
        score[-1 - j] += even - odd;
    }
}

static void qk_center_ref(const struct kv_qk_center *a)
{
    for (int row = 0; row < a->n_rows; row++) center_row(a, row);
}

/* With m' = max(m, max s): keep = e^(m − m'), p_j = e^(s_j − m'). While m' is −∞ nothing was seen (or every
 * score is −∞): 0 stands for it, so that no ∞ − ∞ arises. A NaN is left out of the maximum but reaches the
 * sum. */
static void attn_soften_ref(const struct kv_soften *a)
{
    for (int i = 0; i < a->n_rows; i++) {
        float *score = a->score + i * KV_TILE, max = a->max[i], sum = 0.0f;
        for (int j = a->first[i]; j < a->last[i]; j++)
            if (score[j] > max) max = score[j];
        float origin = max == -INFINITY ? 0.0f : max;
        for (int j = 0; j < KV_TILE; j++) {
            score[j] = j >= a->first[i] && j < a->last[i] ? expf(score[j] - origin) : 0.0f;
            sum += score[j];
        }
        a->keep[i] = expf(a->max[i] - origin);
        a->sum[i] = a->sum[i] * a->keep[i] + sum;
        a->max[i] = max;
    }
}

static void weigh_group(const struct kv_weigh *a, int row, int group)
{
    bool wide = kv_values_are_wide(a->bits);
    int largest = wide ? KV_P_WIDE : KV_P_NARROW, at = row * a->n_groups + group;
    const float *p = a->p + row * KV_TILE;
    const uint16_t *scale = a->scale + group * KV_TILE, *min = a->min + group * KV_TILE;
    void *digits = (char *)a->digits + (size_t)at * KV_TILE * (wide ? 2 : 1);
    float w[KV_TILE] = { 0.0f }, max = 0.0f, rest = 0.0f, minima = 0.0f;
    for (int j = 0; j < a->n_tokens; j++) {
        w[j] = p[j] * kv_f16_to_f32(scale[j]);
        if (w[j] > max) max = w[j];
        minima += p[j] * kv_f16_to_f32(min[j]);
    }
    float delta = max / (float)largest, inverse = kv_digits_per_unit(largest, max);
    for (int j = 0; j < KV_TILE; j++) {
        int digit = round_within(w[j] * inverse, largest);
        if (digit < 0) digit = 0; /* not a number */
        put_digit(digits, wide, false, j, digit);
        rest += w[j] - delta * (float)digit;
    }
    a->delta[at] = delta;
    a->bias[at] = minima + kv_codes_middle(a->bits) * rest;
}

static void attn_weigh_ref(const struct kv_weigh *a)
{
    for (int row = 0; row < a->n_rows; row++)
        for (int group = 0; group < a->n_groups; group++) weigh_group(a, row, group);
}

static void pv_codes_ref(const struct kv_pv_codes *a)
{
    bool wide = kv_values_are_wide(a->bits);
    int group_channels = a->head_dim / a->n_groups;
    for (int row = 0; row < a->n_rows; row++) {
        for (int c = 0; c < a->head_dim; c++) {
            int at = row * a->n_groups + c / group_channels;
            const void *digits = (const char *)a->digits + (size_t)at * KV_TILE * (wide ? 2 : 1);
            int32_t dot = 0;
            for (int j = 0; j < a->n_tokens; j++)
                dot += get_digit(digits, wide, false, j) *
                       (int)kv_code_get(a->codes, a->bits, kv_value_place(a->bits, a->head_dim, c, j));
            float *out = a->out + row * a->head_dim + c;
            *out = a->keep[row] * *out + (a->delta[at] * (float)dot + a->bias[at]);
        }
    }
}

void kv_fill_codes_ref(struct kv_kernels *table)
{
    table->attn_fold = attn_fold_ref;
    table->qk_codes = qk_codes_ref;
    table->qk_center = qk_center_ref;
    table->attn_soften = attn_soften_ref;
    table->attn_weigh = attn_weigh_ref;
    table->pv_codes = pv_codes_ref;
}
