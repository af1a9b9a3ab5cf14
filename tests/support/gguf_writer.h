/*
 * Writes GGUF files byte by byte, for tests: right ones, and ones that are wrong in exactly one place.
 *
 *     | magic | version | n_tensors | n_keys | keys ... | tensor directory ... | padding | tensor data ... |
 *
 * Every header field is recorded with its name and place, so that a test can walk the list and damage each of
 * them. Keys first, then tensors (the writer checks it), then gguf_writer_finish. A failed allocation is
 * remembered and reported by finish; no call in between needs a check.
 */
#ifndef TESTS_SUPPORT_GGUF_WRITER_H
#define TESTS_SUPPORT_GGUF_WRITER_H

#include "format/gguf.h"

/* One field of the header. Names:
 *     magic, version, n_tensors, n_keys
 *     KEY/length, KEY/name, KEY/type, KEY/value         scalars; for strings: KEY/value_length, KEY/value
 *     KEY/element_type, KEY/count, KEY/value            arrays; of strings: KEY/value_length of the first
 *     TENSOR/length, TENSOR/name, TENSOR/n_dims, TENSOR/dims, TENSOR/type, TENSOR/offset */
struct gguf_field {
    char name[96];
    size_t offset, n_bytes;
};

struct gguf_tensor_data {
    size_t offset, n_bytes; /* in the data section */
    void *bytes;            /* owned               */
};

struct gguf_writer {
    uint8_t *data; /* the file, aligned to 64; grows */
    size_t n_bytes, cap;
    struct gguf_field *fields;
    size_t n_fields, fields_cap;
    struct gguf_tensor_data *tensors;
    size_t n_tensors, tensors_cap;
    uint64_t n_keys;
    uint32_t alignment;
    size_t data_offset;  /* of the data section, after finish  */
    size_t data_bytes;   /* of the data section so far         */
    bool failed;         /* no memory, or calls in wrong order */
};

/* version: 2 or 3. alignment: of tensor data; written as general.alignment unless 32 (the default of the
 * format) or 0. */
void gguf_writer_begin(struct gguf_writer *w, uint32_t version, uint32_t alignment);
void gguf_writer_free(struct gguf_writer *w);

void gguf_put_u8(struct gguf_writer *w, const char *key, uint8_t value);
void gguf_put_i8(struct gguf_writer *w, const char *key, int8_t value);
void gguf_put_u16(struct gguf_writer *w, const char *key, uint16_t value);
void gguf_put_i16(struct gguf_writer *w, const char *key, int16_t value);
void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t value);
void gguf_put_i32(struct gguf_writer *w, const char *key, int32_t value);
void gguf_put_u64(struct gguf_writer *w, const char *key, uint64_t value);
void gguf_put_i64(struct gguf_writer *w, const char *key, int64_t value);
void gguf_put_f32(struct gguf_writer *w, const char *key, float value);
void gguf_put_f64(struct gguf_writer *w, const char *key, double value);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool value);
void gguf_put_str(struct gguf_writer *w, const char *key, const char *value);
/* n packed elements of a scalar type. */
void gguf_put_array(struct gguf_writer *w, const char *key, enum kv_gguf_type type, const void *elements,
                    uint64_t n);
void gguf_put_strings(struct gguf_writer *w, const char *key, const char *const *strings, uint64_t n);
/* A value written raw: `type` then the bytes. For nested arrays and broken values. */
void gguf_put_raw(struct gguf_writer *w, const char *key, uint32_t type, const void *bytes, size_t n_bytes);

/* A tensor: dims[0] is the contiguous dimension. bytes are copied; they need not fit the dims. The data
 * section keeps each tensor aligned. */
void gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t type, int n_dims, const int64_t *dims,
                     const void *bytes, size_t n_bytes);

/* Fills in the counts, pads and appends the tensor data; a second call does nothing. Afterwards `data`,
 * `n_bytes` and `fields` are the result, owned by the writer until gguf_writer_free. Errors: MEMORY. */
kvant_status gguf_writer_finish(struct gguf_writer *w, struct kvant_error *err);

/* NULL when the file has no such field. */
const struct gguf_field *gguf_writer_field(const struct gguf_writer *w, const char *name);
/* Writes `n_bytes` (1, 2, 4 or 8) of `value` at a place, little-endian. */
void gguf_poke(uint8_t *data, size_t offset, uint64_t value, size_t n_bytes);

#endif
