/*
 * What the files of attention share: a block of queries of one KV head, and what one thread works with.
 *
 *   attention.c        the call: items for the threads, chunks, folding of partial states
 *   attention_page.c   a block meets one page, over its codes
 *   attention_rows.c   a block meets float tiles: exact rows, and expanded pages where float32 is asked for
 */
#ifndef KV_MODEL_ATTENTION_BLOCK_H
#define KV_MODEL_ATTENTION_BLOCK_H

#include "base/memory.h"
#include "model/attention.h"

#define KV_BLOCK_TOKENS 32 /* reading a page's codes into registers costs as much as one query row or two */

/* up to so many query rows take rows of 16 bits as they are: turning a tile costs as much */
#define KV_FEW_ROWS 16

/* Softmax states of some query rows. */
struct kv_partial {
    float *max, *sum; /* (n)           */
    float *out;       /* (n, head_dim) */
};

/* What attention over codes needs for a block of n rows. */
struct kv_page_scratch {
    float *q;                  /* (n, head_dim): rotated, or in the order in which a page stores channels   */
    uint16_t *scale, *min;     /* (KV_GRIDS_MAX) of short grids, widened                                    */
    float *middle;             /* (head_dim) of the codes of each stored channel                            */
    uint8_t *largest;          /* (head_dim) likewise                                                       */
    char *digits[2];           /* (n, 2 · head_dim) of both halves of a page: of q, and                     */
    float *delta[2][KV_SPANS_MAX]; /* (n) their scales                                                      */
    float *bias[2], *sum;      /* (n)                                                                       */
    float *keep;               /* (n)                                                                       */
    float *cos_part, *sin_part; /* (n, head_dim / 2) of the centres' term                                   */
    float *still;              /* (n)                                                                       */
    char *p_digits;            /* (n, head_dim / 32, 64) of 2 bytes: of probabilities                       */
    float *p_delta, *p_bias;   /* (n, head_dim / 32)                                                        */
    int row;                   /* where the calls of the pages at hand begin:                               */
    struct kv_fold fold[2];
    struct kv_qk_codes qk;
    struct kv_qk_center center;
    struct kv_soften soften;
    struct kv_weigh weigh;
    struct kv_pv_codes pv;
};

struct kv_attn_worker {
    float *q;               /* (n, head_dim), scaled */
    float *kt, *v, *score;  /* (head_dim, 64), (64, head_dim), (n, 64) */
    int *first, *last;      /* (n) */
    struct kv_page_scratch page;
    struct kv_partial total, part;
};

/* Tokens [token, token + n_tokens) of a run, with the query heads of one KV head: row (token, head of the
 * group). */
struct kv_attn_block {
    const struct kv_kernels *kernels;
    const struct kv_attn_call *call;
    const struct kv_attn_run *run;
    struct kv_attn_worker *worker;
    const struct kv_codec *codec;
    const struct kvant_plan *plan;
    const struct kv_recipe *recipe;
    struct kv_seq_view view;
    int64_t token, sealed[KV_BLOCK_TOKENS]; /* of each query; ascending */
    int n_tokens, group, n_rows, head_kv;
    struct kv_key_class classes[KV_CLASSES_MAX]; /* of the head's keys, once pages are prepared */
    int n_classes;
    /* what the thread will probably work on after a chunk: this page, where there is one, of that KV head */
    int64_t after_page;
    int after_head;
};

static inline int64_t kv_clamp(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

/* Query token i sees [first, last) of the tile at hand. */
static inline void kv_block_set_visible(const struct kv_attn_block *b, int i, int64_t first, int64_t last)
{
    for (int g = 0; g < b->group; g++) {
        b->worker->first[i * b->group + g] = (int)first;
        b->worker->last[i * b->group + g] = (int)last;
    }
}

struct kv_page_scratch kv_page_scratch_place(struct kv_carve *c, size_t n_rows, size_t head_dim);
/* What follows from the queries alone, before the block's first page. */
void kv_block_prepare_pages(struct kv_attn_block *b);
/* Asks memory for what the block's head has in page i. */
void kv_block_ask_for_page(const struct kv_attn_block *b, int64_t i_page);
/* Adds pages [begin, end), of one chunk, as far as they are sealed for each query, to the states. */
void kv_block_attend_pages(const struct kv_attn_block *b, int64_t begin, int64_t end,
                           const struct kv_partial *state);
/* The same of page i, whose first n tokens are sealed for the last query,
 * in float32 from the expanded page. */
void kv_block_attend_tile_page(const struct kv_attn_block *b, int64_t i_page, int n,
                               const struct kv_partial *state);
/* Adds the exact rows that the queries see. */
void kv_block_attend_exact(const struct kv_attn_block *b, const struct kv_partial *state);

#endif
