/* programs/json_guard.c beside jansson: what the guard takes whole, jansson reads; what it refuses of texts
 * within the guard's own limits, no continuation makes JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "programs/json_guard.h"

enum { REFUSED = -1, OPEN, DONE };

static int read_all(const char *text, size_t n)
{
    struct json_guard g = { 0 };
    if (!json_guard_bytes(&g, text, n)) return REFUSED;
    return json_guard_done(&g) ? DONE : OPEN;
}

static void test_texts(void **state)
{
    static const struct {
        const char *text;
        int result;
    } rows[] = {
        { "", OPEN },
        { " \n{}", DONE },
        { "{} ", REFUSED },
        { "[", REFUSED },
        { "{\"a\":1}", DONE },
        { "{\"a\" : [1, -2.5e+10, true,false,null, {\"b\":\"\"}]}", DONE },
        { "{\"a\":1,}", REFUSED },
        { "{\"a\":01", REFUSED },
        { "{\"a\":1.}", REFUSED },
        { "{\"a\":-}", REFUSED },
        { "{\"a\":0}", DONE },
        { "{\"a\":-0.0E-1}", DONE },
        { "{\"a\":1e}", REFUSED },
        { "{\"a\":[]}", DONE },
        { "{\"a\":[}", REFUSED },
        { "{\"a\":[1}", REFUSED },
        { "{\"a\":[1,]", REFUSED },
        { "{a", REFUSED },
        { "{\"a\":tru}", REFUSED },
        { "{\"a\":\"\\u00e9\\n\\\"\\/\"}", DONE },
        { "{\"a\":\"\\x", REFUSED },
        { "{\"a\":\"\t", REFUSED },
        { "{\"a\":\"\\ud83d\\ude00\"}", DONE },
        { "{\"a\":\"\\ud83d\"", REFUSED },
        { "{\"a\":\"\\ude00", REFUSED },
        { "{\"a\":\"\\ud83d\\u0041", REFUSED },
        { "{\"a\":\"\\u0000", REFUSED },
        { "{\"a\":\"\xc3\xa9\"}", DONE },
        { "{\"a\":\"\xc3\"", REFUSED },
        { "{\"a\":\"\xc0\x80", REFUSED },
        { "{\"a\":\"\xed\xa0\x80", REFUSED },
        { "{\"a\":\"\xf0\x9f\x98\x80\"}", DONE },
        { "{\"a\":\"\xf4\x90", REFUSED },
        { "{\"a\":\"\xff", REFUSED },
        { "{\"a\" \"", REFUSED },
        { "{\"a\":1 2", REFUSED },
        { "{\"a\":1 , \"b\":2}", DONE },
        { "{,", REFUSED },
        { "{\"a\":123456789012345}", DONE },
        { "{\"a\":1234567890123456", REFUSED },
        { "{\"a\":1e100", REFUSED },
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int result = read_all(rows[i].text, strlen(rows[i].text));
        if (result != rows[i].result) fail_msg("%s: %d instead of %d", rows[i].text, result, rows[i].result);
    }
}

/* Nesting and blanks end somewhere. */
static void test_limits(void **state)
{
    char text[256] = "{\"a\":";
    (void)state;
    memset(text + 5, '[', 64);
    assert_int_equal(read_all(text, 5 + 63), OPEN);
    assert_int_equal(read_all(text, 5 + 64), REFUSED);
    memset(text, ' ', 40);
    assert_int_equal(read_all(text, 32), OPEN);
    assert_int_equal(read_all(text, 33), REFUSED);
}

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static bool is_json(const char *text, size_t n)
{
    json_t *value = json_loadb(text, n, 0, NULL);
    bool ok = json_is_object(value);
    json_decref(value);
    return ok;
}

/* An exponent of three digits: JSON, and more than the guard allows. */
static bool is_beyond(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t k = i + 1;
        if (text[i] != 'e' && text[i] != 'E') continue;
        k += k < n && (text[k] == '+' || text[k] == '-');
        size_t digits = 0;
        while (k + digits < n && text[k + digits] >= '0' && text[k + digits] <= '9') digits++;
        if (digits > 2) return true;
    }
    return false;
}

/* Mutations of JSON: both take the same texts. */
static void test_beside_jansson(void **state)
{
    static const char *const good[] = {
        "{\"a\": [1, -2.5e+10, true, false, null, {\"b\": \"\"}], \"c\": "
        "\"\\u00e9\\n\xc3\xa9\xf0\x9f\x98\x80\"}",
        "{\"k\":{\"l\":{\"m\":[[],[0],[{}]]}},\"n\":-0.5,\"o\":\"\\ud83d\\ude00\\\\\"}",
    };
    static const char bytes[] = "{}[]\",:0123456789-+.eEtrufalsn \\/\n\tx\xc3\xa9\xed";
    uint64_t seed = 88172645463325252u;
    int n_done = 0, n_refused = 0;
    (void)state;
    for (int i = 0; i < 200000; i++) {
        char text[128];
        size_t n = strlen(good[i % 2]);
        memcpy(text, good[i % 2], n);
        for (uint64_t k = random_next(&seed) % 3 + 1; k > 0; k--) {
            size_t at = random_next(&seed) % n;
            char c = bytes[random_next(&seed) % (sizeof bytes - 1)];
            switch (random_next(&seed) % 3) {
            case 0: text[at] = c; break;
            case 1: memmove(text + at, text + at + 1, --n - at); break;
            default: memmove(text + at + 1, text + at, n++ - at); text[at] = c;
            }
        }
        while (n > 0 && strchr(" \n\t", text[n - 1])) n--; /* the guard ends with the brace */
        int result = read_all(text, n);
        n_done += result == DONE;
        n_refused += result == REFUSED;
        bool json = is_json(text, n);
        if (json ? result != DONE && !is_beyond(text, n) : result == DONE)
            fail_msg("%.*s: %d", (int)n, text, result);
    }
    assert_true(n_done > 10000 && n_refused > 10000);
}

/* Any walk along bytes that are taken, preferring those that close, ends in JSON. */
static void test_walks(void **state)
{
    uint64_t seed = 4;
    (void)state;
    for (int i = 0; i < 3000; i++) {
        struct json_guard g = { 0 };
        char text[4096];
        size_t n = 0;
        while (!json_guard_done(&g)) {
            unsigned char options[256];
            int n_options = 0;
            for (int c = 0; c < 256; c++) {
                struct json_guard copy = g;
                if (json_guard_byte(&copy, (unsigned char)c)) options[n_options++] = (unsigned char)c;
            }
            assert_true(n_options > 0); /* it never paints itself into a corner */
            unsigned char c = options[random_next(&seed) % (uint64_t)n_options];
            for (int k = n_options; k-- > 0 && n > 40;) /* quotes first: braces may stand in a text */
                if (options[k] && strchr("\"}]", options[k])) c = options[k];
            assert_true(n < sizeof text && json_guard_byte(&g, c));
            text[n++] = (char)c;
        }
        if (!is_json(text, n)) fail_msg("%.*s", (int)n, text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_beside_jansson),
        cmocka_unit_test(test_walks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
