#include "score_rows.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static char *copy(const char *text)
{
    size_t n = strlen(text) + 1;
    return memcpy(allocate(n, 1), text, n);
}

/* true, false, 1 or 0; −1: another label. */
static int label_of(const json_t *value)
{
    if (json_is_boolean(value)) return json_is_true(value);
    if (!json_is_number(value)) return -1;
    double x = json_number_value(value);
    return x == 1 ? 1 : x == 0 ? 0 : -1;
}

static int read_row(struct score_rows *rows, const char *line, size_t n_bytes, size_t number)
{
    json_error_t error;
    json_t *object = json_loadb(line, n_bytes, JSON_REJECT_DUPLICATES, &error);
    if (!object)
        return fail_text("%s: line %zu, column %d: %s; each line is a JSON object", rows->path, number,
                         error.column, error.text);
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
        rows->items[rows->n++] = (struct score_row){copy(prompt), copy(answer), label == 1,
                                                    json_is_true(json_object_get(object, "raw")), number};
    json_decref(object);
    return code;
}

int score_rows_read(struct score_rows *rows, const char *path, int64_t n_most)
{
    size_t n_bytes, n_lines = 1, number = 1;
    *rows = (struct score_rows){.path = path};
    char *text = file_read(path, &n_bytes);
    if (!text) return EXIT_FAILED;
    for (size_t i = 0; i < n_bytes; i++) n_lines += text[i] == '\n';
    rows->items = allocate(n_lines, sizeof *rows->items);
    int code = EXIT_OK;
    for (size_t at = 0; code == EXIT_OK && at < n_bytes && (n_most == 0 || (int64_t)rows->n < n_most);
         number++) {
        const char *end = memchr(text + at, '\n', n_bytes - at);
        size_t n = end ? (size_t)(end - (text + at)) : n_bytes - at, n_blank = 0;
        while (n_blank < n && strchr(" \t\r", text[at + n_blank]) && text[at + n_blank]) n_blank++;
        if (n_blank < n) code = read_row(rows, text + at, n, number);
        at += n + 1;
    }
    free(text);
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
