#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"
#include "model/model.h"
#include "read/router.h"

#define MAGIC          "kvrouter"
#define VERSION        1
#define N_NUMBERS      13 /* u32 after the magic          */
#define HEADER_BYTES   (8 + 4 * N_NUMBERS + KV_HASH_TEXT_CAP + KV_ROUTER_MODES_CAP)
#define FILE_BYTES_MAX ((size_t)1 << 31)

enum { FLAG_BEFORE_ROPE = 1, FLAG_BY_SIDE = 2, FLAG_HIDDEN = 4, FLAGS = 7 };

kvant_status kv_router_alloc(struct kvant_router **out, int n_input, int n_hidden, struct kvant_error *err)
{
    size_t in = (size_t)n_input, mid = (size_t)n_hidden;
    struct kvant_router *r = kv_alloc(1, sizeof *r);
    *out = NULL;
    if (r) {
        r->n_input = n_input;
        r->n_hidden = n_hidden;
        r->mean = kv_alloc(in, sizeof *r->mean);
        r->inverse = kv_alloc(in, sizeof *r->inverse);
        r->w1 = kv_alloc(in * mid, sizeof *r->w1);
        r->b1 = kv_alloc(mid, sizeof *r->b1);
        r->w2 = kv_alloc(mid, sizeof *r->w2);
    }
    if (r && r->mean && r->inverse && r->w1 && r->b1 && r->w2) {
        *out = r;
        return KVANT_OK;
    }
    kvant_router_close(r);
    KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a router of %d inputs and %d hidden units", n_input,
            n_hidden);
}

void kvant_router_close(struct kvant_router *r)
{
    if (!r) return;
    kv_free(r->mean);
    kv_free(r->inverse);
    kv_free(r->w1);
    kv_free(r->b1);
    kv_free(r->w2);
    kv_free(r);
}

/* -------------------------------------------------------------------------------------------- reading -- */

static uint32_t u32_at(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static float f32_at(const uint8_t *p)
{
    uint32_t u = u32_at(p);
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

struct reader {
    const uint8_t *data;
    size_t n_bytes, at;
    struct kvant_error *err;
};

/* A number of the header in [least, most]. */
static kvant_status number(struct reader *r, const char *name, uint32_t least, uint32_t most, int *out)
{
    uint32_t x = u32_at(r->data + r->at);
    if (x < least || x > most)
        KV_FAIL(r->err, KVANT_ERR_FORMAT, (int64_t)r->at,
                "router: %s is %u at byte %zu; %u to %u are possible", name, x, r->at, least, most);
    r->at += 4;
    *out = (int)x;
    return KVANT_OK;
}

/* Printable text that ends inside its field, zeros behind it. */
static kvant_status words(struct reader *r, const char *name, char *out, size_t cap)
{
    const char *from = (const char *)r->data + r->at;
    size_t n = strnlen(from, cap);
    bool sound = n < cap;
    for (size_t i = 0; i < cap; i++) sound &= i < n ? from[i] > ' ' && from[i] < 127 : from[i] == 0;
    if (!sound)
        KV_FAIL(r->err, KVANT_ERR_FORMAT, (int64_t)r->at, "router: the %s at byte %zu is no text that ends",
                name, r->at);
    memcpy(out, from, cap);
    r->at += cap;
    return KVANT_OK;
}

static kvant_status floats(struct reader *r, const char *name, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++, r->at += 4) {
        out[i] = f32_at(r->data + r->at);
        if (!isfinite(out[i]))
            KV_FAIL(r->err, KVANT_ERR_FORMAT, (int64_t)r->at,
                    "router: %s %zu at byte %zu is not a finite number", name, i, r->at);
    }
    return KVANT_OK;
}

static size_t file_bytes(int n_input, int n_hidden)
{
    size_t in = (size_t)n_input, mid = (size_t)n_hidden;
    return HEADER_BYTES + 4 * (2 * in + mid * in + 2 * mid + 1) + SHA256_DIGEST_SIZE;
}

static void digest_of(const uint8_t *data, size_t n, uint8_t out[SHA256_DIGEST_SIZE])
{
    struct kv_hash h;
    kv_hash_begin(&h);
    kv_hash_add(&h, data, n);
    nettle_sha256_digest(&h.state, SHA256_DIGEST_SIZE, out);
}

static kvant_status read_head(struct reader *r, struct kvant_router *head)
{
    int version, flags;
    if (r->n_bytes < 8 || memcmp(r->data, MAGIC, 8) != 0)
        KV_FAIL(r->err, KVANT_ERR_FORMAT, 0, "router: not a router file (byte 0 does not begin \"%s\")",
                MAGIC);
    if (r->n_bytes < HEADER_BYTES)
        KV_FAIL(r->err, KVANT_ERR_FORMAT, (int64_t)r->n_bytes,
                "router: the file ends at byte %zu, inside its header", r->n_bytes);
    r->at = 8;
    if (u32_at(r->data + 8) != VERSION)
        KV_FAIL(r->err, KVANT_ERR_UNSUPPORTED, 8, "router: version %u at byte 8; this kvant reads %d",
                u32_at(r->data + 8), VERSION);
    KV_TRY(number(r, "the version", VERSION, VERSION, &version));
    KV_TRY(number(r, "the number of inputs", 1, KV_ROUTER_INPUT_MAX, &head->n_input));
    KV_TRY(number(r, "the number of hidden units", 1, KV_ROUTER_HIDDEN_MAX, &head->n_hidden));
    KV_TRY(number(r, "the window", 1, KV_ROUTER_WINDOW_MAX, &head->window));
    KV_TRY(number(r, "the model's layers", 1, KV_ROUTER_LAYERS_MAX, &head->model_layers));
    KV_TRY(number(r, "the model's KV heads", 1, KV_ROUTER_LAYERS_MAX, &head->n_head_kv));
    KV_TRY(number(r, "the head size", 1, KV_HEAD_DIM_MAX, &head->head_dim));
    KV_TRY(number(r, "the first layer", 0, (uint32_t)head->model_layers - 1, &head->layer_first));
    KV_TRY(number(r, "the number of layers", 1, (uint32_t)(head->model_layers - head->layer_first),
                  &head->n_layers));
    KV_TRY(number(r, "the part", 0, KVANT_EMBED_VALUES, &head->part));
    KV_TRY(number(r, "the pooling of heads", 0, KVANT_EMBED_HEADS_MEAN, &head->heads));
    KV_TRY(number(r, "the flags", 0, FLAGS, &flags));
    head->before_rope = flags & FLAG_BEFORE_ROPE;
    head->by_side = flags & FLAG_BY_SIDE;
    head->hidden = flags & FLAG_HIDDEN;
    int reserved;
    KV_TRY(number(r, "the reserved number", 0, 0, &reserved));
    KV_TRY(words(r, "fingerprint", head->fingerprint, sizeof head->fingerprint));
    KV_TRY(words(r, "name of modes", head->modes, sizeof head->modes));
    int64_t inputs = (int64_t)(head->part == KVANT_EMBED_KEYS_VALUES ? 2 : 1) * head->head_dim *
                     (head->heads == KVANT_EMBED_HEADS_MEAN ? 1 : head->n_head_kv);
    if (!head->hidden && inputs != head->n_input)
        KV_FAIL(r->err, KVANT_ERR_FORMAT, 12, "router: %d inputs at byte 12, but its pooling gives %lld",
                head->n_input, (long long)inputs);
    return KVANT_OK;
}

static kvant_status read_weights(struct reader *r, struct kvant_router *to)
{
    size_t in = (size_t)to->n_input, mid = (size_t)to->n_hidden;
    KV_TRY(floats(r, "mean", to->mean, in));
    KV_TRY(floats(r, "scale", to->inverse, in));
    KV_TRY(floats(r, "first weight", to->w1, in * mid));
    KV_TRY(floats(r, "first bias", to->b1, mid));
    KV_TRY(floats(r, "second weight", to->w2, mid));
    return floats(r, "second bias", &to->b2, 1);
}

kvant_status kv_router_parse(struct kvant_router **out, const uint8_t *data, size_t n_bytes,
                             struct kvant_error *err)
{
    struct reader r = { data, n_bytes, 0, err };
    struct kvant_router head = { 0 }, *router;
    uint8_t digest[SHA256_DIGEST_SIZE];
    *out = NULL;
    KV_TRY(read_head(&r, &head));
    size_t wanted = file_bytes(head.n_input, head.n_hidden);
    if (n_bytes != wanted)
        KV_FAIL(err, KVANT_ERR_FORMAT, (int64_t)(n_bytes < wanted ? n_bytes : wanted),
                "router: %zu bytes, but %d inputs and %d hidden units take %zu", n_bytes, head.n_input,
                head.n_hidden, wanted);
    digest_of(data, n_bytes - SHA256_DIGEST_SIZE, digest);
    if (memcmp(digest, data + n_bytes - SHA256_DIGEST_SIZE, SHA256_DIGEST_SIZE) != 0)
        KV_FAIL(err, KVANT_ERR_FORMAT, (int64_t)(n_bytes - SHA256_DIGEST_SIZE),
                "router: the checksum at byte %zu is not that of the file: it is damaged",
                n_bytes - SHA256_DIGEST_SIZE);
    KV_TRY(kv_router_alloc(&router, head.n_input, head.n_hidden, err));
    head.mean = router->mean;
    head.inverse = router->inverse;
    head.w1 = router->w1;
    head.b1 = router->b1;
    head.w2 = router->w2;
    *router = head;
    kvant_status status = read_weights(&r, router);
    if (status != KVANT_OK)
        kvant_router_close(router);
    else
        *out = router;
    return status;
}

kvant_status kvant_router_open(struct kvant_router **out, const struct kvant_model *model, const char *path,
                               struct kvant_error *err)
{
    char *data;
    size_t n_bytes;
    *out = NULL;
    KV_TRY(kv_file_read(path, FILE_BYTES_MAX, &data, &n_bytes, err));
    kvant_status status = kv_router_parse(out, (const uint8_t *)data, n_bytes, err);
    kv_free(data);
    if (status != KVANT_OK) return kv_error_prefix(err, status, "%s", path);
    const struct kvant_router *r = *out;
    if (strcmp(r->fingerprint, model->fingerprint) == 0 && r->model_layers == model->hp.n_layer &&
        r->n_head_kv == model->hp.n_head_kv && r->head_dim == model->hp.head_dim &&
        (!r->hidden || r->n_input == model->hp.n_embd))
        return KVANT_OK;
    status = kv_error_set(
        err, KVANT_ERR_MISMATCH, -1,
        "%s: trained for another model (%.20s..., %d layers of %d KV heads; this one is %.20s..., %d of "
        "%d): train a router for this one",
        path, r->fingerprint, r->model_layers, r->n_head_kv, model->fingerprint, model->hp.n_layer,
        model->hp.n_head_kv);
    kvant_router_close(*out);
    *out = NULL;
    return status;
}

/* -------------------------------------------------------------------------------------------- writing -- */

static void put_u32(uint8_t **to, uint32_t x)
{
    for (int i = 0; i < 4; i++) *(*to)++ = (uint8_t)(x >> 8 * i);
}

static void put_floats(uint8_t **to, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        put_u32(to, u);
    }
}

kvant_status kv_router_write(const struct kvant_router *r, uint8_t **data, size_t *n_bytes,
                             struct kvant_error *err)
{
    size_t in = (size_t)r->n_input, mid = (size_t)r->n_hidden;
    const int numbers[N_NUMBERS] = {
        VERSION,
        r->n_input,
        r->n_hidden,
        r->window,
        r->model_layers,
        r->n_head_kv,
        r->head_dim,
        r->layer_first,
        r->n_layers,
        r->part,
        r->heads,
        (r->before_rope ? FLAG_BEFORE_ROPE : 0) | (r->by_side ? FLAG_BY_SIDE : 0) |
            (r->hidden ? FLAG_HIDDEN : 0),
        0,
    };
    *n_bytes = file_bytes(r->n_input, r->n_hidden);
    *data = kv_alloc(*n_bytes, 1);
    if (!*data) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a router file of %zu bytes", *n_bytes);
    uint8_t *to = *data;
    memcpy(to, MAGIC, 8);
    to += 8;
    for (int i = 0; i < N_NUMBERS; i++) put_u32(&to, (uint32_t)numbers[i]);
    memcpy(to, r->fingerprint, sizeof r->fingerprint);
    to += sizeof r->fingerprint;
    memcpy(to, r->modes, sizeof r->modes);
    to += sizeof r->modes;
    put_floats(&to, r->mean, in);
    put_floats(&to, r->inverse, in);
    put_floats(&to, r->w1, in * mid);
    put_floats(&to, r->b1, mid);
    put_floats(&to, r->w2, mid);
    put_floats(&to, &r->b2, 1);
    digest_of(*data, *n_bytes - SHA256_DIGEST_SIZE, to);
    return KVANT_OK;
}

kvant_status kvant_router_save(const struct kvant_router *r, const char *path, struct kvant_error *err)
{
    uint8_t *data;
    size_t n_bytes;
    KV_TRY(kv_router_write(r, &data, &n_bytes, err));
    kvant_status status = kv_file_write(path, data, n_bytes, err);
    kv_free(data);
    return status;
}
