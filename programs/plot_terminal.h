/*
 * The Pareto plot in a terminal: mean KLD, logarithmic, over true bits, also logarithmic.
 */
#ifndef PLOT_TERMINAL_H
#define PLOT_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define PLOT_N_SERIES 3 /* drawn in this order of importance, the first on top */

struct plot_point {
    double bits, kld; /* kld may be infinite (a collapsed plan: at the top) or 0 */
    int series;       /* 0 .. PLOT_N_SERIES - 1 */
    bool chosen;
};

struct plot_style {
    int n_columns; /* of the terminal; 40 at least, 120 at most are used */
    bool unicode;  /* marks and lines beyond ASCII */
};

/* What suits the stream: the width of its terminal (80 if it is none, or as COLUMNS of the environment says),
 * and Unicode on a terminal whose locale is UTF-8. */
struct plot_style plot_style_of(FILE *out);

/* The plot and its legend, about 20 lines; nothing when there is no point. names: (PLOT_N_SERIES), of the
 * series; those without a point are left out of the legend. */
void plot_front(FILE *out, const struct plot_point *points, size_t n, const char *const names[PLOT_N_SERIES],
                struct plot_style style);

#endif
