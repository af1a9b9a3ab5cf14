#include "texts_file.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

void texts_add(struct text_list *list, const char *text, size_t n_bytes, size_t line)
{
    struct text_item item = {allocate(n_bytes + 1, 1), n_bytes, line};
    memcpy(item.text, text, n_bytes);
    item.text[n_bytes] = '\0';
    if ((list->n & (list->n - 1)) == 0) /* full at each power of two */
        list->items = reallocate(list->items, list->n ? 2 * list->n : 1, sizeof *list->items);
    list->items[list->n++] = item;
}

static bool is_blank(const char *line, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return false;
    return true;
}

static int add_json(struct text_list *list, const char *path, const char *line, size_t n_bytes, size_t number)
{
    static const char *const fields[] = {"text", "input", "prompt", "question"};
    json_error_t error;
    json_t *object = json_loadb(line, n_bytes, JSON_REJECT_DUPLICATES, &error), *text = NULL;
    if (!object)
        return fail_text("%s: line %zu, column %d: %s; each line is a JSON object", path, number,
                         error.column, error.text);
    for (int i = 0; i < 4 && !text; i++) text = json_object_get(object, fields[i]);
    int code = EXIT_OK;
    if (!json_is_string(text))
        code = fail_text("%s: line %zu has no string \"text\", \"input\", \"prompt\" or \"question\"", path,
                         number);
    else if (is_blank(json_string_value(text), json_string_length(text)))
        code = fail_text("%s: line %zu: the text is empty", path, number);
    else
        texts_add(list, json_string_value(text), json_string_length(text), number);
    json_decref(object);
    return code;
}

int texts_read(struct text_list *out, const char *path, bool as_jsonl)
{
    size_t n_bytes, n_path = strlen(path), number = 1;
    char *text = file_read(path, &n_bytes);
    if (!text) return EXIT_FAILED;
    if (n_path > 6 && strcmp(path + n_path - 6, ".jsonl") == 0) as_jsonl = true;
    int code = EXIT_OK;
    for (size_t at = 0; code == EXIT_OK && at < n_bytes; number++) {
        const char *end = memchr(text + at, '\n', n_bytes - at);
        size_t n = end ? (size_t)(end - (text + at)) : n_bytes - at;
        bool blank = is_blank(text + at, n);
        if (as_jsonl && !blank) code = add_json(out, path, text + at, n, number);
        if (!as_jsonl && blank) code = fail_text("%s: line %zu is empty; each line is a text", path, number);
        if (!as_jsonl && !blank)
            texts_add(out, text + at, n > 0 && text[at + n - 1] == '\r' ? n - 1 : n, number);
        at += n + 1;
    }
    free(text);
    if (code == EXIT_OK && out->n == 0) code = fail_text("%s: holds no text", path);
    return code;
}

void texts_free(struct text_list *list)
{
    for (size_t i = 0; i < list->n; i++) free(list->items[i].text);
    free(list->items);
    *list = (struct text_list){0};
}
