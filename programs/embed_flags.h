/*
 * How an embedding is pooled, as flags: what embed, run and score share, and the words for it.
 */
#ifndef EMBED_FLAGS_H
#define EMBED_FLAGS_H

#include <jansson.h>

#include "options.h"
#include "program.h"
#include "setup.h"

struct embed_flags {
    const char *source, *part, *tokens, *heads, *layers, *keys, *layout;
    int64_t token_first, token_last, layer_first, layer_last, n_last_layers;
    bool not_normalized;
};

#define POOL_OPTIONS(f)                                                                                      \
    {"--part", OPTION_CHOICE, "kv|k|v", &(f)->part, "keys and values (default), or one of them", 0, 0},      \
    {"--heads", OPTION_CHOICE, "flatten|mean", &(f)->heads, "KV heads one after the other (default), or\n"   \
     "their mean", 0, 0},                                                                                    \
    {"--last-layers", OPTION_INT, "N", &(f)->n_last_layers, "only the last N layers; 0 = all (default)", 0,  \
     1e4},                                                                                                   \
    {"--layer-first", OPTION_INT, "N", &(f)->layer_first, "layers from this one on; the first is 0", 0,      \
     1e4},                                                                                                   \
    {"--layer-last", OPTION_INT, "N", &(f)->layer_last, "up to, and without, this one; 0 = to the end", 0,   \
     1e4},                                                                                                   \
    {"--keys", OPTION_CHOICE, "post|pre", &(f)->keys,                                                        \
     "keys after RoPE, as the cache holds them (default), or\nturned back to position 0", 0, 0},             \
    {"--layout", OPTION_CHOICE, "head|side", &(f)->layout,                                                   \
     "each head's keys, then its values (default), or all keys,\nthen all values", 0, 0}

#define EMBED_OPTIONS(f)                                                                                     \
    {"--pool", OPTION_CHOICE, "mean|last|first|sum", &(f)->tokens, "over tokens; default mean", 0, 0},       \
    {"--token-first", OPTION_INT, "N", &(f)->token_first,                                                    \
     "tokens from this one on; the first is 0; -N counts from\nthe end", -1e9, 1e9},                         \
    {"--token-last", OPTION_INT, "N", &(f)->token_last,                                                      \
     "up to, and without, this one; 0 = to the end (default)", -1e9, 1e9},                                   \
    {"--pool-layers", OPTION_CHOICE, "mean|sum|flatten|last", &(f)->layers, "over layers; default mean", 0,  \
     0},                                                                                                     \
    POOL_OPTIONS(f),                                                                                         \
    {"--no-norm", OPTION_FLAG, NULL, &(f)->not_normalized, "not scaled to length 1", 0, 0}

/* EXIT_USAGE after a message: two ways to name layers. */
int embed_flags_set(const struct embed_flags *flags, const char *command, struct kvant_embed_options *out);

/* What embed and score begin with: the arguments, the model's name, how is pooled. False: the command ends
 * with *code, for help or after a message. */
bool embed_command_begin(struct command_line *line, int argc, char **argv, struct model_flags *model,
                         const struct embed_flags *flags, struct kvant_embed_options *out, int *code);

/* Every choice, for the head of a file: an embedding is comparable with another only where all of them are
 * equal. */
json_t *embed_options_json(const struct kvant_embed_options *opt, const struct kvant_model_info *info,
                           const char *kv);

#endif
