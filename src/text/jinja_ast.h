/*
 * What the parser makes of a template: tokens, then nodes. Both live in the template's arena.
 */
#ifndef KV_TEXT_JINJA_AST_H
#define KV_TEXT_JINJA_AST_H

#include "text/jinja.h"
#include "text/jinja_value.h"

enum kv_jtoken_kind {
    KV_JT_TEXT,
    KV_JT_OPEN_OUTPUT, /* {{ */
    KV_JT_OPEN_BLOCK,  /* {% */
    KV_JT_CLOSE,       /* }} or %} */
    KV_JT_NAME,
    KV_JT_STRING, /* text: unescaped */
    KV_JT_INT,
    KV_JT_FLOAT,
    KV_JT_OP, /* text: "+", "//", ... */
    KV_JT_END
};

struct kv_jtoken {
    enum kv_jtoken_kind kind;
    struct kv_jstr text;
    int64_t i;
    double f;
    int line;
};

struct kv_jtokens {
    struct kv_jtoken *items;
    size_t n, cap;
};

/* source: newlines are \n already, and the last one is gone. It must live as long as the tokens. */
kvant_status kv_jinja_lex(struct kv_jarena *a, struct kv_jstr source, struct kv_jtokens *out,
                          struct kvant_error *err);

/* What a node uses of its fields stands behind its kind. Lists are linked by `next`. */
enum kv_jnode_kind {
    /* expressions */
    KV_JN_CONST,   /* value                                                   */
    KV_JN_NAME,    /* name                                                    */
    KV_JN_LIST,    /* list: elements                                          */
    KV_JN_TUPLE,   /* list: elements                                          */
    KV_JN_DICT,    /* list: key, value, key, value, ...                       */
    KV_JN_UNARY,   /* op '-' '+' '!', a                                       */
    KV_JN_BINARY,  /* op, a, b                                                */
    KV_JN_AND,     /* a, b                                                    */
    KV_JN_OR,      /* a, b                                                    */
    KV_JN_CONCAT,  /* list                                                    */
    KV_JN_COMPARE, /* a, then list of operands, each with its op              */
    KV_JN_COND,    /* a if b else c; c may be NULL                            */
    KV_JN_FILTER,  /* filter `index` of a (NULL: of a block's text), list: arguments */
    KV_JN_TEST,    /* test `index` of a, list: arguments                      */
    KV_JN_ATTR,    /* a.name                                                  */
    KV_JN_ITEM,    /* a[b]                                                    */
    KV_JN_SLICE,   /* a[b:c:d], each may be NULL                              */
    KV_JN_CALL,    /* a(list)                                                 */
    KV_JN_ARG,     /* a, name ("" positional)                                 */
    /* statements */
    KV_JN_TEXT,         /* name: the text                                          */
    KV_JN_OUTPUT,       /* a                                                       */
    KV_JN_IF,           /* a, list: then, b: else (a statement list)               */
    KV_JN_FOR,          /* target a, b: over what, c: filter or NULL, list: body, d: else */
    KV_JN_SET,          /* target a, b: value                                      */
    KV_JN_SET_BLOCK,    /* target a, b: filters or NULL, list: body                */
    KV_JN_MACRO,        /* name, d: parameters (ARG: name, a = default), list: body */
    KV_JN_CALL_BLOCK,   /* a: the call, d: parameters, list: body                  */
    KV_JN_FILTER_BLOCK, /* a: filters, list: body                                */
    KV_JN_WITH,         /* d: ARG list of targets and values, list: body           */
    KV_JN_SCOPE,        /* list: body                                              */
    KV_JN_BREAK,
    KV_JN_CONTINUE
};

enum kv_jop {
    KV_JO_ADD,
    KV_JO_SUB,
    KV_JO_MUL,
    KV_JO_DIV,
    KV_JO_FLOORDIV,
    KV_JO_MOD,
    KV_JO_POW,
    KV_JO_EQ,
    KV_JO_NE,
    KV_JO_LT,
    KV_JO_LE,
    KV_JO_GT,
    KV_JO_GE,
    KV_JO_IN,
    KV_JO_NOT_IN,
    KV_JO_NEG,
    KV_JO_POS,
    KV_JO_NOT
};

struct kv_jnode {
    enum kv_jnode_kind kind;
    enum kv_jop op;
    int line, index;
    struct kv_jnode *a, *b, *c, *d, *list, *next;
    struct kv_jstr name;
    struct kv_jval value;
};

/* The statements of a template. */
kvant_status kv_jinja_parse(struct kv_jarena *a, const struct kv_jtokens *tokens, struct kv_jnode **out,
                            struct kvant_error *err);

#endif
