/*
 * From what the user wrote to the tokens that the model reads: the model's own chat format, or the text as it
 * is.
 */
#ifndef PROMPT_H
#define PROMPT_H

#include "program.h"

/* Tokens of one user message, with an optional system message, ending where the answer begins. raw: the text
 * alone, in which control tokens may be written out. free() the ids. Prints what fails.
 * chat_template: as of kvant_template_open; NULL: the model's. */
int prompt_tokens(const struct kvant_model *model, const char *chat_template, const char *system,
                  const char *text, size_t n_bytes, bool raw, kvant_token **ids, size_t *n_ids);

/* Tokens that follow a finished answer: its end, the next user message, the beginning of the next answer. */
int prompt_tokens_next(const struct kvant_model *model, const char *chat_template, const char *text,
                       kvant_token **ids, size_t *n_ids);

#endif
