/*
 * Intra-layer pruning of KVTuner: of the precision pairs of one layer those that no other pair beats in
 * (equivalent bits, e_o). Strict dominance without a tolerance; the error need not fall with the bits.
 */
#ifndef KV_TUNE_PRUNE_H
#define KV_TUNE_PRUNE_H

#include "tune/pair.h"

/* Two pairs of equal bits and exactly equal error: neither dominates, and the one with more key bits
 * stays. */
struct kv_prune_tie {
    struct kv_pair kept, dropped;
};

/* error: (n_pairs) the layer's e_o with each pair. *set: the candidates, at least one. ties: room for
 * n_pairs - 1, or NULL; *n_ties counts them in either case. Ties between pairs that a third dominates are
 * none. Errors: ARGUMENT (the list of pairs), NUMERIC (an error that is not a finite number >= 0; names
 * the pair). */
kvant_status kv_prune(const struct kv_pair *pairs, int n_pairs, const double *error, kv_pair_set *set,
                      struct kv_prune_tie *ties, int *n_ties, struct kvant_error *err);

#endif
