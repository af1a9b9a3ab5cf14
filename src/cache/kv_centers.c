/*
 * Constants of centred keys. With μ the mean of a head's keys before RoPE, the term that is missing at the
 * score of position t is, over the pairs p of channels that turn by θ_p,
 *
 *     q·R_t μ = Σ_p  C_p cos θ_p t + S_p sin θ_p t        C = q_a μ_a + q_b μ_b,  S = q_b μ_a − q_a μ_b
 *
 * a function of position alone. Inside a page, from its middle, slow pairs (|θ τ| <= 1 for τ = ±32) are
 * polynomials: with u = τ / 32, a = 32 θ and Bessel's J
 *
 *     cos θτ = J_0(a) + 2 Σ_k (−1)^k J_2k(a) T_2k(u)        sin θτ = 2 Σ_k (−1)^k J_2k+1(a) T_2k+1(u)
 *
 * (Jacobi and Anger). Eight terms leave 2 J_8(1) = 1.9e-7 of C, at the size of float rounding, and all slow
 * pairs share the eight polynomials: their sum costs 8 multiplications a token, not one a channel.
 *
 * Pairs whose mean is 0 cost nothing: calibration leaves two thirds of them out where keys are per channel.
 * Each head has a list of the others; a few slow ones stand in it too, since eight polynomials cost more than
 * LISTED_SLOW of them.
 */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/memory.h"
#include "cache/kv_codec.h"

#define HALF_PAGE (KV_PAGE_TOKENS / 2)
#define LISTED_SLOW 6

/* One block; base NULL measures. Sizes for as many pairs as a head can have. */
static size_t carve_centers(struct kv_centers *c, void *base, const struct kvant_plan *plan)
{
    struct kv_carve carve = { base, 0, false };
    size_t n_pairs = kv_plan_centers_keys(plan) ? (size_t)plan->head_dim / 2 : 0;
    c->turn_cos = kv_carve(&carve, n_pairs * KV_PAGE_TOKENS, sizeof *c->turn_cos);
    c->turn_sin = kv_carve(&carve, n_pairs * KV_PAGE_TOKENS, sizeof *c->turn_sin);
    c->middle_cos = kv_carve(&carve, n_pairs, sizeof *c->middle_cos);
    c->middle_sin = kv_carve(&carve, n_pairs, sizeof *c->middle_sin);
    c->turning = kv_carve(&carve, n_pairs * 2 * HALF_PAGE, sizeof *c->turning);
    c->slow = kv_carve(&carve, n_pairs * KV_CENTER_TERMS, sizeof *c->slow);
    c->polynomials = kv_carve(&carve, n_pairs ? KV_CENTER_TERMS * HALF_PAGE : 0, sizeof *c->polynomials);
    size_t n_heads = n_pairs ? (size_t)plan->n_layer * (size_t)plan->n_head_kv : 0;
    c->head = kv_carve(&carve, n_heads, sizeof *c->head);
    return n_pairs ? carve.used : 0;
}

size_t kv_centers_bytes(const struct kvant_plan *plan)
{
    struct kv_centers c;
    return carve_centers(&c, NULL, plan);
}

static void fill_turns(struct kv_centers *c, const struct kv_rope *rope)
{
    int n_pairs = rope->n_rot / 2;
    for (int i = 0; i < KV_PAGE_TOKENS; i++)
        kv_rope_angles(rope, i, c->turn_cos + i * n_pairs, c->turn_sin + i * n_pairs);
    for (int p = 0; p < n_pairs; p++) {
        double middle = (HALF_PAGE - 0.5) * (double)rope->inv_freq[p];
        c->middle_cos[p] = (float)cos(middle);
        c->middle_sin[p] = (float)sin(middle);
    }
}

static void fill_basis(struct kv_centers *c, const struct kv_rope *rope)
{
    c->n_pairs = rope->n_rot / 2;
    c->n_fast = 0; /* pairs come in order of falling speed; one out of order would only widen the fast ones */
    for (int p = 0; p < c->n_pairs; p++)
        if (HALF_PAGE * fabs((double)rope->inv_freq[p]) > 1.0) c->n_fast = p + 1;
    for (int p = 0; p < c->n_pairs; p++)
        for (int i = 0; i < HALF_PAGE; i++) {
            double angle = (i + 0.5) * (double)rope->inv_freq[p];
            c->turning[(2 * p) * HALF_PAGE + i] = (float)cos(angle);
            c->turning[(2 * p + 1) * HALF_PAGE + i] = (float)sin(angle);
        }
    for (int m = 0; m < KV_CENTER_TERMS; m++)
        for (int p = 0; p < c->n_pairs; p++) {
            double a = HALF_PAGE * (double)rope->inv_freq[p], sign = m / 2 % 2 ? -1.0 : 1.0;
            c->slow[m * c->n_pairs + p] = p < c->n_fast ? 0.0f : (float)((m ? 2.0 : 1.0) * sign * jn(m, a));
        }
    for (int i = 0; i < HALF_PAGE; i++) {
        double u = (i + 0.5) / HALF_PAGE;
        for (int m = 0; m < KV_CENTER_TERMS; m++) c->polynomials[m * HALF_PAGE + i] = (float)cos(m * acos(u));
    }
}

static void fill_list(struct kv_center_list *out, const uint16_t *mean, const struct kv_centers *c,
                      const struct kv_rope *rope)
{
    int near = kv_rope_near(rope), far = kv_rope_far(rope), n_slow = 0;
    uint8_t slow[KV_HEAD_DIM_MAX / 2];
    *out = (struct kv_center_list){ 0 };
    for (int p = 0; p < c->n_pairs; p++) {
        if (!((mean[near * p] | mean[near * p + far]) & 0x7fff)) continue; /* ±0 */
        if (p < c->n_fast) out->listed[out->n_listed++] = (uint8_t)p;
        else slow[n_slow++] = (uint8_t)p;
    }
    out->polynomials = n_slow > LISTED_SLOW;
    for (int i = 0; !out->polynomials && i < n_slow; i++) out->listed[out->n_listed++] = slow[i];
    for (int i = rope->n_rot; i < rope->head_dim; i++) out->still |= (mean[i] & 0x7fff) != 0;
}

kvant_status kv_centers_open(struct kv_centers *out, const struct kvant_plan *plan,
                             const struct kv_rope *rope, struct kvant_error *err)
{
    *out = (struct kv_centers){ 0 };
    size_t bytes = kv_centers_bytes(plan);
    if (bytes == 0) return KVANT_OK;
    if (!plan->center)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "plan: centred keys without their means; calibrate the plan first");
    if (rope->head_dim != plan->head_dim || rope->n_rot < 0 || rope->n_rot > rope->head_dim ||
        rope->n_rot % 2) {
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "rope: %d of %d channels turn, but the plan's head size is %d",
                rope->n_rot, rope->head_dim, plan->head_dim);
    }
    void *block = kv_alloc(1, bytes);
    if (!block) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "key centres: no memory for %zu bytes", bytes);
    carve_centers(out, block, plan);
    fill_turns(out, rope);
    fill_basis(out, rope);
    for (int i = 0; i < plan->n_layer * plan->n_head_kv; i++)
        fill_list(&out->head[i], plan->center + (size_t)i * (size_t)plan->head_dim, out, rope);
    return KVANT_OK;
}

void kv_centers_close(struct kv_centers *c)
{
    kv_free(c->turn_cos); /* the first array of the block */
    *c = (struct kv_centers){ 0 };
}

void kv_centers_turned(const struct kv_centers *c, const struct kv_rope *rope, const float *mean,
                       const float *cos_t0, const float *sin_t0, int i, float *out)
{
    int n_pairs = rope->n_rot / 2;
    memcpy(out, mean, (size_t)rope->head_dim * sizeof *out);
    kv_rope_apply(rope, c->turn_cos + i * n_pairs, c->turn_sin + i * n_pairs, out, 1);
    kv_rope_apply(rope, cos_t0, sin_t0, out, 1);
}

float kv_centers_project(const struct kv_centers *c, const struct kv_rope *rope, const float *mean,
                         const float *q, float *cos_part, float *sin_part)
{
    int half = rope->n_rot / 2, near = kv_rope_near(rope), far = kv_rope_far(rope);
    float still = 0.0f;
    for (int p = 0; p < half; p++) {
        int a = near * p, b = a + far;
        float x = q[a] * mean[a] + q[b] * mean[b], y = q[b] * mean[a] - q[a] * mean[b];
        cos_part[p] = x * c->middle_cos[p] + y * c->middle_sin[p];
        sin_part[p] = y * c->middle_cos[p] - x * c->middle_sin[p];
    }
    for (int i = rope->n_rot; i < rope->head_dim; i++) still += q[i] * mean[i];
    return still;
}
