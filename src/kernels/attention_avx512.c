/*
 * Attention kernels with AVX-512 (F, BW, VL, VBMI): 16 floats a vector. Rows of f16 to tiles stay with AVX2: they are
 * the exact part of the cache, short, and bound by their stores.
 */
#include "kernels/kernels.h"

#if defined(__AVX512VBMI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "base/half.h"

#include <immintrin.h>
#include <math.h>

typedef __m512 vec;
#define LANES 16
#define WIDE 4 /* 6 × 4 sums, 4 loads and a broadcast: 29 of 32 registers; one tile is 4 vectors wide */

static inline vec vec_set(float x) { return _mm512_set1_ps(x); }
static inline vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vec_store(float *p, vec x) { _mm512_storeu_ps(p, x); }
static inline vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
static inline vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); } /* b if a or b is NaN */
static inline float vec_reduce_max(vec x) { return _mm512_reduce_max_ps(x); }
static inline float vec_reduce_add(vec x) { return _mm512_reduce_add_ps(x); }

static inline __mmask16 first_lanes(int n) { return (__mmask16)((1u << n) - 1); }
static inline vec vec_load_part(const float *p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
static inline void vec_store_part(float *p, int n, vec x) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }

/* Lane i if first <= base + i < last, else `other`. */
static inline vec vec_in_range(vec x, int base, int first, int last, float other)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i i = _mm512_add_epi32(_mm512_set1_epi32(base), lane);
    __mmask16 in = _mm512_cmpge_epi32_mask(i, _mm512_set1_epi32(first));
    return _mm512_mask_mov_ps(vec_set(other), _mm512_mask_cmplt_epi32_mask(in, i, _mm512_set1_epi32(last)), x);
}

/* e^x for x <= 0; NaN stays, and far below it is 0. The identity and the error are those of the AVX2 file; scalef
 * applies 2^n with gradual underflow. */
static inline vec vec_exp(vec x)
{
    vec y = vec_max(vec_set(-128.0f), x); /* e^-128 is 0 in float; keeps ∞ out of r */
    vec n = _mm512_roundscale_ps(vec_mul(y, vec_set(0x1.715476p+0f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec r = vec_fma(n, vec_set(-0x1.62e400p-1f), y);
    r = vec_fma(n, vec_set(-0x1.7f7d1cp-20f), r);
    vec p = vec_fma(vec_set(0x1.6a2352p-10f), r, vec_set(0x1.123a6cp-7f));
    p = vec_fma(p, r, vec_set(0x1.5558f4p-5f));
    p = vec_fma(p, r, vec_set(0x1.555490p-3f));
    p = vec_fma(p, r, vec_set(0x1.fffffcp-2f));
    p = vec_fma(p, vec_mul(r, r), r);
    return _mm512_scalef_ps(vec_add(p, vec_set(1.0f)), n);
}

#include "kernels/attention_simd.h"

/* How codes of 2, 3 and 4 bits are spread: 64 codes are at most 32 bytes, so one register holds them all; lane i of
 * quarter k takes the two bytes that contain code 16 k + i and shifts it down. The bits above the code stay: the
 * look-up in `level` reads four bits of index, and repeats every 2^bits. */
struct spread {
    __m512i window[4]; /* byte indices into the codes */
    __m512i shift[4];
    __m512 level;      /* code -> float               */
};

static inline struct spread spread_of(int bits)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    struct spread s;
    for (int k = 0; k < 4; k++) {
        __m512i bit = _mm512_mullo_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(16 * k)), _mm512_set1_epi32(bits));
        __m512i byte = _mm512_srli_epi32(bit, 3);
        s.window[k] = _mm512_or_si512(byte, _mm512_slli_epi32(_mm512_add_epi32(byte, _mm512_set1_epi32(1)), 8));
        s.shift[k] = _mm512_and_si512(bit, _mm512_set1_epi32(7));
    }
    s.level = _mm512_cvtepi32_ps(_mm512_and_si512(lane, _mm512_set1_epi32((1 << bits) - 1)));
    return s;
}

/* Quarter k of up to 64 codes, n of which exist from there on (n may exceed 16; a multiple of 8). `bits` is a constant at
 * each call. `packed`: the codes, for 2 to 4 bits. */
INLINE vec decode_16(int bits, const struct spread *s, __m512i packed, const uint8_t *codes, int k, int n)
{
    __mmask16 in = n < 16 ? first_lanes(n) : (__mmask16)0xffff;
    if (bits == 0) return vec_set(0.0f);
    if (bits == 8) return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(in, codes + 16 * k)));
    __m512i window = _mm512_permutexvar_epi8(s->window[k], packed);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(window, s->shift[k]), s->level);
}

INLINE __m512i load_packed(int bits, const uint8_t *codes, int n)
{
    if (bits == 0 || bits == 8) return _mm512_setzero_si512();
    return _mm512_maskz_loadu_epi8((__mmask64)((1ull << (n * bits / 8)) - 1), codes);
}

static inline vec load_half(const void *p, int n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(n < 16 ? first_lanes(n) : (__mmask16)0xffff, p));
}

INLINE void expand_half(const uint8_t *codes, int n, float *out)
{
    for (int i = 0; i < n; i += 16) vec_store_part(out + i, n - i < 16 ? n - i : 16, load_half(codes + 2 * i, n - i));
}

/* bits: a constant at each call, that of `in`. */
INLINE void expand_keys(int bits, const struct kv_key_tile *in, float *kt)
{
    const struct spread s = spread_of(bits < 8 ? bits : 4);
    vec scale[4], min[4]; /* of the 16 tokens of each quarter */
    for (int k = 0; k < 4; k++) {
        scale[k] = in->group || bits == 16 ? vec_set(0.0f) : load_half(in->scale + 16 * k, 16);
        min[k] = in->group || bits == 16 ? vec_set(0.0f) : load_half(in->min + 16 * k, 16);
    }
    for (int i = 0; i < in->n_channels; i++) {
        int stored = in->channel_first + i;
        float *out = kt + (in->order ? in->order[stored] : stored) * KV_TILE;
        const uint8_t *codes = in->codes + (size_t)i * 8 * (size_t)bits;
        if (bits == 16) {
            expand_half(codes, KV_TILE, out);
        } else {
            if (in->group) {
                int upper = in->group == 32 ? stored + in->head_dim : stored;
                scale[0] = scale[1] = vec_set(_cvtsh_ss(in->scale[stored]));
                min[0] = min[1] = vec_set(_cvtsh_ss(in->min[stored]));
                scale[2] = scale[3] = vec_set(_cvtsh_ss(in->scale[upper]));
                min[2] = min[3] = vec_set(_cvtsh_ss(in->min[upper]));
            }
            __m512i packed = load_packed(bits, codes, KV_TILE);
            for (int k = 0; k < 4; k++)
                vec_store(out + 16 * k, vec_fma(decode_16(bits, &s, packed, codes, k, 16), scale[k], min[k]));
        }
        if (in->n_tokens < KV_TILE) memset(out + in->n_tokens, 0, (size_t)(KV_TILE - in->n_tokens) * sizeof *out);
    }
}

static void key_tile_expand_avx512(const struct kv_key_tile *in, float *kt)
{
    switch (in->bits) {
    case 0: expand_keys(0, in, kt); break;
    case 2: expand_keys(2, in, kt); break;
    case 3: expand_keys(3, in, kt); break;
    case 4: expand_keys(4, in, kt); break;
    case 8: expand_keys(8, in, kt); break;
    default: expand_keys(16, in, kt);
    }
}

/* n codes (a multiple of 8) that share a scale and a minimum. */
INLINE void expand_shared(int bits, const struct spread *s, const uint8_t *codes, int n, uint16_t scale_f16,
                          uint16_t min_f16, float *out)
{
    vec scale = vec_set(_cvtsh_ss(scale_f16)), min = vec_set(_cvtsh_ss(min_f16));
    for (int i = 0; i < n; i += 64) {
        int left = n - i < 64 ? n - i : 64;
        const uint8_t *p = codes + i * bits / 8;
        __m512i packed = load_packed(bits, p, left);
        for (int k = 0; k < 4 && 16 * k < left; k++)
            vec_store_part(out + i + 16 * k, left - 16 * k < 16 ? left - 16 * k : 16,
                           vec_fma(decode_16(bits, s, packed, p, k, left - 16 * k), scale, min));
    }
}

INLINE void expand_values(int bits, const struct kv_value_tile *in, float *v)
{
    const struct spread s = spread_of(bits < 8 ? bits : 4);
    const uint8_t *codes = in->codes;
    for (int t = 0, g = 0; t < in->n_tokens; t++) {
        if (bits == 16) {
            expand_half(codes, in->head_dim, v);
            codes += 2 * in->head_dim;
            v += in->head_dim;
            continue;
        }
        for (int c = 0; c < in->head_dim; c += in->group, g++) {
            expand_shared(bits, &s, codes, in->group, in->scale[g], in->min[g], v);
            codes += in->group * bits / 8;
            v += in->group;
        }
    }
    memset(v, 0, (size_t)((KV_TILE - in->n_tokens) * in->head_dim) * sizeof *v);
}

static void value_tile_expand_avx512(const struct kv_value_tile *in, float *v)
{
    switch (in->bits) {
    case 2: expand_values(2, in, v); break;
    case 3: expand_values(3, in, v); break;
    case 4: expand_values(4, in, v); break;
    case 8: expand_values(8, in, v); break;
    default: expand_values(16, in, v);
    }
}

bool kv_fill_attention_avx512(struct kv_kernels *table)
{
    table->attn_tile = attn_tile_simd;
    table->key_tile_expand = key_tile_expand_avx512;
    table->value_tile_expand = value_tile_expand_avx512;
    table->key_tile_hadamard = key_tile_hadamard_simd;
    table->key_tile_add_center = key_tile_add_center_simd;
    return true;
}

#else
bool kv_fill_attention_avx512(struct kv_kernels *table)
{
    (void)table;
    return false;
}
#endif
