/*
 * generate MODEL PROMPT [PLAN]: goes on from a prompt, greedily, with a compressed cache. The whole use of
 * kvant.h that text needs: model, plan, session, sequence, step, sampler.
 *
 *     cc generate.c $(pkg-config --cflags --libs kvant) -o generate
 *     ./generate model.gguf "The capital of France is" k4c64v3h
 */
#include <kvant.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_PROMPT_MAX = 1024, N_GENERATE = 64 };

struct generation {
    struct kvant_model *model;
    struct kvant_plan *plan;
    struct kvant_session *session;
    struct kvant_sampler *sampler;
    int seq;
};

static kvant_status open_all(struct generation *g, const char *path, const char *plan,
                             struct kvant_error *err)
{
    struct kvant_model_info info;
    struct kvant_sampler_options greedy = KVANT_SAMPLER_OPTIONS_INIT;
    kvant_status status = kvant_model_open(&g->model, path, NULL, err);
    if (status == KVANT_OK) status = kvant_plan_open(&g->plan, g->model, plan, err);
    /* Only plans with m or x that were not tuned need this; it does nothing for the others. */
    if (status == KVANT_OK) status = kvant_plan_calibrate(g->plan, g->model, NULL, 0, NULL, NULL, err);
    if (status == KVANT_OK) status = kvant_session_open(&g->session, g->model, NULL, err);
    if (status == KVANT_OK)
        status = kvant_sequence_open(g->session, g->plan, N_PROMPT_MAX + N_GENERATE, &g->seq, err);
    if (status != KVANT_OK) return status;
    kvant_model_get_info(g->model, &info);
    return kvant_sampler_open(&g->sampler, info.n_vocab, &greedy, err);
}

static void close_all(struct generation *g)
{
    kvant_sampler_close(g->sampler);
    kvant_session_close(g->session); /* its sequences too */
    kvant_plan_close(g->plan);
    kvant_model_close(g->model);
}

/* Reads the prompt in one step and writes at most N_GENERATE tokens, one step each. */
static kvant_status generate(struct generation *g, const char *prompt, struct kvant_error *err)
{
    kvant_token ids[N_PROMPT_MAX];
    struct kvant_batch_entry batch[N_PROMPT_MAX];
    size_t n = 0;
    kvant_status status = kvant_tokenize(g->model, prompt, strlen(prompt), KVANT_TOKENIZE_BOS, ids,
                                         N_PROMPT_MAX, &n, err);
    if (status == KVANT_OK && n == 0) {
        snprintf(err->message, sizeof err->message, "the prompt is empty: give some text");
        return err->status = KVANT_ERR_ARGUMENT;
    }
    for (size_t i = 0; i < n; i++) batch[i] = (struct kvant_batch_entry){ g->seq, ids[i], i + 1 == n };
    if (status == KVANT_OK) status = kvant_session_step(g->session, batch, n, err);

    for (int i = 0; status == KVANT_OK && i < N_GENERATE; i++) {
        char piece[256];
        kvant_token next = kvant_sampler_next(g->sampler, kvant_session_logits(g->session, 0), NULL);
        if (kvant_token_is_end(g->model, next)) break;
        status = kvant_detokenize(g->model, &next, 1, false, piece, sizeof piece, &n, err);
        if (status != KVANT_OK) break;
        fwrite(piece, 1, n, stdout);
        fflush(stdout);
        status = kvant_session_step(g->session, &(struct kvant_batch_entry){ g->seq, next, true }, 1, err);
    }
    putchar('\n');
    return status;
}

int main(int argc, char **argv)
{
    struct generation g = { .seq = -1 };
    struct kvant_sequence_stats stats;
    struct kvant_error err;
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: generate MODEL PROMPT [PLAN]\n");
        return 2;
    }
    kvant_status status = open_all(&g, argv[1], argc > 3 ? argv[3] : "default", &err);
    if (status == KVANT_OK) status = generate(&g, argv[2], &err);
    if (status != KVANT_OK) fprintf(stderr, "generate: %s\n", err.message);
    else if (kvant_sequence_get_stats(g.session, g.seq, &stats) == KVANT_OK)
        fprintf(stderr, "%lld tokens in %zu bytes of cache under %s\n", (long long)stats.n_tokens,
                stats.cache_bytes, kvant_plan_name(g.plan));
    close_all(&g);
    return status == KVANT_OK ? 0 : 1;
}
