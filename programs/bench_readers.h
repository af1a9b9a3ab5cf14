/* kvant bench --readers: what reading the cache adds to a generated token. */
#ifndef BENCH_READERS_H
#define BENCH_READERS_H

#include "setup.h"

struct readers_flags {
    int64_t n_generate, depth;
    const struct option_list *kv; /* empty: the plan that `plan` leads to */
    const struct plan_flags *plan;
    const struct model_flags *model;
};

/* Measures and prints; an exit code. */
int bench_readers(const struct readers_flags *flags);

#endif
