/*
 * Matrices of a model in the order that the kernels read fastest: turned weights (kernels.h), one block of
 * memory for all. The bytes are those of the file in another order, so results are the same to the bit.
 */
#ifndef KV_MODEL_REPACK_H
#define KV_MODEL_REPACK_H

#include "format/gguf.h"

struct kvant_model;

struct kv_repacked {
    uint8_t *memory;        /* NULL: not repacked                                          */
    const uint8_t **matrix; /* (number of tensors in the file), NULL where one is not in it */
    size_t n_bytes;         /* of memory, or what it would take                            */
};

/* What kv_repack would allocate for the matrices; 0 when there is nothing to do: the model computes in
 * float32, or its kernels read the file's order. */
size_t kv_repack_bytes(const struct kvant_model *m);
/* Of tensors that are read from the file beside those, the embedding among them. */
size_t kv_repack_mapped_bytes(const struct kvant_model *m);
/* Fills m->repacked, with a pool of the model's threads that ends with the call, and gives the map's pages
 * back. The tensors by role are bound. Error: MEMORY. */
kvant_status kv_repack(struct kvant_model *m, struct kvant_error *err);
void kv_repacked_close(struct kv_repacked *r);

/* The panels of a tensor of g, or NULL. */
const uint8_t *kv_repacked_find(const struct kv_repacked *r, const struct kv_gguf *g,
                                const struct kv_gguf_tensor *t);

#endif
