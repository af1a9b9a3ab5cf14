/*
 * Fitted grids (kernels/fit_calls.h) at every level of this CPU: equal bits, and the two conditions that the
 * header states, in double, within what rounding the scale and the minimum to f16 leaves.
 */
#include "support/kernel_check.h"

#include "base/half.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#define N_MAX KV_FIT_MAX

struct fitted {
    uint8_t codes[KV_FIT_SIDE * N_MAX];
    uint16_t scale[KV_FIT_SIDE], min[KV_FIT_SIDE];
};

static struct check_random rnd;

/* Groups of several kinds, one after the other: two-sided heavy tails, a shifted uniform one, two peaks. */
static float element(int group, float offset)
{
    float u = check_random_float(&rnd, -1, 1), v = check_random_float(&rnd, -1, 1);
    if (group % 3 == 0) return offset + u * u * u * v * 8;
    if (group % 3 == 1) return offset + u;
    return offset + (u > 0 ? 1 : -1) + 0.2f * v;
}

/* by_row: elements of a group lie side by side (values), else groups do (keys). */
static void fit_at(int level, const float *x, int n, int n_groups, int bits, bool by_row, struct fitted *out)
{
    struct kv_kernels table;
    kv_kernels_select(&table, (enum kv_cpu_level)level);
    memset(out, 0xee, sizeof *out);
    const size_t next = by_row ? 1 : KV_FIT_SIDE, side = by_row ? N_MAX : 1;
    table.fit_groups(&(struct kv_fit_groups){ .x = x, .next = next, .side = side, .n = n,
                                              .n_groups = n_groups, .bits = bits, .codes = out->codes,
                                              .codes_next = next, .codes_side = side, .scale = out->scale,
                                              .min = out->min });
}

static void check_conditions(const float *x, const struct fitted *f, int n, int n_groups, int bits,
                             bool by_row)
{
    for (int l = 0; l < n_groups; l++) {
        size_t next = by_row ? 1 : KV_FIT_SIDE, at = by_row ? (size_t)l * N_MAX : (size_t)l;
        double mean = 0, size = 0, offset = 0, shrinking = 0, variance = 0;
        double scale = (double)kv_f16_to_f32(f->scale[l]), min = (double)kv_f16_to_f32(f->min[l]);
        assert_true(scale > 0);
        for (int i = 0; i < n; i++) mean += (double)x[at + (size_t)i * next] / n;
        for (int i = 0; i < n; i++) {
            double own = (double)x[at + (size_t)i * next], code = f->codes[at + (size_t)i * next];
            assert_true(code < (double)(1 << bits));
            double error = code * scale + min - own;
            offset += error / n;
            shrinking += error * (own - mean);
            variance += (own - mean) * (own - mean);
            size = fmax(size, fabs(min) + code * scale);
        }
        if (fabs(offset) > 0x1p-10 * size)
            fail_msg("group %d of %d elements, %d bits: offset %g", l, n, bits, offset);
        /* the scale has 11 bits */
        if (fabs(shrinking) > 0x1p-10 * variance)
            fail_msg("group %d of %d elements, %d bits: shrunk by %g", l, n, bits, shrinking / variance);
    }
}

static void grids_follow_the_distribution(void **state)
{
    (void)state;
    static const int sizes[] = { 32, 64, 80, 256 };
    static float x[KV_FIT_SIDE * N_MAX];
    for (int s = 0; s < 4; s++)
        for (int bits = 2; bits <= 4; bits++)
            for (int by_row = 0; by_row < 2; by_row++)
                for (int n_groups = 1; n_groups <= KV_FIT_SIDE; n_groups += 5) {
                    int n = sizes[s];
                    for (int l = 0; l < KV_FIT_SIDE; l++) /* offsets small enough that f16 keeps the grid */
                        for (int i = 0; i < n; i++)
                            x[by_row ? l * N_MAX + i : i * KV_FIT_SIDE + l] = element(l, (float)(l % 4));
                    struct fitted plain, other;
                    fit_at(KV_CPU_SCALAR, x, n, n_groups, bits, by_row, &plain);
                    check_conditions(x, &plain, n, n_groups, bits, by_row);
                    for (int level = 1; level <= (int)kv_cpu_detect(); level++) {
                        fit_at(level, x, n, n_groups, bits, by_row, &other);
                        if (memcmp(&plain, &other, sizeof plain))
                            fail_msg("level %d differs: %d elements, %d bits, %d groups", level, n, bits,
                                     n_groups);
                    }
                }
}

static void groups_without_a_grid_are_left_alone(void **state)
{
    (void)state;
    static float x[KV_FIT_SIDE * N_MAX];
    struct fitted f;
    for (int level = 0; level <= (int)kv_cpu_detect(); level++) {
        for (int i = 0; i < 64; i++) {
            x[i] = 3.0f;                             /* constant                        */
            x[N_MAX + i] = 4096.0f + (float)(i & 1); /* f16 has steps of 4 there        */
            x[2 * N_MAX + i] = 1e-6f * (float)i;     /* a scale below f16's normal ones */
            x[3 * N_MAX + i] = (float)i;
        }
        fit_at(level, x, 64, 4, 2, true, &f);
        for (int l = 0; l < 3; l++) {
            assert_int_equal(f.scale[l], 0);
            for (int i = 0; i < 64; i++) assert_int_equal(f.codes[l * N_MAX + i], 0xee);
        }
        assert_int_not_equal(f.scale[3], 0);
    }
}

int main(void)
{
    rnd = check_random_open();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grids_follow_the_distribution),
        cmocka_unit_test(groups_without_a_grid_are_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
