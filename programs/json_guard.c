#include "json_guard.h"

#include <string.h>

#define DEPTH_MAX  64
#define BLANKS_MAX 32

enum state {
    AT_START,     /* of the whole                    */
    IN_FIRST_KEY, /* behind {: a key, or }           */
    IN_KEY,       /* behind a comma of an object     */
    IN_COLON,
    IN_FIRST_VALUE, /* behind [: a value, or ]         */
    IN_VALUE,
    BEHIND_VALUE, /* a comma, or the end of what is open */
    IN_STRING,
    IN_CHARACTER, /* of several bytes, in a string   */
    IN_ESCAPE,
    IN_HEX,
    IN_PAIR_SLASH, /* the second half of a pair       */
    IN_PAIR_U,
    IN_WORD,
    BEHIND_MINUS,
    BEHIND_ZERO,
    IN_INTEGER,
    BEHIND_POINT,
    IN_FRACTION,
    BEHIND_E,
    BEHIND_E_SIGN,
    IN_EXPONENT,
    AT_END
};

static bool go(struct json_guard *g, enum state state)
{
    g->state = (uint8_t)state;
    return true;
}

static bool open_nested(struct json_guard *g, bool array)
{
    if (g->depth == DEPTH_MAX) return false;
    uint64_t bit = (uint64_t)1 << g->depth++;
    g->arrays = array ? g->arrays | bit : g->arrays & ~bit;
    return go(g, array ? IN_FIRST_VALUE : IN_FIRST_KEY);
}

static bool in_array(const struct json_guard *g)
{
    return g->arrays >> (g->depth - 1) & 1;
}

static bool close_nested(struct json_guard *g, unsigned char c)
{
    if (in_array(g) != (c == ']')) return false;
    g->depth--;
    return go(g, g->depth ? BEHIND_VALUE : AT_END);
}

static bool begin_string(struct json_guard *g, bool is_key)
{
    g->is_key = is_key;
    g->pair = false;
    return go(g, IN_STRING);
}

static bool begin_word(struct json_guard *g, const char *rest)
{
    g->word = rest;
    return go(g, IN_WORD);
}

static bool begin_value(struct json_guard *g, unsigned char c)
{
    g->n_digits = 1;
    switch (c) {
    case '{': return open_nested(g, false);
    case '[': return open_nested(g, true);
    case '"': return begin_string(g, false);
    case 't': return begin_word(g, "rue");
    case 'f': return begin_word(g, "alse");
    case 'n': return begin_word(g, "ull");
    case '-': g->n_digits = 0; return go(g, BEHIND_MINUS);
    case '0': return go(g, BEHIND_ZERO);
    default: return c >= '1' && c <= '9' && go(g, IN_INTEGER);
    }
}

static bool behind_value(struct json_guard *g, unsigned char c)
{
    if (c == ',') return go(g, in_array(g) ? IN_VALUE : IN_KEY);
    return (c == '}' || c == ']') && close_nested(g, c);
}

/* The first byte of a character, or one that ends or escapes. RFC 3629, section 4. */
static bool in_string(struct json_guard *g, unsigned char c)
{
    if (c == '"') return go(g, g->is_key ? IN_COLON : BEHIND_VALUE);
    if (c == '\\') return go(g, IN_ESCAPE);
    if (c < 0x80) return c >= 0x20;
    if (c < 0xc2 || c > 0xf4) return false;
    g->left = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    g->low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    g->high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    return go(g, IN_CHARACTER);
}

static bool in_character(struct json_guard *g, unsigned char c)
{
    if (c < g->low || c > g->high) return false;
    g->low = 0x80;
    g->high = 0xbf;
    return --g->left > 0 || go(g, IN_STRING);
}

static bool in_escape(struct json_guard *g, unsigned char c)
{
    if (c == 'u') {
        g->n_digits = 0;
        g->hex = 0;
        return go(g, IN_HEX);
    }
    return c && strchr("\"\\/bfnrt", c) && go(g, IN_STRING);
}

static bool in_hex(struct json_guard *g, unsigned char c)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char lower = c >= 'A' && c <= 'F' ? (unsigned char)(c | 0x20) : c;
    const char *at = lower ? strchr(digits, lower) : NULL;
    if (!at) return false;
    g->hex = (uint16_t)(g->hex << 4 | (at - digits));
    /* The second half of a pair, and only that, is dc00 to dfff: seen at its first two digits, for what is
     * refused at the last one has no way to go on. */
    switch (++g->n_digits) {
    case 1: return !g->pair || g->hex == 0xd;
    case 2: return g->pair == (g->hex >= 0xdc && g->hex < 0xe0);
    case 3: return true;
    default: break;
    }
    if (g->hex == 0) return false;
    g->pair = g->hex >= 0xd800 && g->hex < 0xdc00;
    return go(g, g->pair ? IN_PAIR_SLASH : IN_STRING);
}

/* A number ends with the byte behind it. */
static bool in_number(struct json_guard *g, unsigned char c)
{
    bool digit = c >= '0' && c <= '9';
    uint8_t most = g->state == IN_FRACTION || g->state == BEHIND_POINT ? 20
                   : g->state < BEHIND_POINT                           ? 15
                                                                       : 2;
    if (digit && g->state != BEHIND_ZERO) {
        if (g->n_digits == most) return false;
        g->n_digits++;
    }
    switch ((enum state)g->state) {
    case BEHIND_MINUS: return digit && go(g, c == '0' ? BEHIND_ZERO : IN_INTEGER);
    case BEHIND_POINT: return digit && go(g, IN_FRACTION);
    case BEHIND_E:
        if (c == '+' || c == '-') return go(g, BEHIND_E_SIGN);
        return digit && go(g, IN_EXPONENT);
    case BEHIND_E_SIGN: return digit && go(g, IN_EXPONENT);
    case IN_EXPONENT: return digit || behind_value(g, c);
    default: break; /* an integer or a fraction */
    }
    if (digit) return g->state != BEHIND_ZERO;
    bool point = c == '.' && g->state != IN_FRACTION;
    if (!point && c != 'e' && c != 'E') return behind_value(g, c);
    g->n_digits = 0;
    return go(g, point ? BEHIND_POINT : BEHIND_E);
}

static bool is_blank(unsigned char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

bool json_guard_byte(struct json_guard *g, unsigned char c)
{
    enum state state = (enum state)g->state;
    bool ends_number = state == BEHIND_ZERO || state == IN_INTEGER || state == IN_FRACTION ||
                       state == IN_EXPONENT;
    if (is_blank(c) && (state <= BEHIND_VALUE || ends_number)) {
        if (ends_number) g->state = BEHIND_VALUE;
        return ++g->n_blank <= BLANKS_MAX;
    }
    g->n_blank = 0;
    switch (state) {
    case AT_START: return c == '{' && open_nested(g, false);
    case IN_FIRST_KEY: return c == '}' ? close_nested(g, c) : c == '"' && begin_string(g, true);
    case IN_KEY: return c == '"' && begin_string(g, true);
    case IN_COLON: return c == ':' && go(g, IN_VALUE);
    case IN_FIRST_VALUE: return c == ']' ? close_nested(g, c) : begin_value(g, c);
    case IN_VALUE: return begin_value(g, c);
    case BEHIND_VALUE: return behind_value(g, c);
    case IN_STRING: return in_string(g, c);
    case IN_CHARACTER: return in_character(g, c);
    case IN_ESCAPE: return in_escape(g, c);
    case IN_HEX: return in_hex(g, c);
    case IN_PAIR_SLASH: return c == '\\' && go(g, IN_PAIR_U);
    case IN_PAIR_U: return c == 'u' && in_escape(g, c);
    case IN_WORD: return c == (unsigned char)*g->word && (*++g->word || go(g, BEHIND_VALUE));
    case AT_END: return false;
    default: return in_number(g, c);
    }
}

bool json_guard_bytes(struct json_guard *g, const char *bytes, size_t n)
{
    struct json_guard after = *g;
    for (size_t i = 0; i < n; i++)
        if (!json_guard_byte(&after, (unsigned char)bytes[i])) return false;
    *g = after;
    return true;
}

bool json_guard_done(const struct json_guard *g)
{
    return g->state == AT_END;
}
