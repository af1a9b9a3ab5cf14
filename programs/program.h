/*
 * What the commands of the program share: exit codes, one-line errors, interruption, files and small
 * conversions. Everything else comes through kvant.h, as it does for any other user of the library.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdio.h>

#include "kvant.h"

enum {
    EXIT_OK = 0,
    EXIT_FAILED = 1, /* one line on stderr says what is wrong, where, and what to do */
    EXIT_USAGE = 2   /* the command line itself is wrong                             */
};

struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns an exit code */
};

extern const struct command command_info, command_run, command_chat, command_eval, command_tune,
    command_sensitivity, command_bench, command_report, command_tokenize, command_plan, command_embed,
    command_score, command_router, command_serve;

/* "kvant: ..." on stderr; both return EXIT_FAILED so that they can stand in a return statement. */
int fail(const struct kvant_error *err);
int fail_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* "kvant COMMAND: ...; see kvant COMMAND --help" on stderr; returns EXIT_USAGE. */
int fail_usage(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Flushes stdout: EXIT_OK, or EXIT_FAILED when what was printed did not arrive (a full disk, say). */
int finish_output(void);

/* From now on Ctrl-C only sets a flag, which long work asks for; a second Ctrl-C ends the program at once. */
void interrupt_catch(void);
bool interrupted(void);
void interrupt_clear(void);

/* Monotonic seconds. */
double clock_s(void);

/* malloc that ends the program when memory is out: what the commands keep themselves is small. */
void *allocate(size_t n, size_t size);
void *reallocate(void *p, size_t n, size_t size);
char *text_copy(const char *text);

/* A whole file ("-": standard input), terminated; free() it. NULL after a message on stderr. */
char *file_read(const char *path, size_t *n_bytes);
bool file_exists(const char *path);

/* Tokens of a text; free() them. */
kvant_status tokens_of_text(const struct kvant_model *model, const char *text, size_t n_bytes, int flags,
                            kvant_token **ids, size_t *n_ids, struct kvant_error *err);

/* "12.3 MB" (1e6); the text lives in the caller's buffer. */
const char *bytes_text(char text[32], double n_bytes);

/* Writes a file beside its name and renames it when complete, so that no partial file is ever seen under that
 * name. Only regular files: a pipe or device cannot be renamed over and stay what it is. */
struct output_file {
    FILE *stream;
    const char *path;
    char *path_partial;
};
/* Before long work: can a file of this name be written at all? False after a message on stderr. */
bool output_check(const char *path);
bool output_open(struct output_file *out, const char *path); /* false after a message on stderr            */
bool output_commit(struct output_file *out);                 /* false after a message; nothing is left then */
void output_discard(struct output_file *out);                /* harmless after output_commit                */

#endif
