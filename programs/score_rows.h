/*
 * Rows of (prompt, answer, correct) from a JSONL file.
 */
#ifndef SCORE_ROWS_H
#define SCORE_ROWS_H

#include "program.h"

struct score_row {
    char *prompt, *answer;
    bool is_correct, is_raw; /* raw: the prompt is taken as it is, without the chat format */
    size_t line;             /* 1-based */
};

struct score_rows {
    const char *path;
    struct score_row *items;
    size_t n;
};

/* Each line {"prompt": text, "answer": text, "correct": true or false (or 1, 0), "raw": bool, optional};
 * others of its fields are not read. Empty lines are passed over. Prints what fails, with the line: no JSON,
 * a field that is missing or of another kind, an empty text, no row at all. */
int score_rows_read(struct score_rows *out, const char *path, int64_t n_most);
void score_rows_free(struct score_rows *rows);

#endif
