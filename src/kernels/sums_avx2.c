/* Sums over codes with AVX2. */
#include "kernels/kernels.h"

#ifdef __AVX2__

#include "kernels/simd_avx2.h"
#include "kernels/sums.inc.h"
#include "kernels/sums_keys.inc.h"

bool kv_fill_sums_avx2(struct kv_kernels *table)
{
    fill_sums(table);
    return true;
}

#else

bool kv_fill_sums_avx2(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
