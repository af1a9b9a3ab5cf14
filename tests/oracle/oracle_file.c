#include "oracle/oracle_file.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

void *oracle_take(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    if (!p) {
        fprintf(stderr, "oracle: out of memory (%zu × %zu bytes)\n", n, size);
        abort();
    }
    return p;
}

/* ------------------------------------------------------------------------------------------------ GGUF -- */

enum { /* the GGUF numbers of the types that are read */
    TYPE_F32 = 0, TYPE_F16 = 1, TYPE_Q4_0 = 2, TYPE_Q4_1 = 3, TYPE_Q5_0 = 6, TYPE_Q8_0 = 8,
    TYPE_Q4_K = 12, TYPE_Q6_K = 14
};

struct cursor {
    const uint8_t *p, *end;
    bool failed;
};

static const uint8_t *skip(struct cursor *c, uint64_t n)
{
    if (c->failed || n > (uint64_t)(c->end - c->p)) {
        c->failed = true;
        return NULL;
    }
    const uint8_t *p = c->p;
    c->p += n;
    return p;
}

static uint64_t unsigned_at(const uint8_t *p, int n)
{
    uint64_t u = 0;
    for (int i = 0; i < n; i++) u |= (uint64_t)p[i] << 8 * i;
    return u;
}

static uint64_t next(struct cursor *c, int n)
{
    const uint8_t *p = skip(c, (uint64_t)n);
    return p ? unsigned_at(p, n) : 0;
}

static struct text next_text(struct cursor *c)
{
    size_t n = (size_t)next(c, 8);
    return (struct text){ (const char *)skip(c, n), n };
}

/* Bytes of the scalar metadata types 0 .. 12 of the specification; 8 is a string, 9 an array. */
static const int scalar_bytes[13] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

static void skip_value(struct cursor *c, uint32_t type)
{
    if (type > 12) c->failed = true;
    else if (type == 8) next_text(c);
    else if (type != 9) skip(c, (uint64_t)scalar_bytes[type]);
    else {
        uint32_t element = (uint32_t)next(c, 4);
        for (uint64_t n = next(c, 8); n > 0 && !c->failed; n--) skip_value(c, element);
    }
}

static bool text_is(struct text t, const char *s)
{
    return t.data && t.n == strlen(s) && memcmp(t.data, s, t.n) == 0;
}

static const struct entry *meta(const struct oracle *o, const char *key)
{
    for (uint64_t i = 0; i < o->n_entries; i++) {
        if (text_is(o->entries[i].key, key)) return &o->entries[i];
    }
    return NULL;
}

static struct text entry_text(const struct entry *e)
{
    if (e->type != 8) return (struct text){ NULL, 0 };
    return (struct text){ (const char *)e->value + 8, (size_t)unsigned_at(e->value, 8) };
}

/* `key` below the architecture's name, or `missing`. */
static double meta_number(const struct oracle *o, const char *key, double missing)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", o->arch, key);
    const struct entry *e = meta(o, full);
    if (!e) return missing;
    uint64_t u = unsigned_at(e->value, scalar_bytes[e->type]);
    float f;
    double d;
    switch (e->type) {
    case 6: memcpy(&f, e->value, sizeof f); return (double)f;
    case 12: memcpy(&d, e->value, sizeof d); return d;
    case 1: return (int8_t)u;
    case 3: return (int16_t)u;
    case 5: return (int32_t)u;
    case 11: return (double)(int64_t)u;
    default: return (double)u;
    }
}

static bool meta_text_is(const struct oracle *o, const char *key, const char *expected)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s", o->arch, key);
    const struct entry *e = meta(o, full);
    return e && text_is(entry_text(e), expected);
}

static size_t row_bytes_of(uint32_t type, int64_t k)
{
    size_t n = (size_t)k;
    switch (type) {
    case TYPE_F32: return n * 4;
    case TYPE_F16: return n * 2;
    case TYPE_Q4_0: return n / 32 * 18;
    case TYPE_Q4_1: return n / 32 * 20;
    case TYPE_Q5_0: return n / 32 * 22;
    case TYPE_Q8_0: return n / 32 * 34;
    case TYPE_Q4_K: return n / 256 * 144;
    case TYPE_Q6_K: return n / 256 * 210;
    default: return 0;
    }
}

static bool read_directory(struct oracle *o, char *message, size_t cap)
{
    struct cursor c = { o->file, o->file + o->n_bytes, false };
    uint64_t magic = next(&c, 4), version = next(&c, 4);
    o->n_tensors = next(&c, 8);
    o->n_entries = next(&c, 8);
    bool plausible = o->n_tensors <= o->n_bytes && o->n_entries <= o->n_bytes;
    if (c.failed || magic != 0x46554747 || version < 2 || version > 3 || !plausible) {
        snprintf(message, cap, "not a GGUF file of version 2 or 3");
        return false;
    }
    o->entries = oracle_take(o->n_entries, sizeof *o->entries);
    o->tensors = oracle_take(o->n_tensors, sizeof *o->tensors);
    for (uint64_t i = 0; i < o->n_entries && !c.failed; i++) {
        struct entry *e = &o->entries[i];
        e->key = next_text(&c);
        e->type = (uint32_t)next(&c, 4);
        e->value = c.p;
        skip_value(&c, e->type);
    }
    uint64_t *offsets = oracle_take(o->n_tensors, sizeof *offsets);
    for (uint64_t i = 0; i < o->n_tensors && !c.failed; i++) {
        struct tensor *t = &o->tensors[i];
        t->name = next_text(&c);
        uint32_t n_dims = (uint32_t)next(&c, 4);
        for (uint32_t d = 0; d < 4; d++) t->dims[d] = d < n_dims ? (int64_t)next(&c, 8) : 1;
        t->type = (uint32_t)next(&c, 4);
        t->row_bytes = row_bytes_of(t->type, t->dims[0]);
        offsets[i] = next(&c, 8);
    }
    const struct entry *e = meta(o, "general.alignment");
    uint64_t alignment = e ? unsigned_at(e->value, 4) : 32;
    uint64_t start = alignment ? ((uint64_t)(c.p - o->file) + alignment - 1) / alignment * alignment : 0;
    for (uint64_t i = 0; i < o->n_tensors && !c.failed; i++) {
        struct tensor *t = &o->tensors[i];
        uint64_t n = t->row_bytes * (uint64_t)t->dims[1], at = start + offsets[i];
        if (at > o->n_bytes || n > o->n_bytes - at) c.failed = true;
        else t->data = o->file + at;
    }
    free(offsets);
    if (c.failed) snprintf(message, cap, "the GGUF file ends too early");
    return !c.failed;
}

static const struct tensor *find(const struct oracle *o, const char *name)
{
    for (uint64_t i = 0; i < o->n_tensors; i++) {
        if (text_is(o->tensors[i].name, name)) return &o->tensors[i];
    }
    return NULL;
}

static const struct tensor *find_in_layer(const struct oracle *o, int layer, const char *name)
{
    char full[96];
    snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    return find(o, full);
}

/* -------------------------------------------------------------------------------------- dequantization -- */

static float half_at(const uint8_t *p)
{
    int h = p[0] | p[1] << 8, exponent = h >> 10 & 31, mantissa = h & 1023;
    float x = exponent == 0    ? ldexpf((float)mantissa, -24)
              : exponent == 31 ? (mantissa ? NAN : INFINITY)
                               : ldexpf((float)(1024 + mantissa), exponent - 25);
    return h & 0x8000 ? -x : x;
}

static void dequantize_32(uint32_t type, const uint8_t *b, float *y)
{
    float d = half_at(b);
    switch (type) {
    case TYPE_Q8_0:
        for (int i = 0; i < 32; i++) y[i] = d * (float)(int8_t)b[2 + i];
        break;
    case TYPE_Q4_0:
        for (int i = 0; i < 32; i++) y[i] = d * (float)((b[2 + i % 16] >> (i < 16 ? 0 : 4) & 15) - 8);
        break;
    case TYPE_Q4_1:
        for (int i = 0; i < 32; i++) {
            y[i] = d * (float)(b[4 + i % 16] >> (i < 16 ? 0 : 4) & 15) + half_at(b + 2);
        }
        break;
    case TYPE_Q5_0:
        for (int i = 0; i < 32; i++) {
            int low = b[6 + i % 16] >> (i < 16 ? 0 : 4) & 15, high = b[2 + i / 8] >> i % 8 & 1;
            y[i] = d * (float)((low | high << 4) - 16);
        }
        break;
    }
}

/* Eight sub-blocks of 32; their 6-bit scales s and minima m in 12 bytes: the low six bits of bytes 0-3 are
 * s0-s3, of 4-7 m0-m3; bytes 8-11 hold the low nibbles of s4-s7 | m4-m7, whose upper two bits top bytes 0-3 |
 * 4-7. */
static void dequantize_q4_k(const uint8_t *b, float *y)
{
    const uint8_t *packed = b + 4, *codes = b + 16;
    for (int i = 0; i < 256; i++) {
        int j = i / 32, s, m;
        if (j < 4) {
            s = packed[j] & 63;
            m = packed[4 + j] & 63;
        } else {
            s = (packed[4 + j] & 15) | packed[j - 4] >> 6 << 4;
            m = packed[4 + j] >> 4 | packed[j] >> 6 << 4;
        }
        int code = codes[j / 2 * 32 + i % 32] >> 4 * (j % 2) & 15;
        y[i] = half_at(b) * (float)s * (float)code - half_at(b + 2) * (float)m;
    }
}

/* 128 bytes of low nibbles, 64 of upper pairs, 16 int8 scales per 16 elements, one float16. Each half of 128
 * elements takes 64 low bytes (elements 0-63 their low nibbles, 64-127 the high ones) and 32 upper bytes (a
 * pair per quarter). */
static void dequantize_q6_k(const uint8_t *b, float *y)
{
    for (int i = 0; i < 256; i++) {
        int half = i / 128, r = i % 128;
        int low = b[64 * half + r % 64] >> 4 * (r / 64) & 15;
        int high = b[128 + 32 * half + r % 32] >> 2 * (r / 32) & 3;
        y[i] = half_at(b + 208) * (float)(int8_t)b[192 + i / 16] * (float)((low | high << 4) - 32);
    }
}

void oracle_read_row(const struct tensor *t, int64_t row, float *y)
{
    const uint8_t *p = t->data + (size_t)row * t->row_bytes;
    int64_t n = t->dims[0];
    int64_t block = t->type == TYPE_F32 || t->type == TYPE_F16     ? 1
                    : t->type == TYPE_Q4_K || t->type == TYPE_Q6_K ? 256
                                                                   : 32;
    size_t block_bytes = row_bytes_of(t->type, block);
    for (int64_t i = 0; i < n; i += block, p += block_bytes) {
        switch (t->type) {
        case TYPE_F32: memcpy(y + i, p, sizeof *y); break;
        case TYPE_F16: y[i] = half_at(p); break;
        case TYPE_Q4_K: dequantize_q4_k(p, y + i); break;
        case TYPE_Q6_K: dequantize_q6_k(p, y + i); break;
        default: dequantize_32(t->type, p, y + i);
        }
    }
}

/* ------------------------------------------------------------------------------------------------ open -- */

static bool read_layers(struct oracle *o, char *message, size_t cap)
{
    for (int l = 0; l < o->dims.n_layer; l++) {
        struct layer *y = &o->layers[l];
        const struct { const struct tensor **slot; const char *name; bool optional; } parts[] = {
            { &y->attn_norm, "attn_norm.weight", false }, { &y->q, "attn_q.weight", false },
            { &y->k, "attn_k.weight", false }, { &y->v, "attn_v.weight", false },
            { &y->q_bias, "attn_q.bias", true }, { &y->k_bias, "attn_k.bias", true },
            { &y->v_bias, "attn_v.bias", true }, { &y->q_norm, "attn_q_norm.weight", true },
            { &y->k_norm, "attn_k_norm.weight", true }, { &y->out, "attn_output.weight", false },
            { &y->ffn_norm, "ffn_norm.weight", false }, { &y->gate, "ffn_gate.weight", false },
            { &y->up, "ffn_up.weight", false }, { &y->down, "ffn_down.weight", false },
        };
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
            *parts[i].slot = find_in_layer(o, l, parts[i].name);
            if (!*parts[i].slot && !parts[i].optional) {
                snprintf(message, cap, "layer %d has no tensor %s", l, parts[i].name);
                return false;
            }
        }
    }
    return true;
}

/* inv_freq[i] = base^(-2i / n_rot) over the linear scaling factor and over the file's own factors (llama
 * 3). */
static bool read_rope(struct oracle *o, char *message, size_t cap)
{
    double base = meta_number(o, "rope.freq_base", 10000.0), factor = 1.0;
    o->n_rot = (int)meta_number(o, "rope.dimension_count", o->dims.head_dim);
    o->interleaved = strcmp(o->arch, "llama") == 0;
    if (meta_text_is(o, "rope.scaling.type", "linear")) factor = meta_number(o, "rope.scaling.factor", 1.0);
    else if (meta_text_is(o, "rope.scaling.type", "yarn")) {
        snprintf(message, cap, "the oracle has no YaRN scaling");
        return false;
    }
    const struct tensor *divisors = find(o, "rope_freqs.weight");
    float *d = divisors ? oracle_take((size_t)divisors->dims[0], sizeof *d) : NULL;
    if (divisors) oracle_read_row(divisors, 0, d);
    o->inv_freq = oracle_take((size_t)o->n_rot / 2, sizeof *o->inv_freq);
    for (int i = 0; i < o->n_rot / 2; i++) {
        o->inv_freq[i] = pow(base, -2.0 * i / o->n_rot) / factor / (d ? (double)d[i] : 1.0);
    }
    free(d);
    return true;
}

static bool read_model(struct oracle *o, char *message, size_t cap)
{
    const struct entry *e = meta(o, "general.architecture");
    const char *known[] = { "llama", "mistral", "qwen2", "qwen3" };
    for (size_t i = 0; e && i < 4; i++) {
        if (text_is(entry_text(e), known[i])) strcpy(o->arch, known[i]);
    }
    o->embedding = find(o, "token_embd.weight");
    o->output_norm = find(o, "output_norm.weight");
    o->output = find(o, "output.weight");
    if (!o->arch[0] || !o->embedding || !o->output_norm) {
        snprintf(message, cap, "%s", o->arch[0] ? "no embedding or output norm" : "unknown architecture");
        return false;
    }
    if (!o->output) o->output = o->embedding;
    struct oracle_dims *d = &o->dims;
    d->n_layer = (int)meta_number(o, "block_count", 0);
    d->n_embd = (int)meta_number(o, "embedding_length", 0);
    d->n_ff = (int)meta_number(o, "feed_forward_length", 0);
    d->n_head = (int)meta_number(o, "attention.head_count", 0);
    d->n_head_kv = (int)meta_number(o, "attention.head_count_kv", d->n_head);
    d->n_vocab = (int)o->embedding->dims[1];
    if (d->n_layer < 1 || d->n_head < 1 || d->n_head_kv < 1 || d->n_head % d->n_head_kv) {
        snprintf(message, cap, "impossible head or layer counts");
        return false;
    }
    d->head_dim = (int)meta_number(o, "attention.key_length", d->n_embd / d->n_head);
    o->epsilon = meta_number(o, "attention.layer_norm_rms_epsilon", 1e-5);
    o->layers = oracle_take((size_t)d->n_layer, sizeof *o->layers);
    for (uint64_t i = 0; i < o->n_tensors; i++) {
        if (o->tensors[i].row_bytes == 0) {
            snprintf(message, cap, "tensor %.*s has a type (%u) that the oracle does not read",
                     (int)o->tensors[i].name.n, o->tensors[i].name.data, o->tensors[i].type);
            return false;
        }
    }
    return read_layers(o, message, cap) && read_rope(o, message, cap);
}

struct oracle *oracle_open(const char *path, char *message, size_t cap)
{
    struct oracle *o = oracle_take(1, sizeof *o);
    struct stat st;
    int fd = open(path, O_RDONLY);
    void *map = MAP_FAILED;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0) {
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    if (fd >= 0) close(fd);
    if (map == MAP_FAILED) {
        snprintf(message, cap, "%s cannot be read", path);
        free(o);
        return NULL;
    }
    o->file = map;
    o->n_bytes = (size_t)st.st_size;
    if (read_directory(o, message, cap) && read_model(o, message, cap)) return o;
    oracle_close(o);
    return NULL;
}

void oracle_close(struct oracle *o)
{
    if (!o) return;
    munmap((void *)(uintptr_t)o->file, o->n_bytes);
    free(o->entries);
    free(o->tensors);
    free(o->inv_freq);
    free(o->layers);
    free(o);
}

struct oracle_dims oracle_get_dims(const struct oracle *o)
{
    return o->dims;
}
