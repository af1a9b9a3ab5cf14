/*
 * Chat templates: the part of Jinja that the templates of model files use (docs/templates.md), as the hubs
 * render it: trim_blocks, lstrip_blocks, loop controls, `{% generation %}`, a tojson that leaves text as it
 * is.
 *
 *   source -> lex -> tokens -> parse -> nodes (one arena, immutable) -> evaluate (an arena per call) -> text
 *
 * A template comes from a model file, variables from anybody: depth, steps and memory are bounded, and
 * nothing reaches the file system, the environment or other memory.
 */
#ifndef KV_TEXT_JINJA_H
#define KV_TEXT_JINJA_H

#include "base/error.h"

struct kv_jinja;

/* Compiles. position of errors: the line. FORMAT: not Jinja. UNSUPPORTED: Jinja that is not built in,
 * which is named (a tag, filter, test, method, function). MEMORY. On failure *out is NULL. */
kvant_status kv_jinja_open(struct kv_jinja **out, const char *source, size_t n_bytes,
                           struct kvant_error *err);
void kv_jinja_close(struct kv_jinja *t);

/* A text variable beside those of the JSON object. */
struct kv_jinja_text {
    const char *name, *text;
    size_t n_bytes;
};

struct kv_jinja_call {
    const char *json; /* an object: its members are the template's variables; NULL: `messages` instead */
    size_t n_bytes;
    const struct kvant_message *messages; /* (n_messages) as the variable messages; need not be UTF-8 */
    size_t n_messages;
    bool add_generation_prompt; /* as that variable, beside `messages` */
    /* Called for each text of the object, or content of the messages; false: it is refused (ARGUMENT), and
     * *why (n_why) is shown. NULL: all are allowed. */
    bool (*allows)(const void *user, const char *text, size_t n_bytes, const char **why, size_t *n_why);
    const void *user;
    const struct kv_jinja_text *texts; /* (n_texts) where the object has no member of that name */
    size_t n_texts;
    int64_t now_s; /* what strftime_now tells, seconds since 1970; 0: now */
    bool utc;      /* strftime_now in UTC, else in local time             */
};

/* Renders into a block of *n_out bytes and a terminator: kv_free. Errors (position: the template's line, or
 * the byte of the JSON): ARGUMENT (raise_exception, an undefined variable used, a type that does not fit),
 * FORMAT (the JSON), UNSUPPORTED, MEMORY (also: the limits of steps, depth and memory, named). Any thread. */
kvant_status kv_jinja_render(const struct kv_jinja *t, const struct kv_jinja_call *call, char **out,
                             size_t *n_out, struct kvant_error *err);

/* True when the source uses a variable of this name (in any scope). */
bool kv_jinja_mentions(const struct kv_jinja *t, const char *name);

#endif
