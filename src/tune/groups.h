/* Groups of layers that share one precision pair in a search, as lists that may come from outside. */
#ifndef KV_TUNE_GROUPS_H
#define KV_TUNE_GROUPS_H

#include "tune/pair.h"

struct kv_groups {
    int n_groups;
    int *begin; /* (n_groups + 1) group g holds layer[begin[g]] .. layer[begin[g + 1] - 1] */
    int *layer;
};

/* Room for n_groups groups of n_layers layers together, all zero. Errors: MEMORY. */
kvant_status kv_groups_alloc(struct kv_groups *out, int n_groups, int n_layers, struct kvant_error *err);
void kv_groups_close(struct kv_groups *groups);

/* Whether they are what a search needs: every one of the layers 0 .. n_layer - 1 in exactly one group, no
 * group empty, and within a group one candidate set. candidates: (n_layer), or NULL: sets are not looked
 * at, nor the pairs, which only messages need. Errors: ARGUMENT (names the layer and its groups), MEMORY. */
kvant_status kv_groups_check(const struct kv_groups *groups, int n_layer, const kv_pair_set *candidates,
                             const struct kv_pair *pairs, int n_pairs, struct kvant_error *err);

/* Of groups that passed the check. */
int kv_groups_singletons(const struct kv_groups *groups);
/* Number of plans: the product of the groups' candidate counts. A double, since 5^64 is no integer type's;
 * +infinity when it is no double's either. */
double kv_groups_space(const struct kv_groups *groups, const kv_pair_set *candidates);

#endif
