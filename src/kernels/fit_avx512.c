/* Fitted grids with AVX-512. */
#include "kernels/kernels.h"

#if (defined(__AVX512VBMI__) && defined(__AVX512BW__) && defined(__AVX512VL__)) || defined(KV_EMULATE_AVX512)
#include "kernels/simd_avx512.h"

#include "kernels/fit.inc.h"

bool kv_fill_fit_avx512(struct kv_kernels *table)
{
    table->fit_groups = fit_groups;
    return true;
}

#else
bool kv_fill_fit_avx512(struct kv_kernels *table)
{
    (void)table;
    return false;
}
#endif
