/*
 * Questions answered fast and slow: what `router collect` writes, an answer a line, and the labels that
 * follow.
 */
#ifndef ROUTER_DATA_H
#define ROUTER_DATA_H

#include "program.h"

struct collected_answer {
    bool is_there, is_correct, is_truncated;
    int64_t n_tokens;
};

struct collected_question {
    char *question, *final;
    struct collected_answer answers[2]; /* fast, slow */
    float label;                        /* once both are there */
};

struct collected {
    const char *path;
    char modes[32];
    struct collected_question *items;
    size_t n;
};

/* Reads the file; a question is known by its text. None but whole lines count: a last line that was cut is
 * passed over, so that collecting can go on. Prints what fails, with the line: no JSON, a field that is
 * missing or of another kind, a mode that is neither fast nor slow, answers of other modes in one file. */
int collected_read(struct collected *out, const char *path, bool may_be_absent);
/* The question's place; added if it is new. */
size_t collected_find(struct collected *c, const char *question, const char *final);
/* LABELS_PAPER: 0, 25, 75, 100 by the paper's rule: fast right in fewer than `limit` tokens; right; slow
 * alone right; neither. LABELS_NET: what thinking gains: 0 fast alone right, 50 both or neither, 100 slow
 * alone right. Questions with one answer only are dropped; how many. */
enum labels { LABELS_PAPER, LABELS_NET };
size_t collected_label(struct collected *c, int64_t limit, enum labels labels);
void collected_close(struct collected *c);

/* Which split a question is in, by a hash of its text: 60 % train, 20 % validation, 20 % test. The same
 * question is always on the same side, in whatever file and order. */
int collected_split(const char *question);

#endif
