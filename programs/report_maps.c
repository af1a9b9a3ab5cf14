/*
 * Maps with the layers of the model from left to right: bits of the chosen plan, and what every layer costs.
 * All have the same width and margins, so that a layer stands at the same place in each.
 *
 *     |<- GUTTER ->| layer 0 | layer 1 | ...
 *      group  row  |  cell   |  cell   |        a group is a choice or a side, its rows are KV heads
 */
#include <math.h>
#include <string.h>

#include "html.h"
#include "plot_scale.h"
#include "recipe_text.h"
#include "report_parts.h"

#define WIDTH   960.0
#define GUTTER  104.0
#define RIGHT   8.0
#define N_STEPS 9 /* colours of a ramp */

struct cell {
    int step;      /* 0 .. N_STEPS - 1; -1: nothing is known */
    char text[16]; /* shown where there is room               */
    char title[160];
};

struct map {
    const struct report *report;
    char ramp;               /* 'b' or 'e' */
    size_t n_groups, n_rows; /* rows of each group */
    void (*cell)(const struct map *map, size_t group, size_t row, size_t layer, struct cell *out);
    void (*label)(const struct map *map, size_t group, char text[REPORT_TEXT_CAP]);
    const void *data;
    struct plot_scale scale; /* of colours, where they are of a measure: from 0 to N_STEPS */
};

static double cell_width(const struct report *r)
{
    return (WIDTH - GUTTER - RIGHT) / (double)r->model.n_layer;
}

static double row_height(const struct map *m)
{
    size_t n = m->n_groups * m->n_rows;
    return m->n_groups <= 2 && n <= 12 ? 22.0 : n <= 24 ? 14.0 : n <= 64 ? 9.0 : 5.0;
}

static int step_of(const struct plot_scale *scale, double value)
{
    if (isnan(value)) return -1;
    int step = (int)plot_scale_at(scale, value);
    return step < N_STEPS ? step : N_STEPS - 1;
}

/* Numbers of layers below the map, and a triangle below those whose key biases stand out. */
static void draw_layer_axis(const struct report *r, FILE *out, double y)
{
    double w = cell_width(r);
    int64_t stride = 1;
    while ((double)stride * w < 21.0) stride = stride == 1 ? 2 : stride == 2 ? 5 : 2 * stride;
    svg_textf(out, (struct svg_text){ 0, y + 14, "s11", "start" }, "layer");
    for (int64_t i = 0; i < r->model.n_layer; i += stride)
        svg_textf(out, (struct svg_text){ GUTTER + ((double)i + 0.5) * w, y + 14, "s11", "middle" }, "%lld",
                  (long long)i);
    for (size_t i = 0; i < r->n_outliers; i++) {
        double x = GUTTER + ((double)r->outliers[i].layer + 0.5) * w;
        fprintf(out, "<path class='flag' d='M%.1f %.1fl4.5 7.5h-9z'>", x, y + 19);
        svg_titlef(out, "layer %lld: largest key bias %.3g", (long long)r->outliers[i].layer,
                   r->outliers[i].max_bias);
        fputs("</path>", out);
    }
}

static void draw_cell(const struct map *m, FILE *out, double x, double y, double h, const struct cell *c)
{
    double w = cell_width(m->report);
    char css[16];
    bool is_long = strlen(c->text) > 3; /* 2.75 */
    snprintf(css, sizeof css, "%s %s", h >= 20 && !is_long ? "s11" : "s10",
             c->step < 5    ? "tl"
             : c->step == 5 ? "tm"
                            : "th");
    if (c->step < 0) {
        fprintf(out, "<rect class='none' x='%.2f' y='%.1f' width='%.2f' height='%.1f'/>", x, y, w - 1, h - 1);
        return;
    }
    fprintf(out, "<rect class='%c%d' x='%.2f' y='%.1f' width='%.2f' height='%.1f'>", m->ramp, c->step, x, y,
            w > 3 ? w - 1 : w, h > 6 ? h - 1 : h);
    svg_titlef(out, "%s", c->title);
    fputs("</rect>", out);
    if (!c->text[0] || h < 14 || w < (is_long ? 5.8 : 6.5) * (double)strlen(c->text) + 3) return;
    fputs("<g pointer-events='none'>", out);
    svg_textf(out, (struct svg_text){ x + 0.5 * (w - 1), y + 0.5 * h + 3.5, css, "middle" }, "%s", c->text);
    fputs("</g>", out);
}

static void draw_map(const struct map *m, FILE *out, const char *label)
{
    double h = row_height(m), gap = m->n_rows > 1 ? 6.0 : m->n_groups > 2 ? 0.0 : 6.0, y = 2.0;
    double axis = m->report->n_outliers ? 30.0 : 20.0;
    double height = (double)m->n_groups * ((double)m->n_rows * h + gap) + axis;
    fprintf(out, "<div class='scroll' tabindex='0' role='region' aria-label='");
    html_text(out, label);
    fprintf(out, "'><svg class='map' viewBox='0 0 %.0f %.0f' role='img' aria-label='", WIDTH, height);
    html_text(out, label);
    fputs("'>\n", out);
    for (size_t g = 0; g < m->n_groups; g++, y += gap) {
        char text[REPORT_TEXT_CAP];
        m->label(m, g, text);
        double middle = m->n_rows % 2 && h >= 14 ? y + 0.5 * (double)m->n_rows * h + 4 : y + 11;
        svg_textf(out, (struct svg_text){ 0, middle, "s12 ink", "start" }, "%s", text);
        for (size_t row = 0; row < m->n_rows; row++, y += h) {
            if (m->n_rows > 1 && h >= 14)
                svg_textf(out, (struct svg_text){ GUTTER - 8, y + 0.5 * h + 3.5, "s10", "end" }, "%zu", row);
            for (size_t layer = 0; layer < (size_t)m->report->model.n_layer; layer++) {
                struct cell cell = { .step = -1 };
                m->cell(m, g, row, layer, &cell);
                draw_cell(m, out, GUTTER + (double)layer * cell_width(m->report), y, h, &cell);
            }
            fputc('\n', out);
        }
    }
    draw_layer_axis(m->report, out, y);
    fputs("</svg></div>\n", out);
}

/* The ramp with the values at its ends and in its middle. */
static void draw_ramp(const struct map *m, FILE *out, const char *what)
{
    char low[REPORT_TEXT_CAP], middle[REPORT_TEXT_CAP], high[REPORT_TEXT_CAP];
    const struct plot_scale *s = &m->scale;
    fprintf(out,
            "<ul class='key'><li>%s</li><li><svg class='ramp' viewBox='0 0 216 30' role='img' "
            "aria-label='colours from low to high'>",
            what);
    for (int i = 0; i < N_STEPS; i++)
        fprintf(out, "<rect class='%c%d' x='%d' y='0' width='23' height='12'/>", m->ramp, i, 24 * i);
    svg_textf(out, (struct svg_text){ 0, 26, "s11", "start" }, "%s", report_divergence_text(low, s->min));
    svg_textf(out, (struct svg_text){ 108, 26, "s11", "middle" }, "%s",
              report_divergence_text(middle, sqrt(s->min * s->max)));
    svg_textf(out, (struct svg_text){ 216, 26, "s11", "end" }, "%s", report_divergence_text(high, s->max));
    fputs("</svg></li></ul>\n", out);
}

/* ------------------------------------------------------------------------------------------------ bits -- */

static int bits_step(double bits)
{
    static const double bounds[N_STEPS - 1] = { 1.9, 2.3, 2.8, 3.3, 3.8, 4.1, 6.1, 8.1 };
    int step = 0;
    while (step < N_STEPS - 1 && bits > bounds[step]) step++;
    return step;
}

static void bits_cell(const struct map *m, size_t group, size_t row, size_t layer, struct cell *out)
{
    struct recipe_text recipe;
    const char *text = report_recipe(m->report->chosen, (int64_t)layer, (int64_t)row);
    if (!text || !recipe_text_parse(text, &recipe)) return;
    double bits = group == 0 ? recipe.key_bits : recipe.value_bits;
    out->step = bits_step(bits);
    snprintf(out->text, sizeof out->text, "%g", bits);
    snprintf(out->title, sizeof out->title, "layer %zu, KV head %zu, %s: %s", layer, row,
             group == 0 ? "keys" : "values", group == 0 ? recipe.key : recipe.value);
}

static void bits_label(const struct map *m, size_t group, char text[REPORT_TEXT_CAP])
{
    (void)m;
    snprintf(text, REPORT_TEXT_CAP, "%s", group == 0 ? "Keys" : "Values");
}

static bool same_row(const struct report *r, int64_t a, int64_t b)
{
    for (int64_t head = 0; head < r->model.n_head_kv; head++)
        if (strcmp(report_recipe(r->chosen, a, head), report_recipe(r->chosen, b, head)) != 0) return false;
    return true;
}

/* Ranges of layers that are alike, as a plan file lists them. */
static void recipe_table(const struct report *r, FILE *out)
{
    fputs("<details><summary>The plan as a table</summary><div class='scroll' tabindex='0' role='region' "
          "aria-label='recipes by layer'><table><thead><tr><th scope='col' class='left'>layers</th>",
          out);
    for (int64_t head = 0; head < r->model.n_head_kv; head++)
        fprintf(out, "<th scope='col' class='left'>KV head %lld</th>", (long long)head);
    fputs("</tr></thead><tbody>\n", out);
    for (int64_t first = 0, last; first < r->model.n_layer; first = last + 1) {
        last = first;
        while (last + 1 < r->model.n_layer && same_row(r, first, last + 1)) last++;
        fprintf(out, "<tr><th scope='row'>%lld", (long long)first);
        if (last > first) fprintf(out, "\xE2\x80\x93%lld", (long long)last);
        fputs("</th>", out);
        for (int64_t head = 0; head < r->model.n_head_kv; head++) {
            fputs("<td class='left mono'>", out);
            html_text(out, report_recipe(r->chosen, first, head));
            fputs("</td>", out);
        }
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div></details>\n", out);
}

void report_bits_map(const struct report *r, FILE *out)
{
    static const double shown[N_STEPS] = { 1.5, 2, 2.5, 3, 3.5, 4, 6, 8, 16 };
    const struct map map = { .report = r,
                             .ramp = 'b',
                             .n_groups = 2,
                             .n_rows = (size_t)r->model.n_head_kv,
                             .cell = bits_cell,
                             .label = bits_label };
    fputs("<figure>", out);
    draw_map(&map, out, "bits of keys and values by layer and KV head");
    fputs("<ul class='key'><li>bits</li><li><svg class='ramp' viewBox='0 0 216 30' role='img' "
          "aria-label='colours from few to many bits'>",
          out);
    for (int i = 0; i < N_STEPS; i++) {
        fprintf(out, "<rect class='b%d' x='%d' y='0' width='23' height='12'/>", i, 24 * i);
        svg_textf(out, (struct svg_text){ 24 * i + 11.5, 26, "s11", "middle" }, "%g", shown[i]);
    }
    fputs("</svg></li></ul><figcaption>Code bits per element, one row for each KV head; keys with channel "
          "classes (x) by their average.",
          out);
    if (r->n_outliers) fputs(" A triangle marks a layer whose key biases stand out.", out);
    fputs("</figcaption></figure>\n", out);
    recipe_table(r, out);
}

/* ----------------------------------------------------------------------------------------- sensitivity -- */

static void kld_cell(const struct map *m, size_t group, size_t row, size_t layer, struct cell *out)
{
    const struct report_sensitivity *s = m->data;
    double kld = s->kld.values[layer * s->kld.n_columns + row * s->n_choices + group];
    char number[REPORT_TEXT_CAP];
    out->step = step_of(&m->scale, kld);
    if (isinf(kld)) snprintf(out->text, sizeof out->text, "\xE2\x88\x9E");
    int n = snprintf(out->title, sizeof out->title, "layer %zu", layer);
    if (s->n_heads > 1) n += snprintf(out->title + n, sizeof out->title - (size_t)n, ", KV head %zu", row);
    snprintf(out->title + n, sizeof out->title - (size_t)n, ", %s alone: KLD %s", s->choices[group],
             report_divergence_text(number, kld));
}

static void kld_label(const struct map *m, size_t group, char text[REPORT_TEXT_CAP])
{
    const struct report_sensitivity *s = m->data;
    snprintf(text, REPORT_TEXT_CAP, "%.32s", s->choices[group]);
}

static void kld_side(const struct report *r, FILE *out, const struct report_sensitivity *s, const char *label,
                     struct plot_scale scale)
{
    if (!s->kld.values) return;
    const struct map map = { .report = r,
                             .ramp = 'e',
                             .n_groups = s->n_choices,
                             .n_rows = s->n_heads,
                             .data = s,
                             .cell = kld_cell,
                             .label = kld_label,
                             .scale = scale };
    draw_map(&map, out, label);
}

static void collect(double *range, const double *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i]) || values[i] <= 0.0) continue;
        range[0] = fmin(range[0], values[i]);
        range[1] = fmax(range[1], values[i]);
    }
}

/* Colours over what was found; at most four decades, so that a single zero-like value does not pale all
 * others. */
static struct plot_scale colour_scale(double *range)
{
    range[0] = fmax(range[0], 1e-4 * range[1]);
    struct plot_scale scale = plot_scale_fit(range, 2, true);
    if (range[1] > range[0]) scale.min = range[0], scale.max = range[1];
    scale.from = 0.0;
    scale.to = N_STEPS;
    return scale;
}

static void kld_maps(const struct report *r, FILE *out)
{
    size_t n_layer = (size_t)r->model.n_layer;
    double range[2] = { INFINITY, 0.0 };
    if (r->keys.kld.values) collect(range, r->keys.kld.values, n_layer * r->keys.kld.n_columns);
    if (r->values.kld.values) collect(range, r->values.kld.values, n_layer * r->values.kld.n_columns);
    struct map colours = { .report = r, .ramp = 'e', .scale = colour_scale(range) };
    fputs("<h3>KL divergence at the logits</h3><figure>\n", out);
    kld_side(r, out, &r->keys, "KLD of each layer when its keys alone are stored in fewer bits",
             colours.scale);
    kld_side(r, out, &r->values, "KLD of each layer when its values alone are stored in fewer bits",
             colours.scale);
    draw_ramp(&colours, out, "mean KLD, nats");
    fputs("<figcaption>One layer", out);
    if (r->keys.n_heads > 1 || r->values.n_heads > 1) fputs(" and KV head", out);
    fputs(" at a time is stored as the row says, all else in 16 bits. Where a mistake costs much, the plan "
          "spends its bits.</figcaption></figure>\n",
          out);
}

static void error_cell(const struct map *m, size_t group, size_t row, size_t layer, struct cell *out)
{
    const struct report_errors *e = m->data;
    double error = e->of[REPORT_E_O].values[layer * e->n_pairs + group];
    (void)row;
    out->step = step_of(&m->scale, error);
    snprintf(out->title, sizeof out->title, "layer %zu, keys %g and values %g bits: e_o %.4f", layer,
             e->key_bits[group], e->value_bits[group], error);
}

static void error_label(const struct map *m, size_t group, char text[REPORT_TEXT_CAP])
{
    const struct report_errors *e = m->data;
    snprintf(text, REPORT_TEXT_CAP, "K%g V%g", e->key_bits[group], e->value_bits[group]);
}

/* Means over layers, the table of the paper. */
static void error_table(const struct report *r, FILE *out, const struct report_errors *e)
{
    static const char *const names[] = { "e_k", "e_v", "e_a", "e_o" };
    fputs("<details><summary>Means over layers: e_k, e_v, e_a, e_o, ", out);
    html_text(out, e->mode);
    fputs("</summary><div class='scroll' tabindex='0' role='region' aria-label='mean "
          "errors'><table><thead><tr><th scope='col' class='left'>pair</th>",
          out);
    for (int i = 0; i < REPORT_N_ERRORS; i++) fprintf(out, "<th scope='col'>%s</th>", names[i]);
    fputs("</tr></thead><tbody>\n", out);
    for (size_t pair = 0; pair < e->n_pairs; pair++) {
        fprintf(out, "<tr><th scope='row'>K%g V%g</th>", e->key_bits[pair], e->value_bits[pair]);
        for (int i = 0; i < REPORT_N_ERRORS; i++) {
            double sum = 0.0;
            char text[REPORT_TEXT_CAP];
            for (int64_t layer = 0; layer < r->model.n_layer; layer++)
                sum += e->of[i].values ? e->of[i].values[(size_t)layer * e->n_pairs + pair] : NAN;
            fputs("<td>", out);
            html_text(out, report_fixed_text(text, sum / (double)r->model.n_layer, i == REPORT_E_A ? 6 : 4));
            fputs("</td>", out);
        }
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div></details>\n", out);
}

static void error_maps(const struct report *r, FILE *out)
{
    double range[2] = { INFINITY, 0.0 };
    bool any = false;
    for (size_t i = 0; i < r->n_errors; i++) {
        const struct report_matrix *e_o = &r->errors[i].of[REPORT_E_O];
        if (e_o->values) collect(range, e_o->values, (size_t)r->model.n_layer * e_o->n_columns);
        any = any || e_o->values;
    }
    struct map map = { .report = r,
                       .ramp = 'e',
                       .n_rows = 1,
                       .cell = error_cell,
                       .label = error_label,
                       .scale = colour_scale(range) };
    for (size_t i = 0; i < r->n_errors; i++) {
        const struct report_errors *e = &r->errors[i];
        if (e->of[REPORT_E_O].values) {
            char label[128];
            fputs("<h3>Relative error of the attention output, e_o: ", out);
            html_text(out, e->mode);
            fputs("</h3><figure>\n", out);
            map.n_groups = e->n_pairs;
            map.data = e;
            snprintf(label, sizeof label, "relative error of the attention output by layer, mode %.64s",
                     e->mode);
            draw_map(&map, out, label);
            fputs("</figure>\n", out);
        }
        error_table(r, out, e);
    }
    if (any) draw_ramp(&map, out, "e_o");
}

/* A dot per query head and a line at their mean. */
static void entropy_strip(const struct report *r, FILE *out)
{
    const struct report_matrix *e = &r->entropy;
    const double height = 150.0, top = 10.0, bottom = 122.0;
    double w = cell_width(r), max = 0.0, ticks[PLOT_TICKS_CAP];
    for (size_t i = 0; i < (size_t)r->model.n_layer * e->n_columns; i++)
        if (isfinite(e->values[i])) max = fmax(max, e->values[i]);
    struct plot_scale y = { .min = 0.0, .max = max > 0.0 ? 1.05 * max : 1.0, .from = bottom, .to = top };
    fputs("<h3>Entropy of attention</h3><figure><div class='scroll' tabindex='0' role='region' "
          "aria-label='entropy of attention by layer'>",
          out);
    fprintf(
        out,
        "<svg class='map' viewBox='0 0 %.0f %.0f' role='img' aria-label='entropy of attention of each query "
        "head by layer'>\n",
        WIDTH, height);
    int n = plot_scale_ticks(&y, 4, ticks);
    for (int i = 0; i < n; i++) {
        double at = plot_scale_at(&y, ticks[i]);
        fprintf(out, "<path class='grid' d='M%.1f %.1fH%.1f'/>", GUTTER, at, WIDTH - RIGHT);
        svg_textf(out, (struct svg_text){ GUTTER - 8, at + 4, "s11", "end" }, "%g", ticks[i]);
    }
    for (size_t layer = 0; layer < (size_t)r->model.n_layer; layer++) {
        double x = GUTTER + ((double)layer + 0.5) * w, sum = 0.0;
        size_t n_known = 0;
        for (size_t head = 0; head < e->n_columns; head++) {
            double value = e->values[layer * e->n_columns + head];
            if (!isfinite(value)) continue;
            sum += value;
            n_known++;
            fprintf(out, "<circle class='dot' cx='%.1f' cy='%.1f' r='2.6'>", x, plot_scale_at(&y, value));
            svg_titlef(out, "layer %zu, head %zu: %.2f nats", layer, head, value);
            fputs("</circle>", out);
        }
        if (n_known > 0)
            fprintf(out, "<path class='mean' d='M%.1f %.1fh%.1f'/>\n", x - 0.35 * w,
                    plot_scale_at(&y, sum / (double)n_known), 0.7 * w);
    }
    draw_layer_axis(r, out, bottom);
    fputs("</svg></div><figcaption>Nats; a dot for each query head, a line at their mean. Heads that look at "
          "few tokens (low) bear low precision well.</figcaption></figure>\n",
          out);
}

static void outlier_note(const struct report *r, FILE *out)
{
    fputs("<p class='note'>Key biases stand out in ", out);
    for (size_t i = 0; i < r->n_outliers; i++) {
        const struct report_outlier *o = &r->outliers[i];
        fprintf(out, "%slayer %lld", i ? ", " : "", (long long)o->layer);
        if (!isnan(o->max_bias)) fprintf(out, " (largest %.3g", o->max_bias);
        if (!isnan(o->max_bias) && !isnan(o->ratio)) fprintf(out, ", %.3g times the median", o->ratio);
        if (!isnan(o->max_bias)) fputc(')', out);
    }
    fputs(". Keys stored per token without centring fail there.</p>\n", out);
}

bool report_has_sensitivity(const struct report *r)
{
    return r->keys.kld.values || r->values.kld.values || r->n_errors || r->entropy.values || r->n_outliers;
}

void report_sensitivity(const struct report *r, FILE *out)
{
    if (r->keys.kld.values || r->values.kld.values) kld_maps(r, out);
    if (r->n_errors) error_maps(r, out);
    if (r->entropy.values) entropy_strip(r, out);
    if (r->n_outliers) outlier_note(r, out);
}
