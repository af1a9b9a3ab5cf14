/*
 * Thinking that a router decides about, in a lane: at the prompt's end, and once more while the answer is
 * written. The rules are those of `kvant run --think auto` (think.c); the tokens of a mode and of a turn
 * enter the cache like any others, so nothing is read again and no token is thrown away.
 */
#include <stdlib.h>
#include <string.h>

#include "serve_engine.h"

static void append(struct lane *lane, const struct mode_tokens *tokens)
{
    if (lane->n_tokens + tokens->n > lane->cap_tokens) {
        lane->cap_tokens = lane->n_tokens + tokens->n + 256;
        lane->tokens = reallocate(lane->tokens, lane->cap_tokens, sizeof *lane->tokens);
    }
    memcpy(lane->tokens + lane->n_tokens, tokens->ids, tokens->n * sizeof *tokens->ids);
    lane->n_tokens += tokens->n;
}

/* The mode is known: what it begins with is the prompt's end. */
static void begin_mode(const struct server *s, struct lane *lane, int mode)
{
    const struct mode_tokens *begin = &s->modes.begin[mode];
    lane->think.first = lane->think.last = mode;
    lane->think.undecided = false;
    append(lane, begin);
    lane->n_prompt = lane->n_tokens;
    int64_t room = s->n_ctx - (int64_t)lane->n_tokens;
    if (lane->n_predict_max > room) lane->n_predict_max = room;
    lane->think.n_prefix = (int64_t)begin->n;
    answer_force(s, lane, begin->ids, begin->n);
}

static bool look(struct lane *lane, double *d, int64_t *n_window, struct api_error *error)
{
    struct kvant_error err;
    return kvant_router_watch_next(lane->think.watch, d, n_window, &err) == KVANT_OK ||
           api_fail_library(error, &err);
}

static bool watch(const struct server *s, struct kvant_session *session, struct lane *lane,
                  struct api_error *error)
{
    struct kvant_error err;
    return kvant_router_watch_open(&lane->think.watch, s->router, session, lane->seq, &err) == KVANT_OK ||
           api_fail_library(error, &err);
}

/* Nothing is left to decide. */
static void stop_watching(struct lane *lane)
{
    kvant_router_watch_close(lane->think.watch);
    lane->think.watch = NULL;
}

bool think_decide(const struct server *s, struct kvant_session *session, struct lane *lane,
                  struct api_error *error)
{
    const struct request *r = &lane->job->request;
    struct lane_think *t = &lane->think;
    int mode = r->route == ROUTE_SLOW ? MODE_SLOW : MODE_FAST;
    if (r->route == ROUTE_AUTO) {
        if (!watch(s, session, lane, error) || !look(lane, &t->d_first, &t->n_window, error)) return false;
        mode = think_first(&s->options.think, t->d_first);
        bool never = r->wants_json && mode == MODE_FAST; /* no thoughts inside of JSON */
        if (s->options.think.every == 0 || never) stop_watching(lane);
    }
    begin_mode(s, lane, mode);
    if (lane->choice == 0) lane->job->state.n_prompt += t->n_prefix; /* the prompt is counted once */
    return true;
}

bool think_follow(const struct server *s, struct kvant_session *session, struct lane *lane,
                  const struct lane *leader, struct api_error *error)
{
    if (leader->think.first < 0) return true;
    lane->think.d_first = leader->think.d_first;
    lane->think.n_window = leader->think.n_window;
    begin_mode(s, lane, leader->think.first);
    return !leader->think.watch || watch(s, session, lane, error);
}

bool think_turn_over(const struct server *s, struct lane *lane, bool *turned, struct api_error *error)
{
    const struct think_flags *flags = &s->options.think;
    struct lane_think *t = &lane->think;
    double d;
    int64_t n_window;
    *turned = false;
    const struct text_buffer *raw = &lane->raw;
    if (raw->n > 0 && memmem(raw->bytes, raw->n, "</think>", 8)) { /* its thoughts have ended by themselves */
        stop_watching(lane);
        return true;
    }
    if (lane->n_predicted % flags->every != 0) return true;
    if (!look(lane, &d, &n_window, error)) return false;
    int mode = think_turn(flags, t->last, d);
    if (mode < 0) return true;
    const struct mode_tokens *turn = &s->modes.turn[mode];
    int64_t room = s->n_ctx - (int64_t)(lane->n_tokens + turn->n);
    if (room <= 0) return true;
    t->last = mode;
    t->d_turn = d;
    t->switch_point = lane->n_predicted;
    t->n_forced = (int64_t)turn->n;
    append(lane, turn);
    answer_force(s, lane, turn->ids, turn->n);
    if (lane->n_predict_max > lane->n_predicted + room) lane->n_predict_max = lane->n_predicted + room;
    stop_watching(lane);
    *turned = true;
    return true;
}

json_t *think_json(const struct lane *lane)
{
    const struct request *r = &lane->job->request;
    const struct lane_think *t = &lane->think;
    json_t *out = json_pack("{s:s, s:b, s:I, s:i}", "mode", r->think_mode, "thought", (int)lane->had_thought,
                            "thinking_tokens", (json_int_t)lane->n_thought, "discarded_tokens", 0);
    bool decided = t->first >= 0, scored = decided && r->route == ROUTE_AUTO, turned = t->first != t->last;
    json_object_set_new(out, "decision", decided ? json_string(mode_names[t->first]) : json_null());
    json_object_set_new(out, "score", scored ? json_real(t->d_first) : json_null());
    json_object_set_new(out, "window_tokens", scored ? json_integer(t->n_window) : json_null());
    json_object_set_new(out, "prefix_tokens", json_integer(t->n_prefix));
    json_object_set_new(out, "switch_point", turned ? json_integer(t->switch_point) : json_null());
    json_object_set_new(out, "switch_to", turned ? json_string(mode_names[t->last]) : json_null());
    json_object_set_new(out, "switch_score", turned ? json_real(t->d_turn) : json_null());
    json_object_set_new(out, "forced_tokens", json_integer(t->n_forced));
    return out;
}
