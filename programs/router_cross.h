/*
 * Cross-validation of a router: what says which method learns more from these questions, and where d divides.
 */
#ifndef ROUTER_CROSS_H
#define ROUTER_CROSS_H

#include "progress.h"
#include "router_parts.h"

#define FOLDS 5

enum { METHODS = 2 }; /* of kvant_router_method */

struct training {
    struct router_work *w;
    const float *features; /* (n, dim) */
    float *labels;         /* (n)      */
    double *gain;          /* (n) of slow over fast: 1, 0, −1 */
    uint8_t *split, *fold; /* (n) fold: FOLDS for a test question */
    double *d[METHODS];    /* (n) of routers that did not learn from the question; NaN of test questions */
    bool has[METHODS];     /* which methods --method names */
    size_t n, dim;
    struct kvant_router_options options;
    struct progress progress;
    int n_trained, n_to_train; /* routers: what the progress is told of */
};

/* all: no question is kept for a test, each is in a fold. Which one: the next in turn; with round > 0 by
 * chance. */
void training_open(struct training *t, struct router_work *w, const struct kvant_embed_options *pooling,
                   const float *features, size_t dim, bool all);
void training_divide(struct training *t, bool all, int round);
void training_close(struct training *t);
int training_one(struct training *t, kvant_router_method method, const uint8_t *split,
                 struct kvant_router **router, struct kvant_router_training *report);
/* d of each question in a fold, by routers of each method that have not seen it. */
int training_cross(struct training *t);
/* Mean squared error of these d; the method of the lesser one; where d of a method divides. Without the
 * questions of one fold (-1: of all). */
double training_error(const struct training *t, kvant_router_method method, int without);
kvant_router_method training_best(const struct training *t, int without);
double training_threshold(const struct training *t, kvant_router_method method, int without);

#endif
