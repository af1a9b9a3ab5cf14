/*
 * Attention over float tiles in the vocabulary of an instruction set (simd_avx2.h, simd_avx512.h), after
 * softmax.inc.h and half.inc.h. Its file adds
 *     WIDE     vectors side by side in a block of panel_multiply
 *
 * attn_tile is two small matrix products around a softmax. Both are panels C (rows, columns) = A·B in which a
 * block of ROWS queries shares every load of B, WIDE vectors at a time; ROWS · WIDE accumulators fill the
 * registers:
 *     S (queries, tokens)     = q (queries, channels) · kt (channels, tokens)
 *     out (queries, channels) = keep · out + P (queries, tokens) · v (tokens, channels)
 * Every element is summed in the order of the inner index, whatever the block: a query's result does not
 * depend on the queries beside it.
 */
#define ROWS 6

struct panel {
    const float *a, *b; /* (rows, lda), (n_inner, ldb) */
    float *c;           /* (rows, ldc)                 */
    size_t lda, ldb, ldc;
    int n_inner;
    const float *keep;  /* (rows): C = keep·C + A·B, or NULL: C = A·B */
};

/* `rows` and `wide` are constants at each call; n: columns of the last vector, LANES unless wide == 1. */
KV_INLINE void panel_block(const struct panel *p, int rows, int wide, int column, int n)
{
    vf acc[ROWS][WIDE];
    const float *b = p->b + column;
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < wide; w++)
            acc[r][w] = p->keep ? vf_mul(vf_set(p->keep[r]),
                                          vf_load_part(p->c + (size_t)r * p->ldc + column + w * LANES, n))
                                : vf_set(0.0f);
    for (int i = 0; i < p->n_inner; i++, b += p->ldb) {
        vf x[WIDE];
        for (int w = 0; w < wide; w++) x[w] = vf_load_part(b + w * LANES, n);
        for (int r = 0; r < rows; r++) {
            vf y = vf_set(p->a[(size_t)r * p->lda + (size_t)i]);
            for (int w = 0; w < wide; w++) acc[r][w] = vf_fma(y, x[w], acc[r][w]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < wide; w++)
            vf_store_part(p->c + (size_t)r * p->ldc + column + w * LANES, acc[r][w], n);
}

KV_INLINE void panel_rows(const struct panel *p, int rows, int n_columns)
{
    int column = 0;
    for (; column + WIDE * LANES <= n_columns; column += WIDE * LANES)
        panel_block(p, rows, WIDE, column, LANES);
    for (; column < n_columns; column += LANES)
        panel_block(p, rows, 1, column, n_columns - column < LANES ? n_columns - column : LANES);
}

static void panel_multiply(const struct panel *p, int rows, int n_columns)
{
    switch (rows) {
    case 1: panel_rows(p, 1, n_columns); break;
    case 2: panel_rows(p, 2, n_columns); break;
    case 3: panel_rows(p, 3, n_columns); break;
    case 4: panel_rows(p, 4, n_columns); break;
    case 5: panel_rows(p, 5, n_columns); break;
    default: panel_rows(p, ROWS, n_columns);
    }
}

/* Of rows that see the whole tile; what a row gets does not depend on the others. */
static void soften_whole(float *score, int n_rows, float *max, float *sum, float *keep)
{
    FOR_ROW_BLOCKS(n_rows, soften_rows(score + row * KV_TILE, n, true, max + row, sum + row, keep + row))
}

/* Queries [i, i + rows), each of which sees something. */
static void attend_block(const struct kv_attn_tile *a, int i, int rows)
{
    int lo = KV_TILE, hi = 0;
    for (int r = i; r < i + rows; r++) {
        if (a->first[r] < lo) lo = a->first[r];
        if (a->last[r] > hi) hi = a->last[r];
    }
    int begin = lo / LANES * LANES, end = (hi + LANES - 1) / LANES * LANES;
    size_t head_dim = (size_t)a->head_dim;
    float *score = a->score + (size_t)i * KV_TILE, keep[ROWS];
    const struct panel qk = { a->q + (size_t)i * head_dim, a->kt + begin, score + begin,
                              head_dim, KV_TILE, KV_TILE, a->head_dim, NULL };
    panel_multiply(&qk, rows, end - begin);
    for (int r = 0; r < rows;) {
        int whole = 0; /* rows that see the whole tile, in a row */
        while (r + whole < rows && a->first[i + r + whole] == 0 && a->last[i + r + whole] == KV_TILE) whole++;
        if (whole) soften_whole(score + r * KV_TILE, whole, &a->max[i + r], &a->sum[i + r], keep + r);
        else
            keep[r] = soften(score + r * KV_TILE, begin, end, a->first[i + r], a->last[i + r], &a->max[i + r],
                             &a->sum[i + r]);
        r += whole ? whole : 1;
    }
    const struct panel pv = { score + lo, a->v + (size_t)lo * head_dim, a->out + (size_t)i * head_dim,
                              KV_TILE, head_dim, head_dim, hi - lo, keep };
    panel_multiply(&pv, rows, a->head_dim);
}

static void attn_tile(const struct kv_attn_tile *tile)
{
    for (int i = 0; i < tile->n_q;) {
        int n = 0; /* queries in a row that see something: the others are not touched */
        while (i + n < tile->n_q && tile->first[i + n] < tile->last[i + n]) n++;
        for (int n_blocks = (n + ROWS - 1) / ROWS; n_blocks > 0; n_blocks--) {
            /* 7 as 4 + 3: a block of one row waits for its own sums. */
            int rows = (n + n_blocks - 1) / n_blocks;
            attend_block(tile, i, rows);
            i += rows;
            n -= rows;
        }
        i += i < tile->n_q; /* the one that sees nothing, if that is what ended the row */
    }
}

/* Two levels of butterflies, h and 2h, in one pass over a column of vectors; the additions and their order
 * are the reference's, so the bits are too. */
KV_INLINE void butterflies_4(float *x, int head_dim, int h, vf norm)
{
    for (int c = 0; c < head_dim; c++) {
        if (c & h || c & (2 * h)) continue;
        float *p0 = x + c * KV_TILE, *p1 = p0 + h * KV_TILE, *p2 = p1 + h * KV_TILE, *p3 = p2 + h * KV_TILE;
        vf a = vf_load(p0), b = vf_load(p1), d = vf_load(p2), e = vf_load(p3);
        vf s0 = vf_add(a, b), d0 = vf_sub(a, b), s1 = vf_add(d, e), d1 = vf_sub(d, e);
        vf_store(p0, vf_mul(norm, vf_add(s0, s1)));
        vf_store(p1, vf_mul(norm, vf_add(d0, d1)));
        vf_store(p2, vf_mul(norm, vf_sub(s0, s1)));
        vf_store(p3, vf_mul(norm, vf_sub(d0, d1)));
    }
}

KV_INLINE void butterflies_2(float *x, int head_dim, int h, vf norm)
{
    for (int c = 0; c < head_dim; c++) {
        if (c & h) continue;
        float *p0 = x + c * KV_TILE, *p1 = p0 + h * KV_TILE;
        vf a = vf_load(p0), b = vf_load(p1);
        vf_store(p0, vf_mul(norm, vf_add(a, b)));
        vf_store(p1, vf_mul(norm, vf_sub(a, b)));
    }
}

static void key_tile_hadamard(float *kt, int head_dim)
{
    int block = head_dim & -head_dim; /* the largest power of two that divides it */
    float norm = 1.0f / sqrtf((float)block);
    for (int t = 0; t < KV_TILE; t += LANES) {
        int h = 1;
        for (; 2 * h < block; h *= 4) butterflies_4(kt + t, head_dim, h, vf_set(4 * h < block ? 1.0f : norm));
        if (h < block) butterflies_2(kt + t, head_dim, h, vf_set(norm));
    }
}

static void fill_attention(struct kv_kernels *table)
{
    table->attn_tile = attn_tile;
    table->qk_half = qk_half;
    table->pv_half = pv_half;
    table->key_tile_hadamard = key_tile_hadamard;
}
