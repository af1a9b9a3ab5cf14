/*
 * Every call of the operating system that is neither memory nor threads: files, clock, cores, CPU features.
 *
 * Files are written beside their target and renamed, so that a reader sees the old file or the new one and
 * never half of either; a full disk or a killed process leaves the old one.
 */
#include "base/os.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define READ_CHUNK 65536

static kvant_status fail_io(struct kvant_error *err, const char *path, const char *what)
{
    int e = errno;
    const char *advice = e == ENOENT ? " (check the name)" : e == EACCES ? " (check its permissions)"
                         : e == ENOSPC ? " (free some space)" : "";
    KV_FAIL(err, KVANT_ERR_IO, -1, "%s: %s: %s%s", path, what, strerror(e), advice);
}

static int open_retry(const char *path, int flags, mode_t mode)
{
    int fd;
    do fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* --- reading --- */

static kvant_status check_regular(const struct stat *st, const char *path, const char *use,
                                  struct kvant_error *err)
{
    if (S_ISDIR(st->st_mode)) KV_FAIL(err, KVANT_ERR_IO, -1, "%s: is a directory; name a file in it", path);
    if (!S_ISREG(st->st_mode))
        KV_FAIL(err, KVANT_ERR_IO, -1, "%s: is not a regular file and cannot be %s", path, use);
    return KVANT_OK;
}

static kvant_status map_fd(struct kv_file_map *out, int fd, const char *path, struct kvant_error *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return fail_io(err, path, "cannot be examined");
    KV_TRY(check_regular(&st, path, "mapped", err));
    if (st.st_size == 0) return KVANT_OK;
    size_t n_bytes = (size_t)st.st_size;
    void *p = mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return fail_io(err, path, "cannot be mapped");
    out->data = p;
    out->n_bytes = n_bytes;
    return KVANT_OK;
}

kvant_status kv_file_map_open(struct kv_file_map *out, const char *path, struct kvant_error *err)
{
    *out = (struct kv_file_map){ 0 };
    /* A FIFO must not block: it is refused by its kind. */
    int fd = open_retry(path, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0) return fail_io(err, path, "cannot be opened");
    kvant_status status = map_fd(out, fd, path, err);
    close(fd);
    return status;
}

void kv_file_map_close(struct kv_file_map *map)
{
    if (map->data) munmap((void *)(uintptr_t)map->data, map->n_bytes);
    *map = (struct kv_file_map){ 0 };
}

void kv_file_map_release(const struct kv_file_map *map, const uint8_t *data, size_t n_bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), first = (size_t)(data - map->data), end = first + n_bytes;
    first = (first + page - 1) / page * page;
    end = end / page * page;
    if (end > first) madvise((void *)(uintptr_t)(map->data + first), end - first, MADV_DONTNEED);
}

static kvant_status read_fd(int fd, const char *path, size_t max_bytes, char **out, size_t *n_bytes,
                            struct kvant_error *err)
{
    struct stat st;
    size_t cap = READ_CHUNK, n = 0;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 && (uint64_t)st.st_size <= max_bytes)
        cap = (size_t)st.st_size + 2; /* terminator, and one byte more to see the end without growing */
    char *text = kv_alloc(cap, 1);
    if (!text) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory for %zu bytes", path, cap);
    for (;;) {
        ssize_t got = read(fd, text + n, cap - 1 - n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            kv_free(text);
            return fail_io(err, path, "cannot be read");
        }
        if (got == 0) break;
        n += (size_t)got;
        if (n > max_bytes) {
            kv_free(text);
            KV_FAIL(err, KVANT_ERR_IO, -1, "%s: longer than the limit of %zu bytes", path, max_bytes);
        }
        if (n + 1 < cap) continue;
        char *more = cap <= SIZE_MAX / 2 ? kv_realloc(text, cap, 2 * cap, 1) : NULL;
        if (!more) {
            kv_free(text);
            KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory beyond %zu bytes", path, n);
        }
        text = more;
        cap *= 2;
    }
    text[n] = 0;
    *out = text;
    *n_bytes = n;
    return KVANT_OK;
}

kvant_status kv_file_read(const char *path, size_t max_bytes, char **out, size_t *n_bytes,
                          struct kvant_error *err)
{
    *out = NULL;
    *n_bytes = 0;
    if (strcmp(path, "-") == 0) return read_fd(STDIN_FILENO, "standard input", max_bytes, out, n_bytes, err);
    int fd = open_retry(path, O_RDONLY, 0);
    if (fd < 0) return fail_io(err, path, "cannot be opened");
    kvant_status status = read_fd(fd, path, max_bytes, out, n_bytes, err);
    close(fd);
    return status;
}

bool kv_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

kvant_status kv_file_get_bytes(const char *path, int64_t *n_bytes, struct kvant_error *err)
{
    struct stat st;
    *n_bytes = -1;
    if (stat(path, &st) != 0) return errno == ENOENT ? KVANT_OK : fail_io(err, path, "cannot be examined");
    KV_TRY(check_regular(&st, path, "used", err));
    *n_bytes = st.st_size;
    return KVANT_OK;
}

/* --- writing --- */

static bool write_all(int fd, const void *data, size_t n_bytes)
{
    const char *p = data;
    while (n_bytes > 0) {
        ssize_t put = write(fd, p, n_bytes);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return false;
        p += put;
        n_bytes -= (size_t)put;
    }
    return true;
}

/* Creates a new file PATH.XXXXXX.tmp with the permissions that the user's umask gives (mkstemp would make it
 * private). */
static int create_beside(const char *path, char *name, size_t cap)
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuv";
    for (int attempt = 0; attempt < 100; attempt++) {
        uint8_t random[6];
        if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) return -1;
        char tag[7] = { 0 };
        for (int i = 0; i < 6; i++) tag[i] = digits[random[i] % 32];
        snprintf(name, cap, "%s.%s.tmp", path, tag);
        int fd = open_retry(name, O_WRONLY | O_CREAT | O_EXCL, 0666);
        if (fd >= 0 || errno != EEXIST) return fd;
    }
    return -1;
}

/* Makes a rename in the folder of `path`, which is cut to it, durable. A file system that cannot do this is
 * no reason to fail: the data is safe already. */
static void sync_directory(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash) slash[slash == path] = 0;
    int fd = open_retry(slash ? path : ".", O_RDONLY | O_DIRECTORY, 0);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

static kvant_status write_and_rename(const char *path, const struct stat *old, const void *data,
                                     size_t n_bytes, struct kvant_error *err)
{
    size_t cap = strlen(path) + sizeof ".XXXXXX.tmp";
    char *name = kv_alloc(cap, 1);
    if (!name) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory", path);
    kvant_status status = KVANT_OK;
    int fd = create_beside(path, name, cap);
    if (fd < 0) {
        status = fail_io(err, path, "cannot be created");
    } else {
        /* A replaced file keeps its permissions where it can. */
        if (old) (void)!fchmod(fd, old->st_mode & 0777);
        bool ok = write_all(fd, data, n_bytes) && fsync(fd) == 0;
        if (!ok) status = fail_io(err, path, "cannot be written");
        if (close(fd) != 0 && ok) {
            ok = false;
            status = fail_io(err, path, "cannot be written");
        }
        if (ok && rename(name, path) != 0) {
            ok = false;
            status = fail_io(err, path, "cannot be replaced");
        }
        if (ok) sync_directory(strcpy(name, path)); /* shorter than name */
        else unlink(name);
    }
    kv_free(name);
    return status;
}

kvant_status kv_file_write(const char *path, const void *data, size_t n_bytes, struct kvant_error *err)
{
    struct stat st;
    bool exists = stat(path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode))
        KV_FAIL(err, KVANT_ERR_IO, -1, "%s: is a directory; name a file in it", path);
    /* A pipe or device has nothing to rename over; nor may /dev/stdout be replaced when it leads to a
     * file. */
    if (exists && (!S_ISREG(st.st_mode) || strncmp(path, "/dev/", 5) == 0)) {
        int fd = open_retry(path, O_WRONLY | O_APPEND, 0);
        if (fd < 0) return fail_io(err, path, "cannot be opened");
        bool ok = write_all(fd, data, n_bytes);
        kvant_status status = ok ? KVANT_OK : fail_io(err, path, "cannot be written");
        close(fd);
        return status;
    }
    char *target = exists ? realpath(path, NULL) : NULL; /* a link stays a link: its target is replaced */
    if (exists && !target) return fail_io(err, path, "cannot be followed to a file");
    kvant_status status = write_and_rename(target ? target : path, exists ? &st : NULL, data, n_bytes, err);
    free(target);
    return status;
}

/* --- clock and cores --- */

double kv_clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

size_t kv_time_format(int64_t time_s, bool utc, const char *format, char *out, size_t cap)
{
    time_t t = (time_t)time_s;
    struct tm tm;
    if (!(utc ? gmtime_r(&t, &tm) : localtime_r(&t, &tm))) return 0;
    return strftime(out, cap, format, &tm);
}

int64_t kv_time_s(void)
{
    return (int64_t)time(NULL);
}

int kv_cpu_count(void)
{
    /* The mask must hold every core of the machine, allowed or not; the kernel answers EINVAL while it is too
     * short. */
    for (int n_cpu = 1024; n_cpu <= 1 << 20; n_cpu *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)n_cpu);
        if (!set) return 1;
        size_t bytes = CPU_ALLOC_SIZE((size_t)n_cpu);
        int failed = sched_getaffinity(0, bytes, set);
        int reason = errno, n = failed ? 0 : CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
        if (!failed) return n > 0 ? n : 1;
        if (reason != EINVAL) return 1;
    }
    return 1;
}

/* --- CPU features --- */

#if defined(__aarch64__)
static const char *const level_names[] = { "scalar", "neon" };
#else
static const char *const level_names[] = { "scalar", "avx2", "avx512" };
#endif

#if defined(__x86_64__)

/* State components that the operating system saves (Intel SDM vol. 1, 13.3). */
#define XCR0_AVX 0x06u    /* SSE and upper halves of YMM                           */
#define XCR0_AVX512 0xe6u /* and mask registers, upper halves of ZMM0-15, ZMM16-31 */

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool all_bits(uint64_t value, uint64_t mask)
{
    return (value & mask) == mask;
}

enum kv_cpu_level kv_cpu_detect(void)
{
    uint32_t a, b, c, d, leaf1_c, leaf7_b, leaf7_c, leaf7_1_a = 0;
    if (!__get_cpuid(1, &a, &b, &leaf1_c, &d)) return KV_CPU_SCALAR;
    uint32_t need_c = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
    if (!all_bits(leaf1_c, need_c)) return KV_CPU_SCALAR;
    uint64_t xcr0 = read_xcr0();
    if (!all_bits(xcr0, XCR0_AVX)) return KV_CPU_SCALAR;
    if (!__get_cpuid_count(7, 0, &a, &leaf7_b, &leaf7_c, &d)) return KV_CPU_SCALAR;
    uint32_t n_subleaves = a;
    if (!all_bits(leaf7_b, bit_AVX2 | bit_BMI | bit_BMI2)) return KV_CPU_SCALAR;
#ifdef KV_EMULATE_AVX512
    return KV_CPU_AVX512; /* config=emulated: AVX2 is all that its AVX-512 kernels need */
#endif

    if (n_subleaves >= 1) __get_cpuid_count(7, 1, &leaf7_1_a, &b, &c, &d);
    bool avx512 = all_bits(xcr0, XCR0_AVX512) &&
                  all_bits(leaf7_b, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL) &&
                  all_bits(leaf7_c, bit_AVX512VNNI | bit_AVX512VBMI) && all_bits(leaf7_1_a, bit_AVX512BF16);
    return avx512 ? KV_CPU_AVX512 : KV_CPU_AVX2;
}

#elif defined(__aarch64__)

enum kv_cpu_level kv_cpu_detect(void)
{
    return KV_CPU_NEON; /* of every AArch64 processor */
}

#else

enum kv_cpu_level kv_cpu_detect(void)
{
    return KV_CPU_SCALAR;
}

#endif

int kv_cpu_level_parse(const char *name)
{
    for (int i = 0; i <= KV_CPU_BEST; i++)
        if (strcmp(name, level_names[i]) == 0) return i;
    return -1;
}

const char *kv_cpu_level_name(enum kv_cpu_level level)
{
    unsigned i = (unsigned)level;
    return i <= KV_CPU_BEST ? level_names[i] : "unknown";
}

const char *kv_cpu_level_names(void)
{
#if defined(__aarch64__)
    return "scalar, neon";
#else
    return "scalar, avx2, avx512";
#endif
}
