#include "scores.h"

#include <string.h>

#include "json.h"

const char *const score_names[SCORES] = {
    "kv-coe-tokens-r",
    "kv-coe-tokens-c",
    "kv-coe-layers-r",
    "kv-coe-layers-c",
    "maxprob",
    "ppl",
    "entropy",
    "logprob",
    "length",
    "hidden-coe-tokens-r",
    "hidden-coe-tokens-c",
    "hidden-coe-layers-r",
    "hidden-coe-layers-c",
    "hidden-coe-layers-bos-r",
    "hidden-coe-layers-bos-c",
};

void scores_of(const struct kvant_answer_score *answer, double scores[SCORES])
{
    struct kvant_confidence mean;
    kvant_confidence_mean(&answer->confidence, &mean);
    const double values[SCORES] = {
        answer->kv_tokens.r,
        answer->kv_tokens.c,
        answer->kv_layers.r,
        answer->kv_layers.c,
        mean.max_prob,
        mean.log_max_prob,
        -mean.entropy,
        mean.log_prob,
        -(double)mean.n,
        answer->hidden_tokens.r,
        answer->hidden_tokens.c,
        answer->hidden_layers.r,
        answer->hidden_layers.c,
        answer->hidden_layers_bos.r,
        answer->hidden_layers_bos.c,
    };
    memcpy(scores, values, sizeof values);
}

int score_find(const char *name)
{
    for (int i = 0; i < SCORES; i++)
        if (strcmp(name, score_names[i]) == 0) return i;
    return -1;
}

json_t *scores_json(const double scores[SCORES], int n)
{
    json_t *object = json_object();
    for (int i = 0; i < n; i++) json_object_set_new(object, score_names[i], json_number(scores[i]));
    return object;
}
