/*
 * Tiny random models as GGUF files: real in every respect but their size and sense. The same seed gives the
 * same bytes.
 *
 *     struct tiny_gguf_options opt = { .arch = "qwen2", .weight_type = TINY_Q8_0, .key_bias_outlier = 100 };
 *     assert_int_equal(tiny_gguf_write(scratch_path(path, "tiny.gguf"), &opt, &err), KVANT_OK);
 *
 * Weights are normal with the deviation that keeps activations near 1 (1/sqrt(inputs); embedding and output
 * 3/sqrt(n_embd), so that logits spread like a trained model's); norm weights are near 1.
 *
 * The tokenizer is a byte-level gpt2 BPE: tokens 0..255 are the bytes (in the order of the printable
 * alphabet, as trained vocabularies have it), then one token per merge, then <|endoftext|>, <|im_start|>,
 * <|im_end|> (control), then [PADn] (unused) up to n_vocab. The chat template is ChatML.
 */
#ifndef TESTS_SUPPORT_TINY_GGUF_H
#define TESTS_SUPPORT_TINY_GGUF_H

#include "support/gguf_writer.h"

/* ggml type numbers that the writer can make. Matrices only: norms and biases are always F32. */
enum { TINY_F32 = 0, TINY_F16 = 1, TINY_Q4_0 = 2, TINY_Q4_1 = 3, TINY_Q8_0 = 8, TINY_BF16 = 30 };

struct tiny_gguf_options {
    const char *arch;      /* "llama" (default; mistral models are stored as this too), "qwen2" (with biases),
                            * "qwen3" (with q/k norms). Any other name is written as it is, with llama's
                            * tensors. */
    uint64_t seed;         /* 0 is a seed like any other */
    int weight_type;       /* TINY_...; quantized: n_embd, n_ff and n_head * head_dim are multiples of 32 */
    int n_layer;           /* 0 = 2 */
    int n_embd;            /* 0 = 64 */
    int n_head;            /* 0 = 4 */
    int n_head_kv;         /* 0 = 2; must divide n_head */
    int head_dim;          /* 0 = n_embd / n_head; even */
    int n_ff;              /* 0 = 128 */
    int n_vocab;           /* 0 = as many as the tokenizer has (TINY_VOCAB_MIN); more are padding */
    int n_ctx;             /* 0 = 512 */
    float rope_freq_base;  /* 0 = 10000 */
    float rope_linear;     /* 0 = none; otherwise rope.scaling.type "linear" and this factor */
    bool rope_llama3;      /* a rope_freqs.weight tensor: head_dim / 2 factors (8, 1, 4, context 128) */
    bool tied_output;      /* no output.weight: token_embd.weight is used twice */
    float key_bias_outlier; /* ± this is added to a quarter of the key-bias channels of layer 0; qwen2 only:
                             * the others have no key bias (ARGUMENT) */
    bool ends_at_once;     /* <|im_end|> is by far the likeliest token after any other;
                            * not with tied_output */
    bool no_tokenizer;     /* no tokenizer.* keys */
    bool no_tensors;       /* a vocabulary-only file */
    uint32_t version;      /* GGUF version; 0 = 3 */
    uint32_t alignment;    /* 0 = 32 */
};

#define TINY_VOCAB_MIN 275 /* 256 bytes + 16 merges + 3 control tokens */
enum { TINY_TOKEN_ENDOFTEXT = 272, TINY_TOKEN_IM_START = 273, TINY_TOKEN_IM_END = 274 };

/* The file in memory: w->data, w->n_bytes, and w->fields to damage it. On success the caller frees with
 * gguf_writer_free. Errors: ARGUMENT (names the field), MEMORY. */
kvant_status tiny_gguf_build(struct gguf_writer *w, const struct tiny_gguf_options *opt,
                             struct kvant_error *err);
/* The same, to a file. Errors: also IO. */
kvant_status tiny_gguf_write(const char *path, const struct tiny_gguf_options *opt, struct kvant_error *err);

#endif
