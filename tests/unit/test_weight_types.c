/*
 * Weight types against values made with the PyPI package gguf (tools/make-weight-vectors.py).
 *
 * Equality is exact. The reference multiplies scale, sub-scale and code in float32 and subtracts a minimum;
 * so do we, but for formats with signed codes, where we add −offset · scale to scale · (code + offset). Every
 * product there has at most 24 significant bits (11 of the float16, up to 6 of a sub-scale, up to 8 of a
 * code: never all of them), the sum equals scale · code, which has fewer: nothing is rounded on either side.
 * Only the sign of zero may differ, which == does not see.
 */
#include "base/memory.h"
#include "format/weight_type.h"
#include "kernels/unpack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

struct vectors {
    char *file;
    size_t n_bytes, pos;
};

struct vector {
    uint32_t id, block, block_bytes, n, n_bytes;
    const uint8_t *data;
    float *value; /* (n), owned */
};

static uint32_t next_u32(struct vectors *v)
{
    uint32_t u;
    assert_true(v->pos + sizeof u <= v->n_bytes);
    memcpy(&u, v->file + v->pos, sizeof u);
    v->pos += sizeof u;
    return u;
}

static int open_vectors(struct vectors *v)
{
    struct kvant_error err;
    *v = (struct vectors){ 0 };
    assert_int_equal(kv_file_read("tests/data/weights/vectors.bin", 1 << 22, &v->file, &v->n_bytes, &err),
                     KVANT_OK);
    assert_memory_equal(v->file, "KVWV", 4);
    v->pos = 4;
    return (int)next_u32(v);
}

static struct vector next_vector(struct vectors *v)
{
    struct vector x = { 0 };
    x.id = next_u32(v);
    x.block = next_u32(v);
    x.block_bytes = next_u32(v);
    x.n = next_u32(v);
    x.n_bytes = next_u32(v);
    assert_true(v->pos + x.n_bytes + 4ull * x.n <= v->n_bytes);
    x.data = (const uint8_t *)v->file + v->pos;
    x.value = kv_alloc(x.n, sizeof(float));
    assert_non_null(x.value);
    memcpy(x.value, v->file + v->pos + x.n_bytes, 4ull * x.n);
    v->pos += x.n_bytes + 4ull * x.n;
    return x;
}

/* All elements as one row; the row stands at an odd address, as nothing promises better. */
static void check_row(const struct kv_kernels *table, const struct vector *x)
{
    const struct kv_weight_type *type = kv_weight_type_find(x->id);
    assert_non_null(type);
    assert_int_equal(type->block, x->block);
    assert_int_equal(type->block_bytes, x->block_bytes);

    uint8_t *row = kv_alloc(x->n_bytes + 1, 1);
    float *out = kv_alloc(x->n, sizeof *out);
    void *scratch = kv_alloc(kv_matmul_scratch_bytes(x->n), 1);
    assert_true(row && out && scratch);
    memcpy(row + 1, x->data, x->n_bytes);
    kv_weight_row_to_f32(table, type, row + 1, x->n, out, scratch);
    for (uint32_t i = 0; i < x->n; i++)
        if (!(out[i] == x->value[i]))
            fail_msg("%s element %u: %.9g, should be %.9g", type->name, i, (double)out[i],
                     (double)x->value[i]);
    kv_free(row);
    kv_free(out);
    kv_free(scratch);
}

static void rows_equal_reference_at_every_level(void **state)
{
    (void)state;
    struct vectors v;
    int n_types = open_vectors(&v);
    assert_int_equal(n_types, kv_weight_type_count());
    for (int i = 0; i < n_types; i++) {
        struct vector x = next_vector(&v);
        for (int level = KV_CPU_SCALAR; level <= (int)kv_cpu_detect(); level++) {
            struct kv_kernels table;
            kv_kernels_select(&table, (enum kv_cpu_level)level);
            check_row(&table, &x);
        }
        kv_free(x.value);
    }
    assert_int_equal(v.pos, v.n_bytes);
    kv_free(v.file);
}

/* A row one block long: what stands behind the outputs must stay as it is. */
static void unpack_writes_only_its_own(void **state)
{
    (void)state;
    static void (*const unpack[])(const uint8_t *restrict, int64_t, uint8_t *restrict, float *restrict,
                                  float *restrict) = {
#define X(format) kv_unpack_##format,
        KV_UNPACK_FORMATS(X)
#undef X
    };
    assert_int_equal(sizeof unpack / sizeof unpack[0], KV_CODES_COUNT);
    for (int i = 0; i < kv_weight_type_count(); i++) {
        const struct kv_weight_type *type = kv_weight_type_at(i);
        if (type->code_format < 0) continue;
        uint8_t block[256], code[256 + 1];
        float scale[17], min[17];
        memset(block, 0x35, sizeof block);
        memset(code, 0xee, sizeof code);
        for (int j = 0; j < 17; j++) scale[j] = min[j] = 12345;
        unpack[type->code_format](block, type->block, code, scale, min);
        assert_int_equal(code[type->block], 0xee);
        assert_true(scale[type->block / 16] == 12345 && min[type->block / 16] == 12345);
        assert_true(scale[type->block / 16 - 1] != 12345 && min[type->block / 16 - 1] != 12345);
    }
}

static void table_is_consistent(void **state)
{
    (void)state;
    int n_codes = 0, n_floats = 0;
    for (int i = 0; i < kv_weight_type_count(); i++) {
        const struct kv_weight_type *type = kv_weight_type_at(i);
        assert_ptr_equal(kv_weight_type_find(type->id), type);
        assert_string_equal(kv_weight_type_any_name(type->id), type->name);
        assert_true((type->code_format < 0) != (type->float_format < 0));
        n_codes += type->code_format >= 0;
        n_floats += type->float_format >= 0;
    }
    assert_int_equal(n_codes, KV_CODES_COUNT);
    assert_int_equal(n_floats, KV_FLOAT_COUNT);
    assert_null(kv_weight_type_at(-1));
    assert_null(kv_weight_type_at(kv_weight_type_count()));
}

static void unreadable_types_have_names(void **state)
{
    (void)state;
    assert_null(kv_weight_type_find(16));
    assert_string_equal(kv_weight_type_any_name(16), "IQ2_XXS");
    assert_null(kv_weight_type_any_name(1000));
    assert_null(kv_weight_type_any_name(UINT32_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_equal_reference_at_every_level),
        cmocka_unit_test(unpack_writes_only_its_own),
        cmocka_unit_test(table_is_consistent),
        cmocka_unit_test(unreadable_types_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
