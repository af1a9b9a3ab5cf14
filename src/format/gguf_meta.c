/*
 * Typed access to the metadata of an opened GGUF file. The bytes were checked when it was opened; here their
 * meaning is: type, range, finiteness.
 */
#include "format/gguf_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char *kv_gguf_type_name(enum kv_gguf_type type)
{
    static const char *const names[KV_GGUF_TYPE_COUNT] = {
        [KV_GGUF_U8] = "u8", [KV_GGUF_I8] = "i8", [KV_GGUF_U16] = "u16", [KV_GGUF_I16] = "i16",
        [KV_GGUF_U32] = "u32", [KV_GGUF_I32] = "i32", [KV_GGUF_F32] = "f32", [KV_GGUF_BOOL] = "bool",
        [KV_GGUF_STRING] = "string", [KV_GGUF_ARRAY] = "array", [KV_GGUF_U64] = "u64", [KV_GGUF_I64] = "i64",
        [KV_GGUF_F64] = "f64",
    };
    return (unsigned)type < KV_GGUF_TYPE_COUNT ? names[type] : "unknown";
}

static bool is_integer(enum kv_gguf_type type)
{
    switch (type) {
    case KV_GGUF_U8: case KV_GGUF_I8: case KV_GGUF_U16: case KV_GGUF_I16: case KV_GGUF_U32: case KV_GGUF_I32:
    case KV_GGUF_U64: case KV_GGUF_I64:
        return true;
    default:
        return false;
    }
}

static bool is_float(enum kv_gguf_type type)
{
    return type == KV_GGUF_F32 || type == KV_GGUF_F64;
}

#define ELEMENT(c_type, data, i) \
    c_type v;                    \
    memcpy(&v, (data) + (i) * sizeof v, sizeof v)

/* Integers above INT64_MAX answer as their bits; the caller that cares asks for the type. */
static int64_t element_i64(enum kv_gguf_type type, const uint8_t *data, uint64_t i)
{
    switch (type) {
    case KV_GGUF_U8: case KV_GGUF_BOOL: return data[i];
    case KV_GGUF_I8: { ELEMENT(int8_t, data, i); return v; }
    case KV_GGUF_U16: { ELEMENT(uint16_t, data, i); return v; }
    case KV_GGUF_I16: { ELEMENT(int16_t, data, i); return v; }
    case KV_GGUF_U32: { ELEMENT(uint32_t, data, i); return v; }
    case KV_GGUF_I32: { ELEMENT(int32_t, data, i); return v; }
    case KV_GGUF_U64: case KV_GGUF_I64: { ELEMENT(int64_t, data, i); return v; }
    default: return 0;
    }
}

static double element_f64(enum kv_gguf_type type, const uint8_t *data, uint64_t i)
{
    if (type == KV_GGUF_F32) { ELEMENT(float, data, i); return (double)v; }
    if (type == KV_GGUF_F64) { ELEMENT(double, data, i); return v; }
    if (type == KV_GGUF_U64) { ELEMENT(uint64_t, data, i); return (double)v; }
    return (double)element_i64(type, data, i);
}

static kvant_status fail_type(const struct kv_gguf *g, const struct kv_gguf_key *key, const char *name,
                              const char *wanted, struct kvant_error *err)
{
    KV_FAIL(err, KVANT_ERR_FORMAT, (int64_t)key->offset, "%s: byte %zu: key %s: is %s%s, should be %s",
            g->path, key->offset, name, key->is_array ? "an array of " : "of type ",
            kv_gguf_type_name(key->type), wanted);
}

bool kv_gguf_has(const struct kv_gguf *g, const char *key)
{
    return kv_gguf_key_find(g, key) != NULL;
}

bool kv_gguf_key_type(const struct kv_gguf *g, const char *key, enum kv_gguf_type *type, bool *is_array)
{
    const struct kv_gguf_key *k = kv_gguf_key_find(g, key);
    if (!k) return false;
    *type = k->type;
    *is_array = k->is_array;
    return true;
}

kvant_status kv_gguf_get_i64(const struct kv_gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                             bool *found, struct kvant_error *err)
{
    const struct kv_gguf_key *k = kv_gguf_key_find(g, key);
    *found = k != NULL;
    if (!k) return KVANT_OK;
    if (k->is_array || !is_integer(k->type)) return fail_type(g, k, key, "an integer", err);
    int64_t value = element_i64(k->type, k->data, 0);
    bool too_large = k->type == KV_GGUF_U64 && value < 0; /* beyond INT64_MAX */
    if (too_large || value < min || value > max) {
        char text[24];
        if (too_large) snprintf(text, sizeof text, "%" PRIu64, (uint64_t)value);
        else snprintf(text, sizeof text, "%" PRId64, value);
        KV_FAIL(err, KVANT_ERR_FORMAT, (int64_t)k->offset,
                "%s: byte %zu: key %s: is %s, should be between %" PRId64 " and %" PRId64, g->path, k->offset,
                key, text, min, max);
    }
    *out = value;
    return KVANT_OK;
}

kvant_status kv_gguf_get_f64(const struct kv_gguf *g, const char *key, double *out, bool *found,
                             struct kvant_error *err)
{
    const struct kv_gguf_key *k = kv_gguf_key_find(g, key);
    *found = k != NULL;
    if (!k) return KVANT_OK;
    if (k->is_array || !(is_float(k->type) || is_integer(k->type)))
        return fail_type(g, k, key, "a number", err);
    double value = element_f64(k->type, k->data, 0);
    if (!isfinite(value))
        KV_FAIL(err, KVANT_ERR_FORMAT, (int64_t)k->offset,
                "%s: byte %zu: key %s: is %g, should be a finite number", g->path, k->offset, key, value);
    *out = value;
    return KVANT_OK;
}

kvant_status kv_gguf_get_bool(const struct kv_gguf *g, const char *key, bool *out, bool *found,
                              struct kvant_error *err)
{
    const struct kv_gguf_key *k = kv_gguf_key_find(g, key);
    *found = k != NULL;
    if (!k) return KVANT_OK;
    if (k->is_array || k->type != KV_GGUF_BOOL) return fail_type(g, k, key, "a bool", err);
    *out = k->data[0] != 0;
    return KVANT_OK;
}

kvant_status kv_gguf_get_str(const struct kv_gguf *g, const char *key, struct kv_str *out, bool *found,
                             struct kvant_error *err)
{
    const struct kv_gguf_key *k = kv_gguf_key_find(g, key);
    *found = k != NULL;
    if (!k) return KVANT_OK;
    if (k->is_array || k->type != KV_GGUF_STRING) return fail_type(g, k, key, "a string", err);
    *out = k->strings[0];
    return KVANT_OK;
}

kvant_status kv_gguf_get_array(const struct kv_gguf *g, const char *key, enum kv_gguf_type type,
                               struct kv_gguf_array *out, bool *found, struct kvant_error *err)
{
    const struct kv_gguf_key *k = kv_gguf_key_find(g, key);
    *found = k != NULL;
    if (!k) return KVANT_OK;
    bool fits = k->type == type || (is_integer(k->type) && is_integer(type)) ||
                (is_float(k->type) && is_float(type));
    if (!k->is_array || !fits) {
        char wanted[40];
        snprintf(wanted, sizeof wanted, "an array of %s", kv_gguf_type_name(type));
        return fail_type(g, k, key, wanted, err);
    }
    *out = (struct kv_gguf_array){ k->type, k->n, k->data, k->strings };
    return KVANT_OK;
}

int64_t kv_gguf_array_i64(const struct kv_gguf_array *a, uint64_t i)
{
    if (!is_float(a->type)) return element_i64(a->type, a->data, i);
    double value = element_f64(a->type, a->data, i);
    return value >= -0x1p63 && value < 0x1p63 ? (int64_t)value : 0; /* NaN fails both */
}

double kv_gguf_array_f64(const struct kv_gguf_array *a, uint64_t i)
{
    return element_f64(a->type, a->data, i);
}
