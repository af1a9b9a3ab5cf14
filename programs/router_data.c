#include "router_data.h"

#include <stdlib.h>
#include <string.h>

#include "lines.h"
#include "modes.h"

size_t collected_find(struct collected *c, const char *question, const char *final)
{
    for (size_t i = 0; i < c->n; i++)
        if (strcmp(c->items[i].question, question) == 0) return i;
    if ((c->n & (c->n - 1)) == 0) /* full at each power of two */
        c->items = reallocate(c->items, c->n ? 2 * c->n : 1, sizeof *c->items);
    c->items[c->n] = (struct collected_question){.question = text_copy(question), .final = text_copy(final)};
    return c->n++;
}

static int read_row(struct collected *c, const struct lines *lines)
{
    size_t number = lines->number;
    json_t *object = lines_json(lines);
    if (!object) return EXIT_FAILED;
    const char *question = json_string_value(json_object_get(object, "question")),
               *final = json_string_value(json_object_get(object, "right")),
               *mode = json_string_value(json_object_get(object, "mode")),
               *modes = json_string_value(json_object_get(object, "modes"));
    const json_t *correct = json_object_get(object, "correct"), *tokens = json_object_get(object, "tokens"),
                 *truncated = json_object_get(object, "truncated");
    int code = EXIT_OK, m = 0;
    while (mode && m < MODES && strcmp(mode, mode_names[m]) != 0) m++;
    if (!question || !final || !mode || !modes || !*question)
        code = fail_text("%s: line %zu needs the strings \"question\", \"right\", \"mode\" and \"modes\"",
                         c->path, number);
    else if (m == MODES)
        code = fail_text("%s: line %zu: the mode \"%.40s\" is neither fast nor slow", c->path, number, mode);
    else if (!json_is_boolean(correct) || !json_is_boolean(truncated))
        code = fail_text("%s: line %zu: \"correct\" and \"truncated\" are true or false", c->path, number);
    else if (!json_is_integer(tokens) || json_integer_value(tokens) < 0)
        code = fail_text("%s: line %zu: \"tokens\" is a whole number from 0", c->path, number);
    else if (strlen(modes) >= sizeof c->modes || (*c->modes && strcmp(modes, c->modes) != 0))
        code = fail_text("%s: line %zu: answers with the modes \"%.40s\", those before with \"%s\"", c->path,
                         number, modes, c->modes);
    else {
        size_t i = collected_find(c, question, final);
        snprintf(c->modes, sizeof c->modes, "%s", modes);
        c->items[i].answers[m] = (struct collected_answer){
            true, json_is_true(correct), json_is_true(truncated), json_integer_value(tokens)};
    }
    json_decref(object);
    return code;
}

int collected_read(struct collected *c, const char *path, bool may_be_absent)
{
    struct lines lines;
    *c = (struct collected){.path = path};
    if (may_be_absent && !file_exists(path)) return EXIT_OK;
    int code = lines_open(&lines, path);
    while (code == EXIT_OK && lines_next(&lines) && !lines.is_cut) /* cut while it was written */
        if (!lines.is_blank) code = read_row(c, &lines);
    lines_close(&lines);
    if (code == EXIT_OK && c->n == 0 && !may_be_absent) code = fail_text("%s: holds no answer", path);
    return code;
}

size_t collected_label(struct collected *c, int64_t limit, enum labels labels)
{
    size_t n = 0, n_dropped = 0;
    for (size_t i = 0; i < c->n; i++) {
        struct collected_question q = c->items[i];
        if (!q.answers[MODE_FAST].is_there || !q.answers[MODE_SLOW].is_there) {
            free(q.question);
            free(q.final);
            n_dropped++;
            continue;
        }
        bool fast = q.answers[MODE_FAST].is_correct, slow = q.answers[MODE_SLOW].is_correct;
        q.label = fast ? (q.answers[MODE_FAST].n_tokens < limit ? 0.0f : 25.0f) : slow ? 75.0f : 100.0f;
        if (labels == LABELS_NET) q.label = 50.0f + 50.0f * (float)((int)slow - (int)fast);
        c->items[n++] = q;
    }
    c->n = n;
    return n_dropped;
}

void collected_close(struct collected *c)
{
    for (size_t i = 0; i < c->n; i++) {
        free(c->items[i].question);
        free(c->items[i].final);
    }
    free(c->items);
    *c = (struct collected){0};
}

int collected_split(const char *question)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a, with a last mix */
    for (const char *c = question; *c; c++) hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
    hash ^= hash >> 32;
    hash *= 0x9e3779b97f4a7c15u;
    int part = (int)((hash >> 33) % 10);
    return part < 6 ? KVANT_ROUTER_TRAIN : part < 8 ? KVANT_ROUTER_VALIDATION : KVANT_ROUTER_TEST;
}
