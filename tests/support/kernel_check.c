#include "support/kernel_check.h"

#include "base/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PATTERN 0xa5

int check_levels(struct kv_kernels tables[3])
{
    int n = (int)kv_cpu_detect() + 1;
    for (int i = 0; i < n; i++) kv_kernels_select(&tables[i], (enum kv_cpu_level)i);
    return n;
}

struct check_random check_random_open(void)
{
    const char *text = getenv("KVANT_TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : 0x9e3779b97f4a7c15u;
    return (struct check_random){ seed, seed ? seed : 1 };
}

uint64_t check_random_next(struct check_random *r)
{
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state;
}

float check_random_float(struct check_random *r, float low, float high)
{
    return low + (high - low) * (float)(check_random_next(r) >> 40) * 0x1p-24f;
}

int64_t check_random_below(struct check_random *r, int64_t n)
{
    return (int64_t)(check_random_next(r) >> 1) % n;
}

void check_fill(struct check_random *r, enum check_data kind, float largest, float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float plain = check_random_float(r, -3.0f, 3.0f);
        x[i] = plain;
        if (kind == CHECK_ZERO) x[i] = 0.0f;
        if (kind == CHECK_LARGEST) x[i] = copysignf(largest, plain);
    }
    if (kind == CHECK_OUTLIER && n > 0) x[check_random_below(r, n)] = largest;
}

struct check_buffer check_buffer_open(size_t n_bytes, bool at_begin)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body_bytes = (n_bytes + page) / page * page;
    size_t n_mapped = body_bytes + 2 * page;
    uint8_t *map = mmap(NULL, n_mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mprotect(map, page, PROT_NONE), 0);
    assert_int_equal(mprotect(map + page + body_bytes, page, PROT_NONE), 0);
    memset(map + page, PATTERN, body_bytes);
    struct check_buffer b = { NULL, n_bytes, map + page, body_bytes };
    b.p = at_begin ? b.body : b.body + body_bytes - n_bytes;
    return b;
}

void check_buffer_close(struct check_buffer *b)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *first = b->p;
    for (uint8_t *p = b->body; p < b->body + b->body_bytes; p++) {
        if (p >= first && p < first + b->n_bytes) continue;
        if (*p != PATTERN)
            fail_msg("a byte %td before or %td after a buffer was overwritten", first - p,
                     p - first - (ptrdiff_t)b->n_bytes);
    }
    munmap(b->body - page, b->body_bytes + 2 * page);
    memset(b, 0, sizeof *b);
}

void check_failed(const struct check_random *r, const char *file, int line, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    print_error("%s (KVANT_TEST_SEED=%#llx)\n", text, (unsigned long long)r->seed);
    _fail(file, line);
}

struct check_buffer check_bytes(struct check_random *r, size_t n)
{
    struct check_buffer b = check_buffer_open(n, false);
    for (size_t i = 0; i < n; i++) ((uint8_t *)b.p)[i] = (uint8_t)(check_random_next(r) >> 20);
    return b;
}

struct check_buffer check_floats(struct check_random *r, size_t n, float low, float high)
{
    struct check_buffer b = check_buffer_open(n * sizeof(float), false);
    for (size_t i = 0; i < n; i++) ((float *)b.p)[i] = check_random_float(r, low, high);
    return b;
}

struct check_buffer check_halves(struct check_random *r, size_t n, float low, float high)
{
    struct check_buffer b = check_buffer_open(n * sizeof(uint16_t), false);
    for (size_t i = 0; i < n; i++) ((uint16_t *)b.p)[i] = kv_f32_to_f16(check_random_float(r, low, high));
    return b;
}
