/* The page at /, as it stands in serve_page.html, with a terminator. */
#include "serve.h"

__asm__(".section .rodata\n"
        ".global serve_page\n"
        "serve_page:\n"
        ".incbin \"programs/serve_page.html\"\n"
        ".byte 0\n"
        ".previous\n");
