/* kvant bench --predict: what plans would do at long contexts, without filling a cache. */
#ifndef BENCH_PREDICT_H
#define BENCH_PREDICT_H

#include "setup.h"

struct predict_flags {
    const char *depths_text;      /* NULL = those of predict_contexts */
    const struct option_list *kv; /* empty: the plan that `plan` leads to */
    const struct plan_flags *plan;
    const struct model_flags *model;
};

/* Measures and prints; an exit code. */
int bench_predict(const struct predict_flags *flags);

#endif
