#include "support/gguf_writer.h"

#include "base/memory.h"

#include <stdio.h>
#include <string.h>

#define POSITION_N_TENSORS 8
#define POSITION_N_KEYS 16

/* Makes room for one more element of an array that grows by doubling. */
static bool grow(void **array, size_t n, size_t *cap, size_t size)
{
    if (n < *cap) return true;
    size_t more = *cap ? 2 * *cap : 16;
    void *p = kv_realloc(*array, *cap, more, size);
    if (!p) return false;
    *array = p;
    *cap = more;
    return true;
}

static void append(struct gguf_writer *w, const void *bytes, size_t n_bytes)
{
    if (w->failed) return;
    if (w->cap - w->n_bytes < n_bytes) {
        size_t more = w->cap ? 2 * w->cap : 4096;
        while (more - w->n_bytes < n_bytes) more *= 2;
        uint8_t *p = kv_realloc(w->data, w->cap, more, 1);
        if (!p) {
            w->failed = true;
            return;
        }
        w->data = p;
        w->cap = more;
    }
    if (n_bytes > 0) memcpy(w->data + w->n_bytes, bytes, n_bytes);
    w->n_bytes += n_bytes;
}

/* Appends one header field and records it as "owner/part", or "owner" when part is NULL. */
static void field(struct gguf_writer *w, const char *owner, const char *part, const void *bytes,
                  size_t n_bytes)
{
    void *fields = w->fields;
    if (w->failed || !grow(&fields, w->n_fields, &w->fields_cap, sizeof *w->fields)) {
        w->failed = true;
        return;
    }
    w->fields = fields;
    struct gguf_field *f = &w->fields[w->n_fields++];
    snprintf(f->name, sizeof f->name, "%.70s%s%s", owner, part ? "/" : "", part ? part : "");
    f->offset = w->n_bytes;
    f->n_bytes = n_bytes;
    append(w, bytes, n_bytes);
}

static void field_u32(struct gguf_writer *w, const char *owner, const char *part, uint32_t value)
{
    field(w, owner, part, &value, sizeof value);
}

static void field_u64(struct gguf_writer *w, const char *owner, const char *part, uint64_t value)
{
    field(w, owner, part, &value, sizeof value);
}

static void field_name(struct gguf_writer *w, const char *name)
{
    field_u64(w, name, "length", strlen(name));
    field(w, name, "name", name, strlen(name));
}

void gguf_writer_begin(struct gguf_writer *w, uint32_t version, uint32_t alignment)
{
    *w = (struct gguf_writer){ .alignment = alignment ? alignment : 32 };
    field(w, "magic", NULL, "GGUF", 4);
    field_u32(w, "version", NULL, version);
    field_u64(w, "n_tensors", NULL, 0);
    field_u64(w, "n_keys", NULL, 0);
    if (w->alignment != 32) gguf_put_u32(w, "general.alignment", w->alignment);
}

void gguf_writer_free(struct gguf_writer *w)
{
    for (size_t i = 0; i < w->n_tensors; i++) kv_free(w->tensors[i].bytes);
    kv_free(w->tensors);
    kv_free(w->fields);
    kv_free(w->data);
    *w = (struct gguf_writer){ 0 };
}

/* --- keys --- */

static void begin_key(struct gguf_writer *w, const char *key, uint32_t type)
{
    if (w->n_tensors > 0) w->failed = true; /* keys stand before the directory */
    w->n_keys++;
    field_name(w, key);
    field_u32(w, key, "type", type);
}

void gguf_put_raw(struct gguf_writer *w, const char *key, uint32_t type, const void *bytes, size_t n_bytes)
{
    begin_key(w, key, type);
    field(w, key, "value", bytes, n_bytes);
}

#define PUT_SCALAR(name, c_type, type)                                         \
    void gguf_put_##name(struct gguf_writer *w, const char *key, c_type value) \
    {                                                                          \
        gguf_put_raw(w, key, type, &value, sizeof value);                      \
    }
PUT_SCALAR(u8, uint8_t, KV_GGUF_U8)
PUT_SCALAR(i8, int8_t, KV_GGUF_I8)
PUT_SCALAR(u16, uint16_t, KV_GGUF_U16)
PUT_SCALAR(i16, int16_t, KV_GGUF_I16)
PUT_SCALAR(u32, uint32_t, KV_GGUF_U32)
PUT_SCALAR(i32, int32_t, KV_GGUF_I32)
PUT_SCALAR(u64, uint64_t, KV_GGUF_U64)
PUT_SCALAR(i64, int64_t, KV_GGUF_I64)
PUT_SCALAR(f32, float, KV_GGUF_F32)
PUT_SCALAR(f64, double, KV_GGUF_F64)

void gguf_put_bool(struct gguf_writer *w, const char *key, bool value)
{
    uint8_t byte = value;
    gguf_put_raw(w, key, KV_GGUF_BOOL, &byte, 1);
}

void gguf_put_str(struct gguf_writer *w, const char *key, const char *value)
{
    begin_key(w, key, KV_GGUF_STRING);
    field_u64(w, key, "value_length", strlen(value));
    field(w, key, "value", value, strlen(value));
}

static size_t element_bytes(enum kv_gguf_type type)
{
    switch (type) {
    case KV_GGUF_U8: case KV_GGUF_I8: case KV_GGUF_BOOL: return 1;
    case KV_GGUF_U16: case KV_GGUF_I16: return 2;
    case KV_GGUF_U32: case KV_GGUF_I32: case KV_GGUF_F32: return 4;
    case KV_GGUF_U64: case KV_GGUF_I64: case KV_GGUF_F64: return 8;
    default: return 0;
    }
}

void gguf_put_array(struct gguf_writer *w, const char *key, enum kv_gguf_type type, const void *elements,
                    uint64_t n)
{
    begin_key(w, key, KV_GGUF_ARRAY);
    field_u32(w, key, "element_type", type);
    field_u64(w, key, "count", n);
    if (element_bytes(type) == 0) w->failed = true;
    field(w, key, "value", elements, element_bytes(type) * (size_t)n);
}

void gguf_put_strings(struct gguf_writer *w, const char *key, const char *const *strings, uint64_t n)
{
    begin_key(w, key, KV_GGUF_ARRAY);
    field_u32(w, key, "element_type", KV_GGUF_STRING);
    field_u64(w, key, "count", n);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t length = strlen(strings[i]);
        if (i == 0) {
            field_u64(w, key, "value_length", length);
            field(w, key, "value", strings[i], (size_t)length);
        } else {
            append(w, &length, sizeof length);
            append(w, strings[i], (size_t)length);
        }
    }
}

/* --- tensors --- */

void gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t type, int n_dims, const int64_t *dims,
                     const void *bytes, size_t n_bytes)
{
    void *tensors = w->tensors, *copy = kv_alloc(n_bytes, 1);
    if (w->failed || !copy || !grow(&tensors, w->n_tensors, &w->tensors_cap, sizeof *w->tensors)) {
        kv_free(copy);
        w->failed = true;
        return;
    }
    w->tensors = tensors;
    memcpy(copy, bytes, n_bytes);
    size_t offset = (w->data_bytes + w->alignment - 1) / w->alignment * w->alignment;
    w->tensors[w->n_tensors++] = (struct gguf_tensor_data){ offset, n_bytes, copy };
    w->data_bytes = offset + n_bytes;

    field_name(w, name);
    field_u32(w, name, "n_dims", (uint32_t)n_dims);
    field(w, name, "dims", dims, (size_t)n_dims * sizeof *dims);
    field_u32(w, name, "type", type);
    field_u64(w, name, "offset", offset);
}

static void pad_to(struct gguf_writer *w, size_t position)
{
    static const uint8_t zero[64];
    while (!w->failed && w->n_bytes < position) {
        size_t n = position - w->n_bytes;
        append(w, zero, n < sizeof zero ? n : sizeof zero);
    }
}

kvant_status gguf_writer_finish(struct gguf_writer *w, struct kvant_error *err)
{
    if (w->data_offset > 0) return KVANT_OK;
    w->data_offset = (w->n_bytes + w->alignment - 1) / w->alignment * w->alignment;
    if (w->n_tensors > 0) pad_to(w, w->data_offset);
    for (size_t i = 0; i < w->n_tensors; i++) {
        pad_to(w, w->data_offset + w->tensors[i].offset);
        append(w, w->tensors[i].bytes, w->tensors[i].n_bytes);
    }
    if (w->failed) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "GGUF writer: no memory, or calls in the wrong order");
    gguf_poke(w->data, POSITION_N_TENSORS, w->n_tensors, 8);
    gguf_poke(w->data, POSITION_N_KEYS, w->n_keys, 8);
    return KVANT_OK;
}

const struct gguf_field *gguf_writer_field(const struct gguf_writer *w, const char *name)
{
    for (size_t i = 0; i < w->n_fields; i++)
        if (strcmp(w->fields[i].name, name) == 0) return &w->fields[i];
    return NULL;
}

void gguf_poke(uint8_t *data, size_t offset, uint64_t value, size_t n_bytes)
{
    memcpy(data + offset, &value, n_bytes); /* little-endian hosts only, as the reader */
}
