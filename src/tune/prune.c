#include "tune/prune.h"

#include <math.h>

static int bits_of(struct kv_pair pair)
{
    return pair.key_bits + pair.value_bits;
}

/* The pair at which i's candidacy ends: one that dominates it, else one that equals it in both and has
 * more key bits; i itself if there is none. */
static int beaten_by(const struct kv_pair *pairs, int n_pairs, const double *error, int i)
{
    int tied = i;
    for (int j = 0; j < n_pairs; j++) {
        if (bits_of(pairs[j]) > bits_of(pairs[i]) || error[j] > error[i]) continue;
        if (bits_of(pairs[j]) < bits_of(pairs[i]) || error[j] < error[i]) return j;
        if (pairs[j].key_bits > pairs[tied].key_bits) tied = j;
    }
    return tied;
}

kvant_status kv_prune(const struct kv_pair *pairs, int n_pairs, const double *error, kv_pair_set *set,
                      struct kv_prune_tie *ties, int *n_ties, struct kvant_error *err)
{
    KV_TRY(kv_pairs_check(pairs, n_pairs, err));
    *set = 0;
    *n_ties = 0;
    for (int i = 0; i < n_pairs; i++) {
        if (isfinite(error[i]) && error[i] >= 0.0) continue;
        char name[KV_PAIR_NAME_CAP];
        kv_pair_name(pairs[i], name);
        KV_FAIL(err, KVANT_ERR_NUMERIC, -1, "%s: an error e_o of %g; it must be a finite number >= 0", name,
                error[i]);
    }
    for (int i = 0; i < n_pairs; i++) {
        int winner = beaten_by(pairs, n_pairs, error, i);
        if (winner == i) {
            *set |= (kv_pair_set)1 << i;
            continue;
        }
        bool tie = bits_of(pairs[winner]) == bits_of(pairs[i]) && error[winner] == error[i];
        if (!tie) continue;
        if (ties) ties[*n_ties] = (struct kv_prune_tie){ pairs[winner], pairs[i] };
        ++*n_ties;
    }
    return KVANT_OK;
}
