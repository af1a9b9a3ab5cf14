/*
 * The modes in which sensitivities are measured: what is quantized, how, and what a query then reads.
 *
 *     tokens of a query at position p:   | sinks, exact | quantized, [sinks, end) | exact, to p |
 *
 *     mode        keys      values    sinks  end of keys        end of values
 *     per-token   k<b>t     v<b>          0  p + 1              p + 1
 *     kivi        k<b>c32   v<b>g32       0  p − p mod 32       max(0, p − 32)
 *     kvant       k<b>c64m  v<b>h         4  4 + kv_sealed_tokens(p + 1), tail 32, for both
 *
 * kivi: the closed forms of a residual of 32 for the p tokens before the query: a block is quantized after
 * the attention of the step that completes it, and values leave the window one by one. The engine's own cache
 * under the same recipe differs in that it seals keys and values together, 32 at a time, with the query's own
 * token counted, and keeps 32 to 63 tokens exact.
 * Codes, scales and minima are made and read by the cache's own codec (float-minimum grid, scales and minima
 * in float16), so rounding is that of the real cache.
 */
#ifndef KV_TUNE_ERRORS_MODES_H
#define KV_TUNE_ERRORS_MODES_H

#include "cache/kv_codec.h"
#include "tune/calibrate.h"

#define KV_ERROR_BITS KVANT_SENSITIVITY_BITS
extern const int kv_error_bits[KV_ERROR_BITS]; /* 2 3 4 8 */

struct kv_error_mode {
    kvant_sensitivity_mode mode;
    int head_dim;
    struct kvant_plan *plan[KV_ERROR_BITS]; /* keys and values of these bits in all layers */
    struct kv_layout layout[KV_ERROR_BITS];
    struct kv_centers centers[KV_ERROR_BITS];
    struct kv_codec codec[KV_ERROR_BITS];
};

/* calibration: of KVANT, which centres its keys; others don't look at it. The model is borrowed. */
kvant_status kv_error_mode_open(struct kv_error_mode *out, const struct kvant_model *model,
                                kvant_sensitivity_mode mode, const struct kv_calibration *calibration,
                                struct kvant_error *err);
void kv_error_mode_close(struct kv_error_mode *m);

int kv_error_mode_sinks(const struct kv_error_mode *m);
/* What the query at `position` reads quantized: tokens [sinks, key_end) and [sinks, value_end). An end is at
 * least the sinks, also where there are fewer tokens. */
void kv_error_mode_ends(const struct kv_error_mode *m, int64_t position, int64_t *key_end,
                        int64_t *value_end);
/* What is quantized once n_tokens have been appended, likewise. No query's ends lie beyond. */
void kv_error_mode_sealed(const struct kv_error_mode *m, int64_t n_tokens, int64_t *key_end,
                          int64_t *value_end);

/* Largest page of the mode's plans. */
size_t kv_error_mode_page_bytes(const struct kv_error_mode *m);

/* One (layer, KV head) of a sequence with bits [i]. k, v: (n_tokens, head_dim) as a 16-bit cache holds them.
 * k_hat, v_hat: the same after quantization, whole where the mode quantizes and equal elsewhere, in the plain
 * domain. page: zeroed or used before; tile: (64, head_dim); scratch: kv_codec_scratch_bytes. NUMERIC. */
kvant_status kv_error_mode_round(const struct kv_error_mode *m, int i, int layer, int head_kv,
                                 int64_t n_tokens, const float *k, const float *v, float *k_hat, float *v_hat,
                                 uint8_t *page, float *tile, void *scratch, struct kvant_error *err);

#endif
