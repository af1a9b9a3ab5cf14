#include "cache/kv_pack.h"

#include <string.h>

#include "kernels/code_layout.h"

/* Few tokens touch few bits of every byte: below this number codes are put one by one. */
#define PUT_BELOW 8

typedef uint8_t planes[KV_PLANES][KV_LINE];

/* Loops over bytes without a branch, which compilers turn into vectors. */
static void pack_unit(planes p, int bits, int line, uint8_t *unit)
{
    memset(unit, 0, (size_t)(bits * line));
    for (int plane = 0; plane < KV_PLANES; plane++) {
        struct kv_plane_bits b = kv_plane_bits(bits, plane);
        uint8_t *low = unit + b.first * line;
        unsigned mask = (1u << b.n) - 1;
        for (int i = 0; i < line; i++) low[i] |= (uint8_t)((p[plane][i] & mask) << b.shift);
        for (int i = 0; b.top_shift >= 0 && i < line; i++)
            unit[line + i] |= (uint8_t)((p[plane][i] >> 2 & 1) << b.top_shift);
    }
}

static void unpack_unit(const uint8_t *unit, int bits, int line, planes p)
{
    for (int plane = 0; plane < KV_PLANES; plane++) {
        struct kv_plane_bits b = kv_plane_bits(bits, plane);
        const uint8_t *low = unit + b.first * line;
        unsigned mask = (1u << b.n) - 1;
        for (int i = 0; i < line; i++) p[plane][i] = (uint8_t)(low[i] >> b.shift & mask);
        for (int i = 0; b.top_shift >= 0 && i < line; i++)
            p[plane][i] |= (uint8_t)((unit[line + i] >> b.top_shift & 1) << 2);
    }
}

void kv_pack_keys(uint8_t *codes, int bits, int n_channels, int row, int n, const uint8_t *plain)
{
    if (n < PUT_BELOW) {
        for (int i = 0; i < n; i++)
            for (int c = 0; c < n_channels; c++)
                kv_code_put(codes, bits, kv_key_place(bits, c, row + i), plain[i * n_channels + c]);
        return;
    }
    for (int first = 0; first < n_channels; first += KV_KEY_UNIT, codes += bits * KV_LINE) {
        planes p;
        if (n < 64) unpack_unit(codes, bits, KV_LINE, p);
        for (int i = 0; i < n; i++) {
            int token = row + i;
            for (int pair = 0; pair < 2; pair++)
                memcpy(p[pair * 4 + token / 16] + token % 16 * 4, plain + i * n_channels + first + pair * 4,
                       4);
        }
        pack_unit(p, bits, KV_LINE, codes);
    }
}

/* Tokens [token, token + n) of one unit of 32 and the channels of one column. */
static void pack_value_unit(uint8_t *unit, int bits, int lanes, int token, int n, const uint8_t *plain,
                            int head_dim)
{
    int line = lanes * 4;
    planes p;
    if (n < KV_VALUE_UNIT) unpack_unit(unit, bits, line, p);
    for (int i = 0; i < n; i++) {
        uint8_t *to = p[(token + i) / 4] + (token + i) % 4;
        for (int c = 0; c < lanes; c++) to[c * 4] = plain[i * head_dim + c];
    }
    pack_unit(p, bits, line, unit);
}

void kv_pack_values(uint8_t *codes, int bits, int head_dim, int row, int n, const uint8_t *plain)
{
    if (n < PUT_BELOW) {
        for (int i = 0; i < n; i++)
            for (int c = 0; c < head_dim; c++)
                kv_code_put(codes, bits, kv_value_place(bits, head_dim, c, row + i), plain[i * head_dim + c]);
        return;
    }
    for (int c = 0; c < head_dim; c += KV_COLUMN) {
        int lanes = head_dim - c < KV_COLUMN ? head_dim - c : KV_COLUMN;
        for (int i = 0; i < n;) {
            int token = (row + i) % KV_VALUE_UNIT, left = KV_VALUE_UNIT - token,
                n_now = n - i < left ? n - i : left;
            struct kv_code_place at = kv_value_place(bits, head_dim, c, row + i);
            pack_value_unit(codes + at.unit, bits, lanes, token, n_now, plain + i * head_dim + c, head_dim);
            i += n_now;
        }
    }
}
