/* kvant router: answers questions in two modes, learns from them which one a question needs, and measures
 * the choice. */
#include <string.h>

#include "router_parts.h"

#define WINDOW_DEFAULT 32

static const char *const verbs[] = {"collect", "train", "eval", "decide"};
enum { COLLECT, TRAIN, EVAL, DECIDE, VERBS };

/* A router was trained for its layers and its window and reads no others: that is not to be passed over. */
static bool names_input(const struct router_flags *f)
{
    const struct embed_flags *e = &f->embed;
    return f->window || f->method || e->source || e->part || e->heads || e->keys || e->layout ||
           e->n_last_layers || e->layer_first || e->layer_last;
}

/* What a verb cannot do without. */
static int check_needs(int verb, const struct router_flags *f)
{
    if (verb != DECIDE && !f->data_path)
        return fail_usage("router", "%s needs --data FILE.jsonl", verbs[verb]);
    if ((verb == COLLECT || verb == TRAIN) && !f->out_path)
        return fail_usage("router", "%s needs -o FILE", verbs[verb]);
    if (verb == DECIDE && !f->router_path) return fail_usage("router", "decide needs --router FILE");
    if (verb == EVAL && !f->router_path && (f->online || f->hidden_path))
        return fail_usage("router", "--online and --hidden-router need --router FILE");
    if (verb == DECIDE && !f->text) return fail_usage("router", "decide needs -p TEXT");
    if (verb != COLLECT && verb != TRAIN && f->router_path && names_input(f))
        return fail_usage(
            "router",
            "%s: a router has its own window, layers, parts and method; leave these flags out beside "
            "--router",
            verbs[verb]);
    if (f->rows_path && (verb != EVAL || !f->router_path))
        return fail_usage("router", "--rows keeps what eval --router does with each question");
    return EXIT_OK;
}

static int execute(int verb, const struct router_flags *flags, const struct kvant_embed_options *pooling)
{
    struct router_work w;
    int code = router_work_open(&w, flags);
    if (code == EXIT_OK && verb == COLLECT) code = router_collect(&w);
    if (code == EXIT_OK && verb == TRAIN) code = router_train(&w, pooling);
    if (code == EXIT_OK && verb == EVAL) code = router_eval(&w, pooling);
    if (code == EXIT_OK && verb == DECIDE) code = router_decide(&w);
    router_work_close(&w);
    return code;
}

static int take_verb(struct command_line *line, int *verb)
{
    struct option_list *list = &line->positional;
    for (*verb = 0; list->n > 0 && *verb < VERBS; ++*verb)
        if (strcmp(list->items[0], verbs[*verb]) == 0) break;
    if (list->n <= 0) return fail_usage("router", "say what to do: collect, train, eval or decide");
    if (*verb == VERBS)
        return fail_usage("router", "'%s' is not one of collect, train, eval, decide", list->items[0]);
    list->n--;
    memmove(list->items, list->items + 1, (size_t)list->n * sizeof *list->items);
    return EXIT_OK;
}

static const char about[] =
    "Decides from a prompt's cache whether the model should answer at once or think first. collect answers\n"
    "questions in both modes (the same command goes on where it was stopped), train learns from that, eval\n"
    "measures accuracy against all tokens that were generated, decide says it of one question.";
static const char examples[] =
    "  kvant router collect model.gguf --data train.jsonl -o asked.jsonl --slow-predict 512\n"
    "  kvant router train model.gguf --data collected.jsonl -o model.kvrouter --last-layers 2\n"
    "  kvant router eval model.gguf --data collected.jsonl --router model.kvrouter\n"
    "  kvant router eval model.gguf --data collected.jsonl --labels net --last-layers 2\n"
    "  kvant router decide model.gguf --router model.kvrouter -p 'What is 17 * 3?'";

static int run(int argc, char **argv)
{
    struct router_flags f = {
        .think = THINK_FLAGS_DEFAULT, .n_sequences = 16, .limit = 128, .seed = 1, .max_loss = 1, .n_rounds = 1
    };
    f.think.most[MODE_FAST] = 256;
    f.think.most[MODE_SLOW] = 1024;
    const struct option options[] = {
        MODEL_OPTIONS(&f.model),
        { "--data", OPTION_NAME, "FILE.jsonl", &f.data_path,
          "collect: questions, {\"question\", \"answer\": \"... #### 42\"};\ntrain, eval: what collect wrote",
          0, 0 },
        { "-o, --output", OPTION_NAME, "FILE", &f.out_path,
          "collect: the answers, an object a line; train: the router", 0, 0 },
        { "--router", OPTION_NAME, "FILE", &f.router_path,
          "eval, decide: what train wrote; eval without it trains five,\neach asked about the fifth of the "
          "questions it has not seen",
          0, 0 },
        { "--hidden-router", OPTION_NAME, "FILE", &f.hidden_path,
          "eval: one that was trained with --source hidden, beside it", 0, 0 },
        { "-p, --prompt", OPTION_TEXT, "TEXT", &f.text, "decide: the question", 0, 0 },
        { "--limit", OPTION_INT, "N", &f.n_most, "collect: most questions; 0 = all (default)", 0, 1e9 },
        { "--sequences", OPTION_INT, "N", &f.n_sequences, "collect: answers written at once; default 16", 1,
          256 },
        { "--fast-predict", OPTION_INT, "N", &f.think.most[MODE_FAST],
          "most tokens of a fast answer; default 256", 1, 65536 },
        { "--slow-predict", OPTION_INT, "N", &f.think.most[MODE_SLOW],
          "most tokens of a slow answer; default 1024", 1, 65536 },
        { "--label-limit", OPTION_INT, "N", &f.limit,
          "a right fast answer is labelled 0 below so many tokens, else\n25; default 128", 1, 65536 },
        { "--labels", OPTION_CHOICE, "paper|net", &f.labels,
          "train, eval: 0, 25, 75, 100 (default), or what thinking gains:\n0 fast alone right, 50 no "
          "difference, 100 slow alone",
          0, 0 },
        { "--max-loss", OPTION_NUMBER, "P", &f.max_loss,
          "train, eval: points of accuracy that may be lost against always\nslow when 50 is laid where d "
          "divides; default 1",
          0, 100 },
        { "--window", OPTION_INT, "N", &f.window,
          "train, eval: pool the last N tokens of a prompt; default 32", 1, 65536 },
        { "--method", OPTION_CHOICE, "network|ridge", &f.method,
          "train, eval: a network of one hidden layer, or a line with a\npenalty; default: the one that does "
          "better on questions it\nhas not seen",
          0, 0 },
        { "--rounds", OPTION_INT, "N", &f.n_rounds,
          "eval without --router: divide the questions so many times\n"
          "into five, and take the mean; default 1",
          1, 1000 },
        { "--hidden-units", OPTION_INT, "N", &f.n_hidden, "train, eval: of the network; 0 = 512 (default)", 0,
          8192 },
        { "--epochs", OPTION_INT, "N", &f.n_epochs, "train, eval: most of the network; 0 = 500 (default)", 0,
          100000 },
        { "-s, --seed", OPTION_INT, "N", &f.seed, "train, eval: of weights and order; default 1", 0, 9e15 },
        { "--source", OPTION_CHOICE, "kv|hidden", &f.embed.source,
          "train: on the cache (default), or on hidden states", 0, 0 },
        { "--online", OPTION_FLAG, NULL, &f.online, "eval: also answer each test question with turns", 0, 0 },
        { "--rows", OPTION_NAME, "FILE.jsonl", &f.rows_path,
          "eval --router: what is decided of each question; with\n--online its account of tokens", 0, 0 },
        THINK_OPTIONS(&f.think),
        POOL_OPTIONS(&f.embed),
        PLAN_OPTIONS(&f.plan),
    };
    struct command_line line = {
        .command = "router",
        .arguments = "collect|train|eval|decide MODEL",
        .about = about,
        .examples = examples,
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    struct kvant_embed_options pooling;
    int verb;
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    int code = take_verb(&line, &verb);
    if (code == EXIT_OK) code = setup_model_path(&line, &f.model, 0);
    if (code == EXIT_OK) code = check_needs(verb, &f);
    if (!f.window) f.window = WINDOW_DEFAULT;
    if (code == EXIT_OK) code = embed_flags_set(&f.embed, "router", &pooling);
    return code == EXIT_OK ? execute(verb, &f, &pooling) : code;
}

const struct command command_router = {"router", "when to think: learn it, measure it, decide", run};
