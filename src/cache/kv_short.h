/*
 * Short grids (letter s): scale and minimum of a group in 16 bits together instead of 32. At 64 elements a
 * group that is a quarter of a bit, as much as lies between two plans of the tuner's menu.
 *
 *     scale    a byte: an f16 without sign and without its last 7 bits, so 3 bits of mantissa
 *     centre   a byte: where the middle of the grid lies, in parts of 1/64 of its width of 2^bits steps, up
 *              to two widths from 0 (kernels/short_grid.h)
 *
 * A fitted grid keeps its codes: the scale is off by 3 % in the mean, another part in every group, which
 * averages out over the tokens as the error of the codes does (docs/cache.md has it measured at the logits).
 * Of a grid between minimum and maximum the codes are chosen for what is stored.
 */
#ifndef KV_CACHE_KV_SHORT_H
#define KV_CACHE_KV_SHORT_H

#include <stdbool.h>
#include <stdint.h>

#include "cache/kv_layout.h"

struct kv_short_grid {
    uint8_t scale, centre;
};

/* Of codes 0 .. 2^bits − 1 with x = scale · code + min; scale 0: a constant, which code 0 will stand for;
 * bits 0: min is the group's mean. Sets *recode where codes for that grid do not fit what is stored. false:
 * too large for it. */
bool kv_short_make(float scale, float min, int bits, bool fitted, struct kv_short_grid *out, bool *recode);

/* What is stored, as f16: in the page where it is, or widened into `scale` and `min` (KV_GRIDS_MAX each). */
struct kv_grids {
    const uint16_t *scale, *min;
};
#define KV_GRIDS_MAX (KV_HEAD_DIM_MAX / 32 * KV_PAGE_TOKENS + 16)

struct kv_codec;
/* Of the (layer, KV head) i_head; page: kv_page_base. */
struct kv_grids kv_key_grids(const struct kv_codec *c, size_t i_head, const uint8_t *page, uint16_t *scale,
                             uint16_t *min);
struct kv_grids kv_value_grids(const struct kv_codec *c, size_t i_head, const uint8_t *page, uint16_t *scale,
                               uint16_t *min);

#endif
