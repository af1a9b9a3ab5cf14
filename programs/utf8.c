#include "utf8.h"

#include <stdint.h>

static size_t lead_length(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3
         : lead >= 0xF0 && lead < 0xF5 ? 4 : 0;
}

size_t utf8_length(const char *bytes, size_t n_bytes)
{
    if (n_bytes == 0) return 0;
    const uint8_t *b = (const uint8_t *)bytes;
    size_t n = lead_length(b[0]);
    if (n == 0 || n > n_bytes) return 0;
    for (size_t i = 1; i < n; i++)
        if ((b[i] & 0xC0) != 0x80) return 0;
    /* Overlong forms, surrogates and what lies beyond U+10FFFF (Unicode, table 3-7). */
    if ((b[0] == 0xE0 && b[1] < 0xA0) || (b[0] == 0xED && b[1] > 0x9F)) return 0;
    if ((b[0] == 0xF0 && b[1] < 0x90) || (b[0] == 0xF4 && b[1] > 0x8F)) return 0;
    return n;
}

size_t utf8_showable(const char *bytes, size_t n_bytes)
{
    const uint8_t *b = (const uint8_t *)bytes;
    for (size_t back = 1; back <= 3 && back <= n_bytes; back++) {
        uint8_t byte = b[n_bytes - back];
        if ((byte & 0xC0) == 0x80) continue;
        return lead_length(byte) > back ? n_bytes - back : n_bytes;
    }
    return n_bytes;
}
