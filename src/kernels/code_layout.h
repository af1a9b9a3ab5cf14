/*
 * How codes of 2, 3, 4 and 8 bits lie in a page: in the order in which attention multiplies them.
 *
 * Every sum of attention runs over 4 neighbours at a time, since one int8 dot product adds 4 products into a
 * lane. So codes come as *planes* of 64 bytes before packing, 16 lanes of 4 neighbours:
 *
 *   keys     lane = token,   neighbours = channels     (scores sum over channels)
 *   values   lane = channel, neighbours = tokens       (outputs sum over tokens)
 *
 *      byte   0  1  2  3 | 4  5  6  7 | ... | 60 61 62 63
 *      keys  c0 c1 c2 c3   c0 c1 c2 c3       c0 c1 c2 c3        one query's 4 channels, broadcast, meet
 *            └─ token 0 ┘ └─ token 1 ┘      └─ token 15 ┘       16 tokens: no horizontal sum is ever needed
 *
 * Eight planes, 512 codes, are a *unit*; packed it has `bits` lines of 64 bytes. A plane is a bit field of
 * one or two lines, so that a load, a shift and a mask give 64 codes in their lanes:
 *
 *            line 0                line 1                line 2
 *   8 bits   plane 0               plane 1               ...
 *   4 bits   1 1 1 1 0 0 0 0       3 3 3 3 2 2 2 2       ...                (bits 7 .. 0 of each byte)
 *   3 bits   3 3 1 1 1 0 0 0       7 3 6 6 6 2 2 2       7 7 5 5 5 4 4 4    (line 1: the top bits of 3, 7)
 *   2 bits   3 3 2 2 1 1 0 0       7 7 6 6 5 5 4 4
 *
 *   keys     unit = 8 channels × 64 tokens; plane = (half of the channels) · 4 + token / 16. Units follow
 *            each other by stored channel, so a class of n channels is n / 8 whole units.
 *   values   column = 16 channels (the last one 8, with lines of 32 bytes, where 16 does not divide the head
 *            size) × 64 tokens = 2 units of 32 tokens; plane = (token % 32) / 4. Column after column.
 *
 * Half a page, 32 tokens, has lines of its own for keys of 4 and 8 bits and for all values.
 *
 * Rejected: codes as a plain stream along tokens, 8·bits bytes a channel, as it was before: unpacking took a
 * permutation, a variable shift and a table look-up per 16 codes, and the products were float. Measured with
 * AVX-512 on one layer of 8 KV heads of 128 with 4 query heads each: 4 bits 5.9 ms at 32768 tokens, 10 % of
 * the read bandwidth.
 */
#ifndef KV_KERNELS_CODE_LAYOUT_H
#define KV_KERNELS_CODE_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define KV_PLANES 8       /* of a unit                            */
#define KV_LINE 64        /* bytes: 16 lanes of 4 neighbours      */
#define KV_KEY_UNIT 8     /* channels of a unit of keys           */
#define KV_COLUMN 16      /* channels of a column of values       */
#define KV_VALUE_UNIT 32  /* tokens of a unit of values           */

struct kv_code_place {
    size_t unit; /* byte at which the code's unit begins                     */
    int line;    /* bytes of a line: 64 or 32                                */
    int plane, byte;
};

/* Stored channel and token of keys; `channel` counts from the first one of its class. */
static inline struct kv_code_place kv_key_place(int bits, int channel, int token)
{
    return (struct kv_code_place){ (size_t)(channel / KV_KEY_UNIT * bits) * KV_LINE, KV_LINE,
                                   channel % KV_KEY_UNIT / 4 * 4 + token / 16, token % 16 * 4 + channel % 4 };
}

static inline struct kv_code_place kv_value_place(int bits, int head_dim, int channel, int token)
{
    int column = channel / KV_COLUMN, left = head_dim - column * KV_COLUMN;
    int line = left < KV_COLUMN ? KV_LINE / 2 : KV_LINE;
    size_t at = (size_t)(column * 2 * bits) * KV_LINE + (size_t)(token / KV_VALUE_UNIT * bits * line);
    return (struct kv_code_place){ at, line, token % KV_VALUE_UNIT / 4, channel % KV_COLUMN * 4 + token % 4 };
}

/* Where a plane's bits are: `n` low bits in line `first` from bit `shift` on; of 3 bits, planes 3 and 7 have
 * their top bit in line 1. */
struct kv_plane_bits {
    int first, shift, n, top_shift; /* top_shift: of the third bit in line 1, or −1 */
};

static inline struct kv_plane_bits kv_plane_bits(int bits, int plane)
{
    static const struct kv_plane_bits three[KV_PLANES] = { { 0, 0, 3, -1 }, { 0, 3, 3, -1 }, { 1, 0, 3, -1 },
                                                           { 0, 6, 2, 6 },  { 2, 0, 3, -1 }, { 2, 3, 3, -1 },
                                                           { 1, 3, 3, -1 }, { 2, 6, 2, 7 } };
    if (bits == 3) return three[plane];
    int per_line = 8 / bits;
    return (struct kv_plane_bits){ plane / per_line, plane % per_line * bits, bits, -1 };
}

static inline unsigned kv_code_get(const uint8_t *codes, int bits, struct kv_code_place p)
{
    struct kv_plane_bits b = kv_plane_bits(bits, p.plane);
    const uint8_t *byte = codes + p.unit + p.byte;
    unsigned code = byte[b.first * p.line] >> b.shift & ((1u << b.n) - 1);
    return b.top_shift < 0 ? code : code | (byte[p.line] >> b.top_shift & 1u) << 2;
}

/* Replaces one code; its neighbours in the same byte keep theirs. */
static inline void kv_code_put(uint8_t *codes, int bits, struct kv_code_place p, unsigned code)
{
    struct kv_plane_bits b = kv_plane_bits(bits, p.plane);
    uint8_t *byte = codes + p.unit + p.byte, *low = byte + b.first * p.line;
    unsigned mask = (1u << b.n) - 1;
    *low = (uint8_t)((*low & ~(mask << b.shift)) | (code & mask) << b.shift);
    if (b.top_shift < 0) return;
    byte[p.line] = (uint8_t)((byte[p.line] & ~(1u << b.top_shift)) | (code >> 2 & 1u) << b.top_shift);
}

#endif
