/*
 * Weight types: one descriptor row each. The only switch over types is the row's code_format / float_format.
 */
#ifndef KV_FORMAT_WEIGHT_TYPE_H
#define KV_FORMAT_WEIGHT_TYPE_H

#include "kernels/kernels.h"

struct kv_weight_type {
    uint32_t id;          /* ggml type number in the file                    */
    const char *name;     /* "Q4_K"                                          */
    int block;            /* elements per block                              */
    int block_bytes;
    int code_format;      /* enum kv_code_format, or -1                      */
    int float_format;     /* enum kv_float_format, or -1                     */
};

/* NULL for a type that this build cannot read. */
const struct kv_weight_type *kv_weight_type_find(uint32_t id);
/* Name of any known ggml type id, also of those we cannot read ("IQ2_XXS"), for messages; NULL for unknown
 * ones. */
const char *kv_weight_type_any_name(uint32_t id);
int kv_weight_type_count(void);
const struct kv_weight_type *kv_weight_type_at(int i);

/* One row of k elements to float32. scratch: 1.5 k bytes (kv_matmul_scratch_bytes(k) are enough), aligned to
 * 4; NULL for a float type. */
void kv_weight_row_to_f32(const struct kv_kernels *table, const struct kv_weight_type *type,
                          const uint8_t *row, int64_t k, float *out, void *scratch);

#endif
