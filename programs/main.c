/* kvant: the program. One row per command; each command's flags are in its own file. */
#include <locale.h>
#include <signal.h>
#include <string.h>

#include "options.h"
#include "program.h"

static const struct command *const commands[] = {
    &command_info,        &command_run,   &command_chat,   &command_eval,     &command_tune,
    &command_sensitivity, &command_bench, &command_report, &command_tokenize, &command_plan,
    &command_embed,       &command_score, &command_router, &command_serve,
};

enum { N_COMMANDS = sizeof commands / sizeof *commands };

static const struct command *command_find(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

static void help(FILE *out)
{
    fputs("kvant runs GGUF language models on CPUs with a KV cache that is compressed by a tuned plan.\n\n"
          "usage: kvant COMMAND [MODEL] [options]\n\ncommands:\n", out);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-11s %s\n", commands[i]->name, commands[i]->summary);
    fputs("  help        explain a command: kvant help run\n\n"
          "options:\n  -h, --help  this text\n  --version   the version\n\nexamples:\n"
          "  kvant info model.gguf\n"
          "  kvant tune model.gguf -o model.kvplan.yaml\n"
          "  kvant run model.gguf -p 'Why is the sky blue?'\n\n"
          "A plan beside its model (model.kvplan.yaml) is used without being named.\n"
          "Exit codes: 0 fine, 1 failed, 2 wrong usage.\n", out);
}

static int unknown_command(const char *given)
{
    const char *names[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++) names[i] = commands[i]->name;
    const char *near = word_nearest(given, names, N_COMMANDS);
    if (near)
        fprintf(stderr, "kvant: unknown command '%s' (did you mean %s?); see kvant --help\n", given, near);
    else fprintf(stderr, "kvant: unknown command '%s'; see kvant --help\n", given);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    /* A limit on the size of files is an error of the write that meets it, as a full disk is. */
    signal(SIGXFSZ, SIG_IGN);
    /* For editing text at the terminal; numbers keep the C locale. */
    setlocale(LC_CTYPE, "");
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        printf("kvant %s\n", kvant_version());
        return finish_output();
    }
    bool wants_help = strcmp(name, "-h") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "help") == 0;
    if (wants_help && argc == 2) {
        help(stdout);
        return finish_output();
    }
    if (wants_help) {
        const struct command *command = command_find(argv[2]);
        char *arguments[] = {argv[2], (char[]){"--help"}, NULL};
        return command ? command->run(2, arguments) : unknown_command(argv[2]);
    }
    const struct command *command = command_find(name);
    return command ? command->run(argc - 1, argv + 1) : unknown_command(name);
}
