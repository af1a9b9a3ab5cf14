/*
 * Many prompts from one file: a question per line (JSONL), or pieces of a text.
 */
#ifndef PROMPTS_FILE_H
#define PROMPTS_FILE_H

#include "program.h"

#define PROMPT_PIECE_TOKENS 128 /* of a text that is cut into prompts */

struct prompt_list {
    struct kvant_prompt *items; /* (n); tokens are owned */
    size_t n;
};

/* The first n_most lines of a JSONL file: of each object the string "question" or "prompt", asked in the
 * model's chat format (raw: as it is), or "text", which is always taken as it is. Empty lines are passed
 * over. Prints what fails, with the line. */
int prompts_read_jsonl(struct prompt_list *out, const struct kvant_model *model, const char *path,
                       int64_t n_most, bool raw);

/* The first n_most pieces of a text; a last piece may be shorter. */
int prompts_read_text(struct prompt_list *out, const struct kvant_model *model, const char *path,
                      int64_t n_most);

void prompts_free(struct prompt_list *list);

#endif
