/*
 * Attention over codes in the vocabulary of an instruction set. attention_calls.h has the formulas,
 * code_layout.h the order in which codes lie.
 *
 * Both products keep a block of sums in registers, 4 query rows times GROUPS (of tokens) or COLUMNS (of
 * channels), and add dot products of 4 neighbours to them; every plane that is unpacked meets 4 rows. The row
 * count of a block is a constant, so arrays indexed by it are registers. A row's result does not depend on
 * the rows beside it.
 */
#include "kernels/ahead.h"
#include "kernels/code_plane.inc.h"
#include "kernels/row_blocks.h"

KV_INLINE vi even_words(vi x) { return vi_and(x, vi_set_words(0x00ff)); }
KV_INLINE vi odd_words(vi x) { return vi_shift16(x, 8); }

/* ------------------------------------------------------------------------------------------------ keys -- */

/* Sums of a block: rows times groups of 16 tokens. */
typedef vi qk_sums[BLOCK_ROWS][GROUPS];

/* What a block of rows meets next: codes, and digits of its first row for both halves of the page. */
struct qk_place {
    const uint8_t *unit;
    const int8_t *digits[2];
};

/* Adds the dot products of LANES tokens of each group to total, and goes on behind the class. same: both
 * halves of the page have the same digits. */
KV_INLINE void qk_units(const struct kv_qk_codes *a, struct qk_place *at_class, int bits, int n_channels,
                        int rows, int group, bool same, qk_sums total, struct stride_ahead *ahead)
{
    bool wide = kv_keys_are_wide(bits), add_in_words = !wide && KEY_SPAN(bits) < KV_HEAD_DIM_MAX;
    int n_units = n_channels / KV_KEY_UNIT, span = add_in_words ? KEY_SPAN(bits) / 2 : n_units;
    const uint8_t *unit = at_class->unit;
    const int8_t *digits[2][BLOCK_ROWS];
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < 2; h++) digits[h][r] = at_class->digits[h] + (size_t)r * a->digits_stride;
    for (int u = 0; u < n_units;) {
        int end = n_units - u < span ? n_units : u + span;
        qk_sums acc;
        if (add_in_words)
            for (int r = 0; r < rows; r++)
                for (int g = 0; g < GROUPS; g++) acc[r][g] = vi_zero();
        for (; u < end; u++, unit += bits * KV_LINE) {
            ahead_step(ahead);
#pragma GCC unroll 2
            for (int pair = 0; pair < 2; pair++) {
                vi code[GROUPS];
                int at = pair * (wide ? 8 : 4);
#pragma GCC unroll 4
                for (int g = 0; g < GROUPS; g++)
                    code[g] = unit_plane(bits, unit, KV_LINE, false, 4 * pair + group + g);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) {
                    vi *sum = add_in_words ? acc[r] : total[r];
                    vi x0 = vi_set4(digits[0][r] + at), x1 = same ? x0 : vi_set4(digits[1][r] + at);
                    if (!wide) {
#pragma GCC unroll 4
                        for (int g = 0; g < GROUPS; g++)
                            sum[g] = vi_dot_narrow(sum[g], code[g], g < (GROUPS + 1) / 2 ? x0 : x1);
                        continue;
                    }
                    vi y0 = vi_set4(digits[0][r] + at + 4), y1 = same ? y0 : vi_set4(digits[1][r] + at + 4);
#pragma GCC unroll 4
                    for (int g = 0; g < GROUPS; g++) {
                        bool low = g < (GROUPS + 1) / 2;
                        sum[g] = vi_dot_wide(sum[g], even_words(code[g]), low ? x0 : x1);
                        sum[g] = vi_dot_wide(sum[g], odd_words(code[g]), low ? y0 : y1);
                    }
                }
            }
            for (int r = 0; r < rows; r++)
                for (int h = 0; h < 2; h++) digits[h][r] += KV_KEY_UNIT * (wide ? 2 : 1);
        }
        if (add_in_words)
            for (int r = 0; r < rows; r++)
                for (int g = 0; g < GROUPS; g++) total[r][g] = vi_add(total[r][g], vi_widen(acc[r][g]));
    }
    at_class->unit = unit;
    for (int h = 0; h < 2; h++) at_class->digits[h] = digits[h][0];
}

/* score (or the bias) += δ · total, of a span. */
KV_INLINE void add_totals(const struct kv_qk_codes *a, int span, bool first, int rows, int first_row,
                          int part, int group, qk_sums total)
{
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int row = first_row + r;
        float *score = a->score + row * KV_TILE + part * LANES;
#pragma GCC unroll 4
        for (int g = 0; g < GROUPS; g++) {
            int half = (group + g) / 2, j = (group + g) * 16;
            vf s = first ? vf_set(a->bias[half][row]) : vf_load(score + j);
            vf_store(score + j, vf_fma(vf_from_int(total[r][g]), vf_set(a->delta[half][span][row]), s));
        }
    }
}

/* A block of rows. bits: of all classes, each of which is a span; or MIXED. */
enum { MIXED = 0 };
KV_INLINE void qk_rows(const struct kv_qk_codes *a, int bits, int rows, int row, int part, int group,
                       bool same, struct stride_ahead *ahead)
{
    size_t digits = (size_t)row * a->digits_stride;
    struct qk_place at = { a->codes + (size_t)part * sizeof(vi),
                           { (const int8_t *)a->digits[group / 2] + digits,
                             (const int8_t *)a->digits[(group + GROUPS - 1) / 2] + digits } };
    for (int k = 0; k < a->n_classes && a->classes[k].bits;) {
        int span = a->classes[k].span;
        bool first = k == 0;
        qk_sums total;
        for (int r = 0; r < rows; r++)
            for (int g = 0; g < GROUPS; g++) total[r][g] = vi_zero();
        if (bits != MIXED) {
            qk_units(a, &at, bits, a->classes[k++].n_channels, rows, group, same, total, ahead);
        } else {
            for (; k < a->n_classes && a->classes[k].bits && a->classes[k].span == span; k++) {
                int n = a->classes[k].n_channels;
                switch (a->classes[k].bits) {
                case 2: qk_units(a, &at, 2, n, rows, group, same, total, ahead); break;
                case 3: qk_units(a, &at, 3, n, rows, group, same, total, ahead); break;
                case 4: qk_units(a, &at, 4, n, rows, group, same, total, ahead); break;
                default: qk_units(a, &at, 8, n, rows, group, same, total, ahead);
                }
            }
        }
        add_totals(a, span, first, rows, row, part, group, total);
    }
}

/* A function of its own for each width and number of rows: in one function gcc keeps addresses of all of them
 * on the stack and doubles the instructions. The group is a constant at each call, so that planes are. */
#define QK_ROWS(name, bits, rows)                                                                            \
    KV_LEAF void name(const struct kv_qk_codes *a, int row, int part, int group, struct stride_ahead *ahead) \
    {                                                                                                        \
        if (GROUPS < 4 && group)                                                                             \
            qk_rows(a, bits, rows, row, part, 2, true, ahead);                                               \
        else if (GROUPS < 4 || a->digits[0] == a->digits[1])                                                 \
            qk_rows(a, bits, rows, row, part, 0, true, ahead);                                               \
        else                                                                                                 \
            qk_rows(a, bits, rows, row, part, 0, false, ahead);                                              \
    }
#define QK_LEAVES(bits)                                                                                      \
    QK_ROWS(qk_##bits##_1, bits, 1)                                                                          \
    QK_ROWS(qk_##bits##_2, bits, 2)                                                                          \
    QK_ROWS(qk_##bits##_3, bits, 3)                                                                          \
    QK_ROWS(qk_##bits##_4, bits, 4)
QK_LEAVES(0)
QK_LEAVES(2)
QK_LEAVES(3)
QK_LEAVES(4)
QK_LEAVES(8)
#define QK_OF(bits) { qk_##bits##_1, qk_##bits##_2, qk_##bits##_3, qk_##bits##_4 }
typedef void (*qk_leaf)(const struct kv_qk_codes *, int row, int part, int group, struct stride_ahead *);
static const qk_leaf qk_leaves[5][BLOCK_ROWS] = { QK_OF(0), QK_OF(2), QK_OF(3), QK_OF(4), QK_OF(8) };

static void apply_token_scales(const struct kv_qk_codes *a)
{
    for (int j = 0; j < KV_TILE; j += LANES) {
        vf scale = vf_load_f16(a->scale + j), min = vf_load_f16(a->min + j);
        for (int row = 0; row < a->n_rows; row++) {
            float *score = a->score + row * KV_TILE + j;
            vf_store(score, vf_fma(scale, vf_load(score), vf_mul(min, vf_set(a->sum[row]))));
        }
    }
}

/* Without codes all is in the bias. */
static void scores_of_bias(const struct kv_qk_codes *a)
{
    for (int row = 0; row < a->n_rows; row++)
        for (int j = 0; j < KV_TILE; j++) a->score[row * KV_TILE + j] = a->bias[j / 32][row];
}

static void qk_codes(const struct kv_qk_codes *a)
{
    int n_units = 0, n_coded = 0;
    int n_blocks = (a->n_rows + BLOCK_ROWS - 1) / BLOCK_ROWS, bits = a->classes[0].bits;
    for (; n_coded < a->n_classes && a->classes[n_coded].bits; n_coded++) {
        n_units += a->classes[n_coded].n_channels / KV_KEY_UNIT;
        if (a->classes[n_coded].bits != bits) bits = MIXED;
    }
    if (n_coded == 0) {
        scores_of_bias(a);
        return;
    }
    const qk_leaf *leaf = qk_leaves[bits == MIXED ? 0 : bits == 8 ? 4 : bits - 1];
    struct stride_ahead ahead = ahead_in_steps(&a->ahead, n_units * PARTS * (4 / GROUPS) * n_blocks);
    for (int part = 0; part < PARTS; part++) {
        for (int group = 0; group < 4; group += GROUPS)
            FOR_SOME_ROWS(a->n_rows, leaf[rows - 1](a, row, part, group, &ahead))
    }
    if (a->scale) apply_token_scales(a);
}

/* ------------------------------------------------------------------------------------------------ fold -- */

/* The rest that rounding leaves is taken as a difference of sums, Σ mid · a − δ · Σ mid · Q; a sum of
 * products of whole numbers and halves is exact, or beside 15 bits nearly. With Σ q · min the first of
 * them is Σ q · (min + mid · scale). */
struct fold_sums {
    vf max[BLOCK_ROWS];    /* of a span's a = q · scale         */
    vf before[BLOCK_ROWS]; /* Σ q · min + mid · a, of all spans */
    vf q[BLOCK_ROWS];
};

/* n channels from c on, of `rows` rows, all of one span or without codes. */
KV_INLINE void fold_part(const struct kv_fold *f, bool per_token, const float *q, int rows, int c, int n,
                         float *a, struct fold_sums *sums)
{
    vf scale = vf_zero(), fixed = vf_load_part(f->middle + c, n);
    if (!per_token) {
        scale = vf_load_f16_part(f->scale + c, n);
        fixed = vf_fma(scale, fixed, vf_load_f16_part(f->min + c, n));
    }
    for (int r = 0; r < rows; r++) {
        vf x = vf_load_part(q + (size_t)r * f->q_stride + c, n), y = per_token ? x : vf_mul(x, scale);
        vf_store_part(a + r * KV_HEAD_DIM_MAX + c, y, n);
        sums->before[r] = vf_fma(x, fixed, sums->before[r]);
        sums->max[r] = vf_max(vf_abs(y), sums->max[r]);
        if (per_token) sums->q[r] = vf_add(sums->q[r], x);
    }
}

/* a of channels [c, end). */
KV_INLINE void fold_channels(const struct kv_fold *f, bool per_token, const float *q, int rows, int c,
                             int end, float *a, struct fold_sums *sums)
{
    for (int r = 0; r < rows; r++) sums->max[r] = vf_zero();
    for (; c + LANES <= end; c += LANES) fold_part(f, per_token, q, rows, c, LANES, a, sums);
    if (c < end) fold_part(f, per_token, q, rows, c, end - c, a, sums);
}

KV_INLINE vf round_part(const struct kv_fold *f, bool wide, const float *a, vf unit, int8_t *digits, int c,
                        int n, vf after)
{
    vi x = vi_to_digits(vf_load_part(a + c, n), unit);
    if (wide) vi_store_wide_part((int16_t *)(void *)digits, x, n);
    else vi_store_bytes_part(digits, x, n);
    return vf_fma(vf_from_int(x), vf_load_part(f->middle + c, n), after);
}

/* Digits of channels [c, end) of a row, and Σ mid · Q. Narrow ones four vectors at a time: then the
 * sum is a dot product of bytes. */
KV_INLINE vf round_channels(const struct kv_fold *f, int c, int end, bool wide, const float *a, vf unit,
                            int8_t *digits)
{
    vf after = vf_zero();
    vi twice = vi_zero();
    for (int step = 4 * LANES; !wide && c + 2 * LANES <= end; c += step, digits += step) {
        if (c + step > end) step = 2 * LANES; /* the last of them */
        vi x[4] = { vi_zero(), vi_zero(), vi_zero(), vi_zero() };
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            if (i * LANES < step) x[i] = vi_to_digits(vf_load(a + c + i * LANES), unit);
        vi bytes = vi_pack_bytes(x);
        bool whole = step == 4 * LANES;
        if (whole) vi_store(digits, bytes);
        else vi_store_low_half(digits, bytes);
        vi largest = whole ? vi_load(f->largest + c) : vi_load_low_half(f->largest + c);
        twice = vi_dot_narrow(twice, largest, bytes);
    }
    if (!wide) after = vf_mul(vf_from_int(vi_widen(twice)), vf_set(0.5f));
    for (; c + LANES <= end; c += LANES, digits += LANES * (wide ? 2 : 1))
        after = round_part(f, wide, a, unit, digits, c, LANES, after);
    return c < end ? round_part(f, wide, a, unit, digits, c, end - c, after) : after;
}

KV_INLINE void fold_rows(const struct kv_fold *f, bool per_token, int rows, int row)
{
    const float *q = f->q + (size_t)row * f->q_stride;
    int8_t *digits = (int8_t *)f->digits + (size_t)row * f->digits_stride;
    float a[BLOCK_ROWS * KV_HEAD_DIM_MAX];
    struct fold_sums sums;
    v4 rest = v4_zero();
    for (int r = 0; r < rows; r++) sums.before[r] = sums.q[r] = vf_zero();
    for (int k = 0, c = 0; k < f->n_classes;) {
        int first = c, n_digits = 0, span = f->classes[k].span;
        bool coded = f->classes[k].bits > 0, wide = kv_keys_are_wide(f->classes[k].bits);
        for (; k < f->n_classes && (f->classes[k].bits ? f->classes[k].span == span : !coded); k++) {
            c += f->classes[k].n_channels;
            n_digits += kv_class_digits_bytes(&f->classes[k]);
        }
        fold_channels(f, per_token, q, rows, first, c, a, &sums);
        if (!coded) continue;
        float inverse[BLOCK_ROWS];
        vf after[BLOCK_ROWS];
        int largest = wide ? KV_Q_WIDE : KV_Q_NARROW;
        v4 m = rows_largest(sums.max, rows), delta = v4_div(m, v4_set((float)largest));
        v4_store_n(f->delta[span] + row, delta, rows);
        v4_store(inverse, digits_per_unit(largest, m));
        for (int r = 0; r < rows; r++) {
            const float *from = a + r * KV_HEAD_DIM_MAX;
            int8_t *to = digits + (size_t)r * f->digits_stride;
            vf unit = vf_set(inverse[r]);
            after[r] = wide ? round_channels(f, first, c, true, from, unit, to) :
                              round_channels(f, first, c, false, from, unit, to);
        }
        rest = v4_fnma(delta, rows_sum(after, rows), rest);
        digits += n_digits;
    }
    v4_store_n(f->bias + row, v4_add(rows_sum(sums.before, rows), rest), rows);
    if (per_token) v4_store_n(f->sum + row, rows_sum(sums.q, rows), rows);
}

#define FOLD_ROWS(rows)                                                                                    \
    KV_LEAF void fold_channel_##rows(const struct kv_fold *f, int row) { fold_rows(f, false, rows, row); } \
    KV_LEAF void fold_token_##rows(const struct kv_fold *f, int row) { fold_rows(f, true, rows, row); }
FOLD_ROWS(1)
FOLD_ROWS(2)
FOLD_ROWS(3)
FOLD_ROWS(4)

static void attn_fold(const struct kv_fold *f)
{
    static void (*const of[2][BLOCK_ROWS])(const struct kv_fold *, int) = {
        { fold_channel_1, fold_channel_2, fold_channel_3, fold_channel_4 },
        { fold_token_1, fold_token_2, fold_token_3, fold_token_4 },
    };
    FOR_SOME_ROWS(f->n_rows, of[!f->scale][rows - 1](f, row))
}

/* --------------------------------------------------------------------------------------------- centres -- */

/* Coefficients of functions of a page's position, of the rows of a block. */
struct center_parts {
    float x[BLOCK_ROWS][KV_HEAD_DIM_MAX / 2], y[BLOCK_ROWS][KV_HEAD_DIM_MAX / 2]; /* of pairs */
    float terms[KV_CENTER_TERMS][BLOCK_ROWS];                                     /* of T_m   */
};

KV_INLINE vf load_up_to(const float *p, int n) { return n >= LANES ? vf_load(p) : vf_load_n(p, n); }

KV_INLINE void center_coefficients(const struct kv_qk_center *a, int rows, int row, bool slow,
                                   struct center_parts *parts)
{
    vf sum[KV_CENTER_TERMS][BLOCK_ROWS];
    for (int r = 0; r < rows; r++) {
        const float *c = a->cos_part + (size_t)(row + r) * a->stride,
                    *s = a->sin_part + (size_t)(row + r) * a->stride;
        vf own[KV_CENTER_TERMS];
        for (int m = 0; slow && m < KV_CENTER_TERMS; m++) own[m] = vf_zero();
        for (int p = 0; p < a->n_pairs; p += LANES) {
            int n = a->n_pairs - p;
            vf u = load_up_to(c + p, n), v = load_up_to(s + p, n);
            vf cos_t0 = load_up_to(a->cos_t0 + p, n), sin_t0 = load_up_to(a->sin_t0 + p, n);
            vf x = vf_fma(u, cos_t0, vf_mul(v, sin_t0)), y = vf_sub(vf_mul(v, cos_t0), vf_mul(u, sin_t0));
            vf_store(parts->x[r] + p, x);
            vf_store(parts->y[r] + p, y);
            if (!slow) continue;
#pragma GCC unroll 8
            for (int m = 0; m < KV_CENTER_TERMS; m++)
                own[m] = vf_fma(m % 2 ? y : x, load_up_to(a->slow + m * a->n_pairs + p, n), own[m]);
        }
        for (int m = 0; slow && m < KV_CENTER_TERMS; m++) sum[m][r] = own[m];
    }
    if (!slow) return;
    for (int m = 0; m < KV_CENTER_TERMS; m++) v4_store(parts->terms[m], rows_sum(sum[m], rows));
}

#define HALF_VECTORS (KV_TILE / 2 / LANES)

/* A cosine or even T_m to `even` and a sine or odd one to `odd`: CENTER_WIDE vectors from functions and 32
 * later. Coefficients of row r: x[r · step], y[r · step]. */
KV_INLINE void add_function(const float *x, const float *y, size_t step, const float *functions, int rows,
                            vf even[BLOCK_ROWS][CENTER_WIDE], vf odd[BLOCK_ROWS][CENTER_WIDE])
{
    vf e[CENTER_WIDE], o[CENTER_WIDE];
    for (int w = 0; w < CENTER_WIDE; w++) {
        e[w] = vf_load(functions + w * LANES);
        o[w] = vf_load(functions + KV_TILE / 2 + w * LANES);
    }
    for (int r = 0; r < rows; r++) {
        vf cx = vf_set(x[(size_t)r * step]), cy = vf_set(y[(size_t)r * step]);
        for (int w = 0; w < CENTER_WIDE; w++) {
            even[r][w] = vf_fma(cx, e[w], even[r][w]);
            odd[r][w] = vf_fma(cy, o[w], odd[r][w]);
        }
    }
}

/* Both halves of the page from sums over one: even functions are equal on either side of the
 * middle, odd ones are opposite. */
KV_INLINE void center_rows(const struct kv_qk_center *a, int rows, int row, bool slow)
{
    struct center_parts parts;
    center_coefficients(a, rows, row, slow, &parts);
    for (int i = 0; i < HALF_VECTORS; i += CENTER_WIDE) {
        vf even[BLOCK_ROWS][CENTER_WIDE], odd[BLOCK_ROWS][CENTER_WIDE];
        for (int r = 0; r < rows; r++)
            for (int w = 0; w < CENTER_WIDE; w++)
                even[r][w] = vf_set(a->still[row + r]), odd[r][w] = vf_zero();
        for (int m = 0; slow && m < KV_CENTER_TERMS; m += 2)
            add_function(parts.terms[m], parts.terms[m + 1], 1, a->polynomials + m * KV_TILE / 2 + i * LANES,
                         rows, even, odd);
        for (int k = 0; k < a->n_listed; k++) {
            int p = a->listed[k];
            add_function(parts.x[0] + p, parts.y[0] + p, KV_HEAD_DIM_MAX / 2,
                         a->turning + p * KV_TILE + i * LANES, rows, even, odd);
        }
        for (int r = 0; r < rows; r++)
            for (int w = 0; w < CENTER_WIDE; w++) {
                float *after = a->score + (row + r) * KV_TILE + KV_TILE / 2 + (i + w) * LANES,
                      *before = a->score + (row + r) * KV_TILE + KV_TILE / 2 - (i + w + 1) * LANES;
                vf_store(after, vf_add(vf_load(after), vf_add(even[r][w], odd[r][w])));
                vf_store(before, vf_add(vf_load(before), vf_reverse(vf_sub(even[r][w], odd[r][w]))));
            }
    }
}

static void qk_center(const struct kv_qk_center *a)
{
    if (a->slow) FOR_ROW_BLOCKS(a->n_rows, center_rows(a, n, row, true))
    else FOR_ROW_BLOCKS(a->n_rows, center_rows(a, n, row, false))
}

/* --------------------------------------------------------------------------------------------- softmax -- */

static void attn_soften(const struct kv_soften *a)
{
    for (int i = 0; i < a->n_rows;) {
        int whole = 0; /* rows from i on that see the whole page */
        while (whole < BLOCK_ROWS && i + whole < a->n_rows && a->first[i + whole] == 0 &&
               a->last[i + whole] == KV_TILE)
            whole++;
        float *score = a->score + i * KV_TILE, *max = a->max + i, *sum = a->sum + i, *keep = a->keep + i;
        switch (whole) {
        case 0: *keep = soften(score, 0, KV_TILE, a->first[i], a->last[i], max, sum); break;
        case 1: soften_rows(score, 1, false, max, sum, keep); break;
        case 2: soften_rows(score, 2, false, max, sum, keep); break;
        case 3: soften_rows(score, 3, false, max, sum, keep); break;
        default: soften_rows(score, BLOCK_ROWS, false, max, sum, keep);
        }
        i += whole ? whole : 1;
    }
}

/* Probabilities of a row, times `unit`, as digits; their sum. */
KV_INLINE vf round_probabilities(const float *p, const float *scale, vf unit, bool wide, char *digits)
{
    vi sum = vi_zero(), x[4];
#pragma GCC unroll 8
    for (int i = 0; i < PAGE_VECTORS; i++) {
        vi *own = &x[i % 4];
        *own = vi_to_digits(vf_mul(vf_load(p + i * LANES), vf_load(scale + i * LANES)), unit);
        if (wide) {
            sum = vi_add(sum, *own);
            vi_store_wide((int16_t *)(void *)digits + i * LANES, *own);
        } else if (i % 4 == 3) {
            vi bytes = vi_pack_ubytes(x);
            vi_store(digits + (i - 3) * LANES, bytes);
            sum = vi_dot_narrow(sum, bytes, vi_set_bytes(1));
        }
    }
    return vf_from_int(wide ? sum : vi_widen(sum));
}

/* Rows of one group of channels: p lies 64 apart, digits and the rest of a row n_groups apart.
 * fixed: min + mid · scale. */
KV_INLINE void weigh_rows(const struct kv_weigh *a, int rows, int row, int group, bool wide,
                          const float *scale, const float *fixed)
{
    int largest = wide ? KV_P_WIDE : KV_P_NARROW, at = row * a->n_groups + group;
    const float *p = a->p + row * KV_TILE;
    vf max[BLOCK_ROWS], before[BLOCK_ROWS], after[BLOCK_ROWS];
    for (int r = 0; r < rows; r++) max[r] = before[r] = vf_zero();
#pragma GCC unroll 8
    for (int i = 0; i < PAGE_VECTORS; i++) {
        vf s = vf_load(scale + i * LANES), m = vf_load(fixed + i * LANES);
        for (int r = 0; r < rows; r++) {
            vf x = vf_load(p + r * KV_TILE + i * LANES);
            max[r] = vf_max(vf_mul(x, s), max[r]);
            before[r] = vf_fma(x, m, before[r]);
        }
    }
    v4 most = rows_largest(max, rows), delta = v4_div(most, v4_set((float)largest));
    float inverse[BLOCK_ROWS], d[BLOCK_ROWS], b[BLOCK_ROWS];
    v4_store(inverse, digits_per_unit(largest, most));
    for (int r = 0; r < rows; r++) {
        char *digits = (char *)a->digits +
                       (size_t)(at + r * a->n_groups) * (size_t)(KV_TILE * (wide ? 2 : 1));
        after[r] = round_probabilities(p + r * KV_TILE, scale, vf_set(inverse[r]), wide, digits);
    }
    v4 rounded = v4_mul(rows_sum(after, rows), v4_set(kv_codes_middle(a->bits)));
    v4_store(d, delta);
    v4_store(b, v4_fnma(delta, rounded, rows_sum(before, rows)));
    for (int r = 0; r < rows; r++) {
        a->delta[at + r * a->n_groups] = d[r];
        a->bias[at + r * a->n_groups] = b[r];
    }
}

static void attn_weigh(const struct kv_weigh *a)
{
    bool wide = kv_values_are_wide(a->bits);
    vf middle = vf_set(kv_codes_middle(a->bits));
    for (int g = 0; g < a->n_groups; g++) {
        float scale[KV_TILE], fixed[KV_TILE];
        for (int t = 0; t < KV_TILE; t += LANES) {
            vf s = vf_load_f16(a->scale + g * KV_TILE + t), m = vf_load_f16(a->min + g * KV_TILE + t);
            m = vf_fma(s, middle, m);
            bool whole = t + LANES <= a->n_tokens;
            vf_store(scale + t, whole ? s : vf_in_range(s, t, 0, a->n_tokens, 0.0f));
            vf_store(fixed + t, whole ? m : vf_in_range(m, t, 0, a->n_tokens, 0.0f));
        }
        if (wide) FOR_ROW_BLOCKS(a->n_rows, weigh_rows(a, n, row, g, true, scale, fixed))
        else FOR_ROW_BLOCKS(a->n_rows, weigh_rows(a, n, row, g, false, scale, fixed))
    }
}

/* ---------------------------------------------------------------------------------------------- values -- */

/* LANES channels of `columns` neighbouring vectors, from `channel` on, all of one group. More than one:
 * `channel` is a column's first. */
KV_INLINE void pv_block(const struct kv_pv_codes *a, int bits, int rows, int row, int columns, bool half,
                        int channel, int group, struct stride_ahead *ahead)
{
    bool wide = kv_values_are_wide(bits);
    int line = half ? KV_LINE / 2 : KV_LINE, row_bytes = KV_TILE * (wide ? 2 : 1);
    size_t column = (size_t)channel / KV_COLUMN, column_bytes = 2 * (size_t)bits * KV_LINE;
    const uint8_t *unit = a->codes + column * column_bytes + (size_t)channel % KV_COLUMN * 4;
    const int8_t *digits[BLOCK_ROWS];
    for (int r = 0; r < rows; r++)
        digits[r] = (const int8_t *)a->digits + (size_t)((row + r) * a->n_groups + group) * (size_t)row_bytes;
    vi total[BLOCK_ROWS][COLUMNS], acc[BLOCK_ROWS][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < columns; w++) total[r][w] = acc[r][w] = vi_zero();
    for (int token = 0; token < a->n_tokens; token += KV_VALUE_UNIT, unit += bits * line) {
        ahead_step(ahead);
#pragma GCC unroll 8
        for (int i = 0; i < KV_PLANES; i++) {
            int at = i * (wide ? 8 : 4);
            vi code[COLUMNS];
#pragma GCC unroll 4
            for (int w = 0; w < columns; w++) {
                size_t c = (size_t)(w * LANES);
                const uint8_t *own = unit + c / KV_COLUMN * column_bytes + c % KV_COLUMN * 4;
                code[w] = unit_plane(bits, own, line, half, i);
            }
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                vi x = vi_set4(digits[r] + at);
                if (!wide) {
#pragma GCC unroll 4
                    for (int w = 0; w < columns; w++) acc[r][w] = vi_dot_narrow(acc[r][w], x, code[w]);
                    continue;
                }
                vi y = vi_set4(digits[r] + at + 4);
#pragma GCC unroll 4
                for (int w = 0; w < columns; w++) {
                    acc[r][w] = vi_dot_wide(acc[r][w], even_words(code[w]), x);
                    acc[r][w] = vi_dot_wide(acc[r][w], odd_words(code[w]), y);
                }
            }
            if (!wide && (i + 1) % VALUE_SPAN(bits) == 0) /* before 16 bits overflow */
                for (int r = 0; r < rows; r++)
                    for (int w = 0; w < columns; w++) {
                        total[r][w] = vi_add(total[r][w], vi_widen(acc[r][w]));
                        acc[r][w] = vi_zero();
                    }
        }
        for (int r = 0; r < rows; r++) digits[r] += KV_VALUE_UNIT * (wide ? 2 : 1);
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int at = (row + r) * a->n_groups + group;
        vf keep = vf_set(a->keep[row + r]), delta = vf_set(a->delta[at]), bias = vf_set(a->bias[at]);
        float *out = a->out + (row + r) * a->head_dim + channel;
#pragma GCC unroll 4
        for (int w = 0; w < columns; w++, out += LANES) {
            vi sum = wide ? acc[r][w] : VALUE_SPAN(bits) <= KV_PLANES ? total[r][w] : vi_widen(acc[r][w]);
            int n = half && LANES > 8 ? 8 : LANES;
            vf x = vf_fma(vf_from_int(sum), delta, bias);
            vf_store_part(out, vf_fma(keep, vf_load_part(out, n), x), n);
        }
    }
}

/* All channels of a block of rows. A function of its own for each width and number of rows: in one function
 * gcc keeps addresses of all of them on the stack and doubles the instructions. */
KV_INLINE void pv_rows(const struct kv_pv_codes *a, int bits, int rows, int row, struct stride_ahead *ahead)
{
    int n_channels = a->n_groups == 1 ? a->head_dim : a->head_dim / a->n_groups;
    int columns_end = a->head_dim - a->head_dim % KV_COLUMN;
    for (int g = 0, c = 0; c < columns_end; g++) {
        int end = (g + 1) * n_channels < columns_end ? (g + 1) * n_channels : columns_end;
        for (; c + COLUMNS * LANES <= end; c += COLUMNS * LANES)
            pv_block(a, bits, rows, row, COLUMNS, false, c, g, ahead);
        if (COLUMNS > 2 && c + COLUMNS / 2 * LANES <= end) {
            pv_block(a, bits, rows, row, COLUMNS / 2, false, c, g, ahead);
            c += COLUMNS / 2 * LANES;
        }
        for (; c < end; c += LANES) pv_block(a, bits, rows, row, 1, false, c, g, ahead);
    }
    for (int c = columns_end; c < a->head_dim; c += LANES) pv_block(a, bits, rows, row, 1, true, c, 0, ahead);
}

#define PV_ROWS(bits, rows)                                                                                \
    KV_LEAF void pv_##bits##_##rows(const struct kv_pv_codes *a, int row, struct stride_ahead *ahead)      \
    {                                                                                                      \
        pv_rows(a, bits, rows, row, ahead);                                                                \
    }
#define PV_BITS(bits)                                                                                      \
    PV_ROWS(bits, 1)                                                                                       \
    PV_ROWS(bits, 2)                                                                                       \
    PV_ROWS(bits, 3)                                                                                       \
    PV_ROWS(bits, 4)                                                                                       \
    static void pv_##bits(const struct kv_pv_codes *a)                                                     \
    {                                                                                                      \
        static void (*const of[])(const struct kv_pv_codes *, int, struct stride_ahead *) = {              \
            pv_##bits##_1, pv_##bits##_2, pv_##bits##_3, pv_##bits##_4                                     \
        };                                                                                                 \
        int n_steps = a->head_dim / (COLUMNS * LANES) * 2 * ((a->n_rows + BLOCK_ROWS - 1) / BLOCK_ROWS);   \
        struct stride_ahead ahead = ahead_in_steps(&a->ahead, n_steps);                                    \
        FOR_SOME_ROWS(a->n_rows, of[rows - 1](a, row, &ahead))                                             \
    }
PV_BITS(2)
PV_BITS(3)
PV_BITS(4)
PV_BITS(8)

static void pv_codes(const struct kv_pv_codes *a)
{
    switch (a->bits) {
    case 2: pv_2(a); break;
    case 3: pv_3(a); break;
    case 4: pv_4(a); break;
    default: pv_8(a);
    }
}

static void fill_codes(struct kv_kernels *table)
{
    table->attn_fold = attn_fold;
    table->qk_codes = qk_codes;
    table->qk_center = qk_center;
    table->attn_soften = attn_soften;
    table->attn_weigh = attn_weigh;
    table->pv_codes = pv_codes;
}
