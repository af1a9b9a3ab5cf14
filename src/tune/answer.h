/*
 * Answers in text: the number or letter that a model arrived at, and whether it is the right one.
 */
#ifndef KV_TUNE_ANSWER_H
#define KV_TUNE_ANSWER_H

#include "base/error.h"

#define KV_ANSWER_CAP KVANT_ANSWER_CAP

/* NUMBER or CHOICE for AUTO, by the right answer; any other kind as it is. */
kvant_answer_kind kv_answer_kind_of(kvant_answer_kind kind, const char *right);

/* The answer in text[0, n), in one form for equal answers: a number as "-12.5" (no leading or trailing zeros,
 * no sign of zero), a letter as itself. False, and "": none. docs/gate.md has the rules. */
bool kv_answer_extract(kvant_answer_kind kind, const char *text, size_t n, char out[KV_ANSWER_CAP]);

/* Bytes of text[0, n) before the first of the strings; n when it has none of them. */
size_t kv_answer_stop(const char *text, size_t n, const char *const *stops, int n_stops);

/* Interval of k of n at 95 % (Wilson), in percent. */
void kv_wilson(int64_t k, int64_t n, double *low, double *high);

/* Two-sided exact binomial test of a against b, each as likely: McNemar's, of the pairs that differ. */
double kv_mcnemar(int64_t a, int64_t b);

#endif
