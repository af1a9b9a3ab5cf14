/* Fitted grids with AVX2. */
#include "kernels/kernels.h"

#if defined(__AVX2__)
#include "kernels/simd_avx2.h"

#include "kernels/fit.inc.h"

bool kv_fill_fit_avx2(struct kv_kernels *table)
{
    table->fit_groups = fit_groups;
    return true;
}

#else
bool kv_fill_fit_avx2(struct kv_kernels *table)
{
    (void)table;
    return false;
}
#endif
