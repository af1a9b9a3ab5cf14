/*
 * Where d divides, from questions whose router had not seen them.
 */
#ifndef ROUTER_THRESHOLD_H
#define ROUTER_THRESHOLD_H

#include <stddef.h>

/* What slow gains over fast, 1, 0 or −1 a question, is fitted by a line over d that does not fall;
 * questions go to fast from the lowest d on as long as what the line says they lose stays within max_loss
 * · n. Answers the d between the last of them and the next. (Counting what was lost instead lets a few
 * right answers of some hundred questions move the threshold: docs/router.md.) n = 0: 50. */
double router_threshold(const double *d, const double *gain, size_t n, double max_loss);

#endif
