/*
 * The oracle's own file reading: a GGUF file as tensors and numbers, rows of any of its types as floats.
 * Shared by the two files of the oracle only.
 */
#ifndef ORACLE_FILE_H
#define ORACLE_FILE_H

#include "oracle/oracle.h"

struct text {
    const char *data;
    size_t n;
};

struct entry { /* one metadata key */
    struct text key;
    uint32_t type;
    const uint8_t *value;
};

struct tensor {
    struct text name;
    uint32_t type;
    int64_t dims[4];
    const uint8_t *data;
    size_t row_bytes;
};

struct layer {
    const struct tensor *attn_norm, *q, *k, *v, *q_bias, *k_bias, *v_bias, *q_norm, *k_norm, *out;
    const struct tensor *ffn_norm, *gate, *up, *down;
};

struct oracle {
    const uint8_t *file;
    size_t n_bytes;
    struct entry *entries;
    struct tensor *tensors;
    uint64_t n_entries, n_tensors;
    char arch[32];

    struct oracle_dims dims;
    int n_rot;
    bool interleaved;   /* rotary pairs (2i, 2i+1), else (i, i + n_rot/2) */
    double epsilon;
    double *inv_freq;   /* (n_rot / 2) */
    struct layer *layers;
    const struct tensor *embedding, *output_norm, *output;
};

/* Zeroed memory for n elements; never NULL. */
void *oracle_take(size_t n, size_t size);
/* Row `row` of a tensor in float32: (dims[0]). */
void oracle_read_row(const struct tensor *t, int64_t row, float *y);

#endif
