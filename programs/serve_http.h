/*
 * HTTP between its two files: serve_http.c has connections, bodies and answers, serve_routes.c the endpoints.
 * Everything here runs on the threads of libmicrohttpd.
 */
#ifndef SERVE_HTTP_H
#define SERVE_HTTP_H

#include <microhttpd.h>

#include "serve.h"

struct route;

/* One request of a connection. */
struct exchange {
    const struct route *route; /* NULL: it is refused */
    char *body;
    size_t n_body, cap_body;
    bool too_large;
    struct api_error refusal; /* why; its body is read and dropped first, so that the connection lasts */
    struct job *job;
    double started_s;
    int slot; /* {id} of a slot */
    int status;
    char method[8], path[128]; /* for the log */
    char name[256];            /* {id} of a model */
    char allow[32];            /* methods of the path; empty where that is not said */
};

typedef enum MHD_Result handler(struct server *s, struct MHD_Connection *c, struct exchange *x);

struct route {
    const char *method, *path;
    handler *handle;
    bool is_open; /* needs no key */
    int argument;
};

/* serve_routes.c: sets x->route and its {id}, or says what is wrong, and x->allow where the path is known. */
bool route_find(struct exchange *x, const char *url, const char *method, struct api_error *e);

/* serve_http.c: answers at once, with the headers that every answer has. The response is released, the bytes
 * of the others are copied. */
enum MHD_Result send_response(struct server *s, struct MHD_Connection *c, struct exchange *x, int status,
                              struct MHD_Response *response);
enum MHD_Result send_bytes(struct server *s, struct MHD_Connection *c, struct exchange *x, int status,
                           const char *type, const char *bytes, size_t n);
enum MHD_Result send_json(struct server *s, struct MHD_Connection *c, struct exchange *x, int status,
                          json_t *value);
enum MHD_Result send_error(struct server *s, struct MHD_Connection *c, struct exchange *x,
                           const struct api_error *e);
/* Gives a job to the engine; the connection sleeps until there is something to send. */
enum MHD_Result submit(struct server *s, struct MHD_Connection *c, struct exchange *x, struct job *job);

#endif
