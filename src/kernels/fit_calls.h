/*
 * Grids that follow the distribution of a group instead of its ends (docs/cache.md, "How codes are chosen").
 *
 * Attention sums over many tokens, so what an error costs is the part of it that does not average out. Two
 * conditions take out what is systematic, whatever the codes c of a group's elements x are:
 *
 *     Σ (x̂ − x) = 0                              no offset: min = x̄ − scale · c̄
 *     Σ (x̂ − x)(x − x̄) = 0                       no shrinking: scale = Σ (x − x̄)² / Σ (x − x̄) c
 *
 * What remains is uncorrelated with x, of (1/ρ² − 1) · Σ (x − x̄)², ρ the correlation of x and c. So
 * the codes are those of the evenly spaced thresholds with the largest ρ², and outliers may be
 * clipped. (Least squares, scale = cov / var c, has a smaller error and a shrunk x̂: at 2 bits it
 * loses all that the better codes gain.)
 */
#ifndef KV_KERNELS_FIT_CALLS_H
#define KV_KERNELS_FIT_CALLS_H

#include <stddef.h>
#include <stdint.h>

#define KV_FIT_SIDE 16 /* groups that are fitted side by side */
#define KV_FIT_MAX 256 /* elements: a page has 64 tokens, a head up to 256 channels */

struct kv_fit_groups {
    const float *x;           /* element i of group l: x[i · next + l · side]; finite              */
    size_t next, side;
    int n;                    /* elements of a group, at most KV_FIT_MAX                           */
    int n_groups;             /* at most KV_FIT_SIDE                                               */
    int bits;                 /* 2 3 4                                                             */
    uint8_t *codes;           /* out: of element i of group l at i · codes_next + l · codes_side   */
    size_t codes_next, codes_side;
    uint16_t *scale, *min;    /* out: f16 (n_groups). A group whose scale comes back as 0 was left alone,
                               * its codes not written: it is constant, or so narrow for its distance
                               * from 0, or so small, that rounding min or scale to f16 would undo the
                               * conditions above                                                  */
};

#endif
