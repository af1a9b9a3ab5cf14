/* Plans from anyone: YAML and presets, and specifications of the command line. What is accepted must print to
 * a text that is accepted again and prints the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cache/plan_text.h"

static const struct kv_plan_dims dims = { "tiny", "llama", "sha256:00", 4, 2, 32 };

static void check_accepted(struct kvant_plan *plan)
{
    char *text = NULL, *text_again = NULL;
    size_t n, n_again;
    struct kvant_plan *again;
    if (kv_plan_write_yaml(plan, &text, &n, NULL) != KVANT_OK) abort();
    if (kv_plan_read_yaml(&again, &dims, text, n, "", KV_PRESET_AUTO, NULL, NULL) != KVANT_OK) abort();
    if (kv_plan_write_yaml(again, &text_again, &n_again, NULL) != KVANT_OK) abort();
    if (n != n_again || memcmp(text, text_again, n) != 0) abort();
    kv_free(text);
    kv_free(text_again);
    kvant_plan_close(again);
    kvant_plan_close(plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kvant_plan *plan;
    struct kvant_error err;
    if (kv_plan_read_yaml(&plan, &dims, (const char *)data, size, "kivi", KV_PRESET_AUTO, NULL, &err) ==
        KVANT_OK)
        check_accepted(plan);
    /* Only what begins like a layer grammar: other words would be opened as files. */
    if (size == 0 || size > 4096 || !memchr("k[0123456789fq;", data[0], 15)) return 0;
    char *spec = kv_strndup((const char *)data, size);
    if (!spec) return 0;
    if (kv_plan_open(&plan, &dims, spec, &err) == KVANT_OK) check_accepted(plan);
    kv_free(spec);
    return 0;
}
