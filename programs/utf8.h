/*
 * Tokens end anywhere, characters do not: what may be shown of a byte stream that is still growing.
 */
#ifndef UTF8_H
#define UTF8_H

#include <stddef.h>

/* Bytes of the valid character at `bytes`, 0 when there is none (invalid or cut). */
size_t utf8_length(const char *bytes, size_t n_bytes);

/* How many of the bytes can be shown now: all but a last character that may still be completed. */
size_t utf8_showable(const char *bytes, size_t n_bytes);

#endif
