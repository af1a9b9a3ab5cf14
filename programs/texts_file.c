#include "texts_file.h"

#include <stdlib.h>
#include <string.h>

#include "lines.h"

void texts_add(struct text_list *list, const char *text, size_t n_bytes, size_t line)
{
    struct text_item item = {allocate(n_bytes + 1, 1), n_bytes, line};
    memcpy(item.text, text, n_bytes);
    item.text[n_bytes] = '\0';
    if ((list->n & (list->n - 1)) == 0) /* full at each power of two */
        list->items = reallocate(list->items, list->n ? 2 * list->n : 1, sizeof *list->items);
    list->items[list->n++] = item;
}

static int add_json(struct text_list *list, const struct lines *lines)
{
    static const char *const fields[] = {"text", "input", "prompt", "question"};
    json_t *object = lines_json(lines), *text = NULL;
    if (!object) return EXIT_FAILED;
    for (int i = 0; i < 4 && !text; i++) text = json_object_get(object, fields[i]);
    int code = EXIT_OK;
    if (!json_is_string(text))
        code = fail_text("%s: line %zu has no string \"text\", \"input\", \"prompt\" or \"question\"",
                         lines->path, lines->number);
    else if (text_is_blank(json_string_value(text), json_string_length(text)))
        code = fail_text("%s: line %zu: the text is empty", lines->path, lines->number);
    else
        texts_add(list, json_string_value(text), json_string_length(text), lines->number);
    json_decref(object);
    return code;
}

int texts_read(struct text_list *out, const char *path, bool as_jsonl)
{
    struct lines lines;
    size_t n_path = strlen(path);
    if (n_path > 6 && strcmp(path + n_path - 6, ".jsonl") == 0) as_jsonl = true;
    int code = lines_open(&lines, path);
    while (code == EXIT_OK && lines_next(&lines)) {
        size_t n = lines.n_line;
        if (as_jsonl && !lines.is_blank) code = add_json(out, &lines);
        if (!as_jsonl && lines.is_blank)
            code = fail_text("%s: line %zu is empty; each line is a text", path, lines.number);
        if (!as_jsonl && !lines.is_blank)
            texts_add(out, lines.line, lines.line[n - 1] == '\r' ? n - 1 : n, lines.number);
    }
    lines_close(&lines);
    if (code == EXIT_OK && out->n == 0) code = fail_text("%s: holds no text", path);
    return code;
}

void texts_free(struct text_list *list)
{
    for (size_t i = 0; i < list->n; i++) free(list->items[i].text);
    free(list->items);
    *list = (struct text_list){0};
}
