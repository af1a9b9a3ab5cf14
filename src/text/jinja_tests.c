/* Tests, one row each. */
#include "text/jinja_call.h"

#define ROW(x) (sizeof(x) / sizeof((x)[0]))

typedef struct kv_jeval *ev;
typedef const struct kv_jval *val;

static bool is_whole(val v)
{
    return v->kind == KV_J_INT || v->kind == KV_J_BOOL;
}

/* ----------------------------------------------------------------------------------------------- tests -- */

enum test {
    TEST_DEFINED,
    TEST_UNDEFINED,
    TEST_NONE,
    TEST_STRING,
    TEST_NUMBER,
    TEST_INTEGER,
    TEST_FLOAT,
    TEST_BOOLEAN,
    TEST_TRUE,
    TEST_FALSE,
    TEST_MAPPING,
    TEST_ITERABLE,
    TEST_SEQUENCE,
    TEST_CALLABLE,
    TEST_ODD,
    TEST_EVEN,
    TEST_LOWER,
    TEST_UPPER,
    TEST_FILTER,
    TEST_TEST,
    TEST_BINARY,
    TEST_DIVISIBLE,
    TEST_SAME
};

static const struct {
    const char *name;
    enum test test;
    enum kv_jop op; /* of TEST_BINARY */
} tests[] = {
    { "defined", TEST_DEFINED, 0 },
    { "undefined", TEST_UNDEFINED, 0 },
    { "none", TEST_NONE, 0 },
    { "string", TEST_STRING, 0 },
    { "number", TEST_NUMBER, 0 },
    { "integer", TEST_INTEGER, 0 },
    { "float", TEST_FLOAT, 0 },
    { "boolean", TEST_BOOLEAN, 0 },
    { "true", TEST_TRUE, 0 },
    { "false", TEST_FALSE, 0 },
    { "mapping", TEST_MAPPING, 0 },
    { "iterable", TEST_ITERABLE, 0 },
    { "sequence", TEST_SEQUENCE, 0 },
    { "callable", TEST_CALLABLE, 0 },
    { "odd", TEST_ODD, 0 },
    { "even", TEST_EVEN, 0 },
    { "lower", TEST_LOWER, 0 },
    { "upper", TEST_UPPER, 0 },
    { "filter", TEST_FILTER, 0 },
    { "test", TEST_TEST, 0 },
    { "divisibleby", TEST_DIVISIBLE, 0 },
    { "sameas", TEST_SAME, 0 },
    { "eq", TEST_BINARY, KV_JO_EQ },
    { "equalto", TEST_BINARY, KV_JO_EQ },
    { "ne", TEST_BINARY, KV_JO_NE },
    { "lt", TEST_BINARY, KV_JO_LT },
    { "lessthan", TEST_BINARY, KV_JO_LT },
    { "le", TEST_BINARY, KV_JO_LE },
    { "gt", TEST_BINARY, KV_JO_GT },
    { "greaterthan", TEST_BINARY, KV_JO_GT },
    { "ge", TEST_BINARY, KV_JO_GE },
    { "in", TEST_BINARY, KV_JO_IN },
    { "==", TEST_BINARY, KV_JO_EQ },
    { "!=", TEST_BINARY, KV_JO_NE },
    { "<", TEST_BINARY, KV_JO_LT },
    { "<=", TEST_BINARY, KV_JO_LE },
    { ">", TEST_BINARY, KV_JO_GT },
    { ">=", TEST_BINARY, KV_JO_GE },
};

int kv_jtest_find(struct kv_jstr name)
{
    for (size_t i = 0; i < ROW(tests); i++)
        if (kv_jstr_is(name, tests[i].name)) return (int)i;
    return -1;
}

static bool remainder_of(ev e, val x, val by, int64_t *out)
{
    struct kv_jval result;
    if (!kv_jbinary(e, KV_JO_MOD, x, by, &result)) return false;
    *out = result.kind == KV_J_FLOAT ? result.f != 0.0 : result.i;
    return true;
}

static bool test_case(ev e, val x, const char *method, bool *out)
{
    struct kv_jargs none = { 0 };
    struct kv_jval result;
    if (!kv_jtext_method(e, method, x, &none, &result)) return false;
    *out = kv_jval_truth(&result);
    return true;
}

bool kv_jcall_test(ev e, int index, struct kv_jval x, const struct kv_jargs *args, bool *out)
{
    enum test test = tests[index].test;
    val slots[KV_JPARAMS_MAX], other;
    struct kv_jval result, two = kv_jval_int(2);
    int64_t rest;
    if (!kv_jbind(e, tests[index].name, test >= TEST_BINARY ? "other" : "", args, slots)) return false;
    other = slots[0];
    if (test >= TEST_BINARY && !other)
        return kv_jfail(e, KVANT_ERR_ARGUMENT, "the test '%s' needs a value", tests[index].name);
    bool sequence = x.kind == KV_J_STR || x.kind == KV_J_LIST || x.kind == KV_J_TUPLE || x.kind == KV_J_DICT;
    switch (test) {
    case TEST_DEFINED: *out = x.kind != KV_J_UNDEFINED; return true;
    case TEST_UNDEFINED: *out = x.kind == KV_J_UNDEFINED; return true;
    case TEST_NONE: *out = x.kind == KV_J_NONE; return true;
    case TEST_STRING: *out = x.kind == KV_J_STR; return true;
    case TEST_NUMBER: *out = is_whole(&x) || x.kind == KV_J_FLOAT; return true;
    case TEST_INTEGER: *out = x.kind == KV_J_INT; return true;
    case TEST_FLOAT: *out = x.kind == KV_J_FLOAT; return true;
    case TEST_BOOLEAN: *out = x.kind == KV_J_BOOL; return true;
    case TEST_TRUE: *out = x.kind == KV_J_BOOL && x.b; return true;
    case TEST_FALSE: *out = x.kind == KV_J_BOOL && !x.b; return true;
    case TEST_MAPPING: *out = x.kind == KV_J_DICT; return true;
    case TEST_ITERABLE: *out = sequence || x.kind == KV_J_UNDEFINED; return true;
    case TEST_SEQUENCE: *out = sequence || x.kind == KV_J_UNDEFINED; return true;
    case TEST_CALLABLE: *out = x.kind >= KV_J_MACRO; return true;
    case TEST_LOWER: return test_case(e, &x, "islower", out);
    case TEST_UPPER: return test_case(e, &x, "isupper", out);
    case TEST_FILTER: *out = x.kind == KV_J_STR && kv_jfilter_find(x.s) >= 0; return true;
    case TEST_TEST: *out = x.kind == KV_J_STR && kv_jtest_find(x.s) >= 0; return true;
    case TEST_SAME:
        *out = x.kind == other->kind &&
               (x.kind < KV_J_LIST ? kv_jval_equal(&x, other) : x.list == other->list);
        return true;
    case TEST_BINARY:
        if (!kv_jbinary(e, tests[index].op, &x, other, &result)) return false;
        *out = kv_jval_truth(&result);
        return true;
    default:
        if (!remainder_of(e, &x, test == TEST_DIVISIBLE ? other : &two, &rest)) return false;
        *out = (rest == 0) == (test != TEST_ODD);
        return true;
    }
}
