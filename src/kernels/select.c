/* Plain C first, then each level overwrites what it improves. */
#include "kernels/kernels.h"

#include <string.h>

void kv_kernels_select(struct kv_kernels *table, enum kv_cpu_level level)
{
    memset(table, 0, sizeof *table);
    table->level = KV_CPU_SCALAR;
#define X(area) kv_fill_##area##_ref(table);
    KV_KERNEL_AREAS(X)
#undef X
    if (level < KV_CPU_AVX2) return;
#define X(area) \
    if (kv_fill_##area##_avx2(table)) table->level = KV_CPU_AVX2;
    KV_KERNEL_AREAS(X)
#undef X
    if (level < KV_CPU_AVX512) return;
#define X(area) \
    if (kv_fill_##area##_avx512(table)) table->level = KV_CPU_AVX512;
    KV_KERNEL_AREAS(X)
#undef X
}
