/*
 * What the tuner may choose from, and what each choice costs in one layer.
 */
#ifndef KV_TUNE_SENSITIVITY_H
#define KV_TUNE_SENSITIVITY_H

#include "tune/calibrate.h"

#define KV_SIDE_CHOICES 5 /* of keys, and of values */

/* Progress of a long call that consists of several: units are forward tokens. */
struct kv_tune_progress {
    kvant_progress_fn fn; /* or NULL */
    void *user;
    int64_t done, total;  /* done: before the current part */
    int64_t scale;        /* units per step of the current part */
    const char *what;     /* NULL: what the part itself says    */
};
/* A kvant_progress_fn over struct kv_tune_progress. */
bool kv_tune_progress_step(void *progress, const char *what, int64_t done, int64_t total);

struct kv_sensitivity {
    bool mixed;                                /* which table of keys                                       */
    double (*key)[KV_SIDE_CHOICES];            /* (n_layer) KLD with this layer's keys so, all else 16 bits */
    double (*value)[KV_SIDE_CHOICES];          /* (n_layer)                                                 */
};

/* Recipe of key choice i and value choice j. */
kvant_status kv_sensitivity_recipe(bool mixed, int key, int value, struct kv_recipe *out,
                                   struct kvant_error *err);
/* Sequences that kv_sensitivity_open runs over the text, the 16-bit ones included. */
int kv_sensitivity_sequences(int n_layer);

/* Measures. model: with the arithmetic to be used. */
kvant_status kv_sensitivity_open(struct kv_sensitivity *out, const struct kvant_model *model,
                                 const struct kv_calibration *calibration, bool mixed,
                                 const kvant_token *tokens, size_t n_tokens,
                                 struct kv_tune_progress *progress, struct kvant_error *err);
void kv_sensitivity_close(struct kv_sensitivity *s);

#endif
