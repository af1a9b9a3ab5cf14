/* SHA-256 (nettle) for fingerprints. */
#ifndef KV_BASE_HASH_H
#define KV_BASE_HASH_H

#include <nettle/sha2.h>
#include <stddef.h>
#include <stdint.h>

struct kv_hash {
    struct sha256_ctx state;
};
#define KV_HASH_TEXT_CAP 72 /* "sha256:" + 64 hex digits + terminator */

void kv_hash_begin(struct kv_hash *h);
void kv_hash_add(struct kv_hash *h, const void *data, size_t n_bytes);
/* Writes "sha256:<hex>", terminated. */
void kv_hash_end(struct kv_hash *h, char text[KV_HASH_TEXT_CAP]);
/* The 32 bytes themselves. */
void kv_hash_bytes(struct kv_hash *h, uint8_t out[32]);

#endif
