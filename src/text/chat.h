/*
 * Chat templates of a model: the file's own, one of the built-in ones by name, or any Jinja text, with
 * what they need of the tokenizer: the texts of BOS and EOS, and the control tokens that no message may
 * forge.
 */
#ifndef KV_TEXT_CHAT_H
#define KV_TEXT_CHAT_H

#include "text/tokenizer.h"

/* What a template looks like: "chatml", "llama2", "llama3", "mistral", "gemma", "phi3", "phi4", "zephyr",
 * "deepseek", "jinja" (another), or "none" when source is NULL. Static. */
const char *kv_chat_format_name(const struct kv_str *source);

/* Source of a built-in template, terminated; NULL: there is none of this name. */
const char *kv_chat_builtin(const char *name);

/* t: borrowed; NULL: no BOS, no EOS, nothing is refused. source: copied. Errors of kv_jinja_open. */
kvant_status kv_chat_open(struct kvant_template **out, const struct kv_tokenizer *t, const char *source,
                          size_t n_bytes, struct kvant_error *err);

#endif
