/* What the machine can do, measured: the yardstick of every benchmark. */
#include "run/machine.h"

#include "base/memory.h"
#include "base/os.h"
#include "model/model.h"

#include <stdatomic.h>

#define BUFFER_BYTES ((size_t)384 << 20) /* a dozen times the last-level cache of most machines            */
#define CHUNK_BYTES ((size_t)1 << 20)
#define N_CHUNKS ((int64_t)(BUFFER_BYTES / CHUNK_BYTES))
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

kvant_status kv_read_buffer_open(struct kv_read_buffer *out, struct kv_pool *pool, struct kvant_error *err)
{
    out->words = kv_pages_alloc(BUFFER_BYTES);
    if (!out->words)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %zu MiB to measure the read bandwidth on",
                BUFFER_BYTES >> 20);
    kv_pool_for(pool, N_CHUNKS, touch_chunk, out->words);
    return KVANT_OK;
}

void kv_read_buffer_close(struct kv_read_buffer *buffer)
{
    if (buffer->words) kv_pages_free(buffer->words, BUFFER_BYTES);
    buffer->words = NULL;
}

double kv_read_buffer_pass(const struct kv_read_buffer *buffer, struct kv_pool *pool)
{
    struct read_job job = { .words = buffer->words };
    atomic_init(&job.sum, 0);
    double start = kv_clock_s();
    kv_pool_for(pool, N_CHUNKS, read_chunk, &job);
    return (double)BUFFER_BYTES / (kv_clock_s() - start) * 1e-9;
}

double kvant_machine_read_gb_per_s(const struct kvant_model *model)
{
    struct kv_pool *pool;
    struct kv_read_buffer buffer;
    if (kv_pool_open(&pool, model->n_threads, NULL) != KVANT_OK) return 0.0;
    if (kv_read_buffer_open(&buffer, pool, NULL) != KVANT_OK) {
        kv_pool_close(pool);
        return 0.0;
    }
    double best = 0.0, start = kv_clock_s();
    for (int pass = 0; pass < PASSES_MIN || kv_clock_s() - start < BUDGET_S; pass++) {
        double rate = kv_read_buffer_pass(&buffer, pool);
        best = rate > best ? rate : best;
    }
    kv_read_buffer_close(&buffer);
    kv_pool_close(pool);
    return best;
}
