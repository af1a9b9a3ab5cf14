#include "tune/errors_capture.h"

#include <string.h>

#include "base/memory.h"
#include "run/session.h"

static void capture_row(void *user, int layer, int seq, int64_t position, const float *q, const float *k_raw,
                        const float *k, const float *v)
{
    (void)seq, (void)k_raw;
    struct kv_capturer *capturer = user;
    struct kv_captured *c = &capturer->rows;
    size_t head_dim = (size_t)c->head_dim, row = (size_t)position * head_dim;
    for (int h = 0; h < c->n_head_kv; h++) {
        size_t at = kv_captured_at(c, layer, h) + row, from = (size_t)h * head_dim;
        capturer->kernels->f32_to_f16(k + from, c->head_dim, c->k + at);
        capturer->kernels->f32_to_f16(v + from, c->head_dim, c->v + at);
    }
    if (position < c->n_prompt) return;
    size_t n_queries = (size_t)kv_captured_queries(c), query = (size_t)(position - c->n_prompt);
    for (int h = 0; h < c->n_head; h++)
        memcpy(c->q + (((size_t)layer * (size_t)c->n_head + (size_t)h) * n_queries + query) * head_dim,
               q + (size_t)h * head_dim, head_dim * sizeof *q);
}

kvant_status kv_capturer_open(struct kv_capturer *out, const struct kvant_model *model,
                              const struct kv_answers *answers, struct kvant_error *err)
{
    const struct kv_hparams *hp = &model->hp;
    *out = (struct kv_capturer){ .kernels = &model->kernels };
    struct kv_captured *c = &out->rows;
    *c = (struct kv_captured){
        .n_layer = hp->n_layer, .n_head = hp->n_head, .n_head_kv = hp->n_head_kv, .head_dim = hp->head_dim
    };
    for (int i = 0; i < answers->n; i++) {
        const struct kv_answered *a = &answers->items[i];
        if (a->n_tokens > c->n_tokens_cap) c->n_tokens_cap = a->n_tokens;
        if (a->n_tokens - a->n_prompt > c->n_queries_cap) c->n_queries_cap = a->n_tokens - a->n_prompt;
    }
    size_t rows_q = (size_t)hp->n_layer * (size_t)hp->n_head,
           rows_kv = (size_t)hp->n_layer * (size_t)hp->n_head_kv,
           query_bytes = (size_t)hp->head_dim * sizeof *c->q, row_bytes = (size_t)hp->head_dim * sizeof *c->k;
    c->q = kv_alloc(rows_q * (size_t)c->n_queries_cap, query_bytes);
    c->k = kv_alloc(rows_kv * (size_t)c->n_tokens_cap, row_bytes);
    c->v = kv_alloc(rows_kv * (size_t)c->n_tokens_cap, row_bytes);
    out->entries = kv_alloc((size_t)c->n_tokens_cap, sizeof *out->entries);
    struct kvant_session_options opt = KVANT_SESSION_OPTIONS_INIT;
    opt.n_sequences = 1;
    kvant_status status = c->q && c->k && c->v && out->entries
                              ? kvant_plan_open(&out->f16, model, "f16", err)
                              : kv_error_set(err, KVANT_ERR_MEMORY, -1,
                                             "no memory for the queries, keys and values of %lld tokens",
                                             (long long)c->n_tokens_cap);
    if (status == KVANT_OK) status = kvant_session_open(&out->session, model, &opt, err);
    if (status != KVANT_OK) {
        kv_capturer_close(out);
        return status;
    }
    struct kv_capture capture = { capture_row, out };
    kv_session_set_capture(out->session, &capture);
    return KVANT_OK;
}

void kv_capturer_close(struct kv_capturer *c)
{
    kvant_session_close(c->session);
    kvant_plan_close(c->f16);
    kv_free(c->entries);
    kv_free(c->rows.q);
    kv_free(c->rows.k);
    kv_free(c->rows.v);
    *c = (struct kv_capturer){ 0 };
}

kvant_status kv_capturer_run(struct kv_capturer *c, const struct kv_answered *item, struct kvant_error *err)
{
    int seq;
    c->rows.n_prompt = item->n_prompt;
    c->rows.n_tokens = item->n_tokens;
    KV_TRY(kvant_sequence_open(c->session, c->f16, item->n_tokens, &seq, err));
    for (int64_t t = 0; t < item->n_tokens; t++)
        c->entries[t] = (struct kvant_batch_entry){ seq, item->tokens[t], false };
    kvant_status status = kvant_session_step(c->session, c->entries, (size_t)item->n_tokens, err);
    kvant_sequence_close(c->session, seq);
    return status;
}
