#include "base/host_memory.h"

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

/* A limit file holds one decimal number, or "max". */
static size_t read_limit(const char *path)
{
    FILE *f = fopen(path, "re");
    if (!f) return SIZE_MAX;
    unsigned long long limit;
    int n_read = fscanf(f, "%llu", &limit);
    fclose(f);
    return n_read == 1 && limit > 0 && limit < SIZE_MAX ? (size_t)limit : SIZE_MAX;
}

size_t kv_host_memory_bytes(void)
{
    long n_pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    size_t bytes = n_pages > 0 && page_bytes > 0 ? (size_t)n_pages * (size_t)page_bytes : SIZE_MAX;
    static const char *const limits[] = { "/sys/fs/cgroup/memory.max",
                                          "/sys/fs/cgroup/memory/memory.limit_in_bytes" };
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        size_t limit = read_limit(limits[i]);
        if (limit < bytes) bytes = limit;
    }
    return bytes;
}
