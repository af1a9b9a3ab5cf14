/* kvant tune: finds plans for a model, shows the menu, keeps the one that is asked for. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "json.h"
#include "progress.h"
#include "setup.h"

#define BUDGETS_CAP 32
#define TOKENS_MIN 68 /* what kvant_tune_run takes */
#define TOKENS_MAX 65536
#define POINTS_CAP (BUDGETS_CAP + 16)

struct tune_flags {
    struct model_flags model;
    const char *text_path, *budgets_text, *output, *menu_folder;
    double budgets[BUDGETS_CAP];
    int n_budgets;
    int64_t n_ctx, n_tokens;
    double max_kld, pick; /* pick: page bits, 0 = by max_kld */
    bool no_mix;
};

struct menu {
    struct kvant_model *model;
    struct kvant_tune_point points[POINTS_CAP];
    size_t n_points;
    int chosen; /* index, -1: none */
    double seconds;
};

static int search(struct menu *menu, const struct tune_flags *flags)
{
    struct kvant_error err;
    struct progress progress;
    struct kvant_tune_options options = KVANT_TUNE_OPTIONS_INIT;
    kvant_token *ids = NULL;
    size_t n_ids = 0;
    if (flags->text_path) {
        size_t n_bytes;
        char *text = file_read(flags->text_path, &n_bytes);
        if (!text) return EXIT_FAILED;
        kvant_status status = tokens_of_text(menu->model, text, n_bytes, KVANT_TOKENIZE_BOS, &ids, &n_ids,
                                             &err);
        free(text);
        if (status != KVANT_OK) return fail(&err);
        if (n_ids < 2) {
            free(ids);
            return fail_text("%s: the text is too short to tune on; some hundred words are needed",
                             flags->text_path);
        }
    }
    options.budgets = flags->n_budgets ? flags->budgets : NULL;
    options.n_budgets = flags->n_budgets;
    options.n_ctx = flags->n_ctx;
    options.n_tokens = flags->n_tokens;
    options.no_mix = flags->no_mix;
    options.progress = progress_update;
    options.user = &progress;

    double started_s = clock_s();
    interrupt_catch();
    progress_begin(&progress);
    kvant_status status = kvant_tune_run(menu->model, ids, n_ids, &options, menu->points, POINTS_CAP,
                                         &menu->n_points, &err);
    progress_end(&progress);
    menu->seconds = clock_s() - started_s;
    free(ids);
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

/* --pick: the point nearest in page bits. Otherwise the smallest that is close enough to 16 bits, or, when
 * none is, the closest. The points ascend in true bits. */
static int choose(const struct menu *menu, const struct tune_flags *flags)
{
    int best = -1;
    double best_score = INFINITY;
    for (int i = 0; i < (int)menu->n_points; i++) {
        const struct kvant_eval_result *m = &menu->points[i].measured;
        double score;
        if (flags->pick > 0) score = fabs(m->page_bits - flags->pick) + 1e-6 * m->kld_mean;
        else if (m->kld_mean <= flags->max_kld) return i;
        else score = m->kld_mean;
        if (score < best_score) {
            best_score = score;
            best = i;
        }
    }
    return best;
}

static json_t *menu_json(const struct menu *menu)
{
    json_t *list = json_array();
    for (size_t i = 0; i < menu->n_points; i++) {
        const struct kvant_tune_point *p = &menu->points[i];
        const struct kvant_eval_result *m = &p->measured;
        json_array_append_new(
            list, json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:b}", "plan",
                            kvant_plan_name(p->plan), "true_bits", json_number(m->true_bits), "page_bits",
                            json_number(m->page_bits), "bytes_per_token", json_number(m->bytes_per_token),
                            "kld_mean", json_number(m->kld_mean), "kld_p999", json_number(m->kld_p999),
                            "same_top_p", json_number(m->same_top_p), "ppl_ratio", json_number(m->ppl_ratio),
                            "kld_predicted", json_number(p->kld_predicted), "uniform", (int)p->uniform,
                            "dominated", (int)p->dominated));
    }
    return list;
}

static int print_menu(const struct menu *menu, const struct tune_flags *flags)
{
    printf("   %9s %9s %9s %10s %9s %8s %9s %10s  %s\n", "true bits", "page bits", "B/token", "KLD mean",
           "p99.9", "same top", "ppl ratio", "predicted", "plan");
    for (size_t i = 0; i < menu->n_points; i++) {
        const struct kvant_tune_point *p = &menu->points[i];
        const struct kvant_eval_result *m = &p->measured;
        char predicted[32] = "";
        if (!p->uniform && isfinite(p->kld_predicted))
            snprintf(predicted, sizeof predicted, "%.5f", p->kld_predicted);
        printf(" %c %9.3f %9.3f %9.1f %10.5f %9.4f %7.1f%% %9.4f %10s  %.40s%s%s\n",
               (int)i == menu->chosen ? '*' : ' ', m->true_bits, m->page_bits, m->bytes_per_token,
               m->kld_mean, m->kld_p999, m->same_top_p, m->ppl_ratio, predicted,
               p->uniform ? kvant_plan_name(p->plan) : "tuned", p->uniform ? " (uniform)" : "",
               p->dominated ? ", dominated" : "");
    }
    printf("\n%zu plans in %.0f s; KLD: against the 16-bit cache, on text that the search did not see\n",
           menu->n_points, menu->seconds);
    if (menu->chosen < 0) return finish_output();
    if (flags->pick > 0) printf("* nearest to %g page bits (--pick)", flags->pick);
    else if (menu->points[menu->chosen].measured.kld_mean <= flags->max_kld)
        printf("* the smallest with a mean KLD of at most %g (--max-kld; --pick names page bits)",
               flags->max_kld);
    else printf("* the closest; none has a mean KLD of at most %g (--max-kld)", flags->max_kld);
    puts(flags->output ? "" : "; -o FILE keeps it");
    return finish_output();
}

/* A search takes minutes: what would keep its result from being written is said before. */
static int outputs_prepare(const struct tune_flags *flags)
{
    struct stat st;
    const char *folder = flags->menu_folder;
    if (flags->output && !output_check(flags->output)) return EXIT_FAILED;
    if (!folder || mkdir(folder, 0777) == 0) return EXIT_OK;
    if (errno != EEXIST) return fail_text("%s: %s; choose another folder", folder, strerror(errno));
    if (stat(folder, &st) != 0 || !S_ISDIR(st.st_mode))
        return fail_text("%s: is not a folder; name one", folder);
    if (access(folder, W_OK | X_OK) != 0)
        return fail_text("%s: %s; choose another folder", folder, strerror(errno));
    return EXIT_OK;
}

static int save_menu(const struct menu *menu, const char *folder)
{
    struct kvant_error err;
    for (size_t i = 0; i < menu->n_points; i++) {
        const struct kvant_tune_point *p = &menu->points[i];
        char path[4096];
        int n = snprintf(path, sizeof path, "%s/%02zu-%s-%.3f.kvplan.yaml", folder, i + 1,
                         p->uniform ? "uniform" : "tuned", p->measured.page_bits);
        if (n < 0 || (size_t)n >= sizeof path) return fail_text("%s: the path is too long", folder);
        if (kvant_plan_save(p->plan, path, &err) != KVANT_OK) return fail(&err);
    }
    return EXIT_OK;
}

static int keep(struct menu *menu, const struct tune_flags *flags)
{
    struct kvant_error err;
    if (flags->menu_folder) {
        int code = save_menu(menu, flags->menu_folder);
        if (code != EXIT_OK) return code;
    }
    if (!flags->output) return EXIT_OK;
    if (menu->chosen < 0) return fail_text("the search found no plan");
    const struct kvant_tune_point *p = &menu->points[menu->chosen];
    if (kvant_plan_save(p->plan, flags->output, &err) != KVANT_OK) return fail(&err);
    fprintf(stderr, "%s: %.3f page bits, KLD %.5f%s\n", flags->output, p->measured.page_bits,
            p->measured.kld_mean,
            flags->pick > 0 || p->measured.kld_mean <= flags->max_kld ? "" : "; no plan is below --max-kld");
    return EXIT_OK;
}

static int execute(const struct tune_flags *flags)
{
    struct menu *menu = allocate(1, sizeof *menu);
    int code = setup_model(&menu->model, &flags->model, false);
    if (code == EXIT_OK) code = outputs_prepare(flags);
    if (code == EXIT_OK) code = search(menu, flags);
    if (code == EXIT_OK) {
        menu->chosen = choose(menu, flags);
        code = keep(menu, flags);
    }
    if (code == EXIT_OK && !flags->model.json) code = print_menu(menu, flags);
    if (code == EXIT_OK && flags->model.json)
        code = json_finish(json_pack("{s:s, s:o, s:i, s:o, s:o}", "model", flags->model.path, "menu",
                                     menu_json(menu), "chosen", menu->chosen, "output",
                                     flags->output ? json_string(flags->output) : json_null(), "seconds",
                                     json_number(menu->seconds)));
    for (size_t i = 0; i < menu->n_points; i++) kvant_plan_close(menu->points[i].plan);
    kvant_model_close(menu->model);
    free(menu);
    return code;
}

static int run(int argc, char **argv)
{
    struct tune_flags f = {.max_kld = 0.005};
    const struct option options[] = {
        MODEL_OPTIONS(&f.model),
        {"--text, -f, --file", OPTION_NAME, "FILE", &f.text_path,
         "text to tune on; default: text of the model's own making", 0, 0},
        {"--budget", OPTION_TEXT, "B,...", &f.budgets_text,
         "page bits wanted; default 2.5,2.75,3,3.25,3.5,4,5", 0, 0},
        {"-c, --ctx-size", OPTION_INT, "N", &f.n_ctx,
         "context that true bits are stated at; 0 = the smaller of\n8192 and the model's (default)", 0, 1e9},
        {"--tokens", OPTION_INT, "N", &f.n_tokens, "tokens of text to use; 0 = 512 (default)", 0, 1e6},
        {"--no-mix", OPTION_FLAG, NULL, &f.no_mix, "no channel classes (x)", 0, 0},
        {"-o, --output", OPTION_NAME, "PLAN", &f.output, "keep one plan as this file", 0, 0},
        {"--max-kld", OPTION_NUMBER, "X", &f.max_kld,
         "keep the smallest plan with at most this mean KLD;\ndefault 0.005, near what 8-bit caches cost", 0,
         100},
        {"--pick", OPTION_NUMBER, "B", &f.pick, "keep the plan nearest to these page bits instead", 0.5, 17},
        {"--menu-dir", OPTION_NAME, "DIR", &f.menu_folder, "keep every plan of the menu in this folder", 0,
         0},
    };
    struct command_line line = {
        .command = "tune",
        .arguments = "MODEL",
        .about = "Finds how many bits the keys and values of each layer need, and shows the menu of plans. A "
                 "plan\n"
                 "beside its model, MODEL.kvplan.yaml, is used by every command without being named.",
        .examples = "  kvant tune model.gguf -o model.kvplan.yaml\n"
                    "  kvant tune model.gguf --text notes.txt --budget 3,3.25 --pick 3 -o model.kvplan.yaml",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    int code = setup_model_path(&line, &f.model, 0);
    if (code != EXIT_OK) return code;
    if (f.budgets_text) {
        f.n_budgets = numbers_parse(f.budgets_text, 1, 17, f.budgets, BUDGETS_CAP);
        bool ascending = f.n_budgets > 0;
        for (int i = 1; i < f.n_budgets; i++) ascending = ascending && f.budgets[i] > f.budgets[i - 1];
        if (!ascending)
            return fail_usage("tune", "--budget: '%s' is not a list of ascending page bits such as 3,3.25,4",
                              f.budgets_text);
    }
    if (f.n_tokens != 0 && (f.n_tokens < TOKENS_MIN || f.n_tokens > TOKENS_MAX))
        return fail_usage("tune", "--tokens: %lld is not 0 or a number from %d to %d", (long long)f.n_tokens,
                          TOKENS_MIN, TOKENS_MAX);
    return execute(&f);
}

const struct command command_tune = {"tune", "find plans for a model", run};
