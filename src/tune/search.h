/*
 * From what single heads cost to whole plans: an exact allocation of bits over the keys and values of all KV
 * heads, under the assumption that their errors add up.
 */
#ifndef KV_TUNE_SEARCH_H
#define KV_TUNE_SEARCH_H

#include "tune/allocate.h"
#include "tune/sensitivity.h"

struct kv_search {
    const struct kvant_model *model;
    const struct kv_calibration *calibration;
    bool mixed, by_layer;        /* by_layer: all heads of a layer get one recipe                    */
    int n_layer, n_head_kv;
    int tail;                    /* exact last tokens of every plan                               */
    int n_items;                 /* (layer, side) or (layer, head, side): each gets one choice       */
    struct kv_option *options;   /* (n_items, KV_CHOICES_MAX)                                        */
    struct kv_allocation allocation;
    int64_t bits_per_page_bit;   /* bits that a token takes in all layers, for each page bit         */
};

/* What plans need, before anything is measured: for kv_search_plan. Nothing to close. */
struct kv_search kv_search_shape(const struct kvant_model *model, const struct kv_calibration *calibration,
                                 bool mixed, bool by_layer, int tail);

/* budget_max: page bits. */
kvant_status kv_search_open(struct kv_search *out, const struct kvant_model *model,
                            const struct kv_calibration *calibration,
                            const struct kv_sensitivity *sensitivity, bool by_layer, int tail,
                            double budget_max, struct kvant_error *err);
void kv_search_close(struct kv_search *s);

/* Plan of the choices (n_items), calibrated. */
kvant_status kv_search_plan(const struct kv_search *s, const int *choice, struct kvant_plan **out,
                            struct kvant_error *err);

/* The best choice within so many page bits; false: none fits. *kld: predicted. */
bool kv_search_choose(const struct kv_search *s, double page_bits, int *choice, double *kld);

#endif
