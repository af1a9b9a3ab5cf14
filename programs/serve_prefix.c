/*
 * Sequences of finished answers, kept for requests that begin alike: found by comparing tokens one by one,
 * since there are fewer than a hundred; pages are shared with whoever forks them, so what an entry costs is
 * what it has alone.
 */
#include <stdlib.h>
#include <string.h>

#include "serve_engine.h"

size_t tokens_common(const kvant_token *a, size_t n_a, const kvant_token *b, size_t n_b)
{
    size_t n = n_a < n_b ? n_a : n_b, i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

static void remove_at(struct prefixes *p, struct kvant_session *session, size_t i)
{
    p->bytes -= p->items[i].bytes;
    kvant_sequence_close(session, p->items[i].seq);
    free(p->items[i].tokens);
    p->items[i] = p->items[--p->n];
}

bool prefixes_evict(struct prefixes *p, struct kvant_session *session)
{
    size_t oldest = 0;
    if (p->n == 0) return false;
    for (size_t i = 1; i < p->n; i++)
        if (p->items[i].used_s < p->items[oldest].used_s) oldest = i;
    remove_at(p, session, oldest);
    return true;
}

/* What an entry holds for itself: shared pages are counted where they stay anyway. */
static int64_t own_bytes(const struct kvant_session *session, int seq)
{
    struct kvant_sequence_stats stats;
    if (kvant_sequence_get_stats(session, seq, &stats) != KVANT_OK) return 0;
    int64_t own_pages = stats.n_pages - stats.n_pages_shared;
    int64_t page_bytes = stats.n_pages ? (int64_t)stats.cache_bytes / (stats.n_pages + 1) : 0;
    return (int64_t)stats.cache_bytes - (stats.n_pages - own_pages) * page_bytes;
}

void prefixes_add(struct prefixes *p, struct kvant_session *session, struct prefix entry,
                  int64_t budget_bytes, size_t n_max)
{
    /* What the new entry begins with alike and ends earlier is of no further use. */
    for (size_t i = p->n; i-- > 0;)
        if (p->items[i].plan == entry.plan && p->items[i].n_tokens <= entry.n_tokens &&
            tokens_common(p->items[i].tokens, p->items[i].n_tokens, entry.tokens, entry.n_tokens) ==
                p->items[i].n_tokens)
            remove_at(p, session, i);
    entry.bytes = own_bytes(session, entry.seq);
    entry.used_s = clock_s();
    for (size_t i = 0; i < p->n; i++) /* a slot's name stays with its last answer */
        if (p->items[i].slot == entry.slot) p->items[i].slot = -1;
    while (p->n > 0 && (p->n >= n_max || (budget_bytes >= 0 && p->bytes + entry.bytes > budget_bytes)))
        prefixes_evict(p, session);
    if (n_max == 0 || (budget_bytes >= 0 && entry.bytes > budget_bytes)) {
        kvant_sequence_close(session, entry.seq);
        free(entry.tokens);
        return;
    }
    if (p->n == p->cap) p->items = reallocate(p->items, p->cap = 2 * p->cap + 16, sizeof *p->items);
    p->items[p->n++] = entry;
    p->bytes += entry.bytes;
}

struct prefix *prefixes_find(struct prefixes *p, int plan, const kvant_token *tokens, size_t n_tokens,
                             size_t *n_common)
{
    struct prefix *best = NULL;
    *n_common = 0;
    for (size_t i = 0; i < p->n; i++) {
        if (p->items[i].plan != plan) continue;
        size_t n = tokens_common(p->items[i].tokens, p->items[i].n_tokens, tokens, n_tokens);
        if (n <= *n_common) continue;
        *n_common = n;
        best = &p->items[i];
    }
    return best;
}

struct prefix *prefixes_of_slot(struct prefixes *p, int slot)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->items[i].slot == slot) return &p->items[i];
    return NULL;
}

int64_t prefixes_erase(struct prefixes *p, struct kvant_session *session, int slot)
{
    int64_t n = 0;
    for (size_t i = p->n; i-- > 0;) {
        if (slot >= 0 && p->items[i].slot != slot) continue;
        n += (int64_t)p->items[i].n_tokens;
        remove_at(p, session, i);
    }
    return n;
}

void prefixes_close(struct prefixes *p, struct kvant_session *session)
{
    prefixes_erase(p, session, -1);
    free(p->items);
    *p = (struct prefixes){ 0 };
}
