/*
 * The softmax of attention in the vocabulary of an instruction set: exponentials of differences to a running
 * maximum.
 */
#include "kernels/row_blocks.h"
#include "kernels/rows4.h"

/* e^(y − n·ln2) for n = y / ln2, rounded. With r the remainder, |r| <= ln2 / 2, and ln2 in two parts so that
 * r is exact to 2^-32: e^r = 1 + r + r²·p(r) with p fitted for the least relative error, 3.1e-9. Rounding
 * makes it 8.5e-8 in all, measured over every float from -87.3 to -0.03. */
KV_INLINE vf exp_remainder(vf y, vf n)
{
    vf r = vf_fma(n, vf_set(-0x1.62e400p-1f), y);
    r = vf_fma(n, vf_set(-0x1.7f7d1cp-20f), r);
    vf p = vf_fma(vf_set(0x1.6a2352p-10f), r, vf_set(0x1.123a6cp-7f));
    p = vf_fma(p, r, vf_set(0x1.5558f4p-5f));
    p = vf_fma(p, r, vf_set(0x1.555490p-3f));
    p = vf_fma(p, r, vf_set(0x1.fffffcp-2f));
    p = vf_fma(p, vf_mul(r, r), r);
    return vf_add(p, vf_set(1.0f));
}

/* e^x for x <= 0; NaN stays, and far below it is 0. */
KV_INLINE vf exp_nonpositive(vf x)
{
    vf y = vf_max(vf_set(EXP_LOWEST), x), n = vf_round(vf_mul(y, vf_set(0x1.715476p+0f)));
    return exp_scale(exp_remainder(y, n), n, x);
}

/* The same for a whole page in view, 64 scores that stay in registers. Below EXP_LOWEST it gives e^EXP_LOWEST
 * (below 2^-125), which no sum notices. Adding 1.5·2^23 leaves n, rounded, in the low bits of the sum, from
 * where it is shifted into the exponent. */
KV_INLINE vf exp_in_page(vf x)
{
    const vf magic = vf_set(0x1.8p23f);
    vf y = vf_max(vf_set(EXP_LOWEST_NORMAL), x), t = vf_fma(y, vf_set(0x1.715476p+0f), magic),
       n = vf_sub(t, magic);
    return vf_add_exponent(exp_remainder(y, n), t);
}

#define PAGE_VECTORS (KV_TILE / LANES)

/* `rows` rows that see the whole page; what is one number a row is worked out for all of them at once.
 * to_zero: what is far below the maximum becomes 0 and not e^EXP_LOWEST. */
KV_INLINE void soften_rows(float *score, int rows, bool to_zero, float *max, float *sum, float *keep)
{
    vf top[BLOCK_ROWS], total[BLOCK_ROWS];
    for (int r = 0; r < rows; r++) {
        top[r] = vf_load(score + r * KV_TILE);
        top[r] = vf_max(top[r], vf_set(max[r]));
#pragma GCC unroll 8
        for (int i = 1; i < PAGE_VECTORS; i++)
            top[r] = vf_max(vf_load(score + r * KV_TILE + i * LANES), top[r]);
    }
    v4 old_max = v4_load_n(max, rows), new_max = rows_largest(top, rows), origin = v4_or_zero(new_max);
    v4 kept = v4_of(exp_nonpositive(vf_of(v4_sub(old_max, origin))));
    float shift[BLOCK_ROWS];
    v4_store(shift, origin);
    for (int r = 0; r < rows; r++) {
        vf by = vf_set(shift[r]);
        total[r] = vf_zero();
#pragma GCC unroll 8
        for (int i = 0; i < PAGE_VECTORS; i++) {
            float *s = score + r * KV_TILE + i * LANES;
            vf d = vf_sub(vf_load(s), by), e = to_zero ? exp_nonpositive(d) : exp_in_page(d);
            vf_store(s, e);
            total[r] = vf_add(total[r], e);
        }
    }
    v4_store_n(max, new_max, rows);
    v4_store_n(sum, v4_fma(v4_load_n(sum, rows), kept, rows_sum(total, rows)), rows);
    v4_store_n(keep, kept, rows);
}

/* Scores of tile tokens [begin, end) (multiples of LANES) to exponentials, 0 outside of [first, last). Moves
 * the query's maximum and returns the factor by which its sum and output shrink. 0 stands for a maximum of
 * −∞, so that no ∞ − ∞ arises; a NaN score is left out of the maximum but reaches the sum. */
static float soften(float *score, int begin, int end, int first, int last, float *max, float *sum)
{
    vf top = vf_set(*max);
    for (int t = begin; t < end; t += LANES) {
        vf s = vf_in_range(vf_load(score + t), t, first, last, -INFINITY);
        vf_store(score + t, s);
        top = vf_max(s, top);
    }
    float new_max = vf_largest(top), origin = new_max == -INFINITY ? 0.0f : new_max;
    vf total = vf_set(0.0f), shift = vf_set(origin);
    for (int t = begin; t < end; t += LANES) {
        vf e = exp_nonpositive(vf_sub(vf_load(score + t), shift));
        vf_store(score + t, e);
        total = vf_add(total, e);
    }
    float keep[LANES];
    vf_store(keep, exp_nonpositive(vf_set(*max - origin)));
    *max = new_max;
    *sum = *sum * keep[0] + vf_sum(total);
    return keep[0];
}
