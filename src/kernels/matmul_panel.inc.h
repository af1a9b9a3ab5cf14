/*
 * Matrix products over int8 activations, in the vocabulary of an instruction set.
 *
 * Lanes are rows. Two panels of LANES rows are unpacked, a slab of up to 576 columns at a time, and turned so that a vector
 * holds 4 consecutive codes of each row; one broadcast of 4 activations then feeds LANES dot products and no horizontal
 * sum is ever needed:
 *
 *     rows in file format ──unpack──► code[row][576] ──transpose words──► panel.code[144][row]·4
 *                                     scale[row][.]  ─────────────────►  panel.scale[group][row]   min likewise
 *
 *     dot[row]  = Σ over the group of code·q                              (int32, exact)
 *     y[row]    = fma(min, sum, fma(float(dot), scale·xs, y[row]))        group after group, slab after slab
 *
 * Every output is summed in this one order whatever n, the row range or the neighbours are, so decoding (n = 1) and
 * prefill (n = 512) are bit-equal. Between slabs the sums rest in y. With n = 1 the cost is the unpacking and turning, some 20
 * instructions per row and 64 columns, which is below the time that memory takes to deliver them; with many activations both
 * are shared by all of them. Rejected: lanes along the columns of one row, which needs no turning but pays a conversion and
 * two multiplications per row instead of per LANES rows, and loses by a factor 2 to 3 in prefill.
 */

#define PANELS (KV_PANEL_ROWS / LANES < 2 ? 1 : 2)
#define GROUPS_MAX ((KV_SLAB / KV_WEIGHT_GROUP + LANES - 1) / LANES * LANES)

struct panel {
    _Alignas(KV_ALIGN) uint8_t code[KV_SLAB * LANES]; /* (KV_SLAB / 4, LANES, 4)       */
    float scale[GROUPS_MAX * LANES];                  /* (groups, LANES)               */
    float min[GROUPS_MAX * LANES];
};

/* Rows of one panel before they are turned. The margins let the turning read whole vectors past a short slab. */
struct rows {
    _Alignas(KV_ALIGN) uint8_t code[LANES][KV_SLAB + KV_ALIGN];
    uint32_t scale[LANES][GROUPS_MAX + LANES];
    uint32_t min[LANES][GROUPS_MAX + LANES];
};

struct work {
    struct panel panel[PANELS];
    struct rows rows;
};
_Static_assert(sizeof(struct work) <= KV_PANEL_SCRATCH_BYTES, "kv_matmul_scratch_bytes promises too little");

/* Every unpacker of a format walks the rows of a panel and asks for the bytes that will be wanted next, `ahead` of the ones
 * it reads: rows are too short for the hardware to foresee the jump from one to the next. */
struct unpack_call {
    const uint8_t *data;
    size_t row_bytes;
    ptrdiff_t ahead;
    int n_rows, n_codes;
    struct rows *rows;
};

#define ROWS(name, block_codes, block_bytes, group)                                                          \
    static void rows_##name(const struct unpack_call *c)                                                     \
    {                                                                                                        \
        for (int r = 0; r < c->n_rows; r++) {                                                                \
            const uint8_t *b = c->data + (size_t)r * c->row_bytes;                                           \
            uint32_t *scale = c->rows->scale[r], *min = c->rows->min[r];                                     \
            uint8_t *code = c->rows->code[r], *end = code + c->n_codes;                                      \
            for (; code < end; code += (block_codes), b += (block_bytes)) {                                  \
                for (int i = 0; i < (block_bytes); i += 64)                                                  \
                    __builtin_prefetch((const void *)((uintptr_t)(b + i) + (uintptr_t)c->ahead));            \
                block_##name(b, code, scale, min);                                                           \
                scale += (block_codes) / (group);                                                            \
                min += (block_codes) / (group);                                                              \
            }                                                                                                \
        }                                                                                                    \
    }
ROWS(q8_0, 32, 34, 32)
ROWS(q4_0, 32, 18, 32)
ROWS(q4_1, 32, 20, 32)
ROWS(q5_0, 32, 22, 32)
ROWS(q5_1, 32, 24, 32)
ROWS(q4_k, 256, 144, 32)
ROWS(q5_k, 256, 176, 32)
ROWS(q6_k, 256, 210, 16)
#undef ROWS

/* How a format's rows are unpacked. A word of `scale` holds: */
enum scale_kind {
    SCALE_FLOAT,     /* a float, and `min` another                         */
    SCALE_HALF_PAIR, /* scale (low half) and minimum (high half) in float16 */
    SCALE_HALF       /* the scale in float16; minimum = min_factor · scale  */
};
struct format {
    void (*unpack)(const struct unpack_call *c); /* NULL: row by row with the table's function */
    int block; /* codes that must stay together */
    int group; /* codes per scale: 16 or 32     */
    enum scale_kind kind;
    float min_factor;
    bool wide; /* codes above 127 occur         */
};
static const struct format formats[KV_CODES_COUNT] = {
    [KV_CODES_Q8_0] = { rows_q8_0, 32, 32, SCALE_HALF, -128.0f, true },
    [KV_CODES_Q4_0] = { rows_q4_0, 32, 32, SCALE_HALF, -8.0f, false },
    [KV_CODES_Q4_1] = { rows_q4_1, 32, 32, SCALE_HALF_PAIR, 0.0f, false },
    [KV_CODES_Q5_0] = { rows_q5_0, 32, 32, SCALE_HALF, -16.0f, false },
    [KV_CODES_Q5_1] = { rows_q5_1, 32, 32, SCALE_HALF_PAIR, 0.0f, false },
    [KV_CODES_Q4_K] = { rows_q4_k, 256, 32, SCALE_FLOAT, 0.0f, false },
    [KV_CODES_Q5_K] = { rows_q5_k, 256, 32, SCALE_FLOAT, 0.0f, false },
    [KV_CODES_Q6_K] = { rows_q6_k, 256, 16, SCALE_FLOAT, 0.0f, false },
    [KV_CODES_Q2_K] = { NULL, 256, 16, SCALE_FLOAT, 0.0f, false },
    [KV_CODES_Q3_K] = { NULL, 256, 16, SCALE_FLOAT, 0.0f, false },
    [KV_CODES_IQ4_NL] = { NULL, 32, 16, SCALE_FLOAT, 0.0f, true },
    [KV_CODES_IQ4_XS] = { NULL, 256, 16, SCALE_FLOAT, 0.0f, true },
};

/* Columns of a slab: the row in equal parts of whole blocks, none above KV_SLAB. */
static int slab_columns(const struct format *f, int64_t k)
{
    int64_t n_slabs = (k + KV_SLAB - 1) / KV_SLAB, n_blocks = (k + f->block - 1) / f->block;
    int64_t most = KV_SLAB / f->block, blocks = (n_blocks + n_slabs - 1) / n_slabs;
    return (int)(f->block * (blocks < most ? blocks : most));
}

/* LANES rows of n_words words, `stride` words apart, to n_words vectors (rounded up to a multiple of LANES). */
KV_INLINE void turn(const void *rows, size_t stride, int n_words, void *columns)
{
    const char *in = rows;
    char *out = columns;
    for (int w = 0; w < n_words; w += LANES) {
        vi v[LANES];
        for (int r = 0; r < LANES; r++) v[r] = vi_load(in + ((size_t)r * stride + (size_t)w) * 4);
        vi_transpose(v);
        for (int i = 0; i < LANES; i++) vi_store(out + (size_t)(w + i) * sizeof(vi), v[i]);
    }
}

/* Half-precision scales, already turned, to floats. */
static void convert_scales(struct panel *p, const struct format *f, int n_groups)
{
    vf factor = vf_set(f->min_factor);
    for (int g = 0; g < n_groups; g++) {
        vi word = vi_load(p->scale + g * LANES);
        vf scale = vf_low_half(word);
        vf min = f->kind == SCALE_HALF ? vf_mul(scale, factor) : vf_high_half(word);
        vf_store(p->scale + g * LANES, scale);
        vf_store(p->min + g * LANES, min);
    }
}

/* One slab of LANES rows or fewer; what the other lanes hold does not matter. */
static void fill_panel(struct panel *p, const struct unpack_call *c, const struct kv_kernels *table, int code_format)
{
    const struct format *f = &formats[code_format];
    struct rows *rows = c->rows;
    int n_groups = c->n_codes / f->group;
    if (f->unpack) f->unpack(c);
    for (int r = 0; r < c->n_rows && !f->unpack; r++)
        table->unpack[code_format](c->data + (size_t)r * c->row_bytes, c->n_codes, rows->code[r], (float *)rows->scale[r],
                                   (float *)rows->min[r]);
    turn(rows->code, sizeof rows->code[0] / 4, c->n_codes / 4, p->code);
    turn(rows->scale, sizeof rows->scale[0] / 4, n_groups, p->scale);
    if (f->kind == SCALE_FLOAT) turn(rows->min, sizeof rows->min[0] / 4, n_groups, p->min);
    else convert_scales(p, f, n_groups);
}

/* Two panels (or one) times a few activations over one slab. */
struct tile {
    const struct panel *panel;
    const int8_t *q;         /* (n, k), at the slab                                       */
    const float *xs, *sum;   /* (n, k / 32), (n, k / 16), at the slab                     */
    int64_t k;
    int n_codes;
    float *y;                /* (n, ldy), at the first row                                */
    int64_t ldy, n_rows;     /* n_rows: of both panels that are real                      */
    const float *bias;       /* at the first row, NULL but in the last slab               */
    bool first_slab;
};

KV_INLINE vf load_rows(const float *p, int64_t n) { return n >= LANES ? vf_load(p) : vf_load_n(p, n); }

/* panels, acts, group and wide are constants at every call: the arrays become registers. */
KV_INLINE void tile_run(const struct tile *t, int panels, int acts, int group, bool wide)
{
    vf acc[PANELS][ACTS_MAX];
    for (int p = 0; p < panels; p++)
        for (int a = 0; a < acts; a++)
            acc[p][a] = t->first_slab ? vf_zero() : load_rows(t->y + a * t->ldy + p * LANES, t->n_rows - p * LANES);

    for (int g = 0; g < t->n_codes / group; g++) {
        vi dot[PANELS][ACTS_MAX];
        for (int p = 0; p < panels; p++)
            for (int a = 0; a < acts; a++) dot[p][a] = vi_zero();
        for (int i = g * group; i < (g + 1) * group; i += 4) {
            vi code[PANELS];
            for (int p = 0; p < panels; p++) code[p] = vi_load(t->panel[p].code + i * LANES);
            for (int a = 0; a < acts; a++) {
                vi x = vi_set4(t->q + a * t->k + i);
                for (int p = 0; p < panels; p++) dot[p][a] = vi_dot4(dot[p][a], code[p], x, wide);
            }
        }
        for (int a = 0; a < acts; a++) {
            const float *s = t->sum + a * (t->k / KV_WEIGHT_GROUP) + g * group / KV_WEIGHT_GROUP;
            vf xs = vf_set(t->xs[a * (t->k / KV_ACT_BLOCK) + g * group / KV_ACT_BLOCK]);
            vf sum = vf_set(group == KV_WEIGHT_GROUP ? s[0] : s[0] + s[1]);
            for (int p = 0; p < panels; p++) {
                vf scale = vf_mul(vf_load(t->panel[p].scale + g * LANES), xs);
                acc[p][a] = vf_fma(vf_from_int(dot[p][a]), scale, acc[p][a]);
                acc[p][a] = vf_fma(vf_load(t->panel[p].min + g * LANES), sum, acc[p][a]);
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

KV_INLINE void tile_shapes(const struct tile *t, const struct format *f, int panels, int acts)
{
    if (f->group == 32 && !f->wide) tile_run(t, panels, acts, 32, false);
    else if (f->group == 32) tile_run(t, panels, acts, 32, true);
    else if (!f->wide) tile_run(t, panels, acts, 16, false);
    else tile_run(t, panels, acts, 16, true);
}

static void tile_many(const struct tile *t, const struct format *f, int panels)
{
    if (panels == 1) tile_shapes(t, f, 1, ACTS_MAX);
    else tile_shapes(t, f, PANELS, ACTS_MAX);
}

static void tile_one(const struct tile *t, const struct format *f, int panels)
{
    if (panels == 1) tile_shapes(t, f, 1, 1);
    else tile_shapes(t, f, PANELS, 1);
}

static void slab_times_acts(struct tile t, const struct format *f, int panels, int64_t n)
{
    while (n > 0) {
        int acts = n >= ACTS_MAX ? ACTS_MAX : 1;
        if (acts == 1) tile_one(&t, f, panels);
        else tile_many(&t, f, panels);
        t.q += acts * t.k;
        t.xs += acts * (t.k / KV_ACT_BLOCK);
        t.sum += acts * (t.k / KV_WEIGHT_GROUP);
        t.y += acts * t.ldy;
        n -= acts;
    }
}

/* Fills the panels of one slab of rows [row, row + n_rows). */
static void fill_panels(struct work *work, const struct kv_kernels *table, const struct kv_matmul *mm, int64_t row,
                        int64_t n_rows, int64_t slab, int n_codes)
{
    bool last = slab + n_codes >= mm->k;
    size_t offset = mm->row_bytes * (size_t)slab / (size_t)mm->k; /* exact: slabs are whole blocks */
    size_t slab_bytes = mm->row_bytes * (size_t)n_codes / (size_t)mm->k;
    for (int p = 0; p * LANES < n_rows; p++) {
        int64_t left = n_rows - p * LANES;
        struct unpack_call c = {
            .data = mm->weights + (size_t)(row + p * LANES) * mm->row_bytes + offset,
            .row_bytes = mm->row_bytes,
            .ahead = (ptrdiff_t)(last ? mm->row_bytes * (size_t)(PANELS * LANES) - offset : slab_bytes),
            .n_rows = (int)(left < LANES ? left : LANES),
            .n_codes = n_codes,
            .rows = &work->rows,
        };
        fill_panel(&work->panel[p], &c, table, mm->code_format);
    }
}

static void rows_times_i8(const struct kv_kernels *table, const struct kv_matmul *mm, int64_t row_begin, int64_t row_end,
                          struct work *work)
{
    const struct format *f = &formats[mm->code_format];
    const struct kv_act_i8 *x = mm->x_i8;
    int slab_codes = slab_columns(f, mm->k);
    for (int64_t row = row_begin; row < row_end; row += PANELS * LANES) {
        int64_t n_rows = row_end - row < PANELS * LANES ? row_end - row : PANELS * LANES;
        for (int64_t slab = 0; slab < mm->k; slab += slab_codes) {
            bool last = slab + slab_codes >= mm->k;
            int n_codes = (int)(last ? mm->k - slab : slab_codes);
            fill_panels(work, table, mm, row, n_rows, slab, n_codes);
            struct tile t = {
                .panel = work->panel,
                .q = x->q + slab,
                .xs = x->scale + slab / KV_ACT_BLOCK,
                .sum = x->sum + slab / KV_WEIGHT_GROUP,
                .k = mm->k,
                .n_codes = n_codes,
                .y = mm->y + row,
                .ldy = mm->ldy,
                .n_rows = n_rows,
                .bias = last && mm->bias ? mm->bias + row : NULL,
                .first_slab = slab == 0,
            };
            slab_times_acts(t, f, (int)((n_rows + LANES - 1) / LANES), mm->n);
        }
    }
}
