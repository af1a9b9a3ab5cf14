#include "tune/choices.h"

#include <math.h>
#include <stdio.h>

/* Values in groups of 32 channels (g32) are left out: half a bit more for two thirds of the KLD, where the
 * same bits spent on more heads with 3 instead of 2 bits leave .59. */
/* No fewer bits than 1.75: too far from what is measured. With 1 and 1.5 among the choices a plan of
 * Qwen2.5-Coder-0.5B had whole layers at 1 bit and, at 2.81 page bits, a KLD of .0059 where uniform 2.75 has
 * .0045. */
static const struct kv_choice_list keys_mixed = {
    9,
    { { "k1.75c64xms", 0, false },
      { "k2c64xms", 0, true },
      { "k2.25c64xms", 0, false },
      { "k2.5c64xms", 0, false },
      { "k2.75c64xms", 0, false },
      { "k3c64xms", 0, true },
      { "k3.5c64xms", 0, false },
      { "k4c64xms", 0, false },
      { "k8tm", 0, false } },
};
static const struct kv_choice_list keys_unmixed = {
    8,
    { { "k2c64ms", 0, true },
      { "k2c64mhs", 1, true },
      { "k2c32ms", 0, false },
      { "k3c64ms", 0, true },
      { "k3c64mhs", 1, false },
      { "k4c64ms", 0, false },
      { "k4c64mhs", 1, false },
      { "k8tm", 0, false } },
};
static const struct kv_choice_list values = {
    4,
    { { "v2hs", 0, true }, { "v3hs", 0, true }, { "v4hs", 0, false }, { "v8", 0, false } },
};

const struct kv_choice_list *kv_choices(bool mixed, enum kv_side side)
{
    return side == KV_SIDE_VALUE ? &values : mixed ? &keys_mixed : &keys_unmixed;
}

kvant_status kv_choice_recipe(bool mixed, int key, int value, struct kv_recipe *out, struct kvant_error *err)
{
    char text[48];
    int n = snprintf(text, sizeof text, "%s %s",
                     key < 0 ? "k16" : kv_choices(mixed, KV_SIDE_KEY)->choice[key].text,
                     value < 0 ? "v16" : values.choice[value].text);
    return kv_recipe_parse(out, text, (size_t)n, err);
}

kvant_status kv_choice_cost(bool mixed, enum kv_side side, int i, int head_dim, int64_t *bits,
                            struct kvant_error *err)
{
    struct kv_plan_dims dims = { "", "", "", 1, 1, head_dim };
    struct kv_recipe recipe;
    struct kvant_plan *plan;
    struct kvant_plan_memory memory;
    KV_TRY(kv_choice_recipe(mixed, side == KV_SIDE_KEY ? i : -1, side == KV_SIDE_VALUE ? i : -1, &recipe,
                            err));
    KV_TRY(kv_plan_uniform(&plan, &dims, &recipe, 0, 0, err));
    kvant_plan_get_memory(plan, 64, &memory); /* the one place that knows sizes */
    kvant_plan_close(plan);
    *bits = llround((memory.page_bits * 2.0 - 16.0) * head_dim);
    return KVANT_OK;
}

static double key_error(const struct kv_recipe *r, const double *importance, int head_dim)
{
    struct kv_channels classes;
    double sum = 0.0;
    if (!r->key_mixed) {
        for (int i = 0; i < head_dim; i++) sum += importance[i] * kv_channel_error(r->key_bits);
        return sum;
    }
    kv_channels_allocate(&classes, importance, head_dim, r->key_quarters);
    for (int k = 0, at = 0; k < KV_N_CLASSES; k++)
        for (int i = 0; i < classes.count[k]; i++)
            sum += importance[classes.order[at++]] * kv_channel_error(kv_class_bits[k]);
    return sum;
}

void kv_choice_errors(const struct kv_calibration *c, bool mixed, enum kv_side side, int layer, int head,
                      double *out)
{
    const struct kv_choice_list *list = kv_choices(mixed, side);
    double importance[2][KV_HEAD_DIM_MAX]; /* over 64 and over 32 tokens */
    float center[KV_HEAD_DIM_MAX];
    kv_calibration_center(c, layer, head, true, center);
    for (int i = 0; side == KV_SIDE_KEY && i < 2; i++)
        kv_calibration_importance(c, layer, head, center, 64 >> i, true, importance[i]);
    for (int i = 0; i < list->n; i++) {
        struct kv_recipe r;
        kv_choice_recipe(mixed, side == KV_SIDE_KEY ? i : -1, side == KV_SIDE_VALUE ? i : -1, &r, NULL);
        out[i] = side == KV_SIDE_VALUE
                     ? kv_channel_error(r.value_bits)
                     : key_error(&r, importance[r.key_scheme == KV_KEY_C32], c->head_dim);
        out[i] = fmax(out[i], 1e-30);
    }
}
