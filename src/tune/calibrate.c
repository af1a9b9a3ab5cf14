/*
 * Calibration: key means before RoPE and static channel classes.
 *
 *   center     μ = E[k°] over tokens behind the sinks                     per (layer, KV head, channel)
 *              Keys per channel have a minimum in each block, which takes whatever stands still inside it.
 *              Only pairs that turn fast enough, about a mean that is large enough, gain from centring, and
 *              those that lie so far from 0 that a short grid would have to be wide: the others get 0, and
 *              cost attention nothing (cache/kv_centers.c).
 *   channels   w = √(E_p[q² · range²] · E[q²] E[range²]): what an error of one quantization step costs. q:
 *              after RoPE, all query heads of the group. range: of the stored key, R_t (k° − μ) if the recipe
 *              centres, within a block of the recipe's group. Then Σ w · err(bits) is minimised under the
 *              recipe's average (design, section 1).
 *              E_p is the mean over queries s and blocks, weighted by Σ p(1 − p) over the block's tokens, p =
 *              what s gives to t: to second order errors e_t of scores change attention by a divergence of
 *              ½ Σ p e² − ½ (Σ p e)², which is ½ Σ p(1 − p) e² for independent ones. A query that looks at
 *              the sinks or the exact tail alone then says nothing. But an error that is not small lifts a
 *              token that had nothing, which only the plain means see: the geometric mean of both. KLD of
 *              keys in k2c64xms alone on the model's own text / GSM8K / WikiText-2 (Qwen2.5-Coder-0.5B):
 *              plain .0039 / .0071 / .0094, E_p .0061 / .0052 / .0076, geometric mean .0036 / .0053 / .0077;
 *              on GSM8K / WikiText-2 (SmolLM2) .0136 / .0128, .0121 / .0090, .0124 / .0089.
 */
#include "tune/calibrate.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/memory.h"
#include "run/session.h"

#define CHUNK_TOKENS 512      /* tokens of one sequence                                                     */
#define TEXT_TOKENS 512       /* of the model's own text when none is given                                 */
#define TOKENS_MAX 8192       /* more add nothing to means and mean squares, but memory                     */
#define UNIT 8                /* channels of a head that share their bits                                   */
#define BLOCK 64              /* tokens over which ranges are taken (32 for c32)                            */
#define GRANULE 32            /* tokens for which attention is summed up                                    */
#define EXACT 64              /* tokens before a query that are taken to be exact: 32 to 95 are (tail 32)   */
#define QUERY_STRIDE 2        /* every second query: neighbours look at the same                            */
/* What the squared error of a head's keys in 2.5 bits may grow by for pairs that are not centred. KLD of
 * k2c64xm v2h and k2.5c64xms v2hs on GSM8K / WikiText-2, and how many of 32 pairs are left:
 *              SmolLM2                            Qwen2.5-Coder-0.5B
 *     0        .0200/.0170  .0133/.0123  32       .0107/.0146  .0082/.0113  32
 *     .005     .0194/.0165  .0132/.0121  12.1     .0119/.0145  .0081/.0113  11.7
 *     .01      .0184/.0151  .0131/.0116  11.0     .0115/.0142  .0080/.0121  10.6
 *     .02      .0185/.0167  .0140/.0116   9.7     .0128/.0143  .0086/.0117   9.3
 *     all      .0289/.0227  .0151/.0134   0       .0135/.0205  .0094/.0173   0 */
#define SPARE 0.01
#define SPARE_QUARTERS 10
/* A short grid is at least about half as wide as its middle lies from 0 (cache/kv_short.c), so a channel that
 * stands still far out, as keys with large biases have them, costs as much as a wide one. Without knowing it
 * plans tuned for Qwen2.5-Coder-0.5B had KLDs of .0035/.0060 and .0017/.0029 at 3.0 and 3.5 page bits, with
 * every pair centred .0024/.0044 and .0015/.0024, with this .0023/.0039 and .0012/.0018; 11.7 pairs are
 * centred instead of 10.8. */
#define SHORT_NARROWEST 0.5

/* ------------------------------------------------------------------------------------------ allocation -- */

static void sort_by_importance(int *channel, const double *importance, int n)
{
    for (int i = 0; i < n; i++) { /* insertion: n <= 256, and equal ones stay in order */
        int k = i;
        while (k > 0 && importance[channel[k - 1]] < importance[i]) {
            channel[k] = channel[k - 1];
            k--;
        }
        channel[k] = i;
    }
}

void kv_channels_allocate(struct kv_channels *out, const double *importance, int head_dim, int quarters)
{
    enum { UNITS_MAX = KV_HEAD_DIM_MAX / UNIT, BITS_MAX = 8 * UNITS_MAX };
    int channel[KV_HEAD_DIM_MAX] = { 0 }, n_units = head_dim / UNIT, budget = quarters * n_units / 4;
    /* After some units, for each sum of their bits: the least error, and the class of the last unit in it. */
    double cost[BITS_MAX + 1];
    uint8_t choice[UNITS_MAX][BITS_MAX + 1];
    sort_by_importance(channel, importance, head_dim);

    for (int b = 0; b <= budget; b++) cost[b] = b ? INFINITY : 0.0;
    for (int u = 0; u < n_units; u++) {
        double weight = 0.0;
        for (int i = 0; i < UNIT; i++) weight += importance[channel[u * UNIT + i]];
        for (int b = budget; b >= 0; b--) { /* downwards: cost[b - bits] is still that of the units before */
            double best = INFINITY;
            int best_class = KV_N_CLASSES - 1;
            for (int k = 0; k < KV_N_CLASSES; k++) {
                if (kv_class_bits[k] > b) continue;
                double c = cost[b - kv_class_bits[k]] + weight * kv_class_error[k];
                if (c < best) best = c, best_class = k;
            }
            cost[b] = best;
            choice[u][b] = (uint8_t)best_class;
        }
    }
    /* The best sum; the largest of equal ones: the average is reached where errors don't matter. */
    int left = 0;
    for (int b = 1; b <= budget; b++)
        if (cost[b] <= cost[left]) left = b;

    int class_of_unit[UNITS_MAX] = { 0 }, n = 0;
    for (int u = n_units - 1; u >= 0; u--) {
        class_of_unit[u] = choice[u][left];
        left -= kv_class_bits[class_of_unit[u]];
    }
    memset(out, 0, sizeof *out);
    for (int k = 0; k < KV_N_CLASSES; k++) {
        for (int u = 0; u < n_units; u++) {
            if (class_of_unit[u] != k) continue;
            for (int i = 0; i < UNIT; i++) out->order[n++] = (uint8_t)channel[u * UNIT + i];
            out->count[k] = (uint16_t)(out->count[k] + UNIT);
        }
    }
}

double kv_channel_error(int bits)
{
    for (int k = 0; k < KV_N_CLASSES; k++)
        if (kv_class_bits[k] == bits) return kv_class_error[k];
    return 0.0;
}

/* --------------------------------------------------------------------------------------------- capture -- */

struct capture {
    struct kv_calibration *c;
    int64_t first; /* of the sequence's tokens in `key` */
};

static size_t head_at(const struct kv_calibration *c, int layer, int head_kv)
{
    return ((size_t)layer * (size_t)c->n_head_kv + (size_t)head_kv) * (size_t)c->head_dim;
}

static const float *key_at(const struct kv_calibration *c, int layer, int64_t token, int head_kv)
{
    size_t row = (size_t)layer * (size_t)c->n_tokens + (size_t)token;
    return c->key + (row * (size_t)c->n_head_kv + (size_t)head_kv) * (size_t)c->head_dim;
}

static int64_t granules_of_sequence(const struct kv_calibration *c)
{
    return (c->chunk_tokens - c->sinks) / GRANULE;
}

/* Σ w·q² by channel, then Σ w, of the granule that begins at token `first + sinks + i · GRANULE`. */
static double *attended_at(const struct kv_calibration *c, int layer, int head_kv, int64_t first, int64_t i)
{
    int64_t per_sequence = granules_of_sequence(c), n = c->n_tokens / c->chunk_tokens * per_sequence;
    int64_t row = ((int64_t)layer * c->n_head_kv + head_kv) * n + first / c->chunk_tokens * per_sequence + i;
    return c->attended + row * (c->head_dim + 1);
}

static float dot(const float *a, const float *b, int n)
{
    float lane[8] = { 0 }, sum = 0.0f;
    int i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++) lane[k] += a[i + k] * b[i + k];
    for (; i < n; i++) sum += a[i] * b[i];
    for (int k = 0; k < 8; k++) sum += lane[k];
    return sum;
}

/* Adds what one query head looks at in whole granules that are quantized by then. */
static void attend(const struct capture *capture, int layer, int head_kv, int64_t position,
                   const float *q /* (head_dim) */)
{
    struct kv_calibration *c = capture->c;
    float scale = 1.0f / sqrtf((float)c->head_dim), most = -INFINITY;
    double total = 0.0;
    for (int64_t t = 0; t <= position; t++) {
        c->weight[t] = scale * dot(q, key_at(c, layer, capture->first + t, head_kv), c->head_dim);
        most = fmaxf(most, c->weight[t]);
    }
    for (int64_t t = 0; t <= position; t++) {
        c->weight[t] = expf(c->weight[t] - most);
        total += (double)c->weight[t];
    }
    for (int64_t i = 0; c->sinks + (i + 1) * GRANULE + EXACT <= position; i++) {
        double w = 0.0, *out = attended_at(c, layer, head_kv, capture->first, i);
        for (int64_t t = c->sinks + i * GRANULE; t < c->sinks + (i + 1) * GRANULE; t++) {
            double p = (double)c->weight[t] / total;
            w += p * (1.0 - p);
        }
        for (int k = 0; k < c->head_dim; k++) out[k] += w * (double)q[k] * (double)q[k];
        out[c->head_dim] += w;
    }
}

static void capture_token(void *user, int layer, int seq, int64_t position, const float *q,
                          const float *k_raw, const float *k, const float *v)
{
    (void)seq, (void)v;
    const struct capture *capture = user;
    struct kv_calibration *c = capture->c;
    size_t n = (size_t)c->n_head_kv * (size_t)c->head_dim;
    memcpy(c->key + ((size_t)layer * (size_t)c->n_tokens + (size_t)(capture->first + position)) * n, k,
           n * sizeof *k);
    if (position < c->sinks) return;

    double *mean = c->mean + (size_t)layer * n, *square = c->query_square + (size_t)layer * n;
    for (size_t i = 0; i < n; i++) mean[i] += (double)k_raw[i];
    int group = c->model->hp.n_head / c->n_head_kv;
    for (int head = 0; head < c->model->hp.n_head; head++) {
        const float *row = q + head * c->head_dim;
        for (int i = 0; i < c->head_dim; i++)
            square[(head / group) * c->head_dim + i] += (double)row[i] * (double)row[i];
        if (position % QUERY_STRIDE == 0) attend(capture, layer, head / group, position, row);
    }
}

static kvant_status run_text(struct kv_calibration *c, const kvant_token *tokens,
                             struct kvant_session *session, const struct kvant_plan *f16,
                             struct kvant_batch_entry *entries, kvant_progress_fn progress, void *user,
                             struct kvant_error *err)
{
    struct capture state = { c, 0 };
    struct kv_capture capture = { capture_token, &state };
    kv_session_set_capture(session, &capture);
    for (; state.first < c->n_tokens; state.first += c->chunk_tokens) {
        int seq;
        KV_TRY(kvant_sequence_open(session, f16, c->chunk_tokens, &seq, err));
        for (int64_t i = 0; i < c->chunk_tokens; i++)
            entries[i] = (struct kvant_batch_entry){ seq, tokens[state.first + i], false };
        kvant_status status = kvant_session_step(session, entries, (size_t)c->chunk_tokens, err);
        kvant_sequence_close(session, seq);
        KV_TRY(status);
        if (progress && !progress(user, "calibrating", state.first + c->chunk_tokens, c->n_tokens))
            KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "stopped while calibrating");
    }
    return KVANT_OK;
}

size_t kv_calibration_tokens_min(int sinks)
{
    return (size_t)sinks + BLOCK;
}

static kvant_status allocate(struct kv_calibration *c, struct kvant_error *err)
{
    size_t n_heads = (size_t)c->n_layer * (size_t)c->n_head_kv;
    c->key = kv_alloc(n_heads * (size_t)c->n_tokens, (size_t)c->head_dim * sizeof *c->key);
    c->mean = kv_alloc(n_heads, (size_t)c->head_dim * sizeof *c->mean);
    c->turning = kv_alloc(n_heads, (size_t)c->head_dim * sizeof *c->turning);
    c->query_square = kv_alloc(n_heads, (size_t)c->head_dim * sizeof *c->query_square);
    c->angles = kv_alloc((size_t)c->chunk_tokens, (size_t)c->model->rope.n_rot * sizeof *c->angles);
    c->weight = kv_alloc((size_t)c->chunk_tokens, sizeof *c->weight);
    c->attended = kv_alloc(n_heads * (size_t)(c->n_tokens / c->chunk_tokens * granules_of_sequence(c)),
                           ((size_t)c->head_dim + 1) * sizeof *c->attended);
    if (!c->key || !c->mean || !c->turning || !c->query_square || !c->angles || !c->weight || !c->attended)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the keys of %lld calibration tokens",
                (long long)c->n_tokens);
    return KVANT_OK;
}

/* ------------------------------------------------------------------------------------------ statistics -- */

static uint16_t center_f16(double mean)
{
    return kv_f32_to_f16((float)fmax(-65504.0, fmin(65504.0, mean)));
}

/* cos and sin of a position's angles, each (n_rot / 2). */
static float *angles_at(const struct kv_calibration *c, int64_t position)
{
    return c->angles + position * c->model->rope.n_rot;
}

/* Range² of the stored key's channels over `group` tokens from t0 of the sequence that begins at `first`. */
static void square_range(const struct kv_calibration *c, int layer, int head,
                         const float *center /* (head_dim) or NULL */, int64_t first, int64_t t0, int group,
                         bool is_short, double *out /* (head_dim) */)
{
    const struct kv_rope *rope = &c->model->rope;
    float turned[KV_HEAD_DIM_MAX] = { 0 }, low[KV_HEAD_DIM_MAX], high[KV_HEAD_DIM_MAX];
    for (int64_t t = t0; t < t0 + group; t++) {
        const float *key = key_at(c, layer, first + t, head), *cos_t = angles_at(c, t);
        if (center) {
            memcpy(turned, center, (size_t)c->head_dim * sizeof *center);
            kv_rope_apply(rope, cos_t, cos_t + rope->n_rot / 2, turned, 1);
        }
        for (int i = 0; i < c->head_dim; i++) {
            float x = key[i] - turned[i];
            low[i] = t == t0 || x < low[i] ? x : low[i];
            high[i] = t == t0 || x > high[i] ? x : high[i];
        }
    }
    for (int i = 0; i < c->head_dim; i++) {
        double range = (double)(high[i] - low[i]);
        if (is_short) range = fmax(range, SHORT_NARROWEST * fabs(0.5 * (double)(high[i] + low[i])));
        out[i] = range * range;
    }
}

/* Over whole blocks of `group` tokens behind the sinks. In sequences that are too short for a query that
 * looks beyond the tail there are the plain means alone. */
void kv_calibration_importance(const struct kv_calibration *c, int layer, int head_kv, const float *center,
                               int group, bool is_short, double *out)
{
    double square[KV_HEAD_DIM_MAX], even[KV_HEAD_DIM_MAX] = { 0 }, total = 0.0;
    int64_t n_blocks = 0;
    memset(out, 0, (size_t)c->head_dim * sizeof *out);
    for (int64_t first = 0; first < c->n_tokens; first += c->chunk_tokens)
        for (int64_t t0 = c->sinks; t0 + group <= c->chunk_tokens; t0 += group, n_blocks++) {
            square_range(c, layer, head_kv, center, first, t0, group, is_short, square);
            for (int i = 0; i < c->head_dim; i++) even[i] += square[i];
            for (int64_t g = (t0 - c->sinks) / GRANULE; g < (t0 - c->sinks + group) / GRANULE; g++) {
                const double *attended = attended_at(c, layer, head_kv, first, g);
                for (int i = 0; i < c->head_dim; i++) out[i] += square[i] * attended[i];
                total += attended[c->head_dim];
            }
        }
    for (int i = 0; i < c->head_dim && n_blocks; i++) {
        double plain = even[i] / (double)n_blocks * c->query_square[head_at(c, layer, head_kv) + (size_t)i];
        out[i] = total > 0.0 ? sqrt(plain * out[i] / total) : plain;
    }
}

void kv_calibration_center(const struct kv_calibration *c, int layer, int head_kv, bool per_channel,
                           float *out)
{
    size_t at = head_at(c, layer, head_kv);
    for (int i = 0; i < c->head_dim; i++)
        out[i] = per_channel ? c->turning[at + (size_t)i]
                             : kv_f16_to_f32(center_f16(c->mean[at + (size_t)i]));
}

/* Squared error of each channel, in units of its squared range, when they share SPARE_QUARTERS. */
static void unit_errors(const double *importance, int head_dim, double *out)
{
    struct kv_channels classes;
    kv_channels_allocate(&classes, importance, head_dim, SPARE_QUARTERS);
    for (int k = 0, n = 0; k < KV_N_CLASSES; k++)
        for (int i = 0; i < classes.count[k]; i++) out[classes.order[n++]] = kv_class_error[k];
}

/* The mean of those pairs of channels whose turning costs most, SPARE without the others. */
static void find_turning(struct kv_calibration *c, int layer, int head)
{
    const struct kv_rope *rope = &c->model->rope;
    int n_pairs = rope->n_rot / 2, near = kv_rope_near(rope), far = kv_rope_far(rope);
    float *kept = c->turning + head_at(c, layer, head);
    double centered[KV_HEAD_DIM_MAX], plain[KV_HEAD_DIM_MAX], gain[KV_HEAD_DIM_MAX / 2], spare = 0.0;
    int pair[KV_HEAD_DIM_MAX / 2];
    kv_calibration_center(c, layer, head, false, kept);
    kv_calibration_importance(c, layer, head, kept, BLOCK, true, centered);
    kv_calibration_importance(c, layer, head, NULL, BLOCK, true, plain);
    double error[KV_HEAD_DIM_MAX];
    unit_errors(centered, c->head_dim, error);
    for (int i = 0; i < c->head_dim; i++) spare += SPARE * centered[i] * error[i];
    for (int p = 0; p < n_pairs; p++) {
        int a = near * p, b = a + far;
        gain[p] = (plain[a] - centered[a]) * error[a] + (plain[b] - centered[b]) * error[b];
    }
    sort_by_importance(pair, gain, n_pairs);
    for (int i = n_pairs - 1; i >= 0 && (spare -= fmax(gain[pair[i]], 0.0)) >= 0.0; i--)
        kept[near * pair[i]] = kept[near * pair[i] + far] = 0.0f;
    for (int i = rope->n_rot; i < c->head_dim; i++) kept[i] = 0.0f; /* stands still */
}

/* Sums to means, means to centres. */
static kvant_status finish(struct kv_calibration *c, struct kvant_error *err)
{
    size_t n = (size_t)c->n_layer * (size_t)c->n_head_kv * (size_t)c->head_dim;
    double n_counted = (double)((c->n_tokens / c->chunk_tokens) * (c->chunk_tokens - c->sinks));
    int group = c->model->hp.n_head / c->n_head_kv;
    for (size_t i = 0; i < n; i++) {
        c->mean[i] /= n_counted;
        c->query_square[i] /= n_counted * group;
        if (!isfinite(c->mean[i]) || !isfinite(c->query_square[i]))
            KV_FAIL(err, KVANT_ERR_NUMERIC, -1,
                    "layer %zu: keys or queries of the calibration text are not finite",
                    i / ((size_t)c->n_head_kv * (size_t)c->head_dim));
    }
    const struct kv_rope *rope = &c->model->rope;
    for (int64_t t = 0; t < c->chunk_tokens; t++)
        kv_rope_angles(rope, t, angles_at(c, t), angles_at(c, t) + rope->n_rot / 2);
    for (int layer = 0; layer < c->n_layer; layer++)
        for (int head = 0; head < c->n_head_kv; head++) find_turning(c, layer, head);
    return KVANT_OK;
}

kvant_status kv_calibration_open(struct kv_calibration *c, const struct kvant_model *model,
                                 const kvant_token *tokens, size_t n_tokens, int sinks,
                                 kvant_progress_fn progress, void *user, struct kvant_error *err)
{
    *c = (struct kv_calibration){ .model = model,
                                  .n_layer = model->hp.n_layer,
                                  .n_head_kv = model->hp.n_head_kv,
                                  .head_dim = model->hp.head_dim,
                                  .sinks = sinks };
    size_t n_min = kv_calibration_tokens_min(sinks), n_used = n_tokens < TOKENS_MAX ? n_tokens : TOKENS_MAX;
    if (n_tokens < n_min)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%zu tokens of calibration text; at least %zu are needed",
                n_tokens, n_min);
    c->chunk_tokens = (int64_t)(n_used < CHUNK_TOKENS ? n_used : CHUNK_TOKENS);
    c->n_tokens = (int64_t)n_used / c->chunk_tokens * c->chunk_tokens; /* whole sequences only */

    struct kvant_plan *f16 = NULL;
    struct kvant_session *session = NULL;
    struct kvant_batch_entry *entries = kv_alloc((size_t)c->chunk_tokens, sizeof *entries);
    struct kvant_session_options opt = KVANT_SESSION_OPTIONS_INIT;
    opt.n_sequences = 1;
    kvant_status status = entries ? allocate(c, err)
                                  : kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for calibration");
    if (status == KVANT_OK) status = kvant_plan_open(&f16, model, "f16", err);
    if (status == KVANT_OK) status = kvant_session_open(&session, model, &opt, err);
    if (status == KVANT_OK) status = run_text(c, tokens, session, f16, entries, progress, user, err);
    if (status == KVANT_OK) status = finish(c, err);
    kvant_session_close(session);
    kvant_plan_close(f16);
    kv_free(entries);
    if (status != KVANT_OK) kv_calibration_close(c);
    return status;
}

void kv_calibration_close(struct kv_calibration *c)
{
    kv_free(c->key);
    kv_free(c->mean);
    kv_free(c->turning);
    kv_free(c->query_square);
    kv_free(c->angles);
    kv_free(c->weight);
    kv_free(c->attended);
    c->key = c->turning = c->angles = c->weight = NULL;
    c->mean = c->query_square = c->attended = NULL;
}

/* ----------------------------------------------------------------------------------------------- apply -- */

static void classes_of_head(const struct kv_calibration *c, const struct kvant_plan *plan, int layer,
                            int head, struct kv_channels *out)
{
    const struct kv_recipe *r = kv_plan_recipe_at(plan, layer, head);
    size_t at = ((size_t)layer * (size_t)c->n_head_kv + (size_t)head) * (size_t)c->head_dim;
    double importance[KV_HEAD_DIM_MAX];
    float center[KV_HEAD_DIM_MAX]; /* the plan's own, which need not be of this calibration */
    for (int i = 0; r->key_centered && i < c->head_dim; i++)
        center[i] = kv_f16_to_f32(plan->center[at + (size_t)i]);
    kv_calibration_importance(c, layer, head, r->key_centered ? center : NULL,
                              r->key_scheme == KV_KEY_C32 ? 32 : BLOCK, r->key_short, importance);
    kv_channels_allocate(out, importance, c->head_dim, r->key_quarters);
}

kvant_status kv_calibration_apply(const struct kv_calibration *c, struct kvant_plan *plan,
                                  struct kvant_error *err)
{
    size_t n_heads = (size_t)c->n_layer * (size_t)c->n_head_kv, n = n_heads * (size_t)c->head_dim;
    bool centered = false, mixed = false;
    for (size_t i = 0; i < n_heads; i++)
        centered |= plan->recipe[i].key_centered, mixed |= plan->recipe[i].key_mixed;

    if (centered && !plan->center) {
        plan->center = kv_alloc(n, sizeof *plan->center);
        if (!plan->center) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a plan's centres");
        for (size_t i = 0; i < n; i++) {
            const struct kv_recipe *r = &plan->recipe[i / (size_t)c->head_dim];
            plan->center[i] = r->key_scheme == KV_KEY_TOKEN ? center_f16(c->mean[i])
                                                            : kv_f32_to_f16(c->turning[i]);
        }
    }
    if (mixed && !plan->channels) {
        plan->channels = kv_alloc(n_heads, sizeof *plan->channels);
        if (!plan->channels) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a plan's channel classes");
        for (int layer = 0; layer < c->n_layer; layer++)
            for (int head = 0; head < c->n_head_kv; head++) {
                size_t i = (size_t)layer * (size_t)c->n_head_kv + (size_t)head;
                if (plan->recipe[i].key_mixed) classes_of_head(c, plan, layer, head, &plan->channels[i]);
            }
    }
    return kv_plan_check(plan, err);
}

kvant_status kvant_plan_calibrate(struct kvant_plan *plan, const struct kvant_model *model,
                                  const kvant_token *tokens, size_t n_tokens, kvant_progress_fn progress,
                                  void *user, struct kvant_error *err)
{
    if (plan->n_layer != model->hp.n_layer || plan->n_head_kv != model->hp.n_head_kv ||
        plan->head_dim != model->hp.head_dim)
        KV_FAIL(err, KVANT_ERR_MISMATCH, -1,
                "the plan %s is for %d layers of %d KV heads of %d, the model has %d of %d of %d",
                kvant_plan_name(plan), plan->n_layer, plan->n_head_kv, plan->head_dim, model->hp.n_layer,
                model->hp.n_head_kv, model->hp.head_dim);
    if (!kvant_plan_needs_calibration(plan)) return KVANT_OK;

    kvant_token *own = NULL;
    if (!tokens) {
        own = kv_alloc(TEXT_TOKENS, sizeof *own);
        if (!own) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for calibration text");
        kvant_status status = kvant_tune_text(model, TEXT_TOKENS, own, TEXT_TOKENS, &n_tokens, progress, user,
                                              err);
        if (status != KVANT_OK) {
            kv_free(own);
            return status;
        }
    }
    struct kv_calibration c;
    kvant_status status = kv_calibration_open(&c, model, own ? own : tokens, n_tokens, plan->sinks, progress,
                                              user, err);
    if (status == KVANT_OK) {
        status = kv_calibration_apply(&c, plan, err);
        kv_calibration_close(&c);
    }
    kv_free(own);
    return status;
}
