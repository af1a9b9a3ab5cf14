/*
 * bench_peak: 10^9 int8 multiply-adds a second of all threads together, of dot products of AVX-512 VNNI whose
 * operands stay in registers: what no product with int8 activations can exceed. The best of several runs.
 * Prints 0 where the processor has no such instructions. bench/roofline divides by it.
 */
#include "base/os.h"
#include "base/threads.h"

#include <stdio.h>

#define ROUNDS 300    /* threads that begin on one core take some 50 ms to spread */
#define STEPS  200000 /* some ms */
#define SUMS   12     /* that don't wait for each other: two a cycle, each done after five */

#if defined(__x86_64__)
/* Registers by name: an array of sums stays in memory where a function alone has the instructions. What they
 * hold does not matter, and nobody else's values are in them. */
#define DOT(n) "vpdpbusd %%zmm12, %%zmm12, %%zmm" #n "\n\t"

__attribute__((target("avx512f,avx512vnni"))) static void dots(void *user, int i_thread, int n_threads)
{
    (void)user;
    (void)i_thread;
    (void)n_threads;
    for (int step = 0; step < STEPS; step++)
        __asm__ __volatile__(DOT(0) DOT(1) DOT(2) DOT(3) DOT(4) DOT(5)
                             DOT(6) DOT(7) DOT(8) DOT(9) DOT(10) DOT(11) ::
                                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
                                   "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11");
}

static double multiply_adds_per_s(struct kv_pool *pool)
{
    if (kv_cpu_detect() < KV_CPU_AVX512) return 0.0;
    double best = 1e30;
    for (int i = 0; i < ROUNDS; i++) {
        double begin = kv_clock_s();
        kv_pool_run(pool, dots, NULL);
        double seconds = kv_clock_s() - begin;
        if (seconds < best) best = seconds;
    }
    return (double)STEPS * SUMS * 64.0 * kv_pool_size(pool) / best;
}
#else
static double multiply_adds_per_s(struct kv_pool *pool)
{
    (void)pool;
    return 0.0;
}
#endif

int main(void)
{
    struct kv_pool *pool;
    struct kvant_error err;
    if (kv_pool_open(&pool, kv_cpu_count(), &err) != KVANT_OK) {
        fprintf(stderr, "bench_peak: %s\n", err.message);
        return 1;
    }
    printf("%d threads, int8 dot products: %.0f GMAC/s\n", kv_pool_size(pool),
           1e-9 * multiply_adds_per_s(pool));
    kv_pool_close(pool);
    return 0;
}
