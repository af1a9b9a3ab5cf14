/* Reading a report: the checks of docs/format-report.md, in its order. */
#include "report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json_fields.h"
#include "program.h"
#include "recipe_text.h"

#define TEXT_MAX    1024  /* bytes of names and reasons    */
#define COMMAND_MAX 65536 /* bytes of command lines, specs */
#define TOKENS_MAX  1e10
#define BYTES_MAX   1e18

#define COUNT(array) (sizeof(array) / sizeof *(array))

const char *report_source_name(enum report_source source)
{
    static const char *const names[] = { "kvant", "kvtuner", "uniform" };
    return names[source];
}

const char *report_recipe(const struct report_point *point, int64_t layer, int64_t head)
{
    const json_t *row = json_array_get(point->layers, (size_t)layer);
    return json_string_value(json_is_array(row) ? json_array_get(row, (size_t)head) : row);
}

const struct report_prediction *report_prediction_at(const struct report_point *point, double context)
{
    for (size_t i = 0; i < point->n_predicted; i++)
        if (point->predicted[i].context == context) return &point->predicted[i];
    return NULL;
}

/* -------------------------------------------------------------------------------------- head and model -- */

static bool read_head(struct json_fields *f, struct report *r)
{
    const char *format;
    int64_t version;
    if (!json_is_object(r->root)) return fields_refuse(f, "document", "is not an object");
    if (!field_text(f, r->root, "format", FIELD_REQUIRED, TEXT_MAX, &format)) return false;
    if (strcmp(format, "kvant-tune-report") != 0)
        return fields_refuse(f, "format",
                             "is not \"kvant-tune-report\"; kvant tune --report writes such a file");
    if (!field_integer(f, r->root, "version", FIELD_REQUIRED, 1, 1000000, 0, &version)) return false;
    if (version != 1)
        return fields_refuse(f, "version", "is %lld; this kvant reads version 1", (long long)version);
    return field_text(f, r->root, "tool", FIELD_OPTIONAL, TEXT_MAX, &r->tool) &&
           field_text(f, r->root, "made", FIELD_OPTIONAL, TEXT_MAX, &r->made);
}

static bool read_model(struct json_fields *f, struct report *r)
{
    static const struct text_field texts[] = {
        { "name", offsetof(struct report_model, name), FIELD_REQUIRED },
        { "architecture", offsetof(struct report_model, architecture), FIELD_OPTIONAL },
        { "fingerprint", offsetof(struct report_model, fingerprint), FIELD_OPTIONAL },
        { "quantization", offsetof(struct report_model, quantization), FIELD_OPTIONAL },
    };
    struct report_model *m = &r->model;
    const json_t *object;
    if (!field_object(f, r->root, "model", FIELD_REQUIRED, &object)) return false;
    size_t mark = fields_enter(f, "model");
    bool ok = fields_texts(f, object, texts, COUNT(texts), TEXT_MAX, m) &&
              field_integer(f, object, "n_layer", FIELD_REQUIRED, 1, REPORT_LAYERS_MAX, 0, &m->n_layer) &&
              field_integer(f, object, "n_head_kv", FIELD_REQUIRED, 1, REPORT_HEADS_MAX, 0, &m->n_head_kv) &&
              field_integer(f, object, "n_head", FIELD_OPTIONAL, 1, REPORT_HEADS_MAX, 0, &m->n_head) &&
              field_integer(f, object, "n_ctx_train", FIELD_OPTIONAL, 1, (int64_t)TOKENS_MAX, 0,
                            &m->n_ctx_train) &&
              field_number(f, object, "head_dim", FIELD_OPTIONAL, 1, 65536, &m->head_dim) &&
              field_number(f, object, "file_bytes", FIELD_OPTIONAL, 0, BYTES_MAX, &m->file_bytes);
    fields_leave(f, mark);
    return ok;
}

static bool read_machine(struct json_fields *f, struct report *r)
{
    const json_t *object;
    if (!field_object(f, r->root, "machine", FIELD_OPTIONAL, &object)) return false;
    size_t mark = fields_enter(f, "machine");
    bool ok = field_text(f, object, "cpu", FIELD_OPTIONAL, TEXT_MAX, &r->machine.cpu) &&
              field_number(f, object, "n_threads", FIELD_OPTIONAL, 1, 65536, &r->machine.n_threads) &&
              field_number(f, object, "read_gb_per_s", FIELD_OPTIONAL, 0, 1e6, &r->machine.read_gb_per_s);
    fields_leave(f, mark);
    return ok;
}

static bool read_settings(struct json_fields *f, struct report *r)
{
    static const struct text_field texts[] = {
        { "method", offsetof(struct report_settings, method), FIELD_OPTIONAL },
        { "granularity", offsetof(struct report_settings, granularity), FIELD_OPTIONAL },
        { "text", offsetof(struct report_settings, text), FIELD_OPTIONAL },
        { "command", offsetof(struct report_settings, command), FIELD_OPTIONAL },
    };
    static const struct number_field numbers[] = {
        { "context", offsetof(struct report_settings, context), 1, TOKENS_MAX, FIELD_OPTIONAL },
        { "n_tokens_tuning", offsetof(struct report_settings, n_tokens_tuning), 0, TOKENS_MAX,
          FIELD_OPTIONAL },
        { "n_tokens_verify", offsetof(struct report_settings, n_tokens_verify), 0, TOKENS_MAX,
          FIELD_OPTIONAL },
    };
    struct report_settings *s = &r->settings;
    const json_t *object, *budgets;
    if (!field_object(f, r->root, "settings", FIELD_OPTIONAL, &object)) return false;
    size_t mark = fields_enter(f, "settings");
    bool ok = fields_texts(f, object, texts, COUNT(texts), COMMAND_MAX, s) &&
              fields_numbers(f, object, numbers, COUNT(numbers), s) &&
              field_flag(f, object, "mix", &s->mix) &&
              field_integer(f, object, "seed", FIELD_OPTIONAL, 0, INT64_MAX, -1, &s->seed) &&
              field_list(f, object, "budgets", FIELD_OPTIONAL, COUNT(s->budgets), &budgets);
    s->has_mix = ok && json_is_boolean(json_object_get(object, "mix"));
    if (ok && budgets) {
        s->n_budgets = json_array_size(budgets);
        ok = field_numbers(f, budgets, "budgets", s->n_budgets, 0.0, 64.0, false, s->budgets);
    }
    fields_leave(f, mark);
    return ok;
}

/* ---------------------------------------------------------------------------------------------- points -- */

static bool recipe_check(struct json_fields *f, const json_t *value, const char *name)
{
    struct recipe_text recipe;
    const char *text = json_string_value(value);
    if (text && recipe_text_parse(text, &recipe)) return true;
    return fields_refuse(f, name, "is not a recipe such as \"k4c64 v3h\"");
}

/* One text per layer, or a list with one text per KV head. */
static bool read_layers(struct json_fields *f, const struct report *r, const json_t *object,
                        struct report_point *p)
{
    if (!field_list(f, object, "layers", FIELD_OPTIONAL, REPORT_LAYERS_MAX, &p->layers)) return false;
    if (!p->layers) return true;
    if ((int64_t)json_array_size(p->layers) != r->model.n_layer)
        return fields_refuse(f, "layers", "has %zu elements; the model has %lld layers",
                             json_array_size(p->layers), (long long)r->model.n_layer);
    for (size_t i = 0; i < json_array_size(p->layers); i++) {
        const json_t *row = json_array_get(p->layers, i);
        char name[64];
        snprintf(name, sizeof name, "layers[%zu]", i);
        if (!json_is_array(row)) {
            if (!recipe_check(f, row, name)) return false;
            continue;
        }
        if ((int64_t)json_array_size(row) != r->model.n_head_kv)
            return fields_refuse(f, name, "has %zu recipes; the model has %lld KV heads",
                                 json_array_size(row), (long long)r->model.n_head_kv);
        for (size_t j = 0; j < json_array_size(row); j++) {
            snprintf(name, sizeof name, "layers[%zu][%zu]", i, j);
            if (!recipe_check(f, json_array_get(row, j), name)) return false;
        }
    }
    return true;
}

static bool read_predicted(struct json_fields *f, const json_t *object, struct report_point *p)
{
    static const struct number_field numbers[] = {
        { "context", offsetof(struct report_prediction, context), 1, TOKENS_MAX, FIELD_REQUIRED },
        { "tokens_per_s", offsetof(struct report_prediction, tokens_per_s), 0, 1e9, FIELD_OPTIONAL },
        { "memory_bytes", offsetof(struct report_prediction, memory_bytes), 0, BYTES_MAX, FIELD_REQUIRED },
    };
    const json_t *list;
    if (!field_list(f, object, "predicted", FIELD_OPTIONAL, REPORT_CONTEXTS_MAX, &list)) return false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        size_t mark = fields_enter(f, "predicted[%d]", (int)i);
        bool ok = json_is_object(row) ? fields_numbers(f, row, numbers, COUNT(numbers), &p->predicted[i])
                                      : fields_refuse(f, "", "is not an object");
        if (ok && i > 0 && !(p->predicted[i].context > p->predicted[i - 1].context))
            ok = fields_refuse(f, "context", "is not larger than the one before");
        fields_leave(f, mark);
        if (!ok) return false;
        p->n_predicted = i + 1;
    }
    return true;
}

static bool read_gate(struct json_fields *f, const json_t *object, struct report_point *p)
{
    const json_t *gate;
    const char *verdict = NULL;
    p->gate_agreement = NAN;
    if (!field_object(f, object, "gate", FIELD_OPTIONAL, &gate)) return false;
    if (!gate) return true;
    size_t mark = fields_enter(f, "gate");
    bool ok = field_text(f, gate, "verdict", FIELD_REQUIRED, TEXT_MAX, &verdict) &&
              field_text(f, gate, "reason", FIELD_OPTIONAL, TEXT_MAX, &p->gate_reason) &&
              field_number(f, gate, "agreement", FIELD_OPTIONAL, 0, 1, &p->gate_agreement);
    if (ok && strcmp(verdict, "pass") == 0)
        p->verdict = REPORT_PASS;
    else if (ok && strcmp(verdict, "collapsed") == 0)
        p->verdict = REPORT_COLLAPSED;
    else if (ok)
        ok = fields_refuse(f, "verdict", "is neither \"pass\" nor \"collapsed\"");
    fields_leave(f, mark);
    return ok;
}

static bool read_size(struct json_fields *f, const json_t *object, enum field_need need,
                      struct report_point *p)
{
    const struct number_field numbers[] = {
        { "true_bits", offsetof(struct report_point, true_bits), 0.01, 1000, need },
        { "page_bits", offsetof(struct report_point, page_bits), 0.01, 64, FIELD_OPTIONAL },
        { "equivalent_bits", offsetof(struct report_point, equivalent_bits), 0.01, 64, FIELD_OPTIONAL },
        { "bytes_per_token", offsetof(struct report_point, bytes_per_token), 0, BYTES_MAX, FIELD_OPTIONAL },
    };
    return fields_numbers(f, object, numbers, COUNT(numbers), p) && read_predicted(f, object, p);
}

static bool read_quality(struct json_fields *f, const json_t *object, struct report_point *p)
{
    return field_divergence(f, object, "kld_mean", FIELD_REQUIRED, &p->kld_mean) &&
           (json_object_get(object, "kld_p999")
                ? field_divergence(f, object, "kld_p999", FIELD_OPTIONAL, &p->kld_p999)
                : (p->kld_p999 = NAN, true)) &&
           field_number(f, object, "same_top_p", FIELD_OPTIONAL, 0, 100, &p->same_top_p) &&
           field_number(f, object, "ppl_ratio", FIELD_OPTIONAL, 0, 1e300, &p->ppl_ratio) &&
           field_number(f, object, "kld_predicted", FIELD_OPTIONAL, 0, 1e9, &p->kld_predicted);
}

static bool read_point(struct json_fields *f, struct report *r, const json_t *object, struct report_point *p)
{
    const char *source;
    if (!json_is_object(object)) return fields_refuse(f, "", "is not an object");
    if (!field_text(f, object, "source", FIELD_REQUIRED, TEXT_MAX, &source) ||
        !field_text(f, object, "name", FIELD_REQUIRED, COMMAND_MAX, &p->name) ||
        !field_text(f, object, "spec", FIELD_OPTIONAL, COMMAND_MAX, &p->spec))
        return false;
    int i = 0;
    while (i < REPORT_N_SOURCES && strcmp(report_source_name((enum report_source)i), source) != 0) i++;
    if (i == REPORT_N_SOURCES)
        return fields_refuse(f, "source", "is none of \"kvant\", \"kvtuner\", \"uniform\"");
    p->source = (enum report_source)i;
    if (!read_size(f, object, FIELD_REQUIRED, p) || !read_quality(f, object, p) ||
        !field_flag(f, object, "dominated", &p->dominated) || !field_flag(f, object, "chosen", &p->chosen) ||
        !read_gate(f, object, p) || !read_layers(f, r, object, p))
        return false;
    if (p->chosen && r->chosen)
        return fields_refuse(f, "chosen", "is true, and so it is of points[%d]",
                             (int)(r->chosen - r->points));
    if (p->chosen) r->chosen = p;
    return true;
}

static bool read_points(struct json_fields *f, struct report *r)
{
    const json_t *list, *baseline;
    if (!field_object(f, r->root, "baseline", FIELD_OPTIONAL, &baseline)) return false;
    size_t mark = fields_enter(f, "baseline");
    r->has_baseline = baseline != NULL;
    bool ok = read_size(f, baseline, FIELD_OPTIONAL, &r->baseline);
    fields_leave(f, mark);
    if (!ok || !field_list(f, r->root, "points", FIELD_REQUIRED, REPORT_POINTS_MAX, &list)) return false;
    size_t n = json_array_size(list);
    r->points = allocate(n, sizeof *r->points);
    for (size_t i = 0; i < n && ok; i++) {
        mark = fields_enter(f, "points[%d]", (int)i);
        ok = read_point(f, r, json_array_get(list, i), &r->points[i]);
        fields_leave(f, mark);
        r->n_points = i + 1;
    }
    return ok;
}

/* ----------------------------------------------------------------------------------------- sensitivity -- */

/* [layer][...] with n_columns numbers in each row, which may be lists of lists with n_inner numbers each. */
static bool read_matrix(struct json_fields *f, const struct report *r, const json_t *object, const char *name,
                        size_t n_outer, size_t n_inner, bool null_is_infinite, struct report_matrix *out)
{
    const json_t *list;
    size_t n_layer = (size_t)r->model.n_layer;
    if (!field_list(f, object, name, FIELD_OPTIONAL, REPORT_LAYERS_MAX, &list)) return false;
    if (!list) return true;
    if (json_array_size(list) != n_layer)
        return fields_refuse(f, name, "has %zu elements; the model has %zu layers", json_array_size(list),
                             n_layer);
    out->n_columns = (n_outer ? n_outer : 1) * n_inner;
    out->values = allocate(n_layer * out->n_columns, sizeof *out->values);
    for (size_t i = 0; i < n_layer; i++) {
        const json_t *row = json_array_get(list, i);
        char label[96];
        snprintf(label, sizeof label, "%.32s[%zu]", name, i);
        if (n_outer && json_array_size(row) != n_outer)
            return fields_refuse(f, label, "has %zu elements; %zu heads are needed", json_array_size(row),
                                 n_outer);
        for (size_t j = 0; j < (n_outer ? n_outer : 1); j++) {
            double *values = out->values + i * out->n_columns + j * n_inner;
            if (n_outer) snprintf(label, sizeof label, "%.32s[%zu][%zu]", name, i, j);
            if (!field_numbers(f, n_outer ? json_array_get(row, j) : row, label, n_inner, 0, 1e9,
                               null_is_infinite, values))
                return false;
        }
    }
    return true;
}

static bool read_side(struct json_fields *f, const struct report *r, const json_t *object, const char *side,
                      struct report_sensitivity *out)
{
    const json_t *choices, *rows;
    char name[32];
    snprintf(name, sizeof name, "%s_choices", side);
    if (!field_list(f, object, side, FIELD_OPTIONAL, REPORT_LAYERS_MAX, &rows)) return false;
    if (!field_list(f, object, name, rows ? FIELD_REQUIRED : FIELD_OPTIONAL, REPORT_CHOICES_MAX, &choices))
        return false;
    if (!rows || json_array_size(choices) == 0) return true;
    out->n_choices = json_array_size(choices);
    for (size_t i = 0; i < out->n_choices; i++) {
        out->choices[i] = json_string_value(json_array_get(choices, i));
        if (!out->choices[i] || strlen(out->choices[i]) > 32)
            return fields_refuse(f, name, "has an element %zu that is no text of at most 32 bytes", i);
    }
    out->n_heads = json_array_size(json_array_get(rows, 0));
    snprintf(name, sizeof name, "%s[0]", side);
    if (out->n_heads != 1 && out->n_heads != (size_t)r->model.n_head_kv)
        return fields_refuse(f, name, "is a list of %zu heads; 1 or the model's %lld KV heads are needed",
                             out->n_heads, (long long)r->model.n_head_kv);
    return read_matrix(f, r, object, side, out->n_heads, out->n_choices, true, &out->kld);
}

static bool read_pairs(struct json_fields *f, const json_t *object, struct report_errors *e)
{
    const json_t *pairs;
    if (!field_list(f, object, "pairs", FIELD_REQUIRED, REPORT_PAIRS_MAX, &pairs)) return false;
    e->n_pairs = json_array_size(pairs);
    if (e->n_pairs == 0) return fields_refuse(f, "pairs", "is empty");
    for (size_t i = 0; i < e->n_pairs; i++) {
        double bits[2];
        char name[32];
        snprintf(name, sizeof name, "pairs[%zu]", i);
        if (!field_numbers(f, json_array_get(pairs, i), name, 2, 1, 16, false, bits)) return false;
        if (isnan(bits[0] + bits[1])) return fields_refuse(f, name, "has a null; two bit widths are needed");
        e->key_bits[i] = bits[0];
        e->value_bits[i] = bits[1];
    }
    return true;
}

static bool read_errors(struct json_fields *f, struct report *r, const json_t *object)
{
    static const char *const names[] = { "e_k", "e_v", "e_a", "e_o" };
    const json_t *list;
    if (!field_list(f, object, "errors", FIELD_OPTIONAL, REPORT_MODES_MAX, &list)) return false;
    r->errors = allocate(json_array_size(list), sizeof *r->errors);
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct report_errors *e = &r->errors[i];
        const json_t *mode = json_array_get(list, i);
        r->n_errors = i + 1;
        size_t mark = fields_enter(f, "errors[%d]", (int)i);
        bool ok = json_is_object(mode) ? field_text(f, mode, "mode", FIELD_REQUIRED, TEXT_MAX, &e->mode) &&
                                             read_pairs(f, mode, e)
                                       : fields_refuse(f, "", "is not an object");
        for (int j = 0; j < REPORT_N_ERRORS && ok; j++)
            ok = read_matrix(f, r, mode, names[j], 0, e->n_pairs, false, &e->of[j]);
        fields_leave(f, mark);
        if (!ok) return false;
    }
    return true;
}

static bool read_outliers(struct json_fields *f, struct report *r, const json_t *object)
{
    const json_t *list;
    if (!field_list(f, object, "outliers", FIELD_OPTIONAL, REPORT_LAYERS_MAX, &list)) return false;
    r->outliers = allocate(json_array_size(list), sizeof *r->outliers);
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct report_outlier *o = &r->outliers[i];
        const json_t *row = json_array_get(list, i);
        size_t mark = fields_enter(f, "outliers[%d]", (int)i);
        bool ok = json_is_object(row)
                      ? field_integer(f, row, "layer", FIELD_REQUIRED, 0, r->model.n_layer - 1, 0,
                                      &o->layer) &&
                            field_number(f, row, "max_bias", FIELD_OPTIONAL, 0, 1e30, &o->max_bias) &&
                            field_number(f, row, "ratio", FIELD_OPTIONAL, 0, 1e30, &o->ratio)
                      : fields_refuse(f, "", "is not an object");
        fields_leave(f, mark);
        if (!ok) return false;
        r->n_outliers = i + 1;
    }
    return true;
}

static bool read_sensitivity(struct json_fields *f, struct report *r)
{
    const json_t *object, *kld, *entropy;
    if (!field_object(f, r->root, "sensitivity", FIELD_OPTIONAL, &object)) return false;
    if (!object) return true;
    size_t mark = fields_enter(f, "sensitivity");
    bool ok = field_object(f, object, "kld", FIELD_OPTIONAL, &kld);
    if (ok && kld) {
        size_t inner = fields_enter(f, "kld");
        ok = read_side(f, r, kld, "key", &r->keys) && read_side(f, r, kld, "value", &r->values);
        fields_leave(f, inner);
    }
    ok = ok && read_errors(f, r, object) &&
         field_list(f, object, "entropy", FIELD_OPTIONAL, REPORT_LAYERS_MAX, &entropy);
    size_t n_heads = ok ? json_array_size(json_array_get(entropy, 0)) : 0;
    if (ok && entropy && (n_heads < 1 || n_heads > REPORT_HEADS_MAX))
        ok = fields_refuse(f, "entropy[0]", "is a list of %zu heads; 1 to %d are read", n_heads,
                           REPORT_HEADS_MAX);
    ok = ok && read_matrix(f, r, object, "entropy", 0, n_heads, false, &r->entropy) &&
         read_outliers(f, r, object);
    fields_leave(f, mark);
    return ok;
}

/* ------------------------------------------------------------------------------------------------ cost -- */

static bool read_cost(struct json_fields *f, struct report *r)
{
    const json_t *object, *list;
    if (!field_object(f, r->root, "cost", FIELD_OPTIONAL, &object)) return false;
    size_t mark = fields_enter(f, "cost");
    bool ok = field_number(f, object, "seconds", FIELD_OPTIONAL, 0, 1e9, &r->cost.seconds) &&
              field_number(f, object, "n_measured", FIELD_OPTIONAL, 0, 1e12, &r->cost.n_measured) &&
              field_number(f, object, "n_from_store", FIELD_OPTIONAL, 0, 1e12, &r->cost.n_from_store) &&
              field_number(f, object, "peak_bytes", FIELD_OPTIONAL, 0, BYTES_MAX, &r->cost.peak_bytes) &&
              field_list(f, object, "phases", FIELD_OPTIONAL, REPORT_PHASES_MAX, &list);
    for (size_t i = 0; ok && i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        struct report_phase *p = &r->cost.phases[i];
        size_t inner = fields_enter(f, "phases[%d]", (int)i);
        ok = json_is_object(row) ? field_text(f, row, "what", FIELD_REQUIRED, TEXT_MAX, &p->what) &&
                                       field_number(f, row, "seconds", FIELD_REQUIRED, 0, 1e9, &p->seconds)
                                 : fields_refuse(f, "", "is not an object");
        fields_leave(f, inner);
        r->cost.n_phases = i + 1;
    }
    fields_leave(f, mark);
    return ok;
}

kvant_status report_open(struct report **out, json_t *root, const char *file, struct kvant_error *err)
{
    struct kvant_error ignored;
    struct json_fields f = { .file = file, .err = err ? err : &ignored };
    struct report *r = allocate(1, sizeof *r);
    r->root = root;
    *out = r;
    if (read_head(&f, r) && read_model(&f, r) && read_machine(&f, r) && read_settings(&f, r) &&
        read_points(&f, r) && read_sensitivity(&f, r) && read_cost(&f, r))
        return KVANT_OK;
    report_close(r);
    *out = NULL;
    return KVANT_ERR_FORMAT;
}

void report_close(struct report *r)
{
    if (!r) return;
    for (size_t i = 0; i < r->n_errors; i++)
        for (int j = 0; j < REPORT_N_ERRORS; j++) free(r->errors[i].of[j].values);
    free(r->keys.kld.values);
    free(r->values.kld.values);
    free(r->entropy.values);
    free(r->errors);
    free(r->outliers);
    free(r->points);
    report_readers_close(&r->readers);
    json_decref(r->root);
    free(r);
}
