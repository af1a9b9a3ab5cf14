/*
 * POST /v1/embeddings: texts are read like prompts, and pooled from their caches when they are read to their
 * ends.
 *
 * A request holds one lane until its last text is done, and takes others while nobody waits for them: all but
 * one, so that a question that comes meanwhile is taken up at once. Each vector becomes its JSON when it is
 * there, so that a long list stops running answers for no longer than one vector does.
 */
#include <stdlib.h>
#include <string.h>

#include "serve_engine.h"

/* RFC 4648 of little-endian float32, as OpenAI's clients read it. */
static void put_base64(FILE *out, const float *row, size_t dim)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    int n_bits = 0;
    for (size_t i = 0; i < 4 * dim; i++) {
        uint32_t value;
        memcpy(&value, &row[i / 4], sizeof value);
        bits = bits << 8 | (value >> 8 * (i % 4) & 0xff);
        for (n_bits += 8; n_bits >= 6; n_bits -= 6) fputc(digits[bits >> (n_bits - 6) & 63], out);
    }
    if (n_bits > 0) fputc(digits[bits << (6 - n_bits) & 63], out);
    for (size_t n = 4 * dim; n % 3; n++) fputc('=', out);
}

static bool keep_row(struct job *job, int index, const float *row, size_t dim)
{
    size_t n = 0;
    FILE *out = open_memstream(&job->state.rows[index], &n);
    if (!out) return false;
    fprintf(out, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", index ? "," : "", index);
    if (job->request.as_base64) {
        fputc('"', out);
        put_base64(out, row, dim);
        fputc('"', out);
    } else
        for (size_t i = 0; i < dim; i++) fprintf(out, "%c%.9g", i ? ',' : '[', (double)row[i]);
    fputs(job->request.as_base64 ? "}" : "]}", out);
    bool failed = ferror(out);
    return fclose(out) == 0 && !failed;
}

bool embed_row(const struct server *s, struct kvant_session *session, struct lane *lane,
               struct api_error *error)
{
    struct job *job = lane->job;
    struct kvant_error err;
    size_t dim;
    if (kvant_embed_dim(s->model, NULL, &dim, &err) != KVANT_OK) return api_fail_library(error, &err);
    float *row = allocate(dim, sizeof *row);
    bool ok = kvant_embed_sequence(session, lane->seq, NULL, row, dim, &dim, &err) == KVANT_OK;
    if (!ok)
        api_fail_library(error, &err);
    else if (!keep_row(job, lane->prompt, row, dim))
        ok = api_fail(error, 500, "server_error", NULL, "out of memory");
    free(row);
    return ok;
}

void embed_finish(const struct server *s, struct job *job)
{
    json_int_t n = (json_int_t)job->state.n_prompt;
    json_t *usage = json_pack("{s:s, s:{s:I, s:I}}", "model", s->name, "usage", "prompt_tokens", n,
                              "total_tokens", n);
    char *tail = usage ? json_dumps(usage, JSON_COMPACT) : NULL;
    json_decref(usage);
    if (!tail) {
        job_finish_json(job, 500, NULL);
        return;
    }
    static const char head[] = "{\"object\":\"list\",\"data\":[";
    job_put(job, head, sizeof head - 1);
    for (int i = 0; i < job->request.n_prompts; i++) {
        job_put(job, job->state.rows[i], strlen(job->state.rows[i]));
        free(job->state.rows[i]);
        job->state.rows[i] = NULL;
    }
    job_put(job, "],", 2);
    job_put(job, tail + 1, strlen(tail + 1)); /* the object goes on */
    free(tail);
    job_finish(job, 200);
}
