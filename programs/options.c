#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

#define NAME_CAP 64

/* Copies the i-th spelling of an option; false when there is none. */
static bool option_name(const struct option *option, int i, char name[NAME_CAP])
{
    const char *at = option->names;
    for (; i > 0; i--) {
        at = strstr(at, ", ");
        if (!at) return false;
        at += 2;
    }
    size_t n = strcspn(at, ",");
    if (n >= NAME_CAP) n = NAME_CAP - 1;
    memcpy(name, at, n);
    name[n] = '\0';
    return true;
}

static const struct option *option_find(const struct command_line *line, const char *given)
{
    char name[NAME_CAP];
    for (size_t i = 0; i < line->n_options; i++)
        for (int j = 0; option_name(&line->options[i], j, name); j++)
            if (strcmp(name, given) == 0) return &line->options[i];
    return NULL;
}

/* Edit distance with transposed neighbours as one step; words beyond NAME_CAP count as far away. */
static int word_distance(const char *a, const char *b)
{
    size_t n_a = strlen(a), n_b = strlen(b);
    if (n_a >= NAME_CAP || n_b >= NAME_CAP) return NAME_CAP;
    int rows[3][NAME_CAP + 1];
    for (size_t j = 0; j <= n_b; j++) rows[0][j] = (int)j;
    for (size_t i = 1; i <= n_a; i++) {
        int *row = rows[i % 3];
        const int *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = (int)i;
        for (size_t j = 1; j <= n_b; j++) {
            int best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && above2[j - 2] + 1 < best)
                best = above2[j - 2] + 1;
            row[j] = best;
        }
    }
    return rows[n_a % 3][n_b];
}

/* Near means: at most a third of the letters differ, and never more than two. */
static bool word_is_near(const char *given, int distance)
{
    return distance <= 2 && (size_t)distance * 3 <= strlen(given);
}

const char *word_nearest(const char *given, const char *const *words, int n)
{
    const char *best = NULL;
    int best_distance = NAME_CAP;
    for (int i = 0; i < n; i++) {
        int distance = word_distance(given, words[i]);
        if (distance < best_distance) {
            best_distance = distance;
            best = words[i];
        }
    }
    return best && word_is_near(given, best_distance) ? best : NULL;
}

static enum options_result unknown_option(const struct command_line *line, const char *given)
{
    char name[NAME_CAP], best[NAME_CAP] = "";
    int best_distance = NAME_CAP;
    for (size_t i = 0; i < line->n_options; i++)
        for (int j = 0; option_name(&line->options[i], j, name); j++) {
            int distance = word_distance(given, name);
            if (distance < best_distance) {
                best_distance = distance;
                memcpy(best, name, sizeof best);
            }
        }
    if (word_is_near(given, best_distance))
        fail_usage(line->command, "unknown option %s (did you mean %s?)", given, best);
    else
        fail_usage(line->command, "unknown option %s", given);
    return OPTIONS_WRONG;
}

static bool number_parse(const char *text, double min, double max, double *out)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || errno || !isfinite(value)) return false;
    *out = value;
    return (min == 0 && max == 0) || (value >= min && value <= max);
}

static bool integer_parse(const char *text, double min, double max, int64_t *out)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno) return false;
    *out = value;
    return (min == 0 && max == 0) || ((double)value >= min && (double)value <= max);
}

static bool choice_parse(const char *text, const char *choices)
{
    size_t n = strlen(text);
    for (const char *at = choices;; at++) {
        size_t n_word = strcspn(at, "|");
        if (n == n_word && memcmp(at, text, n) == 0) return true;
        at += n_word;
        if (!*at) return false;
    }
}

static enum options_result wrong_value(const struct command_line *line, const struct option *option,
                                       const char *name, const char *value)
{
    const char *noun = option->kind == OPTION_INT ? "a whole number" : "a number";
    if (option->kind == OPTION_CHOICE)
        fail_usage(line->command, "%s: '%s' is not one of %s", name, value, option->argument);
    else if (option->min == 0 && option->max == 0)
        fail_usage(line->command, "%s: '%s' is not %s", name, value, noun);
    else if (option->kind == OPTION_INT)
        fail_usage(line->command, "%s: '%s' is not %s from %.0f to %.0f", name, value, noun, option->min,
                   option->max);
    else
        fail_usage(line->command, "%s: '%s' is not %s from %g to %g", name, value, noun, option->min,
                   option->max);
    return OPTIONS_WRONG;
}

static enum options_result option_set(const struct command_line *line, const struct option *option,
                                      const char *name, const char *value)
{
    bool ok = true;
    if ((option->kind == OPTION_NAME || option->kind == OPTION_LIST) && !*value) {
        fail_usage(line->command, "%s needs a value: %s %s", name, name, option->argument);
        return OPTIONS_WRONG;
    }
    switch (option->kind) {
    case OPTION_FLAG: *(bool *)option->target = true; break;
    case OPTION_INT: ok = integer_parse(value, option->min, option->max, option->target); break;
    case OPTION_NUMBER: ok = number_parse(value, option->min, option->max, option->target); break;
    case OPTION_TEXT:
    case OPTION_NAME: *(const char **)option->target = value; break;
    case OPTION_CHOICE:
        ok = choice_parse(value, option->argument);
        *(const char **)option->target = value;
        break;
    case OPTION_LIST: {
        struct option_list *list = option->target;
        if (list->n == OPTION_LIST_CAP) {
            fail_usage(line->command, "%s is given more than %d times", name, OPTION_LIST_CAP);
            return OPTIONS_WRONG;
        }
        list->items[list->n++] = value;
        break;
    }
    }
    return ok ? OPTIONS_RUN : wrong_value(line, option, name, value);
}

static void options_help(const struct command_line *line)
{
    enum { COLUMN = 34 };
    printf("usage: kvant %s %s [options]\n\n%s\n\noptions:\n", line->command, line->arguments, line->about);
    for (size_t i = 0; i < line->n_options; i++) {
        const struct option *option = &line->options[i];
        int n = printf("  %s%s%s", option->names, option->argument ? " " : "",
                       option->argument ? option->argument : "");
        if (n > COLUMN - 2) {
            putchar('\n');
            n = 0;
        }
        printf("%*s", COLUMN - n, "");
        for (const char *c = option->help; *c; c++) {
            putchar(*c);
            if (*c == '\n') printf("%*s", COLUMN, "");
        }
        putchar('\n');
    }
    printf("  %-*s%s\n", COLUMN - 2, "-h, --help", "this text");
    if (line->examples) printf("\nexamples:\n%s\n", line->examples);
}

enum options_result options_parse(struct command_line *line, int argc, char **argv)
{
    bool only_arguments = false;
    for (int i = 1; i < argc; i++) {
        char *given = argv[i];
        if (only_arguments || given[0] != '-' || given[1] == '\0') {
            if (line->positional.n == OPTION_LIST_CAP) {
                fail_usage(line->command, "too many arguments");
                return OPTIONS_WRONG;
            }
            line->positional.items[line->positional.n++] = given;
            continue;
        }
        if (strcmp(given, "--") == 0) {
            only_arguments = true;
            continue;
        }
        if (strcmp(given, "-h") == 0 || strcmp(given, "--help") == 0) {
            options_help(line);
            return OPTIONS_HELP;
        }
        const char *value = NULL;
        char name[NAME_CAP];
        size_t n_name = given[1] == '-' ? strcspn(given, "=") : strlen(given);
        if (n_name >= NAME_CAP) return unknown_option(line, given);
        memcpy(name, given, n_name);
        name[n_name] = '\0';
        if (given[n_name] == '=') value = given + n_name + 1;

        const struct option *option = option_find(line, name);
        if (!option) return unknown_option(line, name);
        if (option->kind == OPTION_FLAG && value) {
            fail_usage(line->command, "%s takes no value", name);
            return OPTIONS_WRONG;
        }
        if (option->kind != OPTION_FLAG && !value) {
            if (++i == argc) {
                fail_usage(line->command, "%s needs a value: %s %s", name, name, option->argument);
                return OPTIONS_WRONG;
            }
            value = argv[i];
        }
        enum options_result result = option_set(line, option, name, value);
        if (result != OPTIONS_RUN) return result;
    }
    return OPTIONS_RUN;
}

int numbers_parse(const char *text, double min, double max, double *numbers, int cap)
{
    int n = 0;
    for (const char *at = text;; at++) {
        char item[NAME_CAP];
        size_t n_item = strcspn(at, ",");
        if (n_item >= NAME_CAP || n == cap) return -1;
        memcpy(item, at, n_item);
        item[n_item] = '\0';
        if (!number_parse(item, min, max, &numbers[n++])) return -1;
        at += n_item;
        if (!*at) return n;
    }
}
