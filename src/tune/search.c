#include "tune/search.h"

#include <math.h>

#include "base/memory.h"

static enum kv_side side_of(int item)
{
    return item % 2 ? KV_SIDE_VALUE : KV_SIDE_KEY;
}

static kvant_status set_options(struct kv_search *s, const struct kv_sensitivity *sensitivity,
                                struct kvant_error *err)
{
    int n_heads_of_item = s->by_layer ? s->n_head_kv : 1, n_rows = s->by_layer ? 1 : s->n_head_kv;
    for (int item = 0; item < s->n_items; item++) {
        enum kv_side side = side_of(item);
        int layer = item / 2 / n_rows, head = item / 2 % n_rows, n = kv_choices(s->mixed, side)->n;
        struct kv_option *options = s->options + (size_t)item * KV_CHOICES_MAX;
        for (int i = 0; i < n; i++) {
            KV_TRY(kv_choice_cost(s->mixed, side, i, s->model->hp.head_dim, &options[i].cost, err));
            options[i].cost *= n_heads_of_item;
            for (int h = 0; h < n_heads_of_item; h++)
                options[i].error += kv_sensitivity_at(sensitivity, side, layer, head + h)[i];
        }
        for (int i = n; i < KV_CHOICES_MAX; i++) options[i] = (struct kv_option){ options[0].cost, INFINITY };
    }
    return KVANT_OK;
}

struct kv_search kv_search_shape(const struct kvant_model *model, const struct kv_calibration *calibration,
                                 bool mixed, bool by_layer, int tail)
{
    struct kv_search s = { .model = model,
                           .calibration = calibration,
                           .mixed = mixed,
                           .by_layer = by_layer,
                           .tail = tail,
                           .n_layer = model->hp.n_layer,
                           .n_head_kv = model->hp.n_head_kv };
    s.n_items = 2 * s.n_layer * (by_layer ? 1 : s.n_head_kv);
    s.bits_per_page_bit = 2 * (int64_t)model->hp.head_dim * s.n_layer * s.n_head_kv;
    return s;
}

kvant_status kv_search_open(struct kv_search *s, const struct kvant_model *model,
                            const struct kv_calibration *calibration,
                            const struct kv_sensitivity *sensitivity, bool by_layer, int tail,
                            double budget_max, struct kvant_error *err)
{
    *s = kv_search_shape(model, calibration, sensitivity->mixed, by_layer, tail);
    s->options = kv_alloc((size_t)s->n_items * KV_CHOICES_MAX, sizeof *s->options);
    if (!s->options) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the choices of %d heads", s->n_items);
    kvant_status status = set_options(s, sensitivity, err);
    if (status == KVANT_OK)
        status = kv_allocation_open(&s->allocation, s->options, s->n_items, KV_CHOICES_MAX,
                                    (int64_t)(budget_max * (double)s->bits_per_page_bit), err);
    if (status != KVANT_OK) kv_search_close(s);
    return status;
}

void kv_search_close(struct kv_search *s)
{
    kv_allocation_close(&s->allocation);
    kv_free(s->options);
    s->options = NULL;
}

kvant_status kv_search_plan(const struct kv_search *s, const int *choice, struct kvant_plan **out,
                            struct kvant_error *err)
{
    KV_TRY(kvant_plan_open(out, s->model, "f16", err));
    struct kvant_plan *plan = *out;
    kvant_status status = KVANT_OK;
    plan->sinks = s->calibration->sinks;
    plan->tail = s->tail;
    for (int i = 0; status == KVANT_OK && i < s->n_layer * s->n_head_kv; i++) {
        int item = 2 * (s->by_layer ? i / s->n_head_kv : i);
        status = kv_choice_recipe(s->mixed, choice[item], choice[item + 1], &plan->recipe[i], err);
    }
    kv_plan_settle(plan);
    if (status == KVANT_OK) status = kv_calibration_apply(s->calibration, plan, err);
    if (status != KVANT_OK) {
        kvant_plan_close(plan);
        *out = NULL;
    }
    return status;
}

bool kv_search_choose(const struct kv_search *s, double page_bits, int *choice, double *kld)
{
    return kv_allocation_choose(&s->allocation, (int64_t)(page_bits * (double)s->bits_per_page_bit + .5),
                                choice, kld);
}
