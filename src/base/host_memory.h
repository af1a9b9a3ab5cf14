/*
 * How much memory this process may ever use.
 */
#ifndef KV_BASE_HOST_MEMORY_H
#define KV_BASE_HOST_MEMORY_H

#include <stddef.h>

/* Bytes of physical memory, or of the control group's limit where that is lower; SIZE_MAX when the system
 * does not say. */
size_t kv_host_memory_bytes(void);

#endif
