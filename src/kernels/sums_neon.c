/* Sums over codes with NEON: the plain C, in vectors of this width. */
#include "kernels/kernels.h"

#ifdef __aarch64__

#include "kernels/sums.inc.h"

bool kv_fill_sums_neon(struct kv_kernels *table)
{
    fill_sums(table);
    return true;
}

#else

bool kv_fill_sums_neon(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
