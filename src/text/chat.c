#include "text/chat.h"

#include <string.h>

#include "base/memory.h"
#include "text/jinja.h"

struct kvant_template {
    struct kv_jinja *jinja;
    const struct kv_tokenizer *tokenizer; /* NULL: none */
    char *source;
};

/* -------------------------------------------------------------------------------------------- built in -- */

#define ALTERNATE                                                                                            \
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"                                         \
    "{{ raise_exception('user and assistant must take turns, the user first') }}{% endif %}"

/* In the words of the families' own templates; without tools. */
static const struct {
    const char *name, *source;
} builtin[] = {
    { "chatml",
      "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
      "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif "
      "%}" },
    { "llama3", "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
                "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% "
                "endif %}" },
    { "llama2",
      "{% if messages and messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\\n' + "
      "messages[0]['content'] + "
      "'\\n<</SYS>>\\n\\n' %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
      "{% for message in messages %}" ALTERNATE
      "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + "
      "((system if loop.first else '') + message['content']).strip() + ' [/INST]' }}{% else %}"
      "{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}" },
    { "mistral", "{% if messages and messages[0]['role'] == 'system' %}{% set system = "
                 "messages[0]['content'] + '\\n\\n' %}"
                 "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{{ bos_token }}"
                 "{% for message in messages %}" ALTERNATE "{% if message['role'] == 'user' %}{{ '[INST] ' + "
                 "(system if loop.last else '') + message['content'] + '[/INST]' }}{% else %}"
                 "{{ ' ' + message['content'] | trim + eos_token }}{% endif %}{% endfor %}" },
    { "gemma", "{% if messages and messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] "
               "+ '\\n\\n' %}"
               "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{{ bos_token }}"
               "{% for message in messages %}" ALTERNATE
               "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' "
               "else message['role']) + '\\n' + (system if loop.first else '') + message['content'] | trim + "
               "'<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' "
               "}}{% endif %}" },
    { "phi3", "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + "
              "'<|end|>\\n' }}"
              "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}" },
    { "phi4", "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + "
              "message['content'] + "
              "'<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' "
              "}}{% endif %}" },
    { "zephyr", "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + "
                "eos_token + '\\n' }}"
                "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}" },
    { "deepseek",
      "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] "
      "}}"
      "{% elif message['role'] == 'user' %}{{ '<\xef\xbd\x9cUser\xef\xbd\x9c>' + message['content'] }}{% "
      "else %}"
      "{{ '<\xef\xbd\x9c"
      "Assistant\xef\xbd\x9c>' + message['content'].split('</think>')[-1] + eos_token }}{% endif %}"
      "{% endfor %}{% if add_generation_prompt %}{{ '<\xef\xbd\x9c"
      "Assistant\xef\xbd\x9c>' }}{% endif %}" },
    { "none",
      "{% for message in messages %}{{ '\\n' if not loop.first }}{{ message['content'] }}{% endfor %}" },
};

const char *kv_chat_builtin(const char *name)
{
    for (size_t i = 0; i < sizeof builtin / sizeof builtin[0]; i++)
        if (strcmp(builtin[i].name, name) == 0) return builtin[i].source;
    return NULL;
}

static bool holds(const struct kv_str *s, const char *text)
{
    return memmem(s->data, s->n_bytes, text, strlen(text)) != NULL;
}

const char *kv_chat_format_name(const struct kv_str *s)
{
    static const struct {
        const char *mark, *also, *name;
    } marks[] = {
        { "<|im_start|>", "<|im_sep|>", "phi4" },
        { "<|im_start|>", "", "chatml" },
        { "<|start_header_id|>", "<|eot_id|>", "llama3" },
        { "[INST]", "<<SYS>>", "llama2" },
        { "[INST]", "", "mistral" },
        { "<start_of_turn>", "", "gemma" },
        { "<\xef\xbd\x9cUser\xef\xbd\x9c>", "", "deepseek" },
        { "<|assistant|>", "<|end|>", "phi3" },
        { "<|assistant|>", "", "zephyr" },
    };
    if (!s) return "none";
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (holds(s, marks[i].mark) && holds(s, marks[i].also)) return marks[i].name;
    return "jinja";
}

/* ------------------------------------------------------------------------------------------- templates -- */

kvant_status kv_chat_open(struct kvant_template **out, const struct kv_tokenizer *t, const char *source,
                          size_t n_bytes, struct kvant_error *err)
{
    struct kv_jinja *jinja;
    *out = NULL;
    KV_TRY(kv_jinja_open(&jinja, source, n_bytes, err));
    struct kvant_template *chat = kv_alloc(1, sizeof *chat);
    if (chat) chat->source = kv_strndup(source, n_bytes);
    if (!chat || !chat->source) {
        kv_free(chat);
        kv_jinja_close(jinja);
        KV_FAIL(err, KVANT_ERR_MEMORY, -1, "chat template: no memory");
    }
    chat->jinja = jinja;
    chat->tokenizer = t;
    *out = chat;
    return KVANT_OK;
}

void kvant_template_close(struct kvant_template *chat)
{
    if (!chat) return;
    kv_jinja_close(chat->jinja);
    kv_free(chat->source);
    kv_free(chat);
}

const char *kvant_template_source(const struct kvant_template *chat)
{
    return chat->source;
}

bool kvant_template_uses(const struct kvant_template *chat, const char *variable)
{
    return kv_jinja_mentions(chat->jinja, variable);
}

/* ------------------------------------------------------------------------------------------- rendering -- */

static bool allows(const void *user, const char *text, size_t n_bytes, const char **why, size_t *n_why)
{
    const struct kv_tokenizer *t = user;
    kvant_token id = kv_tokenizer_find_control(t, text, n_bytes);
    if (id < 0) return true;
    struct kv_str token = kv_tokenizer_text(t, id);
    *why = token.data;
    *n_why = token.n_bytes;
    return false;
}

static kvant_status render(const struct kvant_template *chat, struct kv_jinja_call *call, char *text,
                           size_t cap, size_t *n_out, struct kvant_error *err)
{
    const struct kv_tokenizer *t = chat->tokenizer;
    struct kv_jinja_text texts[2] = { { "bos_token", "", 0 }, { "eos_token", "", 0 } };
    kvant_token ids[2] = { t ? kv_tokenizer_bos(t) : -1, t ? kv_tokenizer_eos(t) : -1 };
    for (int i = 0; i < 2; i++) {
        if (ids[i] < 0) continue;
        struct kv_str token = kv_tokenizer_text(t, ids[i]);
        texts[i].text = token.data;
        texts[i].n_bytes = token.n_bytes;
    }
    call->texts = texts;
    call->n_texts = 2;
    call->allows = t ? allows : NULL;
    call->user = t;
    char *rendered;
    *n_out = 0;
    KV_TRY(kv_jinja_render(chat->jinja, call, &rendered, n_out, err));
    if (!text) cap = 0;
    if (cap) memcpy(text, rendered, *n_out < cap ? *n_out + 1 : cap);
    kv_free(rendered);
    if (*n_out > cap) KV_FAIL(err, KVANT_ERR_SPACE, -1, "room for %zu bytes, %zu needed", cap, *n_out);
    return KVANT_OK;
}

static kvant_status check_message(const struct kv_tokenizer *t, const struct kvant_message *message, size_t i,
                                  struct kvant_error *err)
{
    const char *why;
    size_t n_why;
    if (!message->role || !message->content)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "message %zu: role and content must not be NULL", i);
    if (strcmp(message->role, "system") != 0 && strcmp(message->role, "user") != 0 &&
        strcmp(message->role, "assistant") != 0)
        KV_FAIL(err, KVANT_ERR_ARGUMENT, -1, "message %zu: role \"%.32s\": use system, user or assistant", i,
                message->role);
    if (!t || allows(t, message->content, strlen(message->content), &why, &n_why)) return KVANT_OK;
    KV_FAIL(err, KVANT_ERR_ARGUMENT, -1,
            "message %zu: holds the control token \"%.*s\": take it out of the content", i,
            (int)(n_why < 64 ? n_why : 64), why);
}

kvant_status kvant_template_chat(const struct kvant_template *chat, const struct kvant_message *messages,
                            size_t n_messages, bool add_assistant, char *text, size_t cap, size_t *n_out,
                            struct kvant_error *err)
{
    *n_out = 0;
    for (size_t i = 0; i < n_messages; i++) KV_TRY(check_message(chat->tokenizer, &messages[i], i, err));
    struct kv_jinja_call call = { .messages = messages,
                                  .n_messages = n_messages,
                                  .add_generation_prompt = add_assistant };
    return render(chat, &call, text, cap, n_out, err);
}

kvant_status kvant_template_render(const struct kvant_template *chat, const char *json, size_t n_bytes,
                                   char *text, size_t cap, size_t *n_out, struct kvant_error *err)
{
    struct kv_jinja_call call = { .json = json, .n_bytes = n_bytes };
    return render(chat, &call, text, cap, n_out, err);
}
