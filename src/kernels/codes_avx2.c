/* Attention over codes with AVX2: 32 int8 products an instruction, added in 16 bits as long as they fit. */
#include "kernels/kernels.h"

#ifdef __AVX2__

#include <math.h>

#include "kernels/code_layout.h"
#include "kernels/simd_avx2.h"

#include "kernels/softmax.inc.h"

#include "kernels/codes.inc.h"

bool kv_fill_codes_avx2(struct kv_kernels *table)
{
    fill_codes(table);
    return true;
}

#else

bool kv_fill_codes_avx2(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
