/*
 * A tokenizer of either kind, read from a file's tokenizer.ggml.* keys: what both kinds share.
 *
 *     text -> special tokens | plain text between them -> BPE or SPM -> ids
 *     ids  -> each token's bytes, one after the other
 */
#include "text/tokenizer.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"
#include "text/bpe.h"
#include "text/byte_map.h"
#include "text/spm.h"

enum tokenizer_kind { TOKENIZER_BPE, TOKENIZER_SPM };

struct kv_tokenizer {
    enum tokenizer_kind kind;
    struct kv_vocab vocab;
    struct kv_bpe bpe;
    struct kv_spm spm;
    char *pre_name;
    kvant_token bos, eos, unknown; /* -1: none                                                             */
    bool add_bos, add_eos;
    bool space_prefix;             /* SPM: a space before the text, and after each special token           */
    bool strip_after_special;      /* Phi-3: white space after most special tokens belongs to them          */
};

/* --------------------------------------------------------------------------------------------- reading -- */

static kvant_status read_id(const struct kv_tokenizer *t, const struct kv_gguf *g, const char *key,
                            kvant_token *id, struct kvant_error *err)
{
    int64_t value = -1;
    bool found = false;
    KV_TRY(kv_gguf_get_i64(g, key, 0, t->vocab.n - 1, &value, &found, err));
    *id = found ? (kvant_token)value : -1;
    return KVANT_OK;
}

/* tokenizer.ggml.pre matters for BPE only; SPM files carry "default" or nothing. */
static kvant_status read_kind(struct kv_tokenizer *t, const struct kv_gguf *g,
                              const struct kv_split_row **row, struct kvant_error *err)
{
    struct kv_str model = { 0 }, pre = { "", 0 };
    bool found = false;
    KV_TRY(kv_gguf_get_str(g, "tokenizer.ggml.model", &model, &found, err));
    if (!found)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "tokenizer.ggml.model: missing: the file has no tokenizer");
    KV_TRY(kv_gguf_get_str(g, "tokenizer.ggml.pre", &pre, &found, err));
    t->pre_name = kv_strndup(pre.data, pre.n_bytes);
    if (!t->pre_name) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a tokenizer");
    if (model.n_bytes == 5 && memcmp(model.data, "llama", 5) == 0) {
        t->kind = TOKENIZER_SPM;
        return KVANT_OK;
    }
    if (model.n_bytes != 4 || memcmp(model.data, "gpt2", 4) != 0)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1,
                "tokenizer.ggml.model: tokenizer \"%.*s\" is not supported (gpt2 and llama are)",
                (int)(model.n_bytes < 64 ? model.n_bytes : 64), model.data);
    t->kind = TOKENIZER_BPE;
    *row = kv_split_find(t->pre_name);
    if (!*row)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1,
                "tokenizer.ggml.pre: pre-tokenizer \"%.64s\" is not supported by this version of kvant",
                t->pre_name);
    return KVANT_OK;
}

static kvant_status read_special_ids(struct kv_tokenizer *t, const struct kv_gguf *g, struct kvant_error *err)
{
    kvant_token eot, eom;
    KV_TRY(read_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, err));
    KV_TRY(read_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos, err));
    KV_TRY(read_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unknown, err));
    KV_TRY(read_id(t, g, "tokenizer.ggml.eot_token_id", &eot, err));
    KV_TRY(read_id(t, g, "tokenizer.ggml.eom_token_id", &eom, err));
    if (t->kind == TOKENIZER_SPM) { /* the first SPM files name none and mean these */
        if (t->bos < 0) t->bos = kv_vocab_find(&t->vocab, "<s>", 3);
        if (t->eos < 0) t->eos = kv_vocab_find(&t->vocab, "</s>", 4);
        if (t->unknown < 0) t->unknown = kv_vocab_find(&t->vocab, "<unk>", 5);
    }
    const kvant_token ends[] = { t->eos, eot, eom };
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (ends[i] >= 0) t->vocab.is_end[ends[i]] = true;
    return KVANT_OK;
}

static kvant_status read_options(struct kv_tokenizer *t, const struct kv_gguf *g,
                                 const struct kv_split_row *row, struct kvant_error *err)
{
    bool found = false;
    bool spm = t->kind == TOKENIZER_SPM;
    t->add_bos = spm || row->add_bos;
    t->space_prefix = true;
    KV_TRY(kv_gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, &found, err));
    KV_TRY(kv_gguf_get_bool(g, "tokenizer.ggml.add_eos_token", &t->add_eos, &found, err));
    KV_TRY(kv_gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &t->space_prefix, &found, err));
    t->space_prefix = t->space_prefix && spm;
    t->add_bos = t->add_bos && t->bos >= 0;
    t->add_eos = t->add_eos && t->eos >= 0;

    /* GGUF has no key for stripping; the models that need it are known by name. */
    struct kv_str name = { "", 0 };
    KV_TRY(kv_gguf_get_str(g, "general.name", &name, &found, err));
    for (size_t i = 0; i < name.n_bytes; i++) {
        size_t left = name.n_bytes - i;
        t->strip_after_special |= (left >= 5 && strncasecmp(name.data + i, "phi-3", 5) == 0) ||
                                  (left >= 4 && strncasecmp(name.data + i, "phi3", 4) == 0);
    }
    return KVANT_OK;
}

static kvant_status tokenizer_read(struct kv_tokenizer *t, const struct kv_gguf *g, struct kvant_error *err)
{
    const struct kv_split_row *row = NULL;
    KV_TRY(read_kind(t, g, &row, err));
    KV_TRY(kv_vocab_open(&t->vocab, g, err));
    KV_TRY(read_special_ids(t, g, err));
    KV_TRY(read_options(t, g, row, err));
    if (t->kind == TOKENIZER_BPE) return kv_bpe_open(&t->bpe, &t->vocab, row, g, err);
    kv_spm_open(&t->spm, &t->vocab, t->unknown);
    return KVANT_OK;
}

kvant_status kv_tokenizer_open(struct kv_tokenizer **out, const struct kv_gguf *g, struct kvant_error *err)
{
    *out = NULL;
    struct kv_tokenizer *t = kv_alloc(1, sizeof *t);
    if (!t) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a tokenizer");
    kvant_status status = tokenizer_read(t, g, err);
    if (status != KVANT_OK) {
        kv_tokenizer_close(t);
        /* Messages about values name their key; those of the GGUF reader name the file already. */
        const char *path = kv_gguf_path(g);
        bool names_file = !err || !*path || strncmp(err->message, path, strlen(path)) == 0;
        return names_file ? status : kv_error_prefix(err, status, "%s", path);
    }
    *out = t;
    return KVANT_OK;
}

void kv_tokenizer_close(struct kv_tokenizer *t)
{
    if (!t) return;
    kv_bpe_close(&t->bpe);
    kv_vocab_close(&t->vocab);
    kv_free(t->pre_name);
    kv_free(t);
}

/* -------------------------------------------------------------------------------------------- encoding -- */

/* Phi-3 marks all its special tokens so, but for these three. */
static bool strips_after(const struct kv_tokenizer *t, kvant_token id)
{
    static const char *const keep[] = { "<unk>", "<s>", "<|endoftext|>" };
    if (!t->strip_after_special) return false;
    struct kv_str s = kv_vocab_text(&t->vocab, id);
    for (size_t i = 0; i < sizeof keep / sizeof keep[0]; i++)
        if (s.n_bytes == strlen(keep[i]) && memcmp(s.data, keep[i], s.n_bytes) == 0) return false;
    return true;
}

static kvant_status encode_text(const struct kv_tokenizer *t, struct kv_merge *m, const char *text,
                                size_t n_bytes, bool control, struct kv_token_sink *sink,
                                struct kvant_error *err)
{
    bool after_special = true; /* as the beginning of the text is */
    for (size_t i = 0; i < n_bytes;) {
        size_t start = n_bytes;
        kvant_token special = kv_vocab_find_special(&t->vocab, text, n_bytes, i, control, &start);
        if (start > i) {
            if (t->kind == TOKENIZER_BPE)
                KV_TRY(kv_bpe_encode(&t->bpe, m, text + i, start - i, sink, err));
            else
                KV_TRY(kv_spm_encode(&t->spm, m, text + i, start - i, t->space_prefix && after_special, sink,
                                     err));
            after_special = false;
        }
        if (special < 0) break;
        kv_token_put(sink, special);
        after_special = true;
        i = start + kv_vocab_text(&t->vocab, special).n_bytes;
        if (strips_after(t, special))
            while (i < n_bytes && isspace((unsigned char)text[i])) i++;
    }
    return KVANT_OK;
}

/* Chat templates write the BOS themselves: there must not be two. */
static bool begins_with_bos(const struct kv_tokenizer *t, const char *text, size_t n_bytes, int flags)
{
    size_t start;
    if (!(flags & KVANT_TOKENIZE_SPECIAL) || n_bytes == 0) return false;
    return kv_vocab_find_special(&t->vocab, text, n_bytes, 0, true, &start) == t->bos && start == 0;
}

kvant_status kv_tokenizer_encode(const struct kv_tokenizer *t, const char *text, size_t n_bytes, int flags,
                                 kvant_token *ids, size_t cap, size_t *n_out, struct kvant_error *err)
{
    *n_out = 0;
    /* Symbols are counted in int32 and SPM triples a space. */
    if (n_bytes > INT32_MAX / 4)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%zu bytes of text: at most %d at once, split the text", n_bytes,
                INT32_MAX / 4);
    struct kv_merge merge = { 0 };
    struct kv_token_sink sink = { ids, ids ? cap : 0, 0 };
    if ((flags & KVANT_TOKENIZE_BOS) && t->add_bos && !begins_with_bos(t, text, n_bytes, flags))
        kv_token_put(&sink, t->bos);
    kvant_status status = encode_text(t, &merge, text, n_bytes, (flags & KVANT_TOKENIZE_SPECIAL) != 0, &sink,
                                      err);
    kv_merge_free(&merge);
    if (status != KVANT_OK) return status;
    if ((flags & KVANT_TOKENIZE_BOS) && t->add_eos) kv_token_put(&sink, t->eos);
    *n_out = sink.n;
    if (sink.n > sink.cap)
        KV_FAIL(err, KVANT_ERR_SPACE, -1, "room for %zu tokens, %zu needed", sink.cap, sink.n);
    return KVANT_OK;
}

/* -------------------------------------------------------------------------------------------- decoding -- */

struct text_sink {
    char *text;
    size_t cap, n;
    bool drop_space; /* leave out the next byte if it is a space */
};

static void text_put(struct text_sink *sink, const char *s, size_t n)
{
    if (n == 0) return;
    if (sink->drop_space && s[0] == ' ') s++, n--;
    sink->drop_space = false;
    if (sink->n < sink->cap) {
        size_t room = sink->cap - sink->n;
        memcpy(sink->text + sink->n, s, n < room ? n : room);
    }
    sink->n += n;
}

/* Characters outside the byte alphabet stand for themselves: added tokens may be written plainly. */
static void decode_bpe(struct text_sink *sink, struct kv_str s)
{
    for (size_t i = 0, n_char; i < s.n_bytes; i += n_char) {
        int byte = kv_byte_from_char(s.data + i, s.n_bytes - i, &n_char);
        char c = (char)byte;
        if (byte >= 0)
            text_put(sink, &c, 1);
        else
            text_put(sink, s.data + i, n_char);
    }
}

static void decode_spm(struct text_sink *sink, struct kv_str s)
{
    for (size_t i = 0; i < s.n_bytes;) {
        if (s.n_bytes - i >= 3 && memcmp(s.data + i, KV_SPM_SPACE, 3) == 0) {
            text_put(sink, " ", 1);
            i += 3;
        } else {
            text_put(sink, s.data + i++, 1);
        }
    }
}

static void decode_token(const struct kv_tokenizer *t, kvant_token id, bool special, struct text_sink *sink)
{
    struct kv_str s = kv_vocab_text(&t->vocab, id);
    switch ((enum kv_token_type)t->vocab.types[id]) {
    case KV_TOKEN_CONTROL:
    case KV_TOKEN_UNKNOWN:
        if (special) text_put(sink, s.data, s.n_bytes);
        return;
    case KV_TOKEN_USER_DEFINED:
        text_put(sink, s.data, s.n_bytes);
        return;
    case KV_TOKEN_BYTE: {
        int byte = kv_spm_byte_of(s);
        char c = (char)byte;
        if (byte < 0) break;
        text_put(sink, &c, 1);
        return;
    }
    default:
        break;
    }
    if (t->kind == TOKENIZER_BPE)
        decode_bpe(sink, s);
    else
        decode_spm(sink, s);
}

kvant_status kv_tokenizer_decode(const struct kv_tokenizer *t, const kvant_token *ids, size_t n_ids,
                                 bool special, char *text, size_t cap, size_t *n_out, struct kvant_error *err)
{
    *n_out = 0;
    struct text_sink sink = { text, text ? cap : 0, 0, false };
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= t->vocab.n)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "token %zu: id %d is outside the vocabulary of %d", i,
                    ids[i], t->vocab.n);
        sink.drop_space = i == 1 && t->space_prefix && ids[0] == t->bos;
        decode_token(t, ids[i], special, &sink);
    }
    *n_out = sink.n;
    if (sink.n > sink.cap)
        KV_FAIL(err, KVANT_ERR_SPACE, -1, "room for %zu bytes, %zu needed", sink.cap, sink.n);
    return KVANT_OK;
}

/* ------------------------------------------------------------------------------------------- accessors -- */

int kv_tokenizer_n_vocab(const struct kv_tokenizer *t)
{
    return t->vocab.n;
}

const char *kv_tokenizer_model_name(const struct kv_tokenizer *t)
{
    return t->kind == TOKENIZER_BPE ? "gpt2" : "llama";
}

const char *kv_tokenizer_pre_name(const struct kv_tokenizer *t)
{
    return t->pre_name;
}

bool kv_tokenizer_is_end(const struct kv_tokenizer *t, kvant_token id)
{
    return id >= 0 && id < t->vocab.n && t->vocab.is_end[id];
}

bool kv_tokenizer_is_control(const struct kv_tokenizer *t, kvant_token id)
{
    return id >= 0 && id < t->vocab.n &&
           (t->vocab.types[id] == KV_TOKEN_CONTROL || t->vocab.types[id] == KV_TOKEN_UNKNOWN);
}

kvant_token kv_tokenizer_bos(const struct kv_tokenizer *t)
{
    return t->bos;
}

kvant_token kv_tokenizer_eos(const struct kv_tokenizer *t)
{
    return t->eos;
}

kvant_token kv_tokenizer_find_control(const struct kv_tokenizer *t, const char *text, size_t n_bytes)
{
    /* On from the next byte, not from the token's end: what overlaps here might stand alone in another
     * context. */
    for (size_t i = 0, start = 0; i < n_bytes; i = start + 1) {
        kvant_token id = kv_vocab_find_special(&t->vocab, text, n_bytes, i, true, &start);
        if (id < 0 || t->vocab.types[id] == KV_TOKEN_CONTROL) return id;
    }
    return -1;
}

struct kv_str kv_tokenizer_text(const struct kv_tokenizer *t, kvant_token id)
{
    return kv_vocab_text(&t->vocab, id);
}

kvant_token kv_tokenizer_find(const struct kv_tokenizer *t, const char *text, size_t n_bytes)
{
    return kv_vocab_find(&t->vocab, text, n_bytes);
}
