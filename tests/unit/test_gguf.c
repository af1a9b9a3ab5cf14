/*
 * The GGUF reader: every metadata type and version, and every way in which a file can be wrong. Refusals are
 * checked for status, file name, position and the name of the field.
 */
#include "base/memory.h"
#include "format/gguf.h"
#include "support/tiny_gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define NAME "test.gguf"

/* Bytes in an allocation of exactly their size, so that a sanitizer sees a read beyond it. */
static kvant_status open_exact(struct kv_gguf **g, uint8_t **copy, const uint8_t *data, size_t n_bytes,
                               struct kvant_error *err)
{
    *copy = malloc(n_bytes ? n_bytes : 1);
    assert_non_null(*copy);
    if (n_bytes > 0) memcpy(*copy, data, n_bytes);
    return kv_gguf_open_memory(g, *copy, n_bytes, NAME, err);
}

static void expect_refused(const uint8_t *data, size_t n_bytes, kvant_status status, const char *needle)
{
    struct kvant_error err = { .position = -2 };
    struct kv_gguf *g = (struct kv_gguf *)1;
    uint8_t *copy;
    kvant_status got = open_exact(&g, &copy, data, n_bytes, &err);
    if (got != status) fail_msg("%s: status %s (%s), should be %s", needle, kvant_status_name(got),
                                got ? err.message : "", kvant_status_name(status));
    assert_null(g);
    assert_int_equal(err.status, status);
    assert_in_range(err.position, 0, n_bytes);
    assert_true(strncmp(err.message, NAME ": byte ", strlen(NAME ": byte ")) == 0);
    assert_null(strchr(err.message, '\n'));
    if (!strstr(err.message, needle)) fail_msg("\"%s\" does not name \"%s\"", err.message, needle);
    assert_int_equal(kv_gguf_open_memory(&g, copy, n_bytes, NAME, NULL), status); /* err may be NULL */
    free(copy);
}

static void finish(struct gguf_writer *w)
{
    struct kvant_error err;
    if (gguf_writer_finish(w, &err) != KVANT_OK) fail_msg("%s", err.message);
}

static void expect_writer_refused(struct gguf_writer *w, kvant_status status, const char *needle)
{
    finish(w);
    expect_refused(w->data, w->n_bytes, status, needle);
    gguf_writer_free(w);
}

/* Opens what the writer holds; the writer's bytes must outlive it. */
static struct kv_gguf *open_writer(struct gguf_writer *w)
{
    struct kvant_error err;
    struct kv_gguf *g;
    finish(w);
    if (kv_gguf_open_memory(&g, w->data, w->n_bytes, NAME, &err) != KVANT_OK) fail_msg("%s", err.message);
    return g;
}

static const float row_f32[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

static void put_small_tensor(struct gguf_writer *w, const char *name)
{
    gguf_put_tensor(w, name, TINY_F32, 2, (int64_t[]){ 4, 2 }, row_f32, sizeof row_f32);
}

/* A file with one key of every type, arrays, and two tensors; its last tensor ends where the file ends. */
static void write_everything(struct gguf_writer *w, uint32_t version, uint32_t alignment)
{
    static const char *const words[] = { "one", "", "three" };
    static const uint8_t flags[] = { 1, 0, 1 };
    static const uint16_t shorts[] = { 1, 65535 };
    static const double doubles[] = { 0.5, -2 };
    gguf_writer_begin(w, version, alignment);
    gguf_put_u8(w, "t.u8", 200);
    gguf_put_i8(w, "t.i8", -100);
    gguf_put_u16(w, "t.u16", 60000);
    gguf_put_i16(w, "t.i16", -30000);
    gguf_put_u32(w, "t.u32", 4000000000u);
    gguf_put_i32(w, "t.i32", -2000000000);
    gguf_put_u64(w, "t.u64", UINT64_MAX);
    gguf_put_i64(w, "t.i64", INT64_MIN);
    gguf_put_f32(w, "t.f32", 0.25f);
    gguf_put_f64(w, "t.f64", -1e300);
    gguf_put_bool(w, "t.yes", true);
    gguf_put_bool(w, "t.no", false);
    gguf_put_str(w, "t.str", "text");
    gguf_put_str(w, "t.empty", "");
    gguf_put_strings(w, "t.words", words, 3);
    gguf_put_array(w, "t.flags", KV_GGUF_BOOL, flags, 3);
    gguf_put_array(w, "t.shorts", KV_GGUF_U16, shorts, 2);
    gguf_put_array(w, "t.doubles", KV_GGUF_F64, doubles, 2);
    gguf_put_array(w, "t.none", KV_GGUF_I32, NULL, 0);
    put_small_tensor(w, "a.weight");
    put_small_tensor(w, "b.weight");
}

/* --- right files --- */

static void expect_i64(const struct kv_gguf *g, const char *key, int64_t value)
{
    int64_t got = 0;
    bool found = false;
    assert_int_equal(kv_gguf_get_i64(g, key, INT64_MIN, INT64_MAX, &got, &found, NULL), KVANT_OK);
    assert_true(found);
    assert_true(got == value);
}

static void check_scalars(const struct kv_gguf *g)
{
    bool found, yes = false, no = true;
    double d = 0;
    struct kv_str s;
    expect_i64(g, "t.u8", 200);
    expect_i64(g, "t.i8", -100);
    expect_i64(g, "t.u16", 60000);
    expect_i64(g, "t.i16", -30000);
    expect_i64(g, "t.u32", 4000000000);
    expect_i64(g, "t.i32", -2000000000);
    expect_i64(g, "t.i64", INT64_MIN);
    assert_int_equal(kv_gguf_get_f64(g, "t.f32", &d, &found, NULL), KVANT_OK);
    assert_true(found && d == 0.25);
    assert_int_equal(kv_gguf_get_f64(g, "t.f64", &d, &found, NULL), KVANT_OK);
    assert_true(d == -1e300);
    assert_int_equal(kv_gguf_get_f64(g, "t.u64", &d, &found, NULL), KVANT_OK);
    assert_true(d == 0x1p64);
    assert_int_equal(kv_gguf_get_bool(g, "t.yes", &yes, &found, NULL), KVANT_OK);
    assert_int_equal(kv_gguf_get_bool(g, "t.no", &no, &found, NULL), KVANT_OK);
    assert_true(yes && !no);
    assert_int_equal(kv_gguf_get_str(g, "t.str", &s, &found, NULL), KVANT_OK);
    assert_int_equal(s.n_bytes, 4);
    assert_memory_equal(s.data, "text", 4);
    assert_int_equal(kv_gguf_get_str(g, "t.empty", &s, &found, NULL), KVANT_OK);
    assert_int_equal(s.n_bytes, 0);
}

static void check_arrays(const struct kv_gguf *g)
{
    struct kv_gguf_array a;
    bool found;
    assert_int_equal(kv_gguf_get_array(g, "t.words", KV_GGUF_STRING, &a, &found, NULL), KVANT_OK);
    assert_int_equal(a.n, 3);
    assert_int_equal(a.strings[1].n_bytes, 0);
    assert_int_equal(a.strings[2].n_bytes, 5);
    assert_memory_equal(a.strings[2].data, "three", 5);
    assert_int_equal(kv_gguf_get_array(g, "t.flags", KV_GGUF_BOOL, &a, &found, NULL), KVANT_OK);
    assert_int_equal(kv_gguf_array_i64(&a, 0), 1);
    assert_int_equal(kv_gguf_array_i64(&a, 1), 0);
    /* Converters disagree about the integer type of lists: any is given for any. */
    assert_int_equal(kv_gguf_get_array(g, "t.shorts", KV_GGUF_I32, &a, &found, NULL), KVANT_OK);
    assert_int_equal(a.type, KV_GGUF_U16);
    assert_int_equal(kv_gguf_array_i64(&a, 1), 65535);
    assert_true(kv_gguf_array_f64(&a, 1) == 65535.0);
    assert_int_equal(kv_gguf_get_array(g, "t.doubles", KV_GGUF_F32, &a, &found, NULL), KVANT_OK);
    assert_true(kv_gguf_array_f64(&a, 1) == -2.0);
    assert_int_equal(kv_gguf_get_array(g, "t.none", KV_GGUF_I32, &a, &found, NULL), KVANT_OK);
    assert_int_equal(a.n, 0);
}

static void every_metadata_type_in_both_versions(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct gguf_writer w;
        write_everything(&w, version, 0);
        struct kv_gguf *g = open_writer(&w);
        check_scalars(g);
        check_arrays(g);
        enum kv_gguf_type type;
        bool is_array;
        assert_true(kv_gguf_key_type(g, "t.words", &type, &is_array));
        assert_true(is_array && type == KV_GGUF_STRING);
        assert_true(kv_gguf_key_type(g, "t.i8", &type, &is_array));
        assert_true(!is_array && type == KV_GGUF_I8);
        assert_string_equal(kv_gguf_type_name(KV_GGUF_F64), "f64");
        assert_string_equal(kv_gguf_type_name(KV_GGUF_TYPE_COUNT), "unknown");
        assert_string_equal(kv_gguf_path(g), NAME);
        assert_int_equal(kv_gguf_file_bytes(g), w.n_bytes);
        kv_gguf_close(g);
        gguf_writer_free(&w);
    }
}

static void absent_keys_are_no_error(void **state)
{
    (void)state;
    struct gguf_writer w;
    write_everything(&w, 3, 0);
    struct kv_gguf *g = open_writer(&w);
    int64_t i = 77;
    double d = 77;
    bool b = true, found = true, is_array;
    struct kv_str s = { "77", 2 };
    struct kv_gguf_array a = { .n = 77 };
    enum kv_gguf_type type;
    assert_int_equal(kv_gguf_get_i64(g, "t.u", 0, 1, &i, &found, NULL), KVANT_OK);
    assert_true(!found && i == 77);
    assert_int_equal(kv_gguf_get_f64(g, "", &d, &found, NULL), KVANT_OK);
    assert_true(!found && d == 77);
    assert_int_equal(kv_gguf_get_bool(g, "t.yes2", &b, &found, NULL), KVANT_OK);
    assert_true(!found && b);
    assert_int_equal(kv_gguf_get_str(g, "x", &s, &found, NULL), KVANT_OK);
    assert_true(!found && s.n_bytes == 2);
    assert_int_equal(kv_gguf_get_array(g, "x", KV_GGUF_I32, &a, &found, NULL), KVANT_OK);
    assert_true(!found && a.n == 77);
    assert_false(kv_gguf_key_type(g, "x", &type, &is_array));
    assert_false(kv_gguf_has(g, "x"));
    assert_true(kv_gguf_has(g, "t.u8"));
    assert_null(kv_gguf_tensor_find(g, "t.u8"));
    assert_null(kv_gguf_tensor_at(g, -1));
    assert_null(kv_gguf_tensor_at(g, 2));
    kv_gguf_close(g);
    kv_gguf_close(NULL);
    gguf_writer_free(&w);
}

static void expect_named(kvant_status status, const struct kvant_error *err, const char *key,
                         const char *what)
{
    assert_int_equal(status, KVANT_ERR_FORMAT);
    assert_non_null(strstr(err->message, NAME));
    assert_non_null(strstr(err->message, key));
    if (!strstr(err->message, what)) fail_msg("\"%s\" does not say \"%s\"", err->message, what);
    assert_true(err->position > 0);
}

static void wrong_types_and_ranges_are_named(void **state)
{
    (void)state;
    struct gguf_writer w;
    write_everything(&w, 3, 0);
    gguf_writer_free(&w);
    gguf_writer_begin(&w, 3, 0);
    gguf_put_u8(&w, "t.u8", 200);
    gguf_put_u64(&w, "t.u64", UINT64_MAX);
    gguf_put_i32(&w, "t.i32", -5);
    gguf_put_f32(&w, "t.nan", 0.0f / 0.0f);
    gguf_put_str(&w, "t.str", "7");
    gguf_put_array(&w, "t.list", KV_GGUF_I32, (int32_t[]){ 1 }, 1);
    struct kv_gguf *g = open_writer(&w);
    struct kvant_error err;
    int64_t i = 77;
    double d;
    bool b, found;
    struct kv_str s;
    struct kv_gguf_array a;
    expect_named(kv_gguf_get_i64(g, "t.u8", 0, 199, &i, &found, &err), &err, "t.u8",
                 "is 200, should be between 0 and 199");
    expect_named(kv_gguf_get_i64(g, "t.i32", 0, 9, &i, &found, &err), &err, "t.i32", "-5");
    expect_named(kv_gguf_get_i64(g, "t.u64", INT64_MIN, INT64_MAX, &i, &found, &err), &err, "t.u64",
                 "18446744073709551615");
    expect_named(kv_gguf_get_i64(g, "t.str", 0, 9, &i, &found, &err), &err, "t.str",
                 "string, should be an integer");
    expect_named(kv_gguf_get_i64(g, "t.list", 0, 9, &i, &found, &err), &err, "t.list", "an array of i32");
    expect_named(kv_gguf_get_i64(g, "t.nan", 0, 9, &i, &found, &err), &err, "t.nan", "f32");
    expect_named(kv_gguf_get_f64(g, "t.nan", &d, &found, &err), &err, "t.nan", "finite");
    expect_named(kv_gguf_get_f64(g, "t.str", &d, &found, &err), &err, "t.str", "a number");
    expect_named(kv_gguf_get_bool(g, "t.u8", &b, &found, &err), &err, "t.u8", "a bool");
    expect_named(kv_gguf_get_str(g, "t.u8", &s, &found, &err), &err, "t.u8", "a string");
    expect_named(kv_gguf_get_array(g, "t.str", KV_GGUF_STRING, &a, &found, &err), &err, "t.str",
                 "an array of string");
    expect_named(kv_gguf_get_array(g, "t.list", KV_GGUF_F32, &a, &found, &err), &err, "t.list",
                 "an array of f32");
    expect_named(kv_gguf_get_array(g, "t.list", KV_GGUF_STRING, &a, &found, &err), &err, "t.list",
                 "an array of string");
    assert_int_equal(i, 77);
    kv_gguf_close(g);
    gguf_writer_free(&w);
}

static void tensors_lie_where_the_directory_says(void **state)
{
    (void)state;
    static const uint32_t alignments[] = { 8, 32, 64, 4096 };
    for (int i = 0; i < 4; i++) {
        struct gguf_writer w;
        write_everything(&w, 3, alignments[i]);
        uint8_t block[2 * 34] = { 0 };
        gguf_put_tensor(&w, "c.weight", TINY_Q8_0, 1, (int64_t[]){ 64 }, block, sizeof block);
        struct kv_gguf *g = open_writer(&w);
        assert_int_equal(kv_gguf_n_tensors(g), 3);
        const struct kv_gguf_tensor *t = kv_gguf_tensor_find(g, "b.weight");
        assert_ptr_equal(t, kv_gguf_tensor_at(g, 1));
        assert_string_equal(t->type->name, "F32");
        assert_int_equal(t->n_dims, 2);
        assert_true(t->dims[0] == 4 && t->dims[1] == 2 && t->dims[2] == 1 && t->dims[3] == 1);
        assert_int_equal(t->row_bytes, 16);
        assert_int_equal(t->n_bytes, 32);
        assert_int_equal((size_t)(t->data - w.data) % alignments[i], 0);
        assert_memory_equal(t->data, row_f32, sizeof row_f32);
        t = kv_gguf_tensor_find(g, "c.weight");
        assert_int_equal(t->row_bytes, 68);
        assert_int_equal(t->directory_offset, gguf_writer_field(&w, "c.weight/length")->offset);
        const uint8_t *header;
        size_t n = kv_gguf_header_bytes(g, &header);
        assert_ptr_equal(header, w.data);
        const struct gguf_field *last = gguf_writer_field(&w, "c.weight/offset");
        assert_int_equal(n, last->offset + 8);
        kv_gguf_close(g);
        gguf_writer_free(&w);
    }
}

/* array of array of ... of one u8, `depth` arrays deep */
static size_t nested_array(uint8_t *out, int depth)
{
    size_t n = 0;
    for (int i = 0; i < depth; i++, n += 12) {
        gguf_poke(out, n, i + 1 < depth ? KV_GGUF_ARRAY : KV_GGUF_U8, 4);
        gguf_poke(out, n + 4, 1, 8);
    }
    out[n++] = 42;
    return n;
}

static void nested_arrays_are_walked_to_a_bound(void **state)
{
    (void)state;
    struct gguf_writer w;
    uint8_t bytes[12 * 1000 + 1];
    for (int depth = 2; depth <= 4; depth++) {
        gguf_writer_begin(&w, 3, 0);
        gguf_put_raw(&w, "t.nested", KV_GGUF_ARRAY, bytes, nested_array(bytes, depth));
        gguf_put_u8(&w, "t.after", 9);
        struct kv_gguf *g = open_writer(&w);
        expect_i64(g, "t.after", 9);
        kv_gguf_close(g);
        gguf_writer_free(&w);
    }
    gguf_writer_begin(&w, 3, 0);
    gguf_put_raw(&w, "t.nested", KV_GGUF_ARRAY, bytes, nested_array(bytes, 5));
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "key t.nested: arrays are nested more than 4 deep");
    gguf_writer_begin(&w, 3, 0);
    gguf_put_raw(&w, "t.nested", KV_GGUF_ARRAY, bytes, nested_array(bytes, 1000));
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "nested");
}

/* --- wrong files --- */

static void every_truncation_is_refused(void **state)
{
    (void)state;
    struct gguf_writer w;
    write_everything(&w, 3, 0);
    kv_gguf_close(open_writer(&w));
    expect_refused(w.data, 0, KVANT_ERR_FORMAT, "empty");
    for (size_t n = 1; n < w.n_bytes; n++) expect_refused(w.data, n, KVANT_ERR_FORMAT, "truncated");
    gguf_writer_free(&w);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* Values that a field must never have. ~0 is cut to the field's size. */
static const struct {
    const char *field; /* the end of its name */
    uint64_t value;
    kvant_status status;
    const char *needle;
} bad_values[] = {
    { "magic", 0x46554758, KVANT_ERR_FORMAT, "not a GGUF file" },
    { "version", 0, KVANT_ERR_UNSUPPORTED, "version 0" },
    { "version", 1, KVANT_ERR_UNSUPPORTED, "version 1" },
    { "version", 4, KVANT_ERR_UNSUPPORTED, "version 4" },
    { "version", 0x03000000, KVANT_ERR_UNSUPPORTED, "big-endian" },
    { "version", 0x02000000, KVANT_ERR_UNSUPPORTED, "big-endian" },
    { "n_tensors", UINT64_MAX, KVANT_ERR_FORMAT, "number of tensors" },
    { "n_tensors", 65537, KVANT_ERR_FORMAT, "number of tensors" },
    { "n_tensors", 5000, KVANT_ERR_FORMAT, "number of tensors" },
    { "n_keys", UINT64_MAX, KVANT_ERR_FORMAT, "number of keys" },
    { "n_keys", 1ull << 61, KVANT_ERR_FORMAT, "number of keys" },
    { "/length", 0, KVANT_ERR_FORMAT, "name of a " },
    { "/length", UINT64_MAX, KVANT_ERR_FORMAT, "name of a " },
    { "/length", 65536, KVANT_ERR_FORMAT, "name of a " },
    { "/type", UINT32_MAX, KVANT_ERR_FORMAT, " type" }, /* UNSUPPORTED for tensors: see below */
    { "/type", 5, KVANT_ERR_UNSUPPORTED, "tensor type 5" },
    { "/element_type", 13, KVANT_ERR_FORMAT, "element type is 13" },
    { "/count", UINT64_MAX, KVANT_ERR_FORMAT, "count" },
    { "/count", 1ull << 62, KVANT_ERR_FORMAT, "count" },
    { "/value_length", UINT64_MAX, KVANT_ERR_FORMAT, "string needs" },
    { "/value_length", 1ull << 63, KVANT_ERR_FORMAT, "string needs" },
    { "/n_dims", 0, KVANT_ERR_FORMAT, "0 dimensions" },
    { "/n_dims", 5, KVANT_ERR_FORMAT, "5 dimensions" },
    { "/n_dims", UINT32_MAX, KVANT_ERR_FORMAT, "dimensions" },
    { "/dims", 0, KVANT_ERR_FORMAT, "dimension 0" },
    { "/dims", UINT64_MAX, KVANT_ERR_FORMAT, "dimension 0" },
    { "/dims", INT64_MAX, KVANT_ERR_FORMAT, "dimension 1" },
    { "/dims", 1ull << 62, KVANT_ERR_FORMAT, "dimension 1" },
    { "/offset", 1, KVANT_ERR_FORMAT, "multiple of the alignment" },
    { "/offset", UINT64_MAX - 63, KVANT_ERR_FORMAT, "beyond the end" },
    { "/offset", 1ull << 40, KVANT_ERR_FORMAT, "beyond the end" },
};

static void each_header_field_is_checked(void **state)
{
    (void)state;
    struct gguf_writer w;
    write_everything(&w, 3, 64);
    finish(&w);
    int n_tried[sizeof bad_values / sizeof bad_values[0]] = { 0 };
    for (size_t i = 0; i < w.n_fields; i++) {
        const struct gguf_field *f = &w.fields[i];
        bool of_tensor = strstr(f->name, ".weight/") != NULL;
        for (size_t j = 0; j < sizeof bad_values / sizeof bad_values[0]; j++) {
            if (!ends_with(f->name, bad_values[j].field)) continue;
            bool is_type = strcmp(bad_values[j].field, "/type") == 0;
            if (is_type && bad_values[j].value == 5 && !of_tensor) continue; /* a right value for a key */
            kvant_status status = is_type && of_tensor ? KVANT_ERR_UNSUPPORTED : bad_values[j].status;
            uint8_t old[8];
            size_t n = f->n_bytes < 8 ? f->n_bytes : 8;
            memcpy(old, w.data + f->offset, n);
            gguf_poke(w.data, f->offset, bad_values[j].value, n);
            expect_refused(w.data, w.n_bytes, status, bad_values[j].needle);
            memcpy(w.data + f->offset, old, n);
            n_tried[j]++;
        }
    }
    for (size_t j = 0; j < sizeof bad_values / sizeof bad_values[0]; j++) assert_true(n_tried[j] > 0);
    kv_gguf_close(open_writer(&w)); /* and unharmed it opens */
    gguf_writer_free(&w);
}

/* A count that is off by one reads an entry as something else, or something else as an entry. */
static void counts_off_by_one_are_refused(void **state)
{
    (void)state;
    struct gguf_writer w;
    write_everything(&w, 3, 0);
    finish(&w);
    size_t at = gguf_writer_field(&w, "n_keys")->offset;
    gguf_poke(w.data, at, w.n_keys + 1, 8);
    expect_refused(w.data, w.n_bytes, KVANT_ERR_FORMAT, "name of a tensor");
    gguf_poke(w.data, at, w.n_keys - 1, 8);
    expect_refused(w.data, w.n_bytes, KVANT_ERR_FORMAT, "tensor t.none");
    gguf_poke(w.data, at, w.n_keys, 8);
    gguf_poke(w.data, gguf_writer_field(&w, "n_tensors")->offset, w.n_tensors + 1, 8);
    expect_refused(w.data, w.n_bytes, KVANT_ERR_FORMAT, "name of a tensor");
    gguf_writer_free(&w);
}

/* Reads all that a file offers; returns a sum so that nothing is optimized away. */
static uint64_t walk(const struct kv_gguf *g)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < kv_gguf_n_tensors(g); i++) {
        const struct kv_gguf_tensor *t = kv_gguf_tensor_at(g, i);
        for (size_t j = 0; j < t->n_bytes; j++) sum += t->data[j];
    }
    return sum;
}

/* Any damage to any header byte ends in an error or in a file that can be walked safely (the sanitizers
 * judge). */
static void damaged_bytes_are_harmless(void **state)
{
    (void)state;
    struct gguf_writer w;
    struct tiny_gguf_options opt = { .arch = "qwen2", .n_layer = 1, .n_embd = 32, .n_ff = 32,
                                     .weight_type = TINY_Q8_0 };
    assert_int_equal(tiny_gguf_build(&w, &opt, NULL), KVANT_OK);
    static const uint8_t flips[] = { 0x01, 0x80, 0xff };
    uint64_t sum = 0;
    int n_opened = 0, n_refused = 0;
    for (size_t i = 0; i < w.n_fields; i++) {
        for (size_t at = w.fields[i].offset; at < w.fields[i].offset + w.fields[i].n_bytes; at++) {
            for (int k = 0; k < 3; k++) {
                struct kv_gguf *g;
                struct kvant_error err;
                w.data[at] ^= flips[k];
                if (kv_gguf_open_memory(&g, w.data, w.n_bytes, NAME, &err) == KVANT_OK) {
                    if (n_opened++ % 16 == 0) sum += walk(g);
                    kv_gguf_close(g);
                } else {
                    assert_in_range(err.position, 0, w.n_bytes);
                    n_refused++;
                }
                w.data[at] ^= flips[k];
            }
        }
    }
    assert_true(sum > 0 && n_refused > 1000);
    gguf_writer_free(&w);
}

static void duplicates_are_refused(void **state)
{
    (void)state;
    struct gguf_writer w;
    gguf_writer_begin(&w, 3, 0);
    gguf_put_u8(&w, "t.twice", 1);
    gguf_put_u8(&w, "t.once", 1);
    gguf_put_str(&w, "t.twice", "x");
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "key t.twice: stands twice");
    gguf_writer_begin(&w, 3, 0);
    put_small_tensor(&w, "twice.weight");
    put_small_tensor(&w, "twice.weight");
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "tensor twice.weight: stands twice");
}

static void names_are_bounded_and_printable(void **state)
{
    (void)state;
    struct gguf_writer w;
    char name[66];
    memset(name, 'n', 65);
    name[65] = 0;
    gguf_writer_begin(&w, 3, 0);
    put_small_tensor(&w, name);
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "name of a tensor has 65 bytes");
    name[64] = 0;
    gguf_writer_begin(&w, 3, 0);
    put_small_tensor(&w, name);
    struct kv_gguf *g = open_writer(&w);
    assert_non_null(kv_gguf_tensor_find(g, name));
    kv_gguf_close(g);
    gguf_writer_free(&w);
    gguf_writer_begin(&w, 3, 0);
    gguf_put_u8(&w, "t.\x1b[2J", 1);
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "control character 0x1b");
    gguf_writer_begin(&w, 3, 0);
    put_small_tensor(&w, "line\nbreak");
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "control character 0x0a");
}

static void alignment_is_a_power_of_two_from_8(void **state)
{
    (void)state;
    static const uint32_t bad[] = { 0, 1, 4, 7, 24, 33, 0x80000000u, UINT32_MAX };
    struct gguf_writer w;
    for (int i = 0; i < 8; i++) {
        gguf_writer_begin(&w, 3, 0);
        gguf_put_u32(&w, "general.alignment", bad[i]);
        put_small_tensor(&w, "a.weight");
        expect_writer_refused(&w, KVANT_ERR_FORMAT, "general.alignment");
    }
    gguf_writer_begin(&w, 3, 0);
    gguf_put_str(&w, "general.alignment", "32");
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "general.alignment");
}

static void bools_are_0_or_1(void **state)
{
    (void)state;
    struct gguf_writer w;
    gguf_writer_begin(&w, 3, 0);
    gguf_put_raw(&w, "t.flag", KV_GGUF_BOOL, "\x02", 1);
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "key t.flag: a bool is 2");
    gguf_writer_begin(&w, 3, 0);
    gguf_put_array(&w, "t.flags", KV_GGUF_BOOL, "\x00\x01\xff", 3);
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "key t.flags: a bool is 255");
}

static void tensor_types_and_shapes_are_checked(void **state)
{
    (void)state;
    struct gguf_writer w;
    uint8_t bytes[256] = { 0 };
    gguf_writer_begin(&w, 3, 0);
    gguf_put_tensor(&w, "iq.weight", 16, 1, (int64_t[]){ 256 }, bytes, 66);
    expect_writer_refused(&w, KVANT_ERR_UNSUPPORTED, "tensor iq.weight: tensor type 16 (IQ2_XXS)");
    gguf_writer_begin(&w, 3, 0);
    gguf_put_tensor(&w, "new.weight", 999, 1, (int64_t[]){ 256 }, bytes, 66);
    expect_writer_refused(&w, KVANT_ERR_UNSUPPORTED, "tensor new.weight: tensor type 999 (unknown)");
    gguf_writer_begin(&w, 3, 0);
    gguf_put_tensor(&w, "odd.weight", TINY_Q8_0, 2, (int64_t[]){ 48, 2 }, bytes, 102);
    expect_writer_refused(&w, KVANT_ERR_FORMAT,
                          "tensor odd.weight: rows of 48 elements are not whole blocks of 32 (Q8_0)");
    gguf_writer_begin(&w, 3, 0); /* 2^62 elements can be counted, their bytes cannot */
    gguf_put_tensor(&w, "huge.weight", TINY_F32, 2, (int64_t[]){ 1ll << 31, 1ll << 31 }, bytes, 16);
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "tensor huge.weight: its size does not fit");
    gguf_writer_begin(&w, 3, 0);
    gguf_put_tensor(&w, "wrap.weight", TINY_F32, 4, (int64_t[]){ 1ll << 31, 1ll << 30, 4, 1 }, bytes, 16);
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "tensor wrap.weight: dimension 2");
    gguf_writer_begin(&w, 3, 0); /* a last tensor shorter than its shape */
    gguf_put_tensor(&w, "short.weight", TINY_F32, 1, (int64_t[]){ 65 }, bytes, 256);
    expect_writer_refused(&w, KVANT_ERR_FORMAT, "tensor short.weight: its 260 bytes");
    gguf_writer_begin(&w, 3, 0); /* a first tensor longer than its place */
    gguf_put_tensor(&w, "long.weight", TINY_F32, 1, (int64_t[]){ 16 }, bytes, 32);
    gguf_put_tensor(&w, "next.weight", TINY_F32, 1, (int64_t[]){ 16 }, bytes, 64);
    expect_writer_refused(&w, KVANT_ERR_FORMAT,
                          "tensor next.weight: its data overlaps that of tensor long.weight");
}

/* 40000 names that differ only at the end, found through the index: would take minutes if it were a list. */
static void many_keys_are_indexed(void **state)
{
    (void)state;
    struct gguf_writer w;
    char name[32];
    gguf_writer_begin(&w, 3, 0);
    for (uint32_t i = 0; i < 40000; i++) {
        snprintf(name, sizeof name, "t.key.%u", i);
        gguf_put_u32(&w, name, i);
    }
    struct kv_gguf *g = open_writer(&w);
    for (uint32_t i = 0; i < 40000; i += 7) {
        snprintf(name, sizeof name, "t.key.%u", i);
        expect_i64(g, name, i);
    }
    kv_gguf_close(g);
    gguf_writer_free(&w);
}

/* --- files on disk --- */

static void expect_path_refused(const char *path, kvant_status status, const char *needle)
{
    struct kvant_error err;
    struct kv_gguf *g = (struct kv_gguf *)1;
    assert_int_equal(kv_gguf_open(&g, path, &err), status);
    assert_null(g);
    assert_non_null(strstr(err.message, path));
    if (!strstr(err.message, needle)) fail_msg("\"%s\" does not say \"%s\"", err.message, needle);
}

static int make_folder(void **state)
{
    const char *base = getenv("TMPDIR");
    char *folder = malloc(256);
    snprintf(folder, 256, "%s/kvant-gguf-XXXXXX", base ? base : P_tmpdir);
    *state = folder;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    char path[300];
    snprintf(path, sizeof path, "%s/file.gguf", (char *)*state);
    unlink(path);
    int rc = rmdir(*state);
    free(*state);
    return rc;
}

static void bad_paths_are_named(void **state)
{
    char path[300];
    struct kvant_error err;
    snprintf(path, sizeof path, "%s/file.gguf", (char *)*state);
    expect_path_refused(*state, KVANT_ERR_IO, "is a directory");
    expect_path_refused(path, KVANT_ERR_IO, "No such file");
    assert_int_equal(kv_file_write(path, "", 0, &err), KVANT_OK);
    expect_path_refused(path, KVANT_ERR_FORMAT, "the file is empty");
    assert_int_equal(kv_file_write(path, "GGML models of old", 18, &err), KVANT_OK);
    expect_path_refused(path, KVANT_ERR_FORMAT, "not a GGUF file");
}

static void unreadable_file_is_named(void **state)
{
    char path[300];
    struct kvant_error err;
    snprintf(path, sizeof path, "%s/file.gguf", (char *)*state);
    assert_int_equal(kv_file_write(path, "GGUF", 4, &err), KVANT_OK);
    assert_int_equal(chmod(path, 0), 0);
    assert_int_equal(chmod(*state, 0755), 0);
    bool is_root = geteuid() == 0; /* who reads everything, so the test becomes nobody meanwhile */
    if (is_root && seteuid(65534) != 0) skip();
    bool refused = access(path, F_OK) == 0;
    if (refused) expect_path_refused(path, KVANT_ERR_IO, "Permission denied");
    if (is_root) assert_int_equal(seteuid(0), 0);
    if (!refused) skip(); /* the temporary folder's own parents are closed to others */
}

static void tiny_models_open_from_disk(void **state)
{
    char path[300];
    struct kvant_error err;
    static const char *const archs[] = { "llama", "qwen2", "qwen3" };
    static const int types[] = { TINY_F32, TINY_F16, TINY_BF16, TINY_Q8_0, TINY_Q4_0, TINY_Q4_1 };
    snprintf(path, sizeof path, "%s/file.gguf", (char *)*state);
    for (int i = 0; i < 18; i++) {
        struct tiny_gguf_options opt = { .arch = archs[i % 3], .weight_type = types[i / 3],
                                         .rope_llama3 = i % 2 == 0 };
        if (tiny_gguf_write(path, &opt, &err) != KVANT_OK) fail_msg("%s", err.message);
        struct kv_gguf *g;
        if (kv_gguf_open(&g, path, &err) != KVANT_OK) fail_msg("%s", err.message);
        const struct kv_gguf_tensor *t = kv_gguf_tensor_find(g, "blk.1.ffn_down.weight");
        assert_non_null(t);
        assert_int_equal(t->type->id, types[i / 3]);
        assert_true(t->dims[0] == 128 && t->dims[1] == 64);
        assert_int_equal(kv_gguf_tensor_find(g, "rope_freqs.weight") != NULL, i % 2 == 0);
        struct kv_gguf_array tokens;
        bool found;
        assert_int_equal(kv_gguf_get_array(g, "tokenizer.ggml.tokens", KV_GGUF_STRING, &tokens, &found, &err),
                         KVANT_OK);
        assert_int_equal(tokens.n, TINY_VOCAB_MIN);
        assert_memory_equal(tokens.strings[TINY_TOKEN_IM_END].data, "<|im_end|>", 10);
        kv_gguf_close(g);
    }
}

static void tiny_models_repeat_by_seed(void **state)
{
    (void)state;
    struct gguf_writer a, b, c;
    struct tiny_gguf_options opt = { .arch = "qwen2", .seed = 5, .key_bias_outlier = 100, .n_vocab = 300 };
    assert_int_equal(tiny_gguf_build(&a, &opt, NULL), KVANT_OK);
    assert_int_equal(tiny_gguf_build(&b, &opt, NULL), KVANT_OK);
    opt.seed = 6;
    assert_int_equal(tiny_gguf_build(&c, &opt, NULL), KVANT_OK);
    assert_int_equal(a.n_bytes, b.n_bytes);
    assert_memory_equal(a.data, b.data, a.n_bytes);
    assert_int_equal(a.n_bytes, c.n_bytes);
    assert_memory_not_equal(a.data, c.data, a.n_bytes);
    gguf_writer_free(&a);
    gguf_writer_free(&b);
    gguf_writer_free(&c);
}

static void tiny_models_refuse_bad_options(void **state)
{
    (void)state;
    struct gguf_writer w;
    struct kvant_error err;
    const struct tiny_gguf_options bad[] = {
        { .weight_type = 12 }, { .n_head = 3, .n_head_kv = 2 }, { .head_dim = 5 }, { .n_vocab = 100 },
        { .weight_type = TINY_Q8_0, .n_embd = 48 }, { .key_bias_outlier = 1 }, { .n_layer = -1 },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(tiny_gguf_build(&w, &bad[i], &err), KVANT_ERR_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_metadata_type_in_both_versions),
        cmocka_unit_test(absent_keys_are_no_error),
        cmocka_unit_test(wrong_types_and_ranges_are_named),
        cmocka_unit_test(tensors_lie_where_the_directory_says),
        cmocka_unit_test(nested_arrays_are_walked_to_a_bound),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(each_header_field_is_checked),
        cmocka_unit_test(counts_off_by_one_are_refused),
        cmocka_unit_test(damaged_bytes_are_harmless),
        cmocka_unit_test(duplicates_are_refused),
        cmocka_unit_test(names_are_bounded_and_printable),
        cmocka_unit_test(alignment_is_a_power_of_two_from_8),
        cmocka_unit_test(bools_are_0_or_1),
        cmocka_unit_test(tensor_types_and_shapes_are_checked),
        cmocka_unit_test(many_keys_are_indexed),
        cmocka_unit_test_setup_teardown(bad_paths_are_named, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(unreadable_file_is_named, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(tiny_models_open_from_disk, make_folder, remove_folder),
        cmocka_unit_test(tiny_models_repeat_by_seed),
        cmocka_unit_test(tiny_models_refuse_bad_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
