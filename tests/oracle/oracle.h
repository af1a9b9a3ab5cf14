/*
 * The oracle: what the logits must be, computed a second time. A float forward pass of llama, mistral, qwen2
 * and qwen3 on one thread, with its own GGUF reader, its own dequantization and its own model of the
 * quantized cache. Tests use it and nothing else does; it shares no line with src/, so that a mistake must be
 * made twice to hide.
 *
 * Written from the papers (RMSNorm 1910.07467, RoPE 2104.09864, GQA 2305.13245, SwiGLU 2002.05202), the GGUF
 * specification and the drawing of sealing in cache/kv_layout.h. Plain and slow; its files are trusted. What
 * it cannot do is NULL or false with a message; memory that is short ends the program.
 */
#ifndef ORACLE_H
#define ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct oracle;

struct oracle_dims {
    int n_layer, n_head, n_head_kv, head_dim, n_embd, n_ff, n_vocab;
};

/* How one (layer, KV head) is stored. Groups of key_group tokens are counted from the sinks. */
struct oracle_recipe {
    int key_bits;          /* 2 3 4 8, or 16 = not quantized; unused when mixed                 */
    bool key_mixed;        /* each channel has its own width: oracle_cache.channel_bits         */
    int key_group;         /* 0 = per token, else per channel over 32 or 64 tokens              */
    bool key_centered, key_rotated;
    int value_bits;        /* 2 3 4 8 16; always per token                                      */
    int value_group;       /* channels that share a scale: 32, or 0 = the whole head            */
    bool value_rotated;
    bool key_short, value_short; /* scale and minimum in a byte each                            */
};

struct oracle_cache {
    const struct oracle_recipe *recipe; /* (n_layer, n_head_kv), or one for all when `uniform`             */
    bool uniform;
    int sinks, tail, granule;           /* with n tokens before it, a query reads [sinks, sinks + m)
                                         * quantized: m the largest multiple of granule that leaves `tail` of
                                         * them */
    const float *center;                /* (n_layer, n_head_kv, head_dim) before RoPE; for centred recipes */
    const uint8_t *channel_bits;        /* (n_layer, n_head_kv, head_dim) 8 4 3 2, or 0 = the group's mean;
                                         * for mixed recipes                                               */
};

/* What the caches are made of; each may be NULL. (n_layer, n_tokens, n_head_kv, head_dim) */
struct oracle_trace {
    float *k_raw;          /* before RoPE, after bias and norm */
    float *k, *v;          /* after RoPE, before any rounding  */
};

/* message: (cap) filled on failure. */
struct oracle *oracle_open(const char *path, char *message, size_t cap);
void oracle_close(struct oracle *o);
struct oracle_dims oracle_get_dims(const struct oracle *o);

/* Logits of rows [row_first, n) of the text: (n - row_first, n_vocab).
 * cache NULL: keys and values in float32. Otherwise all are rounded to float16 and the sealed ones quantized.
 * trace may be NULL. False with a message when a token is outside the vocabulary. */
bool oracle_forward(const struct oracle *o, const int32_t *tokens, int n, int row_first,
                    const struct oracle_cache *cache, float *logits, const struct oracle_trace *trace,
                    char *message, size_t cap);

/* x[0], x[step], ... (n of them, at most 256) through codes of `bits` and back. fitted: on the grid of
 * kvant's own recipes where it is used, up to 3 bits; otherwise between minimum and maximum. is_short: scale
 * and minimum in a byte each. */
void oracle_quantize(float *x, int n, int step, int bits, bool fitted, bool is_short);

/* Comparisons that tests share, all in double. */
double oracle_cosine(const float *a, const float *b, int n);
double oracle_max_difference(const float *a, const float *b, int n);
int oracle_top(const float *logits, int n);
double oracle_logsumexp(const float *logits, int n);
/* KL(base || other) in nats of two rows of logits. */
double oracle_kld(const float *base, const float *other, int n);

#endif
