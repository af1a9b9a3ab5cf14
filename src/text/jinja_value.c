#include "text/jinja_value.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define DEPTH_MAX   64
#define CHUNK_BYTES ((size_t)32768)

/* ----------------------------------------------------------------------------------------------- arena -- */

struct kv_jchunk {
    struct kv_jchunk *next;
    size_t n_bytes;
};

void *kv_jarena_take(struct kv_jarena *a, size_t n_bytes)
{
    if (n_bytes > a->n_limit) return NULL;
    n_bytes = (n_bytes + 15) & ~(size_t)15;
    if (n_bytes == 0) n_bytes = 16;
    if (n_bytes > a->n_left) {
        size_t body = n_bytes > CHUNK_BYTES / 4 ? n_bytes : CHUNK_BYTES;
        if (body > a->n_limit - a->n_total) return NULL;
        struct kv_jchunk *chunk = kv_alloc(1, KV_ALIGN + body);
        if (!chunk) return NULL;
        chunk->next = a->chunks;
        a->chunks = chunk;
        a->n_total += body;
        char *data = (char *)chunk + KV_ALIGN;
        if (body == n_bytes) return data; /* a block of its own: the chunk in use goes on */
        a->at = data;
        a->n_left = body;
    }
    void *p = a->at;
    a->at += n_bytes;
    a->n_left -= n_bytes;
    return p;
}

void kv_jarena_close(struct kv_jarena *a)
{
    while (a->chunks) {
        struct kv_jchunk *chunk = a->chunks;
        a->chunks = chunk->next;
        kv_free(chunk);
    }
    *a = (struct kv_jarena){ 0 };
}

/* ---------------------------------------------------------------------------------------------- values -- */

bool kv_jstr_equal(struct kv_jstr a, struct kv_jstr b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.s, b.s, a.n) == 0);
}

bool kv_jstr_is(struct kv_jstr a, const char *text)
{
    return strlen(text) == a.n && (a.n == 0 || memcmp(a.s, text, a.n) == 0);
}

struct kv_jval kv_jval_str(const char *s, size_t n)
{
    return (struct kv_jval){ .kind = KV_J_STR, .s = { s, n } };
}

struct kv_jval kv_jval_int(int64_t i)
{
    return (struct kv_jval){ .kind = KV_J_INT, .i = i };
}

struct kv_jval kv_jval_bool(bool b)
{
    return (struct kv_jval){ .kind = KV_J_BOOL, .b = b };
}

struct kv_jval kv_jval_float(double f)
{
    return (struct kv_jval){ .kind = KV_J_FLOAT, .f = f };
}

bool kv_jlist_new(struct kv_jarena *a, enum kv_jkind kind, struct kv_jval *out)
{
    struct kv_jlist *list = kv_jarena_take(a, sizeof *list);
    *out = (struct kv_jval){ .kind = kind, .list = list };
    return list != NULL;
}

/* Twice the room for n elements; the old ones are copied. */
static void *grow(struct kv_jarena *a, const void *old, size_t n, size_t cap, size_t size)
{
    void *p = kv_jarena_take(a, cap * size);
    if (p && n) memcpy(p, old, n * size);
    return p;
}

bool kv_jlist_add(struct kv_jarena *a, struct kv_jlist *list, struct kv_jval item)
{
    if (list->n == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 4;
        struct kv_jval *items = grow(a, list->items, list->n, cap, sizeof *items);
        if (!items) return false;
        list->items = items;
        list->cap = cap;
    }
    list->items[list->n++] = item;
    return true;
}

bool kv_jdict_new(struct kv_jarena *a, enum kv_jkind kind, struct kv_jval *out)
{
    struct kv_jdict *dict = kv_jarena_take(a, sizeof *dict);
    *out = (struct kv_jval){ .kind = kind, .dict = dict };
    return dict != NULL;
}

struct kv_jval *kv_jdict_get(const struct kv_jdict *dict, struct kv_jval key)
{
    for (size_t i = 0; i < dict->n; i++)
        if (kv_jval_equal(&dict->keys[i], &key)) return &dict->values[i];
    return NULL;
}

struct kv_jval *kv_jdict_find(const struct kv_jdict *dict, struct kv_jstr key)
{
    for (size_t i = 0; i < dict->n; i++)
        if (dict->keys[i].kind == KV_J_STR && kv_jstr_equal(dict->keys[i].s, key)) return &dict->values[i];
    return NULL;
}

bool kv_jdict_set(struct kv_jarena *a, struct kv_jdict *dict, struct kv_jval key, struct kv_jval value)
{
    struct kv_jval *there = kv_jdict_get(dict, key);
    if (there) {
        *there = value;
        return true;
    }
    if (dict->n == dict->cap) {
        size_t cap = dict->cap ? 2 * dict->cap : 4;
        struct kv_jval *keys = grow(a, dict->keys, dict->n, cap, sizeof *keys);
        struct kv_jval *values = grow(a, dict->values, dict->n, cap, sizeof *values);
        if (!keys || !values) return false;
        dict->keys = keys;
        dict->values = values;
        dict->cap = cap;
    }
    dict->keys[dict->n] = key;
    dict->values[dict->n++] = value;
    return true;
}

bool kv_jval_truth(const struct kv_jval *v)
{
    switch (v->kind) {
    case KV_J_UNDEFINED:
    case KV_J_NONE: return false;
    case KV_J_BOOL: return v->b;
    case KV_J_INT: return v->i != 0;
    case KV_J_FLOAT: return v->f != 0.0;
    case KV_J_STR: return v->s.n > 0;
    case KV_J_LIST:
    case KV_J_TUPLE: return v->list->n > 0;
    case KV_J_DICT: return v->dict->n > 0;
    default: return true;
    }
}

static bool is_number(const struct kv_jval *v)
{
    return v->kind == KV_J_BOOL || v->kind == KV_J_INT || v->kind == KV_J_FLOAT;
}

static int64_t whole(const struct kv_jval *v)
{
    return v->kind == KV_J_BOOL ? v->b : v->i;
}

static int compare_numbers(const struct kv_jval *a, const struct kv_jval *b)
{
    if (a->kind != KV_J_FLOAT && b->kind != KV_J_FLOAT) return (whole(a) > whole(b)) - (whole(a) < whole(b));
    double x = a->kind == KV_J_FLOAT ? a->f : (double)whole(a),
           y = b->kind == KV_J_FLOAT ? b->f : (double)whole(b);
    if (x < y) return -1;
    if (x > y) return 1;
    return x == y ? 0 : 2;
}

static bool equal_at(const struct kv_jval *a, const struct kv_jval *b, int depth)
{
    if (is_number(a) && is_number(b)) return compare_numbers(a, b) == 0;
    if (a->kind != b->kind || depth > DEPTH_MAX) return false;
    switch (a->kind) {
    case KV_J_UNDEFINED:
    case KV_J_NONE: return true;
    case KV_J_STR: return kv_jstr_equal(a->s, b->s);
    case KV_J_LIST:
    case KV_J_TUPLE:
        if (a->list->n != b->list->n) return false;
        for (size_t i = 0; i < a->list->n; i++)
            if (!equal_at(&a->list->items[i], &b->list->items[i], depth + 1)) return false;
        return true;
    case KV_J_DICT:
        if (a->dict->n != b->dict->n) return false;
        for (size_t i = 0; i < a->dict->n; i++) {
            const struct kv_jval *other = kv_jdict_get(b->dict, a->dict->keys[i]);
            if (!other || !equal_at(&a->dict->values[i], other, depth + 1)) return false;
        }
        return true;
    case KV_J_BUILTIN: return a->builtin == b->builtin;
    case KV_J_NAMESPACE: return a->dict == b->dict;
    case KV_J_LOOP: return a->loop == b->loop;
    case KV_J_MACRO: return a->macro == b->macro;
    default: return false;
    }
}

bool kv_jval_equal(const struct kv_jval *a, const struct kv_jval *b)
{
    return equal_at(a, b, 0);
}

static int compare_at(const struct kv_jval *a, const struct kv_jval *b, int depth)
{
    if (is_number(a) && is_number(b)) return compare_numbers(a, b);
    if (a->kind != b->kind || depth > DEPTH_MAX) return 2;
    if (a->kind == KV_J_STR) { /* UTF-8 sorts as its code points do */
        size_t n = a->s.n < b->s.n ? a->s.n : b->s.n;
        int order = n ? memcmp(a->s.s, b->s.s, n) : 0;
        if (order != 0) return order < 0 ? -1 : 1;
        return (a->s.n > b->s.n) - (a->s.n < b->s.n);
    }
    if (a->kind != KV_J_LIST && a->kind != KV_J_TUPLE) return 2;
    for (size_t i = 0; i < a->list->n && i < b->list->n; i++) {
        if (equal_at(&a->list->items[i], &b->list->items[i], depth + 1)) continue;
        return compare_at(&a->list->items[i], &b->list->items[i], depth + 1);
    }
    return (a->list->n > b->list->n) - (a->list->n < b->list->n);
}

int kv_jval_compare(const struct kv_jval *a, const struct kv_jval *b)
{
    return compare_at(a, b, 0);
}

const char *kv_jval_type(const struct kv_jval *v)
{
    static const char *const names[] = { "Undefined", "NoneType", "bool",     "int",   "float",
                                         "str",       "list",     "tuple",    "dict",  "Namespace",
                                         "loop",      "Macro",    "function", "method" };
    return names[v->kind];
}

/* -------------------------------------------------------------------------------------------- text out -- */

void kv_jbuf_put(struct kv_jbuf *b, const char *s, size_t n)
{
    if (b->failed || n == 0) return;
    if (n > b->cap - b->n) {
        size_t cap = b->cap ? b->cap : 64;
        while (cap - b->n < n) {
            if (cap > SIZE_MAX / 4) {
                b->failed = true;
                return;
            }
            cap *= 2;
        }
        char *data = grow(b->arena, b->data, b->n, cap, 1);
        if (!data) {
            b->failed = true;
            return;
        }
        b->data = data;
        b->cap = cap;
    }
    memcpy(b->data + b->n, s, n);
    b->n += n;
}

void kv_jbuf_puts(struct kv_jbuf *b, const char *s)
{
    kv_jbuf_put(b, s, strlen(s));
}

struct kv_jval kv_jbuf_value(const struct kv_jbuf *b)
{
    return kv_jval_str(b->data ? b->data : "", b->n);
}

/* Shortest digits d1d2...dn (no point) and the exponent of d1 that read back as |f|. */
static int shortest_digits(double f, char digits[20], int *exponent)
{
    char text[40];
    for (int n = 1; n <= 17; n++) {
        snprintf(text, sizeof text, "%.*e", n - 1, f);
        if (strtod(text, NULL) == f) break;
    }
    int n = 0;
    const char *p = text;
    for (; *p && *p != 'e'; p++)
        if (*p >= '0' && *p <= '9') digits[n++] = *p;
    *exponent = *p == 'e' ? atoi(p + 1) : 0;
    while (n > 1 && digits[n - 1] == '0') n--;
    return n;
}

void kv_jbuf_float(struct kv_jbuf *b, double f)
{
    if (!isfinite(f)) {
        kv_jbuf_puts(b, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    if (signbit(f)) kv_jbuf_puts(b, "-");
    char digits[20];
    int exponent, n = shortest_digits(fabs(f), digits, &exponent);
    if (exponent < -4 || exponent >= 16) {
        char tail[16];
        kv_jbuf_put(b, digits, 1);
        if (n > 1) kv_jbuf_puts(b, ".");
        kv_jbuf_put(b, digits + 1, (size_t)(n - 1));
        snprintf(tail, sizeof tail, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        kv_jbuf_puts(b, tail);
        return;
    }
    if (exponent < 0) kv_jbuf_puts(b, "0.");
    for (int i = -1; i > exponent; i--) kv_jbuf_puts(b, "0");
    for (int i = 0; i < n; i++) {
        kv_jbuf_put(b, digits + i, 1);
        if (i == exponent && i + 1 < n) kv_jbuf_puts(b, ".");
    }
    for (int i = n; i <= exponent; i++) kv_jbuf_puts(b, "0");
    if (exponent >= n - 1) kv_jbuf_puts(b, ".0");
}

static bool is_printable(uint32_t rune)
{
    if (rune < 0x20 || (rune >= 0x7f && rune < 0xa1) || rune == 0xad) return false;
    if (kv_jrune_is_space(rune) && rune != ' ') return false;
    return !(rune >= 0x200b && rune <= 0x200f) && !(rune >= 0x202a && rune <= 0x202e) && rune != 0xfeff &&
           !(rune >= 0x2060 && rune <= 0x206f) && !(rune >= 0xe000 && rune <= 0xf8ff);
}

static void put_quoted(struct kv_jbuf *b, struct kv_jstr s)
{
    char quote = memchr(s.s, '\'', s.n) && !memchr(s.s, '"', s.n) ? '"' : '\'';
    kv_jbuf_put(b, &quote, 1);
    for (size_t i = 0, length; i < s.n; i += length) {
        char text[16];
        uint32_t rune = kv_jrune(s.s + i, s.n - i, &length);
        if (rune == '\n')
            kv_jbuf_puts(b, "\\n");
        else if (rune == '\r')
            kv_jbuf_puts(b, "\\r");
        else if (rune == '\t')
            kv_jbuf_puts(b, "\\t");
        else if (rune == '\\' || rune == (uint32_t)quote) {
            snprintf(text, sizeof text, "\\%c", (int)rune);
            kv_jbuf_puts(b, text);
        } else if (!is_printable(rune)) {
            snprintf(text, sizeof text,
                     rune < 0x100     ? "\\x%02x"
                     : rune < 0x10000 ? "\\u%04x"
                                      : "\\U%08x",
                     rune);
            kv_jbuf_puts(b, text);
        } else
            kv_jbuf_put(b, s.s + i, length);
    }
    kv_jbuf_put(b, &quote, 1);
}

static void put_repr(struct kv_jbuf *b, const struct kv_jval *v, int depth);

static void put_list(struct kv_jbuf *b, const struct kv_jval *v, int depth)
{
    bool tuple = v->kind == KV_J_TUPLE;
    kv_jbuf_puts(b, tuple ? "(" : "[");
    for (size_t i = 0; i < v->list->n; i++) {
        if (i) kv_jbuf_puts(b, ", ");
        put_repr(b, &v->list->items[i], depth + 1);
    }
    kv_jbuf_puts(b, !tuple ? "]" : v->list->n == 1 ? ",)" : ")");
}

static void put_dict(struct kv_jbuf *b, const struct kv_jval *v, int depth)
{
    kv_jbuf_puts(b, "{");
    for (size_t i = 0; i < v->dict->n; i++) {
        if (i) kv_jbuf_puts(b, ", ");
        put_repr(b, &v->dict->keys[i], depth + 1);
        kv_jbuf_puts(b, ": ");
        put_repr(b, &v->dict->values[i], depth + 1);
    }
    kv_jbuf_puts(b, "}");
}

static void put_repr(struct kv_jbuf *b, const struct kv_jval *v, int depth)
{
    char text[32];
    if (depth > DEPTH_MAX || b->failed) {
        b->failed = true;
        return;
    }
    switch (v->kind) {
    case KV_J_UNDEFINED: kv_jbuf_puts(b, depth ? "Undefined" : ""); break;
    case KV_J_NONE: kv_jbuf_puts(b, "None"); break;
    case KV_J_BOOL: kv_jbuf_puts(b, v->b ? "True" : "False"); break;
    case KV_J_INT:
        snprintf(text, sizeof text, "%lld", (long long)v->i);
        kv_jbuf_puts(b, text);
        break;
    case KV_J_FLOAT: kv_jbuf_float(b, v->f); break;
    case KV_J_STR: put_quoted(b, v->s); break;
    case KV_J_LIST:
    case KV_J_TUPLE: put_list(b, v, depth); break;
    case KV_J_DICT: put_dict(b, v, depth); break;
    default:
        kv_jbuf_puts(b, "<");
        kv_jbuf_puts(b, kv_jval_type(v));
        kv_jbuf_puts(b, ">");
    }
}

void kv_jbuf_repr(struct kv_jbuf *b, const struct kv_jval *v)
{
    if (v->kind == KV_J_UNDEFINED)
        kv_jbuf_puts(b, "Undefined");
    else
        put_repr(b, v, 0);
}

void kv_jbuf_str(struct kv_jbuf *b, const struct kv_jval *v)
{
    if (v->kind == KV_J_STR)
        kv_jbuf_put(b, v->s.s, v->s.n);
    else
        put_repr(b, v, 0);
}
