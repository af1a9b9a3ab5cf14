/*
 * Parts of a vector where a vector has at most 8 lanes: head sizes are multiples of 8, so a
 * vector of channels is never partly used, and a part is all of it. At the end of such a
 * simd_*.h; simd_avx512.h has its own.
 */
#ifndef KV_KERNELS_WHOLE_PARTS_H
#define KV_KERNELS_WHOLE_PARTS_H

KV_INLINE vf vf_load_part(const float *p, int n)
{
    (void)n;
    return vf_load(p);
}
KV_INLINE void vf_store_part(float *p, vf x, int n)
{
    (void)n;
    vf_store(p, x);
}
KV_INLINE vf vf_load_f16_part(const uint16_t *p, int n)
{
    (void)n;
    return vf_load_f16(p);
}
KV_INLINE void vi_store_bytes_part(int8_t *p, vi x, int n)
{
    (void)n;
    vi_store_bytes(p, x);
}
KV_INLINE void vi_store_wide_part(int16_t *p, vi x, int n)
{
    (void)n;
    vi_store_wide(p, x);
}

#endif
