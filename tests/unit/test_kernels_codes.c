/*
 * Attention over codes and over 16-bit rows: plain C against the formulas of attention_calls.h in double,
 * every level of this CPU against plain C. Digits and their scales are bit-equal at all levels; sums in float
 * differ by their order. Inputs end at a page that must not be touched, outputs too.
 */
#include "support/kernel_check.h"

#include "base/half.h"
#include "cache/kv_codec.h"
#include "kernels/code_layout.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N_OF(a) (int)(sizeof(a) / sizeof((a)[0]))

static const int head_dims[] = { 8, 24, 64, 80, 96, 128, 256 };
static const int row_counts[] = { 1, 2, 3, 4, 5, 7, 8, 11, 16 };
static const int all_bits[] = { 2, 3, 4, 8 };

static struct kv_kernels tables[3];
static int n_levels;
static struct check_random rnd;

static int setup(void **state)
{
    (void)state;
    n_levels = check_levels(tables);
    rnd = check_random_open();
    return 0;
}

static int below(int n) { return (int)check_random_below(&rnd, n); }

static struct check_buffer copy_of(const struct check_buffer *from)
{
    struct check_buffer b = check_buffer_open(from->n_bytes, false);
    memcpy(b.p, from->p, from->n_bytes);
    return b;
}

static double half_at(const struct check_buffer *b, int i)
{
    return (double)kv_f16_to_f32(((uint16_t *)b->p)[i]);
}

/* |x − y| within `part` of the size of the terms that were added */
#define CHECK_CLOSE(x, y, part, size, ...) \
    CHECK(fabs((double)(x) - (double)(y)) <= (part) * (size) + 1e-30, &rnd, __VA_ARGS__)

/* Rounding of a float sum of some hundred terms, at any order. */
#define SUM 1e-5

/* --------------------------------------------------------------------------------------------- keys -- */

static int digit_at(const void *row, bool wide, bool is_signed, int i)
{
    if (wide) return ((const int16_t *)row)[(i & ~3) + (i % 4 == 1 ? 2 : i % 4 == 2 ? 1 : i % 4)];
    return is_signed ? ((const int8_t *)row)[i] : ((const uint8_t *)row)[i];
}

/* Keys of one width: a class, or for 4 bits often several, each a span. For -1 classes of falling bits, as
 * mixed keys have them. Channels in all: head_dim, or for -1 at most that. */
static int make_classes(int bits, int head_dim, struct kv_key_class out[KV_CLASSES_MAX])
{
    static const int class_bits[KV_CLASSES_MAX] = { 8, 4, 3, 2, 0 };
    int n = 0, left = head_dim / 8;
    if (bits >= 0) {
        for (int most = bits == 4 ? KV_SPANS_MAX : 1; left; n++) {
            int units = n + 1 == most ? left : 1 + below(left);
            out[n] = (struct kv_key_class){ bits, 8 * units, n };
            left -= units;
        }
        return n;
    }
    for (int i = 0; i < KV_CLASSES_MAX && left; i++) {
        int units = below(left + 1), narrow = n > 0 && out[0].bits == 8 && class_bits[i] < 8;
        if (i == KV_CLASSES_MAX - 1 || (i > 1 && below(4) == 0)) units = left;
        if (units) out[n++] = (struct kv_key_class){ class_bits[i], 8 * units, narrow };
        left -= units;
    }
    return n;
}

/* Of a row's digits. */
static int class_bytes(const struct kv_key_class *class)
{
    return class->n_channels * (class->bits > 4 ? 2 : 1);
}

/* All of a fold's outputs. */
struct folded {
    struct check_buffer digits, delta[KV_SPANS_MAX], bias, sum;
};

static struct folded fold_at(int level, const struct kv_fold *call)
{
    size_t n = (size_t)call->n_rows * 4;
    struct folded f = { .digits = check_buffer_open((size_t)call->n_rows * call->digits_stride, false),
                        .bias = check_buffer_open(n, false), .sum = check_buffer_open(n, false) };
    struct kv_fold own = *call;
    memset(f.digits.p, 0x5a, f.digits.n_bytes);
    own.digits = f.digits.p;
    for (int i = 0; i < KV_SPANS_MAX; i++) {
        f.delta[i] = check_buffer_open(n, false);
        memset(f.delta[i].p, 0, n);
        own.delta[i] = f.delta[i].p;
    }
    own.bias = f.bias.p;
    own.sum = call->scale ? NULL : f.sum.p;
    tables[level].attn_fold(&own);
    return f;
}

static void folded_close(struct folded *f)
{
    check_buffer_close(&f->digits);
    for (int i = 0; i < KV_SPANS_MAX; i++) check_buffer_close(&f->delta[i]);
    check_buffer_close(&f->bias);
    check_buffer_close(&f->sum);
}

static void check_folded(const struct kv_fold *call, const struct folded *f, int row, int level)
{
    double max[KV_SPANS_MAX] = { 0 }, bias = 0, sum = 0, size = 0;
    const float *q = call->q + (size_t)row * call->q_stride;
    const char *digits = (char *)f->digits.p + (size_t)row * call->digits_stride;
    for (int k = 0, first = 0; k < call->n_classes; first += call->classes[k++].n_channels) {
        int bits = call->classes[k].bits, wide = bits > 4, span = call->classes[k].span;
        double delta = (double)((float *)f->delta[span].p)[row], middle = bits ? 0.5 * ((1 << bits) - 1) : 0;
        for (int c = first; c < first + call->classes[k].n_channels; c++) {
            double scale = call->scale ? (double)kv_f16_to_f32(call->scale[c]) : 1,
                   a = (double)((float)((double)q[c] * scale));
            sum += (double)q[c];
            if (call->min) bias += (double)q[c] * (double)kv_f16_to_f32(call->min[c]);
            size += fabs((double)q[c]) * 4 + fabs(a) * (1 << bits);
            if (!bits) continue;
            max[span] = fmax(max[span], fabs(a));
            int digit = digit_at(digits, wide, true, c - first);
            CHECK(fabs(a - delta * digit) <= delta * (0.5 + 3e-7 * abs(digit)) + 1e-30, &rnd,
                  "channel %d: digit %d of %g, level %d", c, digit, a, level);
            bias += middle * (a - delta * digit);
        }
        digits += class_bytes(&call->classes[k]);
    }
    for (int k = 0; k < call->n_classes; k++) {
        int span = call->classes[k].span;
        if (!call->classes[k].bits) continue;
        CHECK_CLOSE(((float *)f->delta[span].p)[row], max[span] / (call->classes[k].bits > 4 ? 16383 : 127),
                    1e-6, max[span], "delta %d of row %d, level %d", span, row, level);
    }
    CHECK_CLOSE(((float *)f->bias.p)[row], bias, SUM, size, "bias of row %d, level %d", row, level);
    if (!call->scale)
        CHECK_CLOSE(((float *)f->sum.p)[row], sum, SUM, size, "sum of row %d, level %d", row, level);
}

static void check_fold(const struct kv_fold *call)
{
    struct folded ref = fold_at(0, call);
    for (int l = 0; l < n_levels; l++) {
        struct folded got = fold_at(l, call);
        for (int row = 0; row < call->n_rows; row++) check_folded(call, &got, row, l);
        /* and nothing between them */
        CHECK(!memcmp(got.digits.p, ref.digits.p, ref.digits.n_bytes), &rnd, "digits at level %d", l);
        for (int i = 0; i < KV_SPANS_MAX; i++)
            CHECK(!memcmp(got.delta[i].p, ref.delta[i].p, ref.delta[i].n_bytes), &rnd,
                  "delta at level %d", l);
        folded_close(&got);
    }
    folded_close(&ref);
}

static void queries_fold_into_digits(void **state)
{
    (void)state;
    static const int bits[] = { -1, -1, -1, 0, 2, 3, 4, 8 };
    for (int d = 0; d < N_OF(head_dims); d++)
        for (int b = 0; b < N_OF(bits); b++)
            for (int per_token = 0; per_token < (bits[b] > 0 ? 2 : 1); per_token++) {
                int n_rows = 1 + below(4), n = head_dims[d];
                struct kv_key_class classes[KV_CLASSES_MAX];
                int n_classes = make_classes(bits[b], n, classes);
                struct check_buffer q = check_floats(&rnd, (size_t)(n_rows * n), -3, 3);
                struct check_buffer scale = check_halves(&rnd, (size_t)n, 0, 0.5f),
                                    min = check_halves(&rnd, (size_t)n, -2, 2);
                struct check_buffer middle = check_buffer_open((size_t)n * 4, false),
                                    largest = check_buffer_open((size_t)n, false);
                for (int k = 0, c = 0; k < n_classes; k++)
                    for (int i = 0; i < classes[k].n_channels; i++, c++) {
                        ((uint8_t *)largest.p)[c] = (uint8_t)((1 << classes[k].bits) - 1);
                        ((float *)middle.p)[c] = 0.5f * (float)((1 << classes[k].bits) - 1);
                    }
                if (below(4) == 0) memset(q.p, 0, q.n_bytes);
                else if (below(4) == 0)
                    /* 16383 steps are beyond a float */
                    for (int i = 0; i < n * n_rows; i++) ((float *)q.p)[i] *= 1e-37f;
                check_fold(&(struct kv_fold){ .q = q.p, .q_stride = (size_t)n, .n_rows = n_rows,
                                              .n_classes = n_classes, .classes = classes, .middle = middle.p,
                                              .largest = largest.p, .scale = per_token ? NULL : scale.p,
                                              .min = per_token ? NULL : min.p,
                                              .digits_stride = 2 * (size_t)n });
                check_buffer_close(&q);
                check_buffer_close(&middle);
                check_buffer_close(&largest);
                check_buffer_close(&scale);
                check_buffer_close(&min);
            }
}

/* Random bytes are random codes; random digits within their bounds. */
static struct check_buffer random_digits(size_t n, bool wide, bool is_signed)
{
    struct check_buffer b = check_bytes(&rnd, n * (wide ? 2 : 1));
    int largest = is_signed ? (wide ? KV_Q_WIDE : KV_Q_NARROW) : (wide ? KV_P_WIDE : KV_P_NARROW);
    for (size_t i = 0; i < n; i++) {
        int x = below(16) ? below(largest + 1) : largest;
        if (is_signed && below(2)) x = -x;
        if (wide) ((int16_t *)b.p)[i] = (int16_t)x;
        else ((uint8_t *)b.p)[i] = (uint8_t)x;
    }
    return b;
}

static void check_qk(int bits, int head_dim, int n_rows, bool same, bool per_token)
{
    size_t stride = 2 * (size_t)head_dim, n = (size_t)n_rows * KV_TILE, n_bytes = 0;
    struct kv_key_class classes[KV_CLASSES_MAX];
    int n_classes = make_classes(bits, head_dim, classes);
    for (int k = 0; k < n_classes; k++) n_bytes += (size_t)(classes[k].n_channels * 8 * classes[k].bits);
    struct check_buffer codes = check_bytes(&rnd, n_bytes), scale = check_halves(&rnd, 64, 0.01f, 1),
                        min = check_halves(&rnd, 64, -2, 2), digits[2], delta[2][KV_SPANS_MAX], bias[2],
                        sum = check_floats(&rnd, (size_t)n_rows, -2, 2);
    for (int h = 0; h < 2; h++) {
        digits[h] = check_bytes(&rnd, stride * (size_t)n_rows);
        for (int row = 0; row < n_rows; row++)
            for (int k = 0, at = 0; k < n_classes; at += class_bytes(&classes[k++])) {
                bool wide = classes[k].bits > 4;
                struct check_buffer own = random_digits((size_t)classes[k].n_channels, wide, true);
                memcpy((char *)digits[h].p + (size_t)row * stride + at, own.p, own.n_bytes);
                check_buffer_close(&own);
            }
        for (int i = 0; i < KV_SPANS_MAX; i++)
            delta[h][i] = check_floats(&rnd, (size_t)n_rows, 0,
                                       i == 0 && classes[0].bits > 4 ? 1e-5f : 1e-3f);
        bias[h] = check_floats(&rnd, (size_t)n_rows, -3, 3);
    }
    int high = same ? 0 : 1;
    struct kv_qk_codes call = { .codes = codes.p, .n_classes = n_classes, .classes = classes,
                                .digits = { digits[0].p, digits[high].p }, .digits_stride = stride,
                                .bias = { bias[0].p, bias[high].p }, .n_rows = n_rows, .sum = sum.p };
    for (int i = 0; i < KV_SPANS_MAX; i++)
        call.delta[0][i] = delta[0][i].p, call.delta[1][i] = delta[high][i].p;
    if (per_token) call.scale = scale.p, call.min = min.p;
    for (int l = 0; l < n_levels; l++) {
        struct check_buffer out = check_buffer_open(n * 4, false);
        call.score = out.p;
        tables[l].qk_codes(&call);
        for (int i = 0; i < n_rows * KV_TILE; i++) {
            int row = i / KV_TILE, j = i % KV_TILE, h = same ? 0 : j / 32;
            const char *q = (char *)digits[h].p + (size_t)row * stride;
            const uint8_t *unit = codes.p;
            double s = ((float *)bias[h].p)[row], size = fabs(s);
            for (int k = 0; k < n_classes; k++) {
                int64_t dot = 0;
                for (int c = 0; classes[k].bits && c < classes[k].n_channels; c++)
                    dot += digit_at(q, classes[k].bits > 4, true, c) *
                           (int)kv_code_get(unit, classes[k].bits, kv_key_place(classes[k].bits, c, j));
                double term = (double)((float *)delta[h][classes[k].span].p)[row] * (double)dot;
                s += term;
                size += fabs(term);
                q += class_bytes(&classes[k]);
                unit += classes[k].n_channels * 8 * classes[k].bits;
            }
            if (per_token) {
                size = size * half_at(&scale, j) + 5;
                s = half_at(&scale, j) * s + half_at(&min, j) * (double)((float *)sum.p)[row];
            }
            CHECK_CLOSE(((float *)out.p)[i], s, 1e-6, size,
                        "%d bits, head %d, %d rows, row %d, token %d, level %d", bits, head_dim, n_rows, row,
                        j, l);
        }
        check_buffer_close(&out);
    }
    for (int h = 0; h < 2; h++) {
        check_buffer_close(&digits[h]);
        for (int i = 0; i < KV_SPANS_MAX; i++) check_buffer_close(&delta[h][i]);
        check_buffer_close(&bias[h]);
    }
    check_buffer_close(&codes);
    check_buffer_close(&scale);
    check_buffer_close(&min);
    check_buffer_close(&sum);
}

static void scores_from_codes(void **state)
{
    (void)state;
    static const int bits[] = { -1, -1, 2, 3, 4, 8 };
    for (int b = 0; b < N_OF(bits); b++)
        for (int d = 0; d < N_OF(head_dims); d++)
            for (int r = 0; r < N_OF(row_counts); r++)
                check_qk(bits[b], head_dims[d], row_counts[r], (r + d) % 2, bits[b] > 0 && below(3) == 0);
    check_qk(0, 64, 3, true, false); /* only channels of 0 bits */
}

/* The kernel with the cache's own tables, against cosines and sines in double;
 * every `spread`-th pair has a mean. */
static void check_center(int head_dim, int n_rot, bool neox, double base, int n_rows, int64_t t0, int spread)
{
    struct kvant_plan plan = { .n_layer = 1, .n_head_kv = 1, .head_dim = head_dim };
    struct kv_recipe recipe = { .key_bits = 4, .key_centered = true, .value_bits = 4 };
    float inv_freq[KV_HEAD_DIM_MAX / 2], cos_t0[KV_HEAD_DIM_MAX / 2], sin_t0[KV_HEAD_DIM_MAX / 2],
        mean[KV_HEAD_DIM_MAX];
    for (int p = 0; p < n_rot / 2; p++) inv_freq[p] = (float)pow(base, -2.0 * p / n_rot);
    struct kv_rope rope = { head_dim, n_rot, neox, inv_freq };
    struct kv_centers centers;
    plan.recipe = &recipe;
    uint16_t center[KV_HEAD_DIM_MAX];
    for (int c = 0; c < head_dim; c++) {
        bool without = c < n_rot && (neox ? c % (n_rot / 2) : c / 2) % spread;
        center[c] = kv_f32_to_f16(without ? 0.0f : check_random_float(&rnd, -3, 3));
        mean[c] = kv_f16_to_f32(center[c]);
    }
    plan.center = center;
    assert_int_equal(kv_centers_open(&centers, &plan, &rope, NULL), KVANT_OK);
    kv_rope_angles(&rope, t0, cos_t0, sin_t0);
    size_t n = (size_t)n_rows * KV_TILE, half = (size_t)n_rot / 2;
    struct check_buffer q = check_floats(&rnd, (size_t)(n_rows * head_dim), -2, 2),
                        start = check_floats(&rnd, n, -5, 5),
                        still = check_floats(&rnd, (size_t)n_rows, 0, 1);
    struct check_buffer x = check_floats(&rnd, (size_t)n_rows * half, 0, 1),
                        y = check_floats(&rnd, (size_t)n_rows * half, 0, 1);
    for (int row = 0; row < n_rows; row++)
        ((float *)still.p)[row] = kv_centers_project(&centers, &rope, mean, (float *)q.p + row * head_dim,
                                                     (float *)x.p + (size_t)row * half,
                                                     (float *)y.p + (size_t)row * half);
    for (int l = 0; l < n_levels; l++) {
        struct check_buffer out = copy_of(&start);
        tables[l].qk_center(&(struct kv_qk_center){ x.p, y.p, half, still.p, cos_t0, sin_t0, centers.n_pairs,
            centers.head->n_listed, centers.head->listed, centers.turning,
            centers.head->polynomials ? centers.slow : NULL, centers.polynomials, n_rows, out.p });
        for (int i = 0; i < n_rows * KV_TILE; i++) {
            int row = i / KV_TILE, j = i % KV_TILE;
            const float *own = (float *)q.p + row * head_dim;
            double s = ((float *)start.p)[i], size = fabs(s);
            for (int p = 0; p < n_rot / 2; p++) {
                int a = neox ? p : 2 * p, b = neox ? p + n_rot / 2 : 2 * p + 1;
                double angle = (double)(t0 + j) * (double)inv_freq[p], m0 = mean[a], m1 = mean[b];
                s += (double)own[a] * (m0 * cos(angle) - m1 * sin(angle)) +
                     (double)own[b] * (m0 * sin(angle) + m1 * cos(angle));
                size += (fabs((double)own[a]) + fabs((double)own[b])) * (fabs(m0) + fabs(m1));
            }
            for (int c = n_rot; c < head_dim; c++) s += (double)own[c] * (double)mean[c];
            CHECK_CLOSE(((float *)out.p)[i], s, 1e-6, size + 1,
                        "head %d, %d turn, base %g, row %d, token %d, level %d", head_dim, n_rot, base, row,
                        j, l);
        }
        check_buffer_close(&out);
    }
    check_buffer_close(&q);
    check_buffer_close(&start);
    check_buffer_close(&still);
    check_buffer_close(&x);
    check_buffer_close(&y);
    kv_centers_close(&centers);
}

static void centres_come_back_at_the_scores(void **state)
{
    (void)state;
    static const double bases[] = { 2, 10000, 1e6 }; /* with 2 all pairs are fast */
    for (int d = 0; d < N_OF(head_dims); d++)
        for (int b = 0; b < N_OF(bases); b++)
            for (int neox = 0; neox < 2; neox++) {
                check_center(head_dims[d], head_dims[d], neox, bases[b],
                             row_counts[below(N_OF(row_counts))], 68, 1);
                check_center(head_dims[d], head_dims[d], neox, bases[b],
                             row_counts[below(N_OF(row_counts))], 4100, 5);
                check_center(head_dims[d], head_dims[d] / 2, neox, bases[b],
                             row_counts[below(N_OF(row_counts))], 30020, 1 + below(3));
            }
}

/* ------------------------------------------------------------------------------------------ softmax -- */

static void softmax_moves_the_maximum(void **state)
{
    (void)state;
    enum { ROWS = 12 };
    for (int round = 0; round < 40; round++) {
        struct check_buffer start = check_floats(&rnd, ROWS * KV_TILE, -30, 30);
        int first[ROWS], last[ROWS];
        float max0[ROWS], sum0[ROWS];
        for (int i = 0; i < ROWS; i++) {
            first[i] = i < 2 ? 0 : below(64);
            last[i] = i < 2 ? 64 * i : first[i] + below(65 - first[i]);
            max0[i] = below(2) ? -INFINITY : check_random_float(&rnd, -40, 40);
            sum0[i] = max0[i] == -INFINITY ? 0 : check_random_float(&rnd, 1, 10);
        }
        for (int l = 0; l < n_levels; l++) {
            struct check_buffer out = copy_of(&start);
            float max[ROWS], sum[ROWS], keep[ROWS];
            memcpy(max, max0, sizeof max);
            memcpy(sum, sum0, sizeof sum);
            tables[l].attn_soften(&(struct kv_soften){ out.p, ROWS, first, last, max, sum, keep });
            for (int i = 0; i < ROWS; i++) {
                const float *s = (float *)start.p + i * KV_TILE, *p = (float *)out.p + i * KV_TILE;
                double top = (double)max0[i], total = 0;
                for (int j = first[i]; j < last[i]; j++) top = fmax(top, (double)s[j]);
                CHECK((double)max[i] == top, &rnd, "maximum of row %d, level %d", i, l);
                /* differences are float: what e^x makes of them is not */
                float origin = isinf(top) ? 0.0f : (float)top;
                double kept = exp((double)(max0[i] - origin));
                for (int j = 0; j < KV_TILE; j++) {
                    double e = j >= first[i] && j < last[i] ? exp((double)(s[j] - origin)) : 0;
                    total += e;
                    CHECK(fabs(e - (double)p[j]) <= 3e-7 * e + 1e-37, &rnd,
                          "row %d, token %d: %g, not %g, level %d", i, j, (double)p[j], e, l);
                }
                CHECK(fabs(kept - (double)keep[i]) <= 3e-7 * kept + 1e-37, &rnd,
                      "keep of row %d, level %d", i, l);
                CHECK_CLOSE(sum[i], kept * (double)sum0[i] + total, 2e-6, total + 10,
                            "sum of row %d, level %d", i, l);
            }
            check_buffer_close(&out);
        }
        check_buffer_close(&start);
    }
}

/* largest: of the probabilities. 1e-37: those of a page whose scores all lie far below the maximum; no float
 * is as large as 32767 of their steps. */
static void check_weigh(int bits, int n_groups, int n_rows, int n_tokens, float largest)
{
    bool wide = bits > 4;
    size_t n = (size_t)(n_rows * n_groups), n_digits = n * KV_TILE;
    struct check_buffer p = check_floats(&rnd, (size_t)n_rows * KV_TILE, 0, largest),
                        scale = check_halves(&rnd, (size_t)n_groups * KV_TILE, 0, 0.5f),
                        min = check_halves(&rnd, (size_t)n_groups * KV_TILE, -2, 2),
                        ref_digits = check_buffer_open(n_digits * 2, false);
    for (int i = 0; i < n_rows * KV_TILE; i++)
        if (i % KV_TILE >= n_tokens || below(9) == 0) ((float *)p.p)[i] = 0;
    for (int i = 0; i < n_groups * KV_TILE; i++) /* of tokens that are not there: whatever was in memory */
        if (i % KV_TILE >= n_tokens) ((uint16_t *)scale.p)[i] = ((uint16_t *)min.p)[i] = 0x7e00;
    for (int l = 0; l < n_levels; l++) {
        struct check_buffer digits = check_buffer_open(n_digits * (wide ? 2 : 1), false),
                            delta = check_buffer_open(n * 4, false), bias = check_buffer_open(n * 4, false);
        tables[l].attn_weigh(&(struct kv_weigh){ p.p, n_rows, n_groups, bits, n_tokens, scale.p, min.p,
                                                 digits.p, delta.p, bias.p });
        for (int i = 0; i < (int)n; i++) {
            int row = i / n_groups, group = i % n_groups;
            double max = 0, rest = 0, minima = 0, size = 0, step = ((float *)delta.p)[i];
            for (int j = 0; j < KV_TILE; j++) {
                double x = ((float *)p.p)[row * KV_TILE + j], w = 0;
                int digit = digit_at((char *)digits.p + (size_t)i * KV_TILE * (wide ? 2 : 1), wide, false, j);
                if (j < n_tokens) {
                    w = (double)((float)(x * half_at(&scale, group * KV_TILE + j)));
                    minima += x * half_at(&min, group * KV_TILE + j);
                }
                max = fmax(max, w);
                rest += w - step * digit;
                size += 2 * x + w * (1 << bits);
                CHECK(fabs(w - step * digit) <= step * (0.5 + 3e-7 * digit) + 1e-30, &rnd,
                      "token %d: digit %d of %g, level %d", j, digit, w, l);
            }
            CHECK_CLOSE(step, max / (wide ? 32767 : 255), 1e-6, max, "delta %d, level %d", i, l);
            CHECK_CLOSE(((float *)bias.p)[i], minima + 0.5 * ((1 << bits) - 1) * rest, SUM, size,
                        "bias %d, level %d", i, l);
        }
        if (l == 0) memcpy(ref_digits.p, digits.p, digits.n_bytes);
        CHECK(!memcmp(ref_digits.p, digits.p, digits.n_bytes), &rnd, "digits at level %d", l);
        check_buffer_close(&digits);
        check_buffer_close(&delta);
        check_buffer_close(&bias);
    }
    check_buffer_close(&p);
    check_buffer_close(&scale);
    check_buffer_close(&min);
    check_buffer_close(&ref_digits);
}

static void probabilities_weigh_into_digits(void **state)
{
    (void)state;
    static const int token_counts[] = { 1, 7, 32, 33, 64 }, group_counts[] = { 1, 2, 3, 8 };
    for (int b = 0; b < N_OF(all_bits); b++)
        for (int t = 0; t < N_OF(token_counts); t++)
            for (int g = 0; g < N_OF(group_counts); g++) {
                check_weigh(all_bits[b], group_counts[g], 1 + below(5), token_counts[t], 1.0f);
                check_weigh(all_bits[b], group_counts[g], 1 + below(5), token_counts[t], 1e-37f);
            }
}

/* ------------------------------------------------------------------------------------------- values -- */

static void check_pv(int bits, int head_dim, int n_groups, int n_rows, int n_tokens)
{
    bool wide = bits > 4;
    size_t n = (size_t)(n_rows * n_groups), n_out = (size_t)(n_rows * head_dim);
    struct check_buffer codes = check_bytes(&rnd, (size_t)(head_dim * 8 * bits)),
                        digits = random_digits(n * KV_TILE, wide, false),
                        delta = check_floats(&rnd, n, 0, wide ? 1e-5f : 1e-3f),
                        bias = check_floats(&rnd, n, -2, 2), keep = check_floats(&rnd, (size_t)n_rows, 0, 1),
                        start = check_floats(&rnd, n_out, -5, 5);
    for (size_t i = 0; i < n * KV_TILE; i++) { /* probabilities of tokens that are not there */
        size_t at = wide ? (i & ~(size_t)3) + (i % 4 == 1 ? 2 : i % 4 == 2 ? 1 : i % 4) : i;
        if ((int)(i % KV_TILE) < n_tokens) continue;
        if (wide) ((int16_t *)digits.p)[at] = 0;
        else ((uint8_t *)digits.p)[at] = 0;
    }
    for (int l = 0; l < n_levels; l++) {
        struct check_buffer out = copy_of(&start);
        tables[l].pv_codes(&(struct kv_pv_codes){ codes.p, bits, head_dim, n_groups, n_tokens, digits.p,
                                                  delta.p, bias.p, keep.p, n_rows, out.p, { NULL, NULL } });
        for (int i = 0; i < (int)n_out; i++) {
            int row = i / head_dim, c = i % head_dim, at = row * n_groups + c / (head_dim / n_groups);
            int64_t dot = 0;
            for (int j = 0; j < n_tokens; j++)
                dot += digit_at((char *)digits.p + (size_t)at * KV_TILE * (wide ? 2 : 1), wide, false, j) *
                       (int)kv_code_get(codes.p, bits, kv_value_place(bits, head_dim, c, j));
            double old = (double)((float *)start.p)[i] * (double)((float *)keep.p)[row];
            double sum = (double)((float *)delta.p)[at] * (double)dot, first = ((float *)bias.p)[at];
            CHECK_CLOSE(((float *)out.p)[i], old + sum + first, 1e-6, fabs(old) + fabs(sum) + fabs(first),
                        "%d bits, head %d in %d groups, %d rows, row %d, channel %d, level %d", bits,
                        head_dim, n_groups, n_rows, row, c, l);
        }
        check_buffer_close(&out);
    }
    check_buffer_close(&codes);
    check_buffer_close(&digits);
    check_buffer_close(&delta);
    check_buffer_close(&bias);
    check_buffer_close(&keep);
    check_buffer_close(&start);
}

static void outputs_from_codes(void **state)
{
    (void)state;
    for (int b = 0; b < N_OF(all_bits); b++)
        for (int d = 0; d < N_OF(head_dims); d++)
            for (int r = 0; r < N_OF(row_counts); r++) {
                int head_dim = head_dims[d], n_groups = head_dim % 32 == 0 && r % 2 ? head_dim / 32 : 1;
                check_pv(all_bits[b], head_dim, n_groups, row_counts[r], r % 3 ? 64 : 1 + below(64));
            }
}

/* ------------------------------------------------------------------------------------- 16-bit rows -- */

static void check_half(int head_dim, int n_rows, int n_tokens, bool page)
{
    int stride = page ? head_dim : head_dim + 8 * below(3);
    size_t n_k = page ? (size_t)head_dim * KV_TILE : (size_t)((n_tokens - 1) * stride + head_dim),
           n_out = (size_t)(n_rows * head_dim);
    struct check_buffer k = check_halves(&rnd, n_k, -2, 2),
                        v = check_halves(&rnd, (size_t)((n_tokens - 1) * stride + head_dim), -2, 2),
                        q = check_floats(&rnd, n_out, -2, 2),
                        p = check_floats(&rnd, (size_t)n_rows * KV_TILE, 0, 1),
                        keep = check_floats(&rnd, (size_t)n_rows, 0, 1),
                        start = check_floats(&rnd, n_out, -5, 5);
    for (int l = 0; l < n_levels; l++) {
        struct check_buffer score = check_buffer_open((size_t)n_rows * KV_TILE * 4, false),
                            out = copy_of(&start);
        const uint8_t *codes_ahead = k.p; /* asking ahead touches nothing */
        tables[l].qk_half(&(struct kv_qk_half){ k.p, page ? 0 : stride, head_dim, page ? KV_TILE : n_tokens,
                                                n_rows, q.p, score.p, { codes_ahead, codes_ahead + 1000 } });
        tables[l].pv_half(&(struct kv_pv_half){ v.p, stride, head_dim, n_tokens, n_rows, p.p, keep.p, out.p,
                                                { NULL, NULL } });
        for (int row = 0; row < n_rows; row++) {
            for (int j = 0; j < n_tokens; j++) {
                double s = 0, size = 0;
                for (int c = 0; c < head_dim; c++) {
                    double x = half_at(&k, page ? c * KV_TILE + j : j * stride + c) *
                               (double)((float *)q.p)[row * head_dim + c];
                    s += x;
                    size += fabs(x);
                }
                CHECK_CLOSE(((float *)score.p)[row * KV_TILE + j], s, SUM, size,
                            "head %d, row %d, token %d, level %d", head_dim, row, j, l);
            }
            for (int c = 0; c < head_dim; c++) {
                double x = (double)((float *)start.p)[row * head_dim + c] * (double)((float *)keep.p)[row],
                       size = fabs(x);
                for (int j = 0; j < n_tokens; j++) {
                    double y = half_at(&v, j * stride + c) * (double)((float *)p.p)[row * KV_TILE + j];
                    x += y;
                    size += fabs(y);
                }
                CHECK_CLOSE(((float *)out.p)[row * head_dim + c], x, SUM, size,
                            "head %d, row %d, channel %d, level %d", head_dim, row, c, l);
            }
        }
        check_buffer_close(&score);
        check_buffer_close(&out);
    }
    check_buffer_close(&k);
    check_buffer_close(&v);
    check_buffer_close(&q);
    check_buffer_close(&p);
    check_buffer_close(&keep);
    check_buffer_close(&start);
}

static void rows_of_16_bits(void **state)
{
    (void)state;
    for (int d = 0; d < N_OF(head_dims); d++)
        for (int r = 0; r < N_OF(row_counts); r++)
            check_half(head_dims[d], row_counts[r], 1 + below(64), r % 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queries_fold_into_digits),
        cmocka_unit_test(scores_from_codes),
        cmocka_unit_test(centres_come_back_at_the_scores),
        cmocka_unit_test(softmax_moves_the_maximum),
        cmocka_unit_test(probabilities_weigh_into_digits),
        cmocka_unit_test(outputs_from_codes),
        cmocka_unit_test(rows_of_16_bits),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
