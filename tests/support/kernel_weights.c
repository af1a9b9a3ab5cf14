#include "support/kernel_weights.h"

#include "base/half.h"

#include <string.h>

/* Where the float16 scales of a block stand; -1: no second one. */
static const int halves_at[KV_CODES_COUNT][2] = {
    [KV_CODES_Q8_0] = { 0, -1 },        [KV_CODES_Q4_0] = { 0, -1 },        [KV_CODES_Q4_1] = { 0, 2 },
    [KV_CODES_Q5_0] = { 0, -1 },        [KV_CODES_Q5_1] = { 0, 2 },         [KV_CODES_Q2_K] = { 80, 82 },
    [KV_CODES_Q3_K] = { 108, -1 },      [KV_CODES_Q4_K] = { 0, 2 },         [KV_CODES_Q5_K] = { 0, 2 },
    [KV_CODES_Q6_K] = { 208, -1 },      [KV_CODES_IQ4_NL] = { 0, -1 },      [KV_CODES_IQ4_XS] = { 0, -1 },
};

static void fill_block(struct check_random *r, const struct kv_weight_type *type, enum check_data kind,
                       uint8_t *block)
{
    for (int i = 0; i < type->block_bytes; i++)
        block[i] = kind == CHECK_ZERO ? 0 : kind == CHECK_LARGEST ? 0xff : (uint8_t)check_random_next(r);
    for (int i = 0; i < 2; i++) {
        int at = halves_at[type->code_format][i];
        if (at < 0) continue;
        uint16_t h = kv_f32_to_f16(check_random_float(r, -0.02f, 0.02f));
        if (kind == CHECK_ZERO) h = 0;
        if (kind == CHECK_LARGEST) h = 0x7bff; /* 65504 */
        memcpy(block + at, &h, sizeof h);
    }
}

void check_weights_fill(struct check_random *r, const struct kv_weight_type *type, enum check_data kind,
                        uint8_t *data, size_t n_bytes)
{
    size_t n_blocks = n_bytes / (size_t)type->block_bytes;
    size_t outlier = (size_t)check_random_below(r, (int64_t)n_blocks);
    for (size_t i = 0; i < n_blocks; i++) {
        uint8_t *block = data + i * (size_t)type->block_bytes;
        enum check_data now = kind == CHECK_OUTLIER ? (i == outlier ? CHECK_LARGEST : CHECK_PLAIN) : kind;
        if (type->code_format >= 0) {
            fill_block(r, type, now, block);
            continue;
        }
        float x;
        check_fill(r, now, 1000.0f, &x, 1);
        uint32_t bits = type->float_format == KV_FLOAT_F16 ? kv_f32_to_f16(x) : kv_f32_bits(x);
        if (type->float_format == KV_FLOAT_BF16) bits >>= 16;
        memcpy(block, &bits, (size_t)type->block_bytes);
    }
}
