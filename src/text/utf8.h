/*
 * UTF-8: the well-formed sequences of the Unicode standard, table 3-7 (no surrogates, nothing overlong, at
 * most U+10FFFF), which are also the ones that PCRE2 accepts unchecked.
 */
#ifndef KV_TEXT_UTF8_H
#define KV_TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at s, 1 to 4; 0 when the n >= 1 bytes there do not begin one. */
static inline size_t kv_utf8_length(const char *s, size_t n)
{
    const uint8_t *u = (const uint8_t *)s;
    if (u[0] < 0x80) return 1;
    if (u[0] < 0xc2 || u[0] > 0xf4) return 0;
    size_t length = u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
    if (n < length) return 0;
    for (size_t i = 1; i < length; i++)
        if ((u[i] & 0xc0) != 0x80) return 0;
    if (u[0] == 0xe0 && u[1] < 0xa0) return 0; /* overlong  */
    if (u[0] == 0xed && u[1] > 0x9f) return 0; /* surrogate */
    if (u[0] == 0xf0 && u[1] < 0x90) return 0; /* overlong  */
    if (u[0] == 0xf4 && u[1] > 0x8f) return 0; /* > U+10FFFF */
    return length;
}

#endif
