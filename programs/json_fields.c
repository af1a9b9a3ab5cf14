#include "json_fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool fields_refuse(struct json_fields *f, const char *name, const char *format, ...)
{
    char what[128];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    *f->err = (struct kvant_error){ .status = KVANT_ERR_FORMAT, .position = -1 };
    snprintf(f->err->message, sizeof f->err->message, "%.120s: %s%.96s: %.120s", f->file, f->path, name,
             what);
    return false;
}

size_t fields_enter(struct json_fields *f, const char *format, ...)
{
    size_t mark = strlen(f->path), n = sizeof f->path - mark;
    va_list args;
    va_start(args, format);
    vsnprintf(f->path + mark, n, format, args);
    va_end(args);
    n = strlen(f->path);
    if (n + 1 < sizeof f->path) memcpy(f->path + n, ".", 2);
    return mark;
}

void fields_leave(struct json_fields *f, size_t mark)
{
    f->path[mark] = '\0';
}

static const char *type_name(const json_t *value)
{
    if (!value) return "missing";
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "text";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_NULL: return "null";
    default: return "true or false";
    }
}

/* The value, or NULL where it is absent. False when it must not be. */
static bool take(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                 const json_t **out)
{
    *out = json_object_get(object, name);
    if (json_is_null(*out)) *out = NULL;
    if (!*out && need == FIELD_REQUIRED) return fields_refuse(f, name, "is missing");
    return true;
}

static bool number_check(struct json_fields *f, const json_t *value, const char *name, double min, double max,
                         double *out)
{
    if (!json_is_number(value))
        return fields_refuse(f, name, "is %s; a number from %g to %g is needed", type_name(value), min, max);
    *out = json_number_value(value);
    if (!(*out >= min && *out <= max))
        return fields_refuse(f, name, "is %g; a number from %g to %g is needed", *out, min, max);
    return true;
}

bool field_number(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                  double min, double max, double *out)
{
    const json_t *value;
    *out = NAN;
    if (!take(f, object, name, need, &value)) return false;
    return !value || number_check(f, value, name, min, max, out);
}

bool field_divergence(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                      double *out)
{
    if (json_is_null(json_object_get(object, name))) {
        *out = INFINITY;
        return true;
    }
    return field_number(f, object, name, need, 0, 1e9, out);
}

bool field_integer(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                   int64_t min, int64_t max, int64_t otherwise, int64_t *out)
{
    const json_t *value;
    *out = otherwise;
    if (!take(f, object, name, need, &value)) return false;
    if (!value) return true;
    double number = 0.0;
    if (!number_check(f, value, name, (double)min, (double)max, &number)) return false;
    if (!json_is_integer(value)) return fields_refuse(f, name, "is %g; a whole number is needed", number);
    *out = json_integer_value(value);
    return true;
}

bool field_flag(struct json_fields *f, const json_t *object, const char *name, bool *out)
{
    const json_t *value;
    *out = false;
    take(f, object, name, FIELD_OPTIONAL, &value);
    if (!value) return true;
    if (!json_is_boolean(value))
        return fields_refuse(f, name, "is %s; true or false is needed", type_name(value));
    *out = json_is_true(value);
    return true;
}

static bool text_check(struct json_fields *f, const json_t *value, const char *name, size_t n_bytes_max,
                       const char **out)
{
    if (!json_is_string(value)) return fields_refuse(f, name, "is %s; text is needed", type_name(value));
    if (json_string_length(value) > n_bytes_max)
        return fields_refuse(f, name, "has %zu bytes; at most %zu are read", json_string_length(value),
                             n_bytes_max);
    *out = json_string_value(value);
    return true;
}

bool field_text(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                size_t n_bytes_max, const char **out)
{
    const json_t *value;
    *out = NULL;
    if (!take(f, object, name, need, &value)) return false;
    return !value || text_check(f, value, name, n_bytes_max, out);
}

bool field_object(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                  const json_t **out)
{
    if (!take(f, object, name, need, out)) return false;
    if (*out && !json_is_object(*out))
        return fields_refuse(f, name, "is %s; an object is needed", type_name(*out));
    return true;
}

bool field_list(struct json_fields *f, const json_t *object, const char *name, enum field_need need,
                size_t n_max, const json_t **out)
{
    if (!take(f, object, name, need, out)) return false;
    if (*out && !json_is_array(*out))
        return fields_refuse(f, name, "is %s; a list is needed", type_name(*out));
    if (*out && json_array_size(*out) > n_max)
        return fields_refuse(f, name, "has %zu elements; at most %zu are read", json_array_size(*out), n_max);
    return true;
}

bool field_numbers(struct json_fields *f, const json_t *list, const char *name, size_t n, double min,
                   double max, bool null_is_infinite, double *out)
{
    if (!json_is_array(list)) return fields_refuse(f, name, "is %s; a list is needed", type_name(list));
    if (json_array_size(list) != n)
        return fields_refuse(f, name, "has %zu elements; %zu are needed", json_array_size(list), n);
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(list, i);
        char element[96];
        out[i] = null_is_infinite ? INFINITY : NAN;
        if (json_is_null(value)) continue;
        snprintf(element, sizeof element, "%.64s[%zu]", name, i);
        if (!number_check(f, value, element, min, max, &out[i])) return false;
    }
    return true;
}

bool fields_numbers(struct json_fields *f, const json_t *object, const struct number_field *table, size_t n,
                    void *out)
{
    for (size_t i = 0; i < n; i++) {
        double *target = (double *)(void *)((char *)out + table[i].offset);
        if (!field_number(f, object, table[i].name, table[i].need, table[i].min, table[i].max, target))
            return false;
    }
    return true;
}

bool fields_texts(struct json_fields *f, const json_t *object, const struct text_field *table, size_t n,
                  size_t n_bytes_max, void *out)
{
    for (size_t i = 0; i < n; i++) {
        const char **target = (const char **)(void *)((char *)out + table[i].offset);
        if (!field_text(f, object, table[i].name, table[i].need, n_bytes_max, target)) return false;
    }
    return true;
}
