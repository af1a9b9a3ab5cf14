#include "prompts_file.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "prompt.h"

static void append(struct prompt_list *list, const kvant_token *tokens, size_t n_tokens)
{
    list->items = reallocate(list->items, list->n + 1, sizeof *list->items);
    list->items[list->n++] = (struct kvant_prompt){tokens, n_tokens};
}

/* The object's prompt; NULL when it has none. */
static const char *prompt_of(const json_t *object, bool *as_it_is)
{
    static const char *const fields[] = {"question", "prompt", "text"};
    for (int i = 0; i < 3; i++) {
        const char *text = json_string_value(json_object_get(object, fields[i]));
        *as_it_is = i == 2;
        if (text) return text;
    }
    return NULL;
}

static int read_line(struct prompt_list *out, const struct kvant_model *model, const char *path,
                     int64_t number, const char *line, size_t n_bytes, bool raw)
{
    json_error_t error;
    json_t *object = json_loadb(line, n_bytes, 0, &error);
    if (!object)
        return fail_text("%s: line %lld, column %d: %s; each line is a JSON object", path, (long long)number,
                         error.column, error.text);
    bool as_it_is;
    const char *text = prompt_of(object, &as_it_is);
    kvant_token *ids = NULL;
    size_t n_ids = 0;
    int code = text ? prompt_tokens(model, NULL, NULL, text, strlen(text), raw || as_it_is, &ids, &n_ids)
                    : fail_text("%s: line %lld has no string \"question\", \"prompt\" or \"text\"", path,
                                (long long)number);
    json_decref(object);
    if (code == EXIT_OK && n_ids == 0)
        code = fail_text("%s: line %lld: the prompt is empty", path, (long long)number);
    if (code == EXIT_OK) append(out, ids, n_ids);
    else free(ids);
    return code;
}

int prompts_read_jsonl(struct prompt_list *out, const struct kvant_model *model, const char *path,
                       int64_t n_most, bool raw)
{
    size_t n_bytes;
    char *text = file_read(path, &n_bytes);
    if (!text) return EXIT_FAILED;
    int code = EXIT_OK;
    int64_t number = 1;
    for (size_t at = 0; code == EXIT_OK && at < n_bytes && (int64_t)out->n < n_most; number++) {
        const char *end = memchr(text + at, '\n', n_bytes - at);
        size_t n = end ? (size_t)(end - (text + at)) : n_bytes - at, n_blank = 0;
        while (n_blank < n && strchr(" \t\r", text[at + n_blank]) && text[at + n_blank]) n_blank++;
        if (n_blank < n) code = read_line(out, model, path, number, text + at, n, raw);
        at += n + 1;
    }
    free(text);
    if (code == EXIT_OK && out->n == 0)
        return fail_text("%s: no prompts; give one JSON object per line", path);
    return code;
}

int prompts_read_text(struct prompt_list *out, const struct kvant_model *model, const char *path,
                      int64_t n_most)
{
    struct kvant_error err;
    size_t n_bytes, n_ids;
    kvant_token *ids;
    char *text = file_read(path, &n_bytes);
    if (!text) return EXIT_FAILED;
    kvant_status status = tokens_of_text(model, text, n_bytes, KVANT_TOKENIZE_BOS, &ids, &n_ids, &err);
    free(text);
    if (status != KVANT_OK) return fail(&err);
    for (size_t at = 0; at < n_ids && (int64_t)out->n < n_most; at += PROMPT_PIECE_TOKENS) {
        size_t n = n_ids - at < PROMPT_PIECE_TOKENS ? n_ids - at : PROMPT_PIECE_TOKENS;
        kvant_token *piece = allocate(n, sizeof *piece);
        memcpy(piece, ids + at, n * sizeof *piece);
        append(out, piece, n);
    }
    free(ids);
    return out->n ? EXIT_OK : fail_text("%s: the text is empty", path);
}

void prompts_free(struct prompt_list *list)
{
    for (size_t i = 0; i < list->n; i++) free((void *)list->items[i].tokens);
    free(list->items);
    *list = (struct prompt_list){0};
}
