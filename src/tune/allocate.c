#include "tune/allocate.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

#define STEPS_MAX ((int64_t)1 << 24)

static int64_t common_divisor(int64_t a, int64_t b)
{
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* error[s] holds the least error of the layers so far within s units; one more layer, in place from the top
 * down. */
static void add_layer(struct kv_allocation *a, int layer)
{
    const struct kv_option *options = a->options + (size_t)layer * (size_t)a->n_options;
    uint8_t *choice = a->choice + (size_t)layer * (size_t)(a->n_steps + 1);
    for (int64_t s = a->n_steps; s >= 0; s--) {
        double best = INFINITY;
        int best_option = 0;
        for (int o = 0; o < a->n_options; o++) {
            int64_t units = options[o].cost / a->unit;
            if (units > s) continue;
            double error = a->error[s - units] + options[o].error;
            /* of equal errors the cheaper option: what is saved may serve another layer */
            bool cheaper = error == best && options[o].cost < options[best_option].cost;
            if (error < best || cheaper) best = error, best_option = o;
        }
        a->error[s] = best;
        choice[s] = (uint8_t)best_option;
    }
}

kvant_status kv_allocation_open(struct kv_allocation *a, const struct kv_option *options, int n_layer,
                                int n_options, int64_t budget_max, struct kvant_error *err)
{
    *a = (struct kv_allocation){ n_layer, n_options, 0, 0, NULL, NULL, options };
    for (size_t i = 0; i < (size_t)n_layer * (size_t)n_options; i++)
        a->unit = common_divisor(options[i].cost, a->unit);
    a->n_steps = budget_max / a->unit;
    if (budget_max < 0 || a->n_steps > STEPS_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "a budget of %lld bits a token cannot be searched",
                (long long)budget_max);
    a->error = kv_alloc((size_t)a->n_steps + 1, sizeof *a->error); /* zeroed: no layer, no error */
    a->choice = kv_alloc((size_t)n_layer, (size_t)a->n_steps + 1);
    if (!a->error || !a->choice) {
        kv_allocation_close(a);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for searching budgets of %lld steps",
                (long long)a->n_steps);
    }
    for (int layer = 0; layer < n_layer; layer++) add_layer(a, layer);
    return KVANT_OK;
}

void kv_allocation_close(struct kv_allocation *a)
{
    kv_free(a->error);
    kv_free(a->choice);
    a->error = NULL;
    a->choice = NULL;
}

bool kv_allocation_choose(const struct kv_allocation *a, int64_t budget, int *choice, double *error)
{
    int64_t s = budget / a->unit;
    if (s > a->n_steps) s = a->n_steps;
    if (budget < 0 || !isfinite(a->error[s])) return false;
    *error = a->error[s];
    for (int layer = a->n_layer - 1; layer >= 0; layer--) {
        choice[layer] = a->choice[(size_t)layer * (size_t)(a->n_steps + 1) + (size_t)s];
        s -= a->options[(size_t)layer * (size_t)a->n_options + (size_t)choice[layer]].cost / a->unit;
    }
    return true;
}
