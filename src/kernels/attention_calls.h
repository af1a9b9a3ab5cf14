/*
 * The calls of the attention kernels. There are two ways through a page.
 *
 * Over codes (every plan, by default). For a query row, all of it in the domain in which the page stores:
 *
 *     fold      a_c = q_c · scale_c                         per channel; once per page
 *               Q_c = round(a_c / δ)                        int8, or int16 against codes of 8 bits
 *               bias = Σ q_c · min_c + mid · Σ (a_c − δ Q_c)
 *     qk_codes  s_j = bias + δ · Σ_c Q_c · code_cj          exact in int32
 *     soften    p_j = exp(s_j − max)
 *     weigh     w_j = p_j · scale_j, P_j = round(w_j / δ'), bias' = Σ p_j · min_j + mid · Σ (w_j − δ' P_j)
 *     pv_codes  out_c = keep · out_c + bias' + δ' · Σ_j P_j · code_cj
 *
 * Rounding Q leaves an error of Σ (a_c − δ Q_c)·code_c. Codes are 0 .. 2^b − 1: about their middle, `mid`, it
 * is a third of that, so the middle's share is added back exactly, in `bias`. What remains is, for int8 and
 * few bits, below 1 % of what the codes themselves cost (docs/attention.md has it measured at the logits);
 * against codes of 8 bits it would be of their size, so there Q and P have 15 bits.
 *
 * Over float tiles (`kvant_attention` F32, and all exact rows): codes are expanded as code·scale + min and
 * multiplied in float32: the reference for the first way, and the faster one for rows of 16 bits.
 */
#ifndef KV_KERNELS_ATTENTION_CALLS_H
#define KV_KERNELS_ATTENTION_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_TILE 64 /* tokens in a page, hence in one attention tile */
#define KV_HEAD_DIM_MAX 256

/* What will be read next: kernels ask for its lines one by one while they work, since a whole page at once
 * fills the queue of outstanding loads and everything waits (f16, 2 threads with AVX2: 6.8 -> 3.2 us a page
 * of one head). NULL, NULL: nothing. */
struct kv_ahead {
    const uint8_t *at, *end;
};

/* ------------------------------------------------------------------------------------------ over codes -- */

#define KV_Q_NARROW 127    /* largest |Q|                                                                  */
#define KV_Q_WIDE 16383    /* 255 · 16383 · 256 channels = 1.07e9                                          */
#define KV_P_NARROW 255    /* P is not negative, so int8's sign is one more bit                            */
#define KV_P_WIDE 32767    /* 255 · 32767 · 64 tokens = 5.3e8                                              */

/* What makes digits of numbers up to m. Below 2^-100 it could be infinite, and infinity times 0 is no number:
 * then all digits are 0. What they leave out goes into the bias as their rest, with codes at their middle, so
 * nothing is lost that a float would show beside the page that holds the maximum. */
static inline float kv_digits_per_unit(int largest, float m)
{
    return m > 0x1p-100f ? (float)largest / m : 0.0f;
}

/* Codes of 8 bits meet 15 bits instead of 8, at twice the products:
 * with 8 rounding would cost as much as the codes. */
static inline bool kv_keys_are_wide(int bits) { return bits > 4; }
static inline bool kv_values_are_wide(int bits) { return bits > 4; }
static inline float kv_codes_middle(int bits) { return 0.5f * (float)((1 << bits) - 1); }

/* Digits lie as the dot products take them: narrow ones in order; of wide ones, 4 neighbours 0 1 2 3 as
 * 0 2 1 3, since a mask and a shift turn 4 bytes of codes into the 16-bit pairs (0, 2) and (1, 3). */
static inline int kv_wide_place(int i) { return (i & ~3) | ((i & 1) << 1) | ((i >> 1) & 1); }

/* A range of stored channels with codes of one width. A head's classes follow each other by falling bits.
 *
 * Neighbouring classes may be one *span*: their digits are of one width, wide or narrow, and share a δ,
 * so that their products add up in one int32. Channels of mixed keys get their bits so that q · scale is
 * of one size in all of them: they have a wide and a narrow span. Keys of one width are one class, but
 * for 4 bits (cache/kv_classes.c). */
struct kv_key_class {
    int bits;                    /* 8 4 3 2; 0: no codes, the group's mean is all there is                  */
    int n_channels;              /* a multiple of 8                                                         */
    int span;                    /* 0 .. KV_SPANS_MAX − 1, not falling; of bits 0: no matter                */
};
#define KV_CLASSES_MAX 5
#define KV_SPANS_MAX 4

static inline int kv_class_digits_bytes(const struct kv_key_class *c)
{
    return c->bits ? c->n_channels * (kv_keys_are_wide(c->bits) ? 2 : 1) : 0;
}

/* Query rows times the scales of their channels, as digits. */
struct kv_fold {
    const float *q;              /* (n_rows, q_stride), stored channels                                     */
    size_t q_stride;
    int n_rows, n_classes;
    const struct kv_key_class *classes;
    const float *middle;         /* (channels) of their codes; 0 where there are none                       */
    const uint8_t *largest;      /* (channels) largest code, twice the middle                               */
    const uint16_t *scale, *min; /* f16 (channels); NULL, both: 1 and 0 (keys per token)                    */
    void *digits;                /* rows digits_stride bytes apart: int16 of wide channels, then int8       */
    size_t digits_stride;
    float *delta[KV_SPANS_MAX];  /* (n_rows) of each span                                                   */
    float *bias;                 /* (n_rows)                                                                */
    float *sum;                  /* (n_rows) Σ q, of keys per token                                         */
};

/* Scores of a page. */
struct kv_qk_codes {
    const uint8_t *codes;        /* units of all classes (code_layout.h)                                    */
    int n_classes;
    const struct kv_key_class *classes;
    const void *digits[2];       /* of tokens 0 .. 31 and 32 .. 63; equal where one scale holds for 64      */
    size_t digits_stride;
    const float *delta[2][KV_SPANS_MAX]; /* (n_rows)                                                        */
    const float *bias[2];        /* (n_rows)                                                                */
    const uint16_t *scale, *min; /* f16 (64) of keys per token: s = scale_j · s + min_j · sum; NULL: s      */
    const float *sum;            /* (n_rows)                                                                */
    int n_rows;
    float *score;                /* (n_rows, 64)                                                            */
    struct kv_ahead ahead;
};

#define KV_CENTER_TERMS 8 /* of a slow pair's polynomial (cache/kv_centers.c) */

/* score_j += still + Σ_p C_p cos θ_p t + S_p sin θ_p t, what keys lack that are stored without their centres.
 * From the page's middle: with
 *     x_p = C_p cos θ_p t0 + S_p sin θ_p t0 and y_p = S_p cos θ_p t0 − C_p sin θ_p t0,
 * listed pairs give x cos θτ + y sin θτ, the other ones, where there are any,
 *     Σ_m T_m(τ) Σ_p slow_mp · (m even: x_p; odd: y_p).
 * Cosines and even T_m are equal at τ and −τ, sines and odd T_m opposite: tables and sums are of the page's
 * second half, τ > 0. */
struct kv_qk_center {
    const float *cos_part, *sin_part; /* (n_rows, stride): C and S, turned to the page's middle             */
    size_t stride;
    const float *still;          /* (n_rows)                                                                */
    const float *cos_t0, *sin_t0; /* (n_pairs): of the page's first position                                */
    int n_pairs, n_listed;
    const uint8_t *listed;       /* (n_listed)                                                              */
    const float *turning;        /* (n_pairs, 2, 32)                                                        */
    const float *slow;           /* (KV_CENTER_TERMS, n_pairs), 0 for listed pairs; or NULL: there are none */
    const float *polynomials;    /* (KV_CENTER_TERMS, 32)                                                   */
    int n_rows;
    float *score;                /* (n_rows, 64) +=                                                         */
};

/* Scores to exponentials. Query i sees tokens first[i] <= j < last[i]; the others get 0. */
struct kv_soften {
    float *score;                /* (n_rows, 64)                                                            */
    int n_rows;
    const int *first, *last;     /* (n_rows)                                                                */
    float *max, *sum;            /* (n_rows) running maximum (start: -INFINITY) and sum (start: 0)          */
    float *keep;                 /* (n_rows) out: what remains of earlier sums                              */
};

/* Exponentials times the scales of values, as digits. */
struct kv_weigh {
    const float *p;              /* (n_rows, 64), 0 from n_tokens on                                        */
    int n_rows, n_groups, bits, n_tokens;
    const uint16_t *scale, *min; /* f16 (n_groups, 64); not used from n_tokens on                           */
    void *digits;                /* uint8 or int16 (n_rows, n_groups, 64)                                   */
    float *delta, *bias;         /* (n_rows, n_groups)                                                      */
};

/* out = keep · out + Σ p·v of a page. */
struct kv_pv_codes {
    const uint8_t *codes;        /* columns (code_layout.h)                                                 */
    int bits, head_dim, n_groups, n_tokens;
    const void *digits;          /* as struct kv_weigh                                                      */
    const float *delta, *bias;   /* (n_rows, n_groups)                                                      */
    const float *keep;           /* (n_rows)                                                                */
    int n_rows;
    float *out;                  /* (n_rows, head_dim)                                                      */
    struct kv_ahead ahead;
};

/* ------------------------------------------------------------------------------------ over 16-bit rows -- */

/* score = q · k for n_tokens keys of float16; the rest of the 64 scores is not written. Keys of a page are
 * channel-major, sinks and tail are rows. */
struct kv_qk_half {
    const uint16_t *k;           /* page: (head_dim, 64); rows: (n_tokens, stride)                          */
    int64_t stride;              /* of rows; 0: a page                                                      */
    int head_dim, n_tokens, n_rows;
    const float *q;              /* (n_rows, head_dim)                                                      */
    float *score;                /* (n_rows, 64)                                                            */
    struct kv_ahead ahead;
};
struct kv_pv_half {
    const uint16_t *v;           /* (n_tokens, stride)                                                      */
    int64_t stride;
    int head_dim, n_tokens, n_rows;
    const float *p;              /* (n_rows, 64)                                                            */
    const float *keep;           /* (n_rows)                                                                */
    float *out;                  /* (n_rows, head_dim)                                                      */
    struct kv_ahead ahead;
};

/* ------------------------------------------------------------------------------------ over float tiles -- */

/* A tile of up to 64 keys or values in float32.
 *   keys   kt: (head_dim, 64), channel-major: one query channel meets 64 keys without a horizontal sum
 *   values v:  (64, head_dim)
 * Columns (rows) from n_tokens on are zero. */
struct kv_attn_tile {
    const float *q;          /* (n_q, head_dim), already scaled by 1/sqrt(head_dim) */
    const float *kt;         /* (head_dim, 64) */
    const float *v;          /* (64, head_dim) */
    int n_q, head_dim, n_tokens;
    const int *first, *last; /* (n_q): query i sees tile tokens first[i] <= j < last[i]; may be empty */
    float *max, *sum;        /* (n_q) running maximum (start: -INFINITY) and sum of exponentials (start: 0) */
    float *out;              /* (n_q, head_dim) running Σ exp(s − max)·v (start: 0) */
    float *score;            /* (n_q, 64) scratch */
};

/* One side of a page, for one (layer, KV head), to expand. Codes lie as code_layout.h draws them. */
struct kv_key_tile {
    const uint8_t *codes;        /* n_channels / 8 units: of the range only */
    const uint16_t *scale, *min; /* f16, of the whole head; per token: (64); per channel: (64 / group,
                                  * head_dim) in stored order */
    int head_dim, bits;          /* 2 3 4 8; 0: no codes, x = min */
    int group;                   /* 0 = per token; 32 or 64 = per channel over that many tokens */
    int n_tokens;                /* sealed tokens in the page: the rest is zeroed in the output */
    int channel_first, n_channels; /* the range of stored channels that codes hold (mixed keys: one class) */
    const uint8_t *order;        /* (head_dim) stored channel -> channel of the head, or NULL: the same */
};
struct kv_value_tile {
    const uint8_t *codes;
    const uint16_t *scale, *min; /* f16; (head_dim / group, 64) */
    int head_dim, bits;          /* 2 3 4 8 */
    int group;                   /* head_dim or 32 channels */
    int n_tokens;
};

#endif
