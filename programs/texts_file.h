/*
 * Many texts from one file: one a line, or JSONL.
 */
#ifndef TEXTS_FILE_H
#define TEXTS_FILE_H

#include "program.h"

struct text_item {
    char *text; /* terminated; may hold zero bytes inside */
    size_t n_bytes;
    size_t line; /* 1-based; 0: not from a file */
};

struct text_list {
    struct text_item *items;
    size_t n;
};

/* Reads `path` ("-": standard input). Plain: each line is a text; an empty one is refused, as the rows of the
 * result would not be the lines of the file. JSONL (a name in .jsonl, or as_jsonl): of each object the string
 * "text", "input", "prompt" or "question"; empty lines are passed over. Prints what fails, with the line. */
int texts_read(struct text_list *out, const char *path, bool as_jsonl);
void texts_add(struct text_list *list, const char *text, size_t n_bytes, size_t line);
void texts_free(struct text_list *list);

#endif
