/* What the machine can do, measured: the yardstick of every benchmark. */
#include "base/memory.h"
#include "base/os.h"
#include "base/threads.h"
#include "model/model.h"

#include <stdatomic.h>

#define BUFFER_BYTES ((size_t)384 << 20) /* a dozen times the last-level cache of most machines            */
#define CHUNK_BYTES ((size_t)1 << 20)
#define BUDGET_S 0.4                     /* passes after the first; the first brings the pages into being  */
#define PASSES_MIN 3

struct read_job {
    const uint64_t *words;
    atomic_ullong sum; /* keeps the reads alive */
};

/* Eight sums, so that additions never wait for each other; compilers make vectors of them. */
static void read_chunk(void *user, int64_t i_item, int i_thread)
{
    (void)i_thread;
    struct read_job *job = user;
    const uint64_t *w = job->words + (size_t)i_item * (CHUNK_BYTES / sizeof *w);
    uint64_t sum[8] = { 0 };
    for (size_t i = 0; i < CHUNK_BYTES / sizeof *w; i += 8) {
        if (i % 64 == 0) __builtin_prefetch(w + i + 512);
        for (size_t j = 0; j < 8; j++) sum[j] += w[i + j];
    }
    atomic_fetch_add(&job->sum, sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7]);
}

static void touch_chunk(void *user, int64_t i_item, int i_thread)
{
    (void)i_thread;
    uint64_t *w = (uint64_t *)user + (size_t)i_item * (CHUNK_BYTES / sizeof *w);
    for (size_t i = 0; i < CHUNK_BYTES / sizeof *w; i++) w[i] = i;
}

double kvant_machine_read_gb_per_s(const struct kvant_model *model)
{
    struct kv_pool *pool;
    uint64_t *words = kv_pages_alloc(BUFFER_BYTES);
    if (!words) return 0.0;
    if (kv_pool_open(&pool, model->n_threads, NULL) != KVANT_OK) {
        kv_pages_free(words, BUFFER_BYTES);
        return 0.0;
    }
    int64_t n_chunks = (int64_t)(BUFFER_BYTES / CHUNK_BYTES);
    struct read_job job = { .words = words };
    atomic_init(&job.sum, 0);
    kv_pool_for(pool, n_chunks, touch_chunk, words);

    double best = 0.0, start = kv_clock_s();
    for (int pass = 0; pass < PASSES_MIN || kv_clock_s() - start < BUDGET_S; pass++) {
        double begin = kv_clock_s();
        kv_pool_for(pool, n_chunks, read_chunk, &job);
        double rate = (double)BUFFER_BYTES / (kv_clock_s() - begin) * 1e-9;
        best = rate > best ? rate : best;
    }
    kv_pool_close(pool);
    kv_pages_free(words, BUFFER_BYTES);
    return best;
}
