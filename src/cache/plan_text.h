/*
 * What the text forms of a plan share: positions in messages, the recipe parser at a position, the YAML
 * reader and writer, and the base64 tables. Internal to src/cache/plan*.c.
 */
#ifndef KV_CACHE_PLAN_TEXT_H
#define KV_CACHE_PLAN_TEXT_H

#include "cache/plan.h"

#define KV_PLAN_VERSION 1
#define KV_PLAN_FILE_BYTES_MAX ((size_t)16 << 20)
#define KV_PLAN_SINKS_MAX 64
#define KV_PLAN_TAIL_MAX 4096
#define KV_PLAN_SINKS_DEFAULT 4
#define KV_PLAN_TAIL_DEFAULT 32
#define KV_PLAN_LAYERS_MAX 4096
#define KV_PLAN_HEADS_MAX 1024

/* Where a text begins, 1-based; line 0 = not in a file, only the column is named. */
struct kv_text_place {
    int64_t line, column;
};

/* FORMAT, "line L, column C: ..." (or "column C: ..."); the error's position is the line (or the column). */
kvant_status kv_text_refuse(struct kvant_error *err, struct kv_text_place place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* kv_recipe_parse of a text that begins at `place`. */
kvant_status kv_recipe_parse_at(struct kv_recipe *out, const char *text, size_t n_bytes,
                                struct kv_text_place place, struct kvant_error *err);
/* "7" or "3-12" in text[0, n_bytes): layers first..last below n_layer. */
kvant_status kv_layer_range_parse(const char *text, size_t n_bytes, struct kv_text_place place, int n_layer,
                                  int *first, int *last, struct kvant_error *err);
/* Decimal digits only, at most max; false otherwise. */
bool kv_text_int(const char *text, size_t n_bytes, int max, int *out);

/* A plan of the right size with default sinks and tail, recipes zeroed. */
kvant_status kv_plan_alloc(struct kvant_plan **out, const struct kv_plan_dims *dims, struct kvant_error *err);
/* FORMAT, naming the first gap, unless each layer has got its recipes. */
kvant_status kv_plan_check_covered(const struct kvant_plan *plan, const bool *covered,
                                   struct kv_text_place place, struct kvant_error *err);

/* A kvant plan or a KVTuner preset as YAML. name: used in messages, and for the mode of a preset. *is_preset
 * may be NULL. */
kvant_status kv_plan_read_yaml(struct kvant_plan **out, const struct kv_plan_dims *dims, const char *text,
                               size_t n_bytes, const char *name, enum kv_preset_mode mode, bool *is_preset,
                               struct kvant_error *err);
/* The YAML text, terminated; free with kv_free. n_bytes without the terminator. */
kvant_status kv_plan_write_yaml(const struct kvant_plan *plan, char **out, size_t *n_bytes,
                                struct kvant_error *err);

/* In place: bytes that are not printable UTF-8 become '?', so that any string can stand in YAML. */
void kv_text_sanitise(char *s);

/* Text that grows. */
struct kv_text {
    char *data; /* terminated once something was added */
    size_t n, cap;
    bool failed; /* memory was short; `data` is incomplete */
};
void kv_text_add(struct kv_text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void kv_text_add_bytes(struct kv_text *t, const char *bytes, size_t n);

/* Base64 of the tables. decode: text may hold line breaks and blanks; place: of its first byte. Allocates
 * plan->center or plan->channels. Checked: alphabet, padding, length; no NaN or infinity; orders are
 * permutations, counts add up. */
void kv_plan_write_center(struct kv_text *t, const struct kvant_plan *plan);
void kv_plan_write_channels(struct kv_text *t, const struct kvant_plan *plan);
kvant_status kv_plan_read_center(struct kvant_plan *plan, const char *text, size_t n_bytes,
                                 struct kv_text_place place, struct kvant_error *err);
kvant_status kv_plan_read_channels(struct kvant_plan *plan, const char *text, size_t n_bytes,
                                   struct kv_text_place place, struct kvant_error *err);
/* A head's classes: NULL if sound, else what is wrong. */
const char *kv_channels_problem(const struct kv_channels *c, int head_dim);
/* A head without classes: everything zero. */
bool kv_channels_empty(const struct kv_channels *c);

#endif
