/* Any bytes through tiny tokenizers of both kinds. The first byte chooses the vocabulary and the flags. What
 * comes back must be what went in, and no id may lie outside the vocabulary. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "support/tiny_tokenizer.h"

enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4 };

static struct kv_tokenizer *open_bpe(const char *pre)
{
    static struct tiny_tokenizer v;
    tiny_bpe(&v);
    tiny_merge(&v, "a b", "ab");
    tiny_merge(&v, "b a", "ba");
    tiny_merge(&v, "ab ab", "abab");
    tiny_merge(&v, "\xc4\xa0 \xc4\xa0", "\xc4\xa0\xc4\xa0");
    tiny_merge(&v, "\xc3\xa2 \xc4\xa2", "\xc3\xa2\xc4\xa2"); /* the first two bytes of U+2014 and its like */
    tiny_token(&v, "<t>", USER_DEFINED, 0);
    tiny_token(&v, "<t><t>", USER_DEFINED, 0);
    v.bos = tiny_token(&v, "<|b|>", CONTROL, 0);
    v.eos = tiny_token(&v, "<|b|>x", CONTROL, 0);
    v.add_bos = 0; /* llama-bpe would */
    v.pre = pre;
    struct kv_tokenizer *t;
    if (tiny_tokenizer_open(&t, &v, NULL) != KVANT_OK) abort();
    return t;
}

static struct kv_tokenizer *open_spm(bool inner_space)
{
    static struct tiny_tokenizer v;
    tiny_spm(&v);
    tiny_token(&v, "\xe2\x96\x81", NORMAL, -1);
    tiny_token(&v, "a", NORMAL, -2);
    tiny_token(&v, "b", NORMAL, -2);
    tiny_token(&v, "ab", NORMAL, -3);
    tiny_token(&v, "\xe2\x96\x81" "a", NORMAL, -2.5f);
    tiny_token(&v, "\xe2\x96\x81\xe2\x96\x81", NORMAL, -4);
    tiny_token(&v, "\xc3\xa9", NORMAL, -5);
    if (inner_space) tiny_token(&v, "a\xe2\x96\x81", NORMAL, -2);
    struct kv_tokenizer *t;
    if (tiny_tokenizer_open(&t, &v, NULL) != KVANT_OK) abort();
    return t;
}

static void round_trip(const struct kv_tokenizer *t, const char *text, size_t n_bytes, bool control,
                       bool exact)
{
    /* SPECIAL makes control tokens of text; decoding with special writes them out again. */
    int flags = KVANT_TOKENIZE_BOS | (control ? KVANT_TOKENIZE_SPECIAL : 0);
    size_t n_ids, n_back, n_again;
    size_t cap = 4 * n_bytes + 16;
    kvant_token *ids = malloc(cap * sizeof *ids);
    char *back = malloc(n_bytes + 64);
    if (!ids || !back) abort();
    if (kv_tokenizer_encode(t, text, n_bytes, flags, ids, cap, &n_ids, NULL) != KVANT_OK) abort();
    kvant_status status = kv_tokenizer_encode(t, text, n_bytes, flags, NULL, 0, &n_again, NULL);
    if (n_again != n_ids || status != (n_ids > 0 ? KVANT_ERR_SPACE : KVANT_OK)) abort();
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || ids[i] >= kv_tokenizer_n_vocab(t)) abort();
    if (exact) {
        if (kv_tokenizer_decode(t, ids, n_ids, control, back, n_bytes + 64, &n_back, NULL) != KVANT_OK)
            abort();
        if (n_back != n_bytes || memcmp(back, text, n_bytes) != 0) abort();
    }
    free(ids);
    free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const pres[] = { "gpt-2",        "llama-bpe",      "qwen2",  "smollm",
                                        "deepseek-llm", "deepseek-coder", "falcon", "default",
                                        "deepseek-v3",  "tekken",         "gpt-4o", "bloom" };
    enum { N_PRES = sizeof pres / sizeof pres[0], N_KINDS = N_PRES + 2 };
    static struct kv_tokenizer *tokenizers[N_KINDS]; /* opened once; they stay reachable until the end */
    if (!tokenizers[0])
        for (int i = 0; i < N_KINDS; i++)
            tokenizers[i] = i < N_PRES ? open_bpe(pres[i]) : open_spm(i > N_PRES);
    if (size == 0) return 0;
    int kind = data[0] % N_KINDS;
    bool control = data[0] >= 128, spm = kind >= N_PRES;
    const char *text = (const char *)data + 1;
    size_t n_bytes = size - 1;
    /* SPM writes spaces as U+2581, so a text that has one of its own is not told apart; and it puts a space
     * after each special token. BPE is exact always. */
    bool exact = !spm || (!control && !memmem(text, n_bytes, "\xe2\x96\x81", 3));
    round_trip(tokenizers[kind], text, n_bytes, control, exact);
    return 0;
}
