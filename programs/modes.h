/*
 * Two ways to answer, as text put before an answer and between its parts: a small JSON file, or one of those
 * built in.
 */
#ifndef MODES_H
#define MODES_H

#include "program.h"

enum { MODE_FAST, MODE_SLOW, MODES };

struct mode_tokens {
    kvant_token *ids; /* owned */
    size_t n;
    char *text;       /* owned */
};

struct modes {
    char name[32];
    struct mode_tokens begin[MODES]; /* what an answer in this mode begins with      */
    struct mode_tokens turn[MODES];  /* what is put between when it turns to this mode */
};

extern const char *const mode_names[MODES]; /* "fast", "slow" */

/* "think" (the <think> tags of Qwen3 and DeepSeek-R1), "steps" (for models without tags), or the name of a
 * file {"name", "fast", "slow", "to_fast", "to_slow"}. Prints what fails: file and field. */
int modes_open(struct modes *out, const struct kvant_model *model, const char *name);
void modes_close(struct modes *modes);

/* What a text that began in this mode arrives at, its beginning read with it ("The answer is" belongs to the
 * answer): a number, or a letter where `right` is one. found: (KVANT_ANSWER_CAP). */
bool modes_answer_check(const struct modes *modes, int mode, const char *text, size_t n_bytes,
                        const char *right, char *found);

/* Of all its texts together: more than one answer can take. */
int64_t modes_tokens(const struct modes *modes);

#endif
