#include "ranks.h"

#include <limits.h>
#include <stdlib.h>

#include "program.h"

#ifdef KVANT_MPI

#include <mpi.h>
#include <time.h>

/* A process that waits must not take the core from one that computes: MPI's own waiting spins. */
static bool await(MPI_Request *request)
{
    const struct timespec pause = { 0, 500000 };
    for (int done = 0;;) {
        if (MPI_Test(request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
        if (done) return true;
        nanosleep(&pause, NULL);
    }
}

/* mpirun says so to its children; a kvant that was started by hand does not touch MPI. */
static bool is_launched(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMI_SIZE") || getenv("PMIX_RANK");
}

int ranks_begin(struct ranks *ranks)
{
    *ranks = (struct ranks){ false, 0, 1 };
    if (!is_launched()) return EXIT_OK;
    if (MPI_Init(NULL, NULL) != MPI_SUCCESS) return fail_text("MPI does not start");
    ranks->has_begun = true;
    MPI_Comm_rank(MPI_COMM_WORLD, &ranks->self);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks->count);
    return EXIT_OK;
}

bool ranks_sum(void *user, double *values, size_t n)
{
    (void)user;
    MPI_Request request;
    return n <= INT_MAX &&
           MPI_Iallreduce(MPI_IN_PLACE, values, (int)n, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD, &request) ==
               MPI_SUCCESS &&
           await(&request);
}

void ranks_end(struct ranks *ranks, int exit_code)
{
    MPI_Request request;
    if (!ranks->has_begun) return;
    if (exit_code != EXIT_OK) MPI_Abort(MPI_COMM_WORLD, exit_code);
    if (MPI_Ibarrier(MPI_COMM_WORLD, &request) == MPI_SUCCESS) await(&request);
    MPI_Finalize();
    ranks->has_begun = false;
}

#else

int ranks_begin(struct ranks *ranks)
{
    *ranks = (struct ranks){ false, 0, 1 };
    const char *count = getenv("OMPI_COMM_WORLD_SIZE");
    if (!count) count = getenv("PMI_SIZE");
    if (!count || atoi(count) < 2) return EXIT_OK;
    return fail_text("started as one of %s processes, but built without MPI: build with make MPI=1", count);
}

bool ranks_sum(void *user, double *values, size_t n)
{
    (void)user, (void)values, (void)n;
    return true;
}

void ranks_end(struct ranks *ranks, int exit_code)
{
    (void)ranks, (void)exit_code;
}

#endif
