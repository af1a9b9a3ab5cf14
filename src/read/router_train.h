/*
 * What the two ways to train a router share.
 */
#ifndef KV_READ_ROUTER_TRAIN_H
#define KV_READ_ROUTER_TRAIN_H

#include <stdint.h>

#include "kvant.h"
#include "read/router.h"

struct kv_router_data {
    const float *features; /* (n, n_input) */
    const float *labels;   /* (n)          */
    const uint8_t *split;  /* (n)          */
    size_t n;
};

/* Mean and inverse deviation of each input over `rows`; an input that does not vary there gets 0. */
void kv_router_standardize(struct kvant_router *r, const struct kv_router_data *data, const size_t *rows,
                           size_t n_rows);
/* x' = (x − mean) · inverse of one question. */
void kv_router_standardized(const struct kvant_router *r, const float *features, float *out);

/* A linear router in the shape of a network of two hidden units (docs/router.md), which `r` has. Learns
 * from the questions of both TRAIN and VALIDATION. ARGUMENT when questions and inputs both exceed 4096;
 * CANCELLED; MEMORY. */
kvant_status kv_router_ridge(struct kvant_router *r, const struct kv_router_data *data,
                             const struct kvant_router_options *opt, struct kvant_router_training *report,
                             struct kvant_error *err);

#endif
