/* Sums over codes in plain C: their definition. */
#include "kernels/kernels.h"

#include "kernels/sums.inc.h"

void kv_fill_sums_ref(struct kv_kernels *table)
{
    fill_sums(table);
}
