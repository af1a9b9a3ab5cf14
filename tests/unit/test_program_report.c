/*
 * Parts of the program that need neither a model nor a file: recipes taken apart, axes, the front in the
 * terminal, the composition of predictions, and numbers as the report writes them.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "programs/html.h"
#include "programs/plot_scale.h"
#include "programs/plot_terminal.h"
#include "programs/predict.h"
#include "programs/recipe_text.h"
#include "programs/report_parts.h"

static void recipes_are_taken_apart(void **state)
{
    (void)state;
    static const struct {
        const char *recipe, *key, *value;
        double key_bits, value_bits;
    } good[] = { { "k4c64 v3h", "k4c64", "v3h", 4, 3 },
                 { "k2.75c32xmv2g32h", "k2.75c32xm", "v2g32h", 2.75, 2 },
                 { "k16 v16", "k16", "v16", 16, 16 },
                 { "k16t   v4", "k16t", "v4", 16, 4 },
                 { "k1c64x v2", "k1c64x", "v2", 1, 2 } };
    static const char *const bad[] = {
        "",       "k",        "k4",       "k4c64",    "v4h",        "v4 k4",
        "k4 v4 ", " k4 v4",   "k4 v",     "k0 v4",    "k17 v4",     "kx v4",
        "k4 v4x", "k4<b> v4", "k4..5 v4", "k4 v4 v4", "k123456 v4", "k4c64c64c64c64c64c64c64c64c64c64 v4"
    };
    struct recipe_text recipe;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (!recipe_text_parse(good[i].recipe, &recipe)) fail_msg("'%s' is refused", good[i].recipe);
        assert_string_equal(recipe.key, good[i].key);
        assert_string_equal(recipe.value, good[i].value);
        assert_true(recipe.key_bits == good[i].key_bits && recipe.value_bits == good[i].value_bits);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (recipe_text_parse(bad[i], &recipe)) fail_msg("'%s' is accepted", bad[i]);
}

/* ------------------------------------------------------------------------------------------------ axes -- */

static void scales_hold_their_data(void **state)
{
    (void)state;
    const double values[] = { 0.02, NAN, 3.0, INFINITY, 0.5, 0.0 };
    for (int log = 0; log < 2; log++) {
        struct plot_scale s = plot_scale_fit(values, 6, log);
        s.from = 100;
        s.to = 20;
        assert_true(s.min < (log ? 0.02 : 0.0) && s.max > 3.0 && (!log || s.min > 0.0));
        assert_true(plot_scale_at(&s, s.min) == 100.0 && fabs(plot_scale_at(&s, s.max) - 20.0) < 1e-9);
        assert_true(plot_scale_at(&s, 0.5) < plot_scale_at(&s, 0.02));
        assert_true(plot_scale_at(&s, 1e9) == plot_scale_at(&s, s.max)); /* clamped, also on the log axis: */
        assert_true(plot_scale_at(&s, log ? 0.0 : -1e9) == 100.0);
    }
    struct plot_scale middle = { .min = 1, .max = 100, .from = 0, .to = 8, .log = true };
    assert_true(fabs(plot_scale_at(&middle, 10.0) - 4.0) < 1e-12);
    /* Nothing, or one value: still a scale. */
    const double one[] = { 5.0 };
    for (size_t n = 0; n < 2; n++)
        for (int log = 0; log < 2; log++) {
            struct plot_scale s = plot_scale_fit(one, n, log);
            assert_true(s.max > s.min && isfinite(s.min) && isfinite(s.max));
        }
}

static void expect_ticks(struct plot_scale scale, int n_wanted, const double *expected, int n)
{
    double ticks[PLOT_TICKS_CAP];
    assert_int_equal(plot_scale_ticks(&scale, n_wanted, ticks), n);
    for (int i = 0; i < n; i++) assert_true(fabs(ticks[i] - expected[i]) <= 1e-12 * fabs(expected[i]));
}

static void ticks_are_round_numbers(void **state)
{
    (void)state;
    expect_ticks((struct plot_scale){ .min = 0, .max = 100 }, 5, (const double[]){ 0, 20, 40, 60, 80, 100 },
                 6);
    expect_ticks((struct plot_scale){ .min = -0.3, .max = 1.1 }, 4, (const double[]){ 0, 0.5, 1 }, 3);
    expect_ticks((struct plot_scale){ .min = 0.03, .max = 1.5, .log = true }, 5,
                 (const double[]){ 0.05, 0.1, 0.2, 0.5, 1 }, 5);
    expect_ticks((struct plot_scale){ .min = 0.00003, .max = 1.5, .log = true }, 5,
                 (const double[]){ 0.0001, 0.001, 0.01, 0.1, 1 }, 5);
    /* Three hundred decades are thinned out. */
    double ticks[PLOT_TICKS_CAP];
    struct plot_scale wide = { .min = 1e-300, .max = 1e300, .log = true };
    int n = plot_scale_ticks(&wide, 5, ticks);
    assert_true(n >= 3 && n <= PLOT_TICKS_CAP && ticks[n - 1] > 1e200);
}

/* -------------------------------------------------------------------------------------------- terminal -- */

static const char *const series[PLOT_N_SERIES] = { "kvant", "kvtuner", "uniform" };

static const char *plot(const struct plot_point *points, size_t n, struct plot_style style)
{
    static char text[1 << 14];
    FILE *out = fmemopen(text, sizeof text, "w");
    assert_non_null(out);
    text[0] = '\0';
    plot_front(out, points, n, series, style);
    assert_int_equal(fclose(out), 0);
    return text;
}

static int columns_of(const char *line, size_t n)
{
    int columns = 0;
    for (size_t i = 0; i < n; i++) columns += ((unsigned char)line[i] & 0xC0) != 0x80;
    return columns;
}

static void the_front_fits_its_terminal(void **state)
{
    (void)state;
    const struct plot_point points[] = { { 2.5, 0.02, 2, false },     { 3.0, 0.005, 0, true },
                                         { 3.5, 0.01, 1, false },     { 4.0, 0.001, 0, false },
                                         { 5.0, INFINITY, 2, false }, { 8.5, 0.0, 2, false } };
    for (int columns = 20; columns <= 200; columns += 30)
        for (int unicode = 0; unicode < 2; unicode++) {
            const char *text = plot(points, 6, (struct plot_style){ columns, unicode }), *line = text;
            int limit = columns < 40 ? 40 : columns > 120 ? 120 : columns, n_lines = 0;
            for (const char *end; (end = strchr(line, '\n')) != NULL; line = end + 1, n_lines++) {
                bool is_legend = strstr(line, "true bits") != NULL && strstr(line, "true bits") < end;
                if (!is_legend && columns_of(line, (size_t)(end - line)) > limit)
                    fail_msg("%d: %s", columns, text);
                for (const char *c = line; c < end && !unicode; c++) assert_true(*c >= ' ' && *c < 0x7F);
            }
            assert_int_equal(n_lines, 20);
            assert_non_null(strstr(text, unicode ? "\xE2\x98\x85 chosen" : "# chosen"));
            assert_non_null(strstr(text, unicode ? "\xE2\x97\x86 kvtuner" : "x kvtuner"));
        }
}

/* Where a mark stands in the 16 rows of the plot, behind the axis in column 8. */
static void find_mark(const char *text, char mark, int *row, int *column)
{
    const char *line = strchr(text, '\n') + 1;
    for (*row = 0; *row < 16; ++*row, line = strchr(line, '\n') + 1) {
        const char *end = strchr(line, '\n');
        for (*column = 9; line + *column < end; ++*column)
            if (line[*column] == mark) return;
    }
    fail_msg("no '%c' in\n%s", mark, text);
}

/* Lower is further down, fewer bits further left, and what is infinite is in the first row. */
static void the_front_puts_points_where_they_belong(void **state)
{
    (void)state;
    const struct plot_point points[] = { { 2.0, 0.1, 0, false },
                                         { 8.0, 0.001, 1, false },
                                         { 4.0, INFINITY, 2, false } };
    const char *text = plot(points, 3, (struct plot_style){ 80, false });
    int row[3], column[3];
    for (int i = 0; i < 3; i++) find_mark(text, "ox+"[i], &row[i], &column[i]);
    assert_int_equal(row[2], 0);
    assert_true(row[2] < row[0] && row[0] < row[1]);
    assert_true(column[0] < column[2] && column[2] < column[1]);
    assert_true(abs(column[1] - column[2] - (column[2] - column[0])) <= 1); /* 2, 4, 8: logarithmic */
    assert_string_equal(plot(points, 0, (struct plot_style){ 80, false }), "");
}

/* ------------------------------------------------------------------------------------------ prediction -- */

static void contexts_end_at_the_models_own(void **state)
{
    (void)state;
    static const struct {
        int n_ctx, n;
        int64_t contexts[3];
    } cases[] = { { 131072, 3, { 4096, 16384, 32768 } },
                  { 32768, 3, { 4096, 16384, 32768 } },
                  { 8192, 2, { 4096, 8192 } },
                  { 4096, 1, { 4096 } },
                  { 512, 1, { 512 } },
                  { 20000, 3, { 4096, 16384, 20000 } } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t contexts[PREDICT_CONTEXTS_CAP];
        assert_int_equal(predict_contexts(cases[i].n_ctx, contexts), cases[i].n);
        for (int j = 0; j < cases[i].n; j++) assert_int_equal(contexts[j], cases[i].contexts[j]);
    }
}

static void add_row(struct predict_times *t, const char *key, const char *value, double short_s,
                    double long_s)
{
    struct predict_row *row = &t->rows[t->n_rows++];
    snprintf(row->key, sizeof row->key, "%s", key);
    snprintf(row->value, sizeof row->value, "%s", value);
    row->short_s = short_s;
    row->context_s[0] = long_s;
}

static void attention_is_composed_of_its_sides(void **state)
{
    (void)state;
    struct predict_times t = { .n_contexts = 1, .contexts = { 4096 }, .token_s = 0.01 };
    add_row(&t, "k4c64", "v4h", 1.0, 10.0);
    add_row(&t, "k2c64", "v4h", 1.5, 8.0);
    add_row(&t, "k4c64", "v2h", 1.25, 9.0);
    add_row(&t, "k16", "v16", 3.0, 20.0);
    assert_true(predict_attention_s(&t, "k2c64", "v2h", -1) == 1.5 + 1.25 - 1.0);
    assert_true(predict_attention_s(&t, "k2c64", "v2h", 0) == 8.0 + 9.0 - 10.0);
    assert_true(predict_attention_s(&t, "k2c64", "v4h", 0) == 8.0);
    assert_true(predict_attention_s(&t, "k16", "v16", 0) == 20.0);
    assert_true(isnan(predict_attention_s(&t, "k3c64", "v2h", 0)));
    assert_true(isnan(predict_attention_s(&t, "k2c64", "v3h", 0)));
    assert_true(isnan(predict_attention_s(&t, "k16", "v4h", 0))); /* 16 bits were measured as a pair alone */
}

/* --------------------------------------------------------------------------------------------- writing -- */

static void text_is_escaped(void **state)
{
    (void)state;
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    html_text(out, "<a href=\"x\">'&'</a>\x01\x1b\xff\xc3\xa9\n");
    html_text(out, NULL);
    svg_titlef(out, "%s", "</title><script>");
    fclose(out);
    assert_string_equal(
        text,
        "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xC3\xA9"
        "\n<title>&lt;/title&gt;&lt;script&gt;</title>");
    free(text);
    /* A cut does not fall inside a character. */
    char long_text[1200];
    memset(long_text, 'x', sizeof long_text);
    memcpy(long_text + 998, "\xE2\x82\xAC", 3);
    long_text[1199] = '\0';
    out = open_memstream(&text, &n);
    html_textf(out, "%s", long_text);
    fclose(out);
    assert_int_equal(n, 998);
    free(text);
}

static void numbers_are_as_people_read_them(void **state)
{
    (void)state;
    char text[REPORT_TEXT_CAP];
    assert_string_equal(report_divergence_text(text, 0.00488), "0.0049");
    assert_string_equal(report_divergence_text(text, 0.000021), "0.000021");
    assert_string_equal(report_divergence_text(text, 0.1), "0.10");
    assert_string_equal(report_divergence_text(text, 12.3), "12");
    assert_string_equal(report_divergence_text(text, 0.0), "0");
    assert_string_equal(report_divergence_text(text, 1e-9), "<0.0000001");
    assert_string_equal(report_divergence_text(text, INFINITY), "\xE2\x88\x9E");
    assert_string_equal(report_divergence_text(text, NAN), "\xE2\x80\x93");
    assert_string_equal(report_fixed_text(text, 3.14159, 2), "3.14");
    assert_string_equal(report_fixed_text(text, 1e300, 3), "1e+300");
    assert_string_equal(report_seconds_text(text, 4.25), "4.2 s");
    assert_string_equal(report_seconds_text(text, 41.4), "41 s");
    assert_string_equal(report_seconds_text(text, 185), "3 min 5 s");
    assert_string_equal(report_seconds_text(text, 7500), "2 h 5 min");
    assert_string_equal(report_tokens_text(text, 32768), "32K");
    assert_string_equal(report_tokens_text(text, 20000), "20000");
    assert_string_equal(report_tokens_text(text, 512), "512");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipes_are_taken_apart),
        cmocka_unit_test(scales_hold_their_data),
        cmocka_unit_test(ticks_are_round_numbers),
        cmocka_unit_test(the_front_fits_its_terminal),
        cmocka_unit_test(the_front_puts_points_where_they_belong),
        cmocka_unit_test(contexts_end_at_the_models_own),
        cmocka_unit_test(attention_is_composed_of_its_sides),
        cmocka_unit_test(text_is_escaped),
        cmocka_unit_test(numbers_are_as_people_read_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
