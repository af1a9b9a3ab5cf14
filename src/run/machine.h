/*
 * How fast this machine reads memory: the yardstick of every benchmark, and what empties the caches between
 * two measurements.
 */
#ifndef KV_RUN_MACHINE_H
#define KV_RUN_MACHINE_H

#include "base/threads.h"

/* Much larger than the last-level cache of most machines: a pass over it leaves nothing else in there. */
struct kv_read_buffer {
    uint64_t *words;
};

/* Brings the buffer into being with the pool's threads. Errors: MEMORY. */
kvant_status kv_read_buffer_open(struct kv_read_buffer *out, struct kv_pool *pool, struct kvant_error *err);
void kv_read_buffer_close(struct kv_read_buffer *buffer);

/* Reads it once with all threads of the pool: 1e9 bytes per second. */
double kv_read_buffer_pass(const struct kv_read_buffer *buffer, struct kv_pool *pool);

#endif
