/* The trial store when things go wrong: killed processes, full disks, files that may not be written, files
 * that are damaged, forged or something else. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "support/trials_rig.h"

/* ------------------------------------------------------------------------------ system calls of SQLite -- */

/* SQLite's own hook for tests (sqlite3_vfs.xSetSystemCall): the calls that change files are counted, and at
 * one of them the process dies or the disk is full from then on. */
enum fault { FAULT_NONE, FAULT_KILL, FAULT_KILL_HALFWAY, FAULT_FULL, FAULT_EIO };

static struct {
    enum fault fault;
    long n_calls, at;
    ssize_t (*write_at)(int, const void *, size_t, off_t);
    int (*truncate)(int, off_t);
    int (*unlink)(const char *);
} calls;

/* Whether the call is to fail (errno is set). */
static bool strike(void)
{
    long i = calls.n_calls++;
    if (calls.fault == FAULT_NONE || i < calls.at) return false;
    if (calls.fault == FAULT_KILL || calls.fault == FAULT_KILL_HALFWAY) raise(SIGKILL);
    errno = calls.fault == FAULT_FULL ? ENOSPC : EIO;
    return true;
}

static ssize_t write_or_fail(int file, const void *data, size_t n, off_t at)
{
    if (calls.fault == FAULT_KILL_HALFWAY && calls.n_calls == calls.at) calls.write_at(file, data, n / 2, at);
    return strike() ? -1 : calls.write_at(file, data, n, at);
}

static int truncate_or_fail(int file, off_t n)
{
    return strike() ? -1 : calls.truncate(file, n);
}

/* A full disk lets go of files. */
static int unlink_or_fail(const char *path)
{
    return (calls.fault == FAULT_KILL || calls.fault == FAULT_KILL_HALFWAY) && strike() ? -1
                                                                                        : calls.unlink(path);
}

/* (void (*)(void) is what the interface asks for.) */
static void hook(const char *name, sqlite3_syscall_ptr mine, sqlite3_syscall_ptr *real)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    if (!*real) *real = vfs->xGetSystemCall(vfs, name);
    if (*real) assert_int_equal(vfs->xSetSystemCall(vfs, name, mine), SQLITE_OK);
}

static int hook_calls(void **state)
{
    (void)state;
    sqlite3_initialize();
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    const char *write_name = vfs->xGetSystemCall(vfs, "pwrite64") ? "pwrite64" : "pwrite";
    sqlite3_syscall_ptr real = NULL;
    hook(write_name, (sqlite3_syscall_ptr)write_or_fail, &real);
    calls.write_at = (ssize_t(*)(int, const void *, size_t, off_t))real;
    real = NULL;
    hook("ftruncate", (sqlite3_syscall_ptr)truncate_or_fail, &real);
    calls.truncate = (int (*)(int, off_t))real;
    real = NULL;
    hook("unlink", (sqlite3_syscall_ptr)unlink_or_fail, &real);
    calls.unlink = (int (*)(const char *))real;
    return calls.write_at && calls.truncate && calls.unlink ? 0 : -1;
}

static void set_fault(enum fault fault, long at)
{
    calls.fault = fault;
    calls.at = at;
    calls.n_calls = 0;
}

/* -------------------------------------------------------------------------------------------- kill -9 -- */

/* A tuning run in a process of its own: continues the store, adds batches up to n_batches, and tells each by
 * a byte when it is on the disk. Exit code 0, or the process was killed. */
static pid_t start_run(const char *path, int n_batches, size_t n_values, enum fault fault, long at, int *told)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct kv_trials *t;
        struct kvant_error err = { .message = "" };
        int64_t n_trials, n_vectors;
        set_fault(fault, at);
        if (kv_trials_open(&t, path, &trials_study, true, &err) != KVANT_OK) _exit(1);
        if (kv_trials_count(t, &n_trials, &n_vectors, NULL) != KVANT_OK) _exit(2);
        /* the vector of the last batch may be what the run before had no time for */
        int i = (int)n_trials / TRIALS_BATCH;
        if (n_vectors < i) i--;
        for (; i < n_batches; i++)
            if (trials_add_batch(t, i, n_values, &err) != KVANT_OK || write(ends[1], "", 1) != 1) _exit(3);
        if (kv_trials_finish(t, "done", &err) != KVANT_OK) _exit(4);
        kv_trials_close(t);
        _exit(0);
    }
    close(ends[1]);
    *told = ends[0];
    return child;
}

/* Waits for its end, and counts what it told. true: it was killed. */
static bool end_run(pid_t child, int told, int *n_told)
{
    int status;
    char byte;
    *n_told = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    while (read(told, &byte, 1) == 1) ++*n_told;
    close(told);
    if (WIFSIGNALED(status)) {
        assert_int_equal(WTERMSIG(status), SIGKILL);
        return true;
    }
    assert_int_equal(WEXITSTATUS(status), 0);
    return false;
}

static void dies_at_every_call(enum fault fault)
{
    char path[TRIALS_PATH_CAP];
    int n_told, told, n_kills = 0;
    bool killed = true;
    for (long at = 0; killed; at++) {
        unlink(trials_path(path, "t.db"));
        pid_t child = start_run(path, 3, 700, fault, at, &told);
        killed = end_run(child, told, &n_told);
        n_kills += killed;
        struct kv_trials *t = trials_open(path, true);
        /* All that was promised, and perhaps the batch that was under way; trials_expect_batches knows no
         * part of a batch. */
        trials_expect_batches(t, n_told, n_told + 1, 700);
        kv_trials_close(t);
        if (!killed) assert_int_equal(n_told, 3);
        /* The next run ends what was begun. */
        child = start_run(path, 3, 700, FAULT_NONE, 0, &told);
        assert_false(end_run(child, told, &n_told));
        t = trials_open(path, true);
        trials_expect_batches(t, 3, 3, 700);
        kv_trials_close(t);
    }
    assert_true(n_kills > 50);
}

static void killed_at_every_write(void **state)
{
    (void)state;
    dies_at_every_call(FAULT_KILL);
}

static void killed_halfway_through_every_write(void **state)
{
    (void)state;
    dies_at_every_call(FAULT_KILL_HALFWAY);
}

/* The same from outside, at any time; batches so large that SQLite writes them before they are committed. */
static void killed_at_random(void **state)
{
    (void)state;
    enum { ROUNDS = 20, N_BATCHES = 200 };
    const size_t n_values = 300000;
    char path[TRIALS_PATH_CAP];
    int n_sure = 0, n_kills = 0;
    trials_path(path, "t.db");
    srand(7);
    for (int round = 0; round < ROUNDS && n_sure < 8; round++) {
        int told, n_told;
        pid_t child = start_run(path, N_BATCHES, n_values, FAULT_NONE, 0, &told);
        usleep((useconds_t)(rand() % 60000));
        kill(child, SIGKILL);
        n_kills += end_run(child, told, &n_told);
        struct kv_trials *t = trials_open(path, true);
        /* the first that it told may have been the rest of a batch that was half there */
        n_sure = trials_expect_batches(t, n_sure + n_told - (n_told > 0), N_BATCHES, n_values);
        kv_trials_close(t);
    }
    assert_true(n_kills > 0);
}

static void the_lock_ends_with_the_process(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP], byte;
    int ready[2];
    trials_path(path, "t.db");
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        struct kv_trials *t;
        if (kv_trials_open(&t, path, &trials_study, true, NULL) || trials_add_batch(t, 0, 5, NULL) ||
            write(ready[1], "", 1) != 1)
            _exit(1);
        sleep(60); /* not for ever, should this test fail before it ends the process */
        _exit(2);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    struct kv_trials *t;
    struct kvant_error err = { .message = "" };
    assert_int_equal(kv_trials_open(&t, path, &trials_study, true, &err), KVANT_ERR_IO);
    assert_non_null(strstr(err.message, path));
    assert_non_null(strstr(err.message, "another tuning run"));
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    t = trials_open(path, true);
    trials_expect_batches(t, 1, 1, 5);
    kv_trials_close(t);
    close(ready[0]);
    close(ready[1]);
}

/* ------------------------------------------------------------------------------------- disk and rights -- */

static void fails_at_every_call(enum fault fault, const char *part)
{
    char path[TRIALS_PATH_CAP];
    int n_failed = 0;
    trials_path(path, "t.db");
    kvant_status status = KVANT_ERR_IO;
    for (long at = 0; status != KVANT_OK; at++) {
        struct kvant_error err = { .message = "" };
        unlink(path);
        struct kv_trials *t = trials_open(path, false);
        assert_int_equal(trials_add_batch(t, 0, 700, NULL), KVANT_OK);
        set_fault(fault, at);
        status = trials_add_batch(t, 1, 700, &err);
        set_fault(FAULT_NONE, 0);
        if (status != KVANT_OK) {
            assert_int_equal(status, KVANT_ERR_IO);
            if (strncmp(err.message, path, strlen(path)) != 0 || !strstr(err.message, part))
                fail_msg("call %ld: %s", at, err.message);
            n_failed++;
            trials_expect_batches(t, 1, 2, 700); /* 2: its trials are there, its vector is not */
            /* Space was made: the same handle goes on. */
            assert_int_equal(trials_add_batch(t, 1, 700, &err), KVANT_OK);
        }
        trials_expect_batches(t, 2, 2, 700);
        kv_trials_close(t);
        t = trials_open(path, true);
        trials_expect_batches(t, 2, 2, 700);
        kv_trials_close(t);
    }
    assert_true(n_failed > 20);
}

static void disk_full_at_every_write(void **state)
{
    (void)state;
    fails_at_every_call(FAULT_FULL, "disk is full");
}

static void input_output_error_at_every_write(void **state)
{
    (void)state;
    fails_at_every_call(FAULT_EIO, "cannot be written: ");
}

/* Without hooks: the kernel's limit of a file's size, in a process of its own. */
static void file_size_limit(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    struct kv_trials *t = trials_open(trials_path(path, "t.db"), false);
    assert_int_equal(trials_add_batch(t, 0, 700, NULL), KVANT_OK);
    kv_trials_close(t);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    pid_t child = fork();
    if (child == 0) {
        struct kvant_error err = { .message = "" };
        struct rlimit limit = { (rlim_t)st.st_size + 8192, (rlim_t)st.st_size + 8192 };
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &limit) || kv_trials_open(&t, path, &trials_study, true, &err)) _exit(1);
        kvant_status status = trials_add_batch(t, 1, 30000, &err);
        bool right = status == KVANT_ERR_IO && strstr(err.message, "cannot be written") &&
                     strstr(err.message, path);
        kv_trials_close(t);
        _exit(right ? 0 : 2);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
    t = trials_open(path, true);
    bool found;
    size_t n;
    double *values;
    assert_int_equal(kv_trials_find_values(t, "e_o", "layer 1", &values, &n, &found, NULL), KVANT_OK);
    assert_false(found);
    trials_expect_batches(t, 2, 2, 700); /* the trials of batch 1 were small enough */
    kv_trials_close(t);
}

/* Runs fn as a user who may not do everything. */
static void as_nobody(void (*fn)(const char *path), const char *path)
{
    pid_t child = fork();
    if (child == 0) {
        if (geteuid() == 0 && (setgid(65534) || setuid(65534))) _exit(3);
        fn(path);
        _exit(0); /* a failed check has ended the test program's copy in another way */
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
}

static void expect_io(const char *path, const char *part)
{
    struct kv_trials *t;
    struct kvant_error err = { .message = "" };
    kvant_status status = kv_trials_open(&t, path, &trials_study, true, &err);
    if (status != KVANT_ERR_IO || t || strncmp(err.message, path, strlen(path)) != 0 ||
        !strstr(err.message, part)) {
        fprintf(stderr, "%s: %s\n", kvant_status_name(status), err.message);
        _exit(4);
    }
}

static void expect_read_only(const char *path)
{
    expect_io(path, "is read-only");
}

static void expect_folder_refused(const char *path)
{
    expect_io(path, "its folder");
}

static void files_that_may_not_be_written(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP], folder[TRIALS_PATH_CAP];
    struct kv_trials *t = trials_open(trials_path(path, "t.db"), false);
    assert_int_equal(trials_add_batch(t, 0, 700, NULL), KVANT_OK);
    kv_trials_close(t);
    trials_path(folder, ".");
    assert_int_equal(chmod(folder, 0555), 0);
    assert_int_equal(chmod(path, 0444), 0);
    as_nobody(expect_read_only, path);
    assert_int_equal(chmod(path, 0666), 0); /* the file may, its folder takes no journal */
    as_nobody(expect_folder_refused, path);
    char other[TRIALS_PATH_CAP];
    as_nobody(expect_folder_refused, trials_path(other, "new.db"));
    assert_int_equal(access(other, F_OK), -1);
    assert_int_equal(chmod(folder, 0755), 0);
    t = trials_open(path, true);
    trials_expect_batches(t, 1, 1, 700);
    kv_trials_close(t);
}

static void what_is_no_file(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP], below[TRIALS_PATH_CAP + 4];
    trials_refused(trials_path(path, "."), true, KVANT_ERR_IO, "is a directory");
    trials_refused("/dev/null", true, KVANT_ERR_IO, "not a regular file");
    assert_int_equal(access("/dev/null-journal", F_OK), -1);
    assert_int_equal(mkfifo(trials_path(path, "pipe"), 0600), 0);
    trials_refused("/proc/self/no such folder/t.db", true, KVANT_ERR_IO, "No such file");
    trials_write(trials_path(path, "file"), "x", 1);
    snprintf(below, sizeof below, "%s/t", path);
    trials_refused(below, true, KVANT_ERR_IO, "Not a directory");
    struct kv_trials *t;
    struct kvant_error err = { .message = "" };
    assert_int_equal(kv_trials_open(&t, trials_path(path, "pipe"), &trials_study, true, &err), KVANT_ERR_IO);
    assert_non_null(strstr(err.message, "not a regular file")); /* and nobody waits for its other end */
}

static void deleted_while_in_use(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    struct kvant_error err = { .message = "" };
    struct kv_trials *t = trials_open(trials_path(path, "t.db"), false);
    assert_int_equal(trials_add_batch(t, 0, 700, NULL), KVANT_OK);
    unlink(path);
    kvant_status status = trials_add_batch(t, 1, 700, &err);
    /* Measurements are not thrown away in silence. */
    assert_int_equal(status, KVANT_ERR_IO);
    assert_non_null(strstr(err.message, "moved or deleted"));
    kv_trials_close(t);
}

/* ------------------------------------------------------------------------------------------- damage -- */

/* A closed store with two batches; its bytes are malloc'ed. */
static char *make_store(char path[TRIALS_PATH_CAP], size_t *n)
{
    unlink(trials_path(path, "t.db"));
    struct kv_trials *t = trials_open(path, false);
    for (int i = 0; i < 2; i++) assert_int_equal(trials_add_batch(t, i, 40, NULL), KVANT_OK);
    assert_int_equal(kv_trials_finish(t, "done", NULL), KVANT_OK);
    kv_trials_close(t);
    char *data = trials_read(path, n);
    assert_non_null(data);
    return data;
}

/* Either the store is refused and not touched, or it has everything. Returns whether it was refused. */
static bool refused_or_whole(const char *path, const char *data, size_t n)
{
    struct kv_trials *t;
    struct kvant_error err = { .message = "" };
    trials_write(path, data, n);
    kvant_status status = kv_trials_open(&t, path, &trials_study, true, &err);
    if (status == KVANT_OK) {
        trials_expect_batches(t, 2, 2, 40);
        kv_trials_close(t);
        return false;
    }
    size_t n_after;
    char *after = trials_read(path, &n_after);
    if (status != KVANT_ERR_FORMAT && status != KVANT_ERR_UNSUPPORTED && status != KVANT_ERR_MISMATCH)
        fail_msg("%s: %s", kvant_status_name(status), err.message);
    assert_int_equal(n_after, n);
    assert_memory_equal(after, data, n);
    assert_int_equal(strncmp(err.message, path, strlen(path)), 0);
    free(after);
    return true;
}

static void truncated_anywhere(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    size_t n;
    char *data = make_store(path, &n);
    assert_false(refused_or_whole(path, data, n)); /* it can be accepted */
    for (size_t cut = 1; cut < n - 4096; cut += cut < 200 ? 1 : 997)
        assert_true(refused_or_whole(path, data, cut));
    for (size_t cut = n - 4096; cut < n; cut += 97)
        refused_or_whole(path, data, cut); /* may end in unused bytes */
    for (size_t cut = 4096; cut < n; cut += 4096) assert_true(refused_or_whole(path, data, cut));
    free(data);
}

/* Every byte that is not zero, some of the others, one bit each: no measurement may change unseen. */
static void bits_flipped_anywhere(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    size_t n, n_refused = 0, n_tried = 0;
    char *data = make_store(path, &n);
    for (size_t i = 0; i < n; i++) {
        if (i >= 100 && (data[i] ? i % 5 : i % 211)) continue;
        for (int bit = 0; bit < 8; bit += i < 100 ? 1 : 8) {
            char mask = (char)(1 << (i < 100 ? (size_t)bit : i % 8));
            data[i] = (char)(data[i] ^ mask);
            n_refused += refused_or_whole(path, data, n);
            n_tried++;
            data[i] = (char)(data[i] ^ mask);
        }
    }
    assert_true(n_tried > 1500);
    assert_true(n_refused > n_tried / 3);
    free(data);
}

static void other_files(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    size_t n;
    free(make_store(path, &n));
    trials_write(path, "kvplan: 1\nlayers: {0-29: k4v4}\n", 31);
    trials_refused(path, true, KVANT_ERR_FORMAT, "no SQLite database");
    trials_refused(path, false, KVANT_ERR_FORMAT, "no SQLite database");
    char junk[9000];
    for (size_t i = 0; i < sizeof junk; i++) junk[i] = (char)(i * i >> 3);
    trials_write(path, junk, sizeof junk);
    trials_refused(path, true, KVANT_ERR_FORMAT, "name another file");

    unlink(path);
    trials_sql(path, "CREATE TABLE bookmarks (url TEXT); INSERT INTO bookmarks VALUES ('x')");
    trials_refused(path, true, KVANT_ERR_FORMAT, "another application");
    trials_sql(path, "PRAGMA user_version = 1");
    trials_refused(path, true, KVANT_ERR_FORMAT, "another application");
    unlink(path);
    trials_sql(path, "PRAGMA application_id = 252006673");
    trials_refused(path, true, KVANT_ERR_FORMAT, "another application");

    trials_write(path, "", 0); /* an empty file is nobody's */
    struct kv_trials *t = trials_open(path, false);
    assert_int_equal(trials_add_batch(t, 0, 4, NULL), KVANT_OK);
    kv_trials_close(t);
    trials_sql(path, "PRAGMA user_version = 2");
    trials_refused(path, true, KVANT_ERR_UNSUPPORTED, "format 2, and this kvant knows format 1");
    trials_sql(path, "PRAGMA user_version = 0");
    trials_refused(path, true, KVANT_ERR_FORMAT, "no format 0");
    trials_sql(path, "PRAGMA user_version = -3");
    trials_refused(path, true, KVANT_ERR_FORMAT, "no format -3");
}

/* SQL done to a good store, and a part of what must be said. The checks of rows come before their sums. */
static const struct {
    const char *sql, *part;
} forgeries[] = {
    { "DROP TABLE run", "\"study\" is not as" },
    { "DROP TABLE vector", "a table is missing" },
    { "CREATE TABLE more (x)", "\"more\" is not as format 1" },
    { "CREATE VIEW v AS SELECT * FROM trial", "\"v\" is not as" },
    { "CREATE TRIGGER a AFTER INSERT ON trial BEGIN DELETE FROM trial; END", "\"a\" is not as" },
    { "CREATE INDEX i ON trial (plan)", "\"i\" is not as" },
    { "ALTER TABLE trial ADD COLUMN extra", "\"trial\" is not as" },
    { "ALTER TABLE trial RENAME COLUMN ppl TO perplexity", "\"trial\" is not as" },
    { "ANALYZE", "\"sqlite_stat1\" is not as" },
    { "UPDATE trial SET kld_mean = kld_mean * 1.0001 WHERE id = 2", "trial 2: its sha256" },
    { "UPDATE trial SET kld_max = NULL WHERE id = 3", "trial 3: its sha256" },
    { "UPDATE trial SET seed = seed + 1", "trial 1: its sha256" },
    { "UPDATE trial SET plan = plan || ' '", "trial 1: its sha256" },
    { "UPDATE trial SET n_scored = -5", "trial 1: n_scored" },
    { "UPDATE trial SET n_scored = 'many'", "trial 1: n_scored" },
    { "UPDATE trial SET n_scored = 1.5", "trial 1: n_scored" },
    { "UPDATE trial SET same_top_p = 140", "trial 1: same_top_p" },
    { "UPDATE trial SET kld_mean = -0.001", "trial 1: kld_mean" },
    { "UPDATE trial SET kld_mean = -9e999", "trial 1: kld_mean" },
    { "UPDATE trial SET ppl = 'low'", "trial 1: ppl" },
    { "UPDATE trial SET bytes_per_token = x'00'", "trial 1: bytes_per_token" },
    { "UPDATE trial SET seconds = -1", "trial 1: seconds" },
    { "UPDATE trial SET seconds = 9e999", "trial 1: seconds" },
    { "UPDATE trial SET time = -1", "trial 1: time" },
    { "UPDATE trial SET seed = 'x'", "trial 1: seed" },
    { "UPDATE trial SET plan = '' WHERE id = 4", "trial 4: plan" },
    { "UPDATE trial SET plan = x'6b34' WHERE id = 4", "trial 4: plan" },
    { "UPDATE trial SET plan = 'k4' || char(0) || 'v4' WHERE id = 4", "trial 4: plan" },
    { "UPDATE trial SET tool = replace(hex(zeroblob(600000)), '0', 'k')", "trial 1: tool" },
    { "UPDATE trial SET objective = replace(hex(zeroblob(9000000)), '0', 'k') WHERE id = 1", "too big" },
    { "UPDATE trial SET sha256 = 'sha256:'", "trial 1: its sha256" },
    { "UPDATE trial SET sha256 = x'00'", "trial 1: sha256" },
    { "UPDATE trial SET study = 0", "trial 1: study" },
    { "UPDATE trial SET study = 99", "trial 1: its sha256" },
    { "UPDATE study SET id = 99", "study 99: its sha256" },
    { "UPDATE study SET id = -1", "study -1: id" },
    { "UPDATE study SET id = 9223372036854775807", "id" },
    { "UPDATE study SET conditions = 'others'", "study 1: its sha256" },
    { "UPDATE study SET model = x'00'", "study 1: model" },
    { "DELETE FROM study", "no study 1" },
    { "DELETE FROM study; DELETE FROM trial", "no study 1" },
    { "UPDATE vector SET data = x'0102030405060708'", "vector 1: its sha256" },
    { "UPDATE vector SET data = x'01020304050607'", "vector 1: data" },
    { "UPDATE vector SET data = 'text'", "vector 1: data" },
    { "UPDATE vector SET data = zeroblob(9000000)", "vector 1: data" },
    { "UPDATE vector SET data = zeroblob(20000000)", "too big" },
    { "UPDATE vector SET seconds = -1", "vector 1: seconds" },
    { "UPDATE vector SET time = 'now'", "vector 1: time" },
    { "UPDATE vector SET key = '' WHERE id = 1", "vector 1: key" },
    { "UPDATE vector SET kind = x'41'", "vector 1: kind" },
    { "PRAGMA writable_schema = 1; UPDATE sqlite_master SET rootpage = 1 WHERE name = 'trial'", "" },
    { "PRAGMA writable_schema = 1; UPDATE sqlite_master SET rootpage = 99999 WHERE name = 'trial'", "" },
    { "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = 'CREATE TABLE trial (x)' WHERE name = "
      "'trial'",
      "" },
    { "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = 'nonsense' WHERE name = 'trial'", "" },
    { "PRAGMA writable_schema = 1; UPDATE sqlite_master SET rootpage = (SELECT max(rootpage) FROM "
      "sqlite_master) "
      "WHERE name = 'sqlite_autoindex_trial_1'",
      "" },
    { "PRAGMA writable_schema = 1; DELETE FROM sqlite_master WHERE name = 'sqlite_autoindex_trial_1'", "" },
};

static void forged_rows_and_tables(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    size_t n;
    char *data = make_store(path, &n);
    for (size_t i = 0; i < sizeof forgeries / sizeof forgeries[0]; i++) {
        trials_write(path, data, n);
        trials_sql(path, forgeries[i].sql);
        trials_refused(path, true, KVANT_ERR_FORMAT, forgeries[i].part);
    }
    free(data);
}

/* What people may do to a store with the sqlite3 shell. */
static void honest_changes_are_accepted(void **state)
{
    (void)state;
    static const char *const changes[] = {
        "VACUUM",
        "PRAGMA page_size = 512; VACUUM",
        "PRAGMA auto_vacuum = FULL; VACUUM",
        "PRAGMA journal_mode = WAL; UPDATE run SET settings = 'other'",
        "DELETE FROM run",
        "REINDEX",
    };
    char path[TRIALS_PATH_CAP];
    size_t n;
    char *data = make_store(path, &n);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        trials_write(path, data, n);
        trials_sql(path, changes[i]);
        struct kv_trials *t = trials_open(path, true);
        trials_expect_batches(t, 2, 2, 40);
        assert_int_equal(trials_add_batch(t, 2, 40, NULL), KVANT_OK);
        kv_trials_close(t);
        size_t n_after;
        char *after = trials_read(path, &n_after);
        assert_int_equal(after[18], 1); /* a rollback journal again, if it was WAL */
        free(after);
        t = trials_open(path, true);
        trials_expect_batches(t, 3, 3, 40);
        kv_trials_close(t);
    }
    trials_write(path, data, n); /* a trial that is taken out is measured again */
    trials_sql(path, "DELETE FROM trial WHERE id > 3; DELETE FROM vector WHERE id > 1");
    struct kv_trials *t = trials_open(path, true);
    trials_expect_batches(t, 1, 1, 40);
    kv_trials_close(t);
    free(data);
}

/* A row that goes bad while the store is open is noticed when it is read. */
static void damage_under_an_open_store(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP], plan[64];
    size_t n;
    char *data = make_store(path, &n);
    struct kv_trial trial = trials_make(0, plan);
    struct kv_trials *t = trials_open(path, true);
    struct kvant_eval_result r;
    struct kvant_error err = { .message = "" };
    bool found;
    memset(data + 4096, 0xff, n - 4096);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    fclose(file);
    /* Either SQLite still has the right page in memory, or the damage is seen. */
    kvant_status status = kv_trials_find(t, trial.plan, trial.objective, &r, &found, &err);
    if (status == KVANT_OK)
        assert_true(found && r.n_scored == trial.result.n_scored);
    else
        assert_int_equal(status, KVANT_ERR_FORMAT);
    kv_trials_close(t);
    free(data);
}

int main(void)
{
#define ON_FILES(test) cmocka_unit_test_setup_teardown(test, trials_folder_make, trials_folder_remove)
    const struct CMUnitTest tests[] = {
        ON_FILES(killed_at_every_write),
        ON_FILES(killed_halfway_through_every_write),
        ON_FILES(killed_at_random),
        ON_FILES(the_lock_ends_with_the_process),
        ON_FILES(disk_full_at_every_write),
        ON_FILES(input_output_error_at_every_write),
        ON_FILES(file_size_limit),
        ON_FILES(files_that_may_not_be_written),
        ON_FILES(what_is_no_file),
        ON_FILES(deleted_while_in_use),
        ON_FILES(truncated_anywhere),
        ON_FILES(bits_flipped_anywhere),
        ON_FILES(other_files),
        ON_FILES(forged_rows_and_tables),
        ON_FILES(honest_changes_are_accepted),
        ON_FILES(damage_under_an_open_store),
    };
    return cmocka_run_group_tests_name("trials_faults", tests, hook_calls, NULL);
}
