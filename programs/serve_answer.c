/*
 * From tokens to what clients read: whole characters, stop texts held back, thoughts split off,
 * log-probabilities, and the JSON of the three APIs, streamed or not.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "serve_engine.h"
#include "utf8.h"

static const char think_open[] = "<think>", think_close[] = "</think>";

static void put(struct text_buffer *b, const char *bytes, size_t n)
{
    if (n == 0) return;
    if (n > b->cap - b->n) b->bytes = reallocate(b->bytes, b->cap = 2 * b->cap + n + 256, 1);
    memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
}

void answer_begin(const struct server *s, struct lane *lane)
{
    const struct request *r = &lane->job->request;
    (void)s;
    lane->text_state = r->kind != API_CHAT || !r->split_thinking ? TEXT_CONTENT
                       : r->thinking                             ? TEXT_THOUGHT
                                                                 : TEXT_BEGIN;
    lane->had_thought = lane->text_state == TEXT_THOUGHT;
    lane->logprobs = r->logprobs ? json_array() : NULL;
    const char *echo = r->kind == API_TEXT ? r->echoes[lane->prompt] : NULL;
    if (echo) put(&lane->content, echo, strlen(echo));
    lane->min_prob = 1.0;
}

void answer_clear(struct lane *lane)
{
    free(lane->raw.bytes);
    free(lane->content.bytes);
    free(lane->thought.bytes);
    json_decref(lane->logprobs);
}

/* ------------------------------------------------------------------------------------------- splitting -- */

/* Bytes at the end of the text that may be the beginning of `word`. */
static size_t held_back(const char *text, size_t n, const char *word)
{
    size_t n_word = strlen(word), most = n < n_word - 1 ? n : n_word - 1;
    for (size_t k = most; k > 0; k--)
        if (memcmp(text + n - k, word, k) == 0) return k;
    return 0;
}

/* Finds the first stop text; the answer ends before it. */
static bool find_stop(struct lane *lane, size_t from)
{
    const struct request *r = &lane->job->request;
    const char *first = NULL;
    if (lane->raw.n == 0) return false;
    for (int i = 0; i < r->n_stops; i++) {
        size_t n = strlen(r->stops[i]), start = from > n ? from - n : 0;
        if (start < lane->n_split) start = lane->n_split;
        const char *at = memmem(lane->raw.bytes + start, lane->raw.n - start, r->stops[i], n);
        if (!at || (first && at >= first)) continue;
        first = at;
        lane->stop_word = r->stops[i];
    }
    if (first) lane->raw.n = (size_t)(first - lane->raw.bytes);
    return first != NULL;
}

/* Splits raw[n_split, end) into thoughts and content; `last`: nothing will follow. */
static void split(struct lane *lane, size_t end, bool last)
{
    while (lane->n_split < end) {
        const char *at = lane->raw.bytes + lane->n_split;
        size_t n = end - lane->n_split, blank = 0;
        while (blank < n && strchr(" \n\r\t", at[blank]) && at[blank]) blank++;
        switch (lane->text_state) {
        case TEXT_BEGIN:
            if (n - blank >= sizeof think_open - 1 &&
                memcmp(at + blank, think_open, sizeof think_open - 1) == 0) {
                lane->n_split += blank + sizeof think_open - 1;
                lane->text_state = TEXT_THOUGHT;
                lane->had_thought = true;
            } else if (!last && (n == blank || (n - blank < sizeof think_open - 1 &&
                                                memcmp(at + blank, think_open, n - blank) == 0))) {
                return;
            } else
                lane->text_state = TEXT_CONTENT;
            break;
        case TEXT_THOUGHT: {
            const char *close = memmem(at, n, think_close, sizeof think_close - 1);
            size_t n_thought = close ? (size_t)(close - at) : n - (last ? 0 : held_back(at, n, think_close));
            put(&lane->thought, at, n_thought);
            lane->n_split += n_thought + (close ? sizeof think_close - 1 : 0);
            if (!close) return;
            lane->text_state = TEXT_AFTER_THOUGHT;
            break;
        }
        case TEXT_AFTER_THOUGHT:
            lane->n_split += blank;
            if (blank < n) lane->text_state = TEXT_CONTENT;
            break;
        case TEXT_CONTENT: put(&lane->content, at, n); lane->n_split = end;
        }
    }
}

static void advance(struct lane *lane, bool last)
{
    const struct request *r = &lane->job->request;
    size_t end = last ? lane->raw.n : utf8_showable(lane->raw.bytes, lane->raw.n), most = 0;
    for (int i = 0; i < r->n_stops && !last; i++) {
        size_t k = held_back(lane->raw.bytes, lane->raw.n, r->stops[i]);
        if (k > most) most = k;
    }
    if (lane->raw.n - most < end) end = lane->raw.n - most;
    /* what is held back may begin inside of a character */
    if (!last) end = utf8_showable(lane->raw.bytes, end);
    if (end > lane->n_split)
        split(lane, end, last);
    else if (last)
        split(lane, lane->raw.n, true);
}

/* ------------------------------------------------------------------------------------------- log-probs -- */

struct top {
    kvant_token id;
    float logit;
};

/* The n largest logits, in order. */
static int largest(const float *logits, int n_vocab, struct top *top, int n)
{
    int count = 0;
    for (int i = 0; i < n_vocab; i++) {
        if (count == n && !(logits[i] > top[n - 1].logit)) continue;
        int k = count < n ? count++ : n - 1;
        for (; k > 0 && logits[i] > top[k - 1].logit; k--) top[k] = top[k - 1];
        top[k] = (struct top){ i, logits[i] };
    }
    return count;
}

static json_t *token_json(const struct server *s, kvant_token id, double logprob, bool with_id)
{
    char text[1024];
    size_t n = 0;
    if (kvant_detokenize(s->model, &id, 1, true, text, sizeof text, &n, NULL) != KVANT_OK) n = 0;
    json_t *bytes = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(bytes, json_integer((unsigned char)text[i]));
    json_t *out = json_pack("{s:o, s:o, s:o}", "token", json_text(text, n), "logprob",
                            json_real(logprob < -9999.0 ? -9999.0 : logprob), "bytes", bytes);
    if (with_id) json_object_set_new(out, "id", json_integer(id));
    return out;
}

static void add_logprobs(const struct server *s, struct lane *lane, kvant_token id, const float *logits)
{
    const struct request *r = &lane->job->request;
    int n_vocab = s->info.n_vocab;
    float most = -INFINITY;
    double sum = 0.0, weighted = 0.0;
    for (int i = 0; i < n_vocab; i++) most = fmaxf(most, logits[i]);
    for (int i = 0; i < n_vocab; i++) {
        double x = (double)logits[i] - (double)most, w = exp(x);
        sum += w;
        weighted += w * x;
    }
    double scale = (double)most + log(sum), logprob = (double)logits[id] - scale, p = exp(logprob);
    lane->sum_logprob += logprob;
    lane->sum_entropy += log(sum) - weighted / sum;
    if (p < lane->min_prob) lane->min_prob = p;
    if (!lane->logprobs) return;
    struct top top[SERVE_TOP_MAX];
    int n_top = r->n_top ? largest(logits, n_vocab, top, r->n_top) : 0;
    json_t *entry = token_json(s, id, logprob, true), *list = json_array();
    for (int i = 0; i < n_top; i++)
        json_array_append_new(list, token_json(s, top[i].id, (double)top[i].logit - scale, true));
    json_object_set_new(entry, "top_logprobs", list);
    json_array_append_new(lane->logprobs, entry);
}

void answer_token(const struct server *s, struct lane *lane, kvant_token id, const float *logits)
{
    const struct request *r = &lane->job->request;
    char text[1024];
    size_t n = 0, before = lane->raw.n;
    if (r->logprobs || r->wants_confidence) add_logprobs(s, lane, id, logits);
    if (kvant_detokenize(s->model, &id, 1, false, text, sizeof text, &n, NULL) == KVANT_OK)
        put(&lane->raw, text, n);
    lane->n_thought += lane->text_state == TEXT_THOUGHT;
    if (find_stop(lane, before)) {
        lane->finish = "stop";
        lane->stop_type = "word";
    } else
        advance(lane, false);
}

static bool ends_with(const char *text, size_t n, const char *end)
{
    size_t n_end = strlen(end);
    while (n > 0 && strchr(" \n\t\r", text[n - 1])) n--;
    return n >= n_end && memcmp(text + n - n_end, end, n_end) == 0;
}

/* What is held back comes out first: what it might have become is cut short. Tags stand in the text itself
 * only where it is not split. */
void answer_force(const struct server *s, struct lane *lane, const kvant_token *ids, size_t n_ids)
{
    const struct request *r = &lane->job->request;
    char text[4096];
    size_t n = 0;
    if (kvant_detokenize(s->model, ids, n_ids, true, text, sizeof text, &n, NULL) != KVANT_OK) return;
    bool opens = ends_with(text, n, think_open), closes = ends_with(text, n, think_close);
    bool begins = lane->n_predicted == 0;
    if (lane->n_split < lane->raw.n) split(lane, lane->raw.n, true);
    if (opens && r->split_thinking) {
        lane->text_state = TEXT_THOUGHT;
        lane->had_thought = true;
    } else if (closes && (begins || r->split_thinking)) {
        lane->text_state = r->split_thinking ? TEXT_AFTER_THOUGHT : TEXT_CONTENT;
    } else if (!(opens && begins)) {
        put(&lane->raw, text, n);
        split(lane, lane->raw.n, true);
    }
    answer_stream(s, lane);
}

/* ------------------------------------------------------------------------------------------------ JSON -- */

/* What is new since the last call, as text; NULL: nothing. */
static json_t *fresh(const struct text_buffer *b, size_t *sent)
{
    if (b->n == *sent) return NULL;
    json_t *text = json_text(b->bytes + *sent, b->n - *sent);
    *sent = b->n;
    return text;
}

/* Log-probabilities of /v1/completions as the old API has them: parallel lists. */
static json_t *text_logprobs(json_t *entries, int64_t *offset)
{
    json_t *tokens = json_array(), *values = json_array(), *tops = json_array(), *offsets = json_array(),
           *entry, *t;
    size_t i, k;
    json_array_foreach(entries, i, entry)
    {
        json_t *top = json_object();
        json_array_append(tokens, json_object_get(entry, "token"));
        json_array_append(values, json_object_get(entry, "logprob"));
        json_array_append_new(offsets, json_integer(*offset));
        for (const char *c = json_string_value(json_object_get(entry, "token")); c && *c; c++)
            *offset += ((unsigned char)*c & 0xc0) != 0x80; /* characters */
        json_array_foreach(json_object_get(entry, "top_logprobs"), k, t)
        {
            const char *token = json_string_value(json_object_get(t, "token"));
            json_object_set(top, token, json_object_get(t, "logprob"));
        }
        json_array_append_new(tops, top);
    }
    json_decref(entries);
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", values, "top_logprobs", tops,
                     "text_offset", offsets);
}

/* The log-probabilities that were not sent yet; null when they were not asked for. */
static json_t *take_logprobs(struct lane *lane)
{
    if (!lane->logprobs) return json_null();
    json_t *entries = lane->logprobs;
    lane->logprobs = json_array();
    if (lane->job->request.kind == API_TEXT) return text_logprobs(entries, &lane->text_offset);
    return json_pack("{s:o, s:n}", "content", entries, "refusal");
}

static json_t *usage_json(const struct job *job)
{
    int64_t n_prompt = job->state.n_prompt, n = job->state.n_predicted;
    return json_pack("{s:I, s:I, s:I, s:{s:I}, s:{s:I}}", "prompt_tokens", (json_int_t)n_prompt,
                     "completion_tokens", (json_int_t)n, "total_tokens", (json_int_t)(n_prompt + n),
                     "prompt_tokens_details", "cached_tokens", (json_int_t)job->state.n_cached,
                     "completion_tokens_details", "reasoning_tokens", (json_int_t)job->state.n_thought);
}

static json_t *timings_json(const struct lane *lane)
{
    double now = clock_s(), prompt_ms = 1e3 * (lane->first_s - lane->started_s),
           ms = 1e3 * (now - lane->first_s);
    double n_read = (double)(lane->n_prompt - lane->n_cached), n = (double)lane->n_predicted;
    return json_pack("{s:I, s:I, s:f, s:f, s:f, s:I, s:f, s:f, s:f}", "cache_n", (json_int_t)lane->n_cached,
                     "prompt_n", (json_int_t)(lane->n_prompt - lane->n_cached), "prompt_ms", prompt_ms,
                     "prompt_per_token_ms", n_read > 0 ? prompt_ms / n_read : 0.0, "prompt_per_second",
                     prompt_ms > 0 ? 1e3 * n_read / prompt_ms : 0.0, "predicted_n",
                     (json_int_t)lane->n_predicted, "predicted_ms", ms, "predicted_per_token_ms",
                     n > 1 ? ms / (n - 1) : 0.0, "predicted_per_second", ms > 0 ? 1e3 * (n - 1) / ms : 0.0);
}

/* The additions beside OpenAI's fields: timings, the cache, confidence, what was decided about thinking. */
static void add_extensions(const struct server *s, const struct lane *lane, json_t *out)
{
    const struct request *r = &lane->job->request;
    const struct kvant_plan *plan = s->plans[lane->plan].plan;
    struct kvant_plan_memory memory;
    kvant_plan_get_memory(plan, (int64_t)lane->n_done > 0 ? (int64_t)lane->n_done : 1, &memory);
    json_object_set_new(out, "timings", timings_json(lane));
    json_object_set_new(out, "kv",
                        json_pack("{s:s, s:s, s:f, s:f, s:I, s:I}", "name", s->plans[lane->plan].name, "plan",
                                  kvant_plan_name(plan), "page_bits", memory.page_bits, "true_bits",
                                  memory.true_bits, "bytes", (json_int_t)memory.total_bytes, "tokens",
                                  (json_int_t)lane->n_done));
    double n = lane->n_predicted > 0 ? (double)lane->n_predicted : 1.0;
    if (r->wants_confidence) {
        json_t *confidence = json_pack(
            "{s:o, s:o, s:o, s:o}", "mean_logprob", json_number(lane->sum_logprob / n), "perplexity",
            json_number(exp(-lane->sum_logprob / n)), "min_probability", json_number(lane->min_prob),
            "mean_entropy", json_number(lane->sum_entropy / n));
        json_t *coe = json_pack("{s:o, s:o, s:o, s:o}", "tokens_r", json_number(lane->coe_tokens.r),
                                "tokens_c", json_number(lane->coe_tokens.c), "layers_r",
                                json_number(lane->coe_layers.r), "layers_c", json_number(lane->coe_layers.c));
        json_object_set_new(confidence, "kv_coe", coe);
        json_object_set_new(out, "confidence", confidence);
    }
    if (r->kind == API_CHAT) json_object_set_new(out, "think_decision", think_json(lane));
}

static json_t *envelope(const struct server *s, const struct job *job, const char *object)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s}", "id", job->request.id, "object", object, "created",
                     (json_int_t)job->request.created, "model", s->name, "system_fingerprint",
                     s->info.fingerprint);
}

static void send_event(struct job *job, json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(value);
    if (!text) return;
    size_t n = strlen(text);
    char *event = allocate(n + 9, 1);
    memcpy(event, "data: ", 6);
    memcpy(event + 6, text, n);
    memcpy(event + 6 + n, "\n\n", 3);
    job_put(job, event, n + 8);
    free(text);
    free(event);
}

static const char *chunk_object(const struct job *job)
{
    return job->request.kind == API_CHAT ? "chat.completion.chunk" : "text_completion";
}

/* One event with one choice; finish NULL: it goes on. extra: whether the extensions are added. */
static void send_choice(const struct server *s, struct lane *lane, json_t *fields, const char *finish)
{
    struct job *job = lane->job;
    json_t *event = envelope(s, job, chunk_object(job));
    json_object_set_new(fields, "index", json_integer(lane->choice));
    json_object_set_new(fields, "finish_reason", finish ? json_string(finish) : json_null());
    json_object_set_new(event, "choices", json_pack("[o]", fields));
    if (job->request.include_usage) json_object_set_new(event, "usage", json_null()); /* the last event's */
    if (finish) add_extensions(s, lane, event);
    send_event(job, event);
}

/* An answer that begins like a call of a tool is kept until it is whole. */
static bool may_be_call(const struct lane *lane)
{
    static const char open[] = "<tool_call>";
    size_t blank = 0, n = lane->content.n;
    if (!lane->job->request.has_tools || lane->content_sent > 0) return false;
    while (blank < n && strchr(" \n\r\t", lane->content.bytes[blank])) blank++;
    n = n - blank < sizeof open - 1 ? n - blank : sizeof open - 1;
    return n == 0 || memcmp(lane->content.bytes + blank, open, n) == 0;
}

static void stream_chat(const struct server *s, struct lane *lane)
{
    if (!lane->first_sent) {
        lane->first_sent = true;
        send_choice(s, lane,
                    json_pack("{s:{s:s, s:n}, s:n}", "delta", "role", "assistant", "content", "logprobs"),
                    NULL);
    }
    bool wait = may_be_call(lane) && !lane->finish;
    json_t *thought = fresh(&lane->thought, &lane->thought_sent);
    json_t *content = wait ? NULL : fresh(&lane->content, &lane->content_sent);
    if (thought)
        send_choice(s, lane, json_pack("{s:{s:o}, s:n}", "delta", "reasoning_content", thought, "logprobs"),
                    NULL);
    if (wait || (!content && !(lane->logprobs && json_array_size(lane->logprobs) > 0))) return;
    json_t *delta = json_object();
    if (content) json_object_set_new(delta, "content", content);
    send_choice(s, lane, json_pack("{s:o, s:o}", "delta", delta, "logprobs", take_logprobs(lane)), NULL);
}

void answer_stream(const struct server *s, struct lane *lane)
{
    struct job *job = lane->job;
    if (!job->request.stream) return;
    if (job->request.kind == API_CHAT) {
        stream_chat(s, lane);
        return;
    }
    json_t *text = fresh(&lane->content, &lane->content_sent);
    bool rest = lane->finish && lane->logprobs &&
                json_array_size(lane->logprobs) > 0; /* of tokens without text */
    if (!text && rest && job->request.kind == API_TEXT) text = json_string("");
    if (!text) return;
    if (job->request.kind == API_TEXT) {
        send_choice(s, lane, json_pack("{s:o, s:o}", "text", text, "logprobs", take_logprobs(lane)), NULL);
    } else {
        json_t *event = json_pack("{s:i, s:o, s:[], s:b}", "index", 0, "content", text, "tokens", "stop", 0);
        if (lane->logprobs) {
            json_t *entries = take_logprobs(lane);
            json_object_set(event, "completion_probabilities", json_object_get(entries, "content"));
            json_decref(entries);
        }
        send_event(job, event);
    }
}

/* --------------------------------------------------------------------------------------------- the end -- */

/* <tool_call>{"name": ..., "arguments": {...}}</tool_call> in the content become tool_calls; what is no
 * JSON stays. */
static json_t *take_tool_calls(struct lane *lane)
{
    static const char open[] = "<tool_call>", close[] = "</tool_call>";
    json_t *calls = NULL;
    struct text_buffer rest = { 0 };
    const char *at = lane->content.bytes, *end = at ? at + lane->content.n : at, *first;
    while (at && (first = memmem(at, (size_t)(end - at), open, sizeof open - 1)) != NULL) {
        const char *body = first + sizeof open - 1,
                   *stop = memmem(body, (size_t)(end - body), close, sizeof close - 1);
        size_t n_body = (size_t)((stop ? stop : end) - body);
        json_t *value = json_loadb(body, n_body, JSON_REJECT_DUPLICATES, NULL);
        const char *name = json_string_value(json_object_get(value, "name"));
        json_t *arguments = json_object_get(value, "arguments");
        if (!name || !arguments) {
            json_decref(value);
            break;
        }
        char id[80];
        if (!calls) calls = json_array();
        if (lane->job->request.one_call && json_array_size(calls) > 0) { /* it was asked for one at most */
            json_decref(value);
            at = end;
            break;
        }
        snprintf(id, sizeof id, "call_%.40s_%d_%zu", lane->job->request.id + 9, lane->choice,
                 json_array_size(calls));
        char *text = json_is_string(arguments) ? strdup(json_string_value(arguments))
                                               : json_dumps(arguments, JSON_COMPACT);
        json_array_append_new(calls, json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", id, "type", "function",
                                               "function", "name", name, "arguments", text ? text : "{}"));
        free(text);
        json_decref(value);
        put(&rest, at, (size_t)(first - at));
        at = stop ? stop + sizeof close - 1 : end;
    }
    if (!calls) {
        free(rest.bytes);
        return NULL;
    }
    put(&rest, at, (size_t)(end - at));
    while (rest.n > 0 && strchr(" \n\r\t", rest.bytes[rest.n - 1])) rest.n--;
    free(lane->content.bytes);
    lane->content = rest;
    return calls;
}

static json_t *chat_choice(struct lane *lane)
{
    json_t *calls = lane->job->request.has_tools ? take_tool_calls(lane) : NULL;
    json_t *message = json_pack("{s:s}", "role", "assistant");
    json_object_set_new(message, "content",
                        calls && lane->content.n == 0 ? json_null()
                                                      : json_text(lane->content.bytes, lane->content.n));
    if (lane->thought.n)
        json_object_set_new(message, "reasoning_content", json_text(lane->thought.bytes, lane->thought.n));
    json_object_set_new(message, "refusal", json_null()); /* as OpenAI's: always there, and never used */
    if (calls) json_object_set_new(message, "tool_calls", calls);
    return json_pack("{s:i, s:o, s:o, s:s}", "index", lane->choice, "message", message, "logprobs",
                     take_logprobs(lane), "finish_reason", calls ? "tool_calls" : lane->finish);
}

static json_t *text_choice(struct lane *lane)
{
    return json_pack("{s:i, s:o, s:o, s:s}", "index", lane->choice, "text",
                     json_text(lane->content.bytes, lane->content.n), "logprobs", take_logprobs(lane),
                     "finish_reason", lane->finish);
}

static json_t *native_answer(const struct server *s, struct lane *lane)
{
    const struct request *r = &lane->job->request;
    const kvant_token *ids = lane->tokens + lane->n_prompt;
    json_t *out = json_pack(
        "{s:i, s:o, s:o, s:i, s:b, s:s, s:I, s:I, s:o, s:b, s:s, s:s, s:I, s:b, s:{s:f, s:i, s:f, s:f, s:I}}",
        "index", 0, "content", json_text(lane->content.bytes, r->stream ? 0 : lane->content.n), "tokens",
        json_tokens(ids, r->return_tokens && !r->stream ? (size_t)lane->n_predicted : 0), "id_slot",
        lane->slot, "stop", 1, "model", s->name, "tokens_predicted", (json_int_t)lane->n_predicted,
        "tokens_evaluated", (json_int_t)lane->n_prompt, "prompt",
        json_text(r->prompt_text ? r->prompt_text : "", r->prompt_text ? strlen(r->prompt_text) : 0),
        "truncated", 0, "stop_type", lane->stop_type, "stopping_word", lane->stop_word ? lane->stop_word : "",
        "tokens_cached", (json_int_t)lane->n_done, "has_new_line",
        lane->content.n && memchr(lane->content.bytes, '\n', lane->content.n) != NULL, "generation_settings",
        "temperature", (double)r->sampler.temperature, "top_k", r->sampler.top_k, "top_p",
        (double)r->sampler.top_p, "min_p", (double)r->sampler.min_p, "n_predict", (json_int_t)r->n_predict);
    if (lane->logprobs) {
        json_t *entries = take_logprobs(lane);
        json_object_set(out, "completion_probabilities", json_object_get(entries, "content"));
        json_decref(entries);
    }
    add_extensions(s, lane, out);
    return out;
}

static void end_stream(const struct server *s, struct lane *lane)
{
    struct job *job = lane->job;
    const struct request *r = &job->request;
    const char *finish = lane->finish;
    json_t *calls = NULL;
    if (r->kind == API_NATIVE) {
        answer_stream(s, lane);
        send_event(job, native_answer(s, lane));
        return;
    }
    if (r->kind == API_CHAT && r->has_tools && lane->content_sent == 0) calls = take_tool_calls(lane);
    answer_stream(s, lane);
    if (calls) {
        size_t i;
        json_t *call;
        json_array_foreach(calls, i, call)
        {
            json_object_set_new(call, "index", json_integer((json_int_t)i));
            send_choice(s, lane, json_pack("{s:{s:[O]}, s:n}", "delta", "tool_calls", call, "logprobs"),
                        NULL);
        }
        json_decref(calls);
        finish = "tool_calls";
    }
    if (r->kind == API_CHAT)
        send_choice(s, lane, json_pack("{s:{}, s:n}", "delta", "logprobs"), finish);
    else
        send_choice(s, lane, json_pack("{s:s, s:n}", "text", "", "logprobs"), finish);
}

static void end_job(const struct server *s, struct lane *lane)
{
    struct job *job = lane->job;
    const struct request *r = &job->request;
    if (r->stream) {
        if (r->include_usage && r->kind != API_NATIVE) {
            json_t *event = envelope(s, job, chunk_object(job));
            json_object_set_new(event, "choices", json_array());
            json_object_set_new(event, "usage", usage_json(job));
            send_event(job, event);
        }
        if (r->kind != API_NATIVE) job_put(job, "data: [DONE]\n\n", 14);
        job_finish(job, 200);
        return;
    }
    json_t *out;
    if (r->kind == API_NATIVE) {
        out = native_answer(s, lane);
    } else {
        out = envelope(s, job, r->kind == API_CHAT ? "chat.completion" : "text_completion");
        json_object_set(out, "choices", job->state.choices);
        json_object_set_new(out, "usage", usage_json(job));
        add_extensions(s, lane, out);
    }
    job_finish_json(job, 200, out);
}

/* Choices finish in any order, and are listed by their index. */
static void add_choice(struct job *job, json_t *choice)
{
    if (!job->state.choices) job->state.choices = json_array();
    json_int_t index = json_integer_value(json_object_get(choice, "index"));
    size_t at = 0;
    while (at < json_array_size(job->state.choices) &&
           json_integer_value(json_object_get(json_array_get(job->state.choices, at), "index")) < index)
        at++;
    json_array_insert_new(job->state.choices, at, choice);
}

void answer_end(const struct server *s, struct lane *lane)
{
    struct job *job = lane->job;
    advance(lane, true);
    job->state.n_predicted += lane->n_predicted;
    job->state.n_thought += lane->n_thought;
    if (job->request.stream)
        end_stream(s, lane);
    else if (job->request.kind == API_CHAT)
        add_choice(job, chat_choice(lane));
    else if (job->request.kind == API_TEXT)
        add_choice(job, text_choice(lane));
    if (--job->state.n_left == 0) end_job(s, lane);
}
