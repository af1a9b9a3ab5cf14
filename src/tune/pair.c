#include "tune/pair.h"

#include <stdio.h>

const struct kv_pair kv_pairs_paper[9] = { { 8, 8 }, { 8, 4 }, { 8, 2 }, { 4, 8 }, { 4, 4 },
                                           { 4, 2 }, { 2, 8 }, { 2, 4 }, { 2, 2 } };
const struct kv_pair kv_pairs_fine[16] = { { 8, 8 }, { 8, 4 }, { 8, 3 }, { 8, 2 }, { 4, 8 }, { 4, 4 },
                                           { 4, 3 }, { 4, 2 }, { 3, 8 }, { 3, 4 }, { 3, 3 }, { 3, 2 },
                                           { 2, 8 }, { 2, 4 }, { 2, 3 }, { 2, 2 } };

void kv_pair_name(struct kv_pair pair, char text[KV_PAIR_NAME_CAP])
{
    if (pair.key_bits == pair.value_bits)
        snprintf(text, KV_PAIR_NAME_CAP, "KV%u", pair.key_bits);
    else
        snprintf(text, KV_PAIR_NAME_CAP, "K%uV%u", pair.key_bits % 100u, pair.value_bits % 100u);
}

kvant_status kv_pairs_check(const struct kv_pair *pairs, int n_pairs, struct kvant_error *err)
{
    if (n_pairs < 1 || n_pairs > KV_PAIRS_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%d precision pairs: 1 to %d", n_pairs, KV_PAIRS_MAX);
    for (int i = 0; i < n_pairs; i++) {
        struct kv_pair p = pairs[i];
        if (p.key_bits < 1 || p.key_bits > 16 || p.value_bits < 1 || p.value_bits > 16)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "pair %d has %u key bits and %u value bits: 1 to 16", i,
                    p.key_bits, p.value_bits);
        for (int j = 0; j < i; j++) {
            if (pairs[j].key_bits != p.key_bits || pairs[j].value_bits != p.value_bits) continue;
            char name[KV_PAIR_NAME_CAP];
            kv_pair_name(p, name);
            KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "pairs %d and %d are both %s", j, i, name);
        }
    }
    return KVANT_OK;
}

int kv_pair_set_count(kv_pair_set set)
{
    return __builtin_popcount(set);
}

static bool listed_before(struct kv_pair a, struct kv_pair b)
{
    int bits_a = a.key_bits + a.value_bits, bits_b = b.key_bits + b.value_bits;
    return bits_a > bits_b || (bits_a == bits_b && a.key_bits > b.key_bits);
}

void kv_pair_set_list(kv_pair_set set, const struct kv_pair *pairs, int n_pairs, int *list)
{
    int n = 0;
    for (int i = 0; i < n_pairs; i++) {
        if (!(set >> i & 1)) continue;
        int at = n++;
        for (; at > 0 && listed_before(pairs[i], pairs[list[at - 1]]); at--) list[at] = list[at - 1];
        list[at] = i;
    }
}

void kv_pair_set_print(kv_pair_set set, const struct kv_pair *pairs, int n_pairs, char *text, size_t cap)
{
    int list[KV_PAIRS_MAX], n = kv_pair_set_count(set);
    kv_pair_set_list(set, pairs, n_pairs, list);
    size_t at = 0;
    snprintf(text, cap, "{}");
    for (int i = 0; i < n; i++) {
        char name[KV_PAIR_NAME_CAP];
        kv_pair_name(pairs[list[i]], name);
        int written = snprintf(text + at, cap - at, "%s%s%s", i ? ", " : "{", name, i == n - 1 ? "}" : "");
        if (written < 0 || (size_t)written >= cap - at) return;
        at += (size_t)written;
    }
}

int kv_assignment_bit_sum(const uint8_t *assignment, int n_layer, const struct kv_pair *pairs)
{
    int sum = 0;
    for (int layer = 0; layer < n_layer; layer++)
        sum += pairs[assignment[layer]].key_bits + pairs[assignment[layer]].value_bits;
    return sum;
}
