/*
 * Fields of a JSON document that somebody else wrote: each is taken with its type and range, and what is
 * wrong is said with the path to it, such as `report.json: points[3].kld_mean: is text; a number from 0 to
 * 1e+06 is needed`.
 *
 * A field that is absent, or null where null has no meaning of its own, is not there: a number is then NaN, a
 * text NULL, a list NULL. All functions return false once something was refused; the first refusal stays in
 * `err`.
 */
#ifndef JSON_FIELDS_H
#define JSON_FIELDS_H

#include <jansson.h>

#include "kvant.h"

struct json_fields {
    const char *file;
    struct kvant_error *err; /* not NULL */
    char path[160];          /* of the object that is being read: "points[3].gate." */
};

enum field_need { FIELD_OPTIONAL, FIELD_REQUIRED };

/* Refuses: formats the message behind file and path. */
bool fields_refuse(struct json_fields *f, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The names of the fields that follow begin with this: "points[%d]". Returns what fields_leave takes back. */
size_t fields_enter(struct json_fields *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
void fields_leave(struct json_fields *f, size_t mark);

bool field_number(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                  double min, double max, double *out);

/* null is infinity: a divergence that is not finite. */
bool field_divergence(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                      double *out);

/* Absent: `otherwise`. */
bool field_integer(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                   int64_t min, int64_t max, int64_t otherwise, int64_t *out);

/* Absent: false. */
bool field_flag(struct json_fields *f, const json_t *object, const char *name, bool *out);

/* At most n_bytes_max of UTF-8; borrowed from the document. */
bool field_text(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                size_t n_bytes_max, const char **out);

bool field_object(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                  const json_t **out);

/* With at most n_max elements. */
bool field_list(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                size_t n_max, const json_t **out);

/* A list of numbers, exactly n of them; null is infinity where `null_is_infinite`, else NaN. */
bool field_numbers(struct json_fields *f, const json_t *list, const char *name, size_t n, double min,
                   double max, bool null_is_infinite, double *out);

/* Tables of fields in a struct, for objects that are mostly numbers or texts. */
struct number_field {
    const char *name;
    size_t offset; /* of a double */
    double min, max;
    enum field_need need;
};
bool fields_numbers(struct json_fields *f, const json_t *object, const struct number_field *table, size_t n,
                    void *out);

struct text_field {
    const char *name;
    size_t offset; /* of a const char * */
    enum field_need need;
};
bool fields_texts(struct json_fields *f, const json_t *object, const struct text_field *table, size_t n,
                  size_t n_bytes_max, void *out);

#endif
