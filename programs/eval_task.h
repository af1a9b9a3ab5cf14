/*
 * kvant eval --task: how many questions a model answers rightly under each plan, beside the 16-bit cache.
 */
#ifndef EVAL_TASK_H
#define EVAL_TASK_H

#include "setup.h"

struct task_flags {
    const char *name; /* "gsm8k", "mcq" */
    const char *data_path, *shots_path, *answers_path;
    int64_t n_shots, n_limit, n_predict, n_sequences; /* -1: not given */
};
#define TASK_FLAGS_DEFAULT {.n_shots = -1, .n_limit = -1, .n_predict = -1, .n_sequences = -1}

#define TASK_OPTIONS(f)                                                                                      \
    {"--task", OPTION_CHOICE, "gsm8k|mcq", &(f)->name,                                                       \
     "answer questions instead: accuracy in percent; gsm8k: by\nwriting, mcq: by the likeliest letter", 0,   \
     0},                                                                                                     \
    {"--data", OPTION_NAME, "FILE.jsonl", &(f)->data_path,                                                   \
     "with --task: one question a line, {\"question\", \"answer\"};\nmcq: with lines \"(A) ...\", the "      \
     "answer a letter",                                                                                      \
     0, 0},                                                                                                  \
    {"--shots", OPTION_INT, "N", &(f)->n_shots, "worked examples before each question; default 4", 0, 64},   \
    {"--shots-from", OPTION_NAME, "FILE.jsonl", &(f)->shots_path,                                            \
     "where they come from; default: the first lines of --data,\nwhich are then not asked", 0, 0},           \
    {"--limit", OPTION_INT, "N", &(f)->n_limit, "most questions; 0 = all (default)", 0, 1e9},                \
    {"-n, --predict, --n-predict", OPTION_INT, "N", &(f)->n_predict,                                         \
     "most tokens of an answer; default 256", 1, 65536},                                                     \
    {"--sequences", OPTION_INT, "N", &(f)->n_sequences, "answers written at once; default 16", 1, 256},      \
    {"--answers", OPTION_NAME, "FILE.jsonl", &(f)->answers_path, "keep every answer, one a line", 0, 0}

/* True when a flag other than --task was given. */
bool task_flags_given(const struct task_flags *flags);

/* list: the plans that --kv named. Prints the table, or JSON. Returns an exit code. */
int eval_task(const struct task_flags *flags, const struct option_list *list, const struct plan_flags *plan,
              const struct model_flags *model);

#endif
