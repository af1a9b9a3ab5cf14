/* kvant chat: a conversation that stays in the cache; each turn evaluates only its own tokens. */
#include <histedit.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "generate.h"
#include "json.h"
#include "prompt.h"

struct chat_flags {
    struct model_flags model;
    struct plan_flags plan;
    struct sampling_flags sampling;
    const char *system, *chat_template;
    int64_t n_ctx;
};

struct chat {
    const struct chat_flags *flags;
    const struct kvant_model *model;
    const struct kvant_plan *plan;
    struct generator generator;
    bool has_begun;      /* the sequence holds at least one turn                                      */
    kvant_token pending; /* last token of an answer that was cut: shown, but not yet in the cache; -1 */
    EditLine *editor;    /* NULL when the input is not a terminal                                     */
    History *history;
    char *line;
    size_t line_cap;
};

static char *prompt_text(EditLine *editor)
{
    static char text[] = "> ";
    (void)editor;
    return text;
}

static void editor_open(struct chat *chat)
{
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) return;
    HistEvent event;
    chat->editor = el_init("kvant", stdin, stdout, stderr);
    chat->history = history_init();
    if (!chat->editor) return;
    if (chat->history) {
        history(chat->history, &event, H_SETSIZE, 1000);
        el_set(chat->editor, EL_HIST, history, chat->history);
    }
    el_set(chat->editor, EL_PROMPT, prompt_text);
    el_set(chat->editor, EL_EDITOR, "emacs");
    el_set(chat->editor, EL_SIGNAL, 1);
}

static void editor_close(struct chat *chat)
{
    if (chat->history) history_end(chat->history);
    if (chat->editor) el_end(chat->editor);
    free(chat->line);
}

/* The next line without its end, borrowed until the next call; NULL at the end of input. */
static const char *read_line(struct chat *chat)
{
    HistEvent event;
    ssize_t n;
    interrupt_clear(); /* an answer that was cut is over; Ctrl-C at the prompt ends the conversation */
    if (chat->editor) {
        int count = 0;
        const char *text = el_gets(chat->editor, &count);
        if (!text || count <= 0) return NULL;
        if (chat->history && text[0] != '\n') history(chat->history, &event, H_ENTER, text);
        n = count;
        if (chat->line_cap < (size_t)n + 1)
            chat->line = reallocate(chat->line, chat->line_cap = (size_t)n + 1, 1);
        memcpy(chat->line, text, (size_t)n + 1);
    } else {
        n = getline(&chat->line, &chat->line_cap, stdin);
        if (n < 0) return NULL;
    }
    while (n > 0 && (chat->line[n - 1] == '\n' || chat->line[n - 1] == '\r')) chat->line[--n] = '\0';
    return chat->line;
}

static int chat_begin(struct chat *chat)
{
    generator_close(&chat->generator);
    chat->has_begun = false;
    chat->pending = -1;
    return generator_open(&chat->generator, chat->model, chat->plan, &chat->flags->sampling,
                          setup_context(chat->model, chat->flags->n_ctx));
}

/* The tokens of a turn: the whole beginning of a conversation, or what follows an answer. */
static int turn_tokens(const struct chat *chat, const char *text, kvant_token **ids, size_t *n_ids)
{
    if (!chat->has_begun)
        return prompt_tokens(chat->model, chat->flags->chat_template, chat->flags->system, text, strlen(text),
                             false, ids, n_ids);
    int code = prompt_tokens_next(chat->model, chat->flags->chat_template, text, ids, n_ids);
    if (code != EXIT_OK || chat->pending < 0) return code;
    *ids = reallocate(*ids, *n_ids + 1, sizeof **ids);
    memmove(*ids + 1, *ids, *n_ids * sizeof **ids);
    (*ids)[0] = chat->pending;
    (*n_ids)++;
    return EXIT_OK;
}

static int print_turn_json(const struct chat *chat, const struct answer *a)
{
    struct cache_report cache;
    int code = generator_cache(&chat->generator, chat->plan, &cache);
    if (code != EXIT_OK) return code;
    return json_finish_compact(
        json_pack("{s:o, s:I, s:I, s:o, s:o, s:I, s:I, s:s}", "text", json_text(a->text, a->n_bytes),
                  "prompt_tokens", (json_int_t)a->n_prompt, "tokens", (json_int_t)a->n_ids,
                  "prompt_tokens_per_s", json_number(answer_prompt_rate(a)), "tokens_per_s",
                  json_number(answer_generation_rate(a)), "cache_bytes", (json_int_t)cache.bytes, "f16_bytes",
                  (json_int_t)cache.f16_bytes, "finish_reason", a->finish_reason));
}

/* A turn that does not fit, or whose text is refused, leaves the conversation as it was. */
static int take_turn(struct chat *chat, const char *text)
{
    kvant_token *ids;
    size_t n_ids;
    struct generator *g = &chat->generator;
    if (turn_tokens(chat, text, &ids, &n_ids) != EXIT_OK) return EXIT_OK;
    if ((int64_t)n_ids > g->n_ctx - g->n_tokens) {
        free(ids);
        fail_text("the context of %lld tokens is full; /reset begins anew, -c gives more",
                  (long long)g->n_ctx);
        return EXIT_OK;
    }
    struct answer answer;
    bool json = chat->flags->model.json;
    int code = generator_answer(g, ids, n_ids, chat->flags->sampling.n_predict, json ? NULL : stdout,
                                &answer);
    free(ids);
    if (code == EXIT_OK) {
        bool is_cut = strcmp(answer.finish_reason, "stop") != 0 && answer.n_ids > 0;
        chat->has_begun = true;
        chat->pending = is_cut ? answer.ids[answer.n_ids - 1] : -1;
        code = json ? print_turn_json(chat, &answer) : (puts("\n"), finish_output());
    }
    answer_close(&answer);
    return code;
}

static int print_stats(const struct chat *chat)
{
    char a[32], b[32];
    struct cache_report cache;
    int code = generator_cache(&chat->generator, chat->plan, &cache);
    if (code != EXIT_OK) return code;
    printf("%lld of %lld tokens; cache %s in %s (%.2f bits), %s in f16\n\n",
           (long long)chat->generator.n_tokens, (long long)chat->generator.n_ctx,
           bytes_text(a, (double)cache.bytes), kvant_plan_name(chat->plan), cache.memory.true_bits,
           bytes_text(b, (double)cache.f16_bytes));
    return finish_output();
}

static int converse(struct chat *chat)
{
    int code = chat_begin(chat);
    if (code == EXIT_OK) setup_context_note(chat->model, chat->flags->n_ctx);
    if (code == EXIT_OK && chat->editor)
        puts("/exit ends, /reset begins anew, /stats shows the cache; Ctrl-C ends an answer");
    while (code == EXIT_OK) {
        const char *text = read_line(chat);
        if (!text || strcmp(text, "/exit") == 0 || strcmp(text, "/quit") == 0) break;
        if (text[strspn(text, " \t")] == '\0') continue;
        if (strcmp(text, "/reset") == 0) code = chat_begin(chat);
        else if (strcmp(text, "/stats") == 0) code = print_stats(chat);
        else code = take_turn(chat, text);
    }
    generator_close(&chat->generator);
    return code;
}

static int run(int argc, char **argv)
{
    struct chat_flags f = {.sampling = SAMPLING_FLAGS_DEFAULT};
    const struct option options[] = {
        MODEL_OPTIONS(&f.model),
        {"-sys, --system-prompt", OPTION_TEXT, "TEXT", &f.system, "system message", 0, 0},
        CHAT_TEMPLATE_OPTION(&f.chat_template),
        {"-c, --ctx-size", OPTION_INT, "N", &f.n_ctx,
         "context; 0 = the smaller of 8192 and the model's (default)", 0, 1e9},
        SAMPLING_OPTIONS(&f.sampling),
        PLAN_OPTIONS(&f.plan),
        FORCE_OPTION(&f.plan),
    };
    struct command_line line = {
        .command = "chat",
        .arguments = "MODEL",
        .about =
            "Keeps a conversation; its cache is kept too, so that each turn evaluates only what is new.\n"
            "/exit ends, /reset begins anew, /stats shows the cache, Ctrl-C ends an answer. Without a "
            "terminal\n"
            "each line of standard input is a turn; with --json each answer is one line of JSON.",
        .examples =
            "  kvant chat model.gguf\n  kvant chat model.gguf -sys 'Answer in one sentence.' --kv k3c64v2h",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    enum options_result result = options_parse(&line, argc, argv);
    if (result != OPTIONS_RUN) return result == OPTIONS_HELP ? finish_output() : EXIT_USAGE;
    int code = setup_model_path(&line, &f.model, 0);
    if (code != EXIT_OK) return code;

    struct kvant_model *model = NULL;
    struct kvant_plan *plan = NULL;
    char name[256];
    code = setup_model(&model, &f.model, false);
    if (code == EXIT_OK) code = setup_plan_sound(&plan, model, &f.plan, name);
    if (code == EXIT_OK) {
        struct chat chat = {.flags = &f, .model = model, .plan = plan, .generator.seq = -1, .pending = -1};
        editor_open(&chat);
        code = converse(&chat);
        editor_close(&chat);
    }
    kvant_plan_close(plan);
    kvant_model_close(model);
    return code;
}

const struct command command_chat = {"chat", "keep a conversation", run};
