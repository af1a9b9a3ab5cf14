#include "support/tiny_gguf.h"

#include "base/half.h"
#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- random numbers: SplitMix64, the same on every machine --- */

static uint64_t random_u64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* Near enough to normal: twelve uniforms less 6 have variance 1; exact arithmetic, so no libm decides the
 * bytes. */
static float random_normal(uint64_t *state)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += (double)(random_u64(state) >> 11) * 0x1p-53;
    return (float)sum;
}

/* --- matrices in file formats --- */

struct type_row {
    int id, block;
    size_t block_bytes;
    void (*pack)(const float *x /* (block) */, uint8_t *out);
};

static void put_f16(uint8_t *out, float x)
{
    uint16_t h = kv_f32_to_f16(x);
    memcpy(out, &h, sizeof h);
}

static void pack_f32(const float *x, uint8_t *out)
{
    memcpy(out, x, sizeof *x);
}

static void pack_f16(const float *x, uint8_t *out)
{
    put_f16(out, *x);
}

static void pack_bf16(const float *x, uint8_t *out)
{
    uint32_t u = kv_f32_bits(*x);
    uint16_t h = (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
    memcpy(out, &h, sizeof h);
}

static void pack_q8_0(const float *x, uint8_t *out)
{
    float top = 0;
    for (int i = 0; i < 32; i++) top = fmaxf(top, fabsf(x[i]));
    float d = top / 127;
    put_f16(out, d);
    for (int i = 0; i < 32; i++) out[2 + i] = (uint8_t)(int8_t)(d > 0 ? lrintf(x[i] / d) : 0);
}

static uint8_t nibble(float x)
{
    long code = lrintf(x);
    return (uint8_t)(code < 0 ? 0 : code > 15 ? 15 : code);
}

/* The element of largest magnitude becomes code 0, that is −8. */
static void pack_q4_0(const float *x, uint8_t *out)
{
    float extreme = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    float d = extreme / -8;
    put_f16(out, d);
    for (int i = 0; i < 16; i++) {
        uint8_t low = d != 0 ? nibble(x[i] / d + 8) : 8, high = d != 0 ? nibble(x[i + 16] / d + 8) : 8;
        out[2 + i] = (uint8_t)(low | high << 4);
    }
}

static void pack_q4_1(const float *x, uint8_t *out)
{
    float low = x[0], high = x[0];
    for (int i = 1; i < 32; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    float d = (high - low) / 15;
    put_f16(out, d);
    put_f16(out + 2, low);
    for (int i = 0; i < 16; i++) {
        uint8_t a = d > 0 ? nibble((x[i] - low) / d) : 0, b = d > 0 ? nibble((x[i + 16] - low) / d) : 0;
        out[4 + i] = (uint8_t)(a | b << 4);
    }
}

static const struct type_row type_rows[] = {
    { TINY_F32, 1, 4, pack_f32 },     { TINY_F16, 1, 2, pack_f16 },     { TINY_BF16, 1, 2, pack_bf16 },
    { TINY_Q8_0, 32, 34, pack_q8_0 }, { TINY_Q4_0, 32, 18, pack_q4_0 }, { TINY_Q4_1, 32, 20, pack_q4_1 },
};

static const struct type_row *find_type(int id)
{
    for (size_t i = 0; i < sizeof type_rows / sizeof type_rows[0]; i++)
        if (type_rows[i].id == id) return &type_rows[i];
    return NULL;
}

/* --- tensors --- */

struct build {
    struct gguf_writer *w;
    struct tiny_gguf_options opt; /* defaults filled in */
    const struct type_row *type;
    uint64_t random;
};

/* Every token brings the same large first channel, which one row of the output looks for. */
static void make_end_likely(const char *name, int64_t n_in, int64_t n_out, float *x /* (n_out, n_in) */)
{
    bool embedding = strcmp(name, "token_embd.weight") == 0, output = strcmp(name, "output.weight") == 0;
    for (int64_t row = 0; (embedding || output) && row < n_out; row++)
        x[row * n_in] = embedding || row == TINY_TOKEN_IM_END ? 30.0f : 0.0f;
}

/* A matrix (n_out, n_in) of the chosen type. */
static void put_matrix(struct build *b, const char *name, int64_t n_in, int64_t n_out, float deviation)
{
    size_t n = (size_t)(n_in * n_out), n_blocks = n / (size_t)b->type->block;
    float *x = kv_alloc(n, sizeof *x);
    uint8_t *packed = kv_alloc(n_blocks, b->type->block_bytes);
    if (x && packed) {
        for (size_t i = 0; i < n; i++) x[i] = deviation * random_normal(&b->random);
        if (b->opt.ends_at_once) make_end_likely(name, n_in, n_out, x);
        for (size_t i = 0; i < n_blocks; i++)
            b->type->pack(x + i * (size_t)b->type->block, packed + i * b->type->block_bytes);
        gguf_put_tensor(b->w, name, (uint32_t)b->type->id, 2, (int64_t[]){ n_in, n_out }, packed,
                        n_blocks * b->type->block_bytes);
    } else {
        b->w->failed = true;
    }
    kv_free(x);
    kv_free(packed);
}

/* A vector of n floats around `mean`; every fourth from the first on gets ± outlier added. */
static void put_vector(struct build *b, const char *name, int64_t n, float mean, float deviation,
                       float outlier)
{
    float *x = kv_alloc((size_t)n, sizeof *x);
    if (x) {
        for (int64_t i = 0; i < n; i++) {
            x[i] = mean + deviation * random_normal(&b->random);
            if (i % 4 == 0) x[i] += i % 8 == 0 ? outlier : -outlier;
        }
        gguf_put_tensor(b->w, name, TINY_F32, 1, &n, x, (size_t)n * sizeof *x);
    } else {
        b->w->failed = true;
    }
    kv_free(x);
}

/* Llama-3's scaling as the factors by which each frequency is divided (arXiv 2407.21783, and its published
 * code): wavelengths above the original context get 8, those below a quarter of it 1, with a smooth passage
 * between. */
static void put_rope_freqs(struct build *b)
{
    const double factor = 8, low_factor = 1, high_factor = 4, n_ctx_original = 128;
    int n = b->opt.head_dim / 2;
    float *x = kv_alloc((size_t)n, sizeof *x);
    if (!x) {
        b->w->failed = true;
        return;
    }
    for (int i = 0; i < n; i++) {
        double frequency = pow((double)b->opt.rope_freq_base, -2.0 * i / b->opt.head_dim);
        double wavelength = 2 * 3.14159265358979323846 / frequency;
        double smooth = (n_ctx_original / wavelength - low_factor) / (high_factor - low_factor);
        smooth = fmin(fmax(smooth, 0), 1);
        x[i] = (float)(1 / ((1 - smooth) / factor + smooth));
    }
    gguf_put_tensor(b->w, "rope_freqs.weight", TINY_F32, 1, (int64_t[]){ n }, x, (size_t)n * sizeof *x);
    kv_free(x);
}

static const char *layer_name(char out[64], int layer, const char *part)
{
    snprintf(out, 64, "blk.%d.%s", layer, part);
    return out;
}

static void put_layer(struct build *b, int layer)
{
    const struct tiny_gguf_options *o = &b->opt;
    char name[64];
    int64_t n_q = (int64_t)o->n_head * o->head_dim, n_kv = (int64_t)o->n_head_kv * o->head_dim;
    float in_embd = 1 / sqrtf((float)o->n_embd), in_q = 1 / sqrtf((float)n_q),
          in_ff = 1 / sqrtf((float)o->n_ff);
    put_vector(b, layer_name(name, layer, "attn_norm.weight"), o->n_embd, 1, 0.1f, 0);
    put_matrix(b, layer_name(name, layer, "attn_q.weight"), o->n_embd, n_q, in_embd);
    put_matrix(b, layer_name(name, layer, "attn_k.weight"), o->n_embd, n_kv, in_embd);
    put_matrix(b, layer_name(name, layer, "attn_v.weight"), o->n_embd, n_kv, in_embd);
    if (strcmp(o->arch, "qwen2") == 0) {
        put_vector(b, layer_name(name, layer, "attn_q.bias"), n_q, 0, 0.3f, 0);
        put_vector(b, layer_name(name, layer, "attn_k.bias"), n_kv, 0, 0.3f,
                   layer == 0 ? o->key_bias_outlier : 0);
        put_vector(b, layer_name(name, layer, "attn_v.bias"), n_kv, 0, 0.3f, 0);
    }
    if (strcmp(o->arch, "qwen3") == 0) {
        put_vector(b, layer_name(name, layer, "attn_q_norm.weight"), o->head_dim, 1, 0.1f, 0);
        put_vector(b, layer_name(name, layer, "attn_k_norm.weight"), o->head_dim, 1, 0.1f, 0);
    }
    put_matrix(b, layer_name(name, layer, "attn_output.weight"), n_q, o->n_embd, in_q);
    put_vector(b, layer_name(name, layer, "ffn_norm.weight"), o->n_embd, 1, 0.1f, 0);
    put_matrix(b, layer_name(name, layer, "ffn_gate.weight"), o->n_embd, o->n_ff, in_embd);
    put_matrix(b, layer_name(name, layer, "ffn_up.weight"), o->n_embd, o->n_ff, in_embd);
    put_matrix(b, layer_name(name, layer, "ffn_down.weight"), o->n_ff, o->n_embd, in_ff);
}

static void put_tensors(struct build *b)
{
    const struct tiny_gguf_options *o = &b->opt;
    float spread = 3 / sqrtf((float)o->n_embd);
    put_matrix(b, "token_embd.weight", o->n_embd, o->n_vocab, spread);
    if (o->rope_llama3) put_rope_freqs(b);
    for (int layer = 0; layer < o->n_layer; layer++) put_layer(b, layer);
    put_vector(b, "output_norm.weight", o->n_embd, 1, 0.1f, 0);
    if (!o->tied_output) put_matrix(b, "output.weight", o->n_embd, o->n_vocab, spread);
}

/* --- metadata --- */

static const char *arch_key(char out[96], const struct build *b, const char *part)
{
    snprintf(out, 96, "%.40s.%s", b->opt.arch, part);
    return out;
}

static void put_arch_keys(struct build *b)
{
    const struct tiny_gguf_options *o = &b->opt;
    struct gguf_writer *w = b->w;
    char key[96];
    gguf_put_str(w, "general.architecture", o->arch);
    gguf_put_str(w, "general.type", "model");
    gguf_put_str(w, "general.name", "tiny random");
    gguf_put_u32(w, "general.quantization_version", 2);
    gguf_put_u32(w, arch_key(key, b, "block_count"), (uint32_t)o->n_layer);
    gguf_put_u32(w, arch_key(key, b, "context_length"), (uint32_t)o->n_ctx);
    gguf_put_u32(w, arch_key(key, b, "embedding_length"), (uint32_t)o->n_embd);
    gguf_put_u32(w, arch_key(key, b, "feed_forward_length"), (uint32_t)o->n_ff);
    gguf_put_u32(w, arch_key(key, b, "attention.head_count"), (uint32_t)o->n_head);
    gguf_put_u32(w, arch_key(key, b, "attention.head_count_kv"), (uint32_t)o->n_head_kv);
    gguf_put_f32(w, arch_key(key, b, "attention.layer_norm_rms_epsilon"), 1e-5f);
    if (strcmp(o->arch, "qwen3") == 0 || o->head_dim * o->n_head != o->n_embd) {
        gguf_put_u32(w, arch_key(key, b, "attention.key_length"), (uint32_t)o->head_dim);
        gguf_put_u32(w, arch_key(key, b, "attention.value_length"), (uint32_t)o->head_dim);
    }
    gguf_put_f32(w, arch_key(key, b, "rope.freq_base"), o->rope_freq_base);
    if (strcmp(o->arch, "llama") == 0) {
        gguf_put_u32(w, arch_key(key, b, "rope.dimension_count"), (uint32_t)o->head_dim);
        gguf_put_u32(w, arch_key(key, b, "vocab_size"), (uint32_t)o->n_vocab);
    }
    if (o->rope_linear > 0) {
        gguf_put_str(w, arch_key(key, b, "rope.scaling.type"), "linear");
        gguf_put_f32(w, arch_key(key, b, "rope.scaling.factor"), o->rope_linear);
    }
}

/* --- tokenizer --- */

/* Merges in order of rank, over the printable alphabet: U+0120 (octal 304 240) is the space. Each makes one
 * token. */
static const char *const merges[16] = {
    "\304\240 t", "h e", "\304\240 a", "i n", "\304\240t he", "e r", "o n", "r e", "a t", "n d",
    "\304\240 s", "o u", "in g", "\304\240 w", "\304\240a nd", "l l",
};

static const char *const control_tokens[3] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>" };

static const char *const chatml_template =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_UNUSED = 5 };

static bool is_printable(int byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
}

static void put_code_point(char *out, int code_point) /* below U+0800 */
{
    if (code_point < 128) {
        snprintf(out, 3, "%c", code_point);
    } else {
        snprintf(out, 3, "%c%c", 0xc0 | code_point >> 6, 0x80 | (code_point & 63));
    }
}

/* GPT-2's alphabet: printable bytes are themselves and come first, the 68 others follow from U+0100 on. */
static void byte_tokens(char (*text)[24] /* (256) */)
{
    int n = 0;
    for (int byte = 0; byte < 256; byte++)
        if (is_printable(byte)) put_code_point(text[n++], byte);
    for (int byte = 0, other = 0; byte < 256; byte++)
        if (!is_printable(byte)) put_code_point(text[n++], 256 + other++);
}

static void put_tokenizer(struct build *b)
{
    int n_vocab = b->opt.n_vocab;
    char(*text)[24] = kv_alloc((size_t)n_vocab, sizeof *text);
    const char **tokens = kv_alloc((size_t)n_vocab, sizeof *tokens);
    int32_t *types = kv_alloc((size_t)n_vocab, sizeof *types);
    if (text && tokens && types) {
        byte_tokens(text);
        for (int i = 0; i < 16; i++) {
            const char *space = strchr(merges[i], ' ');
            snprintf(text[256 + i], sizeof text[0], "%.*s%s", (int)(space - merges[i]), merges[i], space + 1);
        }
        for (int i = 0; i < 3; i++) snprintf(text[272 + i], sizeof text[0], "%s", control_tokens[i]);
        for (int i = TINY_VOCAB_MIN; i < n_vocab; i++) snprintf(text[i], sizeof text[0], "[PAD%d]", i);
        for (int i = 0; i < n_vocab; i++) {
            tokens[i] = text[i];
            types[i] = i < 272 ? TOKEN_NORMAL : i < TINY_VOCAB_MIN ? TOKEN_CONTROL : TOKEN_UNUSED;
        }
        gguf_put_str(b->w, "tokenizer.ggml.model", "gpt2");
        gguf_put_str(b->w, "tokenizer.ggml.pre", "gpt-2");
        gguf_put_strings(b->w, "tokenizer.ggml.tokens", tokens, (uint64_t)n_vocab);
        gguf_put_array(b->w, "tokenizer.ggml.token_type", KV_GGUF_I32, types, (uint64_t)n_vocab);
        gguf_put_strings(b->w, "tokenizer.ggml.merges", merges, 16);
        gguf_put_u32(b->w, "tokenizer.ggml.bos_token_id", TINY_TOKEN_ENDOFTEXT);
        gguf_put_u32(b->w, "tokenizer.ggml.eos_token_id", TINY_TOKEN_IM_END);
        gguf_put_u32(b->w, "tokenizer.ggml.padding_token_id", TINY_TOKEN_ENDOFTEXT);
        gguf_put_bool(b->w, "tokenizer.ggml.add_bos_token", false);
        gguf_put_str(b->w, "tokenizer.chat_template", chatml_template);
    } else {
        b->w->failed = true;
    }
    kv_free(text);
    kv_free(tokens);
    kv_free(types);
}

/* --- options --- */

static void fill_defaults(struct tiny_gguf_options *o)
{
    if (!o->arch) o->arch = "llama";
    if (o->n_layer == 0) o->n_layer = 2;
    if (o->n_embd == 0) o->n_embd = 64;
    if (o->n_head == 0) o->n_head = 4;
    if (o->n_head_kv == 0) o->n_head_kv = 2;
    if (o->head_dim == 0) o->head_dim = o->n_embd / o->n_head;
    if (o->n_ff == 0) o->n_ff = 128;
    if (o->n_vocab == 0) o->n_vocab = TINY_VOCAB_MIN;
    if (o->n_ctx == 0) o->n_ctx = 512;
    if (!(o->rope_freq_base > 0)) o->rope_freq_base = 10000;
    if (o->version == 0) o->version = 3;
}

static bool in_range(int value, int max)
{
    return value >= 1 && value <= max;
}

static kvant_status check_options(const struct tiny_gguf_options *o, const struct type_row *type,
                                  struct kvant_error *err)
{
    if (!type) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "weight_type %d: not one of TINY_...", o->weight_type);
    if (!in_range(o->n_layer, 256) || !in_range(o->n_embd, 8192) || !in_range(o->n_ff, 32768)
        || !in_range(o->n_ctx, 1 << 24))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_layer, n_embd, n_ff or n_ctx: too small or too large");
    if (!in_range(o->n_head, 256) || !in_range(o->n_head_kv, o->n_head) || o->n_head % o->n_head_kv != 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_head_kv %d must divide n_head %d", o->n_head_kv, o->n_head);
    if (!in_range(o->head_dim, 1024) || o->head_dim % 2 != 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "head_dim %d: must be even, 2 to 1024", o->head_dim);
    if (!in_range(o->n_vocab, 1 << 20) || (!o->no_tokenizer && o->n_vocab < TINY_VOCAB_MIN))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_vocab %d: at least %d with the tokenizer", o->n_vocab,
                TINY_VOCAB_MIN);
    if (o->n_embd % type->block != 0 || o->n_ff % type->block != 0 ||
        (o->n_head * o->head_dim) % type->block != 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "n_embd, n_ff and n_head * head_dim must be multiples of %d",
                type->block);
    if (o->key_bias_outlier != 0 && strcmp(o->arch, "qwen2") != 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "key_bias_outlier: architecture %s has no key bias, qwen2 has",
                o->arch);
    if (o->ends_at_once && o->tied_output)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "ends_at_once: not with tied_output");
    return KVANT_OK;
}

kvant_status tiny_gguf_build(struct gguf_writer *w, const struct tiny_gguf_options *opt,
                             struct kvant_error *err)
{
    struct build b = { .w = w, .opt = *opt, .type = find_type(opt->weight_type), .random = opt->seed };
    fill_defaults(&b.opt);
    KV_TRY(check_options(&b.opt, b.type, err));
    gguf_writer_begin(w, b.opt.version, b.opt.alignment);
    put_arch_keys(&b);
    if (!b.opt.no_tokenizer) put_tokenizer(&b);
    if (!b.opt.no_tensors) put_tensors(&b);
    kvant_status status = gguf_writer_finish(w, err);
    if (status != KVANT_OK) gguf_writer_free(w);
    return status;
}

kvant_status tiny_gguf_write(const char *path, const struct tiny_gguf_options *opt, struct kvant_error *err)
{
    struct gguf_writer w;
    KV_TRY(tiny_gguf_build(&w, opt, err));
    kvant_status status = kv_file_write(path, w.data, w.n_bytes, err);
    gguf_writer_free(&w);
    return status;
}
