/*
 * The numeric kernels and their table. kernel_list.h has one row per kernel; this file declares the call
 * structs.
 *
 * *_ref.c fill every slot with plain C, which *defines* what is correct; each instruction set then overwrites
 * what it improves (select.c). One area and one instruction set per file; no kernel allocates; no kernel
 * knows of models, plans or threads.
 *
 * Weights. Whatever their file format, quantized weights are used as unsigned codes with a scale and a
 * minimum per 16 consecutive elements of a row,      w[i] = scale[i / 16] · code[i] + min[i / 16],
 * and activations as integers with one scale per block of 32:   x[i] = xs[i / 32] · q[i].     Then
 *     w·x = Σ_g16 xs · ( scale · Σ code·q  +  min · Σ q )        with Σ code·q exact in int32.
 * q is one int8 digit, or two: q = 128·high + low, |q| <= 16319, which costs a second int8 dot product and
 * makes the arithmetic of a product as good as float (a KLD of 1e-6 instead of 1e-3 to 6e-3 on the models it
 * was measured on). Bound of the int32 sum: 32 · 255 · 16319 = 1.3e8.
 */
#ifndef KV_KERNELS_H
#define KV_KERNELS_H

#include "base/os.h"
#include "kernels/attention_calls.h"
#include "kernels/fit_calls.h"
#include "kernels/sum_calls.h"

#define KV_ACT_BLOCK 32    /* activations per scale                                      */
#define KV_WEIGHT_GROUP 16 /* weights per (scale, minimum) after unpacking               */

/* Weight formats that hold codes (the float formats F32, F16, BF16 need no unpacking to codes). The order is
 * that of the unpack slots. */
enum kv_code_format {
    KV_CODES_Q8_0, KV_CODES_Q4_0, KV_CODES_Q4_1, KV_CODES_Q5_0, KV_CODES_Q5_1, KV_CODES_Q2_K, KV_CODES_Q3_K,
    KV_CODES_Q4_K, KV_CODES_Q5_K, KV_CODES_Q6_K, KV_CODES_IQ4_NL, KV_CODES_IQ4_XS,
    KV_CODES_COUNT
};
enum kv_float_format { KV_FLOAT_F32, KV_FLOAT_F16, KV_FLOAT_BF16, KV_FLOAT_COUNT };

#define KV_ACT_DIGIT 128     /* value of the high digit                                  */
#define KV_ACT_MAX1 127      /* largest q of one digit                                   */
#define KV_ACT_MAX2 16319    /* of two: 127 · 128 + 63                                   */
#define KV_ACT_KEEP 4.0f

/* n rows of activations in integers.
 * Mixed: of two digits, but blocks that are not large beside the row's others,
 *     max|x|² < KV_ACT_KEEP · mean of the row's max|x|²,
 * have only the high one: a step of it is max|x| / 127, and all low digits are 0. The error of a product
 * comes from the blocks with large scales. Products take the high digits of all rows first, then the low
 * digits of the rows that a list names for each block, so the second digit costs what the few blocks cost
 * that have it: with KV_ACT_KEEP = 4 one in 15 to 30. */
struct kv_act_int {
    int8_t *high; /* (n, k): the only digit, or the high one                    */
    int8_t *low;  /* (n, k) in -64 .. 63, or NULL: one digit                    */
    float *scale; /* (n, k / 32): of a step of q; mixed: of a step of the high digit, 128 of q */
    float *sum;   /* (n, k / 16): Σ of the 16 x, as quantized; multiplies minima */
    int32_t *sum_q; /* (n, k / 16): Σ of the 16 q; mixed: of their high digits   */
    int64_t k;    /* multiple of 32                                             */
    uint8_t *two; /* (n, k / 32): 1 where a block has a low digit; NULL: all do, or none. Not NULL: mixed */
    int32_t *sum_low; /* mixed: (n, k / 16): Σ of the low digits                 */
    /* Mixed: rows with a low digit in block b are low_row[low_first[b]] to low_row[low_first[b + 1] - 1],
     * ascending */
    int32_t *low_first; /* (k / 32 + 1) */
    int32_t *low_row;   /* (n · k / 32) */
};
/* Fills both lists of n mixed rows from `two`. */
void kv_act_list_low(struct kv_act_int *x, int64_t n);

/* Rows of one weight matrix times n activations: y[j * ldy + r] = W[r]·x[j] (+ bias[r]) for r in [row_begin,
 * row_end). Exactly one of x_int and x_f32 is used: integer activations need a code format. */
struct kv_matmul {
    const uint8_t *weights;   /* (n_rows, k) in file format                      */
    const uint8_t *turned;    /* the same as panels (kv_turned_bytes), or NULL   */
    size_t row_bytes;
    int code_format;          /* enum kv_code_format, or -1: float_format holds  */
    int float_format;         /* enum kv_float_format, or -1                     */
    int64_t k, n_rows;
    const struct kv_act_int *x_int; /* or NULL                                   */
    const float *x_f32;       /* (n, k), or NULL                                 */
    int64_t n;
    const float *bias;        /* (n_rows) or NULL                                */
    float *y;                 /* (n, ldy)                                        */
    int64_t ldy;
};

struct kv_kernels {
    enum kv_cpu_level level;
    int lanes; /* rows of a panel of turned weights; 0: matmul_rows reads the file's order alone */
#define X(name, ret, params) ret (*name) params;
#include "kernels/kernel_list.h"
#undef X
    /* Unpacks k elements (whole blocks) of a row. code: (k); scale, min: (k / 16) */
    void (*unpack[KV_CODES_COUNT])(const uint8_t *row, int64_t k, uint8_t *code, float *scale, float *min);
};

/* Fills the table with the best kernels up to `level`. */
void kv_kernels_select(struct kv_kernels *table, enum kv_cpu_level level);
/* The same up to the level that a caller names; NULL: what the environment's KVANT_CPU names; "": the best of
 * this CPU. Errors: ARGUMENT (no such level), UNSUPPORTED (this CPU lacks it). */
kvant_status kv_kernels_open(struct kv_kernels *table, const char *wanted, struct kvant_error *err);

/* One filler per file: area × level. A file that was built without its instruction set leaves the table alone
 * and returns false, so that the kernel checker can fail instead of passing with nothing checked. */
#define KV_KERNEL_AREAS(X) X(weights) X(vectors) X(codes) X(attention) X(fit) X(sums)
#define X(area)                                            \
    void kv_fill_##area##_ref(struct kv_kernels *table);    \
    bool kv_fill_##area##_neon(struct kv_kernels *table);   \
    bool kv_fill_##area##_avx2(struct kv_kernels *table);   \
    bool kv_fill_##area##_avx512(struct kv_kernels *table);
KV_KERNEL_AREAS(X)
#undef X

/* Turned weights: rows as panels of `lanes` rows, word after word in file format, so that a product reads one
 * stream and need not turn rows again at each use:
 *     panel (n_rows / lanes, rounded up) · word (row_bytes / 4, rounded up) · row (lanes)
 * Rows beyond the last repeat it, bytes beyond a row are 0. */
static inline size_t kv_turned_row_bytes(size_t row_bytes) { return (row_bytes + 3) & ~(size_t)3; }
static inline size_t kv_turned_panels(int64_t n_rows, int lanes)
{
    return (size_t)((n_rows + lanes - 1) / lanes);
}

/* Scratch bytes that one thread needs in matmul_rows for rows of k elements. */
size_t kv_matmul_scratch_bytes(int64_t k);

#endif
