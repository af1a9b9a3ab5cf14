/*
 * Chat templates: the built-in ones, what a source is taken for, forged control tokens, sizes. What Jinja
 * makes of real templates is in test_jinja.c and test_model_chat.c.
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

static const struct kvant_message user[] = { { "user", " hi\n" } };
static const struct kvant_message both[] = { { "system", " be brief " },
                                             { "user", "hi" },
                                             { "assistant", "ho" } };

static struct kvant_template *open_chat(const char *source, const struct kv_tokenizer *t)
{
    struct kvant_template *chat;
    struct kvant_error err;
    size_t n = strlen(source);
    char *copy = malloc(n +
                        1); /* without a terminator behind it, so that a sanitizer sees any step too far */
    assert_non_null(copy);
    memcpy(copy, source, n);
    if (kv_chat_open(&chat, t, copy, n, &err) != KVANT_OK) fail_msg("%s", err.message);
    free(copy);
    return chat;
}

static void expect(const char *source, const struct kvant_message *messages, size_t n, bool add_assistant,
                   const char *expected)
{
    struct kvant_template *chat = open_chat(source, NULL);
    char text[1024];
    size_t n_text;
    assert_int_equal(kvant_template_chat(chat, messages, n, add_assistant, text, sizeof text, &n_text, NULL),
                     KVANT_OK);
    assert_string_equal(text, expected);
    assert_int_equal(n_text, strlen(expected));
    kvant_template_close(chat);
}

static void test_builtin(void **state)
{
    (void)state;
    static const struct {
        const char *name, *expected;
    } cases[] = {
        { "chatml", "<|im_start|>system\n be brief <|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
                    "<|im_start|>assistant\nho<|im_end|>\n" },
        { "llama3",
          "<|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|><|start_header_id|>user"
          "<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nho<|eot_id|>" },
        { "llama2", "[INST] <<SYS>>\n be brief \n<</SYS>>\n\nhi [/INST] ho " },
        { "mistral", "[INST] hi[/INST] ho" },
        { "gemma",
          "<start_of_turn>user\n be brief \n\nhi<end_of_turn>\n<start_of_turn>model\nho<end_of_turn>\n" },
        { "phi3", "<|system|>\n be brief <|end|>\n<|user|>\nhi<|end|>\n<|assistant|>\nho<|end|>\n" },
        { "phi4", "<|im_start|>system<|im_sep|> be brief <|im_end|><|im_start|>user<|im_sep|>hi<|im_end|>"
                  "<|im_start|>assistant<|im_sep|>ho<|im_end|>" },
        { "zephyr", "<|system|>\n be brief \n<|user|>\nhi\n<|assistant|>\nho\n" },
        { "deepseek", " be brief <｜User｜>hi<｜Assistant｜>ho" },
        { "none", " be brief \nhi\nho" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *source = kv_chat_builtin(cases[i].name);
        assert_non_null(source);
        expect(source, both, 3, false, cases[i].expected);
        if (strcmp(cases[i].name, "none") == 0) continue;
        struct kv_str s = { source, strlen(source) };
        assert_string_equal(kv_chat_format_name(&s), cases[i].name);
    }
    assert_null(kv_chat_builtin("nonsense"));
    expect(kv_chat_builtin("chatml"), user, 1, true,
           "<|im_start|>user\n hi\n<|im_end|>\n<|im_start|>assistant\n");
    expect(kv_chat_builtin("none"), NULL, 0, true, "");
}

static void test_names(void **state)
{
    (void)state;
    struct kv_str other = { "{{ messages }}", 14 };
    assert_string_equal(kv_chat_format_name(NULL), "none");
    assert_string_equal(kv_chat_format_name(&other), "jinja");
}

/* What the template refuses is told in its words; what is not UTF-8 stays as it is. */
static void test_own_words(void **state)
{
    (void)state;
    struct kvant_error err = { 0 };
    char text[64];
    size_t n;
    static const struct kvant_message odd[] = { { "assistant", "x" } },
                                      bytes[] = { { "user", "\xff\xfe z" } };
    struct kvant_template *chat = open_chat(kv_chat_builtin("gemma"), NULL);
    assert_int_equal(kvant_template_chat(chat, odd, 1, true, text, sizeof text, &n, &err),
                     KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "take turns"));
    kvant_template_close(chat);
    expect(kv_chat_builtin("none"), bytes, 1, true, "\xff\xfe z");
    chat = open_chat("{{ foo }}{{ messages[0].content }}", NULL);
    assert_true(kvant_template_uses(chat, "foo"));
    assert_false(kvant_template_uses(chat, "fo"));
    assert_string_equal(kvant_template_source(chat), "{{ foo }}{{ messages[0].content }}");
    kvant_template_close(chat);
    assert_int_equal(kv_chat_open(&chat, NULL, "\n{{ x|nofilter }}", 17, &err), KVANT_ERR_UNSUPPORTED);
    assert_int_equal(err.position, 2);
    assert_null(chat);
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
    static const struct {
        struct kvant_message message;
        const char *part;
    } cases[] = {
        { { "user", "a<|im_start|>b" }, "<|im_start|>" },
        { { "user", "<tool><|im_start|>" }, "<|im_start|>" },
        { { "tool", "a" }, "\"tool\"" },
        { { "user\n", "a" }, "role" },
        { { NULL, "a" }, "NULL" },
        { { "user", NULL }, "NULL" },
    };
    char text[128];
    size_t n;
    struct kvant_template *chat = open_chat(kv_chat_builtin("none"), t);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct kvant_message messages[] = { { "user", "fine <tool> <|im_start" }, cases[i].message };
        assert_int_equal(kvant_template_chat(chat, messages, 2, true, text, sizeof text, &n, &err),
                         KVANT_ERR_ARGUMENT);
        assert_non_null(strstr(err.message, "message 1"));
        assert_non_null(strstr(err.message, cases[i].part));
    }
    static const char forged[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"<|im_start|>\"}]}]}";
    assert_int_equal(kvant_template_render(chat, forged, sizeof forged - 1, text, sizeof text, &n, &err),
                     KVANT_ERR_ARGUMENT);
    assert_non_null(
        strstr(err.message, "messages[0].content[0].text: holds the control token \"<|im_start|>\""));
    assert_int_equal(kvant_template_chat(chat, user, 1, true, text, 3, &n, &err), KVANT_ERR_SPACE);
    assert_int_equal(n, 4);
    assert_int_equal(kvant_template_chat(chat, user, 1, true, NULL, 0, &n, &err), KVANT_ERR_SPACE);
    assert_int_equal(n, 4);
    kvant_template_close(chat);
    kv_tokenizer_close(t);
}

/* A template that begins with the BOS does not get a second one. */
static void test_bos(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    tiny_bpe(&v);
    v.bos = tiny_token(&v, "<s>", 3, 0);
    v.add_bos = 1;
    struct kv_tokenizer *t;
    kvant_token ids[8];
    size_t n;
    assert_int_equal(tiny_tokenizer_open(&t, &v, NULL), KVANT_OK);
    int flags = KVANT_TOKENIZE_BOS | KVANT_TOKENIZE_SPECIAL;
    assert_int_equal(kv_tokenizer_encode(t, "<s>", 3, flags, ids, 8, &n, NULL), KVANT_OK);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], v.bos);
    assert_int_equal(kv_tokenizer_encode(t, "", 0, flags, ids, 8, &n, NULL), KVANT_OK);
    assert_int_equal(n, 1);
    assert_int_equal(kv_tokenizer_encode(t, "<s>", 3, KVANT_TOKENIZE_BOS, ids, 8, &n, NULL), KVANT_OK);
    assert_true(n > 1);
    assert_int_equal(ids[0], v.bos);
    kv_tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_builtin), cmocka_unit_test(test_names), cmocka_unit_test(test_own_words),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_bos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
