/* Predicted speed and memory: the chosen plan beside the 16-bit cache as bars, and every plan as a table. */
#include <math.h>
#include <string.h>

#include "html.h"
#include "program.h"
#include "report_parts.h"

#define WIDTH 440.0
#define LABEL 62.0 /* contexts stand here   */
#define VALUE 96.0 /* and the numbers here  */
#define BAR   15.0

struct measure {
    const char *title, *label;
    double (*value)(const struct report_prediction *p);
    const char *(*text)(char text[REPORT_TEXT_CAP], double value);
    bool more_is_better;
};

static double speed_of(const struct report_prediction *p)
{
    return p ? p->tokens_per_s : NAN;
}

static double memory_of(const struct report_prediction *p)
{
    return p ? p->memory_bytes : NAN;
}

static const char *rate_text(char text[REPORT_TEXT_CAP], double value)
{
    return report_fixed_text(text, value, value < 10.0 ? 2 : 1);
}

static const char *memory_text(char text[REPORT_TEXT_CAP], double value)
{
    if (isnan(value)) return report_fixed_text(text, value, 0);
    return bytes_text(text, value);
}

static const struct measure measures[] = {
    { "Generation, tokens per second", "predicted tokens per second by context", speed_of, rate_text, true },
    { "Memory of the cache", "memory of the cache by context", memory_of, memory_text, false },
};

static void draw_bar(const struct measure *m, FILE *out, double value, double max, double y, const char *css,
                     double compared)
{
    char text[REPORT_TEXT_CAP];
    double w = max > 0.0 && isfinite(value) ? (WIDTH - LABEL - VALUE) * value / max : 0.0;
    fprintf(out, "<rect class='%s' x='%.1f' y='%.1f' width='%.1f' height='%.1f' rx='2'/>", css, LABEL, y,
            fmax(w, 1.0), BAR);
    bool has_ratio = compared > 0.0 && value > 0.0;
    double ratio = m->more_is_better ? value / compared : compared / value;
    if (has_ratio)
        svg_textf(out, (struct svg_text){ LABEL + w + 7, y + 12, "s12 strong", "start" },
                  "%s  (%.*f\xC3\x97%s)", m->text(text, value),
                  ratio < 10.0 ? (m->more_is_better ? 2 : 1) : 0, ratio, m->more_is_better ? "" : " less");
    else
        svg_textf(out, (struct svg_text){ LABEL + w + 7, y + 12, "s12", "start" }, "%s",
                  m->text(text, value));
}

static void draw_bars(const struct report *r, FILE *out, const struct measure *m)
{
    const struct report_point *chosen = r->chosen;
    double max = 0.0, y = 4.0;
    for (size_t i = 0; i < chosen->n_predicted; i++) {
        const struct report_prediction *base = report_prediction_at(&r->baseline,
                                                                    chosen->predicted[i].context);
        max = fmax(max, fmax(m->value(&chosen->predicted[i]), m->value(base))); /* fmax passes over NaN */
    }
    double height = (double)chosen->n_predicted * (2 * BAR + 16) + 2;
    fprintf(out, "<figure><h3>%s</h3><svg viewBox='0 0 %.0f %.0f' role='img' aria-label='%s'>\n", m->title,
            WIDTH, height, m->label);
    for (size_t i = 0; i < chosen->n_predicted; i++, y += 2 * BAR + 16) {
        const struct report_prediction *p = &chosen->predicted[i];
        double base = m->value(report_prediction_at(&r->baseline, p->context));
        char text[REPORT_TEXT_CAP];
        svg_textf(out, (struct svg_text){ LABEL - 10, y + BAR + 5, "s13", "end" }, "%s",
                  report_tokens_text(text, p->context));
        draw_bar(m, out, base, max, y, "bar base", NAN);
        draw_bar(m, out, m->value(p), max, y + BAR + 2, "bar", base);
        fputc('\n', out);
    }
    fputs("</svg></figure>\n", out);
}

/* ----------------------------------------------------------------------------------------------- table -- */

/* Contexts of all plans, ascending. */
static size_t contexts_of(const struct report *r, double contexts[REPORT_CONTEXTS_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i <= r->n_points; i++) {
        const struct report_point *p = i < r->n_points ? &r->points[i] : &r->baseline;
        for (size_t j = 0; j < p->n_predicted; j++) {
            size_t at = 0;
            while (at < n && contexts[at] < p->predicted[j].context) at++;
            if ((at < n && contexts[at] == p->predicted[j].context) || n == REPORT_CONTEXTS_MAX) continue;
            memmove(contexts + at + 1, contexts + at, (n - at) * sizeof *contexts);
            contexts[at] = p->predicted[j].context;
            n++;
        }
    }
    return n;
}

static void table_row(const struct report *r, FILE *out, const struct report_point *p, const double *contexts,
                      size_t n)
{
    char text[REPORT_TEXT_CAP];
    bool is_base = p == &r->baseline;
    fprintf(out, "<tr%s><th scope='row'>",
            p == r->chosen ? " class='chosen'"
            : p->dominated ? " class='dominated'"
                           : "");
    if (!is_base) report_icon(out, p->source);
    fputs("<span class='plan'>", out);
    html_text(out, is_base ? "16 bits" : p->name);
    fputs("</span></th>", out);
    fprintf(out, "<td>%s</td>", report_fixed_text(text, p->true_bits, 2));
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < n; i++)
            fprintf(out, "<td>%s</td>",
                    measures[k].text(text, measures[k].value(report_prediction_at(p, contexts[i]))));
    fputs("</tr>\n", out);
}

static void table(const struct report *r, FILE *out)
{
    double contexts[REPORT_CONTEXTS_MAX];
    char text[REPORT_TEXT_CAP];
    size_t n = contexts_of(r, contexts);
    fputs("<div class='scroll' tabindex='0' role='region' aria-label='predicted speed and memory of every "
          "plan'><table><thead><tr><th scope='col' rowspan='2' class='left'>plan</th><th scope='col' "
          "rowspan='2'>true bits</th>",
          out);
    fprintf(out,
            "<th scope='colgroup' colspan='%zu'>tokens/s at</th><th scope='colgroup' colspan='%zu'>cache "
            "at</th></tr><tr>",
            n, n);
    for (int k = 0; k < 2; k++)
        for (size_t i = 0; i < n; i++)
            fprintf(out, "<th scope='col'>%s</th>", report_tokens_text(text, contexts[i]));
    fputs("</tr></thead><tbody>\n", out);
    if (r->baseline.n_predicted) table_row(r, out, &r->baseline, contexts, n);
    for (size_t i = 0; i < r->n_points; i++)
        if (r->points[i].n_predicted) table_row(r, out, &r->points[i], contexts, n);
    fputs("</tbody></table></div>\n", out);
}

bool report_has_predictions(const struct report *r)
{
    bool any = r->baseline.n_predicted > 0;
    for (size_t i = 0; i < r->n_points; i++) any = any || r->points[i].n_predicted > 0;
    return any;
}

void report_speed(const struct report *r, FILE *out)
{
    if (r->chosen && r->chosen->n_predicted) {
        fputs("<ul class='key'><li><svg viewBox='0 0 16 16' aria-hidden='true'><rect class='bar base' y='3' "
              "width='16' height='10' rx='2'/></svg>16-bit cache</li><li><svg viewBox='0 0 16 16' "
              "aria-hidden='true'><rect class='bar' y='3' width='16' height='10' rx='2'/></svg>the chosen "
              "plan</li></ul><div class='pair'>",
              out);
        for (size_t i = 0; i < sizeof measures / sizeof *measures; i++) draw_bars(r, out, &measures[i]);
        fputs("</div>\n", out);
    }
    table(r, out);
}
