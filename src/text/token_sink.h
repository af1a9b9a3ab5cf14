/*
 * Where encoders put tokens: counts all, keeps what fits, so that one pass answers both the tokens and the
 * size needed.
 */
#ifndef KV_TEXT_TOKEN_SINK_H
#define KV_TEXT_TOKEN_SINK_H

#include "kvant.h"

struct kv_token_sink {
    kvant_token *ids;
    size_t cap, n;
};

static inline void kv_token_put(struct kv_token_sink *sink, kvant_token id)
{
    if (sink->n < sink->cap) sink->ids[sink->n] = id;
    sink->n++;
}

#endif
