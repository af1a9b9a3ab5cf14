/*
 * A set of genomes, in the order in which they came: rows of small integers, each row once, found by hashing.
 * The capacity is fixed when it is opened, so that adding cannot fail in the middle of a search.
 */
#ifndef KV_TUNE_GENOMES_H
#define KV_TUNE_GENOMES_H

#include "base/error.h"

struct kv_genomes {
    int n_genes, n, cap;
    uint8_t *gene; /* (cap, n_genes), n of them used */
    int *slot;     /* (n_slots) index + 1, or 0; open addressing, at most half full */
    int n_slots;   /* a power of two */
};

/* Errors: MEMORY. */
kvant_status kv_genomes_open(struct kv_genomes *out, int n_genes, int cap, struct kvant_error *err);
void kv_genomes_close(struct kv_genomes *g);
/* Index, or -1. genome: (n_genes). */
int kv_genomes_find(const struct kv_genomes *g, const uint8_t *genome);
/* Index of the new row, or -1 if it is there already or there is no room. */
int kv_genomes_add(struct kv_genomes *g, const uint8_t *genome);

static inline const uint8_t *kv_genomes_at(const struct kv_genomes *g, int i)
{
    return g->gene + (size_t)i * (size_t)g->n_genes;
}

#endif
