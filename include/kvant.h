/*
 * kvant.h: the public interface of kvant, and its manual.
 *
 * kvant runs GGUF language models on CPUs with a KV cache that is compressed layer by layer by a *plan*
 * (KVTuner, arXiv 2502.04420), and finds such plans.
 *
 *     model     weights, tokenizer, dimensions. Immutable after open; any number of threads may share it.
 *     plan      how each (layer, KV head) of a cache is stored. Immutable once parsed or loaded.
 *     session   sequences and their caches over one model. One thread at a time.
 *     sampler   chooses the next token from logits. One thread at a time.
 *     tune      searches plans; eval compares them with the 16-bit cache; sensitivity says what each layer
 *               makes of fewer bits.
 *     readers   embed pools a cache into vectors, score says how sure an answer is, router when to think
 *               (KV-Embedding, arXiv 2601.20326).
 *
 * examples/generate.c uses most of it. Conventions, which hold for every function below:
 *   - A function that can fail returns a status and takes `struct kvant_error *err` last. `err` may be NULL;
 *     if it is not, it is filled on failure and left alone on success. The library never exits, prints or
 *     keeps global state. Any call may fail with KVANT_ERR_MEMORY; below, MEMORY is named where a size
 *     decides it.
 *   - Options structs begin with their own size; initialise them with their ..._INIT macro. Zero in every
 *     other field is the documented default, and a NULL pointer to options means all defaults.
 *   - Other pointers must not be NULL where nothing says that they may be. Lists come as pointer and count.
 *   - Pointers returned by accessors are borrowed: they live as long as the object that they were asked of.
 *   - What an object was opened with must outlive it: a session's or template's model, a sequence's plan, a
 *     watch's router and session. Close functions accept NULL.
 *   - Output arrays come with a capacity; if it is too small, KVANT_ERR_SPACE is returned and `*n_out` is the
 *     size needed; the array's content is then undefined.
 *   - Threads: immutable objects may be used by any number of threads at once, a session or sampler by one.
 *     "Any thread" stands where a function has no object or only reads its own.
 *   - "page bits" counts codes, scales and minima per element; "true bits" all bytes of the cache (sinks,
 *     tail and centring tables too) per element at a stated number of tokens.
 */
#ifndef KVANT_H
#define KVANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVANT_VERSION "0.1.0"

#if defined(__GNUC__) && !defined(_WIN32)
#define KVANT_API __attribute__((visibility("default")))
#else
#define KVANT_API
#endif

/* ---------------------------------------------------------------------------------------------- errors -- */

typedef enum kvant_status {
    KVANT_OK = 0,
    KVANT_ERR_ARGUMENT,    /* a parameter or option is out of its documented range */
    KVANT_ERR_IO,          /* the operating system refused: no such file, disk full, permission */
    KVANT_ERR_FORMAT,      /* a file is damaged, truncated or not of the expected kind; `position`: where */
    KVANT_ERR_UNSUPPORTED, /* well-formed, but an architecture, tensor type, ... that this build lacks */
    KVANT_ERR_MEMORY,      /* an allocation failed, or would not fit */
    KVANT_ERR_SPACE,       /* the output array is too small; `*n_out` holds the size needed */
    KVANT_ERR_MISMATCH,    /* a plan or file belongs to another model */
    KVANT_ERR_FULL,        /* a sequence or the session has no room for more tokens */
    KVANT_ERR_NUMERIC,     /* NaN or infinity where a finite number is needed */
    KVANT_ERR_CANCELLED    /* a progress callback asked to stop */
} kvant_status;

#define KVANT_ERROR_CAP 512

struct kvant_error {
    kvant_status status;
    int64_t position;              /* byte offset in a file, or 1-based line; -1 when there is none */
    char message[KVANT_ERROR_CAP]; /* one line: what is wrong, where, and what to do */
};

/* The name of a status, such as "format". Never NULL. Any thread. */
KVANT_API const char *kvant_status_name(kvant_status status);

/* The version of the library that is running, such as "0.1.0". Any thread. */
KVANT_API const char *kvant_version(void);

/* Progress of a long call: `done` of `total` units, and what is being done. Return false to cancel; the call
 * then ends with KVANT_ERR_CANCELLED (or with the best result so far, where its text says so). */
typedef bool (*kvant_progress_fn)(void *user, const char *what, int64_t done, int64_t total);

/* ----------------------------------------------------------------------------------------------- model -- */

struct kvant_model;

typedef enum kvant_act {
    KVANT_ACT_INT16 = 0, /* activations as 15-bit integers per block of 32 (two int8 digits) before each
                          * matrix product. KLD to float32 about 1e-6 */
    KVANT_ACT_INT8 = 1,  /* 8-bit integers, as llama.cpp does: the fastest prompts, at a
                          * KLD of 6e-4 to 3e-3 */
    KVANT_ACT_F32 = 2,   /* float32 throughout: slow and exact, for checking */
    KVANT_ACT_MIXED = 3  /* the default: 8 bits, and 15 for blocks that are large beside their row (one in
                          * 15 to 30) and in the output head. Nearly the speed of INT8, at a KLD of 2e-4
                          * to 8e-4 on the models it was measured on. Which blocks those are depends on
                          * their own row alone */
} kvant_act;

/* "int16", "int8", "f32", "mixed". Never NULL. Any thread. */
KVANT_API const char *kvant_act_name(kvant_act act);

typedef enum kvant_attn {
    KVANT_ATTN_CODES = 0, /* over the codes of the cache, with queries and probabilities in 8 bits (15 against
                           * 8-bit codes): the default. What that rounding changes is below 2 % of the KLD of
                           * the plan itself (docs/attention.md) */
    KVANT_ATTN_F32 = 1    /* over keys and values expanded to float32: slow, for checking */
} kvant_attn;

struct kvant_model_options {
    size_t size;         /* set by the initialiser */
    int n_threads;       /* threads, the caller included; 0 = all cores this process may use; at most 256 */
    const char *cpu;     /* highest kernel level: "scalar", "avx2", "avx512" or "neon"; NULL = KVANT_CPU of
                          * the environment, or the best this CPU has */
    kvant_act act;       /* arithmetic of the matrix products. In each of them what a token gets is the same
                          * to the bit whatever else is in the step and however many threads there are */
    bool vocab_only;     /* load the tokenizer and metadata only; files without weights are then accepted */
    kvant_attn attn;     /* arithmetic of attention */
    bool no_repack;      /* keep to the mapped file. By default quantized matrices are copied once, at open
                          * and by all threads, into the order that the kernels read fastest, and the
                          * file's own pages of them are given back: about kvant_model_info.repacked_bytes
                          * of memory that the system cannot drop, for faster prompts and generation.
                          * Results are the same to the bit. Nothing is repacked with KVANT_ACT_F32 or at
                          * the level "scalar". */
    int n_threads_batch; /* threads of steps with more than one token (prompts, many sequences at once);
                          * 0 = n_threads; at most 256 */
};
#define KVANT_MODEL_OPTIONS_INIT \
    { sizeof(struct kvant_model_options), 0, NULL, KVANT_ACT_MIXED, false, KVANT_ATTN_CODES, false, 0 }

/* Opens a GGUF file (version 2 or 3). The file is mapped, and its quantized matrices are repacked (unless
 * no_repack says otherwise); it must not change while the model is open. `path` is copied. On success `*out`
 * is owned by the caller. Errors: IO, FORMAT (truncated or damaged), UNSUPPORTED (architecture, tensor type
 * or tokenizer, named in the message; a kernel level that this CPU lacks), ARGUMENT (options), MEMORY. On
 * failure `*out` is NULL. */
KVANT_API kvant_status kvant_model_open(struct kvant_model **out, const char *path,
                                        const struct kvant_model_options *opt, struct kvant_error *err);
KVANT_API void kvant_model_close(struct kvant_model *model);

/* What `kvant info` prints. Strings are borrowed from the model and never NULL. Of a model that was opened
 * with vocab_only, architecture is "" and all dimensions but n_vocab are 0. */
struct kvant_model_info {
    const char *path, *name, *architecture; /* name may be "" */
    const char *fingerprint;  /* "sha256:" + 64 hex digits over metadata, tensor directory and the first KiB
                               * of each tensor; identifies the model in plans */
    const char *tokenizer, *pre_tokenizer; /* "gpt2" | "llama", and tokenizer.ggml.pre or "" */
    const char *chat_format;  /* what the file's template looks like: "chatml", "llama3", "llama2",
                               * "mistral", "gemma", "phi3", "phi4", "zephyr", "deepseek", "jinja" (another),
                               * "none" (there is none) */
    const char *cpu;          /* kernel level in use */
    const char *quantization; /* the most frequent weight type by bytes, such as "Q4_1" */
    int n_layer, n_head, n_head_kv, head_dim, n_embd, n_ff, n_vocab, n_ctx_train, n_threads;
    int n_threads_batch;
    int64_t n_params;
    int64_t n_tensors;
    size_t weights_bytes, file_bytes; /* of all tensors; of the whole file */
    size_t repacked_bytes;    /* of the copy that repacking makes (see no_repack); 0: there is none to make */
    size_t mapped_bytes;      /* of tensors that are still read from the file beside that copy */
    bool repacked;            /* the copy was made */
    kvant_act act;
    kvant_attn attn;
};
KVANT_API void kvant_model_get_info(const struct kvant_model *model, struct kvant_model_info *out);

/* Number of tensors of weight type i (0-based, in the file's order of first appearance) and its name (static)
 * and bytes; false, and nothing written, when i is negative or there are fewer than i + 1 types. */
KVANT_API bool kvant_model_weight_type(const struct kvant_model *model, int i, const char **name,
                                       int64_t *n_tensors, size_t *bytes);

/* Biases of keys. Where a few channels of a layer have huge ones (Qwen2: up to 211 where 5 is usual), keys
 * quantized per token in 4 bits or fewer lose everything else, unless they are centred (m): docs/gate.md. A
 * layer or KV head is an outlier when the largest absolute value of its key bias exceeds 5 times the median
 * over the model's layers. Nothing is run for this: it is in the file. */
struct kvant_key_bias {
    float max;       /* largest absolute value */
    float norm;      /* Euclidean */
    bool is_outlier; /* max > 5 * kvant_model_key_bias_median */
};

/* Of one KV head, or with head_kv -1 of all heads of the layer together. False, and everything 0, when there
 * is no such layer or head, when the layer's keys have no bias, and with vocab_only. Any thread. */
KVANT_API bool kvant_model_key_bias(const struct kvant_model *model, int layer, int head_kv,
                                    struct kvant_key_bias *out);

/* Median of `max` over the layers (of an even number the lower one), those without key bias counting as 0.
 * Any thread. */
KVANT_API float kvant_model_key_bias_median(const struct kvant_model *model);

/* ------------------------------------------------------------------------------------------------ text -- */

typedef int32_t kvant_token;

enum {
    KVANT_TOKENIZE_BOS = 1,    /* put the model's BOS (and EOS) first (last) where the file asks for it; with
                                * KVANT_TOKENIZE_SPECIAL not before a text that begins with the BOS already */
    KVANT_TOKENIZE_SPECIAL = 2 /* text such as <|im_start|> becomes its control token */
};

/* Text to tokens. text: n_bytes bytes, need not be valid UTF-8 nor terminated. ids: capacity cap; may be NULL
 * with cap 0 to ask for the size. Errors: SPACE, MEMORY, ARGUMENT (text beyond 512 MiB). Any thread. */
KVANT_API kvant_status kvant_tokenize(const struct kvant_model *model, const char *text, size_t n_bytes,
                                      int flags, kvant_token *ids, size_t cap, size_t *n_out,
                                      struct kvant_error *err);

/* The bytes of tokens, concatenated, without a terminator; they may end inside a UTF-8 character. Control
 * tokens are left out unless `special`. SentencePiece puts a space before the text: it is dropped again when
 * ids[0] is the BOS, and stays otherwise, so that the pieces of an answer can be joined. text may be NULL
 * with cap 0 to ask for the size. Errors: SPACE, ARGUMENT (an id outside the vocabulary). Any thread. */
KVANT_API kvant_status kvant_detokenize(const struct kvant_model *model, const kvant_token *ids, size_t n_ids,
                                        bool special, char *text, size_t cap, size_t *n_out,
                                        struct kvant_error *err);

/* True for tokens that end an answer (EOS, EOT, <|im_end|>, ...). Any thread. */
KVANT_API bool kvant_token_is_end(const struct kvant_model *model, kvant_token id);

struct kvant_message {
    const char *role;    /* "system", "user" or "assistant" */
    const char *content; /* terminated; not NULL */
};

/* Renders a conversation with the model's own chat template, ending where the assistant begins when
 * `add_assistant`. With chat_format "none" the contents are joined by newlines. The text is to be tokenized
 * with KVANT_TOKENIZE_SPECIAL, and with KVANT_TOKENIZE_BOS too when it begins a sequence. `*n_out` counts its
 * bytes without a terminator; text[*n_out] is 0 if there is room for that (cap > *n_out). text may be NULL
 * with cap 0 to ask for the size. Errors: SPACE, ARGUMENT (another role; content that holds a control token:
 * it cannot forge one; a conversation that the template refuses, in its words), FORMAT and UNSUPPORTED (the
 * template itself, position: its line), MEMORY. Any thread. */
KVANT_API kvant_status kvant_chat_render(const struct kvant_model *model,
                                         const struct kvant_message *messages, size_t n_messages,
                                         bool add_assistant, char *text, size_t cap, size_t *n_out,
                                         struct kvant_error *err);

/* A chat template: Jinja (docs/templates.md says which part of it). Immutable; any number of threads may use
 * one. */
struct kvant_template;

/* source: NULL for the model's own, the name of a built-in one ("chatml", "llama3", "llama2", "mistral",
 * "gemma", "phi3", "phi4", "zephyr", "deepseek", "none"), or Jinja text, which is copied. The model must
 * outlive the template. On success `*out` is owned by the caller, else NULL. Errors: FORMAT (not Jinja;
 * position: the line), UNSUPPORTED (a tag, filter or test that is not built in: named, with its line),
 * MEMORY. */
KVANT_API kvant_status kvant_template_open(struct kvant_template **out, const struct kvant_model *model,
                                           const char *source, struct kvant_error *err);
KVANT_API void kvant_template_close(struct kvant_template *chat);

/* Renders. json: (n_bytes) an object in UTF-8 whose members are the template's variables: messages (as in the
 * OpenAI API), tools, add_generation_prompt, enable_thinking and whatever else the template asks for;
 * bos_token and eos_token are the model's unless given. Text as of kvant_chat_render, and so its errors;
 * FORMAT also: the JSON (position: the byte). No text of the object may hold a control token. */
KVANT_API kvant_status kvant_template_render(const struct kvant_template *chat, const char *json,
                                             size_t n_bytes, char *text, size_t cap, size_t *n_out,
                                             struct kvant_error *err);

/* kvant_chat_render with this template instead of the model's. */
KVANT_API kvant_status kvant_template_chat(const struct kvant_template *chat,
                                           const struct kvant_message *messages, size_t n_messages,
                                           bool add_assistant, char *text, size_t cap, size_t *n_out,
                                           struct kvant_error *err);

/* Its Jinja text, terminated and borrowed. Any thread. */
KVANT_API const char *kvant_template_source(const struct kvant_template *chat);

/* True when it mentions a variable, such as "tools" or "enable_thinking". Any thread. */
KVANT_API bool kvant_template_uses(const struct kvant_template *chat, const char *variable);

/* ------------------------------------------------------------------------------------------------ plan -- */

struct kvant_plan;

/* Reads a plan for `model` from a specification: a layer grammar ("k4c64v3h", "k8v4", "f16", "q8_0"), ranges
 * ("0:k8v4,1-29:k4v2"), settings after a semicolon ("k4tv4;sinks=0;tail=0"), or the name of a plan file
 * (YAML, or a KVTuner preset). docs/format-plan.md is the specification. A plan that asks for centring (m) or
 * channel classes (x) without carrying them must be calibrated before use: kvant_plan_calibrate. `spec` NULL
 * or "" or "default": a plan that is safe on any model, k4c64 v4h. On success `*out` is owned by the caller,
 * and independent of the model. Errors: FORMAT (position: the line of a file, the column of a specification),
 * MISMATCH (a file for another model), UNSUPPORTED, IO, ARGUMENT (a model opened with vocab_only), MEMORY. On
 * failure `*out` is NULL. */
KVANT_API kvant_status kvant_plan_open(struct kvant_plan **out, const struct kvant_model *model,
                                       const char *spec, struct kvant_error *err);
KVANT_API void kvant_plan_close(struct kvant_plan *plan);

/* True when the plan needs kvant_plan_calibrate before a sequence can use it. */
KVANT_API bool kvant_plan_needs_calibration(const struct kvant_plan *plan);

/* True when the plan stores the keys of an outlier KV head (kvant_model_key_bias) per token in 4 bits or
 * fewer and not centred: it will collapse. layers: those layers as in "0-2, 4, 8", terminated, cut to cap
 * bytes; may be NULL with cap 0. False for a plan of other dimensions. */
KVANT_API bool kvant_plan_keys_at_risk(const struct kvant_plan *plan, const struct kvant_model *model,
                                       char *layers, size_t cap);

/* Measures key means and channel importance on tokens (at most 8192 of them are read; NULL, 0: on 512 tokens
 * that the model writes itself from fixed seed prompts) and fills the plan in. Returns at once when the plan
 * needs nothing. Deterministic. The plan must not be in use by a session or another thread. `progress` may be
 * NULL. Errors: ARGUMENT (fewer tokens than the plan's sinks + 64), MISMATCH (dimensions), NUMERIC,
 * CANCELLED, MEMORY; the plan then still needs calibration. */
KVANT_API kvant_status kvant_plan_calibrate(struct kvant_plan *plan, const struct kvant_model *model,
                                            const kvant_token *tokens, size_t n_tokens,
                                            kvant_progress_fn progress, void *user, struct kvant_error *err);

/* The plan as a file. Written beside `path` and renamed, so that no partial file is ever seen. Errors: IO. */
KVANT_API kvant_status kvant_plan_save(const struct kvant_plan *plan, const char *path,
                                       struct kvant_error *err);

/* The plan as YAML text, terminated; `*n_out` counts the terminator. text may be NULL with cap 0. Errors:
 * SPACE. */
KVANT_API kvant_status kvant_plan_print(const struct kvant_plan *plan, char *text, size_t cap, size_t *n_out,
                                        struct kvant_error *err);

/* The recipe of one (layer, KV head) in the layer grammar, terminated, such as "k4c64 v3h"; 32 bytes are
 * enough. Errors: ARGUMENT (no such layer or head), SPACE. */
KVANT_API kvant_status kvant_plan_recipe(const struct kvant_plan *plan, int layer, int head_kv, char *text,
                                         size_t cap, struct kvant_error *err);

/* What the gate found about a plan (kvant_gate_judge; docs/gate.md). */
struct kvant_verdict {
    bool collapsed;
    double same_top_p; /* percent, of struct kvant_eval_result; NaN: not stated */
    double agreement;  /* percent, of struct kvant_trajectory_result; NaN: not stated */
    char reason[128];  /* one line: what is wrong; "" when nothing is */
};

/* Writes a verdict into the plan, to be saved with it; NULL takes it out. The plan must not be in use by
 * another thread; sequences of it may be open. */
KVANT_API void kvant_plan_set_verdict(struct kvant_plan *plan, const struct kvant_verdict *verdict);

/* The verdict that the plan carries. False, and nothing written: none. A plan that was read with other sinks
 * or tail than its file says carries only a verdict that it had collapsed. */
KVANT_API bool kvant_plan_get_verdict(const struct kvant_plan *plan, struct kvant_verdict *out);

/* True when the plan carries the verdict that it has collapsed: `kvant run`, `chat` and `serve` then refuse
 * it without --force. The library does not: a program that lets others choose plans asks here. text: one line
 * of why, with the numbers, terminated, cut to cap bytes; may be NULL with cap 0. */
KVANT_API bool kvant_plan_is_refused(const struct kvant_plan *plan, char *text, size_t cap);

/* Short name for tables: the grammar if one recipe holds for all, else the file's name or a range list.
 * Borrowed; never NULL. */
KVANT_API const char *kvant_plan_name(const struct kvant_plan *plan);

/* Exact memory of one sequence that is opened for n_tokens and full: what the allocator takes. Also for a
 * plan that is not calibrated yet. */
struct kvant_plan_memory {
    size_t total_bytes;     /* pages + sinks + tail; of one sequence */
    size_t page_bytes;      /* one page of 64 tokens, all layers */
    size_t pages_bytes;     /* all pages of the sequence */
    size_t exact_bytes;     /* sinks and tail */
    size_t tables_bytes;    /* centring tables and channel orders: once per plan, not per sequence */
    double page_bits;       /* per element, in a full page */
    double true_bits;       /* (total_bytes + tables_bytes) * 8 / elements, at n_tokens */
    double code_bits;       /* mean of key and value code bits: the paper's "equivalent precision" */
    double bytes_per_token; /* of a full page */
};
KVANT_API void kvant_plan_get_memory(const struct kvant_plan *plan, int64_t n_tokens,
                                     struct kvant_plan_memory *out);

/* --------------------------------------------------------------------------------------------- session -- */

struct kvant_session;

struct kvant_session_options {
    size_t size;
    int n_batch;     /* most tokens in one forward pass; longer steps are split; 0 = 512 */
    int n_logits;    /* most rows of logits kept from one step; 0 = 1 per sequence slot */
    int n_sequences; /* most sequences open at once; 0 = 16 */
};
#define KVANT_SESSION_OPTIONS_INIT { sizeof(struct kvant_session_options), 0, 0, 0 }

/* A session over `model`, which must outlive it. All scratch memory is taken here; steps allocate nothing. On
 * success `*out` is owned by the caller, else NULL. Closing it closes its sequences. Errors: ARGUMENT
 * (options, vocab_only), MEMORY (with the bytes asked). */
KVANT_API kvant_status kvant_session_open(struct kvant_session **out, const struct kvant_model *model,
                                          const struct kvant_session_options *opt, struct kvant_error *err);
KVANT_API void kvant_session_close(struct kvant_session *session);

/* Bytes of scratch that a session with these options takes, opened or not; of options that
 * kvant_session_open refuses, nothing that means anything. */
KVANT_API size_t kvant_session_scratch_bytes(const struct kvant_model *model,
                                             const struct kvant_session_options *opt);

/* Opens an empty sequence with room for n_tokens_max tokens under `plan` (borrowed until the sequence is
 * closed). `*seq` identifies it until it is closed, -1 on failure. More tokens than the model was trained for
 * are allowed. Errors: FULL (no slot), MEMORY (with the bytes asked), ARGUMENT (a plan that needs
 * calibration; n_tokens_max below 1), MISMATCH (a plan of other dimensions). */
KVANT_API kvant_status kvant_sequence_open(struct kvant_session *session, const struct kvant_plan *plan,
                                           int64_t n_tokens_max, int *seq, struct kvant_error *err);

/* Gives back the sequence's memory; its number may be given to another one. No such sequence: nothing
 * happens. */
KVANT_API void kvant_sequence_close(struct kvant_session *session, int seq);

/* A new sequence with the same tokens and room. Sealed pages are shared, a partly filled one is copied when
 * it is written. Errors: FULL (no slot), MEMORY, ARGUMENT (no such sequence, or one that failed). */
KVANT_API kvant_status kvant_sequence_fork(struct kvant_session *session, int seq, int *forked,
                                           struct kvant_error *err);

/* Drops all tokens from position n_tokens on. Rows of a sealed page that is cut re-enter the tail dequantized
 * and may be quantized again; `n_inexact_tail` in the statistics counts them. Errors: ARGUMENT (n_tokens
 * exceeds the length; no such sequence, or one that failed), MEMORY. */
KVANT_API kvant_status kvant_sequence_truncate(struct kvant_session *session, int seq, int64_t n_tokens,
                                               struct kvant_error *err);

struct kvant_sequence_stats {
    int64_t n_tokens, n_tokens_max;
    int64_t n_sealed;       /* tokens held in pages */
    int64_t n_exact;        /* sinks and tail */
    int64_t n_inexact_tail; /* rows of the tail that came back from a page by truncation */
    int64_t n_pages, n_pages_shared;
    size_t cache_bytes;     /* held now: pages + sinks + tail */
    bool failed;            /* a step ended with NUMERIC because of it: it can only be closed */
};

/* ARGUMENT when there is no such sequence. */
KVANT_API kvant_status kvant_sequence_get_stats(const struct kvant_session *session, int seq,
                                                struct kvant_sequence_stats *out);

/* Writes a sequence to a file (docs/format-kvcache.md): beside `path`, synchronised, then renamed, so that an
 * earlier file stays whole until the new one is. tokens: (n_tokens), exactly those that the sequence holds.
 * n_bytes: of the file; may be NULL. Errors: ARGUMENT (no such sequence, another number of tokens, a sequence
 * that failed), IO, MEMORY. */
KVANT_API kvant_status kvant_sequence_save(struct kvant_session *session, int seq, const kvant_token *tokens,
                                           size_t n_tokens, const char *path, size_t *n_bytes,
                                           struct kvant_error *err);

/* Opens a sequence of room n_tokens_max with what a file holds: bit by bit what was saved, so that it goes on
 * as it would have. tokens: capacity cap; `*n_out` of them. Errors: those of kvant_sequence_open, IO, FORMAT
 * (damaged, truncated or no such file; position: the byte), UNSUPPORTED (another version), MISMATCH (another
 * model or plan), SPACE (more tokens than cap or n_tokens_max). On failure *seq is -1. */
KVANT_API kvant_status kvant_sequence_restore(struct kvant_session *session, const struct kvant_plan *plan,
                                              int64_t n_tokens_max, const char *path, int *seq,
                                              kvant_token *tokens, size_t cap, size_t *n_out,
                                              size_t *n_bytes, struct kvant_error *err);

/* One token of one sequence. Tokens of the same sequence follow each other in order within a batch; sequences
 * may be of different plans and lengths. */
struct kvant_batch_entry {
    int seq;
    kvant_token token;
    bool want_logits;
};

/* Appends the entries to their sequences and computes logits for those that want them: row i of
 * kvant_session_logits is the i-th such entry. All entries are checked before anything is changed. The
 * results do not depend on the number of threads. n == 0 is allowed: no row of logits is left.
 * Errors, before any change: ARGUMENT (unknown sequence or token; a sequence that failed; n_logits exceeded),
 * FULL. NUMERIC: a sequence got keys or values that are not finite or that its plan cannot hold. The message
 * names the first such sequence and its layer; it can only be closed. The other sequences have their entries
 * of all forward passes (n_batch entries each) up to that one, and the passes after it are not run. */
KVANT_API kvant_status kvant_session_step(struct kvant_session *session,
                                          const struct kvant_batch_entry *entries, size_t n,
                                          struct kvant_error *err);

/* Row of logits of the last step, (n_vocab) float32, valid until the next step; NULL: no row i. */
KVANT_API const float *kvant_session_logits(const struct kvant_session *session, int i);

/* --------------------------------------------------------------------------------------------- sampler -- */

struct kvant_sampler;

struct kvant_sampler_options {
    size_t size;
    float temperature;    /* 0 = greedy: the largest logit, the lowest id among equals */
    int top_k;            /* 0 = off */
    float top_p;          /* 0 or 1 = off */
    float min_p;          /* 0 = off */
    float repeat_penalty; /* 0 or 1 = off; over the last 64 tokens */
    uint64_t seed;        /* the same seed gives the same tokens */
};
#define KVANT_SAMPLER_OPTIONS_INIT { sizeof(struct kvant_sampler_options), 0.0f, 0, 0.0f, 0.0f, 0.0f, 0 }

/* `*out` is owned by the caller, NULL on failure. opt NULL: greedy. The penalty comes first, then
 * top_k, top_p and min_p on the probabilities before the temperature, which applies last. Errors: ARGUMENT
 * (an option out of range), MEMORY. */
KVANT_API kvant_status kvant_sampler_open(struct kvant_sampler **out, int n_vocab,
                                          const struct kvant_sampler_options *opt, struct kvant_error *err);
KVANT_API void kvant_sampler_close(struct kvant_sampler *sampler);

/* Chooses a token from (n_vocab) logits, remembers it for the penalty, and gives its log-probability under
 * the unmodified logits if logprob is not NULL. A NaN counts as minus infinity. Takes from 0.5 ms (greedy,
 * top_k) to 3 ms (top_p alone) for a vocabulary of 152k. */
KVANT_API kvant_token kvant_sampler_next(struct kvant_sampler *sampler, const float *logits, float *logprob);

/* ------------------------------------------------------------------------------------------------ eval -- */

/* One plan against the 16-bit cache on the same tokens, error accumulation on (every position reads the
 * quantized cache of the positions before it). KLD: KL(16 bits || plan) over the whole vocabulary, in nats,
 * per scored position; a position where the plan has no finite logits counts as infinite. */
struct kvant_eval_result {
    double ppl, ppl_ratio; /* perplexity; divided by that of the 16-bit cache */
    double kld_mean, kld_median, kld_p99, kld_p999, kld_max; /* quantiles: .5, .99, .999 */
    double same_top_p;     /* percent of positions where both have the same likeliest token */
    double page_bits;      /* as in struct kvant_plan_memory, at the tokens of one chunk */
    double true_bits, bytes_per_token;
    int64_t n_scored;      /* positions */
};

struct kvant_eval_options {
    size_t size;
    int64_t n_ctx;    /* tokens per chunk; 0 = the smaller of 2048 and the model's context */
    int64_t n_chunks; /* most chunks; 0 = the whole text */
    kvant_progress_fn progress;
    void *user;
    /* Called with the logits of plans[0] (or of the 16-bit cache, if n_plans is 0): (n_rows, n_vocab),
     * in order of position, each chunk's first and last token included. NULL = none. Return false to
     * stop: CANCELLED. */
    bool (*on_logits)(void *user, const float *logits, int n_rows, int n_vocab);
};
#define KVANT_EVAL_OPTIONS_INIT { sizeof(struct kvant_eval_options), 0, 0, NULL, NULL, NULL }

/* The text is cut into chunks of n_ctx tokens, each on empty caches; every token but the first of each chunk
 * is scored, by the logits before it. plans: (n_plans), at most 511, calibrated; NULL with n_plans 0.
 * results: (n_plans). base: the 16-bit cache's own numbers, may be NULL. Memory beside the weights: the
 * caches of one chunk under all plans, some 200 MB of logits and scratch, and 9 bytes per plan and scored
 * position. A plan whose cache fails (NUMERIC of kvant_session_step) has collapsed: the rest of that chunk
 * counts as infinite KLD, and the other plans go on. Errors: ARGUMENT (options, fewer than 2 tokens, an
 * unknown token, a plan that needs calibration), MISMATCH, NUMERIC (the 16-bit cache itself fails, or
 * plans[0] while on_logits is set), CANCELLED, MEMORY. */
KVANT_API kvant_status kvant_eval_run(const struct kvant_model *model, const struct kvant_plan *const *plans,
                                      int n_plans, const kvant_token *tokens, size_t n_tokens,
                                      const struct kvant_eval_options *opt, struct kvant_eval_result *results,
                                      struct kvant_eval_result *base, struct kvant_error *err);

/* ----------------------------------------------------------------- trajectories, accuracy and the gate -- */

struct kvant_prompt {
    const kvant_token *tokens; /* (n_tokens), borrowed */
    size_t n_tokens;           /* at least 1 */
};

/* How long greedy generation under a plan says what the 16-bit cache says. The 16-bit trajectory of a prompt
 * is its n_predict greedy tokens, fewer when the model ends; the end is then a token like any other. */
struct kvant_trajectory_result {
    double agreement;    /* percent: tokens before the first difference / tokens of the 16-bit trajectory,
                          * mean over the prompts. Small models part at the first near-tie: 20 to 60 is usual
                          * for a good plan, 0 to 3 for one that has collapsed (docs/gate.md) */
    double identical;    /* percent of the prompts whose trajectories are the same to the end */
    double first_median; /* median position of the first difference (length where there is none) */
    int64_t n_prompts;
    int64_t n_tokens;    /* of all 16-bit trajectories */
    int64_t n_failed;    /* prompts after which the plan's numbers were not finite */
};

struct kvant_trajectory_options {
    size_t size;
    int n_predict;   /* tokens of each trajectory; 0 = 64 */
    int n_sequences; /* generated at once, 1 to 256; 0 = 16 */
    kvant_progress_fn progress;
    void *user;
};
#define KVANT_TRAJECTORY_OPTIONS_INIT { sizeof(struct kvant_trajectory_options), 0, 0, NULL, NULL }

/* Prompts cut from a text at even distances: `*n_out` of them, at most cap, of n_each tokens; they do not
 * overlap. They point into tokens. None when the text is shorter than n_each or n_each is 0. */
KVANT_API void kvant_trajectory_prompts(const kvant_token *tokens, size_t n_tokens, size_t n_each,
                                        struct kvant_prompt *prompts, size_t cap, size_t *n_out);

/* Generates after every prompt under the 16-bit cache and every plan, all in one batch. A prompt should be
 * longer than sinks + tail + 64 tokens: what is shorter is exact. plans: (n_plans), calibrated. results:
 * (n_plans). first: (n_plans, n_prompts), position of each first difference, or the length of the 16-bit
 * trajectory when there is none; may be NULL. Deterministic; no plan's result depends on the others. Memory
 * beside the weights: the caches of n_sequences texts, and 4 bytes per token that is generated. Errors:
 * ARGUMENT (options; an empty or unknown prompt; a plan that needs calibration), MISMATCH, NUMERIC (the
 * 16-bit cache itself fails), CANCELLED, MEMORY. */
KVANT_API kvant_status kvant_trajectory_run(const struct kvant_model *model,
                                            const struct kvant_plan *const *plans, int n_plans,
                                            const struct kvant_prompt *prompts, size_t n_prompts,
                                            const struct kvant_trajectory_options *opt,
                                            struct kvant_trajectory_result *results, int *first,
                                            struct kvant_error *err);

typedef enum kvant_answer_kind {
    KVANT_ANSWER_NUMBER = 0, /* the last number of the text, as "flexible-extract" of lm-evaluation-harness
                              * finds it ($ and "," dropped), compared as a number: 18.0 is 18 */
    KVANT_ANSWER_LETTER = 1, /* the first capital letter A to Z that stands alone, as in " B" or "(B)" */
    KVANT_ANSWER_CHOICE = 2, /* of a text that argues: the first such letter behind the last "answer is" or
                              * "answer:", in whatever case; without one of these the last such letter; never
                              * I, nor an article A */
    KVANT_ANSWER_AUTO = 3    /* CHOICE where the right answer is one capital letter, else NUMBER */
} kvant_answer_kind;

#define KVANT_ANSWER_CAP 64

/* The answer in text[0, n) by the rule of its kind, and whether it is the right one (terminated; an answer of
 * that kind is looked for in it too). found: (KVANT_ANSWER_CAP) what was found in one form for equal answers,
 * "" for none; may be NULL. False too when `right` holds no answer. Threads: any. */
KVANT_API bool kvant_answer_check(kvant_answer_kind kind, const char *text, size_t n, const char *right,
                                  char *found);

struct kvant_question {
    const kvant_token *tokens;  /* (n_tokens), the whole prompt; borrowed */
    size_t n_tokens;
    const char *answer;         /* the right one, terminated: "72", "$1,250.50" or "#### 72"; "B" */
    const kvant_token *choices; /* (n_choices) one token each, such as " A" to " E": the answer is the
                                 * likeliest of these after the prompt, whatever else were likelier;
                                 * borrowed. NULL: any text */
    size_t n_choices;
};

struct kvant_answer {      /* borrowed during the call */
    const char *text;      /* (n_bytes) what was generated, up to the first stop string; terminated */
    size_t n_bytes;
    const char *extracted; /* the number or letter found in it; "" when there is none */
    bool is_correct;
    int n_tokens;          /* generated */
};

struct kvant_accuracy_result {
    double accuracy;       /* percent */
    double low, high;      /* its 95 % interval (Wilson), percent */
    int64_t n, n_correct;  /* questions */
    int64_t n_unanswered;  /* nothing to compare was found in the text */
    int64_t n_failed;      /* the plan's numbers were not finite: counted as wrong */
    int64_t n_tokens;      /* generated */
    int64_t n_lost, n_won; /* right with 16 bits alone; right with the plan alone */
    double p_value;        /* of n_lost and n_won if both were equally likely (McNemar, exact, two-sided) */
};

struct kvant_accuracy_options {
    size_t size;
    kvant_answer_kind kind;
    int n_predict;            /* most tokens of an answer; 0 = 256 */
    int n_sequences;          /* answered at once, 1 to 256; 0 = 16 */
    const char *const *stops; /* (n_stops) an answer ends before any of these, such as "Question:" */
    int n_stops;
    bool no_base;             /* leave the 16-bit cache out: n_lost and n_won are then 0, p_value is NaN */
    kvant_progress_fn progress;
    void *user;
    /* Called at the end for each answer, in order; those of the 16-bit cache come first, with plan
     * -1. May be NULL. */
    void (*on_answer)(void *user, int plan, size_t question, const struct kvant_answer *answer);
};
#define KVANT_ACCURACY_OPTIONS_INIT \
    { sizeof(struct kvant_accuracy_options), KVANT_ANSWER_NUMBER, 0, 0, NULL, 0, false, NULL, NULL, NULL }

/* Answers every question greedily under the 16-bit cache and every plan, all in one batch, and compares with
 * the right answers. What all questions begin with (the examples of a few-shot prompt) is read once per plan.
 * A question with choices is answered by comparing their probabilities: nothing is written, and the likeliest
 * choice is marked as if it had been. results: (n_plans); base: of the 16-bit cache, may be NULL.
 * Deterministic; no plan's result depends on the others. Memory as for kvant_trajectory_run. Errors: ARGUMENT
 * (options; an empty or unknown prompt or choice; a right answer in which there is none, position: the
 * question; a plan that needs calibration), MISMATCH, NUMERIC (the 16-bit cache itself fails), CANCELLED,
 * MEMORY. */
KVANT_API kvant_status kvant_accuracy_run(const struct kvant_model *model,
                                          const struct kvant_plan *const *plans, int n_plans,
                                          const struct kvant_question *questions, size_t n_questions,
                                          const struct kvant_accuracy_options *opt,
                                          struct kvant_accuracy_result *results,
                                          struct kvant_accuracy_result *base, struct kvant_error *err);

struct kvant_gate {
    size_t size;
    double min_same_top_p; /* percent; 0 = the default, 80 */
    double min_agreement;  /* percent; 0 = the default, 2.5 */
};
#define KVANT_GATE_INIT { sizeof(struct kvant_gate), 0.0, 0.0 }

/* Collapsed: the mean KLD is not finite, or more than 100 - min_same_top_p percent of the positions have
 * another likeliest token than with 16 bits, or the trajectories agree for less than min_agreement, or one of
 * them failed. gate NULL: the defaults. trajectory NULL: not measured. */
KVANT_API void kvant_gate_judge(const struct kvant_gate *gate, const struct kvant_eval_result *measured,
                                const struct kvant_trajectory_result *trajectory, struct kvant_verdict *out);

/* ------------------------------------------------------------------------------------------------ tune -- */

/* Text of the model's own making from fixed seed prompts, for calibration without data: n_wanted tokens, 1 to
 * 2^20 (fewer if the model ends its texts), into tokens of capacity cap >= n_wanted. Deterministic.
 * Errors: ARGUMENT, SPACE, CANCELLED, MEMORY, those of a session. */
KVANT_API kvant_status kvant_tune_text(const struct kvant_model *model, size_t n_wanted, kvant_token *tokens,
                                       size_t cap, size_t *n_out, kvant_progress_fn progress, void *user,
                                       struct kvant_error *err);

typedef enum kvant_tune_method {
    KVANT_TUNE_KVANT = 0,  /* measured heads, exact allocation, measured refinement (docs/tuning.md) */
    KVANT_TUNE_KVTUNER = 1 /* the published method: groups of layers, evolutionary search (docs/kvtuner.md) */
} kvant_tune_method;

struct kvant_tune_options {
    size_t size;
    kvant_tune_method method;
    const double *budgets;      /* (n_budgets) true bits at n_ctx tokens, 1 to 32, ascending */
    int n_budgets;              /* at most 32; 0 = the default 2.5 2.75 3 3.25 3.5 4 5, those
                                 * that a plan can meet */
    double max_kld;             /* > 0: also the cheapest plan found within this mean KLD on
                                 * the held-back text */
    int64_t n_ctx;              /* where true bits are stated; 0 = the smaller of 8192 and the model's */
    int tail;                   /* exact last tokens of every plan, 0 to 1024; -1: what pays at n_ctx: 32,
                                 * from 4096 on 64, from 8192 on 128 */
    int64_t n_tokens;           /* most tokens to tune on, 68 to 65536; 0 = 98304 / (n_layer · n_head_kv),
                                 * but 1024 to 4096; KVTUNER: 1024. Of a text that is shorter than these and
                                 * 512 that plans are measured on: all but those, or half if that is more */
    bool no_mix;                /* no channel classes (x) */
    bool by_layer;              /* one recipe for all KV heads of a layer, as in the paper */
    bool refine;                /* also local search by measured swaps: up to 45 more plans for each budget */
    bool kivi;                  /* KVTUNER: keys per channel and values in groups of 32, as in
                                 * KIVI; else per token */
    bool nsga2;                 /* KVTUNER: NSGA-II, as the released code, instead of MOEA/D, as the paper */
    int n_trials;               /* KVTUNER: plans measured in each of its two runs, 1 to 10000; 0 = 200 */
    uint64_t seed;              /* KVTUNER: the same seed, the same plans */
    const char *store;          /* file that every measurement is written to
                                 * (docs/format-trials.md); NULL = none */
    bool resume;                /* continue with a store that holds measurements: they are not made again */
    /* KVTUNER: (n_questions) the search maximises the accuracy with these instead of minimising the
     * KLD on the text; the first 20 are its prompts, too. NULL = the KLD. Never those that the
     * plans are judged by */
    const struct kvant_question *questions;
    size_t n_questions;
    const struct kvant_accuracy_options *asking; /* with questions: kind, n_predict (at least 1), stops */
    int rank, n_ranks;          /* several processes search together: 0 to n_ranks - 1 of n_ranks, at most
                                 * 4096; n_ranks 0 or 1: alone. All get the same options, model and text, and
                                 * the same result. Only rank 0 uses the store */
    /* with n_ranks > 1: called in all processes alike, replaces values by their sums over the processes
     * (MPI_Allreduce); false: they cannot be reached */
    bool (*sum)(void *user, double *values, size_t n);
    void *sum_user;
    kvant_progress_fn progress; /* false ends the search: with the plans measured so far if there are any,
                                 * else with CANCELLED */
    void *user;
};
#define KVANT_TUNE_TAIL_MAX 1024
#define KVANT_TUNE_OPTIONS_INIT                                                                         \
    { sizeof(struct kvant_tune_options), KVANT_TUNE_KVANT, NULL, 0, 0.0, 0, -1, 0, false, false, false, \
      false, false, 0, 0, NULL, false, NULL, 0, NULL, 0, 0, NULL, NULL, NULL, NULL }

typedef enum kvant_tune_source {
    KVANT_TUNE_FROM_UNIFORM = 0, /* a strong uniform recipe, listed for comparison */
    KVANT_TUNE_FROM_KVANT,
    KVANT_TUNE_FROM_KVTUNER
} kvant_tune_source;

struct kvant_tune_point {
    struct kvant_plan *plan;      /* owned by the result */
    struct kvant_eval_result measured; /* on at most 1024 held-back tokens; bits at the options' n_ctx */
    double budget;                /* that it was made for; NaN: for none */
    double kld_predicted;         /* sum of the KLDs of single heads; NaN: not predicted */
    double kld_tuning;            /* measured on the tuning text, over tokens of probability >= 1e-6 with
                                   * the 16-bit cache; NaN: was not */
    double accuracy;              /* percent, with the options' questions; NaN: without */
    kvant_tune_source source;
    bool dominated;               /* another point is no larger and no worse */
    struct kvant_verdict verdict; /* of the gate, also in the plan; agreement NaN: of the dominated */
};

/* What each choice costs in one KV head: KLD at the logits with this side of this head alone stored so,
 * scaled so that the heads' sum is the KLD with this side of all heads stored so. */
struct kvant_tune_heads {
    int n_layer, n_head_kv, n_choices;
    const char *const *choices; /* (n_choices) such as "k3c64xm", in ascending size */
    const double *kld;          /* (n_layer, n_head_kv, n_choices); measured, or read off between */
};

struct kvant_tune_result {
    struct kvant_tune_point *points; /* (n_points) ascending in true bits */
    size_t n_points;
    struct kvant_tune_heads keys, values; /* kld NULL after KVANT_TUNE_KVTUNER */
    int64_t n_ctx;               /* where true bits are stated */
    int64_t n_tokens, n_tokens_verify; /* tuned on, measured on */
    bool own_text;               /* of the model's own making */
    int64_t n_measured, n_known; /* plans, probes of single heads included; known: from the store */
    double smallest_bits;        /* true bits of the smallest plan there is */
    bool interrupted;            /* the progress callback ended the search early */
};

/* Finds plans for the budgets: calibrates, measures the KLD of single KV heads on the first part of the text,
 * allocates bits to the keys and values of all heads exactly under the assumption that those add up, refines
 * by measured swaps if asked to, and measures every plan as a whole, beside the strong uniform recipes, on
 * the tokens after that part. KVANT_TUNE_KVTUNER instead measures the errors e_o of each layer, prunes and
 * groups, searches twice (below 4 and below 6 equivalent bits) for plans of least KLD on the tuning text, or
 * of most right answers to questions, and lists its front; budgets and max_kld do not apply. Equal plans are
 * listed once. tokens: at least 136; NULL: text of the model's own making, n_tokens + 1024 of them. A model
 * that was opened with KVANT_ACT_MIXED or _INT8 is tuned in KVANT_ACT_INT16: the noise of 8 bits is larger
 * than what most heads cost. `*out` is owned by the caller, NULL on failure. Errors: ARGUMENT (a budget below
 * the smallest plan names it), CANCELLED, NUMERIC (the 16-bit cache itself fails), MEMORY; with several
 * processes: IO (they cannot be reached), MISMATCH (they compute different numbers), CANCELLED (another one
 * stopped); of the store: IO (also: another process uses it), FORMAT, UNSUPPORTED, MISMATCH (another
 * model's), ARGUMENT (it holds measurements and resume is not set). What had been measured is kept in it. */
KVANT_API kvant_status kvant_tune_run(const struct kvant_model *model, const kvant_token *tokens,
                                      size_t n_tokens, const struct kvant_tune_options *opt,
                                      struct kvant_tune_result **out, struct kvant_error *err);
KVANT_API void kvant_tune_close(struct kvant_tune_result *result);

/* ----------------------------------------------------------------------------------------- sensitivity -- */

/* What quantization of one layer does to that layer's own attention, measured as in KVTuner (arXiv
 * 2502.04420, section 3.2 and appendix B; docs/sensitivity.md): the model answers prompts with the 16-bit
 * cache; keys and values of prompt and answer are then quantized and read by the queries of the answer, layer
 * by layer, with no error handed on. The reference is the 16-bit cache: keys (after RoPE) and values in
 * float16. */

#define KVANT_SENSITIVITY_BITS 4 /* code bits 2, 3, 4 and 8, in this order, of keys and of values */

typedef enum kvant_sensitivity_mode {
    /* k<b>t v<b>: a token row of one KV head is one group, everything is quantized, a query's own row too */
    KVANT_SENSITIVITY_PER_TOKEN = 0,
    KVANT_SENSITIVITY_KIVI = 1, /* k<b>c32 v<b>g32 as in KIVI with a residual of 32: a query at position t
                                 * reads quantized keys below t - t mod 32 and values below t - 32, and exact
                                 * ones from there on. Values in groups of the whole head where its size is
                                 * no multiple of 32 */
    KVANT_SENSITIVITY_KVANT = 2 /* k<b>c64m v<b>h, 4 sinks and a tail of 32, sealed as the cache does */
} kvant_sensitivity_mode;
#define KVANT_SENSITIVITY_MODES 3

/* "per-token", "kivi", "kvant". Never NULL. Any thread. */
KVANT_API const char *kvant_sensitivity_mode_name(kvant_sensitivity_mode mode);

struct kvant_sensitivity_options {
    size_t size;
    unsigned modes;                 /* set of 1u << mode; 0 = all */
    int n_prompts;                  /* most prompts used, 1 to 1024; 0 = 20 */
    int n_predict;                  /* most tokens of each greedy answer, 1 to 4096; 0 = 64 */
    bool channels;                  /* fill in `importance` too */
    const char *const *kld_recipes; /* (n_kld_recipes) layer grammar, such as "k2c64m v16": measure the KLD at
                                     * the logits with one layer at a time so and all else in 16 bits */
    int n_kld_recipes;              /* at most 8; one pass over 512 tokens per layer and recipe */
    kvant_progress_fn progress;
    void *user;
};
#define KVANT_SENSITIVITY_OPTIONS_INIT \
    { sizeof(struct kvant_sensitivity_options), 0, 0, 0, false, NULL, 0, NULL, NULL }

/* Errors of one layer in one mode. Relative errors are L1 ratios |x - x^|1 / |x|1 of one unit: a token row of
 * one KV head (e_k, e_v), the output of one query of one query head (e_o). Averaged over heads, then over
 * tokens, then over prompts. NaN: no unit (prompts so short that the mode quantizes nothing). */
struct kvant_sensitivity_errors {
    double e_k[KVANT_SENSITIVITY_BITS]; /* by key bits: quantized key rows */
    double e_v[KVANT_SENSITIVITY_BITS]; /* by value bits: quantized value rows */
    /* by key bits: mean of |a - a^| over a query's attention weights; absolute, so it shrinks
     * with the context */
    double e_a[KVANT_SENSITIVITY_BITS];
    /* by key bits, value bits: attention output, before the output projection */
    double e_o[KVANT_SENSITIVITY_BITS][KVANT_SENSITIVITY_BITS];
    int64_t n_skipped; /* units without a ratio, because |x|1 is 0 */
};

/* The same of one query head. */
struct kvant_sensitivity_head_errors {
    double e_a[KVANT_SENSITIVITY_BITS];
    double e_o[KVANT_SENSITIVITY_BITS][KVANT_SENSITIVITY_BITS];
};

/* The attention of one query head over the 16-bit cache: means over the queries, then over the prompts. */
struct kvant_sensitivity_head {
    double entropy;          /* nats */
    double entropy_relative; /* divided by log of the number of positions: 0 to 1 */
    double top8;             /* attention on the 8 positions that get most */
};

struct kvant_sensitivity_prompt {
    int64_t n_prompt, n_queries; /* tokens of the prompt and of its answer; an answer of 0
                                  * tokens adds nothing */
};

struct kvant_sensitivity {
    int n_layer, n_head, n_head_kv, head_dim, n_predict;
    bool own_text;               /* the prompts are of the model's own making */
    int n_prompts;
    const struct kvant_sensitivity_prompt *prompts; /* (n_prompts) */
    int64_t n_tokens, n_queries; /* of all prompts with an answer; answers alone */
    /* (n_layer); NULL: mode not asked */
    const struct kvant_sensitivity_errors *errors[KVANT_SENSITIVITY_MODES];
    const struct kvant_sensitivity_head_errors *head_errors[KVANT_SENSITIVITY_MODES]; /* (n_layer, n_head) */
    /* share of the positions that queries read which each mode quantizes; 0: mode not asked */
    double quantized_keys[KVANT_SENSITIVITY_MODES], quantized_values[KVANT_SENSITIVITY_MODES];
    const struct kvant_sensitivity_head *heads; /* (n_layer, n_head) */
    const double *importance;    /* (n_layer, n_head_kv, head_dim) of each key channel: what an error of one
                                  * quantization step costs. The geometric mean of E[q^2] E[range^2] and of
                                  * E[q^2 range^2] weighted by attention (the sum of p (1 - p) over a block);
                                  * centred keys, blocks of 64 tokens; NULL unless asked for */
    int n_kld;
    int64_t n_kld_tokens;
    const double *kld;           /* (n_layer, n_kld) in nats; NULL unless asked for */
};

/* prompts: (n_prompts) at least 1; NULL: 20 pieces of 96 tokens of the model's own text. They are copied.
 * `*out` is owned by the caller, NULL on failure. Mode KVANT, `channels` and `kld_recipes` need 68 tokens in
 * all, for calibration. Deterministic, whatever the number of threads. A model that was opened with
 * KVANT_ACT_INT8 is run in KVANT_ACT_INT16. Memory beside the weights: 16-bit caches of up to 16 prompts at a
 * time (256 MiB, or one prompt); queries, keys and values of one prompt; keys of 512 tokens; and for each
 * thread, with T tokens of the longest prompt and its answer, about 60 T head_dim + 28 T n_predict bytes
 * (T = 164, head_dim = 64: 1.5 MB). Errors: ARGUMENT (options, no or empty prompts, a token outside the
 * vocabulary, no answer at all, too few tokens, vocab_only), FORMAT (a recipe), NUMERIC (keys or values that
 * are not finite or beyond float16), CANCELLED, MEMORY. */
KVANT_API kvant_status kvant_sensitivity_run(struct kvant_sensitivity **out, const struct kvant_model *model,
                                             const struct kvant_prompt *prompts, size_t n_prompts,
                                             const struct kvant_sensitivity_options *opt,
                                             struct kvant_error *err);
KVANT_API void kvant_sensitivity_close(struct kvant_sensitivity *sensitivity);

/* ----------------------------------------------------------------------------------------------- embed -- */

/* Embeddings from the cache (KV-Embedding, arXiv 2601.20326; docs/embeddings.md): keys and values of a text,
 * pooled over tokens, KV heads and layers. They are read from sinks, pages and tail as they are stored, over
 * the codes. */

typedef enum kvant_embed_source {
    KVANT_EMBED_KV = 0,
    KVANT_EMBED_HIDDEN = 1, /* control: the outputs of the blocks, before any norm, pooled alike;
                             * needs a forward pass */
    KVANT_EMBED_RANDOM = 2  /* control: N(0, 1) of the same size, seed 42 + the prompt's index */
} kvant_embed_source;

typedef enum kvant_embed_part {
    KVANT_EMBED_KEYS_VALUES = 0,
    KVANT_EMBED_KEYS = 1,
    KVANT_EMBED_VALUES = 2
} kvant_embed_part;

typedef enum kvant_embed_tokens {
    KVANT_EMBED_TOKENS_MEAN = 0,
    KVANT_EMBED_TOKENS_LAST = 1,
    KVANT_EMBED_TOKENS_FIRST = 2,
    KVANT_EMBED_TOKENS_SUM = 3
} kvant_embed_tokens;

typedef enum kvant_embed_heads {
    KVANT_EMBED_HEADS_FLATTEN = 0,
    KVANT_EMBED_HEADS_MEAN = 1
} kvant_embed_heads;

typedef enum kvant_embed_layers {
    KVANT_EMBED_LAYERS_MEAN = 0,
    KVANT_EMBED_LAYERS_SUM = 1,
    KVANT_EMBED_LAYERS_FLATTEN = 2,
    KVANT_EMBED_LAYERS_LAST = 3 /* the last of those chosen */
} kvant_embed_layers;

struct kvant_embed_options {
    size_t size;
    kvant_embed_source source;
    kvant_embed_part part;
    kvant_embed_tokens tokens;
    kvant_embed_heads heads;
    kvant_embed_layers layers;
    int layer_first, layer_last; /* layers [first, last) of the model; last 0 = its number of layers; a
                                  * negative first counts from there: -4, 0 are the last four. 0, 0: all */
    /* tokens [first, last) of the sequence; last 0 = its length; negative ones count from there: -32, 0 are
     * the last 32, or all of a shorter text */
    int64_t token_first, token_last;
    bool before_rope;            /* keys turned back to position 0, so that their mean does not depend on
                                  * where a text stands; false: as the cache holds them */
    bool by_side;                /* all keys before all values, instead of each head's keys
                                  * before its values */
    bool not_normalized;         /* false: Euclidean length 1 */
    kvant_progress_fn progress;  /* of kvant_embed_prompts */
    void *user;
};
#define KVANT_EMBED_OPTIONS_INIT                                                                      \
    { sizeof(struct kvant_embed_options), KVANT_EMBED_KV, KVANT_EMBED_KEYS_VALUES,                    \
      KVANT_EMBED_TOKENS_MEAN, KVANT_EMBED_HEADS_FLATTEN, KVANT_EMBED_LAYERS_MEAN, 0, 0, 0, 0, false, \
      false, false, NULL, NULL }

/* Elements of an embedding: (2 or 1 parts) x (n_head_kv, or 1 with HEADS_MEAN) x head_dim x (the number of
 * layers with LAYERS_FLATTEN, else 1); n_embd x (...) of HIDDEN. opt NULL: the defaults. ARGUMENT: an option
 * out of range (named). */
KVANT_API kvant_status kvant_embed_dim(const struct kvant_model *model, const struct kvant_embed_options *opt,
                                       size_t *n_out, struct kvant_error *err);

/* The embedding of what a sequence holds now, without a forward pass. out: (dim), capacity cap. Order: layer,
 * head, key before value, channel. Takes no memory but a page of one head per thread. Errors: SPACE; ARGUMENT
 * (no such sequence, one that failed or is empty; options, HIDDEN among them; a range that holds no token);
 * NUMERIC (a result of length 0 or not finite, which cannot be normalized); MEMORY. */
KVANT_API kvant_status kvant_embed_sequence(struct kvant_session *session, int seq,
                                            const struct kvant_embed_options *opt, float *out, size_t cap,
                                            size_t *n_out, struct kvant_error *err);

/* The embeddings of n prompts, each in a sequence of its own under `plan`, several in one step: as many as
 * the session's n_batch and free sequences allow. Each is the same, bit by bit, whatever stands beside it.
 * out: (n, dim), capacity cap. The session's open sequences are left alone. Errors as above; also ARGUMENT
 * with the prompt's index as position (an empty prompt; a token outside the vocabulary), FULL (no free
 * sequence), CANCELLED. */
KVANT_API kvant_status kvant_embed_prompts(struct kvant_session *session, const struct kvant_plan *plan,
                                           const struct kvant_prompt *prompts, size_t n_prompts,
                                           const struct kvant_embed_options *opt, float *out, size_t cap,
                                           size_t *n_out, struct kvant_error *err);

/* Keys and values of tokens [token_first, token_last) of a sequence in float32, as attention reads them: out
 * (n_layer, 2, n tokens, n_head_kv, head_dim), keys first, capacity cap elements. Errors: SPACE, ARGUMENT,
 * MEMORY. */
KVANT_API kvant_status kvant_sequence_read(struct kvant_session *session, int seq, int64_t token_first,
                                           int64_t token_last, bool before_rope, float *out, size_t cap,
                                           size_t *n_out, struct kvant_error *err);

/* ----------------------------------------------------------------------------------------------- score -- */

/* Confidence in an answer (docs/confidence.md): Chain-of-Embedding, how far and how crookedly vectors run
 * from the first to the last one,
 *     Mag_i = |h_i+1 - h_i| / |h_n - h_0|,  Ang_i = acos(cos(h_i+1, h_i)) / acos(cos(h_n, h_0))
 *     R = mean Mag - mean Ang,  C = sqrt(mean(Mag cos Ang)^2 + mean(Mag sin Ang)^2)
 * and what the logits say. Higher R and C: more likely right. */
struct kvant_coe {
    double r, c;     /* NaN unless is_defined */
    double mag, ang; /* means of Mag and of Ang */
    int64_t n_steps;
    bool is_defined; /* two points or more, and the way end to end has a length (1e-12) and an angle (1e-7) */
};

/* Of n points (n, dim). Errors: ARGUMENT (dim 0), MEMORY. Any thread. */
KVANT_API kvant_status kvant_coe_points(const float *points, size_t n, size_t dim, struct kvant_coe *out,
                                        struct kvant_error *err);

/* From the cache, for tokens [token_first, token_last) as in struct kvant_embed_options. over_tokens: one
 * point per token, the mean over the layers (kv-coe-tokens). over_layers: one point per layer, the mean over
 * the tokens (kv-coe-layers). opt: part, heads, layer_first, layer_last and before_rope; the rest is not
 * read. For an answer of T tokens after a prompt of P, the range is [P - 1, P - 1 + T): the positions that
 * made its tokens, all of which are in the cache before the last token is. No forward pass. Errors: ARGUMENT
 * (as of kvant_embed_sequence), MEMORY. */
KVANT_API kvant_status kvant_score_sequence(struct kvant_session *session, int seq, int64_t token_first,
                                            int64_t token_last, const struct kvant_embed_options *opt,
                                            struct kvant_coe *over_tokens, struct kvant_coe *over_layers,
                                            struct kvant_error *err);

/* Sums over the tokens of an answer, or, from kvant_confidence_mean, means. Begin with {0}. */
struct kvant_confidence {
    double max_prob;     /* largest probability */
    double log_max_prob; /* ln of it; -mean is the "PPL" of the CoE paper */
    double entropy;      /* bits */
    double log_prob;     /* ln of the chosen token's; -mean is ln(perplexity) */
    int64_t n;
};

/* Adds one position: (n_vocab) logits, and the token that was chosen (-1: log_prob is not added to). 0.1 ms
 * for a vocabulary of 152k. Any thread. */
KVANT_API void kvant_confidence_add(const struct kvant_model *model, struct kvant_confidence *sums,
                                    const float *logits, kvant_token chosen);

/* Means from sums; all NaN for n = 0. out may be sums. Any thread. */
KVANT_API void kvant_confidence_mean(const struct kvant_confidence *sums, struct kvant_confidence *out);

/* Everything there is to say of an answer that is known: one forward pass over prompt and answer. */
struct kvant_answer_score {
    struct kvant_coe kv_tokens, kv_layers;
    /* of the residual stream, embedding included: hidden_layers is the original Chain-of-Embedding */
    struct kvant_coe hidden_tokens, hidden_layers;
    /* the same with the first prompt token in place of the last one, as the original code has it */
    struct kvant_coe hidden_layers_bos;
    struct kvant_confidence confidence; /* sums */
};

/* tokens: prompt and answer, n_prompt of them the prompt; in a sequence of its own under `plan`. Logits are
 * taken in pieces of the session's n_logits. opt as above. Memory: (n_answer + 4 n_layer) n_embd floats.
 * Errors: as kvant_session_step; ARGUMENT (no prompt or no answer), FULL, MEMORY. */
KVANT_API kvant_status kvant_score_answer(struct kvant_session *session, const struct kvant_plan *plan,
                                          const kvant_token *tokens, size_t n_tokens, size_t n_prompt,
                                          const struct kvant_embed_options *opt,
                                          struct kvant_answer_score *out, struct kvant_error *err);

/* How well scores rank right answers above wrong ones. Areas from 0 to 1; NaN: undefined. Intervals: 95 % of
 * bootstrap draws. */
struct kvant_ranking {
    double auroc, auroc_low, auroc_high;
    /* of the wrong ones, how many pass where 95 % of the right ones do */
    double fpr95, fpr95_low, fpr95_high;
    double aupr, aupr_low, aupr_high; /* trapezoid rule, from (recall 0, precision 1) */
    int64_t n_right, n_wrong, n_undefined; /* scores that are not finite are left out and counted */
};

/* groups: (n), or NULL; with groups (of answers of similar length, say) only pairs of one group are compared,
 * and fpr95 and aupr are NaN. Undefined without both right and wrong ones. scores, right: (n), n below 2^31.
 * n_draws: of the bootstrap, 0 (no intervals: NaN) to 1000000. Deterministic for a seed. Errors: ARGUMENT,
 * MEMORY. Any thread. */
KVANT_API kvant_status kvant_ranking_set(struct kvant_ranking *out, const double *scores, const bool *right,
                                         const int *groups, size_t n, int n_draws, uint64_t seed,
                                         struct kvant_error *err);

/* ---------------------------------------------------------------------------------------------- router -- */

/* Decides whether a question needs slow thinking, from the last tokens of its prompt in the cache
 * (docs/router.md): a network of one hidden layer, or a line, that estimates difficulty d, 0 (fast is right
 * and short) to 100 (wrong either way). */
struct kvant_router;

/* A router file for this model (docs/format-router.md). Errors: IO, FORMAT (position), UNSUPPORTED (a
 * version), MISMATCH (trained for another model or layers), MEMORY. `*out` is owned by the caller, NULL on
 * failure. */
KVANT_API kvant_status kvant_router_open(struct kvant_router **out, const struct kvant_model *model,
                                         const char *path, struct kvant_error *err);
KVANT_API void kvant_router_close(struct kvant_router *router);

/* The router as a file, written beside `path` and renamed. Errors: IO, MEMORY. */
KVANT_API kvant_status kvant_router_save(const struct kvant_router *router, const char *path,
                                         struct kvant_error *err);

struct kvant_router_info {
    int n_input, n_hidden, window, layer_first, n_layers;
    const char *modes, *fingerprint; /* borrowed; modes: which templates it was trained with */
    bool hidden;               /* on hidden states: for comparison only */
    size_t bytes, watch_bytes; /* memory of the router; of each kvant_router_watch besides */
};
KVANT_API void kvant_router_get_info(const struct kvant_router *router, struct kvant_router_info *out);

/* How its input is pooled: the options that kvant_embed_prompts takes to make features. */
KVANT_API void kvant_router_get_embed_options(const struct kvant_router *router,
                                              struct kvant_embed_options *out);

/* d of (n_input) features, not clamped; NaN when one of them is. Any thread. */
KVANT_API double kvant_router_score(const struct kvant_router *router, const float *features);

/* Adds to every d from now on, in the file that is saved too, so that a threshold which was found to be good
 * lies where it is looked for. No other thread may be using the router. */
KVANT_API void kvant_router_add(struct kvant_router *router, double by);

/* What a question is for, in kvant_router_train. */
enum { KVANT_ROUTER_TRAIN = 0, KVANT_ROUTER_VALIDATION = 1, KVANT_ROUTER_TEST = 2 };

/* NETWORK: one hidden layer, learns from TRAIN and stops by VALIDATION. RIDGE: a line with a penalty, which
 * learns from both and takes the penalty of least error on questions left out one by one; no seed, epochs or
 * hidden units. Of questions and inputs one may be at most 4096. */
typedef enum kvant_router_method {
    KVANT_ROUTER_NETWORK = 0,
    KVANT_ROUTER_RIDGE = 1
} kvant_router_method;

struct kvant_router_options {
    size_t size;
    /* source, part, heads, layer_first, layer_last, before_rope, by_side */
    struct kvant_embed_options pooling;
    int window;        /* tokens that features were pooled over: the last so many, or all of
                        * a shorter prompt */
    int n_hidden;      /* 0 = 512 */
    int n_epochs;      /* most; 0 = 500. Training ends 150 epochs after the least validation error */
    uint64_t seed;
    const char *modes; /* a name of at most 31 characters without blanks, kept in the file; NULL: "-" */
    kvant_progress_fn progress;
    void *user;
    kvant_router_method method;
};
#define KVANT_ROUTER_OPTIONS_INIT                                                                   \
    { sizeof(struct kvant_router_options), KVANT_EMBED_OPTIONS_INIT, 32, 0, 0, 1, NULL, NULL, NULL, \
      KVANT_ROUTER_NETWORK }

struct kvant_router_training {
    int n_epochs, best_epoch; /* network; else 0 */
    /* mean squared, of d, at the best epoch; ridge: on TRAIN and VALIDATION, and on each of their questions
     * by the line without it */
    double train_error, validation_error;
    /* of the mean label, likewise: a router that does not lie below it has learned nothing */
    double validation_error_of_mean;
    double penalty;           /* ridge; else 0 */
};

/* features: (n, n_input); labels: (n) 0 to 100; split: (n) KVANT_ROUTER_...: questions of TEST are not looked
 * at. Deterministic for a seed. Errors: ARGUMENT (position: the question whose label it is; too few
 * questions; options), NUMERIC (a feature that is not finite, position: its question), CANCELLED, MEMORY. */
KVANT_API kvant_status kvant_router_train(struct kvant_router **out, const struct kvant_model *model,
                                          const float *features, const float *labels,
                                          const uint8_t *split, size_t n,
                                          const struct kvant_router_options *opt,
                                          struct kvant_router_training *report, struct kvant_error *err);

/* Follows a sequence: a ring of the window's pooled rows and their sum, so that each token is read once. The
 * router and the session outlive it; one thread, the session's. */
struct kvant_router_watch;

/* `*out` is owned by the caller, NULL on failure. Errors: ARGUMENT (a router that was trained on hidden
 * states), MISMATCH (another model's), MEMORY. */
KVANT_API kvant_status kvant_router_watch_open(struct kvant_router_watch **out,
                                               const struct kvant_router *router,
                                               struct kvant_session *session, int seq,
                                               struct kvant_error *err);
KVANT_API void kvant_router_watch_close(struct kvant_router_watch *watch);

/* d of the window that ends with the sequence's last token; *n_window: how many tokens that are. Reads what
 * is new since the last call; after a truncation the window anew. Errors: ARGUMENT (an empty sequence),
 * NUMERIC, MEMORY. */
KVANT_API kvant_status kvant_router_watch_next(struct kvant_router_watch *watch, double *d, int64_t *n_window,
                                               struct kvant_error *err);

/* --------------------------------------------------------------------------------------------- machine -- */

/* Read bandwidth of this machine with the model's threads, in 1e9 bytes per second: the best of several
 * passes over a buffer much larger than the caches. Takes about half a second. 0 when memory is short. */
KVANT_API double kvant_machine_read_gb_per_s(const struct kvant_model *model);

/* Attention alone: one layer's cache under each plan, filled with random rows, no model. */
struct kvant_attention_options {
    size_t size;
    int n_threads;           /* 0 = all cores this process may use; at most 256 */
    const char *cpu;         /* as in kvant_model_options */
    int n_head, n_head_kv;   /* 0 = 32 and 8 */
    int head_dim;            /* 0 = 128; a multiple of 8, at most 256 */
    const int64_t *n_tokens; /* lengths of the cache, each 1 .. 2^30; NULL = 4096 and 32768 */
    int n_lengths;
    int n_rounds;            /* the plans take turns so many times; 0 = 7, at most 100 */
    double budget_s;         /* rounds beyond the first end after about so many seconds; 0 = no limit */
    kvant_progress_fn progress;
    void *user;
    bool decode_only;        /* no prefill, which takes most of the time of a long cache: half the rows */
};
#define KVANT_ATTENTION_OPTIONS_INIT \
    { sizeof(struct kvant_attention_options), 0, NULL, 0, 0, 0, NULL, 0, 0, 0.0, NULL, NULL, false }

struct kvant_attention_row {
    int plan;                 /* index into specs */
    bool prefill;             /* false: one token's queries, as in generation */
    int n_queries;            /* tokens of the step: 1, or for prefill the smaller of 512 and n_tokens */
    int64_t n_tokens;         /* in the cache: before the token (decode), with the whole step (prefill) */
    int n_rounds;             /* measured */
    double ms;                /* their median */
    size_t bytes;             /* of the cache, which a step must read at least once: codes, scales and minima
                               * of sealed tokens, 16-bit rows of the others */
    double gb_per_s;          /* bytes / ms */
    double of_read_bandwidth; /* gb_per_s / read_gb_per_s */
};

struct kvant_attention_machine {
    int n_threads, n_head, n_head_kv, head_dim; /* as measured */
    const char *cpu;      /* kernel level in use; static */
    double read_gb_per_s; /* same threads, the best of passes between measurements */
};

/* Measures each plan (in the layer grammar) at each length, first prefill, then decode. rows: capacity cap,
 * in order of length, mode and plan; 2 * n_specs * n_lengths are needed, half of that with decode_only. opt
 * NULL: the defaults. Centres are random, channel classes those of a head whose channels differ 1000-fold in
 * importance: neither time nor bytes depend on their values. Before each measurement the processor's caches
 * are emptied, as the other layers of a model would do.
 * Errors: SPACE, ARGUMENT, FORMAT, MISMATCH and UNSUPPORTED (a specification, named in the message), MEMORY,
 * CANCELLED. */
KVANT_API kvant_status kvant_bench_attention(const char *const *specs, int n_specs,
                                             const struct kvant_attention_options *opt,
                                             struct kvant_attention_row *rows, size_t cap, size_t *n_out,
                                             struct kvant_attention_machine *machine,
                                             struct kvant_error *err);

#ifdef __cplusplus
}
#endif
#endif
