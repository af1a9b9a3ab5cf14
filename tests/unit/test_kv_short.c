/*
 * Short grids: the bytes against the formula of cache/kv_short.h in double, every level equal bits; what
 * kv_short_make keeps of a grid.
 */
#include "support/kernel_check.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "cache/kv_short.h"

static double scale_of(uint8_t byte) { return (double)kv_f16_to_f32((uint16_t)(byte << 7)); }

static double min_of(struct kv_short_grid g, int bits)
{
    return scale_of(g.scale) * ((g.centre - 128.0) / 64 * (1 << bits) - 0.5 * ((1 << bits) - 1));
}

static void every_byte_widens_alike(void **state)
{
    (void)state;
    struct kv_kernels tables[3];
    int n_levels = check_levels(tables);
    static const int all_bits[] = { 0, 2, 3, 4, 8 };
    for (int b = 0; b < 5; b++)
        for (int s = 0; s < 0xf8; s++) {
            uint8_t scale[256], centre[256];
            uint16_t wide[256], min[256];
            for (int i = 0; i < 256; i++) scale[i] = (uint8_t)s, centre[i] = (uint8_t)i;
            for (int l = 0; l < n_levels; l++) {
                int n = l ? 256 : 248;
                memset(wide, 0xff, sizeof wide);
                tables[l].widen_grids(scale, centre, n, all_bits[b], wide, min);
                for (int i = 0; i < n; i++) {
                    double exact = min_of((struct kv_short_grid){ (uint8_t)s, (uint8_t)i }, all_bits[b]);
                    assert_int_equal(wide[i], s << 7);
                    assert_int_equal(min[i] & 0x7fff, kv_f32_to_f16((float)fabs(exact))); /* it is a float */
                    assert_true(exact == 0.0 || (min[i] >> 15) == (exact < 0.0));
                }
            }
        }
}

static void grids_keep_their_size_and_middle(void **state)
{
    (void)state;
    static const int all_bits[] = { 2, 3, 4, 8 };
    struct check_random rnd = check_random_open();
    for (int round = 0; round < 20000; round++) {
        int bits = all_bits[check_random_below(&rnd, 4)], levels = (1 << bits) - 1;
        bool fitted = bits <= 3 && check_random_below(&rnd, 2), recode;
        float scale = ldexpf(check_random_float(&rnd, 1, 2), (int)check_random_below(&rnd, 16) - 12);
        float middle = scale * (float)(1 << bits) * check_random_float(&rnd, -3, 3);
        float min = middle - 0.5f * (float)levels * scale;
        struct kv_short_grid g;
        assert_true(kv_short_make(scale, min, bits, fitted, &g, &recode));
        double stored = scale_of(g.scale), ratio = stored / (double)scale, width = stored * (1 << bits);
        double far = fabs((double)middle) / ((1 << bits) * (double)scale) * 64 /
                     127; /* > 1: the grid must grow */
        CHECK(recode || (fitted && far < 1.07), &rnd, "codes are kept, far %g", far);
        CHECK(!recode || !fitted || far > 0.93, &rnd, "codes are not kept, far %g", far);
        double low = bits == 8 ? 1.0 : 15.0 / 16, high = bits == 8 ? 1.07 * 1.125 : 17.0 / 16;
        CHECK(ratio >= fmax(low, far) * (1 - 1e-6) && ratio <= fmax(high, 1.126 * far), &rnd,
              "scale %g -> %g, far %g, %d bits", (double)scale, stored, far, bits);
        double kept = min_of(g, bits) + 0.5 * levels * stored;
        CHECK(fabs(kept - (double)middle) <= width / 128 * 1.001, &rnd, "middle %g -> %g, %d bits",
              (double)middle, kept, bits);
    }
}

static void constants_stand_at_code_0(void **state)
{
    (void)state;
    static const float numbers[] = { 0.0f, 1.0f, -1.0f, 211.0f, -0.003f, 30000.0f };
    static const int all_bits[] = { 0, 2, 3, 4, 8 };
    for (int i = 0; i < 6; i++)
        for (int b = 0; b < 5; b++) {
            struct kv_short_grid g;
            bool recode;
            assert_true(kv_short_make(0.0f, numbers[i], all_bits[b], false, &g, &recode));
            double error = fabs(min_of(g, all_bits[b]) - (double)numbers[i]);
            assert_true(error <= 0.006 * fabs((double)numbers[i]));
            assert_true(all_bits[b] == 0 || all_bits[b] == 8 || error <= 0.5 * scale_of(g.scale));
        }
}

static void what_no_byte_holds_is_refused(void **state)
{
    (void)state;
    struct kv_short_grid g;
    bool recode;
    assert_false(kv_short_make(64000.0f, -96000.0f, 2, true, &g, &recode));
    assert_false(kv_short_make(62000.0f, 0.0f, 8, false, &g, &recode));
    assert_true(kv_short_make(0.0f, 65504.0f, 0, false, &g, &recode)); /* the mean of a group has room */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_widens_alike),
        cmocka_unit_test(grids_keep_their_size_and_middle),
        cmocka_unit_test(constants_stand_at_code_0),
        cmocka_unit_test(what_no_byte_holds_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
