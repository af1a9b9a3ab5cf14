/* Vector kernels in NEON: the bodies and their bounds stand in vectors.inc.h. */
#include "kernels/kernels.h"

#ifdef __aarch64__

#include <math.h>

#include "kernels/simd_neon.h"

#include "kernels/vectors.inc.h"

bool kv_fill_vectors_neon(struct kv_kernels *table)
{
    fill_vectors(table);
    return true;
}

#else

bool kv_fill_vectors_neon(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
