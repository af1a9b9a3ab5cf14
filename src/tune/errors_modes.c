#include "tune/errors_modes.h"

#include <stdio.h>
#include <string.h>

#define KIVI_RESIDUAL 32 /* R of KIVI mode, also its group */

const int kv_error_bits[KV_ERROR_BITS] = { 2, 3, 4, 8 };

static const struct {
    const char *name, *format; /* of the specification, with the bits of keys and values */
    const char *format_odd;    /* where the head's size is no multiple of 32; NULL: the same */
} modes[KVANT_SENSITIVITY_MODES] = {
    [KVANT_SENSITIVITY_PER_TOKEN] = { "per-token", "k%dt v%d;sinks=0;tail=0", NULL },
    [KVANT_SENSITIVITY_KIVI] = { "kivi", "k%dc32 v%dg32;sinks=0;tail=32", "k%dc32 v%d;sinks=0;tail=32" },
    [KVANT_SENSITIVITY_KVANT] = { "kvant", "k%dc64m v%dh", NULL },
};

const char *kvant_sensitivity_mode_name(kvant_sensitivity_mode mode)
{
    return (unsigned)mode < KVANT_SENSITIVITY_MODES ? modes[mode].name : "unknown";
}

static kvant_status open_bits(struct kv_error_mode *m, int i, const struct kvant_model *model,
                              const struct kv_calibration *calibration, struct kvant_error *err)
{
    const char *format = modes[m->mode].format;
    if (modes[m->mode].format_odd && m->head_dim % 32) format = modes[m->mode].format_odd;
    char spec[64];
    snprintf(spec, sizeof spec, format, kv_error_bits[i], kv_error_bits[i]);
    KV_TRY(kvant_plan_open(&m->plan[i], model, spec, err));
    if (kvant_plan_needs_calibration(m->plan[i])) KV_TRY(kv_calibration_apply(calibration, m->plan[i], err));
    KV_TRY(kv_layout_open(&m->layout[i], m->plan[i], err));
    KV_TRY(kv_centers_open(&m->centers[i], m->plan[i], &model->rope, err));
    m->codec[i] = (struct kv_codec){ &model->kernels, m->plan[i], &m->layout[i], &m->centers[i],
                                     &model->rope };
    return KVANT_OK;
}

kvant_status kv_error_mode_open(struct kv_error_mode *out, const struct kvant_model *model,
                                kvant_sensitivity_mode mode, const struct kv_calibration *calibration,
                                struct kvant_error *err)
{
    *out = (struct kv_error_mode){ .mode = mode, .head_dim = model->hp.head_dim };
    kvant_status status = KVANT_OK;
    for (int i = 0; status == KVANT_OK && i < KV_ERROR_BITS; i++)
        status = open_bits(out, i, model, calibration, err);
    if (status != KVANT_OK) kv_error_mode_close(out);
    return status;
}

void kv_error_mode_close(struct kv_error_mode *m)
{
    for (int i = 0; i < KV_ERROR_BITS; i++) {
        kv_centers_close(&m->centers[i]);
        kv_layout_close(&m->layout[i]);
        kvant_plan_close(m->plan[i]);
    }
    *m = (struct kv_error_mode){ 0 };
}

int kv_error_mode_sinks(const struct kv_error_mode *m)
{
    return m->plan[0]->sinks;
}

void kv_error_mode_sealed(const struct kv_error_mode *m, int64_t n_tokens, int64_t *key_end,
                          int64_t *value_end)
{
    if (m->mode == KVANT_SENSITIVITY_KIVI) {
        *key_end = n_tokens - n_tokens % KIVI_RESIDUAL;
        *value_end = n_tokens > KIVI_RESIDUAL ? n_tokens - KIVI_RESIDUAL : 0;
    } else {
        *key_end = *value_end = m->plan[0]->sinks + kv_sealed_tokens(m->plan[0], n_tokens);
    }
}

void kv_error_mode_ends(const struct kv_error_mode *m, int64_t position, int64_t *key_end, int64_t *value_end)
{
    int64_t n_seen = m->mode == KVANT_SENSITIVITY_KIVI ? position : position + 1;
    kv_error_mode_sealed(m, n_seen, key_end, value_end);
}

size_t kv_error_mode_page_bytes(const struct kv_error_mode *m)
{
    return m->layout[KV_ERROR_BITS - 1].page_bytes; /* of 8 bits */
}

kvant_status kv_error_mode_round(const struct kv_error_mode *m, int i, int layer, int head_kv,
                                 int64_t n_tokens, const float *k, const float *v, float *k_hat, float *v_hat,
                                 uint8_t *page, float *tile, void *scratch, struct kvant_error *err)
{
    const struct kv_codec *codec = &m->codec[i];
    const struct kv_recipe *recipe = kv_plan_recipe_at(m->plan[i], layer, head_kv);
    const struct kv_page alone = { page, 0, 1 };
    int head_dim = m->head_dim;
    int64_t key_end, value_end;
    kv_error_mode_sealed(m, n_tokens, &key_end, &value_end);
    memcpy(k_hat, k, (size_t)n_tokens * (size_t)head_dim * sizeof *k);
    memcpy(v_hat, v, (size_t)n_tokens * (size_t)head_dim * sizeof *v);
    /* Keys end at whole groups and values not beyond them, so what keys fill is encoded. */
    for (int64_t first = kv_error_mode_sinks(m); first < key_end; first += KV_PAGE_TOKENS) {
        int n = key_end - first < KV_PAGE_TOKENS ? (int)(key_end - first) : KV_PAGE_TOKENS;
        int64_t at = first * head_dim;
        KV_TRY(kv_codec_encode(codec, alone, layer, head_kv, 0, n, first, k + at, v + at, scratch, err));
        kv_codec_expand_keys(codec, alone, layer, head_kv, n, first, tile);
        for (int t = 0; t < n; t++)
            for (int c = 0; c < head_dim; c++) k_hat[at + t * head_dim + c] = tile[c * KV_PAGE_TOKENS + t];
        kv_codec_expand_values(codec, alone, layer, head_kv, n, tile);
        if (recipe->value_rotated) codec->kernels->hadamard(tile, n, head_dim);
        int64_t n_values = value_end - first < n ? value_end - first : n;
        if (n_values > 0) memcpy(v_hat + at, tile, (size_t)n_values * (size_t)head_dim * sizeof *tile);
    }
    return KVANT_OK;
}
