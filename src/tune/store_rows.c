/*
 * Rows of the trial store: trials and vectors, written and read with the same checks.
 *
 * SQLite notices damage to its own structure, not to what is stored in it, and a wrong KLD would quietly make
 * a wrong front. So each row ends with the SHA-256 of all that it says. It guards against accidents; that a
 * forged row does no harm is the business of the range checks, which stand before it.
 *
 * NaN has no place in SQL: a REAL column holds NULL for it. Zero loses its sign there. Vectors are bytes and
 * keep everything.
 */
#include "tune/store_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"

/* The numbers of a result, in the order of their columns. */
static const struct {
    size_t offset;
    double max; /* the least is 0 for all */
} fields[] = {
    { offsetof(struct kvant_eval_result, ppl), INFINITY },
    { offsetof(struct kvant_eval_result, ppl_ratio), INFINITY },
    { offsetof(struct kvant_eval_result, kld_mean), INFINITY },
    { offsetof(struct kvant_eval_result, kld_median), INFINITY },
    { offsetof(struct kvant_eval_result, kld_p99), INFINITY },
    { offsetof(struct kvant_eval_result, kld_p999), INFINITY },
    { offsetof(struct kvant_eval_result, kld_max), INFINITY },
    { offsetof(struct kvant_eval_result, same_top_p), 100.0 },
    { offsetof(struct kvant_eval_result, page_bits), INFINITY },
    { offsetof(struct kvant_eval_result, true_bits), INFINITY },
    { offsetof(struct kvant_eval_result, bytes_per_token), INFINITY },
};
#define N_FIELDS ((int)(sizeof fields / sizeof fields[0]))
_Static_assert(sizeof(struct kvant_eval_result) == N_FIELDS * sizeof(double) + sizeof(int64_t),
               "a new field needs a column, and the format a new version");

/* Columns of KV_TRIAL_COLUMNS and KV_VECTOR_COLUMNS; parameters of the INSERTs are numbered from 1. */
enum { COLUMN_ID, COLUMN_STUDY };
enum { TRIAL_OBJECTIVE = 2, TRIAL_PLAN, TRIAL_SEED, TRIAL_SECONDS, TRIAL_TIME, TRIAL_TOOL, TRIAL_FIELDS };
enum { TRIAL_N_SCORED = TRIAL_FIELDS + N_FIELDS, TRIAL_SUM };
enum { VECTOR_KIND = 2, VECTOR_KEY, VECTOR_SECONDS, VECTOR_TIME, VECTOR_TOOL, VECTOR_DATA, VECTOR_SUM };

static double field_of(const struct kvant_eval_result *r, int i)
{
    double x;
    memcpy(&x, (const char *)r + fields[i].offset, sizeof x);
    return x;
}

static void set_field(struct kvant_eval_result *r, int i, double x)
{
    memcpy((char *)r + fields[i].offset, &x, sizeof x);
}

static bool field_in_range(int i, double x)
{
    return isnan(x) || (x >= 0.0 && x <= fields[i].max);
}

static bool is_duration(double seconds)
{
    return isfinite(seconds) && seconds >= 0.0;
}

static bool is_text(const char *text)
{
    return text && text[0] && strnlen(text, KV_TRIALS_TEXT_MAX + 1) <= KV_TRIALS_TEXT_MAX;
}

/* ----------------------------------------------------------------------------------------------- sums -- */

/* The number's 8 bytes, low byte first. */
static void put_u64(uint8_t out[8], uint64_t x)
{
    for (int i = 0; i < 8; i++) out[i] = (uint8_t)(x >> 8 * i);
}

static uint64_t get_u64(const uint8_t in[8])
{
    uint64_t x = 0;
    for (int i = 0; i < 8; i++) x |= (uint64_t)in[i] << 8 * i;
    return x;
}

static void sum_u64(struct kv_hash *h, uint64_t x)
{
    uint8_t bytes[8];
    put_u64(bytes, x);
    kv_hash_add(h, bytes, sizeof bytes);
}

/* As a REAL column gives it back: one NaN, one zero. */
static void sum_real(struct kv_hash *h, double x)
{
    uint64_t bits;
    if (x == 0.0) x = 0.0;
    memcpy(&bits, &x, sizeof bits);
    sum_u64(h, isnan(x) ? 0x7ff8000000000000u : bits);
}

static void sum_bytes(struct kv_hash *h, const void *data, size_t n_bytes)
{
    sum_u64(h, n_bytes);
    kv_hash_add(h, data, n_bytes);
}

static void sum_text(struct kv_hash *h, const char *text)
{
    sum_bytes(h, text, strlen(text));
}

void kv_trials_study_sum(int64_t id, const char *model, const char *conditions, char sum[KV_HASH_TEXT_CAP])
{
    struct kv_hash h;
    kv_hash_begin(&h);
    sum_u64(&h, (uint64_t)id);
    sum_text(&h, model);
    sum_text(&h, conditions);
    kv_hash_end(&h, sum);
}

static void trial_sum(int64_t study, const struct kv_trial *x, char sum[KV_HASH_TEXT_CAP])
{
    struct kv_hash h;
    kv_hash_begin(&h);
    sum_u64(&h, (uint64_t)study);
    sum_text(&h, x->objective);
    sum_text(&h, x->plan);
    sum_u64(&h, x->seed);
    sum_real(&h, x->seconds);
    sum_u64(&h, (uint64_t)x->time_s);
    sum_text(&h, x->tool);
    for (int i = 0; i < N_FIELDS; i++) sum_real(&h, field_of(&x->result, i));
    sum_u64(&h, (uint64_t)x->result.n_scored);
    kv_hash_end(&h, sum);
}

struct vector_row {
    int64_t study, time_s;
    const char *kind, *key, *tool;
    double seconds;
    const uint8_t *data;
    size_t n_bytes;
};

static void vector_sum(const struct vector_row *x, char sum[KV_HASH_TEXT_CAP])
{
    struct kv_hash h;
    kv_hash_begin(&h);
    sum_u64(&h, (uint64_t)x->study);
    sum_text(&h, x->kind);
    sum_text(&h, x->key);
    sum_real(&h, x->seconds);
    sum_u64(&h, (uint64_t)x->time_s);
    sum_text(&h, x->tool);
    sum_bytes(&h, x->data, x->n_bytes);
    kv_hash_end(&h, sum);
}

/* -------------------------------------------------------------------------------------------- reading -- */

/* A row being read: the first column that is not what it must be is remembered, and the rest is read on. */
struct row {
    const struct kv_trials *t;
    sqlite3_stmt *s;
    const char *bad; /* name of that column, or NULL */
    bool no_memory;
};

static bool expect(struct row *r, int column, bool right)
{
    if (!right && !r->bad) r->bad = sqlite3_column_name(r->s, column);
    if (!right && !r->bad) r->bad = "a column";
    return right;
}

static int64_t row_int(struct row *r, int column, int64_t min)
{
    bool right = sqlite3_column_type(r->s, column) == SQLITE_INTEGER;
    int64_t x = sqlite3_column_int64(r->s, column);
    return expect(r, column, right && x >= min) ? x : min;
}

static double row_real(struct row *r, int column)
{
    int type = sqlite3_column_type(r->s, column);
    if (type == SQLITE_NULL) return NAN;
    return expect(r, column, type == SQLITE_FLOAT) ? sqlite3_column_double(r->s, column) : NAN;
}

/* Never NULL. Borrowed until the statement steps. */
static const char *row_text(struct row *r, int column)
{
    if (!expect(r, column, sqlite3_column_type(r->s, column) == SQLITE_TEXT)) return "";
    const char *text = (const char *)sqlite3_column_text(r->s, column);
    if (!text) {
        r->no_memory = true;
        return "";
    }
    bool whole = strlen(text) == (size_t)sqlite3_column_bytes(r->s, column); /* no zero byte hides the rest */
    return expect(r, column, whole && is_text(text)) ? text : "";
}

/* The row is right so far, and it says of itself what `sum` says. what: the table. */
static kvant_status row_end(struct row *r, const char *what, int column_sum, const char *sum,
                            struct kvant_error *err)
{
    const char *said = row_text(r, column_sum);
    if (r->no_memory) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory for the trial store", r->t->label);
    long long id = (long long)sqlite3_column_int64(r->s, COLUMN_ID);
    if (r->bad) return kv_trials_damaged(r->t, err, "%s %lld: %s cannot be that", what, id, r->bad);
    if (strcmp(said, sum) != 0)
        return kv_trials_damaged(r->t, err, "%s %lld: its sha256 is of other numbers", what, id);
    return KVANT_OK;
}

static kvant_status read_study(const struct kv_trials *t, sqlite3_stmt *s, struct kvant_error *err)
{
    struct row r = { .t = t, .s = s };
    char sum[KV_HASH_TEXT_CAP];
    int64_t id = row_int(&r, 0, 1);
    expect(&r, 0, id <= INT32_MAX); /* so that there is always a next one */
    const char *model = row_text(&r, 1), *conditions = row_text(&r, 2);
    kv_trials_study_sum(id, model, conditions, sum);
    return row_end(&r, "study", 3, sum, err);
}

/* Strings are borrowed until the statement steps. */
static kvant_status read_trial(const struct kv_trials *t, sqlite3_stmt *s, struct kv_trial *out,
                               struct kvant_error *err)
{
    struct row r = { .t = t, .s = s };
    char sum[KV_HASH_TEXT_CAP];
    int64_t study = row_int(&r, COLUMN_STUDY, 1);
    *out = (struct kv_trial){ .objective = row_text(&r, TRIAL_OBJECTIVE),
                              .plan = row_text(&r, TRIAL_PLAN),
                              .seed = (uint64_t)row_int(&r, TRIAL_SEED, INT64_MIN),
                              .seconds = row_real(&r, TRIAL_SECONDS),
                              .time_s = row_int(&r, TRIAL_TIME, 0),
                              .tool = row_text(&r, TRIAL_TOOL) };
    expect(&r, TRIAL_SECONDS, is_duration(out->seconds));
    for (int i = 0; i < N_FIELDS; i++) {
        double x = row_real(&r, TRIAL_FIELDS + i);
        expect(&r, TRIAL_FIELDS + i, field_in_range(i, x));
        set_field(&out->result, i, x);
    }
    out->result.n_scored = row_int(&r, TRIAL_N_SCORED, 0);
    trial_sum(study, out, sum);
    return row_end(&r, "trial", TRIAL_SUM, sum, err);
}

static kvant_status read_vector(const struct kv_trials *t, sqlite3_stmt *s, struct vector_row *out,
                                struct kvant_error *err)
{
    struct row r = { .t = t, .s = s };
    char sum[KV_HASH_TEXT_CAP];
    *out = (struct vector_row){ .study = row_int(&r, COLUMN_STUDY, 1),
                                .kind = row_text(&r, VECTOR_KIND),
                                .key = row_text(&r, VECTOR_KEY),
                                .seconds = row_real(&r, VECTOR_SECONDS),
                                .time_s = row_int(&r, VECTOR_TIME, 0),
                                .tool = row_text(&r, VECTOR_TOOL) };
    expect(&r, VECTOR_SECONDS, is_duration(out->seconds));
    if (expect(&r, VECTOR_DATA, sqlite3_column_type(s, VECTOR_DATA) == SQLITE_BLOB)) {
        out->data = sqlite3_column_blob(s, VECTOR_DATA);
        size_t n_bytes = (size_t)sqlite3_column_bytes(s, VECTOR_DATA);
        r.no_memory |= n_bytes > 0 && !out->data;
        if (expect(&r, VECTOR_DATA, n_bytes % 8 == 0 && n_bytes / 8 <= KV_TRIALS_VALUES_MAX) && out->data)
            out->n_bytes = n_bytes;
    }
    vector_sum(out, sum);
    return row_end(&r, "vector", VECTOR_SUM, sum, err);
}

kvant_status kv_trials_check_rows(struct kv_trials *t, struct kvant_error *err)
{
    static const enum kv_trials_sql all[] = { KV_SQL_STUDY_ALL, KV_SQL_TRIAL_ALL, KV_SQL_VECTOR_ALL };
    for (int i = 0; i < 3; i++) {
        sqlite3_stmt *s;
        bool row;
        KV_TRY(kv_trials_take(t, all[i], &s, err));
        kvant_status status = kv_trials_step(t, s, &row, err);
        while (status == KVANT_OK && row) {
            struct kv_trial trial;
            struct vector_row vector;
            status = i == 0   ? read_study(t, s, err)
                     : i == 1 ? read_trial(t, s, &trial, err)
                              : read_vector(t, s, &vector, err);
            if (status == KVANT_OK) status = kv_trials_step(t, s, &row, err);
        }
        kv_trials_done(s);
        KV_TRY(status);
    }
    return KVANT_OK;
}

/* Binds study and two texts, and steps to the row if there is one. Give *out back in any case of OK. */
static kvant_status look_up(struct kv_trials *t, enum kv_trials_sql which, const char *a, const char *b,
                            sqlite3_stmt **out, bool *found, struct kvant_error *err)
{
    *found = false;
    KV_TRY(kv_trials_take(t, which, out, err));
    bool bound = sqlite3_bind_int64(*out, 1, t->study) == SQLITE_OK &&
                 sqlite3_bind_text(*out, 2, a, -1, SQLITE_STATIC) == SQLITE_OK &&
                 sqlite3_bind_text(*out, 3, b, -1, SQLITE_STATIC) == SQLITE_OK;
    kvant_status status = bound ? kv_trials_step(t, *out, found, err) : kv_trials_fail(t, "read", err);
    if (status != KVANT_OK) kv_trials_done(*out);
    return status;
}

kvant_status kv_trials_find(struct kv_trials *t, const char *plan, const char *objective,
                            struct kvant_eval_result *out, bool *found, struct kvant_error *err)
{
    sqlite3_stmt *s;
    struct kv_trial trial;
    bool row;
    *found = false;
    KV_TRY(look_up(t, KV_SQL_TRIAL_FIND, objective, plan, &s, &row, err));
    kvant_status status = row ? read_trial(t, s, &trial, err) : KVANT_OK;
    kv_trials_done(s);
    if (status != KVANT_OK || !row) return status;
    *out = trial.result;
    *found = true;
    return KVANT_OK;
}

kvant_status kv_trials_each(struct kv_trials *t, bool (*fn)(void *user, const struct kv_trial *trial),
                            void *user, struct kvant_error *err)
{
    sqlite3_stmt *s;
    struct kv_trial trial;
    bool row = false;
    KV_TRY(kv_trials_take(t, KV_SQL_TRIAL_STUDY, &s, err));
    kvant_status status = sqlite3_bind_int64(s, 1, t->study) == SQLITE_OK ? kv_trials_step(t, s, &row, err)
                                                                          : kv_trials_fail(t, "read", err);
    while (status == KVANT_OK && row) {
        status = read_trial(t, s, &trial, err);
        if (status == KVANT_OK && !fn(user, &trial))
            status = kv_error_set(err, KVANT_ERR_CANCELLED, -1, "stopped while reading the trials");
        if (status == KVANT_OK) status = kv_trials_step(t, s, &row, err);
    }
    kv_trials_done(s);
    return status;
}

kvant_status kv_trials_find_values(struct kv_trials *t, const char *kind, const char *key, double **values,
                                   size_t *n, bool *found, struct kvant_error *err)
{
    sqlite3_stmt *s;
    struct vector_row row;
    bool any;
    *values = NULL;
    *n = 0;
    *found = false;
    KV_TRY(look_up(t, KV_SQL_VECTOR_FIND, kind, key, &s, &any, err));
    kvant_status status = any ? read_vector(t, s, &row, err) : KVANT_OK;
    if (status == KVANT_OK && any) {
        size_t n_values = row.n_bytes / 8;
        double *copy = kv_alloc(n_values, sizeof *copy);
        if (!copy)
            status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "%s: no memory for %zu values", t->label,
                                  n_values);
        for (size_t i = 0; copy && i < n_values; i++) {
            uint64_t bits = get_u64(row.data + 8 * i);
            memcpy(&copy[i], &bits, sizeof bits);
        }
        *values = copy;
        *n = copy ? n_values : 0;
        *found = copy != NULL;
    }
    kv_trials_done(s);
    return status;
}

/* -------------------------------------------------------------------------------------------- writing -- */

static kvant_status check_trial(const struct kv_trial *x, struct kvant_error *err)
{
    bool right = is_text(x->plan) && is_text(x->objective) && is_duration(x->seconds) &&
                 x->result.n_scored >= 0;
    for (int i = 0; i < N_FIELDS; i++) right = right && field_in_range(i, field_of(&x->result, i));
    if (!right)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "a measurement of the plan \"%.80s\" is out of range",
                x->plan ? x->plan : "");
    return KVANT_OK;
}

static kvant_status write_trial(struct kv_trials *t, const struct kv_trial *given, struct kvant_error *err)
{
    struct kv_trial x = *given;
    char sum[KV_HASH_TEXT_CAP];
    sqlite3_stmt *s;
    x.tool = t->tool;
    x.time_s = kv_time_s();
    trial_sum(t->study, &x, sum);
    KV_TRY(kv_trials_take(t, KV_SQL_TRIAL_ADD, &s, err));
    /* the id is left to SQLite */
    bool bound = sqlite3_bind_int64(s, 1 + COLUMN_STUDY, t->study) == SQLITE_OK &&
                 sqlite3_bind_text(s, 1 + TRIAL_OBJECTIVE, x.objective, -1, SQLITE_STATIC) == SQLITE_OK &&
                 sqlite3_bind_text(s, 1 + TRIAL_PLAN, x.plan, -1, SQLITE_STATIC) == SQLITE_OK &&
                 sqlite3_bind_int64(s, 1 + TRIAL_SEED, (int64_t)x.seed) == SQLITE_OK &&
                 sqlite3_bind_double(s, 1 + TRIAL_SECONDS, x.seconds) == SQLITE_OK &&
                 sqlite3_bind_int64(s, 1 + TRIAL_TIME, x.time_s) == SQLITE_OK &&
                 sqlite3_bind_text(s, 1 + TRIAL_TOOL, x.tool, -1, SQLITE_STATIC) == SQLITE_OK &&
                 sqlite3_bind_int64(s, 1 + TRIAL_N_SCORED, x.result.n_scored) == SQLITE_OK &&
                 sqlite3_bind_text(s, 1 + TRIAL_SUM, sum, -1, SQLITE_STATIC) == SQLITE_OK;
    for (int i = 0; i < N_FIELDS; i++)
        bound = bound && sqlite3_bind_double(s, 1 + TRIAL_FIELDS + i, field_of(&x.result, i)) == SQLITE_OK;
    return kv_trials_execute(t, s, bound, err);
}

static kvant_status check_vector(const struct kv_trial_vector *x, struct kvant_error *err)
{
    if (!is_text(x->kind) || !is_text(x->key) || !is_duration(x->seconds) || x->n > KV_TRIALS_VALUES_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "values \"%.80s\" of the kind \"%.80s\" are out of range",
                x->key ? x->key : "", x->kind ? x->kind : "");
    return KVANT_OK;
}

static kvant_status write_vector(struct kv_trials *t, const struct kv_trial_vector *given,
                                 struct kvant_error *err)
{
    char sum[KV_HASH_TEXT_CAP];
    sqlite3_stmt *s;
    uint8_t *data = kv_alloc(given->n, 8);
    if (!data) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory for %zu values", t->label, given->n);
    for (size_t i = 0; i < given->n; i++) {
        uint64_t bits;
        memcpy(&bits, &given->values[i], sizeof bits);
        put_u64(data + 8 * i, bits);
    }
    struct vector_row x = { .study = t->study,
                            .time_s = kv_time_s(),
                            .kind = given->kind,
                            .key = given->key,
                            .tool = t->tool,
                            .seconds = given->seconds,
                            .data = data,
                            .n_bytes = 8 * given->n };
    vector_sum(&x, sum);
    kvant_status status = kv_trials_take(t, KV_SQL_VECTOR_ADD, &s, err);
    if (status == KVANT_OK) {
        bool bound = sqlite3_bind_int64(s, 1 + COLUMN_STUDY, x.study) == SQLITE_OK &&
                     sqlite3_bind_text(s, 1 + VECTOR_KIND, x.kind, -1, SQLITE_STATIC) == SQLITE_OK &&
                     sqlite3_bind_text(s, 1 + VECTOR_KEY, x.key, -1, SQLITE_STATIC) == SQLITE_OK &&
                     sqlite3_bind_double(s, 1 + VECTOR_SECONDS, x.seconds) == SQLITE_OK &&
                     sqlite3_bind_int64(s, 1 + VECTOR_TIME, x.time_s) == SQLITE_OK &&
                     sqlite3_bind_text(s, 1 + VECTOR_TOOL, x.tool, -1, SQLITE_STATIC) == SQLITE_OK &&
                     sqlite3_bind_blob(s, 1 + VECTOR_DATA, x.data, (int)x.n_bytes, SQLITE_STATIC) ==
                         SQLITE_OK &&
                     sqlite3_bind_text(s, 1 + VECTOR_SUM, sum, -1, SQLITE_STATIC) == SQLITE_OK;
        status = kv_trials_execute(t, s, bound, err);
    }
    kv_free(data);
    return status;
}

/* Under the exclusive lock SQLite does not look whether its file still has a name, and measurements would go
 * where nobody finds them. */
static kvant_status begin_batch(struct kv_trials *t, struct kvant_error *err)
{
    int moved = 0;
    if (sqlite3_file_control(t->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK && moved)
        KV_FAIL(err, KVANT_ERR_IO, -1, "%s: the trial store was moved or deleted while it was in use",
                t->label);
    return kv_trials_do(t, KV_SQL_BEGIN, err);
}

/* Ends a batch: commits, or undoes it all; a commit that fails is undone as well. */
static kvant_status end_batch(struct kv_trials *t, kvant_status status, struct kvant_error *err)
{
    if (status == KVANT_OK) status = kv_trials_do(t, KV_SQL_COMMIT, err);
    /* Some errors roll back by themselves; that there is nothing left to undo is no error. */
    if (status != KVANT_OK && !sqlite3_get_autocommit(t->db))
        sqlite3_exec(t->db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

kvant_status kv_trials_add(struct kv_trials *t, const struct kv_trial *trials, size_t n,
                           struct kvant_error *err)
{
    for (size_t i = 0; i < n; i++) KV_TRY(check_trial(&trials[i], err));
    if (n == 0) return KVANT_OK;
    kvant_status status = begin_batch(t, err);
    for (size_t i = 0; status == KVANT_OK && i < n; i++) status = write_trial(t, &trials[i], err);
    return end_batch(t, status, err);
}

kvant_status kv_trials_add_values(struct kv_trials *t, const struct kv_trial_vector *vectors, size_t n,
                                  struct kvant_error *err)
{
    for (size_t i = 0; i < n; i++) KV_TRY(check_vector(&vectors[i], err));
    if (n == 0) return KVANT_OK;
    kvant_status status = begin_batch(t, err);
    for (size_t i = 0; status == KVANT_OK && i < n; i++) status = write_vector(t, &vectors[i], err);
    return end_batch(t, status, err);
}
