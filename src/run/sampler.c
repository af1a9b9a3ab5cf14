/*
 * Sampling: penalty, then top-k, top-p, min-p on the temperature's distribution, in llama.cpp's order (the
 * filters see the logits before the temperature; top-p and min-p of the untempered softmax). Ties go to the
 * lower id.
 */
#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HISTORY 64

struct candidate {
    float logit;
    kvant_token id;
};

struct kvant_sampler {
    struct kvant_sampler_options opt;
    int n_vocab;
    struct kv_random random;
    kvant_token history[HISTORY]; /* ring of the last tokens chosen                  */
    int64_t n_chosen;
    struct candidate *candidates; /* (n_vocab)                                       */
};

static kvant_status check_options(const struct kvant_sampler_options *opt, int n_vocab,
                                  struct kvant_error *err)
{
    if (opt->size != sizeof *opt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_sampler_options.size is not set; use KVANT_SAMPLER_OPTIONS_INIT");
    if (n_vocab < 1) KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "a vocabulary of %d tokens", n_vocab);
    if (!(opt->temperature >= 0.0f) || !isfinite(opt->temperature))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "temperature is %g; it must be 0 (greedy) or more",
                (double)opt->temperature);
    if (!(opt->top_p >= 0.0f && opt->top_p <= 1.0f))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "top_p is %g, outside [0, 1]", (double)opt->top_p);
    if (!(opt->min_p >= 0.0f && opt->min_p <= 1.0f))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "min_p is %g, outside [0, 1]", (double)opt->min_p);
    if (!(opt->repeat_penalty >= 0.0f) || !isfinite(opt->repeat_penalty))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "repeat_penalty is %g; it must be 0 or 1 (off) or another positive number",
                (double)opt->repeat_penalty);
    if (opt->top_k < 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "top_k is %d; it must be 0 (off) or more", opt->top_k);
    return KVANT_OK;
}

kvant_status kvant_sampler_open(struct kvant_sampler **out, int n_vocab,
                                const struct kvant_sampler_options *opt, struct kvant_error *err)
{
    static const struct kvant_sampler_options greedy = KVANT_SAMPLER_OPTIONS_INIT;
    *out = NULL;
    if (!opt) opt = &greedy;
    KV_TRY(check_options(opt, n_vocab, err));
    struct kvant_sampler *s = kv_alloc(1, sizeof *s);
    if (s) s->candidates = kv_alloc((size_t)n_vocab, sizeof *s->candidates);
    if (!s || !s->candidates) {
        kvant_sampler_close(s);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a sampler over %d tokens", n_vocab);
    }
    s->opt = *opt;
    s->n_vocab = n_vocab;
    kv_random_seed(&s->random, opt->seed);
    *out = s;
    return KVANT_OK;
}

void kvant_sampler_close(struct kvant_sampler *s)
{
    if (!s) return;
    kv_free(s->candidates);
    kv_free(s);
}

/* Larger logit first, then the lower id. A NaN logit is never preferred. */
static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit > y->logit) return -1;
    if (x->logit < y->logit) return 1;
    return (x->id > y->id) - (x->id < y->id);
}

static void fill_candidates(struct kvant_sampler *s, const float *logits)
{
    for (int i = 0; i < s->n_vocab; i++)
        s->candidates[i] = (struct candidate){ isnan(logits[i]) ? -INFINITY : logits[i], (kvant_token)i };
    float penalty = s->opt.repeat_penalty;
    if (penalty == 0.0f || penalty == 1.0f) return;
    int64_t first = s->n_chosen > HISTORY ? s->n_chosen - HISTORY : 0;
    for (int64_t j = first; j < s->n_chosen; j++) {
        kvant_token id = s->history[j % HISTORY];
        bool seen = false; /* each token is penalised once, however often it occurred */
        for (int64_t e = first; e < j && !seen; e++) seen = s->history[e % HISTORY] == id;
        if (seen) continue;
        float *logit = &s->candidates[id].logit;
        *logit = *logit > 0.0f ? *logit / penalty : *logit * penalty;
    }
}

static kvant_token pick_greedy(const struct kvant_sampler *s)
{
    const struct candidate *best = &s->candidates[0];
    for (int i = 1; i < s->n_vocab; i++)
        if (s->candidates[i].logit > best->logit) best = &s->candidates[i];
    return best->id;
}

/* ------------------------------------------------------------------------------------------- filters -- */

/* The n candidates that are left. The first n_sorted are the largest, in order; more are sorted when they are
 * asked for, since sorting a whole vocabulary of 152k costs as much as several layers of a small model. */
struct ranking {
    struct candidate *c;
    int n, n_sorted;
};
#define SORT_FIRST 256
#define SORT_GROWTH 8

/* Moves the k largest of the n candidates to the front, in any order (quickselect). */
static void select_largest(struct candidate *c, int n, int k)
{
    int low = 0, high = n - 1;
    while (low < high) {
        struct candidate pivot = c[low + (high - low) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (by_logit(&c[i], &pivot) < 0) i++;
            while (by_logit(&c[j], &pivot) > 0) j--;
            if (i > j) break;
            struct candidate swap = c[i];
            c[i++] = c[j];
            c[j--] = swap;
        }
        if (k - 1 <= j) high = j;
        else if (k - 1 >= i) low = i;
        else break;
    }
}

static void sort_to(struct ranking *r, int n_wanted)
{
    if (n_wanted <= r->n_sorted) return;
    struct candidate *rest = r->c + r->n_sorted;
    int n_more = n_wanted - r->n_sorted;
    if (n_wanted < r->n) select_largest(rest, r->n - r->n_sorted, n_more);
    qsort(rest, (size_t)n_more, sizeof *rest, by_logit);
    r->n_sorted = n_wanted;
}

/* The i-th largest, i < n. */
static const struct candidate *ranked(struct ranking *r, int i)
{
    if (i >= r->n_sorted) {
        int64_t n = r->n_sorted ? (int64_t)r->n_sorted * SORT_GROWTH : SORT_FIRST;
        sort_to(r, n < r->n ? (int)n : r->n);
    }
    return &r->c[i];
}

static void keep_top_k(struct ranking *r, int k)
{
    if (k <= 0 || k >= r->n) return;
    sort_to(r, k);
    r->n = k;
}

/* e^((logit - largest) / t): the probability up to a factor that all candidates share. */
static double weight(const struct ranking *r, int i, double t)
{
    return exp(((double)r->c[i].logit - (double)r->c[0].logit) / t);
}

static double total_weight(const struct ranking *r, double t)
{
    double total = 0.0;
    for (int i = 0; i < r->n; i++) total += weight(r, i, t);
    return total;
}

static void keep_top_p(struct ranking *r, double p)
{
    if (!(p > 0.0 && p < 1.0)) return;
    double enough = p * total_weight(r, 1.0), sum = 0.0;
    int kept = 0;
    while (kept < r->n && sum < enough) {
        ranked(r, kept);
        sum += weight(r, kept++, 1.0);
    }
    r->n = kept > 0 ? kept : 1;
    if (r->n_sorted > r->n) r->n_sorted = r->n;
}

static void keep_min_p(struct ranking *r, double p)
{
    if (!(p > 0.0)) return;
    double least = (double)r->c[0].logit + log(p);
    int n = 1;
    for (int i = 1; i < r->n; i++)
        if (!((double)r->c[i].logit < least))
            r->c[n++] = r->c[i]; /* what stays of the sorted ones stays sorted */
    r->n = n;
    if (r->n_sorted > n) r->n_sorted = n;
}

/* With a small top_k and no penalty one pass over the logits finds the k largest in order: few of them ever
 * enter the list, so it costs a tenth of ranking the whole vocabulary. The result is the same. */
#define TOP_K_DIRECT 256

static bool has_penalty(const struct kvant_sampler *s)
{
    return s->opt.repeat_penalty != 0.0f && s->opt.repeat_penalty != 1.0f;
}

static bool takes_top_k(const struct kvant_sampler *s)
{
    return s->opt.temperature != 0.0f && !has_penalty(s) && s->opt.top_k > 0 &&
           s->opt.top_k <= TOP_K_DIRECT && s->opt.top_k < s->n_vocab;
}

/* The largest logit without a list of candidates. */
static kvant_token pick_largest(const float *logits, int n)
{
    int best = 0;
    float most = -INFINITY;
    for (int i = 0; i < n; i++)
        if (logits[i] > most) { /* a NaN is never larger */
            most = logits[i];
            best = i;
        }
    return best;
}

static void fill_top_k(struct kvant_sampler *s, const float *logits)
{
    struct candidate *c = s->candidates;
    int k = s->opt.top_k, n = 0;
    for (int i = 0; i < s->n_vocab; i++) {
        if (n == k && !(logits[i] > c[k - 1].logit)) continue; /* equal ones: the lower id is there already */
        float logit = isnan(logits[i]) ? -INFINITY : logits[i];
        int at = n < k ? n++ : k - 1;
        for (; at > 0 && logit > c[at - 1].logit; at--) c[at] = c[at - 1];
        c[at] = (struct candidate){ logit, (kvant_token)i };
    }
}

static kvant_token pick_random(struct kvant_sampler *s)
{
    struct ranking r = { s->candidates, s->n_vocab, 0 };
    double t = (double)s->opt.temperature;
    if (takes_top_k(s)) r.n = r.n_sorted = s->opt.top_k;
    else keep_top_k(&r, s->opt.top_k);
    ranked(&r, 0); /* the filters and weights refer to the largest */
    keep_top_p(&r, (double)s->opt.top_p);
    keep_min_p(&r, (double)s->opt.min_p);
    double at = kv_random_unit(&s->random) * total_weight(&r, t);
    for (int i = 0; i < r.n; i++) {
        const struct candidate *c = ranked(&r, i);
        at -= weight(&r, i, t);
        if (at < 0.0) return c->id;
    }
    return r.c[r.n - 1].id; /* rounding left a little of the total */
}

static float log_probability(const float *logits, int n, kvant_token id)
{
    float largest = logits[0];
    for (int i = 1; i < n; i++) largest = fmaxf(largest, logits[i]);
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - (double)largest);
    return (float)((double)logits[id] - (double)largest - log(sum));
}

kvant_token kvant_sampler_next(struct kvant_sampler *s, const float *logits, float *logprob)
{
    kvant_token id;
    if (s->opt.temperature == 0.0f && !has_penalty(s)) {
        id = pick_largest(logits, s->n_vocab);
    } else {
        if (takes_top_k(s)) fill_top_k(s, logits);
        else fill_candidates(s, logits);
        id = s->opt.temperature == 0.0f ? pick_greedy(s) : pick_random(s);
    }
    s->history[s->n_chosen++ % HISTORY] = id;
    if (logprob) *logprob = log_probability(logits, s->n_vocab, id);
    return id;
}
