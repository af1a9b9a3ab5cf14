#include "read/pool.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/model.h"

/* -------------------------------------------------------------------------------------------- choices -- */

kvant_status kv_pooling_layers(int first, int last, int n, int *layer_first, int *n_layers,
                               struct kvant_error *err)
{
    int end = last == 0 ? n : last, begin = first < 0 ? end + first : first;
    if (begin < 0 || end > n || begin >= end)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "layers %d to %d: the model has %d", first, last, n);
    *layer_first = begin;
    *n_layers = end - begin;
    return KVANT_OK;
}

kvant_status kv_pooling_tokens(int64_t *first, int64_t *last, int64_t n, struct kvant_error *err)
{
    int64_t end = *last <= 0 ? n + *last : *last, begin = *first < 0 ? end + *first : *first;
    if (*first < 0 && begin < 0) begin = 0;
    if (begin < 0 || end > n || begin >= end)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "tokens %lld to %lld: the sequence has %lld", (long long)*first,
                (long long)*last, (long long)n);
    *first = begin;
    *last = end;
    return KVANT_OK;
}

kvant_status kv_pooling_set(struct kv_pooling *out, const struct kvant_model *m,
                            const struct kvant_embed_options *opt, struct kvant_error *err)
{
    const struct kv_hparams *h = &m->hp;
    *out = (struct kv_pooling){ .n_layer = h->n_layer, .n_head_kv = h->n_head_kv, .head_dim = h->head_dim };
    KV_TRY(kv_pooling_layers(opt->layer_first, opt->layer_last, h->n_layer, &out->layer_first, &out->n_layers,
                             err));
    out->n_parts = opt->part == KVANT_EMBED_KEYS_VALUES ? 2 : 1;
    out->part[0] = opt->part == KVANT_EMBED_VALUES ? KV_READ_VALUES : KV_READ_KEYS;
    out->part[1] = KV_READ_VALUES;
    out->heads_mean = opt->heads == KVANT_EMBED_HEADS_MEAN;
    out->by_side = opt->by_side;
    out->before_rope = opt->before_rope;
    out->layer_dim = out->n_parts * (out->heads_mean ? 1 : h->n_head_kv) * h->head_dim;
    return KVANT_OK;
}

/* -------------------------------------------------------------------------------------------- reading -- */

struct pool_job {
    const struct kv_pooling *p;
    const struct kv_reader *reader;
    const struct kv_seq *seq;
    int64_t first, last;
    char *scratch; /* (n_threads, stride)                            */
    size_t stride;
    double *sums; /* (n_layers, n_head_kv, n_parts, head_dim)       */
    float *rows;  /* (n_head_kv, n_parts, last - first, head_dim)   */
    int layer;    /* of rows                                        */
};

static struct kv_read_call call_of(const struct pool_job *j, int layer, int head, int part)
{
    return (struct kv_read_call){ j->reader, j->seq,           j->p->layer_first + layer,
                                  head,      j->p->part[part], j->p->before_rope,
                                  j->first,  j->last };
}

static void sum_item(void *user, int64_t item, int i_thread)
{
    const struct pool_job *j = user;
    int per_layer = j->p->n_head_kv * j->p->n_parts, in_layer = (int)(item % per_layer);
    struct kv_read_call call = call_of(j, (int)(item / per_layer), in_layer / j->p->n_parts,
                                       in_layer % j->p->n_parts);
    kv_read_sum(&call, j->scratch + (size_t)i_thread * j->stride, j->sums + item * j->p->head_dim);
}

static void rows_item(void *user, int64_t item, int i_thread)
{
    const struct pool_job *j = user;
    struct kv_read_call call = call_of(j, j->layer, (int)item / j->p->n_parts, (int)item % j->p->n_parts);
    kv_read_rows(&call, j->scratch + (size_t)i_thread * j->stride,
                 j->rows + item * (j->last - j->first) * j->p->head_dim, j->p->head_dim);
}

static kvant_status job_open(struct pool_job *j, const struct kv_pooling *p,
                             const struct kvant_session *session, int seq, int64_t first, int64_t last,
                             struct kvant_error *err)
{
    struct kv_seq *s;
    KV_TRY(kv_session_sequence(session, seq, &s, err));
    *j = (struct pool_job){
        .p = p, .reader = kv_session_reader(session), .seq = s, .first = first, .last = last
    };
    j->stride = (kv_read_scratch_bytes(p->head_dim) + KV_ALIGN - 1) & ~(size_t)(KV_ALIGN - 1);
    j->scratch = kv_alloc((size_t)kv_pool_size(kv_session_pool(session)), j->stride);
    if (!j->scratch) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a page per thread");
    return KVANT_OK;
}

static void job_close(struct pool_job *j)
{
    kv_free(j->scratch);
    kv_free(j->sums);
    kv_free(j->rows);
}

kvant_status kv_pooling_sum(const struct kv_pooling *p, const struct kvant_session *session, int seq,
                            int64_t first, int64_t last, double *out, struct kvant_error *err)
{
    struct pool_job j;
    KV_TRY(job_open(&j, p, session, seq, first, last, err));
    int per_layer = p->n_head_kv * p->n_parts;
    j.sums = kv_alloc((size_t)(p->n_layers * per_layer), (size_t)p->head_dim * sizeof *j.sums);
    kvant_status status = KVANT_OK;
    if (!j.sums)
        status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for the sums of %d layers", p->n_layers);
    else
        kv_pool_for(kv_session_pool(session), (int64_t)p->n_layers * per_layer, sum_item, &j);
    for (int l = 0; status == KVANT_OK && l < p->n_layers; l++) {
        double *layer = out + (size_t)l * (size_t)p->layer_dim;
        memset(layer, 0, (size_t)p->layer_dim * sizeof *layer);
        for (int i = 0; i < per_layer; i++) {
            const double *x = j.sums + (size_t)(l * per_layer + i) * (size_t)p->head_dim;
            double *y = layer + kv_pooling_at(p, i / p->n_parts, i % p->n_parts);
            double share = p->heads_mean ? 1.0 / p->n_head_kv : 1.0;
            for (int c = 0; c < p->head_dim; c++) y[c] += share * x[c];
        }
    }
    job_close(&j);
    return status;
}

static void add_rows(const struct pool_job *j, float *out)
{
    const struct kv_pooling *p = j->p;
    int64_t n = j->last - j->first;
    float share = 1.0f / (float)(p->n_layers * (p->heads_mean ? p->n_head_kv : 1));
    for (int i = 0; i < p->n_head_kv * p->n_parts; i++) {
        int at = kv_pooling_at(p, i / p->n_parts, i % p->n_parts);
        for (int64_t t = 0; t < n; t++) {
            const float *x = j->rows + (i * n + t) * p->head_dim;
            float *y = out + t * p->layer_dim + at;
            for (int c = 0; c < p->head_dim; c++) y[c] += share * x[c];
        }
    }
}

kvant_status kv_pooling_rows(const struct kv_pooling *p, const struct kvant_session *session, int seq,
                             int64_t first, int64_t last, float *out, struct kvant_error *err)
{
    struct pool_job j;
    size_t n_rows = (size_t)(last - first), per_layer = (size_t)(p->n_head_kv * p->n_parts);
    KV_TRY(job_open(&j, p, session, seq, first, last, err));
    j.rows = kv_alloc(n_rows * per_layer, (size_t)p->head_dim * sizeof *j.rows);
    kvant_status status = KVANT_OK;
    if (!j.rows)
        status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for the rows of %zu tokens", n_rows);
    else
        memset(out, 0, n_rows * (size_t)p->layer_dim * sizeof *out);
    for (j.layer = 0; status == KVANT_OK && j.layer < p->n_layers; j.layer++) {
        if (n_rows < 4) /* waking the pool costs more */
            for (int64_t i = 0; i < (int64_t)per_layer; i++) rows_item(&j, i, 0);
        else
            kv_pool_for(kv_session_pool(session), (int64_t)per_layer, rows_item, &j);
        add_rows(&j, out);
    }
    job_close(&j);
    return status;
}

kvant_status kv_normalize(float *x, size_t n, struct kvant_error *err)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    if (!(sum > 0) || !isfinite(sum))
        KV_FAIL(err, KVANT_ERR_NUMERIC, -1, "an embedding of length %g cannot be normalized", sqrt(sum));
    float inverse = (float)(1.0 / sqrt(sum));
    for (size_t i = 0; i < n; i++) x[i] *= inverse;
    return KVANT_OK;
}
