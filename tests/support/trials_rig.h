/*
 * Trial stores for tests: a scratch folder, a study, trials that differ, and what a store must then hold.
 */
#ifndef TESTS_SUPPORT_TRIALS_RIG_H
#define TESTS_SUPPORT_TRIALS_RIG_H

#include "tune/store.h"

#define TRIALS_PATH_CAP 600
#define TRIALS_BATCH    3 /* trials and one vector */

extern const struct kv_study trials_study;

/* cmocka's setup and teardown of a test: an empty folder, and it is gone with all that is in it. */
int trials_folder_make(void **state);
int trials_folder_remove(void **state);
const char *trials_path(char path[TRIALS_PATH_CAP], const char *name);
/* Opens trials_study; anything but OK fails the test. path: NULL = in memory. */
struct kv_trials *trials_open(const char *path, bool resume);
/* Fails the test unless the store is refused with this status, a message that begins with the path and holds
 * `part`, and (when it is a file) not one byte changed. */
void trials_refused(const char *path, bool resume, kvant_status status, const char *part);

/* Trial i; plan is its text, 64 bytes of the caller's. */
struct kv_trial trials_make(int i, char plan[64]);
/* Adds batch i: TRIALS_BATCH trials in one call, then a vector of n_values in another. */
kvant_status trials_add_batch(struct kv_trials *t, int i, size_t n_values, struct kvant_error *err);
/* Fails the test unless the store's trials are those of n whole batches and nothing else; the same of
 * vectors. Returns n, which is between `min` and `max`. */
int trials_expect_batches(struct kv_trials *t, int min, int max, size_t n_values);

/* The whole file, malloc'ed; NULL when it cannot be read. */
char *trials_read(const char *path, size_t *n_bytes);
void trials_write(const char *path, const char *data, size_t n_bytes);
/* Runs SQL on a store behind the library's back. */
void trials_sql(const char *path, const char *sql);

#endif
