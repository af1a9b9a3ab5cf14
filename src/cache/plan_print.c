/*
 * The plan as YAML text and as a short name. Printing and reading are inverse: docs/format-plan.md section 4.
 */
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"
#include "base/hash.h"
#include "cache/plan_text.h"

/* ----------------------------------------------------------------------------------------------- text -- */

void kv_text_add_bytes(struct kv_text *t, const char *bytes, size_t n)
{
    if (t->failed) return;
    if (t->cap - t->n <= n) {
        size_t cap = 2 * t->cap + n + 256;
        char *data = kv_realloc(t->data, t->cap, cap, 1);
        if (!data) {
            t->failed = true;
            return;
        }
        t->data = data;
        t->cap = cap;
    }
    memcpy(t->data + t->n, bytes, n);
    t->n += n;
    t->data[t->n] = '\0';
}

void kv_text_add(struct kv_text *t, const char *format, ...)
{
    char buffer[256]; /* every caller's pieces are shorter: strings of unknown length go through
                       * kv_text_add_bytes */
    va_list args;
    va_start(args, format);
    int n = vsnprintf(buffer, sizeof buffer, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof buffer) t->failed = true;
    else kv_text_add_bytes(t, buffer, (size_t)n);
}

/* Bytes of the UTF-8 character at s that may stand in a quoted YAML scalar of one line; 0 if it may not. */
static size_t printable_bytes(const unsigned char *s)
{
    if (s[0] < 0x80) return s[0] >= 0x20 && s[0] < 0x7f;
    size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    uint32_t c = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3fu);
    }
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    /* control characters, line breaks, byte order mark and non-characters are not YAML text */
    if (c < 0xa0 || c == 0x2028 || c == 0x2029 || c == 0xfeff || c == 0xfffe || c == 0xffff) return 0;
    return n;
}

void kv_text_sanitise(char *s)
{
    while (*s) {
        size_t n = printable_bytes((const unsigned char *)s);
        if (n) s += n;
        else *s++ = '?';
    }
}

/* ----------------------------------------------------------------------------------------------- YAML -- */

static void add_quoted(struct kv_text *t, const char *s)
{
    kv_text_add_bytes(t, "\"", 1);
    while (*s) {
        size_t n = printable_bytes((const unsigned char *)s);
        if (*s == '"' || *s == '\\') kv_text_add_bytes(t, "\\", 1);
        kv_text_add_bytes(t, n ? s : "?", n ? n : 1);
        s += n ? n : 1;
    }
    kv_text_add_bytes(t, "\"", 1);
}

/* The shortest digits that read back as the same number. */
static void add_number(struct kv_text *t, double x)
{
    char buffer[32];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(buffer, sizeof buffer, "%.*g", digits, x);
        if (strtod(buffer, NULL) == x) break;
    }
    kv_text_add(t, "%s", buffer);
}

static bool same_row(const struct kvant_plan *plan, int a, int b)
{
    for (int head = 0; head < plan->n_head_kv; head++)
        if (!kv_recipe_equal(kv_plan_recipe_at(plan, a, head), kv_plan_recipe_at(plan, b, head)))
            return false;
    return true;
}

static void add_row(struct kv_text *t, const struct kvant_plan *plan, int layer)
{
    char recipe[32];
    bool one = true;
    for (int head = 1; head < plan->n_head_kv; head++)
        one &= kv_recipe_equal(kv_plan_recipe_at(plan, layer, 0), kv_plan_recipe_at(plan, layer, head));
    if (!one) kv_text_add(t, "[");
    for (int head = 0; head < (one ? 1 : plan->n_head_kv); head++) {
        kv_recipe_print(kv_plan_recipe_at(plan, layer, head), recipe, sizeof recipe);
        kv_text_add(t, "%s%s", head ? ", " : "", recipe);
    }
    if (!one) kv_text_add(t, "]");
}

/* "0-3:k8tm v8,4-23:k4c64 v4h", with what stands before the first and the next ranges and after the
 * layers. */
static void add_layers(struct kv_text *t, const struct kvant_plan *plan, const char *first_mark,
                       const char *next_mark, const char *colon)
{
    for (int first = 0, last; first < plan->n_layer; first = last + 1) {
        for (last = first; last + 1 < plan->n_layer && same_row(plan, first, last + 1);) last++;
        kv_text_add(t, "%s%d", first ? next_mark : first_mark, first);
        if (last > first) kv_text_add(t, "-%d", last);
        kv_text_add(t, "%s", colon);
        add_row(t, plan, first);
    }
}

static void add_measured(struct kv_text *t, const struct kv_plan_measured *m)
{
    const struct {
        const char *key;
        double value;
    } numbers[] = {
        { "page_bits", m->page_bits }, { "true_bits", m->true_bits }, { "context", m->context },
        { "kld_mean", m->kld_mean },   { "kld_p999", m->kld_p999 },   { "same_top_p", m->same_top_p },
        { "ppl_ratio", m->ppl_ratio },
    };
    const char *between = "measured: {";
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (!isfinite(numbers[i].value)) continue;
        kv_text_add(t, "%s%s: ", between, numbers[i].key);
        add_number(t, numbers[i].value);
        between = ", ";
    }
    const struct { const char *key, *value; } strings[] = { { "text", m->text }, { "tool", m->tool } };
    for (size_t i = 0; i < 2; i++) {
        if (!strings[i].value[0]) continue;
        kv_text_add(t, "%s%s: ", between, strings[i].key);
        add_quoted(t, strings[i].value);
        between = ", ";
    }
    if (between[0] == ',') kv_text_add(t, "}\n");
}

static void add_verdict(struct kv_text *t, const struct kvant_verdict *v)
{
    kv_text_add(t, "gate: {verdict: %s", v->collapsed ? "collapsed" : "passed");
    if (isfinite(v->same_top_p)) {
        kv_text_add(t, ", same_top_p: ");
        add_number(t, v->same_top_p);
    }
    if (isfinite(v->agreement)) {
        kv_text_add(t, ", agreement: ");
        add_number(t, v->agreement);
    }
    if (v->reason[0]) {
        kv_text_add(t, ", reason: ");
        add_quoted(t, v->reason);
    }
    kv_text_add(t, "}\n");
}

kvant_status kv_plan_write_yaml(const struct kvant_plan *plan, char **out, size_t *n_bytes,
                                struct kvant_error *err)
{
    /* Numbers are written with a point whatever the caller's locale. */
    locale_t c_locale = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    if (!c_locale) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for printing a plan");
    locale_t before = uselocale(c_locale);

    struct kv_text t = { 0 };
    kv_text_add(&t, "kvplan: %d\nmodel: {name: ", KV_PLAN_VERSION);
    add_quoted(&t, plan->model_name);
    kv_text_add(&t, ", architecture: ");
    add_quoted(&t, plan->architecture);
    kv_text_add(&t, ", layers: %d, kv_heads: %d, head_dim: %d", plan->n_layer, plan->n_head_kv,
                plan->head_dim);
    if (plan->fingerprint) {
        kv_text_add(&t, ", fingerprint: ");
        add_quoted(&t, plan->fingerprint);
    }
    kv_text_add(&t, "}\nsinks: %d\ntail: %d\nlayers:", plan->sinks, plan->tail);
    add_layers(&t, plan, "\n  ", "\n  ", ": ");
    kv_text_add(&t, "\n");
    add_measured(&t, &plan->measured);
    if (plan->has_verdict) add_verdict(&t, &plan->verdict);
    if (plan->center) kv_plan_write_center(&t, plan);
    if (plan->channels) kv_plan_write_channels(&t, plan);

    uselocale(before);
    freelocale(c_locale);
    if (t.failed) {
        kv_free(t.data);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the text of a plan");
    }
    *out = t.data;
    *n_bytes = t.n;
    return KVANT_OK;
}

kvant_status kv_plan_key(const struct kvant_plan *plan, char **out, struct kvant_error *err)
{
    size_t n_heads = (size_t)plan->n_layer * (size_t)plan->n_head_kv;
    struct kv_text t = { 0 };
    struct kv_hash hash;
    char digest[KV_HASH_TEXT_CAP];
    kv_hash_begin(&hash);
    for (size_t i = 0; i < n_heads; i++) {
        size_t at = i * (size_t)plan->head_dim;
        if (plan->recipe[i].key_centered && plan->center)
            kv_hash_add(&hash, plan->center + at, (size_t)plan->head_dim * sizeof *plan->center);
        if (plan->recipe[i].key_mixed && plan->channels)
            kv_hash_add(&hash, &plan->channels[i], sizeof plan->channels[i]);
    }
    kv_hash_end(&hash, digest);
    kv_text_add(&t, "sinks=%d tail=%d", plan->sinks, plan->tail);
    add_layers(&t, plan, " ", " ", ":");
    kv_text_add(&t, " tables %s", digest);
    if (t.failed) {
        kv_free(t.data);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for the text of a plan");
    }
    *out = t.data;
    return KVANT_OK;
}

kvant_status kvant_plan_print(const struct kvant_plan *plan, char *text, size_t cap, size_t *n_out,
                              struct kvant_error *err)
{
    char *yaml = NULL;
    size_t n_bytes;
    KV_TRY(kv_plan_write_yaml(plan, &yaml, &n_bytes, err));
    *n_out = n_bytes + 1;
    bool fits = cap > n_bytes;
    if (fits) memcpy(text, yaml, n_bytes + 1);
    kv_free(yaml);
    if (!fits)
        KV_FAIL(err, KVANT_ERR_SPACE, -1, "the plan takes %zu bytes, the buffer has %zu", n_bytes + 1, cap);
    return KVANT_OK;
}

kvant_status kvant_plan_save(const struct kvant_plan *plan, const char *path, struct kvant_error *err)
{
    char *yaml = NULL;
    size_t n_bytes;
    KV_TRY(kv_plan_write_yaml(plan, &yaml, &n_bytes, err));
    kvant_status status = kv_file_write(path, yaml, n_bytes, err);
    kv_free(yaml);
    return status;
}

/* ------------------------------------------------------------------------------------------ short name -- */

kvant_status kv_plan_set_name(struct kvant_plan *plan, const char *base, struct kvant_error *err)
{
    bool one = true;
    for (int layer = 1; layer < plan->n_layer; layer++) one &= same_row(plan, 0, layer);

    struct kv_text t = { 0 };
    if (one) add_row(&t, plan, 0);
    else if (base) kv_text_add_bytes(&t, base, strlen(base));
    else add_layers(&t, plan, "", ",", ":");
    if ((one || !base) && plan->sinks != KV_PLAN_SINKS_DEFAULT) kv_text_add(&t, ";sinks=%d", plan->sinks);
    if ((one || !base) && plan->tail != KV_PLAN_TAIL_DEFAULT) kv_text_add(&t, ";tail=%d", plan->tail);
    if (t.failed) {
        kv_free(t.data);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a plan's name");
    }
    /* Recipes are compact in names: "k4c64v3h". A file's name keeps its blanks. */
    if (one || !base) {
        size_t n = 0;
        for (size_t i = 0; i < t.n; i++)
            if (t.data[i] != ' ') t.data[n++] = t.data[i];
        t.data[n] = '\0';
    }
    kv_text_sanitise(t.data);
    kv_free(plan->name);
    plan->name = t.data;
    return KVANT_OK;
}
