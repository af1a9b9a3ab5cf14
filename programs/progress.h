/*
 * One line on stderr that says how far long work is and when it will end. On a terminal the line is rewritten
 * a few times a second, once the work has taken half a second; elsewhere (a log) a new line appears every ten
 * seconds.
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    double started_s; /* of the step that is named in `what`           */
    double next_s;    /* when the line is due again                    */
    int n_shown;      /* columns to be wiped                           */
    bool is_terminal;
    char what[80];
};

void progress_begin(struct progress *progress);

/* A kvant_progress_fn; user: struct progress *. False once Ctrl-C was pressed. */
bool progress_update(void *progress, const char *what, int64_t done, int64_t total);

/* Wipes the line. */
void progress_end(struct progress *progress);

#endif
