/*
 * Values of the template language, and the arena that all of them live in. Values are small and copied; what
 * they point to is shared and never freed before its arena.
 */
#ifndef KV_TEXT_JINJA_VALUE_H
#define KV_TEXT_JINJA_VALUE_H

#include "base/error.h"

/* ----------------------------------------------------------------------------------------------- arena -- */

struct kv_jchunk;

struct kv_jarena {
    struct kv_jchunk *chunks;
    char *at;
    size_t n_left, n_total, n_limit; /* n_total counts what was taken from the system */
};

/* Zeroed, aligned to 16; NULL beyond the limit. */
void *kv_jarena_take(struct kv_jarena *a, size_t n_bytes);
void kv_jarena_close(struct kv_jarena *a);

/* ---------------------------------------------------------------------------------------------- values -- */

enum kv_jkind {
    KV_J_UNDEFINED,
    KV_J_NONE,
    KV_J_BOOL,
    KV_J_INT,
    KV_J_FLOAT,
    KV_J_STR,
    KV_J_LIST,
    KV_J_TUPLE,
    KV_J_DICT,
    KV_J_NAMESPACE,
    KV_J_LOOP,
    KV_J_MACRO,
    KV_J_BUILTIN, /* a function such as range                     */
    KV_J_METHOD   /* a method with the value that it was taken of */
};

struct kv_jstr {
    const char *s; /* not terminated */
    size_t n;
};

struct kv_jlist;
struct kv_jdict;
struct kv_jloop;
struct kv_jmacro;
struct kv_jmethod;

struct kv_jval {
    enum kv_jkind kind;
    union {
        bool b;
        int64_t i;
        double f;
        struct kv_jstr s;      /* STR; UNDEFINED: what is undefined, for messages */
        struct kv_jlist *list; /* LIST, TUPLE     */
        struct kv_jdict *dict; /* DICT, NAMESPACE */
        struct kv_jloop *loop;
        const struct kv_jmacro *macro;
        const struct kv_jmethod *method;
        int builtin;
    };
};

struct kv_jlist {
    struct kv_jval *items;
    size_t n, cap;
};

struct kv_jdict { /* in order of insertion */
    struct kv_jval *keys, *values;
    size_t n, cap;
};

#define KV_JSTR(literal) ((struct kv_jstr){ (literal), sizeof(literal) - 1 })

bool kv_jstr_equal(struct kv_jstr a, struct kv_jstr b);
bool kv_jstr_is(struct kv_jstr a, const char *text);

struct kv_jval kv_jval_str(const char *s, size_t n);
struct kv_jval kv_jval_int(int64_t i);
struct kv_jval kv_jval_bool(bool b);
struct kv_jval kv_jval_float(double f);

/* The functions below that return bool fail for want of memory only. */
bool kv_jlist_new(struct kv_jarena *a, enum kv_jkind kind, struct kv_jval *out);
bool kv_jlist_add(struct kv_jarena *a, struct kv_jlist *list, struct kv_jval item);
bool kv_jdict_new(struct kv_jarena *a, enum kv_jkind kind, struct kv_jval *out);
bool kv_jdict_set(struct kv_jarena *a, struct kv_jdict *dict, struct kv_jval key, struct kv_jval value);
/* NULL: no such key. */
struct kv_jval *kv_jdict_get(const struct kv_jdict *dict, struct kv_jval key);
struct kv_jval *kv_jdict_find(const struct kv_jdict *dict, struct kv_jstr key);

bool kv_jval_truth(const struct kv_jval *v);
/* As Python's ==: 1 == 1.0 == true. Deep; two values nested beyond 64 levels are unequal. */
bool kv_jval_equal(const struct kv_jval *a, const struct kv_jval *b);
/* -1, 0, 1, or 2 when there is no order between them. */
int kv_jval_compare(const struct kv_jval *a, const struct kv_jval *b);
/* "str", "int", "dict", ...: Python's names. */
const char *kv_jval_type(const struct kv_jval *v);

/* -------------------------------------------------------------------------------------------- text out -- */

struct kv_jbuf { /* grows inside an arena; `failed`: no memory, and what follows is dropped */
    struct kv_jarena *arena;
    char *data;
    size_t n, cap;
    bool failed;
};
void kv_jbuf_put(struct kv_jbuf *b, const char *s, size_t n);
void kv_jbuf_puts(struct kv_jbuf *b, const char *s);
struct kv_jval kv_jbuf_value(const struct kv_jbuf *b);

/* Python's str() and repr(). A value nested beyond 64 levels fails the buffer. */
void kv_jbuf_str(struct kv_jbuf *b, const struct kv_jval *v);
void kv_jbuf_repr(struct kv_jbuf *b, const struct kv_jval *v);
/* Python's repr of a float: the shortest digits that give it back. */
void kv_jbuf_float(struct kv_jbuf *b, double f);

/* ------------------------------------------------------------------------------------------------ JSON -- */

struct kv_json_style {
    int indent; /* -1: on one line */
    bool ensure_ascii, sort_keys;
    struct kv_jstr item_separator, key_separator;
};
/* json.dumps of Python. False: memory, or a value that JSON has not (its type in *what). */
bool kv_json_write(struct kv_jbuf *b, const struct kv_jval *v, const struct kv_json_style *style,
                   const char **what);

/* Strict JSON (RFC 8259, valid UTF-8, depth at most 64). Errors: FORMAT with the byte position, MEMORY. */
kvant_status kv_json_read(struct kv_jarena *a, const char *text, size_t n_bytes, struct kv_jval *out,
                          struct kvant_error *err);

/* --------------------------------------------------------------------------------------------- Unicode -- */

/* The code point at s (n >= 1 bytes) and its length; a byte that begins none counts as itself. */
uint32_t kv_jrune(const char *s, size_t n, size_t *length);
/* Writes UTF-8; returns its bytes. */
size_t kv_jrune_write(uint32_t rune, char out[4]);
size_t kv_jstr_runes(struct kv_jstr s);
/* Byte offset of the i-th code point; s.n when there are fewer. */
size_t kv_jstr_offset(struct kv_jstr s, size_t i);
/* str.isspace of Python. */
bool kv_jrune_is_space(uint32_t rune);
/* Simple case mapping of Latin, Greek and Cyrillic; other letters stay. */
uint32_t kv_jrune_upper(uint32_t rune);
uint32_t kv_jrune_lower(uint32_t rune);
bool kv_jrune_is_letter(uint32_t rune);

#endif
