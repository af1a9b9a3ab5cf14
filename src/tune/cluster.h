/*
 * Inter-layer clustering of KVTuner: layers with the same candidate set are clustered by DBSCAN on their
 * error vectors, Euclidean and unscaled. The paper does not say what becomes of noise; here every noise point
 * is a group of its own.
 *
 * Independent of the order in which layers are visited. Clusters of core points are the connected components
 * of "within eps", which no order changes. A border point goes to its nearest core point (of several, the
 * lowest layer) instead of to whichever cluster found it first. With min_points 2 there are no border points.
 */
#ifndef KV_TUNE_CLUSTER_H
#define KV_TUNE_CLUSTER_H

#include "tune/groups.h"

#define KV_CLUSTER_EPS        0.05
#define KV_CLUSTER_MIN_POINTS 2 /* the point itself counts */

/* candidates: (n_layer) sets over n_pairs pairs. error: (n_layer, n_pairs), finite; a layer's vector is
 * its entries in its set. eps >= 0, inclusive; min_points >= 1. out: layers ascend within a group, groups
 * by their first layer; close it with kv_groups_close. Errors: ARGUMENT, MEMORY. */
kvant_status kv_cluster(struct kv_groups *out, int n_layer, int n_pairs, const kv_pair_set *candidates,
                        const double *error, double eps, int min_points, struct kvant_error *err);

#endif
