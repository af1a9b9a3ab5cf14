/*
 * The evaluator: statements, expressions, scopes, macros. A call of kv_jinja_render owns one arena; nothing
 * outlives it but the text.
 */
#include "text/jinja_call.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"

#define STEPS_MAX          ((int64_t)20000000)
#define DEPTH_MAX          300
#define TEMPLATE_BYTES_MAX ((size_t)1 << 20)
#define ARENA_BYTES_MAX    ((size_t)128 << 20)

struct kv_jinja {
    struct kv_jarena arena;
    struct kv_jnode *body;
    struct kv_jtokens tokens;
};

struct variable {
    struct variable *next;
    struct kv_jstr name;
    struct kv_jval value;
};

struct kv_jscope {
    struct kv_jscope *parent;
    struct variable *variables;
};

enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE, FLOW_FAIL };

typedef const struct kv_jnode *node;

static bool eval(struct kv_jeval *e, node n, struct kv_jval *out);
static enum flow run_list(struct kv_jeval *e, node n);

/* -------------------------------------------------------------------------------------------- failures -- */

bool kv_jfail(struct kv_jeval *e, kvant_status status, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    e->status = kv_error_set(e->err, status, e->line, "chat template, line %d: %s", e->line, text);
    return false;
}

bool kv_jfail_memory(struct kv_jeval *e)
{
    return kv_jfail(e, KVANT_ERR_MEMORY, "more than the %zu MB of memory that a template may use",
                    ARENA_BYTES_MAX >> 20);
}

bool kv_jspend(struct kv_jeval *e, size_t n)
{
    e->n_steps += n < (size_t)STEPS_MAX ? (int64_t)n : STEPS_MAX;
    return e->n_steps <= STEPS_MAX ||
           kv_jfail(e, KVANT_ERR_MEMORY,
                    "more than %lld steps; the template does not end, or its input is too large",
                    (long long)STEPS_MAX);
}

bool kv_jbuf_end(struct kv_jeval *e, const struct kv_jbuf *b, struct kv_jval *out)
{
    if (b->failed) return kv_jfail_memory(e);
    *out = kv_jbuf_value(b);
    return true;
}

bool kv_jtext_of(struct kv_jeval *e, const struct kv_jval *v, struct kv_jval *out)
{
    struct kv_jbuf b = { .arena = &e->arena };
    if (v->kind == KV_J_STR) {
        *out = *v;
        return true;
    }
    kv_jbuf_str(&b, v);
    return kv_jbuf_end(e, &b, out);
}

/* ---------------------------------------------------------------------------------------------- scopes -- */

static bool scope_enter(struct kv_jeval *e, struct kv_jscope *parent)
{
    struct kv_jscope *s = kv_jarena_take(&e->arena, sizeof *s);
    if (!s) return kv_jfail_memory(e);
    s->parent = parent;
    e->scope = s;
    return true;
}

static bool scope_set(struct kv_jeval *e, struct kv_jstr name, struct kv_jval value)
{
    for (struct variable *v = e->scope->variables; v; v = v->next)
        if (kv_jstr_equal(v->name, name)) {
            v->value = value;
            return true;
        }
    struct variable *v = kv_jarena_take(&e->arena, sizeof *v);
    if (!v) return kv_jfail_memory(e);
    *v = (struct variable){ e->scope->variables, name, value };
    e->scope->variables = v;
    return true;
}

static struct kv_jval lookup(struct kv_jeval *e, struct kv_jstr name)
{
    for (const struct kv_jscope *s = e->scope; s; s = s->parent)
        for (const struct variable *v = s->variables; v; v = v->next)
            if (kv_jstr_equal(v->name, name)) return v->value;
    int function = kv_jfunction_find(name);
    if (function >= 0) return (struct kv_jval){ .kind = KV_J_BUILTIN, .builtin = function };
    return (struct kv_jval){ .kind = KV_J_UNDEFINED, .s = name };
}

static bool assign(struct kv_jeval *e, node target, struct kv_jval value)
{
    if (target->kind == KV_JN_NAME) return scope_set(e, target->name, value);
    if (target->kind == KV_JN_ATTR) {
        struct kv_jval of = lookup(e, target->a->name);
        if (of.kind != KV_J_NAMESPACE)
            return kv_jfail(e, KVANT_ERR_ARGUMENT, "only a namespace can be assigned an attribute ('%.*s')",
                            (int)(target->name.n < 60 ? target->name.n : 60), target->name.s);
        return kv_jdict_set(&e->arena, of.dict, kv_jval_str(target->name.s, target->name.n), value) ||
               kv_jfail_memory(e);
    }
    struct kv_jlist *items;
    if (!kv_jiterate(e, &value, &items)) return false;
    size_t i = 0;
    for (node part = target->list; part; part = part->next, i++)
        if (i >= items->n || !assign(e, part, items->items[i]))
            return i < items->n ? false : kv_jfail(e, KVANT_ERR_ARGUMENT, "too few values to unpack");
    return i == items->n || kv_jfail(e, KVANT_ERR_ARGUMENT, "too many values to unpack");
}

/* ----------------------------------------------------------------------------------------- expressions -- */

static size_t list_length(node n)
{
    size_t count = 0;
    for (; n; n = n->next) count++;
    return count;
}

/* Evaluates arguments into the arena. */
static bool eval_args(struct kv_jeval *e, node list, struct kv_jargs *args)
{
    size_t n = list_length(list);
    struct kv_jval *values = kv_jarena_take(&e->arena, (n + 1) * sizeof *values);
    struct kv_jstr *names = kv_jarena_take(&e->arena, (n + 1) * sizeof *names);
    if (!values || !names) return kv_jfail_memory(e);
    size_t i = 0, n_positional = 0;
    for (node arg = list; arg; arg = arg->next, i++) {
        if (!eval(e, arg->a, &values[i])) return false;
        names[i] = arg->name;
        n_positional += arg->name.n == 0; /* the parser puts named ones last */
    }
    *args = (struct kv_jargs){ values, n_positional, names + n_positional, values + n_positional,
                               n - n_positional };
    return true;
}

static bool eval_elements(struct kv_jeval *e, node n, enum kv_jkind kind, struct kv_jval *out)
{
    struct kv_jval item;
    if (!kv_jlist_new(&e->arena, kind, out)) return kv_jfail_memory(e);
    for (node part = n->list; part; part = part->next) {
        if (!eval(e, part, &item)) return false;
        if (!kv_jlist_add(&e->arena, out->list, item)) return kv_jfail_memory(e);
    }
    return true;
}

static bool eval_dict(struct kv_jeval *e, node n, struct kv_jval *out)
{
    struct kv_jval key, value;
    if (!kv_jdict_new(&e->arena, KV_J_DICT, out)) return kv_jfail_memory(e);
    for (node part = n->list; part; part = part->next->next) {
        if (!eval(e, part, &key) || !eval(e, part->next, &value)) return false;
        if (key.kind > KV_J_STR || key.kind == KV_J_UNDEFINED)
            return kv_jfail(e, KVANT_ERR_ARGUMENT, "a %s cannot be a key", kv_jval_type(&key));
        if (!kv_jspend(e, out->dict->n)) return false;
        if (!kv_jdict_set(&e->arena, out->dict, key, value)) return kv_jfail_memory(e);
    }
    return true;
}

static bool eval_unary(struct kv_jeval *e, node n, struct kv_jval *out)
{
    struct kv_jval x;
    if (!eval(e, n->a, &x)) return false;
    if (n->op == KV_JO_NOT) {
        *out = kv_jval_bool(!kv_jval_truth(&x));
        return true;
    }
    if (x.kind == KV_J_FLOAT) {
        *out = kv_jval_float(n->op == KV_JO_NEG ? -x.f : x.f);
        return true;
    }
    if (x.kind != KV_J_INT && x.kind != KV_J_BOOL)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "a sign before a %s", kv_jval_type(&x));
    struct kv_jval zero = kv_jval_int(0);
    return kv_jbinary(e, n->op == KV_JO_NEG ? KV_JO_SUB : KV_JO_ADD, &zero, &x, out);
}

static bool eval_compare(struct kv_jeval *e, node n, struct kv_jval *out)
{
    struct kv_jval left, right, result;
    if (!eval(e, n->a, &left)) return false;
    for (node part = n->list; part; part = part->next) {
        if (!eval(e, part->a, &right)) return false;
        if (!kv_jbinary(e, part->op, &left, &right, &result)) return false;
        if (!kv_jval_truth(&result)) break;
        left = right;
    }
    *out = result;
    return true;
}

static bool eval_concat(struct kv_jeval *e, node n, struct kv_jval *out)
{
    struct kv_jbuf b = { .arena = &e->arena };
    struct kv_jval part_value;
    for (node part = n->list; part; part = part->next) {
        if (!eval(e, part, &part_value)) return false;
        kv_jbuf_str(&b, &part_value);
    }
    return kv_jbuf_end(e, &b, out);
}

static bool eval_logical(struct kv_jeval *e, node n, struct kv_jval *out)
{
    if (!eval(e, n->a, out)) return false;
    if (kv_jval_truth(out) != (n->kind == KV_JN_AND)) return true;
    return eval(e, n->b, out);
}

static bool eval_cond(struct kv_jeval *e, node n, struct kv_jval *out)
{
    struct kv_jval condition;
    if (!eval(e, n->b, &condition)) return false;
    if (kv_jval_truth(&condition)) return eval(e, n->a, out);
    if (n->c) return eval(e, n->c, out);
    *out = (struct kv_jval){ .kind = KV_J_UNDEFINED, .s = KV_JSTR("the else of an inline if") };
    return true;
}

static bool eval_filter(struct kv_jeval *e, node n, const struct kv_jval *block_text, struct kv_jval *out)
{
    struct kv_jval x;
    struct kv_jargs args;
    if (!n->a)
        x = *block_text;
    else if (n->a->kind == KV_JN_FILTER && block_text) {
        if (!eval_filter(e, n->a, block_text, &x)) return false;
    } else if (!eval(e, n->a, &x))
        return false;
    if (!eval_args(e, n->list, &args)) return false;
    e->line = n->line;
    return kv_jcall_filter(e, n->index, x, &args, out);
}

static bool eval_test(struct kv_jeval *e, node n, struct kv_jval *out)
{
    struct kv_jval x;
    struct kv_jargs args;
    bool result;
    if (!eval(e, n->a, &x) || !eval_args(e, n->list, &args)) return false;
    if (!kv_jcall_test(e, n->index, x, &args, &result)) return false;
    *out = kv_jval_bool(result);
    return true;
}

static bool slice_bound(struct kv_jeval *e, node n, int64_t otherwise, int64_t *out)
{
    struct kv_jval v = { .kind = KV_J_NONE };
    if (n && !eval(e, n, &v)) return false;
    if (v.kind == KV_J_NONE)
        *out = otherwise;
    else if (v.kind == KV_J_INT)
        *out = v.i;
    else if (v.kind == KV_J_BOOL)
        *out = v.b;
    else
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "a slice by %s", kv_jval_type(&v));
    return true;
}

/* Python's rule: negative bounds count from the end, all are cut to the sequence. */
static int64_t clip(int64_t at, int64_t n, bool backwards)
{
    if (at < 0) at = at < -n ? -1 : at + n;
    if (at < 0) return backwards ? -1 : 0;
    if (at >= n) return backwards ? n - 1 : n;
    return at;
}

static bool eval_slice(struct kv_jeval *e, node n, struct kv_jval *out)
{
    struct kv_jval of;
    struct kv_jlist *items;
    int64_t first, end, step;
    if (!eval(e, n->a, &of) || !slice_bound(e, n->d, 1, &step)) return false;
    if (of.kind == KV_J_UNDEFINED || (of.kind != KV_J_STR && of.kind != KV_J_LIST && of.kind != KV_J_TUPLE))
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "a %s cannot be sliced", kv_jval_type(&of));
    if (step == 0) return kv_jfail(e, KVANT_ERR_ARGUMENT, "a slice of step 0");
    if (!kv_jiterate(e, &of, &items)) return false;
    int64_t count = (int64_t)items->n;
    if (!slice_bound(e, n->b, step > 0 ? 0 : INT64_MAX, &first) ||
        !slice_bound(e, n->c, step > 0 ? INT64_MAX : -count - 1, &end))
        return false;
    first = clip(first, count, step < 0);
    end = clip(end, count, step < 0);
    struct kv_jval result;
    struct kv_jbuf b = { .arena = &e->arena };
    if (!kv_jlist_new(&e->arena, of.kind == KV_J_TUPLE ? KV_J_TUPLE : KV_J_LIST, &result))
        return kv_jfail_memory(e);
    for (int64_t i = first; step > 0 ? i < end : i > end;) {
        const struct kv_jval *item = &items->items[i];
        if (of.kind == KV_J_STR)
            kv_jbuf_put(&b, item->s.s, item->s.n);
        else if (!kv_jlist_add(&e->arena, result.list, *item))
            return kv_jfail_memory(e);
        if (step > 0 ? step >= end - i : step <= end - i) break;
        i += step;
    }
    *out = result;
    return of.kind == KV_J_STR ? kv_jbuf_end(e, &b, out) : true;
}

static bool eval_call(struct kv_jeval *e, node n, struct kv_jval *out)
{
    struct kv_jval f;
    struct kv_jargs args;
    if (!eval(e, n->a, &f) || !eval_args(e, n->list, &args)) return false;
    e->line = n->line;
    return kv_jcall_value(e, &f, &args, out);
}

static bool eval_kind(struct kv_jeval *e, node n, struct kv_jval *out)
{
    struct kv_jval a, b;
    switch (n->kind) {
    case KV_JN_CONST: *out = n->value; return true;
    case KV_JN_NAME: *out = lookup(e, n->name); return true;
    case KV_JN_LIST: return eval_elements(e, n, KV_J_LIST, out);
    case KV_JN_TUPLE: return eval_elements(e, n, KV_J_TUPLE, out);
    case KV_JN_DICT: return eval_dict(e, n, out);
    case KV_JN_UNARY: return eval_unary(e, n, out);
    case KV_JN_BINARY: return eval(e, n->a, &a) && eval(e, n->b, &b) && kv_jbinary(e, n->op, &a, &b, out);
    case KV_JN_AND:
    case KV_JN_OR: return eval_logical(e, n, out);
    case KV_JN_CONCAT: return eval_concat(e, n, out);
    case KV_JN_COMPARE: return eval_compare(e, n, out);
    case KV_JN_COND: return eval_cond(e, n, out);
    case KV_JN_FILTER: return eval_filter(e, n, NULL, out);
    case KV_JN_TEST: return eval_test(e, n, out);
    case KV_JN_ATTR: return eval(e, n->a, &a) && kv_jget_attr(e, &a, n->name, out);
    case KV_JN_ITEM: return eval(e, n->a, &a) && eval(e, n->b, &b) && kv_jget_item(e, &a, &b, out);
    case KV_JN_SLICE: return eval_slice(e, n, out);
    case KV_JN_CALL: return eval_call(e, n, out);
    default: return kv_jfail(e, KVANT_ERR_UNSUPPORTED, "an expression that cannot be evaluated");
    }
}

static bool eval(struct kv_jeval *e, node n, struct kv_jval *out)
{
    e->line = n->line;
    if (!kv_jspend(e, 1)) return false;
    if (++e->depth > DEPTH_MAX) return kv_jfail(e, KVANT_ERR_MEMORY, "nested too deeply");
    bool ok = eval_kind(e, n, out);
    e->depth--;
    return ok;
}

/* ---------------------------------------------------------------------------------------------- macros -- */

static const struct kv_jval *named_arg(const struct kv_jargs *args, struct kv_jstr name)
{
    for (size_t i = 0; i < args->n_named; i++)
        if (kv_jstr_equal(args->names[i], name)) return &args->named[i];
    return NULL;
}

/* Parameters into the macro's scope; what is left over is an error, but for the macro's caller. */
static bool bind_parameters(struct kv_jeval *e, node macro, const struct kv_jargs *args)
{
    size_t i = 0, n_named = 0;
    for (node p = macro->d; p; p = p->next, i++) {
        struct kv_jval value = { .kind = KV_J_UNDEFINED, .s = p->name };
        const struct kv_jval *named = named_arg(args, p->name);
        if (i < args->n)
            value = args->values[i];
        else if (named)
            value = *named;
        else if (p->a && !eval(e, p->a, &value))
            return false;
        n_named += named != NULL;
        if (named && i < args->n)
            return kv_jfail(e, KVANT_ERR_ARGUMENT, "macro: two values for '%.*s'", (int)p->name.n, p->name.s);
        if (!scope_set(e, p->name, value)) return false;
    }
    const struct kv_jval *caller = named_arg(args, KV_JSTR("caller"));
    if (caller && !scope_set(e, KV_JSTR("caller"), *caller)) return false;
    n_named += caller != NULL;
    if (args->n > i || args->n_named > n_named)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "macro '%.*s': more arguments than its %zu parameters",
                        (int)macro->name.n, macro->name.s, i);
    return true;
}

/* The text of statements, in the scope that is current. */
static bool capture(struct kv_jeval *e, node list, struct kv_jval *out)
{
    struct kv_jbuf b = { .arena = &e->arena }, *outer = e->out;
    e->out = &b;
    enum flow flow = run_list(e, list);
    e->out = outer;
    return flow != FLOW_FAIL && kv_jbuf_end(e, &b, out);
}

static bool call_macro(struct kv_jeval *e, const struct kv_jmacro *macro, const struct kv_jargs *args,
                       struct kv_jval *out)
{
    struct kv_jscope *outer = e->scope;
    if (++e->depth > DEPTH_MAX) return kv_jfail(e, KVANT_ERR_MEMORY, "nested too deeply");
    bool ok = scope_enter(e, macro->scope) && bind_parameters(e, macro->node, args) &&
              capture(e, macro->node->list, out);
    e->depth--;
    e->scope = outer;
    return ok;
}

bool kv_jcall_value(struct kv_jeval *e, const struct kv_jval *f, const struct kv_jargs *args,
                    struct kv_jval *out)
{
    switch (f->kind) {
    case KV_J_MACRO: return call_macro(e, f->macro, args, out);
    case KV_J_BUILTIN: return kv_jcall_function(e, f->builtin, args, out);
    case KV_J_METHOD: return kv_jcall_method(e, f->method, args, out);
    case KV_J_UNDEFINED:
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "'%.*s' is undefined and cannot be called",
                        (int)(f->s.n < 60 ? f->s.n : 60), f->s.s);
    case KV_J_LOOP: return kv_jfail(e, KVANT_ERR_UNSUPPORTED, "recursive loops are not supported");
    default: return kv_jfail(e, KVANT_ERR_ARGUMENT, "a %s cannot be called", kv_jval_type(f));
    }
}

/* ------------------------------------------------------------------------------------------ statements -- */

/* The loop's elements: those that its condition lets through. */
static bool loop_items(struct kv_jeval *e, node n, struct kv_jlist **out)
{
    struct kv_jval over, kept, condition;
    if (!eval(e, n->b, &over) || !kv_jiterate(e, &over, out)) return false;
    if (!n->c) return true;
    if (!kv_jlist_new(&e->arena, KV_J_LIST, &kept)) return kv_jfail_memory(e);
    struct kv_jscope *outer = e->scope;
    for (size_t i = 0; i < (*out)->n; i++) {
        bool ok = scope_enter(e, outer) && assign(e, n->a, (*out)->items[i]) && eval(e, n->c, &condition);
        e->scope = outer;
        if (!ok) return false;
        if (kv_jval_truth(&condition) && !kv_jlist_add(&e->arena, kept.list, (*out)->items[i]))
            return kv_jfail_memory(e);
    }
    *out = kept.list;
    return true;
}

static enum flow run_for(struct kv_jeval *e, node n)
{
    struct kv_jlist *items;
    struct kv_jscope *outer = e->scope;
    if (!loop_items(e, n, &items)) return FLOW_FAIL;
    if (items->n == 0) return n->d ? run_list(e, n->d) : FLOW_ON;
    struct kv_jloop *loop = kv_jarena_take(&e->arena, sizeof *loop);
    if (!loop) return kv_jfail_memory(e), FLOW_FAIL;
    loop->items = items;
    enum flow flow = FLOW_ON;
    for (; loop->i < items->n && flow != FLOW_BREAK; loop->i++) {
        bool ok = kv_jspend(e, 1) && scope_enter(e, outer) && assign(e, n->a, items->items[loop->i]) &&
                  scope_set(e, KV_JSTR("loop"), (struct kv_jval){ .kind = KV_J_LOOP, .loop = loop });
        flow = ok ? run_list(e, n->list) : FLOW_FAIL;
        e->scope = outer;
        if (flow == FLOW_FAIL) return FLOW_FAIL;
    }
    return FLOW_ON;
}

static enum flow run_if(struct kv_jeval *e, node n)
{
    struct kv_jval condition;
    if (!eval(e, n->a, &condition)) return FLOW_FAIL;
    return run_list(e, kv_jval_truth(&condition) ? n->list : n->b);
}

/* Statements in a scope of their own, as text. */
static bool capture_scoped(struct kv_jeval *e, node list, struct kv_jval *out)
{
    struct kv_jscope *outer = e->scope;
    bool ok = scope_enter(e, outer) && capture(e, list, out);
    e->scope = outer;
    return ok;
}

static bool run_set_block(struct kv_jeval *e, node n)
{
    struct kv_jval text, value;
    if (!capture_scoped(e, n->list, &text)) return false;
    if (!n->b) return assign(e, n->a, text);
    return eval_filter(e, n->b, &text, &value) && assign(e, n->a, value);
}

static bool run_filter_block(struct kv_jeval *e, node n)
{
    struct kv_jval text, value;
    if (!capture_scoped(e, n->list, &text) || !eval_filter(e, n->a, &text, &value)) return false;
    kv_jbuf_str(e->out, &value);
    return true;
}

static bool new_macro(struct kv_jeval *e, node n, struct kv_jval *out)
{
    struct kv_jmacro *macro = kv_jarena_take(&e->arena, sizeof *macro);
    if (!macro) return kv_jfail_memory(e);
    *macro = (struct kv_jmacro){ n, e->scope };
    *out = (struct kv_jval){ .kind = KV_J_MACRO, .macro = macro };
    return true;
}

static bool run_call_block(struct kv_jeval *e, node n)
{
    struct kv_jval f, caller, result;
    struct kv_jargs args;
    if (!new_macro(e, n, &caller) || !eval(e, n->a->a, &f) || !eval_args(e, n->a->list, &args)) return false;
    struct kv_jstr *names = kv_jarena_take(&e->arena, (args.n_named + 1) * sizeof *names);
    struct kv_jval *named = kv_jarena_take(&e->arena, (args.n_named + 1) * sizeof *named);
    if (!names || !named) return kv_jfail_memory(e);
    for (size_t i = 0; i < args.n_named; i++) {
        names[i] = args.names[i];
        named[i] = args.named[i];
    }
    names[args.n_named] = KV_JSTR("caller");
    named[args.n_named++] = caller;
    args.names = names;
    args.named = named;
    if (f.kind != KV_J_MACRO)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "{%% call %%} of a %s", kv_jval_type(&f));
    if (!kv_jcall_value(e, &f, &args, &result)) return false;
    kv_jbuf_str(e->out, &result);
    return true;
}

static enum flow run_with(struct kv_jeval *e, node n)
{
    struct kv_jscope *outer = e->scope, *inner;
    struct kv_jval value;
    if (!scope_enter(e, outer)) return FLOW_FAIL;
    inner = e->scope;
    for (node part = n->d; part; part = part->next) { /* values see the outside */
        e->scope = outer;
        bool ok = eval(e, part->a, &value);
        e->scope = inner;
        if (!ok || !assign(e, part->b, value)) {
            e->scope = outer;
            return FLOW_FAIL;
        }
    }
    enum flow flow = run_list(e, n->list);
    e->scope = outer;
    return flow;
}

static enum flow run_scope(struct kv_jeval *e, node n)
{
    struct kv_jscope *outer = e->scope;
    if (!scope_enter(e, outer)) return FLOW_FAIL;
    enum flow flow = run_list(e, n->list);
    e->scope = outer;
    return flow;
}

static enum flow run(struct kv_jeval *e, node n)
{
    struct kv_jval value;
    e->line = n->line;
    switch (n->kind) {
    case KV_JN_TEXT: kv_jbuf_put(e->out, n->name.s, n->name.n); return FLOW_ON;
    case KV_JN_OUTPUT:
        if (!eval(e, n->a, &value)) return FLOW_FAIL;
        kv_jbuf_str(e->out, &value);
        return FLOW_ON;
    case KV_JN_IF: return run_if(e, n);
    case KV_JN_FOR: return run_for(e, n);
    case KV_JN_SET: return eval(e, n->b, &value) && assign(e, n->a, value) ? FLOW_ON : FLOW_FAIL;
    case KV_JN_SET_BLOCK: return run_set_block(e, n) ? FLOW_ON : FLOW_FAIL;
    case KV_JN_MACRO: return new_macro(e, n, &value) && scope_set(e, n->name, value) ? FLOW_ON : FLOW_FAIL;
    case KV_JN_CALL_BLOCK: return run_call_block(e, n) ? FLOW_ON : FLOW_FAIL;
    case KV_JN_FILTER_BLOCK: return run_filter_block(e, n) ? FLOW_ON : FLOW_FAIL;
    case KV_JN_WITH: return run_with(e, n);
    case KV_JN_SCOPE: return run_scope(e, n);
    case KV_JN_BREAK: return FLOW_BREAK;
    case KV_JN_CONTINUE: return FLOW_CONTINUE;
    default: return kv_jfail(e, KVANT_ERR_UNSUPPORTED, "a statement that cannot be run"), FLOW_FAIL;
    }
}

static enum flow run_list(struct kv_jeval *e, node n)
{
    enum flow flow = FLOW_ON;
    if (++e->depth > DEPTH_MAX) return kv_jfail(e, KVANT_ERR_MEMORY, "nested too deeply"), FLOW_FAIL;
    for (; n && flow == FLOW_ON; n = n->next) {
        flow = kv_jspend(e, 1) ? run(e, n) : FLOW_FAIL;
        if (e->out->failed && flow != FLOW_FAIL) return kv_jfail_memory(e), FLOW_FAIL;
    }
    e->depth--;
    return flow;
}

/* ------------------------------------------------------------------------------------- open and render -- */

/* Newlines as \n, and the last one gone. */
static bool normalise(struct kv_jarena *a, const char *source, size_t n_bytes, struct kv_jstr *out)
{
    char *copy = kv_jarena_take(a, n_bytes);
    size_t n = 0;
    if (!copy) return false;
    for (size_t i = 0; i < n_bytes; i++) {
        if (source[i] == '\r' && i + 1 < n_bytes && source[i + 1] == '\n') continue;
        copy[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (n > 0 && copy[n - 1] == '\n') n--;
    *out = (struct kv_jstr){ copy, n };
    return true;
}

kvant_status kv_jinja_open(struct kv_jinja **out, const char *source, size_t n_bytes, struct kvant_error *err)
{
    struct kv_jstr text;
    *out = NULL;
    if (n_bytes > TEMPLATE_BYTES_MAX)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "chat template: %zu bytes; at most %zu are read", n_bytes,
                TEMPLATE_BYTES_MAX);
    struct kv_jinja *t = kv_alloc(1, sizeof *t);
    if (!t) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "chat template: no memory");
    t->arena.n_limit = ARENA_BYTES_MAX;
    kvant_status status = KVANT_OK;
    if (!normalise(&t->arena, source, n_bytes, &text))
        status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "chat template: no memory");
    if (status == KVANT_OK) status = kv_jinja_lex(&t->arena, text, &t->tokens, err);
    if (status == KVANT_OK) status = kv_jinja_parse(&t->arena, &t->tokens, &t->body, err);
    if (status == KVANT_OK)
        *out = t;
    else
        kv_jinja_close(t);
    return status;
}

void kv_jinja_close(struct kv_jinja *t)
{
    if (!t) return;
    kv_jarena_close(&t->arena);
    kv_free(t);
}

bool kv_jinja_mentions(const struct kv_jinja *t, const char *name)
{
    for (size_t i = 0; i < t->tokens.n; i++)
        if (t->tokens.items[i].kind == KV_JT_NAME && kv_jstr_is(t->tokens.items[i].text, name)) return true;
    return false;
}

/* The texts of a value; path: where it is, with room behind n. Nothing is nested beyond the JSON's depth. */
static kvant_status check_texts(struct kv_jeval *e, const struct kv_jinja_call *call, const struct kv_jval *v,
                                char path[200], size_t n)
{
    const char *why;
    size_t n_why;
    if (v->kind == KV_J_STR && !call->allows(call->user, v->s.s, v->s.n, &why, &n_why))
        KV_FAIL(e->err, KVANT_ERR_ARGUMENT, -1, "%.*s: holds the control token \"%.*s\": take it out", (int)n,
                path, (int)(n_why < 64 ? n_why : 64), why);
    bool list = v->kind == KV_J_LIST;
    if (!list && v->kind != KV_J_DICT) return KVANT_OK;
    for (size_t i = 0; i < (list ? v->list->n : v->dict->n); i++) {
        int more = list ? snprintf(path + n, 200 - n, "[%zu]", i)
                        : snprintf(path + n, 200 - n, "%s%.*s", n ? "." : "",
                                   (int)(v->dict->keys[i].s.n < 60 ? v->dict->keys[i].s.n : 60),
                                   v->dict->keys[i].s.s);
        size_t end = n + (more > 0 ? (size_t)more : 0);
        KV_TRY(check_texts(e, call, list ? &v->list->items[i] : &v->dict->values[i], path,
                           end < 199 ? end : 199));
    }
    return KVANT_OK;
}

static bool add_member(struct kv_jeval *e, struct kv_jval *dict, const char *name, struct kv_jval value)
{
    return kv_jdict_set(&e->arena, dict->dict, kv_jval_str(name, strlen(name)), value);
}

/* The variables of a call without JSON, as its object would be. */
static kvant_status messages_object(struct kv_jeval *e, const struct kv_jinja_call *call,
                                    struct kv_jval *object)
{
    struct kv_jval list, item;
    bool ok = kv_jdict_new(&e->arena, KV_J_DICT, object) && kv_jlist_new(&e->arena, KV_J_LIST, &list);
    for (size_t i = 0; i < call->n_messages && ok; i++) {
        const struct kvant_message *m = &call->messages[i];
        ok = kv_jdict_new(&e->arena, KV_J_DICT, &item) &&
             add_member(e, &item, "role", kv_jval_str(m->role, strlen(m->role))) &&
             add_member(e, &item, "content", kv_jval_str(m->content, strlen(m->content))) &&
             kv_jlist_add(&e->arena, list.list, item);
    }
    ok = ok && add_member(e, object, "messages", list) &&
         add_member(e, object, "add_generation_prompt", kv_jval_bool(call->add_generation_prompt));
    if (!ok) kv_jfail_memory(e);
    return ok ? KVANT_OK : e->status;
}

static kvant_status set_variables(struct kv_jeval *e, const struct kv_jinja_call *call)
{
    struct kv_jval object;
    char path[200] = "";
    if (!scope_enter(e, NULL)) return e->status;
    for (size_t i = 0; i < call->n_texts; i++) {
        const struct kv_jinja_text *t = &call->texts[i];
        struct kv_jstr name = { t->name, strlen(t->name) };
        if (!scope_set(e, name, kv_jval_str(t->text, t->n_bytes))) return e->status;
    }
    if (call->json)
        KV_TRY(kv_json_read(&e->arena, call->json, call->n_bytes, &object, e->err));
    else
        KV_TRY(messages_object(e, call, &object));
    if (object.kind != KV_J_DICT)
        KV_FAIL(e->err, KVANT_ERR_FORMAT, 0, "the variables of a chat template must be a JSON object");
    if (call->allows) KV_TRY(check_texts(e, call, &object, path, 0));
    for (size_t i = 0; i < object.dict->n; i++)
        if (!scope_set(e, object.dict->keys[i].s, object.dict->values[i])) return e->status;
    return KVANT_OK;
}

kvant_status kv_jinja_render(const struct kv_jinja *t, const struct kv_jinja_call *call, char **out,
                             size_t *n_out, struct kvant_error *err)
{
    *out = NULL;
    *n_out = 0;
    struct kv_jeval e = {
        .now_s = call->now_s ? call->now_s : kv_time_s(), .utc = call->utc, .err = err, .line = 1
    };
    e.arena.n_limit = ARENA_BYTES_MAX;
    struct kv_jbuf text = { .arena = &e.arena };
    e.out = &text;
    kvant_status status = set_variables(&e, call);
    if (status == KVANT_OK && run_list(&e, t->body) == FLOW_FAIL) status = e.status;
    if (status == KVANT_OK) {
        *out = kv_alloc(text.n + 1, 1);
        if (*out && text.n) memcpy(*out, text.data, text.n);
        if (*out)
            *n_out = text.n;
        else
            status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "chat template: no memory for its text");
    }
    kv_jarena_close(&e.arena);
    return status;
}
