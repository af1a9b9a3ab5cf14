/*
 * Chat formats that are built in, recognised from the file's Jinja template. (The full Jinja comes with the server.)
 */
#ifndef KV_TEXT_CHAT_H
#define KV_TEXT_CHAT_H

#include "text/tokenizer.h"

enum kv_chat_format { KV_CHAT_NONE, KV_CHAT_CHATML, KV_CHAT_LLAMA3 };

/* From tokenizer.chat_template. template_text may be NULL. A model's default system message, where its template has one
 * that the built-in format must reproduce (Qwen2.5, SmolLM2), is written to *default_system (static string, or NULL). */
enum kv_chat_format kv_chat_recognise(const struct kv_str *template_text, const char **default_system);
const char *kv_chat_format_name(enum kv_chat_format format);

/* As kvant_chat_render. */
kvant_status kv_chat_render(enum kv_chat_format format, const char *default_system, const struct kv_tokenizer *t,
                            const struct kvant_message *messages, size_t n_messages, bool add_assistant, char *text,
                            size_t cap, size_t *n_out, struct kvant_error *err);

#endif
