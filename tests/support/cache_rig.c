#include "support/cache_rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/memory.h"

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u; /* splitmix64 */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

float rig_noise(uint64_t *state)
{
    *state = mix(*state);
    return (float)(int32_t)(*state >> 32) * 0x1p-31f;
}

static void make_centers(struct kvant_plan *plan)
{
    size_t n = (size_t)plan->n_layer * (size_t)plan->n_head_kv * (size_t)plan->head_dim;
    uint64_t state = 7;
    plan->center = kv_alloc(n, sizeof *plan->center);
    for (size_t i = 0; i < n; i++)
        plan->center[i] = kv_f32_to_f16(rig_noise(&state) * (i % 13 == 0 ? 100.0f : 2.0f));
}

/* A random permutation per head; its units of 8 channels go to the classes in turn. */
static void make_channels(struct kvant_plan *plan)
{
    size_t n_heads = (size_t)plan->n_layer * (size_t)plan->n_head_kv;
    uint64_t state = 11;
    plan->channels = kv_alloc(n_heads, sizeof *plan->channels);
    for (size_t h = 0; h < n_heads; h++) {
        struct kv_channels *ch = &plan->channels[h];
        for (int i = 0; i < plan->head_dim; i++) ch->order[i] = (uint8_t)i;
        for (int i = plan->head_dim - 1; i > 0; i--) {
            int j = (int)(mix(state++) % (uint64_t)(i + 1));
            uint8_t t = ch->order[i];
            ch->order[i] = ch->order[j];
            ch->order[j] = t;
        }
        for (int u = 0; u < plan->head_dim / 8; u++)
            ch->count[(u + (int)h) % KV_N_CLASSES] = (uint16_t)(ch->count[(u + (int)h) % KV_N_CLASSES] + 8);
    }
}

void rig_open(struct cache_rig *rig, const char *recipes, int n_layer, int n_head_kv, int head_dim, int sinks,
              int tail)
{
    memset(rig, 0, sizeof *rig);
    kv_kernels_select(&rig->kernels, KV_CPU_SCALAR);
    for (int i = 0; i < head_dim / 2; i++) rig->inv_freq[i] = (float)pow(10000.0, -2.0 * i / head_dim);
    rig->rope = (struct kv_rope){ head_dim, head_dim, true, rig->inv_freq };

    struct kv_recipe list[16];
    int n = 0;
    for (const char *at = recipes; *at && n < 16; n++) {
        size_t length = strcspn(at, ",");
        if (kv_recipe_parse(&list[n], at, length, NULL) != KVANT_OK) abort();
        at += length + (at[length] == ',');
    }
    struct kv_plan_dims dims = { "rig", "llama", "sha256:0", n_layer, n_head_kv, head_dim };
    if (kv_plan_uniform(&rig->plan, &dims, &list[0], sinks, tail, NULL) != KVANT_OK) abort();
    bool centered = false, mixed = false;
    for (int i = 0; i < n_layer * n_head_kv; i++) {
        rig->plan->recipe[i] = list[i % n];
        centered |= list[i % n].key_centered;
        mixed |= list[i % n].key_mixed;
    }
    kv_plan_settle(rig->plan);
    if (centered) make_centers(rig->plan);
    if (mixed) make_channels(rig->plan);
}

void rig_close(struct cache_rig *rig)
{
    kvant_plan_close(rig->plan);
    rig->plan = NULL;
}

void rig_row(const struct cache_rig *rig, int salt, int layer, int head_kv, int side, int64_t position,
             uint16_t *row)
{
    uint64_t state = mix((uint64_t)position * 2 + (uint64_t)side) ^
                     mix((uint64_t)(salt * 65536 + layer * 256 + head_kv) + 1000000);
    for (int c = 0; c < rig->plan->head_dim; c++) {
        float x = rig_noise(&state) * (c % 11 == 3 ? 30.0f : 1.5f) + (c % 7 == 2 ? 5.0f : 0.0f);
        row[c] = kv_f32_to_f16(x);
    }
}

kvant_status rig_append(const struct cache_rig *rig, struct kv_seq *seq, int salt, int64_t n,
                        struct kvant_error *err)
{
    const struct kvant_plan *plan = rig->plan;
    int64_t before = kv_seq_n_tokens(seq), stride = (int64_t)plan->n_head_kv * plan->head_dim;
    KV_TRY(kv_seq_begin(seq, n, err));
    uint16_t *k = malloc((size_t)(n * stride + 1) * sizeof *k),
             *v = malloc((size_t)(n * stride + 1) * sizeof *v);
    void *scratch = malloc(kv_seq_scratch_bytes(plan->head_dim) + KV_ALIGN);
    void *aligned = (char *)scratch + (KV_ALIGN - (uintptr_t)scratch % KV_ALIGN);
    if (!k || !v || !scratch) abort();
    kvant_status status = KVANT_OK;
    for (int layer = 0; layer < plan->n_layer && status == KVANT_OK; layer++) {
        for (int h = 0; h < plan->n_head_kv; h++) {
            for (int64_t i = 0; i < n; i++) {
                rig_row(rig, salt, layer, h, 0, before + i, k + i * stride + h * plan->head_dim);
                rig_row(rig, salt, layer, h, 1, before + i, v + i * stride + h * plan->head_dim);
            }
            const uint16_t *hk = k + h * plan->head_dim, *hv = v + h * plan->head_dim;
            if (status == KVANT_OK) status = kv_seq_write(seq, layer, h, hk, hv, stride, aligned, err);
            if (status == KVANT_OK) kv_seq_commit_head(seq, layer, h, hk, hv, stride);
        }
    }
    if (status == KVANT_OK) kv_seq_commit(seq);
    else kv_seq_fail(seq);
    free(k);
    free(v);
    free(scratch);
    return status;
}
