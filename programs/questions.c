#include "questions.h"

#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "lines.h"

/* ------------------------------------------------------------------------------------------------ read -- */

/* Behind the last "####", without blanks; NULL: there is none. */
static const char *final_answer(const char *answer)
{
    const char *last = NULL;
    for (const char *at = answer; (at = strstr(at, "####")); at += 4) last = at + 4;
    return last ? last + strspn(last, " \t") : NULL;
}

/* How many lines begin with (A), (B) and so on, in order. */
static size_t count_choices(const char *question)
{
    size_t n = 0;
    for (const char *at = question; at && n < QUESTION_CHOICES_CAP; at = strchr(at, '\n')) {
        at += *at == '\n';
        at += strspn(at, " \t");
        if (at[0] == '(' && at[1] == (char)('A' + (int)n) && at[2] == ')') n++;
    }
    return n;
}

static int read_choice(struct question_file *file, struct question *item)
{
    item->n_choices = count_choices(item->question);
    if (item->n_choices < 2)
        return fail_text("%s: line %zu: the question has no choices: lines that begin with (A), (B), ...",
                         file->path, item->line);
    if (strlen(item->answer) != 1 || item->answer[0] < 'A' ||
        item->answer[0] >= (char)('A' + (int)item->n_choices))
        return fail_text("%s: line %zu: the answer is not one letter from A to %c", file->path, item->line,
                         'A' + (int)item->n_choices - 1);
    item->final = item->answer;
    return EXIT_OK;
}

/* One line that is not blank. */
static int read_line(struct question_file *file, const struct lines *lines)
{
    json_t *value = lines_json(lines);
    if (!value) return EXIT_FAILED;
    const char *question = json_string_value(json_object_get(value, "question")),
               *answer = json_string_value(json_object_get(value, "answer"));
    if (!question) question = json_string_value(json_object_get(value, "en"));
    if (question && strncmp(question, "Question:", 9) == 0) question += 9 + strspn(question + 9, " ");
    int code = EXIT_OK;
    if (!question || !answer)
        code = fail_text("%s: line %zu: needs the strings \"question\" and \"answer\"", file->path,
                         lines->number);
    else if (file->kind == QUESTION_WORKED && (!final_answer(answer) || !*final_answer(answer)))
        code = fail_text("%s: line %zu: the answer does not end in #### and a number or letter", file->path,
                         lines->number);
    if (code == EXIT_OK) {
        struct question *item = &file->items[file->n++];
        *item = (struct question){ text_copy(question), text_copy(answer), NULL, lines->number, 0 };
        if (file->kind == QUESTION_WORKED)
            item->final = final_answer(item->answer);
        else
            code = read_choice(file, item);
    }
    json_decref(value);
    return code;
}

int questions_read(struct question_file *file, enum question_kind kind, const char *path)
{
    struct lines lines;
    *file = (struct question_file){ .path = path, .kind = kind };
    int code = lines_open(&lines, path);
    if (code != EXIT_OK) return code;
    file->items = allocate(lines.n_lines, sizeof *file->items);
    while (code == EXIT_OK && lines_next(&lines))
        if (!lines.is_blank) code = read_line(file, &lines);
    lines_close(&lines);
    if (code == EXIT_OK && file->n == 0) code = fail_text("%s: holds no question", path);
    return code;
}

void questions_close(struct question_file *file)
{
    for (size_t i = 0; i < file->n; i++) {
        free(file->items[i].question);
        free(file->items[i].answer);
    }
    free(file->items);
    *file = (struct question_file){0};
}

/* --------------------------------------------------------------------------------------------- prompts -- */

/* Equal but for blanks: the same question with another line break is no other question. */
static bool same_question(const char *a, const char *b)
{
    static const char blanks[] = " \t\r\n";
    for (;;) {
        a += strspn(a, blanks);
        b += strspn(b, blanks);
        if (*a != *b) return false;
        if (!*a) return true;
        a++;
        b++;
    }
}

static int refuse_overlap(const struct question_file *data, size_t first, size_t n,
                          const struct question_file *shots, size_t n_shots)
{
    for (size_t i = first; i < first + n; i++)
        for (size_t k = 0; k < n_shots; k++)
            if (same_question(data->items[i].question, shots->items[k].question))
                return fail_text("%s: line %zu asks what line %zu of %s answers as an example; take examples "
                                 "from another file with --shots-from",
                                 data->path, data->items[i].line, shots->items[k].line, shots->path);
    return EXIT_OK;
}

struct text {
    char *data;
    size_t n, cap;
};

static void add(struct text *t, const char *more)
{
    size_t n = strlen(more);
    if (t->n + n + 1 > t->cap) t->data = reallocate(t->data, t->cap = 2 * t->cap + n + 256, 1);
    memcpy(t->data + t->n, more, n + 1);
    t->n += n;
}

static void hash_text(struct sha256_ctx *hash, const char *text)
{
    /* with its end, so that no two lists look alike */
    nettle_sha256_update(hash, strlen(text) + 1, (const uint8_t *)text);
}

static int ask(struct question_prompts *out, const struct kvant_model *model, const struct question *question,
               struct text *text, struct sha256_ctx *hash)
{
    struct kvant_error err;
    kvant_token *tokens;
    size_t n_tokens;
    add(text, "Question: ");
    add(text, question->question);
    add(text, "\nAnswer:");
    hash_text(hash, text->data);
    hash_text(hash, question->final);
    if (tokens_of_text(model, text->data, text->n, KVANT_TOKENIZE_BOS, &tokens, &n_tokens, &err) != KVANT_OK)
        return fail(&err);
    if (question->n_choices) {
        tokens = reallocate(tokens, n_tokens + QUESTION_BRIDGE_CAP, sizeof *tokens);
        memcpy(tokens + n_tokens, out->bridge, out->n_bridge * sizeof *tokens);
        n_tokens += out->n_bridge;
    }
    out->items[out->n++] = (struct kvant_question){ tokens, n_tokens, question->final,
                                                    question->n_choices ? out->letters : NULL,
                                                    question->n_choices };
    return EXIT_OK;
}

/* The token that each letter is behind a prompt, and what stands before it: nothing, or a token for the
 * blank. */
static int find_letters(struct question_prompts *out, const struct kvant_model *model)
{
    struct kvant_error err;
    kvant_token *before = NULL, *with = NULL;
    size_t n_before = 0, n_with = 0;
    if (tokens_of_text(model, "Answer:", 7, 0, &before, &n_before, &err) != KVANT_OK) return fail(&err);
    int code = EXIT_OK;
    for (int i = 0; i < QUESTION_CHOICES_CAP && code == EXIT_OK; i++) {
        char text[] = "Answer: A";
        text[8] = (char)('A' + i);
        if (tokens_of_text(model, text, 9, 0, &with, &n_with, &err) != KVANT_OK) {
            code = fail(&err);
            break;
        }
        bool fits = n_with > n_before && n_with <= n_before + 1 + QUESTION_BRIDGE_CAP &&
                    memcmp(with, before, n_before * sizeof *with) == 0;
        if (fits && i == 0) {
            out->n_bridge = n_with - n_before - 1;
            memcpy(out->bridge, with + n_before, out->n_bridge * sizeof *with);
        }
        fits = fits && n_with == n_before + out->n_bridge + 1 &&
               memcmp(with + n_before, out->bridge, out->n_bridge * sizeof *with) == 0;
        if (fits)
            out->letters[i] = with[n_with - 1];
        else
            code = fail_text("the letter %c is not one token of this model: choices cannot be compared",
                             text[8]);
        free(with);
        with = NULL;
    }
    free(before);
    return code;
}

int questions_prompts(struct question_prompts *out, const struct kvant_model *model,
                      const struct question_file *data, const struct question_file *shots, size_t n_shots,
                      size_t n_limit)
{
    *out = (struct question_prompts){0};
    size_t first = data == shots ? n_shots : 0;
    if (n_shots > shots->n || first >= data->n)
        return fail_text("%s: %zu questions are too few for %zu examples%s", shots->path, shots->n, n_shots,
                         data == shots ? " and one to be asked" : "");
    size_t n = data->n - first;
    if (n_limit > 0 && n > n_limit) n = n_limit;
    int code = refuse_overlap(data, first, n, shots, n_shots);
    if (code == EXIT_OK && data->kind == QUESTION_CHOICE) code = find_letters(out, model);
    if (code != EXIT_OK) return code;

    struct text text = {0};
    struct sha256_ctx hash;
    nettle_sha256_init(&hash);
    add(&text, "");
    for (size_t i = 0; i < n_shots; i++) {
        add(&text, "Question: ");
        add(&text, shots->items[i].question);
        add(&text, "\nAnswer: ");
        add(&text, shots->items[i].answer);
        add(&text, "\n\n");
    }
    size_t n_common = text.n;
    out->items = allocate(n, sizeof *out->items);
    out->asked = data->items + first;
    for (size_t i = 0; i < n && code == EXIT_OK; i++) {
        text.n = n_common;
        code = ask(out, model, &out->asked[i], &text, &hash);
    }
    free(text.data);
    uint8_t digest[SHA256_DIGEST_SIZE];
    nettle_sha256_digest(&hash, sizeof digest, digest);
    int at = snprintf(out->hash, sizeof out->hash, "sha256:");
    for (size_t i = 0; i < sizeof digest; i++)
        at += snprintf(out->hash + at, sizeof out->hash - (size_t)at, "%02x", digest[i]);
    return code;
}

void questions_prompts_close(struct question_prompts *prompts)
{
    for (size_t i = 0; i < prompts->n; i++) {
        const kvant_token *tokens = prompts->items[i].tokens;
        free((void *)(uintptr_t)tokens);
    }
    free(prompts->items);
    *prompts = (struct question_prompts){0};
}
