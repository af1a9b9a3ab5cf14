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

/* -------------------------------------------------------------------------------------------------- keys -- */

/* Adds to `total` the dot products of rows [row, row + rows) with one class, for token groups [group, group + GROUPS),
 * LANES tokens of each. codes, digits: at the class. same: both halves of the page have the same digits. */
KV_INLINE void qk_class(const struct kv_qk_codes *a, int bits, int n_channels, const uint8_t *unit,
                        const char *const digits[2], bool same, int rows, int group, vi total[BLOCK_ROWS][GROUPS],
                        struct stride_ahead *ahead)
{
    bool wide = kv_keys_are_wide(bits), add_in_words = !wide && KEY_SPAN(bits) < KV_HEAD_DIM_MAX;
    int n_units = n_channels / KV_KEY_UNIT, span = add_in_words ? KEY_SPAN(bits) / 2 : n_units;
    for (int u = 0; u < n_units;) {
        int end = n_units - u < span ? n_units : u + span;
        vi acc[BLOCK_ROWS][GROUPS];
        for (int r = 0; r < rows; r++)
            for (int g = 0; g < GROUPS; g++) acc[r][g] = add_in_words ? vi_zero() : total[r][g];
        for (; u < end; u++, unit += bits * KV_LINE) {
            ahead_step(ahead);
#pragma GCC unroll 2
            for (int pair = 0; pair < 2; pair++) {
                vi code[GROUPS];
                size_t at = (size_t)(2 * u + pair) * (wide ? 8 : 4);
#pragma GCC unroll 4
                for (int g = 0; g < GROUPS; g++)
                    code[g] = unit_plane(bits, unit, KV_LINE, false, 4 * pair + group + g);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++) {
                    const char *d0 = digits[0] + (size_t)r * a->digits_stride + at,
                               *d1 = digits[1] + (size_t)r * a->digits_stride + at;
                    vi x0 = vi_set4((const int8_t *)d0), x1 = same ? x0 : vi_set4((const int8_t *)d1);
                    if (!wide) {
#pragma GCC unroll 4
                        for (int g = 0; g < GROUPS; g++)
                            acc[r][g] = vi_dot_narrow(acc[r][g], code[g], g < (GROUPS + 1) / 2 ? x0 : x1);
                        continue;
                    }
                    vi y0 = vi_set4((const int8_t *)d0 + 4), y1 = same ? y0 : vi_set4((const int8_t *)d1 + 4);
#pragma GCC unroll 4
                    for (int g = 0; g < GROUPS; g++) {
                        bool low = g < (GROUPS + 1) / 2;
                        acc[r][g] = vi_dot_wide(acc[r][g], even_words(code[g]), low ? x0 : x1);
                        acc[r][g] = vi_dot_wide(acc[r][g], odd_words(code[g]), low ? y0 : y1);
                    }
                }
            }
        }
        for (int r = 0; r < rows; r++)
            for (int g = 0; g < GROUPS; g++)
                total[r][g] = add_in_words ? vi_add(total[r][g], vi_widen(acc[r][g])) : acc[r][g];
    }
}

/* score (or the bias) += δ · total. */
KV_INLINE void add_totals(const struct kv_qk_codes *a, int width, bool first, int rows, int row, int part, int group,
                          vi total[BLOCK_ROWS][GROUPS])
{
#pragma GCC unroll 4
    for (int g = 0; g < GROUPS; g++) {
        int half = (group + g) / 2, j = (group + g) * 16 + part * LANES;
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            float *score = a->score + (row + r) * KV_TILE + j;
            vf s = first ? vf_set(a->bias[half][row + r]) : vf_load(score);
            vf_store(score, vf_fma(vf_from_int(total[r][g]), vf_set(a->delta[half][width][row + r]), s));
        }
    }
}

KV_INLINE void apply_token_scales(const struct kv_qk_codes *a, int rows, int row, int part, int group)
{
    for (int g = 0; g < GROUPS; g++) {
        int j = (group + g) * 16 + part * LANES;
        vf scale = vf_load_f16(a->scale + j), min = vf_load_f16(a->min + j);
        for (int r = 0; r < rows; r++) {
            float *score = a->score + (row + r) * KV_TILE + j;
            vf_store(score, vf_fma(scale, vf_load(score), vf_mul(min, vf_set(a->sum[row + r]))));
        }
    }
}

/* All classes of one width: their sums share a δ. */
KV_INLINE void qk_block(const struct kv_qk_codes *a, bool same, int rows, int row, int part, int group,
                        struct stride_ahead *ahead)
{
    const uint8_t *codes = a->codes + (size_t)part * sizeof(vi);
    const char *digits[2] = { a->digits[group / 2], a->digits[(group + GROUPS - 1) / 2] };
    for (int h = 0; h < 2; h++) digits[h] = digits[h] + (size_t)row * a->digits_stride;
    vi total[BLOCK_ROWS][GROUPS];
    bool first = true;
    for (int k = 0; k < a->n_classes || first;) {
        int width = k < a->n_classes && kv_keys_are_wide(a->classes[k].bits) ? KV_WIDE : KV_NARROW;
        for (int r = 0; r < rows; r++)
            for (int g = 0; g < GROUPS; g++) total[r][g] = vi_zero();
        for (; k < a->n_classes && kv_keys_are_wide(a->classes[k].bits) == (width == KV_WIDE); k++) {
            int n = a->classes[k].n_channels, bits = a->classes[k].bits;
            switch (bits) {
            case 2: qk_class(a, 2, n, codes, digits, same, rows, group, total, ahead); break;
            case 3: qk_class(a, 3, n, codes, digits, same, rows, group, total, ahead); break;
            case 4: qk_class(a, 4, n, codes, digits, same, rows, group, total, ahead); break;
            case 8: qk_class(a, 8, n, codes, digits, same, rows, group, total, ahead); break;
            default: break; /* of 0 bits: all is in the bias */
            }
            codes += n * 8 * bits;
            for (int h = 0; h < 2; h++) digits[h] += width == KV_WIDE ? 2 * n : n;
        }
        add_totals(a, width, first, rows, row, part, group, total);
        first = false;
    }
    if (a->scale) apply_token_scales(a, rows, row, part, group);
}

KV_INLINE void qk_rows(const struct kv_qk_codes *a, bool same)
{
    int n_units = 0;
    for (int k = 0; k < a->n_classes; k++) n_units += a->classes[k].bits ? a->classes[k].n_channels / KV_KEY_UNIT : 0;
    struct stride_ahead ahead = ahead_in_steps(&a->ahead, n_units * PARTS * (4 / GROUPS));
    for (int part = 0; part < PARTS; part++) { /* the groups are written out: planes are constants then */
        FOR_EQUAL_ROW_BLOCKS(a->n_rows, qk_block(a, same, n, row, part, 0, &ahead))
        if (GROUPS < 4) FOR_EQUAL_ROW_BLOCKS(a->n_rows, qk_block(a, same, n, row, part, 2, &ahead))
    }
}

static void qk_codes(const struct kv_qk_codes *a)
{
    if (GROUPS <= 2 || a->digits[0] == a->digits[1]) qk_rows(a, true);
    else qk_rows(a, false);
}

/* ------------------------------------------------------------------------------------------------- fold -- */

/* What the rows of a block need to know of a = q · scale before and after rounding. The rest that rounding leaves is
 * taken as a difference of sums, Σ mid · a − δ · Σ mid · Q; a sum of products of whole numbers and halves is exact, or
 * beside 15 bits nearly. */
struct fold_sums {
    vf max[KV_WIDTHS][BLOCK_ROWS], minima[BLOCK_ROWS], q[BLOCK_ROWS];
    vf before[BLOCK_ROWS];           /* Σ mid · a */
    vf after[KV_WIDTHS][BLOCK_ROWS]; /* Σ mid · Q */
};

KV_INLINE int part_of(int n, int c) { return n - c < LANES ? n - c : LANES; }

/* n channels from c on, of `rows` rows, all of one width or without codes. */
KV_INLINE void fold_part(const struct kv_fold *f, const float *q, int rows, int c, int n, float *a, vf max[BLOCK_ROWS],
                         struct fold_sums *sums)
{
    vf scale = vf_zero(), min = scale, middle = vf_load_part(f->middle + c, n);
    if (f->scale) {
        scale = vf_load_f16_part(f->scale + c, n);
        min = vf_load_f16_part(f->min + c, n);
    }
    for (int r = 0; r < rows; r++) {
        const float *from = q + (size_t)r * f->q_stride + c;
        float *to = a + r * KV_HEAD_DIM_MAX + c;
        vf x = vf_load_part(from, n), y = f->scale ? vf_mul(x, scale) : x;
        vf_store_part(to, y, n);
        sums->minima[r] = vf_fma(x, min, sums->minima[r]);
        if (f->sum) sums->q[r] = vf_add(sums->q[r], x);
        max[r] = vf_max(vf_abs(y), max[r]);
        sums->before[r] = vf_fma(y, middle, sums->before[r]);
    }
}

/* The first pass over channels [c, end). */
KV_INLINE void fold_channels(const struct kv_fold *f, const float *q, int rows, int c, int end, float *a,
                             vf max[BLOCK_ROWS], struct fold_sums *sums)
{
    for (; c + LANES <= end; c += LANES) fold_part(f, q, rows, c, LANES, a, max, sums);
    if (c < end) fold_part(f, q, rows, c, end - c, a, max, sums);
}

KV_INLINE vf round_part(const struct kv_fold *f, bool wide, const float *a, vf unit, char *digits, int c, int n, vf after)
{
    vi x = vi_to_digits(vf_load_part(a + c, n), unit);
    if (wide) vi_store_wide_part((int16_t *)(void *)digits, x, n);
    else vi_store_bytes_part((int8_t *)digits, x, n);
    return vf_fma(vf_from_int(x), vf_load_part(f->middle + c, n), after);
}

/* The second, over channels of one width. digits: at the first of them. */
KV_INLINE void round_channels(const struct kv_fold *f, int rows, int first, int end, bool wide, const float *a,
                              const float inverse[BLOCK_ROWS], char *digits, struct fold_sums *sums)
{
    for (int r = 0; r < rows; r++, a += KV_HEAD_DIM_MAX, digits += f->digits_stride) {
        vf unit = vf_set(inverse[r]), after = vf_zero();
        char *to = digits;
        int c = first;
        for (; c + LANES <= end; c += LANES, to += LANES * (wide ? 2 : 1))
            after = round_part(f, wide, a, unit, to, c, LANES, after);
        if (c < end) after = round_part(f, wide, a, unit, to, c, end - c, after);
        sums->after[wide][r] = after;
    }
}

KV_INLINE void fold_rows(const struct kv_fold *f, int rows, int row)
{
    const float *q = f->q + (size_t)row * f->q_stride;
    char *digits = (char *)f->digits + (size_t)row * f->digits_stride;
    float a[BLOCK_ROWS * KV_HEAD_DIM_MAX], inverse[KV_WIDTHS][BLOCK_ROWS];
    struct kv_key_widths n = kv_key_widths(f->classes, f->n_classes);
    struct fold_sums sums;
    vf none[BLOCK_ROWS]; /* the largest of channels without codes: not used */
    for (int r = 0; r < rows; r++) {
        sums.minima[r] = sums.q[r] = sums.before[r] = none[r] = vf_zero();
        for (int w = 0; w < KV_WIDTHS; w++) sums.max[w][r] = vf_zero();
    }
    if (n.wide) fold_channels(f, q, rows, 0, n.wide, a, sums.max[KV_WIDE], &sums);
    fold_channels(f, q, rows, n.wide, n.coded, a, sums.max[KV_NARROW], &sums);
    if (n.coded < n.all) fold_channels(f, q, rows, n.coded, n.all, a, none, &sums);
    bool used[KV_WIDTHS] = { [KV_NARROW] = n.coded > n.wide, [KV_WIDE] = n.wide > 0 };
    v4 delta[KV_WIDTHS];
    for (int w = 0; w < KV_WIDTHS; w++) {
        if (!used[w]) {
            v4_store_n(f->delta[w] + row, v4_zero(), rows);
            continue;
        }
        v4 m = rows_largest(sums.max[w], rows);
        int largest = w == KV_WIDE ? KV_Q_WIDE : KV_Q_NARROW;
        delta[w] = v4_div(m, v4_set((float)largest));
        v4_store_n(f->delta[w] + row, delta[w], rows);
        v4_store(inverse[w], digits_per_unit(largest, m));
    }
    if (used[KV_WIDE]) round_channels(f, rows, 0, n.wide, true, a, inverse[KV_WIDE], digits, &sums);
    if (used[KV_NARROW])
        round_channels(f, rows, n.wide, n.coded, false, a, inverse[KV_NARROW], digits + 2 * n.wide, &sums);
    for (int r = 0; r < rows; r++) sums.before[r] = vf_add(sums.before[r], sums.minima[r]);
    v4 bias = rows_sum(sums.before, rows);
    for (int w = 0; w < KV_WIDTHS; w++)
        if (used[w]) bias = v4_fnma(delta[w], rows_sum(sums.after[w], rows), bias);
    v4_store_n(f->bias + row, bias, rows);
    if (f->sum) v4_store_n(f->sum + row, rows_sum(sums.q, rows), rows);
}

static void attn_fold(const struct kv_fold *f)
{
    FOR_EQUAL_ROW_BLOCKS(f->n_rows, fold_rows(f, n, row))
}

/* ----------------------------------------------------------------------------------------------- centres -- */

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
        const float *c = a->cos_part + (size_t)(row + r) * a->stride, *s = a->sin_part + (size_t)(row + r) * a->stride;
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

/* A cosine or even T_m to `even` and a sine or odd one to `odd`: CENTER_WIDE vectors from functions and 32 later.
 * Coefficients of row r: x[r · step], y[r · step]. */
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

/* Both halves of the page from sums over one: even functions are equal on either side of the middle, odd ones are
 * opposite. */
KV_INLINE void center_rows(const struct kv_qk_center *a, int rows, int row, bool slow)
{
    struct center_parts parts;
    center_coefficients(a, rows, row, slow, &parts);
    for (int i = 0; i < HALF_VECTORS; i += CENTER_WIDE) {
        vf even[BLOCK_ROWS][CENTER_WIDE], odd[BLOCK_ROWS][CENTER_WIDE];
        for (int r = 0; r < rows; r++)
            for (int w = 0; w < CENTER_WIDE; w++) even[r][w] = vf_set(a->still[row + r]), odd[r][w] = vf_zero();
        for (int m = 0; slow && m < KV_CENTER_TERMS; m += 2)
            add_function(parts.terms[m], parts.terms[m + 1], 1, a->polynomials + m * KV_TILE / 2 + i * LANES, rows,
                         even, odd);
        for (int k = 0; k < a->n_listed; k++) {
            int p = a->listed[k];
            add_function(parts.x[0] + p, parts.y[0] + p, KV_HEAD_DIM_MAX / 2, a->turning + p * KV_TILE + i * LANES,
                         rows, even, odd);
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

/* -------------------------------------------------------------------------------------------------- softmax -- */

static void attn_soften(const struct kv_soften *a)
{
    for (int i = 0; i < a->n_rows;) {
        int whole = 0; /* rows from i on that see the whole page */
        while (whole < BLOCK_ROWS && i + whole < a->n_rows && a->first[i + whole] == 0 && a->last[i + whole] == KV_TILE)
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

/* Rows of one group of channels: p lies 64 apart, digits and the rest of a row n_groups apart. */
KV_INLINE void weigh_rows(const struct kv_weigh *a, int rows, int row, int group, bool wide, const float *scale,
                          const float *min)
{
    int largest = wide ? KV_P_WIDE : KV_P_NARROW, at = row * a->n_groups + group;
    const float *p = a->p + row * KV_TILE;
    vf max[BLOCK_ROWS], minima[BLOCK_ROWS], before[BLOCK_ROWS], after[BLOCK_ROWS];
    vf middle = vf_set(kv_codes_middle(a->bits));
    for (int r = 0; r < rows; r++) max[r] = minima[r] = before[r] = vf_zero();
#pragma GCC unroll 8
    for (int i = 0; i < PAGE_VECTORS; i++) {
        vf s = vf_load(scale + i * LANES), m = vf_load(min + i * LANES);
        for (int r = 0; r < rows; r++) {
            vf x = vf_load(p + r * KV_TILE + i * LANES), w = vf_mul(x, s);
            max[r] = vf_max(w, max[r]);
            before[r] = vf_add(before[r], w);
            minima[r] = vf_fma(x, m, minima[r]);
        }
    }
    v4 most = rows_largest(max, rows), delta = v4_div(most, v4_set((float)largest));
    float inverse[BLOCK_ROWS];
    v4_store(inverse, digits_per_unit(largest, most));
    for (int r = 0; r < rows; r++) {
        char *digits = (char *)a->digits + (size_t)(at + r * a->n_groups) * (size_t)(KV_TILE * (wide ? 2 : 1));
        vf unit = vf_set(inverse[r]);
        vi sum = vi_zero();
#pragma GCC unroll 8
        for (int i = 0; i < PAGE_VECTORS; i++) {
            vf w = vf_mul(vf_load(p + r * KV_TILE + i * LANES), vf_load(scale + i * LANES));
            vi x = vi_to_digits(w, unit);
            sum = vi_add(sum, x);
            if (wide) vi_store_wide((int16_t *)(void *)digits + i * LANES, x);
            else vi_store_ubytes((uint8_t *)digits + i * LANES, x);
        }
        after[r] = vf_from_int(sum);
        before[r] = vf_fma(before[r], middle, minima[r]);
    }
    v4 rounded = v4_mul(rows_sum(after, rows), v4_set(kv_codes_middle(a->bits)));
    v4 bias = v4_fnma(delta, rounded, rows_sum(before, rows));
    if (a->n_groups == 1) {
        v4_store_n(a->delta + at, delta, rows);
        v4_store_n(a->bias + at, bias, rows);
        return;
    }
    float d[BLOCK_ROWS], b[BLOCK_ROWS];
    v4_store(d, delta);
    v4_store(b, bias);
    for (int r = 0; r < rows; r++) {
        a->delta[at + r * a->n_groups] = d[r];
        a->bias[at + r * a->n_groups] = b[r];
    }
}

static void attn_weigh(const struct kv_weigh *a)
{
    bool wide = kv_values_are_wide(a->bits);
    float scale[KV_HEAD_DIM_MAX / 32 * KV_TILE], min[KV_HEAD_DIM_MAX / 32 * KV_TILE];
    for (int i = 0; i < a->n_groups * KV_TILE; i += LANES) {
        int t = i % KV_TILE;
        vf x = vf_load_f16(a->scale + i), y = vf_load_f16(a->min + i);
        vf_store(scale + i, t + LANES <= a->n_tokens ? x : vf_in_range(x, t, 0, a->n_tokens, 0.0f));
        vf_store(min + i, t + LANES <= a->n_tokens ? y : vf_in_range(y, t, 0, a->n_tokens, 0.0f));
    }
    for (int g = 0; g < a->n_groups; g++) {
        const float *s = scale + g * KV_TILE, *m = min + g * KV_TILE;
        if (wide) FOR_EQUAL_ROW_BLOCKS(a->n_rows, weigh_rows(a, n, row, g, true, s, m))
        else FOR_EQUAL_ROW_BLOCKS(a->n_rows, weigh_rows(a, n, row, g, false, s, m))
    }
}

/* ------------------------------------------------------------------------------------------------- values -- */

/* LANES channels of `columns` neighbouring vectors, from `channel` on, all of one group. */
KV_INLINE void pv_block(const struct kv_pv_codes *a, int bits, int rows, int row, int columns, bool half, int channel,
                        int group, struct stride_ahead *ahead)
{
    bool wide = kv_values_are_wide(bits);
    int line = half ? KV_LINE / 2 : KV_LINE, row_bytes = KV_TILE * (wide ? 2 : 1);
    const char *digits = (const char *)a->digits + (size_t)(row * a->n_groups + group) * (size_t)row_bytes;
    size_t next_row = (size_t)(a->n_groups * row_bytes);
    const uint8_t *base[COLUMNS];
    for (int w = 0; w < columns; w++) {
        int c = channel + w * LANES;
        base[w] = a->codes + (size_t)(c / KV_COLUMN * 2 * bits) * KV_LINE + c % KV_COLUMN * 4;
    }
    int n_units = (a->n_tokens + KV_VALUE_UNIT - 1) / KV_VALUE_UNIT;
    vi total[BLOCK_ROWS][COLUMNS], acc[BLOCK_ROWS][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < columns; w++) total[r][w] = acc[r][w] = vi_zero();
    for (int u = 0; u < n_units; u++) {
        ahead_step(ahead);
#pragma GCC unroll 8
        for (int i = 0; i < KV_PLANES; i++) {
            const char *d = digits + (size_t)(u * KV_PLANES + i) * (wide ? 8 : 4);
            vi code[COLUMNS];
#pragma GCC unroll 4
            for (int w = 0; w < columns; w++) code[w] = unit_plane(bits, base[w] + u * bits * line, line, half, i);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                vi x = vi_set4((const int8_t *)d + (size_t)r * next_row);
                if (!wide) {
#pragma GCC unroll 4
                    for (int w = 0; w < columns; w++) acc[r][w] = vi_dot_narrow(acc[r][w], x, code[w]);
                    continue;
                }
                vi y = vi_set4((const int8_t *)d + (size_t)r * next_row + 4);
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
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        int at = (row + r) * a->n_groups + group;
        vf keep = vf_set(a->keep[row + r]), delta = vf_set(a->delta[at]), bias = vf_set(a->bias[at]);
#pragma GCC unroll 4
        for (int w = 0; w < columns; w++) {
            vi sum = wide ? acc[r][w] : VALUE_SPAN(bits) <= KV_PLANES ? total[r][w] : vi_widen(acc[r][w]);
            float *out = a->out + (row + r) * a->head_dim + channel + w * LANES;
            int n = half && LANES > 8 ? 8 : LANES;
            vf x = vf_fma(vf_from_int(sum), delta, bias);
            vf_store_part(out, vf_fma(keep, vf_load_part(out, n), x), n);
        }
    }
}

KV_INLINE void pv_rows(const struct kv_pv_codes *a, int bits)
{
    int n_units = (a->n_tokens + KV_VALUE_UNIT - 1) / KV_VALUE_UNIT;
    struct stride_ahead ahead = ahead_in_steps(&a->ahead, a->head_dim / (COLUMNS * LANES) * n_units);
    int n_channels = a->head_dim / a->n_groups, columns_end = a->head_dim / KV_COLUMN * KV_COLUMN;
    for (int g = 0; g < a->n_groups; g++) {
        int c = g * n_channels, end = c + n_channels < columns_end ? c + n_channels : columns_end;
        for (; c + COLUMNS * LANES <= end; c += COLUMNS * LANES)
            FOR_ROW_BLOCKS(a->n_rows, pv_block(a, bits, n, row, COLUMNS, false, c, g, &ahead))
        for (; c + COLUMNS / 2 * LANES <= end; c += COLUMNS / 2 * LANES)
            FOR_ROW_BLOCKS(a->n_rows, pv_block(a, bits, n, row, COLUMNS / 2, false, c, g, &ahead))
        for (; c + LANES <= end; c += LANES)
            FOR_ROW_BLOCKS(a->n_rows, pv_block(a, bits, n, row, 1, false, c, g, &ahead))
    }
    for (int c = columns_end; c < a->head_dim; c += LANES)
        FOR_ROW_BLOCKS(a->n_rows, pv_block(a, bits, n, row, 1, true, c, 0, &ahead))
}

static void pv_codes(const struct kv_pv_codes *a)
{
    switch (a->bits) {
    case 2: pv_rows(a, 2); break;
    case 3: pv_rows(a, 3); break;
    case 4: pv_rows(a, 4); break;
    default: pv_rows(a, 8);
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
