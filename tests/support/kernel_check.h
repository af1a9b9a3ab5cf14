/*
 * What the kernel checkers share: levels of this CPU, seeded random data, buffers between guard pages.
 */
#ifndef KERNEL_CHECK_H
#define KERNEL_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/kernels.h"

/* Tables of scalar, avx2, avx512, as far as this CPU goes; the count. */
int check_levels(struct kv_kernels tables[3]);

/* xorshift: the same seed gives the same data. KVANT_TEST_SEED replaces the fixed start. */
struct check_random {
    uint64_t seed, state;
};
struct check_random check_random_open(void);
uint64_t check_random_next(struct check_random *r);
float check_random_float(struct check_random *r, float low, float high);
int64_t check_random_below(struct check_random *r, int64_t n);

/* What floats look like. */
enum check_data { CHECK_PLAIN, CHECK_ZERO, CHECK_LARGEST, CHECK_OUTLIER, CHECK_DATA_COUNT };
void check_fill(struct check_random *r, enum check_data kind, float largest, float *x, int64_t n);

/* n bytes that touch an inaccessible page: at their end, or (at_begin) at their start. The rest of their own
 * pages is filled with a pattern that check_buffer_close verifies. */
struct check_buffer {
    void *p;
    size_t n_bytes;
    uint8_t *body;
    size_t body_bytes;
};
struct check_buffer check_buffer_open(size_t n_bytes, bool at_begin);
void check_buffer_close(struct check_buffer *b);

/* Fails the test with the seed and the case, printf-like, unless ok. */
#define CHECK(ok, random, ...)                                                                        \
    do {                                                                                              \
        if (!(ok)) check_failed((random), __FILE__, __LINE__, __VA_ARGS__);                           \
    } while (0)
void check_failed(const struct check_random *r, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Random contents, ending at an inaccessible page: bytes, float32 and float16. */
struct check_buffer check_bytes(struct check_random *r, size_t n);
struct check_buffer check_floats(struct check_random *r, size_t n, float low, float high);
struct check_buffer check_halves(struct check_random *r, size_t n, float low, float high);

#endif
