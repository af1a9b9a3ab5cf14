/*
 * Several processes that search together. Each of them runs the whole search; of the plans to be measured
 * each takes a part, and a sum over all of them hands the numbers round. So the search is the same in each,
 * and the same as alone.
 */
#ifndef KV_TUNE_RANKS_H
#define KV_TUNE_RANKS_H

#include "base/error.h"

struct kv_ranks {
    int rank, n; /* n 0 or 1: alone */
    bool (*sum)(void *user, double *values, size_t n);
    void *user;
};

static inline int kv_ranks_count(const struct kv_ranks *r)
{
    return r->n > 1 ? r->n : 1;
}

/* values: (n + 1), those that this process does not know zero; the last one is for this function. Returns
 * `status` when it is a failure, CANCELLED when another process has one. Called by all, whatever the status,
 * or those that wait would wait forever. Alone: nothing but the status. */
kvant_status kv_ranks_sum(const struct kv_ranks *r, double *values, size_t n, kvant_status status,
                          struct kvant_error *err);
/* The same without values: have all got so far? */
kvant_status kv_ranks_meet(const struct kv_ranks *r, kvant_status status, struct kvant_error *err);
/* Errors: MISMATCH when the processes' texts differ: other builds, other levels of the CPU. */
kvant_status kv_ranks_agree(const struct kv_ranks *r, const char *text, kvant_status status,
                            struct kvant_error *err);

#endif
