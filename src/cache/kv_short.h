/*
 * Short grids (letter s): scale and minimum of a group in 16 bits together instead of 32. At 64 elements a group that is a
 * quarter of a bit, as much as lies between two plans of the tuner's menu.
 *
 *     scale    a byte: an f16 without sign and without its last 7 bits, so 3 bits of mantissa
 *     centre   a byte u: min = scale · ((u − 128) · 2^bits − 32 · (2^bits − 1)) / 64, where the middle of the grid lies in
 *              steps of 1/64 of its 2^bits levels, up to two ranges away from 0
 *
 * A fitted grid keeps its codes: the scale is off by 3 % in the mean, another part in every group, which averages out over
 * the tokens as the error of the codes does, and is a hundredth of it. Measured at the logits (768 tokens): docs/cache.md.
 * A grid between minimum and maximum is rounded up, and codes are chosen for what is stored.
 */
#ifndef KV_CACHE_KV_SHORT_H
#define KV_CACHE_KV_SHORT_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/kv_layout.h"

struct kv_short_grid {
    uint8_t scale, centre;
};

/* Of codes 0 .. 2^bits − 1 with x = scale · code + min. Sets *recode where codes for that grid no longer fit what is stored.
 * bits 0: min is the group's mean, scale does not matter. false: too large for the format. */
bool kv_short_make(float scale, float min, int bits, bool fitted, struct kv_short_grid *out, bool *recode);

/* What is stored, as f16: in the page where it is, or widened into `scale` and `min` (KV_GRIDS_MAX each). */
struct kv_grids {
    const uint16_t *scale, *min;
};
#define KV_GRIDS_MAX (KV_HEAD_DIM_MAX / 32 * KV_PAGE_TOKENS + 16)

struct kv_kernels;
/* page: kv_page_base. */
struct kv_grids kv_key_grids(const struct kv_kernels *kernels, const struct kvant_plan *plan, const struct kv_layout *layout,
                             size_t i_head, const uint8_t *page, uint16_t *scale, uint16_t *min);
struct kv_grids kv_value_grids(const struct kv_kernels *kernels, const struct kvant_plan *plan,
                               const struct kv_layout *layout, size_t i_head, const uint8_t *page, uint16_t *scale,
                               uint16_t *min);

#endif
