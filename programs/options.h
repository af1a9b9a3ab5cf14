/*
 * Command lines as tables. A command lists its options once; parsing, --help, ranges and the suggestion for a
 * misspelt flag follow from the rows.
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_kind {
    OPTION_FLAG,   /* bool: set to true                                                       */
    OPTION_INT,    /* int64_t in [min, max]                                                   */
    OPTION_NUMBER, /* double in [min, max]                                                    */
    OPTION_TEXT,   /* const char *                                                            */
    OPTION_NAME,   /* const char *, not empty: a file, a plan                                 */
    OPTION_CHOICE, /* const char *, one of the words in `argument`, which `|` separates       */
    OPTION_LIST    /* struct option_list, of names: may be given several times                */
};

#define OPTION_LIST_CAP 64

struct option_list {
    const char *items[OPTION_LIST_CAP]; /* as given */
    int n;
};

struct option {
    const char *names; /* every spelling, separated by ", ": "-n, --predict, --n-predict" */
    enum option_kind kind;
    const char *argument; /* its name in --help; NULL for flags */
    void *target;         /* the type that `kind` says; its first value is the default */
    const char *help;
    double min, max; /* of numbers; both 0: any */
};

struct command_line {
    const char *command;   /* "run"                                         */
    const char *arguments; /* "MODEL", as the usage line shows it           */
    const char *about;     /* what the command does, wrapped by hand        */
    const char *examples;  /* indented lines                                */
    const struct option *options;
    size_t n_options;
    struct option_list positional; /* filled by options_parse */
};

enum options_result { OPTIONS_RUN, OPTIONS_HELP, OPTIONS_WRONG };

/* Reads argv[1..]. OPTIONS_HELP: the help was asked for and printed. OPTIONS_WRONG: one line on stderr. "--"
 * ends the options; a lone "-" is an argument. */
enum options_result options_parse(struct command_line *line, int argc, char **argv);

/* Reads "0,4096" into numbers, each in [min, max]: how many, or -1 when it is not such a list or has more
 * than cap. */
int numbers_parse(const char *text, double min, double max, double *numbers, int cap);

/* The word of `words` (n of them) that `given` was most likely meant to be; NULL when none is near. */
const char *word_nearest(const char *given, const char *const *words, int n);

#endif
