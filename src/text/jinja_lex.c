/*
 * Tokens, with the whitespace rules of Jinja for trim_blocks and lstrip_blocks:
 *   - `-` beside a delimiter takes all whitespace on that side;
 *   - the newline after a block or comment goes (not after {{ }}), unless its end is `+%}`;
 *   - blanks between the start of a line and a block or comment go, unless it begins with `{%+`.
 */
#include "text/jinja_ast.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct lexer {
    struct kv_jarena *arena;
    struct kv_jtokens *out;
    const char *s;
    size_t n, at;
    int line;
    size_t line_at;     /* where `line` is right        */
    bool line_starting; /* the last tag ended with a newline */
    struct kvant_error *err;
};

static int line_of(struct lexer *x, size_t at)
{
    for (; x->line_at < at; x->line_at++) x->line += x->s[x->line_at] == '\n';
    return x->line;
}

static kvant_status wrong(struct lexer *x, size_t at, const char *what)
{
    int line = line_of(x, at);
    KV_FAIL(x->err, KVANT_ERR_FORMAT, line, "chat template, line %d: %s", line, what);
}

static kvant_status push(struct lexer *x, enum kv_jtoken_kind kind, const char *s, size_t n, size_t at)
{
    struct kv_jtokens *t = x->out;
    if (t->n == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 64;
        struct kv_jtoken *items = kv_jarena_take(x->arena, cap * sizeof *items);
        if (!items) KV_FAIL(x->err, KVANT_ERR_MEMORY, -1, "chat template: too large");
        if (t->n) memcpy(items, t->items, t->n * sizeof *items);
        t->items = items;
        t->cap = cap;
    }
    t->items[t->n++] = (struct kv_jtoken){ .kind = kind, .text = { s, n }, .line = line_of(x, at) };
    return KVANT_OK;
}

static size_t skip_space(const struct lexer *x, size_t at)
{
    size_t length;
    while (at < x->n && kv_jrune_is_space(kv_jrune(x->s + at, x->n - at, &length))) at += length;
    return at;
}

static bool at_text(const struct lexer *x, size_t at, const char *text)
{
    size_t n = strlen(text);
    return x->n - at >= n && memcmp(x->s + at, text, n) == 0;
}

/* ------------------------------------------------------------------------------------------ data, tags -- */

/* The text before a tag that begins at x->at + n, as the tag leaves it. */
static kvant_status push_text(struct lexer *x, size_t n, char sign, bool is_output)
{
    struct kv_jstr text = { x->s + x->at, n };
    if (sign == '-') {
        while (text.n > 0) { /* back over whitespace, code point by code point */
            size_t last = text.n - 1, length;
            while (last > 0 && ((unsigned char)text.s[last] & 0xc0) == 0x80) last--;
            if (!kv_jrune_is_space(kv_jrune(text.s + last, text.n - last, &length))) break;
            text.n = last;
        }
    } else if (sign != '+' && !is_output) {
        const char *newline = memrchr(text.s, '\n', text.n);
        size_t first = newline ? (size_t)(newline - text.s) + 1 : 0;
        if (newline || x->line_starting) {
            size_t at = first, length;
            while (at < text.n && kv_jrune_is_space(kv_jrune(text.s + at, text.n - at, &length)))
                at += length;
            if (at == text.n) text.n = first;
        }
    }
    return text.n ? push(x, KV_JT_TEXT, text.s, text.n, x->at) : KVANT_OK;
}

static void end_tag(struct lexer *x, size_t at)
{
    x->at = at;
    x->line_starting = x->s[at - 1] == '\n';
}

/* If a tag ends at `at` with this mark ("%}"), where what follows begins; else 0. */
static size_t tag_end(const struct lexer *x, size_t at, const char *mark, bool trims)
{
    if (x->s[at] == '-' && at_text(x, at + 1, mark)) return skip_space(x, at + 3);
    if (trims && x->s[at] == '+' && at_text(x, at + 1, mark)) return at + 3;
    if (!at_text(x, at, mark)) return 0;
    return at + 2 + (trims && at + 2 < x->n && x->s[at + 2] == '\n');
}

static kvant_status lex_comment(struct lexer *x, size_t open)
{
    for (size_t at = open + 2; at + 1 < x->n; at++) {
        size_t end = tag_end(x, at, "#}", true);
        if (end) {
            end_tag(x, end);
            return KVANT_OK;
        }
    }
    return wrong(x, open, "a comment {# is not closed");
}

/* {% raw %}: the whole block, if there is one at `open`; *done says so. */
static kvant_status lex_raw(struct lexer *x, size_t open, bool *done)
{
    size_t at = open + 2;
    at += at < x->n && (x->s[at] == '-' || x->s[at] == '+');
    at = skip_space(x, at);
    *done = false;
    if (!at_text(x, at, "raw")) return KVANT_OK;
    at = skip_space(x, at + 3);
    if (at >= x->n) return KVANT_OK;
    size_t first = at_text(x, at, "-%}") ? skip_space(x, at + 3) : at_text(x, at, "%}") ? at + 2 : 0;
    if (!first) return KVANT_OK;
    *done = true;
    for (at = first; at + 1 < x->n; at++) {
        if (!at_text(x, at, "{%")) continue;
        size_t name = at + 2;
        char sign = name < x->n ? x->s[name] : '\0';
        name = skip_space(x, name + (sign == '-' || sign == '+'));
        if (!at_text(x, name, "endraw")) continue;
        size_t close = skip_space(x, name + 6), end = close < x->n ? tag_end(x, close, "%}", true) : 0;
        if (!end) continue;
        x->at = first;
        KV_TRY(push_text(x, at - first, sign, false));
        end_tag(x, end);
        return KVANT_OK;
    }
    return wrong(x, open, "{% raw %} without {% endraw %}");
}

/* -------------------------------------------------------------------------------------- inside of tags -- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The escape at s[0] == '\\', n >= 2 bytes left, into `to`; returns its bytes, 0 when it is wrong. */
static size_t read_escape(const char *s, size_t n, char *to, size_t *n_to)
{
    static const char from[] = "\\'\"abfnrtv", into[] = "\\'\"\a\b\f\n\r\t\v";
    const char *at = s[1] ? strchr(from, s[1]) : NULL;
    if (at) {
        to[(*n_to)++] = into[at - from];
        return 2;
    }
    if (s[1] == '\n') return 2; /* the line goes on */
    uint32_t rune = 0;
    size_t used = 1;
    if (s[1] >= '0' && s[1] <= '7') {
        for (; used < 4 && used < n && s[used] >= '0' && s[used] <= '7'; used++)
            rune = rune << 3 | (uint32_t)(s[used] - '0');
    } else if (s[1] == 'x' || s[1] == 'u' || s[1] == 'U') {
        size_t n_digits = s[1] == 'x' ? 2 : s[1] == 'u' ? 4 : 8;
        if (n < 2 + n_digits) return 0;
        for (used = 2; used < 2 + n_digits; used++) {
            int digit = hex_digit(s[used]);
            if (digit < 0) return 0;
            rune = rune << 4 | (uint32_t)digit;
        }
        if (rune > 0x10ffff || (rune >= 0xd800 && rune < 0xe000)) return 0;
    } else { /* unknown: both characters stay */
        to[(*n_to)++] = '\\';
        return 1;
    }
    *n_to += kv_jrune_write(rune, to + *n_to);
    return used;
}

static kvant_status lex_string(struct lexer *x)
{
    char quote = x->s[x->at];
    size_t first = x->at + 1, end = first, n = 0;
    while (end < x->n && x->s[end] != quote) end += x->s[end] == '\\' ? 2 : 1;
    if (end >= x->n) return wrong(x, x->at, "a string is not closed");
    char *copy = kv_jarena_take(x->arena, end - first + 4);
    if (!copy) KV_FAIL(x->err, KVANT_ERR_MEMORY, -1, "chat template: too large");
    for (size_t i = first; i < end;) {
        if (x->s[i] != '\\') {
            copy[n++] = x->s[i++];
            continue;
        }
        size_t used = read_escape(x->s + i, end - i, copy, &n);
        if (!used) return wrong(x, i, "not an escape of a string");
        i += used;
    }
    KV_TRY(push(x, KV_JT_STRING, copy, n, x->at));
    x->at = end + 1;
    return KVANT_OK;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80 ||
           (!first && is_digit(c));
}

static kvant_status lex_number(struct lexer *x)
{
    char text[64];
    size_t n = 0, at = x->at;
    bool after_dot = at > 0 && x->s[at - 1] == '.', whole = true;
    int base = 10;
    if (x->s[at] == '0' && at + 1 < x->n && strchr("xXoObB", x->s[at + 1])) {
        base = strchr("xX", x->s[at + 1]) ? 16 : strchr("oO", x->s[at + 1]) ? 8 : 2;
        at += 2;
    }
    for (; at < x->n && n + 1 < sizeof text; at++) {
        char c = x->s[at];
        if (c == '_' && at + 1 < x->n && hex_digit(x->s[at + 1]) >= 0) continue;
        bool exponent = base == 10 && (c == 'e' || c == 'E') && !after_dot && at + 1 < x->n &&
                        (is_digit(x->s[at + 1]) || ((x->s[at + 1] == '-' || x->s[at + 1] == '+') &&
                                                    at + 2 < x->n && is_digit(x->s[at + 2])));
        bool point = base == 10 && c == '.' && whole && !after_dot && at + 1 < x->n && is_digit(x->s[at + 1]);
        if (!(base == 16 ? hex_digit(c) >= 0 : is_digit(c)) && !exponent && !point) break;
        text[n++] = c;
        if (exponent && !is_digit(x->s[at + 1])) text[n++] = x->s[++at];
        whole &= !exponent && !point;
    }
    char *end;
    text[n] = '\0';
    errno = 0;
    KV_TRY(push(x, whole ? KV_JT_INT : KV_JT_FLOAT, x->s + x->at, at - x->at, x->at));
    struct kv_jtoken *t = &x->out->items[x->out->n - 1];
    if (whole)
        t->i = strtoll(text, &end, base);
    else
        t->f = strtod(text, &end);
    if (errno || *end || n == 0 || n + 2 > sizeof text ||
        (whole && base == 10 && n > 1 && text[0] == '0' && t->i))
        return wrong(x, x->at, "not a number");
    x->at = at;
    return KVANT_OK;
}

static kvant_status lex_operator(struct lexer *x)
{
    static const char *const two[] = { "**", "//", "==", "!=", ">=", "<=" };
    for (size_t i = 0; i < sizeof two / sizeof two[0]; i++)
        if (at_text(x, x->at, two[i])) {
            KV_TRY(push(x, KV_JT_OP, two[i], 2, x->at));
            x->at += 2;
            return KVANT_OK;
        }
    if (!x->s[x->at] || !strchr("+-/*%~[](){}<>=.:|,;", x->s[x->at]))
        return wrong(x, x->at, "an unexpected character in a tag");
    KV_TRY(push(x, KV_JT_OP, x->s + x->at, 1, x->at));
    x->at++;
    return KVANT_OK;
}

static kvant_status lex_tag(struct lexer *x, size_t open, bool is_output)
{
    const char *mark = is_output ? "}}" : "%}";
    int depth = 0;
    x->at = open + 2;
    KV_TRY(push(x, is_output ? KV_JT_OPEN_OUTPUT : KV_JT_OPEN_BLOCK, x->s + open, 2, open));
    if (x->at < x->n && (x->s[x->at] == '-' || x->s[x->at] == '+')) x->at++;
    for (;;) {
        x->at = skip_space(x, x->at);
        if (x->at >= x->n) return wrong(x, open, "a tag is not closed");
        size_t end = depth == 0 ? tag_end(x, x->at, mark, !is_output) : 0;
        if (end) {
            KV_TRY(push(x, KV_JT_CLOSE, x->s + x->at, 2, x->at));
            end_tag(x, end);
            return KVANT_OK;
        }
        char c = x->s[x->at];
        if (c == '"' || c == '\'')
            KV_TRY(lex_string(x));
        else if (is_digit(c))
            KV_TRY(lex_number(x));
        else if (is_name(c, true)) {
            size_t from = x->at;
            while (x->at < x->n && is_name(x->s[x->at], false)) x->at++;
            KV_TRY(push(x, KV_JT_NAME, x->s + from, x->at - from, from));
        } else {
            depth += c == '(' || c == '[' || c == '{';
            if (c == ')' || c == ']' || c == '}') depth--;
            if (depth < 0) return wrong(x, x->at, "a bracket is closed that was not opened");
            KV_TRY(lex_operator(x));
        }
    }
}

kvant_status kv_jinja_lex(struct kv_jarena *a, struct kv_jstr source, struct kv_jtokens *out,
                          struct kvant_error *err)
{
    struct lexer x = {
        .arena = a, .out = out, .s = source.s, .n = source.n, .line = 1, .line_starting = true, .err = err
    };
    while (x.at < x.n) {
        size_t open = x.at;
        while (open + 1 < x.n &&
               !(x.s[open] == '{' && (x.s[open + 1] == '{' || x.s[open + 1] == '%' || x.s[open + 1] == '#')))
            open++;
        if (open + 1 >= x.n) {
            KV_TRY(push(&x, KV_JT_TEXT, x.s + x.at, x.n - x.at, x.at));
            break;
        }
        char kind = x.s[open + 1], sign = open + 2 < x.n ? x.s[open + 2] : '\0';
        KV_TRY(push_text(&x, open - x.at, sign, kind == '{'));
        bool raw = false;
        if (kind == '%') KV_TRY(lex_raw(&x, open, &raw));
        if (raw) continue;
        if (kind == '#')
            KV_TRY(lex_comment(&x, open));
        else
            KV_TRY(lex_tag(&x, open, kind == '{'));
    }
    return push(&x, KV_JT_END, "", 0, x.n);
}
