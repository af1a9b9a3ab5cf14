/*
 * What KVTuner was published with, from tests/data/kvtuner. Lines of
 *
 *   [TITLE]                      a case begins
 *   layers N                     first in each case
 *   candidates LAYERS: PAIRS     these layers' candidates; other layers keep {KV8, K8V4, KV4, K4V2, KV2}
 *   group LAYERS                 one group, in order
 *   space X                      plans of the search
 *   bits C K V                   equivalent bits, mean key bits, mean value bits, as printed
 *   name TEXT                    the name by the bits reached
 *   preset FILE                  where shared/data/kvtuner-presets has it; ? = 0 or 1
 *   wrong TEXT                   the groups are faulty: what the refusal says
 *
 * LAYERS are numbers and ranges, PAIRS names such as K8V4, both separated by blanks; # begins a comment.
 */
#ifndef TESTS_SUPPORT_KVTUNER_DATA_H
#define TESTS_SUPPORT_KVTUNER_DATA_H

#include "tune/groups.h"

enum { KVTUNER_LAYERS_MAX = 64, KVTUNER_CASES_MAX = 16, KVTUNER_TEXT_CAP = 96 };

struct kvtuner_case {
    char title[KVTUNER_TEXT_CAP];
    int n_layer;
    kv_pair_set candidates[KVTUNER_LAYERS_MAX]; /* over kv_pairs_paper */
    struct kv_groups groups;                    /* in the arrays that follow */
    int begin[KVTUNER_LAYERS_MAX + 1], layer[2 * KVTUNER_LAYERS_MAX];
    double space, bits, key_bits, value_bits;
    char name[KVTUNER_TEXT_CAP], preset[KVTUNER_TEXT_CAP], wrong[KVTUNER_TEXT_CAP];
};

struct kvtuner_data {
    int n;
    struct kvtuner_case cases[KVTUNER_CASES_MAX];
};

/* Reads a file of tests/data/kvtuner; whatever it does not understand fails the test. Free with free. */
struct kvtuner_data *kvtuner_data_read(const char *file);

/* Index of the pair that a name means, in kv_pairs_paper; -1 for none. */
int kvtuner_pair_find(const char *name);
/* assignment (n_layer): the one candidate of each layer; a layer with another number of them fails the
 * test. */
void kvtuner_assignment(const struct kvtuner_case *c, uint8_t *assignment);

#endif
