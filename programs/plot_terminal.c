#include "plot_terminal.h"

#include <langinfo.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "plot_scale.h"
#include "program.h"

#define N_ROWS      16
#define GUTTER      9 /* labels of the KLD and the axis */
#define COLUMNS_MIN 40
#define COLUMNS_MAX 120

/* A cell is a mark, or up to 2 x 4 dots of a line, which Unicode has as Braille patterns. */
struct canvas {
    int n_columns;                            /* of the plot itself */
    unsigned char marks[N_ROWS][COLUMNS_MAX]; /* 1 + series, 1 + PLOT_N_SERIES: chosen, 0: none */
    unsigned char dots[N_ROWS][COLUMNS_MAX];
    struct plot_scale x, y; /* from 0 to columns - 1; from N_ROWS - 1 up to 0 */
};

static const char *const marks_unicode[] = { " ", "\xE2\x97\x8F", "\xE2\x97\x86", "\xE2\x96\xA1",
                                             "\xE2\x98\x85" };
static const char *const marks_ascii[] = { " ", "o", "x", "+", "#" };

struct plot_style plot_style_of(FILE *out)
{
    struct winsize size;
    struct plot_style style = { .n_columns = 80 };
    const char *columns = getenv("COLUMNS");
    if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        style.n_columns = size.ws_col;
    else if (columns && atoi(columns) > 0)
        style.n_columns = atoi(columns);
    style.unicode = isatty(fileno(out)) && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    return style;
}

static int column_of(const struct canvas *c, double bits)
{
    return (int)lround(plot_scale_at(&c->x, bits));
}

static int row_of(const struct canvas *c, double kld)
{
    return (int)lround(plot_scale_at(&c->y, kld));
}

/* --------------------------------------------------------------------------------------------- drawing -- */

/* The dot at (x, y), in columns and rows. Braille: bits 1 2 4 64 down the left side, 8 16 32 128 the
 * right. */
static void draw_dot(struct canvas *c, double x, double y)
{
    static const unsigned char bits[2][4] = { { 1, 2, 4, 64 }, { 8, 16, 32, 128 } };
    int ix = (int)lround(2.0 * x + 0.5), iy = (int)lround(4.0 * y + 1.5);
    int column = ix / 2, row = iy / 4;
    if (ix < 0 || iy < 0 || column >= c->n_columns || row >= N_ROWS) return;
    c->dots[row][column] |= bits[ix % 2][iy % 4];
}

static void draw_line(struct canvas *c, const struct plot_point *a, const struct plot_point *b)
{
    double x0 = plot_scale_at(&c->x, a->bits), y0 = plot_scale_at(&c->y, a->kld);
    double x1 = plot_scale_at(&c->x, b->bits), y1 = plot_scale_at(&c->y, b->kld);
    int n = 1 + (int)(2.0 * fmax(fabs(x1 - x0), 2.0 * fabs(y1 - y0)));
    for (int i = 0; i <= n; i++) draw_dot(c, x0 + (x1 - x0) * i / n, y0 + (y1 - y0) * i / n);
}

static int compare_bits(const void *a, const void *b)
{
    const struct plot_point *p = a, *q = b;
    if (p->bits != q->bits) return p->bits < q->bits ? -1 : 1;
    return (p->kld > q->kld) - (p->kld < q->kld);
}

/* Joins the points of series 0 that none of their own beats. */
static void draw_front_line(struct canvas *c, const struct plot_point *sorted, size_t n)
{
    const struct plot_point *last = NULL;
    for (size_t i = 0; i < n; i++) {
        const struct plot_point *p = &sorted[i];
        if (p->series != 0 || !isfinite(p->kld) || (last && p->kld >= last->kld)) continue;
        if (last) draw_line(c, last, p);
        last = p;
    }
}

static void draw_marks(struct canvas *c, const struct plot_point *points, size_t n)
{
    for (int layer = PLOT_N_SERIES; layer >= 0; layer--) /* 0: the chosen one is on top */
        for (size_t i = 0; i < n; i++) {
            const struct plot_point *p = &points[i];
            bool now = layer == 0 ? p->chosen : p->series == layer - 1;
            if (!now || isnan(p->kld)) continue;
            c->marks[row_of(c, p->kld)][column_of(c, p->bits)] = (unsigned char)(p->chosen ? 1 + PLOT_N_SERIES
                                                                                           : 1 + p->series);
        }
}

/* -------------------------------------------------------------------------------------------- printing -- */

static void print_cell(FILE *out, const struct canvas *c, int row, int column, bool unicode)
{
    unsigned char mark = c->marks[row][column], dots = c->dots[row][column];
    if (mark)
        fputs(unicode ? marks_unicode[mark] : marks_ascii[mark], out);
    else if (!dots)
        fputc(' ', out);
    else if (!unicode)
        fputc('.', out);
    else
        fprintf(out, "\xE2%c%c", 0xA0 + (dots >> 6), 0x80 + (dots & 63)); /* U+2800 + dots */
}

static void print_rows(FILE *out, const struct canvas *c, bool unicode)
{
    double ticks[PLOT_TICKS_CAP];
    int n_ticks = plot_scale_ticks(&c->y, 5, ticks);
    for (int row = 0; row < N_ROWS; row++) {
        char label[24] = "";
        for (int i = 0; i < n_ticks; i++)
            if (row_of(c, ticks[i]) == row) plot_tick_text(label, ticks[i]);
        int last = c->n_columns - 1;
        while (last >= 0 && !c->marks[row][last] && !c->dots[row][last]) last--;
        fprintf(out, "%*.*s %s", GUTTER - 2, GUTTER - 2, label,
                unicode ? (*label ? "\xE2\x94\xA4" : "\xE2\x94\x82") : (*label ? "+" : "|"));
        for (int column = 0; column <= last; column++) print_cell(out, c, row, column, unicode);
        fputc('\n', out);
    }
}

static void print_bits_axis(FILE *out, const struct canvas *c, bool unicode)
{
    static const double bits[] = { 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 12, 16, 24, 32 };
    char labels[COLUMNS_MAX + GUTTER + 8];
    int free_from = 0, n = c->n_columns;
    memset(labels, ' ', sizeof labels);
    fprintf(out, "%*s%s", GUTTER - 1, "", unicode ? "\xE2\x94\x94" : "+");
    for (int i = 0; i < n; i++) {
        bool is_tick = false;
        for (size_t j = 0; j < sizeof bits / sizeof *bits; j++)
            is_tick = is_tick || (bits[j] >= c->x.min && bits[j] <= c->x.max && column_of(c, bits[j]) == i);
        fputs(unicode ? (is_tick ? "\xE2\x94\xB4" : "\xE2\x94\x80") : (is_tick ? "+" : "-"), out);
    }
    for (size_t j = 0; j < sizeof bits / sizeof *bits; j++) {
        char text[24];
        if (bits[j] < c->x.min || bits[j] > c->x.max) continue;
        int length = (int)strlen(plot_tick_text(text, bits[j]));
        int at = GUTTER + column_of(c, bits[j]) - length / 2;
        if (at < free_from || at + length > GUTTER + n) continue;
        memcpy(labels + at, text, (size_t)length);
        free_from = at + length + 1;
    }
    int last = GUTTER + n - 1;
    while (last > 0 && labels[last] == ' ') last--;
    fprintf(out, "\n%.*s\n", last + 1, labels);
}

static void print_legend(FILE *out, const struct plot_point *points, size_t n,
                         const char *const names[PLOT_N_SERIES], bool unicode)
{
    bool used[PLOT_N_SERIES + 1] = { false };
    const char *const *marks = unicode ? marks_unicode : marks_ascii;
    for (size_t i = 0; i < n; i++) used[points[i].chosen ? PLOT_N_SERIES : points[i].series] = true;
    fprintf(out, "%*strue bits", GUTTER, "");
    for (int i = 0; i <= PLOT_N_SERIES; i++)
        if (used[i]) fprintf(out, "   %s %s", marks[1 + i], i < PLOT_N_SERIES ? names[i] : "chosen");
    fputc('\n', out);
}

void plot_front(FILE *out, const struct plot_point *points, size_t n, const char *const names[PLOT_N_SERIES],
                struct plot_style style)
{
    if (n == 0) return;
    struct canvas *c = allocate(1, sizeof *c);
    struct plot_point *sorted = allocate(n, sizeof *sorted);
    double *values = allocate(n, sizeof *values);
    int n_columns = style.n_columns < COLUMNS_MIN   ? COLUMNS_MIN
                    : style.n_columns > COLUMNS_MAX ? COLUMNS_MAX
                                                    : style.n_columns;
    memcpy(sorted, points, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_bits);
    c->n_columns = n_columns - GUTTER - 1;
    for (size_t i = 0; i < n; i++) values[i] = points[i].bits;
    c->x = plot_scale_fit(values, n, true);
    c->x.to = c->n_columns - 1;
    for (size_t i = 0; i < n; i++) values[i] = points[i].kld;
    c->y = plot_scale_fit(values, n, true);
    c->y.from = N_ROWS - 1;
    draw_front_line(c, sorted, n);
    draw_marks(c, points, n);
    fputs("   KLD, mean\n", out);
    print_rows(out, c, style.unicode);
    print_bits_axis(out, c, style.unicode);
    print_legend(out, points, n, names, style.unicode);
    free(values);
    free(sorted);
    free(c);
}
