#include "recipe_text.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Bits up to 16 with at most two decimals, then letters and digits: "3c64xm" behind the k. */
static size_t part_parse(const char *text, char letter, char part[RECIPE_PART_CAP], double *bits)
{
    size_t n_number = strspn(text + (*text == letter), "0123456789.");
    if (*text != letter || n_number == 0 || n_number > 5) return 0;
    char number[8], *end;
    memcpy(number, text + 1, n_number);
    number[n_number] = '\0';
    *bits = strtod(number, &end);
    if (*end || !(*bits >= 1.0 && *bits <= 16.0)) return 0;
    const char *letters = letter == 'k' ? "tcxmhs0123456789" : "ghs0123456789";
    size_t n = 1 + n_number + strspn(text + 1 + n_number, letters);
    if (n >= RECIPE_PART_CAP) return 0;
    memcpy(part, text, n);
    part[n] = '\0';
    return n;
}

bool recipe_text_parse(const char *recipe, struct recipe_text *out)
{
    size_t n = part_parse(recipe, 'k', out->key, &out->key_bits);
    if (n == 0) return false;
    recipe += n;
    recipe += strspn(recipe, " ");
    n = part_parse(recipe, 'v', out->value, &out->value_bits);
    return n > 0 && recipe[n] == '\0';
}
