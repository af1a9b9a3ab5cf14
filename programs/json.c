#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"
#include "utf8.h"

json_t *json_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *json_text(const char *bytes, size_t n_bytes)
{
    static const char replacement[] = "\xEF\xBF\xBD";
    char *text = allocate(n_bytes + 1, 3);
    size_t n = 0;
    for (size_t i = 0; i < n_bytes;) {
        size_t n_char = utf8_length(bytes + i, n_bytes - i);
        if (n_char > 0) {
            memcpy(text + n, bytes + i, n_char);
            n += n_char;
            i += n_char;
        } else {
            memcpy(text + n, replacement, 3);
            n += 3;
            i++;
        }
    }
    json_t *value = json_stringn(text, n);
    free(text);
    return value;
}

json_t *json_tokens(const kvant_token *ids, size_t n_ids)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n_ids; i++) json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static int json_print(json_t *value, size_t layout)
{
    if (!value) return fail_text("out of memory");
    /* Nine digits tell any two float32 apart. */
    int rc = json_dumpf(value, stdout, layout | JSON_REAL_PRECISION(9) | JSON_ENCODE_ANY);
    json_decref(value);
    putchar('\n');
    int code = finish_output();
    if (rc != 0 && code == EXIT_OK) code = fail_text("standard output cannot be written");
    return code;
}

int json_finish(json_t *value)
{
    return json_print(value, JSON_INDENT(2));
}

int json_finish_compact(json_t *value)
{
    return json_print(value, JSON_COMPACT);
}
