/*
 * Probes: plans in which one side of one KV head is quantized. Those of a batch differ from the 16-bit cache
 * from their layer on only, so they cost half a pass each (tune/eval.c).
 *
 * Between measured choices, log KLD is a straight line over the log of the expected squared error: for small
 * errors KLD is proportional to it. Measured over heads of SmolLM2 the slope is 1.0 to 1.3; beyond the
 * measured choices SLOPE is taken. A single probe on 512 tokens is good for a factor of 1.5, so slopes
 * between two of them are taken as they are.
 *
 * Heads need not add up alike on both sides, and which side costs more is what an allocation hangs on: with
 * keys half as dear as they are on other text, bits go to values that keys need (Qwen2.5-Coder-0.5B at 2.75
 * page bits: KLD .0068 / .0106, with keys twice as dear .0064 / .0086). So each choice, also those that are
 * read off, is measured in all heads at once, which is one plan each, and the single numbers are scaled to
 * it.
 */
#include "tune/sensitivity.h"

#include <math.h>

#include "base/memory.h"

#define SLOPE 1.25
#define KLD_LEAST 1e-12 /* below what 512 tokens of float32 logits can tell from nothing */

/* The KLD of choice i from measured choice `at` with slope `slope`. */
static double along(const double *error, const double *kld, int at, int i, double slope)
{
    return kld[at] * pow(error[i] / error[at], slope);
}

void kv_sensitivity_derive(const struct kv_choice_list *list, const double *error, double *kld)
{
    for (int i = 0; i < list->n; i++) {
        const struct kv_choice *choice = &list->choice[i];
        if (choice->measured) {
            kld[i] = fmax(kld[i], KLD_LEAST);
            continue;
        }
        int below = -1, above = -1; /* measured, of the nearest smaller and larger error */
        for (int j = 0; j < list->n; j++) {
            if (!list->choice[j].measured || list->choice[j].kind != choice->kind) continue;
            if (error[j] <= error[i] && (below < 0 || error[j] > error[below])) below = j;
            if (error[j] >= error[i] && (above < 0 || error[j] < error[above])) above = j;
        }
        if (below < 0 || above < 0 || error[below] == error[above]) {
            kld[i] = along(error, kld, below < 0 ? above : below, i, SLOPE);
        } else {
            double slope = log(fmax(kld[above], KLD_LEAST) / fmax(kld[below], KLD_LEAST)) /
                           log(error[above] / error[below]);
            kld[i] = along(error, kld, below, i, slope);
        }
    }
}

int kv_sensitivity_probes(int n_layer, int n_head_kv, bool mixed, bool by_layer)
{
    int n_rows = n_layer * (by_layer ? 1 : n_head_kv);
    int n = 0;
    for (int side = 0; side < KV_SIDES; side++) {
        const struct kv_choice_list *list = kv_choices(mixed, (enum kv_side)side);
        for (int i = 0; i < list->n; i++) n += list->choice[i].measured * n_rows + 1;
    }
    return n;
}

struct probe {
    int layer, head, choice; /* layer -1: all heads; head -1: all of the layer */
    enum kv_side side;
};

struct probing {
    const struct kv_sensitivity *s;
    const struct kv_measure *measure;
    const struct kv_calibration *calibration;
    struct probe *probes;
};

static kvant_status open_probe(void *user, int i, struct kvant_plan **out, struct kvant_error *err)
{
    const struct probing *p = user;
    const struct probe *probe = &p->probes[i];
    KV_TRY(kvant_plan_open(out, p->measure->model, "f16", err));
    struct kvant_plan *plan = *out;
    plan->sinks = p->calibration->sinks;
    bool key = probe->side == KV_SIDE_KEY;
    struct kv_recipe recipe;
    KV_TRY(kv_choice_recipe(p->s->mixed, key ? probe->choice : -1, key ? -1 : probe->choice, &recipe, err));
    for (int layer = 0; layer < plan->n_layer; layer++)
        for (int head = 0; head < plan->n_head_kv; head++)
            if ((probe->layer < 0 || probe->layer == layer) && (probe->head < 0 || probe->head == head))
                plan->recipe[layer * plan->n_head_kv + head] = recipe;
    kv_plan_settle(plan);
    return kv_calibration_apply(p->calibration, plan, err);
}

/* By layer, so that the probes of a batch share most of the pass; last those of all heads. */
static int list_probes(const struct kv_sensitivity *s, struct probe *probes)
{
    int n = 0;
    for (int layer = 0; layer < s->n_layer; layer++)
        for (int head = s->by_layer ? -1 : 0; head < (s->by_layer ? 0 : s->n_head_kv); head++)
            for (int side = 0; side < KV_SIDES; side++)
                for (int i = 0; i < s->n_choices[side]; i++)
                    if (kv_choices(s->mixed, (enum kv_side)side)->choice[i].measured)
                        probes[n++] = (struct probe){ layer, head, i, (enum kv_side)side };
    for (int side = 0; side < KV_SIDES; side++)
        for (int i = 0; i < s->n_choices[side]; i++)
            probes[n++] = (struct probe){ -1, -1, i, (enum kv_side)side };
    return n;
}

static void set_measured(struct kv_sensitivity *s, const struct probe *p, double kld)
{
    if (p->head >= 0) {
        kv_sensitivity_at(s, p->side, p->layer, p->head)[p->choice] = kld;
        return;
    }
    for (int head = 0; head < s->n_head_kv; head++)
        kv_sensitivity_at(s, p->side, p->layer, head)[p->choice] = kld / s->n_head_kv;
}

/* All heads together cost `joint`: the single ones get the same sum. A plan that collapsed says nothing. */
static void scale_to(struct kv_sensitivity *s, enum kv_side side, int choice, double joint)
{
    double sum = 0.0;
    for (int layer = 0; layer < s->n_layer; layer++)
        for (int head = 0; head < s->n_head_kv; head++)
            sum += kv_sensitivity_at(s, side, layer, head)[choice];
    if (!(joint > 0.0 && isfinite(joint) && sum > 0.0 && isfinite(sum))) return;
    for (int layer = 0; layer < s->n_layer; layer++)
        for (int head = 0; head < s->n_head_kv; head++)
            kv_sensitivity_at(s, side, layer, head)[choice] *= joint / sum;
}

static void derive_all(struct kv_sensitivity *s, const struct kv_calibration *calibration)
{
    for (int layer = 0; layer < s->n_layer; layer++)
        for (int head = 0; head < s->n_head_kv; head++)
            for (int side = 0; side < KV_SIDES; side++) {
                double error[KV_CHOICES_MAX];
                kv_choice_errors(calibration, s->mixed, (enum kv_side)side, layer, head, error);
                kv_sensitivity_derive(kv_choices(s->mixed, (enum kv_side)side), error,
                                      kv_sensitivity_at(s, (enum kv_side)side, layer, head));
            }
}

kvant_status kv_sensitivity_open(struct kv_sensitivity *s, struct kv_measure *measure,
                                 const struct kv_calibration *calibration, bool mixed, bool by_layer,
                                 struct kvant_error *err)
{
    const struct kv_hparams *h = &measure->model->hp;
    *s = (struct kv_sensitivity){ .mixed = mixed, .by_layer = by_layer, .n_layer = h->n_layer,
                                  .n_head_kv = h->n_head_kv };
    size_t n_heads = (size_t)h->n_layer * (size_t)h->n_head_kv;
    for (int side = 0; side < KV_SIDES; side++) {
        s->n_choices[side] = kv_choices(mixed, (enum kv_side)side)->n;
        s->kld[side] = kv_alloc(n_heads * (size_t)s->n_choices[side], sizeof *s->kld[side]);
    }
    size_t n_probes = (size_t)kv_sensitivity_probes(h->n_layer, h->n_head_kv, mixed, by_layer);
    struct probing probing = { s, measure, calibration, kv_alloc(n_probes, sizeof *probing.probes) };
    struct kvant_eval_result *results = kv_alloc(n_probes, sizeof *results);
    kvant_status status = s->kld[0] && s->kld[1] && probing.probes && results
                              ? KVANT_OK
                              : kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for sensitivities");
    int n = status == KVANT_OK ? list_probes(s, probing.probes) : 0;
    measure->progress->what = "measuring heads";
    if (status == KVANT_OK) status = kv_measure_made(measure, open_probe, &probing, n, results, err);
    measure->progress->what = NULL;
    for (int i = 0; status == KVANT_OK && i < n; i++) {
        const struct probe *p = &probing.probes[i];
        if (p->layer >= 0) set_measured(s, p, results[i].kld_mean);
    }
    if (status == KVANT_OK) derive_all(s, calibration);
    for (int i = 0; status == KVANT_OK && i < n; i++) {
        const struct probe *p = &probing.probes[i];
        if (p->layer < 0) scale_to(s, p->side, p->choice, results[i].kld_mean);
    }
    kv_free(probing.probes);
    kv_free(results);
    if (status != KVANT_OK) kv_sensitivity_close(s);
    return status;
}

void kv_sensitivity_close(struct kv_sensitivity *s)
{
    for (int side = 0; side < KV_SIDES; side++) {
        kv_free(s->kld[side]);
        s->kld[side] = NULL;
    }
}
