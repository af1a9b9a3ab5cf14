#include "npy.h"

#include <errno.h>
#include <string.h>

/* Magic, version and length take 10 bytes; data must begin at a multiple of 64. 128 leaves room for any two
 * sizes, so that the header can be written again when the number of rows is known. */
#define HEADER_BYTES 128

static bool header_of(struct npy_file *npy, const int64_t *shape, int n_dims)
{
    char header[HEADER_BYTES], text[HEADER_BYTES];
    const unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, HEADER_BYTES - 10, 0};
    int n = snprintf(text, sizeof text, "{'descr': '<f4', 'fortran_order': False, 'shape': (");
    for (int i = 0; i < n_dims && n < (int)sizeof text; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%lld%s", (long long)shape[i],
                      i + 1 < n_dims ? ", "
                      : n_dims == 1  ? ",), }"
                                     : "), }");
    if (n > HEADER_BYTES - 11) return false; /* more digits than any array that fits memory */
    memset(header, ' ', sizeof header);
    memcpy(header, start, sizeof start);
    memcpy(header + sizeof start, text, (size_t)n);
    header[HEADER_BYTES - 1] = '\n';
    return fwrite(header, 1, sizeof header, npy->out.stream) == sizeof header;
}

static bool header_write(struct npy_file *npy)
{
    return header_of(npy, (const int64_t[]){npy->n_rows, npy->n_columns}, 2);
}

static bool write_failed(const struct npy_file *npy)
{
    fail_text("%s: %s; nothing is kept", npy->out.path, strerror(errno));
    return false;
}

bool npy_open(struct npy_file *npy, const char *path)
{
    *npy = (struct npy_file){0};
    if (!output_open(&npy->out, path)) return false;
    return header_write(npy) || write_failed(npy);
}

bool npy_append(struct npy_file *npy, const float *rows, int n_rows, int n_columns)
{
    size_t n = (size_t)n_rows * (size_t)n_columns;
    npy->n_columns = n_columns;
    npy->n_rows += n_rows;
    return fwrite(rows, sizeof *rows, n, npy->out.stream) == n || write_failed(npy);
}

bool npy_commit(struct npy_file *npy)
{
    if (fseek(npy->out.stream, 0, SEEK_SET) != 0 || !header_write(npy)) return write_failed(npy);
    return output_commit(&npy->out);
}

void npy_discard(struct npy_file *npy)
{
    output_discard(&npy->out);
}

bool npy_write(struct npy_file *npy, const char *path, const float *values, const int64_t *shape, int n_dims)
{
    size_t n = 1;
    *npy = (struct npy_file){0};
    for (int i = 0; i < n_dims; i++) n *= (size_t)shape[i];
    if (!output_open(&npy->out, path)) return false;
    bool ok = header_of(npy, shape, n_dims) && fwrite(values, sizeof *values, n, npy->out.stream) == n;
    if (ok && output_commit(&npy->out)) return true;
    if (!ok) write_failed(npy);
    output_discard(&npy->out);
    return false;
}
