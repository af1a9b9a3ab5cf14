#include "support/tiny_tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "support/gguf_writer.h"
#include "text/byte_map.h"

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };

int32_t tiny_token(struct tiny_tokenizer *v, const char *text, int32_t type, float score)
{
    size_t id = v->n_tokens++;
    v->tokens[id] = text;
    v->types[id] = type;
    v->scores[id] = score;
    v->n_types = v->n_scores = v->n_tokens;
    return (int32_t)id;
}

void tiny_merge(struct tiny_tokenizer *v, const char *merge, const char *merged)
{
    v->merges[v->n_merges++] = merge;
    for (size_t i = 0; i < v->n_tokens; i++)
        if (strcmp(v->tokens[i], merged) == 0) return;
    tiny_token(v, merged, NORMAL, 0);
}

void tiny_bpe(struct tiny_tokenizer *v)
{
    *v = (struct tiny_tokenizer){ .model = "gpt2", .pre = "gpt-2", .bos = -1, .eos = -1, .add_bos = -1,
                                  .add_space = -1 };
    for (unsigned b = 0; b < 256; b++) {
        v->alphabet[b][kv_byte_to_char((uint8_t)b, v->alphabet[b])] = '\0';
        tiny_token(v, v->alphabet[b], NORMAL, 0);
    }
}

void tiny_spm(struct tiny_tokenizer *v)
{
    *v = (struct tiny_tokenizer){ .model = "llama", .bos = 1, .eos = 2, .add_bos = -1, .add_space = -1 };
    tiny_token(v, "<unk>", UNKNOWN, 0);
    tiny_token(v, "<s>", CONTROL, 0);
    tiny_token(v, "</s>", CONTROL, 0);
    for (unsigned b = 0; b < 256; b++) {
        snprintf(v->bytes[b], sizeof v->bytes[b], "<0x%02X>", b);
        tiny_token(v, v->bytes[b], BYTE, 0);
    }
}

kvant_status tiny_tokenizer_open(struct kv_tokenizer **out, const struct tiny_tokenizer *v,
                                 struct kvant_error *err)
{
    struct gguf_writer w;
    gguf_writer_begin(&w, 3, 32);
    gguf_put_str(&w, "general.architecture", "llama");
    if (v->name) gguf_put_str(&w, "general.name", v->name);
    if (v->model) gguf_put_str(&w, "tokenizer.ggml.model", v->model);
    if (v->pre) gguf_put_str(&w, "tokenizer.ggml.pre", v->pre);
    gguf_put_strings(&w, "tokenizer.ggml.tokens", v->tokens, v->n_tokens);
    gguf_put_array(&w, "tokenizer.ggml.token_type", KV_GGUF_I32, v->types, v->n_types);
    gguf_put_array(&w, "tokenizer.ggml.scores", KV_GGUF_F32, v->scores, v->n_scores);
    gguf_put_strings(&w, "tokenizer.ggml.merges", v->merges, v->n_merges);
    if (v->bos >= 0) gguf_put_u32(&w, "tokenizer.ggml.bos_token_id", (uint32_t)v->bos);
    if (v->eos >= 0) gguf_put_u32(&w, "tokenizer.ggml.eos_token_id", (uint32_t)v->eos);
    if (v->add_bos >= 0) gguf_put_bool(&w, "tokenizer.ggml.add_bos_token", v->add_bos != 0);
    if (v->add_space >= 0) gguf_put_bool(&w, "tokenizer.ggml.add_space_prefix", v->add_space != 0);
    *out = NULL;
    struct kv_gguf *g = NULL;
    kvant_status status = gguf_writer_finish(&w, err);
    if (status == KVANT_OK) status = kv_gguf_open_memory(&g, w.data, w.n_bytes, "tiny.gguf", err);
    if (status == KVANT_OK) status = kv_tokenizer_open(out, g, err);
    kv_gguf_close(g);
    gguf_writer_free(&w);
    return status;
}
