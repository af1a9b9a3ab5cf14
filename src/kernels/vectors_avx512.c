/* Vector kernels in AVX-512: the bodies and their bounds stand in vectors.inc.h. */
#include "kernels/kernels.h"

#if defined(__AVX512VNNI__) || defined(KV_EMULATE_AVX512)
#include <math.h>

#include "kernels/simd_avx512.h"

#include "kernels/vectors.inc.h"

bool kv_fill_vectors_avx512(struct kv_kernels *table)
{
    fill_vectors(table);
    return true;
}

#else
bool kv_fill_vectors_avx512(struct kv_kernels *table)
{
    (void)table;
    return false;
}
#endif
