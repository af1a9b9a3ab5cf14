#include "tune/ranks.h"

#include "base/hash.h"

#include <string.h>

kvant_status kv_ranks_sum(const struct kv_ranks *r, double *values, size_t n, kvant_status status,
                          struct kvant_error *err)
{
    if (kv_ranks_count(r) == 1) return status;
    values[n] = status == KVANT_OK ? 0.0 : 1.0;
    if (!r->sum(r->user, values, n + 1)) {
        if (status != KVANT_OK) return status;
        KV_FAIL(err, KVANT_ERR_IO, -1, "process %d of %d cannot reach the others", r->rank, r->n);
    }
    if (status != KVANT_OK || values[n] == 0.0) return status;
    KV_FAIL(err, KVANT_ERR_CANCELLED, -1, "another of the %d processes stopped", r->n);
}

kvant_status kv_ranks_meet(const struct kv_ranks *r, kvant_status status, struct kvant_error *err)
{
    double values[1];
    return kv_ranks_sum(r, values, 0, status, err);
}

kvant_status kv_ranks_agree(const struct kv_ranks *r, const char *text, kvant_status status,
                            struct kvant_error *err)
{
    struct kv_hash hash;
    uint8_t digest[32];
    double values[9], own[8];
    kv_hash_begin(&hash);
    kv_hash_add(&hash, text, strlen(text));
    kv_hash_bytes(&hash, digest);
    for (int i = 0; i < 8; i++) /* sums of 32 bits are exact */
        own[i] = values[i] = (double)(((uint32_t)digest[4 * i] << 24) | ((uint32_t)digest[4 * i + 1] << 16) |
                                      ((uint32_t)digest[4 * i + 2] << 8) | digest[4 * i + 3]);
    KV_TRY(kv_ranks_sum(r, values, 8, status, err));
    for (int i = 0; i < 8 && kv_ranks_count(r) > 1; i++)
        if (values[i] != own[i] * r->n)
            KV_FAIL(err, KVANT_ERR_MISMATCH, -1,
                    "the %d processes compute different numbers: all need the same program and model file, "
                    "and, on "
                    "different processors, the same --cpu level",
                    r->n);
    return KVANT_OK;
}
