/*
 * The byte alphabet of byte-level BPE: each of the 256 bytes has one printable character, and vocabularies
 * are written in these. Printable Latin-1 stands for itself; the other 68 bytes take U+0100 ... U+0143 in
 * ascending order:
 *
 *     00..20 -> U+0100..U+0120    7f..a0 -> U+0121..U+0142    ad -> U+0143
 */
#ifndef KV_TEXT_BYTE_MAP_H
#define KV_TEXT_BYTE_MAP_H

#include <stddef.h>
#include <stdint.h>

static inline unsigned kv_byte_to_code_point(uint8_t b)
{
    if (b <= 0x20) return 0x100u + b;
    if (b >= 0x7f && b <= 0xa0) return 0x121u + b - 0x7fu;
    if (b == 0xad) return 0x143u;
    return b;
}

/* Writes the character of a byte in UTF-8: 1 or 2 bytes, the number returned. */
static inline size_t kv_byte_to_char(uint8_t b, char out[2])
{
    unsigned c = kv_byte_to_code_point(b);
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xc0u | c >> 6);
    out[1] = (char)(0x80u | (c & 0x3fu));
    return 2;
}

/* The byte of the character at s (n >= 1 bytes), and its length in *n_char; -1 if it is none of the
 * alphabet. */
static inline int kv_byte_from_char(const char *s, size_t n, size_t *n_char)
{
    const uint8_t *u = (const uint8_t *)s;
    unsigned c = u[0];
    *n_char = 1;
    if (c >= 0x80) {
        if ((c & 0xe0) != 0xc0 || n < 2 || (u[1] & 0xc0) != 0x80) return -1;
        c = (c & 0x1fu) << 6 | (u[1] & 0x3fu);
        *n_char = 2;
    }
    if (c >= 0x100) {
        if (c <= 0x120) return (int)(c - 0x100);
        if (c <= 0x142) return (int)(c - 0x121 + 0x7f);
        return c == 0x143 ? 0xad : -1;
    }
    return kv_byte_to_code_point((uint8_t)c) == c ? (int)c : -1;
}

#endif
