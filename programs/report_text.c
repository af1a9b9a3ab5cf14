/* The report for a terminal, and for spreadsheets. */
#include <math.h>
#include <string.h>

#include "plot_terminal.h"
#include "program.h"
#include "report_parts.h"
#include "utf8.h"

/* A name from a file may hold anything: what a terminal could take for a command is shown as '?'. */
static void print_name(FILE *out, const char *name, int n_columns)
{
    size_t n = strlen(name);
    for (int shown = 0; n > 0 && shown < n_columns; shown++) {
        size_t n_char = utf8_length(name, n);
        bool is_control = n_char <= 1 && ((unsigned char)*name < 0x20 || *name == 0x7F || n_char == 0);
        is_control = is_control ||
                     (n_char == 2 && (unsigned char)name[0] == 0xC2 && (unsigned char)name[1] < 0xA0);
        if (is_control)
            fputc('?', out);
        else
            fwrite(name, 1, n_char, out);
        name += n_char ? n_char : 1;
        n -= n_char ? n_char : 1;
    }
}

/* ASCII alone: printf pads by bytes. */
static const char *number_text(char text[REPORT_TEXT_CAP], double value, int n_decimals)
{
    if (isnan(value))
        snprintf(text, REPORT_TEXT_CAP, "-");
    else if (isinf(value))
        snprintf(text, REPORT_TEXT_CAP, "inf");
    else
        report_fixed_text(text, value, n_decimals);
    return text;
}

static void print_point(const struct report *r, FILE *out, const struct report_point *p, int n_columns)
{
    char text[5][REPORT_TEXT_CAP];
    fprintf(out, " %c %9.3f %9s %9s %10s %9s %9s  ", p == r->chosen ? '*' : ' ', p->true_bits,
            number_text(text[0], p->page_bits, 3), number_text(text[1], p->bytes_per_token, 1),
            number_text(text[2], p->kld_mean, 5), number_text(text[3], p->same_top_p, 1),
            number_text(text[4], p->ppl_ratio, 4));
    print_name(out, p->name, n_columns > 110 ? n_columns - 70 : 40);
    if (p->source != REPORT_KVANT) fprintf(out, " (%s)", report_source_name(p->source));
    fprintf(out, "%s%s\n", p->dominated ? ", dominated" : "",
            p->verdict == REPORT_COLLAPSED ? ", collapsed" : "");
}

void report_write_text(const struct report *r, FILE *out, int n_columns, bool unicode)
{
    const char *names[PLOT_N_SERIES];
    struct plot_point *points = allocate(r->n_points, sizeof *points);
    print_name(out, r->model.name, 72);
    fprintf(out, ": %lld layers, %lld KV heads\n\n", (long long)r->model.n_layer,
            (long long)r->model.n_head_kv);
    fprintf(out, "   %9s %9s %9s %10s %9s %9s  %s\n", "true bits", "page bits", "B/token", "KLD mean",
            "same top", "ppl ratio", "plan");
    for (size_t i = 0; i < r->n_points; i++) {
        const struct report_point *p = &r->points[i];
        print_point(r, out, p, n_columns);
        points[i] = (struct plot_point){ p->true_bits, p->kld_mean, (int)p->source, p->chosen };
    }
    fputc('\n', out);
    for (int i = 0; i < PLOT_N_SERIES; i++) names[i] = report_source_name((enum report_source)i);
    plot_front(out, points, r->n_points, names, (struct plot_style){ n_columns, unicode });
    free(points);
}

static void csv_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (; text && *text; text++) {
        if (*text == '"') fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

void report_write_csv(const struct report *r, FILE *out)
{
    fputs("source,name,true_bits,page_bits,equivalent_bits,bytes_per_token,kld_mean,kld_p999,same_top_p,"
          "ppl_ratio,kld_predicted,dominated,chosen,verdict\r\n",
          out);
    for (size_t i = 0; i < r->n_points; i++) {
        const struct report_point *p = &r->points[i];
        const double values[] = { p->true_bits,       p->page_bits, p->equivalent_bits,
                                  p->bytes_per_token, p->kld_mean,  p->kld_p999,
                                  p->same_top_p,      p->ppl_ratio, p->kld_predicted };
        fprintf(out, "%s,", report_source_name(p->source));
        csv_text(out, p->name);
        for (size_t j = 0; j < sizeof values / sizeof *values; j++)
            if (isnan(values[j]))
                fputc(',', out);
            else
                fprintf(out, ",%.9g", values[j]);
        fprintf(out, ",%d,%d,%s\r\n", p->dominated, p->chosen,
                p->verdict == REPORT_PASS        ? "pass"
                : p->verdict == REPORT_COLLAPSED ? "collapsed"
                                                 : "");
    }
}
