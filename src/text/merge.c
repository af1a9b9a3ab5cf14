#include "text/merge.h"

#include "base/memory.h"

kvant_status kv_merge_reserve(struct kv_merge *m, size_t n, struct kvant_error *err)
{
    if (n <= m->symbols_cap) return KVANT_OK;
    size_t cap = m->symbols_cap * 2 > n ? m->symbols_cap * 2 : n;
    if (cap < 64) cap = 64;
    struct kv_merge_symbol *symbols = kv_realloc(m->symbols, m->n_symbols, cap, sizeof *symbols);
    if (symbols) m->symbols = symbols;
    /* At most n - 1 pairs at first; each of at most n - 1 merges takes one off and adds at most two. */
    struct kv_merge_pair *queue = symbols ? kv_alloc(cap, 2 * sizeof *queue) : NULL;
    if (!queue)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory to tokenize a word of %zu characters: split the text",
                n);
    kv_free(m->queue);
    m->queue = queue;
    m->symbols_cap = cap;
    return KVANT_OK;
}

void kv_merge_add(struct kv_merge *m, uint32_t start, uint32_t n_bytes, int32_t id)
{
    int32_t i = (int32_t)m->n_symbols++;
    m->symbols[i] = (struct kv_merge_symbol){ start, n_bytes, id, i - 1, -1 };
    if (i > 0) m->symbols[i - 1].next = i;
}

static bool pair_before(const struct kv_merge_pair *a, const struct kv_merge_pair *b)
{
    return a->key < b->key || (a->key == b->key && a->left < b->left);
}

static void queue_push(struct kv_merge *m, struct kv_merge_pair pair)
{
    size_t i = m->n_queue++;
    while (i > 0 && pair_before(&pair, &m->queue[(i - 1) / 2])) {
        m->queue[i] = m->queue[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    m->queue[i] = pair;
}

static struct kv_merge_pair queue_pop(struct kv_merge *m)
{
    struct kv_merge_pair best = m->queue[0], last = m->queue[--m->n_queue];
    size_t i = 0, n = m->n_queue;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && pair_before(&m->queue[child + 1], &m->queue[child])) child++;
        if (!pair_before(&m->queue[child], &last)) break;
        m->queue[i] = m->queue[child];
        i = child;
    }
    m->queue[i] = last;
    return best;
}

struct merge_job {
    const char *word;
    kv_merge_lookup lookup;
    const void *user;
};

static void offer_pair(struct kv_merge *m, const struct merge_job *job, int32_t left, int32_t right)
{
    if (left < 0 || right < 0) return;
    const struct kv_merge_symbol *a = &m->symbols[left], *b = &m->symbols[right];
    struct kv_merge_pair pair = { .left = left, .right = right, .n_bytes = a->n_bytes + b->n_bytes };
    if (job->lookup(job->user, job->word, a, b, &pair)) queue_push(m, pair);
}

void kv_merge_run(struct kv_merge *m, const char *word, kv_merge_lookup lookup, const void *user)
{
    const struct merge_job job = { word, lookup, user };
    for (int32_t i = 1; i < (int32_t)m->n_symbols; i++) offer_pair(m, &job, i - 1, i);
    while (m->n_queue > 0) {
        struct kv_merge_pair pair = queue_pop(m);
        struct kv_merge_symbol *left = &m->symbols[pair.left], *right = &m->symbols[pair.right];
        /* Symbols only grow to the right and never move, so equal length means the same two neighbours. */
        if (left->n_bytes == 0 || right->n_bytes == 0 || left->n_bytes + right->n_bytes != pair.n_bytes)
            continue;
        left->n_bytes = pair.n_bytes;
        left->id = pair.id;
        left->next = right->next;
        right->n_bytes = 0;
        if (left->next >= 0) m->symbols[left->next].prev = pair.left;
        offer_pair(m, &job, left->prev, pair.left);
        offer_pair(m, &job, pair.left, left->next);
    }
}

void kv_merge_clear(struct kv_merge *m)
{
    m->n_symbols = m->n_queue = 0;
}

void kv_merge_free(struct kv_merge *m)
{
    kv_free(m->symbols);
    kv_free(m->queue);
    *m = (struct kv_merge){ 0 };
}
