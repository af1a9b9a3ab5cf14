#include "setup.h"

#include <stdlib.h>
#include <string.h>

#include "progress.h"

/* As many as kvant_plan_calibrate would write by itself: a plan is the same whichever command calibrates
 * it. */
#define OWN_TEXT_TOKENS 512

int setup_model_path(struct command_line *line, struct model_flags *flags, int n_more)
{
    struct option_list *list = &line->positional;
    if (!flags->path && list->n > n_more) {
        flags->path = list->items[0];
        list->n--;
        memmove(list->items, list->items + 1, (size_t)list->n * sizeof *list->items);
    }
    if (!flags->path || !*flags->path)
        return fail_usage(line->command, "no model: name a GGUF file, as in kvant %s model.gguf",
                          line->command);
    if (list->n > n_more)
        return fail_usage(line->command, "'%s' is one argument too many", list->items[list->n - 1]);
    return EXIT_OK;
}

int setup_model(struct kvant_model **out, const struct model_flags *flags, bool vocab_only)
{
    struct kvant_error err;
    struct kvant_model_options options = KVANT_MODEL_OPTIONS_INIT;
    options.n_threads = (int)flags->n_threads;
    options.n_threads_batch = (int)flags->n_threads_batch;
    options.cpu = flags->cpu;
    if (flags->act && strcmp(flags->act, "f32") == 0) options.act = KVANT_ACT_F32;
    if (flags->act && strcmp(flags->act, "int16") == 0) options.act = KVANT_ACT_INT16;
    if (flags->act && strcmp(flags->act, "int8") == 0) options.act = KVANT_ACT_INT8;
    if (flags->attn && strcmp(flags->attn, "f32") == 0) options.attn = KVANT_ATTN_F32;
    options.vocab_only = vocab_only;
    options.no_repack = flags->no_repack;
    if (kvant_model_open(out, flags->path, &options, &err) != KVANT_OK) return fail(&err);
    struct kvant_model_info info;
    kvant_model_get_info(*out, &info);
    if (!vocab_only && !flags->cpu && !getenv("KVANT_CPU") && strcmp(info.cpu, "scalar") == 0)
        fputs("note: this processor has no AVX2, so everything runs in plain C, some 30 times slower\n",
              stderr);
    return EXIT_OK;
}

/* llama.cpp's cache types as bits; 0: there is nothing like it here. */
static int cache_type_bits(const char *type)
{
    static const struct {
        const char *type;
        int bits;
    } known[] = {{"f16", 16}, {"q8_0", 8}, {"q4_0", 4}, {"q4_1", 4}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(type, known[i].type) == 0) return known[i].bits;
    return 0;
}

static int choose_types(const struct plan_flags *flags, char spec[4096])
{
    int bits[2] = {16, 16};
    const char *types[2] = {flags->type_k, flags->type_v};
    for (int i = 0; i < 2; i++) {
        if (types[i]) bits[i] = cache_type_bits(types[i]);
        if (bits[i] == 0) {
            fail_text(
                "%s %s: not a type of this cache; use f16, q8_0 or q4_0, or --kv for 2, 3, 4, 8 and 16 bits",
                i == 0 ? "-ctk" : "-ctv", types[i]);
            return EXIT_USAGE;
        }
    }
    snprintf(spec, 4096, "k%dv%d", bits[0], bits[1]);
    return EXIT_OK;
}

/* MODEL.kvplan.yaml, where MODEL is the path with or without ".gguf". */
static bool plan_beside(const char *model_path, char spec[4096])
{
    static const char suffix[] = ".kvplan.yaml";
    size_t n = strlen(model_path);
    bool has_extension = n > 5 && strcmp(model_path + n - 5, ".gguf") == 0;
    for (int i = has_extension ? 0 : 1; i < 2; i++) {
        size_t n_stem = i == 0 ? n - 5 : n;
        int length = snprintf(spec, 4096, "%.*s%s", (int)n_stem, model_path, suffix);
        if (length > 0 && length < 4096 && file_exists(spec)) return true;
    }
    return false;
}

int setup_plan_choose(const struct kvant_model *model, const struct plan_flags *flags, char spec[4096])
{
    struct kvant_model_info info;
    kvant_model_get_info(model, &info);
    const char *given = flags->kv;
    if (!given && (flags->type_k || flags->type_v)) return choose_types(flags, spec);
    if (!given && flags->kv_plan) {
        given = flags->kv_plan;
        if (!file_exists(given)) return fail_text("%s: no such plan file; check --kv-plan", given);
    }
    if (!given && plan_beside(info.path, spec)) return EXIT_OK;
    if (!given) given = "default";
    if (snprintf(spec, 4096, "%s", given) >= 4096) return fail_text("--kv: the specification is too long");
    return EXIT_OK;
}

void own_text_close(struct own_text *text)
{
    free(text->ids);
    *text = (struct own_text){0};
}

static int calibrate(struct kvant_plan *plan, const struct kvant_model *model, struct own_text *text)
{
    struct kvant_error err;
    struct progress progress;
    kvant_status status = KVANT_OK;
    if (!kvant_plan_needs_calibration(plan)) return EXIT_OK;
    interrupt_catch();
    progress_begin(&progress);
    if (!text->ids) {
        fprintf(stderr, "kvant: plan %s needs calibration: on text that the model writes now\n"
                        "       (kvant plan convert --calibrate keeps the result as a file)\n",
                kvant_plan_name(plan));
        text->ids = allocate(OWN_TEXT_TOKENS, sizeof *text->ids);
        status = kvant_tune_text(model, OWN_TEXT_TOKENS, text->ids, OWN_TEXT_TOKENS, &text->n_ids,
                                 progress_update, &progress, &err);
    }
    if (status == KVANT_OK)
        status = kvant_plan_calibrate(plan, model, text->ids, text->n_ids, progress_update, &progress, &err);
    progress_end(&progress);
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

int setup_plan_open(struct kvant_plan **out, const struct kvant_model *model, const char *spec)
{
    struct kvant_error err;
    if (kvant_plan_open(out, model, spec, &err) == KVANT_OK) return EXIT_OK;
    /* Errors in a file name it; columns of a grammar mean little without the grammar. */
    if (strstr(err.message, spec)) return fail(&err);
    return fail_text("plan '%s': %s", spec, err.message);
}

int setup_plan_spec(struct kvant_plan **out, const struct kvant_model *model, const char *spec,
                    struct own_text *text)
{
    if (setup_plan_open(out, model, spec) != EXIT_OK) return EXIT_FAILED;
    int code = calibrate(*out, model, text);
    if (code != EXIT_OK) {
        kvant_plan_close(*out);
        *out = NULL;
    }
    return code;
}

/* What the gate and the static detector say of a plan, on stderr; EXIT_FAILED: not to be used. */
static int judge(const struct kvant_plan *plan, const struct kvant_model *model, const char *spec, bool force)
{
    char why[256], layers[256];
    if (kvant_plan_is_refused(plan, why, sizeof why)) {
        if (!force)
            return fail_text("plan %s is marked as collapsed: %s; choose another plan, or --force", spec,
                             why);
        fprintf(stderr, "kvant: plan %s is marked as collapsed: %s; used because of --force\n", spec, why);
    }
    if (kvant_plan_keys_at_risk(plan, model, layers, sizeof layers))
        fprintf(stderr,
                "kvant: plan %s: the key biases of layers %s are outliers: keys per token in so few bits\n"
                "       will collapse; centre them (m) or store them per channel (c64)\n",
                spec, layers);
    return EXIT_OK;
}

static int open_plan(struct kvant_plan **out, const struct kvant_model *model, const struct plan_flags *flags,
                     bool sound, char name[256])
{
    struct kvant_error err;
    struct own_text text = {0};
    char spec[4096];
    *out = NULL;
    if (flags->save_path && !output_check(flags->save_path)) return EXIT_FAILED;
    int code = setup_plan_choose(model, flags, spec);
    if (code == EXIT_OK) code = setup_plan_open(out, model, spec);
    if (code == EXIT_OK && sound) code = judge(*out, model, spec, flags->force);
    if (code == EXIT_OK) code = calibrate(*out, model, &text);
    own_text_close(&text);
    if (code == EXIT_OK && flags->save_path && kvant_plan_save(*out, flags->save_path, &err) != KVANT_OK)
        code = fail(&err);
    if (code == EXIT_OK)
        snprintf(name, 256, "%.255s", strcmp(spec, "default") == 0 ? kvant_plan_name(*out) : spec);
    if (code == EXIT_OK) return EXIT_OK;
    kvant_plan_close(*out);
    *out = NULL;
    return code;
}

int setup_plan(struct kvant_plan **out, const struct kvant_model *model, const struct plan_flags *flags,
               char name[256])
{
    return open_plan(out, model, flags, false, name);
}

int setup_plan_sound(struct kvant_plan **out, const struct kvant_model *model, const struct plan_flags *flags,
                     char name[256])
{
    return open_plan(out, model, flags, true, name);
}

int setup_plans_listed(struct kvant_plan **plans, char (*names)[256], int *n, const struct kvant_model *model,
                       const struct option_list *list, const struct plan_flags *flags)
{
    struct own_text text = {0};
    int code = EXIT_OK;
    *n = 0;
    if (list->n == 0) {
        code = setup_plan(&plans[0], model, flags, names[0]);
        *n = code == EXIT_OK;
    }
    for (int i = 0; i < list->n && code == EXIT_OK; i++) {
        snprintf(names[i], sizeof names[i], "%.255s", list->items[i]);
        code = setup_plan_spec(&plans[i], model, list->items[i], &text);
        *n += code == EXIT_OK;
    }
    own_text_close(&text);
    return code;
}

int64_t setup_context(const struct kvant_model *model, int64_t n_asked)
{
    struct kvant_model_info info;
    kvant_model_get_info(model, &info);
    if (n_asked > 0) return n_asked;
    return info.n_ctx_train < 8192 ? info.n_ctx_train : 8192;
}

void setup_context_note(const struct kvant_model *model, int64_t n_asked)
{
    struct kvant_model_info info;
    kvant_model_get_info(model, &info);
    if (n_asked > info.n_ctx_train)
        fprintf(stderr,
                "kvant: -c %lld is beyond the %d tokens that this model was trained for: expect worse text\n",
                (long long)n_asked, info.n_ctx_train);
}
