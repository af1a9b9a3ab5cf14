/* Matrix products in NEON: the bodies stand in the templates, which this file instantiates. */
#include "kernels/kernels.h"

#ifdef __aarch64__

#include "kernels/matmul_panel.h"
#include "kernels/simd_neon.h"
#include "kernels/unpack.h"

#include "kernels/panel_unpack.inc.h"

#include "kernels/matmul_panel.inc.h"

#include "kernels/matmul_float.inc.h"

#include "kernels/act_quantize.inc.h"

bool kv_fill_weights_neon(struct kv_kernels *table)
{
    table->act_quantize = act_quantize;
    table->matmul_rows = matmul_rows;
    table->turn_rows = turn_rows;
    table->lanes = LANES;
    return true;
}

#else

bool kv_fill_weights_neon(struct kv_kernels *table)
{
    (void)table;
    return false;
}

#endif
