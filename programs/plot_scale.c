#include "plot_scale.h"

#include <math.h>
#include <stdio.h>

struct plot_scale plot_scale_fit(const double *values, size_t n, bool log)
{
    double min = INFINITY, max = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i]) || (log && values[i] <= 0.0)) continue;
        min = fmin(min, values[i]);
        max = fmax(max, values[i]);
    }
    if (min > max) min = max = 1.0;
    if (log) {
        double wide = log10(max) - log10(min), room = wide < 0.2 ? 1.25 : pow(10.0, 0.04 * wide);
        return (struct plot_scale){ .min = min / room, .max = max * room, .log = true };
    }
    double room = max > min ? 0.04 * (max - min) : fmax(1.0, fabs(max)) * 0.1;
    return (struct plot_scale){ .min = min - room, .max = max + room };
}

/* Of quotients that may themselves be beyond what a double holds. */
static double log10_part(const struct plot_scale *scale, double value)
{
    return (log10(value) - log10(scale->min)) / (log10(scale->max) - log10(scale->min));
}

double plot_scale_at(const struct plot_scale *scale, double value)
{
    double part = scale->log ? log10_part(scale, fmax(value, scale->min))
                             : (value - scale->min) / (scale->max - scale->min);
    return scale->from + (scale->to - scale->from) * fmin(fmax(part, 0.0), 1.0);
}

static int log_ticks(const struct plot_scale *scale, double ticks[PLOT_TICKS_CAP])
{
    static const double steps[] = { 1.0, 2.0, 5.0 };
    double decades = log10(scale->max) - log10(scale->min);
    int n_steps = decades < 2.2 ? 3 : 1, stride = (int)ceil(decades / 10.0), n = 0;
    int first = (int)floor(log10(scale->min));
    for (int d = first; n < PLOT_TICKS_CAP && pow(10.0, d) <= scale->max; d++) {
        if (stride > 1 && d % stride != 0) continue;
        for (int i = 0; i < n_steps && n < PLOT_TICKS_CAP; i++) {
            double tick = steps[i] * pow(10.0, d);
            if (tick >= scale->min && tick <= scale->max) ticks[n++] = tick;
        }
    }
    return n;
}

int plot_scale_ticks(const struct plot_scale *scale, int n_wanted, double ticks[PLOT_TICKS_CAP])
{
    if (scale->log) return log_ticks(scale, ticks);
    double raw = (scale->max - scale->min) / n_wanted, power = pow(10.0, floor(log10(raw))),
           part = raw / power;
    double step = power * (part > 5.0 ? 10.0 : part > 2.0 ? 5.0 : part > 1.0 ? 2.0 : 1.0);
    int n = 0;
    for (double i = ceil(scale->min / step); i * step <= scale->max && n < PLOT_TICKS_CAP; i++)
        ticks[n++] = i * step;
    return n;
}

const char *plot_tick_text(char text[24], double tick)
{
    snprintf(text, 24, "%g", tick);
    return text;
}
