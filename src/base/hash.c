#include "base/hash.h"

#include <stdio.h>
#include <string.h>

void kv_hash_begin(struct kv_hash *h)
{
    sha256_init(&h->state);
}

void kv_hash_add(struct kv_hash *h, const void *data, size_t n_bytes)
{
    sha256_update(&h->state, n_bytes, data);
}

void kv_hash_end(struct kv_hash *h, char text[KV_HASH_TEXT_CAP])
{
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(&h->state, sizeof digest, digest);
    int n = snprintf(text, KV_HASH_TEXT_CAP, "sha256:");
    for (size_t i = 0; i < sizeof digest; i++)
        n += snprintf(text + n, KV_HASH_TEXT_CAP - (size_t)n, "%02x", digest[i]);
}

void kv_hash_bytes(struct kv_hash *h, uint8_t out[32])
{
    sha256_digest(&h->state, SHA256_DIGEST_SIZE, out);
}
