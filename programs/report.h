/*
 * The tuner's report: a JSON document (docs/format-report.md) that `kvant tune` writes, read back with every
 * field checked, and rendered as a page, as text or as CSV.
 *
 *     json_t ── report_open ──> struct report ── report_write_html, _text or _csv
 *
 * Numbers that the document lacks are NaN, texts NULL, parts have a flag or a count of 0. A divergence that
 * is not finite (a collapsed plan) is infinity.
 */
#ifndef REPORT_H
#define REPORT_H

#include <stdio.h>

#include "json.h"
#include "report_readers.h"

/* Bounds of version 1, above what any model has: they keep a hostile file from taking memory. */
#define REPORT_BYTES_MAX    ((size_t)64 << 20)
#define REPORT_LAYERS_MAX   512
#define REPORT_HEADS_MAX    256 /* KV heads or query heads */
#define REPORT_POINTS_MAX   1000
#define REPORT_CONTEXTS_MAX 8
#define REPORT_CHOICES_MAX  32
#define REPORT_PAIRS_MAX    64
#define REPORT_MODES_MAX    8
#define REPORT_PHASES_MAX   32

enum report_source { REPORT_KVANT, REPORT_KVTUNER, REPORT_UNIFORM, REPORT_N_SOURCES };

struct report_model {
    const char *name, *architecture, *fingerprint, *quantization;
    int64_t n_layer, n_head_kv, n_head, n_ctx_train; /* the last two: 0 when not stated */
    double head_dim, file_bytes;
};

struct report_machine {
    const char *cpu;
    double n_threads, read_gb_per_s;
};

struct report_settings {
    const char *method, *granularity, *text, *command;
    double budgets[64];
    size_t n_budgets;
    bool has_mix, mix;
    double context, n_tokens_tuning, n_tokens_verify;
    int64_t seed; /* -1: not stated */
};

struct report_prediction {
    double context, tokens_per_s, memory_bytes; /* tokens_per_s may be NaN */
};

enum report_verdict { REPORT_NO_GATE, REPORT_PASS, REPORT_COLLAPSED };

struct report_point {
    enum report_source source;
    const char *name; /* for tables: a recipe, or "tuned" */
    const char *spec; /* NULL, or what --kv takes */
    double page_bits, true_bits, equivalent_bits, bytes_per_token;
    double kld_mean, kld_p999, same_top_p, ppl_ratio, kld_predicted;
    bool dominated, chosen;
    enum report_verdict verdict;
    const char *gate_reason;
    double gate_agreement; /* part of the tokens of greedy answers before the first other one, 0 to 1 */
    const json_t *layers;  /* NULL, or checked: report_recipe */
    struct report_prediction predicted[REPORT_CONTEXTS_MAX];
    size_t n_predicted;
};

/* (n_layer, n_columns), row by row. values NULL: not in the document. */
struct report_matrix {
    size_t n_columns;
    double *values;
};

/* KLD at the logits of one (layer, KV head) in one choice, all else in 16 bits. */
struct report_sensitivity {
    const char *choices[REPORT_CHOICES_MAX];
    size_t n_choices, n_heads; /* heads: the model's KV heads, or 1: whole layers */
    struct report_matrix kld;  /* columns: (n_heads, n_choices); infinity: collapsed */
};

enum { REPORT_E_K, REPORT_E_V, REPORT_E_A, REPORT_E_O, REPORT_N_ERRORS };

struct report_errors {
    const char *mode;
    double key_bits[REPORT_PAIRS_MAX], value_bits[REPORT_PAIRS_MAX];
    size_t n_pairs;
    struct report_matrix of[REPORT_N_ERRORS]; /* columns: pairs */
};

struct report_outlier {
    int64_t layer;
    double max_bias, ratio;
};

struct report_phase {
    const char *what;
    double seconds;
};

struct report {
    json_t *root; /* every text is borrowed from it */
    const char *tool, *made;
    struct report_model model;
    struct report_machine machine;
    struct report_settings settings;
    bool has_baseline;
    struct report_point baseline; /* the 16-bit cache */
    struct report_point *points;
    size_t n_points;
    const struct report_point *chosen; /* NULL: none */
    struct report_sensitivity keys, values;
    struct report_errors *errors;
    size_t n_errors;
    struct report_matrix entropy; /* columns: query heads; nats */
    struct report_outlier *outliers;
    size_t n_outliers;
    struct {
        double seconds, n_measured, n_from_store, peak_bytes;
        struct report_phase phases[REPORT_PHASES_MAX];
        size_t n_phases;
    } cost;
    struct report_readers readers; /* from documents of their own; the page alone shows them */
};

/* Checks the whole document, and takes it over: also on failure the caller must not release it. `file` names
 * it in messages. On success `*out` is owned by the caller. Errors: FORMAT, with the field in the message. */
kvant_status report_open(struct report **out, json_t *root, const char *file, struct kvant_error *err);
void report_close(struct report *report);

/* Puts the plans of another search beside those of `report`, without the uniform ones; `other` must outlive
 * it. EXIT_FAILED after a message that names `file`: another model, context or text. */
int report_join(struct report *report, const struct report *other, const char *file);

/* The recipe of one (layer, KV head) of a point; NULL when the document has no layers for it. */
const char *report_recipe(const struct report_point *point, int64_t layer, int64_t head);

/* The prediction at this context, or NULL. */
const struct report_prediction *report_prediction_at(const struct report_point *point, double context);

/* "kvant", "kvtuner", "uniform". */
const char *report_source_name(enum report_source source);

/* One self-contained page: no script, nothing loaded. Errors of the stream stay in it. */
void report_write_html(const struct report *report, FILE *out);

/* Menu, front and verdict for a terminal. n_columns: its width. */
void report_write_text(const struct report *report, FILE *out, int n_columns, bool unicode);

/* A line per point; RFC 4180. */
void report_write_csv(const struct report *report, FILE *out);

#endif
