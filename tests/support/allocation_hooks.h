/*
 * Sees and refuses what the library allocates. Include it in exactly one file of a test program: it defines
 * the C library's aligned_alloc, free, mmap and munmap for this program's own code (the library is linked
 * statically, so for it too), and keeps a table of what is live. One thread.
 */
#ifndef ALLOCATION_HOOKS_H
#define ALLOCATION_HOOKS_H

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HOOKS_CAP 1024

static struct {
    const void *p[HOOKS_CAP];
    size_t bytes[HOOKS_CAP];
    int n_live;
    size_t live_bytes;
    long n_calls, fail_at; /* call number fail_at (from 0) is refused; -1 = none */
} hooks = { .fail_at = -1 };

static bool hooks_refuse(void)
{
    return hooks.n_calls++ == hooks.fail_at;
}

static void *hooks_add(void *p, size_t bytes)
{
    if (hooks.n_live == HOOKS_CAP) abort();
    hooks.p[hooks.n_live] = p;
    hooks.bytes[hooks.n_live++] = bytes;
    hooks.live_bytes += bytes;
    return p;
}

static void hooks_remove(const void *p)
{
    for (int i = 0; i < hooks.n_live; i++) {
        if (hooks.p[i] != p) continue;
        hooks.live_bytes -= hooks.bytes[i];
        hooks.p[i] = hooks.p[--hooks.n_live];
        hooks.bytes[i] = hooks.bytes[hooks.n_live];
        return;
    }
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    void *p;
    if (hooks_refuse() || posix_memalign(&p, alignment, bytes)) return NULL;
    return hooks_add(p, bytes);
}

void free(void *p)
{
    static void (*real_free)(void *);
    static bool searching;
    if (!real_free) {
        if (searching) return; /* dlsym frees the text of an older error (AddressSanitizer's): let it leak */
        searching = true;
        void *symbol = dlsym(RTLD_NEXT, "free");
        memcpy(&real_free, &symbol, sizeof symbol);
    }
    hooks_remove(p);
    real_free(p);
}

void *mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset)
{
    if (hooks_refuse()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    long p = syscall(SYS_mmap, at, bytes, protection, flags, file, offset);
    return p == -1 ? MAP_FAILED : hooks_add((void *)(intptr_t)p, bytes);
}

int munmap(void *p, size_t bytes)
{
    hooks_remove(p);
    return (int)syscall(SYS_munmap, p, bytes);
}

#endif
