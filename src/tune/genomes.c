#include "tune/genomes.h"

#include <string.h>

#include "base/memory.h"

kvant_status kv_genomes_open(struct kv_genomes *g, int n_genes, int cap, struct kvant_error *err)
{
    *g = (struct kv_genomes){ .n_genes = n_genes, .cap = cap, .n_slots = 2 };
    while (g->n_slots < 2 * cap) g->n_slots *= 2;
    g->gene = kv_alloc((size_t)cap, (size_t)n_genes);
    g->slot = kv_alloc((size_t)g->n_slots, sizeof *g->slot);
    if (g->gene && g->slot) return KVANT_OK;
    kv_genomes_close(g);
    KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %d trials of %d genes", cap, n_genes);
}

void kv_genomes_close(struct kv_genomes *g)
{
    kv_free(g->gene);
    kv_free(g->slot);
    *g = (struct kv_genomes){ 0 };
}

/* The slot that holds the genome, or the empty one where it would go. FNV-1a. */
static int *slot_of(const struct kv_genomes *g, const uint8_t *genome)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int i = 0; i < g->n_genes; i++) h = (h ^ genome[i]) * 0x100000001b3u;
    for (uint64_t at = h ^ h >> 32;; at++) {
        int *slot = &g->slot[at & (uint64_t)(g->n_slots - 1)];
        if (!*slot || !memcmp(kv_genomes_at(g, *slot - 1), genome, (size_t)g->n_genes)) return slot;
    }
}

int kv_genomes_find(const struct kv_genomes *g, const uint8_t *genome)
{
    return *slot_of(g, genome) - 1;
}

int kv_genomes_add(struct kv_genomes *g, const uint8_t *genome)
{
    int *slot = slot_of(g, genome);
    if (*slot || g->n == g->cap) return -1;
    memcpy(g->gene + (size_t)g->n * (size_t)g->n_genes, genome, (size_t)g->n_genes);
    *slot = ++g->n;
    return g->n - 1;
}
