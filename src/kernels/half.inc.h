/*
 * Attention over rows of 16 bits, converted as they are loaded: for the few query rows of decoding, where a
 * float tile would be written and read again for nothing. A block of BLOCK_ROWS query rows shares every
 * conversion; the row count is a constant, so arrays indexed by it are registers.
 */
#include "kernels/ahead.h"
#include "kernels/row_blocks.h"

#define HALF_WIDE (LANES == 16 ? 4 : 2)

/* Keys of a page, channel-major: lanes are tokens. */
KV_INLINE void qk_page_block(const struct kv_qk_half *a, int rows, int row, int token,
                             struct stride_ahead *ahead)
{
    vf acc[BLOCK_ROWS][HALF_WIDE];
    const uint16_t *k = a->k + token;
    const float *q = a->q + row * a->head_dim;
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < HALF_WIDE; w++) acc[r][w] = vf_zero();
    for (int c = 0; c < a->head_dim; c++, k += KV_TILE) {
        if (c % 4 == 0) ahead_step(ahead);
        vf x[HALF_WIDE];
        for (int w = 0; w < HALF_WIDE; w++) x[w] = vf_load_f16(k + w * LANES);
        for (int r = 0; r < rows; r++) {
            vf y = vf_set(q[r * a->head_dim + c]);
            for (int w = 0; w < HALF_WIDE; w++) acc[r][w] = vf_fma(y, x[w], acc[r][w]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < HALF_WIDE; w++)
            vf_store(a->score + (row + r) * KV_TILE + token + w * LANES, acc[r][w]);
}

/* Keys in rows: lanes are channels, summed at the end; two tokens at a time, so that additions do not wait
 * for each other. */
KV_INLINE void qk_row_block(const struct kv_qk_half *a, int rows, int row, int token, int tokens)
{
    vf acc[BLOCK_ROWS][2];
    const uint16_t *k = a->k + token * a->stride;
    const float *q = a->q + row * a->head_dim;
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < tokens; t++) acc[r][t] = vf_zero();
    for (int c = 0; c < a->head_dim; c += LANES) {
        int n = a->head_dim - c < LANES ? a->head_dim - c : LANES;
        vf x[2];
        for (int t = 0; t < tokens; t++) x[t] = vf_load_f16_part(k + t * a->stride + c, n);
        for (int r = 0; r < rows; r++) {
            vf y = vf_load_part(q + r * a->head_dim + c, n);
            for (int t = 0; t < tokens; t++) acc[r][t] = vf_fma(y, x[t], acc[r][t]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < tokens; t++) a->score[(row + r) * KV_TILE + token + t] = vf_sum(acc[r][t]);
}

KV_INLINE void qk_half_rows(const struct kv_qk_half *a, int rows, int row, struct stride_ahead *ahead)
{
    if (a->stride == 0) {
        for (int t = 0; t < a->n_tokens; t += HALF_WIDE * LANES) qk_page_block(a, rows, row, t, ahead);
        return;
    }
    int t = 0;
    for (; t + 2 <= a->n_tokens; t += 2) qk_row_block(a, rows, row, t, 2);
    if (t < a->n_tokens) qk_row_block(a, rows, row, t, 1);
}

/* n: channels of the last vector, LANES unless wide == 1 */
KV_INLINE void pv_half_block(const struct kv_pv_half *a, int rows, int row, int wide, int channel, int n,
                             struct stride_ahead *ahead)
{
    vf acc[BLOCK_ROWS][HALF_WIDE];
    const uint16_t *v = a->v + channel;
    const float *p = a->p + row * KV_TILE;
    float *out = a->out + row * a->head_dim + channel;
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < wide; w++)
            acc[r][w] = vf_mul(vf_set(a->keep[row + r]), vf_load_part(out + r * a->head_dim + w * LANES, n));
    for (int t = 0; t < a->n_tokens; t++, v += a->stride) {
        if (t % 4 == 0) ahead_step(ahead);
        vf x[HALF_WIDE];
        for (int w = 0; w < wide; w++) x[w] = vf_load_f16_part(v + w * LANES, n);
        for (int r = 0; r < rows; r++) {
            vf y = vf_set(p[r * KV_TILE + t]);
            for (int w = 0; w < wide; w++) acc[r][w] = vf_fma(y, x[w], acc[r][w]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < wide; w++) vf_store_part(out + r * a->head_dim + w * LANES, acc[r][w], n);
}

KV_INLINE void pv_half_rows(const struct kv_pv_half *a, int rows, int row, struct stride_ahead *ahead)
{
    int c = 0;
    for (; c + HALF_WIDE * LANES <= a->head_dim; c += HALF_WIDE * LANES)
        pv_half_block(a, rows, row, HALF_WIDE, c, LANES, ahead);
    for (; c < a->head_dim; c += LANES)
        pv_half_block(a, rows, row, 1, c, a->head_dim - c < LANES ? a->head_dim - c : LANES, ahead);
}

static void qk_half(const struct kv_qk_half *a)
{
    struct stride_ahead ahead = ahead_in_steps(&a->ahead, a->head_dim / 4 * (KV_TILE / (HALF_WIDE * LANES)));
    FOR_ROW_BLOCKS(a->n_rows, qk_half_rows(a, n, row, &ahead))
}

static void pv_half(const struct kv_pv_half *a)
{
    int n_wide = (a->head_dim + HALF_WIDE * LANES - 1) / (HALF_WIDE * LANES);
    struct stride_ahead ahead = ahead_in_steps(&a->ahead, (a->n_tokens + 3) / 4 * n_wide);
    FOR_ROW_BLOCKS(a->n_rows, pv_half_rows(a, n, row, &ahead))
}
