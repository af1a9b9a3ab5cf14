/*
 * Classes and spans of a head's keys.
 *
 *   mixed keys   | 8 bits | 4 bits 3 bits 2 bits | none |     the channels' own classes
 *                 span 0     span 1
 *   4 bits       | span 0        | span 1        |       per channel, not rotated
 *   other        | span 0                        |
 *
 * Why two spans: digits of 8 bits with one step for all channels cost 1.4 to 2.1 % of the KLD that
 * keys of 4 bits per channel cost by themselves, as a few channels dominate q · scale. Where channels
 * have bits by that size, or are rotated, it is .1 to .4 %; per token the codes cost far more, and
 * scales come after the products.
 */
#include "cache/kv_classes.h"

int kv_key_classes(const struct kv_recipe *recipe, const struct kv_channels *channels, int head_dim,
                   struct kv_key_class out[KV_CLASSES_MAX])
{
    int n = 0;
    if (channels) {
        for (int i = 0; i < KV_N_CLASSES; i++) {
            int narrow = n > 0 && kv_keys_are_wide(out[0].bits) && !kv_keys_are_wide(kv_class_bits[i]);
            if (channels->count[i])
                out[n++] = (struct kv_key_class){ kv_class_bits[i], channels->count[i], narrow };
        }
        return n;
    }
    int n_channels = head_dim;
    if (recipe->key_bits == 4 && recipe->key_scheme != KV_KEY_TOKEN && !recipe->key_rotated)
        n_channels = (head_dim / 2 + 31) / 32 * 32;
    for (int first = 0; first < head_dim; first += n_channels, n++)
        out[n] = (struct kv_key_class){ recipe->key_bits,
                                        head_dim - first < n_channels ? head_dim - first : n_channels, n };
    return n;
}
