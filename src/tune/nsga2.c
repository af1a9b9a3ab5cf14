/*
 * NSGA-II: of parents and children together the best `population` survive, by rank under constrained
 * dominance, then by crowding; parents are winners of binary tournaments in the same order.
 */
#include "base/memory.h"
#include "tune/evolve_search.h"

struct nsga2 {
    struct kv_scored *members; /* (2 · population) survivors first, in order */
    int n;
};

static int tournament(const struct nsga2 *p, struct kv_search *s)
{
    const struct kv_scored *a = &p->members[kv_random_below(&s->random, p->n)],
                           *b = &p->members[kv_random_below(&s->random, p->n)];
    return kv_scored_before(b, a) ? b->tag : a->tag;
}

static void choose_parents(void *user, struct kv_search *s, int *a, int *b)
{
    *a = tournament(user, s);
    *b = tournament(user, s);
}

static kvant_status evolve(struct kv_search *s, struct nsga2 *p, struct kvant_error *err)
{
    for (int n_batch; (n_batch = kv_search_batch(s)) > 0;) {
        int first = s->n_done;
        for (int i = 0; i < n_batch; i++) {
            if (first == 0)
                kv_search_propose_random(s);
            else
                kv_search_propose_child(s, choose_parents, p);
        }
        KV_TRY(kv_search_measure(s, err));
        for (int t = first; t < s->n_done; t++) p->members[p->n++] = kv_search_scored(s, t);
        kv_front_sort(p->members, p->n);
        if (p->n > s->population) p->n = s->population;
    }
    return KVANT_OK;
}

kvant_status kv_nsga2_run(struct kv_search *s, struct kvant_error *err)
{
    struct nsga2 p = { kv_alloc(2 * (size_t)s->population, sizeof *p.members), 0 };
    if (!p.members) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a population of %d", s->population);
    kvant_status status = evolve(s, &p, err);
    kv_free(p.members);
    return status;
}
