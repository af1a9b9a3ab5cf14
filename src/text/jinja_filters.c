/* Filters, one row each. What one gives where Jinja would give a generator is a list. */
#include "text/jinja_call.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW(x) (sizeof(x) / sizeof((x)[0]))

typedef struct kv_jeval *ev;
typedef const struct kv_jval *val;
typedef bool filter_fn(ev e, val x, const struct kv_jargs *args, struct kv_jval *out);

static bool add(ev e, struct kv_jval *list, struct kv_jval item)
{
    return kv_jlist_add(&e->arena, list->list, item) || kv_jfail_memory(e);
}

static bool new_list(ev e, struct kv_jval *out)
{
    return kv_jlist_new(&e->arena, KV_J_LIST, out) || kv_jfail_memory(e);
}

static bool is_whole(val v)
{
    return v->kind == KV_J_INT || v->kind == KV_J_BOOL;
}

static bool whole_arg(ev e, const char *what, val v, int64_t otherwise, int64_t *out)
{
    *out = otherwise;
    if (!v) return true;
    if (!is_whole(v))
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "%s needs a whole number, not %s", what, kv_jval_type(v));
    *out = v->kind == KV_J_BOOL ? v->b : v->i;
    return true;
}

/* A method of str, of what str() makes of the value. */
bool kv_jtext_method(ev e, const char *name, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    struct kv_jmethod m;
    if (!kv_jtext_of(e, x, &m.of)) return false;
    if (!kv_jmethod_find(&m.of, (struct kv_jstr){ name, strlen(name) }, &m.index))
        return kv_jfail(e, KVANT_ERR_UNSUPPORTED, "the filter '%s' is not supported", name);
    return kv_jcall_method(e, &m, args, out);
}

/* ------------------------------------------------------------------------------------------------ text -- */

static bool f_trim(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    return kv_jtext_method(e, "strip", x, args, out);
}

static bool f_upper(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    return kv_jtext_method(e, "upper", x, args, out);
}

static bool f_lower(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    return kv_jtext_method(e, "lower", x, args, out);
}

static bool f_capitalize(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    return kv_jtext_method(e, "capitalize", x, args, out);
}

static bool f_replace(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    struct kv_jval texts[3];
    struct kv_jargs copy = *args;
    if (args->n > 3) return kv_jfail(e, KVANT_ERR_ARGUMENT, "replace takes at most 3 arguments");
    for (size_t i = 0; i < args->n; i++) { /* Jinja takes what is not text as text here */
        texts[i] = args->values[i];
        if (i < 2 && !kv_jtext_of(e, &args->values[i], &texts[i])) return false;
    }
    copy.values = texts;
    return kv_jtext_method(e, "replace", x, &copy, out);
}

/* Capital after the characters that Jinja takes for the beginning of a word, the others small. */
static bool f_title(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jval text;
    struct kv_jbuf b = { .arena = &e->arena };
    bool begins = true;
    if (!kv_jbind(e, "title", "", args, slots) || !kv_jtext_of(e, x, &text)) return false;
    for (size_t i = 0, length; i < text.s.n; i += length) {
        char bytes[4];
        uint32_t rune = kv_jrune(text.s.s + i, text.s.n - i, &length);
        uint32_t mapped = begins ? kv_jrune_upper(rune) : kv_jrune_lower(rune);
        if (mapped == rune)
            kv_jbuf_put(&b, text.s.s + i, length);
        else
            kv_jbuf_put(&b, bytes, kv_jrune_write(mapped, bytes));
        begins = kv_jrune_is_space(rune) || (rune < 0x80 && rune && strchr("-({[<", (int)rune));
    }
    return kv_jbuf_end(e, &b, out);
}

static bool f_escape(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    static const struct {
        char c;
        const char *text;
    } map[] = { { '&', "&amp;" }, { '<', "&lt;" }, { '>', "&gt;" }, { '\'', "&#39;" }, { '"', "&#34;" } };
    val slots[KV_JPARAMS_MAX];
    struct kv_jval text;
    struct kv_jbuf b = { .arena = &e->arena };
    if (!kv_jbind(e, "escape", "", args, slots) || !kv_jtext_of(e, x, &text)) return false;
    for (size_t i = 0; i < text.s.n; i++) {
        const char *as = NULL;
        for (size_t k = 0; k < ROW(map); k++)
            if (text.s.s[i] == map[k].c) as = map[k].text;
        if (as)
            kv_jbuf_puts(&b, as);
        else
            kv_jbuf_put(&b, text.s.s + i, 1);
    }
    return kv_jbuf_end(e, &b, out);
}

static bool f_string(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    return kv_jbind(e, "string", "", args, slots) && kv_jtext_of(e, x, out);
}

static bool f_safe(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    return f_string(e, x, args, out);
}

static bool f_indent(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    int64_t width = 4;
    struct kv_jval text, lines, indent;
    struct kv_jargs none = { 0 };
    struct kv_jbuf b = { .arena = &e->arena }, pad = { .arena = &e->arena };
    if (!kv_jbind(e, "indent", "width first blank", args, slots) || !kv_jtext_of(e, x, &text)) return false;
    bool by_text = slots[0] && slots[0]->kind == KV_J_STR;
    if (!by_text && !whole_arg(e, "indent", slots[0], 4, &width)) return false;
    for (; !by_text && width > 0 && !pad.failed; width--) kv_jbuf_puts(&pad, " ");
    if (!kv_jbuf_end(e, &pad, &indent)) return false;
    if (by_text) indent = *slots[0];
    bool first = slots[1] && kv_jval_truth(slots[1]), blank = slots[2] && kv_jval_truth(slots[2]);
    kv_jbuf_put(&b, text.s.s, text.s.n); /* Jinja adds a newline, so that there is a last line */
    kv_jbuf_puts(&b, "\n");
    if (!kv_jbuf_end(e, &b, &text) || !kv_jtext_method(e, "splitlines", &text, &none, &lines)) return false;
    b = (struct kv_jbuf){ .arena = &e->arena };
    for (size_t i = 0; i < lines.list->n; i++) {
        struct kv_jstr line = lines.list->items[i].s;
        if (i) kv_jbuf_puts(&b, "\n");
        if (i ? blank || line.n > 0 : first) kv_jbuf_put(&b, indent.s.s, indent.s.n);
        kv_jbuf_put(&b, line.s, line.n);
    }
    return kv_jbuf_end(e, &b, out);
}

static bool f_wordcount(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    struct kv_jval text;
    int64_t n = 0;
    bool inside = false;
    val slots[KV_JPARAMS_MAX];
    if (!kv_jbind(e, "wordcount", "", args, slots) || !kv_jtext_of(e, x, &text)) return false;
    for (size_t i = 0, length; i < text.s.n; i += length) {
        uint32_t rune = kv_jrune(text.s.s + i, text.s.n - i, &length);
        bool word = rune == '_' || (rune >= '0' && rune <= '9') || kv_jrune_is_letter(rune);
        n += word && !inside;
        inside = word;
    }
    *out = kv_jval_int(n);
    return true;
}

static bool f_tojson(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jbuf b = { .arena = &e->arena };
    struct kv_json_style style = { -1, false, false, KV_JSTR(", "), KV_JSTR(": ") };
    int64_t indent = -1;
    const char *what;
    if (!kv_jbind(e, "tojson", "ensure_ascii indent separators sort_keys", args, slots)) return false;
    style.ensure_ascii = slots[0] && kv_jval_truth(slots[0]);
    if (slots[1] && slots[1]->kind != KV_J_NONE && !whole_arg(e, "tojson", slots[1], -1, &indent))
        return false;
    if (indent > 64) return kv_jfail(e, KVANT_ERR_ARGUMENT, "tojson: an indent of more than 64");
    style.indent = indent < 0 ? -1 : (int)indent;
    if (style.indent >= 0) style.item_separator = KV_JSTR(",");
    if (slots[2] && slots[2]->kind != KV_J_NONE) {
        val s = slots[2];
        if ((s->kind != KV_J_TUPLE && s->kind != KV_J_LIST) || s->list->n != 2 ||
            s->list->items[0].kind != KV_J_STR || s->list->items[1].kind != KV_J_STR)
            return kv_jfail(e, KVANT_ERR_ARGUMENT, "tojson: separators are two texts");
        style.item_separator = s->list->items[0].s;
        style.key_separator = s->list->items[1].s;
    }
    style.sort_keys = slots[3] && kv_jval_truth(slots[3]);
    if (!kv_json_write(&b, x, &style, &what))
        return what ? kv_jfail(e, KVANT_ERR_ARGUMENT, "tojson of a %s", what) : kv_jfail_memory(e);
    return kv_jspend(e, b.n / 16) && kv_jbuf_end(e, &b, out);
}

static bool f_format(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    struct kv_jval text, values;
    if (args->n_named) return kv_jfail(e, KVANT_ERR_UNSUPPORTED, "format with named values");
    if (!kv_jtext_of(e, x, &text)) return false;
    if (!kv_jlist_new(&e->arena, KV_J_TUPLE, &values)) return kv_jfail_memory(e);
    for (size_t i = 0; i < args->n; i++)
        if (!add(e, &values, args->values[i])) return false;
    return kv_jbinary(e, KV_JO_MOD, &text, &values, out);
}

/* --------------------------------------------------------------------------------------------- numbers -- */

static bool f_abs(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    if (!kv_jbind(e, "abs", "", args, slots)) return false;
    if (x->kind == KV_J_FLOAT)
        *out = kv_jval_float(fabs(x->f));
    else if (is_whole(x) && x->i != INT64_MIN)
        *out = kv_jval_int(x->kind == KV_J_BOOL ? x->b : llabs(x->i));
    else
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "abs of a %s", kv_jval_type(x));
    return true;
}

/* A number in text, blanks around it. */
static bool read_number(val x, int base, struct kv_jval *out)
{
    char text[64], *end;
    struct kv_jstr s = x->s;
    while (s.n && strchr(" \t\n\r\f\v", s.s[0]) && s.s[0]) s.s++, s.n--;
    while (s.n && strchr(" \t\n\r\f\v", s.s[s.n - 1]) && s.s[s.n - 1]) s.n--;
    if (s.n == 0 || s.n >= sizeof text) return false;
    memcpy(text, s.s, s.n);
    text[s.n] = '\0';
    errno = 0;
    long long whole = strtoll(text, &end, base);
    *out = kv_jval_int(whole);
    if (!errno && !*end) return true;
    if (strpbrk(text, "xXpP(")) return false;
    errno = 0;
    *out = kv_jval_float(strtod(text, &end));
    return !*end && !errno;
}

static bool f_int(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    int64_t base;
    struct kv_jval n = *x;
    if (!kv_jbind(e, "int", "default base", args, slots) || !whole_arg(e, "int", slots[1], 10, &base))
        return false;
    if (base < 2 || base > 36) return kv_jfail(e, KVANT_ERR_ARGUMENT, "int: base %lld", (long long)base);
    bool ok = x->kind == KV_J_STR ? read_number(x, (int)base, &n) : is_whole(x) || x->kind == KV_J_FLOAT;
    if (ok && n.kind == KV_J_FLOAT) ok = isfinite(n.f) && fabs(n.f) < 9.2e18;
    if (!ok)
        *out = slots[0] ? *slots[0] : kv_jval_int(0);
    else
        *out = kv_jval_int(n.kind == KV_J_FLOAT ? (int64_t)n.f : n.kind == KV_J_BOOL ? n.b : n.i);
    return true;
}

static bool f_float(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jval n = *x;
    if (!kv_jbind(e, "float", "default", args, slots)) return false;
    bool ok = x->kind == KV_J_STR ? read_number(x, 10, &n) : is_whole(x) || x->kind == KV_J_FLOAT;
    if (!ok)
        *out = slots[0] ? *slots[0] : kv_jval_float(0.0);
    else
        *out = kv_jval_float(n.kind == KV_J_FLOAT ? n.f : n.kind == KV_J_BOOL ? (double)n.b : (double)n.i);
    return true;
}

static bool f_round(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    int64_t precision;
    char text[64];
    if (!kv_jbind(e, "round", "precision method", args, slots) ||
        !whole_arg(e, "round", slots[0], 0, &precision))
        return false;
    if (!is_whole(x) && x->kind != KV_J_FLOAT)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "round of a %s", kv_jval_type(x));
    if (precision < 0 || precision > 15)
        return kv_jfail(e, KVANT_ERR_UNSUPPORTED, "round to %lld digits", (long long)precision);
    double f = x->kind == KV_J_FLOAT ? x->f : x->kind == KV_J_BOOL ? (double)x->b : (double)x->i;
    bool common = !slots[1] || (slots[1]->kind == KV_J_STR && kv_jstr_is(slots[1]->s, "common"));
    bool up = slots[1] && slots[1]->kind == KV_J_STR && kv_jstr_is(slots[1]->s, "ceil");
    double scale = pow(10.0, (double)precision);
    if (common &&
        fabs(f) < 1e30) { /* the decimal digits of the double decide, halves to even, as in Python */
        snprintf(text, sizeof text, "%.*f", (int)precision, f);
        f = strtod(text, NULL);
    } else if (!common)
        f = (up ? ceil(f * scale) : floor(f * scale)) / scale;
    if (is_whole(x) && common)
        *out = kv_jval_int(x->kind == KV_J_BOOL ? x->b : x->i);
    else
        *out = kv_jval_float(f);
    return true;
}

/* ----------------------------------------------------------------------------------------------- lists -- */

static bool f_length(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    if (!kv_jbind(e, "length", "", args, slots)) return false;
    switch (x->kind) {
    case KV_J_UNDEFINED: *out = kv_jval_int(0); return true;
    case KV_J_STR: *out = kv_jval_int((int64_t)kv_jstr_runes(x->s)); return kv_jspend(e, x->s.n / 64);
    case KV_J_LIST:
    case KV_J_TUPLE: *out = kv_jval_int((int64_t)x->list->n); return true;
    case KV_J_DICT: *out = kv_jval_int((int64_t)x->dict->n); return true;
    default: return kv_jfail(e, KVANT_ERR_ARGUMENT, "length of a %s", kv_jval_type(x));
    }
}

static bool f_default(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    if (!kv_jbind(e, "default", "default_value boolean", args, slots)) return false;
    bool replaced = x->kind == KV_J_UNDEFINED || (slots[1] && kv_jval_truth(slots[1]) && !kv_jval_truth(x));
    *out = !replaced ? *x : slots[0] ? *slots[0] : kv_jval_str("", 0);
    return true;
}

static bool end_of(ev e, val x, bool last, struct kv_jval *out)
{
    struct kv_jlist *items;
    if (!kv_jiterate(e, x, &items)) return false;
    if (items->n)
        *out = items->items[last ? items->n - 1 : 0];
    else
        *out = (struct kv_jval){ .kind = KV_J_UNDEFINED, .s = KV_JSTR("an element of nothing") };
    return true;
}

static bool f_first(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    return kv_jbind(e, "first", "", args, slots) && end_of(e, x, false, out);
}

static bool f_last(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    return kv_jbind(e, "last", "", args, slots) && end_of(e, x, true, out);
}

static bool f_list(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jlist *items;
    if (!kv_jbind(e, "list", "", args, slots) || !kv_jiterate(e, x, &items) || !new_list(e, out))
        return false;
    for (size_t i = 0; i < items->n; i++)
        if (!add(e, out, items->items[i])) return false;
    return kv_jspend(e, items->n);
}

static bool f_items(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    struct kv_jmethod m = { .of = *x };
    if (x->kind == KV_J_UNDEFINED) return new_list(e, out);
    if (x->kind != KV_J_DICT) return kv_jfail(e, KVANT_ERR_ARGUMENT, "items of a %s", kv_jval_type(x));
    return kv_jmethod_find(x, KV_JSTR("items"), &m.index) && kv_jcall_method(e, &m, args, out);
}

static bool f_reverse(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jlist *items;
    struct kv_jbuf b = { .arena = &e->arena };
    if (!kv_jbind(e, "reverse", "", args, slots) || !kv_jiterate(e, x, &items) || !new_list(e, out))
        return false;
    for (size_t i = items->n; i > 0; i--) {
        if (x->kind == KV_J_STR)
            kv_jbuf_put(&b, items->items[i - 1].s.s, items->items[i - 1].s.n);
        else if (!add(e, out, items->items[i - 1]))
            return false;
    }
    return x->kind == KV_J_STR ? kv_jbuf_end(e, &b, out) : kv_jspend(e, items->n);
}

/* "a.b.0" of a value; missing: undefined. path NULL: the value itself. */
static bool get_path(ev e, val of, val path, struct kv_jval *out)
{
    *out = *of;
    if (!path || path->kind == KV_J_NONE) return true;
    if (path->kind != KV_J_STR) return kv_jget_item(e, of, path, out);
    for (struct kv_jstr rest = path->s; rest.n > 0;) {
        const char *dot = memchr(rest.s, '.', rest.n);
        struct kv_jval key = kv_jval_str(rest.s, dot ? (size_t)(dot - rest.s) : rest.n), number, from = *out;
        size_t used = key.s.n + (dot != NULL);
        bool digits = key.s.n > 0 && strspn(key.s.s, "0123456789") >= key.s.n;
        if (digits && read_number(&key, 10, &number)) key = number;
        if (!kv_jget_item(e, &from, &key, out)) return false;
        rest.s += used;
        rest.n -= used;
    }
    return true;
}

static bool f_join(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jlist *items;
    struct kv_jval separator = kv_jval_str("", 0), item;
    struct kv_jbuf b = { .arena = &e->arena };
    if (!kv_jbind(e, "join", "d attribute", args, slots) || !kv_jiterate(e, x, &items)) return false;
    if (slots[0] && !kv_jtext_of(e, slots[0], &separator)) return false;
    for (size_t i = 0; i < items->n; i++) {
        if (!get_path(e, &items->items[i], slots[1], &item)) return false;
        if (i) kv_jbuf_put(&b, separator.s.s, separator.s.n);
        kv_jbuf_str(&b, &item);
    }
    return kv_jspend(e, items->n) && kv_jbuf_end(e, &b, out);
}

/* What is compared for an element: an attribute of it, small letters unless case counts. */
static bool sort_key(ev e, val item, val path, bool cased, struct kv_jval *out)
{
    struct kv_jargs none = { 0 };
    if (!get_path(e, item, path, out)) return false;
    if (cased || out->kind != KV_J_STR) return true;
    struct kv_jval text = *out;
    return kv_jtext_method(e, "lower", &text, &none, out);
}

/* Stable insertion sort with a step count that grows with its work. */
static bool sort_items(ev e, struct kv_jlist *items, struct kv_jval *keys, bool descending)
{
    for (size_t i = 1; i < items->n; i++) {
        struct kv_jval item = items->items[i], key = keys[i];
        size_t j = i;
        for (; j > 0; j--) {
            int order = kv_jval_compare(&keys[j - 1], &key);
            if (order == 2)
                return kv_jfail(e, KVANT_ERR_ARGUMENT, "%s and %s have no order", kv_jval_type(&keys[j - 1]),
                                kv_jval_type(&key));
            if (descending ? order >= 0 : order <= 0) break;
            items->items[j] = items->items[j - 1];
            keys[j] = keys[j - 1];
        }
        items->items[j] = item;
        keys[j] = key;
        if (!kv_jspend(e, i - j + 1)) return false;
    }
    return true;
}

static bool sort_by(ev e, struct kv_jlist *items, val path, bool cased, bool descending)
{
    struct kv_jval *keys = kv_jarena_take(&e->arena, (items->n + 1) * sizeof *keys);
    if (!keys) return kv_jfail_memory(e);
    for (size_t i = 0; i < items->n; i++)
        if (!sort_key(e, &items->items[i], path, cased, &keys[i])) return false;
    return sort_items(e, items, keys, descending);
}

static bool f_sort(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jargs none = { 0 };
    if (!kv_jbind(e, "sort", "reverse case_sensitive attribute", args, slots) || !f_list(e, x, &none, out))
        return false;
    return sort_by(e, out->list, slots[2], slots[1] && kv_jval_truth(slots[1]),
                   slots[0] && kv_jval_truth(slots[0]));
}

static bool f_dictsort(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jargs none = { 0 };
    if (!kv_jbind(e, "dictsort", "case_sensitive by reverse", args, slots) || !f_items(e, x, &none, out))
        return false;
    struct kv_jval by = kv_jval_int(slots[1] && slots[1]->kind == KV_J_STR &&
                                    kv_jstr_is(slots[1]->s, "value"));
    return sort_by(e, out->list, &by, slots[0] && kv_jval_truth(slots[0]),
                   slots[2] && kv_jval_truth(slots[2]));
}

static bool f_unique(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jlist *items;
    struct kv_jval seen, key;
    if (!kv_jbind(e, "unique", "case_sensitive attribute", args, slots) || !kv_jiterate(e, x, &items) ||
        !new_list(e, &seen) || !new_list(e, out))
        return false;
    for (size_t i = 0; i < items->n; i++) {
        bool there;
        if (!sort_key(e, &items->items[i], slots[1], slots[0] && kv_jval_truth(slots[0]), &key) ||
            !kv_jcontains(e, &seen, &key, &there))
            return false;
        if (!there && (!add(e, &seen, key) || !add(e, out, items->items[i]))) return false;
    }
    return true;
}

static bool extreme(ev e, val x, const struct kv_jargs *args, int wanted, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jlist *items;
    struct kv_jval best, key;
    if (!kv_jbind(e, wanted < 0 ? "min" : "max", "case_sensitive attribute", args, slots) ||
        !kv_jiterate(e, x, &items))
        return false;
    *out = (struct kv_jval){ .kind = KV_J_UNDEFINED, .s = KV_JSTR("an element of nothing") };
    for (size_t i = 0; i < items->n; i++) {
        if (!sort_key(e, &items->items[i], slots[1], slots[0] && kv_jval_truth(slots[0]), &key)) return false;
        if (i > 0 && kv_jval_compare(&key, &best) != wanted) continue;
        best = key;
        *out = items->items[i];
    }
    return kv_jspend(e, items->n);
}

static bool f_min(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    return extreme(e, x, args, -1, out);
}

static bool f_max(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    return extreme(e, x, args, 1, out);
}

static bool f_sum(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jlist *items;
    struct kv_jval sum = kv_jval_int(0), item, next;
    if (!kv_jbind(e, "sum", "attribute start", args, slots) || !kv_jiterate(e, x, &items)) return false;
    if (slots[1]) sum = *slots[1];
    for (size_t i = 0; i < items->n; i++) {
        if (!get_path(e, &items->items[i], slots[0], &item) || !kv_jbinary(e, KV_JO_ADD, &sum, &item, &next))
            return false;
        sum = next;
    }
    *out = sum;
    return true;
}

static bool f_batch(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jlist *items;
    struct kv_jval row;
    int64_t n;
    if (!kv_jbind(e, "batch", "linecount fill_with", args, slots) ||
        !whole_arg(e, "batch", slots[0], 0, &n) || !kv_jiterate(e, x, &items) || !new_list(e, out))
        return false;
    if (n < 1 || n > 100000) return kv_jfail(e, KVANT_ERR_ARGUMENT, "batch: rows of %lld", (long long)n);
    for (size_t i = 0; i < items->n; i++) {
        if (i % (size_t)n == 0 && (!new_list(e, &row) || !add(e, out, row))) return false;
        if (!add(e, &row, items->items[i])) return false;
    }
    for (size_t left = items->n % (size_t)n; slots[1] && left && left < (size_t)n; left++)
        if (!add(e, &row, *slots[1])) return false;
    return true;
}

/* --------------------------------------------------------------------------- map, select and their kin -- */

static bool named_index(ev e, val name, const char *what, int (*find)(struct kv_jstr), int *index)
{
    if (!name || name->kind != KV_J_STR)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "the name of a %s is missing", what);
    *index = find(name->s);
    return *index >= 0 || kv_jfail(e, KVANT_ERR_UNSUPPORTED, "the %s '%.*s' is not supported", what,
                                   (int)(name->s.n < 60 ? name->s.n : 60), name->s.s);
}

static bool f_map(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jlist *items;
    struct kv_jval item;
    int index = -1;
    bool by_attribute = args->n == 0 && args->n_named > 0;
    struct kv_jargs rest = kv_jargs_from(args, 1);
    if (by_attribute && !kv_jbind(e, "map", "attribute default", args, slots)) return false;
    if (!by_attribute && !named_index(e, args->n ? args->values : NULL, "filter", kv_jfilter_find, &index))
        return false;
    if (!kv_jiterate(e, x, &items) || !new_list(e, out)) return false;
    for (size_t i = 0; i < items->n; i++) {
        if (by_attribute) {
            if (!get_path(e, &items->items[i], slots[0], &item)) return false;
            if (item.kind == KV_J_UNDEFINED && slots[1]) item = *slots[1];
        } else if (!kv_jcall_filter(e, index, items->items[i], &rest, &item))
            return false;
        if (!add(e, out, item)) return false;
    }
    return kv_jspend(e, items->n);
}

static bool pick(ev e, val x, const struct kv_jargs *args, bool by_attribute, bool wanted,
                 struct kv_jval *out)
{
    struct kv_jlist *items;
    struct kv_jval item;
    int index = -1;
    size_t i_test = by_attribute ? 1 : 0;
    if (by_attribute && args->n == 0)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "the name of an attribute is missing");
    if (args->n > i_test && !named_index(e, &args->values[i_test], "test", kv_jtest_find, &index))
        return false;
    struct kv_jargs rest = kv_jargs_from(args, i_test + 1);
    if (!kv_jiterate(e, x, &items) || !new_list(e, out)) return false;
    for (size_t i = 0; i < items->n; i++) {
        bool passes;
        if (!get_path(e, &items->items[i], by_attribute ? &args->values[0] : NULL, &item)) return false;
        if (index < 0)
            passes = kv_jval_truth(&item);
        else if (!kv_jcall_test(e, index, item, &rest, &passes))
            return false;
        if (passes == wanted && !add(e, out, items->items[i])) return false;
    }
    return kv_jspend(e, items->n);
}

static bool f_select(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    return pick(e, x, args, false, true, out);
}

static bool f_reject(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    return pick(e, x, args, false, false, out);
}

static bool f_selectattr(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    return pick(e, x, args, true, true, out);
}

static bool f_rejectattr(ev e, val x, const struct kv_jargs *args, struct kv_jval *out)
{
    return pick(e, x, args, true, false, out);
}

static const struct {
    const char *name;
    filter_fn *call;
} filters[] = {
    { "abs", f_abs },
    { "batch", f_batch },
    { "capitalize", f_capitalize },
    { "count", f_length },
    { "d", f_default },
    { "default", f_default },
    { "dictsort", f_dictsort },
    { "e", f_escape },
    { "escape", f_escape },
    { "first", f_first },
    { "float", f_float },
    { "format", f_format },
    { "indent", f_indent },
    { "int", f_int },
    { "items", f_items },
    { "join", f_join },
    { "last", f_last },
    { "length", f_length },
    { "list", f_list },
    { "lower", f_lower },
    { "map", f_map },
    { "max", f_max },
    { "min", f_min },
    { "reject", f_reject },
    { "rejectattr", f_rejectattr },
    { "replace", f_replace },
    { "reverse", f_reverse },
    { "round", f_round },
    { "safe", f_safe },
    { "select", f_select },
    { "selectattr", f_selectattr },
    { "sort", f_sort },
    { "string", f_string },
    { "sum", f_sum },
    { "title", f_title },
    { "tojson", f_tojson },
    { "trim", f_trim },
    { "unique", f_unique },
    { "upper", f_upper },
    { "wordcount", f_wordcount },
};

int kv_jfilter_find(struct kv_jstr name)
{
    for (size_t i = 0; i < ROW(filters); i++)
        if (kv_jstr_is(name, filters[i].name)) return (int)i;
    return -1;
}

bool kv_jcall_filter(ev e, int index, struct kv_jval x, const struct kv_jargs *args, struct kv_jval *out)
{
    if (++e->depth > 280) return kv_jfail(e, KVANT_ERR_MEMORY, "nested too deeply"); /* map(map(...)) */
    bool ok = filters[index].call(e, &x, args, out);
    e->depth--;
    return ok;
}
