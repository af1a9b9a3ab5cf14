/*
 * Where everything of a cache lies, and therefore how large it is: the one place that knows.
 *
 *   sequence:  | sinks, exact | page 0 | page 1 | ... | page n-1 (may be half sealed) | tail, exact |
 *   page:      64 tokens of all layers: [layer 0: K head 0, V head 0, K head 1, ...][layer 1: ...]...
 *   group:     up to 4 pages, head by head: what attention reads of one head and 256 tokens is one stretch of
 *              memory, into which the hardware reads ahead by itself
 *
 *              | layer 0 head 0: page 0, page 1, 2, 3 | layer 0 head 1: page 0, ... | ...
 *
 *              Rejected: page after page. A head's part of a page is 2 to 32 KB, and at the start of each the
 *              hardware begins anew: f16 takes 1.2 to 1.4 times as long, 8 bits 1.2 to 1.3, fewer bits the
 *              same (AVX-512, 32768 tokens, 8 KV heads of 128). Groups of 2 gain a third of that, groups of
 *              16 nothing: their heads begin at multiples of 512 KB, where both threads wait for one bank.
 *   K of one (layer, KV head):  codes | scales | minima
 *        codes of 2, 3, 4 and 8 bits in units of 8 channels and 64 tokens (kernels/code_layout.h draws them)
 *        16 bits: f16 (head_dim, 64), no scales
 *        mixed:   channels in stored order, class after class (8 4 3 2 0 bits)
 *        scales, minima: f16; per channel (64 / group, head_dim) in stored order; per token (64)
 *        short (s): a byte each, the second of them the group's centre (kv_short.h)
 *   V of one (layer, KV head):  codes | scales | minima
 *        codes in columns of 16 channels and 64 tokens (kernels/code_layout.h); 16 bits: f16 (64, head_dim)
 *        scales, minima: f16 (head_dim / group, 64)
 *   codes, scales and minima of each side start at multiples of 64 bytes
 *
 * Sealing: of n tokens, the query's own included, the first `sinks` are exact, the next
 * kv_sealed_tokens(plan, n) are read from pages, the rest is exact. It depends on n alone, so any split of a
 * text into batches gives the same cache and the same reads. With a tail of 0 and a granule of 1 (the
 * per-token setting of the paper) every token is read from its codes, a query's own too: each row is
 * quantized when it is appended.
 */
#ifndef KV_CACHE_KV_LAYOUT_H
#define KV_CACHE_KV_LAYOUT_H

#include "cache/plan.h"

#define KV_PAGE_TOKENS 64

/* Page `slot` of a group of n_slots. A page alone is a group of one, with everything at its offset. */
struct kv_page {
    uint8_t *group;
    uint32_t slot, n_slots;
};
#define KV_GROUP_PAGES 4

struct kv_side_layout { /* keys or values of one (layer, KV head), byte offsets in a page alone */
    size_t codes, scale, min;
};
struct kv_head_layout { /* both */
    size_t first, n_bytes;
};
struct kv_layout {
    int n_layer, n_head_kv, head_dim;
    size_t page_bytes;              /* multiple of 64       */
    struct kv_side_layout *key;     /* (n_layer, n_head_kv) */
    struct kv_side_layout *value;   /* (n_layer, n_head_kv) */
    struct kv_head_layout *head;    /* (n_layer, n_head_kv) */
};

/* From where the offsets of (layer, KV head) i count in this page. */
static inline uint8_t *kv_page_base(const struct kv_layout *l, struct kv_page p, size_t i)
{
    return p.group + l->head[i].first * (p.n_slots - 1) + l->head[i].n_bytes * p.slot;
}
/* Errors: UNSUPPORTED (head size), ARGUMENT (a recipe or table that does not fit, with layer and head),
 * MEMORY. */
kvant_status kv_layout_open(struct kv_layout *out, const struct kvant_plan *plan, struct kvant_error *err);
void kv_layout_close(struct kv_layout *layout);

/* Sizes without a layout, for plans that kv_layout_open accepts (mixed keys without their tables count by
 * their average). */
size_t kv_layout_page_bytes(const struct kvant_plan *plan);
size_t kv_layout_payload_bytes(const struct kvant_plan *plan); /* codes, scales and minima of a page, no
                                                                * alignment */
size_t kv_layout_table_bytes(const struct kvant_plan *plan);   /* what kv_layout_open takes */
double kv_layout_code_bits(const struct kvant_plan *plan);     /* mean over keys and values */

/* Tokens read from pages once n tokens have been appended, by the query of the last of them: the largest
 * multiple of granule that leaves at least `tail` of the n - sinks others exact; 0 if there is none. */
int64_t kv_sealed_tokens(const struct kvant_plan *plan, int64_t n_tokens);
/* Most tokens that the tail can hold: tail + granule - 1. */
int kv_tail_cap(const struct kvant_plan *plan);

/* As kvant_plan_get_memory; the same arithmetic as the allocator's (kv_memory.c). Uncalibrated mixed plans
 * are counted by their average. Sizes that do not fit saturate at SIZE_MAX. */
void kv_plan_memory(const struct kvant_plan *plan, int64_t n_tokens, struct kvant_plan_memory *out);

#endif
