#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *kvant_status_name(kvant_status status)
{
    static const char *const names[] = {
        [KVANT_OK] = "ok",
        [KVANT_ERR_ARGUMENT] = "argument",
        [KVANT_ERR_IO] = "io",
        [KVANT_ERR_FORMAT] = "format",
        [KVANT_ERR_UNSUPPORTED] = "unsupported",
        [KVANT_ERR_MEMORY] = "memory",
        [KVANT_ERR_SPACE] = "space",
        [KVANT_ERR_MISMATCH] = "mismatch",
        [KVANT_ERR_FULL] = "full",
        [KVANT_ERR_NUMERIC] = "numeric",
        [KVANT_ERR_CANCELLED] = "cancelled",
    };
    unsigned i = (unsigned)status;
    return i < sizeof names / sizeof names[0] ? names[i] : "unknown";
}

const char *kvant_version(void)
{
    return KVANT_VERSION;
}

/* Names come from files, which may hold line ends and a terminal's control sequences. */
static void clean(char message[KVANT_ERROR_CAP])
{
    for (char *c = message; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F) *c = '?';
}

kvant_status kv_error_set(struct kvant_error *err, kvant_status status, int64_t position, const char *format,
                          ...)
{
    if (!err) return status;
    err->status = status;
    err->position = position;
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    clean(err->message);
    return status;
}

kvant_status kv_error_prefix(struct kvant_error *err, kvant_status status, const char *format, ...)
{
    if (!err || status == KVANT_OK) return status;
    char old[KVANT_ERROR_CAP];
    memcpy(old, err->message, sizeof old);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    size_t room = n < 0 || (size_t)n >= sizeof err->message ? 0 : sizeof err->message - (size_t)n;
    if (room > 3) snprintf(err->message + n, room, ": %.*s", (int)(room - 3), old);
    clean(err->message);
    return status;
}
