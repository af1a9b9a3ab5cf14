/*
 * The rows of pre-tokenizers, and how they are run with PCRE2.
 *
 * White space is spelled out as the Unicode property White_Space, as the regex engines of the training
 * tokenizers have it: PCRE2's own \s would also take U+180E. U+200D (joiner) and U+FEFF are no white space;
 * U+0085, U+00A0 and U+3000 are. Contractions list both cases instead of (?i:...), under which Unicode
 * folding would let U+017F pass for s. Everything else is written as in the models' own tokenizer files;
 * ranges are written as code points.
 *
 * Compared with llama.cpp, every row by id over WikiText, code and 60,000 random characters of all scripts:
 * equal, but for two things where these rows keep to the tokenizer files. deepseek-llm and -coder: U+2028,
 * U+3000 and other white space above U+0800 lie inside the ranges of characters (there, white space is
 * replaced before matching). deepseek-v3: ASCII ~ is a symbol (there it is missing from \p{S}).
 */
#define PCRE2_CODE_UNIT_WIDTH 8

#include "text/split.h"

#include <pcre2.h>
#include <string.h>

#include "base/memory.h"
#include "text/utf8.h"

#define WS                                                                                                   \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define SPACE "[" WS "]"
#define NOT_SPACE "[^" WS "]"

#define CONTRACTION "'s|'t|'re|'ve|'m|'ll|'d"
#define CONTRACTION_ANY_CASE "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define SPACE_RUNS SPACE "+(?!" NOT_SPACE ")|" SPACE "+"

#define GPT2 CONTRACTION "| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACE_RUNS

/* cl100k and its relatives differ in how many digits stay together. */
#define CL100K(digits)                                                                                       \
    CONTRACTION_ANY_CASE "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|"      \
    SPACE "*[\\r\\n]+|" SPACE_RUNS

/* o200k: words break where lower case turns into upper case. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(suffix, digits)                                                                                \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" suffix \
    "|"                                                                                                      \
    digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*|" SPACE "*[\\r\\n]+|" SPACE_RUNS

#define BLOOM " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{0964}\\x{06d4}\\x{060c})]+"

#define CJK_DEEPSEEK "[\\x{4e00}-\\x{9fa5}\\x{0800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"

/* Letters with case, of the Unicode version that deepseek-llm was trained with. */
#define CASED                                                                                                \
    "A-Za-z\\xb5\\xc0-\\xd6\\xd8-\\xf6\\xf8-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}"     \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}"            \
    "\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}"                  \
    "\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"        \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}"        \
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}"                   \
    "\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"                  \
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}"        \
    "\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}"          \
    "\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}"                   \
    "\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}"                   \
    "\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"         \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"        \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"                       \
    "\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"                   \
    "\\x{1e900}-\\x{1e943}"

static const struct kv_split_row split_rows[] = {
    /* Also what is used when a file names none; such files are older than tokenizer.ggml.pre. */
    { " default ", false, false,
      { "[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" } },
    { " gpt-2 phi-2 mpt olmo jais gigachat exaone4 trillion granite-docling modern-bert mellum a.x-4.0"
      " jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe ", false, false, { GPT2 } },
    { " smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ", false, false,
      { "\\p{N}", GPT2 } },
    { " llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ", true, true,
      { CL100K("\\p{N}{1,3}") } },
    { " dbrx smaug-bpe chatglm-bpe glm4 ", false, false, { CL100K("\\p{N}{1,3}") } },
    { " qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez kormo f2llmv2 solar-open grok-2 ", false, false,
      { CL100K("\\p{N}") } },
    { " qwen35 ", false, false,
      { CONTRACTION_ANY_CASE "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS
        "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" SPACE_RUNS } },
    { " deepseek-llm ", false, false,
      { "[\\r\\n]", SPACE "?[" CASED "]+",
        SPACE "?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
        /* \s+$; the lookbehind keeps a megabyte of spaces from costing its square */
        "(?<!" SPACE ")" SPACE "++$",
        CJK_DEEPSEEK, "\\p{N}+" } },
    { " deepseek-coder ", false, false,
      { "[\\r\\n]", SPACE "?\\p{L}+", SPACE "?\\p{P}+", CJK_DEEPSEEK, "\\p{N}" } },
    { " deepseek-v3 hunyuan-dense joyai-llm ", false, false,
      { "\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
        " ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" SPACE_RUNS } },
    { " falcon ", false, false,
      { "[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]" } },
    { " tekken ", true, true, { O200K("", "\\p{N}") } },
    { " gpt-4o llama4 kanana2 minimax-m2 talkie ", false, false,
      { O200K(CONTRACTION_ANY_CASE "?", "\\p{N}{1,3}") } },
    { " bailingmoe bailingmoe2 llada-moe ", false, false,
      { "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^" WS
        "\\p{L}\\p{N}]++[\\r\\n]*|" SPACE "*[\\r\\n]|" SPACE_RUNS } },
    { " seed-coder ", false, false,
      { CONTRACTION_ANY_CASE "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}]+|" SPACE
                             "*[\\r\\n]+|" SPACE_RUNS } },
    { " bloom poro-chat gpt3-finnish ", false, false, { BLOOM } },
    { " viking ", false, false, { BLOOM, "\\p{N}" } },
};
enum { N_SPLIT_ROWS = sizeof split_rows / sizeof split_rows[0] };

int kv_split_row_count(void)
{
    return N_SPLIT_ROWS;
}

const struct kv_split_row *kv_split_row_at(int i)
{
    return i >= 0 && i < N_SPLIT_ROWS ? &split_rows[i] : NULL;
}

const struct kv_split_row *kv_split_find(const char *name)
{
    if (!name || name[0] == '\0') name = "default";
    size_t n = strlen(name);
    for (int i = 0; i < N_SPLIT_ROWS; i++)
        for (const char *s = split_rows[i].names + 1; *s;) {
            size_t n_name = strcspn(s, " ");
            if (n_name == n && memcmp(s, name, n) == 0) return &split_rows[i];
            s += n_name + 1;
        }
    return NULL;
}

/* --------------------------------------------------------------------------------------------- running -- */

struct kv_split {
    int n_codes;
    pcre2_code *codes[KV_SPLIT_EXPRESSIONS_MAX];
};

kvant_status kv_split_open(struct kv_split **out, const struct kv_split_row *row, struct kvant_error *err)
{
    *out = NULL;
    struct kv_split *split = kv_alloc(1, sizeof *split);
    if (!split) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the pre-tokenizer");
    for (int i = 0; i < KV_SPLIT_EXPRESSIONS_MAX && row->expressions[i]; i++) {
        int code;
        PCRE2_SIZE position;
        split->codes[i] = pcre2_compile((PCRE2_SPTR)row->expressions[i], PCRE2_ZERO_TERMINATED,
                                        PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &code, &position, NULL);
        if (!split->codes[i]) {
            /* The rows are constants that a test compiles, so only memory is left; or a PCRE2 without
             * Unicode. */
            PCRE2_UCHAR text[128] = { 0 };
            pcre2_get_error_message(code, text, sizeof text);
            kv_split_close(split);
            KV_FAIL(err, KVANT_ERR_MEMORY, -1, "pre-tokenizer%sexpression %d at %zu: %s", row->names, i + 1,
                    (size_t)position, (const char *)text);
        }
        pcre2_jit_compile(split->codes[i], PCRE2_JIT_COMPLETE); /* a refusal costs speed only */
        split->n_codes = i + 1;
    }
    *out = split;
    return KVANT_OK;
}

void kv_split_close(struct kv_split *split)
{
    if (!split) return;
    for (int i = 0; i < split->n_codes; i++) pcre2_code_free(split->codes[i]);
    kv_free(split);
}

struct split_run {
    const struct kv_split *split;
    pcre2_match_data *match;
    pcre2_match_context *context;
    kv_split_word word;
    void *user;
    struct kvant_error *err;
};

/* Runs expression `level` over one piece; depth is bounded by the number of expressions. */
static kvant_status split_piece(struct split_run *run, int level, const char *s, size_t n)
{
    if (n == 0) return KVANT_OK;
    if (level == run->split->n_codes) return run->word(run->user, s, n, run->err);
    size_t done = 0, from = 0;
    while (from < n) {
        int found = pcre2_match(run->split->codes[level], (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK,
                                run->match, run->context);
        if (found == PCRE2_ERROR_NOMATCH) break;
        if (found < 0)
            KV_FAIL(run->err, KVANT_ERR_MEMORY, -1,
                    "pre-tokenizer expression %d exceeds its match limit (PCRE2 error %d): split the text",
                    level + 1, found);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(run->match);
        size_t start = span[0], end = span[1];
        if (end <= start) break; /* no row has an empty match; never loop on one */
        KV_TRY(split_piece(run, level + 1, s + done, start - done));
        KV_TRY(split_piece(run, level + 1, s + start, end - start));
        done = from = end;
    }
    return split_piece(run, level + 1, s + done, n - done);
}

static kvant_status split_text(struct split_run *run, const char *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes;) {
        size_t start = i, n_char;
        while (i < n_bytes && (n_char = kv_utf8_length(text + i, n_bytes - i)) > 0) i += n_char;
        KV_TRY(split_piece(run, 0, text + start, i - start));
        start = i;
        while (i < n_bytes && kv_utf8_length(text + i, n_bytes - i) == 0) i++;
        if (i > start) KV_TRY(run->word(run->user, text + start, i - start, run->err));
    }
    return KVANT_OK;
}

kvant_status kv_split_run(const struct kv_split *split, const char *text, size_t n_bytes, kv_split_word word,
                          void *user, struct kvant_error *err)
{
    struct split_run run = { split, NULL, NULL, word, user, err };
    run.match = pcre2_match_data_create(1, NULL);
    run.context = pcre2_match_context_create(NULL);
    kvant_status status;
    if (run.match && run.context) {
        /* Backtracking is at most linear in a run of white space, so the limit only has to exceed the text;
         * 32 KB of JIT stack, the default, is enough because no row repeats a group. */
        pcre2_set_match_limit(run.context, UINT32_MAX);
        status = split_text(&run, text, n_bytes);
    } else {
        status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for the pre-tokenizer");
    }
    pcre2_match_context_free(run.context);
    pcre2_match_data_free(run.match);
    return status;
}
