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
#include "kernels/row_blocks.h"

/* Plane i of a unit: 64 codes in bytes, or the 32 of this part. Shifts of 16 bits bring in bits of the neighbouring
 * byte, which the masks drop. bits and i are constants at every call, and so is what the table says of them. */
KV_INLINE vi unit_plane(int bits, const uint8_t *unit, int line, bool half, int i)
{
    struct kv_plane_bits b = kv_plane_bits(bits, i);
    vi x = vi_load_line(unit + b.first * line, half);
    if (bits == 8) return x;
    x = vi_and(b.shift ? vi_shift16(x, b.shift) : x, vi_set_bytes((1 << b.n) - 1));
    if (b.top_shift < 0) return x;
    vi top = vi_shift16(vi_load_line(unit + line, half), b.top_shift - 2); /* the third bit, to its place */
    return vi_or(x, vi_and(top, vi_set_bytes(4)));
}

KV_INLINE vi even_words(vi x) { return vi_and(x, vi_set_words(0x00ff)); }
KV_INLINE vi odd_words(vi x) { return vi_shift16(x, 8); }

/* -------------------------------------------------------------------------------------------------- keys -- */

/* Adds to `total` the dot products of rows [row, row + rows) with one class, for token groups [group, group + GROUPS),
 * LANES tokens of each. codes, digits: at the class. same: both halves of the page have the same digits. */
KV_INLINE void qk_class(const struct kv_qk_codes *a, int bits, int n_channels, const uint8_t *unit,
                        const char *const digits[2], bool same, int rows, int group, vi total[BLOCK_ROWS][GROUPS],
                        struct stride_ahead *ahead)
{
    bool wide = kv_keys_are_wide(bits);
    int n_units = n_channels / KV_KEY_UNIT, span = wide ? n_units : KEY_SPAN(bits) / 2;
    for (int u = 0; u < n_units;) {
        int end = n_units - u < span ? n_units : u + span;
        vi acc[BLOCK_ROWS][GROUPS];
        for (int r = 0; r < rows; r++)
            for (int g = 0; g < GROUPS; g++) acc[r][g] = wide ? total[r][g] : vi_zero();
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
                total[r][g] = wide ? acc[r][g] : vi_add(total[r][g], vi_widen(acc[r][g]));
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
            for (int h = 0; h < 2; h++) digits[h] += 2 * n;
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
        FOR_ROW_BLOCKS(a->n_rows, qk_block(a, same, n, row, part, 0, &ahead))
        if (GROUPS < 4) FOR_ROW_BLOCKS(a->n_rows, qk_block(a, same, n, row, part, 2, &ahead))
    }
}

static void qk_codes(const struct kv_qk_codes *a)
{
    if (GROUPS <= 2 || a->digits[0] == a->digits[1]) qk_rows(a, true);
    else qk_rows(a, false);
}

/* The first pass of a fold over one class: a = q · scale, kept, and what its row needs to know of it. */
struct fold_sums {
    vf max[KV_WIDTHS], minima, sum, rest;
};

KV_INLINE int part_of(int n, int c) { return n - c < LANES ? n - c : LANES; }

KV_INLINE void fold_class(const struct kv_fold *f, int k, int first, const float *q, const float *scale, const float *min,
                          float *a, struct fold_sums *sums)
{
    int end = first + f->classes[k].n_channels, width = kv_keys_are_wide(f->classes[k].bits);
    vf max = vf_zero();
    for (int c = first; c < end; c += LANES) {
        int n = part_of(end, c);
        vf x = vf_load_part(q + c, n), y = x;
        if (f->scale) {
            y = vf_mul(x, vf_load_part(scale + c, n));
            sums->minima = vf_fma(x, vf_load_part(min + c, n), sums->minima);
        }
        vf_store_part(a + c, y, n);
        max = vf_max(vf_abs(y), max);
        if (f->sum) sums->sum = vf_add(sums->sum, x);
    }
    if (f->classes[k].bits) sums->max[width] = vf_max(max, sums->max[width]);
}

KV_INLINE void round_class(const struct kv_key_class *class, const float *a, float delta, float inverse, char *digits,
                           struct fold_sums *sums)
{
    bool wide = kv_keys_are_wide(class->bits);
    vf middle = vf_set(kv_codes_middle(class->bits));
    for (int c = 0; c < class->n_channels; c += LANES) {
        int n = part_of(class->n_channels, c);
        vf x = vf_load_part(a + c, n), r = vf_round(vf_mul(x, vf_set(inverse)));
        sums->rest = vf_fma(vf_fnma(r, vf_set(delta), x), middle, sums->rest);
        if (wide) vi_store_wide_part((int16_t *)(void *)digits + c, vf_to_int(r), n);
        else vi_store_bytes_part((int8_t *)digits + c, vf_to_int(r), n);
    }
}

static void fold_row(const struct kv_fold *f, int row, const float *scale, const float *min)
{
    const float *q = f->q + (size_t)row * f->q_stride;
    char *digits = (char *)f->digits + (size_t)row * f->digits_stride;
    float a[KV_HEAD_DIM_MAX], inverse[KV_WIDTHS];
    struct fold_sums sums = { { vf_zero(), vf_zero() }, vf_zero(), vf_zero(), vf_zero() };
    bool used[KV_WIDTHS] = { false, false };
    for (int k = 0, c = 0; k < f->n_classes; c += f->classes[k++].n_channels) {
        fold_class(f, k, c, q, scale, min, a, &sums);
        if (f->classes[k].bits) used[kv_keys_are_wide(f->classes[k].bits)] = true;
    }
    for (int w = 0; w < KV_WIDTHS; w++) {
        int largest = w == KV_WIDE ? KV_Q_WIDE : KV_Q_NARROW;
        float m = used[w] ? vf_largest(sums.max[w]) : 0.0f;
        f->delta[w][row] = m / (float)largest;
        inverse[w] = kv_digits_per_unit(largest, m);
    }
    for (int k = 0, c = 0; k < f->n_classes; c += f->classes[k++].n_channels) {
        int width = kv_keys_are_wide(f->classes[k].bits);
        if (f->classes[k].bits)
            round_class(&f->classes[k], a + c, f->delta[width][row], inverse[width], digits + 2 * c, &sums);
    }
    f->bias[row] = vf_sum(vf_add(sums.rest, sums.minima));
    if (f->sum) f->sum[row] = vf_sum(sums.sum);
}

static void attn_fold(const struct kv_fold *f)
{
    float scale[KV_HEAD_DIM_MAX], min[KV_HEAD_DIM_MAX];
    int n_channels = 0;
    for (int k = 0; k < f->n_classes; k++) n_channels += f->classes[k].n_channels;
    for (int c = 0; f->scale && c < n_channels; c += LANES) {
        int n = part_of(n_channels, c);
        vf_store_part(scale + c, vf_load_f16_part(f->scale + c, n), n);
        vf_store_part(min + c, vf_load_f16_part(f->min + c, n), n);
    }
    for (int row = 0; row < f->n_rows; row++) fold_row(f, row, scale, min);
}

/* Rows of coefficients of 64-token functions: (x, y) of each fast pair, then the terms of the polynomials. */
#define CENTER_FUNCTIONS (KV_HEAD_DIM_MAX + KV_CENTER_TERMS)

KV_INLINE vf load_up_to(const float *p, int n) { return n >= LANES ? vf_load(p) : vf_load_n(p, n); }

static void center_coefficients(const struct kv_qk_center *a, int row, float *fast, float *terms)
{
    const float *c = a->cos_part + (size_t)row * a->stride, *s = a->sin_part + (size_t)row * a->stride;
    int n_slow = a->n_pairs - a->n_fast;
    vf sum[KV_CENTER_TERMS];
    for (int p = 0; p < a->n_fast; p++) {
        fast[2 * p] = c[p] * a->cos_t0[p] + s[p] * a->sin_t0[p];
        fast[2 * p + 1] = s[p] * a->cos_t0[p] - c[p] * a->sin_t0[p];
    }
    for (int m = 0; m < KV_CENTER_TERMS; m++) sum[m] = vf_zero();
    for (int p = 0; p < n_slow; p += LANES) {
        int at = a->n_fast + p, n = n_slow - p;
        vf u = load_up_to(c + at, n), v = load_up_to(s + at, n);
        vf cos_t0 = load_up_to(a->cos_t0 + at, n), sin_t0 = load_up_to(a->sin_t0 + at, n);
        vf x = vf_fma(u, cos_t0, vf_mul(v, sin_t0)), y = vf_sub(vf_mul(v, cos_t0), vf_mul(u, sin_t0));
        for (int m = 0; m < KV_CENTER_TERMS; m++)
            sum[m] = vf_fma(m % 2 ? y : x, load_up_to(a->slow + m * n_slow + p, n), sum[m]);
    }
    for (int m = 0; m < KV_CENTER_TERMS; m++) terms[m] = vf_sum(sum[m]);
}

/* Sums of n functions of 64 tokens onto the scores. */
KV_INLINE void add_functions(const float *coefficients, const float *functions, int n, int rows, float *score)
{
    for (int t = 0; t < KV_TILE; t += GROUPS * LANES) {
        vf acc[BLOCK_ROWS][GROUPS];
        const float *f = functions + t;
        for (int r = 0; r < rows; r++)
            for (int g = 0; g < GROUPS; g++) acc[r][g] = vf_load(score + r * KV_TILE + t + g * LANES);
        for (int i = 0; i < n; i++, f += KV_TILE)
            for (int r = 0; r < rows; r++) {
                vf y = vf_set(coefficients[r * CENTER_FUNCTIONS + i]);
                for (int g = 0; g < GROUPS; g++) acc[r][g] = vf_fma(y, vf_load(f + g * LANES), acc[r][g]);
            }
        for (int r = 0; r < rows; r++)
            for (int g = 0; g < GROUPS; g++) vf_store(score + r * KV_TILE + t + g * LANES, acc[r][g]);
    }
}

KV_INLINE void center_rows(const struct kv_qk_center *a, int rows, int row)
{
    float fast[BLOCK_ROWS * CENTER_FUNCTIONS], terms[BLOCK_ROWS * CENTER_FUNCTIONS];
    float *score = a->score + row * KV_TILE;
    for (int r = 0; r < rows; r++) {
        center_coefficients(a, row + r, fast + r * CENTER_FUNCTIONS, terms + r * CENTER_FUNCTIONS);
        /* T_0 = 1, and so is the share of the channels that do not turn */
        terms[r * CENTER_FUNCTIONS] += a->still[row + r];
    }
    add_functions(terms, a->polynomials, KV_CENTER_TERMS, rows, score);
    add_functions(fast, a->fast, 2 * a->n_fast, rows, score);
}

static void qk_center(const struct kv_qk_center *a)
{
    FOR_ROW_BLOCKS(a->n_rows, center_rows(a, n, row))
}

/* -------------------------------------------------------------------------------------------------- softmax -- */

static void attn_soften(const struct kv_soften *a)
{
    for (int i = 0; i < a->n_rows; i++) {
        float *score = a->score + i * KV_TILE;
        bool whole = a->first[i] == 0 && a->last[i] == KV_TILE;
        a->keep[i] = whole ? soften_page(score, &a->max[i], &a->sum[i])
                           : soften(score, 0, KV_TILE, a->first[i], a->last[i], &a->max[i], &a->sum[i]);
    }
}

static void weigh_row(const float *p, const float *scale, const float *min, bool wide, float middle, void *digits,
                      float *delta_out, float *bias_out)
{
    int largest = wide ? KV_P_WIDE : KV_P_NARROW;
    vf w[PAGE_VECTORS], max = vf_zero(), minima = vf_zero(), rest = vf_zero();
#pragma GCC unroll 8
    for (int i = 0; i < PAGE_VECTORS; i++) {
        vf x = vf_load(p + i * LANES);
        w[i] = vf_mul(x, vf_load(scale + i * LANES));
        max = vf_max(w[i], max);
        minima = vf_fma(x, vf_load(min + i * LANES), minima);
    }
    float m = vf_largest(max), delta = m / (float)largest;
    vf inverse = vf_set(kv_digits_per_unit(largest, m));
#pragma GCC unroll 8
    for (int i = 0; i < PAGE_VECTORS; i++) {
        vf r = vf_round(vf_mul(w[i], inverse));
        rest = vf_add(rest, vf_fnma(r, vf_set(delta), w[i]));
        if (wide) vi_store_wide_part((int16_t *)digits + i * LANES, vf_to_int(r), LANES);
        else vi_store_ubytes((uint8_t *)digits + i * LANES, vf_to_int(r));
    }
    *delta_out = delta;
    *bias_out = vf_sum(vf_fma(rest, vf_set(middle), minima));
}

static void attn_weigh(const struct kv_weigh *a)
{
    bool wide = kv_values_are_wide(a->bits);
    float scale[KV_HEAD_DIM_MAX / 32 * KV_TILE], min[KV_HEAD_DIM_MAX / 32 * KV_TILE], middle = kv_codes_middle(a->bits);
    for (int i = 0; i < a->n_groups * KV_TILE; i += LANES) {
        int t = i % KV_TILE;
        vf x = vf_load_f16(a->scale + i), y = vf_load_f16(a->min + i);
        vf_store(scale + i, t + LANES <= a->n_tokens ? x : vf_in_range(x, t, 0, a->n_tokens, 0.0f));
        vf_store(min + i, t + LANES <= a->n_tokens ? y : vf_in_range(y, t, 0, a->n_tokens, 0.0f));
    }
    char *digits = a->digits;
    for (int row = 0, at = 0; row < a->n_rows; row++)
        for (int g = 0; g < a->n_groups; g++, at++, digits += KV_TILE * (wide ? 2 : 1))
            weigh_row(a->p + row * KV_TILE, scale + g * KV_TILE, min + g * KV_TILE, wide, middle, digits,
                      &a->delta[at], &a->bias[at]);
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
    if (columns_end < a->head_dim)
        FOR_ROW_BLOCKS(a->n_rows, pv_block(a, bits, n, row, 1, true, columns_end, 0, &ahead))
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
