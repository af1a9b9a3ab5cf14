/*
 * What gguf.c (opening) and gguf_meta.c (typed values) share. Nobody else includes this.
 */
#ifndef KV_FORMAT_GGUF_INTERNAL_H
#define KV_FORMAT_GGUF_INTERNAL_H

#include "format/gguf.h"

/* One metadata entry: a scalar (n = 1), a string, or an array of n elements. */
struct kv_gguf_key {
    struct kv_str name;
    enum kv_gguf_type type;      /* of the value; of the elements when is_array                      */
    bool is_array;
    uint64_t n;                  /* elements                                                        */
    const uint8_t *data;         /* the value's (first element's) bytes inside the file               */
    struct kv_str *strings;      /* type STRING: (n), owned                                          */
    size_t offset;               /* of the value in the file, for messages                           */
};

/* Names to positions: open addressing over a power of two of slots, at most half full. */
struct kv_gguf_index {
    struct kv_gguf_slot *slots;
    uint32_t mask;
};

struct kv_gguf {
    struct kv_file_map map;      /* empty when the bytes belong to the caller                        */
    const uint8_t *data;
    size_t n_bytes;
    char *path;
    struct kv_gguf_key *keys;    /* (n_keys)                                                         */
    uint64_t n_keys;
    struct kv_gguf_tensor *tensors; /* (n_tensors), in the file's order                              */
    uint64_t n_tensors;
    struct kv_gguf_index key_index, tensor_index;
    size_t header_bytes;         /* magic to the end of the tensor directory                         */
    size_t data_offset;          /* of the tensor data: header_bytes rounded up to the alignment       */
    uint64_t alignment;
};

const struct kv_gguf_key *kv_gguf_key_find(const struct kv_gguf *g, const char *key);

#endif
