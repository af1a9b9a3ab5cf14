#include "html.h"

#include <stdarg.h>
#include <string.h>

#include "utf8.h"

#define TEXT_CAP 1001

void html_text(FILE *out, const char *text)
{
    if (!text) return;
    for (size_t n = strlen(text); n > 0;) {
        unsigned char c = (unsigned char)*text;
        size_t n_char = utf8_length(text, n);
        if (c == '&')
            fputs("&amp;", out);
        else if (c == '<')
            fputs("&lt;", out);
        else if (c == '>')
            fputs("&gt;", out);
        else if (c == '"')
            fputs("&quot;", out);
        else if (c == '\'')
            fputs("&#39;", out);
        else if (n_char == 0 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F)
            fputs("\xEF\xBF\xBD", out);
        else
            fwrite(text, 1, n_char, out);
        text += n_char ? n_char : 1;
        n -= n_char ? n_char : 1;
    }
}

static void text_va(FILE *out, const char *format, va_list args)
{
    char text[TEXT_CAP];
    int n = vsnprintf(text, sizeof text, format, args);
    /* A cut must not fall inside a character. */
    if (n >= TEXT_CAP) text[utf8_showable(text, TEXT_CAP - 1)] = '\0';
    html_text(out, text);
}

void html_textf(FILE *out, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    text_va(out, format, args);
    va_end(args);
}

void svg_textf(FILE *out, struct svg_text at, const char *format, ...)
{
    va_list args;
    fprintf(out, "<text class='%s' x='%.1f' y='%.1f'", at.css, at.x, at.y);
    if (at.anchor && strcmp(at.anchor, "start") != 0) fprintf(out, " text-anchor='%s'", at.anchor);
    fputc('>', out);
    va_start(args, format);
    text_va(out, format, args);
    va_end(args);
    fputs("</text>", out);
}

void svg_titlef(FILE *out, const char *format, ...)
{
    va_list args;
    fputs("<title>", out);
    va_start(args, format);
    text_va(out, format, args);
    va_end(args);
    fputs("</title>", out);
}
