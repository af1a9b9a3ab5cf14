/* Files, atomic writing, clock, cores and CPU levels. */
#include "base/memory.h"
#include "base/os.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[256];

static int make_folder(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/kvant-os-XXXXXX", base ? base : P_tmpdir);
    return mkdtemp(folder) ? 0 : -1;
}

/* Fails when anything but `file` was left behind. */
static int remove_folder(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/file", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/link", folder);
    unlink(path);
    return rmdir(folder);
}

static void name_file(char path[300], const char *name)
{
    snprintf(path, 300, "%s/%s", folder, name);
}

static void write_and_read_back(void **state)
{
    (void)state;
    char path[300], *text;
    struct kvant_error err;
    size_t n;
    name_file(path, "file");
    int64_t n_bytes;
    assert_false(kv_file_exists(path));
    assert_int_equal(kv_file_get_bytes(path, &n_bytes, &err), KVANT_OK);
    assert_int_equal(n_bytes, -1);
    assert_int_equal(kv_file_write(path, "first and longer", 16, &err), KVANT_OK);
    assert_int_equal(kv_file_get_bytes(path, &n_bytes, &err), KVANT_OK);
    assert_int_equal(n_bytes, 16);
    assert_int_equal(kv_file_write(path, "a\0b", 3, &err), KVANT_OK);
    assert_true(kv_file_exists(path));
    assert_int_equal(kv_file_read(path, 3, &text, &n, &err), KVANT_OK);
    assert_int_equal(n, 3);
    assert_memory_equal(text, "a\0b", 4); /* with the terminator */
    kv_free(text);
    assert_int_equal(kv_file_read(path, 2, &text, &n, &err), KVANT_ERR_IO);
    assert_null(text);
    assert_non_null(strstr(err.message, "limit of 2 bytes"));

    struct kv_file_map map;
    assert_int_equal(kv_file_map_open(&map, path, &err), KVANT_OK);
    assert_int_equal(map.n_bytes, 3);
    assert_memory_equal(map.data, "a\0b", 3);
    kv_file_map_close(&map);
    kv_file_map_close(&map); /* closed twice is closed */
}

static void long_files_are_read_whole(void **state)
{
    (void)state;
    char path[300], *text;
    struct kvant_error err;
    size_t n, n_bytes = 300001;
    char *data = kv_alloc(n_bytes, 1);
    for (size_t i = 0; i < n_bytes; i++) data[i] = (char)(i * 31 >> 3);
    name_file(path, "file");
    assert_int_equal(kv_file_write(path, data, n_bytes, &err), KVANT_OK);
    assert_int_equal(kv_file_read(path, 1 << 20, &text, &n, &err), KVANT_OK);
    assert_int_equal(n, n_bytes);
    assert_memory_equal(text, data, n_bytes);
    kv_free(text);
    kv_free(data);
}

/* A pipe has no size to be believed. */
static void standard_input_is_read_to_its_end(void **state)
{
    (void)state;
    char path[300], *text;
    struct kvant_error err;
    size_t n;
    char *data = kv_alloc(200000, 1);
    memset(data, 'x', 200000);
    name_file(path, "file");
    assert_int_equal(kv_file_write(path, data, 200000, &err), KVANT_OK);
    char command[340];
    snprintf(command, sizeof command, "cat %s", path);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    int saved = dup(0);
    assert_int_equal(dup2(fileno(pipe), 0), 0);
    kvant_status status = kv_file_read("-", 1 << 20, &text, &n, &err);
    dup2(saved, 0);
    close(saved);
    pclose(pipe);
    assert_int_equal(status, KVANT_OK);
    assert_int_equal(n, 200000);
    kv_free(text);
    kv_free(data);
}

static void refusals_name_the_file(void **state)
{
    (void)state;
    char path[300], *text;
    struct kvant_error err;
    struct kv_file_map map;
    size_t n;
    name_file(path, "absent/file");
    assert_int_equal(kv_file_map_open(&map, path, &err), KVANT_ERR_IO);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(kv_file_read(path, 10, &text, &n, &err), KVANT_ERR_IO);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(kv_file_write(path, "x", 1, &err), KVANT_ERR_IO);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(kv_file_write(folder, "x", 1, &err), KVANT_ERR_IO);
    assert_non_null(strstr(err.message, "is a directory"));
    assert_int_equal(kv_file_map_open(&map, "/dev/null", &err), KVANT_ERR_IO);
    assert_non_null(strstr(err.message, "not a regular file"));
    int64_t n_bytes;
    assert_int_equal(kv_file_get_bytes("/dev/null", &n_bytes, &err), KVANT_ERR_IO);
    assert_non_null(strstr(err.message, "not a regular file"));
    assert_int_equal(kv_file_get_bytes("/dev/null/file", &n_bytes, &err), KVANT_ERR_IO);
    assert_non_null(strstr(err.message, "/dev/null/file: cannot be examined: Not a directory"));
}

static void full_disk_is_reported(void **state)
{
    (void)state;
    struct kvant_error err;
    if (!kv_file_exists("/dev/full")) skip();
    assert_int_equal(kv_file_write("/dev/full", "x", 1, &err), KVANT_ERR_IO);
    assert_non_null(strstr(err.message, "/dev/full: cannot be written: No space left"));
}

static void replacing_keeps_permissions_and_links(void **state)
{
    (void)state;
    char path[300], link[300];
    struct kvant_error err;
    struct stat st;
    name_file(path, "file");
    name_file(link, "link");
    assert_int_equal(kv_file_write(path, "old", 3, &err), KVANT_OK);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(symlink(path, link), 0);
    assert_int_equal(kv_file_write(link, "newer", 5, &err), KVANT_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(st.st_size, 5);
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
}

static void machine_answers_make_sense(void **state)
{
    (void)state;
    assert_true(kv_cpu_count() >= 1);
    double t = kv_clock_s();
    assert_true(kv_clock_s() >= t);
    for (int level = KV_CPU_SCALAR; level <= KV_CPU_AVX512; level++)
        assert_int_equal(kv_cpu_level_parse(kv_cpu_level_name((enum kv_cpu_level)level)), level);
    assert_int_equal(kv_cpu_level_parse("AVX2"), -1);
    assert_int_equal(kv_cpu_level_parse(""), -1);
}

/* The compiler's own detection knows a part of each level; ours must not claim more. */
static void cpu_level_is_no_more_than_the_compiler_sees(void **state)
{
    (void)state;
#if defined(__x86_64__)
    enum kv_cpu_level level = kv_cpu_detect();
    if (level >= KV_CPU_AVX2) assert_true(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
    if (level >= KV_CPU_AVX512)
        assert_true(__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
                    && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"));
#else
    assert_int_equal(kv_cpu_detect(), KV_CPU_SCALAR);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(write_and_read_back, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(long_files_are_read_whole, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(standard_input_is_read_to_its_end, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(refusals_name_the_file, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(full_disk_is_reported, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(replacing_keeps_permissions_and_links, make_folder, remove_folder),
        cmocka_unit_test(machine_answers_make_sense),
        cmocka_unit_test(cpu_level_is_no_more_than_the_compiler_sees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
