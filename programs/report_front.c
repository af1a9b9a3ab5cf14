/* The Pareto plot. Points are links to their rows of the menu: a keyboard reaches what a pointer is shown. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "html.h"
#include "plot_scale.h"
#include "program.h"
#include "report_parts.h"

#define LABEL_CAP 64 /* labels placed at most; a label finds no room long before */

struct box {
    double x0, y0, x1, y1;
};

struct front {
    const struct report *report;
    FILE *out;
    double width, height, font; /* of the drawing, in its own units */
    struct plot_scale x, y;
    struct box taken[REPORT_POINTS_MAX + LABEL_CAP + 1]; /* marks in the report's order, then labels */
    int n_taken;
};

void report_mark(FILE *out, enum report_source source, double x, double y)
{
    if (source == REPORT_KVANT)
        fprintf(out, "<circle class='mark' cx='%.1f' cy='%.1f' r='5.5'/>", x, y);
    else if (source == REPORT_KVTUNER)
        fprintf(out, "<path class='mark' d='M%.1f %.1fl6.5 6.5l-6.5 6.5l-6.5 -6.5z'/>", x, y - 6.5);
    else
        fprintf(out, "<rect class='mark' x='%.1f' y='%.1f' width='9' height='9'/>", x - 4.5, y - 4.5);
}

void report_icon(FILE *out, enum report_source source)
{
    fprintf(out, "<svg class='%s' viewBox='-8 -8 16 16' aria-hidden='true'>", report_source_name(source));
    report_mark(out, source, 0, 0);
    fputs("</svg>", out);
}

/* The best of each size so far: what a line joins. */
static int compare_size(const void *a, const void *b)
{
    const struct report_point *p = *(const struct report_point *const *)a;
    const struct report_point *q = *(const struct report_point *const *)b;
    if (p->true_bits != q->true_bits) return p->true_bits < q->true_bits ? -1 : 1;
    return (p->kld_mean > q->kld_mean) - (p->kld_mean < q->kld_mean);
}

static void draw_line(struct front *f, enum report_source source)
{
    const struct report *r = f->report;
    const struct report_point **sorted = allocate(r->n_points, sizeof *sorted);
    size_t n = 0, n_joined = 0;
    double best = INFINITY;
    for (size_t i = 0; i < r->n_points; i++)
        if (r->points[i].source == source) sorted[n++] = &r->points[i];
    qsort(sorted, n, sizeof *sorted, compare_size);
    for (size_t i = 0; i < n; i++)
        if (sorted[i]->kld_mean < best) {
            best = sorted[i]->kld_mean;
            sorted[n_joined++] = sorted[i];
        }
    if (n_joined > 1) {
        fprintf(f->out, "<polyline class='front %s' points='", report_source_name(source));
        for (size_t i = 0; i < n_joined; i++)
            fprintf(f->out, "%s%.1f,%.1f", i ? " " : "", plot_scale_at(&f->x, sorted[i]->true_bits),
                    plot_scale_at(&f->y, sorted[i]->kld_mean));
        fputs("'/>\n", f->out);
    }
    free(sorted);
}

static void draw_axes(struct front *f)
{
    static const double bits[] = { 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 12, 16, 24, 32 };
    double ticks[PLOT_TICKS_CAP], left = f->x.from, right = f->x.to, bottom = f->y.from, last = -INFINITY;
    int n = plot_scale_ticks(&f->y, 6, ticks);
    for (int i = 0; i < n; i++) {
        double y = plot_scale_at(&f->y, ticks[i]);
        fprintf(f->out, "<path class='grid' d='M%.1f %.1fH%.1f'/>", left, y, right);
        svg_textf(f->out, (struct svg_text){ left - 8, y + 0.35 * f->font, "s12", "end" }, "%g", ticks[i]);
    }
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        double x = plot_scale_at(&f->x, bits[i]);
        if (bits[i] < f->x.min || bits[i] > f->x.max || x - last < 2.2 * f->font) continue;
        fprintf(f->out, "<path class='grid' d='M%.1f %.1fV%.1f'/>", x, bottom, f->y.to);
        svg_textf(f->out, (struct svg_text){ x, bottom + 1.5 * f->font, "s12", "middle" }, "%g", bits[i]);
        last = x;
    }
    fprintf(f->out, "<path class='axis' d='M%.1f %.1fH%.1f'/>", left, bottom, right);
    struct svg_text below = { right, bottom + 2.9 * f->font, "s12", "end" };
    if (isnan(f->report->settings.context))
        svg_textf(f->out, below, "true bits per element");
    else
        svg_textf(f->out, below, "true bits per element at %.0f tokens", f->report->settings.context);
    svg_textf(f->out, (struct svg_text){ 4, f->y.to - 10, "s12", "start" }, "mean KL divergence, nats");
    fputc('\n', f->out);
}

static void draw_point(struct front *f, const struct report_point *p)
{
    char kld[REPORT_TEXT_CAP], same[REPORT_TEXT_CAP], page[REPORT_TEXT_CAP];
    double x = plot_scale_at(&f->x, p->true_bits), y = plot_scale_at(&f->y, p->kld_mean);
    fprintf(f->out, "<a class='%s%s' href='#p%d'>", report_source_name(p->source),
            p->dominated ? " dominated" : "", (int)(p - f->report->points));
    svg_titlef(f->out, "%s%.200s (%s): %.3f true bits, %s page bits, mean KLD %s, same top %s %%%s%s",
               p->chosen ? "chosen: " : "", p->name, report_source_name(p->source), p->true_bits,
               report_fixed_text(page, p->page_bits, 3), report_divergence_text(kld, p->kld_mean),
               report_fixed_text(same, p->same_top_p, 1), p->dominated ? ", dominated" : "",
               p->verdict == REPORT_COLLAPSED ? ", collapsed" : "");
    report_mark(f->out, p->source, x, y);
    if (p->chosen) fprintf(f->out, "<circle class='ring' cx='%.1f' cy='%.1f' r='10.5'/>", x, y);
    fputs("</a>\n", f->out);
}

/* ---------------------------------------------------------------------------------------------- labels -- */

/* For a label of point `own`: clear of all labels and marks, and further from others than from its own. */
static bool is_free(const struct front *f, struct box b, int own)
{
    if (b.x0 < f->x.from || b.x1 > f->width || b.y0 < f->y.to || b.y1 > f->y.from) return false;
    for (int i = 0; i < f->n_taken; i++) {
        const struct box *t = &f->taken[i];
        double apart = i < (int)f->report->n_points && i != own ? 12 : 0;
        if (b.x0 < t->x1 + apart && t->x0 - apart < b.x1 && b.y0 < t->y1 && t->y0 < b.y1) return false;
    }
    return true;
}

/* Right, left, above or below the point; where none is free it is left out: titles and the menu have it. */
static void draw_label(struct front *f, const struct report_point *p, const char *css, const char *label,
                       double gap)
{
    static const struct {
        double dx, dy; /* of the label's middle, in half sizes of itself plus the gap */
    } places[] = { { 1, 0 },     { -1, 0 },   { 0, -1 },     { 0, 1 },
                   { 0.85, -1 }, { 0.85, 1 }, { -0.85, -1 }, { -0.85, 1 } };
    double w = 0.58 * f->font * (double)strlen(label), h = 1.25 * f->font;
    for (size_t i = 0; i < sizeof places / sizeof *places && f->n_taken < REPORT_POINTS_MAX + LABEL_CAP;
         i++) {
        double x = plot_scale_at(&f->x, p->true_bits) + places[i].dx * (0.5 * w + gap);
        double y = plot_scale_at(&f->y, p->kld_mean) + places[i].dy * (0.5 * h + gap);
        struct box b = { x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h };
        if (!is_free(f, b, (int)(p - f->report->points))) continue;
        svg_textf(f->out, (struct svg_text){ x, y + 0.35 * f->font, css, "middle" }, "%s", label);
        f->taken[f->n_taken++] = b;
        return;
    }
}

static void draw_labels(struct front *f, bool with_names)
{
    const struct report *r = f->report;
    for (size_t i = 0; i < r->n_points; i++) {
        double x = plot_scale_at(&f->x, r->points[i].true_bits),
               y = plot_scale_at(&f->y, r->points[i].kld_mean);
        f->taken[f->n_taken++] = (struct box){ x - 8, y - 8, x + 8, y + 8 };
    }
    if (r->chosen) draw_label(f, r->chosen, "s12 strong halo", "chosen", 13);
    for (size_t i = 0; i < r->n_points && with_names; i++)
        if (r->points[i].source == REPORT_UNIFORM && !r->points[i].chosen && strlen(r->points[i].name) <= 16)
            draw_label(f, &r->points[i], "s11 halo", r->points[i].name, 9);
    fputc('\n', f->out);
}

static void draw(const struct report *r, FILE *out, const char *css, double width, double height)
{
    struct front *f = allocate(1, sizeof *f);
    double *values = allocate(r->n_points, sizeof *values);
    *f = (struct front){ .report = r, .out = out, .width = width, .height = height, .font = 12 };
    for (size_t i = 0; i < r->n_points; i++) values[i] = r->points[i].true_bits;
    f->x = plot_scale_fit(values, r->n_points, true);
    for (size_t i = 0; i < r->n_points; i++) values[i] = r->points[i].kld_mean;
    f->y = plot_scale_fit(values, r->n_points, true);
    free(values);
    f->x.from = 56;
    f->x.to = width - 12;
    f->y.from = height - 42;
    f->y.to = 30;
    fprintf(
        out,
        "<svg class='%s' viewBox='0 0 %.0f %.0f' role='group' aria-label='Mean KL divergence over true bits "
        "for each plan; lower and further left is better. The table below has the numbers.'>\n",
        css, width, height);
    draw_axes(f);
    for (int i = REPORT_N_SOURCES; i-- > 0;) draw_line(f, (enum report_source)i);
    for (int i = REPORT_N_SOURCES; i-- > 0;)
        for (size_t j = 0; j < r->n_points; j++)
            if (r->points[j].source == (enum report_source)i && !r->points[j].chosen)
                draw_point(f, &r->points[j]);
    if (r->chosen) draw_point(f, r->chosen);
    draw_labels(f, strcmp(css, "wide") == 0);
    fputs("</svg>\n", out);
    free(f);
}

void report_front(const struct report *r, FILE *out)
{
    static const char *const names[] = { "kvant: tuned per layer and head", "KVTuner, as published",
                                         "uniform: one recipe for all layers" };
    fputs("<figure><ul class='key'>", out);
    for (int i = 0; i < REPORT_N_SOURCES; i++) {
        bool used = false;
        for (size_t j = 0; j < r->n_points; j++) used = used || r->points[j].source == (enum report_source)i;
        if (!used) continue;
        fputs("<li>", out);
        report_icon(out, (enum report_source)i);
        fprintf(out, "%s</li>", names[i]);
    }
    fputs("</ul>\n", out);
    draw(r, out, "wide", 960, 430);
    draw(r, out, "narrow", 380, 360);
    fputs("<figcaption>Lower and further left is better. Both axes are logarithmic. Lines join the plans of "
          "one kind that none of the same kind beats; pale marks are beaten in size and error by another "
          "plan. Each mark leads to its row below.</figcaption></figure>\n",
          out);
}
