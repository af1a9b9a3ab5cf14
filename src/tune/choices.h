/*
 * What the tuner may choose from, for the keys and for the values of a KV head.
 *
 * A choice has a cost (bits a token takes), an error estimate that needs no forward pass, and perhaps a KLD
 * that is measured; the others are read off between measured ones (sensitivity.h).
 */
#ifndef KV_TUNE_CHOICES_H
#define KV_TUNE_CHOICES_H

#include "tune/calibrate.h"

#define KV_CHOICES_MAX 12

enum kv_side { KV_SIDE_KEY, KV_SIDE_VALUE, KV_SIDES };

struct kv_choice {
    const char *text; /* its half of a recipe, such as "k3c64xm"       */
    int kind;         /* choices of one kind follow from each other    */
    bool measured;    /* by a forward pass with this head alone        */
};

struct kv_choice_list {
    int n;
    struct kv_choice choice[KV_CHOICES_MAX];
};

/* In ascending order of size. mixed: keys with channel classes. */
const struct kv_choice_list *kv_choices(bool mixed, enum kv_side side);

/* Recipe of key choice `key` and value choice `value`; -1: 16 bits. */
kvant_status kv_choice_recipe(bool mixed, int key, int value, struct kv_recipe *out, struct kvant_error *err);

/* Bits that a token takes on this side of one KV head. */
kvant_status kv_choice_cost(bool mixed, enum kv_side side, int i, int head_dim, int64_t *bits,
                            struct kvant_error *err);

/* Expected squared error, for comparison between choices of one kind, head and side only: at the scores for
 * keys (Σ importance · error of the channel's bits), relative for values. out: (n of the list), > 0. */
void kv_choice_errors(const struct kv_calibration *c, bool mixed, enum kv_side side, int layer, int head,
                      double *out);

#endif
