#include "program.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int fail(const struct kvant_error *err)
{
    fprintf(stderr, "kvant: %s\n", err->message);
    return EXIT_FAILED;
}

int fail_text(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("kvant: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return EXIT_FAILED;
}

int fail_usage(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "kvant %s: ", command);
    vfprintf(stderr, format, args);
    fprintf(stderr, "; see kvant %s --help\n", command);
    va_end(args);
    return EXIT_USAGE;
}

int finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return EXIT_OK;
    return fail_text("standard output: %s", strerror(errno));
}

/* The one mutable global of the program: a signal handler has nothing else to write to. */
static volatile sig_atomic_t interrupt_flag;

static void on_interrupt(int number)
{
    (void)number;
    interrupt_flag = 1;
}

void interrupt_catch(void)
{
    /* SA_RESETHAND: the second Ctrl-C has its usual effect, should the first not be noticed soon enough. */
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

bool interrupted(void)
{
    return interrupt_flag != 0;
}

void interrupt_clear(void)
{
    interrupt_flag = 0;
    interrupt_catch();
}

double clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void *reallocate(void *p, size_t n, size_t size)
{
    size_t bytes;
    void *q = __builtin_mul_overflow(n, size, &bytes) ? NULL : realloc(p, bytes ? bytes : 1);
    if (!q) {
        fail_text("out of memory");
        exit(EXIT_FAILED);
    }
    return q;
}

char *text_copy(const char *text)
{
    size_t n = strlen(text) + 1;
    return memcpy(allocate(n, 1), text, n);
}

void *allocate(size_t n, size_t size)
{
    void *p = reallocate(NULL, n, size);
    memset(p, 0, n * size);
    return p;
}

char *file_read(const char *path, size_t *n_bytes)
{
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *file = is_stdin ? stdin : fopen(path, "rb");
    if (!file) {
        fail_text("%s: %s; check the path", path, strerror(errno));
        return NULL;
    }
    size_t n = 0, cap = 1 << 16;
    char *text = allocate(cap, 1);
    for (size_t got; (got = fread(text + n, 1, cap - n - 1, file)) > 0;) {
        n += got;
        if (cap - n < 2) {
            cap *= 2;
            text = reallocate(text, cap, 1);
        }
    }
    bool failed = ferror(file) != 0;
    if (failed) fail_text("%s: %s; check that it is a readable file", path, strerror(errno));
    if (!is_stdin) fclose(file);
    if (failed) {
        free(text);
        return NULL;
    }
    text[n] = '\0';
    *n_bytes = n;
    return text;
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

kvant_status tokens_of_text(const struct kvant_model *model, const char *text, size_t n_bytes, int flags,
                            kvant_token **ids, size_t *n_ids, struct kvant_error *err)
{
    *ids = NULL;
    *n_ids = 0;
    /* A token is at least one byte of text nearly always, so that the first try fits; if not, the second
     * does. */
    size_t cap = n_bytes + 16;
    kvant_status status = KVANT_ERR_SPACE;
    for (int i = 0; i < 2 && status == KVANT_ERR_SPACE; i++) {
        if (i > 0) cap = *n_ids;
        *ids = reallocate(*ids, cap, sizeof **ids);
        status = kvant_tokenize(model, text, n_bytes, flags, *ids, cap, n_ids, err);
    }
    if (status != KVANT_OK) {
        free(*ids);
        *ids = NULL;
        *n_ids = 0;
    }
    return status;
}

const char *bytes_text(char text[32], double n_bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t unit = 0;
    while (n_bytes >= 1000.0 && unit + 1 < sizeof units / sizeof *units) {
        n_bytes /= 1000.0;
        unit++;
    }
    snprintf(text, 32, unit == 0 ? "%.0f %s" : n_bytes < 100.0 ? "%.2f %s" : "%.1f %s", n_bytes, units[unit]);
    return text;
}

bool output_check(const char *path)
{
    struct stat st;
    const char *slash = strrchr(path, '/');
    bool exists = stat(path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode)) {
        fail_text("%s: is a directory; name a file in it", path);
        return false;
    }
    size_t n = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    char *folder = allocate(n + 2, 1);
    memcpy(folder, slash ? path : ".", n ? n : 1);
    bool ok = (exists && !S_ISREG(st.st_mode) ? access(path, W_OK) : access(folder, W_OK | X_OK)) == 0;
    if (!ok) fail_text("%s: cannot be written: %s; choose another folder", path, strerror(errno));
    free(folder);
    if (!ok || (exists && !S_ISREG(st.st_mode))) return ok;
    struct output_file trial; /* permissions do not tell all */
    if (!output_open(&trial, path)) return false;
    output_discard(&trial);
    return true;
}

bool output_open(struct output_file *out, const char *path)
{
    size_t n = strlen(path);
    struct stat st;
    *out = (struct output_file){0};
    if (stat(path, &st) == 0 && (!S_ISREG(st.st_mode) || strncmp(path, "/dev/", 5) == 0)) {
        fail_text("%s: is not a regular file; name a file", path);
        return false;
    }
    *out = (struct output_file){.path = path, .path_partial = allocate(n + 16, 1)};
    snprintf(out->path_partial, n + 16, "%s.XXXXXX.tmp", path);
    int fd = mkstemps(out->path_partial, 4);
    if (fd >= 0) {
        /* mkstemps makes the file private; the finished one gets what the user's umask allows. */
        mode_t mask = umask(0);
        umask(mask);
        fchmod(fd, 0666 & ~mask);
        out->stream = fdopen(fd, "wb");
    }
    if (out->stream) return true;
    fail_text("%s: %s; choose a folder that can be written", path, strerror(errno));
    if (fd >= 0) {
        close(fd);
        unlink(out->path_partial);
    }
    free(out->path_partial);
    *out = (struct output_file){0};
    return false;
}

bool output_commit(struct output_file *out)
{
    bool ok = fflush(out->stream) == 0 && !ferror(out->stream) && fsync(fileno(out->stream)) == 0;
    int why = errno;
    ok = fclose(out->stream) == 0 && ok;
    out->stream = NULL;
    if (ok && rename(out->path_partial, out->path) != 0) {
        ok = false;
        why = errno;
    }
    if (!ok) fail_text("%s: %s; nothing was written", out->path, strerror(why));
    if (!ok) unlink(out->path_partial);
    free(out->path_partial);
    *out = (struct output_file){0};
    return ok;
}

void output_discard(struct output_file *out)
{
    if (!out->stream) return;
    fclose(out->stream);
    unlink(out->path_partial);
    free(out->path_partial);
    *out = (struct output_file){0};
}
