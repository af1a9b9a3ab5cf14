#include "model/repack.h"

#include "base/memory.h"
#include "base/threads.h"
#include "model/model.h"

/* A matrix that products read as codes. An embedding that is no output is only looked up, row by row. */
static bool is_repacked(const struct kvant_model *m, const struct kv_gguf_tensor *t)
{
    return m->act != KVANT_ACT_F32 && m->kernels.lanes > 0 && t->type->code_format >= 0 && t->dims[1] > 1 &&
           t->dims[0] % KV_ACT_BLOCK == 0 && (t != m->token_embd || t == m->output);
}

/* matrix: (number of tensors), filled in; NULL while measuring. */
static void repack_layout(const struct kvant_model *m, struct kv_carve *c, const uint8_t **matrix)
{
    for (int64_t i = 0; i < kv_gguf_n_tensors(m->gguf); i++) {
        const struct kv_gguf_tensor *t = kv_gguf_tensor_at(m->gguf, i);
        if (!is_repacked(m, t)) continue;
        size_t lanes = (size_t)m->kernels.lanes,
               rows = lanes * kv_turned_panels(t->dims[1], m->kernels.lanes);
        const uint8_t *place = kv_carve(c, rows, kv_turned_row_bytes(t->row_bytes));
        if (matrix) matrix[i] = place;
    }
}

size_t kv_repack_bytes(const struct kvant_model *m)
{
    struct kv_carve c = { 0 };
    repack_layout(m, &c, NULL);
    return c.used;
}

size_t kv_repack_mapped_bytes(const struct kvant_model *m)
{
    size_t bytes = 0;
    for (int64_t i = 0; i < kv_gguf_n_tensors(m->gguf); i++) {
        const struct kv_gguf_tensor *t = kv_gguf_tensor_at(m->gguf, i);
        if (!is_repacked(m, t) || t == m->token_embd) bytes += t->n_bytes;
    }
    return bytes;
}

struct turn_job {
    const struct kv_kernels *kernels;
    const struct kv_gguf_tensor *t;
    uint8_t *panels;
    int64_t panels_per_item;
};

static void turn_item(void *user, int64_t i_item, int i_thread)
{
    (void)i_thread;
    const struct turn_job *job = user;
    int64_t lanes = job->kernels->lanes, n_rows = job->t->dims[1], step = job->panels_per_item * lanes;
    size_t row_bytes = job->t->row_bytes, turned_bytes = kv_turned_row_bytes(row_bytes);
    for (int64_t row = i_item * step; row < n_rows && row < (i_item + 1) * step; row += lanes) {
        int n = (int)(n_rows - row < lanes ? n_rows - row : lanes);
        job->kernels->turn_rows(job->t->data + (size_t)row * row_bytes, row_bytes, n, (int)lanes,
                                job->panels + (size_t)row * turned_bytes);
    }
}

#define ITEM_BYTES ((size_t)64 << 10) /* some tens of µs of work */

static void turn_all(struct kvant_model *m, struct kv_pool *pool)
{
    struct kv_repacked *r = &m->repacked;
    for (int64_t i = 0; i < kv_gguf_n_tensors(m->gguf); i++) {
        if (!r->matrix[i]) continue;
        const struct kv_gguf_tensor *t = kv_gguf_tensor_at(m->gguf, i);
        size_t panel_bytes = kv_turned_row_bytes(t->row_bytes) * (size_t)m->kernels.lanes;
        struct turn_job job = { &m->kernels, t, r->memory + (r->matrix[i] - r->memory),
                                1 + (int64_t)(ITEM_BYTES / panel_bytes) };
        int64_t n_panels = (int64_t)kv_turned_panels(t->dims[1], m->kernels.lanes);
        kv_pool_for(pool, (n_panels + job.panels_per_item - 1) / job.panels_per_item, turn_item, &job);
        if (t != m->token_embd) kv_gguf_tensor_release(m->gguf, t);
    }
}

kvant_status kv_repack(struct kvant_model *m, struct kvant_error *err)
{
    struct kv_repacked *r = &m->repacked;
    struct kv_pool *pool;
    if (r->n_bytes == 0) return KVANT_OK;
    r->matrix = kv_alloc((size_t)kv_gguf_n_tensors(m->gguf), sizeof *r->matrix);
    r->memory = r->matrix ? kv_pages_alloc(r->n_bytes) : NULL;
    if (!r->memory)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1,
                "%s: no memory for %.1f MB of repacked weights; "
                "open the model without repacking (--no-repack)",
                kv_gguf_path(m->gguf), (double)r->n_bytes / 1e6);
    struct kv_carve place = { .base = (char *)r->memory };
    repack_layout(m, &place, r->matrix);
    KV_TRY(kv_pool_open(&pool, m->n_threads, err));
    turn_all(m, pool);
    kv_pool_close(pool);
    return KVANT_OK;
}

void kv_repacked_close(struct kv_repacked *r)
{
    kv_pages_free(r->memory, r->n_bytes);
    kv_free(r->matrix);
}

const uint8_t *kv_repacked_find(const struct kv_repacked *r, const struct kv_gguf *g,
                                const struct kv_gguf_tensor *t)
{
    return r->matrix ? r->matrix[t - kv_gguf_tensor_at(g, 0)] : NULL; /* tensors are one array */
}
