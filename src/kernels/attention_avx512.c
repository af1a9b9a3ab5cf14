/*
 * Attention kernels with AVX-512 (F, BW, VL, VBMI): 16 floats a vector. Rows of f16 to tiles stay with AVX2:
 * they are the exact part of the cache, short, and bound by their stores.
 */
#include "kernels/kernels.h"

#if (defined(__AVX512VBMI__) && defined(__AVX512BW__) && defined(__AVX512VL__)) || defined(KV_EMULATE_AVX512)
#include <math.h>
#include <string.h>

#include "kernels/simd_avx512.h"

#define WIDE 4 /* 6 × 4 sums, 4 loads and a broadcast: 29 of 32 registers; one tile is 4 vectors wide */

KV_INLINE vf vf_load_part(const float *p, int n) { return vf_load_n(p, n); }
KV_INLINE void vf_store_part(float *p, vf x, int n) { vf_store_n(p, x, n); }

#define EXP_LOWEST -128.0f /* e^-128 is 0 in float; keeps infinity out of the remainder */

KV_INLINE vf exp_scale(vf p, vf n, vf x)
{
    (void)x;
    return vf_scale2(p, n);
}

/* How codes of 2, 3 and 4 bits are spread: 64 codes are at most 32 bytes, so one register holds them all;
 * lane i of quarter k takes the two bytes that contain code 16 k + i and shifts it down. The bits above the
 * code stay: the look-up in `level` reads four bits of index, and repeats every 2^bits. */
struct spread {
    vi window[4]; /* byte indices into the codes */
    vi shift[4];
    vf level; /* code -> float */
};

KV_INLINE struct spread spread_of(int bits)
{
    if (bits >= 8) return (struct spread){ 0 }; /* these need none */
    const vi lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    struct spread s;
    for (int k = 0; k < 4; k++) {
        vi bit = _mm512_mullo_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(16 * k)),
                                    _mm512_set1_epi32(bits));
        vi byte = _mm512_srli_epi32(bit, 3);
        s.window[k] = _mm512_or_si512(byte,
                                      _mm512_slli_epi32(_mm512_add_epi32(byte, _mm512_set1_epi32(1)), 8));
        s.shift[k] = _mm512_and_si512(bit, _mm512_set1_epi32(7));
    }
    s.level = _mm512_cvtepi32_ps(_mm512_and_si512(lane, _mm512_set1_epi32((1 << bits) - 1)));
    return s;
}

/* Quarter k of up to 64 codes, n of which exist from there on (n may exceed 16; a multiple of 8). `bits` is a
 * constant at each call. `packed`: the codes, for 2 to 4 bits. */
KV_INLINE vf decode_16(int bits, const struct spread *s, vi packed, const uint8_t *codes, int k, int n)
{
    __mmask16 in = n < 16 ? lanes_below(n) : (__mmask16)0xffff;
    if (bits == 0) return vf_zero();
    if (bits == 8) return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(in, codes + 16 * k)));
    vi window = _mm512_permutexvar_epi8(s->window[k], packed);
    return _mm512_permutexvar_ps(_mm512_srlv_epi32(window, s->shift[k]), s->level);
}

KV_INLINE vi load_packed(int bits, const uint8_t *codes, int n)
{
    if (bits == 0 || bits == 8) return _mm512_setzero_si512();
    return _mm512_maskz_loadu_epi8((__mmask64)((1ull << (n * bits / 8)) - 1), codes);
}

KV_INLINE vf load_half(const void *p, int n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(n < 16 ? lanes_below(n) : (__mmask16)0xffff, p));
}

KV_INLINE void expand_half(const uint8_t *codes, int n, float *out)
{
    for (int i = 0; i < n; i += 16)
        vf_store_part(out + i, load_half(codes + 2 * i, n - i), n - i < 16 ? n - i : 16);
}

/* bits: a constant at each call, that of `in`. */
KV_INLINE void expand_keys(int bits, const struct kv_key_tile *in, float *kt)
{
    const struct spread s = spread_of(bits);
    vf scale[4], min[4]; /* of the 16 tokens of each quarter */
    for (int k = 0; k < 4; k++) {
        scale[k] = in->group || bits == 16 ? vf_set(0.0f) : load_half(in->scale + 16 * k, 16);
        min[k] = in->group || bits == 16 ? vf_set(0.0f) : load_half(in->min + 16 * k, 16);
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
                scale[0] = scale[1] = vf_set(_cvtsh_ss(in->scale[stored]));
                min[0] = min[1] = vf_set(_cvtsh_ss(in->min[stored]));
                scale[2] = scale[3] = vf_set(_cvtsh_ss(in->scale[upper]));
                min[2] = min[3] = vf_set(_cvtsh_ss(in->min[upper]));
            }
            vi packed = load_packed(bits, codes, KV_TILE);
            for (int k = 0; k < 4; k++)
                vf_store(out + 16 * k, vf_fma(decode_16(bits, &s, packed, codes, k, 16), scale[k], min[k]));
        }
        if (in->n_tokens < KV_TILE)
            memset(out + in->n_tokens, 0, (size_t)(KV_TILE - in->n_tokens) * sizeof *out);
    }
}

/* n codes (a multiple of 8) that share a scale and a minimum. */
KV_INLINE void expand_shared(int bits, const struct spread *s, const uint8_t *codes, int n,
                             uint16_t scale_f16, uint16_t min_f16, float *out)
{
    vf scale = vf_set(_cvtsh_ss(scale_f16)), min = vf_set(_cvtsh_ss(min_f16));
    for (int i = 0; i < n; i += 64) {
        int left = n - i < 64 ? n - i : 64;
        const uint8_t *p = codes + i * bits / 8;
        vi packed = load_packed(bits, p, left);
        for (int k = 0; k < 4 && 16 * k < left; k++) {
            int n_part = left - 16 * k;
            vf x = vf_fma(decode_16(bits, s, packed, p, k, n_part), scale, min);
            vf_store_part(out + i + 16 * k, x, n_part < 16 ? n_part : 16);
        }
    }
}

#include "kernels/attention.inc.h"

bool kv_fill_attention_avx512(struct kv_kernels *table)
{
    fill_attention(table);
    return true;
}

#else
bool kv_fill_attention_avx512(struct kv_kernels *table)
{
    (void)table;
    return false;
}
#endif
