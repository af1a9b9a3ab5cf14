#include "base/random.h"

/* splitmix64: neighbouring seeds give unrelated states, and never the zero state of xorshift. */
void kv_random_seed(struct kv_random *r, uint64_t seed)
{
    uint64_t z = seed + 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    r->state = z ? z : 1;
}

double kv_random_unit(struct kv_random *r)
{
    r->state ^= r->state >> 12;
    r->state ^= r->state << 25;
    r->state ^= r->state >> 27;
    return (double)((r->state * 0x2545f4914f6cdd1du) >> 11) * 0x1p-53;
}

/* Below n also after rounding: the largest product, n - n·2^-53, lies at least half a step of the doubles
 * below n, and where it is exactly half (n a power of two) it is itself a double. */
int kv_random_below(struct kv_random *r, int n)
{
    return (int)(kv_random_unit(r) * (double)n);
}
