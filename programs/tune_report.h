/*
 * What kvant tune found, as a report document (docs/format-report.md).
 */
#ifndef TUNE_REPORT_H
#define TUNE_REPORT_H

#include "json.h"
#include "predict.h"

struct tune_account { /* of the command, beside the result itself */
    const char *command; /* the command line                         */
    const char *text;    /* what was tuned on                        */
    const double *budgets; /* (n_budgets) as asked for               */
    int n_budgets;
    bool kvtuner, by_layer, mix;
    int64_t seed;
    double seconds;
    int chosen;          /* index of a point, or -1                  */
};

/* times NULL: no predictions. The caller owns the document. */
json_t *tune_report(const struct kvant_model *model, const struct kvant_tune_result *found,
                    const struct predict_times *times, const struct tune_account *account);

#endif
