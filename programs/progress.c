#include "progress.h"

#include <unistd.h>

#include "program.h"

#define LOG_PERIOD_S 10.0
#define FIRST_SHARE 0.02 /* of the work, from which an end can be told */

void progress_begin(struct progress *progress)
{
    *progress = (struct progress){.is_terminal = isatty(STDERR_FILENO) != 0};
    progress->next_s = clock_s() + (progress->is_terminal ? 0.5 : LOG_PERIOD_S);
}

static void wipe(struct progress *progress)
{
    if (progress->is_terminal && progress->n_shown > 0) fprintf(stderr, "\r%*s\r", progress->n_shown, "");
    progress->n_shown = 0;
}

/* A count goes on while it grows towards the same total. */
static void follow(struct progress *progress, double now_s, int64_t done, int64_t total)
{
    if (progress->total != total || done < progress->done) {
        progress->started_s = now_s;
        progress->first_done = done;
    }
    progress->done = done;
    progress->total = total;
}

bool progress_update(void *user, const char *what, int64_t done, int64_t total)
{
    struct progress *progress = user;
    double now_s = clock_s();
    follow(progress, now_s, done, total);
    if (now_s >= progress->next_s) {
        progress->next_s = now_s + (progress->is_terminal ? 0.1 : LOG_PERIOD_S);
        wipe(progress);
        int n = fprintf(stderr, "  %.79s", what);
        if (total > 0) n += fprintf(stderr, " %.0f %%", 100.0 * (double)done / (double)total);
        int64_t n_done = done - progress->first_done;
        if (done < total && (double)n_done > FIRST_SHARE * (double)(total - progress->first_done)) {
            double left_s = (now_s - progress->started_s) / (double)n_done * (double)(total - done);
            n += left_s < 100 ? fprintf(stderr, ", %.0f s left", left_s)
                              : fprintf(stderr, ", %.0f min left", left_s / 60.0);
        }
        progress->n_shown = n;
        if (!progress->is_terminal) fputc('\n', stderr);
        fflush(stderr);
    }
    return !interrupted();
}

void progress_end(struct progress *progress)
{
    wipe(progress);
    progress->total = 0; /* what comes next counts anew */
}
