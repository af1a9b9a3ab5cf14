/*
 * Matrix products over float32 activations: each row becomes float32 once, then meets up to 4 activations at
 * a time. Two sums per output, over even and odd vectors, in an order that depends on k alone. Error against
 * exact arithmetic: (k / (2 · LANES) + 6) · 2^-24 · Σ |w·x|.
 */
#define FLOAT_ACTS 4

static void codes_to_f32(const struct kv_row_scratch *s, int64_t k)
{
    for (int64_t i = 0; i < k; i += LANES) {
        int64_t g = i / KV_WEIGHT_GROUP;
        vf_store(s->w + i, vf_fma(vf_load_codes(s->code + i), vf_set(s->scale[g]), vf_set(s->min[g])));
    }
}

/* F16 or BF16 to float32 */
static void halves_to_f32(int format, const uint8_t *row, int64_t k, float *w)
{
    int64_t i = 0;
    for (; i + LANES <= k; i += LANES) {
        const uint16_t *h = (const void *)(row + 2 * i);
        vf_store(w + i, format == KV_FLOAT_F16 ? vf_load_f16(h) : vf_load_bf16(h));
    }
    kv_unpack_float(format, row + 2 * i, k - i, w + i);
}

/* y[a] = w·x[a] for `acts` (a constant) rows of x */
KV_INLINE void dot_acts(const float *w, const float *x, int64_t k, int acts, float *y)
{
    vf even[FLOAT_ACTS], odd[FLOAT_ACTS];
    for (int a = 0; a < acts; a++) even[a] = odd[a] = vf_zero();
    int64_t i = 0;
    for (; i + 2 * LANES <= k; i += 2 * LANES)
        for (int a = 0; a < acts; a++) {
            even[a] = vf_fma(vf_load(w + i), vf_load(x + a * k + i), even[a]);
            odd[a] = vf_fma(vf_load(w + i + LANES), vf_load(x + a * k + i + LANES), odd[a]);
        }
    for (; i < k; i += LANES)
        for (int a = 0; a < acts; a++) {
            int64_t n = k - i < LANES ? k - i : LANES;
            vf wv = n < LANES ? vf_load_n(w + i, n) : vf_load(w + i);
            vf xv = n < LANES ? vf_load_n(x + a * k + i, n) : vf_load(x + a * k + i);
            even[a] = vf_fma(wv, xv, even[a]);
        }
    for (int a = 0; a < acts; a++) y[a] = vf_sum(vf_add(even[a], odd[a]));
}

static void rows_times_f32(const struct kv_kernels *table, const struct kv_matmul *mm, int64_t row_begin,
                           int64_t row_end, void *scratch)
{
    struct kv_row_scratch s = kv_row_scratch_place(scratch, mm->k);
    for (int64_t r = row_begin; r < row_end; r++) {
        const uint8_t *row = mm->weights + (size_t)r * mm->row_bytes;
        const float *w = s.w;
        if (mm->code_format >= 0) {
            table->unpack[mm->code_format](row, mm->k, s.code, s.scale, s.min);
            codes_to_f32(&s, mm->k);
        } else if (mm->float_format == KV_FLOAT_F32) {
            w = (const void *)row; /* only ever loaded as unaligned vectors */
        } else {
            halves_to_f32(mm->float_format, row, mm->k, s.w);
        }
        for (int64_t j = 0; j < mm->n;) {
            float y[FLOAT_ACTS];
            int acts = mm->n - j >= FLOAT_ACTS ? FLOAT_ACTS : 1;
            if (acts == 1) dot_acts(w, mm->x_f32 + j * mm->k, mm->k, 1, y);
            else dot_acts(w, mm->x_f32 + j * mm->k, mm->k, FLOAT_ACTS, y);
            for (int a = 0; a < acts; a++, j++) mm->y[j * mm->ldy + r] = mm->bias ? y[a] + mm->bias[r] : y[a];
        }
    }
}

static void matmul_rows(const struct kv_kernels *table, const struct kv_matmul *mm, int64_t row_begin,
                        int64_t row_end, void *scratch)
{
    if (mm->x_int) rows_times_int(mm, row_begin, row_end, scratch);
    else rows_times_f32(table, mm, row_begin, row_end, scratch);
}
