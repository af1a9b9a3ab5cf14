/*
 * Query rows in blocks whose size is a constant at each call, so that arrays indexed by it are registers.
 */
#ifndef KV_KERNELS_ROW_BLOCKS_H
#define KV_KERNELS_ROW_BLOCKS_H

#define BLOCK_ROWS 4
#define KV_LEAF static __attribute__((noinline))

#define CALL_BLOCK(rows, call)                                                                             \
    switch (rows) {                                                                                        \
    case 1: { enum { n = 1 }; call; } break;                                                               \
    case 2: { enum { n = 2 }; call; } break;                                                               \
    case 3: { enum { n = 3 }; call; } break;                                                               \
    default: { enum { n = 4 }; call; }                                                                     \
    }

/* Makes `call` with `row` and `rows`, in blocks of nearly equal size: 5 as 3 + 2, since one of a single row waits for
 * its own sums. */
#define FOR_SOME_ROWS(n_rows, call)                                                                        \
    for (int row = 0, blocks = ((n_rows) + BLOCK_ROWS - 1) / BLOCK_ROWS; blocks > 0; blocks--) {           \
        int rows = ((n_rows) - row + blocks - 1) / blocks;                                                 \
        call;                                                                                              \
        row += rows;                                                                                       \
    }

/* ... and the constant `n`. */
#define FOR_ROW_BLOCKS(n_rows, call) FOR_SOME_ROWS(n_rows, CALL_BLOCK(rows, call))

/* The same for calls that may work on a row twice: blocks are of one size, and the last begins as far back as that
 * takes, 7 as 0..3 and 3..6. Of the code for each size, some kilobytes, only one is run then: with 4 and 3 rows of
 * mixed keys the steps of a page outgrow the first-level instruction cache, and 7 rows take longer than 8. */
#define FOR_EQUAL_ROW_BLOCKS(n_rows, call)                                                                 \
    for (int all = (n_rows), n_blocks = (all + BLOCK_ROWS - 1) / BLOCK_ROWS,                               \
             rows = n_blocks ? (all + n_blocks - 1) / n_blocks : 0, begin = 0; begin < all; begin += rows) { \
        int row = begin + rows <= all ? begin : all - rows;                                                \
        CALL_BLOCK(rows, call)                                                                             \
    }

#endif
