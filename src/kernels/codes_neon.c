/* Attention over codes in NEON. */
#include "kernels/kernels.h"

#ifdef __aarch64__

#include <math.h>

#include "kernels/code_layout.h"
#include "kernels/simd_neon.h"

#include "kernels/softmax.inc.h"

#include "kernels/codes.inc.h"

bool kv_fill_codes_neon(struct kv_kernels *table)
{
    fill_codes(table);
    return true;
}

#else

bool kv_fill_codes_neon(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
