/*
 * Attention kernels with AVX2, FMA and F16C: 8 floats a vector.
 */
#include "kernels/kernels.h"

#ifdef __AVX2__

#include <math.h>
#include <string.h>

#include "kernels/simd_avx2.h"

#define WIDE 2 /* 6 × 2 sums, 2 loads and a broadcast: 15 of 16 registers */

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

#include "kernels/softmax.inc.h"

#include "kernels/half.inc.h"

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
