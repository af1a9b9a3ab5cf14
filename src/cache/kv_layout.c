#include "cache/kv_layout.h"

#include "base/memory.h"

/* Keys or values of one (layer, KV head) in a page: what is stored, before alignment. */
struct side_size {
    size_t codes_bytes;
    size_t n_scales;    /* as many scales as minima          */
    size_t scale_bytes; /* of one: an f16, or a byte (short) */
};

static bool bits_known(int bits)
{
    return bits == 2 || bits == 3 || bits == 4 || bits == 8 || bits == 16;
}

static size_t mixed_codes_bytes(const struct kvant_plan *plan, int layer, int head_kv)
{
    const struct kv_recipe *r = kv_plan_recipe_at(plan, layer, head_kv);
    if (!plan->channels) return (size_t)plan->head_dim * r->key_quarters * KV_PAGE_TOKENS / 32;
    const struct kv_channels *ch = &plan->channels[layer * plan->n_head_kv + head_kv];
    size_t bits = 0; /* of one token */
    for (int i = 0; i < KV_N_CLASSES; i++) bits += (size_t)ch->count[i] * (size_t)kv_class_bits[i];
    return bits * KV_PAGE_TOKENS / 8;
}

static struct side_size key_size(const struct kvant_plan *plan, int layer, int head_kv)
{
    const struct kv_recipe *r = kv_plan_recipe_at(plan, layer, head_kv);
    size_t head_dim = (size_t)plan->head_dim;
    size_t codes = r->key_mixed ? mixed_codes_bytes(plan, layer, head_kv)
                                : head_dim * r->key_bits * KV_PAGE_TOKENS / 8;
    size_t scale_bytes = r->key_short ? 1 : sizeof(uint16_t);
    if (r->key_bits == 16) return (struct side_size){ codes, 0, scale_bytes };
    if (r->key_scheme == KV_KEY_TOKEN) return (struct side_size){ codes, KV_PAGE_TOKENS, scale_bytes };
    return (struct side_size){ codes, KV_PAGE_TOKENS / r->key_scheme * head_dim, scale_bytes };
}

static struct side_size value_size(const struct kvant_plan *plan, int layer, int head_kv)
{
    const struct kv_recipe *r = kv_plan_recipe_at(plan, layer, head_kv);
    size_t head_dim = (size_t)plan->head_dim;
    size_t n_groups = r->value_group ? head_dim / r->value_group : 1;
    return (struct side_size){ head_dim * r->value_bits * KV_PAGE_TOKENS / 8,
                               r->value_bits == 16 ? 0 : KV_PAGE_TOKENS * n_groups,
                               r->value_short ? 1 : sizeof(uint16_t) };
}

static size_t place(struct kv_carve *c, size_t n, size_t size)
{
    size_t offset = c->used;
    kv_carve(c, n, size);
    return offset;
}

static struct kv_side_layout place_side(struct kv_carve *c, struct side_size size)
{
    struct kv_side_layout side;
    side.codes = place(c, size.codes_bytes, 1);
    side.scale = place(c, size.n_scales, size.scale_bytes);
    side.min = place(c, size.n_scales, size.scale_bytes);
    return side;
}

/* Measures a page and, where `out` is not NULL, places its sides. A page is at most 2·KV_PAGE_TOKENS·2
 * bytes per (layer, KV head, channel) and three alignments per side: far from overflow for dimensions that
 * check_dims accepts. */
static size_t layout_page(const struct kvant_plan *plan, const struct kv_layout *out)
{
    struct kv_carve page = { NULL, 0, false };
    for (int layer = 0; layer < plan->n_layer; layer++) {
        size_t first = (size_t)layer * (size_t)plan->n_head_kv;
        for (int h = 0; h < plan->n_head_kv; h++) {
            size_t begin = page.used, i = first + (size_t)h;
            struct kv_side_layout key = place_side(&page, key_size(plan, layer, h));
            struct kv_side_layout value = place_side(&page, value_size(plan, layer, h));
            if (!out) continue;
            out->key[i] = key;
            out->value[i] = value;
            out->head[i] = (struct kv_head_layout){ begin, page.used - begin };
        }
    }
    return page.used;
}

size_t kv_layout_page_bytes(const struct kvant_plan *plan)
{
    return layout_page(plan, NULL);
}

size_t kv_layout_payload_bytes(const struct kvant_plan *plan)
{
    size_t bytes = 0;
    for (int layer = 0; layer < plan->n_layer; layer++) {
        for (int h = 0; h < plan->n_head_kv; h++) {
            struct side_size k = key_size(plan, layer, h), v = value_size(plan, layer, h);
            bytes += k.codes_bytes + v.codes_bytes +
                     2 * (k.n_scales * k.scale_bytes + v.n_scales * v.scale_bytes);
        }
    }
    return bytes;
}

double kv_layout_code_bits(const struct kvant_plan *plan)
{
    size_t bytes = 0;
    for (int layer = 0; layer < plan->n_layer; layer++) {
        for (int h = 0; h < plan->n_head_kv; h++) {
            bytes += key_size(plan, layer, h).codes_bytes + value_size(plan, layer, h).codes_bytes;
        }
    }
    double elements = 2.0 * KV_PAGE_TOKENS * plan->n_layer * plan->n_head_kv * plan->head_dim;
    return elements > 0.0 ? 8.0 * (double)bytes / elements : 0.0;
}

size_t kv_layout_table_bytes(const struct kvant_plan *plan)
{
    struct kv_carve c = { NULL, 0, false };
    size_t n = (size_t)plan->n_layer * (size_t)plan->n_head_kv;
    kv_carve(&c, n, sizeof(struct kv_side_layout));
    kv_carve(&c, n, sizeof(struct kv_side_layout));
    kv_carve(&c, n, sizeof(struct kv_head_layout));
    return c.used;
}

/* The codec trusts these tables with memory accesses, so they are checked here whoever made the plan. */
static kvant_status check_channels(const struct kvant_plan *plan, int layer, int head_kv,
                                   struct kvant_error *err)
{
    const struct kv_channels *ch = &plan->channels[layer * plan->n_head_kv + head_kv];
    int sum = 0;
    for (int i = 0; i < KV_N_CLASSES; i++) {
        if (ch->count[i] % 8) {
            KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                    "plan: layer %d, KV head %d: class of %d bits has %d channels; must be a multiple of 8",
                    layer, head_kv, kv_class_bits[i], ch->count[i]);
        }
        sum += ch->count[i];
    }
    if (sum != plan->head_dim) {
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "plan: layer %d, KV head %d: channel classes sum to %d, but the head size is %d", layer,
                head_kv, sum, plan->head_dim);
    }
    bool seen[KV_HEAD_DIM_MAX] = { false };
    for (int i = 0; i < plan->head_dim; i++) {
        int channel = ch->order[i];
        if (channel >= plan->head_dim || seen[channel]) {
            KV_FAIL(
                err, KVANT_ERR_ARGUMENT, -1,
                "plan: layer %d, KV head %d: channel order is no permutation of %d channels (entry %d is %d)",
                layer, head_kv, plan->head_dim, i, channel);
        }
        seen[channel] = true;
    }
    return KVANT_OK;
}

static kvant_status check_recipe(const struct kvant_plan *plan, int layer, int head_kv,
                                 struct kvant_error *err)
{
    const struct kv_recipe *r = kv_plan_recipe_at(plan, layer, head_kv);
    bool per_channel = r->key_scheme == KV_KEY_C32 || r->key_scheme == KV_KEY_C64;
    const char *wrong = NULL;
    if (!per_channel && r->key_scheme != KV_KEY_TOKEN) wrong = "key scheme is none of t, c32, c64";
    else if (!r->key_mixed && !bits_known(r->key_bits)) wrong = "key bits are none of 2 3 4 8 16";
    else if (r->key_mixed && (!per_channel || r->key_bits || r->key_rotated))
        wrong = "mixed keys need c32 or c64 and no rotation";
    else if (r->key_mixed && (r->key_quarters < 4 || r->key_quarters > 32))
        wrong = "mixed key bits are not in 1 .. 8";
    else if (!bits_known(r->value_bits)) wrong = "value bits are none of 2 3 4 8 16";
    else if (r->value_group != 0 && r->value_group != 32) wrong = "value group is neither the head nor 32";
    else if (r->value_group && plan->head_dim % r->value_group)
        wrong = "the head size is no multiple of the value group of 32";
    else if (r->key_scheme > plan->granule && r->key_bits != 16)
        wrong = "the key group is longer than the plan's granule";
    else if ((r->key_short && r->key_bits == 16) || (r->value_short && r->value_bits == 16))
        wrong = "16 bits have no scales to shorten";
    if (wrong)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "plan: layer %d, KV head %d: %s; change the recipe", layer,
                head_kv, wrong);
    return r->key_mixed && plan->channels ? check_channels(plan, layer, head_kv, err) : KVANT_OK;
}

static kvant_status check_dims(const struct kvant_plan *plan, struct kvant_error *err)
{
    if (plan->head_dim < 8 || plan->head_dim > KV_HEAD_DIM_MAX || plan->head_dim % 8) {
        KV_FAIL(err, KVANT_ERR_UNSUPPORTED, -1,
                "plan: layers 0-%d: head size %d is no multiple of 8 up to %d", plan->n_layer - 1,
                plan->head_dim, KV_HEAD_DIM_MAX);
    }
    if (plan->n_layer < 1 || plan->n_layer > 65536 || plan->n_head_kv < 1 || plan->n_head_kv > 65536) {
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "plan: %d layers of %d KV heads; both must be in 1 .. 65536",
                plan->n_layer, plan->n_head_kv);
    }
    if (plan->sinks < 0 || plan->sinks > 64 || plan->tail < 0 || plan->tail > 4096) {
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "plan: sinks=%d, tail=%d; sinks must be in 0 .. 64, tail in 0 .. 4096", plan->sinks,
                plan->tail);
    }
    if (plan->granule != 1 && plan->granule != 32 && plan->granule != 64) {
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "plan: granule %d is none of 1, 32, 64", plan->granule);
    }
    return KVANT_OK;
}

kvant_status kv_layout_open(struct kv_layout *out, const struct kvant_plan *plan, struct kvant_error *err)
{
    *out = (struct kv_layout){ 0 };
    KV_TRY(check_dims(plan, err));
    for (int layer = 0; layer < plan->n_layer; layer++) {
        for (int h = 0; h < plan->n_head_kv; h++) KV_TRY(check_recipe(plan, layer, h, err));
    }
    size_t n = (size_t)plan->n_layer * (size_t)plan->n_head_kv;
    struct kv_carve c = { kv_alloc(1, kv_layout_table_bytes(plan)), 0, false };
    if (!c.base)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "page layout: no memory for %zu bytes",
                kv_layout_table_bytes(plan));
    out->n_layer = plan->n_layer;
    out->n_head_kv = plan->n_head_kv;
    out->head_dim = plan->head_dim;
    out->key = kv_carve(&c, n, sizeof *out->key);
    out->value = kv_carve(&c, n, sizeof *out->value);
    out->head = kv_carve(&c, n, sizeof *out->head);
    out->page_bytes = layout_page(plan, out);
    return KVANT_OK;
}

void kv_layout_close(struct kv_layout *layout)
{
    kv_free(layout->key); /* one block with the others */
    *layout = (struct kv_layout){ 0 };
}

int64_t kv_sealed_tokens(const struct kvant_plan *plan, int64_t n_tokens)
{
    int64_t sealable = n_tokens - plan->sinks - plan->tail;
    return sealable > 0 ? sealable - sealable % plan->granule : 0;
}

int kv_tail_cap(const struct kvant_plan *plan)
{
    return plan->tail + plan->granule - 1;
}
