/*
 * The engine and its lanes: one sequence each that is being read or written. All of it belongs to the
 * engine's thread.
 */
#ifndef SERVE_ENGINE_H
#define SERVE_ENGINE_H

#include "json_guard.h"
#include "serve.h"

enum text_state { TEXT_BEGIN, TEXT_THOUGHT, TEXT_AFTER_THOUGHT, TEXT_CONTENT };

struct text_buffer {
    char *bytes;
    size_t n, cap;
};

/* What the router decided. */
struct lane_think {
    struct kvant_router_watch *watch; /* NULL: it does not look (again)                    */
    bool undecided;                   /* until the prompt's end is there                   */
    int first, last;                  /* modes; -1: no router had a say                    */
    double d_first, d_turn;           /* difficulty at the prompt's end, and at the turn   */
    int64_t n_window, n_prefix, n_forced;
    int64_t switch_point; /* tokens of the answer before the turn                          */
};

struct lane {
    struct job *job;     /* NULL: free                                                     */
    int slot;            /* its number                                                     */
    int choice, prompt;  /* index in the answer; of the prompt                             */
    struct lane *leader; /* waits for this lane to read their common prompt; NULL          */
    int seq;             /* -1: none yet                                                   */
    int plan;
    kvant_token *tokens; /* prompt and answer                                              */
    size_t n_tokens, cap_tokens, n_prompt;
    size_t n_done;   /* of them in the sequence                                        */
    size_t n_cached; /* of those taken over from earlier requests                      */
    int64_t n_predicted, n_predict_max;
    struct kvant_sampler *sampler;
    double started_s, first_s; /* taken up; first token of the answer                            */
    const char *finish;        /* NULL: goes on; "stop", "length"                                */
    const char *stop_type;     /* "eos", "word", "limit", "none"                                 */
    const char *stop_word;     /* borrowed from the request                                      */

    struct text_buffer raw, content, thought; /* answer as generated; split into what is shown     */
    size_t n_split; /* of raw, split already                                          */
    size_t content_sent, thought_sent;
    enum text_state text_state;
    bool had_thought;
    int64_t n_thought; /* tokens of thoughts                                             */
    json_t *logprobs;  /* entries not sent yet; NULL: not asked for                      */
    double sum_logprob, sum_entropy, min_prob;
    struct kvant_coe coe_tokens, coe_layers; /* of the answer, when its confidence is wanted         */
    int64_t text_offset; /* characters of the tokens whose log-probabilities were taken     */
    bool first_sent;
    struct lane_think think;
    struct json_guard json; /* of the content so far, where it has to be JSON               */
    bool json_begun;        /* thoughts come before                                          */
};

/* serve_answer.c: from tokens to what clients read. */
void answer_begin(const struct server *s, struct lane *lane);
/* A token was chosen; its bytes are added, and lane->finish is set when a stop text is met. */
void answer_token(const struct server *s, struct lane *lane, kvant_token id, const float *logits);
/* Tokens that nobody sampled, before the answer or in it. The tags of thoughts are kept out of the text. */
void answer_force(const struct server *s, struct lane *lane, const kvant_token *ids, size_t n);
/* Sends what can be shown. */
void answer_stream(const struct server *s, struct lane *lane);
/* The lane is finished; the last one of a job finishes the job. */
void answer_end(const struct server *s, struct lane *lane);
void answer_clear(struct lane *lane);

/* serve_think.c. All are false after a failure. decide: the prompt's end is in the sequence; tokens are
 * appended that have to be read. follow: the sequence is that of a lane that has decided, forked. turn_over:
 * before a token is chosen; *turned: tokens were appended that have to be read first. */
bool think_decide(const struct server *s, struct kvant_session *session, struct lane *lane,
                  struct api_error *error);
bool think_follow(const struct server *s, struct kvant_session *session, struct lane *lane,
                  const struct lane *leader, struct api_error *error);
bool think_turn_over(const struct server *s, struct lane *lane, bool *turned, struct api_error *error);
json_t *think_json(const struct lane *lane); /* think_decision */

/* serve_json.c: bytes of every token, made when they are first needed. */
struct pieces {
    char *bytes;
    size_t *offsets; /* (n_vocab + 1) */
};
void pieces_close(struct pieces *p);
/* Bars the tokens that cannot stand next, in logits (n_vocab). False: none can. */
bool json_bar(const struct server *s, struct pieces *p, struct lane *lane, float *logits);
/* A token was chosen: false when it could not stand here; *done: the object is closed. */
bool json_take(const struct pieces *p, struct lane *lane, kvant_token id, bool *done);
/* Whether the lane's next token has to keep to JSON. */
bool json_wanted(const struct lane *lane);

/* serve_embed.c: vectors of texts. Each is pooled from its lane's sequence, and kept in the job as JSON. */
bool embed_row(const struct server *s, struct kvant_session *session, struct lane *lane,
               struct api_error *error);
/* All are there: answers and finishes. */
void embed_finish(const struct server *s, struct job *job);

/* serve_prefix.c: sequences of finished answers, kept for requests that begin alike. */
struct prefix {
    int seq, plan, slot;
    kvant_token *tokens;
    size_t n_tokens;
    int64_t bytes;
    double used_s;
};

struct prefixes {
    struct prefix *items;
    size_t n, cap;
    int64_t bytes;
};

/* Takes over seq and tokens. Older entries beyond the budgets (bytes, number) are closed. */
void prefixes_add(struct prefixes *p, struct kvant_session *session, struct prefix entry,
                  int64_t budget_bytes, size_t n_max);
/* The entry of the longest common beginning, at least 1 token, in *n_common; NULL: none. */
struct prefix *prefixes_find(struct prefixes *p, int plan, const kvant_token *tokens, size_t n_tokens,
                             size_t *n_common);
/* Closes the least recently used entry; false: there is none. */
bool prefixes_evict(struct prefixes *p, struct kvant_session *session);
/* Entries of a slot (-1: all). Returns how many tokens they held. */
int64_t prefixes_erase(struct prefixes *p, struct kvant_session *session, int slot);
struct prefix *prefixes_of_slot(struct prefixes *p, int slot);
void prefixes_close(struct prefixes *p, struct kvant_session *session);
size_t tokens_common(const kvant_token *a, size_t n_a, const kvant_token *b, size_t n_b);

/* Sequences that the session can hold beside the lanes': prefixes. */
#define PREFIXES_MAX 96

struct engine {
    struct server *server;
    struct kvant_session *session;
    struct lane *lanes; /* (n_parallel)                                            */
    int n_lanes;
    struct prefixes prefixes;
    struct kvant_batch_entry *entries; /* (n_batch)                                             */
    struct lane **asked;               /* (n_lanes) whose logits the step gives, in order         */
    int n_asked;
    float *logits; /* (n_vocab) with biases and penalties                     */
    bool *seen;    /* (n_vocab) false between calls                           */
    struct pieces pieces;
    kvant_token *ends; /* (n_ends) tokens that end an answer                      */
    int n_ends;
    double watched_s, published_s;
};

/* serve_slots.c */
void slot_save(struct engine *e, struct job *job);
void slot_restore(struct engine *e, struct job *job);
void slot_erase(struct engine *e, struct job *job);

#endif
