/*
 * Chat formats that are built in, recognised from the file's Jinja template. (The full Jinja comes with the
 * server.)
 */
#ifndef KV_TEXT_CHAT_H
#define KV_TEXT_CHAT_H

#include "text/tokenizer.h"

enum kv_chat_format { KV_CHAT_NONE, KV_CHAT_CHATML, KV_CHAT_LLAMA3 };

/* From tokenizer.chat_template; template_text may be NULL. *default_system is what kv_chat_render needs of
 * the template beside its format, a place inside template_text (to be handed over while its bytes live), or
 * NULL:
 *   chatml   the system message for conversations without one (Qwen2.5, SmolLM2), neither terminated nor
 *            unescaped
 *   llama3   the dates that begin the system message (from Llama 3.1 on); only NULL or not counts */
enum kv_chat_format kv_chat_recognise(const struct kv_str *template_text, const char **default_system);
/* "chatml", "llama3" or "none". */
const char *kv_chat_format_name(enum kv_chat_format format);

/* As kvant_chat_render; default_system from kv_chat_recognise, or NULL. The text is terminated if there is
 * room; *n_out does not count the terminator. t: whose control tokens no content may hold; NULL = not
 * checked. Errors: ARGUMENT (a role other than system, user, assistant; a control token in a content),
 * SPACE. */
kvant_status kv_chat_render(enum kv_chat_format format, const char *default_system,
                            const struct kv_tokenizer *t, const struct kvant_message *messages,
                            size_t n_messages, bool add_assistant, char *text, size_t cap, size_t *n_out,
                            struct kvant_error *err);

#endif
