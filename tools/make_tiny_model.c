/* make_tiny_model FILE [ARCH [SEED [WEIGHT_TYPE [ends]]]]:
 * writes a tiny random model, as the tests use them. */
#include "support/tiny_gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 6 || argv[1][0] == '-') {
        fprintf(stderr, "usage: make_tiny_model FILE [ARCH [SEED [WEIGHT_TYPE [ends]]]]\n"
                        "  ARCH         llama (default), qwen2, qwen3\n"
                        "  WEIGHT_TYPE  0 F32 (default), 1 F16, 2 Q4_0, 3 Q4_1, 8 Q8_0, 30 BF16\n"
                        "  ends         it ends every text at once\n"
                        "example: make_tiny_model tiny.gguf qwen2 7 8\n");
        return 2;
    }
    struct tiny_gguf_options opt = {
        .arch = argc > 2 ? argv[2] : NULL,
        .seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 0,
        .weight_type = argc > 4 ? atoi(argv[4]) : TINY_F32,
        .ends_at_once = argc > 5 && strcmp(argv[5], "ends") == 0,
    };
    struct kvant_error err;
    if (tiny_gguf_write(argv[1], &opt, &err) != KVANT_OK) {
        fprintf(stderr, "make_tiny_model: %s\n", err.message);
        return 1;
    }
    return 0;
}
