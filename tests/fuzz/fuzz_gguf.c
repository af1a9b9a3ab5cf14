/*
 * Any bytes as a GGUF file: open, ask for everything that callers ask for, read rows of every tensor.
 */
#include "base/memory.h"
#include "format/gguf.h"

#include <stdlib.h>
#include <string.h>

#define ROW_MAX 65536 /* longer rows are left out: their unpacking is the same loop */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const keys[] = {
    "general.architecture", "general.alignment", "general.name", "llama.block_count", "llama.context_length",
    "llama.attention.head_count_kv", "llama.rope.freq_base", "tokenizer.ggml.model", "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.ggml.add_bos_token",
    "tokenizer.chat_template",
    "t.u8", "t.i8", "t.f64", "t.words", "t.flags", "t.shorts", "t.doubles", "t.none", "t.nested", "",
};

/* What was read has to matter, or a compiler may leave out the reading. */
static uint64_t sum_bytes(const void *data, size_t n_bytes)
{
    const uint8_t *p = data;
    uint64_t sum = 0;
    for (size_t i = 0; i < n_bytes; i++) sum += p[i];
    return sum;
}

static uint64_t ask_array(const struct kv_gguf *g, const char *key, enum kv_gguf_type type)
{
    struct kv_gguf_array a = { 0 };
    struct kvant_error err;
    bool found;
    uint64_t sum = 0;
    if (kv_gguf_get_array(g, key, type, &a, &found, &err) != KVANT_OK || !found) return 0;
    for (uint64_t i = 0; i < a.n; i++) {
        if (type == KV_GGUF_STRING) sum += sum_bytes(a.strings[i].data, a.strings[i].n_bytes);
        else if (type == KV_GGUF_F32)
            sum += (kv_gguf_array_f64(&a, i) > 0) + (uint64_t)kv_gguf_array_i64(&a, i);
        else sum += (uint64_t)kv_gguf_array_i64(&a, i);
    }
    return sum;
}

static uint64_t ask_key(const struct kv_gguf *g, const char *key)
{
    int64_t i = 0;
    double d = 0;
    bool b = false, found, is_array;
    struct kv_str s = { 0 };
    struct kvant_error err;
    enum kv_gguf_type type;
    uint64_t sum = kv_gguf_has(g, key) ? 1 : 0;
    if (kv_gguf_get_i64(g, key, -1000, 1 << 20, &i, &found, &err) == KVANT_OK && found
        && (i < -1000 || i > 1 << 20))
        abort();
    kv_gguf_get_f64(g, key, &d, &found, &err);
    kv_gguf_get_bool(g, key, &b, &found, &err);
    if (kv_gguf_get_str(g, key, &s, &found, &err) == KVANT_OK && found) sum += sum_bytes(s.data, s.n_bytes);
    if (kv_gguf_key_type(g, key, &type, &is_array)) sum += strlen(kv_gguf_type_name(type));
    sum += ask_array(g, key, KV_GGUF_STRING) + ask_array(g, key, KV_GGUF_I32) +
           ask_array(g, key, KV_GGUF_F32);
    return sum + ask_array(g, key, KV_GGUF_BOOL) + (uint64_t)b + (d > 0);
}

static uint64_t ask_tensor(const struct kv_gguf *g, const struct kv_kernels *table,
                           const struct kv_gguf_tensor *t)
{
    char name[65] = { 0 };
    memcpy(name, t->name.data, t->name.n_bytes);
    if (!memchr(t->name.data, 0, t->name.n_bytes) && kv_gguf_tensor_find(g, name) != t) abort();
    uint64_t sum = sum_bytes(t->data, t->n_bytes);
    int64_t k = t->dims[0], n_rows = (int64_t)(t->n_bytes / t->row_bytes);
    if (k > ROW_MAX) return sum;
    float *out = kv_alloc((size_t)k, sizeof *out);
    void *scratch = kv_alloc(kv_matmul_scratch_bytes(k), 1);
    if (out && scratch) {
        kv_weight_row_to_f32(table, t->type, t->data, k, out, scratch);
        kv_weight_row_to_f32(table, t->type, t->data + (size_t)(n_rows - 1) * t->row_bytes, k, out, scratch);
        sum += sum_bytes(out, (size_t)k * sizeof *out);
    }
    kv_free(out);
    kv_free(scratch);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_gguf *g;
    struct kvant_error err;
    memset(&err, 0, sizeof err);
    if (kv_gguf_open_memory(&g, data, size, "fuzz", &err) != KVANT_OK) {
        if (g || err.status == KVANT_OK || strncmp(err.message, "fuzz: ", 6) != 0) abort();
        return 0;
    }
    struct kv_kernels table;
    kv_kernels_select(&table, KV_CPU_SCALAR);
    const uint8_t *header;
    uint64_t sum = sum_bytes(data, kv_gguf_header_bytes(g, &header));
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) sum += ask_key(g, keys[i]);
    for (int64_t i = 0; i < kv_gguf_n_tensors(g); i++) sum += ask_tensor(g, &table, kv_gguf_tensor_at(g, i));
    kv_gguf_close(g);
    volatile uint64_t sink = sum;
    (void)sink;
    return 0;
}
