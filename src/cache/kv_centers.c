/* R_i μ for the 64 positions inside a page: what a page's keys have in common once its own start is turned
 * away. */
#include "base/half.h"
#include "base/memory.h"
#include "cache/kv_codec.h"

static size_t n_heads(const struct kvant_plan *plan)
{
    return (size_t)plan->n_layer * (size_t)plan->n_head_kv;
}

static size_t n_centered(const struct kvant_plan *plan)
{
    size_t n = 0;
    for (size_t i = 0; i < n_heads(plan); i++) n += plan->recipe[i].key_centered;
    return n;
}

/* One block: the table of pointers, then the tiles. Returns its size; base NULL measures. */
static size_t carve_centers(void *base, const struct kvant_plan *plan, const float ***table, float **tiles)
{
    struct kv_carve c = { base, 0, false };
    size_t n = n_centered(plan);
    *table = kv_carve(&c, n ? n_heads(plan) : 0, sizeof **table);
    *tiles = kv_carve(&c, n, (size_t)plan->head_dim * KV_PAGE_TOKENS * sizeof **tiles);
    return c.used;
}

size_t kv_centers_bytes(const struct kvant_plan *plan)
{
    const float **table;
    float *tiles;
    return carve_centers(NULL, plan, &table, &tiles);
}

kvant_status kv_centers_open(struct kv_centers *out, const struct kvant_plan *plan,
                             const struct kv_rope *rope, struct kvant_error *err)
{
    *out = (struct kv_centers){ NULL };
    size_t bytes = kv_centers_bytes(plan);
    if (bytes == 0) return KVANT_OK;
    if (!plan->center)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "plan: centred keys without their means; calibrate the plan first");
    if (rope->head_dim != plan->head_dim || rope->n_rot < 0 || rope->n_rot > rope->head_dim ||
        rope->n_rot % 2) {
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "rope: %d of %d channels turn, but the plan's head size is %d",
                rope->n_rot, rope->head_dim, plan->head_dim);
    }
    void *block = kv_alloc(1, bytes);
    if (!block) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "key centres: no memory for %zu bytes", bytes);
    float *tiles;
    carve_centers(block, plan, &out->tile, &tiles);

    size_t head_dim = (size_t)plan->head_dim, tile_floats = head_dim * KV_PAGE_TOKENS;
    for (int i = 0; i < KV_PAGE_TOKENS; i++) {
        float cos_i[KV_HEAD_DIM_MAX / 2], sin_i[KV_HEAD_DIM_MAX / 2], mean[KV_HEAD_DIM_MAX];
        kv_rope_angles(rope, i, cos_i, sin_i);
        float *tile = tiles;
        for (size_t h = 0; h < n_heads(plan); h++) {
            if (!plan->recipe[h].key_centered) continue;
            for (size_t c = 0; c < head_dim; c++) mean[c] = kv_f16_to_f32(plan->center[h * head_dim + c]);
            kv_rope_apply(rope, cos_i, sin_i, mean, 1);
            for (size_t c = 0; c < head_dim; c++) tile[c * KV_PAGE_TOKENS + (size_t)i] = mean[c];
            out->tile[h] = tile;
            tile += tile_floats;
        }
    }
    return KVANT_OK;
}

void kv_centers_close(struct kv_centers *c)
{
    kv_free((void *)c->tile); /* one block with the tiles */
    c->tile = NULL;
}
