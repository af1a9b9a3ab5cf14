/*
 * Attention kernels with AVX2, FMA and F16C: 8 floats a vector.
 */
#include "kernels/kernels.h"

#ifdef __AVX2__

#include <math.h>
#include <string.h>

#include "kernels/simd_avx2.h"

#define WIDE 2 /* 6 × 2 sums, 2 loads and a broadcast: 15 of 16 registers */

/* Head sizes are multiples of 8: a vector is never partly used. */
KV_INLINE vf vf_load_part(const float *p, int n)
{
    (void)n;
    return vf_load(p);
}

KV_INLINE void vf_store_part(float *p, vf x, int n)
{
    (void)n;
    vf_store(p, x);
}

#define EXP_LOWEST -0x1.5d589ep+6f /* -126 · ln2: below it 2^n is no normal number */

KV_INLINE vf exp_scale(vf p, vf n, vf x)
{
    vi exponent = _mm256_slli_epi32(_mm256_add_epi32(vf_to_int(n), _mm256_set1_epi32(127)), 23);
    vf e = vf_mul(p, _mm256_castsi256_ps(exponent));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, vf_set(EXP_LOWEST), _CMP_LT_OQ), e);
}

static void key_tile_from_rows(const uint16_t *rows, int64_t row_stride, int n_tokens, int head_dim,
                               float *kt)
{
    for (int t = 0; t < KV_TILE; t += 8)
        for (int c = 0; c < head_dim; c += 8) {
            vi x[8];
            for (int i = 0; i < 8; i++)
                x[i] = t + i < n_tokens ? _mm256_castps_si256(vf_load_f16(rows + (t + i) * row_stride + c))
                                        : vi_zero();
            vi_transpose(x);
            for (int i = 0; i < 8; i++) vi_store(kt + (c + i) * KV_TILE + t, x[i]);
        }
}

static void value_tile_from_rows(const uint16_t *rows, int64_t row_stride, int n_tokens, int head_dim,
                                 float *v)
{
    for (int t = 0; t < n_tokens; t++)
        for (int c = 0; c < head_dim; c += 8)
            vf_store(v + t * head_dim + c, vf_load_f16(rows + t * row_stride + c));
    memset(v + n_tokens * head_dim, 0, (size_t)((KV_TILE - n_tokens) * head_dim) * sizeof *v);
}

/* How codes of 2, 3 and 4 bits are spread: each lane gets a 32-bit window that holds its code, and shifts it
 * down. */
struct spread {
    vi shift, mask;
};

KV_INLINE struct spread spread_of(int bits)
{
    const vi lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (struct spread){ _mm256_mullo_epi32(lane, _mm256_set1_epi32(bits)),
                            _mm256_set1_epi32((1 << bits) - 1) };
}

/* Codes [8 i, 8 i + 8) as floats. `last`: nothing behind these codes may be read. `bits` and `last` are
 * constants at each call. */
KV_INLINE vf decode_8(int bits, const struct spread *s, const uint8_t *codes, int i, bool last)
{
    const uint8_t *p = codes + i * bits;
    if (bits == 0) return vf_zero();
    if (bits == 8) return vf_load_codes(p);
    uint32_t window = 0;
    if (bits == 3 && last) { /* 3 bytes are left */
        memcpy(&window, p, 2);
        window |= (uint32_t)p[2] << 16;
    } else {
        memcpy(&window, p, bits == 2 ? 2 : 4);
    }
    vi code = _mm256_srlv_epi32(_mm256_set1_epi32((int)window), s->shift);
    return vf_from_int(vi_and(code, s->mask));
}

/* n codes (a multiple of 8) that share a scale and a minimum. */
KV_INLINE void expand_shared(int bits, const struct spread *s, const uint8_t *codes, int n,
                             uint16_t scale_f16, uint16_t min_f16, float *out)
{
    vf scale = vf_set(_cvtsh_ss(scale_f16)), min = vf_set(_cvtsh_ss(min_f16));
    int end = n / 8 - 1;
    for (int i = 0; i < end; i++)
        vf_store(out + 8 * i, vf_fma(decode_8(bits, s, codes, i, false), scale, min));
    vf_store(out + 8 * end, vf_fma(decode_8(bits, s, codes, end, true), scale, min));
}

/* The codes of one channel of a page, whose 64 tokens each have their own scale and minimum. */
KV_INLINE void expand_each(int bits, const struct spread *s, const uint8_t *codes, const uint16_t *scale,
                           const uint16_t *min, float *out)
{
    for (int i = 0; i < KV_TILE / 8; i++) {
        vf code = decode_8(bits, s, codes, i, i == KV_TILE / 8 - 1);
        vf_store(out + 8 * i, vf_fma(code, vf_load_f16(scale + 8 * i), vf_load_f16(min + 8 * i)));
    }
}

KV_INLINE void expand_half(const uint8_t *codes, int n, float *out)
{
    for (int i = 0; i < n; i += 8) vf_store(out + i, vf_load_f16((const void *)(codes + 2 * i)));
}

/* bits: a constant at each call, that of `in`. */
KV_INLINE void expand_keys(int bits, const struct kv_key_tile *in, float *kt)
{
    const struct spread s = spread_of(bits);
    for (int i = 0; i < in->n_channels; i++) {
        int stored = in->channel_first + i;
        float *out = kt + (in->order ? in->order[stored] : stored) * KV_TILE;
        const uint8_t *codes = in->codes + (size_t)i * 8 * (size_t)bits;
        if (bits == 16) {
            expand_half(codes, KV_TILE, out);
        } else if (in->group == 0) {
            expand_each(bits, &s, codes, in->scale, in->min, out);
        } else {
            for (int t = 0, g = stored; t < KV_TILE; t += in->group, g += in->head_dim)
                expand_shared(bits, &s, codes + t * bits / 8, in->group, in->scale[g], in->min[g], out + t);
        }
        if (in->n_tokens < KV_TILE)
            memset(out + in->n_tokens, 0, (size_t)(KV_TILE - in->n_tokens) * sizeof *out);
    }
}

#include "kernels/attention.inc.h"

bool kv_fill_attention_avx2(struct kv_kernels *table)
{
    fill_attention(table);
    table->key_tile_from_rows = key_tile_from_rows;
    table->value_tile_from_rows = value_tile_from_rows;
    return true;
}

#else
bool kv_fill_attention_avx2(struct kv_kernels *table)
{
    (void)table;
    return false;
}
#endif
