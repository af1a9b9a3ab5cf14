/*
 * Opening a GGUF file: one pass over header, metadata and tensor directory.
 *
 *     | "GGUF" | version u32 | n_tensors u64 | n_keys u64 | keys | tensor directory | padding | tensor data |
 *       key:     length u64, name, type u32, value            array value: type u32, count u64, elements
 *       tensor:  length u64, name, n_dims u32, dims u64 × n_dims, type u32, offset u64 (into the tensor data)
 *
 * Nothing in the file is believed. All reads go through a cursor that knows where the file ends; a count is
 * compared with the least number of bytes that so many entries need *before* memory for them is taken, so
 * that the index never outgrows a small multiple of the file. Afterwards every pointer that is handed out
 * lies inside the map.
 *
 * Two tensors never share bytes: a directory entry whose offset was damaged is thereby found although the
 * offset still lies inside the file.
 */
#include "format/gguf_internal.h"

#include "base/memory.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "tensor data is used in place, in little-endian order");

#define KEY_NAME_MAX 65535    /* GGUF specification */
#define TENSOR_NAME_MAX 64    /* GGUF specification */
#define KEY_BYTES_MIN 14      /* length, one byte of name, type, one byte of value */
#define TENSOR_BYTES_MIN 33   /* length, one byte of name, n_dims, one dim, type, offset */
#define ARRAY_DEPTH_MAX 4     /* arrays in arrays; real files have none, and recursion has to end */
#define ENTRIES_MAX 65536     /* keys, and tensors: 50 times what large models have. Bounds the time of a file
                               * whose names all collide in the index to seconds. */
#define ALIGNMENT_DEFAULT 32
#define ALIGNMENT_MAX (1 << 30)

/* --- a cursor over untrusted bytes --- */

struct cursor {
    const uint8_t *data;
    size_t n_bytes, pos;      /* pos <= n_bytes always                                 */
    const char *subject;      /* "key" or "tensor" and its name, for messages; or NULL */
    struct kv_str name;
    struct kvant_error *err;
};

static kvant_status fail_at(const struct cursor *c, kvant_status status, size_t pos, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static kvant_status fail_at(const struct cursor *c, kvant_status status, size_t pos, const char *format, ...)
{
    char text[KVANT_ERROR_CAP];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!c->subject) return kv_error_set(c->err, status, (int64_t)pos, "%s", text);
    int n_shown = c->name.n_bytes < 100 ? (int)c->name.n_bytes : 100;
    return kv_error_set(c->err, status, (int64_t)pos, "%s %.*s: %s", c->subject, n_shown, c->name.data, text);
}

static size_t left(const struct cursor *c)
{
    return c->n_bytes - c->pos;
}

static kvant_status take(struct cursor *c, uint64_t n, const char *field, const uint8_t **out)
{
    *out = c->data + c->pos;
    if (n > left(c))
        return fail_at(c, KVANT_ERR_FORMAT, c->pos,
                       "%s needs %" PRIu64 " bytes, but the file ends %zu bytes later "
                       "(truncated or damaged: fetch it again)",
                       field, n, left(c));
    c->pos += (size_t)n;
    return KVANT_OK;
}

static kvant_status take_u32(struct cursor *c, const char *field, uint32_t *out)
{
    const uint8_t *p;
    KV_TRY(take(c, sizeof *out, field, &p));
    memcpy(out, p, sizeof *out);
    return KVANT_OK;
}

static kvant_status take_u64(struct cursor *c, const char *field, uint64_t *out)
{
    const uint8_t *p;
    KV_TRY(take(c, sizeof *out, field, &p));
    memcpy(out, p, sizeof *out);
    return KVANT_OK;
}

static kvant_status take_str(struct cursor *c, const char *field, struct kv_str *out)
{
    uint64_t n;
    const uint8_t *p;
    KV_TRY(take_u64(c, field, &n));
    KV_TRY(take(c, n, field, &p));
    *out = (struct kv_str){ (const char *)p, (size_t)n };
    return KVANT_OK;
}

/* Names go into messages and indexes: printable, and of the length that the specification allows. */
static kvant_status take_name(struct cursor *c, const char *field, size_t max_bytes, struct kv_str *out)
{
    size_t start = c->pos;
    uint64_t n;
    const uint8_t *p;
    KV_TRY(take_u64(c, field, &n));
    if (n == 0 || n > max_bytes)
        return fail_at(c, KVANT_ERR_FORMAT, start, "%s has %" PRIu64 " bytes, 1 to %zu are allowed", field, n,
                       max_bytes);
    KV_TRY(take(c, n, field, &p));
    for (uint64_t i = 0; i < n; i++)
        if (p[i] < 0x20 || p[i] == 0x7f)
            return fail_at(c, KVANT_ERR_FORMAT, start + 8 + (size_t)i,
                           "%s holds the control character 0x%02x", field, p[i]);
    *out = (struct kv_str){ (const char *)p, (size_t)n };
    return KVANT_OK;
}

/* --- index of names --- */

struct kv_gguf_slot {
    uint32_t hash;
    uint32_t i_plus_1; /* 0: free */
};

/* FNV-1a */
static uint32_t hash_name(struct kv_str s)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < s.n_bytes; i++) h = (h ^ (uint8_t)s.data[i]) * 16777619u;
    return h;
}

static bool index_init(struct kv_gguf_index *index, uint64_t n)
{
    uint32_t n_slots = 4;
    while (n_slots < 2 * n) n_slots *= 2; /* n <= ENTRIES_MAX */
    index->slots = kv_alloc(n_slots, sizeof *index->slots);
    index->mask = n_slots - 1;
    return index->slots != NULL;
}

static bool same_name(struct kv_str a, struct kv_str b)
{
    return a.n_bytes == b.n_bytes && memcmp(a.data, b.data, a.n_bytes) == 0;
}

/* The name of entry i: keys and tensors both begin with theirs. */
static struct kv_str name_at(const void *entries, size_t stride, uint32_t i)
{
    struct kv_str name;
    memcpy(&name, (const char *)entries + (size_t)i * stride, sizeof name);
    return name;
}
_Static_assert(offsetof(struct kv_gguf_key, name) == 0 && offsetof(struct kv_gguf_tensor, name) == 0,
               "see name_at");

/* The slot that holds `name`, or the free one where it belongs. */
static struct kv_gguf_slot *index_slot(const struct kv_gguf_index *index, const void *entries, size_t stride,
                                       struct kv_str name, uint32_t hash)
{
    for (uint32_t at = hash;; at++) {
        struct kv_gguf_slot *slot = &index->slots[at & index->mask];
        if (slot->i_plus_1 == 0) return slot;
        if (slot->hash == hash && same_name(name_at(entries, stride, slot->i_plus_1 - 1), name)) return slot;
    }
}

static int64_t index_find(const struct kv_gguf_index *index, const void *entries, size_t stride,
                          const char *text)
{
    struct kv_str name = { text, strlen(text) };
    return (int64_t)index_slot(index, entries, stride, name, hash_name(name))->i_plus_1 - 1;
}

/* False when the name is there already. */
static bool index_add(struct kv_gguf_index *index, const void *entries, size_t stride, struct kv_str name,
                      uint64_t i)
{
    uint32_t hash = hash_name(name);
    struct kv_gguf_slot *slot = index_slot(index, entries, stride, name, hash);
    if (slot->i_plus_1 != 0) return false;
    *slot = (struct kv_gguf_slot){ hash, (uint32_t)i + 1 };
    return true;
}

/* --- metadata --- */

/* Bytes of a scalar; 0 for strings, arrays and unknown types. */
static size_t scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[KV_GGUF_TYPE_COUNT] = {
        [KV_GGUF_U8] = 1,  [KV_GGUF_I8] = 1,  [KV_GGUF_U16] = 2, [KV_GGUF_I16] = 2,
        [KV_GGUF_U32] = 4, [KV_GGUF_I32] = 4, [KV_GGUF_F32] = 4, [KV_GGUF_BOOL] = 1,
        [KV_GGUF_U64] = 8, [KV_GGUF_I64] = 8, [KV_GGUF_F64] = 8,
    };
    return type < KV_GGUF_TYPE_COUNT ? bytes[type] : 0;
}

static kvant_status take_type(struct cursor *c, const char *field, uint32_t *out)
{
    size_t start = c->pos;
    KV_TRY(take_u32(c, field, out));
    if (*out >= KV_GGUF_TYPE_COUNT)
        return fail_at(c, KVANT_ERR_FORMAT, start, "%s is %" PRIu32 ", known are 0 to %d", field, *out,
                       KV_GGUF_TYPE_COUNT - 1);
    return KVANT_OK;
}

/* n scalars; n comes from the file. */
static kvant_status take_scalars(struct cursor *c, uint32_t type, uint64_t n, const uint8_t **out)
{
    size_t size = scalar_bytes(type), start = c->pos;
    if (n > left(c) / size)
        return fail_at(c, KVANT_ERR_FORMAT, start,
                       "value has %" PRIu64 " elements of %zu bytes, but the file ends "
                       "%zu bytes later (truncated or damaged: fetch it again)",
                       n, size, left(c));
    KV_TRY(take(c, n * size, "value", out));
    if (type == KV_GGUF_BOOL)
        for (uint64_t i = 0; i < n; i++)
            if ((*out)[i] > 1)
                return fail_at(c, KVANT_ERR_FORMAT, start + (size_t)i,
                               "a bool is %d, only 0 and 1 are allowed", (*out)[i]);
    return KVANT_OK;
}

/* n strings; `strings` (n) may be NULL to only walk over them. */
static kvant_status take_strings(struct cursor *c, uint64_t n, struct kv_str *strings)
{
    for (uint64_t i = 0; i < n; i++) {
        struct kv_str s;
        KV_TRY(take_str(c, "string", &s));
        if (strings) strings[i] = s;
    }
    return KVANT_OK;
}

/* Type and count of an array, the count checked against what is left of the file. */
static kvant_status take_array_head(struct cursor *c, uint32_t *type, uint64_t *n)
{
    KV_TRY(take_type(c, "element type", type));
    size_t start = c->pos;
    KV_TRY(take_u64(c, "count", n));
    size_t least = *type == KV_GGUF_STRING ? 8 : *type == KV_GGUF_ARRAY ? 12 : scalar_bytes(*type);
    if (*n > left(c) / least)
        return fail_at(c, KVANT_ERR_FORMAT, start, "count is %" PRIu64 ", but the file ends %zu bytes later "
                       "(truncated or damaged: fetch it again)", *n, left(c));
    return KVANT_OK;
}

/* Walks over an array that no function returns: one inside another. */
static kvant_status skip_array(struct cursor *c, int depth)
{
    if (depth > ARRAY_DEPTH_MAX)
        return fail_at(c, KVANT_ERR_FORMAT, c->pos, "arrays are nested more than %d deep", ARRAY_DEPTH_MAX);
    uint32_t type;
    uint64_t n;
    const uint8_t *p;
    KV_TRY(take_array_head(c, &type, &n));
    if (type == KV_GGUF_STRING) return take_strings(c, n, NULL);
    if (type != KV_GGUF_ARRAY) return take_scalars(c, type, n, &p);
    for (uint64_t i = 0; i < n; i++) KV_TRY(skip_array(c, depth + 1));
    return KVANT_OK;
}

static kvant_status take_value(struct cursor *c, struct kv_gguf_key *key)
{
    uint32_t type;
    KV_TRY(take_type(c, "value type", &type));
    key->n = 1;
    key->is_array = type == KV_GGUF_ARRAY;
    if (key->is_array) KV_TRY(take_array_head(c, &type, &key->n));
    key->type = (enum kv_gguf_type)type;
    key->offset = c->pos;
    key->data = c->data + c->pos;
    if (type == KV_GGUF_STRING) {
        key->strings = kv_alloc((size_t)key->n, sizeof *key->strings);
        if (!key->strings)
            return fail_at(c, KVANT_ERR_MEMORY, c->pos, "no memory for %" PRIu64 " strings", key->n);
        return take_strings(c, key->n, key->strings);
    }
    if (type != KV_GGUF_ARRAY) return take_scalars(c, type, key->n, &key->data);
    for (uint64_t i = 0; i < key->n; i++) KV_TRY(skip_array(c, 2));
    return KVANT_OK;
}

static kvant_status read_keys(struct kv_gguf *g, struct cursor *c, uint64_t n_keys)
{
    g->keys = kv_alloc((size_t)n_keys, sizeof *g->keys);
    if (!g->keys || !index_init(&g->key_index, n_keys))
        return fail_at(c, KVANT_ERR_MEMORY, c->pos, "no memory for %" PRIu64 " keys", n_keys);
    for (uint64_t i = 0; i < n_keys; i++) {
        struct kv_gguf_key *key = &g->keys[i];
        size_t start = c->pos;
        c->subject = NULL;
        KV_TRY(take_name(c, "name of a key", KEY_NAME_MAX, &key->name));
        c->subject = "key";
        c->name = key->name;
        g->n_keys = i + 1; /* what close has to free */
        KV_TRY(take_value(c, key));
        if (!index_add(&g->key_index, g->keys, sizeof *g->keys, key->name, i))
            return fail_at(c, KVANT_ERR_FORMAT, start, "stands twice in the file");
    }
    c->subject = NULL;
    return KVANT_OK;
}

static kvant_status read_alignment(struct kv_gguf *g, struct kvant_error *err)
{
    int64_t alignment = ALIGNMENT_DEFAULT;
    bool found;
    KV_TRY(kv_gguf_get_i64(g, "general.alignment", 8, ALIGNMENT_MAX, &alignment, &found, err));
    if ((alignment & (alignment - 1)) != 0)
        KV_FAIL(err, KVANT_ERR_FORMAT, (int64_t)kv_gguf_key_find(g, "general.alignment")->offset,
                "key general.alignment: %" PRId64 " is not a power of two", alignment);
    g->alignment = (uint64_t)alignment;
    return KVANT_OK;
}

/* --- tensor directory --- */

static kvant_status take_dims(struct cursor *c, struct kv_gguf_tensor *t)
{
    size_t start = c->pos;
    uint32_t n_dims;
    KV_TRY(take_u32(c, "number of dimensions", &n_dims));
    if (n_dims < 1 || n_dims > 4)
        return fail_at(c, KVANT_ERR_FORMAT, start, "has %" PRIu32 " dimensions, 1 to 4 are allowed", n_dims);
    t->n_dims = (int)n_dims;
    for (int i = 0; i < 4; i++) t->dims[i] = 1;
    int64_t n_elements = 1;
    for (int i = 0; i < t->n_dims; i++) {
        start = c->pos;
        uint64_t dim;
        KV_TRY(take_u64(c, "dimension", &dim));
        if (dim < 1 || dim > INT64_MAX || __builtin_mul_overflow(n_elements, (int64_t)dim, &n_elements))
            return fail_at(c, KVANT_ERR_FORMAT, start,
                           "dimension %d is %" PRIu64 ": not the shape of a tensor", i, dim);
        t->dims[i] = (int64_t)dim;
    }
    return KVANT_OK;
}

static kvant_status take_tensor_type(struct cursor *c, struct kv_gguf_tensor *t)
{
    size_t start = c->pos;
    uint32_t id;
    KV_TRY(take_u32(c, "type", &id));
    t->type = kv_weight_type_find(id);
    if (!t->type) {
        const char *name = kv_weight_type_any_name(id);
        return fail_at(c, KVANT_ERR_UNSUPPORTED, start,
                       "tensor type %" PRIu32 " (%s) cannot be read; use a file with "
                       "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K..Q6_K IQ4_NL IQ4_XS",
                       id, name ? name : "unknown");
    }
    int64_t block = t->type->block, block_bytes = t->type->block_bytes;
    if (t->dims[0] % block != 0)
        return fail_at(c, KVANT_ERR_FORMAT, start,
                       "rows of %" PRId64 " elements are not whole blocks of %" PRId64 " (%s)", t->dims[0],
                       block, t->type->name);
    size_t n_rows = (size_t)(t->dims[1] * t->dims[2] * t->dims[3]); /* take_dims: all products fit int64 */
    if (!kv_mul_size((size_t)(t->dims[0] / block), (size_t)block_bytes, &t->row_bytes)
        || !kv_mul_size(t->row_bytes, n_rows, &t->n_bytes))
        return fail_at(c, KVANT_ERR_FORMAT, start, "its size does not fit 64 bits");
    return KVANT_OK;
}

/* One directory entry but for its data: that is placed when the directory's end is known. `*offset` is
 * relative. */
static kvant_status take_tensor(struct kv_gguf *g, struct cursor *c, struct kv_gguf_tensor *t,
                                uint64_t *offset)
{
    c->subject = NULL;
    t->directory_offset = c->pos;
    KV_TRY(take_name(c, "name of a tensor", TENSOR_NAME_MAX, &t->name));
    c->subject = "tensor";
    c->name = t->name;
    KV_TRY(take_dims(c, t));
    KV_TRY(take_tensor_type(c, t));
    size_t start = c->pos;
    KV_TRY(take_u64(c, "offset", offset));
    if (*offset % g->alignment != 0)
        return fail_at(c, KVANT_ERR_FORMAT, start,
                       "offset %" PRIu64 " is not a multiple of the alignment %" PRIu64, *offset,
                       g->alignment);
    return KVANT_OK;
}

/* Errors of a tensor's place point at its offset field, the last 8 bytes of its entry. */
static size_t offset_field(const struct kv_gguf_tensor *t)
{
    return (size_t)t->directory_offset + 8 + t->name.n_bytes + 4 + 8 * (size_t)t->n_dims + 4;
}

static int compare_places(const void *a, const void *b)
{
    const struct kv_gguf_tensor *x = *(const struct kv_gguf_tensor *const *)a;
    const struct kv_gguf_tensor *y = *(const struct kv_gguf_tensor *const *)b;
    return (x->data > y->data) - (x->data < y->data);
}

static kvant_status check_overlaps(struct kv_gguf *g, struct cursor *c)
{
    size_t n = (size_t)g->n_tensors;
    const struct kv_gguf_tensor **sorted = kv_alloc(n, sizeof *sorted);
    if (!sorted) return fail_at(c, KVANT_ERR_MEMORY, c->pos, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++) sorted[i] = &g->tensors[i];
    qsort(sorted, n, sizeof *sorted, compare_places);
    kvant_status status = KVANT_OK;
    for (size_t i = 0; i + 1 < n && status == KVANT_OK; i++) {
        const struct kv_gguf_tensor *a = sorted[i], *b = sorted[i + 1];
        if ((size_t)(b->data - a->data) >= a->n_bytes) continue;
        c->subject = "tensor";
        c->name = b->name;
        status = fail_at(c, KVANT_ERR_FORMAT, offset_field(b),
                         "its data overlaps that of tensor %.*s (damaged: fetch the file again)",
                         (int)a->name.n_bytes, a->name.data);
    }
    kv_free(sorted);
    return status;
}

static kvant_status place_tensors(struct kv_gguf *g, struct cursor *c, const uint64_t *offsets)
{
    c->subject = "tensor";
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        struct kv_gguf_tensor *t = &g->tensors[i];
        c->name = t->name;
        size_t room = g->data_offset < g->n_bytes ? g->n_bytes - g->data_offset : 0;
        if (offsets[i] > room || t->n_bytes > room - offsets[i])
            return fail_at(c, KVANT_ERR_FORMAT, offset_field(t),
                           "its %zu bytes at offset %" PRIu64 " lie beyond the end of the file, "
                           "which has %zu bytes of tensor data (truncated or damaged: fetch it again)",
                           t->n_bytes, offsets[i], room);
        t->data = g->data + g->data_offset + offsets[i];
    }
    c->subject = NULL;
    return check_overlaps(g, c);
}

static kvant_status read_tensors(struct kv_gguf *g, struct cursor *c, uint64_t n_tensors)
{
    g->tensors = kv_alloc((size_t)n_tensors, sizeof *g->tensors);
    uint64_t *offsets = kv_alloc((size_t)n_tensors, sizeof *offsets);
    kvant_status status = KVANT_OK;
    if (!g->tensors || !offsets || !index_init(&g->tensor_index, n_tensors))
        status = fail_at(c, KVANT_ERR_MEMORY, c->pos, "no memory for %" PRIu64 " tensors", n_tensors);
    for (uint64_t i = 0; i < n_tensors && status == KVANT_OK; i++) {
        struct kv_gguf_tensor *t = &g->tensors[i];
        status = take_tensor(g, c, t, &offsets[i]);
        if (status == KVANT_OK && !index_add(&g->tensor_index, g->tensors, sizeof *t, t->name, i))
            status = fail_at(c, KVANT_ERR_FORMAT, (size_t)t->directory_offset, "stands twice in the file");
    }
    if (status == KVANT_OK) {
        g->n_tensors = n_tensors;
        g->header_bytes = c->pos;
        size_t mask = (size_t)g->alignment - 1;
        /* No overflow: a file's size is below 2^63, the alignment at most 2^30. */
        g->data_offset = (c->pos + mask) & ~mask;
        status = place_tensors(g, c, offsets);
    }
    kv_free(offsets);
    return status;
}

/* --- the whole file --- */

static kvant_status read_version(struct cursor *c)
{
    const uint8_t *magic;
    uint32_t version;
    if (c->n_bytes == 0) return fail_at(c, KVANT_ERR_FORMAT, 0, "the file is empty");
    KV_TRY(take(c, 4, "magic", &magic));
    if (memcmp(magic, "GGUF", 4) != 0)
        return fail_at(c, KVANT_ERR_FORMAT, 0,
                       "not a GGUF file: it begins with %02x %02x %02x %02x instead of \"GGUF\"", magic[0],
                       magic[1], magic[2], magic[3]);
    KV_TRY(take_u32(c, "version", &version));
    if (version == 2 || version == 3) return KVANT_OK;
    if (version == 1)
        return fail_at(c, KVANT_ERR_UNSUPPORTED, 4,
                       "GGUF version 1 is not read; convert the model again (version 2 or 3)");
    if (version != 0 && (version & 0xffffff) == 0)
        return fail_at(c, KVANT_ERR_UNSUPPORTED, 4,
                       "a big-endian GGUF file; convert the model to little-endian");
    return fail_at(c, KVANT_ERR_UNSUPPORTED, 4, "GGUF version %" PRIu32 " is not read, only 2 and 3",
                   version);
}

static kvant_status take_count(struct cursor *c, const char *field, size_t entry_bytes_min, uint64_t *out)
{
    size_t start = c->pos;
    KV_TRY(take_u64(c, field, out));
    if (*out > ENTRIES_MAX)
        return fail_at(c, KVANT_ERR_FORMAT, start, "%s is %" PRIu64 ", at most %d are read", field, *out,
                       ENTRIES_MAX);
    if (*out > left(c) / entry_bytes_min)
        return fail_at(c, KVANT_ERR_FORMAT, start,
                       "%s is %" PRIu64 ": more than fit in the file (truncated or damaged: fetch it again)",
                       field, *out);
    return KVANT_OK;
}

static kvant_status read_all(struct kv_gguf *g, struct kvant_error *err)
{
    struct cursor c = { .data = g->data, .n_bytes = g->n_bytes, .err = err };
    uint64_t n_tensors, n_keys;
    KV_TRY(read_version(&c));
    KV_TRY(take_count(&c, "number of tensors", TENSOR_BYTES_MIN, &n_tensors));
    KV_TRY(take_count(&c, "number of keys", KEY_BYTES_MIN, &n_keys));
    KV_TRY(read_keys(g, &c, n_keys));
    KV_TRY(read_alignment(g, err));
    return read_tensors(g, &c, n_tensors);
}

/* Takes the map over, also when it fails. */
static kvant_status open_bytes(struct kv_gguf **out, struct kv_file_map map, const uint8_t *data,
                               size_t n_bytes, const char *name, struct kvant_error *err)
{
    struct kv_gguf *g = kv_alloc(1, sizeof *g);
    if (!g) {
        kv_file_map_close(&map);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "%s: no memory", name);
    }
    *g = (struct kv_gguf){ .map = map, .data = data, .n_bytes = n_bytes, .path = kv_strdup(name) };
    kvant_status status = g->path ? read_all(g, err) : kv_error_set(err, KVANT_ERR_MEMORY, 0, "no memory");
    if (status != KVANT_OK) {
        if (err) status = kv_error_prefix(err, status, "%s: byte %" PRId64, name, err->position);
        kv_gguf_close(g);
        return status;
    }
    *out = g;
    return KVANT_OK;
}

kvant_status kv_gguf_open(struct kv_gguf **out, const char *path, struct kvant_error *err)
{
    *out = NULL;
    struct kv_file_map map;
    KV_TRY(kv_file_map_open(&map, path, err));
    return open_bytes(out, map, map.data, map.n_bytes, path, err);
}

kvant_status kv_gguf_open_memory(struct kv_gguf **out, const uint8_t *data, size_t n_bytes, const char *name,
                                 struct kvant_error *err)
{
    *out = NULL;
    return open_bytes(out, (struct kv_file_map){ 0 }, data, n_bytes, name, err);
}

void kv_gguf_close(struct kv_gguf *g)
{
    if (!g) return;
    for (uint64_t i = 0; i < g->n_keys; i++) kv_free(g->keys[i].strings);
    kv_free(g->keys);
    kv_free(g->tensors);
    kv_free(g->key_index.slots);
    kv_free(g->tensor_index.slots);
    kv_file_map_close(&g->map);
    kv_free(g->path);
    kv_free(g);
}

const char *kv_gguf_path(const struct kv_gguf *g)
{
    return g->path;
}

size_t kv_gguf_file_bytes(const struct kv_gguf *g)
{
    return g->n_bytes;
}

size_t kv_gguf_header_bytes(const struct kv_gguf *g, const uint8_t **data)
{
    *data = g->data;
    return g->header_bytes;
}

int64_t kv_gguf_n_tensors(const struct kv_gguf *g)
{
    return (int64_t)g->n_tensors;
}

void kv_gguf_tensor_release(const struct kv_gguf *g, const struct kv_gguf_tensor *t)
{
    if (g->map.data) kv_file_map_release(&g->map, t->data, t->n_bytes);
}

const struct kv_gguf_tensor *kv_gguf_tensor_at(const struct kv_gguf *g, int64_t i)
{
    return i >= 0 && (uint64_t)i < g->n_tensors ? &g->tensors[i] : NULL;
}

const struct kv_gguf_tensor *kv_gguf_tensor_find(const struct kv_gguf *g, const char *name)
{
    int64_t i = index_find(&g->tensor_index, g->tensors, sizeof *g->tensors, name);
    return i < 0 ? NULL : &g->tensors[i];
}

const struct kv_gguf_key *kv_gguf_key_find(const struct kv_gguf *g, const char *key)
{
    int64_t i = index_find(&g->key_index, g->keys, sizeof *g->keys, key);
    return i < 0 ? NULL : &g->keys[i];
}
