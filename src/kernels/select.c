/* Plain C first, then each level overwrites what it improves. */
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

void kv_kernels_select(struct kv_kernels *table, enum kv_cpu_level level)
{
    memset(table, 0, sizeof *table);
    table->level = KV_CPU_SCALAR;
#define X(area) kv_fill_##area##_ref(table);
    KV_KERNEL_AREAS(X)
#undef X
#if defined(__aarch64__)
    if (level < KV_CPU_NEON) return;
#define X(area) \
    if (kv_fill_##area##_neon(table)) table->level = KV_CPU_NEON;
    KV_KERNEL_AREAS(X)
#undef X
#else
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
#endif
}

kvant_status kv_kernels_open(struct kv_kernels *table, const char *wanted, struct kvant_error *err)
{
    enum kv_cpu_level level = kv_cpu_detect();
    if (!wanted) wanted = getenv("KVANT_CPU");
    if (wanted && *wanted) {
        int mask = kv_cpu_level_parse(wanted);
        if (mask < 0)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "cpu level \"%s\" is not one of %s",
                    wanted, kv_cpu_level_names());
        if (mask > (int)level)
            KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1, "this CPU has no %s; its highest level is %s", wanted,
                    kv_cpu_level_name(level));
        level = (enum kv_cpu_level)mask;
    }
    kv_kernels_select(table, level);
    return KVANT_OK;
}
