/*
 * What the model itself needs of the static detector; the rest of it is public.
 */
#ifndef KV_MODEL_KEY_BIAS_H
#define KV_MODEL_KEY_BIAS_H

#include "model/model.h"

/* Lower median over the layers of the largest absolute key bias; those without one count as 0. */
kvant_status kv_key_bias_median(const struct kvant_model *model, float *median, struct kvant_error *err);

#endif
