/* Sums over codes with AVX-512. */
#include "kernels/kernels.h"

#if (defined(__AVX512BW__) && defined(__AVX512VL__)) || defined(KV_EMULATE_AVX512)

#include "kernels/simd_avx512.h"
#include "kernels/sums.inc.h"
#include "kernels/sums_keys.inc.h"

bool kv_fill_sums_avx512(struct kv_kernels *table)
{
    fill_sums(table);
    return true;
}

#else

bool kv_fill_sums_avx512(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
