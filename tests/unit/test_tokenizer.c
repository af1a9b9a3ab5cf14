/*
 * Tokenizers on vocabularies of a few tokens: ranks and ties, byte fallback, special tokens, pre-tokenizers
 * on hand-made cases, and every kind of wrong vocabulary.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/tiny_tokenizer.h"
#include "text/byte_map.h"
#include "text/split.h"
#include "text/utf8.h"

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4 };
enum { SPECIAL = KVANT_TOKENIZE_SPECIAL, BOS = KVANT_TOKENIZE_BOS };

static struct kv_tokenizer *opened(const struct tiny_tokenizer *v)
{
    struct kv_tokenizer *t;
    struct kvant_error err = { 0 };
    if (tiny_tokenizer_open(&t, v, &err) != KVANT_OK) fail_msg("%s", err.message);
    return t;
}

static void expect_refused(const struct tiny_tokenizer *v, kvant_status status, const char *part)
{
    struct kv_tokenizer *t;
    struct kvant_error err = { 0 };
    assert_int_equal(tiny_tokenizer_open(&t, v, &err), status);
    assert_null(t);
    if (!strstr(err.message, part)) fail_msg("\"%s\" does not say \"%s\"", err.message, part);
}

/* Expects the tokens of `text` to be `expected`: their texts in the vocabulary, separated by spaces. */
static void expect_tokens(const struct kv_tokenizer *t, const char *text, size_t n_bytes, int flags,
                          const char *expected)
{
    kvant_token ids[256];
    size_t n = 0, at = 0;
    char got[2048] = "";
    struct kvant_error err = { 0 };
    if (kv_tokenizer_encode(t, text, n_bytes, flags, ids, 256, &n, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < n; i++) {
        struct kv_str s = kv_tokenizer_text(t, ids[i]);
        at += (size_t)snprintf(got + at, sizeof got - at, "%s%.*s", i > 0 ? " " : "", (int)s.n_bytes, s.data);
    }
    assert_string_equal(got, expected);
}

#define EXPECT(t, text, flags, expected) expect_tokens((t), (text), sizeof(text) - 1, (flags), (expected))

static void test_byte_alphabet(void **state)
{
    (void)state;
    bool seen[0x144] = { false };
    for (unsigned b = 0; b < 256; b++) {
        char c[2];
        size_t n = kv_byte_to_char((uint8_t)b, c), n_char;
        assert_int_equal(kv_byte_from_char(c, n, &n_char), b);
        assert_int_equal(n_char, n);
        unsigned code_point = kv_byte_to_code_point((uint8_t)b);
        assert_true(code_point < 0x144 && !seen[code_point]);
        seen[code_point] = true;
    }
    size_t n_char;
    assert_int_equal(kv_byte_from_char("\xc4\xa0", 2, &n_char), ' '); /* U+0120 */
    assert_int_equal(kv_byte_from_char("\xc4\x8a", 2, &n_char), '\n'); /* U+010A */
    assert_int_equal(kv_byte_from_char(" ", 1, &n_char), -1);
    assert_int_equal(kv_byte_from_char("\xc4", 1, &n_char), -1);
    assert_int_equal(kv_byte_from_char("\xe2\x96\x81", 3, &n_char), -1);
}

static void test_utf8(void **state)
{
    (void)state;
    static const struct { const char *s; size_t n, expected; } cases[] = {
        { "a", 1, 1 }, { "\x80", 1, 0 }, { "\xc3\xa9", 2, 2 }, { "\xc3", 1, 0 }, { "\xc1\xbf", 2, 0 },
        { "\xe0\x9f\xbf", 3, 0 }, { "\xe0\xa0\x80", 3, 3 }, { "\xed\xa0\x80", 3, 0 },
        { "\xed\x9f\xbf", 3, 3 },
        { "\xf0\x8f\xbf\xbf", 4, 0 }, { "\xf0\x90\x80\x80", 4, 4 }, { "\xf4\x8f\xbf\xbf", 4, 4 },
        { "\xf4\x90\x80\x80", 4, 0 }, { "\xf5\x80\x80\x80", 4, 0 }, { "\xe2\x82", 2, 0 },
        { "\xe2\x28\xa1", 3, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(kv_utf8_length(cases[i].s, cases[i].n), cases[i].expected);
}

static void test_ranks(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    tiny_bpe(&v);
    tiny_merge(&v, "b c", "bc");
    tiny_merge(&v, "a b", "ab");
    tiny_merge(&v, "ab c", "abc");
    tiny_merge(&v, "a a", "aa");
    tiny_merge(&v, "aa aa", "aaaa");
    tiny_merge(&v, "a b", "ab"); /* a repeated merge keeps its first rank */
    struct kv_tokenizer *t = opened(&v);
    EXPECT(t, "", 0, "");
    EXPECT(t, "abc", 0, "a bc");     /* the lower rank first, though ab c would make one token */
    EXPECT(t, "ab", 0, "ab");
    EXPECT(t, "aab", 0, "a ab");     /* rank 1 before rank 3 */
    EXPECT(t, "aaa", 0, "aa a");     /* among equals the leftmost */
    EXPECT(t, "aaaaa", 0, "aaaa a");
    EXPECT(t, "aaaaaaa", 0, "aaaa aa a");
    kv_tokenizer_close(t);
}

static void test_long_word(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    tiny_bpe(&v);
    tiny_merge(&v, "a a", "aa");
    tiny_merge(&v, "aa aa", "aaaa");
    struct kv_tokenizer *t = opened(&v);
    size_t n_bytes = (size_t)1 << 20, n;
    char *text = malloc(n_bytes);
    kvant_token *ids = malloc(n_bytes * sizeof *ids);
    assert_true(text && ids);
    memset(text, 'a', n_bytes);
    double start = kv_clock_s();
    assert_int_equal(kv_tokenizer_encode(t, text, n_bytes, 0, ids, n_bytes, &n, NULL), KVANT_OK);
    assert_int_equal(n, n_bytes / 4);
    memset(text, ' ', n_bytes); /* white space before a letter: backtracking must not cost the square */
    text[n_bytes - 1] = 'x';
    assert_int_equal(kv_tokenizer_encode(t, text, n_bytes, 0, ids, n_bytes, &n, NULL), KVANT_OK);
    assert_int_equal(n, n_bytes);
    assert_true(kv_clock_s() - start < 20); /* quadratic would be hours */
    kv_tokenizer_close(t);
    free(text);
    free(ids);
}

static void test_specials(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    tiny_bpe(&v);
    v.bos = tiny_token(&v, "<|b|>", CONTROL, 0);
    v.eos = tiny_token(&v, "<|im_end|>", CONTROL, 0);
    tiny_token(&v, "<t>", USER_DEFINED, 0);
    tiny_token(&v, "<t><t>", USER_DEFINED, 0);
    v.add_bos = 1;
    struct kv_tokenizer *t = opened(&v);
    EXPECT(t, "<|b|>", 0, "< | b | >");
    EXPECT(t, "<|b|>", SPECIAL, "<|b|>");
    EXPECT(t, "x<|b|><|im_end|>y", SPECIAL, "x <|b|> <|im_end|> y");
    EXPECT(t, "<|b<|b|>|>", SPECIAL, "< | b <|b|> | >");
    EXPECT(t, "<|b|", SPECIAL, "< | b |");
    EXPECT(t, "a<t>b", 0, "a <t> b"); /* user-defined tokens are never plain text */
    EXPECT(t, "<t><t><t>", 0, "<t><t> <t>");
    EXPECT(t, "a", BOS, "<|b|> a");
    EXPECT(t, "", BOS, "<|b|>");
    assert_true(kv_tokenizer_is_end(t, kv_tokenizer_eos(t)));
    assert_false(kv_tokenizer_is_end(t, kv_tokenizer_bos(t)));
    assert_false(kv_tokenizer_is_end(t, -1));
    assert_false(kv_tokenizer_is_control(t, 1 << 30));
    assert_int_equal(kv_tokenizer_find(t, "<|b|>", 5), v.bos);
    assert_int_equal(kv_tokenizer_find(t, "<|", 2), -1);
    assert_int_equal(kv_tokenizer_find_control(t, "a<t><|b|", 8), -1);
    assert_int_equal(kv_tokenizer_find_control(t, "a<t><|b|>", 9), v.bos);

    const kvant_token ids[] = { (kvant_token)v.bos, 'a', (kvant_token)v.eos };
    char text[32];
    size_t n;
    assert_int_equal(kv_tokenizer_decode(t, ids, 3, false, text, sizeof text, &n, NULL), KVANT_OK);
    assert_int_equal(n, 1);
    assert_int_equal(kv_tokenizer_decode(t, ids, 3, true, text, sizeof text, &n, NULL), KVANT_OK);
    assert_memory_equal(text, "<|b|>a<|im_end|>", n);
    kv_tokenizer_close(t);
}

static void test_space(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    tiny_bpe(&v);
    struct kv_tokenizer *t = opened(&v);
    kvant_token ids[4] = { -7, -7, -7, -7 };
    struct kvant_error err = { 0 };
    size_t n;
    assert_int_equal(kv_tokenizer_encode(t, "abc", 3, 0, NULL, 0, &n, &err), KVANT_ERR_SPACE);
    assert_int_equal(n, 3);
    assert_int_equal(kv_tokenizer_encode(t, "abc", 3, 0, ids, 2, &n, &err), KVANT_ERR_SPACE);
    assert_int_equal(n, 3);
    assert_int_equal(ids[2], -7);
    assert_int_equal(kv_tokenizer_encode(t, "abc", 3, 0, ids, 3, &n, &err), KVANT_OK);
    assert_int_equal(ids[3], -7);
    char text[4] = "zzz";
    assert_int_equal(kv_tokenizer_decode(t, ids, 3, false, NULL, 0, &n, &err), KVANT_ERR_SPACE);
    assert_int_equal(n, 3);
    assert_int_equal(kv_tokenizer_decode(t, ids, 3, false, text, 2, &n, &err), KVANT_ERR_SPACE);
    assert_int_equal(text[2], 'z');
    ids[1] = 256;
    assert_int_equal(kv_tokenizer_decode(t, ids, 3, false, text, 4, &n, &err), KVANT_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "256"));
    kv_tokenizer_close(t);
}

static void test_spm(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    tiny_spm(&v);
    tiny_token(&v, "\xe2\x96\x81", NORMAL, -1);
    tiny_token(&v, "a", NORMAL, -2);
    tiny_token(&v, "b", NORMAL, -3);
    tiny_token(&v, "ab", NORMAL, -4);
    tiny_token(&v, "ba", NORMAL, -3.5f);
    tiny_token(&v, "\xe2\x96\x81" "a", NORMAL, -5);
    tiny_token(&v, "aa", NORMAL, -6);
    struct kv_tokenizer *t = opened(&v);
    EXPECT(t, "", 0, "");
    EXPECT(t, "b", 0, "\xe2\x96\x81 b");
    EXPECT(t, "a", 0, "\xe2\x96\x81" "a");
    EXPECT(t, "aba", 0, "\xe2\x96\x81" "a ba");        /* the higher score first */
    EXPECT(t, "baaa", 0, "\xe2\x96\x81 ba aa");
    EXPECT(t, " a", 0, "\xe2\x96\x81 \xe2\x96\x81" "a");
    EXPECT(t, "b\n\xc3\xa9", 0, "\xe2\x96\x81 b <0x0A> <0xC3> <0xA9>");
    EXPECT(t, "b\xff" "b", 0, "\xe2\x96\x81 b <0xFF> b"); /* no UTF-8 */
    EXPECT(t, "b\xe2" "bb", 0, "\xe2\x96\x81 b <0xE2> b b");
    EXPECT(t, "b</s>b", SPECIAL | BOS, "<s> \xe2\x96\x81 b </s> \xe2\x96\x81 b");
    EXPECT(t, "<s>", 0, "\xe2\x96\x81 <0x3C> <0x73> <0x3E>");
    assert_true(kv_tokenizer_is_end(t, 2));

    kvant_token ids[16];
    char text[32];
    size_t n, n_text;
    assert_int_equal(kv_tokenizer_encode(t, "a b", 3, BOS, ids, 16, &n, NULL), KVANT_OK);
    assert_int_equal(kv_tokenizer_decode(t, ids, n, false, text, sizeof text, &n_text, NULL), KVANT_OK);
    assert_int_equal(n_text, 3);
    assert_memory_equal(text, "a b", 3);
    assert_int_equal(kv_tokenizer_decode(t, ids + 1, n - 1, false, text, sizeof text, &n_text, NULL),
                     KVANT_OK);
    assert_memory_equal(text, " a b", 4); /* without BOS each token gives all its bytes */
    kv_tokenizer_close(t);

    v.add_space = 0;
    v.add_bos = 0;
    t = opened(&v);
    EXPECT(t, "a", BOS, "a");
    kv_tokenizer_close(t);

    v.n_tokens = v.n_types = v.n_scores = 3; /* no byte tokens: the unknown token stands for each byte */
    t = opened(&v);
    EXPECT(t, "\xc3\xa9", 0, "<unk> <unk>");
    kv_tokenizer_close(t);
}

/* Where a token has a space inside, words don't merge independently and must not be cut apart. */
static void test_spm_inner_space(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    tiny_spm(&v);
    tiny_token(&v, "\xe2\x96\x81", NORMAL, -1);
    tiny_token(&v, "a", NORMAL, -2);
    tiny_token(&v, "a\xe2\x96\x81", NORMAL, -3);
    tiny_token(&v, "\xe2\x96\x81" "a", NORMAL, -4);
    struct kv_tokenizer *t = opened(&v);
    EXPECT(t, "a a", 0, "\xe2\x96\x81 a\xe2\x96\x81 a");
    kv_tokenizer_close(t);
}

static void test_phi3_strips_after_special(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    tiny_spm(&v);
    tiny_token(&v, "\xe2\x96\x81", NORMAL, -1);
    tiny_token(&v, "a", NORMAL, -2);
    tiny_token(&v, "<|user|>", CONTROL, 0);
    v.name = "Phi-3 mini";
    struct kv_tokenizer *t = opened(&v);
    EXPECT(t, "<|user|>\n a<s> a", SPECIAL, "<|user|> \xe2\x96\x81 a <s> \xe2\x96\x81 \xe2\x96\x81 a");
    kv_tokenizer_close(t);
}

/* ------------------------------------------------------------------------------------- pre-tokenizers -- */

struct words {
    char text[1024];
    size_t n;
};

static kvant_status collect(void *user, const char *s, size_t n, struct kvant_error *err)
{
    (void)err;
    struct words *words = user;
    words->n += (size_t)snprintf(words->text + words->n, sizeof words->text - words->n, "%s%.*s",
                                 words->n > 0 ? "|" : "", (int)n, s);
    return KVANT_OK;
}

static void test_split(void **state)
{
    (void)state;
    static const struct { const char *names, *text, *expected; } cases[] = {
        { "gpt-2", "Hello  world! it's 'S 123abc\n\n x ", "Hello| | world|!| it|'s| '|S| 123|abc|\n\n| x| " },
        { "gpt-2", "a\xc2\xa0" "b \xe3\x80\x80" "c", "a|\xc2\xa0|b| |\xe3\x80\x80|c" },
        { "llama-bpe llama3 llama-v3", "I'LL take 12345 (apples)\r\n\r\n  x",
          "I|'LL| take| |123|45| (|apples|)\r\n\r\n| | x" },
        { "llama-bpe", " \t\n \n a\xe2\x80\x8d" "b", " \t\n \n| a|\xe2\x80\x8d" "b" },
        { "llama-bpe", "a\xc2\xa0" "b  \xe1\xa0\x8e" "c", "a|\xc2\xa0" "b| | \xe1\xa0\x8e|c" },
        { "qwen2 deepseek-r1-qwen stablelm2", "x=12;\n\ty", "x|=|1|2|;\n|\ty" },
        { "smollm starcoder refact command-r", " 12 ab'm", " |1|2| ab|'m" },
        { "falcon", "a+b 12345 `x`", "a|+|b| |123|45| |`|x|`" },
        { "default", "a `x` 12345$", "a| `|x|`| |123|45|$" },
        { "deepseek-llm", "Hi, \xe4\xb8\xad\xe6\x96\x87 12\n x",
          "Hi|,| |\xe4\xb8\xad\xe6\x96\x87| |12|\n| x" },
        { "deepseek-coder", "Hi, \xe4\xb8\xad 12+a\n", "Hi|,| |\xe4\xb8\xad| |1|2|+|a|\n" },
        { "deepseek-v3", "x.foo 12345 (a)\n", "x|.foo| |123|45| (|a|)\n" },
        { "tekken", "HelloWORLDFoo's 12", "Hello|WORLDFoo|'s| |1|2" },
        { "gpt-4o llama4", "HelloWorld's 1234/\n", "Hello|World's| |123|4|/\n" },
        { "bloom", "Hi, a(b", "Hi|,| a|(|b" },
        { "viking", "ab12", "ab|1|2" },
        { "gpt-2 llama-bpe", "a\xff\xfe" "b", "a|\xff\xfe|b" },
        { "gpt-2 llama-bpe qwen2 falcon deepseek-llm", "", "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char names[128];
        snprintf(names, sizeof names, "%s", cases[i].names);
        for (char *rest, *name = strtok_r(names, " ", &rest); name; name = strtok_r(NULL, " ", &rest)) {
            const struct kv_split_row *row = kv_split_find(name);
            assert_non_null(row);
            struct kv_split *split;
            assert_int_equal(kv_split_open(&split, row, NULL), KVANT_OK);
            struct words words = { 0 };
            assert_int_equal(kv_split_run(split, cases[i].text, strlen(cases[i].text), collect, &words, NULL),
                             KVANT_OK);
            if (strcmp(words.text, cases[i].expected) != 0)
                fail_msg("%s: expected \"%s\", got \"%s\"", name, cases[i].expected, words.text);
            kv_split_close(split);
        }
    }
}

static kvant_status count_bytes(void *user, const char *s, size_t n, struct kvant_error *err)
{
    (void)s;
    (void)err;
    *(size_t *)user += n;
    return n > 0 ? KVANT_OK : KVANT_ERR_ARGUMENT;
}

/* Every row compiles, has all its names, loses no byte, and needs no more than linear time on a run of
 * spaces. */
static void test_split_rows(void **state)
{
    (void)state;
    size_t n = (size_t)1 << 19;
    char *text = malloc(n);
    assert_non_null(text);
    for (int i = 0; i < kv_split_row_count(); i++) {
        const struct kv_split_row *row = kv_split_row_at(i);
        assert_true(row->names[0] == ' ' && row->names[strlen(row->names) - 1] == ' ');
        struct kv_split *split;
        struct kvant_error err = { 0 };
        if (kv_split_open(&split, row, &err) != KVANT_OK) fail_msg("%s", err.message);
        static const char fills[] = " a\n.1";
        for (const char *fill = fills; *fill; fill++) {
            memset(text, *fill, n);
            text[n - 1] = *fill == ' ' ? 'x' : ' ';
            size_t n_seen = 0;
            kvant_status status = kv_split_run(split, text, n, count_bytes, &n_seen, &err);
            if (status != KVANT_OK) fail_msg("%s: %s", row->names, err.message);
            assert_int_equal(n_seen, n);
        }
        kv_split_close(split);
    }
    free(text);
    assert_null(kv_split_find("llama"));
    assert_null(kv_split_find(" "));
    assert_null(kv_split_find("gpt-2 "));
    assert_ptr_equal(kv_split_find(NULL), kv_split_find("default"));
    assert_ptr_equal(kv_split_find(""), kv_split_find("default"));
    assert_true(kv_split_find("llama-bpe")->ignore_merges && kv_split_find("llama-bpe")->add_bos);
}

static void test_ignore_merges(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    tiny_bpe(&v);
    tiny_token(&v, "\xc4\xa0hi", NORMAL, 0); /* " hi", which no merge makes */
    v.bos = tiny_token(&v, "<|begin_of_text|>", CONTROL, 0);
    v.pre = "llama-bpe";
    struct kv_tokenizer *t = opened(&v);
    EXPECT(t, "x hi", BOS, "<|begin_of_text|> x \xc4\xa0hi"); /* this family adds BOS when the file does not
                                                               * say */
    kv_tokenizer_close(t);
    v.pre = "qwen2";
    t = opened(&v);
    EXPECT(t, "x hi", BOS, "x \xc4\xa0 h i");
    kv_tokenizer_close(t);
}

/* --------------------------------------------------------------------------------- wrong vocabularies -- */

static void test_refused(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    tiny_bpe(&v);
    v.n_tokens = v.n_types = v.n_scores = 0;
    expect_refused(&v, KVANT_ERR_FORMAT, "tokenizer.ggml.tokens");
    tiny_bpe(&v);
    v.model = NULL;
    expect_refused(&v, KVANT_ERR_FORMAT, "tokenizer.ggml.model");
    v.model = "bert";
    expect_refused(&v, KVANT_ERR_UNSUPPORTED, "\"bert\"");
    tiny_bpe(&v);
    v.pre = "no-such-thing";
    expect_refused(&v, KVANT_ERR_UNSUPPORTED, "\"no-such-thing\"");
    tiny_bpe(&v);
    v.n_types = 255;
    expect_refused(&v, KVANT_ERR_FORMAT, "tokenizer.ggml.token_type");
    v.n_types = 257;
    expect_refused(&v, KVANT_ERR_FORMAT, "tokenizer.ggml.token_type");
    tiny_bpe(&v);
    v.types[5] = 7;
    expect_refused(&v, KVANT_ERR_FORMAT, "token_type[5]");
    v.types[5] = -1;
    expect_refused(&v, KVANT_ERR_FORMAT, "token_type[5]");
    tiny_bpe(&v);
    v.n_scores = 1;
    expect_refused(&v, KVANT_ERR_FORMAT, "tokenizer.ggml.scores");
    tiny_bpe(&v);
    v.scores[9] = NAN;
    expect_refused(&v, KVANT_ERR_FORMAT, "scores[9]");
    tiny_bpe(&v);
    v.bos = 256;
    expect_refused(&v, KVANT_ERR_FORMAT, "tokenizer.ggml.bos_token_id");
    v.bos = 255;
    v.eos = 4294967295;
    expect_refused(&v, KVANT_ERR_FORMAT, "tokenizer.ggml.eos_token_id");
}

static void test_refused_merges(void **state)
{
    (void)state;
    static struct tiny_tokenizer v;
    static const struct { const char *merge, *part; } cases[] = {
        { "a b", "merges[1]: \"ab\" is no token" }, { "xy b", "\"xy\"" }, { "b xy", "\"xy\"" },
        { "ab", "merges[1]" },
        { "", "merges[1]" }, { " ", "merges[1]" }, { "a ", "merges[1]" }, { " a", "merges[1]" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tiny_bpe(&v);
        tiny_merge(&v, "x x", "xx");
        v.merges[v.n_merges++] = cases[i].merge;
        expect_refused(&v, KVANT_ERR_FORMAT, cases[i].part);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_byte_alphabet),   cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_ranks),           cmocka_unit_test(test_long_word),
        cmocka_unit_test(test_specials),        cmocka_unit_test(test_space),
        cmocka_unit_test(test_spm),             cmocka_unit_test(test_spm_inner_space),
        cmocka_unit_test(test_phi3_strips_after_special),
        cmocka_unit_test(test_split),           cmocka_unit_test(test_split_rows),
        cmocka_unit_test(test_ignore_merges),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_merges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
