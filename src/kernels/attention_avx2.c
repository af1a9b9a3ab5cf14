/*
 * Attention kernels with AVX2, FMA and F16C: 8 floats a vector.
 */
#include "kernels/kernels.h"

#ifdef __AVX2__
#include "base/half.h"

#include <immintrin.h>
#include <math.h>

typedef __m256 vec;
#define LANES 8
#define WIDE 2 /* 6 × 2 sums, 2 loads and a broadcast: 15 of 16 registers */

static inline vec vec_set(float x) { return _mm256_set1_ps(x); }
static inline vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vec_store(float *p, vec x) { _mm256_storeu_ps(p, x); }
static inline vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static inline vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); } /* b if a or b is NaN */

/* Head sizes are multiples of 8: a vector is never partly used. */
static inline vec vec_load_part(const float *p, int n) { (void)n; return vec_load(p); }
static inline void vec_store_part(float *p, int n, vec x) { (void)n; vec_store(p, x); }

/* Lane i if first <= base + i < last, else `other`. */
static inline vec vec_in_range(vec x, int base, int first, int last, float other)
{
    __m256i i = _mm256_add_epi32(_mm256_set1_epi32(base), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    __m256i in = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), i),
                                     _mm256_cmpgt_epi32(_mm256_set1_epi32(last), i));
    return _mm256_blendv_ps(vec_set(other), x, _mm256_castsi256_ps(in));
}

static inline __m128 halve(vec x, bool upper)
{
    return upper ? _mm256_extractf128_ps(x, 1) : _mm256_castps256_ps128(x);
}

static inline float vec_reduce_max(vec x)
{
    __m128 m = _mm_max_ps(halve(x, false), halve(x, true));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

static inline float vec_reduce_add(vec x)
{
    __m128 m = _mm_add_ps(halve(x, false), halve(x, true));
    m = _mm_add_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
}

/* e^x for x <= 0; NaN stays, below the smallest normal number 0. x = n·ln2 + r, |r| <= ln2 / 2, ln2 in two parts so
 * that r is exact to 2^-32; e^r = 1 + r + r²·p(r) with p fitted for the least relative error, 3.1e-9. Rounding makes it
 * 8.5e-8 in all, measured over every float from -87.3 to -0.03. */
static inline vec vec_exp(vec x)
{
    const vec lowest = vec_set(-0x1.5d589ep+6f); /* -126 · ln2: the exponent below holds 2^-126 and more */
    vec y = vec_max(lowest, x);
    vec n = _mm256_round_ps(vec_mul(y, vec_set(0x1.715476p+0f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec r = vec_fma(n, vec_set(-0x1.62e400p-1f), y);
    r = vec_fma(n, vec_set(-0x1.7f7d1cp-20f), r);
    vec p = vec_fma(vec_set(0x1.6a2352p-10f), r, vec_set(0x1.123a6cp-7f));
    p = vec_fma(p, r, vec_set(0x1.5558f4p-5f));
    p = vec_fma(p, r, vec_set(0x1.555490p-3f));
    p = vec_fma(p, r, vec_set(0x1.fffffcp-2f));
    p = vec_fma(p, vec_mul(r, r), r);
    p = vec_add(p, vec_set(1.0f));
    __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    p = vec_mul(p, _mm256_castsi256_ps(exponent));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, lowest, _CMP_LT_OQ), p);
}

#include "kernels/attention_simd.h"

static inline vec load_half(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }

/* out[j] = lane j of rows: 8 rows of 8 turned into 8 columns. */
static inline void transpose_8x8(vec x[8])
{
    vec pair[8], quad[8];
    for (int i = 0; i < 8; i += 2) {
        pair[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        pair[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            quad[i + 2 * j] = _mm256_shuffle_ps(pair[i + j], pair[i + 2 + j], _MM_SHUFFLE(1, 0, 1, 0));
            quad[i + 2 * j + 1] = _mm256_shuffle_ps(pair[i + j], pair[i + 2 + j], _MM_SHUFFLE(3, 2, 3, 2));
        }
    for (int j = 0; j < 4; j++) {
        x[j] = _mm256_permute2f128_ps(quad[j], quad[j + 4], 0x20);
        x[j + 4] = _mm256_permute2f128_ps(quad[j], quad[j + 4], 0x31);
    }
}

static void key_tile_from_rows_avx2(const uint16_t *rows, int64_t row_stride, int n_tokens, int head_dim, float *kt)
{
    for (int t = 0; t < KV_TILE; t += 8)
        for (int c = 0; c < head_dim; c += 8) {
            vec x[8];
            for (int i = 0; i < 8; i++)
                x[i] = t + i < n_tokens ? load_half(rows + (t + i) * row_stride + c) : vec_set(0.0f);
            transpose_8x8(x);
            for (int i = 0; i < 8; i++) vec_store(kt + (c + i) * KV_TILE + t, x[i]);
        }
}

static void value_tile_from_rows_avx2(const uint16_t *rows, int64_t row_stride, int n_tokens, int head_dim, float *v)
{
    for (int t = 0; t < n_tokens; t++)
        for (int c = 0; c < head_dim; c += 8) vec_store(v + t * head_dim + c, load_half(rows + t * row_stride + c));
    memset(v + n_tokens * head_dim, 0, (size_t)((KV_TILE - n_tokens) * head_dim) * sizeof *v);
}

/* Codes [8 i, 8 i + 8) as floats. Each lane gets a 32-bit window that holds its code and shifts it down. `last`: nothing
 * behind these codes may be read. `bits` and `last` are constants at each call. */
INLINE vec decode_8(int bits, const uint8_t *codes, int i, bool last)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const uint8_t *p = codes + i * bits;
    if (bits == 0) return vec_set(0.0f);
    if (bits == 8) return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)));
    uint32_t window = 0;
    if (bits == 3 && last) { /* 3 bytes are left */
        memcpy(&window, p, 2);
        window |= (uint32_t)p[2] << 16;
    } else {
        memcpy(&window, p, bits == 2 ? 2 : 4);
    }
    __m256i code = _mm256_srlv_epi32(_mm256_set1_epi32((int)window), _mm256_mullo_epi32(lane, _mm256_set1_epi32(bits)));
    return _mm256_cvtepi32_ps(_mm256_and_si256(code, _mm256_set1_epi32((1 << bits) - 1)));
}

/* n codes (a multiple of 8) that share a scale and a minimum. */
INLINE void expand_shared(int bits, const uint8_t *codes, int n, uint16_t scale_f16, uint16_t min_f16, float *out)
{
    vec scale = vec_set(_cvtsh_ss(scale_f16)), min = vec_set(_cvtsh_ss(min_f16));
    int end = n / 8 - 1;
    for (int i = 0; i < end; i++) vec_store(out + 8 * i, vec_fma(decode_8(bits, codes, i, false), scale, min));
    vec_store(out + 8 * end, vec_fma(decode_8(bits, codes, end, true), scale, min));
}

/* The codes of one channel of a page, whose 64 tokens each have their own scale and minimum. */
INLINE void expand_each(int bits, const uint8_t *codes, const uint16_t *scale, const uint16_t *min, float *out)
{
    for (int i = 0; i < KV_TILE / 8; i++) {
        vec code = decode_8(bits, codes, i, i == KV_TILE / 8 - 1);
        vec_store(out + 8 * i, vec_fma(code, load_half(scale + 8 * i), load_half(min + 8 * i)));
    }
}

INLINE void expand_half(const uint8_t *codes, int n, float *out)
{
    for (int i = 0; i < n; i += 8) vec_store(out + i, load_half(codes + 2 * i));
}

/* bits: a constant at each call, that of `in`. */
INLINE void expand_keys(int bits, const struct kv_key_tile *in, float *kt)
{
    for (int i = 0; i < in->n_channels; i++) {
        int stored = in->channel_first + i;
        float *out = kt + (in->order ? in->order[stored] : stored) * KV_TILE;
        const uint8_t *codes = in->codes + (size_t)i * 8 * (size_t)bits;
        if (bits == 16) {
            expand_half(codes, KV_TILE, out);
        } else if (in->group == 0) {
            expand_each(bits, codes, in->scale, in->min, out);
        } else {
            for (int t = 0, g = stored; t < KV_TILE; t += in->group, g += in->head_dim)
                expand_shared(bits, codes + t * bits / 8, in->group, in->scale[g], in->min[g], out + t);
        }
        if (in->n_tokens < KV_TILE) memset(out + in->n_tokens, 0, (size_t)(KV_TILE - in->n_tokens) * sizeof *out);
    }
}

static void key_tile_expand_avx2(const struct kv_key_tile *in, float *kt)
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

INLINE void expand_values(int bits, const struct kv_value_tile *in, float *v)
{
    const uint8_t *codes = in->codes;
    for (int t = 0, g = 0; t < in->n_tokens; t++) {
        if (bits == 16) {
            expand_half(codes, in->head_dim, v);
            codes += 2 * in->head_dim;
            v += in->head_dim;
            continue;
        }
        for (int c = 0; c < in->head_dim; c += in->group, g++) {
            expand_shared(bits, codes, in->group, in->scale[g], in->min[g], v);
            codes += in->group * bits / 8;
            v += in->group;
        }
    }
    memset(v, 0, (size_t)((KV_TILE - in->n_tokens) * in->head_dim) * sizeof *v);
}

static void value_tile_expand_avx2(const struct kv_value_tile *in, float *v)
{
    switch (in->bits) {
    case 2: expand_values(2, in, v); break;
    case 3: expand_values(3, in, v); break;
    case 4: expand_values(4, in, v); break;
    case 8: expand_values(8, in, v); break;
    default: expand_values(16, in, v);
    }
}

bool kv_fill_attention_avx2(struct kv_kernels *table)
{
    table->attn_tile = attn_tile_simd;
    table->key_tile_from_rows = key_tile_from_rows_avx2;
    table->value_tile_from_rows = value_tile_from_rows_avx2;
    table->key_tile_expand = key_tile_expand_avx2;
    table->value_tile_expand = value_tile_expand_avx2;
    table->key_tile_hadamard = key_tile_hadamard_simd;
    table->key_tile_add_center = key_tile_add_center_simd;
    return true;
}

#else
bool kv_fill_attention_avx2(struct kv_kernels *table)
{
    (void)table;
    return false;
}
#endif
