/*
 * The attention kernels that are the same in every instruction set, in terms of a vector of LANES floats. An
 * instruction set's file defines `vec` and the vec_ functions, then includes this.
 *
 * attn_tile is two small matrix products around a softmax. Both are panels C (rows, columns) = A·B in which a block of
 * ROWS queries shares every load of B, WIDE vectors at a time; ROWS · WIDE accumulators fill the registers:
 *     S (queries, tokens)    = q (queries, channels) · kt (channels, tokens)
 *     out (queries, channels) = keep · out + P (queries, tokens) · v (tokens, channels)
 * Every element is summed in the order of the inner index, whatever the block: a query's result does not depend on the
 * queries beside it.
 */
#define INLINE static inline __attribute__((always_inline))
#define ROWS 6

struct panel {
    const float *a, *b; /* (rows, lda), (n_inner, ldb) */
    float *c;           /* (rows, ldc)                 */
    size_t lda, ldb, ldc;
    int n_inner;
    const float *keep;  /* (rows): C = keep·C + A·B, or NULL: C = A·B */
};

/* `rows` and `wide` are constants at each call; n: columns of the last vector, LANES unless wide == 1. */
INLINE void panel_block(const struct panel *p, int rows, int wide, int column, int n)
{
    vec acc[ROWS][WIDE];
    const float *b = p->b + column;
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < wide; w++)
            acc[r][w] = p->keep ? vec_mul(vec_set(p->keep[r]),
                                          vec_load_part(p->c + (size_t)r * p->ldc + column + w * LANES, n))
                                : vec_set(0.0f);
    for (int i = 0; i < p->n_inner; i++, b += p->ldb) {
        vec x[WIDE];
        for (int w = 0; w < wide; w++) x[w] = vec_load_part(b + w * LANES, n);
        for (int r = 0; r < rows; r++) {
            vec y = vec_set(p->a[(size_t)r * p->lda + (size_t)i]);
            for (int w = 0; w < wide; w++) acc[r][w] = vec_fma(y, x[w], acc[r][w]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < wide; w++)
            vec_store_part(p->c + (size_t)r * p->ldc + column + w * LANES, n, acc[r][w]);
}

INLINE void panel_rows(const struct panel *p, int rows, int n_columns)
{
    int column = 0;
    for (; column + WIDE * LANES <= n_columns; column += WIDE * LANES) panel_block(p, rows, WIDE, column, LANES);
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

/* Scores of tile tokens [begin, end) (multiples of LANES) to exponentials, 0 outside of [first, last). Moves the
 * query's maximum and returns the factor by which its sum and output shrink. 0 stands for a maximum of −∞, so that no
 * ∞ − ∞ arises; a NaN score is left out of the maximum but reaches the sum. */
static float soften(float *score, int begin, int end, int first, int last, float *max, float *sum)
{
    vec top = vec_set(*max);
    for (int t = begin; t < end; t += LANES) {
        vec s = vec_in_range(vec_load(score + t), t, first, last, -INFINITY);
        vec_store(score + t, s);
        top = vec_max(s, top);
    }
    float new_max = vec_reduce_max(top), origin = new_max == -INFINITY ? 0.0f : new_max;
    vec total = vec_set(0.0f), shift = vec_set(origin);
    for (int t = begin; t < end; t += LANES) {
        vec e = vec_exp(vec_sub(vec_load(score + t), shift));
        vec_store(score + t, e);
        total = vec_add(total, e);
    }
    float keep = expf(*max - origin);
    *max = new_max;
    *sum = *sum * keep + vec_reduce_add(total);
    return keep;
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
    for (int r = 0; r < rows; r++)
        keep[r] = soften(score + r * KV_TILE, begin, end, a->first[i + r], a->last[i + r], &a->max[i + r],
                         &a->sum[i + r]);
    const struct panel pv = { score + lo, a->v + (size_t)lo * head_dim, a->out + (size_t)i * head_dim,
                              KV_TILE, head_dim, head_dim, hi - lo, keep };
    panel_multiply(&pv, rows, a->head_dim);
}

static void attn_tile_simd(const struct kv_attn_tile *tile)
{
    for (int i = 0; i < tile->n_q;) {
        int n = 0; /* queries in a row that see something: the others are not touched */
        while (i + n < tile->n_q && tile->first[i + n] < tile->last[i + n]) n++;
        for (int n_blocks = (n + ROWS - 1) / ROWS; n_blocks > 0; n_blocks--) {
            int rows = (n + n_blocks - 1) / n_blocks; /* 7 as 4 + 3: a block of one row waits for its own sums */
            attend_block(tile, i, rows);
            i += rows;
            n -= rows;
        }
        i += i < tile->n_q; /* the one that sees nothing, if that is what ended the row */
    }
}

/* Two levels of butterflies, h and 2h, in one pass over a column of vectors; the additions and their order are the
 * reference's, so the bits are too. */
INLINE void butterflies_4(float *x, int head_dim, int h, vec norm)
{
    for (int c = 0; c < head_dim; c++) {
        if (c & h || c & (2 * h)) continue;
        float *p0 = x + c * KV_TILE, *p1 = p0 + h * KV_TILE, *p2 = p1 + h * KV_TILE, *p3 = p2 + h * KV_TILE;
        vec a = vec_load(p0), b = vec_load(p1), d = vec_load(p2), e = vec_load(p3);
        vec s0 = vec_add(a, b), d0 = vec_sub(a, b), s1 = vec_add(d, e), d1 = vec_sub(d, e);
        vec_store(p0, vec_mul(norm, vec_add(s0, s1)));
        vec_store(p1, vec_mul(norm, vec_add(d0, d1)));
        vec_store(p2, vec_mul(norm, vec_sub(s0, s1)));
        vec_store(p3, vec_mul(norm, vec_sub(d0, d1)));
    }
}

INLINE void butterflies_2(float *x, int head_dim, int h, vec norm)
{
    for (int c = 0; c < head_dim; c++) {
        if (c & h) continue;
        float *p0 = x + c * KV_TILE, *p1 = p0 + h * KV_TILE;
        vec a = vec_load(p0), b = vec_load(p1);
        vec_store(p0, vec_mul(norm, vec_add(a, b)));
        vec_store(p1, vec_mul(norm, vec_sub(a, b)));
    }
}

static void key_tile_hadamard_simd(float *kt, int head_dim)
{
    int block = head_dim & -head_dim; /* the largest power of two that divides it */
    float norm = 1.0f / sqrtf((float)block);
    for (int t = 0; t < KV_TILE; t += LANES) {
        int h = 1;
        for (; 2 * h < block; h *= 4) butterflies_4(kt + t, head_dim, h, vec_set(4 * h < block ? 1.0f : norm));
        if (h < block) butterflies_2(kt + t, head_dim, h, vec_set(norm));
    }
}

/* x and y += (a, b) turned by the angle of (cos, sin); without FMA, to give the reference's bits. */
INLINE void add_turned(float *x, float *y, const float *a, const float *b, float cos_t0, float sin_t0, int n_tokens)
{
    vec c = vec_set(cos_t0), s = vec_set(sin_t0);
    for (int t = 0; t < n_tokens; t += LANES) {
        int n = n_tokens - t < LANES ? n_tokens - t : LANES;
        vec u = vec_load(a + t), w = vec_load(b + t);
        vec dx = vec_sub(vec_mul(u, c), vec_mul(w, s)), dy = vec_add(vec_mul(u, s), vec_mul(w, c));
        vec_store(x + t, vec_add(vec_load(x + t), vec_in_range(dx, 0, 0, n, 0.0f)));
        vec_store(y + t, vec_add(vec_load(y + t), vec_in_range(dy, 0, 0, n, 0.0f)));
    }
}

static void key_tile_add_center_simd(float *kt, const float *centers, const float *cos_t0, const float *sin_t0,
                                     int head_dim, int n_rot, bool neox, int n_tokens)
{
    for (int p = 0; p < n_rot / 2; p++) {
        int c0 = neox ? p : 2 * p, c1 = neox ? p + n_rot / 2 : 2 * p + 1;
        add_turned(kt + c0 * KV_TILE, kt + c1 * KV_TILE, centers + c0 * KV_TILE, centers + c1 * KV_TILE, cos_t0[p],
                   sin_t0[p], n_tokens);
    }
    for (int c = n_rot; c < head_dim; c++)
        for (int t = 0; t < n_tokens; t++) kt[c * KV_TILE + t] += centers[c * KV_TILE + t];
}
