#include "think.h"

#include <stdlib.h>
#include <string.h>

int think_router_open(struct kvant_router **router, struct modes *modes, const struct kvant_model *model,
                      const struct think_flags *flags)
{
    struct kvant_error err;
    struct kvant_router_info info;
    const char *path = flags->router_path;
    if (kvant_router_open(router, model, path, &err) != KVANT_OK) return fail(&err);
    kvant_router_get_info(*router, &info);
    if (info.hidden) return fail_text("%s was trained on hidden states, which no cache holds", path);
    int code = modes_open(modes, model, flags->modes);
    if (code == EXIT_OK && strcmp(modes->name, info.modes) != 0)
        code = fail_text("%s was trained with the modes %s, not %s; give --modes %s", path, info.modes,
                         modes->name, info.modes);
    return code;
}

int think_first(const struct think_flags *f, double d)
{
    return d > f->threshold ? MODE_SLOW : MODE_FAST;
}

int think_turn(const struct think_flags *f, int mode, double d)
{
    if (mode == MODE_SLOW && d < f->threshold - f->margin) return MODE_FAST;
    if (mode == MODE_FAST && d > f->threshold + f->margin) return MODE_SLOW;
    return -1;
}

struct thinker {
    struct generator *g;
    const struct modes *modes;
    const struct think_flags *flags;
    struct kvant_router_watch *watch;
    struct generator_text text;
    struct answer *answer;
    struct think_account *account;
    int mode;
};

static kvant_status look(struct thinker *t, double *d, int64_t *n_window, struct kvant_error *err)
{
    double started_s = clock_s();
    kvant_status status = kvant_router_watch_next(t->watch, d, n_window, err);
    t->account->check_s += clock_s() - started_s;
    t->account->n_checks++;
    return status;
}

/* Tokens that nobody sampled. */
static kvant_status force(struct thinker *t, const struct mode_tokens *tokens, bool show,
                          struct kvant_error *err)
{
    for (size_t i = 0; show && i < tokens->n; i++) {
        kvant_status status = generator_text_add(t->g, &t->text, t->answer, tokens->ids[i], err);
        if (status != KVANT_OK) return status;
    }
    return generator_evaluate(t->g, tokens->ids, tokens->n, err);
}

/* Which mode a running answer should turn to; −1: none. */
static kvant_status turn_wanted(struct thinker *t, int64_t n_part, int *mode, struct kvant_error *err)
{
    const struct think_flags *f = t->flags;
    double d;
    int64_t n_window;
    *mode = -1;
    if (f->every == 0 || t->account->turned || n_part % f->every != 0) return KVANT_OK;
    kvant_status status = look(t, &d, &n_window, err);
    if (status != KVANT_OK) return status;
    *mode = think_turn(f, t->mode, d);
    if (*mode >= 0) t->account->d_turn = d;
    return KVANT_OK;
}

/* One part, in one mode, up to its end, a cap, or a turn. *turn: the mode to go on in, −1: the answer is
 * complete. */
static kvant_status part(struct thinker *t, int64_t n_predict, int64_t *n_out, int *turn,
                         struct kvant_error *err)
{
    struct think_account *a = t->account;
    *turn = -1;
    t->answer->finish_reason = "length";
    for (int64_t n = 0; n < t->flags->most[t->mode]; *n_out = ++n) {
        if (n_predict >= 0 && a->n_kept + a->n_second + n >= n_predict) break;
        kvant_token id = generator_choose(t->g);
        a->n_steps++;
        if (kvant_token_is_end(t->g->model, id)) {
            t->answer->finish_reason = "stop";
            return KVANT_OK;
        }
        kvant_status status = generator_text_add(t->g, &t->text, t->answer, id, err);
        if (status != KVANT_OK) return status;
        if (interrupted() || t->g->n_tokens >= t->g->n_ctx) {
            t->answer->finish_reason = interrupted() ? "interrupted" : "length";
            *n_out = n + 1;
            return KVANT_OK;
        }
        status = generator_evaluate(t->g, &id, 1, err);
        if (status == KVANT_OK) status = turn_wanted(t, n + 1, turn, err);
        if (status != KVANT_OK) return status;
        if (*turn >= 0 && t->g->n_tokens + (int64_t)t->modes->turn[*turn].n >= t->g->n_ctx) *turn = -1;
        if (*turn >= 0) {
            *n_out = n + 1;
            return KVANT_OK;
        }
    }
    return KVANT_OK;
}

static kvant_status think(struct thinker *t, int64_t n_predict, struct kvant_error *err)
{
    struct think_account *a = t->account;
    int turn = -1;
    kvant_status status = look(t, &a->d_first, &a->n_window, err);
    if (status != KVANT_OK) return status;
    t->mode = a->first = a->last = think_first(t->flags, a->d_first);
    a->n_prefix = (int64_t)t->modes->begin[t->mode].n;
    status = force(t, &t->modes->begin[t->mode], false, err);
    int64_t n = 0;
    if (status == KVANT_OK) status = part(t, n_predict, &n, &turn, err);
    a->n_kept = n;
    if (status != KVANT_OK || turn < 0) return status;
    t->mode = a->last = turn;
    a->turned = true;
    a->n_forced = (int64_t)t->modes->turn[turn].n;
    status = force(t, &t->modes->turn[turn], true, err);
    n = 0;
    if (status == KVANT_OK) status = part(t, n_predict, &n, &turn, err);
    a->n_second = n;
    return status;
}

int think_answer(struct generator *g, const struct kvant_router *router, const struct modes *modes,
                 const struct think_flags *flags, const kvant_token *prompt, size_t n_prompt,
                 int64_t n_predict, FILE *out, struct answer *answer, struct think_account *account)
{
    struct kvant_error err;
    *answer = (struct answer){.n_prompt = n_prompt, .finish_reason = "length", .text = allocate(1, 1)};
    *account = (struct think_account){0};
    size_t longest = modes->begin[0].n > modes->begin[1].n ? modes->begin[0].n : modes->begin[1].n;
    if (n_prompt == 0) return fail_text("the prompt is empty: there is nothing to decide on; give -p TEXT");
    if ((int64_t)(n_prompt + longest) > g->n_ctx - g->n_tokens)
        return fail_text(
            "the prompt has %zu tokens, the mode %zu, and the context room for %lld; raise it with -c",
            n_prompt, longest, (long long)(g->n_ctx - g->n_tokens));
    struct thinker t = {
        .g = g, .modes = modes, .flags = flags, .answer = answer, .account = account, .text = {.out = out}};
    double started_s = clock_s();
    kvant_status status = generator_evaluate(g, prompt, n_prompt, &err);
    answer->prompt_s = clock_s() - started_s;
    started_s = clock_s();
    if (status == KVANT_OK) status = kvant_router_watch_open(&t.watch, router, g->session, g->seq, &err);
    if (status == KVANT_OK) status = think(&t, n_predict, &err);
    generator_text_end(&t.text, answer);
    kvant_router_watch_close(t.watch);
    answer->generation_s = clock_s() - started_s;
    answer->n_steps = (size_t)account->n_steps;
    account->truncated = strcmp(answer->finish_reason, "length") == 0;
    if (status == KVANT_ERR_CANCELLED) answer->finish_reason = "interrupted";
    return status == KVANT_OK || status == KVANT_ERR_CANCELLED ? EXIT_OK : fail(&err);
}

void think_put_counts(json_t *object, const struct think_account *a)
{
    const struct {
        const char *name;
        int64_t n;
    } counts[] = {
        { "n_prefix", a->n_prefix },       { "n_first_kept", a->n_kept }, { "n_discarded", a->n_discarded },
        { "n_forced", a->n_forced },       { "n_second", a->n_second },   { "n_reprefill", a->n_reprefill },
        { "n_checks", a->n_checks },       { "n_sampled", a->n_steps },
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(object, counts[i].name, json_integer((json_int_t)counts[i].n));
    json_object_set_new(object, "truncated", json_boolean(a->truncated));
}
