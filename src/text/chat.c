/*
 * ChatML and Llama-3, rendered as the models' own templates render plain conversations:
 *
 *     <|im_start|>ROLE \n CONTENT <|im_end|> \n
 *         a system message of the template's own goes first if the conversation has none (Qwen2.5, SmolLM2)
 *     <|begin_of_text|> <|start_header_id|>ROLE<|end_header_id|> \n\n CONTENT <|eot_id|>
 *         CONTENT trimmed; from 3.1 on the system message begins with two dates
 */
#include "text/chat.h"

#include <string.h>

#define LLAMA3_DATES "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

static const char *find_text(const char *s, size_t n, const char *text)
{
    return memmem(s, n, text, strlen(text));
}

static const char system_end[] = "<|im_end|>";

/* Bytes of the character at s as a string literal writes it: 2 for an escape. kv_chat_recognise found the end
 * of the message with these steps, so the same steps lead the renderer there. */
static size_t literal_step(const char *s)
{
    return *s == '\\' ? 2 : 1;
}

static bool at_system_end(const char *s)
{
    return strncmp(s, system_end, sizeof system_end - 1) == 0;
}

/* A system block written out in one string literal of the template: a quote, <|im_start|>system, a newline
 * (real or \n), the message, <|im_end|>. A block that is put together from parts closes its literal
 * earlier. */
static const char *literal_system(const char *s, size_t n)
{
    static const char head[] = "<|im_start|>system";
    const char *end = s + n, *block = s;
    while ((block = find_text(block, (size_t)(end - block), head)) != NULL) {
        char quote = block > s ? block[-1] : '\0';
        block += sizeof head - 1;
        if (quote != '\'' && quote != '"') continue;
        size_t n_left = (size_t)(end - block);
        size_t n_newline = 0;
        if (n_left >= 1 && block[0] == '\n') n_newline = 1;
        if (n_left >= 2 && memcmp(block, "\\n", 2) == 0) n_newline = 2;
        if (n_newline == 0) continue;
        const char *message = block + n_newline;
        for (const char *p = message; end - p >= (ptrdiff_t)sizeof system_end - 1 && *p != quote;
             p += literal_step(p))
            if (at_system_end(p)) return message;
    }
    return NULL;
}

enum kv_chat_format kv_chat_recognise(const struct kv_str *template_text, const char **default_system)
{
    *default_system = NULL;
    if (!template_text) return KV_CHAT_NONE;
    const char *s = template_text->data;
    size_t n = template_text->n_bytes;
    if (find_text(s, n, "<|im_start|>")) {
        *default_system = literal_system(s, n);
        return KV_CHAT_CHATML;
    }
    if (find_text(s, n, "<|start_header_id|>") && find_text(s, n, "<|eot_id|>")) {
        *default_system = find_text(s, n, "Cutting Knowledge Date");
        return KV_CHAT_LLAMA3;
    }
    return KV_CHAT_NONE;
}

const char *kv_chat_format_name(enum kv_chat_format format)
{
    switch (format) {
    case KV_CHAT_CHATML: return "chatml";
    case KV_CHAT_LLAMA3: return "llama3";
    case KV_CHAT_NONE: break;
    }
    return "none";
}

/* ------------------------------------------------------------------------------------------- rendering -- */

struct chat_text {
    char *text;
    size_t cap, n; /* n counts also what did not fit */
};

static void put_bytes(struct chat_text *out, const char *s, size_t n)
{
    if (out->n < out->cap) {
        size_t room = out->cap - out->n;
        memcpy(out->text + out->n, s, n < room ? n : room);
    }
    out->n += n;
}

static void put(struct chat_text *out, const char *s)
{
    put_bytes(out, s, strlen(s));
}

/* The message that literal_system found, its escapes resolved. */
static void put_literal(struct chat_text *out, const char *s)
{
    for (; !at_system_end(s); s += literal_step(s)) {
        char c = *s;
        if (c == '\\') c = s[1] == 'n' ? '\n' : s[1] == 't' ? '\t' : s[1];
        put_bytes(out, &c, 1);
    }
}

static void put_chatml(struct chat_text *out, const char *default_system,
                       const struct kvant_message *messages, size_t n_messages, bool add_assistant)
{
    if (default_system && n_messages > 0 && strcmp(messages[0].role, "system") != 0) {
        put(out, "<|im_start|>system\n");
        put_literal(out, default_system);
        put(out, "<|im_end|>\n");
    }
    for (size_t i = 0; i < n_messages; i++) {
        put(out, "<|im_start|>");
        put(out, messages[i].role);
        put(out, "\n");
        put(out, messages[i].content);
        put(out, "<|im_end|>\n");
    }
    if (add_assistant) put(out, "<|im_start|>assistant\n");
}

static void put_trimmed(struct chat_text *out, const char *s)
{
    static const char space[] = " \t\n\v\f\r\x1c\x1d\x1e\x1f"; /* ASCII part of what Jinja's trim removes */
    s += strspn(s, space);
    size_t n = strlen(s);
    while (n > 0 && strchr(space, s[n - 1])) n--;
    put_bytes(out, s, n);
}

static void put_llama3(struct chat_text *out, bool dated, const struct kvant_message *messages,
                       size_t n_messages, bool add_assistant)
{
    if (n_messages > 0) put(out, "<|begin_of_text|>");
    bool has_system = n_messages > 0 && strcmp(messages[0].role, "system") == 0;
    if (dated && n_messages > 0) {
        put(out, "<|start_header_id|>system<|end_header_id|>\n\n" LLAMA3_DATES);
        if (has_system) put_trimmed(out, messages[0].content);
        put(out, "<|eot_id|>");
    }
    for (size_t i = dated && has_system; i < n_messages; i++) {
        put(out, "<|start_header_id|>");
        put(out, messages[i].role);
        put(out, "<|end_header_id|>\n\n");
        put_trimmed(out, messages[i].content);
        put(out, "<|eot_id|>");
    }
    if (add_assistant) put(out, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

static void put_plain(struct chat_text *out, const struct kvant_message *messages, size_t n_messages)
{
    for (size_t i = 0; i < n_messages; i++) {
        if (i > 0) put(out, "\n");
        put(out, messages[i].content);
    }
}

static kvant_status check_message(const struct kv_tokenizer *t, const struct kvant_message *message, size_t i,
                                  struct kvant_error *err)
{
    if (!message->role || !message->content)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "message %zu: role and content must not be NULL", i);
    if (strcmp(message->role, "system") != 0 && strcmp(message->role, "user") != 0 &&
        strcmp(message->role, "assistant") != 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "message %zu: role \"%.32s\": use system, user or assistant", i,
                message->role);
    kvant_token id = t ? kv_tokenizer_find_control(t, message->content, strlen(message->content)) : -1;
    if (id < 0) return KVANT_OK;
    struct kv_str text = kv_tokenizer_text(t, id);
    KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
            "message %zu: holds the control token \"%.*s\": take it out of the content", i,
            (int)(text.n_bytes < 64 ? text.n_bytes : 64), text.data);
}

kvant_status kv_chat_render(enum kv_chat_format format, const char *default_system,
                            const struct kv_tokenizer *t, const struct kvant_message *messages,
                            size_t n_messages, bool add_assistant, char *text, size_t cap, size_t *n_out,
                            struct kvant_error *err)
{
    *n_out = 0;
    for (size_t i = 0; i < n_messages; i++) KV_TRY(check_message(t, &messages[i], i, err));
    struct chat_text out = { text, text ? cap : 0, 0 };
    switch (format) {
    case KV_CHAT_CHATML: put_chatml(&out, default_system, messages, n_messages, add_assistant); break;
    case KV_CHAT_LLAMA3: put_llama3(&out, default_system != NULL, messages, n_messages, add_assistant); break;
    case KV_CHAT_NONE: put_plain(&out, messages, n_messages); break;
    }
    *n_out = out.n;
    if (out.n > out.cap) KV_FAIL(err, KVANT_ERR_SPACE, -1, "room for %zu bytes, %zu needed", out.cap, out.n);
    if (out.n < out.cap) text[out.n] = '\0';
    return KVANT_OK;
}
