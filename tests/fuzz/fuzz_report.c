/* Reports from anyone: what is accepted is rendered in every format, and no text of it comes out as markup.
 * The same of the documents of readers. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "programs/report.h"

typedef void writer(const struct report *report, FILE *out);

static void write_text(const struct report *report, FILE *out)
{
    report_write_text(report, out, 80, true);
}

static void write_readers(const struct report *report, FILE *out)
{
    report_readers_write(&report->readers, out);
}

/* Angle brackets (of a page, those behind the style sheet) are those of the page's own markup: each opens and
 * closes. */
static void check_rendered(const struct report *report, writer *write, int is_markup)
{
    char *text = NULL;
    size_t n = 0, n_open = 0, n_close = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out) abort();
    write(report, out);
    if (fclose(out) != 0) abort();
    const char *body = write == report_write_html ? strstr(text, "</style>") : text;
    if (!body) abort();
    for (size_t i = is_markup ? (size_t)(body - text) : n; i < n; i++) {
        n_open += text[i] == '<';
        n_close += text[i] == '>';
        if ((unsigned char)text[i] < 0x20 && text[i] != '\n' && text[i] != '\t') abort();
    }
    if (n == 0 || n_open != n_close || (is_markup && strcasestr(text, "<script"))) abort();
    free(text);
}

static void check_refused(const struct kvant_error *err)
{
    if (!strchr(err->message, ':') || err->status != KVANT_ERR_FORMAT) abort();
}

/* As scores, and as what a router did. */
static void try_readers(json_t *root)
{
    for (int i = 0; i < 2; i++) {
        struct report report = { .root = NULL };
        struct kvant_error err = { 0 };
        if ((i ? report_router_open : report_scores_open)(&report.readers, json_incref(root), "input",
                                                          &err) == KVANT_OK)
            check_rendered(&report, write_readers, 1);
        else
            check_refused(&err);
        report_readers_close(&report.readers);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct report *report;
    struct kvant_error err = { 0 };
    json_t *root = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    if (!root) return 0;
    try_readers(root);
    if (report_open(&report, root, "input", &err) != KVANT_OK) {
        check_refused(&err);
        return 0;
    }
    check_rendered(report, report_write_html, 1);
    check_rendered(report, write_text, 0);
    check_rendered(report, report_write_csv, 0);
    report_close(report);
    return 0;
}
