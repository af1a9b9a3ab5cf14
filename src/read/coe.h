/*
 * Chain-of-Embedding: how far and how crookedly a path of vectors runs.
 *
 *     Mag_i = |h_{i+1} − h_i| / |h_n − h_0|        Ang_i = acos(cos(h_{i+1}, h_i)) / acos(cos(h_n, h_0))
 *     R = mean Mag − mean Ang                      C = |mean Mag_i e^{i Ang_i}|
 *
 * The angle in C is the normalised one, as the author intends. Cosines are clamped to [−1, 1]. The end of the
 * path is known last, so raw lengths and angles of all steps are kept: 16 bytes each.
 */
#ifndef KV_READ_COE_H
#define KV_READ_COE_H

#include "base/error.h"

struct kv_coe_step {
    double length, angle;
};

struct kv_coe_path {
    size_t dim;
    int64_t n_points;
    float *first, *previous; /* (dim) */
    struct kv_coe_step *steps;
    size_t n_steps, n_steps_cap;
};

kvant_status kv_coe_open(struct kv_coe_path *path, size_t dim, struct kvant_error *err);
/* x: (dim), copied. MEMORY. */
kvant_status kv_coe_add(struct kv_coe_path *path, const float *x, struct kvant_error *err);
void kv_coe_finish(const struct kv_coe_path *path, struct kvant_coe *out);
void kv_coe_close(struct kv_coe_path *path);

#endif
