/*
 * One line on stderr that says how far long work is and, from the third percent on, when it will end. On a
 * terminal the line is rewritten a few times a second, once the work has taken half a second; elsewhere
 * (a log) a new line appears every ten seconds.
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    double started_s;    /* when the count that goes on now began, ...                            */
    int64_t first_done;  /* ... and where: work may be resumed, or may change its name on the way */
    int64_t done, total; /* as told last                                                          */
    double next_s;       /* when the line is due again                                            */
    int n_shown;         /* columns to be wiped                                                   */
    bool is_terminal;
};

void progress_begin(struct progress *progress);

/* A kvant_progress_fn; user: struct progress *. False once Ctrl-C was pressed. */
bool progress_update(void *progress, const char *what, int64_t done, int64_t total);

/* Wipes the line. */
void progress_end(struct progress *progress);

#endif
