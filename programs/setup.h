/*
 * The flags that every command with a model has, and what they open: the model, and the plan of its cache.
 */
#ifndef SETUP_H
#define SETUP_H

#include "options.h"
#include "program.h"

struct model_flags {
    const char *path, *cpu, *act, *attn;
    int64_t n_threads, n_threads_batch;
    bool json, no_repack;
};

#define MODEL_OPTIONS(f)                                                                                     \
    {"-m, --model", OPTION_NAME, "FILE", &(f)->path, "the model: a GGUF file (or the first argument)", 0,    \
     0},                                                                                                     \
    {"-t, --threads", OPTION_INT, "N", &(f)->n_threads, "worker threads; 0 = all cores (default)", 0, 256},  \
    {"-tb, --threads-batch", OPTION_INT, "N", &(f)->n_threads_batch,                                         \
     "threads of prompts and of many sequences at once;\n0 = as -t (default)", 0, 256},                      \
    {"--cpu", OPTION_CHOICE, "scalar|avx2|avx512|neon", &(f)->cpu,                                           \
     "highest kernel level; default: the best of this CPU\n(also KVANT_CPU in the environment)", 0, 0},      \
    {"--act", OPTION_CHOICE, "int16|mixed|int8|f32", &(f)->act,                                              \
     "activations in matrix products: mixed (default), int16\n(nearly exact, prompts slower), int8 or f32 "  \
     "(slow)", 0, 0},                                                                                        \
    {"--attn", OPTION_CHOICE, "codes|f32", &(f)->attn,                                                       \
     "attention over the codes of the cache (default), or over\nkeys and values expanded to float32 "        \
     "(slow, for checking)", 0, 0},                                                                          \
    {"--no-repack", OPTION_FLAG, NULL, &(f)->no_repack,                                                      \
     "keep to the mapped file: no copy of the weights in the\norder that is fastest to read", 0, 0},         \
    {"--json", OPTION_FLAG, NULL, &(f)->json, "print JSON for machines", 0, 0}

struct plan_flags {
    const char *kv, *kv_plan, *type_k, *type_v, *save_path;
    bool force;
};

#define PLAN_OPTIONS(f)                                                                                      \
    {"--kv", OPTION_NAME, "SPEC", &(f)->kv,                                                                  \
     "the cache: k4c64v3h, k8v4, f16, 0:k8v4,1-29:k4v2 or the\nname of a plan file", 0, 0},                  \
    {"--kv-plan", OPTION_NAME, "FILE", &(f)->kv_plan,                                                        \
     "plan file; default: MODEL.kvplan.yaml beside the model\nif there is one, else a safe plan", 0, 0},     \
    {"-ctk, --cache-type-k", OPTION_NAME, "TYPE", &(f)->type_k,                                              \
     "keys as f16, q8_0, q4_0 or q4_1: k16, k8 or k4 of --kv", 0, 0},                                        \
    {"-ctv, --cache-type-v", OPTION_NAME, "TYPE", &(f)->type_v, "values, likewise", 0, 0},                   \
    {"--save-plan", OPTION_NAME, "FILE", &(f)->save_path, "keep the plan, calibrated, as a file", 0, 0}

#define CHAT_TEMPLATE_OPTION(target)                                                                         \
    {"--chat-template", OPTION_NAME, "NAME", (target),                                                       \
     "chatml, llama3, llama2, mistral, gemma, phi3, phi4, zephyr,\ndeepseek, or Jinja text; default: the "   \
     "model's", 0, 0}

/* Of commands that write text for people: they refuse a plan that has collapsed. */
#define FORCE_OPTION(f)                                                                                      \
    {"--force", OPTION_FLAG, NULL, &(f)->force, "use a plan even when it is marked as collapsed", 0, 0}

/* Of commands that compare plans: a list, or one plan as above. */
#define PLAN_LIST_OPTIONS(list, f)                                                                           \
    {"--kv", OPTION_LIST, "SPEC", (list), "a plan: grammar or file; may be given several times", 0, 0},      \
    {"--kv-plan", OPTION_NAME, "FILE", &(f)->kv_plan,                                                        \
     "plan file, when there is no --kv; default as for run", 0, 0}

/* Takes the model from the arguments if no -m named it; any argument beyond `n_more` others is refused.
 * EXIT_USAGE when there is no model. */
int setup_model_path(struct command_line *line, struct model_flags *flags, int n_more);

int setup_model(struct kvant_model **out, const struct model_flags *flags, bool vocab_only);

/* Text of the model's own making, for calibration: written once, when the first plan needs it. */
struct own_text {
    kvant_token *ids; /* NULL until then */
    size_t n_ids;
};
void own_text_close(struct own_text *text);

/* The plan that the flags ask for, in the order --kv, --kv-plan, the file beside the model, default;
 * calibrated, with progress, if it needs that. name: how it was asked for, for reports. */
int setup_plan(struct kvant_plan **out, const struct kvant_model *model, const struct plan_flags *flags,
               char name[256]);

/* The same for a command that writes text for people: a plan that is marked as collapsed is refused unless
 * --force was given, and what the static detector says of the plan is said. Before any calibration. */
int setup_plan_sound(struct kvant_plan **out, const struct kvant_model *model, const struct plan_flags *flags,
                     char name[256]);

/* One specification as it is, and calibrated if it needs that. `text` serves all plans of one model. */
int setup_plan_open(struct kvant_plan **out, const struct kvant_model *model, const char *spec);
int setup_plan_spec(struct kvant_plan **out, const struct kvant_model *model, const char *spec,
                    struct own_text *text);

/* The plans of a command that compares plans, calibrated: those of the list, or, if that is empty, the one
 * that the flags ask for. All of them before anything is measured: a mistake in the last one shows at once.
 * plans and names: (OPTION_LIST_CAP); *n counts those that are open, on failure too. */
int setup_plans_listed(struct kvant_plan **plans, char (*names)[256], int *n, const struct kvant_model *model,
                       const struct option_list *list, const struct plan_flags *flags);

/* The specification that the flags lead to, without opening it; "default" where nothing names one. */
int setup_plan_choose(const struct kvant_model *model, const struct plan_flags *flags, char spec[4096]);

/* --ctx-size: n_asked, or, if that is 0, the smaller of 8192 and the context that the model was trained
 * for. */
int64_t setup_context(const struct kvant_model *model, int64_t n_asked);

/* A line on stderr when n_asked is beyond what the model was trained for: allowed, but the answers get
 * worse. */
void setup_context_note(const struct kvant_model *model, int64_t n_asked);

#endif
