/* The trial store: what is put in comes out, resuming, who may open it, allocation failures. Faults of the
 * machine and of the file are in test_trials_faults.c. */
#include <math.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "support/allocation_hooks.h"
#include "support/trials_rig.h"

#include "base/hash.h"
#include "base/memory.h"

/* Equal numbers, NaN like NaN. */
static bool same_result(const struct kvant_eval_result *a, const struct kvant_eval_result *b)
{
    const double *x = &a->ppl, *y = &b->ppl;
    for (size_t i = 0; i < offsetof(struct kvant_eval_result, n_scored) / sizeof *x; i++)
        if (x[i] != y[i] && !(isnan(x[i]) && isnan(y[i]))) return false;
    return a->n_scored == b->n_scored;
}

static void expect_found(struct kv_trials *t, const struct kv_trial *trial)
{
    struct kvant_eval_result r;
    struct kvant_error err = { .message = "" };
    bool found;
    if (kv_trials_find(t, trial->plan, trial->objective, &r, &found, &err)) fail_msg("%s", err.message);
    assert_true(found);
    assert_true(same_result(&r, &trial->result));
}

static void expect_missing(struct kv_trials *t, const char *plan, const char *objective)
{
    struct kvant_eval_result r;
    bool found = true;
    assert_int_equal(kv_trials_find(t, plan, objective, &r, &found, NULL), KVANT_OK);
    assert_false(found);
}

/* ------------------------------------------------------------------------------------- what is kept -- */

static void numbers_come_back(struct kv_trials *t, const char *path)
{
    struct kv_trial trials[] = {
        { .plan = "k4 v4", .objective = "kld", .seed = UINT64_MAX, .seconds = 0.0 },
        { .plan = "k4 v4", .objective = "accuracy", .seed = (uint64_t)INT64_MAX + 1 },
        { .plan = "collapsed", .objective = "kld" },
        { .plan = "\xc3\xa9 'quoted' \"twice\"\n; DROP TABLE trial", .objective = "kld", .seconds = 1e300 },
    };
    double extremes[] = {
        0.1, INFINITY, NAN, -0.0, 5e-324, 1.7976931348623157e308, 1e15, 0x1.fffffffffffffp-3
    };
    for (int i = 0; i < 11; i++) (&trials[0].result.ppl)[i] = extremes[i % 8];
    for (int i = 0; i < 11; i++) (&trials[1].result.ppl)[i] = extremes[(i + 3) % 8];
    for (int i = 0; i < 11; i++) (&trials[2].result.ppl)[i] = i % 2 ? NAN : INFINITY;
    for (int i = 0; i < 4; i++) trials[i].result.same_top_p = i == 2 ? NAN : 100.0 / (i + 1);
    trials[0].result.n_scored = INT64_MAX;
    assert_int_equal(kv_trials_add(t, trials, 4, NULL), KVANT_OK);
    for (int again = 0; again < 2; again++) {
        for (int i = 0; i < 4; i++) expect_found(t, &trials[i]);
        expect_missing(t, "k4 v4", "other");
        expect_missing(t, "k4 v", "kld");
        expect_missing(t, "", "");
        if (!path) break;
        kv_trials_close(t);
        t = trials_open(path, true);
    }
    kv_trials_close(t);
}

static void numbers_come_back_from_a_file(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    numbers_come_back(trials_open(trials_path(path, "t.db"), false), path);
    char journal[TRIALS_PATH_CAP + 8];
    snprintf(journal, sizeof journal, "%s-journal", path);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_not_equal(access(journal, F_OK), 0); /* one file when nobody uses it */
}

static void numbers_come_back_from_memory(void **state)
{
    (void)state;
    numbers_come_back(trials_open(NULL, false), NULL);
    struct kv_trials *t = trials_open(NULL, true); /* another one, empty */
    trials_expect_batches(t, 0, 0, 0);
    kv_trials_close(t);
}

static void vectors_keep_every_bit(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    struct kv_trials *t = trials_open(trials_path(path, "t.db"), false);
    uint64_t bits[] = { 0, 0x8000000000000000u, 0x7ff8000000000001u, 0xfff0000000000000u, 0x7ff4dead0000beefu,
                        1 };
    double values[6], *back;
    size_t n;
    bool found;
    memcpy(values, bits, sizeof bits);
    struct kv_trial_vector vectors[] = { { "e_o", "layer 1", values, 6, 0.5 },
                                         { "text", "layer 1", values, 2, 0.0 },
                                         { "e_o", "none", NULL, 0, 0.0 } };
    assert_int_equal(kv_trials_add_values(t, vectors, 3, NULL), KVANT_OK);
    double *large = calloc(KV_TRIALS_VALUES_MAX, sizeof *large);
    assert_non_null(large);
    large[KV_TRIALS_VALUES_MAX - 1] = 7;
    struct kv_trial_vector widest = { "text", "large", large, KV_TRIALS_VALUES_MAX, 0.0 };
    assert_int_equal(kv_trials_add_values(t, &widest, 1, NULL), KVANT_OK);
    free(large);
    kv_trials_close(t);

    t = trials_open(path, true);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kv_trials_find_values(t, vectors[i].kind, vectors[i].key, &back, &n, &found, NULL),
                         KVANT_OK);
        assert_true(found);
        assert_int_equal(n, vectors[i].n);
        if (n) assert_memory_equal(back, bits, n * sizeof *bits);
        kv_free(back);
    }
    assert_int_equal(kv_trials_find_values(t, "text", "large", &back, &n, &found, NULL), KVANT_OK);
    assert_int_equal(n, KV_TRIALS_VALUES_MAX);
    assert_true(back[n - 1] == 7 && back[0] == 0);
    kv_free(back);
    assert_int_equal(kv_trials_find_values(t, "text", "none", &back, &n, &found, NULL), KVANT_OK);
    assert_false(found);
    assert_null(back);
    kv_trials_close(t);
}

static bool stop_at_second(void *user, const struct kv_trial *trial)
{
    assert_true(trial->time_s > 1700000000); /* after 2023 */
    return ++*(int *)user < 2;
}

static void what_is_there_stays(void **state)
{
    (void)state;
    char plan[64], other_plan[64];
    struct kv_trials *t = trials_open(NULL, false);
    struct kv_trial first = trials_make(1, plan), again[2] = { first, trials_make(2, other_plan) };
    assert_int_equal(kv_trials_add(t, &first, 1, NULL), KVANT_OK);
    again[0].result.kld_mean = 5;
    assert_int_equal(kv_trials_add(t, again, 2, NULL), KVANT_OK);
    expect_found(t, &first);
    expect_found(t, &again[1]);
    assert_int_equal(kv_trials_add(t, NULL, 0, NULL), KVANT_OK);
    int n = 0;
    assert_int_equal(kv_trials_each(t, stop_at_second, &n, NULL), KVANT_ERR_CANCELLED);
    assert_int_equal(n, 2);
    double one = 1, two = 2, *back;
    size_t n_back;
    bool found;
    struct kv_trial_vector vector = { "k", "k", &one, 1, 0 };
    assert_int_equal(kv_trials_add_values(t, &vector, 1, NULL), KVANT_OK);
    vector.values = &two;
    assert_int_equal(kv_trials_add_values(t, &vector, 1, NULL), KVANT_OK);
    assert_int_equal(kv_trials_find_values(t, "k", "k", &back, &n_back, &found, NULL), KVANT_OK);
    assert_true(found && n_back == 1 && back[0] == 1);
    kv_free(back);
    kv_trials_close(t);
}

static void expect_trial_refused(struct kv_trials *t, struct kv_trial bad)
{
    char plan[64];
    struct kv_trial batch[] = { trials_make(70, plan), bad };
    struct kvant_error err = { .message = "" };
    assert_int_equal(kv_trials_add(t, batch, 2, &err), KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "out of range"));
    expect_missing(t, plan, batch[0].objective); /* all or none */
}

static void what_could_not_be_read_is_not_written(void **state)
{
    (void)state;
    char plan[64];
    struct kv_trials *t = trials_open(NULL, false);
    struct kv_trial good = trials_make(1, plan), bad;
    char *longest = calloc(KV_TRIALS_TEXT_MAX + 2, 1);
    assert_non_null(longest);
    memset(longest, 'k', KV_TRIALS_TEXT_MAX + 1);
    for (int i = 0; i < 11; i++) {
        bad = good;
        (&bad.result.ppl)[i] = -1e-9;
        expect_trial_refused(t, bad);
    }
    bad = good, bad.result.same_top_p = 100.001, expect_trial_refused(t, bad);
    bad = good, bad.result.n_scored = -1, expect_trial_refused(t, bad);
    bad = good, bad.seconds = NAN, expect_trial_refused(t, bad);
    bad = good, bad.seconds = -1, expect_trial_refused(t, bad);
    bad = good, bad.seconds = INFINITY, expect_trial_refused(t, bad);
    bad = good, bad.plan = "", expect_trial_refused(t, bad);
    bad = good, bad.plan = NULL, expect_trial_refused(t, bad);
    bad = good, bad.objective = "", expect_trial_refused(t, bad);
    bad = good, bad.plan = longest, expect_trial_refused(t, bad);
    longest[KV_TRIALS_TEXT_MAX] = 0; /* just fits */
    bad = good, bad.plan = longest;
    assert_int_equal(kv_trials_add(t, &bad, 1, NULL), KVANT_OK);
    expect_found(t, &bad);

    double x = 0;
    struct kv_trial_vector vectors[] = {
        { "", "k", &x, 1, 0 },   { "k", "", &x, 1, 0 },    { NULL, "k", &x, 1, 0 },
        { "k", "k", &x, 1, -1 }, { "k", "k", &x, 1, NAN }, { "k", "k", &x, KV_TRIALS_VALUES_MAX + 1, 0 }
    };
    for (int i = 0; i < 6; i++)
        assert_int_equal(kv_trials_add_values(t, &vectors[i], 1, NULL), KVANT_ERR_ARGUMENT);
    kv_trials_close(t);

    struct kv_study study = trials_study;
    struct kvant_error err = { .message = "" };
    study.settings = "";
    assert_int_equal(kv_trials_open(&t, NULL, &study, false, &err), KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "settings"));
    assert_null(t);
    study = trials_study, study.model = NULL;
    assert_int_equal(kv_trials_open(&t, NULL, &study, false, NULL), KVANT_ERR_ARGUMENT);
    assert_int_equal(kv_trials_open(&t, "", &trials_study, false, NULL), KVANT_ERR_ARGUMENT);
    free(longest);
}

/* ----------------------------------------------------------------------------- resuming and studies -- */

static void only_resume_continues(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    struct kv_trials *t = trials_open(trials_path(path, "t.db"), true); /* new: resuming is beginning */
    kv_trials_close(t);
    t = trials_open(path, false); /* holds no measurement: there is nothing to lose */
    assert_int_equal(trials_add_batch(t, 0, 4, NULL), KVANT_OK);
    kv_trials_close(t);
    trials_refused(path, false, KVANT_ERR_ARGUMENT, "--resume");
    trials_refused(path, false, KVANT_ERR_ARGUMENT, "holds 4 measurements");
    t = trials_open(path, true);
    trials_expect_batches(t, 1, 1, 4);
    assert_int_equal(trials_add_batch(t, 1, 4, NULL), KVANT_OK);
    trials_expect_batches(t, 2, 2, 4);
    kv_trials_close(t);

    t = trials_open(trials_path(path, "v.db"), false); /* a vector alone is worth as much */
    double x = 1;
    assert_int_equal(kv_trials_add_values(t, &(struct kv_trial_vector){ "k", "k", &x, 1, 0 }, 1, NULL),
                     KVANT_OK);
    kv_trials_close(t);
    trials_refused(path, false, KVANT_ERR_ARGUMENT, "--resume");
}

static void other_settings_use_what_was_measured(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    struct kv_trials *t = trials_open(trials_path(path, "t.db"), false);
    assert_int_equal(trials_add_batch(t, 0, 4, NULL), KVANT_OK);
    kv_trials_close(t);
    struct kv_study study = trials_study;
    study.settings = "budget=4 method=kvtuner";
    study.tool = "kvant other";
    assert_int_equal(kv_trials_open(&t, path, &study, true, NULL), KVANT_OK);
    trials_expect_batches(t, 1, 1, 4);
    kv_trials_close(t);
}

static void other_conditions_are_another_study(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP], plan[64];
    struct kv_trial trial = trials_make(0, plan), changed = trial;
    struct kv_trials *t = trials_open(trials_path(path, "t.db"), false);
    assert_int_equal(trials_add_batch(t, 0, 4, NULL), KVANT_OK);
    kv_trials_close(t);
    struct kv_study study = trials_study;
    study.conditions = "text=sha256:78 act=int16 n_ctx=512";
    assert_int_equal(kv_trials_open(&t, path, &study, false, NULL), KVANT_ERR_ARGUMENT);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(kv_trials_open(&t, path, &study, true, NULL), KVANT_OK);
        if (again) {
            expect_found(t, &changed);
        } else {
            trials_expect_batches(t, 0, 0, 4);
            expect_missing(t, trial.plan, trial.objective);
            changed.result.kld_mean *= 2;
            assert_int_equal(kv_trials_add(t, &changed, 1, NULL), KVANT_OK);
        }
        kv_trials_close(t);
    }
    t = trials_open(path, true);
    trials_expect_batches(t, 1, 1, 4);
    kv_trials_close(t);
}

static void another_model_is_refused(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    struct kv_study other = trials_study;
    struct kv_trials *t;
    other.model = "sha256:fedcba9876543210";
    assert_int_equal(kv_trials_open(&t, trials_path(path, "t.db"), &other, false, NULL), KVANT_OK);
    kv_trials_close(t);
    t = trials_open(path, false); /* without measurements it belongs to nobody */
    assert_int_equal(trials_add_batch(t, 0, 4, NULL), KVANT_OK);
    kv_trials_close(t);
    for (int resume = 0; resume < 2; resume++) {
        struct kvant_error err = { .message = "" };
        assert_int_equal(kv_trials_open(&t, path, &other, resume, &err), KVANT_ERR_MISMATCH);
        assert_int_equal(err.status, KVANT_ERR_MISMATCH);
        assert_non_null(strstr(err.message, path));
        assert_non_null(strstr(err.message, trials_study.model));
        assert_non_null(strstr(err.message, other.model));
    }
}

/* The one value of a query, as text; the caller's buffer. */
static const char *ask(const char *path, const char *sql, char text[200])
{
    sqlite3 *db;
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    snprintf(text, 200, "%s", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    sqlite3_close(db);
    return text;
}

static void runs_are_recorded(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP], text[200];
    struct kv_trials *t = trials_open(trials_path(path, "t.db"), false);
    assert_int_equal(trials_add_batch(t, 0, 4, NULL), KVANT_OK);
    kv_trials_close(t); /* as if killed */
    assert_string_equal(ask(path, "SELECT outcome FROM run", text), "running");
    t = trials_open(path, true);
    assert_int_equal(kv_trials_finish(t, "done", NULL), KVANT_OK);
    kv_trials_close(t);
    assert_string_equal(ask(path, "SELECT group_concat(outcome) FROM run", text), "interrupted,done");
    assert_string_equal(ask(path, "SELECT settings || '|' || tool FROM run WHERE id = 2", text),
                        "budget=2.5,3 seed=7|kvant test");
    assert_string_equal(
        ask(path, "SELECT count(*) FROM run WHERE started > 1700000000 AND ended >= started", text), "1");
    /* the shell sees numbers, and NULL for what is none */
    assert_string_equal(
        ask(path, "SELECT count(*) FROM trial WHERE kld_mean > 0.1 AND objective = 'kld'", text), "1");
}

static void sum_number(struct kv_hash *h, const void *bytes)
{
    uint64_t x;
    uint8_t low_first[8];
    memcpy(&x, bytes, sizeof x);
    for (int i = 0; i < 8; i++) low_first[i] = (uint8_t)(x >> (8 * i));
    kv_hash_add(h, low_first, sizeof low_first);
}

/* docs/format-trials.md section 4, on what SQLite says is in the columns; `first`: the first column that
 * counts. */
static void expect_sums(const char *path, const char *sql, int first)
{
    sqlite3 *db;
    sqlite3_stmt *s;
    int n_rows = 0;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
    for (; sqlite3_step(s) == SQLITE_ROW; n_rows++) {
        struct kv_hash h;
        char sum[KV_HASH_TEXT_CAP];
        int last = sqlite3_column_count(s) - 1;
        assert_string_equal(sqlite3_column_name(s, last), "sha256");
        kv_hash_begin(&h);
        for (int i = first; i < last; i++) {
            int type = sqlite3_column_type(s, i);
            int64_t integer = sqlite3_column_int64(s, i), n_bytes = sqlite3_column_bytes(s, i);
            double real = sqlite3_column_double(s, i);
            uint64_t none = 0x7ff8000000000000u;
            if (type == SQLITE_TEXT || type == SQLITE_BLOB) {
                sum_number(&h, &n_bytes);
                kv_hash_add(&h, sqlite3_column_blob(s, i), (size_t)n_bytes);
            } else {
                sum_number(&h, type == SQLITE_NULL    ? (void *)&none
                               : type == SQLITE_FLOAT ? (void *)&real
                                                      : &integer);
            }
        }
        kv_hash_end(&h, sum);
        assert_string_equal((const char *)sqlite3_column_text(s, last), sum);
    }
    assert_true(n_rows > 0);
    sqlite3_finalize(s);
    sqlite3_close(db);
}

static void sums_are_those_of_the_format(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    struct kv_trials *t = trials_open(trials_path(path, "t.db"), false);
    struct kv_trial odd = { .plan = "odd", .objective = "kld", .seed = UINT64_MAX };
    odd.result.ppl = NAN;
    odd.result.kld_max = INFINITY;
    odd.result.page_bits = -0.0;
    assert_int_equal(trials_add_batch(t, 0, 5, NULL), KVANT_OK);
    assert_int_equal(kv_trials_add(t, &odd, 1, NULL), KVANT_OK);
    kv_trials_close(t);
    expect_sums(path, "SELECT * FROM study", 0);
    expect_sums(path, "SELECT * FROM trial", 1);
    expect_sums(path, "SELECT * FROM vector", 1);
}

/* ----------------------------------------------------------------------------------- who may open it -- */

static void two_runs_on_one_store_are_refused(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    struct kv_trials *t = trials_open(trials_path(path, "t.db"), false), *second;
    struct kvant_error err = { .message = "" };
    assert_int_equal(trials_add_batch(t, 0, 4, NULL), KVANT_OK);
    assert_int_equal(kv_trials_open(&second, path, &trials_study, true, &err), KVANT_ERR_IO);
    assert_null(second);
    assert_non_null(strstr(err.message, path));
    assert_non_null(strstr(err.message, "another tuning run"));
    assert_int_equal(trials_add_batch(t, 1, 4, NULL), KVANT_OK); /* the first is not disturbed */
    trials_expect_batches(t, 2, 2, 4);
    kv_trials_close(t);
    kv_trials_close(trials_open(path, true));
    kv_trials_close(NULL);
}

static void names_are_files(void **state)
{
    (void)state;
    static const char *const names[] = { ":memory:", "file:a?mode=memory", "-", "a b'c%d" };
    char path[TRIALS_PATH_CAP], here[TRIALS_PATH_CAP];
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(trials_path(path, ".")), 0);
    for (int i = 0; i < 4; i++) {
        struct kv_trials *t = trials_open(names[i], false);
        assert_int_equal(trials_add_batch(t, 0, 1, NULL), KVANT_OK);
        kv_trials_close(t);
        assert_int_equal(access(names[i], R_OK), 0);
        t = trials_open(names[i], true);
        trials_expect_batches(t, 1, 1, 1);
        kv_trials_close(t);
    }
    assert_int_equal(chdir(here), 0);
}

/* ------------------------------------------------------------------------------------------- memory -- */

/* A whole life: opening, adding, finding. */
static kvant_status use(const char *path, struct kv_trials **t, double **values, struct kvant_error *err)
{
    struct kvant_eval_result r;
    char plan[64];
    struct kv_trial trial = trials_make(1, plan);
    bool found;
    size_t n;
    KV_TRY(kv_trials_open(t, path, &trials_study, true, err));
    KV_TRY(trials_add_batch(*t, 0, 100, err));
    KV_TRY(kv_trials_find(*t, trial.plan, trial.objective, &r, &found, err));
    assert_true(found);
    KV_TRY(kv_trials_find_values(*t, "e_o", "layer 0", values, &n, &found, err));
    assert_true(found);
    return kv_trials_finish(*t, "done", err);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    trials_path(path, "t.db");
    int n_failed = 0;
    kvant_status status = KVANT_ERR_MEMORY;
    for (long at = 0; status != KVANT_OK; at++) {
        struct kv_trials *t = NULL;
        double *values = NULL;
        struct kvant_error err = { .message = "" };
        int n_live = hooks.n_live;
        hooks.n_calls = 0;
        hooks.fail_at = at;
        status = use(path, &t, &values, &err);
        bool refused = hooks.n_calls > at;
        hooks.fail_at = -1;
        assert_int_equal(status, refused ? KVANT_ERR_MEMORY : KVANT_OK);
        if (refused) assert_true(strlen(err.message) > 10);
        n_failed += refused;
        kv_free(values);
        kv_trials_close(t);
        assert_int_equal(hooks.n_live, n_live);
    }
    assert_in_range(n_failed, 5, 20); /* kvant's own */
}

/* SQLite's allocations, refused one after the other: each time an error, and the file keeps what it had. */
static struct {
    sqlite3_mem_methods real;
    long n_calls, fail_at;
} heap = { .fail_at = -1 };

static void *heap_malloc(int n)
{
    return heap.n_calls++ == heap.fail_at ? NULL : heap.real.xMalloc(n);
}

static void *heap_realloc(void *p, int n)
{
    return heap.n_calls++ == heap.fail_at ? NULL : heap.real.xRealloc(p, n);
}

static int heap_set_up(void **state)
{
    sqlite3_mem_methods mine;
    sqlite3_shutdown();
    if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &heap.real) != SQLITE_OK) return -1;
    mine = heap.real;
    mine.xMalloc = heap_malloc;
    mine.xRealloc = heap_realloc;
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &mine) != SQLITE_OK) return -1;
    return trials_folder_make(state);
}

static int heap_tear_down(void **state)
{
    sqlite3_shutdown();
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &heap.real) != SQLITE_OK) return -1;
    return trials_folder_remove(state);
}

static void every_allocation_of_sqlite_may_fail(void **state)
{
    (void)state;
    char path[TRIALS_PATH_CAP];
    struct kv_trials *t = trials_open(trials_path(path, "t.db"),
                                      false); /* SQLite's own start is not what is tested */
    assert_int_equal(trials_add_batch(t, 0, 100, NULL), KVANT_OK);
    kv_trials_close(t);
    int n_failed = 0;
    bool reached = true;
    for (long at = 0; reached; at += 1 + at / 20) { /* some 2000 of them: the first all, then fewer */
        double *values = NULL;
        struct kvant_error err = { .message = "" };
        t = NULL;
        heap.n_calls = 0;
        heap.fail_at = at;
        kvant_status status = use(path, &t, &values, &err);
        reached = heap.n_calls > at;
        heap.fail_at = -1;
        if (status != KVANT_OK) {
            /* some refusals cost speed alone; those that cost more are told as what they are */
            if (status != KVANT_ERR_MEMORY) fail_msg("allocation %ld: %s", at, err.message);
            n_failed++;
        }
        assert_true(reached || status == KVANT_OK);
        kv_free(values);
        kv_trials_close(t);
        t = trials_open(path, true);
        trials_expect_batches(t, 1, 1, 100);
        kv_trials_close(t);
    }
    assert_true(n_failed > 30);
}

int main(void)
{
#define ON_FILES(test) cmocka_unit_test_setup_teardown(test, trials_folder_make, trials_folder_remove)
    const struct CMUnitTest tests[] = {
        ON_FILES(numbers_come_back_from_a_file),
        ON_FILES(numbers_come_back_from_memory),
        ON_FILES(vectors_keep_every_bit),
        ON_FILES(what_is_there_stays),
        ON_FILES(what_could_not_be_read_is_not_written),
        ON_FILES(only_resume_continues),
        ON_FILES(other_settings_use_what_was_measured),
        ON_FILES(other_conditions_are_another_study),
        ON_FILES(another_model_is_refused),
        ON_FILES(runs_are_recorded),
        ON_FILES(sums_are_those_of_the_format),
        ON_FILES(two_runs_on_one_store_are_refused),
        ON_FILES(names_are_files),
        ON_FILES(every_allocation_may_fail),
        cmocka_unit_test_setup_teardown(every_allocation_of_sqlite_may_fail, heap_set_up, heap_tear_down),
    };
    return cmocka_run_group_tests_name("trials", tests, NULL, NULL);
}
