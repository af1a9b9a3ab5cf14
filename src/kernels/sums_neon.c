/* Sums over codes of values with NEON: the plain C, in vectors of this width.
 * Those of keys stay in plain C. */
#include "kernels/kernels.h"

#ifdef __aarch64__

#include "kernels/sums.inc.h"

bool kv_fill_sums_neon(struct kv_kernels *table)
{
    table->sum_values = sum_values;
    return true;
}

#else

bool kv_fill_sums_neon(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
