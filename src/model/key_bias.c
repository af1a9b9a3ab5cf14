/*
 * The static detector: layers whose key biases are outliers, and plans that cannot store them. It reads the
 * file alone, so it warns before anything is run or tuned.
 *
 * Per token, one scale and minimum stand for a whole row of a head, so the largest bias decides the step for
 * every channel, and the error of each score grows with it. Measured on Qwen2.5-Coder-0.5B (k4t of one layer
 * alone, all else 16 bits, WikiText, 355 positions): largest bias 145, 158, 66, 34 and 211 (layers 0, 1, 2,
 * 4, 8): KLD .03 to .11, same likeliest token 83 to 92 %; 22 (layer 3): .004, 96 %; 3 to 10 (layers 5, 6, 10,
 * 23): .001 to .004, 96 to 99 %. The median over the layers is 4.9, so the line between 22 and 34 lies at
 * some 5 medians. In Qwen2.5-7B the norms are 605 and 921 in layers 0 and 27, and 22 in the median.
 */
#include "model/key_bias.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define OUTLIER_MEDIANS 5.0f
#define RISKY_BITS 4 /* with 8 the step is 16 times finer: KLD .02 for the whole model, nothing kept exact */

/* The bias of one head, or of all; false: none. */
static bool measure(const struct kvant_model *m, int layer, int head_kv, struct kvant_key_bias *out)
{
    *out = (struct kvant_key_bias){ 0 };
    const struct kv_hparams *h = &m->hp;
    if (!m->layers || layer < 0 || layer >= h->n_layer || head_kv < -1 || head_kv >= h->n_head_kv)
        return false;
    const float *bias = m->layers[layer].bk;
    if (!bias) return false;
    int first = head_kv < 0 ? 0 : head_kv, n_heads = head_kv < 0 ? h->n_head_kv : 1;
    double sum = 0.0;
    for (int i = first * h->head_dim; i < (first + n_heads) * h->head_dim; i++) {
        out->max = fmaxf(out->max, fabsf(bias[i]));
        sum += (double)bias[i] * (double)bias[i];
    }
    out->norm = (float)sqrt(sum);
    return true;
}

static int compare_floats(const void *a, const void *b)
{
    float x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

kvant_status kv_key_bias_median(const struct kvant_model *m, float *median, struct kvant_error *err)
{
    int n = m->hp.n_layer;
    float *max = kv_alloc((size_t)n, sizeof *max);
    if (!max) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the key biases of %d layers", n);
    for (int i = 0; i < n; i++) {
        struct kvant_key_bias b;
        measure(m, i, -1, &b);
        max[i] = b.max;
    }
    qsort(max, (size_t)n, sizeof *max, compare_floats);
    *median = max[(n - 1) / 2]; /* the lower one: of two layers, one can be an outlier */
    kv_free(max);
    return KVANT_OK;
}

float kvant_model_key_bias_median(const struct kvant_model *m)
{
    return m->key_bias_median;
}

bool kvant_model_key_bias(const struct kvant_model *m, int layer, int head_kv, struct kvant_key_bias *out)
{
    if (!measure(m, layer, head_kv, out)) return false;
    out->is_outlier = out->max > OUTLIER_MEDIANS * m->key_bias_median;
    return true;
}

/* ----------------------------------------------------------------------------------------------- plans -- */

static bool layer_at_risk(const struct kvant_plan *plan, const struct kvant_model *m, int layer)
{
    for (int head = 0; head < plan->n_head_kv; head++) {
        const struct kv_recipe *r = kv_plan_recipe_at(plan, layer, head);
        struct kvant_key_bias bias;
        if (r->key_scheme == KV_KEY_TOKEN && r->key_bits <= RISKY_BITS && !r->key_centered &&
            kvant_model_key_bias(m, layer, head, &bias) && bias.is_outlier)
            return true;
    }
    return false;
}

bool kvant_plan_keys_at_risk(const struct kvant_plan *plan, const struct kvant_model *m, char *layers,
                             size_t cap)
{
    const struct kv_hparams *h = &m->hp;
    size_t n = 0;
    bool any = false;
    if (cap > 0) layers[0] = '\0';
    if (plan->n_layer != h->n_layer || plan->n_head_kv != h->n_head_kv) return false;
    for (int first = 0, last; first < plan->n_layer; first = last + 1) {
        last = first;
        if (!layer_at_risk(plan, m, first)) continue;
        while (last + 1 < plan->n_layer && layer_at_risk(plan, m, last + 1)) last++;
        if (n < cap) n += (size_t)snprintf(layers + n, cap - n, "%s%d", any ? ", " : "", first);
        if (n < cap && last > first) n += (size_t)snprintf(layers + n, cap - n, "-%d", last);
        any = true;
    }
    return any;
}
