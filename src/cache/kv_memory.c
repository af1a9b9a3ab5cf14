/* The account: what a plan costs in memory, by the functions that the allocator itself measures with. */
#include "base/memory.h"
#include "cache/kv_sequence.h"

static size_t saturated_sum(size_t a, size_t b)
{
    size_t sum;
    return kv_add_size(a, b, &sum) ? sum : SIZE_MAX;
}

static size_t saturated_product(size_t a, size_t b)
{
    size_t product;
    return kv_mul_size(a, b, &product) ? product : SIZE_MAX;
}

/* Once per plan, however many sequences: means and channel orders of the plan, and what is made from them. */
static size_t tables_bytes(const struct kvant_plan *plan)
{
    size_t n_heads = (size_t)plan->n_layer * (size_t)plan->n_head_kv;
    bool centered = plan->center != NULL, mixed = plan->channels != NULL;
    for (size_t i = 0; i < n_heads; i++) {
        centered |= plan->recipe[i].key_centered;
        mixed |= plan->recipe[i].key_mixed;
    }
    size_t bytes = sizeof(struct kv_plan_cache) + kv_layout_table_bytes(plan) + kv_centers_bytes(plan);
    if (centered) bytes += n_heads * (size_t)plan->head_dim * sizeof *plan->center;
    if (mixed) bytes += n_heads * sizeof *plan->channels;
    return bytes;
}

void kv_plan_memory(const struct kvant_plan *plan, int64_t n_tokens, struct kvant_plan_memory *out)
{
    if (n_tokens < 0) n_tokens = 0;
    size_t n_pages = kv_seq_page_count(plan, n_tokens);
    double elements_per_token = 2.0 * plan->n_layer * plan->n_head_kv * plan->head_dim;
    *out = (struct kvant_plan_memory){ 0 };
    out->page_bytes = kv_layout_page_bytes(plan);
    out->pages_bytes = saturated_product(n_pages, out->page_bytes);
    out->exact_bytes = saturated_sum(kv_seq_block_bytes(plan, n_tokens), kv_page_table_bytes(n_pages));
    out->total_bytes = saturated_sum(out->pages_bytes, out->exact_bytes);
    out->tables_bytes = tables_bytes(plan);
    out->page_bits = 8.0 * (double)kv_layout_payload_bytes(plan) / (elements_per_token * KV_PAGE_TOKENS);
    out->code_bits = kv_layout_code_bits(plan);
    out->bytes_per_token = (double)out->page_bytes / KV_PAGE_TOKENS;
    if (n_tokens > 0) {
        double bytes = (double)out->total_bytes + (double)out->tables_bytes;
        out->true_bits = 8.0 * bytes / (elements_per_token * (double)n_tokens);
    }
}

void kvant_plan_get_memory(const struct kvant_plan *plan, int64_t n_tokens, struct kvant_plan_memory *out)
{
    kv_plan_memory(plan, n_tokens, out);
}
