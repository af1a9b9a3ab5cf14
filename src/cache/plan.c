/*
 * The plan as an object: making, copying, checking. Owns every allocation of struct kvant_plan. A plan is
 * immutable once handed out, except that kvant_plan_calibrate fills its tables.
 */
#include "cache/plan.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "cache/plan_text.h"

const int kv_class_bits[KV_N_CLASSES] = { 8, 4, 3, 2, 0 };
const double kv_class_error[KV_N_CLASSES] = { .00003, .0085, .039, .135, 1.0 };

static size_t n_recipes(const struct kvant_plan *plan)
{
    return (size_t)plan->n_layer * (size_t)plan->n_head_kv;
}

bool kv_recipe_equal(const struct kv_recipe *a, const struct kv_recipe *b)
{
    return a->key_bits == b->key_bits && a->key_quarters == b->key_quarters &&
           a->key_scheme == b->key_scheme && a->key_mixed == b->key_mixed &&
           a->key_centered == b->key_centered && a->key_rotated == b->key_rotated &&
           a->value_bits == b->value_bits && a->value_group == b->value_group &&
           a->value_rotated == b->value_rotated && a->key_short == b->key_short &&
           a->value_short == b->value_short;
}

static char *copy_clean(const char *s)
{
    char *t = kv_strdup(s ? s : "");
    if (t) kv_text_sanitise(t);
    return t;
}

kvant_status kv_plan_alloc(struct kvant_plan **out, const struct kv_plan_dims *dims, struct kvant_error *err)
{
    *out = NULL;
    if (dims->n_layer < 1 || dims->n_layer > KV_PLAN_LAYERS_MAX)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1, "a plan for %d layers: 1 to %d", dims->n_layer,
                KV_PLAN_LAYERS_MAX);
    if (dims->n_head_kv < 1 || dims->n_head_kv > KV_PLAN_HEADS_MAX)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1, "a plan for %d KV heads: 1 to %d", dims->n_head_kv,
                KV_PLAN_HEADS_MAX);
    if (dims->head_dim < 8 || dims->head_dim > KV_HEAD_DIM_MAX || dims->head_dim % 8)
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1, "a plan for heads of %d channels: multiples of 8 up to %d",
                dims->head_dim, KV_HEAD_DIM_MAX);

    struct kvant_plan *p = kv_alloc(1, sizeof *p);
    if (!p) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a plan");
    p->n_layer = dims->n_layer;
    p->n_head_kv = dims->n_head_kv;
    p->head_dim = dims->head_dim;
    p->sinks = KV_PLAN_SINKS_DEFAULT;
    p->tail = KV_PLAN_TAIL_DEFAULT;
    p->measured = (struct kv_plan_measured){ NAN, NAN, NAN, NAN, NAN, NAN, NAN, "", "" };
    p->model_name = copy_clean(dims->name);
    p->architecture = copy_clean(dims->architecture);
    p->fingerprint = dims->fingerprint ? copy_clean(dims->fingerprint) : NULL;
    p->recipe = kv_alloc(n_recipes(p), sizeof *p->recipe);
    if (!p->model_name || !p->architecture || (dims->fingerprint && !p->fingerprint) || !p->recipe) {
        kvant_plan_close(p);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a plan of %d layers", dims->n_layer);
    }
    *out = p;
    return KVANT_OK;
}

void kvant_plan_close(struct kvant_plan *plan)
{
    if (!plan) return;
    kv_free(plan->model_name);
    kv_free(plan->architecture);
    kv_free(plan->fingerprint);
    kv_free(plan->name);
    kv_free(plan->recipe);
    kv_free(plan->center);
    kv_free(plan->channels);
    kv_free(plan);
}

kvant_status kv_plan_uniform(struct kvant_plan **out, const struct kv_plan_dims *dims,
                             const struct kv_recipe *recipe, int sinks, int tail, struct kvant_error *err)
{
    KV_TRY(kv_plan_alloc(out, dims, err));
    struct kvant_plan *p = *out;
    p->sinks = sinks;
    p->tail = tail;
    for (size_t i = 0; i < n_recipes(p); i++) p->recipe[i] = *recipe;
    kv_plan_settle(p);
    kvant_status status = kv_plan_check(p, err);
    if (status == KVANT_OK) status = kv_plan_set_name(p, NULL, err);
    if (status != KVANT_OK) {
        kvant_plan_close(p);
        *out = NULL;
    }
    return status;
}

kvant_status kv_plan_clone(struct kvant_plan **out, const struct kvant_plan *plan, struct kvant_error *err)
{
    struct kv_plan_dims dims = { plan->model_name, plan->architecture, plan->fingerprint,
                                 plan->n_layer,    plan->n_head_kv,    plan->head_dim };
    KV_TRY(kv_plan_alloc(out, &dims, err));
    struct kvant_plan *p = *out;
    size_t n = n_recipes(p), n_center = n * (size_t)p->head_dim;
    p->sinks = plan->sinks;
    p->tail = plan->tail;
    p->granule = plan->granule;
    p->measured = plan->measured;
    p->has_verdict = plan->has_verdict;
    p->verdict = plan->verdict;
    memcpy(p->recipe, plan->recipe, n * sizeof *p->recipe);
    bool ok = true;
    if (plan->name) ok = (p->name = kv_strdup(plan->name)) != NULL;
    if (ok && plan->center && (ok = (p->center = kv_alloc(n_center, sizeof *p->center)) != NULL))
        memcpy(p->center, plan->center, n_center * sizeof *p->center);
    if (ok && plan->channels && (ok = (p->channels = kv_alloc(n, sizeof *p->channels)) != NULL))
        memcpy(p->channels, plan->channels, n * sizeof *p->channels);
    if (ok) return KVANT_OK;
    kvant_plan_close(p);
    *out = NULL;
    KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a copy of a plan of %d layers", plan->n_layer);
}

void kv_plan_settle(struct kvant_plan *plan)
{
    bool c64 = false, c32 = false, quantized = false;
    for (size_t i = 0; i < n_recipes(plan); i++) {
        const struct kv_recipe *r = &plan->recipe[i];
        c64 |= r->key_scheme == KV_KEY_C64;
        c32 |= r->key_scheme == KV_KEY_C32;
        quantized |= r->key_bits != 16 || r->value_bits != 16;
    }
    plan->granule = c64 ? 64 : c32 ? 32 : quantized ? 1 : 64;
}

/* ----------------------------------------------------------------------------------------------- check -- */

static bool plain_bits(int bits)
{
    return bits == 2 || bits == 3 || bits == 4 || bits == 8 || bits == 16;
}

/* NULL if the recipe is one that the grammar can say, else what is wrong. */
static const char *recipe_problem(const struct kv_recipe *r, int head_dim)
{
    if (r->key_scheme != KV_KEY_TOKEN && r->key_scheme != KV_KEY_C32 && r->key_scheme != KV_KEY_C64)
        return "unknown key scheme";
    if (r->key_mixed) {
        if (r->key_bits != 0 || r->key_quarters < 4 || r->key_quarters > 32)
            return "mixed keys need an average of 1 to 8 bits";
        if (r->key_scheme == KV_KEY_TOKEN) return "mixed keys (x) need c32 or c64";
        if (r->key_rotated) return "mixed keys (x) cannot be rotated (h)";
    } else {
        if (!plain_bits(r->key_bits) || r->key_quarters != 0) return "key bits must be 2, 3, 4, 8 or 16";
        if (r->key_bits == 16 &&
            (r->key_scheme != KV_KEY_TOKEN || r->key_centered || r->key_rotated || r->key_short))
            return "16-bit keys take no letters";
    }
    if (!plain_bits(r->value_bits)) return "value bits must be 2, 3, 4, 8 or 16";
    if (r->value_group != 0 && r->value_group != 32) return "value groups are 32 channels or the whole head";
    if (r->value_bits == 16 && (r->value_group || r->value_rotated || r->value_short))
        return "16-bit values take no letters";
    if (r->value_group == 32 && head_dim % 32) return "g32 needs a head size that is a multiple of 32";
    return NULL;
}

static kvant_status check_tables(const struct kvant_plan *plan, int layer, int head, struct kvant_error *err)
{
    size_t i = (size_t)layer * (size_t)plan->n_head_kv + (size_t)head;
    const struct kv_recipe *r = &plan->recipe[i];
    for (int c = 0; plan->center && c < plan->head_dim; c++)
        if ((plan->center[i * (size_t)plan->head_dim + (size_t)c] & 0x7c00u) == 0x7c00u)
            KV_FAIL(err, KVANT_ERR_FORMAT, -1, "layer %d, KV head %d: the centre of channel %d is not finite",
                    layer, head, c);
    if (!plan->channels) return KVANT_OK;

    const struct kv_channels *ch = &plan->channels[i];
    if (kv_channels_empty(ch)) {
        if (r->key_mixed)
            KV_FAIL(err, KVANT_ERR_FORMAT, -1,
                    "layer %d, KV head %d: mixed keys (x), but the channels table has no classes for it; "
                    "remove the table to calibrate again",
                    layer, head);
        return KVANT_OK;
    }
    const char *problem = kv_channels_problem(ch, plan->head_dim);
    if (problem)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "layer %d, KV head %d: channels: %s", layer, head, problem);
    if (!r->key_mixed) return KVANT_OK;
    int bits = 0;
    for (int k = 0; k < KV_N_CLASSES; k++) bits += ch->count[k] * kv_class_bits[k];
    if (4 * bits > r->key_quarters * plan->head_dim)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1,
                "layer %d, KV head %d: the channel classes average %.4g bits, the recipe says %.4g; "
                "remove the table to calibrate again",
                layer, head, (double)bits / plan->head_dim, r->key_quarters / 4.0);
    return KVANT_OK;
}

kvant_status kv_plan_check(const struct kvant_plan *plan, struct kvant_error *err)
{
    if (plan->sinks < 0 || plan->sinks > KV_PLAN_SINKS_MAX)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "sinks %d: 0 to %d", plan->sinks, KV_PLAN_SINKS_MAX);
    if (plan->tail < 0 || plan->tail > KV_PLAN_TAIL_MAX)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "tail %d: 0 to %d", plan->tail, KV_PLAN_TAIL_MAX);
    for (int layer = 0; layer < plan->n_layer; layer++) {
        for (int head = 0; head < plan->n_head_kv; head++) {
            const char *problem = recipe_problem(kv_plan_recipe_at(plan, layer, head), plan->head_dim);
            if (problem)
                KV_FAIL(err, KVANT_ERR_FORMAT, -1, "layer %d, KV head %d (head size %d): %s", layer, head,
                        plan->head_dim, problem);
            KV_TRY(check_tables(plan, layer, head, err));
        }
    }
    return KVANT_OK;
}

kvant_status kv_plan_check_covered(const struct kvant_plan *plan, const bool *covered,
                                   struct kv_text_place place, struct kvant_error *err)
{
    for (int first = 0; first < plan->n_layer; first++) {
        if (covered[first]) continue;
        int last = first;
        while (last + 1 < plan->n_layer && !covered[last + 1]) last++;
        return kv_text_refuse(err, place, "layers %d to %d have no recipe; the model has layers 0 to %d",
                              first, last, plan->n_layer - 1);
    }
    return KVANT_OK;
}

/* ------------------------------------------------------------------------------------ public, no model -- */

bool kv_plan_centers_keys(const struct kvant_plan *plan)
{
    for (size_t i = 0; i < n_recipes(plan); i++)
        if (plan->recipe[i].key_centered) return true;
    return false;
}

bool kvant_plan_needs_calibration(const struct kvant_plan *plan)
{
    for (size_t i = 0; i < n_recipes(plan); i++) {
        if (plan->recipe[i].key_centered && !plan->center) return true;
        if (plan->recipe[i].key_mixed && (!plan->channels || kv_channels_empty(&plan->channels[i])))
            return true;
    }
    return false;
}

kvant_status kvant_plan_recipe(const struct kvant_plan *plan, int layer, int head_kv, char *text, size_t cap,
                               struct kvant_error *err)
{
    if (layer < 0 || layer >= plan->n_layer || head_kv < 0 || head_kv >= plan->n_head_kv)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "layer %d, KV head %d: the plan has %d layers of %d heads",
                layer, head_kv, plan->n_layer, plan->n_head_kv);
    char buffer[32];
    kv_recipe_print(kv_plan_recipe_at(plan, layer, head_kv), buffer, sizeof buffer);
    size_t n = strlen(buffer) + 1;
    if (n > cap) KV_FAIL(err, KVANT_ERR_SPACE, -1, "a recipe takes %zu bytes, the buffer has %zu", n, cap);
    memcpy(text, buffer, n);
    return KVANT_OK;
}

const char *kvant_plan_name(const struct kvant_plan *plan)
{
    return plan->name ? plan->name : "";
}

/* --------------------------------------------------------------------------------------------- verdict -- */

void kvant_plan_set_verdict(struct kvant_plan *plan, const struct kvant_verdict *verdict)
{
    plan->has_verdict = verdict != NULL;
    if (!verdict) return;
    struct kvant_verdict *v = &plan->verdict;
    *v = (struct kvant_verdict){ .collapsed = verdict->collapsed,
                                 .same_top_p = isfinite(verdict->same_top_p) ? verdict->same_top_p : NAN,
                                 .agreement = isfinite(verdict->agreement) ? verdict->agreement : NAN };
    memcpy(v->reason, verdict->reason, sizeof v->reason - 1);
    kv_text_sanitise(v->reason);
}

bool kvant_plan_get_verdict(const struct kvant_plan *plan, struct kvant_verdict *out)
{
    if (plan->has_verdict) *out = plan->verdict;
    return plan->has_verdict;
}

/* "same likeliest token at 62.6 %, trajectories agree for 0.9 %" from the numbers that are stated. */
static void numbers_text(const struct kvant_verdict *v, char text[128])
{
    bool top = isfinite(v->same_top_p), agreement = isfinite(v->agreement);
    char a[48] = "", b[48] = "";
    if (top) snprintf(a, sizeof a, "same likeliest token at %.4g %%", v->same_top_p);
    if (agreement) snprintf(b, sizeof b, "trajectories agree for %.3g %%", v->agreement);
    snprintf(text, 128, "%s%s%s", a, top && agreement ? ", " : "", b);
    if (!top && !agreement) snprintf(text, 128, "no numbers are stated");
}

bool kvant_plan_is_refused(const struct kvant_plan *plan, char *text, size_t cap)
{
    bool refused = plan->has_verdict && plan->verdict.collapsed;
    char numbers[128] = "";
    if (refused) numbers_text(&plan->verdict, numbers);
    const char *why = refused && plan->verdict.reason[0] ? plan->verdict.reason : numbers;
    if (cap > 0) snprintf(text, cap, "%s", why);
    return refused;
}
