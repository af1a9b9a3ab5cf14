/*
 * The template language against Jinja itself: tests/data/templates/vectors.json holds what it made of
 * well-known templates, of one piece per part of the language, and what is an error
 * (tools/make-template-vectors.py).
 */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "text/jinja.h"

#define FOLDER "tests/data/templates/"

static json_t *vectors;

static int setup(void **state)
{
    json_error_t error;
    (void)state;
    vectors = json_load_file(FOLDER "vectors.json", JSON_ALLOW_NUL, &error);
    if (!vectors) fprintf(stderr, "%s:%d: %s\n", FOLDER "vectors.json", error.line, error.text);
    return vectors ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    json_decref(vectors);
    return 0;
}

static kvant_status render(const struct kv_jinja *t, const json_t *variables, char **out, size_t *n,
                           struct kvant_error *err)
{
    char *json = json_dumps(variables, JSON_PRESERVE_ORDER);
    assert_non_null(json);
    struct kv_jinja_call call = { .json = json,
                                  .n_bytes = strlen(json),
                                  .now_s = json_integer_value(json_object_get(vectors, "now")),
                                  .utc = true };
    kvant_status status = kv_jinja_render(t, &call, out, n, err);
    free(json);
    return status;
}

static bool same(const char *what, const char *source, const char *expected, size_t n_expected,
                 const char *got, size_t n)
{
    if (n == n_expected && memcmp(expected, got, n) == 0) return true;
    fprintf(stderr, "%s: %s\n  expected |%s|\n  got      |%.*s|\n", what, source, expected, (int)n, got);
    return false;
}

static struct kv_jinja *open_file(const char *name)
{
    char path[256], *text = NULL;
    size_t cap = 0;
    struct kvant_error err;
    struct kv_jinja *t;
    snprintf(path, sizeof path, FOLDER "%s.jinja", name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    ssize_t n = getdelim(&text, &cap, EOF, file);
    fclose(file);
    if (kv_jinja_open(&t, text, (size_t)n, &err) != KVANT_OK) fail_msg("%s: %s", path, err.message);
    free(text);
    return t;
}

/* Every template with every conversation and setting: the same text, or an error on both sides. */
static void test_families(void **state)
{
    (void)state;
    size_t i, n_wrong = 0;
    json_t *c;
    struct kv_jinja *t = NULL;
    const char *open_name = "";
    json_array_foreach(json_object_get(vectors, "cases"), i, c)
    {
        const char *name = json_string_value(json_object_get(c, "template"));
        if (strcmp(name, open_name) != 0) {
            kv_jinja_close(t);
            t = open_file(name);
            open_name = name;
        }
        const json_t *expected = json_object_get(c, "expected"), *error = json_object_get(c, "error");
        char *text = NULL, label[300];
        size_t n = 0;
        struct kvant_error err = { 0 };
        kvant_status status = render(t, json_object_get(c, "variables"), &text, &n, &err);
        snprintf(label, sizeof label, "case %zu of %s", i, name);
        if (error) {
            if (status != KVANT_ERR_ARGUMENT || !strstr(err.message, json_string_value(error))) {
                fprintf(stderr, "%s: not the error '%s' but '%s'\n", label, json_string_value(error),
                        status == KVANT_OK ? text : err.message);
                n_wrong++;
            }
        } else if (status != KVANT_OK) {
            fprintf(stderr, "%s: %s\n", label, err.message);
            n_wrong++;
        } else {
            n_wrong += !same(label, "", json_string_value(expected), json_string_length(expected), text, n);
        }
        kv_free(text);
    }
    kv_jinja_close(t);
    assert_true(i > 900);
    assert_int_equal(n_wrong, 0);
}

static void test_pieces(void **state)
{
    (void)state;
    size_t i, n_wrong = 0;
    json_t *p;
    json_array_foreach(json_object_get(vectors, "pieces"), i, p)
    {
        const char *source = json_string_value(json_object_get(p, "source"));
        const json_t *expected = json_object_get(p, "expected");
        struct kv_jinja *t = NULL;
        char *text = NULL;
        size_t n = 0;
        struct kvant_error err = { 0 };
        kvant_status status = kv_jinja_open(&t, source, strlen(source), &err);
        if (status == KVANT_OK) status = render(t, json_object_get(vectors, "variables"), &text, &n, &err);
        if (status != KVANT_OK) fprintf(stderr, "%s\n  %s\n", source, err.message);
        n_wrong += status != KVANT_OK ||
                   !same("piece", source, json_string_value(expected), json_string_length(expected), text, n);
        kv_free(text);
        kv_jinja_close(t);
    }
    assert_true(i > 70);
    assert_int_equal(n_wrong, 0);
}

/* What fails while rendering says where and why. */
static void test_errors(void **state)
{
    (void)state;
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(vectors, "errors"), i, c)
    {
        const char *source = json_string_value(json_object_get(c, "source"));
        const char *words = json_string_value(json_object_get(c, "words"));
        struct kv_jinja *t = NULL;
        char *text = NULL;
        size_t n = 0;
        struct kvant_error err = { 0 };
        if (kv_jinja_open(&t, source, strlen(source), &err) != KVANT_OK)
            fail_msg("%s: %s", source, err.message);
        kvant_status status = render(t, json_object_get(vectors, "variables"), &text, &n, &err);
        if (status == KVANT_OK) fail_msg("%s gives %s", source, text);
        if (!strstr(err.message, words)) fail_msg("%s: '%s' lacks '%s'", source, err.message, words);
        assert_null(text);
        assert_true(err.position >= 1);
        kv_jinja_close(t);
    }
    assert_true(i > 30);
}

/* What Jinja has and kvant has not is named, with its line; what is no Jinja is FORMAT. */
static void test_refused(void **state)
{
    (void)state;
    size_t i;
    json_t *c;
    struct kv_jinja *t = NULL;
    struct kvant_error err;
    json_array_foreach(json_object_get(vectors, "refused"), i, c)
    {
        const char *source = json_string_value(json_object_get(c, "source"));
        if (kv_jinja_open(&t, source, strlen(source), &err) != KVANT_ERR_UNSUPPORTED) fail_msg("%s", source);
        assert_null(t);
        if (!strstr(err.message, json_string_value(json_object_get(c, "words"))) ||
            !strstr(err.message, "line "))
            fail_msg("%s: %s", source, err.message);
    }
    json_array_foreach(json_object_get(vectors, "wrong"), i, c)
    {
        const char *source = json_string_value(c);
        if (kv_jinja_open(&t, source, strlen(source), &err) != KVANT_ERR_FORMAT)
            fail_msg("%s is read", source);
        assert_true(err.position >= 1);
    }
}

static kvant_status run(const char *source, const char *json, struct kvant_error *err)
{
    struct kv_jinja *t = NULL;
    char *text = NULL;
    size_t n;
    kvant_status status = kv_jinja_open(&t, source, strlen(source), err);
    struct kv_jinja_call call = { .json = json, .n_bytes = strlen(json), .now_s = 1 };
    if (status == KVANT_OK) status = kv_jinja_render(t, &call, &text, &n, err);
    kv_free(text);
    kv_jinja_close(t);
    return status;
}

/* Templates that would take forever, all memory or the stack. */
static void test_limits(void **state)
{
    (void)state;
    static const char *const hostile[] = {
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set ns = namespace(s='0123456789abcdef') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s "
        "%}{% endfor %}",
        "{{ 'x' * 9000000000000 }}",
        "{{ [1] * 9000000000000 }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ "
        "ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ "
        "ns.l | tojson }}",
        "{% for i in range(100000) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' "
        "* 100 }}{% endfor %}",
    };
    struct kvant_error err;
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        kvant_status status = run(hostile[i], "{}", &err);
        if (status != KVANT_ERR_MEMORY) fail_msg("%s: %d", hostile[i], status);
    }
    char deep[4096];
    for (size_t n = 100; n <= 1000; n += 300) { /* brackets, nots, ifs and signs that nest too deeply */
        memset(deep, '(', n + 3);
        memcpy(deep, "{{ ", 3);
        strcpy(deep + n + 3, "1");
        memset(deep + n + 4, ')', n);
        strcpy(deep + 2 * n + 4, "}}");
        assert_int_equal(run(deep, "{}", &err), KVANT_ERR_FORMAT);
        assert_non_null(strstr(err.message, "deep"));
    }
    strcpy(deep, "{{ ");
    for (int i = 0; i < 500; i++) strcat(deep, "-");
    strcat(deep, "1 }}");
    assert_int_equal(run(deep, "{}", &err), KVANT_ERR_FORMAT);
    strcpy(deep, "{{ 1");
    for (int i = 0; i < 1000; i++) strcat(deep, "+1");
    strcat(deep, " }}");
    assert_int_equal(run(deep, "{}", &err), KVANT_ERR_MEMORY);
}

static void test_json(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":1e}",
        "{\"a\":\"\x01\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\ud800\"}",
        "{\"a\":\"\\udc00\"}",
        "{\"a\":\"\xff\"}",
        "{\"a\":nul}",
        "{} x",
        "{\"a\":99999999999999999999}",
        "{\"a\":1e999}",
        "{\"a\":\"",
        "{\"a\" 1}",
        "{\"a\":[1 2]}",
        "{\"a\":-}",
        "{\"a\":\"\\u12\"}",
    };
    struct kvant_error err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (run("x", bad[i], &err) != KVANT_ERR_FORMAT) fail_msg("%s is read", bad[i]);
    char deep[400] = "{\"a\":";
    memset(deep + 5, '[', 200);
    deep[205] = '\0';
    assert_int_equal(run("x", deep, &err), KVANT_ERR_FORMAT);
    assert_int_equal(
        run("{{ a }}{{ b }}", "{ \"a\" : \"\\u00e9\\ud83e\\udd99\\\"\" , \"b\":[-0.5e1,null] }", &err),
        KVANT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families), cmocka_unit_test(test_pieces), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_limits), cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
