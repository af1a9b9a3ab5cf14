/* JSON in and out: the variables of a template, and its filter tojson. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_value.h"
#include "text/utf8.h"

#define DEPTH_MAX 64

/* ------------------------------------------------------------------------------------------------ read -- */

struct reader {
    struct kv_jarena *arena;
    const char *text;
    size_t n, at;
    struct kvant_error *err;
};

static kvant_status wrong(const struct reader *r, const char *what)
{
    KV_FAIL(r->err, KVANT_ERR_FORMAT, (int64_t)r->at, "JSON, byte %zu: %s", r->at, what);
}

static kvant_status no_memory(const struct reader *r)
{
    KV_FAIL(r->err, KVANT_ERR_MEMORY, -1, "JSON: larger than the memory that a template may use (%zu MB)",
            r->arena->n_limit >> 20);
}

static void skip_space(struct reader *r)
{
    while (r->at < r->n && strchr(" \t\n\r", r->text[r->at]) && r->text[r->at]) r->at++;
}

static bool hex4(const char *s, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++) {
        char c = s[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return false;
        *out = *out << 4 | (uint32_t)digit;
    }
    return true;
}

/* At the backslash; writes the character. */
static kvant_status read_escape(struct reader *r, char *to, size_t *n_to)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    size_t left = r->n - r->at;
    if (left < 2) return wrong(r, "an escape is cut off");
    const char *at = strchr(from, r->text[r->at + 1]);
    if (at && *at) {
        to[(*n_to)++] = into[at - from];
        r->at += 2;
        return KVANT_OK;
    }
    uint32_t rune, low;
    if (r->text[r->at + 1] != 'u' || left < 6 || !hex4(r->text + r->at + 2, &rune))
        return wrong(r, "not an escape of JSON");
    if (rune >= 0xdc00 && rune < 0xe000) return wrong(r, "half of a surrogate pair");
    size_t used = 6;
    if (rune >= 0xd800 && rune < 0xdc00) {
        const char *next = r->text + r->at + 6;
        if (left < 12 || next[0] != '\\' || next[1] != 'u' || !hex4(next + 2, &low) || low < 0xdc00 ||
            low >= 0xe000)
            return wrong(r, "half of a surrogate pair");
        rune = 0x10000 + ((rune - 0xd800) << 10) + (low - 0xdc00);
        used = 12;
    }
    *n_to += kv_jrune_write(rune, to + *n_to);
    r->at += used;
    return KVANT_OK;
}

/* At the opening quote. */
static kvant_status read_string(struct reader *r, struct kv_jval *out)
{
    size_t end = ++r->at;
    while (end < r->n && r->text[end] != '"') {
        end += r->text[end] == '\\' ? 2 : 1;
    }
    if (end >= r->n) return wrong(r, "a string is not closed");
    char *copy = kv_jarena_take(r->arena, end - r->at); /* no escape grows */
    size_t n = 0;
    if (!copy) return no_memory(r);
    while (r->at < end) {
        if (r->text[r->at] == '\\') {
            KV_TRY(read_escape(r, copy, &n));
            continue;
        }
        size_t length = kv_utf8_length(r->text + r->at, r->n - r->at);
        if (length == 0) return wrong(r, "not UTF-8");
        if ((unsigned char)r->text[r->at] < 0x20) return wrong(r, "a control character in a string");
        memcpy(copy + n, r->text + r->at, length);
        n += length;
        r->at += length;
    }
    r->at = end + 1;
    *out = kv_jval_str(copy, n);
    return KVANT_OK;
}

static size_t digits(const struct reader *r, size_t at)
{
    size_t n = 0;
    while (at + n < r->n && r->text[at + n] >= '0' && r->text[at + n] <= '9') n++;
    return n;
}

static kvant_status read_number(struct reader *r, struct kv_jval *out)
{
    size_t at = r->at + (r->text[r->at] == '-'), n = digits(r, at);
    bool whole = true;
    char text[400];
    if (n == 0 || (n > 1 && r->text[at] == '0')) return wrong(r, "not a number");
    at += n;
    if (at < r->n && r->text[at] == '.') {
        n = digits(r, at + 1);
        if (n == 0) return wrong(r, "a number without digits after its point");
        at += 1 + n;
        whole = false;
    }
    if (at < r->n && (r->text[at] == 'e' || r->text[at] == 'E')) {
        size_t sign = at + 1 < r->n && (r->text[at + 1] == '+' || r->text[at + 1] == '-');
        n = digits(r, at + 1 + sign);
        if (n == 0) return wrong(r, "a number without digits in its exponent");
        at += 1 + sign + n;
        whole = false;
    }
    if (at - r->at >= sizeof text) return wrong(r, "a number of too many digits");
    memcpy(text, r->text + r->at, at - r->at);
    text[at - r->at] = '\0';
    errno = 0;
    if (whole) {
        *out = kv_jval_int(strtoll(text, NULL, 10));
        if (errno) return wrong(r, "a whole number beyond 64 bits");
    } else {
        *out = kv_jval_float(strtod(text, NULL));
        if (!isfinite(out->f)) return wrong(r, "a number beyond the range of a double");
    }
    r->at = at;
    return KVANT_OK;
}

static kvant_status read_value(struct reader *r, int depth, struct kv_jval *out);

static kvant_status read_list(struct reader *r, int depth, struct kv_jval *out)
{
    struct kv_jval item;
    if (!kv_jlist_new(r->arena, KV_J_LIST, out)) return no_memory(r);
    r->at++;
    skip_space(r);
    if (r->at < r->n && r->text[r->at] == ']') {
        r->at++;
        return KVANT_OK;
    }
    for (;;) {
        KV_TRY(read_value(r, depth + 1, &item));
        if (!kv_jlist_add(r->arena, out->list, item)) return no_memory(r);
        skip_space(r);
        if (r->at >= r->n || (r->text[r->at] != ',' && r->text[r->at] != ']'))
            return wrong(r, "',' or ']' is missing");
        if (r->text[r->at++] == ']') return KVANT_OK;
    }
}

/* Members are appended, and looked for only when an earlier key is equal: a hostile object of many keys costs
 * its square, so their number is bounded. */
#define MEMBERS_MAX 4096

static kvant_status read_object(struct reader *r, int depth, struct kv_jval *out)
{
    struct kv_jval key, value;
    if (!kv_jdict_new(r->arena, KV_J_DICT, out)) return no_memory(r);
    r->at++;
    skip_space(r);
    if (r->at < r->n && r->text[r->at] == '}') {
        r->at++;
        return KVANT_OK;
    }
    for (;;) {
        skip_space(r);
        if (r->at >= r->n || r->text[r->at] != '"') return wrong(r, "a member's name is missing");
        KV_TRY(read_string(r, &key));
        skip_space(r);
        if (r->at >= r->n || r->text[r->at++] != ':') return wrong(r, "':' is missing");
        KV_TRY(read_value(r, depth + 1, &value));
        if (out->dict->n >= MEMBERS_MAX) return wrong(r, "an object of too many members");
        if (!kv_jdict_set(r->arena, out->dict, key, value)) return no_memory(r);
        skip_space(r);
        if (r->at >= r->n || (r->text[r->at] != ',' && r->text[r->at] != '}'))
            return wrong(r, "',' or '}' is missing");
        if (r->text[r->at++] == '}') return KVANT_OK;
    }
}

static bool read_word(struct reader *r, const char *word)
{
    size_t n = strlen(word);
    if (r->n - r->at < n || memcmp(r->text + r->at, word, n) != 0) return false;
    r->at += n;
    return true;
}

static kvant_status read_value(struct reader *r, int depth, struct kv_jval *out)
{
    skip_space(r);
    if (depth > DEPTH_MAX) return wrong(r, "nested too deeply");
    if (r->at >= r->n) return wrong(r, "a value is missing");
    switch (r->text[r->at]) {
    case '{': return read_object(r, depth, out);
    case '[': return read_list(r, depth, out);
    case '"': return read_string(r, out);
    case 't': *out = kv_jval_bool(true); return read_word(r, "true") ? KVANT_OK : wrong(r, "not a value");
    case 'f': *out = kv_jval_bool(false); return read_word(r, "false") ? KVANT_OK : wrong(r, "not a value");
    case 'n':
        *out = (struct kv_jval){ .kind = KV_J_NONE };
        return read_word(r, "null") ? KVANT_OK : wrong(r, "not a value");
    default: return read_number(r, out);
    }
}

kvant_status kv_json_read(struct kv_jarena *a, const char *text, size_t n_bytes, struct kv_jval *out,
                          struct kvant_error *err)
{
    struct reader r = { a, text, n_bytes, 0, err };
    KV_TRY(read_value(&r, 0, out));
    skip_space(&r);
    return r.at == r.n ? KVANT_OK : wrong(&r, "something follows the value");
}

/* ----------------------------------------------------------------------------------------------- write -- */

struct writer {
    struct kv_jbuf *b;
    const struct kv_json_style *style;
    const char **what;
};

static void write_unit(struct kv_jbuf *b, uint32_t unit)
{
    static const char hex[] = "0123456789abcdef";
    char text[6] = {
        '\\', 'u', hex[unit >> 12 & 15], hex[unit >> 8 & 15], hex[unit >> 4 & 15], hex[unit & 15]
    };
    kv_jbuf_put(b, text, sizeof text);
}

static void write_string(struct kv_jbuf *b, struct kv_jstr s, bool ensure_ascii)
{
    static const char from[] = "\"\\\b\f\n\r\t", into[] = "\"\\bfnrt";
    kv_jbuf_puts(b, "\"");
    for (size_t i = 0, length; i < s.n; i += length) {
        uint32_t rune = kv_jrune(s.s + i, s.n - i, &length);
        const char *at = rune && rune < 0x80 ? strchr(from, (int)rune) : NULL;
        if (at) {
            kv_jbuf_puts(b, "\\");
            kv_jbuf_put(b, &into[at - from], 1);
        } else if (rune < 0x20 || (ensure_ascii && rune >= 0x7f && rune < 0x10000)) {
            write_unit(b, rune);
        } else if (ensure_ascii && rune >= 0x10000) {
            write_unit(b, 0xd800 + ((rune - 0x10000) >> 10));
            write_unit(b, 0xdc00 + ((rune - 0x10000) & 0x3ff));
        } else
            kv_jbuf_put(b, s.s + i, length);
    }
    kv_jbuf_puts(b, "\"");
}

static void write_newline(const struct writer *w, int depth)
{
    if (w->style->indent < 0) return;
    kv_jbuf_puts(w->b, "\n");
    for (int i = 0; i < depth * w->style->indent; i++) kv_jbuf_puts(w->b, " ");
}

static bool write_value(const struct writer *w, const struct kv_jval *v, int depth);

static bool write_list(const struct writer *w, const struct kv_jlist *list, int depth)
{
    kv_jbuf_puts(w->b, "[");
    for (size_t i = 0; i < list->n; i++) {
        if (i) kv_jbuf_put(w->b, w->style->item_separator.s, w->style->item_separator.n);
        write_newline(w, depth + 1);
        if (!write_value(w, &list->items[i], depth + 1)) return false;
    }
    if (list->n) write_newline(w, depth);
    kv_jbuf_puts(w->b, "]");
    return true;
}

/* Keys of other types as Python writes them. */
static bool write_key(const struct writer *w, const struct kv_jval *key)
{
    if (key->kind == KV_J_STR) {
        write_string(w->b, key->s, w->style->ensure_ascii);
        return true;
    }
    if (key->kind > KV_J_FLOAT || key->kind == KV_J_UNDEFINED) {
        *w->what = kv_jval_type(key);
        return false;
    }
    kv_jbuf_puts(w->b, "\"");
    if (!write_value(w, key, 0)) return false;
    kv_jbuf_puts(w->b, "\"");
    return true;
}

/* The i-th member in the order of the keys: selection, as objects are small. */
static size_t next_key(const struct kv_jdict *dict, size_t i, const size_t *done)
{
    size_t best = dict->n;
    for (size_t k = 0; k < dict->n; k++) {
        bool used = false;
        for (size_t j = 0; j < i && !used; j++) used = done[j] == k;
        if (!used && (best == dict->n || kv_jval_compare(&dict->keys[k], &dict->keys[best]) == -1)) best = k;
    }
    return best;
}

static bool write_dict(const struct writer *w, const struct kv_jdict *dict, int depth)
{
    size_t *order = NULL;
    if (w->style->sort_keys) {
        order = kv_jarena_take(w->b->arena, (dict->n + 1) * sizeof *order);
        if (!order || dict->n > 256) {
            w->b->failed = true;
            return false;
        }
        for (size_t i = 0; i < dict->n; i++) order[i] = next_key(dict, i, order);
    }
    kv_jbuf_puts(w->b, "{");
    for (size_t i = 0; i < dict->n; i++) {
        size_t k = order ? order[i] : i;
        if (i) kv_jbuf_put(w->b, w->style->item_separator.s, w->style->item_separator.n);
        write_newline(w, depth + 1);
        if (!write_key(w, &dict->keys[k])) return false;
        kv_jbuf_put(w->b, w->style->key_separator.s, w->style->key_separator.n);
        if (!write_value(w, &dict->values[k], depth + 1)) return false;
    }
    if (dict->n) write_newline(w, depth);
    kv_jbuf_puts(w->b, "}");
    return true;
}

static bool write_value(const struct writer *w, const struct kv_jval *v, int depth)
{
    if (depth > DEPTH_MAX || w->b->failed) {
        w->b->failed = true;
        return false;
    }
    switch (v->kind) {
    case KV_J_NONE: kv_jbuf_puts(w->b, "null"); return true;
    case KV_J_BOOL: kv_jbuf_puts(w->b, v->b ? "true" : "false"); return true;
    case KV_J_INT: kv_jbuf_repr(w->b, v); return true;
    case KV_J_FLOAT:
        if (isfinite(v->f))
            kv_jbuf_float(w->b, v->f);
        else
            kv_jbuf_puts(w->b, isnan(v->f) ? "NaN" : v->f > 0 ? "Infinity" : "-Infinity");
        return true;
    case KV_J_STR: write_string(w->b, v->s, w->style->ensure_ascii); return true;
    case KV_J_LIST:
    case KV_J_TUPLE: return write_list(w, v->list, depth);
    case KV_J_DICT: return write_dict(w, v->dict, depth);
    default: *w->what = kv_jval_type(v); return false;
    }
}

bool kv_json_write(struct kv_jbuf *b, const struct kv_jval *v, const struct kv_json_style *style,
                   const char **what)
{
    struct writer w = { b, style, what };
    *what = NULL;
    return write_value(&w, v, 0) && !b->failed;
}
