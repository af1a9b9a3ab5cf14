/*
 * GGUF v2 and v3 by mmap: metadata and tensor directory. Every offset, size and count is checked before use;
 * nothing is trusted. Strings are byte ranges inside the map, without a terminator.
 */
#ifndef KV_FORMAT_GGUF_H
#define KV_FORMAT_GGUF_H

#include "base/os.h"
#include "format/weight_type.h"

enum kv_gguf_type {
    KV_GGUF_U8, KV_GGUF_I8, KV_GGUF_U16, KV_GGUF_I16, KV_GGUF_U32, KV_GGUF_I32, KV_GGUF_F32, KV_GGUF_BOOL,
    KV_GGUF_STRING, KV_GGUF_ARRAY, KV_GGUF_U64, KV_GGUF_I64, KV_GGUF_F64, KV_GGUF_TYPE_COUNT
};

struct kv_str {
    const char *data; /* not terminated */
    size_t n_bytes;
};

struct kv_gguf_tensor {
    struct kv_str name;
    const struct kv_weight_type *type;
    int n_dims;            /* 1 .. 4                                                        */
    int64_t dims[4];       /* (dims[3], dims[2], dims[1], dims[0]): dims[0] is contiguous; 1 beyond n_dims */
    const uint8_t *data;   /* inside the map, checked                                       */
    size_t n_bytes, row_bytes;
    uint64_t directory_offset; /* where its entry stands in the file, for messages          */
};

struct kv_gguf; /* opened file: owns the map and the indexes */

/* path: to map. Errors: IO, FORMAT (with position), UNSUPPORTED (version, big-endian, tensor type named),
 * MEMORY. Refused besides damage: duplicate names, control characters in names, overlapping tensors, more
 * than 65536 keys or tensors, arrays more than 4 deep. Messages begin "PATH: byte N: ". */
kvant_status kv_gguf_open(struct kv_gguf **out, const char *path, struct kvant_error *err);
/* The same over bytes that the caller keeps alive and aligned to 8 (tests, fuzzing). `name` is used in
 * messages. */
kvant_status kv_gguf_open_memory(struct kv_gguf **out, const uint8_t *data, size_t n_bytes, const char *name,
                                 struct kvant_error *err);
void kv_gguf_close(struct kv_gguf *g);

const char *kv_gguf_path(const struct kv_gguf *g);
size_t kv_gguf_file_bytes(const struct kv_gguf *g);
/* The bytes before the tensor data (header, metadata, directory): what a fingerprint covers. */
size_t kv_gguf_header_bytes(const struct kv_gguf *g, const uint8_t **data);

/* The pages of a tensor that is not read for long, back to the system; nothing where the bytes are the
 * caller's. */
void kv_gguf_tensor_release(const struct kv_gguf *g, const struct kv_gguf_tensor *t);

int64_t kv_gguf_n_tensors(const struct kv_gguf *g);
const struct kv_gguf_tensor *kv_gguf_tensor_at(const struct kv_gguf *g, int64_t i);
/* By name through a hash index; NULL when absent. */
const struct kv_gguf_tensor *kv_gguf_tensor_find(const struct kv_gguf *g, const char *name);

/* Metadata. An absent key is not an error: *found is false and *out is left alone. A key of the wrong type,
 * or a value outside [min, max], is FORMAT and names key, type and value. All integer types convert when the
 * value fits. */
bool kv_gguf_has(const struct kv_gguf *g, const char *key);
kvant_status kv_gguf_get_i64(const struct kv_gguf *g, const char *key, int64_t min, int64_t max, int64_t *out,
                             bool *found, struct kvant_error *err);
/* Any number, finite. */
kvant_status kv_gguf_get_f64(const struct kv_gguf *g, const char *key, double *out, bool *found,
                             struct kvant_error *err);
kvant_status kv_gguf_get_bool(const struct kv_gguf *g, const char *key, bool *out, bool *found,
                              struct kvant_error *err);
kvant_status kv_gguf_get_str(const struct kv_gguf *g, const char *key, struct kv_str *out, bool *found,
                             struct kvant_error *err);

/* An array value. Elements are read with the functions below. Asked for an integer (float) type, an array of
 * any integer (float) type is given and `type` says which: converters disagree about the width. Other types
 * must be equal. */
struct kv_gguf_array {
    enum kv_gguf_type type;
    uint64_t n;
    const uint8_t *data;           /* scalars: n packed little-endian elements, possibly unaligned       */
    const struct kv_str *strings;  /* type STRING: (n), owned by the gguf                               */
};
kvant_status kv_gguf_get_array(const struct kv_gguf *g, const char *key, enum kv_gguf_type type,
                               struct kv_gguf_array *out, bool *found, struct kvant_error *err);
/* Element i < n of an integer, bool or float array. As i64: floats are cut to integers, 0 where they do not
 * fit; u64 above INT64_MAX are given as their bits. */
int64_t kv_gguf_array_i64(const struct kv_gguf_array *a, uint64_t i);
double kv_gguf_array_f64(const struct kv_gguf_array *a, uint64_t i);
/* The type of the value (or of the array's elements, with *is_array); false when absent. */
bool kv_gguf_key_type(const struct kv_gguf *g, const char *key, enum kv_gguf_type *type, bool *is_array);
const char *kv_gguf_type_name(enum kv_gguf_type type);

#endif
