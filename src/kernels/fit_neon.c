/* Fitted grids in NEON. */
#include "kernels/kernels.h"

#ifdef __aarch64__

#include "kernels/simd_neon.h"

#include "kernels/fit.inc.h"

bool kv_fill_fit_neon(struct kv_kernels *table)
{
    table->fit_groups = fit_groups;
    return true;
}

#else

bool kv_fill_fit_neon(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
