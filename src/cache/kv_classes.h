/*
 * A head's stored keys as kernels take them: ranges of channels of one width (kernels/attention_calls.h).
 */
#ifndef KV_CACHE_KV_CLASSES_H
#define KV_CACHE_KV_CLASSES_H

#include "cache/plan.h"

/* Classes of the keys of a (layer, KV head), not of 16 bits; their number.
 * channels: of mixed keys, else NULL. */
int kv_key_classes(const struct kv_recipe *recipe, const struct kv_channels *channels, int head_dim,
                   struct kv_key_class out[KV_CLASSES_MAX]);

#endif
