/*
 * The plan in memory: how each (layer, KV head) of a cache is stored. docs/format-plan.md specifies the text
 * forms.
 */
#ifndef KV_CACHE_PLAN_H
#define KV_CACHE_PLAN_H

#include "base/error.h"
#include "kernels/kernels.h"

enum kv_key_scheme {
    KV_KEY_TOKEN = 0, /* t: one scale and minimum per token row          */
    KV_KEY_C32 = 32,  /* c32: per channel over 32 tokens                 */
    KV_KEY_C64 = 64   /* c64: per channel over 64 tokens                 */
};

/* Channel classes of mixed keys, in the order in which a page holds them. */
#define KV_N_CLASSES KV_CLASSES_MAX
extern const int kv_class_bits[KV_N_CLASSES]; /* 8 4 3 2 0 */
/* Squared error of a channel in units of its variance, in the same order: 8 and 4 bits between minimum and
 * maximum of 64 tokens, 3 and 2 bits on fitted grids (kernels/fit_calls.h: 1/ρ² − 1 of a Gaussian; the grid
 * between minimum and maximum had .213 at 2 bits), 0 bits the mean. */
extern const double kv_class_error[KV_N_CLASSES];

struct kv_recipe {
    uint8_t key_bits;      /* 2 3 4 8 16; 0 when key_mixed                                    */
    uint8_t key_quarters;  /* key_mixed: average code bits × 4, 4 .. 32; otherwise 0          */
    uint8_t key_scheme;    /* enum kv_key_scheme; TOKEN for 16 bits                           */
    bool key_mixed;        /* x; only with c32, c64                                           */
    bool key_centered;     /* m                                                               */
    bool key_rotated;      /* h; not with x                                                   */
    bool key_short;        /* s: scale and minimum in 8 bits each (cache/kv_short.h); not with 16 bits */
    uint8_t value_bits;    /* 2 3 4 8 16                                                      */
    uint8_t value_group;   /* 32, or 0 = the whole head                                       */
    bool value_rotated;    /* h                                                               */
    bool value_short;      /* s                                                               */
};

/* Static channel classes of one (layer, KV head) with mixed keys. */
struct kv_channels {
    uint8_t order[KV_HEAD_DIM_MAX];  /* stored channel -> channel of the head, a permutation of head_dim  */
    uint16_t count[KV_N_CLASSES];    /* channels in each class, multiples of 8, sum head_dim              */
};

/* What a plan must fit: taken from the model, so that this module does not depend on models. */
struct kv_plan_dims {
    const char *name, *architecture, *fingerprint;
    int n_layer, n_head_kv, head_dim;
};

/* Numbers that the tuner measured; NaN = not stated. */
struct kv_plan_measured {
    double page_bits, true_bits, context, kld_mean, kld_p999, same_top_p, ppl_ratio;
    char text[64], tool[64];
};

struct kvant_plan {
    int n_layer, n_head_kv, head_dim;
    char *model_name, *architecture, *fingerprint; /* of the model that it was opened for */
    char *name;                                    /* short, for tables                   */
    int sinks;                                     /* 0 .. 64                             */
    int tail;                                      /* R, 0 .. 4096                        */
    int granule;                                   /* tokens sealed together: 64 if any recipe has c64, else
                                                    * 32 if any has c32, else 1 if any is quantized (per
                                                    * token: each row stands alone), else 64 (f16) */
    struct kv_recipe *recipe;                      /* (n_layer, n_head_kv)         */
    uint16_t *center;                              /* f16 (n_layer, n_head_kv, head_dim), before RoPE; NULL
                                                    * until loaded or calibrated; needed when a recipe
                                                    * centres */
    struct kv_channels *channels;                  /* (n_layer, n_head_kv); NULL until loaded or calibrated;
                                                    * needed when a recipe mixes */
    struct kv_plan_measured measured;
    bool has_verdict;                              /* of the gate */
    struct kvant_verdict verdict;                  /* numbers finite or NaN, reason fit for YAML */
};

/* As kvant_plan_open, without a model. spec: grammar, file name, NULL or "default". */
kvant_status kv_plan_open(struct kvant_plan **out, const struct kv_plan_dims *dims, const char *spec,
                          struct kvant_error *err);
/* All recipes the same. */
kvant_status kv_plan_uniform(struct kvant_plan **out, const struct kv_plan_dims *dims,
                             const struct kv_recipe *recipe, int sinks, int tail, struct kvant_error *err);
kvant_status kv_plan_clone(struct kvant_plan **out, const struct kvant_plan *plan, struct kvant_error *err);
/* Sets granule from the recipes; call after changing recipes by hand. */
void kv_plan_settle(struct kvant_plan *plan);
/* Sets plan->name: the grammar if one recipe holds for all, else base (may be NULL), else a range list. */
kvant_status kv_plan_set_name(struct kvant_plan *plan, const char *base, struct kvant_error *err);
/* One line that is equal for equal plans only: settings, recipes, and a hash of the tables that they use.
 * Owned by the caller, kv_free. */
kvant_status kv_plan_key(const struct kvant_plan *plan, char **out, struct kvant_error *err);
/* Everything that parse and load promise: ranges, head size against groups, tables present and well-formed or
 * absent. */
kvant_status kv_plan_check(const struct kvant_plan *plan, struct kvant_error *err);

/* One recipe: "k4c64 v3h". parse: position is the column (1-based) in `text`. n_bytes: exactly one recipe. */
kvant_status kv_recipe_parse(struct kv_recipe *out, const char *text, size_t n_bytes,
                             struct kvant_error *err);
/* cap of at least 32 is always enough. */
void kv_recipe_print(const struct kv_recipe *r, char *text, size_t cap);
bool kv_recipe_equal(const struct kv_recipe *a, const struct kv_recipe *b);
/* Average code bits of the keys (with x: key_quarters / 4). */
double kv_recipe_key_bits(const struct kv_recipe *r);

/* The faithful settings of KVTuner's two modes. KIVI groups keys per channel over 32 tokens and values per 32
 * channels and keeps the last 32 tokens; per token takes whole heads and keeps nothing; neither has sinks.
 * AUTO, for reading presets: KIVI if the file's name holds that word, else per token. */
enum kv_preset_mode { KV_PRESET_AUTO = 0, KV_PRESET_PERTOKEN, KV_PRESET_KIVI };
#define KV_PRESET_KIVI_TAIL 32
/* mode: not AUTO; bits: 2 3 4 8 16. */
struct kv_recipe kv_preset_recipe(enum kv_preset_mode mode, int key_bits, int value_bits);

/* Any recipe with m? */
bool kv_plan_centers_keys(const struct kvant_plan *plan);

static inline const struct kv_recipe *kv_plan_recipe_at(const struct kvant_plan *p, int layer, int head_kv)
{
    return &p->recipe[(size_t)layer * (size_t)p->n_head_kv + (size_t)head_kv];
}

#endif
