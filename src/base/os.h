/*
 * Every other call of the operating system: files, clock, cores, CPU features.
 */
#ifndef KV_BASE_OS_H
#define KV_BASE_OS_H

#include "base/error.h"

struct kv_file_map {
    const uint8_t *data;
    size_t n_bytes;
};
/* Maps a regular file read-only. Errors: IO (names the file). An empty file maps to n_bytes 0. */
kvant_status kv_file_map_open(struct kv_file_map *out, const char *path, struct kvant_error *err);
void kv_file_map_close(struct kv_file_map *map);
/* Gives the memory of whole pages inside [data, data + n_bytes) of a map back to the system; they stay
 * readable and come from the file again. */
void kv_file_map_release(const struct kv_file_map *map, const uint8_t *data, size_t n_bytes);

/* Reads a whole file of at most max_bytes, with a terminator that n_bytes does not count; free with kv_free.
 * path "-" = stdin. */
kvant_status kv_file_read(const char *path, size_t max_bytes, char **out, size_t *n_bytes,
                          struct kvant_error *err);
/* Writes beside `path` (PATH.XXXXXX.tmp), fsyncs, renames; on failure nothing is left behind. */
kvant_status kv_file_write(const char *path, const void *data, size_t n_bytes, struct kvant_error *err);
bool kv_file_exists(const char *path);
/* *n_bytes: the size of a regular file, -1 when there is nothing of this name. Errors: IO when it is
 * something else (a folder, a device, a pipe), or cannot be examined. */
kvant_status kv_file_get_bytes(const char *path, int64_t *n_bytes, struct kvant_error *err);

/* Monotonic seconds. */
double kv_clock_s(void);
/* Seconds since 1970. */
int64_t kv_time_s(void);
/* strftime of a time in seconds since 1970, in UTC or local time: bytes written, 0 when they do not fit. */
size_t kv_time_format(int64_t time_s, bool utc, const char *format, char *out, size_t cap);

/* Cores that this process may run on, at least 1. */
int kv_cpu_count(void);

/* Highest kernel level that CPU and operating system support. AVX2 means AVX2 + FMA + F16C + BMI2;
 * AVX512 means F, BW, DQ, VL, VNNI, VBMI and BF16 besides. */
#if defined(__aarch64__)
enum kv_cpu_level { KV_CPU_SCALAR = 0, KV_CPU_NEON = 1, KV_CPU_BEST = KV_CPU_NEON };
#else
enum kv_cpu_level { KV_CPU_SCALAR = 0, KV_CPU_AVX2 = 1, KV_CPU_AVX512 = 2, KV_CPU_BEST = KV_CPU_AVX512 };
#endif
enum kv_cpu_level kv_cpu_detect(void);
/* "scalar" | "avx2" | "avx512" (on AArch64 "scalar" | "neon") -> level, -1 for anything else. */
int kv_cpu_level_parse(const char *name);
const char *kv_cpu_level_name(enum kv_cpu_level level);
/* All names of this architecture, with commas. */
const char *kv_cpu_level_names(void);

#endif
