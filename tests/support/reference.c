#include "support/reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void check(kvant_status status, const char *what, const struct kvant_error *err)
{
    if (status == KVANT_OK) return;
    print_error("%s: %s\n", what, err->message);
    fail();
}

bool reference_find_model(const char *file, char *path, size_t cap)
{
    const char *folder = getenv("KVANT_MODELS");
    int n = snprintf(path, cap, "%s/%s", folder && *folder ? folder : "models", file);
    assert_true(n > 0 && (size_t)n < cap);
    if (access(path, R_OK) == 0) return true;
    print_message("%s is missing: tools/get-model fetches it\n", path);
    return false;
}

json_t *reference_load(const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);
    if (!root) {
        print_error("%s:%d: %s\n", path, error.line, error.text);
        fail();
    }
    return root;
}

kvant_token *reference_tokens(const json_t *array, int *n)
{
    *n = (int)json_array_size(array);
    kvant_token *tokens = calloc((size_t)*n + 1, sizeof *tokens);
    assert_non_null(tokens);
    for (int i = 0; i < *n; i++)
        tokens[i] = (kvant_token)json_integer_value(json_array_get(array, (size_t)i));
    return tokens;
}

struct kvant_model *reference_open_model(const char *path, kvant_act act, kvant_attn attn)
{
    struct kvant_model_options opt = KVANT_MODEL_OPTIONS_INIT;
    struct kvant_model *model = NULL;
    struct kvant_error err = { .message = "" };
    opt.act = act;
    opt.attn = attn;
    check(kvant_model_open(&model, path, &opt, &err), path, &err);
    return model;
}

struct kvant_plan *reference_open_plan(const struct kvant_model *model, const char *spec)
{
    struct kvant_plan *plan = NULL;
    struct kvant_error err = { .message = "" };
    check(kvant_plan_open(&plan, model, spec, &err), spec, &err);
    return plan;
}

void reference_logits(const struct kvant_model *model, const struct kvant_plan *plan,
                      const kvant_token *tokens, int n, int row_first, float *logits)
{
    struct kvant_session_options opt = KVANT_SESSION_OPTIONS_INIT;
    struct kvant_session *session = NULL;
    struct kvant_model_info info;
    struct kvant_error err = { .message = "" };
    int seq;
    kvant_model_get_info(model, &info);
    opt.n_logits = n - row_first;
    opt.n_sequences = 1;
    check(kvant_session_open(&session, model, &opt, &err), "session", &err);
    check(kvant_sequence_open(session, plan, n, &seq, &err), "sequence", &err);
    struct kvant_batch_entry *entries = calloc((size_t)n, sizeof *entries);
    assert_non_null(entries);
    for (int i = 0; i < n; i++) entries[i] = (struct kvant_batch_entry){ seq, tokens[i], i >= row_first };
    check(kvant_session_step(session, entries, (size_t)n, &err), "step", &err);
    size_t row_bytes = (size_t)info.n_vocab * sizeof *logits;
    for (int i = 0; i < n - row_first; i++) {
        const float *row = kvant_session_logits(session, i);
        assert_non_null(row);
        memcpy(logits + (size_t)i * (size_t)info.n_vocab, row, row_bytes);
    }
    free(entries);
    kvant_session_close(session);
}
