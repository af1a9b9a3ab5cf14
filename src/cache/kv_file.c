#include "cache/kv_file.h"

#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "cache/kv_sequence.h"

#define VERSION      1
#define HEADER_BYTES 256
#define DIGEST_BYTES 32
static const char magic[8] = { 'k', 'v', 'a', 'n', 't', 's', 'e', 'q' };

/* Offsets in the header; numbers are little-endian. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 8,
    AT_HEADER = 12,
    AT_MODEL = 16, /* text, padded with zeros to KV_HASH_TEXT_CAP */
    AT_PLAN = 88,  /* likewise                                    */
    AT_TOKENS = 160,
    AT_INEXACT = 168,
    AT_PAGE_BYTES = 176,
    AT_PAGES = 184,
    AT_LAYERS = 192,
    AT_HEADS = 196,
    AT_HEAD_DIM = 200,
    AT_SINKS = 204,
    AT_TAIL = 208,
    AT_FILE_BYTES = 216,
    AT_DIGEST = 224
};

static void put_number(uint8_t *p, uint64_t x, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++) p[i] = (uint8_t)(x >> (8 * i));
}

static uint64_t get_number(const uint8_t *p, int n_bytes)
{
    uint64_t x = 0;
    for (int i = 0; i < n_bytes; i++) x |= (uint64_t)p[i] << (8 * i);
    return x;
}

static void digest(const void *a, size_t n_a, const void *b, size_t n_b, uint8_t out[DIGEST_BYTES])
{
    struct kv_hash h;
    kv_hash_begin(&h);
    kv_hash_add(&h, a, n_a);
    if (n_b) kv_hash_add(&h, b, n_b);
    kv_hash_bytes(&h, out);
}

/* What a file of a plan is marked with: a hash of everything that decides how a cache is stored. */
static kvant_status plan_mark(const struct kvant_plan *plan, char text[KV_HASH_TEXT_CAP],
                              struct kvant_error *err)
{
    char *key;
    struct kv_hash h;
    KV_TRY(kv_plan_key(plan, &key, err));
    kv_hash_begin(&h);
    kv_hash_add(&h, key, strlen(key));
    kv_hash_end(&h, text);
    kv_free(key);
    return KVANT_OK;
}

/* Sizes that follow from plan and length. */
struct sizes {
    size_t n_sinks, n_tail, n_pages, page_bytes;
    size_t tokens_bytes, page_step, exact_bytes, file_bytes;
};

/* False: they do not fit. */
static bool measure(const struct kvant_plan *plan, size_t page_bytes, int64_t n_tokens, struct sizes *s)
{
    int64_t sealed = kv_sealed_tokens(plan, n_tokens),
            sinks = n_tokens < plan->sinks ? n_tokens : plan->sinks;
    size_t row, rows, pages_bytes;
    s->n_sinks = (size_t)sinks;
    s->n_tail = (size_t)(n_tokens - sinks - sealed);
    s->n_pages = kv_seq_page_count(plan, n_tokens);
    s->page_bytes = page_bytes;
    s->page_step = page_bytes + DIGEST_BYTES;
    row = (size_t)plan->n_layer * (size_t)plan->n_head_kv * (size_t)plan->head_dim * sizeof(uint16_t);
    if (!kv_mul_size((size_t)n_tokens, sizeof(kvant_token), &s->tokens_bytes)) return false;
    if (!kv_add_size(s->n_sinks, s->n_tail, &rows) || !kv_mul_size(rows, 2 * row, &s->exact_bytes))
        return false;
    if (!kv_mul_size(s->n_pages, s->page_step, &pages_bytes)) return false;
    size_t total = HEADER_BYTES;
    if (!kv_add_size(total, s->tokens_bytes, &total) || !kv_add_size(total, pages_bytes, &total))
        return false;
    return kv_add_size(total, s->exact_bytes, &total) && kv_add_size(total, DIGEST_BYTES, &s->file_bytes);
}

/* Rows [first, first + n) of every (layer, KV head), to or from one run of memory. */
static size_t copy_rows(const struct kvant_plan *plan, uint16_t *rows, int n_rows, int first, size_t n,
                        uint8_t *run, bool from_run)
{
    size_t head_bytes = n * (size_t)plan->head_dim * sizeof *rows, at = 0;
    for (int i = 0; i < plan->n_layer * plan->n_head_kv; i++, at += head_bytes) {
        uint16_t *p = rows + ((size_t)i * (size_t)n_rows + (size_t)first) * (size_t)plan->head_dim;
        if (from_run)
            memcpy(p, run + at, head_bytes);
        else
            memcpy(run + at, p, head_bytes);
    }
    return at;
}

static void copy_exact(const struct kv_seq *seq, const struct sizes *s, uint8_t *run, bool from_run)
{
    const struct kvant_plan *plan = seq->cache->plan;
    if (s->n_sinks > 0) {
        run += copy_rows(plan, seq->sink_k, seq->n_sink_rows, 0, s->n_sinks, run, from_run);
        run += copy_rows(plan, seq->sink_v, seq->n_sink_rows, 0, s->n_sinks, run, from_run);
    }
    if (s->n_tail > 0) {
        run += copy_rows(plan, seq->tail_k, seq->n_tail_rows, seq->tail_first, s->n_tail, run, from_run);
        copy_rows(plan, seq->tail_v, seq->n_tail_rows, seq->tail_first, s->n_tail, run, from_run);
    }
}

static void write_header(uint8_t *h, const struct kv_seq *seq, const char *fingerprint, const char *mark,
                         const struct sizes *s)
{
    const struct kvant_plan *plan = seq->cache->plan;
    memcpy(h + AT_MAGIC, magic, sizeof magic);
    put_number(h + AT_VERSION, VERSION, 4);
    put_number(h + AT_HEADER, HEADER_BYTES, 4);
    memcpy(h + AT_MODEL, fingerprint, strnlen(fingerprint, KV_HASH_TEXT_CAP - 1));
    memcpy(h + AT_PLAN, mark, strnlen(mark, KV_HASH_TEXT_CAP - 1));
    put_number(h + AT_TOKENS, (uint64_t)seq->n_tokens, 8);
    put_number(h + AT_INEXACT, (uint64_t)seq->inexact_end, 8);
    put_number(h + AT_PAGE_BYTES, s->page_bytes, 8);
    put_number(h + AT_PAGES, s->n_pages, 8);
    put_number(h + AT_LAYERS, (uint64_t)plan->n_layer, 4);
    put_number(h + AT_HEADS, (uint64_t)plan->n_head_kv, 4);
    put_number(h + AT_HEAD_DIM, (uint64_t)plan->head_dim, 4);
    put_number(h + AT_SINKS, s->n_sinks, 4);
    put_number(h + AT_TAIL, s->n_tail, 8);
    put_number(h + AT_FILE_BYTES, s->file_bytes, 8);
}

kvant_status kv_file_pack(const struct kv_seq *seq, const char *fingerprint, const kvant_token *tokens,
                          size_t n_tokens, uint8_t **out, size_t *n_bytes, struct kvant_error *err)
{
    char mark[KV_HASH_TEXT_CAP];
    struct sizes s;
    *out = NULL;
    *n_bytes = 0;
    if (seq->failed || seq->step.active)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "sequence: saved inside a step, or after one that failed");
    if ((int64_t)n_tokens != seq->n_tokens)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "sequence: %zu tokens are named, but it holds %lld", n_tokens,
                (long long)seq->n_tokens);
    KV_TRY(plan_mark(seq->cache->plan, mark, err));
    bool fits = measure(seq->cache->plan, seq->cache->layout.page_bytes, seq->n_tokens, &s);
    uint8_t *file = fits ? kv_alloc(1, s.file_bytes) : NULL;
    if (!file) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory to save a sequence of %zu tokens", n_tokens);
    write_header(file, seq, fingerprint, mark, &s);
    uint8_t *at = file + HEADER_BYTES;
    for (size_t i = 0; i < n_tokens; i++) put_number(at + 4 * i, (uint32_t)tokens[i], 4);
    digest(file, AT_DIGEST, at, s.tokens_bytes, file + AT_DIGEST);
    at += s.tokens_bytes;
    for (size_t i = 0; i < s.n_pages; i++, at += s.page_step) {
        kv_page_copy(&seq->cache->layout, (struct kv_page){ at, 0, 1 }, seq->pages[i]);
        digest(at, s.page_bytes, NULL, 0, at + s.page_bytes);
    }
    copy_exact(seq, &s, at, false);
    digest(at, s.exact_bytes, NULL, 0, at + s.exact_bytes);
    *out = file;
    *n_bytes = s.file_bytes;
    return KVANT_OK;
}

/* --------------------------------------------------------------------------------------------- reading -- */

static kvant_status damaged(struct kvant_error *err, size_t at, const char *what)
{
    KV_FAIL(err, KVANT_ERR_FORMAT, (int64_t)at, "byte %zu: %s", at, what);
}

static bool text_is(const uint8_t *field, const char *text)
{
    char padded[KV_HASH_TEXT_CAP] = { 0 };
    memcpy(padded, text, strnlen(text, KV_HASH_TEXT_CAP - 1));
    return memcmp(field, padded, sizeof padded) == 0;
}

/* Everything that can be checked before a sequence is opened. *s, *n_tokens: of the file. */
static kvant_status check_header(const struct kv_file_source *f, const struct kvant_plan *plan,
                                 size_t page_bytes, struct sizes *s, int64_t *n_tokens,
                                 struct kvant_error *err)
{
    char mark[KV_HASH_TEXT_CAP];
    const uint8_t *h = f->data;
    if (f->n_bytes < HEADER_BYTES || memcmp(h, magic, sizeof magic) != 0)
        return damaged(err, 0, "not a saved sequence of kvant");
    if (get_number(h + AT_VERSION, 4) != VERSION)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, AT_VERSION, "version %u of the format; this build reads %d",
                (unsigned)get_number(h + AT_VERSION, 4), VERSION);
    if (get_number(h + AT_HEADER, 4) != HEADER_BYTES)
        return damaged(err, AT_HEADER, "the header has another size");
    if (!text_is(h + AT_MODEL, f->fingerprint))
        KV_FAIL(err, KVANT_ERR_MISMATCH, AT_MODEL, "it was saved with another model (%.71s, not %.71s)",
                h + AT_MODEL, f->fingerprint);
    KV_TRY(plan_mark(plan, mark, err));
    if (!text_is(h + AT_PLAN, mark))
        KV_FAIL(err, KVANT_ERR_MISMATCH, AT_PLAN, "it was saved under another plan (%.71s, not %.71s of %s)",
                h + AT_PLAN, mark, kvant_plan_name(plan));
    uint64_t n = get_number(h + AT_TOKENS, 8);
    if (n < 1 || n > INT32_MAX) return damaged(err, AT_TOKENS, "an impossible number of tokens");
    *n_tokens = (int64_t)n;
    if (!measure(plan, page_bytes, *n_tokens, s))
        return damaged(err, AT_TOKENS, "an impossible number of tokens");
    if (get_number(h + AT_FILE_BYTES, 8) != s->file_bytes || f->n_bytes != s->file_bytes)
        return damaged(err, AT_FILE_BYTES, "the file is not as long as its tokens need");
    if (get_number(h + AT_PAGE_BYTES, 8) != page_bytes || get_number(h + AT_PAGES, 8) != s->n_pages ||
        get_number(h + AT_LAYERS, 4) != (uint64_t)plan->n_layer ||
        get_number(h + AT_HEADS, 4) != (uint64_t)plan->n_head_kv ||
        get_number(h + AT_HEAD_DIM, 4) != (uint64_t)plan->head_dim ||
        get_number(h + AT_SINKS, 4) != s->n_sinks || get_number(h + AT_TAIL, 8) != s->n_tail)
        return damaged(err, AT_PAGE_BYTES, "sizes that do not follow from the plan");
    if (get_number(h + AT_INEXACT, 8) > n) return damaged(err, AT_INEXACT, "more inexact rows than tokens");
    uint8_t d[DIGEST_BYTES];
    digest(h, AT_DIGEST, h + HEADER_BYTES, s->tokens_bytes, d);
    if (memcmp(d, h + AT_DIGEST, DIGEST_BYTES) != 0)
        return damaged(err, AT_DIGEST, "header or tokens are damaged");
    return KVANT_OK;
}

/* Checksums of pages and exact rows; exact rows must be finite. */
static kvant_status check_body(const struct kv_file_source *f, const struct sizes *s, struct kvant_error *err)
{
    uint8_t d[DIGEST_BYTES];
    size_t at = HEADER_BYTES + s->tokens_bytes;
    for (size_t i = 0; i < s->n_pages; i++, at += s->page_step) {
        digest(f->data + at, s->page_bytes, NULL, 0, d);
        if (memcmp(d, f->data + at + s->page_bytes, DIGEST_BYTES) != 0)
            return damaged(err, at, "a page is damaged");
    }
    digest(f->data + at, s->exact_bytes, NULL, 0, d);
    if (memcmp(d, f->data + at + s->exact_bytes, DIGEST_BYTES) != 0)
        return damaged(err, at, "the exact rows are damaged");
    for (size_t i = 0; i < s->exact_bytes; i += 2)
        if ((get_number(f->data + at + i, 2) & 0x7c00) == 0x7c00)
            return damaged(err, at + i, "a row that is not finite");
    return KVANT_OK;
}

static kvant_status read_tokens(const struct kv_file_source *f, size_t n, kvant_token *tokens,
                                struct kvant_error *err)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = HEADER_BYTES + 4 * i;
        uint32_t id = (uint32_t)get_number(f->data + at, 4);
        if (id >= (uint32_t)f->n_vocab) return damaged(err, at, "a token outside the vocabulary");
        tokens[i] = (kvant_token)id;
    }
    return KVANT_OK;
}

kvant_status kv_file_unpack(struct kv_seq **out, struct kv_store *store, const struct kvant_plan *plan,
                            int64_t n_tokens_max, const struct kv_file_source *f, kvant_token *tokens,
                            size_t cap, size_t *n_tokens, struct kvant_error *err)
{
    struct sizes s;
    int64_t n = 0;
    *out = NULL;
    *n_tokens = 0;
    KV_TRY(check_header(f, plan, kv_layout_page_bytes(plan), &s, &n, err));
    *n_tokens = (size_t)n;
    if ((size_t)n > cap || n > n_tokens_max)
        KV_FAIL(err, KVANT_ERR_SPACE, AT_TOKENS, "it holds %lld tokens, and there is room for %lld",
                (long long)n, (long long)((int64_t)cap < n_tokens_max ? (int64_t)cap : n_tokens_max));
    KV_TRY(check_body(f, &s, err));
    KV_TRY(read_tokens(f, (size_t)n, tokens, err));
    struct kv_seq *seq;
    KV_TRY(kv_seq_open(&seq, store, plan, n_tokens_max, err));
    const uint8_t *at = f->data + HEADER_BYTES + s.tokens_bytes;
    for (size_t i = 0; i < s.n_pages; i++, at += s.page_step) {
        struct kv_page *page = &seq->pages[seq->n_pages++];
        kv_page_take(&seq->cache->pool, page); /* promised when the sequence was opened */
        kv_page_copy(&seq->cache->layout, *page, (struct kv_page){ (uint8_t *)(uintptr_t)at, 0, 1 });
    }
    seq->n_tokens = n;
    seq->inexact_end = (int64_t)get_number(f->data + AT_INEXACT, 8);
    seq->tail_first = 0;
    copy_exact(seq, &s, (uint8_t *)(uintptr_t)at, true);
    *out = seq;
    return KVANT_OK;
}
