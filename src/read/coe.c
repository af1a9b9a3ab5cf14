#include "read/coe.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

#define DISTANCE_EPS 1e-12 /* end to end; shorter is none                                                 */
#define ANGLE_EPS    1e-7  /* likewise; acos near 1 tells no angle below 1.5e-8 from none, in double */

kvant_status kv_coe_open(struct kv_coe_path *path, size_t dim, struct kvant_error *err)
{
    *path = (struct kv_coe_path){ .dim = dim };
    path->first = kv_alloc(dim, sizeof *path->first);
    path->previous = kv_alloc(dim, sizeof *path->previous);
    if (path->first && path->previous) return KVANT_OK;
    kv_coe_close(path);
    KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a path of vectors of %zu", dim);
}

void kv_coe_close(struct kv_coe_path *path)
{
    kv_free(path->first);
    kv_free(path->previous);
    kv_free(path->steps);
    *path = (struct kv_coe_path){ .dim = path->dim };
}

/* |b − a| and the angle between them. A vector without length has no direction: no angle to anything. */
static struct kv_coe_step step_between(const float *a, const float *b, size_t dim)
{
    double distance = 0, dot = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < dim; i++) {
        double x = (double)a[i], y = (double)b[i];
        distance += (y - x) * (y - x);
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    double size = sqrt(aa) * sqrt(bb), cosine = size > 0 ? dot / size : 1;
    if (cosine > 1) cosine = 1;
    if (cosine < -1) cosine = -1;
    return (struct kv_coe_step){ sqrt(distance), acos(cosine) };
}

kvant_status kv_coe_add(struct kv_coe_path *path, const float *x, struct kvant_error *err)
{
    if (path->n_points > 0) {
        if (path->n_steps == path->n_steps_cap) {
            size_t cap = path->n_steps_cap ? 2 * path->n_steps_cap : 64;
            struct kv_coe_step *steps = kv_realloc(path->steps, path->n_steps_cap, cap, sizeof *steps);
            if (!steps) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a path of %zu steps", cap);
            path->steps = steps;
            path->n_steps_cap = cap;
        }
        path->steps[path->n_steps++] = step_between(path->previous, x, path->dim);
    }
    memcpy(path->n_points ? path->previous : path->first, x, path->dim * sizeof *x);
    if (path->n_points++ == 0) memcpy(path->previous, x, path->dim * sizeof *x);
    return KVANT_OK;
}

void kv_coe_finish(const struct kv_coe_path *path, struct kvant_coe *out)
{
    *out = (struct kvant_coe){
        .r = NAN, .c = NAN, .mag = NAN, .ang = NAN, .n_steps = (int64_t)path->n_steps
    };
    if (path->n_points < 2) return;
    struct kv_coe_step end = step_between(path->first, path->previous, path->dim);
    if (!(end.length > DISTANCE_EPS) || !(end.angle > ANGLE_EPS)) return;
    double mag = 0, ang = 0, x = 0, y = 0, n = (double)path->n_steps;
    for (size_t i = 0; i < path->n_steps; i++) {
        double m = path->steps[i].length / end.length, a = path->steps[i].angle / end.angle;
        mag += m;
        ang += a;
        x += m * cos(a);
        y += m * sin(a);
    }
    *out = (struct kvant_coe){ .r = mag / n - ang / n,
                               .c = sqrt(x / n * (x / n) + y / n * (y / n)),
                               .mag = mag / n,
                               .ang = ang / n,
                               .n_steps = (int64_t)path->n_steps };
    out->is_defined = isfinite(out->r) && isfinite(out->c);
}

kvant_status kvant_coe_points(const float *points, size_t n, size_t dim, struct kvant_coe *out,
                              struct kvant_error *err)
{
    struct kv_coe_path path;
    *out = (struct kvant_coe){ .r = NAN, .c = NAN, .mag = NAN, .ang = NAN };
    if (dim == 0) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "a path of vectors without elements");
    KV_TRY(kv_coe_open(&path, dim, err));
    kvant_status status = KVANT_OK;
    for (size_t i = 0; i < n && status == KVANT_OK; i++) status = kv_coe_add(&path, points + i * dim, err);
    if (status == KVANT_OK) kv_coe_finish(&path, out);
    kv_coe_close(&path);
    return status;
}
