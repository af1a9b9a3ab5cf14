/* kvant tokenize: text to token ids. */
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "setup.h"

static int print_tokens(const struct kvant_model *model, const kvant_token *ids, size_t n_ids)
{
    struct kvant_error err;
    for (size_t i = 0; i < n_ids; i++) {
        char piece[4096];
        size_t n;
        if (kvant_detokenize(model, &ids[i], 1, true, piece, sizeof piece, &n, &err) != KVANT_OK)
            return fail(&err);
        printf("%7d -> '", ids[i]);
        for (size_t j = 0; j < n; j++) {
            unsigned char byte = (unsigned char)piece[j];
            if (byte == '\n') fputs("\\n", stdout);
            else if (byte < 0x20 || byte == 0x7F) printf("\\x%02x", byte);
            else putchar(byte);
        }
        puts("'");
    }
    printf("%zu tokens\n", n_ids);
    return finish_output();
}

static int run(int argc, char **argv)
{
    struct model_flags flags = {0};
    const char *text = NULL, *path = NULL;
    bool no_bos = false, special = false;
    const struct option options[] = {
        {"-m, --model", OPTION_NAME, "FILE", &flags.path,
         "the model (or the first argument); its weights are not\nneeded", 0, 0},
        {"-p, --prompt, --text", OPTION_TEXT, "TEXT", &text, "the text", 0, 0},
        {"-f, --file", OPTION_NAME, "FILE", &path, "the text from a file; - is standard input", 0, 0},
        {"--no-bos", OPTION_FLAG, NULL, &no_bos,
         "without the tokens that the model begins (ends) a text with", 0, 0},
        {"--special", OPTION_FLAG, NULL, &special, "<|im_start|> and the like become control tokens", 0, 0},
        {"--json", OPTION_FLAG, NULL, &flags.json, "print a JSON list of ids", 0, 0},
    };
    struct command_line line = {
        .command = "tokenize",
        .arguments = "MODEL",
        .about = "Shows the tokens of a text. Works with vocabulary-only files.",
        .examples = "  kvant tokenize -m model.gguf --text 'Hello, world'\n"
                    "  kvant tokenize -m model.gguf --file book.txt --no-bos --json",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    int code = setup_model_path(&line, &flags, 0);
    if (code != EXIT_OK) return code;
    if (!text == !path) return fail_usage("tokenize", "give either --text TEXT or --file FILE");

    size_t n_bytes = text ? strlen(text) : 0;
    char *content = path ? file_read(path, &n_bytes) : NULL;
    if (path && !content) return EXIT_FAILED;
    struct kvant_model *model = NULL;
    code = setup_model(&model, &flags, true);
    if (code == EXIT_OK) {
        struct kvant_error err;
        kvant_token *ids;
        size_t n_ids;
        int how = (no_bos ? 0 : KVANT_TOKENIZE_BOS) | (special ? KVANT_TOKENIZE_SPECIAL : 0);
        if (tokens_of_text(model, content ? content : text, n_bytes, how, &ids, &n_ids, &err) != KVANT_OK)
            code = fail(&err);
        else
            code = flags.json ? json_finish_compact(json_tokens(ids, n_ids))
                              : print_tokens(model, ids, n_ids);
        free(ids);
    }
    kvant_model_close(model);
    free(content);
    return code;
}

const struct command command_tokenize = {"tokenize", "show the tokens of a text", run};
