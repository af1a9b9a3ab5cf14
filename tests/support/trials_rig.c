#include "support/trials_rig.h"

#include <dirent.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"

const struct kv_study trials_study = { .model = "sha256:0123456789abcdef",
                                       .conditions = "text=sha256:77 act=int16 n_ctx=512",
                                       .settings = "budget=2.5,3 seed=7",
                                       .tool = "kvant test" };

static char folder[256];

int trials_folder_make(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    /* Stores sync a lot; what is tested (processes and files, not power failures) is the same in memory. */
    if (!base) base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : P_tmpdir;
    snprintf(folder, sizeof folder, "%s/kvant-trials-XXXXXX", base);
    return mkdtemp(folder) ? 0 : -1;
}

int trials_folder_remove(void **state)
{
    (void)state;
    DIR *dir = opendir(folder);
    if (!dir) return -1;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char path[TRIALS_PATH_CAP];
        if (e->d_name[0] != '.' || (e->d_name[1] != 0 && e->d_name[1] != '.'))
            unlink(trials_path(path, e->d_name));
    }
    closedir(dir);
    return rmdir(folder);
}

const char *trials_path(char path[TRIALS_PATH_CAP], const char *name)
{
    snprintf(path, TRIALS_PATH_CAP, "%s/%s", folder, name);
    return path;
}

struct kv_trials *trials_open(const char *path, bool resume)
{
    struct kv_trials *t;
    struct kvant_error err = { .message = "" };
    if (kv_trials_open(&t, path, &trials_study, resume, &err) != KVANT_OK) fail_msg("%s", err.message);
    assert_non_null(t);
    return t;
}

void trials_refused(const char *path, bool resume, kvant_status status, const char *part)
{
    struct kv_trials *t;
    struct kvant_error err = { .message = "" };
    size_t n, n_after;
    char *before = trials_read(path, &n);
    kvant_status got = kv_trials_open(&t, path, &trials_study, resume, &err);
    if (got != status || strncmp(err.message, path, strlen(path)) != 0 || !strstr(err.message, part))
        fail_msg("%s instead of %s (%s): %s", kvant_status_name(got), kvant_status_name(status), part,
                 err.message);
    assert_int_equal(err.status, status);
    assert_null(t);
    char *after = trials_read(path, &n_after);
    assert_true(!before == !after);
    if (before) {
        assert_int_equal(n_after, n);
        assert_memory_equal(after, before, n);
    }
    free(before);
    free(after);
}

struct kv_trial trials_make(int i, char plan[64])
{
    double x = 1.0 / (3.0 + i);
    snprintf(plan, 64, "k4c64 v%dh;tables=%x", 2 + i % 3, i);
    return (struct kv_trial){
        .plan = plan,
        .objective = i % 2 ? "kld" : "accuracy",
        .result = { 20 + x, 1 + x, x, x / 2, x * 9, x * 19, x * 99, 90 + x, 3 + x, 3.1 + x, 700 + x,
                    500 + i },
        .seed = (uint64_t)i * 0x9e3779b97f4a7c15u,
        .seconds = 0.25 * i,
    };
}

static double trials_value(int i_batch, size_t i)
{
    return (double)(i + 1) / (3.0 + i_batch);
}

kvant_status trials_add_batch(struct kv_trials *t, int i, size_t n_values, struct kvant_error *err)
{
    char plans[TRIALS_BATCH][64], key[32];
    struct kv_trial trials[TRIALS_BATCH];
    for (int j = 0; j < TRIALS_BATCH; j++) trials[j] = trials_make(TRIALS_BATCH * i + j, plans[j]);
    KV_TRY(kv_trials_add(t, trials, TRIALS_BATCH, err));
    double *values = malloc((n_values ? n_values : 1) * sizeof *values);
    assert_non_null(values);
    for (size_t j = 0; j < n_values; j++) values[j] = trials_value(i, j);
    snprintf(key, sizeof key, "layer %d", i);
    struct kv_trial_vector vector = { "e_o", key, values, n_values, 1.5 };
    kvant_status status = kv_trials_add_values(t, &vector, 1, err);
    free(values);
    return status;
}

static bool count_one(void *user, const struct kv_trial *trial)
{
    int *n = user;
    char plan[64];
    struct kv_trial right = trials_make(*n, plan);
    assert_string_equal(trial->plan, right.plan);
    assert_string_equal(trial->objective, right.objective);
    assert_memory_equal(&trial->result, &right.result, sizeof right.result);
    assert_true(trial->seed == right.seed && trial->seconds == right.seconds);
    assert_string_equal(trial->tool, trials_study.tool);
    ++*n;
    return true;
}

int trials_expect_batches(struct kv_trials *t, int min, int max, size_t n_values)
{
    int n = 0;
    int64_t n_trials, n_vectors;
    struct kvant_error err = { .message = "" };
    if (kv_trials_each(t, count_one, &n, &err) != KVANT_OK) fail_msg("%s", err.message);
    assert_int_equal(n % TRIALS_BATCH, 0);
    n /= TRIALS_BATCH;
    assert_in_range(n, min, max);
    assert_int_equal(kv_trials_count(t, &n_trials, &n_vectors, NULL), KVANT_OK);
    assert_int_equal(n_trials, TRIALS_BATCH * n);
    assert_true(n_vectors == n || n_vectors == n - 1); /* the last one has its own transaction */
    for (int i = 0; i < TRIALS_BATCH * n; i++) {       /* lookups go through the index */
        char plan[64];
        struct kv_trial right = trials_make(i, plan);
        struct kvant_eval_result r;
        bool found;
        if (kv_trials_find(t, right.plan, right.objective, &r, &found, &err) != KVANT_OK)
            fail_msg("%s", err.message);
        assert_true(found);
        assert_memory_equal(&r, &right.result, sizeof r);
    }
    for (int i = 0; i < n; i++) {
        char key[32];
        double *values;
        size_t n_found;
        bool found;
        snprintf(key, sizeof key, "layer %d", i);
        assert_int_equal(kv_trials_find_values(t, "e_o", key, &values, &n_found, &found, NULL), KVANT_OK);
        assert_int_equal(found, i < n_vectors);
        if (!found) continue;
        assert_int_equal(n_found, n_values);
        for (size_t j = 0; j < n_values; j++) assert_true(values[j] == trials_value(i, j));
        kv_free(values);
    }
    return n;
}

char *trials_read(const char *path, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    struct stat st;
    *n_bytes = 0;
    if (!file) return NULL;
    char *data = NULL;
    if (fstat(fileno(file), &st) == 0 && S_ISREG(st.st_mode)) {
        *n_bytes = (size_t)st.st_size;
        data = malloc(*n_bytes ? *n_bytes : 1);
    }
    if (data && fread(data, 1, *n_bytes, file) != *n_bytes) {
        free(data);
        data = NULL;
    }
    fclose(file);
    return data;
}

void trials_write(const char *path, const char *data, size_t n_bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
}

void trials_sql(const char *path, const char *sql)
{
    sqlite3 *db;
    char *message = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK) fail_msg("%s: %s", sql, message);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}
