/* Vector kernels in AVX2: the bodies and their bounds stand in vectors.inc.h. */
#include "kernels/kernels.h"

#ifdef __AVX2__

#include "kernels/simd_avx2.h"

#include <math.h>

/* Head sizes with a power of two below a vector are rare: their transform stays as the table had it, in plain C. */
static void hadamard_small(float *x, int n_rows, int head_dim)
{
    struct kv_kernels plain;
    kv_fill_vectors_ref(&plain);
    plain.hadamard(x, n_rows, head_dim);
}

#include "kernels/vectors.inc.h"

bool kv_fill_vectors_avx2(struct kv_kernels *table)
{
    table->rms_norm = rms_norm;
    table->silu_mul = silu_mul;
    table->add = add;
    table->f32_to_f16 = f32_to_f16;
    table->f16_to_f32 = f16_to_f32;
    table->hadamard = hadamard;
    table->log_sum_exp = log_sum_exp;
    return true;
}

#else

bool kv_fill_vectors_avx2(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
