/*
 * Tables of kvant_sensitivity_run for the tuner.
 */
#ifndef KV_TUNE_ERRORS_H
#define KV_TUNE_ERRORS_H

#include "tune/errors_modes.h"
#include "tune/sensitivity.h"

/* e_o of each layer for the pairs of a candidate set of bits, as the paper's pruning takes them:
 * out (n_layer, n_bits, n_bits) by key bits, value bits. NaN stays NaN (no unit). Errors: ARGUMENT (the mode
 * was not measured, or bits other than 2, 3, 4, 8). */
kvant_status kv_errors_output_table(const struct kvant_sensitivity *s, kvant_sensitivity_mode mode,
                                    const int *bits, int n_bits, double *out, struct kvant_error *err);

/* The KLD at the logits, mean over tokens, of every layer alone under each recipe, all else in 16 bits; as
 * kvant_eval_run measures it. out: (n_layer, n_recipes). Progress: n_tokens for each sequence, one more than
 * plans in each batch of 15. */
kvant_status kv_errors_kld(const struct kvant_model *model, const struct kv_calibration *calibration,
                           const struct kv_recipe *recipes, int n_recipes, const kvant_token *tokens,
                           size_t n_tokens, struct kv_tune_progress *progress, double *out,
                           struct kvant_error *err);
/* Sequences that it runs over the tokens. */
int64_t kv_errors_kld_sequences(int n_layer, int n_recipes);

#endif
