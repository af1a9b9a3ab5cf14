/*
 * Reading plans: kvant's own YAML and KVTuner's presets. docs/format-plan.md sections 4 and 6 specify both.
 *
 * A recursive descent over libyaml's events: the grammar is fixed, so nesting is bounded by the code that
 * reads it, and anything that is not expected where it stands is refused with its line and column. Aliases,
 * anchors, tags and further documents are never needed, so they are refused wherever they appear.
 */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/memory.h"
#include "cache/plan_text.h"

struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; replaced by next() */
    struct kvant_plan *plan;
    struct kvant_error *err;
};

static struct kv_text_place place_of(yaml_mark_t mark)
{
    return (struct kv_text_place){ (int64_t)mark.line + 1, (int64_t)mark.column + 1 };
}

#define REFUSE(r, ...) return kv_text_refuse((r)->err, place_of((r)->event.start_mark), __VA_ARGS__)

static kvant_status next(struct reader *r)
{
    yaml_event_delete(&r->event);
    if (!yaml_parser_parse(&r->parser, &r->event)) {
        memset(&r->event, 0, sizeof r->event);
        if (r->parser.error == YAML_MEMORY_ERROR)
            KV_FAIL(r->err, KVANT_ERR_MEMORY, -1, "no memory for reading a plan");
        /* the reader (bytes that are not UTF-8) knows no line, only an offset */
        if (r->parser.error == YAML_READER_ERROR)
            KV_FAIL(r->err, KVANT_ERR_FORMAT, (int64_t)r->parser.problem_offset,
                    "byte %zu: %s; a plan is UTF-8 text", r->parser.problem_offset,
                    r->parser.problem ? r->parser.problem : "not text");
        return kv_text_refuse(r->err, place_of(r->parser.problem_mark), "not YAML: %s",
                              r->parser.problem ? r->parser.problem : "syntax error");
    }
    const yaml_event_t *e = &r->event;
    if (e->type == YAML_ALIAS_EVENT) REFUSE(r, "aliases (*name) are not allowed in a plan");
    const yaml_char_t *anchor = e->type == YAML_SCALAR_EVENT           ? e->data.scalar.anchor
                                : e->type == YAML_SEQUENCE_START_EVENT ? e->data.sequence_start.anchor
                                : e->type == YAML_MAPPING_START_EVENT  ? e->data.mapping_start.anchor
                                                                       : NULL;
    const yaml_char_t *tag = e->type == YAML_SCALAR_EVENT           ? e->data.scalar.tag
                             : e->type == YAML_SEQUENCE_START_EVENT ? e->data.sequence_start.tag
                             : e->type == YAML_MAPPING_START_EVENT  ? e->data.mapping_start.tag
                                                                    : NULL;
    if (anchor) REFUSE(r, "anchors (&name) are not allowed in a plan");
    if (tag) REFUSE(r, "tags (!name) are not allowed in a plan");
    return KVANT_OK;
}

/* The current scalar's text; NUL bytes cannot hide anything in it. */
static const char *text_of(const struct reader *r)
{
    return (const char *)r->event.data.scalar.value;
}

static size_t bytes_of(const struct reader *r)
{
    return r->event.data.scalar.length;
}

static kvant_status next_scalar(struct reader *r, const char *what)
{
    KV_TRY(next(r));
    if (r->event.type != YAML_SCALAR_EVENT) REFUSE(r, "%s: a single value is expected here", what);
    if (memchr(text_of(r), '\0', bytes_of(r))) REFUSE(r, "%s: holds a zero byte", what);
    return KVANT_OK;
}

static kvant_status next_mapping(struct reader *r, const char *what)
{
    KV_TRY(next(r));
    if (r->event.type != YAML_MAPPING_START_EVENT)
        REFUSE(r, "%s: a mapping (key: value) is expected here", what);
    return KVANT_OK;
}

/* The next key of the mapping that is open, or *end. */
static kvant_status next_key(struct reader *r, const char *what, bool *end)
{
    KV_TRY(next(r));
    *end = r->event.type == YAML_MAPPING_END_EVENT;
    if (*end) return KVANT_OK;
    if (r->event.type != YAML_SCALAR_EVENT) REFUSE(r, "%s: a key must be a plain word or number", what);
    if (memchr(text_of(r), '\0', bytes_of(r))) REFUSE(r, "%s: a key holds a zero byte", what);
    return KVANT_OK;
}

static kvant_status next_int(struct reader *r, const char *what, int max, int *out)
{
    KV_TRY(next_scalar(r, what));
    if (!kv_text_int(text_of(r), bytes_of(r), max, out))
        REFUSE(r, "%s: a whole number from 0 to %d", what, max);
    return KVANT_OK;
}

static kvant_status next_number(struct reader *r, const char *what, double *out)
{
    KV_TRY(next_scalar(r, what));
    size_t n = bytes_of(r);
    const char *text = text_of(r);
    bool ok = n > 0 && n < 40 && strspn(text, "+-.0123456789eE") == n;
    if (ok) { /* decimal points whatever the caller's locale */
        locale_t c_locale = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
        if (!c_locale) KV_FAIL(r->err, KVANT_ERR_MEMORY, -1, "no memory for reading a plan");
        char *end;
        *out = strtod_l(text, &end, c_locale);
        freelocale(c_locale);
        ok = end == text + n && isfinite(*out);
    }
    if (!ok) REFUSE(r, "%s: a finite decimal number is expected", what);
    return KVANT_OK;
}

static kvant_status next_string(struct reader *r, const char *what, char *out, size_t cap)
{
    KV_TRY(next_scalar(r, what));
    if (bytes_of(r) >= cap) REFUSE(r, "%s: at most %zu bytes", what, cap - 1);
    memcpy(out, text_of(r), bytes_of(r) + 1);
    kv_text_sanitise(out);
    return KVANT_OK;
}

static bool key_is(const struct reader *r, const char *word)
{
    return strlen(word) == bytes_of(r) && memcmp(text_of(r), word, bytes_of(r)) == 0;
}

/* Index of the current key in names[n], marking it in *seen; refuses unknown and repeated ones. */
static kvant_status find_key(const struct reader *r, const char *what, const char *const *names, int n,
                             unsigned *seen, int *out)
{
    for (int i = 0; i < n; i++) {
        if (!key_is(r, names[i])) continue;
        if (*seen >> i & 1) REFUSE(r, "%s: key %s stands twice", what, names[i]);
        *seen |= 1u << i;
        *out = i;
        return KVANT_OK;
    }
    REFUSE(r, "%s: unknown key '%.40s'", what, text_of(r));
}

/* ----------------------------------------------------------------------------------------------- model -- */

static kvant_status expect_int(struct reader *r, const char *what, int wanted)
{
    int value;
    KV_TRY(next_int(r, what, 999999999, &value));
    if (value == wanted) return KVANT_OK;
    KV_FAIL(r->err, KVANT_ERR_MISMATCH, place_of(r->event.start_mark).line,
            "line %lld: %s: the plan says %d, this model has %d: it is a plan for another model",
            (long long)place_of(r->event.start_mark).line, what, value, wanted);
}

/* wanted NULL or empty: anything goes. */
static kvant_status expect_string(struct reader *r, const char *what, const char *wanted)
{
    KV_TRY(next_scalar(r, what));
    if (!wanted || !wanted[0] || key_is(r, wanted)) return KVANT_OK;
    KV_FAIL(r->err, KVANT_ERR_MISMATCH, place_of(r->event.start_mark).line,
            "line %lld: %s: the plan says '%.80s', this model has '%.80s': it is a plan for another model; "
            "tune or "
            "convert one for this model",
            (long long)place_of(r->event.start_mark).line, what, text_of(r), wanted);
}

static kvant_status read_model(struct reader *r)
{
    static const char *const names[] = { "name",     "architecture", "layers",
                                         "kv_heads", "head_dim",     "fingerprint" };
    unsigned seen = 0;
    KV_TRY(next_mapping(r, "model"));
    for (;;) {
        bool end;
        int key = 0;
        KV_TRY(next_key(r, "model", &end));
        if (end) return KVANT_OK;
        KV_TRY(find_key(r, "model", names, 6, &seen, &key));
        switch (key) {
        case 0: KV_TRY(next_scalar(r, "model name")); break; /* for the eye: the fingerprint decides */
        case 1: KV_TRY(expect_string(r, "architecture", r->plan->architecture)); break;
        case 2: KV_TRY(expect_int(r, "layers", r->plan->n_layer)); break;
        case 3: KV_TRY(expect_int(r, "kv_heads", r->plan->n_head_kv)); break;
        case 4: KV_TRY(expect_int(r, "head_dim", r->plan->head_dim)); break;
        default: KV_TRY(expect_string(r, "fingerprint", r->plan->fingerprint)); break;
        }
    }
}

/* ---------------------------------------------------------------------------------------------- layers -- */

static kvant_status recipe_here(struct reader *r, struct kv_recipe *out)
{
    struct kv_text_place place = place_of(r->event.start_mark);
    if (r->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE) place.column++; /* behind the quote */
    return kv_recipe_parse_at(out, text_of(r), bytes_of(r), place, r->err);
}

/* A recipe for all KV heads, or a sequence with one for each. */
static kvant_status read_row(struct reader *r, struct kv_recipe *row /* (n_head_kv) */)
{
    int n = r->plan->n_head_kv;
    KV_TRY(next(r));
    if (r->event.type == YAML_SCALAR_EVENT) {
        KV_TRY(recipe_here(r, &row[0]));
        for (int head = 1; head < n; head++) row[head] = row[0];
        return KVANT_OK;
    }
    if (r->event.type != YAML_SEQUENCE_START_EVENT)
        REFUSE(r, "a recipe or a list of %d recipes is expected here", n);
    for (int head = 0;; head++) {
        KV_TRY(next(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT) {
            if (head != n) REFUSE(r, "%d recipes for %d KV heads", head, n);
            return KVANT_OK;
        }
        if (r->event.type != YAML_SCALAR_EVENT) REFUSE(r, "a recipe is expected here");
        if (head == n) REFUSE(r, "more recipes than the model's %d KV heads", n);
        KV_TRY(recipe_here(r, &row[head]));
    }
}

static kvant_status read_layer_rows(struct reader *r, bool *covered, struct kv_recipe *row)
{
    struct kvant_plan *plan = r->plan;
    KV_TRY(next_mapping(r, "layers"));
    struct kv_text_place start = place_of(r->event.start_mark);
    for (;;) {
        bool end;
        int first, last;
        KV_TRY(next_key(r, "layers", &end));
        if (end) return kv_plan_check_covered(plan, covered, start, r->err);
        struct kv_text_place place = place_of(r->event.start_mark);
        KV_TRY(kv_layer_range_parse(text_of(r), bytes_of(r), place, plan->n_layer, &first, &last, r->err));
        for (int layer = first; layer <= last; layer++) {
            if (covered[layer]) return kv_text_refuse(r->err, place, "layer %d already has a recipe", layer);
            covered[layer] = true;
        }
        KV_TRY(read_row(r, row));
        for (int layer = first; layer <= last; layer++)
            memcpy(&plan->recipe[(size_t)layer * (size_t)plan->n_head_kv], row,
                   (size_t)plan->n_head_kv * sizeof *row);
    }
}

static kvant_status read_layers(struct reader *r)
{
    bool *covered = kv_alloc((size_t)r->plan->n_layer, sizeof *covered);
    struct kv_recipe *row = kv_alloc((size_t)r->plan->n_head_kv, sizeof *row);
    kvant_status status = covered && row
                              ? read_layer_rows(r, covered, row)
                              : kv_error_set(r->err, KVANT_ERR_MEMORY, -1, "no memory for reading a plan");
    kv_free(covered);
    kv_free(row);
    return status;
}

/* ------------------------------------------------------------------------------ measured, gate, tables -- */

static kvant_status read_measured(struct reader *r)
{
    static const char *const names[] = { "page_bits",  "true_bits", "context", "kld_mean", "kld_p999",
                                         "same_top_p", "ppl_ratio", "text",    "tool" };
    struct kv_plan_measured *m = &r->plan->measured;
    double *const numbers[] = { &m->page_bits, &m->true_bits,  &m->context,  &m->kld_mean,
                                &m->kld_p999,  &m->same_top_p, &m->ppl_ratio };
    unsigned seen = 0;
    KV_TRY(next_mapping(r, "measured"));
    for (;;) {
        bool end;
        int key = 0;
        KV_TRY(next_key(r, "measured", &end));
        if (end) return KVANT_OK;
        KV_TRY(find_key(r, "measured", names, 9, &seen, &key));
        if (key < 7) KV_TRY(next_number(r, names[key], numbers[key]));
        else if (key == 7) KV_TRY(next_string(r, "text", m->text, sizeof m->text));
        else KV_TRY(next_string(r, "tool", m->tool, sizeof m->tool));
    }
}

static kvant_status read_gate(struct reader *r)
{
    static const char *const names[] = { "verdict", "same_top_p", "agreement", "reason" };
    struct kvant_verdict v = { .same_top_p = NAN, .agreement = NAN };
    unsigned seen = 0;
    KV_TRY(next_mapping(r, "gate"));
    for (;;) {
        bool end;
        int key = 0;
        KV_TRY(next_key(r, "gate", &end));
        if (end && !(seen & 1)) REFUSE(r, "gate: verdict is missing");
        if (end) break;
        KV_TRY(find_key(r, "gate", names, 4, &seen, &key));
        switch (key) {
        case 0:
            KV_TRY(next_scalar(r, "verdict"));
            v.collapsed = key_is(r, "collapsed");
            if (!v.collapsed && !key_is(r, "passed")) REFUSE(r, "verdict: passed or collapsed");
            break;
        case 1: KV_TRY(next_number(r, names[key], &v.same_top_p)); break;
        case 2: KV_TRY(next_number(r, names[key], &v.agreement)); break;
        default: KV_TRY(next_string(r, "reason", v.reason, sizeof v.reason)); break;
        }
    }
    kvant_plan_set_verdict(r->plan, &v);
    return KVANT_OK;
}

static kvant_status read_table(struct reader *r, const char *what,
                               kvant_status (*read)(struct kvant_plan *, const char *, size_t,
                                                    struct kv_text_place, struct kvant_error *))
{
    KV_TRY(next_scalar(r, what));
    struct kv_text_place place = place_of(r->event.start_mark);
    if (r->event.data.scalar.style == YAML_LITERAL_SCALAR_STYLE)
        place.line++; /* the text begins below the bar */
    return read(r->plan, text_of(r), bytes_of(r), place, r->err);
}

/* ---------------------------------------------------------------------------------------------- kvplan -- */

/* From behind the key `kvplan` to the end of the mapping. */
static kvant_status read_kvplan(struct reader *r)
{
    static const char *const names[] = { "kvplan", "model",    "sinks",  "tail",
                                         "layers", "measured", "center", "channels", "gate" };
    unsigned seen = 1;
    int version;
    KV_TRY(next_int(r, "kvplan", 999999999, &version));
    if (version != KV_PLAN_VERSION)
        KV_FAIL(r->err, KVANT_ERR_UNSUPPORTED, place_of(r->event.start_mark).line,
                "line %lld: kvplan version %d; this program reads version %d",
                (long long)place_of(r->event.start_mark).line, version, KV_PLAN_VERSION);
    for (;;) {
        bool end;
        int key = 0;
        KV_TRY(next_key(r, "plan", &end));
        if (end) {
            if (!(seen >> 4 & 1)) REFUSE(r, "the plan has no layers");
            return KVANT_OK;
        }
        KV_TRY(find_key(r, "plan", names, 9, &seen, &key));
        switch (key) {
        case 1: KV_TRY(read_model(r)); break;
        case 2: KV_TRY(next_int(r, "sinks", KV_PLAN_SINKS_MAX, &r->plan->sinks)); break;
        case 3: KV_TRY(next_int(r, "tail", KV_PLAN_TAIL_MAX, &r->plan->tail)); break;
        case 4: KV_TRY(read_layers(r)); break;
        case 5: KV_TRY(read_measured(r)); break;
        case 6: KV_TRY(read_table(r, "center", kv_plan_read_center)); break;
        case 7: KV_TRY(read_table(r, "channels", kv_plan_read_channels)); break;
        default: KV_TRY(read_gate(r)); break;
        }
    }
}

/* ---------------------------------------------------------------------------------------------- preset -- */

struct preset_layer {
    int key_bits, value_bits; /* -1 = absent */
};

static kvant_status next_bits(struct reader *r, const char *what, int *bits)
{
    KV_TRY(next_int(r, what, 16, bits));
    if (*bits != 2 && *bits != 3 && *bits != 4 && *bits != 8 && *bits != 16)
        REFUSE(r, "%s: 2, 3, 4, 8 or 16", what);
    return KVANT_OK;
}

static kvant_status read_preset_layer(struct reader *r, struct preset_layer *out)
{
    static const char *const names[] = { "nbits_key", "nbits_value" };
    unsigned seen = 0;
    KV_TRY(next_mapping(r, "layer"));
    for (;;) {
        bool end;
        int key = 0;
        KV_TRY(next_key(r, "layer", &end));
        if (end && seen == 3) return KVANT_OK;
        if (end) REFUSE(r, "%s is missing", seen & 1 ? names[1] : names[0]);
        KV_TRY(find_key(r, "layer", names, 2, &seen, &key));
        KV_TRY(next_bits(r, names[key], key ? &out->value_bits : &out->key_bits));
    }
}

static kvant_status read_preset_rows(struct reader *r, struct preset_layer *layers, bool *covered,
                                     enum kv_preset_mode mode)
{
    struct kvant_plan *plan = r->plan;
    struct kv_text_place start = place_of(r->event.start_mark);
    for (bool end = false; !end;) { /* the first key has been read already */
        int layer;
        if (!kv_text_int(text_of(r), bytes_of(r), 999999999, &layer))
            REFUSE(r, "a KVTuner preset has layer numbers as keys");
        if (layer >= plan->n_layer)
            KV_FAIL(r->err, KVANT_ERR_MISMATCH, place_of(r->event.start_mark).line,
                    "line %lld: layer %d: the model has layers 0 to %d: it is a preset for another model",
                    (long long)place_of(r->event.start_mark).line, layer, plan->n_layer - 1);
        if (covered[layer]) REFUSE(r, "layer %d already has its bits", layer);
        covered[layer] = true;
        KV_TRY(read_preset_layer(r, &layers[layer]));
        KV_TRY(next_key(r, "preset", &end));
    }
    KV_TRY(kv_plan_check_covered(plan, covered, start, r->err));

    plan->sinks = 0;
    plan->tail = mode == KV_PRESET_KIVI ? KV_PRESET_KIVI_TAIL : 0;
    for (int layer = 0; layer < plan->n_layer; layer++)
        for (int head = 0; head < plan->n_head_kv; head++)
            plan->recipe[(size_t)layer * (size_t)plan->n_head_kv + (size_t)head] =
                kv_preset_recipe(mode, layers[layer].key_bits, layers[layer].value_bits);
    return KVANT_OK;
}

/* The current event is the first key, a layer number. */
static kvant_status read_preset(struct reader *r, const char *name, enum kv_preset_mode mode)
{
    const char *slash = name ? strrchr(name, '/') : NULL, *base = slash ? slash + 1 : name ? name : "";
    if (mode == KV_PRESET_AUTO) mode = strstr(base, "kivi") ? KV_PRESET_KIVI : KV_PRESET_PERTOKEN;
    struct preset_layer *layers = kv_alloc((size_t)r->plan->n_layer, sizeof *layers);
    bool *covered = kv_alloc((size_t)r->plan->n_layer, sizeof *covered);
    kvant_status status = layers && covered
                              ? read_preset_rows(r, layers, covered, mode)
                              : kv_error_set(r->err, KVANT_ERR_MEMORY, -1, "no memory for reading a plan");
    kv_free(layers);
    kv_free(covered);
    return status;
}

/* -------------------------------------------------------------------------------------------- document -- */

static kvant_status read_stream(struct reader *r, const char *name, enum kv_preset_mode mode, bool *is_preset)
{
    bool end;
    int layer;
    KV_TRY(next(r)); /* start of the stream */
    KV_TRY(next(r));
    if (r->event.type == YAML_STREAM_END_EVENT) REFUSE(r, "the file holds no plan");
    if (r->event.data.document_start.tag_directives.start != r->event.data.document_start.tag_directives.end)
        REFUSE(r, "tag directives are not allowed in a plan");
    KV_TRY(next(r));
    if (r->event.type != YAML_MAPPING_START_EVENT)
        REFUSE(r, "not a plan: it begins with the line 'kvplan: 1'");
    KV_TRY(next_key(r, "plan", &end));
    if (!end && key_is(r, "kvplan")) {
        KV_TRY(read_kvplan(r));
    } else if (!end && kv_text_int(text_of(r), bytes_of(r), 999999999, &layer)) {
        *is_preset = true;
        KV_TRY(read_preset(r, name, mode));
    } else {
        REFUSE(r, "not a plan: it begins with the line 'kvplan: 1'");
    }
    KV_TRY(next(r)); /* end of the document */
    KV_TRY(next(r));
    if (r->event.type != YAML_STREAM_END_EVENT) REFUSE(r, "a plan is one document; this is a second one");
    kv_plan_settle(r->plan);
    return kv_plan_check(r->plan, r->err);
}

kvant_status kv_plan_read_yaml(struct kvant_plan **out, const struct kv_plan_dims *dims, const char *text,
                               size_t n_bytes, const char *name, enum kv_preset_mode mode, bool *is_preset,
                               struct kvant_error *err)
{
    *out = NULL;
    if (n_bytes > KV_PLAN_FILE_BYTES_MAX)
        KV_FAIL(err, KVANT_ERR_FORMAT, -1, "%zu bytes: a plan has at most %zu", n_bytes,
                KV_PLAN_FILE_BYTES_MAX);
    struct reader r = { .err = err };
    if (!yaml_parser_initialize(&r.parser))
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for reading a plan");
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n_bytes);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);

    bool preset = false;
    kvant_status status = kv_plan_alloc(&r.plan, dims, err);
    if (status == KVANT_OK) status = read_stream(&r, name, mode, &preset);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    if (status != KVANT_OK) {
        kvant_plan_close(r.plan);
        return status;
    }
    if (is_preset) *is_preset = preset;
    *out = r.plan;
    return KVANT_OK;
}
