#include "cache/kv_short.h"

#include <math.h>

#include "base/half.h"
#include "cache/kv_codec.h"
#include "kernels/short_grid.h"

#define CENTRE_MOST 127.0f

/* The least stored scale that is not below x, x >= 0; 256 if there is none. */
static int scale_above(float x)
{
    uint16_t h = kv_f32_to_f16(x);
    int byte = h >> 7;
    while (byte < 0xf8 && kv_f16_to_f32(kv_short_scale_f16((uint8_t)byte)) < x) byte++;
    return byte < 0xf8 ? byte : 256;
}

static int scale_nearest(float x)
{
    int byte = (kv_f32_to_f16(x) + 0x40) >> 7;
    return byte < 0xf8 ? byte : 256;
}

bool kv_short_make(float scale, float min, int bits, bool fitted, struct kv_short_grid *out, bool *recode)
{
    float levels = (float)((1 << bits) - 1), width = (float)(1 << bits);
    bool constant = scale == 0.0f; /* code 0 is to stand for it */
    float centre = min + 0.5f * levels * scale;
    /* The centre is off by up to 1/128 of the width, and 8 bits have no step to spare; with fewer, the few
     * elements that are clipped cost less than a wider grid: 4 bits lose a tenth instead of a third. */
    int byte = bits > 4 ? scale_above(scale * levels / (levels - 0.0625f * width)) : scale_nearest(scale);
    /* Far from 0 for its width: the grid must be as wide as its centre can be told. */
    float least = fabsf(centre) * 64.0f / (CENTRE_MOST * width - (constant ? 32.0f * levels : 0.0f));
    *recode = !fitted;
    if (byte < 256 && kv_f16_to_f32(kv_short_scale_f16((uint8_t)byte)) < least) {
        byte = scale_above(least);
        *recode = true;
    }
    if (byte == 256) return false;
    float stored = kv_f16_to_f32(kv_short_scale_f16((uint8_t)byte));
    if (constant) centre += 0.5f * levels * stored;
    float u = stored > 0.0f ? rintf(centre / stored * (64.0f / width)) : 0.0f;
    u = fminf(fmaxf(u, -CENTRE_MOST), CENTRE_MOST);
    *out = (struct kv_short_grid){ (uint8_t)byte, (uint8_t)(128 + (int)u) };
    return true;
}

static struct kv_grids in_page(const uint8_t *page, const struct kv_side_layout *side)
{
    return (struct kv_grids){ (const uint16_t *)(const void *)(page + side->scale),
                              (const uint16_t *)(const void *)(page + side->min) };
}

struct kv_grids kv_key_grids(const struct kv_codec *c, size_t i_head, const uint8_t *page, uint16_t *scale,
                             uint16_t *min)
{
    const struct kv_recipe *r = &c->plan->recipe[i_head];
    const struct kv_side_layout *side = &c->layout->key[i_head];
    if (!r->key_short) return in_page(page, side);
    const uint8_t *s = page + side->scale, *centre = page + side->min;
    int head_dim = c->plan->head_dim;
    int n = r->key_scheme == KV_KEY_TOKEN ? KV_PAGE_TOKENS : KV_PAGE_TOKENS / r->key_scheme * head_dim;
    if (!r->key_mixed) c->kernels->widen_grids(s, centre, n, r->key_bits, scale, min);
    /* class after class: what is written beyond one is written again by the next */
    const uint16_t *count = r->key_mixed ? c->plan->channels[i_head].count : NULL;
    for (int i = 0; count && i < n;)
        for (int k = 0; k < KV_N_CLASSES; i += count[k++])
            if (count[k])
                c->kernels->widen_grids(s + i, centre + i, count[k], kv_class_bits[k], scale + i, min + i);
    return (struct kv_grids){ scale, min };
}

struct kv_grids kv_value_grids(const struct kv_codec *c, size_t i_head, const uint8_t *page, uint16_t *scale,
                               uint16_t *min)
{
    const struct kv_recipe *r = &c->plan->recipe[i_head];
    const struct kv_side_layout *side = &c->layout->value[i_head];
    if (!r->value_short) return in_page(page, side);
    int n = KV_PAGE_TOKENS * (r->value_group ? c->plan->head_dim / r->value_group : 1);
    c->kernels->widen_grids(page + side->scale, page + side->min, n, r->value_bits, scale, min);
    return (struct kv_grids){ scale, min };
}
