/*
 * A recipe in the layer grammar, taken apart: "k2.5c64xm v2h" is the key part "k2.5c64xm" and the value part
 * "v2h". docs/format-plan.md has the grammar; whether the letters make sense is the library's business.
 */
#ifndef RECIPE_TEXT_H
#define RECIPE_TEXT_H

#include <stdbool.h>

#define RECIPE_PART_CAP 24

struct recipe_text {
    char key[RECIPE_PART_CAP], value[RECIPE_PART_CAP];
    double key_bits, value_bits; /* code bits per element: 1 to 16; of mixed keys the average */
};

/* False when it is not two such parts. */
bool recipe_text_parse(const char *recipe, struct recipe_text *out);

#endif
