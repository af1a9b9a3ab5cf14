/*
 * Sums over the codes of a page: every level of this CPU against code after code in double, and against each
 * other bit by bit. Inputs end at a page that must not be touched.
 */
#include "support/kernel_check.h"

#include "base/half.h"
#include "kernels/code_layout.h"

#include <math.h>
#include <string.h>

#define N_OF(a) (int)(sizeof(a) / sizeof((a)[0]))
#define ROUNDS 40

static const int head_dims[] = { 8, 24, 64, 80, 96, 128, 256 };
static const int all_bits[] = { 2, 3, 4, 8 };

static struct kv_kernels tables[3];
static int n_levels;
static struct check_random rnd;

static int setup(void **state)
{
    (void)state;
    n_levels = check_levels(tables);
    rnd = check_random_open();
    return 0;
}

static int below(int n) { return (int)check_random_below(&rnd, n); }

static double half(const uint16_t *x, int i) { return (double)kv_f16_to_f32(x[i]); }

/* Any range of tokens, whole pages and empty ones among them. */
static void any_range(int *first, int *last)
{
    *first = below(3) ? below(65) : 0;
    *last = below(3) ? *first + below(65 - *first) : 64;
}

/* A sum of at most 64 products in float, within the rounding of each term. */
static void check_sum(float got, double expected, double size, int level, int channel)
{
    CHECK(fabs((double)got - expected) <= 1e-5 * size + 1e-30, &rnd, "channel %d: %.9g, not %.9g, level %d",
          channel, (double)got, expected, level);
}

static void check_keys(const struct kv_sum_keys *call, const float *const *weight)
{
    float first[KV_HEAD_DIM_MAX], got[KV_HEAD_DIM_MAX];
    for (int level = 0; level < n_levels; level++) {
        struct kv_sum_keys own = *call;
        own.out = got;
        own.weight = weight;
        memset(got, 0x55, sizeof got);
        tables[level].sum_keys(&own);
        if (level == 0) memcpy(first, got, sizeof first);
        CHECK(memcmp(first, got, (size_t)call->n_channels * sizeof *got) == 0, &rnd,
              "bits of level %d", level);
    }
    const uint8_t *codes = call->codes;
    for (int k = 0, channel = 0; k < call->n_classes;
         codes += call->classes[k].n_channels * 8 * call->classes[k].bits, k++)
        for (int c = 0; c < call->classes[k].n_channels; c++, channel++) {
            double sum = 0, size = 0;
            int bits = call->classes[k].bits;
            for (int j = call->first; j < call->last; j++) {
                int at = call->group ? j / call->group * call->n_channels + channel : j;
                double code = bits ? (double)kv_code_get(codes, bits, kv_key_place(bits, c, j)) : 0;
                double w = weight ? (double)weight[channel][j] : 1;
                sum += w * (code * half(call->scale, at) + half(call->min, at));
                size += fabs(w) * (code * half(call->scale, at) + fabs(half(call->min, at)));
            }
            check_sum(first[channel], sum, size, 0, channel);
        }
}

/* One class, or several of falling bits as mixed keys have them. */
static int make_classes(int head_dim, struct kv_key_class out[KV_CLASSES_MAX])
{
    static const int bits[KV_CLASSES_MAX] = { 8, 4, 3, 2, 0 };
    if (below(2)) {
        out[0] = (struct kv_key_class){ all_bits[below(4)], head_dim, 0 };
        return 1;
    }
    int n = 0, left = head_dim / 8;
    for (int i = 0; i < KV_CLASSES_MAX && left; i++) {
        int units = i == KV_CLASSES_MAX - 1 ? left : below(left + 1);
        if (units) out[n++] = (struct kv_key_class){ bits[i], 8 * units, 0 };
        left -= units;
    }
    return n;
}

static void keys_are_summed(void **state)
{
    (void)state;
    static const int groups[] = { 0, 32, 64 };
    for (int d = 0; d < N_OF(head_dims); d++)
        for (int round = 0; round < ROUNDS; round++) {
            struct kv_key_class classes[KV_CLASSES_MAX];
            struct kv_sum_keys call = { .n_classes = make_classes(head_dims[d], classes), .classes = classes,
                                        .n_channels = head_dims[d], .group = groups[below(3)] };
            if (call.n_classes > 1 || classes[0].bits == 0) call.group = groups[1 + below(2)];
            size_t n_bytes = 0, n = call.group ? (size_t)(64 / call.group * head_dims[d]) : 64;
            for (int k = 0; k < call.n_classes; k++)
                n_bytes += (size_t)(classes[k].n_channels * 8 * classes[k].bits);
            struct check_buffer codes = check_bytes(&rnd, n_bytes ? n_bytes : 1),
                                scale = check_halves(&rnd, n, 0, 0.5f), min = check_halves(&rnd, n, -2, 2);
            struct check_buffer w = check_buffer_open(4 * 64 * sizeof(float), false);
            const float *weight[KV_HEAD_DIM_MAX];
            for (int i = 0; i < 4 * 64; i++) ((float *)w.p)[i] = check_random_float(&rnd, -1, 1);
            for (int c = 0; c < head_dims[d]; c++) weight[c] = (float *)w.p + 64 * below(4);
            call.codes = codes.p;
            call.scale = scale.p;
            call.min = min.p;
            any_range(&call.first, &call.last);
            check_keys(&call, NULL);
            check_keys(&call, weight);
            check_buffer_close(&codes);
            check_buffer_close(&scale);
            check_buffer_close(&min);
            check_buffer_close(&w);
        }
}

static void check_values(const struct kv_sum_values *call)
{
    float first[KV_HEAD_DIM_MAX], got[KV_HEAD_DIM_MAX];
    for (int level = 0; level < n_levels; level++) {
        struct kv_sum_values own = *call;
        own.out = got;
        memset(got, 0x55, sizeof got);
        tables[level].sum_values(&own);
        if (level == 0) memcpy(first, got, sizeof first);
        CHECK(memcmp(first, got, (size_t)call->head_dim * sizeof *got) == 0, &rnd, "bits of level %d", level);
    }
    for (int c = 0; c < call->head_dim; c++) {
        double sum = 0, size = 0;
        for (int j = call->first; j < call->last; j++) {
            int at = c / (call->head_dim / call->n_groups) * 64 + j;
            double code = (double)kv_code_get(call->codes, call->bits,
                                              kv_value_place(call->bits, call->head_dim, c, j));
            sum += code * half(call->scale, at) + half(call->min, at);
            size += code * half(call->scale, at) + fabs(half(call->min, at));
        }
        check_sum(first[c], sum, size, 0, c);
    }
}

static void values_are_summed(void **state)
{
    (void)state;
    for (int d = 0; d < N_OF(head_dims); d++)
        for (int b = 0; b < N_OF(all_bits); b++)
            for (int round = 0; round < ROUNDS; round++) {
                int n_groups = head_dims[d] % 32 == 0 && below(2) ? head_dims[d] / 32 : 1;
                struct check_buffer codes = check_bytes(&rnd, (size_t)(head_dims[d] * 8 * all_bits[b]));
                struct check_buffer scale = check_halves(&rnd, (size_t)n_groups * 64, 0, 0.5f),
                                    min = check_halves(&rnd, (size_t)n_groups * 64, -2, 2);
                struct kv_sum_values call = { .codes = codes.p, .scale = scale.p, .min = min.p,
                                              .bits = all_bits[b], .head_dim = head_dims[d],
                                              .n_groups = n_groups };
                any_range(&call.first, &call.last);
                check_values(&call);
                check_buffer_close(&codes);
                check_buffer_close(&scale);
                check_buffer_close(&min);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(keys_are_summed),
                                        cmocka_unit_test(values_are_summed) };
    return cmocka_run_group_tests(tests, setup, NULL);
}
