/* Slots saved to files, restored and erased: each answers its job and lets it go. */
#include <stdlib.h>
#include <string.h>

#include "serve_engine.h"

/* Answers with what the library says of the job's file, under the name that the client gave: where the folder
 * lies is nobody's business. */
static void refuse_file(struct job *job, int status, struct kvant_error *err)
{
    struct api_error error;
    size_t n = strlen(job->path) - strlen(job->name); /* the folder's */
    if (strncmp(err->message, job->path, n) == 0)
        memmove(err->message, err->message + n, strlen(err->message + n) + 1);
    if (status == 400)
        API_BAD(&error, "filename", "%s", err->message);
    else
        api_fail_library(&error, err);
    job_finish_error(job, &error);
}

void slot_save(struct engine *e, struct job *job)
{
    struct kvant_error err;
    struct api_error error;
    double started_s = clock_s();
    const struct prefix *p = prefixes_of_slot(&e->prefixes, job->slot);
    size_t n_bytes = 0;
    if (!p) {
        API_BAD(&error, NULL, "slot %d holds nothing to save", job->slot);
        job_finish_error(job, &error);
    } else if (kvant_sequence_save(e->session, p->seq, p->tokens, p->n_tokens, job->path, &n_bytes, &err) !=
               KVANT_OK) {
        refuse_file(job, 0, &err);
    } else
        job_finish_json(job, 200,
                        json_pack("{s:i, s:s, s:I, s:I, s:{s:f}}", "id_slot", job->slot, "filename",
                                  job->name, "n_saved", (json_int_t)p->n_tokens, "n_written",
                                  (json_int_t)n_bytes, "timings", "save_ms", 1e3 * (clock_s() - started_s)));
    job_release(job);
}

void slot_restore(struct engine *e, struct job *job)
{
    const struct server *s = e->server;
    struct kvant_error err;
    double started_s = clock_s();
    struct prefix entry = { .seq = -1, .slot = job->slot };
    size_t n_bytes = 0;
    kvant_status status = KVANT_ERR_MISMATCH;
    entry.tokens = allocate((size_t)s->n_ctx, sizeof *entry.tokens);
    while (e->prefixes.n >= PREFIXES_MAX - 1) prefixes_evict(&e->prefixes, e->session);
    for (entry.plan = 0; entry.plan < s->n_plans; entry.plan++) { /* the file says of which plan it is */
        status = kvant_sequence_restore(e->session, s->plans[entry.plan].plan, s->n_ctx, job->path,
                                        &entry.seq, entry.tokens, (size_t)s->n_ctx, &entry.n_tokens, &n_bytes,
                                        &err);
        if (status != KVANT_ERR_MISMATCH) break;
    }
    if (status != KVANT_OK) {
        free(entry.tokens);
        refuse_file(job, status == KVANT_ERR_IO || status == KVANT_ERR_SPACE ? 400 : 0, &err);
    } else {
        size_t n = entry.n_tokens;
        prefixes_erase(&e->prefixes, e->session, job->slot);
        prefixes_add(&e->prefixes, e->session, entry, -1, PREFIXES_MAX - 1);
        job_finish_json(job, 200,
                        json_pack("{s:i, s:s, s:I, s:I, s:{s:f}}", "id_slot", job->slot, "filename",
                                  job->name, "n_restored", (json_int_t)n, "n_read", (json_int_t)n_bytes,
                                  "timings", "restore_ms", 1e3 * (clock_s() - started_s)));
    }
    job_release(job);
}

void slot_erase(struct engine *e, struct job *job)
{
    int64_t n = prefixes_erase(&e->prefixes, e->session, job->slot);
    job_finish_json(job, 200, json_pack("{s:i, s:I}", "id_slot", job->slot, "n_erased", (json_int_t)n));
    job_release(job);
}
