/*
 * The menu: plans with where they come from and what was measured of them.
 */
#ifndef KV_TUNE_MENU_H
#define KV_TUNE_MENU_H

#include "tune/calibrate.h"
#include "tune/measure.h"

struct kv_menu {
    struct kvant_tune_point *points; /* owned, plans too */
    size_t n, cap;
};

/* Puts a calibrated plan on the menu, unless an equal one is there. Owns `plan` from here on, whatever the
 * result. `like`: budget, predictions, source, and what was measured if anything was. */
kvant_status kv_menu_add(struct kv_menu *menu, struct kvant_plan *plan, const struct kvant_tune_point *like,
                         struct kvant_error *err);
/* Measures the points from `first` on. bits: at n_ctx; own_text: for the plan's own record. */
kvant_status kv_menu_measure(struct kv_menu *menu, size_t first, struct kv_measure *measure, int64_t n_ctx,
                             bool own_text, struct kvant_error *err);
/* The gate's verdict on every measured point, by its divergence and, where it is not dominated, by greedy
 * trajectories from the text of `measure` (NULL: divergence alone). To be called after kv_menu_finish. */
kvant_status kv_menu_judge(struct kv_menu *menu, struct kv_measure *measure, struct kvant_error *err);
/* Ascending in true bits; marks the dominated. Points that were not measured are dropped. */
void kv_menu_finish(struct kv_menu *menu);
void kv_menu_close(struct kv_menu *menu);

#endif
