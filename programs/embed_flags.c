#include "embed_flags.h"

#include <string.h>

static const char *const sources[] = {"kv", "hidden", "random"};
static const char *const parts[] = {"kv", "k", "v"};
static const char *const pools[] = {"mean", "last", "first", "sum"};
static const char *const heads[] = {"flatten", "mean"};
static const char *const layers[] = {"mean", "sum", "flatten", "last"};

/* The word's place; no word: 0. The words have been checked by the option table. */
static int choice(const char *given, const char *const *words, int n)
{
    for (int i = 0; given && i < n; i++)
        if (strcmp(given, words[i]) == 0) return i;
    return 0;
}

int embed_flags_set(const struct embed_flags *f, const char *command, struct kvant_embed_options *out)
{
    struct kvant_embed_options opt = KVANT_EMBED_OPTIONS_INIT;
    if (f->n_last_layers && (f->layer_first || f->layer_last))
        return fail_usage(command,
                          "--last-layers and --layer-first, --layer-last name layers twice; give one");
    opt.source = (kvant_embed_source)choice(f->source, sources, 3);
    opt.part = (kvant_embed_part)choice(f->part, parts, 3);
    opt.tokens = (kvant_embed_tokens)choice(f->tokens, pools, 4);
    opt.heads = (kvant_embed_heads)choice(f->heads, heads, 2);
    opt.layers = (kvant_embed_layers)choice(f->layers, layers, 4);
    opt.layer_first = f->n_last_layers ? -(int)f->n_last_layers : (int)f->layer_first;
    opt.layer_last = (int)f->layer_last;
    opt.token_first = f->token_first;
    opt.token_last = f->token_last;
    opt.before_rope = f->keys && strcmp(f->keys, "pre") == 0;
    opt.by_side = f->layout && strcmp(f->layout, "side") == 0;
    opt.not_normalized = f->not_normalized;
    *out = opt;
    return EXIT_OK;
}

bool embed_command_begin(struct command_line *line, int argc, char **argv, struct model_flags *model,
                         const struct embed_flags *flags, struct kvant_embed_options *out, int *code)
{
    enum options_result result = options_parse(line, argc, argv);
    if (result != OPTIONS_RUN) *code = result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    else if ((*code = setup_model_path(line, model, 0)) == EXIT_OK)
        *code = embed_flags_set(flags, line->command, out);
    return result == OPTIONS_RUN && *code == EXIT_OK;
}

json_t *embed_options_json(const struct kvant_embed_options *opt, const struct kvant_model_info *info,
                           const char *kv)
{
    int end = opt->layer_last ? opt->layer_last : info->n_layer;
    int first = opt->layer_first < 0 ? end + opt->layer_first : opt->layer_first;
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:[I, I], s:s, s:s, s:[i, i], s:s, s:s, s:s}", "model",
                     info->name, "fingerprint", info->fingerprint, "kv", kv, "source", sources[opt->source],
                     "part", parts[opt->part], "pool", pools[opt->tokens], "tokens",
                     (json_int_t)opt->token_first, (json_int_t)opt->token_last, "heads", heads[opt->heads],
                     "pool_layers", layers[opt->layers], "layers", first, end, "keys",
                     opt->before_rope ? "pre" : "post", "layout", opt->by_side ? "side" : "head", "norm",
                     opt->not_normalized ? "none" : "l2");
}
