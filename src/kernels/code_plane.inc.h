/*
 * Unpacking codes in the vocabulary of an instruction set: for attention and for sums. code_layout.h has the
 * order.
 */
#ifndef KV_KERNELS_CODE_PLANE_INC_H
#define KV_KERNELS_CODE_PLANE_INC_H

#include "kernels/code_layout.h"

/* Plane i of a unit: 64 codes in bytes, or the 32 of this part. Shifts of 16 bits bring in bits of the
 * neighbouring byte, which the masks drop. bits and i are constants at every call, and so is what the table
 * says of them. */
KV_INLINE vi unit_plane(int bits, const uint8_t *unit, int line, bool half, int i)
{
    struct kv_plane_bits b = kv_plane_bits(bits, i);
    vi x = vi_load_line(unit + b.first * line, half);
    if (bits == 8) return x;
    x = vi_and(b.shift ? vi_shift16(x, b.shift) : x, vi_set_bytes((1 << b.n) - 1));
    if (b.top_shift < 0) return x;
    vi top = vi_shift16(vi_load_line(unit + line, half), b.top_shift - 2); /* the third bit, to its place */
    return vi_or(x, vi_and(top, vi_set_bytes(4)));
}

#endif
