/*
 * JSON for machines, a thin layer over jansson: values that jansson would refuse are made representable.
 */
#ifndef JSON_H
#define JSON_H

#include <jansson.h>

#include "kvant.h"

/* A number; null when it is not finite, since JSON has no such number. */
json_t *json_number(double value);

/* A string from bytes; what is not UTF-8 becomes U+FFFD. */
json_t *json_text(const char *bytes, size_t n_bytes);

json_t *json_tokens(const kvant_token *ids, size_t n_ids);

/* Prints and releases the value: EXIT_OK, or EXIT_FAILED after a message. NULL (out of memory while building)
 * fails. */
int json_finish(json_t *value);

/* The same on one line. */
int json_finish_compact(json_t *value);

#endif
