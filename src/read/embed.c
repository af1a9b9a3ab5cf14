/*
 * Embeddings: pooled keys and values of a sequence, or, as a control, pooled outputs of the blocks.
 *
 * Sums over tokens come from the cache (pool.c) or, for hidden states, from rows that go by during the pass;
 * what follows is the same for both: mean or sum, layers, length.
 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "model/model.h"
#include "read/pool.h"

#define RANDOM_SEED 42

static const struct kvant_embed_options defaults = KVANT_EMBED_OPTIONS_INIT;

/* An embedding with all choices settled. */
struct shape {
    struct kvant_embed_options opt;
    struct kv_pooling pooling;
    int layer_first, n_layers; /* of hidden states too: blocks */
    size_t layer_dim, dim;
};

static kvant_status check_choice(int value, int last, const char *name, struct kvant_error *err)
{
    if (value < 0 || value > last)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "kvant_embed_options.%s is %d; 0 to %d are possible", name,
                value, last);
    return KVANT_OK;
}

static kvant_status shape_set(struct shape *s, const struct kvant_model *m,
                              const struct kvant_embed_options *opt, struct kvant_error *err)
{
    if (!opt) opt = &defaults;
    if (opt->size != sizeof *opt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_embed_options.size is not set; use KVANT_EMBED_OPTIONS_INIT");
    if (m->vocab_only)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "a model that was opened for its vocabulary only has no embeddings");
    KV_TRY(check_choice((int)opt->source, KVANT_EMBED_RANDOM, "source", err));
    KV_TRY(check_choice((int)opt->part, KVANT_EMBED_VALUES, "part", err));
    KV_TRY(check_choice((int)opt->tokens, KVANT_EMBED_TOKENS_SUM, "tokens", err));
    KV_TRY(check_choice((int)opt->heads, KVANT_EMBED_HEADS_MEAN, "heads", err));
    KV_TRY(check_choice((int)opt->layers, KVANT_EMBED_LAYERS_LAST, "layers", err));
    s->opt = *opt;
    KV_TRY(kv_pooling_set(&s->pooling, m, opt, err));
    s->layer_first = s->pooling.layer_first;
    s->n_layers = s->pooling.n_layers;
    if (opt->layers == KVANT_EMBED_LAYERS_LAST) {
        s->layer_first += s->n_layers - 1;
        s->n_layers = 1;
        s->pooling.layer_first = s->layer_first;
        s->pooling.n_layers = 1;
    }
    s->layer_dim = opt->source == KVANT_EMBED_HIDDEN ? (size_t)m->hp.n_embd : (size_t)s->pooling.layer_dim;
    s->dim = s->layer_dim * (opt->layers == KVANT_EMBED_LAYERS_FLATTEN ? (size_t)s->n_layers : 1);
    return KVANT_OK;
}

kvant_status kvant_embed_dim(const struct kvant_model *model, const struct kvant_embed_options *opt,
                             size_t *n_out, struct kvant_error *err)
{
    struct shape s;
    *n_out = 0;
    KV_TRY(shape_set(&s, model, opt, err));
    *n_out = s.dim;
    return KVANT_OK;
}

/* The tokens whose sum is wanted, of a sequence of n. */
static kvant_status token_range(const struct shape *s, int64_t n, int64_t *first, int64_t *last,
                                struct kvant_error *err)
{
    *first = s->opt.token_first;
    *last = s->opt.token_last;
    KV_TRY(kv_pooling_tokens(first, last, n, err));
    if (s->opt.tokens == KVANT_EMBED_TOKENS_LAST) *first = *last - 1;
    if (s->opt.tokens == KVANT_EMBED_TOKENS_FIRST) *last = *first + 1;
    return KVANT_OK;
}

/* From sums (n_layers, layer_dim) over n tokens to the embedding. */
static kvant_status finish(const struct shape *s, const double *sums, int64_t n, float *out,
                           struct kvant_error *err)
{
    bool flat = s->opt.layers == KVANT_EMBED_LAYERS_FLATTEN;
    double share = s->opt.tokens == KVANT_EMBED_TOKENS_SUM ? 1.0 : 1.0 / (double)n;
    if (s->opt.layers == KVANT_EMBED_LAYERS_MEAN) share /= s->n_layers;
    for (size_t i = 0; i < s->dim; i++) {
        double x = 0;
        for (int l = 0; l < (flat ? 1 : s->n_layers); l++) x += sums[(size_t)l * s->layer_dim + i];
        out[i] = (float)(share * x);
        if (!isfinite(out[i]))
            KV_FAIL(err, KVANT_ERR_NUMERIC, -1, "element %zu of the embedding is not finite", i);
    }
    return s->opt.not_normalized ? KVANT_OK : kv_normalize(out, s->dim, err);
}

/* Box and Muller's normal deviates. */
static kvant_status random_embedding(const struct shape *s, size_t index, float *out, struct kvant_error *err)
{
    struct kv_random r;
    kv_random_seed(&r, RANDOM_SEED + index);
    for (size_t i = 0; i < s->dim; i++) {
        double u = 1.0 - kv_random_unit(&r), v = kv_random_unit(&r);
        out[i] = (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
    }
    return s->opt.not_normalized ? KVANT_OK : kv_normalize(out, s->dim, err);
}

static kvant_status check_space(size_t needed, size_t cap, size_t *n_out, struct kvant_error *err)
{
    *n_out = needed;
    if (cap < needed)
        KV_FAIL(err, KVANT_ERR_SPACE, -1, "the embeddings take %zu floats, there is room for %zu", needed,
                cap);
    return KVANT_OK;
}

static kvant_status sequence_embedding(const struct shape *s, struct kvant_session *session, int seq,
                                       double *sums, float *out, struct kvant_error *err)
{
    struct kv_seq *held;
    int64_t first, last;
    KV_TRY(kv_session_sequence(session, seq, &held, err));
    KV_TRY(token_range(s, kv_seq_n_tokens(held), &first, &last, err));
    KV_TRY(kv_pooling_sum(&s->pooling, session, seq, first, last, sums, err));
    return finish(s, sums, last - first, out, err);
}

kvant_status kvant_embed_sequence(struct kvant_session *session, int seq,
                                  const struct kvant_embed_options *opt, float *out, size_t cap,
                                  size_t *n_out, struct kvant_error *err)
{
    struct shape s;
    *n_out = 0;
    KV_TRY(shape_set(&s, kv_session_model(session), opt, err));
    KV_TRY(check_space(s.dim, cap, n_out, err));
    if (s.opt.source == KVANT_EMBED_HIDDEN)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "a cache holds no hidden states; they need a pass of their own: kvant_embed_prompts");
    if (s.opt.source == KVANT_EMBED_RANDOM) return random_embedding(&s, 0, out, err);
    double *sums = kv_alloc((size_t)s.n_layers * s.layer_dim, sizeof *sums);
    if (!sums) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for an embedding of %zu", s.dim);
    kvant_status status = sequence_embedding(&s, session, seq, sums, out, err);
    kv_free(sums);
    return status;
}

/* --------------------------------------------------------------------------------------------- prompts -- */

/* Prompts [begin, begin + n) of the list, in one step. */
struct batch {
    const struct shape *shape;
    struct kvant_session *session;
    const struct kvant_plan *plan;
    const struct kvant_prompt *prompts;
    int *seqs;                         /* (n_cap)                                          */
    int *slot_of_seq;                  /* by sequence: the prompt's place in the batch, −1  */
    int64_t *first, *last;             /* (n_cap) tokens that count                        */
    struct kvant_batch_entry *entries; /* (n_tokens_cap)                                   */
    double *sums;                      /* (n_cap, n_layers, layer_dim)                     */
    int n, n_cap;
    size_t n_tokens_cap, n_seqs;
};

static void add_hidden(void *user, int layer, int seq, int64_t position, const float *x)
{
    struct batch *b = user;
    const struct shape *s = b->shape;
    int block = layer - 1 - s->layer_first, slot = b->slot_of_seq[seq];
    if (slot < 0 || block < 0 || block >= s->n_layers || position < b->first[slot] ||
        position >= b->last[slot])
        return;
    double *sum = b->sums + ((size_t)slot * (size_t)s->n_layers + (size_t)block) * s->layer_dim;
    for (size_t i = 0; i < s->layer_dim; i++) sum[i] += (double)x[i];
}

static void batch_close_sequences(struct batch *b)
{
    for (int i = 0; i < b->n; i++) {
        b->slot_of_seq[b->seqs[i]] = -1;
        kvant_sequence_close(b->session, b->seqs[i]);
    }
    b->n = 0;
}

/* Opens sequences for as many prompts from `begin` on as fit one step, at least one, and fills the
 * entries. */
static kvant_status batch_open_sequences(struct batch *b, size_t begin, size_t n_prompts, size_t *n_entries,
                                         struct kvant_error *err)
{
    *n_entries = 0;
    for (size_t i = begin; i < n_prompts && b->n < b->n_cap; i++) {
        const struct kvant_prompt *p = &b->prompts[i];
        if (b->n > 0 && p->n_tokens > b->n_tokens_cap - *n_entries) break;
        KV_TRY(kvant_sequence_open(b->session, b->plan, (int64_t)p->n_tokens, &b->seqs[b->n], err));
        int slot = b->n++;
        b->slot_of_seq[b->seqs[slot]] = slot;
        kvant_status status = token_range(b->shape, (int64_t)p->n_tokens, &b->first[slot], &b->last[slot],
                                          err);
        if (status != KVANT_OK) {
            if (err) err->position = (int64_t)i;
            return status;
        }
        for (size_t t = 0; t < p->n_tokens; t++)
            b->entries[(*n_entries)++] = (struct kvant_batch_entry){ b->seqs[slot], p->tokens[t], false };
    }
    return KVANT_OK;
}

static kvant_status batch_run(struct batch *b, size_t begin, size_t n_prompts, float *out,
                              struct kvant_error *err)
{
    const struct shape *s = b->shape;
    size_t n_entries, sums_size = (size_t)s->n_layers * s->layer_dim;
    KV_TRY(batch_open_sequences(b, begin, n_prompts, &n_entries, err));
    memset(b->sums, 0, (size_t)b->n * sums_size * sizeof *b->sums);
    KV_TRY(kvant_session_step(b->session, b->entries, n_entries, err));
    for (int i = 0; i < b->n; i++) {
        double *sums = b->sums + (size_t)i * sums_size;
        float *to = out + (begin + (size_t)i) * s->dim;
        kvant_status status = s->opt.source == KVANT_EMBED_HIDDEN
                                  ? finish(s, sums, b->last[i] - b->first[i], to, err)
                                  : sequence_embedding(s, b->session, b->seqs[i], sums, to, err);
        if (status != KVANT_OK && err) err->position = (int64_t)begin + i;
        KV_TRY(status);
    }
    return KVANT_OK;
}

static kvant_status batch_alloc(struct batch *b, size_t n_prompts, size_t n_longest, struct kvant_error *err)
{
    int n_free = kv_session_n_free(b->session);
    if (n_free == 0) KV_FAIL(err, KVANT_ERR_FULL, -1, "all sequences of the session are open; close one");
    b->n_cap = (size_t)n_free < n_prompts ? n_free : (int)n_prompts;
    b->n_tokens_cap = (size_t)kv_session_n_batch(b->session);
    size_t n_entries = n_longest > b->n_tokens_cap ? n_longest : b->n_tokens_cap;
    b->n_seqs = (size_t)kv_session_n_sequences(b->session);
    b->seqs = kv_alloc((size_t)b->n_cap, sizeof *b->seqs);
    b->slot_of_seq = kv_alloc(b->n_seqs, sizeof *b->slot_of_seq);
    b->first = kv_alloc((size_t)b->n_cap, sizeof *b->first);
    b->last = kv_alloc((size_t)b->n_cap, sizeof *b->last);
    b->entries = kv_alloc(n_entries, sizeof *b->entries);
    b->sums = kv_alloc((size_t)b->n_cap * (size_t)b->shape->n_layers * b->shape->layer_dim, sizeof *b->sums);
    if (!b->seqs || !b->slot_of_seq || !b->first || !b->last || !b->entries || !b->sums)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for embeddings of %d prompts at a time", b->n_cap);
    for (size_t i = 0; i < b->n_seqs; i++) b->slot_of_seq[i] = -1;
    return KVANT_OK;
}

static void batch_free(struct batch *b)
{
    kv_free(b->seqs);
    kv_free(b->slot_of_seq);
    kv_free(b->first);
    kv_free(b->last);
    kv_free(b->entries);
    kv_free(b->sums);
}

static kvant_status check_prompts(const struct kvant_model *m, const struct kvant_prompt *prompts,
                                  size_t n_prompts, size_t *n_longest, struct kvant_error *err)
{
    *n_longest = 0;
    for (size_t i = 0; i < n_prompts; i++) {
        if (prompts[i].n_tokens == 0)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, (int64_t)i, "text %zu is empty: there is nothing to embed",
                    i + 1);
        if (prompts[i].n_tokens > *n_longest) *n_longest = prompts[i].n_tokens;
        for (size_t t = 0; t < prompts[i].n_tokens; t++)
            if (prompts[i].tokens[t] < 0 || prompts[i].tokens[t] >= m->n_vocab)
                KV_FAIL(err, KVANT_ERR_ARGUMENT, (int64_t)i,
                        "text %zu has the token %d, outside the vocabulary of %d", i + 1,
                        prompts[i].tokens[t], m->n_vocab);
    }
    return KVANT_OK;
}

static kvant_status embed_all(struct batch *b, size_t n_prompts, float *out, struct kvant_error *err)
{
    const struct kvant_embed_options *opt = &b->shape->opt;
    struct kv_hidden_capture capture = { add_hidden, b };
    if (opt->source == KVANT_EMBED_HIDDEN) kv_session_set_hidden(b->session, &capture);
    kvant_status status = KVANT_OK;
    for (size_t begin = 0; begin < n_prompts && status == KVANT_OK;) {
        status = batch_run(b, begin, n_prompts, out, err);
        begin += (size_t)b->n;
        batch_close_sequences(b);
        if (status == KVANT_OK && opt->progress &&
            !opt->progress(opt->user, "embed", (int64_t)begin, (int64_t)n_prompts))
            status = kv_error_set(err, KVANT_ERR_CANCELLED, -1, "stopped after %zu of %zu texts", begin,
                                  n_prompts);
    }
    kv_session_set_hidden(b->session, NULL);
    return status;
}

kvant_status kvant_embed_prompts(struct kvant_session *session, const struct kvant_plan *plan,
                                 const struct kvant_prompt *prompts, size_t n_prompts,
                                 const struct kvant_embed_options *opt, float *out, size_t cap, size_t *n_out,
                                 struct kvant_error *err)
{
    struct shape s;
    size_t n_longest, needed;
    *n_out = 0;
    KV_TRY(shape_set(&s, kv_session_model(session), opt, err));
    KV_TRY(check_prompts(kv_session_model(session), prompts, n_prompts, &n_longest, err));
    if (!kv_mul_size(n_prompts, s.dim, &needed)) needed = SIZE_MAX;
    KV_TRY(check_space(needed, cap, n_out, err));
    if (n_prompts == 0) return KVANT_OK;
    if (s.opt.source == KVANT_EMBED_RANDOM) {
        for (size_t i = 0; i < n_prompts; i++) KV_TRY(random_embedding(&s, i, out + i * s.dim, err));
        return KVANT_OK;
    }
    struct batch b = { .shape = &s, .session = session, .plan = plan, .prompts = prompts };
    kvant_status status = batch_alloc(&b, n_prompts, n_longest, err);
    if (status == KVANT_OK) status = embed_all(&b, n_prompts, out, err);
    batch_free(&b);
    return status;
}

/* -------------------------------------------------------------------------------------------- reading -- */

struct read_job {
    struct kv_read_call call; /* but for layer, head and side */
    const struct kv_hparams *h;
    char *scratch;
    size_t stride;
    float *out;
};

static void read_item(void *user, int64_t item, int i_thread)
{
    const struct read_job *j = user;
    int64_t n = j->call.last - j->call.first, row = (int64_t)j->h->n_head_kv * j->h->head_dim;
    struct kv_read_call call = j->call;
    call.layer = (int)(item / (2 * j->h->n_head_kv));
    call.side = item / j->h->n_head_kv % 2 ? KV_READ_VALUES : KV_READ_KEYS;
    call.head_kv = (int)(item % j->h->n_head_kv);
    float *to = j->out + (2 * call.layer + (call.side == KV_READ_VALUES)) * n * row +
                call.head_kv * j->h->head_dim;
    kv_read_rows(&call, j->scratch + (size_t)i_thread * j->stride, to, row);
}

kvant_status kvant_sequence_read(struct kvant_session *session, int seq, int64_t token_first,
                                 int64_t token_last, bool before_rope, float *out, size_t cap, size_t *n_out,
                                 struct kvant_error *err)
{
    const struct kv_hparams *h = &kv_session_model(session)->hp;
    struct kv_seq *held;
    *n_out = 0;
    KV_TRY(kv_session_sequence(session, seq, &held, err));
    KV_TRY(kv_pooling_tokens(&token_first, &token_last, kv_seq_n_tokens(held), err));
    size_t per_token = 2 * (size_t)h->n_layer * (size_t)h->n_head_kv * (size_t)h->head_dim;
    KV_TRY(check_space((size_t)(token_last - token_first) * per_token, cap, n_out, err));
    struct read_job j = { .call = { .reader = kv_session_reader(session),
                                    .seq = held,
                                    .before_rope = before_rope,
                                    .first = token_first,
                                    .last = token_last },
                          .h = h,
                          .out = out };
    j.stride = (kv_read_scratch_bytes(h->head_dim) + KV_ALIGN - 1) & ~(size_t)(KV_ALIGN - 1);
    j.scratch = kv_alloc((size_t)kv_pool_size(kv_session_pool(session)), j.stride);
    if (!j.scratch) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a page per thread");
    kv_pool_for(kv_session_pool(session), 2LL * h->n_layer * h->n_head_kv, read_item, &j);
    kv_free(j.scratch);
    return KVANT_OK;
}
