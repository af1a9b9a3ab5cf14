/* Random rows of every weight format, with scales that stay finite. */
#ifndef KERNEL_WEIGHTS_H
#define KERNEL_WEIGHTS_H

#include "format/weight_type.h"
#include "support/kernel_check.h"

/* Fills n_bytes (whole blocks) of a weight type. LARGEST: all bits set and the largest scales; OUTLIER: one
 * such block. */
void check_weights_fill(struct check_random *r, const struct kv_weight_type *type, enum check_data kind,
                        uint8_t *data, size_t n_bytes);

#endif
