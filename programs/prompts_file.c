#include "prompts_file.h"

#include <stdlib.h>
#include <string.h>

#include "lines.h"
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

static int read_line(struct prompt_list *out, const struct kvant_model *model, const struct lines *lines,
                     bool raw)
{
    json_t *object = lines_json(lines);
    if (!object) return EXIT_FAILED;
    bool as_it_is;
    const char *text = prompt_of(object, &as_it_is);
    kvant_token *ids = NULL;
    size_t n_ids = 0;
    int code = text ? prompt_tokens(model, NULL, NULL, text, strlen(text), raw || as_it_is, &ids, &n_ids)
                    : fail_text("%s: line %zu has no string \"question\", \"prompt\" or \"text\"",
                                lines->path, lines->number);
    json_decref(object);
    if (code == EXIT_OK && n_ids == 0)
        code = fail_text("%s: line %zu: the prompt is empty", lines->path, lines->number);
    if (code == EXIT_OK) append(out, ids, n_ids);
    else free(ids);
    return code;
}

int prompts_read_jsonl(struct prompt_list *out, const struct kvant_model *model, const char *path,
                       int64_t n_most, bool raw)
{
    struct lines lines;
    int code = lines_open(&lines, path);
    while (code == EXIT_OK && (int64_t)out->n < n_most && lines_next(&lines))
        if (!lines.is_blank) code = read_line(out, model, &lines, raw);
    lines_close(&lines);
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
