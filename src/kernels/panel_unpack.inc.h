/*
 * Weight formats to panels. Rows are turned *in file format*, as 32-bit words: word w of LANES rows becomes
 * one vector. What follows then treats LANES rows at once, scales and packed codes alike, and never shuffles:
 * four bytes of nibbles are four columns' codes of each row in their low halves and four more in the high
 * ones.
 *
 *     rows in file format ──turn words──► raw[word][row] ──mask, shift──► panel.code[column / 4][row]·4
 *                                                                         panel.scale, panel.min [group][row]
 *
 * unpack.c draws the blocks, and defines their values. Blocks of 2·odd bytes put every other one half a word
 * off, which word() mends.
 * Rejected: unpacking row by row and turning the codes, which took 1.6 to 2 times as long per weight.
 */
#define GROUPS_MAX (KV_SLAB / KV_WEIGHT_GROUP)

struct panel {
    _Alignas(KV_ALIGN) uint8_t code[KV_SLAB * LANES]; /* (KV_SLAB / 4, LANES, 4) */
    float scale[GROUPS_MAX * LANES];                  /* (groups, LANES)         */
    float min[GROUPS_MAX * LANES];                    /* of formats with minima  */
};

/* One block: where its turned words begin, and where its panel part goes. */
struct block {
    const uint8_t *raw;
    uint8_t *code;
    float *scale, *min;
    int odd; /* 1: the block begins in the upper half of raw's first word */
};

/* The words at `byte` (even) of the block */
KV_INLINE vi word(const struct block *b, int byte)
{
    int half = byte / 2 + b->odd;
    const uint8_t *p = b->raw + (size_t)(half / 2) * sizeof(vi);
    return half & 1 ? vi_straddle(vi_load(p), vi_load(p + sizeof(vi))) : vi_load(p);
}

/* The float16 at `byte` */
KV_INLINE vf half_at(const struct block *b, int byte)
{
    int half = byte / 2 + b->odd;
    vi w = vi_load(b->raw + (size_t)(half / 2) * sizeof(vi));
    return half & 1 ? vf_high_half(w) : vf_low_half(w);
}

KV_INLINE void put_code(const struct block *b, int column, vi code)
{
    vi_store(b->code + (size_t)(column / 4) * sizeof(vi), code);
}

KV_INLINE void put_scale(const struct block *b, int group, vf scale, vf min)
{
    vf_store(b->scale + group * LANES, scale);
    vf_store(b->min + group * LANES, min);
}

/* Byte j of every lane, unsigned and signed, as float */
KV_INLINE vf byte_of(vi x, int j) { return vf_from_int(vi_right(vi_left(x, 24 - 8 * j), 24)); }
KV_INLINE vf signed_byte_of(vi x, int j) { return vf_from_int(vi_right_signed(vi_left(x, 24 - 8 * j), 24)); }

KV_INLINE vi low_nibbles(vi x) { return vi_and(x, vi_set_bytes(15)); }
KV_INLINE vi high_nibbles(vi x) { return low_nibbles(vi_right(x, 4)); }
KV_INLINE vi bits_at(vi x, int shift, int mask) { return vi_and(vi_right(x, shift), vi_set_bytes(mask)); }
KV_INLINE vi bits_up(vi x, int shift, int mask) { return vi_and(vi_left(x, shift), vi_set_bytes(mask)); }

/* Formats without minima of their own: what their codes are above the values, a power of 2, stands in the
 * table below, and products begin their integer sums with it. */
KV_INLINE void put_symmetric(const struct block *b, int group, vf scale)
{
    vf_store(b->scale + group * LANES, scale);
}

KV_INLINE void block_q8_0(const struct block *b)
{
    put_symmetric(b, 0, half_at(b, 0));
    for (int i = 0; i < 32; i += 4) put_code(b, i, vi_xor(word(b, 2 + i), vi_set_bytes(-128)));
}

KV_INLINE void put_nibbles(const struct block *b, int byte)
{
    for (int i = 0; i < 16; i += 4) {
        vi q = word(b, byte + i);
        put_code(b, i, low_nibbles(q));
        put_code(b, i + 16, high_nibbles(q));
    }
}

KV_INLINE void block_q4_0(const struct block *b)
{
    put_symmetric(b, 0, half_at(b, 0));
    put_nibbles(b, 2);
}

KV_INLINE void block_q4_1(const struct block *b)
{
    put_scale(b, 0, half_at(b, 0), half_at(b, 2));
    put_nibbles(b, 4);
}

KV_INLINE void put_nibbles_and_fifth(const struct block *b, int byte_high, int byte)
{
    vi high = word(b, byte_high);
    for (int i = 0; i < 16; i += 4) {
        vi q = word(b, byte + i);
        put_code(b, i, vi_or(low_nibbles(q), vi_fifth_bits(high, i / 4)));
        put_code(b, i + 16, vi_or(high_nibbles(q), vi_fifth_bits(high, i / 4 + 4)));
    }
}

KV_INLINE void block_q5_0(const struct block *b)
{
    put_symmetric(b, 0, half_at(b, 0));
    put_nibbles_and_fifth(b, 2, 6);
}

KV_INLINE void block_q5_1(const struct block *b)
{
    put_scale(b, 0, half_at(b, 0), half_at(b, 2));
    put_nibbles_and_fifth(b, 4, 8);
}

KV_INLINE void put_iq4(const struct block *b, int column, int byte)
{
    for (int i = 0; i < 16; i += 4) {
        vi q = word(b, byte + i);
        put_code(b, column + i, vi_lookup(kv_iq4_codes, low_nibbles(q)));
        put_code(b, column + i + 16, vi_lookup(kv_iq4_codes, high_nibbles(q)));
    }
}

KV_INLINE void block_iq4_nl(const struct block *b)
{
    put_symmetric(b, 0, half_at(b, 0));
    put_iq4(b, 0, 2);
}

/* Two upper bits of each 6-bit sub-scale stand in a halfword, its lower four in nibbles. */
KV_INLINE void block_iq4_xs(const struct block *b)
{
    vf d = half_at(b, 0);
    vi upper = word(b, 0), low = word(b, 4); /* `upper` from bit 16 on */
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        vi sub = vi_or(vi_right(vi_left(low, 28 - 4 * g), 28),
                       vi_left(vi_right(vi_left(upper, 14 - 2 * g), 30), 4));
        put_symmetric(b, g, vf_mul(d, vf_sub(vf_from_int(sub), vf_set(32.0f))));
        put_iq4(b, 32 * g, 8 + 16 * g);
    }
}

KV_INLINE void block_q2_k(const struct block *b)
{
    vf d = half_at(b, 80), negative_m = vf_mul(half_at(b, 82), vf_set(-1.0f));
#pragma GCC unroll 16
    for (int g = 0; g < 16; g++) {
        vi s = word(b, g / 4 * 4);
        vf scale = byte_of(low_nibbles(s), g % 4), min = byte_of(high_nibbles(s), g % 4);
        put_scale(b, g, vf_mul(d, scale), vf_mul(negative_m, min));
    }
#pragma GCC unroll 8
    for (int run = 0; run < 8; run++)
        for (int i = 0; i < 32; i += 4)
            put_code(b, 32 * run + i, bits_at(word(b, 16 + run / 4 * 32 + i), run % 4 * 2, 3));
}

KV_INLINE void block_q3_k(const struct block *b)
{
    vf d = half_at(b, 108);
    vi upper = word(b, 104);
#pragma GCC unroll 16
    for (int g = 0; g < 16; g++) {
        vi s = word(b, 96 + g % 8 / 4 * 4), low = g < 8 ? low_nibbles(s) : high_nibbles(s);
        vi sub = vi_or(low, vi_left(bits_at(upper, g / 4 * 2, 3), 4));
        put_symmetric(b, g, vf_mul(d, vf_sub(byte_of(sub, g % 4), vf_set(32.0f))));
    }
#pragma GCC unroll 8
    for (int run = 0; run < 8; run++)
        for (int i = 0; i < 32; i += 4) {
            vi low = bits_at(word(b, 32 + run / 4 * 32 + i), run % 4 * 2, 3), high = word(b, i);
            put_code(b, 32 * run + i,
                     vi_or(low, run < 2 ? bits_up(high, 2 - run, 4) : bits_at(high, run - 2, 4)));
        }
}

/* Q4_K and Q5_K: sub-scales and sub-minima 0..3 are the low six bits of words `a` and `m`; those of 4..7 have
 * their lower four in the nibbles of word `c` and the upper two on top of the first. */
KV_INLINE void put_scales_6bit(const struct block *b)
{
    vf d = half_at(b, 0), negative_m = vf_mul(half_at(b, 2), vf_set(-1.0f));
    vi a = word(b, 4), m = word(b, 8), c = word(b, 12);
    vi a_high = vi_or(low_nibbles(c), bits_at(a, 2, 0x30)),
       m_high = vi_or(high_nibbles(c), bits_at(m, 2, 0x30));
    vi a_low = bits_at(a, 0, 63), m_low = bits_at(m, 0, 63);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        put_scale(b, j, vf_mul(d, byte_of(a_low, j)), vf_mul(negative_m, byte_of(m_low, j)));
        put_scale(b, j + 4, vf_mul(d, byte_of(a_high, j)), vf_mul(negative_m, byte_of(m_high, j)));
    }
}

KV_INLINE void block_q4_k(const struct block *b)
{
    put_scales_6bit(b);
    for (int run = 0; run < 4; run++)
        for (int i = 0; i < 32; i += 4) {
            vi q = word(b, 16 + 32 * run + i);
            put_code(b, 64 * run + i, low_nibbles(q));
            put_code(b, 64 * run + 32 + i, high_nibbles(q));
        }
}

KV_INLINE void block_q5_k(const struct block *b)
{
    put_scales_6bit(b);
#pragma GCC unroll 4
    for (int run = 0; run < 4; run++)
        for (int i = 0; i < 32; i += 4) {
            vi q = word(b, 48 + 32 * run + i), high = word(b, 16 + i);
            vi fifth = run < 3 ? bits_up(high, 4 - 2 * run, 16) : bits_at(high, 2, 16);
            vi next = run < 2 ? bits_up(high, 3 - 2 * run, 16) : bits_at(high, 2 * run - 3, 16);
            put_code(b, 64 * run + i, vi_or(low_nibbles(q), fifth));
            put_code(b, 64 * run + 32 + i, vi_or(high_nibbles(q), next));
        }
}

KV_INLINE void block_q6_k(const struct block *b)
{
    vf d = half_at(b, 208);
#pragma GCC unroll 16
    for (int g = 0; g < 16; g++) {
        put_symmetric(b, g, vf_mul(d, signed_byte_of(word(b, 192 + g / 4 * 4), g % 4)));
    }
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < 32; i += 4) {
            vi q0 = word(b, 64 * h + i), q1 = word(b, 64 * h + 32 + i), upper = word(b, 128 + 32 * h + i);
            int column = 128 * h + i;
            put_code(b, column, vi_or(low_nibbles(q0), bits_up(upper, 4, 0x30)));
            put_code(b, column + 32, vi_or(low_nibbles(q1), bits_up(upper, 2, 0x30)));
            put_code(b, column + 64, vi_or(high_nibbles(q0), bits_at(upper, 0, 0x30)));
            put_code(b, column + 96, vi_or(high_nibbles(q1), bits_at(upper, 2, 0x30)));
        }
}

/* The blocks of a slab in pairs, so that a block's place in its words is a constant. */
#define PANEL(name, columns, bytes, group)                                                                 \
    static void panel_##name(const uint8_t *raw, int n_codes, struct panel *p)                             \
    {                                                                                                      \
        for (int i = 0; i < n_codes; i += 2 * (columns)) {                                                 \
            struct block even = { raw, p->code + i * LANES, p->scale + i / (group) * LANES,                \
                                  p->min + i / (group) * LANES, 0 };                                       \
            block_##name(&even);                                                                           \
            if (i + (columns) >= n_codes) return;                                                          \
            struct block second = { raw + (bytes) / 4 * sizeof(vi), even.code + (columns) * LANES,         \
                                    even.scale + (columns) / (group) * LANES,                              \
                                    even.min + (columns) / (group) * LANES, (bytes) / 2 % 2 };             \
            block_##name(&second);                                                                         \
            raw += (bytes) / 2 * sizeof(vi);                                                               \
        }                                                                                                  \
    }

/* Rows: name, columns of a block, its bytes, columns per scale, codes above 127, log2 of what a code is above
 * its value (−1: the format has minima) */
#define PANEL_FORMATS(X)                              \
    X(Q8_0, q8_0, 32, 34, 32, true, 7)                \
    X(Q4_0, q4_0, 32, 18, 32, false, 3)               \
    X(Q4_1, q4_1, 32, 20, 32, false, -1)              \
    X(Q5_0, q5_0, 32, 22, 32, false, 4)               \
    X(Q5_1, q5_1, 32, 24, 32, false, -1)              \
    X(Q2_K, q2_k, 256, 84, 16, false, -1)             \
    X(Q3_K, q3_k, 256, 110, 16, false, 2)             \
    X(Q4_K, q4_k, 256, 144, 32, false, -1)            \
    X(Q5_K, q5_k, 256, 176, 32, false, -1)            \
    X(Q6_K, q6_k, 256, 210, 16, false, 5)             \
    X(IQ4_NL, iq4_nl, 32, 18, 32, true, 7)            \
    X(IQ4_XS, iq4_xs, 256, 136, 32, true, 7)

#define X(NAME, name, columns, bytes, group, wide, zero) PANEL(name, columns, bytes, group)
PANEL_FORMATS(X)
#undef X

struct format {
    void (*unpack)(const uint8_t *raw /* (words, LANES) */, int n_codes, struct panel *p);
    int block; /* slabs are multiples of this: a block of 256, or a pair of 32 */
    int group; /* columns per scale: 16 or 32                                 */
    bool wide; /* codes above 127 occur; in groups of 32 only                 */
    int zero;  /* a value is (code - 2^zero) · scale; -1: code · scale + min  */
};
static const struct format formats[KV_CODES_COUNT] = {
#define X(NAME, name, columns, bytes, group, wide, zero) \
    [KV_CODES_##NAME] = { panel_##name, (columns) < 64 ? 64 : (columns), group, wide, zero },
    PANEL_FORMATS(X)
#undef X
};
