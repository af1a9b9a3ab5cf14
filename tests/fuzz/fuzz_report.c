/* Reports from anyone: what is accepted is rendered in every format, and no text of it comes out as markup.
 * */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "programs/report.h"

typedef void writer(const struct report *report, FILE *out);

static void write_text(const struct report *report, FILE *out)
{
    report_write_text(report, out, 80, true);
}

/* Angle brackets behind the style sheet are those of the page's own markup: each opens and closes. */
static void check_rendered(const struct report *report, writer *write, int is_page)
{
    char *text = NULL;
    size_t n = 0, n_open = 0, n_close = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out) abort();
    write(report, out);
    if (fclose(out) != 0) abort();
    const char *body = is_page ? strstr(text, "</style>") : NULL;
    if (is_page && !body) abort();
    for (size_t i = is_page ? (size_t)(body - text) : n; i < n; i++) {
        n_open += text[i] == '<';
        n_close += text[i] == '>';
        if ((unsigned char)text[i] < 0x20 && text[i] != '\n' && text[i] != '\t') abort();
    }
    if (n == 0 || n_open != n_close || (is_page && strcasestr(text, "<script"))) abort();
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct report *report;
    struct kvant_error err = { 0 };
    json_t *root = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    if (!root) return 0;
    if (report_open(&report, root, "input", &err) != KVANT_OK) {
        if (!strchr(err.message, ':') || err.status != KVANT_ERR_FORMAT) abort();
        return 0;
    }
    check_rendered(report, report_write_html, 1);
    check_rendered(report, write_text, 0);
    check_rendered(report, report_write_csv, 0);
    report_close(report);
    return 0;
}
