#include "model/arch.h"

#include <stdio.h>
#include <string.h>

static const struct kv_arch archs[] = {
    { .name = "llama" },   /* also SmolLM, Mistral and others whose converter names them llama */
    { .name = "mistral" },
    { .name = "qwen2", .rope_neox = true, .qkv_bias = true },
    { .name = "qwen3", .rope_neox = true, .qk_norm = true },
};
#define N_ARCHS (sizeof archs / sizeof archs[0])

const struct kv_arch *kv_arch_find(const char *name, size_t n_bytes)
{
    for (size_t i = 0; i < N_ARCHS; i++)
        if (strlen(archs[i].name) == n_bytes && memcmp(archs[i].name, name, n_bytes) == 0) return &archs[i];
    return NULL;
}

const char *kv_arch_list(void)
{
    return "llama, mistral, qwen2, qwen3";
}

/* Keys below the architecture's prefix. */
struct reader {
    const struct kv_gguf *g;
    const char *prefix;
    struct kvant_error *err;
    char key[96];
};

static const char *key_of(struct reader *r, const char *suffix)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->prefix, suffix);
    return r->key;
}

/* Integer in [1, max]; `fallback` < 0 makes it required. */
static kvant_status read_count(struct reader *r, const char *suffix, int64_t max, int64_t fallback, int *out)
{
    int64_t value = fallback;
    bool found = false;
    KV_TRY(kv_gguf_get_i64(r->g, key_of(r, suffix), 1, max, &value, &found, r->err));
    if (!found && fallback < 0)
        KV_FAIL(r->err, KVANT_ERR_FORMAT, -1, "%s: the key %s is missing; the file is not a complete model",
                kv_gguf_path(r->g), r->key);
    *out = (int)value;
    return KVANT_OK;
}

static kvant_status read_float(struct reader *r, const char *suffix, double fallback, double min, double max,
                               float *out)
{
    double value = fallback;
    bool found = false;
    KV_TRY(kv_gguf_get_f64(r->g, key_of(r, suffix), &value, &found, r->err));
    if (!(value >= min && value <= max))
        KV_FAIL(r->err, KVANT_ERR_FORMAT, -1, "%s: %s is %g, outside [%g, %g]", kv_gguf_path(r->g), r->key,
                value, min, max);
    *out = (float)value;
    return KVANT_OK;
}

/* head_count_kv is a number, or one number per layer; only equal ones are supported. */
static kvant_status read_head_count_kv(struct reader *r, int n_head, int *out)
{
    enum kv_gguf_type type;
    bool is_array = false, found = false;
    if (!kv_gguf_key_type(r->g, key_of(r, "attention.head_count_kv"), &type, &is_array) || !is_array)
        return read_count(r, "attention.head_count_kv", 1024, n_head, out);
    struct kv_gguf_array a;
    KV_TRY(kv_gguf_get_array(r->g, r->key, type, &a, &found, r->err));
    for (uint64_t i = 0; i < a.n; i++)
        if (a.type == KV_GGUF_STRING || kv_gguf_array_i64(&a, i) != kv_gguf_array_i64(&a, 0))
            KV_FAIL(r->err, KVANT_ERR_UNSUPPORTED, -1,
                    "%s: %s differs between layers; only one value is supported", kv_gguf_path(r->g), r->key);
    int64_t value = a.n ? kv_gguf_array_i64(&a, 0) : 0;
    if (value < 1 || value > 1024)
        KV_FAIL(r->err, KVANT_ERR_FORMAT, -1, "%s: %s is %lld, outside [1, 1024]", kv_gguf_path(r->g), r->key,
                (long long)value);
    *out = (int)value;
    return KVANT_OK;
}

static kvant_status read_rope(struct reader *r, struct kv_hparams *h)
{
    KV_TRY(read_count(r, "rope.dimension_count", h->head_dim, h->head_dim, &h->n_rot));
    if (h->n_rot % 2)
        KV_FAIL(r->err, KVANT_ERR_FORMAT, -1, "%s: %s is %d, but must be even", kv_gguf_path(r->g), r->key,
                h->n_rot);
    KV_TRY(read_float(r, "rope.freq_base", 10000.0, 1.0, 1e12, &h->rope_freq_base));
    KV_TRY(read_float(r, "rope.scale_linear", 1.0, 1e-6, 1e6, &h->rope_scale)); /* the old name */

    struct kv_str type = { "none", 4 };
    bool found = false;
    KV_TRY(kv_gguf_get_str(r->g, key_of(r, "rope.scaling.type"), &type, &found, r->err));
    if (type.n_bytes == 6 && memcmp(type.data, "linear", 6) == 0)
        return read_float(r, "rope.scaling.factor", h->rope_scale, 1e-6, 1e6, &h->rope_scale);
    if (type.n_bytes != 4 || memcmp(type.data, "none", 4) != 0)
        KV_FAIL(r->err, KVANT_ERR_UNSUPPORTED, -1,
                "%s: %s is %.*s; supported are none, linear and llama-3 factors", kv_gguf_path(r->g), r->key,
                (int)(type.n_bytes < 32 ? type.n_bytes : 32), type.data);
    return KVANT_OK;
}

static kvant_status check_shape(const struct kv_hparams *h, int value_dim, const char *path,
                                struct kvant_error *err)
{
    if (h->n_head % h->n_head_kv)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "%s: %d attention heads are not a multiple of %d KV heads", path,
                h->n_head, h->n_head_kv);
    if (value_dim != h->head_dim)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1,
                "%s: key heads of %d and value heads of %d channels; only equal sizes are supported", path,
                h->head_dim, value_dim);
    if (h->head_dim > KV_HEAD_DIM_MAX || h->head_dim % 8)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1,
                "%s: heads of %d channels; supported are multiples of 8 up to %d", path, h->head_dim,
                KV_HEAD_DIM_MAX);
    return KVANT_OK;
}

kvant_status kv_hparams_read(struct kv_hparams *out, const struct kv_gguf *g, struct kvant_error *err)
{
    struct kv_hparams h = { 0 };
    struct kv_str name = { "", 0 };
    bool found = false;
    KV_TRY(kv_gguf_get_str(g, "general.architecture", &name, &found, err));
    if (!found)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "%s: the key general.architecture is missing", kv_gguf_path(g));
    h.arch = kv_arch_find(name.data, name.n_bytes);
    if (!h.arch)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1, "%s: unknown architecture %.*s; this build knows %s",
                kv_gguf_path(g), (int)(name.n_bytes < 48 ? name.n_bytes : 48), name.data, kv_arch_list());

    struct reader r = { .g = g, .prefix = h.arch->name, .err = err };
    int64_t n_expert = 0;
    KV_TRY(kv_gguf_get_i64(g, key_of(&r, "expert_count"), 0, 1 << 20, &n_expert, &found, err));
    if (n_expert > 0)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1,
                "%s: a mixture of %lld experts; mixture models are not supported", kv_gguf_path(g),
                (long long)n_expert);

    int value_dim;
    KV_TRY(read_count(&r, "block_count", 1024, -1, &h.n_layer));
    KV_TRY(read_count(&r, "embedding_length", 1 << 20, -1, &h.n_embd));
    KV_TRY(read_count(&r, "feed_forward_length", 1 << 22, -1, &h.n_ff));
    KV_TRY(read_count(&r, "context_length", 1 << 30, -1, &h.n_ctx_train));
    KV_TRY(read_count(&r, "attention.head_count", 1024, -1, &h.n_head));
    KV_TRY(read_head_count_kv(&r, h.n_head, &h.n_head_kv));
    int default_dim = h.n_embd / h.n_head;
    KV_TRY(read_count(&r, "attention.key_length", 1 << 16, default_dim < 1 ? 1 : default_dim, &h.head_dim));
    KV_TRY(read_count(&r, "attention.value_length", 1 << 16, default_dim < 1 ? 1 : default_dim, &value_dim));
    KV_TRY(check_shape(&h, value_dim, kv_gguf_path(g), err));
    KV_TRY(read_float(&r, "attention.layer_norm_rms_epsilon", 1e-5, 0.0, 1.0, &h.norm_eps));
    KV_TRY(read_rope(&r, &h));
    *out = h;
    return KVANT_OK;
}
