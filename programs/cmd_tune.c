/* kvant tune: finds plans for a model, shows the menu, keeps the one that is asked for. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plot_terminal.h"
#include "progress.h"
#include "questions.h"
#include "ranks.h"
#include "report.h"
#include "setup.h"
#include "tune_report.h"

#define BUDGETS_CAP 32
#define TOKENS_MIN 68 /* what kvant_tune_run takes */
#define TOKENS_MAX 65536

struct tune_flags {
    struct model_flags model;
    const char *text_path, *budgets_text, *output, *menu_folder;
    double budgets[BUDGETS_CAP];
    int n_budgets;
    int64_t n_ctx, n_tokens;
    double max_kld, pick; /* max_kld: NaN = not given; pick: true bits, 0 = by max_kld */
    const char *memory_text;
    const char *stage, *method, *granularity, *mode, *search;
    int64_t n_trials, seed, tail; /* tail -1: not given */
    const char *questions_path;
    int64_t n_shots, n_limit, n_predict; /* -1: not given */
    const char *store, *report;
    bool resume;
    const char *command;  /* the command line, for the report */
    bool no_mix, refine;
};

#define MAX_KLD_DEFAULT 0.005
#define N_CTX_DEFAULT 8192 /* as kvant_tune_options: or the model's */

#define SHOTS_DEFAULT 4
#define LIMIT_DEFAULT 50
#define PREDICT_DEFAULT 256

struct menu {
    struct ranks ranks;
    struct kvant_model *model;
    struct question_file questions; /* of kvtuner, if accuracy is its objective */
    struct question_prompts prompts;
    struct kvant_tune_result *found;
    double max_kld;
    int chosen; /* index, -1: none */
    double seconds;
    struct predict_times times;
    bool predicted;
};

static int read_questions(struct menu *menu, const struct tune_flags *flags)
{
    if (!flags->questions_path) return EXIT_OK;
    int code = questions_read(&menu->questions, QUESTION_WORKED, flags->questions_path);
    if (code != EXIT_OK) return code;
    return questions_prompts(&menu->prompts, menu->model, &menu->questions, &menu->questions,
                             flags->n_shots < 0 ? SHOTS_DEFAULT : (size_t)flags->n_shots,
                             flags->n_limit < 0 ? LIMIT_DEFAULT : (size_t)flags->n_limit);
}

/* Of a process that does not talk. */
static bool watch_quietly(void *user, const char *what, int64_t done, int64_t total)
{
    (void)user, (void)what, (void)done, (void)total;
    return !interrupted();
}

static int search(struct menu *menu, const struct tune_flags *flags)
{
    static const char *const stops[] = {"Question:"};
    struct kvant_accuracy_options asking = KVANT_ACCURACY_OPTIONS_INIT;
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
    options.tail = (int)flags->tail;
    options.n_tokens = flags->n_tokens;
    options.max_kld = flags->n_budgets || isnan(flags->max_kld) ? 0.0 : flags->max_kld;
    options.no_mix = flags->no_mix;
    options.by_layer = strcmp(flags->granularity, "layer") == 0;
    options.refine = flags->refine;
    options.method = strcmp(flags->method, "kvtuner") == 0 ? KVANT_TUNE_KVTUNER : KVANT_TUNE_KVANT;
    options.kivi = strcmp(flags->mode, "kivi") == 0;
    options.nsga2 = strcmp(flags->search, "nsga2") == 0;
    options.n_trials = (int)flags->n_trials;
    options.seed = (uint64_t)flags->seed;
    options.store = flags->store;
    options.resume = flags->resume;
    asking.n_predict = flags->n_predict < 0 ? PREDICT_DEFAULT : (int)flags->n_predict;
    asking.stops = stops;
    asking.n_stops = 1;
    options.questions = menu->prompts.items;
    options.n_questions = menu->prompts.n;
    options.asking = &asking;
    options.rank = menu->ranks.self;
    options.n_ranks = menu->ranks.count;
    options.sum = ranks_sum;
    options.progress = menu->ranks.self ? watch_quietly : progress_update;
    options.user = &progress;

    double started_s = clock_s();
    interrupt_catch();
    progress_begin(&progress);
    kvant_status status = kvant_tune_run(menu->model, ids, n_ids, &options, &menu->found, &err);
    progress_end(&progress);
    menu->seconds = clock_s() - started_s;
    free(ids);
    return status == KVANT_OK ? EXIT_OK : fail(&err);
}

/* --pick: the point nearest in true bits. Otherwise the smallest that is close enough to 16 bits, or, when
 * none is, the closest. The points ascend in true bits. */
static int choose(const struct menu *menu, const struct tune_flags *flags)
{
    int best = -1;
    double best_score = INFINITY;
    for (int i = 0; i < (int)menu->found->n_points; i++) {
        const struct kvant_eval_result *m = &menu->found->points[i].measured;
        double score;
        if (menu->found->points[i].verdict.collapsed) continue;
        if (flags->pick > 0) score = fabs(m->true_bits - flags->pick) + 1e-6 * m->kld_mean;
        else if (m->kld_mean <= menu->max_kld) return i;
        else score = m->kld_mean;
        if (score < best_score) {
            best_score = score;
            best = i;
        }
    }
    return best;
}

static json_t *document(const struct menu *menu, const struct tune_flags *flags)
{
    const struct tune_account account = {
        .command = flags->command,
        .text = flags->text_path ? flags->text_path : "of the model's own making",
        .budgets = flags->budgets,
        .n_budgets = flags->n_budgets,
        .kvtuner = strcmp(flags->method, "kvtuner") == 0,
        .by_layer = strcmp(flags->granularity, "layer") == 0,
        .mix = !flags->no_mix,
        .seed = flags->seed,
        .seconds = menu->seconds,
        .chosen = menu->chosen,
    };
    return tune_report(menu->model, menu->found, menu->predicted ? &menu->times : NULL, &account);
}

static void print_front(const struct menu *menu)
{
    static const char *const names[PLOT_N_SERIES] = { "tuned", "KVTuner", "uniform" };
    static const int series[] = { [KVANT_TUNE_FROM_UNIFORM] = 2, [KVANT_TUNE_FROM_KVANT] = 0,
                                  [KVANT_TUNE_FROM_KVTUNER] = 1 };
    struct plot_point *points = allocate(menu->found->n_points + 1, sizeof *points);
    for (size_t i = 0; i < menu->found->n_points; i++) {
        const struct kvant_tune_point *p = &menu->found->points[i];
        points[i] = (struct plot_point){ p->measured.true_bits, p->measured.kld_mean, series[p->source],
                                         (int)i == menu->chosen };
    }
    putchar('\n');
    plot_front(stdout, points, menu->found->n_points, names, plot_style_of(stdout));
    free(points);
}

static int print_menu(const struct menu *menu, const struct tune_flags *flags)
{
    printf("   %9s %9s %9s %10s %9s %8s %9s %10s  %s\n", "true bits", "page bits", "B/token", "KLD mean",
           "p99.9", "same top", "ppl ratio", "predicted", "plan");
    const struct kvant_tune_result *found = menu->found;
    for (size_t i = 0; i < found->n_points; i++) {
        const struct kvant_tune_point *p = &found->points[i];
        const struct kvant_eval_result *m = &p->measured;
        bool uniform = p->source == KVANT_TUNE_FROM_UNIFORM;
        char predicted[32] = "";
        if (isfinite(p->kld_predicted))
            snprintf(predicted, sizeof predicted, "%.5f", p->kld_predicted);
        char right[32] = "";
        if (isfinite(p->accuracy)) snprintf(right, sizeof right, ", %.1f %% right", p->accuracy);
        printf(" %c %9.3f %9.3f %9.1f %10.5f %9.4f %7.1f%% %9.4f %10s  %.40s%s%s%s\n",
               (int)i == menu->chosen ? '*' : ' ', m->true_bits, m->page_bits, m->bytes_per_token,
               m->kld_mean, m->kld_p999, m->same_top_p, m->ppl_ratio, predicted,
               p->source == KVANT_TUNE_FROM_KVANT ? "tuned" : kvant_plan_name(p->plan),
               uniform ? " (uniform)" : "", right,
               p->verdict.collapsed ? ", collapsed" : p->dominated ? ", dominated" : "");
    }
    printf("\n%zu plans in %.0f s%s; true bits: at %lld tokens; KLD: against the 16-bit cache, on text that "
           "the search did not see\n",
           found->n_points, menu->seconds, found->interrupted ? ", interrupted" : "",
           (long long)found->n_ctx);
    print_front(menu);
    if (menu->chosen < 0) return finish_output();
    if (flags->pick > 0) printf("* nearest to %g true bits (--pick)", flags->pick);
    else if (found->points[menu->chosen].measured.kld_mean <= menu->max_kld)
        printf("* the smallest with a mean KLD of at most %g (--max-kld; --pick names true bits)",
               menu->max_kld);
    else printf("* the closest; none has a mean KLD of at most %g (--max-kld)", menu->max_kld);
    puts(flags->output ? "" : "; -o FILE keeps it");
    return finish_output();
}

/* A search takes minutes: what would keep its result from being written is said before. */
static int outputs_prepare(const struct tune_flags *flags)
{
    struct stat st;
    const char *folder = flags->menu_folder;
    if (flags->output && !output_check(flags->output)) return EXIT_FAILED;
    if (flags->report && !output_check(flags->report)) return EXIT_FAILED;
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
    for (size_t i = 0; i < menu->found->n_points; i++) {
        const struct kvant_tune_point *p = &menu->found->points[i];
        char path[4096];
        int n = snprintf(path, sizeof path, "%s/%02zu-%s-%.3f.kvplan.yaml", folder, i + 1,
                         p->source == KVANT_TUNE_FROM_UNIFORM ? "uniform" : "tuned", p->measured.true_bits);
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
    const struct kvant_tune_point *p = &menu->found->points[menu->chosen];
    if (kvant_plan_save(p->plan, flags->output, &err) != KVANT_OK) return fail(&err);
    fprintf(stderr, "%s: %.3f true bits, KLD %.5f%s\n", flags->output, p->measured.true_bits,
            p->measured.kld_mean,
            flags->pick > 0 || p->measured.kld_mean <= menu->max_kld ? "" : "; no plan is below --max-kld");
    return EXIT_OK;
}

/* Tokens per second of every plan at long contexts, from times measured now. */
static int predict(struct menu *menu)
{
    struct kvant_error err;
    struct progress progress;
    struct kvant_model_info info;
    int64_t contexts[PREDICT_CONTEXTS_CAP];
    const struct kvant_plan **plans = allocate(menu->found->n_points + 1, sizeof *plans);
    kvant_model_get_info(menu->model, &info);
    int n_contexts = predict_contexts(info.n_ctx_train, contexts);
    for (size_t i = 0; i < menu->found->n_points; i++) plans[i] = menu->found->points[i].plan;
    progress_begin(&progress);
    kvant_status status = predict_measure(&menu->times, menu->model, plans, (int)menu->found->n_points,
                                          contexts, n_contexts, progress_update, &progress, &err);
    progress_end(&progress);
    free(plans);
    menu->predicted = status == KVANT_OK;
    /* the search is worth more than its prediction: a stop here keeps the rest of the report */
    return status == KVANT_OK || status == KVANT_ERR_CANCELLED ? EXIT_OK : fail(&err);
}

/* FILE.html: the page. Any other name: the document, for kvant report. */
static int write_report(const struct menu *menu, const struct tune_flags *flags)
{
    struct output_file output = {0};
    struct report *report = NULL;
    struct kvant_error err;
    size_t n = strlen(flags->report);
    bool page = n > 5 && strcmp(flags->report + n - 5, ".html") == 0;
    json_t *root = document(menu, flags);
    if (page && report_open(&report, root, flags->report, &err) != KVANT_OK) return fail(&err);
    int code = output_open(&output, flags->report) ? EXIT_OK : EXIT_FAILED;
    if (code == EXIT_OK) {
        if (page) report_write_html(report, output.stream);
        else json_dumpf(root, output.stream, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
        code = output_commit(&output) ? EXIT_OK : EXIT_FAILED;
    }
    if (page) report_close(report);
    else json_decref(root);
    if (code == EXIT_OK)
        fprintf(stderr, "%s: the report%s\n", flags->report, page ? "" : "; kvant report makes a page of it");
    return code;
}

/* "512MiB", "1.5G", "800m", "512": MiB without a unit. NaN: no size. */
static double size_parse(const char *text)
{
    static const struct { const char *unit; double bytes; } units[] = {
        { "", 1048576.0 },   { "k", 1024.0 },          { "kib", 1024.0 },      { "m", 1048576.0 },
        { "mib", 1048576.0 }, { "g", 1073741824.0 }, { "gib", 1073741824.0 }, { "mb", 1e6 }, { "gb", 1e9 },
    };
    char *end;
    double number = strtod(text, &end);
    if (end == text || !(number > 0) || !isfinite(number)) return NAN;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcasecmp(end, units[i].unit) == 0) return number * units[i].bytes;
    return NAN;
}

/* --memory as true bits: of so many bytes over all elements of -c tokens. */
static int memory_budget(const struct menu *menu, struct tune_flags *flags)
{
    struct kvant_model_info info;
    if (!flags->memory_text) return EXIT_OK;
    double n_bytes = size_parse(flags->memory_text);
    kvant_model_get_info(menu->model, &info);
    int64_t n_ctx = flags->n_ctx                       ? flags->n_ctx
                    : info.n_ctx_train < N_CTX_DEFAULT ? info.n_ctx_train
                                                       : N_CTX_DEFAULT;
    double n_elements = 2.0 * info.head_dim * info.n_head_kv * info.n_layer * (double)n_ctx;
    double bits = n_bytes * 8.0 / n_elements;
    if (bits >= 16.5)
        return fail_text("--memory: %s hold the 16-bit cache of %lld tokens (%.0f MiB); no plan is needed",
                         flags->memory_text, (long long)n_ctx, n_elements * 2 / 1048576.0);
    if (bits < 1.0)
        return fail_text("--memory: %s for %lld tokens are %.2f bits an element; no plan is that small",
                         flags->memory_text, (long long)n_ctx, bits);
    flags->budgets[0] = bits;
    flags->n_budgets = 1;
    if (flags->pick == 0 && isnan(flags->max_kld)) flags->pick = bits;
    return EXIT_OK;
}

/* What was found, written and shown. */
static int finish(struct menu *menu, const struct tune_flags *flags)
{
    menu->chosen = choose(menu, flags);
    int code = keep(menu, flags);
    if (code == EXIT_OK && flags->report) code = predict(menu);
    if (code == EXIT_OK && flags->report) code = write_report(menu, flags);
    if (code == EXIT_OK && !flags->model.json) code = print_menu(menu, flags);
    if (code == EXIT_OK && flags->model.json) code = json_finish(document(menu, flags));
    return code;
}

static int execute(struct tune_flags *flags)
{
    struct menu *menu = allocate(1, sizeof *menu);
    menu->max_kld = isnan(flags->max_kld) ? MAX_KLD_DEFAULT : flags->max_kld;
    int code = ranks_begin(&menu->ranks);
    bool first = menu->ranks.self == 0;
    if (code == EXIT_OK) code = setup_model(&menu->model, &flags->model, false);
    if (code == EXIT_OK && first) code = outputs_prepare(flags);
    if (code == EXIT_OK) code = memory_budget(menu, flags);
    if (code == EXIT_OK) code = read_questions(menu, flags);
    if (code == EXIT_OK) code = search(menu, flags);
    if (code == EXIT_OK && first) code = finish(menu, flags);
    ranks_end(&menu->ranks, code);
    questions_prompts_close(&menu->prompts);
    questions_close(&menu->questions);
    kvant_tune_close(menu->found);
    kvant_model_close(menu->model);
    free(menu);
    return code;
}

/* The command line again, cut off at cap; names with blanks in quotes. */
static const char *command_text(char *text, size_t cap, int argc, char **argv)
{
    size_t n = (size_t)snprintf(text, cap, "kvant");
    for (int i = 0; i < argc && n < cap; i++) {
        const char *quote = strpbrk(argv[i], " \t\"") ? "'" : "";
        n += (size_t)snprintf(text + n, cap - n, " %s%s%s", quote, argv[i], quote);
    }
    return text;
}

/* The first stage of the published method by itself is a command of its own. */
static int sensitivity(const struct tune_flags *flags)
{
    char *argv[5] = {"sensitivity", (char *)(uintptr_t)flags->model.path};
    int argc = 2;
    if (flags->text_path) {
        argv[argc++] = "--text";
        argv[argc++] = (char *)(uintptr_t)flags->text_path;
    }
    if (flags->model.json) argv[argc++] = "--json";
    return command_sensitivity.run(argc, argv);
}

/* What one option says of another. Reads --budget into f->budgets. */
static int check_flags(struct tune_flags *f)
{
    if (f->budgets_text) {
        if (f->memory_text) return fail_usage("tune", "--budget and --memory: give one of them");
        f->n_budgets = numbers_parse(f->budgets_text, 1, 17, f->budgets, BUDGETS_CAP);
        bool ascending = f->n_budgets > 0;
        for (int i = 1; i < f->n_budgets; i++) ascending = ascending && f->budgets[i] > f->budgets[i - 1];
        if (!ascending)
            return fail_usage("tune", "--budget: '%s' is not a list of ascending true bits such as 3,3.25,4",
                              f->budgets_text);
    }
    if (f->resume && !f->store) return fail_usage("tune", "--resume: name the file with --store");
    if (f->memory_text && isnan(size_parse(f->memory_text)))
        return fail_usage("tune", "--memory: '%s' is not a size such as 512MiB or 2G", f->memory_text);
    if (f->n_tokens != 0 && (f->n_tokens < TOKENS_MIN || f->n_tokens > TOKENS_MAX))
        return fail_usage("tune", "--tokens: %lld is not 0 or a number from %d to %d", (long long)f->n_tokens,
                          TOKENS_MIN, TOKENS_MAX);
    bool asks = f->n_shots >= 0 || f->n_limit >= 0 || f->n_predict >= 0;
    if (asks && !f->questions_path) return fail_usage("tune", "--shots, --limit and -n need --questions");
    if (f->questions_path && strcmp(f->method, "kvtuner") != 0)
        return fail_usage("tune", "--questions needs --method kvtuner; kvant's own method measures KLDs");
    return EXIT_OK;
}

static const char about[] =
    "Finds how many bits the keys and values of each layer need, and shows the menu of plans. A plan\n"
    "beside its model, MODEL.kvplan.yaml, is used by every command without being named.";
static const char examples[] =
    "  kvant tune model.gguf -o model.kvplan.yaml\n"
    "  kvant tune model.gguf --text notes.txt --budget 3,3.25 --pick 3 -o model.kvplan.yaml\n"
    "  kvant tune model.gguf --memory 512MiB -c 32768 -o model.kvplan.yaml";

static int run(int argc, char **argv)
{
    struct tune_flags f = {.tail = -1, .n_shots = -1, .n_limit = -1, .n_predict = -1, .max_kld = NAN,
                           .stage = "all", .method = "kvant", .granularity = "head", .mode = "per-token",
                           .search = "moead"};
    const struct option options[] = {
        MODEL_OPTIONS(&f.model),
        {"--text, -f, --file", OPTION_NAME, "FILE", &f.text_path,
         "text to tune on; default: text of the model's own making", 0, 0},
        {"--budget", OPTION_TEXT, "B,...", &f.budgets_text,
         "true bits wanted, sinks, tail and tables included;\ndefault 2.5,2.75,3,3.25,3.5,4,5", 0, 0},
        {"--memory", OPTION_TEXT, "SIZE", &f.memory_text,
         "a budget: what the cache of -c tokens may take, such as\n512MiB or 2G", 0, 0},
        {"-c, --ctx-size", OPTION_INT, "N", &f.n_ctx,
         "context that true bits are stated at; 0 = the smaller of\n8192 and the model's (default)", 0, 1e9},
        {"--tail", OPTION_INT, "N", &f.tail,
         "exact last tokens of every plan; default 32, from a -c of\n4096 on 64, from 8192 on 128", 0,
         KVANT_TUNE_TAIL_MAX},
        {"--tokens", OPTION_INT, "N", &f.n_tokens,
         "tokens of text to tune on; 0 = 1024 to 4096, the more the\n"
         "fewer KV heads the model has (default)", 0, 1e6},
        {"--no-mix", OPTION_FLAG, NULL, &f.no_mix, "no channel classes (x)", 0, 0},
        {"--granularity", OPTION_CHOICE, "head|layer", &f.granularity,
         "what gets a recipe of its own: each KV head (default),\nor each layer as in the paper", 0, 0},
        {"--stage", OPTION_CHOICE, "all|sensitivity", &f.stage,
         "sensitivity: the errors of single layers as in the paper,\n"
         "and no search: what kvant sensitivity prints", 0, 0},
        {"--method", OPTION_CHOICE, "kvant|kvtuner", &f.method,
         "kvant (default), or the published KVTuner: groups of\nlayers, evolutionary search", 0, 0},
        {"--mode", OPTION_CHOICE, "per-token|kivi", &f.mode, "of kvtuner; default per-token", 0, 0},
        {"--search", OPTION_CHOICE, "moead|nsga2", &f.search,
         "of kvtuner; default moead, as in the paper", 0, 0},
        {"--trials", OPTION_INT, "N", &f.n_trials,
         "of kvtuner: plans measured below 4 bits, and below 6;\n0 = 200 each (default)", 0, 10000},
        {"--seed", OPTION_INT, "N", &f.seed, "of kvtuner; default 0", 0, 1e15},
        {"--questions", OPTION_NAME, "FILE.jsonl", &f.questions_path,
         "of kvtuner: search for right answers instead of a small\nKLD; as kvant eval --task gsm8k has "
         "them. Not those of a test",
         0, 0},
        {"--shots", OPTION_INT, "N", &f.n_shots,
         "worked examples, the first of --questions; default 4", 0, 64},
        {"--limit", OPTION_INT, "N", &f.n_limit, "most questions; 0 = all; default 50", 0, 1e9},
        {"-n, --predict, --n-predict", OPTION_INT, "N", &f.n_predict,
         "most tokens of an answer; default 256", 1, 65536},
        {"--report", OPTION_NAME, "FILE", &f.report,
         "write what was found and how: FILE.html a page, any other\nname JSON for kvant report", 0, 0},
        {"--store", OPTION_NAME, "FILE", &f.store,
         "write every measurement to this file as it is made", 0, 0},
        {"--resume", OPTION_FLAG, NULL, &f.resume,
         "continue with a --store that holds measurements: after an\n"
         "interruption, or with other budgets", 0, 0},
        {"--refine", OPTION_FLAG, NULL, &f.refine,
         "then try swaps of bits between heads and keep those that\n"
         "lower the KLD there: a fifth longer for each budget", 0, 0},
        {"-o, --output", OPTION_NAME, "PLAN", &f.output, "keep one plan as this file", 0, 0},
        {"--max-kld", OPTION_NUMBER, "X", &f.max_kld,
         "keep the smallest plan with at most this mean KLD;\ndefault 0.005, near what 8-bit caches cost. "
         "Given without\n--budget: search for the cheapest such plan, too",
         0, 100},
        {"--pick", OPTION_NUMBER, "B", &f.pick, "keep the plan nearest to these true bits instead", 0.5, 17},
        {"--menu-dir", OPTION_NAME, "DIR", &f.menu_folder, "keep every plan of the menu in this folder", 0,
         0},
    };
    struct command_line line = {
        .command = "tune",
        .arguments = "MODEL",
        .about = about,
        .examples = examples,
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    int code = setup_model_path(&line, &f.model, 0);
    if (code != EXIT_OK) return code;
    code = check_flags(&f);
    if (code != EXIT_OK) return code;
    if (strcmp(f.stage, "sensitivity") == 0) return sensitivity(&f);
    char command[4096];
    f.command = command_text(command, sizeof command, argc, argv);
    return execute(&f);
}

const struct command command_tune = {"tune", "find plans for a model", run};
