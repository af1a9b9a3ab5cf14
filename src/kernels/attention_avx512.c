/*
 * Attention kernels with AVX-512 (F, BW, VL): 16 floats a vector. Rows of f16 to tiles stay with AVX2:
 * they are the exact part of the cache, short, and bound by their stores.
 */
#include "kernels/kernels.h"

#if (defined(__AVX512VBMI__) && defined(__AVX512BW__) && defined(__AVX512VL__)) || defined(KV_EMULATE_AVX512)
#include <math.h>
#include <string.h>

#include "kernels/simd_avx512.h"

#define WIDE 4 /* 6 × 4 sums, 4 loads and a broadcast: 29 of 32 registers; one tile is 4 vectors wide */

#include "kernels/softmax.inc.h"

#include "kernels/half.inc.h"

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
