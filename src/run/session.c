/*
 * A session: sequences, their caches, and one forward pass for any set of (sequence, token) pairs.
 *
 *   entries ──(stable sort by sequence)──> rows ──(runs of one sequence)──> kv_forward ──> logits
 *
 * Rows of logits are in the order of the entries. Memory: everything a step needs is carved out of one block
 * when the session opens; caches belong to the store.
 */
#include "run/session.h"

#include "base/host_memory.h"
#include "base/memory.h"
#include "base/os.h"
#include "cache/kv_file.h"
#include "model/forward.h"

#include <assert.h>
#include <string.h>

struct scratch {
    struct kv_forward_buffers forward;
    struct kv_attn_run *runs;    /* (n_sequences)                                     */
    kvant_token *tokens;         /* (n_batch)                                         */
    int *logits_rows;            /* (n_batch): row of the i-th entry that wants logits */
    int *count, *start;          /* (n_sequences) entries, first row of each sequence  */
    struct kv_run_entry *entries; /* (n_sequences) of the runs                         */
    int *run_of;                 /* (n_sequences) run of each sequence of the step     */
    float *logits;               /* (n_logits, n_vocab)                               */
};

struct kvant_session {
    const struct kvant_model *model;
    struct kv_pool *pool;
    struct kv_pool *pool_batch;  /* for steps of more than one token; NULL: the same  */
    struct kv_store *store;
    struct kv_attn_scratch *attn_scratch;
    struct kv_seq **seqs;        /* (n_sequences), NULL = free slot                   */
    struct scratch scratch;
    void *block;                 /* what scratch points into                          */
    size_t block_bytes;
    int n_batch, n_logits, n_sequences;
    int n_logits_held;           /* rows of the last step                             */
    bool joins;                  /* some sequence enters above layer 0                */
    struct kv_run_entry *entry;  /* (n_sequences): layer, and the source *sequence*   */
    int *order;                  /* (n_sequences) by layer of entry, then by number   */
    struct kv_capture capture;   /* fn NULL: off                                      */
    struct kv_hidden_capture hidden; /* likewise                                      */
    struct kv_reader reader;
    int seq_of_run[];            /* (n_sequences): sequence of each run of the pass   */
};

/* ------------------------------------------------------------------------------------ open, close -- */

static int threads_max(const struct kvant_model *m)
{
    return m->n_threads > m->n_threads_batch ? m->n_threads : m->n_threads_batch;
}

static void scratch_layout(struct scratch *s, struct kv_carve *c, const struct kvant_model *m, int n_batch,
                           int n_logits, int n_sequences)
{
    kv_forward_layout(&s->forward, c, m, n_batch, n_sequences, threads_max(m));
    s->runs = kv_carve(c, (size_t)n_sequences, sizeof *s->runs);
    s->tokens = kv_carve(c, (size_t)n_batch, sizeof *s->tokens);
    s->logits_rows = kv_carve(c, (size_t)n_batch, sizeof *s->logits_rows);
    s->count = kv_carve(c, (size_t)n_sequences, sizeof *s->count);
    s->start = kv_carve(c, (size_t)n_sequences, sizeof *s->start);
    s->entries = kv_carve(c, (size_t)n_sequences, sizeof *s->entries);
    s->run_of = kv_carve(c, (size_t)n_sequences, sizeof *s->run_of);
    s->logits = kv_carve(c, (size_t)n_logits * (size_t)m->n_vocab, sizeof *s->logits);
}

static void resolve_options(const struct kvant_session_options *opt, int *n_batch, int *n_logits,
                            int *n_sequences)
{
    *n_batch = opt && opt->n_batch ? opt->n_batch : 512;
    *n_sequences = opt && opt->n_sequences ? opt->n_sequences : 16;
    *n_logits = opt && opt->n_logits ? opt->n_logits : *n_sequences;
}

size_t kvant_session_scratch_bytes(const struct kvant_model *m, const struct kvant_session_options *opt)
{
    int n_batch, n_logits, n_sequences;
    resolve_options(opt, &n_batch, &n_logits, &n_sequences);
    struct scratch s;
    struct kv_carve c = { NULL, 0, false };
    scratch_layout(&s, &c, m, n_batch, n_logits, n_sequences);
    return c.used + kv_attn_scratch_bytes(threads_max(m), n_batch, n_sequences, m->hp.n_head, m->hp.n_head_kv,
                                          m->hp.head_dim);
}

static kvant_status open_into(struct kvant_session *s, struct kvant_error *err)
{
    const struct kvant_model *m = s->model;
    struct kv_carve measure = { NULL, 0, false };
    scratch_layout(&s->scratch, &measure, m, s->n_batch, s->n_logits, s->n_sequences);
    s->block_bytes = measure.used;
    s->block = measure.overflow ? NULL : kv_pages_alloc(measure.used);
    s->seqs = kv_alloc((size_t)s->n_sequences, sizeof *s->seqs);
    s->entry = kv_alloc((size_t)s->n_sequences, sizeof *s->entry);
    s->order = kv_alloc((size_t)s->n_sequences, sizeof *s->order);
    if (!s->block || !s->seqs || !s->entry || !s->order)
        KV_FAIL(err, KVANT_ERR_MEMORY, -1,
                "no memory for a session: %.1f MB of scratch for batches of %d tokens and %d rows of logits",
                (double)measure.used / 1e6, s->n_batch, s->n_logits);
    struct kv_carve place = { s->block, 0, false };
    scratch_layout(&s->scratch, &place, m, s->n_batch, s->n_logits, s->n_sequences);
    for (int i = 0; i < s->n_sequences; i++) s->order[i] = i;
    KV_TRY(kv_pool_open(&s->pool, m->n_threads, err));
    if (m->n_threads_batch != m->n_threads) KV_TRY(kv_pool_open(&s->pool_batch, m->n_threads_batch, err));
    KV_TRY(kv_store_open(&s->store, &m->kernels, &m->rope, err));
    KV_TRY(kv_reader_open(&s->reader, &m->rope, err));
    return kv_attn_scratch_open(&s->attn_scratch, threads_max(m), s->n_batch, s->n_sequences, m->hp.n_head,
                                m->hp.n_head_kv, m->hp.head_dim, err);
}

kvant_status kvant_session_open(struct kvant_session **out, const struct kvant_model *m,
                                const struct kvant_session_options *opt, struct kvant_error *err)
{
    *out = NULL;
    if (m->vocab_only)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "%s was opened for its vocabulary only; it cannot run",
                kv_gguf_path(m->gguf));
    if (opt && opt->size != sizeof *opt)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "kvant_session_options.size is not set; use KVANT_SESSION_OPTIONS_INIT");
    if (opt && (opt->n_batch < 0 || opt->n_batch > 65536 || opt->n_logits < 0 || opt->n_sequences < 0 ||
                opt->n_sequences > 65536))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "session options out of range: n_batch %d, n_logits %d, n_sequences %d", opt->n_batch,
                opt->n_logits, opt->n_sequences);
    int n_batch, n_logits, n_sequences;
    resolve_options(opt, &n_batch, &n_logits, &n_sequences);
    struct kvant_session *s = kv_alloc(1, sizeof *s + (size_t)n_sequences * sizeof s->seq_of_run[0]);
    if (!s) KV_FAIL(err, KVANT_ERR_MEMORY, -1, "no memory for a session");
    s->model = m;
    s->n_batch = n_batch;
    s->n_logits = n_logits;
    s->n_sequences = n_sequences;
    kvant_status status = open_into(s, err);
    if (status != KVANT_OK) {
        kvant_session_close(s);
        return status;
    }
    *out = s;
    return KVANT_OK;
}

void kvant_session_close(struct kvant_session *s)
{
    if (!s) return;
    if (s->seqs)
        for (int i = 0; i < s->n_sequences; i++) kv_seq_close(s->seqs[i]);
    kv_free(s->seqs);
    kv_free(s->entry);
    kv_free(s->order);
    kv_attn_scratch_close(s->attn_scratch);
    kv_store_close(s->store);
    kv_reader_close(&s->reader);
    kv_pool_close(s->pool);
    kv_pool_close(s->pool_batch);
    kv_pages_free(s->block, s->block_bytes);
    kv_free(s);
}

void kv_session_set_capture(struct kvant_session *s, const struct kv_capture *capture)
{
    s->capture = capture ? *capture : (struct kv_capture){ NULL, NULL };
}

void kv_session_set_hidden(struct kvant_session *s, const struct kv_hidden_capture *capture)
{
    s->hidden = capture ? *capture : (struct kv_hidden_capture){ NULL, NULL };
}

const struct kvant_model *kv_session_model(const struct kvant_session *s) { return s->model; }
struct kv_pool *kv_session_pool(const struct kvant_session *s) { return s->pool; }
const struct kv_reader *kv_session_reader(const struct kvant_session *s) { return &s->reader; }
int kv_session_n_batch(const struct kvant_session *s) { return s->n_batch; }
int kv_session_n_logits(const struct kvant_session *s) { return s->n_logits; }
int kv_session_n_sequences(const struct kvant_session *s) { return s->n_sequences; }

int kv_session_n_free(const struct kvant_session *s)
{
    int n = 0;
    for (int i = 0; i < s->n_sequences; i++) n += !s->seqs[i];
    return n;
}

void kv_session_set_entry(struct kvant_session *s, int seq, int first_layer, int source)
{
    s->entry[seq] = (struct kv_run_entry){ first_layer, source };
    s->joins = false;
    for (int i = 0; i < s->n_sequences; i++) { /* insertion: stable, and nearly sorted */
        int k = i, layer = s->entry[i].layer;
        for (; k > 0 && s->entry[s->order[k - 1]].layer > layer; k--) s->order[k] = s->order[k - 1];
        s->order[k] = i;
        s->joins |= layer > 0;
    }
}

/* --------------------------------------------------------------------------------------- sequences -- */

static struct kv_seq *seq_at(const struct kvant_session *s, int seq)
{
    return seq >= 0 && seq < s->n_sequences ? s->seqs[seq] : NULL;
}

static kvant_status no_such_sequence(int seq, struct kvant_error *err)
{
    KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "there is no sequence %d in this session", seq);
}

kvant_status kv_session_sequence(const struct kvant_session *s, int seq, struct kv_seq **out,
                                 struct kvant_error *err)
{
    *out = seq_at(s, seq);
    if (!*out) return no_such_sequence(seq, err);
    if (kv_seq_failed(*out))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "sequence %d failed in an earlier step; close it", seq);
    return KVANT_OK;
}

static kvant_status free_slot(const struct kvant_session *s, int *slot, struct kvant_error *err)
{
    for (int i = 0; i < s->n_sequences; i++)
        if (!s->seqs[i]) {
            *slot = i;
            return KVANT_OK;
        }
    KV_FAIL(err, KVANT_ERR_FULL, -1,
            "all %d sequences of the session are open; close one or raise n_sequences", s->n_sequences);
}

static kvant_status check_plan(const struct kvant_session *s, const struct kvant_plan *plan,
                               int64_t n_tokens_max, struct kvant_error *err)
{
    const struct kv_hparams *h = &s->model->hp;
    if (n_tokens_max < 1 || n_tokens_max > INT32_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "a sequence of %lld tokens; 1 to %d are possible",
                (long long)n_tokens_max, INT32_MAX);
    if (plan->n_layer != h->n_layer || plan->n_head_kv != h->n_head_kv || plan->head_dim != h->head_dim)
        KV_FAIL(err, KVANT_ERR_MISMATCH, -1,
                "the plan %s is for %d layers of %d KV heads of %d, the model has %d of %d of %d",
                kvant_plan_name(plan), plan->n_layer, plan->n_head_kv, plan->head_dim, h->n_layer,
                h->n_head_kv, h->head_dim);
    return KVANT_OK;
}

kvant_status kvant_sequence_open(struct kvant_session *s, const struct kvant_plan *plan, int64_t n_tokens_max,
                                 int *seq, struct kvant_error *err)
{
    int slot = -1;
    *seq = -1;
    KV_TRY(free_slot(s, &slot, err));
    KV_TRY(check_plan(s, plan, n_tokens_max, err));
    KV_TRY(kv_seq_open(&s->seqs[slot], s->store, plan, n_tokens_max, err));
    *seq = slot;
    return KVANT_OK;
}

void kvant_sequence_close(struct kvant_session *s, int seq)
{
    if (!seq_at(s, seq)) return;
    kv_seq_close(s->seqs[seq]);
    s->seqs[seq] = NULL;
    if (s->entry[seq].layer) kv_session_set_entry(s, seq, 0, 0);
}

kvant_status kvant_sequence_fork(struct kvant_session *s, int seq, int *forked, struct kvant_error *err)
{
    int slot = -1;
    *forked = -1;
    if (!seq_at(s, seq)) return no_such_sequence(seq, err);
    KV_TRY(free_slot(s, &slot, err));
    KV_TRY(kv_seq_fork(&s->seqs[slot], s->seqs[seq], err));
    *forked = slot;
    return KVANT_OK;
}

kvant_status kvant_sequence_truncate(struct kvant_session *s, int seq, int64_t n_tokens,
                                     struct kvant_error *err)
{
    if (!seq_at(s, seq)) return no_such_sequence(seq, err);
    return kv_seq_truncate(s->seqs[seq], n_tokens, err);
}

kvant_status kvant_sequence_get_stats(const struct kvant_session *s, int seq,
                                      struct kvant_sequence_stats *out)
{
    if (!seq_at(s, seq)) return KVANT_ERR_ARGUMENT;
    kv_seq_get_stats(s->seqs[seq], out);
    return KVANT_OK;
}

kvant_status kvant_sequence_save(struct kvant_session *s, int seq, const kvant_token *tokens, size_t n_tokens,
                                 const char *path, size_t *n_bytes, struct kvant_error *err)
{
    uint8_t *data;
    size_t n;
    if (n_bytes) *n_bytes = 0;
    if (!seq_at(s, seq)) return no_such_sequence(seq, err);
    KV_TRY(kv_file_pack(s->seqs[seq], s->model->fingerprint, tokens, n_tokens, &data, &n, err));
    kvant_status status = kv_file_write(path, data, n, err);
    kv_free(data);
    if (status == KVANT_OK && n_bytes) *n_bytes = n;
    return status;
}

kvant_status kvant_sequence_restore(struct kvant_session *s, const struct kvant_plan *plan,
                                    int64_t n_tokens_max, const char *path, int *seq, kvant_token *tokens,
                                    size_t cap, size_t *n_out, size_t *n_bytes, struct kvant_error *err)
{
    int slot = -1;
    char *data;
    struct kv_file_source file = { .fingerprint = s->model->fingerprint, .n_vocab = s->model->n_vocab };
    *seq = -1;
    *n_out = 0;
    if (n_bytes) *n_bytes = 0;
    KV_TRY(free_slot(s, &slot, err));
    KV_TRY(check_plan(s, plan, n_tokens_max, err));
    if (kvant_plan_needs_calibration(plan))
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "plan %s: calibrate it first", kvant_plan_name(plan));
    KV_TRY(kv_file_read(path, kv_host_memory_bytes(), &data, &file.n_bytes, err));
    file.data = (const uint8_t *)data;
    kvant_status status = kv_file_unpack(&s->seqs[slot], s->store, plan, n_tokens_max, &file, tokens, cap,
                                         n_out, err);
    kv_free(data);
    if (status == KVANT_ERR_FORMAT || status == KVANT_ERR_MISMATCH || status == KVANT_ERR_UNSUPPORTED ||
        status == KVANT_ERR_SPACE)
        return kv_error_prefix(err, status, "%s", path);
    if (status != KVANT_OK) return status;
    *seq = slot;
    if (n_bytes) *n_bytes = file.n_bytes;
    return KVANT_OK;
}

bool kv_session_sequence_failed(const struct kvant_session *s, int seq)
{
    return seq_at(s, seq) && kv_seq_failed(s->seqs[seq]);
}

/* -------------------------------------------------------------------------------------------- steps -- */

static kvant_status check_entries(struct kvant_session *s, const struct kvant_batch_entry *entries, size_t n,
                                  struct kvant_error *err)
{
    int n_logits = 0;
    memset(s->scratch.count, 0, (size_t)s->n_sequences * sizeof *s->scratch.count);
    if (n > INT32_MAX)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "a step of %zu entries; at most %d are possible", n, INT32_MAX);
    for (size_t i = 0; i < n; i++) {
        if (!seq_at(s, entries[i].seq)) return no_such_sequence(entries[i].seq, err);
        if (entries[i].token < 0 || entries[i].token >= s->model->n_vocab)
            KV_FAIL(err, KVANT_ERR_ARGUMENT, (int64_t)i,
                    "entry %zu has the token %d, outside the vocabulary of %d", i, entries[i].token,
                    s->model->n_vocab);
        n_logits += entries[i].want_logits;
        s->scratch.count[entries[i].seq]++;
    }
    assert(!s->joins || n <= (size_t)s->n_batch);
    if (n_logits > s->n_logits)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
                "%d rows of logits wanted, but the session keeps %d; raise n_logits", n_logits, s->n_logits);
    for (int i = 0; i < s->n_sequences; i++) {
        if (!s->scratch.count[i]) continue;
        if (kv_seq_failed(s->seqs[i]))
            KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "sequence %d failed in an earlier step; close it", i);
        int64_t length = kv_seq_n_tokens(s->seqs[i]) + s->scratch.count[i];
        if (length > kv_seq_n_tokens_max(s->seqs[i]))
            KV_FAIL(err, KVANT_ERR_FULL, -1, "sequence %d would hold %lld tokens, but was opened for %lld", i,
                    (long long)length, (long long)kv_seq_n_tokens_max(s->seqs[i]));
    }
    return KVANT_OK;
}

/* Rows in the order in which sequences join the pass, each one run; *n_logits rows of the wanted logits in
 * entry order. */
static kvant_status gather_runs(struct kvant_session *s, const struct kvant_batch_entry *entries, int n,
                                int *n_runs, int *n_logits, struct kvant_error *err)
{
    struct scratch *c = &s->scratch;
    memset(c->count, 0, (size_t)s->n_sequences * sizeof *c->count);
    for (int i = 0; i < n; i++) c->count[entries[i].seq]++;
    *n_runs = 0;
    for (int i = 0, row = 0; i < s->n_sequences; i++) {
        int seq = s->order[i];
        c->start[seq] = row;
        if (!c->count[seq]) continue;
        KV_TRY(kv_seq_begin(s->seqs[seq], c->count[seq], err));
        c->runs[*n_runs] = (struct kv_attn_run){
            .seq = s->seqs[seq], .n_before = kv_seq_n_tokens(s->seqs[seq]), .row = row, .n = c->count[seq]
        };
        const struct kv_run_entry *entry = &s->entry[seq];
        assert(!entry->layer || c->count[entry->source] == c->count[seq]);
        c->entries[*n_runs] = (struct kv_run_entry){ entry->layer,
                                                     entry->layer ? c->run_of[entry->source] : 0 };
        c->run_of[seq] = *n_runs;
        s->seq_of_run[(*n_runs)++] = seq;
        row += c->count[seq];
    }
    *n_logits = 0;
    for (int i = 0; i < n; i++) {
        int row = c->start[entries[i].seq]++;
        c->tokens[row] = entries[i].token;
        if (entries[i].want_logits) c->logits_rows[(*n_logits)++] = row;
    }
    return KVANT_OK;
}

static void capture_row(void *user, int layer, int run, int row, int64_t position)
{
    const struct kvant_session *s = user;
    const struct kv_forward_buffers *b = &s->scratch.forward;
    const struct kv_hparams *h = &s->model->hp;
    size_t n_q = (size_t)(h->n_head * h->head_dim), n_kv = (size_t)(h->n_head_kv * h->head_dim),
           i = (size_t)row;
    s->capture.fn(s->capture.user, layer, s->seq_of_run[run], position, b->q + i * n_q, b->k_raw + i * n_kv,
                  b->k + i * n_kv, b->v + i * n_kv);
}

static void hidden_row(void *user, int layer, int run, int row, int64_t position)
{
    const struct kvant_session *s = user;
    s->hidden.fn(s->hidden.user, layer, s->seq_of_run[run], position,
                 s->scratch.forward.x + (size_t)row * (size_t)s->model->hp.n_embd);
}

/* The forward pass knows runs; its message is about the first one that failed. */
static kvant_status name_failed(const struct kvant_session *s, int n_runs, kvant_status status,
                                struct kvant_error *err)
{
    int run = 0;
    while (run < n_runs - 1 && !kv_seq_failed(s->seqs[s->seq_of_run[run]])) run++;
    return kv_error_prefix(err, status, "sequence %d", s->seq_of_run[run]);
}

kvant_status kvant_session_step(struct kvant_session *s, const struct kvant_batch_entry *entries, size_t n,
                                struct kvant_error *err)
{
    s->n_logits_held = 0;
    if (n == 0) return KVANT_OK;
    KV_TRY(check_entries(s, entries, n, err));
    for (size_t done = 0; done < n;) {
        int n_rows = n - done < (size_t)s->n_batch ? (int)(n - done) : s->n_batch;
        int n_runs, n_logits;
        KV_TRY(gather_runs(s, entries + done, n_rows, &n_runs, &n_logits, err));
        const struct kv_forward_call call = {
            .model = s->model,
            .pool = n_rows > 1 && s->pool_batch ? s->pool_batch : s->pool,
            .buffers = &s->scratch.forward,
            .attn_scratch = s->attn_scratch,
            .runs = s->scratch.runs,
            .n_runs = n_runs,
            .n_rows = n_rows,
            .entries = s->joins ? s->scratch.entries : NULL,
            .tokens = s->scratch.tokens,
            .logits_rows = s->scratch.logits_rows,
            .n_logits = n_logits,
            .logits = s->scratch.logits + (size_t)s->n_logits_held * (size_t)s->model->n_vocab,
            .capture = s->capture.fn ? capture_row : NULL,
            .capture_user = s,
            .hidden = s->hidden.fn ? hidden_row : NULL,
            .hidden_user = s,
        };
        kvant_status status = kv_forward(&call, err);
        s->n_logits_held += n_logits;
        if (status != KVANT_OK) return name_failed(s, n_runs, status, err);
        done += (size_t)n_rows;
    }
    return KVANT_OK;
}

const float *kvant_session_logits(const struct kvant_session *s, int i)
{
    if (i < 0 || i >= s->n_logits_held) return NULL;
    return s->scratch.logits + (size_t)i * (size_t)s->model->n_vocab;
}
