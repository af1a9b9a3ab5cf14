/* Spearman's rank correlation of n pairs; equal numbers share their mean rank. */
#ifndef SUPPORT_SPEARMAN_H
#define SUPPORT_SPEARMAN_H

double check_spearman(const double *x, const double *y, int n);

#endif
