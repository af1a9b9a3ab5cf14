/*
 * Arguments, operators, attributes and subscripts, as Python has them.
 */
#include "text/jinja_call.h"

#include <math.h>
#include <string.h>

typedef struct kv_jeval *ev;
typedef const struct kv_jval *val;

/* ------------------------------------------------------------------------------------------- arguments -- */

bool kv_jbind(ev e, const char *what, const char *params, const struct kv_jargs *args,
              val slots[KV_JPARAMS_MAX])
{
    const char *names[KV_JPARAMS_MAX];
    size_t lengths[KV_JPARAMS_MAX], n = 0;
    for (const char *p = params; *p && n < KV_JPARAMS_MAX; n++) {
        p += strspn(p, " ");
        names[n] = p;
        lengths[n] = strcspn(p, " ");
        p += lengths[n];
    }
    if (args->n > n)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "%s takes at most %zu arguments, not %zu", what, n, args->n);
    for (size_t i = 0; i < KV_JPARAMS_MAX; i++) slots[i] = i < args->n ? &args->values[i] : NULL;
    for (size_t j = 0; j < args->n_named; j++) {
        size_t i = 0;
        struct kv_jstr name = args->names[j];
        while (i < n && !kv_jstr_equal(name, (struct kv_jstr){ names[i], lengths[i] })) i++;
        if (i == n || slots[i])
            return kv_jfail(e, KVANT_ERR_ARGUMENT, "%s: unexpected argument '%.*s'", what,
                            (int)(name.n < 60 ? name.n : 60), name.s);
        slots[i] = &args->named[j];
    }
    return true;
}

struct kv_jargs kv_jargs_from(const struct kv_jargs *args, size_t n)
{
    struct kv_jargs rest = *args;
    if (n > rest.n) n = rest.n;
    rest.values += n;
    rest.n -= n;
    return rest;
}

bool kv_jarg_text(ev e, const char *what, val v, struct kv_jstr *out)
{
    *out = KV_JSTR("");
    if (!v || v->kind != KV_J_STR)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "%s needs text, not %s", what,
                        v ? kv_jval_type(v) : "nothing");
    *out = v->s;
    return true;
}

bool kv_jarg_int(ev e, const char *what, val v, int64_t otherwise, int64_t *out)
{
    *out = otherwise;
    if (!v || v->kind == KV_J_NONE) return true;
    if (v->kind != KV_J_INT && v->kind != KV_J_BOOL)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "%s needs a whole number, not %s", what, kv_jval_type(v));
    *out = v->kind == KV_J_BOOL ? v->b : v->i;
    return true;
}

static bool undefined_used(ev e, val v)
{
    return kv_jfail(e, KVANT_ERR_ARGUMENT, "'%.*s' is undefined", (int)(v->s.n < 80 ? v->s.n : 80), v->s.s);
}

/* ------------------------------------------------------------------------------------------- operators -- */

static bool type_error(ev e, const char *op, val a, val b)
{
    if (a->kind == KV_J_UNDEFINED) return undefined_used(e, a);
    if (b->kind == KV_J_UNDEFINED) return undefined_used(e, b);
    return kv_jfail(e, KVANT_ERR_ARGUMENT, "'%s' between %s and %s", op, kv_jval_type(a), kv_jval_type(b));
}

static bool is_whole(val v)
{
    return v->kind == KV_J_INT || v->kind == KV_J_BOOL;
}

static int64_t whole(val v)
{
    return v->kind == KV_J_BOOL ? v->b : v->i;
}

static double number(val v)
{
    return v->kind == KV_J_FLOAT ? v->f : (double)whole(v);
}

static bool join_lists(ev e, val a, val b, struct kv_jval *out)
{
    if (!kv_jlist_new(&e->arena, a->kind, out)) return kv_jfail_memory(e);
    for (int part = 0; part < 2; part++) {
        const struct kv_jlist *from = part ? b->list : a->list;
        for (size_t i = 0; i < from->n; i++)
            if (!kv_jlist_add(&e->arena, out->list, from->items[i])) return kv_jfail_memory(e);
    }
    return kv_jspend(e, out->list->n);
}

static bool repeat(ev e, val what, int64_t times, struct kv_jval *out)
{
    struct kv_jbuf b = { .arena = &e->arena };
    if (what->kind == KV_J_STR) {
        if (what->s.n == 0) times = 0;
        for (; times > 0 && !b.failed; times--) kv_jbuf_put(&b, what->s.s, what->s.n);
        return kv_jbuf_end(e, &b, out);
    }
    if (!kv_jlist_new(&e->arena, what->kind, out)) return kv_jfail_memory(e);
    for (; times > 0 && what->list->n; times--)
        for (size_t i = 0; i < what->list->n; i++)
            if (!kv_jlist_add(&e->arena, out->list, what->list->items[i])) return kv_jfail_memory(e);
    return true;
}

static bool whole_power(int64_t base, int64_t exponent, int64_t *out)
{
    *out = 1;
    for (; exponent > 0; exponent--) {
        if (__builtin_mul_overflow(*out, base, out)) return false;
        if (base == 0 || base == 1) break;
        if (base == -1) {
            *out = exponent % 2 ? -1 : 1;
            break;
        }
    }
    return true;
}

/* Python's // and %: towards minus infinity. */
static bool whole_divide(int64_t a, int64_t b, bool remainder, int64_t *out)
{
    if (b == -1) {
        if (remainder) *out = 0;
        return remainder || !__builtin_sub_overflow((int64_t)0, a, out);
    }
    int64_t q = a / b, r = a % b;
    bool adjust = r != 0 && (r < 0) != (b < 0);
    *out = remainder ? r + (adjust ? b : 0) : q - adjust;
    return true;
}

static bool whole_arithmetic(ev e, enum kv_jop op, int64_t a, int64_t b, struct kv_jval *out)
{
    int64_t result = 0;
    bool fits = true;
    switch (op) {
    case KV_JO_ADD: fits = !__builtin_add_overflow(a, b, &result); break;
    case KV_JO_SUB: fits = !__builtin_sub_overflow(a, b, &result); break;
    case KV_JO_MUL: fits = !__builtin_mul_overflow(a, b, &result); break;
    case KV_JO_POW: fits = whole_power(a, b, &result); break;
    default: fits = whole_divide(a, b, op == KV_JO_MOD, &result);
    }
    *out = kv_jval_int(result);
    return fits || kv_jfail(e, KVANT_ERR_UNSUPPORTED, "a whole number beyond 64 bits is not supported");
}

static bool arithmetic(ev e, enum kv_jop op, val a, val b, struct kv_jval *out)
{
    bool whole_result = is_whole(a) && is_whole(b) && op != KV_JO_DIV;
    double x = number(a), y = number(b);
    if ((op == KV_JO_DIV || op == KV_JO_FLOORDIV || op == KV_JO_MOD) && y == 0.0)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "division by zero");
    if (whole_result && !(op == KV_JO_POW && whole(b) < 0))
        return whole_arithmetic(e, op, whole(a), whole(b), out);
    double r = 0.0;
    switch (op) {
    case KV_JO_ADD: r = x + y; break;
    case KV_JO_SUB: r = x - y; break;
    case KV_JO_MUL: r = x * y; break;
    case KV_JO_DIV: r = x / y; break;
    case KV_JO_FLOORDIV: r = floor(x / y); break;
    case KV_JO_POW: r = pow(x, y); break;
    default: {
        double m = fmod(x, y);
        r = m != 0.0 && (m < 0.0) != (y < 0.0) ? m + y : m;
    }
    }
    *out = kv_jval_float(r);
    return true;
}

bool kv_jcontains(ev e, val in, val x, bool *out)
{
    *out = false;
    if (in->kind == KV_J_UNDEFINED) return true;
    if (in->kind == KV_J_STR) {
        if (x->kind != KV_J_STR) return type_error(e, "in", x, in);
        *out = x->s.n == 0 || memmem(in->s.s, in->s.n, x->s.s, x->s.n) != NULL;
        return true;
    }
    if (in->kind == KV_J_DICT) {
        *out = kv_jdict_get(in->dict, *x) != NULL;
        return kv_jspend(e, in->dict->n);
    }
    if (in->kind != KV_J_LIST && in->kind != KV_J_TUPLE) return type_error(e, "in", x, in);
    for (size_t i = 0; i < in->list->n && !*out; i++) *out = kv_jval_equal(&in->list->items[i], x);
    return kv_jspend(e, in->list->n);
}

/* "%s and %d" % (a, b): %s, %r, %d, %% alone. */
static bool percent(ev e, struct kv_jstr format, val x, struct kv_jval *out)
{
    struct kv_jbuf b = { .arena = &e->arena };
    size_t i_arg = 0, n_args = x->kind == KV_J_TUPLE ? x->list->n : 1;
    for (size_t i = 0; i < format.n; i++) {
        if (format.s[i] != '%') {
            kv_jbuf_put(&b, format.s + i, 1);
            continue;
        }
        char c = i + 1 < format.n ? format.s[++i] : '\0';
        if (c == '%') {
            kv_jbuf_puts(&b, "%");
            continue;
        }
        if (c != 's' && c != 'd' && c != 'r')
            return kv_jfail(e, KVANT_ERR_UNSUPPORTED, "the format '%%%c' is not supported", c ? c : ' ');
        if (i_arg == n_args) return kv_jfail(e, KVANT_ERR_ARGUMENT, "too few values for a format");
        val arg = x->kind == KV_J_TUPLE ? &x->list->items[i_arg] : x;
        i_arg++;
        if (c == 'd' && !is_whole(arg))
            return kv_jfail(e, KVANT_ERR_ARGUMENT, "'%%d' of a %s", kv_jval_type(arg));
        if (c == 'r')
            kv_jbuf_repr(&b, arg);
        else
            kv_jbuf_str(&b, arg);
    }
    if (i_arg < n_args && x->kind == KV_J_TUPLE)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "too many values for a format");
    return kv_jbuf_end(e, &b, out);
}

static bool compare(ev e, enum kv_jop op, val a, val b, struct kv_jval *out)
{
    bool result = false;
    static const char *const names[] = { "<", "<=", ">", ">=" };
    if (!kv_jspend(e, 1)) return false;
    switch (op) {
    case KV_JO_EQ: result = kv_jval_equal(a, b); break;
    case KV_JO_NE: result = !kv_jval_equal(a, b); break;
    case KV_JO_IN:
    case KV_JO_NOT_IN:
        if (!kv_jcontains(e, b, a, &result)) return false;
        result ^= op == KV_JO_NOT_IN;
        break;
    default: {
        int order = kv_jval_compare(a, b);
        if (order == 2 && !(a->kind == KV_J_FLOAT || b->kind == KV_J_FLOAT))
            return type_error(e, names[op - KV_JO_LT], a, b);
        result = op == KV_JO_LT   ? order == -1
                 : op == KV_JO_LE ? order == -1 || order == 0
                 : op == KV_JO_GT ? order == 1
                                  : order == 1 || order == 0;
    }
    }
    *out = kv_jval_bool(result);
    return true;
}

bool kv_jbinary(ev e, enum kv_jop op, val a, val b, struct kv_jval *out)
{
    static const char *const names[] = { "+", "-", "*", "/", "//", "%", "**" };
    struct kv_jbuf text = { .arena = &e->arena };
    bool numbers = (is_whole(a) || a->kind == KV_J_FLOAT) && (is_whole(b) || b->kind == KV_J_FLOAT);
    bool a_list = a->kind == KV_J_LIST || a->kind == KV_J_TUPLE,
         b_list = b->kind == KV_J_LIST || b->kind == KV_J_TUPLE;
    if (op >= KV_JO_EQ) return compare(e, op, a, b, out);
    if (numbers) return arithmetic(e, op, a, b, out);
    if (op == KV_JO_ADD && a->kind == KV_J_STR && b->kind == KV_J_STR) {
        kv_jbuf_put(&text, a->s.s, a->s.n);
        kv_jbuf_put(&text, b->s.s, b->s.n);
        return kv_jbuf_end(e, &text, out);
    }
    if (op == KV_JO_ADD && a_list && a->kind == b->kind) return join_lists(e, a, b, out);
    if (op == KV_JO_MUL && (a->kind == KV_J_STR || a_list) && is_whole(b)) return repeat(e, a, whole(b), out);
    if (op == KV_JO_MUL && (b->kind == KV_J_STR || b_list) && is_whole(a)) return repeat(e, b, whole(a), out);
    if (op == KV_JO_MOD && a->kind == KV_J_STR) return percent(e, a->s, b, out);
    return type_error(e, names[op], a, b);
}

/* ------------------------------------------------------------------------------------------ attributes -- */

static struct kv_jval undefined(struct kv_jstr name)
{
    return (struct kv_jval){ .kind = KV_J_UNDEFINED, .s = name };
}

bool kv_jloop_attr(ev e, struct kv_jloop *loop, struct kv_jstr name, struct kv_jval *out)
{
    int64_t i = (int64_t)loop->i, n = (int64_t)loop->items->n;
    (void)e;
    if (kv_jstr_is(name, "index"))
        *out = kv_jval_int(i + 1);
    else if (kv_jstr_is(name, "index0"))
        *out = kv_jval_int(i);
    else if (kv_jstr_is(name, "first"))
        *out = kv_jval_bool(i == 0);
    else if (kv_jstr_is(name, "last"))
        *out = kv_jval_bool(i + 1 == n);
    else if (kv_jstr_is(name, "length"))
        *out = kv_jval_int(n);
    else if (kv_jstr_is(name, "revindex"))
        *out = kv_jval_int(n - i);
    else if (kv_jstr_is(name, "revindex0"))
        *out = kv_jval_int(n - i - 1);
    else if (kv_jstr_is(name, "depth"))
        *out = kv_jval_int(1);
    else if (kv_jstr_is(name, "depth0"))
        *out = kv_jval_int(0);
    else if (kv_jstr_is(name, "previtem"))
        *out = i > 0 ? loop->items->items[i - 1] : undefined(KV_JSTR("loop.previtem"));
    else if (kv_jstr_is(name, "nextitem"))
        *out = i + 1 < n ? loop->items->items[i + 1] : undefined(KV_JSTR("loop.nextitem"));
    else
        *out = undefined(name);
    return true;
}

static bool bound_method(ev e, val v, int index, struct kv_jval *out)
{
    struct kv_jmethod *m = kv_jarena_take(&e->arena, sizeof *m);
    if (!m) return kv_jfail_memory(e);
    *m = (struct kv_jmethod){ *v, index };
    *out = (struct kv_jval){ .kind = KV_J_METHOD, .method = m };
    return true;
}

bool kv_jget_attr(ev e, val v, struct kv_jstr name, struct kv_jval *out)
{
    int index;
    if (v->kind == KV_J_UNDEFINED) return undefined_used(e, v);
    if (kv_jmethod_find(v, name, &index)) return bound_method(e, v, index, out);
    if (v->kind == KV_J_LOOP) return kv_jloop_attr(e, v->loop, name, out);
    if (v->kind == KV_J_DICT || v->kind == KV_J_NAMESPACE) {
        const struct kv_jval *there = kv_jdict_find(v->dict, name);
        *out = there ? *there : undefined(name);
        return kv_jspend(e, v->dict->n / 8);
    }
    *out = undefined(name);
    return true;
}

bool kv_jget_item(ev e, val v, val key, struct kv_jval *out)
{
    if (v->kind == KV_J_UNDEFINED) return undefined_used(e, v);
    *out = undefined(key->kind == KV_J_STR ? key->s : KV_JSTR("an element"));
    if (v->kind == KV_J_DICT) {
        const struct kv_jval *there = kv_jdict_get(v->dict, *key);
        if (there) *out = *there;
        if (there || key->kind != KV_J_STR) return kv_jspend(e, v->dict->n / 8);
    }
    if (key->kind == KV_J_STR) return kv_jget_attr(e, v, key->s, out);
    if (!is_whole(key)) return true;
    int64_t i = whole(key);
    if (v->kind == KV_J_STR) {
        int64_t n = (int64_t)kv_jstr_runes(v->s);
        if (i < 0) i += n;
        if (i < 0 || i >= n) return kv_jspend(e, v->s.n / 64);
        size_t at = kv_jstr_offset(v->s, (size_t)i), length;
        kv_jrune(v->s.s + at, v->s.n - at, &length);
        *out = kv_jval_str(v->s.s + at, length);
        return kv_jspend(e, v->s.n / 64);
    }
    if (v->kind != KV_J_LIST && v->kind != KV_J_TUPLE) return true;
    if (i < 0) i += (int64_t)v->list->n;
    if (i >= 0 && i < (int64_t)v->list->n) *out = v->list->items[i];
    return true;
}

bool kv_jiterate(ev e, val v, struct kv_jlist **out)
{
    struct kv_jval list;
    if (v->kind == KV_J_LIST || v->kind == KV_J_TUPLE) {
        *out = v->list;
        return true;
    }
    if (!kv_jlist_new(&e->arena, KV_J_LIST, &list)) return kv_jfail_memory(e);
    *out = list.list;
    if (v->kind == KV_J_UNDEFINED) return true;
    if (v->kind == KV_J_DICT) {
        for (size_t i = 0; i < v->dict->n; i++)
            if (!kv_jlist_add(&e->arena, list.list, v->dict->keys[i])) return kv_jfail_memory(e);
        return true;
    }
    if (v->kind != KV_J_STR) return kv_jfail(e, KVANT_ERR_ARGUMENT, "a %s has no elements", kv_jval_type(v));
    for (size_t i = 0, length; i < v->s.n; i += length) {
        kv_jrune(v->s.s + i, v->s.n - i, &length);
        if (!kv_jlist_add(&e->arena, list.list, kv_jval_str(v->s.s + i, length))) return kv_jfail_memory(e);
    }
    return kv_jspend(e, list.list->n);
}
