/*
 * Between float rows and the codes of a page, for one (layer, KV head).
 *
 *     x ≈ code·scale + min      unsigned codes of b bits; scale and min in f16
 *
 * Statistics are float32; codes are rintf((x - min) / scale) against the *stored* (rounded) scale and min, so
 * that the decoder's grid is the encoder's. min is rounded down and scale to nearest, which keeps |x - x̂| <=
 * scale/2 for every element: below min nothing can lie, and above the grid lies less than levels·2^-11 <= 1/8
 * of a scale. (Rounding min to nearest would clip by up to half an f16 step, a whole scale for narrow groups
 * around a large key bias.) A constant group stores scale 0, codes 0 and its value rounded to nearest; so
 * does a class of 0 bits with its mean.
 * Keys: k' = k − R_t μ (m), then Hk' (h), then per token, per channel, or in classes. Values: v' = Hv (h),
 * per token.
 */
#ifndef KV_CACHE_KV_CODEC_H
#define KV_CACHE_KV_CODEC_H

#include "cache/kv_layout.h"
#include "cache/rope.h"

/* How a head's pairs are summed: those that are listed one by one, the others as polynomials. */
struct kv_center_list {
    uint8_t n_listed, listed[KV_HEAD_DIM_MAX / 2];
    bool polynomials, still; /* some are; a channel that does not turn has a mean */
};

/* Constants of centred keys of one plan on one model (kv_centers.c); all NULL where no layer centres. */
struct kv_centers {
    float *turn_cos, *turn_sin;     /* (64, n_pairs): of θ_p i */
    float *middle_cos, *middle_sin; /* (n_pairs): of θ_p times half a page */
    int n_pairs, n_fast;
    float *turning;                 /* (n_pairs, 2, 32): cos, sin of θ_p τ, τ = .5 … 31.5 from the middle */
    float *slow;                    /* (KV_CENTER_TERMS, n_pairs), 0 for fast pairs */
    float *polynomials;             /* (KV_CENTER_TERMS, 32): T_m */
    struct kv_center_list *head;    /* (n_layer · n_head_kv) */
};

kvant_status kv_centers_open(struct kv_centers *out, const struct kvant_plan *plan,
                             const struct kv_rope *rope, struct kvant_error *err);
void kv_centers_close(struct kv_centers *c);
size_t kv_centers_bytes(const struct kvant_plan *plan); /* what kv_centers_open takes */
/* R_{t0 + i} μ of a page's i-th token: R_{t0} (R_i μ). mean, out: (head_dim); cos_t0, sin_t0: (n_rot / 2) */
void kv_centers_turned(const struct kv_centers *c, const struct kv_rope *rope, const float *mean,
                       const float *cos_t0, const float *sin_t0, int i, float *out);
/* The query's part of q·R_t μ, as struct kv_qk_center takes it: cos_part, sin_part (n_rot / 2). Returns the
 * share of the channels that do not turn. */
float kv_centers_project(const struct kv_centers *c, const struct kv_rope *rope, const float *mean,
                         const float *q, float *cos_part, float *sin_part);

struct kv_codec { /* what encode and expand need beside the page; borrowed */
    const struct kv_kernels *kernels;
    const struct kvant_plan *plan;
    const struct kv_layout *layout;
    const struct kv_centers *centers;
    const struct kv_rope *rope;
};

/* Encodes rows [row, row + n) of a page from keys and values (n, head_dim) in float32 after RoPE; the page's
 * other rows keep their bits. Per-channel recipes: row and n are multiples of the group. position: of the
 * first row (for centring). scratch: kv_codec_scratch_bytes, aligned to 64. Errors: NUMERIC for a NaN, an
 * infinity or a group that float16 cannot hold (names layer, head, position); the page's rows are undefined
 * then. */
kvant_status kv_codec_encode(const struct kv_codec *c, struct kv_page page, int layer, int head_kv, int row,
                             int n, int64_t position, const float *k, const float *v, void *scratch,
                             struct kvant_error *err);
size_t kv_codec_scratch_bytes(int head_dim);

/* Keys of a page's first n_tokens rows to a float tile (head_dim, 64), in the plain domain: rotation undone,
 * centres added. position: of the page's first token. */
void kv_codec_expand_keys(const struct kv_codec *c, struct kv_page page, int layer, int head_kv, int n_tokens,
                          int64_t position, float *kt);
/* The same with cos and sin of the position at hand, (n_rot / 2) each; unused (NULL) where the recipe does
 * not centre. One turn's angles cost 1 µs, as much as expanding the tile, so attention takes them from the
 * sequence's table. */
void kv_codec_expand_keys_turned(const struct kv_codec *c, struct kv_page page, int layer, int head_kv,
                                 int n_tokens, const float *cos_t0, const float *sin_t0, float *kt);
/* Values (64, head_dim), *in the rotated domain* if the recipe rotates: Σ p·v is turned back once per output,
 * not per row. */
void kv_codec_expand_values(const struct kv_codec *c, struct kv_page page, int layer, int head_kv,
                            int n_tokens, float *v);

#endif
