/*
 * From what a user writes to a plan: layer grammar, ranges, settings, "default", or the name of a file.
 * docs/format-plan.md section 3 has the grammar:
 *
 *     [ recipe | ranges | "default" | file ] { ";" setting "=" value }
 */
#include <ctype.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"
#include "cache/plan_text.h"

/* Safe on any model without calibration: per-channel keys survive huge key biases, 64 tokens of them cost
 * half a bit, and rotated 4-bit values are nearly exact. 4.5 page bits. */
#define DEFAULT_RECIPE "k4c64 v4h"

struct spec {
    const char *text; /* whole specification                                   */
    size_t n;
    size_t i; /* next byte                                                     */
    struct kvant_error *err;
};

struct settings {
    int sinks, tail; /* -1 = not given */
    enum kv_preset_mode preset;
    size_t preset_at;
};

static struct kv_text_place place_at(size_t i)
{
    return (struct kv_text_place){ 0, (int64_t)i + 1 };
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static void skip_blanks(struct spec *s)
{
    while (s->i < s->n && is_blank(s->text[s->i])) s->i++;
}

/* First of the bytes in `stops` at or after s->i, or the end. */
static size_t find_stop(const struct spec *s, const char *stops)
{
    size_t i = s->i;
    while (i < s->n && (s->text[i] == '\0' || !strchr(stops, s->text[i]))) i++;
    return i;
}

/* -------------------------------------------------------------------------------------------- settings -- */

static bool word_equal(const char *text, size_t n, const char *word)
{
    return strlen(word) == n && memcmp(text, word, n) == 0;
}

static kvant_status parse_count(struct spec *s, const char *name, const char *text, size_t n, int max,
                                int *out)
{
    if (*out >= 0) return kv_text_refuse(s->err, place_at(s->i), "%s is set twice", name);
    if (!kv_text_int(text, n, max, out))
        return kv_text_refuse(s->err, place_at((size_t)(text - s->text)), "%s: a whole number from 0 to %d",
                              name, max);
    return KVANT_OK;
}

/* One "name=value" in [s->i, end). */
static kvant_status parse_setting(struct spec *s, size_t end, struct settings *out)
{
    size_t equals = find_stop(s, "=;"), name_end = equals, value = equals + 1, value_end = end;
    while (name_end > s->i && is_blank(s->text[name_end - 1])) name_end--;
    const char *name = s->text + s->i;
    size_t n_name = name_end - s->i;
    if (equals >= end || n_name == 0)
        return kv_text_refuse(s->err, place_at(s->i),
                              "a setting is written as sinks=4, tail=32 or preset=kivi");
    while (value < end && is_blank(s->text[value])) value++;
    while (value_end > value && is_blank(s->text[value_end - 1])) value_end--;
    const char *text = s->text + value;
    size_t n = value_end - value;

    if (word_equal(name, n_name, "sinks"))
        return parse_count(s, "sinks", text, n, KV_PLAN_SINKS_MAX, &out->sinks);
    if (word_equal(name, n_name, "tail"))
        return parse_count(s, "tail", text, n, KV_PLAN_TAIL_MAX, &out->tail);
    if (!word_equal(name, n_name, "preset"))
        return kv_text_refuse(s->err, place_at(s->i), "unknown setting; there are sinks, tail and preset");
    if (out->preset != KV_PRESET_AUTO) return kv_text_refuse(s->err, place_at(s->i), "preset is set twice");
    out->preset_at = s->i;
    if (word_equal(text, n, "kivi")) out->preset = KV_PRESET_KIVI;
    else if (word_equal(text, n, "pertoken")) out->preset = KV_PRESET_PERTOKEN;
    else return kv_text_refuse(s->err, place_at(value), "preset: kivi or pertoken");
    return KVANT_OK;
}

/* All settings after the first semicolon; s->i stands on it. */
static kvant_status parse_settings(struct spec *s, struct settings *out)
{
    while (s->i < s->n) {
        s->i++; /* the semicolon */
        skip_blanks(s);
        size_t end = find_stop(s, ";");
        KV_TRY(parse_setting(s, end, out));
        s->i = end;
    }
    return KVANT_OK;
}

/* --------------------------------------------------------------------------------------------- grammar -- */

/* "[k4c64 v3h, k2c64 v2h]": one recipe for each KV head. s->i stands on the bracket. */
static kvant_status parse_head_list(struct spec *s, struct kvant_plan *plan,
                                    struct kv_recipe *row /* (n_head_kv) */)
{
    size_t open = s->i++;
    for (int head = 0;; head++) {
        if (head == plan->n_head_kv)
            return kv_text_refuse(s->err, place_at(s->i), "more recipes than the model's %d KV heads",
                                  plan->n_head_kv);
        size_t end = find_stop(s, ",]");
        if (end == s->n)
            return kv_text_refuse(s->err, place_at(open), "the list of recipes is not closed by ]");
        KV_TRY(kv_recipe_parse_at(&row[head], s->text + s->i, end - s->i, place_at(s->i), s->err));
        s->i = end + 1;
        if (s->text[end] == ',') continue;
        if (head + 1 != plan->n_head_kv)
            return kv_text_refuse(s->err, place_at(open), "%d recipes for %d KV heads", head + 1,
                                  plan->n_head_kv);
        skip_blanks(s);
        return KVANT_OK;
    }
}

/* The recipe, or list of them, for one row of KV heads; ends at a comma or the end. */
static kvant_status parse_row(struct spec *s, struct kvant_plan *plan, struct kv_recipe *row)
{
    skip_blanks(s);
    if (s->i < s->n && s->text[s->i] == '[') {
        KV_TRY(parse_head_list(s, plan, row));
        if (s->i < s->n && s->text[s->i] != ',')
            return kv_text_refuse(s->err, place_at(s->i), "expected a comma or the end after ]");
        return KVANT_OK;
    }
    size_t end = find_stop(s, ",");
    KV_TRY(kv_recipe_parse_at(&row[0], s->text + s->i, end - s->i, place_at(s->i), s->err));
    for (int head = 1; head < plan->n_head_kv; head++) row[head] = row[0];
    s->i = end;
    return KVANT_OK;
}

static kvant_status parse_ranges(struct spec *s, struct kvant_plan *plan, bool *covered,
                                 struct kv_recipe *row)
{
    for (;;) {
        skip_blanks(s);
        size_t at = s->i, colon = find_stop(s, ":,");
        if (colon == s->n || s->text[colon] != ':')
            return kv_text_refuse(s->err, place_at(at), "expected layers and a colon, as in 0-3:k8v4");
        int first, last;
        KV_TRY(kv_layer_range_parse(s->text + at, colon - at, place_at(at), plan->n_layer, &first, &last,
                                    s->err));
        s->i = colon + 1;
        KV_TRY(parse_row(s, plan, row));
        for (int layer = first; layer <= last; layer++) {
            if (covered[layer])
                return kv_text_refuse(s->err, place_at(at), "layer %d already has a recipe", layer);
            covered[layer] = true;
            memcpy(&plan->recipe[(size_t)layer * (size_t)plan->n_head_kv], row,
                   (size_t)plan->n_head_kv * sizeof *row);
        }
        if (s->i == s->n) break;
        s->i++; /* the comma */
    }
    return kv_plan_check_covered(plan, covered, place_at(s->n), s->err);
}

/* The body [0, n) of a specification: one row of recipes for all layers, or ranges. */
static kvant_status parse_grammar(struct spec *s, struct kvant_plan *plan)
{
    struct kv_recipe *row = kv_alloc((size_t)plan->n_head_kv, sizeof *row);
    bool *covered = kv_alloc((size_t)plan->n_layer, sizeof *covered);
    kvant_status status = KVANT_OK;
    if (!row || !covered) status = kv_error_set(s->err, KVANT_ERR_MEMORY, -1, "no memory for a plan");
    else if (s->i < s->n && isdigit((unsigned char)s->text[s->i]))
        status = parse_ranges(s, plan, covered, row);
    else {
        status = parse_row(s, plan, row);
        if (status == KVANT_OK && s->i < s->n)
            status = kv_text_refuse(
                s->err, place_at(s->i),
                "one recipe holds for all layers; for several write ranges, as in 0-3:k8v4,4-23:k4v2");
        for (int layer = 0; status == KVANT_OK && layer < plan->n_layer; layer++)
            memcpy(&plan->recipe[(size_t)layer * (size_t)plan->n_head_kv], row,
                   (size_t)plan->n_head_kv * sizeof *row);
    }
    kv_free(row);
    kv_free(covered);
    return status;
}

/* ---------------------------------------------------------------------------------------------- open -- */

static bool starts_with_alias(const char *text, size_t n)
{
    static const char *const names[] = { "f16",  "f32",  "bf16", "q8_0",  "q4_0",
                                         "q4_1", "q5_0", "q5_1", "iq4_nl" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (word_equal(text, n, names[i])) return true;
    return false;
}

/* Grammar begins with a recipe, a list of them or a layer range; whatever else, and anything with a slash or
 * the ending of a YAML file, is a file's name. */
static bool looks_like_grammar(const char *text, size_t n)
{
    if (memchr(text, '/', n)) return false;
    if ((n > 5 && memcmp(text + n - 5, ".yaml", 5) == 0) || (n > 4 && memcmp(text + n - 4, ".yml", 4) == 0))
        return false;
    if (n >= 2 && text[0] == 'k' && isdigit((unsigned char)text[1])) return true;
    if (n >= 1 && text[0] == '[') return true;
    size_t i = 0;
    while (i < n && (isdigit((unsigned char)text[i]) || text[i] == '-' || is_blank(text[i]))) i++;
    if (i > 0 && i < n && text[i] == ':' && isdigit((unsigned char)text[0])) return true;
    return starts_with_alias(text, n);
}

static kvant_status read_file(struct kvant_plan **out, const struct kv_plan_dims *dims, const char *path,
                              const struct settings *settings, struct kvant_error *err)
{
    char *text = NULL;
    size_t n_bytes;
    if (strcmp(path, "-") != 0 && !kv_file_exists(path))
        KV_FAIL(err, KVANT_ERR_IO, -1, "%s: no such plan file, nor a recipe such as k4c64v3h, k8v8 or f16",
                path);
    KV_TRY(kv_file_read(path, KV_PLAN_FILE_BYTES_MAX, &text, &n_bytes, err));
    bool is_preset = false;
    kvant_status status = kv_plan_read_yaml(out, dims, text, n_bytes, path, settings->preset, &is_preset,
                                            err);
    kv_free(text);
    if (status != KVANT_OK) return kv_error_prefix(err, status, "%s", path);
    if (settings->preset != KV_PRESET_AUTO && !is_preset) {
        kvant_plan_close(*out);
        *out = NULL;
        return kv_text_refuse(err, place_at(settings->preset_at),
                              "preset= is for KVTuner presets, and %s is a kvant plan", path);
    }
    return KVANT_OK;
}

/* The body text[0, n): a plan without a name. */
static kvant_status open_body(struct kvant_plan **out, const struct kv_plan_dims *dims, const char *text,
                              size_t n, const struct settings *settings, const char **file_name,
                              struct kvant_error *err)
{
    struct spec body = { text, n, 0, err };
    skip_blanks(&body);
    while (body.n > body.i && is_blank(text[body.n - 1])) body.n--;
    const char *first = text + body.i;
    size_t n_body = body.n - body.i;

    bool is_default = n_body == 0 || word_equal(first, n_body, "default");
    if (!is_default && !looks_like_grammar(first, n_body)) {
        char *path = kv_strndup(first, n_body);
        if (!path) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a file's name");
        kvant_status status = read_file(out, dims, path, settings, err);
        kv_free(path);
        const char *slash = memrchr(first, '/', n_body);
        *file_name = slash ? slash + 1 : first;
        return status;
    }
    if (settings->preset != KV_PRESET_AUTO)
        return kv_text_refuse(err, place_at(settings->preset_at), "preset= is for KVTuner preset files");
    KV_TRY(kv_plan_alloc(out, dims, err));
    if (is_default) body = (struct spec){ DEFAULT_RECIPE, strlen(DEFAULT_RECIPE), 0, err };
    kvant_status status = parse_grammar(&body, *out);
    if (status != KVANT_OK) {
        kvant_plan_close(*out);
        *out = NULL;
    }
    return status;
}

kvant_status kv_plan_open(struct kvant_plan **out, const struct kv_plan_dims *dims, const char *spec,
                          struct kvant_error *err)
{
    *out = NULL;
    if (!spec) spec = "";
    struct spec s = { spec, strlen(spec), 0, err };
    struct settings settings = { -1, -1, KV_PRESET_AUTO, 0 };
    size_t n_body = s.i = find_stop(&s, ";");
    KV_TRY(parse_settings(&s, &settings));

    const char *file_name = NULL;
    KV_TRY(open_body(out, dims, spec, n_body, &settings, &file_name, err));
    struct kvant_plan *plan = *out;
    bool is_changed = (settings.sinks >= 0 && settings.sinks != plan->sinks) ||
                      (settings.tail >= 0 && settings.tail != plan->tail);
    if (settings.sinks >= 0) plan->sinks = settings.sinks;
    if (settings.tail >= 0) plan->tail = settings.tail;
    /* What passed was another plan; what had collapsed is not made sound by a setting alone. */
    if (is_changed && !plan->verdict.collapsed) kvant_plan_set_verdict(plan, NULL);
    kv_plan_settle(plan);

    kvant_status status = kv_plan_check(plan, err);
    char *name = NULL;
    if (status == KVANT_OK && file_name) {
        name = kv_strndup(file_name, (size_t)(spec + n_body - file_name));
        if (!name) status = kv_error_set(err, KVANT_ERR_MEMORY, -1, "no memory for a plan's name");
    }
    if (status == KVANT_OK) status = kv_plan_set_name(plan, name, err);
    kv_free(name);
    if (status != KVANT_OK) {
        kvant_plan_close(plan);
        *out = NULL;
    }
    return status;
}
