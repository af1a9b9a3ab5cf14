#include "score_rows.h"

#include <stdlib.h>
#include <string.h>

#include "lines.h"

/* true, false, 1 or 0; −1: another label. */
static int label_of(const json_t *value)
{
    if (json_is_boolean(value)) return json_is_true(value);
    if (!json_is_number(value)) return -1;
    double x = json_number_value(value);
    return x == 1 ? 1 : x == 0 ? 0 : -1;
}

static int read_row(struct score_rows *rows, const struct lines *lines)
{
    size_t number = lines->number;
    json_t *object = lines_json(lines);
    if (!object) return EXIT_FAILED;
    const char *prompt = json_string_value(json_object_get(object, "prompt"));
    const char *answer = json_string_value(json_object_get(object, "answer"));
    const json_t *correct = json_object_get(object, "correct");
    int label = label_of(correct), code = EXIT_OK;
    if (!prompt || !answer)
        code = fail_text("%s: line %zu needs the strings \"prompt\" and \"answer\"", rows->path, number);
    else if (!*prompt || !*answer)
        code = fail_text("%s: line %zu: the %s is empty", rows->path, number, *prompt ? "answer" : "prompt");
    else if (label < 0)
        code = fail_text("%s: line %zu: \"correct\" is %s; true or false (or 1, 0) is needed", rows->path,
                         number, correct ? "another label" : "missing");
    else
        rows->items[rows->n++] = (struct score_row){text_copy(prompt), text_copy(answer), label == 1,
                                                    json_is_true(json_object_get(object, "raw")), number};
    json_decref(object);
    return code;
}

int score_rows_read(struct score_rows *rows, const char *path, int64_t n_most)
{
    struct lines lines;
    *rows = (struct score_rows){.path = path};
    int code = lines_open(&lines, path);
    if (code != EXIT_OK) return code;
    rows->items = allocate(lines.n_lines, sizeof *rows->items);
    while (code == EXIT_OK && (n_most == 0 || (int64_t)rows->n < n_most) && lines_next(&lines))
        if (!lines.is_blank) code = read_row(rows, &lines);
    lines_close(&lines);
    if (code == EXIT_OK && rows->n == 0) code = fail_text("%s: holds no row", path);
    return code;
}

void score_rows_free(struct score_rows *rows)
{
    for (size_t i = 0; i < rows->n; i++) {
        free(rows->items[i].prompt);
        free(rows->items[i].answer);
    }
    free(rows->items);
    *rows = (struct score_rows){0};
}
