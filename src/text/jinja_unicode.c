/* What Python's str knows of Unicode, as far as chat templates meet it. */
#include <string.h>

#include "text/jinja_value.h"
#include "text/utf8.h"

uint32_t kv_jrune(const char *s, size_t n, size_t *length)
{
    const uint8_t *u = (const uint8_t *)s;
    *length = kv_utf8_length(s, n);
    switch (*length) {
    case 2: return (uint32_t)(u[0] & 0x1f) << 6 | (u[1] & 0x3f);
    case 3: return (uint32_t)(u[0] & 0x0f) << 12 | (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3f);
    case 4:
        return (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3f) << 12 | (uint32_t)(u[2] & 0x3f) << 6 |
               (u[3] & 0x3f);
    default: *length = 1; return u[0];
    }
}

size_t kv_jrune_write(uint32_t rune, char out[4])
{
    if (rune < 0x80) {
        out[0] = (char)rune;
        return 1;
    }
    if (rune < 0x800) {
        out[0] = (char)(0xc0 | rune >> 6);
        out[1] = (char)(0x80 | (rune & 0x3f));
        return 2;
    }
    if (rune < 0x10000) {
        out[0] = (char)(0xe0 | rune >> 12);
        out[1] = (char)(0x80 | (rune >> 6 & 0x3f));
        out[2] = (char)(0x80 | (rune & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | rune >> 18);
    out[1] = (char)(0x80 | (rune >> 12 & 0x3f));
    out[2] = (char)(0x80 | (rune >> 6 & 0x3f));
    out[3] = (char)(0x80 | (rune & 0x3f));
    return 4;
}

size_t kv_jstr_runes(struct kv_jstr s)
{
    size_t n = 0;
    for (size_t i = 0, length; i < s.n; i += length, n++) kv_jrune(s.s + i, s.n - i, &length);
    return n;
}

size_t kv_jstr_offset(struct kv_jstr s, size_t i)
{
    size_t at = 0, length;
    for (; i > 0 && at < s.n; i--, at += length) kv_jrune(s.s + at, s.n - at, &length);
    return at;
}

bool kv_jrune_is_space(uint32_t r)
{
    return (r >= 9 && r <= 13) || (r >= 0x1c && r <= 0x20) || r == 0x85 || r == 0xa0 || r == 0x1680 ||
           (r >= 0x2000 && r <= 0x200a) || r == 0x2028 || r == 0x2029 || r == 0x202f || r == 0x205f ||
           r == 0x3000;
}

/* Blocks whose letters come in pairs (upper, lower) from an even or an odd code point on. */
static bool in_even_pairs(uint32_t r)
{
    return (r >= 0x100 && r <= 0x137 && r != 0x130 && r != 0x131) || (r >= 0x14a && r <= 0x177) ||
           (r >= 0x460 && r <= 0x481) || (r >= 0x48a && r <= 0x4bf) || (r >= 0x4d0 && r <= 0x52f) ||
           (r >= 0x1e00 && r <= 0x1e95) || (r >= 0x1ea0 && r <= 0x1eff) || (r >= 0x370 && r <= 0x373);
}

static bool in_odd_pairs(uint32_t r)
{
    return (r >= 0x139 && r <= 0x148) || (r >= 0x179 && r <= 0x17e) || (r >= 0x4c1 && r <= 0x4ce);
}

uint32_t kv_jrune_upper(uint32_t r)
{
    if (r >= 'a' && r <= 'z') return r - 32;
    if (r == 0xb5) return 0x39c;
    if (r >= 0xe0 && r <= 0xfe && r != 0xf7) return r - 32;
    if (r == 0xff) return 0x178;
    if (r >= 0x3b1 && r <= 0x3cb && r != 0x3c2) return r - 32;
    if (r == 0x3c2) return 0x3a3;
    if (r == 0x3ac) return 0x386;
    if (r >= 0x3ad && r <= 0x3af) return r - 37;
    if (r >= 0x430 && r <= 0x44f) return r - 32;
    if (r >= 0x450 && r <= 0x45f) return r - 80;
    if (in_even_pairs(r)) return r & ~1u;
    if (in_odd_pairs(r)) return r - !(r & 1);
    return r;
}

uint32_t kv_jrune_lower(uint32_t r)
{
    if (r >= 'A' && r <= 'Z') return r + 32;
    if (r >= 0xc0 && r <= 0xde && r != 0xd7) return r + 32;
    if (r == 0x178) return 0xff;
    if (r >= 0x391 && r <= 0x3ab && r != 0x3a2) return r + 32;
    if (r == 0x386) return 0x3ac;
    if (r >= 0x388 && r <= 0x38a) return r + 37;
    if (r >= 0x410 && r <= 0x42f) return r + 32;
    if (r >= 0x400 && r <= 0x40f) return r + 80;
    if (in_even_pairs(r)) return r | 1u;
    if (in_odd_pairs(r)) return r + (r & 1);
    return r;
}

bool kv_jrune_is_letter(uint32_t r)
{
    if (r < 0x80) return (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z');
    if (r < 0x2000) return r == 0xaa || r == 0xb5 || r == 0xba || (r >= 0xc0 && r != 0xd7 && r != 0xf7);
    return (r >= 0x2c00 && r < 0x2e00) || (r >= 0x3040 && r < 0xd7fc) || (r >= 0xf900 && r < 0xfb07) ||
           (r >= 0x20000 && r < 0x32000);
}
