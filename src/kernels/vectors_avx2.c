/* Vector kernels in AVX2: the bodies and their bounds stand in vectors.inc.h. */
#include "kernels/kernels.h"

#ifdef __AVX2__
#include <math.h>

#include "kernels/simd_avx2.h"

#include "kernels/vectors.inc.h"

bool kv_fill_vectors_avx2(struct kv_kernels *table)
{
    fill_vectors(table);
    return true;
}

#else
bool kv_fill_vectors_avx2(struct kv_kernels *table)
{
    (void)table;
    return false;
}
#endif
