/*
 * Query rows in blocks whose size is a constant at each call, so that arrays indexed by it are registers.
 */
#ifndef KV_KERNELS_ROW_BLOCKS_H
#define KV_KERNELS_ROW_BLOCKS_H

#define BLOCK_ROWS 4

/* Makes `call` with `row` and the constant `n`, in blocks of equal size: 5 as 3 + 2, since one of a single row waits
 * for its own sums. */
#define FOR_ROW_BLOCKS(n_rows, call)                                                                       \
    for (int row = 0, n_blocks = ((n_rows) + BLOCK_ROWS - 1) / BLOCK_ROWS; n_blocks > 0; n_blocks--) {     \
        int rows = ((n_rows) - row + n_blocks - 1) / n_blocks;                                             \
        switch (rows) {                                                                                    \
        case 1: { enum { n = 1 }; call; } break;                                                           \
        case 2: { enum { n = 2 }; call; } break;                                                           \
        case 3: { enum { n = 3 }; call; } break;                                                           \
        default: { enum { n = 4 }; call; }                                                                 \
        }                                                                                                  \
        row += rows;                                                                                       \
    }

#endif
