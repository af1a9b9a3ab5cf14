/*
 * What a plan's tables are made from: statistics of keys and queries on calibration tokens, taken in one
 * forward pass with the 16-bit cache and usable for any number of plans.
 */
#ifndef KV_TUNE_CALIBRATE_H
#define KV_TUNE_CALIBRATE_H

#include "model/model.h"

struct kv_calibration {
    const struct kvant_model *model;
    int n_layer, n_head_kv, head_dim, sinks;
    int64_t chunk_tokens;  /* the text is cut into sequences of so many */
    int64_t n_tokens;      /* of all sequences, sinks included */
    float *key;            /* (n_layer, n_tokens, n_head_kv, head_dim) after RoPE */
    double *mean;          /* (n_layer, n_head_kv, head_dim) of the keys before RoPE, sinks left out */
    float *turning;        /* likewise, in float16 values, 0 where it stands still inside a block or hardly
                            * moves */
    double *query_square;  /* (n_layer, n_head_kv, head_dim) mean square over tokens and the group's query
                            * heads */
    double *attended;      /* (n_layer, n_head_kv, granules of 32 tokens, head_dim + 1): Σ w·q² by channel,
                            * then Σ w, over queries that find the granule quantized; w: calibrate.c */
    float *weight;         /* (chunk_tokens) of one query, while the text runs */
    float *angles;         /* (chunk_tokens, 2, n_rot / 2) cos and sin of each position of a sequence */
};

/* Errors: ARGUMENT when there are too few tokens for one block beyond the sinks. */
kvant_status kv_calibration_open(struct kv_calibration *out, const struct kvant_model *model,
                                 const kvant_token *tokens, size_t n_tokens, int sinks,
                                 kvant_progress_fn progress, void *user, struct kvant_error *err);
void kv_calibration_close(struct kv_calibration *c);

/* The mean as a plan holds it; per_channel: for keys per channel. out: (head_dim). */
void kv_calibration_center(const struct kv_calibration *c, int layer, int head_kv, bool per_channel,
                           float *out);

/* Fills in the tables that the plan's recipes need and that it lacks. */
kvant_status kv_calibration_apply(const struct kv_calibration *c, struct kvant_plan *plan,
                                  struct kvant_error *err);

/* What an error of one quantization step costs, for each key channel of one (layer, KV head): the geometric
 * mean of E[q² · range²], weighted by attention, and E[q²] · E[range²], with ranges over blocks of `group`
 * tokens (32 or 64) of the stored key, R_t (k° − center). center: (head_dim), or NULL: not centred. is_short:
 * a range counts as at least half of its middle's distance from 0. out: (head_dim). */
void kv_calibration_importance(const struct kv_calibration *c, int layer, int head_kv, const float *center,
                               int group, bool is_short, double *out);

/* Least tokens that calibrate. */
size_t kv_calibration_tokens_min(int sinks);

/* Distributes quarters/4 × head_dim bits over units of 8 channels so that Σ importance · err(bits) is least,
 * exactly (dynamic programming), and never more bits. out: order (important channels first within a class)
 * and counts. importance: (head_dim), >= 0. */
void kv_channels_allocate(struct kv_channels *out, const double *importance, int head_dim, int quarters);

/* Squared error of a channel stored in `bits` (0 2 3 4 8), in units of its squared range, relative to 0
 * bits. */
double kv_channel_error(int bits);

#endif
