/*
 * kvant router: what its verbs share.
 */
#ifndef ROUTER_PARTS_H
#define ROUTER_PARTS_H

#include "embed_flags.h"
#include "modes.h"
#include "router_data.h"
#include "setup.h"
#include "think.h"

struct router_flags {
    struct model_flags model;
    struct plan_flags plan;
    struct embed_flags embed;
    struct think_flags think;
    const char *data_path, *router_path, *hidden_path, *out_path, *rows_path, *text, *labels, *method;
    int64_t n_most, n_sequences, limit, window, n_hidden, n_epochs, seed, n_ctx, n_rounds;
    double max_loss; /* points of accuracy */
    bool online;
};

struct router_work {
    const struct router_flags *flags;
    struct kvant_model *model;
    struct kvant_plan *plan;
    char kv[256];
    struct modes modes;
    struct collected data;
    int n_short; /* prompts shorter than the window, of the last features */
};

/* Model, plan and modes. Prints what fails. */
int router_work_open(struct router_work *w, const struct router_flags *flags);
void router_work_close(struct router_work *w);

/* (n, dim) features of the questions at `places` (NULL: of the first n) under `pooling`; free() them. Prints
 * what fails. */
int router_features(struct router_work *w, const struct kvant_embed_options *pooling, const size_t *places,
                    size_t n, float **features, size_t *dim);
/* A line on stderr when the last call met prompts shorter than the window. */
void router_note_window(const struct router_work *w);

enum labels router_labels(const struct router_flags *flags);
/* `pooling` over --window tokens, lengths kept. */
void router_pooling(const struct router_flags *flags, const struct kvant_embed_options *pooling,
                    struct kvant_embed_options *out);
/* How much of every question goes to slow, 0 to 1 (data.n), by a network, by a line, and by the one that
 * did better elsewhere: over --rounds divisions into five, each question by a router that was trained on
 * the other four fifths, with the threshold that these gave. Of methods that --method does not name, 0.
 * Prints what fails. */
int router_cross(struct router_work *w, const struct kvant_embed_options *pooling, double *const part[3]);

int router_collect(struct router_work *w);
int router_train(struct router_work *w, const struct kvant_embed_options *pooling);
/* Without --router: on all questions, by router_cross. */
int router_eval(struct router_work *w, const struct kvant_embed_options *pooling);
int router_decide(struct router_work *w);

#endif
