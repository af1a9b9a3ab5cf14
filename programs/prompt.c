#include "prompt.h"

#include <stdlib.h>
#include <string.h>

/* A conversation as text; free() it. NULL after a message. */
static char *render(const struct kvant_model *model, const char *chat_template,
                    const struct kvant_message *messages, size_t n_messages, size_t *n_bytes)
{
    struct kvant_error err;
    struct kvant_template *chat = NULL;
    if (chat_template && kvant_template_open(&chat, model, chat_template, &err) != KVANT_OK) {
        fail(&err);
        return NULL;
    }
    size_t n = 0, cap = 1024;
    for (size_t i = 0; i < n_messages; i++) cap += strlen(messages[i].content) + 128;
    char *text = NULL;
    kvant_status status = KVANT_ERR_SPACE;
    for (int i = 0; i < 2 && status == KVANT_ERR_SPACE; i++) {
        if (i > 0) cap = n + 1;
        text = reallocate(text, cap, 1);
        status = chat ? kvant_template_chat(chat, messages, n_messages, true, text, cap, &n, &err)
                      : kvant_chat_render(model, messages, n_messages, true, text, cap, &n, &err);
    }
    kvant_template_close(chat);
    if (status != KVANT_OK) {
        if (!chat_template && (status == KVANT_ERR_UNSUPPORTED || status == KVANT_ERR_FORMAT))
            fail_text("%s; --chat-template chatml (or llama3, mistral, ...) or --raw goes around it",
                      err.message);
        else fail(&err);
        free(text);
        return NULL;
    }
    *n_bytes = strnlen(text, n);
    return text;
}

static int tokenize(const struct kvant_model *model, const char *text, size_t n_bytes, int flags,
                    kvant_token **ids, size_t *n_ids)
{
    struct kvant_error err;
    return tokens_of_text(model, text, n_bytes, flags, ids, n_ids, &err) == KVANT_OK ? EXIT_OK : fail(&err);
}

int prompt_tokens(const struct kvant_model *model, const char *chat_template, const char *system,
                  const char *text, size_t n_bytes, bool raw, kvant_token **ids, size_t *n_ids)
{
    *ids = NULL;
    *n_ids = 0;
    if (raw) return tokenize(model, text, n_bytes, KVANT_TOKENIZE_BOS | KVANT_TOKENIZE_SPECIAL, ids, n_ids);
    if (memchr(text, 0, n_bytes)) return fail_text("the prompt contains a zero byte; remove it or use --raw");
    struct kvant_message messages[2] = {{"system", system}, {"user", text}};
    size_t n_rendered, first = system ? 0 : 1;
    char *rendered = render(model, chat_template, messages + first, 2 - first, &n_rendered);
    if (!rendered) return EXIT_FAILED;
    int code = tokenize(model, rendered, n_rendered, KVANT_TOKENIZE_BOS | KVANT_TOKENIZE_SPECIAL, ids, n_ids);
    free(rendered);
    return code;
}

int prompt_tokens_next(const struct kvant_model *model, const char *chat_template, const char *text,
                       kvant_token **ids, size_t *n_ids)
{
    /* What a format puts after an answer does not depend on what the answer says: render a conversation whose
     * answer is empty, and the same one up to that answer; what is longer in the first is wanted. The answer
     * itself keeps the tokens that were generated, which may differ from those of its text. */
    *ids = NULL;
    *n_ids = 0;
    const struct kvant_message messages[3] = {{"user", "x"}, {"assistant", ""}, {"user", text}};
    size_t n_long = 0, n_short = 0;
    char *longer = render(model, chat_template, messages, 3, &n_long);
    char *shorter = longer ? render(model, chat_template, messages, 1, &n_short) : NULL;
    int code = EXIT_FAILED;
    if (shorter && n_short <= n_long && memcmp(longer, shorter, n_short) == 0)
        code = tokenize(model, longer + n_short, n_long - n_short, KVANT_TOKENIZE_SPECIAL, ids, n_ids);
    else if (shorter)
        fail_text("the chat format of this model cannot be continued; use kvant run");
    free(longer);
    free(shorter);
    return code;
}
