/*
 * The trial store as a file: opening and checking it, its lock, its runs. Rows are in store_rows.c.
 *
 * How the promises of store.h are kept:
 *   - One run at a time: the locking mode EXCLUSIVE keeps SQLite's own lock from the first look at the file
 *     until it is closed. The kernel lets go of it when the process dies, so nothing stale is left behind,
 *     and nothing that was checked can be changed by another process. (Sharing would be as easy, since equal
 *     measurements give equal rows; but two runs on one store are a mistake that costs hours: each would
 *     measure what the other does.)
 *   - Durable batches: a rollback journal with synchronous = FULL. Under the exclusive lock a commit ends
 *     with the journal's header overwritten and synced, so EXTRA, which syncs the folder of a deleted
 *     journal, has nothing to add. Not WAL: its gain is many small transactions, and a batch of measurements
 *     takes seconds; and it would keep the last batches of a killed run in a second file, which people forget
 *     to copy.
 *   - Nothing is changed before everything was checked: the check runs inside the transaction that begins the
 *     run, and a refusal rolls back a transaction that has written nothing.
 */
#include "tune/store_internal.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"

#define APPLICATION_ID 0x6b767472 /* "kvtr" */
#define FORMAT_VERSION 1
/* Somebody's query in the sqlite3 shell ends within this; a tuning run does not. */
#define BUSY_WAIT_MS 1000
/* No row is longer: a vector's data and its texts. */
#define ROW_BYTES_MAX (8 * KV_TRIALS_VALUES_MAX + 4 * KV_TRIALS_TEXT_MAX)
_Static_assert(ROW_BYTES_MAX <= INT_MAX / 2, "SQLite's limits are ints");

/* Exactly what the file says of its tables, in order of their names: other columns or constraints, and any
 * view, trigger or further table, make it another format. */
static const struct {
    const char *name, *sql;
} tables[] = {
    { "run", "CREATE TABLE run (\n"
             "  id INTEGER PRIMARY KEY,\n"
             "  study INTEGER NOT NULL,\n"
             "  started INTEGER NOT NULL, -- seconds since 1970\n"
             "  ended INTEGER,\n"
             "  outcome TEXT NOT NULL,    -- running, done, cancelled, failed, interrupted\n"
             "  settings TEXT NOT NULL,\n"
             "  tool TEXT NOT NULL\n"
             ")" },
    { "study", "CREATE TABLE study (\n"
               "  id INTEGER PRIMARY KEY,\n"
               "  model TEXT NOT NULL,\n"
               "  conditions TEXT NOT NULL,\n"
               "  sha256 TEXT NOT NULL,\n"
               "  UNIQUE (model, conditions)\n"
               ")" },
    { "trial", "CREATE TABLE trial (\n"
               "  id INTEGER PRIMARY KEY,\n"
               "  study INTEGER NOT NULL,\n"
               "  objective TEXT NOT NULL,\n"
               "  plan TEXT NOT NULL,\n"
               "  seed INTEGER NOT NULL,    -- unsigned 64 bits, shown signed\n"
               "  seconds REAL NOT NULL,\n"
               "  time INTEGER NOT NULL,    -- seconds since 1970\n"
               "  tool TEXT NOT NULL,\n"
               "  ppl REAL,                 -- NULL in these: not a number\n"
               "  ppl_ratio REAL,\n"
               "  kld_mean REAL,\n"
               "  kld_median REAL,\n"
               "  kld_p99 REAL,\n"
               "  kld_p999 REAL,\n"
               "  kld_max REAL,\n"
               "  same_top_p REAL,\n"
               "  page_bits REAL,\n"
               "  true_bits REAL,\n"
               "  bytes_per_token REAL,\n"
               "  n_scored INTEGER NOT NULL,\n"
               "  sha256 TEXT NOT NULL,\n"
               "  UNIQUE (study, objective, plan)\n"
               ")" },
    { "vector", "CREATE TABLE vector (\n"
                "  id INTEGER PRIMARY KEY,\n"
                "  study INTEGER NOT NULL,\n"
                "  kind TEXT NOT NULL,\n"
                "  key TEXT NOT NULL,\n"
                "  seconds REAL NOT NULL,\n"
                "  time INTEGER NOT NULL,\n"
                "  tool TEXT NOT NULL,\n"
                "  data BLOB NOT NULL,       -- IEEE binary64, low byte first\n"
                "  sha256 TEXT NOT NULL,\n"
                "  UNIQUE (study, kind, key)\n"
                ")" },
};
#define N_TABLES ((int)(sizeof tables / sizeof tables[0]))

static const char *const statement_texts[] = {
#define X(name, text) text,
    KV_TRIALS_SQL(X)
#undef X
};

/* --------------------------------------------------------------------------------------------- errors -- */

kvant_status kv_trials_damaged(const struct kv_trials *t, struct kvant_error *err, const char *format, ...)
{
    char what[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    KV_FAIL(
        err, KVANT_ERR_FORMAT, -1,
        "%s: the trial store is damaged: %s. It was left as it is; name another file, or look at what can be "
        "saved with the .recover of the sqlite3 shell",
        t->label, what);
}

static kvant_status not_a_store(const struct kv_trials *t, struct kvant_error *err)
{
    KV_FAIL(
        err, KVANT_ERR_FORMAT, -1,
        "%s: is no trial store (no SQLite database), or its first bytes are damaged. It was left as it is; "
        "name another file",
        t->label);
}

kvant_status kv_trials_fail(const struct kv_trials *t, const char *doing, struct kvant_error *err)
{
    int code = t->db ? sqlite3_extended_errcode(t->db) : SQLITE_NOMEM; /* no handle: no memory for one */
    int system = t->db ? sqlite3_system_errno(t->db) : 0;
    switch (code == SQLITE_IOERR_NOMEM ? SQLITE_NOMEM : code & 0xff) {
    case SQLITE_NOMEM: KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory for the trial store", t->label);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        KV_FAIL(
            err, KVANT_ERR_IO, -1,
            "%s: another tuning run (or another program) is using this trial store; wait until it ends, or "
            "name another file",
            t->label);
    case SQLITE_NOTADB: return not_a_store(t, err);
    case SQLITE_FULL:
        KV_FAIL(err, KVANT_ERR_IO, -1,
                "%s: the trial store cannot be %s: the disk is full (free some space and resume)", t->label,
                doing);
    case SQLITE_READONLY:
        if (code == SQLITE_READONLY) /* the file may be written, as was seen when it was opened */
            return kv_trials_damaged(t, err, "its first bytes ask for a newer SQLite");
        KV_FAIL(err, KVANT_ERR_IO, -1, "%s: the trial store cannot be %s: its folder must be writable, too",
                t->label, doing);
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
    case SQLITE_PROTOCOL:
    case SQLITE_NOLFS:
        KV_FAIL(err, KVANT_ERR_IO, -1,
                "%s: the trial store cannot be %s: %s (the file and its folder must be writable, and the "
                "disk not full)",
                t->label, doing, system ? strerror(system) : sqlite3_errstr(code));
    default: return kv_trials_damaged(t, err, "%s", sqlite3_errmsg(t->db));
    }
}

/* ----------------------------------------------------------------------------------------- statements -- */

kvant_status kv_trials_take(struct kv_trials *t, enum kv_trials_sql which, sqlite3_stmt **out,
                            struct kvant_error *err)
{
    sqlite3_stmt **kept = &t->statements[which];
    *out = NULL;
    if (!*kept &&
        sqlite3_prepare_v3(t->db, statement_texts[which], -1, SQLITE_PREPARE_PERSISTENT, kept, NULL))
        return kv_trials_fail(t, "read", err);
    *out = *kept;
    return KVANT_OK;
}

void kv_trials_done(sqlite3_stmt *statement)
{
    /* Both say only again what the last step said. */
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
}

kvant_status kv_trials_step(const struct kv_trials *t, sqlite3_stmt *statement, bool *row,
                            struct kvant_error *err)
{
    int code = sqlite3_step(statement);
    *row = code == SQLITE_ROW;
    if (code == SQLITE_ROW || code == SQLITE_DONE) return KVANT_OK;
    return kv_trials_fail(t, sqlite3_column_count(statement) > 0 ? "read" : "written", err);
}

kvant_status kv_trials_execute(const struct kv_trials *t, sqlite3_stmt *statement, bool bound,
                               struct kvant_error *err)
{
    bool row;
    kvant_status status = bound ? kv_trials_step(t, statement, &row, err) : kv_trials_fail(t, "written", err);
    kv_trials_done(statement);
    return status;
}

kvant_status kv_trials_do(struct kv_trials *t, enum kv_trials_sql which, struct kvant_error *err)
{
    sqlite3_stmt *s;
    KV_TRY(kv_trials_take(t, which, &s, err));
    return kv_trials_execute(t, s, true, err);
}

/* One number of one row; 0 when there is none. */
static kvant_status number(struct kv_trials *t, enum kv_trials_sql which, int64_t *out,
                           struct kvant_error *err)
{
    sqlite3_stmt *s;
    bool row;
    *out = 0;
    KV_TRY(kv_trials_take(t, which, &s, err));
    kvant_status status = kv_trials_step(t, s, &row, err);
    if (status == KVANT_OK && row) *out = sqlite3_column_int64(s, 0);
    kv_trials_done(s);
    return status;
}

static kvant_status script(struct kv_trials *t, const char *sql, const char *doing, struct kvant_error *err)
{
    return sqlite3_exec(t->db, sql, NULL, NULL, NULL) == SQLITE_OK ? KVANT_OK : kv_trials_fail(t, doing, err);
}

/* -------------------------------------------------------------------------------------------- opening -- */

/* A name is never a keyword (":memory:", "file:...?mode=..."), since it begins with a slash or a dot. */
static kvant_status open_database(struct kv_trials *t, const char *path, struct kvant_error *err)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, code;
    if (path) {
        int64_t n_bytes;
        size_t cap = strlen(path) + 3;
        KV_TRY(kv_file_get_bytes(path, &n_bytes, err));
        if (n_bytes == 1) return not_a_store(t, err); /* SQLite takes it for an empty file */
        char *name = kv_alloc(cap, 1);
        if (!name) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory for the trial store", path);
        snprintf(name, cap, "%s%s", path[0] == '/' ? "" : "./", path);
        code = sqlite3_open_v2(name, &t->db, flags, NULL);
        kv_free(name);
    } else {
        code = sqlite3_open_v2(":memory:", &t->db, flags, NULL);
    }
    if (code != SQLITE_OK) return kv_trials_fail(t, "opened", err);
    /* SQLite opens what may not be written for reading, without a word. */
    if (sqlite3_db_readonly(t->db, "main"))
        KV_FAIL(err, KVANT_ERR_IO, -1,
                "%s: the trial store is read-only; make it writable, or name another file", t->label);
    return KVANT_OK;
}

/* What SQLite recommends for files from strangers (sqlite.org/security.html), and the lock. */
static kvant_status configure(struct kv_trials *t, struct kvant_error *err)
{
    static const struct {
        int option, value;
    } options[] = { { SQLITE_DBCONFIG_DEFENSIVE, 1 },
                    { SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0 },
                    { SQLITE_DBCONFIG_ENABLE_TRIGGER, 0 },
                    { SQLITE_DBCONFIG_ENABLE_VIEW, 0 } };
    sqlite3_extended_result_codes(t->db, 1);
    sqlite3_busy_timeout(t->db, BUSY_WAIT_MS);
    sqlite3_limit(t->db, SQLITE_LIMIT_LENGTH, ROW_BYTES_MAX);
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (sqlite3_db_config(t->db, options[i].option, options[i].value, NULL) != SQLITE_OK)
            return kv_trials_fail(t, "opened", err);
    return script(t,
                  "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL; PRAGMA cell_size_check = ON;"
                  "PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; BEGIN EXCLUSIVE",
                  "opened", err);
}

static kvant_status create(struct kv_trials *t, struct kvant_error *err)
{
    char sql[100];
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d", APPLICATION_ID,
             FORMAT_VERSION);
    KV_TRY(script(t, sql, "written", err));
    for (int i = 0; i < N_TABLES; i++) KV_TRY(script(t, tables[i].sql, "written", err));
    return KVANT_OK;
}

static kvant_status check_tables(struct kv_trials *t, struct kvant_error *err)
{
    sqlite3_stmt *s;
    bool row;
    KV_TRY(kv_trials_take(t, KV_SQL_TABLES, &s, err));
    kvant_status status = kv_trials_step(t, s, &row, err);
    int n = 0;
    for (; status == KVANT_OK && row; n++) {
        const char *name = (const char *)sqlite3_column_text(s, 0);
        const char *sql = (const char *)sqlite3_column_text(s, 1);
        if (n == N_TABLES || !name || !sql || strcmp(name, tables[n].name) != 0 ||
            strcmp(sql, tables[n].sql) != 0)
            status = kv_trials_damaged(t, err, "\"%.60s\" is not as format %d has it", name ? name : "",
                                       FORMAT_VERSION);
        else
            status = kv_trials_step(t, s, &row, err);
    }
    if (status == KVANT_OK && n != N_TABLES) status = kv_trials_damaged(t, err, "a table is missing");
    kv_trials_done(s);
    return status;
}

/* Indices against tables too (quick_check leaves those out): a lookup must not miss what a table holds. */
static kvant_status check_integrity(struct kv_trials *t, struct kvant_error *err)
{
    sqlite3_stmt *s;
    bool row;
    KV_TRY(kv_trials_take(t, KV_SQL_INTEGRITY, &s, err));
    kvant_status status = kv_trials_step(t, s, &row, err);
    const char *said = status == KVANT_OK && row ? (const char *)sqlite3_column_text(s, 0) : "";
    if (status == KVANT_OK && (!said || strcmp(said, "ok") != 0)) {
        const char *line = said ? strrchr(said, '\n') : NULL; /* after "*** in database main ***" */
        status = kv_trials_damaged(t, err, "%s", line ? line + 1 : said ? said : "");
    }
    kv_trials_done(s);
    return status;
}

/* Makes the tables of an empty file, checks all of any other. */
static kvant_status create_or_check(struct kv_trials *t, struct kvant_error *err)
{
    int64_t application, version, orphan;
    sqlite3_stmt *s;
    bool any_table;
    KV_TRY(number(t, KV_SQL_APPLICATION, &application, err));
    KV_TRY(number(t, KV_SQL_VERSION, &version, err));
    KV_TRY(kv_trials_take(t, KV_SQL_TABLES, &s, err));
    kvant_status status = kv_trials_step(t, s, &any_table, err);
    kv_trials_done(s);
    KV_TRY(status);
    if (!any_table && application == 0 && version == 0) return create(t, err);
    if (application != APPLICATION_ID)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1,
                "%s: is no trial store but the SQLite database of another application; name another file",
                t->label);
    if (version > FORMAT_VERSION)
        KV_FAIL(
            err, KVANT_ERR_UNSUPPORTED, -1,
            "%s: is a trial store of format %lld, and this kvant knows format %d; use the kvant that wrote "
            "it, or name another file",
            t->label, (long long)version, FORMAT_VERSION);
    if (version != FORMAT_VERSION)
        return kv_trials_damaged(t, err, "there is no format %lld", (long long)version);
    KV_TRY(check_tables(t, err));
    KV_TRY(check_integrity(t, err));
    KV_TRY(kv_trials_check_rows(t, err));
    KV_TRY(number(t, KV_SQL_ORPHANS, &orphan, err));
    return orphan == 0 ? KVANT_OK : kv_trials_damaged(t, err, "there is no study %lld", (long long)orphan);
}

/* ------------------------------------------------------------------------------------ study and run -- */

/* A store serves one model: what has no measurements binds nobody. */
static kvant_status check_model(struct kv_trials *t, const struct kv_study *study, bool resume,
                                struct kvant_error *err)
{
    int64_t n;
    sqlite3_stmt *s;
    bool row = false;
    KV_TRY(kv_trials_take(t, KV_SQL_OTHER_MODEL, &s, err));
    kvant_status status = sqlite3_bind_text(s, 1, study->model, -1, SQLITE_STATIC) == SQLITE_OK
                              ? kv_trials_step(t, s, &row, err)
                              : kv_trials_fail(t, "read", err);
    if (status == KVANT_OK && row) {
        const char *other = (const char *)sqlite3_column_text(s, 0);
        status = kv_error_set(
            err, KVANT_ERR_MISMATCH, -1,
            "%s: holds measurements of the model %.80s, and this is %.80s; name another file", t->label,
            other ? other : "?", study->model);
    }
    kv_trials_done(s);
    KV_TRY(status);
    KV_TRY(number(t, KV_SQL_COUNT_ALL, &n, err));
    if (n > 0 && !resume)
        KV_FAIL(
            err, KVANT_ERR_ARGUMENT, -1,
            "%s: holds %lld measurements of this model already; continue it with --resume, or name another "
            "file",
            t->label, (long long)n);
    return KVANT_OK;
}

static kvant_status add_study(struct kv_trials *t, const struct kv_study *study, struct kvant_error *err)
{
    char sum[KV_HASH_TEXT_CAP];
    sqlite3_stmt *s;
    KV_TRY(number(t, KV_SQL_STUDY_NEXT, &t->study, err));
    kv_trials_study_sum(t->study, study->model, study->conditions, sum);
    KV_TRY(kv_trials_take(t, KV_SQL_STUDY_ADD, &s, err));
    bool bound = sqlite3_bind_int64(s, 1, t->study) == SQLITE_OK &&
                 sqlite3_bind_text(s, 2, study->model, -1, SQLITE_STATIC) == SQLITE_OK &&
                 sqlite3_bind_text(s, 3, study->conditions, -1, SQLITE_STATIC) == SQLITE_OK &&
                 sqlite3_bind_text(s, 4, sum, -1, SQLITE_STATIC) == SQLITE_OK;
    return kv_trials_execute(t, s, bound, err);
}

static kvant_status enter_study(struct kv_trials *t, const struct kv_study *study, struct kvant_error *err)
{
    sqlite3_stmt *s;
    bool row = false;
    KV_TRY(kv_trials_take(t, KV_SQL_STUDY_FIND, &s, err));
    bool bound = sqlite3_bind_text(s, 1, study->model, -1, SQLITE_STATIC) == SQLITE_OK &&
                 sqlite3_bind_text(s, 2, study->conditions, -1, SQLITE_STATIC) == SQLITE_OK;
    kvant_status status = bound ? kv_trials_step(t, s, &row, err) : kv_trials_fail(t, "read", err);
    if (status == KVANT_OK && row) t->study = sqlite3_column_int64(s, 0);
    kv_trials_done(s);
    return status == KVANT_OK && !row ? add_study(t, study, err) : status;
}

static kvant_status begin_run(struct kv_trials *t, const struct kv_study *study, struct kvant_error *err)
{
    sqlite3_stmt *s;
    /* This process has the lock, so no other run is running, whatever they say. */
    KV_TRY(kv_trials_do(t, KV_SQL_RUNS_INTERRUPT, err));
    KV_TRY(kv_trials_take(t, KV_SQL_RUN_ADD, &s, err));
    bool bound = sqlite3_bind_int64(s, 1, t->study) == SQLITE_OK &&
                 sqlite3_bind_int64(s, 2, kv_time_s()) == SQLITE_OK &&
                 sqlite3_bind_text(s, 3, study->settings, -1, SQLITE_STATIC) == SQLITE_OK &&
                 sqlite3_bind_text(s, 4, study->tool, -1, SQLITE_STATIC) == SQLITE_OK;
    KV_TRY(kv_trials_execute(t, s, bound, err));
    t->run = sqlite3_last_insert_rowid(t->db);
    return KVANT_OK;
}

static kvant_status check_study(const struct kv_study *study, struct kvant_error *err)
{
    const char *texts[] = { study->model, study->conditions, study->settings, study->tool };
    static const char *const names[] = { "model", "conditions", "settings", "tool" };
    for (int i = 0; i < 4; i++)
        if (!texts[i] || !texts[i][0] || strlen(texts[i]) > KV_TRIALS_TEXT_MAX)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "a study's %s must have 1 to %d bytes", names[i],
                    KV_TRIALS_TEXT_MAX);
    return KVANT_OK;
}

static kvant_status open_store(struct kv_trials *t, const char *path, const struct kv_study *study,
                               bool resume, struct kvant_error *err)
{
    t->label = kv_strdup(path ? path : "trials in memory");
    t->tool = kv_strdup(study->tool);
    if (!t->label || !t->tool) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the trial store");
    KV_TRY(open_database(t, path, err));
    KV_TRY(configure(t, err));
    KV_TRY(create_or_check(t, err));
    KV_TRY(check_model(t, study, resume, err));
    KV_TRY(enter_study(t, study, err));
    KV_TRY(begin_run(t, study, err));
    KV_TRY(script(t, "COMMIT", "written", err));
    /* Stays what it is unless somebody has switched the file to WAL. */
    return script(t, "PRAGMA journal_mode = DELETE", "written", err);
}

kvant_status kv_trials_open(struct kv_trials **out, const char *path, const struct kv_study *study,
                            bool resume, struct kvant_error *err)
{
    *out = NULL;
    KV_TRY(check_study(study, err));
    if (path && !path[0]) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "the trial store needs a file's name");
    struct kv_trials *t = kv_alloc(1, sizeof *t);
    if (!t) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the trial store");
    kvant_status status = open_store(t, path, study, resume, err);
    if (status == KVANT_OK)
        *out = t;
    else
        kv_trials_close(t);
    return status;
}

kvant_status kv_trials_finish(struct kv_trials *t, const char *outcome, struct kvant_error *err)
{
    sqlite3_stmt *s;
    KV_TRY(kv_trials_take(t, KV_SQL_RUN_END, &s, err));
    bool bound = sqlite3_bind_int64(s, 1, t->run) == SQLITE_OK &&
                 sqlite3_bind_int64(s, 2, kv_time_s()) == SQLITE_OK &&
                 sqlite3_bind_text(s, 3, outcome, -1, SQLITE_STATIC) == SQLITE_OK;
    return kv_trials_execute(t, s, bound, err);
}

kvant_status kv_trials_count(struct kv_trials *t, int64_t *n_trials, int64_t *n_vectors,
                             struct kvant_error *err)
{
    sqlite3_stmt *s;
    bool row = false;
    *n_trials = *n_vectors = 0;
    KV_TRY(kv_trials_take(t, KV_SQL_COUNT_STUDY, &s, err));
    kvant_status status = sqlite3_bind_int64(s, 1, t->study) == SQLITE_OK ? kv_trials_step(t, s, &row, err)
                                                                          : kv_trials_fail(t, "read", err);
    if (status == KVANT_OK && row) {
        *n_trials = sqlite3_column_int64(s, 0);
        *n_vectors = sqlite3_column_int64(s, 1);
    }
    kv_trials_done(s);
    return status;
}

void kv_trials_close(struct kv_trials *t)
{
    if (!t) return;
    for (int i = 0; i < KV_N_SQL; i++) sqlite3_finalize(t->statements[i]);
    sqlite3_close(t->db); /* what is not committed is rolled back */
    kv_free(t->label);
    kv_free(t->tool);
    kv_free(t);
}
