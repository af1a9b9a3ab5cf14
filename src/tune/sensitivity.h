/*
 * What each choice costs in one KV head: the KLD at the logits with this head's keys (or values) stored so,
 * and everything else in 16 bits; scaled so that the heads of one side add up to what all of them cost
 * together.
 */
#ifndef KV_TUNE_SENSITIVITY_H
#define KV_TUNE_SENSITIVITY_H

#include "tune/choices.h"
#include "tune/measure.h"

struct kv_sensitivity {
    bool mixed, by_layer;  /* by_layer: the heads of a layer measured at once, each an equal part of it */
    int n_layer, n_head_kv;
    int n_choices[KV_SIDES];
    double *kld[KV_SIDES]; /* (n_layer, n_head_kv, n_choices of the side) */
};

/* Plans that kv_sensitivity_open measures. */
int kv_sensitivity_probes(int n_layer, int n_head_kv, bool mixed, bool by_layer);

/* Measures the choices that are to be measured; the others follow from them (kv_sensitivity_derive). */
kvant_status kv_sensitivity_open(struct kv_sensitivity *out, struct kv_measure *measure,
                                 const struct kv_calibration *calibration, bool mixed, bool by_layer,
                                 struct kvant_error *err);
void kv_sensitivity_close(struct kv_sensitivity *s);

static inline double *kv_sensitivity_at(const struct kv_sensitivity *s, enum kv_side side, int layer,
                                        int head)
{
    return s->kld[side] + ((size_t)layer * (size_t)s->n_head_kv + (size_t)head) * (size_t)s->n_choices[side];
}

/* Fills in kld of the choices that are not measured, on the straight lines of log KLD over log error through
 * the measured ones of their kind. error: (n of the list). */
void kv_sensitivity_derive(const struct kv_choice_list *list, const double *error, double *kld);

#endif
