/*
 * Any bytes as a trial store. What is refused keeps every byte; what is accepted can be read, takes a batch,
 * and opens again with it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/trials_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool see(void *user, const struct kv_trial *trial)
{
    size_t *n = user;
    *n += strlen(trial->plan) + strlen(trial->objective) + strlen(trial->tool) +
          (trial->result.n_scored >= 0);
    return true;
}

static void check_refused(const char *path, const struct kvant_error *err, const uint8_t *data, size_t size)
{
    size_t n;
    char *after = trials_read(path, &n);
    if (!after || n != size || (size && memcmp(after, data, size) != 0)) abort();
    if (err->status == KVANT_OK || strncmp(err->message, path, strlen(path)) != 0) abort();
    free(after);
}

/* Closes the store. */
static void check_accepted(struct kv_trials *t, const char *path)
{
    size_t n_seen = 0;
    int64_t n_trials, n_vectors, n_again;
    char plan[64];
    struct kv_trial trial = trials_make(1000, plan);
    struct kvant_eval_result r;
    bool found;
    if (kv_trials_each(t, see, &n_seen, NULL) != KVANT_OK) abort();
    if (kv_trials_count(t, &n_trials, &n_vectors, NULL) != KVANT_OK) abort();
    if ((n_seen > 0) != (n_trials > 0)) abort();
    if (kv_trials_add(t, &trial, 1, NULL) != KVANT_OK) abort();
    if (kv_trials_finish(t, "done", NULL) != KVANT_OK) abort();
    kv_trials_close(t);
    if (kv_trials_open(&t, path, &trials_study, true, NULL) != KVANT_OK) abort();
    if (kv_trials_find(t, trial.plan, trial.objective, &r, &found, NULL) != KVANT_OK || !found) abort();
    if (kv_trials_count(t, &n_again, &n_vectors, NULL) != KVANT_OK) abort();
    if (n_again != n_trials && n_again != n_trials + 1) abort();
    kv_trials_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char folder[100], path[TRIALS_PATH_CAP];
    struct kvant_error err = { .message = "" };
    struct kv_trials *t;
    snprintf(folder, sizeof folder, "%s/kvant-fuzz-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : P_tmpdir);
    if (!mkdtemp(folder)) abort();
    snprintf(path, sizeof path, "%s/t", folder);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) abort();
    if (kv_trials_open(&t, path, &trials_study, true, &err) == KVANT_OK)
        check_accepted(t, path);
    else
        check_refused(path, &err, data, size);
    /* Nothing else may be left behind. */
    if (unlink(path) != 0 || rmdir(folder) != 0) abort();
    return 0;
}
