#include "model/model.h"

#include "base/memory.h"
#include "model/key_bias.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------- tensors by role -- */

/* Finds tensors by name, checks their shape, and remembers which were used: a tensor without a role means
 * that the model is not the one this forward pass computes, so it is refused rather than ignored. */
struct binder {
    struct kvant_model *model;
    const struct kv_gguf_tensor **used;
    int64_t n_used, used_cap;
    size_t vectors_used, vectors_cap; /* floats of model->vectors; NULL base while measuring */
    struct kvant_error *err;
    char name[64];
};

static const struct kv_gguf_tensor *find(struct binder *b, int layer, const char *role)
{
    if (layer < 0) snprintf(b->name, sizeof b->name, "%s", role);
    else snprintf(b->name, sizeof b->name, "blk.%d.%s", layer, role);
    const struct kv_gguf_tensor *t = kv_gguf_tensor_find(b->model->gguf, b->name);
    if (t && b->used && b->n_used < b->used_cap) b->used[b->n_used++] = t;
    return t;
}

static kvant_status missing(struct binder *b)
{
    KV_FAIL(b->err, KVANT_ERR_FORMAT, -1, "%s: the tensor %s is missing; the file is not a complete %s model",
            kv_gguf_path(b->model->gguf), b->name, b->model->hp.arch->name);
}

/* A matrix (n_rows, n_columns); n_rows < 0: any number. */
static kvant_status bind_matrix(struct binder *b, int layer, const char *role, int64_t n_rows,
                                int64_t n_columns, const struct kv_gguf_tensor **out)
{
    const struct kv_gguf_tensor *t = find(b, layer, role);
    if (!t) return missing(b);
    if (t->dims[0] != n_columns || (n_rows >= 0 && t->dims[1] != n_rows) || t->dims[2] != 1 ||
        t->dims[3] != 1) {
        char want[32] = "any number of";
        if (n_rows >= 0) snprintf(want, sizeof want, "%lld", (long long)n_rows);
        KV_FAIL(b->err, KVANT_ERR_FORMAT, (int64_t)t->directory_offset,
                "%s: %s has the shape (%lld, %lld) instead of (%s, %lld)", kv_gguf_path(b->model->gguf),
                b->name, (long long)t->dims[1], (long long)t->dims[0], want, (long long)n_columns);
    }
    if (t->type->code_format >= 0 && n_columns % KV_ACT_BLOCK)
        KV_FAIL(b->err, KVANT_ERR_UNSUPPORTED, (int64_t)t->directory_offset,
                "%s: %s has rows of %lld elements, not a multiple of %d", kv_gguf_path(b->model->gguf),
                b->name, (long long)n_columns, KV_ACT_BLOCK);
    *out = t;
    return KVANT_OK;
}

/* A vector of n, converted to float32 into model->vectors (only counted while that is NULL). */
static kvant_status bind_vector(struct binder *b, int layer, const char *role, int64_t n, bool required,
                                const float **out)
{
    const struct kv_gguf_tensor *t = find(b, layer, role);
    if (!t) return required ? missing(b) : KVANT_OK;
    if (t->dims[0] != n || t->dims[1] != 1 || t->dims[2] != 1 || t->dims[3] != 1)
        KV_FAIL(b->err, KVANT_ERR_FORMAT, (int64_t)t->directory_offset,
                "%s: %s has %lld elements instead of %lld", kv_gguf_path(b->model->gguf), b->name,
                (long long)t->dims[0], (long long)n);
    if (t->type->float_format < 0)
        KV_FAIL(b->err, KVANT_ERR_UNSUPPORTED, (int64_t)t->directory_offset,
                "%s: %s is a quantized vector (%s)", kv_gguf_path(b->model->gguf), b->name, t->type->name);
    float *base = b->model->vectors;
    if (base) {
        kv_weight_row_to_f32(&b->model->kernels, t->type, t->data, n, base + b->vectors_used, NULL);
        *out = base + b->vectors_used;
    }
    b->vectors_used += ((size_t)n + 15) & ~(size_t)15; /* each vector on a line of its own */
    return KVANT_OK;
}

static kvant_status bind_layer(struct binder *b, int i, struct kv_layer *l)
{
    const struct kv_hparams *h = &b->model->hp;
    int64_t n_q = (int64_t)h->n_head * h->head_dim, n_kv = (int64_t)h->n_head_kv * h->head_dim;
    bool bias = h->arch->qkv_bias, norm = h->arch->qk_norm;
    KV_TRY(bind_matrix(b, i, "attn_q.weight", n_q, h->n_embd, &l->wq));
    KV_TRY(bind_matrix(b, i, "attn_k.weight", n_kv, h->n_embd, &l->wk));
    KV_TRY(bind_matrix(b, i, "attn_v.weight", n_kv, h->n_embd, &l->wv));
    KV_TRY(bind_matrix(b, i, "attn_output.weight", h->n_embd, n_q, &l->wo));
    KV_TRY(bind_matrix(b, i, "ffn_gate.weight", h->n_ff, h->n_embd, &l->gate));
    KV_TRY(bind_matrix(b, i, "ffn_up.weight", h->n_ff, h->n_embd, &l->up));
    KV_TRY(bind_matrix(b, i, "ffn_down.weight", h->n_embd, h->n_ff, &l->down));
    KV_TRY(bind_vector(b, i, "attn_norm.weight", h->n_embd, true, &l->attn_norm));
    KV_TRY(bind_vector(b, i, "ffn_norm.weight", h->n_embd, true, &l->ffn_norm));
    KV_TRY(bind_vector(b, i, "attn_q.bias", n_q, bias, &l->bq));
    KV_TRY(bind_vector(b, i, "attn_k.bias", n_kv, bias, &l->bk));
    KV_TRY(bind_vector(b, i, "attn_v.bias", n_kv, bias, &l->bv));
    KV_TRY(bind_vector(b, i, "attn_output.bias", h->n_embd, false, &l->bo));
    KV_TRY(bind_vector(b, i, "ffn_gate.bias", h->n_ff, false, &l->b_gate));
    KV_TRY(bind_vector(b, i, "ffn_up.bias", h->n_ff, false, &l->b_up));
    KV_TRY(bind_vector(b, i, "ffn_down.bias", h->n_embd, false, &l->b_down));
    if (norm) {
        KV_TRY(bind_vector(b, i, "attn_q_norm.weight", h->head_dim, true, &l->q_norm));
        KV_TRY(bind_vector(b, i, "attn_k_norm.weight", h->head_dim, true, &l->k_norm));
    }
    return KVANT_OK;
}

static kvant_status bind_all(struct binder *b)
{
    struct kvant_model *m = b->model;
    b->n_used = 0;
    b->vectors_used = 0;
    KV_TRY(bind_matrix(b, -1, "token_embd.weight", -1, m->hp.n_embd, &m->token_embd));
    m->n_vocab = (int)m->token_embd->dims[1];
    m->output = m->token_embd; /* tied unless the file has its own */
    if (kv_gguf_tensor_find(m->gguf, "output.weight"))
        KV_TRY(bind_matrix(b, -1, "output.weight", m->n_vocab, m->hp.n_embd, &m->output));
    KV_TRY(bind_vector(b, -1, "output_norm.weight", m->hp.n_embd, true, &m->output_norm));
    for (int i = 0; i < m->hp.n_layer; i++) KV_TRY(bind_layer(b, i, &m->layers[i]));
    return KVANT_OK;
}

/* Tables that converters write and this engine computes itself. */
static bool is_ignorable(const struct kv_gguf_tensor *t)
{
    static const char *const endings[] = { "rope_freqs.weight", "attn_rot_embd.weight",
                                           "rotary_emb.inv_freq" };
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        size_t n = strlen(endings[i]);
        if (t->name.n_bytes >= n && memcmp(t->name.data + t->name.n_bytes - n, endings[i], n) == 0)
            return true;
    }
    return false;
}

static kvant_status refuse_unused(struct binder *b)
{
    const struct kv_gguf *g = b->model->gguf;
    for (int64_t i = 0; i < kv_gguf_n_tensors(g); i++) {
        const struct kv_gguf_tensor *t = kv_gguf_tensor_at(g, i);
        bool used = is_ignorable(t);
        for (int64_t j = 0; j < b->n_used && !used; j++) used = b->used[j] == t;
        if (!used)
            KV_FAIL(b->err, KVANT_ERR_UNSUPPORTED, (int64_t)t->directory_offset,
                    "%s: the tensor %.*s has no place in a %s model as this build knows it", kv_gguf_path(g),
                    (int)t->name.n_bytes, t->name.data, b->model->hp.arch->name);
    }
    return KVANT_OK;
}

static kvant_status open_weights(struct kvant_model *m, struct kvant_error *err)
{
    m->layers = kv_alloc((size_t)m->hp.n_layer, sizeof *m->layers);
    int64_t used_cap = 3 + 18 * (int64_t)m->hp.n_layer;
    struct binder b = { .model = m, .used_cap = used_cap, .err = err };
    b.used = kv_alloc((size_t)used_cap, sizeof *b.used);
    if (!m->layers || !b.used) {
        kv_free(b.used);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory for the tensor table", kv_gguf_path(m->gguf));
    }
    kvant_status status = bind_all(&b); /* counts the vectors */
    if (status == KVANT_OK) {
        m->vectors = kv_alloc(b.vectors_used, sizeof(float));
        status = m->vectors ? bind_all(&b)
                            : kv_error_set(err, KVANT_ERR_MEMORY, -1, "%s: no memory for norms and biases",
                                           kv_gguf_path(m->gguf));
    }
    if (status == KVANT_OK) status = refuse_unused(&b);
    kv_free(b.used);
    KV_TRY(status);
    if (kv_tokenizer_n_vocab(m->tokenizer) > m->n_vocab)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "%s: %d tokens, but token_embd.weight has only %d rows",
                kv_gguf_path(m->gguf), kv_tokenizer_n_vocab(m->tokenizer), m->n_vocab);
    return KVANT_OK;
}

/* --------------------------------------------------------------------------------------- opening -- */

/* θ_i = base^(-2i / n_rot), divided by the linear factor and, where the file carries them, by llama-3's
 * factors. */
static kvant_status open_rope(struct kvant_model *m, struct kvant_error *err)
{
    int half = m->hp.n_rot / 2;
    m->inv_freq = kv_alloc((size_t)half, sizeof(float));
    if (!m->inv_freq)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory for RoPE frequencies", kv_gguf_path(m->gguf));
    for (int i = 0; i < half; i++)
        m->inv_freq[i] = (float)(pow((double)m->hp.rope_freq_base, -2.0 * i / m->hp.n_rot) /
                                 (double)m->hp.rope_scale);
    const struct kv_gguf_tensor *factors = kv_gguf_tensor_find(m->gguf, "rope_freqs.weight");
    if (factors && !m->vocab_only) {
        if (factors->dims[0] != half || factors->type->float_format != KV_FLOAT_F32)
            KV_FAIL(err, KVANT_ERR_FORMAT, (int64_t)factors->directory_offset,
                    "%s: rope_freqs.weight must be %d float32 factors", kv_gguf_path(m->gguf), half);
        for (int i = 0; i < half; i++) {
            float f;
            memcpy(&f, factors->data + 4 * (size_t)i, sizeof f);
            if (!(f > 0.0f) || !isfinite(f))
                KV_FAIL(err, KVANT_ERR_FORMAT, (int64_t)factors->directory_offset,
                        "%s: rope_freqs.weight[%d] is %g", kv_gguf_path(m->gguf), i, (double)f);
            m->inv_freq[i] /= f;
        }
    }
    m->rope = (struct kv_rope){ .head_dim = m->hp.head_dim,
                                .n_rot = m->hp.n_rot,
                                .neox = m->hp.arch->rope_neox,
                                .inv_freq = m->inv_freq };
    return KVANT_OK;
}

/* Header bytes say which model it is; a sample of each tensor tells fine-tunes with equal metadata apart. */
static void fingerprint(struct kvant_model *m)
{
    const uint8_t *header;
    size_t n_header = kv_gguf_header_bytes(m->gguf, &header);
    struct kv_hash hash;
    kv_hash_begin(&hash);
    kv_hash_add(&hash, header, n_header);
    for (int64_t i = 0; i < kv_gguf_n_tensors(m->gguf); i++) {
        const struct kv_gguf_tensor *t = kv_gguf_tensor_at(m->gguf, i);
        kv_hash_add(&hash, t->data, t->n_bytes < 1024 ? t->n_bytes : 1024);
    }
    kv_hash_end(&hash, m->fingerprint);
}

static kvant_status count_shares(struct kvant_model *m, struct kvant_error *err)
{
    m->shares = kv_alloc((size_t)kv_weight_type_count(), sizeof *m->shares);
    if (!m->shares)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory for the type table", kv_gguf_path(m->gguf));
    for (int64_t i = 0; i < kv_gguf_n_tensors(m->gguf); i++) {
        const struct kv_gguf_tensor *t = kv_gguf_tensor_at(m->gguf, i);
        int j = 0;
        while (j < m->n_shares && m->shares[j].type != t->type) j++;
        if (j == m->n_shares) m->shares[m->n_shares++].type = t->type;
        m->shares[j].n_tensors++;
        m->shares[j].n_bytes += t->n_bytes;
    }
    return KVANT_OK;
}

static kvant_status read_name(struct kvant_model *m, struct kvant_error *err)
{
    struct kv_str name = { "", 0 };
    bool found;
    KV_TRY(kv_gguf_get_str(m->gguf, "general.name", &name, &found, err));
    m->name = kv_strndup(name.data, name.n_bytes < 256 ? name.n_bytes : 256);
    return m->name ? KVANT_OK
                   : kv_error_set(err, KVANT_ERR_MEMORY, -1, "%s: no memory", kv_gguf_path(m->gguf));
}

static kvant_status read_options(struct kvant_model *m, const struct kvant_model_options *opt,
                                 struct kvant_error *err)
{
    static const struct kvant_model_options defaults = KVANT_MODEL_OPTIONS_INIT;
    if (!opt) opt = &defaults;
    if (opt->size != sizeof *opt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_model_options.size is not set; use KVANT_MODEL_OPTIONS_INIT");
    if (opt->n_threads < 0 || opt->n_threads > 256)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_threads is %d, outside [0, 256]", opt->n_threads);
    if (opt->n_threads_batch < 0 || opt->n_threads_batch > 256)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_threads_batch is %d, outside [0, 256]", opt->n_threads_batch);
    if (opt->act != KVANT_ACT_INT16 && opt->act != KVANT_ACT_INT8 && opt->act != KVANT_ACT_F32 &&
        opt->act != KVANT_ACT_MIXED)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "act is %d; use KVANT_ACT_INT16, _INT8, _MIXED or _F32",
                (int)opt->act);
    m->n_threads = opt->n_threads ? opt->n_threads : kv_cpu_count();
    m->n_threads_batch = opt->n_threads_batch ? opt->n_threads_batch : m->n_threads;
    if (opt->attn != KVANT_ATTN_CODES && opt->attn != KVANT_ATTN_F32)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "attn is %d; use KVANT_ATTN_CODES or _F32", (int)opt->attn);
    m->act = opt->act;
    m->attn = opt->attn;
    m->vocab_only = opt->vocab_only;
    m->no_repack = opt->no_repack;
    return kv_kernels_open(&m->kernels, opt->cpu, err);
}

/* A template that cannot be read must not keep the model from running: the error is told when it is used. */
static kvant_status open_chat(struct kvant_model *m, struct kvant_error *err)
{
    struct kv_str source = { 0 };
    bool found = false;
    KV_TRY(kv_gguf_get_str(m->gguf, "tokenizer.chat_template", &source, &found, err));
    m->chat_format = kv_chat_format_name(found ? &source : NULL);
    if (!found) source = (struct kv_str){ kv_chat_builtin("none"), strlen(kv_chat_builtin("none")) };
    kvant_status status = kv_chat_open(&m->chat, m->tokenizer, source.data, source.n_bytes, &m->chat_error);
    if (status == KVANT_ERR_MEMORY) KV_FAIL(err, status, -1, "%s", m->chat_error.message);
    return KVANT_OK;
}

static kvant_status open_into(struct kvant_model *m, const char *path, const struct kvant_model_options *opt,
                              struct kvant_error *err)
{
    KV_TRY(read_options(m, opt, err));
    KV_TRY(kv_gguf_open(&m->gguf, path, err));
    KV_TRY(kv_tokenizer_open(&m->tokenizer, m->gguf, err));
    KV_TRY(read_name(m, err));
    KV_TRY(open_chat(m, err));
    fingerprint(m);
    KV_TRY(count_shares(m, err));
    m->n_vocab = kv_tokenizer_n_vocab(m->tokenizer);
    if (m->vocab_only) return KVANT_OK; /* such files may lack every dimension */
    KV_TRY(kv_hparams_read(&m->hp, m->gguf, err));
    KV_TRY(open_rope(m, err));
    KV_TRY(open_weights(m, err));
    KV_TRY(kv_key_bias_median(m, &m->key_bias_median, err));
    m->repacked.n_bytes = kv_repack_bytes(m);
    return m->no_repack ? KVANT_OK : kv_repack(m, err);
}

kvant_status kvant_model_open(struct kvant_model **out, const char *path,
                              const struct kvant_model_options *opt, struct kvant_error *err)
{
    *out = NULL;
    struct kvant_model *m = kv_alloc(1, sizeof *m);
    if (!m) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory for the model", path);
    kvant_status status = open_into(m, path, opt, err);
    if (status != KVANT_OK) {
        kvant_model_close(m);
        return status;
    }
    *out = m;
    return KVANT_OK;
}

void kvant_model_close(struct kvant_model *m)
{
    if (!m) return;
    kv_repacked_close(&m->repacked);
    kv_free(m->shares);
    kv_free(m->name);
    kv_free(m->vectors);
    kv_free(m->layers);
    kv_free(m->inv_freq);
    kvant_template_close(m->chat);
    kv_tokenizer_close(m->tokenizer);
    kv_gguf_close(m->gguf);
    kv_free(m);
}

/* ----------------------------------------------------------------------------------- what it is -- */

struct kv_plan_dims kv_model_plan_dims(const struct kvant_model *m)
{
    return (struct kv_plan_dims){
        .name = m->name,
        .architecture = m->hp.arch ? m->hp.arch->name : "",
        .fingerprint = m->fingerprint,
        .n_layer = m->hp.n_layer,
        .n_head_kv = m->hp.n_head_kv,
        .head_dim = m->hp.head_dim,
    };
}

void kvant_model_get_info(const struct kvant_model *m, struct kvant_model_info *out)
{
    const struct kv_weight_share *most = m->n_shares ? &m->shares[0] : NULL;
    int64_t n_params = 0;
    size_t bytes = 0;
    for (int i = 0; i < m->n_shares; i++) {
        bytes += m->shares[i].n_bytes;
        if (m->shares[i].n_bytes > most->n_bytes) most = &m->shares[i];
    }
    for (int64_t i = 0; i < kv_gguf_n_tensors(m->gguf); i++) {
        const struct kv_gguf_tensor *t = kv_gguf_tensor_at(m->gguf, i);
        n_params += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
    }
    *out = (struct kvant_model_info){
        .path = kv_gguf_path(m->gguf),
        .name = m->name,
        .architecture = m->hp.arch ? m->hp.arch->name : "",
        .fingerprint = m->fingerprint,
        .tokenizer = kv_tokenizer_model_name(m->tokenizer),
        .pre_tokenizer = kv_tokenizer_pre_name(m->tokenizer),
        .chat_format = m->chat_format,
        .cpu = kv_cpu_level_name(m->kernels.level),
        .quantization = most ? most->type->name : "none",
        .n_layer = m->hp.n_layer,
        .n_head = m->hp.n_head,
        .n_head_kv = m->hp.n_head_kv,
        .head_dim = m->hp.head_dim,
        .n_embd = m->hp.n_embd,
        .n_ff = m->hp.n_ff,
        .n_vocab = m->n_vocab,
        .n_ctx_train = m->hp.n_ctx_train,
        .n_threads = m->n_threads,
        .n_threads_batch = m->n_threads_batch,
        .n_params = n_params,
        .n_tensors = kv_gguf_n_tensors(m->gguf),
        .weights_bytes = bytes,
        .repacked_bytes = m->repacked.n_bytes,
        .mapped_bytes = kv_repack_mapped_bytes(m),
        .repacked = m->repacked.memory != NULL,
        .file_bytes = kv_gguf_file_bytes(m->gguf),
        .act = m->act,
        .attn = m->attn,
    };
}

const char *kvant_act_name(kvant_act act)
{
    static const char *const names[] = { [KVANT_ACT_INT16] = "int16", [KVANT_ACT_INT8] = "int8",
                                         [KVANT_ACT_F32] = "f32", [KVANT_ACT_MIXED] = "mixed" };
    return names[act];
}

bool kvant_model_weight_type(const struct kvant_model *m, int i, const char **name, int64_t *n_tensors,
                             size_t *bytes)
{
    if (i < 0 || i >= m->n_shares) return false;
    *name = m->shares[i].type->name;
    *n_tensors = m->shares[i].n_tensors;
    *bytes = m->shares[i].n_bytes;
    return true;
}

/* ------------------------------------------------------------------------- text and plans of a model -- */

kvant_status kvant_tokenize(const struct kvant_model *m, const char *text, size_t n_bytes, int flags,
                            kvant_token *ids, size_t cap, size_t *n_out, struct kvant_error *err)
{
    return kv_tokenizer_encode(m->tokenizer, text, n_bytes, flags, ids, cap, n_out, err);
}

kvant_status kvant_detokenize(const struct kvant_model *m, const kvant_token *ids, size_t n_ids, bool special,
                              char *text, size_t cap, size_t *n_out, struct kvant_error *err)
{
    return kv_tokenizer_decode(m->tokenizer, ids, n_ids, special, text, cap, n_out, err);
}

bool kvant_token_is_end(const struct kvant_model *m, kvant_token id)
{
    return kv_tokenizer_is_end(m->tokenizer, id);
}

kvant_status kvant_template_open(struct kvant_template **out, const struct kvant_model *m, const char *source,
                                 struct kvant_error *err)
{
    struct kv_str own = { 0 };
    bool found = false;
    *out = NULL;
    if (!source) KV_TRY(kv_gguf_get_str(m->gguf, "tokenizer.chat_template", &own, &found, err));
    if (found) return kv_chat_open(out, m->tokenizer, own.data, own.n_bytes, err);
    const char *text = kv_chat_builtin(source ? source : "none");
    if (!text) text = source;
    return kv_chat_open(out, m->tokenizer, text, strlen(text), err);
}

kvant_status kvant_chat_render(const struct kvant_model *m, const struct kvant_message *messages,
                               size_t n_messages, bool add_assistant, char *text, size_t cap, size_t *n_out,
                               struct kvant_error *err)
{
    *n_out = 0;
    if (!m->chat) {
        if (err) *err = m->chat_error;
        return m->chat_error.status;
    }
    return kvant_template_chat(m->chat, messages, n_messages, add_assistant, text, cap, n_out, err);
}

kvant_status kvant_plan_open(struct kvant_plan **out, const struct kvant_model *m, const char *spec,
                             struct kvant_error *err)
{
    *out = NULL;
    if (m->vocab_only)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "%s was opened for its vocabulary only; a plan needs its dimensions", kv_gguf_path(m->gguf));
    struct kv_plan_dims dims = kv_model_plan_dims(m);
    return kv_plan_open(out, &dims, spec, err);
}
