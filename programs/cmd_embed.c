/* kvant embed: texts to vectors, pooled from the cache; or the cache itself. */
#include <stdlib.h>
#include <string.h>

#include "embed_flags.h"
#include "json.h"
#include "npy.h"
#include "progress.h"
#include "prompt.h"
#include "setup.h"
#include "texts_file.h"

struct command_flags {
    struct model_flags model;
    struct plan_flags plan;
    struct embed_flags embed;
    const char *text, *path, *out_path, *dump_path;
    int64_t n_ctx;
    bool jsonl, chat;
};

struct work {
    const struct command_flags *flags;
    struct kvant_embed_options options;
    struct kvant_model *model;
    struct kvant_model_info info;
    struct kvant_plan *plan;
    struct kvant_session *session;
    char kv[256];
    struct text_list texts;
    struct kvant_prompt *prompts; /* (texts.n), tokens owned */
    int64_t n_tokens;
    float *rows; /* (texts.n, dim) */
    size_t dim;
};

static int read_texts(struct work *w)
{
    const struct command_flags *f = w->flags;
    if (f->path) return texts_read(&w->texts, f->path, f->jsonl);
    texts_add(&w->texts, f->text, strlen(f->text), 0);
    return EXIT_OK;
}

static const char *place(const struct work *w, size_t i, char text[320])
{
    if (w->texts.items[i].line)
        snprintf(text, 320, "%.250s: line %zu", w->flags->path, w->texts.items[i].line);
    else snprintf(text, 320, "-p");
    return text;
}

/* A text that is longer than the context loses its end, which is said. */
static int tokenize(struct work *w)
{
    char where[320];
    int64_t n_ctx = setup_context(w->model, w->flags->n_ctx);
    setup_context_note(w->model, w->flags->n_ctx);
    w->prompts = allocate(w->texts.n, sizeof *w->prompts);
    for (size_t i = 0; i < w->texts.n; i++) {
        kvant_token *ids = NULL;
        size_t n_ids = 0;
        int code = prompt_tokens(w->model, NULL, NULL, w->texts.items[i].text, w->texts.items[i].n_bytes,
                                 !w->flags->chat, &ids, &n_ids);
        w->prompts[i].tokens = ids;
        if (code != EXIT_OK) return code;
        if (n_ids == 0 || w->texts.items[i].n_bytes == 0)
            return fail_text("%s: the text is empty: there is nothing to embed", place(w, i, where));
        if ((int64_t)n_ids > n_ctx) {
            fprintf(stderr,
                    "kvant: %s has %zu tokens and the context %lld: its first %lld are used (-c for more)\n",
                    place(w, i, where), n_ids, (long long)n_ctx, (long long)n_ctx);
            n_ids = (size_t)n_ctx;
        }
        w->prompts[i].n_tokens = n_ids;
        w->n_tokens += (int64_t)n_ids;
    }
    return EXIT_OK;
}

static int open_session(struct work *w)
{
    struct kvant_error err;
    struct kvant_session_options options = KVANT_SESSION_OPTIONS_INIT;
    options.n_sequences = w->texts.n < 32 ? (int)w->texts.n : 32;
    options.n_logits = 1;
    return kvant_session_open(&w->session, w->model, &options, &err) == KVANT_OK ? EXIT_OK : fail(&err);
}

static int embed(struct work *w)
{
    struct kvant_error err;
    struct progress progress;
    char where[320];
    size_t n_out;
    if (kvant_embed_dim(w->model, &w->options, &w->dim, &err) != KVANT_OK) return fail(&err);
    w->rows = allocate(w->texts.n * w->dim, sizeof *w->rows);
    w->options.progress = progress_update;
    w->options.user = &progress;
    interrupt_catch();
    progress_begin(&progress);
    kvant_status status = kvant_embed_prompts(w->session, w->plan, w->prompts, w->texts.n, &w->options,
                                              w->rows, w->texts.n * w->dim, &n_out, &err);
    progress_end(&progress);
    if (status == KVANT_OK) return EXIT_OK;
    if (err.position >= 0 && (size_t)err.position < w->texts.n)
        return fail_text("%s: %s", place(w, (size_t)err.position, where), err.message);
    return fail(&err);
}

static int print_json(const struct work *w)
{
    json_t *data = json_array();
    for (size_t i = 0; i < w->texts.n; i++) {
        json_t *row = json_array();
        for (size_t c = 0; c < w->dim; c++)
            json_array_append_new(row, json_number((double)w->rows[i * w->dim + c]));
        json_array_append_new(data, json_pack("{s:s, s:I, s:o}", "object", "embedding", "index",
                                              (json_int_t)i, "embedding", row));
    }
    return json_finish_compact(json_pack("{s:s, s:o, s:s, s:{s:I, s:I}, s:o}", "object", "list", "data", data,
                                         "model", w->info.name, "usage", "prompt_tokens",
                                         (json_int_t)w->n_tokens, "total_tokens", (json_int_t)w->n_tokens,
                                         "pooling", embed_options_json(&w->options, &w->info, w->kv)));
}

static int write_rows(const struct work *w)
{
    struct npy_file npy;
    if (!npy_open(&npy, w->flags->out_path)) return EXIT_FAILED;
    if (npy_append(&npy, w->rows, (int)w->texts.n, (int)w->dim) && npy_commit(&npy)) return EXIT_OK;
    npy_discard(&npy);
    return EXIT_FAILED;
}

/* One row a line, for a look and for small tools. */
static int print_rows(const struct work *w)
{
    for (size_t i = 0; i < w->texts.n; i++)
        for (size_t c = 0; c < w->dim; c++)
            printf("%.8g%c", (double)w->rows[i * w->dim + c], c + 1 < w->dim ? ' ' : '\n');
    return finish_output();
}

static void print_note(const struct work *w, double seconds)
{
    char *text = NULL;
    json_t *options = embed_options_json(&w->options, &w->info, w->kv);
    json_object_del(options, "fingerprint");
    json_object_del(options, "model");
    text = json_dumps(options, 0);
    fprintf(stderr, "%zu text%s, %lld tokens, %zu numbers each, %.2f s\n%s\n", w->texts.n,
            w->texts.n == 1 ? "" : "s", (long long)w->n_tokens, w->dim, seconds, text ? text : "");
    free(text);
    json_decref(options);
}

/* The keys and values of the one text: (layers, 2, tokens, n_head_kv, head_dim). */
static int dump(const struct work *w)
{
    struct kvant_error err;
    struct npy_file npy;
    size_t n = w->prompts[0].n_tokens, n_values;
    const struct kvant_model_info *info = &w->info;
    const int64_t shape[5] = {info->n_layer, 2, (int64_t)n, info->n_head_kv, info->head_dim};
    size_t cap = 2 * (size_t)info->n_layer * (size_t)info->n_head_kv * (size_t)info->head_dim * n;
    float *values = allocate(cap, sizeof *values);
    struct kvant_batch_entry *entries = allocate(n, sizeof *entries);
    int seq = -1;
    kvant_status status = kvant_sequence_open(w->session, w->plan, (int64_t)n, &seq, &err);
    for (size_t i = 0; i < n; i++)
        entries[i] = (struct kvant_batch_entry){ seq, w->prompts[0].tokens[i], false };
    if (status == KVANT_OK) status = kvant_session_step(w->session, entries, n, &err);
    if (status == KVANT_OK)
        status = kvant_sequence_read(w->session, seq, 0, 0, w->options.before_rope, values, cap, &n_values,
                                     &err);
    int code = status == KVANT_OK ? EXIT_OK : fail(&err);
    if (code == EXIT_OK && !npy_write(&npy, w->flags->dump_path, values, shape, 5)) code = EXIT_FAILED;
    if (code == EXIT_OK && !w->flags->model.json)
        fprintf(stderr, "%s: float32 (%lld, 2, %zu, %lld, %lld), cache %s\n", w->flags->dump_path,
                (long long)shape[0], n, (long long)shape[3], (long long)shape[4], w->kv);
    free(values);
    free(entries);
    return code;
}

static int output(struct work *w, double started_s)
{
    const struct command_flags *f = w->flags;
    int code = embed(w);
    double seconds = clock_s() - started_s;
    if (code == EXIT_OK && f->out_path) code = write_rows(w);
    if (code == EXIT_OK && f->model.json) code = print_json(w);
    if (code == EXIT_OK && !f->out_path && !f->model.json) code = print_rows(w);
    if (code == EXIT_OK && !f->model.json) print_note(w, seconds);
    return code;
}

static int execute(const struct command_flags *flags, const struct kvant_embed_options *options)
{
    struct work w = {.flags = flags, .options = *options};
    int code = read_texts(&w);
    if (code == EXIT_OK && flags->out_path && !output_check(flags->out_path)) code = EXIT_FAILED;
    if (code == EXIT_OK && flags->dump_path && !output_check(flags->dump_path)) code = EXIT_FAILED;
    if (code == EXIT_OK && flags->dump_path && w.texts.n != 1)
        code = fail_text(
            "--dump-kv writes the cache of one text, and there are %zu; give it by -p, or a file of one line",
            w.texts.n);
    if (code == EXIT_OK) code = setup_model(&w.model, &flags->model, false);
    if (code == EXIT_OK) {
        kvant_model_get_info(w.model, &w.info);
        code = tokenize(&w);
    }
    if (code == EXIT_OK) code = setup_plan(&w.plan, w.model, &flags->plan, w.kv);
    if (code == EXIT_OK) code = open_session(&w);
    double started_s = clock_s();
    if (code == EXIT_OK && flags->dump_path) code = dump(&w);
    if (code == EXIT_OK && (!flags->dump_path || flags->out_path || flags->model.json))
        code = output(&w, started_s);
    kvant_session_close(w.session);
    kvant_plan_close(w.plan);
    kvant_model_close(w.model);
    for (size_t i = 0; w.prompts && i < w.texts.n; i++) free((void *)(uintptr_t)w.prompts[i].tokens);
    free(w.prompts);
    free(w.rows);
    texts_free(&w.texts);
    return code;
}

static int run(int argc, char **argv)
{
    struct command_flags f = {0};
    const struct option options[] = {
        MODEL_OPTIONS(&f.model),
        { "-p, --prompt", OPTION_TEXT, "TEXT", &f.text, "one text", 0, 0 },
        { "-f, --file", OPTION_NAME, "FILE", &f.path,
          "many texts: one a line, or, in FILE.jsonl, objects with\n\"text\", \"input\", \"prompt\" or "
          "\"question\"; - is "
          "standard input",
          0, 0 },
        { "--jsonl", OPTION_FLAG, NULL, &f.jsonl, "the file is JSONL whatever its name", 0, 0 },
        { "--chat", OPTION_FLAG, NULL, &f.chat,
          "each text as a question in the model's chat format;\ndefault: as it is", 0, 0 },
        { "-c, --ctx-size", OPTION_INT, "N", &f.n_ctx,
          "most tokens of a text, whose first ones are used; 0 = the\nsmaller of 8192 and the model's "
          "(default)",
          0, 1e9 },
        { "-o, --output", OPTION_NAME, "FILE.npy", &f.out_path,
          "float32 (texts, dimension); default: numbers on\nstandard output", 0, 0 },
        { "--dump-kv", OPTION_NAME, "FILE.npy", &f.dump_path,
          "keys and values of one text as attention reads them:\nfloat32 (layers, 2, tokens, n_head_kv, "
          "head_dim)",
          0, 0 },
        { "--source", OPTION_CHOICE, "kv|hidden|random", &f.embed.source,
          "the cache (default), or, to compare with, outputs of the\nblocks, or random numbers", 0, 0 },
        EMBED_OPTIONS(&f.embed),
        PLAN_OPTIONS(&f.plan),
    };
    struct command_line line = {
        .command = "embed",
        .arguments = "MODEL",
        .about = "Turns texts into vectors: their keys and values, as the cache holds them, pooled over "
                 "tokens, heads and\n"
                 "layers. --json prints what an OpenAI embeddings endpoint answers. docs/embeddings.md says "
                 "what such\n"
                 "vectors are good for.",
        .examples = "  kvant embed model.gguf -p 'Why is the sky blue?' --json\n"
                    "  kvant embed model.gguf --file texts.txt --keys pre -o texts.npy\n"
                    "  kvant embed model.gguf -p 'Once upon a time' --kv k3c64v3h --dump-kv cache.npy",
        .options = options,
        .n_options = sizeof options / sizeof *options,
    };
    struct kvant_embed_options embed_options;
    int code;
    if (!embed_command_begin(&line, argc, argv, &f.model, &f.embed, &embed_options, &code)) return code;
    if (!f.text == !f.path) return fail_usage("embed", "give either -p TEXT or -f FILE");
    return execute(&f, &embed_options);
}

const struct command command_embed = {"embed", "texts to vectors, from the cache", run};
