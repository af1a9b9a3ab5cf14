/*
 * What the kernel tests use of cmocka, for the cross build (tests/neon/run): Debian has cmocka for
 * AArch64 only as a package of a foreign architecture. Same names, same lines of output; the first
 * failed check ends the program.
 */
#ifndef KVANT_TESTS_NEON_CMOCKA_H
#define KVANT_TESTS_NEON_CMOCKA_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*test)(void **state);
};
#define cmocka_unit_test(f) { #f, f }

static inline _Noreturn void small_fail(const char *file, int line, const char *what)
{
    printf("%s:%d: %s\n[  FAILED  ] \n", file, line, what);
    fflush(stdout);
    exit(1);
}

#define assert_true(x) ((x) ? (void)0 : small_fail(__FILE__, __LINE__, #x))
#define assert_non_null(x) assert_true((x) != NULL)
#define assert_int_equal(a, b) assert_true((long long)(a) == (long long)(b))
#define assert_int_not_equal(a, b) assert_true((long long)(a) != (long long)(b))
#define assert_memory_equal(a, b, n) assert_true(memcmp(a, b, n) == 0)
#define fail_msg(...)                                \
    do {                                             \
        printf(__VA_ARGS__);                         \
        small_fail(__FILE__, __LINE__, " (above)");  \
    } while (0)
#define print_message(...) printf(__VA_ARGS__)
#define print_error(...) printf(__VA_ARGS__)
#define _fail(file, line) small_fail(file, line, " (above)")

#define cmocka_run_group_tests(tests, setup, teardown) \
    small_run(tests, sizeof(tests) / sizeof(tests)[0], setup, teardown)

static inline int small_run(const struct CMUnitTest *tests, size_t n, int (*setup)(void **),
                            int (*teardown)(void **))
{
    void *state = NULL;
    if (setup && setup(&state)) return 1;
    for (size_t i = 0; i < n; i++) {
        printf("[ RUN      ] %s\n", tests[i].name);
        fflush(stdout);
        tests[i].test(&state);
        printf("[       OK ] %s\n", tests[i].name);
        fflush(stdout);
    }
    if (teardown) teardown(&state);
    printf("[==========] %zu test(s) run.\n", n);
    return 0;
}

#endif
