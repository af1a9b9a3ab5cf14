/*
 * Codes in bytes to the packed order of kernels/code_layout.h: the encoder's side; kernels unpack.
 */
#ifndef KV_CACHE_KV_PACK_H
#define KV_CACHE_KV_PACK_H

#include <stdint.h>

/* Replaces the codes of tokens [row, row + n) of a page; the other tokens keep theirs. plain: (n, n_channels)
 * codes below 2^bits; n_channels: a multiple of 8 (of one class). */
void kv_pack_keys(uint8_t *codes, int bits, int n_channels, int row, int n, const uint8_t *plain);
void kv_pack_values(uint8_t *codes, int bits, int head_dim, int row, int n, const uint8_t *plain);

#endif
