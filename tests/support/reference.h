/*
 * What tests against references share: finding models, reading the committed JSON, and kvant's logits of a
 * whole text. Everything here fails the running test with a message instead of returning an error.
 */
#ifndef TESTS_SUPPORT_REFERENCE_H
#define TESTS_SUPPORT_REFERENCE_H

#include <jansson.h>

#include "kvant.h"

/* Where a real model lies: $KVANT_MODELS, else models/. False, with a line that says so, when it is not
 * there. */
bool reference_find_model(const char *file, char *path, size_t cap);

/* A reference file; the caller drops it with json_decref. */
json_t *reference_load(const char *path);
/* An array of integers; the caller frees. */
kvant_token *reference_tokens(const json_t *array, int *n);

struct kvant_model *reference_open_model(const char *path, kvant_act act, kvant_attn attn);
struct kvant_plan *reference_open_plan(const struct kvant_model *model, const char *spec);

/* Logits of rows [row_first, n) of a text, in one step of one new sequence: (n - row_first, n_vocab). */
void reference_logits(const struct kvant_model *model, const struct kvant_plan *plan,
                      const kvant_token *tokens, int n, int row_first, float *logits);

#endif
