/*
 * The table of weight types, and rows to float32.
 */
#include "format/weight_type.h"

#include "kernels/unpack.h"

#define CODES(id, name, block, bytes) { id, #name, block, bytes, KV_CODES_##name, -1 }
#define FLOAT(id, name, bytes) { id, #name, 1, bytes, -1, KV_FLOAT_##name }

static const struct kv_weight_type types[] = {
    FLOAT(0, F32, 4),
    FLOAT(1, F16, 2),
    FLOAT(30, BF16, 2),
    CODES(8, Q8_0, 32, 34),
    CODES(2, Q4_0, 32, 18),
    CODES(3, Q4_1, 32, 20),
    CODES(6, Q5_0, 32, 22),
    CODES(7, Q5_1, 32, 24),
    CODES(10, Q2_K, 256, 84),
    CODES(11, Q3_K, 256, 110),
    CODES(12, Q4_K, 256, 144),
    CODES(13, Q5_K, 256, 176),
    CODES(14, Q6_K, 256, 210),
    CODES(20, IQ4_NL, 32, 18),
    CODES(23, IQ4_XS, 256, 136),
};

#define N_TYPES ((int)(sizeof types / sizeof types[0]))

/* Every number that the format has given out (the gaps are types that were withdrawn). */
static const char *const any_name[] = {
    [0] = "F32", [1] = "F16", [2] = "Q4_0", [3] = "Q4_1", [4] = "Q4_2 (withdrawn)", [5] = "Q4_3 (withdrawn)",
    [6] = "Q5_0", [7] = "Q5_1", [8] = "Q8_0", [9] = "Q8_1", [10] = "Q2_K", [11] = "Q3_K", [12] = "Q4_K",
    [13] = "Q5_K", [14] = "Q6_K", [15] = "Q8_K", [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS",
    [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S", [22] = "IQ2_S", [23] = "IQ4_XS", [24] = "I8",
    [25] = "I16", [26] = "I32", [27] = "I64", [28] = "F64", [29] = "IQ1_M", [30] = "BF16",
    [31] = "Q4_0_4_4 (withdrawn)", [32] = "Q4_0_4_8 (withdrawn)", [33] = "Q4_0_8_8 (withdrawn)",
    [34] = "TQ1_0", [35] = "TQ2_0", [36] = "IQ4_NL_4_4 (withdrawn)", [37] = "IQ4_NL_4_8 (withdrawn)",
    [38] = "IQ4_NL_8_8 (withdrawn)", [39] = "MXFP4", [40] = "NVFP4", [41] = "Q1_0",
};

const struct kv_weight_type *kv_weight_type_find(uint32_t id)
{
    for (int i = 0; i < N_TYPES; i++)
        if (types[i].id == id) return &types[i];
    return NULL;
}

const char *kv_weight_type_any_name(uint32_t id)
{
    return id < sizeof any_name / sizeof any_name[0] ? any_name[id] : NULL;
}

int kv_weight_type_count(void)
{
    return N_TYPES;
}

const struct kv_weight_type *kv_weight_type_at(int i)
{
    return i >= 0 && i < N_TYPES ? &types[i] : NULL;
}

void kv_weight_row_to_f32(const struct kv_kernels *table, const struct kv_weight_type *type,
                          const uint8_t *row, int64_t k, float *out, void *scratch)
{
    if (type->code_format < 0) {
        kv_unpack_float(type->float_format, row, k, out);
        return;
    }
    float *scale = scratch;                            /* (k / 16) */
    float *min = scale + k / KV_WEIGHT_GROUP;          /* (k / 16) */
    uint8_t *code = (uint8_t *)(min + k / KV_WEIGHT_GROUP); /* (k) */
    table->unpack[type->code_format](row, k, code, scale, min);
    for (int64_t g = 0; g < k / KV_WEIGHT_GROUP; g++)
        for (int64_t i = g * KV_WEIGHT_GROUP; i < (g + 1) * KV_WEIGHT_GROUP; i++)
            out[i] = scale[g] * (float)code[i] + min[g];
}
