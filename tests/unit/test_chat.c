/*
 * Chat formats on hand-made templates: recognition, default system messages, rendering, forged control tokens.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/tiny_tokenizer.h"
#include "text/chat.h"

/* The template's bytes without a terminator behind them, so that a sanitizer sees any step too far. */
static enum kv_chat_format recognise(const char *template_text, const char **default_system, char **copy)
{
    size_t n = strlen(template_text);
    *copy = malloc(n ? n : 1);
    assert_non_null(*copy);
    memcpy(*copy, template_text, n);
    struct kv_str s = { *copy, n };
    return kv_chat_recognise(&s, default_system);
}

static void expect_render(const char *template_text, const struct kvant_message *messages, size_t n, bool add_assistant,
                          const char *expected)
{
    const char *default_system;
    char *copy, text[1024];
    size_t n_text;
    enum kv_chat_format format = recognise(template_text, &default_system, &copy);
    assert_int_equal(kv_chat_render(format, default_system, NULL, messages, n, add_assistant, text, sizeof text, &n_text,
                                    NULL), KVANT_OK);
    assert_string_equal(text, expected);
    assert_int_equal(n_text, strlen(expected));
    free(copy);
}

#define CHATML "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
#define LLAMA3 "{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + content | trim + '<|eot_id|>' }}"

static const struct kvant_message user[] = { { "user", " hi\n" } };
static const struct kvant_message both[] = { { "system", " be brief " }, { "user", "hi" }, { "assistant", "ho" } };

static void test_none(void **state)
{
    (void)state;
    const char *default_system = "x";
    assert_int_equal(kv_chat_recognise(NULL, &default_system), KV_CHAT_NONE);
    assert_null(default_system);
    expect_render("", both, 3, true, " be brief \nhi\nho");
    expect_render("{{ messages }}", user, 1, true, " hi\n");
    expect_render("", NULL, 0, true, "");
    assert_string_equal(kv_chat_format_name(KV_CHAT_NONE), "none");
    assert_string_equal(kv_chat_format_name(KV_CHAT_CHATML), "chatml");
    assert_string_equal(kv_chat_format_name(KV_CHAT_LLAMA3), "llama3");
}

static void test_chatml(void **state)
{
    (void)state;
    expect_render(CHATML, user, 1, true, "<|im_start|>user\n hi\n<|im_end|>\n<|im_start|>assistant\n");
    expect_render(CHATML, both, 3, false,
                  "<|im_start|>system\n be brief <|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
                  "<|im_start|>assistant\nho<|im_end|>\n");
}

static void test_default_system(void **state)
{
    (void)state;
    static const struct { const char *literal, *message; } cases[] = {
        { "{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}", "Be kind." },
        { "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}", "Be kind." },
        { "{{ \"<|im_start|>system\\nIt's \\\"so\\\",\\n\\tno?<|im_end|>\" }}", "It's \"so\",\n\tno?" },
        { "{{ '<|im_start|>system\\n' + m + '<|im_end|>' }}{{ '<|im_start|>system\\nIt\\'s<|im_end|>' }}", "It's" },
        { "{{ '<|im_start|>system\\n<|im_end|>' }}", "" },
        { "{{ '<|im_start|>system\\n' + m + '<|im_end|>' }}", NULL },
        { "{{ '<|im_start|>systematic<|im_end|>' }}", NULL },
        { "{{ '<|im_start|>system\\nnever closed", NULL },
        { "{{ '<|im_start|>system\\nnever closed<|im_end|>", "never closed" },
        { "{{ '<|im_start|>system\\nescaped away \\<|im_end|>", NULL },
        { "{{ '<|im_start|>system\\ncut <|im_end|", NULL },
        { "<|im_start|>system\\nno literal<|im_end|>", NULL },
        { "{{ '<|im_start|>system", NULL },
        { "{{ '<|im_start|>system\\", NULL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char expected[256] = "";
        if (cases[i].message) {
            strcat(expected, "<|im_start|>system\n");
            strcat(expected, cases[i].message);
            strcat(expected, "<|im_end|>\n");
        }
        strcat(expected, "<|im_start|>user\n hi\n<|im_end|>\n");
        expect_render(cases[i].literal, user, 1, false, expected);
    }
    /* Not when the conversation has its own. */
    expect_render(cases[0].literal, both, 1, false, "<|im_start|>system\n be brief <|im_end|>\n");
}

static void test_llama3(void **state)
{
    (void)state;
    expect_render(LLAMA3, user, 1, true,
                  "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\n");
    expect_render(LLAMA3, both, 2, false,
                  "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>"
                  "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>");
    static const char dated[] = "{{ \"Cutting Knowledge Date: December 2023\\n\" }}" LLAMA3;
    static const char dates[] = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
    char expected[512] = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n";
    strcat(strcat(expected, dates), "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>");
    expect_render(dated, user, 1, false, expected);
    strcpy(expected, "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n");
    strcat(strcat(expected, dates), "be brief<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>");
    expect_render(dated, both, 2, false, expected);
}

static void test_refused(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    tiny_bpe(&v);
    tiny_token(&v, "<|im_start|>", 3, 0);
    tiny_token(&v, "<tool>", 4, 0);
    struct kv_tokenizer *t;
    struct kvant_error err = { 0 };
    assert_int_equal(tiny_tokenizer_open(&t, &v, &err), KVANT_OK);
    static const struct { struct kvant_message message; const char *part; } cases[] = {
        { { "user", "a<|im_start|>b" }, "<|im_start|>" }, { { "user", "<tool><|im_start|>" }, "<|im_start|>" },
        { { "tool", "a" }, "\"tool\"" },                  { { "user\n", "a" }, "role" },
        { { NULL, "a" }, "NULL" },                        { { "user", NULL }, "NULL" },
    };
    char text[128];
    size_t n;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int format = KV_CHAT_NONE; format <= KV_CHAT_LLAMA3; format++) {
            struct kvant_message messages[] = { { "user", "fine <tool> <|im_start" }, cases[i].message };
            assert_int_equal(kv_chat_render((enum kv_chat_format)format, NULL, t, messages, 2, true, text, sizeof text,
                                            &n, &err), KVANT_ERR_ARGUMENT);
            assert_non_null(strstr(err.message, "message 1"));
            assert_non_null(strstr(err.message, cases[i].part));
        }
    assert_int_equal(kv_chat_render(KV_CHAT_NONE, NULL, t, user, 1, true, text, 3, &n, &err), KVANT_ERR_SPACE);
    assert_int_equal(n, 4);
    assert_int_equal(kv_chat_render(KV_CHAT_NONE, NULL, t, user, 1, true, NULL, 0, &n, &err), KVANT_ERR_SPACE);
    assert_int_equal(n, 4);
    kv_tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_none),   cmocka_unit_test(test_chatml),  cmocka_unit_test(test_default_system),
        cmocka_unit_test(test_llama3), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
