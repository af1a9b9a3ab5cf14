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

/* Makes `call` with `row` and `rows`, in blocks of nearly equal size: 5 as 3 + 2,
 * since one of a single row waits for its own sums. */
#define FOR_SOME_ROWS(n_rows, call)                                                                        \
    for (int row = 0, blocks = ((n_rows) + BLOCK_ROWS - 1) / BLOCK_ROWS; blocks > 0; blocks--) {           \
        int rows = ((n_rows) - row + blocks - 1) / blocks;                                                 \
        call;                                                                                              \
        row += rows;                                                                                       \
    }

/* ... and the constant `n`. */
#define FOR_ROW_BLOCKS(n_rows, call) FOR_SOME_ROWS(n_rows, CALL_BLOCK(rows, call))

#endif
