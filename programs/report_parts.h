/*
 * The parts of the report's page, for report_html.c: each writes what belongs inside one section. Not to be
 * used by anything else; report.h is the interface.
 */
#ifndef REPORT_PARTS_H
#define REPORT_PARTS_H

#include <stdio.h>

#include "report.h"

extern const char *const report_style[]; /* pieces of the style sheet; NULL ends them */

/* The Pareto plot: mean KLD, logarithmic, over true bits. */
void report_front(const struct report *report, FILE *out);

/* The chosen plan: bits of keys and values in every layer and KV head. */
void report_bits_map(const struct report *report, FILE *out);

/* What each layer costs: KLD, e_o, entropy, outliers. */
bool report_has_sensitivity(const struct report *report);
void report_sensitivity(const struct report *report, FILE *out);

/* Tokens per second and memory by context: bars of the chosen plan beside 16 bits, and a table of all plans.
 * */
bool report_has_predictions(const struct report *report);
void report_speed(const struct report *report, FILE *out);

/* The marker of a source, as an SVG shape around (x, y); and as a small picture of its own. */
void report_mark(FILE *out, enum report_source source, double x, double y);
void report_icon(FILE *out, enum report_source source);

/* Numbers as people read them; NaN is a dash. Each returns `text`. */
#define REPORT_TEXT_CAP 40
const char *report_divergence_text(char text[REPORT_TEXT_CAP], double kld); /* two digits: "0.0049", "∞" */
const char *report_fixed_text(char text[REPORT_TEXT_CAP], double value, int n_decimals);
const char *report_seconds_text(char text[REPORT_TEXT_CAP], double seconds); /* "41 s", "3 min 5 s" */
const char *report_tokens_text(char text[REPORT_TEXT_CAP],
                               double n_tokens); /* "32K" of 32768, else the number */

#endif
