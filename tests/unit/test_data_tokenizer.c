/*
 * Tokenizers against the vectors of ../shared/data/vocab: texts of a .inp file, one line of ids per text in
 * the .out file, plain text (no BOS, nothing parsed as special). And back: decoding gives the bytes of the
 * vectors, of WikiText and of random bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "text/tokenizer.h"

static const char *folder(const char *variable, const char *otherwise)
{
    const char *value = getenv(variable);
    return value && value[0] ? value : otherwise;
}

static struct kv_tokenizer *tokenizer_of(const char *path)
{
    if (!kv_file_exists(path)) {
        print_message("SKIP: no %s\n", path);
        skip();
    }
    struct kvant_error err = { 0 };
    struct kv_gguf *g;
    if (kv_gguf_open(&g, path, &err) != KVANT_OK) fail_msg("%s", err.message);
    struct kv_tokenizer *t;
    if (kv_tokenizer_open(&t, g, &err) != KVANT_OK) fail_msg("%s", err.message);
    kv_gguf_close(g);
    return t;
}

static char *read_data(const char *name, const char *suffix, size_t *n_bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s%s", folder("KVANT_DATA", "../shared/data"), name, suffix);
    struct kvant_error err = { 0 };
    char *text;
    if (!kv_file_exists(path)) {
        print_message("SKIP: no %s\n", path);
        skip();
    }
    if (kv_file_read(path, 64u << 20, &text, n_bytes, &err) != KVANT_OK) fail_msg("%s", err.message);
    return text;
}

static kvant_token *encode(const struct kv_tokenizer *t, const char *text, size_t n_bytes, int flags,
                           size_t *n)
{
    size_t cap = n_bytes + 8;
    kvant_token *ids = malloc(cap * sizeof *ids);
    assert_non_null(ids);
    struct kvant_error err = { 0 };
    if (kv_tokenizer_encode(t, text, n_bytes, flags, ids, cap, n, &err) != KVANT_OK)
        fail_msg("%s", err.message);
    return ids;
}

/* Encodes with BOS, so that SPM's leading space is known to be its own, and expects the same bytes back. */
static void expect_round_trip(const struct kv_tokenizer *t, const char *text, size_t n_bytes)
{
    size_t n_ids, n_back;
    kvant_token *ids = encode(t, text, n_bytes, KVANT_TOKENIZE_BOS, &n_ids);
    char *back = malloc(n_bytes + 64);
    assert_non_null(back);
    assert_int_equal(kv_tokenizer_decode(t, ids, n_ids, false, back, n_bytes + 64, &n_back, NULL), KVANT_OK);
    size_t same = 0;
    while (same < n_bytes && same < n_back && back[same] == text[same]) same++;
    if (n_back != n_bytes || same != n_bytes)
        fail_msg("%zu bytes came back as %zu, first difference at %zu near \"%.40s\"", n_bytes, n_back, same,
                 text + (same > 20 ? same - 20 : 0));
    free(back);
    free(ids);
}

static void expect_vectors(const struct kv_tokenizer *t, const char *name)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    size_t n_inp, n_out;
    char *inp = read_data(name, ".inp", &n_inp), *out = read_data(name, ".out", &n_out);
    char *text = inp, *line = out;
    int n_texts = 0;
    while (text < inp + n_inp) {
        char *end = strstr(text, separator);
        size_t n_bytes = (size_t)((end ? end : inp + n_inp) - text);
        if (!end && n_bytes > 0 && text[n_bytes - 1] == '\n') n_bytes--; /* the file's last newline */
        char *line_end = strchr(line, '\n');
        if (!line_end) fail_msg("%s: more texts than lines of ids", name);
        *line_end = '\0';
        char got[16384] = "";
        size_t n_ids, at = 0;
        kvant_token *ids = encode(t, text, n_bytes, 0, &n_ids);
        for (size_t i = 0; i < n_ids; i++) at += (size_t)snprintf(got + at, sizeof got - at, " %d", ids[i]);
        free(ids);
        if (strcmp(got, line) != 0)
            fail_msg("%s, text %d \"%.*s\":\n  expected%s\n  got     %s", name, n_texts, (int)n_bytes, text,
                     line, got);
        expect_round_trip(t, text, n_bytes);
        n_texts++;
        line = line_end + 1;
        text = end ? end + sizeof separator - 1 : inp + n_inp;
    }
    print_message("%s: %d texts\n", name, n_texts);
    assert_true(n_texts > 40);
    assert_int_equal(line - out, n_out);
    kv_free(inp);
    kv_free(out);
}

static void expect_wikitext(const struct kv_tokenizer *t, const char *name)
{
    size_t n_bytes, n_ids;
    char *text = read_data("wikitext-2/valid.txt", "", &n_bytes);
    double start = kv_clock_s();
    kvant_token *ids = encode(t, text, n_bytes, 0, &n_ids);
    double seconds = kv_clock_s() - start;
    print_message("%s: WikiText-2 validation, %zu bytes, %zu tokens, %.0f ms\n", name, n_bytes, n_ids,
                  seconds * 1e3);
    free(ids);
    expect_round_trip(t, text, n_bytes);
    kv_free(text);
}

/* Bytes 00 to FF, many of them no UTF-8. `utf8_only`: without the bytes that no UTF-8 holds, for vocabularies
 * that have no token for them (deepseek-llm gives theirs to added tokens). */
static void expect_random_bytes(const struct kv_tokenizer *t, bool utf8_only)
{
    uint32_t state = 12345;
    for (int round = 0; round < 400; round++) {
        char text[300];
        size_t n = 0;
        while (n < sizeof text - 1) {
            state = state * 1664525u + 1013904223u;
            unsigned b = state >> 24;
            if (round % 4 == 1) b = b % 96 + 32;       /* mostly words */
            if (round % 4 == 2) b = (uint8_t)" \t\n\r a"[b % 6]; /* mostly space */
            if (utf8_only && (b == 0xc0 || b == 0xc1 || b >= 0xf5)) continue;
            text[n++] = (char)b;
            if (n > (size_t)round % 299) break;
        }
        text[n] = '\0';
        expect_round_trip(t, text, n);
    }
}

static void expect_vocabulary(const char *name, bool utf8_only)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/vocab/%s.gguf", folder("KVANT_DATA", "../shared/data"), name);
    struct kv_tokenizer *t = tokenizer_of(path);
    char vectors[256];
    snprintf(vectors, sizeof vectors, "vocab/%s.gguf", name);
    expect_vectors(t, vectors);
    expect_wikitext(t, name);
    expect_random_bytes(t, utf8_only);
    kv_tokenizer_close(t);
}

static void test_gpt2(void **state)
{
    (void)state;
    expect_vocabulary("ggml-vocab-gpt-2", false);
}

static void test_deepseek_llm(void **state)
{
    (void)state;
    expect_vocabulary("ggml-vocab-deepseek-llm", true);
}

static void test_llama_spm(void **state)
{
    (void)state;
    expect_vocabulary("ggml-vocab-llama-spm", false);
}

static struct kv_tokenizer *model_tokenizer(const char *file)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder("KVANT_MODELS", "models"), file);
    return tokenizer_of(path);
}

static void test_qwen2(void **state)
{
    (void)state;
    struct kv_tokenizer *t = model_tokenizer("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf");
    expect_vectors(t, "vocab/ggml-vocab-qwen2.gguf");
    expect_wikitext(t, "qwen2");
    expect_random_bytes(t, false);
    size_t n;
    kvant_token *ids = encode(t, "<|im_start|>user", 16, KVANT_TOKENIZE_SPECIAL | KVANT_TOKENIZE_BOS, &n);
    assert_int_equal(n, 2); /* add_bos_token is false */
    assert_int_equal(ids[0], 151644);
    assert_true(kv_tokenizer_is_control(t, ids[0]));
    assert_false(kv_tokenizer_is_end(t, ids[0]));
    assert_true(kv_tokenizer_is_end(t, 151645));
    assert_true(kv_tokenizer_is_end(t, 151643));
    free(ids);
    ids = encode(t, "<|im_start|>", 12, 0, &n);
    assert_true(n > 1);
    free(ids);
    kv_tokenizer_close(t);
}

static void test_smollm2(void **state)
{
    (void)state;
    struct kv_tokenizer *t = model_tokenizer("SmolLM2-135M-Instruct.Q4_1.gguf");
    expect_wikitext(t, "smollm2");
    size_t n;
    kvant_token *ids = encode(t, "3333", 4, 0, &n);
    assert_int_equal(n, 4); /* this pre-tokenizer splits every digit */
    free(ids);
    assert_true(kv_tokenizer_is_end(t, 2));
    kv_tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2),  cmocka_unit_test(test_deepseek_llm), cmocka_unit_test(test_llama_spm),
        cmocka_unit_test(test_qwen2), cmocka_unit_test(test_smollm2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
