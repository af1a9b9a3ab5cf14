/*
 * The KLD at the logits when one side of one layer is quantized and everything else is kept: measured for two
 * choices of the keys and one of the values, many layers in one batch; the other choices follow from them.
 *
 * The KLD of small errors follows the squared error of the codes. Values of b bits: 1 / (2^b - 1)^2, so 3
 * bits cost 9/49 = .184 of 2 bits; measured on SmolLM2: median .18 over 30 layers. Mixed keys don't follow
 * bits so simply (ratios of 3 to 2 bits from .003 to .5), hence two measurements. 2.5 bits are taken as their
 * geometric mean: within 2 % on GSM8K, a quarter too low on WikiText-2 (whole models, both). 4 bits are taken
 * as a fifth of 3, which was measured for unmixed keys (1/5.6 and 1/5.8). Only the ranking hangs on this:
 * every plan of the menu is measured as a whole.
 */
#include "tune/sensitivity.h"

#include <math.h>
#include <stdio.h>

#include "base/memory.h"

#define PLANS_PER_BATCH 15 /* and the 16-bit cache: 16 sequences share each reading of the weights */
#define PROBES_PER_LAYER 3 /* measured choices of both sides                                        */

struct side_choice {
    const char *recipe;
    int a, b;      /* KLD = sqrt(KLD[a] · KLD[b]) · factor; a < 0: measured */
    double factor;
};
static const struct side_choice keys_mixed[KV_SIDE_CHOICES] = {
    { "k2c64xm", -1, -1, 1 }, { "k2.5c64xm", 0, 2, 1 }, { "k3c64xm", -1, -1, 1 },
    { "k4c64xm", 2, 2, .2 },  { "k8tm", 2, 2, .001 },
};
static const struct side_choice keys_unmixed[KV_SIDE_CHOICES] = {
    { "k2c64m", 1, 1, 1.5 }, { "k2c32m", -1, -1, 1 }, { "k3c64m", -1, -1, 1 },
    { "k4c64m", 2, 2, .2 },  { "k8tm", 2, 2, .001 },
};
static const struct side_choice values[KV_SIDE_CHOICES] = {
    { "v2h", -1, -1, 1 },        { "v3h", 0, 0, 9.0 / 49 }, { "v4h", 0, 0, 9.0 / 225 },
    { "v8", 0, 0, 9.0 / 65025 }, { "v16", 0, 0, 0 },
};

static const struct side_choice *keys_of(bool mixed)
{
    return mixed ? keys_mixed : keys_unmixed;
}

bool kv_tune_progress_step(void *progress, const char *what, int64_t done, int64_t total)
{
    struct kv_tune_progress *p = progress;
    (void)total;
    return !p->fn || p->fn(p->user, p->what ? p->what : what, p->done + done * p->scale, p->total);
}

static kvant_status parse_pair(const char *key, const char *value, struct kv_recipe *out,
                               struct kvant_error *err)
{
    char text[32];
    int n = snprintf(text, sizeof text, "%s %s", key, value);
    return kv_recipe_parse(out, text, (size_t)n, err);
}

kvant_status kv_sensitivity_recipe(bool mixed, int key, int value, struct kv_recipe *out,
                                   struct kvant_error *err)
{
    return parse_pair(keys_of(mixed)[key].recipe, values[value].recipe, out, err);
}

int kv_sensitivity_sequences(int n_layer)
{
    int n = PROBES_PER_LAYER * n_layer;
    return n + (n + PLANS_PER_BATCH - 1) / PLANS_PER_BATCH;
}

/* One plan to measure: where its KLD goes, and the recipe of its layer. */
struct probe {
    int layer;
    struct kv_recipe recipe;
    double *kld;
};

static kvant_status open_probe_plan(struct kvant_plan **out, const struct kvant_model *model,
                                    const struct kv_calibration *calibration, const struct probe *probe,
                                    struct kvant_error *err)
{
    KV_TRY(kvant_plan_open(out, model, "f16", err));
    struct kvant_plan *plan = *out;
    plan->sinks = calibration->sinks;
    for (int head = 0; head < plan->n_head_kv; head++)
        plan->recipe[(size_t)probe->layer * (size_t)plan->n_head_kv + (size_t)head] = probe->recipe;
    kv_plan_settle(plan);
    return kv_calibration_apply(calibration, plan, err);
}

static kvant_status measure_batch(const struct kvant_model *model, const struct kv_calibration *calibration,
                                  const struct probe *probes, int n, const kvant_token *tokens,
                                  size_t n_tokens, struct kv_tune_progress *progress, struct kvant_error *err)
{
    struct kvant_plan *plans[PLANS_PER_BATCH] = { NULL };
    struct kvant_eval_result results[PLANS_PER_BATCH];
    struct kvant_eval_options opt = KVANT_EVAL_OPTIONS_INIT;
    opt.n_ctx = calibration->chunk_tokens;
    opt.progress = kv_tune_progress_step;
    opt.user = progress;
    progress->scale = n + 1;
    kvant_status status = KVANT_OK;
    for (int i = 0; status == KVANT_OK && i < n; i++)
        status = open_probe_plan(&plans[i], model, calibration, &probes[i], err);
    if (status == KVANT_OK)
        status = kvant_eval_run(model, (const struct kvant_plan *const *)plans, n, tokens, n_tokens, &opt,
                                results, NULL, err);
    for (int i = 0; i < n; i++) {
        if (status == KVANT_OK) *probes[i].kld = results[i].kld_mean;
        kvant_plan_close(plans[i]);
    }
    progress->done += (int64_t)n_tokens * (n + 1);
    return status;
}

/* The choices that were not measured; and no choice of more bits is worse than one of fewer. */
static void derive(const struct side_choice *choices, double *kld)
{
    for (int i = 0; i < KV_SIDE_CHOICES; i++)
        if (choices[i].a >= 0) /* nothing is lost at factor 0, even where the measured choice collapsed */
            kld[i] = choices[i].factor > 0
                         ? choices[i].factor * sqrt(kld[choices[i].a]) * sqrt(kld[choices[i].b])
                         : 0;
    for (int i = 1; i < KV_SIDE_CHOICES; i++) kld[i] = kld[i] < kld[i - 1] ? kld[i] : kld[i - 1];
}

static kvant_status list_probes(struct kv_sensitivity *s, int n_layer, struct probe *probes, int *n,
                                struct kvant_error *err)
{
    *n = 0;
    for (int layer = 0; layer < n_layer; layer++) {
        for (int i = 0; i < KV_SIDE_CHOICES; i++) {
            if (keys_of(s->mixed)[i].a < 0) {
                KV_TRY(parse_pair(keys_of(s->mixed)[i].recipe, "v16", &probes[*n].recipe, err));
                probes[*n].layer = layer;
                probes[(*n)++].kld = &s->key[layer][i];
            }
            if (values[i].a < 0) {
                KV_TRY(parse_pair("k16", values[i].recipe, &probes[*n].recipe, err));
                probes[*n].layer = layer;
                probes[(*n)++].kld = &s->value[layer][i];
            }
        }
    }
    return KVANT_OK;
}

kvant_status kv_sensitivity_open(struct kv_sensitivity *s, const struct kvant_model *model,
                                 const struct kv_calibration *calibration, bool mixed,
                                 const kvant_token *tokens, size_t n_tokens,
                                 struct kv_tune_progress *progress, struct kvant_error *err)
{
    int n_layer = model->hp.n_layer, n = 0;
    *s = (struct kv_sensitivity){ mixed, NULL, NULL };
    s->key = kv_alloc((size_t)n_layer, sizeof *s->key);
    s->value = kv_alloc((size_t)n_layer, sizeof *s->value);
    struct probe *probes = kv_alloc((size_t)(PROBES_PER_LAYER * n_layer), sizeof *probes);
    kvant_status status = s->key && s->value && probes
                              ? list_probes(s, n_layer, probes, &n, err)
                              : kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for sensitivities");
    progress->what = "measuring layers";
    for (int first = 0; status == KVANT_OK && first < n; first += PLANS_PER_BATCH) {
        int n_batch = n - first < PLANS_PER_BATCH ? n - first : PLANS_PER_BATCH;
        status = measure_batch(model, calibration, probes + first, n_batch, tokens, n_tokens, progress, err);
    }
    progress->what = NULL;
    kv_free(probes);
    for (int layer = 0; status == KVANT_OK && layer < n_layer; layer++) {
        derive(keys_of(mixed), s->key[layer]);
        derive(values, s->value[layer]);
    }
    if (status != KVANT_OK) kv_sensitivity_close(s);
    return status;
}

void kv_sensitivity_close(struct kv_sensitivity *s)
{
    kv_free(s->key);
    kv_free(s->value);
    s->key = s->value = NULL;
}
