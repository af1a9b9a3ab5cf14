/*
 * Files of lines: a text or a JSON object each. What reads one says the number of a line that is wrong.
 */
#ifndef LINES_H
#define LINES_H

#include <jansson.h>

#include "program.h"

struct lines {
    const char *path;
    char *text;
    size_t n_bytes, at, n_lines; /* n_lines: of which the last may be empty */
    /* The line that lines_next went to, without its end: */
    const char *line;
    size_t n_line, number; /* bytes; from 1 */
    bool is_blank, is_cut; /* nothing but spaces, tabs and returns; no newline behind it */
};

/* "-": standard input. EXIT_FAILED after a message. */
int lines_open(struct lines *lines, const char *path);
/* False behind the last one. */
bool lines_next(struct lines *lines);
/* This line as a JSON value without a key that is there twice; NULL after a message. json_decref() it. */
json_t *lines_json(const struct lines *lines);
void lines_close(struct lines *lines);

bool text_is_blank(const char *text, size_t n_bytes);

#endif
