/* Chat templates of any model file, with variables of any client: a template, a zero byte, and a JSON
 * object. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "text/jinja.h"

static const char variables[] = "{\"messages\":[{\"role\":\"system\",\"content\":\"be\"},{\"role\":\"user\","
                                "\"content\":\"hi \xc3\xa9\"}],\"tools\":"
                                "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"a\":["
                                "1,2.5,null,true]}}}],\"n\":3,"
                                "\"add_generation_prompt\":true}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_jinja *t;
    struct kvant_error err;
    char *text;
    size_t n;
    if (size > 65536) return 0;
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t n_source = end ? (size_t)(end - data) : size;
    if (kv_jinja_open(&t, (const char *)data, n_source, &err) != KVANT_OK) {
        if (t) abort();
        return 0;
    }
    struct kv_jinja_call call = {
        .json = variables, .n_bytes = sizeof variables - 1, .now_s = 1, .utc = true
    };
    if (end) {
        call.json = (const char *)end + 1;
        call.n_bytes = size - n_source - 1;
    }
    if (kv_jinja_render(t, &call, &text, &n, &err) == KVANT_OK)
        kv_free(text);
    else if (text)
        abort();
    kv_jinja_close(t);
    return 0;
}
