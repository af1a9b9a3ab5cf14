/* kvant sensitivity: what fewer bits do to each layer's attention, measured as in the KVTuner paper. */
#include <stdlib.h>
#include <string.h>

#include "progress.h"
#include "prompts_file.h"
#include "sensitivity_report.h"
#include "setup.h"

#define KLD_RECIPES_MAX 8 /* what kvant_sensitivity_run takes */

struct sensitivity_flags {
    struct model_flags model;
    const char *prompts_path, *text_path, *mode, *csv_path;
    int64_t n_prompts, n_predict;
    struct option_list kld;
    bool channels, raw;
};

static int read_prompts(struct prompt_list *list, const struct kvant_model *model,
                        const struct sensitivity_flags *flags)
{
    if (flags->prompts_path)
        return prompts_read_jsonl(list, model, flags->prompts_path, flags->n_prompts, flags->raw);
    if (flags->text_path) return prompts_read_text(list, model, flags->text_path, flags->n_prompts);
    return EXIT_OK;
}

static unsigned modes_of(const char *name)
{
    for (int mode = 0; name && mode < KVANT_SENSITIVITY_MODES; mode++)
        if (strcmp(name, kvant_sensitivity_mode_name(mode)) == 0) return 1u << mode;
    return 0;
}

static int measure(struct kvant_sensitivity **out, const struct kvant_model *model,
                   const struct prompt_list *prompts, const struct sensitivity_flags *flags)
{
    struct kvant_error err;
    struct progress progress;
    struct kvant_sensitivity_options options = KVANT_SENSITIVITY_OPTIONS_INIT;
    options.modes = modes_of(flags->mode);
    options.n_prompts = (int)flags->n_prompts;
    options.n_predict = (int)flags->n_predict;
    options.channels = flags->channels;
    options.kld_recipes = flags->kld.n ? flags->kld.items : NULL;
    options.n_kld_recipes = flags->kld.n;
    options.progress = progress_update;
    options.user = &progress;
    interrupt_catch();
    progress_begin(&progress);
    kvant_status status = kvant_sensitivity_run(out, model, prompts->items, prompts->n, &options, &err);
    progress_end(&progress);
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

static int execute(const struct sensitivity_flags *flags)
{
    struct kvant_model *model = NULL;
    struct kvant_sensitivity *result = NULL;
    struct prompt_list prompts = {0};
    int code = setup_model(&model, &flags->model, false);
    if (code == EXIT_OK && flags->csv_path && !output_check(flags->csv_path)) code = EXIT_FAILED;
    if (code == EXIT_OK) code = read_prompts(&prompts, model, flags);
    double started_s = clock_s();
    if (code == EXIT_OK) code = measure(&result, model, &prompts, flags);
    const struct sensitivity_report report = {
        .result = result,
        .model_path = flags->model.path,
        .source = flags->prompts_path ? flags->prompts_path
                  : flags->text_path  ? flags->text_path
                                      : "the model's own text",
        .kld = &flags->kld,
        .seconds = clock_s() - started_s,
    };
    if (code == EXIT_OK && flags->csv_path) code = sensitivity_write_csv(&report, flags->csv_path);
    if (code == EXIT_OK)
        code = flags->model.json ? sensitivity_print_json(&report) : sensitivity_print(&report);
    kvant_sensitivity_close(result);
    prompts_free(&prompts);
    kvant_model_close(model);
    return code;
}

static int run(int argc, char **argv)
{
    struct sensitivity_flags f = {.n_prompts = 20, .n_predict = 64};
    const struct option options[] = {
        MODEL_OPTIONS(&f.model),
        { "--prompts", OPTION_NAME, "FILE.jsonl", &f.prompts_path,
          "a prompt per line: \"question\" or \"prompt\", asked in the\nmodel's chat format, or \"text\"", 0,
          0 },
        { "--text, -f, --file", OPTION_NAME, "FILE", &f.text_path,
          "a text whose pieces of 128 tokens are the prompts;\ndefault: text of the model's own making", 0,
          0 },
        { "--n-prompts", OPTION_INT, "N", &f.n_prompts, "most prompts used; default 20", 1, 1024 },
        { "-n, --predict, --n-predict", OPTION_INT, "N", &f.n_predict,
          "most tokens of each answer; default 64", 1, 4096 },
        { "--raw", OPTION_FLAG, NULL, &f.raw, "prompts as they are, without the chat format", 0, 0 },
        { "--mode", OPTION_CHOICE, "per-token|kivi|kvant|all", &f.mode,
          "how keys and values are quantized; default all", 0, 0 },
        { "--channels", OPTION_FLAG, NULL, &f.channels, "the importance of each key channel too", 0, 0 },
        { "--kld", OPTION_LIST, "RECIPE", &f.kld,
          "also the KLD at the logits with one layer at a time so:\nk2c64mv16; may be given up to 8 times "
          "(slow)",
          0, 0 },
        { "--csv", OPTION_NAME, "FILE", &f.csv_path, "write every number, one per line", 0, 0 },
    };
    struct command_line line = {
        .command = "sensitivity",
        .arguments = "MODEL",
        .about = "Measures how much each layer's attention changes with fewer bits, as in the KVTuner paper: "
                 "greedy\n"
                 "answers with the 16-bit cache, then keys and values of each layer alone in every pair of "
                 "2, 3, 4\n"
                 "and 8 bits. e_k, e_v, e_o: relative errors (L1) of keys, values and attention output; e_a: "
                 "mean\n"
                 "absolute error of attention weights; entropy (of 1) and weight on the top 8 positions.",
        .examples = "  kvant sensitivity model.gguf\n"
                    "  kvant sensitivity model.gguf --prompts questions.jsonl --mode kivi --csv errors.csv\n"
                    "  kvant sensitivity model.gguf --text notes.txt --n-prompts 4 --channels --json",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    int code = setup_model_path(&line, &f.model, 0);
    if (code != EXIT_OK) return code;
    if (f.prompts_path && f.text_path)
        return fail_usage("sensitivity", "--prompts and --text are two sources of prompts; give one");
    if (f.kld.n > KLD_RECIPES_MAX)
        return fail_usage("sensitivity", "--kld: %d recipes; at most %d", f.kld.n, KLD_RECIPES_MAX);
    return execute(&f);
}

const struct command command_sensitivity = { "sensitivity", "what fewer bits do to each layer's attention",
                                             run };
