/*
 * What there is one number of for each row of a block, four numbers in a vector: sums and maxima across the
 * lanes of four rows take a third of the instructions of four separate ones, and no row waits for another.
 * After a simd_*.h, which has four_sums and four_largest.
 */
#ifndef KV_KERNELS_ROWS4_H
#define KV_KERNELS_ROWS4_H

#include <math.h>

#include "kernels/row_blocks.h"

#ifndef KV_V4 /* simd_neon.h has its own */
KV_INLINE v4 v4_zero(void) { return _mm_setzero_ps(); }
KV_INLINE v4 v4_set(float x) { return _mm_set1_ps(x); }
KV_INLINE void v4_store(float p[BLOCK_ROWS], v4 x) { _mm_storeu_ps(p, x); }
KV_INLINE v4 v4_add(v4 a, v4 b) { return _mm_add_ps(a, b); }
KV_INLINE v4 v4_sub(v4 a, v4 b) { return _mm_sub_ps(a, b); }
KV_INLINE v4 v4_mul(v4 a, v4 b) { return _mm_mul_ps(a, b); }
KV_INLINE v4 v4_div(v4 a, v4 b) { return _mm_div_ps(a, b); }
KV_INLINE v4 v4_fma(v4 a, v4 b, v4 c) { return _mm_fmadd_ps(a, b, c); }
KV_INLINE v4 v4_fnma(v4 a, v4 b, v4 c) { return _mm_fnmadd_ps(a, b, c); } /* c - a·b */

/* The first n of 4, a constant at each call; nothing beyond is touched. Not with a mask: what a masked store
 * has written cannot be loaded before it reaches the cache. */
KV_INLINE v4 v4_load_n(const float *p, int n)
{
    if (n == 4) return _mm_loadu_ps(p);
    if (n == 1) return _mm_load_ss(p);
    v4 x = _mm_castpd_ps(_mm_load_sd((const double *)(const void *)p));
    return n == 2 ? x : _mm_insert_ps(x, _mm_load_ss(p + 2), 0x20);
}
KV_INLINE void v4_store_n(float *p, v4 x, int n)
{
    if (n == 4) {
        _mm_storeu_ps(p, x);
        return;
    }
    if (n == 1) {
        _mm_store_ss(p, x);
        return;
    }
    _mm_store_sd((double *)(void *)p, _mm_castps_pd(x));
    if (n == 3) _mm_store_ss(p + 2, _mm_movehl_ps(x, x));
}

/* 0 for −∞ */
KV_INLINE v4 v4_or_zero(v4 x) { return _mm_and_ps(x, _mm_cmpneq_ps(x, v4_set(-INFINITY))); }
/* a > b ? x : 0 */
KV_INLINE v4 v4_where_larger(v4 a, v4 b, v4 x) { return _mm_and_ps(x, _mm_cmpgt_ps(a, b)); }
#endif

KV_INLINE v4 rows_sum(const vf *x, int rows)
{
    vf none = vf_zero();
    return four_sums(x[0], rows > 1 ? x[1] : none, rows > 2 ? x[2] : none, rows > 3 ? x[3] : none);
}
KV_INLINE v4 rows_largest(const vf *x, int rows)
{
    return four_largest(x[0], x[rows > 1 ? 1 : 0], x[rows > 2 ? 2 : 0], x[rows > 3 ? 3 : 0]);
}

/* kv_digits_per_unit of four maxima */
KV_INLINE v4 digits_per_unit(int largest, v4 m)
{
    return v4_where_larger(m, v4_set(0x1p-100f), v4_div(v4_set((float)largest), m));
}

#endif
