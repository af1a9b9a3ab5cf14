/*
 * Continuous batching: one thread owns the session; between two steps requests come, go and are cancelled.
 *
 *   step = one token of every answer that is being written  +  up to a chunk of prompt tokens
 *
 * The chunk bounds how long running answers stand still while a long prompt is read: --prompt-chunk tokens
 * beside them, --batch-size without, but then not more than twice of what the shortest prompt that is being
 * read has left. Half of it goes to the request that has waited longest, the rest to the shortest first, so
 * that a short question beside a long document is answered soon and no one waits forever. Requests are taken
 * up in the order in which they came.
 */
#include "serve_engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WATCH_S           0.1
#define PUBLISH_S         0.05
#define PREFIX_TOKENS_MIN 32  /* a shorter beginning is not worth a sequence */
#define REREAD_TOKENS     128 /* more than a tail of 32 and its granule: it is exact again then */

static void lane_clear(struct lane *lane)
{
    kvant_sampler_close(lane->sampler);
    kvant_router_watch_close(lane->think.watch);
    free(lane->tokens);
    answer_clear(lane);
    *lane = (struct lane){ .seq = -1, .think = { .first = -1, .last = -1 } };
}

int engine_open(struct server *s)
{
    struct kvant_error err;
    struct engine *e = allocate(1, sizeof *e);
    *e = (struct engine){ .server = s, .n_lanes = (int)s->options.n_parallel };
    struct kvant_session_options options = KVANT_SESSION_OPTIONS_INIT;
    options.n_batch = (int)s->options.n_batch;
    options.n_sequences = e->n_lanes + PREFIXES_MAX + 1;
    options.n_logits = e->n_lanes;
    if (kvant_session_open(&e->session, s->model, &options, &err) != KVANT_OK) {
        free(e);
        return fail(&err);
    }
    e->lanes = allocate((size_t)e->n_lanes, sizeof *e->lanes);
    e->asked = allocate((size_t)e->n_lanes, sizeof *e->asked);
    e->entries = allocate((size_t)s->options.n_batch, sizeof *e->entries);
    e->logits = allocate((size_t)s->info.n_vocab, sizeof *e->logits);
    e->seen = allocate((size_t)s->info.n_vocab, sizeof *e->seen);
    memset(e->seen, 0, (size_t)s->info.n_vocab * sizeof *e->seen);
    e->ends = allocate((size_t)s->info.n_vocab, sizeof *e->ends);
    for (int i = 0; i < e->n_lanes; i++) e->lanes[i] = (struct lane){ .seq = -1 };
    for (kvant_token id = 0; id < s->info.n_vocab; id++)
        if (kvant_token_is_end(s->model, id)) e->ends[e->n_ends++] = id;
    s->engine = e;
    return EXIT_OK;
}

void engine_close(struct server *s)
{
    struct engine *e = s->engine;
    if (!e) return;
    prefixes_close(&e->prefixes, e->session);
    for (int i = 0; i < e->n_lanes; i++) lane_clear(&e->lanes[i]);
    kvant_session_close(e->session);
    free(e->lanes);
    free(e->asked);
    free(e->entries);
    free(e->logits);
    free(e->seen);
    pieces_close(&e->pieces);
    free(e->ends);
    free(e);
    s->engine = NULL;
}

/* --------------------------------------------------------------------------------------------- the end -- */

/* The sequence stays as a prefix for later requests, or is closed. */
static void keep_sequence(struct engine *e, struct lane *lane)
{
    struct server *s = e->server;
    if (lane->seq < 0) return;
    if (lane->n_done < PREFIX_TOKENS_MIN || !lane->job->request.cache_prompt) {
        kvant_sequence_close(e->session, lane->seq);
    } else {
        struct prefix entry = { .seq = lane->seq,
                                .plan = lane->plan,
                                .slot = (int)(lane - e->lanes),
                                .tokens = lane->tokens,
                                .n_tokens = lane->n_done };
        int64_t budget = s->options.cache_mib < 0 ? -1 : s->options.cache_mib << 20;
        lane->tokens = NULL;
        prefixes_add(&e->prefixes, e->session, entry, budget,
                     s->options.cache_mib == 0 ? 0 : PREFIXES_MAX - 1);
    }
    lane->seq = -1;
}

static bool is_embed(const struct job *job)
{
    return job && job->kind == JOB_ANSWER && job->request.kind == API_EMBED;
}

/* Ends all lanes of a job. e NULL: the client is gone. */
static void job_drop(struct engine *e, struct job *job, const struct api_error *error)
{
    struct server *s = e->server;
    for (int i = 0; i < e->n_lanes; i++) {
        struct lane *lane = &e->lanes[i];
        if (lane->job != job) continue;
        if (lane->seq >= 0 && error) {
            kvant_sequence_close(e->session, lane->seq); /* it may have failed */
            lane->seq = -1;
        } else
            keep_sequence(e, lane);
        lane_clear(lane);
    }
    pthread_mutex_lock(&s->lock);
    s->metrics.n_processing--;
    if (error)
        s->metrics.n_errors++;
    else
        s->metrics.n_cancelled++;
    pthread_mutex_unlock(&s->lock);
    if (error)
        job_finish_error(job, error);
    else
        job_finish(job, 499);
    job_release(job);
}

/* ------------------------------------------------------------------------------------------- taking up -- */

static bool open_sequence(struct engine *e, struct lane *lane, struct kvant_error *err)
{
    const struct server *s = e->server;
    int64_t n_max = lane->job->request.kind == API_EMBED ? (int64_t)lane->n_prompt : s->n_ctx;
    for (;;) {
        kvant_status status = kvant_sequence_open(e->session, s->plans[lane->plan].plan, n_max, &lane->seq,
                                                  err);
        if (status == KVANT_OK) return true;
        if ((status != KVANT_ERR_FULL && status != KVANT_ERR_MEMORY) ||
            !prefixes_evict(&e->prefixes, e->session))
            return false;
    }
}

static int fork_sequence(struct engine *e, int seq)
{
    int forked = -1;
    return kvant_sequence_fork(e->session, seq, &forked, NULL) == KVANT_OK ? forked : -1;
}

/* Cuts a fork to n tokens. Where that brings back rows of a page, which are not exact any more, the cut
 * goes further back, so that the tail is made of exact rows again when the rest has been read. */
static size_t cut_sequence(struct engine *e, int seq, size_t n)
{
    struct kvant_sequence_stats stats;
    if (kvant_sequence_truncate(e->session, seq, (int64_t)n, NULL) != KVANT_OK) return 0;
    if (kvant_sequence_get_stats(e->session, seq, &stats) != KVANT_OK) return 0;
    if (stats.n_inexact_tail == 0) return n;
    n = n >= REREAD_TOKENS + PREFIX_TOKENS_MIN ? n - REREAD_TOKENS : 0;
    return kvant_sequence_truncate(e->session, seq, (int64_t)n, NULL) == KVANT_OK ? n : 0;
}

/* Takes over the longest beginning that an earlier or a running request has in common with this one. */
static void take_prefix(struct engine *e, struct lane *lane)
{
    size_t n_common;
    struct prefix *best = prefixes_find(&e->prefixes, lane->plan, lane->tokens, lane->n_prompt, &n_common);
    int from = best ? best->seq : -1;
    for (int i = 0; i < e->n_lanes; i++) { /* what is being read now has a beginning, too */
        const struct lane *other = &e->lanes[i];
        if (other == lane || !other->job || other->seq < 0 || other->plan != lane->plan) continue;
        if (is_embed(other->job)) continue; /* has no room for more than its text */
        size_t n = tokens_common(other->tokens, other->n_done, lane->tokens, lane->n_prompt);
        if (n <= n_common) continue;
        n_common = n;
        from = other->seq;
        best = NULL;
    }
    if (n_common == lane->n_prompt) n_common--; /* the last token is read for its logits */
    if (n_common < PREFIX_TOKENS_MIN || from < 0) return;
    if (best) best->used_s = clock_s();
    int seq = fork_sequence(e, from);
    if (seq < 0) return;
    lane->n_done = lane->n_cached = cut_sequence(e, seq, n_common);
    if (lane->n_done > 0)
        lane->seq = seq;
    else
        kvant_sequence_close(e->session, seq);
}

static bool lane_begin(struct engine *e, struct lane *lane, struct job *job, int choice,
                       struct api_error *error)
{
    struct server *s = e->server;
    const struct request *r = &job->request;
    struct kvant_error err;
    int prompt = choice / r->n_choices;
    size_t n = r->prompt_lengths[prompt];
    int64_t room = s->n_ctx - (int64_t)n;
    *lane = (struct lane){ .job = job,
                           .slot = (int)(lane - e->lanes),
                           .choice = choice,
                           .prompt = prompt,
                           .seq = -1,
                           .plan = r->plan,
                           .n_prompt = n,
                           .n_tokens = n,
                           .cap_tokens = n + 256,
                           .started_s = clock_s(),
                           .think = { .undecided = r->route != ROUTE_NONE, .first = -1, .last = -1 } };
    lane->n_predict_max = r->n_predict < 0 || r->n_predict > room ? room : r->n_predict;
    lane->tokens = allocate(lane->cap_tokens, sizeof *lane->tokens);
    memcpy(lane->tokens, r->prompts[prompt], n * sizeof *lane->tokens);
    struct kvant_sampler_options sampler = r->sampler;
    sampler.seed += (uint64_t)choice;
    if (kvant_sampler_open(&lane->sampler, s->info.n_vocab, &sampler, &err) != KVANT_OK)
        return api_fail_library(error, &err);
    answer_begin(s, lane);
    for (int i = 0; i < e->n_lanes && !lane->leader; i++) {
        struct lane *other = &e->lanes[i];
        bool reads = other->n_predicted == 0 && !other->finish; /* the prompt, for both */
        if (other->job == job && other->prompt == prompt && other != lane && !other->leader && reads)
            lane->leader = other;
    }
    if (lane->leader) return true;
    if (r->cache_prompt) take_prefix(e, lane);
    if (lane->seq < 0 && !open_sequence(e, lane, &err)) return api_fail_library(error, &err);
    job->state.n_cached += (int64_t)lane->n_cached;
    pthread_mutex_lock(&s->lock);
    s->metrics.cached_tokens += (int64_t)lane->n_cached;
    pthread_mutex_unlock(&s->lock);
    return true;
}

/* A lane that is free takes the next answer of its job: a request may ask for more than there are lanes. */
static void begin_next(struct engine *e, struct lane *lane, struct job *job)
{
    struct api_error error;
    if (job->state.n_begun == job->request.n_prompts * job->request.n_choices) return;
    if (!lane_begin(e, lane, job, job->state.n_begun++, &error)) job_drop(e, job, &error);
}

/* What the cache says of an answer; of one that it does not hold, nothing. */
static void read_confidence(struct engine *e, struct lane *lane)
{
    struct kvant_coe none = { .r = NAN, .c = NAN };
    bool ok = lane->job->request.wants_confidence && lane->seq >= 0 &&
              kvant_score_sequence(e->session, lane->seq, (int64_t)lane->n_prompt - 1, 0, NULL,
                                   &lane->coe_tokens, &lane->coe_layers, NULL) == KVANT_OK;
    if (!ok) lane->coe_tokens = lane->coe_layers = none;
}

static void lane_end(struct engine *e, struct lane *lane)
{
    struct server *s = e->server;
    struct job *job = lane->job;
    bool last = job->state.n_left == 1;
    read_confidence(e, lane);
    answer_end(s, lane);
    keep_sequence(e, lane);
    pthread_mutex_lock(&s->lock);
    s->metrics.predicted_tokens += lane->n_predicted;
    s->metrics.predicted_s += clock_s() - lane->first_s;
    if ((int64_t)lane->n_done > s->metrics.n_tokens_max) s->metrics.n_tokens_max = (int64_t)lane->n_done;
    if (last) s->metrics.n_processing--;
    pthread_mutex_unlock(&s->lock);
    lane_clear(lane);
    if (last)
        job_release(job);
    else
        begin_next(e, lane, job);
}

static int free_lanes(const struct engine *e)
{
    int n = 0;
    for (int i = 0; i < e->n_lanes; i++) n += !e->lanes[i].job;
    return n;
}

/* Gives the next text of a job to a lane. False: the job is dropped. */
static bool embed_begin(struct engine *e, struct lane *lane, struct job *job)
{
    struct api_error error;
    struct kvant_error err;
    const struct request *r = &job->request;
    int i = job->state.n_begun++;
    size_t n = r->prompt_lengths[i];
    *lane = (struct lane){ .job = job, .prompt = i, .choice = i, .seq = -1, .plan = r->plan, .n_prompt = n,
                           .n_tokens = n, .cap_tokens = n, .started_s = clock_s() };
    lane->tokens = allocate(n, sizeof *lane->tokens);
    memcpy(lane->tokens, r->prompts[i], n * sizeof *lane->tokens);
    if (open_sequence(e, lane, &err)) return true;
    api_fail_library(&error, &err);
    job_drop(e, job, &error);
    return false;
}

/* Texts that are read to their end become vectors. Their lane takes the job's next text when it is the only
 * one that the job has left, and is free otherwise. */
static void embed_end(struct engine *e)
{
    struct server *s = e->server;
    for (int i = 0; i < e->n_lanes; i++) {
        struct lane *lane = &e->lanes[i];
        struct job *job = lane->job;
        struct api_error error;
        if (!is_embed(job) || lane->n_done < lane->n_prompt) continue;
        if (!embed_row(s, e->session, lane, &error)) {
            job_drop(e, job, &error);
            continue;
        }
        kvant_sequence_close(e->session, lane->seq);
        lane_clear(lane);
        bool more = job->state.n_begun < job->request.n_prompts, has_lane = false;
        for (int k = 0; k < e->n_lanes; k++) has_lane |= e->lanes[k].job == job;
        if (--job->state.n_left > 0) {
            if (more && !has_lane) embed_begin(e, lane, job); /* the job may be gone then */
            continue;
        }
        embed_finish(s, job);
        pthread_mutex_lock(&s->lock);
        s->metrics.n_processing--;
        pthread_mutex_unlock(&s->lock);
        job_release(job);
    }
}

/* Lanes that nobody waits for read further texts; one is left for who comes next. */
static void embed_spread(struct engine *e)
{
    pthread_mutex_lock(&e->server->lock);
    int n_free = e->server->queue ? 0 : free_lanes(e) - 1;
    pthread_mutex_unlock(&e->server->lock);
    for (int i = 0, to = 0; i < e->n_lanes && n_free > 0; i++) {
        struct job *job = e->lanes[i].job;
        while (is_embed(job) && job->state.n_begun < job->request.n_prompts && n_free > 0) {
            while (e->lanes[to].job) to++;
            if (!embed_begin(e, &e->lanes[to], job)) return;
            n_free--;
        }
    }
}

static void job_begin(struct engine *e, struct job *job)
{
    struct server *s = e->server;
    struct api_error error;
    int n = job->request.n_prompts * job->request.n_choices;
    job->state.n_left = n;
    job->state.started_s = clock_s();
    for (int i = 0; i < job->request.n_prompts; i++)
        job->state.n_prompt += (int64_t)job->request.prompt_lengths[i];
    pthread_mutex_lock(&s->lock);
    s->metrics.n_requests++;
    s->metrics.n_processing++;
    pthread_mutex_unlock(&s->lock);
    int i = 0;
    if (is_embed(job)) {
        job->state.rows = allocate((size_t)n, sizeof *job->state.rows);
        memset(job->state.rows, 0, (size_t)n * sizeof *job->state.rows);
        while (e->lanes[i].job) i++;
        embed_begin(e, &e->lanes[i], job);
        return;
    }
    int n_free = free_lanes(e);
    for (int k = n < n_free ? n : n_free; k > 0; k--) { /* the others follow in the same lanes */
        while (e->lanes[i].job) i++;
        if (lane_begin(e, &e->lanes[i], job, job->state.n_begun++, &error)) continue;
        job_drop(e, job, &error);
        return;
    }
}

static void take_up(struct engine *e, struct job *job)
{
    switch (job->kind) {
    case JOB_ANSWER: job_begin(e, job); break;
    case JOB_SLOT_SAVE: slot_save(e, job); break;
    case JOB_SLOT_RESTORE: slot_restore(e, job); break;
    case JOB_SLOT_ERASE: slot_erase(e, job); break;
    }
}

/* The first job of the queue, if there is room for it; NULL otherwise. */
static struct job *next_job(struct engine *e)
{
    struct server *s = e->server;
    struct job *job = s->queue;
    if (!job) return NULL;
    if (job->kind == JOB_ANSWER && free_lanes(e) == 0 && !job->cancelled) return NULL;
    s->queue = job->next;
    if (!s->queue) s->queue_end = &s->queue;
    s->n_queued--;
    return job;
}

static void admit(struct engine *e)
{
    struct server *s = e->server;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        struct job *job = next_job(e);
        s->metrics.n_deferred = s->n_queued;
        pthread_mutex_unlock(&s->lock);
        if (!job) return;
        if (job->cancelled) {
            job_finish(job, 499);
            job_release(job);
        } else
            take_up(e, job);
    }
}

/* -------------------------------------------------------------------------------------------- stepping -- */

static bool is_reading(const struct lane *lane)
{
    return lane->job && !lane->leader && lane->n_done < lane->n_prompt;
}

static bool is_writing(const struct lane *lane)
{
    return lane->job && !lane->leader && lane->n_done >= lane->n_prompt;
}

static size_t add_entries(struct engine *e, struct lane *lane, size_t n_entries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = lane->n_done++;
        bool last = at + 1 == lane->n_tokens && !is_embed(lane->job); /* a vector needs no logits */
        e->entries[n_entries++] = (struct kvant_batch_entry){ lane->seq, lane->tokens[at], last };
        if (last) e->asked[e->n_asked++] = lane;
    }
    return n_entries;
}

/* The lane that is to read next: the one that waits longest, or with the least left to read. */
static struct lane *choose_reader(struct engine *e, bool oldest, const struct lane *beside)
{
    struct lane *best = NULL;
    for (int i = 0; i < e->n_lanes; i++) {
        struct lane *lane = &e->lanes[i];
        if (!is_reading(lane) || lane == beside) continue;
        bool better = !best || (oldest ? lane->started_s < best->started_s
                                       : lane->n_prompt - lane->n_done < best->n_prompt - best->n_done);
        if (better) best = lane;
    }
    return best;
}

static bool several_jobs(const struct engine *e)
{
    const struct job *one = NULL;
    for (int i = 0; i < e->n_lanes; i++) {
        if (!is_reading(&e->lanes[i])) continue;
        if (one && e->lanes[i].job != one) return true;
        one = e->lanes[i].job;
    }
    return false;
}

static size_t fill_step(struct engine *e)
{
    const struct serve_options *o = &e->server->options;
    size_t n = 0;
    e->n_asked = 0;
    for (int i = 0; i < e->n_lanes; i++)
        if (is_writing(&e->lanes[i])) n = add_entries(e, &e->lanes[i], n, 1);
    size_t budget = (size_t)(n > 0 ? o->prompt_chunk : o->n_batch);
    if (budget > (size_t)o->n_batch - n) budget = (size_t)o->n_batch - n;
    bool several = false;
    struct lane *first = choose_reader(e, true, NULL), *shortest = choose_reader(e, false, NULL);
    if (first) several = choose_reader(e, false, first) != NULL;
    if (n == 0 && several_jobs(e)) { /* who is nearly read does not wait for much that others read beside */
        size_t least = 2 * (shortest->n_prompt - shortest->n_done);
        if (least < (size_t)o->prompt_chunk) least = (size_t)o->prompt_chunk;
        if (budget > least) budget = least;
    }
    for (struct lane *lane = first; lane && budget > 0; lane = choose_reader(e, false, NULL)) {
        size_t left = lane->n_prompt - lane->n_done,
               share = lane == first && several ? (budget + 1) / 2 : budget;
        size_t take = left < share ? left : share;
        n = add_entries(e, lane, n, take);
        budget -= take;
        several = false;
    }
    return n;
}

/* Logits as the request wants them; the unmodified ones when it wants nothing special. */
static const float *adjust(struct engine *e, struct lane *lane, const float *logits)
{
    const struct request *r = &lane->job->request;
    bool penalties = r->presence_penalty != 0.0f || r->frequency_penalty != 0.0f;
    bool json = json_wanted(lane);
    if (!penalties && r->n_bias == 0 && !r->ignore_eos && !json) return logits;
    memcpy(e->logits, logits, (size_t)e->server->info.n_vocab * sizeof *logits);
    for (int i = 0; i < r->n_bias; i++) e->logits[r->bias[i].token] += r->bias[i].bias;
    for (size_t i = lane->n_prompt; i < lane->n_tokens && penalties; i++) {
        kvant_token id = lane->tokens[i];
        e->logits[id] -= r->frequency_penalty + (e->seen[id] ? 0.0f : r->presence_penalty);
        e->seen[id] = true;
    }
    for (size_t i = lane->n_prompt; i < lane->n_tokens && penalties; i++) e->seen[lane->tokens[i]] = false;
    for (int i = 0; i < e->n_ends && r->ignore_eos; i++) e->logits[e->ends[i]] = -INFINITY;
    if (json && !json_bar(e->server, &e->pieces, lane, e->logits)) return NULL;
    return e->logits;
}

/* One token of an answer: chosen, shown, appended; the lane may be finished then. */
static void write_token(struct engine *e, struct lane *lane, const float *logits)
{
    const struct server *s = e->server;
    if (lane->n_predicted == 0) lane->first_s = clock_s();
    const float *adjusted = adjust(e, lane, logits);
    bool json = json_wanted(lane), closed = false;
    kvant_token id = adjusted ? kvant_sampler_next(lane->sampler, adjusted, NULL) : -1;
    bool fits = id >= 0 && (!json || json_take(&e->pieces, lane, id, &closed));
    if (!fits || kvant_token_is_end(s->model, id)) {
        lane->finish = "stop";
        lane->stop_type = "eos";
        return;
    }
    lane->n_predicted++;
    if (lane->n_tokens == lane->cap_tokens)
        lane->tokens = reallocate(lane->tokens, lane->cap_tokens = 2 * lane->cap_tokens,
                                  sizeof *lane->tokens);
    lane->tokens[lane->n_tokens++] = id;
    answer_token(s, lane, id, logits);
    if (closed && !lane->finish) {
        lane->finish = "stop";
        lane->stop_type = "eos";
    }
    if (!lane->finish && lane->n_predicted >= lane->n_predict_max) {
        lane->finish = "length";
        lane->stop_type = "limit";
    }
    if (!lane->finish) answer_stream(s, lane);
}

/* Lanes that waited for this one to read their common prompt write their own first token from its logits. */
static void release_followers(struct engine *e, struct lane *leader, const float *logits)
{
    for (int i = 0; i < e->n_lanes; i++) {
        struct lane *lane = &e->lanes[i];
        if (lane->leader != leader) continue;
        lane->leader = NULL;
        lane->started_s = leader->started_s;
        do lane->seq = fork_sequence(e, leader->seq);
        while (lane->seq < 0 && prefixes_evict(&e->prefixes, e->session));
        struct api_error error;
        bool ok = lane->seq >= 0 ||
                  api_fail(&error, 503, "unavailable_error", NULL, "no memory for another answer");
        if (!ok || !think_follow(e->server, e->session, lane, leader, &error)) {
            job_drop(e, lane->job, &error);
            return;
        }
        lane->n_done = lane->n_prompt;
        write_token(e, lane, logits);
    }
}

/* Whether a token can be chosen now. It cannot where the router puts others before it, or where it failed. */
static bool may_write(struct engine *e, struct lane *lane)
{
    struct api_error error;
    bool ok = true, waits = lane->think.undecided;
    if (waits)
        ok = think_decide(e->server, e->session, lane, &error);
    else if (lane->think.watch && lane->n_predicted > 0)
        ok = think_turn_over(e->server, lane, &waits, &error);
    if (!ok) job_drop(e, lane->job, &error);
    return ok && !(waits && lane->n_done < lane->n_tokens);
}

static void write_tokens(struct engine *e)
{
    for (int i = 0; i < e->n_asked; i++) {
        struct lane *lane = e->asked[i];
        const float *logits = kvant_session_logits(e->session, i);
        if (!lane->job || !logits || !may_write(e, lane)) continue;
        if (lane->n_predicted == 0) release_followers(e, lane, logits);
        if (!lane->job) continue;
        if (lane->n_predict_max > 0)
            write_token(e, lane, logits);
        else {
            lane->first_s = clock_s();
            lane->finish = "length";
            lane->stop_type = "limit";
        }
    }
    for (int i = 0; i < e->n_lanes; i++) {
        struct lane *lane = &e->lanes[i];
        if (lane->job && lane->finish) lane_end(e, lane);
    }
}

/* A step that failed: the sequences that it broke end their jobs, all others go on. */
static void handle_failure(struct engine *e, const struct kvant_error *err)
{
    struct api_error error;
    bool any = false;
    api_fail_library(&error, err);
    for (int i = 0; i < e->n_lanes; i++) {
        struct kvant_sequence_stats stats;
        struct lane *lane = &e->lanes[i];
        if (!lane->job || lane->seq < 0) continue;
        if (kvant_sequence_get_stats(e->session, lane->seq, &stats) == KVANT_OK && !stats.failed) continue;
        any = true;
        job_drop(e, lane->job, &error);
    }
    for (int i = 0; i < e->n_lanes && !any; i++) /* not of one sequence: nothing can go on */
        if (e->lanes[i].job) job_drop(e, e->lanes[i].job, &error);
}

static void view_lane(const struct engine *e, int i, struct slot_view *v)
{
    const struct lane *lane = &e->lanes[i];
    const struct server *s = e->server;
    *v = (struct slot_view){ .busy = lane->job != NULL, .plan = s->plans[lane->job ? lane->plan : 0].name };
    if (lane->job) {
        snprintf(v->id, sizeof v->id, "%s", lane->job->request.id);
        v->n_prompt = (int64_t)lane->n_prompt;
        v->n_cached = (int64_t)lane->n_cached;
        v->n_done = (int64_t)lane->n_done;
        v->n_decoded = lane->n_predicted;
        v->n_remain = lane->n_predict_max - lane->n_predicted;
        struct kvant_sequence_stats stats;
        if (lane->seq >= 0 && kvant_sequence_get_stats(e->session, lane->seq, &stats) == KVANT_OK)
            v->bytes = (int64_t)stats.cache_bytes;
    }
    for (size_t k = 0; k < e->prefixes.n; k++)
        if (e->prefixes.items[k].slot == i) v->n_held = (int64_t)e->prefixes.items[k].n_tokens;
}

/* What /slots and /metrics tell. The slots are looked at a few times per second only: it is work for every
 * page. */
static void publish(struct engine *e, size_t n_entries, double seconds)
{
    struct server *s = e->server;
    int n_busy = e->n_lanes - free_lanes(e);
    bool look = n_busy == 0 || clock_s() - e->published_s > PUBLISH_S;
    int64_t bytes = e->prefixes.bytes;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < e->n_lanes && look; i++) {
        view_lane(e, i, &s->slots[i]);
        bytes += s->slots[i].bytes;
    }
    if (look) {
        e->published_s = clock_s();
        s->metrics.cache_bytes = bytes;
        s->metrics.n_prefixes = (int64_t)e->prefixes.n;
    }
    if (n_entries > 0) {
        int64_t n_prompt = (int64_t)n_entries - e->n_asked;
        s->metrics.n_steps++;
        s->metrics.busy_slot_steps += n_busy;
        if (n_prompt > 0) {
            s->metrics.prompt_tokens += n_prompt;
            s->metrics.prompt_s += seconds * (double)n_prompt / (double)n_entries;
        }
    }
    pthread_mutex_unlock(&s->lock);
}

static void step(struct engine *e)
{
    struct kvant_error err;
    double started_s = clock_s();
    size_t n = fill_step(e);
    if (n > 0) {
        kvant_status status = kvant_session_step(e->session, e->entries, n, &err);
        if (status != KVANT_OK) handle_failure(e, &err);
        write_tokens(e);
        embed_end(e);
    }
    publish(e, n, clock_s() - started_s);
}

static void drop_cancelled(struct engine *e)
{
    bool watch = clock_s() - e->watched_s > WATCH_S;
    if (watch) e->watched_s = clock_s();
    for (int i = 0; i < e->n_lanes; i++) {
        struct job *job = e->lanes[i].job;
        if (job && (watch ? job_client_gone(job) : job->cancelled)) job_drop(e, job, NULL);
        else if (job && watch) job_ping(job, 15.0);
    }
}

static bool wait_for_work(struct engine *e)
{
    struct server *s = e->server;
    bool busy = free_lanes(e) < e->n_lanes;
    pthread_mutex_lock(&s->lock);
    while (!busy && !s->queue && !s->stopping) pthread_cond_wait(&s->wake, &s->lock);
    bool more = busy || s->queue || !s->stopping;
    pthread_mutex_unlock(&s->lock);
    return more;
}

void *engine_run(void *server)
{
    struct server *s = server;
    struct engine *e = s->engine;
    while (wait_for_work(e)) {
        drop_cancelled(e);
        admit(e);
        embed_spread(e);
        step(e);
    }
    return NULL;
}
