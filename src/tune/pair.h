/*
 * Precision pairs of KVTuner: code bits of the keys and of the values of one layer. A layer's candidates are
 * a set over a list of pairs; a plan is an assignment of one pair to each layer.
 */
#ifndef KV_TUNE_PAIR_H
#define KV_TUNE_PAIR_H

#include "base/error.h"

struct kv_pair {
    uint8_t key_bits, value_bits;
};

#define KV_PAIRS_MAX     32
#define KV_PAIR_NAME_CAP 8
/* Bit i: pair i of the list that it belongs to. */
typedef uint32_t kv_pair_set;

extern const struct kv_pair kv_pairs_paper[9]; /* {2, 4, 8} × {2, 4, 8}, keys first     */
extern const struct kv_pair kv_pairs_fine[16]; /* {2, 3, 4, 8} × {2, 3, 4, 8}           */

/* The paper's names: "KV4" when both are equal, else "K8V4". */
void kv_pair_name(struct kv_pair pair, char text[KV_PAIR_NAME_CAP]);
/* A list is 1 to KV_PAIRS_MAX different pairs of 1 to 16 bits. Errors: ARGUMENT. */
kvant_status kv_pairs_check(const struct kv_pair *pairs, int n_pairs, struct kvant_error *err);

int kv_pair_set_count(kv_pair_set set);
/* The members' indices, as the paper lists candidates: most bits first, of equal bits most key bits first.
 * list: room for kv_pair_set_count. */
void kv_pair_set_list(kv_pair_set set, const struct kv_pair *pairs, int n_pairs, int *list);
/* "{KV8, K8V4, KV4}", cut off at cap. */
void kv_pair_set_print(kv_pair_set set, const struct kv_pair *pairs, int n_pairs, char *text, size_t cap);

/* Sum of key and value bits over layers, so that the equivalent bits are exactly sum / (2 · n_layer): an
 * average over layers, each counted once, whatever groups they are in. assignment: (n_layer) indices of
 * pairs. */
int kv_assignment_bit_sum(const uint8_t *assignment, int n_layer, const struct kv_pair *pairs);

#endif
