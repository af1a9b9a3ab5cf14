/*
 * Reads JSON byte by byte and says at each whether a whole object can still come of it: what keeps an answer
 * to response_format json_object in form. One JSON object, RFC 8259 in UTF-8, and a little less: nesting of
 * at most 64, at most 32 blanks in a row, numbers of at most 15 digits before the point and 20 behind it with
 * exponents of two digits, no \u0000 and no half of a surrogate pair, so that any reader takes it, and an
 * answer cannot go on for ever in one of these.
 */
#ifndef JSON_GUARD_H
#define JSON_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_guard {
    uint8_t state, depth, n_blank, n_digits;
    uint8_t left, low, high; /* of a character: bytes to come, and the range of the next */
    bool is_key;             /* of a string                                             */
    bool pair;               /* the first half of a surrogate pair stands before         */
    uint16_t hex;
    const char *word; /* what remains of true, false or null                            */
    uint64_t arrays;  /* bit of each depth: an array                                    */
};

/* Begin with {0}. False: the byte cannot stand here; *g is then of no use. */
bool json_guard_byte(struct json_guard *g, unsigned char c);
/* Of several bytes; *g is left alone when one of them cannot stand where it does. */
bool json_guard_bytes(struct json_guard *g, const char *bytes, size_t n);
/* The object is closed. */
bool json_guard_done(const struct json_guard *g);

#endif
