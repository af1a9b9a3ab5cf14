/* kvant report: what the tuner found, as a page, as text or as CSV. */
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "plot_terminal.h"
#include "program.h"
#include "report.h"

#define INPUTS_CAP 8

struct report_flags {
    const char *const *inputs;
    int n_inputs;
    const char *output, *format, *scores, *router;
};

static int load(json_t **root, const char *path, const char *writer)
{
    json_error_t where;
    size_t n_bytes;
    char *text = file_read(path, &n_bytes);
    if (!text) return EXIT_FAILED;
    if (n_bytes > REPORT_BYTES_MAX) {
        free(text);
        return fail_text("%s: %zu bytes are no report; at most %zu are read", path, n_bytes,
                         REPORT_BYTES_MAX);
    }
    *root = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &where);
    free(text);
    return *root ? EXIT_OK
                 : fail_text("%s: line %d, column %d: %s; %s writes such a file", path, where.line,
                             where.column, where.text, writer);
}

static int load_report(struct report **out, const char *path)
{
    struct kvant_error err;
    json_t *root;
    int code = load(&root, path, "kvant tune --report");
    if (code != EXIT_OK) return code;
    return report_open(out, root, path, &err) == KVANT_OK ? EXIT_OK : fail(&err);
}

static int load_readers(struct report_readers *out, const struct report_flags *flags)
{
    struct kvant_error err;
    json_t *root;
    int code = EXIT_OK;
    if (flags->scores) {
        code = load(&root, flags->scores, "kvant score --json");
        if (code == EXIT_OK && report_scores_open(out, root, flags->scores, &err) != KVANT_OK)
            code = fail(&err);
    }
    if (code == EXIT_OK && flags->router) {
        code = load(&root, flags->router, "kvant router eval --json");
        if (code == EXIT_OK && report_router_open(out, root, flags->router, &err) != KVANT_OK)
            code = fail(&err);
    }
    return code;
}

static void print(const struct report *report, FILE *out, const char *format)
{
    struct plot_style style = plot_style_of(out);
    if (strcmp(format, "csv") == 0)
        report_write_csv(report, out);
    else if (strcmp(format, "text") == 0)
        report_write_text(report, out, style.n_columns, style.unicode);
    else
        report_write_html(report, out);
}

static int execute(const struct report_flags *flags)
{
    struct report *reports[INPUTS_CAP] = { NULL };
    struct output_file output = { 0 };
    int code = flags->output && !output_check(flags->output) ? EXIT_FAILED : EXIT_OK;
    for (int i = 0; code == EXIT_OK && i < flags->n_inputs; i++) {
        code = load_report(&reports[i], flags->inputs[i]);
        if (code == EXIT_OK && i) code = report_join(reports[0], reports[i], flags->inputs[i]);
    }
    if (code == EXIT_OK) code = load_readers(&reports[0]->readers, flags);
    if (code == EXIT_OK && flags->output && !output_open(&output, flags->output)) code = EXIT_FAILED;
    if (code == EXIT_OK) print(reports[0], flags->output ? output.stream : stdout, flags->format);
    if (code == EXIT_OK && flags->output) code = output_commit(&output) ? EXIT_OK : EXIT_FAILED;
    if (code == EXIT_OK && !flags->output) code = finish_output();
    for (int i = 0; i < flags->n_inputs; i++) report_close(reports[i]);
    return code;
}

static int run(int argc, char **argv)
{
    struct report_flags f = { .format = "html" };
    const struct option options[] = {
        { "-o, --output", OPTION_NAME, "FILE", &f.output, "write this file; default: standard output", 0, 0 },
        { "--format", OPTION_CHOICE, "html|text|csv", &f.format,
          "html: one page that needs nothing else (default);\ntext: menu and front for a terminal; csv: a "
          "line per plan",
          0, 0 },
        { "--scores", OPTION_NAME, "FILE", &f.scores,
          "html: also ROC curves, of what kvant score --json printed", 0, 0 },
        { "--router", OPTION_NAME, "FILE", &f.router,
          "html: also accuracy against tokens, of what\nkvant router eval --json printed", 0, 0 },
    };
    struct command_line line = {
        .command = "report",
        .arguments = "FILE.json [FILE.json...]",
        .about =
            "Shows what kvant tune found and how, from the JSON document that kvant tune --report writes\n"
            "(docs/format-report.md). - is standard input. Plans of further files, of the same model and "
            "text, are\n"
            "shown beside those of the first: the published method's, say.",
        .examples = "  kvant report tune.json -o tune.html\n"
                    "  kvant report tune.json --scores scores.json --router eval.json -o page.html\n"
                    "  kvant report tune.json --format text\n"
                    "  kvant report tune.json --format csv -o tune.csv",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    if (line.positional.n == 0)
        return fail_usage("report", "no report: name the JSON file of kvant tune --report");
    if (line.positional.n > INPUTS_CAP)
        return fail_usage("report", "%d reports are too many; at most %d", (int)line.positional.n,
                          INPUTS_CAP);
    for (int i = 0; i < (int)line.positional.n; i++)
        if (!*line.positional.items[i]) return fail_usage("report", "the name of the report is empty");
    f.inputs = (const char *const *)line.positional.items;
    f.n_inputs = (int)line.positional.n;
    return execute(&f);
}

const struct command command_report = { "report", "show what the tuner found as a page", run };
