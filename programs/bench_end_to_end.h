/* kvant bench --end-to-end: prompts and answers of many sequences, from empty caches to the last token. */
#ifndef BENCH_END_TO_END_H
#define BENCH_END_TO_END_H

#include "setup.h"

struct end_to_end_flags {
    int64_t n_batch, n_prompt, n_generate, n_repetitions;
    const struct option_list *kv; /* empty: the plan that `plan` leads to */
    const struct plan_flags *plan;
    const struct model_flags *model;
};

/* Measures and prints; an exit code. */
int bench_end_to_end(const struct end_to_end_flags *flags);

#endif
