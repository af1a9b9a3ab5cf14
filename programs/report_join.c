/* Plans of several searches in one report. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"
#include "report.h"

static bool same_text(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

/* Divergences can be compared when they were measured with one model on one text. */
static const char *why_apart(const struct report *a, const struct report *b)
{
    if (!same_text(a->model.fingerprint, b->model.fingerprint)) return "is of another model";
    if (!(a->settings.context == b->settings.context)) return "states true bits at another context";
    if (!same_text(a->settings.text, b->settings.text) ||
        !(a->settings.n_tokens_tuning == b->settings.n_tokens_tuning) ||
        !(a->settings.n_tokens_verify == b->settings.n_tokens_verify))
        return "measured its plans on another text";
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    const struct report_point *p = a, *q = b;
    if (p->true_bits != q->true_bits) return p->true_bits < q->true_bits ? -1 : 1;
    return (p->kld_mean > q->kld_mean) - (p->kld_mean < q->kld_mean);
}

int report_join(struct report *report, const struct report *other, const char *file)
{
    const char *why = why_apart(report, other);
    if (why) return fail_text("%s: %s; only reports of one model and text are shown together", file, why);
    if (report->n_points + other->n_points > REPORT_POINTS_MAX)
        return fail_text("%s: more than %d plans together", file, REPORT_POINTS_MAX);
    report->points = reallocate(report->points, report->n_points + other->n_points + 1,
                                sizeof *report->points);
    for (size_t i = 0; i < other->n_points; i++) {
        struct report_point point = other->points[i];
        if (point.source == REPORT_UNIFORM) continue; /* these are the same */
        point.chosen = false;
        report->points[report->n_points++] = point;
    }
    qsort(report->points, report->n_points, sizeof *report->points, by_size);
    double best = INFINITY;
    report->chosen = NULL;
    for (size_t i = 0; i < report->n_points; i++) {
        struct report_point *p = &report->points[i];
        p->dominated = i > 0 && !(p->kld_mean < best);
        best = fmin(best, p->kld_mean);
        if (p->chosen) report->chosen = p;
    }
    return EXIT_OK;
}
