/*
 * The allocation problem of the tuner: one option for each layer, least total error within a budget of bits.
 * Exact.
 */
#ifndef KV_TUNE_ALLOCATE_H
#define KV_TUNE_ALLOCATE_H

#include "base/error.h"

struct kv_option {
    int64_t cost; /* bits a token takes in this layer, > 0 */
    double error; /* >= 0; errors of layers add up         */
};

struct kv_allocation {
    int n_layer, n_options;
    int64_t unit;     /* greatest common divisor of the costs: the step of the table */
    int64_t n_steps;  /* budgets 0 .. n_steps units are known                        */
    double *error;    /* (n_steps + 1) least total error within so many units         */
    uint8_t *choice;  /* (n_layer, n_steps + 1) option of the layer in it             */
    const struct kv_option *options; /* (n_layer, n_options), borrowed                */
};
/* Solves for every budget up to budget_max bits (of all layers together). n_options at most 255. */
kvant_status kv_allocation_open(struct kv_allocation *out, const struct kv_option *options, int n_layer,
                                int n_options, int64_t budget_max, struct kvant_error *err);
void kv_allocation_close(struct kv_allocation *a);
/* The best choice (n_layer) within `budget`; false when even the cheapest options cost more. *error: its
 * total. */
bool kv_allocation_choose(const struct kv_allocation *a, int64_t budget, int *choice, double *error);

#endif
