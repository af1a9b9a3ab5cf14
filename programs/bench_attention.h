/* kvant bench --attention: the attention of one layer alone, without a model. */
#ifndef BENCH_ATTENTION_H
#define BENCH_ATTENTION_H

#include "setup.h"

struct attention_flags {
    int64_t n_heads, n_kv_heads, head_dim; /* 0 = 32, 8, 128       */
    const char *tokens_text;               /* NULL = "4096,32768"  */
    bool quick;
    const struct option_list *kv; /* empty: a plan of each width */
    const struct model_flags *model; /* threads, cpu, json */
    int64_t n_rounds;             /* 0 = 7 */
};

/* Measures and prints; an exit code. */
int bench_attention(const struct attention_flags *flags);

#endif
