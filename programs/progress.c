#include "progress.h"

#include <string.h>
#include <unistd.h>

#include "program.h"

#define LOG_PERIOD_S 10.0

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

bool progress_update(void *user, const char *what, int64_t done, int64_t total)
{
    struct progress *progress = user;
    double now_s = clock_s();
    if (strncmp(progress->what, what, sizeof progress->what - 1) != 0) {
        snprintf(progress->what, sizeof progress->what, "%s", what);
        progress->started_s = now_s;
    }
    if (now_s >= progress->next_s) {
        progress->next_s = now_s + (progress->is_terminal ? 0.1 : LOG_PERIOD_S);
        wipe(progress);
        int n = fprintf(stderr, "  %s", progress->what);
        if (total > 0) n += fprintf(stderr, " %.0f %%", 100.0 * (double)done / (double)total);
        if (total > 0 && done > 0 && done < total) {
            double left_s = (now_s - progress->started_s) / (double)done * (double)(total - done);
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
    progress->what[0] = '\0';
}
