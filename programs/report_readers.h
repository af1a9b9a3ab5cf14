/*
 * What reading the cache is good for, on the report's page: the ROC curves of scores (kvant score --json),
 * and accuracy against tokens of a router (kvant router eval --json). Documents are as untrusted as the
 * report itself.
 */
#ifndef REPORT_READERS_H
#define REPORT_READERS_H

#include <stdio.h>

#include "json.h"

#define REPORT_SCORES_MAX 64
#define REPORT_CURVE_MAX  1000
#define REPORT_ROWS_MAX   64

struct report_score {
    const char *name;
    double auroc, low, high, same_length; /* NaN: undefined */
    double (*curve)[2];                   /* (n_curve) share of wrong answers that pass, of right ones */
    size_t n_curve;
};

struct report_row {
    const char *name;
    double accuracy, low, high, tokens; /* shares of 1; mean tokens */
    double saving, slow_share;          /* of the oracle's saving; NaN: none */
};

struct report_readers {
    json_t *score_root, *router_root; /* texts are borrowed from them; NULL: not given */
    struct report_score *scores;
    struct report_row *rows;
    size_t n_scores, n_rows;
    double n_answers, n_correct, n_questions;
};

/* Take a document over, also on failure. FORMAT, with the field in the message. */
kvant_status report_scores_open(struct report_readers *out, json_t *root, const char *file,
                                struct kvant_error *err);
kvant_status report_router_open(struct report_readers *out, json_t *root, const char *file,
                                struct kvant_error *err);
void report_readers_close(struct report_readers *readers);

/* What stands inside the section. */
void report_readers_write(const struct report_readers *readers, FILE *out);

#endif
