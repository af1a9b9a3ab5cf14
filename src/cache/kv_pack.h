/*
 * Unsigned codes of b bits as a little-endian bit stream: code i in bits [i·b, i·b + b). The encoder's side;
 * kernels unpack.
 */
#ifndef KV_CACHE_KV_PACK_H
#define KV_CACHE_KV_PACK_H

#include <stdint.h>
#include <string.h>

/* Replaces one code; its neighbours in the same byte keep theirs. */
static inline void kv_pack_one(uint8_t *stream, int i, int bits, unsigned code)
{
    int bit = i * bits, shift = bit % 8;
    uint8_t *byte = stream + bit / 8;
    unsigned mask = (1u << bits) - 1;
    byte[0] = (uint8_t)((byte[0] & ~(mask << shift)) | (code << shift));
    if (shift + bits > 8) byte[1] = (uint8_t)((byte[1] & ~(mask >> (8 - shift))) | (code >> (8 - shift)));
}

/* Replaces codes first .. first + n - 1 by codes[0], codes[stride], ... */
static inline void kv_pack(uint8_t *stream, int first, int bits, const uint8_t *codes, int stride, int n)
{
    int i = 0;
    for (; i < n && (first + i) % 8; i++) kv_pack_one(stream, first + i, bits, codes[i * stride]);
    for (; i + 8 <= n; i += 8) { /* eight codes are exactly `bits` bytes */
        uint64_t word = 0;
        for (int j = 0; j < 8; j++) word |= (uint64_t)codes[(i + j) * stride] << (j * bits);
        uint8_t *byte = stream + (first + i) / 8 * bits;
        for (int j = 0; j < bits; j++) byte[j] = (uint8_t)(word >> (8 * j));
    }
    for (; i < n; i++) kv_pack_one(stream, first + i, bits, codes[i * stride]);
}

#endif
