/* One row per kernel: X(name, return type, parameters). Included with X defined; its test and benchmark
 * follow from it. */

/* --- weights --- */
/* n rows of k floats to integers by blocks of 32, in as many digits as `out` has: scale = max|x| / largest q,
 * round to nearest even; sum as struct kv_act_int. */
X(act_quantize, void, (const float *x /* (n, k) */, int64_t n, struct kv_act_int *out))
/* Rows [row_begin, row_end) of a matrix product; scratch: kv_matmul_scratch_bytes(k), aligned to 64. The
 * result for one (row, activation) pair does not depend on n, on the row range, or on whether the weights are
 * turned; turned ones need a row_begin that is a multiple of table->lanes. */
X(matmul_rows, void, (const struct kv_kernels *table, const struct kv_matmul *mm, int64_t row_begin,
                      int64_t row_end, void *scratch))

/* One panel of turned weights, of n_rows ≤ lanes rows (lanes: of the level that will read it). */
X(turn_rows, void, (const uint8_t *rows, size_t row_bytes, int n_rows, int lanes, uint8_t *panel))

/* --- vectors --- */
/* y = x / sqrt(mean(x²) + eps) · weight */
X(rms_norm, void, (const float *x /* (n) */, const float *weight /* (n) */, int64_t n, float eps, float *y))
/* y = a / (1 + exp(-a)) · b */
X(silu_mul, void, (const float *a, const float *b, int64_t n, float *y))
X(add, void, (float *x /* (n), += y */, const float *y, int64_t n))
X(f32_to_f16, void, (const float *x, int64_t n, uint16_t *y))
X(f16_to_f32, void, (const uint16_t *x, int64_t n, float *y))
/* Walsh-Hadamard transform in place of n_rows rows, orthonormal (scaled by 1/sqrt(block)): blocks of the
 * largest power of two that divides head_dim. Its own inverse. */
X(hadamard, void, (float *x /* (n_rows, head_dim) */, int n_rows, int head_dim))
/* log Σ exp(x) in double, of n floats */
X(log_sum_exp, double, (const float *x, int64_t n))

/* --- attention over codes --- */
X(attn_fold, void, (const struct kv_fold *call))
X(qk_codes, void, (const struct kv_qk_codes *call))
X(qk_center, void, (const struct kv_qk_center *call))
/* exp within 3e-7, relative; the sum follows */
X(attn_soften, void, (const struct kv_soften *call))
X(attn_weigh, void, (const struct kv_weigh *call))
X(pv_codes, void, (const struct kv_pv_codes *call))

/* --- attention over 16-bit rows --- */
X(qk_half, void, (const struct kv_qk_half *call))
X(pv_half, void, (const struct kv_pv_half *call))

/* --- attention over float tiles --- */
X(attn_tile, void, (const struct kv_attn_tile *tile))
/* Rows of f16 keys (n_tokens, head_dim) with a row stride to the transposed float tile (head_dim, 64). */
X(key_tile_from_rows, void, (const uint16_t *rows, int64_t row_stride, int n_tokens, int head_dim, float *kt))
X(value_tile_from_rows, void, (const uint16_t *rows, int64_t row_stride, int n_tokens, int head_dim,
                               float *v /* (64, head_dim) */))
/* Codes of a page to float tiles. Writes only the channels of the range. */
X(key_tile_expand, void, (const struct kv_key_tile *in, float *kt /* (head_dim, 64) */))
X(value_tile_expand, void, (const struct kv_value_tile *in, float *v /* (64, head_dim) */))
/* The Hadamard transform over the channels of a key tile, in place: as `hadamard` on each of its 64
 * columns. */
X(key_tile_hadamard, void, (float *kt /* (head_dim, 64) */, int head_dim))

/* n short grids (short_grid.h) as f16. Reads and writes up to the next multiple of 16.
 * Equal bits at every level. */
X(widen_grids, void, (const uint8_t *scale, const uint8_t *centre, int n, int bits, uint16_t *scale_f16,
                      uint16_t *min_f16))

/* --- encoding --- */
/* Codes and grids of groups of 2 to 4 bits; bit-equal at every level */
X(fit_groups, void, (const struct kv_fit_groups *call))

/* --- sums over the tokens of a page --- */
/* Equal bits at every level. */
X(sum_keys, void, (const struct kv_sum_keys *call))
X(sum_values, void, (const struct kv_sum_values *call))
