/*
 * Errors are values. The origin writes status, position and one line of message; callers only pass the status
 * on.
 */
#ifndef KV_BASE_ERROR_H
#define KV_BASE_ERROR_H

#include "kvant.h"

/* Fills *err (if not NULL) and returns `status`, so that it can stand in a return statement. position: byte
 * offset or 1-based line, -1 for none. The message names the thing, says what is wrong and what to do; no
 * trailing newline. */
kvant_status kv_error_set(struct kvant_error *err, kvant_status status, int64_t position, const char *format,
                          ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "prefix: " before the message of an error on its way up (a file's name, say). Returns err's status. */
kvant_status kv_error_prefix(struct kvant_error *err, kvant_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define KV_TRY(expr)                                         \
    do {                                                     \
        kvant_status kv_try_status = (expr);                 \
        if (kv_try_status != KVANT_OK) return kv_try_status; \
    } while (0)

#define KV_FAIL(err, status, position, ...) return kv_error_set((err), (status), (position), __VA_ARGS__)

#endif
