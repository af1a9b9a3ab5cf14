/* Router files from anyone. What is accepted is written as the same bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "read/router.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kvant_router *router;
    struct kvant_error err;
    uint8_t *again;
    size_t n;
    if (kv_router_parse(&router, data, size, &err) != KVANT_OK) {
        if (router || !err.message[0]) abort();
        return 0;
    }
    if (kv_router_write(router, &again, &n, NULL) != KVANT_OK) abort();
    if (n != size || memcmp(again, data, n) != 0) abort();
    float *x = kv_alloc((size_t)router->n_input, sizeof *x);
    if (!x) abort();
    (void)kvant_router_score(router, x);
    kv_free(x);
    kv_free(again);
    kvant_router_close(router);
    return 0;
}
