#include "tune/groups.h"

#include "base/memory.h"

kvant_status kv_groups_alloc(struct kv_groups *out, int n_groups, int n_layers, struct kvant_error *err)
{
    *out = (struct kv_groups){ n_groups, kv_alloc((size_t)n_groups + 1, sizeof *out->begin),
                               kv_alloc((size_t)n_layers, sizeof *out->layer) };
    if (out->begin && out->layer) return KVANT_OK;
    kv_groups_close(out);
    KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for %d groups of layers", n_groups);
}

void kv_groups_close(struct kv_groups *groups)
{
    kv_free(groups->begin);
    kv_free(groups->layer);
    *groups = (struct kv_groups){ 0 };
}

static kvant_status check_set(int group, int first, int layer, const kv_pair_set *candidates,
                              const struct kv_pair *pairs, int n_pairs, struct kvant_error *err)
{
    if (candidates[first] == candidates[layer]) return KVANT_OK;
    char a[160], b[160];
    kv_pair_set_print(candidates[first], pairs, n_pairs, a, sizeof a);
    kv_pair_set_print(candidates[layer], pairs, n_pairs, b, sizeof b);
    KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
            "group %d joins layer %d with candidates %s and layer %d with %s; a group has one candidate set",
            group, first, a, layer, b);
}

/* owner: (n_layer) group + 1, or 0. */
static kvant_status check_lists(const struct kv_groups *groups, int n_layer, const kv_pair_set *candidates,
                                const struct kv_pair *pairs, int n_pairs, int *owner, struct kvant_error *err)
{
    for (int g = 0; g < groups->n_groups; g++) {
        if (groups->begin[g] >= groups->begin[g + 1])
            KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "group %d holds no layer", g);
        for (int i = groups->begin[g]; i < groups->begin[g + 1]; i++) {
            int layer = groups->layer[i];
            if (layer < 0 || layer >= n_layer)
                KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "group %d holds layer %d; there are layers 0 to %d", g,
                        layer, n_layer - 1);
            if (owner[layer] == g + 1)
                KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "layer %d is listed twice in group %d", layer, g);
            if (owner[layer])
                KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                        "layer %d is in groups %d and %d; a layer belongs to one group", layer,
                        owner[layer] - 1, g);
            owner[layer] = g + 1;
        }
    }
    for (int layer = 0; layer < n_layer; layer++)
        if (!owner[layer]) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "layer %d is in no group", layer);
    for (int g = 0; candidates && g < groups->n_groups; g++) {
        int first = groups->layer[groups->begin[g]];
        for (int i = groups->begin[g] + 1; i < groups->begin[g + 1]; i++)
            KV_TRY(check_set(g, first, groups->layer[i], candidates, pairs, n_pairs, err));
    }
    return KVANT_OK;
}

kvant_status kv_groups_check(const struct kv_groups *groups, int n_layer, const kv_pair_set *candidates,
                             const struct kv_pair *pairs, int n_pairs, struct kvant_error *err)
{
    int *owner = kv_alloc((size_t)n_layer, sizeof *owner);
    if (!owner) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for checking groups of %d layers", n_layer);
    kvant_status status = check_lists(groups, n_layer, candidates, pairs, n_pairs, owner, err);
    kv_free(owner);
    return status;
}

int kv_groups_singletons(const struct kv_groups *groups)
{
    int n = 0;
    for (int g = 0; g < groups->n_groups; g++) n += groups->begin[g + 1] - groups->begin[g] == 1;
    return n;
}

double kv_groups_space(const struct kv_groups *groups, const kv_pair_set *candidates)
{
    double space = 1.0;
    for (int g = 0; g < groups->n_groups; g++)
        space *= (double)kv_pair_set_count(candidates[groups->layer[groups->begin[g]]]);
    return space;
}
