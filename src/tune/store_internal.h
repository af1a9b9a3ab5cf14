/*
 * What store.c (the file: opening, checking, runs) and store_rows.c (trials and vectors) share. Nobody else
 * includes this.
 */
#ifndef KV_TUNE_STORE_INTERNAL_H
#define KV_TUNE_STORE_INTERNAL_H

#include <sqlite3.h>

#include "base/hash.h"
#include "tune/store.h"

#define KV_TRIAL_COLUMNS                                                                                     \
    "id, study, objective, plan, seed, seconds, time, tool, ppl, ppl_ratio, "                                \
    "kld_mean, kld_median, kld_p99, kld_p999, kld_max, same_top_p, page_bits, "                              \
    "true_bits, bytes_per_token, n_scored, sha256"
#define KV_VECTOR_COLUMNS "id, study, kind, key, seconds, time, tool, data, sha256"

/* One row per statement: prepared when first used, kept until close. */
#define KV_TRIALS_SQL(X)                                                                                     \
    X(BEGIN, "BEGIN IMMEDIATE")                                                                              \
    X(COMMIT, "COMMIT")                                                                                      \
    X(TRIAL_FIND, "SELECT " KV_TRIAL_COLUMNS " FROM trial"                                                   \
                  " WHERE study = ?1 AND objective = ?2 AND plan = ?3")                                      \
    X(TRIAL_ADD, "INSERT INTO trial (" KV_TRIAL_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9,"      \
                 " ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)"                              \
                 " ON CONFLICT (study, objective, plan) DO NOTHING")                                         \
    X(TRIAL_STUDY, "SELECT " KV_TRIAL_COLUMNS " FROM trial WHERE study = ?1 ORDER BY id")                    \
    X(TRIAL_ALL, "SELECT " KV_TRIAL_COLUMNS " FROM trial")                                                   \
    X(VECTOR_FIND, "SELECT " KV_VECTOR_COLUMNS " FROM vector"                                                \
                   " WHERE study = ?1 AND kind = ?2 AND key = ?3")                                           \
    X(VECTOR_ADD, "INSERT INTO vector (" KV_VECTOR_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,"       \
                  " ?9) ON CONFLICT (study, kind, key) DO NOTHING")                                          \
    X(VECTOR_ALL, "SELECT " KV_VECTOR_COLUMNS " FROM vector")                                                \
    X(STUDY_FIND, "SELECT id FROM study WHERE model = ?1 AND conditions = ?2")                               \
    X(STUDY_ADD, "INSERT INTO study (id, model, conditions, sha256) VALUES (?1, ?2, ?3, ?4)")                \
    X(STUDY_ALL, "SELECT id, model, conditions, sha256 FROM study")                                          \
    X(STUDY_NEXT, "SELECT coalesce(max(id), 0) + 1 FROM study")                                              \
    X(OTHER_MODEL, "SELECT model FROM study WHERE model <> ?1 AND"                                           \
                   " (id IN (SELECT study FROM trial) OR id IN (SELECT study FROM vector))")                 \
    X(ORPHANS, "SELECT study FROM trial WHERE study NOT IN (SELECT id FROM study)"                           \
               " UNION ALL SELECT study FROM vector WHERE study NOT IN (SELECT id FROM study)")              \
    X(COUNT_ALL, "SELECT (SELECT count(*) FROM trial) + (SELECT count(*) FROM vector)")                      \
    X(COUNT_STUDY, "SELECT (SELECT count(*) FROM trial WHERE study = ?1),"                                   \
                   " (SELECT count(*) FROM vector WHERE study = ?1)")                                        \
    X(RUNS_INTERRUPT, "UPDATE run SET outcome = 'interrupted' WHERE outcome = 'running'")                    \
    X(RUN_ADD, "INSERT INTO run (study, started, outcome, settings, tool)"                                   \
               " VALUES (?1, ?2, 'running', ?3, ?4)")                                                        \
    X(RUN_END, "UPDATE run SET ended = ?2, outcome = ?3 WHERE id = ?1")                                      \
    X(TABLES, "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")                     \
    X(APPLICATION, "PRAGMA application_id")                                                                  \
    X(VERSION, "PRAGMA user_version")                                                                        \
    X(INTEGRITY, "PRAGMA integrity_check(1)")

enum kv_trials_sql {
#define X(name, text) KV_SQL_##name,
    KV_TRIALS_SQL(X)
#undef X
        KV_N_SQL
};

struct kv_trials {
    sqlite3 *db;
    char *label;        /* the file, as messages name it     */
    char *tool;         /* of this run                       */
    int64_t study, run; /* of this run, 0 before there is one */
    sqlite3_stmt *statements[KV_N_SQL];
};

/* The error of the last call of SQLite as a status and a line. doing: "opened", "read", "written". */
kvant_status kv_trials_fail(const struct kv_trials *t, const char *doing, struct kvant_error *err);
/* FORMAT: what is wrong with the file, and what to do. */
kvant_status kv_trials_damaged(const struct kv_trials *t, struct kvant_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A statement ready to be bound; whoever takes it gives it back with kv_trials_done. */
kvant_status kv_trials_take(struct kv_trials *t, enum kv_trials_sql which, sqlite3_stmt **out,
                            struct kvant_error *err);
void kv_trials_done(sqlite3_stmt *statement);
/* The next row, if there is one. */
kvant_status kv_trials_step(const struct kv_trials *t, sqlite3_stmt *statement, bool *row,
                            struct kvant_error *err);
/* A statement that has no row to give: runs it and gives it back. bound: whether its parameters are. */
kvant_status kv_trials_execute(const struct kv_trials *t, sqlite3_stmt *statement, bool bound,
                               struct kvant_error *err);
/* Both, for a statement without parameters. */
kvant_status kv_trials_do(struct kv_trials *t, enum kv_trials_sql which, struct kvant_error *err);

/* Reads every row of every table that is ever read back. */
kvant_status kv_trials_check_rows(struct kv_trials *t, struct kvant_error *err);
void kv_trials_study_sum(int64_t id, const char *model, const char *conditions, char sum[KV_HASH_TEXT_CAP]);

#endif
