/*
 * Axes of plots, for the page and the terminal alike: values to positions, and round numbers to label them
 * with.
 */
#ifndef PLOT_SCALE_H
#define PLOT_SCALE_H

#include <stdbool.h>
#include <stddef.h>

#define PLOT_TICKS_CAP 16

struct plot_scale {
    double min, max; /* of the data, min < max; positive where `log` */
    double from, to; /* positions of min and max                     */
    bool log;
};

/* A scale that holds the n values with a little room around them; those that are not finite (or, with log,
 * not positive) don't count. */
struct plot_scale plot_scale_fit(const double *values, size_t n, bool log);

/* Clamped to from .. to. */
double plot_scale_at(const struct plot_scale *scale, double value);

/* At most PLOT_TICKS_CAP round values within the scale, ascending: with log 1, 2, 5 of each decade, or powers
 * of ten when it spans many; else multiples of 1, 2 or 5 of a power of ten, about n_wanted of them. */
int plot_scale_ticks(const struct plot_scale *scale, int n_wanted, double ticks[PLOT_TICKS_CAP]);

/* "0.05", "1e-05": the shortest that tells a tick apart. */
const char *plot_tick_text(char text[24], double tick);

#endif
