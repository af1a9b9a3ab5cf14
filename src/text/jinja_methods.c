/*
 * Functions, and the methods of str, list and dict that Python has and templates use. Methods that would
 * change their object are refused, as the hubs' sandbox does.
 */
#include "text/jinja_call.h"

#include <string.h>

#include "base/os.h"

#define ROW(x) (sizeof(x) / sizeof((x)[0]))

typedef struct kv_jeval *ev;
typedef const struct kv_jval *val;

/* ------------------------------------------------------------------------------------------- functions -- */

static bool f_raise(ev e, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jval text;
    (void)out;
    if (!kv_jbind(e, "raise_exception", "message", args, slots)) return false;
    if (!slots[0]) return kv_jfail(e, KVANT_ERR_ARGUMENT, "the template refuses this conversation");
    if (!kv_jtext_of(e, slots[0], &text)) return false;
    return kv_jfail(e, KVANT_ERR_ARGUMENT, "%.*s", (int)(text.s.n < 300 ? text.s.n : 300), text.s.s);
}

static bool f_time(ev e, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jstr format;
    char text[256], copy[128];
    if (!kv_jbind(e, "strftime_now", "format", args, slots) ||
        !kv_jarg_text(e, "strftime_now", slots[0], &format))
        return false;
    if (format.n >= sizeof copy)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "strftime_now: the format is too long");
    memcpy(copy, format.s, format.n);
    copy[format.n] = '\0';
    struct kv_jbuf b = { .arena = &e->arena };
    kv_jbuf_put(&b, text, kv_time_format(e->now_s, e->utc, copy, text, sizeof text));
    return kv_jbuf_end(e, &b, out);
}

static bool f_range(ev e, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    int64_t first = 0, end = 0, step = 1;
    if (!kv_jbind(e, "range", "start stop step", args, slots)) return false;
    if (!slots[0]) return kv_jfail(e, KVANT_ERR_ARGUMENT, "range needs an argument");
    if (!kv_jarg_int(e, "range", slots[0], 0, &first) || !kv_jarg_int(e, "range", slots[1], 0, &end) ||
        !kv_jarg_int(e, "range", slots[2], 1, &step))
        return false;
    if (!slots[1]) {
        end = first;
        first = 0;
    }
    if (step == 0) return kv_jfail(e, KVANT_ERR_ARGUMENT, "range with a step of 0");
    if (!kv_jlist_new(&e->arena, KV_J_LIST, out)) return kv_jfail_memory(e);
    for (int64_t i = first; step > 0 ? i < end : i > end;) {
        if (out->list->n == 100000)
            return kv_jfail(e, KVANT_ERR_MEMORY, "a range of more than 100000 numbers");
        if (!kv_jlist_add(&e->arena, out->list, kv_jval_int(i))) return kv_jfail_memory(e);
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return true;
}

static bool make_dict(ev e, const struct kv_jargs *args, enum kv_jkind kind, struct kv_jval *out)
{
    if (!kv_jdict_new(&e->arena, kind, out)) return kv_jfail_memory(e);
    if (args->n > 1 || (args->n == 1 && args->values[0].kind != KV_J_DICT))
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "a dictionary is made of one dictionary or of named values");
    const struct kv_jdict *from = args->n ? args->values[0].dict : NULL;
    for (size_t i = 0; from && i < from->n; i++)
        if (!kv_jdict_set(&e->arena, out->dict, from->keys[i], from->values[i])) return kv_jfail_memory(e);
    for (size_t i = 0; i < args->n_named; i++) {
        struct kv_jval key = kv_jval_str(args->names[i].s, args->names[i].n);
        if (!kv_jdict_set(&e->arena, out->dict, key, args->named[i])) return kv_jfail_memory(e);
    }
    return true;
}

static bool f_namespace(ev e, const struct kv_jargs *args, struct kv_jval *out)
{
    return make_dict(e, args, KV_J_NAMESPACE, out);
}

static bool f_dict(ev e, const struct kv_jargs *args, struct kv_jval *out)
{
    return make_dict(e, args, KV_J_DICT, out);
}

static bool f_unsupported(ev e, const struct kv_jargs *args, struct kv_jval *out)
{
    (void)args;
    (void)out;
    return kv_jfail(e, KVANT_ERR_UNSUPPORTED, "the functions lipsum, cycler and joiner are not supported");
}

static const struct {
    const char *name;
    bool (*call)(ev e, const struct kv_jargs *args, struct kv_jval *out);
} functions[] = {
    { "raise_exception", f_raise }, { "strftime_now", f_time },  { "range", f_range },
    { "namespace", f_namespace },   { "dict", f_dict },          { "lipsum", f_unsupported },
    { "cycler", f_unsupported },    { "joiner", f_unsupported },
};

int kv_jfunction_find(struct kv_jstr name)
{
    for (size_t i = 0; i < ROW(functions); i++)
        if (kv_jstr_is(name, functions[i].name)) return (int)i;
    return -1;
}

bool kv_jcall_function(ev e, int index, const struct kv_jargs *args, struct kv_jval *out)
{
    return functions[index].call(e, args, out);
}

/* -------------------------------------------------------------------------------------- methods of str -- */

/* Kin share a function and differ by `variant`. */
struct method {
    enum kv_jkind kind;
    const char *name;
    bool (*call)(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out);
    int variant;
};

enum { LEFT = 1, RIGHT = 2, BOTH = LEFT | RIGHT };

static bool in_set(struct kv_jstr set, const char *s, size_t n)
{
    for (size_t i = 0, length; i < set.n; i += length) {
        kv_jrune(set.s + i, set.n - i, &length);
        if (length == n && memcmp(set.s + i, s, n) == 0) return true;
    }
    return false;
}

/* Takes characters of the set (NULL: whitespace) from the left and right. */
static struct kv_jval strip(struct kv_jstr s, const struct kv_jstr *set, bool left, bool right)
{
    size_t length;
    for (; left && s.n > 0; s.s += length, s.n -= length) {
        uint32_t rune = kv_jrune(s.s, s.n, &length);
        if (set ? !in_set(*set, s.s, length) : !kv_jrune_is_space(rune)) break;
    }
    while (right && s.n > 0) {
        size_t last = s.n - 1;
        while (last > 0 && ((unsigned char)s.s[last] & 0xc0) == 0x80) last--;
        uint32_t rune = kv_jrune(s.s + last, s.n - last, &length);
        if (set ? !in_set(*set, s.s + last, length) : !kv_jrune_is_space(rune)) break;
        s.n = last;
    }
    return kv_jval_str(s.s, s.n);
}

static bool s_strip(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jstr set;
    if (!kv_jbind(e, m->name, "chars", args, slots)) return false;
    bool given = slots[0] && slots[0]->kind != KV_J_NONE;
    if (given && !kv_jarg_text(e, m->name, slots[0], &set)) return false;
    *out = strip(of->s, given ? &set : NULL, m->variant & LEFT, m->variant & RIGHT);
    return true;
}

enum casing { CASE_UPPER, CASE_LOWER, CASE_CAPITALIZE, CASE_TITLE };

static bool recase(ev e, struct kv_jstr s, enum casing casing, struct kv_jval *out)
{
    struct kv_jbuf b = { .arena = &e->arena };
    bool inside = false;
    for (size_t i = 0, length; i < s.n; i += length) {
        char text[4];
        uint32_t rune = kv_jrune(s.s + i, s.n - i, &length);
        bool upper = casing == CASE_UPPER || (casing == CASE_CAPITALIZE && i == 0) ||
                     (casing == CASE_TITLE && !inside);
        inside = kv_jrune_is_letter(rune);
        if (rune == 0xdf && upper) { /* sharp s has no capital of its own */
            kv_jbuf_puts(&b, casing == CASE_UPPER ? "SS" : "Ss");
            continue;
        }
        uint32_t mapped = upper ? kv_jrune_upper(rune) : kv_jrune_lower(rune);
        if (mapped == rune)
            kv_jbuf_put(&b, s.s + i, length);
        else
            kv_jbuf_put(&b, text, kv_jrune_write(mapped, text));
    }
    return kv_jspend(e, s.n / 16) && kv_jbuf_end(e, &b, out);
}

static bool s_recase(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    return kv_jbind(e, m->name, "", args, slots) && recase(e, of->s, (enum casing)m->variant, out);
}

static bool at_edge(struct kv_jstr s, struct kv_jstr part, bool end)
{
    return part.n <= s.n && memcmp(end ? s.s + s.n - part.n : s.s, part.s, part.n) == 0;
}

static bool s_edge(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jstr part;
    bool found = false, end = m->variant == RIGHT;
    if (!kv_jbind(e, m->name, "prefix", args, slots)) return false;
    if (slots[0] && slots[0]->kind == KV_J_TUPLE) {
        for (size_t i = 0; i < slots[0]->list->n && !found; i++) {
            if (!kv_jarg_text(e, m->name, &slots[0]->list->items[i], &part)) return false;
            found = at_edge(of->s, part, end);
        }
    } else {
        if (!kv_jarg_text(e, m->name, slots[0], &part)) return false;
        found = at_edge(of->s, part, end);
    }
    *out = kv_jval_bool(found);
    return true;
}

static bool s_remove(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jstr part;
    bool end = m->variant == RIGHT;
    if (!kv_jbind(e, m->name, "prefix", args, slots) || !kv_jarg_text(e, m->name, slots[0], &part))
        return false;
    size_t cut = at_edge(of->s, part, end) ? part.n : 0;
    *out = kv_jval_str(of->s.s + (end ? 0 : cut), of->s.n - cut);
    return true;
}

static bool add_piece(ev e, struct kv_jval *list, const char *s, size_t n)
{
    return kv_jlist_add(&e->arena, list->list, kv_jval_str(s, n)) || kv_jfail_memory(e);
}

static bool split_space(ev e, struct kv_jstr s, int64_t most, struct kv_jval *out)
{
    for (;;) {
        s = strip(s, NULL, true, false).s;
        if (s.n == 0) return true;
        if (most == 0) return add_piece(e, out, s.s, s.n);
        size_t n = 0, length;
        while (n < s.n && !kv_jrune_is_space(kv_jrune(s.s + n, s.n - n, &length))) n += length;
        if (!add_piece(e, out, s.s, n)) return false;
        s.s += n;
        s.n -= n;
        most--;
    }
}

/* The last occurrence of sep, or NULL. */
static const char *find_last(struct kv_jstr s, struct kv_jstr sep)
{
    for (size_t i = s.n >= sep.n ? s.n - sep.n + 1 : 0; i > 0; i--)
        if (memcmp(s.s + i - 1, sep.s, sep.n) == 0) return s.s + i - 1;
    return NULL;
}

static bool split_text(ev e, struct kv_jstr s, struct kv_jstr sep, int64_t most, bool from_right,
                       struct kv_jval *out)
{
    for (; most != 0; most--) {
        const char *at = from_right ? find_last(s, sep) : memmem(s.s, s.n, sep.s, sep.n);
        if (!at) break;
        size_t before = (size_t)(at - s.s), after = s.n - before - sep.n;
        if (from_right ? !add_piece(e, out, at + sep.n, after) : !add_piece(e, out, s.s, before))
            return false;
        s = from_right ? (struct kv_jstr){ s.s, before } : (struct kv_jstr){ at + sep.n, after };
    }
    if (!add_piece(e, out, s.s, s.n)) return false;
    struct kv_jlist *list = out->list;
    for (size_t i = 0; from_right && i < list->n / 2; i++) {
        struct kv_jval swap = list->items[i];
        list->items[i] = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = swap;
    }
    return true;
}

static bool s_split(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jstr sep;
    int64_t most;
    bool from_right = m->variant == RIGHT;
    if (!kv_jbind(e, m->name, "sep maxsplit", args, slots) || !kv_jarg_int(e, m->name, slots[1], -1, &most))
        return false;
    if (!kv_jlist_new(&e->arena, KV_J_LIST, out)) return kv_jfail_memory(e);
    if (!kv_jspend(e, of->s.n / 16)) return false;
    if (!slots[0] || slots[0]->kind == KV_J_NONE) {
        if (from_right && most >= 0)
            return kv_jfail(e, KVANT_ERR_UNSUPPORTED, "rsplit by whitespace with a count");
        return split_space(e, of->s, most, out);
    }
    if (!kv_jarg_text(e, m->name, slots[0], &sep)) return false;
    if (sep.n == 0) return kv_jfail(e, KVANT_ERR_ARGUMENT, "split by an empty separator");
    return split_text(e, of->s, sep, most, from_right, out);
}

static bool s_partition(ev e, val of, const struct method *m, const struct kv_jargs *args,
                        struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jstr sep;
    if (!kv_jbind(e, m->name, "sep", args, slots) || !kv_jarg_text(e, m->name, slots[0], &sep)) return false;
    if (sep.n == 0) return kv_jfail(e, KVANT_ERR_ARGUMENT, "partition by an empty separator");
    if (!kv_jlist_new(&e->arena, KV_J_TUPLE, out)) return kv_jfail_memory(e);
    const char *at = memmem(of->s.s, of->s.n, sep.s, sep.n);
    size_t before = at ? (size_t)(at - of->s.s) : of->s.n;
    return add_piece(e, out, of->s.s, before) && add_piece(e, out, sep.s, at ? sep.n : 0) &&
           add_piece(e, out, at ? at + sep.n : "", at ? of->s.n - before - sep.n : 0);
}

static bool s_splitlines(ev e, val of, const struct method *m, const struct kv_jargs *args,
                         struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jstr s = of->s;
    if (!kv_jbind(e, m->name, "keepends", args, slots)) return false;
    if (slots[0] && kv_jval_truth(slots[0]))
        return kv_jfail(e, KVANT_ERR_UNSUPPORTED, "splitlines(keepends)");
    if (!kv_jlist_new(&e->arena, KV_J_LIST, out)) return kv_jfail_memory(e);
    while (s.n > 0) {
        size_t n = 0, length = 0, end = 0;
        for (; n < s.n; n += length) {
            uint32_t r = kv_jrune(s.s + n, s.n - n, &length);
            if ((r >= 10 && r <= 13) || (r >= 0x1c && r <= 0x1e) || r == 0x85 || r == 0x2028 || r == 0x2029) {
                end = length;
                break;
            }
        }
        if (end && s.s[n] == '\r' && n + 1 < s.n && s.s[n + 1] == '\n') end = 2;
        if (!add_piece(e, out, s.s, n)) return false;
        s.s += n + end;
        s.n -= n + end;
    }
    return true;
}

static bool s_replace(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jstr old, new, s = of->s;
    int64_t most;
    struct kv_jbuf b = { .arena = &e->arena };
    if (!kv_jbind(e, m->name, "old new count", args, slots) || !kv_jarg_text(e, m->name, slots[0], &old) ||
        !kv_jarg_text(e, m->name, slots[1], &new) || !kv_jarg_int(e, m->name, slots[2], -1, &most))
        return false;
    while (most != 0) {
        const char *at;
        size_t skip;
        if (old.n == 0) { /* between all characters */
            kv_jbuf_put(&b, new.s, new.n);
            most--;
            if (s.n == 0) break;
            kv_jrune(s.s, s.n, &skip);
            kv_jbuf_put(&b, s.s, skip);
        } else {
            at = memmem(s.s, s.n, old.s, old.n);
            if (!at) break;
            kv_jbuf_put(&b, s.s, (size_t)(at - s.s));
            kv_jbuf_put(&b, new.s, new.n);
            skip = (size_t)(at - s.s) + old.n;
            most--;
        }
        s.s += skip;
        s.n -= skip;
        if (b.failed) break;
    }
    kv_jbuf_put(&b, s.s, s.n);
    return kv_jspend(e, of->s.n / 16) && kv_jbuf_end(e, &b, out);
}

static bool s_find(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jstr part;
    if (!kv_jbind(e, m->name, "sub", args, slots) || !kv_jarg_text(e, m->name, slots[0], &part)) return false;
    const char *at = m->variant == RIGHT ? find_last(of->s, part)
                     : part.n            ? memmem(of->s.s, of->s.n, part.s, part.n)
                                         : of->s.s;
    *out = kv_jval_int(at ? (int64_t)kv_jstr_runes((struct kv_jstr){ of->s.s, (size_t)(at - of->s.s) }) : -1);
    return true;
}

static bool s_index(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    return s_find(e, of, m, args, out) &&
           (out->i >= 0 || kv_jfail(e, KVANT_ERR_ARGUMENT, "index: no such part"));
}

static bool s_count(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jstr part, s = of->s;
    int64_t n = 0;
    if (!kv_jbind(e, m->name, "sub", args, slots) || !kv_jarg_text(e, m->name, slots[0], &part)) return false;
    if (part.n == 0) n = (int64_t)kv_jstr_runes(s) + 1;
    for (const char *at; part.n && (at = memmem(s.s, s.n, part.s, part.n)) != NULL; n++) {
        s.n -= (size_t)(at - s.s) + part.n;
        s.s = at + part.n;
    }
    *out = kv_jval_int(n);
    return true;
}

static bool s_join(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jlist *items;
    struct kv_jbuf b = { .arena = &e->arena };
    if (!kv_jbind(e, m->name, "items", args, slots)) return false;
    if (!slots[0]) return kv_jfail(e, KVANT_ERR_ARGUMENT, "join needs a list");
    if (!kv_jiterate(e, slots[0], &items)) return false;
    for (size_t i = 0; i < items->n; i++) {
        struct kv_jstr part;
        if (!kv_jarg_text(e, m->name, &items->items[i], &part)) return false;
        if (i) kv_jbuf_put(&b, of->s.s, of->s.n);
        kv_jbuf_put(&b, part.s, part.n);
    }
    return kv_jbuf_end(e, &b, out);
}

/* True when the text is not empty and every character passes. */
static bool all_runes(struct kv_jstr s, bool (*passes)(uint32_t rune))
{
    for (size_t i = 0, length; i < s.n; i += length)
        if (!passes(kv_jrune(s.s + i, s.n - i, &length))) return false;
    return s.n > 0;
}

static bool is_digit(uint32_t rune)
{
    return rune >= '0' && rune <= '9';
}

static bool is_alnum(uint32_t rune)
{
    return is_digit(rune) || kv_jrune_is_letter(rune);
}

/* At least one letter with a case, and none of the other case. */
static bool all_cased(struct kv_jstr s, bool upper)
{
    bool any = false;
    for (size_t i = 0, length; i < s.n; i += length) {
        uint32_t r = kv_jrune(s.s + i, s.n - i, &length);
        bool is_upper = kv_jrune_lower(r) != r, is_lower = kv_jrune_upper(r) != r || r == 0xdf;
        if (upper ? is_lower : is_upper) return false;
        any |= upper ? is_upper : is_lower;
    }
    return any;
}

enum is { IS_DIGIT, IS_ALPHA, IS_ALNUM, IS_SPACE, IS_UPPER, IS_LOWER };

static bool s_is(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    static bool (*const passes[])(uint32_t rune) = { [IS_DIGIT] = is_digit,
                                                     [IS_ALPHA] = kv_jrune_is_letter,
                                                     [IS_ALNUM] = is_alnum,
                                                     [IS_SPACE] = kv_jrune_is_space };
    val slots[KV_JPARAMS_MAX];
    bool cased = m->variant == IS_UPPER || m->variant == IS_LOWER;
    *out = kv_jval_bool(cased ? all_cased(of->s, m->variant == IS_UPPER)
                              : all_runes(of->s, passes[m->variant]));
    return kv_jbind(e, m->name, "", args, slots);
}

/* ------------------------------------------------------------------------- methods of list, dict, loop -- */

static bool l_index(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    if (!kv_jbind(e, m->name, "value", args, slots)) return false;
    if (!slots[0]) return kv_jfail(e, KVANT_ERR_ARGUMENT, "index needs a value");
    for (size_t i = 0; i < of->list->n; i++)
        if (kv_jval_equal(&of->list->items[i], slots[0])) {
            *out = kv_jval_int((int64_t)i);
            return true;
        }
    return kv_jfail(e, KVANT_ERR_ARGUMENT, "index: the list has no such element");
}

static bool l_count(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    int64_t n = 0;
    if (!kv_jbind(e, m->name, "value", args, slots)) return false;
    for (size_t i = 0; slots[0] && i < of->list->n; i++) n += kv_jval_equal(&of->list->items[i], slots[0]);
    *out = kv_jval_int(n);
    return true;
}

static bool refused(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    (void)m;
    (void)args;
    (void)out;
    return kv_jfail(e, KVANT_ERR_ARGUMENT, "a template must not change a %s", kv_jval_type(of));
}

static bool unsupported_method(ev e, val of, const struct method *m, const struct kv_jargs *args,
                               struct kv_jval *out)
{
    (void)m;
    (void)args;
    (void)out;
    return kv_jfail(e, KVANT_ERR_UNSUPPORTED, "this method of %s is not supported", kv_jval_type(of));
}

static bool d_get(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    if (!kv_jbind(e, m->name, "key default", args, slots)) return false;
    if (!slots[0]) return kv_jfail(e, KVANT_ERR_ARGUMENT, "get needs a key");
    const struct kv_jval *there = kv_jdict_get(of->dict, *slots[0]);
    *out = there ? *there : slots[1] ? *slots[1] : (struct kv_jval){ .kind = KV_J_NONE };
    return kv_jspend(e, of->dict->n / 8);
}

enum members { KEYS, VALUES, ITEMS };

static bool d_members(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    if (!kv_jbind(e, m->name, "", args, slots)) return false;
    if (!kv_jlist_new(&e->arena, KV_J_LIST, out)) return kv_jfail_memory(e);
    for (size_t i = 0; i < of->dict->n; i++) {
        struct kv_jval item = m->variant == VALUES ? of->dict->values[i] : of->dict->keys[i];
        if (m->variant == ITEMS && (!kv_jlist_new(&e->arena, KV_J_TUPLE, &item) ||
                                    !kv_jlist_add(&e->arena, item.list, of->dict->keys[i]) ||
                                    !kv_jlist_add(&e->arena, item.list, of->dict->values[i])))
            return kv_jfail_memory(e);
        if (!kv_jlist_add(&e->arena, out->list, item)) return kv_jfail_memory(e);
    }
    return kv_jspend(e, of->dict->n);
}

static bool d_copy(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    val slots[KV_JPARAMS_MAX];
    struct kv_jargs from = { .values = of, .n = 1 };
    return kv_jbind(e, m->name, "", args, slots) && make_dict(e, &from, KV_J_DICT, out);
}

static bool p_cycle(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    (void)m;
    if (args->n == 0) return kv_jfail(e, KVANT_ERR_ARGUMENT, "loop.cycle needs values");
    *out = args->values[of->loop->i % args->n];
    return true;
}

static bool p_changed(ev e, val of, const struct method *m, const struct kv_jargs *args, struct kv_jval *out)
{
    (void)m;
    struct kv_jval now;
    if (!kv_jlist_new(&e->arena, KV_J_TUPLE, &now)) return kv_jfail_memory(e);
    for (size_t i = 0; i < args->n; i++)
        if (!kv_jlist_add(&e->arena, now.list, args->values[i])) return kv_jfail_memory(e);
    *out = kv_jval_bool(of->loop->changed.kind == KV_J_UNDEFINED || !kv_jval_equal(&of->loop->changed, &now));
    of->loop->changed = now;
    return true;
}

static const struct method methods[] = {
    { KV_J_STR, "strip", s_strip, BOTH },
    { KV_J_STR, "lstrip", s_strip, LEFT },
    { KV_J_STR, "rstrip", s_strip, RIGHT },
    { KV_J_STR, "upper", s_recase, CASE_UPPER },
    { KV_J_STR, "lower", s_recase, CASE_LOWER },
    { KV_J_STR, "capitalize", s_recase, CASE_CAPITALIZE },
    { KV_J_STR, "title", s_recase, CASE_TITLE },
    { KV_J_STR, "startswith", s_edge, LEFT },
    { KV_J_STR, "endswith", s_edge, RIGHT },
    { KV_J_STR, "removeprefix", s_remove, LEFT },
    { KV_J_STR, "removesuffix", s_remove, RIGHT },
    { KV_J_STR, "split", s_split, LEFT },
    { KV_J_STR, "rsplit", s_split, RIGHT },
    { KV_J_STR, "splitlines", s_splitlines, 0 },
    { KV_J_STR, "partition", s_partition, 0 },
    { KV_J_STR, "replace", s_replace, 0 },
    { KV_J_STR, "find", s_find, LEFT },
    { KV_J_STR, "rfind", s_find, RIGHT },
    { KV_J_STR, "index", s_index, LEFT },
    { KV_J_STR, "count", s_count, 0 },
    { KV_J_STR, "join", s_join, 0 },
    { KV_J_STR, "isdigit", s_is, IS_DIGIT },
    { KV_J_STR, "isalpha", s_is, IS_ALPHA },
    { KV_J_STR, "isalnum", s_is, IS_ALNUM },
    { KV_J_STR, "isspace", s_is, IS_SPACE },
    { KV_J_STR, "isupper", s_is, IS_UPPER },
    { KV_J_STR, "islower", s_is, IS_LOWER },
    { KV_J_STR, "format", unsupported_method, 0 },
    { KV_J_STR, "encode", unsupported_method, 0 },
    { KV_J_STR, "zfill", unsupported_method, 0 },
    { KV_J_STR, "ljust", unsupported_method, 0 },
    { KV_J_STR, "rjust", unsupported_method, 0 },
    { KV_J_STR, "center", unsupported_method, 0 },
    { KV_J_STR, "rpartition", unsupported_method, 0 },
    { KV_J_STR, "swapcase", unsupported_method, 0 },
    { KV_J_STR, "translate", unsupported_method, 0 },
    { KV_J_STR, "casefold", unsupported_method, 0 },
    { KV_J_STR, "expandtabs", unsupported_method, 0 },
    { KV_J_LIST, "index", l_index, 0 },
    { KV_J_LIST, "count", l_count, 0 },
    { KV_J_LIST, "append", refused, 0 },
    { KV_J_LIST, "pop", refused, 0 },
    { KV_J_LIST, "insert", refused, 0 },
    { KV_J_LIST, "extend", refused, 0 },
    { KV_J_LIST, "remove", refused, 0 },
    { KV_J_LIST, "reverse", refused, 0 },
    { KV_J_LIST, "sort", refused, 0 },
    { KV_J_LIST, "clear", refused, 0 },
    { KV_J_LIST, "copy", unsupported_method, 0 },
    { KV_J_TUPLE, "index", l_index, 0 },
    { KV_J_TUPLE, "count", l_count, 0 },
    { KV_J_DICT, "get", d_get, 0 },
    { KV_J_DICT, "keys", d_members, KEYS },
    { KV_J_DICT, "values", d_members, VALUES },
    { KV_J_DICT, "items", d_members, ITEMS },
    { KV_J_DICT, "copy", d_copy, 0 },
    { KV_J_DICT, "pop", refused, 0 },
    { KV_J_DICT, "popitem", refused, 0 },
    { KV_J_DICT, "update", refused, 0 },
    { KV_J_DICT, "setdefault", refused, 0 },
    { KV_J_DICT, "clear", refused, 0 },
    { KV_J_DICT, "fromkeys", unsupported_method, 0 },
    { KV_J_LOOP, "cycle", p_cycle, 0 },
    { KV_J_LOOP, "changed", p_changed, 0 },
};

bool kv_jmethod_find(val of, struct kv_jstr name, int *index)
{
    for (size_t i = 0; i < ROW(methods); i++)
        if (methods[i].kind == of->kind && kv_jstr_is(name, methods[i].name)) {
            *index = (int)i;
            return true;
        }
    return false;
}

bool kv_jcall_method(ev e, const struct kv_jmethod *m, const struct kv_jargs *args, struct kv_jval *out)
{
    return methods[m->index].call(e, &m->of, &methods[m->index], args, out);
}
