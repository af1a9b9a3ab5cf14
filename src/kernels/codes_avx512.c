/* Attention over codes with AVX-512 VNNI: 64 int8 products an instruction, added in 32 bits. */
#include "kernels/kernels.h"

#if (defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)) || defined(KV_EMULATE_AVX512)

#include <math.h>

#include "kernels/code_layout.h"
#include "kernels/simd_avx512.h"

#include "kernels/softmax.inc.h"

#include "kernels/codes.inc.h"

bool kv_fill_codes_avx512(struct kv_kernels *table)
{
    fill_codes(table);
    return true;
}

#else

bool kv_fill_codes_avx512(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
