#include "model/forward.h"

#include <math.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------ memory -- */

static int max_int(int a, int b)
{
    return a > b ? a : b;
}

void kv_forward_layout(struct kv_forward_buffers *b, struct kv_carve *c, const struct kvant_model *m,
                       int n_batch, int n_runs_max, int n_threads)
{
    const struct kv_hparams *h = &m->hp;
    size_t n = (size_t)n_batch, n_q = (size_t)(h->n_head * h->head_dim),
           n_kv = (size_t)(h->n_head_kv * h->head_dim);
    int widest = max_int(max_int(h->n_embd, h->n_ff), (int)n_q);
    b->x = kv_carve(c, n * (size_t)h->n_embd, sizeof(float));
    b->normed = kv_carve(c, n * (size_t)max_int(h->n_embd, (int)n_q), sizeof(float));
    b->q = kv_carve(c, n * n_q, sizeof(float));
    b->k = kv_carve(c, n * n_kv, sizeof(float));
    b->v = kv_carve(c, n * n_kv, sizeof(float));
    b->k_raw = kv_carve(c, n * n_kv, sizeof(float));
    b->k16 = kv_carve(c, n * n_kv, sizeof(uint16_t));
    b->v16 = kv_carve(c, n * n_kv, sizeof(uint16_t));
    b->mixed = kv_carve(c, n * n_q, sizeof(float));
    b->gate = kv_carve(c, n * (size_t)h->n_ff, sizeof(float));
    b->up = kv_carve(c, n * (size_t)h->n_ff, sizeof(float));
    b->cos_t = kv_carve(c, n * (size_t)(h->n_rot / 2), sizeof(float));
    b->sin_t = kv_carve(c, n * (size_t)(h->n_rot / 2), sizeof(float));
    b->int_memory = kv_carve(c, kv_activations_bytes(n_batch, widest), 1);
    b->matmul_stride = (kv_matmul_scratch_bytes(widest) + KV_ALIGN - 1) & ~(size_t)(KV_ALIGN - 1);
    b->matmul_scratch = kv_carve(c, (size_t)n_threads * b->matmul_stride, 1);
    b->kv_stride = (kv_seq_scratch_bytes(h->head_dim) + KV_ALIGN - 1) & ~(size_t)(KV_ALIGN - 1);
    b->kv_scratch = kv_carve(c, (size_t)n_threads * b->kv_stride, 1);
    b->run_errors = kv_carve(c, (size_t)n_runs_max * (size_t)h->n_head_kv, sizeof *b->run_errors);
}

/* ----------------------------------------------------------------------------------- work by rows -- */

/* Rows are independent; threads take them by blocks, large enough to be worth the counter. */
#define BLOCK_ROWS 8

struct by_rows {
    const struct kv_forward_call *call;
    const struct kv_layer *layer;
    void (*fn)(const struct by_rows *job, int row);
    int n_rows;
    const struct kv_activations *made; /* of these rows, quantized as soon as they are there; or NULL */
};

static int64_t n_row_blocks(int n_rows)
{
    return (n_rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
}

static int block_end(int64_t i_block, int n_rows)
{
    int64_t end = (i_block + 1) * BLOCK_ROWS;
    return end < n_rows ? (int)end : n_rows;
}

static void rows_block(void *user, int64_t i_block, int i_thread)
{
    (void)i_thread;
    const struct by_rows *job = user;
    int end = block_end(i_block, job->n_rows);
    int first = (int)i_block * BLOCK_ROWS;
    for (int row = first; job->fn && row < end; row++) job->fn(job, row);
    if (job->made) kv_activations_quantize(job->made, &job->call->model->kernels, first, end - first);
}

static void each_row(const struct kv_forward_call *call, const struct kv_layer *layer, int n_rows,
                     void (*fn)(const struct by_rows *job, int row), const struct kv_activations *made)
{
    struct by_rows job = { call, layer, fn, n_rows, made };
    kv_pool_for(call->pool, n_row_blocks(n_rows), rows_block, &job);
}

static void embed_block(void *user, int64_t i_block, int i_thread)
{
    const struct kv_forward_call *call = user;
    const struct kvant_model *m = call->model;
    const struct kv_gguf_tensor *e = m->token_embd;
    void *scratch = (char *)call->buffers->matmul_scratch + (size_t)i_thread * call->buffers->matmul_stride;
    int end = block_end(i_block, call->n_rows);
    for (int row = (int)i_block * BLOCK_ROWS; row < end; row++)
        kv_weight_row_to_f32(&m->kernels, e->type, e->data + (size_t)call->tokens[row] * e->row_bytes,
                             m->hp.n_embd, call->buffers->x + (size_t)row * (size_t)m->hp.n_embd, scratch);
}

static void norm_heads(const struct kv_kernels *kernels, float *x, int n_heads, int head_dim,
                       const float *weight, float eps)
{
    for (int i = 0; i < n_heads; i++, x += head_dim) kernels->rms_norm(x, weight, head_dim, eps, x);
}

/* Query and key norms, RoPE, and the 16-bit rows that the cache gets. */
static void position_row(const struct by_rows *job, int row)
{
    const struct kv_forward_call *call = job->call;
    const struct kvant_model *m = call->model;
    const struct kv_hparams *h = &m->hp;
    struct kv_forward_buffers *b = call->buffers;
    size_t n_q = (size_t)(h->n_head * h->head_dim), n_kv = (size_t)(h->n_head_kv * h->head_dim),
           i = (size_t)row;
    float *q = b->q + i * n_q, *k = b->k + i * n_kv;
    const float *cos_t = b->cos_t + i * (size_t)(h->n_rot / 2),
                *sin_t = b->sin_t + i * (size_t)(h->n_rot / 2);
    if (job->layer->q_norm)
        norm_heads(&m->kernels, q, h->n_head, h->head_dim, job->layer->q_norm, h->norm_eps);
    if (job->layer->k_norm)
        norm_heads(&m->kernels, k, h->n_head_kv, h->head_dim, job->layer->k_norm, h->norm_eps);
    if (call->capture) memcpy(b->k_raw + i * n_kv, k, n_kv * sizeof *k);
    kv_rope_apply(&m->rope, cos_t, sin_t, q, h->n_head);
    kv_rope_apply(&m->rope, cos_t, sin_t, k, h->n_head_kv);
    m->kernels.f32_to_f16(k, (int64_t)n_kv, b->k16 + i * n_kv);
    m->kernels.f32_to_f16(b->v + i * n_kv, (int64_t)n_kv, b->v16 + i * n_kv);
}

static void norm_row(const struct by_rows *job, int row, const float *weight)
{
    const struct kvant_model *m = job->call->model;
    size_t at = (size_t)row * (size_t)m->hp.n_embd;
    m->kernels.rms_norm(job->call->buffers->x + at, weight, m->hp.n_embd, m->hp.norm_eps,
                        job->call->buffers->normed + at);
}

static void attn_norm_row(const struct by_rows *job, int row)
{
    norm_row(job, row, job->layer->attn_norm);
}

/* The residual sums take the product that lies in `normed`. */
static void residual_row(const struct by_rows *job, int row)
{
    const struct kvant_model *m = job->call->model;
    size_t at = (size_t)row * (size_t)m->hp.n_embd;
    m->kernels.add(job->call->buffers->x + at, job->call->buffers->normed + at, m->hp.n_embd);
}

static void residual_ffn_norm_row(const struct by_rows *job, int row)
{
    residual_row(job, row);
    norm_row(job, row, job->layer->ffn_norm);
}

static void silu_row(const struct by_rows *job, int row)
{
    const struct kvant_model *m = job->call->model;
    struct kv_forward_buffers *b = job->call->buffers;
    size_t at = (size_t)row * (size_t)m->hp.n_ff;
    m->kernels.silu_mul(b->gate + at, b->up + at, m->hp.n_ff, b->gate + at);
}

/* Row i of the rows that want logits: normed into `normed`, densely. */
static void output_norm_row(const struct by_rows *job, int i)
{
    const struct kvant_model *m = job->call->model;
    size_t n_embd = (size_t)m->hp.n_embd;
    m->kernels.rms_norm(job->call->buffers->x + (size_t)job->call->logits_rows[i] * n_embd, m->output_norm,
                        m->hp.n_embd, m->hp.norm_eps, job->call->buffers->normed + (size_t)i * n_embd);
}

/* --------------------------------------------------------------------------------------- products -- */

static struct kv_product product(const struct kvant_model *m, const struct kv_gguf_tensor *w,
                                 const float *bias, float *y, int64_t ldy)
{
    return (struct kv_product){ w, bias, y, ldy, kv_repacked_find(&m->repacked, m->gguf, w) };
}

/* Mixed digits in the layers only: one digit in the output head alone would have a KLD of 7e-4 on SmolLM2,
 * and two cost nothing where one row of a prompt needs logits, or memory is the limit. */
static int n_digits_of(const struct kvant_model *m, const struct kv_gguf_tensor *w)
{
    if (m->act == KVANT_ACT_INT8) return 1;
    return m->act == KVANT_ACT_MIXED && w != m->output ? KV_DIGITS_MIXED : 2;
}

/* Where the integers of x go. Products with float weights read the floats. */
static struct kv_activations activations_for(const struct kv_forward_call *call, const float *x,
                                             int64_t n_rows, int64_t k, const struct kv_gguf_tensor *w)
{
    struct kv_activations a;
    bool integers = call->model->act != KVANT_ACT_F32 && k % KV_ACT_BLOCK == 0;
    kv_activations_place(&a, x, n_rows, k, integers ? call->buffers->int_memory : NULL,
                         n_digits_of(call->model, w));
    return a;
}

/* Each row of x is made by fn (NULL: it is there) and quantized while it is in the cache,
 * once for all products. */
static void multiply(const struct kv_forward_call *call, const struct kv_layer *layer,
                     void (*fn)(const struct by_rows *job, int row), const float *x, int n_rows, int64_t k,
                     const struct kv_product *products, int n_products)
{
    struct kv_activations a = activations_for(call, x, n_rows, k, products[0].w);
    each_row(call, layer, n_rows, fn, &a);
    kv_activations_finish(&a);
    kv_products(call->pool, &call->model->kernels, &a, products, n_products, call->buffers->matmul_scratch,
                call->buffers->matmul_stride);
}

/* ------------------------------------------------------------------------------------- the cache -- */

struct cache_job {
    const struct kv_forward_call *call;
    int layer;
};

static void write_head(void *user, int64_t item, int i_thread)
{
    const struct cache_job *job = user;
    const struct kv_forward_call *call = job->call;
    const struct kv_hparams *h = &call->model->hp;
    struct kv_forward_buffers *b = call->buffers;
    int head = (int)(item % h->n_head_kv);
    const struct kv_attn_run *run = &call->runs[item / h->n_head_kv];
    int64_t stride = (int64_t)h->n_head_kv * h->head_dim;
    size_t at = (size_t)(run->row * stride + (int64_t)head * h->head_dim);
    struct kvant_error *err = &b->run_errors[item];
    if (err->status != KVANT_OK) return; /* failed in an earlier layer */
    kv_seq_write(run->seq, job->layer, head, b->k16 + at, b->v16 + at, stride,
                 (char *)b->kv_scratch + (size_t)i_thread * b->kv_stride, err);
}

static void commit_head(void *user, int64_t item, int i_thread)
{
    (void)i_thread;
    const struct cache_job *job = user;
    const struct kv_forward_call *call = job->call;
    const struct kv_hparams *h = &call->model->hp;
    int head = (int)(item % h->n_head_kv);
    const struct kv_attn_run *run = &call->runs[item / h->n_head_kv];
    if (call->buffers->run_errors[item].status != KVANT_OK) return;
    int64_t stride = (int64_t)h->n_head_kv * h->head_dim;
    size_t at = (size_t)(run->row * stride + (int64_t)head * h->head_dim);
    kv_seq_commit_head(run->seq, job->layer, head, call->buffers->k16 + at, call->buffers->v16 + at, stride);
}

static void each_head(const struct kv_forward_call *call, int layer,
                      void (*fn)(void *user, int64_t item, int i_thread))
{
    struct cache_job job = { call, layer };
    int64_t n_items = (int64_t)call->n_runs * call->model->hp.n_head_kv;
    if (call->n_rows < 4) /* a few rows: waking the pool costs more */
        for (int64_t i = 0; i < n_items; i++) fn(&job, i, 0);
    else kv_pool_for(call->pool, n_items, fn, &job);
}

static void attend(const struct kv_forward_call *call, int layer)
{
    const struct kv_hparams *h = &call->model->hp;
    struct kv_forward_buffers *b = call->buffers;
    each_head(call, layer, write_head);
    const struct kv_attn_call attn = {
        .runs = call->runs,
        .n_runs = call->n_runs,
        .layer = layer,
        .n_head = h->n_head,
        .n_head_kv = h->n_head_kv,
        .head_dim = h->head_dim,
        .in_float = call->model->attn == KVANT_ATTN_F32,
        .scale = 1.0f / sqrtf((float)h->head_dim),
        .q = b->q,
        .k = b->k16,
        .v = b->v16,
        .out = b->mixed,
    };
    kv_attention(call->pool, &call->model->kernels, &attn, call->attn_scratch);
    each_head(call, layer, commit_head);
}

/* ------------------------------------------------------------------------------------ the layers -- */

static void run_capture(const struct kv_forward_call *call, int layer)
{
    for (int r = 0; r < call->n_runs; r++)
        for (int64_t i = 0; i < call->runs[r].n; i++)
            call->capture(call->capture_user, layer, r, (int)(call->runs[r].row + i),
                          call->runs[r].n_before + i);
}

static void run_hidden(const struct kv_forward_call *call, int layer)
{
    for (int r = 0; call->hidden && r < call->n_runs; r++)
        for (int64_t i = 0; i < call->runs[r].n; i++)
            call->hidden(call->hidden_user, layer, r, (int)(call->runs[r].row + i),
                         call->runs[r].n_before + i);
}

static void run_layer(const struct kv_forward_call *call, int i)
{
    const struct kvant_model *m = call->model;
    const struct kv_hparams *h = &m->hp;
    const struct kv_layer *l = &m->layers[i];
    struct kv_forward_buffers *b = call->buffers;
    int n = call->n_rows;
    int64_t n_q = (int64_t)h->n_head * h->head_dim, n_kv = (int64_t)h->n_head_kv * h->head_dim;

    const struct kv_product qkv[] = { product(m, l->wq, l->bq, b->q, n_q),
                                      product(m, l->wk, l->bk, b->k, n_kv),
                                      product(m, l->wv, l->bv, b->v, n_kv) };
    multiply(call, l, attn_norm_row, b->normed, n, h->n_embd, qkv, 3);
    each_row(call, l, n, position_row, NULL);
    if (call->capture) run_capture(call, i);
    attend(call, i);
    const struct kv_product out = product(m, l->wo, l->bo, b->normed, h->n_embd);
    multiply(call, l, NULL, b->mixed, n, n_q, &out, 1);

    const struct kv_product gate_up[] = { product(m, l->gate, l->b_gate, b->gate, h->n_ff),
                                          product(m, l->up, l->b_up, b->up, h->n_ff) };
    multiply(call, l, residual_ffn_norm_row, b->normed, n, h->n_embd, gate_up, 2);
    const struct kv_product down = product(m, l->down, l->b_down, b->normed, h->n_embd);
    multiply(call, l, silu_row, b->gate, n, h->n_ff, &down, 1);
    each_row(call, l, n, residual_row, NULL);
}

/* The call with the runs that have joined up to `layer`: a prefix, as they are in the order of joining. */
static struct kv_forward_call joined(const struct kv_forward_call *call, int layer)
{
    struct kv_forward_call now = *call;
    while (call->entries && now.n_runs && call->entries[now.n_runs - 1].layer > layer) now.n_runs--;
    const struct kv_attn_run *last = now.n_runs ? &call->runs[now.n_runs - 1] : NULL;
    now.n_rows = last ? (int)(last->row + last->n) : 0;
    return now;
}

/* Runs that join here start from their source's rows; what failed there has failed here. */
static void join(const struct kv_forward_call *call, int layer)
{
    size_t n_embd = (size_t)call->model->hp.n_embd;
    int n_head_kv = call->model->hp.n_head_kv;
    for (int r = 0; call->entries && layer > 0 && r < call->n_runs; r++) {
        const struct kv_run_entry *entry = &call->entries[r];
        if (entry->layer != layer) continue;
        memcpy(call->buffers->x + (size_t)call->runs[r].row * n_embd,
               call->buffers->x + (size_t)call->runs[entry->source].row * n_embd,
               (size_t)call->runs[r].n * n_embd * sizeof(float));
        memcpy(call->buffers->run_errors + r * n_head_kv,
               call->buffers->run_errors + entry->source * n_head_kv,
               (size_t)n_head_kv * sizeof *call->buffers->run_errors);
    }
}

static void prepare_positions(const struct kv_forward_call *call)
{
    const struct kvant_model *m = call->model;
    size_t half = (size_t)(m->hp.n_rot / 2);
    for (int r = 0; r < call->n_runs; r++)
        for (int64_t i = 0; i < call->runs[r].n; i++) {
            size_t at = (size_t)(call->runs[r].row + i) * half;
            kv_rope_angles(&m->rope, call->runs[r].n_before + i, call->buffers->cos_t + at,
                           call->buffers->sin_t + at);
        }
}

/* A sequence whose keys or values are not finite fails; the others of the step are complete. */
static kvant_status settle_sequences(const struct kv_forward_call *call, struct kvant_error *err)
{
    int n_head_kv = call->model->hp.n_head_kv;
    kvant_status status = KVANT_OK;
    for (int r = 0; r < call->n_runs; r++) {
        const struct kvant_error *first = NULL;
        for (int head = 0; head < n_head_kv && !first; head++) {
            const struct kvant_error *e = &call->buffers->run_errors[r * n_head_kv + head];
            if (e->status != KVANT_OK) first = e;
        }
        if (!first) {
            kv_seq_commit(call->runs[r].seq);
            continue;
        }
        kv_seq_fail(call->runs[r].seq);
        if (status == KVANT_OK)
            status = kv_error_set(err, first->status, first->position, "%s", first->message);
    }
    return status;
}

kvant_status kv_forward(const struct kv_forward_call *call, struct kvant_error *err)
{
    const struct kvant_model *m = call->model;
    struct kv_forward_buffers *b = call->buffers;
    for (int i = 0; i < call->n_runs * m->hp.n_head_kv; i++) b->run_errors[i].status = KVANT_OK;
    struct kv_forward_call now = joined(call, 0);
    kv_pool_for(call->pool, n_row_blocks(now.n_rows), embed_block, &now);
    prepare_positions(call);
    for (int i = 0; i < m->hp.n_layer; i++) {
        now = joined(call, i);
        join(&now, i);
        run_hidden(&now, i);
        run_layer(&now, i);
    }
    run_hidden(&now, m->hp.n_layer);
    if (call->n_logits) {
        const struct kv_product head = product(m, m->output, NULL, call->logits, m->n_vocab);
        multiply(call, NULL, output_norm_row, b->normed, call->n_logits, m->hp.n_embd, &head, 1);
    }
    return settle_sequences(call, err);
}
