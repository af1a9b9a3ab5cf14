/*
 * Matrix products over integer activations of one or two digits, in the vocabulary of an instruction set.
 *
 * Lanes are rows. Panels of LANES rows are unpacked, a slab of up to 576 columns at a time
 * (panel_unpack.inc.h), so that a vector holds 4 consecutive codes of each row; one broadcast of 4 digits
 * then feeds LANES dot products and no horizontal sum is ever needed:
 *
 *     dot[row]  = Σ over the group of code·q, q = 128·high + low          (int32, exact)
 *     y[row]    = fma(min, sum, fma(float(dot), scale·xs, y[row]))        group after group, slab after slab
 *
 * Formats without minima, whose codes are 2^zero above the values, begin dot with −2^zero·Σq instead of
 * adding min·sum: a group of 32 then takes 10 of the multipliers' turns and not 11 (8 are dot products).
 * Mixed activations: the same with the high digits, then the low digits block by block (slab_times_low).
 *
 * Every output is summed in this one order whatever n, the row range or the neighbours are, so decoding
 * (n = 1) and prefill (n = 512) are bit-equal. Between slabs the sums rest in y. With n = 1 unpacking is most
 * of the work, and must take less time than memory needs to deliver the weights; with many activations all of
 * them share it.
 * Rejected: lanes along the columns of one row. It needs no turning but pays a conversion and two
 * multiplications per row instead of per LANES rows, and loses by a factor 2 to 3 in prefill.
 */

#define PANELS 2   /* that share each broadcast; ACTS_MAX is chosen for as many                 */
#define LOW_FEW (ACTS_MAX / 2) /* rows of a short list of low digits */
#define FEW_ACTS 2 /* up to as many, there are registers for two sums of each                   */
/* Turned weights are asked for so many bytes, two pages, before they are used: blocks of 256
 * columns are not read in order, and the hardware follows no stream across pages. One thread,
 * one activation, GB/s of weights:
 *             Q4_1  Q4_K  Q6_K  Q8_0
 *     file      22    19    19    24    rows turned at each use, the next rows asked for
 *     turned    27    15     7    30    left to the hardware
 *     0         28    24    22    27    the next slab, in step with this one
 *     8192      33    27    26    33                                                          */
#define AHEAD 8192

/* A slab of the widest format, Q8_0, has 576 / 32 · 34 bytes, 153 words; whole vectors of them, and one
 * more. */
#define RAW_WORDS 176

struct work {
    struct panel panel[PANELS];
    _Alignas(KV_ALIGN) uint8_t raw[RAW_WORDS * sizeof(vi)]; /* (words, LANES) */
};
_Static_assert(sizeof(struct work) <= KV_PANEL_SCRATCH_BYTES, "kv_matmul_scratch_bytes promises too little");

/* Columns of a slab: the row in equal parts of whole blocks, none above KV_SLAB. */
static int slab_columns(const struct format *f, int64_t k)
{
    int64_t n_slabs = (k + KV_SLAB - 1) / KV_SLAB, n_blocks = (k + f->block - 1) / f->block;
    int64_t most = KV_SLAB / f->block, blocks = (n_blocks + n_slabs - 1) / n_slabs;
    return (int)(f->block * (blocks < most ? blocks : most));
}

/* n_bytes of each of n_rows ≤ LANES rows as words of a panel; lanes beyond repeat the last row. While at it,
 * the same bytes of the next LANES rows are asked for: rows are too short for the hardware to foresee the
 * jump from one to the next. */
static void turn_words(const uint8_t *data, size_t row_bytes, int n_rows, size_t n_bytes, uint8_t *raw)
{
    uintptr_t ahead = (uintptr_t)data + row_bytes * LANES;
    const uint8_t *row[LANES];
    for (int r = 0; r < LANES; r++) row[r] = data + (size_t)(r < n_rows ? r : n_rows - 1) * row_bytes;
    for (size_t at = 0; at < n_bytes; at += sizeof(vi), raw += LANES * sizeof(vi)) {
        vi v[LANES];
        size_t left = n_bytes - at, n_words = left < sizeof(vi) ? (left + 3) / 4 : LANES;
        if (left >= sizeof(vi))
            for (int r = 0; r < LANES; r++) v[r] = vi_load(row[r] + at);
        else
            for (int r = 0; r < LANES; r++) v[r] = vi_load_bytes(row[r] + at, left);
        for (int r = 0; r < LANES; r++)
            __builtin_prefetch((const void *)(ahead + (size_t)r * row_bytes + at));
        vi_transpose(v);
        if (n_words == LANES)
            for (int i = 0; i < LANES; i++) vi_store(raw + (size_t)i * sizeof(vi), v[i]);
        else
            for (size_t i = 0; i < n_words; i++) vi_store(raw + i * sizeof(vi), v[i]);
    }
}

static void turn_rows(const uint8_t *rows, size_t row_bytes, int n_rows, int lanes, uint8_t *panel)
{
    (void)lanes;
    turn_words(rows, row_bytes, n_rows, row_bytes, panel);
}

/* Two panels (or one) times a few activations over one slab. */
struct tile {
    const struct panel *panel;
    const int8_t *digit[2];  /* (n, k) each, at the slab: the high or only one, then the low one or NULL */
    const float *xs, *sum;   /* (n, k / 32), (n, k / 16), at the slab                     */
    const int32_t *sum_q;    /* (n, k / 16), likewise                                     */
    int zero;                /* of the format                                             */
    int64_t k;
    int n_codes;
    float *y;                /* (n, ldy), at the first row                                */
    int64_t ldy, n_rows;     /* n_rows: of both panels that are real                      */
    const float *bias;       /* at the first row, NULL but in the last slab               */
    uintptr_t ahead;         /* turned weights that are asked for, group by group, or 0   */
    size_t ahead_stride;     /* from panel to panel                                       */
    int ahead_bytes;         /* of a group                                                */
    bool first_slab;
};

KV_INLINE vf load_rows(const float *p, int64_t n) { return n >= LANES ? vf_load(p) : vf_load_n(p, n); }

/* dot += Σ code·q of one group and digit. Unrolled further, gcc moves sums to memory. */
KV_INLINE void dot_digit(vi dot[PANELS][ACTS_MAX], const struct tile *t, const int8_t *digit, int column,
                         int panels, int acts, int group, bool wide)
{
#pragma GCC unroll 4
    for (int i = 0; i < group; i += 4) {
        vi code[PANELS];
        for (int p = 0; p < panels; p++) code[p] = vi_load(t->panel[p].code + (column + i) * LANES);
        for (int a = 0; a < acts; a++) {
            vi x = vi_set4(digit + a * t->k + column + i);
            for (int p = 0; p < panels; p++) dot[p][a] = vi_dot4(dot[p][a], code[p], x, wide);
        }
    }
}

/* −2^zero · Σq of a group, that of Σ (code − 2^zero)·q which needs no code; 0 with minima */
KV_INLINE vi zero_sum(const struct tile *t, const int32_t *sum_q, int group, bool minima)
{
    if (minima) return vi_zero();
    return vi_set(-((group == KV_WEIGHT_GROUP ? sum_q[0] : sum_q[0] + sum_q[1]) * (1 << t->zero)));
}

/* Σ code·q of one group. The digits follow each other in the same sums, which are shifted between them: a
 * second digit costs a second pass over the group's codes in the first-level cache, and no register. */
KV_INLINE void group_many(vi dot[PANELS][ACTS_MAX], const struct tile *t, int column, int panels, int acts,
                          int group, int digits, bool wide, bool minima)
{
    const int32_t *sum_q = t->sum_q + column / KV_WEIGHT_GROUP;
    for (int a = 0; a < acts; a++) {
        vi start = digits == 1 ? zero_sum(t, sum_q + a * (t->k / KV_WEIGHT_GROUP), group, minima) : vi_zero();
        for (int p = 0; p < panels; p++) dot[p][a] = start;
    }
    dot_digit(dot, t, t->digit[0], column, panels, acts, group, wide);
    if (digits == 1) return;
    for (int a = 0; a < acts; a++) {
        vi zero = zero_sum(t, sum_q + a * (t->k / KV_WEIGHT_GROUP), group, minima);
        for (int p = 0; p < panels; p++) {
            dot[p][a] = vi_shift_digit(dot[p][a]);
            if (!minima) dot[p][a] = vi_add(dot[p][a], zero);
        }
    }
    dot_digit(dot, t, t->digit[1], column, panels, acts, group, wide);
}

/* The same for few activations, which would wait for the one sum: as two that do not depend on each other, of
 * the digits or of every other step. */
KV_INLINE void group_few(vi dot[PANELS][ACTS_MAX], const struct tile *t, int column, int panels, int acts,
                         int group, int digits, bool wide, bool minima)
{
    vi second[PANELS][FEW_ACTS];
    bool two = digits == 2;
    for (int a = 0; a < acts; a++) {
        int64_t at = (a * t->k + column) / KV_WEIGHT_GROUP;
        vi start = zero_sum(t, t->sum_q + at, group, minima);
        for (int p = 0; p < panels; p++) {
            dot[p][a] = vi_zero();
            second[p][a] = start;
        }
    }
    for (int i = 0; i < group; i += 4) {
        vi code[PANELS];
        for (int p = 0; p < panels; p++) code[p] = vi_load(t->panel[p].code + (column + i) * LANES);
        for (int a = 0; a < acts; a++) {
            int64_t at = a * t->k + column + i;
            vi x = vi_set4(t->digit[0] + at), low = two ? vi_set4(t->digit[1] + at) : x;
            for (int p = 0; p < panels; p++) {
                if (two || i % 8 == 0) dot[p][a] = vi_dot4(dot[p][a], code[p], x, wide);
                if (two || i % 8) second[p][a] = vi_dot4(second[p][a], code[p], low, wide);
            }
        }
    }
    for (int p = 0; p < panels; p++)
        for (int a = 0; a < acts; a++)
            dot[p][a] = vi_add(two ? vi_shift_digit(dot[p][a]) : dot[p][a], second[p][a]);
}

/* All but t are constants at every call: the arrays become registers. */
KV_INLINE void tile_run(const struct tile *t, int panels, int acts, int group, int digits, bool wide,
                        bool minima)
{
    vf acc[PANELS][ACTS_MAX];
    for (int p = 0; p < panels; p++)
        for (int a = 0; a < acts; a++)
            acc[p][a] = t->first_slab ? vf_zero()
                                      : load_rows(t->y + a * t->ldy + p * LANES, t->n_rows - p * LANES);

    for (int g = 0; g < t->n_codes / group; g++) {
        vi dot[PANELS][ACTS_MAX];
        for (int p = 0; t->ahead && p < panels; p++)
            for (int i = g * t->ahead_bytes; i < (g + 1) * t->ahead_bytes; i += KV_ALIGN)
                __builtin_prefetch((const void *)(t->ahead + (size_t)p * t->ahead_stride + (size_t)i));
        if (acts < ACTS_MAX || (digits > 1 && acts <= FEW_ACTS))
            group_few(dot, t, g * group, panels, acts, group, digits, wide, minima);
        else
            group_many(dot, t, g * group, panels, acts, group, digits, wide, minima);
        for (int a = 0; a < acts; a++) {
            const float *s = t->sum + a * (t->k / KV_WEIGHT_GROUP) + g * group / KV_WEIGHT_GROUP;
            vf xs = vf_set(t->xs[a * (t->k / KV_ACT_BLOCK) + g * group / KV_ACT_BLOCK]);
            vf sum = vf_set(group == KV_WEIGHT_GROUP ? s[0] : s[0] + s[1]);
            for (int p = 0; p < panels; p++) {
                vf scale = vf_mul(vf_load(t->panel[p].scale + g * LANES), xs);
                acc[p][a] = vf_fma(vf_from_int(dot[p][a]), scale, acc[p][a]);
                if (minima) acc[p][a] = vf_fma(vf_load(t->panel[p].min + g * LANES), sum, acc[p][a]);
            }
        }
    }

    for (int p = 0; p < panels; p++) {
        int64_t n = t->n_rows - p * LANES;
        for (int a = 0; a < acts; a++) {
            float *y = t->y + a * t->ldy + p * LANES;
            vf out = t->bias ? vf_add(acc[p][a], load_rows(t->bias + p * LANES, n)) : acc[p][a];
            if (n >= LANES) vf_store(y, out);
            else vf_store_n(y, out, n);
        }
    }
}

KV_INLINE void tile_digits(const struct tile *t, int panels, int acts, int group, bool wide, bool minima)
{
    if (t->digit[1]) tile_run(t, panels, acts, group, 2, wide, minima);
    else tile_run(t, panels, acts, group, 1, wide, minima);
}

KV_INLINE void tile_shapes(const struct tile *t, const struct format *f, int panels, int acts)
{
    bool minima = f->zero < 0;
    if (f->wide) tile_digits(t, panels, acts, 32, true, false);
    else if (f->group == 32 && minima) tile_digits(t, panels, acts, 32, false, true);
    else if (f->group == 32) tile_digits(t, panels, acts, 32, false, false);
    else if (minima) tile_digits(t, panels, acts, 16, false, true);
    else tile_digits(t, panels, acts, 16, false, false);
}

static void tile_many(const struct tile *t, const struct format *f, int panels)
{
    if (panels == 1) tile_shapes(t, f, 1, ACTS_MAX);
    else tile_shapes(t, f, PANELS, ACTS_MAX);
}

static void tile_few(const struct tile *t, const struct format *f, int panels)
{
    if (panels == 1) tile_shapes(t, f, 1, FEW_ACTS);
    else tile_shapes(t, f, PANELS, FEW_ACTS);
}

static void tile_one(const struct tile *t, const struct format *f, int panels)
{
    if (panels == 1) tile_shapes(t, f, 1, 1);
    else tile_shapes(t, f, PANELS, 1);
}

static void slab_times_acts(struct tile t, const struct format *f, int panels, int64_t n)
{
    while (n > 0) {
        int acts = n >= ACTS_MAX ? ACTS_MAX : n >= FEW_ACTS ? FEW_ACTS : 1;
        if (acts == ACTS_MAX) tile_many(&t, f, panels);
        else if (acts == FEW_ACTS) tile_few(&t, f, panels);
        else tile_one(&t, f, panels);
        t.digit[0] += acts * t.k;
        if (t.digit[1]) t.digit[1] += acts * t.k;
        t.ahead = 0;
        t.xs += acts * (t.k / KV_ACT_BLOCK);
        t.sum += acts * (t.k / KV_WEIGHT_GROUP);
        t.sum_q += acts * (t.k / KV_WEIGHT_GROUP);
        t.y += acts * t.ldy;
        n -= acts;
    }
}

/* y += Σ code·low of a block of 32 columns, for `acts` rows of the list. */
KV_INLINE void low_run(const struct tile *t, const int32_t *row, int column, int panels, int acts, int group,
                       bool wide, bool minima)
{
    vf acc[PANELS][ACTS_MAX];
    for (int p = 0; p < panels; p++)
        for (int a = 0; a < acts; a++)
            acc[p][a] = load_rows(t->y + row[a] * t->ldy + p * LANES, t->n_rows - p * LANES);
    for (int at = column; at < column + KV_ACT_BLOCK; at += group) {
        vi dot[PANELS][ACTS_MAX];
        for (int a = 0; a < acts; a++) {
            vi start = zero_sum(t, t->sum_q + (row[a] * t->k + at) / KV_WEIGHT_GROUP, group, minima);
            for (int p = 0; p < panels; p++) dot[p][a] = start;
        }
#pragma GCC unroll 4
        for (int i = at; i < at + group; i += 4) {
            vi code[PANELS];
            for (int p = 0; p < panels; p++) code[p] = vi_load(t->panel[p].code + i * LANES);
            for (int a = 0; a < acts; a++) {
                vi x = vi_set4(t->digit[1] + row[a] * t->k + i);
                for (int p = 0; p < panels; p++) dot[p][a] = vi_dot4(dot[p][a], code[p], x, wide);
            }
        }
        for (int a = 0; a < acts; a++) {
            vf xs = vf_set(t->xs[(row[a] * t->k + column) / KV_ACT_BLOCK] * (1.0f / KV_ACT_DIGIT));
            for (int p = 0; p < panels; p++) {
                vf scale = vf_mul(vf_load(t->panel[p].scale + at / group * LANES), xs);
                acc[p][a] = vf_fma(vf_from_int(dot[p][a]), scale, acc[p][a]);
            }
        }
    }
    for (int p = 0; p < panels; p++)
        for (int a = 0; a < acts; a++) {
            float *y = t->y + row[a] * t->ldy + p * LANES;
            if (t->n_rows - p * LANES >= LANES) vf_store(y, acc[p][a]);
            else vf_store_n(y, acc[p][a], t->n_rows - p * LANES);
        }
}

KV_INLINE void low_shapes(const struct tile *t, const struct format *f, const int32_t *row, int column,
                          int panels, int acts)
{
    bool minima = f->zero < 0; /* their sums have both digits */
    if (f->wide) low_run(t, row, column, panels, acts, 32, true, false);
    else if (f->group == 32 && minima) low_run(t, row, column, panels, acts, 32, false, true);
    else if (f->group == 32) low_run(t, row, column, panels, acts, 32, false, false);
    else if (minima) low_run(t, row, column, panels, acts, 16, false, true);
    else low_run(t, row, column, panels, acts, 16, false, false);
}

/* 2 to ACTS_MAX rows; where they don't fill a tile, with the last one repeated,
 * whose result is then written more than once. */
static void low_many(const struct tile *t, const struct format *f, const int32_t *row, int n, int column)
{
    int32_t filled[ACTS_MAX];
    int acts = n <= LOW_FEW ? LOW_FEW : ACTS_MAX;
    for (int a = 0; n < acts && a < acts; a++) filled[a] = row[a < n ? a : n - 1];
    if (n < acts) row = filled;
    if (acts == ACTS_MAX) low_shapes(t, f, row, column, PANELS, ACTS_MAX);
    else low_shapes(t, f, row, column, PANELS, LOW_FEW);
}

static void low_one(const struct tile *t, const struct format *f, const int32_t *row, int column, int panels)
{
    if (panels == 1) low_shapes(t, f, row, column, 1, 1);
    else low_shapes(t, f, row, column, PANELS, 1);
}

/* The low digits of mixed rows in a slab, block by block: after the high ones, for every n. */
static void slab_times_low(const struct tile *t, const struct format *f, int panels,
                           const struct kv_act_int *x, int64_t slab)
{
    for (int column = 0; column < t->n_codes; column += KV_ACT_BLOCK) {
        const int32_t *first = x->low_first + (slab + column) / KV_ACT_BLOCK;
        int32_t i = first[0], left;
        for (; panels == PANELS && (left = first[1] - i) > 1; i += left < ACTS_MAX ? left : ACTS_MAX)
            low_many(t, f, x->low_row + i, left, column);
        for (; i < first[1]; i++) low_one(t, f, x->low_row + i, column, panels);
    }
}

static void add_bias(const struct kv_matmul *mm, int64_t row_begin, int64_t row_end)
{
    for (int64_t j = 0; j < mm->n; j++)
        for (int64_t row = row_begin; row < row_end; row += LANES) {
            float *y = mm->y + j * mm->ldy + row;
            vf out = vf_add(load_rows(y, row_end - row), load_rows(mm->bias + row, row_end - row));
            if (row_end - row >= LANES) vf_store(y, out);
            else vf_store_n(y, out, row_end - row);
        }
}

/* Where turned weights begin: of row `row`, a multiple of LANES, from a slab on. */
static size_t turned_offset(const struct kv_matmul *mm, int64_t row, int64_t slab)
{
    size_t in_row = mm->row_bytes * (size_t)slab / (size_t)mm->k; /* exact: slabs are whole blocks */
    return ((size_t)(row / LANES) * kv_turned_row_bytes(mm->row_bytes) + in_row) * LANES;
}

/* Where the weights lie that are to be asked for while those before (row, slab) are used: maybe beyond the
 * end, so a number and no pointer. */
static uintptr_t ahead_of(const struct kv_matmul *mm, int64_t row, int64_t slab)
{
    return (uintptr_t)mm->turned + turned_offset(mm, row, slab) + AHEAD;
}

/* The panels of one slab of rows [row, row + n_rows). */
static void fill_panels(struct work *work, const struct kv_matmul *mm, int64_t row, int64_t n_rows,
                        int64_t slab, int n_codes)
{
    const struct format *f = &formats[mm->code_format];
    size_t offset = mm->row_bytes * (size_t)slab / (size_t)mm->k; /* exact: slabs are whole blocks */
    size_t slab_bytes = mm->row_bytes * (size_t)n_codes / (size_t)mm->k;
    for (int p = 0; p * LANES < n_rows; p++) {
        int64_t left = n_rows - p * LANES;
        const uint8_t *raw = work->raw;
        if (mm->turned)
            raw = mm->turned + turned_offset(mm, row + p * LANES, slab);
        else
            turn_words(mm->weights + (size_t)(row + p * LANES) * mm->row_bytes + offset, mm->row_bytes,
                       (int)(left < LANES ? left : LANES), slab_bytes, work->raw);
        f->unpack(raw, n_codes, &work->panel[p]);
    }
}

/* Few activations: one panel at a time, whose rows' successors arrive while it is worked on (n = 1, one
 * thread, share of the read bandwidth: Q4_1 59 -> 67 %, Q5_0 45 -> 68 %, Q8_0 54 -> 67 %). Many: two panels
 * share each broadcast. */
static void rows_times_int(const struct kv_matmul *mm, int64_t row_begin, int64_t row_end, struct work *work)
{
    const struct format *f = &formats[mm->code_format];
    const struct kv_act_int *x = mm->x_int;
    bool mixed = x->two != NULL;
    int slab_codes = slab_columns(f, mm->k);
    int64_t step = mm->n < ACTS_MAX ? LANES : PANELS * LANES;
    for (int64_t row = row_begin; row < row_end; row += step) {
        int64_t n_rows = row_end - row < step ? row_end - row : step;
        for (int64_t slab = 0; slab < mm->k; slab += slab_codes) {
            bool last = slab + slab_codes >= mm->k;
            int n_codes = (int)(last ? mm->k - slab : slab_codes);
            fill_panels(work, mm, row, n_rows, slab, n_codes);
            size_t row_slab_bytes = mm->row_bytes * (size_t)n_codes / (size_t)mm->k;
            struct tile t = {
                .panel = work->panel,
                .digit = { x->high + slab, x->low && !mixed ? x->low + slab : NULL },
                .xs = x->scale + slab / KV_ACT_BLOCK,
                .sum = x->sum + slab / KV_WEIGHT_GROUP,
                .sum_q = x->sum_q + slab / KV_WEIGHT_GROUP,
                .zero = f->zero,
                .k = mm->k,
                .n_codes = n_codes,
                .y = mm->y + row,
                .ldy = mm->ldy,
                .n_rows = n_rows,
                .bias = last && mm->bias && !mixed ? mm->bias + row : NULL,
                .ahead = mm->turned ? ahead_of(mm, last ? row + step : row, last ? 0 : slab + n_codes) : 0,
                .ahead_stride = kv_turned_row_bytes(mm->row_bytes) * LANES,
                .ahead_bytes = (int)(row_slab_bytes * LANES / (size_t)(n_codes / f->group)),
                .first_slab = slab == 0,
            };
            int panels = (int)((n_rows + LANES - 1) / LANES);
            slab_times_acts(t, f, panels, mm->n);
            if (!mixed) continue;
            t.digit[1] = x->low + slab;
            t.sum_q = x->sum_low + slab / KV_WEIGHT_GROUP;
            slab_times_low(&t, f, panels, x, slab);
        }
        if (mixed && mm->bias) add_bias(mm, row, row + n_rows);
    }
}
