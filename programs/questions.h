/*
 * Questions with known answers and the few-shot prompts that ask them. One JSON object a line: a worked
 * answer, as GSM8K has them, {"question": "...", "answer": "... #### 42"}; or a choice, as CommonsenseQA has
 * them, {"question": "...\nChoices:\n(A) ...\n(B) ...", "answer": "A"}.
 */
#ifndef QUESTIONS_H
#define QUESTIONS_H

#include "program.h"

enum question_kind { QUESTION_WORKED, QUESTION_CHOICE };
#define QUESTION_CHOICES_CAP 26
#define QUESTION_BRIDGE_CAP 2

struct question {
    char *question, *answer; /* as in the file                                                        */
    const char *final;       /* what stands behind the last "####" of the answer; the letter of a choice */
    size_t line;             /* 1-based                                                               */
    size_t n_choices;        /* (A) to so many; 0 of a worked answer                                   */
};

struct question_file {
    const char *path;
    enum question_kind kind;
    struct question *items;
    size_t n;
};

/* Every line of the file; blank ones are passed over. The key "en" stands for "question", too, and a leading
 * "Question:" is dropped: the prompt has its own. EXIT_FAILED after a message that names file and line: no
 * JSON, a key that is missing, no "####", fewer than two choices, an answer that is none of them, no line at
 * all. */
int questions_read(struct question_file *file, enum question_kind kind, const char *path);
void questions_close(struct question_file *file);

/* Prompts "Question: Q\nAnswer: A\n\n" of the shots, then "Question: Q\nAnswer:" of one item each: those of
 * lm-evaluation-harness. */
struct question_prompts {
    kvant_token letters[QUESTION_CHOICES_CAP]; /* " A" and so on, of choices                            */
    kvant_token bridge[QUESTION_BRIDGE_CAP];   /* (n_bridge) between prompt and letter: the blank alone */
    size_t n_bridge;
    struct kvant_question *items; /* (n), their answers borrowed from the file */
    const struct question *asked; /* (n) the items                             */
    size_t n;
    char hash[72]; /* "sha256:" and 64 digits over the prompts and the right answers */
};

/* The first n_shots questions of shots; then the first n_limit (0 = all) of data, beginning behind the shots
 * when both are the same file. Refuses a question that is both shot and item, wherever it stands: a model
 * that has read the answer is not tested. Prints what fails. */
int questions_prompts(struct question_prompts *out, const struct kvant_model *model,
                      const struct question_file *data, const struct question_file *shots, size_t n_shots,
                      size_t n_limit);
void questions_prompts_close(struct question_prompts *prompts);

#endif
