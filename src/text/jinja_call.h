/*
 * The evaluator's state, and what can be called in a template: filters, tests, methods and functions, one row
 * each in the tables of jinja_filters.c, jinja_tests.c and jinja_methods.c.
 */
#ifndef KV_TEXT_JINJA_CALL_H
#define KV_TEXT_JINJA_CALL_H

#include "text/jinja_ast.h"

struct kv_jscope;

struct kv_jeval {
    struct kv_jarena arena;  /* everything that a call makes                             */
    struct kv_jbuf *out;     /* where text goes: the result, or the text of a block      */
    struct kv_jscope *scope; /* innermost                                                */
    int64_t n_steps, now_s;
    int depth, line; /* line: of the node that is being evaluated                */
    bool utc;
    kvant_status status; /* after a failure                                          */
    struct kvant_error *err;
};

/* Records the failure ("chat template, line N: ...") and returns false. */
bool kv_jfail(struct kv_jeval *e, kvant_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool kv_jfail_memory(struct kv_jeval *e);
/* Counts n units of work. False: more than a template may do. */
bool kv_jspend(struct kv_jeval *e, size_t n);

struct kv_jargs {
    const struct kv_jval *values; /* (n) positional  */
    size_t n;
    const struct kv_jstr *names; /* (n_named)       */
    const struct kv_jval *named; /* (n_named)       */
    size_t n_named;
};
#define KV_JPARAMS_MAX 8
/* Arguments by the parameters' names ("old new count"): slots[i] points to the i-th or is NULL. False: too
 * many, or a name that is none of them. */
bool kv_jbind(struct kv_jeval *e, const char *what, const char *params, const struct kv_jargs *args,
              const struct kv_jval *slots[KV_JPARAMS_MAX]);
/* An argument as text; as a whole number, `otherwise` when it is absent or none. */
bool kv_jarg_text(struct kv_jeval *e, const char *what, const struct kv_jval *v, struct kv_jstr *out);
bool kv_jarg_int(struct kv_jeval *e, const char *what, const struct kv_jval *v, int64_t otherwise,
                 int64_t *out);
/* The n-th and all later positional arguments, and the named ones. */
struct kv_jargs kv_jargs_from(const struct kv_jargs *args, size_t n);

/* A method of str, of what str() makes of the value. */
bool kv_jtext_method(struct kv_jeval *e, const char *name, const struct kv_jval *x,
                     const struct kv_jargs *args, struct kv_jval *out);

/* Index of a filter or test, -1: there is none. */
int kv_jfilter_find(struct kv_jstr name);
int kv_jtest_find(struct kv_jstr name);
int kv_jfunction_find(struct kv_jstr name);

bool kv_jcall_filter(struct kv_jeval *e, int index, struct kv_jval x, const struct kv_jargs *args,
                     struct kv_jval *out);
bool kv_jcall_test(struct kv_jeval *e, int index, struct kv_jval x, const struct kv_jargs *args, bool *out);
bool kv_jcall_function(struct kv_jeval *e, int index, const struct kv_jargs *args, struct kv_jval *out);

struct kv_jmethod {
    struct kv_jval of;
    int index;
};
/* A method of the value, or false when its type has none of that name. */
bool kv_jmethod_find(const struct kv_jval *of, struct kv_jstr name, int *index);
bool kv_jcall_method(struct kv_jeval *e, const struct kv_jmethod *m, const struct kv_jargs *args,
                     struct kv_jval *out);

/* What a loop walks over: elements, keys, characters. */
bool kv_jiterate(struct kv_jeval *e, const struct kv_jval *v, struct kv_jlist **out);
/* v.name and v[key], undefined where there is nothing. */
bool kv_jget_attr(struct kv_jeval *e, const struct kv_jval *v, struct kv_jstr name, struct kv_jval *out);
bool kv_jget_item(struct kv_jeval *e, const struct kv_jval *v, const struct kv_jval *key,
                  struct kv_jval *out);
bool kv_jcontains(struct kv_jeval *e, const struct kv_jval *in, const struct kv_jval *x, bool *out);
bool kv_jbinary(struct kv_jeval *e, enum kv_jop op, const struct kv_jval *a, const struct kv_jval *b,
                struct kv_jval *out);
/* str() as a value. */
bool kv_jtext_of(struct kv_jeval *e, const struct kv_jval *v, struct kv_jval *out);
bool kv_jbuf_end(struct kv_jeval *e, const struct kv_jbuf *b, struct kv_jval *out);

/* A loop's own variable, in jinja_eval.c. */
struct kv_jloop {
    const struct kv_jlist *items;
    size_t i;
    struct kv_jval changed; /* arguments of the last loop.changed, or undefined */
};
bool kv_jloop_attr(struct kv_jeval *e, struct kv_jloop *loop, struct kv_jstr name, struct kv_jval *out);

struct kv_jmacro {
    const struct kv_jnode *node; /* KV_JN_MACRO or KV_JN_CALL_BLOCK */
    struct kv_jscope *scope;     /* where it was defined            */
};
bool kv_jcall_value(struct kv_jeval *e, const struct kv_jval *f, const struct kv_jargs *args,
                    struct kv_jval *out);

#endif
