/* Pseudo-random numbers that are the same on every machine: xorshift64* from a splitmix64 seed. */
#ifndef KV_BASE_RANDOM_H
#define KV_BASE_RANDOM_H

#include <stdint.h>

struct kv_random {
    uint64_t state; /* never 0 */
};

/* Any seed; neighbouring seeds give unrelated sequences. */
void kv_random_seed(struct kv_random *r, uint64_t seed);
/* Uniform in [0, 1), in steps of 2^-53. */
double kv_random_unit(struct kv_random *r);
/* Uniform in 0 .. n - 1; n >= 1. */
int kv_random_below(struct kv_random *r, int n);

#endif
