#include "lines.h"

#include <stdlib.h>
#include <string.h>

int lines_open(struct lines *lines, const char *path)
{
    *lines = (struct lines){.path = path, .n_lines = 1};
    lines->text = file_read(path, &lines->n_bytes);
    if (!lines->text) return EXIT_FAILED;
    for (size_t i = 0; i < lines->n_bytes; i++) lines->n_lines += lines->text[i] == '\n';
    return EXIT_OK;
}

bool text_is_blank(const char *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r') return false;
    return true;
}

bool lines_next(struct lines *lines)
{
    if (lines->at >= lines->n_bytes) return false;
    lines->line = lines->text + lines->at;
    const char *end = memchr(lines->line, '\n', lines->n_bytes - lines->at);
    lines->is_cut = !end;
    lines->n_line = end ? (size_t)(end - lines->line) : lines->n_bytes - lines->at;
    lines->is_blank = text_is_blank(lines->line, lines->n_line);
    lines->number++;
    lines->at += lines->n_line + 1;
    return true;
}

json_t *lines_json(const struct lines *lines)
{
    json_error_t error;
    json_t *value = json_loadb(lines->line, lines->n_line, JSON_REJECT_DUPLICATES, &error);
    if (!value)
        fail_text("%s: line %zu, column %d: not JSON: %s; each line is a JSON object", lines->path,
                  lines->number, error.column, error.text);
    return value;
}

void lines_close(struct lines *lines)
{
    free(lines->text);
    *lines = (struct lines){0};
}
