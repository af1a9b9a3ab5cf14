/* Filled next. */
#include "kernels/kernels.h"

bool kv_fill_vectors_avx2(struct kv_kernels *table)
{
    (void)table;
    return false;
}
