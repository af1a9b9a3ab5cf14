/*
 * Float32 arrays as NumPy files (format 1.0): a matrix whose number of rows is not known before its end, and
 * whole arrays.
 */
#ifndef NPY_H
#define NPY_H

#include "program.h"

struct npy_file {
    struct output_file out;
    int64_t n_rows;
    int n_columns;
};

/* All print what fails and return false. The file appears under its name with npy_commit only. */
bool npy_open(struct npy_file *npy, const char *path);
bool npy_append(struct npy_file *npy, const float *rows, int n_rows, int n_columns);
bool npy_commit(struct npy_file *npy);
void npy_discard(struct npy_file *npy);

/* A whole array of up to 8 dimensions at once; npy is scratch. */
bool npy_write(struct npy_file *npy, const char *path, const float *values, const int64_t *shape, int n_dims);

#endif
