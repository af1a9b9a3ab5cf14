#include "modes.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

const char *const mode_names[MODES] = {"fast", "slow"};

struct texts {
    const char *name, *begin[MODES], *turn[MODES];
};

static const struct texts built_in[] = {
    {"think", {"<think>\n\n</think>\n\n", "<think>\n"}, {"</think>\n\n", "<think>\n"}},
    {"steps",
     {"The answer is", "Let's think step by step."},
     {"\nThe answer is", "\nLet's think step by step."}},
};

static int tokenize(struct mode_tokens *out, const struct kvant_model *model, const char *text)
{
    struct kvant_error err;
    out->text = text_copy(text);
    return tokens_of_text(model, text, strlen(text), KVANT_TOKENIZE_SPECIAL, &out->ids, &out->n, &err) ==
                   KVANT_OK
               ? EXIT_OK
               : fail(&err);
}

static int open_texts(struct modes *out, const struct kvant_model *model, const struct texts *t)
{
    int code = EXIT_OK;
    snprintf(out->name, sizeof out->name, "%s", t->name);
    for (int m = 0; m < MODES && code == EXIT_OK; m++) {
        code = tokenize(&out->begin[m], model, t->begin[m]);
        if (code == EXIT_OK) code = tokenize(&out->turn[m], model, t->turn[m]);
    }
    return code;
}

static int field(const json_t *object, const char *path, const char *name, const char **out)
{
    *out = json_string_value(json_object_get(object, name));
    if (!*out) return fail_text("%s: needs the string \"%s\"", path, name);
    if (!**out) return fail_text("%s: \"%s\" is empty", path, name);
    return EXIT_OK;
}

static int open_file(struct modes *out, const struct kvant_model *model, const char *path)
{
    json_error_t error;
    size_t n;
    char *text = file_read(path, &n);
    if (!text) return EXIT_FAILED;
    json_t *object = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (!object) return fail_text("%s: line %d, column %d: %s", path, error.line, error.column, error.text);
    struct texts t = {0};
    int code = field(object, path, "name", &t.name);
    if (code == EXIT_OK) code = field(object, path, "fast", &t.begin[MODE_FAST]);
    if (code == EXIT_OK) code = field(object, path, "slow", &t.begin[MODE_SLOW]);
    if (code == EXIT_OK) code = field(object, path, "to_fast", &t.turn[MODE_FAST]);
    if (code == EXIT_OK) code = field(object, path, "to_slow", &t.turn[MODE_SLOW]);
    if (code == EXIT_OK && (strlen(t.name) >= sizeof out->name || strpbrk(t.name, " \t\r\n")))
        code = fail_text("%s: \"name\" has at most 31 characters and no blanks", path);
    if (code == EXIT_OK) code = open_texts(out, model, &t);
    json_decref(object);
    return code;
}

int modes_open(struct modes *out, const struct kvant_model *model, const char *name)
{
    *out = (struct modes){0};
    for (size_t i = 0; i < sizeof built_in / sizeof *built_in; i++)
        if (strcmp(name, built_in[i].name) == 0) return open_texts(out, model, &built_in[i]);
    if (!file_exists(name)) return fail_text("--modes %s: neither think, steps, nor a file", name);
    return open_file(out, model, name);
}

void modes_close(struct modes *m)
{
    for (int i = 0; i < MODES; i++) {
        free(m->begin[i].ids);
        free(m->turn[i].ids);
        free(m->begin[i].text);
        free(m->turn[i].text);
    }
    *m = (struct modes){0};
}

bool modes_answer_check(const struct modes *m, int mode, const char *text, size_t n_bytes, const char *right,
                        char *found)
{
    size_t n_begin = strlen(m->begin[mode].text);
    char *whole = allocate(n_begin + n_bytes + 1, 1);
    memcpy(whole, m->begin[mode].text, n_begin);
    memcpy(whole + n_begin, text, n_bytes);
    bool is_right = kvant_answer_check(KVANT_ANSWER_AUTO, whole, n_begin + n_bytes, right, found);
    free(whole);
    return is_right;
}

int64_t modes_tokens(const struct modes *m)
{
    size_t n = 0;
    for (int i = 0; i < MODES; i++) n += m->begin[i].n + m->turn[i].n;
    return (int64_t)n;
}
