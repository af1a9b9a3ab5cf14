/*
 * The frequent weight formats to codes, one block at a time in 256-bit registers, for both AVX levels. unpack.c draws
 * the blocks; these differ in leaving scales as they stand in the file (float16, one per 32) where that saves work: a
 * panel converts 16 rows' scales at once. Needs bytes_where() of the level.
 *
 * scale, min: one word per group, as struct format says. Nothing beyond the block is read.
 */

static inline uint32_t load_word(const void *p)
{
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

/* 16 bytes of nibbles to 32 codes: low ones first */
KV_INLINE __m256i nibbles_16(const uint8_t *p)
{
    __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
    __m256i shifted = _mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4));
    return _mm256_and_si256(shifted, _mm256_set1_epi8(15));
}

KV_INLINE void store_codes(uint8_t *code, __m256i x)
{
    _mm256_storeu_si256((__m256i *)code, x);
}

KV_INLINE __m256i load_32(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

KV_INLINE void block_q8_0(const uint8_t *b, uint8_t *code, uint32_t *scale, uint32_t *min)
{
    (void)min;
    store_codes(code, _mm256_xor_si256(load_32(b + 2), _mm256_set1_epi8(-128)));
    *scale = load_word(b);
}

KV_INLINE void block_q4_0(const uint8_t *b, uint8_t *code, uint32_t *scale, uint32_t *min)
{
    (void)min;
    store_codes(code, nibbles_16(b + 2));
    *scale = load_word(b);
}

KV_INLINE void block_q4_1(const uint8_t *b, uint8_t *code, uint32_t *scale, uint32_t *min)
{
    (void)min;
    store_codes(code, nibbles_16(b + 4));
    *scale = load_word(b);
}

KV_INLINE void block_q5_0(const uint8_t *b, uint8_t *code, uint32_t *scale, uint32_t *min)
{
    (void)min;
    store_codes(code, _mm256_or_si256(nibbles_16(b + 6), bytes_where(load_word(b + 2), 16)));
    *scale = load_word(b);
}

KV_INLINE void block_q5_1(const uint8_t *b, uint8_t *code, uint32_t *scale, uint32_t *min)
{
    (void)min;
    store_codes(code, _mm256_or_si256(nibbles_16(b + 8), bytes_where(load_word(b + 4), 16)));
    *scale = load_word(b);
}

/* Q4_K and Q5_K begin | d dmin | 12 bytes: 8 scales and 8 minima of 6 bits |. Words a b c of those bytes hold, byte by
 * byte, scales 0..3 in a, minima 0..3 in b (6 low bits each); c has the low nibbles of scales (low) and minima (high) 4..7,
 * whose upper two bits stand on top of a and b. */
KV_INLINE void scales_6bit(const uint8_t *block, uint32_t *scale, uint32_t *min)
{
    uint32_t a = load_word(block + 4), b = load_word(block + 8), c = load_word(block + 12);
    uint64_t s_high = (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030), m_high = (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030);
    uint64_t s = (a & 0x3f3f3f3f) | s_high << 32, m = (b & 0x3f3f3f3f) | m_high << 32;
    __m128 d = _mm_cvtph_ps(_mm_cvtsi32_si128((int)load_word(block))); /* d, dmin */
    __m256 s8 = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)s)));
    __m256 m8 = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)m)));
    __m256 negative_dmin = _mm256_xor_ps(_mm256_broadcastss_ps(_mm_movehdup_ps(d)), _mm256_set1_ps(-0.0f));
    _mm256_storeu_ps((float *)scale, _mm256_mul_ps(s8, _mm256_broadcastss_ps(d)));
    _mm256_storeu_ps((float *)min, _mm256_mul_ps(m8, negative_dmin));
}

KV_INLINE void block_q4_k(const uint8_t *b, uint8_t *code, uint32_t *scale, uint32_t *min)
{
    const __m256i low = _mm256_set1_epi8(15);
    scales_6bit(b, scale, min);
    for (int c = 0; c < 4; c++, code += 64) {
        __m256i q = load_32(b + 16 + 32 * c);
        store_codes(code, _mm256_and_si256(q, low));
        store_codes(code + 32, _mm256_and_si256(_mm256_srli_epi16(q, 4), low));
    }
}

KV_INLINE void block_q5_k(const uint8_t *b, uint8_t *code, uint32_t *scale, uint32_t *min)
{
    const __m256i low = _mm256_set1_epi8(15), fifth = _mm256_set1_epi8(16);
    scales_6bit(b, scale, min);
    __m256i high = load_32(b + 16); /* bit i of byte l: fifth bit of element 32 i + l */
    for (int c = 0; c < 4; c++, code += 64) {
        __m256i q = load_32(b + 48 + 32 * c);
        __m256i h0 = _mm256_slli_epi16(_mm256_srl_epi16(high, _mm_cvtsi32_si128(2 * c)), 4);
        __m256i h1 = _mm256_slli_epi16(_mm256_srl_epi16(high, _mm_cvtsi32_si128(2 * c + 1)), 4);
        store_codes(code, _mm256_or_si256(_mm256_and_si256(q, low), _mm256_and_si256(h0, fifth)));
        store_codes(code + 32, _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(q, 4), low),
                                               _mm256_and_si256(h1, fifth)));
    }
}

/* | ql: 128 | qh: 64 | scales: 16 × int8 | d |, twice 128 elements: bytes l of ql, l + 32 of ql hold (low, then high
 * nibbles) elements l, l + 32, l + 64, l + 96; their upper two bits are the pairs of qh's byte l, lowest first. */
KV_INLINE void block_q6_k(const uint8_t *b, uint8_t *code, uint32_t *scale, uint32_t *min)
{
    const __m256i low = _mm256_set1_epi8(15), upper = _mm256_set1_epi8(0x30);
    for (int h = 0; h < 2; h++, code += 128) {
        __m256i q0 = load_32(b + 64 * h), q1 = load_32(b + 64 * h + 32), top = load_32(b + 128 + 32 * h);
        __m256i t0 = _mm256_and_si256(_mm256_slli_epi16(top, 4), upper);
        __m256i t1 = _mm256_and_si256(_mm256_slli_epi16(top, 2), upper);
        __m256i t2 = _mm256_and_si256(top, upper);
        __m256i t3 = _mm256_and_si256(_mm256_srli_epi16(top, 2), upper);
        store_codes(code, _mm256_or_si256(_mm256_and_si256(q0, low), t0));
        store_codes(code + 32, _mm256_or_si256(_mm256_and_si256(q1, low), t1));
        store_codes(code + 64, _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(q0, 4), low), t2));
        store_codes(code + 96, _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(q1, 4), low), t3));
    }
    uint16_t half;
    memcpy(&half, b + 208, sizeof half);
    __m256 d = _mm256_set1_ps(_cvtsh_ss(half)), shift = _mm256_set1_ps(-32.0f);
    for (int i = 0; i < 16; i += 8) {
        __m256i s8 = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(b + 192 + i)));
        __m256 s = _mm256_mul_ps(_mm256_cvtepi32_ps(s8), d);
        _mm256_storeu_ps((float *)scale + i, s);
        _mm256_storeu_ps((float *)min + i, _mm256_mul_ps(s, shift));
    }
}
