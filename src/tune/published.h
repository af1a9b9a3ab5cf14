/*
 * KVTuner on this engine: errors of each layer, the published search, plans measured by their KLD or, where
 * the measure has questions, by their accuracy.
 */
#ifndef KV_TUNE_PUBLISHED_H
#define KV_TUNE_PUBLISHED_H

#include "tune/kvtuner.h"
#include "tune/menu.h"

struct kv_published_options {
    enum kv_preset_mode mode;      /* PERTOKEN or KIVI */
    enum kv_evolve_method search;
    int n_trials;                  /* of each of the two runs, 0 = 200 */
    uint64_t seed;
};

/* Runs the method on the measure's text and puts its front on the menu. When it is cancelled, what was found
 * before is on the menu. */
kvant_status kv_published_run(struct kv_menu *menu, struct kv_measure *measure,
                              const struct kv_published_options *opt, struct kvant_error *err);
/* Most plans that it measures. */
int kv_published_plans(const struct kv_published_options *opt);

#endif
