/* Matrix products in AVX-512 with VNNI: the bodies stand in the templates, which this file instantiates. */
#include "kernels/kernels.h"

#if defined(__AVX512VNNI__) || defined(KV_EMULATE_AVX512)

#include "kernels/matmul_panel.h"
#include "kernels/simd_avx512.h"
#include "kernels/unpack.h"

#include "kernels/panel_unpack.inc.h"

#include "kernels/matmul_panel.inc.h"

#include "kernels/matmul_float.inc.h"

#include "kernels/act_quantize.inc.h"

bool kv_fill_weights_avx512(struct kv_kernels *table)
{
    table->act_quantize = act_quantize;
    table->matmul_rows = matmul_rows;
    table->turn_rows = turn_rows;
    table->lanes = LANES;
    return true;
}

#else

bool kv_fill_weights_avx512(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
