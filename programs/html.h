/*
 * Writing HTML and SVG. Markup is written with fputs and fprintf and holds constants and numbers alone;
 * whatever may be somebody's text goes through here and comes out escaped, in text and in attribute values.
 */
#ifndef HTML_H
#define HTML_H

#include <stdio.h>

/* Escaped; control characters become U+FFFD. NULL: nothing. */
void html_text(FILE *out, const char *text);

/* The same of what printf makes of it; cut at 1000 bytes. */
void html_textf(FILE *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A text element of SVG. anchor: "start" (also NULL), "middle" or "end". */
struct svg_text {
    double x, y;
    const char *css, *anchor;
};
void svg_textf(FILE *out, struct svg_text at, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* <title>escaped</title>: what a pointer that rests on the element is shown. */
void svg_titlef(FILE *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
