/*
 * Recursive descent, one function per level of precedence:
 *   if-else  or  and  not  comparisons  + -  ~  * / // %  **  unary  postfix (. [] ())  filters and tests
 */
#include "text/jinja_ast.h"
#include "text/jinja_call.h"

#include <string.h>

#define DEPTH_MAX 120

struct parser {
    struct kv_jarena *arena;
    const struct kv_jtoken *t; /* the current one; KV_JT_END is never left */
    int depth, n_loops;
    struct kvant_error *err;
};

typedef struct kv_jnode *node;

static kvant_status wrong(const struct parser *p, const char *what)
{
    struct kv_jstr at = p->t->text;
    KV_FAIL(p->err, KVANT_ERR_FORMAT, p->t->line, "chat template, line %d: %s, at '%.*s'", p->t->line, what,
            (int)(at.n < 40 ? at.n : 40), at.s);
}

static kvant_status lacks(const struct parser *p, int line, const char *what, struct kv_jstr name)
{
    KV_FAIL(p->err, KVANT_ERR_UNSUPPORTED, line, "chat template, line %d: %s '%.*s' is not supported", line,
            what, (int)(name.n < 60 ? name.n : 60), name.s);
}

static kvant_status new_node(struct parser *p, enum kv_jnode_kind kind, node *out)
{
    *out = kv_jarena_take(p->arena, sizeof **out);
    if (!*out) KV_FAIL(p->err, KVANT_ERR_MEMORY, -1, "chat template: too large");
    (*out)->kind = kind;
    (*out)->line = p->t->line;
    return KVANT_OK;
}

static bool is_op(const struct parser *p, const char *op)
{
    return p->t->kind == KV_JT_OP && kv_jstr_is(p->t->text, op);
}

static bool is_name(const struct parser *p, const char *name)
{
    return p->t->kind == KV_JT_NAME && kv_jstr_is(p->t->text, name);
}

static bool skip_op(struct parser *p, const char *op)
{
    bool there = is_op(p, op);
    p->t += there;
    return there;
}

static bool skip_name(struct parser *p, const char *name)
{
    bool there = is_name(p, name);
    p->t += there;
    return there;
}

static kvant_status expect_op(struct parser *p, const char *op)
{
    char what[32] = "'' is missing";
    if (skip_op(p, op)) return KVANT_OK;
    memmove(what + 1 + strlen(op), what + 1, strlen(what + 1) + 1);
    memcpy(what + 1, op, strlen(op));
    return wrong(p, what);
}

static kvant_status expect_name(struct parser *p, struct kv_jstr *name)
{
    if (p->t->kind != KV_JT_NAME) return wrong(p, "a name is missing");
    *name = (p->t++)->text;
    return KVANT_OK;
}

static kvant_status enter(struct parser *p)
{
    if (++p->depth > DEPTH_MAX) return wrong(p, "nested too deeply");
    return KVANT_OK;
}

/* ----------------------------------------------------------------------------------------- expressions -- */

static kvant_status parse_expr(struct parser *p, node *out); /* with a condition, without a bare tuple */
static kvant_status parse_unary(struct parser *p, bool with_filters, node *out);
static kvant_status parse_postfix(struct parser *p, node *out);
static kvant_status parse_primary(struct parser *p, node *out);

static kvant_status binary(struct parser *p, enum kv_jop op, int line, node left, node right, node *out)
{
    KV_TRY(new_node(p, KV_JN_BINARY, out));
    (*out)->op = op;
    (*out)->line = line;
    (*out)->a = left;
    (*out)->b = right;
    return KVANT_OK;
}

/* Elements up to `close`, which is taken; *tuple: a comma was seen. */
static kvant_status parse_elements(struct parser *p, const char *close, node *list, bool *comma)
{
    node *link = list;
    *comma = false;
    *list = NULL;
    while (!skip_op(p, close)) {
        if (*list) {
            KV_TRY(expect_op(p, ","));
            *comma = true;
            if (skip_op(p, close)) break;
        }
        KV_TRY(parse_expr(p, link));
        link = &(*link)->next;
    }
    return KVANT_OK;
}

static kvant_status parse_dict(struct parser *p, node *out)
{
    KV_TRY(new_node(p, KV_JN_DICT, out));
    node *link = &(*out)->list;
    while (!skip_op(p, "}")) {
        if ((*out)->list) {
            KV_TRY(expect_op(p, ","));
            if (skip_op(p, "}")) break;
        }
        KV_TRY(parse_expr(p, link));
        link = &(*link)->next;
        KV_TRY(expect_op(p, ":"));
        KV_TRY(parse_expr(p, link));
        link = &(*link)->next;
    }
    return KVANT_OK;
}

static kvant_status parse_strings(struct parser *p, node *out)
{
    struct kv_jbuf b = { .arena = p->arena };
    KV_TRY(new_node(p, KV_JN_CONST, out));
    for (; p->t->kind == KV_JT_STRING; p->t++) kv_jbuf_put(&b, p->t->text.s, p->t->text.n);
    if (b.failed) KV_FAIL(p->err, KVANT_ERR_MEMORY, -1, "chat template: too large");
    (*out)->value = kv_jbuf_value(&b);
    return KVANT_OK;
}

static kvant_status parse_word(struct parser *p, node *out)
{
    KV_TRY(new_node(p, KV_JN_CONST, out));
    struct kv_jstr name = p->t->text;
    if (kv_jstr_is(name, "true") || kv_jstr_is(name, "True"))
        (*out)->value = kv_jval_bool(true);
    else if (kv_jstr_is(name, "false") || kv_jstr_is(name, "False"))
        (*out)->value = kv_jval_bool(false);
    else if (kv_jstr_is(name, "none") || kv_jstr_is(name, "None"))
        (*out)->value.kind = KV_J_NONE;
    else {
        (*out)->kind = KV_JN_NAME;
        (*out)->name = name;
    }
    p->t++;
    return KVANT_OK;
}

static kvant_status parse_primary(struct parser *p, node *out)
{
    bool comma;
    switch (p->t->kind) {
    case KV_JT_NAME: return parse_word(p, out);
    case KV_JT_STRING: return parse_strings(p, out);
    case KV_JT_INT:
        KV_TRY(new_node(p, KV_JN_CONST, out));
        (*out)->value = kv_jval_int((p->t++)->i);
        return KVANT_OK;
    case KV_JT_FLOAT:
        KV_TRY(new_node(p, KV_JN_CONST, out));
        (*out)->value = kv_jval_float((p->t++)->f);
        return KVANT_OK;
    default: break;
    }
    if (skip_op(p, "{")) return parse_dict(p, out);
    if (skip_op(p, "[")) {
        KV_TRY(new_node(p, KV_JN_LIST, out));
        return parse_elements(p, "]", &(*out)->list, &comma);
    }
    if (skip_op(p, "(")) {
        KV_TRY(new_node(p, KV_JN_TUPLE, out));
        KV_TRY(parse_elements(p, ")", &(*out)->list, &comma));
        if ((*out)->list && !comma) *out = (*out)->list; /* only brackets */
        return KVANT_OK;
    }
    return wrong(p, "an expression is missing");
}

/* Arguments after "(", which is taken. */
static kvant_status parse_arguments(struct parser *p, node *list)
{
    node *link = list;
    bool named = false;
    *list = NULL;
    while (!skip_op(p, ")")) {
        if (*list) {
            KV_TRY(expect_op(p, ","));
            if (skip_op(p, ")")) break;
        }
        if (is_op(p, "*") || is_op(p, "**"))
            return lacks(p, p->t->line, "the argument unpacking", p->t->text);
        KV_TRY(new_node(p, KV_JN_ARG, link));
        if (p->t->kind == KV_JT_NAME && p->t[1].kind == KV_JT_OP && kv_jstr_is(p->t[1].text, "=")) {
            (*link)->name = p->t->text;
            p->t += 2;
            named = true;
        } else if (named)
            return wrong(p, "a positional argument after a named one");
        KV_TRY(parse_expr(p, &(*link)->a));
        link = &(*link)->next;
    }
    return KVANT_OK;
}

static kvant_status parse_subscript(struct parser *p, node of, node *out)
{
    node part[3] = { NULL, NULL, NULL };
    int n_colons = 0;
    KV_TRY(new_node(p, KV_JN_ITEM, out));
    (*out)->a = of;
    while (!is_op(p, "]") && !is_op(p, ",")) {
        if (skip_op(p, ":")) {
            if (++n_colons > 2) return wrong(p, "a slice of more than three parts");
        } else if (part[n_colons])
            return wrong(p, "']' is missing");
        else
            KV_TRY(parse_expr(p, &part[n_colons]));
    }
    if (is_op(p, ",")) return lacks(p, p->t->line, "the subscript with", p->t->text);
    p->t++;
    if (n_colons == 0 && !part[0]) return wrong(p, "an empty subscript");
    (*out)->kind = n_colons ? KV_JN_SLICE : KV_JN_ITEM;
    (*out)->b = part[0];
    (*out)->c = part[1];
    (*out)->d = part[2];
    return KVANT_OK;
}

static kvant_status parse_postfix(struct parser *p, node *out)
{
    for (node of = *out;; of = *out) {
        if (skip_op(p, ".")) {
            KV_TRY(new_node(p, p->t->kind == KV_JT_INT ? KV_JN_ITEM : KV_JN_ATTR, out));
            (*out)->a = of;
            if (p->t->kind == KV_JT_INT) {
                KV_TRY(new_node(p, KV_JN_CONST, &(*out)->b));
                (*out)->b->value = kv_jval_int((p->t++)->i);
            } else
                KV_TRY(expect_name(p, &(*out)->name));
        } else if (skip_op(p, "[")) {
            KV_TRY(parse_subscript(p, of, out));
        } else if (skip_op(p, "(")) {
            KV_TRY(new_node(p, KV_JN_CALL, out));
            (*out)->a = of;
            KV_TRY(parse_arguments(p, &(*out)->list));
        } else
            return KVANT_OK;
    }
}

/* One filter after "|", which is taken; `of` NULL: of a block's text. */
static kvant_status parse_filter(struct parser *p, node of, node *out)
{
    KV_TRY(new_node(p, KV_JN_FILTER, out));
    KV_TRY(expect_name(p, &(*out)->name));
    (*out)->a = of;
    (*out)->index = kv_jfilter_find((*out)->name);
    if ((*out)->index < 0) return lacks(p, (*out)->line, "the filter", (*out)->name);
    if (skip_op(p, "(")) return parse_arguments(p, &(*out)->list);
    return KVANT_OK;
}

static bool begins_argument(const struct parser *p)
{
    if (p->t->kind == KV_JT_NAME) return !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and");
    return p->t->kind == KV_JT_STRING || p->t->kind == KV_JT_INT || p->t->kind == KV_JT_FLOAT ||
           is_op(p, "(") || is_op(p, "[") || is_op(p, "{");
}

/* One test after "is", which is taken. */
static kvant_status parse_test(struct parser *p, node of, node *out)
{
    bool negated = skip_name(p, "not");
    node test;
    KV_TRY(new_node(p, KV_JN_TEST, &test));
    KV_TRY(expect_name(p, &test->name));
    test->a = of;
    test->index = kv_jtest_find(test->name);
    if (test->index < 0) return lacks(p, test->line, "the test", test->name);
    if (skip_op(p, "(")) {
        KV_TRY(parse_arguments(p, &test->list));
    } else if (begins_argument(p)) {
        if (is_name(p, "is")) return wrong(p, "tests cannot be chained");
        KV_TRY(new_node(p, KV_JN_ARG, &test->list));
        KV_TRY(parse_primary(p, &test->list->a));
        KV_TRY(parse_postfix(p, &test->list->a));
    }
    *out = test;
    if (!negated) return KVANT_OK;
    KV_TRY(new_node(p, KV_JN_UNARY, out));
    (*out)->op = KV_JO_NOT;
    (*out)->a = test;
    return KVANT_OK;
}

static kvant_status parse_filters(struct parser *p, node *out)
{
    for (;;) {
        if (skip_op(p, "|"))
            KV_TRY(parse_filter(p, *out, out));
        else if (skip_name(p, "is"))
            KV_TRY(parse_test(p, *out, out));
        else if (is_op(p, "(")) { /* a call of what a filter gives */
            node of = *out;
            p->t++;
            KV_TRY(new_node(p, KV_JN_CALL, out));
            (*out)->a = of;
            KV_TRY(parse_arguments(p, &(*out)->list));
        } else
            return KVANT_OK;
    }
}

static kvant_status parse_unary(struct parser *p, bool with_filters, node *out)
{
    KV_TRY(enter(p));
    if (is_op(p, "-") || is_op(p, "+")) {
        enum kv_jop op = is_op(p, "-") ? KV_JO_NEG : KV_JO_POS;
        KV_TRY(new_node(p, KV_JN_UNARY, out));
        (*out)->op = op;
        p->t++;
        KV_TRY(parse_unary(p, false, &(*out)->a));
    } else
        KV_TRY(parse_primary(p, out));
    KV_TRY(parse_postfix(p, out));
    if (with_filters) KV_TRY(parse_filters(p, out));
    p->depth--;
    return KVANT_OK;
}

static kvant_status parse_pow(struct parser *p, node *out)
{
    node right;
    KV_TRY(parse_unary(p, true, out));
    while (is_op(p, "**")) {
        int line = (p->t++)->line;
        KV_TRY(parse_unary(p, true, &right));
        KV_TRY(binary(p, KV_JO_POW, line, *out, right, out));
    }
    return KVANT_OK;
}

static kvant_status parse_product(struct parser *p, node *out)
{
    static const struct {
        const char *text;
        enum kv_jop op;
    } ops[] = { { "*", KV_JO_MUL }, { "/", KV_JO_DIV }, { "//", KV_JO_FLOORDIV }, { "%", KV_JO_MOD } };
    node right;
    KV_TRY(parse_pow(p, out));
    for (size_t i = 0; i < 4;) {
        if (!is_op(p, ops[i].text)) {
            i++;
            continue;
        }
        int line = (p->t++)->line;
        KV_TRY(parse_pow(p, &right));
        KV_TRY(binary(p, ops[i].op, line, *out, right, out));
        i = 0;
    }
    return KVANT_OK;
}

static kvant_status parse_concat(struct parser *p, node *out)
{
    KV_TRY(parse_product(p, out));
    if (!is_op(p, "~")) return KVANT_OK;
    node first = *out, *link = &first->next;
    KV_TRY(new_node(p, KV_JN_CONCAT, out));
    (*out)->list = first;
    while (skip_op(p, "~")) {
        KV_TRY(parse_product(p, link));
        link = &(*link)->next;
    }
    return KVANT_OK;
}

static kvant_status parse_sum(struct parser *p, node *out)
{
    node right;
    KV_TRY(parse_concat(p, out));
    while (is_op(p, "+") || is_op(p, "-")) {
        enum kv_jop op = is_op(p, "+") ? KV_JO_ADD : KV_JO_SUB;
        int line = (p->t++)->line;
        KV_TRY(parse_concat(p, &right));
        KV_TRY(binary(p, op, line, *out, right, out));
    }
    return KVANT_OK;
}

static bool comparison(struct parser *p, enum kv_jop *op)
{
    static const struct {
        const char *text;
        enum kv_jop op;
    } ops[] = { { "==", KV_JO_EQ }, { "!=", KV_JO_NE }, { "<", KV_JO_LT },
                { "<=", KV_JO_LE }, { ">", KV_JO_GT },  { ">=", KV_JO_GE } };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (skip_op(p, ops[i].text)) {
            *op = ops[i].op;
            return true;
        }
    *op = KV_JO_IN;
    if (skip_name(p, "in")) return true;
    if (!is_name(p, "not") || p->t[1].kind != KV_JT_NAME || !kv_jstr_is(p->t[1].text, "in")) return false;
    *op = KV_JO_NOT_IN;
    p->t += 2;
    return true;
}

static kvant_status parse_compare(struct parser *p, node *out)
{
    enum kv_jop op;
    KV_TRY(parse_sum(p, out));
    if (!comparison(p, &op)) return KVANT_OK;
    node first = *out;
    KV_TRY(new_node(p, KV_JN_COMPARE, out));
    (*out)->a = first;
    node *link = &(*out)->list;
    do {
        /* each operand is wrapped: what it holds may itself be linked in a list */
        KV_TRY(new_node(p, KV_JN_ARG, link));
        (*link)->op = op;
        KV_TRY(parse_sum(p, &(*link)->a));
        link = &(*link)->next;
    } while (comparison(p, &op));
    return KVANT_OK;
}

static kvant_status parse_not(struct parser *p, node *out)
{
    if (!is_name(p, "not")) return parse_compare(p, out);
    KV_TRY(enter(p));
    KV_TRY(new_node(p, KV_JN_UNARY, out));
    (*out)->op = KV_JO_NOT;
    p->t++;
    KV_TRY(parse_not(p, &(*out)->a));
    p->depth--;
    return KVANT_OK;
}

static kvant_status logical(struct parser *p, enum kv_jnode_kind kind, node right, node *out)
{
    node left = *out;
    KV_TRY(new_node(p, kind, out));
    (*out)->a = left;
    (*out)->b = right;
    return KVANT_OK;
}

static kvant_status parse_and(struct parser *p, node *out)
{
    node right;
    KV_TRY(parse_not(p, out));
    while (skip_name(p, "and")) {
        KV_TRY(parse_not(p, &right));
        KV_TRY(logical(p, KV_JN_AND, right, out));
    }
    return KVANT_OK;
}

static kvant_status parse_or(struct parser *p, node *out)
{
    node right;
    KV_TRY(parse_and(p, out));
    while (skip_name(p, "or")) {
        KV_TRY(parse_and(p, &right));
        KV_TRY(logical(p, KV_JN_OR, right, out));
    }
    return KVANT_OK;
}

static kvant_status parse_expr(struct parser *p, node *out)
{
    KV_TRY(enter(p));
    KV_TRY(parse_or(p, out));
    while (skip_name(p, "if")) {
        node then = *out;
        KV_TRY(new_node(p, KV_JN_COND, out));
        (*out)->a = then;
        KV_TRY(parse_or(p, &(*out)->b));
        if (skip_name(p, "else")) KV_TRY(parse_expr(p, &(*out)->c));
    }
    p->depth--;
    return KVANT_OK;
}

/* An expression that may be a tuple without brackets: a, b */
static kvant_status parse_tuple(struct parser *p, bool with_condition, node *out)
{
    KV_TRY(with_condition ? parse_expr(p, out) : parse_or(p, out));
    if (!is_op(p, ",")) return KVANT_OK;
    node first = *out, *link = &first->next;
    KV_TRY(new_node(p, KV_JN_TUPLE, out));
    (*out)->list = first;
    while (skip_op(p, ",") && p->t->kind != KV_JT_CLOSE && !is_op(p, "=")) {
        KV_TRY(with_condition ? parse_expr(p, link) : parse_or(p, link));
        link = &(*link)->next;
    }
    return KVANT_OK;
}

/* ------------------------------------------------------------------------------------------ statements -- */

static kvant_status parse_body(struct parser *p, const char *const *ends, node *out);

static kvant_status close_tag(struct parser *p)
{
    if (p->t->kind != KV_JT_CLOSE) return wrong(p, "the end of the tag is missing");
    p->t++;
    return KVANT_OK;
}

/* The body after a tag's end, up to one of `ends`; the current token is then that name. */
static kvant_status parse_block(struct parser *p, const char *const *ends, node *out)
{
    KV_TRY(close_tag(p));
    return parse_body(p, ends, out);
}

static kvant_status parse_block_end(struct parser *p, const char *end, node *out)
{
    const char *const ends[] = { end, NULL };
    KV_TRY(parse_block(p, ends, out));
    p->t++;
    return close_tag(p);
}

static kvant_status parse_target(struct parser *p, bool with_attribute, node *out);

/* A name, in set also an attribute of a namespace, or a target in brackets. */
static kvant_status parse_target_item(struct parser *p, bool with_attribute, node *out)
{
    if (skip_op(p, "(")) {
        KV_TRY(enter(p));
        KV_TRY(parse_target(p, false, out));
        p->depth--;
        return expect_op(p, ")");
    }
    KV_TRY(new_node(p, KV_JN_NAME, out));
    KV_TRY(expect_name(p, &(*out)->name));
    if (!with_attribute || !skip_op(p, ".")) return KVANT_OK;
    node of = *out;
    KV_TRY(new_node(p, KV_JN_ATTR, out));
    (*out)->a = of;
    return expect_name(p, &(*out)->name);
}

/* What is assigned to: one, or several with commas between. */
static kvant_status parse_target(struct parser *p, bool with_attribute, node *out)
{
    KV_TRY(parse_target_item(p, with_attribute, out));
    if (!is_op(p, ",")) return KVANT_OK;
    node first = *out, *link = &first->next;
    KV_TRY(new_node(p, KV_JN_TUPLE, out));
    (*out)->list = first;
    while (skip_op(p, ",") && !is_op(p, ")") && !is_op(p, "=") && !is_name(p, "in")) {
        KV_TRY(parse_target_item(p, with_attribute, link));
        link = &(*link)->next;
    }
    return KVANT_OK;
}

static kvant_status parse_for(struct parser *p, node n)
{
    static const char *const ends[] = { "endfor", "else", NULL };
    KV_TRY(parse_target(p, false, &n->a));
    if (!skip_name(p, "in")) return wrong(p, "'in' is missing");
    KV_TRY(parse_tuple(p, false, &n->b));
    if (skip_name(p, "if")) KV_TRY(parse_expr(p, &n->c));
    if (is_name(p, "recursive")) return lacks(p, p->t->line, "the loop modifier", p->t->text);
    p->n_loops++;
    KV_TRY(parse_block(p, ends, &n->list));
    p->n_loops--;
    if (skip_name(p, "else")) return parse_block_end(p, "endfor", &n->d);
    p->t++;
    return close_tag(p);
}

static kvant_status parse_if(struct parser *p, node n)
{
    static const char *const ends[] = { "elif", "else", "endif", NULL };
    KV_TRY(parse_tuple(p, true, &n->a));
    KV_TRY(parse_block(p, ends, &n->list));
    if (skip_name(p, "elif")) {
        KV_TRY(enter(p));
        KV_TRY(new_node(p, KV_JN_IF, &n->b));
        KV_TRY(parse_if(p, n->b));
        p->depth--;
        return KVANT_OK;
    }
    if (skip_name(p, "else")) return parse_block_end(p, "endif", &n->b);
    p->t++;
    return close_tag(p);
}

/* Filters after a block's tag: | a | b. */
static kvant_status parse_block_filters(struct parser *p, node *out)
{
    *out = NULL;
    while (skip_op(p, "|")) KV_TRY(parse_filter(p, *out, out));
    return KVANT_OK;
}

static kvant_status parse_set(struct parser *p, node n)
{
    KV_TRY(parse_target(p, true, &n->a));
    if (skip_op(p, "=")) {
        KV_TRY(parse_tuple(p, true, &n->b));
        return close_tag(p);
    }
    n->kind = KV_JN_SET_BLOCK;
    KV_TRY(parse_block_filters(p, &n->b));
    return parse_block_end(p, "endset", &n->list);
}

/* Parameters of a macro or call block after "(". */
static kvant_status parse_parameters(struct parser *p, node *list)
{
    node *link = list;
    *list = NULL;
    while (!skip_op(p, ")")) {
        if (*list) KV_TRY(expect_op(p, ","));
        KV_TRY(new_node(p, KV_JN_ARG, link));
        KV_TRY(expect_name(p, &(*link)->name));
        if (skip_op(p, "=")) KV_TRY(parse_expr(p, &(*link)->a));
        link = &(*link)->next;
    }
    return KVANT_OK;
}

static kvant_status parse_macro(struct parser *p, node n)
{
    int n_loops = p->n_loops;
    KV_TRY(expect_name(p, &n->name));
    KV_TRY(expect_op(p, "("));
    KV_TRY(parse_parameters(p, &n->d));
    p->n_loops = 0;
    KV_TRY(parse_block_end(p, "endmacro", &n->list));
    p->n_loops = n_loops;
    return KVANT_OK;
}

static kvant_status parse_call_block(struct parser *p, node n)
{
    int n_loops = p->n_loops;
    if (skip_op(p, "(")) KV_TRY(parse_parameters(p, &n->d));
    KV_TRY(parse_expr(p, &n->a));
    if (n->a->kind != KV_JN_CALL) return wrong(p, "{% call %} needs a call");
    p->n_loops = 0;
    KV_TRY(parse_block_end(p, "endcall", &n->list));
    p->n_loops = n_loops;
    return KVANT_OK;
}

static kvant_status parse_with(struct parser *p, node n)
{
    node *link = &n->d;
    while (p->t->kind != KV_JT_CLOSE) {
        if (n->d) KV_TRY(expect_op(p, ","));
        KV_TRY(new_node(p, KV_JN_ARG, link));
        KV_TRY(parse_target(p, false, &(*link)->b));
        KV_TRY(expect_op(p, "="));
        KV_TRY(parse_expr(p, &(*link)->a));
        link = &(*link)->next;
    }
    return parse_block_end(p, "endwith", &n->list);
}

static kvant_status parse_filter_block(struct parser *p, node n)
{
    KV_TRY(parse_filter(p, NULL, &n->a));
    while (skip_op(p, "|")) KV_TRY(parse_filter(p, n->a, &n->a));
    return parse_block_end(p, "endfilter", &n->list);
}

static kvant_status parse_generation(struct parser *p, node n)
{
    return parse_block_end(p, "endgeneration", &n->list);
}

static kvant_status parse_leave(struct parser *p, node n)
{
    (void)n;
    if (!p->n_loops) return wrong(p, "break or continue outside of a loop");
    return close_tag(p);
}

/* The name of a tag is the current token. */
static kvant_status parse_statement(struct parser *p, node *out)
{
    static const struct {
        const char *name;
        enum kv_jnode_kind kind;
        kvant_status (*parse)(struct parser *p, node n);
    } tags[] = {
        { "for", KV_JN_FOR, parse_for },
        { "if", KV_JN_IF, parse_if },
        { "set", KV_JN_SET, parse_set },
        { "macro", KV_JN_MACRO, parse_macro },
        { "call", KV_JN_CALL_BLOCK, parse_call_block },
        { "filter", KV_JN_FILTER_BLOCK, parse_filter_block },
        { "with", KV_JN_WITH, parse_with },
        { "generation", KV_JN_SCOPE, parse_generation },
        { "break", KV_JN_BREAK, parse_leave },
        { "continue", KV_JN_CONTINUE, parse_leave },
    };
    static const char *const known[] = { "extends", "include",    "import", "from", "block",
                                         "do",      "autoescape", "trans",  "debug" };
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++)
        if (is_name(p, tags[i].name)) {
            KV_TRY(enter(p));
            KV_TRY(new_node(p, tags[i].kind, out));
            p->t++;
            KV_TRY(tags[i].parse(p, *out));
            p->depth--;
            return KVANT_OK;
        }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (is_name(p, known[i])) return lacks(p, p->t->line, "the tag", p->t->text);
    return wrong(p, "an unexpected tag");
}

static kvant_status parse_body(struct parser *p, const char *const *ends, node *out)
{
    node *link = out;
    *out = NULL;
    for (;; link = &(*link)->next) {
        switch (p->t->kind) {
        case KV_JT_TEXT:
            KV_TRY(new_node(p, KV_JN_TEXT, link));
            (*link)->name = (p->t++)->text;
            break;
        case KV_JT_OPEN_OUTPUT:
            KV_TRY(new_node(p, KV_JN_OUTPUT, link));
            p->t++;
            KV_TRY(parse_tuple(p, true, &(*link)->a));
            KV_TRY(close_tag(p));
            break;
        case KV_JT_OPEN_BLOCK:
            p->t++;
            for (size_t i = 0; ends && ends[i]; i++)
                if (is_name(p, ends[i])) return KVANT_OK;
            KV_TRY(parse_statement(p, link));
            break;
        default:
            if (ends) return wrong(p, "a block is not closed");
            return KVANT_OK;
        }
    }
}

kvant_status kv_jinja_parse(struct kv_jarena *a, const struct kv_jtokens *tokens, struct kv_jnode **out,
                            struct kvant_error *err)
{
    struct parser p = { .arena = a, .t = tokens->items, .err = err };
    return parse_body(&p, NULL, out);
}
