/*
 * Several processes that work together, started by mpirun. Built with `make MPI=1` (OpenMPI, or another MPI
 * 3); without, or started alone, there is one process.
 */
#ifndef RANKS_H
#define RANKS_H

#include <stdbool.h>
#include <stddef.h>

struct ranks {
    bool has_begun;
    int self, count; /* 0: this one talks, reads and writes files; how many there are */
};

/* EXIT_FAILED after a message: started by mpirun, but built without MPI. */
int ranks_begin(struct ranks *ranks);
/* values (n) become their sums over all processes; those that wait sleep. false: the others cannot be
 * reached. user: nothing. */
bool ranks_sum(void *user, double *values, size_t n);
/* Waits for the others when all went well, ends all of them at once when not. */
void ranks_end(struct ranks *ranks, int exit_code);

#endif
