/*
 * A result of kvant_sensitivity_run as tables and a heat map, as CSV and as JSON.
 */
#ifndef SENSITIVITY_REPORT_H
#define SENSITIVITY_REPORT_H

#include "options.h"
#include "program.h"

struct sensitivity_report {
    const struct kvant_sensitivity *result;
    const char *model_path;
    const char *source;             /* of the prompts: a file's name, or "the model's own text" */
    const struct option_list *kld;  /* recipes of the result's kld */
    double seconds;
};

int sensitivity_print(const struct sensitivity_report *report);
int sensitivity_print_json(const struct sensitivity_report *report);

/* One number per line: quantity, mode, layer, head, key_bits, value_bits, channel, value; what does not apply
 * is empty. Prints what fails. */
int sensitivity_write_csv(const struct sensitivity_report *report, const char *path);

#endif
