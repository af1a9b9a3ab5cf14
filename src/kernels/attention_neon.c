/* Attention over rows of 16 bits and float tiles in NEON. */
#include "kernels/kernels.h"

#ifdef __aarch64__

#include <math.h>
#include <string.h>

#include "kernels/simd_neon.h"

#define WIDE 3 /* 6 × 3 sums, 3 loads and a broadcast: 22 of 32 registers */

static void key_tile_from_rows(const uint16_t *rows, int64_t row_stride, int n_tokens, int head_dim,
                               float *kt)
{
    for (int t = 0; t < KV_TILE; t += LANES)
        for (int c = 0; c < head_dim; c += LANES) {
            vi x[LANES];
            for (int i = 0; i < LANES; i++)
                x[i] = t + i < n_tokens ? vreinterpretq_s32_f32(vf_load_f16(rows + (t + i) * row_stride + c))
                                        : vi_zero();
            vi_transpose(x);
            for (int i = 0; i < LANES; i++) vi_store(kt + (c + i) * KV_TILE + t, x[i]);
        }
}

static void value_tile_from_rows(const uint16_t *rows, int64_t row_stride, int n_tokens, int head_dim,
                                 float *v)
{
    for (int t = 0; t < n_tokens; t++)
        for (int c = 0; c < head_dim; c += LANES)
            vf_store(v + t * head_dim + c, vf_load_f16(rows + t * row_stride + c));
    memset(v + n_tokens * head_dim, 0, (size_t)((KV_TILE - n_tokens) * head_dim) * sizeof *v);
}

#include "kernels/softmax.inc.h"

#include "kernels/half.inc.h"

#include "kernels/attention.inc.h"

bool kv_fill_attention_neon(struct kv_kernels *table)
{
    fill_attention(table);
    table->key_tile_from_rows = key_tile_from_rows;
    table->value_tile_from_rows = value_tile_from_rows;
    return true;
}

#else

bool kv_fill_attention_neon(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
