#include "report_readers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "html.h"
#include "json_fields.h"
#include "plot_scale.h"
#include "program.h"
#include "report_parts.h"

#define NAME_MAX_BYTES 64
#define COUNT_MAX      1e9

/* --------------------------------------------------------------------------------------------- reading -- */

static bool pair(struct json_fields *f, const json_t *object, const char *name, double *low, double *high)
{
    const json_t *list;
    double both[2];
    if (!field_list(f, object, name, FIELD_REQUIRED, 2, &list) ||
        !field_numbers(f, list, name, 2, 0, 1, false, both))
        return false;
    *low = both[0];
    *high = both[1];
    return true;
}

/* A curve rises from (0, 0) to (1, 1). */
static bool read_curve(struct json_fields *f, const json_t *object, struct report_score *s)
{
    const json_t *list;
    if (!field_list(f, object, "roc", FIELD_OPTIONAL, REPORT_CURVE_MAX, &list) || !list) return !list;
    s->n_curve = json_array_size(list);
    s->curve = allocate(s->n_curve, sizeof *s->curve);
    for (size_t i = 0; i < s->n_curve; i++) {
        const json_t *point = json_array_get(list, i);
        char name[32];
        snprintf(name, sizeof name, "roc[%zu]", i);
        if (!json_is_array(point)) return fields_refuse(f, name, "is no list of two numbers");
        if (!field_numbers(f, point, name, 2, 0, 1, false, s->curve[i])) return false;
        if (isnan(s->curve[i][0]) || isnan(s->curve[i][1]) ||
            (i && (s->curve[i][0] < s->curve[i - 1][0] || s->curve[i][1] < s->curve[i - 1][1])))
            return fields_refuse(f, name, "falls; a curve rises");
    }
    return true;
}

static bool read_scores(struct json_fields *f, struct report_readers *r)
{
    const json_t *list;
    if (!field_number(f, r->score_root, "answers", FIELD_REQUIRED, 0, COUNT_MAX, &r->n_answers) ||
        !field_number(f, r->score_root, "correct", FIELD_REQUIRED, 0, COUNT_MAX, &r->n_correct) ||
        !field_list(f, r->score_root, "scores", FIELD_REQUIRED, REPORT_SCORES_MAX, &list))
        return false;
    size_t n = json_array_size(list);
    r->scores = allocate(n, sizeof *r->scores);
    for (; r->n_scores < n; r->n_scores++) {
        const json_t *object = json_array_get(list, r->n_scores);
        struct report_score *s = &r->scores[r->n_scores];
        size_t mark = fields_enter(f, "scores[%d]", (int)r->n_scores);
        bool ok = json_is_object(object) || fields_refuse(f, "", "is not an object");
        ok = ok && field_text(f, object, "score", FIELD_REQUIRED, NAME_MAX_BYTES, &s->name) &&
             field_number(f, object, "auroc", FIELD_OPTIONAL, 0, 1, &s->auroc) &&
             pair(f, object, "auroc_95", &s->low, &s->high) &&
             field_number(f, object, "auroc_in_length_bins", FIELD_OPTIONAL, 0, 1, &s->same_length) &&
             read_curve(f, object, s);
        fields_leave(f, mark);
        if (!ok) {
            r->n_scores++; /* its curve is to be freed */
            return false;
        }
    }
    return true;
}

static bool read_rows(struct json_fields *f, struct report_readers *r)
{
    const json_t *list;
    if (!field_number(f, r->router_root, "questions", FIELD_REQUIRED, 0, COUNT_MAX, &r->n_questions) ||
        !field_list(f, r->router_root, "rows", FIELD_REQUIRED, REPORT_ROWS_MAX, &list))
        return false;
    size_t n = json_array_size(list);
    r->rows = allocate(n, sizeof *r->rows);
    for (; r->n_rows < n; r->n_rows++) {
        const json_t *object = json_array_get(list, r->n_rows);
        struct report_row *row = &r->rows[r->n_rows];
        size_t mark = fields_enter(f, "rows[%d]", (int)r->n_rows);
        bool ok = json_is_object(object) || fields_refuse(f, "", "is not an object");
        ok = ok && field_text(f, object, "name", FIELD_REQUIRED, NAME_MAX_BYTES, &row->name) &&
             field_number(f, object, "accuracy", FIELD_REQUIRED, 0, 1, &row->accuracy) &&
             pair(f, object, "accuracy_95", &row->low, &row->high) &&
             field_number(f, object, "tokens", FIELD_REQUIRED, 0, COUNT_MAX, &row->tokens) &&
             field_number(f, object, "oracle_saving", FIELD_OPTIONAL, -1e6, 1e6, &row->saving) &&
             field_number(f, object, "slow_share", FIELD_REQUIRED, 0, 1, &row->slow_share);
        fields_leave(f, mark);
        if (!ok) return false;
    }
    return true;
}

static kvant_status open_document(struct report_readers *r, const json_t *root, const char *file,
                                  bool (*read)(struct json_fields *, struct report_readers *),
                                  struct kvant_error *err)
{
    struct json_fields f = { .file = file, .err = err };
    bool ok = json_is_object(root) ? read(&f, r) : fields_refuse(&f, "document", "is not an object");
    return ok ? KVANT_OK : KVANT_ERR_FORMAT;
}

kvant_status report_scores_open(struct report_readers *r, json_t *root, const char *file,
                                struct kvant_error *err)
{
    r->score_root = root;
    return open_document(r, root, file, read_scores, err);
}

kvant_status report_router_open(struct report_readers *r, json_t *root, const char *file,
                                struct kvant_error *err)
{
    r->router_root = root;
    return open_document(r, root, file, read_rows, err);
}

void report_readers_close(struct report_readers *r)
{
    for (size_t i = 0; i < r->n_scores; i++) free(r->scores[i].curve);
    free(r->scores);
    free(r->rows);
    json_decref(r->score_root);
    json_decref(r->router_root);
    *r = (struct report_readers){ 0 };
}

/* ----------------------------------------------------------------------------------------------- plots -- */

#define WIDTH  460.0
#define HEIGHT 360.0

struct plot {
    FILE *out;
    struct plot_scale x, y;
};

static void begin_plot(struct plot *p, const char *what, const char *below, const char *above)
{
    double ticks[PLOT_TICKS_CAP];
    p->x.from = 44;
    p->x.to = WIDTH - 12;
    p->y.from = HEIGHT - 42;
    p->y.to = 30;
    fprintf(p->out, "<svg viewBox='0 0 %.0f %.0f' role='group' aria-label='%s'>\n", WIDTH, HEIGHT, what);
    int n = plot_scale_ticks(&p->y, 5, ticks);
    for (int i = 0; i < n; i++) {
        double y = plot_scale_at(&p->y, ticks[i]);
        fprintf(p->out, "<path class='grid' d='M%.1f %.1fH%.1f'/>", p->x.from, y, p->x.to);
        svg_textf(p->out, (struct svg_text){ p->x.from - 8, y + 4, "s12", "end" }, "%g", ticks[i]);
    }
    n = plot_scale_ticks(&p->x, 5, ticks);
    for (int i = 0; i < n; i++) {
        double x = plot_scale_at(&p->x, ticks[i]);
        fprintf(p->out, "<path class='grid' d='M%.1f %.1fV%.1f'/>", x, p->y.from, p->y.to);
        svg_textf(p->out, (struct svg_text){ x, p->y.from + 18, "s12", "middle" }, "%g", ticks[i]);
    }
    fprintf(p->out, "<path class='axis' d='M%.1f %.1fH%.1f'/>", p->x.from, p->y.from, p->x.to);
    svg_textf(p->out, (struct svg_text){ p->x.to, p->y.from + 35, "s12", "end" }, "%s", below);
    svg_textf(p->out, (struct svg_text){ 4, p->y.to - 10, "s12", "start" }, "%s", above);
    fputc('\n', p->out);
}

/* Four kinds of scores, of which the best is drawn: fifteen curves would hide one another. */
enum { KIND_KV, KIND_HIDDEN, KIND_LOGITS, KIND_LENGTH, KINDS };
static const char *const kind_names[KINDS] = { "from the cache", "from hidden states", "from probabilities",
                                               "length alone" };
static const char *const kind_styles[KINDS] = { "class='front kvant'", "class='front kvtuner'",
                                                "class='front logits'",
                                                "class='front uniform' stroke-dasharray='4 4'" };

static int kind_of(const char *name)
{
    return strncmp(name, "kv-coe", 6) == 0        ? KIND_KV
           : strncmp(name, "hidden-coe", 10) == 0 ? KIND_HIDDEN
           : strcmp(name, "length") == 0          ? KIND_LENGTH
                                                  : KIND_LOGITS;
}

static const struct report_score *best_of_kind(const struct report_readers *r, int kind)
{
    const struct report_score *best = NULL;
    for (size_t i = 0; i < r->n_scores; i++) {
        const struct report_score *s = &r->scores[i];
        if (kind_of(s->name) == kind && s->n_curve > 1 && !isnan(s->auroc) &&
            (!best || s->auroc > best->auroc))
            best = s;
    }
    return best;
}

static void draw_roc(const struct report_readers *r, FILE *out)
{
    struct plot p = { .out = out, .x = { .min = 0, .max = 1 }, .y = { .min = 0, .max = 1 } };
    fputs("<figure><ul class='key'>", out);
    for (int k = 0; k < KINDS; k++) {
        const struct report_score *s = best_of_kind(r, k);
        if (!s) continue;
        fprintf(out, "<li><svg viewBox='0 0 16 16' aria-hidden='true'><path %s d='M0 8H16'/></svg>%s: ",
                kind_styles[k], kind_names[k]);
        html_textf(out, "%s %.2f", s->name, s->auroc);
        fputs("</li>", out);
    }
    fputs("</ul>\n", out);
    begin_plot(&p, "Right answers that pass over wrong answers that pass; further up is better.",
               "wrong answers that pass", "right answers that pass");
    fprintf(out, "<path class='none' d='M%.1f %.1fL%.1f %.1f'/>\n", p.x.from, p.y.from, p.x.to, p.y.to);
    for (int k = KINDS; k-- > 0;) {
        const struct report_score *s = best_of_kind(r, k);
        if (!s) continue;
        fprintf(out, "<polyline %s points='", kind_styles[k]);
        for (size_t i = 0; i < s->n_curve; i++)
            fprintf(out, "%s%.1f,%.1f", i ? " " : "", plot_scale_at(&p.x, s->curve[i][0]),
                    plot_scale_at(&p.y, s->curve[i][1]));
        fputs("'/>\n", out);
    }
    fputs("</svg><figcaption>ROC: the threshold goes down from left to right; the grey line is chance. The "
          "best score of each "
          "kind, with its area.</figcaption></figure>\n",
          out);
}

static bool is_oracle(const struct report_row *row)
{
    return strcmp(row->name, "oracle") == 0;
}

static enum report_source row_source(const struct report_row *row)
{
    if (is_oracle(row)) return REPORT_KVTUNER; /* its mark and colour */
    return strstr(row->name, "router") ? REPORT_KVANT : REPORT_UNIFORM;
}

static int by_tokens(const void *a, const void *b)
{
    const struct report_row *x = *(const struct report_row *const *)a,
                            *y = *(const struct report_row *const *)b;
    if (x->tokens != y->tokens) return x->tokens < y->tokens ? -1 : 1;
    return (x->accuracy < y->accuracy) - (x->accuracy > y->accuracy);
}

/* Joins what no other way beats in both; the oracle knows the answers and takes no part. */
static void draw_pareto(const struct report_readers *r, struct plot *p)
{
    const struct report_row **sorted = allocate(r->n_rows, sizeof *sorted);
    size_t n = 0, n_joined = 0;
    double best = -1;
    for (size_t i = 0; i < r->n_rows; i++)
        if (!is_oracle(&r->rows[i])) sorted[n++] = &r->rows[i];
    qsort(sorted, n, sizeof *sorted, by_tokens);
    for (size_t i = 0; i < n; i++)
        if (sorted[i]->accuracy > best) {
            best = sorted[i]->accuracy;
            sorted[n_joined++] = sorted[i];
        }
    fputs("<polyline class='front kvant' points='", p->out);
    for (size_t i = 0; i < n_joined; i++)
        fprintf(p->out, "%s%.1f,%.1f", i ? " " : "", plot_scale_at(&p->x, sorted[i]->tokens),
                plot_scale_at(&p->y, 100 * sorted[i]->accuracy));
    fputs("'/>\n", p->out);
    free(sorted);
}

static void draw_router(const struct report_readers *r, FILE *out)
{
    struct plot p = { .out = out };
    double *values = allocate(r->n_rows, sizeof *values);
    for (size_t i = 0; i < r->n_rows; i++) values[i] = r->rows[i].tokens;
    p.x = plot_scale_fit(values, r->n_rows, false);
    for (size_t i = 0; i < r->n_rows; i++) values[i] = 100 * r->rows[i].accuracy;
    p.y = plot_scale_fit(values, r->n_rows, false);
    free(values);
    fputs("<figure>", out);
    begin_plot(&p,
               "Accuracy over mean tokens; further up and left is better. The table below has the numbers.",
               "mean tokens generated", "accuracy, %");
    draw_pareto(r, &p);
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct report_row *row = &r->rows[i];
        double x = plot_scale_at(&p.x, row->tokens), y = plot_scale_at(&p.y, 100 * row->accuracy);
        bool is_left = x < 0.6 * WIDTH;
        fprintf(out, "<g class='%s'>", report_source_name(row_source(row)));
        svg_titlef(out, "%s: %.1f %% right, %.1f tokens", row->name, 100 * row->accuracy, row->tokens);
        report_mark(out, row_source(row), x, y);
        svg_textf(out,
                  (struct svg_text){ x + (is_left ? 9 : -9), y - 5, "s11 halo", is_left ? "start" : "end" },
                  "%s", row->name);
        fputs("</g>\n", out);
    }
    fputs("</svg><figcaption>Every generated token counts. The line joins what no other way beats in both; "
          "the oracle, which knows "
          "the answers, is not part of it.</figcaption></figure>\n",
          out);
}

/* ---------------------------------------------------------------------------------------------- tables -- */

static void cell(FILE *out, double x, int n_decimals)
{
    char text[REPORT_TEXT_CAP];
    fprintf(out, "<td>%s</td>", report_fixed_text(text, x, n_decimals));
}

static void begin_table(FILE *out, const char *label, const char *const *heads, size_t n)
{
    fprintf(out, "<div class='scroll' tabindex='0' role='region' aria-label='%s'><table><thead><tr>", label);
    for (size_t i = 0; i < n; i++)
        fprintf(out, "<th scope='col'%s>%s</th>", i ? "" : " class='left'", heads[i]);
    fputs("</tr></thead><tbody>\n", out);
}

static void write_scores(const struct report_readers *r, FILE *out)
{
    static const char *const heads[] = { "score", "AUROC", "from", "to", "same length" };
    begin_table(out, "scores", heads, sizeof heads / sizeof *heads);
    for (size_t i = 0; i < r->n_scores; i++) {
        const struct report_score *s = &r->scores[i];
        fputs("<tr><th scope='row'>", out);
        html_text(out, s->name);
        fputs("</th>", out);
        cell(out, s->auroc, 3);
        cell(out, s->low, 3);
        cell(out, s->high, 3);
        cell(out, s->same_length, 3);
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div>\n", out);
}

static void write_rows(const struct report_readers *r, FILE *out)
{
    static const char *const heads[] = {
        "way to answer", "accuracy %", "from", "to", "tokens", "of the oracle&#39;s saving %", "slow %"
    };
    begin_table(out, "ways to answer", heads, sizeof heads / sizeof *heads);
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct report_row *row = &r->rows[i];
        fputs("<tr><th scope='row'>", out);
        html_text(out, row->name);
        fputs("</th>", out);
        cell(out, 100 * row->accuracy, 1);
        cell(out, 100 * row->low, 1);
        cell(out, 100 * row->high, 1);
        cell(out, row->tokens, 1);
        cell(out, 100 * row->saving, 0);
        cell(out, 100 * row->slow_share, 0);
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div>\n", out);
}

void report_readers_write(const struct report_readers *r, FILE *out)
{
    fputs("<div class='pair'>", out);
    if (r->score_root) {
        fprintf(out, "<div><h3>How sure is an answer? %.0f answers, %.0f right</h3>\n", r->n_answers,
                r->n_correct);
        draw_roc(r, out);
        fputs("</div>", out);
    }
    if (r->router_root && r->n_rows) {
        fprintf(out, "<div><h3>When to think: %.0f questions</h3>\n", r->n_questions);
        draw_router(r, out);
        fputs("</div>", out);
    }
    fputs("</div>\n", out);
    if (r->score_root) write_scores(r, out);
    if (r->router_root) write_rows(r, out);
}
